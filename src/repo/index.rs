//! The index of an open repository: its visible segments, and which of their packs may be relied on.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{FrameInfo, PackKind};
use crate::format::segment::{Entry, SegmentPack};
use crate::model::{ChunkKey, PackId, SegmentId};
use crate::repo::Repository;
use crate::repo::segment::Segment;
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
#[derive(Debug, Default)]
pub struct Index {
    segments: Vec<(SegmentId, Segment)>,
    /// Packs that are in the storage and under no sentence; `None` when only readers use this index.
    live: Option<HashSet<PackId>>,
    /// Segments that are there, though others have taken their place.
    replaced: Vec<SegmentId>,
    /// Whether a sentence exists, or a pack that a segment names is missing: then nothing may be adopted unchecked.
    suspicious: bool,
}

impl Index {
    /// Loads all visible segments, for reading. A damaged segment is an error that says how to go on.
    pub fn load(repo: &Repository) -> Result<Index> {
        let mut ids: Vec<SegmentId> = Vec::new();
        for (name, _) in repo.storage().list(Class::Index)? {
            if let Name::Segment(id) = name {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        let mut segments = Vec::with_capacity(ids.len());
        for id in ids {
            match Segment::load(repo, id) {
                Ok(segment) => segments.push((id, segment)),
                // Replaced and deleted since it was listed.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        // Replaced segments are ignored even while they exist (rule 8 of the protocol).
        let replaced: HashSet<SegmentId> = segments.iter().flat_map(|(_, s)| s.replaces.iter().copied()).collect();
        let hidden = segments.iter().map(|(id, _)| *id).filter(|id| replaced.contains(id)).collect();
        segments.retain(|(id, _)| !replaced.contains(id));
        Ok(Index { segments, live: None, replaced: hidden, suspicious: false })
    }

    /// Loads the index as a writer needs it: segments, then sentences, then the list of packs, in this order
    /// (rule 2 of the protocol). A chunk counts as known only in a pack that is there and under no sentence.
    pub fn load_for_writing(repo: &Repository) -> Result<Index> {
        let mut index = Self::load(repo)?;
        let sentenced = crate::repo::session::sentenced_packs(repo)?;
        let present: HashMap<PackId, u64> = list_packs(repo)?;
        let mut live = HashSet::new();
        let mut missing = false;
        for pack in index.packs() {
            match present.get(&pack.id) {
                Some(size) if *size == pack.size => {
                    if !sentenced.packs.contains(&pack.id) {
                        live.insert(pack.id);
                    }
                }
                _ => missing = true,
            }
        }
        index.suspicious = missing || sentenced.exist;
        index.live = Some(live);
        Ok(index)
    }

    /// Whether unchanged files must have every chunk looked up before they are adopted.
    pub fn is_suspicious(&self) -> bool {
        self.suspicious
    }

    /// The visible segments.
    pub fn segments(&self) -> &[(SegmentId, Segment)] {
        &self.segments
    }

    /// Every pack that a visible segment names; one may come twice.
    pub fn packs(&self) -> impl Iterator<Item = &SegmentPack> {
        self.segments.iter().flat_map(|(_, s)| s.packs.iter())
    }

    /// Segments that are there, though visible ones have taken their place: what only prune deletes (rule 8).
    pub fn replaced(&self) -> &[SegmentId] {
        &self.replaced
    }

    /// Entries of each visible segment: one a chunk and pack it is in.
    pub fn entry_counts(&self) -> Vec<u64> {
        self.segments.iter().map(|(_, s)| s.entries().len() as u64).collect()
    }

    /// Visits every entry of one visible segment (by its number in [`Index::segments`]), sorted by key.
    pub fn scan(&self, segment: usize, visit: &mut dyn FnMut(Location, &ChunkKey, &SegmentPack) -> Result<()>) -> Result<()> {
        let Some((_, found)) = self.segments.get(segment) else { return Ok(()) };
        for (number, entry) in found.entries().iter().enumerate() {
            let Entry { key, frame, offset, len } = *entry;
            let location = Location { segment: segment as u32, frame, entry: number as u32, offset, len };
            visit(location, &key, &found.packs[found.frames[frame as usize].pack as usize])?;
        }
        Ok(())
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
        let parts: Vec<(SegmentId, &Segment)> =
            which.iter().filter_map(|at| self.segments.get(*at)).map(|(id, segment)| (*id, segment)).collect();
        let mut merged = Segment::merge(&parts, keep)?;
        merged.replaces.extend_from_slice(also);
        merged.replaces.sort_unstable();
        merged.replaces.dedup();
        if merged.packs.is_empty() { Ok(None) } else { merged.store(repo).map(Some) }
    }

    /// Where the chunk is, in packs of `kind` only; for writers, in packs that may be relied on only.
    pub fn find(&self, kind: PackKind, key: &ChunkKey) -> Result<Option<Location>> {
        Ok(self.find_all(kind, key)?.into_iter().next())
    }

    /// Every place where the chunk is.
    pub fn find_all(&self, kind: PackKind, key: &ChunkKey) -> Result<Vec<Location>> {
        let mut out = Vec::new();
        for (at, (_, segment)) in self.segments.iter().enumerate() {
            let (first, found) = segment.find(key);
            for (number, entry) in found.iter().enumerate() {
                let pack = &segment.packs[segment.frames[entry.frame as usize].pack as usize];
                let usable = pack.kind == kind && self.live.as_ref().is_none_or(|live| live.contains(&pack.id));
                if usable {
                    let (segment, number) = (at as u32, first + number as u32);
                    let Entry { frame, offset, len, .. } = *entry;
                    out.push(Location { segment, frame, entry: number, offset, len });
                }
            }
        }
        Ok(out)
    }

    /// The frame of a location that this index gave.
    pub fn frame(&self, location: &Location) -> Result<FrameRef> {
        self.frame_at(location.frame_order())
    }

    /// The pack and the number of a location's frame, without a look at the frame itself.
    pub fn frame_key(&self, location: &Location) -> (PackId, u32) {
        let segment = &self.segments[location.segment as usize].1;
        let frame = &segment.frames[location.frame as usize];
        (segment.packs[frame.pack as usize].id, frame.number)
    }

    /// The frame at a place in the order of [`Location::frame_order`].
    pub fn frame_at(&self, order: (u32, u32)) -> Result<FrameRef> {
        let none = || Error::invalid("a frame was asked for by a place that this index did not give");
        let segment = &self.segments.get(order.0 as usize).ok_or_else(none)?.1;
        let frame = segment.frames.get(order.1 as usize).ok_or_else(none)?;
        Ok(FrameRef { pack: segment.packs[frame.pack as usize], number: frame.number, info: frame.info.clone() })
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
    let text = format!("chunk {} is in no pack that the index knows: run yester check", id.short());
    Error::new(ErrorKind::Corrupt, text)
}
