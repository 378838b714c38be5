//! Files with holes: a map of pieces, each at a block of its own or nowhere.

use crate::error::Result;
use crate::model::Item;
use crate::vfs::image::BLOCK;

/// A piece that is nowhere.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Pieces of one file, at most: four bytes each.
const MOST: u64 = 1 << 18;
/// The longest pieces are 2³¹ blocks.
const LONGEST: u32 = 31;

/// The map of one file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holes {
    /// A piece has 2 to this many blocks.
    pub(crate) bits: u32,
    /// For each piece its first block, counted from the file's; [`NOWHERE`] in a hole.
    pub(crate) pieces: Vec<u32>,
    /// Whether every hole is shown whole. Else the rest of it is shown as zeros.
    pub(crate) exact: bool,
}

/// A visit of a file's items, in order.
pub(super) type Items<'a> = &'a dyn Fn(&mut dyn FnMut(u64, &Item) -> Result<bool>) -> Result<()>;

/// The map of a file of `size` bytes; `None` when it cannot have one, since it is too long.
pub(super) fn map(size: u64, items: Items<'_>) -> Result<Option<Holes>> {
    // All places where a hole begins or ends, laid over each other: what they have in common is their lowest bit.
    let mut edges = 0;
    let mut before = None;
    items(&mut |start, item| {
        let hole = matches!(item, Item::Hole { .. });
        if before.replace(hole).is_some_and(|before| before != hole) {
            edges |= start;
        }
        Ok(true)
    })?;
    let wanted = edges.trailing_zeros().saturating_sub(BLOCK.trailing_zeros());
    let mut bits = wanted.min(LONGEST);
    while bits < LONGEST && size.div_ceil(BLOCK << bits) > MOST {
        bits += 1;
    }
    let piece = BLOCK << bits;
    let count = size.div_ceil(piece);
    if count > MOST || size.div_ceil(BLOCK) >= u64::from(u32::MAX) {
        return Ok(None);
    }
    let mut pieces = vec![NOWHERE; count as usize];
    items(&mut |start, item| {
        if let Item::Chunk { len, .. } = item {
            let (first, last) = (start / piece, (start + u64::from(*len) - 1) / piece);
            for at in first..=last {
                if let Some(place) = pieces.get_mut(at as usize) {
                    *place = (at << bits) as u32;
                }
            }
        }
        Ok(true)
    })?;
    let exact = edges % piece == 0;
    Ok(Some(Holes { bits, pieces, exact }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChunkId;

    fn of(items: &[Item]) -> Option<Holes> {
        let size = items.iter().map(Item::len).sum();
        let visit = |visit: &mut dyn FnMut(u64, &Item) -> Result<bool>| {
            let mut at = 0;
            for item in items {
                visit(at, item)?;
                at += item.len();
            }
            Ok(())
        };
        map(size, &visit).unwrap()
    }

    fn data(len: u32) -> Item {
        Item::Chunk { id: ChunkId([0; 32]), len }
    }

    #[test]
    fn pieces_are_as_long_as_holes_let_them_be() {
        let hole = |len| Item::Hole { len };
        let exact = of(&[hole(1 << 20), data(65_536), hole(3 << 16), data(5)]).unwrap();
        assert_eq!((exact.bits, exact.exact, exact.pieces.len()), (4, true, 21));
        assert_eq!((exact.pieces[15], exact.pieces[16], exact.pieces[17], exact.pieces[20]), (NOWHERE, 256, NOWHERE, 320));
        let crooked = of(&[hole(5000), data(3), hole(10_000)]).unwrap();
        assert_eq!(crooked, Holes { bits: 0, pieces: vec![NOWHERE, 1, NOWHERE, NOWHERE], exact: false });
        assert_eq!(of(&[hole(1 << 40)]).unwrap().pieces, [NOWHERE]);
        let far = of(&[hole((1 << 40) - 4096), data(4096)]).unwrap();
        assert!(!far.exact && far.pieces.len() as u64 <= MOST);
        assert_eq!(of(&[hole(1 << 60)]), None);
    }
}
