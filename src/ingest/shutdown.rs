//! The one way to end the threads of an ingest before their work is done.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;

use crate::error::Result;
use crate::ingest::budget::ReadBudget;
use crate::ingest::scan::Scanner;

/// What the threads of an ingest wait at, and what ends all this waiting at once. It begins when a stage fails or panics,
/// and when the assembler is done. The user's flag does not begin it by itself: the planner and the readers look at the
/// flag, and fail.
#[derive(Debug)]
pub(crate) struct StageShutdown<'a> {
    user: &'a AtomicBool,
    begun: AtomicBool,
    /// Dropped when it begins: then the other end is closed, which ends waiting at a channel.
    running: Mutex<Option<Sender<Infallible>>>,
    ended: Receiver<Infallible>,
    /// What scans directories ahead of the planner.
    pub(crate) scanner: Scanner,
    /// Bytes of files that readers hold.
    pub(crate) bytes: ReadBudget,
    /// Steps that the planner is ahead of the assembler.
    pub(crate) lead: ReadBudget,
    /// Bytes of streams that their readers hold.
    pub(crate) streamed: ReadBudget,
}

/// How much of everything may be waited for.
#[derive(Debug)]
pub(crate) struct StageLimits {
    /// Directories that are scanned ahead.
    pub(crate) scanned: usize,
    /// Bytes of files.
    pub(crate) bytes: u64,
    /// Steps.
    pub(crate) steps: u64,
    /// Bytes of streams.
    pub(crate) streamed: u64,
}

impl<'a> StageShutdown<'a> {
    /// Nothing has ended yet. `user` is set when the user wants it to end.
    pub(crate) fn new(user: &'a AtomicBool, limits: &StageLimits) -> Self {
        let (running, ended) = bounded(0);
        StageShutdown {
            user,
            begun: AtomicBool::new(false),
            running: Mutex::new(Some(running)),
            ended,
            scanner: Scanner::new(limits.scanned),
            bytes: ReadBudget::new(limits.bytes),
            lead: ReadBudget::new(limits.steps),
            streamed: ReadBudget::new(limits.streamed),
        }
    }

    /// Ends all waiting, now and later.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        drop(self.running.lock().take());
        self.scanner.close();
        [&self.bytes, &self.lead, &self.streamed].iter().for_each(|budget| budget.close());
    }

    /// Whether it has begun, or the user wants it to.
    pub(crate) fn is_wanted(&self) -> bool {
        self.begun.load(Ordering::Relaxed) || self.user.load(Ordering::Relaxed)
    }

    /// The next message of a channel; `None` when its senders are gone, or the shutdown has begun.
    pub(crate) fn next<T>(&self, channel: &Receiver<T>) -> Option<T> {
        if self.begun.load(Ordering::Relaxed) {
            return None;
        }
        // Mostly something is there: then nothing is waited at.
        if let Ok(message) = channel.try_recv() {
            return Some(message);
        }
        select! {
            recv(channel) -> message => message.ok(),
            recv(self.ended) -> _ => None,
        }
    }

    /// Does the work of a stage. The shutdown begins when it fails or panics.
    pub(crate) fn guard<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut guard = Guard { shutdown: self, well: false };
        let result = work();
        guard.well = result.is_ok();
        result
    }
}

struct Guard<'a> {
    shutdown: &'a StageShutdown<'a>,
    well: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.well {
            self.shutdown.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::Error;

    const LIMITS: StageLimits = StageLimits { scanned: 1, bytes: 1, steps: 1, streamed: 1 };

    #[test]
    fn a_stage_that_fails_or_panics_ends_all_waiting() {
        let user = AtomicBool::new(false);
        for panics in [false, true] {
            let shutdown = StageShutdown::new(&user, &LIMITS);
            let (_sender, channel) = bounded::<u8>(0);
            assert!(shutdown.bytes.take(9, 1) && shutdown.lead.take(9, 1) && shutdown.streamed.take(9, 1));
            std::thread::scope(|scope| {
                let waiting = [&shutdown.bytes, &shutdown.lead, &shutdown.streamed].map(|b| scope.spawn(|| b.take(9, 1)));
                let receiver = scope.spawn(|| shutdown.next(&channel));
                let scanner = scope.spawn(|| shutdown.scanner.work());
                assert!(shutdown.guard(|| Ok(())).is_ok() && !shutdown.is_wanted());
                let fail = || if panics { panic!("a stage panics") } else { Err::<(), _>(Error::invalid("no")) };
                let ended = catch_unwind(AssertUnwindSafe(|| shutdown.guard(fail)));
                assert_eq!(ended.is_err(), panics);
                assert!(waiting.into_iter().all(|thread| !thread.join().expect("the thread ends")));
                assert_eq!(receiver.join().expect("the thread ends"), None);
                scanner.join().expect("the thread ends");
            });
            assert!(shutdown.is_wanted() && shutdown.next(&channel).is_none());
        }
    }
}
