//! What a snapshot is made of, where it is more than paths: its parts, and the set that they are of.

use crate::model::{GroupPart, RepositoryId, SnapshotId, Timestamp};

/// The set, the parts, and how long things stood still for them; all empty for a snapshot of paths alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Composition {
    /// The set that was ingested.
    pub set: Option<SetText>,
    /// The parts: all paths as one, and each stream.
    pub parts: Vec<Part>,
    /// How long things were frozen for it, in milliseconds.
    pub frozen: u64,
    /// Where it was taken, when it is a copy.
    pub origin: Option<Origin>,
    /// The addresses of the host that it was taken of, as text; first the one by which others reach it.
    pub addresses: Vec<Vec<u8>>,
    /// The group that it is a part of.
    pub group: Option<GroupPart>,
}

/// The snapshot that another one is a copy of, in the repository in which it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The repository.
    pub repository: RepositoryId,
    /// The snapshot.
    pub snapshot: SnapshotId,
}

/// A set, as it was when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetText {
    /// Its name.
    pub name: Vec<u8>,
    /// All its keys, as TOML.
    pub text: Vec<u8>,
}

/// One source of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// One of the kinds here, or one of a later version.
    pub kind: u64,
    /// One of the states here, or one of a later version.
    pub state: u64,
    /// Where it stands; empty for the paths, which stand at several places.
    pub path: Vec<u8>,
    /// When it was begun.
    pub started: Timestamp,
    /// When it was done.
    pub finished: Timestamp,
    /// Its logical bytes; of a part that failed, those that came.
    pub bytes: u64,
    /// Files of it that changed while they were read.
    pub changed: u64,
    /// Entries of it that could not be read as they were.
    pub errors: u64,
    /// Why it failed.
    pub message: Vec<u8>,
}

impl Part {
    /// Files and directories.
    pub const PATHS: u64 = 1;
    /// A file whose bytes came by themselves.
    pub(crate) const STREAM: u64 = 2;
    /// A bucket whose objects are files below a path.
    pub(crate) const BUCKET: u64 = 3;

    /// All of it is there as it was.
    pub const COMPLETE: u64 = 0;
    /// Something of it changed while it was read.
    pub const CHANGED: u64 = 1;
    /// Something of it is not there.
    pub const INCOMPLETE: u64 = 2;
    /// Nothing of it is there.
    pub const FAILED: u64 = 3;

    /// Its kind in a word.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Self::PATHS => "paths",
            Self::STREAM => "stream",
            Self::BUCKET => "bucket",
            _ => "unknown",
        }
    }

    /// Its state in a word.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            Self::COMPLETE => "complete",
            Self::CHANGED => "changed",
            Self::INCOMPLETE => "incomplete",
            Self::FAILED => "failed",
            _ => "unknown",
        }
    }
}
