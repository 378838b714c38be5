//! The plan of a window: which frames are read, in which order, and where their chunks go.

use crate::model::ChunkId;

pub(crate) use crate::restore::local::FilePiece;

/// A chunk's place: its frame, by its order among all, and the bytes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FramePosition {
    /// The frame, as [`crate::repo::index::ChunkLocation::frame_order`] counts.
    pub(crate) frame: (u32, u32),
    /// Where the chunk begins in the frame's plain bytes.
    pub(crate) at: u32,
    /// Its length.
    pub(crate) len: u32,
}

/// One chunk that goes to one place of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Write {
    /// The number of the piece.
    pub(crate) piece: u32,
    /// Where the chunk begins in the frame.
    pub(crate) at: u32,
}

/// One frame to be fetched and decoded once, and all that comes out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameRead {
    /// The frame.
    pub(crate) frame: (u32, u32),
    /// What is written, in the order of the frame's bytes, then of the pieces.
    pub(crate) writes: Vec<Write>,
}

/// What is done for a window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WindowPlan {
    /// Frames in the order of the packs.
    pub(crate) frames: Vec<FrameRead>,
    /// Pieces whose chunk the index does not have with the right length: looked for one by one, with an error in the end.
    pub(crate) lost: Vec<u32>,
}

/// Plans the pieces that `wanted` lets through. `locate` gives the places of a chunk, which may be several; one in the
/// frame that was taken last is preferred, as it costs nothing more.
pub(crate) fn plan<L>(pieces: &[FilePiece], wanted: impl Fn(usize) -> bool, mut locate: impl FnMut(&ChunkId) -> L) -> WindowPlan
where
    L: Iterator<Item = FramePosition>,
{
    let mut spots: Vec<(FramePosition, u32)> = Vec::with_capacity(pieces.len());
    let mut lost = Vec::new();
    let mut last = None;
    for (number, piece) in pieces.iter().enumerate().filter(|(number, _)| wanted(*number)) {
        let Some(id) = &piece.id else { continue };
        let mut best: Option<FramePosition> = None;
        for spot in locate(id).filter(|spot| u64::from(spot.len) == piece.len) {
            if best.is_none() || Some(spot.frame) == last {
                best = Some(spot);
            }
        }
        match best {
            Some(spot) => {
                last = Some(spot.frame);
                spots.push((spot, number as u32));
            }
            None => lost.push(number as u32),
        }
    }
    spots.sort_unstable();
    let mut frames: Vec<FrameRead> = Vec::new();
    for (spot, piece) in spots {
        let write = Write { piece, at: spot.at };
        match frames.last_mut().filter(|read| read.frame == spot.frame) {
            Some(read) => read.writes.push(write),
            None => frames.push(FrameRead { frame: spot.frame, writes: vec![write] }),
        }
    }
    WindowPlan { frames, lost }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(job: u32, offset: u64, id: u8) -> FilePiece {
        FilePiece { job, offset, len: 10, id: Some(ChunkId([id; 32])) }
    }

    /// Chunk n is in frame n / 4 of segment 0; chunks from 200 on nowhere.
    fn locate(id: &ChunkId) -> std::option::IntoIter<FramePosition> {
        let n = u32::from(id.0[0]);
        (n < 200).then_some(FramePosition { frame: (0, n / 4), at: n % 4 * 10, len: 10 }).into_iter()
    }

    #[test]
    fn every_frame_once_in_the_order_of_the_packs() {
        let pieces = [piece(0, 0, 9), piece(0, 10, 1), piece(1, 0, 8), piece(2, 0, 9), piece(2, 10, 250)];
        let plan = plan(&pieces, |_| true, locate);
        assert_eq!(plan.lost, [4]);
        let frames: Vec<_> =
            plan.frames.iter().map(|f| (f.frame.1, f.writes.iter().map(|w| w.piece).collect::<Vec<_>>())).collect();
        assert_eq!(frames, [(0, vec![1]), (2, vec![2, 0, 3])]);
    }

    #[test]
    fn holes_and_what_is_there_cost_nothing() {
        let pieces = [piece(0, 0, 1), FilePiece { id: None, ..piece(0, 10, 0) }, piece(0, 20, 2)];
        let plan = plan(&pieces, |n| n != 0, locate);
        assert_eq!(plan.frames.len(), 1);
        assert_eq!(plan.frames[0].writes, [Write { piece: 2, at: 20 }]);
    }

    #[test]
    fn of_several_places_the_frame_at_hand_is_taken() {
        let both = |_: &ChunkId| {
            [
                FramePosition { frame: (0, 1), at: 0, len: 10 },
                FramePosition { frame: (0, 7), at: 0, len: 10 },
                FramePosition { frame: (1, 0), at: 0, len: 9 },
            ]
            .into_iter()
        };
        let first =
            |id: &ChunkId| if id.0[0] == 1 { vec![FramePosition { frame: (0, 7), at: 10, len: 10 }] } else { both(id).collect() };
        let plan = plan(&[piece(0, 0, 1), piece(0, 10, 2)], |_| true, |id| first(id).into_iter());
        assert_eq!(plan.frames.len(), 1);
        assert_eq!(plan.frames[0].frame, (0, 7));
    }
}
