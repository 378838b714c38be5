//! Several trees gone through at once, directory by directory.
//!
//! Trees share pages. Of each directory every distinct page is read once, with the set of the snapshots it belongs to;
//! where only differences are wanted, what all have in common is not read at all.

use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::page::PageKind;
use crate::model::{ChunkId, Directory, Node};
use crate::query::SnapshotSet;
use crate::repo::tree::{NodePage, TreeReader};
use crate::task::Task;

/// One state of an entry, and the snapshots in which it is so.
#[derive(Debug, Clone)]
pub struct EntryVersion {
    /// The entry.
    pub node: Node,
    /// The snapshots.
    pub set: SnapshotSet,
}

/// What is done with what is found.
pub(crate) trait SweepVisitor {
    /// Gets the states of the entry at `path` (from the root, with slashes). Answers whether to go on below it.
    fn entry(&mut self, path: &[u8], versions: &[EntryVersion]) -> Result<bool>;

    /// Something could not be read: the rest goes on after `Ok`.
    fn failed(&mut self, _path: &[u8], error: Error) -> Result<()> {
        Err(error)
    }
}

/// A directory that is to be gone through: its path, and its states.
type Todo = (Vec<u8>, Vec<(Directory, SnapshotSet)>);

/// A page of the entries of a directory that is gone through: its first name, and whose it is.
struct SweepLeaf {
    key: Vec<u8>,
    page: ChunkId,
    set: SnapshotSet,
}

/// Goes through `roots`, the states of the directory at `path` (empty for the root). A directory's entries come by name,
/// then those of the directories in it. What is in all of `common` in the same state is left out.
pub(crate) fn sweep(
    trees: &TreeReader,
    path: &[u8],
    roots: Vec<(Directory, SnapshotSet)>,
    common: Option<&SnapshotSet>,
    task: &Task<'_>,
    visit: &mut dyn SweepVisitor,
) -> Result<()> {
    let mut todo: Vec<Todo> = vec![(path.to_vec(), roots)];
    while let Some((path, states)) = todo.pop() {
        task.go_on("the search was stopped")?;
        let start = todo.len();
        let result = directory(trees, &path, &states, common, visit, &mut todo);
        // The last pushed is taken first.
        todo[start..].reverse();
        if let Err(SweepStop::Unreadable(e)) = result {
            let shown = if path.is_empty() { "/".to_owned() } else { crate::model::escape(&path) };
            visit.failed(&path, e.context(shown))?;
        } else if let Err(SweepStop::Asked(e)) = result {
            return Err(e);
        }
    }
    Ok(())
}

/// Why a directory was not gone through to its end.
enum SweepStop {
    Unreadable(Error),
    Asked(Error),
}

fn directory(
    trees: &TreeReader,
    path: &[u8],
    states: &[(Directory, SnapshotSet)],
    common: Option<&SnapshotSet>,
    visit: &mut dyn SweepVisitor,
    todo: &mut Vec<Todo>,
) -> std::result::Result<(), SweepStop> {
    let mut names = DirectorySweep::new(trees, states, common, b"").map_err(SweepStop::Unreadable)?;
    while let Some((name, versions)) = names.next().map_err(SweepStop::Unreadable)? {
        if let ([version], Some(common)) = (versions.as_slice(), common)
            && version.set.holds(common)
        {
            continue;
        }
        let path = [path, b"/", &name].concat();
        if !visit.entry(&path, &versions).map_err(SweepStop::Asked)? {
            continue;
        }
        let below = directories(&versions);
        if !below.is_empty() {
            todo.push((path, below));
        }
    }
    Ok(())
}

/// Goes through the names in the states of one directory. Holds one page of each distinct state.
pub(crate) struct DirectorySweep<'a> {
    trees: &'a TreeReader,
    leaves: Peekable<std::vec::IntoIter<SweepLeaf>>,
    open: Vec<(Arc<NodePage>, usize, SnapshotSet)>,
    from: &'a [u8],
}

impl<'a> DirectorySweep<'a> {
    /// Begins with the first name that is not before `from`.
    pub(crate) fn new(
        trees: &'a TreeReader,
        states: &[(Directory, SnapshotSet)],
        common: Option<&SnapshotSet>,
        from: &'a [u8],
    ) -> Result<Self> {
        Ok(DirectorySweep { trees, leaves: leaves(trees, states, common, from)?.into_iter().peekable(), open: Vec::new(), from })
    }

    /// The next name, and the states of the entry.
    pub(crate) fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<EntryVersion>)>> {
        // What begins before the first name that is open may hold that name, or one before it.
        let mut first = self.open.iter().map(|(page, at, _)| page.nodes[*at].name.clone()).min();
        while let Some(leaf) = self.leaves.next_if(|leaf| first.as_ref().is_none_or(|first| leaf.key <= *first)) {
            let page = self.trees.nodes(&leaf.page)?;
            let at = page.nodes.partition_point(|node| node.name.as_slice() < self.from);
            let Some(node) = page.nodes.get(at) else { continue };
            if first.as_ref().is_none_or(|first| node.name < *first) {
                first = Some(node.name.clone());
            }
            self.open.push((page, at, leaf.set));
        }
        let Some(name) = first else { return Ok(None) };
        let mut versions: Vec<EntryVersion> = Vec::new();
        self.open.retain_mut(|(page, at, set)| {
            let node = &page.nodes[*at];
            if node.name != name {
                return true;
            }
            match versions.iter_mut().find(|version| version.node == *node) {
                Some(version) => version.set.add(set),
                None => versions.push(EntryVersion { node: node.clone(), set: set.clone() }),
            }
            *at += 1;
            *at < page.nodes.len()
        });
        Ok(Some((name, versions)))
    }
}

/// The distinct directories among states of an entry: those that hold the same are one.
pub(crate) fn directories(versions: &[EntryVersion]) -> Vec<(Directory, SnapshotSet)> {
    let mut out: Vec<(Directory, SnapshotSet)> = Vec::new();
    for version in versions {
        let Some(directory) = version.node.directory().filter(|directory| directory.root.is_some()) else { continue };
        match out.iter_mut().find(|(known, _)| known == directory) {
            Some((_, set)) => set.add(&version.set),
            None => out.push((*directory, version.set.clone())),
        }
    }
    out
}

/// The distinct pages of entries of a directory's states, by first name. A page belongs to one place among the names, so
/// what all have in common needs no comparing.
fn leaves(
    trees: &TreeReader,
    states: &[(Directory, SnapshotSet)],
    common: Option<&SnapshotSet>,
    from: &[u8],
) -> Result<Vec<SweepLeaf>> {
    let mut levels: BTreeMap<u8, HashMap<ChunkId, (Vec<u8>, SnapshotSet)>> = BTreeMap::new();
    let put = |levels: &mut BTreeMap<u8, HashMap<_, (Vec<u8>, SnapshotSet)>>, level, page, key: &[u8], set: &SnapshotSet| {
        let pages = levels.entry(level).or_default();
        pages.entry(page).or_insert_with(|| (key.to_vec(), SnapshotSet::default())).1.add(set);
    };
    for (directory, set) in states {
        if let Some(root) = &directory.root {
            put(&mut levels, root.height, root.page, b"", set);
        }
    }
    let mut out = Vec::new();
    while let Some((level, pages)) = levels.pop_last() {
        for (page, (key, set)) in pages {
            if common.is_some_and(|common| set.holds(common)) {
                continue;
            }
            if level == 0 {
                out.push(SweepLeaf { key, page, set });
                continue;
            }
            let children = trees.children(&page, PageKind::Directory, level)?;
            for (at, child) in children.iter().enumerate() {
                // Where the next one begins, this one ends.
                if children.get(at + 1).is_none_or(|next| next.key.as_slice() > from) {
                    put(&mut levels, level - 1, child.page, &child.key, &set);
                }
            }
        }
    }
    out.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(out)
}
