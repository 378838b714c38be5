//! Removals and additions of key slots that were stopped half way, and how they are ended.
//!
//! A removal begins with an object of its own, `keys/<slot>.removed`, sealed with the repository's key; from then on the
//! slot counts no more, and whoever may write deletes what is left of it. An addition writes the copies in order: a slot
//! that lacks only its last ones is completed.

use std::collections::BTreeSet;

use crate::chunk::keys::Keys;
use crate::chunk::seal::{self, Judged};
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::keys::copies::State;
use crate::keys::slots::{self, Slot};
use crate::model::{RepositoryId, SlotId};
use crate::storage::{COPIES, Class, Created, Name, Storage};

/// Where the slots are, and what removals of them are judged by.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub storage: &'a dyn Storage,
    pub repository: RepositoryId,
    pub keys: &'a Keys,
}

/// The slots of a repository, by what counts.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that count.
    pub live: Vec<Slot>,
    /// Those whose removal has begun.
    pub removed: BTreeSet<SlotId>,
    /// Removals that do not count, since without these slots none would be left that can be read.
    pub void: BTreeSet<SlotId>,
    /// Removals that nobody with the key has begun.
    pub made_up: Vec<(Name, Error)>,
}

/// Whether a listing of `keys/` has anything that may have to be ended.
pub(crate) fn is_unfinished(listed: &[(Name, u64)]) -> bool {
    let copies = listed.iter().filter(|(name, _)| matches!(name, Name::Key(..))).count();
    let slots: BTreeSet<SlotId> =
        listed.iter().filter_map(|(name, _)| if let Name::Key(id, _) = name { Some(*id) } else { None }).collect();
    copies != slots.len() * usize::from(COPIES) || copies != listed.len()
}

impl Place<'_> {
    /// Reads the slots and their removals.
    pub fn look(self) -> Result<Found> {
        let mut found = Found::default();
        let listed = self.storage.list(Class::Keys)?;
        for (name, _) in &listed {
            let Name::Removed(id) = *name else { continue };
            match self.judge(id)? {
                // A removal says nothing but that it is there: a damaged one counts like any other.
                Some(Judged::Sound(..) | Judged::Damaged(..)) => drop(found.removed.insert(id)),
                Some(Judged::MadeUp(e)) => found.made_up.push((*name, e.about(name))),
                Some(Judged::Newer(_)) | None => {}
            }
        }
        let mut all = slots::read(self.storage, self.repository, &listed);
        all.iter_mut().for_each(|slot| slot.judge(self.keys));
        let counts = |slot: &Slot| !found.removed.contains(&slot.id);
        if all.iter().any(|slot| counts(slot) && may_be_read(slot)) {
            found.live = all.into_iter().filter(counts).collect();
        } else {
            // Two who remove each other's slot, or the only other one was lost since.
            let there: BTreeSet<SlotId> = all.iter().filter(|slot| may_be_read(slot)).map(|slot| slot.id).collect();
            found.void = found.removed.intersection(&there).copied().collect();
            found.removed = found.removed.difference(&there).copied().collect();
            found.live = all.into_iter().filter(|slot| !found.removed.contains(&slot.id)).collect();
        }
        Ok(found)
    }

    fn judge(self, id: SlotId) -> Result<Option<Judged>> {
        let mut object = Vec::new();
        match self.storage.read(&Name::Removed(id), None, &mut object) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(Some(Judged::MadeUp(e))),
            Err(e) => return Err(e),
        }
        let kinds = &[ObjectType::Removed];
        let class = &self.keys.snapshot;
        seal::judge_object(kinds, self.repository, &bound(id), class, &object, "a removal of a key slot").map(Some)
    }

    /// Removes a slot. Once the removal is durable, it is ended by whoever comes next if this is stopped.
    pub fn remove(self, id: SlotId) -> Result<()> {
        let object = seal::seal_object(ObjectType::Removed, self.repository, &bound(id), &self.keys.snapshot, &[])?;
        let name = Name::Removed(id);
        if self.storage.create(&name, &[&object])? == Created::Exists && matches!(self.judge(id)?, Some(Judged::MadeUp(_))) {
            self.storage.delete(&name)?;
            self.storage.create(&name, &[&object])?;
        }
        self.storage.sync()?;
        self.end(id)
    }

    /// Deletes what is left of a slot, and then its removal.
    fn end(self, id: SlotId) -> Result<()> {
        slots::delete(self.storage, id)?;
        self.storage.delete(&Name::Removed(id))?;
        self.storage.sync()
    }

    /// Ends removals that have begun, completes slots whose addition was stopped, and takes away what only looks like a
    /// removal.
    pub fn finish(self) -> Result<()> {
        if !is_unfinished(&self.storage.list(Class::Keys)?) {
            return Ok(());
        }
        // What is built on here must not be gone after a power cut.
        self.storage.sync_everything()?;
        let found = self.look()?;
        found.removed.iter().try_for_each(|id| self.end(*id))?;
        for (name, _) in &found.made_up {
            self.storage.delete(name)?;
        }
        // A slot that only could not be read now may be good: then nothing is decided.
        let unknown = |slot: &Slot| slot.copies.states().any(|(_, state)| matches!(state, State::Unknown(_)));
        if !found.live.iter().any(unknown) {
            found.void.iter().try_for_each(|id| self.storage.delete(&Name::Removed(*id)))?;
        }
        for slot in found.live.iter().filter(|slot| slot.copies.lacks_last()) {
            slot.copies.repair(self.storage)?;
        }
        self.storage.sync()
    }
}

fn may_be_read(slot: &Slot) -> bool {
    slot.copies.whole() > 0
}

/// What the seal is bound to: 32 bytes, as of every other small object.
fn bound(id: SlotId) -> [u8; 32] {
    let mut out = [0; 32];
    out.iter_mut().zip(id.0).for_each(|(to, from)| *to = from);
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chunk::keys::Credential;
    use crate::format::config::{ChunkerParameters, Derivation};
    use crate::keys::keyring::KeyRing;
    use crate::keys::slots::SlotOptions;
    use crate::maintain::check::{self, CheckOptions, CheckReport};
    use crate::model::Timestamp;
    use crate::observe::Silent;
    use crate::repo::{InitOptions, Repository};
    use crate::storage::memory::MemoryStorage;
    use crate::storage::record::RecordingStorage;

    const FILE: Credential = Credential::KeyFile([1; 32]);
    const OTHER: Credential = Credential::KeyFile([2; 32]);
    const THIRD: Credential = Credential::KeyFile([3; 32]);

    fn options() -> SlotOptions {
        SlotOptions { derivation: Derivation::KeyFile, now: Timestamp::default(), label: Vec::new() }
    }

    /// One that `FILE` and `OTHER` open.
    fn repository() -> Arc<MemoryStorage> {
        let storage = Arc::new(MemoryStorage::default());
        let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::KeyFile);
        let init = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
        Repository::init(storage.clone(), &FILE, &init).unwrap();
        KeyRing::open(storage.clone(), &FILE).unwrap().add(&OTHER, &options()).unwrap();
        storage
    }

    fn opens(storage: &Arc<MemoryStorage>, credential: &Credential) -> bool {
        match KeyRing::open(storage.clone(), credential) {
            Ok(_) => true,
            Err(e) => panic_unless(e.kind() == ErrorKind::Key, &e),
        }
    }

    fn panic_unless(fine: bool, e: &Error) -> bool {
        assert!(fine, "{e}");
        false
    }

    fn checked(storage: &Arc<MemoryStorage>) -> CheckReport {
        let repo = Arc::new(Repository::open(storage.clone(), &FILE).unwrap());
        check::check(&repo, &CheckOptions::default(), &Silent, &mut |_, _| ()).unwrap()
    }

    fn other(ring: &KeyRing) -> SlotId {
        ring.slots().unwrap().iter().map(|slot| slot.id).find(|id| *id != ring.opened()).unwrap()
    }

    /// Stops `change` after every number of changes. Before and after the next command that writes, check finds no
    /// damage; after it every slot is whole or gone. Answers who got in after each.
    fn wherever_it_stops(credential: &Credential, change: impl Fn(&mut KeyRing) -> Result<()>) -> Vec<[bool; 3]> {
        let mut out = Vec::new();
        for stop in 0.. {
            let storage = repository();
            let recorder = Arc::new(RecordingStorage::new(storage.clone()));
            let mut ring = KeyRing::open(recorder.clone(), credential).unwrap();
            recorder.fail_after(stop);
            let done = change(&mut ring).is_ok();
            let before = [&FILE, &OTHER, &THIRD].map(|credential| opens(&storage, credential));
            assert_eq!(checked(&storage).damage, 0, "after {stop} changes");
            // The next command stops half way as well.
            recorder.fail_after(1);
            let _ = Repository::open(recorder, &FILE).unwrap().finish_keys();
            assert_eq!(checked(&storage).damage, 0, "after {stop} changes");
            Repository::open(storage.clone(), &FILE).unwrap().finish_keys().unwrap();
            let report = checked(&storage);
            assert_eq!((report.damage, report.unfinished_keys), (0, 0), "after {stop} changes");
            assert!(!is_unfinished(&storage.list(Class::Keys).unwrap()), "after {stop} changes");
            assert_eq!([&FILE, &OTHER, &THIRD].map(|credential| opens(&storage, credential)), before, "after {stop} changes");
            // What repair finds to do brings nothing back.
            assert!(KeyRing::open(storage.clone(), &FILE).unwrap().repair().0.is_empty());
            out.push(before);
            if done {
                break;
            }
        }
        out
    }

    #[test]
    fn a_removal_that_has_begun_is_finished() {
        let remove = |ring: &mut KeyRing| {
            let id = other(ring);
            ring.remove(id)
        };
        let outcomes = wherever_it_stops(&FILE, remove);
        assert_eq!(outcomes[0], [true, true, false], "nothing was changed");
        assert!(outcomes[1..].iter().all(|who| *who == [true, false, false]), "{outcomes:?}");
        assert!(outcomes.len() > 6, "{outcomes:?}");
    }

    #[test]
    fn an_added_slot_is_whole_or_not_there() {
        let outcomes = wherever_it_stops(&FILE, |ring| ring.add(&THIRD, &options()).map(drop));
        assert_eq!(outcomes[0], [true, true, false]);
        assert!(outcomes[1..].iter().all(|who| *who == [true; 3]), "{outcomes:?}");
    }

    #[test]
    fn a_changed_key_is_the_old_or_the_new_or_both() {
        let outcomes = wherever_it_stops(&OTHER, |ring| ring.replace(&THIRD, &options()).map(drop));
        let seen: Vec<[bool; 3]> = [[true, true, false], [true; 3], [true, false, true]].into();
        let mut steps = outcomes.clone();
        steps.dedup();
        assert_eq!(steps, seen, "{outcomes:?}");
    }

    #[test]
    fn the_last_way_in_is_never_removed() {
        // Two begin to remove each other's slot, and both are stopped.
        let storage = repository();
        for (mine, stop) in [(&FILE, 2), (&OTHER, 2)] {
            let recorder = Arc::new(RecordingStorage::new(storage.clone()));
            let ring = KeyRing::open(recorder.clone(), mine);
            let Ok(ring) = ring else { continue };
            let id = other(&ring);
            recorder.fail_after(stop);
            ring.remove(id).unwrap_err();
        }
        assert!(opens(&storage, &FILE) && !opens(&storage, &OTHER));
        // The only other slot is lost before the removal is finished.
        let ring = KeyRing::open(storage.clone(), &FILE).unwrap();
        (0..COPIES).for_each(|copy| storage.damage(&Name::Key(ring.opened(), copy), |object| object[40] ^= 1));
        Repository::open(storage.clone(), &OTHER).unwrap().finish_keys().unwrap();
        let names = storage.list(Class::Keys).unwrap();
        assert!(!names.iter().any(|(name, _)| matches!(name, Name::Removed(_))) && opens(&storage, &OTHER));
    }

    #[test]
    fn only_an_authentic_removal_counts() {
        let storage = repository();
        let ring = KeyRing::open(storage.clone(), &FILE).unwrap();
        let (mine, theirs) = (ring.opened(), other(&ring));
        // Made up, and one of another slot.
        let genuine = seal::seal_object(
            ObjectType::Removed,
            ring.config().repository,
            &bound(SlotId([9; 16])),
            &Repository::open(storage.clone(), &FILE).unwrap().keys().snapshot,
            &[],
        );
        storage.create(&Name::Removed(theirs), &[&genuine.unwrap()]).unwrap();
        storage.create(&Name::Removed(mine), &[b"garbage"]).unwrap();
        assert!(opens(&storage, &FILE) && opens(&storage, &OTHER));
        assert_eq!((checked(&storage).damage, checked(&storage).unfinished_keys), (2, 0));
        // A true removal is not kept out by what is there under its name.
        ring.remove(theirs).unwrap();
        assert!(opens(&storage, &FILE) && !opens(&storage, &OTHER));
        Repository::open(storage.clone(), &FILE).unwrap().finish_keys().unwrap();
        assert_eq!((storage.list(Class::Keys).unwrap().len(), checked(&storage).damage), (3, 0));
    }
}
