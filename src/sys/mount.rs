//! What is mounted, and taking it away.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::sys::loop_device;

/// What this program's own mounts are called.
pub(crate) const OWN: &str = "yester";

/// What the names of images begin with that this program serves in its mounts.
pub(crate) const IMAGE: &str = ".yester-image-";

/// One mount, as `/proc/self/mountinfo` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The device that what is in it is on: major and minor number.
    pub(crate) device: (u32, u32),
    /// What of the file system is there: its path in that.
    pub(crate) root: Vec<u8>,
    /// Where it is.
    pub(crate) point: PathBuf,
    /// The type of file system: `fuse.yester`.
    pub(crate) kind: Vec<u8>,
    /// What is mounted: a device, or a name.
    pub(crate) source: Vec<u8>,
}

impl Mount {
    /// Whether it is an image that this program serves, and through which loop device.
    pub(crate) fn image(&self) -> Option<u32> {
        let (b"erofs", (loop_device::MAJOR, minor)) = (self.kind.as_slice(), self.device) else { return None };
        let file = loop_device::file_behind(minor)?;
        let name = file.rsplit(|&b| b == b'/').next().unwrap_or_default();
        name.starts_with(IMAGE.as_bytes()).then_some(minor)
    }

    /// Whether it is a FUSE file system called `name`: of the type `fuse.name`, or `fuse` where a program of others mounts.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        match self.kind.strip_prefix(b"fuse") {
            Some(b"") => self.source == name.as_bytes(),
            Some(kind) => kind.strip_prefix(b".") == Some(name.as_bytes()),
            None => false,
        }
    }
}

/// File systems whose files are on another machine (statfs(2)): NFS, SMB, SMB2, FUSE (sshfs and the like), Ceph, 9P, AFS.
const REMOTE: [i64; 7] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x00c3_6400, 0x0102_1997, 0x5346_414f];

/// Whether what is at `path` is on another machine, as far as the type of file system tells.
pub fn is_remote(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| REMOTE.contains(&{ found.f_type }))
}

/// All mounts that this process sees, in the order in which they were made.
pub fn table() -> io::Result<Vec<Mount>> {
    let bytes = std::fs::read("/proc/self/mountinfo")?;
    Ok(bytes.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /point options optional… - type source super-options`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let device = (device.0.parse().ok()?, device.1.parse().ok()?);
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mount {
        device,
        root,
        point: PathBuf::from(OsString::from_vec(point)),
        kind: unescape(fields.next()?),
        source: unescape(fields.next()?),
    })
}

/// Blanks, tabs, newlines and backslashes are `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(digits) => {
                out.push(digits.iter().fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// Unmounts the topmost mount at `point`; `lazily` even if it is in use or dead: it goes when nobody uses it any more.
pub fn unmount(point: &Path, lazily: bool) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    Ok(rustix::mount::unmount(point, flags)?)
}

/// Flags of a FUSE mount; it is always read-only, without devices and set-user-id bits, and keeps no times of access.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FuseFlags {
    pub(crate) noexec: bool,
    pub(crate) sync: bool,
    pub(crate) dirsync: bool,
}

/// Mounts a FUSE file system of the type `fuse.name` at `point`, and answers the connection on which its requests come.
pub(crate) fn mount_fuse(name: &str, point: &Path, options: &str, flags: FuseFlags) -> io::Result<OwnedFd> {
    let connection = File::options().read(true).write(true).open("/dev/fuse")?;
    let mut all = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    all.set(MountFlags::NOEXEC, flags.noexec);
    all.set(MountFlags::SYNCHRONOUS, flags.sync);
    all.set(MountFlags::DIRSYNC, flags.dirsync);
    let options = CString::new(format!("fd={},{options}", connection.as_raw_fd()))?;
    rustix::mount::mount(name, point, format!("fuse.{name}"), all, options.as_c_str())?;
    Ok(connection.into())
}

/// A device number from its two parts.
pub(crate) fn device((major, minor): (u32, u32)) -> u64 {
    rustix::fs::makedev(major, minor)
}

/// The number of the loop device with this minor number.
pub(crate) fn loop_device(minor: u32) -> u64 {
    rustix::fs::makedev(loop_device::MAJOR, minor)
}

/// How many bytes the kernel reads ahead in files of a device; root may set it.
pub fn set_read_ahead(device: u64, bytes: u64) -> io::Result<()> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), (bytes >> 10).to_string())
}

/// Ends the connection of a FUSE mount to the process that serves it, or did: the mount stays, and every
/// request that waits for an answer fails. For the user who mounted. Where there is no control file system (as in containers), root can
/// ask for it by unmounting with force; then the mount may be gone as well.
pub fn abort(device: u64, point: &Path) -> io::Result<()> {
    let minor = rustix::fs::minor(device);
    let aborted = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    let still = table()?.iter().rev().find(|mount| mount.point == point).is_some_and(|mount| mount.device == (0, minor));
    if aborted.is_err() && still {
        rustix::mount::unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE)?;
    }
    Ok(())
}

/// Whether what is mounted at `point` has lost the process that served it. Who may not look into the mount is told
/// that it has not.
pub fn is_dead(point: &Path) -> bool {
    // The kernel may answer `stat` from what it has kept; this it must ask. ECONNABORTED: aborted, not closed.
    matches!(rustix::fs::statvfs(point), Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// Whether an error says that something is in use.
pub fn is_busy(e: &io::Error) -> bool {
    e.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines() {
        let line = br"41 25 0:36 / /mnt/a\040b\134c rw,nosuid shared:1 master:2 - fuse.yester yester ro,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, (0, 36));
        assert!(mount.is_of("yester") && !mount.is_of("yest"));
        assert_eq!(mount.point, Path::new(r"/mnt/a b\c"));
        assert_eq!((mount.kind.as_slice(), mount.source.as_slice()), (&b"fuse.yester"[..], &b"yester"[..]));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 2 3"), None);
        assert!(table().unwrap().iter().any(|m| m.point == Path::new("/")));
    }
}
