//! What grows with a repository, and what must not: ten million chunks through the index, a first look into a mount
//! beside them, with one snapshot and with a thousand, ten million files through the tree writer. Prints times and the
//! anonymous memory of this process.
//!
//! ```text
//! cargo bench --bench scale [-- CHUNKS [FILES [DIRECTORY]]]
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::node;
use yester::format::pack::{Codec, DirectoryEntry, FrameInfo, PREAMBLE, PackKind};
use yester::format::page::{PageKind, key_hash};
use yester::ingest::{IngestOptions, ingest, sources};
use yester::model::{ChunkId, ChunkKey, Content, Item, Kind, Metadata, Node, PackId, Timestamp, Xattrs};
use yester::repo::index::Index;
use yester::repo::index::merge;
use yester::repo::index::segment::Segment;
use yester::repo::pack::StoredPack;
use yester::repo::tree::writer::{PageSink, TreeWriter};
use yester::repo::{InitOptions, Repository};
use yester::storage::directory::DirectoryStorage;
use yester::task::Task;
use yester::vfs::MountOptions;
use yester::vfs::View;

/// Anonymous memory of this process, in MiB.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn report(what: &str, count: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{what:44} {count:>11}  {seconds:8.2} s  {:8.2} us each  {:5} MiB anonymous",
        seconds * 1e6 / count as f64,
        anonymous()
    );
}

/// The key of chunk `n`: as good as random, and the same every time.
fn key(n: u64) -> ChunkKey {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..16]);
    ChunkKey(out)
}

const SNAPSHOTS: u64 = 1000;
const CHUNKS_A_FRAME: u64 = 8;
const CHUNKS_A_PACK: u64 = 2048;
/// As many as a running ingest puts into one segment.
const PACKS_A_SEGMENT: u64 = 128;

fn pack(number: u64) -> StoredPack {
    let frame = |at: u64| {
        let first = number * CHUNKS_A_PACK + at * CHUNKS_A_FRAME;
        let info = FrameInfo {
            offset: PREAMBLE as u64 + at * 60_000,
            stored: 60_000,
            plain: (CHUNKS_A_FRAME * 65_536) as u32,
            codec: Codec::Zstd,
            bases: Vec::new(),
        };
        DirectoryEntry { frame: info, chunks: (first..first + CHUNKS_A_FRAME).map(|n| (key(n), 65_536)).collect() }
    };
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    StoredPack {
        id: PackId(id),
        kind: PackKind::Data,
        size: 16 << 20,
        one_way: false,
        entries: (0..CHUNKS_A_PACK / CHUNKS_A_FRAME).map(frame).collect(),
    }
}

fn index(repo: &Repository, chunks: u64) {
    let packs = chunks.div_ceil(CHUNKS_A_PACK);
    let chunks = packs * CHUNKS_A_PACK;
    let start = Instant::now();
    let mut index = Index::load(repo).unwrap();
    for first in (0..packs).step_by(PACKS_A_SEGMENT as usize) {
        let waiting: Vec<StoredPack> = (first..packs.min(first + PACKS_A_SEGMENT)).map(pack).collect();
        Segment::of_packs(&waiting).store(repo, Vec::new()).unwrap();
        drop(waiting);
        merge::settle(repo, &index, true).unwrap();
        index = Index::load_after(repo, Some(&index)).unwrap();
    }
    report("index: write and merge", chunks, start);
    let start = Instant::now();
    let index = Index::load(repo).unwrap();
    report(&format!("index: open {} segments", index.segments().len()), 1, start);
    let asked = chunks.min(1_000_000);
    let start = Instant::now();
    let step = chunks / asked;
    assert!((0..asked).all(|n| index.find(PackKind::Data, &key(n * step)).unwrap().is_some()));
    report("index: look-ups that hit, random", asked, start);
    let start = Instant::now();
    let found = (0..asked).filter(|n| index.find(PackKind::Data, &key(chunks + n)).unwrap().is_some()).count();
    assert_eq!(found, 0);
    report("index: look-ups that miss, random", asked, start);
}

struct Count(u64, u64);

impl PageSink for Count {
    fn page(&mut self, bytes: &[u8]) -> yester::Result<ChunkId> {
        self.0 += 1;
        self.1 += bytes.len() as u64;
        Ok(ChunkId(*blake3::hash(bytes).as_bytes()))
    }
}

fn tree(files: u64) {
    let start = Instant::now();
    let (mut sink, mut tree, mut bytes) = (Count(0, 0), TreeWriter::new(PageKind::Directory), Vec::new());
    for n in 0..files {
        let content = Content::Items(vec![Item::Chunk { id: ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()), len: 4000 }]);
        let meta = Metadata {
            mode: 0o644,
            mtime: Timestamp { secs: 1_700_000_000 + n as i64, nanos: n as u32 },
            xattrs: Xattrs::Inline(Vec::new()),
            ..Metadata::default()
        };
        let name = format!("file-{n:012}").into_bytes();
        let node =
            Node { name, meta, kind: Kind::File(content), link: None, given: true, changed: false, left_out: Default::default() };
        bytes.clear();
        node::encode_unchecked(&node, &mut bytes);
        tree.push(&bytes, 1, &node.name, || key_hash(&node.name), &mut sink).unwrap();
    }
    tree.finish(&mut sink).unwrap();
    report(&format!("tree: one directory, {} pages of {} MiB", sink.0, sink.1 >> 20), files, start);
}

/// A first `ls`, without a kernel: the mount is opened, and the newest snapshot's directory listed.
fn first_look(repo: &Arc<Repository>, what: &str) {
    let start = Instant::now();
    let options = MountOptions { scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() };
    let view = View::open(repo, &options).unwrap();
    let mut names = 0;
    view.readdir(1, 0, &mut |_| {
        names += 1;
        false
    })
    .unwrap();
    assert!(names > 2);
    report(&format!("mount: first look, {what}"), 1, start);
    let start = Instant::now();
    let view = View::open(repo, &MountOptions::default()).unwrap();
    assert!(view.lookup(1, b"latest").unwrap().is_some());
    report(&format!("mount: the same of the whole repository, {what}"), 1, start);
}

fn snapshots(repo: &Arc<Repository>, scratch: &Path) {
    let tree = scratch.join("tree");
    std::fs::create_dir(&tree).unwrap();
    for n in 0..50 {
        std::fs::write(tree.join(format!("file-{n}")), format!("{n} {}", "text ".repeat(n * 100))).unwrap();
    }
    let put = || {
        let source = sources::source(Path::new("/"), &tree);
        ingest(repo, &[source], &IngestOptions::default(), &Task::default()).unwrap();
    };
    put();
    first_look(repo, "one snapshot");
    let start = Instant::now();
    for n in 1..SNAPSHOTS {
        std::fs::write(tree.join("changing"), n.to_le_bytes()).unwrap();
        put();
    }
    report("ingest: of 51 files, one of them changed", SNAPSHOTS - 1, start);
    first_look(repo, &format!("{SNAPSHOTS} snapshots"));
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let mut number = |otherwise| numbers.next().map_or(otherwise, |n| n.parse::<u64>().expect("a number"));
    let (chunks, files) = (number(10_000_000), number(10_000_000));
    let place = numbers.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let scratch = tempfile::tempdir_in(place).unwrap();
    let storage = Arc::new(DirectoryStorage::create(&scratch.path().join("repository")).unwrap());
    let options = InitOptions {
        chunker: ChunkerParameters::DEFAULT,
        derivation: Derivation::KeyFile,
        now: Timestamp::default(),
        label: Vec::new(),
    };
    let repo = Repository::init(storage, &Credential::KeyFile([1; 32]), &options).unwrap();
    println!("at the start: {} MiB anonymous", anonymous());
    index(&repo, chunks);
    snapshots(&Arc::new(repo), scratch.path());
    tree(files);
}
