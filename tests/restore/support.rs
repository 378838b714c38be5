//! What the tests of restore share.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use yester::error::Result;
use yester::model::{Kind, LinkGroup, Owners, Snapshot, Xattrs, escape};
use yester::observe::{Event, Observer};
use yester::repo::Repository;
use yester::repo::tree::TreeReader;
use yester::restore::{RestoreOptions, RestoreReport, RestoreRequest, restore};
use yester::storage::memory::MemoryStorage;
use yester::sys::{Dir, xattr};
use yester::task::Task;

use crate::common::build::{self, Part, Spec};

/// Collects warnings.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { subject, message } = event {
            self.0.lock().unwrap().push(format!("{}: {message}", escape(subject)));
        }
    }
}

impl Warnings {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A repository in memory with one snapshot.
pub struct World {
    pub storage: Arc<MemoryStorage>,
    pub repo: Arc<Repository>,
    pub snapshot: Arc<Snapshot>,
    pub reader: Arc<TreeReader>,
    pub warnings: Warnings,
    pub place: tempfile::TempDir,
}

impl World {
    pub fn new(root: &Spec) -> World {
        let storage = Arc::new(MemoryStorage::default());
        let repo = build::repository(storage.clone());
        let snapshot = Arc::new(build::snapshot(&repo, root, Owners::default()));
        let reader = build::reader(&repo);
        let place = tempfile::tempdir().unwrap();
        World { storage, repo, snapshot, reader, warnings: Warnings::default(), place }
    }

    pub fn target(&self) -> std::path::PathBuf {
        self.place.path().join("target")
    }

    pub fn request(&self, paths: &[&str]) -> RestoreRequest {
        let names = |path: &&str| path.split('/').filter(|n| !n.is_empty()).map(|n| n.as_bytes().to_vec()).collect();
        let sources = paths.iter().map(|path| (self.snapshot.clone(), names(path))).collect();
        RestoreRequest { sources, target: self.target() }
    }

    pub fn try_restore(&self, paths: &[&str], options: &RestoreOptions) -> Result<RestoreReport> {
        restore(&self.reader, &self.request(paths), options, &Task::new(&self.warnings))
    }

    /// Restores the whole snapshot.
    pub fn restore(&self, options: &RestoreOptions) -> RestoreReport {
        self.try_restore(&[""], options).unwrap()
    }

    /// Restores the whole snapshot; everything must be there afterwards.
    pub fn restore_all(&self, options: &RestoreOptions) -> RestoreReport {
        let report = self.restore(options);
        assert!(report.is_complete(), "{report:?} {:?}", self.warnings.all());
        report
    }

    pub fn path(&self, path: &str) -> std::path::PathBuf {
        self.target().join(path)
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Frames decoded since the reader was made.
    pub fn frames(&self) -> u64 {
        self.reader.chunks().counts.frames.get()
    }
}

/// The bytes of a file to be.
pub fn bytes_of(spec: &Spec) -> Vec<u8> {
    if let Kind::File(yester::model::Content::Inline(bytes)) = &spec.node.kind {
        return bytes.clone();
    }
    let mut out = Vec::new();
    for part in &spec.parts {
        match part {
            Part::Data(bytes) => out.extend_from_slice(bytes),
            Part::Hole(len) => out.resize(out.len() + *len as usize, 0),
        }
    }
    out
}

/// Compares a directory with what it should be: names, kinds, content, metadata, links. `whole`: nothing else is in it.
pub fn assert_tree(path: &Path, spec: &Spec) {
    let mut groups = HashMap::new();
    compare(path, spec, &mut groups);
}

fn compare(path: &Path, spec: &Spec, groups: &mut HashMap<LinkGroup, u64>) {
    let node = &spec.node;
    let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let shown = path.display();
    match &node.kind {
        Kind::Directory(_) => {
            assert!(meta.is_dir(), "{shown}");
            let mut names: Vec<Vec<u8>> =
                fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
            let mut expected: Vec<Vec<u8>> = spec.children.iter().map(|c| c.node.name.clone()).collect();
            names.sort();
            expected.sort();
            assert_eq!(names, expected, "{shown}");
            spec.children.iter().for_each(|c| compare(&path.join(OsStr::from_bytes(&c.node.name)), c, groups));
        }
        Kind::File(_) => {
            assert!(meta.is_file(), "{shown}");
            assert!(fs::read(path).unwrap() == bytes_of(spec), "{shown}: other content");
        }
        Kind::Symlink(target) => assert_eq!(fs::read_link(path).unwrap().as_os_str().as_bytes(), target, "{shown}"),
        Kind::Fifo => assert!(meta.file_type().is_fifo(), "{shown}"),
        Kind::Socket => assert!(meta.file_type().is_socket(), "{shown}"),
        Kind::CharDevice(major, minor) => {
            assert!(meta.file_type().is_char_device(), "{shown}");
            assert_eq!(meta.rdev(), u64::from(major << 8 | minor), "{shown}");
        }
        Kind::BlockDevice(..) => assert!(meta.file_type().is_block_device(), "{shown}"),
    }
    if let Some(group) = node.link {
        assert_eq!(*groups.entry(group).or_insert(meta.ino()), meta.ino(), "{shown}: not linked");
    }
    if node.given {
        compare_metadata(path, spec, &meta);
    }
}

fn compare_metadata(path: &Path, spec: &Spec, meta: &fs::Metadata) {
    let (node, shown) = (&spec.node, path.display());
    if !meta.is_symlink() {
        assert_eq!(meta.mode() & 0o7777, u32::from(node.meta.mode), "{shown}: mode");
    }
    assert_eq!((meta.uid(), meta.gid()), (node.meta.uid, node.meta.gid), "{shown}: owner");
    let time = (meta.mtime(), meta.mtime_nsec());
    assert_eq!(time, (node.meta.mtime.secs, i64::from(node.meta.mtime.nanos)), "{shown}: time");
    let parent = Dir::open(path.parent().unwrap()).unwrap();
    let have = xattr::list_at(&parent, path.file_name().unwrap().as_bytes()).unwrap();
    let want = if let Xattrs::Inline(list) = &node.meta.xattrs { list.clone() } else { Vec::new() };
    assert_eq!(have, want, "{shown}: attributes");
}

/// Whether the tests run as root; what only root may do is tested only then.
pub fn is_root() -> bool {
    yester::sys::process::user() == 0
}

/// Owner and group that this process may give.
pub fn some_owner() -> (u32, u32) {
    if is_root() { (1234, 4321) } else { (yester::sys::process::user(), yester::sys::process::group()) }
}

/// Names below `path` that look like temporary files of a restore.
pub fn temporaries(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".yester-") {
            out.push(name);
        }
        if entry.file_type().unwrap().is_dir() {
            out.extend(temporaries(&entry.path()));
        }
    }
    out
}
