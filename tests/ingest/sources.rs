//! What an ingest makes of what it is given: paths that are links or below links, file systems that lie, files that the kernel
//! makes up, patterns, lists of thousands of paths, variables without a value.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::lying;
use crate::common::program;
use crate::ingest::options::meanwhile;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::FileType;
use lying::{Lie, lie};
use program::{Run, World, shown, with};

/// The paths below `base` in the newest snapshot.
fn stored(world: &World, options: &[String], base: &Path) -> Vec<String> {
    let what = format!("latest:{}", shown(base));
    let all = world.run(&with(options, &["ls", "-R", &what])).ok().text();
    let base = format!("{}/", shown(base));
    all.lines().map(|line| line.strip_prefix(&base).unwrap_or(line).to_owned()).collect()
}

fn cat(world: &World, options: &[String], path: &str) -> String {
    world.run(&with(options, &["cat", &format!("latest:{path}")])).ok().text()
}

/// Whether every entry of the newest snapshot can be read and restored.
fn is_whole(world: &World, options: &[String]) {
    world.run(&with(options, &["check", "--read-data"])).ok();
    let _ = fs::remove_dir_all(world.at("out"));
    world.run(&with(options, &["restore", "latest", "--target", "out"])).ok();
}

fn told(run: &Run, words: &[&str]) {
    for word in words {
        assert!(run.err.contains(word), "{word:?} is not in {}", run.err);
    }
}

#[test]
fn a_file_system_that_lies_costs_only_what_cannot_be_stored() {
    let world = World::new();
    let options = world.repository();
    let point = tempfile::tempdir().unwrap();
    let long = "x".repeat(300);
    let attributed = Lie { xattrs: ["user.b", "user.a", "user.b"].map(str::to_owned).to_vec(), ..Lie::file("attributed", "2") };
    let empty = Lie { kind: FileType::Symlink, ..Lie::file("empty-link", "") };
    let badly = Lie { xattrs: vec![format!("user.{}", "n".repeat(251)), "user.good".to_owned()], ..Lie::file("badly", "3") };
    let entries = vec![Lie::file("a", "1"), attributed, empty, Lie::file(&long, "long"), badly, Lie::file("z", "26")];
    let _mounted = lie(point.path(), entries, vec![0, 1, 5, 2, 3, 0, 4, 1, 5, 0]);
    for _ in 0..2 {
        let run = world.run(&with(&options, &["ingest", &shown(point.path())]));
        assert_eq!(run.code, Some(3), "{}", run.err);
        told(
            &run,
            &[
                "/badly: its extended attributes cannot be read: user.nnn",
                "/xxxx",
                "a name of 300 bytes cannot be stored",
                "/empty-link: it cannot be stored",
                "3 entries could not",
            ],
        );
        assert_eq!(stored(&world, &options, point.path()), ["a", "attributed", "badly", "z"]);
        let node =
            world.run(&with(&options, &["ls", "--json", &format!("latest:{}/attributed", shown(point.path()))])).ok().json();
        assert_eq!(node.len(), 1);
        is_whole(&world, &options);
    }
}

#[test]
fn two_files_with_one_inode_number_keep_their_content() {
    let world = World::new();
    let options = world.repository();
    let point = tempfile::tempdir().unwrap();
    // Two of the same size, two of another, and two that are the same in truth.
    let pairs = [("a", "one"), ("b", "two"), ("c", "longer"), ("d", "other!"), ("e", "two")];
    let link = |name: &str, to: &str| Lie { kind: FileType::Symlink, ..Lie::file(name, to) }.linked(77);
    let mut entries: Vec<Lie> = pairs.iter().map(|(name, content)| Lie::file(name, content).linked(77)).collect();
    entries.extend([link("l1", "to"), link("l2", "no")]);
    let listed = (0..entries.len()).collect();
    let _mounted = lie(point.path(), entries, listed);
    for force in [&["--force"][..], &[]] {
        world.run(&with(&options, &[&["ingest", &shown(point.path())], force].concat())).ok();
        for (name, content) in pairs {
            assert_eq!(cat(&world, &options, &format!("{}/{name}", shown(point.path()))), content, "{name}");
        }
        let links = world.run(&with(&options, &["ls", "-l", &format!("latest:{}", shown(point.path()))])).ok().text();
        assert!(links.contains("l1 -> to") && links.contains("l2 -> no"), "{links}");
        is_whole(&world, &options);
    }
}

#[test]
fn true_links_stay_links() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "the same");
    fs::hard_link(world.at("src/a"), world.at("src/b")).unwrap();
    // A new name changes the inode while the walk is under way.
    let renames = |_| {
        fs::hard_link(world.at("src/a"), world.at("other")).unwrap();
        fs::remove_file(world.at("other")).unwrap();
    };
    meanwhile(renames, || {
        for _ in 0..5 {
            let run = world.run(&with(&options, &["ingest", "--force", "src"]));
            assert_eq!(run.code, Some(0), "{}", run.err);
            let _ = fs::remove_dir_all(world.at("out"));
            world.run(&with(&options, &["restore", "latest:src", "--target", "out"])).ok();
            let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(world.at("out").join(name)).unwrap());
            assert_eq!(inode("a"), inode("b"));
        }
    });
}

#[test]
fn what_a_file_gives_is_stored_whatever_its_size_claims() {
    let world = World::new();
    let options = world.repository();
    let point = tempfile::tempdir().unwrap();
    // A FUSE file system that claims nothing and gives something.
    let entries = vec![Lie { size: 0, ..Lie::file("claims-0", "what it gives") }];
    let _mounted = lie(point.path(), entries, vec![0]);
    world.run(&with(&options, &["ingest", &shown(point.path())])).ok();
    assert_eq!(cat(&world, &options, &format!("{}/claims-0", shown(point.path()))), "what it gives");
    for path in ["/proc/version", "/proc/sys/kernel/ostype", "/sys/kernel/mm/transparent_hugepage/enabled"] {
        let Ok(content) = fs::read_to_string(path) else { continue };
        for _ in 0..2 {
            let run = world.run(&with(&options, &["ingest", path]));
            assert_eq!(run.code, Some(0), "{path}: {}", run.err);
            assert_eq!(cat(&world, &options, path), content, "{path}");
        }
    }
    // Counted is what was stored, not what was claimed, and nothing of what is left out.
    let path = shown(&point.path().join("claims-0"));
    for _ in 0..2 {
        let json = world.run(&with(&options, &["ingest", "--json", &path])).json().pop().unwrap();
        assert_eq!(json["total_bytes_processed"], "what it gives".len(), "{json}");
    }
    // What never ends, and what claims more than there is, is named and left out.
    let run = world.run(&with(&options, &["ingest", "/proc/version", "/proc/self/pagemap"]));
    assert!(run.code == Some(3) && run.err.contains("pagemap: it cannot be read: "), "{}", run.err);
    is_whole(&world, &options);
}

#[test]
fn every_given_path_is_stored_or_told() {
    let world = World::new();
    let options = world.repository();
    world.file("real/f", "content");
    world.file("home/u/x", "x");
    symlink("../../real", world.at("home/u/docs")).unwrap();
    let run = world.run(&with(&options, &["ingest", "home", "home/u/docs/f"]));
    assert_eq!(run.code, Some(3), "{}", run.err);
    told(
        &run,
        &["docs/f: it cannot be ingested: it is below the link ", "/home/u/docs, ", "/real/f", "1 given path is not there"],
    );
    let json = world.run(&with(&options, &["ingest", "--json", "home", "home/u/docs/f"])).json().pop().unwrap();
    assert_eq!(json["missing_sources"], 1);
    // Alone it leads there.
    world.run(&with(&options, &["ingest", "home/u/docs/f"])).ok();
    assert_eq!(cat(&world, &options, &shown(&world.at("home/u/docs/f"))), "content");
    // Below a file.
    let run = world.run(&with(&options, &["ingest", "home/u/x", "home/u/x/y"]));
    assert_eq!(run.code, Some(3), "{}", run.err);
    told(&run, &["x/y: it cannot be ingested: ", "/home/u/x is no directory"]);
    let run = world.run(&with(&options, &["ingest", "real", "home/u/x/y"]));
    assert_eq!(run.code, Some(3), "{}", run.err);
    told(&run, &["/home/u/x is no directory", "1 given path is not there"]);
    assert!(!stored(&world, &options, world.home()).contains(&"home/u/x".to_owned()));
    // Below what is not there, and below what is left out.
    let run = world.run(&with(&options, &["ingest", "real", "gone/a", "gone/b"]));
    assert!(run.code == Some(3) && run.err.contains("2 given paths are not there"), "{}", run.err);
    world.run(&with(&options, &["ingest", "-e", "u", "home", "home/u/x"])).ok();
    assert_eq!(stored(&world, &options, &world.at("home")), ["u", "u/docs", "u/x"]);
}

#[test]
fn a_slash_behind_a_link_follows_it() {
    let world = World::new();
    let options = world.repository();
    world.file("real/f", "content");
    symlink("real", world.at("current")).unwrap();
    symlink("real/f", world.at("file")).unwrap();
    let node = |args: &[&str]| {
        let run = world.run(&with(&options, &[&["ingest"], args].concat())).ok();
        let all = world.run(&with(&options, &["ls", "-l", "-R", &format!("latest:{}", shown(world.home()))])).ok().text();
        (run.err, all)
    };
    for followed in ["current/", "current/.", "./current//"] {
        let (err, all) = node(&[followed]);
        assert!(all.contains("/current/f\n") && !all.contains("->") && err.is_empty(), "{followed}: {all} {err}");
    }
    let (err, all) = node(&["current"]);
    assert!(all.contains("current -> real") && !all.contains("/current/f"), "{all}");
    assert!(err.contains("it is a link, and only the link is stored: ") && err.contains("/current/ is what"), "{err}");
    let (err, _) = node(&["-q", "current"]);
    assert_eq!(err, "");
    assert!(node(&["file"]).0.contains("give the path that it leads to"));
    // What a slash behind a plain directory or file means.
    assert!(node(&["real/"]).1.contains("/real/f\n"));
    world.run(&with(&options, &["ingest", "current", "current/"])).fails(2, &["two sources"]);
    world.run(&with(&options, &["ingest", "file/"])).fails(1, &[]);
    let run = world.run(&with(&options, &["ingest", "current", "current/f"]));
    assert!(run.code == Some(3) && run.err.contains("current/f: it cannot be ingested: it is below the link"), "{}", run.err);
    // A list of links is no flood.
    for n in 0..20 {
        symlink("real", world.at(&format!("link{n}"))).unwrap();
    }
    let links: Vec<String> = (0..20).map(|n| format!("link{n}")).collect();
    let (err, _) = node(&links.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(err.lines().count() == 4 && err.contains("20 of them are links"), "{err}");
    // The repository is found behind a link, too.
    symlink("repo/packs", world.at("to-packs")).unwrap();
    let run = world.run(&with(&options, &["ingest", "real", "to-packs/"]));
    assert!(run.code == Some(3) && run.err.contains("belongs to a repository"), "{}", run.err);
}

#[test]
fn what_no_snapshot_can_hold_is_refused_before_it_is_read() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "a");
    let list: String = (0..65_537).map(|n| format!("src/{n}\n")).chain(["src/a\n".to_owned()]).collect();
    world.run_fed(list.as_bytes(), &with(&options, &["ingest", "--files-from", "-"])).fails(2, &["65538 paths", "65536"]);
    let host = "h".repeat(100_000);
    world.run(&with(&options, &["ingest", "--host", &host, "src"])).fails(2, &["the host hhh", "100000 bytes"]);
    world.run(&with(&options, &["ingest", "--tag", &host, "src"])).fails(2, &["the tag hhh"]);
    // Nothing is made for what cannot be done.
    for bad in [&["--host", &host][..], &["-e", ""], &["-e", "["], &["--changed-is-ok", "!"]] {
        world.run(&[&["ingest", "src"], bad].concat()).fails(2, &[]);
    }
    assert!(!world.at(".local").exists());
    assert!(world.run(&with(&options, &["snapshots", "--json"])).ok().json().is_empty());
    world.run(&with(&options, &["check"])).ok();
}

#[test]
fn patterns_are_what_they_look_like() {
    let world = World::new();
    let options = world.repository();
    for name in ["src/cache/x", "src/a/b/x", "src/keep.log", "src/drop.log", "src/logs/y.log", "other/cache/x"] {
        world.file(name, "x");
    }
    let left = |patterns: &[&str]| {
        let mut args = vec!["ingest", "src", "other"];
        patterns.iter().for_each(|pattern| args.extend(["-e", pattern]));
        world.run(&with(&options, &args)).ok();
        stored(&world, &options, world.home())
    };
    let all = left(&[]);
    let gone = |patterns: &[&str]| {
        let left = left(patterns);
        all.iter().filter(|path| !left.contains(path)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(gone(&["./src/cache"]), ["src/cache", "src/cache/x"]);
    assert_eq!(gone(&["~/src/cache"]), ["src/cache", "src/cache/x"]);
    assert_eq!(gone(&["$HOME/src/cache/"]), ["src/cache", "src/cache/x"]);
    let sideways = format!("../{}/src/cache", world.home().file_name().unwrap().to_str().unwrap());
    assert_eq!(gone(&[&sideways]), ["src/cache", "src/cache/x"]);
    assert_eq!(gone(&["a//b"]), ["src/a/b", "src/a/b/x"]);
    assert_eq!(gone(&["*.log", "!keep.log"]), ["src/drop.log", "src/logs/y.log"]);
    assert_eq!(gone(&["!keep.log", "*.log"]), ["src/drop.log", "src/keep.log", "src/logs/y.log"]);
    for bad in ["", "!", "/", "a/../b", "$TMPDIR/x", "["] {
        world.run(&with(&options, &["ingest", "-e", bad, "src"])).fails(2, &["pattern"]);
    }
    // A file of patterns that an editor marked; what is typed takes back what it says.
    world.file("patterns", "\u{feff}*.log\r\n# a remark\r\n\r\n~/other/cache\r\n");
    world.run(&with(&options, &["ingest", "--exclude-file", "patterns", "-e", "!drop.log", "src", "other"])).ok();
    let left = stored(&world, &options, world.home());
    assert_eq!(left, ["other", "src", "src/a", "src/a/b", "src/a/b/x", "src/cache", "src/cache/x", "src/drop.log", "src/logs"]);
    // What matches nothing is named where one looks for it.
    let args = ["ingest", "-n", "-e", "nosuch", "-e", "*.log", "-e", "!never", "src"];
    let run = world.run(&with(&options, &args)).ok();
    told(&run, &["nothing matches the pattern nosuch", "nothing matches the pattern !never"]);
    assert!(!run.err.contains("*.log"), "{}", run.err);
    let run = world.run(&with(&options, &["ingest", "-n", "-v", "-e", "*.log", "--exclude-larger-than", "0", "src"])).ok();
    assert!(run.text().contains("pattern *.log") && run.text().contains("larger than 0 bytes"), "{}", run.text());
    assert!(world.run(&["ingest", "--help"]).ok().text().contains("takes back"));
    assert!(world.run(&["ingest", "--help-all"]).ok().text().contains("!keep.log"));
    let json = world.run(&with(&options, &["ingest", "--json", "-e", "nosuch", "src"])).ok().json().pop().unwrap();
    assert_eq!(json["unmatched_patterns"], serde_json::json!(["nosuch"]));
}

#[test]
fn metadata_that_moves_is_not_content_that_moves() {
    let world = World::new();
    let options = world.repository();
    let busy = world.file("src/busy.log", vec![7; 4 << 20]);
    let run = |change: &(dyn Fn(u64) + Sync), more: &[&str]| {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..).take_while(|_| !over.load(Ordering::Relaxed)).for_each(change));
            let run = world.run(&with(&options, &[&["ingest", "--force", "src"], more].concat()));
            over.store(true, Ordering::Relaxed);
            run
        })
    };
    let modes = |n: u64| {
        let mode = if n.is_multiple_of(2) { 0o600 } else { 0o640 };
        fs::set_permissions(&busy, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    for _ in 0..3 {
        let run = run(&modes, &[]);
        assert_eq!(run.code, Some(0), "{}", run.err);
    }
    let file = fs::File::options().write(true).open(&busy).unwrap();
    let writes = |n: u64| std::os::unix::fs::FileExt::write_all_at(&file, &[n as u8], 100).unwrap();
    // A run may slip in between two changes, when the machine has much to do.
    assert!((0..100).any(|_| run(&writes, &[]).code == Some(3)), "every write was missed");
    for _ in 0..5 {
        let run = run(&writes, &["--changed-is-ok", "*.log"]);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    }
    assert!((0..100).any(|_| run(&writes, &["--changed-is-ok", "*.txt"]).code == Some(3)));
}

#[test]
fn attributes_are_left_out_by_name() {
    let world = World::new();
    let options = world.repository();
    let path = world.file("src/a", "a");
    let file = fs::File::open(&path).unwrap();
    if yester::sys::xattr::set(&file, b"user.keep", b"v").is_err() {
        return;
    }
    yester::sys::xattr::set(&file, b"user.drop.this", b"v").unwrap();
    world.run(&with(&options, &["ingest", "--exclude-xattr", "user.drop.*", "src"])).ok();
    world.run(&with(&options, &["restore", "latest:src", "--target", "out"])).ok();
    let restored = yester::sys::xattr::list(fs::File::open(world.at("out/a")).unwrap()).unwrap();
    let names: Vec<_> = restored.iter().map(|(name, _)| name.as_slice()).filter(|name| name.starts_with(b"user.")).collect();
    assert_eq!(names, [b"user.keep"]);
    world.run(&with(&options, &["ingest", "--exclude-xattr", "[", "src"])).fails(2, &["pattern"]);
}

#[test]
fn thousands_of_given_paths_are_no_square() {
    let world = World::new();
    let options = world.repository();
    let files: Vec<String> = (0..4000).map(|n| format!("src/{}/{n}", n % 10)).collect();
    files.iter().for_each(|name| drop(world.file(name, "x")));
    let list = files.join("\n");
    for _ in 0..2 {
        let run = world.run_fed(list.as_bytes(), &with(&options, &["ingest", "--files-from", "-"])).ok();
        assert_eq!(run.err, "");
    }
    let json = world.run(&with(&options, &["snapshots", "--json"])).ok().json();
    assert_eq!(json[0]["paths"].as_array().unwrap().len(), 4000);
    // People see a few of them, and how many there are.
    for command in [&["snapshots"][..], &["forget", "-n", "--keep-last", "1"]] {
        let text = world.run(&with(&options, command)).ok().text();
        assert!(text.contains("and 3,997 more") && text.lines().all(|line| line.len() < 1000), "{text}");
    }
}

#[test]
fn a_variable_without_a_value_is_an_error_that_names_it() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "a");
    world.run_with(&[("YESTER_REPO", "")], &["ingest", "src"]).fails(2, &["YESTER_REPO"]);
    assert!(!world.at(".local").exists());
    // What an option says beats it.
    finish_ok(&world, &[("YESTER_REPO", "")], &with(&options, &["snapshots"]));
    for name in ["YESTER_KEY_FILE", "YESTER_PASSWORD_FILE", "YESTER_PASSWORD_COMMAND"] {
        world.run_with(&[(name, "")], &["--repo", &options[1], "snapshots"]).fails(2, &[name]);
    }
    world.run_with(&[("YESTER_PASSWORD", "")], &["--repo", &options[1], "snapshots"]).fails(12, &["YESTER_PASSWORD"]);
    for name in ["YESTER_TOKEN", "YESTER_TOKEN_FILE", "YESTER_TOKEN_COMMAND", "YESTER_TLS_FINGERPRINT", "YESTER_CACERT"] {
        let args = ["--repo", "https://127.0.0.1:9/r", "--key-file", "key", "snapshots"];
        world.run_with(&[(name, "")], &args).fails(2, &[name]);
    }
    for name in ["YESTER_SSH_COMMAND", "YESTER_REMOTE_PROGRAM"] {
        world.run_with(&[(name, "")], &["--repo", "ssh://h/r", "--key-file", "key", "snapshots"]).fails(2, &[name]);
    }
    let args = with(&options, &["key", "add"]);
    for name in ["YESTER_NEW_KEY_FILE", "YESTER_NEW_PASSWORD_FILE", "YESTER_NEW_PASSWORD_COMMAND"] {
        world.run_with(&[(name, "")], &args).fails(2, &[name]);
    }
    world.run_with(&[("YESTER_NEW_PASSWORD", "")], &args).fails(12, &["YESTER_NEW_PASSWORD"]);
}

fn finish_ok(world: &World, variables: &[(&str, &str)], args: &[String]) {
    program::finish(Command::env(&mut world.command(args), variables[0].0, variables[0].1)).ok();
}
