//! The bytes of a row of parity over a group of packs.
//!
//! ```text
//! 0     header            28   see envelope
//! 28    length            4    of the head
//! 32    head                   fields: which packs, in their order, and how they are cut
//!       records                one a stripe:
//!         digests         16   of each pack's shard: the first half of its BLAKE3
//!         digest          16   of this row's shard
//!         check           16   of these digests, of the group, the row and the stripe
//!         shard                of parity
//!       head                   again
//!       length            4    again
//!       checksum          32   BLAKE3 of everything before it
//! ```
//!
//! Nothing is sealed: a row is made without a key, and nothing in it is secret or believed. What is rebuilt with it counts
//! only when it is what its name says.

use crate::error::{Error, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::envelope::{self, CHECKSUM, HEADER};
use crate::format::pack::{MAX_PACK, PackKind};
use crate::model::{ObjectType, PackId, ParityId, RepositoryId};

/// The most packs of one group.
pub const MAX_MEMBERS: usize = 256;
/// The most rows of parity over one group.
pub const MAX_ROWS: usize = 64;
/// The shortest and the longest shard, in bytes; powers of two.
pub const MIN_SHARD: u32 = 1 << 10;
/// The longest shard.
pub const MAX_SHARD: u32 = 1 << 16;
/// Bytes of the digest of a shard.
pub const DIGEST: usize = 16;
/// Bytes of the length of the head.
pub(crate) const LENGTH: usize = 4;
/// The longest head that is read.
pub(crate) const MAX_HEAD: usize = 16 << 10;

/// The digest of a shard.
pub type ShardDigest = [u8; DIGEST];

/// A group of packs that have parity together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParityGroup {
    /// What its packs hold.
    pub kind: PackKind,
    /// Bytes of a shard: each pack is cut into shards of this length, the last one filled up with zeros. The shards at the
    /// same place of all packs are a stripe.
    pub shard: u32,
    /// How many shards of parity each stripe has: so many of its shards may be lost.
    pub rows: u8,
    /// The packs with their lengths in bytes, in the order in which they are coded.
    pub packs: Vec<(PackId, u64)>,
}

impl ParityGroup {
    /// Its name: BLAKE3 of header and head.
    pub fn id(&self, repository: RepositoryId) -> ParityId {
        head_id(repository, &encode_parity(self))
    }

    /// How many stripes the longest pack has.
    pub fn stripes(&self) -> u64 {
        let longest = self.packs.iter().map(|(_, len)| *len).max().unwrap_or_default();
        longest.div_ceil(u64::from(self.shard))
    }

    /// Bytes of a record: the digests of a stripe, and a row's shard of parity.
    pub fn record(&self) -> u64 {
        ((self.packs.len() + 2) * DIGEST) as u64 + u64::from(self.shard)
    }

    /// Bytes before the first record.
    pub fn start(&self) -> u64 {
        (HEADER + LENGTH + encode_parity(self).len()) as u64
    }

    /// Bytes of a whole row.
    pub fn row_len(&self) -> u64 {
        let head = encode_parity(self).len() + LENGTH;
        (HEADER + 2 * head + CHECKSUM) as u64 + self.stripes() * self.record()
    }

    /// Bytes of its packs together.
    pub fn bytes(&self) -> u64 {
        self.packs.iter().map(|(_, len)| *len).sum()
    }
}

/// The name of the group that a head describes.
pub fn head_id(repository: RepositoryId, head: &[u8]) -> ParityId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&envelope::header(ObjectType::Parity, repository)).update(head);
    ParityId(*hasher.finalize().as_bytes())
}

/// The digest of a shard.
pub fn digest(shard: &[u8]) -> ShardDigest {
    let mut out = ShardDigest::default();
    out.copy_from_slice(&blake3::hash(shard).as_bytes()[..DIGEST]);
    out
}

/// The beginning of a record: the digests of a stripe's shards (of all packs, then of the row's own), and their check.
pub fn encode_record(group: ParityId, row: u8, stripe: u64, digests: &[ShardDigest]) -> Vec<u8> {
    let mut out = digests.concat();
    out.extend_from_slice(&check(group, row, stripe, &out));
    out
}

fn check(group: ParityId, row: u8, stripe: u64, digests: &[u8]) -> ShardDigest {
    let mut bytes = Vec::with_capacity(digests.len() + 41);
    bytes.extend_from_slice(&group.0);
    bytes.push(row);
    bytes.extend_from_slice(&stripe.to_le_bytes());
    bytes.extend_from_slice(digests);
    digest(&bytes)
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeRecord {
    /// Of the shards of the packs, in their order.
    pub digests: Vec<ShardDigest>,
    /// The row's shard, if it is as it was written.
    pub shard: Option<Vec<u8>>,
}

/// Reads a record of a group of so many packs; `None`: its digests are not as they were written.
pub fn decode_record(group: ParityId, row: u8, stripe: u64, packs: usize, record: &[u8]) -> Option<StripeRecord> {
    let (digests, rest) = record.split_at_checked((packs + 1) * DIGEST)?;
    let (found, shard) = rest.split_first_chunk::<DIGEST>()?;
    if *found != check(group, row, stripe, digests) {
        return None;
    }
    let (digests, _) = digests.as_chunks::<DIGEST>();
    let (own, digests) = digests.split_last()?;
    let shard = (digest(shard) == *own).then(|| shard.to_vec());
    Some(StripeRecord { digests: digests.to_vec(), shard })
}

/// Encodes the head.
pub fn encode_parity(group: &ParityGroup) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| v.varint(group.kind as u64));
    out.field(3, |v| v.varint(u64::from(group.shard)));
    out.field(5, |v| v.varint(u64::from(group.rows)));
    out.field(7, |v| {
        v.varint(group.packs.len() as u64);
        for (id, len) in &group.packs {
            v.extend_from_slice(&id.0);
            v.varint(*len);
        }
    });
    out.push(0);
    out
}

/// Decodes the head.
pub fn decode_parity(bytes: &[u8]) -> Result<ParityGroup> {
    let mut cursor = Cursor::new(bytes, "a group of parity");
    let (mut kind, mut shard, mut rows, mut packs) = (None, 0, 0, Vec::new());
    cursor.fields(|tag, mut v| {
        match tag {
            1 => {
                kind = match v.varint()? {
                    1 => Some(PackKind::Data),
                    2 => Some(PackKind::Tree),
                    _ => return Err(v.error("its packs are of an unknown kind")),
                }
            }
            3 => shard = v.number(u64::from(MAX_SHARD))? as u32,
            5 => rows = v.number(MAX_ROWS as u64)? as u8,
            7 => {
                for _ in 0..v.number(MAX_MEMBERS as u64)? {
                    packs.push((PackId(v.array()?), v.number(MAX_PACK)?));
                }
            }
            _ => return Ok(false),
        }
        v.end()?;
        Ok(true)
    })?;
    cursor.end()?;
    let kind = kind.ok_or_else(|| cursor.error("it does not say what its packs hold"))?;
    let different: std::collections::HashSet<_> = packs.iter().map(|(id, _)| id).collect();
    let fits = shard.is_power_of_two() && shard >= MIN_SHARD && rows > 0;
    if packs.is_empty() || different.len() < packs.len() || packs.iter().any(|(_, len)| *len == 0) || !fits {
        return Err(Error::corrupt("a group of parity: its packs, its shards or its rows cannot be"));
    }
    Ok(ParityGroup { kind, shard, rows, packs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> ParityGroup {
        let packs = vec![(PackId([1; 32]), 5000), (PackId([2; 32]), 1), (PackId([3; 32]), 1 << 30)];
        ParityGroup { kind: PackKind::Tree, shard: 1024, rows: 2, packs }
    }

    #[test]
    fn a_head_comes_back_and_no_flip_or_cut_passes_for_it() {
        let (group, repository) = (group(), RepositoryId([9; 16]));
        let head = encode_parity(&group);
        assert_eq!(decode_parity(&head).ok().as_ref(), Some(&group));
        assert_eq!(head_id(repository, &head), group.id(repository));
        assert_ne!(group.id(RepositoryId([8; 16])), group.id(repository));
        for at in 0..head.len() {
            let mut bad = head.clone();
            bad[at] ^= 1;
            assert_ne!(head_id(repository, &bad), group.id(repository), "byte {at}");
            assert!(decode_parity(&head[..at]).is_err(), "cut at {at}");
        }
        for bad in [
            ParityGroup { packs: Vec::new(), ..group.clone() },
            ParityGroup { packs: vec![(PackId([1; 32]), 1), (PackId([1; 32]), 1)], ..group.clone() },
            ParityGroup { packs: vec![(PackId([1; 32]), 0)], ..group.clone() },
            ParityGroup { packs: vec![(PackId([1; 32]), MAX_PACK + 1)], ..group.clone() },
            ParityGroup { shard: 512, ..group.clone() },
            ParityGroup { shard: 3000, ..group.clone() },
            ParityGroup { shard: 2 * MAX_SHARD, ..group.clone() },
            ParityGroup { rows: 0, ..group.clone() },
            ParityGroup { rows: MAX_ROWS as u8 + 1, ..group.clone() },
        ] {
            assert!(decode_parity(&encode_parity(&bad)).is_err(), "{bad:?}");
        }
        let most = ParityGroup { packs: (0..MAX_MEMBERS).map(|n| (PackId([n as u8; 32]), 1 << 30)).collect(), ..group };
        assert!(encode_parity(&most).len() <= MAX_HEAD);
    }

    #[test]
    fn a_record_tells_damage_of_its_digests_from_damage_of_its_shard() {
        let (id, shard) = (ParityId([4; 32]), vec![7; 64]);
        let digests = [digest(b"a"), digest(b"b"), digest(&shard)];
        let mut record = encode_record(id, 1, 5, &digests);
        let shard_at = record.len();
        record.extend_from_slice(&shard);
        let found = decode_record(id, 1, 5, 2, &record);
        assert_eq!(found, Some(StripeRecord { digests: digests[..2].to_vec(), shard: Some(shard) }));
        for (row, stripe) in [(0, 5), (1, 4)] {
            assert_eq!(decode_record(id, row, stripe, 2, &record), None, "it is of another place");
        }
        for at in 0..record.len() {
            let mut bad = record.clone();
            bad[at] ^= 0x10;
            match decode_record(id, 1, 5, 2, &bad) {
                None => assert!(at < shard_at, "byte {at}"),
                Some(found) => assert!(at >= shard_at && found.shard.is_none(), "byte {at}"),
            }
            assert!(decode_record(id, 1, 5, 2, &record[..at]).is_none_or(|found| found.shard.is_none()), "cut at {at}");
        }
    }
}
