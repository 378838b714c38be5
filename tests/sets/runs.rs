//! Runs: what is written of ingests of sets, restores, checks and prunes; and guards, through the program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::until;
use crate::common::program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use program::{World, shown};
use serde_json::Value;

fn world() -> World {
    let world = World::new();
    world.file("etc/one", "1");
    let text = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.a]
paths = ["HOME/etc"]
hooks = { before = "echo said; exit $(cat HOME/code)" }
[sets.b]
paths = ["HOME/etc"]
hooks = { before = "until [ -e HOME/go ]; do sleep 0.05; done" }
"#;
    world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    world.file("code", "0");
    world.run(&["init"]).ok();
    world
}

fn runs(world: &World, args: &[&str]) -> Vec<Value> {
    world.run(&[&["runs", "--json"], args].concat()).ok().json()
}

#[test]
fn what_matters_later_is_written_down() {
    let world = world();
    assert!(runs(&world, &[]).is_empty());
    world.run(&["ingest", "--set", "a"]).ok();
    // What is ingested by hand is told by its snapshot.
    world.run(&["ingest", "etc"]).ok();
    world.file("code", "3");
    assert_eq!(world.run(&["ingest", "--set", "a"]).code, Some(1));
    world.run(&["check"]).ok();
    world.run(&["restore", "latest", "--target", "out"]).ok();
    world.run(&["restore", "latest", "--target", "out", "-n"]).ok();
    world.run(&["prune"]).ok();
    let all = runs(&world, &[]);
    let told: Vec<_> = all.iter().map(|run| (run["kind"].as_str().unwrap(), run["state"].as_str().unwrap())).collect();
    let expected =
        [("ingest", "complete"), ("ingest", "failed"), ("check", "complete"), ("restore", "complete"), ("prune", "complete")];
    assert_eq!(told, expected);
    let snapshots = world.run(&["snapshots", "--json"]).ok().json();
    assert_eq!((&all[0]["snapshot_id"], &all[0]["set"]), (&snapshots[0]["id"], &"a".into()));
    assert_eq!(all[3]["target"], shown(&world.at("out")));
    assert!(all[1]["message"].as_str().unwrap().contains("the hook before failed: exit status 3"), "{}", all[1]);
    let step = &all[1]["steps"][0];
    assert!(step["name"] == "before" && step["message"].as_str().unwrap().contains("exit status 3"), "{step}");
    let id = all[1]["short_id"].as_str().unwrap();
    assert_eq!(world.run(&["runs", "log", id]).ok().text(), "hook before: said\n");
    let text = world.run(&["runs", "show", id]).ok().text();
    assert!(text.contains("ingest, failed") && text.contains("step before at"), "{text}");
    assert_eq!(runs(&world, &["--set", "a", "--latest", "1"]).len(), 1);
    assert_eq!(runs(&world, &["--kind", "check"]).len(), 1);
    assert!(world.run(&["runs"]).ok().text().contains("5 runs"));
    world.run(&["runs", "show", "ffffffff"]).fails(1, &["there is no run ffffffff"]);
    world.run(&["runs", "show", "x"]).fails(2, &["at least 4 digits"]);
}

#[test]
fn damage_and_a_missing_class_are_no_obstacle() {
    let world = world();
    world.run(&["ingest", "--set", "a"]).ok();
    let object = fs::read_dir(world.at("main/runs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&object).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&object, bytes).unwrap();
    world.run(&["runs"]).fails(1, &["runs/"]);
    world.run(&["prune"]).ok();
    assert_eq!(runs(&world, &[]).len(), 1, "the damaged one is gone, that of the prune is there");
    // An older repository has no such class.
    fs::remove_dir_all(world.at("main/runs")).unwrap();
    assert!(runs(&world, &[]).is_empty());
    world.run(&["check"]).ok();
    assert_eq!(runs(&world, &[]).len(), 1);
}

#[test]
fn a_restore_is_refused_while_a_guard_is_alive() {
    let world = world();
    world.run(&["ingest", "--set", "a"]).ok();
    // An address of its own: no other test gets the port of it afterwards.
    let listener = TcpListener::bind("127.0.0.83:0").unwrap();
    let guard = format!("tcp://{}", listener.local_addr().unwrap());
    let restore = ["restore", "latest", "--target", "out", "--refuse-while", "mounted:/nonexistent", "--refuse-while", &guard];
    world.run(&restore).fails(13, &["refused, and nothing was touched", "something answers at", &guard]);
    assert!(!world.at("out").exists());
    world.run(&[&restore[..], &["--even-while-alive", &guard]].concat()).ok();
    assert!(world.at("out").exists());
    let address = listener.local_addr().unwrap();
    drop(listener);
    // A process that another test is starting has it until that runs a program of its own.
    until(|| TcpStream::connect(address).is_err());
    fs::remove_dir_all(world.at("out")).unwrap();
    world.run(&restore).ok();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = world.file("pid", child.id().to_string());
    let guard = format!("pidfile:{}", shown(&pid));
    let refused = ["restore", "latest", "--target", "out", "--refuse-while", &guard];
    world.run(&refused).fails(13, &[&format!("process {} (sleep) is alive, since", child.id())]);
    child.kill().unwrap();
    child.wait().unwrap();
    world.run(&refused).ok();
    world.run(&["restore", "latest", "--target", "out", "--refuse-while", "door:open"]).fails(2, &["is no guard"]);
}

#[test]
fn a_set_goes_back_by_its_own_way() {
    let world = World::new();
    let live = world.at("live");
    world.file("live/one", "1");
    let text = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.a]
paths = ["HOME/live"]
[[sets.a.streams]]
at = "/dumps/db.sql"
command = ["cat", "HOME/db"]
restore = ["sh", "-c", "cat > HOME/back; echo restored $YESTER_SET from $YESTER_FROM_HOST"]
[[sets.a.streams]]
at = "/dumps/[plain]"
command = ["echo", "plain"]
[sets.a.restore]
refuse-while = ["pidfile:HOME/pid"]
[[sets.a.restore.steps]]
name = "start"
command = ["sh", "-c", "echo started >> HOME/log; exit $(cat HOME/code)"]
[[sets.a.restore.steps]]
name = "rename"
command = ["touch", "HOME/renamed"]
when = "host-changed"
"#;
    world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    world.file("code", "0");
    let dump = (0..50_000).map(|n| format!("{n}\n")).collect::<String>();
    world.file("db", &dump);
    world.run(&["init"]).ok();
    world.run(&["ingest", "--set", "a"]).ok();

    fs::remove_file(live.join("one")).unwrap();
    let dry = world.run(&["restore", "--set", "a", "-n"]).ok().text();
    assert!(dry.contains("would run for stream /dumps/db.sql: sh -c") && dry.contains("step start"), "{dry}");
    assert!(!world.at("back").exists() && !live.join("one").exists());
    world.file("pid", std::process::id().to_string());
    world.run(&["restore", "--set", "a"]).fails(13, &["pidfile:"]);
    assert!(!live.join("one").exists());
    fs::remove_file(world.at("pid")).unwrap();

    // To another place everything comes as files, and nothing is run.
    world.run(&["restore", "--set", "a", "--target", "out"]).ok();
    let out = |path: &str| fs::read_to_string(format!("{}{path}", shown(&world.at("out")))).unwrap();
    assert_eq!((out("/dumps/db.sql"), out("/dumps/[plain]")), (dump.clone(), "plain\n".to_owned()));
    assert!(!world.at("back").exists());

    // One part, in place.
    let run = world.run(&["restore", "--set", "a", "--part", "/dumps/db.sql"]).ok();
    assert!(run.err.contains("restored a from "), "{}", run.err);
    assert_eq!(fs::read_to_string(world.at("back")).unwrap(), dump);
    assert!(!live.join("one").exists() && !world.at("log").exists());
    world.run(&["restore", "--set", "a", "--part", "x"]).fails(2, &["x is no part of the set: there are paths, /dumps/db.sql"]);
    let run = world.run(&["restore", "--set", "a", "--part", "paths"]).ok();
    assert!(live.join("one").exists(), "{}", run.err);

    // A command that fails stops what comes after it.
    let file = world.at(".config/yester/config.toml");
    let good = fs::read_to_string(&file).unwrap();
    for (command, why) in [("exit 4; cat > ", "exit status 4"), ("head -c 100 > ", "did not read all of its input")] {
        fs::write(&file, good.replace("cat > ", command)).unwrap();
        let run = world.run(&["restore", "--set", "a", "--part", "/dumps/db.sql"]);
        assert!(run.code == Some(3) && run.err.contains("/dumps/db.sql failed") && run.err.contains(why), "{}", run.err);
    }
    // A host that has no configuration any more has the set of the snapshot.
    fs::write(&file, good.split("[sets.a]").next().unwrap()).unwrap();
    world.file("code", "7");
    fs::remove_file(world.at("back")).unwrap();
    let part = ["restore", "--set", "a", "--part", "/dumps/db.sql"];
    world.run(&part).ok();
    assert_eq!(fs::read_to_string(world.at("back")).unwrap(), dump);
    let newest = runs(&world, &["--latest", "1"]).pop().unwrap();
    assert_eq!(
        (&newest["kind"], &newest["set"], &newest["steps"][0]["name"]),
        (&"restore".into(), &"a".into(), &"/dumps/db.sql".into())
    );
    world.run(&["restore", "--set", "b"]).fails(1, &["there is no snapshot of the set b"]);
}

/// A restore that is killed while a command takes a stream: that is killed as well, and never sees the end of half of it.
#[test]
fn a_command_does_not_take_half_of_a_stream_for_all_of_it_when_the_restore_is_killed() {
    let world = World::new();
    let text = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.a]
[[sets.a.streams]]
at = "/db.sql"
command = ["cat", "HOME/db"]
restore = ["sh", "-c", "echo $$ > HOME/pid; head -c 1000 > HOME/head; touch HOME/began; until test -e HOME/go; do sleep 0.01; done; cat > HOME/rest; touch HOME/ended"]
"#;
    world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    let dump = (0..2_000_000).map(|n| format!("{n}\n")).collect::<String>();
    world.file("db", &dump);
    world.run(&["init"]).ok();
    world.run(&["ingest", "--set", "a"]).ok();
    let mut command = world.command(&["restore", "--set", "a"]);
    let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    until(|| world.at("began").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    world.file("go", "");
    let pid: u32 = fs::read_to_string(world.at("pid")).unwrap().trim().parse().unwrap();
    until(|| yester::sys::process::start_time(pid).is_none());
    assert!(!world.at("ended").exists());
    // One that is not killed comes to its end.
    world.run(&["restore", "--set", "a"]).ok();
    assert!(world.at("ended").exists());
    let (head, rest) = (fs::read(world.at("head")).unwrap(), fs::read(world.at("rest")).unwrap());
    // What `head` has read beyond is in neither.
    assert!(dump.as_bytes().starts_with(&head) && dump.as_bytes().ends_with(&rest) && !rest.is_empty());
}

#[test]
fn a_run_that_is_under_way_is_followed_to_its_end() {
    let world = world();
    let begin = || {
        let mut command = world.command(&["ingest", "--set", "b"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let under_way = || runs(&world, &[]).into_iter().filter(|run| run["message_type"] == "run_under_way").collect::<Vec<_>>();
    let mut ingest = begin();
    until(|| !under_way().is_empty());
    let found = under_way().remove(0);
    assert_eq!((&found["kind"], &found["set"], &found["state"]), (&"ingest".into(), &"b".into(), &"running".into()));
    assert_eq!(found["pid"], ingest.id());
    assert!(world.run(&["runs"]).ok().text().contains("running"));
    let mut follow = world.command(&["runs", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("ingest of set b since "));
    world.file("go", "");
    assert!(ingest.wait().unwrap().success());
    let last = lines.map(|line| line.unwrap()).last().unwrap();
    assert!(last.contains(": complete, run "), "{last}");
    assert!(follow.wait().unwrap().success());
    assert!(under_way().is_empty());

    // One that is killed says nothing.
    fs::remove_file(world.at("go")).unwrap();
    let mut ingest = begin();
    until(|| !under_way().is_empty());
    let mut follow = world.command(&["runs", "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    ingest.kill().unwrap();
    ingest.wait().unwrap();
    world.file("go", "");
    let last: Value = serde_json::from_str(&lines.map(|line| line.unwrap()).last().unwrap()).unwrap();
    assert_eq!((&last["message_type"], &last["state"]), (&"run_under_way".into(), &"killed".into()));
    assert!(follow.wait().unwrap().success());
    assert!(fs::read_dir(world.at(".local/state/yester/under-way")).unwrap().next().is_none());
    let nothing = world.run(&["runs", "--follow"]).ok();
    assert!(nothing.text().is_empty());
}

#[test]
fn a_restore_reports_what_is_only_here_and_only_in_the_snapshot() {
    let world = world();
    world.file("etc/two", "22");
    world.run(&["ingest", "--set", "a"]).ok();
    world.file("etc/ghost", "not in the snapshot");
    world.file("beside", "not in what is restored");
    fs::remove_file(world.at("etc/one")).unwrap();
    let etc = shown(&world.at("etc"));
    let all = world.run(&["restore", "latest", "--target", "/", "--report"]).ok().text();
    let reported: Vec<_> = all.lines().filter(|line| line.starts_with(['+', '-', 'M'])).collect();
    assert_eq!(reported, [format!("+ {etc}/ghost (19 B)")], "{all}");
    let part = ["restore", &format!("latest:{etc}"), "--target", "out", "--exclude", "two", "--report", "--json"];
    let changes = world.run(&part).ok().json();
    let changes: Vec<_> = changes.iter().filter(|line| line["message_type"] == "change").collect();
    assert_eq!(changes.len(), 1);
    assert_eq!((&changes[0]["action"], &changes[0]["path"]), (&"removed".into(), &shown(&world.at("out/two")).into()));
    world.run(&["restore", "latest", "--target", "out", "--report", "--dry-run"]).fails(2, &["--report"]);
}
