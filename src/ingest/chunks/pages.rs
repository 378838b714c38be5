//! Gathering pages of trees into frames.

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::ingest::chunks::{FrameBuilder, Gathered};
use crate::model::ChunkId;
use crate::repo::tree::writer::{PagePosition, PageSink};

/// A frame of tree pages is closed when it has this many bytes. After some hundred snapshots the pages of a tree lie in as
/// many frames, and whoever goes through the tree meets them in any order: then a page costs a frame.
const TREE_FRAME: usize = 128 << 10;
/// The same for a frame that is a difference: it costs its bases, too, and these lie in other frames.
const TREE_DELTA: usize = 64 << 10;
/// The most pages of the parent that one new page is compared with.
const PLACES: usize = 64;

impl FrameBuilder<'_> {
    /// Adds the pages at `place` of the parent as bases.
    fn page_bases(&mut self, place: &PagePosition<'_>, into: &mut Gathered) -> Result<()> {
        let mut found = Vec::new();
        if let Some(trees) = &self.trees {
            // The same for a page.
            let _ = trees.pages_at(place, &mut |id| {
                found.push(id.key());
                Ok(found.len() < PLACES)
            });
        }
        found.iter().try_for_each(|key| self.base(PackKind::Tree, key, false, into).map(drop))
    }

    fn new_page(&mut self, bytes: &[u8], place: Option<&PagePosition<'_>>) -> Result<ChunkId> {
        let id = self.keys.chunk_id(PackKind::Tree, bytes);
        if !self.is_new(PackKind::Tree, &id)? {
            return Ok(id);
        }
        let mut tree = std::mem::replace(&mut self.tree, Gathered::tree());
        if !tree.has_room(bytes.len()) {
            self.submit(PackKind::Tree, std::mem::replace(&mut tree, Gathered::tree()))?;
        }
        tree.push(&id, bytes);
        if let Some(place) = place {
            self.page_bases(place, &mut tree)?;
        }
        let full = if tree.frame.bases.is_empty() { TREE_FRAME } else { TREE_DELTA };
        match tree.len() >= full {
            true => self.submit(PackKind::Tree, tree)?,
            false => self.tree = tree,
        }
        Ok(id)
    }
}

impl PageSink for FrameBuilder<'_> {
    fn page(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        self.new_page(bytes, None)
    }

    fn page_at(&mut self, bytes: &[u8], place: &PagePosition<'_>) -> Result<ChunkId> {
        self.new_page(bytes, Some(place))
    }
}
