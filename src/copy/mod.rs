//! Copying snapshots from one repository to another, and making them anew in one.
//!
//! Two repositories have different keys, so the same content has different names in them. A copy reads the trees of the
//! source, gives what the target lacks to the ingest's own pipeline, and builds the trees anew with the target's names.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::ingest::others::Others;
use crate::ingest::sink::Stored;
use crate::model::{Origin, Snapshot, SnapshotId};
use crate::repo::index::Index;
use crate::repo::tree::TreeReader;
use crate::repo::{Repository, session, snapshots};
use crate::task::Task;

pub mod edit;
pub(crate) mod packing;
mod rebuild;
pub mod untie;

pub(crate) use rebuild::{CopiedIds, Rebuilder};

/// What a copy of one snapshot did.
#[derive(Debug, Clone)]
pub struct Copied {
    /// The snapshot in the target.
    pub snapshot: Snapshot,
    /// Plain bytes of content that the target lacked.
    pub bytes_new: u64,
    /// Bytes of packs and segments.
    pub bytes_stored: u64,
}

/// Where this snapshot was taken at first.
pub fn origin(repository: &Repository, snapshot: &Snapshot) -> Origin {
    let here = Origin { repository: repository.id(), snapshot: snapshot.id };
    snapshot.composition.origin.unwrap_or(here)
}

/// The origins of everything that is in `target`, its own snapshots included: these need not be copied.
pub fn present(target: &Repository) -> Result<HashSet<Origin>> {
    Ok(snapshots::list(target)?.iter().map(|snapshot| origin(target, snapshot)).collect())
}

/// Copies between two repositories, one snapshot after the other. What was copied once is remembered for the next one.
pub struct Copier<'a> {
    source: &'a Repository,
    trees: &'a TreeReader,
    target: &'a Arc<Repository>,
    task: &'a Task<'a>,
    memory: CopiedIds,
}

impl<'a> Copier<'a> {
    /// Copies from `source`, whose trees are read by `trees`, to `target`.
    pub fn new(source: &'a Repository, trees: &'a TreeReader, target: &'a Arc<Repository>, task: &'a Task<'a>) -> Self {
        Copier { source, trees, target, task, memory: CopiedIds::default() }
    }

    /// Copies one snapshot. What was stored of a copy that fails is found by the next one.
    pub fn copy(&mut self, snapshot: &Snapshot) -> Result<Copied> {
        let mut again = false;
        packing::in_session(self.target, self.task, &mut |id| {
            if std::mem::replace(&mut again, true) {
                // Somebody pruned: nothing that is remembered need be there still.
                self.memory = CopiedIds::default();
            }
            self.in_session(id, snapshot)
        })
    }

    /// Everything between the session's begin and its end; `None` when it was fenced.
    fn in_session(&mut self, id: SnapshotId, snapshot: &Snapshot) -> Result<Option<Copied>> {
        let index = Arc::new(Index::load_for_writing(self.target)?);
        // What an earlier session of this copy stored may be marked for deletion by now: it counts only if this index has it.
        self.memory.forget_what_is_not_in(&index)?;
        let others = session::others(self.target, id)?;
        let beside = Mutex::new(Others::new(id, index.clone(), others, Arc::default()));
        let (mut copy, bytes_new, stored) = self.pipeline(id, &index, &beside, snapshot)?;
        copy.id = id;
        copy.parent = None;
        copy.composition.origin = Some(origin(self.source, snapshot));
        let bytes_stored = stored.bytes;
        let committed = packing::commit(self.target, copy, others || stored.counted_on_others, self.task)?;
        Ok(committed.map(|snapshot| Copied { snapshot, bytes_new, bytes_stored }))
    }

    /// Rebuilds the trees on this thread, with sealers and the storer beside it.
    fn pipeline(
        &mut self,
        session: SnapshotId,
        index: &Arc<Index>,
        others: &Mutex<Others>,
        snapshot: &Snapshot,
    ) -> Result<(Snapshot, u64, Stored)> {
        let (trees, memory, task) = (self.trees, &mut self.memory, self.task);
        let keys = self.target.keys();
        let (rebuilt, stored) = packing::packed(self.target, session, (index, others), &task.stop, |chunks| {
            Rebuilder::new(keys, trees, chunks, memory, task).run(snapshot)
        })?;
        let (copy, bytes_new) = rebuilt;
        Ok((copy, bytes_new, stored))
    }
}
