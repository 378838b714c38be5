//! The index over years: merged, cached, made anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::taken_away;
use crate::common::program;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::record::{Fault, Operation, RecordingStorage};
use program::{World, shown, with};
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::pack::PackKind;
use yester::ingest::{IngestOptions, IngestReport, Source, ingest};
use yester::maintain::repair::{self, RepairOptions};
use yester::model::{ChunkKey, Kind, PackId, Timestamp};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository, snapshots};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

const KEY: Credential = Credential::KeyFile([1; 32]);

struct Fixture {
    live: tempfile::TempDir,
    memory: Arc<MemoryStorage>,
    storage: Arc<RecordingStorage>,
    repo: Arc<Repository>,
}

impl Fixture {
    fn new() -> Self {
        let memory = Arc::new(MemoryStorage::default());
        let storage = Arc::new(RecordingStorage::new(memory.clone()));
        let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::DEFAULT);
        let options = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
        let repo = Arc::new(Repository::init(storage.clone(), &KEY, &options).unwrap());
        Fixture { live: tempfile::tempdir().unwrap(), memory, storage, repo }
    }

    fn open(&self) -> Repository {
        Repository::open(self.storage.clone(), &KEY).unwrap()
    }

    fn ingest(&self, options: &IngestOptions) -> yester::Result<IngestReport> {
        let source = [Source { path: self.live.path().to_owned(), stored: b"/live".to_vec() }];
        ingest(&self.repo, &source, options, &Task::default())
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.live.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn segments(&self) -> Vec<Name> {
        self.storage.list_names(Class::Index)
    }
}

/// Every file of every snapshot, read through `repo`.
fn read_all(repo: Repository) -> yester::Result<Vec<Vec<u8>>> {
    let repo = Arc::new(repo);
    let chunks = ChunkReader::new(repo.clone(), Arc::new(Index::load(&repo)?), 1 << 20)?;
    read_by(&repo, Arc::new(chunks.with_unnamed_packs()))
}

fn read_by(repo: &Repository, chunks: Arc<ChunkReader>) -> yester::Result<Vec<Vec<u8>>> {
    let trees = TreeReader::new(chunks, 1 << 20)?;
    let mut out = Vec::new();
    for snapshot in snapshots::list(repo)? {
        let mut stack = vec![snapshot.root.clone()];
        while let Some(node) = stack.pop() {
            match &node.kind {
                Kind::Directory(directory) => {
                    for entry in trees.entries(directory) {
                        stack.push(entry?.node().clone());
                    }
                }
                Kind::File(content) => {
                    let mut bytes = Vec::new();
                    trees.read(content, 0, content.size() as usize, &mut bytes)?;
                    out.push(bytes);
                }
                _ => {}
            }
        }
    }
    Ok(out)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Reads of index objects since the last call.
fn index_reads(storage: &RecordingStorage) -> usize {
    storage.take().iter().filter(|op| matches!(op, Operation::Read(Name::Segment(_), _))).count()
}

#[test]
fn many_ingests_leave_few_segments() {
    let fixture = Fixture::new();
    for ingest in 0..100 {
        (0..5).for_each(|file| fixture.write(&format!("{ingest}/{file}"), &noise(3000, ingest * 5 + file)));
        fixture.ingest(&IngestOptions::default()).unwrap();
    }
    let index = Index::load(&fixture.repo).unwrap();
    // All of the two smallest classes: fewer than eight each.
    assert!(index.segments().len() < 16, "{} segments", index.segments().len());
    assert!(index.replaced().len() > 80);
    fixture.storage.take();
    let index = Index::load(&fixture.open()).unwrap();
    let opened: std::collections::HashSet<Name> = fixture
        .storage
        .take()
        .into_iter()
        .filter_map(|op| if let Operation::Read(name, _) = op { Some(name) } else { None })
        .collect();
    let of_index = opened.iter().filter(|name| name.class() == Class::Index).count();
    assert!(of_index <= index.segments().len() + 8, "{of_index} segments were read to find {}", index.segments().len());
    // Each key is in one segment; filters keep nearly all look-ups out of the others.
    let mut keys: Vec<ChunkKey> = Vec::new();
    for segment in 0..index.segments().len() {
        index
            .scan(segment, &mut |_, key, pack| {
                if pack.kind == PackKind::Data {
                    keys.push(*key)
                }
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(keys.len(), 500);
    let before = index.pages().touched.get();
    for key in &keys {
        assert_eq!(index.find_all(PackKind::Data, key).unwrap().len(), 1);
    }
    let touched = index.pages().touched.get() - before;
    assert!(touched <= 500 * 16, "{touched} segments were looked into");
    assert_eq!(read_all(fixture.open()).unwrap().len(), (1..=100).map(|n| n * 5).sum::<usize>());
}

/// Small packs, and a segment after every few chunks.
fn spilling() -> IngestOptions {
    IngestOptions { pack_size: 64 << 10, segment_chunks: 5, ..IngestOptions::default() }
}

#[test]
fn a_long_ingest_finds_again_what_it_has_stored_and_forgotten() {
    let fixture = Fixture::new();
    for file in 0..2 {
        fixture.write(&format!("a/{file:02}"), &noise(9_000_000, file));
        fixture.write(&format!("b/{file:02}"), &noise(9_000_000, file));
    }
    let report = fixture.ingest(&spilling()).unwrap();
    assert_eq!(report.snapshot.statistics.bytes_new, 2 * 9_000_000, "the second half was stored again");
    let created = fixture.segments().len();
    let index = Index::load(&fixture.repo).unwrap();
    // How many there are depends on how the threads take turns.
    assert!(created > 2 && index.segments().len() < 16, "{} of {created} segments", index.segments().len());
    let files = read_all(fixture.open()).unwrap();
    assert!(files.len() == 4 && (0..2).all(|seed| files.iter().filter(|f| **f == noise(9_000_000, seed)).count() == 2));
}

#[test]
fn what_a_killed_ingest_has_indexed_is_not_stored_again() {
    let fixture = Fixture::new();
    for file in 0..2 {
        fixture.write(&format!("{file:02}"), &noise(9_000_000, file));
    }
    let left = 30;
    fixture.storage.fail_after(left);
    fixture.ingest(&spilling()).unwrap_err();
    fixture.storage.fail_after(u64::MAX);
    assert!(read_all(fixture.open()).unwrap().is_empty());
    let report = fixture.ingest(&spilling()).unwrap();
    let new = report.snapshot.statistics.bytes_new;
    assert!(new < 2 * 9_000_000 - 1_000_000, "{new} bytes were stored again");
    assert_eq!(read_all(fixture.open()).unwrap().len(), 2);
}

#[test]
fn a_cached_index_is_not_read_from_the_repository() {
    let fixture = Fixture::new();
    (0..50).for_each(|file| fixture.write(&format!("{file}"), &noise(3000, file)));
    fixture.ingest(&IngestOptions::default()).unwrap();
    let expected = read_all(fixture.open()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let cached = |cap| fixture.open().with_cache(scratch.path(), cap);
    fixture.storage.take();
    assert_eq!(read_all(cached(1 << 20)).unwrap(), expected);
    assert_eq!(index_reads(&fixture.storage), 1, "the first time fetches the segment, once");
    assert_eq!(read_all(cached(1 << 20)).unwrap(), expected);
    assert_eq!(index_reads(&fixture.storage), 0);
    assert!(scratch.path().join("CACHEDIR.TAG").exists());
    // A cap that nothing fits under means no cache, and what is there goes.
    assert_eq!(read_all(cached(10)).unwrap(), expected);
    fixture.write("more", &noise(3000, 100));
    fixture.ingest(&IngestOptions::default()).unwrap();
    read_all(cached(10)).unwrap();
    let held: u64 = fs::read_dir(scratch.path().join("index")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(held <= 20_000, "{held} bytes");
}

#[test]
fn the_cap_of_the_cache_holds() {
    let fixture = Fixture::new();
    let scratch = tempfile::tempdir().unwrap();
    let cap = 6000;
    for ingest in 0..7 {
        (0..20).for_each(|file| fixture.write(&format!("{ingest}/{file}"), &noise(3000, ingest * 20 + file)));
        fixture.ingest(&IngestOptions::default()).unwrap();
        assert!(read_all(fixture.open().with_cache(scratch.path(), cap)).is_ok());
        let held: u64 = fs::read_dir(scratch.path().join("index")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(held <= cap, "{held} bytes after {ingest}");
    }
    assert!(fs::read_dir(scratch.path().join("index")).unwrap().count() > 1);
}

#[test]
fn a_segment_that_stalls_keeps_nobody_from_the_cache() {
    let fixture = Fixture::new();
    fixture.write("file", &noise(3000, 1));
    fixture.ingest(&IngestOptions::default()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let repo = fixture.open().with_cache(scratch.path(), 1 << 30);
    fixture.storage.set_faults(|class, name| match (class, name) {
        (Class::Index, Some(_)) => Fault::Stall,
        _ => Fault::None,
    });
    let (done, kept) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| Index::load(&repo).map(drop));
        while fixture.storage.stalled() == 0 && !loading.is_finished() {
            std::thread::yield_now();
        }
        scope.spawn(|| {
            repo.cache().unwrap().keep_tree(&PackId([1; 32]), 0, &[7; 100]);
            done.send(()).unwrap();
        });
        let kept = kept.recv_timeout(Duration::from_secs(300));
        fixture.storage.set_faults(|_, _| Fault::None);
        loading.join().unwrap().unwrap();
        kept.expect("who keeps a page of a tree waits for a segment");
    });
    let mut out = Vec::new();
    assert!(repo.cache().unwrap().read_tree(&PackId([1; 32]), &(0..100), &mut out) && out == [7; 100]);
}

#[test]
fn a_damaged_cache_costs_a_fetch_and_nothing_else() {
    let fixture = Fixture::new();
    (0..600).for_each(|file| fixture.write(&format!("{file}"), &noise(300, file)));
    fixture.ingest(&IngestOptions::default()).unwrap();
    let expected = read_all(fixture.open()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let cached = || fixture.open().with_cache(scratch.path(), 1 << 20);
    read_all(cached()).unwrap();
    let Name::Segment(id) = fixture.segments()[0] else { panic!("no segment") };
    let copy = scratch.path().join("index").join(id.to_string());
    let good = fs::read(&copy).unwrap();
    let damage = |bytes: &[u8]| {
        fs::write(&copy, bytes).unwrap();
        assert_eq!(read_all(cached()).unwrap(), expected);
    };
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x80;
        damage(&bad);
    }
    for len in [0, 1, 27, 100, good.len() / 2, good.len() - 1] {
        damage(&good[..len]);
    }
    damage(&[&good[..], b"more"].concat());
    damage(&vec![0; good.len()]);
    let _ = fs::remove_file(&copy);
    fs::create_dir(&copy).unwrap();
    assert_eq!(read_all(cached()).unwrap(), expected);
    fs::remove_dir_all(scratch.path()).unwrap();
    fs::write(scratch.path(), "no directory").unwrap();
    assert_eq!(read_all(cached()).unwrap(), expected);
    fs::remove_file(scratch.path()).unwrap();
    fs::create_dir(scratch.path()).unwrap();
}

#[test]
fn the_index_is_made_anew_from_the_packs() {
    let fixture = Fixture::new();
    for file in 0..2 {
        fixture.write(&format!("{file:02}"), &noise(9_000_000, file));
    }
    fixture.ingest(&IngestOptions { pack_size: 100_000, segment_chunks: 10, ..IngestOptions::default() }).unwrap();
    let expected = read_all(fixture.open()).unwrap();
    for name in fixture.segments() {
        fixture.storage.delete(&name).unwrap();
    }
    assert!(read_all(fixture.open()).unwrap() == expected, "reading needs no repair");
    let dry = repair::index(&fixture.open(), &RepairOptions { dry_run: true }, &Task::default()).unwrap();
    assert!(dry.packs > 5 && fixture.segments().is_empty());
    let done = repair::index(&fixture.open(), &RepairOptions::default(), &Task::default()).unwrap();
    assert_eq!((done.packs, done.chunks, done.segments), (dry.packs, dry.chunks, 1));
    assert_eq!(read_all(fixture.open()).unwrap(), expected);
    let again = repair::index(&fixture.open(), &RepairOptions::default(), &Task::default()).unwrap();
    assert_eq!((again.packs, again.segments), (0, 0));
    // An ingest of the same stores nothing.
    assert_eq!(
        fixture
            .ingest(&IngestOptions { parent: yester::ingest::Parent::None, ..IngestOptions::default() })
            .unwrap()
            .snapshot
            .statistics
            .bytes_new,
        0
    );
}

#[test]
fn a_damaged_segment_is_replaced_and_stays_until_prune() {
    let fixture = Fixture::new();
    (0..600).for_each(|file| fixture.write(&format!("{file}"), &noise(300, file)));
    fixture.ingest(&IngestOptions::default()).unwrap();
    let expected = read_all(fixture.open()).unwrap();
    let [segment] = fixture.segments()[..] else { panic!("not one segment") };
    let mut size = 0;
    fixture.memory.damage(&segment, |bytes| size = bytes.len());
    // In the header, in a page of frames, of entries, of the filter, in the root.
    for at in [3, 100, size / 2, size - 500, size - 60] {
        fixture.memory.damage(&segment, |bytes| bytes[at] ^= 1);
        let done = repair::index(&fixture.open(), &RepairOptions::default(), &Task::default()).unwrap();
        assert_eq!((done.damaged.len(), done.lost.len(), done.segments), (1, 0, 1), "byte {at}");
        assert_eq!(read_all(fixture.open()).unwrap(), expected, "byte {at}");
        for name in fixture.segments() {
            if name != segment {
                fixture.storage.delete(&name).unwrap();
            }
        }
        fixture.memory.damage(&segment, |bytes| bytes[at] ^= 1);
    }
}

/// Reading never needs writing: what a lost segment named is found by the packs' own directories, which are read once,
/// and only when something is missing.
#[test]
fn a_lost_segment_is_read_around() {
    let fixture = Fixture::new();
    fixture.write("a", &noise(300_000, 1));
    fixture.ingest(&IngestOptions::default()).unwrap();
    fixture.write("b", &noise(300_000, 2));
    fixture.ingest(&IngestOptions::default()).unwrap();
    fixture.storage.take();
    let expected = read_all(fixture.open()).unwrap();
    let lists = |log: &[Operation]| log.iter().filter(|op| **op == Operation::List(Class::Packs)).count();
    assert_eq!(lists(&fixture.storage.take()), 0);
    for lost in fixture.segments() {
        let mut object = Vec::new();
        fixture.memory.read(&lost, None, &mut object).unwrap();
        fixture.memory.delete(&lost).unwrap();
        fixture.storage.take();
        assert_eq!(read_all(fixture.open()).unwrap(), expected, "{lost}");
        assert_eq!(lists(&fixture.storage.take()), 1, "{lost}");
        fixture.memory.create(&lost, &[&object]).unwrap();
    }
    // A reader that was there before goes on too, and what really is gone is asked for once.
    let repo = Arc::new(fixture.open());
    let index = Arc::new(Index::load(&repo).unwrap());
    let chunks = Arc::new(ChunkReader::new(repo.clone(), index, 1 << 20).unwrap().with_unnamed_packs());
    fixture.segments().iter().for_each(|name| fixture.memory.delete(name).unwrap());
    chunks.set_index(Arc::new(Index::load(&repo).unwrap()));
    assert_eq!(read_by(&repo, chunks.clone()).unwrap(), expected);
    fixture.storage.take();
    (0..50).for_each(|n| drop(chunks.chunk(PackKind::Data, &yester::model::ChunkId([n; 32])).unwrap_err()));
    assert_eq!(lists(&fixture.storage.take()), 0);
    // A writer counts on none of these packs: it stores again, and its segment names what it needs.
    fixture.ingest(&IngestOptions::default()).unwrap();
    let packs = |op: &Operation| if let Operation::Create(Name::Pack(_), size) = op { *size } else { 0 };
    assert!(fixture.storage.take().iter().map(packs).sum::<u64>() > 600_000);
    let indexed = ChunkReader::new(repo.clone(), Arc::new(Index::load(&repo).unwrap()), 1 << 20).unwrap();
    assert!(read_by(&repo, Arc::new(indexed)).is_err(), "the older snapshots need the packs that no segment names");
    assert_eq!(read_all(fixture.open()).unwrap().len(), expected.len() + 2);
}

#[test]
fn a_user_repairs_the_index_and_restores() {
    let world = World::new();
    let options = world.repository();
    (0..30).for_each(|n| drop(world.file(&format!("tree/{n}"), noise(50_000, n))));
    world.run(&with(&options, &["ingest", &shown(&world.at("tree"))])).ok();
    let index = world.at("repo/index");
    fs::remove_dir_all(&index).unwrap();
    fs::create_dir(&index).unwrap();
    let restore =
        with(&options, &["restore", &format!("latest:{}", shown(&world.at("tree"))), "--target", &shown(&world.at("back"))]);
    // Nothing has to be written before anything can be read.
    let path = format!("latest:{}", shown(&world.at("tree")));
    let first = world.run(&with(&options, &["restore", &path, "--target", &shown(&world.at("first"))])).ok();
    assert_eq!(first.err.matches("yester repair index").count(), 1, "{}", first.err);
    (0..30).for_each(|n| assert_eq!(fs::read(world.at(&format!("first/{n}"))).unwrap(), noise(50_000, n)));
    world.run(&with(&options, &["ls", &path])).ok();
    assert_eq!(world.run(&with(&options, &["cat", &format!("{path}/7")])).ok().out, noise(50_000, 7));
    fs::create_dir(world.at("mnt")).unwrap();
    world.run(&with(&options, &["mount", "mnt"])).ok();
    let seen = fs::read(world.at(&format!("mnt/latest{}/9", shown(&world.at("tree")))));
    taken_away(|| world.run(&["umount", "mnt"]));
    assert_eq!(seen.unwrap(), noise(50_000, 9));
    let said = world.run(&with(&options, &["repair", "index"])).ok().text();
    assert!(said.starts_with("2 packs with ") && said.contains("indexed"), "{said}");
    world.run(&restore).ok();
    (0..30).for_each(|n| assert_eq!(fs::read(world.at(&format!("back/{n}"))).unwrap(), noise(50_000, n)));
    let pack = walk(&world.at("repo/packs")).pop().unwrap();
    fs::write(&pack, b"rubbish").unwrap();
    world.run(&with(&options, &["repair", "index"])).fails(1, &["packs/", "yester check"]);
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(walk(&path)) } else { out.push(path) }
    }
    out
}
