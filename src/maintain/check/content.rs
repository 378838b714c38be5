//! What trees refer to: chunks, and the frames and packs they are in.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::format::damage::DamagedExtent;
use crate::format::pack::PackKind;
use crate::format::page::PageKind;
use crate::model::{ChunkId, ChunkKey, Content, Item, PackId, Root};
use crate::repo::damaged::Damaged;
use crate::repo::index::{ChunkLocation, Index};

use super::btree::{Memo, Stated, Sum, TreeCursor, TreeStep};
use super::catalog::Catalog;
use super::structure::TreeCheck;
use super::{Findings, Present};

/// Frames whose state is remembered at a time: neighbours in a directory are neighbours in frames.
const VERDICTS: usize = 4096;

/// What is known to be lost or damaged of the packs.
#[derive(Debug, Default)]
pub(super) struct KnownDamage {
    /// Packs that are there, with the bytes that are there of them.
    present: Present,
    /// Packs of which nothing can be opened.
    packs: HashSet<PackId>,
    /// Frames that do not open, or not to what they should.
    frames: HashSet<(PackId, u32)>,
    /// Chunks of good frames that are not what their keys say, by their places in these frames.
    chunks: HashSet<(PackId, u32, u32)>,
}

impl KnownDamage {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        KnownDamage { present: catalog.present().clone(), ..KnownDamage::default() }
    }

    /// Takes over what is written down in the repository.
    pub(crate) fn recorded(&mut self, known: &Damaged) {
        for (pack, extent) in known.packs() {
            match extent {
                DamagedExtent::Whole => self.pack(*pack),
                DamagedExtent::Frames(frames) => frames.iter().for_each(|frame| self.frame(*pack, *frame)),
            }
        }
    }

    /// Nothing is wrong with the content of this pack.
    pub(crate) fn mended(&mut self, pack: PackId) {
        self.packs.remove(&pack);
        self.frames.retain(|(of, _)| *of != pack);
    }

    pub(crate) fn pack(&mut self, pack: PackId) {
        self.packs.insert(pack);
    }

    pub(crate) fn frame(&mut self, pack: PackId, frame: u32) {
        self.frames.insert((pack, frame));
    }

    pub(crate) fn chunk(&mut self, pack: PackId, frame: u32, offset: u32) {
        self.chunks.insert((pack, frame, offset));
    }

    /// Whether content of packs was found to be damaged.
    pub(crate) fn has_content(&self) -> bool {
        !self.packs.is_empty() || !self.frames.is_empty() || !self.chunks.is_empty()
    }

    /// Whether the chunk itself is whole, in a frame that is not known to be lost.
    fn spares(&self, index: &Index, location: &ChunkLocation) -> Result<bool> {
        let frame = index.frame(location)?;
        let end = frame.info.offset + u64::from(frame.info.stored);
        Ok(self.present.get(&frame.pack.id).is_some_and(|size| end <= *size)
            && !self.packs.contains(&frame.pack.id)
            && !self.frames.contains(&(frame.pack.id, frame.number))
            && !self.chunks.contains(&(frame.pack.id, frame.number, location.offset)))
    }

    /// Whether the frame of a location can be decoded as far as is known: it is there, and so are its bases, each of
    /// them in a frame without bases.
    fn frame_is_good(&self, index: &Index, location: &ChunkLocation) -> Result<bool> {
        let frame = index.frame(location)?;
        let end = frame.info.offset + u64::from(frame.info.stored);
        let there = self.present.get(&frame.pack.id).is_some_and(|size| end <= *size)
            && !self.packs.contains(&frame.pack.id)
            && !self.frames.contains(&(frame.pack.id, frame.number));
        if !there {
            return Ok(false);
        }
        frame.info.bases.iter().try_fold(true, |good, base| Ok(good && self.base_is_good(index, frame.pack.kind, base)?))
    }

    fn base_is_good(&self, index: &Index, kind: PackKind, base: &ChunkKey) -> Result<bool> {
        for location in index.find_all(kind, base)? {
            if index.frame(&location)?.info.bases.is_empty() && self.spares(index, &location)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What became of a chunk that a tree refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkState {
    /// It is where the index says, as far as is known.
    Good,
    /// No segment knows it.
    Unknown,
    /// The index knows it with another length only.
    OtherLength,
    /// Every pack or frame that holds it is lost, or a base of the frame is.
    Lost,
}

/// Looks chunks up, and remembers the last frames.
pub(super) struct ChunkLookup<'a> {
    index: &'a Index,
    damage: &'a KnownDamage,
    frames: HashMap<(u32, u32), bool>,
}

impl<'a> ChunkLookup<'a> {
    pub(crate) fn new(index: &'a Index, damage: &'a KnownDamage) -> Self {
        ChunkLookup { index, damage, frames: HashMap::new() }
    }

    /// The state of a chunk; `len` is what a recipe says of it.
    pub(super) fn state(&mut self, kind: PackKind, id: &ChunkId, len: Option<u32>) -> Result<ChunkState> {
        let mut state = ChunkState::Unknown;
        for location in self.index.find_all(kind, &id.key())? {
            if len.is_some_and(|len| len != location.len) {
                state = ChunkState::OtherLength;
                continue;
            }
            if self.frame(&location)? && (self.damage.chunks.is_empty() || self.damage.spares(self.index, &location)?) {
                return Ok(ChunkState::Good);
            }
            state = ChunkState::Lost;
        }
        Ok(state)
    }

    fn frame(&mut self, location: &ChunkLocation) -> Result<bool> {
        if let Some(good) = self.frames.get(&location.frame_order()) {
            return Ok(*good);
        }
        let good = self.damage.frame_is_good(self.index, location)?;
        if self.frames.len() >= VERDICTS {
            self.frames.clear();
        }
        self.frames.insert(location.frame_order(), good);
        Ok(good)
    }
}

/// What a file loses.
const LOST: &str = "some of its content is lost";

impl TreeCheck<'_> {
    /// Looks at the content of a file; answers what is wrong with it.
    pub(super) fn content(&mut self, content: &Content, findings: &mut Findings<'_>) -> Result<Option<&'static str>> {
        match content {
            Content::Inline(_) => Ok(None),
            Content::Items(items) => {
                let (_, whole) = self.items(items, findings)?;
                Ok((!whole).then_some(LOST))
            }
            Content::Tree { root, size, data } => self.recipe(root, *size, *data, findings),
        }
    }

    /// Looks up the chunks of items; answers the bytes in them, and whether all are there.
    fn items(&mut self, items: &[Item], findings: &mut Findings<'_>) -> Result<(u64, bool)> {
        let (mut bytes, mut whole) = (0u64, true);
        for item in items {
            let Item::Chunk { id, len } = item else { continue };
            bytes = bytes.saturating_add(u64::from(*len));
            self.references += 1;
            match self.lookup.state(PackKind::Data, id, Some(*len))? {
                ChunkState::Good => continue,
                ChunkState::Unknown => findings.lost_chunk(id),
                ChunkState::OtherLength => {
                    findings.damage(format!("chunk {}", id.short()), "recipes and index differ in its length")
                }
                ChunkState::Lost => {}
            }
            whole = false;
        }
        Ok((bytes, whole))
    }

    fn recipe(&mut self, root: &Root, size: u64, data: u64, findings: &mut Findings<'_>) -> Result<Option<&'static str>> {
        let mut cursor = TreeCursor::new(PageKind::Recipe, Stated::root(root, None, Some(size)));
        loop {
            // What was found below a page is all that is wanted of it: a file is hit once.
            match cursor.step(&self.trees, &mut self.memo, |_| true) {
                TreeStep::Leaf(stated) => {
                    let sum = self.recipe_leaf(&stated, findings)?;
                    cursor.leaf_done(sum, &mut self.memo);
                }
                TreeStep::Broken(stated, error) => self.broken_page(&stated, error, findings)?,
                TreeStep::Known(_) => {}
                TreeStep::Done(sum) if sum.hits > 0 => return Ok(Some(LOST)),
                TreeStep::Done(sum) if sum.value != data => {
                    let text = "the file has another number of bytes in chunks than it says";
                    findings.damage(format!("recipe page {}", root.page.short()), text);
                    return Ok(Some(text));
                }
                TreeStep::Done(_) => return Ok(None),
            }
        }
    }

    fn recipe_leaf(&mut self, stated: &Stated, findings: &mut Findings<'_>) -> Result<Sum> {
        self.visited()?;
        let items = self.trees.item_page(&stated.page).and_then(|items| {
            let size = items.iter().fold(0u64, |sum, item| sum.saturating_add(item.len()));
            stated.compare(items.len() as u64, Some(size), None).map(|()| items)
        });
        match items {
            Ok(items) => {
                let (value, whole) = self.items(&items, findings)?;
                Ok(Sum { value, hits: u64::from(!whole), ..Sum::default() })
            }
            Err(e) => self.broken_page(stated, e, findings).map(|()| Sum::HIT),
        }
    }

    /// A page that cannot be read: it is a finding, unless what it is in is known to be lost already.
    pub(super) fn broken_page(&mut self, stated: &Stated, error: crate::error::Error, findings: &mut Findings<'_>) -> Result<()> {
        match self.lookup.state(PackKind::Tree, &stated.page, None)? {
            ChunkState::Lost => {}
            ChunkState::Unknown => findings.lost_chunk(&stated.page),
            _ => findings.error(&error),
        }
        Ok(())
    }
}

/// Goes through a tree of scan records or hard links in one go. `same`: what is found below a page is the same in every
/// snapshot.
pub(super) fn drain(
    walk: &mut TreeCheck<'_>,
    kind: PageKind,
    root: Stated,
    same: bool,
    findings: &mut Findings<'_>,
    leaf: &mut dyn FnMut(&mut TreeCheck<'_>, &Stated) -> Result<Sum>,
) -> Result<Sum> {
    let mut cursor = TreeCursor::new(kind, root);
    let mut own = Memo::default();
    loop {
        let memo = if same { &mut walk.memo } else { &mut own };
        match cursor.step(&walk.trees, memo, |_| same) {
            TreeStep::Leaf(stated) => {
                walk.visited()?;
                let sum = match leaf(walk, &stated) {
                    Ok(sum) => sum,
                    Err(e) => {
                        walk.broken_page(&stated, e, findings)?;
                        Sum::HIT
                    }
                };
                cursor.leaf_done(sum, if same { &mut walk.memo } else { &mut own });
            }
            TreeStep::Broken(stated, error) => walk.broken_page(&stated, error, findings)?,
            TreeStep::Known(_) => {}
            TreeStep::Done(sum) => return Ok(sum),
        }
    }
}
