//! Storing chunks again, in a session of its own that commits nothing, or a snapshot that was written anew.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::copy::packing;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::OnlyChunks;
use crate::ingest::chunks::FrameBuilder;
use crate::ingest::follow::Follow;
use crate::ingest::others::Others;
use crate::model::{Snapshot, SnapshotId};
use crate::repo::index::Index;
use crate::repo::work::{self, SessionEnd};
use crate::repo::{Repository, session};
use crate::task::Task;

/// Where chunks go.
pub(crate) struct Restock<'a> {
    pub(crate) repo: &'a Arc<Repository>,
    /// Nothing else is stored, if there are any.
    pub(crate) only: Option<Arc<OnlyChunks>>,
    pub(crate) task: &'a Task<'a>,
}

impl Restock<'_> {
    /// Goes through the motions and stores nothing.
    pub(super) fn dry<T>(&self, work: impl FnOnce(FrameBuilder<'_>) -> Result<T>) -> Result<T> {
        let index = Arc::new(Index::load_for_writing(self.repo)?);
        let others = Mutex::new(Others::new(SnapshotId([0; 32]), index.clone(), false, Arc::default()));
        let follow = Follow::new(self.repo, &others, &self.task.stop, Duration::ZERO);
        let (_, indexed) = crossbeam_channel::unbounded();
        work(FrameBuilder::new(self.repo.keys(), &index, None, None, indexed, follow).only(self.only.clone()))
    }

    /// Stores what `work` gives away, and finishes. Durable when this returns.
    pub(super) fn store<T>(&self, work: impl FnOnce(FrameBuilder<'_>) -> Result<T>) -> Result<T> {
        let stored = work::uncommitted(self.repo, &|| self.task.now(), |id| self.in_session(id, work));
        stored?.map(|(out, _)| out).ok_or_else(pruned)
    }

    /// The same, and commits the snapshot that it makes.
    pub(super) fn commit(&self, work: impl FnOnce(FrameBuilder<'_>) -> Result<Snapshot>) -> Result<Snapshot> {
        let committed = work::in_session(self.repo, &|| self.task.now(), |id| {
            let (mut snapshot, barrier) = self.in_session(id, work)?;
            snapshot.id = id;
            let committed = packing::commit(self.repo, snapshot, barrier, self.task)?;
            Ok(committed.map_or(SessionEnd::Fenced, SessionEnd::Committed))
        });
        committed?.ok_or_else(pruned)
    }

    /// Everything between the session's begin and its end; also answers whether others may have stored what was counted on.
    fn in_session<T>(&self, id: SnapshotId, work: impl FnOnce(FrameBuilder<'_>) -> Result<T>) -> Result<(T, bool)> {
        let index = Arc::new(Index::load_for_writing(self.repo)?);
        let others = session::others(self.repo, id)?;
        let beside = Mutex::new(Others::new(id, index.clone(), others, Arc::default()));
        let (out, stored) =
            packing::packed(self.repo, id, (&index, &beside), &self.task.stop, |chunks| work(chunks.only(self.only.clone())))?;
        Ok((out, others || stored.counted_on_others))
    }
}

fn pruned() -> Error {
    let text = "a prune came in between, and may have deleted what was stored again: nothing is worse than before; run it again";
    Error::new(ErrorKind::Busy, text)
}
