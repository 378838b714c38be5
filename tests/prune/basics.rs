//! What is deleted, what is repacked, and what was announced.

use yester::maintain::prune::{PruneOptions, Unused};
use yester::storage::Class;

use crate::prune::support::{Reader, World, noise};

#[test]
fn what_is_not_needed_goes_and_all_else_stays() {
    let mut world = World::new();
    world.write("stays", &noise(1, 300_000));
    world.write("goes", &noise(2, 200_000));
    let first = world.ingest().snapshot.id;
    world.remove("goes");
    world.write("new", &noise(3, 100_000));
    let second = world.ingest().snapshot.id;
    // Nothing is forgotten: nothing goes.
    let before = world.size();
    let (plan, report) = world.prune();
    assert_eq!((plan.freed, report.freed(), world.size()), (0, 0, before));
    world.forget(first);
    let before = world.size();
    let (plan, report) = world.prune();
    world.verify();
    let freed = before - world.size();
    // The file, its recipe, and what was in the index of both.
    assert!(freed > 200_000 && freed < 215_000, "{freed}");
    assert!(plan.freed.abs_diff(freed) * 50 < freed, "{} were announced, {freed} freed", plan.freed);
    assert!(report.freed().abs_diff(freed) * 50 < freed, "{} were reported, {freed} freed", report.freed());
    assert_eq!(plan.live, 1);
    // Everything that was for the prune alone is gone, and the mark of the forgotten stays.
    assert!(world.names(Class::Condemned).is_empty() && world.names(Class::Sessions).is_empty());
    assert_eq!(world.names(Class::Forgotten).len(), 1);
    // A second one finds nothing to do, and the next ingest has the whole repository to build on.
    let (plan, report) = world.prune();
    assert_eq!((plan.freed, report.freed()), (0, 0));
    let again = world.ingest();
    assert_eq!(again.snapshot.parent, Some(second));
    assert_eq!(again.snapshot.statistics.bytes_new, 0);
    world.verify();
}

/// A year of small ingests, a day each, with a prune a month: the packs are as few as if all had come at once, and a prune
/// with nothing to merge copies nothing.
#[test]
fn small_packs_of_a_year_are_merged() {
    let mut world = World::new();
    let mut copied = 0;
    for day in 0..360u64 {
        world.write(&format!("file-{}", day % 40), &noise(1000 + day, 3_000));
        let id = world.ingest().snapshot.id;
        if day % 30 != 29 {
            world.forget(id);
            continue;
        }
        let (_, report) = world.prune();
        copied += report.written.bytes;
    }
    world.verify();
    let packs = world.packs().len();
    assert!(packs < 60, "{packs} packs");
    let size = world.size();
    assert!(copied < 8 * size, "{copied} bytes were copied for {size}");
    // It ends: what comes of it is not merged again and again.
    let mut quiet = 0;
    for _ in 0..4 {
        quiet = world.prune().1.written.count;
    }
    assert_eq!(quiet, 0);
    world.verify();
}

#[test]
fn how_much_may_stay_unused_is_for_the_caller_to_say() {
    let mut world = World::new();
    world.write("stays", &noise(1, 900_000));
    world.write("goes", &noise(2, 100_000));
    let first = world.ingest().snapshot.id;
    world.remove("goes");
    world.ingest();
    world.forget(first);
    let repacked = |max_unused: Unused, max_repack: u64| {
        let options = PruneOptions { max_unused, max_repack, ..world.prune_options() };
        let copy = world.copy();
        let (plan, report) = copy.try_prune(&options).unwrap();
        copy.verify();
        assert_eq!(plan.repack.count > 0, report.written.count > 1, "{plan:?} {report:?}");
        plan.repack.bytes
    };
    // The data pack is a tenth unused.
    assert_eq!(repacked(Unused::Percent(11.0), u64::MAX), 0);
    assert!(repacked(Unused::Percent(9.0), u64::MAX) > 0);
    assert_eq!(repacked(Unused::Bytes(110_000), u64::MAX), 0);
    assert!(repacked(Unused::Bytes(90_000), u64::MAX) > 0);
    assert_eq!(repacked(Unused::Unlimited, u64::MAX), 0);
    // The data pack is larger than what may be repacked, the tree pack is not.
    assert!(repacked(Unused::Percent(9.0), 2_000_000) > 900_000);
    let small = repacked(Unused::Percent(1.0), 300_000);
    assert!(small > 0 && small < 300_000, "{small}");
    assert_eq!(repacked(Unused::Percent(1.0), 1000), 0);
}

/// Whatever a snapshot can consist of: pages of all four trees on several levels, attributes in chunks of their own.
#[test]
fn pages_of_every_kind_are_kept() {
    let mut world = World::new();
    let long = |seed| noise(seed, 12_000_000);
    world.write("goes", &noise(9, 200_000));
    for file in 0..1500 {
        world.write(&format!("wide/a rather long name, so that there are several pages of them: {file}"), b"x");
    }
    world.write("long", &long(1));
    let linked = world.source.path().join("wide/linked");
    world.write("linked", &noise(2, 5_000));
    std::fs::hard_link(world.source.path().join("linked"), &linked).unwrap();
    world.set_xattr("long", "user.much", &noise(3, 3_000));
    world.ingest();
    let first = *world.history.keys().next().unwrap();
    world.remove("goes");
    world.write("wide/more", b"y");
    let snapshot = world.ingest().snapshot;
    world.forget(first);
    let (plan, _) = world.prune();
    assert_eq!(plan.repack.count, 2, "trees and data: {plan:?}");
    world.verify();
    let reader = Reader::open(&world.repo);
    let (live, _) = reader.trees.walk_to(&snapshot.root, &[b"live"]).unwrap();
    let node = |name: &[u8]| reader.trees.lookup(live.directory().unwrap(), name).unwrap().unwrap().node().clone();
    assert!(matches!(node(b"long").meta.xattrs, yester::model::Xattrs::Stored(_)));
    assert_eq!(reader.trees.xattrs(&node(b"long")).unwrap(), [(b"user.much".to_vec(), noise(3, 3_000))]);
    let group = node(b"linked").link.unwrap();
    assert_eq!(reader.trees.link(&snapshot.links.unwrap(), &group).unwrap().unwrap().count, 2);
    assert!(snapshot.scan.unwrap().height > 0 || snapshot.nodes() < 2048);
    let wide = node(b"wide").directory().unwrap().root.unwrap();
    let kind = node(b"long").kind;
    let yester::model::Kind::File(yester::model::Content::Tree { root, .. }) = kind else { panic!("a long recipe") };
    assert!(wide.height > 0 && root.height > 0, "inner pages");
    world.recovers();
}
