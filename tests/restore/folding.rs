//! Restoring to a file system that does not tell all names apart: one in memory that folds case, as exFAT, HFS+ and
//! directories of ext4 do.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use yester::observe::{Event, Observer};
use yester::restore::{Overwrite, RestoreOptions, restore};
use yester::task::Task;

use crate::common::build::Spec;
use crate::restore::support::{World, is_root, temporaries};

const NOW: Duration = Duration::ZERO;

struct Node {
    attr: FileAttr,
    data: Vec<u8>,
    /// By the folded name: the name, and which node it is.
    entries: BTreeMap<String, (OsString, u64)>,
}

/// A file system that finds `README` as `readme`.
struct Folding {
    nodes: Mutex<BTreeMap<u64, Node>>,
    /// Whether it renames without replacing.
    renames_new: bool,
}

fn fold(name: &OsStr) -> String {
    name.to_string_lossy().to_lowercase()
}

fn node(ino: u64, kind: FileType, mode: u32) -> Node {
    let attr = FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: (mode & 0o7777) as u16,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    };
    Node { attr, data: Vec::new(), entries: BTreeMap::new() }
}

impl Folding {
    fn new(renames_new: bool) -> Self {
        Folding { nodes: Mutex::new([(1, node(1, FileType::Directory, 0o755))].into()), renames_new }
    }

    fn add(&self, parent: INodeNo, name: &OsStr, kind: FileType, mode: u32) -> Result<FileAttr, Errno> {
        let mut nodes = self.nodes.lock().unwrap();
        if nodes[&parent.0].entries.contains_key(&fold(name)) {
            return Err(Errno::EEXIST);
        }
        let ino = nodes.keys().last().unwrap() + 1;
        let new = node(ino, kind, mode);
        let attr = new.attr;
        nodes.insert(ino, new);
        nodes.get_mut(&parent.0).unwrap().entries.insert(fold(name), (name.to_owned(), ino));
        Ok(attr)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let mut nodes = self.nodes.lock().unwrap();
        let Some((_, ino)) = nodes[&parent.0].entries.get(&fold(name)).cloned() else { return Err(Errno::ENOENT) };
        if !nodes[&ino].entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        nodes.get_mut(&parent.0).unwrap().entries.remove(&fold(name));
        Ok(())
    }
}

impl Filesystem for Folding {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let nodes = self.nodes.lock().unwrap();
        match nodes[&parent.0].entries.get(&fold(name)) {
            Some((_, ino)) => reply.entry(&NOW, &nodes[ino].attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NOW, &self.nodes.lock().unwrap()[&ino.0].attr);
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.get_mut(&ino.0).unwrap();
        node.attr.perm = mode.map_or(node.attr.perm, |mode| (mode & 0o7777) as u16);
        node.attr.uid = uid.unwrap_or(node.attr.uid);
        node.attr.gid = gid.unwrap_or(node.attr.gid);
        if let Some(size) = size {
            node.data.resize(size as usize, 0);
            node.attr.size = size;
        }
        if let Some(time) = mtime {
            node.attr.mtime = if let TimeOrNow::SpecificTime(time) = time { time } else { SystemTime::now() };
        }
        reply.attr(&NOW, &node.attr);
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        match self.add(parent, name, FileType::Directory, mode) {
            Ok(attr) => reply.entry(&NOW, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn create(&self, _req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        match self.add(parent, name, FileType::RegularFile, mode) {
            Ok(attr) => reply.created(&NOW, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.remove(parent, name) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.remove(parent, name) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() && !self.renames_new {
            return reply.error(Errno::EINVAL);
        }
        let mut nodes = self.nodes.lock().unwrap();
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && nodes[&newparent.0].entries.contains_key(&fold(newname)) {
            return reply.error(Errno::EEXIST);
        }
        let Some((_, ino)) = nodes.get_mut(&parent.0).unwrap().entries.remove(&fold(name)) else {
            return reply.error(Errno::ENOENT);
        };
        nodes.get_mut(&newparent.0).unwrap().entries.insert(fold(newname), (newname.to_owned(), ino));
        reply.ok();
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
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
        let nodes = self.nodes.lock().unwrap();
        let data = &nodes[&ino.0].data;
        let start = data.len().min(offset as usize);
        reply.data(&data[start..data.len().min(start + size as usize)]);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.get_mut(&ino.0).unwrap();
        let end = offset as usize + data.len();
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        node.data[offset as usize..end].copy_from_slice(data);
        node.attr.size = node.data.len() as u64;
        reply.written(data.len() as u32);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let nodes = self.nodes.lock().unwrap();
        for (n, (name, ino)) in nodes[&ino.0].entries.values().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), n as u64 + 1, nodes[ino].attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn mounted(world: &World, renames_new: bool) -> BackgroundSession {
    fs::create_dir(world.target()).unwrap();
    fuser::spawn_mount(Folding::new(renames_new), world.target(), &Config::default()).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Names that a file system which folds case takes for one.
fn tree() -> Spec {
    Spec::dir(
        "",
        vec![
            Spec::dir("Docs", vec![Spec::file("x", "x")]),
            Spec::file("Makefile", "the first"),
            Spec::file("keep.txt", "kept"),
            Spec::file("docs", "a file"),
            Spec::file("makefile", "the second"),
            Spec::dir("sub", vec![Spec::file("A", "A"), Spec::file("a", "a"), Spec::dir("b", vec![]), Spec::dir("B", vec![])]),
        ],
    )
}

#[test]
fn no_entry_takes_the_name_of_another() {
    if !is_root() {
        return;
    }
    for renames_new in [true, false] {
        let world = World::new(&tree());
        let session = mounted(&world, renames_new);
        for (run, verify) in [(0, false), (1, true), (2, false)] {
            let options = RestoreOptions { verify, delete: run == 2, ..RestoreOptions::default() };
            let report = world.restore(&options);
            let told = world.warnings.all();
            // makefile, docs, sub/a, sub/b
            assert_eq!(report.errors, 4, "run {run} {told:?}");
            assert!(told.iter().any(|line| line.contains("makefile: its name is taken by Makefile")), "{told:?}");
            assert_eq!((world.read("makefile"), world.read("sub/a")), (b"the first".to_vec(), b"A".to_vec()));
            assert_eq!(names(&world.target()), ["Docs", "Makefile", "keep.txt", "sub"]);
            assert_eq!(names(&world.path("sub")), ["A", "B"]);
            assert!(run == 0 || report.files == 0 && report.deleted == 0, "{report:?}");
            assert!(temporaries(&world.target()).is_empty());
        }
        drop(session);
    }
}

#[test]
fn what_is_there_under_another_spelling_is_what_is_there() {
    if !is_root() {
        return;
    }
    let world = World::new(&tree());
    let session = mounted(&world, true);
    fs::write(world.path("MAKEFILE"), "mine").unwrap();
    fs::write(world.path("KEEP.TXT"), "mine").unwrap();
    let report = world.restore(&RestoreOptions { overwrite: Overwrite::Never, ..RestoreOptions::default() });
    assert_eq!((report.kept, report.errors), (2, 4), "{:?}", world.warnings.all());
    assert_eq!((world.read("makefile"), world.read("keep.txt")), (b"mine".to_vec(), b"mine".to_vec()));
    // It is replaced once, and not deleted as something else.
    let report = world.restore(&RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!(report.errors, 4, "{:?}", world.warnings.all());
    assert_eq!((world.read("makefile"), world.read("keep.txt")), (b"the first".to_vec(), b"kept".to_vec()));
    drop(session);
}

#[test]
fn what_could_not_be_restored_is_told_once() {
    let files = (0..10).map(|n| Spec::file(&n.to_string(), "x")).collect();
    let world = World::new(&Spec::dir("", vec![Spec::parent("lead", vec![Spec::dir("d", files)]), Spec::dir("e", vec![])]));
    fs::create_dir(world.target()).unwrap();
    fs::write(world.path("lead"), "mine").unwrap();
    fs::write(world.path("e"), "mine").unwrap();
    let options = RestoreOptions { verify: true, overwrite: Overwrite::Never, ..RestoreOptions::default() };
    let report = world.restore(&options);
    assert_eq!((report.errors, report.kept), (1, 1), "{:?}", world.warnings.all());
}

/// Writes to a file as soon as it is there.
struct Spoiler(std::path::PathBuf);

impl Observer for Spoiler {
    fn event(&self, event: &Event<'_>) {
        if let Event::Progress { .. } = event
            && self.0.exists()
        {
            fs::write(&self.0, "spoiled ").unwrap();
        }
    }
}

#[test]
fn what_is_there_at_the_end_is_compared() {
    for content in [Spec::file("f", "restored"), Spec::inline("f", "restored")] {
        let world = World::new(&Spec::dir("", vec![content, Spec::symlink("link", "to")]));
        let options = RestoreOptions { verify: true, ..RestoreOptions::default() };
        let spoiler = Spoiler(world.path("f"));
        let report = restore(&world.reader, &world.request(&[""]), &options, &Task::new(&spoiler)).unwrap();
        assert_eq!(report.errors, 1, "{report:?}");
        // Also what this run takes to be right by its size and time.
        let restored = world.restore_all(&RestoreOptions { overwrite: Overwrite::Always, verify: true, ..options.clone() });
        assert_eq!(restored.files, 1);
        let time = fs::metadata(world.path("f")).unwrap().modified().unwrap();
        fs::write(world.path("f"), "different".get(..8).unwrap()).unwrap();
        fs::File::options().write(true).open(world.path("f")).unwrap().set_modified(time).unwrap();
        assert_eq!(world.restore(&RestoreOptions::default()).errors, 0);
        assert_eq!(world.restore(&options).errors, 1, "{:?}", world.warnings.all());
    }
}
