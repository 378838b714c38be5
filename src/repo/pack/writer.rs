//! Putting sealed frames together to packs, storing these, and writing the segments that name them.
//! Ingest and repack both write this way. How a frame is sealed, and on which thread, is theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::model::{SegmentId, SnapshotId, WriterId};
use crate::repo::Repository;
use crate::repo::index::segment::Segment;
use crate::repo::pack::{self, PackKey, SealedFrame, StoredPack};

/// Bytes of frames from which on a pack is closed: an object that storages take in one request, and
/// few enough names for a directory.
pub(crate) const PACK_TARGET: u64 = 16 << 20;
/// Packs from which on a segment is written that names them. When a writer is killed, the packs
/// after its last segment are lost.
pub(crate) const PACKS_A_SEGMENT: usize = 16;

/// A pack under construction. Its frames are numbered before they are sealed, and may come in any
/// order and from any thread.
#[derive(Debug)]
pub(crate) struct PackBuild {
    key: PackKey,
    /// Sealed bytes so far.
    bytes: AtomicU64,
    state: Mutex<BuildState>,
}

#[derive(Debug, Default)]
struct BuildState {
    frames: Vec<Option<SealedFrame>>,
    done: usize,
    /// How many frames there will be, once the pack is closed.
    total: Option<usize>,
}

impl PackBuild {
    /// The key that its frames are sealed with.
    pub(crate) fn key(&self) -> &PackKey {
        &self.key
    }

    /// Bytes of the frames that are sealed so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds a sealed frame. True: the pack is closed, and this was its last frame.
    pub(crate) fn add(&self, number: u32, frame: SealedFrame) -> bool {
        self.bytes.fetch_add(frame.bytes.len() as u64, Ordering::Relaxed);
        let mut state = self.state.lock();
        let at = number as usize;
        if state.frames.len() <= at {
            state.frames.resize_with(at + 1, || None);
        }
        state.frames[at] = Some(frame);
        state.done += 1;
        state.total == Some(state.done)
    }

    /// Says that there will be no more than `total` frames. True: all of them are there.
    fn close(&self, total: u32) -> bool {
        let mut state = self.state.lock();
        state.total = Some(total as usize);
        state.done == total as usize
    }

    /// Stores the pack, which must be complete; its frames are gone from here then.
    pub(crate) fn store(&self, repo: &Repository) -> Result<StoredPack> {
        let frames = std::mem::take(&mut self.state.lock().frames);
        let frames: Option<Vec<SealedFrame>> = frames.into_iter().collect();
        let frames = frames.ok_or_else(|| Error::corrupt("a pack lacks a frame that it was given"))?;
        pack::store(repo, &self.key, frames)
    }
}

/// The open pack of each kind of one session.
#[derive(Debug)]
pub(crate) struct OpenPacks<'a> {
    repo: &'a Repository,
    session: SnapshotId,
    writer: Option<WriterId>,
    open: [Option<OpenPack>; 2],
}

/// A pack that takes more frames.
#[derive(Debug)]
pub(crate) struct OpenPack {
    /// The pack.
    pub(crate) build: Arc<PackBuild>,
    /// The number of its next frame: who uses it counts on.
    pub(crate) next: u32,
}

impl<'a> OpenPacks<'a> {
    /// No packs yet, for `session`.
    pub(crate) fn new(repo: &'a Repository, session: SnapshotId) -> Self {
        OpenPacks { repo, session, writer: None, open: [None, None] }
    }

    /// The same for what is of a writer whose key only writes.
    pub(crate) fn of_writer(self, writer: Option<WriterId>) -> Self {
        OpenPacks { writer, ..self }
    }

    /// The open pack of a kind; begins one if there is none.
    pub(crate) fn of(&mut self, kind: PackKind) -> Result<&mut OpenPack> {
        let place = &mut self.open[kind as usize - 1];
        match place {
            Some(open) => Ok(open),
            None => {
                let key = PackKey::generate_of(self.repo, kind, self.session, self.writer)?;
                let build = Arc::new(PackBuild { key, bytes: AtomicU64::new(0), state: Mutex::default() });
                Ok(place.insert(OpenPack { build, next: 0 }))
            }
        }
    }

    /// Closes the open pack of a kind, if there is one. It is given back when all of its frames are
    /// there; otherwise [`PackBuild::add`] says which one is the last.
    pub(crate) fn close(&mut self, kind: PackKind) -> Option<Arc<PackBuild>> {
        let OpenPack { build, next } = self.open[kind as usize - 1].take()?;
        build.close(next).then_some(build)
    }
}

/// What was written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrittenPacks {
    /// Packs.
    pub(crate) packs: u64,
    /// Bytes of packs and segments.
    pub(crate) bytes: u64,
}

/// Names stored packs in segments: a pack counts for nothing before it is in one.
#[derive(Debug)]
pub(crate) struct PackIndexer<'a> {
    repo: &'a Repository,
    waiting: Vec<StoredPack>,
    /// Chunks of the packs that wait.
    chunks: usize,
    written: WrittenPacks,
}

impl<'a> PackIndexer<'a> {
    /// No packs yet.
    pub(crate) fn new(repo: &'a Repository) -> Self {
        PackIndexer { repo, waiting: Vec::new(), chunks: 0, written: WrittenPacks::default() }
    }

    /// Notes a pack that was stored. It waits for a segment.
    pub(crate) fn add(&mut self, pack: StoredPack) {
        self.written.packs += 1;
        self.written.bytes += pack.size;
        self.chunks += pack.entries.iter().map(|entry| entry.chunks.len()).sum::<usize>();
        self.waiting.push(pack);
    }

    /// How many packs wait for a segment, and how many chunks are in them.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.chunks)
    }

    /// Writes the segment of the packs that wait, with a barrier before it and one after it: an
    /// index never names what may not be there after a crash. Gives the segment's name and size, and
    /// the packs; `None` when none wait.
    pub(crate) fn write_segment(&mut self) -> Result<Option<(SegmentId, u64, Vec<StoredPack>)>> {
        if self.waiting.is_empty() {
            return Ok(None);
        }
        self.repo.storage().sync()?;
        let (id, size) = Segment::of_packs(&self.waiting).store(self.repo, Vec::new())?;
        self.repo.storage().sync()?;
        self.written.bytes += size;
        self.chunks = 0;
        Ok(Some((id, size, std::mem::take(&mut self.waiting))))
    }

    /// What was written so far.
    pub(crate) fn written(&self) -> WrittenPacks {
        self.written
    }
}
