//! New chunks into frames: which are known, and what is gathered with what.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::chunk::by_place::SamePlace;
use crate::chunk::keys::Keys;
use crate::error::Result;
use crate::format::pack::{MAX_BASES, MAX_FRAME, MAX_FRAME_CHUNKS, PackKind};
use crate::ingest::follow::Follow;
use crate::ingest::grid;
use crate::ingest::read::{BATCH, Cut};
use crate::ingest::sink::{Indexed, Sink};
use crate::model::{ChunkId, ChunkKey, Content, Item};
use crate::repo::index::known::{self, KnownChunks};
use crate::repo::index::{ChunkLocation, FrameRef, Index};
use crate::repo::pack::PlainFrame;
use crate::repo::tree::TreeReader;

mod only;
mod pages;
mod theirs;

pub(crate) use only::OnlyChunks;

/// A frame of chunks of a huge file is closed when it has this many bytes: random reads decode little, and zstd has
/// most of what it can use.
const HUGE_FRAME: usize = 128 << 10;
/// A file of this many bytes and more is huge: a database, an image. Its frames are not shared with other files.
const HUGE: u64 = 32 << 20;
/// A frame of chunks of a long file: a log segment, a small database, of which the cache of a mount can hold all.
const LONG_FRAME: usize = 512 << 10;
/// A file of this many bytes and more is long.
const LONG: u64 = 8 << 20;
/// A frame of chunks of other big files: they are mostly read whole.
const BIG_FRAME: usize = 1536 << 10;
/// A frame that has a previous version is closed when it has this many bytes: with the bases it is as
/// much as the compressor's tables can hold.
const DELTA_FRAME: usize = 512 << 10;
/// The most bytes that a frame of tree pages may be a difference from.
const TREE_PREFIX: usize = 256 << 10;
/// A batch of small files with at least this many bytes, all new, becomes a frame as it is, without a copy.
const WHOLE_BATCH: usize = 1 << 20;
/// The most bytes that a frame may be a difference from.
const PREFIX: usize = 1 << 20;
/// How far around its own range a part of a file looks for its previous version: insertions move what follows.
const WIDEN: u64 = 4 << 10;
/// How far from its place among the bases of a difference a chunk looks for its own: in any case, and where there is room.
const NEAR: u64 = 8 << 10;
const ASIDE: u64 = 128 << 10;

/// Keys are the output of a keyed hash: their own first bytes are as good a hash as any.
#[derive(Debug, Default)]
pub(crate) struct KeyHasher(u64);

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

/// Where frames of a file of this many bytes end.
fn frame_of(size: u64) -> usize {
    match size {
        HUGE.. => HUGE_FRAME,
        LONG.. => LONG_FRAME,
        _ => BIG_FRAME,
    }
}

/// A frame that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    frame: PlainFrame,
    /// Bytes of its bases, and where each of them begins there.
    prefix: usize,
    bases: HashMap<ChunkKey, u32, BuildHasherDefault<KeyHasher>>,
    /// More bases, should there be room when the frame is closed.
    spare: Vec<(ChunkKey, u32)>,
    /// It is of tree pages: with few bases.
    is_tree: bool,
}

impl Gathered {
    /// For tree pages.
    fn tree() -> Self {
        Gathered { is_tree: true, ..Gathered::default() }
    }

    /// The most bytes of its bases.
    fn most(&self) -> usize {
        if self.is_tree { TREE_PREFIX } else { PREFIX }
    }

    fn push(&mut self, id: &ChunkId, bytes: &[u8]) {
        self.frame.bytes.extend_from_slice(bytes);
        self.frame.chunks.push((*id, bytes.len() as u32));
    }

    fn len(&self) -> usize {
        self.frame.bytes.len()
    }

    /// Whether a frame with `more` bytes more is one that a reader takes.
    fn has_room(&self, more: usize) -> bool {
        self.len() + more <= MAX_FRAME && self.frame.chunks.len() < MAX_FRAME_CHUNKS
    }

    /// Adds a base, while there is room: differences from more than this are not smaller. Returns where it begins among the
    /// bases' bytes, if it is there.
    fn base(&mut self, key: ChunkKey, len: u32) -> Option<u32> {
        if let Some(at) = self.bases.get(&key) {
            return Some(*at);
        }
        if self.prefix + len as usize > self.most() || self.frame.bases.len() >= MAX_BASES {
            return None;
        }
        let at = self.prefix as u32;
        self.bases.insert(key, at);
        self.prefix += len as usize;
        self.frame.bases.push(key);
        Some(at)
    }

    /// The last `len` bytes are the next version of the bases' bytes from `base` on.
    fn same_place(&mut self, len: u32, base: u32) {
        if let Some(at) = self.len().checked_sub(len as usize) {
            self.frame.same.push(SamePlace { at: at as u32, len, base });
        }
    }

    fn spare(&mut self, key: ChunkKey, len: u32) {
        // Those of a page are the pages at its place. More would have to be read for each page that is.
        if !self.is_tree && self.spare.len() < MAX_BASES && !self.bases.contains_key(&key) {
            self.spare.push((key, len));
        }
    }

    /// The frame as it is stored.
    fn close(mut self) -> PlainFrame {
        for (key, len) in std::mem::take(&mut self.spare) {
            let _ = self.base(key, len);
        }
        self.frame
    }
}

/// The bases of a frame that is a difference, for what would be a difference from that.
#[derive(Debug)]
struct BorrowedBases {
    frame: (u32, u32),
    /// Each with its length, in the frame's order.
    bases: Vec<(ChunkKey, u32)>,
    bytes: u64,
}

impl BorrowedBases {
    fn of(index: &Index, number: (u32, u32), frame: &FrameRef) -> Result<BorrowedBases> {
        let mut bases = Vec::with_capacity(frame.info.bases.len());
        for key in &frame.info.bases {
            if let Some(location) = known::plain(index, frame.pack.kind, key)? {
                bases.push((*key, location.len));
            }
        }
        let bytes = bases.iter().map(|(_, len)| u64::from(*len)).sum();
        Ok(BorrowedBases { frame: number, bases, bytes })
    }

    /// The one at exactly the place of a chunk, where each chunk of the frame has one of its own length in order: fields
    /// of the grid.
    fn same_place(&self, (offset, len): (u32, u32), plain: u32) -> Option<(ChunkKey, u32)> {
        let mut at = 0;
        let mut bases = self.bases.iter().filter(|_| self.bytes == u64::from(plain));
        bases
            .find(|(_, of)| {
                let begin = at;
                at += of;
                (begin, *of) == (offset, len)
            })
            .copied()
    }

    /// Adds those at about the same place among the bases as `chunk` has among the `plain` bytes of the frame, since both
    /// are in the order of the walk; and those around it, should there be room in the end. All of them at once would
    /// leave none for others.
    fn around(&self, chunk: &ChunkLocation, plain: u32, into: &mut Gathered) {
        let scaled = |at: u32| u64::from(at) * self.bytes / u64::from(plain.max(1));
        let (from, to) = (scaled(chunk.offset), scaled(chunk.offset + chunk.len));
        let mut at = 0;
        for (key, len) in &self.bases {
            let end = at + u64::from(*len);
            let within = |aside: u64| at < to + aside && end > from.saturating_sub(aside);
            match (within(NEAR), within(ASIDE)) {
                (true, _) => drop(into.base(*key, *len)),
                (_, true) => into.spare(*key, *len),
                _ => {}
            }
            at = end;
        }
    }
}

/// A part of a file, with the previous version of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Previous<'a> {
    /// The previous version.
    pub(crate) content: &'a Content,
    /// Where the part begins in the file.
    pub(crate) offset: u64,
}

/// A small file of a batch, as it is stored.
#[derive(Debug)]
pub(crate) struct BatchFile {
    /// Its chunks in the batch's buffer.
    pub(crate) cuts: Vec<Cut>,
    /// Where it begins there.
    pub(crate) start: usize,
    /// Its previous version.
    pub(crate) base: Option<Content>,
}

/// Gathers new chunks into frames and gives them to the sink.
#[derive(Debug)]
pub(crate) struct FrameBuilder<'a> {
    keys: &'a Keys,
    /// The index as it was at first: of what the parent has, and what frames may be differences from.
    index: &'a Index,
    /// The index as it was when others had last added to it.
    fresh: Option<Arc<Index>>,
    known: KnownChunks,
    /// Reads the recipes of previous versions.
    trees: Option<Arc<TreeReader>>,
    /// Chunks that this ingest is about to store, and those that no segment has yet.
    stored: HashSet<ChunkKey, BuildHasherDefault<KeyHasher>>,
    /// Chunks that this ingest has stored and indexed.
    own: Index,
    /// Tells what goes from the one to the other.
    indexed: Receiver<Indexed>,
    /// Another writer of the same tree that this one lets go ahead.
    follow: Follow<'a>,
    /// `None` for a dry run: frames are counted and dropped.
    sink: Option<Sink<'a>>,
    small: Gathered,
    big: Gathered,
    /// Where the frames of the file at hand end.
    big_frame: usize,
    tree: Gathered,
    /// The frame whose bases were used last.
    lent: Option<BorrowedBases>,
    /// If there are any, nothing else is stored.
    only: Option<Arc<OnlyChunks>>,
    /// Plain bytes of new data chunks.
    pub(crate) bytes_new: u64,
}

impl<'a> FrameBuilder<'a> {
    /// Gathers for `sink`; `trees` reads the parent.
    pub(crate) fn new(
        keys: &'a Keys,
        index: &'a Index,
        trees: Option<Arc<TreeReader>>,
        sink: Option<Sink<'a>>,
        indexed: Receiver<Indexed>,
        follow: Follow<'a>,
    ) -> Self {
        FrameBuilder {
            keys,
            index,
            fresh: None,
            known: KnownChunks::default(),
            trees,
            stored: HashSet::default(),
            own: index.of_session(),
            indexed,
            follow,
            sink,
            small: Gathered::default(),
            big: Gathered::default(),
            big_frame: BIG_FRAME,
            tree: Gathered::tree(),
            lent: None,
            only: None,
            bytes_new: 0,
        }
    }

    /// The same, and nothing else than these chunks is stored.
    pub(crate) fn only(self, only: Option<Arc<OnlyChunks>>) -> Self {
        FrameBuilder { only, ..self }
    }

    /// Whether this chunk must be stored; from now on it counts as known.
    fn is_new(&mut self, kind: PackKind, id: &ChunkId) -> Result<bool> {
        let key = id.key();
        if self.only.as_ref().is_some_and(|only| !only.meet(kind, &key)) {
            return Ok(false);
        }
        let index = self.fresh.as_deref().unwrap_or(self.index);
        if self.stored.contains(&key) || self.known.find(index, kind, &key)?.is_some() || self.own.find(kind, &key)?.is_some() {
            return Ok(false);
        }
        Ok(self.stored.insert(key))
    }

    fn submit(&mut self, kind: PackKind, mut gathered: Gathered) -> Result<()> {
        for Indexed { segments, keys, fresh, ahead } in self.indexed.try_iter() {
            self.own.set_session(segments);
            // What was waited for may be newer.
            if let Some(fresh) = fresh
                && self.fresh.as_ref().is_none_or(|index| index.began() < fresh.began())
            {
                // Places in the one index say nothing of the other.
                (self.fresh, self.known) = (Some(fresh), KnownChunks::default());
            }
            if let Some(ahead) = ahead {
                self.follow.begin(ahead);
            }
            for key in &keys {
                self.stored.remove(key);
            }
        }
        if kind == PackKind::Data && self.follow.is_on() && !gathered.frame.chunks.is_empty() {
            gathered = self.without_theirs(gathered)?;
        }
        match &mut self.sink {
            Some(sink) if !gathered.frame.chunks.is_empty() => sink.submit(kind, gathered.close()),
            _ => Ok(()),
        }
    }

    /// A batch of small files. When all of it is new the buffer itself is the frame.
    pub(crate) fn batch(&mut self, bytes: Vec<u8>, files: &[BatchFile]) -> Result<()> {
        let mut new: Vec<(Cut, &BatchFile)> = Vec::new();
        for file in files {
            for cut in &file.cuts {
                if self.is_new(PackKind::Data, &cut.id)? {
                    new.push((*cut, file));
                }
            }
        }
        let total: usize = new.iter().map(|(cut, _)| cut.len as usize).sum();
        self.bytes_new += total as u64;
        if total == bytes.len() && (WHOLE_BATCH..=MAX_FRAME / 2).contains(&total) && new.len() <= MAX_FRAME_CHUNKS {
            let mut whole = Gathered::default();
            for (cut, file) in &new {
                whole.frame.chunks.push((cut.id, cut.len));
                self.small_bases(cut, file, &mut whole)?;
            }
            whole.frame.bytes = bytes;
            return self.submit(PackKind::Data, whole);
        }
        let mut small = std::mem::take(&mut self.small);
        for (cut, file) in &new {
            if !small.has_room(cut.len as usize) {
                self.submit(PackKind::Data, std::mem::take(&mut small))?;
            }
            small.push(&cut.id, &bytes[cut.start as usize..(cut.start + cut.len) as usize]);
            self.small_bases(cut, file, &mut small)?;
            let full = if small.frame.bases.is_empty() { BATCH as usize } else { DELTA_FRAME };
            if small.len() >= full {
                self.submit(PackKind::Data, std::mem::take(&mut small))?;
            }
        }
        self.small = small;
        Ok(())
    }

    fn small_bases(&mut self, cut: &Cut, file: &BatchFile, into: &mut Gathered) -> Result<()> {
        match &file.base {
            Some(content) => self.bases(Previous { content, offset: u64::from(cut.start) - file.start as u64 }, cut.len, into),
            None => Ok(()),
        }
    }

    /// A chunk of a big file.
    pub(crate) fn big(&mut self, id: &ChunkId, bytes: &[u8], previous: Option<Previous<'_>>) -> Result<()> {
        if !self.is_new(PackKind::Data, id)? {
            return Ok(());
        }
        self.bytes_new += bytes.len() as u64;
        if !self.big.has_room(bytes.len()) {
            self.end_big()?;
        }
        let mut big = std::mem::take(&mut self.big);
        big.push(id, bytes);
        if let Some(previous) = previous {
            self.bases(previous, bytes.len() as u32, &mut big)?;
        }
        self.big = big;
        let full = if self.big.frame.bases.is_empty() { self.big_frame } else { self.big_frame.min(DELTA_FRAME) };
        if self.big.len() >= full { self.end_big() } else { Ok(()) }
    }

    /// A chunk of a stream, which begins at `at` of it. Streams come at the same time, so each gathers for itself, in
    /// `into`.
    pub(crate) fn stream(
        &mut self,
        id: &ChunkId,
        bytes: &[u8],
        at: u64,
        previous: Option<Previous<'_>>,
        into: &mut Gathered,
    ) -> Result<()> {
        if !self.is_new(PackKind::Data, id)? {
            return Ok(());
        }
        self.bytes_new += bytes.len() as u64;
        if !into.has_room(bytes.len()) {
            self.end_stream(into)?;
        }
        into.push(id, bytes);
        if let Some(previous) = previous {
            self.bases(previous, bytes.len() as u32, into)?;
        }
        let full = if into.frame.bases.is_empty() { frame_of(at) } else { frame_of(at).min(DELTA_FRAME) };
        if into.len() >= full { self.end_stream(into) } else { Ok(()) }
    }

    /// Gives the last frame of a stream away.
    pub(crate) fn end_stream(&mut self, gathered: &mut Gathered) -> Result<()> {
        self.submit(PackKind::Data, std::mem::take(gathered))
    }

    /// A big file of `size` bytes begins. Files of moderate length share frames; a huge one has its own.
    pub(crate) fn begin_big(&mut self, size: u64) -> Result<()> {
        let frame = frame_of(size);
        if (frame, self.big_frame) != (BIG_FRAME, BIG_FRAME) {
            self.end_big()?;
        }
        self.big_frame = frame;
        Ok(())
    }

    fn end_big(&mut self) -> Result<()> {
        let frame = std::mem::take(&mut self.big);
        self.submit(PackKind::Data, frame)
    }

    /// Adds what the previous version has around this range as bases; for a field of the grid, what is exactly there.
    fn bases(&mut self, previous: Previous<'_>, len: u32, into: &mut Gathered) -> Result<()> {
        let offset = previous.offset;
        let field = grid::is_field(offset, len);
        let widen = if field { 0 } else { WIDEN };
        let (from, to) = (offset.saturating_sub(widen), offset + u64::from(len) + widen);
        let mut found = Vec::new();
        if let Some(trees) = &self.trees {
            // A recipe that cannot be read gives no bases.
            let _ = trees.items(previous.content, from, &mut |start, item| {
                if let Item::Chunk { id, len: of } = item {
                    found.push((id.key(), field && (start, *of) == (offset, len)));
                }
                Ok(start + item.len() < to)
            });
        }
        for (key, same) in &found {
            let base = self.base(PackKind::Data, key, *same, into)?;
            if let (true, Some(base)) = (*same, base) {
                into.same_place(len, base);
            }
        }
        Ok(())
    }

    /// Adds one chunk as a base. One that is itself only a difference lends its own bases instead: depth stays one. Returns
    /// where the chunk's bytes begin among those of the bases, or what is at the `same` place of its own bases.
    fn base(&mut self, kind: PackKind, key: &ChunkKey, same: bool, into: &mut Gathered) -> Result<Option<u32>> {
        if let Some(location) = known::plain(self.index, kind, key)? {
            return Ok(into.base(*key, location.len));
        }
        let Some(location) = self.index.find(kind, key)? else { return Ok(None) };
        let frame = self.index.frame(&location)?;
        let lent = match self.lent.take().filter(|lent| lent.frame == location.frame_order()) {
            Some(lent) => lent,
            None => BorrowedBases::of(self.index, location.frame_order(), &frame)?,
        };
        let place = match lent.same_place((location.offset, location.len), frame.info.plain).filter(|_| same) {
            Some((key, len)) => into.base(key, len),
            None => {
                lent.around(&location, frame.info.plain, into);
                None
            }
        };
        self.lent = Some(lent);
        Ok(place)
    }

    /// Gives the last frames away and closes the packs.
    pub(crate) fn finish(mut self) -> Result<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ChunkKey {
        ChunkId([n; 32]).key()
    }

    #[test]
    fn a_field_is_paired_with_what_was_at_its_place() {
        let mut gathered = Gathered::default();
        gathered.push(&ChunkId([9; 32]), &[0; 100]);
        assert_eq!(gathered.base(key(1), 300), Some(0));
        gathered.push(&ChunkId([8; 32]), &[0; 200]);
        let base = gathered.base(key(2), 200);
        gathered.same_place(200, base.expect("there is room"));
        // A base that is there already is the same base.
        assert_eq!(gathered.base(key(1), 300), Some(0));
        assert_eq!(gathered.base(key(3), PREFIX as u32), None);
        let frame = gathered.close();
        assert_eq!(frame.same, [SamePlace { at: 100, len: 200, base: 300 }]);
        assert_eq!(frame.bases, [key(1), key(2)]);
    }

    #[test]
    fn a_difference_lends_what_is_at_its_own_place() {
        let bases = vec![(key(1), 64), (key(2), 64), (key(3), 32)];
        let lent = BorrowedBases { frame: (0, 0), bases, bytes: 160 };
        assert_eq!(lent.same_place((64, 64), 160), Some((key(2), 64)));
        assert_eq!(lent.same_place((128, 32), 160), Some((key(3), 32)));
        for (other, plain) in [((60, 64), 160), ((64, 60), 160), ((64, 64), 161), ((160, 64), 160)] {
            assert_eq!(lent.same_place(other, plain), None);
        }
    }
}
