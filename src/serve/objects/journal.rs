//! What is logged of refusals: some of each client, and how many more there were, so that nobody floods the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Refusals of one client within this time are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// The most of them that are logged.
const LOGGED: u64 = 10;
/// The most clients that are counted separately.
const CLIENTS: usize = 256;

/// Counts refusals by client.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    windows: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Journal {
    /// Whether a refusal of this client is to be logged. Says now and then how many were not.
    pub(crate) fn wants(&self, who: &str) -> bool {
        self.wants_at(who, Instant::now())
    }

    fn wants_at(&self, who: &str, now: Instant) -> bool {
        let mut windows = self.windows.lock();
        let is_over = |began: Instant| now.saturating_duration_since(began) >= WINDOW;
        if windows.get(who).is_none_or(|(began, _)| is_over(*began)) {
            windows.retain(|who, (began, count)| {
                let over = is_over(*began);
                if over && *count > LOGGED {
                    tracing::warn!(client = who, count = *count - LOGGED, "refusals that were not logged");
                }
                !over
            });
        }
        let key = if windows.len() < CLIENTS || windows.contains_key(who) { who } else { "many" };
        let (_, count) = windows.entry(key.to_owned()).or_insert((now, 0));
        *count += 1;
        *count <= LOGGED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_each_client_are_logged_and_memory_is_bounded() {
        let (journal, now) = (Journal::default(), Instant::now());
        let count = |who: &str, now| (0..1000).filter(|_| journal.wants_at(who, now)).count();
        assert_eq!((count("one", now), count("two", now), count("one", now)), (10, 10, 0));
        assert_eq!(count("one", now + WINDOW), 10);
        let logged = (0..100_000).filter(|n| journal.wants_at(&n.to_string(), now + WINDOW)).count();
        assert!(logged < 2 * CLIENTS && journal.windows.lock().len() <= CLIENTS + 1, "{logged}");
    }
}
