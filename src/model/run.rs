//! A run: one execution of something that matters later, as it ended.

use crate::model::{SnapshotId, Timestamp};

/// What is known of a run. It is written once, at its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// One of the kinds here, or one of a later version.
    pub kind: u64,
    /// One of the states here, or one of a later version.
    pub state: u64,
    /// The host that it ran on.
    pub host: Vec<u8>,
    /// The user who ran it.
    pub user: Vec<u8>,
    /// The set that it was of; empty for none.
    pub set: Vec<u8>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// The snapshot that it made, or that was restored.
    pub snapshot: Option<SnapshotId>,
    /// Logical bytes that it was about.
    pub bytes: u64,
    /// What it could not do as asked: entries, damaged objects.
    pub errors: u64,
    /// Where it went: the target of a restore.
    pub target: Vec<u8>,
    /// Why it failed, or is not complete.
    pub message: Vec<u8>,
    /// What was run for it, in order.
    pub steps: Vec<RunStep>,
    /// The end of what it said, in lines.
    pub log: Vec<u8>,
    /// The program that wrote this.
    pub program: Vec<u8>,
    /// What a restore made other than the snapshot has it.
    pub rewrites: Vec<RunRewrite>,
    /// What it had asked of the repository's object store when it ended; `None` where the repository is elsewhere.
    pub requests: Option<Requests>,
}

/// What was asked of a store, by the classes that a bill has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Objects sent.
    pub put: u64,
    /// Objects and parts of objects read.
    pub get: u64,
    /// Objects looked at.
    pub head: u64,
    /// Pages of lists.
    pub list: u64,
    /// Deletions.
    pub delete: u64,
    /// Bytes sent, without headers.
    pub sent: u64,
    /// Bytes received, without headers.
    pub received: u64,
}

impl Requests {
    /// Both together.
    pub fn plus(self, other: Requests) -> Requests {
        Requests {
            put: self.put.saturating_add(other.put),
            get: self.get.saturating_add(other.get),
            head: self.head.saturating_add(other.head),
            list: self.list.saturating_add(other.list),
            delete: self.delete.saturating_add(other.delete),
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
        }
    }
}

/// Something that a restore made other than the snapshot has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunRewrite {
    /// One of the kinds here, or one of a later version.
    pub kind: u64,
    /// The entry, by its path inside the snapshot; empty for owners.
    pub path: Vec<u8>,
    /// What it was: a text, or a name.
    pub was: Vec<u8>,
    /// What it is.
    pub is: Vec<u8>,
    /// How often, in this entry; 0 for owners.
    pub count: u64,
}

impl RunRewrite {
    /// Text in a file.
    pub const TEXT: u64 = 1;
    /// Text in the target of a symbolic link.
    pub(crate) const LINK: u64 = 2;
    /// A user, by name.
    pub(crate) const USER: u64 = 3;
    /// A group, by name.
    pub(crate) const GROUP: u64 = 4;

    /// Its kind in a word.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Self::TEXT => "text",
            Self::LINK => "link",
            Self::USER => "user",
            Self::GROUP => "group",
            _ => "unknown",
        }
    }
}

/// A command that was run for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunStep {
    /// Its name.
    pub name: Vec<u8>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Why it failed; empty if it did not.
    pub failure: Vec<u8>,
}

impl Run {
    /// An ingest of a set.
    pub const INGEST: u64 = 1;
    /// A restore.
    pub const RESTORE: u64 = 2;
    /// A check.
    pub const CHECK: u64 = 3;
    /// A prune.
    pub const PRUNE: u64 = 4;

    /// All of it was done.
    pub const COMPLETE: u64 = 0;
    /// It was done, but not all of it.
    pub const INCOMPLETE: u64 = 1;
    /// It failed, or found damage.
    pub const FAILED: u64 = 2;
    /// Somebody stopped it.
    pub(crate) const INTERRUPTED: u64 = 3;

    /// Its kind in a word.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Self::INGEST => "ingest",
            Self::RESTORE => "restore",
            Self::CHECK => "check",
            Self::PRUNE => "prune",
            _ => "unknown",
        }
    }

    /// Its state in a word.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            Self::COMPLETE => "complete",
            Self::INCOMPLETE => "incomplete",
            Self::FAILED => "failed",
            Self::INTERRUPTED => "interrupted",
            _ => "unknown",
        }
    }
}
