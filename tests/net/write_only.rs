//! A host with a key that only writes and a token that only adds, at a real server.

use std::sync::Arc;

use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::{IngestOptions, Source, ingest};
use yester::keys::keyring::KeyRing;
use yester::keys::slots::SlotOptions;
use yester::maintain::check::{CheckOptions, Subset, check};
use yester::model::Timestamp;
use yester::observe::Reports;
use yester::remote::protocol::Capability;
use yester::repo::{InitOptions, Repository, snapshots};
use yester::storage::{Class, Storage};
use yester::task::Task;

use crate::net::support::*;

const FULL: Credential = Credential::KeyFile([1; 32]);
const WRITER: Credential = Credential::KeyFile([2; 32]);

#[test]
fn it_stores_snapshots_through_a_server_and_can_read_and_delete_nothing() {
    let (scratch, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(scratch.path());
    let storage: Arc<dyn Storage> = Arc::new(server.storage("host"));
    let (chunker, now) = (ChunkerParameters::DEFAULT, Timestamp::default());
    let options = InitOptions { chunker, derivation: Derivation::KeyFile, now, label: Vec::new() };
    let repo = Arc::new(Repository::init(storage.clone(), &FULL, &options).unwrap());
    let slot = SlotOptions { derivation: Derivation::KeyFile, now, label: Vec::new() };
    KeyRing::open(storage.clone(), &FULL).unwrap().add_writer(&WRITER, &slot).unwrap();
    let appender: Arc<dyn Storage> = Arc::new(server.storage_for("host", &Capability::APPEND_ONLY));
    assert_eq!(Repository::open(appender.clone(), &WRITER).unwrap_err().kind(), yester::ErrorKind::Key);
    std::fs::write(source.path().join("file"), noise(1, 500_000)).unwrap();
    for run in 1..3 {
        let writer = Arc::new(Repository::open_to_write(appender.clone(), &WRITER, &Reports::default()).unwrap());
        let sources = [Source { path: source.path().to_owned(), stored: b"/host".to_vec() }];
        let report = ingest(&writer, &sources, &IngestOptions::default(), &Task::default()).unwrap();
        assert!(report.committed && report.is_complete());
        let found = snapshots::list(&repo).unwrap();
        assert!(found.len() == run && found.iter().any(|s| s.id == report.snapshot.id && s.writer.is_some()), "{found:?}");
    }
    assert!(storage.list(Class::Sessions).unwrap().is_empty(), "its sessions have ended");
    for class in [Class::Snapshots, Class::Packs, Class::Index, Class::Keys] {
        for (name, _) in storage.list(class).unwrap() {
            appender.delete(&name).unwrap_err();
        }
    }
    let options = CheckOptions { read: Some(Subset::All), ..CheckOptions::default() };
    assert!(check(&repo, &options, &Task::default(), &mut |_, _| ()).unwrap().is_sound());
}
