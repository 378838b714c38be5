//! What frees the readers of a mount whose process was killed.
//!
//! A process that is killed closes its files when its last thread has ended, and only then the kernel tells those who
//! read from its mount that nobody answers. But a thread that gives bytes to the kernel unasked (`FUSE_NOTIFY_STORE`)
//! waits for pages that a reader has asked for, and cannot be killed while it waits; when the thread that would have
//! answered the reader was killed, the two wait for each other for ever. So each mount has a second process that does
//! nothing but outlive the first: told by the kernel of its death (`PR_SET_PDEATHSIG`), it aborts the connection if
//! there is something left to abort. It ends with the mount.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;
use yester::sys::{mount, process};

/// What it has as its first argument, before the number of the process to outlive: no option, and in no help.
const MARK: &str = "--guard";
/// How long a killed process has to end by itself.
const GRACE: Duration = Duration::from_millis(200);
/// So long the guard waits for the last thread of a killed process: one may hang in the kernel.
const THREADS_END: Duration = Duration::from_secs(60);
/// Between two looks at these threads.
const PAUSE: Duration = Duration::from_millis(20);

/// The guard of a mount; ends when this is dropped.
pub struct MountGuard {
    process: Child,
    to: Option<ChildStdin>,
}

impl MountGuard {
    /// Starts one for this process, which must go on in the thread that calls this. `None` where that is refused: a
    /// mount works without.
    pub fn start() -> Option<MountGuard> {
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.arg(MARK).arg(process::id().to_string()).env_clear();
        let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        match started {
            Ok(mut process) => Some(MountGuard { to: process.stdin.take(), process }),
            Err(e) => {
                tracing::debug!("no guard for this mount: {e}");
                None
            }
        }
    }

    /// Tells it what is mounted where.
    pub fn watch(&mut self, point: &Path) {
        let (Ok(point), Some(to)) = (fs::canonicalize(point), self.to.as_mut()) else { return };
        let Some(device) = yester::mount::point::device(&point) else { return };
        let mut message = device.to_ne_bytes().to_vec();
        message.extend_from_slice(point.as_os_str().as_bytes());
        message.push(0);
        // It is gone: then the mount goes on without.
        let _ = to.write_all(&message);
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        drop(self.to.take());
        let _ = self.process.wait();
    }
}

/// Whether the arguments (the program's name first) are those of a guard, and of which process.
pub fn of(arguments: &[OsString]) -> Option<u32> {
    match arguments {
        [_, mark, process] if mark == MARK => process.to_str()?.parse().ok(),
        _ => None,
    }
}

/// Is the guard of `parent`, until that has ended in one way or the other.
pub fn run(parent: u32) {
    let _ = process::detach();
    let _ = std::env::set_current_dir("/");
    let Ok(mut signals) = Signals::new([SIGUSR1]) else { return };
    if process::signal_at_end_of_parent().is_err() || process::parent() != Some(parent) {
        return;
    }
    let watched = Arc::new(Mutex::new(None));
    let told = watched.clone();
    let listener = move || {
        let mut message = Vec::new();
        let mut byte = [0];
        while let Ok(1) = std::io::stdin().read(&mut byte) {
            match byte {
                [0] if message.len() > 8 => *told.lock() = parse(&message),
                [byte] => message.push(byte),
            }
        }
        // It has unmounted, and waits for this process.
        std::process::exit(0);
    };
    if std::thread::Builder::new().spawn(listener).is_err() {
        return;
    }
    for _ in signals.forever() {
        std::thread::sleep(GRACE);
        // A signal from another process does not end the mount.
        if process::start_time(parent).is_none() {
            break;
        }
    }
    let watched = watched.lock().take();
    let Some((device, point)) = watched else { return };
    if process::has_threads(parent) {
        let _ = mount::abort(device, &point);
    }
    // What covers the mount's root would go on showing what the kernel has of it. A thread of the process may still be
    // mounting an image in the kernel: so this is done again when all have ended.
    let end = Instant::now() + THREADS_END;
    loop {
        let last = !process::has_threads(parent) || Instant::now() >= end;
        // Another mount may be there by now: its images are not this one's.
        if yester::mount::point::device(&point) != Some(device) {
            break;
        }
        yester::mount::point::remove_images(&point, true);
        if last {
            break;
        }
        std::thread::sleep(PAUSE);
    }
}

/// A device number, and where it is mounted.
fn parse(message: &[u8]) -> Option<(u64, PathBuf)> {
    let (device, point) = message.split_first_chunk()?;
    Some((u64::from_ne_bytes(*device), PathBuf::from(OsString::from_vec(point.to_vec()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_a_guard() {
        let arguments = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(of(&arguments(&["yester", "--guard", "17"])), Some(17));
        for none in [&["yester", "--guard"][..], &["yester", "--guard", "x"], &["yester", "mount", "--guard"], &["yester"]] {
            assert_eq!(of(&arguments(none)), None, "{none:?}");
        }
    }
}
