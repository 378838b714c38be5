//! What a reader needs around the frames: keys of packs, copies on a local disk, and the memory of what was damaged.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::damage::DamagedExtent;
use crate::format::pack::{PREAMBLE, PackKind};
use crate::model::{ChunkKey, PackId, WriterId};
use crate::repo::damaged;
use crate::repo::index::{ChunkLocation, FrameRef, Index};
use crate::repo::pack::PackKey;
use crate::storage::Name;

use super::{ChunkReader, is_damage};

impl ChunkReader {
    /// Remembers that a frame is damaged, if it is and not what it was decoded with. `key`: the pack's, if it has one.
    pub(super) fn note(&self, frame: &FrameRef, key: Option<&PackKey>, error: &Error) {
        let (id, whole) = (frame.pack.id, DamagedExtent::Whole);
        let extent = match key {
            _ if !is_damage(error) => return,
            None => whole,
            Some(key) if key.preamble().kind != frame.pack.kind => whole,
            Some(key) => {
                let range = frame.info.offset..frame.info.offset + u64::from(frame.info.stored);
                let mut sealed = Vec::new();
                // Read once more: a disk or a memory that errs now and then is not damage of the pack.
                let read = self.repo.storage().read(&Name::Pack(id), Some(range), &mut sealed);
                let sound = match read {
                    Err(e) => !is_damage(&e),
                    Ok(()) => key.is_authentic(frame.number, &frame.info, &sealed),
                };
                // What is authentic and cannot be decoded was decoded with wrong bases, or written wrong.
                if sound && (!frame.info.bases.is_empty() || !is_damage(error)) {
                    return;
                }
                DamagedExtent::Frames([frame.number].into())
            }
        };
        damaged::add(&mut self.found.lock(), id, &extent);
    }

    /// The key of a pack: read, or known already.
    pub(crate) fn pack_key(&self, kind: PackKind, id: PackId) -> Result<Arc<PackKey>> {
        // Many threads begin with a pack at the same time: one fetches its key.
        let own = self.loading.lock().entry(id).or_default().clone();
        let _loading = own.lock();
        if let Some(key) = self.keys.read().get(&id) {
            return Ok(key.clone());
        }
        let fetched = self.fetch_key(kind, id, true);
        if let Ok(key) = &fetched {
            self.keys.write().insert(id, key.clone());
        }
        // A thread that asks from now on finds the key, or fetches it again.
        self.loading.lock().remove(&id);
        fetched
    }

    /// Whether the chunk is at this place: its bytes are looked at. What a newer program wrote is not.
    pub fn is_at(&self, index: &Index, place: &ChunkLocation, kind: PackKind, key: &ChunkKey) -> Result<bool> {
        let frame = index.frame(place)?;
        match self.part(&frame, place, kind, |id| id.key() == *key, key.short()) {
            Err(e) if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported) => Err(e),
            found => Ok(found.is_ok()),
        }
    }

    /// The writer of a frame's pack, if its key only writes: what it calls its chunks, nobody else does.
    pub fn writer_of(&self, frame: &FrameRef) -> Result<Option<WriterId>> {
        if let Some(key) = self.keys.read().get(&frame.pack.id) {
            return Ok(key.preamble().writer);
        }
        Ok(self.pack_key(frame.pack.kind, frame.pack.id)?.preamble().writer)
    }

    /// The key of a pack as the storage has it, after one that did not open a frame. A copy may hold the first bytes of
    /// another pack, which are as authentic as its own.
    pub(super) fn pack_key_again(&self, kind: PackKind, id: PackId) -> Result<Arc<PackKey>> {
        self.keys.write().remove(&id);
        self.drop_copies(kind, id);
        let key = self.fetch_key(kind, id, false)?;
        self.keys.write().insert(id, key.clone());
        Ok(key)
    }

    fn fetch_key(&self, kind: PackKind, id: PackId, copies: bool) -> Result<Arc<PackKey>> {
        let (name, range) = (Name::Pack(id), 0..PREAMBLE as u64);
        let mut first = Vec::new();
        if !copies || !self.kept(kind, id, &range, &mut first, |first| PackKey::open(&self.repo, first).is_ok()) {
            self.read_pack(id, range, &mut first)?;
            self.keep(kind, id, 0, &first);
        }
        PackKey::open(&self.repo, &first).map(Arc::new).map_err(|e| e.about(name))
    }

    /// Reads from the copies on a local disk; false when there is none that is good.
    pub(super) fn kept(
        &self,
        kind: PackKind,
        id: PackId,
        range: &Range<u64>,
        out: &mut Vec<u8>,
        is_good: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        let read = match kind {
            PackKind::Tree => self.repo.cache().is_some_and(|cache| cache.read_tree(&id, range, out)),
            PackKind::Data => self.repo.frame_cache().is_some_and(|cache| cache.read(&id, range, out)),
        };
        let good = read && is_good(out);
        if read && !good {
            self.drop_copies(kind, id);
        }
        good
    }

    fn drop_copies(&self, kind: PackKind, id: PackId) {
        match kind {
            PackKind::Tree => self.repo.cache().iter().for_each(|cache| cache.drop_tree(&id)),
            PackKind::Data => self.repo.frame_cache().iter().for_each(|cache| cache.forget(&id)),
        }
    }

    /// Whether a frame of data seems to be on a local disk.
    pub(super) fn has_copy(&self, frame: &FrameRef) -> bool {
        let range = frame.info.offset..frame.info.offset.saturating_add(u64::from(frame.info.stored));
        frame.pack.kind == PackKind::Data && self.repo.frame_cache().is_some_and(|cache| cache.has(&frame.pack.id, &range))
    }

    pub(super) fn keep(&self, kind: PackKind, id: PackId, offset: u64, sealed: &[u8]) {
        match kind {
            PackKind::Tree => self.repo.cache().iter().for_each(|cache| cache.keep_tree(&id, offset, sealed)),
            PackKind::Data => self.repo.frame_cache().iter().for_each(|cache| cache.keep(&id, offset, sealed)),
        }
    }
}
