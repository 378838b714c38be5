//! What a whole run asks for, in counts, which are the same on every machine: system calls a file, requests to the
//! storage, bytes, allocations.
//!
//! ```text
//! cargo bench --bench counts -- TREE [SCRATCH]
//! ```
//!
//! A first ingest of TREE, an ingest of the unchanged tree, a restore, and the same restore once more in place, each in
//! a process of its own (under strace, where there is one), with a key file and the parameters of the command line.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::alloc::System;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

#[path = "../common/record.rs"]
mod record;

use record::{Operation, RecordingStorage};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::{IngestOptions, ingest, sources};
use yester::model::{Statistics, Timestamp};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository, snapshots};
use yester::restore::{RestoreOptions, RestoreRequest, restore};
use yester::storage::directory::DirectoryStorage;
use yester::task::Task;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const VERBS: [&str; 4] = ["first", "unchanged", "restore", "again"];
/// System calls that are worth a line: those made more than this many times an entry.
const RARE: f64 = 0.02;

fn storage(scratch: &Path) -> Arc<RecordingStorage> {
    let place = scratch.join("repository");
    let directory = if place.exists() { DirectoryStorage::open(&place) } else { DirectoryStorage::create(&place) };
    Arc::new(RecordingStorage::new(Arc::new(directory.unwrap())))
}

fn put(repo: &Arc<Repository>, tree: &Path) -> Statistics {
    let source = sources::source(Path::new("/"), tree);
    ingest(repo, &[source], &IngestOptions::default(), &Task::default()).unwrap().snapshot.statistics
}

fn take(repo: &Arc<Repository>, scratch: &Path) -> Statistics {
    let options = RestoreOptions::default();
    let reader = ChunkReader::new(repo.clone(), Arc::new(Index::load(repo).unwrap()), options.memory / 2).unwrap();
    let trees = Arc::new(TreeReader::new(Arc::new(reader), options.memory / 8).unwrap());
    let snapshot = Arc::new(snapshots::list(repo).unwrap().swap_remove(0));
    let statistics = snapshot.statistics;
    let request = RestoreRequest { sources: vec![(snapshot, Vec::new())], target: scratch.join("restored") };
    assert!(restore(&trees, &request, &options, &Task::default()).unwrap().is_complete());
    statistics
}

/// Does one verb and prints what it asked for.
fn child(verb: &str, tree: &Path, scratch: &Path) {
    let storage = storage(scratch);
    let credential = Credential::KeyFile([1; 32]);
    let repo = if verb == "first" {
        let options = InitOptions {
            chunker: ChunkerParameters::DEFAULT,
            derivation: Derivation::KeyFile,
            now: Timestamp::default(),
            label: Vec::new(),
        };
        Repository::init(storage.clone(), &credential, &options).unwrap()
    } else {
        Repository::open(storage.clone(), &credential).unwrap()
    };
    let repo = Arc::new(repo);
    storage.take();
    let region = Region::new(ALLOCATOR);
    let statistics = if verb == "first" || verb == "unchanged" { put(&repo, tree) } else { take(&repo, scratch) };
    let memory = region.change();
    let entries = statistics.files + statistics.directories + statistics.others;
    println!(
        "{verb}: {entries} entries, {:.1} MB; {:.2} allocations and {:.0} bytes allocated an entry",
        statistics.bytes as f64 / 1e6,
        (memory.allocations + memory.reallocations) as f64 / entries as f64,
        memory.bytes_allocated as f64 / entries as f64,
    );
    let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for operation in storage.take() {
        let (kind, bytes) = match operation {
            Operation::Create(name, bytes) => (format!("create {}", name.class().prefix()), bytes),
            Operation::Read(name, bytes) => (format!("read {}", name.class().prefix()), bytes),
            Operation::List(_) => ("list".to_owned(), 0),
            Operation::Delete(name) => (format!("delete {}", name.class().prefix()), 0),
            Operation::Sync => ("sync".to_owned(), 0),
        };
        let sum = kinds.entry(kind).or_default();
        *sum = (sum.0 + 1, sum.1 + bytes);
    }
    for (kind, (count, bytes)) in kinds {
        println!("    {count:7} x {kind:18} {:10.3} MB", bytes as f64 / 1e6);
    }
}

/// The table that `strace -c` leaves: calls by name.
fn calls(table: &Path, entries: f64) {
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let mut rows: Vec<(u64, &str)> = text
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some((words.get(3)?.parse().ok()?, *words.last()?))
        })
        .collect();
    rows.sort_unstable_by(|a, b| b.cmp(a));
    for (count, name) in rows {
        if count as f64 / entries >= RARE {
            println!("    {:7.2} an entry {name}", count as f64 / entries);
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--verb", verb, tree, scratch] => child(verb, Path::new(tree), Path::new(scratch)),
        [tree, rest @ ..] => {
            let place = rest.first().map_or_else(std::env::temp_dir, PathBuf::from);
            let scratch = tempfile::tempdir_in(place).unwrap();
            let program = std::env::current_exe().unwrap();
            let traced = Command::new("strace").arg("-V").output().is_ok();
            let table = scratch.path().join("strace");
            for verb in VERBS {
                let mut command = if traced {
                    let mut command = Command::new("strace");
                    command.args(["-f", "-qq", "-c", "-o"]).arg(&table).arg(&program);
                    command
                } else {
                    Command::new(&program)
                };
                let output = command.args(["--verb", verb, tree]).arg(scratch.path()).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
                print!("{text}");
                let entries = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1.0);
                calls(&table, entries);
            }
        }
        [] => println!("counts: name a tree: cargo bench --bench counts -- TREE [SCRATCH]"),
    }
}
