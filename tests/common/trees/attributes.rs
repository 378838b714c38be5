//! The system calls that give an entry what `std::fs` cannot: special files, attributes, ACLs, flags, times, holes.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use yester::sys::{Dir, FileKind, dir};

/// `i` and `a`: what has one cannot be changed until it is cleared.
pub const LOCKS: u32 = 0x0000_0010 | 0x0000_0020;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL")
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an attribute of an entry itself.
pub fn set_xattr(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).expect("a name has no NUL"));
    // SAFETY: both strings and the value live during the call, and the length is the value's.
    #[allow(unsafe_code)]
    done(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

/// Removes an attribute of an entry itself.
pub fn remove_xattr(path: &Path, name: &[u8]) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).expect("a name has no NUL"));
    // SAFETY: both strings live during the call.
    #[allow(unsafe_code)]
    done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
}

/// Sets both times of an entry itself.
pub fn set_time(path: &Path, secs: i64, nanos: i64) {
    let (path, time) = (c(path), libc::timespec { tv_sec: secs, tv_nsec: nanos });
    let times = [time, time];
    // SAFETY: the string and the two times live during the call.
    #[allow(unsafe_code)]
    let set = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    done(set).expect("a time is set");
}

/// Makes a fifo, socket or device node.
pub fn make_node(path: &Path, kind: libc::mode_t, device: (u32, u32)) {
    let path = c(path);
    // SAFETY: the string lives during the call.
    #[allow(unsafe_code)]
    let made = unsafe { libc::mknod(path.as_ptr(), kind | 0o640, libc::makedev(device.0, device.1)) };
    done(made).expect("a special file is made");
}

/// Allocates blocks (`hole` false: zeros that were never written) or takes them away; the size stays.
pub fn allocate(file: &File, at: u64, len: u64, hole: bool) -> io::Result<()> {
    let mode = libc::FALLOC_FL_KEEP_SIZE | if hole { libc::FALLOC_FL_PUNCH_HOLE } else { 0 };
    // SAFETY: no memory is involved.
    #[allow(unsafe_code)]
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, at as libc::off_t, len as libc::off_t) })
}

/// An ACL as the attribute has it: owner, a user, the group, a group, the mask, others.
pub fn acl(user: u32, group: u32, permissions: [u16; 6]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0];
    let ids = [u32::MAX, user, u32::MAX, group, u32::MAX, u32::MAX];
    for ((tag, permission), id) in [1u16, 2, 4, 8, 16, 32].into_iter().zip(permissions).zip(ids) {
        out.extend(tag.to_le_bytes());
        out.extend((permission & 7).to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

/// A directory as a path that is no link: what names one through a descriptor is.
pub fn itself(path: &Path) -> PathBuf {
    if path.starts_with("/proc/self/fd") && path.components().count() == 5 { path.join(".") } else { path.to_owned() }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Whether it is a file or directory: nothing else has flags, and a device must not be opened.
fn has_flags(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file() || meta.is_dir())
}

/// Sets those of `flags` that this file system knows for this kind of entry, and clears the other ones of `among`.
pub fn set_flags(path: &Path, flags: u32, among: u32) {
    let path = itself(path);
    if !has_flags(&path) {
        return;
    }
    let Ok(file) = open(&path) else { return };
    for flag in (0..32).map(|bit| 1 << bit).filter(|flag| among & flag != 0) {
        let Ok(have) = dir::flags(&file) else { return };
        let new = have & !flag | flags & flag;
        if new != have {
            // A flag that the file system does not know is refused.
            let _ = dir::set_flags(&file, new);
        }
    }
}

/// Makes an entry changeable.
pub fn unlock(path: &Path) {
    set_flags(path, 0, LOCKS);
}

/// Makes everything below a directory removable, however deep.
pub fn unlock_all(root: &Path) {
    let Ok(dir) = Dir::open(root) else { return };
    clear_locks(&dir);
    let mut stack = vec![std::sync::Arc::new(dir)];
    while let Some(dir) = stack.pop() {
        let Ok(listing) = dir.list() else { continue };
        for at in 0..listing.len() {
            let name = listing.name(at);
            match dir.stat(name).map(|stat| stat.kind) {
                Ok(FileKind::Directory) => {
                    let Ok(below) = dir.open_dir(name) else { continue };
                    clear_locks(&below);
                    stack.push(below.into());
                }
                Ok(FileKind::File) => drop(dir.open_file(name).map(|file| clear_locks(&file))),
                _ => {}
            }
        }
    }
}

fn clear_locks(fd: impl AsFd) {
    let fd = fd.as_fd();
    if let Some(flags) = dir::flags(fd).ok().filter(|flags| flags & LOCKS != 0) {
        let _ = dir::set_flags(fd, flags & !LOCKS);
    }
}
