//! Opening the storage of a repository by its location.

use std::sync::Arc;

use crate::jobs::foreign;
use crate::jobs::location::Location;
use crate::remote::client::{RemoteOptions, RemoteStorage};
use crate::remote::s3::S3Storage;
use crate::storage::Storage;
use crate::storage::directory::DirectoryStorage;
use crate::{Error, ErrorKind, Result};

/// Opens the storage of a repository, whether or not it can be unlocked. `remote` is asked for the options only when the
/// repository is on another machine. The repository of another tool is an error that names the tool.
pub fn storage(location: &Location, remote: impl FnOnce() -> Result<RemoteOptions>) -> Result<Arc<dyn Storage>> {
    Ok(match location {
        Location::Local(path) => Arc::new(DirectoryStorage::open(path).map_err(|e| match foreign::tool(path) {
            Some(tool) => Error::new(ErrorKind::NoRepository, foreign::said(&location.shown(), tool)),
            None => e,
        })?),
        Location::Remote(address) => Arc::new(RemoteStorage::open(address, &remote()?)?),
        Location::Store(address) => Arc::new(S3Storage::open(address, &remote()?)?),
    })
}

/// An empty storage for a new repository.
pub fn new_storage(location: &Location, remote: impl FnOnce() -> Result<RemoteOptions>) -> Result<Arc<dyn Storage>> {
    Ok(match location {
        Location::Local(path) => Arc::new(DirectoryStorage::create(path)?),
        Location::Remote(address) => Arc::new(RemoteStorage::create(address, &remote()?)?),
        Location::Store(address) => Arc::new(S3Storage::create(address, &remote()?)?),
    })
}

/// The storage of a repository, with the directories `config/` and `keys/` made anew where they are gone.
pub fn storage_for_recovery(location: &Location, remote: impl FnOnce() -> Result<RemoteOptions>) -> Result<Arc<dyn Storage>> {
    match location {
        Location::Local(path) => Ok(Arc::new(DirectoryStorage::open_for_recovery(path)?)),
        Location::Remote(_) | Location::Store(_) => storage(location, remote),
    }
}
