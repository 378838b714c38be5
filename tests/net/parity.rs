//! Parity through a server: a token that only adds is enough to make it, and to heal by it.

use std::sync::Arc;

use yester::chunk::keys::Credential;
use yester::doctor::{Doctor, HealSource};
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::{IngestOptions, Source, ingest};
use yester::maintain::check::{CheckOptions, Subset, check};
use yester::model::Timestamp;
use yester::parity::{self, AddOptions, ParityPlace};
use yester::remote::protocol::Capability;
use yester::repo::{InitOptions, Repository};
use yester::storage::{Class, Storage};
use yester::task::Task;

use crate::net::support::*;

const KEY: Credential = Credential::KeyFile([1; 32]);

#[test]
fn a_token_that_only_adds_makes_parity_without_a_key_and_heals_by_it() {
    let (scratch, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(scratch.path());
    let storage: Arc<dyn Storage> = Arc::new(server.storage("web"));
    let (chunker, now) = (ChunkerParameters::DEFAULT, Timestamp::default());
    let options = InitOptions { chunker, derivation: Derivation::KeyFile, now, label: Vec::new() };
    let repo = Arc::new(Repository::init(storage.clone(), &KEY, &options).unwrap());
    let appender: Arc<dyn Storage> = Arc::new(server.storage_for("web", &Capability::APPEND_ONLY));
    let task = Task::default();
    let more = |name: &str, seed: u8| {
        std::fs::write(source.path().join(name), noise(seed, 200_000)).unwrap();
        let sources = [Source { path: source.path().to_owned(), stored: b"/web".to_vec() }];
        assert!(ingest(&repo, &sources, &IngestOptions::default(), &task).unwrap().is_complete());
    };
    more("a", 1);
    more("b", 2);
    let place = ParityPlace::new(&*appender, repo.id(), None);
    let added = parity::add(&place, &AddOptions::default(), &task).unwrap();
    assert_eq!((added.packs, added.groups), (4, 2), "{added:?}");
    more("c", 3);
    // The greater groups are made; the smaller ones stay, since this token takes nothing away.
    let added = parity::add(&place, &AddOptions::default(), &task).unwrap();
    assert_eq!((added.packs, added.groups, added.superseded), (2, 2, 0), "{added:?}");
    assert_eq!(parity::find(&place).unwrap().groups.len(), 4);
    for (name, _) in appender.list(Class::Parity).unwrap() {
        appender.delete(&name).unwrap_err();
    }
    // Two packs of data are lost on the server.
    let local = server.storage_local();
    let read = |name| {
        let mut bytes = Vec::new();
        local.read(&name, None, &mut bytes).map(|()| bytes).unwrap()
    };
    let packs = local.list(Class::Packs).unwrap();
    let lost: Vec<_> =
        packs.into_iter().filter(|(_, size)| *size > 100_000).take(2).map(|(name, _)| (name, read(name))).collect();
    assert_eq!(lost.len(), 2);
    lost.iter().for_each(|(name, _)| local.delete(name).unwrap());
    let opened = Arc::new(Repository::open(appender.clone(), &KEY).unwrap());
    let doctor = Doctor { repo: &opened, task: &task, dry: false };
    let mut loss = doctor.look().unwrap();
    assert!(loss.chunks() > 0);
    doctor.heal(&mut loss, &HealSource::Parity).unwrap();
    assert!(loss.is_empty());
    for (name, bytes) in &lost {
        assert!(read(*name) == *bytes, "{name}");
    }
    assert!(doctor.look().unwrap().is_empty());
    let options = CheckOptions { read: Some(Subset::All), ..CheckOptions::default() };
    assert!(check(&repo, &options, &task, &mut |_, _| ()).unwrap().is_sound());
    // Who may delete removes the smaller groups.
    let full = ParityPlace::new(&*storage, repo.id(), None);
    assert_eq!(parity::add(&full, &AddOptions::default(), &task).unwrap().superseded, 2);
}
