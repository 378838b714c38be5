//! Clients that want more than they may, and servers that do not send what was asked for.

use yester::ErrorKind;
use yester::remote::client::RemoteStorage;
use yester::remote::protocol::Capability;
use yester::storage::{Class, Created, Name, Storage};

use crate::net::support::*;

/// What nobody without the capability prune can do. `own` is a session that the client has begun.
fn cannot_take_anything_away(full: &dyn Storage, appender: &dyn Storage) {
    let (theirs, own) = (id(50), id(51));
    must_put(full, &Name::Session(theirs), b"a writer");
    must_put(full, &Name::Key(slot(9), 0), b"a slot");
    let (name, object) = pack(b"theirs");
    must_create(full, &name, &object);
    must_put(appender, &Name::Session(own), b"me");
    let refused = |result: yester::Result<Created>, what: &str| {
        let e = result.map(drop).expect_err(what);
        assert!(e.to_string().contains("capability prune"), "{what}: {e}");
    };
    refused(put(appender, &Name::Snapshot(theirs), b"fence"), "a fence of another's session");
    refused(put(appender, &Name::Snapshot(id(52)), b"flood"), "a snapshot without a session");
    refused(put(appender, &Name::Forgotten(own), b"x"), "forgetting");
    refused(put(appender, &Name::Condemned(id(53)), b"x"), "a sentence");
    must_put(appender, &Name::Damaged(id(54)), b"found");
    assert!(appender.delete(&Name::Damaged(id(54))).unwrap_err().to_string().contains("capability prune"));
    refused(put(appender, &Name::Config(2, 0), b"x"), "another configuration");
    refused(put(appender, &Name::Key(slot(8), 0), b"x"), "another key");
    for victim in [name, Name::Session(theirs), Name::Key(slot(9), 0), Name::Snapshot(theirs)] {
        let e = appender.delete(&victim).unwrap_err();
        assert!(e.to_string().contains("capability prune"), "{victim}: {e}");
    }
    assert!(appender.leftovers(true).is_err());
    // Its own session ends only with an outcome, and then it ends.
    assert_eq!(appender.delete(&Name::Session(own)).unwrap_err().kind(), ErrorKind::Exists);
    must_put(appender, &Name::Snapshot(own), b"mine");
    assert_eq!(put(appender, &Name::Snapshot(own), b"other").unwrap(), Created::Exists);
    appender.delete(&Name::Session(own)).unwrap();
    appender.delete(&Name::Session(own)).unwrap();
    appender.sync().unwrap();
    // Everything else is there still.
    assert!(read(full, &name).unwrap() == object);
    assert_eq!(full.list(Class::Sessions).unwrap(), [(Name::Session(theirs), 8 + AROUND as u64)]);
    // Who may prune ends the other's.
    must_put(full, &Name::Snapshot(theirs), b"fence");
    full.delete(&Name::Session(theirs)).unwrap();
}

#[test]
fn an_append_only_token_takes_nothing_away() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    let full = server.storage("web");
    cannot_take_anything_away(&full, &server.storage_for("web", &Capability::APPEND_ONLY));
}

#[test]
fn append_only_over_ssh_takes_nothing_away() {
    let scratch = tempfile::tempdir().unwrap();
    let address = ssh_address(&scratch.path().join("repo"));
    let full = yester::storage::directory::DirectoryStorage::create(&scratch.path().join("repo")).unwrap();
    let options = stdio_options(scratch.path(), "--append-only");
    let appender = RemoteStorage::open(&address, &options).unwrap();
    cannot_take_anything_away(&full, &appender);
}

#[test]
fn sessions_of_one_token_are_not_anothers() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    drop(server.storage("web"));
    let one = server.storage_for("web", &Capability::APPEND_ONLY);
    let two = server.storage_for("web", &Capability::APPEND_ONLY);
    must_put(&one, &Name::Session(id(1)), b"one");
    assert!(put(&two, &Name::Snapshot(id(1)), b"x").is_err());
    assert_eq!(put(&two, &Name::Session(id(1)), b"one").unwrap(), Created::Exists);
    assert!(put(&two, &Name::Snapshot(id(1)), b"x").is_err(), "a session was taken over");
    assert!(two.delete(&Name::Session(id(1))).is_err());
    must_put(&one, &Name::Snapshot(id(1)), b"x");
}

#[test]
fn sessions_of_one_forced_command_are_not_anothers() {
    let scratch = tempfile::tempdir().unwrap();
    let address = ssh_address(&scratch.path().join("repo"));
    yester::storage::directory::DirectoryStorage::create(&scratch.path().join("repo")).unwrap();
    let named = |name: &str| {
        let options = stdio_options(scratch.path(), &format!("--append-only --client {name}"));
        RemoteStorage::open(&address, &options).unwrap()
    };
    let (one, two) = (named("one"), named("two"));
    must_put(&one, &Name::Session(id(1)), b"one");
    assert!(put(&two, &Name::Snapshot(id(1)), b"x").is_err());
    assert!(two.delete(&Name::Session(id(1))).is_err());
    // The same client, connected anew.
    must_put(&named("one"), &Name::Snapshot(id(1)), b"x");
    named("one").delete(&Name::Session(id(1))).unwrap();
    assert!(one.list(Class::Sessions).unwrap().is_empty());
}

#[test]
fn a_restricted_path_cannot_be_left() {
    let scratch = tempfile::tempdir().unwrap();
    let inside = scratch.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let options = stdio_options(scratch.path(), &format!("--restrict-to {}", inside.display()));
    let good = ssh_address(&inside.join("repo"));
    RemoteStorage::create(&good, &options).unwrap();
    RemoteStorage::open(&good, &options).unwrap();
    std::os::unix::fs::symlink(scratch.path(), inside.join("out")).unwrap();
    let outside = scratch.path().join("outside");
    yester::storage::directory::DirectoryStorage::create(&outside).unwrap();
    for bad in [outside.clone(), inside.join("../outside"), inside.join("out/outside"), inside.join("out/new")] {
        for result in [RemoteStorage::create(&ssh_address(&bad), &options), RemoteStorage::open(&ssh_address(&bad), &options)] {
            let said = result.unwrap_err().to_string();
            assert!(said.contains("--restrict-to") || said.contains(".."), "{}: {said}", bad.display());
        }
    }
    assert!(!scratch.path().join("new").exists());
}

#[test]
fn a_far_side_without_yester_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let options = yester::remote::client::RemoteOptions {
        remote_program: "exit 7; yester".to_owned(),
        ..stdio_options(scratch.path(), "")
    };
    let e = RemoteStorage::open(&ssh_address(scratch.path()), &options).unwrap_err().to_string();
    assert!(e.contains("is yester installed there?") && e.contains('7'), "{e}");
    let options = yester::remote::client::RemoteOptions { ssh: vec!["/nowhere/ssh".into()], ..options };
    let e = RemoteStorage::open(&ssh_address(scratch.path()), &options).unwrap_err().to_string();
    assert!(e.contains("cannot run /nowhere/ssh"), "{e}");
}
