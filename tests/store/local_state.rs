//! What this machine remembers is never needed, and a repository that lost a snapshot is told from one that forgot it.
//! Whatever is done to the memory, nothing crashes, nothing hangs, and every command gives the same result.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::{program, whole_name};

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use program::{World, with};
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::local::state::LocalState;
use yester::model::{PackId, RepositoryId, SnapshotId, Timestamp};
use yester::repo::{InitOptions, Repository, marks};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Name, Storage};

fn repository() -> (Arc<MemoryStorage>, Repository) {
    let storage = Arc::new(MemoryStorage::default());
    let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::DEFAULT);
    let options = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
    let repo = Repository::init(storage.clone(), &Credential::KeyFile([1; 32]), &options).unwrap();
    (storage, repo)
}

const A: SnapshotId = SnapshotId([1; 32]);
const B: SnapshotId = SnapshotId([2; 32]);
const ID: RepositoryId = RepositoryId([9; 16]);
const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 7 };

/// What the memory answers. On a busy machine a long answer counts as none, and who has it open for a moment, as a process
/// that another test is starting, keeps it from others: then it is asked again.
#[track_caller]
fn answered<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the memory does not answer");
}

fn vanished(directory: &Path, repo: &Repository, present: &[SnapshotId]) -> Vec<SnapshotId> {
    answered(|| LocalState::open(directory, repo.id())).vanished(repo, || Ok(present.to_vec())).unwrap()
}

/// Whether this is the process to do what the test `name` does. sled shares threads among all its databases of a
/// process, and one panic there ends them all: what may cause one is done apart.
fn apart(name: &str) -> bool {
    if std::env::var_os("YESTER_TEST_APART").is_some_and(|wanted| wanted == name) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", &whole_name(module_path!(), name)]).env("YESTER_TEST_APART", name).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn packs(range: std::ops::Range<u32>) -> Vec<PackId> {
    range.map(|n| PackId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect()
}

fn open(directory: &Path) -> LocalState {
    answered(|| LocalState::open(directory, ID))
}

/// Fills a memory with something of each kind.
fn fill(directory: &Path) {
    let state = answered(|| {
        let state = open(directory);
        state.note_verified(&packs(0..500), NOW).then_some(state)
    });
    let (_, repo) = repository();
    assert_eq!(state.vanished(&repo, || Ok(vec![A, B])).unwrap(), []);
}

/// Whatever is remembered was put there; the memory works.
#[track_caller]
fn remembers_nothing_false(directory: &Path, what: &str) {
    let Some(state) = LocalState::open(directory, ID) else { return };
    let known = packs(0..500);
    for (pack, time) in state.all_verified() {
        assert!(time == NOW && known.contains(&pack), "{what}: a false pack");
    }
    let (_, repo) = repository();
    assert_eq!(state.vanished(&repo, || Ok(vec![A, B])).unwrap(), [], "{what}: a false snapshot");
    let _ = state.note_verified(&packs(0..1), NOW);
}

#[test]
fn a_lost_snapshot_is_told_from_a_forgotten_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (storage, repo) = repository();
    assert_eq!(vanished(scratch.path(), &repo, &[A, B]), []);
    assert_eq!(vanished(scratch.path(), &repo, &[B]), [A]);
    // It stays said until it is back or forgotten.
    assert_eq!(vanished(scratch.path(), &repo, &[B]), [A]);
    assert_eq!(vanished(scratch.path(), &repo, &[A, B]), []);
    // A mark that nobody with the key made says nothing.
    storage.create(&Name::Forgotten(A), &[b"mark"]).unwrap();
    assert_eq!(vanished(scratch.path(), &repo, &[B]), [A]);
    marks::write(&repo, &marks::mark(A, NOW, b"")).unwrap();
    assert_eq!(vanished(scratch.path(), &repo, &[B]), []);
    assert_eq!(vanished(scratch.path(), &repo, &[B]), []);
}

#[test]
fn what_is_noted_is_there_the_next_time() {
    let scratch = tempfile::tempdir().unwrap();
    fill(scratch.path());
    let later = Timestamp { secs: NOW.secs + 5, nanos: 0 };
    {
        let state = open(scratch.path());
        assert_eq!(state.all_verified().len(), 500);
        assert_eq!(state.verified(packs(7..8)[0]), Some(NOW));
        assert_eq!(state.verified(packs(500..501)[0]), None);
        assert!(state.note_verified(&packs(7..8), later) && state.drop_verified(&packs(8..9)));
    }
    let state = open(scratch.path());
    assert_eq!((state.verified(packs(7..8)[0]), state.verified(packs(8..9)[0])), (Some(later), None));
    // Another repository's memory is another.
    assert!(LocalState::open(scratch.path(), RepositoryId([8; 16])).unwrap().all_verified().is_empty());
}

#[test]
fn damage_of_any_kind_costs_the_memory_and_nothing_else() {
    if !apart("damage_of_any_kind_costs_the_memory_and_nothing_else") {
        return;
    }
    let damage: [fn(&Path); 6] = [
        |path| fs::remove_dir_all(path).unwrap(),
        |path| every_file(path, |bytes| bytes.iter_mut().for_each(|b| *b ^= 0x55)),
        |path| every_file(path, |bytes| bytes.iter_mut().step_by(97).for_each(|b| *b = 0xff)),
        |path| every_file(path, |bytes| bytes.truncate(bytes.len() / 2)),
        |path| every_file(path, Vec::clear),
        |path| {
            fs::remove_dir_all(path).unwrap();
            fs::write(path, "not a directory").unwrap();
        },
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        let scratch = tempfile::tempdir().unwrap();
        fill(scratch.path());
        damage(&database(scratch.path()));
        remembers_nothing_false(scratch.path(), &format!("damage {number}"));
        // It is put aside, and works again for the next process.
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command
            .args(["--exact", &whole_name(module_path!(), "refill")])
            .env("YESTER_TEST_FILL", scratch.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "damage {number}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Not a test of its own: the next process after damage.
#[test]
fn refill() {
    let Some(directory) = std::env::var_os("YESTER_TEST_FILL") else { return };
    let directory = PathBuf::from(directory);
    fill(&directory);
    assert_eq!(open(&directory).all_verified().len(), 500);
}

#[test]
fn flips_and_cuts_anywhere_are_misses() {
    if !apart("flips_and_cuts_anywhere_are_misses") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    fill(&scratch.path().join("whole"));
    let (whole, hurt) = (scratch.path().join("whole"), scratch.path().join("hurt"));
    let mut sabotages = 0;
    for file in files(&database(&whole)) {
        let content = fs::read(&file).unwrap();
        let place = hurt.join(file.strip_prefix(&whole).unwrap());
        // Most of the file is zeros: flips where something is, and some anywhere.
        let something: Vec<usize> = (0..content.len()).filter(|at| content[*at] != 0).collect();
        let step = (something.len() / 150).max(1);
        let places = something.iter().copied().step_by(step).chain((0..content.len()).step_by(content.len() / 20 + 1));
        let flips = places.enumerate().map(|(n, at)| (at, Some([0x01, 0x80, 0xff][n % 3])));
        let cuts = (0..content.len()).step_by(content.len() / 60 + 1).map(|at| (at, None));
        for (at, mask) in flips.chain(cuts) {
            let mut bytes = content.clone();
            match mask {
                Some(mask) => bytes[at] ^= mask,
                None => bytes.truncate(at),
            }
            let _ = fs::remove_dir_all(&hurt);
            copy(&whole, &hurt);
            fs::write(&place, bytes).unwrap();
            remembers_nothing_false(&hurt, &format!("{} at {at}, {mask:?}", place.display()));
            sabotages += 1;
        }
    }
    assert!(sabotages > 300, "{sabotages}");
}

#[test]
fn a_memory_that_grew_out_of_proportion_is_made_anew() {
    let scratch = tempfile::tempdir().unwrap();
    fill(scratch.path());
    let bytes = || files(&database(scratch.path())).iter().map(|f| fs::metadata(f).unwrap().len()).sum::<u64>();
    // sled takes room back only some time or other.
    let grow = |state: LocalState| state.note_verified(&packs(1000..40_000), NOW) && state.drop_verified(&packs(1000..40_000));
    for _ in 0..4 {
        answered(|| LocalState::open(scratch.path(), ID).is_some_and(grow).then_some(()));
    }
    assert!(bytes() > 4 << 20, "{}", bytes());
    // What it holds is kept.
    remembers_nothing_false(scratch.path(), "made anew");
    assert_eq!(open(scratch.path()).all_verified().len(), 500);
    assert!(bytes() < 4 << 20, "{}", bytes());
    // One that is far too long is not even opened.
    let file = database(scratch.path()).join("db");
    fs::File::options().write(true).open(file).unwrap().set_len(100 << 20).unwrap();
    assert!(open(scratch.path()).all_verified().is_empty());
    assert!(bytes() < 4 << 20, "{}", bytes());
}

#[test]
fn a_memory_in_use_is_not_had() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, repo) = repository();
    let _first = answered(|| LocalState::open(scratch.path(), repo.id()));
    assert!(LocalState::open(scratch.path(), repo.id()).is_none());
}

/// Not a test of its own: what another process does to a memory while a test looks on.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("YESTER_TEST_STATE") else { return };
    let directory = PathBuf::from(directory);
    let id = RepositoryId::parse(&std::env::var("YESTER_TEST_ID").unwrap()).unwrap();
    let mut state = answered(|| LocalState::open(&directory, id));
    let mut rounds = 0;
    loop {
        // What it says it has noted is durable.
        while !state.note_verified(&packs(rounds..rounds + 10), NOW) {
            drop(state);
            state = answered(|| LocalState::open(&directory, id));
        }
        rounds += 10;
        println!("noted {rounds}");
        if std::env::var_os("YESTER_TEST_HOLD").is_some() {
            std::thread::sleep(Duration::from_secs(600));
        }
    }
}

/// Starts [`child`] and waits until it has the memory.
fn child_with(directory: &Path, id: RepositoryId, hold: bool) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &whole_name(module_path!(), "child"), "--nocapture"])
        .env("YESTER_TEST_STATE", directory)
        .env("YESTER_TEST_ID", id.to_string());
    if hold {
        command.env("YESTER_TEST_HOLD", "1");
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.as_mut().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("noted")), "the child did not come up");
    child
}

#[test]
fn a_writer_that_is_killed_costs_at_most_what_it_wrote_last() {
    let scratch = tempfile::tempdir().unwrap();
    for round in 0..15 {
        let mut child = child_with(scratch.path(), ID, false);
        std::thread::sleep(Duration::from_millis(round * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        let state = open(scratch.path());
        let verified = state.all_verified();
        assert!(verified.len() >= 10, "what was noted is durable: {}", verified.len());
        assert!(verified.values().all(|time| *time == NOW));
        assert!(packs(0..10).iter().all(|pack| verified.contains_key(pack)));
    }
}

#[test]
fn commands_give_the_same_whatever_happens_to_the_memory() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", vec![7; 100_000]);
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.run(&with(&options, &["ingest", "src"])).ok();
    let results = || {
        let run = |args: &[&str]| {
            let run = world.run(&with(&options, args)).ok();
            let lines = run.json().into_iter().map(|mut line| {
                line.as_object_mut().unwrap().remove("total_duration");
                line.to_string()
            });
            (lines.collect::<Vec<_>>(), run.err)
        };
        [run(&["snapshots", "--json"]), run(&["check", "--json"]), run(&["check", "--read-data", "--json"])]
    };
    let state = world.at(".local/state/yester");
    let expected = results();
    let id_of = |path: &Path| RepositoryId::parse(path.file_stem()?.to_str()?).ok();
    let mut there = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    // What is under way is told in a directory beside it.
    let database = there.find(|path| id_of(path).is_some()).unwrap();
    let id = id_of(&database).unwrap();
    let sabotages: [fn(&Path); 6] = [
        |path| fs::remove_dir_all(path).unwrap(),
        |path| every_file(path, |bytes| bytes.iter_mut().step_by(61).for_each(|b| *b ^= 0x80)),
        |path| every_file(path, |bytes| bytes.truncate(bytes.len() / 3)),
        |path| fs::write(path.join("conf"), "nonsense").unwrap(),
        |path| fs::write(path.join("db"), vec![0xff; 1 << 20]).unwrap(),
        |path| {
            // The whole directory is something else.
            let state = path.parent().unwrap();
            fs::remove_dir_all(state).unwrap();
            fs::write(state, "a file").unwrap();
        },
    ];
    for (number, sabotage) in sabotages.into_iter().enumerate() {
        sabotage(&database);
        assert_eq!(results(), expected, "sabotage {number}");
    }
    fs::remove_file(&state).unwrap();
    assert_eq!(results(), expected);
    // In use by somebody who does not let go.
    let mut child = child_with(&state, id, true);
    assert_eq!(results(), expected, "in use");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(results(), expected, "after it was killed");
    if yester::sys::process::user() != 0 {
        return;
    }
    // A disk that is full, with less and less room, and one that cannot be written to.
    for (size, options) in [(1 << 20, "rw"), (600 << 10, "rw"), (300 << 10, "rw"), (4 << 10, "rw"), (1 << 20, "ro")] {
        fs::remove_dir_all(&state).unwrap();
        fs::create_dir(&state).unwrap();
        let Some(_small) = Small::mount(&state, size, options) else { return };
        for round in 0..2 {
            assert_eq!(results(), expected, "{size} bytes, {options}, round {round}");
        }
    }
}

#[test]
fn a_disk_that_fills_up_is_no_error() {
    if !apart("a_disk_that_fills_up_is_no_error") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("small");
    fs::create_dir(&place).unwrap();
    if yester::sys::process::user() != 0 {
        return;
    }
    for size in [700 << 10, 1 << 20, 3 << 20] {
        let Some(_small) = Small::mount(&place, size, "rw") else { return };
        for round in 0..3 {
            let Some(state) = LocalState::open(&place, ID) else { continue };
            for some in packs(0..30_000).chunks(1000) {
                // False sooner or later; never more than that.
                state.note_verified(some, NOW);
            }
            assert!(state.all_verified().values().all(|time| *time == NOW), "{size}, round {round}");
        }
    }
}

/// A small file system, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: u64, options: &str) -> Option<Small> {
        let options = format!("size={size},{options}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Small(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn database(directory: &Path) -> PathBuf {
    directory.join(format!("{ID}.sled"))
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => fs::write(to, fs::read(&path).unwrap()).unwrap(),
        }
    }
}

fn every_file(path: &Path, change: impl Fn(&mut Vec<u8>) + Copy) {
    for file in files(path) {
        let mut bytes = fs::read(&file).unwrap();
        change(&mut bytes);
        fs::write(&file, bytes).unwrap();
    }
}
