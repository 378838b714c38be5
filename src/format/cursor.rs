//! Reading and writing primitive values. Every length is checked against what is there before it is used.

use crate::error::{Error, Result};
use crate::model::Timestamp;

/// Reads primitive values from a byte slice.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`; `what` names the object in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Cursor { rest: bytes, what }
    }

    /// A damage error about this object.
    pub fn error(&self, message: &str) -> Error {
        Error::corrupt(format!("{}: {message}", self.what))
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.error("it ends too early")),
        }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A LEB128 number, in its shortest form only: one value, one encoding.
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.error("a number has more than 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(self.error("a number is not in its shortest form")) } else { Ok(value) };
            }
        }
        Err(self.error("a number has more than 64 bits"))
    }

    /// A LEB128 number of at most `max`.
    pub fn number(&mut self, max: u64) -> Result<u64> {
        match self.varint()? {
            n if n <= max => Ok(n),
            n => Err(self.error(&format!("{n} is above the limit of {max}"))),
        }
    }

    /// A LEB128 number that fits 32 bits.
    pub(crate) fn number32(&mut self) -> Result<u32> {
        self.number(u64::from(u32::MAX)).map(|n| n as u32)
    }

    /// A count of things that take at least `each` bytes: more than can follow is damage, found before allocating.
    pub fn count(&mut self, each: usize) -> Result<usize> {
        let most = self.remaining() / each.max(1);
        self.number(most as u64).map(|n| n as usize)
    }

    /// A signed number in zigzag form.
    pub fn signed(&mut self) -> Result<i64> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// A length and so many bytes, at most `max`.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8]> {
        let len = self.number(max as u64)? as usize;
        self.take(len)
    }

    /// Everything that is left.
    pub(crate) fn bytes_to_end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest).to_vec()
    }

    /// A text that fills what is left, at most `max` bytes.
    pub fn text(&mut self, max: usize) -> Result<Vec<u8>> {
        if self.remaining() <= max { Ok(self.bytes_to_end()) } else { Err(self.error("a text is too long")) }
    }

    /// A point in time: seconds in zigzag form, nanoseconds below 10⁹.
    pub fn timestamp(&mut self) -> Result<Timestamp> {
        let secs = self.signed()?;
        let nanos = self.number(999_999_999)? as u32;
        Ok(Timestamp { secs, nanos })
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("bytes follow its end")) }
    }

    /// Passes tagged fields (tag, length, value; tag 0 ends) to `field`. A tag that `field` does not know (it answers
    /// false) is skipped when even and refused when odd: the critical bit. Tags must rise.
    pub fn fields(&mut self, mut field: impl FnMut(u64, Cursor<'a>) -> Result<bool>) -> Result<()> {
        let mut last = 0;
        loop {
            let tag = self.varint()?;
            if tag == 0 {
                return Ok(());
            }
            if tag <= last {
                return Err(self.error("its fields are out of order"));
            }
            last = tag;
            let value = Cursor { rest: self.bytes(usize::MAX)?, what: self.what };
            if !field(tag, value)? && tag & 1 == 1 {
                return Err(Error::new(
                    crate::error::ErrorKind::Unsupported,
                    format!("{}: field {tag} is unknown and must not be ignored: a newer yester is needed", self.what),
                ));
            }
        }
    }
}

/// Writes what [`Cursor`] reads.
pub trait Put {
    /// A LEB128 number in its shortest form.
    fn varint(&mut self, value: u64);
    /// A signed number in zigzag form.
    fn signed(&mut self, value: i64);
    /// A length and the bytes.
    fn bytes(&mut self, bytes: &[u8]);
    /// Seconds and nanoseconds.
    fn timestamp(&mut self, time: Timestamp);
    /// A tagged field with the value that `fill` writes.
    fn field(&mut self, tag: u64, fill: impl FnOnce(&mut Vec<u8>));
}

impl Put for Vec<u8> {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn signed(&mut self, value: i64) {
        self.varint((value << 1 ^ value >> 63) as u64);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn timestamp(&mut self, time: Timestamp) {
        self.signed(time.secs);
        self.varint(u64::from(time.nanos));
    }

    fn field(&mut self, tag: u64, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut value = Vec::new();
        fill(&mut value);
        self.varint(tag);
        self.bytes(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_encoding() {
        for n in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            out.varint(n);
            assert_eq!(Cursor::new(&out, "t").varint().ok(), Some(n));
        }
        for bad in [&[0x80, 0x00][..], &[0xff; 10], &[0x80], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]] {
            assert!(Cursor::new(bad, "t").varint().is_err(), "{bad:x?}");
        }
        for n in [0, -1, 1, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            out.signed(n);
            assert_eq!(Cursor::new(&out, "t").signed().ok(), Some(n));
        }
    }

    #[test]
    fn unknown_fields_are_skipped_or_refused_by_their_critical_bit() {
        let read = |tag| {
            let mut out = Vec::new();
            out.field(tag, |v| v.push(7));
            out.push(0);
            Cursor::new(&out, "t").fields(|_, _| Ok(false))
        };
        assert!(read(4).is_ok());
        assert!(read(5).is_err());
    }
}
