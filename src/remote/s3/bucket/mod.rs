//! Buckets with objects of others: listed, read, written and made, whatever their keys are.
//!
//! Requests are made and signed here, since the library's paths cannot hold every key. Connections, limits and credentials
//! are those of [`S3Storage`](crate::remote::s3::S3Storage).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use object_store::aws::AwsCredentialProvider;
use object_store::client::{HttpRequest, HttpRequestBody, HttpResponse, HttpService};
use tokio::runtime::Runtime;

use crate::error::{Error, ErrorKind, Result};
use crate::model::bucket::{BucketEntry, ObjectFacts, attribute};
use crate::remote::client::RemoteOptions;
use crate::remote::client::fault::ProgressTimeout;
use crate::remote::s3::address::StoreAddress;
use crate::remote::s3::fault::{self, Trouble};
use crate::remote::s3::gate::RequestGate;
use crate::remote::s3::sign::{SigningKey, encoded, sha256};
use crate::remote::s3::{CONNECTIONS, ConnectedStore, MOST_ATTEMPTS, context, http, store, threads};

mod body;
mod facts;
mod put;
mod versions;
mod xml;

pub(crate) use body::{BodyPiece, ObjectBody};
pub(crate) use put::PART;

/// How often a request is repeated to which the store says *slow down*.
const MOST_SLOW_DOWNS: u32 = 40;
/// The longest answer that is read into memory: a page of a list.
const LONGEST_ANSWER: usize = 32 << 20;

/// A bucket, or what is below a prefix in one. Keys are those behind the prefix.
pub struct BucketClient {
    address: StoreAddress,
    region: String,
    virtual_hosts: bool,
    credentials: AwsCredentialProvider,
    renewable: bool,
    service: http::Service,
    gate: Arc<RequestGate>,
    connections: usize,
    timeout: Duration,
    stop: Arc<AtomicBool>,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for BucketClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketClient({})", self.address)
    }
}

impl Drop for BucketClient {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What is asked of the store.
#[derive(Debug, Default)]
struct StoreCall<'a> {
    method: Method,
    /// Of an object; `None`: of the bucket.
    key: Option<&'a [u8]>,
    query: Vec<(&'static str, String)>,
    /// The same of bytes that may be no text.
    raw_query: Vec<(&'static str, Vec<u8>)>,
    headers: Vec<(HeaderName, Vec<u8>)>,
    body: Bytes,
}

impl BucketClient {
    /// Speaks to the bucket at `address`; requests pass `gate`. Nothing is asked yet. Setting `stop` ends all waiting.
    pub fn new(address: &StoreAddress, options: &RemoteOptions, gate: &Arc<RequestGate>, stop: &Arc<AtomicBool>) -> Result<Self> {
        let connections = options.s3.connections.unwrap_or(CONNECTIONS).max(1);
        let shared = context(address, options, connections)?;
        let ConnectedStore { store, renewable, region } = store(address, options, &shared)?;
        Ok(BucketClient {
            address: address.clone(),
            region,
            virtual_hosts: options.s3.virtual_hosts,
            credentials: store.credentials().clone(),
            renewable,
            service: http::Service { shared, connecting: options.timeout / 2 },
            gate: gate.clone(),
            connections,
            timeout: options.timeout,
            stop: stop.clone(),
            runtime: Some(threads()?),
        })
    }

    /// Requests that may be under way at once.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// What the keys of all objects begin with that are meant.
    fn prefix(&self) -> Vec<u8> {
        match self.address.prefix.is_empty() {
            true => Vec::new(),
            false => format!("{}/", self.address.prefix).into_bytes(),
        }
    }

    /// All objects.
    pub fn list(&self) -> Result<Vec<BucketEntry>> {
        let prefix = if self.address.prefix.is_empty() { String::new() } else { format!("{}/", self.address.prefix) };
        let (mut out, mut token): (Vec<BucketEntry>, Option<String>) = (Vec::new(), None);
        loop {
            let mut query = vec![("encoding-type", "url".to_owned()), ("list-type", "2".to_owned()), ("prefix", prefix.clone())];
            query.extend(token.clone().map(|token| ("continuation-token", token)));
            let answer = self.wait(self.asked(&StoreCall { query, ..StoreCall::default() }))?;
            let page = xml::page(&answer)?;
            for mut entry in page.entries {
                let key = entry.key.strip_prefix(prefix.as_bytes()).filter(|key| !key.is_empty()).map(<[u8]>::to_vec);
                // What is not below the prefix was not asked for; the prefix itself, with its slash, is no object's name.
                let Some(key) = key else { continue };
                entry.key = key;
                out.push(entry);
            }
            match page.token {
                None => return Ok(out),
                next if next == token => return Err(Error::new(ErrorKind::Io, "the store's list goes round")),
                next => token = next,
            }
        }
    }

    /// What the store says of an object; `None` when it is not there.
    pub fn facts(&self, key: &[u8]) -> Result<Option<ObjectFacts>> {
        let call = StoreCall { method: Method::HEAD, key: Some(key), ..StoreCall::default() };
        match self.wait(self.patiently(&call)) {
            Ok(answer) => {
                let mut facts = facts::of(answer.headers())?;
                if facts::tags(answer.headers()) > 0 {
                    facts.attributes.push((attribute::TAGS.to_vec(), self.tags(key, None)?));
                    facts.attributes.sort_unstable();
                }
                Ok(Some(facts))
            }
            Err(Trouble::Missing) => Ok(None),
            Err(trouble) => Err(trouble.error()),
        }
    }

    /// The tags of an object, or of a version of it, as they are stored; empty where there are none.
    pub fn tags(&self, key: &[u8], version: Option<&[u8]>) -> Result<Vec<u8>> {
        let (query, raw_query) = (vec![("tagging", String::new())], of_version(version));
        let answer = self.wait(self.asked(&StoreCall { key: Some(key), query, raw_query, ..StoreCall::default() }))?;
        xml::tags(&answer)
    }

    /// Deletes an object.
    pub fn delete(&self, key: &[u8]) -> Result<()> {
        let call = StoreCall { method: Method::DELETE, key: Some(key), ..StoreCall::default() };
        match self.wait(self.patiently(&call)) {
            Ok(_) | Err(Trouble::Missing) => Ok(()),
            Err(trouble) => Err(trouble.error()),
        }
    }

    /// Whether the bucket is there.
    pub fn is_there(&self) -> Result<bool> {
        match self.wait(self.patiently(&StoreCall { method: Method::HEAD, ..StoreCall::default() })) {
            Ok(_) => Ok(true),
            Err(Trouble::Missing) => Ok(false),
            Err(trouble) => Err(trouble.error()),
        }
    }

    /// Makes the bucket, with the rights of the given credential.
    pub fn make(&self) -> Result<()> {
        // Only AWS has to be told the region that is asked.
        let elsewhere = self.address.host.ends_with(".amazonaws.com") && self.region != "us-east-1";
        let body = if elsewhere { xml::location(&self.region) } else { String::new() };
        let call = StoreCall { method: Method::PUT, body: Bytes::from(body), ..StoreCall::default() };
        match self.wait(self.patiently(&call)) {
            Ok(_) => Ok(()),
            Err(trouble) => match self.is_there()? {
                true => Ok(()),
                false => Err(trouble.error()),
            },
        }
    }

    /// Runs a request on the threads of the network; this one waits, until the user has enough.
    fn wait<T, E: From<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let Some(runtime) = &self.runtime else { return Err(Error::new(ErrorKind::Io, "the connection has been closed").into()) };
        let stopped = async {
            while !self.stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                done = work => done,
                () = stopped => Err(Error::new(ErrorKind::Interrupted, "interrupted").into()),
            }
        })
    }

    /// The whole answer to a request.
    async fn asked(&self, call: &StoreCall<'_>) -> Result<Vec<u8>> {
        let mut silent = 0;
        loop {
            let answer = self.patiently(call).await.map_err(Trouble::error)?;
            let mut body = answer.into_body();
            let mut out = Vec::new();
            let broken = loop {
                match body.frame().await {
                    None => return Ok(out),
                    Some(Ok(frame)) => out.extend_from_slice(&frame.into_data().unwrap_or_default()),
                    Some(Err(e)) => break e,
                }
                if out.len() > LONGEST_ANSWER {
                    return Err(Error::new(ErrorKind::Io, "the store's answer is too long"));
                }
            };
            silent += 1;
            if silent == MOST_ATTEMPTS {
                return Err(fault::judge_cause(&broken, self.renewable).error());
            }
        }
    }

    /// Repeats a request until the store has answered it.
    async fn patiently(&self, call: &StoreCall<'_>) -> Result<HttpResponse, Trouble> {
        let mut patience = ProgressTimeout::new(self.timeout);
        let (mut silent, mut slow) = (0, 0);
        loop {
            let (trouble, slow_down) = match self.once(call).await {
                Err((trouble @ (Trouble::Later(_) | Trouble::Unknown(_)), slow_down)) => (trouble, slow_down),
                other => return other.map_err(|(trouble, _)| trouble),
            };
            let given_up = |trouble: Trouble| Trouble::Final(trouble.given_up());
            if slow_down {
                // The gate waits.
                slow += 1;
                if slow == MOST_SLOW_DOWNS {
                    return Err(given_up(trouble));
                }
                patience = ProgressTimeout::new(self.timeout);
                continue;
            }
            silent += u32::from(matches!(trouble, Trouble::Unknown(_)));
            match patience.pause().filter(|_| silent < MOST_ATTEMPTS) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(given_up(trouble)),
            }
        }
    }

    /// Sends a request once. With an error comes whether the store said *slow down*.
    async fn once(&self, call: &StoreCall<'_>) -> Result<HttpResponse, (Trouble, bool)> {
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|e| (fault::judge_cause(&e, self.renewable), false))?;
        let place = self.gate.pass().await;
        let signing = SigningKey { credential: &credential, region: &self.region, at: SystemTime::now() };
        let request = self.request(call).and_then(|mut request| {
            signing.sign(&mut request, &sha256(&call.body))?;
            Ok(request)
        });
        let answered = self.service.call(request.map_err(|e| (Trouble::Final(e), false))?).await;
        drop(place);
        match answered {
            Ok(answer) => {
                self.gate.well();
                Ok(answer)
            }
            Err(e) => {
                let slow_down = fault::is_slow_down(&e);
                if slow_down {
                    self.gate.slow_down();
                }
                Err((fault::judge_cause(&e, self.renewable), slow_down))
            }
        }
    }

    fn request(&self, call: &StoreCall<'_>) -> Result<HttpRequest> {
        let StoreAddress { bucket, prefix, .. } = &self.address;
        let mut path = if self.virtual_hosts { String::new() } else { format!("/{bucket}") };
        if let Some(key) = call.key {
            let slash = if prefix.is_empty() { "" } else { "/" };
            path.push_str(&format!("/{prefix}{slash}{}", encoded(key, b"/")));
        }
        if path.is_empty() {
            path.push('/');
        }
        let mut query: Vec<String> =
            call.query.iter().map(|(name, value)| format!("{name}={}", encoded(value.as_bytes(), b""))).collect();
        query.extend(call.raw_query.iter().map(|(name, value)| format!("{name}={}", encoded(value, b""))));
        query.sort_unstable();
        let mark = if query.is_empty() { "" } else { "?" };
        let host = self.virtual_hosts.then_some(bucket.as_str());
        let uri = format!("{}{path}{mark}{}", self.address.endpoint(host), query.join("&"));
        let mut request = HttpRequest::new(HttpRequestBody::from(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri.parse().map_err(|_| Error::invalid("the key is too long for a request"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            let value = HeaderValue::from_bytes(value).map_err(|_| Error::invalid(format!("{name} holds what no header may")))?;
            headers.append(name, value);
        }
        if call.body.is_empty() && call.method != Method::GET && call.method != Method::HEAD {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// What asks for a version of an object.
fn of_version(version: Option<&[u8]>) -> Vec<(&'static str, Vec<u8>)> {
    version.map(|version| ("versionId", version.to_vec())).into_iter().collect()
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Trouble::Final(e)
    }
}
