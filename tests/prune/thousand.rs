//! A repository that lives for years: a thousand snapshots of a changing tree, forgotten by policy and pruned.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use super::support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use jiff::tz::TimeZone;
use support::{World, noise};
use yester::maintain::forget::by_policy;
use yester::maintain::prune::{Prune, PruneOptions, Unused};
use yester::maintain::retention::{KeepCount, Policy};
use yester::model::{SnapshotId, Timestamp};
use yester::repo::snapshots::{self, SnapshotFilter};
use yester::task::Task;

/// Counts what this thread has from the heap, and the most it ever had. Prune is one thread.
struct Counting;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
    static MOST: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

// SAFETY: everything is passed on to the system's allocator; counting does not allocate.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DAY: i64 = 24 * 3600;
const SNAPSHOTS: u64 = 1000;

/// One more snapshot of the tree, a bit different from the last: a file changed a little, one new, one gone.
fn another(world: &mut World, number: u64) -> SnapshotId {
    let mut log = noise(1, 30_000);
    log[(number as usize * 37) % 29_000..][..8].copy_from_slice(&number.to_le_bytes());
    world.write("log", &log);
    world.write(&format!("day/{number}"), &noise(1000 + number, 3_000));
    if number >= 20 {
        world.remove(&format!("day/{}", number - 20));
    }
    let mut options = world.options();
    // Eight a day, for four months.
    options.time = Some(Timestamp { secs: 1_700_000_000 + number as i64 * DAY / 8, nanos: 0 });
    let report = world.try_ingest(&options).unwrap();
    let expected = world.expected();
    world.history.insert(report.snapshot.id, expected);
    report.snapshot.id
}

/// Prunes; answers what was announced, and the most that it had from the heap beyond what was there.
fn measured(world: &World, max_unused: Unused) -> (u64, i64) {
    let options = PruneOptions { memory: 1 << 20, max_unused, ..world.prune_options() };
    NOW.with(|now| MOST.with(|most| most.set(now.get())));
    let before = NOW.with(Cell::get);
    let prune = Prune::prepare(&world.repo, &options, &Task::default()).unwrap();
    let announced = prune.plan().freed;
    prune.carry_out().unwrap();
    (announced, MOST.with(Cell::get) - before)
}

#[test]
fn a_thousand_snapshots_are_forgotten_by_policy_and_pruned() {
    let mut world = World::new();
    let mut heap = Vec::new();
    for number in 0..SNAPSHOTS {
        another(&mut world, number);
        if number + 1 == SNAPSHOTS / 4 || number + 1 == SNAPSHOTS {
            // All of them still there: the walk goes through everything. Packs that are merged take one pack's room.
            heap.push(measured(&world.copy(), Unused::Unlimited).1);
        }
    }
    let all = snapshots::list(&world.repo).unwrap();
    assert_eq!(all.len() as u64, SNAPSHOTS);
    let policy = Policy {
        last: KeepCount::Of(5),
        daily: KeepCount::Of(7),
        weekly: KeepCount::Of(4),
        monthly: KeepCount::All,
        ..Policy::default()
    };
    let series = by_policy(&all, &SnapshotFilter::default(), &policy, &TimeZone::UTC, support::now(), false).unwrap();
    let [series] = &series[..] else { panic!("one series") };
    assert!((15..25).contains(&series.keep.len()), "{}", series.keep.len());
    series.remove.iter().for_each(|snapshot| world.forget(snapshot.id));
    let before = world.size();
    let (announced, _) = measured(&world, Unused::default());
    let freed = before - world.size();
    assert!(announced.abs_diff(freed) * 50 < freed, "{announced} were announced, {freed} freed");
    assert!(freed > before / 2, "{freed} of {before}");
    world.verify();
    println!("heap {heap:?}, announced {announced}, freed {freed} of {before}");
    // Four times the snapshots and (small) packs: what grows are their names, which of them have marks, and bits.
    let per_snapshot = (heap[1] - heap[0]) / (SNAPSHOTS as i64 * 3 / 4);
    assert!(per_snapshot < 3600, "{heap:?}: {per_snapshot} bytes for a snapshot");
    world.recovers();
}
