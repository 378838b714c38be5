//! The bytes of a pack.
//!
//! ```text
//! 0     header               28   see envelope
//! 28    salt                 32   the pack's key is derived from it: no nonce can repeat
//! 60    key commitment       16   AES-GCM does not commit to its key; this does
//! 76    session              32   the session that wrote it, in the clear, so that prune can tell without a key
//! 108   content              1    1 data, 2 trees
//! 109   key source           1    0: key derived from the repository's; 1: of a key that only writes, whose name the session
//!                                 ends with; others: refuse
//! 110   reserved             2    zero
//! 112   frames               each: AES-256-GCM ciphertext and tag, nonce = frame number
//! n     directory            sealed likewise, nonce = 2³²
//! m     tail                 16   directory offset (8), directory length (4), frames (4)
//!       checksum             32   BLAKE3 of everything before it; also the pack's name
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::envelope::{self, CHECKSUM, HEADER, ObjectType};
use crate::model::{ChunkKey, RepositoryId, SnapshotId, WriterId, writer_at_end};

/// The longest chunk.
pub const MAX_CHUNK: usize = 16 << 20;
/// The longest plain content of a frame: one chunk of the greatest length.
pub(crate) const MAX_FRAME: usize = MAX_CHUNK;
/// The most chunks in one frame.
pub(crate) const MAX_FRAME_CHUNKS: usize = 1 << 16;
/// The most chunks whose plain bytes serve as a frame's prefix.
pub const MAX_BASES: usize = 1024;
/// The most bytes that such a prefix may have in all.
pub(crate) const MAX_PREFIX: usize = 4 << 20;
/// The longest pack that a reader takes.
pub(crate) const MAX_PACK: u64 = 1 << 30;
/// Bytes before the first frame.
pub const PREAMBLE: usize = 112;
/// Bytes of the tail, without the checksum.
pub const TAIL: usize = 16;
/// The nonce of the directory: beyond every frame number.
pub const DIRECTORY_NONCE: u64 = 1 << 32;

/// What a pack holds; never both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PackKind {
    /// Chunks of files.
    Data = 1,
    /// Pages of trees.
    Tree = 2,
}

/// How a frame's plain bytes became what is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame without magic, size or checksum; the plain bytes of the base chunks, if any, are its prefix.
    Zstd = 1,
}

impl Codec {
    /// The codec of a number on disk.
    pub fn parse(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Codec::Raw),
            1 => Ok(Codec::Zstd),
            _ => Err(Error::new(ErrorKind::Unsupported, format!("codec {byte} of a frame needs a newer yester"))),
        }
    }
}

/// One frame as pack directory and segments describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// Where its ciphertext begins in the pack.
    pub offset: u64,
    /// Ciphertext and tag, in bytes.
    pub stored: u32,
    /// Plain bytes.
    pub plain: u32,
    /// How to get from one to the other.
    pub codec: Codec,
    /// Chunks whose plain bytes, one after the other, are the prefix (delta frames); usually none.
    pub bases: Vec<ChunkKey>,
}

/// One frame with the chunks in it, in order: key and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The frame.
    pub frame: FrameInfo,
    /// Its chunks; their lengths add up to the frame's plain bytes.
    pub chunks: Vec<(ChunkKey, u32)>,
}

/// Bytes that a pack's key and commitment are of.
pub(crate) const BOUND: usize = HEADER + 4;

/// What key and commitment of a pack that begins like this are of, in every version: its header, its kind and where its
/// keys come from. So nobody without the key can make a pack that claims to be of another version. Of a writer whose key
/// only writes, its name is behind that.
pub(crate) fn bound(preamble: &[u8; PREAMBLE]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BOUND + WriterId::LEN);
    out.extend_from_slice(&preamble[..HEADER]);
    out.extend_from_slice(&preamble[108..]);
    if envelope::is_one_way(preamble) {
        out.extend_from_slice(&preamble[108 - WriterId::LEN..108]);
    }
    out
}

/// The first 112 bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// The repository.
    pub repository: RepositoryId,
    /// What the pack's key is derived from.
    pub salt: [u8; 32],
    /// What the derived key must commit to.
    pub commitment: [u8; 16],
    /// The session that wrote it.
    pub session: SnapshotId,
    /// What is in it.
    pub kind: PackKind,
    /// The writer, if its key only writes: the session ends with its name.
    pub writer: Option<WriterId>,
}

impl Preamble {
    /// The bytes.
    pub fn encode(&self) -> [u8; PREAMBLE] {
        let mut out = [0; PREAMBLE];
        out[..HEADER].copy_from_slice(&self.header());
        out[28..60].copy_from_slice(&self.salt);
        out[60..76].copy_from_slice(&self.commitment);
        out[76..108].copy_from_slice(&self.session.0);
        out[108] = self.kind as u8;
        out[109] = u8::from(self.writer.is_some());
        out
    }

    fn header(&self) -> [u8; HEADER] {
        envelope::header_with(ObjectType::Pack, self.repository, if self.writer.is_some() { envelope::ONE_WAY } else { 0 })
    }

    /// Reads the start of a pack (or all of it).
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let repository = envelope::check_header(bytes, ObjectType::Pack, "a pack")?;
        let mut cursor = Cursor::new(bytes, "a pack");
        cursor.take(HEADER)?;
        let salt = cursor.array()?;
        let commitment = cursor.array()?;
        let session = SnapshotId(cursor.array()?);
        let kind = match cursor.u8()? {
            1 => PackKind::Data,
            2 => PackKind::Tree,
            _ => return Err(cursor.error("its content is of an unknown kind")),
        };
        let (source, reserved) = (cursor.u8()?, cursor.u16()?);
        if source > 1 || reserved != 0 {
            return Err(Error::new(ErrorKind::Unsupported, "a pack with keys of another source needs a newer yester"));
        }
        if (source == 1) != envelope::is_one_way(bytes) {
            return Err(cursor.error("its header and the source of its keys contradict each other"));
        }
        let writer = writer_at_end(&session.0).filter(|_| source == 1);
        Ok(Preamble { repository, salt, commitment, session, kind, writer })
    }

    /// What the pack's key and commitment are of, besides the salt.
    pub fn bound(&self) -> Vec<u8> {
        bound(&self.encode())
    }

    /// What AES-GCM authenticates besides a frame's bytes: repository, kind of pack, number, codec, length.
    pub fn frame_aad(&self, number: u32, codec: Codec, plain: u32) -> [u8; HEADER + 10] {
        let mut out = [0; HEADER + 10];
        out[..HEADER].copy_from_slice(&self.header());
        out[HEADER] = self.kind as u8;
        out[HEADER + 1] = codec as u8;
        out[HEADER + 2..HEADER + 6].copy_from_slice(&number.to_le_bytes());
        out[HEADER + 6..].copy_from_slice(&plain.to_le_bytes());
        out
    }
}

/// The clear end of a pack, before the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Where the sealed directory begins.
    pub directory: u64,
    /// Its length with the tag.
    pub directory_len: u32,
    /// Frames in the pack.
    pub frames: u32,
}

impl Tail {
    /// The bytes.
    pub fn encode(&self) -> [u8; TAIL] {
        let mut out = [0; TAIL];
        out[..8].copy_from_slice(&self.directory.to_le_bytes());
        out[8..12].copy_from_slice(&self.directory_len.to_le_bytes());
        out[12..].copy_from_slice(&self.frames.to_le_bytes());
        out
    }

    /// Reads the last bytes of a pack of `size` bytes; `bytes` ends where the pack ends, checksum included.
    pub fn decode(bytes: &[u8], size: u64) -> Result<Self> {
        let start = bytes.len().checked_sub(TAIL + CHECKSUM).ok_or_else(|| Error::corrupt("a pack is too short for its tail"))?;
        let mut cursor = Cursor::new(&bytes[start..], "a pack's tail");
        let tail = Tail { directory: cursor.u64()?, directory_len: cursor.u32()?, frames: cursor.u32()? };
        let end = tail.directory.checked_add(u64::from(tail.directory_len)).and_then(|n| n.checked_add((TAIL + CHECKSUM) as u64));
        if size > MAX_PACK || end != Some(size) || tail.directory < PREAMBLE as u64 {
            return Err(cursor.error("its directory is not where it must be"));
        }
        Ok(tail)
    }
}

/// Encodes a pack directory (the plain bytes; offsets follow from the stored lengths). An error for what no reader
/// would take.
pub fn encode_directory<'a>(entries: impl IntoIterator<Item = &'a DirectoryEntry, IntoIter: Clone>) -> Result<Vec<u8>> {
    let entries = entries.into_iter();
    let out = encode_directory_unchecked(entries.clone());
    let directory = entries.clone().fold(PREAMBLE as u64, |at, entry| at + u64::from(entry.frame.stored));
    let directory_len = u32::try_from(out.len()).map_err(|_| Error::invalid("a pack's directory is too long"))?;
    let tail = Tail { directory, directory_len, frames: entries.clone().count() as u32 };
    let found = decode_directory(&out, &tail)?;
    let same = |(found, entry): (&DirectoryEntry, &DirectoryEntry)| {
        let offset = found.frame.offset;
        found.chunks == entry.chunks && found.frame == FrameInfo { offset, ..entry.frame.clone() }
    };
    match directory <= MAX_PACK && found.iter().zip(entries).all(same) {
        true => Ok(out),
        false => Err(Error::invalid("a pack is too long, or would be read as something else")),
    }
}

/// The same bytes, whether or not a reader would take them: for tests of readers.
pub fn encode_directory_unchecked<'a>(entries: impl IntoIterator<Item = &'a DirectoryEntry, IntoIter: Clone>) -> Vec<u8> {
    let entries = entries.into_iter();
    let mut out = Vec::with_capacity(entries.clone().map(|e| 16 + e.chunks.len() * 19).sum());
    for entry in entries {
        encode_frame(&entry.frame, &mut out);
        out.varint(entry.chunks.len() as u64);
        for (key, len) in &entry.chunks {
            out.extend_from_slice(&key.0);
            out.varint(u64::from(*len));
        }
    }
    out
}

/// Stored and plain length, codec, bases: what directory and segments share.
pub(crate) fn encode_frame(frame: &FrameInfo, out: &mut Vec<u8>) {
    out.varint(u64::from(frame.stored));
    out.varint(u64::from(frame.plain));
    out.push(frame.codec as u8);
    out.varint(frame.bases.len() as u64);
    frame.bases.iter().for_each(|base| out.extend_from_slice(&base.0));
}

/// Reads what `encode_frame` wrote; `offset` is where the frame begins.
pub fn decode_frame(cursor: &mut Cursor<'_>, offset: u64) -> Result<FrameInfo> {
    let stored = cursor.number(MAX_FRAME as u64 + (MAX_FRAME / 128) as u64 + 1024)? as u32;
    let plain = cursor.number(MAX_FRAME as u64)? as u32;
    let codec = Codec::parse(cursor.u8()?)?;
    let bases = cursor.number(MAX_BASES as u64)? as usize;
    let bases: Vec<ChunkKey> = (0..bases).map(|_| cursor.array().map(ChunkKey)).collect::<Result<_>>()?;
    if codec == Codec::Raw && !bases.is_empty() {
        return Err(cursor.error("a frame that is not compressed has a prefix"));
    }
    if plain == 0 || stored <= 16 || codec == Codec::Raw && stored != plain + 16 {
        return Err(cursor.error("a frame has an impossible length"));
    }
    Ok(FrameInfo { offset, stored, plain, codec, bases })
}

/// Decodes a pack directory: `frames` frames that lie between preamble and directory without gap.
pub fn decode_directory(bytes: &[u8], tail: &Tail) -> Result<Vec<DirectoryEntry>> {
    let mut cursor = Cursor::new(bytes, "a pack directory");
    if tail.frames as usize > bytes.len() / 6 {
        return Err(cursor.error("it has fewer frames than the tail says"));
    }
    let mut offset = PREAMBLE as u64;
    let mut out = Vec::with_capacity(tail.frames as usize);
    for _ in 0..tail.frames {
        let frame = decode_frame(&mut cursor, offset)?;
        offset += u64::from(frame.stored);
        let count = cursor.count(17)?;
        if count == 0 || count > MAX_FRAME_CHUNKS {
            return Err(cursor.error("a frame has no chunks, or too many"));
        }
        let mut chunks = Vec::with_capacity(count);
        let mut sum = 0u64;
        for _ in 0..count {
            let key = ChunkKey(cursor.array()?);
            let len = cursor.number(MAX_CHUNK as u64)?;
            if len == 0 {
                return Err(cursor.error("a chunk has no length"));
            }
            sum += len;
            chunks.push((key, len as u32));
        }
        if sum != u64::from(frame.plain) {
            return Err(cursor.error("the chunks of a frame do not fill it"));
        }
        out.push(DirectoryEntry { frame, chunks });
    }
    cursor.end()?;
    if offset != tail.directory {
        return Err(cursor.error("its frames do not fill the pack"));
    }
    Ok(out)
}
