//! Snapshots anew, without some paths: nothing of them is left.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;

use crate::common::program::{Run, World, shown, with};
use crate::common::tiny::noise;

fn run(world: &World, options: &[String], args: &[&str]) -> Run {
    world.run(&with(options, args))
}

fn ids(world: &World, options: &[String]) -> Vec<String> {
    let listed = run(world, options, &["snapshots", "--json"]).ok().json();
    listed.iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

/// Whether a text is anywhere in the plain bytes of the frames of any pack. Every pack is in the index.
fn holds(world: &World, text: &str) -> bool {
    let repo = Arc::new(world.open_repository());
    let index = Arc::new(Index::load(&repo).unwrap());
    let named: BTreeSet<String> = index.packs().map(|pack| pack.id.to_string()).collect();
    let stored = fs::read_dir(world.at("repo/packs")).unwrap().flatten().flat_map(|dir| fs::read_dir(dir.path()).unwrap());
    let stored: BTreeSet<String> = stored.map(|pack| pack.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(named, stored);
    let reader = ChunkReader::new(repo, index.clone(), 8 << 20).unwrap();
    let (mut seen, mut found) = (HashSet::new(), false);
    for segment in 0..index.segments().len() {
        index
            .scan(segment, &mut |location, _, _| {
                let frame = index.frame(&location)?;
                if seen.insert(format!("{frame:?}")) {
                    let frame = reader.frame(&frame)?;
                    found |= frame.bytes().windows(text.len()).any(|part| part == text.as_bytes());
                }
                Ok(())
            })
            .unwrap();
    }
    assert!(!seen.is_empty());
    found
}

fn secret(name: &str, len: usize) -> Vec<u8> {
    [noise(7, len / 2), format!("the secret of {name}").into_bytes(), noise(8, len / 2)].concat()
}

#[test]
fn nothing_is_left_of_what_was_dropped() {
    let world = World::new();
    let options = world.repository();
    world.file("src/keys/large", secret("large", 90_000));
    world.file("src/keys/small", "the secret of small");
    world.file("src/kept/a", noise(1, 50_000));
    fs::hard_link(world.at("src/keys/large"), world.at("src/kept/link")).unwrap();
    fs::remove_file(world.at("src/kept/link")).unwrap();
    fs::hard_link(world.at("src/kept/a"), world.at("src/keys/other")).unwrap();
    fs::hard_link(world.at("src/kept/a"), world.at("src/kept/b")).unwrap();
    run(&world, &options, &["ingest", "src", "--tag", "first"]).ok();
    world.file("src/kept/new", "new");
    run(&world, &options, &["ingest", "src"]).ok();
    run(&world, &options, &["note", "latest", "the note"]).ok();
    run(&world, &options, &["pin", "latest"]).ok();
    let old = ids(&world, &options);
    assert!(holds(&world, "the secret of large") && holds(&world, "the secret of small"));
    // A dry run changes nothing, and says what goes.
    let dry = run(&world, &options, &["rewrite", "-n", "-v", "-e", "keys/*", "-e", "nowhere"]).ok();
    assert!(dry.text().contains("/src/keys/small") && dry.text().contains("2 snapshots would be rewritten"), "{}", dry.text());
    assert!(dry.err.contains("nowhere") && ids(&world, &options) == old, "{}", dry.err);
    let json = run(&world, &options, &["rewrite", "--json", "-e", "keys/*", "--forget"]).ok().json();
    assert_eq!((&json[0]["entries_dropped"], &json[2]["snapshots_forgotten"]), (&3.into(), &2.into()));
    let new = ids(&world, &options);
    assert!(new.len() == 2 && new.iter().all(|id| !old.contains(id)), "{new:?}");
    run(&world, &options, &["prune", "--max-unused", "0"]).ok();
    assert!(!holds(&world, "the secret of large") && !holds(&world, "the secret of small"));
    run(&world, &options, &["check", "--read-data"]).ok();
    // All else is as it was: tags, note, pin, links, times.
    let listed = run(&world, &options, &["snapshots", "--json"]).ok().json();
    assert!(listed[0]["tags"].as_array().unwrap().iter().any(|tag| tag == "first"), "{listed:?}");
    assert_eq!(run(&world, &options, &["note", "latest"]).ok().text().trim(), "the note");
    run(&world, &options, &["forget", "latest"]).fails(2, &["is pinned"]);
    run(&world, &options, &["restore", &format!("latest:{}", shown(&world.at("src"))), "--target", "out"]).ok();
    assert_eq!(fs::read(world.at("out/kept/a")).unwrap(), noise(1, 50_000));
    let (a, b) = (fs::metadata(world.at("out/kept/a")).unwrap(), fs::metadata(world.at("out/kept/b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    assert_eq!(a.mtime(), fs::metadata(world.at("src/kept/a")).unwrap().mtime());
    assert_eq!(fs::read_dir(world.at("out/keys")).unwrap().count(), 0);
    // The next ingest goes on from it, and a restore that deletes spares what was dropped.
    let restored =
        run(&world, &options, &["restore", &format!("latest:{}", shown(&world.at("src"))), "--target", "src", "--delete"]);
    assert!(restored.code == Some(0) || restored.code == Some(3), "{}", restored.err);
    assert!(world.at("src/keys/small").exists());
    let next = run(&world, &options, &["ingest", "--json", "src", "-e", "keys/*"]).ok().json();
    assert_eq!(next.last().unwrap()["files_unmodified"], 3, "{next:?}");
}

/// A later version is stored as a difference from the one with the secret, which only the first snapshot has.
#[test]
fn a_difference_from_what_was_dropped_is_stored_by_itself() {
    let world = World::new();
    let options = world.repository();
    let log = |head: &str| [head.as_bytes(), &noise(3, 60_000)].concat();
    world.file("src/log", log("the secret of the log"));
    world.file("src/dir/page", "the secret of the page");
    (0..200).for_each(|n| drop(world.file(&format!("src/dir/file-{n:03}"), format!("text {n}"))));
    run(&world, &options, &["ingest", "src"]).ok();
    world.file("src/log", log("nothing in this one"));
    fs::remove_file(world.at("src/dir/page")).unwrap();
    run(&world, &options, &["ingest", "src"]).ok();
    let first = ids(&world, &options).remove(0);
    // Without the old snapshot alone, its bytes stay as the base.
    let json = run(&world, &options, &["rewrite", &first, "--json", "-e", "src/log", "-e", "dir/page", "--forget"]).ok().json();
    assert!(json.last().unwrap()["chunks_untied"].as_u64().unwrap() > 0, "{json:?}");
    run(&world, &options, &["prune", "--max-unused", "0"]).ok();
    assert!(!holds(&world, "the secret of the log") && !holds(&world, "the secret of the page"));
    assert!(holds(&world, "nothing in this one"));
    run(&world, &options, &["check", "--read-data"]).ok();
    assert_eq!(run(&world, &options, &["cat", "latest:src/log"]).ok().out, log("nothing in this one"));
}

#[test]
fn a_host_and_a_time_are_changed_without_storing_anything() {
    let world = World::new();
    let options = world.repository();
    world.file("src/f", noise(1, 50_000));
    run(&world, &options, &["ingest", "src", "--host", "old"]).ok();
    let packs = || {
        fs::read_dir(world.at("repo/packs")).unwrap().flatten().map(|d| fs::read_dir(d.path()).unwrap().count()).sum::<usize>()
    };
    let before = packs();
    run(&world, &options, &["rewrite", "--new-host", "x"]).fails(2, &["which snapshots"]);
    run(&world, &options, &["rewrite", "latest"]).fails(2, &["nothing to change"]);
    run(&world, &options, &["rewrite", "latest", "--new-host", "new", "--new-time", "2020-02-03T04:05:06Z"]).ok();
    let listed = run(&world, &options, &["snapshots", "--json"]).ok().json();
    let hosts: Vec<&str> = listed.iter().map(|snapshot| snapshot["hostname"].as_str().unwrap()).collect();
    assert_eq!((hosts, packs()), (vec!["new", "old"], before));
    assert!(listed[0]["time"].as_str().unwrap().starts_with("2020-02-03T04:05:06"), "{listed:?}");
    run(&world, &options, &["rewrite", "--host", "new", "--host", "old", "--new-time", "2020-02-03"])
        .fails(2, &["for one snapshot"]);
    let same = run(&world, &options, &["rewrite", "--host", "new", "--new-host", "new"]).ok();
    assert!(same.text().contains("0 snapshots rewritten, 1 as they were"), "{}", same.text());
    run(&world, &options, &["check", "--read-data"]).ok();
}
