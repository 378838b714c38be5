//! A repository that went back in time: it was restored from its own older copy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::taken_away;
use crate::common::program;

use std::path::Path;
use std::process::Command;

use program::{Run, World, shown, with};

fn ingest(world: &World, options: &[String], content: &str) -> String {
    world.file("src/file", content);
    let run = world.run(&with(options, &["ingest", "--json", "src"])).ok();
    run.json().pop().unwrap()["snapshot_id"].as_str().unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a", "-T"]).args([from, to]).status().unwrap().success());
}

/// A repository whose last two snapshots are gone; only `ingest` was ever run on it.
fn went_back() -> (World, [String; 4], [String; 3]) {
    let world = World::new();
    let options = world.repository();
    let first = ingest(&world, &options, "first");
    copy(&world.at("repo"), &world.at("copy"));
    let ids = [first, ingest(&world, &options, "second"), ingest(&world, &options, "third")];
    std::fs::remove_dir_all(world.at("repo")).unwrap();
    std::fs::rename(world.at("copy"), world.at("repo")).unwrap();
    (world, options, ids)
}

/// It did what it should, and said what there is to say.
#[track_caller]
fn warns(run: Run, ids: &[String; 3]) -> Run {
    assert_eq!(run.code, Some(14), "{}", run.err);
    assert!(run.err.contains("the repository went back: 2 snapshots are gone"), "{}", run.err);
    says(run, ids)
}

#[track_caller]
fn says(run: Run, ids: &[String; 3]) -> Run {
    let named = ids[1..].iter().any(|id| run.err.contains(id.as_str()));
    assert!(run.err.contains("gone back in time") && named && run.err.contains("1 more"), "{}", run.err);
    run
}

#[test]
fn every_command_that_reads_says_so_and_goes_on() {
    let (world, options, ids) = went_back();
    let run = |args: &[&str]| world.run(&with(&options, args));
    warns(run(&["ls", "latest"]), &ids);
    assert_eq!(warns(run(&["cat", "latest:src/file"]), &ids).out, b"first");
    warns(run(&["restore", "latest:src", "--target", "out"]), &ids);
    assert_eq!(std::fs::read(world.at("out/file")).unwrap(), b"first");
    let point = world.at("point");
    std::fs::create_dir(&point).unwrap();
    // It stands, and whoever mounts in a script wants to know that.
    says(run(&["mount", &shown(&point)]).ok(), &ids);
    assert_eq!(std::fs::read(point.join("latest").join(shown(&world.at("src/file")).trim_start_matches('/'))).unwrap(), b"first");
    taken_away(|| run(&["umount", &shown(&point)]));
    warns(run(&["ingest", "src"]), &ids);
}

#[test]
fn all_that_is_gone_is_named_and_accepted_at_once() {
    let (world, options, ids) = went_back();
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["prune"]).fails(14, &["nothing was deleted", "yester forget", "--accept-gone"]);
    for args in [&["snapshots"][..], &["check"]] {
        let run = run(args);
        assert!(run.code == Some(14) && run.err.contains("--accept-gone accepts all"), "{run:?}");
        assert!(ids[1..].iter().all(|id| run.err.contains(id.as_str())), "whole ids of all: {run:?}");
    }
    let dry = run(&["forget", "--accept-gone", "-n"]).ok().text();
    assert!(ids[1..].iter().all(|id| dry.contains(id.as_str())) && dry.contains("2 snapshots are gone"), "{dry}");
    assert!(!dry.contains(ids[0].as_str()), "{dry}");
    run(&["prune"]).fails(14, &["nothing was deleted"]);
    run(&["forget", "--accept-gone", "latest"]).fails(2, &["--accept-gone"]);
    run(&["forget", "--accept-gone"]).ok();
    for args in [&["snapshots"][..], &["check"], &["prune"], &["ls", "latest"]] {
        let run = run(args).ok();
        assert_eq!(run.err, "");
    }
    let none = run(&["forget", "--accept-gone", "--json"]).ok().json();
    assert_eq!(none[0]["snapshots_gone"], serde_json::json!([]));
}

/// One that is only known as another's, on a machine that has never seen it: every command notices it.
#[test]
fn a_machine_that_has_never_seen_the_repository_notices_it() {
    let world = World::new();
    let options = world.repository();
    let ids = ["first", "second", "third"].map(|content| ingest(&world, &options, content));
    std::fs::remove_file(world.at("repo/snapshots").join(&ids[0])).unwrap();
    for args in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["cat", "latest:src/file"],
        &["restore", "latest:src", "--target", "out"],
        &["find", "file"],
        &["check"],
        &["prune"],
        &["ingest", "src"],
    ] {
        std::fs::remove_dir_all(world.at(".local")).unwrap();
        let run = world.run(&with(&options, args));
        assert!(run.code == Some(14) && run.err.contains(&ids[0]), "{args:?}: {:?} {}", run.code, run.err);
    }
    assert_eq!(std::fs::read(world.at("out/file")).unwrap(), b"third");
    let text = world.run(&with(&options, &["forget", "--accept-gone"])).ok().text();
    assert!(text.contains(&ids[0]) && !text.contains(&ids[1]), "{text}");
    world.run(&with(&options, &["prune"])).ok();
    assert_eq!(world.run(&with(&options, &["snapshots"])).ok().err, "");
}

/// What was forgotten and pruned is not missed, by nobody; and what only that named is, if it goes.
#[test]
fn what_was_forgotten_is_no_gap() {
    let world = World::new();
    let options = world.repository();
    let ids = ["1", "2", "3", "4"].map(|content| ingest(&world, &options, content));
    world.run(&with(&options, &["forget", &ids[1], &ids[2]])).ok();
    world.run(&with(&options, &["prune"])).ok();
    assert!(!world.at("repo/snapshots").join(&ids[1]).exists());
    std::fs::remove_dir_all(world.at(".local")).unwrap();
    for args in [&["snapshots"][..], &["check"], &["prune"], &["ls", "latest"]] {
        assert_eq!(world.run(&with(&options, args)).ok().err, "");
    }
    std::fs::remove_file(world.at("repo/snapshots").join(&ids[0])).unwrap();
    std::fs::remove_dir_all(world.at(".local")).unwrap();
    world.run(&with(&options, &["snapshots"])).fails(14, &[&ids[0]]);
}

/// A machine that remembers says it in its next snapshot, and then everybody knows.
#[test]
fn what_one_machine_remembers_all_learn() {
    let (world, options, ids) = went_back();
    warns(world.run(&with(&options, &["ingest", "src"])), &ids);
    std::fs::remove_dir_all(world.at(".local")).unwrap();
    let run = world.run(&with(&options, &["ls", "latest"]));
    // The third names the second, but only the third is named here: the second was seen too, and is named with it.
    warns(run, &ids);
}
