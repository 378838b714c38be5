//! Repositories on file systems that lack what local ones have. Needs root, `/dev/fuse`, `sshfs` and `openssh-server`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::PATIENCE;
use crate::common::passthrough;
use crate::common::program;
use crate::common::sshd;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use passthrough::{Abilities, Passthrough};
use program::{World, shown, with};
use yester::model::SnapshotId;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Created, Name, Storage};
use yester::sys::process::ProcessIdentity;

const WITHOUT_NOREPLACE: Abilities = Abilities { noreplace: false, links: true, modes: true, exchange: false };
const WITHOUT_LINKS: Abilities = Abilities { noreplace: false, links: false, modes: false, exchange: false };
const ALL: [Abilities; 3] =
    [Abilities { noreplace: true, links: false, modes: true, exchange: false }, WITHOUT_NOREPLACE, WITHOUT_LINKS];

/// Every command that writes, in a repository on `place`.
fn lives(world: &World, place: &Path) {
    let options = ["--repo".to_owned(), shown(&place.join("repo")), "--key-file".to_owned(), shown(&world.at("key"))];
    let run = |args: &[&str]| world.run(&with(&options, args));
    run(&["init"]).ok();
    world.file("src/one", "one");
    world.file("src/big", vec![7; 300_000]);
    run(&["ingest", "src"]).ok();
    world.file("src/two", "two");
    run(&["ingest", "src"]).ok();
    run(&["key", "export"]).ok();
    run(&["forget", "--prune", "--keep-last", "1"]).ok();
    run(&["check", "--read-data"]).ok();
    fs::remove_dir_all(world.at("src")).unwrap();
    run(&["restore", "latest", "--target", "/"]).ok();
    assert_eq!(fs::read(world.at("src/two")).unwrap(), b"two");
    let temporary = format!("find {} -name '.*'", shown(&place.join("repo")));
    let found = Command::new("sh").args(["-c", &temporary]).output().unwrap().stdout;
    assert!(found.is_empty(), "{}", String::from_utf8_lossy(&found));
}

#[test]
fn a_repository_lives_on_file_systems_that_can_do_less() {
    for abilities in ALL {
        let (world, below) = (World::new(), tempfile::tempdir().unwrap());
        let mounted = Passthrough::of(below.path(), abilities);
        lives(&world, mounted.path());
        // And is restored to.
        let repo = below.path().join("repo");
        let claims = !abilities.noreplace && !abilities.links;
        assert_eq!(repo.join("names-by-claim").exists(), claims, "{abilities:?}");
        let options = ["--repo".to_owned(), shown(&repo), "--key-file".to_owned(), shown(&world.at("key"))];
        let target = shown(&mounted.path().join("back"));
        let restore = ["restore", &format!("latest:{}", shown(&world.at("src"))), "--target", &target];
        let code = if abilities.modes { 0 } else { 3 };
        for _ in 0..2 {
            assert_eq!(world.run(&with(&options, &restore)).code, Some(code), "{abilities:?}");
            assert_eq!(fs::read(below.path().join("back/two")).unwrap(), b"two");
        }
    }
}

#[test]
fn of_many_who_want_a_name_one_gets_it() {
    const WRITERS: usize = 8;
    for abilities in ALL {
        let below = tempfile::tempdir().unwrap();
        let mounted = Passthrough::of(below.path(), abilities);
        let repo = mounted.path().join("repo");
        DirectoryStorage::create(&repo).unwrap();
        for round in 0..12u8 {
            let (name, winners) = (Name::Snapshot(SnapshotId([round; 32])), [const { AtomicUsize::new(0) }; WRITERS]);
            std::thread::scope(|scope| {
                for (n, won) in winners.iter().enumerate() {
                    let repo = &repo;
                    scope.spawn(move || {
                        let storage = DirectoryStorage::open(repo).unwrap();
                        let created = storage.create(&name, &[&[n as u8; 1000]]).unwrap();
                        won.store(usize::from(created == Created::New), Ordering::SeqCst);
                    });
                }
            });
            let won: Vec<usize> = (0..WRITERS).filter(|n| winners[*n].load(Ordering::SeqCst) == 1).collect();
            let mut found = Vec::new();
            DirectoryStorage::open(&repo).unwrap().read(&name, None, &mut found).unwrap();
            assert!(won.len() == 1 && found == [won[0] as u8; 1000], "{abilities:?}: {won:?} won");
        }
        let left = fs::read_dir(repo.join("snapshots")).unwrap().count();
        assert_eq!(left, 12, "{abilities:?}: something was left");
    }
}

/// A process that is gone and was on this machine: its temporary name, as the program writes it.
fn gone() -> String {
    let tag = |text: &[u8]| blake3::hash(text).to_hex()[..12].to_owned();
    let this = ProcessIdentity::this();
    let (host, boot) = (tag(&[&this.host[..], b"\0", &this.machine].concat()), tag(&this.boot));
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    format!(".tmp-{host}-{boot}-{}-{}-1-7", this.namespace, child.id())
}

#[test]
fn a_claim_of_the_dead_is_in_nobodys_way() {
    let below = tempfile::tempdir().unwrap();
    let mounted = Passthrough::of(below.path(), WITHOUT_LINKS);
    let repo = mounted.path().join("repo");
    let storage = DirectoryStorage::create(&repo).unwrap();
    let (name, other) = (Name::Snapshot(SnapshotId([1; 32])), Name::Snapshot(SnapshotId([2; 32])));
    let claim = |name: &Name| repo.join(format!("snapshots/.claim-{}", name.leaf()));
    fs::write(claim(&name), gone()).unwrap();
    let create = &|n: u8| DirectoryStorage::open(&repo).unwrap().create(&name, &[&[n]]).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || create(n))).collect();
        let created: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(created.iter().filter(|c| **c == Created::New).count(), 1);
    });
    // Nobody wants this name again: prune removes the claim.
    fs::write(claim(&other), gone()).unwrap();
    assert_eq!(storage.leftovers(true).unwrap().files, 1);
    assert_eq!(fs::read_dir(repo.join("snapshots")).unwrap().count(), 1);
}

#[test]
fn a_repository_that_was_made_elsewhere_is_not_written_where_names_cannot_be_given() {
    let below = tempfile::tempdir().unwrap();
    let repo = below.path().join("repo");
    drop(DirectoryStorage::create(&repo).unwrap());
    let name = Name::Snapshot(SnapshotId([1; 32]));
    let mounted = Passthrough::of(below.path(), WITHOUT_LINKS);
    let storage = DirectoryStorage::open(&mounted.path().join("repo")).unwrap();
    let said = storage.create(&name, &[b"x"]).unwrap_err().to_string();
    assert!(said.contains("yester serve") && !said.contains('\n'), "{said}");
    assert!(fs::read_dir(repo.join("snapshots")).unwrap().next().is_none(), "something was left");
    drop((storage, mounted));
    // By links it can, beside one that renames.
    let mounted = Passthrough::of(below.path(), WITHOUT_NOREPLACE);
    let storage = DirectoryStorage::open(&mounted.path().join("repo")).unwrap();
    assert_eq!(storage.create(&name, &[b"x"]).unwrap(), Created::New);
    let beside = DirectoryStorage::open(&repo).unwrap();
    assert_eq!(beside.create(&name, &[b"y"]).unwrap(), Created::Exists);
    assert_eq!(beside.list(Class::Snapshots).unwrap(), [(name, 1)]);
}

#[test]
fn a_new_disk_has_room_for_a_repository() {
    let world = World::new();
    fs::create_dir_all(world.at("disk/lost+found")).unwrap();
    let options = ["--repo", &shown(&world.at("disk")), "--key-file", &shown(&world.at("key"))].map(str::to_owned);
    world.run(&with(&options, &["init"])).ok();
    world.file("src/file", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.file("other/lost+found/.keep", "");
    world.file("other/notes", "");
    let other = ["--repo", &shown(&world.at("other")), "--key-file", &shown(&world.at("key"))].map(str::to_owned);
    world.run(&with(&other, &["init"])).fails(1, &["not empty"]);
}

/// An sshd of its own, and what it serves mounted by sshfs.
struct Sshfs {
    point: tempfile::TempDir,
    sshd: std::process::Child,
    keys: tempfile::TempDir,
}

impl Sshfs {
    fn of(directory: &Path, more: &str) -> Sshfs {
        let (point, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| shown(&keys.path().join(name));
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]).status().unwrap();
            assert!(made.success());
        }
        let (sshd, port) = sshd::start(keys.path(), |port| {
            format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
                 PermitRootLogin yes\nSubsystem sftp internal-sftp {more}\n",
                at("host"),
                at("user.pub")
            )
        });
        let mounted = Sshfs { point, sshd, keys };
        let at = |name: &str| shown(&mounted.keys.path().join(name));
        let began = Instant::now();
        loop {
            let mut command = Command::new("sshfs");
            let remote = format!("root@127.0.0.1:{}", shown(directory));
            command.args([remote, shown(mounted.point.path())]).args(["-p", &port.to_string()]).stdin(Stdio::null());
            for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
                command.args(["-o", option]);
            }
            let output = command.args(["-o", &format!("IdentityFile={}", at("user"))]).output().expect("apt-get install sshfs");
            if output.status.success() {
                return mounted;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(began.elapsed() < PATIENCE, "{said} {}", fs::read_to_string(at("log")).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.point.path()).status();
        let _ = (self.sshd.kill(), self.sshd.wait());
    }
}

#[test]
fn a_repository_lives_on_sshfs() {
    // Without its own ways to link, the server has only what every SFTP server has.
    for (more, claims) in [("", false), ("-P hardlink@openssh.com,hardlink", true)] {
        let (world, below) = (World::new(), tempfile::tempdir().unwrap());
        let mounted = Sshfs::of(below.path(), more);
        lives(&world, mounted.point.path());
        assert_eq!(below.path().join("repo/names-by-claim").exists(), claims, "{more}");
    }
}
