//! Reading chunks: index → frame cache → pack.
//!
//! Decoded frames are kept under a byte budget, and several readers of one frame decode it once (single-flight).
//! Every chunk that is given out was hashed and compared with its id.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use quick_cache::sync::{Cache, GuardResult};
use quick_cache::{OptionsBuilder, Weighter};

use crate::chunk::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{MAX_PREFIX, PackKind};
use crate::model::{ChunkId, ChunkKey, PackId, SegmentId};
use crate::observe::Counter;
use crate::repo::Repository;
use crate::repo::damaged::{self, DamagedPacks};
use crate::repo::index::{ChunkLocation, FrameRef, Index, missing_chunk};
use crate::repo::pack::PackKey;
use crate::repo::pack::buffers::{Buffer, BufferPool};
use crate::repo::pack::run::SealedRun;
use crate::storage::Name;

mod keys;
mod unnamed;

/// A decoded frame.
#[derive(Debug)]
pub struct DecodedFrame {
    /// Its plain bytes.
    pub(crate) plain: Buffer,
    /// Offsets of the chunks that were hashed and found to be what their id says.
    verified: Mutex<Vec<u32>>,
}

impl DecodedFrame {
    /// Its plain bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.plain
    }
}

/// A verified chunk: a part of a frame that stays in memory as long as this does.
#[derive(Debug, Clone)]
pub struct Chunk {
    frame: Arc<DecodedFrame>,
    range: Range<usize>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.frame.plain[self.range.clone()]
    }
}

/// Whether an error says that stored bytes are damaged or lost, rather than that they cannot be had now.
pub(crate) fn is_damage(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt || error.raw_os_error() == Some(crate::sys::EIO)
}

/// A frame's pack, its number there, and whether it is a difference. Decoding a difference waits for frames without
/// bases, and those never wait, so there is no deadlock. Segments of a damaged repository may disagree about a frame; so
/// what one says of it never waits for what the other says.
type FrameKey = (PackId, u32, bool);

fn frame_key(frame: &FrameRef) -> FrameKey {
    (frame.pack.id, frame.number, !frame.info.bases.is_empty())
}

/// The share of the frame cache for what was asked for again. Every frame is asked for again, by the reads that follow in
/// it, and then never: with most of the room for such, what is decoded ahead of readers would go before they come.
const HOT: f64 = 0.3;

/// How long nobody looks for other segments again, when there were none since the snapshots were listed and since the
/// first look at what is missing: thousands of lost chunks must not list them thousands of times.
const RELOAD_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
struct FrameWeight;

impl Weighter<FrameKey, Arc<DecodedFrame>> for FrameWeight {
    fn weight(&self, _: &FrameKey, frame: &Arc<DecodedFrame>) -> u64 {
        frame.plain.capacity() as u64 + 256
    }
}

/// Counts of what a reader did.
#[derive(Debug, Default)]
pub struct ReadCounts {
    /// Frames fetched and decoded.
    pub frames: Counter,
    /// Chunks that were asked for.
    pub asked: Counter,
    /// Those of them whose frame was in memory already.
    pub ready: Counter,
    /// Sealed bytes fetched.
    pub fetched: Counter,
    /// Plain bytes decoded.
    pub decoded: Counter,
}

/// Reads chunks of one repository, from many threads.
#[derive(Debug)]
pub struct ChunkReader {
    repo: Arc<Repository>,
    index: RwLock<Arc<Index>>,
    keys: RwLock<HashMap<PackId, Arc<PackKey>>>,
    /// One lock for each pack whose key is being fetched: a thread that needs another pack must not wait for it.
    loading: Mutex<HashMap<PackId, Arc<Mutex<()>>>>,
    frames: Cache<FrameKey, Arc<DecodedFrame>, FrameWeight>,
    buffers: Arc<BufferPool>,
    /// When the last listing of segments began that showed those of `index`. Held while they are listed and loaded.
    checked: Mutex<Instant>,
    stale: Mutex<Stale>,
    /// Whether packs that no segment names are looked into for what is missing; and the segments that were there when
    /// that was done last.
    unnamed: Option<Mutex<Option<Vec<SegmentId>>>>,
    /// What was found damaged of packs.
    found: Mutex<DamagedPacks>,
    /// What it did so far.
    pub counts: ReadCounts,
}

/// Since when the index may lack something.
#[derive(Debug)]
struct Stale {
    /// The last time that snapshots were listed, a pack was found to be gone that was not known to be, or a segment.
    since: Instant,
    /// Packs that were found to be gone.
    gone: HashSet<PackId>,
}

/// Why a chunk could not be read by one state of the index.
struct Missed {
    error: Error,
    /// Something was not there, and may be somewhere else by now.
    moved: bool,
}

struct Working {
    decoder: Decoder,
    sealed: Vec<u8>,
    scratch: Vec<u8>,
}

/// A longer buffer for bases is given back after use.
const KEPT_PREFIX: usize = 1 << 20;

thread_local! {
    static WORKING: RefCell<Option<Working>> = const { RefCell::new(None) };
    /// The bases of the frame that is decoded; while they are gathered, other frames are.
    static PREFIX: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Gathers the bases of a frame.
type BaseReader = dyn Fn(&ChunkReader, PackKind, &[ChunkKey], &mut Vec<u8>) -> Result<()>;

/// The chunk at a location of a decoded frame.
fn chunk_of(frame: Arc<DecodedFrame>, location: &ChunkLocation) -> Result<Chunk> {
    let range = location.offset as usize..(location.offset + location.len) as usize;
    match frame.plain.get(range.clone()) {
        Some(_) => Ok(Chunk { frame, range }),
        None => Err(Error::corrupt("a chunk lies outside its frame")),
    }
}

impl ChunkReader {
    /// A reader with at most `budget` bytes of decoded frames in memory.
    pub fn new(repo: Arc<Repository>, index: Arc<Index>, budget: u64) -> Result<Self> {
        let options = OptionsBuilder::new()
            .estimated_items_capacity((budget >> 17).max(16) as usize)
            .weight_capacity(budget)
            .hot_allocation(HOT)
            // A shard must hold several of the largest frames.
            .shards(((budget >> 24) as usize).clamp(1, 8))
            .build()
            .map_err(|e| Error::invalid(format!("a frame cache of {budget} bytes: {e}")))?;
        let frames = Cache::with_options(options, FrameWeight, Default::default(), Default::default());
        let began = index.began();
        Ok(ChunkReader {
            repo,
            index: RwLock::new(index),
            keys: RwLock::default(),
            loading: Default::default(),
            frames,
            buffers: Arc::default(),
            checked: Mutex::new(began),
            stale: Mutex::new(Stale { since: began, gone: HashSet::new() }),
            unnamed: None,
            found: Mutex::default(),
            counts: ReadCounts::default(),
        })
    }

    /// The repository it reads.
    pub(crate) fn repo(&self) -> &Arc<Repository> {
        &self.repo
    }

    /// What was found damaged of packs so far: frames that are not what was written, packs that cannot be opened.
    pub fn found(&self) -> DamagedPacks {
        self.found.lock().clone()
    }

    /// The index as it is now.
    pub fn index(&self) -> Arc<Index> {
        self.index.read().clone()
    }

    /// Reads by this index from now on.
    pub fn set_index(&self, index: Arc<Index>) {
        let mut checked = self.checked.lock();
        *checked = index.began();
        *self.index.write() = index;
    }

    /// Snapshots were listed a moment ago, and some of them were not known: what they need may be in segments that the
    /// index lacks, however short a time ago it was loaded.
    pub fn snapshots_listed(&self) {
        self.stale().since = Instant::now();
    }

    fn stale(&self) -> MutexGuard<'_, Stale> {
        self.stale.lock()
    }

    /// An index that is newer than `tried`, for a caller that did not find something by `tried`. `None`: there is none, and
    /// what is missing is lost. Rule 10 of docs/durability.md: a listing of the segments that began after the snapshots were
    /// listed, and after a pack was found to be gone, shows all that took the place of what was deleted.
    fn newer(&self, tried: &Arc<Index>) -> Result<Option<Arc<Index>>> {
        let mut checked = self.checked.lock();
        let index = self.index();
        if !Arc::ptr_eq(tried, &index) {
            return Ok(Some(index));
        }
        if *checked >= self.stale().since && checked.elapsed() < RELOAD_PAUSE {
            return self.with_unnamed(&index);
        }
        let began = Instant::now();
        if !index.has_moved(&self.repo)? {
            *checked = began;
            return self.with_unnamed(&index);
        }
        let loaded = index.load_again(&self.repo);
        if loaded.is_err() {
            self.repo.key_is_current()?;
        }
        let index = Arc::new(loaded?);
        *checked = index.began();
        self.stale().gone.clear();
        *self.index.write() = index.clone();
        Ok(Some(index))
    }

    /// A whole chunk, verified. What is not found is looked for in newer segments, as often as there are any, before it
    /// is damage: prune may have moved it (rule 10 of docs/durability.md).
    pub fn chunk(&self, kind: PackKind, id: &ChunkId) -> Result<Chunk> {
        self.chunk_elsewhere(kind, id, None, &|_, _| false)
    }

    /// The same, past the places that `skip` names, after an attempt of the caller's own that ended with `error`. That is
    /// the error if there is no other place.
    pub(crate) fn chunk_elsewhere(
        &self,
        kind: PackKind,
        id: &ChunkId,
        error: Option<Error>,
        skip: &dyn Fn(&Arc<Index>, &ChunkLocation) -> bool,
    ) -> Result<Chunk> {
        let moved = error.as_ref().is_none_or(|e| e.kind() == ErrorKind::NotFound);
        let mut first = error;
        let mut index = self.index();
        loop {
            let missed = match self.chunk_by(&index, kind, id, skip) {
                Ok(chunk) => return Ok(chunk),
                Err(missed) => missed,
            };
            let newer = if moved || missed.moved { self.newer(&index)? } else { None };
            match newer {
                Some(newer) => index = newer,
                None => {
                    let error = first.take().unwrap_or(missed.error);
                    // With a former key what was repacked looks lost.
                    self.repo.key_is_current()?;
                    return Err(if error.kind() == ErrorKind::NotFound { error.with_kind(ErrorKind::Corrupt) } else { error });
                }
            }
        }
    }

    fn chunk_by(
        &self,
        index: &Arc<Index>,
        kind: PackKind,
        id: &ChunkId,
        skip: &dyn Fn(&Arc<Index>, &ChunkLocation) -> bool,
    ) -> Result<Chunk, Missed> {
        let gone = |e: Error| {
            let moved = self.is_gone(&e);
            Missed { error: e, moved }
        };
        let (mut damage, mut missing) = (None, None);
        // Damage of one copy is no reason to give up while there is another.
        for location in index.find_all(kind, &id.key()).map_err(gone)?.iter().filter(|location| !skip(index, location)) {
            let frame = index.frame(location).map_err(gone)?;
            match self.part(&frame, location, kind, |found| found == id, id.short()) {
                Ok(chunk) => return Ok(chunk),
                Err(e) if e.kind() == ErrorKind::NotFound => missing = Some(e),
                Err(e) => damage = Some(e),
            }
        }
        let moved = damage.is_none() || missing.is_some();
        let error = damage.or(missing).unwrap_or_else(|| missing_chunk(id).with_kind(ErrorKind::NotFound));
        Err(Missed { error, moved })
    }

    /// Whether an error of the index says that a segment is gone: then there are others in its place.
    fn is_gone(&self, error: &Error) -> bool {
        let gone = error.kind() == ErrorKind::NotFound;
        if gone {
            self.stale().since = Instant::now();
        }
        gone
    }

    /// Reads from a pack; one that is gone is noted the first time.
    fn read_pack(&self, id: PackId, range: Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        let read = self.repo.storage().read(&Name::Pack(id), Some(range), out);
        if read.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            let mut stale = self.stale();
            if stale.gone.insert(id) {
                stale.since = Instant::now();
            }
        }
        read
    }

    /// A decoded frame, from the cache or the storage.
    pub fn frame(&self, frame: &FrameRef) -> Result<Arc<DecodedFrame>> {
        self.frames.get_or_insert_with(&frame_key(frame), || self.fetch(frame, None))
    }

    /// Whether a frame, by its pack and its number there, is in memory already.
    pub(crate) fn has_frame(&self, &(pack, number): &(PackId, u32)) -> bool {
        [false, true].iter().any(|delta| self.frames.contains_key(&(pack, number, *delta)))
    }

    fn fetch(&self, frame: &FrameRef, run: Option<&SealedRun>) -> Result<Arc<DecodedFrame>> {
        self.framed(frame, |plain| self.decode_frame(frame, run, plain))
    }

    /// A frame in which a chunk was not what it should be, decoded again from bases that are looked at.
    fn frame_again(&self, frame: &FrameRef) -> Result<Arc<DecodedFrame>> {
        let key = frame_key(frame);
        // Another pack stood in the place of its own when this was fetched: it may have been mended since.
        self.frames.remove(&key);
        self.keys.write().remove(&frame.pack.id);
        let decode = |plain: &mut Vec<u8>| self.decode_of(frame, None, &ChunkReader::bases, plain);
        self.frames.get_or_insert_with(&key, || self.framed(frame, decode))
    }

    fn framed(&self, frame: &FrameRef, decode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Arc<DecodedFrame>> {
        let mut plain = self.buffers.take(frame.info.plain as usize);
        decode(&mut plain)?;
        Ok(Arc::new(DecodedFrame { plain: self.buffers.keep(plain), verified: Mutex::default() }))
    }

    /// Neighbouring frames of one pack, read with one request, for `ChunkReader::decode_frame`. `None`: one frame is
    /// read as well by itself. Memory for them comes from the caller.
    pub fn run<'f>(&self, frames: impl IntoIterator<Item = &'f FrameRef>, buffer: Vec<u8>) -> Result<Option<SealedRun>> {
        let mut frames: Vec<&FrameRef> = frames.into_iter().collect();
        if self.repo.frame_cache().is_some() {
            // What is on a local disk at both ends is not fetched; what lies between others costs no request.
            let ends = frames.iter().rposition(|frame| !self.has_copy(frame)).map_or(0, |last| last + 1);
            frames.truncate(ends);
            let begins = frames.iter().position(|frame| !self.has_copy(frame)).unwrap_or(0);
            frames.drain(..begins);
        }
        SealedRun::read(&**self.repo.storage(), frames, buffer)
    }

    /// Decodes neighbouring frames of one pack into the cache, fetched with one request; frames that another thread is
    /// decoding already are left to it. Errors are not reported here: the thread that needs the frame meets them.
    pub(crate) fn load(&self, frames: &[FrameRef]) {
        let absent: Vec<&FrameRef> = frames.iter().filter(|frame| !self.frames.contains_key(&frame_key(frame))).collect();
        // Decoding a difference waits for frames without bases, and those never wait. So only frames without bases may be
        // reserved while their bytes are fetched.
        let (plain, differences): (Vec<_>, Vec<_>) = absent.into_iter().partition(|frame| frame.info.bases.is_empty());
        let mut held = Vec::new();
        for frame in plain {
            if let GuardResult::Guard(guard) = self.frames.get_value_or_guard(&frame_key(frame), Some(Duration::ZERO)) {
                held.push((frame, guard));
            }
        }
        let mut wanted: Vec<&FrameRef> = held.iter().map(|(frame, _)| *frame).chain(differences.iter().copied()).collect();
        wanted.sort_unstable_by_key(|frame| frame.info.offset);
        let Ok(run) = self.run(wanted, Vec::new()) else { return };
        for (frame, guard) in held {
            if let Ok(decoded) = self.fetch(frame, run.as_ref()) {
                let _ = guard.insert(decoded);
            }
        }
        for frame in differences {
            let _ = self.frames.get_or_insert_with(&frame_key(frame), || self.fetch(frame, run.as_ref()));
        }
    }

    /// Fetches and decodes a frame into `plain` (replaced), past the cache. Its sealed bytes are taken from `run`, if they
    /// are there and good. The bases of a difference are not hashed, since wrong bases show when the caller hashes the chunks
    /// of the frame. [`ChunkReader::chunk`] then decodes the frame again from bases that are hashed.
    pub(crate) fn decode_frame(&self, frame: &FrameRef, run: Option<&SealedRun>, plain: &mut Vec<u8>) -> Result<()> {
        let given = run.and_then(|run| run.get(frame));
        match self.decode_of(frame, given, &ChunkReader::bases_unseen, plain) {
            // There may be better ones elsewhere.
            Err(_) if given.is_some() || !frame.info.bases.is_empty() => self.decode_of(frame, None, &ChunkReader::bases, plain),
            other => other,
        }
    }

    fn decode_of(&self, frame: &FrameRef, given: Option<&[u8]>, bases: &BaseReader, plain: &mut Vec<u8>) -> Result<()> {
        if frame.info.bases.is_empty() {
            return self.decode_with(frame, given, &[], plain);
        }
        let mut prefix = PREFIX.take();
        let decoded = bases(self, frame.pack.kind, &frame.info.bases, &mut prefix)
            .map_err(|e| e.about(format!("{}, frame {}, a base of it", Name::Pack(frame.pack.id), frame.number)))
            .and_then(|()| self.decode_with(frame, given, &prefix, plain));
        if prefix.capacity() <= KEPT_PREFIX {
            PREFIX.set(prefix);
        }
        decoded
    }

    /// Fetches and decodes a frame whose bases are `prefix`.
    fn decode_with(&self, frame: &FrameRef, given: Option<&[u8]>, prefix: &[u8], plain: &mut Vec<u8>) -> Result<()> {
        let id = frame.pack.id;
        match self.pack_key(frame.pack.kind, id).and_then(|key| self.open_frame(&key, frame, given, prefix, plain)) {
            // The key may be that of another pack, which stood here when it was read, or of which there is a copy.
            Err(e) if is_damage(&e) => {}
            other => return other,
        }
        let key = self.pack_key_again(frame.pack.kind, id).inspect_err(|e| self.note(frame, None, e))?;
        self.open_frame(&key, frame, given, prefix, plain).inspect_err(|e| {
            self.keys.write().remove(&id);
            // What was given is read again, by itself.
            if given.is_none() {
                self.note(frame, Some(&key), e);
            }
        })
    }

    fn open_frame(
        &self,
        key: &PackKey,
        frame: &FrameRef,
        given: Option<&[u8]>,
        prefix: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let name = Name::Pack(frame.pack.id);
        if key.preamble().kind != frame.pack.kind {
            return Err(Error::corrupt("it holds something else than the index says").about(name));
        }
        WORKING.with_borrow_mut(|slot| {
            let working = match slot {
                Some(working) => working,
                None => slot.insert(Working { decoder: Decoder::new()?, sealed: Vec::new(), scratch: Vec::new() }),
            };
            let range = frame.info.offset..frame.info.offset + u64::from(frame.info.stored);
            let Working { decoder, sealed, scratch } = working;
            let mut decode = |sealed: &[u8]| key.decode(frame.number, &frame.info, sealed, prefix, decoder, scratch, plain);
            let damaged = |e: Error| e.about(format!("{name}, frame {}", frame.number));
            if let Some(given) = given {
                decode(given).map_err(damaged)?;
                self.keep(frame.pack.kind, frame.pack.id, range.start, given);
            } else if !self.kept(frame.pack.kind, frame.pack.id, &range, sealed, |sealed| decode(sealed).is_ok()) {
                self.read_pack(frame.pack.id, range.clone(), sealed)?;
                decode(sealed).map_err(damaged)?;
                self.keep(frame.pack.kind, frame.pack.id, range.start, sealed);
            }
            self.counts.frames.add(1);
            self.counts.fetched.add(u64::from(frame.info.stored));
            self.counts.decoded.add(u64::from(frame.info.plain));
            Ok(())
        })
    }

    /// The plain bytes of base chunks, one after the other, into `out` (replaced). A base is read from a frame without
    /// bases only, so a read costs one step and cannot go round in circles; its content is checked against its key.
    pub fn bases(&self, kind: PackKind, bases: &[ChunkKey], out: &mut Vec<u8>) -> Result<()> {
        self.gather(kind, bases, out, |found, location, key| self.part(found, location, kind, |id| id.key() == *key, key.short()))
    }

    /// The same without hashing the bases, for a caller that hashes the chunks decoded with them.
    pub(crate) fn bases_unseen(&self, kind: PackKind, bases: &[ChunkKey], out: &mut Vec<u8>) -> Result<()> {
        self.gather(kind, bases, out, |found, location, _| chunk_of(self.frame(found)?, location))
    }

    fn gather(
        &self,
        kind: PackKind,
        bases: &[ChunkKey],
        out: &mut Vec<u8>,
        part: impl Fn(&FrameRef, &ChunkLocation, &ChunkKey) -> Result<Chunk>,
    ) -> Result<()> {
        out.clear();
        let mut index = self.index();
        for key in bases {
            let chunk = loop {
                match self.base(&index, kind, key, &part) {
                    Err(e) if e.kind() == ErrorKind::NotFound => index = self.newer(&index)?.ok_or(e)?,
                    other => break other?,
                }
            };
            if out.len() + chunk.len() > MAX_PREFIX {
                return Err(Error::corrupt("the bases of a frame are longer than 4 MiB"));
            }
            out.extend_from_slice(&chunk);
        }
        Ok(())
    }

    /// A base, from the first of its copies in frames without bases that can be read.
    fn base(
        &self,
        index: &Index,
        kind: PackKind,
        key: &ChunkKey,
        part: impl Fn(&FrameRef, &ChunkLocation, &ChunkKey) -> Result<Chunk>,
    ) -> Result<Chunk> {
        let mut last = None;
        let seen = |e: Error| {
            self.is_gone(&e);
            e
        };
        for location in index.find_all(kind, key).map_err(seen)? {
            let frame = index.frame(&location).map_err(seen)?;
            if !frame.info.bases.is_empty() {
                continue;
            }
            match part(&frame, &location, key) {
                Ok(chunk) => return Ok(chunk),
                Err(e) => last = Some(e),
            }
        }
        let text = || format!("chunk {}… is in no plain frame that the index knows", key.short());
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::NotFound, text())))
    }

    /// One chunk of a frame; hashed and checked the first time.
    fn part(
        &self,
        found: &FrameRef,
        location: &ChunkLocation,
        kind: PackKind,
        is_right: impl Fn(&ChunkId) -> bool,
        name: impl std::fmt::Display,
    ) -> Result<Chunk> {
        self.counts.asked.add(1);
        self.counts.ready.add(u64::from(self.has_frame(&(found.pack.id, found.number))));
        for again in [false, true] {
            let frame = if again { self.frame_again(found)? } else { self.frame(found)? };
            let chunk = chunk_of(frame, location)?;
            let mut verified = chunk.frame.verified.lock();
            let known = verified.contains(&location.offset);
            if known || self.repo.keys().chunk_id_of(self.writer_of(found)?, kind, &chunk, &is_right).is_some() {
                if !known {
                    verified.push(location.offset);
                }
                drop(verified);
                return Ok(chunk);
            }
        }
        // Its bases were looked at, so it was written wrong.
        damaged::add_frame(&mut self.found.lock(), found.pack.id, found.number);
        Err(Error::corrupt(format!("chunk {name} has other content than its name says")))
    }
}
