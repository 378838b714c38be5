//! The README is true: its tour runs as it stands, and its commands are the program's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::path::Path;

use program::{World, finish};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The lines of the fenced block that begins with "```" and `info`.
fn block(text: &str, info: &str) -> Vec<String> {
    let begin = format!("```{info}");
    let lines = text.lines().skip_while(|line| *line != begin).skip(1);
    lines.take_while(|line| *line != "```").map(str::to_owned).collect()
}

#[test]
fn the_tour_runs() {
    let tour = block(&readme(), "sh tour");
    assert_eq!(tour.len(), 10, "a tour of ten lines");
    let world = World::new();
    let program = Path::new(env!("CARGO_BIN_EXE_yester")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let script = format!("set -euo pipefail\n{}\n", tour.join("\n"));
    // A mount that a broken tour leaves would keep the home directory from being removed.
    let script = format!("trap 'yester umount past 2>/dev/null || true' EXIT\n{script}");
    let mut command = std::process::Command::new("bash");
    command.arg("-c").arg(script).current_dir(world.home()).env_clear();
    let run = finish(command.env("HOME", world.home()).env("PATH", path)).ok();
    let text = run.text();
    for said in ["snapshot ", "2 snapshots in 1 series", "buy bread", "mounted at ", "latest", "restored 1 file"] {
        assert!(text.contains(said), "{said:?} is not in what the tour printed:\n{text}\n{}", run.err);
    }
    assert!(run.err.contains("safe place"), "{}", run.err);
}

#[test]
fn there_are_two_commands_and_the_tests_are_those_of_ci() {
    let text = readme();
    let commands = [block(&text, "sh"), block(text.split("This runs all tests").nth(1).unwrap(), "sh")];
    for command in &commands {
        assert!(command.len() == 1 && command[0].contains("apt-get install -y "), "{command:?}");
    }
    assert!(commands[0][0].contains("yester ingest") && commands[0][0].contains("yester mount"));
    assert_eq!(text.lines().filter(|l| *l == "```sh").count(), 2);
    assert!(commands[1][0].contains(" && cargo test"), ".ci/run takes the test command from there");
    for package in packages(&commands[1][0]) {
        let ci = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).unwrap();
        assert!(ci.split_whitespace().any(|word| word == package), "{package} is not in .ci/run");
    }
}

#[test]
fn the_table_is_what_the_program_knows() {
    let text = readme();
    let listed: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("| `yester ")?.split([' ', '`']).next()).collect();
    let help = World::new().run(&["--help"]).ok().text();
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let known: Vec<&str> = commands
        .lines()
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert_eq!(listed, known);
}

/// The packages that a command installs.
fn packages(command: &str) -> impl Iterator<Item = &str> {
    let list = command.split("apt-get install -y ").nth(1).unwrap().split('"').next().unwrap();
    list.split(' ')
}
