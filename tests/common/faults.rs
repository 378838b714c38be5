//! A storage that can fail, be full, and let a test act between any two operations.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::common::record::Operation;
use yester::error::{Error, ErrorKind, Result};
use yester::model::PackId;
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Costs, Created, Name, Storage};

/// Called before every operation; may act on the repository, and may make the operation fail.
pub type Hook = Box<dyn FnMut(&Operation) -> Result<()> + Send>;

pub struct Faults {
    pub inner: Arc<MemoryStorage>,
    log: Mutex<Vec<Operation>>,
    /// The content of everything that was created, also of what is deleted again.
    created: Mutex<HashMap<Name, Vec<u8>>>,
    hook: Mutex<Option<Hook>>,
    /// Held by who wants no other operation to begin.
    gate: RwLock<()>,
    /// Bytes that there is room for.
    capacity: AtomicU64,
    /// Changes left before all of them fail.
    left: AtomicU64,
    /// Packs that listings leave out.
    hidden: Mutex<Vec<PackId>>,
    /// How often everything was made durable, and not only what was done here.
    pub whole_syncs: AtomicU64,
    /// What is said of the free space.
    tells_room: bool,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

/// The same objects in another memory.
pub fn copy(from: &dyn Storage) -> Arc<MemoryStorage> {
    let out = MemoryStorage::default();
    let mut bytes = Vec::new();
    for class in Class::ALL {
        for (name, _) in from.list(class).unwrap() {
            from.read(&name, None, &mut bytes).unwrap();
            out.create(&name, &[&bytes]).unwrap();
        }
    }
    Arc::new(out)
}

/// Bytes of all objects.
pub fn size(storage: &dyn Storage) -> u64 {
    Class::ALL.iter().flat_map(|class| storage.list(*class).unwrap()).map(|(_, size)| size).sum()
}

/// The names of a class.
pub fn names(storage: &dyn Storage, class: Class) -> Vec<Name> {
    let mut names: Vec<Name> = storage.list(class).unwrap().into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

impl Faults {
    pub fn over(inner: Arc<MemoryStorage>) -> Arc<Faults> {
        Arc::new(Faults {
            inner,
            log: Mutex::default(),
            created: Mutex::default(),
            hook: Mutex::default(),
            gate: RwLock::default(),
            capacity: AtomicU64::new(u64::MAX),
            left: AtomicU64::new(u64::MAX),
            hidden: Mutex::default(),
            whole_syncs: AtomicU64::new(0),
            tells_room: false,
        })
    }

    /// One that tells how much room there is.
    pub fn with_room(inner: Arc<MemoryStorage>, capacity: u64) -> Arc<Faults> {
        let mut out = Faults::over(inner);
        let faults = Arc::get_mut(&mut out).unwrap();
        faults.tells_room = true;
        faults.capacity = AtomicU64::new(capacity);
        out
    }

    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// From now on, `hook` is asked before every operation. It is not asked about what it does itself.
    pub fn before(&self, hook: impl FnMut(&Operation) -> Result<()> + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Does something once, before the first operation that `at` says yes to.
    pub fn once(&self, at: impl Fn(&Operation) -> bool + Send + 'static, act: impl FnOnce() + Send + 'static) {
        let mut act = Some(act);
        self.before(move |operation| {
            if at(operation)
                && let Some(act) = act.take()
            {
                act();
            }
            Ok(())
        });
    }

    /// Does something while no operation begins here. It must act past these hooks.
    pub fn alone<T>(&self, act: impl FnOnce() -> T) -> T {
        let _held = self.gate.write().unwrap();
        act()
    }

    pub fn fill_up_to(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::SeqCst);
    }

    /// Leaves these packs out of listings.
    pub fn hide(&self, packs: Vec<PackId>) {
        *self.hidden.lock().unwrap() = packs;
    }

    pub fn fail_after(&self, changes: u64) {
        self.left.store(changes, Ordering::SeqCst);
    }

    /// What a power cut leaves of `before` and all that was done here since: everything up to the last barrier, and of
    /// the rest what `keep` says.
    pub fn after_power_cut(&self, before: &MemoryStorage, mut keep: impl FnMut() -> bool) -> Arc<MemoryStorage> {
        let out = copy(before);
        let log = self.log.lock().unwrap();
        let durable = log.iter().rposition(|operation| *operation == Operation::Sync).map_or(0, |at| at + 1);
        for (at, operation) in log.iter().enumerate() {
            let changes = matches!(operation, Operation::Create(..) | Operation::Delete(_));
            if !changes || at >= durable && !keep() {
                continue;
            }
            match operation {
                Operation::Create(name, _) => drop(out.create(name, &[&self.created.lock().unwrap()[name]]).unwrap()),
                Operation::Delete(name) => out.delete(name).unwrap(),
                _ => {}
            }
        }
        out
    }

    fn begin(&self, operation: Operation) -> Result<()> {
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            // On a thread of its own: the operation may be asked for in the middle of something.
            let result = std::thread::scope(|scope| scope.spawn(|| hook(&operation)).join()).unwrap();
            self.hook.lock().unwrap().get_or_insert(hook);
            result?;
        }
        drop(self.gate.read().unwrap());
        let changes = matches!(operation, Operation::Create(..) | Operation::Delete(_) | Operation::Sync);
        if changes {
            let next = |n: u64| if n == u64::MAX { Some(n) } else { n.checked_sub(1) };
            let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
            left.map_err(|_| Error::new(ErrorKind::Io, "the storage was told to fail"))?;
        }
        self.log.lock().unwrap().push(operation);
        Ok(())
    }
}

/// As a full disk says it.
pub fn full() -> Error {
    Error::io("cannot write", io::Error::from_raw_os_error(libc::ENOSPC))
}

impl Storage for Faults {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        let len = parts.iter().map(|p| p.len() as u64).sum();
        self.begin(Operation::Create(*name, len))?;
        let capacity = self.capacity.load(Ordering::SeqCst);
        if capacity != u64::MAX && size(&*self.inner) + len > capacity {
            return Err(full());
        }
        self.created.lock().unwrap().insert(*name, parts.concat());
        self.inner.create(name, parts)
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        self.begin(Operation::Read(*name, range.as_ref().map_or(0, |r| r.end - r.start)))?;
        self.inner.read(name, range, out)
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        self.begin(Operation::List(class))?;
        let hidden = self.hidden.lock().unwrap();
        let is_seen = |name: &Name| !hidden.iter().any(|id| *name == Name::Pack(*id));
        Ok(self.inner.list(class)?.into_iter().filter(|(name, _)| is_seen(name)).collect())
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.begin(Operation::Delete(*name))?;
        self.inner.delete(name)
    }

    fn sync(&self) -> Result<()> {
        self.begin(Operation::Sync)
    }

    fn sync_everything(&self) -> Result<()> {
        self.whole_syncs.fetch_add(1, Ordering::SeqCst);
        self.sync()
    }

    fn free_space(&self) -> Result<Option<u64>> {
        let capacity = self.capacity.load(Ordering::SeqCst);
        Ok(self.tells_room.then(|| capacity.saturating_sub(size(&*self.inner))))
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn describe(&self) -> String {
        "memory with faults".to_owned()
    }
}
