//! What copies, edits and repairs of snapshots have in common: a session around the work, and the stages that store packs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use crate::chunk::codec::Compression;
use crate::error::Result;
use crate::ingest::chunks::FrameBuilder;
use crate::ingest::follow::Follow;
use crate::ingest::others::Others;
use crate::ingest::packing::{Packing, PackingPlan, first_real};
use crate::ingest::sink::{Indexed, Sink, Stored};
use crate::model::{Snapshot, SnapshotId};
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::pack::DeltaTrials;
use crate::repo::work::{self, SessionEnd};
use crate::task::Task;

/// Bytes from which on a pack is closed: those of `PACK_TARGET`, as an ingest has by default.
const PACK_SIZE: u64 = 16 << 20;
/// A segment is written for so many chunks at the latest.
const SEGMENT_CHUNKS: usize = 200_000;
/// How often work whose session was fenced begins again.
const FENCED_TRIES: u32 = 3;

/// Does `work` under a session. It answers `None` when the session was fenced, and is then called again for another.
pub(crate) fn in_session<T>(
    repo: &Arc<Repository>,
    task: &Task<'_>,
    work: &mut dyn FnMut(SnapshotId) -> Result<Option<T>>,
) -> Result<T> {
    for _ in 0..FENCED_TRIES {
        let committed = |id| Ok(work(id)?.map_or(SessionEnd::Fenced, SessionEnd::Committed));
        if let Some(done) = work::in_session(repo, &|| task.now(), committed)? {
            return Ok(done);
        }
    }
    Err(work::fenced_too_often())
}

/// Commits a snapshot under its id, which is that of the session; `None` when that was fenced. `barrier`: what it needs
/// may have been stored by somebody else who still works.
pub(crate) fn commit(repo: &Repository, mut snapshot: Snapshot, barrier: bool, task: &Task<'_>) -> Result<Option<Snapshot>> {
    Ok(work::commit(repo, &mut snapshot, (barrier, &[]), &|| task.now())?.then_some(snapshot))
}

/// Does `work` on this thread, with sealers and the storer of its chunks beside it.
pub(crate) fn packed<T>(
    repo: &Repository,
    session: SnapshotId,
    (index, others): (&Index, &Mutex<Others>),
    stop: &AtomicBool,
    work: impl FnOnce(FrameBuilder<'_>) -> Result<T>,
) -> Result<(T, Stored)> {
    packed_frames(repo, session, others, |sink, indexed| {
        let follow = Follow::new(repo, others, stop, Duration::ZERO);
        work(FrameBuilder::new(repo.keys(), index, None, Some(sink), indexed, follow))
    })
}

/// The same, for work that puts frames together by itself.
pub(crate) fn packed_frames<T>(
    repo: &Repository,
    session: SnapshotId,
    others: &Mutex<Others>,
    work: impl FnOnce(Sink<'_>, Receiver<Indexed>) -> Result<T>,
) -> Result<(T, Stored)> {
    let plan = &PackingPlan {
        repo,
        session,
        compression: Compression::Auto,
        pack_size: PACK_SIZE,
        segment_chunks: SEGMENT_CHUNKS,
        trials: &DeltaTrials::default(),
        old: None,
        others,
        shutdown: None,
    };
    thread::scope(|scope| {
        let (sink, indexed, packing) = Packing::start(scope, plan);
        let worked = work(sink, indexed);
        let (sealers, stored) = packing.join();
        // The echo of another stage's error says nothing.
        match (worked, stored, sealers.into_iter().collect::<Result<()>>()) {
            (Ok(done), Ok(stored), Ok(())) => Ok((done, stored)),
            (worked, stored, sealed) => Err(first_real([worked.err(), stored.err(), sealed.err()].into_iter().flatten())),
        }
    })
}
