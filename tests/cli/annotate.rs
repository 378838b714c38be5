//! Tags, notes and pins that come after a snapshot was made.

use std::fs;

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
    for args in
        [&["snapshots"][..], &["ls", "latest", "--tag", "good"], &["ingest", "src"], &["check"], &["forget", "--keep-last", "9"]]
    {
        assert_eq!(run(args).code, Some(0), "{args:?}");
    }
    run(&["prune"]);
    assert!(!made_up.exists());
    // One of the key's holder that is damaged: `check` finds it, `repair objects` gives it up.
    let good = fs::read_dir(world.at("repo/annotations")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&good).unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    fs::write(&good, &bytes).unwrap();
    assert_eq!(run(&["snapshots"]).code, Some(0));
    let said = run(&["check"]);
    assert!(said.code == Some(1) || said.err.contains("annotations/"), "{said:?}");
    run(&["repair", "objects"]).ok();
    run(&["check"]).ok();
}
