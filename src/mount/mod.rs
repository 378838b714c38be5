//! Mount: snapshots as a file system.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::snapshots::Filter;

/// What is mounted, and how.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// A snapshot's name and a path in it, as names; `None` for all snapshots that pass the filter.
    pub scope: Option<(String, Vec<Vec<u8>>)>,
    /// Which snapshots are there.
    pub filter: Filter,
    /// Bytes of decoded data in memory.
    pub memory: u64,
    /// Other users may look.
    pub allow_other: bool,
    /// Everything is shown as root's.
    pub owner_root: bool,
    /// Options of fuse.
    pub options: Vec<String>,
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Session(());

impl Session {
    /// Serves until it is unmounted.
    pub fn wait(self) -> Result<()> {
        Ok(())
    }
}

/// Mounts; the mount answers when this returns.
pub fn mount(_repo: &Arc<Repository>, _mountpoint: &Path, _options: &MountOptions) -> Result<Session> {
    Err(Error::new(ErrorKind::Unsupported, "this build cannot mount"))
}

/// Takes a mount away.
pub fn unmount(_mountpoint: &Path) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "this build cannot unmount"))
}
