//! Which packs were stored through an open repository. The program notes them in its local state as verified, since each
//! frame is verified before it counts as stored.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::PackId;

/// The most packs that are listed: about 1 TiB of them. Later ones are left out.
const MOST: usize = 1 << 16;

/// A list of the packs that were stored. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct StoredPacks(Arc<Mutex<Vec<PackId>>>);

impl StoredPacks {
    pub(crate) fn note(&self, pack: PackId) {
        let mut packs = self.0.lock();
        if packs.len() < MOST {
            packs.push(pack);
        }
    }

    /// Takes the packs that were stored since the last call.
    pub fn take(&self) -> Vec<PackId> {
        std::mem::take(&mut self.0.lock())
    }
}
