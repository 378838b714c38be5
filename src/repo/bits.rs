//! Bits: plain ones by number, and one for every entry of an index.

use std::ops::Range;

use crate::error::Result;
use crate::repo::index::Index;

/// A bit for each number below a length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// All clear. The length is rounded up to a multiple of 64.
    pub(crate) fn new(length: u64) -> Self {
        Bits(vec![0; length.div_ceil(64) as usize])
    }

    /// The bit of a number; beyond the length, `None`.
    pub(crate) fn get(&self, at: u64) -> Option<bool> {
        self.0.get(usize::try_from(at / 64).ok()?).map(|word| word >> (at % 64) & 1 == 1)
    }

    /// Sets the bit of a number; answers whether it was set. Beyond the length nothing happens, and
    /// the answer is `None`.
    pub(crate) fn set(&mut self, at: u64) -> Option<bool> {
        let word = self.0.get_mut(usize::try_from(at / 64).ok()?)?;
        let before = *word >> (at % 64) & 1 == 1;
        *word |= 1 << (at % 64);
        Some(before)
    }

    /// Clears all.
    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// The first number of a range whose bit is there and clear.
    pub(crate) fn first_clear(&self, range: Range<u64>) -> Option<u64> {
        let mut at = range.start;
        while at < range.end {
            let clear = !self.0.get(usize::try_from(at / 64).ok()?)? >> (at % 64);
            if clear != 0 {
                return Some(at + u64::from(clear.trailing_zeros())).filter(|found| *found < range.end);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

/// A bit for each entry of each visible segment, by
/// [`ChunkLocation::entry`](crate::repo::index::ChunkLocation::entry).
#[derive(Debug, Clone, Default)]
pub(crate) struct EntryBits(Vec<Bits>);

impl EntryBits {
    /// All clear.
    pub(crate) fn new(index: &Index) -> Self {
        EntryBits(index.entry_counts().iter().map(|entries| Bits::new(*entries)).collect())
    }

    /// The bit of an entry. An entry of another index has none.
    pub(crate) fn get(&self, (segment, entry): (u32, u32)) -> bool {
        self.0.get(segment as usize).and_then(|bits| bits.get(u64::from(entry))).unwrap_or(false)
    }

    /// Sets the bit of an entry; answers whether it was set.
    pub(crate) fn set(&mut self, (segment, entry): (u32, u32)) -> bool {
        self.0.get_mut(segment as usize).and_then(|bits| bits.set(u64::from(entry))).unwrap_or(true)
    }

    /// Whether no bit is set.
    pub(crate) fn is_clear(&self) -> bool {
        self.0.iter().flat_map(|bits| &bits.0).all(|word| *word == 0)
    }

    /// The same bits in another index. A segment that both have keeps its bits; for the entries of a
    /// new one the old index is asked, in one scan for all of `bits`. All copies of a chunk must have
    /// equal bits, so that any of them tells.
    pub(crate) fn carry<const N: usize>(bits: [&EntryBits; N], from: &Index, to: &Index) -> Result<[EntryBits; N]> {
        let mut out = [(); N].map(|()| EntryBits::new(to));
        for (at, segment) in to.segments().iter().enumerate() {
            if let Some(old) = from.segments().iter().position(|s| s.id() == segment.id()) {
                for (out, bits) in out.iter_mut().zip(bits) {
                    if let (Some(out), Some(bits)) = (out.0.get_mut(at), bits.0.get(old)) {
                        out.clone_from(bits);
                    }
                }
                continue;
            }
            to.scan(at, &mut |location, key, pack| {
                if let Some(known) = from.find(pack.kind, key)? {
                    for (out, bits) in out.iter_mut().zip(bits) {
                        if bits.get(known.entry()) {
                            out.set(location.entry());
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_set_once_and_there_is_none_beyond_the_length() {
        let mut bits = Bits::new(65);
        assert_eq!((bits.get(64), bits.set(64), bits.set(64), bits.get(64)), (Some(false), Some(false), Some(true), Some(true)));
        assert_eq!((bits.get(0), bits.get(128), bits.set(128)), (Some(false), None, None));
        bits.clear();
        assert_eq!(bits.get(64), Some(false));
    }

    #[test]
    fn the_first_clear_bit_of_a_range_is_found() {
        let mut bits = Bits::new(256);
        (3..200).for_each(|at| assert_eq!(bits.set(at), Some(false)));
        assert_eq!((bits.first_clear(0..256), bits.first_clear(2..3), bits.first_clear(3..256)), (Some(0), Some(2), Some(200)));
        assert_eq!((bits.first_clear(3..200), bits.first_clear(130..201), bits.first_clear(9..9)), (None, Some(200), None));
        (200..256).for_each(|at| assert_eq!(bits.set(at), Some(false)));
        assert_eq!((bits.first_clear(3..256), bits.first_clear(3..1000)), (None, None), "there are none beyond the length");
    }
}
