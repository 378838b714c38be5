//! What a server gives: connections, memory, time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::remote::rate::Rate;
use crate::serve::objects::access::Principal;

/// The numbers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once of which something authorized has come.
    pub connections: usize,
    /// The same, of one token.
    pub client_connections: usize,
    /// Connections at once of which nothing at all has come yet.
    pub silent: usize,
    /// Connections at once of which something has come, and nothing authorized. Half of these, and of those, may be of one
    /// address.
    pub strangers: usize,
    /// Sessions of one token that have not ended.
    pub sessions: usize,
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
    /// After how long without a word the agent of a job is lost.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            client_connections: 64,
            silent: 512,
            strangers: 256,
            sessions: 256,
            requests: 256,
            client_bytes: 8 << 20,
            total_bytes: 128 << 20,
            first_request: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            least_rate: 256,
            keep: Duration::from_secs(600),
            stopping: Duration::from_secs(30),
            silence: Duration::from_secs(120),
        }
    }
}

/// One client (a token, or an address without one), over all of its connections.
#[derive(Debug)]
pub(crate) struct Client {
    bytes: Arc<Semaphore>,
    /// What it has whatever the others hold, so that it always goes on.
    reserve: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// Bytes a second.
    pub(crate) rate: Option<Rate>,
}

/// Permits for bytes in memory; gone when dropped.
#[derive(Debug)]
pub(crate) struct HeldPermits(#[allow(dead_code, reason = "they are only held")] Vec<OwnedSemaphorePermit>);

/// Bytes that each client may hold beside the bytes of all.
const RESERVE: usize = 512 << 10;

/// Memory and clients.
#[derive(Debug)]
pub(crate) struct ClientBudget {
    total: Arc<Semaphore>,
    limits: Limits,
    clients: Mutex<HashMap<ClientKey, Weak<Client>>>,
}

/// A token and its rate, which may be another when the token was made anew.
type ClientKey = (String, Option<u64>);

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

impl ClientBudget {
    /// A budget after the numbers.
    pub(crate) fn new(limits: &Limits) -> Self {
        let total = Arc::new(Semaphore::new(units(limits.total_bytes) as usize));
        ClientBudget { total, limits: limits.clone(), clients: Mutex::default() }
    }

    /// The client that a principal is.
    pub(crate) fn client(&self, principal: &Principal) -> Arc<Client> {
        let mut clients = self.clients.lock();
        let key = (principal.id.clone(), principal.rate);
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return client;
        }
        clients.retain(|_, client| client.strong_count() > 0);
        let client = Arc::new(Client {
            bytes: Arc::new(Semaphore::new(units(self.limits.client_bytes) as usize)),
            reserve: Arc::new(Semaphore::new(units(RESERVE) as usize)),
            requests: Arc::new(Semaphore::new(self.limits.requests)),
            rate: principal.rate.map(Rate::new),
        });
        clients.insert(key, Arc::downgrade(&client));
        client
    }

    /// Waits until these bytes may be in memory. `None`: never, as the server ends.
    pub(crate) async fn hold(&self, client: &Client, bytes: usize) -> Option<HeldPermits> {
        let own = client.bytes.clone().acquire_many_owned(units(bytes.min(self.limits.client_bytes))).await.ok()?;
        let reserve = client.reserve.clone().acquire_many_owned(units(bytes.min(RESERVE)));
        let total = self.total.clone().acquire_many_owned(units(bytes.min(self.limits.total_bytes)));
        // Others may hold all that is for everybody; then it has what is its own.
        let second = tokio::select! {
            biased;
            total = total => total.ok()?,
            reserve = reserve => reserve.ok()?,
        };
        Some(HeldPermits(vec![own, second]))
    }
}

impl Client {
    /// The right to one more request; `None` when there are too many.
    pub(crate) fn request(&self) -> Option<OwnedSemaphorePermit> {
        self.requests.clone().try_acquire_owned().ok()
    }
}
