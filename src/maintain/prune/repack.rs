//! Copying what is needed out of packs that are mostly not, so that they can go.
//!
//! A frame of which everything stays is sealed again as it is, differences included; of others, the chunks that stay
//! are compressed anew. A base stays in a frame without bases. The new packs belong to a session, like an ingest's, so
//! that another prune waits; were it fenced, they would be packs like any others, and nothing would be lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::chunk::codec::{Compression, Encoder};
use crate::error::{Error, ErrorKind, Result};
use crate::format::damage::DamagedExtent;
use crate::format::pack::{DirectoryEntry, MAX_FRAME_CHUNKS, PREAMBLE, PackKind};
use crate::maintain::prune::packs::{Pack, Standing};
use crate::maintain::prune::survey::Survey;
use crate::model::{ChunkKey, PackId, SnapshotId, WriterId};
use crate::observe::Event;
use crate::repo::damaged::{self, DamagedPacks};
use crate::repo::index::ChunkLocation;
use crate::repo::pack::writer::{OpenPacks, PACK_TARGET, PACKS_A_SEGMENT, PackIndexer, WrittenPacks};
use crate::repo::pack::{self, DeltaTrials, Deltas, FrameSealer, PackKey, PlainFrame, SealedFrame};
use crate::repo::reader::{ChunkReader, is_damage};
use crate::repo::{Repository, index::Index};
use crate::storage::Name;
use crate::task::Task;

/// A frame that is put together of parts of others is closed from this on.
const FRAME: usize = 512 << 10;

/// What was written.
#[derive(Debug, Default, Clone)]
pub(crate) struct Repacked {
    /// New packs.
    pub(crate) packs: u64,
    /// Bytes of packs and segments.
    pub(crate) bytes: u64,
    /// What was found damaged.
    pub(crate) found: DamagedPacks,
    /// How many of the given packs were copied from before the time was over.
    pub(crate) done: usize,
}

/// The open packs of one writer, and what is gathered for them: a chunk's name says nothing without its writer's.
struct RepackTarget<'a> {
    open: OpenPacks<'a>,
    /// Parts of frames of each kind, for the next frame.
    gathered: [PlainFrame; 2],
}

/// Copies for one session.
pub(crate) struct Repack<'a> {
    repo: &'a Repository,
    index: &'a Index,
    reader: &'a ChunkReader,
    survey: &'a mut Survey,
    sealer: FrameSealer,
    session: SnapshotId,
    /// Of each writer whose key only writes, and of all others together.
    targets: BTreeMap<Option<WriterId>, RepackTarget<'a>>,
    indexer: PackIndexer<'a>,
    found: DamagedPacks,
    sealed: Vec<u8>,
    prefix: Vec<u8>,
}

impl<'a> Repack<'a> {
    /// Copies in the name of `session`.
    pub(crate) fn new(
        repo: &'a Repository,
        index: &'a Index,
        reader: &'a ChunkReader,
        survey: &'a mut Survey,
        session: SnapshotId,
    ) -> Result<Self> {
        let sealer = FrameSealer::new(Encoder::new(Compression::Auto)?)?;
        Ok(Repack {
            repo,
            index,
            reader,
            survey,
            sealer,
            session,
            targets: BTreeMap::new(),
            indexer: PackIndexer::new(repo),
            found: DamagedPacks::default(),
            sealed: Vec::new(),
            prefix: Vec::new(),
        })
    }

    /// Copies what is needed of these packs. Everything is durable and indexed when this returns. What is damaged is left as
    /// it is, and said; an error of writing is final, and what was written until then is garbage for
    /// the next prune, or counts, according to whether its segment was written.
    pub(super) fn run(mut self, packs: &[usize], task: &Task<'_>, until: Option<Instant>) -> Result<Repacked> {
        let total: u64 = packs.iter().map(|at| self.survey.packs.list[*at].size).sum();
        let (mut bytes, mut done) = (0, 0);
        for (number, at) in packs.iter().enumerate() {
            let Pack { id, size, .. } = self.survey.packs.list[*at];
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            // One that is gone was repacked by another prune.
            if let Err(e) = self.pack(id, size, task)?
                && e.kind() != ErrorKind::NotFound
            {
                let message = format!("it was not repacked whole, since not all of it can be read (run yester check): {e}");
                task.observer.event(&Event::Warning { subject: Name::Pack(id).to_string().as_bytes(), message: &message });
            }
            bytes += size;
            done += 1;
            let (entries, total_entries) = (number as u64 + 1, packs.len() as u64);
            task.observer.event(&Event::Progress { entries, bytes, total_entries, total_bytes: total, unit: "packs" });
        }
        for writer in self.targets.keys().copied().collect::<Vec<_>>() {
            self.close(writer, PackKind::Data)?;
            self.close(writer, PackKind::Tree)?;
        }
        self.indexer.write_segment()?;
        let WrittenPacks { packs, bytes } = self.indexer.written();
        Ok(Repacked { packs, bytes, found: self.found, done })
    }

    /// Copies from one pack. The inner error is the first one of reading it: frames that are damaged are left out.
    fn pack(&mut self, id: PackId, size: u64, task: &Task<'_>) -> Result<Result<()>> {
        let (key, entries) = match self.directory(id, size)? {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        let mut first = Ok(());
        for (number, entry) in entries.iter().enumerate() {
            task.go_on("the prune was stopped")?;
            let number = number as u32;
            let wanted = self.wanted(id, number, key.preamble().kind, entry)?;
            if wanted.iter().all(|wanted| *wanted == RepackChoice::No) {
                continue;
            }
            if let Err(e) = self.fetch(id, number, entry) {
                first = first.and(Err(e));
                continue;
            }
            if let Err(e) = self.bases(key.preamble().kind, entry) {
                // The reader has noted which pack is damaged.
                first = first.and(Err(e));
                continue;
            }
            let whole = wanted.iter().all(|wanted| *wanted == RepackChoice::AsItIs);
            let copied = match whole {
                true => self.whole(&key, number, entry)?,
                false => self.parts(&key, number, entry, &wanted)?,
            };
            if let Err(e) = copied {
                damaged::add_frame(&mut self.found, id, number);
                first = first.and(Err(e.about(format!("{}, frame {number}", Name::Pack(id)))));
            }
        }
        Ok(first)
    }

    /// A pack's key and its directory; where that is damaged, what the index says of its frames.
    fn directory(&mut self, id: PackId, size: u64) -> Result<Result<(Arc<PackKey>, Vec<DirectoryEntry>)>> {
        let read = pack::read_directory(self.repo, id, size);
        if read.as_ref().err().is_none_or(|e| !is_damage(e)) {
            return Ok(read);
        }
        let mut preamble = Vec::new();
        let opened = self.repo.storage().read(&Name::Pack(id), Some(0..PREAMBLE as u64), &mut preamble);
        match opened.and_then(|()| PackKey::open(self.repo, &preamble)) {
            Ok(key) => Ok(Ok((Arc::new(key), self.index.directory_of(id)?))),
            Err(e) => {
                if is_damage(&e) {
                    damaged::add(&mut self.found, id, &DamagedExtent::Whole);
                }
                Ok(Err(e.about(Name::Pack(id))))
            }
        }
    }

    /// Which chunks of a frame are to be copied.
    fn wanted(&mut self, id: PackId, number: u32, kind: PackKind, entry: &DirectoryEntry) -> Result<Vec<RepackChoice>> {
        let mut offset = 0;
        let mut out = Vec::with_capacity(entry.chunks.len());
        for (key, len) in &entry.chunks {
            let places = self.index.find_all(kind, key)?;
            let own = places.iter().find(|place| place.offset == offset && self.index.frame_key(place) == (id, number)).copied();
            out.push(match own {
                Some(own) => self.fate(&own, &places)?,
                None => RepackChoice::No,
            });
            offset += len;
        }
        Ok(out)
    }

    /// What becomes of one copy of a chunk, of all that there are.
    fn fate(&mut self, own: &ChunkLocation, places: &[ChunkLocation]) -> Result<RepackChoice> {
        if !self.survey.needed.get(own.entry()) || self.survey.packs.frame(own).is_damaged() {
            return Ok(RepackChoice::No);
        }
        if self.survey.packs.of(own).standing != Standing::Usable {
            // Marked for deletion: if a snapshot or a difference needs it, it must be stored elsewhere, without bases.
            return Ok(if self.survey.plain(places).is_empty() { RepackChoice::ByItself } else { RepackChoice::No });
        }
        let copy = |place: &ChunkLocation| (self.index.frame_key(place), place.offset);
        let stays = self.survey.stays(places)?;
        Ok(if stays.is_some_and(|stays| copy(&stays) == copy(own)) { RepackChoice::AsItIs } else { RepackChoice::No })
    }

    /// Reads a frame's sealed bytes.
    fn fetch(&mut self, id: PackId, number: u32, entry: &DirectoryEntry) -> Result<()> {
        let range = entry.frame.offset..entry.frame.offset + u64::from(entry.frame.stored);
        let read = self.repo.storage().read(&Name::Pack(id), Some(range), &mut self.sealed);
        if read.as_ref().is_err_and(is_damage) {
            damaged::add_frame(&mut self.found, id, number);
        }
        read
    }

    /// Reads the plain bytes of a frame's bases.
    fn bases(&mut self, kind: PackKind, entry: &DirectoryEntry) -> Result<()> {
        self.prefix.clear();
        match entry.frame.bases.is_empty() {
            true => Ok(()),
            false => self.reader.bases(kind, &entry.frame.bases, &mut self.prefix),
        }
    }

    fn whole(&mut self, key: &Arc<PackKey>, number: u32, entry: &DirectoryEntry) -> Result<Result<()>> {
        let writer = key.preamble().writer;
        let target = target(&mut self.targets, self.repo, self.session, writer);
        let open = target.open.of(key.preamble().kind)?;
        let (keys, from) = (self.repo.keys(), (&**key, number));
        match self.sealer.reseal(keys, from, entry, &self.sealed, &self.prefix, open.build.key(), open.next) {
            Ok(frame) => self.add(writer, key.preamble().kind, frame).map(Ok),
            Err(e) => Ok(Err(e)),
        }
    }

    fn parts(&mut self, key: &Arc<PackKey>, number: u32, entry: &DirectoryEntry, wanted: &[RepackChoice]) -> Result<Result<()>> {
        let (kind, writer) = (key.preamble().kind, key.preamble().writer);
        let mut plain = Vec::new();
        if let Err(e) = self.sealer.open(key, number, &entry.frame, &self.sealed, &self.prefix, &mut plain) {
            return Ok(Err(e));
        }
        // A difference stays one, if what is left of it is still worth it.
        let mut delta = PlainFrame { bases: entry.frame.bases.clone(), ..PlainFrame::default() };
        let mut rest = &plain[..];
        for ((chunk, len), wanted) in entry.chunks.iter().zip(wanted) {
            let Some(bytes) = rest.split_off(..*len as usize) else { return Ok(Err(Error::corrupt("a frame is too short"))) };
            if *wanted == RepackChoice::No {
                continue;
            }
            let Some(id) = self.repo.keys().chunk_id_of(writer, kind, bytes, |id| id.key() == *chunk) else {
                let text = format!("chunk {}… has other content than its name says", chunk.short());
                return Ok(Err(Error::corrupt(text)));
            };
            if *wanted == RepackChoice::AsItIs && !delta.bases.is_empty() {
                delta.bytes.extend_from_slice(bytes);
                delta.chunks.push((id, *len));
                continue;
            }
            let gathered = &mut target(&mut self.targets, self.repo, self.session, writer).gathered[kind as usize - 1];
            gathered.bytes.extend_from_slice(bytes);
            gathered.chunks.push((id, *len));
            let full = gathered.bytes.len() >= FRAME.min(entry.frame.plain as usize);
            if full || gathered.chunks.len() == MAX_FRAME_CHUNKS {
                self.seal_gathered(writer, kind)?;
            }
        }
        if !delta.chunks.is_empty() {
            self.seal(writer, kind, &delta)?;
        }
        Ok(Ok(()))
    }

    fn seal_gathered(&mut self, writer: Option<WriterId>, kind: PackKind) -> Result<()> {
        let frame = std::mem::take(&mut target(&mut self.targets, self.repo, self.session, writer).gathered[kind as usize - 1]);
        if frame.chunks.is_empty() { Ok(()) } else { self.seal(writer, kind, &frame) }
    }

    fn seal(&mut self, writer: Option<WriterId>, kind: PackKind, frame: &PlainFrame) -> Result<()> {
        let open = target(&mut self.targets, self.repo, self.session, writer).open.of(kind)?;
        let fetch = |kind: PackKind, bases: &[ChunkKey], out: &mut Vec<u8>| self.reader.bases(kind, bases, out);
        // What was worth being a difference is tried each time.
        let deltas = Deltas { trials: &DeltaTrials::default(), fetch: &fetch };
        let frame = self.sealer.seal(self.repo.keys(), open.build.key(), open.next, frame, Some(&deltas))?;
        self.add(writer, kind, frame)
    }

    fn add(&mut self, writer: Option<WriterId>, kind: PackKind, frame: SealedFrame) -> Result<()> {
        let open = target(&mut self.targets, self.repo, self.session, writer).open.of(kind)?;
        open.build.add(open.next, frame);
        open.next += 1;
        if open.build.bytes() >= PACK_TARGET { self.close(writer, kind) } else { Ok(()) }
    }

    /// Stores the open pack of a kind, if there is one.
    fn close(&mut self, writer: Option<WriterId>, kind: PackKind) -> Result<()> {
        // With it the pack may become full and be closed in there.
        self.seal_gathered(writer, kind)?;
        if let Some(build) = target(&mut self.targets, self.repo, self.session, writer).open.close(kind) {
            self.indexer.add(build.store(self.repo)?);
            if self.indexer.waiting().0 == PACKS_A_SEGMENT {
                self.indexer.write_segment()?;
            }
        }
        Ok(())
    }
}

/// The target of a writer; made when there is none.
fn target<'t, 'a>(
    targets: &'t mut BTreeMap<Option<WriterId>, RepackTarget<'a>>,
    repo: &'a Repository,
    session: SnapshotId,
    writer: Option<WriterId>,
) -> &'t mut RepackTarget<'a> {
    let new = || RepackTarget { open: OpenPacks::new(repo, session).of_writer(writer), gathered: Default::default() };
    targets.entry(writer).or_insert_with(new)
}

/// What becomes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RepackChoice {
    /// Nothing: it is not needed, or another copy stays.
    No,
    /// It is copied; with all of its frame, as it is.
    AsItIs,
    /// It is copied into a frame without bases.
    ByItself,
}
