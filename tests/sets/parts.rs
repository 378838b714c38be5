//! Sets: parts, what failed of them, hooks, through the program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::until;
use crate::common::program;

use std::fs;
use std::process::Stdio;

use program::{World, shown};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A world with a repository and a configuration; `HOME` stands for the home directory.
fn world(set: &str) -> World {
    let world = World::new();
    world.file("etc/one", "1");
    let text = format!("[repository]\nlocation = \"HOME/main\"\nkey-file = \"HOME/main.key\"\n{set}");
    world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    world.run(&["init"]).ok();
    world
}

fn newest(world: &World) -> Value {
    world.run(&["snapshots", "--json"]).json().pop().unwrap()
}

fn lines(world: &World, name: &str) -> Vec<String> {
    fs::read_to_string(world.at(name)).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn parts_say_what_became_of_each_source() {
    let world = world(
        r#"
[sets.a]
paths = ["HOME/etc"]
[[sets.a.streams]]
at = "/good.sql"
command = ["echo", "fine"]
[[sets.a.streams]]
at = "/bad.sql"
command = ["sh", "-c", "echo half; echo no such database >&2; exit 2"]
"#,
    );
    let run = world.run(&["ingest", "--set", "a", "--json"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.err.contains("/bad.sql failed"), "{}", run.err);
    let told = run.json().pop().unwrap();
    let snapshot = newest(&world);
    assert_eq!(snapshot["parts"], told["parts"]);
    let parts = snapshot["parts"].as_array().unwrap();
    let states: Vec<_> =
        parts.iter().map(|part| [&part["kind"], &part["path"], &part["state"]].map(|v| v.as_str().unwrap_or(""))).collect();
    assert_eq!(states, [["paths", "", "complete"], ["stream", "/good.sql", "complete"], ["stream", "/bad.sql", "failed"]]);
    assert_eq!((&parts[0]["bytes"], &parts[1]["bytes"], &parts[2]["bytes"]), (&1.into(), &5.into(), &5.into()));
    assert!(parts[2]["message"].as_str().unwrap().contains("exit status 2: no such database"), "{}", parts[2]);
    assert_eq!(snapshot["set"], "a");
    assert!(snapshot["set_text"].as_str().unwrap().contains("at = \"/bad.sql\""), "{snapshot}");
    assert!(world.run(&["snapshots"]).ok().text().contains("(without /bad.sql)"));
    let listed = world.run(&["ls", "latest"]).ok();
    assert!(
        listed.err.contains("/bad.sql: failed, and is not in the snapshot") && !listed.text().contains("bad.sql"),
        "{}",
        listed.err
    );
    // In a mount anything of the snapshot says so.
    let point = world.at("mount");
    fs::create_dir(&point).unwrap();
    world.run(&["mount", "--native", "off", &shown(&point)]).ok();
    let mut buffer = [0; 1000];
    let got = rustix::fs::getxattr(
        point.join("latest").join(shown(&world.at("etc")).trim_start_matches('/')),
        "user.yester.parts",
        &mut buffer,
    );
    world.run(&["umount", &shown(&point)]).ok();
    let text = String::from_utf8_lossy(&buffer[..got.unwrap()]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..2], ["complete paths", "complete stream /good.sql"], "{text}");
    assert!(lines[2].starts_with("failed stream /bad.sql: ") && lines[2].contains("exit status 2"), "{text}");
    // One that is required is needed for a snapshot.
    let file = world.at(".config/yester/config.toml");
    let text = fs::read_to_string(&file).unwrap().replace("at = \"/bad.sql\"", "at = \"/bad.sql\"\nrequired = true");
    fs::write(&file, text).unwrap();
    let run = world.run(&["ingest", "--set", "a"]);
    assert!(run.code == Some(1) && run.err.contains("/bad.sql is required, and failed"), "{}", run.err);
    assert_eq!(world.run(&["snapshots", "--json"]).ok().json().len(), 1);
}

#[test]
fn a_stream_that_takes_longer_than_its_limit_has_failed() {
    let world = world(
        r#"
[sets.a]
paths = ["HOME/etc"]
[[sets.a.streams]]
at = "/silent.sql"
command = ["sh", "-c", "echo half; exec sleep 1000"]
timeout = "0s"
[[sets.a.streams]]
at = "/closed.sql"
command = ["sh", "-c", "echo half; exec >&-; exec sleep 1000"]
timeout = "1s"
[[sets.a.streams]]
at = "/in-time.sql"
command = ["echo", "all"]
timeout = "5h"
"#,
    );
    let run = world.run(&["ingest", "--set", "a"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    for (name, limit) in [("silent", 0), ("closed", 1)] {
        let told = format!("/{name}.sql: nothing of it is stored: it took longer than {limit} s, and was ended");
        assert!(run.err.contains(&told), "{}", run.err);
    }
    let listed = world.run(&["ls", "-R", "latest"]).ok().text();
    assert!(listed.contains("in-time.sql") && !listed.contains("silent") && !listed.contains("closed"), "{listed}");
}

const HOOKS: &str = r#"
[sets.a]
paths = ["HOME/etc"]
[sets.a.hooks]
before = "echo before $YESTER_SET $YESTER_HOOK >> HOME/log; echo said; echo heard >&2"
freeze = "echo freeze >> HOME/log"
thaw = "echo thaw >> HOME/log"
after = "echo after $YESTER_STATE $YESTER_SNAPSHOT >> HOME/log"
failed = "echo failed $YESTER_STATE >> HOME/log"
always = ["sh", "-c", "echo always $YESTER_STATE >> HOME/log"]
"#;

#[test]
fn hooks_run_around_the_ingest() {
    let world = world(HOOKS);
    let run = world.run(&["ingest", "--set", "a"]).ok();
    assert!(run.err.contains("hook before: said") && run.err.contains("hook before: heard"), "{}", run.err);
    let snapshot = newest(&world);
    let after = format!("after complete {}", snapshot["id"].as_str().unwrap());
    assert_eq!(lines(&world, "log"), ["before a before", "freeze", "thaw", &after, "always complete"]);
    assert!(snapshot["frozen"].as_u64().unwrap() > 0 && run.text().contains(", frozen for "), "{}", run.text());
    // A dry run runs nothing.
    world.run(&["ingest", "--set", "a", "-n"]).ok();
    assert_eq!(lines(&world, "log").len(), 5);
}

/// The log of a run of the set with one hook replaced, and the run.
fn with_hook(world: &World, from: &str, to: &str) -> (program::Run, Vec<String>) {
    let file = world.at(".config/yester/config.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(from, to)).unwrap();
    let _ = fs::remove_file(world.at("log"));
    let run = world.run(&["ingest", "--set", "a"]);
    fs::write(&file, text).unwrap();
    (run, lines(world, "log"))
}

#[test]
fn a_hook_that_fails_is_told_and_what_was_frozen_is_thawed() {
    let world = world(HOOKS);
    let (run, log) = with_hook(&world, "echo heard >&2", "exit 4");
    assert!(run.code == Some(1) && run.err.contains("the hook before failed: exit status 4: said"), "{}", run.err);
    assert_eq!(log, ["before a before", "failed failed", "always failed"]);
    let (run, log) = with_hook(&world, "echo freeze >> HOME/log".replace("HOME", &shown(world.home())).as_str(), "exit 5");
    assert!(run.code == Some(1) && run.err.contains("the hook freeze failed: exit status 5"), "{}", run.err);
    assert_eq!(log, ["before a before", "thaw", "failed failed", "always failed"]);
    assert!(world.run(&["snapshots", "--json"]).ok().json().is_empty());
    // The snapshot is there when these fail.
    for (count, hook) in [(1, "after"), (2, "thaw"), (3, "always")] {
        let (run, log) = with_hook(&world, &format!("echo {hook} "), &format!("exit 6; echo {hook} "));
        let told = format!("the snapshot is stored, but the hook {hook} failed: exit status 6");
        assert!(run.code == Some(3) && run.err.contains(&told), "{}", run.err);
        assert_eq!(world.run(&["snapshots", "--json"]).ok().json().len(), count);
        assert!(log.contains(&"freeze".to_owned()));
    }
    let (run, _) = with_hook(&world, "before = \"", "before = { timeout = \"0s\", command = [\"sleep\", \"1000\"] } #");
    assert!(run.code == Some(1) && run.err.contains("took longer than 0 s"), "{}", run.err);
}

#[test]
fn an_interruption_thaws_and_cleans_up() {
    let script = "touch HOME/began; exec sleep 1000";
    let world = world(&format!("{HOOKS}[[sets.a.streams]]\nat = \"/x\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"));
    let mut command = world.command(&["ingest", "--set", "a"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until(|| world.at("began").exists());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines(&world, "log"), ["before a before", "freeze", "thaw", "failed failed", "always failed"]);
}

/// What stands still has the file `frozen`. Each thaw takes a while, and says whether it is alone.
const GUARDED: &str = r#"
[sets.a]
paths = ["HOME/etc"]
[sets.a.hooks]
freeze = "FREEZE"
thaw = "mkdir HOME/thawing || echo twice >> HOME/log; THAW; rm -f HOME/frozen; rmdir HOME/thawing; echo thawed >> HOME/log"
[[sets.a.streams]]
at = "/x"
command = ["sh", "-c", "STREAM"]
"#;

/// Kills the ingest of a set, with these commands in its hooks and its stream, when the file `here` is there.
fn killed_in(freeze: &str, stream: &str, thaw: &str) -> World {
    let text = GUARDED.replace("FREEZE", freeze).replace("STREAM", stream).replace("THAW", thaw);
    let world = world(&text);
    let mut command = world.command(&["ingest", "--set", "a"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until(|| world.at("here").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    world
}

#[test]
fn what_was_frozen_is_thawed_when_the_ingest_is_killed() {
    // Blocks its command, which says so by a file, until the file `go` is there.
    let block = "touch HOME/here; until test -e HOME/go; do sleep 0.02; done";
    let freeze = "touch HOME/frozen";
    // While it is read.
    let world = killed_in(freeze, block, ":");
    until(|| lines(&world, "log") == ["thawed"]);
    assert!(!world.at("frozen").exists());
    world.file("go", "");
    let runs = world.run(&["runs"]).ok();
    assert!(runs.text().contains("0 runs") && runs.err.matches("is gone without a word").count() == 1, "{}", runs.err);
    // While it freezes: what does so later is thawed, too.
    let world = killed_in(&format!("{block}; {freeze}; touch HOME/late"), "echo x", ":");
    until(|| lines(&world, "log") == ["thawed"]);
    world.file("go", "");
    until(|| world.at("late").exists());
    until(|| lines(&world, "log") == ["thawed"; 2]);
    assert!(!world.at("frozen").exists());
    // While it thaws: that comes to its end first.
    let world = killed_in(freeze, "echo x", block);
    world.file("go", "");
    until(|| lines(&world, "log").len() >= 2);
    assert_eq!(lines(&world, "log"), ["thawed"; 2]);
    assert!(!world.at("frozen").exists());
    // An ingest that comes to its end leaves nobody who would thaw once more.
    world.run(&["ingest", "--set", "a"]).ok();
    assert_eq!(lines(&world, "log"), ["thawed"; 3]);
}
