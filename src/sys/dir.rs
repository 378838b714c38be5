//! Directories as open descriptors, and what can be done below them without following a link.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::model::Timestamp;
use crate::sys::open_file::{owner, timestamps};

pub use crate::sys::open_file::*;

/// The kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// Something this program does not know.
    Unknown,
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::Unknown => FileKind::Unknown,
        }
    }
}

/// What `statx` says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its kind.
    pub kind: FileKind,
    /// `st_mode & 0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks that are allocated.
    pub blocks: u64,
    /// Content changed.
    pub mtime: Timestamp,
    /// Inode changed.
    pub ctime: Timestamp,
    /// Born, where the file system knows.
    pub birth: Option<Timestamp>,
    /// Inode number.
    pub inode: u64,
    /// Device the entry is on: major and minor number.
    pub device: (u32, u32),
    /// Names of the inode.
    pub links: u32,
    /// Device number of a device node.
    pub rdev: (u32, u32),
    /// Whether it is immutable or append-only (`chattr` flags `i` and `a`), where the file system tells.
    pub(crate) locked: bool,
    /// Whether something is mounted here: it is the root of a mount.
    pub(crate) mount_root: bool,
}

/// The names in a directory, in one buffer.
#[derive(Debug, Default)]
pub struct Listing {
    bytes: Vec<u8>,
    names: Vec<(u32, u16, FileKind)>,
}

impl Listing {
    /// How many names there are (`.` and `..` are not among them).
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the directory is empty.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Name number `at`.
    pub fn name(&self, at: usize) -> &[u8] {
        let (start, len, _) = self.names[at];
        &self.bytes[start as usize..start as usize + usize::from(len)]
    }

    /// The kind that the directory itself tells of entry `at`; `Unknown` where it does not.
    pub fn kind(&self, at: usize) -> FileKind {
        self.names[at].2
    }

    /// Whether `name` is among them.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        let of = |entry: &(u32, u16, FileKind)| &self.bytes[entry.0 as usize..entry.0 as usize + usize::from(entry.1)];
        self.names.binary_search_by(|entry| of(entry).cmp(name)).is_ok()
    }

    /// Sorts by the bytes of the names, and drops names that are there already: some file systems give a name twice while
    /// their directory changes.
    fn sort(&mut self) {
        let Listing { bytes, names } = self;
        let name = |entry: &(u32, u16, FileKind)| &bytes[entry.0 as usize..entry.0 as usize + usize::from(entry.1)];
        names.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        names.dedup_by(|a, b| name(a) == name(b));
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// The `chattr` flags that a user sets (`FS_FL_USER_MODIFIABLE`, without those that only an empty file takes or that
/// tell how the file system stores the data).
pub const USER_FLAGS: u32 = 0x0000_0001 // s: secure deletion
    | 0x0000_0002 // u: undelete
    | 0x0000_0004 // c: compress
    | 0x0000_0008 // S: synchronous
    | 0x0000_0010 // i: immutable
    | 0x0000_0020 // a: append only
    | 0x0000_0040 // d: no dump
    | 0x0000_0080 // A: no access time
    | 0x0000_0400 // m: do not compress
    | 0x0000_4000 // j: data journal
    | 0x0000_8000 // t: no tail merging
    | 0x0001_0000 // D: synchronous directory
    | 0x0002_0000 // T: top of a hierarchy
    | 0x0080_0000 // C: no copy on write
    | 0x2000_0000; // P: project is inherited

/// `i` and `a`: what has one of them cannot be changed, removed, renamed or linked until root clears it.
pub(crate) const LOCKS: u32 = 0x0000_0010 | 0x0000_0020;

/// `c`, `m` and `C`: they say how data is written, and a file system may take them only while a file is empty.
pub(crate) const EARLY_FLAGS: u32 = 0x0000_0004 | 0x0000_0400 | 0x0080_0000;

/// Kinds of file systems, as `statfs` tells them.
const EXT4: u64 = 0xef53;
const TMPFS: u64 = 0x0102_1994;
const F2FS: u64 = 0xf2f5_2010;
const BTRFS: u64 = 0x9123_683e;
/// `F`: names in the directory are folded.
const FOLDS: u32 = 0x4000_0000;

/// The longest path that is opened at once: below `PATH_MAX`.
const LONGEST: usize = 3800;

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens a directory by path, of any length; links are followed (the path is the user's own).
    pub fn open(path: &Path) -> io::Result<Dir> {
        let path = path.as_os_str().as_bytes();
        if path.len() <= LONGEST {
            return Ok(Dir(fs::open(path, OPEN_DIR, Mode::empty())?));
        }
        let start = if path.starts_with(b"/") { "/" } else { "." };
        let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let open = |from: &Dir, path: &[u8]| Ok(Dir(fs::openat(&from.0, path, OPEN_DIR, Mode::empty())?));
        in_pieces(&Dir(fs::open(start, OPEN_DIR, Mode::empty())?), names, open)
    }

    /// Opens the entry `name`, which must be a directory and not a link to one.
    pub fn open_dir(&self, name: &[u8]) -> io::Result<Dir> {
        Ok(Dir(fs::openat(&self.0, name, OPEN_DIR | OFlags::NOFOLLOW, Mode::empty())?))
    }

    /// Opens the entry `name`, which may be a link to a directory: it is followed.
    pub fn open_dir_following(&self, name: &[u8]) -> io::Result<Dir> {
        Ok(Dir(fs::openat(&self.0, name, OPEN_DIR, Mode::empty())?))
    }

    /// Opens a directory several levels below: links, `..` and mount tricks on the way are refused by the kernel
    /// (`openat2`). An empty path is this directory.
    pub fn open_below(&self, path: &[u8]) -> io::Result<Dir> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(Dir(fs::openat2(&self.0, path, OPEN_DIR, Mode::empty(), resolve)?))
    }

    /// Opens a directory any number of levels below, as [`Dir::open_below`] does: a piece of the path at a time where it is
    /// longer than the kernel takes.
    pub fn open_far_below<'n>(&self, names: impl Iterator<Item = &'n [u8]>) -> io::Result<Dir> {
        in_pieces(self, names, Dir::open_below)
    }

    /// Opens the directory that this one is in, which must be `device` and `inode`: it may have been moved meanwhile.
    pub fn open_above(&self, device: (u32, u32), inode: u64) -> io::Result<Dir> {
        let above = Dir(fs::openat(&self.0, "..", OPEN_DIR, Mode::empty())?);
        above.must_be(device, inode)
    }

    /// Answers this directory if it is `device` and `inode`, and an error otherwise.
    pub fn must_be(self, device: (u32, u32), inode: u64) -> io::Result<Dir> {
        let stat = self.stat_self()?;
        match (stat.device, stat.inode) == (device, inode) {
            true => Ok(self),
            false => Err(io::Error::other("it was moved or replaced meanwhile")),
        }
    }

    /// Another descriptor of the same directory.
    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir(self.0.try_clone()?))
    }

    /// The names in it, sorted by their bytes. Reads through a descriptor of its own: the position in a directory
    /// belongs to the descriptor, and several threads may list at once.
    pub fn list(&self) -> io::Result<Listing> {
        self.open_below(b"")?.list_once()
    }

    /// The names in it that `wanted` lets pass, in no order.
    pub fn find(&self, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        self.open_below(b"")?.each(|name, _| {
            if wanted(name) {
                found.push(name.to_vec())
            }
        })?;
        Ok(found)
    }

    /// The names in it, for a directory that was just opened and is listed no second time.
    pub fn list_once(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        self.each(|name, kind| {
            listing.names.push((listing.bytes.len() as u32, name.len() as u16, kind));
            listing.bytes.extend_from_slice(name);
        })?;
        listing.sort();
        Ok(listing)
    }

    fn each(&self, mut take: impl FnMut(&[u8], FileKind)) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                take(name, entry.file_type().into());
            }
        }
        Ok(())
    }

    /// Adds the next names in it to `out`, some hundred of them; false when there are no more. Goes on where the last
    /// call for this descriptor stopped. A file system may give a name twice while the directory changes.
    pub fn next_names(&self, out: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                out.push(name.to_vec());
            }
            if entries.is_buffer_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `statx` of an entry, not following a link.
    pub fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        statx(self.0.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// `statx` of the directory itself.
    pub fn stat_self(&self) -> io::Result<Stat> {
        statx(self.0.as_fd(), b"", AtFlags::EMPTY_PATH)
    }

    /// Opens a regular file for reading. Never follows a link, never waits for a fifo, takes no terminal; leaves the
    /// access time alone where the kernel lets it.
    pub fn open_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match fs::openat(&self.0, name, flags | OFlags::NOATIME, Mode::empty()) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::PERM) => Ok(File::from(fs::openat(&self.0, name, flags, Mode::empty())?)),
            Err(e) => Err(e.into()),
        }
    }

    /// Creates a file that must not exist, for reading and writing, with `mode`.
    pub fn create_file(&self, name: &[u8], mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(&self.0, name, flags, Mode::from_raw_mode(mode))?))
    }

    /// Opens an existing regular file for writing.
    pub fn open_for_writing(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(&self.0, name, flags, Mode::empty())?))
    }

    /// A link's target.
    pub fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(fs::readlinkat(&self.0, name, Vec::with_capacity(256))?.into_bytes())
    }

    /// Makes a directory.
    pub fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        Ok(fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?)
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        Ok(fs::symlinkat(target, &self.0, name)?)
    }

    /// Makes `name` in `to` another name of `old` here; a link is linked itself, never followed.
    pub fn make_link(&self, old: &[u8], to: &Dir, name: &[u8]) -> io::Result<()> {
        Ok(fs::linkat(&self.0, old, &to.0, name, AtFlags::empty())?)
    }

    /// Makes a fifo, socket or device node.
    pub fn make_node(&self, name: &[u8], kind: FileKind, rdev: (u32, u32)) -> io::Result<()> {
        let kind = match kind {
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(fs::mknodat(&self.0, name, kind, Mode::from_raw_mode(0o600), fs::makedev(rdev.0, rdev.1))?)
    }

    /// Renames within this directory, replacing what has the new name.
    pub fn rename(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        Ok(fs::renameat(&self.0, old, &self.0, new)?)
    }

    /// Renames within this directory; `AlreadyExists` when the new name is taken.
    pub fn rename_new(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        Ok(fs::renameat_with(&self.0, old, &self.0, new, RenameFlags::NOREPLACE)?)
    }

    /// Exchanges two entries of this directory in one step.
    pub fn exchange(&self, one: &[u8], other: &[u8]) -> io::Result<()> {
        Ok(fs::renameat_with(&self.0, one, &self.0, other, RenameFlags::EXCHANGE)?)
    }

    /// Renames into another directory; `AlreadyExists` when the new name is taken, where the file system knows that call.
    pub fn rename_new_to(&self, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
        match fs::renameat_with(&self.0, old, &to.0, new, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match to.stat(new) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => Ok(fs::renameat(&self.0, old, &to.0, new)?),
            },
            done => Ok(done?),
        }
    }

    /// Removes an entry that is not a directory.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Sets owner and group of an entry, not following a link.
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid)?;
        Ok(fs::chownat(&self.0, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the mode of an entry that is not a link; a link is refused, never followed. Goes through a descriptor of
    /// the entry and `/proc/self/fd`, as `fchmodat` follows links and kernels before 6.6 have no other.
    pub fn set_mode(&self, name: &[u8], mode: u16) -> io::Result<()> {
        let entry = fs::openat(&self.0, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if stat(&entry)?.kind == FileKind::Symlink {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
        Ok(fs::chmod(path.as_str(), Mode::from_raw_mode(u32::from(mode)))?)
    }

    /// Sets the modification time of an entry (the access time becomes the same), not following a link.
    pub fn set_mtime(&self, name: &[u8], time: Timestamp) -> io::Result<()> {
        Ok(fs::utimensat(&self.0, name, &timestamps(time), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the directory's own modification time.
    pub fn set_mtime_self(&self, time: Timestamp) -> io::Result<()> {
        set_mtime(&self.0, time)
    }

    /// Sets the directory's own mode.
    pub fn set_mode_self(&self, mode: u16) -> io::Result<()> {
        Ok(fs::fchmod(&self.0, Mode::from_raw_mode(u32::from(mode)))?)
    }

    /// Sets the directory's own owner and group.
    pub fn set_owner_self(&self, uid: u32, gid: u32) -> io::Result<()> {
        set_owner(&self.0, uid, gid)
    }

    /// Makes what was created, renamed and removed in it durable; syncs everything where directories cannot be synced.
    pub fn sync(&self) -> io::Result<()> {
        match fs::fsync(&self.0) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.sync_file_system(),
            other => Ok(other?),
        }
    }

    /// Makes everything on the directory's file system durable.
    pub fn sync_file_system(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.0)?)
    }

    /// Whether each name in it is surely a name of its own: it is of a kind of file system that tells them apart, or does
    /// so unless the directory says otherwise.
    pub(crate) fn tells_names_apart(&self) -> bool {
        match fs::fstatfs(&self.0).map(|s| s.f_type as u64 & 0xffff_ffff) {
            Ok(BTRFS) => true,
            Ok(EXT4 | TMPFS | F2FS) => flags(&self.0).is_ok_and(|flags| flags & FOLDS == 0),
            _ => false,
        }
    }

    /// Free entries of the file system; `u64::MAX` where it makes as many as it likes.
    pub fn free_entries(&self) -> io::Result<u64> {
        let s = fs::fstatvfs(&self.0)?;
        Ok(if s.f_files == 0 { u64::MAX } else { s.f_favail })
    }

    /// Free and total bytes of the file system, for those who are not root.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        let s = fs::fstatvfs(&self.0)?;
        Ok((s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize)))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens `names` below `start`, several at a time.
fn in_pieces<'n>(
    start: &Dir,
    names: impl Iterator<Item = &'n [u8]>,
    open: impl Fn(&Dir, &[u8]) -> io::Result<Dir>,
) -> io::Result<Dir> {
    let mut path: Vec<u8> = Vec::new();
    let mut at: Option<Dir> = None;
    for name in names {
        if path.len() + name.len() > LONGEST {
            at = Some(open(at.as_ref().unwrap_or(start), &path)?);
            path.clear();
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    open(at.as_ref().unwrap_or(start), &path)
}

pub(super) fn statx(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> io::Result<Stat> {
    let s = fs::statx(dir, name, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let time = |t: rustix::fs::StatxTimestamp| Timestamp { secs: t.tv_sec, nanos: t.tv_nsec.min(999_999_999) };
    let born = s.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(Stat {
        kind: FileType::from_raw_mode(u32::from(s.stx_mode)).into(),
        mode: s.stx_mode & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        size: s.stx_size,
        blocks: s.stx_blocks,
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
        birth: born.then(|| time(s.stx_btime)),
        inode: s.stx_ino,
        device: (s.stx_dev_major, s.stx_dev_minor),
        links: s.stx_nlink,
        rdev: (s.stx_rdev_major, s.stx_rdev_minor),
        locked: s.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
        mount_root: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// A device's number as `st_dev` has it.
pub(crate) fn device_number(device: (u32, u32)) -> u64 {
    fs::makedev(device.0, device.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_listed_twice_is_there_once() {
        let mut listing = Listing::default();
        for name in [&b"b"[..], b"a", b"b", b"ab", b"a", b"a"] {
            listing.names.push((listing.bytes.len() as u32, name.len() as u16, FileKind::File));
            listing.bytes.extend_from_slice(name);
        }
        listing.sort();
        let names: Vec<&[u8]> = (0..listing.len()).map(|at| listing.name(at)).collect();
        assert_eq!(names, [&b"a"[..], b"ab", b"b"]);
    }

    #[test]
    fn a_directory_lists_the_same_names_every_time() {
        let place = tempfile::TempDir::new().expect("a directory");
        std::fs::write(place.path().join("b"), b"").expect("a file");
        let dir = Dir::open(place.path()).expect("opening");
        assert_eq!(dir.list().expect("listing").len(), 1);
        std::fs::write(place.path().join("a"), b"").expect("a file");
        let again = dir.list().expect("listing");
        assert_eq!((again.len(), again.name(0), again.name(1)), (2, &b"a"[..], &b"b"[..]));
    }
}
