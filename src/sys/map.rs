//! Memory that is mapped: files, and advice about what is large. Of files only those without a name: nobody else
//! reaches one, so nobody cuts it short under its mapping, which would end the process.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, madvise};

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

/// Asks the kernel for large pages under memory that is about to be filled whole: one fault for 2 MiB in the place of 512.
/// Only advice: what it cannot give, it does not give.
#[allow(unsafe_code)]
pub(crate) fn in_large_pages<T>(room: &mut [std::mem::MaybeUninit<T>]) {
    let page = rustix::param::page_size();
    let begin = room.as_mut_ptr().cast::<u8>();
    let skip = begin.align_offset(page);
    let len = size_of_val(room).saturating_sub(skip) / page * page;
    if len > 0 {
        // SAFETY: whole pages inside `room`, and the advice changes no byte of them.
        let _ = unsafe { madvise(begin.add(skip).cast(), len, Advice::LinuxHugepage) };
    }
}
