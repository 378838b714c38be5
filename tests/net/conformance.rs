//! What every storage must do, whatever is behind it.

use std::sync::Arc;

use yester::ErrorKind;
use yester::remote::client::RemoteStorage;
use yester::storage::directory::DirectoryStorage;
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Created, Name, Storage};

use crate::net::proxy::Proxy;
use crate::net::support::*;

pub fn suite(storage: Arc<dyn Storage>) {
    every_class_is_created_once_and_read_back(&*storage);
    ranges_are_exact(&*storage);
    what_is_missing_is_missing(&*storage);
    deleting_is_idempotent(&*storage);
    one_of_many_creators_wins(&storage);
    many_calls_at_once_do_not_mix(&storage);
    storage.sync().unwrap();
    storage.sync_everything().unwrap();
    storage.leftovers(true).unwrap();
    let costs = storage.costs();
    assert!(costs.concurrency > 0 && costs.creates_at_once > 0 && !storage.describe().is_empty());
}

fn every_class_is_created_once_and_read_back(storage: &dyn Storage) {
    let (pack, pack_bytes) = pack(&noise(1, 3 << 20));
    let (segment, segment_bytes) = segment(&noise(2, 700_001));
    let small: Vec<(Name, Vec<u8>)> = vec![
        (Name::Config(1, 0), noise(3, 300)),
        (Name::Key(slot(4), 2), noise(4, 301)),
        (Name::Session(id(5)), noise(5, 302)),
        (Name::Snapshot(id(5)), noise(6, 70_000)),
        (Name::Forgotten(id(5)), noise(7, 1)),
        (Name::Condemned(id(8)), Vec::new()),
        (Name::Damaged(id(9)), noise(8, 200)),
    ];
    let small = small.into_iter().map(|(name, content)| (name, framed(&name, &content)));
    for (name, content) in small.chain([(pack, pack_bytes), (segment, segment_bytes)]) {
        // In several parts, some of them empty.
        let (a, b) = content.split_at(content.len() / 3);
        assert_eq!(storage.create(&name, &[a, &[], b]).unwrap(), Created::New, "{name}");
        assert_eq!(storage.create(&name, &[&content]).unwrap(), Created::Exists, "{name} again");
        if !matches!(name, Name::Pack(_) | Name::Segment(_)) {
            assert_eq!(put(storage, &name, b"other").unwrap(), Created::Exists, "{name} with other bytes");
        }
        assert!(read(storage, &name).unwrap() == content, "{name} came back different");
        let listed = storage.list(name.class()).unwrap();
        assert_eq!(listed, [(name, content.len() as u64)]);
    }
}

fn ranges_are_exact(storage: &dyn Storage) {
    let content = noise(20, 2_000_000);
    let (name, object) = pack(&content);
    must_create(storage, &name, &object);
    let len = object.len() as u64;
    let mut out = Vec::new();
    for (a, b) in [(0, 1), (0, len), (1, 2), (len - 1, len), (524_287, 524_289), (100, 1_700_000), (0, 0), (len, len)] {
        storage.read(&name, Some(a..b), &mut out).unwrap();
        assert!(out == object[a as usize..b as usize], "{a}..{b}");
    }
    for (a, b) in [(0, len + 1), (len, len + 1), (len + 5, len + 6), (5, u64::MAX - 1), (len + 1, len + 1)] {
        let e = storage.read(&name, Some(a..b), &mut out).map_err(|e| e.kind());
        // An empty range beyond the end is damage or nothing, as the storage likes.
        assert!(e == Err(ErrorKind::Corrupt) || a == b, "{a}..{b}: {e:?}");
    }
}

fn what_is_missing_is_missing(storage: &dyn Storage) {
    for name in [Name::Snapshot(id(99)), pack(b"nobody has this").0, Name::Config(9, 1)] {
        assert_eq!(read(storage, &name).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
        let mut out = Vec::new();
        assert_eq!(storage.read(&name, Some(3..9), &mut out).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

fn deleting_is_idempotent(storage: &dyn Storage) {
    let (name, object) = pack(b"short life");
    must_create(storage, &name, &object);
    for _ in 0..2 {
        storage.delete(&name).unwrap();
    }
    storage.sync().unwrap();
    assert_eq!(read(storage, &name).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(storage.list(Class::Packs).unwrap().iter().all(|(found, _)| *found != name));
}

fn one_of_many_creators_wins(storage: &Arc<dyn Storage>) {
    let name = Name::Forgotten(id(40));
    let threads: Vec<_> = (0..8u8)
        .map(|n| {
            let storage = storage.clone();
            std::thread::spawn(move || put(&*storage, &name, &noise(n, 5000)).unwrap())
        })
        .collect();
    let made: Vec<Created> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(made.iter().filter(|c| **c == Created::New).count(), 1, "{made:?}");
    let content = read(&**storage, &name).unwrap();
    let winner = made.iter().position(|c| *c == Created::New).unwrap();
    assert!(content == framed(&name, &noise(winner as u8, 5000)), "the content is not the winner's");
}

fn many_calls_at_once_do_not_mix(storage: &Arc<dyn Storage>) {
    let threads: Vec<_> = (0..16u8)
        .map(|n| {
            let storage = storage.clone();
            std::thread::spawn(move || {
                let (name, object) = pack(&noise(100 + n, 300_000 + usize::from(n)));
                must_create(&*storage, &name, &object);
                let mut out = Vec::new();
                for at in (0..300_000).step_by(30_000) {
                    storage.read(&name, Some(at..at + 20_000), &mut out).unwrap();
                    assert!(out == object[at as usize..at as usize + 20_000]);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn memory() {
    suite(Arc::new(MemoryStorage::default()));
}

#[test]
fn directory() {
    let scratch = tempfile::tempdir().unwrap();
    suite(Arc::new(DirectoryStorage::create(&scratch.path().join("repo")).unwrap()));
}

#[test]
fn server_over_tls() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    suite(Arc::new(server.storage("web")));
}

#[test]
fn stdio() {
    let scratch = tempfile::tempdir().unwrap();
    let address = ssh_address(&scratch.path().join("repo"));
    let options = stdio_options(scratch.path(), "");
    suite(Arc::new(RemoteStorage::create(&address, &options).unwrap()));
}

#[test]
fn a_server_that_starts_again_has_everything_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let mut server = Server::start(scratch.path());
    let proxy = Proxy::to(server.port);
    let token = server.token(server.grant("web", &FULL));
    let storage = RemoteStorage::create(&at_port(proxy.port, "web"), &server.options(&token)).unwrap();
    let (name, object) = pack(&noise(1, 100_000));
    must_create(&storage, &name, &object);
    server.stop();
    let again = Server::start(scratch.path());
    assert_eq!(again.fingerprint, server.fingerprint, "the certificate was made anew");
    // Another server may have its port by now.
    proxy.lead_to(again.port);
    // The same client goes on.
    assert!(read(&storage, &name).unwrap() == object);
    let left = std::fs::read_dir(scratch.path().join("web/packs")).unwrap().flatten();
    let files: usize = left.map(|shard| std::fs::read_dir(shard.path()).unwrap().count()).sum();
    assert_eq!(files, 1);
}
