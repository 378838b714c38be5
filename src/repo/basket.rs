//! The wastebasket: forgotten snapshots that prune leaves for the time that their marks say, so that forgetting can be
//! taken back.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::format::snapshot::Mark;
use crate::model::{Snapshot, SnapshotId, Timestamp};
use crate::repo::small::Small;
use crate::repo::{Repository, marks, parallel, snapshots};
use crate::storage::{Class, Name};

/// Until when prune leaves these forgotten snapshots, of those that it does leave at `now`. The time begins when the
/// storage received the mark, by its own clock; where nobody notes that, when the mark says.
pub fn kept(repo: &Repository, marks: &HashMap<SnapshotId, Arc<Mark>>, now: Timestamp) -> Result<HashMap<SnapshotId, Timestamp>> {
    if marks.values().all(|mark| mark.grace == 0) {
        return Ok(HashMap::new());
    }
    let received: HashMap<Name, Timestamp> =
        repo.storage().received(Class::Forgotten)?.into_iter().map(|(name, receipt)| (name, receipt.at)).collect();
    let until = |(id, mark): (&SnapshotId, &Arc<Mark>)| {
        let from = received.get(&Name::Forgotten(*id)).copied().unwrap_or(mark.time);
        let secs = from.secs.saturating_add(i64::try_from(mark.grace).unwrap_or(i64::MAX));
        (*id, Timestamp { secs, ..from })
    };
    Ok(marks.iter().filter(|(_, mark)| mark.grace > 0).map(until).filter(|(_, until)| *until > now).collect())
}

/// A forgotten snapshot that no prune has removed yet.
#[derive(Debug)]
pub struct ForgottenSnapshot {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Who forgot it, when and why.
    pub mark: Arc<Mark>,
    /// Until when prune leaves it; `None`: the next prune removes it.
    pub until: Option<Timestamp>,
}

/// All forgotten snapshots that are still there, oldest first. Those that cannot be read are left out.
pub fn all(repo: &Repository, now: Timestamp) -> Result<Vec<ForgottenSnapshot>> {
    let listed = repo.storage().list(Class::Snapshots)?.into_iter();
    let ids: Vec<SnapshotId> =
        listed.filter_map(|(name, _)| if let Name::Snapshot(id) = name { Some(id) } else { None }).collect();
    let (marked, _) = marks::marked(repo, &ids)?;
    let until = kept(repo, &marked, now)?;
    let ids: Vec<SnapshotId> = marked.keys().copied().collect();
    let mut out = Vec::with_capacity(ids.len());
    for found in parallel::many(repo, &ids, |id| snapshots::judge(repo, *id)) {
        if let Small::Sound(Some(snapshot)) = found?
            && let Some(mark) = marked.get(&snapshot.id).cloned()
        {
            let until = until.get(&snapshot.id).copied();
            out.push(ForgottenSnapshot { snapshot, mark, until });
        }
    }
    out.sort_by_key(|found| (found.snapshot.time, found.snapshot.id));
    Ok(out)
}
