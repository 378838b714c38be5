//! A repository on another machine, as a [`Storage`].
//!
//! What is acknowledged is durable: the server answers after its `fsync`. So a barrier has nothing to do, unless something
//! was deleted. A request that got no answer is asked again when that does no harm. A pack that got none is looked for:
//! found, it is stored; not found, its name is given up, since it may still come to be there (rule 3 of docs/durability.md).

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::{CONTENT_LENGTH, RANGE};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::model::id::to_hex;
use crate::observe::Reports;
use crate::remote::address::Address;
use crate::remote::list::{ListParser, ListedObjects};
use crate::remote::protocol::{self, About, CONTENT_HEADER, LeftoversFound};
use crate::remote::rate::{Limit, Rate};
use crate::remote::s3::credentials::S3Options;
use crate::remote::tls::Trust;
use crate::storage::{Class, Costs, Created, Leftovers, Name, Receipt, Storage};

pub(crate) mod body;
mod exchange;
pub(crate) mod fault;
mod ssh;
pub(crate) mod transport;

use exchange::{ConnectionPool, LoadedResponse, RequestParts};
use fault::{ProgressTimeout, RequestFault};
use ssh::SshCommand;
use transport::ServerTarget;

/// Memory that is taken for an answer before its bytes are here.
const AT_ONCE: usize = 32 << 20;
/// The longest small answer.
const LONGEST: usize = 1 << 20;
/// Requests that are worth having under way on one connection.
const PER_CONNECTION: usize = 4;
/// The same of requests for small objects.
const SMALL_PER_CONNECTION: usize = 16;
/// Packs that are sent at once at most: each is in memory until the server has it.
const MOST_UPLOADS: usize = 4;
/// How often an object is sent, or a list asked for, before it is given up: bytes that move, and are lost each time, are no progress.
const MOST_ATTEMPTS: u32 = 20;
/// Bytes that one request asks for when more are needed: with [`PER_CONNECTION`] of them under way a line with a long way
/// is full, and memory holds no more than that.
const ONE_READ: u64 = 1 << 20;

/// How to talk to a server.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// What a server is shown; not needed over ssh.
    pub token: Option<Zeroizing<String>>,
    /// What certificates are believed.
    pub trust: Trust,
    /// Connections at once.
    pub connections: usize,
    /// How long a call goes on without progress.
    pub timeout: Duration,
    /// Bytes a second.
    pub limit_upload: Option<Limit>,
    /// Bytes a second.
    pub limit_download: Option<Limit>,
    /// The ssh program and its options.
    pub ssh: Vec<OsString>,
    /// What yester is called on the far side of ssh.
    pub remote_program: String,
    /// What only object stores need.
    pub s3: S3Options,
    /// Where failed attempts, and what a store cannot do, are reported.
    pub reports: Reports,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        RemoteOptions {
            token: None,
            trust: Trust::default(),
            connections: 2,
            timeout: Duration::from_secs(60),
            limit_upload: None,
            limit_download: None,
            ssh: vec!["ssh".into()],
            remote_program: "yester".to_owned(),
            s3: S3Options::default(),
            reports: Reports::default(),
        }
    }
}

/// A repository on another machine.
pub struct RemoteStorage {
    address: Address,
    line: ConnectionPool,
    /// Who the server says this is.
    client: Option<String>,
    /// Something was deleted that is not known to be durable.
    deleted: AtomicBool,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for RemoteStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteStorage({})", self.address)
    }
}

impl Drop for RemoteStorage {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn line(address: &Address, options: &RemoteOptions) -> Result<ConnectionPool> {
    let RemoteOptions { token, trust, connections, timeout, ssh, remote_program, .. } = options;
    let mut line = match address {
        Address::Https { host, port, name } => {
            let token = token.as_ref().ok_or_else(|| {
                let text = "a repository on a server needs a token: set YESTER_TOKEN, YESTER_TOKEN_FILE or YESTER_TOKEN_COMMAND";
                Error::new(ErrorKind::Key, text)
            })?;
            let target = ServerTarget::Tls { host: host.clone(), port: *port, config: std::sync::Arc::new(trust.config()?) };
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            ConnectionPool::new(target, format!("{bracketed}:{port}"), name.as_str(), Some(token), *connections)?
        }
        Address::Ssh { user, host, port, path } => {
            let command = SshCommand {
                program: ssh.clone(),
                user: user.clone(),
                host: host.clone(),
                port: *port,
                remote: remote_program.clone(),
            };
            ConnectionPool::new(ServerTarget::Ssh(command), "stdio".to_owned(), &to_hex(path), None, 1)?
        }
    };
    line.timeout = *timeout;
    line.reports = options.reports.clone();
    line.rates = (options.limit_upload.clone().map(Rate::by), options.limit_download.clone().map(Rate::by));
    Ok(line)
}

impl RemoteStorage {
    fn connect(address: &Address, options: &RemoteOptions) -> Result<Self> {
        let line = line(address, options).map_err(|e| e.context(address))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("yester-net")
            .enable_all()
            .build()
            .map_err(|e| Error::io("cannot start the threads of the network", e))?;
        let (address, deleted) = (address.clone(), AtomicBool::new(false));
        Ok(RemoteStorage { address, line, client: None, deleted, runtime: Some(runtime) })
    }

    /// Connects to the repository at `address`.
    pub fn open(address: &Address, options: &RemoteOptions) -> Result<Self> {
        let mut storage = Self::connect(address, options)?;
        storage.client = storage.about().map_err(|e| storage.none(e))?.client;
        Ok(storage)
    }

    /// Makes an empty repository there. [`ErrorKind::Exists`]: there is one, empty or not.
    pub fn create(address: &Address, options: &RemoteOptions) -> Result<Self> {
        let storage = Self::connect(address, options)?;
        let made = storage.call(&RequestParts::new(Method::PUT, "/v1/repository"));
        made.map_err(|e| e.context(format!("cannot make a repository at {address}")))?;
        Ok(storage)
    }

    fn none(&self, e: Error) -> Error {
        match e.kind() {
            ErrorKind::NoRepository => {
                let text = format!("there is no repository at {} (make one with: yester init)", self.address);
                Error::new(ErrorKind::NoRepository, text)
            }
            _ => e.context(format!("cannot open the repository {}", self.address)),
        }
    }

    /// Runs a request on the threads of the network; this one waits.
    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => Err(Error::new(ErrorKind::Io, "the connection has been closed")),
        }
    }

    /// A small request that may be repeated, and the body of its answer.
    fn call(&self, ask: &RequestParts) -> Result<Vec<u8>> {
        let mut attempts = 0;
        self.wait(self.line.patiently(async |patience| {
            attempts += 1;
            self.small(ask, patience).await.map_err(|fault| anew(fault, attempts))
        }))
    }

    async fn small(&self, ask: &RequestParts, patience: &mut ProgressTimeout) -> Result<Vec<u8>, RequestFault> {
        let mut answer = self.line.ask(ask, patience).await?;
        let mut body = Vec::new();
        while let Some(bytes) = self.frame(&mut answer, patience).await? {
            body.extend_from_slice(&bytes);
            if body.len() > LONGEST {
                return Err(RequestFault::Final(Error::new(ErrorKind::Io, "the server's answer is too long")));
            }
        }
        Ok(body)
    }

    /// The next bytes of an answer's body.
    async fn frame(
        &self,
        answer: &mut LoadedResponse<'_>,
        patience: &mut ProgressTimeout,
    ) -> Result<Option<bytes::Bytes>, RequestFault> {
        loop {
            let next = tokio::time::timeout(patience.wait(), answer.response.body_mut().frame()).await;
            let frame = match next {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|e| RequestFault::broken(transport::cause(&e)))?,
                Err(_) => {
                    self.line.give_up(answer).await;
                    return Err(RequestFault::Broken(Error::new(ErrorKind::Io, "the server sends nothing more")));
                }
            };
            let Ok(bytes) = frame.into_data() else { continue };
            if let Some(rate) = &self.line.rates.1 {
                rate.take(bytes.len()).await;
            }
            self.line.heard();
            patience.progress(bytes.len());
            return Ok(Some(bytes));
        }
    }

    fn about(&self) -> Result<About> {
        let body = self.call(&RequestParts::new(Method::GET, "/v1/repository"))?;
        serde_json::from_slice(&body).map_err(|e| Error::new(ErrorKind::Io, format!("the server's answer makes no sense: {e}")))
    }

    /// The length of an object; `None` when it is not there.
    async fn length(&self, name: &Name, patience: &mut ProgressTimeout) -> Result<Option<u64>, RequestFault> {
        match self.line.ask(&RequestParts::new(Method::HEAD, protocol::object_path(name)), patience).await {
            Ok(answer) => {
                let length = answer.response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
                let missing = || RequestFault::Final(Error::new(ErrorKind::Io, "the server does not say how long it is"));
                length.ok_or_else(missing).map(Some)
            }
            Err(RequestFault::Final(e)) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn put(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        let mut ask = RequestParts::new(Method::PUT, protocol::object_path(name));
        if !protocol::names_content(name.class()) {
            let mut hasher = blake3::Hasher::new();
            for part in parts {
                hasher.update(part);
            }
            ask = ask.with(CONTENT_HEADER, hasher.finalize().to_hex().to_string());
        }
        let mut patience = self.line.patience()?;
        // Whether the server may have got it already: then what is there, if it is the same, is ours.
        let (mut maybe, mut attempts) = (false, 0);
        loop {
            let fault = match self.line.upload(&ask, parts, &mut patience).await {
                Ok(answer) if answer.response.status().as_u16() == 201 || maybe => return Ok(Created::New),
                Ok(_) => return Ok(Created::Exists),
                Err(RequestFault::Final(e)) if e.kind() == ErrorKind::Exists => return Ok(Created::Exists),
                Err(RequestFault::Final(e)) => return Err(e),
                Err(fault) => fault,
            };
            attempts += 1;
            if attempts >= MOST_ATTEMPTS {
                return Err(fault.error().context(format!("given up after {attempts} attempts")));
            }
            let broken = matches!(fault, RequestFault::Broken(_));
            let reason = fault_text(&fault);
            self.line.rest(&mut patience, fault).await?;
            maybe |= broken;
            if maybe && protocol::names_content(name.class()) {
                let size: u64 = parts.iter().map(|part| part.len() as u64).sum();
                let found = self.line.patiently(async |patience| self.length(name, patience).await).await;
                match found? {
                    Some(found) if found == size => return Ok(Created::New),
                    Some(_) => return Ok(Created::Exists),
                    None if matches!(name, Name::Pack(_)) => {
                        return Err(Error::new(ErrorKind::Unsettled, reason));
                    }
                    None => {}
                }
            }
        }
    }

    async fn get(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        self.line.patiently(async |patience| self.get_rest(name, range.as_ref(), out, patience).await).await
    }

    /// Reads what is not in `out` yet.
    async fn get_rest(
        &self,
        name: &Name,
        range: Option<&Range<u64>>,
        out: &mut Vec<u8>,
        patience: &mut ProgressTimeout,
    ) -> Result<(), RequestFault> {
        let mut ask = RequestParts::new(Method::GET, protocol::object_path(name));
        let start = range.map_or(0, |range| range.start);
        let from = start + out.len() as u64;
        match range {
            Some(range) if from >= range.end => return Ok(()),
            Some(range) => ask = ask.with(RANGE.as_str(), format!("bytes={from}-{}", range.end - 1)),
            None if from > 0 => ask = ask.with(RANGE.as_str(), format!("bytes={from}-{}", u64::MAX - 1)),
            None => {}
        }
        let mut answer = self.line.ask(&ask, patience).await?;
        let partial = answer.response.status().as_u16() == 206;
        if partial != ask.header.is_some() {
            return Err(RequestFault::Final(Error::new(ErrorKind::Io, "the server does not send what was asked for")));
        }
        let length = answer.response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let length =
            length.ok_or_else(|| RequestFault::Final(Error::new(ErrorKind::Io, "the server does not say how long it is")))?;
        if let Some(range) = range
            && length != range.end - from
        {
            return Err(RequestFault::Final(Error::corrupt(format!("it is shorter than {} bytes", range.end))));
        }
        let too_long = || RequestFault::Final(Error::corrupt("it is longer than any such object"));
        if range.is_none() && from.saturating_add(length) > protocol::max_object(name.class()) {
            return Err(too_long());
        }
        let end = usize::try_from(length).ok().and_then(|length| out.len().checked_add(length)).ok_or_else(too_long)?;
        // What is not here yet may never come.
        out.try_reserve((end - out.len()).min(AT_ONCE)).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        while let Some(bytes) = self.frame(&mut answer, patience).await? {
            if bytes.len() > end - out.len() {
                return Err(RequestFault::Final(Error::new(ErrorKind::Io, "the server sends more than was asked for")));
            }
            out.try_reserve(bytes.len()).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
            out.extend_from_slice(&bytes);
        }
        if out.len() < end { Err(RequestFault::broken("the answer was cut")) } else { Ok(()) }
    }

    fn listed(&self, class: Class) -> Result<ListedObjects> {
        let ask = RequestParts::new(Method::GET, protocol::list_path(class));
        let mut attempts = 0;
        let listed = self.wait(self.line.patiently(async |patience| {
            attempts += 1;
            self.one_list(&ask, class, patience).await.map_err(|fault| anew(fault, attempts))
        }));
        listed.map_err(|e| e.context(format!("cannot list {}/ in {}", class.prefix(), self.address)))
    }

    async fn one_list(
        &self,
        ask: &RequestParts,
        class: Class,
        patience: &mut ProgressTimeout,
    ) -> Result<ListedObjects, RequestFault> {
        let mut answer = self.line.ask(ask, patience).await?;
        let mut parser = ListParser::new(class);
        while let Some(bytes) = self.frame(&mut answer, patience).await? {
            parser.feed(&bytes)?;
        }
        parser.finish().map_err(RequestFault::Broken)
    }

    fn found(&self, method: Method) -> Result<Leftovers> {
        let body = self.call(&RequestParts::new(method, "/v1/leftovers"))?;
        let found: LeftoversFound = serde_json::from_slice(&body)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the server's answer makes no sense: {e}")))?;
        Ok(Leftovers { files: found.files, bytes: found.bytes })
    }
}

/// A fault of an answer that would begin anew: a server that cuts each one must not keep its client for ever.
fn anew(fault: RequestFault, attempts: u32) -> RequestFault {
    match fault {
        RequestFault::Broken(e) if attempts >= MOST_ATTEMPTS => {
            RequestFault::Final(e.context(format!("given up after {attempts} attempts")))
        }
        fault => fault,
    }
}

fn fault_text(fault: &RequestFault) -> String {
    match fault {
        RequestFault::NotSent(e) | RequestFault::Broken(e) | RequestFault::Later(e) | RequestFault::Final(e) => e.to_string(),
    }
}

impl Storage for RemoteStorage {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        self.wait(self.put(name, parts)).map_err(|e| e.context(format!("cannot write {name} in {}", self.address)))
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        let failed = |e: Error| e.context(format!("cannot read {name} in {}", self.address));
        out.clear();
        if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
            // HTTP has no empty ranges.
            let length = self.wait(self.line.patiently(async |patience| self.length(name, patience).await)).map_err(failed)?;
            return match length {
                Some(length) if range.end <= length => Ok(()),
                Some(_) => Err(failed(Error::corrupt(format!("it is shorter than {} bytes", range.end)))),
                None => Err(failed(Error::new(ErrorKind::NotFound, "it is not there"))),
            };
        }
        self.wait(self.get(name, range, out)).map_err(failed)
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        Ok(self.listed(class)?.objects.into_iter().map(|(name, size, _)| (name, size)).collect())
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.deleted.store(true, Ordering::SeqCst);
        let deleted = self.call(&RequestParts::new(Method::DELETE, protocol::object_path(name)));
        deleted.map(drop).map_err(|e| e.context(format!("cannot delete {name} in {}", self.address)))
    }

    fn sync(&self) -> Result<()> {
        // What was created was durable before it was acknowledged.
        match self.deleted.swap(false, Ordering::SeqCst) {
            true => self.sync_everything().inspect_err(|_| self.deleted.store(true, Ordering::SeqCst)),
            false => Ok(()),
        }
    }

    fn sync_everything(&self) -> Result<()> {
        let synced = self.call(&RequestParts::new(Method::POST, "/v1/sync"));
        synced.map(drop).map_err(|e| e.context(format!("cannot make new names durable in {}", self.address)))
    }

    fn free_space(&self) -> Result<Option<u64>> {
        Ok(self.about().map_err(|e| e.context(format!("cannot ask for the free space of {}", self.address)))?.free)
    }

    fn leftovers(&self, remove: bool) -> Result<Leftovers> {
        let method = if remove { Method::DELETE } else { Method::GET };
        self.found(method).map_err(|e| e.context(format!("cannot look for unfinished objects in {}", self.address)))
    }

    fn received(&self, class: Class) -> Result<Vec<(Name, Receipt)>> {
        let ListedObjects { objects, by } = self.listed(class)?;
        let mut by: std::collections::HashMap<Name, String> = by.into_iter().collect();
        Ok(objects.into_iter().map(|(name, _, at)| (name, Receipt { at, by: by.remove(&name) })).collect())
    }

    fn client(&self) -> Option<String> {
        self.client.clone()
    }

    fn costs(&self) -> Costs {
        let connections = self.line.connections();
        Costs {
            concurrency: connections.max(2) * PER_CONNECTION,
            small_at_once: connections.max(2) * SMALL_PER_CONNECTION,
            creates_at_once: connections.clamp(1, MOST_UPLOADS),
            worth_one_read: ONE_READ,
        }
    }

    fn describe(&self) -> String {
        self.address.to_string()
    }
}
