//! A storage as it would be without its damaged segments, and with others in their place that are only in memory.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::model::SegmentId;
use crate::storage::memory::MemoryStorage;
use crate::storage::{Class, Costs, Created, Name, Storage};

/// Hides segments of `inner`, and keeps what is created to itself.
#[derive(Debug)]
pub(super) struct Overlay {
    inner: Arc<dyn Storage>,
    hidden: Mutex<HashSet<SegmentId>>,
    own: MemoryStorage,
}

impl Overlay {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        Overlay { inner, hidden: Mutex::default(), own: MemoryStorage::default() }
    }

    /// Does not show this segment any more.
    pub(crate) fn hide(&self, id: SegmentId) {
        self.hidden.lock().insert(id);
    }

    /// Whether any segment is hidden.
    pub(crate) fn hides(&self) -> bool {
        !self.hidden.lock().is_empty()
    }

    fn is_hidden(&self, name: &Name) -> bool {
        matches!(name, Name::Segment(id) if self.hidden.lock().contains(id))
    }
}

impl Storage for Overlay {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        self.own.create(name, parts)
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        if matches!(name, Name::Segment(_)) && self.own.read(name, range.clone(), out).is_ok() {
            return Ok(());
        }
        self.inner.read(name, range, out)
    }

    fn open(&self, name: &Name) -> Option<File> {
        self.inner.open(name)
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        let mut out = self.inner.list(class)?;
        out.retain(|(name, _)| !self.is_hidden(name));
        out.extend(self.own.list(class)?);
        Ok(out)
    }

    /// Nothing is deleted through an overlay.
    fn delete(&self, _: &Name) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
