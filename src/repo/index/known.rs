//! What a writer may count on: copies of chunks that stay readable without anything that prune may take.
//!
//! A copy in a delta frame is only as good as the bases of that frame. Prune keeps the bases of what is live; but it
//! does not wait for a writer who began after its deletion list, and a fenced writer may store a difference after the base
//! is gone. So a copy counts only if every base of its frame has a copy in a frame without bases that counts by itself
//! (rule 2 of docs/durability.md, for delta frames).

use std::collections::HashMap;

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::model::ChunkKey;
use crate::repo::index::{ChunkLocation, Index};

/// Frames whose answer is remembered; the chunks of one frame are mostly asked for one after the other.
const REMEMBERED: usize = 1 << 16;

/// Looks chunks up for a writer, in an index that was loaded for writing.
#[derive(Debug, Default)]
pub struct KnownChunks {
    /// Whether what is in a frame can be counted on.
    frames: HashMap<(u32, u32), bool>,
}

impl KnownChunks {
    /// A copy of the chunk that can be counted on.
    pub fn find(&mut self, index: &Index, kind: PackKind, key: &ChunkKey) -> Result<Option<ChunkLocation>> {
        let Some(first) = index.find(kind, key)? else { return Ok(None) };
        if self.stands(index, kind, &first)? {
            return Ok(Some(first));
        }
        for location in index.find_all(kind, key)? {
            if self.stands(index, kind, &location)? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    fn stands(&mut self, index: &Index, kind: PackKind, location: &ChunkLocation) -> Result<bool> {
        let order = location.frame_order();
        if let Some(known) = self.frames.get(&order) {
            return Ok(*known);
        }
        let mut stands = true;
        for base in &index.frame_at(order)?.info.bases {
            stands = stands && plain(index, kind, base)?.is_some();
        }
        if self.frames.len() == REMEMBERED {
            self.frames.clear();
        }
        self.frames.insert(order, stands);
        Ok(stands)
    }
}

/// A copy of the chunk in a frame without bases.
pub fn plain(index: &Index, kind: PackKind, key: &ChunkKey) -> Result<Option<ChunkLocation>> {
    for location in index.find_all(kind, key)? {
        if index.frame(&location)?.info.bases.is_empty() {
            return Ok(Some(location));
        }
    }
    Ok(None)
}
