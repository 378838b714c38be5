//! What can go wrong with a request, and how long one waits.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// Why a request has no answer that can be used.
#[derive(Debug)]
pub(crate) enum RequestFault {
    /// It never reached the server.
    NotSent(Error),
    /// Nobody can tell whether it did, or what came of it.
    Broken(Error),
    /// The server asks to try again later.
    Later(Error),
    /// Trying again would not help.
    Final(Error),
}

impl RequestFault {
    /// The error behind it.
    pub(crate) fn error(self) -> Error {
        match self {
            RequestFault::NotSent(e) | RequestFault::Broken(e) | RequestFault::Later(e) | RequestFault::Final(e) => e,
        }
    }

    /// A connection that broke.
    pub(crate) fn broken(what: impl std::fmt::Display) -> Self {
        RequestFault::Broken(Error::new(ErrorKind::Io, format!("the connection broke: {what}")))
    }
}

impl From<Error> for RequestFault {
    fn from(e: Error) -> Self {
        RequestFault::Final(e)
    }
}

/// For so long a server that was given up is not asked again, or for a quarter of the timeout.
pub(crate) const LEFT_ALONE: Duration = Duration::from_secs(5);
/// The least rate that counts as progress, in bytes a second.
const LEAST_RATE: u64 = 128;
/// The first pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest.
const LONGEST: Duration = Duration::from_secs(5);
/// An attempt has at least this part of the timeout for its answer.
const ENOUGH: u32 = 16;

/// How long one still waits: so long after the last progress, however many attempts that takes.
#[derive(Debug)]
pub(crate) struct ProgressTimeout {
    timeout: Duration,
    since: Instant,
    bytes: u64,
    pauses: u32,
}

impl ProgressTimeout {
    /// Patience for one call.
    pub(crate) fn new(timeout: Duration) -> Self {
        ProgressTimeout { timeout, since: Instant::now(), bytes: 0, pauses: 0 }
    }

    /// Bytes moved. Too few of them are as good as none.
    pub(crate) fn progress(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes >= LEAST_RATE * self.timeout.as_secs().max(1) {
            (self.since, self.bytes, self.pauses) = (Instant::now(), 0, 0);
        }
    }

    /// Bytes moved while one waited. False when they were too few to wait any longer.
    pub(crate) fn moved(&mut self, bytes: u64) -> bool {
        self.progress(usize::try_from(bytes).unwrap_or(usize::MAX));
        bytes >= LEAST_RATE && !self.left().is_zero()
    }

    /// How long to wait for the next sign of life: half of it all, so that a connection that is dead without knowing can
    /// be replaced.
    pub(crate) fn wait(&self) -> Duration {
        self.left().min(self.timeout / 2)
    }

    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.since.elapsed())
    }

    /// The pause before the next attempt: longer each time, and not the same for all clients. `None`: there is none, since
    /// too little time would be left for an answer: its "does not answer" would hide what went wrong before.
    pub(crate) fn pause(&mut self) -> Option<Duration> {
        let longest = PAUSE.saturating_mul(1 << self.pauses.min(10)).min(LONGEST);
        self.pauses += 1;
        let mut random = [0; 2];
        let _ = getrandom::fill(&mut random);
        let pause = longest.mul_f64(0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0);
        (pause + self.timeout / ENOUGH < self.left()).then_some(pause)
    }

    /// Attempts since the last progress.
    pub(crate) fn attempts(&self) -> u32 {
        self.pauses
    }

    /// All of it.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_trickles_do_not_renew_it() {
        let mut patience = ProgressTimeout::new(Duration::from_secs(10));
        assert!(patience.wait() <= Duration::from_secs(5));
        let began = patience.since;
        patience.progress(100);
        assert_eq!(patience.since, began);
        let first = patience.pause().unwrap();
        assert!(first <= PAUSE && first >= PAUSE / 2);
        patience.progress(5000);
        assert!(patience.since > began && patience.attempts() == 0);
        patience.since = Instant::now() - Duration::from_millis(9400);
        assert_eq!(patience.pause(), None);
        patience.since -= Duration::from_secs(2);
        assert_eq!((patience.wait(), patience.pause()), (Duration::ZERO, None));
    }
}
