//! A snapshot: the only commit point, and what it says of itself.

use crate::model::composition::Composition;
use crate::model::id::{SnapshotId, WriterId};
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

/// One of the rules by which an ingest left entries out: a kind, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// One of the constants here, or a kind of a later version.
    pub kind: u64,
    /// A pattern, a file name, a path or a number in decimal; empty where the kind says it all.
    pub text: Vec<u8>,
}

impl Rule {
    /// There were more or longer rules than a snapshot holds.
    pub const MORE: u64 = 0;
    /// What matches this pattern.
    pub const PATTERN: u64 = 1;
    /// What matches this pattern, whatever the case.
    pub const PATTERN_ANY_CASE: u64 = 2;
    /// The content of cache directories.
    pub const CACHES: u64 = 3;
    /// The content of directories that hold a file of this name (and, after a colon, begins with this text).
    pub const IF_PRESENT: u64 = 4;
    /// Files of more bytes than this.
    pub const LARGER_THAN: u64 = 5;
    /// What is on other file systems than the given paths.
    pub const ONE_FILE_SYSTEM: u64 = 6;
    /// This path: a repository, or one that is mounted.
    pub const PATH: u64 = 7;
    /// Extended attributes whose names match this pattern.
    pub const ATTRIBUTE: u64 = 8;

    /// A rule.
    pub fn new(kind: u64, text: impl Into<Vec<u8>>) -> Self {
        Rule { kind, text: text.into() }
    }
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
    /// Entries of all kinds with extended attributes (ACLs are some); `None` of a program that did not count them.
    pub with_attributes: Option<u64>,
}

/// What a snapshot says of those before it, so that a list that lacks one of them is seen to lack it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// One more than the highest number that its writer saw; 0 of a program that gave none.
    pub number: u64,
    /// The snapshots that its writer saw and that no other one which it saw names, sorted. Together with what these name
    /// in turn, they are all that it saw.
    pub follows: Vec<SnapshotId>,
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
    /// The writer, if its key only writes. It is not part of what is stored: what the object is sealed with says it.
    pub writer: Option<WriterId>,
    /// Its place among all snapshots.
    pub chain: Chain,
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
    /// The rules by which entries were left out, in the order in which they were given.
    pub rules: Vec<Rule>,
    /// Its parts, and the set that they are of.
    pub composition: Composition,
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

    /// The snapshots that it says were there before it, as far as no other one says so; of an old program, its parent.
    pub(crate) fn before(&self) -> &[SnapshotId] {
        match self.chain.number {
            0 => self.parent.as_slice(),
            _ => &self.chain.follows,
        }
    }

    /// Host and sorted paths: what parents are chosen from and retention rules apply to.
    pub fn series(&self) -> (&[u8], &[Vec<u8>]) {
        (&self.host, &self.paths)
    }
}
