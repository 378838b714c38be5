//! Locks on directories and files (`flock`), and whether an error says that a file system does not know a call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
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

/// How often a lock is asked for that somebody has.
const LOOK: Duration = Duration::from_millis(20);

/// A lock without a name that one command has at a time: as long as it lives, whatever becomes of whoever started it. Who is
/// given the [`file`](CommandLock::file) of it can wait for that.
#[derive(Debug)]
pub struct CommandLock(File);

impl CommandLock {
    /// A new one, which nobody has.
    pub fn new() -> io::Result<Self> {
        Ok(CommandLock(File::from(memfd_create("lock", MemfdFlags::CLOEXEC)?)))
    }

    /// The one that another process has handed to this one.
    pub fn of(file: File) -> Self {
        CommandLock(file)
    }

    /// What can be handed to another process. Having it is not having the lock.
    pub fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Takes the lock: it is had until the file, which is empty, and what it was handed to are closed. Waits no longer than
    /// `wait`; `None`: somebody has it all that time.
    pub fn take(&self, wait: Duration) -> io::Result<Option<File>> {
        // The lock belongs to what was opened: each needs one of its own.
        let own = File::open(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?;
        let began = Instant::now();
        loop {
            if try_lock_file(&own)? {
                return Ok(Some(own));
            }
            if began.elapsed() >= wait {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Whether the file system does not know a call or a flag of it, rather than being unable to do it this time.
pub(crate) fn is_unknown(e: &io::Error) -> bool {
    let unknown = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTTY, Errno::PERM, Errno::MLINK];
    Errno::from_io_error(e).is_some_and(|e| unknown.contains(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_its_lock_as_long_as_it_lives() {
        let lock = CommandLock::new().expect("a lock");
        let handed = CommandLock::of(lock.file().expect("a file"));
        let held = lock.take(Duration::ZERO).expect("taking").expect("nobody has it");
        let mut child = std::process::Command::new("sleep").arg("1000").stdin(held).spawn().expect("a command");
        assert!(handed.take(Duration::ZERO).expect("taking").is_none());
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert!(handed.take(Duration::from_secs(3600)).expect("taking").is_some());
    }
}
