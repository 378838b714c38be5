//! What a snapshot is made of: its parts, and the set that they are of.

use crate::error::Result;
use crate::format::cursor::{Cursor, Put};
use crate::format::snapshot::{MAX_LIST, MAX_TEXT};
use crate::model::{Part, SetText, Timestamp};

const KIND: u64 = 1;
const STATE: u64 = 2;
const PATH: u64 = 4;
const STARTED: u64 = 6;
const PART_FINISHED: u64 = 8;
const BYTES: u64 = 10;
const CHANGED: u64 = 12;
const ERRORS: u64 = 14;
const MESSAGE: u64 = 16;

/// Appends a list of parts.
pub fn put_parts(parts: &[Part], out: &mut Vec<u8>) {
    parts.iter().for_each(|part| out.bytes(&part_bytes(part)));
}

fn part_bytes(part: &Part) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(KIND, |v| v.varint(part.kind));
    out.field(STATE, |v| v.varint(part.state));
    let text = |out: &mut Vec<u8>, tag, text: &[u8]| {
        if !text.is_empty() {
            out.field(tag, |v| v.extend_from_slice(text));
        }
    };
    let time = |out: &mut Vec<u8>, tag, time: Timestamp| {
        if time != Timestamp::default() {
            out.field(tag, |v| v.timestamp(time));
        }
    };
    let number = |out: &mut Vec<u8>, tag, number: u64| {
        if number > 0 {
            out.field(tag, |v| v.varint(number));
        }
    };
    text(&mut out, PATH, &part.path);
    time(&mut out, STARTED, part.started);
    time(&mut out, PART_FINISHED, part.finished);
    number(&mut out, BYTES, part.bytes);
    number(&mut out, CHANGED, part.changed);
    number(&mut out, ERRORS, part.errors);
    text(&mut out, MESSAGE, &part.message);
    out.push(0);
    out
}

/// Reads a list of parts to its end.
pub fn parts(cursor: &mut Cursor<'_>) -> Result<Vec<Part>> {
    let mut out = Vec::new();
    while cursor.remaining() > 0 {
        if out.len() == MAX_LIST {
            return Err(cursor.error("it has too many parts"));
        }
        out.push(part(cursor.bytes(4 * MAX_TEXT)?)?);
    }
    Ok(out)
}

fn part(bytes: &[u8]) -> Result<Part> {
    let mut cursor = Cursor::new(bytes, "a part of a snapshot");
    let mut out = Part::default();
    cursor.fields(|tag, mut v| {
        match tag {
            KIND => out.kind = v.varint()?,
            STATE => out.state = v.varint()?,
            PATH => out.path = v.text(MAX_TEXT)?,
            STARTED => out.started = v.timestamp()?,
            PART_FINISHED => out.finished = v.timestamp()?,
            BYTES => out.bytes = v.varint()?,
            CHANGED => out.changed = v.varint()?,
            ERRORS => out.errors = v.varint()?,
            MESSAGE => out.message = v.text(MAX_TEXT)?,
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    Ok(out)
}

/// Appends a set: its name and its text.
pub(crate) fn put_set(set: &SetText, out: &mut Vec<u8>) {
    out.bytes(&set.name);
    out.bytes(&set.text);
}

/// Reads a set.
pub(crate) fn set(cursor: &mut Cursor<'_>) -> Result<SetText> {
    Ok(SetText { name: cursor.bytes(MAX_TEXT)?.to_vec(), text: cursor.bytes(MAX_SET)?.to_vec() })
}

/// The longest text of a set.
pub(crate) const MAX_SET: usize = 1 << 20;
