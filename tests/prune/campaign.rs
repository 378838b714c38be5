//! Random damage of packs and segments, a check, an ingest: what the ingest commits is whole, and nothing waits for ever.
//! `YESTER_TEST_DAMAGE=200` for more of it, `YESTER_TEST_DAMAGE_SEED=17` for one that failed.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use yester::maintain::check::{CheckOptions, Subset, check};
use yester::maintain::repair::{self, RepairOptions};
use yester::model::SnapshotId;
use yester::observe::{Event, Observer};
use yester::repo::Repository;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::prune::support::{Reader, World, noise};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// Numbers that follow from a seed.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(blake3::Hasher::new().update(b"dice").update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, n: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % n.max(1) as u64) as usize
    }
}

fn read(world: &World, name: &Name) -> Vec<u8> {
    let mut out = Vec::new();
    world.storage.inner.read(name, None, &mut out).unwrap();
    out
}

/// Damages one object and says how.
fn damage(world: &World, dice: &mut Dice) -> String {
    let class = if dice.below(4) == 0 { Class::Index } else { Class::Packs };
    // Names are random, and lengths are nearly not.
    let mut names = world.names(class);
    names.sort_by_cached_key(|name| read(world, name).len());
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let name = names[dice.below(names.len())];
    let inner = &world.storage.inner;
    let len = read(world, &name).len();
    match dice.below(6) {
        0 | 1 => {
            let at = dice.below(len);
            inner.damage(&name, |bytes| bytes[at] ^= 1 << (at % 8));
            format!("byte {at} of {len} of {name}")
        }
        2 => {
            let left = dice.below(len);
            inner.damage(&name, |bytes| bytes.truncate(left));
            format!("{name} cut to {left} of {len}")
        }
        3 => {
            inner.delete(&name).unwrap();
            format!("{name} deleted")
        }
        4 => {
            let other = names[dice.below(names.len())];
            let (one, two) = (read(world, &name), read(world, &other));
            inner.damage(&name, |bytes| *bytes = two);
            inner.damage(&other, |bytes| *bytes = one);
            format!("{name} and {other} exchanged")
        }
        _ => {
            let other = names[dice.below(names.len())];
            let bytes = read(world, &other);
            inner.damage(&name, |into| *into = bytes);
            format!("{name} holds {other}")
        }
    }
}

/// Which snapshots a check finds to lose something.
#[derive(Default)]
struct Hits(std::sync::Mutex<Vec<(String, String)>>);

impl Observer for Hits {
    fn event(&self, event: &Event<'_>) {
        if let Event::Hit { snapshot, path, message } = event {
            let path = String::from_utf8_lossy(path);
            self.0.lock().unwrap().push(((*snapshot).to_owned(), format!("{path}: {message}")));
        }
    }
}

#[track_caller]
fn no_hit(repo: &Arc<Repository>, id: SnapshotId, case: &str) {
    let hits = Hits::default();
    let options = CheckOptions { read: Some(Subset::All), ..CheckOptions::default() };
    check(repo, &options, &Task::new(&hits), &mut |_, _| ()).unwrap();
    let hits = hits.0.into_inner().unwrap();
    let own: Vec<_> = hits.iter().filter(|(snapshot, _)| *snapshot == id.to_string()).collect();
    assert!(own.is_empty(), "{case}: {own:?}");
}

fn trial(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut world = World::new();
    for version in 0..3u64 {
        let mut text = noise(7, 120_000);
        (0..3).for_each(|at| text[at * 40_000..][..8].copy_from_slice(&version.to_le_bytes()));
        world.write("text", &text);
        world.write(&format!("some/file{version}"), &noise(100 + version, 30_000));
        world.ingest();
    }
    let done: Vec<String> = (0..1 + dice.below(2)).map(|_| damage(&world, &mut dice)).collect();
    let case = format!("seed {seed}: {}", done.join(", "));
    eprintln!("{case}");
    let repo = world.copy_of_repo();
    let all = CheckOptions { read: Some(Subset::All), ..CheckOptions::default() };
    check(&repo, &all, &Task::default(), &mut |_, _| ()).unwrap_or_else(|e| panic!("{case}: a check: {e}"));
    if dice.below(3) == 0 {
        repair::index(&repo, &RepairOptions::default(), &Task::default()).unwrap_or_else(|e| panic!("{case}: a repair: {e}"));
    }
    if dice.below(2) == 0 {
        world.write("later", &noise(500, 10_000));
    }
    let report = world.try_ingest(&world.options()).unwrap_or_else(|e| panic!("{case}: an ingest: {e}"));
    let id = report.snapshot.id;
    Reader::open(&repo).holds(id, &world.expected(), &case);
    no_hit(&repo, id, &case);
    // Whatever the rest of the repository is like, these end.
    let _ = world.try_prune(&world.prune_options());
    Reader::open(&repo).holds(id, &world.expected(), &case);
    let _ = repair::index(&repo, &RepairOptions::default(), &Task::default());
    no_hit(&repo, id, &case);
}

#[test]
fn random_damage_never_ends_in_a_snapshot_that_is_not_whole() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("YESTER_TEST_DAMAGE_SEED");
    let count = if first.is_some() { 1 } else { number("YESTER_TEST_DAMAGE").unwrap_or(24) };
    for seed in (0..count).map(|n| first.unwrap_or(n)) {
        let (done, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            trial(seed);
            let _ = done.send(());
        });
        match wait.recv_timeout(PATIENCE) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {seed} waits for ever"),
            _ => assert!(thread.join().is_ok(), "seed {seed}"),
        }
    }
}
