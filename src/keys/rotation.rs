//! Changing the master key: the steps that concern keys. Who else is at work is for [`crate::maintain::rotate`] to see.
//!
//! ```text
//! closed: a configuration of the old key, which says that it is no longer the repository's
//!   ─▶ slots with the new key ─▶ a configuration of the new key: from here on that is the repository's ─▶ old slots go
//! ```
//!
//! The number of the configuration after the closed one is fixed beforehand (`Turn`), and whoever creates the object of
//! this number first has decided what comes: a new key, or the old one again. So it does no harm if one of two who change
//! the key took the other for dead. Nobody removes slots of another before that.

use std::sync::Arc;

use crate::chunk::keys::{Credential, MasterKey, Unwrapped, open_slot};
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{CLOSED, ChunkerParameters, Config, Derivation};
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

    /// An error if the master key was changed since this was opened.
    pub(super) fn is_current(&self) -> Result<()> {
        configuration::is_current(&*self.storage, &self.config, self.number, &self.master.keys())
    }

    /// Adds a slot; with chunk sizes, one with a key that only writes and cuts so.
    pub(super) fn add_kind(
        &self,
        credential: &Credential,
        options: &SlotOptions,
        writes: Option<ChunkerParameters>,
    ) -> Result<SlotId> {
        self.is_current()?;
        let id = slots::add_kind(&*self.storage, self.config.repository, &self.master, credential, options, writes)?;
        // Changed in between, and it is a slot of a former key, which opens nothing.
        if let Err(e) = self.is_current() {
            slots::delete(&*self.storage, id)?;
            return Err(e);
        }
        Ok(id)
    }

    /// Whether the repository says at this moment that this key is its own. False also where that cannot be told.
    pub(crate) fn is_open(&self) -> bool {
        let found = Configurations::read(&*self.storage).and_then(|found| found.judge(&self.master.keys()).newest());
        found.is_ok_and(|newest| newest.is_some_and(|newest| !newest.config.is_closed()))
    }

    /// Whether this master key is no longer the repository's.
    fn is_closed(&self) -> bool {
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

    /// Looks which configuration comes next. An error if this key is no longer what it was when the ring was opened: then
    /// what seems to be nobody's may be what the repository is opened by.
    pub(crate) fn turn(&self) -> Result<Turn> {
        let keys = self.master.keys();
        let found = Configurations::read(&*self.storage)?;
        let foreign = found.foreign(self.config.repository, self.number, &keys);
        let judged = found.judge(&keys);
        if let Some(e) = judged.unreadable(&*self.storage) {
            return Err(e);
        }
        let closed = if self.is_closed() { self.number } else { judged.free_number()? };
        let decided = judged.free_after(closed)?;
        match judged.newest()? {
            Some(newest) if newest.number == self.number => {}
            _ => return Err(configuration::closed()),
        }
        match foreign.filter(|_| self.is_closed()) {
            Some(other) => Err(configuration::decided(other)),
            None => Ok(Turn { closed, decided }),
        }
    }

    /// Says that this key is no longer the repository's, unless that is said already. Whoever begins with it from now on is
    /// refused.
    pub(crate) fn close(&mut self, turn: &Turn) -> Result<()> {
        if self.is_closed() {
            return Ok(());
        }
        let config = Config { mandatory: self.config.mandatory | CLOSED, ..self.config.clone() };
        self.decide(config, turn.closed, None)
    }

    /// Takes that back.
    pub(crate) fn reopen(&mut self, turn: &Turn) -> Result<()> {
        let config = Config { mandatory: self.config.mandatory & !CLOSED, ..self.config.clone() };
        self.decide(config, turn.decided, None)
    }

    /// Makes `master` the repository's key. [`ErrorKind::Exists`]: somebody else was faster, and nothing was changed. After
    /// any other error nothing may be taken back: a part of the configuration may be stored whatever is answered.
    pub(crate) fn switch(&mut self, turn: &Turn, master: MasterKey) -> Result<()> {
        let config = Config { mandatory: self.config.mandatory & !CLOSED, ..self.config.clone() };
        self.decide(config, turn.decided, Some(master))
    }

    fn decide(&mut self, config: Config, number: u32, master: Option<MasterKey>) -> Result<()> {
        let master = master.unwrap_or_else(|| self.master.clone());
        if !configuration::create(&*self.storage, number, &configuration::object(&config, &master.keys())?)? {
            let text = "somebody else has changed the key, or taken that back, at this moment: look at yester key list";
            return Err(Error::new(ErrorKind::Exists, text));
        }
        (self.config, self.number, self.master) = (config, number, master);
        Ok(())
    }

    /// A new master key, and slots with it.
    pub(crate) fn add_new(&self, carried: &[CarriedSlot<'_>], options: &RotateOptions<'_>) -> Result<(MasterKey, Vec<SlotId>)> {
        let (master, mut added) = (self.master.next()?, Vec::new());
        for one in carried {
            let slot = SlotOptions { derivation: options.derivation, now: options.now, label: one.label.clone() };
            let writes = one.only_writes.then_some(self.config.chunker);
            match slots::add_kind(&*self.storage, self.config.repository, &master, one.credential, &slot, writes) {
                Ok(id) => added.push(id),
                Err(e) => {
                    self.drop_new(&added)?;
                    return Err(e);
                }
            }
        }
        Ok((master, added))
    }

    /// Removes slots of a key that did not become the repository's.
    pub(crate) fn drop_new(&self, slots: &[SlotId]) -> Result<()> {
        slots.iter().try_for_each(|id| slots::delete(&*self.storage, *id))
    }

    /// Removes all slots but these and those that others have made with the new key since.
    pub(crate) fn keep_only(&mut self, slots: &[SlotId]) -> Result<()> {
        let keys = self.master.keys();
        let place = SlotStore { storage: &*self.storage, repository: self.config.repository, keys: &keys };
        let live = place.look()?.live;
        let is_good = |slot: &Slot| slot.copies.whole() > 0 && !slot.former;
        if let Some(gone) = slots.iter().find(|id| !live.iter().any(|slot| slot.id == **id && is_good(slot))) {
            return Err(Error::corrupt(format!("the new key slot {} is not there any more", gone.short())));
        }
        if let Some(first) = slots.first() {
            self.opened = *first;
        }
        live.iter().filter(|slot| !is_good(slot)).try_for_each(|slot| place.remove(slot.id))
    }
}

/// The numbers of the configurations of a change.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Of the one that says that the key is no longer the repository's.
    closed: u32,
    /// Of the one after it.
    decided: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::{InitOptions, Repository};
    use crate::storage::memory::MemoryStorage;

    const FILE: Credential = Credential::KeyFile([1; 32]);

    fn repository() -> Arc<MemoryStorage> {
        let storage = Arc::new(MemoryStorage::default());
        let (chunker, now) = (ChunkerParameters::DEFAULT, Timestamp::default());
        let init = InitOptions { chunker, derivation: Derivation::KeyFile, now, label: Vec::new() };
        Repository::init(storage.clone(), &FILE, &init).unwrap();
        storage
    }

    fn open(storage: &Arc<MemoryStorage>) -> KeyRing {
        KeyRing::open_to_rotate(storage.clone(), &FILE, &Reports::default()).unwrap()
    }

    #[test]
    fn whoever_creates_the_next_configuration_first_has_decided() {
        let credentials = [FILE];
        let options = RotateOptions {
            credentials: &credentials,
            drop_others: false,
            derivation: Derivation::KeyFile,
            now: Timestamp::default(),
        };
        // The slow one has closed the old key; the other one takes it for dead, and goes on.
        for second_decides in [true, false] {
            let storage = repository();
            let mut slow = open(&storage);
            let turn = slow.turn().unwrap();
            slow.close(&turn).unwrap();
            let (master, slots) = slow.add_new(&slow.carried(&options).unwrap().0, &options).unwrap();
            let mut other = open(&storage);
            let its_turn = other.turn().unwrap();
            let (others, its) = other.add_new(&other.carried(&options).unwrap().0, &options).unwrap();
            let (first, kept) = match second_decides {
                true => {
                    other.switch(&its_turn, others).unwrap();
                    assert_eq!(slow.switch(&turn, master).unwrap_err().kind(), ErrorKind::Exists);
                    assert_eq!(slow.reopen(&turn).unwrap_err().kind(), ErrorKind::Exists);
                    slow.drop_new(&slots).unwrap();
                    (&mut other, its)
                }
                false => {
                    slow.switch(&turn, master).unwrap();
                    assert_eq!(other.switch(&its_turn, others).unwrap_err().kind(), ErrorKind::Exists);
                    other.drop_new(&its).unwrap();
                    (&mut slow, slots)
                }
            };
            first.keep_only(&kept).unwrap();
            let found = KeyRing::open(storage.clone(), &FILE).unwrap();
            assert!(found.master.is(&first.master) && found.slots().unwrap().len() == 1);
            assert_eq!(found.master.expose_former().len(), 1);
        }
    }

    #[test]
    fn nothing_comes_next_for_a_key_that_was_changed_since_it_was_read() {
        let credentials = [FILE];
        let options = RotateOptions {
            credentials: &credentials,
            drop_others: false,
            derivation: Derivation::KeyFile,
            now: Timestamp::default(),
        };
        let storage = repository();
        let (open_before, mut ring) = (open(&storage), open(&storage));
        let turn = ring.turn().unwrap();
        ring.close(&turn).unwrap();
        // It may go on with a change that was begun after it was read only if it reads again.
        assert_eq!(open_before.turn().unwrap_err().kind(), ErrorKind::Key);
        let closed_before = open(&storage);
        closed_before.turn().unwrap();
        let (master, _) = ring.add_new(&ring.carried(&options).unwrap().0, &options).unwrap();
        ring.switch(&turn, master).unwrap();
        assert_eq!(open_before.turn().unwrap_err().kind(), ErrorKind::Key);
        let e = closed_before.turn().unwrap_err();
        assert!(e.kind() == ErrorKind::Key && e.to_string().contains("config/00000003"), "{e}");
        ring.turn().unwrap();
    }

    #[test]
    fn a_slot_that_somebody_has_made_with_the_new_key_meanwhile_stays() {
        let credentials = [FILE];
        let options = RotateOptions {
            credentials: &credentials,
            drop_others: false,
            derivation: Derivation::KeyFile,
            now: Timestamp::default(),
        };
        let storage = repository();
        let mut ring = open(&storage);
        let turn = ring.turn().unwrap();
        ring.close(&turn).unwrap();
        let (master, slots) = ring.add_new(&ring.carried(&options).unwrap().0, &options).unwrap();
        ring.switch(&turn, master).unwrap();
        let slot = SlotOptions { derivation: Derivation::KeyFile, now: Timestamp::default(), label: Vec::new() };
        KeyRing::open(storage.clone(), &FILE).unwrap().add(&Credential::KeyFile([2; 32]), &slot).unwrap();
        ring.keep_only(&slots).unwrap();
        let opened = KeyRing::open(storage.clone(), &Credential::KeyFile([2; 32])).unwrap();
        assert!(opened.master.is(&ring.master) && opened.slots().unwrap().len() == 2);
    }
}
