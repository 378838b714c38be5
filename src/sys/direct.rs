//! Reading large files past the page cache.
//!
//! What a backup reads is read once. Through the page cache it is copied a second time, and pushes out what others read
//! again and again, on a database server the database itself. So what is not in memory is read directly (`O_DIRECT`); what
//! is in memory is taken from there. A system or file system that cannot do the one or tell the other is read as usual.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::{self, OFlags};

use super::dir;

/// What addresses, offsets and lengths of direct reads are multiples of: no disk wants more.
const ALIGN: usize = 4096;
/// File systems on disks of this machine whose direct reads are as good as others: ext2 to ext4, XFS.
const KNOWN: [i64; 2] = [0xEF53, 0x5846_5342];

/// A file that is read once. Several threads may read it; whether reads are direct is a property of its descriptor, so
/// they wait for each other where one wants them so and the other does not.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    mode: RwLock<Mode>,
}

#[derive(Debug)]
struct Mode {
    /// Direct reads may be tried.
    can: bool,
    /// The descriptor is set to them now.
    is_direct: bool,
}

/// A lock on the mode: shared while it is used, exclusive while it is changed.
enum ModeLock<'a> {
    Shared(RwLockReadGuard<'a, Mode>),
    Alone(RwLockWriteGuard<'a, Mode>),
}

impl Deref for ModeLock<'_> {
    type Target = Mode;

    fn deref(&self) -> &Mode {
        match self {
            ModeLock::Shared(mode) => mode,
            ModeLock::Alone(mode) => mode,
        }
    }
}

impl DirectFile {
    /// Nothing is read yet.
    pub(crate) fn new(file: File) -> Self {
        #[allow(clippy::unnecessary_cast)]
        let can = fs::fstatfs(&file).is_ok_and(|stat| KNOWN.contains(&(stat.f_type as i64)));
        DirectFile { file, mode: RwLock::new(Mode { can, is_direct: false }) }
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A buffer of `head` zeros, behind which [`DirectFile::read`] of `len` bytes may be direct; and where they end: not far
    /// behind `head`.
    pub(crate) fn buffer(head: usize, len: usize) -> (Vec<u8>, usize) {
        let mut buffer = Vec::with_capacity(ALIGN + head + len.next_multiple_of(ALIGN));
        let start = buffer.as_ptr() as usize;
        let head = (start + head).next_multiple_of(ALIGN) - start;
        buffer.resize(head, 0);
        (buffer, head)
    }

    /// Reads up to `len` bytes from `offset` on and appends them to `out`. Returns how many there were: fewer than `len` only
    /// at the end of the file.
    pub(crate) fn read(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        let is_aligned = offset.is_multiple_of(ALIGN as u64) && (out.as_ptr() as usize + start).is_multiple_of(ALIGN);
        let wants = is_aligned && len >= ALIGN && self.mode(None).can && !is_in_memory(&self.file, offset, len);
        let mode = self.mode(Some(wants));
        if !mode.is_direct {
            return dir::read_up_to(&self.file, offset, len, out);
        }
        match self.read_direct(offset, len.next_multiple_of(ALIGN), out) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                out.truncate(start);
                drop(mode);
                self.give_up();
                dir::read_up_to(&self.file, offset, len, out)
            }
            Ok(read) => {
                out.truncate(start + read.min(len));
                Ok(read.min(len))
            }
            Err(e) => Err(e),
        }
    }

    fn read_direct(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        let mut done = 0;
        while done < len {
            let read = dir::read_some(&self.file, offset + done as u64, len - done, out)?;
            done += read;
            // Only the end of the file has another length.
            if read == 0 || !read.is_multiple_of(ALIGN) {
                break;
            }
        }
        Ok(done)
    }

    /// How it is read as long as this is held: as one wants, if that can be.
    fn mode(&self, wants: Option<bool>) -> ModeLock<'_> {
        let mode = self.mode.read();
        match wants {
            Some(direct) if direct != mode.is_direct && mode.can => {
                drop(mode);
                let mut mode = self.mode.write();
                self.set(&mut mode, direct);
                ModeLock::Alone(mode)
            }
            _ => ModeLock::Shared(mode),
        }
    }

    /// Reads no more of it directly.
    fn give_up(&self) {
        let mut mode = self.mode.write();
        self.set(&mut mode, false);
        mode.can = false;
    }

    fn set(&self, mode: &mut Mode, direct: bool) {
        let change = |flags| if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
        let set = fs::fcntl_getfl(&self.file).and_then(|flags| fs::fcntl_setfl(&self.file, change(flags)));
        match set {
            Ok(()) => mode.is_direct = direct,
            Err(_) => mode.can = false,
        }
    }
}

/// Whether most of a range is in memory, or some of it newer there than on the disk. True when the system does not tell
/// (before Linux 6.5).
fn is_in_memory(file: &File, offset: u64, len: usize) -> bool {
    /// The same on every architecture.
    const CACHESTAT: libc::c_long = 451;
    // Pages in memory, dirty, under way to the disk, and two counts of what is gone.
    let (range, mut pages) = ([offset, len as u64], [0u64; 5]);
    // SAFETY: the call reads two and writes five 64-bit numbers, which is what the arrays hold.
    #[allow(unsafe_code)]
    let told = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0) };
    let [cached, dirty, writing, ..] = pages;
    told != 0 || dirty + writing > 0 || cached * 2 * ALIGN as u64 > len as u64
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file of so many bytes on the disk that holds the sources, and what is in it.
    fn file(len: usize) -> (DirectFile, Vec<u8>) {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        file.write_all(&bytes).expect("written");
        (DirectFile::new(file), bytes)
    }

    /// All of a file in pieces of `len`.
    fn read(once: &DirectFile, head: usize, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let (mut buffer, start) = DirectFile::buffer(head, len);
            assert!(start >= head && start < head + ALIGN && buffer.len() == start);
            let read = once.read(all.len() as u64, len, &mut buffer).expect("read");
            assert_eq!(buffer.len(), start + read);
            all.extend_from_slice(&buffer[start..]);
            if read < len {
                return all;
            }
        }
    }

    #[test]
    fn what_is_on_the_disk_and_what_is_in_memory_is_read() {
        for len in [0, 1, 4096, 300_000, 5 * (64 << 10)] {
            let (once, bytes) = file(len);
            assert!(read(&once, 100, 64 << 10) == bytes, "{len} bytes, not written yet");
            once.file.sync_all().expect("synced");
            dir::advise_done(&once.file, 0, 0);
            assert!(read(&once, 5000, 64 << 10) == bytes, "{len} bytes on the disk");
            dir::advise_done(&once.file, len as u64 / 2, 0);
            assert!(read(&once, 0, 64 << 10) == bytes, "{len} bytes, the first half in memory");
        }
    }

    #[test]
    fn threads_that_want_it_otherwise_wait() {
        let (once, bytes) = file(3_000_001);
        once.file.sync_all().expect("synced");
        dir::advise_done(&once.file, 0, 0);
        // Pieces of 10,000 bytes begin where a direct read cannot.
        std::thread::scope(|scope| {
            for len in [64 << 10, 10_000, 64 << 10, 10_000] {
                let (once, bytes) = (&once, &bytes);
                scope.spawn(move || (0..5).for_each(|_| assert!(read(once, 0, len) == *bytes)));
            }
        });
    }

    #[test]
    fn memory_is_left_as_it_was() {
        let (once, bytes) = file(1 << 20);
        once.file.sync_all().expect("synced");
        dir::advise_done(&once.file, 0, 0);
        // Elsewhere it is read as usual.
        if !once.mode(None).can || is_in_memory(&once.file, 0, 1 << 20) {
            return;
        }
        assert!(read(&once, 0, 64 << 10) == bytes);
        assert!(!is_in_memory(&once.file, 0, 1 << 20));
    }
}
