//! Quotas, sessions, and what the log says of who did what.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use yester::ErrorKind;
use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::remote::protocol::{Capability, RepositoryName, object_path};
use yester::remote::tokens::Grant;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Created, Name, Storage};

use crate::net::child::Program;
use crate::net::rows::{Plain, answers};
use crate::net::support::*;

/// The bytes of everything that is stored.
fn stored(storage: &dyn Storage) -> u64 {
    Class::ALL.into_iter().flat_map(|class| storage.list(class).unwrap()).map(|(_, size)| size).sum()
}

/// The files of a repository: where each is, which file it is, since when, and its bytes.
fn files(dir: &Path, out: &mut HashSet<(PathBuf, u64, (i64, i64), u64)>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let is_object = !entry.file_name().as_encoded_bytes().starts_with(b".");
        match std::fs::symlink_metadata(entry.path()) {
            Ok(found) if found.is_dir() && is_object => files(&entry.path(), out),
            Ok(found) if is_object => {
                out.insert((entry.path(), found.ino(), (found.mtime(), found.mtime_nsec()), found.len()));
            }
            _ => {}
        }
    }
}

/// The bytes of what is stored at one moment. A list is made while others store and delete, and may have what was never
/// there together; what is in two of them was there between them.
fn stored_at_once(root: &Path) -> u64 {
    let mut looks = [HashSet::new(), HashSet::new()];
    looks.iter_mut().for_each(|look| files(root, look));
    looks[0].intersection(&looks[1]).map(|(_, _, _, bytes)| bytes).sum()
}

/// One thing that a client does; numbers stand for objects.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u32),
    Delete(u8),
    Session(u8),
    End(u8),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        3 => (0..6u8, 1..120_000u32).prop_map(|(n, length)| Step::Put(n, length)),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => (0..3u8).prop_map(Step::Session),
        1 => (0..3u8).prop_map(Step::End),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..25), 4)
}

const QUOTA: u64 = 300_000;

fn carry_out(storage: &RemoteStorage, own: u8, step: &Step) {
    let fits = |result: yester::Result<Created>| match result {
        Ok(_) => {}
        Err(e) => assert!(matches!(e.kind(), ErrorKind::Full | ErrorKind::Exists), "{e}"),
    };
    match step {
        // Of a content that others send as well, at the same time.
        Step::Put(n, length) => {
            let (name, object) = pack(&noise(*n, *length as usize / 40_000 * 40_000 + 1000));
            fits(storage.create(&name, &[&object]));
        }
        Step::Delete(n) => (0..3).for_each(|size| {
            storage.delete(&pack(&noise(*n, size * 40_000 + 1000)).0).unwrap();
        }),
        Step::Session(n) => fits(put(storage, &Name::Session(id(10 * own + n)), b"session")),
        Step::End(n) => {
            fits(put(storage, &Name::Snapshot(id(10 * own + n)), &noise(*n, 5000)));
            let _ = storage.delete(&Name::Session(id(10 * own + n)));
            let _ = storage.delete(&Name::Session(id(10 * own + n)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever comes at once: what is stored never exceeds the quota, and what is counted is what is stored.
    #[test]
    fn the_account_is_exact_under_races(all in steps()) {
        let scratch = tempfile::tempdir().unwrap();
        let server = Server::start(scratch.path());
        drop(server.storage("web"));
        let local = Arc::new(DirectoryStorage::open(&server.root.join("web")).unwrap());
        let token = server.token(Grant { quota: Some(QUOTA), ..server.grant("web", &FULL) });
        std::thread::scope(|scope| {
            for (own, steps) in all.iter().enumerate() {
                let storage = RemoteStorage::open(&server.address("web"), &server.options(&token)).unwrap();
                let root = server.root.join("web");
                scope.spawn(move || {
                    for step in steps {
                        // Two of the four are the same client, racing with itself.
                        carry_out(&storage, own as u8 / 2, step);
                        let bytes = stored_at_once(&root);
                        assert!(bytes <= QUOTA, "{bytes} bytes are stored");
                    }
                });
            }
        });
        let storage = RemoteStorage::open(&server.address("web"), &server.options(&token)).unwrap();
        let counted = QUOTA - storage.free_space().unwrap().unwrap();
        prop_assert_eq!(counted, stored(&*local));
    }
}

#[test]
fn two_deletions_of_one_object_give_its_bytes_back_once() {
    let plain = Plain::with(|_| {});
    let token = plain.server.token(Grant { quota: Some(QUOTA), ..plain.server.grant("web", &FULL) });
    let options = RemoteOptions { connections: 8, ..plain.server.options(&token) };
    drop(options);
    let local = DirectoryStorage::open(&plain.server.root.join("web")).unwrap();
    let (name, object) = pack(&noise(1, 100_000));
    let path = object_path(&name);
    let head = |method: &str| plain.head(method, &path).replace(&plain.token, &token) + "Connection: close\r\n";
    for _ in 0..5 {
        let put = format!("{}Content-Length: {}\r\n\r\n", head("PUT"), object.len());
        answers(&plain.say(&[put.as_bytes(), &object].concat()), 201, "");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| answers(&plain.say(format!("{}\r\n", head("DELETE")).as_bytes()), 204, ""));
            }
        });
    }
    let about = plain.head("GET", "/v1/repository").replace(&plain.token, &token) + "Connection: close\r\n\r\n";
    answers(&plain.say(about.as_bytes()), 200, &format!("\"free\":{QUOTA}"));
    assert_eq!(stored(&local), 0);
}

#[test]
fn what_is_refused_or_there_already_takes_no_room() {
    let plain = Plain::with(|_| {});
    let token = plain.server.token(Grant { quota: Some(QUOTA), ..plain.server.grant("web", &FULL) });
    let repo = plain.server.root.join("web");
    let ask = |name: &Name, body: &[u8], more: &str| {
        let head = plain.head("PUT", &object_path(name)).replace(&plain.token, &token);
        let hash = blake3::hash(body);
        let head = format!("{head}Connection: close\r\nContent-Length: {}\r\nyester-content: {hash}\r\n{more}\r\n", body.len());
        plain.say(&[head.as_bytes(), body].concat())
    };
    // Uploads of sessions that are refused leave no note of who began them.
    for n in 0..50 {
        let name = Name::Session(id(n));
        let head = plain.head("PUT", &object_path(&name)).replace(&plain.token, &token);
        let body = framed(&name, b"x");
        let (length, hash) = (body.len(), "00".repeat(32));
        let wrong = format!("{head}Connection: close\r\nContent-Length: {length}\r\nyester-content: {hash}\r\n\r\n");
        answers(&plain.say(&[wrong.as_bytes(), &body].concat()), 422, "mismatch");
    }
    assert!(std::fs::read_dir(repo.join(".owners")).map_or(0, Iterator::count) == 0, "notes were left");
    // The body of a name that is there is compared, and written nowhere: a full quota does not matter.
    let (name, object) = pack(&noise(1, 250_000));
    answers(&ask(&name, &object, ""), 201, "");
    let half = &object[..100_000];
    let mut stream = plain.connect();
    let head = plain.head("PUT", &object_path(&name)).replace(&plain.token, &token);
    std::io::Write::write_all(&mut stream, format!("{head}Content-Length: {}\r\n\r\n", object.len()).as_bytes()).unwrap();
    std::io::Write::write_all(&mut stream, half).unwrap();
    for _ in 0..3 {
        answers(&ask(&name, &object, ""), 200, "");
        assert_eq!(plain.files(), 1, "it was spooled");
    }
    // One that is told beforehand takes its room before its body comes.
    let (second, other) = pack(&noise(2, 40_000));
    let mut waiting = plain.connect();
    let head = plain.head("PUT", &object_path(&second)).replace(&plain.token, &token);
    std::io::Write::write_all(&mut waiting, format!("{head}Content-Length: {}\r\n\r\nx", other.len()).as_bytes()).unwrap();
    while plain.files() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    answers(&ask(&pack(&noise(3, 40_000)).0, &pack(&noise(3, 40_000)).1, ""), 507, "quota");
    drop(waiting);
    let deadline = std::time::Instant::now() + PATIENT;
    while !ask(&pack(&noise(3, 40_000)).0, &pack(&noise(3, 40_000)).1, "").starts_with("HTTP/1.1 20") {
        assert!(std::time::Instant::now() < deadline, "the room of an upload that broke is not given back");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_number_of_objects_is_bounded_by_the_quota() {
    let plain = Plain::with(|_| {});
    // 10,000 and one for each 16 KiB.
    let quota = 4 << 20;
    let token = plain.server.token(Grant { quota: Some(quota), ..plain.server.grant("web", &FULL) });
    for n in 0..10_255_u32 {
        let id = *blake3::hash(&n.to_le_bytes()).as_bytes();
        std::fs::write(plain.server.root.join(format!("web/forgotten/{}", yester::model::SnapshotId(id))), b"").unwrap();
    }
    let storage = |n: u8| {
        let (name, object) = pack(&[n]);
        let head = plain.head("PUT", &object_path(&name)).replace(&plain.token, &token);
        plain.say(&[format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n", object.len()).as_bytes(), &object].concat())
    };
    answers(&storage(1), 201, "");
    answers(&storage(2), 507, "10256 objects");
}

#[test]
fn one_token_has_so_many_open_sessions() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = serve_options(scratch.path());
    options.limits.sessions = 5;
    let server = Server::with(options);
    let full = server.storage("web");
    let one = server.storage_for("web", &Capability::APPEND_ONLY);
    let two = server.storage_for("web", &Capability::APPEND_ONLY);
    (0..5).for_each(|n| must_put(&one, &Name::Session(id(n)), b"one"));
    let said = put(&one, &Name::Session(id(5)), b"one").unwrap_err().to_string();
    assert!(said.contains("5 sessions") && said.contains("yester prune"), "{said}");
    must_put(&two, &Name::Session(id(6)), b"two");
    must_put(&full, &Name::Snapshot(id(0)), b"fence");
    full.delete(&Name::Session(id(0))).unwrap();
    must_put(&one, &Name::Session(id(5)), b"one");
    assert!(put(&one, &Name::Session(id(7)), b"one").is_err());
}

#[test]
fn a_repository_is_not_made_inside_of_another() {
    let scratch = tempfile::tempdir().unwrap();
    let outer = scratch.path().join("outer");
    DirectoryStorage::create(&outer).unwrap();
    std::os::unix::fs::symlink(outer.join("packs"), scratch.path().join("link")).unwrap();
    let options = stdio_options(scratch.path(), &format!("--append-only --restrict-to {}", scratch.path().display()));
    for inner in ["outer/packs/00", "outer/snapshots/x", "outer/new/er", "link/01"] {
        let path = scratch.path().join(inner);
        let said = DirectoryStorage::create(&path).unwrap_err().to_string();
        assert!(said.contains("inside of the repository") && said.contains("outer"), "{inner}: {said}");
        let said = RemoteStorage::create(&ssh_address(&path), &options).unwrap_err().to_string();
        assert!(said.contains("inside of another repository"), "{inner}: {said}");
    }
    assert_eq!(std::fs::read_dir(outer.join("packs/00")).unwrap().count(), 0);
    // A server whose root is inside of one makes none either.
    let server = Server::start(&outer.join("root"));
    let token = server.token(server.grant("web", &FULL));
    let said = RemoteStorage::create(&server.address("web"), &server.options(&token)).unwrap_err().to_string();
    assert!(said.contains("inside of another repository"), "{said}");
}

#[test]
fn the_log_says_who_made_and_deleted_what_and_cannot_be_flooded() {
    let program = Program::start(&[]);
    let web = || Some(RepositoryName::parse("web").unwrap());
    let token = program.token(Grant { repository: web(), capabilities: FULL.to_vec(), ..Grant::default() });
    let reader = program.token(Grant { repository: web(), capabilities: vec![Capability::Get], ..Grant::default() });
    let (token_id, reader_id) = (token.split('-').nth(2).unwrap(), reader.split('-').nth(2).unwrap());
    let (name, object) = pack(&noise(1, 1000));
    let path = object_path(&name);
    answers(&program.ask(&token, "PUT", &path, &format!("Content-Length: {}\r\n", object.len()), &object), 201, "");
    answers(&program.ask(&token, "PUT", &path, &format!("Content-Length: {}\r\n", object.len()), &object), 200, "");
    answers(&program.ask(&token, "DELETE", &path, "", b""), 204, "");
    answers(&program.ask(&token, "DELETE", &path, "", b""), 204, "");
    let began = std::time::Instant::now();
    for _ in 0..100 {
        answers(&program.ask(&reader, "DELETE", &path, "", b""), 403, "prune");
        answers(&program.ask("nothing", "GET", &path, "", b""), 401, "");
    }
    // So many of each client in a minute.
    let minutes = 1 + began.elapsed().as_secs() as usize / 60;
    let log = program.log();
    let lines = |words: &[&str]| log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    assert_eq!(lines(&["created", token_id, &name.to_string(), "bytes=1060"]), 1, "{log}");
    assert_eq!(lines(&["deleted", token_id, &name.to_string(), "bytes=1060"]), 1, "{log}");
    let refused = lines(&["request", reader_id, "403"]);
    assert!((1..=10 * minutes).contains(&refused), "{log}");
    assert!((1..=10 * minutes).contains(&lines(&["request", "token=\"-\"", "401"])), "{log}");
    assert!(!log.contains(&token[30..]) && log.lines().count() < 40 * minutes, "{log}");
    assert!(program.web().list(Class::Packs).unwrap().is_empty());
}
