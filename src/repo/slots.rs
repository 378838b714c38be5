//! Key slots: several ways to one master key, each stored three times.

use std::collections::BTreeMap;

use crate::chunk::keys::{Credential, MasterKey};
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{self, Config, Derivation, KeySlot};
use crate::format::envelope::{self, ObjectType};
use crate::model::{RepositoryId, SlotId};
use crate::repo::InitOptions;
use crate::storage::{COPIES, Class, Name, Storage};

/// Wraps `master` for `credential` in a new slot and stores its copies.
pub fn add(
    storage: &dyn Storage,
    config: &Config,
    master: &MasterKey,
    credential: &Credential,
    options: &InitOptions,
) -> Result<SlotId> {
    let id = SlotId::random()?;
    let derivation = match credential {
        Credential::Passphrase(_) => options.derivation,
        Credential::KeyFile(_) => Derivation::KeyFile,
    };
    let slot = master.wrap(credential, derivation, options.now, options.label.clone(), id)?;
    let object = envelope::wrap(ObjectType::KeySlot, config.repository, &config::encode_slot(&slot));
    for copy in 0..COPIES {
        storage.create(&Name::Key(id, copy), &[&object])?;
    }
    Ok(id)
}

/// Every slot that can be read, by any of its copies; and the first error of one that cannot.
fn read_slots(storage: &dyn Storage, repository: RepositoryId) -> Result<(BTreeMap<SlotId, KeySlot>, Option<Error>)> {
    let mut slots = BTreeMap::new();
    let mut damaged = None;
    let mut object = Vec::new();
    for (name, _) in storage.list(Class::Keys)? {
        let Name::Key(id, _) = name else { continue };
        if slots.contains_key(&id) {
            continue;
        }
        let slot = storage.read(&name, None, &mut object).and_then(|()| {
            let (found, body) = envelope::unwrap(&object, ObjectType::KeySlot, "a key slot")?;
            if found != repository {
                return Err(Error::corrupt(format!("a key slot: it belongs to repository {}", found.short())));
            }
            config::decode_slot(body)
        });
        match slot {
            Ok(slot) => drop(slots.insert(id, slot)),
            Err(e) => damaged = Some(e.context(name)),
        }
    }
    Ok((slots, damaged))
}

/// The master key, by whichever slot `credential` opens.
pub fn unlock(storage: &dyn Storage, repository: RepositoryId, credential: &Credential) -> Result<MasterKey> {
    let (slots, damaged) = read_slots(storage, repository)?;
    for (id, slot) in &slots {
        if let Some(master) = MasterKey::unwrap(slot, credential, *id)? {
            return Ok(master);
        }
    }
    let place = storage.describe();
    if let Some(e) = damaged {
        return Err(Error::new(ErrorKind::Key, format!("no readable key slot of {place} takes this key; {e}")));
    }
    let text = match credential {
        _ if slots.is_empty() => format!("{place} has no key slots: its keys/ is empty"),
        Credential::Passphrase(_) => format!("wrong passphrase for {place} (or its key slot is damaged)"),
        Credential::KeyFile(_) => format!("this key file does not open {place}"),
    };
    Err(Error::new(ErrorKind::Key, text))
}
