//! Tags, notes and pins that come after a snapshot was made.

use std::fs;

use yester::model::{Annotation, Pin, Timestamp};
use yester::repo::annotations;

use crate::common::program::{World, with};

/// Three snapshots of src; their ids, oldest first.
fn three() -> (World, [String; 4], Vec<String>) {
    let world = World::new();
    let options = world.repository();
    for n in 0..3 {
        world.file("src/a", format!("{n}"));
        world.run(&with(&options, &["ingest", "-q", "--tag", "made", "src"])).ok();
    }
    let listed = world.run(&with(&options, &["snapshots", "--json"])).ok().json();
    let ids = listed.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    (world, options, ids)
}

#[test]
fn tags_are_added_removed_and_set() {
    let (world, options, ids) = three();
    let run = |args: &[&str]| world.run(&with(&options, args));
    let tags = |id: &str| {
        let listed = run(&["snapshots", "--json"]).ok().json();
        let line = listed.into_iter().find(|line| line["id"] == id).unwrap();
        line["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(run(&["tag", "latest", "--add", "b,a"]).ok().text().contains(": tags a, b, made"));
    assert_eq!(tags(&ids[2]), ["a", "b", "made"]);
    assert_eq!(tags(&ids[1]), ["made"]);
    run(&["tag", "latest", "--add", "c", "--remove", "made,a"]).ok();
    assert_eq!(tags(&ids[2]), ["b", "c"]);
    // Every command goes by what holds now.
    let found = run(&["ls", "--json", "latest", "--tag", "b,c"]).ok();
    assert!(!found.text().is_empty());
    run(&["ls", "latest", "--tag", "a"]).fails(1, &["latest"]);
    assert!(run(&["tag", "--tag", "made", "--set", "x"]).ok().text().lines().count() == 2);
    assert_eq!((tags(&ids[0]), tags(&ids[1])), (vec!["x".to_owned()], vec!["x".to_owned()]));
    run(&["tag", &ids[0], "--set", ""]).ok();
    assert!(tags(&ids[0]).is_empty());
    assert_eq!(run(&["tag", &ids[0], "--remove", "x"]).ok().text(), "nothing to change\n");
    run(&["tag", "latest"]).fails(2, &["--add, --remove or --set"]);
    run(&["tag", "--add", "x"]).fails(2, &["which snapshots?"]);
    run(&["tag", "ffff", "--add", "x"]).fails(1, &["ffff"]);
    // A policy goes by them.
    let kept = run(&["forget", "--keep-tag", "b", "--json"]).ok().json();
    assert_eq!(kept.last().unwrap()["snapshots_kept"], 1);
    run(&["prune"]).ok();
    // What was said of snapshots that are gone is gone, too.
    assert_eq!(fs::read_dir(world.at("repo/annotations")).unwrap().count(), 2);
    assert_eq!(tags(&ids[2]), ["b", "c"]);
    run(&["check", "--read-data"]).ok();
}

#[test]
fn notes_are_written_shown_and_removed() {
    let (world, options, ids) = three();
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["note", "latest"]).fails(1, &["has no note", "yester note"]);
    run(&["note", "latest", "before the upgrade"]).ok();
    assert_eq!(run(&["note", &ids[2]]).ok().text(), "before the upgrade\n");
    assert!(run(&["snapshots"]).ok().text().contains("“before the upgrade”"));
    assert_eq!(run(&["snapshots", "--json"]).ok().json()[2]["note"], "before the upgrade");
    run(&["note", "latest", "after\nit"]).ok();
    assert_eq!(run(&["note", "latest"]).ok().text(), "after\\nit\n");
    // The first note says nothing any more.
    run(&["prune"]).ok();
    assert_eq!(fs::read_dir(world.at("repo/annotations")).unwrap().count(), 1);
    assert_eq!(run(&["note", "latest", "--json"]).ok().json()[0]["note"], "after\nit");
    run(&["note", "latest", ""]).ok();
    run(&["note", "latest"]).fails(1, &["has no note"]);
}

#[test]
fn what_is_pinned_is_not_forgotten() {
    let (world, options, ids) = three();
    let run = |args: &[&str]| world.run(&with(&options, args));
    assert!(run(&["pin", &ids[0]]).ok().text().ends_with(": pinned\n"));
    run(&["pin", &ids[1], "--until", "2999-12-31"]).ok();
    assert_eq!(run(&["pin"]).ok().text().lines().count(), 2);
    assert!(run(&["snapshots"]).ok().text().contains("(pinned until 2999-12-31"));
    let text = run(&["forget", "--keep-last", "1"]).ok().text();
    assert!(text.contains("pinned") && text.contains("forgot 0 snapshots; 3 stay"), "{text}");
    run(&["forget", &ids[0]]).fails(2, &["is pinned", "yester pin", "--remove"]);
    run(&["pin", &ids[1], "--until", "2001-01-01"]).fails(2, &["is over"]);
    run(&["pin", &ids[0], "--remove"]).ok();
    assert_eq!(run(&["pin", "--json"]).ok().json().len(), 1);
    assert!(run(&["forget", "--keep-last", "1"]).ok().text().contains("forgot 1 snapshot; 2 stay"));
}

#[test]
fn a_made_up_annotation_stops_nobody() {
    let (world, options, _) = three();
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["tag", "latest", "--add", "good"]).ok();
    let made_up = world.at(&format!("repo/annotations/{}", "ab".repeat(32)));
    fs::write(&made_up, b"garbage").unwrap();
    for args in [&["snapshots"][..], &["ls", "latest", "--tag", "good"], &["ingest", "src"], &["forget", "--keep-last", "9"]] {
        assert_eq!(run(args).code, Some(0), "{args:?}");
    }
    run(&["prune"]);
    assert!(!made_up.exists());
    // One that was made with the key and is damaged may be a pin: no policy forgets, until it is given up.
    let good = fs::read_dir(world.at("repo/annotations")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&good).unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    fs::write(&good, &bytes).unwrap();
    run(&["snapshots"]).ok();
    run(&["forget", "--keep-last", "1"]).fails(1, &["no policy forgets", "repair objects"]);
    run(&["prune"]).ok();
    assert!(good.exists());
    assert_eq!(run(&["check"]).code, Some(1));
    run(&["repair", "objects"]).ok();
    run(&["check"]).ok();
    run(&["forget", "--keep-last", "1"]).ok();
}

#[test]
fn what_is_said_last_holds_though_a_clock_was_ahead() {
    let (world, options, ids) = three();
    let repo = world.open_repository();
    let said = annotations::read_all(&repo).unwrap();
    let snapshot = yester::model::SnapshotId::parse(&ids[2]).unwrap();
    let time = Timestamp { secs: 9_999_999_999, nanos: 999_999_999 };
    let (host, user) = (b"ahead".to_vec(), b"user".to_vec());
    let note = Some(b"of the future".to_vec());
    let pin = Some(Pin::Forever);
    let (removed, added, clears_tags) = (vec![], vec![b"future".to_vec()], true);
    let ahead = Annotation { snapshot, time, host, user, clears_tags, removed, added, note, pin };
    annotations::write(&repo, &said, &ahead).unwrap();
    let run = |args: &[&str]| world.run(&with(&options, args));
    assert_eq!(run(&["note", "latest"]).ok().text(), "of the future\n");
    run(&["note", "latest", "of today"]).ok();
    run(&["pin", "latest", "--remove"]).ok();
    run(&["tag", "latest", "--set", "today"]).ok();
    run(&["prune"]).ok();
    assert_eq!(run(&["note", "latest"]).ok().text(), "of today\n");
    assert_eq!(run(&["pin"]).ok().text(), "");
    assert_eq!(run(&["snapshots", "--json"]).ok().json()[2]["tags"], serde_json::json!(["today"]));
}
