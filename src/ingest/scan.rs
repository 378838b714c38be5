//! Listing and stat-ing directories ahead of the planner, on several threads.
//!
//! The planner walks in order and needs one directory after the other; a cold disk answers several requests sooner
//! than one. So it announces the directories that come next, and idle threads scan them; one that nobody has begun
//! when it is needed is scanned by the planner itself, so nothing can wait for ever.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::ingest::handles::Handle;
use crate::sys::{self, Dir, FileKind, Listing, Stat, xattr};

/// Entries that are stat-ed at once; the walk does the rest of a longer directory, so that a directory of
/// millions keeps its names in memory but not all of its stats.
const STATS: usize = 4096;

/// A directory, listed.
#[derive(Debug)]
pub struct Scanned {
    /// The directory; `None` while it is closed.
    pub(crate) dir: Option<Arc<Handle>>,
    /// Its own stat.
    pub(crate) stat: Stat,
    /// Its extended attributes.
    pub(crate) xattrs: xattr::ReadXattrs,
    /// Its `chattr` flags.
    pub(crate) flags: u32,
    /// Its names.
    pub(crate) listing: Listing,
    /// Stats of a range of the names, from `first` on.
    stats: Vec<io::Result<Stat>>,
    first: usize,
}

impl Scanned {
    /// Scans an open directory.
    pub(crate) fn of(dir: Dir) -> io::Result<Scanned> {
        let stat = dir.stat_self()?;
        let xattrs = xattr::find(&dir);
        let flags = sys::dir::user_flags(&dir).unwrap_or(0);
        let listing = dir.list_once()?;
        let mut out =
            Scanned { dir: Some(Arc::new(Handle::new(dir))), stat, xattrs, flags, listing, stats: Vec::new(), first: 0 };
        out.fill(0);
        Ok(out)
    }

    fn fill(&mut self, first: usize) {
        self.first = first;
        self.stats.clear();
        let end = self.listing.len().min(first + STATS);
        let stat = |at| match &self.dir {
            Some(dir) => dir.stat(self.listing.name(at)),
            None => Err(closed()),
        };
        self.stats.extend((first..end).map(stat));
    }

    /// The stat of entry `at`. Entries must be asked for in order, each once.
    pub(crate) fn take_stat(&mut self, at: usize) -> io::Result<Stat> {
        if at >= self.first + self.stats.len() {
            self.fill(at);
        }
        std::mem::replace(&mut self.stats[at - self.first], Err(io::ErrorKind::NotFound.into()))
    }

    /// Whether entry `at` is known to be a directory, without taking its stat.
    pub(crate) fn is_directory(&self, at: usize) -> bool {
        match at.checked_sub(self.first).and_then(|at| self.stats.get(at)) {
            Some(Ok(stat)) => stat.kind == FileKind::Directory,
            _ => self.listing.kind(at) == FileKind::Directory,
        }
    }
}

/// The error of a directory that is closed. Callers must open it first.
pub(super) fn closed() -> io::Error {
    io::Error::other("its directory is closed")
}

#[derive(Debug)]
enum ScanState {
    /// It is in this directory.
    Waiting(Arc<Handle>),
    Running,
    Done(io::Result<Box<Scanned>>),
    Taken,
}

/// A directory that is to be scanned.
#[derive(Debug)]
pub(crate) struct Cell {
    name: Vec<u8>,
    state: Mutex<ScanState>,
    done: Condvar,
}

impl Cell {
    fn state(&self) -> MutexGuard<'_, ScanState> {
        self.state.lock()
    }

    /// Takes the cell for scanning, if nobody has; the directory that it is in.
    fn claim(&self) -> Option<Arc<Handle>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, ScanState::Running) {
            ScanState::Waiting(parent) => Some(parent),
            other => {
                *state = other;
                None
            }
        }
    }

    fn scan(&self, parent: &Dir) -> io::Result<Scanned> {
        parent.open_dir(&self.name).and_then(Scanned::of)
    }
}

#[derive(Debug, Default)]
struct Queue {
    cells: VecDeque<Arc<Cell>>,
    /// Scanned and not taken yet.
    ahead: usize,
    closed: bool,
}

/// The directories that come next.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// Scanned directories that may wait for the planner; each holds a descriptor.
    most_ahead: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Scanner {
    /// A scanner that is at most so many directories ahead.
    pub(crate) fn new(most_ahead: usize) -> Self {
        Scanner { most_ahead, queue: Mutex::default(), changed: Condvar::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Announces directories, in the order in which they will be needed; they come before all announced earlier.
    pub(crate) fn announce(&self, dir: &Arc<Handle>, names: impl DoubleEndedIterator<Item = Vec<u8>>) -> Vec<Arc<Cell>> {
        let waiting = || Mutex::new(ScanState::Waiting(dir.clone()));
        let cell = |name| Arc::new(Cell { name, state: waiting(), done: Condvar::new() });
        let cells: Vec<Arc<Cell>> = names.map(cell).collect();
        let mut queue = self.queue();
        cells.iter().rev().for_each(|cell| queue.cells.push_front(cell.clone()));
        // What was announced long ago and far away is scanned when it is needed.
        queue.cells.truncate(1024);
        self.changed.notify_all();
        cells
    }

    /// The scan of an announced directory; scans it here when nobody has begun.
    pub(crate) fn take(&self, cell: &Cell) -> io::Result<Scanned> {
        if let Some(parent) = cell.claim() {
            return cell.scan(&parent);
        }
        let mut state = cell.state();
        loop {
            match std::mem::replace(&mut *state, ScanState::Taken) {
                ScanState::Done(result) => {
                    drop(state);
                    self.one_less();
                    return result.map(|scanned| *scanned);
                }
                other => *state = other,
            }
            cell.done.wait(&mut state);
        }
    }

    /// Lets go of an announced directory that is not needed, or whose own directory is to be closed.
    pub(crate) fn forget(&self, cell: &Cell) {
        let state = std::mem::replace(&mut *cell.state(), ScanState::Taken);
        if matches!(state, ScanState::Done(_)) {
            self.one_less();
        }
    }

    fn one_less(&self) {
        self.queue().ahead -= 1;
        self.changed.notify_all();
    }

    /// Scans announced directories until the scanner is closed: the body of a thread.
    pub(crate) fn work(&self) {
        let mut queue = self.queue();
        while !queue.closed {
            let next = if queue.ahead < self.most_ahead { queue.cells.pop_front() } else { None };
            let Some(cell) = next else {
                self.changed.wait(&mut queue);
                continue;
            };
            let Some(parent) = cell.claim() else { continue };
            queue.ahead += 1;
            drop(queue);
            let result = cell.scan(&parent);
            drop(parent);
            let forgotten = {
                let mut state = cell.state();
                let forgotten = matches!(*state, ScanState::Taken);
                if !forgotten {
                    *state = ScanState::Done(result.map(Box::new));
                }
                forgotten
            };
            cell.done.notify_all();
            queue = self.queue();
            if forgotten {
                queue.ahead -= 1;
                self.changed.notify_all();
            }
        }
    }

    /// Ends the threads.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_all();
    }
}
