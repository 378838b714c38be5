//! What can be asked of an open file: its attributes, its holes, its bytes; and advice for the kernel.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use crate::model::Timestamp;
use crate::sys::dir::{Stat, USER_FLAGS, statx};

pub(super) fn timestamps(time: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the modification time of an open file (the access time becomes the same).
pub fn set_mtime(fd: impl AsFd, time: Timestamp) -> io::Result<()> {
    Ok(fs::futimens(fd, &timestamps(time))?)
}

/// Sets owner and group of an open file.
pub fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = owner(uid, gid)?;
    Ok(fs::fchown(fd, Some(uid), Some(gid))?)
}

/// The highest number means "leave it" to the system calls, and so nobody.
pub(super) fn owner(uid: u32, gid: u32) -> io::Result<(fs::Uid, fs::Gid)> {
    match uid == u32::MAX || gid == u32::MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is the number of no user or group", u32::MAX))),
        false => Ok((fs::Uid::from_raw(uid), fs::Gid::from_raw(gid))),
    }
}

/// Sets the mode of an open file.
pub fn set_mode(fd: impl AsFd, mode: u16) -> io::Result<()> {
    Ok(fs::fchmod(fd, Mode::from_raw_mode(u32::from(mode)))?)
}

/// The `chattr` flags of an open file or directory.
pub fn flags(fd: impl AsFd) -> io::Result<u32> {
    Ok(fs::ioctl_getflags(fd)?.bits())
}

/// The `chattr` flags of an open file or directory that a user sets; `None` where the file system has none to tell of.
pub fn user_flags(fd: impl AsFd) -> Option<u32> {
    // Few file systems have them, and each says so with an error of its own.
    flags(fd).ok().map(|flags| flags & USER_FLAGS)
}

/// Sets the `chattr` flags of an open file or directory.
pub fn set_flags(fd: impl AsFd, flags: u32) -> io::Result<()> {
    Ok(fs::ioctl_setflags(fd, fs::IFlags::from_bits_retain(flags))?)
}

/// Makes a range of an open file a hole that reads as zeros; its size stays.
pub fn punch_hole(fd: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    Ok(fs::fallocate(fd, fs::FallocateFlags::PUNCH_HOLE | fs::FallocateFlags::KEEP_SIZE, offset, len)?)
}

/// `statx` of an open file.
pub fn stat(fd: impl AsFd) -> io::Result<Stat> {
    statx(fd.as_fd(), b"", AtFlags::EMPTY_PATH)
}

/// The next allocated range of an open file at or after `from`: start and end. `None`: only a hole follows.
/// A file that does not tell where its holes are has none: its range ends at `u64::MAX`.
pub fn next_data(fd: impl AsFd, from: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match fs::seek(&fd, fs::SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((from, u64::MAX))),
        Err(e) => return Err(e.into()),
    };
    Ok(Some((start, fs::seek(&fd, fs::SeekFrom::Hole(start))?)))
}

/// Where the next hole of an open file begins at or after `from`; the end counts as one. `u64::MAX`: it does not tell.
pub fn next_hole(fd: impl AsFd, from: u64) -> io::Result<u64> {
    match fs::seek(fd, fs::SeekFrom::Hole(from)) {
        Ok(at) => Ok(at),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(u64::MAX),
        Err(e) => Err(e.into()),
    }
}

/// Reads up to `len` bytes from `offset` on and appends them to `out`, without clearing memory first. Returns how many
/// there were: fewer than `len` only at the end of the file.
pub fn read_up_to(fd: impl AsFd, offset: u64, len: usize, out: &mut Vec<u8>) -> io::Result<usize> {
    out.reserve(len);
    let mut done = 0;
    while done < len {
        match read_some(&fd, offset + done as u64, len - done, out)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// The same with one call: as many as there are at once.
pub fn read_some(fd: impl AsFd, offset: u64, len: usize, out: &mut Vec<u8>) -> io::Result<usize> {
    let start = out.len();
    out.reserve(len);
    loop {
        let read = match rustix::io::pread(&fd, &mut out.spare_capacity_mut()[..len], offset) {
            Ok((init, _)) => init.len(),
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        // SAFETY: `pread` initialized this many bytes of the spare capacity.
        #[allow(unsafe_code)]
        unsafe {
            out.set_len(start + read);
        }
        return Ok(read);
    }
}

/// Tells the kernel that a file is read from start to end.
pub fn advise_sequential(fd: impl AsFd) {
    // Advice: a file system that does not take it is read all the same.
    let _ = fs::fadvise(fd, 0, None, fs::Advice::Sequential);
}

/// Tells the kernel that a file will be read whole very soon: it begins at once, and nobody waits.
pub fn advise_soon(fd: impl AsFd) {
    let _ = fs::fadvise(fd, 0, None, fs::Advice::WillNeed);
}

/// Tells the kernel that the pages of this range are not needed again.
pub fn advise_done(fd: impl AsFd, offset: u64, len: u64) {
    let _ = fs::fadvise(fd, offset, std::num::NonZeroU64::new(len), fs::Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_that_knows_of_no_holes_has_none() {
        let file = File::open("/proc/version").expect("a file");
        assert_eq!(next_data(&file, 0).expect("an answer"), Some((0, u64::MAX)));
        let hollow = tempfile::tempfile().expect("a file");
        hollow.set_len(4096).expect("a length");
        assert_eq!(next_data(&hollow, 0).expect("an answer"), None);
    }
}
