//! Packs that were stored through an open repository, for who remembers when each was looked at last.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::PackId;

/// More are not remembered: a terabyte of them.
const MOST: usize = 1 << 16;

/// The first packs that were stored. A copy of it has the same.
#[derive(Debug, Clone, Default)]
pub struct StoredPacks(Arc<Mutex<Vec<PackId>>>);

impl StoredPacks {
    pub(crate) fn note(&self, pack: PackId) {
        let mut packs = self.0.lock();
        if packs.len() < MOST {
            packs.push(pack);
        }
    }

    /// Those that were stored since it was asked last.
    pub fn take(&self) -> Vec<PackId> {
        std::mem::take(&mut self.0.lock())
    }
}
