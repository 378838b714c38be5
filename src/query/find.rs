//! Where something is: entries of many snapshots, by name and properties.

use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::model::patterns::Patterns;
use crate::model::{Directory, Kind, Node, Snapshot, Timestamp};
use crate::query::sweep::{EntryVersion, SweepVisitor, sweep};
use crate::query::{SnapshotSet, content};
use crate::repo::tree::TreeReader;
use crate::task::Task;

/// What is looked for: all of it must hold.
#[derive(Debug, Default)]
pub struct Query {
    /// Patterns of paths; none: all paths.
    pub patterns: Patterns,
    /// Expressions, one of which must match the path; none: all paths.
    pub expressions: Vec<regex::bytes::Regex>,
    /// Bytes of a file.
    pub size: Option<RangeInclusive<u64>>,
    /// Time of the last change of the content.
    pub time: Option<RangeInclusive<Timestamp>>,
    /// Letters of kinds: f, d, l, p, s, c, b; none: all.
    pub kinds: Vec<char>,
    /// Owners; none: all.
    pub owners: Option<Vec<u32>>,
    /// The beginning of a content's name, in hexadecimal digits.
    pub content: Option<String>,
}

/// The letter of a kind.
pub fn letter(kind: &Kind) -> char {
    match kind {
        Kind::File(_) => 'f',
        Kind::Directory(_) => 'd',
        Kind::Symlink(_) => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice(..) => 'c',
        Kind::BlockDevice(..) => 'b',
    }
}

impl Query {
    fn path(&self, path: &[u8]) -> bool {
        (self.patterns.is_empty() || self.patterns.find(path).is_some())
            && (self.expressions.is_empty() || self.expressions.iter().any(|expression| expression.is_match(path)))
    }

    fn node(&self, trees: &TreeReader, node: &Node) -> bool {
        let file = if let Kind::File(content) = &node.kind { Some(content) } else { None };
        let size = self.size.as_ref().is_none_or(|size| file.is_some_and(|content| size.contains(&content.size())));
        let time = self.time.as_ref().is_none_or(|time| time.contains(&node.meta.mtime));
        let kind = self.kinds.is_empty() || self.kinds.contains(&letter(&node.kind));
        let owner = self.owners.as_ref().is_none_or(|owners| owners.contains(&node.meta.uid));
        let wanted = self.content.as_ref();
        size && time
            && kind
            && owner
            && wanted.is_none_or(|id| file.is_some_and(|found| content::id(trees, found).to_string().starts_with(id)))
    }
}

/// Where it reports.
pub trait FindReceiver {
    /// An entry that was looked for: its path, its states that match, and all snapshots in which there is something at
    /// this path.
    fn hit(&mut self, path: &[u8], versions: Vec<EntryVersion>, all: &SnapshotSet) -> Result<()>;

    /// Something could not be read: the rest goes on.
    fn failed(&mut self, error: Error);
}

/// Looks through `snapshots`, whose numbers are their places in the list. Hits come as they are found.
pub fn find(
    trees: &TreeReader,
    snapshots: &[Snapshot],
    query: &Query,
    task: &Task<'_>,
    told: &mut dyn FindReceiver,
) -> Result<()> {
    let mut roots: Vec<(Directory, SnapshotSet)> = Vec::new();
    for (at, snapshot) in snapshots.iter().enumerate() {
        let Some(directory) = snapshot.root.directory() else { continue };
        match roots.iter_mut().find(|(known, _)| known == directory) {
            Some((_, set)) => set.add(&SnapshotSet::one(at)),
            None => roots.push((*directory, SnapshotSet::one(at))),
        }
    }
    sweep(trees, b"", roots, None, task, &mut Finding { trees, query, told })
}

struct Finding<'a> {
    trees: &'a TreeReader,
    query: &'a Query,
    told: &'a mut dyn FindReceiver,
}

impl SweepVisitor for Finding<'_> {
    fn entry(&mut self, path: &[u8], versions: &[EntryVersion]) -> Result<bool> {
        if !self.query.path(path) {
            return Ok(true);
        }
        let mut found: Vec<EntryVersion> = Vec::new();
        let mut all = SnapshotSet::default();
        for version in versions {
            all.add(&version.set);
            if !self.query.node(self.trees, &version.node) {
                continue;
            }
            // A directory changes with all that is in it: it is one.
            let directory = version.node.directory().is_some();
            match found.iter_mut().find(|known| directory && known.node.directory().is_some()) {
                Some(known) => {
                    if version.set.iter().next_back() > known.set.iter().next_back() {
                        known.node = version.node.clone();
                    }
                    known.set.add(&version.set);
                }
                None => found.push(version.clone()),
            }
        }
        if !found.is_empty() {
            found.sort_by_key(|version| version.set.iter().next());
            self.told.hit(path, found, &all)?;
        }
        Ok(true)
    }

    fn failed(&mut self, _path: &[u8], error: Error) -> Result<()> {
        self.told.failed(error);
        Ok(())
    }
}
