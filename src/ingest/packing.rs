//! The last two stages of writing packs: sealers and the storer.
//!
//! Frames go in through the [`Sink`]. The sealers end when it is gone; the storer ends when they are gone, too.

use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, bounded, unbounded};
use parking_lot::Mutex;

use crate::chunk::codec::{Compression, Encoder};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::others::Others;
use crate::ingest::shutdown::StageShutdown;
use crate::ingest::sink::{self, Indexed, Sink, Stored, stopped};
use crate::model::SnapshotId;
use crate::repo::Repository;
use crate::repo::pack::DeltaTrials;
use crate::repo::tree::TreeReader;
use crate::sys::process;

/// How packs are made.
pub(crate) struct PackingPlan<'a> {
    /// Where they go.
    pub(crate) repo: &'a Repository,
    /// Whose they are.
    pub(crate) session: SnapshotId,
    /// How frames are compressed.
    pub(crate) compression: Compression,
    /// Bytes after which a pack is closed.
    pub(crate) pack_size: u64,
    /// Chunks after which a segment is written.
    pub(crate) segment_chunks: usize,
    /// What was learned of differences.
    pub(crate) trials: &'a DeltaTrials,
    /// Reads what frames may be differences from.
    pub(crate) old: Option<Arc<TreeReader>>,
    /// What is known of other writers.
    pub(crate) others: &'a Mutex<Others>,
    /// Begins when one of the threads fails.
    pub(crate) shutdown: Option<&'a StageShutdown<'a>>,
}

/// Sealers and the storer at work.
pub(crate) struct Packing<'scope> {
    sealers: Vec<ScopedJoinHandle<'scope, Result<()>>>,
    storer: ScopedJoinHandle<'scope, Result<Stored>>,
}

impl<'scope> Packing<'scope> {
    /// Starts a sealer for each core, and the storer. Gives what takes frames, and what tells of segments.
    pub(crate) fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        plan: &PackingPlan<'env>,
    ) -> (Sink<'env>, Receiver<Indexed>, Packing<'scope>) {
        let &PackingPlan { repo, session, compression, pack_size, segment_chunks, trials, others, shutdown, .. } = plan;
        // Frames that wait for a core, and packs that wait for the disk: few, since each holds memory.
        let (jobs_in, jobs) = bounded(process::cores() + 1);
        let (complete_in, complete) = bounded(0);
        let (indexed_in, indexed) = unbounded();
        let sealer = |_| {
            let (jobs, complete, old) = (jobs.clone(), complete_in.clone(), plan.old.clone());
            scope.spawn(move || {
                guarded(shutdown, || {
                    let old = old.as_ref().map(|trees| &**trees.chunks());
                    sink::seal_frames(repo, Encoder::new(compression)?, trials, old, &jobs, &complete)
                })
            })
        };
        let sealers = (0..process::cores()).map(sealer).collect();
        let store = move || sink::store_packs(repo, complete, &indexed_in, segment_chunks, others);
        let storer = scope.spawn(move || guarded(shutdown, store));
        (Sink::new(repo, session, jobs_in, complete_in, pack_size), indexed, Packing { sealers, storer })
    }

    /// Waits for the end of all of them.
    pub(crate) fn join(self) -> (Vec<Result<()>>, Result<Stored>) {
        (self.sealers.into_iter().map(join).collect(), join(self.storer))
    }
}

fn guarded<T>(shutdown: Option<&StageShutdown<'_>>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match shutdown {
        Some(shutdown) => shutdown.guard(work),
        None => work(),
    }
}

/// The result of a thread.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::panicked()))
}

/// Of several errors the one to report: the first that does not only follow from another.
pub(crate) fn first_real(errors: impl IntoIterator<Item = Error>) -> Error {
    let mut errors: Vec<Error> = errors.into_iter().collect();
    let at = errors.iter().position(|e| e.kind() != ErrorKind::Interrupted).unwrap_or(0);
    if errors.is_empty() { stopped() } else { errors.swap_remove(at) }
}
