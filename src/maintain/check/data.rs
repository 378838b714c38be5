//! Reading packs whole: their checksum, their directory, every frame and every chunk.
//!
//! A pack is read in pieces of a few MiB, one after the other, by one of several threads; what is in memory is one
//! piece and one decoded frame a thread. Threads that have no pack left decode a part of the pieces of the others: a pack of
//! differences holds as many bytes as any other, and takes many times as long.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::RwLock;

use crate::chunk::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::CHECKSUM;
use crate::format::pack::{DirectoryEntry, FrameInfo, PREAMBLE, PackKind};
use crate::format::segment::SegmentPack;
use crate::model::{ChunkKey, PackId};
use crate::observe::Event;
use crate::repo::damaged;
use crate::repo::index::Index;
use crate::repo::index::paged::PagedSegment;
use crate::repo::pack::{PackKey, read_directory};
use crate::repo::reader::{ChunkReader, is_damage};
use crate::storage::Name;
use crate::sys::process;
use crate::task::Task;

use super::catalog::{Catalog, REPAIR};
use super::content::KnownDamage;
use super::moved;
use super::news::News;
use super::objects::bare;
use super::pack_findings::PackFindings;
use super::subset::ToRead;
use super::{CheckOptions, CheckReport, Findings, Subset, go_on};

/// Bytes that are read at a time; a longer frame is read in one go.
const PIECE: u64 = 4 << 20;
/// Decoded frames that are kept as bases of others.
const BASES: u64 = 24 << 20;
/// The most threads.
const THREADS: usize = 32;

/// Reads the packs that `subset` chooses. True when there is damage that takes content away.
#[allow(clippy::too_many_arguments)]
pub(super) fn read(
    catalog: &Catalog,
    subset: &Subset,
    options: &CheckOptions,
    findings: &mut Findings<'_>,
    damage: &mut KnownDamage,
    report: &mut CheckReport,
    news: &mut News,
    tell: &mut dyn FnMut(PackId, bool),
) -> Result<bool> {
    let there = catalog.packs().keys().filter_map(|id| Some((*id, *catalog.present().get(id)?)));
    let mut chosen = subset.choose(there.collect(), &options.verified)?;
    let all = chosen.len();
    // What is known to be damaged is looked at again: it may have been mended.
    chosen.retain(|(id, _)| !options.is_fresh(findings.task().now(), id) || news.known.of(id).is_some());
    report.fresh_packs = (all - chosen.len()) as u64;
    let queue = ToRead::new(chosen, options.max_duration);
    let reading = PackCheck::new(catalog, queue, findings.task())?;
    let before = findings.count();
    reading.run(|pack, found| {
        report.read_packs += 1;
        report.read_bytes += found.bytes;
        tell(pack, found.messages.is_empty());
        news.read.insert(pack);
        if found.messages.is_empty() {
            if news.known.of(&pack).is_some() {
                news.sound.insert(pack);
                damage.mended(pack);
            }
            return;
        }
        if let Some(extent) = found.extent() {
            damaged::add(&mut news.found, pack, &extent);
        }
        let name = Name::Pack(pack);
        findings.damage(name, found.messages.join("; "));
        if found.whole {
            damage.pack(pack);
        }
        found.frames.iter().for_each(|frame| damage.frame(pack, *frame));
        found.chunks.iter().for_each(|(frame, offset)| damage.chunk(pack, *frame, *offset));
    })?;
    report.left_packs = reading.packs.len() - report.read_packs;
    // Bases are read from other packs.
    reading.chunks.found().iter().for_each(|(pack, extent)| damaged::add(&mut news.found, *pack, extent));
    Ok(!news.sound.is_empty() || findings.count() > before && damage.has_content())
}

/// What the threads share.
struct PackCheck<'a> {
    catalog: &'a Catalog,
    /// The index of now: segments that the catalog's has may be deleted while packs are read.
    index: RwLock<Arc<Index>>,
    chunks: ChunkReader,
    packs: ToRead,
    /// Threads that have no pack left.
    idle: AtomicUsize,
    done: AtomicU64,
    bytes: AtomicU64,
    task: &'a Task<'a>,
}

impl<'a> PackCheck<'a> {
    fn new(catalog: &'a Catalog, packs: ToRead, task: &'a Task<'a>) -> Result<Self> {
        let chunks = ChunkReader::new(catalog.repo().clone(), catalog.index().clone(), BASES)?;
        let (idle, done, bytes) = Default::default();
        let index = RwLock::new(catalog.index().clone());
        Ok(PackCheck { catalog, index, chunks, packs, idle, done, bytes, task })
    }

    /// Reads all packs and hands each one's findings to `take`, on this thread.
    fn run(&self, mut take: impl FnMut(PackId, PackFindings)) -> Result<()> {
        let cores = process::cores();
        // A thread that waits for a remote storage needs no core. On a disk of this machine the system reads ahead, and each
        // thread has buffers of some MiB.
        let costs = self.catalog.repo().storage().costs();
        let waiting = if costs.high_latency() { costs.concurrency } else { 2 };
        let threads = cores.max(waiting).min(THREADS);
        let (send, results) = crossbeam_channel::bounded(2 * threads + 1);
        let (give, parts) = crossbeam_channel::unbounded();
        thread::scope(|scope| {
            for _ in 0..threads {
                let (send, give, parts) = (send.clone(), give.clone(), parts.clone());
                scope.spawn(move || self.work(&send, give, parts));
            }
            drop((send, give));
            let mut outcome = Ok(());
            for result in results {
                match result {
                    Ok((pack, found)) if outcome.is_ok() => take(pack, found),
                    Ok(_) => {}
                    Err(e) => {
                        // The others stop at their next pack.
                        self.packs.close();
                        outcome = outcome.and(Err(e));
                    }
                }
            }
            outcome
        })
    }

    fn work<'w>(
        &'w self,
        send: &Sender<Result<(PackId, PackFindings)>>,
        give: Sender<FrameBatch<'w>>,
        parts: Receiver<FrameBatch<'w>>,
    ) {
        let mut worker = match CheckWorker::new(self, give, parts.clone()) {
            Ok(worker) => worker,
            Err(e) => return drop(send.send(Err(e))),
        };
        while let Some((pack, size)) = self.packs.take() {
            let result = worker.pack(pack, size).map(|found| (pack, found));
            self.done.fetch_add(1, Ordering::Relaxed);
            if send.send(result).is_err() {
                return;
            }
        }
        // There are no more parts once nobody reads a pack.
        worker.give = None;
        self.idle.fetch_add(1, Ordering::Relaxed);
        for part in parts {
            worker.help(part);
        }
    }

    fn progress(&self, bytes: u64) {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (entries, total_entries) = (self.done.load(Ordering::Relaxed), self.packs.len());
        self.task.observer.event(&Event::Progress {
            entries,
            bytes,
            total_entries,
            total_bytes: self.packs.bytes(),
            unit: "packs",
        });
    }
}

/// One thread's memory.
struct CheckWorker<'a> {
    reading: &'a PackCheck<'a>,
    /// To threads that have no pack left.
    give: Option<Sender<FrameBatch<'a>>>,
    /// What was given.
    parts: Receiver<FrameBatch<'a>>,
    decoder: Decoder,
    piece: Vec<u8>,
    scratch: Vec<u8>,
    plain: Vec<u8>,
    prefix: Vec<u8>,
    /// The bases of the frame at hand could be had.
    based: bool,
    /// One of them is nowhere.
    baseless: bool,
}

/// Frames of a piece, for another thread.
struct FrameBatch<'a> {
    open: Arc<CheckedPack<'a>>,
    piece: Arc<Vec<u8>>,
    /// Where the piece begins in the pack.
    start: u64,
    which: Range<usize>,
    /// Takes the first frame and what was found.
    reply: Sender<(usize, Result<PackFindings>)>,
}

/// How a pack's directory and the index differ, and the chunks that the index does not know there: frame and offset.
type Differences = (Option<String>, Vec<(u32, u32)>);

/// A pack that is being read.
struct CheckedPack<'a> {
    pack: &'a SegmentPack,
    size: u64,
    /// `None`: it cannot be had, and no frame can be opened.
    key: Option<Arc<PackKey>>,
    entries: Vec<DirectoryEntry>,
    /// Whether `entries` are the pack's own directory, and not what the index has of it.
    by_directory: bool,
}

impl<'a> CheckWorker<'a> {
    fn new(reading: &'a PackCheck<'a>, give: Sender<FrameBatch<'a>>, parts: Receiver<FrameBatch<'a>>) -> Result<Self> {
        let (piece, scratch, plain, prefix) = Default::default();
        let (decoder, based, baseless) = (Decoder::new()?, false, false);
        Ok(CheckWorker { reading, give: Some(give), parts, decoder, piece, scratch, plain, prefix, based, baseless })
    }

    fn pack(&mut self, id: PackId, size: u64) -> Result<PackFindings> {
        let mut found = PackFindings::default();
        let Some(pack) = self.reading.catalog.packs().get(&id) else { return Ok(found) };
        let open = Arc::new(self.open(pack, size, &mut found)?);
        self.read_pieces(&open, &mut found)?;
        if open.by_directory && !found.whole {
            self.compare_with_index(&open, &mut found)?;
        }
        if !found.messages.is_empty() && self.was_moved(id)? {
            return Ok(PackFindings::default());
        }
        if let Some(first) = found.frames.first() {
            let (bad, all) = (found.frames.len(), open.entries.len());
            found
                .messages
                .push(format!("{bad} of its {all} frames cannot be decoded to what they hold, the first is frame {first}"));
        }
        Ok(found)
    }

    /// Reads key and directory. A damaged directory is made anew from the index: readers do not need it.
    fn open(&mut self, pack: &'a SegmentPack, size: u64, found: &mut PackFindings) -> Result<CheckedPack<'a>> {
        let repo = self.reading.catalog.repo();
        let name = Name::Pack(pack.id);
        match read_directory(repo, pack.id, size) {
            Ok((key, entries)) => {
                if key.preamble().kind == pack.kind {
                    return Ok(CheckedPack { pack, size, key: Some(key), entries, by_directory: true });
                }
                found.messages.push("it holds something else than the index says".to_owned());
                (found.whole, found.torn) = (true, true);
                return Ok(CheckedPack { pack, size, key: None, entries: Vec::new(), by_directory: false });
            }
            Err(e) => {
                found.torn = is_damage(&e);
                found.messages.push(bare(&name, &e));
            }
        }
        let mut first = Vec::new();
        let key = repo.storage().read(&name, Some(0..PREAMBLE as u64), &mut first).and_then(|()| PackKey::open(repo, &first));
        let key = key.ok().filter(|key| key.preamble().kind == pack.kind).map(Arc::new);
        found.whole = key.is_none();
        let entries = moved::ask(self.reading.catalog.repo(), &self.reading.index, |index| index.directory_of(pack.id))?;
        Ok(CheckedPack { pack, size, key, entries, by_directory: false })
    }

    /// Whether prune has deleted the pack meanwhile.
    fn was_moved(&self, id: PackId) -> Result<bool> {
        let repo = self.reading.catalog.repo();
        match repo.storage().read(&Name::Pack(id), Some(0..1), &mut Vec::new()) {
            Err(e) if e.kind() == ErrorKind::NotFound => moved::is_moved(repo, id),
            _ => Ok(false),
        }
    }

    /// The directory must say what every segment says that names the pack, and these nothing more.
    fn compare_with_index(&self, open: &CheckedPack<'_>, found: &mut PackFindings) -> Result<()> {
        let (differs, unknown) =
            moved::ask(self.reading.catalog.repo(), &self.reading.index, |index| self.differences(index, open))?;
        // By the index they cannot be found there.
        found.chunks.extend(unknown);
        if let Some(which) = differs {
            found.messages.push(format!("its directory and the index differ ({which}); {REPAIR}"));
        }
        Ok(())
    }

    /// What differs, and the chunks that the index does not know to be in the pack.
    fn differences(&self, index: &Arc<Index>, open: &CheckedPack<'_>) -> Result<Differences> {
        let (catalog, pack) = (self.reading.catalog, open.pack);
        let is_first = Arc::ptr_eq(index, catalog.index());
        let counts: Vec<u64> = if is_first { catalog.entries(pack.id).collect() } else { Vec::new() };
        let names_it = |segment: &&Arc<PagedSegment>| segment.packs().iter().any(|named| named.id == pack.id);
        let segments = if is_first { counts.len() } else { index.segments().iter().filter(names_it).count() };
        let (mut differs, mut unknown, mut chunks) = (None, Vec::new(), 0);
        if segments == 0 && !is_first {
            // Prune has taken it out of the index.
            return Ok((differs, unknown));
        }
        for (number, entry) in open.entries.iter().enumerate() {
            let mut offset = 0;
            for chunk in &entry.chunks {
                let known = known(index, pack, number as u32, &entry.frame, offset, chunk)?;
                if known != segments {
                    differs = differs.or(Some(format!("frame {number}")));
                }
                if known == 0 {
                    unknown.push((number as u32, offset));
                }
                offset += chunk.1;
                chunks += 1;
            }
        }
        if counts.iter().any(|entries| *entries != chunks) {
            differs = differs.or(Some("the number of its chunks".to_owned()));
        }
        Ok((differs, unknown))
    }

    /// Reads the pack from its first to its last byte and looks at every frame on the way.
    fn read_pieces(&mut self, open: &Arc<CheckedPack<'a>>, found: &mut PackFindings) -> Result<()> {
        let mut hasher = Some(blake3::Hasher::new());
        let (mut at, mut next) = (0, 0);
        while at < open.size {
            go_on(self.reading.task)?;
            let (end, until) = piece_end(open, at, next);
            match self.reading.catalog.repo().storage().read(&Name::Pack(open.pack.id), Some(at..end), &mut self.piece) {
                Ok(()) => {
                    if let Some(hasher) = &mut hasher {
                        let body = open.size.saturating_sub(CHECKSUM as u64).clamp(at, end) - at;
                        hasher.update(self.piece.get(..body as usize).unwrap_or_default());
                    }
                    self.share(open, next..until, at, found)?;
                }
                Err(e) => {
                    found.messages.push(bare(&Name::Pack(open.pack.id), &e));
                    found.frames.extend((next..until).map(|n| n as u32));
                    if is_damage(&e) {
                        found.own.extend((next..until).map(|n| n as u32));
                    }
                    hasher = None;
                }
            }
            found.bytes += end - at;
            self.reading.progress(end - at);
            (at, next) = (end, until);
        }
        // What the pack is too short for.
        found.frames.extend((next..open.entries.len()).map(|n| n as u32));
        found.own.extend((next..open.entries.len()).map(|n| n as u32));
        let sum = hasher.map(|hasher| *hasher.finalize().as_bytes());
        let stored = self.piece.last_chunk::<CHECKSUM>();
        let is_other = sum.is_some() && sum.as_ref() == stored && stored != Some(&open.pack.id.0);
        if let Some(other) = stored.filter(|_| is_other) {
            (found.whole, found.torn) = (true, true);
            found.messages.push(format!("it holds the bytes of another pack: {}", Name::Pack(PackId(*other))));
        } else if sum.is_some() && (sum != Some(open.pack.id.0) || stored != Some(&open.pack.id.0)) {
            found.torn = true;
            found.messages.push("its checksum does not match its bytes and its name".to_owned());
        }
        found.frames.sort_unstable();
        found.frames.dedup();
        Ok(())
    }

    /// Checks frames of the current piece, which begins at `start`, together with threads that are idle.
    fn share(&mut self, open: &Arc<CheckedPack<'a>>, which: Range<usize>, start: u64, found: &mut PackFindings) -> Result<()> {
        let helpers = self.reading.idle.load(Ordering::Relaxed).min(which.len().saturating_sub(1));
        let piece = Arc::new(std::mem::take(&mut self.piece));
        let (reply, replies) = crossbeam_channel::bounded(helpers);
        let border = |n: usize| which.start + which.len() * n / (helpers + 1);
        if let Some(give) = &self.give {
            for n in 1..=helpers {
                let (open, piece, which, reply) = (open.clone(), piece.clone(), border(n)..border(n + 1), reply.clone());
                // They wait for parts until this thread is done with its packs. Should one of them end before, this thread
                // takes the part back, below.
                let _ = give.send(FrameBatch { open, piece, start, which, reply });
            }
        }
        drop(reply);
        let own = self.frames(open, &piece, border(0)..border(1), start, found);
        // Waits only for parts that a helper has taken: a helper answers, or its thread ends and closes the channel.
        while helpers > 0
            && let Ok(part) = self.parts.try_recv()
        {
            self.help(part);
        }
        let mut theirs: Vec<(usize, Result<PackFindings>)> = replies.iter().collect();
        theirs.sort_unstable_by_key(|(first, _)| *first);
        self.piece = Arc::try_unwrap(piece).unwrap_or_default();
        own?;
        if theirs.len() < helpers {
            return Err(Error::panicked());
        }
        theirs.into_iter().try_for_each(|(_, part)| {
            found.add(part?);
            Ok(())
        })
    }

    /// Looks at what another thread gave away.
    fn help(&mut self, part: FrameBatch<'_>) {
        let FrameBatch { open, piece, start, which, reply } = part;
        let mut found = PackFindings::default();
        let first = which.start;
        let result = self.frames(&open, &piece, which, start, &mut found).map(|()| found);
        drop(piece);
        // Who gave it waits for the answer.
        let _ = reply.send((first, result));
    }

    /// Opens and decodes frames of the piece that begins at `start`, and hashes their chunks.
    fn frames(
        &mut self,
        open: &CheckedPack<'_>,
        piece: &[u8],
        which: Range<usize>,
        start: u64,
        found: &mut PackFindings,
    ) -> Result<()> {
        let Some(key) = &open.key else {
            found.frames.extend(which.map(|n| n as u32));
            return Ok(());
        };
        for (entry, number) in open.entries.get(which.clone()).unwrap_or_default().iter().zip(which) {
            let number = number as u32;
            // What comes out right came from the right bases. Only what does not is worth a look at them.
            let hasty = match entry.frame.bases.is_empty() {
                true => None,
                false => Some(self.frame(key, open, number, &entry.frame, (piece, start), ChunkReader::bases_unseen)),
            };
            if matches!(hasty, Some(Ok(()))) && self.wrong(open, entry).is_empty() {
                continue;
            }
            match self.frame(key, open, number, &entry.frame, (piece, start), ChunkReader::bases) {
                Ok(()) => {
                    for (offset, chunk) in self.wrong(open, entry) {
                        if found.own.last() != Some(&number) {
                            found.own.push(number);
                        }
                        if found.chunks.is_empty() {
                            let wrong = "has other content than its name says";
                            found.messages.push(format!("frame {number}: chunk {} {wrong}", chunk.short()));
                        }
                        found.chunks.push((number, offset));
                    }
                }
                // Nobody needs it, and prune has deleted a base: that the bases of what snapshots need are there, the walk of
                // the trees has seen.
                Err(_) if self.baseless => {}
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported) => {
                    if found.frames.is_empty() {
                        found.messages.push(format!("frame {number}: {e}"));
                    }
                    found.frames.push(number);
                    if self.is_own(key, number, &entry.frame, (piece, start)) {
                        found.own.push(number);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether a frame that could not be decoded is itself what is damaged, and not a base of it.
    fn is_own(&self, key: &PackKey, number: u32, info: &FrameInfo, (piece, start): (&[u8], u64)) -> bool {
        self.based || sealed_in(piece, start, info).is_none_or(|sealed| !key.is_authentic(number, info, sealed))
    }

    fn frame(
        &mut self,
        key: &PackKey,
        open: &CheckedPack<'_>,
        number: u32,
        info: &FrameInfo,
        (piece, start): (&[u8], u64),
        bases: fn(&ChunkReader, PackKind, &[ChunkKey], &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.prefix.clear();
        (self.based, self.baseless) = (info.bases.is_empty(), false);
        if !info.bases.is_empty() {
            let gathered = bases(&self.reading.chunks, open.pack.kind, &info.bases, &mut self.prefix);
            self.baseless = matches!(&gathered, Err(e) if e.kind() == ErrorKind::NotFound);
            gathered.map_err(|e| e.context("a base of it").with_kind(ErrorKind::Corrupt))?;
        }
        self.based = true;
        let sealed = sealed_in(piece, start, info);
        let sealed = sealed.ok_or_else(|| Error::corrupt("it lies outside of the pack"))?;
        key.decode(number, info, sealed, &self.prefix, &mut self.decoder, &mut self.scratch, &mut self.plain)
    }

    /// The chunks of the decoded frame that are not what they should be, with their offsets.
    fn wrong(&self, open: &CheckedPack<'_>, entry: &DirectoryEntry) -> Vec<(u32, ChunkKey)> {
        let keys = self.reading.catalog.repo().keys();
        let writer = open.key.as_ref().and_then(|key| key.preamble().writer);
        let (mut offset, mut wrong) = (0, Vec::new());
        for (key, len) in &entry.chunks {
            let bytes = self.plain.get(offset as usize..(offset + len) as usize).unwrap_or_default();
            if keys.chunk_id_of(writer, open.pack.kind, bytes, |id| id.key() == *key).is_none() {
                wrong.push((offset, *key));
            }
            offset += len;
        }
        wrong
    }
}

/// The sealed bytes of a frame in a piece that begins at `start`.
fn sealed_in<'p>(piece: &'p [u8], start: u64, info: &FrameInfo) -> Option<&'p [u8]> {
    let from = usize::try_from(info.offset.checked_sub(start)?).ok()?;
    piece.get(from..from.checked_add(info.stored as usize)?)
}

/// Where the piece that begins at `at` ends, and the first frame behind it: whole frames, and at the end all the rest.
fn piece_end(open: &CheckedPack<'_>, at: u64, next: usize) -> (u64, usize) {
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
