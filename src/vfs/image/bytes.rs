//! Superblock and inodes of EROFS, as in `fs/erofs/erofs_fs.h` of Linux. All numbers are little-endian.

use crate::model::Timestamp;
use crate::vfs::image::BLOCK;

/// Inode numbers count places of so many bytes.
pub(crate) const SLOT: u64 = 32;
/// Bytes of an inode. Only the long form has times of its own.
pub(crate) const INODE: u64 = 64;
/// Where the superblock is in the first block.
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes have times of modification (`EROFS_FEATURE_COMPAT_MTIME`).
const COMPAT_MTIME: u32 = 2;
/// Some files are in pieces (`EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`; Linux 5.15).
const INCOMPAT_CHUNKED: u32 = 4;

/// Where what an inode holds is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In blocks one after the other.
    Plain = 0,
    /// Behind the inode.
    Inline = 2,
    /// In pieces of the same size, each at a block of its own or nowhere.
    Pieces = 4,
}

/// What all kinds of inodes have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inode {
    /// Where its content is.
    pub(crate) layout: Layout,
    /// Bytes of attributes behind it.
    pub(crate) attributes: u64,
    /// Type and permissions.
    pub(crate) mode: u16,
    /// Bytes of content.
    pub(crate) size: u64,
    /// First block, device number, or the size of pieces.
    pub(crate) place: u32,
    /// For programs that know numbers of 32 bits only.
    pub(crate) number: u32,
    /// Owner and group.
    pub(crate) owner: (u32, u32),
    /// Time of modification.
    pub(crate) mtime: Timestamp,
    /// Names.
    pub(crate) links: u32,
}

impl Inode {
    /// As on the disk.
    pub(crate) fn bytes(&self) -> [u8; INODE as usize] {
        let mut out = [0; INODE as usize];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        // Bit 0: the long form.
        put(0, &(1 | (self.layout as u16) << 1).to_le_bytes());
        put(2, &count(self.attributes).to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.place.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.owner.0.to_le_bytes());
        put(28, &self.owner.1.to_le_bytes());
        put(32, &self.mtime.secs.to_le_bytes());
        put(40, &self.mtime.nanos.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        out
    }
}

/// How attributes of so many bytes are counted: the header is 1, four bytes more are 1 more.
fn count(attributes: u64) -> u16 {
    if attributes == 0 { 0 } else { ((attributes - 12) / 4 + 1) as u16 }
}

/// What is read back of an inode while an image is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InodeFields {
    /// Type and permissions.
    pub(crate) mode: u16,
    /// Whether its content is behind it.
    pub(crate) inline: bool,
    /// Whether it is in pieces.
    pub(crate) pieces: bool,
    /// Bytes of attributes behind it.
    pub(crate) attributes: u64,
    /// Bytes of content.
    pub(crate) size: u64,
    /// See [`Inode::place`].
    pub(crate) place: u32,
}

/// Where the size of an inode is in it, and its place.
pub(crate) const SIZE_AT: u64 = 8;
pub(crate) const PLACE_AT: u64 = 16;

/// Reads an inode that [`Inode::bytes`] made.
pub(crate) fn seen(bytes: &[u8; INODE as usize]) -> InodeFields {
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    let layout = u16_at(0) >> 1;
    let attributes = match u16_at(2) {
        0 => 0,
        count => 12 + 4 * (u64::from(count) - 1),
    };
    let size = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
    let (inline, pieces) = (layout == Layout::Inline as u16, layout == Layout::Pieces as u16);
    InodeFields { mode: u16_at(4), inline, pieces, attributes, size, place: u32_at(16) }
}

/// What the superblock says.
#[derive(Debug)]
pub(crate) struct Superblock {
    /// The root's inode number; below 65,536.
    pub(crate) root: u16,
    /// Inodes.
    pub(crate) inodes: u64,
    /// The time of the snapshot.
    pub(crate) time: Timestamp,
    /// Blocks of the whole image.
    pub(crate) blocks: u32,
    /// The block where inodes begin.
    pub(crate) first: u32,
    /// Its own number.
    pub(crate) uuid: [u8; 16],
    /// Whether some files are in pieces.
    pub(crate) pieces: bool,
}

impl Superblock {
    /// The first block.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; BLOCK as usize];
        let mut put = |at: usize, bytes: &[u8]| out[SUPERBLOCK + at..SUPERBLOCK + at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT_MTIME.to_le_bytes());
        put(12, &[BLOCK.trailing_zeros() as u8]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(24, &self.time.secs.to_le_bytes());
        put(32, &self.time.nanos.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.first.to_le_bytes());
        put(48, &self.uuid);
        put(64, b"yester");
        put(80, &(if self.pieces { INCOMPAT_CHUNKED } else { 0 }).to_le_bytes());
        out
    }
}
