//! What a server gives: connections, memory, time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::net::rate::Rate;
use crate::net::server::access::Principal;

/// The numbers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of which nothing authorized has come yet; one more, and the oldest of them is cut.
    pub strangers: usize,
    /// Requests at once of one client.
    pub requests: usize,
    /// Bytes of bodies in memory, of one client.
    pub client_bytes: usize,
    /// Bytes of bodies in memory, of all clients.
    pub total_bytes: usize,
    /// How long a new connection has for its first authorized request.
    pub first_request: Duration,
    /// How long a body may stand still, and over which time it must have the least rate.
    pub idle: Duration,
    /// The least rate of a body, in bytes a second.
    pub least_rate: u64,
    /// How long a connection without requests is kept.
    pub keep: Duration,
    /// How long requests have to end when the server stops.
    pub stopping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            strangers: 64,
            requests: 256,
            client_bytes: 8 << 20,
            total_bytes: 128 << 20,
            first_request: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            least_rate: 256,
            keep: Duration::from_secs(600),
            stopping: Duration::from_secs(30),
        }
    }
}

/// One who asks, over all of its connections.
#[derive(Debug)]
pub struct Client {
    bytes: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// Bytes a second.
    pub rate: Option<Rate>,
}

/// Permits for bytes in memory; gone when dropped.
#[derive(Debug)]
pub struct Held(#[allow(dead_code, reason = "they are only held")] [OwnedSemaphorePermit; 2]);

/// Memory and clients.
#[derive(Debug)]
pub struct Budget {
    total: Arc<Semaphore>,
    limits: Limits,
    clients: Mutex<HashMap<ClientKey, Weak<Client>>>,
}

/// A token and its rate, which may be another when the token was made anew.
type ClientKey = (String, Option<u64>);

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

impl Budget {
    /// A budget after the numbers.
    pub fn new(limits: &Limits) -> Self {
        let total = Arc::new(Semaphore::new(units(limits.total_bytes) as usize));
        Budget { total, limits: limits.clone(), clients: Mutex::default() }
    }

    /// The client that a principal is.
    pub fn client(&self, principal: &Principal) -> Arc<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        let key = (principal.id.clone(), principal.rate);
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return client;
        }
        clients.retain(|_, client| client.strong_count() > 0);
        let client = Arc::new(Client {
            bytes: Arc::new(Semaphore::new(units(self.limits.client_bytes) as usize)),
            requests: Arc::new(Semaphore::new(self.limits.requests)),
            rate: principal.rate.map(Rate::new),
        });
        clients.insert(key, Arc::downgrade(&client));
        client
    }

    /// Waits until these bytes may be in memory. `None`: never, as the server ends.
    pub async fn hold(&self, client: &Client, bytes: usize) -> Option<Held> {
        let own = client.bytes.clone().acquire_many_owned(units(bytes.min(self.limits.client_bytes))).await.ok()?;
        let total = self.total.clone().acquire_many_owned(units(bytes.min(self.limits.total_bytes))).await.ok()?;
        Some(Held([own, total]))
    }
}

impl Client {
    /// The right to one more request; `None` when there are too many.
    pub fn request(&self) -> Option<OwnedSemaphorePermit> {
        self.requests.clone().try_acquire_owned().ok()
    }
}

/// Connections: who is known, and who is cut for whom.
#[derive(Debug)]
pub struct Gate {
    connections: usize,
    most_strangers: usize,
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    open: usize,
    /// Connections of which nothing authorized has come, oldest first. Numbers and not handles tell them apart.
    strangers: VecDeque<(u64, AbortHandle)>,
}

impl Gate {
    /// A gate after the numbers.
    pub fn new(limits: &Limits) -> Self {
        Gate { connections: limits.connections, most_strangers: limits.strangers, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether one more connection may come; the oldest stranger goes where there is no room otherwise.
    pub fn enter(&self) -> bool {
        let mut state = self.state();
        if state.open >= self.connections || state.strangers.len() >= self.most_strangers {
            match state.strangers.pop_front() {
                Some((_, handle)) => handle.abort(),
                None => return false,
            }
        }
        state.open += 1;
        true
    }

    /// A connection has a task.
    pub fn watch(&self, number: u64, handle: AbortHandle) {
        self.state().strangers.push_back((number, handle));
    }

    /// Something authorized has come.
    pub fn known(&self, number: u64) {
        self.state().strangers.retain(|(n, _)| *n != number);
    }

    /// A connection has ended.
    pub fn leave(&self, number: u64) {
        let mut state = self.state();
        state.open = state.open.saturating_sub(1);
        state.strangers.retain(|(n, _)| *n != number);
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.state().open
    }
}
