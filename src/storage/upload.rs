//! An object that comes in pieces: what a server does instead of [`Storage::create`](crate::storage::Storage::create),
//! so that no object has to fit into memory.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::storage::directory::DirectoryStorage;
use crate::storage::{Created, Name};
use crate::sys::Dir;

/// A file under a temporary name. It goes when this is dropped unfinished.
#[derive(Debug)]
pub(crate) struct Upload {
    storage: Arc<DirectoryStorage>,
    name: Name,
    dir: Dir,
    place: usize,
    temporary: Vec<u8>,
    /// `None` once the name is taken or given up.
    file: Option<File>,
}

impl Upload {
    /// Begins an object of this name.
    pub(crate) fn begin(storage: &Arc<DirectoryStorage>, name: Name) -> Result<Self> {
        let (place, dir, temporary) = storage.temporary(&name)?;
        let failed = || format!("cannot write {name} in {}", storage.shown());
        let file = dir.create_file(&temporary, 0o600).at(failed)?;
        Ok(Upload { storage: storage.clone(), name, dir, place, temporary, file: Some(file) })
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = || format!("cannot write {} in {}", self.name, self.storage.shown());
        match &mut self.file {
            Some(file) => file.write_all(bytes).at(failed),
            None => Err(Error::invalid(failed())),
        }
    }

    /// Makes its bytes durable, and not yet its name.
    pub(crate) fn make_durable(&self) -> Result<()> {
        let failed = || format!("cannot write {} in {}", self.name, self.storage.shown());
        let Some(file) = &self.file else { return Err(Error::invalid(failed())) };
        file.sync_data().at(failed)
    }

    /// Gives the object its name, if that is free; durable after the next barrier, if its bytes are.
    pub(crate) fn finish(mut self) -> Result<Created> {
        let failed = || format!("cannot write {} in {}", self.name, self.storage.shown());
        let created = self.storage.naming.give(&self.dir, &self.temporary, self.name.leaf().as_bytes()).at(failed)?;
        self.file = None;
        // Also where it was there: its creator may not have reached its fsync.
        self.storage.mark(self.place);
        Ok(created)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What cannot be removed now, prune removes.
            let _ = self.dir.remove(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SnapshotId;
    use crate::storage::Storage;

    #[test]
    fn an_upload_is_whole_or_not_there() {
        let scratch = tempfile::tempdir().unwrap();
        let storage = Arc::new(DirectoryStorage::create(&scratch.path().join("repo")).unwrap());
        let name = Name::Snapshot(SnapshotId([7; 32]));
        let mut given_up = Upload::begin(&storage, name).unwrap();
        given_up.write(b"half").unwrap();
        drop(given_up);
        let mut out = Vec::new();
        assert!(storage.read(&name, None, &mut out).is_err());
        for (content, created) in [(b"one", Created::New), (b"two", Created::Exists)] {
            let mut upload = Upload::begin(&storage, name).unwrap();
            upload.write(content).unwrap();
            upload.make_durable().unwrap();
            assert_eq!(upload.finish().unwrap(), created);
        }
        storage.read(&name, None, &mut out).unwrap();
        assert_eq!(out, b"one");
        let files = std::fs::read_dir(scratch.path().join("repo/snapshots")).unwrap().count();
        assert_eq!(files, 1, "a temporary file was left");
    }
}
