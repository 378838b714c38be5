//! What is in no segment is looked for in packs that no segment names.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::repo::index::Index;

use super::ChunkReader;

impl ChunkReader {
    /// The same, for who only reads: what is in no segment is looked for in packs that none names, whose own directories
    /// are read once. So reading needs no repair where a segment was lost. Writers may not count on such packs.
    pub fn with_unnamed_packs(mut self) -> Self {
        self.unnamed = Some(Mutex::default());
        self
    }

    /// The index with packs that no segment names, once for each set of segments; `None`: there are none.
    pub(super) fn with_unnamed(&self, index: &Arc<Index>) -> Result<Option<Arc<Index>>> {
        let Some(unnamed) = &self.unnamed else { return Ok(None) };
        let mut looked = unnamed.lock();
        if looked.as_deref() == Some(index.listed()) {
            return Ok(None);
        }
        let found = index.with_unnamed(&self.repo)?.map(Arc::new);
        if let Some(found) = &found {
            if looked.is_none() {
                let text = "something that the index should know is missing: the packs that no segment names are looked into \
                            by their own directories (yester repair index adds them to the index)";
                self.repo.reports().warn("", text);
            }
            *self.index.write() = found.clone();
        }
        *looked = Some(index.listed().to_vec());
        Ok(found)
    }
}
