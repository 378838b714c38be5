//! What the options of `restore` do, one by one, and what a killed one leaves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::signal;
use crate::common::program;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use program::{World, shown, with};
use rustix::process::Signal;

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A repository with a snapshot of `src`.
fn world(files: &[(&str, &str)]) -> (World, [String; 4]) {
    let world = World::new();
    let options = world.repository();
    for (name, content) in files {
        world.file(&format!("src/{name}"), content);
    }
    world.run(&with(&options, &["ingest", "src"])).ok();
    (world, options)
}

/// Restores `latest:src` to `out`.
fn restore(world: &World, options: &[String], more: &[&str]) -> program::Run {
    world.run(&with(options, &[&["restore", "latest:src", "--target", "out"], more].concat()))
}

fn read(world: &World, name: &str) -> String {
    fs::read_to_string(world.at(name)).unwrap_or_else(|e| format!("{name}: {e}"))
}

fn set_time(path: &Path, secs: i64) {
    let file = File::options().write(true).open(path).unwrap();
    yester::sys::dir::set_mtime(file, yester::model::Timestamp { secs, nanos: 0 }).unwrap();
}

/// Bytes that are the same nowhere else.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len / 8).flat_map(|_| next()).collect()
}

#[test]
fn when_what_is_there_is_replaced() {
    let (world, options) = world(&[("same", "12345"), ("old", "12345"), ("young", "12345"), ("size", "12345")]);
    let time = fs::metadata(world.at("src/same")).unwrap().mtime();
    for name in ["same", "old", "young", "size"] {
        set_time(&world.at("src").join(name), time);
    }
    world.run(&with(&options, &["ingest", "src"])).ok();
    let outcome = |more: &[&str]| {
        let _ = fs::remove_dir_all(world.at("out"));
        for (name, content, time) in
            [("same", "xxxxx", time), ("old", "xxxxx", 5), ("young", "xxxxx", time + 5), ("size", "x", time)]
        {
            set_time(&world.file(&format!("out/{name}"), content), time);
        }
        restore(&world, &options, more).ok();
        ["same", "old", "young", "size"].map(|name| read(&world, &format!("out/{name}")) == "12345")
    };
    assert_eq!(outcome(&[]), [false, true, true, true]);
    assert_eq!(outcome(&["--overwrite", "if-changed"]), [false, true, true, true]);
    assert_eq!(outcome(&["--overwrite", "always"]), [true; 4]);
    assert_eq!(outcome(&["--overwrite", "if-newer"]), [false, true, false, false]);
    assert_eq!(outcome(&["--overwrite", "never"]), [false; 4]);
    restore(&world, &options, &["--overwrite", "sometimes"]).fails(2, &["sometimes"]);
}

#[test]
fn what_is_superfluous_goes_when_asked() {
    let (world, options) = world(&[("a", "a"), ("dir/b", "b")]);
    for name in ["out/more", "out/dir/more", "out/other/deep", "out/spared.log"] {
        world.file(name, "mine");
    }
    restore(&world, &options, &[]).ok();
    assert_eq!(read(&world, "out/dir/more"), "mine");
    let planned = restore(&world, &options, &["-n", "--json", "--delete"]).ok().json().pop().unwrap();
    assert_eq!((&planned["entries_deleted"], &planned["dry_run"]), (&5.into(), &true.into()));
    assert_eq!(read(&world, "out/other/deep"), "mine");
    restore(&world, &options, &["--delete", "-e", "*.log"]).ok();
    let left = |name: &str| world.at(name).exists();
    assert!(left("out/a") && left("out/dir/b") && left("out/spared.log"));
    assert!(!left("out/more") && !left("out/dir/more") && !left("out/other"));
}

#[test]
fn patterns_choose() {
    let (world, options) = world(&[("a.txt", ""), ("b.bin", ""), ("dir/c.txt", ""), ("dir/d.bin", ""), ("other/e", "")]);
    let restored = |more: &[&str]| {
        let _ = fs::remove_dir_all(world.at("out"));
        restore(&world, &options, more).ok();
        let names = ["a.txt", "b.bin", "dir/c.txt", "dir/d.bin", "other/e"];
        names.into_iter().filter(|name| world.at("out").join(name).exists()).collect::<Vec<_>>()
    };
    assert_eq!(restored(&["--include", "*.txt"]), ["a.txt", "dir/c.txt"]);
    assert_eq!(restored(&["-i", "dir", "-i", "e"]), ["dir/c.txt", "dir/d.bin", "other/e"]);
    assert_eq!(restored(&["--exclude", "*.txt"]), ["b.bin", "dir/d.bin", "other/e"]);
    assert_eq!(restored(&["-i", "dir", "-e", "*.txt"]), ["dir/d.bin"]);
    assert_eq!(restored(&["-e", &shown(&world.at("src/dir"))]), ["a.txt", "b.bin", "other/e"]);
    restore(&world, &options, &["-i", "["]).fails(2, &["["]);
}

#[test]
fn where_things_go() {
    let (world, options) = world(&[("a", "a"), ("dir/b", "b")]);
    let source = shown(world.home());
    let to = |specs: &[&str], target: &str| world.run(&with(&options, &[&["restore", "--target", target], specs].concat()));
    to(&["latest"], "whole").ok();
    assert_eq!(read(&world, &format!("whole{source}/src/dir/b")), "b");
    to(&["latest:src/dir"], "one/deep").ok();
    assert_eq!(read(&world, "one/deep/b"), "b");
    to(&["latest:src/a"], "file").ok();
    assert_eq!(read(&world, "file/a"), "a");
    to(&["latest:src/a", "latest:src/dir"], "two").ok();
    assert_eq!(read(&world, &format!("two{source}/src/a")) + &read(&world, &format!("two{source}/src/dir/b")), "ab");
    // In place: what is given comes back, what leads there stays as it is.
    let before = fs::metadata(world.home()).unwrap();
    fs::remove_dir_all(world.at("src/dir")).unwrap();
    world.file("src/a", "changed");
    to(&["latest"], "/").ok();
    assert_eq!(read(&world, "src/a") + &read(&world, "src/dir/b"), "ab");
    let after = fs::metadata(world.home()).unwrap();
    assert_eq!((after.mtime_nsec(), after.mode(), after.ctime_nsec()), (before.mtime_nsec(), before.mode(), before.ctime_nsec()));
    // What is no target.
    symlink("one", world.at("link")).unwrap();
    for (target, why) in
        [("src/a", "a file"), ("link", "a symbolic link"), ("repo", "the repository"), ("repo/packs/new", "the repository")]
    {
        to(&["latest"], target).fails(2, &[why]);
    }
    to(&["latest:src/none"], "none").fails(1, &["src/none"]);
    assert!(!world.at("none").exists());
    to(&["latest", "nonsense"], "none").fails(2, &["nonsense"]);
}

#[test]
fn latest_is_the_newest_that_passes() {
    let (world, options) = world(&[("a", "first")]);
    world.file("src/a", "second");
    world.run(&with(&options, &["ingest", "--host", "web", "--tag", "kept", "src"])).ok();
    world.file("src/a", "third");
    world.run(&with(&options, &["ingest", "src"])).ok();
    for (more, content) in [(&["--host", "web"], "second"), (&["--tag", "kept"], "second")] {
        restore(&world, &options, more).ok();
        assert_eq!(read(&world, "out/a"), content);
    }
    let path = shown(&world.at("src"));
    restore(&world, &options, &["--path", &path]).ok();
    assert_eq!(read(&world, "out/a"), "third");
    restore(&world, &options, &["--path", "/elsewhere"]).fails(1, &["latest"]);
}

/// Temporary files of a restore below `path`.
fn temporaries(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let below = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let is_temporary = entry.file_name().to_string_lossy().starts_with(".yester-");
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => temporaries(&entry.path()),
            false => is_temporary.then(|| entry.path()).into_iter().collect(),
        }
    };
    entries.flat_map(below).collect()
}

#[test]
fn what_is_written_is_read_back_when_asked() {
    let (world, options) = world(&[("a", "a")]);
    world.file("src/big", noise(1, 48 << 20));
    world.run(&with(&options, &["ingest", "src"])).ok();
    // Somebody, as a bad disk would, changes what was written as soon as it is there.
    let spoiled = |more: &[&str]| {
        let _ = fs::remove_dir_all(world.at("out"));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for file in
                        temporaries(&world.at("out")).iter().filter_map(|path| File::options().write(true).open(path).ok())
                    {
                        (0..100_000)
                            .take_while(|_| !over.load(Ordering::Relaxed))
                            .for_each(|_| drop(file.write_all_at(b"bad", 7)));
                    }
                }
            });
            let run = restore(&world, &options, more);
            over.store(true, Ordering::Relaxed);
            run
        })
    };
    let run = spoiled(&["--verify"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.err.contains("out/big: what was written does not read back"), "{}", run.err);
    assert!(!world.at("out/big").exists() && temporaries(&world.at("out")).is_empty());
    spoiled(&[]).ok();
    assert!(fs::read(world.at("out/big")).unwrap() != fs::read(world.at("src/big")).unwrap());
    restore(&world, &options, &["--verify", "--overwrite", "always"]).ok();
    assert!(fs::read(world.at("out/big")).unwrap() == fs::read(world.at("src/big")).unwrap());
}

#[test]
fn owners_go_by_name_or_by_number() {
    if !is_root() {
        return;
    }
    let (world, options) = world(&[("a", "a")]);
    chown(world.at("src/a"), Some(1), Some(1)).unwrap();
    world.run(&with(&options, &["ingest", "src"])).ok();
    // Users and groups 1 have another number, in a mount table of its own, which ends with the shell.
    let program = format!("{} {}", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    let line = format!(
        "for list in passwd group; do sed 's/:x:1:/:x:4711:/' /etc/$list >$list && mount --bind $list /etc/$list || exit 1; done \
         && {program} restore -q latest:src --target out && {program} restore -q --numeric-ids latest:src --target numeric"
    );
    let status = Command::new("unshare").args(["--mount", "sh", "-c", &line]).current_dir(world.home()).status().unwrap();
    assert!(status.success());
    let owner = |name: &str| fs::metadata(world.at(name)).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!((owner("out/a"), owner("numeric/a")), ((4711, 4711), (1, 1)));
}

#[test]
fn what_is_synced_is_on_the_device() {
    if !is_root() {
        return;
    }
    let (world, options) = world(&[("a", "a")]);
    world.file("src/big", noise(2, 8 << 20));
    world.run(&with(&options, &["ingest", "src"])).ok();
    // A disk of its own, whose writes are counted, in a mount table of its own; not everywhere can there be one.
    let program = format!("{} {}", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    let line = format!(
        "truncate -s 64M disk && mkfs.ext4 -q disk && mkdir m && loop=$(losetup -f --show disk) || exit 77
         trap 'umount m; losetup -d $loop' EXIT
         mount $loop m && sync -f m || exit 77
         written() {{ awk '{{print $7}}' /sys/block/${{loop#/dev/}}/stat; }}
         before=$(written); {program} restore -q --sync latest:src --target m/out || exit 1
         echo $(($(written) - before))"
    );
    let output = Command::new("unshare").args(["--mount", "bash", "-c", &line]).current_dir(world.home()).output().unwrap();
    if output.status.code() == Some(77) {
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sectors: u64 = text.trim().parse().unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    assert!(sectors * 512 >= 8 << 20, "{sectors} sectors");
}

#[test]
fn too_little_room_is_said_first() {
    if !is_root() {
        return;
    }
    let (world, options) = world(&[("a", "a")]);
    world.file("src/big", noise(3, 4 << 20));
    world.run(&with(&options, &["ingest", "src"])).ok();
    let program = format!("{} {}", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    let line = format!(
        "mkdir m && mount -t tmpfs -o size=2m none m && {{ {program} restore latest:src --target m; echo $?; ls -A m; \
         {program} restore -q -e big latest:src --target m; echo $?; ls -A m; }}"
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &line]).current_dir(world.home()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out, "1\n0\na\n", "{err}");
    assert!(err.contains("there is not enough room"), "{err}");
}

#[test]
fn what_differs_is_written_where_there_is_no_room_for_a_second_copy() {
    if !is_root() {
        return;
    }
    let (world, options) = world(&[("a", "a")]);
    world.file("src/image", noise(3, 6 << 20));
    world.run(&with(&options, &["ingest", "src"])).ok();
    let program = format!("{} {} restore latest:src --target m", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    let line = format!(
        "mkdir m && mount -t tmpfs -o size=10m none m && {program} -q && printf four | dd of=m/image conv=notrunc status=none
         {program}; echo code $?; {program} -n; echo code $?
         {program} --no-space-check; echo code $?; ls -A m; cmp -s m/image src/image; echo code $?
         {program} -n --in-place --json; {program} --in-place --json; echo code $?; cmp m/image src/image; echo code $?"
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &line]).current_dir(world.home()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let codes: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("code ")).collect();
    assert_eq!(codes, ["1", "1", "1", "1", "0", "0"], "{out} {err}");
    assert_eq!(out.lines().filter(|line| *line == "image").count(), 1, "nothing is left: {out}");
    assert!(err.contains("--in-place writes only what differs") && err.contains("the target is full"), "{err}");
    let summaries: Vec<serde_json::Value> =
        out.lines().filter(|line| line.contains("\"summary\"")).map(|line| serde_json::from_str(line).unwrap()).collect();
    let bytes = |at: usize| summaries[at]["bytes_restored"].as_u64().unwrap();
    assert!(summaries.len() == 2 && bytes(0) == bytes(1) && bytes(0) > 0 && bytes(0) < 4 << 20, "{summaries:?}");
}

/// Starts a restore of `latest:src` to `out` and ends it by a signal when it has a file that is not complete; what it said.
fn ended_by(world: &World, options: &[String], how: Signal) -> std::process::Output {
    let mut command = world.command(&with(options, &["restore", "latest:src", "--target", "out"]));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while temporaries(&world.at("out")).is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // One that was waited for has no number any more.
    if child.try_wait().unwrap().is_none() {
        signal(child.id(), how);
    }
    child.wait_with_output().unwrap()
}

#[test]
fn what_a_killed_restore_left_is_cleaned_up() {
    let (world, options) = world(&[("dir/small", "small"), ("dir/link", "link")]);
    fs::hard_link(world.at("src/dir/link"), world.at("src/again")).unwrap();
    for n in 0..4 {
        world.file(&format!("src/dir/big{n}"), noise(n, 24 << 20));
    }
    world.run(&with(&options, &["ingest", "src"])).ok();
    let same = || {
        let script = format!("{}/tests/same_tree.py", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("python3").args([script, shown(&world.at("src")), shown(&world.at("out"))]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    // Interrupted, it cleans up itself.
    let mut ended = (0..20).map(|_| {
        let _ = fs::remove_dir_all(world.at("out"));
        ended_by(&world, &options, Signal::INT)
    });
    // One that was done before the signal came says nothing.
    let output = ended.find(|output| output.status.code() != Some(0)).expect("it was never at work when it was interrupted");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(temporaries(&world.at("out")).is_empty());
    restore(&world, &options, &[]).ok();
    same();
    for again in [&[][..], &["--delete"]] {
        let killed = (0..20).any(|_| {
            let _ = fs::remove_dir_all(world.at("out"));
            ended_by(&world, &options, Signal::KILL);
            !temporaries(&world.at("out")).is_empty()
        });
        assert!(killed, "it was never at work when it was killed");
        restore(&world, &options, again).ok();
        same();
    }
    // Nothing is left to be done.
    let planned = restore(&world, &options, &["-n", "--json", "--delete"]).ok().json().pop().unwrap();
    assert_eq!((&planned["entries_deleted"], &planned["files_restored"]), (&0.into(), &0.into()));
}
