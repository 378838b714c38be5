//! What is immutable or append-only: `chattr` flags `i` and `a` of what is there already, which root takes away for as
//! long as it takes to put things right.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::restore::run::RestoreRun;
use crate::sys::dir::{self, LOCKS};
use crate::sys::{Dir, FileKind, Stat};

/// An entry that is changeable until this goes: then it has its flags again. It may have other names, which are not
/// this run's to change, or have been removed.
#[derive(Debug)]
pub(crate) struct FlagsGuard {
    file: File,
    flags: u32,
}

impl Drop for FlagsGuard {
    fn drop(&mut self) {
        // It could be set before, and nobody can be told of more than that.
        let _ = dir::set_flags(&self.file, self.flags);
    }
}

fn may(run: &RestoreRun<'_>, stat: &Stat) -> bool {
    // Nothing else has flags, and a device must not be opened.
    let kind = matches!(stat.kind, FileKind::File | FileKind::Directory);
    stat.locked && kind && run.privileged && !run.options.dry_run
}

/// Makes the entry `name`, of which `stat` is known, changeable for a while. What fails is told by the change.
pub(crate) fn lift(run: &RestoreRun<'_>, dir: &Dir, name: &[u8], stat: &Stat) -> Option<FlagsGuard> {
    if !may(run, stat) {
        return None;
    }
    let file = open(dir, name, stat).ok()?;
    let flags = clear_open(&file).ok()?;
    Some(FlagsGuard { file, flags })
}

/// Makes the entry `name`, of which `stat` is known, changeable; answers which flags were cleared.
pub(crate) fn clear(run: &RestoreRun<'_>, dir: &Dir, name: &[u8], stat: &Stat) -> u32 {
    if !may(run, stat) {
        return 0;
    }
    open(dir, name, stat).and_then(|file| clear_open(&file)).unwrap_or(0) & LOCKS
}

/// Makes an open directory, of which `stat` is known, changeable; answers which flags were cleared.
pub(crate) fn clear_dir(run: &RestoreRun<'_>, dir: &Dir, stat: &Stat) -> u32 {
    if may(run, stat) { clear_open(dir).unwrap_or(0) & LOCKS } else { 0 }
}

/// Gives an open directory flags back that were cleared.
pub(crate) fn restore_dir(dir: &Dir, locks: u32) -> io::Result<()> {
    let have = dir::flags(dir)?;
    if have & locks == locks { Ok(()) } else { dir::set_flags(dir, have | locks) }
}

/// The entry itself, if it is still what `stat` says.
fn open(dir: &Dir, name: &[u8], stat: &Stat) -> io::Result<File> {
    let file = dir.open_file(name)?;
    let now = dir::stat(&file)?;
    match (now.device, now.inode) == (stat.device, stat.inode) {
        true => Ok(file),
        false => Err(io::Error::other("it was replaced meanwhile")),
    }
}

/// Clears both flags; answers all that there were.
fn clear_open(fd: impl AsFd) -> io::Result<u32> {
    let fd = fd.as_fd();
    let flags = dir::flags(fd)?;
    dir::set_flags(fd, flags & !LOCKS)?;
    Ok(flags)
}
