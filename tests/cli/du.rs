//! What takes the room, and what forgetting would free.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use serde_json::Value;

use crate::common::program::{Run, World, shown, with};
use crate::common::tiny::noise;

fn run(world: &World, options: &[String], args: &[&str]) -> Run {
    world.run(&with(options, args))
}

/// What `du` says of a path, below src: what it takes in the repository, and its bytes.
fn of(lines: &[Value], world: &World, path: &str) -> Option<(u64, u64)> {
    let path = format!("{}{path}", shown(&world.at("src")));
    let line = lines.iter().find(|line| line["message_type"] == "usage" && line["path"] == path)?;
    Some((line["stored_bytes"].as_u64().unwrap(), line["bytes"].as_u64().unwrap()))
}

#[test]
fn what_takes_the_room_is_said_by_entry_and_by_file() {
    let world = World::new();
    let options = world.repository();
    let src = format!("latest:{}", shown(&world.at("src")));
    world.file("src/a/large", noise(1, 300_000));
    world.file("src/a/copy", noise(1, 300_000));
    world.file("src/a/small", noise(2, 30_000));
    world.file("src/b", noise(5, 10_000));
    run(&world, &options, &["ingest", "src"]).ok();
    let all = run(&world, &options, &["du", "--json", &src]).ok().json();
    let (stored, bytes) = of(&all, &world, "/a").unwrap();
    assert!((330_000..331_000).contains(&bytes) && (250_000..340_000).contains(&stored), "{bytes} {stored}");
    let (stored, bytes) = of(&all, &world, "/b").unwrap();
    assert!(bytes == 10_000 && (5_000..12_000).contains(&stored), "{bytes} {stored}");
    assert_eq!(all.last().unwrap()["message_type"], "summary");
    let text = run(&world, &options, &["du", &src, "--top", "2"]).ok().text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 3 && lines[0].ends_with("/src/a/copy") && lines[1].ends_with("/src/a/small"), "{text}");
    let file = run(&world, &options, &["du", "--json", &format!("{src}/a/small")]).ok().json();
    assert_eq!(of(&file, &world, "/a/small").unwrap().1, 30_000);
    run(&world, &options, &["du", &format!("{src}/nowhere")]).fails(1, &["is not in snapshot"]);
    run(&world, &options, &["du", "--top", "1", "--if-forgotten", "latest"]).fails(2, &["cannot be used with"]);
    // What came, and what nobody else has.
    world.file("src/new", noise(3, 50_000));
    run(&world, &options, &["ingest", "src"]).ok();
    fs::remove_file(world.at("src/new")).unwrap();
    world.file("src/later", noise(4, 70_000));
    run(&world, &options, &["ingest", "src"]).ok();
    let below = |name: &str| format!("{name}:{}", shown(&world.at("src")));
    let added = run(&world, &options, &["du", "--json", "--added", &below("latest~1")]).ok().json();
    assert_eq!((of(&added, &world, "/new").unwrap().1, of(&added, &world, "/a")), (50_000, None));
    let unique = run(&world, &options, &["du", "--json", "--unique", &below("latest")]).ok().json();
    assert_eq!((of(&unique, &world, "/later").unwrap().1, of(&unique, &world, "/b")), (70_000, None));
    // What the last one has not is unique to the one before, in all of it as well as below a path.
    let whole = run(&world, &options, &["du", "--json", "--unique", "latest~1"]).ok().json();
    assert_eq!(whole.last().unwrap()["bytes"], 50_000);
    assert!(run(&world, &options, &["du", "--added", "latest~2"]).ok().err.contains("all of it was added"));
}

/// Bytes of what forgetting and pruning change, but for marks of forgotten snapshots, which stay. Prune also writes down
/// that it ran.
fn taken(world: &World) -> u64 {
    let mut todo: Vec<_> = ["packs", "index", "snapshots", "condemned"].map(|class| world.at("repo").join(class)).into();
    let mut sum = 0;
    while let Some(path) = todo.pop() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => todo.push(entry.path()),
                false => sum += entry.metadata().unwrap().len(),
            }
        }
    }
    sum
}

fn free_if(world: &World, options: &[String], ids: &[&str]) -> Value {
    let mut lines = run(world, options, &[&["du", "--json", "--if-forgotten"], ids].concat()).ok().json();
    lines.remove(0)
}

/// Forgets and prunes: what the repository is shorter by.
fn freed(world: &World, options: &[String], ids: &[&str]) -> u64 {
    let before = taken(world);
    run(world, options, &[&["forget"], ids].concat()).ok();
    run(world, options, &["prune", "--max-unused", "0"]).ok();
    before - taken(world)
}

/// Snapshots that share nothing but a file: what goes, goes as whole packs.
#[test]
fn what_forgetting_would_free_is_what_it_frees_to_the_byte() {
    let world = World::new();
    let options = world.repository();
    let mut ids = Vec::new();
    for number in 0..5 {
        world.file("src/f", noise(number, 100_000 + number as usize));
        run(&world, &options, &["ingest", "src"]).ok();
        ids.push(run(&world, &options, &["snapshots", "--json"]).ok().json().pop().unwrap()["id"].as_str().unwrap().to_owned());
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (one, both) = (free_if(&world, &options, &ids[1..2]), free_if(&world, &options, &[ids[1], ids[3]]));
    assert_eq!((&both["snapshots_left"], &both["bytes_freed_anyway"]), (&Value::from(3), &Value::from(0)));
    assert!(both["bytes_freed"].as_u64().unwrap() > one["bytes_freed"].as_u64().unwrap() + 100_000, "{one} {both}");
    // Nothing was changed by asking.
    assert_eq!(run(&world, &options, &["snapshots", "--json"]).ok().json().len(), 5);
    assert_eq!(freed(&world, &options, &[ids[1], ids[3]]), both["bytes_freed"].as_u64().unwrap());
    let rest = free_if(&world, &options, &[ids[0]]);
    assert_eq!(freed(&world, &options, &[ids[0]]), rest["bytes_freed"].as_u64().unwrap());
}

/// Snapshots that share most, in the same packs: forgetting one frees little, and all of those that share it much. What is
/// copied out of a pack is reckoned.
#[test]
fn what_several_share_is_freed_when_all_of_them_go() {
    let world = World::new();
    let options = world.repository();
    world.file("src/kept", noise(1, 400_000));
    world.file("src/shared", noise(2, 300_000));
    run(&world, &options, &["ingest", "src"]).ok();
    world.file("src/more", noise(3, 20_000));
    run(&world, &options, &["ingest", "src"]).ok();
    fs::remove_file(world.at("src/shared")).unwrap();
    run(&world, &options, &["ingest", "src"]).ok();
    let free = |ids: &[&str]| free_if(&world, &options, ids)["bytes_freed"].as_u64().unwrap();
    let (first, second, both) = (free(&["latest~2"]), free(&["latest~1"]), free(&["latest~2", "latest~1"]));
    assert!(first < 10_000 && second < 10_000 && both > 300_000, "{first} {second} {both}");
    let text = run(&world, &options, &["du", "--if-forgotten", "latest~2", "latest~1"]).ok().text();
    assert!(text.starts_with("forgetting 2 snapshots would free ") && text.contains("1 snapshot is left"), "{text}");
    let really = freed(&world, &options, &["latest~2", "latest~1"]);
    assert!(really.abs_diff(both) < 2_000, "{both} were announced, and {really} freed");
    assert_eq!(free_if(&world, &options, &["latest"])["snapshots_left"], 0);
}
