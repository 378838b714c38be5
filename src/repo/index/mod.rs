//! The index of an open repository: its visible segments, and which of their packs may be relied on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{DirectoryEntry, FrameInfo, PackKind};
use crate::format::segment::{IndexEntry, SegmentPack};
use crate::model::{ChunkKey, PackId, SegmentId};
use crate::repo::Repository;
use crate::repo::damaged::Damaged;
use crate::repo::index::paged::{PagedSegment, Pages};
use crate::repo::parallel;
use crate::storage::{Class, Name};

pub mod condemned;
mod confirm;
pub mod known;
pub mod merge;
pub mod paged;
pub(crate) mod rescue;
pub mod segment;

/// Where a chunk is, as numbers into the index that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLocation {
    segment: u32,
    frame: u32,
    entry: u32,
    /// Where the chunk begins in its frame's plain bytes.
    pub(crate) offset: u32,
    /// Its length.
    pub(crate) len: u32,
}

impl ChunkLocation {
    /// The frame's place in the order of segments, packs and frames: reading frames in this order reads every pack
    /// from its start to its end. Equal for chunks of one frame.
    pub(crate) fn frame_order(&self) -> (u32, u32) {
        (self.segment, self.frame)
    }

    /// The entry's own place: its segment, and its number among the entries of that segment. Marks are bits by this.
    pub(crate) fn entry(&self) -> (u32, u32) {
        (self.segment, self.entry)
    }
}

/// A frame that a location points to.
#[derive(Debug, Clone)]
pub struct FrameRef {
    /// The pack it is in.
    pub(crate) pack: SegmentPack,
    /// Its number in the pack.
    pub(crate) number: u32,
    /// Where and what it is.
    pub(crate) info: FrameInfo,
}

/// The visible segments of a repository, as they were when it was loaded.
#[derive(Debug)]
pub struct Index {
    /// The longest first: most look-ups end there.
    segments: Vec<Arc<PagedSegment>>,
    pages: Arc<Pages>,
    /// Of each segment, which of its packs are in the storage and not marked for deletion; `None` when only readers use this.
    usable: Option<Vec<Vec<bool>>>,
    /// Segments that are there, though others have taken their place.
    replaced: Vec<SegmentId>,
    /// Whether a deletion list exists, a pack that a segment names is missing, or anything is known to be damaged: then nothing
    /// may be adopted unchecked.
    suspicious: bool,
    /// All segments that were listed, sorted, and when that listing began.
    listed: Vec<SegmentId>,
    began: Instant,
    /// What is known to be damaged of packs.
    damaged: Arc<Damaged>,
    /// Whether look-ups go on where a page is damaged, by the directories of packs.
    rescue: bool,
    /// Segments that cannot be opened, and are left out.
    ignored: Vec<SegmentId>,
    /// Packs that a list of packs marked for deletion has named, whenever this index or one before it was loaded for
    /// writing.
    marked: HashSet<PackId>,
}

impl Index {
    /// Opens all visible segments, for reading. Where one is damaged, or is none that this repository's writers made, the
    /// packs that no other names are known by their own directories: reading needs no repair first.
    pub fn load(repo: &Repository) -> Result<Index> {
        Self::load_to_read(repo, None)
    }

    /// As [`Index::load`]; segments and pages that `old` has open are used again.
    pub(crate) fn load_to_read(repo: &Repository, old: Option<&Index>) -> Result<Index> {
        let mut index = Self::load_to_go_on(repo, old)?;
        if let (Some(frames), None, true) = (repo.frame_cache(), old, index.ignored.is_empty()) {
            // Of packs that no segment names any more nothing will be read.
            frames.retain(index.packs().map(|pack| pack.id));
        }
        let mut kept = old.into_iter().flat_map(|old| &old.segments).filter(|segment| segment.is_in_memory()).peekable();
        if index.ignored.is_empty() && kept.peek().is_none() {
            return Ok(index);
        }
        let stored: HashSet<PackId> = index.packs().map(|pack| pack.id).collect();
        let lacks = |segment: &&Arc<PagedSegment>| segment.packs().iter().any(|pack| !stored.contains(&pack.id));
        let mut segments: Vec<Arc<PagedSegment>> = kept.filter(lacks).cloned().collect();
        if index.ignored.is_empty() {
            index.segments.extend(segments);
            return Ok(index);
        }
        let named = index.packs().chain(segments.iter().flat_map(|segment| segment.packs())).map(|pack| pack.id).collect();
        segments.extend(rescue::of_unnamed(repo, &named)?.into_iter().map(Arc::new));
        index.segments.extend(segments);
        Ok(index)
    }

    /// The same index, for reading, with what the packs that no segment names say of themselves: a segment may have been
    /// lost. `None`: there are no such packs. Those that are marked for deletion do not count.
    pub(crate) fn with_unnamed(&self, repo: &Repository) -> Result<Option<Index>> {
        let mut passed: HashSet<PackId> = self.packs().map(|pack| pack.id).collect();
        passed.extend(condemned::read_all(repo)?.packs());
        let found = rescue::of_unnamed(repo, &passed)?;
        if found.is_empty() {
            return Ok(None);
        }
        let segments = self.segments.iter().cloned().chain(found.into_iter().map(Arc::new)).collect();
        Ok(Some(Index {
            segments,
            pages: self.pages.clone(),
            usable: None,
            replaced: self.replaced.clone(),
            suspicious: true,
            listed: self.listed.clone(),
            began: self.began,
            damaged: self.damaged.clone(),
            rescue: true,
            ignored: self.ignored.clone(),
            marked: self.marked.clone(),
        }))
    }

    /// All segments that were listed, sorted.
    pub fn listed(&self) -> &[SegmentId] {
        &self.listed
    }

    /// As [`Index::load_after`], without the segments that cannot be opened: these say nothing.
    fn load_to_go_on(repo: &Repository, old: Option<&Index>) -> Result<Index> {
        let (mut index, damaged) = Self::load_with_damage(repo, old)?;
        for (id, e) in damaged {
            if e.kind() != ErrorKind::Corrupt {
                return Err(e);
            }
            if old.is_none_or(|old| !old.ignored.contains(&id)) {
                let next = "it is ignored (yester repair index makes anew what it said, yester prune removes it)";
                repo.reports().warn("", format!("{e}; {next}"));
            }
            index.ignored.push(id);
        }
        index.rescue = true;
        Ok(index)
    }

    /// Opens all visible segments, for a caller that reads all of them. A damaged one is an error that says how to go on.
    /// Segments and pages that `old` has open are used again.
    pub fn load_after(repo: &Repository, old: Option<&Index>) -> Result<Index> {
        let (index, damaged) = Self::load_with_damage(repo, old)?;
        match damaged.into_iter().next() {
            Some((_, e)) => Err(damaged_index(e)),
            None => Ok(index),
        }
    }

    /// The index as it is now, for the same purpose.
    pub(crate) fn load_again(&self, repo: &Repository) -> Result<Index> {
        if self.rescue { Self::load_to_read(repo, Some(self)) } else { Self::load_after(repo, Some(self)) }
    }

    /// Opens all visible segments that can be opened, and says which cannot. Segments that prune deletes between the
    /// listing and the look into them are no damage: what took their place is listed then.
    pub(crate) fn load_with_damage(repo: &Repository, old: Option<&Index>) -> Result<(Index, Vec<(SegmentId, Error)>)> {
        let mut known: HashMap<SegmentId, Arc<PagedSegment>> =
            old.into_iter().flat_map(|index| &index.segments).map(|segment| (segment.id(), segment.clone())).collect();
        let mut gone_before = HashSet::new();
        let found = loop {
            let found = OpenedSegments::look(repo, &known)?;
            // One that is listed again and cannot be found again is not there, whatever the listing says.
            if found.gone.iter().all(|id| gone_before.contains(id)) {
                break found;
            }
            gone_before.extend(found.gone);
            known.extend(found.segments.into_iter().map(|segment| (segment.id(), segment)));
        };
        let pages = match old {
            Some(index) => index.pages.clone(),
            None => Arc::new(Pages::new()?),
        };
        let OpenedSegments { segments, replaced, damaged, listed, began, .. } = found;
        let unsound = Arc::new(Damaged::load(repo)?);
        let index = Index {
            segments,
            pages,
            usable: None,
            replaced,
            suspicious: false,
            listed,
            began,
            damaged: unsound,
            rescue: false,
            ignored: Vec::new(),
            marked: HashSet::new(),
        };
        Ok((index, damaged))
    }

    /// When the listing began that this index is of: what was stored and indexed before is in it.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Whether there are other segments by now.
    pub(crate) fn has_moved(&self, repo: &Repository) -> Result<bool> {
        let mut listed: Vec<SegmentId> = list_segments(repo)?.into_iter().map(|(_, id)| id).collect();
        listed.sort_unstable();
        Ok(listed != self.listed)
    }

    /// Loads the index as a writer needs it: segments, then deletion lists, then the list of packs, in this order
    /// (rule 2 of docs/durability.md). A chunk counts as known only in a pack that is there and not marked for deletion, and
    /// in a frame that is not known to be damaged.
    pub fn load_for_writing(repo: &Repository) -> Result<Index> {
        Self::load_to_write(repo, None)
    }

    /// The index as a writer needs it now, whose session has been open since before it loaded this one: in the same order.
    /// A pack that was marked for deletion at any time since does not count again.
    pub(crate) fn load_again_for_writing(&self, repo: &Repository) -> Result<Index> {
        Self::load_to_write(repo, Some(self))
    }

    fn load_to_write(repo: &Repository, old: Option<&Index>) -> Result<Index> {
        if repo.only_writes() {
            return Self::of_nothing();
        }
        let mut index = Self::load_to_go_on(repo, old)?;
        let lists = crate::repo::index::condemned::read_all(repo)?;
        let mut marked = lists.packs();
        marked.extend(old.into_iter().flat_map(|old| &old.marked));
        let present: HashMap<PackId, u64> = list_packs(repo)?;
        let mut missing = false;
        let mut usable = |pack: &SegmentPack| match present.get(&pack.id) {
            Some(size) if *size == pack.size => !marked.contains(&pack.id),
            _ => {
                missing = true;
                false
            }
        };
        index.usable = Some(index.segments.iter().map(|s| s.packs().iter().map(&mut usable).collect()).collect());
        // A record may be of packs that the index does not name any more: what was in them is missing.
        let damaged = !index.damaged.records.is_empty();
        let listed = !lists.lists.is_empty() || lists.damaged;
        index.suspicious = missing || damaged || listed || !index.ignored.is_empty();
        index.marked = marked;
        Ok(index)
    }

    /// The segments that are listed now and were not when this was loaded.
    pub(crate) fn new_segments(&self, repo: &Repository) -> Result<Vec<SegmentId>> {
        let listed = list_segments(repo)?.into_iter().map(|(_, id)| id);
        Ok(listed.filter(|id| self.listed.binary_search(id).is_err()).collect())
    }

    /// The index of who can read none: nothing that is there is counted on.
    fn of_nothing() -> Result<Index> {
        Ok(Index {
            segments: Vec::new(),
            pages: Arc::new(Pages::new()?),
            usable: Some(Vec::new()),
            replaced: Vec::new(),
            suspicious: false,
            listed: Vec::new(),
            began: Instant::now(),
            damaged: Arc::default(),
            rescue: false,
            ignored: Vec::new(),
            marked: HashSet::new(),
        })
    }

    /// An index of what a session has stored so far, which shares the page cache of this one: empty at first.
    pub(crate) fn of_session(&self) -> Index {
        Index {
            segments: Vec::new(),
            pages: self.pages.clone(),
            usable: Some(Vec::new()),
            replaced: Vec::new(),
            suspicious: false,
            listed: Vec::new(),
            began: self.began,
            damaged: Arc::default(),
            rescue: false,
            ignored: Vec::new(),
            marked: HashSet::new(),
        }
    }

    /// Takes these segments of the session in the place of those it had.
    pub(crate) fn set_session(&mut self, segments: Vec<Arc<PagedSegment>>) {
        self.usable = Some(segments.iter().map(|s| vec![true; s.packs().len()]).collect());
        self.segments = segments;
    }

    /// Whether unchanged files must have every chunk looked up before they are adopted.
    pub(crate) fn is_suspicious(&self) -> bool {
        self.suspicious
    }

    /// What is known to be damaged of packs.
    pub(crate) fn damaged(&self) -> &Arc<Damaged> {
        &self.damaged
    }

    /// Segments that are there and cannot be opened.
    pub(crate) fn ignored(&self) -> &[SegmentId] {
        &self.ignored
    }

    /// The visible segments.
    pub fn segments(&self) -> &[Arc<PagedSegment>] {
        &self.segments
    }

    /// The pages in memory, with counts of what was asked of them.
    pub fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// Every pack that a visible segment names; one may come twice.
    pub fn packs(&self) -> impl Iterator<Item = &SegmentPack> {
        self.segments.iter().flat_map(|segment| segment.packs())
    }

    /// Segments that are there, though visible ones have taken their place: what only prune deletes (rule 8).
    pub fn replaced(&self) -> &[SegmentId] {
        &self.replaced
    }

    /// Entries of each visible segment: one a chunk and pack it is in.
    pub(crate) fn entry_counts(&self) -> Vec<u64> {
        self.segments.iter().map(|segment| segment.entries()).collect()
    }

    /// Visits every entry of one visible segment (by its number in [`Index::segments`]), sorted by key.
    pub fn scan(
        &self,
        segment: usize,
        visit: &mut dyn FnMut(ChunkLocation, &ChunkKey, &SegmentPack) -> Result<()>,
    ) -> Result<()> {
        let Some(found) = self.segments.get(segment) else { return Ok(()) };
        for (number, entry) in found.all_entries().enumerate() {
            let IndexEntry { key, frame, offset, len } = entry?;
            let location = ChunkLocation { segment: segment as u32, frame, entry: number as u32, offset, len };
            visit(location, &key, &found.packs()[found.pack_of(frame).0])?;
        }
        Ok(())
    }

    /// Visits every frame of one visible segment, pack after pack, with its number in the pack.
    pub fn scan_frames(&self, segment: usize, visit: &mut dyn FnMut(&SegmentPack, u32, &FrameInfo) -> Result<()>) -> Result<()> {
        let Some(found) = self.segments.get(segment) else { return Ok(()) };
        found.each_frame(&mut |frame, info| {
            let (pack, number) = found.pack_of(frame);
            visit(&found.packs()[pack], number, &info)
        })
    }

    /// The directory of a pack as the index has it: for a pack whose own is damaged. Goes through a whole segment.
    pub(crate) fn directory_of(&self, pack: PackId) -> Result<Vec<DirectoryEntry>> {
        // Of each frame its chunks: offset, key, length.
        type Chunks = Vec<(u32, ChunkKey, u32)>;
        let mut frames: BTreeMap<u32, (FrameInfo, Chunks)> = BTreeMap::new();
        for segment in 0..self.segments.len() {
            if !frames.is_empty() {
                break;
            }
            self.scan(segment, &mut |location, key, found| {
                if found.id == pack {
                    let frame = self.frame(&location)?;
                    let entry = frames.entry(frame.number).or_insert_with(|| (frame.info, Vec::new()));
                    entry.1.push((location.offset, *key, location.len));
                }
                Ok(())
            })?;
        }
        let entry = |(frame, mut chunks): (FrameInfo, Chunks)| {
            chunks.sort_unstable();
            DirectoryEntry { frame, chunks: chunks.into_iter().map(|(_, key, len)| (key, len)).collect() }
        };
        Ok(frames.into_values().map(entry).collect())
    }

    /// Writes one segment with what these visible segments say of the packs that `keep` wants. It takes the place of
    /// them and of `also`. `None`: nothing is kept, and nothing was written. Durable after the next barrier.
    pub fn rewrite(
        &self,
        repo: &Repository,
        which: &[usize],
        also: &[SegmentId],
        keep: &dyn Fn(&SegmentPack) -> bool,
    ) -> Result<Option<(SegmentId, u64)>> {
        let parts: Vec<Arc<PagedSegment>> = which.iter().filter_map(|at| self.segments.get(*at)).cloned().collect();
        merge::merge(repo, &parts, also, keep)
    }

    /// Where the chunk is, in packs of `kind` only; for writers, in packs and frames that may be relied on only, and for
    /// readers in one that is known to be damaged only if there is no other.
    pub fn find(&self, kind: PackKind, key: &ChunkKey) -> Result<Option<ChunkLocation>> {
        if self.usable.is_none() && !self.damaged.is_empty() {
            return Ok(self.find_all(kind, key)?.first().copied());
        }
        let mut found = None;
        for at in 0..self.segments.len() {
            self.find_in(at, kind, key, &mut |location| found = found.or(Some(location)))?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Every place where the chunk is: those last that are known to be damaged, and for writers not at all.
    pub fn find_all(&self, kind: PackKind, key: &ChunkKey) -> Result<Vec<ChunkLocation>> {
        let mut out = Vec::new();
        for at in 0..self.segments.len() {
            self.find_in(at, kind, key, &mut |location| out.push(location))?;
        }
        if !self.damaged.is_empty() {
            out.sort_by_key(|location| self.is_damaged(location));
        }
        Ok(out)
    }

    fn find_in(&self, at: usize, kind: PackKind, key: &ChunkKey, visit: &mut dyn FnMut(ChunkLocation)) -> Result<()> {
        let segment = &self.segments[at];
        // Writers mostly ask for what is not there, and with several segments so does everybody.
        let filter = self.usable.is_some() || self.segments.len() > 1;
        let mut take = |number: u32, entry: &IndexEntry| {
            let (pack, in_pack) = segment.pack_of(entry.frame);
            let sound = || self.damaged.is_empty() || !self.damaged.has(&segment.packs()[pack].id, in_pack);
            let usable = self.usable.as_ref().is_none_or(|usable| usable[at][pack] && sound());
            if usable && segment.packs()[pack].kind == kind {
                let IndexEntry { frame, offset, len, .. } = *entry;
                visit(ChunkLocation { segment: at as u32, frame, entry: number, offset, len });
            }
        };
        let found = match self.rescue {
            true => segment.find_or_rescue(key, filter, &self.pages, &mut take),
            false => segment.find(key, filter, &self.pages, &mut take),
        };
        found.map_err(damaged_index)
    }

    /// The frame of a location that this index gave.
    pub fn frame(&self, location: &ChunkLocation) -> Result<FrameRef> {
        self.frame_at(location.frame_order())
    }

    /// The pack and the number of a location's frame, without a look at the frame itself.
    pub(crate) fn frame_key(&self, location: &ChunkLocation) -> (PackId, u32) {
        let segment = &self.segments[location.segment as usize];
        let (pack, number) = segment.pack_of(location.frame);
        (segment.packs()[pack].id, number)
    }

    /// Whether the frame of a location is known to be damaged.
    pub(crate) fn is_damaged(&self, location: &ChunkLocation) -> bool {
        let (pack, frame) = self.frame_key(location);
        self.damaged.has(&pack, frame)
    }

    /// The frame at a place in the order of `ChunkLocation::frame_order`.
    pub(crate) fn frame_at(&self, order: (u32, u32)) -> Result<FrameRef> {
        let segment = self.segments.get(order.0 as usize);
        let segment = segment.ok_or_else(|| Error::invalid("a frame was asked for by a place that this index did not give"))?;
        let info = match self.rescue {
            true => segment.frame_or_rescue(order.1, &self.pages),
            false => segment.frame(order.1, &self.pages),
        };
        let info = info.map_err(damaged_index)?;
        let (pack, number) = segment.pack_of(order.1);
        Ok(FrameRef { pack: segment.packs()[pack], number, info })
    }
}

/// Segments that are opened at once, where each is a request: an ingest merges them when there are so many.
const SEGMENTS_AT_ONCE: usize = 8;

/// Segments that were listed and opened.
struct OpenedSegments {
    segments: Vec<Arc<PagedSegment>>,
    replaced: Vec<SegmentId>,
    damaged: Vec<(SegmentId, Error)>,
    /// Those that were not there any more, and that no other has taken the place of.
    gone: Vec<SegmentId>,
    listed: Vec<SegmentId>,
    began: Instant,
}

impl OpenedSegments {
    /// Lists the segments and opens those that are not `known`.
    fn look(repo: &Repository, known: &HashMap<SegmentId, Arc<PagedSegment>>) -> Result<OpenedSegments> {
        let began = Instant::now();
        let mut listed = list_segments(repo)?;
        // A segment is mostly longer than those that it replaces: with the longest first, those need not be opened.
        listed.sort_unstable_by(|a, b| b.cmp(a));
        let mut replaced: HashSet<SegmentId> = HashSet::new();
        let (mut segments, mut damaged, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let at_once = if repo.storage().costs().high_latency() { SEGMENTS_AT_ONCE } else { 1 };
        let open = |(size, id): &(u64, SegmentId)| match known.get(id) {
            Some(segment) => Ok(segment.clone()),
            None => PagedSegment::open(repo, *id, *size).map(Arc::new),
        };
        let mut rest = listed.iter();
        loop {
            let some: Vec<_> = rest.by_ref().filter(|(_, id)| !replaced.contains(id)).take(at_once).copied().collect();
            if some.is_empty() {
                break;
            }
            for ((_, id), opened) in some.iter().zip(parallel::many(repo, &some, open)) {
                match opened {
                    Ok(segment) => {
                        replaced.extend(segment.replaces());
                        segments.push(segment);
                    }
                    Err(e) if e.kind() == ErrorKind::NotFound => gone.push(*id),
                    Err(e) => damaged.push((*id, e)),
                }
            }
        }
        // Replaced segments are ignored even while they exist (rule 8 of docs/durability.md).
        segments.retain(|segment| !replaced.contains(&segment.id()));
        damaged.retain(|(id, _)| !replaced.contains(id));
        gone.retain(|id| !replaced.contains(id));
        let mut listed: Vec<SegmentId> = listed.into_iter().map(|(_, id)| id).collect();
        let replaced = listed.iter().copied().filter(|id| replaced.contains(id)).collect();
        listed.sort_unstable();
        Ok(OpenedSegments { segments, replaced, damaged, gone, listed, began })
    }
}

/// Sizes and names of all segments in the storage.
fn list_segments(repo: &Repository) -> Result<Vec<(u64, SegmentId)>> {
    let listed = repo.storage().list(Class::Index)?.into_iter();
    Ok(listed.filter_map(|(name, size)| if let Name::Segment(id) = name { Some((size, id)) } else { None }).collect())
}

/// The error of a segment, with the next step when it is damaged.
fn damaged_index(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt => error.context("the index is damaged (yester repair index makes it anew from the packs)"),
        _ => error,
    }
}

/// Names and sizes of all packs in the storage.
pub(crate) fn list_packs(repo: &Repository) -> Result<HashMap<PackId, u64>> {
    let mut out = HashMap::new();
    for (name, size) in repo.storage().list(Class::Packs)? {
        if let Name::Pack(id) = name {
            out.insert(id, size);
        }
    }
    Ok(out)
}

/// The error for a chunk that no segment knows.
pub(crate) fn missing_chunk(id: &crate::model::ChunkId) -> Error {
    let text = format!(
        "chunk {} is in no pack that the index names: run yester check, and yester repair index if the index lacks packs",
        id.short()
    );
    Error::new(ErrorKind::Corrupt, text)
}
