//! A file system that shows a directory, and lacks what it is told to lack.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

/// What it can.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// `RENAME_NOREPLACE`.
    pub noreplace: bool,
    /// Hard links.
    pub links: bool,
    /// Modes that can be set.
    pub modes: bool,
    /// `RENAME_EXCHANGE`.
    pub exchange: bool,
}

/// Counts the calls that change something, and kills whoever makes a certain one.
#[derive(Debug, Default)]
pub struct Changes {
    made: AtomicU64,
    deadly: AtomicU64,
}

impl Changes {
    /// Counts from 0 again. The process that makes change number `deadly` (from 1; 0: none) is killed in it.
    pub fn count(&self, deadly: u64) {
        self.made.store(0, Ordering::SeqCst);
        self.deadly.store(deadly, Ordering::SeqCst);
    }

    /// How many there were.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    fn one(&self, by: &Request) {
        if self.made.fetch_add(1, Ordering::SeqCst) + 1 == self.deadly.load(Ordering::SeqCst) {
            let pid = rustix::process::Pid::from_raw(by.pid() as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

/// It, mounted; gone when this is dropped.
pub struct Passthrough {
    pub point: tempfile::TempDir,
    pub changes: Arc<Changes>,
    session: Option<BackgroundSession>,
}

impl Passthrough {
    pub fn of(directory: &Path, abilities: Abilities) -> Passthrough {
        let point = tempfile::tempdir().unwrap();
        let root = (1, directory.to_owned());
        let known =
            Known { paths: HashMap::from([root.clone()]), numbers: HashMap::from([(root.1, 1)]), last: 1, ..Known::default() };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("passthrough".to_owned()), MountOption::DefaultPermissions];
        let changes = Arc::<Changes>::default();
        let shows = Shows { known: Mutex::new(known), abilities, changes: changes.clone() };
        let session = fuser::spawn_mount(shows, point.path(), &config).unwrap();
        Passthrough { point, changes, session: Some(session) }
    }

    pub fn path(&self) -> &Path {
        self.point.path()
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        // Also where something of it is still open: what the directory holds must not be removed with the mount point.
        rustix::mount::unmount(self.point.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        drop(self.session.take());
    }
}

/// Inode numbers belong to paths. Open files have numbers, too.
#[derive(Default)]
struct Known {
    paths: HashMap<u64, PathBuf>,
    numbers: HashMap<PathBuf, u64>,
    open: HashMap<u64, File>,
    last: u64,
}

impl Known {
    fn number(&mut self, path: PathBuf) -> u64 {
        if let Some(number) = self.numbers.get(&path) {
            return *number;
        }
        self.last += 1;
        self.numbers.insert(path.clone(), self.last);
        self.paths.insert(self.last, path);
        self.last
    }

    fn path(&self, ino: INodeNo) -> Result<PathBuf, Errno> {
        self.paths.get(&ino.0).cloned().ok_or(Errno::ENOENT)
    }

    fn below(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        Ok(self.path(parent)?.join(name))
    }

    fn attr(&mut self, path: PathBuf) -> Result<FileAttr, Errno> {
        let meta = fs::symlink_metadata(&path).map_err(errno)?;
        let time = |secs: i64, nanos: i64| SystemTime::UNIX_EPOCH + Duration::new(secs.max(0) as u64, nanos as u32);
        Ok(FileAttr {
            ino: INodeNo(self.number(path)),
            size: meta.len(),
            blocks: meta.blocks(),
            atime: time(meta.atime(), meta.atime_nsec()),
            mtime: time(meta.mtime(), meta.mtime_nsec()),
            ctime: time(meta.ctime(), meta.ctime_nsec()),
            crtime: SystemTime::UNIX_EPOCH,
            kind: FileType::from_std(meta.file_type()).unwrap_or(FileType::RegularFile),
            perm: (meta.mode() & 0o7777) as u16,
            nlink: meta.nlink() as u32,
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// The names of what was renamed or removed, and of all below it.
    fn moved(&mut self, old: &Path, new: Option<&Path>) {
        let names: Vec<PathBuf> = self.numbers.keys().filter(|path| path.starts_with(old)).cloned().collect();
        if let Some(new) = new {
            self.moved(new, None);
        }
        for name in names {
            let Some(number) = self.numbers.remove(&name) else { continue };
            self.paths.remove(&number);
            if let Some(new) = new {
                let name = if name == old { new.to_owned() } else { new.join(name.strip_prefix(old).unwrap()) };
                self.numbers.insert(name.clone(), number);
                self.paths.insert(number, name);
            }
        }
    }

    /// The names of two that were exchanged, and of all below them.
    fn exchanged(&mut self, one: &Path, other: &Path) {
        let aside = Path::new("/exchanged");
        self.moved(one, Some(aside));
        self.moved(other, Some(one));
        self.moved(aside, Some(other));
    }

    fn opened(&mut self, file: File) -> FileHandle {
        self.last += 1;
        self.open.insert(self.last, file);
        FileHandle(self.last)
    }
}

fn errno(e: io::Error) -> Errno {
    Errno::from(e)
}

struct Shows {
    known: Mutex<Known>,
    abilities: Abilities,
    changes: Arc<Changes>,
}

const NEVER: Duration = Duration::ZERO;
const ONLY: Generation = Generation(0);

impl Shows {
    fn with<T>(&self, act: impl FnOnce(&mut Known) -> Result<T, Errno>) -> Result<T, Errno> {
        act(&mut self.known.lock().unwrap())
    }

    fn entry(&self, reply: ReplyEntry, act: impl FnOnce(&mut Known) -> Result<PathBuf, Errno>) {
        match self.with(|known| act(known).and_then(|path| known.attr(path))) {
            Ok(attr) => reply.entry(&NEVER, &attr, ONLY),
            Err(e) => reply.error(e),
        }
    }

    fn empty(&self, reply: ReplyEmpty, act: impl FnOnce(&mut Known) -> Result<(), Errno>) {
        match self.with(act) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }
}

impl Filesystem for Shows {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |known| known.below(parent, name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.with(|known| known.path(ino).and_then(|path| known.attr(path))) {
            Ok(attr) => reply.attr(&NEVER, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        by: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.changes.one(by);
        let modes = self.abilities.modes;
        let set = |known: &mut Known| {
            let path = known.path(ino)?;
            if let Some(mode) = mode {
                if !modes {
                    return Err(Errno::EPERM);
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777)).map_err(errno)?;
            }
            if uid.is_some() || gid.is_some() {
                std::os::unix::fs::lchown(&path, uid, gid).map_err(errno)?;
            }
            if let Some(size) = size {
                OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(size)).map_err(errno)?;
            }
            if let Some(TimeOrNow::SpecificTime(time)) = mtime {
                File::open(&path).and_then(|file| file.set_modified(time)).map_err(errno)?;
            }
            known.attr(path)
        };
        match self.with(set) {
            Ok(attr) => reply.attr(&NEVER, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn mkdir(&self, by: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        self.changes.one(by);
        self.entry(reply, |known| {
            let path = known.below(parent, name)?;
            let mut builder = fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode);
            builder.create(&path).map_err(errno)?;
            Ok(path)
        });
    }

    fn unlink(&self, by: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.changes.one(by);
        self.empty(reply, |known| {
            let path = known.below(parent, name)?;
            fs::remove_file(&path).map_err(errno)?;
            known.moved(&path, None);
            Ok(())
        });
    }

    fn rmdir(&self, by: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.changes.one(by);
        self.empty(reply, |known| {
            let path = known.below(parent, name)?;
            fs::remove_dir(&path).map_err(errno)?;
            known.moved(&path, None);
            Ok(())
        });
    }

    fn rename(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.changes.one(by);
        let Abilities { noreplace, exchange, .. } = self.abilities;
        self.empty(reply, |known| {
            let (from, to) = (known.below(parent, name)?, known.below(to, new)?);
            if exchange && flags == RenameFlags::RENAME_EXCHANGE {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, &to, flags).map_err(|e| errno(e.into()))?;
                known.exchanged(&from, &to);
                return Ok(());
            }
            if !flags.is_empty() {
                if !noreplace || flags != RenameFlags::RENAME_NOREPLACE {
                    return Err(Errno::EINVAL);
                }
                if fs::symlink_metadata(&to).is_ok() {
                    return Err(Errno::EEXIST);
                }
            }
            fs::rename(&from, &to).map_err(errno)?;
            known.moved(&from, Some(&to));
            Ok(())
        });
    }

    fn link(&self, by: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.changes.one(by);
        if !self.abilities.links {
            return reply.error(Errno::EPERM);
        }
        self.entry(reply, |known| {
            let (from, to) = (known.path(ino)?, known.below(parent, name)?);
            fs::hard_link(from, &to).map_err(errno)?;
            Ok(to)
        });
    }

    fn symlink(&self, by: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.changes.one(by);
        self.entry(reply, |known| {
            let path = known.below(parent, name)?;
            std::os::unix::fs::symlink(target, &path).map_err(errno)?;
            Ok(path)
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.with(|known| fs::read_link(known.path(ino)?).map_err(errno)) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        let open = |known: &mut Known| {
            let file = OpenOptions::new().read(true).write(writes).open(known.path(ino)?).map_err(errno)?;
            Ok(known.opened(file))
        };
        match self.with(open) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn create(&self, by: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        self.changes.one(by);
        let create = |known: &mut Known| {
            let path = known.below(parent, name)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(mode);
            match flags & libc::O_EXCL {
                0 => options.create(true),
                _ => options.create_new(true),
            };
            let file = options.open(&path).map_err(errno)?;
            Ok((known.opened(file), known.attr(path)?))
        };
        match self.with(create) {
            Ok((handle, attr)) => reply.created(&NEVER, &attr, ONLY, handle, FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        let read = |known: &mut Known| {
            let file = known.open.get(&fh.0).ok_or(Errno::EBADF)?;
            file.read_at(&mut bytes, offset).map_err(errno)
        };
        match self.with(read) {
            Ok(n) => reply.data(&bytes[..n]),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        by: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.changes.one(by);
        let write = |known: &mut Known| {
            let file = known.open.get(&fh.0).ok_or(Errno::EBADF)?;
            file.write_all_at(data, offset).map_err(errno)
        };
        match self.with(write) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e),
        }
    }

    fn release(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        self.empty(reply, |known| {
            known.open.remove(&fh.0);
            Ok(())
        });
    }

    fn fsync(&self, by: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.changes.one(by);
        self.empty(reply, |known| known.open.get(&fh.0).ok_or(Errno::EBADF)?.sync_all().map_err(errno));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.empty(reply, |known| File::open(known.path(ino)?).and_then(|dir| dir.sync_all()).map_err(errno));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = |known: &mut Known| {
            let path = known.path(ino)?;
            let mut names: Vec<_> = fs::read_dir(&path).map_err(errno)?.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            for (at, name) in names.into_iter().enumerate().skip(offset as usize) {
                // It may be gone by now.
                let Ok(attr) = known.attr(path.join(&name)) else { continue };
                if reply.add(attr.ino, at as u64 + 1, attr.kind, &name) {
                    break;
                }
            }
            Ok(())
        };
        match self.with(list) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 24, 1 << 23, 1 << 23, 1 << 20, 1 << 19, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOTSUP);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOTSUP);
    }
}
