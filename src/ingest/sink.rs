//! From frames to packs to segments: numbering, compressing on all cores, storing.
//!
//! A frame gets its pack and its number before it is compressed, so that a worker can compress, seal and check it in
//! one go, with everything in its cache; packs are put together in order when their last frame is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, MutexGuard};

use crate::chunk::codec::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::ingest::others::{Ahead, Others};
use crate::model::{ChunkKey, SegmentId, SnapshotId};
use crate::repo::Repository;
use crate::repo::index::paged::PagedSegment;
use crate::repo::index::segment::Segment;
use crate::repo::index::{Index, merge};
use crate::repo::pack::{self, DeltaTrials, Deltas, FrameSealer, PackKey, PlainFrame, SealedFrame, StoredPack};
use crate::repo::reader::ChunkReader;

/// Packs that are written between two segments of a running ingest: what a killed one loses is found again up to here.
const PACKS_A_SEGMENT: usize = 16;

/// A pack under construction.
#[derive(Debug)]
pub struct PackBuild {
    key: PackKey,
    /// Sealed bytes so far, of frames in any order.
    stored: AtomicU64,
    state: Mutex<BuildState>,
}

#[derive(Debug, Default)]
struct BuildState {
    frames: Vec<Option<SealedFrame>>,
    done: usize,
    /// How many frames there will be; known when the pack is closed.
    total: Option<usize>,
}

impl PackBuild {
    fn state(&self) -> MutexGuard<'_, BuildState> {
        self.state.lock()
    }

    /// Changes the state; answers whether this change made the pack complete.
    fn completes(&self, change: impl FnOnce(&mut BuildState)) -> bool {
        let mut state = self.state();
        change(&mut state);
        state.total == Some(state.done)
    }
}

/// A frame to be sealed.
#[derive(Debug)]
pub struct SealJob {
    build: Arc<PackBuild>,
    number: u32,
    frame: PlainFrame,
}

/// Takes frames in order and gives them to the workers. One for each ingest; used by one thread.
#[derive(Debug)]
pub struct Sink<'a> {
    repo: &'a Repository,
    session: SnapshotId,
    jobs: Sender<SealJob>,
    complete: Sender<Arc<PackBuild>>,
    pack_size: u64,
    /// The open pack of each kind, with the frames it was given.
    open: [Option<(Arc<PackBuild>, usize)>; 2],
}

impl<'a> Sink<'a> {
    /// A sink for `session` that feeds sealers and storer through these channels.
    pub fn new(
        repo: &'a Repository,
        session: SnapshotId,
        jobs: Sender<SealJob>,
        complete: Sender<Arc<PackBuild>>,
        pack_size: u64,
    ) -> Self {
        Sink { repo, session, jobs, complete, pack_size, open: [None, None] }
    }

    /// Gives a frame away.
    pub fn submit(&mut self, kind: PackKind, frame: PlainFrame) -> Result<()> {
        let place = &mut self.open[kind as usize - 1];
        let (build, number) = match place {
            Some((build, frames)) => {
                *frames += 1;
                (build.clone(), *frames - 1)
            }
            None => {
                let key = PackKey::generate(self.repo, kind, self.session)?;
                let build = Arc::new(PackBuild { key, stored: AtomicU64::new(0), state: Mutex::default() });
                *place = Some((build.clone(), 1));
                (build, 0)
            }
        };
        let full = build.stored.load(Ordering::Relaxed) >= self.pack_size;
        self.jobs.send(SealJob { build, number: number as u32, frame }).map_err(|_| stopped())?;
        if full {
            self.close(kind)?;
        }
        Ok(())
    }

    fn close(&mut self, kind: PackKind) -> Result<()> {
        if let Some((build, frames)) = self.open[kind as usize - 1].take()
            && build.completes(|state| state.total = Some(frames))
        {
            self.complete.send(build).map_err(|_| stopped())?;
        }
        Ok(())
    }

    /// Closes both packs; the workers end when they are done with them.
    pub fn finish(mut self) -> Result<()> {
        self.close(PackKind::Data)?;
        self.close(PackKind::Tree)
    }
}

/// The error of a stage whose neighbour ended first; the neighbour's own error is the one that is reported.
pub fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the ingest stopped")
}

/// Seals frames until there are none left: the body of a thread. `old` reads what frames may be differences from.
pub fn seal_frames(
    repo: &Repository,
    encoder: Encoder,
    trials: &DeltaTrials,
    old: Option<&ChunkReader>,
    jobs: &Receiver<SealJob>,
    complete: &Sender<Arc<PackBuild>>,
) -> Result<()> {
    let mut sealer = FrameSealer::new(encoder)?;
    let fetch = |kind: PackKind, bases: &[ChunkKey], out: &mut Vec<u8>| match old {
        Some(reader) => reader.bases(kind, bases, out),
        None => Err(stopped()),
    };
    let deltas = Deltas { trials, fetch: &fetch };
    for SealJob { build, number, frame } in jobs {
        let sealed = sealer.seal(repo.keys(), &build.key, number, &frame, old.map(|_| &deltas))?;
        build.stored.fetch_add(sealed.bytes.len() as u64, Ordering::Relaxed);
        let completed = build.completes(|state| {
            let at = number as usize;
            if state.frames.len() <= at {
                state.frames.resize_with(at + 1, || None);
            }
            state.frames[at] = Some(sealed);
            state.done += 1;
        });
        if completed {
            complete.send(build).map_err(|_| stopped())?;
        }
    }
    Ok(())
}

/// What was stored.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stored {
    /// Data packs.
    pub data_packs: u64,
    /// Tree packs.
    pub tree_packs: u64,
    /// Bytes of packs and segments.
    pub bytes: u64,
    /// Whether something was counted on that others stored meanwhile.
    pub counted_on_others: bool,
}

/// What is in the index from now on: the session's segments, in the place of those before, and the keys that are new in
/// them, which nobody needs to remember any more.
#[derive(Debug)]
pub struct Indexed {
    /// All segments of the session.
    pub segments: Vec<Arc<PagedSegment>>,
    /// Keys of the last one.
    pub keys: Vec<ChunkKey>,
    /// The whole index as it is now, when other writers have added to it.
    pub fresh: Option<Arc<Index>>,
    /// Who stores the same at the same time, and is to go ahead.
    pub ahead: Option<Ahead>,
}

/// Stores complete packs until there are none left, with a segment now and then and one at the end. When this
/// returns, all of them are durable and indexed. Every segment but the last is told to `indexed`, and so is what `others`
/// have indexed meanwhile.
pub fn store_packs(
    repo: &Repository,
    complete: Receiver<Arc<PackBuild>>,
    indexed: &Sender<Indexed>,
    segment_chunks: usize,
    others: &Mutex<Others>,
) -> Result<Stored> {
    let storer = Storer { repo, stored: Stored::default(), waiting: Vec::new(), chunks: 0, own: Vec::new(), others };
    let at_once = repo.storage().costs().creates_at_once;
    if at_once <= 1 {
        let stored = complete.iter().map(|build| move || store_pack(repo, &build));
        return storer.run(stored, indexed, segment_chunks);
    }
    thread::scope(|scope| {
        let (out, stored) = crossbeam_channel::bounded(at_once);
        for _ in 0..at_once {
            let (complete, out) = (complete.clone(), out.clone());
            scope.spawn(move || {
                for build in complete {
                    let result = store_pack(repo, &build);
                    let failed = result.is_err();
                    // Nobody listens after the first error. Sealers notice when the last of these threads has ended.
                    if out.send(result).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop((complete, out));
        storer.run(stored.into_iter().map(|result| move || result), indexed, segment_chunks)
    })
}

fn store_pack(repo: &Repository, build: &PackBuild) -> Result<StoredPack> {
    let frames = std::mem::take(&mut build.state().frames);
    let frames: Option<Vec<SealedFrame>> = frames.into_iter().collect();
    let frames = frames.ok_or_else(|| Error::corrupt("a pack lacks a frame that it was given"))?;
    pack::store(repo, &build.key, frames)
}

struct Storer<'a> {
    repo: &'a Repository,
    stored: Stored,
    waiting: Vec<StoredPack>,
    /// Chunks of the packs that wait for a segment.
    chunks: usize,
    own: Vec<Arc<PagedSegment>>,
    others: &'a Mutex<Others>,
}

impl Storer<'_> {
    /// Takes what gives stored packs, one after the other, to its end.
    fn run<S>(mut self, packs: impl Iterator<Item = S>, indexed: &Sender<Indexed>, segment_chunks: usize) -> Result<Stored>
    where
        S: FnOnce() -> Result<StoredPack>,
    {
        for pack in packs {
            let beside = {
                let mut others = self.others.lock();
                others.is_time() && others.look(self.repo)?
            };
            if self.waiting.len() >= if beside { 1 } else { PACKS_A_SEGMENT } || self.chunks >= segment_chunks {
                // Nobody listens any more when the ingest is at its end.
                let _ = indexed.send(self.index()?);
            }
            let (fresh, ahead) = {
                let mut others = self.others.lock();
                (others.fresh.take(), others.ahead.take())
            };
            if fresh.is_some() || ahead.is_some() {
                let _ = indexed.send(Indexed { segments: self.own.clone(), keys: Vec::new(), fresh, ahead });
            }
            self.add(pack()?);
        }
        self.write_segment()?;
        self.stored.counted_on_others = self.others.lock().counted_on;
        Ok(self.stored)
    }

    fn add(&mut self, stored: StoredPack) {
        match stored.kind {
            PackKind::Data => self.stored.data_packs += 1,
            PackKind::Tree => self.stored.tree_packs += 1,
        }
        self.stored.bytes += stored.size;
        self.others.lock().stored(&stored);
        self.chunks += stored.entries.iter().map(|entry| entry.chunks.len()).sum::<usize>();
        self.waiting.push(stored);
    }

    /// Packs first, then the segment that names them: an index never points at what may not be there after a crash.
    fn write_segment(&mut self) -> Result<Option<(SegmentId, u64)>> {
        if self.waiting.is_empty() {
            return Ok(None);
        }
        self.repo.storage().sync()?;
        let written = Segment::of_packs(&self.waiting).store(self.repo, Vec::new())?;
        self.repo.storage().sync()?;
        self.stored.bytes += written.1;
        self.others.lock().own.insert(written.0);
        self.chunks = 0;
        Ok(Some(written))
    }

    /// Writes a segment and opens it for look-ups; merges the session's own when there are many.
    fn index(&mut self) -> Result<Indexed> {
        if let Some((id, size)) = self.write_segment()? {
            self.own.push(Arc::new(PagedSegment::open(self.repo, id, size)?));
        }
        let counts = |own: &[Arc<PagedSegment>]| own.iter().map(|s| s.entries()).collect::<Vec<u64>>();
        while let Some(which) = merge::due(&counts(&self.own)) {
            let parts: Vec<Arc<PagedSegment>> = which.iter().map(|at| self.own[*at].clone()).collect();
            let replaced: Vec<SegmentId> = parts.iter().flat_map(|part| part.replaces().iter().copied()).collect();
            let Some((id, size)) = merge::merge(self.repo, &parts, &replaced, &|_| true)? else { break };
            self.repo.storage().sync()?;
            self.stored.bytes += size;
            self.others.lock().own.insert(id);
            self.own.retain(|segment| !parts.iter().any(|part| part.id() == segment.id()));
            self.own.push(Arc::new(PagedSegment::open(self.repo, id, size)?));
        }
        let packs = std::mem::take(&mut self.waiting);
        let keys = packs.iter().flat_map(|pack| &pack.entries).flat_map(|entry| entry.chunks.iter().map(|(key, _)| *key));
        Ok(Indexed { segments: self.own.clone(), keys: keys.collect(), fresh: None, ahead: None })
    }
}
