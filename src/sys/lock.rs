//! Locks on directories and files (`flock`), and whether an error says that a file system does not know a call.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::sys::Dir;

/// Locks a directory against all who lock it on this host, until the result is dropped. Waits for them.
pub(crate) fn lock(dir: &Dir) -> io::Result<Dir> {
    // The lock belongs to the descriptor: each needs one of its own.
    let own = dir.open_below(b"")?;
    flock(&own, FlockOperation::LockExclusive)?;
    Ok(own)
}

/// Locks a directory as [`lock`] does, without waiting: `None` if somebody else has it.
pub(crate) fn try_lock(dir: &Dir) -> io::Result<Option<Dir>> {
    let own = dir.open_below(b"")?;
    match flock(&own, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(own)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Locks a file against all who lock it on this host, until it and what it was handed to are closed. False: somebody has it.
pub(crate) fn try_lock_file(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether the file system does not know a call or a flag of it, rather than being unable to do it this time.
pub(crate) fn is_unknown(e: &io::Error) -> bool {
    let unknown = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTTY, Errno::PERM, Errno::MLINK];
    Errno::from_io_error(e).is_some_and(|e| unknown.contains(&e))
}
