//! The blocks of a directory: in each the entries, then their names, in the order of the names' bytes.

use crate::error::{Error, Result};
use crate::vfs::image::BLOCK;

/// Bytes of an entry without its name: inode number (8), where the name is (2), type (1), nothing (1).
const ENTRY: usize = 12;

/// One directory that is being written.
#[derive(Debug)]
pub(crate) struct DirectoryBlocks {
    entries: Vec<(u64, u8, Vec<u8>)>,
    /// Bytes of the current block.
    used: usize,
    last: Vec<u8>,
    /// What is still to come of `.` and `..`: they stand where their names belong.
    dots: Vec<(&'static [u8], u64)>,
}

/// Takes the blocks of a directory, whole but for the last.
pub(super) type TakeBlocks<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

impl DirectoryBlocks {
    /// A directory with this inode number, in a directory with that.
    pub(crate) fn new(own: u64, parent: u64) -> DirectoryBlocks {
        DirectoryBlocks { entries: Vec::new(), used: 0, last: Vec::new(), dots: vec![(b"..", parent), (b".", own)] }
    }

    /// Adds an entry. Names that do not ascend are damage.
    pub(super) fn add(&mut self, name: &[u8], inode: u64, kind: u8, take: TakeBlocks<'_>) -> Result<()> {
        if !self.last.is_empty() && self.last.as_slice() >= name {
            return Err(Error::corrupt("the names of a directory are not in order"));
        }
        self.last.clear();
        self.last.extend_from_slice(name);
        while let Some((dot, inode)) = self.dots.pop_if(|(dot, _)| *dot < name) {
            self.put(dot, inode, DIRECTORY, take)?;
        }
        self.put(name, inode, kind, take)
    }

    fn put(&mut self, name: &[u8], inode: u64, kind: u8, take: TakeBlocks<'_>) -> Result<()> {
        if self.used + ENTRY + name.len() > BLOCK as usize {
            let mut block = self.block();
            block.resize(BLOCK as usize, 0);
            take(&block)?;
        }
        self.used += ENTRY + name.len();
        self.entries.push((inode, kind, name.to_vec()));
        Ok(())
    }

    /// The entries so far.
    fn block(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.used);
        let mut at = self.entries.len() * ENTRY;
        for (inode, kind, name) in &self.entries {
            out.extend_from_slice(&inode.to_le_bytes());
            out.extend_from_slice(&(at as u16).to_le_bytes());
            out.extend_from_slice(&[*kind, 0]);
            at += name.len();
        }
        self.entries.iter().for_each(|(_, _, name)| out.extend_from_slice(name));
        self.entries.clear();
        self.used = 0;
        out
    }

    /// The last block, as long as it is.
    pub(super) fn finish(mut self, take: TakeBlocks<'_>) -> Result<()> {
        while let Some((dot, inode)) = self.dots.pop() {
            self.put(dot, inode, DIRECTORY, take)?;
        }
        let block = self.block();
        take(&block)
    }
}

const DIRECTORY: u8 = 2;

/// The type of an entry, by the type bits of a mode.
pub(crate) fn kind(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => DIRECTORY,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(names: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        let mut listing = DirectoryBlocks::new(2, 2);
        for name in names {
            listing.add(name, 9, 1, &mut |block| {
                out.push(block.to_vec());
                Ok(())
            })?;
        }
        listing.finish(&mut |block| {
            out.push(block.to_vec());
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn dots_stand_where_they_belong() {
        let only = &blocks(&[b"!", b".-", b"...", b"a"]).unwrap()[0];
        assert_eq!(&only[6 * ENTRY..], b"!..-.....a");
        assert_eq!(&blocks(&[]).unwrap()[0][2 * ENTRY..], b"...");
        assert!(blocks(&[b"b", b"a"]).is_err() && blocks(&[b"a", b"a"]).is_err());
    }

    #[test]
    fn blocks_are_whole() {
        let names: Vec<Vec<u8>> = (0..1000).map(|n| format!("{n:04}{}", "x".repeat(n % 200)).into_bytes()).collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let blocks = blocks(&names).unwrap();
        let (last, whole) = blocks.split_last().unwrap();
        assert!(whole.len() > 20 && whole.iter().all(|block| block.len() == BLOCK as usize));
        assert!(last.len() <= BLOCK as usize);
    }
}
