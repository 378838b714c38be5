//! The index of an open repository: its visible segments, and which of their packs may be relied on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{FrameInfo, PackKind};
use crate::format::segment::{Entry, SegmentPack};
use crate::model::{ChunkKey, PackId, SegmentId};
use crate::repo::Repository;
use crate::repo::merge;
use crate::repo::paged::{PagedSegment, Pages};
use crate::storage::{Class, Name};

/// Where a chunk is, as numbers into the index that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    segment: u32,
    frame: u32,
    entry: u32,
    /// Where the chunk begins in its frame's plain bytes.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

impl Location {
    /// The frame's place in the order of segments, packs and frames: who reads frames in this order reads every pack
    /// from its start to its end. Equal for chunks of one frame.
    pub fn frame_order(&self) -> (u32, u32) {
        (self.segment, self.frame)
    }

    /// The entry's own place: its segment, and its number among the entries of that segment. Marks are bits by this.
    pub fn entry(&self) -> (u32, u32) {
        (self.segment, self.entry)
    }
}

/// A frame that a location points to.
#[derive(Debug, Clone)]
pub struct FrameRef {
    /// The pack it is in.
    pub pack: SegmentPack,
    /// Its number in the pack.
    pub number: u32,
    /// Where and what it is.
    pub info: FrameInfo,
}

/// The visible segments of a repository, as they were when it was loaded.
#[derive(Debug)]
pub struct Index {
    /// The longest first: most look-ups end there.
    segments: Vec<Arc<PagedSegment>>,
    pages: Arc<Pages>,
    /// Of each segment, which of its packs are in the storage and under no sentence; `None` when only readers use this.
    usable: Option<Vec<Vec<bool>>>,
    /// Segments that are there, though others have taken their place.
    replaced: Vec<SegmentId>,
    /// Whether a sentence exists, or a pack that a segment names is missing: then nothing may be adopted unchecked.
    suspicious: bool,
    /// All segments that were listed, sorted, and when that listing began.
    listed: Vec<SegmentId>,
    began: Instant,
}

impl Index {
    /// Opens all visible segments, for reading. A damaged segment is an error that says how to go on.
    pub fn load(repo: &Repository) -> Result<Index> {
        Self::load_after(repo, None)
    }

    /// As [`Index::load`]; segments and pages that `old` has open are used again.
    pub fn load_after(repo: &Repository, old: Option<&Index>) -> Result<Index> {
        let (index, damaged) = Self::load_with_damage(repo, old)?;
        match damaged.into_iter().next() {
            Some((_, e)) => Err(damaged_index(e)),
            None => Ok(index),
        }
    }

    /// Opens all visible segments that can be opened, and says which cannot. Segments that prune deletes between the
    /// listing and the look into them are no damage: what took their place is listed then.
    pub fn load_with_damage(repo: &Repository, old: Option<&Index>) -> Result<(Index, Vec<(SegmentId, Error)>)> {
        let mut known: HashMap<SegmentId, Arc<PagedSegment>> =
            old.into_iter().flat_map(|index| &index.segments).map(|segment| (segment.id(), segment.clone())).collect();
        let mut gone_before = HashSet::new();
        let found = loop {
            let found = Found::look(repo, &known)?;
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
        let Found { segments, replaced, damaged, listed, began, .. } = found;
        Ok((Index { segments, pages, usable: None, replaced, suspicious: false, listed, began }, damaged))
    }

    /// When the listing began that this index is of: what was stored and indexed before is in it.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether there are other segments by now.
    pub fn has_moved(&self, repo: &Repository) -> Result<bool> {
        let mut listed: Vec<SegmentId> = list_segments(repo)?.into_iter().map(|(_, id)| id).collect();
        listed.sort_unstable();
        Ok(listed != self.listed)
    }

    /// Loads the index as a writer needs it: segments, then sentences, then the list of packs, in this order
    /// (rule 2 of the protocol). A chunk counts as known only in a pack that is there and under no sentence.
    pub fn load_for_writing(repo: &Repository) -> Result<Index> {
        let mut index = Self::load(repo)?;
        let sentenced = crate::repo::session::sentenced_packs(repo)?;
        let present: HashMap<PackId, u64> = list_packs(repo)?;
        let mut missing = false;
        let mut usable = |pack: &SegmentPack| match present.get(&pack.id) {
            Some(size) if *size == pack.size => !sentenced.packs.contains(&pack.id),
            _ => {
                missing = true;
                false
            }
        };
        index.usable = Some(index.segments.iter().map(|s| s.packs().iter().map(&mut usable).collect()).collect());
        index.suspicious = missing || sentenced.exist;
        Ok(index)
    }

    /// An index of what a session has stored so far, which shares the page cache of this one: empty at first.
    pub fn of_session(&self) -> Index {
        Index {
            segments: Vec::new(),
            pages: self.pages.clone(),
            usable: Some(Vec::new()),
            replaced: Vec::new(),
            suspicious: false,
            listed: Vec::new(),
            began: self.began,
        }
    }

    /// Takes these segments of the session in the place of those it had.
    pub fn set_session(&mut self, segments: Vec<Arc<PagedSegment>>) {
        self.usable = Some(segments.iter().map(|s| vec![true; s.packs().len()]).collect());
        self.segments = segments;
    }

    /// Whether unchanged files must have every chunk looked up before they are adopted.
    pub fn is_suspicious(&self) -> bool {
        self.suspicious
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
    pub fn entry_counts(&self) -> Vec<u64> {
        self.segments.iter().map(|segment| segment.entries()).collect()
    }

    /// Visits every entry of one visible segment (by its number in [`Index::segments`]), sorted by key.
    pub fn scan(&self, segment: usize, visit: &mut dyn FnMut(Location, &ChunkKey, &SegmentPack) -> Result<()>) -> Result<()> {
        let Some(found) = self.segments.get(segment) else { return Ok(()) };
        for (number, entry) in found.all_entries().enumerate() {
            let Entry { key, frame, offset, len } = entry?;
            let location = Location { segment: segment as u32, frame, entry: number as u32, offset, len };
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

    /// Where the chunk is, in packs of `kind` only; for writers, in packs that may be relied on only.
    pub fn find(&self, kind: PackKind, key: &ChunkKey) -> Result<Option<Location>> {
        let mut found = None;
        for at in 0..self.segments.len() {
            self.find_in(at, kind, key, &mut |location| found = found.or(Some(location)))?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Every place where the chunk is.
    pub fn find_all(&self, kind: PackKind, key: &ChunkKey) -> Result<Vec<Location>> {
        let mut out = Vec::new();
        for at in 0..self.segments.len() {
            self.find_in(at, kind, key, &mut |location| out.push(location))?;
        }
        Ok(out)
    }

    fn find_in(&self, at: usize, kind: PackKind, key: &ChunkKey, visit: &mut dyn FnMut(Location)) -> Result<()> {
        let segment = &self.segments[at];
        // Writers mostly ask for what is not there, and with several segments so does everybody.
        let filter = self.usable.is_some() || self.segments.len() > 1;
        let found = segment.find(key, filter, &self.pages, &mut |number, entry| {
            let (pack, _) = segment.pack_of(entry.frame);
            let usable = self.usable.as_ref().is_none_or(|usable| usable[at][pack]);
            if usable && segment.packs()[pack].kind == kind {
                let Entry { frame, offset, len, .. } = *entry;
                visit(Location { segment: at as u32, frame, entry: number, offset, len });
            }
        });
        found.map_err(damaged_index)
    }

    /// The frame of a location that this index gave.
    pub fn frame(&self, location: &Location) -> Result<FrameRef> {
        self.frame_at(location.frame_order())
    }

    /// The pack and the number of a location's frame, without a look at the frame itself.
    pub fn frame_key(&self, location: &Location) -> (PackId, u32) {
        let segment = &self.segments[location.segment as usize];
        let (pack, number) = segment.pack_of(location.frame);
        (segment.packs()[pack].id, number)
    }

    /// The frame at a place in the order of [`Location::frame_order`].
    pub fn frame_at(&self, order: (u32, u32)) -> Result<FrameRef> {
        let segment = self.segments.get(order.0 as usize);
        let segment = segment.ok_or_else(|| Error::invalid("a frame was asked for by a place that this index did not give"))?;
        let info = segment.frame(order.1, &self.pages).map_err(damaged_index)?;
        let (pack, number) = segment.pack_of(order.1);
        Ok(FrameRef { pack: segment.packs()[pack], number, info })
    }
}

/// Segments that were listed and opened.
struct Found {
    segments: Vec<Arc<PagedSegment>>,
    replaced: Vec<SegmentId>,
    damaged: Vec<(SegmentId, Error)>,
    /// Those that were not there any more, and that no other has taken the place of.
    gone: Vec<SegmentId>,
    listed: Vec<SegmentId>,
    began: Instant,
}

impl Found {
    /// Lists the segments and opens those that are not `known`.
    fn look(repo: &Repository, known: &HashMap<SegmentId, Arc<PagedSegment>>) -> Result<Found> {
        let began = Instant::now();
        let mut listed = list_segments(repo)?;
        // A segment is mostly longer than those that it replaces: with the longest first, those need not be opened.
        listed.sort_unstable_by(|a, b| b.cmp(a));
        let mut replaced: HashSet<SegmentId> = HashSet::new();
        let (mut segments, mut damaged, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (size, id) in &listed {
            if replaced.contains(id) {
                continue;
            }
            let opened = match known.get(id) {
                Some(segment) => Ok(segment.clone()),
                None => PagedSegment::open(repo, *id, *size).map(Arc::new),
            };
            match opened {
                Ok(segment) => {
                    replaced.extend(segment.replaces());
                    segments.push(segment);
                }
                Err(e) if e.kind() == ErrorKind::NotFound => gone.push(*id),
                Err(e) => damaged.push((*id, e)),
            }
        }
        // Replaced segments are ignored even while they exist (rule 8 of the protocol).
        segments.retain(|segment| !replaced.contains(&segment.id()));
        damaged.retain(|(id, _)| !replaced.contains(id));
        gone.retain(|id| !replaced.contains(id));
        let mut listed: Vec<SegmentId> = listed.into_iter().map(|(_, id)| id).collect();
        let replaced = listed.iter().copied().filter(|id| replaced.contains(id)).collect();
        listed.sort_unstable();
        Ok(Found { segments, replaced, damaged, gone, listed, began })
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
pub fn list_packs(repo: &Repository) -> Result<HashMap<PackId, u64>> {
    let mut out = HashMap::new();
    for (name, size) in repo.storage().list(Class::Packs)? {
        if let Name::Pack(id) = name {
            out.insert(id, size);
        }
    }
    Ok(out)
}

/// The error for a chunk that no segment knows.
pub fn missing_chunk(id: &crate::model::ChunkId) -> Error {
    let text = format!(
        "chunk {} is in no pack that the index names: run yester check, and yester repair index if the index lacks packs",
        id.short()
    );
    Error::new(ErrorKind::Corrupt, text)
}
