//! Key slots: wherever adding, removing or replacing one stops, somebody gets in, and the next command ends it.

use std::collections::BTreeSet;
use std::sync::Arc;

use yester::chunk::keys::Credential;
use yester::chunk::seal;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::envelope::ObjectType;
use yester::keys::keyring::KeyRing;
use yester::keys::slots::SlotOptions;
use yester::maintain::check::{self, CheckOptions, CheckReport};
use yester::model::{SlotId, Timestamp};
use yester::repo::{InitOptions, Repository};
use yester::storage::memory::MemoryStorage;
use yester::storage::{COPIES, Class, Name, Storage};
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::common::record::RecordingStorage;

const FILE: Credential = Credential::KeyFile([1; 32]);
const OTHER: Credential = Credential::KeyFile([2; 32]);
const THIRD: Credential = Credential::KeyFile([3; 32]);

fn options() -> SlotOptions {
    SlotOptions { derivation: Derivation::KeyFile, now: Timestamp::default(), label: Vec::new() }
}

/// One that `FILE` and `OTHER` open.
fn repository() -> Arc<MemoryStorage> {
    let storage = one_slot();
    KeyRing::open(storage.clone(), &FILE).unwrap().add(&OTHER, &options()).unwrap();
    storage
}

/// One that `FILE` opens.
fn one_slot() -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::KeyFile);
    let init = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
    Repository::init(storage.clone(), &FILE, &init).unwrap();
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
    check::check(&repo, &CheckOptions::default(), &Task::default(), &mut |_, _| ()).unwrap()
}

/// Whether every slot has all its copies, and nothing else is in `keys/`.
fn is_settled(storage: &MemoryStorage) -> bool {
    let names = storage.list(Class::Keys).unwrap();
    let slots: BTreeSet<SlotId> =
        names.iter().filter_map(|(name, _)| if let Name::Key(id, _) = name { Some(*id) } else { None }).collect();
    names.len() == slots.len() * usize::from(COPIES) && names.iter().all(|(name, _)| matches!(name, Name::Key(..)))
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
        assert!(is_settled(&storage), "after {stop} changes");
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
    let mut bound = [0; 32];
    bound[..16].fill(9);
    let genuine = seal::seal_object(
        ObjectType::Removed,
        ring.config().repository,
        &bound,
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

#[test]
fn wherever_a_change_stops_a_key_opens() {
    let full = {
        let storage = one_slot();
        let recorder = Arc::new(RecordingStorage::new(storage));
        KeyRing::open(recorder.clone(), &FILE).unwrap().replace(&OTHER, &options()).unwrap();
        recorder.take().len() as u64
    };
    let mut outcomes = [0, 0, 0];
    for stop in 0..full {
        let storage = one_slot();
        let recorder = Arc::new(RecordingStorage::new(storage.clone()));
        let mut ring = KeyRing::open(recorder.clone(), &FILE).unwrap();
        recorder.fail_after(stop);
        let done = ring.replace(&OTHER, &options()).is_ok();
        let (old, new) = (opens(&storage, &FILE), opens(&storage, &OTHER));
        assert!(old || new, "nobody gets in after {stop} changes");
        assert!(!done || new && !old);
        outcomes[usize::from(new) + usize::from(new && !old)] += 1;
    }
    assert!(outcomes.iter().all(|n| *n > 0), "old, both, new: {outcomes:?}");
}
