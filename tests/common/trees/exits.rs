//! The ways out of a repository, each giving the tree of a snapshot.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use yester::model::Snapshot;
use yester::mount::{Shutdown, mount, unmount};
use yester::observe::{Event, Observer};
use yester::restore::{RestoreOptions, RestoreRequest, restore};
use yester::sys::{Dir, FileKind};
use yester::task::Task;
use yester::vfs::MountOptions;
use yester::vfs::View;
use yester::vfs::attr::{Type, ViewFault};

use super::capture::{self, Births, Record, Tree};
use super::fixture::{BASE, Fixture};

fn scope(snapshot: &Snapshot) -> MountOptions {
    MountOptions { scope: Some((snapshot.id.to_string(), b"/live".to_vec())), ..MountOptions::default() }
}

/// What a mount of one snapshot tells of births: they are attributes, and where nothing has any, none are asked for.
pub fn births(snapshot: &Snapshot) -> Births {
    if snapshot.statistics.with_attributes == Some(0) { Births::None } else { Births::FilesAndDirectories }
}

/// Through the mount's view, without a kernel.
pub fn view(fixture: &Fixture, snapshot: &Snapshot) -> Tree {
    let view = View::open(&fixture.repo, &scope(snapshot)).expect("the view opens");
    // As in the mount; else it shows modes that keep out whom the ACL keeps out.
    view.kernel_judges_acls(true);
    let mut tree = Tree::new();
    let mut inodes: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    let mut stack = vec![(Vec::new(), 1)];
    while let Some((relative, ino)) = stack.pop() {
        let attr = view.getattr(ino).expect("attributes");
        let (kind, content) = match attr.kind {
            Type::Directory => {
                let mut below = Vec::new();
                let mut take = |e: yester::vfs::attr::DirEntry<'_>| {
                    below.push(e.name.to_vec());
                    false
                };
                view.readdir(ino, 0, &mut take).expect("a listing");
                for name in below.into_iter().filter(|n| n != b"." && n != b"..") {
                    let found = view.lookup(ino, &name).expect("a lookup").expect("a listed name");
                    stack.push((capture::joined(&relative, &name), found.ino));
                }
                ("directory", String::new())
            }
            Type::Symlink => ("symlink", capture::shown(&view.readlink(ino).expect("a target"))),
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
            flags: view.flags(ino).expect("flags"),
            nlink: u64::from(attr.nlink),
            links: Vec::new(),
            birth: view.getxattr(ino, b"user.yester.btime").ok().map(|b| String::from_utf8(b).expect("a time")),
        };
        tree.insert(relative, record);
    }
    capture::link(&mut tree, inodes.into_values());
    tree
}

fn content(view: &View, ino: u64, size: u64) -> String {
    let next = |at| match view.seek_data(ino, at) {
        Ok(start) => view.seek_hole(ino, start).map(|end| Some((start, end))),
        Err(ViewFault::PastEnd) => Ok(None),
        Err(fault) => Err(fault),
    };
    let found = capture::content(size, next, |at, len, out| view.read(ino, at, len, out)).expect("content is read");
    let mut beyond = Vec::new();
    view.read(ino, size, 10, &mut beyond).expect("a read at the end");
    assert!(beyond.is_empty());
    found
}

/// Restored to a directory: a new one, or one that holds another snapshot, of which nothing stays that is not in this.
/// With `memory` bytes to work in.
pub fn restored(fixture: &Fixture, snapshot: &Snapshot, to: &Path, memory: u64) -> Tree {
    let names = BASE.iter().map(|n| n.to_vec()).collect();
    let request = RestoreRequest { sources: vec![(Arc::new(snapshot.clone()), names)], target: to.to_owned() };
    let confirm = Some(yester::restore::danger::Confirm::new(|_| true));
    let options = RestoreOptions { delete: true, confirm, memory, ..RestoreOptions::default() };
    let report = restore(&fixture.trees(), &request, &options, &Task::new(&Told)).expect("the restore succeeds");
    assert!(report.is_complete(), "{report:?}");
    capture::directory(to)
}

/// Says what a restore could not do: the report only counts it.
struct Told;

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { subject, message } = event {
            eprintln!("{}: {message}", yester::model::escape(subject));
        }
    }
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
        is_ready.recv_timeout(Duration::from_secs(300)).expect("the mount answers");
        let tree = std::panic::catch_unwind(|| seen(point.path()));
        shutdown.trigger();
        let ended = server.join().expect("the mount's thread ends");
        // If the server gave up, something may still be mounted.
        let _ = unmount(point.path());
        ended.expect("the mount ends well");
        tree.unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

/// The tree that a mount shows, with the births that it tells of in its own way. Checks what only a mount shows.
fn seen(point: &Path) -> Tree {
    let mut tree = capture::directory(point);
    born(&Dir::open(point).expect("the mount opens"), &[], &mut tree);
    tree
}

fn born(dir: &Dir, relative: &[u8], tree: &mut Tree) {
    tree.get_mut(relative).expect("a directory").birth = attribute(dir);
    let listing = dir.list().expect("a listing");
    for at in 0..listing.len() {
        let (name, path) = (listing.name(at), capture::joined(relative, listing.name(at)));
        let stat = dir.stat(name).expect("a stat");
        assert_eq!(stat.ctime, stat.mtime);
        match stat.kind {
            FileKind::Directory => born(&dir.open_dir(name).expect("a directory"), &path, tree),
            FileKind::File => {
                let file = dir.open_file(name).expect("a file");
                let record = tree.get_mut(&path).expect("a file");
                record.birth = attribute(&file);
                let ranges = record.content.split(['[', ']']).nth(1).expect("ranges");
                let numbers: Vec<u64> = ranges.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
                let data: u64 = numbers.chunks(2).map(|range| range[1] - range[0]).sum();
                assert_eq!(stat.blocks, data.div_ceil(512), "blocks of {}", yester::model::escape(&path));
            }
            _ => {}
        }
    }
}

fn attribute(fd: impl AsFd) -> Option<String> {
    let mut value = [0; 64];
    // SAFETY: the name is a C string, and the buffer has the length that is given.
    #[allow(unsafe_code)]
    let len =
        unsafe { libc::fgetxattr(fd.as_fd().as_raw_fd(), c"user.yester.btime".as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(len).ok().map(|len| String::from_utf8_lossy(&value[..len]).into_owned())
}
