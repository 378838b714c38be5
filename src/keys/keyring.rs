//! What `key` does to a repository: its slots, its recovery text, and the copies of what everything depends on.

use std::sync::Arc;

use crate::chunk::keys::{Credential, MasterKey, open_slot};
use crate::chunk::one_way::only_writes;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::Config;
use crate::format::recovery::Recovery;
use crate::keys::configuration::{Authentic, Candidate, Configurations};
use crate::keys::copies::{Copies, CopyState, Repaired};
use crate::keys::opened::OpenedKey;
use crate::keys::recovery;
use crate::keys::removal::SlotStore;
use crate::keys::slots::{self, Slot, SlotOptions, UnlockedSlot};
use crate::model::SlotId;
use crate::observe::Reports;
use crate::storage::{Name, Storage};

/// An unlocked repository's keys.
pub struct KeyRing {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) master: MasterKey,
    pub(crate) config: Config,
    pub(super) opened: SlotId,
    pub(crate) unfinished: bool,
    pub(crate) number: u32,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing")
    }
}

impl KeyRing {
    /// Unlocks the repository on `storage`, and reports to nobody.
    pub fn open(storage: Arc<dyn Storage>, credential: &Credential) -> Result<Self> {
        Self::open_with(storage, credential, &Reports::default())
    }

    /// Unlocks the repository on `storage`. Any one copy of the configuration, and of the credential's slot, is enough;
    /// what is wrong with others is reported. A key that only writes is refused.
    pub fn open_with(storage: Arc<dyn Storage>, credential: &Credential, reports: &Reports) -> Result<Self> {
        match OpenedKey::open(storage, credential, reports)? {
            OpenedKey::Full(ring) => Ok(ring),
            OpenedKey::Writer(..) => Err(only_writes("read or change keys")),
        }
    }

    pub(super) fn of_master(
        storage: Arc<dyn Storage>,
        credential: &Credential,
        reports: &Reports,
        configurations: Configurations,
        mut unlocked: UnlockedSlot,
    ) -> Result<Self> {
        let judged = configurations.judge(&unlocked.master.keys());
        let (ignored, unreadable) = (judged.ignored(), judged.unreadable(&*storage));
        let Some(Authentic { config, copies, number }) = judged.newest()? else {
            let text = "was changed: no copy of it is authentic under the repository's key; yester key recover writes it anew";
            let changed = Error::corrupt(format!("the configuration of {} {text}", storage.describe()));
            return Err(unreadable.unwrap_or(changed));
        };
        // With a former key the newest configuration looks so, and nothing is to be removed for that.
        for (name, why) in ignored.into_iter().filter(|_| !config.is_closed()) {
            let why = format!("ignored, since it is not authentic: {why} (yester repair keys removes it)");
            reports.warn(name.to_string(), why);
        }
        for (name, state) in copies.states().filter(|(_, state)| matches!(state, CopyState::Damaged(_))) {
            let why = slots::describe(state);
            reports.warn(name.to_string(), format!("{why} (see: yester key list)"));
        }
        if unlocked.unfinished {
            let place = SlotStore { storage: &*storage, repository: config.repository, keys: &unlocked.master.keys() };
            let removed = place.look()?.removed;
            if removed.contains(&unlocked.slot) {
                unlocked = slots::unlock(&*storage, &[config.repository], credential, &removed, reports)
                    .map_err(|e| e.context("the slot that this key opens was removed"))?;
            }
        }
        let UnlockedSlot { master, slot: opened, unfinished } = unlocked;
        Ok(KeyRing { storage, master, config, opened, unfinished, number })
    }

    /// What the repository is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The slot that the credential opened.
    pub fn opened(&self) -> SlotId {
        self.opened
    }

    /// The copies of the configuration that counts; those that are not authentic are damaged.
    pub fn configuration(&self) -> Result<Copies<Candidate>> {
        let judged = Configurations::read(&*self.storage)?.judge(&self.master.keys());
        let lost = || Error::corrupt("no copy of the configuration is authentic (yester key recover writes it anew)");
        judged.newest()?.map(|found| found.copies).ok_or_else(lost)
    }

    /// Objects in `config/` that claim to be newer than the configuration that counts and are not authentic: what is wrong
    /// with each. They count for nothing.
    pub fn ignored(&self) -> Result<Vec<(Name, String)>> {
        Ok(Configurations::read(&*self.storage)?.judge(&self.master.keys()).ignored())
    }

    /// The same, those that are older and of which no copy is authentic, and made-up key slots: what [`KeyRing::remove_useless`] removes.
    pub fn useless(&self) -> Result<Vec<(Name, String)>> {
        self.is_current()?;
        let mut out = Configurations::read(&*self.storage)?.judge(&self.master.keys()).useless();
        for slot in self.slots()?.iter().filter(|slot| slot.made_up) {
            let there = slot.copies.states().filter(|(_, state)| **state != CopyState::Missing);
            out.extend(there.map(|(name, state)| (name, slots::describe(state))));
        }
        Ok(out)
    }

    /// Removes what counts for nothing in `config/` and `keys/`; answers what that was.
    pub fn remove_useless(&self) -> Result<Vec<(Name, String)>> {
        let mut found = self.useless()?;
        if found.is_empty() {
            return Ok(found);
        }
        self.storage.sync_everything()?;
        // What is deleted because of what was read must not hang on one bad read.
        let again = self.useless()?;
        found.retain(|one| again.contains(one));
        found.iter().try_for_each(|(name, _)| self.storage.delete(name))?;
        self.storage.sync()?;
        Ok(found)
    }

    /// Every slot, sorted by id; without those whose removal has begun.
    pub fn slots(&self) -> Result<Vec<Slot>> {
        self.with_place(|place| Ok(place.look()?.live))
    }

    /// Ends what was stopped half way: removals that have begun, and additions.
    pub fn finish(&self) -> Result<()> {
        match self.unfinished {
            // With a former key what is new looks made up.
            true => self.is_current().and_then(|()| self.with_place(|place| place.finish())),
            false => Ok(()),
        }
    }

    fn with_place<T>(&self, work: impl FnOnce(SlotStore<'_>) -> Result<T>) -> Result<T> {
        let keys = self.master.keys();
        work(SlotStore { storage: &*self.storage, repository: self.config.repository, keys: &keys })
    }

    /// Adds a slot for `credential`. It is durable, and was read back and opened, when this returns.
    pub fn add(&self, credential: &Credential, options: &SlotOptions) -> Result<SlotId> {
        self.add_kind(credential, options, None)
    }

    /// Adds a slot for `credential` with a key that only writes.
    pub fn add_writer(&self, credential: &Credential, options: &SlotOptions) -> Result<SlotId> {
        for slot in self.slots()? {
            if let Some(value) = slot.value()
                && open_slot(value, credential, slot.id)?.is_some()
            {
                let text = format!("the new key opens key slot {} already: give another one", slot.id.short());
                return Err(Error::invalid(text));
            }
        }
        self.add_kind(credential, options, Some(self.config.chunker))
    }

    /// Removes a slot, all copies of it. The one that this ring was opened with is refused, so at least one that opens
    /// is left.
    pub fn remove(&self, id: SlotId) -> Result<()> {
        let slots = self.slots()?;
        if !slots.iter().any(|slot| slot.id == id) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no key slot {}", id.short())));
        }
        let readable = |slot: &&Slot| slot.id != id && slot.copies.whole() > 0;
        if slots.iter().filter(readable).count() == 0 {
            let text = "is the last one that can be read: without it nobody could open the repository again";
            return Err(Error::invalid(format!("key slot {} {text} (yester key add makes another)", id.short())));
        }
        if id == self.opened {
            let text =
                "is the one that the given key opens: unlock with another key to remove it, or change it with yester key passwd";
            return Err(Error::invalid(format!("key slot {} {text}", id.short())));
        }
        if !slots.iter().filter(readable).any(Slot::is_full) {
            let text = "is the last one that can be read whose key does not only write: without it nobody could read anything";
            return Err(Error::invalid(format!("key slot {} {text} (yester key add makes another)", id.short())));
        }
        self.with_place(|place| place.remove(id))
    }

    /// Replaces the slot that this ring was opened with by one for `credential`: the new one first, and when it is sure,
    /// the old one goes. Returns the new one.
    pub fn replace(&mut self, credential: &Credential, options: &SlotOptions) -> Result<SlotId> {
        let new = self.add(credential, options)?;
        let old = std::mem::replace(&mut self.opened, new);
        self.with_place(|place| place.remove(old)).map_err(|e| {
            let text =
                format!("the new key slot {} is good, but the old one, {}, could not be removed", new.short(), old.short());
            e.context(text)
        })?;
        Ok(new)
    }

    /// Adds a slot for `credential` if there is none left that can be read: two who remove each other's slot at the same
    /// time must not lock everybody out.
    pub fn keep_one(&self, credential: &Credential, options: &SlotOptions) -> Result<Option<SlotId>> {
        match self.slots()?.iter().any(Slot::is_full) {
            true => Ok(None),
            false => self.add(credential, options).map(Some),
        }
    }

    /// Writes copies of the configuration and of the slots again where they are missing or damaged, but not of slots
    /// whose removal has begun. What was done, and the first error.
    pub fn repair(&self) -> (Vec<Repaired>, Result<()>) {
        let mut done = Vec::new();
        let mut result = Ok(());
        let mut note = |repaired: Result<Vec<Repaired>>| match repaired {
            Ok(more) => done.extend(more),
            Err(e) if result.is_ok() => result = Err(e),
            Err(_) => {}
        };
        note(self.configuration().and_then(|copies| copies.repair(&*self.storage)));
        match self.slots() {
            Ok(slots) => slots.iter().for_each(|slot| note(slot.copies.repair(&*self.storage))),
            Err(e) => note(Err(e)),
        }
        (done, result)
    }

    /// What the recovery text holds.
    pub fn recovery(&self) -> Recovery {
        recovery::of(self.config.clone(), &self.master)
    }
}

/// The slot that a user names by the first digits of its id, at least four.
pub fn find(slots: &[Slot], digits: &str) -> Result<SlotId> {
    if digits.len() < 4 || !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(Error::invalid("a key slot is named by at least 4 lower-case hexadecimal digits of its id"));
    }
    let mut fitting = slots.iter().map(|slot| slot.id).filter(|id| id.to_string().starts_with(digits));
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Error::new(ErrorKind::NotFound, format!("there is no key slot {digits} (yester key list shows them)"))),
        (Some(_), Some(_)) => Err(Error::invalid(format!("{digits} is the beginning of several key slots: give more digits"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::keys::Keys;
    use crate::format::config::{ChunkerParameters, Derivation};
    use crate::format::envelope;
    use crate::model::{SnapshotId, Timestamp};
    use crate::repo::{InitOptions, Repository, session};
    use crate::storage::memory::MemoryStorage;
    use crate::storage::{COPIES, Class};

    const FILE: Credential = Credential::KeyFile([1; 32]);
    const OTHER: Credential = Credential::KeyFile([2; 32]);
    /// The least that Argon2 takes: these tests are not about its strength.
    const QUICK: Derivation = Derivation::Passphrase { memory: 8, passes: 1, lanes: 1 };

    fn options() -> SlotOptions {
        SlotOptions { derivation: QUICK, now: Timestamp { secs: 7, nanos: 0 }, label: b"test".to_vec() }
    }

    fn repository() -> Arc<MemoryStorage> {
        let storage = Arc::new(MemoryStorage::default());
        let init =
            InitOptions { chunker: ChunkerParameters::DEFAULT, derivation: QUICK, now: Timestamp::default(), label: Vec::new() };
        let repo = Repository::init(storage.clone(), &FILE, &init).unwrap();
        // Something that is sealed with the repository's key.
        session::begin(&repo, Timestamp::default()).unwrap();
        storage
    }

    fn open(storage: &Arc<MemoryStorage>, credential: &Credential) -> Result<KeyRing> {
        KeyRing::open(storage.clone(), credential)
    }

    fn precious(storage: &dyn Storage) -> Vec<(Name, Vec<u8>)> {
        let mut names: Vec<Name> =
            [Class::Config, Class::Keys].iter().flat_map(|class| storage.list(*class).unwrap()).map(|(name, _)| name).collect();
        names.sort_unstable();
        let read = |name| {
            let mut object = Vec::new();
            storage.read(&name, None, &mut object).unwrap();
            (name, object)
        };
        names.into_iter().map(read).collect()
    }

    fn passphrase(text: &str) -> Credential {
        Credential::Passphrase(text.as_bytes().to_vec())
    }

    #[test]
    fn every_slot_opens_the_same_repository() {
        let storage = repository();
        let ring = open(&storage, &FILE).unwrap();
        let words = passphrase("many words");
        let slots = [ring.add(&words, &options()).unwrap(), ring.add(&OTHER, &options()).unwrap()];
        for (credential, slot) in [&words, &OTHER].into_iter().zip(slots) {
            let other = open(&storage, credential).unwrap();
            assert!(other.master.is(&ring.master) && other.opened() == slot);
        }
        assert_eq!(ring.slots().unwrap().len(), 3);
        assert!(ring.slots().unwrap().iter().all(|slot| slot.copies.whole() == 3));
        for wrong in [passphrase("other words"), Credential::KeyFile([3; 32])] {
            assert_eq!(open(&storage, &wrong).unwrap_err().kind(), ErrorKind::Key);
        }
        let long = SlotOptions { label: vec![b'x'; 2000], ..options() };
        assert_eq!(ring.add(&OTHER, &long).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn no_removal_locks_everybody_out() {
        let storage = repository();
        let ring = open(&storage, &FILE).unwrap();
        assert!(ring.remove(ring.opened()).unwrap_err().to_string().contains("last one"));
        let other = ring.add(&OTHER, &options()).unwrap();
        assert!(ring.remove(ring.opened()).unwrap_err().to_string().contains("the given key opens"));
        (0..COPIES).for_each(|copy| storage.damage(&Name::Key(other, copy), |object| object[30] ^= 1));
        assert!(ring.remove(ring.opened()).unwrap_err().to_string().contains("last one"));
        // One that nobody can read any more may go.
        ring.remove(other).unwrap();
        assert_eq!(ring.slots().unwrap().len(), 1);
        assert_eq!(ring.remove(other).unwrap_err().kind(), ErrorKind::NotFound);
        // Two who remove each other's slot at the same time are left with one each.
        (0..COPIES).for_each(|copy| storage.delete(&Name::Key(ring.opened(), copy)).unwrap());
        let kept = ring.keep_one(&FILE, &options()).unwrap();
        assert!(kept.is_some() && ring.keep_one(&FILE, &options()).unwrap().is_none());
        assert_eq!(open(&storage, &FILE).unwrap().opened(), kept.unwrap());
    }

    #[test]
    fn any_one_copy_is_enough_and_the_others_come_back_as_they_were() {
        let storage = repository();
        open(&storage, &FILE).unwrap().add(&OTHER, &options()).unwrap();
        let before = precious(&*storage);
        assert_eq!(before.len(), 9);
        let damages: [fn(&mut Vec<u8>); 5] = [
            |object| object[40] ^= 0x80,
            // The version, which is looked at before the checksum: damage is no newer program.
            |object| object[10] ^= 0x40,
            |object| object.truncate(20),
            Vec::clear,
            |object| object.resize(100_000, 0),
        ];
        for (at, damage) in damages.into_iter().enumerate() {
            for good in 0..COPIES {
                for (name, _) in &before {
                    let (Name::Config(_, copy) | Name::Key(_, copy)) = *name else { panic!() };
                    match (copy == good, copy == (good + 1) % COPIES) {
                        (true, _) => {}
                        (_, true) => storage.damage(name, damage),
                        _ => storage.delete(name).unwrap(),
                    }
                }
                let ring = open(&storage, &OTHER).unwrap_or_else(|e| panic!("damage {at}, copy {good}: {e}"));
                let (repaired, result) = ring.repair();
                result.unwrap();
                assert_eq!(repaired.len(), 6);
                assert_eq!(repaired.iter().filter(|copy| copy.was == CopyState::Missing).count(), 3);
                assert_eq!(precious(&*storage), before, "damage {at}, copy {good}");
            }
        }
        let (nothing, result) = open(&storage, &FILE).unwrap().repair();
        assert!(nothing.is_empty() && result.is_ok());
    }

    #[test]
    fn what_is_no_damage_is_left_alone() {
        let storage = repository();
        // A newer program's configuration, made with the key, stops this one; but nobody else can make such a thing.
        let keys = open(&storage, &FILE).unwrap().master.keys();
        let newer = claim(&precious(&*storage)[0].1, 9, Some(&keys));
        storage.create(&Name::Config(2, 0), &[&newer]).unwrap();
        assert_eq!(open(&storage, &FILE).unwrap_err().kind(), ErrorKind::Unsupported);
        storage.delete(&Name::Config(2, 0)).unwrap();
        // Another repository's configuration, put in the place of ours or before it.
        let stranger = precious(&*repository())[0].1.clone();
        storage.create(&Name::Config(2, 0), &[&stranger]).unwrap();
        storage.damage(&Name::Config(1, 0), |object| object.clone_from(&stranger));
        let ring = open(&storage, &FILE).unwrap();
        assert_eq!(ring.repair().0.iter().map(|copy| copy.name).collect::<Vec<_>>(), [Name::Config(1, 0)]);
        // Slots whose copies are good and differ: the one that opens is found, and none is chosen to be the true one.
        let slot = ring.opened();
        let forged = { envelope::wrap(envelope::ObjectType::KeySlot, ring.config.repository, &other_slot(&storage, &ring)) };
        storage.damage(&Name::Key(slot, 0), |object| *object = forged);
        storage.delete(&Name::Key(slot, 2)).unwrap();
        let ring = open(&storage, &FILE).unwrap();
        assert!(ring.slots().unwrap()[0].copies.differ());
        assert!(ring.repair().0.is_empty());
    }

    /// The same object of another version, with a MAC if the keys are given.
    fn claim(object: &[u8], version: u8, keys: Option<&Keys>) -> Vec<u8> {
        let mut out = object[..object.len() - envelope::CHECKSUM].to_vec();
        out[10] = version;
        let mac = out.len() - 32;
        if let Some(keys) = keys {
            let found = keys.config_mac(&out[..envelope::HEADER], &out[envelope::HEADER..mac]);
            out[mac..].copy_from_slice(&found);
        }
        let sum = *blake3::hash(&out).as_bytes();
        [&out[..], &sum].concat()
    }

    #[test]
    fn what_is_not_authentic_stops_nobody() {
        let storage = repository();
        let text = open(&storage, &FILE).unwrap().recovery();
        let before = precious(&*storage);
        let config = &before[0].1;
        let mut features = config.clone();
        features[envelope::HEADER + 2] = 1;
        let stranger = precious(&*repository())[0].1.clone();
        let made_up: [Vec<u8>; 5] =
            [claim(config, 2, None), claim(&features, 1, None), b"garbage".to_vec(), stranger, vec![0; 70_000]];
        for (at, object) in made_up.iter().enumerate() {
            for name in [Name::Config(2, 1), Name::Config(u32::MAX, 0)] {
                storage.create(&name, &[object]).unwrap();
            }
            let ring = open(&storage, &FILE).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(ring.ignored().unwrap().len(), 2, "{at}");
            assert!(ring.repair().0.is_empty(), "{at}");
            // The recovery text makes another one below the greatest number.
            (0..COPIES).for_each(|copy| storage.delete(&Name::Config(1, copy)).unwrap());
            assert_eq!(recovery::restore_configuration(&*storage, &text).unwrap(), Some(1), "{at}");
            let removed = ring.remove_useless().unwrap();
            assert_eq!(
                removed.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
                [Name::Config(u32::MAX, 0), Name::Config(2, 1)]
            );
            assert_eq!(precious(&*storage), before, "{at}");
        }
    }

    #[test]
    fn a_made_up_slot_is_in_nobodys_way() {
        let storage = repository();
        let words = passphrase("many words");
        let ring = open(&storage, &FILE).unwrap();
        ring.add(&words, &options()).unwrap();
        let body = other_slot(&storage, &ring);
        let slot = envelope::wrap(envelope::ObjectType::KeySlot, ring.config.repository, &body);
        // Of a newer version, of another repository, and one that would take four gigabytes of memory and minutes.
        let stranger = envelope::wrap(envelope::ObjectType::KeySlot, crate::model::RepositoryId([7; 16]), &body);
        let mut costly = crate::format::config::decode_slot(&body).unwrap();
        costly.derivation = Derivation::Passphrase { memory: 4 << 20, passes: 64, lanes: 1 };
        let costly = crate::format::config::encode_slot(&costly, &[0; 32]).unwrap();
        let costly = envelope::wrap(envelope::ObjectType::KeySlot, ring.config.repository, &costly);
        for (at, object) in (0..).zip([claim(&slot, 2, None), stranger, costly]) {
            storage.create(&Name::Key(SlotId([at; 16]), 0), &[&object]).unwrap();
        }
        let again = open(&storage, &words).unwrap();
        assert!(again.master.is(&ring.master) && open(&storage, &FILE).is_ok());
        // Nor when the configuration is lost and nothing but slots tells the repository.
        storage.list(Class::Config).unwrap().iter().for_each(|(name, _)| storage.delete(name).unwrap());
        let text =
            recovery::without_text(&*storage, &words, ChunkerParameters::DEFAULT, Timestamp::default(), &Reports::default())
                .unwrap();
        assert_eq!(text.config.repository, ring.config.repository);
        recovery::restore_configuration(&*storage, &text).unwrap();
        // Who has the key removes them, and what is no slot at all. One that was damaged stays: its bytes are all there is.
        storage.create(&Name::Key(SlotId([3; 16]), 2), &[b"garbage"]).unwrap();
        let mut rotten = Vec::new();
        storage.read(&Name::Key(again.opened(), 0), None, &mut rotten).unwrap();
        rotten[60] ^= 1;
        storage.create(&Name::Key(SlotId([4; 16]), 0), &[&rotten]).unwrap();
        let removed = again.remove_useless().unwrap();
        let wanted = (0..4).map(|at| Name::Key(SlotId([at; 16]), if at == 3 { 2 } else { 0 }));
        assert_eq!(removed.iter().map(|(name, _)| *name).collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        again.remove(SlotId([4; 16])).unwrap();
        assert_eq!(again.slots().unwrap().len(), 2);
    }

    /// The body of a slot for another credential under the same name.
    fn other_slot(storage: &Arc<MemoryStorage>, ring: &KeyRing) -> Vec<u8> {
        let id = open(storage, &FILE).unwrap().opened();
        let slot = ring.master.wrap(&OTHER, Derivation::KeyFile, Timestamp::default(), Vec::new(), id).unwrap();
        let header = envelope::header(envelope::ObjectType::KeySlot, ring.config.repository);
        let mac = ring.master.keys().slot_mac(&header, id, &crate::format::config::slot_fields(&slot));
        crate::format::config::encode_slot(&slot, &mac).unwrap()
    }

    #[test]
    fn a_removal_beats_a_repair_at_the_same_time() {
        let storage = repository();
        let ring = open(&storage, &FILE).unwrap();
        let other = ring.add(&OTHER, &options()).unwrap();
        storage.damage(&Name::Key(other, 0), Vec::clear);
        let slots = ring.slots().unwrap();
        let slot = slots.iter().find(|slot| slot.id == other).unwrap();
        // The copies were looked at; then the slot is removed; then the repair goes on.
        ring.remove(other).unwrap();
        assert!(slot.copies.repair(&*storage).unwrap().is_empty());
        assert_eq!(ring.slots().unwrap().len(), 1);
    }

    /// The number of the configuration that had to be written.
    fn recover(storage: &Arc<MemoryStorage>, text: &Recovery, credential: &Credential) -> Result<Option<u32>> {
        let number = recovery::restore_configuration(&**storage, text)?;
        recovery::add_slot(&**storage, text, credential, &options()).map(|_| number)
    }

    #[test]
    fn the_recovery_text_replaces_everything() {
        let storage = repository();
        let ring = open(&storage, &FILE).unwrap();
        let text = ring.recovery().lines().unwrap();
        let text = crate::format::recovery::Recovery::read(text.as_bytes()).unwrap();
        let recover = |credential: &Credential| recover(&storage, &text, credential);
        // All is there: only a slot is added.
        assert_eq!(recover(&OTHER).unwrap(), None);
        let before = precious(&*storage);
        // Nothing is there.
        for (name, _) in &before {
            storage.delete(name).unwrap();
        }
        let error = open(&storage, &FILE).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("key recover"), "{error}");
        assert_eq!(recover(&OTHER).unwrap(), Some(1));
        let new = open(&storage, &OTHER).unwrap();
        assert!(new.master.is(&ring.master) && new.config == ring.config);
        assert!(open(&storage, &FILE).is_err());
        // Every copy of the configuration is damaged: another number is taken.
        (0..COPIES).for_each(|copy| storage.damage(&Name::Config(1, copy), |object| object[30] ^= 1));
        let error = open(&storage, &OTHER).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("config/00000001"), "{error}");
        assert_eq!(recover(&FILE).unwrap(), Some(2));
        assert!(open(&storage, &OTHER).is_ok() && open(&storage, &FILE).is_ok());
        assert!(open(&storage, &FILE).unwrap().repair().0.is_empty());
    }

    #[test]
    fn another_repositorys_text_changes_nothing() {
        let (storage, other) = (repository(), repository());
        let before = precious(&*storage);
        let mut text = open(&other, &FILE).unwrap().recovery();
        for _ in 0..2 {
            let error = recover(&storage, &text, &OTHER).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Key);
            assert!(!error.to_string().contains(&crate::model::id::to_hex(&text.master[..4])));
            assert_eq!(precious(&*storage), before);
            // And one that claims to be of this repository.
            text.config.repository = open(&storage, &FILE).unwrap().config.repository;
        }
        before.iter().for_each(|(name, _)| storage.delete(name).unwrap());
        assert!(recover(&storage, &text, &OTHER).is_err());
        assert!(precious(&*storage).is_empty());
        // Where nothing is sealed, nothing contradicts.
        let session = storage.list(Class::Sessions).unwrap()[0].0;
        storage.delete(&session).unwrap();
        storage.create(&Name::Session(SnapshotId([1; 32])), &[b"junk"]).unwrap();
        recover(&storage, &text, &OTHER).unwrap();
    }

    #[test]
    fn a_lost_configuration_is_made_from_a_slot() {
        let storage = repository();
        let ring = open(&storage, &FILE).unwrap();
        storage.list(Class::Config).unwrap().iter().for_each(|(name, _)| storage.delete(name).unwrap());
        let chunker = ChunkerParameters::DEFAULT;
        let init = InitOptions { chunker, derivation: QUICK, now: Timestamp::default(), label: Vec::new() };
        assert_eq!(Repository::init(storage.clone(), &FILE, &init).unwrap_err().kind(), ErrorKind::Exists);
        assert!(recovery::without_text(&*storage, &OTHER, chunker, Timestamp::default(), &Reports::default()).is_err());
        let text = recovery::without_text(&*storage, &FILE, chunker, Timestamp::default(), &Reports::default()).unwrap();
        assert_eq!(recover(&storage, &text, &OTHER).unwrap(), Some(1));
        let new = open(&storage, &FILE).unwrap();
        assert!(new.master.is(&ring.master) && new.config.repository == ring.config.repository);
    }

    #[test]
    fn slots_are_named_by_their_first_digits() {
        let storage = repository();
        let slots = open(&storage, &FILE).unwrap().slots().unwrap();
        let id = slots[0].id;
        assert_eq!(find(&slots, &id.to_string()[..4]).unwrap(), id);
        assert_eq!(find(&slots, &id.to_string()).unwrap(), id);
        for bad in ["", "abc", "ABCD", "../x", &"é".repeat(4)] {
            assert_eq!(find(&slots, bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        let absent = if id.to_string().starts_with("0000") { "ffff" } else { "0000" };
        assert_eq!(find(&slots, absent).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
