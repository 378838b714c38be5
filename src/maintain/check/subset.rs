//! Which packs are read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::model::id::random_bytes;
use crate::model::{PackId, Timestamp};

/// A part of the packs, with restic's meanings. Of shares and sizes, those packs come first that were not read for the
/// longest time, as far as this machine remembers: ten checks of a tenth check everything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// All of them.
    All,
    /// This share of their number, above 0 and up to 1.
    Share(f64),
    /// As many as have this many bytes together; one at least.
    Bytes(u64),
    /// Part `part` (from 1) of `of`, by their names: the parts together are all packs, on every machine.
    Part {
        /// Which part.
        part: u32,
        /// Of how many.
        of: u32,
    },
}

impl Subset {
    /// The packs to read among `packs` (with their sizes), in the order to read them in.
    pub(super) fn choose(
        &self,
        mut packs: Vec<(PackId, u64)>,
        verified: &HashMap<PackId, Timestamp>,
    ) -> Result<Vec<(PackId, u64)>> {
        let salt = random_bytes()?;
        // Those that were never read first; among equals, by chance.
        packs.sort_by_cached_key(|(id, _)| (verified.get(id).copied(), *blake3::keyed_hash(&salt, &id.0).as_bytes()));
        match *self {
            Subset::All => {}
            Subset::Share(share) => {
                let count = (packs.len() as f64 * share).round() as usize;
                packs.truncate(count.max(1));
            }
            Subset::Bytes(bytes) => {
                let mut total = 0u64;
                let fits = packs.iter().take_while(|(_, size)| {
                    total = total.saturating_add(*size);
                    total <= bytes
                });
                let count = fits.count();
                packs.truncate(count.max(1));
            }
            Subset::Part { part, of } => packs.retain(|(id, _)| in_part(id, part, of)),
        }
        Ok(packs)
    }
}

/// The packs that are to be read, which threads take one by one.
pub(super) struct ToRead {
    packs: Vec<(PackId, u64)>,
    bytes: u64,
    next: AtomicUsize,
    /// No pack is begun after this.
    end: Option<Instant>,
}

impl ToRead {
    /// A queue that is over after `most`, if that is given.
    pub(super) fn new(packs: Vec<(PackId, u64)>, most: Option<Duration>) -> Self {
        // A time that the clock cannot show never comes.
        let end = most.and_then(|most| Instant::now().checked_add(most));
        let bytes = packs.iter().map(|(_, size)| size).sum();
        ToRead { packs, bytes, next: AtomicUsize::new(0), end }
    }

    /// The next pack with its size.
    pub(super) fn take(&self) -> Option<(PackId, u64)> {
        if self.end.is_some_and(|end| Instant::now() >= end) {
            return None;
        }
        self.packs.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }

    /// Nothing is taken from now on.
    pub(super) fn close(&self) {
        self.next.store(self.packs.len(), Ordering::Relaxed);
    }

    /// How many packs there were at first.
    pub(super) fn len(&self) -> u64 {
        self.packs.len() as u64
    }

    /// How many bytes there were at first.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Whether a pack is in a part: by the first bytes of its name, which are as good as random.
fn in_part(id: &PackId, part: u32, of: u32) -> bool {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_be_bytes(first).checked_rem(u64::from(of)) == u64::from(part).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs() -> Vec<(PackId, u64)> {
        (0..100u8).map(|n| (PackId(*blake3::hash(&[n]).as_bytes()), 10)).collect()
    }

    fn chosen(subset: Subset) -> Vec<(PackId, u64)> {
        subset.choose(packs(), &HashMap::new()).expect("random bytes")
    }

    #[test]
    fn parts_cover_everything_once() {
        for of in [1, 2, 7, 300] {
            let mut all: Vec<_> = (1..=of).flat_map(|part| chosen(Subset::Part { part, of })).collect();
            let mut expected = packs();
            all.sort_unstable();
            expected.sort_unstable();
            assert_eq!(all, expected, "{of} parts");
        }
    }

    #[test]
    fn shares_and_sizes_are_kept() {
        assert_eq!(chosen(Subset::All).len(), 100);
        assert_eq!(chosen(Subset::Share(0.1)).len(), 10);
        assert_eq!(chosen(Subset::Share(0.0001)).len(), 1);
        assert_eq!(chosen(Subset::Bytes(55)).len(), 5);
        assert_eq!(chosen(Subset::Bytes(1)).len(), 1);
        assert_eq!(chosen(Subset::Bytes(u64::MAX)).len(), 100);
        assert!(Subset::Share(0.5).choose(Vec::new(), &HashMap::new()).is_ok_and(|none| none.is_empty()));
    }

    #[test]
    fn the_longest_unread_come_first() {
        let mut verified = HashMap::new();
        let mut seen = Vec::new();
        for round in 0..10 {
            let some = Subset::Share(0.1).choose(packs(), &verified).expect("random bytes");
            verified.extend(some.iter().map(|(id, _)| (*id, Timestamp { secs: round, nanos: 0 })));
            seen.extend(some);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
    }
}
