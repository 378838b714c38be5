//! What it costs to read a tree that many snapshots have made: counted in bytes that are decoded.

use std::sync::Arc;

use yester::model::{Directory, SnapshotId};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::snapshots;
use yester::repo::tree::TreeReader;

use crate::prune::support::{World, noise};

const DIRS: u64 = 150;
const FILES: u64 = 25;
const SNAPSHOTS: u64 = 40;

fn write(world: &World, dir: u64, file: u64, version: u64) {
    let text: Vec<u8> = noise(dir * FILES + file + version * 1_000_000, 40);
    world.write(&format!("d{dir:03}/a-file-with-a-name-as-long-as-some-have-it-{file:03}"), &text);
}

/// Bytes that a new reader with a cache of so many decodes to go through all of a snapshot.
fn decoded(world: &World, id: SnapshotId, cache: u64) -> u64 {
    let index = Arc::new(Index::load(&world.repo).unwrap());
    let chunks = Arc::new(ChunkReader::new(world.repo.clone(), index, cache).unwrap());
    let trees = TreeReader::new(chunks.clone(), cache / 4).unwrap();
    let snapshot = snapshots::load(&world.repo, id).unwrap().unwrap();
    let (live, _) = trees.walk_to(&snapshot.root, &[b"live"]).unwrap();
    assert_eq!(entries(&trees, live.directory().unwrap()), DIRS * (FILES + 1));
    chunks.counts.decoded.get()
}

fn entries(trees: &TreeReader, directory: &Directory) -> u64 {
    let mut count = 0;
    for entry in trees.entries(directory) {
        let entry = entry.unwrap();
        count += 1 + entry.node().directory().map_or(0, |below| entries(trees, below));
    }
    count
}

/// After many snapshots the pages of a tree lie in many frames, each a difference from pages in others. Going through the
/// tree meets them in any order, and must not decode whole frames, and all that they are differences from, for each page.
#[test]
fn a_tree_of_many_snapshots_is_read_at_a_bounded_cost() {
    let mut world = World::new();
    for dir in 0..DIRS {
        std::fs::create_dir(world.source.path().join(format!("d{dir:03}"))).unwrap();
        (0..FILES).for_each(|file| write(&world, dir, file, 0));
    }
    let first = world.ingest().snapshot.id;
    let mut last = first;
    for version in 1..SNAPSHOTS {
        for change in 0..15 {
            write(&world, (version * 31 + change * 47) % DIRS, version % FILES, version);
        }
        last = world.ingest().snapshot.id;
    }
    // With room for twice the tree. With frames of 512 KiB it was seven thousand times as much.
    let (fresh, old) = (decoded(&world, first, 1 << 20), decoded(&world, last, 1 << 20));
    assert!(old <= 100 * fresh, "{old} bytes for {fresh} of a new tree");
}
