//! An image that is made: its metadata, and which file lies at an address.

use crate::error::Result;
use crate::vfs::image::BLOCK;
use crate::vfs::image::area::Area;
use crate::vfs::image::build::Losses;

/// The metadata of an image, and the addresses of its files.
#[derive(Debug)]
pub struct Image {
    superblock: Vec<u8>,
    inodes: Area,
    blocks: Area,
    /// First block and position of each file, four bytes each, ascending.
    files: Area,
    /// The block where data begin.
    data: u32,
    /// All blocks.
    end: u32,
    losses: Losses,
}

/// A file at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lying {
    /// Its position.
    pub(crate) position: u64,
    /// Where it begins in the image.
    pub(crate) begin: u64,
    /// Where what comes next begins.
    pub(crate) end: u64,
}

impl Image {
    /// Of a superblock, inodes, blocks and the addresses of files.
    pub(super) fn new(superblock: Vec<u8>, areas: [Area; 3], data: u32, end: u32, losses: Losses) -> Image {
        let [inodes, blocks, files] = areas;
        Image { superblock, inodes, blocks, files, data, end, losses }
    }

    /// Bytes of the whole image.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.end) * BLOCK
    }

    /// Where the data begin: what is before are metadata.
    pub(crate) fn data(&self) -> u64 {
        u64::from(self.data) * BLOCK
    }

    /// What it does not show as it is.
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// Files that have an address.
    pub(crate) fn files(&self) -> u64 {
        self.files.len() / 8
    }

    /// File number `number` of those with an address.
    pub fn file(&self, number: u64) -> Result<Lying> {
        let [begin, position] = self.entry(number)?;
        let end = if number + 1 < self.files() { self.entry(number + 1)?[0] } else { self.end };
        Ok(Lying { position: u64::from(position), begin: u64::from(begin) * BLOCK, end: u64::from(end) * BLOCK })
    }

    fn entry(&self, number: u64) -> Result<[u32; 2]> {
        let [a, b, c, d, e, f, g, h] = self.files.array(number * 8)?;
        Ok([u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])])
    }

    /// The number of the file that lies at `offset` in the image, which is among the data.
    pub fn number_at(&self, offset: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.files());
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if u64::from(self.entry(middle)?[0]) * BLOCK <= offset { low = middle } else { high = middle }
        }
        Ok(low)
    }

    /// Reads metadata into `out`: from `offset` on, no further than to the data.
    pub fn metadata(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (mut at, mut out) = (offset, out);
        let inodes = BLOCK + self.inodes.len();
        while !out.is_empty() {
            let (from, end) = match at {
                at if at < BLOCK => (0, BLOCK),
                at if at < inodes => (BLOCK, inodes),
                _ => (inodes, inodes + self.blocks.len()),
            };
            let now = end.saturating_sub(at).min(out.len() as u64) as usize;
            let (part, rest) = std::mem::take(&mut out).split_at_mut(now);
            match from {
                0 => part.copy_from_slice(&self.superblock[at as usize..][..now]),
                BLOCK => self.inodes.read(at - from, part)?,
                // Behind the end there is nothing; the area says so.
                _ => self.blocks.read(at - from, if now == 0 { rest } else { part })?,
            }
            at += now as u64;
            out = rest;
        }
        Ok(())
    }
}
