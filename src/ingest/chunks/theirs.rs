//! Taking out of a frame what another ingest of the same tree, which goes ahead, has stored.

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::ingest::chunks::{FrameBuilder, Gathered};
use crate::model::ChunkKey;
use crate::repo::index::Index;
use crate::repo::index::known::KnownChunks;
use crate::repo::pack::PlainFrame;

impl FrameBuilder<'_> {
    /// The frame without the chunks that the ingest ahead has stored. Waits until they are indexed, for a bounded time.
    pub(super) fn without_theirs(&mut self, mut gathered: Gathered) -> Result<Gathered> {
        let keys: Vec<ChunkKey> = gathered.frame.chunks.iter().map(|(id, _)| id.key()).collect();
        let (mut fresh, mut known) = (self.fresh.take(), std::mem::take(&mut self.known));
        let look = |index: &Index, known: &mut KnownChunks| -> Result<Vec<bool>> {
            keys.iter().map(|key| Ok(known.find(index, PackKind::Data, key)?.is_some())).collect()
        };
        let mut theirs = fresh.as_deref().map_or(Ok(Vec::new()), |index| look(index, &mut known))?;
        if !theirs.contains(&true) {
            self.follow.wait(&mut |index| {
                known = KnownChunks::default();
                theirs = look(&index, &mut known)?;
                fresh = Some(index);
                Ok(theirs.contains(&true))
            })?;
        }
        (self.fresh, self.known) = (fresh, known);
        if !theirs.contains(&true) {
            return Ok(gathered);
        }
        let mut frame = PlainFrame { bases: std::mem::take(&mut gathered.frame.bases), ..PlainFrame::default() };
        let mut at = 0;
        for ((id, len), theirs) in gathered.frame.chunks.iter().zip(theirs) {
            let end = at + *len as usize;
            match theirs {
                true => {
                    self.stored.remove(&id.key());
                    self.bytes_new -= u64::from(*len);
                }
                false => {
                    frame.bytes.extend_from_slice(gathered.frame.bytes.get(at..end).unwrap_or_default());
                    frame.chunks.push((*id, *len));
                }
            }
            at = end;
        }
        gathered.frame = frame;
        Ok(gathered)
    }
}
