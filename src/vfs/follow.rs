//! Following the repository: one state of what is shown, replaced when the list of snapshots changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::vfs::attr::{Answer, Attr, Fault, Totals};
use crate::vfs::below::Dir;
use crate::vfs::inode::{FIRST, ROOT};
use crate::vfs::list::Watch;
use crate::vfs::root::{Change, IDS, Made, Mounted, Root};

/// The repository's list of snapshots is not read more often than this.
const POLL: Duration = Duration::from_secs(1);
/// How long somebody who looks at the root waits for the list; then they see what was known before.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is at the root of the mount.
#[derive(Debug)]
pub enum Top {
    /// Made-up directories.
    Made(Root),
    /// A directory of a snapshot.
    Tree(Dir),
}

/// Everything that a new list of snapshots changes.
#[derive(Debug)]
pub struct State {
    /// Every snapshot that has inode numbers, sorted by their beginning.
    placed: Vec<Arc<Mounted>>,
    top: Top,
    /// Totals of what is shown.
    pub totals: Totals,
}

/// What an inode number stands for.
pub enum Node<'a> {
    /// Something made up.
    Made(&'a Made),
    /// A position in the preorder of a snapshot.
    Below(Arc<Mounted>, u64),
}

impl State {
    fn made(watch: &mut Watch, shown: &[Arc<Mounted>], before: Option<&Root>) -> State {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp { secs: now.as_secs() as i64, nanos: now.subsec_nanos() };
        let top = Top::Made(Root::build(shown, &mut watch.numbers, before, now));
        State { placed: watch.placed(), totals: totals(shown), top }
    }

    /// The inode number within the ranges of snapshots.
    fn inside(&self, ino: u64) -> u64 {
        match &self.top {
            Top::Tree(dir) if ino == ROOT => dir.ino(),
            _ => ino,
        }
    }

    /// The inode number that the kernel knows.
    pub fn outside(&self, ino: u64) -> u64 {
        match &self.top {
            Top::Tree(dir) if ino == dir.ino() => ROOT,
            _ => ino,
        }
    }

    /// Attributes with the inode number that the kernel knows.
    pub fn outward(&self, attr: Attr) -> Attr {
        Attr { ino: self.outside(attr.ino), ..attr }
    }

    /// Whether the number belongs to something made up.
    pub fn is_made(&self, ino: u64) -> bool {
        matches!(self.top, Top::Made(_)) && ino < FIRST
    }

    /// The number that `..` has in a directory of a snapshot.
    pub fn parent(&self, dir: &Dir) -> u64 {
        match (&self.top, dir.parent) {
            (Top::Tree(top), _) if top.ino() == dir.ino() => ROOT,
            (_, Some(position)) => self.outside(dir.tree.base + position),
            (_, None) => IDS,
        }
    }

    /// What a number stands for.
    pub fn node(&self, ino: u64) -> Answer<Node<'_>> {
        if self.is_made(ino) {
            let Top::Made(root) = &self.top else { return Err(Fault::Stale) };
            return root.get(ino).map(Node::Made).ok_or(Fault::Stale);
        }
        let ino = self.inside(ino);
        let at = self.placed.partition_point(|m| m.base <= ino);
        let tree = at.checked_sub(1).and_then(|at| self.placed.get(at)).ok_or(Fault::Stale)?;
        let position = ino - tree.base;
        if position < tree.snapshot.nodes() { Ok(Node::Below(tree.clone(), position)) } else { Err(Fault::Stale) }
    }
}

/// Holds the state and replaces it.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    /// Where a thread waits that lists; `None` where nothing is followed.
    wishes: Option<Sender<Sender<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<Arc<State>>,
    watch: Option<Mutex<Watch>>,
    notified: AtomicBool,
    changes: (Sender<Change>, Receiver<Change>),
}

impl Follower {
    /// Shows `shown` and what comes to the list later.
    pub fn snapshots(mut watch: Watch, shown: &[Arc<Mounted>]) -> Result<Follower> {
        let state = State::made(&mut watch, shown, None);
        let shared = Arc::new(Shared::new(state, Some(watch)));
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
        Ok(Follower { shared, wishes: Some(wishes) })
    }

    /// Shows one directory of a snapshot for ever.
    pub fn directory(dir: Dir) -> Follower {
        let tree = dir.tree.clone();
        let state = State { totals: totals(std::slice::from_ref(&tree)), placed: vec![tree], top: Top::Tree(dir) };
        Follower { shared: Arc::new(Shared::new(state, None)), wishes: None }
    }

    /// The state now.
    pub fn state(&self) -> Arc<State> {
        self.shared.state()
    }

    /// Has the snapshots listed again, unless that was done within the last second or is being done. The storage may
    /// be slow, or stall: whoever asks waits for a moment only, and everybody else not at all.
    pub fn follow(&self) {
        let Some(wishes) = self.wishes.as_ref().filter(|_| self.shared.is_due()) else { return };
        let (done, wait) = crossbeam_channel::bounded(1);
        if wishes.try_send(done).is_ok() {
            let _ = wait.recv_timeout(PATIENCE);
        }
    }

    /// Lists the snapshots again, now.
    pub fn refresh(&self) {
        self.shared.refresh(Duration::ZERO);
    }

    /// What changes in the made-up directories from now on. For one receiver.
    pub fn changes(&self) -> Receiver<Change> {
        self.shared.notified.store(true, Ordering::Relaxed);
        self.shared.changes.1.clone()
    }
}

impl Shared {
    fn new(state: State, watch: Option<Watch>) -> Shared {
        let (state, watch) = (RwLock::new(Arc::new(state)), watch.map(Mutex::new));
        Shared { state, watch, notified: AtomicBool::new(false), changes: crossbeam_channel::unbounded() }
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// False also while the list is being read.
    fn is_due(&self) -> bool {
        self.watch.as_ref().and_then(|w| w.try_lock().ok()).is_some_and(|w| w.listed.elapsed() >= POLL)
    }

    /// Lists again if the last list is as old as `age`.
    fn refresh(&self, age: Duration) {
        let Some(watch) = &self.watch else { return };
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
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
        let Top::Made(old) = &before.top else { return };
        let after = State::made(&mut watch, &shown, Some(old));
        let Top::Made(root) = &after.top else { return };
        let changes = old.changes(root);
        if changes.is_empty() {
            return;
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        if self.notified.load(Ordering::Relaxed) {
            changes.into_iter().for_each(|change| drop(self.changes.0.send(change)));
        }
    }
}

fn totals(shown: &[Arc<Mounted>]) -> Totals {
    shown.iter().fold(Totals::default(), |totals, m| Totals {
        bytes: totals.bytes.saturating_add(m.snapshot.statistics.bytes),
        entries: totals.entries.saturating_add(m.snapshot.nodes()),
    })
}
