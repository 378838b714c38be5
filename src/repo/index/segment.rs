//! Writing index segments: entries and frames in, pages out, one after the other.

use crate::chunk::seal::SealKey;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::format::envelope::{self, HEADER, ONE_WAY, ObjectType};
use crate::format::filter::{self, BLOCK, BLOCKS_A_PAGE};
use crate::format::pack::FrameInfo;
use crate::format::segment::{
    self, ENTRIES_A_PAGE, FRAMES_A_PAGE, IndexEntry, MAX_ENTRIES, ROOT_NONCE, SegmentPack, SegmentRoot,
};
use crate::model::SegmentId;
use crate::repo::Repository;
use crate::repo::pack::StoredPack;
use crate::storage::Name;
use crate::sys::spool::Spool;

/// Segments longer than this are put together in a file.
const IN_MEMORY: u64 = 16 << 20;
/// What an entry takes, about.
const ENTRY_BYTES: u64 = 26;

/// What a segment says of new packs, in memory: sorted entries, and the frames they point to.
#[derive(Debug, Default)]
pub struct Segment {
    packs: Vec<SegmentPack>,
    /// Their frames, pack after pack.
    frames: Vec<FrameInfo>,
    entries: Vec<IndexEntry>,
}

impl Segment {
    /// The segment of these packs.
    pub fn of_packs(packs: &[StoredPack]) -> Segment {
        let mut out = Segment::default();
        for stored in packs {
            let frames = stored.entries.len() as u32;
            out.packs.push(SegmentPack { id: stored.id, kind: stored.kind, size: stored.size, frames, one_way: stored.one_way });
            for entry in &stored.entries {
                let frame = out.frames.len() as u32;
                out.frames.push(entry.frame.clone());
                let mut offset = 0;
                for (key, len) in &entry.chunks {
                    out.entries.push(IndexEntry { key: *key, frame, offset, len: *len });
                    offset += len;
                }
            }
        }
        // The same chunk may stand twice, in two packs: both stay, in the order of the packs.
        out.entries.sort_by_key(|e| e.key);
        out
    }

    /// Seals and stores the segment, in the place of `replaces`; returns its name and size.
    pub fn store(&self, repo: &Repository, replaces: Vec<SegmentId>) -> Result<(SegmentId, u64)> {
        let mut writer = SegmentWriter::new(repo, self.entries.len() as u64)?;
        self.frames.iter().try_for_each(|frame| writer.frame(frame.clone()))?;
        self.entries.iter().try_for_each(|entry| writer.entry(*entry))?;
        writer.finish(self.packs.clone(), replaces)
    }
}

/// Writes one segment: first all frames, in the order of the packs; then all entries, sorted by key.
pub struct SegmentWriter<'a> {
    repo: &'a Repository,
    key: SealKey,
    header: [u8; HEADER],
    spool: Spool,
    hasher: blake3::Hasher,
    pages: u64,
    root: SegmentRoot,
    frames: Vec<FrameInfo>,
    /// Frames in all.
    all_frames: u64,
    /// Whether only what readers take is written.
    checked: bool,
    entries: Vec<IndexEntry>,
    filter: Vec<[u8; BLOCK]>,
}

impl<'a> SegmentWriter<'a> {
    /// A segment of at most `entries` entries.
    pub fn new(repo: &'a Repository, entries: u64) -> Result<Self> {
        if entries > MAX_ENTRIES {
            return Err(Error::new(ErrorKind::Unsupported, "a segment cannot hold more than 2³² chunks"));
        }
        let writer = repo.keys().writer();
        let flags = if writer.is_some() { ONE_WAY } else { 0 };
        let header = envelope::header_with(ObjectType::Segment, repo.id(), flags);
        let (salt, key) = SealKey::fresh(&repo.keys().index, &segment::bound(&header, writer))?;
        let expected = 4096 + entries * ENTRY_BYTES;
        let spool = match repo.scratch() {
            Some(directory) if expected > IN_MEMORY => {
                Spool::in_file(directory).at(|| "cannot put an index segment together".to_owned())?
            }
            _ => Spool::in_memory(expected as usize),
        };
        let blocks = if entries > ENTRIES_A_PAGE as u64 { filter::blocks(entries) } else { 0 };
        let mut out = SegmentWriter {
            repo,
            key,
            header,
            spool,
            hasher: blake3::Hasher::new(),
            pages: 0,
            root: SegmentRoot::default(),
            frames: Vec::with_capacity(FRAMES_A_PAGE),
            all_frames: 0,
            checked: true,
            entries: Vec::with_capacity(ENTRIES_A_PAGE),
            filter: vec![[0; BLOCK]; blocks as usize],
        };
        let commitment = out.key.commitment;
        let name = writer.map_or_else(Vec::new, |writer| writer.0.to_vec());
        [&header[..], &salt, &commitment, &name].iter().try_for_each(|part| out.put(part))?;
        Ok(out)
    }

    /// Writes entries whether or not a reader would take them: for tests of readers.
    pub fn unchecked(self) -> Self {
        SegmentWriter { checked: false, ..self }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.spool.write(bytes).at(|| "cannot put an index segment together".to_owned())
    }

    fn page(&mut self, mut plain: Vec<u8>) -> Result<u32> {
        self.key.seal(self.pages, &self.header, &mut plain)?;
        self.pages += 1;
        self.put(&plain)?;
        Ok(plain.len() as u32)
    }

    /// Appends a frame.
    pub fn frame(&mut self, frame: FrameInfo) -> Result<()> {
        self.frames.push(frame);
        self.all_frames += 1;
        if self.frames.len() == FRAMES_A_PAGE { self.frame_page() } else { Ok(()) }
    }

    fn frame_page(&mut self) -> Result<()> {
        if !self.frames.is_empty() {
            let page = segment::encode_frames(&self.frames)?;
            self.frames.clear();
            let len = self.page(page)?;
            self.root.frame_pages.push(len);
        }
        Ok(())
    }

    /// Appends an entry; its key must not be below the last one's.
    pub fn entry(&mut self, entry: IndexEntry) -> Result<()> {
        if self.root.entries == 0 {
            self.frame_page()?;
        }
        self.root.entries += 1;
        self.entries.push(entry);
        if !self.filter.is_empty() {
            let block = filter::block_of(&entry.key, self.filter.len() as u64) as usize;
            filter::insert(&entry.key, &mut self.filter[block]);
        }
        if self.entries.len() == ENTRIES_A_PAGE { self.entry_page() } else { Ok(()) }
    }

    fn entry_page(&mut self) -> Result<()> {
        if let Some(first) = self.entries.first().map(|e| e.key) {
            let frames = u32::try_from(self.all_frames).unwrap_or(u32::MAX);
            let page = match self.checked {
                true => segment::encode_entries(&self.entries, frames)?,
                false => segment::encode_entries_unchecked(&self.entries),
            };
            self.entries.clear();
            let len = self.page(page)?;
            self.root.entry_pages.push((first, len));
        }
        Ok(())
    }

    /// Writes the rest and stores the segment; returns its name and size. Durable after the next barrier.
    pub fn finish(mut self, packs: Vec<SegmentPack>, replaces: Vec<SegmentId>) -> Result<(SegmentId, u64)> {
        self.frame_page()?;
        self.entry_page()?;
        let filter = std::mem::take(&mut self.filter);
        for blocks in filter.chunks(BLOCKS_A_PAGE) {
            let len = self.page(blocks.concat())?;
            self.root.filter_pages.push(len);
        }
        self.root.packs = packs;
        self.root.replaces = replaces;
        let start = self.spool.len();
        let mut root = segment::encode_root(&self.root)?;
        self.key.seal(ROOT_NONCE, &self.header, &mut root)?;
        self.put(&root)?;
        self.put(&segment::encode_tail(start, root.len() as u32, self.pages as u32))?;
        let id = SegmentId(*self.hasher.finalize().as_bytes());
        let size = self.spool.len() + id.0.len() as u64;
        let object = self.spool.finish().at(|| "cannot put an index segment together".to_owned())?;
        self.repo.storage().create(&Name::Segment(id), &[&object, &id.0])?;
        Ok((id, size))
    }
}
