//! Repositories that restic made.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::{Place, became, counts};
use crate::cli::export::everything;
use crate::common::program::{shown, with};

fn restic(place: &Place, version: u8) {
    place.sh(&format!("restic -q init --repository-version {version} -r restic"));
}

/// Three snapshots of a tree with every kind of entry, each with other hosts, tags and content.
fn three(place: &Place) -> String {
    everything(&place.world);
    // A time that restic cannot set.
    place.sh("touch -d @1000000000 src/empty");
    let src = shown(&place.world.at("src"));
    place.world.file("src/sub/deep/a", "a text that stays ".repeat(1000));
    place.world.file("src/sub/deep/b", "another text ".repeat(30_000));
    let _socket = std::os::unix::net::UnixListener::bind(place.world.at("src/socket")).unwrap();
    place.sh(&format!("mkdir -p 'src/we\nird\\\"'; restic -q -r restic backup --host one --tag x,y --exclude none.o {src}"));
    place.sh("echo more >> src/plain; rm src/sub/deep/b; chmod 700 src/sub; ln src/large src/sub/large-too; touch -h -d @5.25 src/link");
    place.sh(&format!("restic -q -r restic backup --host two --time '2020-02-03 04:05:06' {src}"));
    place.sh(&format!("restic -q -r restic backup --host one {src}/sub"));
    src
}

fn said(place: &Place) -> Vec<Value> {
    let mut all: Vec<Value> = serde_json::from_str(&place.sh("restic -r restic snapshots --json")).unwrap();
    all.sort_by_key(|one| one["id"].as_str().unwrap().to_owned());
    all
}

fn every_snapshot_is_here(version: u8) {
    let place = Place::new();
    restic(&place, version);
    let src = three(&place);
    let dry = place.import(&["-n", "restic:restic"]).ok();
    assert_eq!((counts(&dry), place.snapshots().len()), ([3, 0, 0, 0], 0));
    let run = place.import(&["restic:restic"]).ok();
    assert_eq!(counts(&run), [3, 0, 0, 0]);
    let (became, here) = (became(&run), place.snapshots());
    let names = |value: &Value| value.as_array().map_or(0, Vec::len);
    for theirs in said(&place) {
        let (_, id) = became.iter().find(|(origin, _)| *origin == theirs["id"].as_str().unwrap()).unwrap();
        let ours = here.iter().find(|one| one["id"] == id.as_str()).unwrap();
        for field in ["hostname", "username", "paths"] {
            assert_eq!(ours[field], theirs[field], "{field}");
        }
        assert_eq!(names(&ours["tags"]), names(&theirs["tags"]));
        let time = |value: &Value| value.as_str().unwrap()[..19].to_owned();
        assert_eq!(time(&ours["time"]), time(&theirs["time"]));
        let path = theirs["paths"][0].as_str().unwrap().to_owned();
        place.sh(&format!("rm -rf theirs ours; restic -q -r restic restore {} --target theirs", theirs["id"].as_str().unwrap()));
        place.restore(id, &path, "ours");
        super::same(place.world.home(), &format!("theirs{path}"), "ours");
    }
    assert!(here.iter().any(|one| one["rules"][0]["text"] == "none.o"), "{here:?}");
    // What stayed was not read again: only one file of the second snapshot is new.
    let second = here.iter().find(|one| one["hostname"] == "two").unwrap();
    let first = here.iter().find(|one| one["hostname"] == "one" && one["paths"][0] == src.as_str()).unwrap();
    let of = |one: &Value, name: &str| one["summary"][name].as_u64().unwrap();
    // The second one is the older by its time, and so the first that is imported.
    assert!(of(second, "files_new") > 0 && of(first, "files_new") <= 2, "{here:?}");
    let again = place.import(&["restic:restic"]).ok();
    assert_eq!((counts(&again), place.snapshots()), ([0, 3, 0, 0], here));
    place.check();
}

#[test]
fn every_snapshot_is_here_as_restic_puts_it_back() {
    every_snapshot_is_here(2);
}

#[test]
fn so_is_every_snapshot_of_version_1() {
    every_snapshot_is_here(1);
}

#[test]
fn some_snapshots_are_chosen_and_changed() {
    let place = Place::new();
    restic(&place, 2);
    place.world.file("src/a", "a");
    place.sh("for n in 1 2 3; do restic -q -r restic backup --host host$n --tag t$n --time 2021-01-0$n\\ 10:00:00 src; done");
    let only = |args: &[&str]| counts(&place.import(&[&["-n", "restic:restic"], args].concat()).ok())[0];
    assert_eq!(
        [only(&["--host", "host2"]), only(&["--tag", "t1", "--tag", "t3"]), only(&["--newer-than", "2021-01-02"])],
        [1, 2, 2]
    );
    let first = said(&place)[0]["id"].as_str().unwrap()[..8].to_owned();
    assert_eq!([only(&[&first]), only(&["latest"]), only(&["latest", &first, &first])][..2], [1, 1]);
    place.refused(&["restic:restic", "ffffffff"], 1, &["ffffffff", "no such snapshot among 3"]);
    place.refused(&["restic:restic", "--new-time", "2022-01-01"], 2, &["--new-time", "one snapshot"]);
    place.import(&["restic:restic", "--host", "host2", "--new-host", "web", "--add-tag", "old,from-restic"]).ok();
    let here = place.snapshots().pop().unwrap();
    assert_eq!((&here["hostname"], &here["tags"]), (&"web".into(), &serde_json::json!(["from-restic", "old", "t2"])));
    // A path that was relative stands at the top, as in restic.
    assert_eq!(place.run(&["cat", &format!("{}:/src/a", here["id"].as_str().unwrap())]).ok().text(), "a");
    // What was imported goes on as a series, and its content is known.
    place.run(&["-q", "ingest", "--host", "web", "--as", "/src", "src"]).ok();
    assert_eq!(place.run(&["ls", "-R", "latest"]).ok().text().lines().count(), 2);
}

#[test]
fn a_password_that_is_missing_or_wrong_is_said() {
    let place = Place::new();
    restic(&place, 2);
    let import = |variables: &[(&str, &str)], more: &[&str]| {
        place.world.run_with(variables, &with(&place.options, &[&["import", "restic:restic"], more].concat()))
    };
    import(&[], &[]).fails(12, &["no password for restic", "--from-password-file"]);
    import(&[("YESTER_FROM_PASSWORD", "other")], &[]).fails(12, &["wrong password"]);
    place.world.file("pw", "secret\n");
    import(&[], &["--from-password-file", "pw"]).ok();
    import(&[("YESTER_FROM_PASSWORD", "other")], &["--from-password-command", "echo secret"]).ok();
    place.refused(&["restic:src"], 10, &["src", "no restic repository"]);
    place.refused(&["nothing:src"], 2, &["nothing:src", "restic:DIR"]);
}

#[test]
fn a_damaged_pack_takes_the_file_that_needs_it_and_no_more() {
    let place = Place::new();
    restic(&place, 2);
    place.world.file("src/good", "good ".repeat(10_000));
    place.sh("head -c 3000000 /dev/urandom > src/bad; restic -q -r restic backup src");
    let pack = place.sh("find restic/data -type f -size +1000k | head -1");
    let pack = place.world.at(pack.trim());
    let mut bytes = fs::read(&pack).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    place.sh("chmod -R u+w restic");
    fs::write(&pack, &bytes).unwrap();
    let run = place.import(&["restic:restic"]);
    assert_eq!((run.code, counts(&run)), (Some(3), [1, 0, 0, 1]), "{}", run.err);
    assert!(run.err.contains("/src/bad") && run.err.contains("MAC is wrong"), "{}", run.err);
    let listed = place.run(&["ls", "-R", "latest:/"]).ok().text();
    assert!(listed.contains("/src/good") && !listed.contains("/src/bad"), "{listed}");
    place.check();
}

#[test]
fn a_damaged_tree_or_snapshot_is_named() {
    let place = Place::new();
    restic(&place, 1);
    place.world.file("src/a/file", "x".repeat(500));
    place.sh("restic -q -r restic backup src; echo y > src/b; restic -q -r restic backup src; chmod -R u+w restic");
    let snapshot = place.sh("ls restic/snapshots | head -1");
    place.sh(&format!("truncate -s 20 restic/snapshots/{snapshot}"));
    let run = place.import(&["restic:restic"]);
    assert_eq!((run.code, counts(&run)), (Some(3), [1, 0, 1, 0]), "{}", run.err);
    assert!(run.err.contains(&snapshot[..8]), "{}", run.err);
    let place = Place::new();
    restic(&place, 1);
    place.world.file("src/a/file", "x".repeat(500));
    place.sh("restic -q -r restic backup src; rm -r restic/data");
    let run = place.import(&["restic:restic"]);
    assert_eq!((run.code, counts(&run)[3] > 0), (Some(3), true), "{}", run.err);
    assert!(run.err.contains("is not there"), "{}", run.err);
}

#[test]
fn what_no_index_says_packs_do() {
    let place = Place::new();
    restic(&place, 2);
    let src = three(&place);
    place.sh("chmod -R u+w restic; cd restic/index; truncate -s 100 $(ls | head -1); rm $(ls | tail -n +2)");
    let run = place.import(&["restic:restic"]).ok();
    assert_eq!(counts(&run), [3, 0, 0, 0]);
    assert!(run.err.contains("read from the packs"), "{}", run.err);
    let newest = place.snapshots().pop().unwrap();
    place.restore(newest["id"].as_str().unwrap(), newest["paths"][0].as_str().unwrap(), "ours");
    place.sh(&format!("cp -a {src}/sub alone"));
    super::same(place.world.home(), "alone", "ours");
}

/// Whenever it is killed, what is there is whole, and the next one goes on.
#[test]
fn an_import_that_is_killed_goes_on() {
    let place = Place::new();
    restic(&place, 2);
    place.sh("mkdir src; for n in $(seq 8); do head -c 200000 /dev/urandom > src/$n; restic -q -r restic backup src; done");
    let arguments = with(&place.options, &["--json", "import", "restic:restic"]);
    let mut command = place.world.command(&arguments);
    let mut child = command.env("YESTER_FROM_PASSWORD", "secret").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let imported = |line: &String| line.contains("\"imported\"");
    (0..2).for_each(|_| assert!(lines.by_ref().map(Result::unwrap).any(|line| imported(&line))));
    child.kill().unwrap();
    child.wait().unwrap();
    place.check();
    let run = place.import(&["restic:restic"]).ok();
    let [done, skipped, ..] = counts(&run);
    assert!(skipped >= 2 && done + skipped == 8, "{done} {skipped}");
    let here = place.snapshots();
    let times: std::collections::BTreeSet<&str> = here.iter().map(|one| one["time"].as_str().unwrap()).collect();
    assert_eq!((here.len(), times.len()), (8, 8));
    place.restore("latest", "/src", "ours");
    super::same(place.world.home(), "src", "ours");
    place.check();
}
