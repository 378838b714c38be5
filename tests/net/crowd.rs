//! Many clients at once, on data that is partly the same.

use std::sync::{Arc, Barrier};

use yester::chunk::keys::Credential;
use yester::ingest::{IngestOptions, ingest};
use yester::maintain::check::{CheckOptions, check};
use yester::repo::{Repository, snapshots};
use yester::task::Task;

use crate::common::trees::fixture::{Fixture, source};
use crate::net::support::*;

const CLIENTS: u8 = 8;

#[test]
fn many_clients_ingest_at_once_and_every_snapshot_is_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(&scratch.path().join("root"));
    let fixture = Fixture::on(Arc::new(server.storage("web")));
    let common = noise(1, 6 << 20);
    let begin = Arc::new(Barrier::new(usize::from(CLIENTS)));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let live = scratch.path().join(format!("live {n}"));
            std::fs::create_dir(&live).unwrap();
            std::fs::write(live.join("same"), &common).unwrap();
            (0..50u8).for_each(|file| std::fs::write(live.join(format!("{file}")), noise(n ^ file, 40_000)).unwrap());
            std::fs::write(live.join("own"), noise(100 + n, 2 << 20)).unwrap();
            let storage = Arc::new(server.storage_for("web", &yester::remote::protocol::Capability::APPEND_ONLY));
            let begin = begin.clone();
            std::thread::spawn(move || {
                let repo = Arc::new(Repository::open(storage, &Credential::KeyFile([1; 32])).unwrap());
                begin.wait();
                let report = ingest(&repo, &source(&live), &IngestOptions::default(), &Task::default()).unwrap();
                assert!(report.is_complete(), "{report:?}");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(snapshots::list(&fixture.repo).unwrap().len(), usize::from(CLIENTS));
    let found = check(&fixture.repo, &CheckOptions::default(), &Task::default(), &mut |_, _| {}).unwrap();
    assert!(found.is_sound(), "{found:?}");
}
