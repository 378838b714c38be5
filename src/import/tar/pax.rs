//! PAX records: the texts before an entry that say what its header cannot.

use crate::model::Timestamp;

/// Keyword and value.
pub(super) type PaxText = (Vec<u8>, Vec<u8>);

/// The records of an extended header: `LENGTH KEYWORD=VALUE\n` each. `None`: they are none.
pub(super) fn records(mut bytes: &[u8]) -> Option<Vec<PaxText>> {
    let mut out = Vec::new();
    // Some programs fill up with zeros.
    while bytes.first().is_some_and(|b| *b != 0) {
        let space = bytes.iter().take(20).position(|b| *b == b' ')?;
        let len: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(len)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        out.push((record.get(..equals)?.to_vec(), record.get(equals + 1..)?.to_vec()));
        bytes = rest;
    }
    Some(out)
}

/// A whole number.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Seconds with a fraction; what is finer than nanoseconds is cut off. -1.5 is half a second before -1.
pub(super) fn time(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let secs: i64 = whole.parse().ok()?;
    let digits = fraction.get(..fraction.len().min(9))?;
    let nanos = format!("{digits:0<9}").parse::<u32>().ok()?;
    match whole.starts_with('-') && nanos > 0 {
        true => Some(Timestamp { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos }),
        false => Some(Timestamp { secs, nanos }),
    }
}

/// The extended attribute of a record; `None`: it says something else.
pub(super) fn attribute(keyword: &[u8], value: &[u8], ids: &dyn Fn(&str, bool) -> Option<u32>) -> Option<Option<PaxText>> {
    if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
        return Some(Some((without_percent(name), value.to_vec())));
    }
    if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
        // Its value is base64, without the signs at its end.
        let text = std::str::from_utf8(value).ok()?;
        let filled = format!("{text:=<width$}", width = text.len().next_multiple_of(4));
        return Some(crate::import::restic::base64(&filled).map(|value| (without_percent(name), value)));
    }
    match keyword {
        b"SCHILY.acl.access" => Some(acl(value, ids).map(|acl| (b"system.posix_acl_access".to_vec(), acl))),
        b"SCHILY.acl.default" => Some(acl(value, ids).map(|acl| (b"system.posix_acl_default".to_vec(), acl))),
        b"RHT.security.selinux" => Some(Some((b"security.selinux".to_vec(), value.to_vec()))),
        _ => None,
    }
}

/// A name with its `%3D` and such as the signs that they stand for.
fn without_percent(name: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(name.len()), name);
    while let Some((first, after)) = rest.split_first() {
        let sign = (*first == b'%').then(|| u8::from_str_radix(std::str::from_utf8(after.get(..2)?).ok()?, 16).ok()).flatten();
        match sign {
            Some(sign) => {
                out.push(sign);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// A POSIX ACL as an attribute has it, of its text: `user::rwx,user:1000:r--,…` at commas or lines, with the name or the
/// number of an owner, and perhaps the number behind the permissions, as star and borg write it. `ids` gives the number of a
/// name: of a user, or of a group.
fn acl(text: &[u8], ids: &dyn Fn(&str, bool) -> Option<u32>) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for entry in text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty() && !entry.starts_with('#')) {
        let mut parts = entry.split(':');
        let (who, name, may, more) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let number = |group| more.and_then(|n| n.parse().ok()).or_else(|| name.parse().ok()).or_else(|| ids(name, group));
        let (tag, id) = match (who, name) {
            ("user" | "u", "") => (0x01, u32::MAX),
            ("user" | "u", _) => (0x02, number(false)?),
            ("group" | "g", "") => (0x04, u32::MAX),
            ("group" | "g", _) => (0x08, number(true)?),
            ("mask" | "m", "") => (0x10, u32::MAX),
            ("other" | "o", "") => (0x20, u32::MAX),
            _ => return None,
        };
        let may = may.split_whitespace().next().unwrap_or_default();
        let bits = may.chars().try_fold(0, |bits, c| {
            Some(
                bits | match c {
                    'r' => 4,
                    'w' => 2,
                    'x' => 1,
                    '-' => 0,
                    _ => return None,
                },
            )
        })?;
        entries.push((tag, id, bits));
    }
    entries.sort_unstable();
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, id, bits) in &entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&bits.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    (!entries.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parted_by_their_lengths() {
        let bytes = b"12 path=a\nb\n11 uid=1000\n\0\0";
        let expected = vec![(b"path".to_vec(), b"a\nb".to_vec()), (b"uid".to_vec(), b"1000".to_vec())];
        assert_eq!(records(bytes), None);
        assert_eq!(records(b"12 path=a\nb\n12 uid=1000\n\0\0"), Some(expected));
        for bad in [&b"99 a=b\n"[..], b"6 a=b", b"x a=b\n", b"5 ab\n", b"0 a=b\n"] {
            assert_eq!(records(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_before_1970_count_back() {
        let at = |secs, nanos| Some(Timestamp { secs, nanos });
        assert_eq!([time(b"5"), time(b"5.12"), time(b"0.0000000019")], [at(5, 0), at(5, 120_000_000), at(0, 1)]);
        assert_eq!([time(b"-1.5"), time(b"-0.000000001"), time(b"-1")], [at(-2, 500_000_000), at(-1, 999_999_999), at(-1, 0)]);
        assert_eq!((time(b"x"), time(b"1.-5"), time(b"")), (None, None, None));
    }

    #[test]
    fn acls_are_read_as_several_programs_write_them() {
        let ids = |name: &str, group: bool| (name == "eva").then_some(if group { 7 } else { 1000 });
        let numbers = acl(b"user::rwx,user:1000:r--,group::r-x,mask::r-x,other::---", &ids).unwrap();
        let names = acl(b"user::rwx\nuser:eva:r--\ngroup::r-x\nmask::r-x\nother::---\n", &ids).unwrap();
        let both = acl(b"other::---,user:somebody:r--:1000,user::rwx,group::r-x,mask::r-x", &ids).unwrap();
        assert_eq!((&numbers, &numbers), (&names, &both));
        assert_eq!(numbers.len(), 4 + 5 * 8);
        assert_eq!((acl(b"user:nobody-knows:r--", &ids), acl(b"", &ids), acl(b"user:eva", &ids)), (None, None, None));
    }

    #[test]
    fn names_of_attributes_lose_their_escapes() {
        assert_eq!(without_percent(b"user.a%3Db%25c%"), b"user.a=b%c%");
        let none = |_: &str, _: bool| None;
        assert_eq!(attribute(b"LIBARCHIVE.xattr.user.x", b"AQI", &none), Some(Some((b"user.x".to_vec(), vec![1, 2]))));
        assert_eq!(attribute(b"mtime", b"1", &none), None);
        assert_eq!(attribute(b"SCHILY.acl.access", b"nonsense", &none), Some(None));
    }
}
