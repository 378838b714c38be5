//! The wastebasket: what is forgotten stays for a time, and can be taken back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use program::{World, with};

fn ingest(world: &World, options: &[String], content: &str) -> String {
    world.file("src/file", content);
    let run = world.run(&with(options, &["ingest", "--json", "src"])).ok();
    run.json().pop().unwrap()["snapshot_id"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_forgotten_with_grace_stays_and_comes_back() {
    let world = World::new();
    let options = world.repository();
    let ids = ["first", "second", "third"].map(|content| ingest(&world, &options, content));
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["forget", "--grace", "7d", &ids[0]]).ok();
    run(&["forget", &ids[1]]).ok();
    // It is not listed, and prune leaves the one and not the other.
    assert!(!run(&["snapshots"]).ok().text().contains(&ids[0][..8]));
    let plan = run(&["prune", "--json"]).ok().json();
    assert_eq!((&plan[0]["snapshots_kept"], &plan[0]["snapshots_forgotten"]["count"]), (&1.into(), &1.into()));
    assert!(plan[0]["kept_until"].is_string());
    let listed = run(&["snapshots", "--forgotten", "--json"]).ok().json();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["id"], listed[0]["kept_until"].is_string()), (&ids[0].as_str().into(), true));
    let text = run(&["snapshots", "--forgotten"]).ok().text();
    assert!(text.contains(&ids[0][..8]) && text.contains("1 forgotten snapshot"), "{text}");
    run(&["check", "--read-data"]).ok();
    // Back, with all that it has.
    run(&["forget", "--undo", &ids[1]]).fails(1, &["no forgotten snapshot"]);
    run(&["forget", "--undo"]).fails(2, &["--forgotten"]);
    run(&["forget", "--undo", "-n", &ids[0][..8]]).ok();
    assert!(!run(&["snapshots"]).ok().text().contains(&ids[0][..8]));
    run(&["forget", "--undo", &ids[0][..8]]).ok();
    assert!(run(&["snapshots"]).ok().text().contains(&ids[0][..8]));
    assert_eq!(run(&["cat", &format!("{}:src/file", ids[0])]).ok().out, b"first");
    assert_eq!(std::fs::read_dir(world.at("repo/sessions")).unwrap().count(), 0);
    run(&["check", "--read-data"]).ok();
}

#[test]
fn who_does_not_want_to_wait_says_so() {
    let world = World::new();
    let options = world.repository();
    let ids = ["first", "second"].map(|content| ingest(&world, &options, content));
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["forget", "--grace", "7d", &ids[0]]).ok();
    let text = run(&["prune"]).ok().text();
    assert!(text.contains("1 forgotten snapshot stays") && text.contains("--no-grace"), "{text}");
    assert!(world.at("repo/snapshots").join(&ids[0]).exists());
    run(&["prune", "--no-grace"]).ok();
    assert!(!world.at("repo/snapshots").join(&ids[0]).exists());
    run(&["forget", "--undo", &ids[0]]).fails(1, &["no forgotten snapshot"]);
}

/// What a later prune has marked for deletion does not come back as a snapshot that cannot be read.
#[test]
fn what_is_lost_does_not_come_back() {
    let world = World::new();
    let options = world.repository();
    let ids = ["first", "second"].map(|content| ingest(&world, &options, content));
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["forget", "--grace", "7d", &ids[0]]).ok();
    let packs = program_packs(&world);
    packs.iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let failed = run(&["forget", "--undo", &ids[0]]);
    assert!(failed.code == Some(1) && failed.err.contains("cannot be taken back"), "{failed:?}");
    assert!(world.at("repo/forgotten").join(&ids[0]).exists(), "it is forgotten still");
}

fn program_packs(world: &World) -> Vec<std::path::PathBuf> {
    let directories = std::fs::read_dir(world.at("repo/packs")).unwrap().map(|entry| entry.unwrap().path());
    directories.flat_map(|directory| std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path())).collect()
}

/// The configuration file says for how long, and an option beats it.
#[test]
fn the_configuration_file_says_for_how_long() {
    let world = World::new();
    let options = world.repository();
    let ids = ["first", "second", "third"].map(|content| ingest(&world, &options, content));
    world.file(
        ".config/yester/config.toml",
        format!("[repository]\nlocation = \"{}\"\ngrace = \"3d\"\n", program::shown(&world.at("repo"))),
    );
    let credential: Vec<String> = options[2..].to_vec();
    let run = |args: &[&str]| world.run(&with(&credential, args));
    run(&["forget", &ids[0]]).ok();
    run(&["forget", "--grace", "0", &ids[1]]).ok();
    run(&["prune"]).ok();
    let there = |id: &String| world.at("repo/snapshots").join(id).exists();
    assert!(there(&ids[0]) && !there(&ids[1]));
}
