//! Chunks that are stored as differences from what is to go are stored again by themselves.
//!
//! A difference needs its bases for as long as it stays. So a secret that a snapshot lost would stay in the repository,
//! as the base of a later version of the same file or page. Prune prefers a copy that needs nothing, and then lets the
//! difference and its bases go.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::copy::packing;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::ingest::others::Others;
use crate::ingest::sink::{self, Sink};
use crate::model::{ChunkId, ChunkKey, Snapshot, SnapshotId};
use crate::observe::Event;
use crate::repo::bits::EntryBits;
use crate::repo::index::known;
use crate::repo::index::{ChunkLocation, Index, missing_chunk};
use crate::repo::pack::PlainFrame;
use crate::repo::reader::ChunkReader;
use crate::repo::tree::walk::{TreePage, Visitor, walk};
use crate::repo::{Repository, session, snapshots, work};
use crate::task::Task;

/// Decoded frames that are kept.
const FRAMES: u64 = 32 << 20;
/// A frame is closed when it has this many bytes.
const FRAME: usize = 512 << 10;

/// Stores chunks that other snapshots need by themselves, where they are differences from what only `going` need. Answers
/// how many. Errors: a snapshot cannot be read.
pub fn untie(repo: &Arc<Repository>, going: &HashSet<SnapshotId>, task: &Task<'_>) -> Result<u64> {
    work::uncommitted(repo, &|| task.now(), |id| in_session(repo, id, going, task))?.ok_or_else(|| {
        let text = "a prune came in between, and may have deleted what was stored by itself: run it again";
        Error::new(ErrorKind::Busy, text)
    })
}

fn in_session(repo: &Arc<Repository>, id: SnapshotId, going: &HashSet<SnapshotId>, task: &Task<'_>) -> Result<u64> {
    let all = snapshots::list(repo)?;
    let index = Arc::new(Index::load_for_writing(repo)?);
    let reader = ChunkReader::new(repo.clone(), index.clone(), FRAMES)?;
    let marks = |of: &dyn Fn(&Snapshot) -> bool| -> Result<EntryBits> {
        let mut marked =
            NamedChunks { index: &index, named: EntryBits::new(&index), walked: EntryBits::new(&index), task, pages: 0 };
        all.iter().filter(|snapshot| of(snapshot)).try_for_each(|snapshot| walk(&reader, snapshot, &mut marked))?;
        Ok(marked.named)
    };
    let live = marks(&|snapshot| !going.contains(&snapshot.id))?;
    let gone = marks(&|snapshot| going.contains(&snapshot.id))?;
    let others = session::others(repo, id)?;
    let beside = Mutex::new(Others::new(id, index.clone(), others, Arc::default()));
    let (count, _) = packing::packed_frames(repo, id, &beside, |sink, indexed| {
        let mut frames =
            PlainFrames { repo, reader: &reader, sink, open: Default::default(), done: EntryBits::new(&index), count: 0 };
        for segment in 0..index.segments().len() {
            index.scan(segment, &mut |location, key, pack| {
                let bases = if live.get(location.entry()) { index.frame(&location)?.info.bases } else { Vec::new() };
                let goes = |base: &ChunkKey| -> Result<bool> {
                    let places = index.find_all(pack.kind, base)?;
                    let any = |bits: &EntryBits| places.iter().any(|place| bits.get(place.entry()));
                    Ok(any(&gone) && !any(&live))
                };
                for base in &bases {
                    if goes(base)? {
                        return frames.take(&index, pack.kind, (&location, key));
                    }
                }
                Ok(())
            })?;
            if task.is_stopped() {
                return Err(sink::stopped());
            }
        }
        // Nobody waits for what was indexed, but the storer says it.
        drop(indexed);
        frames.finish()
    })?;
    repo.storage().sync()?;
    Ok(count)
}

/// Puts chunks into frames without bases.
struct PlainFrames<'a> {
    repo: &'a Repository,
    reader: &'a ChunkReader,
    sink: Sink<'a>,
    /// Of data, and of trees.
    open: [PlainFrame; 2],
    /// Chunks that were stored, at the first of their places.
    done: EntryBits,
    count: u64,
}

impl PlainFrames<'_> {
    fn take(&mut self, index: &Index, kind: PackKind, (location, key): (&ChunkLocation, &ChunkKey)) -> Result<()> {
        let first = index.find_all(kind, key)?.first().map_or(location.entry(), ChunkLocation::entry);
        if known::plain(index, kind, key)?.is_some() || self.done.set(first) {
            return Ok(());
        }
        let found = index.frame(location)?;
        let frame = self.reader.frame(&found)?;
        // Keys that only write make no differences; what is of them stays in packs of their own.
        if self.reader.writer_of(&found)?.is_some() {
            return Ok(());
        }
        let from = location.offset as usize;
        let lost = || Error::new(ErrorKind::Corrupt, format!("chunk {}… has other bytes than its name says", key.short()));
        let bytes = frame.plain.get(from..from + location.len as usize).ok_or_else(lost)?;
        let id: ChunkId = self.repo.keys().chunk_id(kind, bytes);
        if id.key() != *key {
            return Err(lost());
        }
        let at = usize::from(kind == PackKind::Tree);
        self.open[at].bytes.extend_from_slice(bytes);
        self.open[at].chunks.push((id, location.len));
        self.count += 1;
        match self.open[at].bytes.len() >= FRAME {
            true => self.sink.submit(kind, std::mem::take(&mut self.open[at])),
            false => Ok(()),
        }
    }

    fn finish(mut self) -> Result<u64> {
        for (kind, frame) in [PackKind::Data, PackKind::Tree].into_iter().zip(self.open) {
            if !frame.chunks.is_empty() {
                self.sink.submit(kind, frame)?;
            }
        }
        self.sink.finish()?;
        Ok(self.count)
    }
}

/// Marks what snapshots name, at all of its places.
struct NamedChunks<'a> {
    index: &'a Index,
    named: EntryBits,
    walked: EntryBits,
    task: &'a Task<'a>,
    pages: u64,
}

impl NamedChunks<'_> {
    fn mark(&mut self, kind: PackKind, id: &ChunkId) -> Result<Vec<ChunkLocation>> {
        let places = self.index.find_all(kind, &id.key())?;
        for place in &places {
            self.named.set(place.entry());
        }
        if places.is_empty() { Err(missing_chunk(id)) } else { Ok(places) }
    }
}

impl Visitor for NamedChunks<'_> {
    fn page(&mut self, page: &TreePage) -> Result<bool> {
        if self.task.is_stopped() {
            return Err(sink::stopped());
        }
        let places = self.mark(PackKind::Tree, &page.id)?;
        let mut new = true;
        for place in &places {
            new &= !self.walked.set(place.entry());
        }
        Ok(new)
    }

    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        self.mark(kind, id).map(drop)
    }

    fn read(&mut self, bytes: u64) {
        self.pages += 1;
        let entries = self.pages;
        self.task.observer.event(&Event::Progress { entries, bytes, total_entries: 0, total_bytes: 0, unit: "pages" });
    }
}
