//! What a tree is, by everything that a backup must give back: read from a directory, wherever it comes from, or
//! straight from the repository.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use yester::model::{Kind, LinkGroup, Node, Snapshot};
use yester::repo::tree::TreeReader;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    /// A file's size and BLAKE3, a link's target, a device's number.
    pub content: String,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Every path of the same inode, when there are several.
    pub links: Vec<Vec<u8>>,
}

/// A tree: paths relative to its root (empty for the root itself).
pub type Tree = BTreeMap<Vec<u8>, Record>;

/// Reads a directory.
pub fn directory(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut inodes: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
    let mut stack = vec![Vec::new()];
    while let Some(relative) = stack.pop() {
        let path = if relative.is_empty() { root.to_owned() } else { root.join(std::ffi::OsStr::from_bytes(&relative)) };
        let meta = path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let kind = meta.file_type();
        let (kind, content) = if kind.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
                let name = entry.expect("an entry").file_name();
                let slash: &[u8] = if relative.is_empty() { b"" } else { b"/" };
                stack.push([&relative, slash, name.as_bytes()].concat());
            }
            ("directory", String::new())
        } else if kind.is_symlink() {
            ("symlink", format!("{:?}", std::fs::read_link(&path).expect("a target")))
        } else if kind.is_file() {
            ("file", hash(std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())), &path))
        } else if kind.is_fifo() {
            ("fifo", String::new())
        } else if kind.is_socket() {
            ("socket", String::new())
        } else {
            let name = if kind.is_block_device() { "block" } else { "char" };
            (name, format!("{}:{}", libc::major(meta.rdev()), libc::minor(meta.rdev())))
        };
        if kind != "directory" {
            inodes.entry((meta.dev(), meta.ino())).or_default().push(relative.clone());
        }
        let record = Record {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
            xattrs: xattrs(&path),
            links: Vec::new(),
        };
        tree.insert(relative, record);
    }
    link(&mut tree, inodes.into_values());
    tree
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

fn hash(mut file: std::fs::File, path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
            0 => return format!("{size} {}", hasher.finalize()),
            n => {
                size += n;
                hasher.update(&buffer[..n]);
            }
        }
    }
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let dir = yester::sys::Dir::open(parent).expect("the parent opens");
    yester::sys::xattr::list_at(&dir, name.as_bytes()).expect("attributes are listed")
}

/// Reads what a snapshot holds below `base` (names without slashes), through the tree reader alone.
pub fn snapshot(trees: &Arc<TreeReader>, snapshot: &Snapshot, base: &[&[u8]]) -> Tree {
    let mut tree = Tree::new();
    let mut groups: HashMap<LinkGroup, Vec<Vec<u8>>> = HashMap::new();
    let (root, _) = trees.walk_to(&snapshot.root, base).expect("the base is in the snapshot");
    let mut stack = vec![(Vec::new(), root)];
    while let Some((relative, node)) = stack.pop() {
        if let Some(directory) = node.directory() {
            let mut counted = 0;
            for entry in trees.entries(directory) {
                let entry = entry.expect("an entry of a snapshot");
                let slash: &[u8] = if relative.is_empty() { b"" } else { b"/" };
                counted += entry.node().weight();
                stack.push(([&relative, slash, &entry.node().name].concat(), entry.node().clone()));
            }
            assert_eq!(counted, directory.descendants);
        }
        if let Some(group) = node.link {
            groups.entry(group).or_default().push(relative.clone());
        }
        tree.insert(relative, record(trees, &node));
    }
    for (group, paths) in &groups {
        let table = snapshot.links.as_ref().expect("a table of links");
        let entry = trees.link(table, group).expect("the table is read").expect("the group is in the table");
        assert!(entry.count as usize >= paths.len());
    }
    link(&mut tree, groups.into_values());
    tree
}

fn record(trees: &TreeReader, node: &Node) -> Record {
    let (kind, content) = match &node.kind {
        Kind::Directory(_) => ("directory", String::new()),
        Kind::Symlink(target) => ("symlink", format!("{:?}", std::ffi::OsStr::from_bytes(target))),
        Kind::Fifo => ("fifo", String::new()),
        Kind::Socket => ("socket", String::new()),
        Kind::CharDevice(major, minor) => ("char", format!("{major}:{minor}")),
        Kind::BlockDevice(major, minor) => ("block", format!("{major}:{minor}")),
        Kind::File(content) => {
            let mut hasher = blake3::Hasher::new();
            let mut buffer = Vec::new();
            let mut at = 0;
            while at < content.size() {
                trees.read(content, at, 100_000, &mut buffer).expect("content is read");
                assert!(!buffer.is_empty());
                hasher.update(&buffer);
                at += buffer.len() as u64;
            }
            ("file", format!("{at} {}", hasher.finalize()))
        }
    };
    Record {
        kind,
        mode: u32::from(node.meta.mode),
        owner: (node.meta.uid, node.meta.gid),
        mtime: (node.meta.mtime.secs, i64::from(node.meta.mtime.nanos)),
        content,
        xattrs: trees.xattrs(node).expect("attributes are read"),
        links: Vec::new(),
    }
}

/// Fails with the first differences.
pub fn assert_same(expected: &Tree, found: &Tree, what: &str) {
    let mut differences = Vec::new();
    for path in expected.keys().chain(found.keys().filter(|p| !expected.contains_key(*p))) {
        if expected.get(path) != found.get(path) {
            let shown = yester::model::escape(path);
            differences.push(format!("{shown}:\n  expected {:?}\n  found    {:?}", expected.get(path), found.get(path)));
        }
    }
    let count = differences.len();
    differences.truncate(3);
    assert!(count == 0, "{what}: {count} entries differ\n{}", differences.join("\n"));
}
