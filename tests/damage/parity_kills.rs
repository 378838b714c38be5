//! `parity add` that is killed, cut off and overtaken: what there is stays good, and the next one finishes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use yester::error::Result;
use yester::maintain::check::{CheckOptions, Subset, check};
use yester::parity::{self, AddOptions, Added, ParityPlace, ParityShape};
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::faults::{self, Faults};
use crate::common::record::Operation;
use crate::prune::support::{World, noise};

/// Small groups, so that there are many.
fn options() -> AddOptions {
    let data = ParityShape { packs: 3, rows: 2 };
    AddOptions { data, trees: ParityShape { packs: 2, rows: 1 }, ..AddOptions::default() }
}

fn world(snapshots: u64) -> World {
    let mut world = World::new();
    for n in 0..snapshots {
        world.write(&format!("file{n}"), &noise(n, 20_000));
        world.ingest();
    }
    world
}

fn add(world: &World) -> Result<Added> {
    parity::add(&ParityPlace::of(&world.repo), &options(), &Task::default())
}

fn content(world: &World) -> BTreeMap<Name, Vec<u8>> {
    let read = |name: Name| {
        let mut bytes = Vec::new();
        world.storage.inner.read(&name, None, &mut bytes).unwrap();
        (name, bytes)
    };
    world.names(Class::Parity).into_iter().map(read).collect()
}

#[track_caller]
fn is_good(world: &World, case: &str) {
    let options = CheckOptions { read: Some(Subset::All), ..CheckOptions::default() };
    let report = check(&world.repo, &options, &Task::default(), &mut |_, _| ()).unwrap();
    assert!(report.is_sound(), "{case}: {report:?}");
}

#[test]
fn one_that_is_killed_at_any_change_leaves_a_good_state_and_the_next_one_finishes() {
    let world = world(7);
    let whole = world.copy();
    let added = add(&whole).unwrap();
    assert!(added.groups >= 5 && added.packs == 14, "{added:?}");
    let (wanted, mut cuts) = (content(&whole), 0);
    loop {
        let killed = world.copy();
        killed.storage.fail_after(cuts);
        let done = add(&killed).is_ok();
        // A power cut takes any of what was not yet made durable.
        let cut = |odd: bool| {
            let mut n = 0;
            let left = killed.storage.after_power_cut(&world.storage.inner, || {
                n += 1;
                (n % 2 == 1) == odd
            });
            world.on(Faults::over(left))
        };
        for (case, after) in
            [("killed", world.on(Faults::over(faults::copy(&*killed.storage.inner)))), ("cut", cut(true)), ("cut", cut(false))]
        {
            let case = format!("{case} after {cuts} changes");
            is_good(&after, &case);
            add(&after).unwrap();
            assert!(content(&after) == wanted, "{case}");
            is_good(&after, &case);
        }
        if done {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > wanted.len() as u64, "{cuts} changes");
}

#[test]
fn packs_that_go_while_parity_is_made_harm_nobody() {
    let world = world(5);
    let (packs, mut left_out) = (world.names(Class::Packs), 0);
    for gone in &packs {
        let (after, gone) = (world.copy(), *gone);
        let inner = after.storage.inner.clone();
        // When a pack is read whole, all were listed, and the kind of each is known.
        let whole = |operation: &Operation| matches!(operation, Operation::Read(Name::Pack(_), len) if *len > 1000);
        after.storage.once(whole, move || inner.delete(&gone).unwrap());
        let added = add(&after).unwrap();
        let found = parity::find(&ParityPlace::of(&after.repo)).unwrap();
        assert!(found.bad.is_empty() && found.groups.iter().all(|group| group.missing_rows().is_empty()));
        // It had been read already, and parity brings it back; or it is left out.
        let covered = found.covered().iter().any(|id| Name::Pack(*id) == gone);
        assert!(added.damaged.is_empty(), "{added:?}");
        assert_eq!(found.covered().len(), if covered { packs.len() } else { packs.len() - 1 });
        left_out += u64::from(!covered);
    }
    assert!(left_out > 0, "none was gone before it was read");
}

#[test]
fn two_at_once_leave_what_one_does() {
    let world = world(7);
    let whole = world.copy();
    add(&whole).unwrap();
    let both = world.copy();
    let first = Arc::new(world.on(Faults::over(both.storage.inner.clone())));
    std::thread::scope(|scope| {
        let other = first.clone();
        let beside = scope.spawn(move || add(&other).map(drop));
        add(&both).unwrap();
        beside.join().unwrap().unwrap();
    });
    assert!(content(&both) == content(&whole));
    is_good(&both, "two at once");
}

#[test]
fn a_damaged_pack_gets_no_parity_and_the_others_do() {
    let world = world(4);
    let torn = world.names(Class::Packs)[2];
    world.storage.inner.damage(&torn, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let added = add(&world).unwrap();
    assert_eq!(added.damaged.iter().map(|(id, _)| Name::Pack(*id)).collect::<Vec<_>>(), [torn]);
    assert_eq!(added.packs, 7);
}
