//! Extended attributes, by open descriptor or, for what cannot be opened, through its directory.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use crate::sys::dir::Dir;

/// Name and value of each attribute, sorted by name.
pub type List = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes of an open file or directory; empty where the file system has none.
pub fn list(fd: impl AsFd) -> io::Result<List> {
    let fd = fd.as_fd();
    collect(|buf| fs::flistxattr(fd, spare_capacity(buf)), |name, buf| fs::fgetxattr(fd, name, spare_capacity(buf)))
}

/// The attributes of the entry `name` of `dir`, itself and not what it links to. Goes through `/proc/self/fd`, as the
/// kernel has no `*xattrat` before 6.13.
pub fn list_at(dir: &Dir, name: &[u8]) -> io::Result<List> {
    let path = proc_path(dir, name);
    collect(
        |buf| fs::llistxattr(path.as_slice(), spare_capacity(buf)),
        |name, buf| fs::lgetxattr(path.as_slice(), name, spare_capacity(buf)),
    )
}

/// Sets one attribute of an open file or directory.
pub fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(fs::fsetxattr(fd, name, value, XattrFlags::empty())?)
}

/// Removes one attribute of an open file or directory.
pub fn remove(fd: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(fs::fremovexattr(fd, name)?)
}

/// Sets one attribute of an entry itself.
pub fn set_at(dir: &Dir, entry: &[u8], name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(fs::lsetxattr(proc_path(dir, entry).as_slice(), name, value, XattrFlags::empty())?)
}

/// Removes one attribute of an entry itself.
pub fn remove_at(dir: &Dir, entry: &[u8], name: &[u8]) -> io::Result<()> {
    Ok(fs::lremovexattr(proc_path(dir, entry).as_slice(), name)?)
}

fn proc_path(dir: &Dir, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Calls with a growing buffer until the answer fits.
fn grown(mut call: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(512);
    loop {
        buffer.clear();
        match call(&mut buffer) {
            Err(Errno::RANGE) if buffer.capacity() < 1 << 20 => buffer.reserve(buffer.capacity() * 4),
            Err(e) => return Err(e),
            Ok(_) => return Ok(buffer),
        }
    }
}

fn collect(
    list: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>,
    mut get: impl FnMut(&[u8], &mut Vec<u8>) -> rustix::io::Result<usize>,
) -> io::Result<List> {
    let names = match grown(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(List::new()),
        Err(e) => return Err(e.into()),
    };
    let mut out = List::new();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        match grown(|buf| get(name, buf)) {
            Ok(value) => out.push((name.to_vec(), value)),
            // Gone since it was listed, or not for this user to read (`trusted.*`): not ours to keep.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    out.sort_unstable();
    Ok(out)
}
