//! Extended attributes, by open descriptor or, for what cannot be opened, through its directory.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use crate::sys::dir::Dir;

/// The most bytes that are taken of the attributes of one entry: there may be thousands of 64 KiB each.
const MOST: usize = 8 << 20;

/// Name and value of each attribute, sorted by name, each name once.
pub type XattrList = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes that could be read, and why others could not.
#[derive(Debug, Default)]
pub struct ReadXattrs {
    /// What could be read.
    pub(crate) list: XattrList,
    /// The first failure: of the names, or of a value, which it names.
    pub(crate) failed: Option<io::Error>,
}

impl ReadXattrs {
    fn whole(self) -> io::Result<XattrList> {
        self.failed.map_or(Ok(self.list), Err)
    }
}

/// The attributes of an open file or directory; empty where the file system has none.
pub fn list(fd: impl AsFd) -> io::Result<XattrList> {
    find(fd).whole()
}

/// The attributes of the entry `name` of `dir`, itself and not what it links to.
pub fn list_at(dir: &Dir, name: &[u8]) -> io::Result<XattrList> {
    find_at(dir, name).whole()
}

/// What can be read of the attributes of an open file or directory.
pub(crate) fn find(fd: impl AsFd) -> ReadXattrs {
    let fd = fd.as_fd();
    collect(|buf| fs::flistxattr(fd, spare_capacity(buf)), |name, buf| fs::fgetxattr(fd, name, spare_capacity(buf)))
}

/// What can be read of the attributes of an entry itself. Goes through `/proc/self/fd`, as the kernel has no `*xattrat`
/// before 6.13.
pub fn find_at(dir: &Dir, name: &[u8]) -> ReadXattrs {
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
) -> ReadXattrs {
    let mut out = ReadXattrs::default();
    let names = match grown(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP | Errno::NOSYS) => return out,
        Err(e) => return ReadXattrs { failed: Some(e.into()), ..out },
    };
    let mut names: Vec<&[u8]> = names.split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
    // A name may be listed twice while attributes change.
    names.sort_unstable();
    names.dedup();
    let mut size = 0;
    for name in names {
        match grown(|buf| get(name, buf)) {
            Ok(value) if size + name.len() + value.len() > MOST => {
                let text = format!("{}: all of them together have more than {} MiB", crate::model::escape(name), MOST >> 20);
                out.failed.get_or_insert_with(|| io::Error::other(text));
            }
            Ok(value) => {
                size += name.len() + value.len();
                out.list.push((name.to_vec(), value));
            }
            // Gone since it was listed, or not for this user to read (`trusted.*`): not ours to keep.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => {}
            Err(e) if out.failed.is_none() => {
                let text = format!("{}: {}", crate::model::escape(name), io::Error::from(e));
                out.failed = Some(io::Error::other(text));
            }
            Err(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attributes `user.a` and `user.b`, as calls would answer; `value` answers for each.
    fn two(value: impl Fn(&[u8]) -> rustix::io::Result<&'static [u8]>) -> ReadXattrs {
        let put = |bytes: &[u8], buf: &mut Vec<u8>| {
            buf.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        collect(|buf| put(b"user.b\0user.a\0", buf), |name, buf| put(value(name)?, buf))
    }

    #[test]
    fn one_that_cannot_be_read_costs_no_other() {
        let whole = two(|_| Ok(b"v")).whole().expect("both are read");
        assert_eq!(whole, [(b"user.a".to_vec(), b"v".to_vec()), (b"user.b".to_vec(), b"v".to_vec())]);
        let found = two(|name| if name == b"user.a" { Err(Errno::IO) } else { Ok(b"v") });
        assert_eq!(found.list, [(b"user.b".to_vec(), b"v".to_vec())]);
        assert!(found.failed.as_ref().is_some_and(|e| e.to_string().starts_with("user.a: ")), "{found:?}");
        assert!(found.whole().is_err());
        // What is not for this user to read, or gone by now, is no failure.
        for e in [Errno::NODATA, Errno::PERM, Errno::ACCESS, Errno::NOTSUP] {
            assert_eq!(two(|_| Err(e)).whole().expect("no failure"), []);
        }
    }

    #[test]
    fn one_that_is_listed_twice_is_there_once_and_too_much_is_told() {
        let put = |bytes: &[u8], buf: &mut Vec<u8>| {
            buf.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        let twice = collect(|buf| put(b"user.b\0user.a\0user.b\0", buf), |_, buf| put(b"v", buf)).whole().expect("both");
        assert_eq!(twice.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>(), [b"user.a", b"user.b"]);
        let many: Vec<u8> = (0..300).flat_map(|n| format!("user.{n:03}\0").into_bytes()).collect();
        let found = collect(|buf| put(&many, buf), |_, buf| put(&[7; 64 << 10], buf));
        assert!(found.failed.is_some() && found.list.len() < 128, "{}", found.list.len());
    }

    #[test]
    fn a_file_system_without_attributes_is_no_failure() {
        let answer = |e| collect(|_| Err(e), |_, _| Ok(0)).whole();
        assert!(answer(Errno::NOTSUP).is_ok_and(|list| list.is_empty()));
        assert!(answer(Errno::TOOBIG).is_err());
    }
}
