//! The jobs of read-ahead, and what each does.
//!
//! An error of a job is nobody's: the reader who needs what could not be read meets it again.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::repo::index::FrameRef;
use crate::vfs::below::{NodeFinder, SnapshotDir};
use crate::vfs::readahead::ReaderState;
use crate::vfs::readahead::give::{Giver, PageCacheStore, ReadAheadPiece};
use crate::vfs::readahead::pool::ReadAheadQueue;
use crate::vfs::readahead::random::FilePlace;
use crate::vfs::readahead::walk;
use crate::vfs::root::MountedSnapshot;

/// A job of the pool.
#[derive(Debug)]
pub(super) enum ReadAheadJob {
    /// Walk on from the cursor of the stream with this number.
    Walk(u64, Arc<MountedSnapshot>),
    /// Decode neighbouring frames of one pack into the frame cache.
    Frames(Vec<FrameRef>),
    /// Give the kernel a piece of a long file.
    Piece(ReadAheadPiece),
    /// Give the kernel the small files of a directory that come next.
    SmallFiles(SnapshotDir),
    /// Give the kernel what lies around a random read, and then places of files that are read everywhere.
    Around(FilePlace),
}

/// What the jobs work with.
pub(super) struct ReadAheadContext {
    pub(crate) below: Arc<NodeFinder>,
    /// What is known of readers.
    pub(crate) readers: ReaderState,
    /// How the kernel is given bytes, once that is known.
    pub(crate) kernel: OnceLock<Box<PageCacheStore>>,
    /// As [`Costs::high_latency`](crate::storage::Costs::high_latency) says of the storage.
    pub(crate) high_latency: bool,
}

impl ReadAheadContext {
    /// Does a job. `bytes` is a buffer.
    pub(super) fn run(&self, job: ReadAheadJob, queue: &ReadAheadQueue, bytes: &mut Vec<u8>) {
        match job {
            ReadAheadJob::Walk(stream, tree) => self.walk(stream, &tree, queue),
            ReadAheadJob::Frames(frames) => match &frames[..] {
                [frame] => drop(self.below.trees().chunks().frame(frame)),
                frames => self.below.trees().chunks().load(frames),
            },
            ReadAheadJob::Piece(piece) => drop(self.giver(bytes).map(|mut giver| giver.piece(&piece))),
            ReadAheadJob::SmallFiles(dir) => {
                drop(self.giver(bytes).map(|mut giver| giver.small_files(&dir, || queue.is_closed())));
                self.readers.directories.lock().ended(dir.ino());
            }
            ReadAheadJob::Around(place) => self.around(place, queue, bytes),
        }
    }

    fn giver<'a>(&'a self, bytes: &'a mut Vec<u8>) -> Option<Giver<'a>> {
        let store = &**self.kernel.get()?;
        Some(Giver { below: &self.below, store, readers: &self.readers, bytes })
    }

    fn walk(&self, stream: u64, tree: &Arc<MountedSnapshot>, queue: &ReadAheadQueue) {
        let begun = self.readers.streams.lock().walk(stream, Instant::now());
        let walked = begun.map(|mut begun| {
            walk::walk(&self.below, tree, &mut begun, &mut |frames| queue.put(ReadAheadJob::Frames(frames)));
            begun
        });
        self.readers.streams.lock().walked(stream, walked);
    }

    fn around(&self, place: FilePlace, queue: &ReadAheadQueue, bytes: &mut Vec<u8>) {
        let Some(mut giver) = self.giver(bytes) else { return };
        self.readers.random.lock().read(place.clone());
        let _ = giver.around(&place);
        // Nothing is read from high-latency storage that nobody wants yet.
        while !self.high_latency && !queue.is_closed() && !queue.has_reads() {
            let Some(place) = self.readers.random.lock().next() else { return };
            let _ = giver.place(&place);
        }
    }
}
