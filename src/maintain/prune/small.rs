//! Merging small packs: an ingest of little makes packs of little, and thousands of them cost a request and a file each.
//!
//! Packs of one kind and one class of size are merged when there are many. What comes of them is of a higher class, so a
//! byte is copied once a class at most: four times in the life of a repository.

use std::collections::BTreeMap;

use crate::format::pack::PackKind;
use crate::maintain::prune::packs::{Pack, Standing};
use crate::repo::pack::writer::PACK_TARGET;

/// So many packs of one kind and class are merged.
const MANY: usize = 16;
/// A pack of this many bytes is not small.
const SMALL: u64 = PACK_TARGET / 4;

/// The class of a size: each holds sizes up to eight times as large as the one before, from 4 KiB on.
fn class(size: u64) -> u32 {
    (u64::BITS - (size >> 12).leading_zeros()).div_ceil(3)
}

/// The numbers of packs that are merged beside those that are `chosen` already, of at most so many bytes together.
pub(crate) fn to_merge(list: &[Pack], chosen: &[usize], most: u64) -> Vec<usize> {
    let mut classes: BTreeMap<(PackKind, u32), Vec<usize>> = BTreeMap::new();
    for (at, pack) in list.iter().enumerate() {
        let may = pack.standing == Standing::Usable && !pack.is_dead() && !pack.held && !pack.damaged && pack.size < SMALL;
        if let Some(kind) = pack.kind.filter(|_| may) {
            classes.entry((kind, class(pack.size))).or_default().push(at);
        }
    }
    let taken: std::collections::HashSet<usize> = chosen.iter().copied().collect();
    let mut out = Vec::new();
    let mut bytes = 0;
    for packs in classes.into_values().filter(|packs| packs.len() >= MANY) {
        for at in packs.into_iter().filter(|at| !taken.contains(at)) {
            bytes += list[at].size;
            if bytes > most {
                return out;
            }
            out.push(at);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_is_of_a_higher_class() {
        assert_eq!([0, 4095, 4096, 32767, 32768, 262_143, 262_144].map(class), [0, 0, 1, 1, 2, 2, 3]);
        for size in [100_u64, 3000, 5000, 40_000, 300_000] {
            assert!(class(size) <= class(size * MANY as u64), "{size}");
        }
        // Sixteen packs of the least size of a class are in the next one, whatever their frames.
        assert!(class(4096 * MANY as u64) > class(4096));
    }
}
