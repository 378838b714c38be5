//! Storing lost chunks again: an ingest that stores these chunks only, and takes all others for known.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::format::pack::PackKind;
use crate::model::ChunkKey;

/// The chunks that are wanted, and those of them that were met so far.
#[derive(Debug, Default)]
pub struct OnlyChunks {
    wanted: HashSet<ChunkKey>,
    /// Whether all pages of trees are wanted, too: the ids of pages below a lost page are not known.
    pages: bool,
    met: Mutex<HashSet<ChunkKey>>,
}

impl OnlyChunks {
    /// Wants these; with `pages` also all pages of trees.
    pub(crate) fn new(wanted: impl IntoIterator<Item = ChunkKey>, pages: bool) -> Self {
        OnlyChunks { wanted: wanted.into_iter().collect(), pages, met: Mutex::default() }
    }

    /// Notes that a chunk was met. True: it is to be stored.
    pub(crate) fn meet(&self, kind: PackKind, key: &ChunkKey) -> bool {
        let wanted = self.wanted.contains(key);
        if wanted {
            self.met.lock().insert(*key);
        }
        wanted || self.pages && kind == PackKind::Tree
    }

    /// The wanted chunks that were met so far.
    pub(crate) fn met(&self) -> HashSet<ChunkKey> {
        self.met.lock().clone()
    }
}
