//! What the library reports to the program that runs it: it never prints and never reads the environment.
//!
//! An operation is given an [`Observer`] and reports to it while it runs. What is open for longer, as a repository or the
//! connection to a server, holds [`Reports`]. The program decides what is shown and what is logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something a user may want to see while an operation runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// One thing could not be done as asked; the operation goes on and will say so at its end.
    Warning {
        /// The object or path, as bytes (a path need not be UTF-8); empty where the message names it.
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

/// An observer that ignores everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event<'_>) {}
}

/// Where something that stays open reports what a user or an operator should know: an [`Observer`] that it shares.
#[derive(Clone)]
pub struct Reports(Arc<dyn Observer>);

impl Reports {
    /// Reports to this observer.
    pub fn to(observer: Arc<dyn Observer>) -> Self {
        Reports(observer)
    }

    /// Reports a [warning](Event::Warning). The subject may be empty, where the message names it.
    pub(crate) fn warn(&self, subject: impl AsRef<[u8]>, message: impl AsRef<str>) {
        self.0.event(&Event::Warning { subject: subject.as_ref(), message: message.as_ref() });
    }

    /// Reports a [note](Event::Note). The subject may be empty, where the message names it.
    pub(crate) fn note(&self, subject: impl AsRef<[u8]>, message: impl AsRef<str>) {
        self.0.event(&Event::Note { subject: subject.as_ref(), message: message.as_ref() });
    }
}

impl Default for Reports {
    /// Reports to nobody.
    fn default() -> Self {
        Reports(Arc::new(Silent))
    }
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reports")
    }
}

/// A shared counter for statistics; relaxed, since nothing is ordered by it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n` and returns the new value.
    pub(crate) fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed) + n
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::keys::Credential;
    use crate::format::config::{ChunkerParameters, Derivation};
    use crate::model::Timestamp;
    use crate::repo::{InitOptions, Repository};
    use crate::storage::memory::MemoryStorage;
    use crate::storage::{Class, Name, Storage};

    #[derive(Default)]
    struct Heard(parking_lot::Mutex<Vec<String>>);

    impl Observer for Heard {
        fn event(&self, event: &Event<'_>) {
            if let Event::Warning { subject, .. } = event {
                self.0.lock().push(String::from_utf8_lossy(subject).into_owned());
            }
        }
    }

    #[test]
    fn whoever_opens_a_repository_hears_what_is_wrong_with_copies() {
        let (storage, credential) = (Arc::new(MemoryStorage::default()), Credential::KeyFile([1; 32]));
        let derivation = Derivation::Passphrase { memory: 8, passes: 1, lanes: 1 };
        let (chunker, now) = (ChunkerParameters::DEFAULT, Timestamp::default());
        let options = InitOptions { chunker, derivation, now, label: Vec::new() };
        Repository::init(storage.clone(), &credential, &options).unwrap();
        let listed = [Class::Config, Class::Keys].map(|class| storage.list(class).unwrap()).concat();
        let is_hit = |name: &Name| matches!(name, Name::Config(_, 1) | Name::Key(_, 0));
        let damaged: Vec<Name> = listed.into_iter().map(|(name, _)| name).filter(is_hit).collect();
        assert_eq!(damaged.len(), 2);
        damaged.iter().for_each(|name| storage.damage(name, |object| object[40] ^= 1));
        let heard = Arc::new(Heard::default());
        Repository::open_with(storage, &credential, &Reports::to(heard.clone())).unwrap();
        let heard = heard.0.lock();
        assert!(damaged.iter().all(|name| heard.contains(&name.to_string())), "{heard:?}");
    }
}
