//! Bytes that are put together before they are stored: in memory while they are few, else in a file without a name.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::sys::map;

/// Bytes of a spool in a file that are written at once.
const BUFFER: usize = 256 << 10;

/// Bytes that are being written.
#[derive(Debug)]
pub(crate) struct Spool {
    held: SpoolStorage,
    len: u64,
}

#[derive(Debug)]
enum SpoolStorage {
    Memory(Vec<u8>),
    File(BufWriter<File>),
}

impl Spool {
    /// Bytes in memory; `expected` of them are allocated at once.
    pub(crate) fn in_memory(expected: usize) -> Self {
        Spool { held: SpoolStorage::Memory(Vec::with_capacity(expected)), len: 0 }
    }

    /// Bytes in a file that has no name, in `directory`: it is gone with the process, however that ends.
    pub(crate) fn in_file(directory: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory)?;
        Ok(Spool { held: SpoolStorage::File(BufWriter::with_capacity(BUFFER, file)), len: 0 })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        match &mut self.held {
            SpoolStorage::Memory(held) => held.write_all(bytes),
            SpoolStorage::File(file) => file.write_all(bytes),
        }
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// All of them, to read.
    pub(crate) fn finish(self) -> io::Result<Spooled> {
        match self.held {
            SpoolStorage::Memory(held) => Ok(Spooled(Bytes::Memory(held))),
            SpoolStorage::File(file) => map::whole(&file.into_inner()?).map(|map| Spooled(Bytes::Mapped(map))),
        }
    }
}

/// What was spooled.
#[derive(Debug)]
pub(crate) struct Spooled(Bytes);

#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    Mapped(Mmap),
}

impl Deref for Spooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Memory(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_give_back_what_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        for mut spool in [Spool::in_memory(4), Spool::in_file(directory.path()).expect("a spool")] {
            let part: Vec<u8> = (0..=255).collect();
            (0..5000).for_each(|_| spool.write(&part).expect("writing"));
            assert_eq!(spool.len(), 1_280_000);
            let held = spool.finish().expect("a map");
            assert!(held.chunks(256).all(|chunk| chunk == part) && held.len() == 1_280_000);
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }
}
