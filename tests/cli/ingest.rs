//! The command line on real data: ingest, list, print.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::signal;
use crate::common::program;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use program::{Run, World, finish, shown, with};
use rustix::process::Signal;

/// A home with a repository and a directory `src` of a few files.
fn world() -> (World, [String; 4]) {
    let world = World::new();
    let options = world.repository();
    world.file("src/a.txt", "alpha\n");
    world.file("src/sub/b.bin", (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>());
    world.file("src/sub/cache.o", vec![7; 5000]);
    symlink("a.txt", world.at("src/link")).unwrap();
    fs::set_permissions(world.at("src/a.txt"), fs::Permissions::from_mode(0o4751)).unwrap();
    (world, options)
}

/// Waits until files that are there now are older than two seconds: only those are taken over without being read.
fn age() {
    std::thread::sleep(std::time::Duration::from_millis(2200));
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn ls(world: &World, options: &[String], args: &[&str]) -> Vec<String> {
    world.run(&with(options, &[&["ls"], args].concat())).ok().text().lines().map(str::to_owned).collect()
}

#[test]
fn the_first_ingest_makes_the_default_repository_and_its_key() {
    let world = World::new();
    world.file("src/a.txt", "alpha\n");
    age();
    let run = world.run(&["ingest", "src"]).ok();
    let (repo, key) = (world.at(".local/share/yester/repository"), world.at(".config/yester/key"));
    for word in [&shown(&repo), &shown(&key), "safe place"] {
        assert!(run.err.contains(word), "{}", run.err);
    }
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let last = run.text().lines().last().unwrap().to_owned();
    let rest = last.strip_prefix("snapshot ").unwrap();
    assert!(is_hex(&rest[..8], 8), "{last}");
    assert!(rest[8..].starts_with(" saved: 1 new, 0 changed, 0 unchanged files; ") && rest.contains(" stored "), "{last}");
    // From here on every command finds both, and nothing more is said.
    let again = world.run(&["backup", "src"]).ok();
    assert_eq!(again.err, "");
    assert!(again.text().contains("1 unchanged"), "{}", again.text());
    assert_eq!(world.run(&["snapshots", "--json"]).ok().json().len(), 2);
    assert_eq!(world.run(&["cat", &format!("latest:{}", shown(&world.at("src/a.txt")))]).ok().out, b"alpha\n");
}

#[test]
fn the_default_repository_takes_the_key_that_is_given() {
    let world = World::new();
    world.file("src/a.txt", "alpha\n");
    world.run_with(&[("YESTER_PASSWORD", "geheim")], &["ingest", "-q", "src"]).ok();
    assert!(!world.at(".config/yester/key").exists());
    world.run(&["snapshots"]).fails(12, &[]);
    world.run_with(&[("YESTER_PASSWORD", "geheim")], &["snapshots"]).ok();
    // A repository that is named is never made.
    world.run(&["-r", "other", "--key-file", "k", "ingest", "src"]).fails(10, &["yester init"]);
}

#[test]
fn ls_shows_what_is_there() {
    let (world, options) = world();
    world.run(&with(&options, &["ingest", "src"])).ok();
    let src = shown(&world.at("src"));
    assert_eq!(ls(&world, &options, &[&format!("latest:{src}")]), ["a.txt", "link", "sub"]);
    // A relative path means the same as for ingest.
    assert_eq!(ls(&world, &options, &["latest:src/./sub/../sub"]), ["b.bin", "cache.o"]);
    let below: Vec<String> = ["/a.txt", "/link", "/sub", "/sub/b.bin", "/sub/cache.o"].map(|p| format!("{src}{p}")).into();
    assert_eq!(ls(&world, &options, &["-R", "latest:src"]), below);
    let all = ls(&world, &options, &["-R", "latest"]);
    assert!(all.contains(&src) && all.ends_with(&below), "{all:?}");
    assert_eq!(ls(&world, &options, &["latest:src/a.txt"]), [format!("{src}/a.txt")]);
    let long = ls(&world, &options, &["-l", "latest:src"]);
    assert!(long[0].starts_with("-rwsr-x--x ") && long[0].contains(" 6 20") && long[0].ends_with(" a.txt"), "{long:?}");
    assert!(long[1].starts_with("lrwxrwxrwx ") && long[1].ends_with(" link -> a.txt"), "{long:?}");
    world.run(&with(&options, &["ls", "latest:src/none"])).fails(1, &["src/none"]);
    world.run(&with(&options, &["ls", "latest:src/a.txt/x"])).fails(1, &["src/a.txt/x is not in snapshot"]);
}

#[test]
fn ls_json_is_exact() {
    let (world, options) = world();
    fs::write(world.home().join(OsStr::from_bytes(b"src/n\xff\n")), "x").unwrap();
    world.run(&with(&options, &["ingest", "src"])).ok();
    let nodes = world.run(&with(&options, &["ls", "--json", "latest:src"])).ok().json();
    assert!(nodes.iter().all(|n| n["message_type"] == "node" && n["mtime"].as_str().unwrap().ends_with('Z')));
    let src = shown(&world.at("src"));
    let file = &nodes[0];
    assert_eq!((&file["path"], &file["type"], &file["size"]), (&format!("{src}/a.txt").into(), &"file".into(), &6.into()));
    assert_eq!((&file["mode"], &file["permissions"]), (&0o4751.into(), &"-rwsr-x--x".into()));
    assert!(file["uid"].is_u64() && file["gid"].is_u64() && file.get("path_b64").is_none());
    assert_eq!((&nodes[1]["type"], &nodes[1]["linktarget"]), (&"symlink".into(), &"a.txt".into()));
    assert_eq!(nodes[2]["path"], format!("{src}/n\u{fffd}\n"));
    assert!(nodes[2]["path_b64"].as_str().is_some_and(|b| b.len() >= 8));
    assert_eq!(nodes[3]["type"], "dir");
}

#[test]
fn cat_gives_the_bytes_back() {
    let (world, options) = world();
    let hole = fs::File::create(world.at("src/hole")).unwrap();
    hole.set_len(3 << 20).unwrap();
    world.file("src/empty", "");
    world.run(&with(&options, &["ingest", "src"])).ok();
    for name in ["src/a.txt", "src/sub/b.bin", "src/sub/cache.o", "src/hole", "src/empty"] {
        let run = world.run(&with(&options, &["cat", &format!("latest:{name}")])).ok();
        assert!(run.out == fs::read(world.at(name)).unwrap(), "{name} differs");
    }
    world.run(&with(&options, &["dump", "latest:src"])).fails(2, &["directory"]);
    world.run(&with(&options, &["cat", "latest:src/link"])).fails(2, &["a.txt"]);
    world.run(&with(&options, &["cat", "latest:src/gone"])).fails(1, &["src/gone"]);
    // Nobody reads on: quietly over.
    let mut command = world.command(&with(&options, &["cat", "latest:src/sub/b.bin"]));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = finish(command.stdout(Stdio::from(writer)));
    assert_eq!((run.code, run.err.as_str()), (None, ""));
}

#[test]
fn what_is_missing_is_3_and_all_missing_is_1() {
    let (world, options) = world();
    let run = world.run(&with(&options, &["ingest", "src", "gone"]));
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.text().contains("snapshot ") && run.err.contains("gone"), "{}", run.err);
    // What is missing is named once, and counted once.
    assert_eq!(run.err.matches("/gone").count(), 1, "{}", run.err);
    let last = run.err.lines().last().unwrap();
    assert_eq!(last, "yester: the snapshot is not complete: 1 given path is not there or cannot be stored");
    assert!(world.run(&with(&options, &["snapshots"])).ok().text().contains("(incomplete)"));
    world.run(&with(&options, &["ingest", "gone", "away"])).fails(1, &["gone"]);
    let json = world.run(&with(&options, &["ingest", "--json", "src", "gone"]));
    let summary = json.json().pop().unwrap();
    assert_eq!((&summary["message_type"], &summary["missing_sources"]), (&"summary".into(), &1.into()));
    assert!(json.err.lines().last().unwrap().contains(r#""code":3"#), "{}", json.err);
}

#[test]
fn the_summary_counts() {
    let (world, options) = world();
    age();
    let ingest = |args: &[&str]| -> serde_json::Value {
        world.run(&with(&options, &[&["ingest", "--json", "src"], args].concat())).ok().json().pop().unwrap()
    };
    let first = ingest(&["--tag", "b,a", "--host", "web", "--time", "2026-01-02 03:04:05"]);
    assert_eq!((&first["message_type"], &first["files_new"], &first["hostname"]), (&"summary".into(), &3.into(), &"web".into()));
    assert!(is_hex(first["snapshot_id"].as_str().unwrap(), 64) && first["data_added"].as_u64().unwrap() > 0);
    world.file("src/new.txt", "new");
    let second = ingest(&["--host", "web"]);
    assert_eq!((&second["files_new"], &second["files_unmodified"]), (&1.into(), &3.into()));
    assert_eq!(second["parent"], first["snapshot_id"]);
    let forced = ingest(&["--host", "web", "--force"]);
    assert!(forced.get("parent").is_none(), "{forced}");
    assert_eq!(forced["data_added"], 0);
    let id = first["snapshot_id"].as_str().unwrap();
    assert_eq!(ingest(&["--host", "web", "--parent", &id[..10]])["parent"], id);
    let skipped = ingest(&["--host", "web", "--skip-if-unchanged"]);
    assert_eq!((&skipped["committed"], skipped.get("snapshot_id")), (&false.into(), None));
    let dry = ingest(&["--host", "web", "-n"]);
    assert_eq!((&dry["committed"], &dry["dry_run"]), (&false.into(), &true.into()));
    let all = world.run(&with(&options, &["snapshots", "--json", "--host", "web"])).ok().json();
    assert_eq!(all.len(), 4);
    assert_eq!((&all[0]["time"], &all[0]["tags"]), (&"2026-01-02T03:04:05.000000000Z".into(), &serde_json::json!(["a", "b"])));
    world.run(&with(&options, &["ingest", "--parent", "c0ffee", "src"])).fails(1, &["c0ffee"]);
}

#[test]
fn exclusions_and_names_reach_the_snapshot() {
    let (world, options) = world();
    world.file("src/build/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    world.file("src/build/out", "x");
    world.file("src/private/.nobackup", "");
    world.file("src/private/key", "x");
    world.file("src/LOUD.TXT", "x");
    world.file("patterns", "# objects\n\n  *.o  \n");
    let args = ["ingest", "--as", "/data", "--exclude-file", "patterns", "--exclude-caches", "--exclude-if-present", ".nobackup"];
    let more = ["--iexclude", "loud.*", "--exclude-larger-than", "1M", "src"];
    world.run(&with(&options, &[&args[..], &more].concat())).ok();
    let all = ls(&world, &options, &["-R", "latest:/data"]);
    assert!(all.contains(&"/data/a.txt".to_owned()) && all.contains(&"/data/sub".to_owned()), "{all:?}");
    for gone in ["cache.o", "out", "key", "LOUD.TXT", "b.bin"] {
        assert!(!all.iter().any(|p| p.ends_with(&format!("/{gone}"))), "{gone} is in {all:?}");
    }
}

#[test]
fn lists_of_paths_are_read() {
    let (world, options) = world();
    let list = format!("{}\n\nsrc/sub/../sub\n", shown(&world.at("src/a.txt")));
    world.run_fed(list.as_bytes(), &with(&options, &["ingest", "--files-from", "-"])).ok();
    let paths = |json: &[serde_json::Value]| json.last().unwrap()["paths"].clone();
    let json = world.run(&with(&options, &["snapshots", "--json"])).ok().json();
    assert_eq!(paths(&json), serde_json::json!([shown(&world.at("src/a.txt")), shown(&world.at("src/sub"))]));
    world.file("src/new\nline", "x");
    world.file("list", "src/new\nline\0");
    world.run(&with(&options, &["ingest", "--files-from0", "list"])).ok();
    let json = world.run(&with(&options, &["snapshots", "--json"])).ok().json();
    assert_eq!(paths(&json), serde_json::json!([shown(&world.at("src/new\nline"))]));
    // One that is read in the other way has no name of its whole length in a message.
    world.file("long", "src/a.txt\0".repeat(2000));
    let refused =
        world.run(&with(&options, &["ingest", "--files-from", "long"])).fails(2, &["path 1 has 20000 bytes", "--files-from0"]);
    assert!(refused.err.len() < 300, "{}", refused.err);
    world.file("empty", "\n");
    world.run(&with(&options, &["ingest", "--files-from", "empty"])).fails(2, &["nothing to ingest"]);
}

#[test]
fn the_repository_is_not_ingested_into_itself() {
    let (world, options) = world();
    world.run(&with(&options, &["ingest", "."])).ok();
    let all = ls(&world, &options, &["-R", &format!("latest:{}", shown(world.home()))]);
    assert!(all.iter().any(|p| p.ends_with("/src/a.txt")), "{all:?}");
    assert!(!all.iter().any(|p| p.contains("/repo/")), "{all:?}");
}

/// An ingest that is told to end so long after it began to store.
fn interrupt(world: &World, options: &[String], pause: Duration) -> Run {
    let sessions: PathBuf = world.at("repo/sessions");
    let before = fs::read_dir(&sessions).unwrap().count();
    let mut child =
        world.command(&with(options, &["ingest", "src"])).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while fs::read_dir(&sessions).unwrap().count() == before && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(pause);
    // One that was waited for has no number any more.
    if child.try_wait().unwrap().is_none() {
        signal(child.id(), Signal::INT);
    }
    let run: std::process::Output = child.wait_with_output().unwrap();
    Run { code: run.status.code(), out: run.stdout, err: String::from_utf8_lossy(&run.stderr).into_owned() }
}

#[test]
fn an_interrupted_ingest_is_130_and_leaves_no_snapshot() {
    let (world, options) = world();
    // Enough to be at work for a while.
    for n in 0..40u8 {
        let noise: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ n).collect();
        world.file(&format!("src/big{n}"), noise);
    }
    // While it walks, and while the walk is over and readers are in the middle of files.
    for pause in [0, 5, 10, 20, 40] {
        interrupt(&world, &options, Duration::from_millis(pause)).fails(130, &["is kept", "run again"]);
    }
    assert!(world.run(&with(&options, &["snapshots", "--json"])).ok().json().is_empty());
    world.run(&with(&options, &["ingest", "src"])).ok();
}

#[test]
fn hard_links_hold_across_the_given_paths() {
    let (world, options) = world();
    world.file("src/one/file", "the same file");
    fs::create_dir(world.at("src/two")).unwrap();
    fs::hard_link(world.at("src/one/file"), world.at("src/two/other")).unwrap();
    assert!(Command::new("mkfifo").arg(world.at("src/one/fifo")).status().unwrap().success());
    fs::hard_link(world.at("src/one/fifo"), world.at("src/two/fifo")).unwrap();
    world.run(&with(&options, &["ingest", "src/two", "src/one"])).ok();
    world.run(&with(&options, &["restore", "latest", "--target", "out"])).ok();
    let root = world.at("out").join(world.at("src").strip_prefix("/").unwrap());
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::symlink_metadata(root.join(path)).unwrap());
    assert_eq!(inode("one/file"), inode("two/other"));
    assert_eq!(inode("one/fifo"), inode("two/fifo"));
    assert_ne!(inode("one/file"), inode("one/fifo"));
}

#[test]
fn stats_count_what_there_is() {
    let world = World::new();
    let options = world.repository();
    let mut noise = vec![0; 300_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    world.file("src/noise", &noise);
    world.file("src/same", &noise);
    let text = b"the same words again and again ".repeat(10_000);
    world.file("src/text", &text);
    world.run(&with(&options, &["ingest", "--host", "one", "src"])).ok();
    world.file("src/more", vec![7; 50_000]);
    world.run(&with(&options, &["ingest", "--host", "two", "src"])).ok();
    let stats = |args: &[&str]| {
        let json = world.run(&with(&options, &[&["stats", "--json"], args].concat())).ok().json();
        assert_eq!((json.len(), &json[0]["message_type"]), (1, &"stats".into()));
        json[0].clone()
    };
    let of = |json: &serde_json::Value, path: &str| json.pointer(path).unwrap_or_else(|| panic!("{path} in {json}")).as_u64();
    let one = stats(&["--host", "one"]);
    let first = 600_000 + text.len() as u64;
    assert_eq!(
        (of(&one, "/snapshots_count"), of(&one, "/total_size"), of(&one, "/total_file_count")),
        (Some(1), Some(first), Some(3))
    );
    // Text of one line repeated is cut into chunks, some of which may be the same.
    let plain = of(&one, "/data/uncompressed_size").unwrap();
    assert!(plain > 300_000 && plain <= 300_000 + text.len() as u64, "{one}");
    let stored = of(&one, "/data/stored_size").unwrap();
    assert!(stored > 300_000 && stored < 310_000, "{one}");
    assert_eq!(one["deduplication_ratio"].as_f64(), Some(first as f64 / plain as f64));
    assert_eq!(one["compression_ratio"].as_f64(), Some(plain as f64 / stored as f64));
    // Both hold little more than the first one.
    let both = stats(&[]);
    assert_eq!((of(&both, "/snapshots_count"), of(&both, "/total_size")), (Some(2), Some(2 * first + 50_000)));
    assert!((plain + 1..=plain + 50_000).contains(&of(&both, "/data/uncompressed_size").unwrap()), "{both}");
    assert_eq!(stats(&["latest", "latest~1", "latest"]), both);
    assert_eq!(of(&stats(&["--host", "none"]), "/data/chunks"), Some(0));
    // What is in the repository is the same whichever snapshots are asked for, and is what the disk says.
    for class in ["data_packs", "tree_packs", "unused_packs", "index_segments", "other_objects", "repository_size"] {
        assert_eq!(one[class], both[class], "{class}");
    }
    let on_disk = Command::new("find").args([&shown(&world.at("repo")), "-type", "f", "-printf", "%s\n"]).output().unwrap();
    let on_disk: u64 = String::from_utf8(on_disk.stdout).unwrap().lines().map(|line| line.parse::<u64>().unwrap()).sum();
    assert_eq!(of(&both, "/repository_size"), Some(on_disk));
    let shown = world.run(&with(&options, &["stats"])).ok().text();
    for word in ["to restore", "deduplication", "compression", "2 snapshots", "whole repository"] {
        assert!(shown.contains(word), "{shown}");
    }
    world.run(&with(&options, &["stats", "c0ffee"])).fails(1, &["c0ffee"]);
    // Without any segment of the index, packs say what is in them.
    for segment in std::fs::read_dir(world.at("repo/index")).unwrap() {
        std::fs::remove_file(segment.unwrap().path()).unwrap();
    }
    let lost = stats(&[]);
    for part in ["data", "trees", "snapshots", "files"] {
        assert_eq!(lost[part], both[part], "{lost}");
    }
}
