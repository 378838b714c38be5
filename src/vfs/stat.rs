//! Attributes of nodes and of made-up entries.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{Kind, Node, Xattrs};
use crate::repo::tree::TreeReader;
use crate::sys::process;
use crate::vfs::attr::{Attr, Type, ViewResult};
use crate::vfs::root::{MadeKind, MountedSnapshot, VirtualEntry};

/// How nodes are shown.
#[derive(Debug)]
pub(crate) struct Shower {
    owner_root: bool,
    owner: (u32, u32),
    /// See [`crate::vfs::view::View::kernel_judges_acls`].
    pub(crate) kernel_judges_acls: AtomicBool,
}

impl Shower {
    /// Made-up entries belong to this process's user; with `owner_root` everything belongs to root.
    pub(crate) fn new(owner_root: bool) -> Self {
        let owner = if owner_root { (0, 0) } else { (process::user(), process::group()) };
        Shower { owner_root, owner, kernel_judges_acls: AtomicBool::new(false) }
    }

    /// The attributes of a made-up entry.
    pub(crate) fn made(&self, ino: u64, made: &VirtualEntry) -> Attr {
        let (kind, mode, nlink, size) = match &made.kind {
            MadeKind::Directory(dir) => (Type::Directory, 0o555, dir.subdirs.saturating_add(2), 0),
            MadeKind::Link(target) => (Type::Symlink, 0o777, 1, target.len() as u64),
        };
        let (uid, gid) = self.owner;
        Attr { ino, kind, mode, nlink, uid, gid, rdev: (0, 0), size, blocks: 0, mtime: made.time, lasting: false }
    }

    /// The attributes of the node at `position` of `tree`. All links of a file have the number of the first.
    pub(super) fn attr(&self, trees: &TreeReader, tree: &MountedSnapshot, position: u64, node: &Node) -> ViewResult<Attr> {
        let mut attr = self.plain(tree, position, node);
        if let (Some(group), Some(root)) = (&node.link, &tree.snapshot.links)
            && let Some(link) = trees.link(root, group)?.filter(|link| link.first < tree.snapshot.nodes())
        {
            attr.ino = tree.base + link.first;
            attr.nlink = link.count.max(1);
        }
        if node.meta.xattrs != Xattrs::None && !self.kernel_judges_acls.load(Ordering::Relaxed) {
            let list = trees.xattrs(node)?;
            let acl = list.iter().find(|(name, _)| name == b"system.posix_acl_access");
            if let Some(group) = acl.and_then(|(_, acl)| owning_group(acl)) {
                attr.mode &= !0o070 | group << 3;
            }
        }
        Ok(attr)
    }

    /// The attributes, or, when some of them are damaged, what is known without them, and false.
    pub(super) fn attr_or_guess(&self, trees: &TreeReader, tree: &MountedSnapshot, position: u64, node: &Node) -> (Attr, bool) {
        match self.attr(trees, tree, position, node) {
            Ok(attr) => (attr, true),
            Err(_) => (self.plain(tree, position, node), false),
        }
    }

    fn plain(&self, tree: &MountedSnapshot, position: u64, node: &Node) -> Attr {
        let size = node.size();
        let mut nlink = 1;
        let (kind, size, blocks, rdev) = match &node.kind {
            Kind::File(content) => (Type::File, size, content.data().div_ceil(512), (0, 0)),
            Kind::Directory(directory) => {
                nlink = u32::try_from(directory.subdirs.saturating_add(2)).unwrap_or(u32::MAX);
                (Type::Directory, 4096, 8, (0, 0))
            }
            Kind::Symlink(_) => (Type::Symlink, size, 0, (0, 0)),
            Kind::Fifo => (Type::Fifo, 0, 0, (0, 0)),
            Kind::Socket => (Type::Socket, 0, 0, (0, 0)),
            Kind::CharDevice(major, minor) => (Type::CharDevice, 0, 0, (*major, *minor)),
            Kind::BlockDevice(major, minor) => (Type::BlockDevice, 0, 0, (*major, *minor)),
        };
        let (uid, gid) = if self.owner_root { (0, 0) } else { (node.meta.uid, node.meta.gid) };
        let (ino, mode, mtime) = (tree.base + position, node.meta.mode, node.meta.mtime);
        Attr { ino, kind, mode, nlink, uid, gid, rdev, size, blocks, mtime, lasting: true }
    }
}

/// The permission bits of the owning group in an access ACL: version (4 bytes, 2), then entries of tag, permissions
/// (2 bytes each) and id (4 bytes), little-endian. `None` for bytes that are no ACL.
fn owning_group(acl: &[u8]) -> Option<u16> {
    const GROUP_OBJ: [u8; 2] = [4, 0];
    let (version, entries) = acl.split_first_chunk::<4>()?;
    if *version != [2, 0, 0, 0] {
        return None;
    }
    let entry = entries.chunks_exact(8).find(|entry| entry[..2] == GROUP_OBJ)?;
    Some(u16::from_le_bytes([entry[2], entry[3]]) & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owning_group_of_an_acl() {
        // user::rw-, user:1000:rw-, group::r--, mask::rw-, other::---
        let entries: [[u8; 8]; 5] = [
            [1, 0, 6, 0, 255, 255, 255, 255],
            [2, 0, 6, 0, 232, 3, 0, 0],
            [4, 0, 4, 0, 255, 255, 255, 255],
            [16, 0, 6, 0, 255, 255, 255, 255],
            [32, 0, 0, 0, 255, 255, 255, 255],
        ];
        let acl = [vec![2, 0, 0, 0], entries.concat()].concat();
        assert_eq!(owning_group(&acl), Some(4));
        assert_eq!(owning_group(&acl[..3]), None);
        assert_eq!(owning_group(b"\x01\0\0\0"), None);
    }
}
