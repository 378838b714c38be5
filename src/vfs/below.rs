//! Below a snapshot: from a preorder position to the node that stands there.
//!
//! A position is found by going down from the root: every directory knows how many nodes are below each of its
//! entries. Nothing has to be remembered; what is remembered saves steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use quick_cache::sync::Cache;

use crate::model::{Directory, Node};
use crate::repo::tree::{Entry, TreeReader};
use crate::vfs::attr::{ViewFault, ViewResult};
use crate::vfs::root::MountedSnapshot;

/// Directories that are remembered, at about 100 bytes each.
const REMEMBERED: usize = 16 << 10;
/// Directories whose entries were just asked for.
const RECENT: usize = 16;

/// A directory of a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir {
    /// The snapshot.
    pub(crate) tree: Arc<MountedSnapshot>,
    /// Its position in the snapshot's preorder.
    pub(crate) position: u64,
    /// What is in it.
    pub(crate) directory: Directory,
    /// The position of the directory it is in; `None` for the snapshot's root.
    pub(crate) parent: Option<u64>,
}

impl SnapshotDir {
    /// Its inode number.
    pub(crate) fn ino(&self) -> u64 {
        self.tree.base + self.position
    }

    fn holds(&self, ino: u64) -> bool {
        let begin = self.ino();
        ino > begin && ino - begin <= self.directory.descendants
    }
}

/// A node where it is, without a copy.
#[derive(Debug, Clone)]
enum NodeLocation {
    Root(Arc<MountedSnapshot>),
    Entry(Entry),
}

/// A node that was found.
#[derive(Debug, Clone)]
pub(crate) struct FoundNode {
    place: NodeLocation,
    /// The directory it is in; `None` for the snapshot's root.
    pub(crate) parent: Option<SnapshotDir>,
}

impl FoundNode {
    /// The node.
    pub(crate) fn node(&self) -> &Node {
        match &self.place {
            NodeLocation::Root(mounted) => &mounted.snapshot.root,
            NodeLocation::Entry(entry) => entry.node(),
        }
    }

    /// Its number among the entries of its directory; `None` for the snapshot's root.
    pub(crate) fn number(&self) -> Option<u64> {
        match &self.place {
            NodeLocation::Root(_) => None,
            NodeLocation::Entry(entry) => Some(entry.number),
        }
    }
}

/// Finds nodes, and remembers directories.
#[derive(Debug)]
pub(crate) struct NodeFinder {
    trees: Arc<TreeReader>,
    known: Cache<u64, SnapshotDir>,
    recent: RwLock<[Option<SnapshotDir>; RECENT]>,
    next: AtomicUsize,
}

impl NodeFinder {
    /// Remembers nothing yet.
    pub(crate) fn new(trees: Arc<TreeReader>) -> Self {
        let known = Cache::new(REMEMBERED);
        NodeFinder { trees, known, recent: RwLock::default(), next: AtomicUsize::new(0) }
    }

    /// The trees behind it.
    pub(crate) fn trees(&self) -> &Arc<TreeReader> {
        &self.trees
    }

    /// The node at `position` of `tree`.
    pub(crate) fn node(&self, tree: &Arc<MountedSnapshot>, position: u64) -> ViewResult<FoundNode> {
        let root = || SnapshotDir { tree: tree.clone(), position: 0, directory: root_directory(tree), parent: None };
        if position == 0 {
            return Ok(FoundNode { place: NodeLocation::Root(tree.clone()), parent: None });
        }
        let ino = tree.base + position;
        let recent = self.nearest(ino);
        let from_recent = recent.as_ref().map(SnapshotDir::ino);
        let mut dir = recent.unwrap_or_else(root);
        loop {
            let entry = self.trees.entry_at(&dir.directory, position - dir.position)?.ok_or(ViewFault::Stale)?;
            let at = dir.position + entry.offset;
            if at == position {
                if from_recent != Some(dir.ino()) {
                    self.touch(&dir);
                }
                return Ok(FoundNode { place: NodeLocation::Entry(entry), parent: Some(dir) });
            }
            let directory = *entry.node().directory().ok_or(ViewFault::Stale)?;
            dir = SnapshotDir { tree: dir.tree, position: at, directory, parent: Some(dir.position) };
        }
    }

    /// The nodes from the snapshot's root, which has no name, to the one at `position`.
    pub(crate) fn way(&self, tree: &MountedSnapshot, position: u64) -> ViewResult<Vec<Node>> {
        let (mut way, mut at) = (vec![tree.snapshot.root.clone()], 0);
        while at < position {
            let directory = way.last().and_then(Node::directory).ok_or(ViewFault::Stale)?;
            let entry = self.trees.entry_at(directory, position - at)?.ok_or(ViewFault::Stale)?;
            at += entry.offset;
            way.push(entry.node().clone());
        }
        Ok(way)
    }

    /// The directory at `position` of `tree`.
    pub(crate) fn dir(&self, tree: &Arc<MountedSnapshot>, position: u64) -> ViewResult<SnapshotDir> {
        if let Some(dir) = self.known.get(&(tree.base + position)) {
            return Ok(dir);
        }
        let found = self.node(tree, position)?;
        let directory = *found.node().directory().ok_or(ViewFault::NotDirectory)?;
        let dir = SnapshotDir { tree: tree.clone(), position, directory, parent: found.parent.map(|p| p.position) };
        self.remember(dir.clone());
        Ok(dir)
    }

    /// Remembers a directory, so that the next look-up below it need not start at the root.
    pub(crate) fn remember(&self, dir: SnapshotDir) {
        self.known.insert(dir.ino(), dir);
    }

    /// The entry called `name` of `dir`. Its directory is likely to be asked for what is below it next.
    pub(crate) fn lookup(&self, dir: &SnapshotDir, name: &[u8]) -> ViewResult<Option<Entry>> {
        let entry = self.trees.lookup(&dir.directory, name)?;
        if entry.is_some() {
            self.touch(dir);
        }
        Ok(entry)
    }

    /// The deepest recent directory that holds the inode.
    fn nearest(&self, ino: u64) -> Option<SnapshotDir> {
        let recent = self.recent.read();
        recent.iter().flatten().filter(|dir| dir.holds(ino)).max_by_key(|dir| dir.position).cloned()
    }

    /// Puts a directory among the recent ones.
    pub(crate) fn touch(&self, dir: &SnapshotDir) {
        let known = |recent: &[Option<SnapshotDir>; RECENT]| recent.iter().flatten().any(|d| d.ino() == dir.ino());
        if known(&self.recent.read()) {
            return;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed) % RECENT;
        self.recent.write()[at] = Some(dir.clone());
    }
}

/// What is in the root of a snapshot; nothing if, against the rules, it is no directory.
fn root_directory(tree: &MountedSnapshot) -> Directory {
    tree.snapshot.root.directory().copied().unwrap_or_default()
}
