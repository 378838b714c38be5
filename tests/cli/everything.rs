//! One of everything that a Linux file system holds (`everything.sh`), through the built program: the source, the mount and
//! the restored tree are compared by programs that know nothing of this one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use program::{World, finish, shown, with};

const NOBODY: u32 = 65534;

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).env("LC_ALL", "C").output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program that must succeed; what it said.
#[track_caller]
fn quiet(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

fn script(name: &str) -> String {
    format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Takes flags away that would keep a directory from being removed.
struct Unlock(String);

impl Drop for Unlock {
    fn drop(&mut self) {
        run("chattr", &["-R", "-f", "-ai", &self.0]);
    }
}

/// A mount that goes away whatever happens.
struct Mounted<'a> {
    world: &'a World,
    point: String,
}

impl<'a> Mounted<'a> {
    fn new(world: &'a World, options: &[String], what: &str, point: &str) -> Mounted<'a> {
        fs::create_dir_all(point).unwrap();
        world.run(&with(options, &["mount", what, point])).ok();
        Mounted { world, point: point.to_owned() }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.world.run(&["umount", &self.point]);
    }
}

/// Compares by everything; `tree` is what `rsync` and `tar` can walk.
fn compare(world: &World, source: &str, copy: &str) {
    quiet("python3", &[&script("same_tree.py"), source, copy]);
    let (a, b) = (format!("{source}/tree"), format!("{copy}/tree"));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let said =
            quiet("rsync", &["-aHAXSn", "--numeric-ids", "--checksum", "--delete", "-i", &format!("{from}/"), &format!("{to}/")]);
        assert_eq!(said, "", "{from} and {to} differ for rsync");
    }
    let archives = [(&a, "a.tar"), (&b, "b.tar")].map(|(from, name)| {
        let to = shown(&world.at(name));
        let posix = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime";
        let names = ["--xattrs", "--xattrs-include=*", "--acls", "-S", "--sort=name", "--numeric-owner"];
        quiet("tar", &[&["--format=posix", posix], &names[..], &["-C", from, "-cf", &to, "."]].concat());
        to
    });
    quiet("python3", &[&script("same_tar.py"), &archives[0], &archives[1]]);
}

#[test]
fn one_of_everything_comes_back() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let options = world.repository();
    let (source, copy, point) = (shown(&world.at("src")), shown(&world.at("copy")), shown(&world.at("point")));
    let _locks = [&source, &copy].map(|path| Unlock(format!("{path}/tree")));
    quiet("bash", &[&script("everything.sh"), &source]);
    let flags = quiet("lsattr", &["-R", &source]);
    let run = world.run(&with(&options, &["ingest", "src"])).ok();
    assert_eq!(run.err, "");
    let what = format!("latest:{source}");
    let mounted = Mounted::new(&world, &options, &what, &point);
    compare(&world, &source, &point);
    if flags.contains("-i--") {
        let told = quiet("lsattr", &["-d", &format!("{point}/tree/flags/locked")]);
        assert!(told.starts_with("----i-"), "{told}");
    }
    world.run(&with(&options, &["restore", &what, "--target", &copy])).ok();
    compare(&world, &source, &copy);
    drop(mounted);
    // In place, there is nothing left to do; and what was taken over unread is the same again.
    let again = world.run(&with(&options, &["restore", "-n", "--json", &what, "--target", &copy])).ok().json().pop().unwrap();
    assert_eq!(again["bytes_written"].as_u64().unwrap_or(0), 0, "{again}");
    std::thread::sleep(std::time::Duration::from_millis(2200));
    world.run(&with(&options, &["ingest", "src"])).ok();
    let run = world.run(&with(&options, &["ingest", "--skip-if-unchanged", "src"])).ok();
    assert!(run.text().starts_with("nothing changed"), "{}", run.text());
    let _mounted = Mounted::new(&world, &options, &what, &point);
    compare(&world, &source, &point);
}

/// The program as nobody, with a home of their own.
fn as_nobody(world: &World, args: &[String]) -> program::Run {
    let program = world.at("yester");
    if !program.exists() {
        program::copy_program(env!("CARGO_BIN_EXE_yester"), &program);
    }
    let id = format!("{NOBODY}");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(program).args(args);
    finish(command.current_dir(world.home()).env_clear().env("HOME", world.home()).env("TZ", "UTC"))
}

/// Gives everything below the home directory to nobody.
fn give_away(world: &World, name: &str) {
    quiet("chown", &["-R", &format!("{NOBODY}:{NOBODY}"), &shown(&world.at(name))]);
}

#[test]
fn a_user_ingests_what_they_may_read() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let options = world.repository();
    world.file("src/mine", "mine");
    world.file("src/open/mine", "mine");
    give_away(&world, ".");
    world.file("src/secret", "secret");
    world.file("src/closed/inside", "secret");
    for (name, mode) in [("src/secret", 0o600), ("src/closed", 0o700)] {
        fs::set_permissions(world.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let run = as_nobody(&world, &with(&options, &["ingest", "src"]));
    assert_eq!(run.code, Some(3), "{}", run.err);
    for name in ["src/secret", "src/closed"] {
        assert!(run.err.contains(&shown(&world.at(name))), "{name}: {}", run.err);
    }
    assert!(!run.err.contains("mine"), "{}", run.err);
    let all = as_nobody(&world, &with(&options, &["ls", "-R", "latest:src"])).ok().text();
    assert!(all.contains("/src/mine\n") && all.contains("/src/open/mine\n") && !all.contains("inside"), "{all}");
    // What could not be read does not hide what the next run may read.
    give_away(&world, "src");
    as_nobody(&world, &with(&options, &["ingest", "src"])).ok();
    let all = as_nobody(&world, &with(&options, &["ls", "-R", "latest:src"])).ok().text();
    assert!(all.contains("/src/secret\n") && all.contains("/src/closed/inside\n"), "{all}");
}

#[test]
fn a_user_restores_what_they_may_set() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let options = world.repository();
    world.file("src/roots", "roots");
    world.file("src/nobodys", "nobodys");
    fs::set_permissions(world.at("src/roots"), fs::Permissions::from_mode(0o4755)).unwrap();
    quiet("mknod", &[&shown(&world.at("src/null")), "c", "1", "3"]);
    give_away(&world, "src/nobodys");
    world.run(&with(&options, &["ingest", "src"])).ok();
    give_away(&world, ".");
    let run = as_nobody(&world, &with(&options, &["restore", "latest:src", "--target", "out"]));
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.err.contains("null") && run.err.contains("roots") && !run.err.contains("nobodys"), "{}", run.err);
    for name in ["roots", "nobodys"] {
        assert_eq!(fs::read_to_string(world.at("out").join(name)).unwrap(), name);
    }
    let roots = fs::metadata(world.at("out/roots")).unwrap();
    assert_eq!((roots.uid(), roots.mode() & 0o7777), (NOBODY, 0o755));
    assert!(!world.at("out/null").exists());
}

#[test]
fn own_mounts_and_repositories_are_never_ingested() {
    if !Path::new("/dev/fuse").exists() || !is_root() {
        return;
    }
    let world = World::new();
    let options = world.repository();
    world.file("src/file", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    let point = shown(&world.at("src/point"));
    let mounted = Mounted::new(&world, &options, "latest", &point);
    let listed = |run: program::Run| {
        assert!(run.err.contains(&point) && run.err.contains("left out"), "{}", run.err);
        let all = world.run(&with(&options, &["ls", "-R", "latest:src"])).ok().text();
        assert_eq!(all, format!("{}\n", shown(&world.at("src/file"))));
    };
    listed(world.run(&with(&options, &["ingest", "src"])).ok());
    // Not when it is asked for either, and nothing in it.
    for given in ["src/point", &format!("src/point/{}", shown(&world.at("src/file")))] {
        let run = world.run(&with(&options, &["ingest", given]));
        assert_eq!(run.code, Some(1), "{}", run.err);
        assert!(run.err.contains("mounted repository"), "{}", run.err);
    }
    let run = world.run(&with(&options, &["ingest", "src/file", "src/point"]));
    assert_eq!(run.code, Some(3), "{}", run.err);
    // A mount that died is no reason to fail.
    let pid = quiet("sh", &["-c", &format!("grep -lz -- '{point}' /proc/[0-9]*/cmdline | grep -v self | cut -d/ -f3")]);
    let serves =
        |pid: &&str| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_yester")));
    let pids: Vec<&str> = pid.lines().filter(serves).collect();
    assert_eq!(pids.len(), 1, "{pid}");
    quiet("kill", &["-9", pids[0]]);
    while !yester::sys::mount::is_dead(Path::new(&point)) {
        std::thread::yield_now();
    }
    listed(world.run(&with(&options, &["ingest", "src"])).ok());
    drop(mounted);
    let run = world.run(&with(&options, &["ingest", "repo"]));
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(run.err.contains("belongs to a repository"), "{}", run.err);
}

#[test]
fn the_cache_is_never_ingested() {
    let world = World::new();
    let key = shown(&world.at("key"));
    let options = ["--repo", "repo", "--key-file", &key, "--cache-dir", "cache"].map(str::to_owned);
    let made = world.run(&with(&options, &["init", "--json"])).ok().json().pop().unwrap();
    world.file(&format!("cache/{}/index", made["id"].as_str().unwrap()), "x");
    world.file("cache/other/file", "x");
    world.run(&with(&options, &["ingest", "cache"])).ok();
    let all = world.run(&with(&options, &["ls", "-R", "latest:cache"])).ok().text();
    assert!(all.contains("/other/file") && !all.contains("index"), "{all}");
}
