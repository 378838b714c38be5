//! The adapter between the kernel and the view: no decisions but those about what the kernel may keep.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};

use crate::model::Timestamp;
use crate::mount::native::Images;
use crate::mount::status;
use crate::mount::workers::{self, Workers};
use crate::vfs::attr::{Attr, Type, ViewFault, ViewResult};
use crate::vfs::view::View;

/// How long the kernel may keep what never changes.
const LASTING: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long it may keep what is made up.
const SHORT: Duration = Duration::from_secs(1);
/// Inode numbers are not used twice, so there are no generations of them.
const ONLY: Generation = Generation(0);
/// Requests that the kernel may have under way on its own account: all that comes from files. Fewer than there are
/// threads for would let readers who wait for the storage keep others from asking.
const BACKGROUND: u16 = workers::MOST as u16;

/// Where requests are traced: one event each, for who counts them.
const REQUESTS: &str = "yester::mount::requests";

const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// `FS_IOC_GETFLAGS` on 64-bit and 32-bit systems.
const GET_FLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
/// `FS_IOC_FSGETXATTR`, and the bytes of its answer.
const GET_EXTENDED: (u32, usize) = (0x801c_581f, 28);
/// `FS_IOC_SETFLAGS` on both, and `FS_IOC_FSSETXATTR`: kernels before 5.13 leave the refusal to the file system.
const SET_FLAGS: [u32; 3] = [0x4008_6602, 0x4004_6602, 0x401c_5820];

/// The file system as the kernel sees it.
#[derive(Debug)]
pub(crate) struct Adapter {
    view: Arc<View>,
    images: Arc<Images>,
    workers: Workers,
    without_open: bool,
    without_opendir: bool,
    without_xattrs: bool,
    /// What the repository is called.
    repository: String,
    /// How often somebody asked what this mount says of itself.
    statuses: AtomicU64,
}

impl Adapter {
    /// An adapter to `view`, of a repository that is called so, for a session of so many threads.
    pub(super) fn new(view: Arc<View>, images: Arc<Images>, threads: usize, repository: String) -> Self {
        let without_xattrs = view.without_xattrs();
        Adapter {
            view,
            images,
            workers: Workers::new(threads),
            without_open: false,
            without_opendir: false,
            without_xattrs,
            repository,
            statuses: AtomicU64::new(0),
        }
    }

    /// A new link to what this mount says of itself, for one question.
    fn status_link(&self) -> FileAttr {
        let number = status::FIRST + self.statuses.fetch_add(1, Ordering::Relaxed);
        FileAttr { kind: FileType::Symlink, perm: 0o777, nlink: 1, ino: INodeNo(number), ..nothing() }
    }

    /// Does what may have to wait for the storage.
    fn work(&self, job: impl FnOnce(&View) + Send + 'static) {
        let view = self.view.clone();
        self.workers.run(move || job(&view));
    }
}

/// Calls the view. A panic there is a bug; it must not take the thread with it, and its caller gets EIO.
fn ask<T>(view: &View, what: &'static str, ino: INodeNo, call: impl FnOnce(&View) -> ViewResult<T>) -> Result<T, Errno> {
    tracing::trace!(target: REQUESTS, what, ino = ino.0);
    match catch_unwind(AssertUnwindSafe(|| call(view))) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(fault)) => Err(errno(view, &fault, what, ino)),
        Err(_) => {
            view.reports().warn(format!("{what} of inode {ino}"), "the program has a bug here");
            Err(Errno::EIO)
        }
    }
}

/// The one place where faults become error numbers. Damage is never "not found".
fn errno(view: &View, fault: &ViewFault, what: &str, ino: INodeNo) -> Errno {
    match fault {
        ViewFault::Stale => Errno::ESTALE,
        ViewFault::NotDirectory => Errno::ENOTDIR,
        ViewFault::IsDirectory => Errno::EISDIR,
        ViewFault::Invalid => Errno::EINVAL,
        ViewFault::NoAttribute => Errno::ENODATA,
        ViewFault::PastEnd => Errno::ENXIO,
        ViewFault::NameTooLong => Errno::ENAMETOOLONG,
        ViewFault::Unreadable(e) => {
            view.reports().warn(format!("{what} of inode {ino}"), e.to_string());
            Errno::EIO
        }
    }
}

/// The flags of `chattr` as `FS_IOC_FSGETXATTR` has them, as far as both have them (`fs/file_attr.c` of Linux).
fn extended(flags: u32) -> u32 {
    const BOTH: [(u32, u32); 7] =
        [(0x8, 0x20), (0x10, 0x8), (0x20, 0x10), (0x40, 0x80), (0x80, 0x40), (0x0200_0000, 0x8000), (0x2000_0000, 0x200)];
    BOTH.iter().filter(|(plain, _)| flags & plain != 0).fold(0, |all, (_, extended)| all | extended)
}

fn kind(kind: Type) -> FileType {
    match kind {
        Type::File => FileType::RegularFile,
        Type::Directory => FileType::Directory,
        Type::Symlink => FileType::Symlink,
        Type::Fifo => FileType::NamedPipe,
        Type::Socket => FileType::Socket,
        Type::CharDevice => FileType::CharDevice,
        Type::BlockDevice => FileType::BlockDevice,
    }
}

/// A time as the crate wants it; what it cannot say is the nearest it can.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second.and_then(|s| s.checked_add(Duration::from_nanos(u64::from(time.nanos)))).unwrap_or(UNIX_EPOCH)
}

/// A device number as the kernel encodes it in 32 bits (`new_encode_dev`).
fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

fn file_attr(attr: &Attr) -> FileAttr {
    let time = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device(attr.rdev),
        blksize: if attr.kind == Type::File { 128 << 10 } else { 4096 },
        flags: 0,
    }
}

/// An entry with inode number 0: the name is not there, and the kernel may remember that.
fn nothing() -> FileAttr {
    let attr = Attr {
        ino: 0,
        kind: Type::File,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: (0, 0),
        size: 0,
        blocks: 0,
        mtime: Timestamp::default(),
        lasting: true,
    };
    file_attr(&attr)
}

fn ttl(lasting: bool) -> Duration {
    if lasting { LASTING } else { SHORT }
}

/// Answers a request for an attribute: its length when `size` is 0.
fn reply_sized(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(bytes.len() as u32),
        _ if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}

thread_local! {
    /// What a read answers with: one buffer for each thread of the session.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let wanted = [
            // Not READDIRPLUS_AUTO: the kernel then takes attributes along for the first part of a directory only, and
            // `find`, `tar` and `cp`, which list all of it before they look, cost a lookup for every entry of a long one.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            // Only made-up directories ever change; with this the kernel looks at their times before it lists them
            // from its memory.
            InitFlags::FUSE_AUTO_INVAL_DATA,
            // Handles (NFS servers) are found again after the kernel has forgotten their inodes: it looks `.` and `..` up.
            InitFlags::FUSE_EXPORT_SUPPORT,
        ];
        for flag in wanted {
            // What an older kernel lacks only costs speed.
            let _ = config.add_capabilities(flag);
        }
        let acls = !self.without_xattrs && config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_ok();
        self.view.kernel_judges_acls(acls);
        self.without_open = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.without_opendir = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT
            && let Some(image) = self.images.lookup(name.as_bytes(), req.uid())
        {
            return reply.entry_with_ttls(&LASTING, &Duration::ZERO, &file_attr(&image.attr()), ONLY);
        }
        if parent == INodeNo::ROOT && name.as_bytes() == status::NAME {
            return reply.entry_with_ttls(&Duration::ZERO, &Duration::ZERO, &self.status_link(), ONLY);
        }
        let name = name.to_owned();
        self.work(move |view| {
            let answer =
                ask(view, "lookup", parent, |view| Ok((view.lookup(parent.0, name.as_bytes())?, view.is_lasting(parent.0))));
            match answer {
                Ok((Some(attr), lasting)) => reply.entry_with_ttls(&ttl(attr.lasting), &ttl(lasting), &file_attr(&attr), ONLY),
                Ok((None, true)) => reply.entry(&LASTING, &nothing(), ONLY),
                Ok((None, false)) => reply.error(Errno::ENOENT),
                Err(e) => reply.error(e),
            }
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        self.images.forget(ino.0, count);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(image) = self.images.get(ino.0) {
            return reply.attr(&LASTING, &file_attr(&image.attr()));
        }
        if ino.0 >= status::FIRST {
            return reply.attr(&Duration::ZERO, &FileAttr { ino, ..self.status_link() });
        }
        self.work(move |view| match ask(view, "getattr", ino, |view| view.getattr(ino.0)) {
            Ok(attr) => reply.attr(&ttl(attr.lasting), &file_attr(&attr)),
            Err(e) => reply.error(e),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        if ino.0 >= status::FIRST {
            return reply.data(&self.images.status(&self.repository).to_target());
        }
        self.work(move |view| match ask(view, "readlink", ino, |view| view.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        tracing::trace!(target: REQUESTS, what = "open", ino = ino.0);
        // ENOSYS: the kernel opens files on its own from now on, and keeps their pages.
        match self.without_open {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
        }
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        tracing::trace!(target: REQUESTS, what = "opendir", ino = ino.0);
        let lasting = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        match self.without_opendir {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), if self.view.is_lasting(ino.0) { lasting } else { FopenFlags::empty() }),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(image) = self.images.get(ino.0) {
            return self.work(move |view| {
                BUFFER.with_borrow_mut(|buffer| {
                    let read = |_: &View| Ok(image.reader().read(ino.0, offset, size as usize, buffer)?);
                    match ask(view, "image", ino, read) {
                        Ok(()) => reply.data(buffer),
                        Err(e) => reply.error(e),
                    }
                });
            });
        }
        self.work(move |view| {
            BUFFER.with_borrow_mut(|buffer| {
                match ask(view, "read", ino, |view| view.read(ino.0, offset, size as usize, buffer)) {
                    Ok(()) => reply.data(buffer),
                    Err(e) => reply.error(e),
                }
            });
        });
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.work(move |view| {
            let mut some = false;
            let listed = ask(view, "readdir", ino, |view| {
                view.readdir(ino.0, offset, &mut |e| {
                    let full = reply.add(INodeNo(e.attr.ino), e.next, kind(e.attr.kind), OsStr::from_bytes(e.name));
                    some |= !full;
                    full
                })
            });
            match listed {
                Err(e) if !some => reply.error(e),
                // What was listed before the damage is given out; the next call begins at the damage.
                _ => reply.ok(),
            }
        });
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.work(move |view| {
            let mut some = false;
            let listed = ask(view, "readdir", ino, |view| {
                view.readdir(ino.0, offset, &mut |e| {
                    let ttl = if e.certain { ttl(e.lasting && e.attr.lasting) } else { Duration::ZERO };
                    let full = reply.add(INodeNo(e.attr.ino), e.next, OsStr::from_bytes(e.name), &ttl, &file_attr(&e.attr), ONLY);
                    some |= !full;
                    full
                })
            });
            match listed {
                Err(e) if !some => reply.error(e),
                _ => reply.ok(),
            }
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let totals = self.view.totals();
        reply.statfs(totals.bytes.div_ceil(4096), 0, 0, totals.entries, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if self.without_xattrs {
            tracing::trace!(target: REQUESTS, what = "getxattr", ino = ino.0);
            // "Not supported", once and for all: the kernel asks no more.
            return reply.error(Errno::ENOSYS);
        }
        let name = name.to_owned();
        self.work(move |view| match ask(view, "getxattr", ino, |view| view.getxattr(ino.0, name.as_bytes())) {
            Ok(value) => reply_sized(&value, size, reply),
            Err(e) => reply.error(e),
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if self.without_xattrs {
            tracing::trace!(target: REQUESTS, what = "listxattr", ino = ino.0);
            return reply.error(Errno::ENOSYS);
        }
        let root = req.uid() == 0;
        self.work(move |view| match ask(view, "listxattr", ino, |view| view.listxattr(ino.0)) {
            Ok(names) => {
                // As on a disk: only root sees `trusted.*`.
                let seen = names.iter().filter(|name| root || !name.starts_with(b"trusted."));
                let list: Vec<u8> = seen.flat_map(|name| name.iter().copied().chain([0])).collect();
                reply_sized(&list, size, reply);
            }
            Err(e) => reply.error(e),
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.work(move |view| {
            let answer = ask(view, "lseek", ino, |view| {
                let from = u64::try_from(offset).map_err(|_| ViewFault::PastEnd)?;
                match whence {
                    SEEK_DATA => view.seek_data(ino.0, from),
                    SEEK_HOLE => view.seek_hole(ino.0, from),
                    _ => Err(ViewFault::Invalid),
                }
            });
            match answer {
                Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
                Err(e) => reply.error(e),
            }
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        match cmd {
            _ if GET_FLAGS.contains(&cmd) => {
                self.work(move |view| match ask(view, "ioctl", ino, |view| view.flags(ino.0)) {
                    Ok(flags) => reply.ioctl(0, &flags.to_ne_bytes()),
                    Err(e) => reply.error(e),
                });
            }
            _ if cmd == GET_EXTENDED.0 => {
                self.work(move |view| match ask(view, "ioctl", ino, |view| view.flags(ino.0)) {
                    Ok(flags) => {
                        // The flags come first; there are no hints of extents and no projects.
                        let mut answer = [0; GET_EXTENDED.1];
                        let (first, _) = answer.split_at_mut(4);
                        first.copy_from_slice(&extended(flags).to_ne_bytes());
                        reply.ioctl(0, &answer);
                    }
                    Err(e) => reply.error(e),
                });
            }
            _ if SET_FLAGS.contains(&cmd) => reply.error(Errno::EROFS),
            _ => reply.error(Errno::ENOTTY),
        }
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        tracing::trace!(target: REQUESTS, what = "flush", ino = ino.0);
        // ENOSYS: nothing is ever written, so the kernel need not say when a file is closed.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    // What follows would change something. The kernel refuses most of it before it asks, as the mount is read-only.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _rdev: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _value: &[u8], _flags: i32, _pos: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = system_time(Timestamp { secs: -2, nanos: 300_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1700));
        assert_eq!(
            system_time(Timestamp { secs: i64::MAX, nanos: 999_999_999 }).duration_since(UNIX_EPOCH).unwrap().as_secs(),
            i64::MAX as u64
        );
    }

    #[test]
    fn device_numbers() {
        assert_eq!(device((8, 1)), 0x801);
        assert_eq!(device((0xfff, 0xf_ffff)), 0xffff_ffff);
    }
}
