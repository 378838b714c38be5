//! Changing the master key: the steps that concern keys. Who else is at work is for [`crate::maintain::rotate`] to see.
//!
//! ```text
//! closed: a configuration of the old key, which says that it is no longer the repository's
//!   ─▶ slots with the new key ─▶ a configuration of the new key: from here on that is the repository's ─▶ old slots go
//! ```

use std::sync::Arc;

use crate::chunk::keys::{Credential, MasterKey, Unwrapped, open_slot};
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{CLOSED, Config, Derivation};
use crate::keys::configuration::{self, Configurations};
use crate::keys::keyring::KeyRing;
use crate::keys::opened::OpenedKey;
use crate::keys::removal::SlotStore;
use crate::keys::slots::{self, Slot, SlotOptions};
use crate::model::{SlotId, Timestamp, escape};
use crate::observe::Reports;
use crate::storage::Storage;

/// Who gets the new key.
#[derive(Debug, Clone, Copy)]
pub struct RotateOptions<'a> {
    /// What opens the slots that get it. A slot can be made anew only for who shows what opens it.
    pub credentials: &'a [Credential],
    /// Whether other slots are removed.
    pub drop_others: bool,
    /// How a passphrase becomes a key.
    pub derivation: Derivation,
    /// The time now.
    pub now: Timestamp,
}

/// What became of the slots.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The new slots.
    pub slots: Vec<SlotId>,
    /// Slots that were removed without a new one in their place.
    pub dropped: Vec<SlotId>,
}

/// A slot that gets the new key.
pub(crate) struct CarriedSlot<'a> {
    credential: &'a Credential,
    only_writes: bool,
    label: Vec<u8>,
}

impl KeyRing {
    /// Unlocks the repository to change its master key, also where that was begun and stopped half way.
    pub fn open_to_rotate(storage: Arc<dyn Storage>, credential: &Credential, reports: &Reports) -> Result<Self> {
        match OpenedKey::open_any(storage, credential, reports)? {
            OpenedKey::Full(ring) => Ok(ring),
            OpenedKey::Writer(..) => Err(crate::chunk::one_way::only_writes("change the master key")),
        }
    }

    /// Whether this master key is no longer the repository's.
    pub(crate) fn is_closed(&self) -> bool {
        self.config.is_closed()
    }

    /// The slots that get a new key, and those that go. Nothing is changed.
    pub(crate) fn carried<'a>(&self, options: &RotateOptions<'a>) -> Result<(Vec<CarriedSlot<'a>>, Vec<SlotId>)> {
        // Those of a former key open nothing: an earlier change was stopped before it had removed them.
        let slots: Vec<Slot> = self.slots()?.into_iter().filter(|slot| !slot.made_up && !slot.former).collect();
        let (mut carried, mut known): (Vec<CarriedSlot<'a>>, Vec<SlotId>) = (Vec::new(), Vec::new());
        for credential in options.credentials {
            let before = carried.len();
            for slot in &slots {
                let Some(value) = slot.value() else { continue };
                let only_writes = match open_slot(value, credential, slot.id)? {
                    Some(Unwrapped::Master(_)) => false,
                    Some(Unwrapped::Writer(_)) => true,
                    None => continue,
                };
                known.push(slot.id);
                // Two slots for one credential become one.
                let own = carried.get(before..).unwrap_or_default();
                if own.iter().all(|one| one.only_writes != only_writes) {
                    carried.push(CarriedSlot { credential, only_writes, label: value.label.clone() });
                }
            }
            if carried.len() == before {
                let text = "one of the keys that are to get the new master key opens no key slot (yester key list shows them)";
                return Err(Error::new(ErrorKind::Key, text));
            }
        }
        if carried.iter().all(|one| one.only_writes) {
            return Err(Error::invalid("a key that does not only write must get the new master key"));
        }
        let others: Vec<&Slot> = slots.iter().filter(|slot| !known.contains(&slot.id)).collect();
        if !options.drop_others && !others.is_empty() {
            let name = |slot: &&Slot| format!("{} ({})", slot.id.short(), escape(slot.value().map_or(b"?", |v| &v.label)));
            let names: Vec<String> = others.iter().map(name).collect();
            let next = "give what opens each, with --also-key-file or --also-password-file, or let them go with --drop-others";
            return Err(Error::invalid(format!("other key slots would open nothing any more: {}; {next}", names.join(", "))));
        }
        Ok((carried, others.into_iter().map(|slot| slot.id).collect()))
    }

    /// Says that this key is no longer the repository's. Whoever begins with it from now on is refused.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.write_configuration(self.config.mandatory | CLOSED)
    }

    /// Takes that back.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        self.write_configuration(self.config.mandatory & !CLOSED)
    }

    fn write_configuration(&mut self, mandatory: u64) -> Result<()> {
        let config = Config { mandatory, ..self.config.clone() };
        let keys = self.master.keys();
        let number = Configurations::read(&*self.storage)?.judge(&keys).free_number()?;
        if !configuration::create(&*self.storage, number, &configuration::object(&config, &keys)?)? {
            return Err(Error::new(ErrorKind::Busy, "somebody else writes a configuration at this moment: try again"));
        }
        (self.config, self.number) = (config, number);
        Ok(())
    }

    /// A new master key, and slots with it. Slots that an earlier attempt left are removed.
    pub(crate) fn add_new(&self, carried: &[CarriedSlot<'_>], options: &RotateOptions<'_>) -> Result<(MasterKey, Vec<SlotId>)> {
        for slot in self.slots()?.iter().filter(|slot| slot.made_up) {
            slots::delete(&*self.storage, slot.id)?;
        }
        let (master, mut added) = (self.master.next()?, Vec::new());
        for one in carried {
            let slot = SlotOptions { derivation: options.derivation, now: options.now, label: one.label.clone() };
            let writes = one.only_writes.then_some(self.config.chunker);
            match slots::add_kind(&*self.storage, self.config.repository, &master, one.credential, &slot, writes) {
                Ok(id) => added.push(id),
                Err(e) => {
                    added.iter().try_for_each(|id| slots::delete(&*self.storage, *id))?;
                    return Err(e);
                }
            }
        }
        Ok((master, added))
    }

    /// Makes `master` the repository's key. When this has begun, nothing may take it back: a part of the configuration may be
    /// stored whatever is answered.
    pub(crate) fn switch(&mut self, master: MasterKey) -> Result<()> {
        let old = Configurations::read(&*self.storage)?.judge(&self.master.keys());
        let config = Config { mandatory: self.config.mandatory & !CLOSED, ..self.config.clone() };
        let number = old.free_number()?;
        if !configuration::create(&*self.storage, number, &configuration::object(&config, &master.keys())?)? {
            return Err(Error::new(ErrorKind::Busy, "somebody else writes a configuration at this moment: try again"));
        }
        (self.config, self.number, self.master) = (config, number, master);
        Ok(())
    }

    /// Removes all slots but these.
    pub(crate) fn keep_only(&mut self, slots: &[SlotId]) -> Result<()> {
        let keys = self.master.keys();
        let place = SlotStore { storage: &*self.storage, repository: self.config.repository, keys: &keys };
        if let Some(first) = slots.first() {
            self.opened = *first;
        }
        let old = place.look()?.live.into_iter().map(|slot| slot.id).filter(|id| !slots.contains(id));
        old.collect::<Vec<_>>().into_iter().try_for_each(|id| place.remove(id))
    }
}
