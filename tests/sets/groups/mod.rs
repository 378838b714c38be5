//! Groups: several members, each a process of its own, and what becomes of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod deaths;
mod kept;
mod restores;
mod served;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use yester::jobs::groups::{GroupMember, GroupWatch};
use yester::model::{GroupRound, SnapshotId, Timestamp};
use yester::repo::Repository;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Storage};
use yester::{Error, ErrorKind};

use cluster::{Cluster, until};

use crate::common::faults::{self, Faults};
use crate::common::program::shown;
use crate::common::record::Operation;

const THREE: [&str; 3] = ["db1", "db2", "db3"];

/// Counted in this order, none is more than one ahead of another.
fn agree(counters: &[u64]) -> bool {
    counters.windows(2).all(|pair| pair[0] >= pair[1]) && counters[0] - counters[counters.len() - 1] <= 1
}

#[test]
fn a_group_agrees_with_itself_while_it_is_written_to() {
    let cluster = Cluster::new(&THREE);
    let writer = cluster.writer();
    let mut last = 0;
    for _ in 0..3 {
        let id = cluster.create(&[]);
        for run in cluster.all(&id) {
            run.ok();
        }
        let status = cluster.status(&id);
        assert_eq!((&status["state"], &status["over"]), (&"completed".into(), &true.into()), "{status}");
        assert!(status["window_ms"].is_u64() && status["members"][0]["still_ms"].as_u64().unwrap() > 0, "{status}");
        let counters = cluster.counters(&id);
        assert!(agree(&counters) && counters[2] >= last, "{counters:?}");
        last = counters[2];
        assert!(THREE.iter().all(|member| !cluster.dir(member).join("frozen").exists()));
        // The writer goes on.
        let now = || fs::read_to_string(cluster.dir("db3").join("data/counter")).unwrap().parse::<u64>().unwrap();
        until(|| now() > last + 1, "the writer goes on");
        assert_eq!(cluster.on("db2", &["group", "wait", &id]).ok().text().lines().nth(1), Some("completed"));
    }
    assert!(writer.end() > last);
    // Each part is a snapshot that names its group.
    let listed = cluster.on("db1", &["--json", "snapshots"]).ok().json();
    assert_eq!(listed.iter().filter(|snapshot| snapshot["group"].is_string()).count(), 9, "{listed:?}");
}

#[test]
fn without_a_barrier_members_do_not_agree() {
    let cluster = Cluster::new(&THREE);
    let id = cluster.create(&["--no-barrier"]);
    let writer = cluster.writer();
    for member in THREE {
        let count = || fs::read_to_string(cluster.dir("db3").join("data/counter")).unwrap().parse::<u64>().unwrap();
        let before = count();
        until(|| count() > before + 5, "it counts");
        // Nobody waits for another.
        cluster.join(member, &id).end().ok();
    }
    writer.end();
    assert_eq!(cluster.states(&id), ["completed"; 4]);
    let counters = cluster.counters(&id);
    assert!(!agree(&counters), "{counters:?}");
}

#[test]
fn two_rounds_at_once_do_not_disturb_each_other() {
    let cluster = Cluster::new(&["db1", "db2"]);
    let ids = [cluster.create(&[]), cluster.create(&[])];
    std::thread::scope(|scope| {
        let rounds = ids.each_ref().map(|id| scope.spawn(|| cluster.all(id)));
        for run in rounds.into_iter().flat_map(|round| round.join().unwrap()) {
            run.ok();
        }
    });
    for id in &ids {
        assert_eq!(cluster.states(id), ["completed"; 3]);
    }
    let listed = cluster.on("db1", &["--json", "group", "list"]).ok().json();
    assert_eq!(listed.len(), 2);
    assert!(cluster.on("db1", &["group", "list", "--set", "other"]).ok().text().contains("0 groups"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::new(&["db1", "db2"]);
    let take = |args: &[&str]| cluster.on("db1", &[&["ingest", "--set", "store", "--group"], args].concat());
    take(&["latest"]).fails(1, &["there is no group latest", "yester group list"]);
    take(&["x"]).fails(2, &["at least 4 digits"]);
    let id = cluster.create(&["--limit", "1h"]);
    take(&[&id, "--member", "db9"]).fails(2, &["expects no member db9", "db1, db2"]);
    take(&[&id, "--dry-run"]).fails(2, &["--dry-run"]);
    let create = |args: &[&str]| cluster.on("db1", &[&["group", "create", "--set"], args].concat());
    create(&["other", "--members", "a,a"]).fails(2, &["a is named twice"]);
    create(&["other", "--members", "a,"]).fails(2, &["each has a name"]);
    let other = create(&["other", "--members", "db1", "-q"]).ok().text();
    take(&[other.trim()]).fails(2, &["is of the set other, and not of store"]);
    // Of two who want to be the same member, one is.
    let first = cluster.join("db1", &id);
    cluster.until_said(&id, "0000.joined");
    take(&[&id]).fails(1, &["db1 has been taken by", "once"]);
    cluster.join("db2", &id).end().ok();
    first.end().ok();
    take(&[&id]).fails(1, &["db1 has been taken"]);
    assert_eq!(cluster.states(&id), ["completed"; 3]);
    cluster.on("db1", &["-q", "group", "wait", other.trim(), "--timeout", "0s"]).fails(11, &["still processing"]);
    cluster.on("db2", &["group", "join", &id, "--member", "db7"]).fails(2, &["expects no member db7"]);
}

#[test]
fn garbage_in_the_place_of_a_step_says_nothing() {
    let cluster = Cluster::new(&["db1", "db2"]);
    let id = cluster.create(&["--limit", "1h"]);
    let groups = cluster.world.at("repo/groups");
    let garbage = |name: String| fs::write(groups.join(name), b"garbage".repeat(50)).unwrap();
    garbage(format!("{id}.0001.done"));
    garbage(format!("{}.round", "ab".repeat(32)));
    garbage(format!("{id}.0007.done"));
    // A good object under another name.
    fs::copy(groups.join(format!("{id}.round")), groups.join(format!("{id}.begin"))).unwrap();
    assert_eq!(cluster.states(&id), ["processing", "missing", "missing"]);
    // What was said cannot be said once more: it ends, and says why.
    let first = cluster.join("db1", &id);
    let second = cluster.join("db2", &id).end();
    assert!(second.code == Some(1), "{}", second.err);
    drop(first);
    let checked = cluster.on("db1", &["check"]);
    assert_eq!(checked.code, Some(1), "{}", checked.err);
    cluster.on("db1", &["prune"]).ok();
    // What was made with the key stays as long as the round may be under way: it cannot be decided once more.
    let left: Vec<String> = fs::read_dir(&groups).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let of_round = |name: &String| name.starts_with(&id) && !name.ends_with(".0007.done") && !name.ends_with(".0001.done");
    assert!(left.iter().all(of_round) && left.contains(&format!("{id}.begin")), "{left:?}");
    let checked = cluster.on("db1", &["check"]);
    assert!(checked.code == Some(1) && checked.err.contains(".begin"), "{}", checked.err);
    let repo = cluster.world.open_repository();
    let later = Timestamp { secs: yester::sys::clock::now().secs + 2 * 86_400, nanos: 0 };
    assert_eq!(yester::repo::groups::expire(&repo, later).unwrap(), 1);
    cluster.on("db1", &["check"]).ok();
}

#[test]
fn the_latest_to_join_is_one_of_snapshots_of_a_set_of_this_host() {
    let cluster = Cluster::new(&["db1", "db2"]);
    let whole = cluster.create(&[]);
    cluster.all(&whole).into_iter().for_each(|run| drop(run.ok()));
    let id = cluster.create(&["--no-barrier"]);
    // Newer ones that are none.
    cluster.on("db1", &["-q", "group", "restore", &whole, "--open"]).ok();
    cluster.on("db1", &["-q", "group", "create", "--set", "other", "--members", "db1,db2"]).ok();
    cluster.on("db1", &["group", "join", "latest"]).ok();
    cluster.on("db2", &["ingest", "--set", "store", "--group", "latest"]).ok();
    assert_eq!(cluster.states(&id), ["completed"; 3]);
}

#[test]
fn a_member_needs_a_full_key() {
    let cluster = Cluster::new(&["db1"]);
    let id = cluster.create(&[]);
    let key = shown(&cluster.world.at("writes"));
    cluster.on("db1", &["key", "add", "--write-only", "--new-key-file", &key]).ok();
    let config = cluster.dir("db1").join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&shown(&cluster.world.at("key")), &key)).unwrap();
    let refused = ["this key only writes", "use a full key"];
    for id in [&id, "latest"] {
        cluster.on("db1", &["ingest", "--set", "store", "--group", id]).fails(12, &refused);
        cluster.on("db1", &["group", "join", id]).fails(12, &refused);
    }
    cluster.on("db1", &["ingest", "--set", "store"]).ok();
    fs::write(&config, text).unwrap();
    assert_eq!(cluster.states(&id), ["processing", "missing"]);
}

/// What is said of a group by the library.
fn member(repo: &Arc<Repository>, id: &str, name: &str) -> GroupMember {
    let id = SnapshotId::parse(id).unwrap();
    GroupMember::new(repo, id, (GroupRound::INGEST, name.as_bytes()), &Arc::default()).unwrap()
}

#[test]
fn whoever_is_not_the_member_says_nothing_of_its_end() {
    let cluster = Cluster::new(&["db1"]);
    let id = cluster.create(&[]);
    let repo = Arc::new(cluster.world.open_repository());
    let [one, other] = [(); 2].map(|()| member(&repo, &id, "db1"));
    one.join().unwrap();
    other.failed("it has been taken").unwrap();
    assert_eq!(cluster.states(&id), ["processing"; 2]);
    one.failed("it failed").unwrap();
    assert_eq!(cluster.states(&id), ["failed"; 2]);
}

#[test]
fn a_repository_that_is_away_for_a_moment_ends_no_wait() {
    let cluster = Cluster::new(&["db1"]);
    let id = cluster.create(&[]);
    let memory = faults::copy(&DirectoryStorage::open(&cluster.world.at("repo")).unwrap());
    let away = Faults::over(memory.clone());
    let [there, repo] = [memory as Arc<dyn Storage>, away.clone()].map(|storage| Arc::new(cluster.world.open_on(storage)));
    let only = member(&there, &id, "db1");
    let mut watch = GroupWatch::new(&repo, SnapshotId::parse(&id).unwrap()).unwrap();
    let mut looks = 0;
    away.before(move |operation| {
        looks += u64::from(*operation == Operation::List(Class::Groups));
        match looks {
            ..=2 => return Err(Error::new(ErrorKind::Io, "nobody answers")),
            3 => only.failed("it failed").unwrap(),
            _ => {}
        }
        Ok(())
    });
    let view = watch.wait(None, &AtomicBool::new(false), &mut |_| {});
    assert_eq!(view.unwrap().state.word(), "failed");
}
