//! Several tokens of one repository: what each may do with the sessions and snapshots of the others.

use yester::ErrorKind;
use yester::format::envelope::{self, ObjectType};
use yester::model::RepositoryId;
use yester::remote::protocol::Capability;
use yester::storage::{Class, Name, Storage};

use crate::common::program::{World, shown};
use crate::net::program::{Variables, run, served, variables};
use crate::net::support::*;

/// The id of the repository `web`.
fn repository(server: &Server) -> RepositoryId {
    envelope::peek(&read(&server.storage_local(), &Name::Config(1, 0)).unwrap()).unwrap().repository
}

#[test]
fn prune_over_a_server_removes_sessions_that_are_made_up() {
    let world = World::new();
    let (server, variables) = served(&world);
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", &shown(&world.file("a", "content"))]).ok();
    // Nobody without the key can tell that these are none.
    let appender = server.storage_for("web", &Capability::APPEND_ONLY);
    for n in 1..4 {
        for (name, kind) in [(Name::Session(id(n)), ObjectType::Session), (Name::Beat(id(n), 1), ObjectType::Beat)] {
            must_create(&appender, &name, &envelope::wrap(kind, repository(&server), &noise(n, 300)));
        }
        assert_eq!(appender.delete(&Name::Session(id(n))).unwrap_err().kind(), ErrorKind::Exists);
    }
    run(&world, &variables, &["prune"]).ok();
    let local = server.storage_local();
    assert!(local.list(Class::Sessions).unwrap().is_empty());
    assert_eq!(local.list(Class::Snapshots).unwrap().len(), 1, "a fence was left");
    assert_eq!(std::fs::read_dir(server.root.join("web/.owners")).unwrap().count(), 0);
    run(&world, &variables, &["check"]).ok();
    run(&world, &variables, &["ingest", "-q", &shown(&world.at("a"))]).ok();
}

#[test]
fn signs_of_life_are_given_for_own_sessions_only() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    let full = server.storage("web");
    let (one, two) = (server.storage_for("web", &Capability::APPEND_ONLY), server.storage_for("web", &Capability::APPEND_ONLY));
    must_put(&one, &Name::Session(id(1)), b"one");
    must_put(&two, &Name::Session(id(2)), b"two");
    let beat = |n| Name::Beat(id(1), n);
    must_put(&one, &beat(1), b"alive");
    // Of a session of another, or of none; whoever asks.
    for (who, name) in [(&two, beat(2)), (&full, beat(2)), (&one, Name::Beat(id(3), 1)), (&full, Name::Beat(id(3), 1))] {
        let e = put(who, &name, b"alive").unwrap_err();
        assert!(e.to_string().contains("only of sessions that it has begun"), "{name}: {e}");
    }
    let e = two.delete(&beat(1)).unwrap_err();
    assert!(e.to_string().contains("capability prune"), "{e}");
    assert_eq!(put(&two, &beat(1), b"other").map_err(|e| e.kind()), Err(ErrorKind::Io));
    must_put(&one, &beat(2), b"alive");
    one.delete(&beat(1)).unwrap();
    assert_eq!(read(&full, &beat(2)).unwrap(), framed(&beat(2), b"alive"));
    // No more than a writer ever leaves.
    (3..66).for_each(|n| must_put(&one, &beat(n), b"alive"));
    let e = put(&one, &beat(66), b"alive").unwrap_err();
    assert!(e.to_string().contains("64 signs of life"), "{e}");
    (3..66).for_each(|n| one.delete(&beat(n)).unwrap());
    // Those of a session that has ended are for prune.
    must_put(&one, &Name::Snapshot(id(1)), b"done");
    one.delete(&Name::Session(id(1))).unwrap();
    assert!(put(&one, &beat(3), b"alive").is_err() && one.delete(&beat(2)).is_err());
    full.delete(&beat(2)).unwrap();
    assert_eq!(full.list(Class::Sessions).unwrap().len(), 1);
}

/// The same with another token.
fn with_token(variables: &Variables, token: &str) -> Variables {
    let other = |(name, value): &(String, String)| {
        let value = if name == "YESTER_TOKEN" { token } else { value };
        (name.clone(), value.to_owned())
    };
    variables.iter().map(other).collect()
}

/// The ids of all snapshots of a token; `None`: that nobody knows.
fn of_token(world: &World, variables: &Variables, token: Option<&str>) -> Vec<String> {
    let listed = run(world, variables, &["snapshots", "--json"]).ok().json();
    let of = |s: &&serde_json::Value| s["token_id"].as_str() == token;
    listed.iter().filter(of).map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_client_of_another_token_enters_no_series() {
    let world = World::new();
    let (server, owner) = served(&world);
    run(&world, &owner, &["init"]).ok();
    let path = shown(&world.file("src/a", "content"));
    let tokens: Vec<String> = (0..2).map(|_| server.token(server.grant("web", &Capability::APPEND_ONLY))).collect();
    let ids: Vec<&str> = tokens.iter().map(|token| token.split('-').nth(2).unwrap()).collect();
    // The second claims to be the host of the first, and to store the same paths.
    for (token, count) in [(&tokens[0], 3), (&tokens[1], 7)] {
        for n in 0..count {
            let told = run(&world, &with_token(&owner, token), &["ingest", "--json", &path]).ok().json().pop().unwrap();
            // What another says of this host's files is not believed: the first has no parent.
            assert_eq!(told["parent"].is_string(), n > 0, "{told}");
        }
    }
    let mine = of_token(&world, &owner, Some(ids[0]));
    assert_eq!((mine.len(), of_token(&world, &owner, Some(ids[1])).len()), (3, 7));
    for text in [run(&world, &owner, &["snapshots"]), run(&world, &owner, &["forget", "-n", "--keep-last", "3"])] {
        let text = text.ok().text();
        assert!(ids.iter().all(|id| text.contains(&format!("(token {id})"))), "{text}");
    }
    run(&world, &owner, &["forget", "--keep-last", "3"]).ok();
    assert_eq!(of_token(&world, &owner, Some(ids[0])), mine);
    assert_eq!(of_token(&world, &owner, Some(ids[1])).len(), 3);
    // The server's directory has its notes. Who asks for other series gets them.
    let local: Variables = owner.iter().filter(|(name, _)| name == "YESTER_KEY_FILE").cloned().collect();
    let local = [local, variables(&[("YESTER_REPO", &shown(&server.root.join("web")))])].concat();
    assert_eq!(of_token(&world, &local, Some(ids[0])), mine);
    run(&world, &local, &["forget", "--keep-last", "3"]).ok();
    assert_eq!((of_token(&world, &local, Some(ids[0])), of_token(&world, &local, Some(ids[1])).len()), (mine.clone(), 3));
    run(&world, &owner, &["forget", "--group-by", "host,paths", "--keep-last", "4", "--prune"]).ok();
    assert_eq!((of_token(&world, &owner, Some(ids[0])).len(), of_token(&world, &owner, Some(ids[1])).len()), (1, 3));
    // What is gone has no note.
    let notes = std::fs::read_dir(server.root.join("web/.writers")).unwrap();
    let mut notes: Vec<_> = notes.map(|note| note.unwrap().file_name().into_string().unwrap()).collect();
    let left = [of_token(&world, &owner, Some(ids[0])), of_token(&world, &owner, Some(ids[1]))].concat();
    notes.sort();
    let objects = std::fs::read_dir(server.root.join("web/snapshots")).unwrap();
    let mut objects: Vec<_> = objects.map(|object| object.unwrap().file_name().into_string().unwrap()).collect();
    objects.sort();
    // Among them may be a fence, which no list shows.
    assert_eq!(notes, objects);
    assert!(left.iter().all(|id| notes.contains(id)) && notes.len() <= left.len() + 1, "{left:?} of {notes:?}");
}

#[test]
fn who_put_a_snapshot_is_told_as_long_as_it_is_there() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    let full = server.storage("web");
    let token = server.token(server.grant("web", &Capability::APPEND_ONLY));
    let one = yester::remote::client::RemoteStorage::open(&server.address("web"), &server.options(&token)).unwrap();
    let name = Name::Snapshot(id(1));
    let told = || full.received(Class::Snapshots).unwrap().into_iter().map(|(_, receipt)| receipt.by).collect::<Vec<_>>();
    must_put(&one, &Name::Session(id(1)), b"one");
    must_put(&one, &name, b"one");
    one.delete(&Name::Session(id(1))).unwrap();
    let by = vec![token.split('-').nth(2).map(str::to_owned)];
    assert_eq!(told(), by);
    // Who sends the same, or something else, under its name changes nothing.
    put(&full, &name, b"one").unwrap();
    put(&full, &name, b"two").unwrap();
    assert_eq!(told(), by);
    full.delete(&name).unwrap();
    must_put(&full, &name, b"two");
    assert!(told() != by && told()[0].is_some());
    assert!(full.received(Class::Sessions).unwrap().is_empty());
    // One that was put past the server is nobody's.
    server.storage_local().delete(&name).unwrap();
    must_put(&server.storage_local(), &Name::Snapshot(id(2)), b"past");
    assert_eq!(told(), [None]);
}
