//! Each stage of ingest and of reading alone, on one thread, over a real tree: what a stage costs, so that the time of a
//! whole program can be told apart. The index with ten million chunks is in `scale.rs`.
//!
//! ```text
//! cargo bench --bench stages -- TREE [SCRATCH]
//! ```
//!
//! Every stage takes the same data: the regular files of TREE in the order of the walk, up to 512 MiB of them, warm.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs;
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use yester::chunk::codec::{Compression, Decoder, Encoder};
use yester::chunk::cutter::Cutter;
use yester::chunk::keys::{ClassKey, Credential};
use yester::chunk::seal::SealKey;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::IngestOptions;
use yester::ingest::sources;
use yester::model::Timestamp;
use yester::repo::{InitOptions, Repository};
use yester::storage::directory::DirectoryStorage;
use yester::sys::{Dir, FileKind};
use yester::task::Task;
use yester::vfs::MountOptions;
use yester::vfs::View;
use yester::vfs::attr::Type;

/// Bytes of the tree that the stages take.
const MOST: usize = 512 << 20;
/// What a frame of small files holds.
const FRAME: usize = 1 << 20;

struct Stage {
    what: &'static str,
    start: Instant,
}

impl Stage {
    fn begin(what: &'static str) -> Self {
        Stage { what, start: Instant::now() }
    }

    /// Prints time, rate of bytes, and time a piece.
    fn end(self, bytes: u64, pieces: u64, of: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = if bytes > 0 { format!("{:7.0} MB/s", bytes as f64 / seconds / 1e6) } else { " ".repeat(12) };
        println!("{:44} {seconds:8.3} s {rate}  {:9.2} us a {of} ({pieces})", self.what, seconds * 1e6 / pieces.max(1) as f64);
    }
}

/// Lists and stats everything below `dir`.
fn walk(dir: &Dir, path: &Path, entries: &mut u64, files: &mut Vec<PathBuf>) {
    let listing = dir.list_once().unwrap();
    for at in 0..listing.len() {
        *entries += 1;
        let stat = dir.stat(listing.name(at)).unwrap();
        let path = path.join(std::ffi::OsStr::from_bytes(listing.name(at)));
        match stat.kind {
            FileKind::Directory => walk(&dir.open_dir(listing.name(at)).unwrap(), &path, entries, files),
            FileKind::File => files.push(path),
            _ => (),
        }
    }
}

fn data_stages(root: &Path) {
    let (mut entries, mut files) = (0, Vec::new());
    walk(&Dir::open(root).unwrap(), root, &mut entries, &mut files);
    (entries, files) = (0, Vec::new());
    let stage = Stage::begin("walk: list and stat");
    walk(&Dir::open(root).unwrap(), root, &mut entries, &mut files);
    stage.end(0, entries, "entry");

    let (mut contents, mut total) = (Vec::new(), 0);
    let read_all = |contents: &mut Vec<Vec<u8>>, total: &mut usize| {
        for file in &files {
            if *total >= MOST {
                break;
            }
            let content = fs::read(file).unwrap();
            *total += content.len();
            contents.push(content);
        }
    };
    read_all(&mut contents, &mut total);
    (contents, total) = (Vec::new(), 0);
    let stage = Stage::begin("read: whole files, warm");
    read_all(&mut contents, &mut total);
    let total = total as u64;
    stage.end(total, contents.len() as u64, "file");

    let cutter = Cutter::new(ChunkerParameters::DEFAULT, &[7; 32]).unwrap();
    let stage = Stage::begin("cut");
    let mut chunks: Vec<&[u8]> = Vec::new();
    for content in &contents {
        let mut rest = content.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(cutter.cut(rest));
            chunks.push(chunk);
            rest = after;
        }
    }
    stage.end(total, chunks.len() as u64, "chunk");

    let stage = Stage::begin("hash: keyed BLAKE3");
    chunks.iter().for_each(|chunk| {
        black_box(blake3::keyed_hash(&[7; 32], chunk));
    });
    stage.end(total, chunks.len() as u64, "chunk");

    let all = contents.concat();
    let plain: Vec<&[u8]> = all.chunks(FRAME).collect();
    let mut encoder = Encoder::new(Compression::Auto).unwrap();
    let stage = Stage::begin("compress: frames of 1 MiB, default level");
    let encoded: Vec<_> = plain
        .iter()
        .map(|frame| {
            let mut out = Vec::new();
            (encoder.encode(frame, &mut out).unwrap(), out)
        })
        .collect();
    stage.end(total, plain.len() as u64, "frame");
    let stored: u64 = encoded.iter().map(|(_, out)| out.len() as u64).sum();
    println!("{:44} {:8.1} MB of {:.1}", "", stored as f64 / 1e6, total as f64 / 1e6);

    // Nearly the same again: what a changed file costs with its previous version at hand.
    let stage = Stage::begin("compress against a previous version");
    let mut differences = 0;
    for frame in &plain {
        let half = &frame[..frame.len() / 2];
        let mut changed = half.to_vec();
        changed.iter_mut().step_by(5003).for_each(|byte| *byte ^= 1);
        let mut out = Vec::new();
        encoder.encode_delta(&changed, half, &[], &mut out).unwrap();
        differences += out.len() as u64;
    }
    stage.end(total / 2, plain.len() as u64, "frame of 512 KiB");
    println!("{:44} {:8.3} MB", "", differences as f64 / 1e6);

    let key = SealKey::derive(&ClassKey::from_bytes([7; 32]), &[9; 32]).unwrap();
    let stage = Stage::begin("seal: AES-256-GCM, of stored bytes");
    let sealed: Vec<Vec<u8>> = encoded
        .iter()
        .enumerate()
        .map(|(at, (_, out))| {
            let mut out = out.clone();
            key.seal(at as u64, b"", &mut out).unwrap();
            out
        })
        .collect();
    stage.end(stored, sealed.len() as u64, "frame");
    let mut decoder = Decoder::new().unwrap();
    let (mut open, mut out) = (Vec::new(), Vec::new());
    let stage = Stage::begin("open and decompress");
    for (at, (sealed, frame)) in sealed.iter().zip(&plain).enumerate() {
        open.clear();
        out.clear();
        key.open_to(at as u64, b"", sealed, &mut open).unwrap();
        decoder.decode(encoded[at].0, &open, frame.len(), &mut out).unwrap();
        assert!(out == *frame);
    }
    stage.end(total, sealed.len() as u64, "frame");
}

/// What a mount does, without a kernel: lookups, listings and reads of a snapshot of the tree.
fn view_stages(root: &Path, scratch: &Path) {
    let storage = Arc::new(DirectoryStorage::create(&scratch.join("repository")).unwrap());
    let options = InitOptions {
        chunker: ChunkerParameters::DEFAULT,
        derivation: Derivation::KeyFile,
        now: Timestamp::default(),
        label: Vec::new(),
    };
    let repo = Arc::new(Repository::init(storage, &Credential::KeyFile([1; 32]), &options).unwrap());
    let source = sources::source(Path::new("/"), root);
    let stage = Stage::begin("ingest, whole, warm");
    let report = yester::ingest::ingest(&repo, &[source], &IngestOptions::default(), &Task::default()).unwrap();
    let bytes = report.snapshot.statistics.bytes;
    stage.end(bytes, report.snapshot.statistics.files, "file");

    let stage = Stage::begin("view: open");
    let view =
        View::open(&repo, &MountOptions { scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() }).unwrap();
    stage.end(0, 1, "mount");
    let counts = view.counts();
    let said = |what: &str| {
        println!(
            "{what:44} {:8} frames decoded, {:.1} MB fetched, {:.1} MB decoded so far",
            counts.frames.get(),
            counts.fetched.get() as f64 / 1e6,
            counts.decoded.get() as f64 / 1e6
        );
    };
    let (mut listed, mut names) = (0, 0);
    let mut queue = vec![1];
    let mut files = Vec::new();
    let stage = Stage::begin("view: readdir with attributes");
    while let Some(directory) = queue.pop() {
        let at = files.len();
        view.readdir(directory, 0, &mut |entry| {
            listed += 1;
            match entry.attr.kind {
                _ if entry.name == b"." || entry.name == b".." => (),
                Type::Directory => queue.push(entry.attr.ino),
                Type::File => files.push((directory, entry.name.to_vec(), entry.attr.ino, entry.attr.size)),
                _ => (),
            }
            false
        })
        .unwrap();
        names += (files.len() - at) as u64;
    }
    stage.end(0, listed, "entry");
    said("");
    let stage = Stage::begin("view: lookup, in that order");
    for (directory, name, ino, _) in &files {
        assert_eq!(view.lookup(*directory, name).unwrap().unwrap().ino, *ino);
    }
    stage.end(0, names, "name");
    read_stage("view: read, in that order, one thread", &view, &files);
    // Inode numbers are in the order of the tree, as `tar` and `cp -a` read; a view of its own has nothing in memory.
    let view =
        View::open(&repo, &MountOptions { scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() }).unwrap();
    files.sort_unstable_by_key(|(_, _, ino, _)| *ino);
    read_stage("view: read, in the order of the tree", &view, &files);
}

/// Reads all of these files: directory, name, inode number, size.
fn read_stage(what: &'static str, view: &View, files: &[(u64, Vec<u8>, u64, u64)]) {
    let stage = Stage::begin(what);
    let (mut out, mut read) = (Vec::new(), 0);
    for (_, _, ino, size) in files {
        let mut offset = 0;
        while offset < *size {
            out.clear();
            view.read(*ino, offset, 128 << 10, &mut out).unwrap();
            assert!(!out.is_empty());
            offset += out.len() as u64;
        }
        read += offset;
    }
    stage.end(read, files.len() as u64, "file");
    let counts = view.counts();
    let (asked, ready) = (counts.asked.get().max(1), counts.ready.get());
    println!("{:44} {:8.3} bytes decoded a byte delivered", "", counts.decoded.get() as f64 / read.max(1) as f64);
    println!("{:44} {:8.1} % of {asked} chunks were decoded before they were asked for", "", ready as f64 * 100.0 / asked as f64);
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let Some(root) = words.next().map(PathBuf::from) else {
        println!("stages: name a tree: cargo bench --bench stages -- TREE [SCRATCH]");
        return;
    };
    let scratch = tempfile::tempdir_in(words.next().map_or_else(std::env::temp_dir, PathBuf::from)).unwrap();
    data_stages(&root);
    view_stages(&root, scratch.path());
}
