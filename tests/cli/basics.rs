//! The command line without an ingest: exit codes, messages, keys, places, names of snapshots.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use program::{Run, World, finish, shown, with};
use yester::model::{Directory, Kind, Metadata, Node, Snapshot, SnapshotId, Statistics, Timestamp};
use yester::repo::snapshots;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Commits a snapshot of an empty tree, `hour` hours after 2026-11-20T00:00:00Z.
fn commit(world: &World, id: u8, hour: i64, host: &str, tags: &[&str]) {
    let repo = world.open_repository();
    let time = Timestamp { secs: 1_795_132_800 + hour * 3600, nanos: 5 };
    let root = Node {
        name: Vec::new(),
        meta: Metadata { mode: 0o755, ..Metadata::default() },
        kind: Kind::Directory(Directory::default()),
        link: None,
        given: true,
        changed: false,
        left_out: Default::default(),
    };
    let snapshot = Snapshot {
        id: SnapshotId([id; 32]),
        time,
        finished: time,
        host: host.as_bytes().to_vec(),
        user: b"root".to_vec(),
        paths: vec![b"/etc".to_vec(), b"/srv/\x1b\xff".to_vec()],
        tags: tags.iter().map(|t| t.as_bytes().to_vec()).collect(),
        parent: None,
        writer: None,
        chain: yester::model::Chain::default(),
        root,
        scan: None,
        scan_start: time,
        links: None,
        owners: Default::default(),
        rules: Vec::new(),
        composition: Default::default(),
        statistics: Statistics { files: 1234, bytes: 5 << 20, ..Statistics::default() },
        program: b"test".to_vec(),
    };
    assert!(snapshots::commit(&repo, &snapshot).unwrap());
}

/// A repository with four snapshots of two hosts.
fn populated() -> (World, [String; 4]) {
    let world = World::new();
    let options = world.repository();
    commit(&world, 0xa1, 1, "web", &["daily"]);
    commit(&world, 0xa2, 2, "web", &["daily", "kept"]);
    commit(&world, 0xb3, 3, "db", &[]);
    commit(&world, 0xa4, 4, "web", &[]);
    (world, options)
}

#[test]
fn no_repository_is_10() {
    let world = World::new();
    world.run(&["snapshots"]).fails(10, &["yester ingest PATH", "--repo", &shown(&world.at(".local/share/yester/repository"))]);
    world.run(&["-r", "nowhere", "snapshots"]).fails(10, &[&shown(&world.at("nowhere")), "yester init"]);
    world.file("file", "");
    for args in [["ls", "latest"], ["cat", "latest:/x"], ["mount", "m"]] {
        world.run(&[&["-r", "file"][..], &args].concat()).fails(10, &[]);
    }
    // Nothing but ingest makes the default repository, and only when there is something to ingest.
    world.run(&["ingest", "gone"]).fails(1, &["gone"]);
    assert!(!world.at(".local").exists() && !world.at(".config").exists());
}

/// What other tools call a repository makes no directory of that name: it is refused with the form that is right.
#[test]
fn other_tools_names_of_repositories_make_nothing() {
    let world = World::new();
    world.file("notes", "x");
    let names = [
        ("root@host:/path", "ssh://root@host/path"),
        ("host:path", "ssh://host/./path"),
        ("sftp:root@host:/path", "ssh://root@host/path"),
        ("rest:https://host/", "https://HOST:PORT/NAME"),
        ("s3://bucket/web", "s3:https://ENDPOINT/BUCKET/PREFIX"),
        ("b2:bucket", "https://"),
    ];
    for (name, form) in names {
        let code = if form == "https://" { 1 } else { 2 };
        for command in [&["init"][..], &["ingest", "notes"], &["snapshots"]] {
            world.run(&[&["--key-file", "key", "--repo", name], command].concat()).fails(code, &[form]);
            world.run_with(&[("YESTER_REPO", name)], &[&["--key-file", "key"], command].concat()).fails(code, &[form]);
        }
    }
    let left: Vec<_> = fs::read_dir(world.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes"]);
}

#[test]
fn usage_is_2_and_one_line() {
    let world = World::new();
    let bad: [&[&str]; 10] = [
        &["nonsense"],
        &["snapshots", "--latest", "many"],
        &["ls"],
        &["ingest"],
        &["ingest", "--compression", "20", "/etc"],
        &["ingest", "--exclude-larger-than", "big", "/etc"],
        &["restore", "latest"],
        &["mount", "a", "b", "c"],
        &["--password-file", "a", "--key-file", "b", "snapshots"],
        &["cat", "latest"],
    ];
    for args in bad {
        world.run(args).fails(2, &[]);
    }
    world.run(&["snapshots", "--frobnicate"]).fails(2, &["--frobnicate", "--help"]);
    world.run(&["ingest", "--as", "/x", "/etc", "/usr"]).fails(2, &["--as"]);
}

#[test]
fn errors_are_also_json() {
    let world = World::new();
    for (args, code) in [(vec!["--json", "snapshots"], 10), (vec!["snapshots", "--json"], 10), (vec!["--json", "nonsense"], 2)] {
        let run = world.run(&args);
        assert_eq!(run.code, Some(code));
        assert!(run.out.is_empty());
        let lines: Vec<&str> = run.err.lines().collect();
        let [text, json] = lines[..] else { panic!("{:?}", run.err) };
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((json["message_type"].as_str(), json["code"].as_i64()), (Some("exit_error"), Some(i64::from(code))));
        assert_eq!(text, format!("yester: {}", json["message"].as_str().unwrap()));
    }
}

#[test]
fn help_and_version_are_0() {
    let world = World::new();
    assert!(world.run(&["--help"]).ok().text().contains("ingest"));
    assert!(world.run(&["ingest", "-h"]).ok().text().contains("--exclude-if-present"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(world.run(&["version"]).ok().text(), format!("yester {version}\n"));
    assert_eq!(world.run(&["-V"]).ok().text(), format!("yester {version}\n"));
    let json = world.run(&["version", "--json"]).ok().json();
    assert_eq!((json[0]["message_type"].as_str(), json[0]["version"].as_str()), (Some("version"), Some(version)));
    // The old names of other programs work.
    for alias in ["backup", "list", "dump", "extract"] {
        world.run(&[alias, "--help"]).ok();
    }
}

#[test]
fn init_makes_a_key_file_that_opens() {
    let world = World::new();
    let said = world.run(&["-r", "repo", "--key-file", "keys/new", "init"]).ok().text();
    let key = world.at("keys/new");
    assert!(said.contains(&shown(&world.at("repo"))) && said.contains(&shown(&key)) && said.contains("safe place"), "{said}");
    assert_eq!((mode(&world.at("repo")), mode(&world.at("keys")), mode(&key)), (0o700, 0o700, 0o600));
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.len() == 65 && text.ends_with('\n') && text.trim().bytes().all(|b| b.is_ascii_hexdigit()), "{text:?}");
    world.run(&["-r", "repo", "--key-file", "keys/new", "snapshots"]).ok();
    // The same key as 32 bytes.
    let raw: [u8; 32] = yester::model::id::from_hex(text.trim()).unwrap();
    world.file("raw", raw);
    world.run(&["-r", "repo", "--key-file", "raw", "snapshots"]).ok();
    // A key file that is there is used and not replaced.
    world.run(&["-r", "second", "--key-file", "keys/new", "init"]).ok();
    assert_eq!(fs::read_to_string(&key).unwrap(), text);
    let json = world.run(&["-r", "third", "--key-file", "keys/third", "init", "--json"]).ok().json();
    assert_eq!(json[0]["message_type"], "initialized");
    assert_eq!(json[0]["path"], shown(&world.at("third")));
    assert_eq!(json[0]["key_file"], shown(&world.at("keys/third")));
}

#[test]
fn init_takes_only_what_is_free() {
    let world = World::new();
    let options = world.repository();
    let again = ["-r", "repo", "--key-file", "other", "init"];
    world.run(&again).fails(1, &["already", &shown(&world.at("repo"))]);
    world.file("full/file", "x");
    world.run(&["-r", "full", "--key-file", "other", "init"]).fails(1, &["not empty"]);
    world.run(&["-r", "full/file", "--key-file", "other", "init"]).fails(1, &["full/file"]);
    // Refused before a key was made.
    assert!(!world.at("other").exists());
    assert_eq!(fs::read(world.at("full/file")).unwrap(), b"x");
    fs::create_dir(world.at("empty")).unwrap();
    world.run(&["-r", "empty", "--key-file", "other", "init"]).ok();
    world.run(&with(&options, &["snapshots"])).ok();
}

#[test]
fn without_a_key_it_is_12() {
    let world = World::new();
    world.run(&["-r", "new", "init"]).fails(12, &["--key-file", "--password-file"]);
    assert!(!world.at("new").exists());
    world.repository();
    world.run(&["-r", "repo", "snapshots"]).fails(12, &["--key-file", "no terminal"]);
    world.file("wrong", "00".repeat(32));
    world.run(&["-r", "repo", "--key-file", "wrong", "snapshots"]).fails(12, &["does not open"]);
    world.run_with(&[("YESTER_PASSWORD", "wrong")], &["-r", "repo", "snapshots"]).fails(12, &["passphrase"]);
    world.file("short", "00".repeat(31));
    world.run(&["-r", "repo", "--key-file", "short", "snapshots"]).fails(12, &["64 hexadecimal digits"]);
    world.run(&["-r", "repo", "--key-file", "gone", "snapshots"]).fails(12, &["gone"]);
    world.run(&["-r", "repo", "--password-file", "gone", "snapshots"]).fails(12, &["gone"]);
}

#[test]
fn passphrases_come_from_options_before_variables() {
    let world = World::new();
    world.file("right", "geheim und lang\n");
    world.file("false", "something else\n");
    world.file("empty", "\n");
    world.run(&["-r", "repo", "--password-file", "right", "init"]).ok();
    let list = |variables: &[(&str, &str)], args: &[&str]| -> Run {
        world.run_with(variables, &[&["-r", "repo"], args, &["snapshots"]].concat())
    };
    list(&[("YESTER_PASSWORD", "geheim und lang")], &[]).ok();
    list(&[("YESTER_PASSWORD_FILE", "right")], &[]).ok();
    list(&[("YESTER_PASSWORD_COMMAND", "cat right")], &[]).ok();
    list(&[("YESTER_PASSWORD_FILE", "right"), ("YESTER_PASSWORD", "no")], &[]).ok();
    list(&[("YESTER_PASSWORD_COMMAND", "cat right"), ("YESTER_PASSWORD_FILE", "false")], &[]).ok();
    list(&[("YESTER_PASSWORD", "no"), ("YESTER_KEY_FILE", "gone")], &["--password-command", "printf '%s\\n' 'geheim und lang'"])
        .ok();
    list(&[("YESTER_PASSWORD", "geheim und lang")], &["--password-file", "false"]).fails(12, &["wrong passphrase"]);
    list(&[("YESTER_PASSWORD", "")], &[]).fails(12, &["empty"]);
    list(&[], &["--password-file", "empty"]).fails(12, &["empty"]);
    // What the command prints or is must not be in the error.
    let run = list(&[], &["--password-command", "echo geheim; exit 3 # geheim"]).fails(12, &["password command", "3"]);
    assert!(!run.err.contains("geheim"));
}

#[test]
fn places_follow_xdg() {
    let world = World::new();
    let places = [("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")].map(|(n, d)| (n, shown(&world.at(d))));
    let xdg: Vec<(&str, &str)> = places.iter().map(|(n, d)| (*n, d.as_str())).collect();
    world.run_with(&xdg, &["snapshots"]).fails(10, &[&shown(&world.at("data/yester/repository"))]);
    // The default repository's key file needs no option, whether the repository is named or not.
    let key = shown(&world.at("config/yester/key"));
    world.run_with(&xdg, &["init", "--key-file", &key]).ok();
    world.run_with(&xdg, &["snapshots"]).ok();
    world.run_with(&xdg, &["-r", "data/yester/repository", "snapshots"]).ok();
    fs::remove_file(&key).unwrap();
    world.run_with(&xdg, &["snapshots"]).fails(12, &[&key]);
}

#[test]
fn without_a_home_a_repository_must_be_named() {
    let world = World::new();
    let options = world.repository();
    let homeless = |args: &[String]| finish(world.command(args).env_remove("HOME"));
    homeless(&with(&[], &["snapshots"])).fails(2, &["--repo", "HOME"]);
    homeless(&with(&[], &["ingest", "/etc"])).fails(2, &["--repo"]);
    homeless(&with(&options, &["snapshots"])).ok();
    finish(world.command(&["snapshots"]).env("HOME", "relative")).fails(2, &["--repo"]);
    let repo = shown(&world.at("repo"));
    let variables = [("YESTER_REPO", repo.as_str()), ("YESTER_KEY_FILE", "key")];
    finish(world.command(&["snapshots"]).env_remove("HOME").envs(variables)).ok();
    // An option beats the variable.
    world.run_with(&variables, &["-r", "nowhere", "snapshots"]).fails(10, &["nowhere"]);
}

#[test]
fn other_kinds_of_repositories_are_named_and_secrets_are_not() {
    let world = World::new();
    for command in [&["snapshots"][..], &["--key-file", "k", "init"]] {
        let at = |name| [&["-r", name], command].concat();
        world.run(&at("swift:bucket/web")).fails(1, &["S3 protocol", "s3:https://ENDPOINT/BUCKET/PREFIX"]);
        world.run(&at("s3:ceph.example/bucket/web")).fails(2, &["s3:https://ENDPOINT/BUCKET/PREFIX"]);
        world.run(&at("https://backup.example:7070/web")).fails(12, &["YESTER_TOKEN"]);
        world.run(&at("https://backup.example:7070")).fails(2, &["https://HOST:PORT/NAME"]);
        world.run(&at("ssh://-oProxyCommand=x/web")).fails(2, &["begin with -"]);
    }
    for name in [
        "https://user:geheim@host/web",
        "https://geheim@host/web",
        "ssh://u:geheim@host/x",
        "s3:https://k:geheim@h/b",
        "https://h/w?token=geheim",
    ] {
        for run in [world.run(&["-r", name, "snapshots"]), world.run_with(&[("YESTER_REPO", name)], &["--json", "snapshots"])] {
            assert_eq!(run.code, Some(2), "{}", run.err);
            let way = if name.starts_with("s3:") { "AWS_ACCESS_KEY_ID" } else { "YESTER_TOKEN" };
            assert!(!run.err.contains("geheim") && run.err.contains(way), "{}", run.err);
        }
    }
}

#[test]
fn snapshots_are_listed_by_series() {
    let (world, options) = populated();
    let text = world.run(&with(&options, &["snapshots"])).ok().text();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines.iter().filter(|l| l.contains(": /etc, /srv/\\u{1b}\\xff")).count(), 2, "{text}");
    let first = lines.iter().find(|l| l.starts_with("a1a1a1a1")).unwrap();
    for part in ["2026-11-20 01:00:00", "1,234", "5.00 MiB", "daily"] {
        assert!(first.contains(part), "{first}");
    }
    assert_eq!(lines.last(), Some(&"4 snapshots in 2 series"));
    let ids = |args: &[&str]| -> Vec<String> {
        let json = world.run(&with(&options, &[&["snapshots", "--json"], args].concat())).ok().json();
        json.iter().map(|s| s["short_id"].as_str().unwrap()[..2].to_owned()).collect()
    };
    assert_eq!(ids(&[]), ["a1", "a2", "b3", "a4"]);
    assert_eq!(ids(&["--latest", "1"]), ["b3", "a4"]);
    assert_eq!(ids(&["--host", "web", "--latest", "2"]), ["a2", "a4"]);
    assert_eq!(ids(&["--tag", "daily"]), ["a1", "a2"]);
    assert_eq!(ids(&["--tag", "daily,kept", "--tag", "x"]), ["a2"]);
    assert_eq!(ids(&["--path", "/etc/."]), ["a1", "a2", "b3", "a4"]);
    assert!(ids(&["--path", "/usr"]).is_empty());
    // A time is where it begins, and counts as newer.
    assert_eq!(ids(&["--newer-than", "2026-11-20T02:00:00.000000005Z"]), ["a2", "b3", "a4"]);
    assert_eq!(ids(&["--older-than", "2026-11-20T02:00:00.000000005Z"]), ["a1"]);
    assert_eq!(ids(&["--newer-than", "2026-11-20T02:00:00Z", "--older-than", "2026-11-20T04:00:00Z"]), ["a2", "b3"]);
    assert_eq!(ids(&["--older-than", "1 second ago", "--host", "db"]), ["b3"]);
    assert!(ids(&["--newer-than", "2037-01-01"]).is_empty());
    world.run(&with(&options, &["snapshots", "--newer-than", "soon"])).fails(2, &["soon", "2026-11-20", "2 days ago"]);
    world.run(&with(&options, &["ls", "latest", "--newer-than", "2037-01-01"])).fails(1, &["filters"]);
    let all = world.run(&with(&options, &["snapshots", "--json"])).ok().json();
    assert_eq!(all[0]["message_type"], "snapshot");
    assert_eq!(all[0]["time"], "2026-11-20T01:00:00.000000005Z");
    assert_eq!(all[0]["paths"][1], "/srv/\u{1b}\u{fffd}");
    assert_eq!(all[0]["paths_b64"], serde_json::json!([null, "L3Nydi8b/w=="]));
}

#[test]
fn snapshots_have_names() {
    let (world, options) = populated();
    let ls = |args: &[&str]| world.run(&with(&options, &[&["ls"], args].concat()));
    for good in ["latest", "latest~3", "a1a1", "b3b3b3b3", "latest:", "latest:/"] {
        assert_eq!(ls(&[good]).ok().text(), "", "{good}");
    }
    ls(&["latest~4"]).fails(1, &["latest~4"]);
    ls(&["latest~x"]).fails(2, &["latest~2"]);
    ls(&["--host", "db", "latest"]).ok();
    ls(&["--host", "db", "latest~1"]).fails(1, &["filters"]);
    ls(&["a1a"]).fails(2, &["at least 4"]);
    ls(&["A1A1"]).fails(2, &["A1A1"]);
    ls(&["c0ffee"]).fails(1, &["c0ffee", "yester snapshots"]);
    ls(&["no\u{1b}name"]).fails(2, &["\\u{1b}"]);
    commit(&world, 0xa1 - 0x90, 5, "web", &[]);
    ls(&["latest:/etc"]).fails(1, &["/etc is not in snapshot 11111111 of 2026-11-20", "no other has it"]);
    let cat = |args: &[&str]| world.run(&with(&options, &[&["cat"], args].concat()));
    cat(&["latest"]).fails(2, &["latest:/PATH"]);
    cat(&["latest:/"]).fails(2, &["directory"]);
    cat(&["latest:/a/b"]).fails(1, &["/a/b is not in snapshot"]);
    let empty = World::new();
    let options = empty.repository();
    empty.run(&with(&options, &["ls", "latest"])).fails(1, &["no snapshots yet", "yester ingest"]);
    assert_eq!(empty.run(&with(&options, &["snapshots"])).ok().text(), "0 snapshots in 0 series\n");
}

#[test]
fn a_damaged_snapshot_is_named_and_hides_no_other() {
    let (world, options) = populated();
    let object = world.at("repo/snapshots").join("a2".repeat(32));
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&object, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&object, bytes).unwrap();
    let run = world.run(&with(&options, &["snapshots"])).fails(1, &["a2a2a2a2"]);
    assert!(run.text().contains("3 snapshots in 2 series"), "{}", run.text());
    // `latest` might be the damaged one; the others are known by their ids.
    world.run(&with(&options, &["ls", "latest"])).fails(1, &["latest", "a2a2a2a2"]);
    world.run(&with(&options, &["ls", "a4a4"])).ok();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (world, options) = populated();
    let mut command = world.command(&with(&options, &["snapshots"]));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = finish(command.stdout(Stdio::from(writer)));
    assert_eq!((run.code, run.err.as_str()), (None, ""), "it should have ended by SIGPIPE");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = finish(world.command(&with(&options, &["snapshots"])).stdout(Stdio::from(full)));
    run.fails(1, &["standard output"]);
}

#[test]
fn a_background_mount_answers_with_its_error() {
    let world = World::new();
    let options = world.repository();
    world.file("wrong", "00".repeat(32));
    let repo = &options[..2];
    // The wrong key is found by the background process, and comes back with its exit code.
    world.run(&with(repo, &["--key-file", "wrong", "mount", "m"])).fails(12, &["does not open"]);
    assert_eq!(mode(&world.at(".local/state/yester/mount.log")), 0o600);
    world.run(&with(repo, &["mount", "m"])).fails(12, &["no terminal"]);
    world.run(&["mount", "m"]).fails(10, &[]);
    world.run(&with(&options, &["mount", "missing"])).fails(1, &[]);
}

#[test]
fn completions_complete() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = world.run(&["completions", shell]).ok().text();
        assert!(script.contains("exclude-if-present") && script.contains("recover"), "{shell}");
        assert!(!script.contains("in-background"), "{shell} offers what is hidden");
    }
    world.run(&["completions", "csh"]).fails(2, &["csh", "bash"]);
    let script = world.run(&["completions", "bash"]).ok().text();
    let ask = |words: &[&str]| -> Vec<String> {
        let [.., before, last] = words else { panic!() };
        let list = words.join("\" \"");
        let ask = format!(
            "{script}\nCOMP_WORDS=(\"{list}\"); COMP_CWORD={}; _yester yester \"{last}\" \"{before}\"; echo \"${{COMPREPLY[@]}}\"",
            words.len() - 1
        );
        // Longer than an argument may be.
        let file = world.file("ask", ask);
        let said = finish(std::process::Command::new("bash").arg(file)).ok();
        assert_eq!(said.err, "");
        said.text().split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(ask(&["yester", "snap"]), ["snapshots"]);
    assert_eq!(ask(&["yester", "key", "re"]), ["remove", "recover"]);
    assert_eq!(ask(&["yester", "mount", "--owner"]), ["--owner-root"]);
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let world = World::new();
    let said = world.run(&["man", "share/man/man1"]).ok().text();
    let place = world.at("share/man/man1");
    assert!(said.contains(&shown(&place)), "{said}");
    let help = world.run(&["--help"]).ok().text();
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap().lines();
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned));
    for name in names.chain(["key-recover".to_owned()]) {
        let page = fs::read_to_string(place.join(format!("yester-{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
        assert!(page.is_ascii(), "{name}");
        assert!(!page.contains("in\\-background") && page.contains(env!("CARGO_PKG_VERSION")), "{name}");
    }
    let count = fs::read_dir(&place).unwrap().count();
    let json = world.run(&["man", "share/man/man1", "--json"]).ok().json();
    assert_eq!((json[0]["message_type"].as_str(), json[0]["pages"].as_u64()), (Some("manual"), Some(count as u64)));
    // Its own pages are replaced; what is not its own is left, and nothing else is written either.
    let page = place.join("yester-ls.1");
    let ours = fs::read(&page).unwrap();
    fs::write(&page, &ours[..ours.len() / 2]).unwrap();
    world.run(&["man", "share/man/man1", "-q"]).ok();
    assert_eq!(fs::read(&page).unwrap(), ours);
    fs::write(&page, "my own page").unwrap();
    fs::remove_file(place.join("yester-cat.1")).unwrap();
    world.run(&["man", "share/man/man1"]).fails(1, &[&shown(&page), "nothing was written"]);
    assert_eq!(fs::read(&page).unwrap(), b"my own page");
    fs::remove_file(&page).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &page).unwrap();
    world.run(&["man", "share/man/man1"]).fails(1, &["yester-ls.1"]);
    assert_eq!(fs::read_dir(&place).unwrap().count(), count - 1);
    world.file("file", "");
    world.run(&["man", "file"]).fails(1, &["file"]);
    world.run(&["man"]).fails(2, &["DIR"]);
}
