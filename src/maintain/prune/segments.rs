//! The index after packs are gone.

use std::collections::HashSet;

use crate::error::Result;
use crate::maintain::prune::view::RepositoryView;
use crate::maintain::prune::{Report, sessions};
use crate::model::{PackId, SegmentId, SnapshotId};
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::storage::Name;

/// Writes what the segments that name gone packs say of all others into a new one, and deletes them and all that are
/// replaced already (rule 8). Packs that are gone are those that the storage does not have (a missing one was asked for
/// by name: see [`RepositoryView::read`]).
/// With `rekey` also those that are sealed with a former key.
pub(super) fn rewrite(repo: &Repository, old: &Index, rekey: bool, report: &mut Report) -> Result<()> {
    let view = RepositoryView::read(repo, Some(old), None)?;
    let index = &view.index;
    let is_gone = |id: &PackId| !view.packs.contains_key(id);
    // What packs of keys that only write say of themselves becomes an ordinary segment: that is asked once.
    let names_gone = |at: &usize| {
        let segment = &index.segments()[*at];
        segment.is_in_memory() || rekey && segment.is_former() || segment.packs().iter().any(|pack| is_gone(&pack.id))
    };
    let which: Vec<usize> = (0..index.segments().len()).filter(names_gone).collect();
    if !which.is_empty() {
        let new = index.rewrite(repo, &which, index.replaced(), &|pack| !is_gone(&pack.id))?;
        // The new one is durable before the old ones go.
        repo.storage().sync()?;
        if let Some((_, size)) = new {
            report.written.add(size);
        }
    }
    // A writer who began before the new one was there reads from the old ones. They hide nothing and can wait.
    if !sessions::open(repo)?.is_empty() {
        return Ok(());
    }
    let rewritten = which.iter().map(|at| index.segments()[*at].id());
    if !which.is_empty() || !index.replaced().is_empty() {
        repo.key_is_current()?;
    }
    // The replaced ones first: they must not come back when what replaced them is gone.
    let old: Vec<SegmentId> = index.replaced().iter().copied().chain(rewritten).collect();
    for id in &old {
        repo.storage().delete(&Name::Segment(*id))?;
        report.segments.add(view.segments.get(id).copied().unwrap_or_default());
    }
    if old.is_empty() { Ok(()) } else { repo.storage().sync() }
}

/// The lists that are carried out: none of their packs is there, and no segment names any.
pub(super) fn carried_out(repo: &Repository, old: &Index, lists: &[SnapshotId]) -> Result<Vec<SnapshotId>> {
    if lists.is_empty() {
        return Ok(Vec::new());
    }
    let view = RepositoryView::read(repo, Some(old), None)?;
    // What replaced segments name is not known here: they are deleted first.
    if !view.index.replaced().is_empty() {
        return Ok(Vec::new());
    }
    let named: HashSet<PackId> = view.index.packs().map(|pack| pack.id).collect();
    let is_left = |id: &PackId| view.packs.contains_key(id) || named.contains(id);
    let done = view.lists.iter().filter(|s| lists.contains(&s.id) && !s.packs.iter().any(is_left));
    Ok(done.map(|list| list.id).collect())
}
