//! Reading packs whole: their checksum, their directory, every frame and every chunk.
//!
//! A pack is read in pieces of a few MiB, one after the other, by one of several threads; what is in memory is one
//! piece and one decoded frame a thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::Sender;

use crate::chunk::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::CHECKSUM;
use crate::format::pack::{DirectoryEntry, FrameInfo, PREAMBLE};
use crate::format::segment::SegmentPack;
use crate::model::{ChunkKey, PackId, Timestamp};
use crate::observe::{Event, Observer};
use crate::repo::index::Index;
use crate::repo::pack::{PackKey, read_directory};
use crate::repo::reader::ChunkReader;
use crate::storage::Name;

use super::catalog::{Catalog, REPAIR};
use super::content::Damage;
use super::objects::bare;
use super::{CheckOptions, CheckReport, Findings, Subset, stopped};

/// Bytes that are read at a time; a longer frame is read in one go.
const PIECE: u64 = 4 << 20;
/// Decoded frames that are kept as bases of others.
const BASES: u64 = 24 << 20;
/// The most threads.
const THREADS: usize = 32;

/// What was found in one pack.
#[derive(Debug, Default)]
struct Found {
    messages: Vec<String>,
    /// Nothing of it can be opened.
    whole: bool,
    frames: Vec<u32>,
    chunks: Vec<(u32, u32)>,
    bytes: u64,
}

/// Reads the packs that `subset` chooses. True when there is damage that takes content away.
pub(super) fn read(
    catalog: &Catalog,
    subset: &Subset,
    options: &CheckOptions,
    findings: &mut Findings<'_>,
    damage: &mut Damage,
    report: &mut CheckReport,
    tell: &mut dyn FnMut(PackId, bool),
) -> Result<bool> {
    let there = catalog.packs().keys().filter_map(|id| Some((*id, *catalog.present().get(id)?)));
    let mut chosen = subset.choose(there.collect(), &options.verified)?;
    let all = chosen.len();
    chosen.retain(|(id, _)| !is_fresh(options, id));
    report.fresh_packs = (all - chosen.len()) as u64;
    let bytes = chosen.iter().map(|(_, size)| size).sum();
    let reading = Reading::new(catalog, chosen, bytes, options, findings.observer())?;
    let before = findings.count();
    reading.run(|pack, found| {
        report.read_packs += 1;
        report.read_bytes += found.bytes;
        tell(pack, found.messages.is_empty());
        if found.messages.is_empty() {
            return;
        }
        let name = Name::Pack(pack);
        findings.damage(name, found.messages.join("; "));
        if found.whole {
            damage.pack(pack);
        }
        found.frames.iter().for_each(|frame| damage.frame(pack, *frame));
        found.chunks.iter().for_each(|(frame, offset)| damage.chunk(pack, *frame, *offset));
    })?;
    Ok(findings.count() > before && damage.has_content())
}

/// Whether the pack was found sound not long ago. A time in the future says nothing.
fn is_fresh(options: &CheckOptions, id: &PackId) -> bool {
    let (Some(max), Some(Timestamp { secs, .. })) = (options.max_age, options.verified.get(id)) else { return false };
    let age = options.now.secs.checked_sub(*secs).and_then(|age| u64::try_from(age).ok());
    age.is_some_and(|age| age < max.as_secs())
}

/// What the threads share.
struct Reading<'a> {
    catalog: &'a Catalog,
    chunks: ChunkReader,
    packs: Vec<(PackId, u64)>,
    next: AtomicUsize,
    done: AtomicU64,
    bytes: AtomicU64,
    total: u64,
    options: &'a CheckOptions,
    observer: &'a dyn Observer,
}

impl<'a> Reading<'a> {
    fn new(
        catalog: &'a Catalog,
        packs: Vec<(PackId, u64)>,
        total: u64,
        options: &'a CheckOptions,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let chunks = ChunkReader::new(catalog.repo().clone(), catalog.index().clone(), BASES)?;
        let (next, done, bytes) = Default::default();
        Ok(Reading { catalog, chunks, packs, next, done, bytes, total, options, observer })
    }

    /// Reads all packs and hands each one's findings to `take`, on this thread.
    fn run(&self, mut take: impl FnMut(PackId, Found)) -> Result<()> {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        // A thread waits for the disk now and then; another one then has the core.
        let threads = cores.max(self.catalog.repo().storage().concurrency()).min(THREADS).min(self.packs.len());
        let (send, results) = crossbeam_channel::bounded(2 * threads + 1);
        thread::scope(|scope| {
            for _ in 0..threads {
                let send = send.clone();
                scope.spawn(move || self.work(&send));
            }
            drop(send);
            let mut outcome = Ok(());
            for result in results {
                match result {
                    Ok((pack, found)) if outcome.is_ok() => take(pack, found),
                    Ok(_) => {}
                    Err(e) => {
                        // The others stop at their next pack.
                        self.next.store(self.packs.len(), Ordering::Relaxed);
                        outcome = outcome.and(Err(e));
                    }
                }
            }
            outcome
        })
    }

    fn work(&self, send: &Sender<Result<(PackId, Found)>>) {
        let mut worker = match Worker::new(self) {
            Ok(worker) => worker,
            Err(e) => return drop(send.send(Err(e))),
        };
        while let Some((pack, size)) = self.packs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let result = worker.pack(*pack, *size).map(|found| (*pack, found));
            self.done.fetch_add(1, Ordering::Relaxed);
            if send.send(result).is_err() {
                return;
            }
        }
    }

    fn progress(&self, bytes: u64) {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (entries, total_entries) = (self.done.load(Ordering::Relaxed), self.packs.len() as u64);
        self.observer.event(&Event::Progress { entries, bytes, total_entries, total_bytes: self.total });
    }
}

/// One thread's memory.
struct Worker<'a> {
    reading: &'a Reading<'a>,
    decoder: Decoder,
    piece: Vec<u8>,
    scratch: Vec<u8>,
    plain: Vec<u8>,
    prefix: Vec<u8>,
}

/// A pack that is being read.
struct Open<'a> {
    pack: &'a SegmentPack,
    size: u64,
    /// `None`: it cannot be had, and no frame can be opened.
    key: Option<Arc<PackKey>>,
    entries: Vec<DirectoryEntry>,
    /// Whether `entries` are the pack's own directory, and not what the index has of it.
    by_directory: bool,
}

impl<'a> Worker<'a> {
    fn new(reading: &'a Reading<'a>) -> Result<Self> {
        let (piece, scratch, plain, prefix) = Default::default();
        Ok(Worker { reading, decoder: Decoder::new()?, piece, scratch, plain, prefix })
    }

    fn pack(&mut self, id: PackId, size: u64) -> Result<Found> {
        let mut found = Found::default();
        let Some(pack) = self.reading.catalog.packs().get(&id) else { return Ok(found) };
        let open = match self.open(pack, size, &mut found)? {
            Some(open) => open,
            None => return Ok(Found::default()),
        };
        self.read_pieces(&open, &mut found)?;
        if open.by_directory {
            self.compare_with_index(&open, &mut found)?;
        }
        if let Some(first) = found.frames.first() {
            let (bad, all) = (found.frames.len(), open.entries.len());
            found
                .messages
                .push(format!("{bad} of its {all} frames cannot be decoded to what they hold, the first is frame {first}"));
        }
        Ok(found)
    }

    /// Reads key and directory. A damaged directory is made anew from the index: readers do not need it. `None`: the
    /// pack has been moved by prune meanwhile.
    fn open<'p>(&mut self, pack: &'p SegmentPack, size: u64, found: &mut Found) -> Result<Option<Open<'p>>> {
        let repo = self.reading.catalog.repo();
        let name = Name::Pack(pack.id);
        match read_directory(repo, pack.id, size) {
            Ok((key, entries)) => {
                if key.preamble().kind == pack.kind {
                    return Ok(Some(Open { pack, size, key: Some(key), entries, by_directory: true }));
                }
                found.messages.push("it holds something else than the index says".to_owned());
                found.whole = true;
                return Ok(Some(Open { pack, size, key: None, entries: Vec::new(), by_directory: false }));
            }
            Err(e) if e.kind() == ErrorKind::NotFound && self.was_moved(pack.id)? => return Ok(None),
            Err(e) => found.messages.push(bare(&name, &e)),
        }
        let mut first = Vec::new();
        let key = repo.storage().read(&name, Some(0..PREAMBLE as u64), &mut first).and_then(|()| PackKey::open(repo, &first));
        let key = key.ok().filter(|key| key.preamble().kind == pack.kind).map(Arc::new);
        found.whole = key.is_none();
        let entries = entries_by_index(self.reading.catalog.index(), pack.id)?;
        Ok(Some(Open { pack, size, key, entries, by_directory: false }))
    }

    /// Whether the index does not name the pack any more.
    fn was_moved(&self, id: PackId) -> Result<bool> {
        let index = Index::load(self.reading.catalog.repo())?;
        Ok(!index.packs().any(|pack| pack.id == id))
    }

    /// The directory must say what every segment says that names the pack, and these nothing more.
    fn compare_with_index(&self, open: &Open<'_>, found: &mut Found) -> Result<()> {
        let (index, pack) = (self.reading.catalog.index(), open.pack);
        let segments: Vec<u64> = self.reading.catalog.entries(pack.id).collect();
        let (mut differs, mut chunks) = (None, 0);
        for (number, entry) in open.entries.iter().enumerate() {
            let mut offset = 0;
            for chunk in &entry.chunks {
                let known = known(index, pack, number as u32, &entry.frame, offset, chunk)?;
                if known != segments.len() {
                    differs = differs.or(Some(format!("frame {number}")));
                }
                if known == 0 {
                    // By the index it cannot be found there.
                    found.chunks.push((number as u32, offset));
                }
                offset += chunk.1;
                chunks += 1;
            }
        }
        if segments.iter().any(|entries| *entries != chunks) {
            differs = differs.or(Some("the number of its chunks".to_owned()));
        }
        if let Some(which) = differs {
            found.messages.push(format!("its directory and the index differ ({which}); {REPAIR}"));
        }
        Ok(())
    }

    /// Reads the pack from its first to its last byte and looks at every frame on the way.
    fn read_pieces(&mut self, open: &Open<'_>, found: &mut Found) -> Result<()> {
        let mut hasher = Some(blake3::Hasher::new());
        let (mut at, mut next) = (0, 0);
        while at < open.size {
            stopped(&self.reading.options.stop)?;
            let (end, until) = piece_end(open, at, next);
            match self.reading.catalog.repo().storage().read(&Name::Pack(open.pack.id), Some(at..end), &mut self.piece) {
                Ok(()) => {
                    if let Some(hasher) = &mut hasher {
                        let body = open.size.saturating_sub(CHECKSUM as u64).clamp(at, end) - at;
                        hasher.update(self.piece.get(..body as usize).unwrap_or_default());
                    }
                    self.frames(open, next..until, at, found)?;
                }
                Err(e) => {
                    found.messages.push(bare(&Name::Pack(open.pack.id), &e));
                    found.frames.extend((next..until).map(|n| n as u32));
                    hasher = None;
                }
            }
            found.bytes += end - at;
            self.reading.progress(end - at);
            (at, next) = (end, until);
        }
        // What the pack is too short for.
        found.frames.extend((next..open.entries.len()).map(|n| n as u32));
        let sum = hasher.map(|hasher| *hasher.finalize().as_bytes());
        let stored = self.piece.last_chunk::<CHECKSUM>();
        if sum.is_some() && (sum != Some(open.pack.id.0) || stored != Some(&open.pack.id.0)) {
            found.messages.push("its checksum does not match its bytes and its name".to_owned());
        }
        found.frames.sort_unstable();
        found.frames.dedup();
        Ok(())
    }

    /// Opens and decodes frames of the piece that begins at `start`, and hashes their chunks.
    fn frames(&mut self, open: &Open<'_>, which: std::ops::Range<usize>, start: u64, found: &mut Found) -> Result<()> {
        let Some(key) = &open.key else {
            found.frames.extend(which.map(|n| n as u32));
            return Ok(());
        };
        for (entry, number) in open.entries.get(which.clone()).unwrap_or_default().iter().zip(which) {
            let number = number as u32;
            match self.frame(key, open, number, &entry.frame, start) {
                Ok(()) => self.chunks(open, number, entry, found),
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported) => {
                    if found.frames.is_empty() {
                        found.messages.push(format!("frame {number}: {e}"));
                    }
                    found.frames.push(number);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn frame(&mut self, key: &PackKey, open: &Open<'_>, number: u32, info: &FrameInfo, start: u64) -> Result<()> {
        self.prefix.clear();
        if !info.bases.is_empty() {
            let bases = self.reading.chunks.bases(open.pack.kind, &info.bases, &mut self.prefix);
            bases.map_err(|e| e.context("a base of it").with_kind(ErrorKind::Corrupt))?;
        }
        let from = usize::try_from(info.offset.saturating_sub(start)).unwrap_or(usize::MAX);
        let sealed = from.checked_add(info.stored as usize).and_then(|to| self.piece.get(from..to));
        let sealed = sealed.ok_or_else(|| Error::corrupt("it lies outside of the pack"))?;
        key.decode(number, info, sealed, &self.prefix, &mut self.decoder, &mut self.scratch, &mut self.plain)
    }

    fn chunks(&self, open: &Open<'_>, number: u32, entry: &DirectoryEntry, found: &mut Found) {
        let mut offset = 0;
        let keys = self.reading.catalog.repo().keys();
        for (key, len) in &entry.chunks {
            let bytes = self.plain.get(offset as usize..(offset + len) as usize).unwrap_or_default();
            if keys.chunk_id(open.pack.kind, bytes).key() != *key {
                if found.chunks.is_empty() {
                    found.messages.push(format!("frame {number}: chunk {} has other content than its name says", key.short()));
                }
                found.chunks.push((number, offset));
            }
            offset += len;
        }
    }
}

/// Where the piece that begins at `at` ends, and the first frame behind it: whole frames, and at the end all the rest.
fn piece_end(open: &Open<'_>, at: u64, next: usize) -> (u64, usize) {
    let (mut end, mut until) = (at, next);
    while let Some(entry) = open.entries.get(until) {
        let frame_end = entry.frame.offset + u64::from(entry.frame.stored);
        if frame_end > open.size || end > at && frame_end - at > PIECE {
            break;
        }
        (end, until) = (frame_end, until + 1);
    }
    let no_more = open.entries.get(until).is_none_or(|e| e.frame.offset + u64::from(e.frame.stored) > open.size);
    // The checksum at the end is not parted.
    let whole = |end: u64| if end + CHECKSUM as u64 > open.size { open.size } else { end };
    match no_more {
        true if open.size - end <= PIECE => (open.size, until),
        true if end == at => (whole(at + PIECE), until),
        _ => (end, until),
    }
}

/// How many segments know a chunk to be at this place, in a frame that is as `info` says.
fn known(
    index: &Index,
    pack: &SegmentPack,
    number: u32,
    info: &FrameInfo,
    offset: u32,
    (key, len): &(ChunkKey, u32),
) -> Result<usize> {
    let mut known = 0;
    for location in index.find_all(pack.kind, key)? {
        if location.offset == offset && location.len == *len {
            let frame = index.frame(&location)?;
            known += usize::from(frame.pack.id == pack.id && frame.number == number && frame.info == *info);
        }
    }
    Ok(known)
}

/// The directory of a pack as the index has it.
fn entries_by_index(index: &Index, pack: PackId) -> Result<Vec<DirectoryEntry>> {
    // Of each frame its chunks: offset, key, length.
    type Chunks = Vec<(u32, ChunkKey, u32)>;
    let mut frames: HashMap<u32, (FrameInfo, Chunks)> = HashMap::new();
    for segment in 0..index.entry_counts().len() {
        if !frames.is_empty() {
            break;
        }
        index.scan(segment, &mut |location, key, found| {
            if found.id == pack {
                let frame = index.frame(&location)?;
                let entry = frames.entry(frame.number).or_insert_with(|| (frame.info, Vec::new()));
                entry.1.push((location.offset, *key, location.len));
            }
            Ok(())
        })?;
    }
    let mut numbers: Vec<u32> = frames.keys().copied().collect();
    numbers.sort_unstable();
    let entry = |number: &u32| {
        let (frame, mut chunks) = frames.remove(number)?;
        chunks.sort_unstable();
        Some(DirectoryEntry { frame, chunks: chunks.into_iter().map(|(_, key, len)| (key, len)).collect() })
    };
    Ok(numbers.iter().filter_map(entry).collect())
}
