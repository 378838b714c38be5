//! What differs between two trees.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Result;
use crate::model::{ChunkId, Content, Directory, Kind, Metadata, Node};
use crate::query::sweep::{EntryVersion, SweepVisitor, sweep};
use crate::query::{SnapshotSet, content, live};
use crate::repo::tree::TreeReader;
use crate::task::Task;

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffAction {
    /// It is only in the second tree.
    Added,
    /// It is only in the first tree.
    Removed,
    /// Its content differs.
    Changed,
    /// Only its metadata differs.
    Metadata,
    /// Its content is at another path.
    Renamed,
    /// It is only on this machine, and may have been left out of the snapshot.
    LeftOut,
}

/// One difference.
#[derive(Debug, Clone)]
pub struct Difference {
    /// What became of it.
    pub action: DiffAction,
    /// Its path, below what is compared; of a renamed entry the new one.
    pub path: Vec<u8>,
    /// The old path of a renamed entry.
    pub from: Option<Vec<u8>>,
    /// The entry in the first tree.
    pub before: Option<Node>,
    /// The entry in the second tree. Of a file of this machine only the size of its content is known.
    pub after: Option<Node>,
    /// What differs: `content`, `mode`, `owner`, `time`, `attributes`, `flags`, `target`, `device`.
    pub reasons: Vec<&'static str>,
}

/// What the first tree is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Other<'a> {
    /// A tree of the repository.
    Tree(&'a Node),
    /// A directory or file of this machine; and whether files are read whose size and time are the same.
    Live(&'a Path, bool),
}

/// How two trees are compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffOptions {
    /// Whether directories count whose time is all that differs.
    pub times: bool,
}

/// So many differences are held to find out what was renamed.
const HELD: usize = 200_000;

/// Gathers differences.
pub(crate) struct Gathering<'a> {
    trees: &'a TreeReader,
    options: &'a DiffOptions,
    task: &'a Task<'a>,
    done: Vec<Difference>,
    /// Entries of one side only, not yet looked into.
    tops: [Vec<(Vec<u8>, Node)>; 2],
    /// There are too many to look for what was renamed: they are given out at once.
    many: bool,
    out: &'a mut dyn FnMut(&Difference) -> Result<()>,
}

/// Compares `before` with `after`, and gives every difference to `out`, by path. Answers whether it was looked for what
/// was renamed: there may be too many differences, which then come as they are found.
pub fn diff(
    trees: &TreeReader,
    before: &Node,
    after: Other<'_>,
    options: &DiffOptions,
    task: &Task<'_>,
    out: &mut dyn FnMut(&Difference) -> Result<()>,
) -> Result<bool> {
    let mut gathering = Gathering { trees, options, task, done: Vec::new(), tops: Default::default(), many: false, out };
    match after {
        Other::Tree(after) => gathering.trees(before, after)?,
        Other::Live(path, read) => live::compare(trees, before, path, read, &mut gathering)?,
    }
    gathering.finish()
}

impl Gathering<'_> {
    fn trees(&mut self, before: &Node, after: &Node) -> Result<()> {
        let roots: Vec<(Directory, SnapshotSet)> = [before, after]
            .iter()
            .enumerate()
            .filter_map(|(at, node)| Some((*node.directory()?, SnapshotSet::one(at))))
            .collect();
        self.both(b"", before, after)?;
        if roots.len() == 2 {
            let (trees, task) = (self.trees, self.task);
            sweep(trees, b"", roots, Some(&SnapshotSet::below(2)), task, self)?;
        }
        Ok(())
    }

    /// An entry that is on both sides.
    fn both(&mut self, path: &[u8], before: &Node, after: &Node) -> Result<()> {
        if std::mem::discriminant(&before.kind) != std::mem::discriminant(&after.kind) {
            self.one(0, path, before)?;
            return self.one(1, path, after);
        }
        let mut reasons = contents(&before.kind, &after.kind);
        let content = !reasons.is_empty();
        // What only leads to a given path is as it happened to be.
        if before.given && after.given {
            reasons.extend(metadata(&before.meta, &after.meta));
        }
        self.found(path, before, after, reasons, content)
    }

    /// An entry that is on both sides, with what differs.
    pub(crate) fn found(
        &mut self,
        path: &[u8],
        before: &Node,
        after: &Node,
        reasons: Vec<&'static str>,
        content: bool,
    ) -> Result<()> {
        let only_time = reasons == ["time"] && before.directory().is_some() && !self.options.times;
        if reasons.is_empty() || only_time {
            return Ok(());
        }
        let action = if content { DiffAction::Changed } else { DiffAction::Metadata };
        let (before, after) = (Some(before.clone()), Some(after.clone()));
        self.push(Difference { action, path: path.to_vec(), from: None, before, after, reasons })
    }

    /// An entry that is on one side only.
    pub(crate) fn one(&mut self, side: usize, path: &[u8], node: &Node) -> Result<()> {
        if self.many {
            return self.whole(side, path, node);
        }
        self.tops[side].push((path.to_vec(), node.clone()));
        self.limit()
    }

    /// An entry of one side, by itself.
    pub(crate) fn single(&mut self, action: DiffAction, path: &[u8], node: &Node) -> Result<()> {
        let node = Some(node.clone());
        let (before, after) = if action == DiffAction::Removed { (node, None) } else { (None, node) };
        self.push(Difference { action, path: path.to_vec(), from: None, before, after, reasons: Vec::new() })
    }

    fn push(&mut self, change: Difference) -> Result<()> {
        if self.many {
            return (self.out)(&change);
        }
        self.done.push(change);
        self.limit()
    }

    /// Gives out what is held when it is too much.
    fn limit(&mut self) -> Result<()> {
        if self.done.len() + self.tops[0].len() + self.tops[1].len() <= HELD {
            return Ok(());
        }
        self.many = true;
        for change in std::mem::take(&mut self.done) {
            (self.out)(&change)?;
        }
        for (side, tops) in std::mem::take(&mut self.tops).into_iter().enumerate() {
            for (path, node) in tops {
                self.whole(side, &path, &node)?;
            }
        }
        Ok(())
    }

    /// An entry of one side with all that is below it.
    fn whole(&mut self, side: usize, path: &[u8], node: &Node) -> Result<()> {
        let action = [DiffAction::Removed, DiffAction::Added][side.min(1)];
        self.single(action, path, node)?;
        let Some(directory) = node.directory() else { return Ok(()) };
        let (trees, task) = (self.trees, self.task);
        sweep(trees, path, vec![(*directory, SnapshotSet::one(0))], None, task, &mut WholeDirectory { gathering: self, action })
    }

    fn finish(mut self) -> Result<bool> {
        while !self.many && self.tops.iter().any(|tops| !tops.is_empty()) {
            let [removed, added] = std::mem::take(&mut self.tops);
            let (removed, added) = self.renamed(removed, added);
            self.opened(0, removed)?;
            self.opened(1, added)?;
        }
        self.done.sort_by(|a, b| a.path.cmp(&b.path));
        self.done.iter().try_for_each(|change| (self.out)(change))?;
        Ok(!self.many)
    }

    /// Notes what has the same content on both sides, and returns the rest.
    fn renamed(&mut self, removed: Vec<TopEntry>, added: Vec<TopEntry>) -> (Vec<TopEntry>, Vec<TopEntry>) {
        let mut by_content: HashMap<RenameKey, Vec<TopEntry>> = HashMap::new();
        let mut left = Vec::new();
        for top in removed {
            match key(self.trees, &top.1) {
                Some(key) => by_content.entry(key).or_default().push(top),
                None => left.push(top),
            }
        }
        let mut rest = Vec::new();
        for (path, after) in added {
            let list = key(self.trees, &after).and_then(|key| by_content.get_mut(&key)).filter(|list| !list.is_empty());
            let Some(list) = list else {
                rest.push((path, after));
                continue;
            };
            let at = list.iter().position(|(_, before)| before.name == after.name).unwrap_or(0);
            let (from, before) = list.swap_remove(at);
            let reasons = metadata(&before.meta, &after.meta);
            let (from, before, after) = (Some(from), Some(before), Some(after));
            self.done.push(Difference { action: DiffAction::Renamed, path, from, before, after, reasons });
        }
        left.extend(by_content.into_values().flatten());
        (left, rest)
    }

    /// Notes entries of one side, and puts what is in them in the place of directories.
    fn opened(&mut self, side: usize, tops: Vec<TopEntry>) -> Result<()> {
        for (path, node) in tops {
            if self.many {
                self.whole(side, &path, &node)?;
                continue;
            }
            self.single([DiffAction::Removed, DiffAction::Added][side.min(1)], &path, &node)?;
            let Some(directory) = node.directory() else { continue };
            let trees = self.trees;
            for entry in trees.entries(directory) {
                let entry = entry?;
                self.one(side, &[&path, &b"/"[..], &entry.node().name].concat(), entry.node())?;
            }
        }
        Ok(())
    }
}

type TopEntry = (Vec<u8>, Node);

/// What is equal when an entry was renamed: whether it is a directory, its content, and its size.
type RenameKey = (bool, ChunkId, u64);

fn key(trees: &TreeReader, node: &Node) -> Option<RenameKey> {
    match &node.kind {
        Kind::File(content) if content.size() > 0 => Some((false, content::id(trees, content), content.size())),
        Kind::Directory(directory) => directory.root.map(|root| (true, root.page, directory.descendants)),
        _ => None,
    }
}

impl SweepVisitor for Gathering<'_> {
    fn entry(&mut self, path: &[u8], versions: &[EntryVersion]) -> Result<bool> {
        let of = |side: usize| versions.iter().find(|version| version.set.has(side)).map(|version| &version.node);
        match (of(0), of(1)) {
            (Some(before), Some(after)) => {
                self.both(path, before, after)?;
                Ok(before.directory().is_some() && after.directory().is_some())
            }
            (Some(node), None) => self.one(0, path, node).map(|()| false),
            (None, Some(node)) => self.one(1, path, node).map(|()| false),
            (None, None) => Ok(false),
        }
    }
}

/// Gives out everything below a directory of one side.
struct WholeDirectory<'g, 'a> {
    gathering: &'g mut Gathering<'a>,
    action: DiffAction,
}

impl SweepVisitor for WholeDirectory<'_, '_> {
    fn entry(&mut self, path: &[u8], versions: &[EntryVersion]) -> Result<bool> {
        for version in versions {
            self.gathering.single(self.action, path, &version.node)?;
        }
        Ok(true)
    }
}

/// What differs in the content of two entries of the same kind.
fn contents(before: &Kind, after: &Kind) -> Vec<&'static str> {
    let differs = match (before, after) {
        (Kind::File(before), Kind::File(after)) => (!same_content(before, after)).then_some("content"),
        (Kind::Symlink(before), Kind::Symlink(after)) => (before != after).then_some("target"),
        (Kind::Directory(_), _) => None,
        (before, after) => (before != after).then_some("device"),
    };
    differs.into_iter().collect()
}

fn same_content(before: &Content, after: &Content) -> bool {
    before == after
}

/// What differs in the metadata of two entries.
pub(crate) fn metadata(before: &Metadata, after: &Metadata) -> Vec<&'static str> {
    let differs = [
        (before.mode != after.mode, "mode"),
        ((before.uid, before.gid) != (after.uid, after.gid), "owner"),
        (before.mtime != after.mtime, "time"),
        (before.xattrs != after.xattrs, "attributes"),
        (before.flags != after.flags, "flags"),
    ];
    differs.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what).collect()
}
