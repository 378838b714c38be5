//! Storing chunks again, in a session of its own that commits nothing, or a snapshot that was written anew.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::chunk::codec::Compression;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::OnlyChunks;
use crate::ingest::chunks::FrameBuilder;
use crate::ingest::follow::Follow;
use crate::ingest::others::Others;
use crate::ingest::packing::{Packing, PackingPlan, first_real};
use crate::ingest::sink::Stored;
use crate::model::{Snapshot, SnapshotId};
use crate::repo::beat::{self, Beats};
use crate::repo::index::Index;
use crate::repo::pack::DeltaTrials;
use crate::repo::{Repository, chain, session, snapshots};
use crate::task::Task;

/// A pack is closed from this on.
const PACK_SIZE: u64 = 16 << 20;
/// A segment is written for so many chunks at the latest, as by an ingest.
const SEGMENT_CHUNKS: usize = 200_000;

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
        let id = session::begin(self.repo, self.task.now())?;
        let beats = Beats::start(self.repo, id, beat::PERIOD);
        let stored = self.in_session(id, work);
        drop(beats);
        let fenced = session::is_fenced(self.repo, id);
        // The storage may be what failed; then the session stays, and prune settles it.
        let abandoned = session::abandon(self.repo, id, self.task.now());
        let (out, _) = stored?;
        abandoned?;
        if fenced { Err(pruned()) } else { Ok(out) }
    }

    /// The same, and commits the snapshot that it makes.
    pub(super) fn commit(&self, work: impl FnOnce(FrameBuilder<'_>) -> Result<Snapshot>) -> Result<Snapshot> {
        let id = session::begin(self.repo, self.task.now())?;
        let beats = Beats::start(self.repo, id, beat::PERIOD);
        let committed = self.in_session(id, work).and_then(|(snapshot, barrier)| self.commit_as(id, snapshot, barrier));
        drop(beats);
        match committed {
            Ok(Some(snapshot)) => {
                session::end(self.repo, id)?;
                Ok(snapshot)
            }
            Ok(None) => {
                session::end(self.repo, id)?;
                Err(pruned())
            }
            Err(e) => {
                let _ = session::abandon(self.repo, id, self.task.now());
                Err(e)
            }
        }
    }

    fn commit_as(&self, id: SnapshotId, mut snapshot: Snapshot, barrier: bool) -> Result<Option<Snapshot>> {
        if barrier {
            self.repo.storage().sync_everything()?;
        }
        if session::has_ended(self.repo, id)? {
            session::fence(self.repo, id, self.task.now())?;
            return Ok(None);
        }
        snapshot.id = id;
        snapshot.chain = chain::next(self.repo, &[])?;
        Ok(snapshots::commit(self.repo, &snapshot)?.then_some(snapshot))
    }

    /// Everything between the session's begin and its end; also answers whether others may have stored what was counted on.
    fn in_session<T>(&self, id: SnapshotId, work: impl FnOnce(FrameBuilder<'_>) -> Result<T>) -> Result<(T, bool)> {
        let index = Arc::new(Index::load_for_writing(self.repo)?);
        let others = session::others(self.repo, id)?;
        let beside = Mutex::new(Others::new(id, index.clone(), others, Arc::default()));
        let plan = &PackingPlan {
            repo: self.repo,
            session: id,
            compression: Compression::Auto,
            pack_size: PACK_SIZE,
            segment_chunks: SEGMENT_CHUNKS,
            trials: &DeltaTrials::default(),
            old: None,
            others: &beside,
            shutdown: None,
        };
        let (out, stored) = thread::scope(|scope| {
            let (sink, indexed, packing) = Packing::start(scope, plan);
            let follow = Follow::new(self.repo, &beside, &self.task.stop, Duration::ZERO);
            let chunks = FrameBuilder::new(self.repo.keys(), &index, None, Some(sink), indexed, follow);
            let worked = work(chunks.only(self.only.clone()));
            let (sealers, stored): (_, Result<Stored>) = packing.join();
            // An error that only follows from another stage's error is not reported.
            match (worked, stored, sealers.into_iter().collect::<Result<()>>()) {
                (Ok(out), Ok(stored), Ok(())) => Ok((out, stored)),
                (worked, stored, sealed) => Err(first_real([worked.err(), stored.err(), sealed.err()].into_iter().flatten())),
            }
        })?;
        Ok((out, others || stored.counted_on_others))
    }
}

fn pruned() -> Error {
    let text = "a prune came in between, and may have deleted what was stored again: nothing is worse than before; run it again";
    Error::new(ErrorKind::Busy, text)
}
