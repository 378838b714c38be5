//! The objects of a class of a directory, some at a time: what a server does instead of
//! [`Storage::list`](crate::storage::Storage::list), so that no list has to fit into memory.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::storage::directory::DirectoryStorage;
use crate::storage::{Class, Name, listed_size};
use crate::sys::Dir;

/// A class that is being listed. What is there from the beginning to the end is found; what comes or goes meanwhile may be.
/// An object may be found twice.
#[derive(Debug)]
pub(crate) struct ClassWalk {
    storage: Arc<DirectoryStorage>,
    class: Class,
    /// The numbers of the directories that are not read yet.
    places: Range<usize>,
    current: Option<Dir>,
}

impl ClassWalk {
    /// Begins to list a class.
    pub(crate) fn new(storage: &Arc<DirectoryStorage>, class: Class) -> Self {
        ClassWalk { storage: storage.clone(), class, places: DirectoryStorage::places(class), current: None }
    }

    /// Some more of them: name, size, time of the last change. None may be found in one directory, and more in the next;
    /// `None` is the end.
    pub(crate) fn some(&mut self) -> Result<Option<Vec<(Name, u64, Timestamp)>>> {
        let shown = self.storage.shown();
        let failed = |e: io::Error| Error::io(format!("cannot list {}/ in {shown}", self.class.prefix()), e);
        let dir = match &self.current {
            Some(dir) => dir,
            None => {
                let Some(place) = self.places.next() else { return Ok(None) };
                let Some(dir) = self.storage.open_to_list(place).map_err(failed)? else { return Ok(Some(Vec::new())) };
                self.current.insert(dir)
            }
        };
        let mut names = Vec::new();
        let more = dir.next_names(&mut names).map_err(failed)?;
        let mut out = Vec::with_capacity(names.len());
        for leaf in &names {
            let Some(name) = std::str::from_utf8(leaf).ok().and_then(|text| Name::parse(self.class, text)) else { continue };
            match dir.stat(leaf) {
                Ok(stat) => out.push((name, listed_size(self.class, stat.size), stat.mtime)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        if !more {
            self.current = None;
        }
        Ok(Some(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PackId, SnapshotId};
    use crate::storage::Storage;

    #[test]
    fn a_walk_finds_what_a_list_finds() {
        let scratch = tempfile::tempdir().unwrap();
        let storage = Arc::new(DirectoryStorage::create(&scratch.path().join("repo")).unwrap());
        for n in 0..2000_u64 {
            let id = *blake3::hash(&n.to_le_bytes()).as_bytes();
            let name = if n % 2 == 0 { Name::Snapshot(SnapshotId(id)) } else { Name::Pack(PackId(id)) };
            storage.create(&name, &[&n.to_le_bytes()]).unwrap();
        }
        std::fs::write(scratch.path().join("repo/snapshots/foreign"), b"x").unwrap();
        for class in Class::ALL {
            let (mut walk, mut found, mut pieces) = (ClassWalk::new(&storage, class), Vec::new(), 0);
            while let Some(some) = walk.some().unwrap() {
                pieces += usize::from(!some.is_empty());
                found.extend(some);
            }
            found.sort_unstable_by_key(|(name, ..)| *name);
            let mut listed = storage.list_times(class).unwrap();
            listed.sort_unstable_by_key(|(name, ..)| *name);
            assert!(found == listed && (found.is_empty() || pieces > 1), "{class:?}: {pieces}");
        }
    }

    #[test]
    fn a_class_that_a_repository_lacks_is_empty() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("repo");
        drop(DirectoryStorage::create(&path).unwrap());
        for class in Class::ALL.into_iter().filter(|class| class.is_optional()) {
            std::fs::remove_dir(path.join(class.prefix())).unwrap();
        }
        let storage = Arc::new(DirectoryStorage::open(&path).unwrap());
        for class in Class::ALL.into_iter().filter(|class| class.is_optional()) {
            let mut walk = ClassWalk::new(&storage, class);
            while let Some(some) = walk.some().unwrap() {
                assert!(some.is_empty());
            }
            let id = "ab".repeat(32);
            let leaf = match class {
                Class::Groups => format!("{id}.round"),
                Class::Parity => format!("{id}.0"),
                _ => id,
            };
            let name = Name::parse(class, &leaf).unwrap();
            assert_eq!(storage.remove(&name).unwrap(), None);
        }
    }
}
