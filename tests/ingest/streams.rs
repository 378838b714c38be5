//! Streams: standard input and the output of commands as files of a snapshot, through the program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::{taken_away, until};
use crate::common::program;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use program::{Run, World, shown, with};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn paths(world: &World, options: &[String]) -> Vec<String> {
    world.run(&with(options, &["ls", "-R", "latest"])).ok().text().lines().map(str::to_owned).collect()
}

fn cat(world: &World, options: &[String], path: &str) -> Vec<u8> {
    world.run(&with(options, &["cat", &format!("latest:{path}")])).ok().out
}

/// Ingests and gives the summary.
fn ingest(world: &World, options: &[String], args: &[&str]) -> serde_json::Value {
    let run = world.run(&with(options, &[&["ingest", "--json"], args].concat())).ok();
    run.json().pop().unwrap()
}

/// Lines that differ in one place from those of other numbers.
fn dump(changed: usize) -> String {
    let line = |n: usize| format!("INSERT INTO t VALUES ({n}, '{}');\n", blake3::hash(&n.to_le_bytes()));
    (0..40_000).map(|n| if n == changed { line(n * 7) } else { line(n) }).collect()
}

#[test]
fn a_commands_output_stands_beside_paths_and_comes_back() {
    let world = World::new();
    let options = world.repository();
    world.file("etc/one", "1");
    let dump = world.file("dump", dump(0));
    let etc = shown(&world.at("etc"));
    let said =
        ["ingest", &etc, "--stream", "/dumps/db.sql", "--", "sh", "-c", &format!("echo working >&2; cat {}", shown(&dump))];
    let run = world.run(&with(&options, &said)).ok();
    assert!(run.err.contains("/dumps/db.sql: working"), "{}", run.err);
    let all = paths(&world, &options);
    assert!(all.contains(&"/dumps/db.sql".to_owned()) && all.contains(&format!("{etc}/one")), "{all:?}");
    assert_eq!(cat(&world, &options, "/dumps/db.sql"), fs::read(&dump).unwrap());

    world.run(&with(&options, &["restore", "latest", "--target", "out"])).ok();
    let restored = world.at("out/dumps/db.sql");
    assert_eq!(fs::read(&restored).unwrap(), fs::read(&dump).unwrap());
    assert_eq!(fs::metadata(&restored).unwrap().permissions().mode() & 0o7777, 0o600);
    let point = world.at("mnt");
    fs::create_dir(&point).unwrap();
    world.run(&with(&options, &["mount", "latest", &shown(&point)])).ok();
    let mounted = fs::read(point.join("dumps/db.sql"));
    taken_away(|| world.run(&["umount", &shown(&point)]));
    assert_eq!(mounted.unwrap(), fs::read(&dump).unwrap());
    world.run(&with(&options, &["check", "--read-data"])).ok();
}

#[test]
fn what_is_the_same_stores_nothing_and_what_changed_little_stores_little() {
    let world = World::new();
    let options = world.repository();
    let file = world.file("dump", dump(0));
    let args = ["--stream", "db.sql", "--", "cat", &shown(&file)];
    let first = ingest(&world, &options, &args);
    assert!(first["data_added"].as_u64() == Some(fs::metadata(&file).unwrap().len()), "{first}");
    let second = ingest(&world, &options, &args);
    assert_eq!((&second["data_added"], &second["data_added_packed"]), (&0.into(), &0.into()), "{second}");
    assert_eq!((&second["files_unmodified"], &second["files_changed"]), (&1.into(), &0.into()), "{second}");
    let skipped = ingest(&world, &options, &[&["--skip-if-unchanged"], &args[..]].concat());
    assert_eq!(skipped["committed"], false);
    fs::write(&file, dump(20_000)).unwrap();
    let third = ingest(&world, &options, &args);
    // The chunk around the line is new, and is stored as a difference.
    let (added, packed) = (third["data_added"].as_u64().unwrap(), third["data_added_packed"].as_u64().unwrap());
    assert!(added > 0 && packed < added / 8, "{third}");
    assert_eq!(cat(&world, &options, "/db.sql"), fs::read(&file).unwrap());
    // What began as a file of a directory goes on as a stream.
    let fed = world.run_fed(dump(1).as_bytes(), &with(&options, &["ingest", "--stdin", "db.sql"])).ok();
    assert!(fed.text().contains("1 changed"), "{}", fed.text());
    assert_eq!(cat(&world, &options, "/db.sql"), dump(1).as_bytes());
}

#[test]
fn half_a_dump_is_never_stored() {
    let world = World::new();
    let options = world.repository();
    world.file("etc/one", "1");
    let etc = shown(&world.at("etc"));
    let endings = [
        ("seq 100000; kill -9 $$", "killed by signal 9"),
        ("seq 100000; echo no such database >&2; exit 2", "exit status 2: no such database"),
        ("true", "it gave nothing at all"),
    ];
    for (script, why) in endings {
        let run = world.run(&with(&options, &["ingest", &etc, "--stream", "/dumps/db.sql", "--", "sh", "-c", script]));
        assert_eq!(run.code, Some(3), "{}", run.err);
        assert!(run.err.contains("/dumps/db.sql: nothing of it is stored") && run.err.contains(why), "{}", run.err);
        let all = paths(&world, &options);
        assert!(all.contains(&format!("{etc}/one")) && !all.iter().any(|path| path.contains("db.sql")), "{all:?}");
    }
    let missing = world.run(&with(&options, &["ingest", &etc, "--stream", "x", "--", "/nonexistent/dump"]));
    assert!(missing.code == Some(3) && missing.err.contains("/nonexistent/dump cannot be run"), "{}", missing.err);
    // What is compressed already is stored, and it is said what that costs.
    let gzip = "seq 100000 | gzip -n";
    let run = world.run(&with(&options, &["ingest", "--stream", "db.sql.gz", "--", "sh", "-c", gzip])).ok();
    assert!(run.err.contains("/db.sql.gz: it is compressed by gzip"), "{}", run.err);
    assert!(cat(&world, &options, "/db.sql.gz").starts_with(&[0x1f, 0x8b]));
    // Without anything else there is no snapshot.
    let count = |world: &World| world.run(&with(&options, &["snapshots", "--json"])).ok().json().len();
    let before = count(&world);
    let alone = world.run(&with(&options, &["ingest", "--stream", "db.sql", "--", "sh", "-c", "seq 100000; exit 2"]));
    assert!(alone.code == Some(1) && alone.err.contains("exit status 2"), "{}", alone.err);
    assert_eq!(count(&world), before);
    world.run(&with(&options, &["check"])).ok();
}

#[test]
fn a_stream_replaces_a_file_of_its_name_and_cannot_stand_below_one() {
    let world = World::new();
    let options = world.repository();
    world.file("etc/dump", "old");
    world.file("etc/zz", "last");
    let etc = shown(&world.at("etc"));
    world.run(&with(&options, &["ingest", &etc, "--stream", &format!("{etc}/dump"), "--", "echo", "new"])).ok();
    assert_eq!(cat(&world, &options, &format!("{etc}/dump")), b"new\n");
    assert_eq!(cat(&world, &options, &format!("{etc}/zz")), b"last");
    let run = world.run(&with(&options, &["ingest", &etc, "--stream", &format!("{etc}/dump/x"), "--", "echo", "new"]));
    assert!(run.code == Some(3) && run.err.contains("cannot be ingested"), "{}", run.err);
    let twice = ["ingest", &etc, "--stream", &etc, "--", "echo", "new"];
    world.run(&with(&options, &twice)).fails(2, &["two sources would be stored as"]);
}

#[test]
fn the_words_of_restic_do_the_same() {
    let world = World::new();
    let options = world.repository();
    let fed = |args: &[&str]| world.run_fed(b"fed", &with(&options, &[&["backup"], args].concat())).ok();
    fed(&["--stdin", "--stdin-filename", "a"]);
    assert_eq!(cat(&world, &options, "/a"), b"fed");
    fed(&["--stdin"]);
    assert_eq!(cat(&world, &options, "/stdin"), b"fed");
    fed(&["--stdin-filename", "c", "--stdin-from-command", "--", "echo", "-n", "run"]);
    assert_eq!(cat(&world, &options, "/c"), b"run");
    fed(&["--stdin-from-command", "echo", "words"]);
    assert_eq!(cat(&world, &options, "/stdin"), b"words\n");
    world.run(&with(&options, &["ingest", "--stream", "x"])).fails(2, &["needs a command"]);
    world.run(&with(&options, &["ingest", "--stream", "..", "--", "true"])).fails(2, &["cannot be stored under this name"]);
    // Without a stream, paths stand there.
    world.file("-dash", "1");
    world.run(&with(&options, &["ingest", "--", "-dash"])).ok();
    let dry = world.run(&with(&options, &["ingest", "-n", "--stream", "x", "--", "touch", &shown(&world.at("ran"))])).ok();
    assert!(dry.err.contains("dry run") && !world.at("ran").exists(), "{}", dry.err);
}

#[test]
fn an_interruption_ends_the_command_and_its_children() {
    let world = World::new();
    let options = world.repository();
    world.file("etc/one", "1");
    let pids = world.at("pids");
    let script = format!("sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", shown(&pids));
    let mut command = world.command(&with(&options, &["ingest", "etc", "--stream", "db.sql", "--", "sh", "-c", &script]));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    until(|| pids.exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    for pid in fs::read_to_string(&pids).unwrap().split_whitespace() {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        // Who takes over an orphan may not have waited for it yet.
        let gone = || test_kill_process(pid).is_err() || state(pid) == Some('Z');
        until(gone);
    }
    assert!(world.run(&with(&options, &["snapshots", "--json"])).ok().json().is_empty());
    world.run(&with(&options, &["check"])).ok();
}

fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The most memory, in bytes, that an ingest of so many MiB on standard input had.
fn peak(megabytes: usize) -> u64 {
    let world = World::new();
    let options = world.repository();
    let mut command = world.command(&with(&options, &["ingest", "--compression", "off", "--stdin", "big"]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; 1 << 20];
    for _ in 0..megabytes {
        random.fill(&mut block);
        input.write_all(&block).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = world.run(&with(&options, &["ls", "--json", "latest:/big"])).ok();
    assert_eq!(sizes(&run), [(megabytes << 20) as u64]);
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn sizes(run: &Run) -> Vec<u64> {
    run.json().iter().filter_map(|line| line["size"].as_u64()).collect()
}

#[test]
fn memory_does_not_grow_with_a_stream() {
    let (little, much) = (peak(40), peak(200));
    // Memory grows with what the cores have at hand, and never by what was read.
    assert!(much < little + (48 << 20), "{little} bytes of memory for 40 MiB, {much} for 200 MiB");
}
