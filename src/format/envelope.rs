//! What every object has around its body: a header in the clear and a checksum that needs no key.
//!
//! ```text
//! 0   magic "yester\x1a\n"   8    24.. 0x1a stops a text viewer, \n shows line-ending damage (as PNG does)
//! 8   object type            1
//! 9   flags                  1    bit 0: sealed by a key that only writes; unknown bits: refuse
//! 10  format version         2    little endian
//! 12  repository id          16
//! 28  body
//! n   checksum               32   BLAKE3 of everything before it, no key
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::model::RepositoryId;

pub use crate::model::ObjectType;

/// The first eight bytes of every object.
pub(crate) const MAGIC: [u8; 8] = *b"yester\x1a\n";
/// Bytes of the header.
pub const HEADER: usize = 28;
/// Bytes of the checksum.
pub const CHECKSUM: usize = 32;
/// The format version this program writes, and the newest it reads.
pub(crate) const VERSION: u16 = 1;

/// The flag of what a key that only writes has sealed: to be opened with the repository's key, and not with its own.
pub const ONE_WAY: u8 = 1;

/// The header of an object of `kind` with these flags.
pub fn header_with(kind: ObjectType, id: RepositoryId, flags: u8) -> [u8; HEADER] {
    let mut out = header(kind, id);
    out[9] = flags;
    out
}

/// Whether what begins like this says that a key that only writes has sealed it.
pub(crate) fn is_one_way(bytes: &[u8]) -> bool {
    bytes.get(9).is_some_and(|flags| flags & ONE_WAY != 0)
}

/// The header of an object of `kind` in repository `id`.
pub fn header(kind: ObjectType, id: RepositoryId) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&MAGIC);
    out[8] = kind as u8;
    out[10..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..].copy_from_slice(&id.0);
    out
}

/// Header, body, checksum.
pub fn wrap(kind: ObjectType, id: RepositoryId, body: &[u8]) -> Vec<u8> {
    wrap_with(&header(kind, id), body)
}

/// The same with a header that is made already.
pub(crate) fn wrap_with(header: &[u8; HEADER], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len() + CHECKSUM);
    out.extend_from_slice(header);
    out.extend_from_slice(body);
    let sum = blake3::hash(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}

/// What a header says, whatever program wrote it. Nothing of it is judged but the magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderFields {
    /// The number of the object's type.
    pub kind: u8,
    /// The format version.
    pub version: u16,
    /// The repository.
    pub repository: RepositoryId,
}

/// Reads the first bytes of an object, also of one that a newer program wrote; `None` when they are no header.
pub fn peek(bytes: &[u8]) -> Option<HeaderFields> {
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    let mut repository = [0; 16];
    repository.copy_from_slice(&header[12..]);
    let version = u16::from_le_bytes([header[10], header[11]]);
    (header[..8] == MAGIC).then_some(HeaderFields { kind: header[8], version, repository: RepositoryId(repository) })
}

/// Checks magic, type and version of the first bytes of an object and returns its repository id.
pub(crate) fn check_header(bytes: &[u8], kind: ObjectType, what: &'static str) -> Result<RepositoryId> {
    let header: &[u8; HEADER] =
        bytes.first_chunk().ok_or_else(|| Error::corrupt(format!("{what}: {} bytes are too few for a header", bytes.len())))?;
    if header[..8] != MAGIC {
        return Err(Error::corrupt(format!("{what}: its first bytes are not those of a yester object")));
    }
    let version = u16::from_le_bytes([header[10], header[11]]);
    let known = if kind.may_only_write() { ONE_WAY } else { 0 };
    if version > VERSION || header[9] & !known != 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{what}: format version {version} (flags {:#x}) needs a newer yester; this one reads up to {VERSION}",
                header[9]
            ),
        ));
    }
    if version == 0 || header[8] != kind as u8 {
        return Err(Error::corrupt(format!("{what}: it is an object of type {}, version {version}", header[8])));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&header[12..]);
    Ok(RepositoryId(id))
}

/// Checks header and checksum of a whole object; returns its repository id and its body.
pub(crate) fn unwrap<'a>(bytes: &'a [u8], kind: ObjectType, what: &'static str) -> Result<(RepositoryId, &'a [u8])> {
    let id = check_header(bytes, kind, what)?;
    let (head, sum) = match bytes.split_last_chunk::<CHECKSUM>() {
        Some((head, sum)) if head.len() >= HEADER => (head, sum),
        _ => return Err(Error::corrupt(format!("{what}: {} bytes are too few for an object", bytes.len()))),
    };
    if blake3::hash(head).as_bytes() != sum {
        return Err(Error::corrupt(format!("{what}: its checksum does not match")));
    }
    Ok((id, &head[HEADER..]))
}

/// The header and the body of a whole object of `kind` of any version: what stands at the same place in every one. Magic,
/// type and checksum are checked.
pub(crate) fn parts<'a>(bytes: &'a [u8], kind: ObjectType, what: &'static str) -> Result<(&'a [u8; HEADER], &'a [u8])> {
    match check_header(bytes, kind, what) {
        Err(e) if e.kind() != ErrorKind::Unsupported => return Err(e),
        _ => {}
    }
    if bytes.get(8) != Some(&(kind as u8)) {
        return Err(Error::corrupt(format!("{what}: it is an object of another type")));
    }
    let (header, body) = match bytes.split_last_chunk::<CHECKSUM>().and_then(|(head, _)| head.split_first_chunk::<HEADER>()) {
        Some(parts) if is_intact(bytes) => parts,
        Some(_) => return Err(Error::corrupt(format!("{what}: its checksum does not match"))),
        None => return Err(Error::corrupt(format!("{what}: {} bytes are too few for an object", bytes.len()))),
    };
    Ok((header, body))
}

/// Whether the checksum at the end is that of what stands before it. What says that a newer program wrote an object, and
/// is not intact, is damage.
pub fn is_intact(bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<CHECKSUM>().is_some_and(|(head, sum)| blake3::hash(head).as_bytes() == sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flip_and_every_cut_is_seen() {
        let id = RepositoryId([7; 16]);
        let object = wrap(ObjectType::Session, id, b"body");
        assert_eq!(unwrap(&object, ObjectType::Session, "t").ok(), Some((id, &b"body"[..])));
        assert!(unwrap(&object, ObjectType::Fence, "t").is_err());
        for at in 0..object.len() {
            for bit in [1, 0x80, 0xff] {
                let mut bad = object.clone();
                bad[at] ^= bit;
                assert!(unwrap(&bad, ObjectType::Session, "t").is_err(), "byte {at} ^ {bit:#x}");
            }
            assert!(unwrap(&object[..at], ObjectType::Session, "t").is_err(), "cut at {at}");
        }
    }
}
