//! How an ingest shares out what the process may have.

use crate::sys::process;

/// Files that one reader opens before their turn, at most.
const READ_AHEAD: usize = 16;

/// Directories below one another that the count goes into, at most.
const COUNTED: usize = 256;

/// What each part of an ingest may have of the files that the process may open.
pub(crate) struct Shares {
    /// Threads that read small files.
    pub(crate) small_readers: usize,
    /// Files that each of them may have open.
    pub(crate) ahead: usize,
    /// Threads that read big files.
    pub(crate) big_readers: usize,
    /// Directories that are scanned ahead.
    pub(crate) scanned: usize,
    /// Directories that the count may have open.
    pub(crate) counted: usize,
    /// Directories of the walk and of files to be read.
    pub(crate) directories: usize,
}

impl Shares {
    /// Of `limit`, when so many readers are wanted.
    pub(crate) fn of(limit: u64, readers: usize) -> Shares {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let small_readers = readers.clamp(1, 256).min((limit / 6).max(1));
        let ahead = (limit / 8 / small_readers).clamp(1, READ_AHEAD);
        let big_readers = process::cores().clamp(2, 8).min((limit / 16).max(1));
        let scanned = (limit / 16).clamp(2, 48);
        let counted = (limit / 16).clamp(2, COUNTED);
        // Sealers read previous versions of what they seal; 16 are for the repository, the process and its terminal.
        let others = small_readers * ahead + big_readers + scanned + counted + 2 * process::cores() + 16;
        Shares { small_readers, ahead, big_readers, scanned, counted, directories: limit.saturating_sub(others).clamp(6, 4096) }
    }
}
