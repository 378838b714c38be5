//! Giving small files to the kernel before it asks for them.
//!
//! A request through FUSE costs two switches between processes, about 60 µs here, whatever is asked; reading a tree of
//! small files is 80,000 of them, one after the other. When a reader goes from file to file, the files that come next in
//! the same directory are put into the kernel's page cache (`FUSE_NOTIFY_STORE`) while it is busy with the first; it
//! then reads them without asking. Only files whose inode the kernel knows can be given, so a directory that is not
//! listed is left alone, and so is everything at the first sign that the kernel does not want it. What is given was
//! verified like what is asked for; what cannot be read is not given, and the reader who asks meets the error.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::model::{Content, Kind};
use crate::vfs::below::{FoundNode, NodeFinder, SnapshotDir};

/// A longer file is read in several requests anyway, and the kernel reads ahead in it.
const LONGEST: u64 = 128 << 10;
/// What is given at once: enough that asking once for so much does not matter, little enough that a reader who stops
/// has cost nothing.
const BYTES: u64 = 4 << 20;
const FILES: u64 = 512;
/// Readers of several directories are given to at once, each by one thread.
const MOST_THREADS: usize = 4;
/// Directories whose progress is remembered.
const DIRECTORIES: usize = 64;

/// Puts bytes of an inode, from an offset on, into the kernel's page cache.
pub type PageCacheStore = dyn Fn(u64, u64, &[u8]) -> io::Result<()> + Send + Sync;

/// How the kernel is reached, once it is known.
#[derive(Clone, Default)]
pub struct Kernel(Arc<OnceLock<Box<PageCacheStore>>>);

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}

impl Kernel {
    /// Says how to reach it. Until then nothing is given.
    pub fn connect(&self, store: Box<PageCacheStore>) {
        let _ = self.0.set(store);
    }

    /// How to reach it.
    pub fn get(&self) -> Option<&PageCacheStore> {
        self.0.get().map(|store| &**store)
    }
}

/// Where a directory stands; entries by number.
#[derive(Debug)]
struct Progress {
    ino: u64,
    /// What is before this entry was asked for, or is at this moment.
    from: u64,
    /// What was given ends before this entry.
    given: u64,
    /// The thread is at it, or will be.
    busy: bool,
}

type PushQueue = Mutex<VecDeque<Progress>>;

/// The threads that give.
#[derive(Debug)]
pub struct Push {
    kernel: Kernel,
    given: Arc<PushQueue>,
    jobs: Sender<SnapshotDir>,
}

fn lock(given: &PushQueue) -> MutexGuard<'_, VecDeque<Progress>> {
    given.lock()
}

impl Push {
    /// Starts its threads; they end with this.
    pub fn new(below: Arc<NodeFinder>, kernel: Kernel) -> Result<Self> {
        let (jobs, receiver) = crossbeam_channel::bounded(16);
        let given: Arc<PushQueue> = Arc::default();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MOST_THREADS);
        for _ in 0..threads {
            let worker = PushWorker { below: below.clone(), kernel: kernel.clone(), given: given.clone() };
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name("mount-push".to_owned())
                .spawn(move || worker.work(&receiver))
                .map_err(|e| Error::io("cannot start a thread", e))?;
        }
        Ok(Push { kernel, given, jobs })
    }

    /// Notes that a reader who goes from file to file reads `found`.
    pub fn reading(&self, found: &FoundNode) {
        if let (Some(dir), Some(number)) = (&found.parent, found.number()) {
            self.go_on(dir, Some(number));
        }
    }

    /// Notes that such a reader has listed a directory to its end.
    pub fn listed(&self, dir: &SnapshotDir) {
        self.go_on(dir, None);
    }

    /// Gives what comes after entry `asked`, or everything when nothing was asked for yet.
    fn go_on(&self, dir: &SnapshotDir, asked: Option<u64>) {
        if self.kernel.get().is_none() {
            return;
        }
        let from = asked.map_or(0, |number| number + 2);
        let mut given = lock(&self.given);
        let at = match given.iter().position(|p| p.ino == dir.ino()) {
            Some(at) => at,
            None => {
                if given.len() == DIRECTORIES {
                    given.pop_front();
                }
                given.push_back(Progress { ino: dir.ino(), from, given: 0, busy: false });
                given.len() - 1
            }
        };
        let progress = &mut given[at];
        progress.from = from;
        if progress.busy || from < progress.given {
            return;
        }
        // A full queue: the reader asks as it would have.
        progress.busy = self.jobs.try_send(dir.clone()).is_ok();
    }
}

struct PushWorker {
    below: Arc<NodeFinder>,
    kernel: Kernel,
    given: Arc<PushQueue>,
}

impl PushWorker {
    fn work(&self, jobs: &Receiver<SnapshotDir>) {
        let mut content = Vec::new();
        for dir in jobs {
            if let Some(store) = self.kernel.get() {
                // Damage is the reader's to meet.
                let _ = self.give(&dir, store, &mut content);
            }
            self.with(&dir, |p| p.busy = false);
        }
    }

    fn with<T>(&self, dir: &SnapshotDir, act: impl FnOnce(&mut Progress) -> T) -> Option<T> {
        lock(&self.given).iter_mut().find(|p| p.ino == dir.ino()).map(act)
    }

    /// Gives what comes after the reader, who may be going on meanwhile.
    fn give(&self, dir: &SnapshotDir, store: &PageCacheStore, content: &mut Vec<u8>) -> Result<()> {
        let trees = self.below.trees();
        let (mut bytes, mut files) = (0, 0);
        let start = self.with(dir, |p| p.given.max(p.from)).unwrap_or(u64::MAX);
        let mut next = trees.entry_number(&dir.directory, start)?;
        while let (Some(entry), true) = (next, bytes < BYTES && files < FILES) {
            let node = entry.node();
            if let (Kind::File(file), None) = (&node.kind, node.link) {
                let size = file.size();
                let overtaken = self.with(dir, |p| entry.number < p.from).unwrap_or(true);
                // The inode of a hard link may be another's: those are asked for.
                if !overtaken && size > 0 && size <= LONGEST && !matches!(file, Content::Tree { .. }) {
                    trees.read(file, 0, size as usize, content)?;
                    if store(dir.ino() + entry.offset, 0, content).is_err() {
                        break;
                    }
                    bytes += size;
                    files += 1;
                }
            }
            self.with(dir, |p| p.given = entry.number + 1);
            next = trees.next(&dir.directory, &entry)?;
        }
        Ok(())
    }
}
