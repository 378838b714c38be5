//! Events out of the library: it never prints and never reads the environment.

use std::sync::atomic::{AtomicU64, Ordering};

/// Something a user may want to see while an operation runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// One thing could not be done as asked; the operation goes on and will say so at its end.
    Warning {
        /// The object or path, as bytes (a path need not be UTF-8).
        subject: &'a [u8],
        /// What happened to it.
        message: &'a str,
    },
    /// Something that the user should know, though nothing is wrong.
    Note {
        /// The object or path, as bytes.
        subject: &'a [u8],
        /// What there is to know.
        message: &'a str,
    },
    /// How far the operation is. Totals are 0 while unknown.
    Progress {
        /// Entries (files, directories, links) done.
        entries: u64,
        /// Logical bytes done.
        bytes: u64,
        /// Entries expected in all.
        total_entries: u64,
        /// Logical bytes expected in all.
        total_bytes: u64,
        /// What `entries` and `total_entries` count: `entries`, `packs`, `snapshots`, `pages`.
        unit: &'static str,
    },
    /// What the operation is at now.
    Current {
        /// An entry's path, or an object's name.
        subject: &'a [u8],
    },
    /// What became of an entry, or in a dry run would become of it: one event an entry, and only for an observer that
    /// [wants](Observer::wants_entries) them.
    Entry {
        /// What became of it.
        action: Action,
        /// Its path: of an ingest inside the snapshot, of a restore on this machine; of a prune an object's name.
        path: &'a [u8],
        /// What it is.
        kind: EntryKind,
        /// Why, or what of it; empty where there is nothing to add.
        reason: &'a str,
        /// Its logical bytes.
        bytes: u64,
    },
    /// An object of the repository is damaged, missing, or says what is not so.
    Damage {
        /// The object.
        object: &'a str,
        /// What is wrong with it, and what to do.
        message: &'a str,
    },
    /// Damage takes something from an entry of a snapshot.
    Hit {
        /// The snapshot's id.
        snapshot: &'a str,
        /// The entry, from the snapshot's root.
        path: &'a [u8],
        /// What of it is lost.
        message: &'a str,
    },
    /// So many entries more of the snapshot are hit, and not named one by one.
    MoreHits {
        /// The snapshot's id.
        snapshot: &'a str,
        /// How many.
        entries: u64,
    },
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there before.
    New,
    /// It was there, and something of it is another now.
    Changed,
    /// It was there, and is not any more.
    Removed,
    /// It was there and is as it was.
    Unchanged,
    /// It differs and stays, since the user wants that.
    Kept,
    /// It was left out, since the user wants that.
    LeftOut,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Special,
    /// An object of the repository.
    Object,
}

/// Receives [`Event`]s, from any thread.
pub trait Observer: Send + Sync {
    /// Called for every event; must return quickly.
    fn event(&self, event: &Event<'_>);

    /// Whether [`Event::Entry`] is wanted: it costs time.
    fn wants_entries(&self) -> bool {
        false
    }
}

/// An observer that looks away.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event<'_>) {}
}

/// A shared counter for statistics; relaxed, since nothing is ordered by it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n` and returns the new value.
    pub fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed) + n
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
