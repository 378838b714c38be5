//! A FUSE file system of one directory that says what no honest one does.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, ReplyXattr, Request, Session,
};

/// What an entry is said to be.
#[derive(Clone)]
pub struct Lie {
    pub name: Vec<u8>,
    pub kind: FileType,
    /// What it gives, or where it leads.
    pub content: Vec<u8>,
    /// The size that it claims.
    pub size: u64,
    /// The inode number that it claims, and the number of names.
    pub inode: u64,
    pub links: u32,
    /// The names of its attributes, as they are listed; each has the value `v`.
    pub xattrs: Vec<String>,
}

impl Lie {
    pub fn file(name: impl AsRef<[u8]>, content: &str) -> Lie {
        Lie {
            name: name.as_ref().to_vec(),
            kind: FileType::RegularFile,
            content: content.as_bytes().to_vec(),
            size: content.len() as u64,
            inode: 0,
            links: 1,
            xattrs: Vec::new(),
        }
    }

    /// With this inode number and two names.
    pub fn linked(self, inode: u64) -> Lie {
        Lie { inode, links: 2, ..self }
    }
}

/// The entries, and which of them are listed, in this order.
pub struct Lying {
    entries: Vec<Lie>,
    listed: Vec<usize>,
}

/// Mounts `entries`; each is listed as often as `listed` has its number. Gone when what this answers is dropped.
pub fn lie(point: &Path, entries: Vec<Lie>, listed: Vec<usize>) -> BackgroundSession {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("lying".to_owned()), MountOption::RO];
    Session::new(Lying { entries, listed }, point, &config).unwrap().spawn().unwrap()
}

const ROOT: u64 = 1;
/// The kernel asks anew each time.
const NEVER: Duration = Duration::ZERO;

impl Lying {
    fn entry(&self, ino: INodeNo) -> Option<&Lie> {
        self.entries.get((ino.0 as usize).checked_sub(2)?)
    }

    /// What `stat` shows. In the answer to a lookup the number must be the kernel's own.
    fn attr(&self, ino: INodeNo, looked_up: bool) -> FileAttr {
        let entry = self.entry(ino);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let claimed = entry.map_or(0, |entry| entry.inode);
        FileAttr {
            ino: if looked_up || claimed == 0 { ino } else { INodeNo(claimed) },
            size: entry.map_or(0, |entry| entry.size),
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: entry.map_or(FileType::Directory, |entry| entry.kind),
            perm: 0o755,
            nlink: entry.map_or(2, |entry| entry.links),
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn sized(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(bytes.len() as u32),
        size if size < bytes.len() => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}

impl Filesystem for Lying {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.entries.iter().position(|entry| entry.name == name.as_bytes()) {
            Some(at) => reply.entry(&NEVER, &self.attr(INodeNo(at as u64 + 2), true), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &self.attr(ino, false));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        reply.data(self.entry(ino).map_or(b"", |entry| &entry.content));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // What is read is not cut to the size that was claimed.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let all = self.entry(ino).map_or(&b""[..], |entry| &entry.content);
        let rest = all.get(offset as usize..).unwrap_or_default();
        reply.data(&rest[..rest.len().min(size as usize)]);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino.0 != ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        for (at, number) in self.listed.iter().enumerate().skip(offset as usize) {
            let entry = &self.entries[*number];
            if reply.add(INodeNo(*number as u64 + 2), at as u64 + 1, entry.kind, OsStr::from_bytes(&entry.name)) {
                break;
            }
        }
        reply.ok();
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names: String = self.entry(ino).into_iter().flat_map(|entry| &entry.xattrs).map(|name| format!("{name}\0")).collect();
        sized(names.as_bytes(), size, reply);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.entry(ino).is_some_and(|entry| entry.xattrs.iter().any(|known| known.as_bytes() == name.as_bytes())) {
            true => sized(b"v", size, reply),
            false => reply.error(Errno::NO_XATTR),
        }
    }
}
