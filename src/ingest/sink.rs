//! From frames to packs to segments: numbering, compressing on all cores, storing.
//!
//! A frame gets its pack and its number before it is compressed, so that a worker can compress, seal and check it in
//! one go, with everything in its cache; packs are put together in order when their last frame is there.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::chunk::codec::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::ingest::others::{Ahead, Others};
use crate::model::{ChunkKey, SegmentId, SnapshotId};
use crate::repo::Repository;
use crate::repo::index::paged::PagedSegment;
use crate::repo::index::{Index, merge};
use crate::repo::pack::writer::{OpenPacks, PACKS_A_SEGMENT, PackBuild, PackIndexer};
use crate::repo::pack::{DeltaTrials, Deltas, FrameSealer, PlainFrame, StoredPack};
use crate::repo::reader::ChunkReader;

/// A frame to be sealed.
#[derive(Debug)]
pub(crate) struct SealJob {
    build: Arc<PackBuild>,
    number: u32,
    frame: PlainFrame,
}

/// Takes frames in order and gives them to the workers. One for each ingest; used by one thread.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    open: OpenPacks<'a>,
    jobs: Sender<SealJob>,
    complete: Sender<Arc<PackBuild>>,
    pack_size: u64,
}

impl<'a> Sink<'a> {
    /// A sink for `session` that feeds sealers and storer through these channels.
    pub(crate) fn new(
        repo: &'a Repository,
        session: SnapshotId,
        jobs: Sender<SealJob>,
        complete: Sender<Arc<PackBuild>>,
        pack_size: u64,
    ) -> Self {
        Sink { open: OpenPacks::new(repo, session), jobs, complete, pack_size }
    }

    /// Gives a frame away.
    pub(crate) fn submit(&mut self, kind: PackKind, frame: PlainFrame) -> Result<()> {
        let open = self.open.of(kind)?;
        let (build, number) = (open.build.clone(), open.next);
        open.next += 1;
        let full = build.bytes() >= self.pack_size;
        self.jobs.send(SealJob { build, number, frame }).map_err(|_| stopped())?;
        if full {
            self.close(kind)?;
        }
        Ok(())
    }

    fn close(&mut self, kind: PackKind) -> Result<()> {
        if let Some(build) = self.open.close(kind) {
            self.complete.send(build).map_err(|_| stopped())?;
        }
        Ok(())
    }

    /// Closes both packs; the workers end when they are done with them.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.close(PackKind::Data)?;
        self.close(PackKind::Tree)
    }
}

/// The error of a stage whose neighbour ended first; the neighbour's own error is the one that is reported.
pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the ingest stopped")
}

/// Seals frames until there are none left: the body of a thread. `old` reads what frames may be differences from.
pub(crate) fn seal_frames(
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
        let sealed = sealer.seal(repo.keys(), build.key(), number, &frame, old.map(|_| &deltas))?;
        if build.add(number, sealed) {
            complete.send(build).map_err(|_| stopped())?;
        }
    }
    Ok(())
}

/// What was stored.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Stored {
    /// Bytes of packs and segments.
    pub(crate) bytes: u64,
    /// Whether something was counted on that others stored meanwhile.
    pub(crate) counted_on_others: bool,
}

/// What the storer tells the assembler: the segments of the session, which replace those told before, and the keys that are
/// new in them, which the assembler need not remember any more.
#[derive(Debug)]
pub(crate) struct Indexed {
    /// All segments of the session.
    pub(crate) segments: Vec<Arc<PagedSegment>>,
    /// Keys of the last one.
    pub(crate) keys: Vec<ChunkKey>,
    /// The whole index as it is now, when other writers have added to it.
    pub(crate) fresh: Option<Arc<Index>>,
    /// Who stores the same at the same time, and is to go ahead.
    pub(crate) ahead: Option<Ahead>,
}

/// Stores complete packs until there are none left, with a segment now and then and one at the end. When this
/// returns, all of them are durable and indexed. Every segment but the last is told to `indexed`, and so is what `others`
/// have indexed meanwhile.
pub(crate) fn store_packs(
    repo: &Repository,
    complete: Receiver<Arc<PackBuild>>,
    indexed: &Sender<Indexed>,
    segment_chunks: usize,
    others: &Mutex<Others>,
) -> Result<Stored> {
    let storer = Storer { repo, indexer: PackIndexer::new(repo), merged: 0, own: Vec::new(), others };
    let at_once = repo.storage().costs().creates_at_once;
    if at_once <= 1 {
        let stored = complete.iter().map(|build| move || build.store(repo));
        return storer.run(stored, indexed, segment_chunks);
    }
    thread::scope(|scope| {
        let (out, stored) = crossbeam_channel::bounded(at_once);
        for _ in 0..at_once {
            let (complete, out) = (complete.clone(), out.clone());
            scope.spawn(move || {
                for build in complete {
                    let result = build.store(repo);
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

struct Storer<'a> {
    repo: &'a Repository,
    indexer: PackIndexer<'a>,
    /// Bytes of segments that were made of several.
    merged: u64,
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
                others.is_time() && !self.repo.only_writes() && others.look(self.repo)?
            };
            let (packs, chunks) = self.indexer.waiting();
            if packs >= if beside { 1 } else { PACKS_A_SEGMENT } || chunks >= segment_chunks {
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
            let pack = pack()?;
            self.others.lock().stored(&pack);
            self.indexer.add(pack);
        }
        if let Some((id, ..)) = self.indexer.write_segment()? {
            self.others.lock().own.insert(id);
        }
        let counted_on_others = self.others.lock().counted_on;
        Ok(Stored { bytes: self.indexer.written().bytes + self.merged, counted_on_others })
    }

    /// Writes a segment and opens it for look-ups; merges the session's own when there are many.
    fn index(&mut self) -> Result<Indexed> {
        let mut packs = Vec::new();
        if let Some((id, size, named)) = self.indexer.write_segment()? {
            packs = named;
            self.others.lock().own.insert(id);
            // It could not read it: what it has stored is remembered instead.
            if self.repo.only_writes() {
                return Ok(Indexed { segments: Vec::new(), keys: Vec::new(), fresh: None, ahead: None });
            }
            self.own.push(Arc::new(PagedSegment::open(self.repo, id, size)?));
        }
        let counts = |own: &[Arc<PagedSegment>]| own.iter().map(|s| s.entries()).collect::<Vec<u64>>();
        while let Some(which) = merge::due(&counts(&self.own)) {
            let parts: Vec<Arc<PagedSegment>> = which.iter().map(|at| self.own[*at].clone()).collect();
            let replaced: Vec<SegmentId> = parts.iter().flat_map(|part| part.replaces().iter().copied()).collect();
            let Some((id, size)) = merge::merge(self.repo, &parts, &replaced, &|_| true)? else { break };
            self.repo.storage().sync()?;
            self.merged += size;
            self.others.lock().own.insert(id);
            self.own.retain(|segment| !parts.iter().any(|part| part.id() == segment.id()));
            self.own.push(Arc::new(PagedSegment::open(self.repo, id, size)?));
        }
        let keys = packs.iter().flat_map(|pack| &pack.entries).flat_map(|entry| entry.chunks.iter().map(|(key, _)| *key));
        Ok(Indexed { segments: self.own.clone(), keys: keys.collect(), fresh: None, ahead: None })
    }
}
