//! A directory entry as a value: name, kind, metadata, content.

use crate::error::{Error, Result};
use crate::model::id::{ChunkId, LinkGroup};

/// The longest name of one entry, as on Linux.
pub const MAX_NAME: usize = 255;
/// The longest target of a symbolic link (`PATH_MAX` without its NUL).
pub const MAX_TARGET: usize = 4095;

/// A point in time as file systems keep it: seconds since 1970 (negative before) and nanoseconds below 10⁹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// One piece of a file's content, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Stored bytes.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Its length in bytes, never 0.
        len: u32,
    },
    /// A hole: nothing is allocated there and it reads as zeros.
    Hole {
        /// Its length in bytes, never 0.
        len: u64,
    },
}

impl Item {
    /// Logical length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Item::Chunk { len, .. } => u64::from(*len),
            Item::Hole { len } => *len,
        }
    }

    /// Never true for a decoded item; here because a `len` asks for it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The root of a B-tree of pages: its page and how many levels of inner pages stand above the leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root {
    /// The root page.
    pub page: ChunkId,
    /// 0 when the root page is a leaf.
    pub height: u8,
}

/// The content of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The bytes themselves; small files only.
    Inline(Vec<u8>),
    /// A short recipe.
    Items(Vec<Item>),
    /// A long recipe, in a B-tree.
    Tree {
        /// Where the recipe is.
        root: Root,
        /// Logical size in bytes.
        size: u64,
        /// Bytes in chunks: the size less the holes.
        data: u64,
    },
}

impl Content {
    /// Logical size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Items(items) => items.iter().map(Item::len).sum(),
            Content::Tree { size, .. } => *size,
        }
    }

    /// Bytes that are not in holes.
    pub fn data(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Items(items) => {
                items.iter().map(|i| if let Item::Chunk { len, .. } = i { u64::from(*len) } else { 0 }).sum()
            }
            Content::Tree { data, .. } => *data,
        }
    }
}

/// What a directory's own node says of what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Directory {
    /// The B-tree of its entries; `None` when it is empty.
    pub root: Option<Root>,
    /// Direct entries.
    pub entries: u64,
    /// Entries below it at any depth. Checked when the directory is read; inode numbers are built on it.
    pub descendants: u64,
    /// Direct entries that are directories (`st_nlink` is this plus 2).
    pub subdirs: u64,
}

/// What kind of entry a node is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory(Directory),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
}

/// Extended attributes, sorted by name; ACLs are among them as `system.posix_acl_*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Xattrs {
    /// None at all.
    #[default]
    None,
    /// In the node.
    Inline(Vec<(Vec<u8>, Vec<u8>)>),
    /// In a chunk of the tree packs: the same encoding as inline ones.
    Stored(ChunkId),
}

/// What every kind of entry has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with suid, sgid and sticky: `st_mode & 0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// `chattr` flags (`FS_IOC_GETFLAGS`) that restore sets again; 0 for none.
    pub flags: u32,
}

/// What of a directory is not in the snapshot, as bits: how much of what is there the snapshot cannot know. Bits that
/// this program does not know are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut(pub u32);

impl LeftOut {
    /// Some of its entries were excluded by the snapshot's rules.
    pub const EXCLUDED: LeftOut = LeftOut(1);
    /// It was not read whole: some of its entries are not known.
    pub const UNREAD: LeftOut = LeftOut(2);
    /// Another file system is mounted here, which was not entered.
    pub const MOUNTED: LeftOut = LeftOut(4);
    /// An entry could not be stored.
    pub const LOST: LeftOut = LeftOut(8);
    /// All that is in it was excluded, since a file in it says so.
    pub const MARKED: LeftOut = LeftOut(16);
    /// Its extended attributes could not be read, or not all of them stored: of an entry of any kind.
    pub const ATTRIBUTES: LeftOut = LeftOut(32);

    /// Whether any of these bits is set.
    pub fn has(self, other: LeftOut) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds these bits.
    pub fn add(&mut self, other: LeftOut) {
        self.0 |= other.0;
    }

    /// The names of the bits that are set, in a fixed order.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            (Self::EXCLUDED, "excluded"),
            (Self::UNREAD, "unread"),
            (Self::MOUNTED, "mounted"),
            (Self::LOST, "lost"),
            (Self::MARKED, "marked"),
            (Self::ATTRIBUTES, "attributes"),
        ];
        all.into_iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name).collect()
    }
}

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name: bytes, 1 to 255 of them, no `/`, no NUL, not `.` or `..`; empty only for a snapshot's root.
    pub name: Vec<u8>,
    /// Owner, mode, times, attributes.
    pub meta: Metadata,
    /// Kind and content.
    pub kind: Kind,
    /// The group of hard links this entry belongs to.
    pub link: Option<LinkGroup>,
    /// False for the parents of the given paths, which are there only to lead to them.
    pub given: bool,
    /// The file changed while it was read: what is stored may mix its states.
    pub changed: bool,
    /// What of it was left out: of a directory, or attributes of any entry.
    pub left_out: LeftOut,
}

impl Node {
    /// Logical size of a regular file or a link's target; 0 for the rest.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.size(),
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// What is below this node, when it is a directory.
    pub fn directory(&self) -> Option<&Directory> {
        match &self.kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// This node and everything below it: how many positions of the preorder it takes.
    pub fn weight(&self) -> u64 {
        1 + self.directory().map_or(0, |d| d.descendants)
    }
}

/// Refuses what no directory can hold or what would lead out of it.
pub fn check_name(name: &[u8]) -> Result<()> {
    let bad =
        name.is_empty() || name.len() > MAX_NAME || name == b"." || name == b".." || name.iter().any(|&b| b == b'/' || b == 0);
    if bad { Err(Error::corrupt(format!("{} is not a name of one entry", crate::model::escape(name)))) } else { Ok(()) }
}
