//! Packs and segments that are not there because a prune has deleted them.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::{ErrorKind, Result};
use crate::model::PackId;
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::index::condemned;

/// Whether a pack that is not there was deleted by a prune. It was marked for deletion before, and that mark goes only
/// when no segment names the pack any more; so the marks are read first.
pub(super) fn is_moved(repo: &Repository, id: PackId) -> Result<bool> {
    Ok(condemned::read_all(repo)?.packs().contains(&id) || !Index::load(repo)?.packs().any(|pack| pack.id == id))
}

/// Asks the newest index; where a segment of it is gone, the one of the segments that are listed then (rule 10 of the
/// protocol).
pub(super) fn ask<T>(
    repo: &Repository,
    newest: &RwLock<Arc<Index>>,
    mut work: impl FnMut(&Arc<Index>) -> Result<T>,
) -> Result<T> {
    loop {
        let index = newest.read().clone();
        let error = match work(&index) {
            Err(e) if e.kind() == ErrorKind::NotFound => e,
            other => return other,
        };
        let mut newest = newest.write();
        if Arc::ptr_eq(&index, &newest) {
            if !index.has_moved(repo)? {
                return Err(error);
            }
            *newest = Arc::new(index.load_again(repo)?);
        }
    }
}
