//! Reading index segments by page: a look-up costs a page of the filter and a page of entries, and memory holds only
//! where the pages are, and the pages that were used last.

use std::sync::{Arc, OnceLock};

use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};

use crate::chunk::seal::{SealKey, TAG};
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, CHECKSUM, HEADER, ONE_WAY, ObjectType};
use crate::format::filter::{self, BLOCK, BLOCKS_A_PAGE};
use crate::format::pack::FrameInfo;
use crate::format::segment::{
    self, ENTRIES_A_PAGE, FRAMES_A_PAGE, IndexEntry, PREAMBLE, ROOT_NONCE, SegmentPack, SegmentRoot, TAIL,
};
use crate::model::{ChunkKey, SegmentId, WriterId};
use crate::observe::Counter;
use crate::repo::Repository;
use crate::repo::cache::SegmentSource;
use crate::repo::index::rescue;
use crate::storage::Name;

/// Bytes at the end of a segment that are read first: tail and, nearly always, the root.
const END: u64 = 64 << 10;
/// Bytes of sealed pages that one request fetches when a whole segment is read.
const READ_AHEAD: u64 = 1 << 20;
/// Decoded pages that an index keeps, in bytes.
const PAGES: u64 = 16 << 20;

#[derive(Debug, Clone)]
enum SegmentPage {
    Entries(Arc<Vec<IndexEntry>>),
    Frames(Arc<Vec<FrameInfo>>),
}

#[derive(Debug, Clone)]
struct SegmentPageWeight;

impl Weighter<(SegmentId, u32), SegmentPage> for SegmentPageWeight {
    fn weight(&self, _: &(SegmentId, u32), page: &SegmentPage) -> u64 {
        64 + match page {
            SegmentPage::Entries(entries) => entries.len() * size_of::<IndexEntry>(),
            SegmentPage::Frames(frames) => frames.iter().map(|f| size_of::<FrameInfo>() + f.bases.len() * 16).sum(),
        } as u64
    }
}

/// Decoded pages of several segments, under a byte budget, and counts of what was asked of them.
#[derive(Debug)]
pub struct Pages {
    cache: Cache<(SegmentId, u32), SegmentPage, SegmentPageWeight>,
    /// Segments that look-ups went into, after the filter.
    pub touched: Counter,
    /// Pages fetched and decoded.
    pub(crate) fetched: Counter,
}

impl Pages {
    /// An empty cache.
    pub fn new() -> Result<Self> {
        let options = OptionsBuilder::new()
            .estimated_items_capacity((PAGES >> 13) as usize)
            .weight_capacity(PAGES)
            .shards(4)
            .build()
            .map_err(|e| Error::invalid(format!("a cache of index pages: {e}")))?;
        let cache = Cache::with_options(options, SegmentPageWeight, Default::default(), Default::default());
        Ok(Pages { cache, touched: Counter::default(), fetched: Counter::default() })
    }
}

/// Where a page is in its segment.
#[derive(Debug, Clone, Copy)]
struct PageSpan {
    start: u64,
    len: u32,
}

/// A stored segment, open for look-ups.
#[derive(Debug)]
pub struct PagedSegment {
    id: SegmentId,
    size: u64,
    source: SegmentSource,
    key: SealKey,
    header: [u8; HEADER],
    replaces: Vec<SegmentId>,
    packs: Vec<SegmentPack>,
    /// See [`segment::pack_starts`].
    starts: Vec<u32>,
    frame_pages: Vec<PageSpan>,
    entry_pages: Vec<(ChunkKey, PageSpan)>,
    filter_pages: Vec<PageSpan>,
    /// Pages of the filter, read when they are needed and then kept: ten bits a chunk.
    filter: Vec<OnceLock<Vec<u8>>>,
    entries: u64,
    /// The repository, for the directories of packs.
    repo: Box<Repository>,
    /// What takes the place of pages that are damaged, or why nothing can.
    rescued: OnceLock<std::result::Result<Box<PagedSegment>, String>>,
    /// It is nowhere but in this process's memory.
    in_memory: bool,
    /// The writer, if its key only writes.
    writer: Option<WriterId>,
    /// It is sealed with a key that was changed since.
    former: bool,
}

impl PagedSegment {
    /// Opens a stored segment of `size` bytes: reads its ends.
    pub fn open(repo: &Repository, id: SegmentId, size: u64) -> Result<Self> {
        let source = repo.segment_source(id, size);
        match Self::read(repo, &source, id, size) {
            Err(_) if source.drop_cached() => Self::read(repo, &source, id, size),
            other => other,
        }
        .map_err(|e| e.about(Name::Segment(id)))
    }

    fn read(repo: &Repository, source: &SegmentSource, id: SegmentId, size: u64) -> Result<Self> {
        if size < (PREAMBLE + TAIL + CHECKSUM) as u64 {
            return Err(Error::corrupt(format!("an index segment: {size} bytes are too few")));
        }
        let mut end = Vec::new();
        let from = size.saturating_sub(END);
        source.read(from..size, &mut end)?;
        let first = Self::first(source, &end, from)?;
        let found = match envelope::check_header(&first, ObjectType::Segment, "an index segment") {
            Err(e) if e.kind() == ErrorKind::Unsupported => return Err(Self::judge(repo, source, id, size, &first, e)?),
            found => found?,
        };
        if found != repo.id() || !end.ends_with(&id.0) {
            return Err(Error::corrupt("an index segment is of another repository or has another's name"));
        }
        let (key, age) = Self::key(repo, &first)?;
        let (start, len, pages) = segment::decode_tail(&end, size)?;
        let sealed = match start.checked_sub(from) {
            Some(at) => end[at as usize..(at + len) as usize].to_vec(),
            None => {
                source.read(start..start + len, &mut end)?;
                end
            }
        };
        let writer = segment::writer(&first);
        let header = envelope::header_with(ObjectType::Segment, repo.id(), writer.map_or(0, |_| ONE_WAY));
        let mut plain = Vec::new();
        key.open_to(ROOT_NONCE, &header, &sealed, &mut plain)?;
        let root = root_of(writer, &plain)?;
        let mut at = (PREAMBLE + writer.map_or(0, |_| WriterId::LEN)) as u64;
        let mut place = |len: u32| {
            at += u64::from(len);
            PageSpan { start: at - u64::from(len), len }
        };
        let out = PagedSegment {
            id,
            size,
            source: source.clone(),
            key,
            header,
            replaces: root.replaces,
            starts: segment::pack_starts(&root.packs),
            packs: root.packs,
            frame_pages: root.frame_pages.iter().map(|len| place(*len)).collect(),
            entry_pages: root.entry_pages.iter().map(|(first, len)| (*first, place(*len))).collect(),
            filter: root.filter_pages.iter().map(|_| OnceLock::new()).collect(),
            filter_pages: root.filter_pages.iter().map(|len| place(*len)).collect(),
            entries: root.entries,
            repo: Box::new(repo.on(repo.storage().clone())),
            rescued: OnceLock::new(),
            in_memory: false,
            writer,
            former: age > 0,
        };
        if at != start || out.page_count() != pages as usize {
            return Err(Error::corrupt("an index segment has other pages than it says"));
        }
        Ok(out)
    }

    /// What a segment begins with, of which the bytes `from` some place on are read already. There is more behind the
    /// preamble in any case.
    fn first(source: &SegmentSource, end: &[u8], from: u64) -> Result<Vec<u8>> {
        let mut first = Vec::new();
        match end.get(..PREAMBLE + WriterId::LEN).filter(|_| from == 0) {
            Some(bytes) => first.extend_from_slice(bytes),
            None => source.read(0..(PREAMBLE + WriterId::LEN) as u64, &mut first)?,
        }
        Ok(first)
    }

    fn page_count(&self) -> usize {
        self.frame_pages.len() + self.entry_pages.len() + self.filter_pages.len()
    }

    /// The key of a segment, from its first [`PREAMBLE`] bytes, and how many changes ago that was made of the
    /// repository's.
    fn key(repo: &Repository, first: &[u8]) -> Result<(SealKey, usize)> {
        let mut salt = [0; 32];
        salt.copy_from_slice(&first[HEADER..HEADER + 32]);
        let found = SealKey::committed(&repo.keys().index, &salt, &bound(first), &first[HEADER + 32..PREAMBLE])?;
        found.ok_or_else(|| Error::corrupt("an index segment was sealed with another key"))
    }

    /// What is wrong with a segment that says that it is of another version: only one that is what its name says, and was
    /// made by somebody with the key, is believed.
    fn judge(repo: &Repository, source: &SegmentSource, id: SegmentId, size: u64, first: &[u8], newer: Error) -> Result<Error> {
        if checksum(source, size)? != id.0 {
            return Ok(Error::corrupt("its checksum does not match"));
        }
        let salt = first.get(HEADER..).and_then(|rest| rest.first_chunk::<32>());
        let commitment = first.get(HEADER + 32..PREAMBLE).unwrap_or_default();
        let found = salt.and_then(|salt| SealKey::committed(&repo.keys().index, salt, &bound(first), commitment).ok());
        match found.flatten().is_some() {
            true => Ok(believed(segment::writer(first), newer)),
            false => Ok(Error::corrupt("an index segment was not made with the repository's key")),
        }
    }

    /// What takes the place of this segment for look-ups, when a page of it cannot be had because of `error`.
    fn rescue(&self, error: Error) -> Result<&PagedSegment> {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error);
        }
        let made = self.rescued.get_or_init(|| {
            let next = "the directories of its packs are used instead (yester repair index makes it anew)";
            self.repo.reports().warn("", format!("{error}; {next}"));
            rescue::of_packs(&self.repo, &self.packs).map(Box::new).map_err(|e| e.to_string())
        });
        made.as_ref().map(|segment| &**segment).map_err(|e| error.context(format!("nothing can take its place ({e})")))
    }

    /// The same as [`PagedSegment::find`], for readers: where a page is damaged, the directories of the packs are asked.
    pub(crate) fn find_or_rescue(
        &self,
        key: &ChunkKey,
        filter: bool,
        pages: &Pages,
        visit: &mut dyn FnMut(u32, &IndexEntry),
    ) -> Result<()> {
        let mut found: Vec<(u32, IndexEntry)> = Vec::new();
        match self.find(key, filter, pages, &mut |number, entry| found.push((number, *entry))) {
            Ok(()) => {
                found.iter().for_each(|(number, entry)| visit(*number, entry));
                Ok(())
            }
            Err(e) => self.rescue(e)?.find(key, false, pages, visit),
        }
    }

    /// The same as [`PagedSegment::frame`], for readers.
    pub(crate) fn frame_or_rescue(&self, number: u32, pages: &Pages) -> Result<FrameInfo> {
        self.frame(number, pages).or_else(|e| self.rescue(e)?.frame(number, pages))
    }

    /// The same, known to be nowhere but in memory.
    pub(super) fn of_memory(self) -> Self {
        PagedSegment { in_memory: true, ..self }
    }

    /// The same, for a segment of the storage that it is known by.
    pub(super) fn in_place_of(self, segment: &PagedSegment) -> Self {
        PagedSegment { id: segment.id, size: segment.size, writer: segment.writer, ..self }
    }

    /// Whether it is sealed with a key that was changed since.
    pub(crate) fn is_former(&self) -> bool {
        self.former
    }

    /// Whether it is nowhere but in this process's memory.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Its name.
    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The packs it names.
    pub fn packs(&self) -> &[SegmentPack] {
        &self.packs
    }

    /// The writer, if its key only writes. Nobody else's word is taken for what is in packs of others.
    pub(crate) fn writer(&self) -> Option<WriterId> {
        self.writer
    }

    /// Segments whose place it takes.
    pub(crate) fn replaces(&self) -> &[SegmentId] {
        &self.replaces
    }

    /// How many entries it has.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// How many frames it has.
    pub fn frames(&self) -> u32 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// The number of the pack (among [`PagedSegment::packs`]) that holds a frame, and of the frame in that pack.
    pub fn pack_of(&self, frame: u32) -> (usize, u32) {
        let pack = self.starts.partition_point(|start| *start <= frame).saturating_sub(1);
        (pack, frame - self.starts[pack])
    }

    fn open_page(&self, number: usize, sealed: &[u8], plain: &mut Vec<u8>) -> Result<()> {
        let opened = self.key.open_to(number as u64, &self.header, sealed, plain);
        opened.map_err(|e| e.context(format!("page {number}")).about(Name::Segment(self.id)))
    }

    /// Reads and opens a page; a cached copy that does not open is fetched again.
    fn plain_page(&self, number: usize, place: PageSpan, pages: &Pages) -> Result<Vec<u8>> {
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        let range = place.start..place.start + u64::from(place.len);
        pages.fetched.add(1);
        let read = self.source.read(range.clone(), &mut sealed);
        match read.and_then(|()| self.open_page(number, &sealed, &mut plain)) {
            Err(_) if self.source.drop_cached() => {
                self.source.read(range, &mut sealed)?;
                self.open_page(number, &sealed, &mut plain)?;
            }
            other => other?,
        }
        Ok(plain)
    }

    fn entry_page(&self, page: usize, pages: &Pages) -> Result<Arc<Vec<IndexEntry>>> {
        let number = self.frame_pages.len() + page;
        let found = pages.cache.get_or_insert_with(&(self.id, number as u32), || {
            let plain = self.plain_page(number, self.entry_pages[page].1, pages)?;
            Ok::<_, Error>(SegmentPage::Entries(Arc::new(self.decode_entries(page, &plain)?)))
        })?;
        match found {
            SegmentPage::Entries(entries) => Ok(entries),
            SegmentPage::Frames(_) => Err(Error::corrupt("a page of an index segment is of two kinds")),
        }
    }

    fn decode_entries(&self, page: usize, plain: &[u8]) -> Result<Vec<IndexEntry>> {
        let count = (self.entries - (page * ENTRIES_A_PAGE) as u64).min(ENTRIES_A_PAGE as u64);
        let entries = segment::decode_entries(plain, count as usize, self.frames()).map_err(|e| self.believed(e))?;
        let next = self.entry_pages.get(page + 1).map(|(first, _)| *first);
        let last = entries.last().map(|e| e.key);
        if entries.first().map(|e| e.key) != Some(self.entry_pages[page].0) || next.zip(last).is_some_and(|(n, l)| l > n) {
            return Err(Error::corrupt(format!("{}: its pages overlap", Name::Segment(self.id))));
        }
        Ok(entries)
    }

    fn believed(&self, error: Error) -> Error {
        believed(self.writer, error.about(Name::Segment(self.id)))
    }

    fn decode_frames(&self, page: usize, plain: &[u8]) -> Result<Vec<FrameInfo>> {
        let frames = segment::decode_frames(plain, (page * FRAMES_A_PAGE) as u32, &self.starts);
        frames.map_err(|e| self.believed(e))
    }

    /// A frame by its number in the segment.
    pub fn frame(&self, number: u32, pages: &Pages) -> Result<FrameInfo> {
        let none = || Error::corrupt(format!("{} has no frame {number}", Name::Segment(self.id)));
        let page = number as usize / FRAMES_A_PAGE;
        let place = *self.frame_pages.get(page).ok_or_else(none)?;
        let found = pages.cache.get_or_insert_with(&(self.id, page as u32), || {
            let plain = self.plain_page(page, place, pages)?;
            Ok::<_, Error>(SegmentPage::Frames(Arc::new(self.decode_frames(page, &plain)?)))
        })?;
        match found {
            SegmentPage::Frames(frames) => frames.get(number as usize % FRAMES_A_PAGE).cloned().ok_or_else(none),
            SegmentPage::Entries(_) => Err(none()),
        }
    }

    /// Whether the filter lets the key pass; false: the segment does not have it.
    fn passes(&self, key: &ChunkKey, pages: &Pages) -> Result<bool> {
        let Some(last) = self.filter_pages.last() else { return Ok(true) };
        let blocks_of = |place: &PageSpan| (place.len as usize).saturating_sub(TAG) / BLOCK;
        let blocks = (self.filter_pages.len() - 1) * BLOCKS_A_PAGE + blocks_of(last);
        let block = filter::block_of(key, blocks as u64) as usize;
        let page = block / BLOCKS_A_PAGE;
        let held = match self.filter[page].get() {
            Some(held) => held,
            None => {
                let number = self.frame_pages.len() + self.entry_pages.len() + page;
                let plain = match self.plain_page(number, self.filter_pages[page], pages) {
                    // It only spares look-ups.
                    Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(true),
                    plain => plain?,
                };
                self.filter[page].get_or_init(|| plain)
            }
        };
        let start = block % BLOCKS_A_PAGE * BLOCK;
        let bytes: Option<&[u8; BLOCK]> = held.get(start..).and_then(|rest| rest.first_chunk());
        Ok(bytes.is_none_or(|bytes| filter::may_hold(key, bytes)))
    }

    /// Visits all entries of `key`, with their numbers. With `filter` the filter is asked first: worth it where most
    /// keys are not to be found.
    pub fn find(&self, key: &ChunkKey, filter: bool, pages: &Pages, visit: &mut dyn FnMut(u32, &IndexEntry)) -> Result<()> {
        let (Some((first, _)), true) = (self.entry_pages.first(), self.entries > 0) else { return Ok(()) };
        if key < first || filter && !self.passes(key, pages)? {
            return Ok(());
        }
        pages.touched.add(1);
        // The key may stand several times, and so at the end of one page and the beginning of the next.
        let above = self.entry_pages.partition_point(|(first, _)| first < key);
        for page in above.saturating_sub(1)..self.entry_pages.len() {
            if page >= above && self.entry_pages[page].0 != *key {
                break;
            }
            let entries = self.entry_page(page, pages)?;
            let start = entries.partition_point(|e| e.key < *key);
            for (at, entry) in entries[start..].iter().enumerate().take_while(|(_, e)| e.key == *key) {
                visit((page * ENTRIES_A_PAGE + start + at) as u32, entry);
            }
        }
        Ok(())
    }

    fn place(&self, number: usize) -> Option<PageSpan> {
        let entries = self.frame_pages.len();
        let filter = entries + self.entry_pages.len();
        match number {
            n if n < entries => Some(self.frame_pages[n]),
            n if n < filter => Some(self.entry_pages[n - entries].1),
            n => self.filter_pages.get(n - filter).copied(),
        }
    }

    /// Reads all of it: its checksum, which is its name, and what every page says.
    pub fn verify(self: &Arc<Self>) -> Result<()> {
        if checksum(&self.source, self.size)? != self.id.0 {
            return Err(Error::corrupt(format!("{}: its checksum does not match", Name::Segment(self.id))));
        }
        self.each_frame(&mut |_, _| Ok(()))?;
        self.all_entries().try_for_each(|entry| entry.map(drop))?;
        let mut run = PageRun::default();
        let before = self.frame_pages.len() + self.entry_pages.len();
        (0..self.filter_pages.len()).try_for_each(|page| run.page(self, before + page).map(drop))
    }

    /// Visits all frames in order, past the page cache.
    pub(crate) fn each_frame(&self, visit: &mut dyn FnMut(u32, FrameInfo) -> Result<()>) -> Result<()> {
        let mut run = PageRun::default();
        let mut number = 0;
        for page in 0..self.frame_pages.len() {
            for frame in self.decode_frames(page, run.page(self, page)?)? {
                visit(number, frame)?;
                number += 1;
            }
        }
        Ok(())
    }

    /// Reads all entries in order, past the page cache.
    pub fn all_entries(self: &Arc<Self>) -> Entries {
        Entries { segment: self.clone(), run: PageRun::default(), page: 0, loaded: Vec::new().into_iter() }
    }
}

/// The root of a segment of this writer, as it may be.
fn root_of(writer: Option<WriterId>, plain: &[u8]) -> Result<SegmentRoot> {
    let root = segment::decode_root(plain).map_err(|e| believed(writer, e))?;
    match writer.is_some() && !root.replaces.is_empty() {
        true => Err(Error::corrupt("a key that only writes must not take the place of index segments")),
        false => Ok(root),
    }
}

/// What is wrong with a segment of this writer. Whoever stole a key that only writes could stop everybody with a segment of
/// a version that nobody knows: one of such a key is as good as a damaged one, of which the packs say what it said.
fn believed(writer: Option<WriterId>, error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported if writer.is_some() => error.with_kind(ErrorKind::Corrupt),
        _ => error,
    }
}

/// What the key of a segment that begins like this is of.
fn bound(first: &[u8]) -> Vec<u8> {
    first.first_chunk().map_or_else(Vec::new, |header| segment::bound(header, segment::writer(first)))
}

/// BLAKE3 of all of a segment but its last 32 bytes.
fn checksum(source: &SegmentSource, size: u64) -> Result<[u8; CHECKSUM]> {
    let (mut hasher, mut part) = (blake3::Hasher::new(), Vec::new());
    let end = size.saturating_sub(CHECKSUM as u64);
    for start in (0..end).step_by(READ_AHEAD as usize) {
        source.read(start..(start + READ_AHEAD).min(end), &mut part)?;
        hasher.update(&part);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Reads pages one after the other, many with one request.
#[derive(Debug, Default)]
struct PageRun {
    sealed: Vec<u8>,
    /// Where `sealed` begins in the segment.
    start: u64,
    plain: Vec<u8>,
}

impl PageRun {
    fn page(&mut self, segment: &PagedSegment, number: usize) -> Result<&[u8]> {
        let place = segment.place(number).ok_or_else(|| Error::corrupt("an index segment has too few pages"))?;
        let end = place.start + u64::from(place.len);
        if place.start < self.start || end > self.start + self.sealed.len() as u64 {
            let last = segment.filter_pages.last().or(segment.entry_pages.last().map(|(_, place)| place)).unwrap_or(&place);
            let until = (place.start + READ_AHEAD).min(last.start + u64::from(last.len)).max(end);
            segment.source.read(place.start..until, &mut self.sealed)?;
            self.start = place.start;
        }
        let at = (place.start - self.start) as usize;
        let opened = segment.open_page(number, &self.sealed[at..at + place.len as usize], &mut self.plain);
        if opened.is_err() && segment.source.drop_cached() {
            segment.source.read(place.start..end, &mut self.sealed)?;
            self.start = place.start;
            segment.open_page(number, &self.sealed, &mut self.plain)?;
        } else {
            opened?;
        }
        Ok(&self.plain)
    }
}

/// All entries of a segment, sorted by key.
#[derive(Debug)]
pub struct Entries {
    segment: Arc<PagedSegment>,
    run: PageRun,
    page: usize,
    loaded: std::vec::IntoIter<IndexEntry>,
}

impl Iterator for Entries {
    type Item = Result<IndexEntry>;

    fn next(&mut self) -> Option<Result<IndexEntry>> {
        if let Some(entry) = self.loaded.next() {
            return Some(Ok(entry));
        }
        if self.page == self.segment.entry_pages.len() {
            return None;
        }
        let number = self.segment.frame_pages.len() + self.page;
        let decoded = self.run.page(&self.segment, number).and_then(|plain| self.segment.decode_entries(self.page, plain));
        // After an error there is no more to come.
        self.page = if decoded.is_ok() { self.page + 1 } else { self.segment.entry_pages.len() };
        match decoded {
            Ok(entries) => self.loaded = entries.into_iter(),
            Err(e) => return Some(Err(e)),
        }
        self.loaded.next().map(Ok)
    }
}
