//! The jobs of giving: bytes are read, verified like what is asked for, and put into the kernel's page cache
//! (`FUSE_NOTIFY_STORE`).
//!
//! What cannot be read is not given, and the reader who asks meets the error.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::model::{Content, Item, Kind};
use crate::repo::pack::run::FrameRun;
use crate::vfs::below::{NodeFinder, SnapshotDir};
use crate::vfs::readahead::random::{self, FilePlace};
use crate::vfs::readahead::small_files::{self, SmallFileBatch};
use crate::vfs::readahead::{PAGE, PIECE, ReaderState};

/// Puts bytes of an inode, from an offset on, into the kernel's page cache.
pub(crate) type PageCacheStore = dyn Fn(u64, u64, &[u8]) -> io::Result<()> + Send + Sync;

/// The data of the image of a tree: many files, one behind the other, which the kernel reads as one.
pub(crate) trait ImageData: std::fmt::Debug + Send + Sync {
    /// Reads up to `size` bytes from `offset` on into `out` (replaced).
    fn read(&self, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<()>;

    /// Visits what files have in a range of the image, in order.
    fn items(&self, range: &Range<u64>, visit: &mut dyn FnMut(&Item) -> Result<()>) -> Result<()>;
}

/// Where the bytes of a piece come from.
#[derive(Debug, Clone)]
pub(super) enum PieceSource {
    /// A file.
    File(Arc<Content>),
    /// The image of a tree.
    Image(Arc<dyn ImageData>),
}

impl PieceSource {
    fn read(&self, below: &NodeFinder, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        match self {
            PieceSource::File(content) => below.trees().read(content, offset, size, out),
            PieceSource::Image(image) => image.read(offset, size, out),
        }
    }

    fn items(&self, below: &NodeFinder, range: &Range<u64>, visit: &mut dyn FnMut(&Item) -> Result<()>) -> Result<()> {
        match self {
            PieceSource::File(content) => below.trees().items(content, range.start, &mut |start, item| {
                visit(item)?;
                Ok(start + item.len() < range.end)
            }),
            PieceSource::Image(image) => image.items(range, visit),
        }
    }
}

/// A piece of a long file that is to be given, and whose reader wants it.
#[derive(Debug)]
pub(super) struct ReadAheadPiece {
    /// The number of the reader's stream.
    pub(crate) stream: u64,
    /// The file: its position in the tree, the inode number that the kernel knows, and its content.
    pub(crate) position: u64,
    pub(crate) ino: u64,
    pub(crate) source: PieceSource,
    pub(crate) range: Range<u64>,
}

/// What giving needs: where bytes come from, where they go, what readers have done meanwhile, and a buffer.
pub(super) struct Giver<'a> {
    pub(crate) below: &'a NodeFinder,
    pub(crate) store: &'a PageCacheStore,
    pub(crate) readers: &'a ReaderState,
    pub(crate) bytes: &'a mut Vec<u8>,
}

impl Giver<'_> {
    /// Gives a piece of a long file, without what its reader has overtaken.
    pub(super) fn piece(&mut self, piece: &ReadAheadPiece) -> Result<()> {
        let Range { start, end } = piece.range;
        let readers = self.readers;
        let has_passed = |end: u64| readers.streams.lock().has_passed(piece.stream, piece.position, end);
        if !has_passed(end) {
            load(self.below, piece)?;
        }
        for from in (start..end).step_by(PIECE as usize) {
            let to = (from + PIECE).min(end);
            if !has_passed(to) {
                piece.source.read(self.below, from, (to - from) as usize, self.bytes)?;
                let _ = (self.store)(piece.ino, from, self.bytes);
            }
        }
        Ok(())
    }

    /// Gives the small files of a directory that come after its reader, who may be going on meanwhile, until there were
    /// enough or `stop` says so. The first sign that the kernel does not want them ends it.
    pub(super) fn small_files(&mut self, dir: &SnapshotDir, stop: impl Fn() -> bool) -> Result<()> {
        let (trees, ino) = (self.below.trees(), dir.ino());
        let Some(start) = self.readers.directories.lock().start(ino) else { return Ok(()) };
        let mut batch = SmallFileBatch::default();
        let mut next = trees.entry_number(&dir.directory, start)?;
        while let (Some(entry), true) = (next, batch.has_room() && !stop()) {
            let node = entry.node();
            if let Kind::File(file) = &node.kind
                && small_files::is_small(file, node.link.is_some())
                && !self.readers.directories.lock().has_passed(ino, entry.number)
            {
                trees.read(file, 0, file.size() as usize, self.bytes)?;
                if (self.store)(ino + entry.offset, 0, self.bytes).is_err() {
                    break;
                }
                batch.add(file.size());
            }
            self.readers.directories.lock().gave(ino, entry.number);
            next = trees.next(&dir.directory, &entry)?;
        }
        Ok(())
    }

    /// Gives what shares the frame at a place of a file, if that frame is decoded.
    pub(super) fn around(&mut self, place: &FilePlace) -> Result<()> {
        let range = same_frame(self.below, &place.content, place.offset)?;
        let size = place.content.size();
        let from = range.start.next_multiple_of(PAGE);
        let to = if range.end >= size { size } else { range.end / PAGE * PAGE };
        if from < to {
            self.below.trees().read(&place.content, from, (to - from) as usize, self.bytes)?;
            let _ = (self.store)(place.ino, from, self.bytes);
        }
        self.readers.random.lock().gave(place.ino, &range);
        Ok(())
    }

    /// Gives the frame at a place that nobody has asked for.
    pub(super) fn place(&mut self, place: &FilePlace) -> Result<()> {
        self.below.trees().read(&place.content, place.offset, 1, self.bytes)?;
        self.around(place)
    }
}

/// Has what a piece needs read with few requests, on high-latency storage.
fn load(below: &NodeFinder, piece: &ReadAheadPiece) -> Result<()> {
    let chunks = below.trees().chunks();
    let most = chunks.repo().storage().costs().worth_one_read;
    if most == 0 {
        return Ok(());
    }
    let (index, mut run) = (chunks.index(), FrameRun::new(most));
    let (mut last, mut runs) = (None, Vec::new());
    piece.source.items(below, &piece.range, &mut |item| {
        if let Item::Chunk { id, .. } = item
            && let Some(location) = index.find(PackKind::Data, &id.key())?
            && last.replace(index.frame_key(&location)) != Some(index.frame_key(&location))
        {
            runs.push(run.add(index.frame(&location)?));
        }
        Ok(())
    })?;
    runs.push(run.take());
    runs.iter().filter(|frames| !frames.is_empty()).for_each(|frames| chunks.load(frames));
    Ok(())
}

/// The range around `offset` whose chunks lie in one frame with the chunk there, if that frame is decoded; else empty.
fn same_frame(below: &NodeFinder, content: &Content, offset: u64) -> Result<Range<u64>> {
    let chunks = below.trees().chunks();
    let index = chunks.index();
    let mut pieces = Vec::new();
    let (first, last) = (offset.saturating_sub(random::REACH), offset.saturating_add(random::REACH));
    below.trees().items(content, first, &mut |start, item| {
        let frame = match item {
            Item::Chunk { id, .. } => index.find(PackKind::Data, &id.key())?.map(|location| index.frame_key(&location)),
            Item::Hole { .. } => None,
        };
        pieces.push((start, start + item.len(), frame));
        Ok(start + item.len() < last)
    })?;
    Ok(random::frame_around(&pieces, offset, |frame| chunks.has_frame(frame)))
}
