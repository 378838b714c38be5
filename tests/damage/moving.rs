//! A check of a repository on a network, whose index segments are merged and deleted between any two of its reads, takes
//! nothing for damage and does not fail (rule 10 of the protocol).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::{IngestOptions, Parent, Source, ingest};
use yester::maintain::check::{CheckOptions, CheckReport, Subset, check};
use yester::model::Timestamp;
use yester::repo::index::Index;
use yester::repo::{InitOptions, Repository};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Costs, Created, Name, Storage};
use yester::task::Task;
use yester::{Error, Result};

const KEY: Credential = Credential::KeyFile([1; 32]);

/// Merges all segments, and deletes those that are merged, right before chosen reads of segments.
#[derive(Debug)]
struct Moving {
    inner: Arc<MemoryStorage>,
    /// Reads of segments so far.
    reads: AtomicU64,
    /// Before which of them the segments move: from this one on, every so many.
    moves: Mutex<Option<(u64, u64)>>,
    moved: AtomicU64,
}

impl Moving {
    fn shift(&self) {
        let repo = Repository::open(self.inner.clone(), &KEY).unwrap();
        let index = Index::load(&repo).unwrap();
        let all: Vec<usize> = (0..index.segments().len()).collect();
        let old: Vec<Name> = self.inner.list(Class::Index).unwrap().into_iter().map(|(name, _)| name).collect();
        index.rewrite(&repo, &all, &[], &|_| true).unwrap().unwrap();
        old.iter().for_each(|name| self.inner.delete(name).unwrap());
        self.moved.fetch_add(1, Ordering::SeqCst);
    }
}

impl Storage for Moving {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        self.inner.create(name, parts)
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        if matches!(name, Name::Segment(_)) {
            let mut moves = self.moves.lock().unwrap_or_else(|e| e.into_inner());
            let read = self.reads.fetch_add(1, Ordering::SeqCst);
            if let Some((at, every)) = *moves
                && read >= at
            {
                *moves = (every > 0).then_some((at + every, every));
                self.shift();
            }
        }
        self.inner.read(name, range, out)
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        self.inner.list(class)
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.inner.delete(name)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn describe(&self) -> String {
        "segments that move".to_owned()
    }
}

/// Two snapshots of a changing directory, and one of more that is gone: its chunks have pages of the index that nobody
/// looks into before the packs are read.
fn repository() -> Arc<Moving> {
    let inner = Arc::new(MemoryStorage::default());
    let options = InitOptions {
        chunker: ChunkerParameters { min: 256, avg: 1024, max: 4096 },
        derivation: Derivation::KeyFile,
        now: Timestamp::default(),
        label: Vec::new(),
    };
    let repo = Arc::new(Repository::init(inner.clone(), &KEY, &options).unwrap());
    let live = tempfile::tempdir().unwrap();
    for n in 0..3u8 {
        let mut bytes = vec![0; if n == 0 { 4_000_000 } else { 1_500 }];
        blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut bytes);
        fs::write(live.path().join(n.to_string()), &bytes).unwrap();
        fs::write(live.path().join(format!("small{n}")), [n; 300]).unwrap();
        let source = [Source { path: live.path().to_owned(), stored: b"/live".to_vec() }];
        let options = IngestOptions { parent: Parent::None, ..IngestOptions::default() };
        ingest(&repo, &source, &options, &Task::default()).unwrap();
        if n == 0 {
            let (snapshot, _) = inner.list(Class::Snapshots).unwrap()[0];
            inner.delete(&snapshot).unwrap();
            fs::remove_file(live.path().join("0")).unwrap();
        }
    }
    Arc::new(Moving { inner, reads: AtomicU64::new(0), moves: Mutex::new(None), moved: AtomicU64::new(0) })
}

fn checked(storage: &Arc<Moving>) -> std::result::Result<CheckReport, Error> {
    let repo = Arc::new(Repository::open(storage.clone(), &KEY)?);
    let options = CheckOptions { read: Some(Subset::All), ..CheckOptions::default() };
    check(&repo, &options, &Task::default(), &mut |_, _| ())
}

#[test]
fn segments_that_are_merged_between_any_two_reads_are_no_damage() {
    let storage = repository();
    let whole = checked(&storage).unwrap();
    assert!(whole.is_sound() && whole.read_packs > 0);
    let reads = storage.reads.load(Ordering::SeqCst);
    assert!(reads > 5, "{reads} reads of segments");
    for every in [0, 25] {
        for at in 0..reads {
            storage.reads.store(0, Ordering::SeqCst);
            storage.moved.store(0, Ordering::SeqCst);
            *storage.moves.lock().unwrap() = Some((at, every));
            let report = checked(&storage).unwrap_or_else(|e| panic!("before read {at}, every {every}: {e}"));
            let moved = storage.moved.load(Ordering::SeqCst);
            assert!(report.is_sound(), "before read {at}, every {every}, moved {moved}: {report:?}");
            assert_eq!(report.read_packs, whole.read_packs, "before read {at}, every {every}");
        }
    }
}

#[test]
fn damage_is_named_though_segments_move() {
    let storage = repository();
    let data = |(name, size): (Name, u64)| {
        let mut kind = Vec::new();
        storage.inner.read(&name, Some(108..109), &mut kind).unwrap();
        (kind == [1] && size < 100_000).then_some(name)
    };
    let packs = storage.inner.list(Class::Packs).unwrap();
    packs.into_iter().filter_map(data).for_each(|name| storage.inner.damage(&name, |bytes| bytes[150] ^= 1));
    assert!(checked(&storage).unwrap().hits > 0);
    storage.reads.store(0, Ordering::SeqCst);
    let again = checked(&storage).unwrap();
    let reads = storage.reads.load(Ordering::SeqCst);
    for at in 0..reads {
        storage.reads.store(0, Ordering::SeqCst);
        *storage.moves.lock().unwrap() = Some((at, 0));
        let report = checked(&storage).unwrap_or_else(|e| panic!("before read {at}: {e}"));
        assert_eq!((report.hits, report.hit_snapshots), (again.hits, again.hit_snapshots), "before read {at}");
    }
}
