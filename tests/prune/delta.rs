//! Delta frames: what they are differences from has to outlive everything else that needs it.

use crate::common::record::Operation;
use yester::format::pack::{Codec, DirectoryEntry, FrameInfo, PREAMBLE, PackKind};
use yester::format::segment::SegmentPack;
use yester::maintain::prune::{PruneOptions, Unused};
use yester::model::{ChunkKey, PackId};
use yester::repo::index::Index;
use yester::repo::index::segment::Segment;
use yester::repo::pack::{StoredPack, read_directory};
use yester::storage::{Class, Name, Storage};

use crate::common::faults;
use crate::prune::support::{World, deltas, noise};

/// A big file with `edits` small changes, all of them in different chunks.
fn text(version: u64, edits: usize) -> Vec<u8> {
    let mut text = noise(7, 300_000);
    (0..edits).for_each(|at| text[at * 35_000..][..8].copy_from_slice(&(version * 1000 + at as u64).to_le_bytes()));
    text
}

/// Version 1, and version 2 as differences from it; nothing is forgotten yet.
fn two_versions() -> (World, yester::model::SnapshotId) {
    let mut world = World::new();
    world.write("text", &text(1, 8));
    let first = world.ingest().snapshot.id;
    world.write("text", &text(2, 8));
    world.ingest();
    assert!(deltas(&world.repo) > 0);
    (world, first)
}

/// Every base of every difference stands somewhere by itself.
#[track_caller]
fn bases_stand(world: &World) {
    let index = Index::load(&world.repo).unwrap();
    for segment in 0..index.segments().len() {
        let mut visit = |pack: &SegmentPack, _, frame: &FrameInfo| {
            for base in &frame.bases {
                let plain = yester::repo::index::known::plain(&index, pack.kind, base)?;
                assert!(plain.is_some(), "a base is gone, or only in a difference");
            }
            Ok(())
        };
        index.scan_frames(segment, &mut visit).unwrap();
    }
}

#[test]
fn bases_stay_as_long_as_a_difference_does() {
    let (mut world, first) = two_versions();
    world.forget(first);
    // Only half of version 1 is needed by anybody, and all of that only by the differences: it is repacked.
    let before = world.size();
    world.prune();
    assert!(deltas(&world.repo) > 0, "differences stay differences");
    bases_stand(&world);
    world.verify();
    assert!(world.size() <= before);
    // A third version, and the second is forgotten: what is left hangs on bases of the first still.
    let second = *world.history.keys().next().unwrap();
    world.write("text", &text(3, 8));
    world.ingest();
    world.forget(second);
    world.prune();
    bases_stand(&world);
    world.verify();
    world.recovers();
}

/// Differences among the pages of trees.
fn tree_deltas(world: &World) -> usize {
    let index = Index::load(&world.repo).unwrap();
    let mut count = 0;
    for segment in 0..index.segments().len() {
        let mut visit = |pack: &SegmentPack, _, frame: &FrameInfo| {
            count += usize::from(pack.kind == PackKind::Tree && !frame.bases.is_empty());
            Ok(())
        };
        index.scan_frames(segment, &mut visit).unwrap();
    }
    count
}

/// The same files with other times: names and ids of the pages before cost nothing, in any later version either, and
/// stay as long as they are needed.
#[test]
fn pages_with_other_times_are_differences() {
    let mut world = World::new();
    let write = |world: &World| (0..3000).for_each(|n| world.write(&format!("file {n}"), &noise(n, 100)));
    let mut added = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..4 {
        write(&world);
        let report = world.ingest();
        added.push(report.snapshot.statistics.bytes_stored);
        ids.push(report.snapshot.id);
    }
    // Of a node, 33 bytes are what does not compress; the first version has the files' bytes, too.
    let (pages, content) = (3000 * 33, 3000 * 100);
    assert!(added[0] > pages + content, "{added:?}");
    assert!(added[1..].iter().all(|bytes| *bytes < pages), "{added:?}");
    assert!(tree_deltas(&world) >= 3, "{}", tree_deltas(&world));
    bases_stand(&world);
    world.verify();
    for id in &ids[..3] {
        world.forget(*id);
    }
    world.prune();
    bases_stand(&world);
    world.verify();
    world.recovers();
}

#[test]
fn bases_go_with_the_last_difference() {
    let (mut world, first) = two_versions();
    world.forget(first);
    let second = *world.history.keys().next().unwrap();
    world.remove("text");
    world.write("other", &noise(1, 1000));
    world.ingest();
    world.forget(second);
    world.prune();
    world.verify();
    assert_eq!(deltas(&world.repo), 0);
    assert!(world.size() < 20_000, "{}", world.size());
}

/// A difference of which a part is needed is repacked without the other part.
#[test]
fn a_difference_is_repacked_in_part() {
    let mut world = World::new();
    world.write("one", &text(1, 8));
    world.write("two", &[noise(8, 280_000), b"end".to_vec()].concat());
    let first = world.ingest().snapshot.id;
    // Changes over the whole of both.
    let edited = |from: &[u8]| {
        let mut out = from.to_vec();
        (0..8).for_each(|at| out[at * 35_000 + 9_000..][..4].copy_from_slice(b"edit"));
        out
    };
    world.write("one", &edited(&text(1, 8)));
    world.write("two", &edited(&[noise(8, 280_000), b"end".to_vec()].concat()));
    let second = world.ingest().snapshot.id;
    assert!(deltas(&world.repo) > 0);
    // Half of the first file's changes are taken back: half of its difference frames is needed.
    let mut half = edited(&text(1, 8));
    half[..130_000].copy_from_slice(&noise(20, 130_000));
    world.write("one", &half);
    world.remove("two");
    world.ingest();
    world.forget(first);
    world.forget(second);
    world.prune();
    bases_stand(&world);
    world.verify();
    world.recovers();
}

/// A chunk whose copy is a difference without its base is not known to anybody (rule 2 for delta frames). A fenced
/// writer may leave such a one: it stores the difference after prune has taken the base.
#[test]
fn a_difference_without_its_base_does_not_count() {
    let (mut world, first) = two_versions();
    let second = *world.history.keys().find(|id| **id != first).unwrap();
    // The packs of version 1 go, as if nobody had heard of version 2: its packs come back afterwards.
    let late: Vec<(Name, Vec<u8>)> = {
        let mut only_first = World::new();
        std::mem::swap(&mut only_first, &mut world);
        let all = only_first.copy();
        world = only_first;
        let mut objects = Vec::new();
        for class in [Class::Packs, Class::Index] {
            for name in all.names(class) {
                let mut bytes = Vec::new();
                all.storage.inner.read(&name, None, &mut bytes).unwrap();
                objects.push((name, bytes));
            }
        }
        objects
    };
    world.forget(first);
    world.forget(second);
    world.write("small", b"so that there is a snapshot, of something else than the text");
    let kept = std::fs::read(world.source.path().join("text")).unwrap();
    world.remove("text");
    world.ingest();
    world.prune();
    world.verify();
    // What a fenced writer of version 2 stores late: its packs, and the segment that names them; not version 1's.
    let packs_of_first: Vec<Name> = late.iter().map(|(name, _)| *name).filter(|name| is_plain(&world, &late, name)).collect();
    for (name, bytes) in late.iter().filter(|(name, _)| matches!(name, Name::Pack(_)) && !packs_of_first.contains(name)) {
        world.storage.inner.create(name, &[bytes]).unwrap();
    }
    for (name, bytes) in late.iter().filter(|(name, _)| matches!(name, Name::Segment(_))) {
        world.storage.inner.create(name, &[bytes]).unwrap();
    }
    // (The segment of version 1 names packs that are not there: gone.)
    world.write("text", &kept);
    world.ingest();
    world.verify();
    world.prune();
    bases_stand(&world);
    world.verify();
    world.recovers();
}

/// Whether a pack holds data and no difference.
fn is_plain(world: &World, late: &[(Name, Vec<u8>)], name: &Name) -> bool {
    let Name::Pack(id) = name else { return false };
    let memory = std::sync::Arc::new(yester::storage::memory::MemoryStorage::default());
    for object in [Class::Config, Class::Keys] {
        for name in world.names(object) {
            let mut bytes = Vec::new();
            world.storage.inner.read(&name, None, &mut bytes).unwrap();
            memory.create(&name, &[&bytes]).unwrap();
        }
    }
    for (name, bytes) in late {
        memory.create(name, &[bytes]).unwrap();
    }
    let there = world.on(faults::Faults::over(memory));
    let size = late.iter().find(|(other, _)| other == name).map(|(_, bytes)| bytes.len() as u64).unwrap();
    let (key, entries) = yester::repo::pack::read_directory(&there.repo, *id, size).unwrap();
    key.preamble().kind == PackKind::Data && entries.iter().all(|entry| entry.frame.bases.is_empty())
}

/// A base marked for deletion is held, copied to where it counts, and only then deleted; also where nothing but the base
/// holds the pack.
#[test]
fn a_condemned_base_is_copied_before_it_goes() {
    for all_changed in [false, true] {
        let mut world = World::new();
        world.write("text", &text(1, 8));
        let first = world.ingest().snapshot.id;
        let mut changed = text(2, 8);
        if all_changed {
            changed.iter_mut().step_by(500).for_each(|byte| *byte ^= 1);
        }
        world.write("text", &changed);
        world.ingest();
        let index = Index::load(&world.repo).unwrap();
        let mut with_deltas = Vec::new();
        for segment in 0..index.segments().len() {
            let mut visit = |pack: &SegmentPack, _, frame: &FrameInfo| {
                if !frame.bases.is_empty() {
                    with_deltas.push(pack.id);
                }
                Ok(())
            };
            index.scan_frames(segment, &mut visit).unwrap();
        }
        assert!(!with_deltas.is_empty(), "all changed: {all_changed}");
        world.forget(first);
        // Another prune, with a wrong idea of what is needed, has marked for deletion what the differences hang on.
        let data = index.packs().filter(|p| p.kind == PackKind::Data && !with_deltas.contains(&p.id)).map(|p| p.id);
        let condemned: Vec<_> = data.collect();
        assert!(!condemned.is_empty());
        world.condemn(&condemned);
        world.verify();
        world.storage.take();
        let (plan, report) = world.sweep();
        let log = world.storage.take();
        let copied = log.iter().position(|o| matches!(o, Operation::Create(Name::Segment(_), _))).expect("copies are indexed");
        let is_base = |o: &Operation| matches!(o, Operation::Delete(Name::Pack(id)) if condemned.contains(id));
        let gone = log.iter().position(is_base).expect("then the packs go");
        assert!(copied < gone, "{plan:?} {report:?}");
        // What is copied was reckoned with.
        assert!(plan.freed.abs_diff(report.freed()) < 20_000, "{plan:?} {report:?}");
        assert!(condemned.iter().all(|id| !world.packs().contains(id)));
        bases_stand(&world);
        world.verify();
        world.recovers();
    }
}

/// Keeping the difference and dropping its base is what a prune would do that does not know of bases.
#[test]
fn a_sweep_alone_keeps_bases() {
    let (mut world, first) = two_versions();
    world.forget(first);
    let options = PruneOptions { max_unused: Unused::Unlimited, ..world.prune_options() };
    let (plan, _) = world.try_prune(&options).unwrap();
    assert_eq!(plan.repack.count, 0);
    bases_stand(&world);
    world.verify();
}

/// A base that nobody needs but a difference, and that is nowhere any more: what the difference holds is lost, and no more
/// than that. It keeps nobody from pruning.
#[test]
fn a_base_that_is_gone_stops_no_prune() {
    let mut world = World::new();
    world.write("file", &noise(1, 20_000));
    world.ingest();
    world.write("other", &noise(2, 20_000));
    let second = world.ingest().snapshot.id;
    let index = Index::load(&world.repo).unwrap();
    let base = ChunkKey([7; 16]);
    let mut packs: Vec<StoredPack> = Vec::new();
    for pack in index.packs() {
        let (key, mut entries) = read_directory(&world.repo, pack.id, pack.size).unwrap();
        // What is in the packs of data is said to be differences.
        for frame in entries.iter_mut().map(|entry| &mut entry.frame).filter(|_| pack.kind == PackKind::Data) {
            (frame.codec, frame.bases) = (Codec::Zstd, vec![base]);
        }
        packs.push(StoredPack::of(&key, pack.id, pack.size, entries));
    }
    let before: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
    let frame = FrameInfo { offset: PREAMBLE as u64, stored: 66, plain: 50, codec: Codec::Raw, bases: Vec::new() };
    let entries = vec![DirectoryEntry { frame, chunks: vec![(base, 50)] }];
    packs.push(StoredPack { id: PackId([5; 32]), kind: PackKind::Data, size: 1000, one_way: false, entries });
    Segment::of_packs(&packs).store(&world.repo, index.listed().to_vec()).unwrap();
    world.forget(second);
    let (plan, _) = world.sweep();
    assert!(plan.lost > 0, "{plan:?}");
    // They stay for whoever finds the base again.
    let left = world.names(Class::Packs);
    let data = packs.iter().filter(|pack| pack.kind == PackKind::Data && before.contains(&pack.id));
    assert!(data.map(|pack| Name::Pack(pack.id)).any(|name| left.contains(&name)), "{plan:?}");
}
