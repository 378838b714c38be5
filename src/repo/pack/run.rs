//! Neighbouring frames of a pack, read with one request: on high-latency storage, each request costs the way
//! there and back.

use std::ops::Range;

use crate::error::Result;
use crate::model::PackId;
use crate::repo::index::FrameRef;
use crate::storage::{Name, Storage};

/// Bytes between two frames that are read over: less than what another request would cost.
const GAP: u64 = 64 << 10;

/// Where a frame's sealed bytes are.
fn place(frame: &FrameRef) -> Range<u64> {
    frame.info.offset..frame.info.offset.saturating_add(u64::from(frame.info.stored))
}

/// The bytes that a run of frames takes, while it is being put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunExtent {
    pack: PackId,
    bytes: Range<u64>,
}

impl RunExtent {
    /// Of one frame.
    pub(crate) fn of(frame: &FrameRef) -> Self {
        RunExtent { pack: frame.pack.id, bytes: place(frame) }
    }

    /// Takes in the next frame; false when it is elsewhere, or the run would be longer than `most` bytes.
    pub(crate) fn extend(&mut self, frame: &FrameRef, most: u64) -> bool {
        let next = place(frame);
        let near = frame.pack.id == self.pack && next.start >= self.bytes.end && next.start - self.bytes.end <= GAP;
        if !near || next.end - self.bytes.start > most {
            return false;
        }
        self.bytes.end = next.end;
        true
    }
}

/// Frames that are to be fetched with one request, while they are gathered.
#[derive(Debug)]
pub(crate) struct FrameRun {
    most: u64,
    extent: Option<RunExtent>,
    frames: Vec<FrameRef>,
}

impl FrameRun {
    /// None yet, and never more than `most` bytes; zero where every frame is fetched by itself.
    pub(crate) fn new(most: u64) -> Self {
        FrameRun { most, extent: None, frames: Vec::new() }
    }

    /// Takes in a frame; gives out those that it does not follow.
    pub(crate) fn add(&mut self, frame: FrameRef) -> Vec<FrameRef> {
        if self.most == 0 {
            return vec![frame];
        }
        if let Some(extent) = &mut self.extent
            && extent.extend(&frame, self.most)
        {
            self.frames.push(frame);
            return Vec::new();
        }
        self.extent = Some(RunExtent::of(&frame));
        std::mem::replace(&mut self.frames, vec![frame])
    }

    /// Those that were not given out yet.
    pub(crate) fn take(&mut self) -> Vec<FrameRef> {
        self.extent = None;
        std::mem::take(&mut self.frames)
    }
}

/// Sealed bytes of neighbouring frames.
#[derive(Debug)]
pub struct SealedRun {
    pack: PackId,
    start: u64,
    sealed: Vec<u8>,
}

impl SealedRun {
    /// Reads frames of one pack, in the order of their places. `None`: there are not two of them, or they are not of one
    /// pack. The bytes go to `buffer`, which [`SealedRun::into_buffer`] gives back.
    pub(crate) fn read<'f>(
        storage: &dyn Storage,
        frames: impl IntoIterator<Item = &'f FrameRef>,
        buffer: Vec<u8>,
    ) -> Result<Option<Self>> {
        let mut frames = frames.into_iter().peekable();
        let Some(mut extent) = frames.next().map(RunExtent::of) else { return Ok(None) };
        if frames.peek().is_none() || !frames.all(|frame| extent.extend(frame, u64::MAX)) {
            return Ok(None);
        }
        let mut sealed = buffer;
        storage.read(&Name::Pack(extent.pack), Some(extent.bytes.clone()), &mut sealed)?;
        Ok(Some(SealedRun { pack: extent.pack, start: extent.bytes.start, sealed }))
    }

    /// Its memory, for the next.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.sealed
    }

    /// The sealed bytes of a frame, if they are part of this.
    pub(crate) fn get(&self, frame: &FrameRef) -> Option<&[u8]> {
        let Range { start, end } = place(frame);
        let at = |offset: u64| usize::try_from(offset.checked_sub(self.start)?).ok();
        self.sealed.get(at(start)?..at(end)?).filter(|_| frame.pack.id == self.pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::{Codec, FrameInfo, PackKind};
    use crate::format::segment::SegmentPack;
    use crate::storage::memory::MemoryStorage;

    fn frame(pack: u8, offset: u64, stored: u32) -> FrameRef {
        let info = FrameInfo { offset, stored, plain: 1, codec: Codec::Raw, bases: Vec::new() };
        let pack = SegmentPack { id: PackId([pack; 32]), kind: PackKind::Data, size: 1 << 20, frames: 9, one_way: false };
        FrameRef { pack, number: 0, info }
    }

    #[test]
    fn a_run_ends_where_it_would_be_long_or_leave_the_pack() {
        let mut extent = RunExtent::of(&frame(1, 100, 100));
        assert!(extent.extend(&frame(1, 200, 50), 1000));
        assert!(!extent.extend(&frame(1, 250, 1000), 1000), "longer than allowed");
        assert!(!extent.extend(&frame(2, 250, 10), 1000), "another pack");
        assert!(!extent.extend(&frame(1, 190, 10), 1000), "backwards");
        assert!(!extent.extend(&frame(1, 251 + GAP, 10), u64::MAX), "too far");
        assert!(extent.extend(&frame(1, 250 + GAP, 10), u64::MAX));
        assert_eq!(extent.bytes, 100..260 + GAP);
    }

    #[test]
    fn a_run_gives_the_bytes_of_its_frames() {
        let storage = MemoryStorage::default();
        let content: Vec<u8> = (0..200).collect();
        storage.create(&Name::Pack(PackId([1; 32])), &[&content]).unwrap();
        let frames = [frame(1, 10, 5), frame(1, 20, 5)];
        let run = SealedRun::read(&storage, &frames, Vec::new()).unwrap().unwrap();
        assert_eq!(run.get(&frames[0]), Some(&content[10..15]));
        assert_eq!(run.get(&frames[1]), Some(&content[20..25]));
        assert_eq!((run.get(&frame(2, 10, 5)), run.get(&frame(1, 9, 5)), run.get(&frame(1, 21, 5))), (None, None, None));
        assert!(SealedRun::read(&storage, &frames[..1], Vec::new()).unwrap().is_none());
        assert!(
            SealedRun::read(&storage, &[frame(1, 10, 5), frame(1, 199, 5)], Vec::new()).is_err(),
            "it reaches beyond the end"
        );
    }
}
