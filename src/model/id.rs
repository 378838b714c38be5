//! Names of things: fixed-size byte strings that are parsed, never joined as text.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// Lower-case hexadecimal digits of `bytes`. Not for secrets: the text grows, and leaves pieces of itself behind.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| hex_pair(*b)).map(char::from).collect()
}

/// The two lower-case hexadecimal digits of a byte.
pub fn hex_pair(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| digit + if digit < 10 { b'0' } else { b'a' - 10 })
}

/// Parses exactly `N` bytes of lower-case hexadecimal; `None` for anything else (upper case, signs, Unicode digits).
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// Fills `bytes` with random bytes from the operating system.
pub fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|e| Error::new(ErrorKind::Io, format!("the operating system gave no random bytes: {e}")))
}

/// Random bytes from the operating system.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Parses the full lower-case hexadecimal form.
            pub fn parse(text: &str) -> Result<Self> {
                from_hex(text).map($name).ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, format!("{text:?} is not {} lower-case hexadecimal digits", 2 * $len))
                })
            }

            /// A fresh random value from the operating system.
            pub fn random() -> Result<Self> {
                random_bytes().map($name)
            }

            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                to_hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }
    };
}

id!(
    /// Names a repository for ever; random, made by `init`.
    RepositoryId, 16
);
id!(
    /// Names a chunk: keyed BLAKE3 of its plain bytes.
    ChunkId, 32
);
id!(
    /// The first half of a [`ChunkId`]: what the index and pack directories store. 128 bits of a keyed
    /// pseudo-random function do not collide by chance, and a reader compares the whole id with the bytes.
    ChunkKey, 16
);
id!(
    /// Names a pack: BLAKE3 of its bytes before the checksum, which is this value.
    PackId, 32
);
id!(
    /// Names an index segment: BLAKE3 of its bytes before the checksum, which is this value.
    SegmentId, 32
);
id!(
    /// Names a group of packs that have parity: BLAKE3 of what describes it, so that the same group has the same name.
    ParityId, 32
);
id!(
    /// Names a snapshot and the session that writes it; random.
    SnapshotId, 32
);
id!(
    /// Names a key slot; random.
    SlotId, 16
);
id!(
    /// Names a key that only writes, and what is sealed or named with it: the first half of its slot's id.
    WriterId, 8
);
id!(
    /// Joins the hard links of one file: BLAKE3 of the group's first path, cut to 128 bits. It depends on
    /// nothing but paths, so that the same content has the same tree id on every host.
    LinkGroup, 16
);

impl SlotId {
    /// The name of the writer whose key is in this slot, if it only writes.
    pub fn writer(&self) -> WriterId {
        let mut writer = [0; WriterId::LEN];
        writer.iter_mut().zip(&self.0).for_each(|(to, from)| *to = *from);
        WriterId(writer)
    }
}

impl SnapshotId {
    /// A fresh one. What a writer whose key only writes stores ends with its name.
    pub fn random_of(writer: Option<WriterId>) -> Result<Self> {
        let mut id = Self::random()?;
        if let Some(writer) = writer {
            id = id.with_writer(writer);
        }
        Ok(id)
    }

    /// The same, with the name of a writer at its end.
    pub(crate) fn with_writer(mut self, writer: WriterId) -> Self {
        self.0[Self::LEN - WriterId::LEN..].copy_from_slice(&writer.0);
        self
    }
}

/// What stands at the end of bytes that end with the name of a writer.
pub(crate) fn writer_at_end(bytes: &[u8]) -> Option<WriterId> {
    bytes.last_chunk().copied().map(WriterId)
}

impl ChunkId {
    /// The writer that made it, if it is of a key that only writes: any other id ends with some other bytes.
    pub(crate) fn writer(&self) -> WriterId {
        writer_at_end(&self.0).unwrap_or(WriterId([0; WriterId::LEN]))
    }

    /// The part of the id that the index stores.
    pub fn key(&self) -> ChunkKey {
        let mut key = [0; 16];
        key.copy_from_slice(&self.0[..16]);
        ChunkKey(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_strict() {
        let id = RepositoryId([0xab; 16]);
        assert_eq!(RepositoryId::parse(&id.to_string()).ok(), Some(id));
        for bad in ["", "ab", &"AB".repeat(16), &"+1".repeat(16), &"é".repeat(16), &"ab".repeat(17)] {
            assert!(RepositoryId::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
