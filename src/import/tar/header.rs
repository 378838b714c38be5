//! The headers of a tar archive: ustar, GNU and PAX. Only what the bytes say; what it means is in `member`.

use std::io::{self, Read};

/// What an archive is made of.
pub(super) const BLOCK: usize = 512;

/// Kinds of entries, by the letter in the header.
pub(super) mod letter {
    pub(crate) const LINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHAR: u8 = b'3';
    pub(crate) const BLOCK: u8 = b'4';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const GNU_NAME: u8 = b'L';
    pub(crate) const GNU_LINK: u8 = b'K';
    pub(crate) const GNU_SPARSE: u8 = b'S';
    pub(crate) const PAX: u8 = b'x';
    pub(crate) const PAX_GLOBAL: u8 = b'g';
    pub(crate) const PAX_SUN: u8 = b'X';
}

/// A header's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawHeader {
    pub(super) path: Vec<u8>,
    pub(super) mode: u64,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Bytes that follow.
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) letter: u8,
    pub(super) target: Vec<u8>,
    pub(super) user: Vec<u8>,
    pub(super) group: Vec<u8>,
    pub(super) device: (u32, u32),
    /// Of a sparse file of old GNU tar: its parts, whether more of them follow, and its whole length.
    pub(super) parts: Vec<(u64, u64)>,
    pub(super) more_parts: bool,
    pub(super) real_size: u64,
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

/// A number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement, without the mark.
        let start = if first & 0x40 != 0 { -1i64 << 6 | i64::from(first & 0x3f) } else { i64::from(first & 0x3f) };
        return rest.iter().try_fold(start, |value, b| value.checked_mul(256)?.checked_add(i64::from(*b)));
    }
    let digits = field.iter().skip_while(|b| **b == b' ').take_while(|b| !matches!(b, 0 | b' '));
    digits
        .map(|b| (b'0'..=b'7').contains(b).then(|| i64::from(b - b'0')))
        .try_fold(0i64, |value, digit| value.checked_mul(8)?.checked_add(digit?))
}

fn positive(field: &[u8]) -> Option<u64> {
    number(field).and_then(|n| u64::try_from(n).ok())
}

fn part(field: &[u8]) -> Option<Option<(u64, u64)>> {
    match field.first()? {
        0 => Some(None),
        _ => Some(Some((positive(field.get(..12)?)?, positive(field.get(12..24)?)?))),
    }
}

/// Reads a header; `None`: it is none.
pub(super) fn parse(block: &[u8; BLOCK]) -> Option<RawHeader> {
    let sum: u64 = block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u64::from(*b) }).sum();
    if positive(&block[148..156])? != sum {
        return None;
    }
    let gnu = &block[257..265] == b"ustar  \0";
    let ustar = &block[257..262] == b"ustar";
    let mut path = text(&block[..100]);
    if ustar && !gnu && block[345] != 0 {
        path = [&text(&block[345..500])[..], b"/", &path].concat();
    }
    let letter = block[156];
    let (mut parts, mut more_parts, mut real_size) = (Vec::new(), false, 0);
    if gnu && letter == letter::GNU_SPARSE {
        for at in (386..482).step_by(24) {
            parts.extend(part(&block[at..at + 24])?);
        }
        more_parts = block[482] != 0;
        real_size = positive(&block[483..495])?;
    }
    let device = |field: &[u8]| positive(field).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    Some(RawHeader {
        path,
        mode: positive(&block[100..108])?,
        uid: positive(&block[108..116])?,
        gid: positive(&block[116..124])?,
        size: positive(&block[124..136])?,
        mtime: number(&block[136..148])?,
        letter,
        target: text(&block[157..257]),
        user: if ustar { text(&block[265..297]) } else { Vec::new() },
        group: if ustar { text(&block[297..329]) } else { Vec::new() },
        device: if ustar { (device(&block[329..337]), device(&block[337..345])) } else { (0, 0) },
        parts,
        more_parts,
        real_size,
    })
}

/// More parts of a sparse file of old GNU tar, and whether there are yet more.
pub(super) fn parse_parts(block: &[u8; BLOCK]) -> Option<(Vec<(u64, u64)>, bool)> {
    let mut parts = Vec::new();
    for at in (0..504).step_by(24) {
        parts.extend(part(&block[at..at + 24])?);
    }
    Some((parts, block[504] != 0))
}

/// Fills a block; false at the end of the archive, if that is between two blocks.
pub(super) fn read_block(from: &mut dyn Read, block: &mut [u8; BLOCK]) -> io::Result<bool> {
    let mut filled = 0;
    while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   17 \0\0"), Some(15));
        assert_eq!(number(&[0x80, 0, 0, 0, 1, 0, 0, 0]), Some(1 << 24));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!((number(b"0009"), number(&[0xbf; 12]), number(b"")), (None, None, None));
    }

    #[test]
    fn a_header_with_a_wrong_sum_is_none() {
        let mut header = ::tar::Header::new_gnu();
        header.set_path("a/b").expect("a path");
        header.set_size(7);
        header.set_mtime(9);
        header.set_cksum();
        let mut block = *header.as_bytes();
        let parsed = parse(&block).expect("a header");
        assert_eq!((parsed.path.as_slice(), parsed.size, parsed.mtime), (&b"a/b"[..], 7, 9));
        block[0] ^= 1;
        assert_eq!(parse(&block), None);
    }
}
