//! Bad inputs, one test a row: what somebody may meet in a repository, on a command line or on a disk, and must be told
//! of in one clear line that names the object and the next step. Nothing panics, nothing is left half written.
//!
//! Rows are numbered as in the list of inputs that this format and program were designed against. Left out:
//!
//! - 23 for packs: the directory of a pack stores no offsets, they follow from the lengths; what overlaps in an index
//!   segment is tested in its place.
//! - 24 in part: a count of 2³² - 1 frames stands in the tail of a pack only; what a directory counts are chunks of one
//!   frame, of which 65,536 are taken at most.
//! - 34 to 38: snapshots have no sequence numbers and no chain; a repository that goes back in time is told by this
//!   machine's memory (`tests/store/local_state.rs`, `tests/damage/checks.rs`).
//! - 44 and 45 do not fail: depth is bounded by nothing but the counts, and no command recurses on it; pages that many
//!   directories share are visited once by those that can.
//! - 65: there are no locks with ids; two ingests at once do not hinder each other.
//! - 69 to 80: servers and object stores come with the rooms that speak to them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cli;
mod config;
mod objects;
mod trees;

use crate::common::program;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use program::{Run, World, with};
use yester::chunk::keys::Credential;
use yester::repo::Repository;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name};

/// A repository in a directory: for the program, and open for those who want to spoil it.
struct Place {
    world: World,
    options: [String; 4],
    repo: Arc<Repository>,
}

impl Place {
    fn new() -> Place {
        let world = World::new();
        let options = world.repository();
        let repo = open(&world, "repo");
        Place { world, options, repo }
    }

    /// One that holds a snapshot of a directory `src` with two files.
    fn with_files() -> Place {
        let place = Place::new();
        place.world.file("src/a", vec![b'a'; 10_000]);
        place.world.file("src/b", (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<u8>>());
        place.run(&["ingest", "src"]).ok();
        place
    }

    fn run(&self, args: &[&str]) -> Run {
        self.world.run(&with(&self.options, args))
    }

    /// Objects of a class, as files.
    fn files(&self, class: Class) -> Vec<PathBuf> {
        let mut names: Vec<Name> = self.repo.storage().list(class).unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names.iter().map(|name| self.path(name)).collect()
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.world.at("repo").join(name.to_string())
    }

    /// Changes every object of a class behind the program's back.
    fn spoil(&self, class: Class, change: impl Fn(&mut Vec<u8>)) {
        self.files(class).iter().for_each(|path| spoil(path, &change));
    }

    /// The path of a file of [`Place::with_files`] in its snapshot.
    fn stored(&self, name: &str) -> String {
        format!("latest:{}", program::shown(&self.world.at(name)))
    }

    /// Restores everything; the target must hold only `left`, and nothing temporary.
    #[track_caller]
    fn restores(&self, code: i32, words: &[&str], left: &[&str]) -> Run {
        let target = self.world.at("out");
        let _ = fs::remove_dir_all(&target);
        let run = self.run(&["restore", "latest", "--target", "out"]);
        assert_eq!(run.code, Some(code), "{}\n{}", run.text(), run.err);
        assert!(run.err.lines().all(|line| line.starts_with("yester: ")), "{}", run.err);
        for word in words {
            assert!(run.err.contains(word), "{word:?} is not in {:?}", run.err);
        }
        let mut found = if target.exists() { names(&target) } else { Vec::new() };
        found.sort();
        assert_eq!(found, left, "{}", run.err);
        run
    }
}

fn open(world: &World, name: &str) -> Arc<Repository> {
    let key = fs::read_to_string(world.at("key")).unwrap();
    let key = Credential::KeyFile(yester::model::id::from_hex(key.trim()).unwrap());
    Arc::new(Repository::open(Arc::new(DirectoryStorage::open(&world.at(name)).unwrap()), &key).unwrap())
}

/// Changes the bytes of a file that may not be writable.
fn spoil(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Puts the checksum of an object right again.
fn checksum(bytes: &mut [u8]) {
    let end = bytes.len() - 32;
    let sum = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(sum.as_bytes());
}

/// Paths below a directory, without the directories.
fn names(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(|e| e.unwrap()) {
            match entry.file_type().unwrap().is_dir() {
                true => waiting.push(entry.path()),
                false => out.push(entry.path().strip_prefix(path).unwrap().to_string_lossy().into_owned()),
            }
        }
    }
    out
}

/// Whether this runs as root; what only root can set up is tested only then.
fn is_root() -> bool {
    yester::sys::process::user() == 0
}

/// A small file system, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, options: &str) -> Option<Small> {
        let _ = fs::create_dir(path);
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Small(path.to_owned()))
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let done = std::process::Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A user who is nobody, with a home `nobody` below that of the test and a copy of the program that may be run.
struct Nobody {
    program: PathBuf,
    home: PathBuf,
}

impl Nobody {
    const ID: u32 = 65534;

    /// Gives the repository and its key to nobody.
    fn new(place: &Place) -> Nobody {
        let home = place.world.at("nobody");
        fs::create_dir(&home).unwrap();
        let program = place.world.at("yester");
        program::copy_program(env!("CARGO_BIN_EXE_yester"), &program);
        let given = std::process::Command::new("chown").args(["-R", "65534:65534"]).arg(place.world.home()).status();
        assert!(given.is_ok_and(|status| status.success()));
        Nobody { program, home }
    }

    fn run(&self, place: &Place, args: &[&str]) -> Run {
        let mut command = std::process::Command::new(&self.program);
        std::os::unix::process::CommandExt::gid(&mut command, Self::ID);
        std::os::unix::process::CommandExt::uid(&mut command, Self::ID);
        command.args(with(&place.options, args)).current_dir(&self.home).env_clear().env("HOME", &self.home).env("TZ", "UTC");
        program::finish(&mut command)
    }
}
