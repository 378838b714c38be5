//! What the builder asks of a tree; and snapshots as such trees.

use std::sync::Arc;

use crate::error::Result;
use crate::model::{Content, Directory, Item, Node};
use crate::repo::tree::{Entry, TreeReader};
use crate::vfs::attr::{ViewFault, ViewResult};
use crate::vfs::below::{FoundNode, NodeFinder};
use crate::vfs::root::MountedSnapshot;
use crate::vfs::stat::Shower;

/// What is shown of a node besides what it says itself.
#[derive(Debug, Clone, Copy)]
pub struct ShownAttributes {
    /// Permissions.
    pub(crate) mode: u16,
    /// Owner and group.
    pub(crate) owner: (u32, u32),
    /// Names.
    pub(crate) links: u32,
}

/// A tree. Positions are of its own preorder; the root's is 0.
pub trait Tree {
    /// An entry of a directory.
    type Entry;
    /// The root.
    fn root(&self) -> Result<Node>;
    /// The first entry of a directory.
    fn first(&self, directory: &Directory) -> Result<Option<Self::Entry>>;
    /// The entry after this one.
    fn next(&self, directory: &Directory, entry: &Self::Entry) -> Result<Option<Self::Entry>>;
    /// An entry's node.
    fn node<'a>(&self, entry: &'a Self::Entry) -> &'a Node;
    /// An entry's position less its directory's.
    fn offset(&self, entry: &Self::Entry) -> u64;
    /// What is shown of the node at a position.
    fn shown(&self, position: u64, node: &Node) -> Result<ShownAttributes>;
    /// Its extended attributes, sorted.
    fn xattrs(&self, node: &Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
    /// The position of the first link of the same file. The caller checks that it is one.
    fn first_link(&self, node: &Node) -> Result<Option<u64>>;
    /// Whether what stands at a position is a link of the same file as `node`.
    fn is_link_of(&self, position: u64, node: &Node) -> Result<bool>;
    /// A file's pieces, in order.
    fn items(&self, content: &Content, visit: &mut dyn FnMut(u64, &Item) -> Result<bool>) -> Result<()>;
}

/// A directory of a snapshot with all below it.
#[derive(Debug)]
pub(crate) struct ImagePart {
    below: Arc<NodeFinder>,
    tree: Arc<MountedSnapshot>,
    /// Where it is in the snapshot.
    position: u64,
    shower: Shower,
    without_xattrs: bool,
}

impl ImagePart {
    /// The directory at `position` of a snapshot.
    pub(crate) fn new(
        below: Arc<NodeFinder>,
        tree: Arc<MountedSnapshot>,
        position: u64,
        owner_root: bool,
        without_xattrs: bool,
    ) -> ImagePart {
        let shower = Shower::new(owner_root);
        shower.kernel_judges_acls.store(!without_xattrs, std::sync::atomic::Ordering::Relaxed);
        ImagePart { below, tree, position, shower, without_xattrs }
    }

    pub(super) fn trees(&self) -> &TreeReader {
        self.below.trees()
    }

    /// The snapshot.
    pub(super) fn mounted(&self) -> &Arc<MountedSnapshot> {
        &self.tree
    }

    /// A position as the snapshot counts it.
    pub(super) fn position(&self, position: u64) -> u64 {
        self.position.saturating_add(position)
    }

    /// The node at a position.
    pub(super) fn found(&self, position: u64) -> ViewResult<FoundNode> {
        let position = self.position.checked_add(position).ok_or(ViewFault::Stale)?;
        self.below.node(&self.tree, position)
    }
}

impl Tree for ImagePart {
    type Entry = Entry;

    fn root(&self) -> Result<Node> {
        self.found(0).map(|found| found.node().clone()).map_err(ViewFault::into_error)
    }

    fn first(&self, directory: &Directory) -> Result<Option<Entry>> {
        self.trees().entry_number(directory, 0)
    }

    fn next(&self, directory: &Directory, entry: &Entry) -> Result<Option<Entry>> {
        self.trees().next(directory, entry)
    }

    fn node<'a>(&self, entry: &'a Entry) -> &'a Node {
        entry.node()
    }

    fn offset(&self, entry: &Entry) -> u64 {
        entry.offset
    }

    fn shown(&self, position: u64, node: &Node) -> Result<ShownAttributes> {
        let attr = self.shower.attr(self.trees(), &self.tree, self.position + position, node).map_err(ViewFault::into_error)?;
        Ok(ShownAttributes { mode: attr.mode, owner: (attr.uid, attr.gid), links: attr.nlink })
    }

    fn xattrs(&self, node: &Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        if self.without_xattrs { Ok(Vec::new()) } else { self.trees().xattrs(node) }
    }

    fn first_link(&self, node: &Node) -> Result<Option<u64>> {
        let (Some(group), Some(root)) = (&node.link, &self.tree.snapshot.links) else { return Ok(None) };
        let link = self.trees().link(root, group)?;
        Ok(link.and_then(|link| link.first.checked_sub(self.position)))
    }

    fn is_link_of(&self, position: u64, node: &Node) -> Result<bool> {
        let found = self.found(position).map_err(ViewFault::into_error)?;
        Ok(found.node().link.is_some() && found.node().link == node.link)
    }

    fn items(&self, content: &Content, visit: &mut dyn FnMut(u64, &Item) -> Result<bool>) -> Result<()> {
        self.trees().items(content, 0, visit)
    }
}
