//! A repository in an object store that speaks S3, or in that of Google or Azure, as a [`Storage`].
//!
//! What is acknowledged is durable, so a barrier has nothing to do. Everything else follows from one rule: **what a store
//! holds is what a read shows.** Who was first to create a name is decided by looking whose object is there, never by a
//! status; an absence is believed only of a read or HEAD; a list that is not whole is an error. Nothing rests on `If-Match`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{ClientConfigKey, HttpClient, HttpConnector};
use object_store::path::Path as Key;
use object_store::{ClientOptions, GetOptions, GetRange, GetResult, RetryConfig};
use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorKind, Result, StoreFailure};
use crate::model::PackId;
use crate::observe::Reports;
use crate::remote::client::RemoteOptions;
use crate::remote::client::fault::ProgressTimeout;
use crate::remote::rate::{Limit, Rate};
use crate::storage::{Class, Costs, Created, Name, Receipt, Requests, Storage};

pub mod address;
mod api;
mod azure;
pub(crate) mod bucket;
mod connect;
mod counts;
mod create;
pub mod credentials;
mod fault;
pub(crate) mod gate;
mod google;
mod http;
pub(crate) mod list;
mod proof;
mod served;
pub(super) mod sign;

use address::{StoreAddress, StoreKind};
use api::StoreApi;
use fault::Trouble;
use http::HttpContext;

/// Requests that are under way at once, when nobody says otherwise. Each needs a connection of its own.
const CONNECTIONS: usize = 8;
/// The same, where they are for small objects.
const SMALL_CONNECTIONS: usize = 32;
/// Large objects that are sent at once at most: each is in memory until the store has it.
const MOST_UPLOADS: usize = 4;
/// Bytes that one request asks for when more are needed: a request costs money and the way there and back.
const ONE_READ: u64 = 4 << 20;
/// The most that one PUT may carry: larger objects would need another way to be sent, which nothing here makes.
pub(crate) const MOST_ONE_PUT: u64 = 5 << 30;
/// How often something is tried that fails without a word of the store.
const MOST_ATTEMPTS: u32 = 20;

/// A repository in an object store.
pub struct S3Storage {
    address: StoreAddress,
    store: Arc<dyn StoreApi>,
    shared: Arc<HttpContext>,
    connections: usize,
    /// Requests for small objects that are under way at once.
    small_at_once: usize,
    timeout: Duration,
    reports: Reports,
    /// Whether credentials that have expired may be replaced while one waits.
    renewable: bool,
    /// The storage class of packs that hold content of files.
    data_class: Option<String>,
    /// What is known to be there: made here, or listed before.
    known: Mutex<HashMap<Class, Arc<HashSet<Name>>>>,
    /// Of these, what is known for some time only, the oldest first.
    passing: Mutex<VecDeque<(Instant, Name)>>,
    /// A list of `config/` that has just been made, for the next caller.
    first: Mutex<Option<Vec<list::ListedObject>>>,
    /// When the store received the snapshots of the last list of them.
    received: Mutex<Option<Vec<(Name, Receipt)>>>,
    /// Whether the store decides between two who create the same name; `None` before that was looked at.
    holds: tokio::sync::Mutex<Option<bool>>,
    /// What requests run on.
    threads: Handle,
    /// The same, where they are of this storage alone; `None` also while this is dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Storage({})", self.address)
    }
}

impl Drop for S3Storage {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Gives the library its HTTP.
#[derive(Debug)]
struct Connector(Arc<HttpContext>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // The library asks for less patience where it talks to a service of the machine itself.
        let key = ClientConfigKey::ConnectTimeout;
        let metadata = options.get_config_value(&key) != ClientOptions::default().get_config_value(&key);
        let connecting = if metadata { Duration::from_secs(1) } else { self.0.timeout / 2 };
        Ok(HttpClient::new(http::Service { shared: self.0.clone(), connecting }))
    }
}

/// The library repeats nothing: what may be repeated is known here.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

/// What speaks to a store.
struct ConnectedStore {
    store: AmazonS3,
    /// Whether credentials that have expired may be replaced while one waits.
    renewable: bool,
    region: String,
}

fn store(address: &StoreAddress, options: &RemoteOptions, shared: &Arc<HttpContext>) -> Result<ConnectedStore> {
    let s3 = &options.s3;
    let builder = AmazonS3Builder::new().with_retry(no_retries()).with_http_connector(Connector(shared.clone()));
    let found = credentials::find(s3, builder)?;
    let variable = |name: &str| s3.variables.get(name).filter(|value| !value.is_empty()).cloned();
    let region = s3.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = region.or_else(|| address.region().map(str::to_owned)).or(found.region);
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    let bucket = s3.virtual_hosts.then_some(address.bucket.as_str());
    let store = found
        .builder
        .with_endpoint(address.endpoint(bucket))
        .with_bucket_name(&address.bucket)
        .with_virtual_hosted_style_request(s3.virtual_hosts)
        .with_region(&region)
        .with_allow_http(!address.tls)
        .with_disable_bulk_delete(true)
        .with_disable_tagging(true)
        .build()
        .map_err(|e| Error::invalid(e.to_string()))?;
    Ok(ConnectedStore { store, renewable: found.renewable, region })
}

/// What requests to a store share, so many of them at once.
fn context(address: &StoreAddress, options: &RemoteOptions, connections: usize) -> Result<Arc<HttpContext>> {
    let rate = |limit: &Option<Limit>| limit.clone().map(|limit| Arc::new(Rate::by(limit)));
    let mut tls = options.trust.config()?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let host = address.endpoint(None);
    let host = host.split_once("://").map_or("", |(_, host)| host).to_owned();
    Ok(Arc::new(HttpContext {
        host,
        kind: address.kind,
        tls: Arc::new(tls),
        timeout: options.timeout,
        rates: (rate(&options.limit_upload), rate(&options.limit_download)),
        permits: Arc::new(Semaphore::new(connections)),
        counts: counts::RequestCounts::default(),
        classes: Mutex::default(),
        server: Mutex::default(),
        health: Mutex::default(),
        idle: Mutex::default(),
    }))
}

fn threads() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let made = builder.worker_threads(2).thread_name("yester-net").enable_all().build();
    made.map_err(|e| Error::io("cannot start the threads of the network", e))
}

impl S3Storage {
    fn connect(address: &StoreAddress, options: &RemoteOptions) -> Result<Self> {
        let address = &address.in_account(&options.s3)?;
        let runtime = threads()?;
        let connections = options.s3.connections.unwrap_or(CONNECTIONS).max(1);
        let small_at_once = options.s3.connections.unwrap_or(SMALL_CONNECTIONS).max(1);
        let shared = context(address, options, small_at_once)?;
        let made = match address.kind {
            StoreKind::S3 => store(address, options, &shared).map(|made| (Arc::new(made.store) as _, made.renewable)),
            // Tokens are asked for anew before they expire.
            StoreKind::Google => google::store(address, options, &shared).map(|store| (store, false)),
            StoreKind::Azure => azure::store(address, options, &shared).map(|store| (store, false)),
        };
        let (store, renewable): (Arc<dyn StoreApi>, bool) = made.map_err(|e| e.context(address))?;
        Ok(S3Storage {
            address: address.clone(),
            store,
            shared,
            connections,
            small_at_once,
            timeout: options.timeout,
            reports: options.reports.clone(),
            renewable,
            data_class: options.s3.data_class.clone(),
            known: Mutex::default(),
            passing: Mutex::default(),
            first: Mutex::default(),
            received: Mutex::default(),
            holds: tokio::sync::Mutex::default(),
            threads: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Opens the repository at `address`.
    pub fn open(address: &StoreAddress, options: &RemoteOptions) -> Result<Self> {
        let storage = Self::connect(address, options)?;
        let listed = storage.wait(storage.entries(Class::Config)).map_err(|e| e.context(format!("cannot open {address}")))?;
        if listed.is_empty() {
            let text = format!("there is no repository at {address} (make one with: yester init)");
            return Err(Error::new(ErrorKind::NoRepository, text));
        }
        *storage.first.lock() = Some(listed);
        Ok(storage)
    }

    /// A place for a new one, where nothing is yet. Proves the store.
    pub fn create(address: &StoreAddress, options: &RemoteOptions) -> Result<Self> {
        let storage = Self::connect(address, options)?;
        let made = storage.wait(async {
            storage.nothing_there().await?;
            storage.proven().await
        });
        made.map_err(|e| e.context(format!("cannot make a repository at {address}")))?;
        Ok(storage)
    }

    /// Runs a request on the threads of the network; this one waits.
    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.threads.block_on(work)
    }

    fn key(&self, name: &Name) -> Key {
        Key::from(self.address.key(&name.to_string()))
    }

    fn judge(&self, e: &object_store::Error) -> Trouble {
        fault::judge(e, self.renewable)
    }

    /// Repeats what does no harm when it is done twice.
    async fn patiently<T>(&self, mut work: impl AsyncFnMut(&mut ProgressTimeout) -> Result<T, Trouble>) -> Result<T, Trouble> {
        if let Some(silent) = self.shared.is_left_alone() {
            let text = format!("the store does not answer (nothing was heard of it for {} seconds)", silent.as_secs());
            return Err(Trouble::Final(Error::new(ErrorKind::Io, text).of_store(StoreFailure::GivenUp)));
        }
        let mut patience = ProgressTimeout::new(self.timeout);
        let mut silent = 0;
        loop {
            let trouble = match work(&mut patience).await {
                Err(trouble @ (Trouble::Later(_) | Trouble::Unknown(_) | Trouble::Stale(_))) => trouble,
                // Of what creates nothing, this says only that others are at work.
                Err(Trouble::Taken(e)) => Trouble::Unknown(e),
                other => return other,
            };
            silent += u32::from(matches!(trouble, Trouble::Unknown(_)));
            self.rest(&mut patience, trouble, silent).await?;
        }
    }

    /// Waits before the next attempt, or gives up.
    async fn rest(&self, patience: &mut ProgressTimeout, trouble: Trouble, silent: u32) -> Result<(), Trouble> {
        match patience.pause().filter(|_| silent < MOST_ATTEMPTS) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => {
                self.shared.gives_up();
                Err(Trouble::Final(trouble.given_up()))
            }
        }
    }

    /// The length of an object and the mark of who made it; `None` when it is not there.
    async fn head(&self, key: &Key) -> Result<Option<(u64, Option<String>)>> {
        let looked = self.patiently(async |_| {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let found = self.store.get_opts(key, options).await.map_err(|e| self.judge(&e))?;
            let mark = found.attributes.get(&create::mark()).map(|value| value.to_string());
            Ok((found.meta.size, mark))
        });
        match looked.await {
            Ok(found) => Ok(Some(found)),
            Err(Trouble::Missing) => Ok(None),
            Err(trouble) => Err(trouble.error()),
        }
    }

    /// Reads what is not in `out` yet.
    async fn get_rest(
        &self,
        name: &Name,
        range: Option<&Range<u64>>,
        out: &mut Vec<u8>,
        patience: &mut ProgressTimeout,
    ) -> Result<(), Trouble> {
        let from = range.map_or(0, |range| range.start) + out.len() as u64;
        let wanted = match range {
            Some(range) if from >= range.end => return Ok(()),
            Some(range) => Some(GetRange::Bounded(from..range.end)),
            None if from > 0 => Some(GetRange::Offset(from)),
            None => None,
        };
        let options = GetOptions { range: wanted, ..GetOptions::default() };
        let found = self.store.get_opts(&self.key(name), options).await.map_err(|e| self.judge(&e))?;
        let size = found.meta.size;
        let end = match range {
            Some(range) if range.end > size => {
                return Err(Trouble::Final(Error::corrupt(format!("it is shorter than {} bytes", range.end))));
            }
            Some(range) => range.end,
            None if size > name.class().max_object() => {
                return Err(Trouble::Final(Error::corrupt("it is longer than any such object")));
            }
            None => size,
        };
        let left = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        self.fill(found, left, out, patience).await
    }

    /// Takes so many bytes of an answer, and no more.
    async fn fill(
        &self,
        found: GetResult,
        mut left: usize,
        out: &mut Vec<u8>,
        patience: &mut ProgressTimeout,
    ) -> Result<(), Trouble> {
        let memory = |e: std::collections::TryReserveError| Trouble::Final(Error::new(ErrorKind::Io, e.to_string()));
        out.try_reserve(left.min(32 << 20)).map_err(memory)?;
        let mut stream = found.into_stream();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|e| self.judge(&e))?;
            if bytes.len() > left {
                return Err(Trouble::Final(Error::new(ErrorKind::Io, "the store sends more than was asked for")));
            }
            left -= bytes.len();
            out.try_reserve(bytes.len()).map_err(memory)?;
            out.extend_from_slice(&bytes);
            patience.progress(bytes.len());
        }
        match left {
            0 => Ok(()),
            _ => Err(Trouble::Unknown(Error::new(ErrorKind::Io, "the store's answer was cut"))),
        }
    }

    async fn get(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
            // HTTP has no empty ranges.
            return match self.head(&self.key(name)).await? {
                Some((length, _)) if range.end <= length => Ok(()),
                Some(_) => Err(Trouble::Beyond.error()),
                None => Err(Trouble::Missing.error()),
            };
        }
        let read = self.patiently(async |patience| self.get_rest(name, range.as_ref(), out, patience).await);
        read.await.map_err(Trouble::error)
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        let removed = self.patiently(async |_| self.store.delete(key).await.map_err(|e| self.judge(&e)));
        match removed.await {
            Ok(()) | Err(Trouble::Missing) => Ok(()),
            Err(trouble) => Err(trouble.error()),
        }
    }

    fn know(&self, name: &Name) {
        Arc::make_mut(self.known.lock().entry(name.class()).or_default()).insert(*name);
    }

    fn forget<'a>(&self, class: Class, names: impl IntoIterator<Item = &'a Name>) {
        if let Some(known) = self.known.lock().get_mut(&class) {
            // A copy is made only while somebody lists.
            let gone: Vec<_> = names.into_iter().filter(|name| known.contains(name)).collect();
            if !gone.is_empty() {
                let known = Arc::make_mut(known);
                for name in gone {
                    known.remove(name);
                }
            }
        }
    }
}

impl Storage for S3Storage {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        let created = self.wait(self.put(name, parts));
        created.map_err(|e| e.context(format!("cannot write {name} in {}", self.address))).inspect(|_| self.know(name))
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        self.wait(self.get(name, range, out)).map_err(|e| e.context(format!("cannot read {name} in {}", self.address)))
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        let listed = self.listed(class)?;
        if class == Class::Snapshots {
            *self.received.lock() = Some(listed.iter().map(list::ListedObject::receipt).collect());
        }
        Ok(listed.into_iter().map(|entry| (entry.name, entry.size)).collect())
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.forget(name.class(), [name]);
        let removed = self.wait(self.remove(&self.key(name)));
        removed.map_err(|e| e.context(format!("cannot delete {name} in {}", self.address)))
    }

    fn sync(&self) -> Result<()> {
        // What the store has acknowledged is durable.
        Ok(())
    }

    fn received(&self, class: Class) -> Result<Vec<(Name, Receipt)>> {
        // Who asks has listed them a moment ago: the same list says both.
        if let (Class::Snapshots, Some(received)) = (class, &*self.received.lock()) {
            return Ok(received.clone());
        }
        Ok(self.listed(class)?.iter().map(list::ListedObject::receipt).collect())
    }

    fn decides(&self) -> Result<bool> {
        self.wait(self.proven()).map_err(|e| e.context(format!("cannot prove {}", self.address)))
    }

    fn pack_classes(&self) -> Result<Option<HashMap<PackId, String>>> {
        self.listed_classes().map(Some)
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.shared.counts.now())
    }

    fn costs(&self) -> Costs {
        Costs {
            concurrency: self.connections.max(2),
            small_at_once: self.small_at_once.max(2),
            creates_at_once: self.connections.clamp(1, MOST_UPLOADS),
            worth_one_read: ONE_READ,
        }
    }

    fn describe(&self) -> String {
        self.address.to_string()
    }
}
