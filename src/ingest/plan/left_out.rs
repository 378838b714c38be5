//! What of a directory does not get into the snapshot.

use crate::error::Result;
use crate::ingest::level::WalkLevel;
use crate::ingest::plan::{Begun, Planner, WalkStep, metadata, record};
use crate::model::{Directory, Kind, LeftOut, Node};
use crate::sys::{Dir, Stat, xattr};

/// Repositories below the given paths that are named one by one.
const MOST_REPOSITORIES: usize = 1024;

impl Planner<'_> {
    /// A directory whose entries cannot be read: stored as what can be known of it.
    pub(super) fn unread(&mut self, dir: &Dir, name: &[u8], stat: &Stat) -> Result<()> {
        let mut left_out = LeftOut::UNREAD;
        let xattrs = self.attributes(xattr::find_at(dir, name), &mut left_out);
        let node = Node {
            name: name.to_vec(),
            meta: metadata(stat),
            kind: Kind::Directory(Directory::default()),
            link: None,
            given: true,
            changed: false,
            left_out: LeftOut::default(),
        };
        self.walked.statistics.directories += 1;
        self.owners(&node);
        self.step(WalkStep::Enter(Box::new(Begun { node, xattrs, record: record(stat), before: None, doubtful: false }), None))?;
        self.step(WalkStep::Leave(left_out))
    }

    /// The entry at the current path is a repository, which the directory on top of the stack is stored without.
    pub(super) fn leave_out_repository(&mut self, stack: &mut [WalkLevel<'_>]) {
        leave_out(stack, LeftOut::EXCLUDED);
        match &mut self.walked.repositories {
            Some(paths) if paths.len() < MOST_REPOSITORIES => paths.push(self.path.clone()),
            paths => *paths = None,
        }
    }
}

/// Notes what is left out of the directory on top of the stack.
pub(super) fn leave_out(stack: &mut [WalkLevel<'_>], what: LeftOut) {
    if let Some(level) = stack.last_mut() {
        level.left_out.add(what);
    }
}
