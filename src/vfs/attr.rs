//! What the view answers: attributes, directory entries, faults. Plain values, no kernel types.

use std::fmt;

use crate::error::Error;
use crate::model::Timestamp;

/// What kind of entry an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What `stat` says of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Kind of entry.
    pub kind: Type,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u16,
    /// Names of the inode.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node: major and minor.
    pub rdev: (u32, u32),
    /// Logical size in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Modified; access and change time are shown as the same.
    pub mtime: Timestamp,
    /// Whether the attributes stay true for as long as the mount lasts.
    pub(crate) lasting: bool,
}

/// One entry that `readdir` gives out.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Where to go on after it.
    pub next: u64,
    /// Its attributes.
    pub attr: Attr,
    /// False when the attributes could not all be read: they must not be kept, so that who asks for them by name
    /// learns of the damage.
    pub(crate) certain: bool,
    /// Whether the name stays true for as long as the mount lasts.
    pub(crate) lasting: bool,
}

/// Totals of the file system, for `df`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileSystemTotals {
    /// Logical bytes of all files in the snapshots shown.
    pub bytes: u64,
    /// Entries in the snapshots shown.
    pub entries: u64,
}

/// Why an operation has no answer. A name that is not there is no fault: `lookup` answers `None`.
#[derive(Debug)]
pub enum ViewFault {
    /// The inode number belongs to nothing that this mount knows (any more).
    Stale,
    /// A directory was needed.
    NotDirectory,
    /// A regular file was needed and this is a directory.
    IsDirectory,
    /// The operation is not for this kind of entry.
    Invalid,
    /// There is no such extended attribute.
    NoAttribute,
    /// The offset is at or behind the end, or only a hole follows.
    PastEnd,
    /// A name is longer than any entry's.
    NameTooLong,
    /// Data is damaged, missing, or could not be fetched.
    Unreadable(Error),
}

impl fmt::Display for ViewFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ViewFault::Stale => f.write_str("the inode is gone"),
            ViewFault::NotDirectory => f.write_str("not a directory"),
            ViewFault::IsDirectory => f.write_str("a directory"),
            ViewFault::Invalid => f.write_str("not for this kind of entry"),
            ViewFault::NoAttribute => f.write_str("no such attribute"),
            ViewFault::PastEnd => f.write_str("no data from there on"),
            ViewFault::NameTooLong => f.write_str("the name is too long"),
            ViewFault::Unreadable(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ViewFault {}

impl From<Error> for ViewFault {
    fn from(e: Error) -> Self {
        ViewFault::Unreadable(e)
    }
}

impl ViewFault {
    /// The error of a reader that goes through a whole tree: everything in it is there, unless the tree is damaged.
    pub(crate) fn into_error(self) -> Error {
        match self {
            ViewFault::Unreadable(e) => e,
            other => Error::corrupt(format!("a tree does not hold together: {other}")),
        }
    }
}

/// The result of an operation of the view.
pub type ViewResult<T> = std::result::Result<T, ViewFault>;
