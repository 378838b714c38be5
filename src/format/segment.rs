//! The bytes of an index segment: an immutable sorted table chunk key → (pack, frame, offset, length).
//!
//! ```text
//! 0     header              28   see envelope
//! 28    salt                32   the segment's key is derived from it
//! 60    key commitment      16
//! 76    writer              8    of a key that only writes: its name; else nothing
//!       pages               each sealed, nonce = page number: frames, then entries sorted by key, then the filter
//! n     root                sealed, nonce = 2³²: replaced segments, packs, where each page is
//! m     tail                16   root offset (8), root length (4), pages (4)
//!       checksum            32   BLAKE3 of everything before it; also the segment's name
//! ```
//!
//! Pages carry their own tags and are small: a look-up reads the root once and then one page of the filter and one
//! page of entries, whatever the size of the segment. All pages of a sort but the last are full, so that the number
//! of an entry or a frame says which page it is in.

use crate::error::{Error, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::envelope::{self, CHECKSUM, HEADER};
use crate::format::pack::{self, FrameInfo, MAX_CHUNK, MAX_FRAME, PackKind};
use crate::model::{ChunkKey, PackId, SegmentId, WriterId};

/// Frames of one page of frames.
pub(crate) const FRAMES_A_PAGE: usize = 256;
/// Entries of one page of entries.
pub const ENTRIES_A_PAGE: usize = 256;
/// The longest sealed page that a reader takes.
pub(crate) const MAX_PAGE: u32 = 8 << 20;
/// Entries and frames that a segment may have: their numbers are 32 bits.
pub(crate) const MAX_ENTRIES: u64 = 4_294_967_295;
/// Bytes before the first page.
pub const PREAMBLE: usize = HEADER + 48;
/// What the key of a segment is of, besides its salt: its header, and its writer's name if its key only writes.
pub(crate) fn bound(header: &[u8; HEADER], writer: Option<WriterId>) -> Vec<u8> {
    let mut out = header.to_vec();
    out.extend(writer.iter().flat_map(|writer| writer.0));
    out
}

/// The writer of a segment that begins like this, if it says that its key only writes.
pub(crate) fn writer(first: &[u8]) -> Option<WriterId> {
    let name = first.get(PREAMBLE..).and_then(|rest| rest.first_chunk()).copied().map(WriterId);
    name.filter(|_| envelope::is_one_way(first))
}

/// Bytes of the tail, without the checksum.
pub const TAIL: usize = 16;
/// The nonce of the root.
pub const ROOT_NONCE: u64 = 1 << 32;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The chunk.
    pub key: ChunkKey,
    /// The frame's number within the segment.
    pub frame: u32,
    /// Where the chunk begins in the frame's plain bytes.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

/// Beside a pack's kind: what is in it is of a key that only writes.
const ONE_WAY_PACK: u8 = 0x80;

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
    /// Whether what is in it is of a key that only writes.
    pub one_way: bool,
}

/// The last part of a segment: what the pages mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentRoot {
    /// Segments whose place this one takes; readers ignore them even while they exist.
    pub(crate) replaces: Vec<SegmentId>,
    /// The packs.
    pub packs: Vec<SegmentPack>,
    /// Sealed length of each page of frames.
    pub frame_pages: Vec<u32>,
    /// First key and sealed length of each page of entries.
    pub entry_pages: Vec<(ChunkKey, u32)>,
    /// Sealed length of each page of the filter; none in a segment with a single page of entries.
    pub filter_pages: Vec<u32>,
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

/// Reads the tail of a segment of `size` bytes from its last bytes: offset and length of the root, number of pages.
pub fn decode_tail(end: &[u8], size: u64) -> Result<(u64, u64, u32)> {
    let start = end.len().checked_sub(TAIL + CHECKSUM).ok_or_else(|| Error::corrupt("a segment is too short for its tail"))?;
    let mut cursor = Cursor::new(&end[start..], "a segment's tail");
    let (root, len, pages) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
    let tail = size.saturating_sub((TAIL + CHECKSUM) as u64);
    if root < PREAMBLE as u64 || root.checked_add(u64::from(len)) != Some(tail) {
        return Err(cursor.error("its root is not where it must be"));
    }
    Ok((root, u64::from(len), pages))
}

/// Encodes the root. An error for what no reader would take.
pub fn encode_root(root: &SegmentRoot) -> Result<Vec<u8>> {
    let out = root_bytes(root);
    match decode_root(&out)? == *root {
        true => Ok(out),
        false => Err(Error::invalid("a segment's root would be read as something else")),
    }
}

fn root_bytes(root: &SegmentRoot) -> Vec<u8> {
    let mut out = Vec::new();
    out.varint(root.replaces.len() as u64);
    root.replaces.iter().for_each(|id| out.extend_from_slice(&id.0));
    out.varint(root.packs.len() as u64);
    for pack in &root.packs {
        out.extend_from_slice(&pack.id.0);
        out.push(pack.kind as u8 | if pack.one_way { ONE_WAY_PACK } else { 0 });
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
    out.varint(root.filter_pages.len() as u64);
    root.filter_pages.iter().for_each(|len| out.varint(u64::from(*len)));
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
        let said = cursor.u8()?;
        let kind = match said & !ONE_WAY_PACK {
            1 => PackKind::Data,
            2 => PackKind::Tree,
            _ => return Err(cursor.error("a pack is of an unknown kind")),
        };
        let one_way = said & ONE_WAY_PACK != 0;
        let pack = SegmentPack { id, kind, size: cursor.number(pack::MAX_PACK)?, frames: cursor.number32()?, one_way };
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
    for _ in 0..cursor.count(1)? {
        root.filter_pages.push(cursor.number(u64::from(MAX_PAGE))? as u32);
    }
    root.entries = cursor.number(MAX_ENTRIES)?;
    let pages = |of: u64, a_page: usize| of.div_ceil(a_page as u64);
    if frames > MAX_ENTRIES || pages(frames, FRAMES_A_PAGE) != root.frame_pages.len() as u64 {
        return Err(cursor.error("it has another number of frames than its pages hold"));
    }
    if pages(root.entries, ENTRIES_A_PAGE) != root.entry_pages.len() as u64 {
        return Err(cursor.error("it has another number of entries than its pages hold"));
    }
    cursor.end()?;
    Ok(root)
}

/// The number of each pack's first frame within the segment, and at the end the number of all frames.
pub fn pack_starts(packs: &[SegmentPack]) -> Vec<u32> {
    let mut starts = Vec::with_capacity(packs.len() + 1);
    let mut next = 0u32;
    for pack in packs {
        starts.push(next);
        next = next.saturating_add(pack.frames);
    }
    starts.push(next);
    starts
}

/// Encodes one page of frames, in the order of the packs: where the first one begins in its pack, then all of them
/// (their offsets follow from the lengths). An error for what no reader would take.
pub fn encode_frames(frames: &[FrameInfo]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(8 + frames.len() * 8);
    out.varint(frames.first().map_or(0, |f| f.offset));
    frames.iter().for_each(|frame| pack::encode_frame(frame, &mut out));
    let mut cursor = Cursor::new(&out, "a segment's frames");
    cursor.number(pack::MAX_PACK)?;
    let mut next = None;
    for frame in frames {
        // Offsets are not stored: each frame follows the one before, or is the first of its pack.
        let follows = next.is_none_or(|next| frame.offset == next) || frame.offset == pack::PREAMBLE as u64;
        next = Some(frame.offset + u64::from(frame.stored));
        if pack::decode_frame(&mut cursor, frame.offset)? != *frame || !follows {
            return Err(Error::invalid("a segment's frame would be read as something else"));
        }
    }
    Ok(out)
}

/// Decodes the page that begins with frame `first` of the segment; `starts` are the segment's [`pack_starts`].
pub fn decode_frames(bytes: &[u8], first: u32, starts: &[u32]) -> Result<Vec<FrameInfo>> {
    let mut cursor = Cursor::new(bytes, "a segment's frames");
    let total = starts.last().copied().unwrap_or_default();
    let wanted = total.saturating_sub(first).min(FRAMES_A_PAGE as u32);
    let mut out: Vec<FrameInfo> = Vec::with_capacity((wanted as usize).min(cursor.remaining()));
    let mut offset = cursor.number(pack::MAX_PACK)?;
    for number in first..first + wanted {
        if starts.binary_search(&number).is_ok() {
            if number == first && offset != pack::PREAMBLE as u64 {
                return Err(cursor.error("a pack's first frame does not begin behind its preamble"));
            }
            offset = pack::PREAMBLE as u64;
        }
        let frame = pack::decode_frame(&mut cursor, offset)?;
        offset += u64::from(frame.stored);
        out.push(frame);
    }
    cursor.end()?;
    Ok(out)
}

/// Encodes one page of entries of a segment with `frames` frames, which must be sorted by key. An error for what no
/// reader would take.
pub fn encode_entries(entries: &[IndexEntry], frames: u32) -> Result<Vec<u8>> {
    let out = encode_entries_unchecked(entries);
    match decode_entries(&out, entries.len(), frames)? == entries {
        true => Ok(out),
        false => Err(Error::invalid("a segment's entries would be read as something else")),
    }
}

/// The same bytes, whether or not a reader would take them: for tests of readers.
pub(crate) fn encode_entries_unchecked(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 24);
    for entry in entries {
        out.extend_from_slice(&entry.key.0);
        out.varint(u64::from(entry.frame));
        out.varint(u64::from(entry.offset));
        out.varint(u64::from(entry.len));
    }
    out
}

/// Decodes one page of `count` entries of a segment with `frames` frames. Keys must not fall.
pub fn decode_entries(bytes: &[u8], count: usize, frames: u32) -> Result<Vec<IndexEntry>> {
    let mut cursor = Cursor::new(bytes, "a segment's entries");
    let mut out: Vec<IndexEntry> = Vec::with_capacity(count.min(cursor.remaining() / 19 + 1));
    for _ in 0..count {
        let entry = IndexEntry {
            key: ChunkKey(cursor.array()?),
            frame: cursor.number(u64::from(frames.saturating_sub(1)))? as u32,
            offset: cursor.number(MAX_FRAME as u64)? as u32,
            len: cursor.number(MAX_CHUNK as u64)? as u32,
        };
        if entry.len == 0 || frames == 0 || (entry.offset + entry.len) as usize > MAX_FRAME {
            return Err(cursor.error("a chunk lies outside every frame"));
        }
        if out.last().is_some_and(|last| last.key > entry.key) {
            return Err(cursor.error("they are out of order"));
        }
        out.push(entry);
    }
    cursor.end()?;
    Ok(out)
}
