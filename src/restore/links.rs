//! Hard links: which entries are one inode. A link that was met first is remembered until its group is complete, the
//! last ones in memory, all others in a table that may lie on disk; so is which inodes that were there are in use.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, IoContext, Result};
use crate::model::{Kind, LinkGroup, Node};
use crate::restore::RestoreSource;
use crate::restore::run::RestoreRun;
use crate::restore::target::TargetDirectory;
use crate::sys::table::{Table, TableKey, key_of};
use crate::sys::{Dir, Stat};

/// Working memory for each group in memory: several times what one takes with its entry's content.
const MEMORY_A_GROUP: u64 = 2048;
/// What a table keeps of a group: position, inode, device, whether inode and device are known.
const SPILLED: usize = 8 + 8 + 8 + 1;

/// Where the first link is.
#[derive(Debug)]
pub(crate) enum LinkLocation {
    /// In a directory that is held.
    Held(Arc<TargetDirectory>),
    /// Below the target, by the names of directories.
    Below(Vec<Vec<u8>>),
}

/// The first restored link of a group: where it is, and its inode once it is complete.
#[derive(Debug)]
pub(crate) struct FirstLink {
    spot: LinkLocation,
    pub(crate) name: Vec<u8>,
    /// What it is, and what is in it: the other links are the same, or they are none.
    pub(crate) kind: Kind,
    /// Device and inode; set when this run has made it or found it right.
    pub(crate) inode: OnceLock<((u32, u32), u64)>,
}

impl FirstLink {
    /// Records that the link is complete.
    pub(crate) fn complete(&self, stat: &Stat) {
        let _ = self.inode.set((stat.device, stat.inode));
    }

    /// The directory it is in.
    pub(crate) fn dir(&self, run: &RestoreRun<'_>) -> io::Result<Arc<Dir>> {
        match &self.spot {
            LinkLocation::Held(directory) => run.target.open(directory),
            LinkLocation::Below(names) => Ok(Arc::new(run.open_names(names)?)),
        }
    }
}

/// A group whose links are not all seen: its first one, where that stands in the snapshot, and how many are to come.
struct OpenGroup {
    first: Arc<FirstLink>,
    position: u64,
    left: u32,
}

/// The groups of one source.
pub(crate) struct RestoredGroups<'r> {
    source: &'r RestoreSource<'r>,
    recent: HashMap<LinkGroup, OpenGroup>,
    most: usize,
    spilled: Option<Table<SPILLED>>,
    scratch: Option<PathBuf>,
}

impl<'r> RestoredGroups<'r> {
    /// None yet.
    pub(crate) fn new(run: &RestoreRun<'_>, source: &'r RestoreSource<'r>) -> Self {
        let most = (run.options.memory / MEMORY_A_GROUP).max(16) as usize;
        RestoredGroups { source, recent: HashMap::new(), most, spilled: None, scratch: run.scratch() }
    }

    /// The first link of the group of `node`, and whether it was met before. `place` and `position` are the node's own.
    pub(crate) fn find(
        &mut self,
        run: &RestoreRun<'_>,
        group: &LinkGroup,
        place: &Arc<TargetDirectory>,
        position: u64,
        node: &Node,
    ) -> Result<(Arc<FirstLink>, bool)> {
        if let Some(open) = self.recent.get_mut(group) {
            let first = open.first.clone();
            open.left = open.left.saturating_sub(1);
            if open.left == 0 {
                self.recent.remove(group);
            }
            return Ok((first, true));
        }
        if let Some(first) = self.find_spilled(run, group)? {
            return Ok((Arc::new(first), true));
        }
        let (spot, name, kind) = (LinkLocation::Held(place.clone()), node.name.clone(), node.kind.clone());
        let first = Arc::new(FirstLink { spot, name, kind, inode: OnceLock::new() });
        let entry = match &self.source.snapshot.links {
            Some(root) => run.tree.link(root, group)?,
            None => None,
        };
        // A group that the table does not have is kept to the end.
        let left = entry.map_or(u32::MAX, |entry| entry.count.saturating_sub(1));
        if left > 0 {
            self.spill()?;
            self.recent.insert(*group, OpenGroup { first: first.clone(), position, left });
        }
        Ok((first, false))
    }

    /// Makes room in memory, when there are too many groups: those that nobody works on go to the table.
    fn spill(&mut self) -> Result<()> {
        if self.recent.len() < self.most {
            return Ok(());
        }
        let table = self.spilled.get_or_insert_with(|| Table::new(self.scratch.as_deref()));
        let mut result = Ok(false);
        self.recent.retain(|group, open| {
            if result.is_err() || Arc::strong_count(&open.first) > 1 {
                return true;
            }
            result = table.put(&key_of(&group.0), &record(open.position, open.first.inode.get()));
            false
        });
        result.at(|| "cannot remember hard links".to_owned())?;
        // Those that are worked on are as many as a few windows have.
        self.most = self.most.max(self.recent.len() * 2);
        Ok(())
    }

    fn find_spilled(&self, run: &RestoreRun<'_>, group: &LinkGroup) -> Result<Option<FirstLink>> {
        let Some(table) = &self.spilled else { return Ok(None) };
        let Some((position, inode)) = table.get(&key_of(&group.0)).map(|record| parse(&record)) else { return Ok(None) };
        let (mut names, kind) = self.path_of(run, position)?;
        let name = names.pop().unwrap_or_default();
        let inode = inode.map_or_else(OnceLock::new, OnceLock::from);
        Ok(Some(FirstLink { spot: LinkLocation::Below(names), name, kind, inode }))
    }

    /// Where the node at `position`, reckoned from the source's own, goes in the target, and its kind.
    fn path_of(&self, run: &RestoreRun<'_>, position: u64) -> Result<(Vec<Vec<u8>>, Kind)> {
        let gone = || Error::corrupt("a tree does not hold what it counts (see: yester check)");
        let mut names: Vec<Vec<u8>> = Vec::new();
        if !self.source.direct {
            let parents = self.source.parents.iter().skip(1).chain([&self.source.node]);
            names.extend(parents.map(|node| node.name.clone()));
        }
        let (mut node, mut left) = (self.source.node.clone(), position);
        while left > 0 {
            let entry = run.tree.entry_at(node.directory().ok_or_else(gone)?, left)?.ok_or_else(gone)?;
            left = left.checked_sub(entry.offset).ok_or_else(gone)?;
            node = entry.node().clone();
            names.push(node.name.clone());
        }
        Ok((names, node.kind))
    }
}

fn record(position: u64, inode: Option<&((u32, u32), u64)>) -> [u8; SPILLED] {
    let ((major, minor), number) = inode.copied().unwrap_or_default();
    let mut out = [0; SPILLED];
    out[..8].copy_from_slice(&position.to_le_bytes());
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..20].copy_from_slice(&major.to_le_bytes());
    out[20..24].copy_from_slice(&minor.to_le_bytes());
    out[24] = u8::from(inode.is_some());
    out
}

type InodeId = ((u32, u32), u64);

fn parse(record: &[u8; SPILLED]) -> (u64, Option<InodeId>) {
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record[at + i]));
    let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record[at + i]));
    (long(0), (record[24] != 0).then(|| ((short(16), short(20)), long(8))))
}

/// Inodes with several names that were there before, and that an entry of this run is now: no second one may be it,
/// unless it is a link of the first.
#[derive(Debug)]
pub(crate) struct ClaimedInodes(Table<0>);

impl ClaimedInodes {
    /// None yet; a table that grows large goes to `scratch`.
    pub(crate) fn new(scratch: Option<PathBuf>) -> Self {
        ClaimedInodes(Table::new(scratch.as_deref()))
    }

    /// Takes the inode for an entry; false when another has it.
    pub(crate) fn claim(&mut self, stat: &Stat) -> io::Result<bool> {
        self.0.put(&inode_key(stat), &[])
    }
}

fn inode_key(stat: &Stat) -> TableKey {
    let numbers = [u64::from(stat.device.0), u64::from(stat.device.1), stat.inode];
    key_of(numbers.map(u64::to_le_bytes).as_flattened())
}
