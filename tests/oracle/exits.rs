//! The ways out of a repository, each giving the tree of a snapshot.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use yester::model::Snapshot;
use yester::mount::attr::Type;
use yester::mount::{MountOptions, Shutdown, View, mount, unmount};
use yester::observe::Silent;
use yester::restore::{RestoreOptions, RestoreRequest, restore};

use crate::capture::{self, Record, Tree};
use crate::fixture::{BASE, Fixture};

fn scope(snapshot: &Snapshot) -> MountOptions {
    MountOptions { scope: Some((snapshot.id.to_string(), b"/live".to_vec())), ..MountOptions::default() }
}

/// Through the mount's view, without a kernel.
pub fn view(fixture: &Fixture, snapshot: &Snapshot) -> Tree {
    let view = View::open(&fixture.repo, &scope(snapshot)).expect("the view opens");
    let mut tree = Tree::new();
    let mut inodes: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    let mut stack = vec![(Vec::new(), 1)];
    while let Some((relative, ino)) = stack.pop() {
        let attr = view.getattr(ino).expect("attributes");
        let (kind, content) = match attr.kind {
            Type::Directory => {
                let mut below = Vec::new();
                let mut take = |e: yester::mount::attr::DirEntry<'_>| {
                    below.push(e.name.to_vec());
                    false
                };
                view.readdir(ino, 0, &mut take).expect("a listing");
                for name in below.into_iter().filter(|n| n != b"." && n != b"..") {
                    let found = view.lookup(ino, &name).expect("a lookup").expect("a listed name");
                    let slash: &[u8] = if relative.is_empty() { b"" } else { b"/" };
                    stack.push(([&relative, slash, &name].concat(), found.ino));
                }
                ("directory", String::new())
            }
            Type::Symlink => ("symlink", format!("{:?}", std::ffi::OsStr::from_bytes(&view.readlink(ino).expect("a target")))),
            Type::File => ("file", content(&view, ino, attr.size)),
            Type::Fifo => ("fifo", String::new()),
            Type::Socket => ("socket", String::new()),
            Type::CharDevice => ("char", format!("{}:{}", attr.rdev.0, attr.rdev.1)),
            Type::BlockDevice => ("block", format!("{}:{}", attr.rdev.0, attr.rdev.1)),
        };
        if kind != "directory" {
            inodes.entry(attr.ino).or_default().push(relative.clone());
        }
        let names = view.listxattr(ino).expect("attributes are listed");
        let mut xattrs: Vec<_> = names.into_iter().map(|n| (n.clone(), view.getxattr(ino, &n).expect("an attribute"))).collect();
        xattrs.sort();
        let record = Record {
            kind,
            mode: u32::from(attr.mode),
            owner: (attr.uid, attr.gid),
            mtime: (attr.mtime.secs, i64::from(attr.mtime.nanos)),
            content,
            xattrs,
            links: Vec::new(),
        };
        tree.insert(relative, record);
    }
    capture::link(&mut tree, inodes.into_values());
    tree
}

fn content(view: &View, ino: u64, size: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::new();
    let mut at = 0;
    loop {
        view.read(ino, at, 77_777, &mut buffer).expect("content is read");
        if buffer.is_empty() {
            assert_eq!(at, size);
            return format!("{at} {}", hasher.finalize());
        }
        hasher.update(&buffer);
        at += buffer.len() as u64;
    }
}

/// Restored to a directory.
pub fn restored(fixture: &Fixture, snapshot: &Snapshot, to: &Path) -> Tree {
    let names = BASE.iter().map(|n| n.to_vec()).collect();
    let request = RestoreRequest { sources: vec![(Arc::new(snapshot.clone()), names)], target: to.to_owned() };
    let report = restore(&fixture.trees(), &request, &RestoreOptions::default(), &Silent).expect("the restore succeeds");
    assert!(report.is_complete(), "{report:?}");
    capture::directory(to)
}

/// Through the kernel.
pub fn mounted(fixture: &Fixture, snapshot: &Snapshot) -> Tree {
    let point = tempfile::tempdir().expect("a mount point");
    let shutdown = Shutdown::new();
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope_| {
        let (options, place, stop) = (scope(snapshot), point.path(), shutdown.clone());
        let server =
            scope_.spawn(move || mount(&fixture.repo, &options, place, &stop, move || ready.send(()).unwrap_or_default()));
        is_ready.recv_timeout(Duration::from_secs(20)).expect("the mount answers");
        let tree = std::panic::catch_unwind(|| capture::directory(point.path()));
        shutdown.trigger();
        let ended = server.join().expect("the mount's thread ends");
        // If the server gave up, something may still be mounted.
        let _ = unmount(point.path());
        ended.expect("the mount ends well");
        tree.unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}
