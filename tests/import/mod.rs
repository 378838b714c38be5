//! `import`: what the other tools put back, and what is put back here, must be the same.

mod borg;
mod generations;
mod restic;
mod tar;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::program::{Run, World, shown, with};

/// A command of the system that must succeed, with a password for restic and borg; what it prints.
#[track_caller]
fn run(at: &Path, line: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-ec", line]).current_dir(at).env("RESTIC_PASSWORD", "secret").env("BORG_PASSPHRASE", "secret");
    command.env("HOME", at).env("TZ", "UTC");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Compares two trees by everything but their holes.
#[track_caller]
fn same(at: &Path, a: &str, b: &str) {
    let script = format!("{}/tests/same_tree.py", env!("CARGO_MANIFEST_DIR"));
    let line = format!("python3 {script} --no-holes {a} {b} > differ.txt || {{ head -20 differ.txt >&2; exit 1; }}");
    run(at, &line);
}

/// A machine with a repository to import into.
struct Place {
    world: World,
    options: [String; 4],
}

impl Place {
    fn new() -> Place {
        let world = World::new();
        let options = world.repository();
        Place { world, options }
    }

    fn sh(&self, line: &str) -> String {
        run(self.world.home(), line)
    }

    /// `yester import`, with the password of the other repository.
    fn import(&self, args: &[&str]) -> Run {
        let password = [("YESTER_FROM_PASSWORD", "secret")];
        self.world.run_with(&password, &with(&self.options, &[&["--json", "import"], args].concat()))
    }

    /// The same for people, which fails with `code` and one line that holds all of `words`.
    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, words: &[&str]) {
        let password = [("YESTER_FROM_PASSWORD", "secret")];
        self.world.run_with(&password, &with(&self.options, &[&["import"], args].concat())).fails(code, words);
    }

    fn run(&self, args: &[&str]) -> Run {
        self.world.run(&with(&self.options, args))
    }

    /// Every snapshot, oldest first.
    fn snapshots(&self) -> Vec<Value> {
        self.run(&["--json", "snapshots"]).ok().json()
    }

    /// Puts back the directory of a snapshot that was called `path`, as the directory `to`.
    fn restore(&self, id: &str, path: &str, to: &str) {
        let (what, to) = (format!("{id}:{path}"), shown(&self.world.at(to)));
        self.run(&["-q", "restore", &what, "--target", &to]).ok();
    }

    fn check(&self) {
        self.run(&["check", "--read-data"]).ok();
    }
}

/// What a summary counts: imported, skipped, failed, errors.
#[track_caller]
fn counts(run: &Run) -> [u64; 4] {
    let summary = run.json().pop().unwrap_or_else(|| panic!("no summary: {}", run.err));
    ["snapshots_imported", "snapshots_skipped", "snapshots_failed", "errors"].map(|name| summary[name].as_u64().unwrap())
}

/// The snapshot that each one of the source became, by its name there.
fn became(run: &Run) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = run.json().into_iter().filter(|line| line["message_type"] == "imported");
    lines.map(|line| (text(&line["origin"]), text(&line["snapshot_id"]))).collect()
}
