//! Storing again what was lost: only these chunks are stored, and whatever else comes by is taken for known.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::format::pack::PackKind;
use crate::model::ChunkKey;

/// The chunks that are looked for, and those of them that came by.
#[derive(Debug, Default)]
pub struct OnlyChunks {
    wanted: HashSet<ChunkKey>,
    /// Whether all pages of trees are, too: what is below a page that is lost has no name yet.
    pages: bool,
    met: Mutex<HashSet<ChunkKey>>,
}

impl OnlyChunks {
    /// Looks for these, and stores `pages` of trees with them.
    pub(crate) fn new(wanted: impl IntoIterator<Item = ChunkKey>, pages: bool) -> Self {
        OnlyChunks { wanted: wanted.into_iter().collect(), pages, met: Mutex::default() }
    }

    /// A chunk came by: whether it is to be stored.
    pub(crate) fn meet(&self, kind: PackKind, key: &ChunkKey) -> bool {
        let wanted = self.wanted.contains(key);
        if wanted {
            self.met.lock().insert(*key);
        }
        wanted || self.pages && kind == PackKind::Tree
    }

    /// Those of them that came by.
    pub(crate) fn met(&self) -> HashSet<ChunkKey> {
        self.met.lock().clone()
    }
}
