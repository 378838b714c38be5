//! What a repository in an object store costs: requests of runs, plans of restores, classes that have to be thawed.

use std::collections::BTreeSet;

use crate::common::program::{World, shown};
use crate::common::s3::{Kind, S3Server};
use crate::net::program::{Variables, run};
use crate::net::store::store_variables;
use crate::net::support::noise;

fn filled(world: &World, server: &S3Server, more: &[&str]) -> (Variables, String) {
    let variables = store_variables(server, world);
    for n in 0..40u8 {
        world.file(&format!("src/{n}"), noise(n, 100_000));
    }
    world.file("src/other/one", noise(99, 3 << 20));
    let source = shown(&world.at("src"));
    run(world, &variables, &["init"]).ok();
    run(world, &variables, &[&["ingest", "-q", &source], more].concat()).ok();
    (variables, source)
}

/// The packs that were read since the last look, by their keys.
fn packs_read(server: &S3Server) -> BTreeSet<String> {
    let seen = server.take().into_iter().filter(|seen| seen.kind == Kind::Get && seen.key.contains("/packs/"));
    seen.map(|seen| seen.key).collect()
}

#[test]
fn a_plan_names_as_many_packs_as_the_restore_reads() {
    let (world, server) = (World::new(), S3Server::start());
    let (variables, source) = filled(&world, &server, &[]);
    let all: u64 = 40 * 100_000 + (3 << 20);
    for (what, content) in [(format!("latest:{source}"), all), (format!("latest:{source}/other"), 3 << 20)] {
        server.take();
        let plan = run(&world, &variables, &["restore", "--plan", "--json", &what]).ok().json().pop().unwrap();
        assert_eq!(plan["message_type"], "read_plan");
        // What it costs to plan: trees, no content.
        let data = |keys: &BTreeSet<String>| keys.iter().filter(|key| server.save()[*key].bytes.len() > 200_000).count() as u64;
        assert_eq!(data(&packs_read(&server)), 0, "content was read for a plan");
        let target = shown(&world.at(&format!("to{content}")));
        run(&world, &variables, &["restore", "-q", "--no-cache", &what, "--target", &target]).ok();
        let read = packs_read(&server);
        assert_eq!(plan["packs"].as_u64().unwrap(), read.len() as u64, "{plan} {read:?}");
        assert_eq!(plan["content_bytes"].as_u64().unwrap(), content);
        let (bytes, requests) = (plan["bytes"].as_u64().unwrap(), plan["requests"].as_u64().unwrap());
        assert!(bytes >= content && bytes < content + 100_000 && requests >= 2 * read.len() as u64, "{plan}");
        assert_eq!(plan["classes"][0]["storage_class"], "STANDARD");
        assert_eq!(plan["cold_packs"], 0);
    }
    run(&world, &variables, &["restore", "--plan", "latest:/nowhere"]).fails(1, &["nowhere"]);
}

#[test]
fn cold_packs_are_named_with_the_command_that_thaws_them() {
    let (world, server) = (World::new(), S3Server::start());
    let (variables, source) = filled(&world, &server, &["--data-class", "DEEP_ARCHIVE"]);
    let what = format!("latest:{source}");
    let target = shown(&world.at("to"));
    let refused = run(&world, &variables, &["restore", "-q", &what, "--target", &target]);
    assert!(refused.code == Some(3), "{refused:?}");
    assert!(refused.err.contains("InvalidObjectState") && refused.err.contains("restore --plan"), "{}", refused.err);
    let said = run(&world, &variables, &["restore", "--plan", &what]).ok();
    assert!(said.text().contains("DEEP_ARCHIVE") && said.text().contains("thawed first"), "{}", said.text());
    for part in ["aws s3api restore-object", "--bucket bucket", "Days=7", &format!("http://127.0.0.1:{}", server.port)] {
        assert!(said.err.contains(part), "{}", said.err);
    }
    // What the command is given: a key a line, of all of them.
    let keys = run(&world, &variables, &["restore", "--plan", "-q", &what]).ok().text();
    let keys: BTreeSet<&str> = keys.lines().collect();
    let json = run(&world, &variables, &["restore", "--plan", "--json", &what]).ok().json();
    let cold: BTreeSet<&str> =
        json.iter().filter(|line| line["message_type"] == "cold_pack").map(|line| line["key"].as_str().unwrap()).collect();
    assert!(!keys.is_empty() && keys == cold);
    assert_eq!(json.last().unwrap()["cold_packs"], keys.len());
    let mut objects = server.save();
    for (key, object) in &mut objects {
        assert_eq!(
            keys.contains(key.as_str()),
            !object.headers.is_empty() && object.headers.iter().any(|(n, _)| n == "x-amz-storage-class")
        );
        // Thawed.
        object.headers.retain(|(name, _)| name != "x-amz-storage-class");
    }
    server.load(objects);
    run(&world, &variables, &["restore", "-q", &what, "--target", &target]).ok();
    assert!(std::fs::read(world.at("to/other/one")).unwrap() == noise(99, 3 << 20));
}

#[test]
fn a_run_says_what_it_asked_and_cost_prices_it() {
    let (world, server) = (World::new(), S3Server::start());
    let (variables, source) = filled(&world, &server, &[]);
    let none = run(&world, &variables, &["cost"]).ok();
    assert!(none.err.contains("no run of the last 30 days says what it asked"), "{}", none.err);
    assert!(none.text().contains("prices of 20") && none.text().contains("cloudflare-r2"), "{}", none.text());
    server.take();
    run(&world, &variables, &["check", "-q"]).ok();
    let counts = server.counts();
    let ran = run(&world, &variables, &["runs", "--json"]).ok().json().pop().unwrap();
    let asked = |field: &str| ran[field].as_u64().unwrap();
    // After that it was looked up whether the store decides, and the object that says all this was written.
    assert_eq!(asked("requests_put") + 1, counts[&Kind::Put] as u64, "{ran} {counts:?}");
    assert_eq!((asked("requests_get"), asked("requests_list")), (counts[&Kind::Get] as u64 - 1, counts[&Kind::List] as u64));
    let id = ran["id"].as_str().unwrap();
    assert!(run(&world, &variables, &["runs", "show", id]).ok().text().contains("asked of the object store"));
    let table = "date = \"2001-02-03\"\ncurrency = \"EUR\"\n[[store]]\nname = \"own\"\ntitle = \"Own\"\nstorage = 1000\n\
                 put = 0\nlist = 1000\nget = 0\negress = 0\n";
    let prices = shown(&world.file("prices.toml", table));
    let priced = |args: &[&str]| run(&world, &variables, &[&["cost", "--json", "--prices", &prices], args].concat()).ok().json();
    let [basis, cost] = &priced(&[&format!("latest:{source}/other")])[..] else { panic!() };
    assert_eq!((basis["runs_counted"].as_u64(), basis["requests_list"].as_u64()), (Some(1), Some(asked("requests_list"))));
    let stored: usize = server.save().iter().filter(|(key, _)| !key.contains("/proof/")).map(|(_, o)| o.bytes.len()).sum();
    let said = basis["data_bytes"].as_u64().unwrap() + basis["other_bytes"].as_u64().unwrap();
    assert_eq!(said, stored as u64);
    assert!((cost["month"].as_f64().unwrap() - stored as f64 / 1e6).abs() < 1e-6, "{cost}");
    assert!((cost["runs"].as_f64().unwrap() - asked("requests_list") as f64).abs() < 1e-6, "{cost}");
    assert_eq!((cost["prices_date"].as_str(), cost["restore"].as_f64()), (Some("2001-02-03"), Some(0.0)));
    assert!(basis["restore_bytes"].as_u64().unwrap() > 3 << 20);
    run(&world, &variables, &["cost", "--store", "nothing"]).fails(2, &["aws-standard", "wasabi"]);
    let bad = shown(&world.file("bad.toml", "date = 1"));
    run(&world, &variables, &["cost", "--prices", &bad]).fails(2, &["bad.toml"]);
}

/// A snapshot never changes: however often a command lists them, it reads each once.
#[test]
fn a_command_reads_each_snapshot_once() {
    let (world, server) = (World::new(), S3Server::start());
    let (variables, source) = filled(&world, &server, &[]);
    for _ in 0..4 {
        run(&world, &variables, &["ingest", "-q", &source]).ok();
    }
    server.take();
    let read = |more: &[&str]| -> Vec<String> {
        run(&world, &variables, &[&["ingest", "-q", &source], more].concat()).ok();
        let seen = server.take().into_iter().filter(|seen| seen.kind == Kind::Get && seen.key.contains("/snapshots/"));
        seen.map(|seen| seen.key).collect()
    };
    // This machine has made them all: it keeps them.
    assert_eq!(read(&[]), [""; 0]);
    let without = read(&["--no-cache"]);
    let different: BTreeSet<&String> = without.iter().collect();
    assert!(without.len() == 6 && different.len() == 6, "{without:?}");
}
