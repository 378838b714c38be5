//! A prune that is stopped anywhere.

use std::sync::atomic::Ordering;

use crate::common::record::Operation;
use yester::error::ErrorKind;
use yester::maintain::prune::{PruneOptions, Unused};
use yester::model::SnapshotId;
use yester::storage::{Class, Name};

use crate::common::faults::{self, Faults};
use crate::prune::support::{World, noise};

fn is_change(operation: &Operation) -> bool {
    matches!(operation, Operation::Create(..) | Operation::Delete(_) | Operation::Sync)
}

fn everything(world: &World) -> PruneOptions {
    PruneOptions { max_unused: Unused::Bytes(0), ..world.prune_options() }
}

/// With and without repacking: without, segments name packs that go and packs that stay, and are rewritten.
fn both_ways(world: &World) -> [PruneOptions; 2] {
    [Unused::Bytes(0), Unused::Unlimited].map(|max_unused| PruneOptions { max_unused, ..world.prune_options() })
}

/// What a whole prune does.
fn whole(world: &World, options: &PruneOptions) -> Vec<Operation> {
    let whole = world.copy();
    whole.storage.take();
    whole.try_prune(options).unwrap();
    let log = whole.storage.take();
    whole.recovers();
    log
}

#[test]
fn it_can_be_killed_at_every_step() {
    let world = World::eventful();
    let mut met = Vec::new();
    for options in both_ways(&world) {
        let log = whole(&world, &options);
        let changes = log.iter().filter(|operation| is_change(operation)).count() as u64;
        assert!(changes > 25, "{changes}");
        for n in 0..changes {
            let crashed = world.copy();
            crashed.storage.fail_after(n);
            let result = crashed.try_prune(&options);
            assert!(result.is_err(), "step {n}: {result:?}");
            crashed.storage.fail_after(u64::MAX);
            crashed.is_undamaged(&format!("killed at step {n}"));
            crashed.recovers();
        }
        met.extend(log);
    }
    // It went through everything: repacked, wrote segments, deleted segments and packs and snapshots, ended a session.
    let met = |wanted: fn(&Operation) -> bool| assert!(met.iter().any(wanted));
    met(|operation| matches!(operation, Operation::Create(Name::Pack(_), _)));
    met(|operation| matches!(operation, Operation::Create(Name::Segment(_), _)));
    met(|operation| matches!(operation, Operation::Create(Name::Condemned(_), _)));
    met(|operation| matches!(operation, Operation::Delete(Name::Snapshot(_))));
    met(|operation| matches!(operation, Operation::Delete(Name::Segment(_))));
    met(|operation| matches!(operation, Operation::Delete(Name::Session(_))));
}

#[test]
fn the_power_may_go_at_every_step() {
    let world = World::eventful();
    for options in both_ways(&world) {
        let changes = whole(&world, &options).iter().filter(|operation| is_change(operation)).count() as u64;
        for n in 0..changes {
            let crashed = world.copy();
            crashed.storage.fail_after(n);
            crashed.try_prune(&options).unwrap_err();
            for seed in 0..4u64 {
                let mut bits = noise(n << 8 | seed, 4096).into_iter();
                let mut first = true;
                // None, any, or all but the first of what no barrier has made durable.
                let keep = || match seed {
                    0 => false,
                    1 => !std::mem::take(&mut first),
                    _ => bits.next().is_some_and(|byte| byte & 1 == 1),
                };
                let left = crashed.storage.after_power_cut(&world.storage.inner, keep);
                world.on(Faults::over(left)).recovers();
            }
        }
    }
}

#[test]
fn the_disk_may_be_full_at_every_object() {
    let world = World::eventful();
    let creates = |operation: &Operation| matches!(operation, Operation::Create(..));
    for options in both_ways(&world) {
        let count = whole(&world, &options).iter().filter(|operation| creates(operation)).count();
        assert!(count > 2, "{count}");
        for n in 0..count {
            let crashed = world.copy();
            let mut left = n;
            crashed.storage.before(move |operation| {
                if creates(operation) {
                    match left.checked_sub(1) {
                        Some(less) => left = less,
                        None => return Err(faults::full()),
                    }
                }
                Ok(())
            });
            let result = crashed.try_prune(&options);
            if let Err(e) = result {
                assert!(e.kind() == ErrorKind::Full && e.to_string().contains("No space left"), "{e}");
            }
            crashed.storage.before(|_| Ok(()));
            crashed.is_undamaged(&format!("full at object {n}"));
            crashed.recovers();
        }
    }
}

fn half_needed() -> (World, SnapshotId) {
    let mut world = World::new();
    world.write("dead", &noise(1, 400_000));
    world.ingest();
    let first = world.history.keys().next().copied().unwrap();
    world.forget(first);
    world.remove("dead");
    world.write("stays", &noise(2, 300_000));
    world.write("goes", &noise(3, 300_000));
    let second = world.ingest().snapshot.id;
    world.remove("goes");
    world.ingest();
    world.forget(second);
    (world, second)
}

#[test]
fn a_full_disk_is_made_room_on() {
    let (world, _) = half_needed();
    // Room for the list, and for nothing else.
    let full = world.on(Faults::with_room(world.copy().storage.inner.clone(), world.size() + 1000));
    full.storage.take();
    let (plan, report) = full.prune();
    assert!(report.freed().abs_diff(plan.freed) * 50 <= plan.freed, "{plan:?} {report:?}");
    let log = full.storage.take();
    // The very first object is the list, and packs go before there is another.
    let first = log.iter().position(|operation| matches!(operation, Operation::Create(..))).unwrap();
    assert!(matches!(log[first], Operation::Create(Name::Condemned(_), _)), "{:?}", log[first]);
    let next = log.iter().skip(first + 1).find(|o| matches!(o, Operation::Create(..) | Operation::Delete(Name::Pack(_))));
    assert!(matches!(next, Some(Operation::Delete(_))), "{next:?}");
    // Repacking keeps away from the last megabytes of a disk: it is left out, and said to be.
    assert!(plan.dead.bytes > 400_000 && plan.no_room.count > 0 && report.packs.bytes == plan.dead.bytes, "{plan:?} {report:?}");
    full.verify();
    // With room it is done.
    full.storage.fill_up_to(u64::MAX - 1);
    let (_, report) = full.prune();
    assert!(report.packs.bytes > 600_000, "{report:?}");
    full.verify();
}

#[test]
fn a_repack_goes_as_far_as_there_is_room() {
    let mut world = World::new();
    let mut parts = Vec::new();
    for n in 0..4 {
        world.write(&format!("stays{n}"), &noise(n, 2_000_000));
        world.write(&format!("goes{n}"), &noise(10 + n, 2_000_000));
        parts.push(world.ingest().snapshot.id);
        world.remove(&format!("goes{n}"));
    }
    world.ingest();
    parts.into_iter().for_each(|id| world.forget(id));
    // Room for the copies of one or two packs at a time.
    let full = world.on(Faults::with_room(world.copy().storage.inner.clone(), world.size() + (4 << 20) + 3_000_000));
    let (_, report) = full.prune();
    full.verify();
    assert!(report.packs.bytes > 15_000_000, "{report:?}");
    assert!(full.size() < 8_500_000, "{}", full.size());
}

#[test]
fn without_room_for_the_list_nothing_changes() {
    let (world, _) = half_needed();
    let full = world.copy();
    let leavings: u64 = full.history.len() as u64;
    assert_eq!(leavings, 1);
    full.storage.fill_up_to(1);
    let packs = full.packs();
    let e = full.try_prune(&everything(&full)).unwrap_err();
    assert!(e.to_string().contains("could not be written down") && e.to_string().contains("No space left"), "{e}");
    assert_eq!(full.packs(), packs);
    assert!(full.names(Class::Condemned).is_empty());
    full.storage.fill_up_to(u64::MAX);
    full.recovers();
}

/// A killed writer's objects can be seen before they are durable: who builds on them makes them so.
#[test]
fn what_a_killed_writer_left_is_made_durable_by_who_builds_on_it() {
    let mut world = World::new();
    world.write("file", &noise(1, 50_000));
    world.ingest();
    let whole_syncs = |world: &World| world.storage.whole_syncs.swap(0, Ordering::SeqCst);
    assert_eq!(whole_syncs(&world), 0, "nobody else was at work");
    let dead = world.dead_session();
    world.write("file", &noise(2, 50_000));
    world.ingest();
    assert_eq!(whole_syncs(&world), 1);
    world.storage.take();
    world.sweep();
    assert!(whole_syncs(&world) >= 1);
    // Before the session that tells of it is ended, and before anything is deleted.
    let log = world.storage.take();
    let first = log.iter().position(|o| matches!(o, Operation::Delete(_))).unwrap();
    assert_eq!(log[first], Operation::Delete(Name::Session(dead)));
    assert!(log[..first].contains(&Operation::Sync));
    world.recovers();
}
