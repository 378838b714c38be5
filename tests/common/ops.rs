//! A repository through its years: bytes are read as ingests, kills, forgets, prunes, merges and repairs, and after each
//! of them every snapshot that must be there is read and compared with a model. The writer is a small one of its own,
//! after the rules of docs/durability.md: what is tested is the repository, not the reading of directories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::record::RecordingStorage;
use yester::Result;
use yester::chunk::codec::{Compression, Encoder};
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::node;
use yester::format::pack::PackKind;
use yester::format::page::{self, PageKind};
use yester::maintain::forget::{self, ForgetOptions};
use yester::maintain::prune::{self, Prune, PruneOptions, Unused};
use yester::maintain::repair::{self, RepairOptions};
use yester::model::{
    ChunkId, Content, Directory, Item, Kind, Metadata, Node, Owners, Snapshot, SnapshotId, Statistics, Timestamp, Xattrs,
};
use yester::repo::index::Index;
use yester::repo::index::known::{self, KnownChunks};
use yester::repo::index::merge;
use yester::repo::index::segment::Segment;
use yester::repo::pack::{self, DeltaTrials, Deltas, FrameSealer, PackKey, PlainFrame, StoredPack};
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::tree::writer::{PageSink, TreeWriter};
use yester::repo::{InitOptions, Repository, session, snapshots};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Storage};
use yester::task::Task;

const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 0 };
const KEY: Credential = Credential::KeyFile([7; 32]);

/// Names and contents of one snapshot.
type Files = BTreeMap<u8, u8>;

/// Contents 0 to 127 have nothing in common; the higher ones differ from those 128 below by a byte.
fn content(number: u8) -> Vec<u8> {
    let mut out = vec![0; 200 + usize::from(number & 7) * 40];
    blake3::Hasher::new_keyed(&[number & 127; 32]).finalize_xof().fill(&mut out);
    out[100] ^= number & 128;
    out
}

struct Years {
    storage: Arc<RecordingStorage>,
    repo: Arc<Repository>,
    /// What must be there.
    live: BTreeMap<SnapshotId, Files>,
    /// What must never come back.
    forgotten: BTreeSet<SnapshotId>,
    clock: i64,
}

/// Reads `bytes` as a history and checks it.
pub fn run(bytes: &[u8]) {
    let storage = Arc::new(RecordingStorage::new(Arc::new(MemoryStorage::default())));
    let options =
        InitOptions { chunker: ChunkerParameters::DEFAULT, derivation: Derivation::KeyFile, now: NOW, label: Vec::new() };
    let repo = Arc::new(Repository::init(storage.clone(), &KEY, &options).expect("a repository"));
    let mut years = Years { storage, repo, live: BTreeMap::new(), forgotten: BTreeSet::new(), clock: 0 };
    let mut input = bytes.iter().copied();
    for _ in 0..24 {
        let Some(op) = input.next() else { return };
        years.step(op, &mut input);
        years.check();
    }
}

impl Years {
    fn step(&mut self, op: u8, input: &mut impl Iterator<Item = u8>) {
        let mut next = || input.next().unwrap_or(0);
        match op % 10 {
            0..=2 => {
                let files = files(&mut next);
                self.ingest(&files, usize::from(op >> 4), None).expect("an ingest on a sound storage");
            }
            3 => {
                let left = u64::from(next() % 16);
                let files = files(&mut next);
                self.storage.fail_after(left);
                // Killed, or not: what it committed is there.
                let _ = self.ingest(&files, usize::from(op >> 4), None);
                self.storage.fail_after(u64::MAX);
            }
            4 => {
                let which = usize::from(next());
                if let Some(id) = self.live.keys().nth(which % self.live.len().max(1)).copied() {
                    forget::forget(&self.repo, &[id], &ForgetOptions::default(), &Task::default().at(NOW)).expect("forgetting");
                    self.live.remove(&id);
                    self.forgotten.insert(id);
                }
            }
            5 => self.prune(op).expect("a prune on a sound storage"),
            6 => {
                self.storage.fail_after(u64::from(next() % 24));
                let _ = self.prune(op);
                self.storage.fail_after(u64::MAX);
            }
            7 => {
                let (at, mode) = (next() % 5, next());
                let files = files(&mut next);
                self.ingest(&files, usize::from(op >> 4), Some((at, mode))).expect("an ingest beside a prune");
            }
            8 => {
                let index = Index::load(&self.repo).expect("the index");
                merge::settle(&self.repo, &index, true).expect("merging");
            }
            _ => {
                if op & 16 != 0 {
                    for name in self.storage.list_names(Class::Index) {
                        self.storage.delete(&name).expect("deleting");
                    }
                }
                repair::index(&self.repo, &RepairOptions::default(), &Task::default()).expect("a repair");
            }
        }
        self.storage.take();
    }

    /// Prunes; sessions that killed writers left are ended by name, since this process lives.
    fn prune(&self, mode: u8) -> Result<()> {
        let fence = prune::open_sessions(&self.repo)?.into_iter().map(|(id, _)| id).collect();
        let max_unused = match mode >> 4 & 3 {
            0 => Unused::Percent(0.0),
            1 => Unused::Unlimited,
            _ => Unused::Percent(5.0),
        };
        let options = PruneOptions { max_unused, fence, ..PruneOptions::default() };
        Prune::prepare(&self.repo, &options, &Task::default().at(NOW))?.carry_out().map(drop)
    }

    /// Stores `files` as a snapshot, beginning again whenever it was fenced. `beside`: at which point a prune runs.
    fn ingest(&mut self, files: &Files, style: usize, mut beside: Option<(u8, u8)>) -> Result<()> {
        for _ in 0..3 {
            let prune = beside.take();
            if let Some(id) = self.attempt(files, style, prune)? {
                assert!(!self.forgotten.contains(&id));
                return Ok(());
            }
        }
        panic!("fenced again, with nobody there to do it");
    }

    fn attempt(&mut self, files: &Files, style: usize, prune: Option<(u8, u8)>) -> Result<Option<SnapshotId>> {
        let repo = self.repo.clone();
        let beside = |at: u8| match prune {
            Some((when, mode)) if when == at => self.prune(mode),
            _ => Ok(()),
        };
        let id = session::begin(&repo, NOW)?;
        beside(0)?;
        let written = Writer::new(&repo, id, style).and_then(|writer| {
            beside(1)?;
            writer.write(files, &beside)
        });
        let (root, statistics) = match written {
            Ok(written) => written,
            // What a fenced writer looked for may be gone.
            Err(_) if session::is_fenced(&repo, id) => {
                session::end(&repo, id)?;
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        beside(4)?;
        self.clock += 1;
        let time = Timestamp { secs: NOW.secs + self.clock * 3600, nanos: 0 };
        let snapshot = Snapshot {
            id,
            time,
            finished: time,
            host: b"host".to_vec(),
            user: Vec::new(),
            paths: vec![b"/".to_vec()],
            tags: Vec::new(),
            parent: None,
            writer: None,
            chain: yester::model::Chain::default(),
            root,
            scan: None,
            scan_start: time,
            links: None,
            owners: Owners::default(),
            rules: Vec::new(),
            composition: Default::default(),
            statistics,
            program: b"test".to_vec(),
        };
        let committed = snapshots::commit(&repo, &snapshot);
        // The model goes by what is there, as everybody does.
        if matches!(snapshots::load(&repo, id), Ok(Some(_))) {
            self.live.insert(id, files.clone());
        }
        match committed? {
            true => session::end(&repo, id).map(|()| Some(id)),
            false => session::end(&repo, id).map(|()| None),
        }
    }

    /// Every snapshot that must be there is there and whole, and no other.
    fn check(&self) {
        let repo = Arc::new(Repository::open(self.storage.clone(), &KEY).expect("opening"));
        let found = snapshots::list(&repo).expect("listing");
        let ids: BTreeSet<SnapshotId> = found.iter().map(|s| s.id).collect();
        assert!(ids.iter().eq(self.live.keys()), "{} snapshots instead of {}", ids.len(), self.live.len());
        let index = Arc::new(Index::load(&repo).expect("the index"));
        let chunks = Arc::new(ChunkReader::new(repo.clone(), index, 1 << 20).expect("a reader"));
        let trees = TreeReader::new(chunks, 1 << 20).expect("a reader");
        for snapshot in &found {
            let directory = snapshot.root.directory().expect("a directory");
            let mut files = Files::new();
            for entry in trees.entries(directory) {
                let entry = entry.unwrap_or_else(|e| panic!("snapshot {}: {e}", snapshot.id.short()));
                let Kind::File(stored) = &entry.node().kind else { panic!("not a file") };
                let mut bytes = Vec::new();
                let read = trees.read(stored, 0, stored.size() as usize, &mut bytes);
                read.unwrap_or_else(|e| panic!("snapshot {}: {e}", snapshot.id.short()));
                let number = self.live[&snapshot.id][&entry.node().name[0]];
                assert_eq!(bytes, content(number));
                files.insert(entry.node().name[0], number);
            }
            assert_eq!(files, self.live[&snapshot.id]);
        }
    }
}

fn files(next: &mut impl FnMut() -> u8) -> Files {
    let count = next() % 7;
    (0..count).map(|n| (b'a' + n, next())).collect()
}

/// Stores chunks under the rules for writers.
struct Writer<'r> {
    repo: &'r Arc<Repository>,
    index: Arc<Index>,
    known: KnownChunks,
    session: SnapshotId,
    /// Bit 0: a frame a chunk; bit 1: no differences; bit 2: a segment a pack.
    style: usize,
    pending: BTreeSet<ChunkId>,
    data: Vec<PlainFrame>,
    trees: Vec<PlainFrame>,
}

impl<'r> Writer<'r> {
    fn new(repo: &'r Arc<Repository>, session: SnapshotId, style: usize) -> Result<Self> {
        let index = Arc::new(Index::load_for_writing(repo)?);
        let (pending, data, trees) = (BTreeSet::new(), Vec::new(), Vec::new());
        Ok(Writer { repo, index, known: KnownChunks::default(), session, style, pending, data, trees })
    }

    fn add(&mut self, kind: PackKind, bytes: &[u8], base: Option<&[u8]>) -> Result<ChunkId> {
        let id = self.repo.keys().chunk_id(kind, bytes);
        if self.known.find(&self.index, kind, &id.key())?.is_some() || !self.pending.insert(id) {
            return Ok(id);
        }
        let alone = self.style & 1 == 1 || base.is_some();
        let frames = if kind == PackKind::Data { &mut self.data } else { &mut self.trees };
        if alone || frames.is_empty() {
            frames.push(PlainFrame::default());
        }
        let frame = frames.last_mut().expect("a frame");
        frame.bytes.extend_from_slice(bytes);
        frame.chunks.push((id, bytes.len() as u32));
        if let Some(base) = base.filter(|_| self.style & 2 == 0) {
            let base = self.repo.keys().chunk_id(kind, base).key();
            if known::plain(&self.index, kind, &base)?.is_some() {
                frame.bases.push(base);
            }
        }
        Ok(id)
    }

    fn write(mut self, files: &Files, beside: &dyn Fn(u8) -> Result<()>) -> Result<(Node, Statistics)> {
        let mut statistics = Statistics::default();
        let mut tree = TreeWriter::new(PageKind::Directory);
        let mut bytes = Vec::new();
        for (name, number) in files {
            let whole = content(*number);
            let previous = (*number >= 128).then(|| content(number & 127));
            let id = self.add(PackKind::Data, &whole, previous.as_deref())?;
            let content = Content::Items(vec![Item::Chunk { id, len: whole.len() as u32 }]);
            let child = node(vec![*name], Kind::File(content));
            bytes.clear();
            node::encode_unchecked(&child, &mut bytes);
            tree.push(&bytes, 1, &child.name, || page::key_hash(&child.name), &mut Pages(&mut self))?;
            statistics.files += 1;
        }
        let entries = files.len() as u64;
        let root = tree.finish(&mut Pages(&mut self))?;
        let root = Directory { root, entries, descendants: entries, ..Directory::default() };
        let mut packs = Vec::new();
        for kind in [PackKind::Data, PackKind::Tree] {
            packs.extend(self.pack(kind)?);
            if kind == PackKind::Data {
                beside(2)?;
            }
        }
        self.repo.storage().sync()?;
        beside(3)?;
        let each = if self.style & 4 == 4 { 1 } else { 2 };
        for packs in packs.chunks(each) {
            Segment::of_packs(packs).store(self.repo, Vec::new())?;
        }
        self.repo.storage().sync()?;
        Ok((node(Vec::new(), Kind::Directory(root)), statistics))
    }

    fn pack(&mut self, kind: PackKind) -> Result<Option<StoredPack>> {
        let frames = std::mem::take(if kind == PackKind::Data { &mut self.data } else { &mut self.trees });
        if frames.is_empty() {
            return Ok(None);
        }
        let reader = ChunkReader::new(self.repo.clone(), self.index.clone(), 1 << 20)?;
        let trials = DeltaTrials::default();
        let fetch = |kind: PackKind, bases: &[yester::model::ChunkKey], out: &mut Vec<u8>| reader.bases(kind, bases, out);
        let deltas = Deltas { trials: &trials, fetch: &fetch };
        let key = PackKey::generate(self.repo, kind, self.session)?;
        let mut sealer = FrameSealer::new(Encoder::new(Compression::Auto)?)?;
        let mut sealed = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            sealed.push(sealer.seal(self.repo.keys(), &key, number as u32, frame, Some(&deltas))?);
        }
        pack::store(self.repo, &key, sealed).map(Some)
    }
}

struct Pages<'a, 'r>(&'a mut Writer<'r>);

impl PageSink for Pages<'_, '_> {
    fn page(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        self.0.add(PackKind::Tree, bytes, None)
    }
}

fn node(name: Vec<u8>, kind: Kind) -> Node {
    let meta = Metadata { xattrs: Xattrs::Inline(Vec::new()), ..Metadata::default() };
    Node { name, meta, kind, link: None, given: true, changed: false, left_out: Default::default() }
}
