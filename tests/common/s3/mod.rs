//! An S3 server in memory, for tests: what yester uses of the protocol, done right, and wrong when it is told to.
//!
//! A create with `If-None-Match: *` is atomic. Ranges, HEAD, DELETE, and lists in pages. Signatures are not checked, but a
//! request without one is refused. A script says which request meets which fault, and every request is counted.
#![allow(dead_code)] // Every test file uses its own part of this.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub mod answer;
mod dialect;
mod handle;

/// The bucket that is there.
pub const BUCKET: &str = "bucket";

/// The account of who speaks as to Azure's store, and its key.
pub const ACCOUNT: &str = "account";
pub const ACCOUNT_KEY: &str = "bm9ib2R5IGtub3dzIHRoaXM=";
/// The signature of a SAS token that counts.
pub const SAS: &str = "signed/by+somebody=";

/// How a create with `If-None-Match: *` is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should be: one of many creators wins.
    Atomic,
    /// The header is ignored: the last one wins.
    Ignores,
    /// It looks whether the object is there, and then writes: who comes between is not seen.
    LooksThenWrites,
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the answer is this status with this code.
    Refused(u16, &'static str),
    /// It is done, and the answer is this status all the same.
    DoneThen(u16, &'static str),
    /// The connection ends before anything is done.
    Cut,
    /// It is done, and the connection ends without an answer.
    CutAfter,
    /// It is done, and no answer ever comes.
    SilentAfter,
    /// Half of the answer's body comes.
    Truncated,
    /// A list that ends after its first page and says that it goes on, without saying where.
    NoToken,
    /// A list without the objects that were made last.
    Stale(usize),
    /// The answer has another ETag.
    WrongEtag,
    /// The range that is sent is another.
    WrongRange,
    /// Another object's bytes, as long.
    Elsewhere,
}

/// One request, as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its number, from 0 on.
    pub number: usize,
    pub kind: Kind,
    /// The object's key; of a list, its prefix.
    pub key: String,
    /// The id of the access key that signed it.
    pub access: String,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Put,
    Get,
    Head,
    List,
    Delete,
    Other,
}

/// An object.
#[derive(Debug, Clone)]
pub struct Object {
    pub bytes: Bytes,
    pub modified: SystemTime,
    /// When it was made, in the order of all of them.
    pub order: usize,
    /// The headers that are given back: `x-amz-meta-…`, `x-amz-storage-class`.
    pub headers: Vec<(String, String)>,
}

type Script = dyn Fn(&Seen) -> Option<Fault> + Send + Sync;

/// What the server knows.
pub struct State {
    pub objects: Mutex<BTreeMap<String, Object>>,
    pub seen: Mutex<Vec<Seen>>,
    script: Mutex<Arc<Script>>,
    manner: Mutex<Manner>,
    /// The most objects on a page of a list.
    page: AtomicUsize,
    /// Whether metadata is kept with objects.
    metadata: AtomicBool,
    made: AtomicUsize,
    /// How many requests for a token are refused before one is given.
    busy: AtomicUsize,
    /// Creates that are between their look and their write.
    between: AtomicUsize,
}

/// The server; it ends when this is dropped.
pub struct S3Server {
    pub port: u16,
    pub state: Arc<State>,
    runtime: Option<Runtime>,
}

impl S3Server {
    /// A server on loopback.
    pub fn start() -> S3Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            objects: Mutex::default(),
            seen: Mutex::default(),
            script: Mutex::new(Arc::new(|_| None)),
            manner: Mutex::new(Manner::Atomic),
            page: AtomicUsize::new(1000),
            metadata: AtomicBool::new(true),
            made: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            between: AtomicUsize::new(0),
        });
        runtime.spawn(accept(listener, state.clone()));
        S3Server { port, state, runtime: Some(runtime) }
    }

    /// The repository's name, with this prefix.
    pub fn address(&self, prefix: &str) -> String {
        format!("s3:http://127.0.0.1:{}/{BUCKET}/{prefix}", self.port)
    }

    /// The same for who speaks as to Google's store.
    pub fn google(&self, prefix: &str) -> String {
        format!("gs:http://127.0.0.1:{}/{BUCKET}/{prefix}", self.port)
    }

    /// The same for who speaks as to Azure's.
    pub fn azure(&self, prefix: &str) -> String {
        format!("azure:http://127.0.0.1:{}/{ACCOUNT}/{BUCKET}/{prefix}", self.port)
    }

    /// From now on requests meet what `script` says of them.
    pub fn script(&self, script: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) {
        *self.state.script.lock() = Arc::new(script);
    }

    /// Requests are answered as they should be.
    pub fn fair(&self) {
        self.script(|_| None);
    }

    /// How creates are done.
    pub fn manner(&self, manner: Manner) {
        *self.state.manner.lock() = manner;
    }

    /// The most objects on a page of a list.
    pub fn page(&self, most: usize) {
        self.state.page.store(most, Ordering::SeqCst);
    }

    /// Whether metadata is kept with objects.
    pub fn metadata(&self, kept: bool) {
        self.state.metadata.store(kept, Ordering::SeqCst);
    }

    /// So many requests for a token find who gives them without time.
    pub fn busy(&self, times: usize) {
        self.state.busy.store(times, Ordering::SeqCst);
    }

    /// What was asked since the last call of this. Numbers begin at 0 again.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock())
    }

    /// How many requests of each kind there were since [`S3Server::take`].
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for seen in self.state.seen.lock().iter() {
            *counts.entry(seen.kind).or_default() += 1;
        }
        counts
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.state.objects.lock().keys().cloned().collect()
    }

    /// The objects as they are now.
    pub fn save(&self) -> BTreeMap<String, Object> {
        self.state.objects.lock().clone()
    }

    /// Puts these objects in the place of all that are there.
    pub fn load(&self, objects: BTreeMap<String, Object>) {
        *self.state.objects.lock() = objects;
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| handle::handle(state.clone(), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
