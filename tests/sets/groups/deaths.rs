//! Members that die, hang, fail or are late: the others go on within their limits, and the group says what is true.

use std::fs;

use rustix::process::Signal;

use super::cluster::{Cluster, Taking, until};
use crate::common::program::shown;

const PAIR: [&str; 2] = ["db1", "db2"];

/// Blocks the command that it is in until the file `go` is there, and says so with the file `here`.
const BLOCK: &str = "touch DIR/here; until test -e DIR/go; do sleep 0.02; done";

/// A cluster whose second member blocks in one of its commands, where both have come to by now.
fn blocked(place: &str, options: &[&str]) -> (Cluster, String, Taking, Taking) {
    let cluster = Cluster::new(&PAIR);
    cluster.write("db2", &[(place, &BLOCK.replace("DIR", &shown(&cluster.dir("db2"))))]);
    let id = cluster.create(options);
    let (first, second) = (cluster.join("db1", &id), cluster.join("db2", &id));
    until(|| cluster.dir("db2").join("here").exists(), "it blocks");
    (cluster, id, first, second)
}

#[test]
fn a_member_that_is_killed_holds_nobody_and_is_thawed() {
    // Where it is killed, what the other one ends with, and how both stand then.
    let rows = [
        // In its first hook: it has not come.
        ("BEFORE", "16s", 1, ["failed", "failed", "missing"]),
        // As it freezes, and the other one stands still.
        ("FREEZE", "16s", 1, ["failed", "failed", "failed"]),
        // As it is read: the part of the other one is there.
        ("STREAM", "300s", 0, ["failed", "completed", "failed"]),
    ];
    for (place, still, code, states) in rows {
        let (cluster, id, first, second) = blocked(place, &["--limit", "30s", "--still-limit", still]);
        second.signal(Signal::KILL);
        assert_eq!(second.end().code, None, "{place}");
        let first = first.end();
        assert_eq!(first.code, Some(code), "{place}: {}", first.err);
        // Nobody lives who would do it but the second process of the one that was killed.
        cluster.until_thawed();
        let waited = cluster.on("db1", &["group", "wait", &id]);
        assert_eq!(waited.code, Some(1), "{place}: {}", waited.err);
        assert_eq!(cluster.states(&id), states, "{place}");
        fs::write(cluster.dir("db2").join("go"), "").unwrap();
    }
}

#[test]
fn a_group_may_be_completed_without_those_who_do_not_come() {
    let cluster = Cluster::new(&["db1", "db2", "db3"]);
    let id = cluster.create(&["--limit", "30s", "--allow-missing"]);
    let taking = [cluster.join("db1", &id), cluster.join("db2", &id)];
    for member in taking {
        member.end().ok();
    }
    cluster.on("db1", &["group", "wait", &id]);
    let waited = cluster.on("db1", &["-q", "group", "wait", &id]);
    assert!(waited.code == Some(3) && waited.err.contains("without all: missing db3"), "{}", waited.err);
    assert_eq!(cluster.states(&id), ["incomplete", "completed", "completed", "missing"]);
    // Too late: it is refused, and nothing changes.
    cluster.join("db3", &id).end().fails(1, &["is over"]);
    assert_eq!(cluster.states(&id), ["incomplete", "completed", "completed", "missing"]);
    cluster
        .on("db1", &["group", "restore", &id, "--member", "db1", "--", "-t", "out"])
        .fails(1, &["no part of db3: it is missing"]);
    let without = ["group", "restore", &id, "--member", "db1", "--unsafe-without-missing", "--", "-t", "out"];
    cluster.on("db1", &without).ok();
}

#[test]
fn a_member_that_fails_ends_the_group_at_once() {
    // The limits are hours: nobody waits for them.
    for (place, command, words) in [("FREEZE", "false", "the hook freeze failed"), ("BEFORE", "false", "the hook before failed")]
    {
        let cluster = Cluster::new(&PAIR);
        cluster.write("db2", &[(place, command)]);
        let id = cluster.create(&["--limit", "5h", "--still-limit", "5h"]);
        let first = cluster.join("db1", &id);
        // Who comes when it is over is refused.
        cluster.until_said(&id, "0000.joined");
        let second = cluster.join("db2", &id).end();
        let first = first.end();
        assert!(second.code == Some(1) && second.err.contains(words), "{}", second.err);
        assert!(first.code == Some(1) && first.err.contains("the group was given up: db2 failed"), "{}", first.err);
        assert_eq!(cluster.states(&id), ["failed"; 3]);
        assert!(PAIR.iter().all(|member| !cluster.dir(member).join("frozen").exists()));
        assert!(cluster.on("db1", &["snapshots", "--json"]).ok().json().is_empty());
        // Whoever looks is told why.
        let shown = cluster.on("db1", &["group", "status", &id]).ok().text();
        assert!(shown.contains(words) && shown.contains("failed: db2 failed"), "{shown}");
    }
}

#[test]
fn whoever_stands_still_for_too_long_goes_on_and_has_no_part() {
    let (cluster, id, first, second) = blocked("STREAM", &["--still-limit", "40s", "--limit", "5h"]);
    // It hangs as it is read; its own limit ends that.
    let second = second.end();
    assert!(second.code == Some(1) && second.err.contains("longer than its limit"), "{}", second.err);
    assert!(!cluster.dir("db2").join("frozen").exists());
    first.end().ok();
    assert_eq!(cluster.states(&id), ["failed", "completed", "failed"]);
    assert_eq!(cluster.on("db1", &["snapshots", "--json"]).ok().json().len(), 1);
    fs::write(cluster.dir("db2").join("go"), "").unwrap();
}

#[test]
fn a_member_that_is_stopped_is_thawed_and_does_not_lie_later() {
    let (cluster, id, first, second) = blocked("STREAM", &["--still-limit", "40s", "--limit", "5h"]);
    second.signal(Signal::STOP);
    // The process itself cannot: another one does it.
    cluster.until_thawed();
    fs::write(cluster.dir("db2").join("go"), "").unwrap();
    second.signal(Signal::CONT);
    let second = second.end();
    assert!(second.code == Some(1) && second.err.contains("longer than its limit"), "{}", second.err);
    first.end().ok();
    assert_eq!(cluster.states(&id), ["failed", "completed", "failed"]);
}

#[test]
fn a_member_that_is_interrupted_thaws_and_says_so() {
    let (cluster, id, first, second) = blocked("FREEZE", &["--limit", "5h", "--still-limit", "5h"]);
    second.signal(Signal::TERM);
    let second = second.end();
    assert_eq!(second.code, Some(130), "{}", second.err);
    assert_eq!(first.end().code, Some(1));
    assert!(PAIR.iter().all(|member| !cluster.dir(member).join("frozen").exists()));
    assert_eq!(cluster.states(&id), ["failed"; 3]);
    fs::write(cluster.dir("db2").join("go"), "").unwrap();
}

#[test]
fn what_freezes_only_after_the_limit_is_thawed() {
    let cluster = Cluster::new(&["db1"]);
    // It does not end when it is asked to, and freezes when it was thawed already.
    let late = format!("trap '' TERM; sleep 4; touch {}", shown(&cluster.dir("db1").join("frozen")));
    cluster.write("db1", &[("FREEZE", &late)]);
    let id = cluster.create(&["--still-limit", "2s", "--limit", "5h"]);
    let ended = cluster.join("db1", &id).end();
    assert!(ended.code == Some(1) && ended.err.contains("longer than its limit"), "{}", ended.err);
    assert!(!cluster.dir("db1").join("frozen").exists());
    assert_eq!(cluster.states(&id), ["failed"; 2]);
}

#[test]
fn what_freezes_only_after_the_second_process_thawed_is_thawed_again() {
    let cluster = Cluster::new(&["db1"]);
    let (frozen, go) = (cluster.dir("db1").join("frozen"), cluster.dir("db1").join("go"));
    let dir = shown(&cluster.dir("db1"));
    let late = format!("{}; touch {dir}/frozen {dir}/late", BLOCK.replace("DIR", &dir));
    cluster.write("db1", &[("FREEZE", &late)]);
    let id = cluster.create(&["--still-limit", "15s", "--limit", "5h"]);
    let taking = cluster.join("db1", &id);
    until(|| cluster.dir("db1").join("here").exists(), "it freezes");
    taking.signal(Signal::STOP);
    cluster.until_thawed();
    fs::write(&go, "").unwrap();
    until(|| cluster.dir("db1").join("late").exists(), "it is frozen after that");
    cluster.until_thawed();
    // And when the first process ends without a word.
    fs::write(&frozen, "").unwrap();
    taking.signal(Signal::KILL);
    cluster.until_thawed();
    taking.end();
}

#[test]
fn a_hook_that_fails_to_thaw_is_run_once_more() {
    let cluster = Cluster::new(&["db1"]);
    let dir = shown(&cluster.dir("db1"));
    cluster.write(
        "db1",
        &[("rm -f DIR/frozen", &format!("test -e {dir}/once || {{ touch {dir}/once; exit 1; }}; rm -f {dir}/frozen"))],
    );
    let id = cluster.create(&[]);
    let ended = cluster.join("db1", &id).end();
    assert!(ended.err.contains("it is run once more"), "{}", ended.err);
    cluster.until_thawed();
}
