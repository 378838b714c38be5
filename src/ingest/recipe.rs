//! The recipe of a file: its chunks and holes, as they are found.

use crate::error::Result;
use crate::format::page::{self, PageKind};
use crate::model::{Content, Item};
use crate::repo::tree::writer::{PageSink, TreeWriter};

/// A recipe of up to this many items stands in the node; a longer one has pages of its own, so that a directory of
/// big files stays quick to read.
const INLINE_ITEMS: usize = 12;

/// A recipe that grows.
#[derive(Debug, Default)]
pub(crate) struct Recipe {
    items: Vec<Item>,
    writer: Option<TreeWriter>,
    /// Bytes so far, and those that are not in holes.
    pub(crate) size: u64,
    data: u64,
    /// The previous version of the file.
    pub(crate) base: Option<Content>,
}

impl Recipe {
    /// Of a file whose previous version is `base`.
    pub(crate) fn over(base: Option<Content>) -> Self {
        Recipe { base, ..Recipe::default() }
    }

    /// Adds the next item.
    pub(crate) fn push(&mut self, item: Item, sink: &mut dyn PageSink) -> Result<()> {
        self.size += item.len();
        self.data += if matches!(item, Item::Chunk { .. }) { item.len() } else { 0 };
        if self.writer.is_none() {
            self.items.push(item);
            if self.items.len() <= INLINE_ITEMS {
                return Ok(());
            }
        }
        let before = match &self.base {
            Some(Content::Tree { root, .. }) => Some(*root),
            _ => None,
        };
        let writer = self.writer.get_or_insert_with(|| TreeWriter::new(PageKind::Recipe).over(before));
        let waiting = if self.items.is_empty() { vec![item] } else { std::mem::take(&mut self.items) };
        let mut bytes = Vec::with_capacity(40);
        for item in waiting {
            bytes.clear();
            page::put_item(&item, &mut bytes);
            let hash = || match item {
                Item::Chunk { id, .. } => u64::from(id.0[0]),
                Item::Hole { .. } => 1,
            };
            writer.push(&bytes, item.len(), b"", hash, sink)?;
        }
        Ok(())
    }

    /// The recipe as a node has it.
    pub(crate) fn finish(self, sink: &mut dyn PageSink) -> Result<Content> {
        let Some(writer) = self.writer else { return Ok(Content::Items(self.items)) };
        match writer.finish(sink)? {
            Some(root) => Ok(Content::Tree { root, size: self.size, data: self.data }),
            None => Ok(Content::Items(Vec::new())),
        }
    }
}
