//! The directories and links that the mount makes up: `latest`, `ids/`, `snapshots/`, `hosts/`, `tags/`, `series/`,
//! `groups/`.
//!
//! Every snapshot's tree exists once, below `ids/`; all else are relative links to it, since a directory with several
//! parents confuses the kernel. Values only: one `VirtualRoot` is one state of the list of snapshots.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::model::node::MAX_NAME;
use crate::model::{Snapshot, Timestamp};
use crate::vfs::inode::{self, ROOT};
use crate::vfs::names;
use crate::vfs::templates::{LinkTemplates, RESERVED};

/// The directory of all trees.
pub(crate) const IDS: u64 = 3;
const SNAPSHOTS: u64 = 4;
const HOSTS: u64 = 5;
const TAGS: u64 = 6;
const SERIES: u64 = 7;
/// The directory of versions that every directory has, and no list.
pub(crate) const VERSIONS: &[u8] = b".versions";

/// A snapshot and where its inode numbers begin.
#[derive(Debug)]
pub(crate) struct MountedSnapshot {
    /// The inode number of its root; position `p` of its preorder has `base + p`.
    pub(crate) base: u64,
    /// The snapshot.
    pub(crate) snapshot: Snapshot,
    /// When somebody last asked for something in it.
    pub(crate) asked: Arc<LastAsked>,
}

impl MountedSnapshot {
    /// A snapshot that nobody has looked into yet.
    pub(crate) fn new(base: u64, snapshot: Snapshot) -> MountedSnapshot {
        MountedSnapshot { base, snapshot, asked: Arc::default() }
    }
}

/// When something was last asked for.
#[derive(Debug, Default)]
pub(crate) struct LastAsked(AtomicU64);

impl LastAsked {
    fn clock() -> u64 {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGIN.elapsed().as_millis() as u64 + 1
    }

    /// It is asked for now. Whether that is the first time.
    pub(crate) fn now(&self) -> bool {
        self.0.swap(Self::clock(), Ordering::Relaxed) == 0
    }

    /// For how long nobody has asked; `None` if nobody ever did.
    pub(crate) fn quiet_for(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_millis(Self::clock().saturating_sub(at))),
        }
    }
}

/// A made-up entry.
#[derive(Debug)]
pub(crate) struct VirtualEntry {
    /// The directory it is in.
    pub(crate) parent: u64,
    /// When it changed: a directory, when an entry came or went; a link, its snapshot's time.
    pub(crate) time: Timestamp,
    /// What it is.
    pub(crate) kind: MadeKind,
}

/// What a made-up entry is.
#[derive(Debug)]
pub(crate) enum MadeKind {
    /// A directory.
    Directory(MadeDir),
    /// A link and its target.
    Link(Vec<u8>),
}

/// A made-up directory.
#[derive(Debug, Default)]
pub(crate) struct MadeDir {
    /// Inode number and name of each entry, sorted by number: an entry that comes or goes shifts no other, so that a
    /// listing goes on where it was.
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
    names: HashMap<Vec<u8>, u64>,
    /// Entries that are directories.
    pub(crate) subdirs: u32,
}

impl MadeDir {
    /// The inode number of `name`.
    pub(crate) fn find(&self, name: &[u8]) -> Option<u64> {
        self.names.get(name).copied()
    }
}

/// Something that the kernel may know otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidation {
    /// The name is gone from the directory, or means something else.
    Entry {
        /// The directory.
        parent: u64,
        /// The name.
        name: Vec<u8>,
    },
    /// The directory has other entries.
    Directory(u64),
}

/// Inode numbers that were given to made-up entries. They stay given: none is used twice in a mount.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    given: HashMap<Vec<u8>, u64>,
    taken: std::collections::HashSet<u64>,
}

impl Numbers {
    fn of(&mut self, what: Vec<u8>) -> u64 {
        if let Some(ino) = self.given.get(&what) {
            return *ino;
        }
        let ino = inode::synthetic(&what, |ino| self.taken.contains(&ino));
        self.taken.insert(ino);
        self.given.insert(what, ino);
        ino
    }
}

/// The snapshots of one host, oldest first.
#[derive(Debug, Default)]
pub(crate) struct HostLine {
    /// The inode number of `hosts/<host>`.
    pub(crate) directory: u64,
    /// The snapshots.
    pub(crate) snapshots: Vec<Arc<MountedSnapshot>>,
    /// The time of each as a name, as in `snapshots/` where no template says another.
    pub(crate) names: Vec<Vec<u8>>,
}

/// One state of everything that is made up.
#[derive(Debug, Default)]
pub(crate) struct VirtualRoot {
    nodes: HashMap<u64, VirtualEntry>,
    hosts: HashMap<Vec<u8>, HostLine>,
    /// The link `.versions` in the root, which no list has.
    versions: Option<u64>,
}

impl VirtualRoot {
    /// The entry with this number.
    pub(crate) fn get(&self, ino: u64) -> Option<&VirtualEntry> {
        self.nodes.get(&ino)
    }

    /// The state that shows `snapshots`, oldest first, and what the templates say. Directories that are as they were `before` keep their time.
    pub(crate) fn build(
        (snapshots, templates): (&[Arc<MountedSnapshot>], &LinkTemplates),
        numbers: &mut Numbers,
        before: Option<&VirtualRoot>,
        now: Timestamp,
    ) -> VirtualRoot {
        let mut builder = Builder { root: VirtualRoot::default(), numbers, now };
        for (ino, name) in
            [(ROOT, ""), (IDS, "ids"), (SNAPSHOTS, "snapshots"), (HOSTS, "hosts"), (TAGS, "tags"), (SERIES, "series")]
        {
            builder.directory(ROOT, name.as_bytes(), ino);
        }
        builder.fill(snapshots, templates);
        builder.fill_by(snapshots, templates);
        builder.drop_replaced();
        builder.link_versions(snapshots);
        let mut root = builder.root;
        for (ino, made) in &mut root.nodes {
            if let MadeKind::Directory(dir) = &mut made.kind {
                dir.entries = dir.names.iter().map(|(name, ino)| (*ino, name.clone())).collect();
                dir.entries.sort_unstable();
                if let Some(VirtualEntry { time, kind: MadeKind::Directory(old), .. }) = before.and_then(|b| b.get(*ino))
                    && old.entries == dir.entries
                {
                    made.time = *time;
                }
            }
        }
        root
    }

    /// The snapshots of a host.
    pub(crate) fn host(&self, host: &[u8]) -> Option<&HostLine> {
        self.hosts.get(host)
    }

    /// The host of the directory `hosts/<host>` with this number.
    pub(crate) fn host_of(&self, directory: u64) -> Option<&HostLine> {
        self.hosts.values().find(|line| line.directory == directory)
    }

    /// The number of the link `.versions` in the root.
    pub(crate) fn versions(&self) -> Option<u64> {
        self.versions
    }

    /// The name of a tree below `ids/`.
    pub(crate) fn tree_name(&self, base: u64) -> Option<&[u8]> {
        let trees = self.trees();
        let at = trees.binary_search_by_key(&base, |(ino, _)| *ino).ok()?;
        trees.get(at).map(|(_, name)| name.as_slice())
    }

    /// The trees below `ids/`: names and inode numbers.
    pub(crate) fn trees(&self) -> &[(u64, Vec<u8>)] {
        match self.get(IDS).map(|made| &made.kind) {
            Some(MadeKind::Directory(dir)) => &dir.entries,
            _ => &[],
        }
    }

    /// The name of the newest snapshot's tree.
    pub(crate) fn newest(&self) -> Option<&[u8]> {
        let MadeKind::Directory(root) = &self.get(ROOT)?.kind else { return None };
        let MadeKind::Link(target) = &self.get(root.find(b"latest")?)?.kind else { return None };
        target.strip_prefix(b"ids/")
    }

    /// What is different in `after`.
    pub(crate) fn changes(&self, after: &VirtualRoot) -> Vec<Invalidation> {
        let mut out = Vec::new();
        for (ino, made) in &self.nodes {
            let MadeKind::Directory(old) = &made.kind else { continue };
            let Some(MadeKind::Directory(new)) = after.get(*ino).map(|m| &m.kind) else { continue };
            if old.entries == new.entries {
                continue;
            }
            for (entry, name) in &old.entries {
                if new.find(name) != Some(*entry) {
                    out.push(Invalidation::Entry { parent: *ino, name: name.clone() });
                }
            }
            out.push(Invalidation::Directory(*ino));
        }
        out
    }
}

struct Builder<'a> {
    root: VirtualRoot,
    numbers: &'a mut Numbers,
    now: Timestamp,
}

impl Builder<'_> {
    fn directory(&mut self, parent: u64, name: &[u8], ino: u64) {
        let made = VirtualEntry { parent, time: self.now, kind: MadeKind::Directory(MadeDir::default()) };
        if self.root.nodes.contains_key(&ino) {
            return;
        }
        self.root.nodes.insert(ino, made);
        if ino != ROOT {
            self.name(parent, name, ino, true);
        }
    }

    fn name(&mut self, parent: u64, name: &[u8], ino: u64, directory: bool) {
        if let Some(VirtualEntry { kind: MadeKind::Directory(dir), .. }) = self.root.nodes.get_mut(&parent) {
            dir.names.insert(name.to_vec(), ino);
            dir.subdirs += u32::from(directory);
        }
    }

    /// A link's number depends on its target too: the kernel keeps targets for ever.
    fn link(&mut self, parent: u64, place: &[u8], name: &[u8], target: &[u8], time: Timestamp) {
        let ino = self.numbers.of([place, b"/", name, b"\0", target].concat());
        self.root.nodes.insert(ino, VirtualEntry { parent, time, kind: MadeKind::Link(target.to_vec()) });
        self.name(parent, name, ino, false);
    }

    /// A directory of links one level below `hosts`, `tags` or `series`.
    fn group(&mut self, parent: u64, class: &str, name: &[u8]) -> (u64, Vec<u8>) {
        let place = [class.as_bytes(), b"/", name].concat();
        let ino = self.numbers.of(place.clone());
        self.directory(parent, name, ino);
        (ino, place)
    }

    fn fill(&mut self, snapshots: &[Arc<MountedSnapshot>], templates: &LinkTemplates) {
        let plain: Vec<&Snapshot> = snapshots.iter().map(|m| &m.snapshot).collect();
        let (ids, times) = (names::ids(&plain), names::times(&plain, |time| templates.time(time)));
        // Versions are named in one way, whatever a template says.
        let versions = names::times(&plain, |time| names::time(time).into_bytes());
        let groups = names::groups(&plain);
        let series = names::series(plain.iter().map(|s| s.series()));
        // Oldest first: the last `latest` that is written is the newest.
        for mounted in snapshots {
            let snapshot = &mounted.snapshot;
            let (Some(id), Some(time)) = (ids.get(&snapshot.id), times.get(&snapshot.id)) else { continue };
            let (id, time) = (id.as_slice(), time.as_slice());
            self.name(IDS, id, mounted.base, true);
            self.both(SNAPSHOTS, b"snapshots", b"../ids/", (id, time), snapshot.time);
            let (host, place) = self.group(HOSTS, "hosts", &names::escaped(&snapshot.host));
            self.both(host, &place, b"../../ids/", (id, time), snapshot.time);
            let line = self.root.hosts.entry(snapshot.host.clone()).or_default();
            line.directory = host;
            line.snapshots.push(mounted.clone());
            line.names.push(versions.get(&snapshot.id).cloned().unwrap_or_default());
            for tag in &snapshot.tags {
                let (tag, place) = self.group(TAGS, "tags", &names::escaped(tag));
                self.both(tag, &place, b"../../ids/", (id, time), snapshot.time);
            }
            if let Some(name) = series.get(&snapshot.series()) {
                let (of, place) = self.group(SERIES, "series", name);
                self.both(of, &place, b"../../ids/", (id, time), snapshot.time);
            }
            if let Some(part) = &snapshot.composition.group
                && let Some(name) = groups.get(&part.group)
            {
                // It is there when there is a group.
                let all = self.numbers.of(b"groups".to_vec());
                self.directory(ROOT, b"groups", all);
                let (group, place) = self.group(all, "groups", name);
                self.link(group, &place, &names::escaped(&part.member), &[b"../../ids/", id].concat(), snapshot.time);
            }
            if snapshot.id == plain[plain.len() - 1].id {
                self.link(ROOT, b"", b"latest", &[b"ids/", id].concat(), snapshot.time);
            }
        }
    }

    /// The link `.versions` in the root, which no list has.
    fn link_versions(&mut self, snapshots: &[Arc<MountedSnapshot>]) {
        if let Some(newest) = snapshots.last().map(|mounted| &mounted.snapshot) {
            let target = [b"hosts/", names::escaped(&newest.host).as_slice(), b"/", VERSIONS].concat();
            let ino = self.numbers.of([VERSIONS, b"\0", &target].concat());
            let link = VirtualEntry { parent: ROOT, time: newest.time, kind: MadeKind::Link(target) };
            self.root.nodes.insert(ino, link);
            self.root.versions = Some(ino);
        }
    }

    /// The directories of the templates.
    fn fill_by(&mut self, snapshots: &[Arc<MountedSnapshot>], templates: &LinkTemplates) {
        if templates.paths.is_empty() {
            return;
        }
        let plain: Vec<&Snapshot> = snapshots.iter().map(|m| &m.snapshot).collect();
        let ids = names::ids(&plain);
        for template in &templates.paths {
            // Oldest first, as above.
            for snapshot in &plain {
                let Some(id) = ids.get(&snapshot.id) else { continue };
                for path in template.paths(snapshot, &templates.time(snapshot.time)) {
                    self.link_by(&path, template.is_by_time(), (snapshot, id));
                }
            }
        }
    }

    /// The link of a snapshot at `path`, and `latest` beside it.
    fn link_by(&mut self, path: &[Vec<u8>], latest: bool, (snapshot, id): (&Snapshot, &[u8])) {
        let Some((leaf, directories)) = path.split_last() else { return };
        let (mut parent, mut place) = (ROOT, Vec::new());
        for name in directories {
            let name = self.free(parent, name);
            place.extend_from_slice(&name);
            let ino = self.numbers.of(place.clone());
            self.directory(parent, &name, ino);
            place.push(b'/');
            parent = ino;
        }
        let target = [b"../".repeat(directories.len()).as_slice(), b"ids/", id].concat();
        place.pop();
        let is_taken =
            |builder: &Self, name: &[u8]| parent == ROOT && RESERVED.contains(&name) || builder.find(parent, name).is_some();
        let longer = || names::longer(&snapshot.id, leaf);
        let name =
            if is_taken(self, leaf) { longer().into_iter().find(|name| !is_taken(self, name)) } else { Some(leaf.clone()) };
        if let Some(name) = name {
            self.link(parent, &place, &name, &target, snapshot.time);
        }
        let is_directory = |ino| matches!(self.root.nodes.get(&ino), Some(VirtualEntry { kind: MadeKind::Directory(_), .. }));
        if latest && parent != ROOT && !self.find(parent, b"latest").is_some_and(is_directory) {
            self.link(parent, &place, b"latest", &target, snapshot.time);
        }
    }

    /// `name` for a directory, or, if something else is called so, what is free.
    fn free(&self, parent: u64, name: &[u8]) -> Vec<u8> {
        let is_other = |name: &[u8]| match self.find(parent, name).and_then(|ino| self.root.nodes.get(&ino)) {
            _ if parent == ROOT && RESERVED.contains(&name) => true,
            Some(made) => matches!(made.kind, MadeKind::Link(_)),
            None => false,
        };
        let mut free = name.to_vec();
        for n in 1_u32.. {
            if !is_other(&free) {
                break;
            }
            let suffix = format!("~{n}");
            free = [&name[..name.len().min(MAX_NAME - suffix.len())], suffix.as_bytes()].concat();
        }
        free
    }

    fn find(&self, parent: u64, name: &[u8]) -> Option<u64> {
        match &self.root.nodes.get(&parent)?.kind {
            MadeKind::Directory(dir) => dir.find(name),
            MadeKind::Link(_) => None,
        }
    }

    fn both(&mut self, parent: u64, place: &[u8], up: &[u8], (id, name): (&[u8], &[u8]), time: Timestamp) {
        let target = [up, id].concat();
        self.link(parent, place, name, &target, time);
        self.link(parent, place, b"latest", &target, time);
    }

    /// Removes the `latest` links that a newer snapshot took the name of.
    fn drop_replaced(&mut self) {
        let named: std::collections::HashSet<u64> = self
            .root
            .nodes
            .values()
            .filter_map(|made| if let MadeKind::Directory(dir) = &made.kind { Some(dir.names.values().copied()) } else { None })
            .flatten()
            .collect();
        self.root.nodes.retain(|ino, _| *ino == ROOT || named.contains(ino));
    }
}
