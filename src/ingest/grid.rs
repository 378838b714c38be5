//! Files that are written in place are cut at a fixed grid instead of by content: databases, images of disks. A page that
//! changes stays where it is, so the same place of the previous version is the right base, and no cut is searched for.
//!
//! A file is taken for one by its size: long, and a whole number of pages. Names say nothing. What was cut by content in
//! the parent stays so; what was cut at the grid stays so while its size allows it. An insertion of a few bytes makes a
//! size that does not, and the file is cut by content from then on.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::model::{Content, Item};
use crate::repo::tree::TreeReader;

/// The distance of cuts in bytes.
pub(crate) const GRID: u64 = 64 << 10;
/// Shorter files are cut by content.
const SHORTEST: u64 = 1 << 20;
/// Pages of databases and file systems have this size or a multiple of it.
const PAGE: u64 = 4096;
/// Chunks of the parent that are looked at.
const LOOK: usize = 16;
/// Where a tar archive says that it is one. Its members move when another one grows.
const TAR: (u64, &[u8; 5]) = (257, b"ustar");

/// Whether a chunk fills a field of the grid.
pub(crate) fn is_field(offset: u64, len: u32) -> bool {
    u64::from(len) == GRID && offset.is_multiple_of(GRID)
}

/// The length of the chunk that begins at `offset` of a file.
pub(crate) fn length(offset: u64) -> usize {
    (GRID - offset % GRID) as usize
}

/// Whether a file of `size` bytes is cut at the grid, with its content in the parent.
pub(super) fn suits(file: &File, size: u64, parent: Option<(&TreeReader, &Content)>) -> bool {
    if size < SHORTEST || !size.is_multiple_of(PAGE) {
        return false;
    }
    match parent.and_then(|(trees, content)| was_cut_so(trees, content)) {
        Some(so) => so,
        None => !is_tar(file),
    }
}

/// Whether a file of `size` bytes that begins with `head` is cut at the grid; for what is not read from a file, and has no
/// parent.
pub(crate) fn suits_head(head: &[u8], size: u64) -> bool {
    let at = TAR.0 as usize;
    size >= SHORTEST && size.is_multiple_of(PAGE) && head.get(at..at + TAR.1.len()) != Some(&TAR.1[..])
}

fn is_tar(file: &File) -> bool {
    let mut magic = [0; TAR.1.len()];
    file.read_exact_at(&mut magic, TAR.0).is_ok() && &magic == TAR.1
}

/// How the parent's content was cut; `None` if that cannot be told.
fn was_cut_so(trees: &TreeReader, content: &Content) -> Option<bool> {
    let mut first = Vec::with_capacity(LOOK);
    let visit = &mut |_, item: &Item| {
        first.push(*item);
        Ok(first.len() < LOOK)
    };
    trees.items(content, 0, visit).ok()?;
    is_grid(&first, content.size())
}

/// Whether the first items of a file of `size` bytes end at the grid, but for what a hole or the file ends.
fn is_grid(first: &[Item], size: u64) -> Option<bool> {
    let (mut at, mut fields) = (0, false);
    for (n, item) in first.iter().enumerate() {
        let start = at;
        at += item.len();
        if let Item::Chunk { len, .. } = item {
            let ends = at.is_multiple_of(GRID) || at == size || !matches!(first.get(n + 1), Some(Item::Chunk { .. }));
            if !ends || u64::from(*len) > GRID {
                return Some(false);
            }
            fields |= is_field(start, *len);
        }
    }
    fields.then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChunkId;

    #[test]
    fn the_cut_of_the_parent_is_seen() {
        let chunk = |len: u64| Item::Chunk { id: ChunkId([0; 32]), len: len as u32 };
        let hole = |len: u64| Item::Hole { len };
        let cases = [
            (vec![chunk(GRID), chunk(GRID), chunk(4096)], Some(true)),
            (vec![hole(4096), chunk(GRID - 4096), chunk(GRID), chunk(4096), hole(GRID)], Some(true)),
            (vec![chunk(70_000), chunk(GRID)], Some(false)),
            (vec![chunk(30_000), chunk(GRID), chunk(GRID)], Some(false)),
            (vec![hole(GRID)], None),
            (vec![], None),
        ];
        for (items, expected) in cases {
            let size = items.iter().map(Item::len).sum();
            assert_eq!(is_grid(&items, size), expected, "{items:?}");
        }
    }
}
