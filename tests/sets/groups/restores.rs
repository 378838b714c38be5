//! Groups that are restored: by one host, or by all or none.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use yester::jobs::groups::{self, GroupMember};
use yester::model::{GroupEntry, GroupRound, GroupSlot, GroupStep, SnapshotId};

use super::cluster::Cluster;
use crate::common::program::{finish, shown};

const PAIR: [&str; 2] = ["db1", "db2"];

/// A cluster with a group in which both members have the counter 7; now they have 9.
fn taken() -> (Cluster, String) {
    let cluster = Cluster::new(&PAIR);
    let write = |count: &str| PAIR.iter().for_each(|m| fs::write(cluster.dir(m).join("data/counter"), count).unwrap());
    write("7");
    let id = cluster.create(&[]);
    cluster.all(&id).into_iter().for_each(|run| drop(run.ok()));
    write("9");
    (cluster, id)
}

fn counters(cluster: &Cluster) -> Vec<String> {
    PAIR.iter().map(|member| fs::read_to_string(cluster.dir(member).join("data/counter")).unwrap()).collect()
}

#[test]
fn a_host_restores_its_own_part() {
    let (cluster, id) = taken();
    cluster.on("db1", &["group", "restore", &id, "--member", "db1", "--", "--dry-run"]).ok();
    assert_eq!(counters(&cluster), ["9", "9"]);
    cluster.on("db1", &["group", "restore", &id, "--member", "db1"]).ok();
    assert_eq!(counters(&cluster), ["7", "9"]);
    cluster.on("db1", &["group", "restore", &id, "--member", "db3"]).fails(1, &["has no member db3", "db1, db2"]);
    // A part that is forgotten is missing: nothing is touched.
    let snapshot = cluster.status(&id)["members"][0]["snapshot_id"].as_str().unwrap().to_owned();
    cluster.on("db1", &["forget", "--unsafe-allow-remove-all", &snapshot]);
    let refused = cluster.on("db2", &["group", "restore", &id, "--member", "db2"]);
    refused.fails(1, &["no part of db1: its snapshot is forgotten", "--unsafe-without-missing"]);
    assert_eq!(counters(&cluster), ["7", "9"]);
    cluster.on("db2", &["group", "restore", &id, "--member", "db2", "--unsafe-without-missing"]).ok();
    assert_eq!(counters(&cluster), ["7", "7"]);
}

/// Both take part in a restore under the names of its members; what they ended with.
fn both(cluster: &Cluster, restore: &str, names: [&str; 2]) -> [crate::common::program::Run; 2] {
    std::thread::scope(|scope| {
        [0, 1]
            .map(|at| scope.spawn(move || cluster.on(PAIR[at], &["group", "restore", restore, "--member", names[at]])))
            .map(|thread| thread.join().unwrap())
    })
}

#[test]
fn all_hosts_exchange() {
    let (cluster, id) = taken();
    let args = ["-q", "group", "restore", &id, "--to", "db1=new1", "--to", "db2=new2"];
    let restore = cluster.on("db1", &args).ok().text().trim().to_owned();
    for run in both(&cluster, &restore, ["new1", "new2"]) {
        run.ok();
    }
    assert_eq!(counters(&cluster), ["7", "7"]);
    let status = cluster.status(&restore);
    assert_eq!((&status["kind"], &status["state"], &status["of"]), (&"restore".into(), &"completed".into(), &id.as_str().into()));
    assert_eq!(status["members"][1]["restores"], "db2");
    cluster.on("db1", &["group", "restore", &restore, "--to", "db1=x"]).fails(2, &["name the group itself"]);
    cluster.on("db1", &["group", "restore", &id, "--to", "db1"]).fails(2, &["MEMBER=HOST"]);
    cluster.on("db1", &["group", "restore", &id, "--to", "db8=x"]).fails(1, &["no member db8"]);
}

#[test]
fn or_none_does() {
    let (cluster, id) = taken();
    let open = || cluster.on("db1", &["-q", "group", "restore", &id, "--open"]).ok().text().trim().to_owned();
    // The second one cannot stage: nothing is exchanged anywhere.
    let kept = cluster.dir("db2").join(".yester-old-data");
    let restore = open();
    let blocked = shown(&cluster.dir("db2").join("data"));
    let alive = ["group", "restore", &restore, "--member", "db2", "--", "--refuse-while", &format!("pidfile:{blocked}.pid")];
    fs::write(format!("{blocked}.pid"), std::process::id().to_string()).unwrap();
    let [first, second] = std::thread::scope(|scope| {
        let first = scope.spawn(|| cluster.on("db1", &["group", "restore", &restore, "--member", "db1"]));
        let second = scope.spawn(|| cluster.on("db2", &alive));
        [first, second].map(|thread| thread.join().unwrap())
    });
    assert_eq!(second.code, Some(13), "{}", second.err);
    // If it came only after the other one had failed, there was nothing left to take part in.
    let why = ["given up: db2 failed", "is over"];
    assert!(first.code == Some(1) && why.iter().any(|why| first.err.contains(why)), "{}", first.err);
    assert_eq!(counters(&cluster), ["9", "9"]);
    assert!(!kept.exists());
    assert_eq!(cluster.states(&restore), ["failed"; 3]);
    // Nothing of it is in the way of the next one.
    for run in both(&cluster, &open(), PAIR) {
        run.ok();
    }
    assert_eq!(counters(&cluster), ["7", "7"]);
}

#[test]
fn what_was_exchanged_goes_back_when_another_fails_after_it() {
    let (cluster, id) = taken();
    // A stream goes into its command after the exchange: that of the second member fails.
    cluster.write("db2", &[("STREAM", "echo x")]);
    let config = cluster.dir("db2").join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace("allow-empty = true", "restore = [\"false\"]");
    fs::write(&config, text).unwrap();
    let again = cluster.create(&[]);
    cluster.all(&again).into_iter().for_each(|run| drop(run.ok()));
    PAIR.iter().for_each(|m| fs::write(cluster.dir(m).join("data/counter"), "11").unwrap());
    let restore = cluster.on("db1", &["-q", "group", "restore", &again, "--open"]).ok().text().trim().to_owned();
    let [first, second] = both(&cluster, &restore, PAIR);
    assert_ne!(second.code, Some(0));
    assert!(first.code == Some(1) && first.err.contains("given up: db2 failed"), "{}", first.err);
    assert_eq!(counters(&cluster), ["11", "11"]);
    assert_eq!(cluster.states(&restore)[0], "failed");
    assert_eq!(cluster.states(&id), ["completed"; 3]);
}

#[test]
fn what_is_not_complete_is_taken_back_by_all() {
    let cluster = Cluster::new(&PAIR);
    let counter = cluster.dir("db2").join("data/counter");
    std::os::unix::fs::chown(&counter, Some(1234), None).unwrap();
    let id = cluster.create(&[]);
    cluster.all(&id).into_iter().for_each(|run| drop(run.ok()));
    PAIR.iter().for_each(|m| fs::write(cluster.dir(m).join("data/counter"), "11").unwrap());
    let restore = cluster.on("db1", &["-q", "group", "restore", &id, "--open"]).ok().text().trim().to_owned();
    // The second one exchanges, and cannot give the file to its owner.
    let args = |member| ["group", "restore", &restore, "--member", member];
    let [first, second] = std::thread::scope(|scope| {
        let first = scope.spawn(|| cluster.on("db1", &args("db1")));
        let second = scope.spawn(|| {
            let restricted = cluster.command("db2", &args("db2"));
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set", "-chown"]).arg(restricted.get_program()).args(restricted.get_args());
            command.envs(restricted.get_envs().filter_map(|(name, value)| Some((name, value?))));
            finish(command.current_dir(restricted.get_current_dir().unwrap()).stdin(Stdio::null()))
        });
        [first, second].map(|thread| thread.join().unwrap())
    });
    assert!(second.code == Some(3) && second.err.contains("could not be set"), "{}", second.err);
    assert!(second.err.contains("what was exchanged was taken back"), "{}", second.err);
    assert!(first.code == Some(1) && first.err.contains("given up: db2 failed"), "{}", first.err);
    assert_eq!(counters(&cluster), ["11", "11"]);
    assert_eq!(cluster.states(&restore), ["failed"; 3]);
}

/// Both members of a restore that is opened now, after the barrier; the second one does not wait.
fn exchanging(cluster: &Cluster, id: &str) -> (String, [GroupMember; 2]) {
    let restore = cluster.on("db1", &["-q", "group", "restore", id, "--open"]).ok().text().trim().to_owned();
    let repo = Arc::new(cluster.world.open_repository());
    let member = |name: &str, stop| {
        let id = SnapshotId::parse(&restore).unwrap();
        GroupMember::new(&repo, id, (GroupRound::RESTORE, name.as_bytes()), &Arc::new(AtomicBool::new(stop))).unwrap()
    };
    let members = [member("db1", false), member("db2", true)];
    members.iter().for_each(|member| member.join().unwrap());
    members.iter().for_each(|member| member.say(GroupStep::Frozen).unwrap());
    members[0].wait_for(GroupStep::Barrier).unwrap();
    (restore, members)
}

#[test]
fn a_member_that_waits_no_longer_decides_or_follows() {
    let (cluster, id) = taken();
    // It is interrupted after it has said that it exchanged: the other one, which comes later, takes back as well.
    let (restore, [first, second]) = exchanging(&cluster, &id);
    assert_eq!(second.exchanged().unwrap_err().kind(), yester::ErrorKind::Interrupted);
    let verdict = first.exchanged().unwrap();
    assert!(!verdict.goes_on && String::from_utf8_lossy(&verdict.message).contains("db2 does not wait any longer"));
    assert_eq!(cluster.states(&restore), ["failed"; 3]);
    // It cannot say that it exchanged, and the others keep: then it does.
    let (restore, [_, second]) = exchanging(&cluster, &id);
    fs::write(cluster.world.at(&format!("repo/groups/{restore}.0001.cut")), "garbage").unwrap();
    let kept = GroupEntry { goes_on: true, members: vec![0, 1], ..groups::saying(GroupSlot::of_round(GroupStep::Verdict)) };
    yester::repo::groups::say(&cluster.world.open_repository(), SnapshotId::parse(&restore).unwrap(), &kept).unwrap();
    assert!(second.exchanged().unwrap().goes_on);
}

#[test]
fn parts_are_exported_as_archives() {
    let (cluster, id) = taken();
    cluster.on("db1", &["group", "export", &id]).ok();
    for member in PAIR {
        let archive = cluster.world.at(&format!("group-{}-{member}.tar", &id[..8]));
        let listed = std::process::Command::new("tar").arg("tf").arg(archive).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains(&format!("{member}/data/counter")));
    }
    cluster.on("db1", &["group", "export", &id]).fails(1, &["is there already"]);
    cluster.on("db1", &["group", "export", &id, "--member", "db9"]).fails(1, &["no member db9"]);
}
