//! The configuration file: repositories by name, sets, and what is wrong with either, through the program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use program::{World, shown};

/// A world with a directory to ingest, and a configuration in its usual place.
fn world(configuration: &str) -> World {
    let world = World::new();
    world.file("etc/one", "1");
    world.file("etc/two.tmp", "2");
    write(&world, configuration);
    world
}

/// Writes the configuration; `HOME` stands for the home directory.
fn write(world: &World, configuration: &str) {
    world.file(".config/yester/config.toml", configuration.replace("HOME", &shown(world.home())));
}

const WHOLE: &str = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"

[repositories.offsite]
like = "default"
location = "HOME/offsite"
limit-upload = ["8M 08:00-18:00", "off"]

[sets.base]
exclude = ["*.tmp"]
tags = ["nightly"]
paths = ["HOME/etc"]

[sets.web]
like = "base"
unset = ["tags"]
repository = "offsite"
host = "web1"
[[sets.web.streams]]
at = "/dumps/a.sql"
command = ["echo", "a dump"]
[[sets.web.streams]]
at = "/dumps/b.sql"
command = ["echo", "another"]
[sets.web.keep]
daily = 7
within = "30d"
"#;

#[test]
fn repositories_and_sets_are_named() {
    let world = world(WHOLE);
    world.run(&["init"]).ok();
    world.run(&["--repo", "offsite", "init"]).ok();
    assert!(world.at("main/config").exists() && world.at("offsite/config").exists() && world.at("main.key").exists());
    world.run(&["ingest", "--set", "web"]).ok();
    // The set goes to its own repository, the one that no command has to name is another.
    assert!(world.run(&["snapshots", "--json"]).ok().json().is_empty());
    let snapshots = world.run(&["-r", "offsite", "snapshots", "--json"]).ok().json();
    assert_eq!(snapshots.len(), 1);
    assert_eq!((&snapshots[0]["hostname"], &snapshots[0]["tags"]), (&"web1".into(), &serde_json::json!([])));
    let all = world.run(&["-r", "offsite", "ls", "-R", "latest"]).ok().text();
    for path in ["/dumps/a.sql", "/dumps/b.sql", &shown(&world.at("etc/one"))] {
        assert!(all.lines().any(|line| line == path), "{path} is not in {all}");
    }
    assert!(!all.contains("two.tmp"), "{all}");
    let cat = |path: &str| world.run(&["-r", "offsite", "cat", &format!("latest:{path}")]).ok().text();
    assert_eq!((cat("/dumps/a.sql"), cat("/dumps/b.sql")), ("a dump\n".to_owned(), "another\n".to_owned()));
    // What is typed counts, and so does the environment.
    world.run(&["ingest", "--set", "web", "-r", "default", "--host", "typed"]).ok();
    assert_eq!(world.run(&["snapshots", "--json"]).ok().json()[0]["hostname"], "typed");
    let main = shown(&world.at("main"));
    world
        .run_with(&[("YESTER_REPO", &main), ("YESTER_KEY_FILE", &shown(&world.at("main.key")))], &["ingest", "--set", "base"])
        .ok();
    assert_eq!(world.run(&["snapshots", "--json"]).ok().json().len(), 2);
    // What is kept of a set concerns its own snapshots only.
    world.run(&["ingest", "--set", "web"]).ok();
    world.run(&["-r", "offsite", "ingest", "--host", "web1", &shown(&world.at("etc"))]).ok();
    let forgotten = world.run(&["forget", "--set", "web", "--json", "-n"]).ok().json();
    let series: Vec<_> = forgotten.iter().filter(|line| line["message_type"] == "series").collect();
    assert!(series.len() == 1 && series[0]["paths"][0] == "/dumps/a.sql", "{forgotten:?}");
    assert!(series[0]["keep"].to_string().contains("within 30d"), "{forgotten:?}");
    world.run(&["forget", "--set", "base"]).fails(2, &["says nothing of what is kept"]);
    let shown = world.run(&["config", "show"]).ok().text();
    for word in ["[sets.web]", "[[sets.web.streams]]", "exclude = [", "[repositories.offsite]", "key-file", "config.toml:"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    let checked = world.run(&["config", "check"]).ok().text();
    assert!(checked.contains("2 repositories, 2 sets: nothing is wrong"), "{checked}");
}

#[test]
fn what_is_shown_is_read_again() {
    let world = world(WHOLE);
    let shown = world.run(&["config", "show"]).ok().text();
    let again = world.file("again.toml", &shown);
    let second = world.run(&["--config", again.to_str().unwrap(), "config", "show"]).ok().text();
    let plain = |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    assert_eq!(plain(&shown), plain(&second));
}

#[test]
fn every_kind_of_bad_input_is_named_before_anything_runs() {
    let marks = ["[repository]\nlocation = \"HOME/main\"\nkey-file = \"HOME/main.key\"\n", "[sets.a]\npaths = [\"HOME/etc\"]\n"];
    let good = marks.concat();
    let world = world(&good);
    world.run(&["init"]).ok();
    let rows = [
        ("exlude = [\"x\"]\n", "config.toml:6: sets.a.exlude: there is no such key: the nearest is exclude"),
        ("tags = 5\n", "config.toml:6: sets.a.tags: invalid type: integer `5`"),
        ("repository = \"mian\"\n", "config.toml:6: sets.a.repository: there is no repository mian: there are default"),
        ("like = \"b\"\n", "config.toml:6: sets.a.like: there is no b"),
        ("like = \"a\"\n", "config.toml:6: sets.a.like: it is like itself"),
        ("exclude-larger-than = \"big\"\n", "config.toml:6: sets.a.exclude-larger-than: \"big\" is no size"),
        ("exclude = [\"./x\"]\n", "config.toml:6: sets.a.exclude: ./x depends on"),
        ("exclude = [\"[\"]\n", "config.toml:6: sets.a.exclude"),
        (
            "source-snapshot = \"brtfs\"\n",
            "config.toml:6: sets.a.source-snapshot: brtfs is none of off, auto, btrfs, lvm and zfs",
        ),
        ("[[sets.a.buckets]]\nat = \"/x\"\nurl = \"s3:https://h.example/b\"\nversions = 1\n", "invalid type: integer `1`"),
        ("compression = \"best\"\n", "config.toml:6: sets.a.compression: write auto"),
        (
            "[[sets.a.streams]]\nat = \"/x\"\ncommand = [\"no-such-program\"]\n",
            "config.toml:6: sets.a.streams: stream 1: there is no program no-such-program",
        ),
        ("[[sets.a.streams]]\nat = \"/x\"\ncommand = [\"./dump\"]\n", "depends on the working directory"),
        ("[[sets.a.streams]]\nat = \"x\"\ncommand = [\"true\"]\n", "at = x is no absolute path"),
        ("[[sets.a.streams]]\nat = \"/x\"\ncomand = [\"true\"]\n", "comand: there is no such key: the nearest is command"),
        ("[[sets.a.streams]]\nat = \"/x\"\ncommand = []\n", "stream 1: a command needs a program"),
        (
            "streams = [{ at = \"/x\", command = [\"true\"] }, { at = \"/x\", command = [\"true\"] }]\n",
            "stream 2: stream 1 of this set has the same place, /x",
        ),
        ("[sets.a.hooks]\nbefor = \"true\"\n", "sets.a.hooks.befor: there is no such key: the nearest is before"),
        ("[sets.a.hooks]\nbefore = [\"no-such-program\"]\n", "sets.a.hooks.before: there is no program"),
        ("[sets.a.hooks]\nbefore = { command = [\"true\"], timeout = \"soon\" }\n", "is no time to wait"),
        ("[sets.a.keep]\ndayly = 7\n", "the nearest is daily"),
        ("[sets.a.keep]\ndaily = \"many\"\n", "sets.a.keep.daily: \"many\" is no number"),
        ("[sets.b]\npaths = [\"relative\"]\n", "sets.b.paths: relative depends on the working directory"),
        ("[sets.b]\n", "config.toml:6: sets.b: a set needs paths, streams or buckets"),
        ("[sets.a]\npaths = [\"/\"]\n", "config.toml:6"),
        ("[sets.\"a/b\"]\npaths = [\"/\"]\n", "a name has letters, digits"),
        ("[repositories.default]\nlocation = \"/x\"\n", "there are two repositories of this name: the other one is in"),
        ("[repositories.x]\nkey-file = \"/k\"\n", "repositories.x.location: a repository needs a location"),
        ("[repositories.x]\nlocation = \"x\"\n", "depends on the working directory"),
        ("[repositories.x]\nlocation = \"/x\"\nkey-file = \"/k\"\npassword-file = \"/p\"\n", "there is another way to unlock it"),
        ("[repositories.x]\nlocation = \"/x\"\nlimit-upload = \"1\"\n", "at least 1K"),
        ("[repositories.x]\nlocation = \"/x\"\nlimit-upload = [\"8M 8-18\"]\n", "is no limit: write 2M, off, or 8M 08:00-18:00"),
        ("[repositories.x]\nlocation = \"/x\"\nlimit-upload = 5\n", "repositories.x.limit-upload: invalid type: integer `5`"),
        ("[repositories.x]\nlocation = \"/x\"\ntls-fingerprint = \"1\"\n", "repositories.x.tls-fingerprint"),
        ("[sets]\nx = 3\n", "invalid type: integer `3`, expected a table of keys"),
        ("[repositories]\nx = 3\n", "invalid type: integer `3`, expected a table of keys"),
        ("this is no toml\n", "config.toml:6"),
    ];
    for (text, expected) in rows {
        write(&world, &format!("{good}{text}"));
        let run = world.run(&["config", "check"]);
        assert_eq!(run.code, Some(2), "{text}: {}", run.text());
        assert!(run.err.contains(expected), "{expected:?} is not in {:?}", run.err);
        assert!(!run.err.contains("panicked") && run.err.lines().all(|line| line.starts_with("yester: ")), "{}", run.err);
    }
    // A set that cannot be carried out begins nothing; others go on.
    write(&world, &format!("{good}[sets.b]\npaths = [\"relative\"]\n"));
    world.run(&["ingest", "--set", "b"]).fails(2, &["sets.b.paths"]);
    world.run(&["ingest", "--set", "a"]).ok();
    world.run(&["ingest", "--set", "c"]).fails(1, &["there is no set c", "there are a, b"]);
    assert_eq!(world.run(&["snapshots", "--json"]).ok().json().len(), 1);
    // A broken file keeps nobody from what needs none of it.
    write(&world, "broken");
    world.run(&["snapshots"]).fails(2, &["config.toml:1"]);
    world.run(&["version"]).ok();
}

#[test]
fn files_include_files() {
    let world = world("include = [\"sets.d\"]\n[repository]\nlocation = \"HOME/main\"\n");
    let set = |name: &str| format!("[sets.{name}]\npaths = [\"{}\"]\n", shown(&world.at("etc")));
    world.file(".config/yester/sets.d/a.toml", set("a"));
    world.file(".config/yester/sets.d/b.toml", set("b"));
    world.file(".config/yester/sets.d/b.toml.old", "not read");
    let text = world.run(&["config", "check"]).ok().text();
    assert!(text.contains("1 repository, 2 sets") && text.contains("a.toml"), "{text}");
    world.file(".config/yester/sets.d/b.toml", set("a"));
    world.run(&["config", "check"]).fails(2, &["b.toml:1: sets.a: there are two sets of this name", "a.toml:1"]);
    world.file(".config/yester/sets.d/b.toml", "include = [\"../config.toml\"]\n");
    world.run(&["config", "check"]).fails(2, &["b.toml:1: include", "in a circle"]);
    world.file(".config/yester/sets.d/b.toml", "include = [\"missing.toml\"]\n");
    world.run(&["config", "check"]).fails(2, &["b.toml:1: include", "missing.toml"]);
    world.run(&["--config", "/nonexistent.toml", "config", "check"]).fails(2, &["/nonexistent.toml"]);
    world.run_with(&[("YESTER_CONFIG", "")], &["snapshots"]).fails(2, &["YESTER_CONFIG is set, but empty"]);
    fs::remove_file(world.at(".config/yester/config.toml")).unwrap();
    world.run(&["ingest", "--set", "a"]).fails(1, &["there is no configuration file", "config.toml"]);
}

#[test]
fn what_everybody_may_read_or_change_is_refused() {
    let world = world("[repository]\nlocation = \"HOME/main\"\nkey-file = \"HOME/main.key\"\n");
    world.run(&["init"]).ok();
    let (key, file) = (world.at("main.key"), world.at(".config/yester/config.toml"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    for args in [&["config", "check"][..], &["snapshots"]] {
        world.run(args).fails(2, &["repository.key-file", "every user may read the secret", "chmod o-rwx"]);
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    world.run(&["snapshots"]).ok();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
    world.run(&["snapshots"]).fails(2, &["every user may change it"]);
}

/// The examples of the pages, each as a file: those that begin in the middle of a set or a repository get what is before.
fn examples() -> Vec<(String, String)> {
    let mut out = Vec::new();
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut pages: Vec<_> = fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    for page in pages.into_iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for (number, block) in text.split("```toml\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap();
            let tables: Vec<&str> = block
                .lines()
                .filter_map(|line| line.trim_start_matches('[').split_once(']').filter(|_| line.starts_with('[')))
                .map(|(table, _)| table)
                .collect();
            let mut before = String::new();
            let mut sets: Vec<&str> = tables.iter().filter_map(|table| table.strip_prefix("sets.")?.split('.').next()).collect();
            sets.sort();
            sets.dedup();
            for set in sets.into_iter().filter(|set| !tables.contains(&format!("sets.{set}").as_str())) {
                before += &format!("[sets.{set}]\npaths = [\"/srv\"]\n");
            }
            if !tables.contains(&"repository") {
                before += "[repository]\nlocation = \"https://backup.example:7070/web\"\n";
            }
            // A list of prices is no configuration.
            if tables.contains(&"[store") || tables.contains(&"store") {
                continue;
            }
            // What stands at the top of a file stays there.
            let at = block.find("\n[").filter(|_| !block.starts_with('[')).map_or(0, |at| at + 1);
            let name = format!("{}-{}", page.file_stem().unwrap().to_str().unwrap(), number + 1);
            out.push((name, format!("{}{before}{}", &block[..at], &block[at..])));
        }
    }
    out
}

#[test]
fn the_examples_of_the_pages_are_right() {
    let world = World::new();
    let all = examples();
    assert!(all.len() >= 14, "{}", all.len());
    for (name, text) in &all {
        let text = text.replace("3a5f…", &"3a".repeat(32));
        let file = world.file(&format!("{name}.toml"), &text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let run = world.run(&["config", "check", "--config", &shown(&file)]);
        // Programs of others are not on the machine where this is run.
        let wrong: Vec<&str> = run.err.lines().filter(|line| !line.contains("there is no program")).collect();
        assert!(wrong.is_empty() && (run.code == Some(0) || !run.err.is_empty()), "{name}: {}\n{text}", run.err);
    }
    for set in ["[sets.mail]", "[sets.deis]", "[sets.controller]", "[sets.shop]"] {
        assert!(all.iter().any(|(name, text)| name.starts_with("sets-") && text.contains(set)), "{set}");
    }
}
