//! `forget` and `prune` as users meet them, with writers that are killed, stopped and fenced.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::build::noise;
use crate::common::mounted::{signal, stop};
use crate::common::program;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use program::{World, with};
use rustix::process::Signal;
use serde_json::Value;

/// Bytes of all files below a directory.
fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { size(&path) } else { fs::metadata(path).unwrap().len() }).sum()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A repository with three snapshots of `src`; the second one alone has a large file.
fn three() -> (World, [String; 4], Vec<String>) {
    let world = World::new();
    let options = world.repository();
    let mut ids = Vec::new();
    for number in 0..3 {
        world.file("src/stays", noise(1, 100_000));
        world.file("src/count", number.to_string());
        if number == 1 {
            world.file("src/large", noise(2, 3_000_000));
        } else {
            let _ = fs::remove_file(world.at("src/large"));
        }
        let run = world.run(&with(&options, &["ingest", "--json", "--tag", &format!("n{number}"), "src"])).ok();
        ids.push(run.json().pop().unwrap()["snapshot_id"].as_str().unwrap().to_owned());
    }
    (world, options, ids)
}

#[test]
fn forget_shows_what_goes_and_prune_frees_it() {
    let (world, options, ids) = three();
    let repo = world.at("repo");
    let before = size(&repo);
    // A dry run changes nothing, and says what a prune would free.
    let dry = world.run(&with(&options, &["forget", "-n", "--keep-last", "1", "--prune"])).ok().text();
    for said in ["forget", "keep", "last snapshot", "dry run, would forget 2 snapshots; 1 stays", "would free 2.8"] {
        assert!(dry.contains(said), "{said:?} is not in {dry}");
    }
    assert_eq!(size(&repo), before);
    let lines = world.run(&with(&options, &["forget", "--json", "--keep-tag", "n0", "-l", "1"])).ok().json();
    assert_eq!(lines[0]["message_type"], "series");
    let kept: Vec<(&str, &Value)> =
        lines[0]["keep"].as_array().unwrap().iter().map(|s| (s["id"].as_str().unwrap(), &s["reasons"])).collect();
    assert_eq!(kept[0], (ids[0].as_str(), &serde_json::json!(["tag n0"])));
    assert_eq!(kept[1], (ids[2].as_str(), &serde_json::json!(["last snapshot"])));
    assert_eq!(lines[0]["remove"][0]["id"], ids[1].as_str());
    assert_eq!(lines[1]["snapshots_forgotten"], serde_json::json!([ids[1]]));
    // It is forgotten, and nothing was deleted.
    assert_eq!(world.run(&with(&options, &["snapshots", "--json"])).ok().json().len(), 2);
    assert!(size(&repo) > before);
    let plan = world.run(&with(&options, &["prune", "-n", "--json"])).ok().json();
    assert_eq!((plan.len(), plan[0]["message_type"].as_str(), plan[0]["dry_run"].as_bool()), (1, Some("plan"), Some(true)));
    let before = size(&repo);
    let lines = world.run(&with(&options, &["prune", "--json"])).ok().json();
    let freed = before - size(&repo);
    assert_eq!(lines[0]["bytes_freed"], plan[0]["bytes_freed"], "the dry run said the same");
    for said in [&lines[0]["bytes_freed"], &lines[1]["bytes_freed"], &lines[1]["bytes_announced"]] {
        assert!(said.as_u64().unwrap().abs_diff(freed) * 50 < freed, "{lines:?}: {freed}");
    }
    assert!(freed > 2_900_000, "{freed}");
    for id in [&ids[0], &ids[2]] {
        assert!(world.run(&with(&options, &["cat", &format!("{id}:src/stays")])).ok().out == noise(1, 100_000));
    }
    let text = world.run(&with(&options, &["prune"])).ok().text();
    assert!(text.contains("will free 0 B") && text.contains("for 2 snapshots"), "{text}");
}

#[test]
fn a_prune_without_time_deletes_no_pack_says_so_and_the_next_goes_on() {
    let (world, options, ids) = three();
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["forget", &ids[1]]).ok();
    let packs = || size(&world.at("repo/packs"));
    let before = packs();
    run(&["prune", "--max-duration", "0s"]).fails(3, &["the time was over", "before anything could be deleted"]);
    assert_eq!(packs(), before);
    let again = run(&["prune", "--max-duration", "0s", "--json"]);
    let said = again.json().into_iter().find(|line| line["message_type"] == "summary").unwrap();
    assert!(again.code == Some(3) && said["packs_left"]["count"].as_u64().unwrap() > 0, "{said}");
    assert!(said["packs_left"]["bytes"].as_u64().unwrap() > 2_500_000, "{said}");
    assert_eq!(said["packs_deleted"]["count"], 0);
    run(&["check", "--read-data"]).ok();
    let done = run(&["prune", "--max-duration", "1d", "--json"]).ok().json().pop().unwrap();
    assert_eq!(done["packs_left"]["count"], 0, "{done}");
    assert!(packs() + 2_500_000 < before);
    run(&["check", "--read-data"]).ok();
}

#[test]
fn forget_by_name_and_by_filter() {
    let (world, options, ids) = three();
    let forget = |args: &[&str]| world.run(&with(&options, &[&["forget"], args].concat()));
    forget(&[]).fails(2, &["--keep-last"]);
    forget(&["latest", "--keep-last", "1"]).fails(2, &["--keep-last"]);
    forget(&["--keep-last", "many"]).fails(2, &["many"]);
    forget(&["--keep-within", "soon"]).fails(2, &["soon", "30d"]);
    forget(&["0123456789"]).fails(1, &["0123456789", "yester snapshots"]);
    forget(&[&ids[0], &ids[1], &ids[2]]).fails(2, &["--unsafe-allow-remove-all"]);
    forget(&["--keep-tag", "none"]).fails(2, &["keeps no snapshot", "--unsafe-allow-remove-all"]);
    assert_eq!(world.run(&with(&options, &["snapshots", "--json"])).ok().json().len(), 3);
    let text = forget(&["latest~1", &ids[0][..8]]).ok().text();
    assert!(text.contains("forgot 2 snapshots; 1 stays"), "{text}");
    // The rows that go and those that stay.
    for (id, what) in ids.iter().zip(["- forget", "- forget", "= keep"]) {
        let row = text.lines().find(|line| line.contains(&id[..8])).unwrap_or_else(|| panic!("{text}"));
        assert!(row.trim_start().starts_with(what), "{row}");
    }
    forget(&["--tag", "n2", "--unsafe-allow-remove-all"]).ok();
    assert_eq!(world.run(&with(&options, &["snapshots", "--json"])).ok().json().len(), 0);
    world.run(&with(&options, &["prune"])).ok();
    assert!(size(&world.at("repo/packs")) == 0);
    world.run(&with(&options, &["ingest", "src"])).ok();
}

#[test]
fn a_damaged_snapshot_is_said_and_can_be_given_up() {
    let (world, options, ids) = three();
    let path = world.at("repo/snapshots").join(&ids[1]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[90] ^= 1;
    fs::write(&path, bytes).unwrap();
    let run = world.run(&with(&options, &["forget", "--keep-last", "1"]));
    assert!(run.code == Some(3) && run.err.contains("cannot be read") && run.err.contains(&ids[1]), "{run:?}");
    world.run(&with(&options, &["prune"])).fails(1, &["nothing was deleted", "yester forget", &ids[1]]);
    world.run(&with(&options, &["forget", &ids[1]])).ok();
    world.run(&with(&options, &["prune"])).ok();
    world.run(&with(&options, &["restore", "latest:src", "--target", "out"])).ok();
}

/// A snapshot that this machine has seen and that is gone stops a prune: the repository went back in time.
#[test]
fn a_repository_that_went_back_in_time_is_not_pruned() {
    let (world, options, ids) = three();
    world.run(&with(&options, &["snapshots"])).ok();
    // The newest, which no other names as its parent.
    fs::remove_file(world.at("repo/snapshots").join(&ids[2])).unwrap();
    world.run(&with(&options, &["prune"])).fails(14, &["nothing was deleted", &ids[2][..8]]);
    world.run(&with(&options, &["forget", &ids[2]])).ok();
    world.run(&with(&options, &["prune"])).ok();
}

/// An ingest that takes a while, once its session is open. Who asked for it waits for it.
#[allow(clippy::zombie_processes)]
fn working(world: &World, options: &[String]) -> (Child, String) {
    let sessions = world.at("repo/sessions");
    assert!(names(&sessions).is_empty());
    let mut command = world.command(&with(options, &["ingest", "--json", "src"]));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    loop {
        if let Some(id) = names(&sessions).into_iter().find(|name| name.len() == 64) {
            return (child, id);
        }
        assert!(began.elapsed() < Duration::from_secs(300), "no session was opened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_ingest_needs_no_unlocking() {
    let (world, options, ids) = three();
    world.file("src/larger", noise(3, 150_000_000));
    let (mut child, id) = working(&world, &options);
    signal(child.id(), Signal::KILL);
    // Nobody has asked for its exit status yet: it is dead all the same.
    let began = Instant::now();
    loop {
        let run = world.run(&with(&options, &["prune"]));
        if run.code == Some(0) {
            assert!(run.text().contains("session"), "{}", run.text());
            break;
        }
        // The kernel may take a moment to end it.
        assert!(run.code == Some(11) && began.elapsed() < Duration::from_secs(300), "{run:?}");
    }
    child.wait().unwrap();
    assert!(names(&world.at("repo/sessions")).is_empty());
    assert!(names(&world.at("repo/snapshots")).contains(&id), "its id is fenced");
    // What it had stored, finished or not, is gone.
    assert!(size(&world.at("repo")) < 4_000_000, "{}", size(&world.at("repo")));
    let all = world.run(&with(&options, &["snapshots", "--json"])).ok().json();
    assert_eq!(all.len(), ids.len());
    fs::remove_file(world.at("src/larger")).unwrap();
    world.run(&with(&options, &["ingest", "src"])).ok();
}

#[test]
fn a_live_ingest_is_waited_for_or_fenced() {
    let (world, options, ids) = three();
    world.run(&with(&options, &["forget", &ids[0], &ids[1]])).ok();
    world.file("src/larger", noise(3, 150_000_000));
    let (child, id) = working(&world, &options);
    stop(child.id());
    let before = size(&world.at("repo/packs"));
    for args in [&["prune"][..], &["prune", "-n"]] {
        let process = format!("process {}", child.id());
        world.run(&with(&options, args)).fails(11, &[&id[..8], &process, "since 20", "--fence"]);
    }
    world.run(&with(&options, &["prune", "--fence", "01234567"])).fails(1, &["01234567", &id[..8]]);
    assert!(size(&world.at("repo/packs")) >= before);
    world.run(&with(&options, &["prune", "--fence", &id[..8]])).ok();
    // It goes on, finds that it was fenced, begins again, and commits under another id.
    signal(child.id(), Signal::CONT);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Before it stand lines that say how far it was.
    let last = output.stdout.trim_ascii_end().rsplit(|b| *b == b'\n').next().unwrap();
    let summary: Value = serde_json::from_slice(last).unwrap();
    let new = summary["snapshot_id"].as_str().unwrap();
    assert_ne!(new, id);
    world.run(&with(&options, &["restore", &format!("{new}:src"), "--target", "out"])).ok();
    for name in names(&world.at("src")) {
        assert!(fs::read(world.at("src").join(&name)).unwrap() == fs::read(world.at("out").join(&name)).unwrap(), "{name}");
    }
    world.run(&with(&options, &["prune"])).ok();
    assert!(world.run(&with(&options, &["cat", &format!("{new}:src/larger")])).ok().out == noise(3, 150_000_000));
}

/// A difference that nobody needs outlives its bases, in a pack that stays for something else. Nothing is wrong with that.
#[test]
fn a_difference_that_nobody_needs_is_no_damage_without_its_base() {
    let world = World::new();
    let options = world.repository();
    let mut text = noise(1, 2_900_000);
    world.file("src/database", &text);
    world.run(&with(&options, &["ingest", "src"])).ok();
    let packs = || -> Vec<String> {
        names(&world.at("repo/packs")).iter().flat_map(|at| names(&world.at("repo/packs").join(at))).collect()
    };
    let first = packs();
    (0..29).for_each(|at| text[at * 100_000..][..8192].copy_from_slice(&noise(at as u64 + 9, 8192)));
    world.file("src/database", &text);
    world.file("src/stays", noise(2, 600_000));
    world.run(&with(&options, &["ingest", "src"])).ok();
    let second: Vec<String> = packs().into_iter().filter(|pack| !first.contains(pack)).collect();
    fs::remove_file(world.at("src/database")).unwrap();
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.run(&with(&options, &["forget", "--keep-last", "1", "--prune", "--max-unused", "unlimited"])).ok();
    let left = packs();
    assert!(first.iter().any(|pack| !left.contains(pack)) && second.iter().any(|pack| left.contains(pack)), "{left:?}");
    let checked = world.run(&with(&options, &["check", "--read-data"])).ok().text();
    assert!(checked.contains("no damage"), "{checked}");
    world.run(&with(&options, &["repair", "index"])).ok();
    world.run(&with(&options, &["check", "--read-data"])).ok();
    world.run(&with(&options, &["doctor", "--read-data"])).ok();
}
