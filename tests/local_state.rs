//! What this machine remembers is never needed, and a repository that lost a snapshot is told from one that forgot it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::model::{SnapshotId, Timestamp};
use yester::repo::local::LocalState;
use yester::repo::{InitOptions, Repository};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Name, Storage};

fn repository() -> (Arc<MemoryStorage>, Repository) {
    let storage = Arc::new(MemoryStorage::default());
    let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::DEFAULT);
    let options = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
    let repo = Repository::init(storage.clone(), &Credential::KeyFile([1; 32]), &options).unwrap();
    (storage, repo)
}

const A: SnapshotId = SnapshotId([1; 32]);
const B: SnapshotId = SnapshotId([2; 32]);

fn vanished(directory: &Path, repo: &Repository, present: &[SnapshotId]) -> Vec<SnapshotId> {
    LocalState::open(directory, repo.id()).expect("the state opens").vanished(repo, present).unwrap()
}

#[test]
fn a_lost_snapshot_is_told_from_a_forgotten_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (storage, repo) = repository();
    assert_eq!(vanished(scratch.path(), &repo, &[A, B]), []);
    assert_eq!(vanished(scratch.path(), &repo, &[B]), [A]);
    // It stays said until it is back or forgotten.
    assert_eq!(vanished(scratch.path(), &repo, &[B]), [A]);
    assert_eq!(vanished(scratch.path(), &repo, &[A, B]), []);
    storage.create(&Name::Forgotten(A), &[b"mark"]).unwrap();
    assert_eq!(vanished(scratch.path(), &repo, &[B]), []);
    assert_eq!(vanished(scratch.path(), &repo, &[B]), []);
}

#[test]
fn damage_of_any_kind_costs_the_memory_and_nothing_else() {
    let (_, repo) = repository();
    let damage: [fn(&Path); 5] = [
        |path| fs::remove_dir_all(path).unwrap(),
        |path| every_file(path, |bytes| bytes.iter_mut().for_each(|b| *b ^= 0x55)),
        |path| every_file(path, |bytes| bytes.truncate(bytes.len() / 2)),
        |path| every_file(path, Vec::clear),
        |path| {
            fs::remove_dir_all(path).unwrap();
            fs::write(path, "not a directory").unwrap();
        },
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(vanished(scratch.path(), &repo, &[A, B]), []);
        damage(&scratch.path().join(format!("{}.sled", repo.id())));
        // Whatever it remembers now, it says nothing that is not so, and does not fail.
        if let Some(state) = LocalState::open(scratch.path(), repo.id()) {
            let gone = state.vanished(&repo, &[A, B]).unwrap();
            assert_eq!(gone, [], "damage {number}");
        }
    }
}

#[test]
fn two_processes_do_not_wait_for_each_other() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, repo) = repository();
    let first = LocalState::open(scratch.path(), repo.id());
    assert!(first.is_some());
    assert!(LocalState::open(scratch.path(), repo.id()).is_none());
}

fn every_file(path: &Path, change: impl Fn(&mut Vec<u8>) + Copy) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            every_file(&path, change);
        } else {
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
        }
    }
}
