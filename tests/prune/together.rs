//! Two ingests at once on one repository: the one finds what the other has indexed, and nothing is lost by it.

use std::sync::{Arc, Mutex};

use crate::common::record::Operation;
use yester::chunk::codec::Compression;
use yester::error::ErrorKind;
use yester::ingest::{IngestOptions, IngestReport, Parent, Source, ingest};
use yester::maintain::prune::{PruneOptions, open_sessions};
use yester::model::{PackId, SnapshotId};
use yester::repo::{Repository, session};
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::faults;
use crate::prune::support::{World, noise, now, prune};

/// A disk image of many frames, of which each is a pack, or nearly.
const IMAGE: usize = 33 << 20;
const FRAME: u64 = 128 << 10;

fn options() -> IngestOptions {
    let compression = Compression::Level(1);
    IngestOptions { compression, readers: 2, pack_size: FRAME / 2, parent: Parent::None, ..IngestOptions::default() }
}

fn with_image() -> World {
    let world = World::new();
    world.write("image", &noise(1, IMAGE));
    world
}

/// How many packs may be on their way when a writer learns something.
fn under_way() -> u64 {
    2 * std::thread::available_parallelism().map_or(2, |n| n.get() as u64) + 6
}

fn is_pack(operation: &Operation) -> bool {
    matches!(operation, Operation::Create(Name::Pack(_), _))
}

fn is_commit(operation: &Operation) -> bool {
    matches!(operation, Operation::Create(Name::Snapshot(_), _))
}

/// Does something once, before operation number `at` (from 1 on) of those that `which` says yes to. Whoever uses the
/// storage of `world` stands still meanwhile.
fn at_number(world: &World, at: usize, which: fn(&Operation) -> bool, act: impl FnOnce() + Send + 'static) {
    let mut seen = 0;
    let counts = move |operation: &Operation| {
        seen += usize::from(which(operation));
        which(operation) && seen == at
    };
    let (counts, storage) = (Mutex::new(counts), Arc::downgrade(&world.storage));
    let act = move || storage.upgrade().unwrap().alone(act);
    world.storage.once(move |operation| counts.lock().unwrap()(operation), act);
}

/// Another ingest of the same source, past the hooks of `world`.
fn other(world: &World) -> impl FnOnce() -> IngestReport + Send + 'static {
    let (repo, path) = (world.copy_of_repo(), world.source.path().to_owned());
    move || take(&repo, &path).unwrap()
}

fn take(repo: &Arc<Repository>, path: &std::path::Path) -> yester::Result<IngestReport> {
    let sources = [Source { path: path.to_owned(), stored: b"/live".to_vec() }];
    ingest(repo, &sources, &options(), &Task::default())
}

fn bytes_of_packs(world: &World) -> u64 {
    world.storage.inner.list(Class::Packs).unwrap().iter().map(|(_, size)| size).sum()
}

/// An ingest of the image by somebody who is killed before the commit: its packs are indexed, and no snapshot needs them.
fn killed(world: &World) -> impl FnOnce() -> Vec<PackId> + Send + 'static {
    let memory = world.storage.inner.clone();
    let path = world.source.path().to_owned();
    move || {
        let before = faults::names(&*memory, Class::Packs);
        let storage = faults::Faults::over(memory.clone());
        let credential = yester::chunk::keys::Credential::KeyFile([9; 32]);
        let repo = Arc::new(Repository::open(storage.clone(), &credential).unwrap());
        storage.before(|operation| if is_commit(operation) { Err(faults::full()) } else { Ok(()) });
        take(&repo, &path).unwrap_err();
        let new = faults::names(&*memory, Class::Packs).into_iter().filter(|name| !before.contains(name));
        new.filter_map(|name| if let Name::Pack(id) = name { Some(id) } else { None }).collect()
    }
}

/// Whether an ingest alone asks for no more than it needs, and what its packs take.
#[test]
fn an_ingest_alone_loads_the_index_once() {
    let world = with_image();
    world.storage.take();
    world.try_ingest(&options()).unwrap();
    let log = world.storage.take();
    let lists = |class| log.iter().filter(|o| **o == Operation::List(class)).count();
    assert!(world.packs().len() > 30, "{} packs", world.packs().len());
    assert_eq!((lists(Class::Packs), lists(Class::Condemned)), (1, 2), "once before the session, and once for the index");
    // Every four packs somebody else might have come.
    assert!(lists(Class::Index) <= 4 + world.packs().len() / 4, "{}", lists(Class::Index));
}

/// A whole ingest takes place while another one is at a stated pack.
#[test]
fn an_ingest_finds_what_another_has_stored_since_it_began() {
    let (one, pack) = {
        let world = with_image();
        world.try_ingest(&options()).unwrap();
        (bytes_of_packs(&world), bytes_of_packs(&world) / world.packs().len() as u64)
    };
    // The second case is of one who knows from the beginning that others are at work: it indexes more often.
    for (at, open) in [(1, false), (6, false), (40, true)] {
        let mut world = with_image();
        if open {
            session::begin(&world.repo, now()).unwrap();
        }
        let report = Arc::new(Mutex::new(None));
        let (told, second) = (report.clone(), other(&world));
        at_number(&world, at, is_pack, move || *told.lock().unwrap() = Some(second()));
        let first = world.try_ingest(&options()).unwrap();
        world.storage.before(|_| Ok(()));
        let second = report.lock().unwrap().take().unwrap();
        let (both, most) = (bytes_of_packs(&world), one + one / 5 + under_way() * pack);
        assert!(both <= most, "at pack {at}: {both} bytes in {} packs, {one} alone", world.packs().len());
        // What was counted on need not have been durable.
        assert!(world.storage.whole_syncs.load(std::sync::atomic::Ordering::SeqCst) > 0);
        for report in [first, second] {
            assert!(report.committed && report.is_complete(), "{report:?}");
            world.history.insert(report.snapshot.id, world.expected());
        }
        world.verify();
        world.recovers();
    }
}

/// What another stored is marked for deletion before it is looked for: then it does not count.
#[test]
fn packs_of_others_that_are_marked_for_deletion_do_not_count() {
    let mut world = with_image();
    let (second, marking) = (killed(&world), world.on(world.storage.clone()));
    let marked = Arc::new(Mutex::new(Vec::new()));
    let told = marked.clone();
    at_number(&world, 12, is_pack, move || {
        let packs = second();
        assert!(packs.len() > 30);
        marking.condemn(&packs);
        *told.lock().unwrap() = packs;
    });
    let report = world.try_ingest(&options()).unwrap();
    world.storage.before(|_| Ok(()));
    assert_eq!(report.snapshot.statistics.bytes_new, IMAGE as u64);
    // They go, and the snapshot does not mind.
    marked.lock().unwrap().iter().for_each(|id| world.storage.inner.delete(&Name::Pack(*id)).unwrap());
    world.history.insert(report.snapshot.id, world.expected());
    world.verify();
    world.recovers();
}

/// What another stored was counted on, and nobody else needs it: prune waits, or fences, and nothing is lost.
#[test]
fn packs_of_others_that_were_counted_on_stay_until_the_session_ends() {
    for fence in [false, true] {
        let mut world = with_image();
        let (second, repo, options_of_prune) = (killed(&world), world.copy_of_repo(), world.prune_options());
        let orphans = Arc::new(Mutex::new(Vec::new()));
        let (told, stored) = (orphans.clone(), orphans.clone());
        let (mut second, mut seen, mut done) = (Some(second), 0, false);
        world.storage.before(move |operation| {
            seen += usize::from(is_pack(operation));
            if seen == 12
                && let Some(second) = second.take()
            {
                *told.lock().unwrap() = second();
            }
            if is_commit(operation) && !std::mem::replace(&mut done, true) {
                let fenced: Vec<SnapshotId> = match fence {
                    true => open_sessions(&repo).unwrap().iter().map(|(id, _)| *id).collect(),
                    false => Vec::new(),
                };
                let pruned = prune(&repo, &PruneOptions { fence: fenced, ..options_of_prune.clone() });
                match fence {
                    true => drop(pruned.unwrap()),
                    false => assert_eq!(pruned.unwrap_err().kind(), ErrorKind::Busy),
                }
            }
            Ok(())
        });
        let report = world.try_ingest(&options()).unwrap();
        world.storage.before(|_| Ok(()));
        let orphans = stored.lock().unwrap().clone();
        let there = world.packs();
        let left = orphans.iter().filter(|id| there.contains(id)).count();
        assert_eq!(left, if fence { 0 } else { orphans.len() });
        if !fence {
            assert!(report.snapshot.statistics.bytes_new < IMAGE as u64 / 2, "nothing of the other was counted on");
        }
        world.history.insert(report.snapshot.id, world.expected());
        world.verify();
        world.recovers();
    }
}

/// A session that somebody removed without an outcome protects nothing: the ingest does not commit under it.
#[test]
fn an_ingest_whose_session_is_gone_begins_again() {
    let mut world = World::new();
    world.write("new", &noise(2, 80_000));
    let (repo, removed) = (world.copy_of_repo(), Arc::new(Mutex::new(None)));
    let told = removed.clone();
    world.storage.once(is_pack, move || {
        let (id, _) = open_sessions(&repo).unwrap().remove(0);
        session::end(&repo, id).unwrap();
        *told.lock().unwrap() = Some(id);
    });
    let report = world.ingest();
    world.storage.before(|_| Ok(()));
    let removed = removed.lock().unwrap().unwrap();
    assert_ne!(report.snapshot.id, removed);
    assert!(session::is_fenced(&world.repo, removed), "nobody commits under it later");
    world.verify();
    world.recovers();
}
