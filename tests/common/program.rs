//! Runs the built program as a user would, in a clean environment.
#![allow(dead_code)] // Every test file uses its own part of this.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use yester::chunk::keys::Credential;
use yester::repo::Repository;
use yester::storage::Storage;
use yester::storage::directory::DirectoryStorage;

/// A home directory of its own, and nothing of the environment that runs the tests.
pub struct World {
    dir: TempDir,
    zone: String,
}

/// What a run left.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Run {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// The lines of standard output as JSON, but for those that say how far a command is: they come by time.
    pub fn json(&self) -> Vec<serde_json::Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")));
        lines.filter(|line: &serde_json::Value| line["message_type"] != "status").collect()
    }

    /// Fails the test unless the run ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.text(), self.err);
        self
    }

    /// Fails the test unless the run ended with `code` and one line on standard error that holds all of `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.text(), self.err);
        assert_eq!(self.err.lines().count(), 1, "{:?}", self.err);
        assert!(self.err.starts_with("yester: "), "{:?}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{:?} is not in {:?}", word, self.err);
        }
        self
    }
}

impl World {
    pub fn new() -> World {
        World { dir: tempfile::tempdir().unwrap(), zone: "UTC".to_owned() }
    }

    /// The same in a time zone, at most twelve hours behind UTC, where midnight is six hours away at least: what is due once
    /// a day is not due again while a test runs.
    pub fn far_from_midnight() -> World {
        let seconds = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let hour = (seconds / 3600 % 24) as i64;
        let behind = (0..=12).min_by_key(|behind| ((hour - behind).rem_euclid(24) - 12).abs()).unwrap();
        World { zone: format!("Etc/GMT+{behind}"), ..World::new() }
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        self.dir.path()
    }

    /// A path below the home directory.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file below the home directory, with what leads to it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The program, with HOME and nothing else set.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yester"));
        command.args(args).current_dir(self.home()).stdin(Stdio::null()).env_clear();
        command.env("HOME", self.home()).env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TZ", &self.zone);
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        finish(&mut self.command(args))
    }

    /// With more variables.
    pub fn run_with<S: AsRef<OsStr>>(&self, variables: &[(&str, &str)], args: &[S]) -> Run {
        finish(self.command(args).envs(variables.iter().copied()))
    }

    /// With something on standard input.
    pub fn run_fed<S: AsRef<OsStr>>(&self, input: &[u8], args: &[S]) -> Run {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that has no use for its input may have ended before it is written.
        match child.stdin.take().unwrap().write_all(input) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        }
        read(child.wait_with_output().unwrap())
    }

    /// A repository `repo` with the key file `key`, both below the home directory; returns the options for it.
    pub fn repository(&self) -> [String; 4] {
        let options = ["--repo".to_owned(), shown(&self.at("repo")), "--key-file".to_owned(), shown(&self.at("key"))];
        self.run(&[&options[..], &["init".to_owned()]].concat()).ok();
        options
    }

    /// The same repository through the library.
    pub fn open_repository(&self) -> Repository {
        self.open_on(Arc::new(DirectoryStorage::open(&self.at("repo")).unwrap()))
    }

    /// The same repository in another place.
    pub fn open_on(&self, storage: Arc<dyn Storage>) -> Repository {
        let key = std::fs::read_to_string(self.at("key")).unwrap();
        let key = Credential::KeyFile(yester::model::id::from_hex(key.trim()).unwrap());
        Repository::open(storage, &key).unwrap()
    }
}

/// A path as text.
pub fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Copies a program to run the copy. What this process wrote itself may not be run ("text file busy") as long as a
/// process that another test is starting has inherited the open file, so another one writes it.
#[track_caller]
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let done = Command::new("cp").args(["--preserve=mode", "--"]).arg(from.as_ref()).arg(to.as_ref()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

pub fn finish(command: &mut Command) -> Run {
    read(command.output().unwrap())
}

fn read(output: std::process::Output) -> Run {
    Run { code: output.status.code(), out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// `args` after `options`.
pub fn with(options: &[String], args: &[&str]) -> Vec<String> {
    options.iter().cloned().chain(args.iter().map(|a| (*a).to_owned())).collect()
}
