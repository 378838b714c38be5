//! Buckets with all versions of their objects: stored, known again wherever they stand, and put back in their order.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use crate::common::gateway::GatewayServer;
use crate::common::program::{Run, World, shown};

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "OLD"), ("AWS_SECRET_ACCESS_KEY", "old secret")];

fn world(server: &GatewayServer, more: &str) -> World {
    let world = World::new();
    configure(&world, &server.address("store"), more);
    world.run(&["init"]).ok();
    world
}

fn configure(world: &World, url: &str, more: &str) {
    let home = shown(world.home());
    let text = format!(
        "[repository]\nlocation = \"{home}/main\"\nkey-file = \"{home}/main.key\"\n[sets.store]\n[[sets.store.buckets]]\n\
         at = \"/store\"\nurl = \"{url}\"\n{more}"
    );
    world.file(".config/yester/config.toml", text);
}

fn ingest(world: &World) -> Run {
    world.run_with(&KEYS, &["ingest", "--set", "store"]).ok()
}

fn listed(world: &World) -> Vec<String> {
    let text = world.run(&["ls", "-R", "latest:/store"]).ok().text();
    text.lines().map(|line| line.trim_start_matches("/store/").to_owned()).collect()
}

/// A bucket with versions of everything that may go wrong.
fn filled() -> GatewayServer {
    let server = GatewayServer::start("OLD", "old secret");
    // What was there before versions were kept has the version "null".
    server.fill("store", &[(b"early", b"early 0", &[("content-type", "text/plain")], "")]);
    server.keep_versions("store");
    server.write("store", b"early", b"early 1", &[("content-type", "text/html")], "");
    for number in 0..4 {
        let (text, tag) = (format!("a {number}"), format!("number={number}"));
        server.write("store", b"a", text.as_bytes(), &[("x-amz-meta-number", &number.to_string())], &tag);
    }
    for key in [&b"a/b"[..], b"a//", b"%versions", b"100%", b"\xff/x"] {
        server.write("store", key, b"one", &[], "");
        server.write("store", key, b"two", &[], "");
    }
    server.write("store", b"once", b"once", &[], "");
    server.write("store", b"gone", b"gone 0", &[], "");
    server.gateway.remove("store", b"gone");
    server.write("store", b"back", b"back 0", &[], "");
    server.gateway.remove("store", b"back");
    server.write("store", b"back", b"back 1", &[], "");
    server
}

#[test]
fn all_versions_are_stored_and_none_is_read_twice() {
    let server = filled();
    *server.gateway.page.lock() = 3;
    let world = world(&server, "versions = true\n");
    let run = ingest(&world);
    let versions: usize = server.histories("store").values().flatten().flatten().count();
    assert_eq!(server.reads(), versions);
    let cat = |path: &str| world.run(&["cat", &format!("latest:/store/{path}")]).ok().text();
    assert_eq!(
        (cat("a/%object"), cat("a/b"), cat("back"), cat("once")),
        ("a 3".into(), "two".into(), "back 1".into(), "once".into())
    );
    let all = listed(&world);
    assert!(!all.contains(&"gone".to_owned()), "{all:?}");
    let of = |key: &str| -> Vec<String> {
        let begin = format!("%versions/{key}/%v");
        let mut found: Vec<String> = all.iter().filter(|path| path.starts_with(&begin)).cloned().collect();
        found.sort();
        found
    };
    assert_eq!(
        (of("a").len(), of("a/b").len(), of("gone").len(), of("back").len(), of("once").len()),
        (3, 1, 2, 2, 0),
        "{all:?}"
    );
    assert!(of("early")[0].ends_with(".null") && cat(&of("early")[0]) == "early 0");
    // Written within a second, which is all that the gateway says, they are in their order all the same.
    let numbers: Vec<String> = of("a").iter().map(|path| cat(path)).collect();
    assert_eq!(numbers, ["a 0", "a 1", "a 2"]);
    // What is known of each is in its attributes.
    let out = shown(&world.at("out"));
    world.run(&["restore", "latest:/store", "--target", &out]).ok();
    let attributes = |path: &str| {
        let words = ["-d", "--absolute-names", &format!("{out}/{path}")].map(str::to_owned);
        String::from_utf8(Command::new("getfattr").args(words).output().unwrap().stdout).unwrap()
    };
    let old = attributes(&of("a")[1]);
    for word in
        ["user.s3.is-latest=\"false\"", "user.s3.version-id=\"v", "user.s3.meta.number=\"1\"", "number=1", "last-modified=\"20"]
    {
        assert!(old.contains(word), "{word}: {old}");
    }
    assert!(attributes("a/%object").contains("user.s3.is-latest=\"true\""));
    let marker = attributes(&of("gone")[1]);
    assert!(marker.contains("user.s3.delete-marker=\"true\"") && marker.contains("is-latest=\"true\""), "{marker}");
    assert_eq!(std::fs::metadata(format!("{out}/{}", of("gone")[1])).unwrap().len(), 0);
    assert!(run.text().contains("0 changed"), "{}", run.text());

    // Again, nothing is read; nor when what was the newest is one of the old ones, or the other way round.
    let again = |reads: usize| {
        server.take();
        let run = ingest(&world);
        assert_eq!(server.reads(), reads, "{}", run.err);
    };
    again(0);
    server.write("store", b"once", b"twice", &[], "");
    server.gateway.remove("store", b"a/b");
    again(1);
    assert_eq!(cat("once"), "twice");
    assert!(!listed(&world).contains(&"a/b".to_owned()));
    let id = server.gateway.versions.lock()["store"][&b"once"[..]][1].id.clone();
    server.gateway.remove_version("store", b"once", &id);
    let id = server.gateway.versions.lock()["store"][&b"a/b"[..]][2].id.clone();
    server.gateway.remove_version("store", b"a/b", &id);
    again(0);
    assert_eq!((cat("once"), cat("a/b")), ("once".to_owned(), "two".to_owned()));
    assert!(attributes("once").contains("is-latest"));
    world.run(&["check", "--read-data"]).ok();
    // Without versions, objects are known, too.
    configure(&world, &server.address("store"), "");
    again(0);
    assert!(listed(&world).iter().all(|path| !path.contains("%v2")));
    // And by the command line.
    let given = format!("/store={}", server.address("store"));
    world.run_with(&KEYS, &["ingest", "--bucket", &given, "--bucket-versions"]).ok();
    assert!(listed(&world).iter().any(|path| path.starts_with("%versions/gone/%v")));
}

#[test]
fn versions_come_back_in_their_order_and_objects_without_them() {
    let server = filled();
    let world = world(&server, "versions = true\n");
    ingest(&world);
    let (histories, objects) = (server.histories("store"), server.facts("store"));
    drop(server);
    let server = GatewayServer::start("OLD", "old secret");
    configure(&world, &server.address("other"), "versions = true\n");
    let restore = |more: &[&str]| world.run_with(&KEYS, &[&["restore", "--set", "store", "--json"], more].concat());
    let told = |run: Run| run.ok().json().into_iter().find(|line| line["message_type"] == "bucket").unwrap();
    // Without the option the objects as they were; no versions of them.
    let run = told(restore(&[]));
    assert_eq!((&run["objects_put"], &run["markers_put"]), (&objects.len().into(), &0.into()));
    assert_eq!(server.facts("other"), objects);
    assert!(server.gateway.versions.lock().is_empty());
    server.gateway.buckets.lock().clear();

    let would = told(restore(&["--object-versions", "-n"]));
    let (versions, markers) =
        (histories.values().flatten().flatten().count(), histories.values().flatten().filter(|v| v.is_none()).count());
    assert_eq!((&would["objects_put"], &would["markers_put"]), (&versions.into(), &markers.into()));
    assert!(server.gateway.buckets.lock().is_empty());
    let run = told(restore(&["--object-versions"]));
    assert_eq!((&run["objects_put"], &run["markers_put"]), (&versions.into(), &markers.into()), "{run}");
    assert_eq!(server.histories("other"), histories);
    assert_eq!(server.facts("other"), objects);
    // Again, everything is there. One that was stopped goes on.
    let run = told(restore(&["--object-versions"]));
    assert_eq!((&run["objects_put"], &run["markers_put"], &run["errors"]), (&0.into(), &0.into(), &0.into()), "{run}");
    for key in [&b"back"[..], b"a"] {
        let id = server.gateway.versions.lock()["other"][key].last().unwrap().id.clone();
        server.gateway.remove_version("other", key, &id);
    }
    let run = told(restore(&["--object-versions"]));
    assert_eq!((&run["objects_put"], &run["markers_put"]), (&2.into(), &0.into()), "{run}");
    assert_eq!(server.histories("other"), histories);
    // Other versions stay: what is restored is newer than they are.
    server.write("other", b"back", b"another", &[], "");
    let run = told(restore(&["--object-versions"]));
    assert_eq!((&run["objects_put"], &run["markers_put"]), (&2.into(), &1.into()), "{run}");
    let back = &server.histories("other")["back"];
    assert_eq!((back.len(), &back[4..]), (7, &histories["back"][..]));
    // What the snapshot does not have is deleted only if that is wanted.
    server.write("other", b"more", b"more", &[], "");
    restore(&["--object-versions"]).ok();
    assert!(server.facts("other").contains_key("more"));
    let run = told(restore(&["--object-versions", "--delete-objects"]));
    assert_eq!(run["objects_deleted"], 1, "{run}");
    assert_eq!(server.facts("other"), objects);
    world.run(&["restore", "latest", "--target", "x", "--object-versions"]).fails(2, &["--set"]);
}
