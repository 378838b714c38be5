//! Buckets in sets: their objects in a snapshot, and the way back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use crate::common::gateway::GatewayServer;
use crate::common::program::{World, shown};

/// Keys that are paths, and all kinds that are none.
const KEYS: [&[u8]; 16] = [
    b"plain.txt",
    b"a/b/c.txt",
    b"a",
    b"a//b",
    b"a/",
    b"/lead",
    b"//",
    b"./../x",
    b"..",
    b"100%",
    b"%empty",
    b"\xff\xfe/\x80",
    b"with space+plus&amp;?#",
    b"new\nline/\x01",
    "ümläut/日本".as_bytes(),
    b"a-b",
];

const OLD: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "OLD"), ("AWS_SECRET_ACCESS_KEY", "old secret")];
const NEW: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "NEW"), ("AWS_SECRET_ACCESS_KEY", "new/secret")];

/// A gateway with a bucket of everything.
fn filled() -> GatewayServer {
    let server = GatewayServer::start("OLD", "old secret");
    let long = [b"long/".to_vec(), b"x".repeat(700)].concat();
    let big: Vec<u8> = (0..9_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let headers: &[(&str, &str)] = &[
        ("content-type", "text/plain; charset=utf-8"),
        ("cache-control", "max-age=60"),
        ("x-amz-meta-owner", "me  and you"),
        ("x-amz-meta-a.b-c", "1"),
    ];
    for key in KEYS {
        server.fill("registry", &[(key, key, &[("content-type", "application/octet-stream")], "")]);
    }
    server.fill("registry", &[(&long, b"long", headers, "env=prod&team=red%20one"), (b"big", &big, headers, "")]);
    server.fill("registry", &[(b"empty", b"", &[], ""), (b"tagged", b"t", &[], "k=%C3%A4%3D%26")]);
    server
}

fn world(server: &GatewayServer, more: &str) -> World {
    let world = World::new();
    configure(&world, server, more);
    world.run(&["init"]).ok();
    world
}

fn configure(world: &World, server: &GatewayServer, more: &str) {
    let (home, url) = (shown(world.home()), server.address("registry"));
    let text = format!(
        "[repository]\nlocation = \"{home}/main\"\nkey-file = \"{home}/main.key\"\n[sets.store]\n[[sets.store.buckets]]\n\
         at = \"/buckets/registry\"\nurl = \"{url}\"\n{more}"
    );
    world.file(".config/yester/config.toml", text);
}

#[test]
fn a_bucket_is_stored_known_again_and_put_into_an_empty_gateway() {
    let server = filled();
    let world = world(&server, "");
    server.gateway.page.lock().clone_from(&7);
    let run = world.run_with(&OLD, &["ingest", "--set", "store", "--json"]).ok();
    let parts = &run.json().pop().unwrap()["parts"];
    assert_eq!(
        (&parts[0]["kind"], &parts[0]["state"], &parts[0]["path"]),
        (&"bucket".into(), &"complete".into(), &"/buckets/registry".into())
    );
    let objects = server.facts("registry");
    assert_eq!(server.reads(), objects.len());
    let bytes: usize = objects.values().map(|object| object.size).sum();
    assert_eq!(parts[0]["bytes"], bytes);
    let listed = world.run(&["ls", "-R", "latest:/buckets/registry"]).ok().text();
    for path in ["a/%object", "a/%empty/b", "a/b/c.txt", "%empty/lead", "%2E/%2E%2E/x", "100%25", "%25empty"] {
        assert!(listed.contains(path), "{path}: {listed}");
    }
    assert_eq!(world.run(&["cat", "latest:/buckets/registry/a/%object"]).ok().out, b"a");
    // What is as it was is not read again.
    server.take();
    let run = world.run_with(&OLD, &["ingest", "--set", "store"]).ok();
    assert_eq!(server.reads(), 0);
    assert!(run.text().contains("0 new, 0 changed"), "{}", run.text());
    server.fill("registry", &[(b"plain.txt", b"changed", &[], ""), (b"a/new", b"new", &[], "")]);
    server.gateway.buckets.lock().get_mut("registry").unwrap().remove(&b"a-b"[..]);
    world.run_with(&OLD, &["ingest", "--set", "store"]).ok();
    assert_eq!(server.reads(), 2);
    let objects = server.facts("registry");
    drop(server);

    // Lost with all its buckets; the new one has other keys.
    let server = GatewayServer::start("NEW", "new/secret");
    configure(&world, &server, "");
    let restore = |more: &[&str]| world.run_with(&NEW, &[&["restore", "--set", "store"], more].concat());
    let would = restore(&["--dry-run"]).ok();
    assert!(would.err.contains("would be made") && would.err.contains(&format!("{} objects", objects.len())), "{}", would.err);
    assert!(server.gateway.buckets.lock().is_empty());
    let run = restore(&["--json"]).ok();
    let told = run.json().into_iter().find(|line| line["message_type"] == "bucket").unwrap();
    assert_eq!((&told["made"], &told["objects_put"]), (&true.into(), &objects.len().into()));
    assert_eq!(server.facts("registry"), objects);
    // Again: everything is there but the one that was written in parts, whose ETag is another.
    server.take();
    server.fill("registry", &[(b"more", b"more", &[], "")]);
    restore(&[]).ok();
    assert!(server.take().iter().filter(|asked| asked.method == "PUT").all(|asked| asked.key == b"big"));
    assert!(server.facts("registry").contains_key("more"));
    restore(&["--delete-objects"]).ok();
    assert_eq!(server.facts("registry"), objects);
    // Secrets are nowhere.
    let repository = walk(&world.at("main"));
    let told = world.run(&["snapshots", "--json"]).ok().text() + &world.run(&["runs", "log", "latest"]).ok().text();
    for secret in ["old secret", "new/secret"] {
        assert!(!told.contains(secret) && repository.iter().all(|bytes| !contains(bytes, secret.as_bytes())));
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The bytes of all files below a directory.
fn walk(path: &std::path::Path) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => out.extend(walk(&entry.path())),
            false => out.push(fs::read(entry.path()).unwrap()),
        }
    }
    out
}
