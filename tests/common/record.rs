//! A storage that writes down what is asked of another and can be told to fail or to stall: for tests that count, for
//! crashes between any two operations, and for what a bad network does to readers.
//!
//! The fuzz targets and benches use this by its path.
#![allow(dead_code)] // Every program uses its own part of this.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use yester::error::{Error, ErrorKind, Result};
use yester::storage::{Class, Costs, Created, Leftovers, Name, Receipt, Requests, Storage};
use yester::sys::process::ProcessIdentity;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// `create` with so many bytes.
    Create(Name, u64),
    /// `read` of so many bytes.
    Read(Name, u64),
    /// `list`.
    List(Class),
    /// `delete`.
    Delete(Name),
    /// `sync`.
    Sync,
}

/// What a read or a list meets: a fault, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered.
    None,
    /// It fails.
    Fail,
    /// It waits until the fault is taken away.
    Stall,
}

/// What is asked for: a class's list when there is no name.
type Faults = dyn Fn(Class, Option<&Name>) -> Fault + Send + Sync;

/// Records every call that is passed on to `inner`.
pub struct RecordingStorage {
    inner: Arc<dyn Storage>,
    log: Mutex<Vec<Operation>>,
    /// Creates, deletes and syncs left before all of them fail.
    changes_left: AtomicU64,
    /// What reads and lists meet, and how many of them wait.
    faults: Mutex<(Arc<Faults>, usize)>,
    changed: Condvar,
}

impl fmt::Debug for RecordingStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordingStorage of {:?}", self.inner)
    }
}

impl RecordingStorage {
    /// Records what is asked of `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        let none: Arc<Faults> = Arc::new(|_, _| Fault::None);
        let changes_left = AtomicU64::new(u64::MAX);
        RecordingStorage { inner, log: Mutex::default(), changes_left, faults: Mutex::new((none, 0)), changed: Condvar::new() }
    }

    /// What was asked since the last call of this.
    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.log.lock())
    }

    /// From now on, `n` more changes succeed; the ones after them fail and change nothing.
    pub fn fail_after(&self, n: u64) {
        self.changes_left.store(n, Ordering::SeqCst);
    }

    /// From now on reads and lists meet what `faults` says of them, those that wait already too.
    pub fn set_faults(&self, faults: impl Fn(Class, Option<&Name>) -> Fault + Send + Sync + 'static) {
        self.faults().0 = Arc::new(faults);
        self.changed.notify_all();
    }

    /// Reads and lists that are stalled now.
    pub fn stalled(&self) -> usize {
        self.faults().1
    }

    fn faults(&self) -> MutexGuard<'_, (Arc<Faults>, usize)> {
        self.faults.lock()
    }

    /// Waits while what is asked for stalls.
    fn meet(&self, class: Class, name: Option<&Name>) -> Result<()> {
        let mut faults = self.faults();
        loop {
            match faults.0(class, name) {
                Fault::None => return Ok(()),
                Fault::Fail => return Err(Error::new(ErrorKind::Io, "the storage was told to fail")),
                Fault::Stall => {
                    faults.1 += 1;
                    self.changed.wait(&mut faults);
                    faults.1 -= 1;
                }
            }
        }
    }

    /// The names of a class, without a note in the record; none when they cannot be listed.
    pub fn list_names(&self, class: Class) -> Vec<Name> {
        self.inner.list(class).map(|list| list.into_iter().map(|(name, _)| name).collect()).unwrap_or_default()
    }

    fn note(&self, operation: Operation) {
        self.log.lock().push(operation);
    }

    fn change(&self) -> Result<()> {
        let taken = self.changes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| match n {
            u64::MAX => Some(n),
            _ => n.checked_sub(1),
        });
        taken.map(|_| ()).map_err(|_| Error::new(ErrorKind::Io, "the storage was told to fail"))
    }
}

impl Storage for RecordingStorage {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        self.change()?;
        self.note(Operation::Create(*name, parts.iter().map(|p| p.len() as u64).sum()));
        self.inner.create(name, parts)
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        self.meet(name.class(), Some(name))?;
        self.inner.read(name, range, out)?;
        self.note(Operation::Read(*name, out.len() as u64));
        Ok(())
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        self.note(Operation::List(class));
        self.meet(class, None)?;
        self.inner.list(class)
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.change()?;
        self.note(Operation::Delete(*name));
        self.inner.delete(name)
    }

    fn sync(&self) -> Result<()> {
        self.change()?;
        self.note(Operation::Sync);
        self.inner.sync()
    }

    fn sync_everything(&self) -> Result<()> {
        self.change()?;
        self.note(Operation::Sync);
        self.inner.sync_everything()
    }

    fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space()
    }

    fn leftovers(&self, remove: bool) -> Result<Leftovers> {
        self.inner.leftovers(remove)
    }

    fn leftovers_of(&self, process: &ProcessIdentity) -> Result<Leftovers> {
        self.inner.leftovers_of(process)
    }

    fn received(&self, class: Class) -> Result<Vec<(Name, Receipt)>> {
        self.inner.received(class)
    }

    fn client(&self) -> Option<String> {
        self.inner.client()
    }

    fn decides(&self) -> Result<bool> {
        self.inner.decides()
    }

    fn requests(&self) -> Option<Requests> {
        self.inner.requests()
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn local_path(&self) -> Option<std::path::PathBuf> {
        self.inner.local_path()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
