//! What prune does when something is wrong: nothing, and says so.

use crate::common::record::Operation;
use yester::error::{Error, ErrorKind};
use yester::format::pack::PackKind;
use yester::maintain::forget::{self, ForgetOptions};
use yester::repo::damaged;
use yester::repo::index::Index;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::prune::support::{World, noise, now};

/// A world with something to delete, all of which must still be there afterwards.
fn world() -> World {
    let mut world = World::new();
    world.write("stays", &noise(1, 50_000));
    world.ingest();
    world.write("goes", &noise(2, 60_000));
    let second = world.ingest().snapshot.id;
    world.remove("goes");
    world.ingest();
    world.forget(second);
    world
}

#[track_caller]
fn refuses(world: &World, said: &[&str]) -> Error {
    let names = || Class::ALL.iter().filter(|c| **c != Class::Damaged).map(|class| world.names(*class)).collect::<Vec<_>>();
    let before = names();
    world.storage.take();
    let e = world.try_prune(&world.prune_options()).expect_err("it refuses");
    let text = e.to_string();
    assert!(said.iter().all(|word| text.contains(word)), "{said:?}: {text:?}");
    let after = names();
    assert!(before == after, "something was changed");
    let log = world.storage.take();
    // What was found damaged is written down all the same.
    let writes = |o: &Operation| match o {
        Operation::Create(name, _) => name.class() != Class::Damaged,
        other => matches!(other, Operation::Delete(_)),
    };
    assert!(!log.iter().any(writes), "{log:?}");
    e
}

fn packs_of(world: &World, kind: PackKind) -> Vec<Name> {
    let index = Index::load(&world.repo).unwrap();
    index.packs().filter(|pack| pack.kind == kind).map(|pack| Name::Pack(pack.id)).collect()
}

#[test]
fn what_cannot_be_found_stops_it() {
    // Pages that cannot be read, and chunks that are nowhere.
    for (kind, said) in [(PackKind::Tree, "snapshot "), (PackKind::Data, "chunks that snapshots need")] {
        let world = world();
        packs_of(&world, kind).iter().for_each(|name| world.storage.inner.delete(name).unwrap());
        let e = refuses(&world, &["nothing was deleted", said]);
        assert_eq!(e.kind(), ErrorKind::Corrupt);
    }
    // A page that is there and damaged.
    let world = self::world();
    for name in packs_of(&world, PackKind::Tree) {
        world.storage.inner.damage(&name, |bytes| bytes[150] ^= 1);
    }
    refuses(&world, &["nothing was deleted", "snapshot ", "packs/"]);
    // No index.
    let world = self::world();
    world.names(Class::Index).iter().for_each(|name| world.storage.inner.delete(name).unwrap());
    refuses(&world, &["nothing was deleted", "yester check"]);
}

#[test]
fn a_snapshot_that_cannot_be_read_stops_it() {
    let mut world = world();
    let damaged = *world.history.keys().next().unwrap();
    world.storage.inner.damage(&Name::Snapshot(damaged), |bytes| bytes[80] ^= 1);
    let whole = format!("yester forget {damaged}");
    refuses(&world, &["nothing was deleted", &whole]);
    // It can be given up by name, even by the beginning of it.
    let (all, damage) = yester::repo::snapshots::list_with_damage(&world.repo).unwrap();
    assert_eq!((all.len(), damage.len()), (1, 1));
    let name = [damaged.to_string()[..8].to_owned()];
    let ids = forget::by_names(&world.repo, &all, &name, &Default::default(), &[], false).unwrap();
    assert_eq!(ids, [damaged]);
    world.forget(damaged);
    world.prune();
    world.verify();
}

/// A snapshot names the one before it: if that is neither there nor forgotten, the listing hides something.
#[test]
fn a_snapshot_that_is_missing_stops_it() {
    let mut world = World::new();
    for n in 0..3 {
        world.write(&format!("file{n}"), &noise(n, 20_000));
        world.ingest();
    }
    let second = yester::repo::snapshots::list(&world.repo).unwrap()[1].id;
    world.storage.inner.delete(&Name::Snapshot(second)).unwrap();
    let whole = format!("yester forget {second}");
    refuses(&world, &["nothing was deleted", "neither there nor forgotten", &whole]);
    let all = yester::repo::snapshots::list(&world.repo).unwrap();
    let by = |name: String| forget::by_names(&world.repo, &all, &[name], &Default::default(), &[], false);
    assert_eq!(by(second.to_string()).unwrap(), [second]);
    assert_eq!(by("0".repeat(64)).unwrap_err().kind(), ErrorKind::NotFound);
    forget::forget(&world.repo, &[second], &ForgetOptions::default(), &Task::default()).unwrap();
    world.history.remove(&second);
    world.prune();
    world.verify();
}

#[test]
fn a_listing_that_fails_stops_it_and_one_that_lies_too() {
    for class in [Class::Sessions, Class::Snapshots, Class::Forgotten, Class::Index, Class::Condemned, Class::Packs] {
        let world = world();
        world.storage.before(move |operation| match operation {
            Operation::List(listed) if *listed == class => Err(Error::new(ErrorKind::Io, "the line went dead")),
            _ => Ok(()),
        });
        refuses(&world, &["the line went dead"]);
    }
    // Every listing may fail the second time, in the middle of the work: what is left is whole.
    for class in [Class::Sessions, Class::Snapshots, Class::Forgotten, Class::Index, Class::Condemned, Class::Packs] {
        for time in 1..6 {
            let world = world();
            let mut left = time;
            world.storage.before(move |operation| match operation {
                Operation::List(listed) if *listed == class => match left {
                    0 => Err(Error::new(ErrorKind::Io, "the line went dead")),
                    _ => {
                        left -= 1;
                        Ok(())
                    }
                },
                _ => Ok(()),
            });
            let _ = world.try_prune(&world.prune_options());
            world.storage.before(|_| Ok(()));
            world.recovers();
        }
    }
}

/// A store that leaves packs out of a listing (restic#3273) is found out by asking for them.
#[test]
fn a_pack_that_is_there_and_not_listed_stops_it() {
    let world = world();
    world.storage.hide(world.packs());
    let e = refuses(&world, &["is there", "does not list it"]);
    assert_eq!(e.kind(), ErrorKind::Io);
}

/// A pack that is gone and that nobody needs is dropped from the index; a list is not needed for that.
#[test]
fn a_lost_pack_that_nobody_needs_is_no_matter() {
    let world = world();
    let before = {
        let swept = world.copy();
        let (_, report) = swept.sweep();
        assert!(report.packs.count > 0);
        world.packs().into_iter().filter(|id| !swept.packs().contains(id)).collect::<Vec<_>>()
    };
    before.iter().for_each(|id| world.storage.inner.delete(&Name::Pack(*id)).unwrap());
    world.prune();
    assert!(Index::load(&world.repo).unwrap().packs().all(|pack| world.packs().contains(&pack.id)));
    world.recovers();
}

/// Chunks of which there is no good copy stay where they are, and everything else is done.
#[test]
fn what_is_damaged_everywhere_does_not_stop_it() {
    type Damage = fn(&mut Vec<u8>);
    let cut: Damage = |bytes| bytes.truncate(bytes.len() - 1);
    let flip: Damage = |bytes| bytes[300] ^= 1;
    for (damage, known) in [(cut, false), (flip, true)] {
        let mut world = World::new();
        world.write("stays", &noise(1, 50_000));
        world.ingest();
        let first = packs_of(&world, PackKind::Data)[0];
        world.remove("stays");
        world.write("goes", &noise(2, 60_000));
        let second = world.ingest().snapshot.id;
        world.remove("goes");
        world.storage.inner.damage(&first, damage);
        if known {
            let Name::Pack(id) = first else { panic!("a pack") };
            let found = [(id, yester::format::damage::DamagedExtent::Whole)].into();
            damaged::record(&world.repo, &found, "a test", now()).unwrap();
        }
        world.write("another", &noise(3, 40_000));
        world.ingest();
        world.forget(second);
        let (plan, report) = world.prune();
        let id = if let Name::Pack(id) = first { id } else { panic!("a pack") };
        assert!(world.names(Class::Packs).contains(&first));
        assert!(report.examples == [id] && report.lost > 0 && plan.stuck == report.stuck, "{plan:?} {report:?}");
        assert!(report.packs.count > 0, "{report:?}");
        let (plan, report) = world.prune();
        assert!(report.packs.count == 0 && report.written.count == 0 && plan.freed == 0, "{plan:?} {report:?}");
    }
}

/// A pack that is to be repacked and cannot be read stays as it is.
#[test]
fn a_pack_that_cannot_be_read_is_not_repacked() {
    let mut world = World::new();
    world.write("stays", &noise(1, 50_000));
    world.write("goes", &noise(2, 60_000));
    let first = world.ingest().snapshot.id;
    world.remove("goes");
    world.ingest();
    world.forget(first);
    let data = packs_of(&world, PackKind::Data);
    for name in &data {
        world.storage.inner.damage(name, |bytes| bytes[100_000] ^= 1);
    }
    let told = Told::default();
    let options =
        yester::maintain::prune::PruneOptions { max_unused: yester::maintain::prune::Unused::Bytes(0), ..world.prune_options() };
    yester::maintain::prune::Prune::prepare(&world.repo, &options, &Task::new(&told)).unwrap().carry_out().unwrap();
    let told = told.0.into_inner().unwrap();
    assert!(told.iter().any(|line| line.contains("packs/") && line.contains("yester check")), "{told:?}");
    assert!(data.iter().all(|name| world.names(Class::Packs).contains(name)), "what is damaged is left for check to see");
}

/// What an observer was warned of.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl yester::observe::Observer for Told {
    fn event(&self, event: &yester::observe::Event<'_>) {
        if let yester::observe::Event::Warning { subject, message } = event {
            self.0.lock().unwrap().push(format!("{}: {message}", String::from_utf8_lossy(subject)));
        }
    }
}
