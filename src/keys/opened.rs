//! Unlocking a repository with a key of any kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::chunk::keys::{Credential, Unwrapped, WriterKey};
use crate::error::{ErrorKind, Result};
use crate::format::config::Config;
use crate::keys::configuration::{self, Configurations};
use crate::keys::keyring::KeyRing;
use crate::keys::slots::{self, UnlockedSlot};
use crate::observe::Reports;
use crate::storage::Storage;

/// What a credential has opened.
pub(crate) enum OpenedKey {
    /// All keys of the repository.
    Full(KeyRing),
    /// One that only writes, the repository's storage, what it may know of the configuration, and that one's number.
    Writer(Arc<dyn Storage>, WriterKey, Config, u32),
}

impl OpenedKey {
    /// Unlocks the repository on `storage` with a key of any kind. A former master key is refused.
    pub(crate) fn open(storage: Arc<dyn Storage>, credential: &Credential, reports: &Reports) -> Result<Self> {
        match Self::open_any(storage, credential, reports)? {
            OpenedKey::Full(ring) if ring.config.is_closed() => Err(configuration::closed()),
            OpenedKey::Writer(_, _, config, _) if config.is_closed() => Err(configuration::closed()),
            opened => Ok(opened),
        }
    }

    /// The same. A former master key is taken if the credential opens no slot with another: the change may have been
    /// stopped half way.
    pub(crate) fn open_any(storage: Arc<dyn Storage>, credential: &Credential, reports: &Reports) -> Result<Self> {
        let mut without = BTreeSet::new();
        let mut kept: Option<Result<Self>> = None;
        loop {
            let configurations = Configurations::read(&*storage)?;
            let repositories = configurations.repositories();
            if repositories.is_empty() {
                return Err(configurations.error(&*storage));
            }
            let UnlockedSlot { master, slot, unfinished } =
                match slots::unlock_any(&*storage, &repositories, credential, &without, reports) {
                    Ok(unlocked) => unlocked,
                    Err(e) => return kept.unwrap_or(Err(e)),
                };
            let master = match master {
                Unwrapped::Master(master) => master,
                Unwrapped::Writer(key) => {
                    // Whether a configuration is authentic only the master key can tell: what matters of it is in the slot.
                    // Its cutter's secret is its own: nobody who has it learns that of others.
                    let (config, number) = configurations.claimed(key.repository)?;
                    let config = Config { chunker: key.chunker, cutter: None, ..config };
                    return Ok(OpenedKey::Writer(storage, key, config, number));
                }
            };
            let unlocked = UnlockedSlot { master, slot, unfinished };
            match KeyRing::of_master(storage.clone(), credential, reports, configurations, unlocked) {
                Ok(ring) if !ring.config.is_closed() => return Ok(OpenedKey::Full(ring)),
                Ok(ring) => kept = Some(Ok(OpenedKey::Full(ring))),
                // A slot of a change that was stopped has a key that nothing is authentic under.
                Err(e) if e.kind() == ErrorKind::Corrupt => kept = kept.or(Some(Err(e))),
                Err(e) => return kept.unwrap_or(Err(e)),
            }
            without.insert(slot);
            without.extend(slots::dearer(&*storage, slot)?);
        }
    }
}
