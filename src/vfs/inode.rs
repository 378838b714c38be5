//! Inode numbers: one range for each snapshot, begun at a place that depends on nothing but the snapshot's id, and in
//! it the position of the node in preorder. No table of inodes is needed, and the numbers are the same in every mount.

use crate::model::SnapshotId;

/// The root of the mount, as the kernel wants it.
pub(crate) const ROOT: u64 = 1;
/// Numbers below this are for the directories and links that the mount makes up.
pub(crate) const FIRST: u64 = 1 << 32;
/// Ranges begin below this; they may end up to 2⁴⁸ behind it, far below 2⁶¹.
const SPAN: u64 = 1 << 60;
/// Numbers from here on, in steps of this, stand for something that belongs to a node of a snapshot. Below it are 61 bits
/// for the node's own number.
const SPACE: u64 = 1 << 61;

/// What a number has to do with the node of a snapshot whose number it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum InodeSpace {
    /// It is the node (or something made up).
    Own,
    /// It is the directory `.versions` in this directory.
    Versions,
    /// It is the link to this node in such a directory.
    Link,
    /// It is the directory below `hosts/<host>/.versions` for the path of this directory.
    Past,
}

impl InodeSpace {
    /// The number in this space.
    pub(crate) fn number(self, ino: u64) -> u64 {
        // The third space is that of images (`mount/native.rs`).
        let at: u64 = match self {
            InodeSpace::Own => 0,
            InodeSpace::Versions => 4,
            InodeSpace::Link => 5,
            InodeSpace::Past => 6,
        };
        at * SPACE + ino
    }

    /// The space of a number, and the number of the node.
    pub(crate) fn of(ino: u64) -> (InodeSpace, u64) {
        let node = ino % SPACE;
        match ino / SPACE {
            4 => (InodeSpace::Versions, node),
            5 => (InodeSpace::Link, node),
            6 => (InodeSpace::Past, node),
            _ => (InodeSpace::Own, ino),
        }
    }
}

/// The ranges that are taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges {
    /// Begin and end of each, sorted, without overlap.
    taken: Vec<(u64, u64)>,
}

impl Ranges {
    /// Takes a range for a snapshot of `nodes` nodes and answers where it begins. Where another snapshot's range is in
    /// the way (for a thousand snapshots of a million files: once in a million repositories), the next free place
    /// behind it is taken. `None` when no place is left.
    pub(crate) fn take(&mut self, id: &SnapshotId, nodes: u64) -> Option<u64> {
        let mut begin = home(id);
        for _ in 0..=self.taken.len() + 1 {
            let end = begin.checked_add(nodes)?;
            let at = self.taken.partition_point(|(_, taken_end)| *taken_end <= begin);
            match self.taken.get(at) {
                Some((taken_begin, taken_end)) if *taken_begin < end => {
                    begin = if *taken_end < SPAN { *taken_end } else { FIRST };
                }
                _ => {
                    self.taken.insert(at, (begin, end));
                    return Some(begin);
                }
            }
        }
        None
    }
}

/// Where the range of a snapshot begins when nothing is in the way.
fn home(id: &SnapshotId) -> u64 {
    FIRST + hash(&id.0) % (SPAN - FIRST)
}

/// A number for a made-up entry, from what it is: the same in every mount. `taken` are the numbers that others have.
pub(crate) fn synthetic(what: &[u8], taken: impl Fn(u64) -> bool) -> u64 {
    let first = hash(what);
    // The lowest numbers are kept for the fixed directories. Far fewer than 2³² entries exist: a free one is near.
    (0..).map(|n: u64| 64 + first.wrapping_add(n) % (FIRST - 64)).find(|ino| !taken(*ino)).unwrap_or(FIRST - 1)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_depend_on_ids_alone() {
        let ids: Vec<SnapshotId> = (0..200u8).map(|n| SnapshotId([n; 32])).collect();
        let mut forwards = Ranges::default();
        let mut backwards = Ranges::default();
        let mut a: Vec<_> = ids.iter().map(|id| forwards.take(id, 1 << 20)).collect();
        a.reverse();
        let b: Vec<_> = ids.iter().rev().map(|id| backwards.take(id, 1 << 20)).collect();
        assert_eq!(a, b);
        assert!(a.iter().all(|base| base.is_some_and(|base| (FIRST..SPAN).contains(&base))));
    }

    #[test]
    fn overlapping_ranges_are_moved() {
        let id = SnapshotId([7; 32]);
        let mut ranges = Ranges::default();
        let bases: Vec<u64> = (0..100).map(|_| ranges.take(&id, 1 << 48).unwrap()).collect();
        let mut sorted = bases.clone();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|w| w[1] - w[0] >= 1 << 48), "ranges overlap");
        assert!(sorted.iter().all(|b| *b >= FIRST && *b < SPAN + (1 << 56)));
    }

    #[test]
    fn spaces_do_not_meet() {
        let most = SPAN + (1 << 48);
        for space in [InodeSpace::Own, InodeSpace::Versions, InodeSpace::Link, InodeSpace::Past] {
            assert_eq!(InodeSpace::of(space.number(most)), (space, most));
        }
    }

    #[test]
    fn synthetic_numbers_avoid_each_other() {
        let first = synthetic(b"hosts/a", |_| false);
        let second = synthetic(b"hosts/a", |ino| ino == first);
        assert_ne!(first, second);
        assert!((64..FIRST).contains(&first) && (64..FIRST).contains(&second));
    }
}
