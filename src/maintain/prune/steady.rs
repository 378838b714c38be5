//! A look at a repository that others change meanwhile: another prune moves chunks, a merge replaces segments.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::storage::{Class, Name};

/// So many looks in a row end with the same finding: it is no accident.
const SAME: usize = 3;
/// So many looks are enough, whatever changes.
const LOOKS: usize = 100;

/// Looks until nothing is missing, or nothing changed while it was looked: only then is something lost. Each look must
/// begin anew: what it remembers of an earlier one may have been forgotten and deleted since.
pub(super) fn steady<T>(repo: &Repository, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut found: Vec<String> = Vec::new();
    loop {
        let before = names(repo)?;
        let e = match look() {
            Err(e) if is_missing(&e) => e,
            other => return other,
        };
        let text = e.to_string();
        let same = found.iter().filter(|known| **known == text).count() + 1;
        if same >= SAME || found.len() >= LOOKS || names(repo)? == before {
            return Err(e);
        }
        found.push(text);
    }
}

/// Whether something was not found, or not found to be whole.
pub(super) fn is_missing(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::WentBack)
}

/// What tells whether a repository changed: a process that deletes packs or segments has changed these before.
fn names(repo: &Repository) -> Result<HashSet<Name>> {
    let mut out = HashSet::new();
    for class in [Class::Index, Class::Condemned, Class::Snapshots, Class::Forgotten] {
        out.extend(repo.storage().list(class)?.into_iter().map(|(name, _)| name));
    }
    Ok(out)
}
