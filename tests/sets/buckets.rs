//! Buckets in sets: their objects in a snapshot, and the way back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::postgres::Server;
use crate::common::gateway::{Asked, Gateway, GatewayServer};
use crate::common::program::{self, World, shown};

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
    let reported = restore(&["--report"]).ok().text();
    let reported: Vec<_> = reported.lines().filter(|line| line.starts_with(['+', '-'])).collect();
    assert!(reported.len() == 1 && reported[0].starts_with("+ ") && reported[0].ends_with("/more"), "{reported:?}");
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

/// Runs a command that appends to a file until this is dropped.
pub(super) struct Growing(std::process::Child);

impl Growing {
    pub(super) fn start(file: &std::path::Path) -> Growing {
        let script = format!("while :; do echo another line of a log that grows >> {}; done", shown(file));
        Growing(std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap())
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The store of Deis: its logs, which grow while they are read, a dump of its database, which is written to meanwhile, and two
/// buckets of its gateway, which is limited to so many requests a second. All of it is lost, and comes back into an empty
/// gateway with new keys, and into an empty database.
#[test]
fn the_store_of_deis_is_lost_and_comes_back() {
    const RATE: usize = 50;
    let server = filled();
    for number in 0..120 {
        let (key, body) = (format!("layers/{number:03}/blob"), format!("layer {number}").repeat(number));
        server.fill("builder", &[(key.as_bytes(), body.as_bytes(), &[("x-amz-meta-number", "1")], "")]);
    }
    server.gateway.gate.lock().rate = Some(RATE);
    let world = World::new();
    let configuration = |server: &GatewayServer| {
        let (registry, builder) = (server.address("registry"), server.address("builder"));
        let text = format!(
            r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.deis]
paths = ["HOME/store"]
changed-is-ok = ["*.log"]
[[sets.deis.streams]]
at = "/dumps/all.sql"
command = ["pg_dumpall", "-h", "HOME/pg", "-U", "postgres", "--clean"]
restore = ["psql", "-h", "HOME/pg", "-U", "postgres", "-f", "-"]
[[sets.deis.buckets]]
at = "/buckets/registry"
url = "{registry}"
rate = {RATE}
[[sets.deis.buckets]]
at = "/buckets/builder"
url = "{builder}"
rate = 100
"#
        );
        world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    };
    configuration(&server);
    world.run(&["init"]).ok();
    world.file("store/etc/deis.conf", "store = true\n");
    let log = world.file("store/log/growing.log", "first line\n");
    fs::set_permissions(world.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let database = Server::start(&world.at("pg"));
    database.ask("create role deis login");
    database.ask("create table releases as select n, md5(n::text) as image from generate_series(1, 20000) n");
    let releases = "select count(*), md5(string_agg(image, ',' order by n)) from releases";
    let before = database.ask(releases);
    let (growing, load) = (Growing::start(&log), database.load());
    let run = world.run_with(&OLD, &["ingest", "--set", "deis"]).ok();
    drop((growing, load));
    assert!(run.err.contains(&format!("for the limit of {RATE} requests a second")), "{}", run.err);
    assert_eq!(server.gateway.gate.lock().over, 0);
    let said = world.run(&["runs", "log", "latest"]).ok().text();
    assert!(said.contains("waited") && said.contains("120 objects"), "{said}");
    let (registry, builder) = (server.facts("registry"), server.facts("builder"));
    let snapshot = world.run(&["snapshots", "--json"]).ok().json().pop().unwrap();
    let kinds: Vec<_> = snapshot["parts"].as_array().unwrap().iter().map(|part| part["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["paths", "stream", "bucket", "bucket"]);
    drop(server);

    drop(database);
    ["store", "pg"].iter().for_each(|lost| fs::remove_dir_all(world.at(lost)).unwrap());
    let database = Server::start(&world.at("pg"));
    let server = GatewayServer::start("NEW", "new/secret");
    server.gateway.gate.lock().rate = Some(RATE);
    configuration(&server);
    let run = world.run_with(&NEW, &["restore", "--set", "deis"]).ok();
    assert!(run.err.contains("builder: made, 120 objects"), "{}", run.err);
    assert_eq!(server.gateway.gate.lock().over, 0);
    assert_eq!(server.facts("registry"), registry);
    assert_eq!(server.facts("builder"), builder);
    assert_eq!(fs::read_to_string(world.at("store/etc/deis.conf")).unwrap(), "store = true\n");
    assert!(fs::read_to_string(world.at("store/log/growing.log")).unwrap().starts_with("first line\n"));
    assert_eq!(database.ask(releases), before);
    assert_eq!(database.ask("select count(*) from pg_roles where rolname = 'deis'"), "1");
    database.is_of_one_moment();
    // One bucket alone.
    server.gateway.buckets.lock().clear();
    let run = world.run_with(&NEW, &["restore", "--set", "deis", "--part", "/buckets/builder"]).ok();
    assert!(server.gateway.buckets.lock().keys().eq(["builder"]), "{}", run.err);
    // On a host without a configuration, into another bucket than the set of the snapshot says.
    fs::remove_file(world.at(".config/yester/config.toml")).unwrap();
    let repository = ["--repo".to_owned(), shown(&world.at("main")), "--key-file".to_owned(), shown(&world.at("main.key"))];
    let restore = |bucket: &str, to: &str| {
        let turned = format!("{bucket}={to}");
        let words = ["restore", "--set", "deis", "--part", "/buckets/builder", "--bucket", &turned];
        world.run_with(&NEW, &program::with(&repository, &words))
    };
    restore("/buckets/builder", &server.address("other")).ok();
    assert_eq!(server.facts("other"), builder);
    restore("/buckets/none", &server.address("other")).fails(2, &["no bucket at /buckets/none"]);
    restore("/buckets/builder", "s3:https://me:secret@h.example/other").fails(2, &["holds a key"]);
    // A bucket without a set, beside a path.
    let given = format!("/b={}", server.address("other"));
    world.run_with(&NEW, &program::with(&repository, &["ingest", "store/etc", "--bucket", &given])).ok();
    let shown_file = ["cat", "latest:/b/layers/007/blob"];
    assert_eq!(world.run(&program::with(&repository, &shown_file)).ok().text(), "layer 7".repeat(7));
    world.run(&program::with(&repository, &["ingest", "--bucket", "/b"])).fails(2, &["AT=URL"]);
    // As files, without a gateway.
    drop(server);
    world.run(&program::with(&repository, &["restore", "--set", "deis", "--target", "look"])).ok();
    assert_eq!(fs::read(world.at("look/buckets/registry/a/%object")).unwrap(), b"a");
    assert!(world.at("look/dumps/all.sql").exists() && world.at("look/buckets/builder/layers/007/blob").exists());
}

#[test]
fn a_store_that_says_slow_down_is_waited_for_and_cut_answers_are_read_on() {
    let server = filled();
    let world = world(&server, "connections = 2\n");
    server.gateway.gate.lock().slow = 3;
    *server.gateway.cut.lock() = 4;
    let run = world.run_with(&OLD, &["ingest", "--set", "store"]).ok();
    assert!(run.err.contains("times to slow down: waited"), "{}", run.err);
    assert_eq!(server.gateway.gate.lock().slow, 0);
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    assert_eq!(hash(&world.run(&["cat", "latest:/buckets/registry/big"]).ok().out), server.facts("registry")["big"].hash);
    assert_eq!(world.run(&["cat", "latest:/buckets/registry/plain.txt"]).ok().out, b"plain.txt");
    server.gateway.buckets.lock().clear();
    server.gateway.gate.lock().slow = 3;
    let run = world.run_with(&OLD, &["restore", "--set", "store"]).ok();
    assert!(run.err.contains("times to slow down: waited"), "{}", run.err);
}

#[test]
fn what_fails_is_named_and_the_rest_is_done() {
    let server = filled();
    let world = world(&server, "[[sets.store.buckets]]\nat = \"/gone\"\nurl = \"s3:http://127.0.0.1:1/gone\"\n");
    // For so long the bucket is asked for that is not there; the others must answer within half of it.
    let more = ["--timeout", "16"];
    // One cannot be read, one is deleted after it was listed, and one bucket is not there.
    let hook = |asked: &Asked, gateway: &Gateway| match asked.key.as_slice() {
        b"plain.txt" => Some((403, "AccessDenied")),
        b"a-b" => {
            gateway.buckets.lock().get_mut("registry").unwrap().remove(&b"a-b"[..]);
            None
        }
        _ => None,
    };
    *server.gateway.hook.lock() = Some(std::sync::Arc::new(hook));
    let run = world.run_with(&OLD, &[&["ingest", "--set", "store", "--json"], &more[..]].concat());
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.err.contains("/buckets/registry/plain.txt") && run.err.contains("AccessDenied"), "{}", run.err);
    assert!(run.err.contains("/gone failed") && !run.err.contains("a-b"), "{}", run.err);
    let parts = run.json().pop().unwrap()["parts"].clone();
    assert_eq!((&parts[0]["state"], &parts[0]["errors"]), (&"incomplete".into(), &1.into()));
    assert_eq!(parts[1]["state"], "failed");
    assert_eq!(world.run(&["cat", "latest:/buckets/registry/a/%object"]).ok().out, b"a");
    *server.gateway.hook.lock() = None;
    // The way back of one whose part failed, and of one that is not whole.
    let refused = world.run_with(&OLD, &["restore", "--set", "store"]);
    assert!(refused.code == Some(1) && refused.err.contains("/gone failed when"), "{}", refused.err);
    let part = ["restore", "--set", "store", "--part", "/buckets/registry"];
    let run = world.run_with(&OLD, &[&part[..], &["--delete-objects"]].concat());
    assert!(run.code == Some(3) && run.err.contains("nothing is deleted"), "{}", run.err);
    assert!(server.facts("registry").contains_key("plain.txt"));
    // One that cannot be written.
    let hook = |asked: &Asked, _: &Gateway| (asked.method == "PUT" && asked.key == b"a/b/c.txt").then_some((403, "AccessDenied"));
    *server.gateway.hook.lock() = Some(std::sync::Arc::new(hook));
    server.gateway.buckets.lock().clear();
    let run = world.run_with(&OLD, &part);
    assert!(run.code == Some(3) && run.err.contains("registry/a/b/c.txt") && run.err.contains("AccessDenied"), "{}", run.err);
    assert!(server.facts("registry").contains_key("100%") && !server.facts("registry").contains_key("a/b/c.txt"));
    // With other keys nothing is listed.
    *server.gateway.hook.lock() = None;
    let run = world.run_with(&NEW, &[&["ingest", "--set", "store"], &more[..]].concat());
    assert!(run.code == Some(1) && run.err.contains("does not accept the credentials"), "{}", run.err);
}

#[test]
fn mistakes_in_buckets_are_found_before_anything_runs() {
    let server = GatewayServer::start("OLD", "old secret");
    let world = world(&server, "");
    let check = |keys: &str| {
        let text = format!("[sets.a]\npaths = [\"/etc\"]\n[[sets.a.buckets]]\n{keys}\n");
        let file = world.file("other.toml", text);
        let run = world.run(&["config", "check", "--config", &shown(&file)]);
        assert_ne!(run.code, Some(0), "{keys}");
        run.err + &String::from_utf8_lossy(&run.out)
    };
    let url = "url = \"s3:https://h.example/bucket\"";
    for (keys, words) in [
        (format!("at = \"x\"\n{url}"), "absolute path"),
        (format!("at = \"/x/../y\"\n{url}"), "no path"),
        (format!("at = \"/etc\"\n{url}"), "in one place"),
        (format!("at = \"/\"\n{url}"), "no path"),
        ("at = \"/x\"\nurl = \"https://h.example/bucket\"".to_owned(), "s3:https://ENDPOINT"),
        ("at = \"/x\"\nurl = \"s3:https://key:secret@h.example/bucket\"".to_owned(), "holds a key"),
        (format!("at = \"/x\"\n{url}\nrate = 0"), "at least 1"),
        (format!("at = \"/x\"\n{url}\nconnections = 65"), "from 1 to 64"),
        (format!("at = \"/x\"\n{url}\nbucket-in = \"sky\""), "path"),
        (format!("at = \"/x\"\n{url}\nratte = 1"), "rate"),
        (format!("at = \"/x\"\n{url}\nlimit-upload = \"fast\""), "no size"),
    ] {
        let said = check(&keys);
        assert!(said.contains(words), "{keys}: {said}");
        assert!(!said.contains("secret@"), "{said}");
    }
}
