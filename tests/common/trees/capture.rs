//! What a tree is, by everything that a backup must give back: read from a directory, wherever it comes from, or
//! straight from the repository.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use yester::model::{Content, Item, Kind, LinkGroup, Node, Snapshot, Timestamp};
use yester::repo::tree::TreeReader;
use yester::sys::{Dir, FileKind, Stat, dir, xattr};

/// Files up to this size are read whole, holes and all; of larger ones only the data.
const WHOLE: u64 = 32 << 20;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    /// A file's size, where its data is, and its BLAKE3; a link's target; a device's number.
    pub content: String,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// `chattr` flags of files and directories.
    pub flags: u32,
    pub nlink: u64,
    /// Every path of the same inode, when there are several.
    pub links: Vec<Vec<u8>>,
    /// When it was born, as `stat` writes it; where it is told.
    pub birth: Option<String>,
}

/// Which entries of a tree show when they were born.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Births {
    All,
    /// Linux lets nobody read attributes of users on anything else.
    FilesAndDirectories,
    None,
}

/// A tree: paths relative to its root (empty for the root itself).
pub type Tree = BTreeMap<Vec<u8>, Record>;

/// Device and number.
type Inode = ((u32, u32), u64);

/// Reads a directory, of any depth.
pub fn directory(root: &Path) -> Tree {
    let mut walk = Walk { tree: Tree::new(), inodes: HashMap::new() };
    let dir = Dir::open(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let stat = dir.stat_self().expect("its stat");
    let attributes = xattr::list(&dir).expect("attributes are listed");
    let own = (attributes, dir::user_flags(&dir).unwrap_or(0));
    walk.take(Vec::new(), &stat, String::new(), own);
    walk.below(&dir, &[]);
    link(&mut walk.tree, walk.inodes.into_values());
    walk.tree
}

struct Walk {
    tree: Tree,
    inodes: HashMap<Inode, Vec<Vec<u8>>>,
}

impl Walk {
    fn below(&mut self, dir: &Dir, relative: &[u8]) {
        let listing = dir.list().unwrap_or_else(|e| panic!("{}: {e}", yester::model::escape(relative)));
        for at in 0..listing.len() {
            let name = listing.name(at);
            let path = joined(relative, name);
            let fail = |e: std::io::Error| -> ! { panic!("{}: {e}", yester::model::escape(&path)) };
            let stat = dir.stat(name).unwrap_or_else(|e| fail(e));
            let attributes = xattr::list_at(dir, name).unwrap_or_else(|e| fail(e));
            match stat.kind {
                FileKind::Directory => {
                    let below = dir.open_dir(name).unwrap_or_else(|e| fail(e));
                    let flags = dir::user_flags(&below).unwrap_or(0);
                    self.take(path.clone(), &stat, String::new(), (attributes, flags));
                    self.below(&below, &path);
                }
                FileKind::File => {
                    let file = dir.open_file(name).unwrap_or_else(|e| fail(e));
                    let flags = dir::user_flags(&file).unwrap_or(0);
                    let content = of_file(&file, stat.size).unwrap_or_else(|e| fail(e));
                    self.take(path, &stat, content, (attributes, flags));
                }
                FileKind::Symlink => {
                    let target = shown(&dir.read_link(name).unwrap_or_else(|e| fail(e)));
                    self.take(path, &stat, target, (attributes, 0));
                }
                FileKind::CharDevice | FileKind::BlockDevice => {
                    self.take(path, &stat, format!("{}:{}", stat.rdev.0, stat.rdev.1), (attributes, 0));
                }
                _ => self.take(path, &stat, String::new(), (attributes, 0)),
            }
        }
    }

    fn take(&mut self, path: Vec<u8>, stat: &Stat, content: String, own: (xattr::XattrList, u32)) {
        if stat.kind != FileKind::Directory {
            self.inodes.entry((stat.device, stat.inode)).or_default().push(path.clone());
        }
        // The mount tells of a birth in an attribute that is not listed.
        let record = Record {
            kind: kind_name(stat.kind),
            mode: u32::from(stat.mode),
            owner: (stat.uid, stat.gid),
            mtime: (stat.mtime.secs, i64::from(stat.mtime.nanos)),
            content,
            xattrs: own.0,
            flags: own.1,
            nlink: u64::from(stat.links),
            links: Vec::new(),
            birth: stat.birth.map(birth),
        };
        self.tree.insert(path, record);
    }
}

pub fn joined(relative: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if relative.is_empty() { b"" } else { b"/" };
    [relative, slash, name].concat()
}

pub fn shown(target: &[u8]) -> String {
    format!("{:?}", std::ffi::OsStr::from_bytes(target))
}

pub fn birth(time: Timestamp) -> String {
    format!("{}.{:09}", time.secs, time.nanos)
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char",
        FileKind::BlockDevice => "block",
        FileKind::Unknown => "unknown",
    }
}

fn of_file(file: &File, size: u64) -> std::io::Result<String> {
    let read = |at, len, out: &mut Vec<u8>| {
        out.clear();
        dir::read_up_to(file, at, len, out).map(drop)
    };
    content(size, |at| dir::next_data(file, at), read)
}

/// Says what a file holds: its size, its ranges of data, and a hash of these or, of a file that is not too long, of all
/// of it. `next` finds the range of data at or after an offset, `read` reads.
pub fn content<E>(
    size: u64,
    mut next: impl FnMut(u64) -> Result<Option<(u64, u64)>, E>,
    mut read: impl FnMut(u64, usize, &mut Vec<u8>) -> Result<(), E>,
) -> Result<String, E> {
    let (mut ranges, mut at): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
    while at < size {
        let Some((start, end)) = next(at)? else { break };
        let (start, end) = (start.min(size), end.min(size));
        match ranges.last_mut() {
            // Chunks follow each other; a range of a file system may be told in parts, too.
            Some(last) if last.1 == start => last.1 = end,
            _ if start < end => ranges.push((start, end)),
            _ => {}
        }
        at = end.max(at + 1);
    }
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), Vec::new());
    let whole = [(0, size)];
    for (start, end) in if size <= WHOLE { &whole[..] } else { &ranges } {
        let mut at = *start;
        while at < *end {
            let wanted = (end - at).min(77_777);
            read(at, wanted as usize, &mut buffer)?;
            assert_eq!(buffer.len() as u64, wanted, "a read is short at {at} of {size}");
            hasher.update(&buffer);
            at += wanted;
        }
    }
    Ok(format!("{size} {ranges:?} {}", hasher.finalize()))
}

/// Notes which paths share an inode.
pub fn link(tree: &mut Tree, groups: impl Iterator<Item = Vec<Vec<u8>>>) {
    for mut group in groups.filter(|g| g.len() > 1) {
        group.sort();
        for path in &group {
            tree.get_mut(path).expect("a linked path is there").links.clone_from(&group);
        }
    }
}

/// Reads what a snapshot holds below `base` (names without slashes), through the tree reader alone.
pub fn snapshot(trees: &Arc<TreeReader>, snapshot: &Snapshot, base: &[&[u8]]) -> Tree {
    let mut tree = Tree::new();
    let mut groups: HashMap<LinkGroup, Vec<Vec<u8>>> = HashMap::new();
    let (root, position) = trees.walk_to(&snapshot.root, base).expect("the base is in the snapshot");
    let mut stack = vec![(Vec::new(), root, position)];
    while let Some((relative, node, position)) = stack.pop() {
        if let Some(directory) = node.directory() {
            let mut counted = 0;
            for entry in trees.entries(directory) {
                let entry = entry.expect("an entry of a snapshot");
                counted += entry.node().weight();
                stack.push((joined(&relative, &entry.node().name), entry.node().clone(), position + entry.offset));
            }
            assert_eq!(counted, directory.descendants);
        }
        if let Some(group) = node.link {
            groups.entry(group).or_default().push(relative.clone());
        }
        tree.insert(relative, record(trees, snapshot, &node, position));
    }
    for (group, paths) in &groups {
        let table = snapshot.links.as_ref().expect("a table of links");
        let entry = trees.link(table, group).expect("the table is read").expect("the group is in the table");
        assert!(entry.count as usize >= paths.len());
        for path in paths {
            tree.get_mut(path).expect("it is there").nlink = u64::from(entry.count);
        }
    }
    link(&mut tree, groups.into_values());
    tree
}

fn record(trees: &TreeReader, snapshot: &Snapshot, node: &Node, position: u64) -> Record {
    let mut nlink = 1;
    let (kind, content) = match &node.kind {
        Kind::Directory(directory) => {
            nlink = directory.subdirs + 2;
            ("directory", String::new())
        }
        Kind::Symlink(target) => ("symlink", shown(target)),
        Kind::Fifo => ("fifo", String::new()),
        Kind::Socket => ("socket", String::new()),
        Kind::CharDevice(major, minor) => ("char", format!("{major}:{minor}")),
        Kind::BlockDevice(major, minor) => ("block", format!("{major}:{minor}")),
        Kind::File(content) => ("file", of_node(trees, content).expect("content is read")),
    };
    let scan = snapshot.scan.as_ref().expect("scan records");
    let (first, records) = trees.scan_page(scan, position).expect("a page of scan records");
    let born = records[(position - first) as usize].birth;
    Record {
        kind,
        mode: u32::from(node.meta.mode),
        owner: (node.meta.uid, node.meta.gid),
        mtime: (node.meta.mtime.secs, i64::from(node.meta.mtime.nanos)),
        content,
        xattrs: trees.xattrs(node).expect("attributes are read"),
        flags: node.meta.flags,
        nlink,
        links: Vec::new(),
        birth: born.map(birth),
    }
}

fn of_node(trees: &TreeReader, file: &Content) -> yester::Result<String> {
    let next = |at| {
        if let Content::Inline(bytes) = file {
            return Ok(Some((at, bytes.len() as u64)));
        }
        let mut found = None;
        trees.items(file, at, &mut |start, item| {
            if matches!(item, Item::Chunk { .. }) {
                found = Some((start.max(at), start + item.len()));
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    };
    let read = |at, len, out: &mut Vec<u8>| {
        let mut piece = Vec::new();
        out.clear();
        while out.len() < len {
            trees.read(file, at + out.len() as u64, len - out.len(), &mut piece)?;
            assert!(!piece.is_empty());
            out.extend_from_slice(&piece);
        }
        Ok(())
    };
    content(file.size(), next, read)
}

/// The same tree with only those births that `births` shows.
fn with_births(tree: &Tree, births: Births) -> Tree {
    let mut tree = tree.clone();
    for record in tree.values_mut() {
        let shows = match births {
            Births::All => true,
            Births::FilesAndDirectories => matches!(record.kind, "file" | "directory"),
            Births::None => false,
        };
        if !shows {
            record.birth = None;
        }
    }
    tree
}

/// Fails with the first differences.
pub fn assert_same(expected: &Tree, found: &Tree, births: Births, what: &str) {
    let (expected, found) = (with_births(expected, births), with_births(found, births));
    let mut differences = Vec::new();
    for path in expected.keys().chain(found.keys().filter(|p| !expected.contains_key(*p))) {
        if expected.get(path) != found.get(path) {
            let shown = yester::model::escape(path.rsplit(|b| *b == b'/').next().unwrap_or_default());
            differences.push(format!("{shown}:\n  expected {:?}\n  found    {:?}", expected.get(path), found.get(path)));
        }
    }
    let count = differences.len();
    differences.truncate(3);
    assert!(count == 0, "{what}: {count} entries differ\n{}", differences.join("\n"));
}
