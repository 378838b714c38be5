//! More owners with names than a snapshot has room for, on a machine that has its own `/etc/passwd`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::process::Command;

use crate::common::program::{Run, World, finish, shown, with};

/// With root two more than a snapshot has names for.
const OWNERS: u32 = 65_537;
/// Their numbers where they are ingested, and where they are restored.
const HERE: u32 = 100_000;
const THERE: u32 = 1_000_000;

/// Runs the program where the users `u0`, `u1` and so on have the numbers from `first` on.
fn run_among(world: &World, first: u32, args: &[String]) -> Run {
    let mut text = "root:x:0:0::/root:/bin/sh\n".to_owned();
    (0..OWNERS).for_each(|n| writeln!(text, "u{n}:x:{}:{}::/:/bin/false", first + n, first + n).unwrap());
    let users = world.file("passwd", text);
    let program = world.command::<&str>(&[]).get_program().to_owned();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/passwd && exec \"$@\""]).arg(users).arg(program).args(args);
    finish(command.current_dir(world.home()).env("HOME", world.home()))
}

#[test]
fn more_owners_than_there_is_room_for_names_end_with_3_and_are_restored() {
    let world = World::new();
    let options = world.repository();
    let source = world.at("src");
    fs::create_dir(&source).unwrap();
    for n in 0..OWNERS {
        let path = source.join(n.to_string());
        fs::write(&path, "").unwrap();
        lchown(&path, Some(HERE + n), Some(0)).unwrap();
    }
    let run = run_among(&world, HERE, &with(&options, &["ingest", "src"]));
    assert_eq!(run.code, Some(3), "{}\n{}", run.text(), run.err);
    assert!(run.err.contains("more owners have names than a snapshot holds: 2 of them are stored by number only"), "{}", run.err);
    world.run(&with(&options, &["check"])).ok();
    // Where nobody has a name there is nothing to be left out: the numbers stand with the files.
    world.run(&with(&options, &["ingest", "--tag", "numbers", "src"])).ok();

    // The names decide where they have other numbers. root is the first that has a name, and the last two have none: they
    // keep their numbers.
    let what = format!("latest~1:{}", shown(&source));
    let some: Vec<u32> = (0..OWNERS).step_by(OWNERS as usize / 50).chain(OWNERS - 3..OWNERS).collect();
    let mut args = with(&options, &["restore", &what, "--target", "out"]);
    some.iter().for_each(|n| args.extend(["-i".to_owned(), format!("/**/{n}")]));
    run_among(&world, THERE, &args).ok();
    for n in some {
        let owner = fs::symlink_metadata(world.at("out").join(n.to_string())).unwrap().uid();
        assert_eq!(owner, if n + 2 < OWNERS { THERE + n } else { HERE + n }, "the owner of {n}");
    }
    let last = OWNERS - 1;
    let what = format!("latest:{}", shown(&source.join(last.to_string())));
    run_among(&world, THERE, &with(&options, &["restore", &what, "--target", "numbers"])).ok();
    assert_eq!(fs::symlink_metadata(world.at("numbers").join(last.to_string())).unwrap().uid(), HERE + last);
}
