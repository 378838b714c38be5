//! Descriptors of directories: how many the walk may have open, and who waits until there are fewer.
//!
//! A level of the walk needs its directory, and so does every file that is still to be read. Levels far above are closed
//! and opened again on the way back; for the files, the walk waits until readers are done with some.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::sys::Dir;

/// How many directories are open.
#[derive(Debug)]
pub(crate) struct Handles {
    limit: usize,
    open: Mutex<usize>,
    changed: Condvar,
}

impl Handles {
    /// At most `limit`, but for those that nobody else can let go.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Handles { limit, open: Mutex::new(0), changed: Condvar::new() })
    }

    /// How many of them the levels of the walk may have.
    pub(crate) fn of_levels(&self) -> usize {
        (self.limit / 2).max(2)
    }

    fn open(&self) -> MutexGuard<'_, usize> {
        self.open.lock()
    }

    /// Whether one more must wait.
    pub(crate) fn is_full(&self) -> bool {
        *self.open() >= self.limit
    }

    /// Waits until one more may be open; `own` are the caller's, for which it would wait for ever.
    pub(crate) fn wait(&self, own: usize) {
        let mut open = self.open();
        while *open >= self.limit && *open > own {
            self.changed.wait(&mut open);
        }
    }
}

/// An open directory, which may be among those that are counted.
#[derive(Debug)]
pub struct Handle {
    dir: Dir,
    counted: OnceLock<Arc<Handles>>,
}

impl Handle {
    /// A directory that is not counted yet.
    pub(crate) fn new(dir: Dir) -> Self {
        Handle { dir, counted: OnceLock::new() }
    }

    /// Counts it until it is closed.
    pub(crate) fn count(&self, handles: &Arc<Handles>) {
        if self.counted.set(handles.clone()).is_ok() {
            *handles.open() += 1;
        }
    }
}

impl Deref for Handle {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(handles) = self.counted.take() {
            *handles.open() -= 1;
            handles.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_others_and_never_for_itself() {
        let handles = Handles::new(2);
        let open = || {
            let handle = Handle::new(Dir::open(std::path::Path::new("/")).expect("a directory"));
            handle.count(&handles);
            handle
        };
        let (mine, other) = (open(), open());
        assert!(handles.is_full());
        handles.wait(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| handles.wait(1));
            drop(other);
            waiting.join().expect("the thread ends");
        });
        assert!(!handles.is_full());
        drop(mine);
        assert_eq!(*handles.open(), 0);
    }
}
