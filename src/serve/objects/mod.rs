//! `yester serve`: repositories below one directory, or in one object store, for clients that show a token.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch as channel};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::remote::protocol::{Capability, Code, Refusal, RepositoryName};
use crate::remote::tokens::Tokens;

pub(crate) mod access;
mod account;
pub(crate) mod backing;
mod body;
mod certificate;
pub(crate) mod connections;
mod download;
mod gate;
pub(crate) mod hosted;
mod journal;
pub mod limits;
mod listen;
pub(crate) mod metrics;
pub mod offline;
mod routes;
mod shape;
mod upload;
mod watch;

use access::{Door, Principal};
use backing::StoreRoot;
use connections::Asker;
use gate::Gate;
use hosted::{Hosted, refuse};
use journal::Journal;
use limits::{Client, ClientBudget, Limits};
use metrics::Metrics;

pub use listen::{Listening, ServeOptions, listen};

/// Where a server keeps what is its own, below the root.
pub(crate) const OWN: &str = ".server";
/// In there the notes about repositories that are in an object store, a directory each.
pub(crate) const NOTES: &str = "repositories";

/// How long a store is not asked again whether there is a repository that was not there. Who makes one asks.
const NONE: Duration = Duration::from_secs(5);

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct Server {
    door: Arc<Door>,
    /// The object store that the repositories are in; `None` where they are directories.
    store: Option<Arc<StoreRoot>>,
    open: Mutex<HashMap<PathBuf, Arc<RepositoryPlace>>>,
    /// Held by who opens or makes a directory: one at a time, so that none is made inside of another.
    opening: Arc<tokio::sync::Mutex<()>>,
    budget: ClientBudget,
    limits: Limits,
    gate: Gate,
    journal: Journal,
    metrics: Metrics,
    /// Becomes true when the server stops: who waits for nothing in particular ends.
    ending: channel::Sender<bool>,
}

/// A request that may go on.
pub(crate) struct Admitted {
    /// Its sender.
    pub(crate) who: Principal,
    /// The sender's repository.
    pub(crate) hosted: Arc<Hosted>,
    /// What the sender may use.
    pub(crate) client: Arc<Client>,
    /// Held until the answer is out.
    pub(crate) request: OwnedSemaphorePermit,
}

/// Runs what blocks on the disk, off the threads that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::new(Code::Failed, "the server failed: this is a defect of yester")),
    }
}

/// The same, one after the other: who waits for the turn has no thread, and who goes away keeps it until the work is done.
pub(crate) async fn in_turn<T: Send + 'static>(
    turn: &Arc<tokio::sync::Mutex<()>>,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let turn = turn.clone().lock_owned().await;
    blocking(move || {
        let _turn = turn;
        work()
    })
    .await
}

impl Server {
    /// A server; `by_address` where the addresses of those who connect tell them apart.
    fn new(door: Door, store: Option<StoreRoot>, limits: Limits, by_address: bool) -> Arc<Self> {
        let (budget, gate) = (ClientBudget::new(&limits), Gate::new(&limits, by_address));
        let (journal, metrics) = (Journal::default(), Metrics::default());
        let ending = channel::Sender::new(false);
        let (door, store) = (Arc::new(door), store.map(Arc::new));
        let (open, opening) = Default::default();
        Arc::new(Server { door, store, open, opening, budget, limits, gate, journal, metrics, ending })
    }

    /// Hears when the server stops.
    pub(crate) fn ending(&self) -> channel::Receiver<bool> {
        self.ending.subscribe()
    }

    /// After how long without a word an agent is lost.
    pub(crate) fn silence(&self) -> Duration {
        self.limits.silence
    }

    /// Counts connections that were cut to make room for others.
    fn made_room(&self, cut: usize) {
        if cut > 0 {
            metrics::add(&self.metrics.cut, cut as u64);
            if self.journal.wants("room") {
                tracing::warn!("connections are cut to make room for others");
            }
        }
    }

    /// Who sends these headers.
    async fn principal(&self, headers: &HeaderMap, asker: &Asker) -> Result<Principal, Refusal> {
        let (door, headers) = (self.door.clone(), headers.clone());
        let who = blocking(move || door.admit(&headers)).await;
        if matches!(&who, Err(refusal) if refusal.error == Code::Unauthorized) {
            metrics::add(&self.metrics.refused, 1);
        }
        if let Ok(who) = &who {
            asker.admit(self, &who.id);
        }
        who
    }

    /// Who sends these headers, and the repository that is theirs.
    pub(crate) async fn admit(&self, headers: &HeaderMap, asker: &Asker) -> Result<Admitted, Refusal> {
        let who = self.principal(headers, asker).await?;
        let client = self.budget.client(&who);
        let too_many = || Refusal::new(Code::TooMany, "too many requests at once with this token");
        let request = client.request().ok_or_else(too_many)?;
        let hosted = self.hosted(&who, false).await?;
        Ok(Admitted { who, hosted, client, request })
    }

    /// Makes the repository of a principal; false when it is there already.
    async fn create(&self, who: &Principal) -> Result<bool, Refusal> {
        match self.hosted(who, false).await {
            Ok(_) => Ok(false),
            Err(refusal) if refusal.error == Code::NoRepository => self.hosted(who, true).await.map(|_| true),
            Err(refusal) => Err(refusal),
        }
    }

    async fn hosted(&self, who: &Principal, make: bool) -> Result<Arc<Hosted>, Refusal> {
        let none = || Refusal::new(Code::Forbidden, "the token is for no repository");
        let path = who.repository.clone().ok_or_else(none)?;
        let place = self.open.lock().entry(path.clone()).or_default().clone();
        let (seen, at) = (place.clone(), path.clone());
        if let Some(known) = blocking(move || Ok(seen.known(&at, make))).await? {
            return known;
        }
        let store = self.store.clone();
        // One at a time opens: two handles on one directory would not wait for each other's barriers.
        let opening = if store.is_some() { place.opening.clone() } else { self.opening.clone() };
        let opening = opening.lock_owned().await;
        let turn = match &store {
            Some(store) => store.turn().await,
            None => None,
        };
        blocking(move || {
            let _held = (opening, turn);
            place.known(&path, make).unwrap_or_else(|| place.open(&path, store.as_deref(), make))
        })
        .await
    }
}

/// Where a repository is, or may be.
#[derive(Debug, Default)]
struct RepositoryPlace {
    hosted: Mutex<Option<Arc<Hosted>>>,
    /// When a store said that there is none.
    none: Mutex<Option<Instant>>,
    /// Held by who opens it in a store.
    opening: Arc<tokio::sync::Mutex<()>>,
}

impl RepositoryPlace {
    /// What is known of it without asking a store.
    fn known(&self, path: &Path, make: bool) -> Option<Result<Arc<Hosted>, Refusal>> {
        let mut hosted = self.hosted.lock();
        *hosted = hosted.take().filter(|hosted| hosted.is_at(path));
        if let Some(hosted) = &*hosted {
            return Some(Ok(hosted.clone()));
        }
        let none = !make && self.none.lock().is_some_and(|at| at.elapsed() < NONE);
        none.then(|| Err(refuse(&Error::new(ErrorKind::NoRepository, "it was not there a moment ago"))))
    }

    fn open(&self, path: &Path, store: Option<&StoreRoot>, make: bool) -> Result<Arc<Hosted>, Refusal> {
        let opened = match store {
            Some(store) => Hosted::in_store(path, store, make),
            None if make => Hosted::create(path),
            None => Hosted::open(path),
        };
        let is_none = matches!(&opened, Err(e) if e.kind() == ErrorKind::NoRepository);
        *self.none.lock() = (is_none && store.is_some()).then(Instant::now);
        let hosted = opened.map_err(|e| match e.kind() {
            ErrorKind::Exists => Refusal::new(Code::Conflict, "there is something else in the place of the repository"),
            ErrorKind::Invalid => Refusal::new(Code::Invalid, "it would be inside of another repository"),
            ErrorKind::Unsupported if store.is_some() => Refusal::new(Code::Failed, e.to_string()),
            _ => refuse(&e),
        })?;
        *self.hosted.lock() = Some(hosted.clone());
        Ok(hosted)
    }
}

/// Stops a server: what is under way ends, nothing new is taken.
#[derive(Debug, Clone)]
pub struct ServerStop(channel::Sender<bool>);

impl Default for ServerStop {
    fn default() -> Self {
        ServerStop(channel::Sender::new(false))
    }
}

impl ServerStop {
    /// Asks the server to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    fn watch(&self) -> channel::Receiver<bool> {
        self.0.subscribe()
    }
}

/// How `serve --stdio` restricts what may be done.
#[derive(Debug, Clone, Default)]
pub struct StdioOptions {
    /// Only repositories in these directories; none: all.
    pub restrict_to: Vec<PathBuf>,
    /// Nothing that takes the capability prune.
    pub append_only: bool,
    /// Whose sessions these are; without a name, they are of all who come without one.
    pub client: Option<RepositoryName>,
}

/// Serves one client over this process' standard input and output, until that ends.
pub fn serve_stdio(options: StdioOptions, limits: Limits) -> Result<()> {
    let mut capabilities = Capability::APPEND_ONLY.to_vec();
    if !options.append_only {
        capabilities.push(Capability::Prune);
    }
    // No token is called so: their names are digits.
    let id = options.client.map_or_else(|| "ssh".to_owned(), |client| format!("ssh:{}", client.as_str()));
    let door = Door::Trusted { restrict_to: options.restrict_to, capabilities, id };
    let server = Server::new(door, None, limits, false);
    let runtime = runtime()?;
    let served = runtime.block_on(connections::serve_stdio(server));
    // A thread may be blocked in a read of standard input.
    runtime.shutdown_background();
    served.at(|| "cannot serve on standard input and output".to_owned())
}

/// What tokens of a server below `root` are kept in.
pub fn tokens(root: &std::path::Path) -> Tokens {
    Tokens::new(root.join(OWN).join("tokens"))
}

/// The certificate that a server below `root` makes itself when it first starts.
pub fn own_certificate(root: &std::path::Path) -> PathBuf {
    root.join(OWN).join(crate::remote::tls::CERTIFICATE)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let cores = crate::sys::process::cores();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 16))
        .max_blocking_threads(64)
        .thread_name("yester-net")
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start the threads of the network", e))
}
