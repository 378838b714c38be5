//! The body of an annotation.

use crate::error::{Error, ErrorKind, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::snapshot::{MAX_TEXT, put_list, texts};
use crate::model::{Annotation, Pin, SnapshotId, Timestamp};

/// Encodes the body. An error for what no reader would take.
pub fn encode_annotation(annotation: &Annotation) -> Result<Vec<u8>> {
    let bytes = annotation_bytes(annotation);
    match decode_annotation(&bytes) {
        Ok(found) if found == *annotation => Ok(bytes),
        Ok(_) => Err(Error::invalid("an annotation cannot be stored: it would be read as something else")),
        Err(e) => Err(Error::invalid(format!("an annotation cannot be stored, since it could not be read: {e}"))),
    }
}

fn annotation_bytes(annotation: &Annotation) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| v.extend_from_slice(&annotation.snapshot.0));
    out.field(2, |v| v.timestamp(annotation.time));
    out.field(4, |v| v.extend_from_slice(&annotation.host));
    out.field(6, |v| v.extend_from_slice(&annotation.user));
    if annotation.clears_tags {
        out.field(8, |_| {});
    }
    if !annotation.removed.is_empty() {
        out.field(10, |v| put_list(&annotation.removed, v));
    }
    if !annotation.added.is_empty() {
        out.field(12, |v| put_list(&annotation.added, v));
    }
    if let Some(note) = &annotation.note {
        out.field(14, |v| v.extend_from_slice(note));
    }
    if let Some(pin) = annotation.pin {
        out.field(16, |v| put_pin(pin, v));
    }
    out.push(0);
    out
}

fn put_pin(pin: Pin, out: &mut Vec<u8>) {
    match pin {
        Pin::Off => out.varint(0),
        Pin::Forever => out.varint(1),
        Pin::Until(time) => {
            out.varint(2);
            out.timestamp(time);
        }
    }
}

/// Decodes the body.
pub fn decode_annotation(bytes: &[u8]) -> Result<Annotation> {
    let mut cursor = Cursor::new(bytes, "an annotation");
    let mut snapshot = None;
    let mut out = Annotation {
        snapshot: SnapshotId([0; 32]),
        time: Timestamp::default(),
        host: Vec::new(),
        user: Vec::new(),
        clears_tags: false,
        removed: Vec::new(),
        added: Vec::new(),
        note: None,
        pin: None,
    };
    cursor.fields(|tag, mut v| {
        match tag {
            1 => snapshot = Some(SnapshotId(v.array()?)),
            2 => out.time = v.timestamp()?,
            4 => out.host = v.text(MAX_TEXT)?,
            6 => out.user = v.text(MAX_TEXT)?,
            8 => out.clears_tags = true,
            10 => out.removed = texts(&mut v)?,
            12 => out.added = texts(&mut v)?,
            14 => out.note = Some(v.text(MAX_TEXT)?),
            16 => out.pin = Some(pin(&mut v)?),
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    out.snapshot = snapshot.ok_or_else(|| cursor.error("it does not say of which snapshot it is"))?;
    Ok(out)
}

/// An object with another kind of pin is of a later version.
fn pin(v: &mut Cursor<'_>) -> Result<Pin> {
    match v.varint()? {
        0 => Ok(Pin::Off),
        1 => Ok(Pin::Forever),
        2 => Ok(Pin::Until(v.timestamp()?)),
        _ => Err(Error::new(ErrorKind::Unsupported, "an annotation has a kind of pin that only a newer yester knows")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let time = Timestamp { secs: 5, nanos: 6 };
        let list = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
        let all = Annotation {
            snapshot: SnapshotId([3; 32]),
            time,
            host: b"web".to_vec(),
            user: b"eva".to_vec(),
            clears_tags: true,
            removed: list(&["a", "b"]),
            added: list(&["c"]),
            note: Some(Vec::new()),
            pin: Some(Pin::Until(time)),
        };
        let none = Annotation { clears_tags: false, removed: vec![], added: vec![], note: None, pin: None, ..all.clone() };
        for one in [&all, &none, &Annotation { pin: Some(Pin::Off), ..none.clone() }] {
            let bytes = encode_annotation(one).expect("it can be stored");
            assert_eq!(decode_annotation(&bytes).expect("it can be read"), *one);
            for len in 0..bytes.len() {
                assert!(decode_annotation(&bytes[..len]).is_err(), "{len}");
            }
        }
        assert!(encode_annotation(&Annotation { note: Some(vec![b'x'; MAX_TEXT + 1]), ..none }).is_err());
    }
}
