//! The threads of read-ahead, and the jobs that wait for them.
//!
//! Every thread takes any job. Jobs are of three lanes. Each lane has a bound on jobs that wait, and on jobs that run at
//! once; there are as many threads as may run of all lanes together. So a job never waits for one of another lane, and
//! no lane needs to go before another:
//!
//! | lane | jobs | at once | why it is protected |
//! |---|---|---|---|
//! | decode | walks, frames, pieces of long files | a core each (2 to 16), or what high-latency storage serves at once | a reader in order waits for these first |
//! | random | around a random read | 1 | a reader of a database must not wait for whole directories; more would take the processor from readers, for what nobody asked for |
//! | small files | small files of a directory | a core each, at most 4 | one takes as long as reading 512 files, and would hold up all decoding |
//!
//! A job that finds its lane full is refused, and the reader asks as it would have. Nobody waits to put one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::vfs::readahead::job::{ReadAheadContext, ReadAheadJob};

/// Jobs that wait at most, by lane.
const WAITING: [usize; 3] = [1024, 16, 16];

/// How often a thread lets others run and looks again before it sleeps: one job often follows another within
/// microseconds, and waking up takes longer.
const LOOKS: usize = 10;

/// Jobs that share bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadAheadLane {
    Decode,
    Random,
    SmallFiles,
}

impl ReadAheadLane {
    fn of(job: &ReadAheadJob) -> Self {
        match job {
            ReadAheadJob::Walk(..) | ReadAheadJob::Frames(_) | ReadAheadJob::Piece(_) => ReadAheadLane::Decode,
            ReadAheadJob::Around(_) => ReadAheadLane::Random,
            ReadAheadJob::SmallFiles(_) => ReadAheadLane::SmallFiles,
        }
    }
}

/// How many jobs run at once, by lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneLimits(pub [usize; 3]);

impl LaneLimits {
    /// For a machine with so many cores and a storage that serves so many requests at once, if it has a high latency: a
    /// thread that waits for it needs no core. Without a kernel that is given bytes there is only decoding.
    pub(super) fn new(cores: usize, high_latency: Option<usize>, gives: bool) -> Self {
        let decode = cores.max(high_latency.unwrap_or(0)).clamp(2, 16);
        match gives {
            true => LaneLimits([decode, 1, cores.clamp(1, 4)]),
            false => LaneLimits([decode, 0, 0]),
        }
    }

    fn threads(&self) -> usize {
        self.0.iter().sum()
    }
}

/// The jobs of one lane.
#[derive(Debug)]
struct LaneJobs<J> {
    waiting: VecDeque<J>,
    running: usize,
    /// How many may wait, and run.
    bounds: (usize, usize),
}

impl<J> LaneJobs<J> {
    /// How many more may run.
    fn free(&self) -> usize {
        self.bounds.1.saturating_sub(self.running)
    }

    fn is_ready(&self) -> bool {
        self.free() > 0 && !self.waiting.is_empty()
    }
}

/// The jobs that wait.
#[derive(Debug)]
pub(super) struct LaneQueue<J> {
    lanes: Mutex<[LaneJobs<J>; 3]>,
    /// A job can be taken, or the queue was closed.
    ready: Condvar,
    /// Changed while the lanes are locked.
    closed: AtomicBool,
}

impl<J> LaneQueue<J> {
    fn new(limits: LaneLimits) -> Self {
        let lane = |at: usize| LaneJobs { waiting: VecDeque::new(), running: 0, bounds: (WAITING[at], limits.0[at]) };
        LaneQueue { lanes: Mutex::new([0, 1, 2].map(lane)), ready: Condvar::new(), closed: AtomicBool::new(false) }
    }

    /// Puts a job; false when too many wait, or no job of its lane is ever done.
    fn put_in(&self, lane: ReadAheadLane, job: J) -> bool {
        let mut lanes = self.lanes.lock();
        let lane = &mut lanes[lane as usize];
        let is_taken = !self.is_closed() && lane.bounds.1 > 0 && lane.waiting.len() < lane.bounds.0;
        if is_taken {
            lane.waiting.push_back(job);
            // One thread for each job that can run. Those behind are taken by threads that end a job of this lane.
            if lane.waiting.len() <= lane.free() {
                self.ready.notify_one();
            }
        }
        is_taken
    }

    /// Waits for a job that may run now; `None` when the queue was closed.
    fn take(&self) -> Option<(J, RunningJob<'_, J>)> {
        let mut lanes = self.lanes.lock();
        let mut looks = 0;
        while !self.is_closed() {
            if let Some(at) = lanes.iter().position(LaneJobs::is_ready)
                && let Some(job) = lanes[at].waiting.pop_front()
            {
                lanes[at].running += 1;
                return Some((job, RunningJob { queue: self, lane: at }));
            }
            if looks < LOOKS {
                looks += 1;
                MutexGuard::unlocked(&mut lanes, std::thread::yield_now);
            } else {
                self.ready.wait(&mut lanes);
                looks = 0;
            }
        }
        None
    }

    /// Whether the threads are to end.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether a random read waits.
    pub(super) fn has_reads(&self) -> bool {
        !self.lanes.lock()[ReadAheadLane::Random as usize].waiting.is_empty()
    }

    /// Forgets the jobs that wait, and ends the threads as soon as they have done what they are at.
    fn close(&self) {
        let mut lanes = self.lanes.lock();
        self.closed.store(true, Ordering::Relaxed);
        lanes.iter_mut().for_each(|lane| lane.waiting.clear());
        self.ready.notify_all();
    }
}

/// A job that runs, also if it panics.
struct RunningJob<'a, J> {
    queue: &'a LaneQueue<J>,
    lane: usize,
}

impl<J> Drop for RunningJob<'_, J> {
    fn drop(&mut self) {
        self.queue.lanes.lock()[self.lane].running -= 1;
        // Its thread looks for the next job, unless it ends.
        if std::thread::panicking() {
            self.queue.ready.notify_one();
        }
    }
}

/// The queue of the pool.
pub(super) type ReadAheadQueue = LaneQueue<ReadAheadJob>;

impl ReadAheadQueue {
    /// Puts a job; false when it is refused.
    pub(super) fn put(&self, job: ReadAheadJob) -> bool {
        self.put_in(ReadAheadLane::of(&job), job)
    }
}

/// The threads. They end with this, which does not wait for them: one may be waiting for the kernel.
#[derive(Debug)]
pub(super) struct ReadAheadPool(Arc<ReadAheadQueue>);

impl ReadAheadPool {
    /// Starts the threads.
    pub(super) fn start(context: &Arc<ReadAheadContext>, limits: LaneLimits) -> Result<Self> {
        let pool = ReadAheadPool(Arc::new(LaneQueue::new(limits)));
        for number in 0..limits.threads() {
            let (context, queue) = (context.clone(), pool.0.clone());
            let work = move || {
                let mut bytes = Vec::new();
                while let Some((job, _running)) = queue.take() {
                    context.run(job, &queue, &mut bytes);
                }
            };
            std::thread::Builder::new()
                .name(format!("read-ahead-{number}"))
                .spawn(work)
                .map_err(|e| Error::io("cannot start a thread", e))?;
        }
        Ok(pool)
    }

    /// Where jobs are put.
    pub(super) fn queue(&self) -> &ReadAheadQueue {
        &self.0
    }
}

impl Drop for ReadAheadPool {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const LANES: [ReadAheadLane; 3] = [ReadAheadLane::Decode, ReadAheadLane::Random, ReadAheadLane::SmallFiles];

    #[test]
    fn a_lane_that_is_busy_holds_up_no_other() {
        let queue = LaneQueue::new(LaneLimits([2, 1, 1]));
        for number in 0..3 {
            assert!(LANES.iter().all(|lane| queue.put_in(*lane, (*lane, number))));
        }
        let mut running = Vec::new();
        let mut jobs: Vec<_> = (0..4)
            .map(|_| {
                let (job, guard) = queue.take().unwrap();
                running.push(guard);
                job
            })
            .collect();
        jobs.sort_by_key(|(lane, number)| (*lane as usize, *number));
        assert_eq!(jobs, [(LANES[0], 0), (LANES[0], 1), (LANES[1], 0), (LANES[2], 0)]);
        assert!(!queue.lanes.lock().iter().any(LaneJobs::is_ready), "as many run as may");
        running.retain(|guard| guard.lane != ReadAheadLane::SmallFiles as usize);
        assert_eq!(queue.take().unwrap().0, (LANES[2], 1), "in their order");
        assert!(queue.has_reads());
    }

    #[test]
    fn a_full_lane_refuses_and_others_take() {
        let queue = LaneQueue::new(LaneLimits([1, 1, 0]));
        let taken = (0..2000).filter(|number| queue.put_in(ReadAheadLane::Random, *number)).count();
        assert_eq!(taken, WAITING[ReadAheadLane::Random as usize]);
        assert!(queue.put_in(ReadAheadLane::Decode, 1));
        assert!(!queue.put_in(ReadAheadLane::SmallFiles, 1), "nobody would ever do it");
    }

    #[test]
    fn a_closed_queue_ends_threads_and_takes_nothing() {
        let queue = LaneQueue::new(LaneLimits([1, 1, 1]));
        assert!(queue.put_in(ReadAheadLane::Decode, 1));
        std::thread::scope(|scope| {
            let taken = queue.take().unwrap();
            let waits = scope.spawn(|| queue.take().is_none());
            assert!(queue.put_in(ReadAheadLane::Decode, 2));
            queue.close();
            assert!(waits.join().unwrap(), "what waits is forgotten");
            drop(taken);
        });
        assert!(!queue.put_in(ReadAheadLane::Decode, 3) && queue.is_closed());
    }

    #[test]
    fn a_job_that_panics_leaves_its_lane() {
        let queue = LaneQueue::new(LaneLimits([1, 1, 1]));
        assert!(queue.put_in(ReadAheadLane::Random, 1) && queue.put_in(ReadAheadLane::Random, 2));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _taken = queue.take().unwrap();
            panic!("a job");
        }));
        assert!(panicked.is_err());
        assert_eq!(queue.take().unwrap().0, 2);
    }

    #[test]
    fn many_threads_do_every_job_once_and_no_more_at_once_than_may() {
        let limits = LaneLimits([3, 1, 2]);
        let queue = LaneQueue::new(limits);
        let (running, done) = ([0, 0, 0].map(AtomicUsize::new), [0, 0, 0].map(AtomicUsize::new));
        std::thread::scope(|scope| {
            for _ in 0..limits.threads() {
                scope.spawn(|| {
                    while let Some((lane, _guard)) = queue.take() {
                        assert!(running[lane as usize].fetch_add(1, Ordering::SeqCst) < limits.0[lane as usize]);
                        std::thread::yield_now();
                        running[lane as usize].fetch_sub(1, Ordering::SeqCst);
                        done[lane as usize].fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            // A job that no thread was told of would be waited for for ever, and one done twice, too.
            let end = std::time::Instant::now() + std::time::Duration::from_secs(300);
            let go_on = || {
                if std::time::Instant::now() > end {
                    queue.close();
                    panic!("a job was lost, or done twice");
                }
                std::thread::yield_now();
            };
            let mut put = [0; 3];
            for number in 0..3000 {
                let lane = LANES[number % 3];
                while !queue.put_in(lane, lane) {
                    go_on();
                }
                put[number % 3] += 1;
            }
            while done.each_ref().map(|count| count.load(Ordering::SeqCst)) != put {
                go_on();
            }
            queue.close();
        });
    }

    #[test]
    fn threads_are_as_many_as_may_run() {
        assert_eq!(LaneLimits::new(2, None, true).0, [2, 1, 2]);
        assert_eq!(LaneLimits::new(64, None, true).0, [16, 1, 4]);
        assert_eq!(LaneLimits::new(1, Some(8), true).threads(), 8 + 1 + 1);
        assert_eq!(LaneLimits::new(8, None, false).threads(), 8, "nothing is given where no kernel is");
    }
}
