//! Decoding ahead of readers who go through a file, or through file after file in the order of the tree, as `cp -a`,
//! `tar`, `grep -r` and `rsync` do.
//!
//! A read only notes where its reader is. Threads of a small pool walk on from there in preorder and decode the frames
//! that come next into the frame cache, until a window's worth of bytes lies ahead. Nothing here can fail a read:
//! what could not be decoded ahead is met again, with its error, by the reader who needs it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::model::{Content, Item, Kind, PackId};
use crate::repo::index::{FrameRef, Index};
use crate::repo::pack::run::FrameRun;
use crate::vfs::ahead::{self, ReadAheadPiece, ReadAheadState};
use crate::vfs::around::Around;
use crate::vfs::below::{FoundNode, NodeFinder, SnapshotDir};
use crate::vfs::push::{Kernel, PageCacheStore, Push};
use crate::vfs::root::MountedSnapshot;

/// Readers that are followed at once.
const STREAMS: usize = 16;
/// How far a read may be from where the last one ended and still go on from it: the kernel reads ahead out of order.
const SLACK: u64 = 1 << 20;
/// How many positions of the tree a reader may leave out and still go in its order.
const SKIP: u64 = 256;
/// After so many reads in order, some of them from file to file, what comes next is given to the kernel unasked.
const ACROSS: u32 = 3;
/// After so many reads in order of one file, or at once when it comes from the file before, what comes next of a long
/// file is given, too.
const WITHIN: u32 = 3;
/// What is decoded ahead of a reader who was just noticed; doubled with every further read.
const FIRST_WINDOW: u64 = 512 << 10;
/// Nodes that one walk looks at, at most.
const WALK: u64 = 4096;
/// Requests that fetch what is worth one read: a window has room for a few of these only, and several should be under
/// way at once.
const RUNS_A_READ: u64 = 2;
/// Jobs that wait at most; more are left out.
const JOBS: usize = 1024;
/// A reader who read so recently is expected to go on in the directory that is listed now.
const AWHILE: Duration = Duration::from_millis(250);
/// A reader that was quiet for so long has no share of the memory.
const QUIET: Duration = Duration::from_secs(2);

enum PrefetchJob {
    /// Walk on for a stream.
    Walk(u64),
    /// Decode neighbouring frames of one pack.
    Frames(Vec<FrameRef>),
    /// Give the kernel a part of a file.
    Give(ReadAheadPiece),
    /// Look whether to stop.
    Wake,
}

/// A place in a tree: preorder position, and offset in the file there.
type At = (u64, u64);

/// One reader.
#[derive(Debug)]
struct ReaderStream {
    number: u64,
    tree: Arc<MountedSnapshot>,
    /// Where its last read ended.
    reader: At,
    /// Where the walk goes on.
    cursor: At,
    /// What lies between: end and bytes of each piece.
    ahead: VecDeque<(At, u64)>,
    /// Reads in order, one after the other.
    hits: u32,
    /// Whether it went from one file to the next.
    across: bool,
    walking: bool,
    /// What was given to the kernel of the file that is read.
    given: ReadAheadState,
    seen: Instant,
}

impl ReaderStream {
    /// Notes a read; false when it was not in order.
    fn follow(&mut self, position: u64, offset: u64, size: u64) -> bool {
        let (file, end) = self.reader;
        let ordered = match position == file {
            // What was given is not asked for.
            true => offset <= end.max(self.given.end()).saturating_add(SLACK) && end <= offset.saturating_add(SLACK),
            false => offset == 0,
        };
        if !ordered || position != file {
            self.given = ReadAheadState::new();
        }
        self.across |= ordered && position != file;
        self.hits = if ordered { self.hits.saturating_add(1) } else { 0 };
        self.seen = Instant::now();
        let reached = (position, offset.saturating_add(size));
        self.reader = if ordered { reached.max(self.reader) } else { reached };
        if !ordered || self.cursor < self.reader {
            self.cursor = self.reader;
        }
        while self.ahead.front().is_some_and(|(at, _)| *at <= self.reader) {
            self.ahead.pop_front();
        }
        if !ordered {
            self.ahead.clear();
        }
        ordered
    }

    fn lies_ahead(&self) -> u64 {
        self.ahead.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[derive(Debug)]
struct PrefetchShared {
    below: Arc<NodeFinder>,
    streams: Mutex<Vec<ReaderStream>>,
    /// Bytes that may lie ahead of all readers together.
    window: u64,
    stop: AtomicBool,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Prefetch {
    shared: Arc<PrefetchShared>,
    jobs: Sender<PrefetchJob>,
    numbers: AtomicU64,
    threads: usize,
    kernel: Kernel,
    push: Push,
    around: Around,
    /// As [`Costs::high_latency`](crate::storage::Costs::high_latency) says of the storage.
    high_latency: bool,
}

impl std::fmt::Debug for PrefetchJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PrefetchJob::Walk(_) => "Walk",
            PrefetchJob::Frames(_) => "Frames",
            PrefetchJob::Give(_) => "Give",
            PrefetchJob::Wake => "Wake",
        })
    }
}

impl Prefetch {
    /// Starts as many threads as there are cores, or as many as a high-latency storage serves at once. `frames` is the size of
    /// the frame cache: a quarter of it is used.
    pub(crate) fn new(below: Arc<NodeFinder>, frames: u64) -> Result<Self> {
        let (jobs, receiver) = crossbeam_channel::bounded(JOBS);
        let shared =
            Arc::new(PrefetchShared { below, streams: Mutex::default(), window: frames / 4, stop: AtomicBool::new(false) });
        let kernel = Kernel::default();
        let costs = shared.below.trees().chunks().repo().storage().costs();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        // A thread that waits for a remote storage needs no core.
        let high_latency = costs.high_latency();
        let waiting = if high_latency { costs.concurrency } else { 0 };
        let threads = cores.max(waiting).clamp(2, 16);
        for number in 0..threads {
            let (shared, jobs, receiver, kernel) = (shared.clone(), jobs.clone(), receiver.clone(), kernel.clone());
            std::thread::Builder::new()
                .name(format!("prefetch-{number}"))
                .spawn(move || shared.work(&jobs, &receiver, &kernel))
                .map_err(|e| Error::io("cannot start a thread", e))?;
        }
        let push = Push::new(shared.below.clone(), kernel.clone())?;
        let around = Around::new(shared.below.clone(), kernel.clone(), high_latency)?;
        Ok(Prefetch { shared, jobs, numbers: AtomicU64::new(0), threads, kernel, push, around, high_latency })
    }

    /// Says how to put bytes of a file into the kernel's page cache.
    pub(crate) fn connect(&self, store: Box<PageCacheStore>) {
        self.kernel.connect(store);
    }

    /// Notes that a read of an inode, offset and bytes, is answered.
    pub(crate) fn answered(&self, ino: u64, content: &Content, range: (u64, u64)) {
        self.around.reading(ino, content, range);
    }

    /// Notes that a directory was listed to its end: a reader who goes from file to file will read what is in it.
    pub(crate) fn listed(&self, dir: &SnapshotDir) {
        let streams = self.shared.streams();
        let goes_on =
            |s: &ReaderStream| s.tree.base == dir.tree.base && s.across && s.hits >= ACROSS && s.seen.elapsed() < AWHILE;
        if streams.iter().any(goes_on) {
            drop(streams);
            self.push.listed(dir);
        }
    }

    /// Notes that inode `ino`, which is the file at `position`, is being read: offset and bytes.
    pub(crate) fn reading(
        &self,
        tree: &Arc<MountedSnapshot>,
        (ino, position): (u64, u64),
        found: &FoundNode,
        (offset, size): (u64, u64),
    ) {
        let mut streams = self.shared.streams();
        let near = |s: &ReaderStream| {
            s.tree.base == tree.base && position >= s.reader.0 && position <= s.cursor.0.max(s.reader.0) + SKIP
        };
        let own =
            streams.iter().enumerate().filter(|(_, s)| near(s)).min_by_key(|(_, s)| position - s.reader.0).map(|(at, _)| at);
        let Some(at) = own else {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            start(&mut streams, number, tree, (position, offset.saturating_add(size)));
            return;
        };
        let readers = streams.iter().filter(|s| s.hits > 0 && s.seen.elapsed() < QUIET).count().max(1) as u64;
        let stream = &mut streams[at];
        let ordered = stream.follow(position, offset, size);
        if ordered && stream.across && stream.hits >= ACROSS {
            self.push.reading(found);
        }
        if let (true, Kind::File(content)) = (ordered && stream.hits >= WITHIN && self.kernel.get().is_some(), &found.node().kind)
        {
            let take = |piece| self.jobs.try_send(PrefetchJob::Give(piece)).is_ok();
            if ahead::reading(ino, content, stream.reader.1, &mut stream.given, self.high_latency, take) {
                return;
            }
        }
        // Files in the nodes themselves are read with their directory.
        if !ordered || stream.walking || matches!(found.node().kind, Kind::File(Content::Inline(_))) {
            return;
        }
        let window = window(stream.hits, self.shared.window / readers);
        if stream.lies_ahead() <= window / 2 {
            stream.walking = true;
            let number = stream.number;
            drop(streams);
            if self.jobs.try_send(PrefetchJob::Walk(number)).is_err() {
                self.shared.with(number, |s| s.walking = false);
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for _ in 0..self.threads {
            // A full queue wakes them as well.
            let _ = self.jobs.try_send(PrefetchJob::Wake);
        }
    }
}

/// Begins to follow a reader, in the place of the one that was quiet for longest if need be.
fn start(streams: &mut Vec<ReaderStream>, number: u64, tree: &Arc<MountedSnapshot>, reader: At) {
    let stream = ReaderStream {
        number,
        tree: tree.clone(),
        reader,
        cursor: reader,
        ahead: VecDeque::new(),
        hits: 0,
        across: false,
        walking: false,
        given: ReadAheadState::new(),
        seen: Instant::now(),
    };
    if streams.len() < STREAMS {
        streams.push(stream);
    } else if let Some(oldest) = streams.iter_mut().min_by_key(|s| s.seen) {
        *oldest = stream;
    }
}

fn window(hits: u32, most: u64) -> u64 {
    (FIRST_WINDOW << hits.min(10)).min(most.max(FIRST_WINDOW))
}

impl PrefetchShared {
    fn streams(&self) -> MutexGuard<'_, Vec<ReaderStream>> {
        self.streams.lock()
    }

    fn with<T>(&self, number: u64, act: impl FnOnce(&mut ReaderStream) -> T) -> Option<T> {
        self.streams().iter_mut().find(|s| s.number == number).map(act)
    }

    fn work(&self, jobs: &Sender<PrefetchJob>, receiver: &Receiver<PrefetchJob>, kernel: &Kernel) {
        let mut bytes = Vec::new();
        while let Ok(job) = receiver.recv() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            match job {
                PrefetchJob::Walk(number) => self.walk(number, jobs),
                // An error is the reader's to meet.
                PrefetchJob::Frames(frames) => match &frames[..] {
                    [frame] => drop(self.below.trees().chunks().frame(frame)),
                    frames => self.below.trees().chunks().load(frames),
                },
                PrefetchJob::Give(piece) => {
                    if let Some(store) = kernel.get() {
                        // As well.
                        let _ = ahead::give(&self.below, store, &piece, &mut bytes);
                    }
                }
                PrefetchJob::Wake => {}
            }
        }
    }

    /// Walks on from a stream's cursor until its window is full.
    fn walk(&self, number: u64, jobs: &Sender<PrefetchJob>) {
        let readers = self.streams().iter().filter(|s| s.hits > 0 && s.seen.elapsed() < QUIET).count().max(1) as u64;
        let begun = self.with(number, |s| {
            let room = window(s.hits, self.window / readers).saturating_sub(s.lies_ahead());
            (s.tree.clone(), s.cursor, s.across, room)
        });
        let Some((tree, cursor, across, room)) = begun else { return };
        let most = self.below.trees().chunks().repo().storage().costs().worth_one_read / RUNS_A_READ;
        let run = FrameRun::new(most);
        let mut walk =
            PrefetchWalk { shared: self, jobs, tree, at: cursor, room, pieces: Vec::new(), last: [None; 4], next: 0, run };
        let end = if across { cursor.0.saturating_add(WALK) } else { cursor.0 };
        // A damaged node ends the walk; the reader will meet it.
        while walk.at.0 <= end && walk.at.0 < walk.tree.snapshot.nodes() && walk.room > 0 && walk.node().is_some() {}
        walk.send(None);
        let (at, pieces) = (walk.at, walk.pieces);
        self.with(number, |s| {
            s.walking = false;
            if s.cursor == cursor {
                s.cursor = at;
                s.ahead.extend(pieces);
            }
        });
    }
}

struct PrefetchWalk<'a> {
    shared: &'a PrefetchShared,
    jobs: &'a Sender<PrefetchJob>,
    tree: Arc<MountedSnapshot>,
    at: At,
    room: u64,
    pieces: Vec<(At, u64)>,
    /// The frames that were asked for last: neighbours share them.
    last: [Option<(PackId, u32)>; 4],
    next: usize,
    run: FrameRun,
}

impl PrefetchWalk<'_> {
    /// Asks for a frame, or for what is left to be asked for; false when nobody takes jobs.
    fn send(&mut self, frame: Option<FrameRef>) -> bool {
        let frames = match frame {
            Some(frame) => self.run.add(frame),
            None => self.run.take(),
        };
        frames.is_empty() || self.jobs.try_send(PrefetchJob::Frames(frames)).is_ok()
    }

    /// Takes what fits of the node at the cursor and goes on behind it.
    fn node(&mut self) -> Option<()> {
        let (position, offset) = self.at;
        let below = self.shared.below.clone();
        let found = below.node(&self.tree, position).ok()?;
        if let Kind::File(content) = &found.node().kind {
            let size = content.size();
            if !matches!(content, Content::Inline(_)) && offset < size {
                let chunks = below.trees().chunks();
                let index = chunks.index();
                below.trees().items(content, offset, &mut |start, item| Ok(self.item(&index, start, item))).ok()?;
                if self.at.0 == position && self.at.1 < size && self.room == 0 {
                    return Some(());
                }
            }
        }
        self.at = (position + 1, 0);
        Some(())
    }

    /// Asks for the frame of one item; false when the window is full or nobody takes jobs.
    fn item(&mut self, index: &Arc<Index>, start: u64, item: &Item) -> bool {
        self.at.1 = start.saturating_add(item.len());
        let Item::Chunk { id, len } = item else { return true };
        let Ok(Some(location)) = index.find(PackKind::Data, &id.key()) else { return true };
        let frame = index.frame_key(&location);
        if !self.last.contains(&Some(frame)) {
            self.last[self.next % self.last.len()] = Some(frame);
            self.next += 1;
            let cached = self.shared.below.trees().chunks().has_frame(&frame);
            // An error of the index is the reader's to meet, too.
            let frame = if cached { None } else { index.frame(&location).ok() };
            if frame.is_some() && !self.send(frame) {
                self.room = 0;
                return false;
            }
        }
        self.pieces.push((self.at, u64::from(*len)));
        self.room = self.room.saturating_sub(u64::from(*len));
        self.room > 0
    }
}
