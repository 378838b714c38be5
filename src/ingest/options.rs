//! What an ingest is told, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use crate::chunk::codec::Compression;
use crate::ingest::chunks::OnlyChunks;
use crate::ingest::stand_in::VolumeHook;
use crate::ingest::still::FreezeHooks;
use crate::model::{GroupPart, SetText, Snapshot, SnapshotId, Timestamp};
use crate::repo::pack::writer::PACK_TARGET;
use crate::repo::signs::Sign;

/// Which snapshot an ingest takes unchanged files from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Parent {
    /// The newest of the series, else the newest of the host that covers a given path.
    #[default]
    Auto,
    /// None: everything is read again.
    None,
    /// This one.
    Id(SnapshotId),
}

/// What to leave out.
#[derive(Debug, Clone, Default)]
pub struct Exclude {
    /// Patterns (globs) against names and absolute paths.
    pub patterns: Vec<String>,
    /// The same, whatever the case.
    pub patterns_ignore_case: Vec<String>,
    /// Leave out the content of directories with a valid `CACHEDIR.TAG` (the tag itself stays).
    pub caches: bool,
    /// Leave out directories that hold a file of this name, and, after a colon, begins with this text.
    pub if_present: Vec<String>,
    /// Leave out files larger than this many bytes.
    pub larger_than: Option<u64>,
    /// Stay on the file systems of the given paths (mount points are kept as empty directories).
    pub one_file_system: bool,
    /// Leave out the extended attributes whose names match one of these patterns.
    pub xattrs: Vec<String>,
}

/// How to ingest.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The host that the snapshot is of.
    pub host: Vec<u8>,
    /// The user who takes it.
    pub user: Vec<u8>,
    /// Its tags.
    pub tags: Vec<Vec<u8>>,
    /// The time it stands for; the start of the scan when `None`.
    pub time: Option<Timestamp>,
    /// Where unchanged files come from.
    pub parent: Parent,
    /// What to leave out.
    pub exclude: Exclude,
    /// Do not compare inode numbers (network file systems that make them up).
    pub ignore_inode: bool,
    /// Do not compare inode change times.
    pub ignore_ctime: bool,
    /// Read holes as the zeros they stand for.
    pub no_holes: bool,
    /// How hard to compress.
    pub compression: Compression,
    /// Threads that read small files; at least 8 by default, whatever the cores: a disk answers several requests
    /// sooner than one.
    pub readers: usize,
    /// Write no snapshot when nothing differs from the parent.
    pub skip_if_unchanged: bool,
    /// What matches one of these patterns may change while it is read, and is stored as it was read: no error.
    pub changed_is_ok: Vec<String>,
    /// An ingest without a parent counts in a walk ahead what there is, so that progress has totals.
    pub count_ahead: bool,
    /// Only count; write nothing.
    pub dry_run: bool,
    /// A pack is closed when it has this many bytes.
    pub pack_size: u64,
    /// A running ingest writes a segment of the index, and forgets what it remembers of the chunks in it, when it has
    /// stored this many chunks since the last one (or 16 packs).
    pub segment_chunks: usize,
    /// Freezes the source while it is read.
    pub still: Option<FreezeHooks>,
    /// Makes snapshots of file systems, from which paths are read.
    pub volumes: Option<VolumeHook>,
    /// The set that is ingested, for the snapshot to keep.
    pub set: Option<SetText>,
    /// The group that the snapshot is a part of.
    pub group: Option<GroupPart>,
    /// An ingest that walks the same tree in step with another one, and lets that one go ahead, may always wait so long for
    /// it at one time; longer if it would itself need longer. Zero: it does not wait.
    pub wait_for_others: Duration,
    /// Paths that must never be ingested: the repository itself, the cache.
    pub never: Vec<std::path::PathBuf>,
    /// Where this machine remembers since when sessions of other machines stand still; `None`: nowhere.
    pub state: Option<std::path::PathBuf>,
    /// Snapshots that were here before and are gone, without having been forgotten: the new one names them, so that
    /// everybody learns of it.
    pub gone: Vec<SnapshotId>,
    /// Store nothing else than these chunks, and no snapshot: what was lost is stored again.
    pub only: Option<Arc<OnlyChunks>>,
}

/// The keys of so many chunks are in memory, and are lost when an ingest is killed, unless 16 packs come first.
const SEGMENT_CHUNKS: usize = 1 << 18;
/// One segment of another writer on a busy disk.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(2);

impl Default for IngestOptions {
    fn default() -> Self {
        IngestOptions {
            host: crate::sys::process::host_name(),
            user: crate::sys::users::user_name(crate::sys::process::user()).unwrap_or_default(),
            tags: Vec::new(),
            time: None,
            parent: Parent::Auto,
            exclude: Exclude::default(),
            ignore_inode: false,
            ignore_ctime: false,
            no_holes: false,
            compression: Compression::Auto,
            readers: 8,
            skip_if_unchanged: false,
            changed_is_ok: Vec::new(),
            count_ahead: false,
            dry_run: false,
            pack_size: PACK_TARGET,
            segment_chunks: SEGMENT_CHUNKS,
            still: None,
            volumes: None,
            set: None,
            group: None,
            wait_for_others: WAIT_FOR_OTHERS,
            never: Vec::new(),
            state: None,
            gone: Vec::new(),
            only: None,
        }
    }
}

/// A given path: where it is, and where it stands in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is read. A link is stored as a link; with a slash at the end of its path, what it leads to is stored under
    /// its name.
    pub path: std::path::PathBuf,
    /// Its absolute path in the snapshot; differs from `path` for `--as`.
    pub stored: Vec<u8>,
}

/// What an ingest did. Counts are in the snapshot's statistics.
#[derive(Debug, Clone)]
pub struct IngestReport {
    /// The snapshot; with `dry_run`, or when it was skipped as unchanged, it is not in the repository.
    pub snapshot: Snapshot,
    /// Whether it was committed.
    pub committed: bool,
    /// Given paths that are not there, or could not be stored where they were given.
    pub missing_sources: usize,
    /// Patterns that nothing matched, as they were given.
    pub unmatched: Vec<String>,
    /// Signs that something turned the source over since the parent was made.
    pub signs: Vec<Sign>,
}

impl IngestReport {
    /// Whether everything that was given is in the snapshot as it was.
    pub fn is_complete(&self) -> bool {
        self.missing_sources == 0 && self.snapshot.statistics.errors == 0
    }
}
