//! Read-ahead: what a reader will want is decoded, or given to the kernel, before it asks.
//!
//! ```text
//!  a program reads
//!        │                                        (what is there is not asked for)
//!  the kernel's page cache ◄──────────────────────────────────────────┐
//!        │ a page is missing: a request                               │ store
//!  View::read ──► ReadAhead::reading ──► policies                     │
//!        │                                  │ jobs                    │
//!        │                               pool: walk ─► frames         │
//!        │ chunks                           │    pieces, small files, around
//!        ▼                                  ▼                         │
//!  the frame cache ◄──── decoded once, by whoever comes first ────────┘
//!        │
//!  packs in the storage
//! ```
//!
//! **Policies** decide. They are plain values: no threads, no locks, no clock; the time is passed in. [`ReaderState`]
//! holds their state.
//!
//! | file | policy | state of | asks for |
//! |---|---|---|---|
//! | `stream` | which reads are of one reader; a window of the tree ahead of it, within a file and from file to file | a reader | walks |
//! | `long_file` | windows of a long file, or of the image of a tree, with a page left out after each, which tells how far the reader is | a reader's file | pieces |
//! | `small_files` | the small files that come next in a directory | a directory | small files |
//! | `random` | what shares the frame with a random read; files that are read everywhere | a file | around |
//! | `budget` | decoded bytes ahead of all readers: a quarter of the frame cache, in equal shares | | |
//!
//! - A **stream** is the reads of one reader. **Slack** is how far a read may be from where the last one ended and still
//!   belong to it.
//! - The **cursor** of a stream is where decoding ahead goes on. Its **window** is what lies between reader and cursor.
//! - The **budget** bounds all windows together, but for the first 512 KiB of each reader.
//!
//! What was given of a directory, or of a file at random, is remembered for the directory and the file, and not for a
//! reader: it is in the page cache for everybody, and must not be given once for each reader.
//!
//! The budget is of decoded bytes in the frame cache. Bytes that are given leave it at once for the page cache. They have
//! bounds of their own: two windows of 8 MiB of a long file, 4 MiB of a directory, one frame around a read.
//!
//! **Jobs** (`job`, `walk`, `give`) do what was decided, on the threads of one **pool** (`pool`). None can fail a read:
//! the reader who needs what could not be read ahead meets the error. What is given was verified like what is asked for.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use crate::error::Result;
use crate::model::{Content, Kind};
use crate::vfs::below::{FoundNode, NodeFinder, SnapshotDir};
use crate::vfs::root::MountedSnapshot;

mod budget;
mod give;
mod job;
mod long_file;
mod pool;
mod random;
mod small_files;
mod stream;
mod walk;

pub(crate) use give::{ImageData, PageCacheStore};

use budget::ReadAheadBudget;
use give::{PieceSource, ReadAheadPiece};
use job::{ReadAheadContext, ReadAheadJob};
use pool::{LaneLimits, ReadAheadPool};
use random::{FilePlace, RandomFiles};
use small_files::GivenDirectories;
use stream::{ReaderStreams, StreamRead};

/// Pages of the kernel's cache, in bytes, are given whole.
const PAGE: u64 = 4096;
/// Bytes of a long file that are decoded and given at once.
const PIECE: u64 = 512 << 10;
/// What one job gives of a long file from high-latency storage: what is next to each other there is one request.
const FAR_PIECE: u64 = 2 << 20;

/// All that is known of readers, and what was given to the kernel for them. Each policy's state has a lock of its own, held
/// for moments only: never while something is read, given or waited for. With one lock for all, readers and those who
/// give small files waited for each other, and fewer files were given in time.
#[derive(Debug)]
struct ReaderState {
    streams: Mutex<ReaderStreams>,
    directories: Mutex<GivenDirectories>,
    random: Mutex<RandomFiles>,
}

/// A read that begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileRead<'a> {
    /// The tree, and the position of the file in it.
    pub(crate) tree: &'a Arc<MountedSnapshot>,
    pub(crate) position: u64,
    /// The file.
    pub(crate) found: &'a FoundNode,
    /// The inode number by which the kernel can be given bytes of the file, if there is one.
    pub(crate) ino: Option<u64>,
    /// Offset and bytes.
    pub(crate) range: (u64, u64),
}

/// A read of an image that begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageRead<'a> {
    /// The image, and the inode number by which the kernel knows it.
    pub(crate) data: &'a Arc<dyn ImageData>,
    pub(crate) ino: u64,
    /// Bytes of the image.
    pub(crate) len: u64,
    /// Offset and bytes.
    pub(crate) range: (u64, u64),
}

/// Runs ahead of readers. Its threads end with it.
pub(crate) struct ReadAhead {
    context: Arc<ReadAheadContext>,
    pool: ReadAheadPool,
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadAhead").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl ReadAhead {
    /// Decodes ahead only. `frames` is the size of the frame cache in bytes: a quarter of it is used. Errors: threads
    /// cannot be started.
    pub(crate) fn new(below: Arc<NodeFinder>, frames: u64) -> Result<Self> {
        Self::start(below, frames, false)
    }

    /// Also gives bytes to the kernel, once it is [connected](ReadAhead::connect).
    pub(crate) fn giving(below: Arc<NodeFinder>, frames: u64) -> Result<Self> {
        Self::start(below, frames, true)
    }

    fn start(below: Arc<NodeFinder>, frames: u64, gives: bool) -> Result<Self> {
        let costs = below.trees().chunks().repo().storage().costs();
        let high_latency = costs.high_latency();
        let cores = crate::sys::process::cores();
        let limits = LaneLimits::new(cores, high_latency.then_some(costs.concurrency), gives);
        let piece = if high_latency { FAR_PIECE } else { PIECE };
        let readers = ReaderState {
            streams: Mutex::new(ReaderStreams::new(ReadAheadBudget::new(frames), piece)),
            directories: Mutex::default(),
            random: Mutex::default(),
        };
        let context = Arc::new(ReadAheadContext { below, readers, kernel: OnceLock::new(), high_latency });
        let pool = ReadAheadPool::start(&context, limits)?;
        Ok(ReadAhead { context, pool })
    }

    /// Says how to put bytes of a file into the kernel's page cache. Until then nothing is given.
    pub(crate) fn connect(&self, store: Box<PageCacheStore>) {
        let _ = self.context.kernel.set(store);
    }

    fn is_connected(&self) -> bool {
        self.context.kernel.get().is_some()
    }

    /// Notes a read that begins.
    pub(crate) fn reading(&self, read: &FileRead<'_>) {
        let Kind::File(content) = &read.found.node().kind else { return };
        let ino = read.ino.filter(|_| self.is_connected());
        let (position, (offset, size)) = (read.position, read.range);
        let file = if matches!(content, Content::Inline(_)) { None } else { Some(content.size()) };
        let of = StreamRead { tree: read.tree.base, gives: ino.is_some(), is_image: false, position, file, offset, size };
        let mut copy: Option<Arc<Content>> = None;
        let mut take = |stream, range| {
            let Some(ino) = ino else { return false };
            let source = PieceSource::File(copy.get_or_insert_with(|| Arc::new(content.clone())).clone());
            self.pool.queue().put(ReadAheadJob::Piece(ReadAheadPiece { stream, position, ino, source, range }))
        };
        let plan = self.context.readers.streams.lock().read(&of, Instant::now(), &mut take);
        if let (true, Some(dir), Some(number)) = (plan.small_files && ino.is_some(), &read.found.parent, read.found.number()) {
            self.small_files(dir, Some(number));
        }
        if let Some(stream) = plan.walk
            && !self.pool.queue().put(ReadAheadJob::Walk(stream, read.tree.clone()))
        {
            self.context.readers.streams.lock().walked(stream, None);
        }
    }

    /// Notes a read of an image that begins; whether what its reader wants next is given to the kernel.
    pub(crate) fn reading_image(&self, read: &ImageRead<'_>) -> bool {
        if !self.is_connected() {
            return false;
        }
        let (ino, (offset, size)) = (read.ino, read.range);
        // No tree has the number of an image's inode.
        let of = StreamRead { tree: ino, gives: true, is_image: true, position: 0, file: Some(read.len), offset, size };
        let mut take = |stream, range| {
            let source = PieceSource::Image(read.data.clone());
            self.pool.queue().put(ReadAheadJob::Piece(ReadAheadPiece { stream, position: 0, ino, source, range }))
        };
        self.context.readers.streams.lock().read(&of, Instant::now(), &mut take).gives
    }

    /// Notes that a read, offset and bytes, of the file that the kernel knows as `ino` was answered.
    pub(crate) fn answered(&self, ino: u64, content: &Content, (offset, size): (u64, u64)) {
        if self.is_connected() && random::is_random(content, size) {
            let content = Arc::new(content.clone());
            // Refused: the reader is quicker than this, and need not wait.
            self.pool.queue().put(ReadAheadJob::Around(FilePlace { ino, content, offset }));
        }
    }

    /// Notes that a directory was listed to its end: a reader who goes from file to file will read what is in it.
    pub(crate) fn listed(&self, dir: &SnapshotDir) {
        let streams = &self.context.readers.streams;
        if self.is_connected() && streams.lock().goes_across(dir.tree.base, Instant::now()) {
            self.small_files(dir, None);
        }
    }

    fn small_files(&self, dir: &SnapshotDir, asked: Option<u64>) {
        let directories = &self.context.readers.directories;
        let begins = directories.lock().go_on(dir.ino(), asked);
        if begins && !self.pool.queue().put(ReadAheadJob::SmallFiles(dir.clone())) {
            directories.lock().ended(dir.ino());
        }
    }
}
