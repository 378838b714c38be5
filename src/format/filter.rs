//! A filter of chunk keys: says of most keys that are not in a segment that they are not, without a look at the
//! segment. A blocked Bloom filter (Putze, Sanders, Singler 2007): all bits of one key lie in one block of 64 bytes.
//!
//! Keys come from a keyed hash, so their own bits place them: the first eight bytes say which bits, the last eight which
//! block. With ten bits a key about one in a hundred absent keys passes.

use crate::model::ChunkKey;

/// Bytes of one block.
pub const BLOCK: usize = 64;
/// Blocks of one page of a stored filter.
pub(crate) const BLOCKS_A_PAGE: usize = 1024;
/// Bits of filter for each key.
const BITS_A_KEY: u64 = 10;
/// Bits that a key sets, nine bits of the key for the place of each.
const PROBES: u32 = 6;

/// Blocks of a filter for so many keys.
pub(crate) fn blocks(keys: u64) -> u64 {
    (keys * BITS_A_KEY).div_ceil(BLOCK as u64 * 8).max(1)
}

/// Which of `blocks` blocks is the key's.
pub fn block_of(key: &ChunkKey, blocks: u64) -> u64 {
    let mut last = [0; 8];
    last.copy_from_slice(&key.0[8..]);
    ((u128::from(u64::from_le_bytes(last)) * u128::from(blocks)) >> 64) as u64
}

fn probes(key: &ChunkKey) -> impl Iterator<Item = (usize, u8)> {
    let mut first = [0; 8];
    first.copy_from_slice(&key.0[..8]);
    let bits = u64::from_le_bytes(first);
    (0..PROBES).map(move |probe| {
        let bit = (bits >> (probe * 9)) as usize & (BLOCK * 8 - 1);
        (bit / 8, 1 << (bit % 8))
    })
}

/// Sets the key's bits in its block.
pub(crate) fn insert(key: &ChunkKey, block: &mut [u8; BLOCK]) {
    probes(key).for_each(|(byte, bit)| block[byte] |= bit);
}

/// Whether the key may be in; false: it is not.
pub fn may_hold(key: &ChunkKey, block: &[u8; BLOCK]) -> bool {
    probes(key).all(|(byte, bit)| block[byte] & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> ChunkKey {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..16]);
        ChunkKey(key)
    }

    #[test]
    fn no_key_is_lost_and_few_others_pass() {
        let total = 20_000;
        let mut filter = vec![[0u8; BLOCK]; blocks(total) as usize];
        let at = |key: &ChunkKey| block_of(key, blocks(total)) as usize;
        for n in 0..total {
            insert(&key(n), &mut filter[at(&key(n))]);
        }
        assert!((0..total).all(|n| may_hold(&key(n), &filter[at(&key(n))])));
        let passed = (total..2 * total).filter(|n| may_hold(&key(*n), &filter[at(&key(*n))])).count();
        assert!(passed < total as usize / 50, "{passed} of {total} absent keys passed");
    }
}
