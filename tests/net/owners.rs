//! Several tokens of one repository: what each may do with the sessions and snapshots of the others.

use yester::ErrorKind;
use yester::format::envelope::{self, ObjectType};
use yester::model::RepositoryId;
use yester::remote::protocol::Capability;
use yester::storage::{Class, Name, Storage};

use crate::program::{run, served};
use crate::program_run::{World, shown};
use crate::support::*;

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
    // Those of a session that has ended are for prune.
    must_put(&one, &Name::Snapshot(id(1)), b"done");
    one.delete(&Name::Session(id(1))).unwrap();
    assert!(put(&one, &beat(3), b"alive").is_err() && one.delete(&beat(2)).is_err());
    full.delete(&beat(2)).unwrap();
    assert_eq!(full.list(Class::Sessions).unwrap().len(), 1);
}
