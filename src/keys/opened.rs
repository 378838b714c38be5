//! Unlocking a repository with a key of any kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::chunk::keys::{Credential, Unwrapped, WriterKey};
use crate::error::Result;
use crate::format::config::Config;
use crate::keys::configuration::Configurations;
use crate::keys::keyring::KeyRing;
use crate::keys::slots::{self, UnlockedSlot};
use crate::observe::Reports;
use crate::storage::Storage;

/// What a credential has opened.
pub(crate) enum OpenedKey {
    /// All keys of the repository.
    Full(KeyRing),
    /// One that only writes, the repository's storage, and what it may know of the configuration.
    Writer(Arc<dyn Storage>, WriterKey, Config),
}

impl OpenedKey {
    /// Unlocks the repository on `storage` with a key of any kind.
    pub(crate) fn open(storage: Arc<dyn Storage>, credential: &Credential, reports: &Reports) -> Result<Self> {
        let configurations = Configurations::read(&*storage)?;
        let repositories = configurations.repositories();
        if repositories.is_empty() {
            return Err(configurations.error(&*storage));
        }
        let unlocked = slots::unlock_any(&*storage, &repositories, credential, &BTreeSet::new(), reports)?;
        let UnlockedSlot { master, slot, unfinished } = unlocked;
        match master {
            Unwrapped::Master(master) => {
                let unlocked = UnlockedSlot { master, slot, unfinished };
                KeyRing::of_master(storage, credential, reports, configurations, unlocked).map(OpenedKey::Full)
            }
            Unwrapped::Writer(key) => {
                // Whether a configuration is authentic only the master key can tell: what matters of it is in the slot.
                // Its cutter's secret is its own: nobody who has it learns that of others.
                let config = configurations.claimed(key.repository)?;
                let config = Config { chunker: key.chunker, cutter: None, ..config };
                Ok(OpenedKey::Writer(storage, key, config))
            }
        }
    }
}
