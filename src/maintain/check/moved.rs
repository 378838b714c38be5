//! Packs that are not there because a prune has deleted them.

use crate::error::Result;
use crate::model::PackId;
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::index::condemned;

/// Whether a pack that is not there was deleted by a prune. It was marked for deletion before, and that mark goes only
/// when no segment names the pack any more; so the marks are read first.
pub(super) fn is_moved(repo: &Repository, id: PackId) -> Result<bool> {
    Ok(condemned::read_all(repo)?.packs().contains(&id) || !Index::load(repo)?.packs().any(|pack| pack.id == id))
}
