//! What comes back other than it was: text in files and targets of links, owners; through the program (needs root).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program::{World, shown, with};

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

/// A world with `src`, of which there is a snapshot of the host old.example.
fn world() -> (World, Vec<String>) {
    let world = World::new();
    let options = world.repository().to_vec();
    world.file("src/agent.conf", "name: old.example\nurl: https://old.example:17070/x\n");
    world.file("src/long.conf", format!("{}old.example\n", "x".repeat(400_000)));
    world.file("src/other", "old.example");
    symlink("/srv/old.example/data", world.at("src/current")).unwrap();
    fs::hard_link(world.at("src/agent.conf"), world.at("src/again.conf")).unwrap();
    world.run(&with(&options, &["ingest", "--host", "old.example", "src"])).ok();
    (world, options)
}

#[test]
fn texts_are_replaced_and_what_is_stored_stays() {
    let (world, options) = world();
    let run = |args: &[&str]| world.run(&with(&options, args));
    let snapshot = format!("latest:{}", shown(&world.at("src")));
    let restore = |more: &[&str]| {
        let rule = ["--rewrite", "src/*.conf", "{from.host}", "{host}", "--rewrite", "current", "old.example", "{place}"];
        let all =
            [&["restore", &snapshot, "-t", "out", "--value", "host=new", "--value", "place=here"], &rule[..], more].concat();
        run(&all)
    };
    let dry = restore(&["-n"]).ok().text();
    assert!(
        dry.contains("-name: old.example\n-url: https://old.example:17070/x\n+name: new\n")
            && dry.contains("-/srv/old.example/data\n+/srv/here/data\n"),
        "{dry}"
    );
    assert!(!world.at("out").exists());
    let told = restore(&["-n", "--json"]).ok().json();
    let one = told.iter().find(|line| line["message_type"] == "rewrite" && line["kind"] == "link").unwrap();
    assert_eq!((&one["replaced"][0]["was"], &one["replaced"][0]["is"]), (&"old.example".into(), &"here".into()));

    // Twice: the second time everything is right already.
    for round in 0..2 {
        let told = restore(&["--verify", "--json"]).ok().json();
        let summary = told.last().unwrap();
        assert_eq!(summary["files_restored"], if round == 0 { 3 } else { 0 }, "{summary}");
        let out = |name: &str| fs::read_to_string(world.at("out").join(name)).unwrap();
        assert_eq!(out("agent.conf"), "name: new\nurl: https://new:17070/x\n");
        assert_eq!((out("again.conf"), out("other")), (out("agent.conf"), "old.example".to_owned()));
        assert_eq!(out("long.conf"), format!("{}new\n", "x".repeat(400_000)));
        assert_eq!(fs::read_link(world.at("out/current")).unwrap().to_str(), Some("/srv/here/data"));
        let inode = |name: &str| fs::metadata(world.at("out").join(name)).unwrap().ino();
        assert_eq!(inode("agent.conf"), inode("again.conf"));
    }
    // What has the size and the time of the snapshot's, and its text, is rewritten all the same.
    run(&["restore", &snapshot, "-t", "out", "--overwrite", "always"]).ok();
    let same = ["restore", &snapshot, "-t", "out", "--rewrite", "src/*.conf", "old.example", "new.example"];
    run(&same).ok();
    assert_eq!(fs::read_to_string(world.at("out/agent.conf")).unwrap(), "name: new.example\nurl: https://new.example:17070/x\n");
    let stored = run(&["cat", &format!("{snapshot}/agent.conf")]).ok().text();
    assert_eq!(stored, "name: old.example\nurl: https://old.example:17070/x\n");
    // It is in the run.
    let recorded = run(&["runs", "show", "latest", "--json"]).ok().json().pop().unwrap();
    let rewrites = recorded["rewrites"].as_array().unwrap();
    // Of hard links, the first one.
    let path = shown(&world.at("src/again.conf"));
    let one = rewrites.iter().find(|one| one["path"] == path).unwrap_or_else(|| panic!("{recorded}"));
    assert_eq!((&one["was"], &one["is"], &one["count"]), (&"old.example".into(), &"new.example".into(), &2.into()));
    assert!(run(&["runs", "show", "latest"]).ok().text().contains("old.example became new.example, 2 times"));

    // An expression; exchanged.
    let expression =
        ["--rewrite-regex", "again.conf", "^url: https://[a-z.]+:(\\d+)/", "url: http://{x}:$1/", "--value", "x=h$1"];
    run(&[&["restore", &snapshot, "-t", "out", "--staged"], &expression[..]].concat()).ok();
    assert_eq!(fs::read_to_string(world.at("out/agent.conf")).unwrap(), "name: old.example\nurl: http://h$1:17070/x\n");
}

#[test]
fn what_cannot_be_rewritten_is_said_before_anything_is_touched() {
    let (world, options) = world();
    let snapshot = format!("latest:{}", shown(&world.at("src")));
    let run = |args: &[&str]| world.run(&with(&options, &[&["restore", &snapshot, "-t", "out"], args].concat()));
    run(&["--rewrite", "*.conf", "{form.host}", "x"]).fails(2, &["there is no placeholder {form.host}"]);
    run(&["--rewrite", "*.conf", "{from.address}", "x"]).fails(2, &["--value from.address=VALUE"]);
    run(&["--rewrite-regex", "*.conf", "(", "x"]).fails(2, &["the expression ( cannot be used"]);
    run(&["--rewrite-regex", "*.conf", "x*", "y"]).fails(2, &["would replace nothing by something"]);
    run(&["--rewrite", "*.cnf", "a", "x"]).fails(1, &["nothing was touched: there is no file *.cnf to be rewritten"]);
    run(&["--rewrite", "current", "/srv/old.example/data", ""]).fails(2, &["nothing was touched", "current", "is no path"]);
    run(&["--map-user", "root=no-such-user"]).fails(1, &["nothing was touched: there is no user no-such-user"]);
    run(&["--map-user", "root"]).fails(2, &["root is no pair"]);
    assert!(!world.at("out/agent.conf").exists());
    // A further name of a file that the rule does not name.
    let linked = run(&["--rewrite", "agent.conf", "old.example", "x"]);
    assert!(linked.code == Some(3) && linked.err.contains("a hard link of a file that no rule names"), "{}", linked.err);
}

#[test]
fn owners_are_mapped_by_name() {
    let (world, options) = world();
    let snapshot = format!("latest:{}", shown(&world.at("src")));
    let args = ["restore", &snapshot, "-t", "out", "--map-user", "root=nobody", "--map-group", "root=daemon"];
    world.run(&with(&options, &args)).ok();
    let id = |kind: &str, name: &str| {
        let output = std::process::Command::new("getent").args([kind, name]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(':').nth(2).unwrap().parse::<u32>().unwrap()
    };
    let found = fs::metadata(world.at("out/other")).unwrap();
    assert_eq!((found.uid(), found.gid()), (id("passwd", "nobody"), id("group", "daemon")));
    let recorded = world.run(&with(&options, &["runs", "show", "latest"])).ok().text();
    assert!(recorded.contains("user root became nobody") && recorded.contains("group root became daemon"), "{recorded}");
}

#[test]
fn a_set_says_what_is_other_and_what_is_still_to_do() {
    let world = World::new();
    world.file("etc/agent.conf", "host old, address 10.5.0.64, role A\n");
    let text = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.a]
host = "old"
paths = ["HOME/etc"]
[[sets.a.streams]]
at = "HOME/dumps/db.sql"
command = ["echo", "dump"]
[sets.a.restore]
values = { "from.address" = "10.5.0.64", address = "10.6.0.1", host = "new", role = "B" }
rewrite = [
    { files = ["HOME/etc/*.conf"], regex = '\b{from.host}\b', with = "{host}" },
    { files = ["HOME/etc/*.conf"], replace = "{from.address}", with = "{address}" },
    { files = ["HOME/etc/*.conf"], replace = "role A", with = "role {role}" },
]
next-steps = ["tell the others of {host}"]
"#;
    world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    world.run(&["init"]).ok();
    world.run(&["config", "check"]).ok();
    world.run(&["ingest", "--set", "a"]).ok();
    let dry = world.run(&["restore", "--set", "a", "-n"]).ok().text();
    assert!(dry.contains("-host old, address 10.5.0.64, role A\n+host new, address 10.6.0.1, role B\n"), "{dry}");
    let steps = world.run(&["restore", "--set", "a", "--next-steps"]).ok().text();
    assert!(steps.contains("/dumps/db.sql comes back as a file") && steps.contains("tell the others of new"), "{steps}");
    let one = world.run(&["restore", "--set", "a", "--next-steps", "--json"]).ok().json().remove(0);
    assert_eq!((&one["message_type"], &one["number"]), (&"next_step".into(), &1.into()));
    world.run(&["restore", "--set", "a", "--staged"]).ok();
    assert_eq!(fs::read_to_string(world.at("etc/agent.conf")).unwrap(), "host new, address 10.6.0.1, role B\n");
    // To look at it, it comes as it is.
    world.run(&["restore", "--set", "a", "--target", "look"]).ok();
    let look = format!("{}{}", shown(&world.at("look")), shown(&world.at("etc/agent.conf")));
    assert_eq!(fs::read_to_string(look).unwrap(), "host old, address 10.5.0.64, role A\n");
    for (bad, why) in [
        ("{ files = [\"/x\"], with = \"y\" }", "rewrite 1: a rewrite needs replace"),
        ("{ files = [\"/x\"], replace = \"{hots}\", with = \"y\" }", "there is no placeholder {hots}"),
        ("{ files = [], replace = \"x\", with = \"y\" }", "is for no file"),
        ("{ files = [\"/x\"], regex = \"[\", with = \"y\" }", "cannot be used"),
    ] {
        let start = text.split("[sets.a.restore]").next().unwrap().replace("HOME", &shown(world.home()));
        world.file(".config/yester/config.toml", format!("{start}[sets.a.restore]\nrewrite = [{bad}]\n"));
        world.run(&["config", "check"]).fails(2, &["sets.a.restore.rewrite", why]);
    }
}
