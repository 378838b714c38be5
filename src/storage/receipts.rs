//! What a server notes in a repository's directory of who put which snapshot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::SnapshotId;

/// The directory with these notes, inside the repository's.
pub(crate) const WRITERS: &str = ".writers";

/// Whether a word may stand for who put an object: the id of a token, or the name of a client over ssh.
pub(crate) fn is_client(word: &str) -> bool {
    (1..=80).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// The note about a snapshot in the repository's `directory`.
pub(crate) fn note(directory: &Path, id: SnapshotId) -> PathBuf {
    directory.join(WRITERS).join(id.to_string())
}

/// Who put a snapshot; `None` when that is not known.
pub(crate) fn writer(directory: &Path, id: SnapshotId) -> Result<Option<String>> {
    match fs::read_to_string(note(directory, id)) {
        Ok(writer) => Ok(Some(writer).filter(|writer| is_client(writer))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        Err(e) => Err(Error::io(format!("cannot tell who put snapshot {}", id.short()), e)),
    }
}
