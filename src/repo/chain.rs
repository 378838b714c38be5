//! The chain of snapshots: each names those before it, so that a list which lacks one is seen to lack it, by everybody
//! and from the first snapshot that is shown. A snapshot that was forgotten has a mark, and its mark names what it
//! followed: the chain goes on there when prune has removed the snapshot.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::format::snapshot::MAX_LIST;
use crate::model::{Chain, SnapshotId};
use crate::repo::Repository;
use crate::repo::small::Small;
use crate::repo::{marks, snapshots};

/// What the chain of a list says.
#[derive(Debug, Default)]
pub struct ChainView {
    /// Snapshots that the chain names and that are neither there nor forgotten, sorted.
    pub gone: Vec<SnapshotId>,
    /// What each snapshot that is there names, and each forgotten one that the chain was followed through.
    names: HashMap<SnapshotId, Vec<SnapshotId>>,
}

/// Follows the chain from the snapshots of this list ([`snapshots::present`]) through marks, and finds what is gone. Each
/// mark is read once by a process, those of one step beside each other.
pub fn look(repo: &Repository, present: &[SnapshotId]) -> Result<ChainView> {
    let mut out = ChainView::default();
    {
        let known = repo.memory.snapshots.lock();
        out.names.extend(present.iter().map(|id| (*id, known.get(id).map(|chain| chain.follows.clone()).unwrap_or_default())));
    }
    let mut seen: HashSet<SnapshotId> = present.iter().copied().collect();
    let mut next: Vec<SnapshotId> = out.names.values().flatten().copied().filter(|id| seen.insert(*id)).collect();
    while !next.is_empty() {
        let (found, _) = marks::read_many(repo, &next)?;
        for id in std::mem::take(&mut next) {
            let Some(mark) = found.get(&id) else {
                out.gone.push(id);
                continue;
            };
            next.extend(mark.follows.iter().copied().filter(|id| seen.insert(*id)));
            out.names.insert(id, mark.follows.clone());
        }
    }
    // What was listed may be older than what names it.
    let mut gone = Vec::with_capacity(out.gone.len());
    for id in std::mem::take(&mut out.gone) {
        if matches!(snapshots::judge(repo, id)?, Small::Gone | Small::MadeUp(_) | Small::Sound(None)) {
            gone.push(id);
        }
    }
    gone.sort_unstable();
    out.gone = gone;
    Ok(out)
}

/// The place of a snapshot that is committed now: after all that are there, and after `gone`, which its writer has seen
/// and which are not there any more.
pub fn next(repo: &Repository, gone: &[SnapshotId]) -> Result<Chain> {
    let present = snapshots::present(repo)?;
    let known = repo.memory.snapshots.lock();
    let chains: Vec<&Chain> = present.iter().filter_map(|id| known.get(id)).collect();
    let named: HashSet<SnapshotId> = chains.iter().flat_map(|chain| chain.follows.iter().copied()).collect();
    let last = chains.iter().map(|chain| chain.number).max().unwrap_or(0);
    let follows = present.iter().chain(gone).copied().filter(|id| !named.contains(id));
    Ok(Chain { number: last.saturating_add(1), follows: sorted(follows.collect()) })
}

/// What the marks of `ids`, which are to be forgotten now, have to name: what each followed, and in the place of what is
/// forgotten itself, before or with it, what that followed. So a chain through marks stays short.
pub fn behind(repo: &Repository, ids: &[SnapshotId]) -> Result<HashMap<SnapshotId, Vec<SnapshotId>>> {
    let present = snapshots::present(repo)?;
    let view = look(repo, &present)?;
    let mut going: Vec<SnapshotId> = ids.to_vec();
    {
        let known = repo.memory.snapshots.lock();
        going.sort_by_key(|id| known.get(id).map(|chain| chain.number));
    }
    let forgotten: HashSet<SnapshotId> = ids.iter().copied().collect();
    let stays: HashSet<SnapshotId> = present.into_iter().filter(|id| !forgotten.contains(id)).collect();
    let mut out: HashMap<SnapshotId, Vec<SnapshotId>> = HashMap::new();
    for id in going {
        let (mut follows, mut seen) = (Vec::new(), HashSet::from([id]));
        let mut open = vec![id];
        while let Some(at) = open.pop() {
            // The older ones come first: what they name is known by now.
            let names = out.get(&at).or_else(|| view.names.get(&at)).map_or(&[][..], Vec::as_slice);
            for name in names.iter().copied().filter(|name| seen.insert(*name)) {
                match !stays.contains(&name) && view.names.contains_key(&name) {
                    true => open.push(name),
                    false => follows.push(name),
                }
            }
        }
        out.insert(id, sorted(follows));
    }
    Ok(out)
}

fn sorted(mut ids: Vec<SnapshotId>) -> Vec<SnapshotId> {
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(MAX_LIST);
    ids
}
