//! What every long operation is given beside its own options: how it is stopped, where it reports, and what time it is.
//!
//! Such an operation has one shape: `verb(repository, what, &Options, &Task) -> Result<Report>`. One that gives its
//! results while it runs takes where they go as its last argument.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Timestamp;
use crate::observe::{Observer, Silent};
use crate::sys::clock;

/// What time an operation takes it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// The time of this machine.
    #[default]
    System,
    /// Always this time: for tests, and for what must not depend on when it runs.
    Fixed(Timestamp),
}

impl Clock {
    /// The time now.
    pub fn now(self) -> Timestamp {
        match self {
            Clock::System => clock::now(),
            Clock::Fixed(time) => time,
        }
    }
}

/// How an operation is stopped, where it reports, and its clock.
#[derive(Clone)]
pub struct Task<'a> {
    /// Set from outside to stop the operation. It then ends cleanly with [`ErrorKind::Interrupted`]; how soon depends
    /// on the operation, and a short one may end normally.
    pub stop: Arc<AtomicBool>,
    /// Is told what the operation does.
    pub observer: &'a dyn Observer,
    /// The time.
    pub clock: Clock,
}

impl<'a> Task<'a> {
    /// A task that tells `observer`, is stopped by nobody, and goes by the system's clock.
    pub fn new(observer: &'a dyn Observer) -> Self {
        Task { stop: Arc::default(), observer, clock: Clock::System }
    }

    /// The same, stopped by this flag.
    pub fn stopped_by(self, stop: &Arc<AtomicBool>) -> Self {
        Task { stop: stop.clone(), ..self }
    }

    /// The same, at this time.
    pub fn at(self, time: Timestamp) -> Self {
        Task { clock: Clock::Fixed(time), ..self }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether somebody wants it to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Goes on, or answers with [`ErrorKind::Interrupted`] and `message` when somebody wants it to end.
    pub fn go_on(&self, message: &str) -> Result<()> {
        if self.is_stopped() { Err(Error::new(ErrorKind::Interrupted, message)) } else { Ok(()) }
    }
}

impl Default for Task<'_> {
    /// Tells nobody.
    fn default() -> Self {
        Task::new(&Silent)
    }
}

impl fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("stop", &self.is_stopped()).field("clock", &self.clock).finish_non_exhaustive()
    }
}
