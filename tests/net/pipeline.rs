//! How often a repository on a server is asked, and how much is under way at once.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use yester::Result;
use yester::ingest::{IngestOptions, ingest};
use yester::mount::{Shutdown, mount};
use yester::remote::client::RemoteStorage;
use yester::restore::{RestoreOptions, RestoreReport, RestoreRequest, restore};
use yester::storage::{Class, Costs, Created, Leftovers, Name, Receipt, Storage};
use yester::sys::process::ProcessIdentity;
use yester::task::Task;
use yester::vfs::MountOptions;

use crate::common::trees::fixture::{Fixture, source};
use crate::net::support::*;

/// For so long a request waits for another one to be under way with it, once.
const MEETING: Duration = Duration::from_secs(60);

/// Counts requests for packs.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    under_way: usize,
    most: usize,
    requests: usize,
    bytes: u64,
    longest: u64,
}

/// A line on which requests for packs wait until two are under way, if that ever happens.
#[derive(Debug, Default)]
struct Gate {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Gate {
    fn pass<T>(&self, bytes: u64, waits: bool, request: impl FnOnce() -> T) -> T {
        let mut seen = self.seen.lock().unwrap();
        seen.under_way += 1;
        seen.requests += 1;
        seen.bytes += bytes;
        seen.longest = seen.longest.max(bytes);
        seen.most = seen.most.max(seen.under_way);
        self.changed.notify_all();
        let alone = |seen: &mut Seen| waits && seen.most < 2;
        drop(self.changed.wait_timeout_while(seen, MEETING, alone).unwrap());
        let answer = request();
        self.seen.lock().unwrap().under_way -= 1;
        answer
    }

    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

#[derive(Debug)]
struct Watched {
    inner: RemoteStorage,
    reads: Gate,
    creates: Gate,
    /// Segments and snapshots, each with how many packs were under way when it was created.
    order: Mutex<Vec<(Name, usize)>>,
}

impl Storage for Watched {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        match name {
            Name::Pack(_) => self.creates.pass(length, true, || self.inner.create(name, parts)),
            _ => {
                let under_way = self.creates.seen.lock().unwrap().under_way;
                self.order.lock().unwrap().push((*name, under_way));
                self.inner.create(name, parts)
            }
        }
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        let length = range.as_ref().map_or(0, |range| range.end - range.start);
        match name {
            // Keys of packs, and trees, come one by one.
            // A reader of the mount who has just begun waits for single frames.
            Name::Pack(_) if length > 4 << 10 => {
                self.reads.pass(length, length > 256 << 10, || self.inner.read(name, range, out))
            }
            _ => self.inner.read(name, range, out),
        }
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        self.inner.list(class)
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.inner.delete(name)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn leftovers(&self, remove: bool) -> Result<Leftovers> {
        self.inner.leftovers(remove)
    }

    fn leftovers_of(&self, process: &ProcessIdentity) -> Result<Leftovers> {
        self.inner.leftovers_of(process)
    }

    fn received(&self, class: Class) -> Result<Vec<(Name, Receipt)>> {
        self.inner.received(class)
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// Bytes of each of the files of [`sample`].
/// Long files: these have small frames, which lie side by side.
const SIZE: usize = 9_100_000;
const FILES: u8 = 8;

/// Files that compress as source code does, and do not repeat.
fn sample(at: &Path) {
    std::fs::create_dir(at).unwrap();
    for n in 0..FILES {
        std::fs::write(at.join(format!("{n:03}")), content(n)).unwrap();
    }
}

fn content(n: u8) -> Vec<u8> {
    noise(n, SIZE / 7).into_iter().flat_map(|byte| [byte, 1, 2, 3, 4, 5, 6]).collect()
}

fn restored(fixture: &Fixture, snapshot: yester::model::Snapshot, to: &Path) -> RestoreReport {
    let request = RestoreRequest { sources: vec![(Arc::new(snapshot), Vec::new())], target: to.to_owned() };
    restore(&fixture.trees(), &request, &RestoreOptions::default(), &Task::default()).unwrap()
}

fn assert_same(at: &Path) {
    for n in 0..FILES {
        assert!(std::fs::read(at.join(format!("{n:03}"))).unwrap() == content(n), "file {n}");
    }
}

#[test]
fn packs_go_several_at_once_and_ranges_together() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(&scratch.path().join("root"));
    let (reads, creates, order) = Default::default();
    let watched = Arc::new(Watched { inner: server.storage("web"), reads, creates, order });
    let fixture = Fixture::on(watched.clone());
    let live = scratch.path().join("live");
    sample(&live);
    watched.order.lock().unwrap().clear();
    let options = IngestOptions { pack_size: 3 << 20, ..IngestOptions::default() };
    let report = ingest(&fixture.repo, &source(&live), &options, &Task::default()).unwrap();
    let sent = watched.creates.take();
    assert!(sent.most >= 2, "one pack after the other: {sent:?}");
    assert!(sent.most <= watched.costs().creates_at_once, "memory is for a few packs: {sent:?}");
    // Every pack is there before the last segment, and that before the snapshot.
    let order = watched.order.lock().unwrap().clone();
    let last = order.iter().rposition(|(name, _)| matches!(name, Name::Segment(_))).unwrap();
    let commit = order.iter().position(|(name, _)| matches!(name, Name::Snapshot(_))).unwrap();
    assert!(last < commit && order[last].1 == 0 && order[commit].1 == 0, "{order:?}");

    // Restore: few requests, several at once.
    watched.reads.take();
    let to = scratch.path().join("back");
    let done = restored(&fixture, report.snapshot, &to);
    assert_same(&to.join("live"));
    let seen = watched.reads.take();
    assert!(seen.most >= 2, "one request after the other: {seen:?}");
    assert!(seen.longest <= watched.costs().worth_one_read, "{seen:?}");
    assert!(2 * done.frames >= 3 * seen.requests as u64, "{} frames with {seen:?}", done.frames);
    assert!(seen.bytes <= sent.bytes, "what was read is more than there is: {seen:?} of {sent:?}");

    // A reader of the mount who goes from file to file. Where that is quicker than who reads ahead, which happens on a busy
    // machine, it asks for more: then a new mount gets another try.
    let few = |seen: &Seen| seen.most >= 2 && 2 * done.frames >= 3 * seen.requests as u64;
    let mut seen = read_mounted(&fixture, &watched);
    for _ in 0..4 {
        if few(&seen) {
            break;
        }
        seen = read_mounted(&fixture, &watched);
    }
    assert!(seen.most >= 2, "one request after the other: {seen:?}");
    assert!(2 * done.frames >= 3 * seen.requests as u64, "{} frames with {seen:?}", done.frames);
}

/// Reads everything of the newest snapshot in a mount of it; what that asked for.
fn read_mounted(fixture: &Fixture, watched: &Watched) -> Seen {
    let (point, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
    let (ready, is_ready) = std::sync::mpsc::channel();
    let options = MountOptions { scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() };
    watched.reads.take();
    std::thread::scope(|scope| {
        let (place, stop) = (point.path(), &shutdown);
        let server = scope.spawn(move || mount(&fixture.repo, &options, place, stop, move || ready.send(()).unwrap()));
        is_ready.recv_timeout(PATIENT).unwrap();
        let read = std::panic::catch_unwind(|| assert_same(&point.path().join("live")));
        shutdown.trigger();
        server.join().unwrap().unwrap();
        read.unwrap();
    });
    watched.reads.take()
}
