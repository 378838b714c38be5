//! Writers that live, and writers that are dead, as a prune sees them from elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::build::noise;
use crate::common::mounted::{signal, stop};
use crate::common::program;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::{World, finish, with};
use rustix::process::Signal;

fn names(path: &Path) -> Vec<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A repository with garbage, and an ingest that has begun and stands still.
fn standing() -> (World, [String; 4], Child, String) {
    let world = World::new();
    let options = world.repository();
    world.file("src/file", noise(1, 100_000));
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.file("src/file", noise(2, 100_000));
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.run(&with(&options, &["forget", "--keep-last", "1"])).ok();
    world.file("src/large", noise(3, 100_000_000));
    let mut command = world.command(&with(&options, &["ingest", "src"]));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let id = loop {
        if let Some(id) = names(&world.at("repo/sessions")).into_iter().find(|name| name.len() == 64) {
            break id;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "no session was opened");
        std::thread::sleep(Duration::from_millis(1));
    };
    stop(child.id());
    (world, options, child, id)
}

fn ends_well(child: Child) {
    signal(child.id(), Signal::CONT);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// In another namespace of processes there is no process of the writer's number, and it lives all the same.
#[test]
fn a_writer_of_another_namespace_is_not_taken_for_dead() {
    let (world, options, child, id) = standing();
    let program = world.command::<&str>(&[]).get_program().to_owned();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(program).args(with(&options, &["prune"]));
    let run = finish(command.current_dir(world.home()).env("HOME", world.home()));
    run.fails(11, &[&id[..8], "no new sign of life", "counts as dead from 20"]);
    assert!(names(&world.at("repo/sessions")).contains(&id));
    assert!(!names(&world.at("repo/snapshots")).contains(&id), "it is not fenced");
    ends_well(child);
    assert!(names(&world.at("repo/snapshots")).contains(&id), "it has committed under its first id");
    world.run(&with(&options, &["prune"])).ok();
}

/// A host that was renamed is the same machine, and a process of it that is gone is gone.
#[test]
fn a_dead_writer_of_a_host_under_an_old_name_is_ended() {
    let (world, options, mut child, id) = standing();
    let mut command = Command::new("unshare");
    let program = world.command::<&str>(&[]).get_program().to_owned();
    let line = format!("hostname another-name && exec {program:?} \"$@\"");
    signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    command.args(["--uts", "sh", "-c", &line, "sh"]).args(with(&options, &["prune"]));
    let run = finish(command.current_dir(world.home()).env("HOME", world.home())).ok();
    assert!(run.text().contains("session"), "{}", run.text());
    assert!(names(&world.at("repo/sessions")).is_empty() && names(&world.at("repo/snapshots")).contains(&id));
    let left = Command::new("find").arg(world.at("repo")).args(["-name", ".tmp-*"]).output().unwrap();
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}

#[test]
fn prune_and_forget_wait_when_asked() {
    let (world, options, child, id) = standing();
    world.run(&with(&options, &["prune", "--wait", "1s"])).fails(11, &[&id[..8], "--wait"]);
    world.run(&with(&options, &["prune", "--wait", "soon"])).fails(2, &["soon", "30m"]);
    let mut command = world.command(&with(&options, &["forget", "--keep-last", "1", "--prune", "--wait", "10m"]));
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ends_well(child);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(names(&world.at("repo/sessions")).is_empty());
    world.run(&with(&options, &["check", "--read-data"])).ok();
}
