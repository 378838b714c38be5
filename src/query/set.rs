//! Sets of the snapshots that are looked through, by their numbers.

/// Some of the snapshots that are looked through: bit `n` stands for snapshot number `n`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotSet(Vec<u64>);

impl SnapshotSet {
    /// The set of one.
    pub fn one(at: usize) -> Self {
        let mut bits = vec![0; at / 64 + 1];
        bits[at / 64] |= 1 << (at % 64);
        SnapshotSet(bits)
    }

    /// All numbers below `count`.
    pub fn below(count: usize) -> Self {
        (0..count).fold(SnapshotSet::default(), |mut set, at| {
            set.add(&SnapshotSet::one(at));
            set
        })
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &SnapshotSet) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    /// Whether number `at` is in it.
    pub fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|bits| bits >> (at % 64) & 1 != 0)
    }

    /// Whether all of `other` are in it.
    pub fn holds(&self, other: &SnapshotSet) -> bool {
        other.0.iter().enumerate().all(|(at, bits)| self.0.get(at).copied().unwrap_or(0) & bits == *bits)
    }

    /// The numbers, rising.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|at| self.has(*at))
    }

    /// The lowest number.
    pub(crate) fn first(&self) -> Option<usize> {
        self.0.iter().enumerate().find(|(_, bits)| **bits != 0).map(|(at, bits)| at * 64 + bits.trailing_zeros() as usize)
    }

    /// The highest number.
    pub(crate) fn last(&self) -> Option<usize> {
        let found = self.0.iter().enumerate().rfind(|(_, bits)| **bits != 0);
        found.map(|(at, bits)| at * 64 + 63 - bits.leading_zeros() as usize)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_numbers() {
        let mut set = SnapshotSet::one(3);
        set.add(&SnapshotSet::one(70));
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 70]);
        assert_eq!((set.first(), set.last(), SnapshotSet::default().last()), (Some(3), Some(70), None));
        assert!(SnapshotSet::below(71).holds(&set) && !set.holds(&SnapshotSet::below(4)) && set.len() == 2);
        assert!(SnapshotSet::below(0).is_empty() && SnapshotSet::below(65).len() == 65);
    }
}
