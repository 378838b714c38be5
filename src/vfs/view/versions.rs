//! `.versions`: the versions of a name, from all snapshots of a host.
//!
//! `DIR/.versions/NAME@TIME` is a link to the entry in the snapshot of that time. So the kernel judges by the modes of
//! the snapshot who gets there, no directory has two parents, and a tree that the kernel reads as an image stays one.
//! `hosts/<host>/.versions/PATH` shows the same where no image covers it, and where the newest snapshot has no such
//! directory any more. No list has a `.versions`: it is found by its name.
//!
//! Opening one does nothing. A list goes through the distinct pages of the directory's states, and holds one of each.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::View;
use crate::model::node::MAX_NAME;
use crate::model::{Directory, Node, Snapshot};
use crate::query::sweep::{self, DirectorySweep, EntryVersion};
use crate::query::{SnapshotSet, history};
use crate::task::Task;
use crate::vfs::attr::{Attr, DirEntry, Type, ViewFault, ViewResult};
use crate::vfs::follow::FollowerState;
use crate::vfs::inode::{InodeSpace, ROOT};
use crate::vfs::root::{HostLine, MountedSnapshot};

/// Directories whose states are remembered between two requests of one list.
const LISTS: usize = 4;
/// Places of a list that are remembered: a listing that goes on elsewhere starts at the last one before it.
const PLACES: usize = 32;
/// The longest value of an attribute that Linux takes.
const LONGEST_VALUE: usize = 64 << 10;

/// The lists that were asked for last.
#[derive(Debug)]
pub(super) struct VersionLists {
    /// Other users get in: names from directories that were closed to them must not come out of one that is open.
    guarded: bool,
    recent: Mutex<VecDeque<Arc<VersionList>>>,
}

impl VersionLists {
    pub(super) fn new(guarded: bool) -> VersionLists {
        VersionLists { guarded, recent: Mutex::default() }
    }
}

/// The states of a directory.
#[derive(Debug)]
struct VersionList {
    ino: u64,
    state: Arc<FollowerState>,
    states: Vec<(Directory, SnapshotSet)>,
    /// The number of an entry, and the name whose first entry it is.
    places: Mutex<VecDeque<(u64, Vec<u8>)>>,
}

/// A directory whose versions are asked for.
struct PastDirectory<'a> {
    line: &'a HostLine,
    /// The nodes from the snapshot's root to the directory.
    way: Vec<Node>,
    guarded: bool,
}

impl PastDirectory<'_> {
    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.way.iter().skip(1).map(|node| node.name.as_slice())
    }

    /// Whether what is in a state of a directory on the way may be shown: a user who can enter the directory of today could
    /// enter that one.
    fn shows(&self, depth: usize, before: &Node) -> bool {
        let Some(now) = self.way.get(depth).filter(|_| self.guarded) else { return true };
        let (now, before) = (&now.meta, &before.meta);
        let owners = (now.uid, now.gid) == (before.uid, before.gid) && now.xattrs == before.xattrs;
        owners && now.mode & 0o777 & !before.mode == 0
    }

    /// The snapshot whose time this is.
    fn at(&self, time: &[u8]) -> Option<&Arc<MountedSnapshot>> {
        self.line.snapshots.get(self.line.names.iter().position(|name| name == time)?)
    }

    fn snapshots(&self) -> Vec<&Snapshot> {
        self.line.snapshots.iter().map(|mounted| &mounted.snapshot).collect()
    }
}

/// An entry of a list.
struct ListedVersion {
    name: Vec<u8>,
    /// The number of the snapshot that it leads to.
    snapshot: usize,
    /// It is a directory to go into, and no link.
    directory: bool,
}

impl View {
    fn past<'a>(&self, state: &'a FollowerState, tree: &MountedSnapshot, position: u64) -> ViewResult<PastDirectory<'a>> {
        let line = state.root().and_then(|root| root.host(&tree.snapshot.host)).ok_or(ViewFault::Stale)?;
        Ok(PastDirectory { line, way: self.below.way(tree, position)?, guarded: self.versions.guarded })
    }

    /// `.versions` of a made-up directory.
    pub(super) fn made_versions(&self, state: &FollowerState, directory: u64) -> ViewResult<Option<Attr>> {
        let Some(root) = state.root() else { return Ok(None) };
        if directory == ROOT {
            return root.versions().map(|ino| self.attr_of(state, ino)).transpose();
        }
        let newest = root.host_of(directory).and_then(|line| line.snapshots.last());
        newest.map(|tree| self.attr_of_versions(state, InodeSpace::Past, tree, 0)).transpose()
    }

    /// `.versions` of a directory of a snapshot; none where the snapshots of its host are not shown.
    pub(super) fn versions_in(&self, state: &FollowerState, tree: &MountedSnapshot, position: u64) -> ViewResult<Option<Attr>> {
        if state.root().and_then(|root| root.host(&tree.snapshot.host)).is_none() {
            return Ok(None);
        }
        self.attr_of_versions(state, InodeSpace::Versions, tree, position).map(Some)
    }

    /// The attributes of a directory of versions are those of the directory itself: who may list the one may list the
    /// other.
    pub(super) fn attr_of_versions(
        &self,
        state: &FollowerState,
        space: InodeSpace,
        tree: &MountedSnapshot,
        position: u64,
    ) -> ViewResult<Attr> {
        let line = state.root().and_then(|root| root.host(&tree.snapshot.host)).ok_or(ViewFault::Stale)?;
        let way = self.below.way(tree, position)?;
        let node = way.last().ok_or(ViewFault::Stale)?;
        let attr = self.shower.attr(self.below.trees(), tree, position, node)?;
        let ino = space.number(tree.base + position);
        if space == InodeSpace::Link {
            let size = self.version_target(state, tree, position)?.len() as u64;
            return Ok(Attr { ino, kind: Type::Symlink, mode: 0o777, nlink: 1, size, blocks: 0, ..attr });
        }
        let listed = self.attr_of(state, line.directory)?;
        Ok(Attr { ino, nlink: 2, mtime: listed.mtime, lasting: false, ..attr })
    }

    /// The directory that a directory of versions is in.
    pub(super) fn parent_of_versions(
        &self,
        state: &FollowerState,
        space: InodeSpace,
        tree: &Arc<MountedSnapshot>,
        position: u64,
    ) -> ViewResult<u64> {
        if space == InodeSpace::Versions {
            return Ok(state.outside(tree.base + position));
        }
        match self.below.dir(tree, position)?.parent {
            Some(parent) => Ok(space.number(tree.base + parent)),
            None => {
                let line = state.root().and_then(|root| root.host(&tree.snapshot.host));
                line.map(|line| line.directory).ok_or(ViewFault::Stale)
            }
        }
    }

    /// Only the ACL of the directory is one of its versions, too.
    pub(super) fn attribute_of_versions(&self, ino: u64, name: &[u8]) -> ViewResult<Vec<u8>> {
        let (space, node) = InodeSpace::of(ino);
        match space {
            InodeSpace::Versions | InodeSpace::Past if name == b"system.posix_acl_access" => self.getxattr(node, name),
            _ => Err(ViewFault::NoAttribute),
        }
    }

    /// Where a version leads. Both kinds of directories are as deep: three levels more than the directory in its tree.
    pub(super) fn version_target(&self, state: &FollowerState, tree: &MountedSnapshot, position: u64) -> ViewResult<Vec<u8>> {
        let id = state.root().and_then(|root| root.tree_name(tree.base)).ok_or(ViewFault::Stale)?;
        let way = self.below.way(tree, position)?;
        let mut target = b"../".repeat(way.len().saturating_sub(2) + 3);
        target.extend_from_slice(b"ids/");
        target.extend_from_slice(id);
        for node in way.iter().skip(1) {
            target.push(b'/');
            target.extend_from_slice(&node.name);
        }
        // A longer one the kernel does not follow.
        if target.len() < 4096 { Ok(target) } else { Err(ViewFault::NameTooLong) }
    }

    /// An entry of a directory of versions by its name: `NAME@TIME` of any snapshot, or, below a host, a directory.
    pub(super) fn version(
        &self,
        state: &FollowerState,
        space: InodeSpace,
        (tree, position): (&MountedSnapshot, u64),
        name: &[u8],
    ) -> ViewResult<Option<Attr>> {
        if space == InodeSpace::Link {
            return Err(ViewFault::NotDirectory);
        }
        let past = self.past(state, tree, position)?;
        // A name may hold the sign, and so may the name of a time.
        let signs = name.iter().enumerate().rev().filter(|(_, byte)| **byte == b'@').map(|(at, _)| at);
        for at in signs {
            let Some(mounted) = past.at(&name[at + 1..]) else { continue };
            if let Some((_, position)) = self.locate(&past, mounted, &name[..at])? {
                return self.attr_of_versions(state, InodeSpace::Link, mounted, position).map(Some);
            }
        }
        if space == InodeSpace::Versions {
            return Ok(None);
        }
        let names: Vec<&[u8]> = past.names().chain([name]).collect();
        let found = history::versions_where(self.below.trees(), &past.snapshots(), &names, &Task::default(), &|depth, node| {
            past.shows(depth, node)
        })?;
        let last =
            found.iter().filter(|version| version.node.directory().is_some()).filter_map(|version| version.set.last()).max();
        let Some(mounted) = last.and_then(|last| past.line.snapshots.get(last)) else { return Ok(None) };
        let Some((_, position)) = self.locate(&past, mounted, name)? else { return Ok(None) };
        self.attr_of_versions(state, InodeSpace::Past, mounted, position).map(Some)
    }

    /// The entry of this name in the directory as a snapshot has it, and its position.
    fn locate(&self, past: &PastDirectory<'_>, mounted: &MountedSnapshot, name: &[u8]) -> ViewResult<Option<(Node, u64)>> {
        let (mut node, mut position) = (mounted.snapshot.root.clone(), 0);
        for (depth, name) in past.names().chain([name]).enumerate() {
            let Some(directory) = node.directory().filter(|_| past.shows(depth, &node)) else { return Ok(None) };
            let Some(entry) = self.below.trees().lookup(directory, name)? else { return Ok(None) };
            position += entry.offset;
            node = entry.node().clone();
        }
        Ok(Some((node, position)))
    }

    /// When the versions of an entry came: what its links are called, each on a line; of too many the newest.
    pub(super) fn times_of_versions(&self, tree: &Arc<MountedSnapshot>, position: u64) -> ViewResult<Vec<u8>> {
        let state = self.state();
        if state.root().is_none() || position == 0 {
            return Err(ViewFault::NoAttribute);
        }
        let parent = self.below.dir(tree, position).map(|dir| dir.parent);
        let parent = match parent {
            Ok(parent) => parent,
            Err(ViewFault::NotDirectory) => self.below.node(tree, position)?.parent.map(|dir| dir.position),
            Err(fault) => return Err(fault),
        };
        let past = self.past(&state, tree, parent.unwrap_or(0))?;
        let way = self.below.way(tree, position)?;
        let names: Vec<&[u8]> = way.iter().skip(1).map(|node| node.name.as_slice()).collect();
        let found = history::versions_where(self.below.trees(), &past.snapshots(), &names, &Task::default(), &|depth, node| {
            past.shows(depth, node)
        })?;
        let times: Vec<&[u8]> = distinct(&found).filter_map(|at| past.line.names.get(at).map(Vec::as_slice)).collect();
        let mut room = LONGEST_VALUE;
        let fits = times.iter().rev().take_while(|time| {
            let enough = room > time.len();
            room = room.saturating_sub(time.len() + 1);
            enough
        });
        let first = times.len() - fits.count();
        Ok(times[first..].join(&b'\n'))
    }

    /// Gives out a directory of versions. Entry number `n` has offset `n + 3`.
    pub(super) fn list_versions(
        &self,
        state: &Arc<FollowerState>,
        space: InodeSpace,
        (tree, position): (&Arc<MountedSnapshot>, u64),
        (offset, take): (u64, &mut dyn FnMut(DirEntry<'_>) -> bool),
    ) -> ViewResult<()> {
        if space == InodeSpace::Link {
            return Err(ViewFault::NotDirectory);
        }
        let ino = space.number(tree.base + position);
        // A list that has begun goes on with the snapshots that it began with.
        let begun = self.versions.recent.lock().iter().find(|list| offset > 2 && list.ino == ino).map(|list| list.state.clone());
        let state = begun.as_ref().unwrap_or(state);
        let dots = (ino, self.parent_of_versions(state, space, tree, position)?);
        if !self.dots(state, dots, offset, take)? {
            return Ok(());
        }
        let past = self.past(state, tree, position)?;
        let list = self.version_list(state, ino, &past)?;
        let wanted = offset.saturating_sub(2);
        let (mut number, from) = list.place(wanted);
        let mut names = DirectorySweep::new(self.below.trees(), &list.states, None, &from)?;
        while let Some((name, versions)) = names.next()? {
            let first = number;
            for listed in listed(&past, space, &name, &versions) {
                number += 1;
                if number <= wanted {
                    continue;
                }
                let Some(mounted) = past.line.snapshots.get(listed.snapshot) else { continue };
                let Some((_, position)) = self.locate(&past, mounted, &name)? else { continue };
                let space = if listed.directory { InodeSpace::Past } else { InodeSpace::Link };
                let attr = self.attr_of_versions(state, space, mounted, position)?;
                if take(DirEntry { name: &listed.name, next: number + 2, attr, certain: true, lasting: false }) {
                    list.remember(first, name);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn version_list(&self, state: &Arc<FollowerState>, ino: u64, past: &PastDirectory<'_>) -> ViewResult<Arc<VersionList>> {
        let known = |list: &&Arc<VersionList>| list.ino == ino && Arc::ptr_eq(&list.state, state);
        if let Some(list) = self.versions.recent.lock().iter().find(known) {
            return Ok(list.clone());
        }
        let names: Vec<&[u8]> = past.names().collect();
        let found = history::versions_where(self.below.trees(), &past.snapshots(), &names, &Task::default(), &|depth, node| {
            past.shows(depth, node)
        })?;
        let states = sweep::directories(&found);
        let list = Arc::new(VersionList { ino, state: state.clone(), states, places: Mutex::default() });
        let mut recent = self.versions.recent.lock();
        recent.truncate(LISTS - 1);
        recent.push_front(list.clone());
        Ok(list)
    }
}

impl VersionList {
    /// The place nearest before an entry: the number of an entry, and the name it is the first of.
    fn place(&self, wanted: u64) -> (u64, Vec<u8>) {
        let places = self.places.lock();
        places.iter().filter(|(number, _)| *number <= wanted).max_by_key(|(number, _)| *number).cloned().unwrap_or_default()
    }

    fn remember(&self, number: u64, name: Vec<u8>) {
        let mut places = self.places.lock();
        places.retain(|(known, _)| *known != number);
        places.truncate(PLACES - 1);
        places.push_front((number, name));
    }
}

/// The snapshots with which distinct versions came, oldest first.
fn distinct(versions: &[EntryVersion]) -> impl Iterator<Item = usize> {
    let mut all: Vec<(usize, &Node)> =
        versions.iter().filter_map(|version| Some((version.set.first()?, &version.node))).collect();
    all.sort_unstable_by_key(|(at, _)| *at);
    // Two may differ in what no program sees.
    all.dedup_by(|(_, after), (_, before)| history::reasons(before, after).is_empty());
    all.into_iter().map(|(at, _)| at)
}

/// The entries of a name. Each version has the time of the first snapshot that has it. A directory changes with all that
/// is below it, and is listed once, as the newest snapshot has it.
fn listed(past: &PastDirectory<'_>, space: InodeSpace, name: &[u8], versions: &[EntryVersion]) -> Vec<ListedVersion> {
    let (directories, others): (Vec<_>, Vec<_>) =
        versions.iter().cloned().partition(|version| version.node.directory().is_some());
    let timed = |at: usize| {
        let time = past.line.names.get(at)?;
        Some(ListedVersion { name: [name, b"@", time].concat(), snapshot: at, directory: false })
    };
    let mut out: Vec<ListedVersion> = distinct(&others).filter_map(timed).collect();
    if let Some(newest) = directories.iter().filter_map(|version| version.set.last()).max() {
        match space {
            InodeSpace::Past => out.push(ListedVersion { name: name.to_vec(), snapshot: newest, directory: true }),
            _ => out.extend(timed(newest)),
        }
    }
    // What is too long for a name can be seen in its snapshots only.
    out.retain(|listed| listed.name.len() <= MAX_NAME);
    out
}
