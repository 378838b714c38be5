//! Removing a directory with all that is in it, whatever its depth; never through a link or a mount.

use std::io;

use crate::sys::dir::{self, LOCKS};
use crate::sys::{Dir, FileKind};

/// A directory on the way down.
struct Emptied {
    name: Vec<u8>,
    /// Device and inode of the one above.
    above: ((u32, u32), u64),
    /// Directories in it that were not emptied yet.
    left: Vec<Vec<u8>>,
}

/// Removes the entry `name` of `dir`; it is no error where there is none.
pub(crate) fn remove(dir: &Dir, name: &[u8]) -> io::Result<()> {
    match dir.stat(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(stat) if stat.kind != FileKind::Directory => return remove_entry(dir, name),
        Ok(_) => {}
    }
    let (mut at, mut stack) = (enter(dir, name)?, Vec::new());
    let mut level = opened(dir, &at, name)?;
    loop {
        if let Some(next) = level.left.pop() {
            let below = enter(&at, &next)?;
            let inner = opened(&at, &below, &next)?;
            stack.push(std::mem::replace(&mut level, inner));
            at = below;
            continue;
        }
        let Some(above) = stack.pop() else { return dir.remove_dir(name) };
        let (device, inode) = level.above;
        at = at.open_above(device, inode)?;
        at.remove_dir(&level.name)?;
        level = above;
    }
}

fn enter(dir: &Dir, name: &[u8]) -> io::Result<Dir> {
    let opened = match dir.open_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            dir.set_mode(name, 0o700)?;
            dir.open_dir(name)
        }
        opened => opened,
    }?;
    let stat = opened.stat_self()?;
    if stat.mount_root {
        return Err(io::Error::other("something is mounted in it: unmount that first"));
    }
    if stat.locked {
        unlock(&opened)?;
    }
    if stat.mode & 0o700 != 0o700 {
        opened.set_mode_self(0o700)?;
    }
    Ok(opened)
}

fn unlock(what: impl std::os::fd::AsFd) -> io::Result<()> {
    let flags = dir::flags(what.as_fd())?;
    dir::set_flags(what.as_fd(), flags & !LOCKS)
}

/// Removes what is no directory in `dir`; answers what is left.
fn opened(above: &Dir, dir: &Dir, name: &[u8]) -> io::Result<Emptied> {
    let stat = above.stat_self()?;
    let listing = dir.list()?;
    let mut left = Vec::new();
    for number in 0..listing.len() {
        let entry = listing.name(number);
        let kind = match listing.kind(number) {
            FileKind::Unknown => dir.stat(entry)?.kind,
            kind => kind,
        };
        match kind {
            FileKind::Directory => left.push(entry.to_vec()),
            _ => remove_entry(dir, entry)?,
        }
    }
    Ok(Emptied { name: name.to_vec(), above: (stat.device, stat.inode), left })
}

fn remove_entry(dir: &Dir, name: &[u8]) -> io::Result<()> {
    match dir.remove(name) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && dir.stat(name)?.locked => {
            unlock(dir.open_file(name)?)?;
            dir.remove(name)
        }
        done => done,
    }
}
