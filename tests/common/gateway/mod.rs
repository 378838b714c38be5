//! A gateway to buckets in memory, for tests: several of them, objects under any keys with their headers and tags,
//! signatures that are checked, and a limit of requests a second that is kept.
#![allow(dead_code)] // Every test file uses its own part of this.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

mod handle;
mod signature;

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub bytes: Bytes,
    /// Headers that are given back with it.
    pub headers: BTreeMap<String, Vec<u8>>,
    /// As a header has them: `a=1&b=2`.
    pub tags: String,
    pub modified: SystemTime,
}

impl Object {
    /// What has to be the same after a restore: all but the time.
    pub fn facts(&self) -> Facts {
        let text = |(name, value): (&String, &Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
        Facts {
            size: self.bytes.len(),
            hash: blake3::hash(&self.bytes).to_hex().to_string(),
            headers: self.headers.iter().map(text).collect(),
            tags: self.tags.clone(),
        }
    }
}

/// What has to be the same of an object after a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub size: usize,
    pub hash: String,
    pub headers: BTreeMap<String, String>,
    pub tags: String,
}

/// An object to be there: key, content, headers, tags.
pub type Filling<'a> = (&'a [u8], &'a [u8], &'a [(&'a str, &'a str)], &'a str);

pub type Objects = BTreeMap<Vec<u8>, Object>;
pub type Versions = BTreeMap<Vec<u8>, Vec<Version>>;

/// A version of an object; without an object it is a delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub id: String,
    pub object: Option<Object>,
    pub modified: SystemTime,
}

/// A request, as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub bucket: String,
    pub key: Vec<u8>,
    pub query: String,
    pub access: String,
}

/// An object that is written in parts.
pub struct Upload {
    pub object: Object,
    pub parts: BTreeMap<usize, Bytes>,
}

#[derive(Default)]
pub struct Gate {
    /// Requests a second.
    pub rate: Option<usize>,
    pub arrivals: VecDeque<Instant>,
    /// Requests that were more than the rate allows.
    pub over: usize,
    /// So many of the next requests are answered with *slow down*.
    pub slow: usize,
}

type Hook = dyn Fn(&Asked, &Gateway) -> Option<(u16, &'static str)> + Send + Sync;

/// What the server knows.
#[derive(Default)]
pub struct Gateway {
    pub buckets: Mutex<BTreeMap<String, Objects>>,
    /// Buckets that keep versions: those of each key, the oldest first.
    pub versions: Mutex<BTreeMap<String, Versions>>,
    /// Access keys and their secrets.
    pub keys: Mutex<BTreeMap<String, String>>,
    pub asked: Mutex<Vec<Asked>>,
    pub gate: Mutex<Gate>,
    pub uploads: Mutex<BTreeMap<String, Upload>>,
    /// What is done when a request comes in, and the answer to it in the place of the true one.
    pub hook: Mutex<Option<Arc<Hook>>>,
    /// Objects on a page of a list.
    pub page: Mutex<usize>,
    /// Half of a body, then the connection ends: of so many of the next objects that are read.
    pub cut: Mutex<usize>,
}

/// The server; it ends when this is dropped.
pub struct GatewayServer {
    pub port: u16,
    pub gateway: Arc<Gateway>,
    runtime: Option<Runtime>,
}

impl GatewayServer {
    /// A server on loopback, whose one key is this with its secret.
    pub fn start(key: &str, secret: &str) -> GatewayServer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let gateway = Arc::new(Gateway::default());
        gateway.keys.lock().insert(key.to_owned(), secret.to_owned());
        *gateway.page.lock() = 1000;
        runtime.spawn(accept(listener, gateway.clone()));
        GatewayServer { port, gateway, runtime: Some(runtime) }
    }

    /// The address of a bucket.
    pub fn address(&self, bucket: &str) -> String {
        format!("s3:http://127.0.0.1:{}/{bucket}", self.port)
    }

    /// Makes a bucket with these objects.
    pub fn fill(&self, bucket: &str, objects: &[Filling<'_>]) {
        let mut buckets = self.gateway.buckets.lock();
        let bucket = buckets.entry(bucket.to_owned()).or_default();
        for (key, bytes, headers, tags) in objects {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
            let bytes = Bytes::copy_from_slice(bytes);
            // Whole seconds, as a real gateway may have them.
            let modified = SystemTime::now() - Duration::from_secs(60);
            bucket.insert(key.to_vec(), Object { bytes, headers, tags: (*tags).to_owned(), modified });
        }
    }

    /// Has a bucket keep versions.
    pub fn keep_versions(&self, bucket: &str) {
        self.gateway.versions.lock().entry(bucket.to_owned()).or_default();
    }

    /// Writes an object as a client would.
    pub fn write(&self, bucket: &str, key: &[u8], bytes: &[u8], headers: &[(&str, &str)], tags: &str) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        let bytes = Bytes::copy_from_slice(bytes);
        let object = Object { bytes, headers, tags: tags.to_owned(), modified: whole_seconds() };
        self.gateway.insert(bucket, key, object);
    }

    /// All versions in a bucket but their ids and times, the oldest first; `None`: a delete marker.
    pub fn histories(&self, bucket: &str) -> BTreeMap<String, Vec<Option<Facts>>> {
        let versions = self.gateway.versions.lock();
        let facts = |versions: &Vec<Version>| versions.iter().map(|it| it.object.as_ref().map(Object::facts)).collect();
        let all = versions[bucket].iter().filter(|(_, versions)| !versions.is_empty());
        all.map(|(key, versions)| (key.escape_ascii().to_string(), facts(versions))).collect()
    }

    /// What is in a bucket, all but times.
    pub fn facts(&self, bucket: &str) -> BTreeMap<String, Facts> {
        let buckets = self.gateway.buckets.lock();
        buckets[bucket].iter().map(|(key, object)| (key.escape_ascii().to_string(), object.facts())).collect()
    }

    /// What was asked since the last call.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.gateway.asked.lock())
    }

    /// How often objects were read since the last call of [`GatewayServer::take`].
    pub fn reads(&self) -> usize {
        let asked = self.gateway.asked.lock();
        asked.iter().filter(|asked| asked.method == "GET" && !asked.key.is_empty() && !asked.query.contains("tagging")).count()
    }
}

impl Gateway {
    /// Writes an object.
    pub fn insert(&self, bucket: &str, key: &[u8], object: Object) {
        let mut buckets = self.buckets.lock();
        let objects = buckets.entry(bucket.to_owned()).or_default();
        let before = objects.insert(key.to_vec(), object.clone());
        self.add_version(bucket, key, before, Some(object));
    }

    /// Deletes an object: where versions are kept, a marker says so.
    pub fn remove(&self, bucket: &str, key: &[u8]) {
        let mut buckets = self.buckets.lock();
        let Some(objects) = buckets.get_mut(bucket) else { return };
        let before = objects.remove(key);
        self.add_version(bucket, key, before, None);
    }

    fn add_version(&self, bucket: &str, key: &[u8], before: Option<Object>, object: Option<Object>) {
        let mut all = self.versions.lock();
        let Some(versions) = all.get_mut(bucket) else { return };
        let number: usize = versions.values().map(Vec::len).sum();
        let versions = versions.entry(key.to_vec()).or_default();
        if let Some(before) = before.filter(|_| versions.is_empty()) {
            versions.push(Version { id: "null".to_owned(), modified: before.modified, object: Some(before) });
        }
        let modified = object.as_ref().map_or_else(whole_seconds, |object| object.modified);
        versions.push(Version { id: format!("v{number}/+"), object, modified });
    }

    /// Removes one version; what is the newest one then is the object.
    pub fn remove_version(&self, bucket: &str, key: &[u8], id: &str) {
        let mut buckets = self.buckets.lock();
        let mut all = self.versions.lock();
        let Some(versions) = all.get_mut(bucket).and_then(|all| all.get_mut(key)) else { return };
        versions.retain(|version| version.id != id);
        let objects = buckets.get_mut(bucket).unwrap();
        match versions.last().and_then(|version| version.object.clone()) {
            Some(object) => drop(objects.insert(key.to_vec(), object)),
            None => drop(objects.remove(key)),
        }
    }
}

/// Now, as a gateway knows it that counts seconds: what is written within one is of one time.
fn whole_seconds() -> SystemTime {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(now)
}

impl Drop for GatewayServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, gateway: Arc<Gateway>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| handle::handle(gateway.clone(), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
