//! Snapshots on a local disk. They never change, so what was read once need not be asked for again. Whether one is there
//! is for the list to say, and never for this.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::model::SnapshotId;
use crate::repo::cache::FLOOR;
use crate::storage::Class;
use crate::sys::Dir;

/// A longer snapshot is not kept, in bytes.
const LONGEST: u64 = 1 << 20;
/// Snapshots that are kept at most.
const MOST: usize = 10_000;

/// The sealed objects of snapshots, as they are in the repository. Whoever reads one opens it.
#[derive(Debug)]
pub(crate) struct SnapshotCopies {
    directory: PathBuf,
    counter: AtomicU64,
    /// Whether those of snapshots that are gone were removed.
    cleaned: AtomicBool,
    /// Whether there is room for more.
    room: AtomicBool,
}

impl SnapshotCopies {
    /// Those in `directory`, which is made; `None` when it cannot be.
    pub(crate) fn open(directory: &Path) -> Option<Self> {
        let directory = directory.join(Class::Snapshots.prefix());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
        let free = Dir::open(&directory).and_then(|dir| dir.space()).ok()?;
        let room = AtomicBool::new(free.0 > FLOOR);
        Some(SnapshotCopies { directory, counter: AtomicU64::new(0), cleaned: AtomicBool::new(false), room })
    }

    fn path(&self, id: &SnapshotId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// The object of this snapshot, if it is kept. It may be anything.
    pub(crate) fn read(&self, id: &SnapshotId) -> Option<Vec<u8>> {
        let mut object = Vec::new();
        File::open(self.path(id)).ok()?.take(LONGEST + 1).read_to_end(&mut object).ok()?;
        Some(object)
    }

    /// Keeps an object that was found to be right.
    pub(crate) fn keep(&self, id: &SnapshotId, object: &[u8]) {
        if object.len() as u64 > LONGEST || !self.room.load(Ordering::Relaxed) {
            return;
        }
        let unique = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!(".tmp-{}-{unique}", crate::sys::process::id()));
        let made = File::options().write(true).create_new(true).mode(0o600).open(&temporary);
        let written = made.and_then(|mut file| file.write_all(object)).and_then(|()| fs::rename(&temporary, self.path(id)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }

    /// Forgets one: it was not right.
    pub(crate) fn forget(&self, id: &SnapshotId) {
        let _ = fs::remove_file(self.path(id));
    }

    /// Removes, once, what is not of these snapshots, which have just been listed; and says whether there is room for more.
    pub(crate) fn clean(&self, listed: &[SnapshotId]) {
        if self.cleaned.swap(true, Ordering::Relaxed) {
            return;
        }
        let listed: HashSet<SnapshotId> = listed.iter().copied().collect();
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut kept = 0;
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| SnapshotId::parse(name).ok());
            match id {
                Some(id) if listed.contains(&id) => kept += 1,
                Some(_) => _ = fs::remove_file(entry.path()),
                // Of a process that is at work, or was killed.
                None => super::remove_if_old(&entry),
            }
        }
        if kept >= MOST {
            self.room.store(false, Ordering::Relaxed);
        }
    }
}
