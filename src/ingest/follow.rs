//! When several ingests walk the same tree at the same time, one goes ahead. The others wait for its segments, and do not
//! store what is in them.
//!
//! Waiting is bounded in every way: a wait ends when the other has indexed what this one was about to store, when its
//! session ends, or after a few times the time that this one would have needed itself. After three waits in vain this
//! ingest waits no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Result;
use crate::ingest::others::{Ahead, Others};
use crate::repo::Repository;
use crate::repo::index::Index;

/// The pause between two looks at the index.
const PAUSE: Duration = Duration::from_millis(100);
/// One wait lasts at most so many times the time in which this ingest would have stored the same.
const TIMES: u32 = 3;
/// One wait lasts at most so long, whatever the pace.
const MOST: Duration = Duration::from_secs(30);
/// All waits together last at most so long.
const MOST_IN_ALL: Duration = Duration::from_secs(30 * 60);
/// After so many waits in vain this ingest waits no more.
const IN_VAIN: u32 = 3;

/// Waits for the ingest that goes ahead. One for each ingest.
#[derive(Debug)]
pub(crate) struct Follow<'a> {
    repo: &'a Repository,
    others: &'a Mutex<Others>,
    stop: &'a AtomicBool,
    /// A wait may always last so long; zero: nobody is waited for.
    least: Duration,
    ahead: Option<Ahead>,
    in_vain: u32,
    waited: Duration,
}

impl<'a> Follow<'a> {
    /// Follows nobody yet. Setting `stop` ends a wait.
    pub(crate) fn new(repo: &'a Repository, others: &'a Mutex<Others>, stop: &'a AtomicBool, least: Duration) -> Self {
        Follow { repo, others, stop, least, ahead: None, in_vain: 0, waited: Duration::ZERO }
    }

    /// Whether another ingest goes ahead.
    pub(crate) fn is_on(&self) -> bool {
        self.ahead.is_some()
    }

    /// Lets another ingest go ahead from now on, unless this one has waited enough.
    pub(crate) fn begin(&mut self, ahead: Ahead) {
        let enough = self.least.is_zero() || self.in_vain >= IN_VAIN || self.waited >= MOST_IN_ALL;
        self.ahead = (!enough).then_some(ahead);
    }

    /// Waits until `found` accepts a newer index. If it does not in time, this ingest goes on alone, until another one is
    /// found again that stores the same.
    pub(crate) fn wait(&mut self, found: &mut dyn FnMut(Arc<Index>) -> Result<bool>) -> Result<()> {
        let Some(ahead) = self.ahead else { return Ok(()) };
        let began = Instant::now();
        let longest = self.least.max((ahead.pace * TIMES).min(MOST)).min(MOST_IN_ALL.saturating_sub(self.waited));
        let in_time = loop {
            let (index, open) = self.others.lock().look_for(self.repo, ahead.session)?;
            if let Some(index) = index
                && found(index)?
            {
                break true;
            }
            if !open {
                self.ahead = None;
                break true;
            }
            if began.elapsed() >= longest || self.stop.load(Ordering::Relaxed) {
                self.ahead = None;
                break false;
            }
            thread::sleep(PAUSE.min(longest));
        };
        self.waited += began.elapsed();
        self.in_vain += u32::from(!in_time);
        Ok(())
    }
}
