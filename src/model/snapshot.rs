//! A snapshot: the only commit point, and what it says of itself.

use crate::model::id::SnapshotId;
use crate::model::node::{Node, Root, Timestamp};

/// Names of the users and groups that own something in a snapshot, sorted by number. They are kept once a snapshot
/// and not in the nodes, so that trees of different hosts stay the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owners {
    /// User number and name.
    pub users: Vec<(u32, Vec<u8>)>,
    /// Group number and name.
    pub groups: Vec<(u32, Vec<u8>)>,
}

/// What an ingest counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes, sockets and devices.
    pub others: u64,
    /// Logical bytes of the regular files.
    pub bytes: u64,
    /// Files that the parent snapshot does not have.
    pub files_new: u64,
    /// Files that differ from the parent snapshot.
    pub files_changed: u64,
    /// Files taken over from the parent snapshot without being opened.
    pub files_unchanged: u64,
    /// Plain bytes of chunks that the repository did not have.
    pub bytes_new: u64,
    /// Bytes written to the repository.
    pub bytes_stored: u64,
    /// Entries that could not be read, or changed while they were.
    pub errors: u64,
}

/// A snapshot's record. Its tree is reached from `root`; everything else describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name; random, the same as the session's that wrote it.
    pub id: SnapshotId,
    /// The time it stands for: when the scan began, or what `--time` said.
    pub time: Timestamp,
    /// When it was committed.
    pub finished: Timestamp,
    /// The host it was taken of.
    pub host: Vec<u8>,
    /// The user who took it.
    pub user: Vec<u8>,
    /// The given paths: absolute, sorted.
    pub paths: Vec<Vec<u8>>,
    /// Tags, sorted.
    pub tags: Vec<Vec<u8>>,
    /// The snapshot whose unchanged files it took over.
    pub parent: Option<SnapshotId>,
    /// The node of `/`; its name is empty.
    pub root: Node,
    /// The list of scan records, one for every node in preorder (for change detection; losing it costs a re-read).
    pub scan: Option<Root>,
    /// When the scan of the source began, by the source's clock; a file younger than this is read again next time.
    pub scan_start: Timestamp,
    /// The table of hard link groups, sorted by group.
    pub links: Option<Root>,
    /// Names of owners.
    pub owners: Owners,
    /// Counts.
    pub statistics: Statistics,
    /// The program that wrote it.
    pub program: Vec<u8>,
}

impl Snapshot {
    /// Nodes of the tree, the root included: the size of its range of inode numbers.
    pub fn nodes(&self) -> u64 {
        self.root.weight()
    }

    /// Host and sorted paths: what parents are chosen from and retention rules apply to.
    pub fn series(&self) -> (&[u8], &[Vec<u8>]) {
        (&self.host, &self.paths)
    }
}
