//! How many requests a store gets, and when it gets none.
//!
//! A request holds one of as many places as there may be requests a second, from before it is sent until a second after it
//! was answered. The store has seen it between these moments: so in no second does it see more, however slow the way, this
//! machine or that one is. A store that says *slow down* gets no request at all for a while, longer each time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The first time without requests after a store has said *slow down*, and the longest.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A second, as the other side may measure it.
const SECOND: Duration = Duration::from_millis(1005);

/// Lets requests pass.
#[derive(Debug)]
pub struct RequestGate {
    rate: Option<u32>,
    places: Option<Arc<Semaphore>>,
    rest: Mutex<Rest>,
    limited: Waiting,
    slowed: Waiting,
}

/// When requests may go again.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    length: Duration,
    times: u64,
}

/// How long requests have waited, and for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RequestWaits {
    /// For the limit of requests a second.
    pub(crate) limited: Duration,
    /// Since the store said *slow down*.
    pub(crate) slowed: Duration,
    /// How often it said so.
    pub(crate) slow_downs: u64,
}

/// A request's place. The runtime that it was made on must go on until it is free again.
#[derive(Debug)]
pub(crate) struct GatePlace(Option<OwnedSemaphorePermit>);

impl Drop for GatePlace {
    fn drop(&mut self) {
        if let (Some(place), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                tokio::time::sleep(SECOND).await;
                drop(place);
            });
        }
    }
}

impl RequestGate {
    /// A gate for so many requests a second.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        let places = rate.map(|rate| Arc::new(Semaphore::new(rate.max(1) as usize)));
        RequestGate { rate, places, rest: Mutex::default(), limited: Waiting::default(), slowed: Waiting::default() }
    }

    /// Requests a second, at most.
    pub(crate) fn rate(&self) -> Option<u32> {
        self.rate
    }

    /// Waits until a request may go.
    pub(crate) async fn pass(&self) -> GatePlace {
        let place = match &self.places {
            None => None,
            Some(places) => match places.clone().try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => {
                    let _waits = self.limited.begin();
                    places.clone().acquire_owned().await.ok()
                }
            },
        };
        let until = || self.rest.lock().until.filter(|until| *until > Instant::now());
        while let Some(until) = until() {
            let _waits = self.slowed.begin();
            tokio::time::sleep_until(until.into()).await;
        }
        GatePlace(place)
    }

    /// The store has said *slow down*.
    pub(crate) fn slow_down(&self) {
        let (mut rest, now) = (self.rest.lock(), Instant::now());
        rest.times += 1;
        // What was on its way when it was said first says nothing new.
        if rest.until.is_none_or(|until| until <= now) {
            rest.length = (rest.length * 2).clamp(REST.0, REST.1);
            rest.until = Some(now + rest.length);
        }
    }

    /// The store has done what it was asked to.
    pub(crate) fn well(&self) {
        let mut rest = self.rest.lock();
        if rest.until.is_some_and(|until| until <= Instant::now()) {
            rest.length = rest.length * 3 / 4;
        }
    }

    /// How long was waited until now.
    pub(crate) fn waits(&self) -> RequestWaits {
        RequestWaits { limited: self.limited.total(), slowed: self.slowed.total(), slow_downs: self.rest.lock().times }
    }
}

/// The time in which anybody waited.
#[derive(Debug, Default)]
struct Waiting(Mutex<WaitingState>);

#[derive(Debug, Default)]
struct WaitingState {
    now: usize,
    since: Option<Instant>,
    total: Duration,
}

/// Somebody waits.
struct Waiter<'a>(&'a Waiting);

impl Waiting {
    fn begin(&self) -> Waiter<'_> {
        let mut state = self.0.lock();
        state.now += 1;
        state.since.get_or_insert_with(Instant::now);
        Waiter(self)
    }

    fn total(&self) -> Duration {
        let state = self.0.lock();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.now -= 1;
        if state.now == 0 {
            let waited = state.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            state.total += waited;
        }
    }
}
