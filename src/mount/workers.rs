//! Threads for requests that wait.
//!
//! The session's own threads serve what they take from the kernel: that is the shortest way. But a thread that waits for
//! the storage takes no requests, and a storage that stalls would soon hold all threads, and block readers whose data is
//! in memory. So one thread of the session always stays free to take the next request: when all others are at work, it
//! hands requests to threads that exist only while they are needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

/// Threads besides the session's, at most. When all of them wait, everybody does.
pub(crate) const MOST: usize = 512;
/// A thread that was not needed for so long ends.
const IDLE: Duration = Duration::from_secs(if cfg!(test) { 600 } else { 5 });

type WorkerJob = Box<dyn FnOnce() + Send>;

#[derive(Debug, Default)]
struct WorkerCounts {
    /// Requests that threads of the session serve now.
    at_work: AtomicUsize,
    /// Further threads.
    threads: AtomicUsize,
    /// Those of them that wait for a job that nobody has sent yet.
    idle: AtomicUsize,
}

/// The session's threads and those that help out.
#[derive(Debug)]
pub(crate) struct Workers {
    /// Requests that the session may serve itself.
    own: usize,
    counts: Arc<WorkerCounts>,
    jobs: Sender<WorkerJob>,
    waiting: Receiver<WorkerJob>,
}

/// Takes one from a count, if there is one.
fn take(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
}

/// Adds one to a count that may reach `most`.
fn add(count: &AtomicUsize, most: usize) -> bool {
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1)).is_ok()
}

/// Takes one back, also when the job panics.
struct Less<'a>(&'a AtomicUsize);

impl Drop for Less<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Workers {
    /// For a session of so many threads.
    pub(crate) fn new(session: usize) -> Self {
        let (jobs, waiting) = crossbeam_channel::unbounded();
        Workers { own: session.saturating_sub(1), counts: Arc::default(), jobs, waiting }
    }

    /// Does `job`, here or in another thread: here only while another thread of the session is free.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if add(&self.counts.at_work, self.own) {
            let _less = Less(&self.counts.at_work);
            job();
        } else if let Err(job) = self.hand_over(Box::new(job)) {
            // The limit of threads is reached: this request waits.
            job();
        }
    }

    fn hand_over(&self, job: WorkerJob) -> Result<(), WorkerJob> {
        if take(&self.counts.idle) {
            return self.jobs.send(job).map_err(|refused| refused.0);
        }
        if !add(&self.counts.threads, MOST) {
            return Err(job);
        }
        let (counts, waiting) = (self.counts.clone(), self.waiting.clone());
        // The job goes by the channel like all others, so that it is still here when no thread can be started.
        let thread = std::thread::Builder::new().name("mount-worker".to_owned()).spawn(move || {
            let _less = Less(&counts.threads);
            work(&counts, &waiting);
        });
        match thread {
            Ok(_) => self.jobs.send(job).map_err(|refused| refused.0),
            Err(_) => {
                self.counts.threads.fetch_sub(1, Ordering::AcqRel);
                Err(job)
            }
        }
    }
}

/// Does jobs: one that was sent already, then others as they come.
fn work(counts: &WorkerCounts, waiting: &Receiver<WorkerJob>) {
    let mut next = waiting.recv();
    while let Ok(job) = next {
        job();
        counts.idle.fetch_add(1, Ordering::AcqRel);
        next = match waiting.recv_timeout(IDLE) {
            Err(RecvTimeoutError::Timeout) if take(&counts.idle) => return,
            // Another thread has counted this one as idle and is sending to it.
            Err(RecvTimeoutError::Timeout) => waiting.recv(),
            other => other.map_err(|_| crossbeam_channel::RecvError),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_stays_free() {
        let workers = Workers::new(3);
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        let (done, finished) = crossbeam_channel::unbounded();
        let blocked = || {
            let (gate, done) = (gate.clone(), done.clone());
            move || {
                let _ = gate.recv();
                let _ = done.send(());
            }
        };
        std::thread::scope(|scope| {
            // Two threads of the session are held; the third hands over whatever comes.
            for _ in 0..2 {
                scope.spawn(|| workers.run(blocked()));
            }
            while workers.counts.at_work.load(Ordering::Acquire) < 2 {
                std::thread::yield_now();
            }
            (0..50).for_each(|_| workers.run(blocked()));
            assert_eq!(workers.counts.threads.load(Ordering::Acquire), 50);
            drop(release);
            (0..52).for_each(|_| finished.recv().unwrap());
        });
        // Those that are there are used again.
        while workers.counts.idle.load(Ordering::Acquire) < 50 {
            std::thread::yield_now();
        }
        let (done, finished) = crossbeam_channel::unbounded();
        let here = std::thread::current().id();
        workers.run(move || done.send(std::thread::current().id()).unwrap());
        assert_eq!(finished.recv().unwrap(), here);
        assert_eq!(workers.counts.threads.load(Ordering::Acquire), 50);
    }
}
