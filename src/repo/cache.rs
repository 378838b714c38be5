//! Copies of index segments and of frames with trees on a local disk, for repositories that are far away.
//!
//! A copy is sealed bytes of the repository: every page and frame carries its tag, so a copy that was damaged, cut or
//! exchanged is noticed where it is read, thrown away, and read from the repository again. Nothing is decrypted on this
//! disk, and nothing has to be believed. The directory may be deleted at any time.
//!
//! A segment is copied whole. Of a pack of trees the frames that were read are kept, where they stand in the pack, in a
//! file that is otherwise a hole. So it is with data, in `frames`; snapshots are whole files, in `objects`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::model::{PackId, SegmentId};
use crate::storage::{Name, Storage};
use crate::sys::Dir;

pub mod frames;
pub(crate) mod objects;

/// What tells backup programs to leave a cache out (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Copies of a yester repository's index.\n";
/// Bytes that are copied at once.
const COPY: u64 = 4 << 20;
/// Bytes that stay free on the disk, whatever the cap is.
const FLOOR: u64 = 512 << 20;
/// Bytes of frames after which the cap is looked at again, at most, and as a part of the cap.
const LOOK: u64 = 4 << 20;
const LOOK_SHARE: u64 = 8;

/// A file that a process makes is done after so long, or never will be.
const MADE: Duration = Duration::from_secs(3600);

/// Removes a file that somebody began to make, and will not end.
fn remove_if_old(entry: &fs::DirEntry) {
    let made = entry.metadata().and_then(|metadata| metadata.modified());
    if made.is_ok_and(|made| made.elapsed().is_ok_and(|since| since > MADE)) {
        let _ = fs::remove_file(entry.path());
    }
}

/// A directory with copies of one repository's segments and trees, never longer than its cap.
#[derive(Debug)]
pub struct SegmentCache {
    /// Of segments.
    directory: PathBuf,
    /// Of frames of packs of trees.
    trees: PathBuf,
    cap: u64,
    /// Bytes of frames that were written since the cap was looked at; `u64::MAX`: there is no room for any.
    written: AtomicU64,
    counter: AtomicU64,
    /// Held while room is made, so that two threads do not both find it: the bytes of the segments that are being copied.
    room: Mutex<u64>,
    /// One lock for each segment that is being copied. That may take long, or stall; who keeps a frame, or copies another,
    /// does not wait for it.
    copying: Mutex<HashMap<SegmentId, Arc<Mutex<()>>>>,
}

impl SegmentCache {
    /// The cache in `directory`, which is made; `None` when it cannot be: a cache costs speed, never an error.
    pub fn open(directory: &Path, cap: u64) -> Option<Self> {
        let segments = directory.join("index");
        let trees = directory.join("trees");
        for made in [&segments, &trees] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(made).ok()?;
        }
        let tag = directory.join("CACHEDIR.TAG");
        if !tag.exists() {
            fs::write(tag, CACHEDIR_TAG).ok()?;
        }
        let (written, counter) = (AtomicU64::new(0), AtomicU64::new(0));
        let (room, copying) = (Mutex::default(), Mutex::default());
        Some(SegmentCache { directory: segments, trees, cap, written, counter, room, copying })
    }

    fn path(&self, id: &SegmentId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn get(&self, id: &SegmentId, size: u64) -> Option<File> {
        let file = File::options().read(true).write(true).open(self.path(id)).ok()?;
        if file.metadata().ok()?.len() != size {
            let _ = fs::remove_file(self.path(id));
            return None;
        }
        // The cache removes the oldest files first: the time of last use is kept as mtime.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// Copies a segment of `size` bytes here, when there is or can be made room for it.
    fn fetch(&self, storage: &dyn Storage, id: &SegmentId, size: u64) -> Option<File> {
        let own = self.copying.lock().entry(*id).or_default().clone();
        let copied = {
            let _copying = own.lock();
            self.get(id, size).or_else(|| self.fetch_now(storage, id, size))
        };
        self.copying.lock().remove(id);
        copied
    }

    fn fetch_now(&self, storage: &dyn Storage, id: &SegmentId, size: u64) -> Option<File> {
        {
            let mut promised = self.room.lock();
            if !self.make_room(size.saturating_add(*promised), &[&self.trees, &self.directory]) {
                return None;
            }
            *promised = promised.saturating_add(size);
        }
        let copied = self.copy_whole(storage, id, size);
        let mut promised = self.room.lock();
        *promised = promised.saturating_sub(size);
        copied
    }

    fn copy_whole(&self, storage: &dyn Storage, id: &SegmentId, size: u64) -> Option<File> {
        let unique = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!(".tmp-{}-{unique}", crate::sys::process::id()));
        let copied = self.copy(storage, id, size, &temporary).filter(|_| fs::rename(&temporary, self.path(id)).is_ok());
        if copied.is_none() {
            let _ = fs::remove_file(&temporary);
        }
        copied
    }

    fn copy(&self, storage: &dyn Storage, id: &SegmentId, size: u64, to: &Path) -> Option<File> {
        let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(to).ok()?;
        let mut part = Vec::new();
        for start in (0..size).step_by(COPY as usize) {
            storage.read(&Name::Segment(*id), Some(start..(start + COPY).min(size)), &mut part).ok()?;
            file.write_all(&part).ok()?;
        }
        Some(file)
    }

    /// Removes of what is in the directories `from` what was used longest ago, until `size` more bytes fit, under the cap
    /// and above the floor; false when they never will.
    fn make_room(&self, size: u64, from: &[&PathBuf]) -> bool {
        let Ok(free) = Dir::open(&self.directory).and_then(|dir| dir.space()) else { return false };
        let Ok(entries) = [&self.directory, &self.trees].into_iter().map(fs::read_dir).collect::<Result<Vec<_>, _>>() else {
            return false;
        };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok()?;
                // Packs of trees are mostly holes.
                let len = metadata.len().min(metadata.blocks() * 512);
                Some((metadata.modified().ok()?, len, entry.path()))
            })
            .collect();
        files.sort();
        // The size is what a list said, and may be anything.
        let held = files.iter().fold(size, |sum, (_, len, _)| sum.saturating_add(*len));
        let too_much = held.saturating_sub(self.cap).max(FLOOR.saturating_add(size).saturating_sub(free.0));
        if size > self.cap || size > free.1 {
            return false;
        }
        let mut removed = 0_u64;
        for (_, len, path) in files.into_iter().filter(|(_, _, path)| from.iter().any(|from| path.starts_with(from))) {
            if removed >= too_much {
                break;
            }
            if fs::remove_file(path).is_ok() {
                removed = removed.saturating_add(len);
            }
        }
        removed >= too_much
    }

    fn tree_path(&self, pack: &PackId) -> PathBuf {
        self.trees.join(pack.to_string())
    }

    /// Reads sealed bytes of a pack of trees into `out` (replaced), if they are kept. What comes must be checked.
    pub fn read_tree(&self, pack: &PackId, range: &Range<u64>, out: &mut Vec<u8>) -> bool {
        let Ok(file) = File::open(self.tree_path(pack)) else { return false };
        let Some(len) = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok()) else { return false };
        out.clear();
        if out.try_reserve(len).is_err() {
            return false;
        }
        out.resize(len, 0);
        // Sealed bytes do not begin with so many zeros: that is a hole.
        file.read_exact_at(out, range.start).is_ok() && out.iter().take(16).any(|byte| *byte != 0)
    }

    /// Keeps sealed bytes of a pack of trees.
    pub fn keep_tree(&self, pack: &PackId, offset: u64, bytes: &[u8]) {
        let written = self.written.load(Ordering::Relaxed);
        if written == u64::MAX {
            return;
        }
        let promised = self.room.lock();
        let mut sum = written + bytes.len() as u64;
        let look = LOOK.min(self.cap / LOOK_SHARE);
        if written == 0 || sum > look {
            // Segments, which every command needs, are not removed for it.
            let much = look + bytes.len() as u64 + *promised;
            if much > self.cap / 2 || !self.make_room(much, &[&self.trees]) {
                return self.written.store(u64::MAX, Ordering::Relaxed);
            }
            sum = 1;
        }
        self.written.store(sum, Ordering::Relaxed);
        let open = File::options().write(true).create(true).truncate(false).mode(0o600).open(self.tree_path(pack));
        if open.and_then(|file| file.write_all_at(bytes, offset)).is_err() {
            self.drop_tree(pack);
        }
    }

    /// Forgets a pack of trees: what was kept of it was not right.
    pub(crate) fn drop_tree(&self, pack: &PackId) {
        let _ = fs::remove_file(self.tree_path(pack));
    }
}

/// Where the bytes of a segment come from: a copy on this disk, or the repository.
#[derive(Debug, Clone)]
pub struct SegmentSource {
    storage: Arc<dyn Storage>,
    cache: Option<Arc<SegmentCache>>,
    id: SegmentId,
    copy: Arc<Mutex<Option<Arc<File>>>>,
    /// The segment itself, in a directory: it can be read on when prune has deleted it.
    opened: Arc<Mutex<Option<Arc<CountedFile>>>>,
}

/// Segments that are kept open, of all repositories of this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// The most of them: mostly there are fewer segments.
const MOST_OPEN: usize = 64;

/// A file that counts among those that are kept open.
#[derive(Debug)]
struct CountedFile(File);

impl CountedFile {
    fn open(storage: &dyn Storage, id: SegmentId) -> Option<Self> {
        let more = |n: usize| (n < MOST_OPEN).then_some(n + 1);
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let opened = storage.open(&Name::Segment(id));
        if opened.is_none() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
        opened.map(CountedFile)
    }
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SegmentSource {
    /// The source of segment `id` of `size` bytes; makes the copy when there is a cache.
    pub fn new(storage: Arc<dyn Storage>, cache: Option<Arc<SegmentCache>>, id: SegmentId, size: u64) -> Self {
        let file = cache.as_ref().and_then(|cache| cache.fetch(&*storage, &id, size));
        let opened = if file.is_none() { CountedFile::open(&*storage, id) } else { None };
        let (copy, opened) = (Arc::new(Mutex::new(file.map(Arc::new))), Arc::new(Mutex::new(opened.map(Arc::new))));
        SegmentSource { storage, cache, id, copy, opened }
    }

    fn copy(&self) -> Option<Arc<File>> {
        self.copy.lock().clone()
    }

    fn opened(&self) -> Option<Arc<CountedFile>> {
        self.opened.lock().clone()
    }

    /// Reads a part of the segment into `out` (replaced).
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        if let Some(file) = self.copy() {
            if self.read_file(&file, &range, out)? {
                return Ok(());
            }
            self.drop_cached();
        }
        if let Some(kept) = self.opened() {
            if self.read_file(&kept.0, &range, out)? {
                return Ok(());
            }
            self.drop_cached();
        }
        self.storage.read(&Name::Segment(self.id), Some(range), out)
    }

    fn read_file(&self, file: &File, range: &Range<u64>, out: &mut Vec<u8>) -> Result<bool> {
        out.clear();
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        out.try_reserve(len).map_err(|e| Error::corrupt(format!("{}: {e}", Name::Segment(self.id))))?;
        out.resize(len, 0);
        Ok(file.read_exact_at(out, range.start).is_ok())
    }

    /// Throws the copy away, or closes the file: what was read from it was not right. False when there was none, so that
    /// what was read came from the repository itself, under the segment's name.
    pub fn drop_cached(&self) -> bool {
        let had = self.copy.lock().take().is_some();
        if let (true, Some(cache)) = (had, &self.cache) {
            let _ = fs::remove_file(cache.path(&self.id));
        }
        let opened = self.opened.lock().take().is_some();
        had || opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Class;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn a_size_that_nothing_has_evicts_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = SegmentCache::open(scratch.path(), 1 << 20).unwrap();
        let storage = MemoryStorage::default();
        let id = SegmentId([1; 32]);
        storage.create(&Name::Segment(id), &[&[7; 1000]]).unwrap();
        assert!(cache.fetch(&storage, &id, 1000).is_some());
        for size in [u64::MAX, u64::MAX - 1, Class::Index.max_object() + 1, 1 << 40] {
            assert!(cache.fetch(&storage, &SegmentId([2; 32]), size).is_none());
        }
        assert!(cache.get(&id, 1000).is_some(), "a copy went for one that cannot be");
    }
}
