//! What is asked memory for: by a decoder no more than its input is long, whatever lengths that claims; by an ingest of a stream
//! no more if the stream is longer. In a process of its own, one after the other: each watches the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::decoders;

use std::alloc::System;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::{IngestOptions, Input, Stream, ingest_all};
use yester::model::Timestamp;
use yester::observe::{Event, Observer};
use yester::repo::{InitOptions, Repository};
use yester::storage::directory::DirectoryStorage;
use yester::task::Task;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most that the process' address space ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The decoders come first, and on the only thread: what others have asked for would hide what they do.
#[test]
fn memory_does_not_follow_what_is_given() {
    claimed_lengths_are_not_believed();
    a_stream_takes_no_more_memory_if_it_is_longer();
}

fn claimed_lengths_are_not_believed() {
    let claims: [&[u8]; 5] = [
        &[0xff, 0xff, 0x03],
        &[0xff, 0xff, 0xff, 0x07],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    ];
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    // The first call makes what is made once a thread; the longest plain frame is the most that one call may ask for.
    decoders::frame(&[0; 100]);
    let before = peak();
    for (name, target) in decoders::TARGETS {
        for entry in std::fs::read_dir(seeds.join(name)).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            for claim in claims {
                for at in 0..seed.len().min(300) {
                    let mut bytes = seed.clone();
                    bytes.splice(at..at + 1, claim.iter().copied());
                    target(&bytes);
                }
            }
        }
    }
    let grown = peak() - before;
    assert!(grown < 64 << 10, "the address space grew by {grown} KiB");
}

/// Bytes that are allocated.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// The most that was allocated when an event came: each part of a stream gives one.
#[derive(Default)]
struct Most(AtomicUsize);

impl Observer for Most {
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_max(held(), Ordering::Relaxed);
    }
}

/// The most bytes that an ingest of a stream of so many MiB, none twice, holds. Chunks, packs and so segments of the index are
/// small, so that there are as many of them as those of a stream that is 64 times as long.
fn held_by_stream(mebibytes: u64) -> usize {
    let scratch = tempfile::tempdir().unwrap();
    let storage = Arc::new(DirectoryStorage::create(&scratch.path().join("repository")).unwrap());
    let options = InitOptions {
        chunker: ChunkerParameters { min: 256, avg: 1 << 10, max: 4 << 10 },
        derivation: Derivation::KeyFile,
        now: Timestamp::default(),
        label: Vec::new(),
    };
    let repo = Arc::new(Repository::init(storage, &Credential::KeyFile([1; 32]), &options).unwrap());
    let command = ["head", "-c", &format!("{mebibytes}M"), "/dev/urandom"].map(Into::into).to_vec();
    let stream: Arc<dyn Input> = Arc::new(Stream::of_command(b"/dump".to_vec(), command, Vec::new()));
    let options = IngestOptions { pack_size: 256 << 10, ..IngestOptions::default() };
    let (before, most) = (held(), Most::default());
    let report = ingest_all(&repo, &[stream], &options, &Task::new(&most)).unwrap();
    assert_eq!(report.snapshot.statistics.bytes, mebibytes << 20);
    most.0.into_inner().saturating_sub(before)
}

fn a_stream_takes_no_more_memory_if_it_is_longer() {
    // What is made once a process, and the buffers that many threads fill in any order, are in the first.
    let short = held_by_stream(1).max(held_by_stream(12)).max(held_by_stream(16));
    let long = held_by_stream(96);
    assert!(long < short * 3 / 2, "{long} bytes for a long stream, {short} for short ones");
}
