//! Snapshots of file systems, from which an ingest reads. Needs root, loop devices and `btrfs-progs`. LVM and ZFS are
//! programs that stand in for the tools here: not every kernel has a device mapper.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::until;
use crate::common::program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use program::{World, shown};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn tool(words: &[&str]) -> String {
    let done = Command::new(words[0]).args(&words[1..]).output().expect("apt-get install btrfs-progs mount");
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A world whose directory `disk` is a btrfs, on a loop device.
struct Disk {
    world: World,
}

impl Disk {
    /// With the subvolume `disk/data` and a configuration; `DISK` and `HOME` stand for the directories.
    fn with(set: &str) -> Disk {
        let world = World::new();
        let image = world.at("image");
        fs::File::create(&image).unwrap().set_len(200 << 20).unwrap();
        tool(&["mkfs.btrfs", "-q", &shown(&image)]);
        fs::create_dir(world.at("disk")).unwrap();
        tool(&["mount", "-o", "loop", &shown(&image), &shown(&world.at("disk"))]);
        let disk = Disk { world };
        disk.subvolume("data");
        let text = format!("[repository]\nlocation = \"HOME/main\"\nkey-file = \"HOME/main.key\"\n{set}");
        disk.configure(&text);
        disk.world.run(&["init"]).ok();
        disk
    }

    fn configure(&self, text: &str) {
        let text = text.replace("HOME", &shown(self.world.home())).replace("DISK", &shown(&self.at("")));
        self.world.file(".config/yester/config.toml", text.replace("//", "/"));
    }

    fn at(&self, path: &str) -> PathBuf {
        self.world.at("disk").join(path)
    }

    fn subvolume(&self, path: &str) {
        tool(&["btrfs", "-q", "subvolume", "create", &shown(&self.at(path))]);
    }

    /// All subvolumes, but for those that the test made.
    fn snapshots(&self) -> Vec<String> {
        let listed = tool(&["btrfs", "subvolume", "list", &shown(&self.at(""))]);
        listed.lines().filter(|line| line.contains("yester-")).map(str::to_owned).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(self.world.at("disk")).status();
    }
}

fn summary(run: program::Run) -> Value {
    run.ok().json().pop().unwrap()
}

/// A program that writes a number to one file, and then to another one, for ever.
struct Pair {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pair {
    /// While `quiet` is there, it writes nothing, and says so by `still`: with the same content, so that nobody takes what it
    /// said before for an answer.
    fn start(first: PathBuf, last: PathBuf, quiet: PathBuf, still: PathBuf) -> Pair {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let began = Arc::new(AtomicBool::new(false));
        let begins = began.clone();
        let thread = std::thread::spawn(move || {
            let mut number = 0u64;
            while !stopped.load(Ordering::SeqCst) {
                if let Ok(asked) = fs::read(&quiet) {
                    fs::write(&still, asked).unwrap();
                    std::thread::yield_now();
                    continue;
                }
                number += 1;
                for file in [&first, &last] {
                    fs::write(file.with_extension("new"), number.to_string()).unwrap();
                    fs::rename(file.with_extension("new"), file).unwrap();
                }
                begins.store(true, Ordering::SeqCst);
            }
        });
        until(|| began.load(Ordering::SeqCst));
        Pair { stop, thread: Some(thread) }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

const PAIR: &str = r#"
[sets.pair]
paths = ["DISK/data/a", "DISK/data/z"]
source-snapshot = "btrfs"
[[sets.pair.streams]]
at = "/log"
command = ["cat", "HOME/log"]
[sets.pair.hooks]
freeze = "echo freeze >> HOME/log; echo $$ > HOME/quiet; until cmp -s HOME/quiet HOME/still; do :; done"
thaw = "echo thaw >> HOME/log; rm -f HOME/quiet HOME/still"
"#;

#[test]
fn a_snapshot_is_of_one_moment_and_frozen_time_ends_with_it() {
    let disk = Disk::with(PAIR);
    for part in ["a", "z"] {
        fs::create_dir(disk.at("data").join(part)).unwrap();
    }
    // Much lies between the two.
    (0..400).for_each(|n| fs::write(disk.at(&format!("data/a/m{n}")), vec![n as u8; 9000]).unwrap());
    let (first, last) = (disk.at("data/a/first"), disk.at("data/z/last"));
    let pair = Pair::start(first.clone(), last.clone(), disk.world.at("quiet"), disk.world.at("still"));
    let read = |path: &Path| -> u64 { disk.world.run(&["cat", &format!("latest:{}", shown(path))]).ok().text().parse().unwrap() };
    for _ in 0..3 {
        disk.world.run(&["ingest", "--set", "pair"]).ok();
        assert_eq!(read(&first), read(&last), "frozen");
        assert!(fs::read_to_string(&last).unwrap().parse::<u64>().unwrap() > read(&last), "it goes on");
    }
    // Streams begin when it is over, and paths are read after that.
    let log = disk.world.run(&["cat", "latest:/log"]).ok().text();
    assert!(log.ends_with("freeze\nthaw\n"), "{log}");
    let snapshot = disk.world.run(&["snapshots", "--json"]).ok().json().pop().unwrap();
    assert!(snapshot["frozen"].as_u64().unwrap() > 0);
    assert!(snapshot["parts"].as_array().unwrap().iter().all(|part| part["state"] == "complete"), "{snapshot}");
    // Without hooks it is one moment still: the second file is at most one step behind.
    let given = [shown(&disk.at("data/a")), shown(&disk.at("data/z"))];
    for _ in 0..3 {
        disk.world.run(&["ingest", &given[0], &given[1], "--source-snapshot", "auto"]).ok();
        let (first, last) = (read(&first), read(&last));
        assert!(first == last || first == last + 1, "{first} {last}");
    }
    drop(pair);
    assert!(disk.snapshots().is_empty(), "{:?}", disk.snapshots());
}

#[test]
fn unchanged_files_are_known_through_another_snapshot_and_what_is_mounted_inside_is_there() {
    let disk = Disk::with(
        "[sets.all]\npaths = [\"DISK/data\", \"DISK/data/more\"]\nexclude = [\"unwanted\"]\nsource-snapshot = \"auto\"\n",
    );
    let world = &disk.world;
    (0..50).for_each(|n| fs::write(disk.at(&format!("data/f{n}")), format!("{n}")).unwrap());
    for inner in ["data/inner", "data/inner/below", "data/unwanted"] {
        disk.subvolume(inner);
        fs::write(disk.at(inner).join("file"), inner).unwrap();
    }
    for dir in ["data/mounted", "data/more", "data/inner/empty"] {
        fs::create_dir(disk.at(dir)).unwrap();
    }
    fs::write(disk.at("data/more/file"), "more").unwrap();
    tool(&["mount", "-t", "tmpfs", "none", &shown(&disk.at("data/mounted"))]);
    fs::write(disk.at("data/mounted/file"), "mounted").unwrap();
    fs::hard_link(disk.at("data/f1"), disk.at("data/linked")).unwrap();
    let cat = |path: &str| world.run(&["cat", &format!("latest:{}", shown(&disk.at(path)))]).ok().text();
    let all = |world: &World| world.run(&["ingest", "--set", "all", "--json"]);
    summary(all(world));
    for path in ["data/inner", "data/inner/below"] {
        assert_eq!(cat(&format!("{path}/file")), path);
    }
    assert_eq!((cat("data/mounted/file"), cat("data/more/file"), cat("data/f7")), ("mounted".into(), "more".into(), "7".into()));
    let listed = world.run(&["ls", "-R", "latest"]).ok().text();
    assert!(!listed.contains("unwanted") && !listed.contains(".yester-snapshots"), "{listed}");
    assert!(!world.run(&["snapshots", "--json"]).ok().text().contains("/proc/"));
    // A file must be older than the last scan by two seconds, to be known for unchanged.
    let files = 50 + 1 + 2 + 1 + 1;
    until(|| summary(all(world))["files_unmodified"] == files);
    let again = summary(all(world));
    assert_eq!((&again["files_new"], &again["files_changed"], &again["data_added"]), (&0.into(), &0.into(), &0.into()));
    let skipped = |how: &str| {
        let words = ["ingest", "--set", "all", "--json", "--source-snapshot", how, "--skip-if-unchanged"];
        summary(world.run(&words))["committed"] == false
    };
    assert!(skipped("auto"));
    // So it is from a snapshot to the files themselves, and back.
    let live = summary(world.run(&["ingest", "--set", "all", "--json", "--source-snapshot", "off"]));
    assert_eq!((&live["files_unmodified"], &live["data_added"]), (&files.into(), &0.into()), "{live}");
    assert!(skipped("off") && skipped("btrfs"));
    // On one file system: what is mounted inside, and subvolumes, are empty.
    let alone = ["ingest", &shown(&disk.at("data")), "-x", "--json", "--skip-if-unchanged"].map(str::to_owned);
    let snapshot = ["--source-snapshot", "btrfs"].map(str::to_owned);
    world.run(&[&alone[..], &snapshot].concat()).ok();
    assert_eq!(summary(world.run(&alone))["committed"], false, "as it is without a snapshot");
    let listed = world.run(&["ls", "-R", "latest"]).ok().text();
    assert!(listed.contains("/inner") && !listed.contains("inner/file") && !listed.contains("mounted/file"), "{listed}");
    // A repository in the same subvolume is never stored.
    let repo = shown(&disk.at("data/repo"));
    let options = ["--repo".to_owned(), repo, "--key-file".to_owned(), shown(&world.at("other.key"))];
    world.run(&program::with(&options, &["init"])).ok();
    let run = world.run(&program::with(&options, &["ingest", &shown(&disk.at("data")), "--source-snapshot", "auto"])).ok();
    assert!(run.err.contains("belongs to a repository"), "{}", run.err);
    assert!(!world.run(&program::with(&options, &["ls", "-R", "latest"])).ok().text().contains("/repo"));
    assert!(disk.snapshots().is_empty(), "{:?}", disk.snapshots());
}

const WAITS: &str = r#"
[sets.waits]
paths = ["DISK/data"]
source-snapshot = "btrfs"
[[sets.waits.streams]]
at = "/stream"
command = ["sh", "-c", "touch HOME/began; while test -e HOME/wait; do sleep 0.01; done; echo done"]
"#;

impl Disk {
    /// An ingest that has made its snapshot, and waits.
    fn waiting(&self) -> Child {
        self.world.file("wait", "");
        let _ = fs::remove_file(self.world.at("began"));
        let mut command = self.world.command(&["ingest", "--set", "waits"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until(|| self.world.at("began").exists());
        child
    }
}

#[test]
fn what_killed_ingests_left_is_removed_by_the_next_and_that_of_others_never() {
    let disk = Disk::with(WAITS);
    fs::write(disk.at("data/file"), "x").unwrap();
    // A directory that has such a name, and is no snapshot; and a snapshot that is somebody's.
    let (world, ours) = (&disk.world, disk.at("data/.yester-snapshots"));
    let mut ended = disk.waiting();
    kill_process(Pid::from_child(&ended), Signal::TERM).unwrap();
    assert_eq!(ended.wait().unwrap().code(), Some(130));
    assert!(disk.snapshots().is_empty(), "{:?}", disk.snapshots());

    let mut killed = disk.waiting();
    let name = fs::read_dir(&ours).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let mut alive = disk.waiting();
    assert_eq!(disk.snapshots().len(), 2);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let plain = format!("{}9", name);
    fs::create_dir(ours.join(&plain)).unwrap();
    tool(&["btrfs", "-q", "subvolume", "snapshot", "-r", &shown(&disk.at("data")), &shown(&ours.join("yester-mine"))]);
    let run = world.run(&["ingest", &shown(&disk.at("data")), "--source-snapshot", "btrfs"]).ok();
    assert!(run.err.contains(&name) && run.err.contains("removed"), "{}", run.err);
    let left: Vec<String> = fs::read_dir(&ours).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&name) && left.contains(&plain) && left.contains(&"yester-mine".to_owned()), "{left:?}");
    fs::remove_file(world.at("wait")).unwrap();
    assert_eq!(alive.wait().unwrap().code(), Some(0));
    assert_eq!(disk.snapshots().len(), 1, "{:?}", disk.snapshots());

    // Killed at any moment.
    let began = Instant::now();
    world.run(&["ingest", "--set", "waits"]).ok();
    let whole = began.elapsed();
    for moment in 1..=15 {
        let mut command = world.command(&["ingest", "--set", "waits"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * moment / 15 + Duration::from_micros(u64::from(moment) * 137));
        let _ = child.kill();
        child.wait().unwrap();
    }
    // A tool that such an ingest had started may come to its end after it.
    until(|| {
        world.run(&["ingest", "--set", "waits"]).ok();
        disk.snapshots().len() == 1
    });
}

/// A directory of programs that stand before others.
fn stand_in(world: &World, programs: &[(&str, &str)]) -> String {
    let dir = world.at("tools");
    fs::create_dir_all(&dir).unwrap();
    for (name, script) in programs {
        let file = world.file(&format!("tools/{name}"), format!("#!/bin/sh\n{}", script.replace("HOME", &shown(world.home()))));
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{}", shown(&dir), std::env::var("PATH").unwrap())
}

#[test]
fn a_tool_that_fails_or_lies_is_named_and_nothing_stays_frozen() {
    let disk = Disk::with(&PAIR.replace("until cmp -s HOME/quiet HOME/still; do :; done", ":"));
    let world = &disk.world;
    for part in ["a", "z"] {
        fs::create_dir(disk.at("data").join(part)).unwrap();
        fs::write(disk.at("data").join(part).join("file"), part).unwrap();
    }
    let real = "exec /usr/bin/btrfs \"$@\"";
    let given = [shown(&disk.at("data/a")), shown(&disk.at("data/z"))];
    for (script, why) in [
        ("case $2 in snapshot) echo no space left >&2; exit 7;; esac; REAL", "exit status 7: no space left"),
        ("case $2 in snapshot) exit 0;; esac; REAL", "the snapshot is not there"),
        // It makes a directory, and says that this is one.
        ("case $2 in snapshot) mkdir -p \"$6\"; exit 0;; esac; REAL", "it has made no snapshot"),
        ("case $2 in snapshot) kill -9 $$;; esac; REAL", "killed by signal 9"),
        ("case $2 in snapshot) exec yes;; esac; REAL", "does not stop to write"),
        ("case $2 in list) echo broken >&2; exit 1;; esac; REAL", "btrfs subvolume: exit status 1: broken"),
    ] {
        let path = stand_in(world, &[("btrfs", &script.replace("REAL", real))]);
        let _ = fs::remove_file(world.at("log"));
        let run = world.run_with(&[("PATH", &path)], &["ingest", "--set", "pair"]);
        assert_eq!(run.code, Some(1), "{script}: {}", run.err);
        assert!(run.err.contains(why), "{script}: {}", run.err);
        assert!(!world.at("quiet").exists(), "thawed");
        let log = fs::read_to_string(world.at("log")).unwrap_or_default();
        assert!(log.is_empty() || log == "freeze\nthaw\n", "{log}");
        // Where it is only wanted if it can be had, the files are read as they are.
        let auto = world.run_with(&[("PATH", &path)], &["ingest", &given[0], &given[1], "--source-snapshot", "auto"]).ok();
        assert!(auto.err.contains(why) || auto.err.contains("cannot be listed"), "{script}: {}", auto.err);
        let read = ["cat", &format!("latest:{}/file", given[1])].map(str::to_owned);
        assert_eq!(world.run(&read).ok().text(), "z");
    }
    assert!(disk.snapshots().is_empty(), "{:?}", disk.snapshots());
    for entry in fs::read_dir(disk.at("data/.yester-snapshots")).unwrap() {
        fs::remove_dir(entry.unwrap().path()).unwrap();
    }
    // One that does not remove is told, and the next ingest does it.
    let path = stand_in(world, &[("btrfs", &format!("case $2 in delete) echo busy >&2; exit 1;; esac; {real}"))]);
    let run = world.run_with(&[("PATH", &path)], &["ingest", "--set", "pair"]).ok();
    assert!(run.err.contains("cannot be removed") && run.err.contains("busy"), "{}", run.err);
    assert_eq!(disk.snapshots().len(), 1);
    world.run(&["ingest", "--set", "pair"]).ok();
    assert!(disk.snapshots().is_empty(), "{:?}", disk.snapshots());
    // One that is not there; a place that somebody else could write to; a file system without snapshots.
    let empty = world.at("empty");
    fs::create_dir(&empty).unwrap();
    for program in ["sh", "cat", "touch", "rm"] {
        std::os::unix::fs::symlink(format!("/bin/{program}"), empty.join(program)).unwrap();
    }
    let run = world.run_with(&[("PATH", &shown(&empty))], &["ingest", "--set", "pair"]);
    assert!(run.code == Some(1) && run.err.contains("install btrfs-progs"), "{}", run.err);
    fs::set_permissions(disk.at("data/.yester-snapshots"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = world.run(&["ingest", "--set", "pair"]);
    assert!(run.code == Some(2) && run.err.contains("does not belong to this user alone"), "{}", run.err);
    world.file("plain/file", "1");
    let run = world.run(&["ingest", "plain", "--source-snapshot", "btrfs"]);
    assert!(run.code == Some(2) && run.err.contains("where btrfs has no snapshots"), "{}", run.err);
    let run = world.run(&["ingest", "plain", "--source-snapshot", "auto"]).ok();
    assert!(run.err.contains("it is read as it is"), "{}", run.err);
    world.run(&["ingest", "plain", "--source-snapshot", "btrsf"]).code.filter(|code| *code == 2).unwrap();
}

/// What the tools of LVM do, as far as they are asked: a snapshot is a copy.
const LVM: [(&str, &str); 4] = [
    (
        "lvs",
        r#"echo "lvs $*" >> HOME/calls
case "$*" in
*pool_lv*) cat HOME/answer;;
*) ls HOME/lvm;;
esac"#,
    ),
    (
        "lvcreate",
        r#"echo "lvcreate $*" >> HOME/calls
while [ $# -gt 1 ]; do [ "$1" = --name ] && name=$2; shift; done
cp -a HOME/live "HOME/lvm/$name""#,
    ),
    (
        "lvremove",
        r#"echo "lvremove $*" >> HOME/calls
while [ $# -gt 1 ]; do shift; done
rm -r "HOME/lvm/${1#vg/}""#,
    ),
    (
        "mount",
        r#"echo "mount $*" >> HOME/calls
while [ $# -gt 2 ]; do shift; done
exec /bin/mount --bind "HOME/lvm/${1#/dev/vg/}" "$2""#,
    ),
];

#[test]
fn a_logical_volume_is_read_from_a_snapshot_that_is_unmounted_and_removed() {
    let world = World::new();
    let options = world.repository();
    fs::create_dir(world.at("live")).unwrap();
    fs::create_dir(world.at("lvm")).unwrap();
    tool(&["mount", "-t", "tmpfs", "/dev/mapper/vg-home", &shown(&world.at("live"))]);
    let mounted = Unmounted(world.at("live"));
    world.file("live/sub/file", "one");
    world.file("answer", "  vg|home|\n");
    let path = stand_in(&world, &LVM);
    let mut words = program::with(&options, &["ingest", &shown(&world.at("live/sub")), "--source-snapshot", "lvm", "--json"]);
    let run = world.run_with(&[("PATH", &path)], &words).ok();
    assert_eq!(run.json().pop().unwrap()["total_files_processed"], 1);
    let file = format!("latest:{}", shown(&world.at("live/sub/file")));
    assert_eq!(world.run(&program::with(&options, &["cat", &file])).ok().text(), "one");
    let calls = fs::read_to_string(world.at("calls")).unwrap();
    let begins: Vec<&str> = calls.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(begins, ["lvs", "lvs", "lvcreate", "mount", "lvremove"], "{calls}");
    assert!(calls.contains("--snapshot --addtag yester") && calls.contains("--extents 20%ORIGIN vg/home"), "{calls}");
    assert!(calls.contains("-o ro,nosuid,nodev /dev/vg/yester-"), "{calls}");
    assert_eq!(fs::read_dir(world.at("lvm")).unwrap().count(), 0);
    // One that is thin needs no room. What a process left is removed, what is of others stays.
    let dead = dead_name(&world);
    for name in [dead.as_str(), "yester-mine", "home"] {
        fs::create_dir(world.at("lvm").join(name)).unwrap();
    }
    world.file("answer", "  vg|home|pool\n");
    let run = world.run_with(&[("PATH", &path)], &words).ok();
    assert!(run.err.contains(&dead) && run.err.contains("removed"), "{}", run.err);
    let calls = fs::read_to_string(world.at("calls")).unwrap();
    assert!(calls.contains("--activate y --ignoreactivationskip vg/home"), "{calls}");
    assert_eq!(fs::read_dir(world.at("lvm")).unwrap().count(), 2);
    // Answers that are no names, and a mount that fails.
    world.file("answer", "--force|x|\n");
    let run = world.run_with(&[("PATH", &path)], &words);
    assert!(run.code == Some(1) && run.err.contains("does not say which logical volume"), "{}", run.err);
    world.file("answer", "  vg|home|\n");
    let path = stand_in(&world, &[("mount", "echo wrong fs type >&2; exit 32")]);
    let run = world.run_with(&[("PATH", &path)], &words);
    assert!(run.code == Some(1) && run.err.contains("wrong fs type"), "{}", run.err);
    assert_eq!(fs::read_dir(world.at("lvm")).unwrap().count(), 2);
    words.retain(|word| word != "lvm" && word != "--source-snapshot");
    world.run(&words).ok();
    drop(mounted);
}

struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The name of a snapshot of a process that is gone: that of an ingest, of which the number is another one's.
fn dead_name(world: &World) -> String {
    let calls = fs::read_to_string(world.at("calls")).unwrap();
    let name = calls.split([' ', '\n', '@', '/']).find(|word| word.starts_with("yester-")).unwrap();
    name.to_owned()
}

#[test]
fn a_file_system_of_zfs_is_read_where_zfs_shows_its_snapshot() {
    let world = World::new();
    let options = world.repository();
    world.file("live/sub/file", "one");
    let zfs = r#"echo "zfs $*" >> HOME/calls
case "$*" in
"list -H -o name,mountpoint"*) printf 'tank/home\tHOME/live\n';;
"list -H -t snapshot"*) ls -A HOME/live/.zfs/snapshot 2>/dev/null | sed 's,^,tank/home@,';;
"snapshot "*) mkdir -p HOME/live/.zfs/snapshot; cp -a HOME/live/sub "HOME/new"; mkdir "HOME/live/.zfs/snapshot/${2#*@}"; mv HOME/new "HOME/live/.zfs/snapshot/${2#*@}/sub";;
"destroy "*) rm -r "HOME/live/.zfs/snapshot/${2#*@}";;
esac"#;
    let path = stand_in(&world, &[("zfs", zfs)]);
    let words = program::with(&options, &["ingest", &shown(&world.at("live/sub")), "--source-snapshot", "zfs"]);
    world.run_with(&[("PATH", &path)], &words).ok();
    let file = format!("latest:{}", shown(&world.at("live/sub/file")));
    assert_eq!(world.run(&program::with(&options, &["cat", &file])).ok().text(), "one");
    let calls = fs::read_to_string(world.at("calls")).unwrap();
    let verbs: Vec<&str> = calls.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(verbs, ["list", "list", "snapshot", "destroy"], "{calls}");
    let snapshots = world.at("live/.zfs/snapshot");
    let dead = dead_name(&world);
    for name in [dead.as_str(), "daily"] {
        fs::create_dir(snapshots.join(name)).unwrap();
    }
    let run = world.run_with(&[("PATH", &path)], &words).ok();
    assert!(run.err.contains(&dead), "{}", run.err);
    assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 1);
}
