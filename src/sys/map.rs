//! Files that are mapped into memory. Only files without a name: nobody else reaches one, so nobody cuts it short under
//! its mapping, which would end the process.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut};
use rustix::fs::{FallocateFlags, fallocate};

/// Maps the whole of a file without a name, to read. An empty one is an error.
#[allow(unsafe_code)]
pub(crate) fn whole(file: &File) -> io::Result<Mmap> {
    if file.metadata()?.len() == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file to be mapped is empty"));
    }
    // SAFETY: the file has no name and is not written any more, so that its bytes and its length stay.
    unsafe { Mmap::map(file) }
}

/// Maps `len` bytes of a file without a name, to read and write. They have all their blocks, so that writing to them
/// needs no more room on the disk.
#[allow(unsafe_code)]
pub(crate) fn writable(file: &File, len: usize) -> io::Result<MmapMut> {
    fallocate(file, FallocateFlags::empty(), 0, len as u64)?;
    // SAFETY: the file has no name, and only this mapping writes to it.
    unsafe { MmapMut::map_mut(file) }
}
