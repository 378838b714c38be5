//! What cannot be what its name says: the server refuses it, without a key, and tells whose it was.

use yester::format::envelope::{self, HEADER, ObjectType};
use yester::model::{RepositoryId, SnapshotId};
use yester::remote::protocol::{Capability, RepositoryName, object_path};
use yester::remote::tokens::Grant;
use yester::storage::{Class, Name, Storage};

use crate::net::child::Program;
use crate::net::rows::answers;
use crate::net::support::*;

fn grant(capabilities: &[Capability]) -> Grant {
    let repository = Some(RepositoryName::parse("web").unwrap());
    Grant { repository, capabilities: capabilities.to_vec(), ..Grant::default() }
}

/// One name of each kind, with its good object. Sessions and what belongs to them are of `session`.
fn good(session: SnapshotId) -> Vec<(Name, Vec<u8>)> {
    let small = [
        Name::Config(2, 0),
        Name::Key(slot(3), 1),
        Name::Removed(slot(3)),
        Name::Session(id(99)),
        Name::Beat(session, 7),
        Name::Snapshot(session),
        Name::Forgotten(id(1)),
        Name::Condemned(id(1)),
        Name::Damaged(id(1)),
    ];
    let small = small.into_iter().map(|name| (name, framed(&name, &noise(4, 300))));
    small.chain([pack(&noise(5, 3000)), segment(&noise(6, 3000))]).collect()
}

/// The same object with something wrong in it and a checksum that is right. What it is named by fits in any case.
fn changed(name: Name, good: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> (Name, Vec<u8>) {
    let mut head = good[..good.len() - 32].to_vec();
    change(&mut head);
    let sum = *blake3::hash(&head).as_bytes();
    let name = match name {
        Name::Pack(_) => Name::Pack(yester::model::PackId(sum)),
        Name::Segment(_) => Name::Segment(yester::model::SegmentId(sum)),
        other => other,
    };
    (name, [head, sum.to_vec()].concat())
}

/// Everything that can be wrong with an object and be told without the key.
fn bad(name: Name, good: &[u8]) -> Vec<(&'static str, Name, Vec<u8>)> {
    let mut out = Vec::new();
    let mut add = |why, (name, object)| out.push((why, name, object));
    add("garbage", changed(name, good, |head| *head = noise(9, 32)));
    add("magic", changed(name, good, |head| head[6] ^= 1));
    let other = if kind(&name) == ObjectType::Session { ObjectType::Pack } else { ObjectType::Session };
    add("type", changed(name, good, |head| head[8] = other as u8));
    add("no type", changed(name, good, |head| head[8] = 200));
    add("version", changed(name, good, |head| head[10] = 0));
    add("repository", changed(name, good, |head| head[HEADER - 1] ^= 1));
    add("length", changed(name, good, |head| head.truncate(HEADER - 1)));
    if !matches!(name, Name::Pack(_) | Name::Segment(_)) {
        let mut object = good.to_vec();
        *object.last_mut().unwrap() ^= 1;
        add("checksum", (name, object));
        add("nothing", (name, Vec::new()));
    }
    out
}

struct Host {
    program: Program,
    monitor: String,
}

impl Host {
    fn put(&self, token: &str, name: &Name, object: &[u8]) -> String {
        let headers = format!("Content-Length: {}\r\nyester-content: {}\r\n", object.len(), blake3::hash(object));
        self.program.ask(token, "PUT", &object_path(name), &headers, object)
    }

    fn stored(&self) -> usize {
        let storage = self.program.web();
        Class::ALL.into_iter().map(|class| storage.list(class).unwrap().len()).sum()
    }

    /// How many uploads of a token were refused as malformed.
    fn counted(&self, token: &str) -> usize {
        let id = token.split('-').nth(2).unwrap();
        let said = self.program.ask(&self.monitor, "GET", "/metrics", "", b"");
        let begin = format!("yester_refusals_total{{token=\"{id}\",error=\"malformed\"}} ");
        said.lines().find_map(|line| line.strip_prefix(&begin)).map_or(0, |count| count.trim().parse().unwrap())
    }
}

#[test]
fn what_cannot_be_what_its_name_says_is_refused_and_told() {
    let program = Program::start(&[]);
    let monitor = program.token(Grant { capabilities: vec![Capability::Metrics], ..Grant::default() });
    let host = Host { program, monitor };
    let (full, putter) = (host.program.token(grant(&FULL)), host.program.token(grant(&[Capability::Put])));
    answers(&host.put(&full, &Name::Config(1, 0), &framed(&Name::Config(1, 0), b"the first")), 201, "");
    for (who, session) in [(&full, id(50)), (&putter, id(51))] {
        answers(&host.put(who, &Name::Session(session), &framed(&Name::Session(session), b"mine")), 201, "");
        let (before, mut refused) = (host.stored(), 0);
        for (name, object) in good(session) {
            let may = who == &full
                || !matches!(name, Name::Config(..) | Name::Key(..) | Name::Removed(_))
                    && !matches!(name, Name::Forgotten(_) | Name::Condemned(_));
            if !may {
                answers(&host.put(who, &name, &object), 403, "forbidden");
                continue;
            }
            for (why, name, object) in bad(name, &object) {
                let said = host.put(who, &name, &object);
                assert!(said.starts_with("HTTP/1.1 422") && said.contains("malformed"), "{name}, {why}: {said}");
                refused += 1;
            }
            assert_eq!(host.stored(), before, "{name}");
            // A later version is for its own programs to judge.
            let (newer, later) = changed(name, &object, |head| (head[9], head[10]) = (1, 2));
            if !matches!(name, Name::Snapshot(_)) {
                answers(&host.put(who, &newer, &later), 201, "");
            }
            if newer != name || matches!(name, Name::Snapshot(_)) {
                answers(&host.put(who, &name, &object), 201, "");
            }
            // It is the same when the name is taken.
            for (why, name, object) in bad(name, &object) {
                let said = host.put(who, &name, &object);
                assert!(said.starts_with("HTTP/1.1 422") && said.contains("malformed"), "taken {name}, {why}: {said}");
                refused += 1;
            }
            let most = name.class().max_object() + 1;
            let headers = format!("Content-Length: {most}\r\n");
            answers(&host.program.ask(who, "PUT", &object_path(&name), &headers, b""), 413, "too_long");
            host.program.web().delete(&name).unwrap();
            host.program.web().delete(&newer).unwrap();
            assert_eq!(host.stored(), before, "{name}");
        }
        assert_eq!(host.counted(who), refused);
        let (log, id) = (host.program.log(), who.split('-').nth(2).unwrap());
        assert!(log.lines().any(|line| line.contains("refused what is no object") && line.contains(id)), "{log}");
    }
}

#[test]
fn a_fence_is_as_good_as_a_snapshot() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    let storage = server.storage("web");
    must_put(&storage, &Name::Session(id(1)), b"one");
    let fence = envelope::wrap(ObjectType::Fence, REPOSITORY, b"fence");
    must_create(&storage, &Name::Snapshot(id(1)), &fence);
}

#[test]
fn the_first_object_says_which_repository_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    let storage = server.storage("web");
    let other = |name: &Name| envelope::wrap(kind(name), RepositoryId([8; 16]), b"of another");
    let (key, config, session) = (Name::Key(slot(1), 0), Name::Config(1, 0), Name::Session(id(1)));
    must_put(&storage, &key, b"the first");
    for name in [config, Name::Key(slot(2), 0), session] {
        let said = storage.create(&name, &[&other(&name)]).unwrap_err().to_string();
        assert!(said.contains("another repository"), "{said}");
    }
    must_put(&storage, &config, b"of this one");
    // One that does not say so reliably is not asked.
    let path = server.root.join("web/config/00000001.0");
    let mut flipped = std::fs::read(&path).unwrap();
    flipped[20] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, flipped).unwrap();
    must_put(&storage, &session, b"of this one");
    assert!(storage.create(&Name::Session(id(2)), &[&other(&Name::Session(id(2)))]).is_err());
    // Once all of it is gone, another may be made in its place, by the server or past it.
    server.storage_local().delete(&config).unwrap();
    server.storage_local().delete(&key).unwrap();
    must_create(&storage, &key, &other(&key));
    must_create(&storage, &Name::Session(id(2)), &other(&Name::Session(id(2))));
    assert!(put(&storage, &Name::Session(id(3)), b"of the first").is_err());
}

#[test]
fn of_two_who_make_a_repository_at_once_one_is_first() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    for round in 0..10_u8 {
        let name = format!("r{round}");
        let storage = server.storage(&name);
        let made: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8_u8)
                .map(|n| {
                    let (storage, key) = (&storage, Name::Key(slot(n), 0));
                    let object = envelope::wrap(ObjectType::KeySlot, RepositoryId([n; 16]), b"mine");
                    scope.spawn(move || storage.create(&key, &[&object]).is_ok())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|made| **made).count(), 1, "{made:?}");
    }
}
