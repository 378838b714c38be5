//! Limits of bytes a second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets so many bytes pass a second, whoever asks. What was not used is not saved up for longer than a moment.
#[derive(Debug)]
pub struct Rate {
    bytes_a_second: u64,
    /// When everything that was let pass so far has had its time.
    free: Mutex<Option<Instant>>,
}

/// What may pass at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    /// A limit.
    pub fn new(bytes_a_second: u64) -> Self {
        Rate { bytes_a_second: bytes_a_second.max(1), free: Mutex::new(None) }
    }

    /// How long to wait before these bytes may pass.
    pub(crate) fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let mut free = self.free.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = free.unwrap_or(earliest).max(earliest);
        let end = start + Duration::from_secs_f64(bytes as f64 / self.bytes_a_second as f64);
        *free = Some(end);
        end.saturating_duration_since(now)
    }

    /// Waits until these bytes may pass.
    pub async fn take(&self, bytes: usize) {
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
    fn what_passes_takes_its_time() {
        let (rate, now) = (Rate::new(1000), Instant::now());
        let waits: Duration = (0..10).map(|_| rate.reserve(100, now)).max().unwrap();
        assert_eq!(waits, Duration::from_millis(900));
        assert_eq!(rate.reserve(0, now + Duration::from_secs(60)), Duration::ZERO);
    }
}
