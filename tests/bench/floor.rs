//! The floor of every mount on this machine: a FUSE daemon that shows the names, sizes and attributes of a tree and
//! answers every question at once from memory. Files read as zeros; nothing is decoded, fetched or verified.
//!
//! ```text
//! cargo bench --bench floor -- TREE MOUNTPOINT [open] [xattrs]     serves until it is unmounted
//! ```
//!
//! It negotiates what yester's mount does, and, unless `open` is said, answers opens with ENOSYS, so that the kernel
//! does not ask. It knows no extended attributes: the kernel asks once and never again. With `xattrs` there could be some,
//! but no file has any: that is what a mount that shows attributes and ACLs needs at least.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyXattr, Request, SessionACL,
};

const LASTING: Duration = Duration::from_secs(365 * 24 * 3600);
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

struct Node {
    attr: FileAttr,
    target: Vec<u8>,
    entries: Vec<(OsString, usize)>,
    by_name: HashMap<OsString, usize>,
}

struct Memory {
    nodes: Vec<Node>,
    ask_open: bool,
    xattrs: bool,
}

impl Memory {
    /// Takes up `path` and everything below it; its place in `nodes`.
    fn load(&mut self, path: &Path) -> io::Result<usize> {
        let meta = fs::symlink_metadata(path)?;
        let kind = match meta.file_type() {
            kind if kind.is_dir() => FileType::Directory,
            kind if kind.is_symlink() => FileType::Symlink,
            _ => FileType::RegularFile,
        };
        let at = self.nodes.len();
        let time = UNIX_EPOCH + Duration::from_secs(meta.mtime().max(0) as u64);
        let attr = FileAttr {
            ino: INodeNo(at as u64 + 1),
            size: meta.size(),
            blocks: meta.blocks(),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: (meta.mode() & 0o7777) as u16,
            nlink: 1,
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let target =
            if kind == FileType::Symlink { fs::read_link(path)?.into_os_string().into_encoded_bytes() } else { Vec::new() };
        self.nodes.push(Node { attr, target, entries: Vec::new(), by_name: HashMap::new() });
        if kind == FileType::Directory {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let child = self.load(&entry.path())?;
                self.nodes[at].entries.push((entry.file_name(), child));
                self.nodes[at].by_name.insert(entry.file_name(), child);
            }
        }
        Ok(at)
    }

    fn node(&self, ino: INodeNo) -> &Node {
        &self.nodes[ino.0 as usize - 1]
    }
}

impl Filesystem for Memory {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_CACHE_SYMLINKS];
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        if self.xattrs {
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.node(parent).by_name.get(name) {
            Some(at) => reply.entry(&LASTING, &self.nodes[*at].attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LASTING, &self.node(ino).attr);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        reply.data(&self.node(ino).target);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.ask_open {
            true => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            false => reply.error(Errno::ENOSYS),
        }
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.ask_open {
            true => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR),
            false => reply.error(Errno::ENOSYS),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.node(ino).attr.size.saturating_sub(offset).min(u64::from(size)) as usize;
        reply.data(&ZEROS[..left.min(ZEROS.len())]);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        match (self.xattrs, size) {
            (false, _) => reply.error(Errno::ENOSYS),
            (true, 0) => reply.size(0),
            (true, _) => reply.data(&[]),
        }
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(if self.xattrs { Errno::ENODATA } else { Errno::ENOSYS });
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (n, (name, at)) in self.node(ino).entries.iter().enumerate().skip(offset as usize) {
            let attr = &self.nodes[*at].attr;
            if reply.add(attr.ino, n as u64 + 1, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        for (n, (name, at)) in self.node(ino).entries.iter().enumerate().skip(offset as usize) {
            let attr = &self.nodes[*at].attr;
            if reply.add(attr.ino, n as u64 + 1, name, &LASTING, attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() {
    let words: Vec<_> = std::env::args_os().skip(1).filter(|word| !word.to_string_lossy().starts_with("--")).collect();
    let [tree, point, rest @ ..] = words.as_slice() else {
        println!("floor: name a tree and a mount point: cargo bench --bench floor -- TREE MOUNTPOINT [open] [xattrs]");
        return;
    };
    let says = |what: &str| rest.iter().any(|word| word == what);
    let mut memory = Memory { nodes: Vec::new(), ask_open: says("open"), xattrs: says("xattrs") };
    memory.load(Path::new(tree)).expect("the tree can be read");
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("floor".to_owned()), MountOption::RO, MountOption::DefaultPermissions];
    config.acl = SessionACL::Owner;
    config.n_threads = Some(4);
    config.clone_fd = true;
    fuser::mount(memory, point, &config).expect("it mounts and serves");
}
