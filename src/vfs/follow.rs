//! Following the repository: one state of what is shown, replaced when the list of snapshots changes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::sys::watch::{DirectoryWatch, StopWatch};
use crate::vfs::attr::{Attr, FileSystemTotals, ViewFault, ViewResult};
use crate::vfs::below::SnapshotDir;
use crate::vfs::inode::{FIRST, InodeSpace, ROOT};
use crate::vfs::list::SnapshotWatch;
use crate::vfs::root::{IDS, Invalidation, MountedSnapshot, VirtualEntry, VirtualRoot};

/// The repository's list of snapshots is not read more often than this.
const POLL: Duration = Duration::from_secs(1);
/// How long a request to the root waits for the list of snapshots. Then it is answered by the last list that is known.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is at the root of the mount.
#[derive(Debug)]
pub(crate) enum MountRoot {
    /// Made-up directories.
    Made(VirtualRoot),
    /// A directory of a snapshot.
    Tree(SnapshotDir),
}

/// Everything that a new list of snapshots changes.
#[derive(Debug)]
pub(crate) struct FollowerState {
    /// Every snapshot that has inode numbers, sorted by their beginning.
    placed: Vec<Arc<MountedSnapshot>>,
    top: MountRoot,
    /// Totals of what is shown.
    pub(crate) totals: FileSystemTotals,
}

/// A tree that is shown.
#[derive(Debug)]
pub(crate) struct ShownTree {
    /// Its name in `ids/`; empty for what is shown alone, at the root.
    pub(crate) name: Vec<u8>,
    /// The snapshot.
    pub(crate) tree: Arc<MountedSnapshot>,
    /// The directory of the snapshot.
    pub(crate) position: u64,
    /// Whether `latest` leads to it.
    pub(crate) newest: bool,
}

/// What an inode number stands for.
pub(crate) enum InodeTarget<'a> {
    /// Something made up.
    Made(&'a VirtualEntry),
    /// A position in the preorder of a snapshot.
    Below(Arc<MountedSnapshot>, u64),
    /// Something of `.versions` that belongs to a position in the preorder of a snapshot.
    Versions(InodeSpace, Arc<MountedSnapshot>, u64),
}

impl FollowerState {
    fn made(watch: &mut SnapshotWatch, shown: &[Arc<MountedSnapshot>], before: Option<&VirtualRoot>) -> FollowerState {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp { secs: now.as_secs() as i64, nanos: now.subsec_nanos() };
        let top = MountRoot::Made(VirtualRoot::build((shown, &watch.templates), &mut watch.numbers, before, now));
        FollowerState { placed: watch.placed(), totals: totals(shown), top }
    }

    /// The inode number within the ranges of snapshots.
    fn inside(&self, ino: u64) -> u64 {
        match &self.top {
            MountRoot::Tree(dir) if ino == ROOT => dir.ino(),
            _ => ino,
        }
    }

    /// The inode number that the kernel knows.
    pub(crate) fn outside(&self, ino: u64) -> u64 {
        match &self.top {
            MountRoot::Tree(dir) if ino == dir.ino() => ROOT,
            _ => ino,
        }
    }

    /// Attributes with the inode number that the kernel knows.
    pub(crate) fn outward(&self, attr: Attr) -> Attr {
        Attr { ino: self.outside(attr.ino), ..attr }
    }

    /// The trees that can be an image each: all below `ids/`, or what is shown alone.
    pub(crate) fn trees(&self) -> Vec<ShownTree> {
        let root = match &self.top {
            MountRoot::Tree(dir) => {
                let (tree, position) = (dir.tree.clone(), dir.position);
                return vec![ShownTree { name: Vec::new(), tree, position, newest: true }];
            }
            MountRoot::Made(root) => root,
        };
        let tree = |(base, name): &(u64, Vec<u8>)| {
            let at = self.placed.binary_search_by_key(base, |placed| placed.base).ok()?;
            let newest = root.newest() == Some(name);
            Some(ShownTree { name: name.clone(), tree: self.placed.get(at)?.clone(), position: 0, newest })
        };
        root.trees().iter().filter_map(tree).collect()
    }

    /// Whether the number belongs to something made up.
    pub(crate) fn is_made(&self, ino: u64) -> bool {
        matches!(self.top, MountRoot::Made(_)) && ino < FIRST
    }

    /// Whether the number belongs to something that another list of snapshots changes.
    pub(crate) fn is_followed(&self, ino: u64) -> bool {
        self.is_made(ino) || InodeSpace::of(ino).0 != InodeSpace::Own
    }

    /// What is made up; `None` where one snapshot is mounted alone.
    pub(crate) fn root(&self) -> Option<&VirtualRoot> {
        if let MountRoot::Made(root) = &self.top { Some(root) } else { None }
    }

    /// The number that `..` has in a directory of a snapshot.
    pub(crate) fn parent(&self, dir: &SnapshotDir) -> u64 {
        match (&self.top, dir.parent) {
            (MountRoot::Tree(top), _) if top.ino() == dir.ino() => ROOT,
            (_, Some(position)) => self.outside(dir.tree.base + position),
            (_, None) => IDS,
        }
    }

    /// What a number stands for.
    pub(crate) fn node(&self, ino: u64) -> ViewResult<InodeTarget<'_>> {
        if self.is_made(ino) {
            let MountRoot::Made(root) = &self.top else { return Err(ViewFault::Stale) };
            return root.get(ino).map(InodeTarget::Made).ok_or(ViewFault::Stale);
        }
        let (space, ino) = InodeSpace::of(self.inside(ino));
        if space != InodeSpace::Own && self.root().is_none() {
            return Err(ViewFault::Stale);
        }
        let at = self.placed.partition_point(|m| m.base <= ino);
        let tree = at.checked_sub(1).and_then(|at| self.placed.get(at)).ok_or(ViewFault::Stale)?;
        let position = ino - tree.base;
        match space {
            _ if position >= tree.snapshot.nodes() => Err(ViewFault::Stale),
            InodeSpace::Own => Ok(InodeTarget::Below(tree.clone(), position)),
            space => Ok(InodeTarget::Versions(space, tree.clone(), position)),
        }
    }
}

/// Holds the state and replaces it.
#[derive(Debug)]
pub(crate) struct Follower {
    shared: Arc<FollowerShared>,
    /// Where a thread waits that lists; `None` where nothing is followed.
    wishes: Option<Sender<Sender<()>>>,
    /// Ends the thread that is told of new snapshots.
    _watch: Option<StopWatch>,
}

#[derive(Debug)]
struct FollowerShared {
    state: RwLock<Arc<FollowerState>>,
    watch: Option<Mutex<SnapshotWatch>>,
    notified: AtomicBool,
    changes: (Sender<Invalidation>, Receiver<Invalidation>),
}

impl Follower {
    /// Shows `shown` and what comes to the list later.
    pub(crate) fn snapshots(mut watch: SnapshotWatch, shown: &[Arc<MountedSnapshot>]) -> Result<Follower> {
        let state = FollowerState::made(&mut watch, shown, None);
        let place = watch.local_directory();
        let shared = Arc::new(FollowerShared::new(state, Some(watch)));
        let (wishes, receiver) = crossbeam_channel::bounded::<Sender<()>>(1);
        let lister = shared.clone();
        std::thread::Builder::new()
            .name("mount-list".to_owned())
            .spawn(move || {
                for done in receiver {
                    lister.refresh(POLL);
                    let _ = done.try_send(());
                }
            })
            .map_err(|e| Error::io("cannot start a thread", e))?;
        let stop = place.and_then(|place| watch_directory(&place, &shared));
        Ok(Follower { shared, wishes: Some(wishes), _watch: stop })
    }

    /// Shows one directory of a snapshot for ever.
    pub(crate) fn directory(dir: SnapshotDir) -> Follower {
        let tree = dir.tree.clone();
        let state = FollowerState { totals: totals(std::slice::from_ref(&tree)), placed: vec![tree], top: MountRoot::Tree(dir) };
        Follower { shared: Arc::new(FollowerShared::new(state, None)), wishes: None, _watch: None }
    }

    /// The state now.
    pub(crate) fn state(&self) -> Arc<FollowerState> {
        self.shared.state()
    }

    /// Has the snapshots listed again, unless that was done within the last second or is being done. The storage may
    /// be slow, or stall: the request that asks waits for a moment only, and all others not at all.
    pub(crate) fn follow(&self) {
        let Some(wishes) = self.wishes.as_ref().filter(|_| self.shared.is_due()) else { return };
        let (done, wait) = crossbeam_channel::bounded(1);
        if wishes.try_send(done).is_ok() {
            let _ = wait.recv_timeout(PATIENCE);
        }
    }

    /// Lists the snapshots again, now.
    pub(crate) fn refresh(&self) {
        self.shared.refresh(Duration::ZERO);
    }

    /// The same, and reads again what is known of each snapshot.
    pub(crate) fn refresh_anew(&self) {
        if let Some(watch) = &self.shared.watch {
            watch.lock().begin_anew();
        }
        self.refresh();
    }

    /// What changes in the made-up directories from now on. For one receiver.
    pub(crate) fn changes(&self) -> Receiver<Invalidation> {
        self.shared.notified.store(true, Ordering::Relaxed);
        self.shared.changes.1.clone()
    }
}

impl FollowerShared {
    fn new(state: FollowerState, watch: Option<SnapshotWatch>) -> FollowerShared {
        let (state, watch) = (RwLock::new(Arc::new(state)), watch.map(Mutex::new));
        FollowerShared { state, watch, notified: AtomicBool::new(false), changes: crossbeam_channel::unbounded() }
    }

    fn state(&self) -> Arc<FollowerState> {
        self.state.read().clone()
    }

    /// False also while the list is being read.
    fn is_due(&self) -> bool {
        self.watch.as_ref().and_then(|w| w.try_lock()).is_some_and(|w| w.listed.elapsed() >= POLL)
    }

    /// Lists again if the last list is as old as `age`.
    fn refresh(&self, age: Duration) {
        let Some(watch) = &self.watch else { return };
        let mut watch = watch.lock();
        if watch.listed.elapsed() < age {
            return;
        }
        let shown = match watch.list() {
            Ok(shown) => shown,
            Err(e) => {
                watch.listed = Instant::now();
                let text = "the snapshots could not be listed, the mount shows what it knows";
                watch.reports().warn("", format!("{text}: {e}"));
                return;
            }
        };
        let before = self.state();
        let MountRoot::Made(old) = &before.top else { return };
        let after = FollowerState::made(&mut watch, &shown, Some(old));
        let MountRoot::Made(root) = &after.top else { return };
        let changes = old.changes(root);
        if changes.is_empty() {
            return;
        }
        *self.state.write() = Arc::new(after);
        if self.notified.load(Ordering::Relaxed) {
            changes.into_iter().for_each(|change| drop(self.changes.0.send(change)));
        }
    }
}

/// Lists again as soon as a snapshot comes into a repository on this machine, or goes: who makes a snapshot and then
/// looks at `latest` sees it. `None` where that cannot be watched; the list is then a second old at most.
fn watch_directory(place: &Path, shared: &Arc<FollowerShared>) -> Option<StopWatch> {
    let directories = ["snapshots", "forgotten"].map(|class| place.join(class));
    let (watch, stop) = DirectoryWatch::new(&directories.each_ref().map(|directory| directory.as_path())).ok()?;
    let shared = shared.clone();
    let run = move || {
        while let Ok(true) = watch.wait() {
            shared.refresh(Duration::ZERO);
        }
    };
    std::thread::Builder::new().name("mount-watch".to_owned()).spawn(run).ok()?;
    Some(stop)
}

fn totals(shown: &[Arc<MountedSnapshot>]) -> FileSystemTotals {
    shown.iter().fold(FileSystemTotals::default(), |totals, m| FileSystemTotals {
        bytes: totals.bytes.saturating_add(m.snapshot.statistics.bytes),
        entries: totals.entries.saturating_add(m.snapshot.nodes()),
    })
}
