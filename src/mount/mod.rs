//! The mount: snapshots as directories that every program can read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::snapshots::Filter;

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// A snapshot's name (see [`crate::repo::snapshots::find`]) and the absolute path of a directory in it: what is at
    /// the root. `None`: the whole repository.
    pub scope: Option<(String, Vec<u8>)>,
    /// Which snapshots are shown, and among which `latest` is the newest.
    pub filter: Filter,
    /// Lets other users in; the modes, owners and ACLs that the mount shows decide what they may read.
    pub allow_other: bool,
    /// Shows everything as root's.
    pub owner_root: bool,
    /// Bytes of decoded data and trees that are kept in memory.
    pub memory: u64,
    /// Further mount options, each as in `-o`.
    pub extra: Vec<String>,
    /// Local directories that the mount must neither be in nor contain: the repository itself, the cache.
    pub avoid: Vec<PathBuf>,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            scope: None,
            filter: Filter::default(),
            allow_other: false,
            owner_root: false,
            memory: 88 << 20,
            extra: Vec::new(),
            avoid: Vec::new(),
        }
    }
}

/// Ends a mount from outside.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(());

impl Shutdown {
    /// A handle that ends nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unmounts.
    pub fn trigger(&self) {}
}

/// Mounts and serves.
pub fn mount(
    _repo: &Arc<Repository>,
    _options: &MountOptions,
    _mountpoint: &Path,
    _shutdown: &Shutdown,
    _ready: impl FnOnce() + Send,
) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "this build cannot mount"))
}

/// Takes a mount away.
pub fn unmount(_mountpoint: &Path) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "this build cannot unmount"))
}
