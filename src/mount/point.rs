//! Mount points: which may be mounted on, what is dead and must go, and unmounting.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::model::escape;
use crate::sys::{loop_device, mount as system, process};

/// The name under which mounts are listed.
pub(crate) const NAME: &str = system::OWN;
/// Dead mounts that may lie on top of each other.
const STACK: usize = 16;
/// A loop device lets go of its file within this when nobody uses it.
const LETTING_GO: Duration = Duration::from_secs(2);
/// Before something is tried again.
const MOMENT: Duration = Duration::from_millis(50);
/// A mount whose process does not answer for so long is alive: it is stopped, or overloaded.
const PATIENCE: Duration = Duration::from_secs(2);

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The absolute path of a mount point without links. A mount of ours is not asked: its process may be dead, or stopped,
/// and another user may not look into it.
fn resolve(point: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(point)?;
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) {
        let place = fs::canonicalize(parent)?.join(name);
        if system::table()?.iter().any(|mount| mount.point == place && is_ours(mount)) {
            return Ok(place);
        }
    }
    fs::canonicalize(point)
}

/// Whether the mount at `point` has lost its process.
pub(crate) fn is_dead(point: &Path) -> bool {
    let (answer, wait) = crossbeam_channel::bounded(1);
    let point = point.to_owned();
    // A process that is stopped would keep this one waiting; then the thread is left behind.
    let asked = std::thread::Builder::new().name("mount-ask".to_owned()).spawn(move || answer.send(system::is_dead(&point)));
    asked.is_ok() && wait.recv_timeout(PATIENCE).unwrap_or(false)
}

/// The topmost mount at `point`.
fn mounted(point: &Path) -> Result<Option<system::Mount>> {
    let table = system::table().map_err(|e| Error::io("cannot read /proc/self/mountinfo", e))?;
    Ok(table.into_iter().rev().find(|mount| mount.point == point))
}

fn is_ours(mount: &system::Mount) -> bool {
    mount.is_of(NAME) || mount.image().is_some()
}

/// The number of the device of the FUSE mount at `point` (absolute), which an image may cover.
pub fn device(point: &Path) -> Option<u64> {
    let table = system::table().ok()?;
    let mount = table.into_iter().rev().find(|mount| mount.point == point && mount.is_of(NAME))?;
    Some(system::device(mount.device))
}

/// Takes away the images that cover `point` (absolute) and what is below it; `by_force` also those that are in use.
/// Whether all are gone.
pub fn remove_images(point: &Path, by_force: bool) -> bool {
    let images = || {
        let table = system::table().unwrap_or_default();
        let below = table.into_iter().filter(|mount| mount.point.starts_with(point));
        below.filter_map(|mount| mount.image().map(|minor| (mount.point, minor))).collect::<Vec<_>>()
    };
    // What was mounted last first.
    for (place, minor) in images().into_iter().rev() {
        if detach(&place, false).is_ok() {
            loop_device::wait_until_free(minor, LETTING_GO);
        } else if by_force {
            // Or somebody else has taken it away meanwhile.
            let _ = detach(&place, true);
        }
    }
    images().is_empty()
}

/// Takes away the images of a mount that works, if they are not in use any more at `end`. Below one that has lost its
/// process no path leads to them: they go with it.
fn clear_images(point: &Path, end: Instant) -> Result<()> {
    while !remove_images(point, false) && !is_dead(point) {
        if Instant::now() >= end {
            return Err(busy(&shown(point)));
        }
        std::thread::sleep(MOMENT);
    }
    Ok(())
}

/// Checks that `point` can be mounted on, and clears it of dead mounts of ours. Answers its absolute path.
pub fn prepare(point: &Path, avoid: &[PathBuf]) -> Result<PathBuf> {
    let name = shown(point);
    let resolved = resolve(point).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("the mount point {name} does not exist (make it with: mkdir {name})"))
        }
        _ => Error::io(format!("cannot use {name} as a mount point"), e),
    })?;
    for _ in 0..STACK {
        match mounted(&resolved)? {
            // An image answers also when the process of the mount is dead, so it is taken off: the mount below it tells. A
            // mount that lives goes on without the image.
            Some(mount) if mount.image().is_some() && detach(&resolved, false).is_ok() => {}
            Some(mount) if is_ours(&mount) && is_dead(&resolved) => detach(&resolved, true)?,
            Some(mount) if is_ours(&mount) => {
                let text = format!("there is a yester mount at {name} already (unmount it with: yester umount {name})");
                return Err(Error::new(ErrorKind::Exists, text));
            }
            _ => break,
        }
    }
    let listed = fs::read_dir(&resolved).map_err(|e| match e.kind() {
        io::ErrorKind::NotADirectory => Error::invalid(format!("the mount point {name} is not a directory")),
        _ => Error::io(format!("cannot use {name} as a mount point"), e),
    });
    if listed?.next().is_some() {
        return Err(Error::invalid(format!("the mount point {name} is not empty: mounting would hide what is in it")));
    }
    for directory in avoid.iter().filter_map(|d| fs::canonicalize(d).ok()) {
        if resolved.starts_with(&directory) || directory.starts_with(&resolved) {
            let text = format!("the mount point {name} and {} are in each other: choose another mount point", shown(&directory));
            return Err(Error::invalid(text));
        }
    }
    Ok(resolved)
}

/// Checks that this user can mount with FUSE on this system.
pub fn check_system() -> Result<()> {
    let root = process::user() == 0;
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) if root => Ok(()),
        Ok(_) => helper().map(|_| ()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let text = "there is no /dev/fuse: load the module with: modprobe fuse (a container needs: --device /dev/fuse)";
            Err(Error::new(ErrorKind::Unsupported, text))
        }
        Err(e) if root => Err(Error::io("cannot open /dev/fuse (a container needs: --device /dev/fuse --cap-add SYS_ADMIN)", e)),
        // fusermount3 opens it with the rights of its caller.
        Err(e) => Err(Error::io("cannot open /dev/fuse (let users mount with, as root: chmod 666 /dev/fuse)", e)),
    }
}

/// The program that mounts for those who are not root.
fn helper() -> Result<&'static str> {
    let runs = |name: &&str| Command::new(name).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    ["fusermount3", "fusermount"].into_iter().find(runs).ok_or_else(|| {
        let text = "mounting without being root needs fusermount3 (on Debian and Ubuntu: apt install fuse3)";
        Error::new(ErrorKind::Unsupported, text)
    })
}

/// Takes away what a session left at `point` (absolute) when it ended: a dead mount, or, if it is known to serve nobody,
/// a mount that only seems alive. What others mounted there since stays.
pub fn clear(point: &Path, broken: bool) -> Result<()> {
    match mounted(point)? {
        Some(mount) if is_ours(&mount) && (broken || is_dead(point)) => detach(point, true),
        _ => Ok(()),
    }
}

/// Unmounts the yester mount at `point`: one that works, or what a killed one left behind.
pub fn unmount(point: &Path) -> Result<()> {
    let name = shown(point);
    let resolved = resolve(point).map_err(|e| Error::io(format!("cannot unmount {name}"), e))?;
    let end = Instant::now() + LETTING_GO;
    if mounted(&resolved)?.is_some_and(|mount| is_ours(&mount)) {
        clear_images(&resolved, end)?;
    }
    let mut count = 0;
    loop {
        match mounted(&resolved)? {
            Some(mount) if is_ours(&mount) => {
                // One is asked for; dead ones below it go as well.
                if count > 0 && !is_dead(&resolved) {
                    return Ok(());
                }
                match detach(&resolved, false) {
                    Err(e) if e.kind() == ErrorKind::Busy && is_dead(&resolved) => detach(&resolved, true)?,
                    // An image that is being made just now, or that a loop device has not let go of yet.
                    Err(e) if e.kind() == ErrorKind::Busy && loop_device::holds(&resolved) && Instant::now() < end => {
                        std::thread::sleep(MOMENT);
                        clear_images(&resolved, end)?;
                        continue;
                    }
                    other => other?,
                }
            }
            _ if count > 0 => return Ok(()),
            Some(mount) => {
                let text = format!("{name} is a mount of {}, not of yester: it is left as it is", escape(&mount.kind));
                return Err(Error::invalid(text));
            }
            None => return Err(Error::new(ErrorKind::NotFound, format!("nothing is mounted at {name}"))),
        }
        count += 1;
        if count == STACK {
            return Err(Error::new(ErrorKind::Busy, format!("{name} is mounted again and again")));
        }
    }
}

/// Takes away the topmost mount at `point` (absolute): by the system call, or through fusermount3 for those who may
/// not.
pub fn detach(point: &Path, lazily: bool) -> Result<()> {
    let name = shown(point);
    match system::unmount(point, lazily) {
        Ok(()) => Ok(()),
        Err(e) if system::is_busy(&e) => Err(busy(&name)),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => detach_by_helper(point, lazily),
        Err(e) => Err(Error::io(format!("cannot unmount {name}"), e)),
    }
}

fn busy(name: &str) -> Error {
    let text = format!("{name} is in use: leave its directories and close its files, then try again (see: fuser -vm {name})");
    Error::new(ErrorKind::Busy, text)
}

fn detach_by_helper(point: &Path, lazily: bool) -> Result<()> {
    let name = shown(point);
    let program = helper()?;
    let flags: &[&str] = if lazily { &["-u", "-z"] } else { &["-u"] };
    let output = Command::new(program).args(flags).arg("--").arg(point).stdin(Stdio::null()).output();
    let output = output.map_err(|e| Error::io(format!("cannot start {program}"), e))?;
    if output.status.success() {
        return Ok(());
    }
    let text = escape(output.stderr.trim_ascii());
    if text.contains("busy") {
        return Err(busy(&name));
    }
    Err(Error::new(ErrorKind::Io, format!("cannot unmount {name}: {text}")))
}
