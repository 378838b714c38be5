//! Restore: a snapshot in, directories out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Snapshot;
use crate::observe::Observer;
use crate::repo::tree::TreeReader;

/// What happens to an entry that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// A file of the same size and time stays; of any other, only what differs is fetched.
    #[default]
    IfChanged,
    /// Every file's content is compared; only what differs is fetched.
    Always,
    /// Only what the snapshot has a newer version of is replaced.
    IfNewer,
    /// Whatever is there stays.
    Never,
}

/// What is restored, and where to.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Snapshots and the path inside each, as names without slashes. A whole snapshot (no names) or several sources go
    /// to `target/<absolute path>`. Of a single source, a directory's content goes into the target, and anything else
    /// goes there under its own name.
    pub sources: Vec<(Arc<Snapshot>, Vec<Vec<u8>>)>,
    /// The directory to restore to; made when it is not there. `/` restores in place.
    pub target: PathBuf,
}

/// How to restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// What happens to what is there already.
    pub overwrite: Overwrite,
    /// Remove what is in the restored directories and not in the snapshot (given paths only, and only what the
    /// patterns let pass).
    pub delete: bool,
    /// Restore only what matches one of these globs, with everything below it; empty: everything. A pattern without
    /// slash is for names, one with a slash for absolute paths inside the snapshot.
    pub include: Vec<String>,
    /// Leave out what matches one of these globs, with everything below it.
    pub exclude: Vec<String>,
    /// Read back every file that was written and compare it with what the snapshot says.
    pub verify: bool,
    /// Take owners by number. Otherwise a name that the snapshot knows is looked up on this system, the number being
    /// used where there is no such name.
    pub numeric_ids: bool,
    /// Make everything durable before returning.
    pub sync: bool,
    /// Only count; write nothing.
    pub dry_run: bool,
    /// Bytes of working memory to aim at (the readers' caches come on top).
    pub memory: u64,
    /// Directories that are never written to or removed: the repository.
    pub forbidden: Vec<PathBuf>,
    /// Set from outside to stop: temporary files are removed and the answer is [`ErrorKind::Interrupted`].
    pub stop: Arc<AtomicBool>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        RestoreOptions {
            overwrite: Overwrite::IfChanged,
            delete: false,
            include: Vec::new(),
            exclude: Vec::new(),
            verify: false,
            numeric_ids: false,
            sync: false,
            dry_run: false,
            memory: 64 << 20,
            forbidden: Vec::new(),
            stop: Arc::default(),
        }
    }
}

/// What a restore did, or with `dry_run` would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// Regular files written (hard links to them count as `links`).
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Symbolic links, pipes, sockets and devices made.
    pub others: u64,
    /// Hard links made.
    pub links: u64,
    /// Bytes written to files.
    pub bytes: u64,
    /// Bytes of those that came from files that were there already, instead of from the repository.
    pub bytes_local: u64,
    /// Frames fetched and decoded.
    pub frames: u64,
    /// Entries, other than directories, that were right already.
    pub unchanged: u64,
    /// Entries whose metadata alone was set.
    pub metadata: u64,
    /// Entries that differ and stayed, as [`Overwrite`] says.
    pub kept: u64,
    /// Entries removed.
    pub deleted: u64,
    /// Entries that could not be restored.
    pub errors: u64,
    /// Properties (owners, attributes, flags, devices) that this user or file system does not let be set.
    pub warnings: u64,
}

impl RestoreReport {
    /// Whether everything that was asked for is there as it was.
    pub fn is_complete(&self) -> bool {
        self.errors == 0 && self.warnings == 0
    }
}

/// Restores `request`.
pub fn restore(
    _reader: &Arc<TreeReader>,
    _request: &RestoreRequest,
    _options: &RestoreOptions,
    _observer: &dyn Observer,
) -> Result<RestoreReport> {
    Err(Error::new(ErrorKind::Unsupported, "this build cannot restore"))
}
