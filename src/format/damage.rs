//! What was found damaged of packs, as it is written down in the repository.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::format::cursor::{Cursor, Put};
use crate::model::{PackId, Timestamp};

/// Packs of one object, at most.
pub(crate) const MAX_DAMAGED_PACKS: usize = 65_536;
/// Frames of one pack that are told apart, at most. Where more are damaged, the whole pack counts as damaged.
pub(crate) const MAX_DAMAGED_FRAMES: usize = 65_536;

/// What is damaged of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DamagedExtent {
    /// All of it: nothing in it can be opened.
    Whole,
    /// These frames. Without any: only what is around the frames, its directory or its checksum.
    Frames(BTreeSet<u32>),
}

impl DamagedExtent {
    /// Whether this frame is damaged.
    pub(crate) fn has(&self, frame: u32) -> bool {
        match self {
            DamagedExtent::Whole => true,
            DamagedExtent::Frames(frames) => frames.contains(&frame),
        }
    }

    /// Adds what another look found.
    pub(crate) fn add(&mut self, other: &DamagedExtent) {
        match (&mut *self, other) {
            (DamagedExtent::Frames(frames), DamagedExtent::Frames(more)) => frames.extend(more),
            _ => *self = DamagedExtent::Whole,
        }
    }

    /// Whether `other` says nothing that this does not say.
    pub(crate) fn covers(&self, other: &DamagedExtent) -> bool {
        match (self, other) {
            (DamagedExtent::Whole, _) => true,
            (DamagedExtent::Frames(frames), DamagedExtent::Frames(others)) => others.is_subset(frames),
            (DamagedExtent::Frames(_), DamagedExtent::Whole) => false,
        }
    }
}

/// What one look at packs found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Damage {
    /// Packs, and what of each is damaged.
    pub packs: BTreeMap<PackId, DamagedExtent>,
    /// The host that found it.
    pub host: Vec<u8>,
    /// When.
    pub time: Timestamp,
    /// How it was found, for people.
    pub why: Vec<u8>,
}

/// Encodes the body. Nothing beyond the limits of [`decode_damage`] is written: the caller keeps to
/// `MAX_DAMAGED_PACKS`, and a pack with more damaged frames than `MAX_DAMAGED_FRAMES` is written as a whole.
pub fn encode_damage(damage: &Damage) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| {
        v.varint(damage.packs.len() as u64);
        for (id, extent) in &damage.packs {
            v.extend_from_slice(&id.0);
            match extent {
                DamagedExtent::Frames(frames) if frames.len() <= MAX_DAMAGED_FRAMES => {
                    v.varint(frames.len() as u64 + 1);
                    let mut next = 0;
                    for frame in frames {
                        v.varint(u64::from(*frame) - next);
                        next = u64::from(*frame) + 1;
                    }
                }
                _ => v.varint(0),
            }
        }
    });
    out.field(2, |v| v.extend_from_slice(&damage.host));
    out.field(4, |v| v.timestamp(damage.time));
    out.field(6, |v| v.extend_from_slice(&damage.why));
    out.push(0);
    out
}

/// Decodes the body.
pub fn decode_damage(bytes: &[u8]) -> Result<Damage> {
    let mut cursor = Cursor::new(bytes, "a record of damage");
    let mut out = Damage::default();
    cursor.fields(|tag, mut v| {
        match tag {
            1 => {
                let packs = v.varint()?;
                if packs > MAX_DAMAGED_PACKS as u64 {
                    return Err(v.error("it names too many packs"));
                }
                let mut last = None;
                for _ in 0..packs {
                    let id = PackId(v.array()?);
                    if last.is_some_and(|last| last >= id) {
                        return Err(v.error("its packs are not sorted"));
                    }
                    last = Some(id);
                    out.packs.insert(id, extent(&mut v)?);
                }
            }
            2 => out.host = v.bytes_to_end(),
            4 => out.time = v.timestamp()?,
            6 => out.why = v.bytes_to_end(),
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    Ok(out)
}

fn extent(v: &mut Cursor<'_>) -> Result<DamagedExtent> {
    let Some(count) = v.varint()?.checked_sub(1) else { return Ok(DamagedExtent::Whole) };
    if count > MAX_DAMAGED_FRAMES as u64 {
        return Err(v.error("it names too many frames"));
    }
    let mut frames = BTreeSet::new();
    let mut next = 0u64;
    for _ in 0..count {
        let frame = next.checked_add(v.varint()?).and_then(|frame| u32::try_from(frame).ok());
        let frame = frame.ok_or_else(|| v.error("a frame's number is too large"))?;
        frames.insert(frame);
        next = u64::from(frame) + 1;
    }
    Ok(DamagedExtent::Frames(frames))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let frames = |numbers: &[u32]| DamagedExtent::Frames(numbers.iter().copied().collect());
        let packs = [(1, DamagedExtent::Whole), (2, frames(&[])), (3, frames(&[0, 1, 7, u32::MAX]))];
        let packs = packs.into_iter().map(|(n, extent)| (PackId([n; 32]), extent)).collect();
        let time = Timestamp { secs: 5, nanos: 6 };
        let damage = Damage { packs, host: b"web1".to_vec(), time, why: b"check".to_vec() };
        let bytes = encode_damage(&damage);
        assert_eq!(decode_damage(&bytes).unwrap(), damage);
        for len in 0..bytes.len() {
            assert!(decode_damage(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn too_many_frames_are_the_whole_pack() {
        let all = DamagedExtent::Frames((0..=MAX_DAMAGED_FRAMES as u32).collect());
        let damage = Damage { packs: [(PackId([1; 32]), all)].into(), ..Damage::default() };
        assert_eq!(decode_damage(&encode_damage(&damage)).unwrap().packs[&PackId([1; 32])], DamagedExtent::Whole);
    }

    #[test]
    fn extents_add_up() {
        let frames = |numbers: &[u32]| DamagedExtent::Frames(numbers.iter().copied().collect());
        let mut sum = frames(&[1]);
        sum.add(&frames(&[3]));
        assert!(sum.covers(&frames(&[1, 3])) && !sum.covers(&frames(&[2])) && !sum.covers(&DamagedExtent::Whole));
        sum.add(&DamagedExtent::Whole);
        assert!(sum.covers(&frames(&[2])) && sum.has(9));
    }
}
