//! The bytes of an index segment: an immutable sorted table chunk key → (pack, frame, offset, length).
//!
//! ```text
//! 0     header              28   see envelope
//! 28    salt                32   the segment's key is derived from it
//! 60    key commitment      16
//! 76    pages               each sealed, nonce = page number: frames first, then entries sorted by key
//! n     root                sealed, nonce = 2³²: replaced segments, packs, where each page is
//! m     tail                16   root offset (8), root length (4), pages (4)
//!       checksum            32   BLAKE3 of everything before it; also the segment's name
//! ```
//!
//! Pages carry their own tags, so that a large segment can be read by page; small ones are read whole.

use crate::error::{Error, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::envelope::{CHECKSUM, HEADER};
use crate::format::pack::{self, FrameInfo, MAX_CHUNK, MAX_FRAME, PackKind};
use crate::model::{ChunkKey, PackId, SegmentId};

/// Frames of one page of frames.
pub const FRAMES_A_PAGE: usize = 4096;
/// Entries of one page of entries.
pub const ENTRIES_A_PAGE: usize = 2048;
/// The longest sealed page that a reader takes.
pub const MAX_PAGE: u32 = 8 << 20;
/// Bytes before the first page.
pub const PREAMBLE: usize = HEADER + 48;
/// Bytes of the tail, without the checksum.
pub const TAIL: usize = 16;
/// The nonce of the root.
pub const ROOT_NONCE: u64 = 1 << 32;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The chunk.
    pub key: ChunkKey,
    /// The frame's number within the segment.
    pub frame: u32,
    /// Where the chunk begins in the frame's plain bytes.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

/// A frame and the pack it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFrame {
    /// The pack's number within the segment.
    pub pack: u32,
    /// The frame's number within the pack.
    pub number: u32,
    /// The frame.
    pub info: FrameInfo,
}

/// A pack that a segment names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPack {
    /// Its name.
    pub id: PackId,
    /// What is in it.
    pub kind: PackKind,
    /// Its whole size in bytes.
    pub size: u64,
    /// How many frames it has; the frames of all packs stand one after the other in the segment.
    pub frames: u32,
}

/// The last part of a segment: what the pages mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentRoot {
    /// Segments whose place this one takes; readers ignore them even while they exist.
    pub replaces: Vec<SegmentId>,
    /// The packs.
    pub packs: Vec<SegmentPack>,
    /// Sealed length of each page of frames.
    pub frame_pages: Vec<u32>,
    /// First key and sealed length of each page of entries.
    pub entry_pages: Vec<(ChunkKey, u32)>,
    /// Entries in all.
    pub entries: u64,
}

/// The clear end of a segment, before the checksum: root offset, root length, pages.
pub fn encode_tail(root: u64, len: u32, pages: u32) -> [u8; TAIL] {
    let mut out = [0; TAIL];
    out[..8].copy_from_slice(&root.to_le_bytes());
    out[8..12].copy_from_slice(&len.to_le_bytes());
    out[12..].copy_from_slice(&pages.to_le_bytes());
    out
}

/// Reads the tail of a whole segment: root offset, root length, pages.
pub fn decode_tail(bytes: &[u8]) -> Result<(usize, usize, u32)> {
    let start = bytes.len().checked_sub(TAIL + CHECKSUM).ok_or_else(|| Error::corrupt("a segment is too short for its tail"))?;
    let mut cursor = Cursor::new(&bytes[start..], "a segment's tail");
    let (root, len, pages) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
    if root < PREAMBLE as u64 || root.checked_add(u64::from(len)) != Some(start as u64) {
        return Err(cursor.error("its root is not where it must be"));
    }
    Ok((root as usize, len as usize, pages))
}

/// Encodes the root.
pub fn encode_root(root: &SegmentRoot) -> Vec<u8> {
    let mut out = Vec::new();
    out.varint(root.replaces.len() as u64);
    root.replaces.iter().for_each(|id| out.extend_from_slice(&id.0));
    out.varint(root.packs.len() as u64);
    for pack in &root.packs {
        out.extend_from_slice(&pack.id.0);
        out.push(pack.kind as u8);
        out.varint(pack.size);
        out.varint(u64::from(pack.frames));
    }
    out.varint(root.frame_pages.len() as u64);
    root.frame_pages.iter().for_each(|len| out.varint(u64::from(*len)));
    out.varint(root.entry_pages.len() as u64);
    for (key, len) in &root.entry_pages {
        out.extend_from_slice(&key.0);
        out.varint(u64::from(*len));
    }
    out.varint(root.entries);
    out
}

/// Decodes the root.
pub fn decode_root(bytes: &[u8]) -> Result<SegmentRoot> {
    let mut cursor = Cursor::new(bytes, "a segment's root");
    let mut root = SegmentRoot::default();
    for _ in 0..cursor.count(32)? {
        root.replaces.push(SegmentId(cursor.array()?));
    }
    let mut frames = 0u64;
    for _ in 0..cursor.count(35)? {
        let id = PackId(cursor.array()?);
        let kind = match cursor.u8()? {
            1 => PackKind::Data,
            2 => PackKind::Tree,
            _ => return Err(cursor.error("a pack is of an unknown kind")),
        };
        let pack = SegmentPack { id, kind, size: cursor.number(pack::MAX_PACK)?, frames: cursor.number32()? };
        frames += u64::from(pack.frames);
        root.packs.push(pack);
    }
    for _ in 0..cursor.count(1)? {
        root.frame_pages.push(cursor.number(u64::from(MAX_PAGE))? as u32);
    }
    for _ in 0..cursor.count(17)? {
        let page = (ChunkKey(cursor.array()?), cursor.number(u64::from(MAX_PAGE))? as u32);
        if root.entry_pages.last().is_some_and(|(last, _)| *last > page.0) {
            return Err(cursor.error("its pages are out of order"));
        }
        root.entry_pages.push(page);
    }
    root.entries = cursor.number((root.entry_pages.len() * ENTRIES_A_PAGE) as u64)?;
    if frames > (root.frame_pages.len() * FRAMES_A_PAGE) as u64 || frames > u64::from(u32::MAX) {
        return Err(cursor.error("it has more frames than pages for them"));
    }
    cursor.end()?;
    Ok(root)
}

/// Encodes one page of frames (in the order of the packs; offsets follow from the lengths).
pub fn encode_frames(frames: &[SegmentFrame]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frames.len() * 8);
    frames.iter().for_each(|frame| pack::encode_frame(&frame.info, &mut out));
    out
}

/// Decodes one page of frames and appends them; `packs` says where each pack's frames begin.
pub fn decode_frames(bytes: &[u8], packs: &[SegmentPack], out: &mut Vec<SegmentFrame>) -> Result<()> {
    let mut cursor = Cursor::new(bytes, "a segment's frames");
    while cursor.remaining() > 0 {
        let (mut pack, number, offset) = match out.last() {
            None => (0, 0, pack::PREAMBLE as u64),
            Some(last) => (last.pack, last.number + 1, last.info.offset + u64::from(last.info.stored)),
        };
        let (mut number, mut offset) = (number, offset);
        while packs.get(pack as usize).is_some_and(|p| number >= p.frames) {
            (pack, number, offset) = (pack + 1, 0, pack::PREAMBLE as u64);
        }
        if pack as usize >= packs.len() {
            return Err(cursor.error("there are more than its packs have"));
        }
        out.push(SegmentFrame { pack, number, info: pack::decode_frame(&mut cursor, offset)? });
    }
    Ok(())
}

/// Encodes one page of entries, which must be sorted by key.
pub fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 24);
    for entry in entries {
        out.extend_from_slice(&entry.key.0);
        out.varint(u64::from(entry.frame));
        out.varint(u64::from(entry.offset));
        out.varint(u64::from(entry.len));
    }
    out
}

/// Decodes one page of entries and appends them. Keys must not fall, also across pages; `frames` are the segment's.
pub fn decode_entries(bytes: &[u8], frames: &[SegmentFrame], out: &mut Vec<Entry>) -> Result<()> {
    let mut cursor = Cursor::new(bytes, "a segment's entries");
    while cursor.remaining() > 0 {
        let entry = Entry {
            key: ChunkKey(cursor.array()?),
            frame: cursor.number32()?,
            offset: cursor.number(MAX_FRAME as u64)? as u32,
            len: cursor.number(MAX_CHUNK as u64)? as u32,
        };
        let plain = frames.get(entry.frame as usize).map(|f| f.info.plain);
        if entry.len == 0 || plain.is_none_or(|plain| entry.offset + entry.len > plain) {
            return Err(cursor.error("a chunk lies outside its frame"));
        }
        if out.last().is_some_and(|last| last.key > entry.key) {
            return Err(cursor.error("they are out of order"));
        }
        out.push(entry);
    }
    Ok(())
}
