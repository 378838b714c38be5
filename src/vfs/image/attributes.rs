//! Extended attributes behind an inode.

/// What names begin with, and the number that stands for it. ACLs are names as a whole.
const PREFIXES: [(&[u8], u8); 5] =
    [(b"user.", 1), (b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"trusted.", 4), (b"security.", 6)];
/// The header: a filter that is not used, and no attributes that are shared.
const HEADER: usize = 12;
/// What an inode can count.
const MOST: usize = HEADER + 4 * (u16::MAX as usize - 1);

/// The bytes of attributes, and how many could not be among them: names of other kinds, and what is too long.
pub(crate) fn encode(list: &[(Vec<u8>, Vec<u8>)]) -> (Vec<u8>, u64) {
    let mut out = vec![0; HEADER];
    let mut lost = 0;
    for (name, value) in list {
        let known = PREFIXES.iter().find_map(|(prefix, index)| {
            let rest = name.strip_prefix(*prefix)?;
            (rest.is_empty() == prefix.starts_with(b"system.")).then_some((*index, rest))
        });
        let sizes = (known.and_then(|(_, rest)| u8::try_from(rest.len()).ok()), u16::try_from(value.len()).ok());
        let (Some((index, rest)), (Some(name_len), Some(value_len))) = (known, sizes) else {
            lost += 1;
            continue;
        };
        let end = (out.len() + 4 + rest.len() + value.len()).next_multiple_of(4);
        if end > MOST {
            lost += 1;
            continue;
        }
        out.extend_from_slice(&[name_len, index]);
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(end, 0);
    }
    if out.len() == HEADER {
        out.clear();
    }
    (out, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_encoded_or_counted() {
        let one = |name: &[u8], value: &[u8]| encode(&[(name.to_vec(), value.to_vec())]);
        assert_eq!(encode(&[]), (Vec::new(), 0));
        assert_eq!(one(b"user.a", b"xyz"), ([&[0; 12][..], &[1, 1, 3, 0], b"axyz"].concat(), 0));
        assert_eq!(one(b"system.posix_acl_access", b"1234"), ([&[0; 12][..], &[0, 2, 4, 0], b"1234"].concat(), 0));
        for lost in [&b"system.nfs4_acl"[..], b"user.", b"btrfs.compression", b"system.posix_acl_accessx"] {
            assert_eq!(one(lost, b"x"), (Vec::new(), 1));
        }
        assert_eq!(one(b"user.long", &[0; 65_536]), (Vec::new(), 1));
        let many: Vec<_> = (0..5).map(|n| (format!("user.{n}").into_bytes(), vec![n; 60_000])).collect();
        let (bytes, lost) = encode(&many);
        assert!(bytes.len() <= MOST && lost == 1);
    }
}
