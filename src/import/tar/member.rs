//! The entries of a tar archive: headers, with what comes before them, put together.

use std::io::{self, Read};

use crate::error::{Error, IoContext, Result};
use crate::import::intake::content::PastPiece;
use crate::import::tar::header::{self, BLOCK, RawHeader, letter};
use crate::import::tar::pax::{self, PaxText};
use crate::model::{Timestamp, escape};

/// The longest name before an entry, and the longest records: attributes of 64 KiB are some.
const MAX_BEFORE: u64 = 32 << 20;
/// The most parts of a sparse file.
const MAX_PARTS: usize = 1 << 20;
/// Bytes of content that are read at once.
const PIECE: u64 = 256 << 10;

/// Offset and length of each part of a file that is no hole.
type PartMap = Vec<(u64, u64)>;

/// An entry, as the archive says it.
#[derive(Debug, Clone)]
pub(crate) struct TarMember {
    pub(super) head: RawHeader,
    pub(super) mtime: Timestamp,
    /// The records before it that are not in the fields.
    pub(super) records: Vec<PaxText>,
    /// The length of its content, holes included.
    pub(super) size: u64,
    /// The parts of a file with holes; the rest are holes.
    parts: Option<PartMap>,
}

/// Reads an archive from its beginning to its end.
pub(crate) struct TarReader<'r> {
    from: Box<dyn Read + 'r>,
    /// Records that hold for all that follows.
    global: Vec<PaxText>,
    /// Bytes of the content at hand that were not read yet, and what fills the last block.
    left: u64,
    padding: u64,
    /// How far the content at hand is, and the number of its part.
    at: u64,
    part: usize,
}

/// What stands before an entry.
#[derive(Default)]
struct Before {
    records: Vec<PaxText>,
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

fn read() -> String {
    "cannot read the archive".to_owned()
}

fn cut_short(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::corrupt("the archive ends in the middle of an entry: it is cut short, or it is none")
        }
        _ => Error::io(read(), e),
    }
}

impl<'r> TarReader<'r> {
    /// Reads from `from`, which is not compressed.
    pub(crate) fn new(from: impl Read + 'r) -> Self {
        TarReader { from: Box::new(from), global: Vec::new(), left: 0, padding: 0, at: 0, part: 0 }
    }

    /// The next entry; what was not read of the one before is skipped. `None` at the end. Errors: it is no archive, or is cut
    /// short.
    pub(crate) fn next(&mut self) -> Result<Option<TarMember>> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let (mut before, mut block) = (Before::default(), [0; BLOCK]);
        loop {
            if !header::read_block(&mut self.from, &mut block).map_err(cut_short)? {
                return Err(Error::corrupt("the archive has no end: it is cut short"));
            }
            if block == [0; BLOCK] {
                // Two of them are the end. What is behind it belongs to nobody, but a pipe wants to be emptied.
                io::copy(&mut self.from, &mut io::sink()).at(read)?;
                return Ok(None);
            }
            let head = header::parse(&block)
                .ok_or_else(|| Error::corrupt("a header of the archive is damaged, or it is no tar archive"))?;
            match head.letter {
                letter::PAX | letter::PAX_SUN => before.records = self.records(&head)?,
                letter::PAX_GLOBAL => {
                    let new = self.records(&head)?;
                    self.global.retain(|(keyword, _)| new.iter().all(|(other, _)| other != keyword));
                    self.global.extend(new);
                }
                letter::GNU_NAME => before.path = Some(self.text(&head)?),
                letter::GNU_LINK => before.target = Some(self.text(&head)?),
                _ => return self.member(head, before).map(Some),
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        match io::copy(&mut (&mut self.from).take(bytes), &mut io::sink()).at(read)? == bytes {
            true => Ok(()),
            false => Err(cut_short(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The content of an entry that stands before another.
    fn before(&mut self, head: &RawHeader) -> Result<Vec<u8>> {
        if head.size > MAX_BEFORE {
            return Err(Error::corrupt(format!("the archive has a name, or records, of {} bytes", head.size)));
        }
        let mut bytes = Vec::new();
        (&mut self.from).take(head.size).read_to_end(&mut bytes).at(read)?;
        if bytes.len() as u64 != head.size {
            return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
        }
        self.skip(padding(head.size))?;
        Ok(bytes)
    }

    fn records(&mut self, head: &RawHeader) -> Result<Vec<PaxText>> {
        pax::records(&self.before(head)?)
            .ok_or_else(|| Error::corrupt("the archive has records before an entry that are damaged"))
    }

    fn text(&mut self, head: &RawHeader) -> Result<Vec<u8>> {
        let mut text = self.before(head)?;
        text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
        Ok(text)
    }

    fn member(&mut self, mut head: RawHeader, before: Before) -> Result<TarMember> {
        if let Some(path) = before.path {
            head.path = path;
        }
        if let Some(target) = before.target {
            head.target = target;
        }
        let mut records: Vec<PaxText> =
            self.global.iter().filter(|(keyword, _)| before.records.iter().all(|(other, _)| other != keyword)).cloned().collect();
        records.extend(before.records);
        let mut mtime = Timestamp { secs: head.mtime, nanos: 0 };
        let bad =
            |keyword: &[u8]| Error::corrupt(format!("the record {} before an entry of the archive is damaged", escape(keyword)));
        for (keyword, value) in &records {
            let number = || pax::number(value).ok_or_else(|| bad(keyword));
            let device = || number().map(|n| u32::try_from(n).unwrap_or(0));
            match keyword.as_slice() {
                b"path" => head.path.clone_from(value),
                b"linkpath" => head.target.clone_from(value),
                b"size" => head.size = number()?,
                b"uid" => head.uid = number()?,
                b"gid" => head.gid = number()?,
                b"uname" => head.user.clone_from(value),
                b"gname" => head.group.clone_from(value),
                b"mtime" => mtime = pax::time(value).ok_or_else(|| bad(keyword))?,
                b"SCHILY.devmajor" => head.device.0 = device()?,
                b"SCHILY.devminor" => head.device.1 = device()?,
                b"GNU.sparse.name" => head.path.clone_from(value),
                _ => {}
            }
        }
        // Hard links, links and such have none, whatever is said of their size; but POSIX lets a hard link have content.
        if matches!(head.letter, letter::SYMLINK | letter::CHAR | letter::BLOCK | letter::DIRECTORY | letter::FIFO) {
            head.size = 0;
        }
        (self.left, self.padding, self.at, self.part) = (head.size, padding(head.size), 0, 0);
        let (size, parts) = self.sparse(&head, &records)?;
        Ok(TarMember { head, mtime, records, size, parts })
    }

    /// The whole length of a file, and its parts where it has holes.
    fn sparse(&mut self, head: &RawHeader, records: &[PaxText]) -> Result<(u64, Option<PartMap>)> {
        let said = |keyword: &[u8]| records.iter().rev().find(|(known, _)| known == keyword).map(|(_, value)| value.as_slice());
        let bad = || Error::corrupt(format!("{}: its map of holes in the archive is damaged", escape(&head.path)));
        let number = |keyword: &[u8]| said(keyword).and_then(pax::number);
        let real = number(b"GNU.sparse.realsize").or_else(|| number(b"GNU.sparse.size"));
        let (size, parts) = if head.letter == letter::GNU_SPARSE {
            let (mut parts, mut more, mut block) = (head.parts.clone(), head.more_parts, [0; BLOCK]);
            while more {
                if !header::read_block(&mut self.from, &mut block).map_err(cut_short)? || parts.len() > MAX_PARTS {
                    return Err(bad());
                }
                let (next, yet_more) = header::parse_parts(&block).ok_or_else(bad)?;
                parts.extend(next);
                more = yet_more;
            }
            (head.real_size, parts)
        } else if number(b"GNU.sparse.major") == Some(1) {
            (real.ok_or_else(bad)?, self.map().ok_or_else(bad)?)
        } else if let Some(map) = said(b"GNU.sparse.map") {
            let numbers: Option<Vec<u64>> = map.split(|b| *b == b',').map(pax::number).collect();
            (real.ok_or_else(bad)?, pairs(&numbers.ok_or_else(bad)?))
        } else if let Some(size) = number(b"GNU.sparse.size") {
            let of = |keyword: &[u8]| -> Vec<u64> {
                records.iter().filter(|(known, _)| known == keyword).filter_map(|(_, value)| pax::number(value)).collect()
            };
            (size, of(b"GNU.sparse.offset").into_iter().zip(of(b"GNU.sparse.numbytes")).collect())
        } else {
            return Ok((head.size, None));
        };
        let mut end = 0;
        let mut sum = 0u64;
        for (at, len) in &parts {
            let fits = *at >= end && at.checked_add(*len).is_some_and(|end| end <= size);
            if !fits {
                return Err(bad());
            }
            end = at + len;
            sum += len;
        }
        if sum != self.left || size > i64::MAX as u64 {
            return Err(bad());
        }
        Ok((size, Some(parts)))
    }

    /// The map in front of the content (GNU format 1.0): numbers in lines, filled up to a block.
    fn map(&mut self) -> Option<PartMap> {
        let (mut numbers, mut digits, mut wanted) = (Vec::new(), Vec::new(), None);
        let mut block = [0; BLOCK];
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            self.left = self.left.checked_sub(BLOCK as u64)?;
            header::read_block(&mut self.from, &mut block).ok()?.then_some(())?;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                match byte {
                    b'\n' => {
                        let number = pax::number(&digits)?;
                        digits.clear();
                        match wanted {
                            None => wanted = Some(usize::try_from(number).ok().filter(|n| *n <= MAX_PARTS)? * 2),
                            Some(_) => numbers.push(number),
                        }
                    }
                    digit if digits.len() < 20 => digits.push(digit),
                    _ => return None,
                }
            }
        }
        Some(pairs(&numbers))
    }

    /// The next piece of the content of `member`, which is the entry at hand.
    pub(crate) fn content(&mut self, member: &TarMember, out: &mut Vec<u8>) -> Result<PastPiece> {
        let Some(parts) = &member.parts else { return self.bytes(self.left, out) };
        while let Some((start, len)) = parts.get(self.part) {
            if self.at < *start {
                let hole = start - self.at;
                self.at = *start;
                return Ok(PastPiece::Hole(hole));
            }
            if self.at < start + len {
                let before = out.len();
                let piece = self.bytes(start + len - self.at, out)?;
                self.at += (out.len() - before) as u64;
                return Ok(piece);
            }
            self.part += 1;
        }
        if self.at < member.size {
            let hole = member.size - self.at;
            self.at = member.size;
            return Ok(PastPiece::Hole(hole));
        }
        Ok(PastPiece::End)
    }

    fn bytes(&mut self, most: u64, out: &mut Vec<u8>) -> Result<PastPiece> {
        let most = most.min(PIECE).min(self.left);
        if most == 0 {
            return Ok(PastPiece::End);
        }
        let read = (&mut self.from).take(most).read_to_end(out).at(read)?;
        if read as u64 != most {
            return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= most;
        Ok(PastPiece::Bytes)
    }
}

fn pairs(numbers: &[u64]) -> PartMap {
    numbers.as_chunks::<2>().0.iter().map(|[at, len]| (*at, *len)).collect()
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
