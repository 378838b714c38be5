//! The parent snapshot: choosing it, and walking its tree in step with the source.

use std::sync::Arc;

use crate::chunk::one_way::only_writes;
use crate::error::{Error, ErrorKind, Result};
use crate::format::page::ScanRecord;
use crate::ingest::options::{IngestOptions, Parent};
use crate::ingest::plan::ParentDirectory;
use crate::model::{Directory, Node, Root, Snapshot, Timestamp};
use crate::repo::tree::{Entry, TreeReader};
use crate::repo::{Repository, snapshots, times};
use crate::sys::Stat;

/// The parent of an ingest of `paths`: the newest of the series, else the newest of the host that covers one of them.
pub(super) fn choose(repo: &Repository, paths: &[Vec<u8>], options: &IngestOptions) -> Result<Option<Snapshot>> {
    let of_host = |s: &Snapshot| s.host == options.host;
    match options.parent {
        Parent::None => Ok(None),
        Parent::Auto if repo.only_writes() => Ok(None),
        Parent::Id(_) if repo.only_writes() => Err(only_writes("read a parent")),
        // What is forgotten may be pruned already, though its object is still there.
        Parent::Id(id) if !snapshots::names(repo)?.contains(&id) => {
            Err(Error::new(ErrorKind::NotFound, format!("snapshot {} is not there any more: it was forgotten", id.short())))
        }
        Parent::Id(id) => match snapshots::load(repo, id)? {
            Some(snapshot) if snapshot.writer.is_some() => {
                let text = "was made with a key that only writes: what it says is not changed is not believed";
                Err(Error::invalid(format!("snapshot {} {text}; take another parent, or --force", id.short())))
            }
            Some(snapshot) => Ok(Some(snapshot)),
            None => Err(Error::new(ErrorKind::NotFound, format!("{} is no snapshot but a fence", id.short()))),
        },
        Parent::Auto => {
            // A damaged snapshot is no reason not to take a new one.
            let snapshots::SnapshotList { snapshots: all, received, .. } = snapshots::find_unannotated(repo)?;
            // A parent is trusted to say what has not changed: one that another client has put in this host's name is not.
            let client = repo.storage().client();
            let of_own = |s: &Snapshot| {
                let by = times::by(&received, s.id);
                s.writer.is_none() && of_host(s) && (client.is_none() || by.is_none_or(|by| Some(by) == client.as_deref()))
            };
            let series = all.iter().rposition(|s| of_own(s) && s.paths == paths);
            let at = series.or_else(|| all.iter().rposition(|s| of_own(s) && covers(s, paths)));
            Ok(at.and_then(|at| all.into_iter().nth(at)))
        }
    }
}

/// Whether a snapshot was given one of `paths`, or what one is in. There may be thousands of both: what a snapshot was
/// given is sorted, and so it is asked only for each path and what that is in.
fn covers(snapshot: &Snapshot, paths: &[Vec<u8>]) -> bool {
    let given = |path: &[u8]| snapshot.paths.binary_search_by(|given| given.as_slice().cmp(path)).is_ok();
    let above = |path: &[u8]| (1..path.len()).any(|at| path.get(at) == Some(&b'/') && given(path.get(..at).unwrap_or_default()));
    given(b"/") || paths.iter().any(|path| given(path) || above(path))
}

/// A parent snapshot that is walked in step with the source.
#[derive(Debug)]
pub(crate) struct ParentTree {
    trees: Arc<TreeReader>,
    scan: Option<Root>,
    scan_start: Timestamp,
    page: Option<(u64, Arc<Vec<ScanRecord>>)>,
    ignore_inode: bool,
    ignore_ctime: bool,
}

/// A directory of the parent, and where its walk is.
#[derive(Debug, Clone)]
pub(crate) struct ParentDir {
    node: Node,
    directory: Directory,
    position: u64,
    next: Option<Entry>,
}

impl ParentDir {
    /// Its node.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// What the directory's pages may be differences from.
    pub(crate) fn before(&self) -> Option<ParentDirectory> {
        self.directory.root.map(|root| ParentDirectory { root, position: self.position })
    }
}

/// An entry of the parent with its preorder position.
#[derive(Debug, Clone)]
pub(crate) struct ParentEntry {
    entry: Entry,
    /// Its preorder position in the parent snapshot.
    pub(crate) position: u64,
}

impl ParentEntry {
    /// The parent's node.
    pub(super) fn node(&self) -> &Node {
        self.entry.node()
    }
}

impl ParentTree {
    /// The tree of `snapshot`.
    pub(super) fn new(trees: Arc<TreeReader>, snapshot: &Snapshot, options: &IngestOptions) -> Self {
        ParentTree {
            trees,
            scan: snapshot.scan,
            scan_start: snapshot.scan_start,
            page: None,
            ignore_inode: options.ignore_inode,
            ignore_ctime: options.ignore_ctime,
        }
    }

    /// The reader of its trees.
    pub(crate) fn trees(&self) -> &Arc<TreeReader> {
        &self.trees
    }

    /// A directory of the parent, from its node and position.
    pub(super) fn directory(&self, node: &Node, position: u64) -> Option<ParentDir> {
        let directory = *node.directory()?;
        // A parent that cannot be read costs a re-read, never the ingest.
        let next = self.trees.entry_number(&directory, 0).ok().flatten();
        Some(ParentDir { node: node.clone(), directory, position, next })
    }

    /// The entry of `dir` called `name`, when names are asked for in ascending order. Those that nobody asked for are
    /// said to `gone`.
    pub(super) fn entry(&self, dir: &mut ParentDir, name: &[u8], gone: &mut dyn FnMut(&Node)) -> Option<ParentEntry> {
        while let Some(entry) = &dir.next {
            match entry.node().name.as_slice().cmp(name) {
                std::cmp::Ordering::Less => {
                    gone(entry.node());
                    dir.next = self.trees.next(&dir.directory, entry).ok().flatten();
                }
                std::cmp::Ordering::Equal => {
                    let found = ParentEntry { position: dir.position + entry.offset, entry: entry.clone() };
                    dir.next = self.trees.next(&dir.directory, entry).ok().flatten();
                    return Some(found);
                }
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }

    /// The entries of `dir` that nobody asked for until its end.
    pub(super) fn rest(&self, dir: &mut ParentDir, gone: &mut dyn FnMut(&Node)) {
        while let Some(entry) = dir.next.take() {
            gone(entry.node());
            dir.next = self.trees.next(&dir.directory, &entry).ok().flatten();
        }
    }

    /// Whether `stat` shows the file that the parent has, unchanged since it was read: same size, times and inode, and
    /// not flagged. A file may change twice within one tick of its file system's clock, so the time that would show a
    /// change (the inode's, which nobody can set; else the content's) must be two seconds older than the parent's scan.
    pub(super) fn is_unchanged(&mut self, entry: &ParentEntry, stat: &Stat) -> bool {
        let node = entry.node();
        let is_file = matches!(node.kind, crate::model::Kind::File(_));
        if !is_file || node.changed || node.size() != stat.size || node.meta.mtime != stat.mtime {
            return false;
        }
        let settled = |time: Timestamp| time.secs.saturating_add(2) <= self.scan_start.secs;
        if !settled(if self.ignore_ctime { stat.mtime } else { stat.ctime }) {
            return false;
        }
        match self.record(entry.position) {
            Some(record) => {
                (self.ignore_inode || record.inode == stat.inode) && (self.ignore_ctime || record.ctime == stat.ctime)
            }
            None => self.ignore_inode && self.ignore_ctime,
        }
    }

    /// Whether the parent has exactly these nodes at these paths.
    pub(super) fn holds(&self, root: &Node, given: &[(Vec<u8>, Node)]) -> bool {
        given.iter().all(|(path, node)| {
            let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
            self.trees.walk_to(root, &names).is_ok_and(|(found, _)| found == *node)
        })
    }

    fn record(&mut self, position: u64) -> Option<ScanRecord> {
        let within = |(first, records): &(u64, Arc<Vec<ScanRecord>>)| {
            position.checked_sub(*first).and_then(|at| records.get(at as usize)).copied()
        };
        if let Some(record) = self.page.as_ref().and_then(within) {
            return Some(record);
        }
        self.page = self.trees.scan_page(self.scan.as_ref()?, position).ok();
        self.page.as_ref().and_then(within)
    }
}
