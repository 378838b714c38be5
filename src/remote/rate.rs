//! Limits of bytes a second.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;

/// Bytes a second, which may depend on the time of day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The first one that holds counts.
    rules: Vec<RateRule>,
    zone: TimeZone,
}

/// A part of a limit: minutes of the day from and to (which may be the next day's), and bytes a second, if there is a limit
/// then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateRule {
    /// When it holds; always, if nothing is said.
    pub(crate) minutes: Option<(u16, u16)>,
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
}

impl Limit {
    /// The same at every time.
    pub fn of(bytes_a_second: u64) -> Self {
        Limit { rules: vec![RateRule { minutes: None, rate: Some(bytes_a_second) }], zone: TimeZone::UTC }
    }

    /// By the time of day in `zone`.
    pub(crate) fn by_time(rules: Vec<RateRule>, zone: TimeZone) -> Self {
        Limit { rules, zone }
    }

    /// What holds at this minute of the day.
    fn at(&self, minute: u16) -> Option<u64> {
        let holds = |rule: &&RateRule| match rule.minutes {
            None => true,
            Some((from, to)) if from <= to => (from..to).contains(&minute),
            Some((from, to)) => minute >= from || minute < to,
        };
        self.rules.iter().find(holds)?.rate.map(|rate| rate.max(1))
    }

    /// What holds now.
    fn now(&self) -> Option<u64> {
        if let [RateRule { minutes: None, rate }] = self.rules.as_slice() {
            return rate.map(|rate| rate.max(1));
        }
        let time = Timestamp::now().to_zoned(self.zone.clone());
        self.at(u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs()))
    }
}

/// Lets so many bytes pass a second, all requests together. What was not used is not saved up for longer than a moment.
#[derive(Debug)]
pub(crate) struct Rate {
    limit: Limit,
    /// When everything that was let pass so far has had its time.
    free: Mutex<Option<Instant>>,
}

/// What may pass at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    /// A limit.
    pub(crate) fn new(bytes_a_second: u64) -> Self {
        Rate::by(Limit::of(bytes_a_second))
    }

    /// A limit that may depend on the time of day.
    pub(crate) fn by(limit: Limit) -> Self {
        Rate { limit, free: Mutex::new(None) }
    }

    /// How long to wait before these bytes may pass.
    pub(crate) fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let mut free = self.free.lock();
        let Some(rate) = self.limit.now() else {
            *free = None;
            return Duration::ZERO;
        };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = free.unwrap_or(earliest).max(earliest);
        let end = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *free = Some(end);
        end.saturating_duration_since(now)
    }

    /// Waits until these bytes may pass.
    pub(crate) async fn take(&self, bytes: usize) {
        let wait = self.reserve(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_holds_counts() {
        let rule = |minutes, rate| RateRule { minutes, rate };
        let rules = vec![rule(Some((480, 1080)), Some(5)), rule(Some((1320, 360)), None), rule(None, Some(9))];
        let limit = Limit::by_time(rules, TimeZone::UTC);
        let at = [(0, None), (359, None), (360, Some(9)), (480, Some(5)), (1079, Some(5)), (1080, Some(9)), (1320, None)];
        at.into_iter().for_each(|(minute, rate)| assert_eq!(limit.at(minute), rate, "{minute}"));
        let free = Rate::by(Limit::by_time(vec![rule(None, None)], TimeZone::UTC));
        assert_eq!(free.reserve(1 << 40, Instant::now()), Duration::ZERO);
    }

    #[test]
    fn what_passes_takes_its_time() {
        let (rate, now) = (Rate::new(1000), Instant::now());
        let waits: Duration = (0..10).map(|_| rate.reserve(100, now)).max().unwrap();
        assert_eq!(waits, Duration::from_millis(900));
        assert_eq!(rate.reserve(0, now + Duration::from_secs(60)), Duration::ZERO);
    }
}
