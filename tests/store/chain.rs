//! The chain of snapshots: whatever a list lacks is noticed by somebody who has never seen it, as long as a snapshot that
//! came after it is shown; and what was forgotten is not missed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::tiny::Tiny;

use std::collections::HashSet;

use yester::chunk::keys::Credential;
use yester::format::snapshot::empty_root;
use yester::maintain::forget::{ForgetOptions, forget};
use yester::model::{Chain, Snapshot, SnapshotId, Timestamp};
use yester::repo::{Repository, chain, snapshots};
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

fn snapshot(id: SnapshotId, chain: Chain) -> Snapshot {
    let time = Timestamp { secs: 1_000_000, nanos: 0 };
    Snapshot {
        id,
        time,
        finished: time,
        host: b"host".to_vec(),
        user: Vec::new(),
        paths: vec![b"/data".to_vec()],
        tags: Vec::new(),
        parent: None,
        writer: None,
        chain,
        root: empty_root(),
        scan: None,
        scan_start: time,
        links: None,
        owners: Default::default(),
        rules: Vec::new(),
        composition: Default::default(),
        statistics: Default::default(),
        program: Vec::new(),
    }
}

/// Somebody who has never seen the repository.
fn stranger(tiny: &Tiny) -> Repository {
    Repository::open(tiny.storage.clone(), &Credential::KeyFile([7; 32])).unwrap()
}

fn gone(tiny: &Tiny) -> Vec<SnapshotId> {
    let repo = stranger(tiny);
    chain::look(&repo, &snapshots::present(&repo).unwrap()).unwrap().gone
}

/// Commits what somebody saw at some time before.
fn commit(tiny: &Tiny, id: SnapshotId, chain: Chain) {
    assert!(snapshots::commit(&stranger(tiny), &snapshot(id, chain)).unwrap());
}

/// What nothing that is shown names: nobody can tell that it is hidden.
fn last(tiny: &Tiny) -> HashSet<SnapshotId> {
    let repo = stranger(tiny);
    let present = snapshots::present(&repo).unwrap();
    let named = |id: SnapshotId| {
        let storage = &tiny.storage;
        let name = Name::Snapshot(id);
        let mut object = Vec::new();
        storage.read(&name, None, &mut object).unwrap();
        storage.delete(&name).unwrap();
        let noticed = gone(tiny) == [id];
        storage.create(&name, &[&object]).unwrap();
        noticed
    };
    present.into_iter().filter(|id| !named(*id)).collect()
}

/// A generator of numbers: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

#[test]
fn whatever_is_hidden_is_noticed_and_nothing_else_is() {
    for seed in 0..12 {
        let (tiny, mut dice) = (Tiny::new(), Dice(seed));
        // Writers that have looked and not committed yet.
        let mut open: Vec<Chain> = Vec::new();
        // What was committed since the last snapshot whose writer saw everything.
        let mut unseen: HashSet<SnapshotId> = HashSet::new();
        let mut last_to_see_all = None;
        for step in 0..40u8 {
            let live = snapshots::present(&stranger(&tiny)).unwrap();
            match dice.below(10) {
                0..=4 => {
                    let id = SnapshotId([step + 1; 32]);
                    commit(&tiny, id, chain::next(&stranger(&tiny), &[]).unwrap());
                    (unseen, last_to_see_all) = (HashSet::from([id]), Some(id));
                }
                5 => open.push(chain::next(&stranger(&tiny), &[]).unwrap()),
                6 if !open.is_empty() => {
                    let id = SnapshotId([step + 1; 32]);
                    commit(&tiny, id, open.remove(0));
                    unseen.insert(id);
                }
                7 | 8 if live.len() > 1 => {
                    let ids: Vec<SnapshotId> = live.iter().copied().filter(|_| dice.below(3) == 0).collect();
                    forget(
                        &stranger(&tiny),
                        &ids,
                        &ForgetOptions::default(),
                        &Task::default().at(Timestamp { secs: 2_000_000, nanos: 0 }),
                    )
                    .unwrap();
                }
                // As prune does: the objects of forgotten snapshots go, their marks stay.
                _ => {
                    for (name, _) in tiny.storage.list(Class::Forgotten).unwrap() {
                        let Name::Forgotten(id) = name else { continue };
                        tiny.storage.delete(&Name::Snapshot(id)).unwrap();
                    }
                }
            }
            assert_eq!(gone(&tiny), [], "seed {seed}, step {step}: nothing is gone");
            let live: HashSet<SnapshotId> = snapshots::present(&stranger(&tiny)).unwrap().into_iter().collect();
            let hidden = last(&tiny);
            // Where that one was forgotten, what it alone named is named by nobody who is shown.
            if last_to_see_all.is_some_and(|id| live.contains(&id)) {
                let unnoticed: Vec<&SnapshotId> = hidden.difference(&unseen).collect();
                assert!(unnoticed.is_empty(), "seed {seed}, step {step}: {unnoticed:?} can be hidden; last are {unseen:?}");
            }
        }
    }
}

/// What one writer remembers and the list lacks becomes known to all with its next snapshot.
#[test]
fn what_a_writer_remembers_is_said_by_its_next_snapshot() {
    let tiny = Tiny::new();
    let [first, second, third] = [1, 2, 3].map(|n| SnapshotId([n; 32]));
    commit(&tiny, first, chain::next(&stranger(&tiny), &[]).unwrap());
    commit(&tiny, second, chain::next(&stranger(&tiny), &[]).unwrap());
    tiny.storage.delete(&Name::Snapshot(second)).unwrap();
    assert_eq!(gone(&tiny), [], "nobody who has not seen the last one misses it");
    let chain = chain::next(&stranger(&tiny), &[second]).unwrap();
    assert_eq!((chain.number, &chain.follows[..]), (2, &[first, second][..]));
    commit(&tiny, third, chain);
    assert_eq!(gone(&tiny), [second]);
    forget(
        &stranger(&tiny),
        &[second],
        &ForgetOptions { why: b"given up".to_vec(), grace: 0 },
        &Task::default().at(Timestamp::default()),
    )
    .unwrap();
    assert_eq!(gone(&tiny), []);
}

/// A mark without the key counts for nothing: the snapshot in its place is missed.
#[test]
fn a_mark_that_is_made_up_hides_nothing() {
    let tiny = Tiny::new();
    let [first, second] = [1, 2].map(|n| SnapshotId([n; 32]));
    commit(&tiny, first, chain::next(&stranger(&tiny), &[]).unwrap());
    commit(&tiny, second, chain::next(&stranger(&tiny), &[]).unwrap());
    tiny.storage.delete(&Name::Snapshot(first)).unwrap();
    tiny.storage.create(&Name::Forgotten(first), &[&[7; 200]]).unwrap();
    assert_eq!(gone(&tiny), [first]);
}

/// However many were forgotten one after the other, oldest first, a mark names nothing that is gone for long.
#[test]
fn marks_stay_short_over_a_long_life() {
    let tiny = Tiny::new();
    let mut ids: Vec<SnapshotId> = Vec::new();
    for n in 0..60u8 {
        let id = SnapshotId([n + 1; 32]);
        let chain = chain::next(&stranger(&tiny), &[]).unwrap();
        assert!(chain.follows.len() <= 2, "{chain:?}");
        commit(&tiny, id, chain);
        ids.push(id);
        if ids.len() > 3 {
            // The first one stays.
            let old = ids.remove(1);
            forget(&stranger(&tiny), &[old], &ForgetOptions::default(), &Task::default().at(Timestamp::default())).unwrap();
            tiny.storage.delete(&Name::Snapshot(old)).unwrap();
            let mark = yester::repo::marks::read(&stranger(&tiny), old).unwrap().result(&Name::Forgotten(old)).unwrap();
            assert_eq!(mark.follows, [ids[0]]);
        }
    }
    assert_eq!(gone(&tiny), []);
}
