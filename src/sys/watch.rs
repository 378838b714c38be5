//! Being told that something came into a directory, or went.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// Directories that are watched, until the stop is dropped.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    events: OwnedFd,
    stopped: OwnedFd,
}

/// Ends a watch when it is dropped.
#[derive(Debug)]
pub(crate) struct StopWatch(#[allow(dead_code)] OwnedFd);

impl DirectoryWatch {
    /// Watches those of `directories` that are there. Errors: none is, or the system has no more watches.
    pub(crate) fn new(directories: &[&Path]) -> io::Result<(DirectoryWatch, StopWatch)> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
        let mut last = Err(Errno::NOENT);
        for directory in directories {
            match inotify::add_watch(&events, *directory, flags | WatchFlags::ONLYDIR) {
                Ok(_) => last = Ok(()),
                Err(e) if last.is_err() => last = Err(e),
                Err(_) => {}
            }
        }
        last?;
        Ok((DirectoryWatch { events, stopped }, StopWatch(stop)))
    }

    /// Waits until something comes or goes; false when the watch is to end.
    pub(crate) fn wait(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.events, PollFlags::IN), PollFd::new(&self.stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => return Ok(true),
            other => other?,
        };
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut room);
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_told_and_the_end_too() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DirectoryWatch::new(&[&dir.path().join("none")]).is_err());
        let (watch, stop) = DirectoryWatch::new(&[&dir.path().join("none"), dir.path()]).unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        assert!(watch.wait().unwrap());
        drop(stop);
        assert!(!watch.wait().unwrap());
    }
}
