//! What prune knows of each pack and each frame.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::format::damage::DamagedExtent;
use crate::format::pack::PackKind;
use crate::maintain::prune::view::RepositoryView;
use crate::model::PackId;
use crate::repo::index::{ChunkLocation, Index};

/// How a pack stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, whole, named by a visible segment, and not marked for deletion: what is in it counts.
    Usable,
    /// It is there and marked for deletion: what is in it can be read, and nobody counts on it.
    Marked,
    /// It is there, and a segment says that it has another size; or no visible segment names it.
    Useless,
    /// A segment names it, and it is not there.
    Gone,
}

/// A pack.
#[derive(Debug)]
pub(crate) struct Pack {
    /// Its name.
    pub(crate) id: PackId,
    /// What it holds, if a visible segment names it.
    pub(crate) kind: Option<PackKind>,
    /// Whether what is in it is of a key that only writes.
    pub(crate) one_way: bool,
    /// Its size in the storage.
    pub(crate) size: u64,
    /// A segment names it, its size is what that says, and not all of it is known to be damaged.
    whole: bool,
    /// Something of it is known to be damaged.
    pub(crate) damaged: bool,
    /// How it stands.
    pub(crate) standing: Standing,
    /// The segment it is counted by: the first that names it.
    segment: Option<usize>,
    /// Chunks in it.
    pub(crate) chunks: u64,
    /// Plain bytes of its frames.
    pub(crate) plain: u64,
    /// Plain bytes of needed chunks that have a copy in it, whichever copy is to stay.
    pub(crate) wanted: u64,
    /// Plain bytes of needed chunks whose copy in it is to stay.
    pub(crate) live: u64,
    /// About how many of its bytes would be free if it held nothing else.
    pub(crate) unused: u64,
    /// It must stay although it does not count: something needed has no copy that does.
    pub(crate) held: bool,
    /// Something needed in it, which no other pack has, can be read and has to be copied out of it.
    pub(crate) salvage: bool,
    /// Something needed cannot be read from it, nor from anywhere else.
    pub(crate) lost: bool,
}

impl Pack {
    /// Whether its bytes are in the storage as the index says.
    pub(crate) fn is_readable(&self) -> bool {
        self.whole
    }

    /// Whether it is in the storage at all.
    pub(crate) fn is_there(&self) -> bool {
        self.standing != Standing::Gone
    }

    /// About how many bytes a copy of what it holds would take.
    pub(crate) fn copy_bytes(&self) -> u64 {
        match self.held {
            true => (u128::from(self.size) * u128::from(self.wanted.min(self.plain)) / u128::from(self.plain.max(1))) as u64,
            false => self.size - self.unused,
        }
    }

    /// Whether nothing is lost with it, and no list names it yet.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.standing, Standing::Usable | Standing::Useless) && self.live == 0 && !self.held
    }
}

/// The low bits of a frame's state are the number of its pack.
const PACK: u32 = (1 << 27) - 1;
const DAMAGED: u32 = 1 << 27;
const DELTA: u32 = 1 << 28;
const WANTED: u32 = 1 << 29;
const ASKED: u32 = 1 << 30;
const COMPLETE: u32 = 1 << 31;

/// A frame: eight bytes, since there are many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameUse {
    state: u32,
    /// Plain bytes of needed chunks whose copy in it is to stay.
    pub(crate) live: u32,
}

impl FrameUse {
    /// The number of its pack.
    pub(crate) fn pack(&self) -> usize {
        (self.state & PACK) as usize
    }

    /// Whether it has bases.
    pub(crate) fn is_delta(&self) -> bool {
        self.state & DELTA != 0
    }

    /// Whether it is known to be damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.state & DAMAGED != 0
    }

    /// Whether its bases must be kept for it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state & WANTED != 0
    }

    /// Its bases must be kept for it.
    pub(crate) fn want(&mut self) {
        self.state |= WANTED;
    }

    /// Whether all its bases have copies that count; `None` while nobody has looked.
    pub(crate) fn complete(&self) -> Option<bool> {
        (self.state & ASKED != 0).then_some(self.state & COMPLETE != 0)
    }

    /// Remembers the answer.
    pub(crate) fn set_complete(&mut self, complete: bool) {
        self.state |= ASKED | if complete { COMPLETE } else { 0 };
    }
}

/// All packs, and all frames of visible segments.
#[derive(Debug)]
pub(crate) struct Packs {
    /// The packs, in no order.
    pub(crate) list: Vec<Pack>,
    /// The frames of each segment, in their order.
    pub(crate) frames: Vec<Vec<FrameUse>>,
    numbers: HashMap<PackId, u32>,
}

impl Packs {
    /// What `view` shows of them.
    pub(super) fn new(view: &RepositoryView) -> Result<Packs> {
        let index = &view.index;
        let (mut list, mut numbers) = (Vec::new(), HashMap::<PackId, u32>::new());
        let marked = view.marked();
        for (segment, found) in index.segments().iter().enumerate() {
            for named in found.packs() {
                let number = *numbers.entry(named.id).or_insert(list.len() as u32) as usize;
                if number < list.len() {
                    continue;
                }
                let size = view.packs.get(&named.id).copied();
                let standing = match size {
                    None => Standing::Gone,
                    Some(_) if marked.contains(&named.id) => Standing::Marked,
                    Some(size) if size == named.size => Standing::Usable,
                    Some(_) => Standing::Useless,
                };
                let damage = index.damaged().of(&named.id);
                let whole = size == Some(named.size) && damage != Some(&DamagedExtent::Whole);
                let mut pack = Pack::new(named.id, size.unwrap_or(named.size), whole, standing, Some(segment));
                (pack.damaged, pack.kind, pack.one_way) = (damage.is_some(), Some(named.kind), named.one_way);
                list.push(pack);
            }
        }
        for (id, size) in view.packs.iter().filter(|(id, _)| !numbers.contains_key(id)) {
            let standing = if marked.contains(id) { Standing::Marked } else { Standing::Useless };
            list.push(Pack::new(*id, *size, false, standing, None));
        }
        if list.len() > PACK as usize {
            return Err(Error::new(ErrorKind::Unsupported, "prune cannot count more than 2²⁷ packs"));
        }
        let mut frames = Vec::with_capacity(index.segments().len());
        for (segment, found) in index.segments().iter().enumerate() {
            let mut all = Vec::with_capacity(found.frames() as usize);
            index.scan_frames(segment, &mut |pack, in_pack, info| {
                let number = numbers.get(&pack.id).copied().unwrap_or_default();
                let damaged = if index.damaged().has(&pack.id, in_pack) { DAMAGED } else { 0 };
                let delta = if info.bases.is_empty() { 0 } else { DELTA };
                all.push(FrameUse { state: number | delta | damaged, live: 0 });
                let pack = &mut list[number as usize];
                if pack.segment == Some(segment) {
                    pack.plain += u64::from(info.plain);
                }
                Ok(())
            })?;
            frames.push(all);
        }
        Ok(Packs { list, frames, numbers })
    }

    /// A pack that a visible segment names.
    pub(crate) fn named(&self, id: &PackId) -> Option<&Pack> {
        self.list.get(*self.numbers.get(id)? as usize)
    }

    /// The frame of a location.
    pub(crate) fn frame(&self, location: &ChunkLocation) -> &FrameUse {
        let (segment, frame) = location.frame_order();
        &self.frames[segment as usize][frame as usize]
    }

    /// The same, to be changed.
    pub(crate) fn frame_mut(&mut self, location: &ChunkLocation) -> &mut FrameUse {
        let (segment, frame) = location.frame_order();
        &mut self.frames[segment as usize][frame as usize]
    }

    /// The pack of a location.
    pub(crate) fn of(&self, location: &ChunkLocation) -> &Pack {
        &self.list[self.frame(location).pack()]
    }

    /// Counts a chunk for the pack it is in, once, however many segments name the pack.
    pub(crate) fn count(&mut self, location: &ChunkLocation) {
        let number = self.frame(location).pack();
        let pack = &mut self.list[number];
        if pack.segment == Some(location.frame_order().0 as usize) {
            pack.chunks += 1;
        }
    }

    /// Adds up what is live in each pack; estimates what is not from the share of each frame, since the pieces of a
    /// frame compress about alike. `CHUNK` is what a chunk takes in the pack's directory.
    pub(super) fn sum_up(&mut self, index: &Index) -> Result<()> {
        const CHUNK: u64 = 19;
        for segment in 0..self.frames.len() {
            let (frames, list) = (&self.frames[segment], &mut self.list);
            let mut number = 0;
            index.scan_frames(segment, &mut |_, _, info| {
                let frame: &FrameUse = &frames[number];
                number += 1;
                let pack = &mut list[frame.pack()];
                if pack.segment == Some(segment) {
                    let (plain, stored) = (u64::from(info.plain), u64::from(info.stored) + 16 * info.bases.len() as u64);
                    let live = u64::from(frame.live).min(plain);
                    pack.live += u64::from(frame.live);
                    // In a difference nearly all that is stored is what the bases do not have: the part that stays may
                    // be just that.
                    pack.unused += match frame.is_delta() {
                        true => stored - live.min(stored),
                        false => stored * (plain - live) / plain.max(1),
                    };
                }
                Ok(())
            })?;
        }
        for pack in &mut self.list {
            pack.unused += CHUNK * pack.chunks * (pack.plain - pack.live.min(pack.plain)) / pack.plain.max(1);
            pack.unused = if pack.live == 0 { pack.size } else { pack.unused.min(pack.size) };
        }
        Ok(())
    }
}

impl Pack {
    fn new(id: PackId, size: u64, whole: bool, standing: Standing, segment: Option<usize>) -> Self {
        let (chunks, plain, wanted, live, unused) = Default::default();
        let (damaged, held, salvage, lost) = Default::default();
        let (kind, one_way) = (None, false);
        Pack {
            id,
            kind,
            one_way,
            size,
            whole,
            damaged,
            standing,
            segment,
            chunks,
            plain,
            wanted,
            live,
            unused,
            held,
            salvage,
            lost,
        }
    }
}
