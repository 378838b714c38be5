//! What other writers have indexed since this one began: looked for now and then, and counted on from then on.
//!
//! A session protects more than what was there when it began. Prune waits for every session that is older than a list of
//! packs for deletion, or fences it; so a writer may load the index again at any time, in the same order (rule 2).

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Result;
use crate::model::{SegmentId, SnapshotId};
use crate::repo::index::Index;
use crate::repo::{Repository, session};

/// The list of packs is read again when one pack was stored for so many that the index names: it takes a small share of
/// the work, whatever the size of the repository.
const PACKS_A_LOAD: usize = 4096;

/// What a writer knows of others.
#[derive(Debug)]
pub struct Others {
    session: SnapshotId,
    /// The index as it was loaded last.
    index: Arc<Index>,
    /// Segments that this writer has stored.
    pub own: HashSet<SegmentId>,
    /// Packs that were stored since the last look.
    pub packs: usize,
    /// The same since the index was loaded.
    since_loaded: usize,
    /// The index, when it was loaded again and nobody was told.
    pub fresh: Option<Arc<Index>>,
}

impl Others {
    /// Nothing has changed since `index` was loaded for this session.
    pub fn new(session: SnapshotId, index: Arc<Index>) -> Self {
        Others { session, index, own: HashSet::new(), packs: 0, since_loaded: 0, fresh: None }
    }

    /// Looks at what is listed, and loads the index again when somebody else has added to it. True: other writers are at
    /// work.
    pub fn look(&mut self, repo: &Repository) -> Result<bool> {
        self.since_loaded += std::mem::take(&mut self.packs);
        let at_work = session::others(repo, self.session)?;
        let due = self.since_loaded >= self.index.packs().count() / PACKS_A_LOAD;
        if due && self.index.new_segments(repo)?.iter().any(|id| !self.own.contains(id)) {
            let index = Arc::new(self.index.load_again_for_writing(repo)?);
            self.since_loaded = 0;
            self.index = index.clone();
            self.fresh = Some(index);
        }
        Ok(at_work)
    }
}
