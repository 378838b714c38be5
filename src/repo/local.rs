//! What this machine remembers of a repository, in sled: small, mutable, and never the only copy of a fact.
//!
//! So far: the snapshots that were seen. A repository that shows fewer of them, without saying that they were
//! forgotten, has gone back in time or lost them, and whoever holds it will not tell. The database may be deleted,
//! damaged or in use at any time: then nothing is remembered, and the result of every command is the same.

use std::collections::HashSet;
use std::path::Path;

use crate::error::Result;
use crate::model::{RepositoryId, SnapshotId};
use crate::repo::Repository;
use crate::storage::{Class, Name};

/// sled's page cache: what is kept here is small.
const CACHE: u64 = 1 << 20;

/// This machine's memory of one repository.
#[derive(Debug)]
pub struct LocalState {
    seen: sled::Tree,
}

impl LocalState {
    /// Opens the memory of `repository` below `directory` (made if need be). `None` when it cannot be had: it is in
    /// use, the directory cannot be written, or it is damaged for the second time; damage is put aside once.
    pub fn open(directory: &Path, repository: RepositoryId) -> Option<Self> {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(directory).ok()?;
        let path = directory.join(format!("{repository}.sled"));
        match open(&path) {
            Ok(state) => Some(state),
            // In use by another process: nothing is wrong with it.
            Err(sled::Error::Io(_)) => None,
            Err(_) => {
                std::fs::rename(&path, path.with_extension("damaged")).ok()?;
                open(&path).ok()
            }
        }
    }

    /// The snapshots that were seen here, are not there any more, and were not forgotten. Remembers those that are.
    pub fn vanished(&self, repo: &Repository, present: &[SnapshotId]) -> Result<Vec<SnapshotId>> {
        let present: HashSet<SnapshotId> = present.iter().copied().collect();
        let seen = self.seen.iter().keys().filter_map(|key| Some(SnapshotId(key.ok()?.as_ref().try_into().ok()?)));
        let mut gone: Vec<SnapshotId> = seen.filter(|id| !present.contains(id)).collect();
        if !gone.is_empty() {
            for (name, _) in repo.storage().list(Class::Forgotten)? {
                let Name::Forgotten(id) = name else { continue };
                if let Some(at) = gone.iter().position(|g| *g == id) {
                    gone.swap_remove(at);
                    // Failing to forget it here costs this look at the next time.
                    let _ = self.seen.remove(id.0);
                }
            }
        }
        for id in &present {
            if !self.seen.contains_key(id.0).unwrap_or(true) {
                let _ = self.seen.insert(id.0, &[]);
            }
        }
        gone.sort_unstable();
        Ok(gone)
    }
}

/// sled has been seen to panic on damaged files (sled#1410): that is damage like any other here.
fn open(path: &Path) -> sled::Result<LocalState> {
    let opened = std::panic::catch_unwind(|| {
        let db = sled::Config::new().path(path).cache_capacity(CACHE).flush_every_ms(None).open()?;
        Ok(LocalState { seen: db.open_tree(b"snapshots seen")? })
    });
    opened.unwrap_or_else(|_| Err(sled::Error::Unsupported("it made sled panic".to_owned())))
}
