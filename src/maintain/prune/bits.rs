//! A bit for every entry of an index.

use crate::repo::index::Index;

/// One bit for each entry of each visible segment, by [`crate::repo::index::Location::entry`].
#[derive(Debug, Clone, Default)]
pub struct Bits(Vec<Vec<u64>>);

impl Bits {
    /// All clear.
    pub fn new(index: &Index) -> Self {
        Bits(index.entry_counts().iter().map(|entries| vec![0; entries.div_ceil(64) as usize]).collect())
    }

    /// The bit of an entry.
    pub fn get(&self, (segment, entry): (u32, u32)) -> bool {
        self.0[segment as usize][entry as usize / 64] >> (entry % 64) & 1 == 1
    }

    /// Sets the bit of an entry; answers whether it was set.
    pub fn set(&mut self, (segment, entry): (u32, u32)) -> bool {
        let word = &mut self.0[segment as usize][entry as usize / 64];
        let before = *word >> (entry % 64) & 1 == 1;
        *word |= 1 << (entry % 64);
        before
    }

    /// Whether no bit is set.
    pub fn is_clear(&self) -> bool {
        self.0.iter().flatten().all(|word| *word == 0)
    }

    /// Takes the bits of one segment over from another set.
    pub fn take(&mut self, segment: usize, other: &Bits, from: usize) {
        self.0[segment].clone_from(&other.0[from]);
    }
}
