//! The oracle of `tests/oracle`, with the repository on a server over TLS and behind `serve --stdio`.

use std::sync::Arc;

use yester::remote::client::RemoteStorage;
use yester::storage::Storage;

use crate::common::trees::capture::{self, Births, Tree, assert_same};
use crate::common::trees::exits;
use crate::common::trees::fixture::{BASE, Fixture};
use crate::common::trees::generate::Live;
use crate::net::support::*;

pub fn run(storage: Arc<dyn Storage>, seed: u64) {
    let fixture = Fixture::on(storage);
    let mut live = Live::new(&fixture.scratch.path().join("live"), seed);
    let mut history = Vec::new();
    for edits in [300, 60] {
        live.edit(edits);
        let tree = capture::directory(&live.root);
        let report = fixture.ingest(&live.root);
        assert!(report.is_complete(), "{report:?}");
        history.push((report.snapshot, tree));
    }
    let trees = fixture.trees();
    for (number, (snapshot, tree)) in history.iter().enumerate() {
        let same = |found: &Tree, births, what: &str| assert_same(tree, found, births, &format!("snapshot {number} {what}"));
        same(&capture::snapshot(&trees, snapshot, &BASE), Births::All, "in the repository");
        same(&exits::view(&fixture, snapshot), Births::All, "in the view");
        same(&exits::mounted(&fixture, snapshot), exits::births(snapshot), "in the mount");
        let to = fixture.scratch.path().join(format!("restored {number}"));
        same(&exits::restored(&fixture, snapshot, &to, 64 << 20), Births::None, "restored");
    }
}

#[test]
fn every_exit_of_a_server_gives_back_what_was_given() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    run(Arc::new(server.storage("web")), 11);
}

#[test]
fn every_exit_behind_stdio_gives_back_what_was_given() {
    let scratch = tempfile::tempdir().unwrap();
    let options = stdio_options(scratch.path(), "");
    let storage = RemoteStorage::create(&ssh_address(&scratch.path().join("repo")), &options).unwrap();
    run(Arc::new(storage), 12);
}
