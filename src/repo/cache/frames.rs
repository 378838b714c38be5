//! Frames of data on a local disk, so that what was read once is read without the repository.
//!
//! A frame is kept as it stands in its pack, sealed, in a file that is otherwise a hole. Whoever reads one opens it with
//! the key of its pack, as if it came from the repository: what was torn by a kill, or damaged, does not open and is read
//! from there. Files of packs go whole, those first that were used longest ago. So several processes need no lock: they
//! write the same bytes to the same places, and a file that one removes can be read on by another.

use std::collections::{BinaryHeap, HashSet};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::model::PackId;
use crate::repo::cache::FLOOR;
use crate::sys::Dir;

/// Bytes after which the cap is looked at again, at most, and as a part of the cap.
const LOOK: u64 = 32 << 20;
const LOOK_SHARE: u64 = 8;
/// Files that are remembered while the oldest ones are looked for.
const OLDEST: usize = 256;
/// The time of last use is written down again after so long.
const USED: Duration = Duration::from_secs(1);
/// Of a frame's first and of its last bytes: sealed bytes do not have so many zeros in turn, so that is a hole.
const SAMPLE: u64 = 16;

/// A file of the cache: when it was used last, how many bytes it takes, its name.
type UsedFile = (SystemTime, u64, PathBuf);

/// Frames of data of one repository, never longer than their cap but for what other processes add at the same moment.
#[derive(Debug)]
pub struct FrameCache {
    directory: PathBuf,
    cap: u64,
    /// Bytes that may be written before the cap is looked at again. Held while room is made.
    room: Mutex<u64>,
    /// Frames that were taken from here, and bytes of them.
    served: AtomicU64,
}

impl FrameCache {
    /// The cache in `directory`, which is made. `None`: it cannot be, or `cap` is nothing. What is there is then removed.
    pub fn open(directory: &Path, cap: u64) -> Option<Self> {
        let directory = directory.join("data");
        if cap == 0 {
            let _ = fs::remove_dir_all(&directory);
            return None;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
        Some(FrameCache { directory, cap, room: Mutex::new(0), served: AtomicU64::new(0) })
    }

    fn path(&self, pack: &PackId) -> PathBuf {
        self.directory.join(pack.to_string())
    }

    /// Whether the sealed bytes of a place in a pack seem to be here.
    pub(crate) fn has(&self, pack: &PackId, range: &Range<u64>) -> bool {
        let Ok(file) = File::open(self.path(pack)) else { return false };
        let Some(last) = range.end.checked_sub(SAMPLE).filter(|last| *last >= range.start) else { return false };
        let mut sample = [0; SAMPLE as usize];
        [range.start, last].iter().all(|at| file.read_exact_at(&mut sample, *at).is_ok() && sample != [0; SAMPLE as usize])
    }

    /// Reads sealed bytes of a pack into `out` (replaced), if they are kept. What comes must be opened.
    pub fn read(&self, pack: &PackId, range: &Range<u64>, out: &mut Vec<u8>) -> bool {
        let Ok(file) = File::open(self.path(pack)) else { return false };
        let Some(len) = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok()) else { return false };
        // A place that is not in the file takes no memory.
        let Ok(metadata) = file.metadata() else { return false };
        out.clear();
        if metadata.len() < range.end || out.try_reserve(len).is_err() {
            return false;
        }
        out.resize(len, 0);
        if file.read_exact_at(out, range.start).is_err() || out.iter().take(SAMPLE as usize).all(|byte| *byte == 0) {
            return false;
        }
        let now = SystemTime::now();
        if metadata.modified().is_ok_and(|used| now.duration_since(used).is_ok_and(|since| since > USED)) {
            let _ = file.set_modified(now);
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// How many places of packs were read from here.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Keeps sealed bytes of a pack that were found to be right.
    pub fn keep(&self, pack: &PackId, offset: u64, bytes: &[u8]) {
        let len = bytes.len() as u64;
        let look = LOOK.min(self.cap / LOOK_SHARE).max(1);
        if len > self.cap / 2 {
            return;
        }
        {
            let mut room = self.room.lock();
            if *room < len {
                // No room now: perhaps there is some when as much has been read again.
                *room = if self.make_room(look.max(len)) { look.max(len) } else { 0 };
            }
            if *room < len {
                return;
            }
            *room -= len;
        }
        let open = File::options().write(true).create(true).truncate(false).mode(0o600).open(self.path(pack));
        if open.and_then(|file| file.write_all_at(bytes, offset)).is_err() {
            self.forget(pack);
        }
    }

    /// Forgets a pack: what was kept of it was not right, or it is gone.
    pub fn forget(&self, pack: &PackId) {
        let _ = fs::remove_file(self.path(pack));
    }

    /// Forgets all packs but those that `known` gives.
    pub(crate) fn retain(&self, known: impl Iterator<Item = PackId>) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| PackId::parse(name).ok());
        let mut kept: HashSet<PackId> = entries.flatten().filter_map(name).collect();
        if kept.is_empty() {
            return;
        }
        known.for_each(|id| _ = kept.remove(&id));
        kept.iter().for_each(|id| self.forget(id));
    }

    /// Removes what was used longest ago until `size` more bytes fit, under the cap and above the floor of free space;
    /// false when they do not even then.
    fn make_room(&self, size: u64) -> bool {
        loop {
            let Some((held, oldest)) = self.look() else { return false };
            let Ok(free) = Dir::open(&self.directory).and_then(|dir| dir.space()) else { return false };
            let over_cap = held.saturating_add(size).saturating_sub(self.cap);
            let mut too_much = over_cap.max(FLOOR.saturating_add(size).saturating_sub(free.0));
            if too_much == 0 {
                return true;
            }
            let mut removed = false;
            for (_, len, path) in oldest {
                if too_much == 0 {
                    return true;
                }
                if fs::remove_file(path).is_ok() {
                    removed = true;
                    too_much = too_much.saturating_sub(len);
                }
            }
            if too_much == 0 || !removed {
                return too_much == 0;
            }
        }
    }

    /// The bytes that all files take, and those that were used longest ago, the oldest first.
    fn look(&self) -> Option<(u64, Vec<UsedFile>)> {
        let (mut held, mut oldest) = (0_u64, BinaryHeap::<UsedFile>::new());
        for entry in fs::read_dir(&self.directory).ok()?.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            // They are mostly holes.
            let len = metadata.len().min(metadata.blocks().saturating_mul(512));
            held = held.saturating_add(len);
            let Ok(used) = metadata.modified() else { continue };
            oldest.push((used, len, entry.path()));
            if oldest.len() > OLDEST {
                oldest.pop();
            }
        }
        Some((held, oldest.into_sorted_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(cache: &FrameCache) -> u64 {
        cache.look().unwrap().0
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_the_cap_holds() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = FrameCache::open(scratch.path(), 1 << 20).unwrap();
        let pack = |n: u32| PackId(std::array::from_fn(|at| if at < 4 { n.to_le_bytes()[at] } else { 7 }));
        let mut out = Vec::new();
        for n in 0..400 {
            cache.keep(&pack(n), 0, &[5; 8192]);
            assert!(held(&cache) <= 1 << 20);
            // Times of files are as fine as the clock of the kernel, which may stand still for some milliseconds.
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(n) + 1);
            File::open(cache.path(&pack(n))).unwrap().set_modified(time).unwrap();
            // This one is always in use.
            assert!(cache.read(&pack(0), &(0..8192), &mut out), "what is in use went");
        }
        assert!(cache.has(&pack(399), &(0..8192)) && !cache.has(&pack(1), &(0..8192)));
        assert!(!cache.has(&pack(399), &(0..8193)) && !cache.read(&pack(399), &(0..u64::MAX), &mut out));
        cache.retain([pack(399)].into_iter());
        assert!(!cache.read(&pack(0), &(0..8192), &mut out) && cache.read(&pack(399), &(0..8192), &mut out));
        assert!(FrameCache::open(scratch.path(), 0).is_none());
        assert!(!cache.read(&pack(399), &(0..8192), &mut out));
    }
}
