//! Every byte of every object of a small repository is flipped, and every object cut short or taken away: that is
//! noticed, or changes nothing; wrong bytes never come out and nothing panics. Delta frames and their bases, of data and of trees, are in it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::sync::{Arc, Mutex};

use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::pack::{FrameInfo, PackKind};
use yester::format::segment::SegmentPack;
use yester::ingest::{IngestOptions, Source, ingest};
use yester::maintain::check::{CheckOptions, Subset, check};
use yester::model::{Kind, Timestamp};
use yester::observe::{Event, Observer};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository, snapshots};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

const KEY: Credential = Credential::KeyFile([1; 32]);

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

fn storage() -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::DEFAULT);
    let options = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
    let repo = Arc::new(Repository::init(storage.clone(), &KEY, &options).unwrap());
    let live = tempfile::tempdir().unwrap();
    let at = |name: &str| live.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/tiny"), "in the node").unwrap();
    fs::hard_link(at("dir/tiny"), at("linked")).unwrap();
    fs::write(at("dir/some"), noise(5000, 1)).unwrap();
    // What is in the nodes makes most of the page: with other times it is stored as a difference.
    (0..16).for_each(|n| fs::write(at("dir").join(format!("node {n}")), noise(90, 10 + n)).unwrap());
    let mut versioned = noise(9000, 2);
    fs::write(at("versioned"), &versioned).unwrap();
    let source = [Source { path: live.path().to_owned(), stored: b"/live".to_vec() }];
    let take = || ingest(&repo, &source, &IngestOptions::default(), &Task::default()).unwrap();
    take();
    versioned[4000] ^= 1;
    fs::write(at("versioned"), &versioned).unwrap();
    for n in 0..16 {
        let later = std::time::UNIX_EPOCH + std::time::Duration::from_secs(n);
        fs::File::options().write(true).open(at("dir").join(format!("node {n}"))).unwrap().set_modified(later).unwrap();
    }
    take();
    let index = Index::load(&repo).unwrap();
    assert_eq!([PackKind::Data, PackKind::Tree].map(|kind| count_deltas(&index, kind)), [1, 1]);
    storage
}

fn count_deltas(index: &Index, kind: PackKind) -> usize {
    let mut deltas = 0;
    for segment in 0..index.segments().len() {
        let count = &mut |pack: &SegmentPack, _, frame: &FrameInfo| {
            deltas += usize::from(pack.kind == kind && !frame.bases.is_empty());
            Ok(())
        };
        index.scan_frames(segment, count).expect("the frames can be read");
    }
    deltas
}

/// Everything that can be read of all snapshots; the first damage that is met.
fn read_all(storage: &Arc<MemoryStorage>) -> yester::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let repo = Arc::new(Repository::open(storage.clone(), &KEY)?);
    let found = snapshots::find_all(&repo)?;
    // What is not authentic is told, and the rest is read: here that is noticed.
    let noticed = found.damaged.into_iter().map(|(_, e)| e).chain(found.made_up.into_iter().map(|(_, e)| e)).next();
    let list = noticed.map_or(Ok(found.snapshots), Err)?;
    let chunks = Arc::new(ChunkReader::new(repo.clone(), Arc::new(Index::load(&repo)?), 4 << 20)?);
    let trees = TreeReader::new(chunks, 1 << 20)?;
    let mut out = Vec::new();
    for snapshot in list {
        let mut stack = vec![(snapshot.id.0.to_vec(), snapshot.root.clone())];
        while let Some((path, node)) = stack.pop() {
            let mut content = format!("{:?} {:?}", node.meta, node.link).into_bytes();
            match &node.kind {
                Kind::Directory(directory) => {
                    for entry in trees.entries(directory) {
                        let entry = entry?;
                        stack.push(([&path, b"/".as_slice(), &entry.node().name].concat(), entry.node().clone()));
                    }
                }
                Kind::File(file) => {
                    let mut bytes = Vec::new();
                    trees.read(file, 0, 1 << 20, &mut bytes)?;
                    content.extend(bytes);
                }
                _ => {}
            }
            if let (Some(group), Some(table)) = (&node.link, &snapshot.links) {
                content.extend(format!("{:?}", trees.link(table, group)?).into_bytes());
            }
            out.push((path, content));
        }
        if let Some(scan) = &snapshot.scan {
            trees.scan_page(scan, 0)?;
        }
    }
    out.sort();
    Ok(out)
}

/// Collects the objects that are called damaged.
#[derive(Default)]
struct Damaged(Mutex<Vec<String>>);

impl Observer for Damaged {
    fn event(&self, event: &Event<'_>) {
        if let Event::Damage { object, .. } = event {
            self.0.lock().unwrap().push((*object).to_owned());
        }
    }
}

/// A check with all data calls this object damaged, and no other.
#[track_caller]
fn assert_check_names(storage: &Arc<MemoryStorage>, name: &Name) {
    let repo = Arc::new(Repository::open(storage.clone(), &KEY).unwrap());
    let options = CheckOptions { read: Some(Subset::All), ..CheckOptions::default() };
    let damaged = Damaged::default();
    let report = check(&repo, &options, &Task::new(&damaged), &mut |_, _| {}).unwrap();
    assert!(!report.is_sound(), "check did not notice {name}");
    assert!(damaged.0.lock().unwrap().iter().all(|object| *object == name.to_string()), "{name}: {:?}", damaged.0);
}

/// Whether other objects hold the same: one of three copies.
fn has_copies(name: &Name) -> bool {
    matches!(name, Name::Config(..) | Name::Key(..))
}

/// Whether readers can do without: a pack's directory with the index at hand, and the index with the directories of packs.
fn is_made_anew(name: &Name) -> bool {
    matches!(name, Name::Pack(_) | Name::Segment(_))
}

fn objects(storage: &MemoryStorage) -> Vec<(Name, u64)> {
    Class::ALL.into_iter().flat_map(|class| storage.list(class).unwrap()).collect()
}

#[test]
fn every_flipped_byte_is_noticed() {
    let storage = storage();
    let whole = read_all(&storage).unwrap();
    assert!(whole.len() > 10);
    let mut flips = 0;
    for (name, size) in objects(&storage) {
        for at in 0..size as usize {
            let mask = [0x01, 0x80, 0xff][at % 3];
            storage.damage(&name, |object| object[at] ^= mask);
            match read_all(&storage) {
                Ok(found) => {
                    assert_eq!(found, whole, "{name}, byte {at} ^ {mask:#x}: wrong content came out");
                    // What is not read (a copy; a pack's directory, with the index at hand; its session; its checksum)
                    // may be damaged unseen by readers: who checks sees it.
                    // The index is made anew in memory.
                    assert!(has_copies(&name) || is_made_anew(&name), "{name}, byte {at}: nobody noticed");
                    assert_check_names(&storage, &name);
                }
                Err(e) => assert!(!has_copies(&name) && !e.to_string().is_empty(), "{name}, byte {at}: two good copies: {e}"),
            }
            storage.damage(&name, |object| object[at] ^= mask);
            flips += 1;
        }
    }
    assert_eq!(read_all(&storage).unwrap(), whole);
    assert!(flips > 15_000, "{flips}");
}

#[test]
fn every_cut_and_every_loss_is_noticed() {
    let storage = storage();
    let whole = read_all(&storage).unwrap();
    for (name, size) in objects(&storage) {
        let mut object = Vec::new();
        storage.read(&name, None, &mut object).unwrap();
        let lengths = (0..size as usize).filter(|n| size < 2000 || n % 97 == 0 || size as usize - n < 200);
        for len in lengths {
            storage.damage(&name, |o| o.truncate(len));
            match read_all(&storage) {
                Ok(found) => {
                    assert_eq!(found, whole, "{name} cut to {len}");
                    assert!(has_copies(&name) || is_made_anew(&name), "{name} cut to {len}: nobody noticed");
                    assert_check_names(&storage, &name);
                }
                Err(e) => assert!(!has_copies(&name), "{name} cut to {len}: two good copies: {e}"),
            }
            storage.damage(&name, |o| o.clone_from(&object));
        }
        storage.delete(&name).unwrap();
        match read_all(&storage) {
            // A snapshot that is gone is not seen by readers; who remembers it says so (tests/store/local_state.rs).
            Ok(found) => assert!(found == whole && has_copies(&name) || matches!(name, Name::Snapshot(_)), "{name} is gone"),
            Err(e) => assert!(!has_copies(&name) && !e.to_string().is_empty(), "{name} is gone: two good copies: {e}"),
        }
        storage.create(&name, &[&object]).unwrap();
    }
    assert_eq!(read_all(&storage).unwrap(), whole);
}

#[test]
fn no_object_can_stand_in_for_another() {
    let storage = storage();
    let whole = read_all(&storage).unwrap();
    let all = objects(&storage);
    for (name, _) in &all {
        let mut object = Vec::new();
        storage.read(name, None, &mut object).unwrap();
        for (other, _) in all.iter().filter(|(other, _)| other != name) {
            let mut replaced = Vec::new();
            storage.read(other, None, &mut replaced).unwrap();
            storage.damage(other, |o| o.clone_from(&object));
            match read_all(&storage) {
                Ok(found) => {
                    assert_eq!(found, whole, "{name} in the place of {other}");
                    assert!(has_copies(other) || is_made_anew(other), "{name} in the place of {other}: nobody noticed");
                }
                Err(e) => assert!(!has_copies(other), "{name} in the place of {other}: two good copies: {e}"),
            }
            storage.damage(other, |o| o.clone_from(&replaced));
        }
    }
}
