//! What became of a path.

use std::collections::HashMap;

use crate::error::Result;
use crate::model::{Kind, Node, Snapshot};
use crate::query::diff::{DiffAction, DiffOptions, Other};
use crate::query::sweep::{EntryVersion, SweepVisitor, sweep};
use crate::query::{SnapshotSet, diff};
use crate::repo::parallel;
use crate::repo::tree::TreeReader;
use crate::task::Task;

/// Snapshots that follow one another with a path in one state.
#[derive(Debug, Clone)]
pub struct HistoryRun {
    /// The state; `None`: it is not there.
    pub node: Option<Node>,
    /// The first of the snapshots, by its place in the list.
    pub first: usize,
    /// The last.
    pub last: usize,
}

/// The states of the entry called `names` (from the root) in `snapshots`. A directory that is the same in several is
/// looked into once.
pub fn versions(trees: &TreeReader, snapshots: &[&Snapshot], names: &[&[u8]], task: &Task<'_>) -> Result<Vec<EntryVersion>> {
    versions_where(trees, snapshots, names, task, &|_, _| true)
}

/// As [`versions`], without what is below an entry that `keep` refuses. It gets how deep the entry is (0: the root).
pub(crate) fn versions_where(
    trees: &TreeReader,
    snapshots: &[&Snapshot],
    names: &[&[u8]],
    task: &Task<'_>,
    keep: &dyn Fn(usize, &Node) -> bool,
) -> Result<Vec<EntryVersion>> {
    let roots = snapshots.iter().enumerate().map(|(at, snapshot)| (snapshot.root.clone(), SnapshotSet::one(at)));
    let mut states = distinct(roots);
    states.retain(|state| keep(0, &state.node));
    for (depth, name) in names.iter().enumerate() {
        // Each is another page, most in another pack: one after the other they would be waited for.
        let look = |state: &EntryVersion| -> Result<Option<Node>> {
            task.go_on("the search was stopped")?;
            let Some(directory) = state.node.directory() else { return Ok(None) };
            Ok(trees.lookup(directory, name)?.map(|entry| entry.node().clone()))
        };
        let found: Result<Vec<_>> = parallel::many(trees.chunks().repo(), &states, look).into_iter().collect();
        let below = found?.into_iter().zip(states).filter_map(|(node, state)| Some((node?, state.set)));
        states = distinct(below);
        states.retain(|state| keep(depth + 1, &state.node));
    }
    Ok(states)
}

/// States that lead to the same are one.
fn distinct(states: impl Iterator<Item = (Node, SnapshotSet)>) -> Vec<EntryVersion> {
    let mut out: Vec<EntryVersion> = Vec::new();
    let mut directories: HashMap<crate::model::ChunkId, Vec<usize>> = HashMap::new();
    for (node, set) in states {
        let root = node.directory().and_then(|directory| directory.root);
        let known = match root {
            Some(root) => directories.get(&root.page).into_iter().flatten().find(|at| out[**at].node == node).copied(),
            None => out.iter().position(|version| version.node == node),
        };
        match known {
            Some(at) => out[at].set.add(&set),
            None => {
                if let Some(root) = root {
                    directories.entry(root.page).or_default().push(out.len());
                }
                out.push(EntryVersion { node, set });
            }
        }
    }
    out
}

/// The states in the order of `count` snapshots. What is not there before it came first is left out.
pub fn runs(versions: &[EntryVersion], count: usize) -> Vec<HistoryRun> {
    let mut out: Vec<HistoryRun> = Vec::new();
    for at in 0..count {
        let node = versions.iter().find(|version| version.set.has(at)).map(|version| &version.node);
        match out.last_mut() {
            Some(last) if same(last.node.as_ref(), node) => last.last = at,
            None if node.is_none() => {}
            _ => out.push(HistoryRun { node: node.cloned(), first: at, last: at }),
        }
    }
    out
}

fn same(before: Option<&Node>, after: Option<&Node>) -> bool {
    match (before, after) {
        (None, None) => true,
        (Some(before), Some(after)) => reasons(before, after).is_empty(),
        _ => false,
    }
}

/// What changed from one state to the next: as `diff::metadata`, `content`, `kind`, or `entries` of a directory.
pub fn reasons(before: &Node, after: &Node) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    match (&before.kind, &after.kind) {
        (Kind::Directory(a), Kind::Directory(b)) => reasons.extend((a != b).then_some("entries")),
        (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => reasons.push("kind"),
        (a, b) => reasons.extend((a != b).then_some("content")),
    }
    // What only leads to a given path is as it happened to be.
    if before.given && after.given {
        reasons.extend(diff::metadata(&before.meta, &after.meta));
    }
    reasons
}

/// Where what is at `path` in `after` was in `before`, if it has moved with the same content since: itself, or a
/// directory that it is in. Reads what differs between the two.
pub fn renamed_from(
    trees: &TreeReader,
    before: &Snapshot,
    after: &Snapshot,
    path: &[u8],
    task: &Task<'_>,
) -> Result<Option<Vec<u8>>> {
    let mut found = None;
    diff::diff(trees, &before.root, Other::Tree(&after.root), &DiffOptions::default(), task, &mut |change| {
        let below = path.strip_prefix(change.path.as_slice()).filter(|below| below.is_empty() || below.starts_with(b"/"));
        if let (Some(below), Some(from), DiffAction::Renamed) = (below, &change.from, change.action) {
            found = Some([from, below].concat());
        }
        Ok(())
    })?;
    Ok(found)
}

/// Takes a path with its states.
pub(crate) type TakeVersions<'a> = dyn FnMut(&[u8], &[EntryVersion]) -> Result<()> + 'a;

/// Gives every path below the directory that is in these states to `out`, with its states, where they are not the same
/// in all of `common`.
pub fn below(
    trees: &TreeReader,
    path: &[u8],
    versions: &[EntryVersion],
    common: &SnapshotSet,
    task: &Task<'_>,
    out: &mut TakeVersions<'_>,
) -> Result<()> {
    sweep(trees, path, crate::query::sweep::directories(versions), Some(common), task, &mut HistoryVisitor(out))
}

struct HistoryVisitor<'a>(&'a mut TakeVersions<'a>);

impl SweepVisitor for HistoryVisitor<'_> {
    fn entry(&mut self, path: &[u8], versions: &[EntryVersion]) -> Result<bool> {
        (self.0)(path, versions).map(|()| true)
    }
}
