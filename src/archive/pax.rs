//! PAX records: what does not fit into the header of a tar entry. Names of records as GNU tar and libarchive read them.

use crate::model::Timestamp;

/// A record: keyword and value.
pub(super) type PaxRecord = (String, Vec<u8>);

/// A time in seconds with a fraction, as `mtime` wants it. A time before 1970 counts its fraction forward from its second:
/// (-2, 500,000,000) is -1.5.
pub(super) fn time(time: Timestamp) -> String {
    let (mut secs, mut nanos, mut sign) = (time.secs, time.nanos, "");
    if secs < 0 && nanos > 0 {
        (secs, nanos) = (secs + 1, 1_000_000_000 - nanos);
    }
    if secs < 0 || (time.secs < 0 && secs == 0) {
        sign = "-";
    }
    let secs = secs.unsigned_abs();
    let fraction = format!("{nanos:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{secs}"),
        fraction => format!("{sign}{secs}.{fraction}"),
    }
}

/// The records of an extended attribute; `None` if its name, or an ACL, cannot be said.
pub(super) fn attribute(name: &[u8], value: &[u8]) -> Option<PaxRecord> {
    match name {
        b"system.posix_acl_access" => Some(("SCHILY.acl.access".to_owned(), acl(value)?.into_bytes())),
        b"system.posix_acl_default" => Some(("SCHILY.acl.default".to_owned(), acl(value)?.into_bytes())),
        _ => {
            let name = std::str::from_utf8(name).ok()?.replace('%', "%25").replace('=', "%3D");
            Some((format!("SCHILY.xattr.{name}"), value.to_vec()))
        }
    }
}

/// A POSIX ACL in the short form of `getfacl`, with numbers for names. Its value in an attribute is a version, 2, then
/// entries of tag (2 bytes), permissions (2) and number (4), all little-endian (linux/posix_acl_xattr.h).
fn acl(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    let mut out = Vec::new();
    for entry in entries.chunks(8) {
        let entry: &[u8; 8] = entry.try_into().ok()?;
        let [tag, permissions] = [[entry[0], entry[1]], [entry[2], entry[3]]].map(u16::from_le_bytes);
        let number = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let who = match tag {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{number}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{number}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let letters: String = [(4, 'r'), (2, 'w'), (1, 'x')]
            .iter()
            .map(|(bit, letter)| if permissions & bit != 0 { *letter } else { '-' })
            .collect();
        out.push(format!("{who}:{letters}"));
    }
    Some(out.join(","))
}

/// The map of a sparse file in front of its data (GNU format 1.0): the number of parts, then offset and length of each, a
/// line each, filled up to a block. A hole at the end is a part without bytes behind it.
pub(super) fn map(extents: &[(u64, u64)], size: u64) -> Vec<u8> {
    let end = extents.last().map_or(0, |(at, len)| at + len);
    let last = (end < size).then_some((size, 0));
    let parts: Vec<(u64, u64)> = extents.iter().copied().chain(last).collect();
    let mut out = format!("{}\n", parts.len()).into_bytes();
    parts.iter().for_each(|(at, len)| out.extend_from_slice(format!("{at}\n{len}\n").as_bytes()));
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_their_fraction_the_other_way() {
        let said = |secs, nanos| time(Timestamp { secs, nanos });
        assert_eq!([said(5, 0), said(5, 120_000_000), said(0, 1)], ["5", "5.12", "0.000000001"]);
        assert_eq!([said(-2, 500_000_000), said(-1, 999_999_999), said(-1, 0)], ["-1.5", "-0.000000001", "-1"]);
    }

    #[test]
    fn an_acl_is_text() {
        let entry = |tag: u16, permissions: u16, number: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &number.to_le_bytes()].concat()
        };
        let value = [
            2u32.to_le_bytes().to_vec(),
            entry(1, 7, u32::MAX),
            entry(2, 4, 1000),
            entry(4, 5, u32::MAX),
            entry(0x10, 5, u32::MAX),
            entry(0x20, 0, u32::MAX),
        ];
        let value = value.concat();
        assert_eq!(acl(&value).unwrap(), "user::rwx,user:1000:r--,group::r-x,mask::r-x,other::---");
        assert_eq!((acl(&value[1..]), acl(&value[..7])), (None, None));
    }

    #[test]
    fn a_map_ends_with_the_hole_at_the_end() {
        assert!(map(&[(0, 4096)], 8192).starts_with(b"2\n0\n4096\n8192\n0\n\0"));
        assert_eq!(map(&[], 1 << 40).len(), 512);
        assert!(map(&[(10, 5)], 15).starts_with(b"1\n10\n5\n\0"));
    }
}
