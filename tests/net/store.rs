//! Repositories in object stores: the suite of every storage, faults one by one, and stores that do not decide.

use std::sync::Arc;

use yester::ErrorKind;
use yester::jobs::location::{self, Location};
use yester::remote::client::RemoteOptions;
use yester::remote::s3::S3Storage;
use yester::remote::s3::address::StoreAddress;
use yester::remote::s3::credentials::S3Options;
use yester::storage::{Class, Created, Name, Storage};

use crate::common::program::{World, shown};
use crate::common::s3::{Fault, Kind, Manner, S3Server, Seen};
use crate::net::program::{Variables, every_command, run, variables};
use crate::net::support::*;

pub fn address(text: &str) -> StoreAddress {
    match location::parse(text.as_ref()).unwrap() {
        Location::Store(address) => address,
        other => panic!("{text} is {other:?}"),
    }
}

pub fn options() -> RemoteOptions {
    let variables = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK"), ("AWS_REGION", "default")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    RemoteOptions { timeout: PATIENT, s3: S3Options { variables, ..S3Options::default() }, ..RemoteOptions::default() }
}

/// A repository's place on this server, proven.
pub fn storage(server: &S3Server) -> S3Storage {
    S3Storage::create(&address(&server.address("web")), &options()).unwrap()
}

#[test]
fn conformance() {
    let server = S3Server::start();
    crate::net::conformance::suite(Arc::new(storage(&server)));
    let seen = server.take();
    assert!(seen.iter().all(|seen| seen.key.starts_with("web/")), "a key is outside of the prefix");
    // Nothing of the proof is left but its verdict.
    assert_eq!(server.keys().iter().filter(|key| key.starts_with("web/proof/")).count(), 1);
}

#[test]
fn conformance_in_small_pages_and_without_metadata() {
    let server = S3Server::start();
    server.page(3);
    server.metadata(false);
    crate::net::conformance::suite(Arc::new(storage(&server)));
}

#[test]
fn conformance_of_a_store_that_does_not_decide_with_one_writer() {
    for manner in [Manner::Ignores, Manner::LooksThenWrites] {
        let server = S3Server::start();
        server.manner(manner);
        let storage = storage(&server);
        assert!(!storage.decides().unwrap(), "{manner:?} was not found out");
        let name = Name::Snapshot(id(1));
        must_put(&storage, &name, b"one");
        assert_eq!(put(&storage, &name, b"two").unwrap(), Created::Exists);
        assert!(read(&storage, &name).unwrap() == framed(&name, b"one"));
        // A second writer is refused, whoever it is.
        must_put(&storage, &Name::Session(id(2)), b"");
        let e = put(&storage, &Name::Session(id(3)), b"").unwrap_err();
        assert!(e.kind() == ErrorKind::Busy && e.to_string().contains("--only-writer"), "{e}");
    }
}

#[test]
fn the_verdict_is_kept_and_asked_for_once() {
    let server = S3Server::start();
    must_put(&storage(&server), &Name::Config(1, 0), b"x");
    server.take();
    let storage = S3Storage::open(&address(&server.address("web")), &options()).unwrap();
    must_put(&storage, &Name::Snapshot(id(1)), b"x");
    must_put(&storage, &Name::Snapshot(id(2)), b"x");
    assert!(storage.decides().unwrap());
    let counts = server.counts();
    assert_eq!((counts.get(&Kind::Put), counts.get(&Kind::Get), counts.get(&Kind::List)), (Some(&2), Some(&1), Some(&1)));
}

/// How one speaks to a store.
pub struct Spoken {
    /// A repository's place on a server, by its prefix.
    pub place: fn(&S3Server, &str) -> String,
    pub options: fn() -> RemoteOptions,
}

pub const S3: Spoken = Spoken { place: S3Server::address, options };

impl Spoken {
    /// A repository's place on this server, proven.
    pub fn create(&self, server: &S3Server) -> S3Storage {
        S3Storage::create(&address(&(self.place)(server, "web")), &(self.options)()).unwrap()
    }

    pub fn open(&self, server: &S3Server) -> S3Storage {
        S3Storage::open(&address(&(self.place)(server, "web")), &(self.options)()).unwrap()
    }

    /// The suite of every storage: with full pages, and with small ones on a store that keeps no metadata.
    pub fn conformance(&self) {
        let server = S3Server::start();
        crate::net::conformance::suite(Arc::new(self.create(&server)));
        assert!(server.take().iter().all(|seen| seen.key.starts_with("web/")), "a key is outside of the prefix");
        let server = S3Server::start();
        server.page(3);
        server.metadata(false);
        crate::net::conformance::suite(Arc::new(self.create(&server)));
    }

    /// Stores that do not decide are found out, and refuse a second writer.
    pub fn found_out(&self) {
        for manner in [Manner::Ignores, Manner::LooksThenWrites] {
            let server = S3Server::start();
            server.manner(manner);
            let storage = self.create(&server);
            assert!(!storage.decides().unwrap(), "{manner:?} was not found out");
            must_put(&storage, &Name::Session(id(2)), b"");
            let e = put(&storage, &Name::Session(id(3)), b"").unwrap_err();
            assert!(e.kind() == ErrorKind::Busy && e.to_string().contains("--only-writer"), "{e}");
        }
    }

    /// Of many who create a name at once one has it, and the others know.
    pub fn races(&self) {
        let server = S3Server::start();
        must_put(&self.create(&server), &Name::Config(1, 0), b"x");
        let storages: Vec<S3Storage> = (0..4).map(|_| self.open(&server)).collect();
        for round in 0..8 {
            let name = Name::Snapshot(id(round));
            let bodies: Vec<Vec<u8>> = (0..4).map(|n| format!("writer {n}").into_bytes()).collect();
            let together = std::sync::Barrier::new(4);
            let told: Vec<Created> = std::thread::scope(|scope| {
                let write = |(storage, body): (&S3Storage, &Vec<u8>)| {
                    together.wait();
                    put(storage, &name, body).unwrap()
                };
                let threads: Vec<_> = storages.iter().zip(&bodies).map(|both| scope.spawn(move || write(both))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let won: Vec<usize> = (0..4).filter(|n| told[*n] == Created::New).collect();
            assert_eq!(won.len(), 1, "{told:?}");
            assert!(read(&storages[0], &name).unwrap() == framed(&name, &bodies[won[0]]), "another's object is there");
        }
    }

    /// Each of these faults at each request changes nothing.
    pub fn faults(&self, faults: &[Fault]) {
        faults.iter().for_each(|fault| every_request(self, *fault, some_of_everything));
    }
}

/// What every operation does when the request with each number meets a fault.
fn every_request(spoken: &Spoken, fault: Fault, work: impl Fn(&dyn Storage)) {
    let server = S3Server::start();
    drop(spoken.create(&server));
    let fresh = server.save();
    let mut number = 0;
    loop {
        server.load(fresh.clone());
        server.fair();
        must_put(&spoken.create(&server), &Name::Config(1, 0), b"x");
        let storage = spoken.open(&server);
        server.take();
        server.script(move |seen: &Seen| (seen.number == number).then_some(fault));
        work(&storage);
        if server.take().len() <= number {
            assert!(number > 5, "nothing was asked");
            return;
        }
        number += 1;
    }
}

fn some_of_everything(storage: &dyn Storage) {
    let snapshot = Name::Snapshot(id(1));
    must_put(storage, &snapshot, b"one");
    assert_eq!(put(storage, &snapshot, b"two").unwrap(), Created::Exists);
    let (mut pack, mut object) = pack(&noise(1, 300_000));
    let mut tries = 1;
    // Nobody knows whether it is there: another one is made.
    while let Err(e) = storage.create(&pack, &[&object]) {
        assert_eq!(e.kind(), ErrorKind::Unsettled, "{e}");
        tries += 1;
        (pack, object) = crate::net::support::pack(&noise(tries, 300_000));
    }
    let mut out = Vec::new();
    storage.read(&pack, Some(1000..200_000), &mut out).unwrap();
    assert!(out == object[1000..200_000]);
    assert!(read(storage, &pack).unwrap() == object);
    assert!(storage.list(Class::Packs).unwrap().contains(&(pack, object.len() as u64)));
    assert_eq!(read(storage, &Name::Snapshot(id(9))).unwrap_err().kind(), ErrorKind::NotFound);
    storage.delete(&snapshot).unwrap();
    assert!(storage.list(Class::Snapshots).unwrap().is_empty());
    must_put(storage, &Name::Forgotten(id(1)), b"");
}

#[test]
fn faults_at_every_request_change_nothing() {
    S3.faults(&[
        Fault::Refused(500, "InternalError"),
        Fault::Refused(503, "SlowDown"),
        Fault::Refused(409, "ConditionalRequestConflict"),
        Fault::Refused(412, "PreconditionFailed"),
        Fault::DoneThen(500, "InternalError"),
        Fault::DoneThen(503, "SlowDown"),
        Fault::DoneThen(409, "ConditionalRequestConflict"),
        Fault::DoneThen(412, "PreconditionFailed"),
        Fault::Cut,
        Fault::CutAfter,
        Fault::Truncated,
        Fault::NoToken,
        Fault::Stale(1),
        Fault::WrongEtag,
        Fault::WrongRange,
    ]);
}

/// What the program needs to know of a repository in this store.
pub fn store_variables(server: &S3Server, world: &World) -> Variables {
    let (repo, key) = (server.address("web"), shown(&world.at("key")));
    variables(&[
        ("YESTER_REPO", &repo),
        ("YESTER_KEY_FILE", &key),
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "SK"),
        ("AWS_REGION", "default"),
    ])
}

#[test]
fn every_command_in_an_object_store() {
    let (world, server) = (World::new(), S3Server::start());
    server.page(7);
    every_command(&world, &store_variables(&server, &world));
    assert!(server.keys().iter().all(|key| key.starts_with("web/")));
}

#[test]
fn requests_are_counted_and_few() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    for n in 0..300 {
        world.file(&format!("src/{}/{n}", n % 7), format!("file {n}"));
    }
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", "src"]).ok();
    let mut said = Vec::new();
    for args in [&["ingest", "src"][..], &["ls", "latest"], &["check"], &["restore", "latest:/", "--target", "out"]] {
        server.take();
        let run = run(&world, &variables, &[&["--json", "--stats"], args].concat()).ok();
        let counts = server.counts();
        let last = run.json().pop().unwrap();
        assert_eq!(last["message_type"], "requests");
        let all = [Kind::Put, Kind::Get, Kind::Head, Kind::List, Kind::Delete];
        let names = ["requests_put", "requests_get", "requests_head", "requests_list", "requests_delete"];
        for (kind, name) in all.iter().zip(names) {
            assert_eq!(last[name].as_u64(), Some(counts.get(kind).copied().unwrap_or(0) as u64), "{args:?}: {name}");
        }
        said.push((args[0], counts.values().sum::<usize>(), counts));
    }
    println!("{said:?}");
    assert!(said.iter().all(|(_, requests, _)| *requests < 60), "{said:?}");
}

/// A damaged or lost answer in the middle of a run of the program changes nothing but its time.
#[test]
fn a_store_that_fails_at_every_fifth_request_is_used_all_the_same() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    let faults = [
        Fault::Refused(500, "InternalError"),
        Fault::CutAfter,
        Fault::Refused(503, "SlowDown"),
        Fault::DoneThen(500, "InternalError"),
        Fault::Truncated,
        Fault::Cut,
        Fault::Refused(409, "ConditionalRequestConflict"),
    ];
    server.script(move |seen| (seen.number % 5 == 4).then(|| faults[seen.number / 5 % faults.len()]));
    every_command(&world, &variables);
}

#[test]
fn prune_in_a_store_that_does_not_decide_wants_to_be_alone() {
    let (world, server) = (World::new(), S3Server::start());
    server.manner(Manner::Ignores);
    let variables = store_variables(&server, &world);
    let run = |args: &[&str]| run(&world, &variables, args);
    world.file("src/a", noise(1, 100_000));
    let said = run(&["init"]).ok().err;
    assert!(said.contains("does not decide"), "{said}");
    for n in 2..4 {
        let said = run(&["ingest", "-q", "src"]).ok().err;
        assert_eq!(said.matches("does not decide").count(), 1, "{said}");
        world.file("src/a", noise(n, 100_000));
    }
    run(&["forget", "--keep-last", "1"]).ok();
    let refused = run(&["prune"]);
    assert!(refused.code == Some(1) && refused.err.contains("--only-writer"), "{}", refused.err);
    run(&["prune", "--dry-run"]).ok();
    run(&["prune", "--only-writer"]).ok();
    run(&["check", "--read-data"]).ok();
}

#[test]
fn what_is_wrong_with_a_store_is_said_in_one_line() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    let run = |args: &[&str]| crate::net::program::run(&world, &variables, args);
    run(&["snapshots"]).fails(10, &["no repository at s3:http://127.0.0.1", "yester init"]);
    let bucket = server.address("web").replace("/bucket/", "/nobucket/");
    run(&["-r", &bucket, "init"]).fails(10, &["NoSuchBucket"]);
    run(&["init"]).ok();
    run(&["init"]).fails(1, &["already"]);
    let cases = [
        (403, "RequestTimeTooSkewed", 12, "clock"),
        (403, "SignatureDoesNotMatch", 12, "AWS_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", 12, "object-stores.md"),
        (400, "ExpiredToken", 12, "expired"),
        (301, "PermanentRedirect", 2, "--region"),
    ];
    for (status, code, exit, word) in cases {
        server.script(move |_| Some(Fault::Refused(status, code)));
        run(&["snapshots"]).fails(exit, &[code, word]);
        run(&["ingest", "-q", "/etc/hostname"]).fails(exit, &[code, word]);
    }
}

/// The suite, the oracle and the program on a store of one's own: `YESTER_TEST_S3` is a place in it where nothing is, and
/// the variables of its kind (`AWS_`, `GOOGLE_`, `AZURE_`) hold its credentials. `tests/ceph.sh` does so with Ceph's gateway.
/// Without the variable, on ours.
#[test]
fn a_store_of_ones_own() {
    let server = S3Server::start();
    let given = std::env::var("YESTER_TEST_S3").ok();
    let at = |part: &str| given.as_ref().map_or_else(|| server.address(part), |place| format!("{place}/{part}"));
    let mut options = options();
    if given.is_some() {
        let of_stores = |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|of| name.starts_with(of));
        options.s3.variables = std::env::vars().filter(|(name, _)| of_stores(name)).collect();
    }
    crate::net::conformance::suite(Arc::new(S3Storage::create(&address(&at("suite")), &options).unwrap()));
    let oracle = S3Storage::create(&address(&at("oracle")), &options).unwrap();
    assert!(oracle.decides().unwrap(), "it does not decide between two writers");
    crate::net::oracle::run(Arc::new(oracle), 21);
    let world = World::new();
    let (repo, key) = (at("program"), shown(&world.at("key")));
    let mut variables = variables(&[("YESTER_REPO", &repo), ("YESTER_KEY_FILE", &key)]);
    variables.extend(options.s3.variables);
    every_command(&world, &variables);
}
