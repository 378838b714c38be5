//! The body of an object of a group, and what a snapshot says of the group that it is a part of.

use crate::error::{Error, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::snapshot::{MAX_TEXT, put_list, texts};
use crate::model::{GroupEntry, GroupPart, GroupRound, GroupSlot, GroupStep, SnapshotId, Timestamp};

/// Encodes the body. An error for what no reader would take.
pub fn encode_group(record: &GroupEntry) -> Result<Vec<u8>> {
    let bytes = group_bytes(record);
    match decode_group(&bytes) {
        Ok(found) if found == *record => Ok(bytes),
        Ok(_) => Err(Error::invalid("an object of a group cannot be stored: it would be read as something else")),
        Err(e) => Err(Error::invalid(format!("an object of a group cannot be stored, since it could not be read: {e}"))),
    }
}

fn number(out: &mut Vec<u8>, tag: u64, number: u64) {
    if number > 0 {
        out.field(tag, |v| v.varint(number));
    }
}

fn id(out: &mut Vec<u8>, tag: u64, id: Option<SnapshotId>) {
    if let Some(id) = id {
        out.field(tag, |v| v.extend_from_slice(&id.0));
    }
}

fn text(out: &mut Vec<u8>, tag: u64, text: &[u8]) {
    if !text.is_empty() {
        out.field(tag, |v| v.extend_from_slice(text));
    }
}

fn group_bytes(record: &GroupEntry) -> Vec<u8> {
    let mut out = Vec::new();
    let step = GroupStep::ALL.iter().position(|step| *step == record.slot.step).unwrap_or_default();
    out.field(1, |v| {
        v.varint(step as u64);
        v.varint(u64::from(record.slot.member));
    });
    out.field(2, |v| v.timestamp(record.time));
    text(&mut out, 4, &record.host);
    text(&mut out, 6, &record.user);
    if let Some(round) = &record.round {
        out.field(7, |v| v.extend_from_slice(&round_bytes(round)));
    }
    number(&mut out, 8, u64::from(record.goes_on));
    if !record.members.is_empty() {
        out.field(10, |v| record.members.iter().for_each(|member| v.varint(u64::from(*member))));
    }
    id(&mut out, 12, record.nonce);
    id(&mut out, 14, record.snapshot);
    number(&mut out, 16, record.errors);
    number(&mut out, 18, record.still);
    text(&mut out, 20, &record.message);
    out.push(0);
    out
}

/// The fields of a round.
pub fn round_bytes(round: &GroupRound) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| v.varint(round.kind));
    text(&mut out, 2, &round.set);
    out.field(3, |v| put_list(&round.members, v));
    number(&mut out, 4, u64::from(round.barrier));
    number(&mut out, 6, u64::from(round.allow_missing));
    number(&mut out, 8, round.limit);
    number(&mut out, 10, round.still_limit);
    id(&mut out, 12, round.of);
    if !round.parts.is_empty() {
        out.field(14, |v| put_list(&round.parts, v));
    }
    out.push(0);
    out
}

/// Decodes the body.
pub fn decode_group(bytes: &[u8]) -> Result<GroupEntry> {
    let mut cursor = Cursor::new(bytes, "an object of a group");
    let mut slot = None;
    let mut time: Option<Timestamp> = None;
    let mut out = GroupEntry::default();
    cursor.fields(|tag, mut v| {
        match tag {
            1 => slot = Some(decode_slot(&mut v)?),
            2 => time = Some(v.timestamp()?),
            4 => out.host = v.text(MAX_TEXT)?,
            6 => out.user = v.text(MAX_TEXT)?,
            7 => out.round = Some(round(&mut v)?),
            8 => out.goes_on = v.number(1)? == 1,
            10 => out.members = members(&mut v)?,
            12 => out.nonce = Some(SnapshotId(v.array()?)),
            14 => out.snapshot = Some(SnapshotId(v.array()?)),
            16 => out.errors = v.varint()?,
            18 => out.still = v.varint()?,
            20 => out.message = v.text(MAX_TEXT)?,
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    out.slot = slot.ok_or_else(|| cursor.error("it does not say what it is"))?;
    out.time = time.unwrap_or_default();
    match out.round.is_some() == (out.slot.step == GroupStep::Round) {
        true => Ok(out),
        false => Err(cursor.error("a round tells of itself, and nothing else does")),
    }
}

fn decode_slot(v: &mut Cursor<'_>) -> Result<GroupSlot> {
    let step = v.number(GroupStep::ALL.len() as u64 - 1)?;
    let step = GroupStep::ALL.get(step as usize).copied().ok_or_else(|| v.error("it is of an unknown kind"))?;
    let member = v.number(if step.is_of_member() { GroupRound::MAX_MEMBERS as u64 - 1 } else { 0 })?;
    Ok(GroupSlot { member: member as u16, step })
}

/// Numbers of members, rising.
fn members(v: &mut Cursor<'_>) -> Result<Vec<u16>> {
    let mut out: Vec<u16> = Vec::new();
    while v.remaining() > 0 {
        let member = v.number(GroupRound::MAX_MEMBERS as u64 - 1)? as u16;
        if out.last().is_some_and(|last| *last >= member) {
            return Err(v.error("its members are out of order"));
        }
        out.push(member);
    }
    Ok(out)
}

fn round(v: &mut Cursor<'_>) -> Result<GroupRound> {
    let mut out = GroupRound::default();
    v.fields(|tag, mut v| {
        match tag {
            1 => out.kind = v.varint()?,
            2 => out.set = v.text(MAX_TEXT)?,
            3 => out.members = texts(&mut v)?,
            4 => out.barrier = v.number(1)? == 1,
            6 => out.allow_missing = v.number(1)? == 1,
            8 => out.limit = v.varint()?,
            10 => out.still_limit = v.varint()?,
            12 => out.of = Some(SnapshotId(v.array()?)),
            14 => out.parts = texts(&mut v)?,
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    let mut names: Vec<&Vec<u8>> = out.members.iter().collect();
    names.sort_unstable();
    names.dedup();
    match names.len() == out.members.len() && (1..=GroupRound::MAX_MEMBERS).contains(&names.len()) {
        true => Ok(out),
        false => Err(v.error("it expects nobody, too many, or one of them twice")),
    }
}

/// Appends what a snapshot says of its group.
pub fn put_group_part(part: &GroupPart, out: &mut Vec<u8>) {
    out.extend_from_slice(&part.group.0);
    out.extend_from_slice(&part.member);
}

/// Reads what a snapshot says of its group.
pub fn group_part(v: &mut Cursor<'_>) -> Result<GroupPart> {
    Ok(GroupPart { group: SnapshotId(v.array()?), member: v.text(MAX_TEXT)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_round() -> GroupEntry {
        let round = GroupRound {
            kind: GroupRound::RESTORE,
            set: b"store".to_vec(),
            members: vec![b"db1".to_vec(), b"db2".to_vec()],
            barrier: true,
            allow_missing: true,
            limit: 3_600_000,
            still_limit: 5,
            of: Some(SnapshotId([4; 32])),
            parts: vec![b"old1".to_vec(), b"old2".to_vec()],
        };
        let time = Timestamp { secs: 5, nanos: 6 };
        GroupEntry { time, host: b"h".to_vec(), user: b"u".to_vec(), round: Some(round), ..GroupEntry::default() }
    }

    #[test]
    fn what_is_written_is_read() {
        let decision = GroupEntry {
            slot: GroupSlot::of_round(GroupStep::Barrier),
            goes_on: true,
            members: vec![0, 3, 4095],
            ..GroupEntry::default()
        };
        let done = GroupEntry {
            slot: GroupSlot::of_member(4095, GroupStep::Done),
            nonce: Some(SnapshotId([1; 32])),
            snapshot: Some(SnapshotId([2; 32])),
            errors: 3,
            still: 4,
            message: b"why".to_vec(),
            ..GroupEntry::default()
        };
        for record in [a_round(), decision.clone(), done.clone()] {
            let bytes = encode_group(&record).expect("it can be stored");
            assert_eq!(decode_group(&bytes).expect("it can be read"), record);
            for len in 0..bytes.len() {
                assert!(decode_group(&bytes[..len]).is_err(), "{len}");
            }
        }
        assert!(encode_group(&GroupEntry { members: vec![3, 1], ..decision }).is_err());
        assert!(encode_group(&GroupEntry { slot: GroupSlot::of_member(4096, GroupStep::Done), ..done.clone() }).is_err());
        assert!(encode_group(&GroupEntry { round: a_round().round, ..done }).is_err(), "only a round has it");
        let mut twice = a_round();
        twice.round.as_mut().unwrap().members = vec![b"a".to_vec(), b"a".to_vec()];
        assert!(encode_group(&twice).is_err());
    }
}
