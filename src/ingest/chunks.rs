//! New chunks into frames: which are known, and what is gathered with what.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use crate::chunk::keys::Keys;
use crate::error::Result;
use crate::format::pack::PackKind;
use crate::ingest::read::{BATCH, Cut};
use crate::ingest::sink::Sink;
use crate::model::{ChunkId, ChunkKey};
use crate::repo::index::Index;
use crate::repo::pack::PlainFrame;
use crate::repo::tree_writer::PageSink;

/// A frame of chunks of one big file is closed when it has this many bytes: random reads decode little, and zstd has
/// most of what it can use.
const BIG_FRAME: usize = 128 << 10;
/// A batch of small files with at least this many bytes, all new, becomes a frame as it is, without a copy.
const WHOLE_BATCH: usize = 384 << 10;

/// Keys are the output of a keyed hash: their own first bytes are as good a hash as any.
#[derive(Debug, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length of the array, which is always the same.
    fn write_usize(&mut self, _: usize) {}
}

/// Gathers new chunks into frames and gives them to the sink.
#[derive(Debug)]
pub struct Chunks<'a> {
    keys: &'a Keys,
    index: &'a Index,
    /// Chunks that this ingest has stored, or is about to.
    stored: HashSet<ChunkKey, BuildHasherDefault<KeyHasher>>,
    /// `None` for a dry run: frames are counted and dropped.
    sink: Option<Sink<'a>>,
    small: PlainFrame,
    big: PlainFrame,
    tree: PlainFrame,
    /// Plain bytes of new data chunks.
    pub bytes_new: u64,
}

impl<'a> Chunks<'a> {
    /// Gathers for `sink`.
    pub fn new(keys: &'a Keys, index: &'a Index, sink: Option<Sink<'a>>) -> Self {
        Chunks {
            keys,
            index,
            stored: HashSet::default(),
            sink,
            small: PlainFrame::default(),
            big: PlainFrame::default(),
            tree: PlainFrame::default(),
            bytes_new: 0,
        }
    }

    /// Whether this chunk must be stored; from now on it counts as known.
    fn is_new(&mut self, kind: PackKind, id: &ChunkId) -> bool {
        let key = id.key();
        self.index.find(kind, &key).is_none() && self.stored.insert(key)
    }

    fn submit(&mut self, kind: PackKind, frame: PlainFrame) -> Result<()> {
        match &mut self.sink {
            Some(sink) if !frame.chunks.is_empty() => sink.submit(kind, frame),
            _ => Ok(()),
        }
    }

    /// A batch of small files: `cuts` are its chunks, in order. When all of it is new the buffer itself is the frame.
    pub fn batch(&mut self, bytes: Vec<u8>, cuts: &[Cut]) -> Result<()> {
        let new: Vec<Cut> = cuts.iter().filter(|cut| self.is_new(PackKind::Data, &cut.id)).copied().collect();
        let total: usize = new.iter().map(|cut| cut.len as usize).sum();
        self.bytes_new += total as u64;
        if total == bytes.len() && total >= WHOLE_BATCH {
            let chunks = new.iter().map(|cut| (cut.id, cut.len)).collect();
            return self.submit(PackKind::Data, PlainFrame { bytes, chunks });
        }
        for cut in new {
            push(&mut self.small, &cut.id, &bytes[cut.start as usize..(cut.start + cut.len) as usize]);
            if self.small.bytes.len() >= BATCH as usize {
                let frame = std::mem::take(&mut self.small);
                self.submit(PackKind::Data, frame)?;
            }
        }
        Ok(())
    }

    /// A chunk of a big file.
    pub fn big(&mut self, id: &ChunkId, bytes: &[u8]) -> Result<()> {
        if !self.is_new(PackKind::Data, id) {
            return Ok(());
        }
        self.bytes_new += bytes.len() as u64;
        push(&mut self.big, id, bytes);
        if self.big.bytes.len() >= BIG_FRAME { self.end_big() } else { Ok(()) }
    }

    /// A big file ends: its last frame is not shared with another file's first.
    pub fn end_big(&mut self) -> Result<()> {
        let frame = std::mem::take(&mut self.big);
        self.submit(PackKind::Data, frame)
    }

    /// Gives the last frames away and closes the packs.
    pub fn finish(mut self) -> Result<u64> {
        for (kind, frame) in [(PackKind::Data, std::mem::take(&mut self.small)), (PackKind::Tree, std::mem::take(&mut self.tree))]
        {
            self.submit(kind, frame)?;
        }
        self.end_big()?;
        if let Some(sink) = self.sink {
            sink.finish()?;
        }
        Ok(self.bytes_new)
    }
}

fn push(frame: &mut PlainFrame, id: &ChunkId, bytes: &[u8]) {
    frame.bytes.extend_from_slice(bytes);
    frame.chunks.push((*id, bytes.len() as u32));
}

impl PageSink for Chunks<'_> {
    fn page(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        let id = self.keys.chunk_id(PackKind::Tree, bytes);
        if self.is_new(PackKind::Tree, &id) {
            push(&mut self.tree, &id, bytes);
            if self.tree.bytes.len() >= BATCH as usize {
                let frame = std::mem::take(&mut self.tree);
                self.submit(PackKind::Tree, frame)?;
            }
        }
        Ok(id)
    }
}
