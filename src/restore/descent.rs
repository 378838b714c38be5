//! Goes through what a restore takes of a directory of the snapshot, for those who look before or after the restore itself.

use crate::model::{Directory, Kind, Node};
use crate::repo::tree::Entry;
use crate::restore::filter::{FilterVerdict, PathFilter};
use crate::restore::run::RestoreRun;

/// Entries in the order of the tree, with one value (`T`) for each directory that was entered. Memory grows with the depth
/// only. What cannot be read is passed over: the restore itself tells of damage. A restore that is stopped ends it.
pub(super) struct Descent<'a, T> {
    run: &'a RestoreRun<'a>,
    filter: &'a PathFilter,
    levels: Vec<DescentLevel<T>>,
    /// That of the entry that came last.
    path: Vec<u8>,
}

/// A directory that is gone through.
struct DescentLevel<T> {
    model: Directory,
    value: T,
    taken: bool,
    next: Option<Entry>,
    path_len: usize,
}

/// An entry that the filter does not skip.
pub(super) struct DescentEntry<T> {
    entry: Entry,
    /// Of the directory that it is in.
    pub(super) value: T,
    pub(super) verdict: FilterVerdict,
}

impl<T> DescentEntry<T> {
    pub(super) fn node(&self) -> &Node {
        self.entry.node()
    }

    /// If it is a directory: it, to be entered.
    pub(super) fn directory(&self) -> Option<&Directory> {
        match &self.node().kind {
            Kind::Directory(model) => Some(model),
            _ => None,
        }
    }

    pub(super) fn is_taken(&self) -> bool {
        self.verdict == FilterVerdict::Take
    }
}

impl<'a, T: Clone> Descent<'a, T> {
    /// At `path`, inside the snapshot; nothing comes before a directory was entered.
    pub(super) fn new(run: &'a RestoreRun<'a>, filter: &'a PathFilter, path: Vec<u8>) -> Self {
        Descent { run, filter, levels: Vec::new(), path }
    }

    /// Goes down: what follows is what is in this directory, whose path is that of the entry that came last.
    pub(super) fn enter(&mut self, model: &Directory, taken: bool, value: T) {
        let next = self.run.tree.entry_number(model, 0).unwrap_or_default();
        self.levels.push(DescentLevel { model: *model, value, taken, next, path_len: self.path.len() });
    }

    pub(super) fn next(&mut self) -> Option<DescentEntry<T>> {
        while let Some(level) = self.levels.last_mut().filter(|_| !self.run.stopped()) {
            self.path.truncate(level.path_len);
            let Some(entry) = level.next.take() else {
                self.levels.pop();
                continue;
            };
            level.next = self.run.tree.next(&level.model, &entry).unwrap_or_default();
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.node().name);
            let verdict = self.filter.judge(&self.path, level.taken);
            if verdict != FilterVerdict::Skip {
                return Some(DescentEntry { entry, value: level.value.clone(), verdict });
            }
        }
        None
    }

    /// The path, inside the snapshot, of the entry that came last.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }
}
