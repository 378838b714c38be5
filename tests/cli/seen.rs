//! What a user sees and types: lists of entries, progress, names of snapshots.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::signal;
use crate::common::program;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use program::{Run, World, shown, with};

/// A home with a repository and a directory of some entries.
fn world() -> (World, [String; 4]) {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "alpha");
    world.file("src/b", "beta");
    fs::hard_link(world.at("src/b"), world.at("src/c")).unwrap();
    world.file("src/old/x", "gone soon");
    world.file("src/y.o", "object");
    symlink("a", world.at("src/link")).unwrap();
    (world, options)
}

fn run(world: &World, options: &[String], args: &[&str]) -> Run {
    world.run(&with(options, args))
}

/// Waits until files that are there now are older than two seconds: only those are taken over without being read.
fn age() {
    std::thread::sleep(std::time::Duration::from_millis(2200));
}

/// The lines of a list, with the path below `src` in the place of the whole one.
fn listed(world: &World, run: Run) -> Vec<String> {
    let src = shown(&world.at("src"));
    run.ok().text().lines().filter(|line| line.contains(&src)).map(|line| line.replace(&src, "")).collect()
}

/// What an ingest of it changes: one file's content, another's mode, a new file, and a directory is gone.
fn change(world: &World) {
    world.file("src/a", "alpha, longer");
    fs::set_permissions(world.at("src/b"), fs::Permissions::from_mode(0o600)).unwrap();
    world.file("src/new", "new");
    fs::remove_dir_all(world.at("src/old")).unwrap();
}

#[test]
fn ingest_lists_every_entry_with_its_reason() {
    let (world, options) = world();
    age();
    let first = listed(&world, run(&world, &options, &["ingest", "-v", "src"]));
    assert_eq!(first, ["+ /", "+ /a", "+ /b", "+ /c (hard link)", "+ /link", "+ /old/", "+ /old/x", "+ /y.o"]);
    let again = listed(&world, run(&world, &options, &["ingest", "-v", "src"]));
    assert_eq!(again, ["= /", "= /a", "= /b", "= /c", "= /link", "= /old/", "= /old/x", "= /y.o"]);
    change(&world);
    let expected = [
        "M / (time)",
        "M /a (content, time)",
        "M /b (mode)",
        "M /c (mode)",
        "= /link",
        "+ /new",
        "- /old/ (with 1 entry below it)",
        "x /y.o (excluded)",
    ];
    let args = ["ingest", "-v", "--exclude", "*.o", "src"];
    let dry = listed(&world, run(&world, &options, &[&args[..], &["-n"]].concat()));
    let dry: Vec<&str> = dry.iter().map(|line| if line.starts_with("x ") { "x /y.o (excluded)" } else { line }).collect();
    assert_eq!(dry, expected);
    let json = run(&world, &options, &[&args[..], &["--json"]].concat()).ok().json();
    let (summary, entries) = json.split_last().unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    let words = ["modified", "modified", "modified", "modified", "unchanged", "new", "removed", "excluded"];
    assert_eq!(actions, words);
    assert!(entries.iter().all(|entry| entry["message_type"] == "entry" && entry["path"].is_string()));
    assert_eq!(
        (&entries[1]["type"], &entries[1]["size"], &entries[1]["reason"]),
        (&"file".into(), &13.into(), &"content, time".into())
    );
    // Counts add up, and are those of the list.
    let of = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!((of("files_new"), of("files_changed"), of("files_unmodified"), of("total_files_processed")), (1, 3, 0, 4));
    // Without -v nothing is listed.
    assert!(listed(&world, run(&world, &options, &["ingest", "src"])).is_empty());
}

#[test]
fn a_restore_lists_what_it_does_and_what_it_would_do() {
    let (world, options) = world();
    run(&world, &options, &["ingest", "src"]).ok();
    change(&world);
    let sorted = |run: Run| {
        let mut lines = listed(&world, run);
        lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
        lines
    };
    let args = ["restore", "-v", "latest:src", "--target", "src", "--delete"];
    let dry = sorted(run(&world, &options, &[&args[..], &["-n"]].concat()));
    assert_eq!(dry[..3], ["M /a (size)", "M /b (metadata)", "M /c (hard link)"].map(str::to_owned), "{dry:?}");
    for line in ["= /link", "- /new", "+ /old/", "+ /old/x", "= /y.o"] {
        assert!(dry.contains(&line.to_owned()), "{line}: {dry:?}");
    }
    assert!(world.at("src/new").exists());
    let done = sorted(run(&world, &options, &args));
    assert_eq!(done.iter().map(|line| &line[..4]).collect::<Vec<_>>(), dry.iter().map(|line| &line[..4]).collect::<Vec<_>>());
    let json = run(&world, &options, &[&args[..], &["--json"]].concat()).ok().json();
    let (summary, entries) = json.split_last().unwrap();
    assert!(entries.iter().all(|entry| entry["message_type"] == "entry" && entry["action"] == "unchanged"), "{json:?}");
    assert_eq!(summary["entries_unchanged"].as_u64(), Some(entries.len() as u64));
}

/// Snapshots of src with time, and what they hold.
fn three() -> (World, [String; 4], Vec<String>) {
    let world = World::new();
    let options = world.repository();
    let ingest = |time: &str, host: &str, source: &str| -> String {
        let run = run(&world, &options, &["ingest", "--json", "--host", host, "--time", time, source]).ok();
        run.json().pop().unwrap()["snapshot_id"].as_str().unwrap().to_owned()
    };
    world.file("src/a", "1");
    world.file("src/lost", "here");
    let mut ids = vec![ingest("2026-11-20 10:00:30", "web", "src")];
    fs::remove_file(world.at("src/lost")).unwrap();
    world.file("src/a", "2");
    ids.push(ingest("2026-11-22 10:00:00", "web", "src"));
    world.file("other/b", "b");
    ids.push(ingest("2026-11-24 10:00:00", "db", "other"));
    (world, options, ids)
}

#[test]
fn latest_is_the_newest_that_has_the_path() {
    let (world, options, ids) = three();
    let cat = |spec: &str| run(&world, &options, &["cat", spec]);
    let short = |n: usize| ids[n][..8].to_owned();
    // The newest snapshot is of something else: said, since it is not the one that is read.
    let found = cat("latest:src/a").ok();
    assert_eq!(found.out, b"2");
    assert!(found.err.contains(&short(2)) && found.err.contains(&format!("latest is snapshot {}", short(1))), "{}", found.err);
    assert_eq!(cat("latest:src/lost").ok().out, b"here");
    assert_eq!(cat("latest~1:src/a").ok().out, b"1");
    assert_eq!(cat("latest@web:src/a").ok().out, b"2");
    assert_eq!(cat("latest:other/b").ok().err, "");
    assert_eq!(run(&world, &options, &["-q", "cat", "latest:src/a"]).ok().err, "");
    // What fails says which would do.
    cat(&format!("{}:src/lost", short(1))).fails(1, &["src/lost is not in snapshot", &short(1), "has it is", &short(0)]);
    cat("latest:nowhere").fails(1, &["nowhere is not in snapshot", &short(2), "no other has it"]);
    cat("latest~2:src/a").fails(1, &["latest~2", "only 2 snapshots have", "src/a"]);
    cat("latest@mail:src/a").fails(1, &["latest@mail", "host", "db, web"]);
    run(&world, &options, &["restore", "latest:src/lost", "--target", "out"]).ok();
    assert_eq!(fs::read(world.at("out/lost")).unwrap(), b"here");
}

#[test]
fn a_time_is_the_newest_snapshot_then() {
    let (world, options, ids) = three();
    let ls = |name: &str| run(&world, &options, &["ls", name]);
    let meant = |name: &str| -> usize {
        let said = ls(name).ok().err;
        ids.iter()
            .position(|id| said.contains(&format!("{name} is snapshot {}", &id[..8])))
            .unwrap_or_else(|| panic!("{name}: {said}"))
    };
    for (name, number) in [
        ("2026-11-20", 0),
        ("2026-11-21", 0),
        ("2026-11-22", 1),
        ("2026-11-20T10:00", 0),
        ("2026-11-20 10:00:30", 0),
        ("2026-11-24T09:59:59Z", 1),
        ("2026-11-24T10-00-00Z", 2),
    ] {
        assert_eq!(meant(name), number, "{name}");
    }
    ls("2026-11-20T10:00:29").fails(1, &["2026-11-20T10:00:29", "the oldest is", &ids[0][..8]]);
    assert_eq!(run(&world, &options, &["cat", "2026-11-20T10:00:src/a"]).ok().out, b"1");
    assert_eq!(run(&world, &options, &["cat", "2026-11-23:src/a"]).ok().out, b"2");
    ls("2026-11-31").fails(2, &["2026-11-31", "2 days ago"]);
}

#[test]
fn a_mount_of_filters_that_nothing_passes_is_refused() {
    let (world, options, _) = three();
    fs::create_dir(world.at("m")).unwrap();
    run(&world, &options, &["mount", "--tag", "nosuch", "m"]).fails(1, &["none of 3 snapshots passes the filters", "db, web"]);
    let listed = run(&world, &options, &["snapshots", "--tag", "nosuch"]).ok();
    assert!(listed.err.contains("none of 3 snapshots passes the filters"), "{}", listed.err);
    // A path alone is not enough, and the message says how it is written.
    run(&world, &options, &["ls", "src/a"]).fails(2, &["latest:src/a"]);
    run(&world, &options, &["restore", "src", "-t", "out"]).fails(2, &["names no snapshot", "latest:src"]);
    run(&world, &options, &["cat", "src/a"]).fails(2, &["latest:src/a"]);
    run(&world, &options, &["ingest", "--host", "", "src"]).fails(2, &["--host"]);
    run(&world, &options, &["mount", "-f", "latest:nowhere", "m"]).fails(1, &["nowhere is not in snapshot"]);
}

/// SIGUSR1 asks how far a command is, and ends none.
#[test]
fn a_signal_asks_for_progress() {
    let (world, options) = world();
    for json in [false, true] {
        let mut args = with(&options, &["ingest", "--files-from", "-"]);
        args.extend(json.then(|| "--json".to_owned()));
        let mut command = world.command(&args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It waits for the list; once it handles the signal, it is sent.
        let handles = |line: &str| {
            let mask = line.strip_prefix("SigCgt:").map(|mask| u64::from_str_radix(mask.trim(), 16).unwrap());
            mask.is_some_and(|mask| mask >> (10 - 1) & 1 == 1)
        };
        let status = format!("/proc/{}/status", child.id());
        while !fs::read_to_string(&status).unwrap().lines().any(handles) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        signal(child.id(), rustix::process::Signal::USR1);
        child.stdin.take().unwrap().write_all(shown(&world.at("src")).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out} {err}");
        // It may answer before it has seen an entry: then there is only the time.
        assert!(json || err.lines().any(|line| line.starts_with("yester: ") && line.contains(" s")), "{out} {err}");
        assert!(!json || out.lines().any(|line| line.contains(r#""message_type":"status""#)), "{out}");
    }
}

#[test]
fn help_is_printed_for_the_asking() {
    let world = World::new();
    let help = world.run(&["--help"]).ok().text();
    assert!(help.contains("Commands:") && help.contains("yester ingest ~/documents"), "{help}");
    assert_eq!(world.run::<&str>(&[]).ok().text(), help);
    assert_eq!(world.run(&["help"]).ok().text(), help);
    let restore = world.run(&["restore", "--help"]).ok().text();
    assert_eq!(world.run(&["help", "restore"]).ok().text(), restore);
    assert_eq!(world.run(&["help", "extract"]).ok().text(), restore);
    assert!(!restore.contains("--ssh-command") && restore.contains("yester restore --help-all"), "{restore}");
    let all = world.run(&["restore", "--help-all"]).ok().text();
    assert!(all.contains("--ssh-command") && all.contains("--password-command") && all.contains("--overwrite"), "{all}");
    // The examples come first, in the manual too.
    assert!(restore.find("yester restore latest -t /").unwrap() < restore.find("Usage:").unwrap(), "{restore}");
    world.run(&["man", "man1"]).ok();
    let page = fs::read_to_string(world.at("man1/yester-restore.1")).unwrap();
    let (examples, description) = (page.find(".SH EXAMPLES").unwrap(), page.find(".SH DESCRIPTION").unwrap());
    assert!(examples < description && page[examples..description].contains("yester restore latest"), "{page}");
    assert!(page.contains("ssh\\-command"), "the manual has all options");
}

#[test]
fn words_of_other_tools_are_understood() {
    let (world, options) = world();
    for (word, command) in [("create", "ingest"), ("save", "ingest"), ("verify", "check"), ("gc", "prune"), ("compact", "prune")]
    {
        assert!(world.run(&[word, "--help"]).ok().text().contains(&format!("yester {command} ")), "{word}");
    }
    run(&world, &options, &["create", "src"]).ok();
    assert_eq!(run(&world, &options, &["list-snapshots", "--json"]).ok().json().len(), 1);
    assert!(run(&world, &options, &["du"]).ok().text().contains("together"));
    for unlock in [&["unlock"][..], &["unlock", "--remove-all"], &["break-lock"]] {
        assert!(run(&world, &options, unlock).ok().text().starts_with("nothing is ever locked"));
    }
    for (word, said) in [("grep", "yester find"), ("rebuild-index", "yester repair index"), ("rm", "yester forget")] {
        world.run(&[word, "x"]).fails(2, &[word, said]);
    }
    world.run(&["nonsense"]).fails(2, &["nonsense", "see: yester --help"]);
    world.run(&["extract", "latest", "--frobnicate"]).fails(2, &["--frobnicate", "see: yester restore --help"]);
    world.run(&["key", "add", "--frobnicate"]).fails(2, &["see: yester key add --help"]);
}

#[test]
fn commands_in_messages_name_the_repository_that_was_given() {
    let world = World::new();
    world.run(&["-r", "my repo", "snapshots"]).fails(10, &["yester init --repo 'my repo'"]);
    world.run(&["-r", "my repo", "--key-file", "key", "init"]).ok();
    world.run(&["-r", "my repo", "--key-file", "key", "ls", "latest"]).fails(1, &["yester ingest --repo 'my repo' PATH"]);
    let said =
        world.run_with(&[("YESTER_REPO", "my repo")], &["--key-file", "key", "ls", "latest"]).fails(1, &["yester ingest PATH"]);
    assert!(!said.err.contains("--repo"), "{}", said.err);
}

#[test]
fn repositories_of_other_tools_are_named() {
    let world = World::new();
    for below in ["data", "index", "keys", "locks", "snapshots"] {
        fs::create_dir_all(world.at("old").join(below)).unwrap();
    }
    world.file("old/config", [0; 155]);
    world.file("borg/config", "[repository]\nversion = 1\n");
    fs::create_dir(world.at("borg/data")).unwrap();
    world.file("src/a", "x");
    for (name, tool) in [("old", "restic"), ("borg", "borg")] {
        for args in [&["snapshots"][..], &["ingest", "src"]] {
            world
                .run(&[&["-r", name, "--key-file", "k"], args].concat())
                .fails(10, &[&format!("a repository of {tool}"), "another place"]);
        }
        world.run(&["-r", name, "--key-file", "k", "init"]).fails(1, &[&format!("a repository of {tool}")]);
    }
    assert!(!world.at("k").exists());
}

/// What is kept of an interrupted ingest is said, and what to know of a passphrase.
#[test]
fn init_says_what_losing_the_passphrase_means_and_what_comes_next() {
    let world = World::new();
    let text = world.run_with(&[("YESTER_PASSWORD", "geheim")], &["-r", "repo", "init"]).ok().text();
    for said in ["without its passphrase", "ever be read", "key export", "next: yester ingest --repo repo PATH"] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[test]
fn prune_lists_what_becomes_of_every_pack() {
    let (world, options) = world();
    world.file("src/large", (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<u8>>());
    run(&world, &options, &["ingest", "src"]).ok();
    fs::remove_file(world.at("src/large")).unwrap();
    run(&world, &options, &["ingest", "src"]).ok();
    run(&world, &options, &["forget", "latest~1"]).ok();
    let listed = |args: &[&str]| -> Vec<String> {
        let text = run(&world, &options, args).ok().text();
        text.lines().filter(|line| line.contains("packs/")).map(str::to_owned).collect()
    };
    let dry = listed(&["prune", "-n", "-v"]);
    assert!(dry.iter().any(|line| line.starts_with("- packs/") || line.starts_with("M packs/")), "{dry:?}");
    let json = run(&world, &options, &["prune", "-n", "-v", "--json"]).ok().json();
    assert_eq!(json.iter().filter(|line| line["message_type"] == "entry" && line["type"] == "object").count(), dry.len());
    assert_eq!(listed(&["prune", "-v"]), dry, "the dry run lists the same");
    assert!(listed(&["prune"]).is_empty());
}
