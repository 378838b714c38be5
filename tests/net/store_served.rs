//! `yester serve` in front of an object store: clients have tokens, and only the server has the store's credentials.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use yester::ErrorKind;
use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::remote::protocol::Capability;
use yester::remote::tokens::Grant;
use yester::serve::objects::ServeOptions;
use yester::storage::{Class, Created, Name, Storage};

use crate::common::program::{World, finish, shown};
use crate::common::s3::{Fault, Kind, Manner, S3Server, Seen};
use crate::net::program::{Variables, every_command, run, variables};
use crate::net::rows::answers;
use crate::net::store::{address, options};
use crate::net::support::*;

const APPEND: [Capability; 3] = Capability::APPEND_ONLY;

/// A server whose own things are in `state`, in front of this store.
fn before(store: &S3Server, state: &Path, timeout: Duration) -> Server {
    let behind = RemoteOptions { timeout, ..options() };
    Server::with(ServeOptions { store: Some((address(&store.address("fleet")), behind)), ..serve_options(state) })
}

struct Fleet {
    store: S3Server,
    server: Server,
    scratch: tempfile::TempDir,
}

fn fleet() -> Fleet {
    let (store, scratch) = (S3Server::start(), tempfile::tempdir().unwrap());
    let server = before(&store, &scratch.path().join("state"), PATIENT);
    Fleet { store, server, scratch }
}

/// What the program needs to know: nothing of the store.
fn client(server: &Server, world: &World, capabilities: &[Capability]) -> Variables {
    let token = server.token(server.grant("web", capabilities));
    let (repo, key) = (server.address("web").to_string(), shown(&world.at("key")));
    let pin = server.fingerprint.unwrap().to_string();
    variables(&[("YESTER_REPO", &repo), ("YESTER_KEY_FILE", &key), ("YESTER_TOKEN", &token), ("YESTER_TLS_FINGERPRINT", &pin)])
}

#[test]
fn conformance_through_a_server() {
    let Fleet { store, server, scratch: _scratch } = fleet();
    store.page(3);
    crate::net::conformance::suite(Arc::new(server.storage("web")));
    let keys = store.keys();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("fleet/web/")), "{keys:?}");
    // Nothing of what came in is left on this machine.
    let own = server.root.join(".server/repositories");
    assert_eq!(std::fs::read_dir(own.join(".incoming")).unwrap().count(), 0);
}

#[test]
fn every_command_through_a_server_in_front_of_a_store() {
    let (world, fleet) = (World::new(), fleet());
    fleet.store.page(7);
    every_command(&world, &client(&fleet.server, &world, &FULL));
    let keys = fleet.store.keys();
    assert!(keys.iter().any(|key| key.starts_with("fleet/web/snapshots/")), "{keys:?}");
    // The same repository without the server.
    let repo = fleet.store.address("fleet/web");
    let direct = crate::net::store::store_variables(&fleet.store, &world);
    run(&world, &direct, &["-r", &repo, "check", "--read-data"]).ok();
}

/// More requests at once than the server has threads, when no connection to the store is left and its name has to be looked
/// up, which takes a thread as well.
#[test]
fn requests_that_wait_for_the_store_leave_threads_to_reach_it() {
    const CLIENTS: usize = 100;
    let (store, scratch) = (S3Server::start(), tempfile::tempdir().unwrap());
    let named = store.address("fleet").replace("127.0.0.1", "localhost");
    let behind = Some((address(&named), options()));
    let server = Server::with(ServeOptions { store: behind, ..serve_options(&scratch.path().join("state")) });
    let clients: Vec<_> = (0..CLIENTS).map(|_| server.storage("web")).collect();
    let (name, object) = pack(&noise(1, 1000));
    must_create(&clients[0], &name, &object);
    let cut = AtomicUsize::new(0);
    store.script(move |_| (cut.fetch_add(1, Ordering::SeqCst) < 2 * CLIENTS).then_some(Fault::Cut));
    let together = std::sync::Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                together.wait();
                let mut out = Vec::new();
                client.read(&name, Some(10..500), &mut out).unwrap();
                assert!(out == object[10..500]);
            });
        }
    });
}

#[test]
fn an_append_only_token_adds_and_takes_nothing_away() {
    let (world, mut fleet) = (World::new(), fleet());
    let source = shown(&world.file("src/a", noise(1, 300_000)));
    let append = client(&fleet.server, &world, &APPEND);
    run(&world, &append, &["init"]).ok();
    run(&world, &append, &["ingest", "-q", &source]).ok();
    run(&world, &append, &["ingest", "-q", &source]).ok();
    let before_forget = fleet.store.keys();
    for args in [&["forget", "--keep-last", "1"][..], &["forget", "--keep-last", "1", "--prune"]] {
        let refused = run(&world, &append, args);
        assert!(refused.code == Some(3) && refused.err.contains("may not create forgotten/"), "{refused:?}");
    }
    assert_eq!(fleet.store.keys(), before_forget);
    let listed = run(&world, &append, &["snapshots", "--json"]).ok().json();
    assert!(listed.iter().all(|snapshot| snapshot["token_id"].is_string()), "{listed:?}");
    // What the server notes survives it: the series of the snapshots, and who began a session.
    drop(fleet.server.storage("two"));
    let one = fleet.server.storage_for("two", &APPEND);
    must_put(&one, &Name::Session(id(1)), b"");
    fleet.server.stop();
    fleet.server = before(&fleet.store, &fleet.server.root, PATIENT);
    let other = fleet.server.storage_for("two", &APPEND);
    let refused = put(&other, &Name::Snapshot(id(1)), b"").unwrap_err();
    assert!(refused.to_string().contains("sessions that it has begun"), "{refused}");
    assert!(other.delete(&Name::Session(id(1))).is_err());
    assert!(other.delete(&Name::Snapshot(id(1))).is_err());
    must_put(&fleet.server.storage_for("two", &FULL), &Name::Snapshot(id(1)), b"");
    let full = client(&fleet.server, &world, &FULL);
    assert_eq!(run(&world, &full, &["snapshots", "--json"]).ok().json().len(), listed.len());
    run(&world, &full, &["forget", "-q", "--group-by", "host,paths", "--keep-last", "1", "--prune"]).ok();
    run(&world, &full, &["check", "--read-data"]).ok();
}

#[test]
fn one_of_two_clients_gets_a_name_also_over_two_servers() {
    let Fleet { store, server, scratch } = fleet();
    let second = before(&store, &scratch.path().join("other"), PATIENT);
    // Each has its own tokens, and its own notes.
    let clients =
        [server.storage("web"), server.storage_for("web", &FULL), second.storage("web"), second.storage_for("web", &FULL)];
    for round in 0..20_u8 {
        let name = if round % 2 == 0 { Name::Snapshot(id(round)) } else { Name::Forgotten(id(round)) };
        let created: Vec<(usize, yester::Result<Created>)> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                clients.iter().enumerate().map(|(n, client)| scope.spawn(move || (n, put(client, &name, &[n as u8])))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won: Vec<usize> = created.iter().filter(|(_, made)| matches!(made, Ok(Created::New))).map(|(n, _)| *n).collect();
        assert!(won.len() == 1 && created.iter().all(|(_, made)| made.is_ok()), "{created:?}");
        for client in &clients {
            assert!(read(client, &name).unwrap() == framed(&name, &[won[0] as u8]));
        }
    }
}

/// Whatever happens to whichever request of the server to the store, a client sees the right thing in the end.
#[test]
fn faults_behind_the_server_change_nothing_before_it() {
    for fault in [
        Fault::Refused(500, "InternalError"),
        Fault::Refused(503, "SlowDown"),
        Fault::DoneThen(500, "InternalError"),
        Fault::DoneThen(412, "PreconditionFailed"),
        Fault::CutAfter,
        Fault::Truncated,
        Fault::NoToken,
        Fault::Stale(1),
    ] {
        let Fleet { store, server, scratch: _scratch } = fleet();
        let storage = server.storage("web");
        must_put(&storage, &Name::Config(1, 0), b"x");
        for round in 0..40_u8 {
            let number = usize::from(round);
            store.take();
            store.script(move |seen: &Seen| (seen.number == number).then_some(fault));
            let snapshot = Name::Snapshot(id(round));
            must_put(&storage, &snapshot, b"one");
            assert_eq!(put(&storage, &snapshot, b"two").unwrap(), Created::Exists);
            let (mut name, mut object) = pack(&noise(round, 300_000));
            let mut seed = 100 + round;
            while let Err(e) = storage.create(&name, &[&object]) {
                assert_eq!(e.kind(), ErrorKind::Unsettled, "{fault:?} {number}: {e}");
                seed += 1;
                (name, object) = pack(&noise(seed, 300_000 + usize::from(seed)));
            }
            let mut out = Vec::new();
            storage.read(&name, Some(1000..200_000), &mut out).unwrap();
            assert!(out == object[1000..200_000]);
            assert!(storage.list(Class::Packs).unwrap().contains(&(name, object.len() as u64)));
            assert_eq!(read(&storage, &Name::Forgotten(id(round))).unwrap_err().kind(), ErrorKind::NotFound);
            storage.delete(&snapshot).unwrap();
            assert!(storage.list(Class::Snapshots).unwrap().is_empty());
            if store.take().len() <= number {
                assert!(number > 8, "nothing was asked");
                break;
            }
        }
    }
}

#[test]
fn a_store_that_goes_away_gives_errors_and_comes_back() {
    let (store, scratch) = (S3Server::start(), tempfile::tempdir().unwrap());
    let server = before(&store, &scratch.path().join("state"), Duration::from_secs(1));
    let token = server.token(server.grant("web", &FULL));
    let client = RemoteOptions { timeout: Duration::from_secs(4), ..server.options(&token) };
    let storage = RemoteStorage::create(&server.address("web"), &client).unwrap();
    let (name, object) = pack(&noise(1, 200_000));
    must_create(&storage, &name, &object);
    for fault in [Fault::Cut, Fault::SilentAfter] {
        store.script(move |_| Some(fault));
        let (other, bytes) = pack(&noise(2, 200_000));
        let refused = [
            read(&storage, &name).map(drop),
            storage.list(Class::Packs).map(drop),
            storage.create(&other, &[&bytes]).map(drop),
            put(&storage, &Name::Session(id(9)), b"").map(drop),
            storage.delete(&name),
        ];
        for result in refused {
            let e = result.unwrap_err();
            assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Unsettled), "{e}");
        }
        store.fair();
        // It is left alone for some seconds, and then asked again.
        let patient = RemoteOptions { timeout: PATIENT, ..client.clone() };
        let again = RemoteStorage::open(&server.address("web"), &patient).unwrap();
        assert!(fault == Fault::SilentAfter || read(&again, &name).unwrap() == object);
        assert!(again.list(Class::Sessions).unwrap().len() <= 1);
    }
}

/// Nothing that ends an attempt of which nobody can tell what became of it says that the object is not there.
#[test]
fn an_attempt_without_an_answer_stays_unsettled_whatever_follows() {
    let store = S3Server::start();
    let storage = crate::net::store::storage(&store);
    let kinds = [Kind::Head, Kind::Put];
    for (round, kind) in (1..).zip(kinds) {
        store.take();
        // The second request of this kind that asks for the object is refused, after the first attempt was lost.
        let puts = AtomicUsize::new(0);
        store.script(move |seen: &Seen| match seen.kind {
            Kind::Put if puts.fetch_add(1, Ordering::SeqCst) == 0 => Some(Fault::Cut),
            of if of == kind => Some(Fault::Refused(401, "AccessDenied")),
            _ => None,
        });
        let e = put(&storage, &Name::Snapshot(id(round)), b"x").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsettled, "{kind:?}: {e}");
    }
    // One that was answered is no such attempt.
    store.script(|seen: &Seen| (seen.kind == Kind::Put).then_some(Fault::Refused(401, "AccessDenied")));
    assert_eq!(put(&storage, &Name::Snapshot(id(9)), b"x").unwrap_err().kind(), ErrorKind::Key);
}

/// Asks a server without TLS for an object.
fn ask(server: &Server, token: &str, name: &Name) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    let path = yester::remote::protocol::object_path(name);
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nyester-protocol: 1\r\n");
    stream.write_all(format!("{head}Authorization: Bearer {token}\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// What it answers to one request, which is not repeated.
fn answer(server: &Server, token: &str, name: &Name) -> String {
    let mut stream = ask(server, token, name);
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

/// While the store says nothing of one repository, the others are opened; and it is not asked each time for one that is not.
#[test]
fn a_repository_that_takes_long_to_open_holds_up_no_other() {
    let Fleet { store, server, scratch } = fleet();
    let (name, object) = pack(&noise(1, 1000));
    let other = server.storage("other");
    must_put(&other, &Name::Config(1, 0), b"x");
    must_create(&other, &name, &object);
    let behind = Some((address(&store.address("fleet")), options()));
    let plain = Server::with(ServeOptions { store: behind, no_tls: true, ..serve_options(&scratch.path().join("plain")) });
    let [web, other, none] = ["web", "other", "none"].map(|name| plain.token(plain.grant(name, &FULL)));
    store.script(|seen: &Seen| seen.key.starts_with("fleet/web/").then_some(Fault::SilentAfter));
    let _waits = ask(&plain, &web, &name);
    while !store.state.seen.lock().iter().any(|seen| seen.key.starts_with("fleet/web/")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    answers(&answer(&plain, &other, &name), 200, "");
    store.take();
    answers(&answer(&plain, &none, &name), 404, "no_repository");
    let asked = store.take().len();
    // A moment later, which on a slow machine may be too late.
    let again = (0..20).any(|_| {
        answers(&answer(&plain, &none, &name), 404, "no_repository");
        store.take().is_empty()
    });
    assert!(asked > 0 && again, "{asked}");
    // Who makes it does not wait.
    let token = server.token(server.grant("none", &FULL));
    assert_eq!(
        RemoteStorage::open(&server.address("none"), &server.options(&token)).unwrap_err().kind(),
        ErrorKind::NoRepository
    );
    RemoteStorage::create(&server.address("none"), &server.options(&token)).unwrap();
    RemoteStorage::open(&server.address("none"), &server.options(&token)).unwrap();
}

/// Objects of other repositories are refused, whatever the store says of the configuration, and cost no requests each.
#[test]
fn objects_of_other_repositories_are_refused_without_looking_each_time() {
    use yester::format::envelope::{ObjectType, wrap};
    let Fleet { store, server, scratch } = fleet();
    must_put(&server.storage("web"), &Name::Config(1, 0), b"x");
    let foreign = wrap(ObjectType::Pack, yester::model::RepositoryId([9; 16]), b"foreign");
    let name = Name::Pack(yester::model::PackId(*foreign.last_chunk().unwrap()));
    let second = before(&store, &scratch.path().join("other"), PATIENT);
    let storage = second.storage("web");
    // Who cannot read the configuration cannot say that there is none.
    store.script(|seen: &Seen| {
        (seen.kind == Kind::Get && seen.key.contains("/web/")).then_some(Fault::Refused(401, "AccessDenied"))
    });
    let e = storage.create(&name, &[&foreign]).unwrap_err();
    assert!(e.kind() == ErrorKind::Io && e.to_string().contains("its log says how"), "{e}");
    store.fair();
    let refused = || assert_eq!(storage.create(&name, &[&foreign]).unwrap_err().kind(), ErrorKind::Corrupt);
    refused();
    // On a slow machine it may be time to look again.
    let quiet = (0..20).any(|_| {
        store.take();
        refused();
        store.take().is_empty()
    });
    assert!(quiet && !store.keys().iter().any(|key| key.contains("/packs/")));
    let (name, object) = pack(b"its own");
    must_create(&storage, &name, &object);
}

/// What the store refuses for one object says nothing about the others, nor about other repositories.
#[test]
fn an_object_that_the_store_refuses_stops_nothing_else() {
    let Fleet { store, server, scratch } = fleet();
    let (cold, object) = pack(&noise(1, 200_000));
    let (warm, bytes) = pack(&noise(2, 200_000));
    for (name, object) in [("web", &object), ("other", &bytes)] {
        let storage = server.storage(name);
        must_put(&storage, &Name::Config(1, 0), b"x");
        must_create(&storage, if name == "web" { &cold } else { &warm }, object);
    }
    let behind = Some((address(&store.address("fleet")), options()));
    let given = serve_options(&scratch.path().join("plain"));
    let plain = Server::with(ServeOptions { store: behind, no_tls: true, ..given });
    let [web, other] = ["web", "other"].map(|name| plain.token(plain.grant(name, &FULL)));
    answers(&answer(&plain, &other, &warm), 200, "");
    for (status, code, hint) in [(403, "InvalidObjectState", "has to be thawed"), (400, "InvalidRequest", "its log says how")] {
        let key = format!("fleet/web/{cold}");
        store.script(move |seen: &Seen| (seen.key == key && seen.kind == Kind::Get).then_some(Fault::Refused(status, code)));
        let said = answer(&plain, &web, &cold);
        answers(&said, 500, hint);
        assert!(!said.contains("fleet"), "{said}");
        answers(&answer(&plain, &other, &warm), 200, "");
        // A client does not try again.
        store.take();
        let e = read(&server.storage("web"), &cold).unwrap_err();
        assert!(e.kind() == ErrorKind::Io && e.to_string().contains(hint), "{e}");
        assert_eq!(store.counts().get(&Kind::Get), Some(&1));
    }
}

#[test]
fn what_is_no_object_is_refused_and_quotas_are_exact() {
    let Fleet { store, server, scratch: _scratch } = fleet();
    let full = server.storage("web");
    must_put(&full, &Name::Config(1, 0), b"x");
    let kept = store.keys();
    let name = Name::Forgotten(id(1));
    let e = full.create(&name, &[&noise(1, 500)]).unwrap_err();
    assert!(e.kind() == ErrorKind::Corrupt, "{e}");
    let (mut bad, _) = pack(b"one");
    let (_, object) = pack(b"two");
    assert_eq!(full.create(&bad, &[&object]).unwrap_err().kind(), ErrorKind::Corrupt);
    // Of another repository.
    let mut foreign = yester::format::envelope::wrap(
        yester::format::envelope::ObjectType::Forgotten,
        yester::model::RepositoryId([9; 16]),
        b"",
    );
    assert_eq!(full.create(&name, &[&foreign]).unwrap_err().kind(), ErrorKind::Corrupt);
    foreign.clear();
    assert_eq!(store.keys(), kept);
    let grant = Grant { quota: Some(500_000), ..server.grant("web", &FULL) };
    let options = server.options(&server.token(grant));
    let small = RemoteStorage::open(&server.address("web"), &options).unwrap();
    let mut packs = Vec::new();
    for seed in 0..10 {
        let (name, object) = pack(&noise(seed, 100_000));
        bad = name;
        match small.create(&name, &[&object]) {
            Ok(created) => packs.push((name, created)),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Full, "{e}");
                break;
            }
        }
    }
    assert_eq!(packs.len(), 4);
    small.delete(&packs[0].0).unwrap();
    small.delete(&packs[0].0).unwrap();
    let (_, object) = pack(&noise(4, 100_000));
    assert_eq!(small.create(&bad, &[&object]).unwrap(), Created::New);
    assert_eq!(small.create(&pack(b"x").0, &[&pack(b"x").1]).unwrap(), Created::New);
    let (name, object) = pack(&noise(5, 100_000));
    assert_eq!(small.create(&name, &[&object]).unwrap_err().kind(), ErrorKind::Full);
}

#[test]
fn a_client_may_have_so_many_sessions() {
    let (store, scratch) = (S3Server::start(), tempfile::tempdir().unwrap());
    let mut given = serve_options(&scratch.path().join("state"));
    given.limits.sessions = 3;
    let server = Server::with(ServeOptions { store: Some((address(&store.address("fleet")), options())), ..given });
    let storage = server.storage("web");
    (1..=3).for_each(|n| must_put(&storage, &Name::Session(id(n)), b""));
    let e = put(&storage, &Name::Session(id(4)), b"").unwrap_err();
    assert!(e.to_string().contains("3 sessions"), "{e}");
    // Of another token there may be as many.
    must_put(&server.storage_for("web", &APPEND), &Name::Session(id(4)), b"");
}

#[test]
fn a_store_that_does_not_decide_is_not_served() {
    let Fleet { store, server, scratch: _scratch } = fleet();
    store.manner(Manner::Ignores);
    let token = server.token(server.grant("web", &FULL));
    let e = RemoteStorage::create(&server.address("web"), &server.options(&token)).unwrap_err();
    assert!(e.to_string().contains("does not decide between two"), "{e}");
}

/// A request of a client costs one of the server, beside what has to be looked up.
#[test]
fn requests_of_the_server_are_counted() {
    let Fleet { store, server, scratch: _scratch } = fleet();
    let storage = server.storage("web");
    must_put(&storage, &Name::Config(1, 0), b"x");
    // With the first object after that it looks whose repository this is.
    must_put(&storage, &Name::Forgotten(id(1)), b"");
    let asked = |work: &dyn Fn()| {
        store.take();
        work();
        let counts = store.counts();
        [Kind::Put, Kind::Get, Kind::Head, Kind::List, Kind::Delete].map(|kind| counts.get(&kind).copied().unwrap_or(0))
    };
    let (name, object) = pack(&noise(1, 3 << 20));
    assert_eq!(asked(&|| must_create(&storage, &name, &object)), [1, 0, 0, 0, 0]);
    let mut range = Vec::new();
    let mut read = |range_of: std::ops::Range<u64>| {
        let out = std::cell::RefCell::new(std::mem::take(&mut range));
        asked(&|| storage.read(&name, Some(range_of.clone()), &mut out.borrow_mut()).unwrap())
    };
    assert_eq!(read(5..1000), [0, 1, 0, 0, 0]);
    assert_eq!(read(5..5 + (1 << 20)), [0, 1, 0, 0, 0]);
    assert_eq!(read(0..3 << 20), [0, 3, 0, 0, 0]);
    assert_eq!(asked(&|| drop(storage.list(Class::Packs).unwrap())), [0, 0, 0, 1, 0]);
    assert_eq!(asked(&|| storage.delete(&name).unwrap()), [0, 0, 1, 0, 1]);
    // With a quota all is counted once, and not again after each deletion.
    let grant = Grant { quota: Some(100 << 20), ..server.grant("web", &FULL) };
    let small = RemoteStorage::open(&server.address("web"), &server.options(&server.token(grant))).unwrap();
    let (name, object) = pack(&noise(2, 3 << 20));
    must_create(&small, &name, &object);
    for seed in 3..6 {
        small.delete(&Name::Forgotten(id(1))).unwrap();
        let (name, object) = pack(&noise(seed, 100_000));
        assert_eq!(asked(&|| must_create(&small, &name, &object)), [1, 0, 0, 0, 0]);
        must_put(&small, &Name::Forgotten(id(1)), b"");
    }
}

/// The program as a server, with credentials of its own environment.
#[test]
fn the_program_serves_a_store() {
    let (world, store) = (World::new(), S3Server::start());
    let root = store.address("fleet");
    let credentials = variables(&[("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK"), ("AWS_REGION", "default")]);
    let state = shown(&world.at("state"));
    run(&world, &credentials, &["serve", "--root", "https://host:7070/web"]).fails(2, &["on another server", "s3:https://"]);
    let directory = shown(world.home());
    run(&world, &credentials, &["serve", "--root", &directory, "--state", &state]).fails(2, &["--state", "object store"]);
    run(&world, &credentials, &["serve", "--state", &state]).fails(2, &["--root is needed"]);
    let none = store.address("fleet").replace("/bucket/", "/nobucket/");
    run(&world, &credentials, &["serve", "--root", &none, "--state", &state]).fails(10, &["NoSuchBucket"]);
    // Without --state a directory of this user's, one for each store.
    let token = run(&world, &credentials, &["serve", "token", "create", "web", "-q", "--root", &root]).ok().text();
    let other = store.address("other");
    assert_eq!(run(&world, &credentials, &["serve", "token", "list", "--root", &other]).ok().text(), "");
    assert_eq!(run(&world, &credentials, &["serve", "token", "list", "--root", &root]).ok().text().lines().count(), 1);
    let mut command = world.command(&["serve", "--json", "--listen", "127.0.0.1:0", "--root", &root]);
    command.envs(credentials.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    let (address, pin) = (said["address"].as_str().unwrap(), said["tls_fingerprint"].as_str().unwrap());
    let (repo, key) = (format!("https://{address}/web"), shown(&world.at("key")));
    let client = variables(&[
        ("YESTER_REPO", &repo),
        ("YESTER_KEY_FILE", &key),
        ("YESTER_TOKEN", token.trim()),
        ("YESTER_TLS_FINGERPRINT", pin),
    ]);
    let source = shown(&world.file("src/a", noise(1, 100_000)));
    run(&world, &client, &["init"]).ok();
    run(&world, &client, &["ingest", "-q", &source]).ok();
    let back = shown(&world.at("back"));
    run(&world, &client, &["restore", "-q", &format!("latest:{source}"), "--target", &back]).ok();
    let _ = (child.kill(), child.wait());
    assert!(store.keys().iter().any(|key| key.starts_with("fleet/web/snapshots/")));
    // A place that is a repository is not one with repositories in it.
    let inner = store.address("fleet/web");
    let said = finish(world.command(&["serve", "--root", &inner, "--state", &state]).envs(credentials.iter().cloned()));
    said.fails(2, &["is a repository"]);
}
