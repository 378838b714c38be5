//! One request and its answer, on one of a few connections.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::error::Elapsed;

use crate::error::{Error, ErrorKind, Result};
use crate::observe::Reports;
use crate::remote::client::body::RequestBody;
use crate::remote::client::fault::{LEFT_ALONE, ProgressTimeout, RequestFault};
use crate::remote::client::transport::{RequestSender, ServerTarget, cause, connect};
use crate::remote::protocol::{Code, REPOSITORY_HEADER, Refusal, VERSION, VERSION_HEADER};
use crate::remote::rate::Rate;

/// Bytes of an upload that are given to the connection at once.
const PIECE: usize = 32 << 10;
/// The longest body of a refusal.
const LONGEST_REFUSAL: usize = 64 << 10;
/// Attempts to connect to a server that never answered before.
const FIRST_ATTEMPTS: u32 = 3;

/// A connection, or the place for one.
#[derive(Default)]
struct ConnectionSlot {
    sender: tokio::sync::Mutex<Option<RequestSender>>,
    load: AtomicUsize,
}

/// When the server was last heard of, and when it was last given up.
#[derive(Debug, Clone, Copy)]
struct Health {
    heard: Instant,
    given_up: Option<Instant>,
}

/// What all requests to one repository share.
pub(crate) struct ConnectionPool {
    target: ServerTarget,
    /// What goes before the path.
    authority: String,
    repository: HeaderValue,
    token: Option<HeaderValue>,
    slots: Vec<ConnectionSlot>,
    /// Whether the server ever answered.
    known: AtomicBool,
    health: Mutex<Health>,
    /// How long one waits for progress.
    pub(crate) timeout: Duration,
    /// Limits of bytes a second, up and down.
    pub(crate) rates: (Option<Rate>, Option<Rate>),
    /// Where failed attempts are reported.
    pub(crate) reports: Reports,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct RequestParts {
    /// The method.
    pub(crate) method: Method,
    /// The path.
    pub(crate) path: String,
    /// One more header.
    pub(crate) header: Option<(&'static str, String)>,
}

impl RequestParts {
    /// A request.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        RequestParts { method, path: path.into(), header: None }
    }

    /// With a header.
    pub(crate) fn with(mut self, name: &'static str, value: String) -> Self {
        self.header = Some((name, value));
        self
    }
}

/// Counts a request of a connection while it lives.
struct LoadGuard<'a>(&'a ConnectionSlot);

impl Drop for LoadGuard<'_> {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer, and the load that it still is.
pub(crate) struct LoadedResponse<'a> {
    /// Status, headers, body.
    pub(crate) response: Response<Incoming>,
    loaded: LoadGuard<'a>,
}

impl ConnectionPool {
    /// A line to a repository.
    pub(crate) fn new(
        target: ServerTarget,
        authority: String,
        repository: &str,
        token: Option<&str>,
        connections: usize,
    ) -> Result<Self> {
        let header = |text: &str| HeaderValue::from_str(text);
        let repository = header(repository).map_err(|_| Error::invalid("the repository's name cannot be sent"))?;
        let token = token.map(|token| {
            let value = zeroize::Zeroizing::new(format!("Bearer {token}"));
            let mut value =
                header(&value).map_err(|_| Error::new(ErrorKind::Key, "the token has characters that no token has"))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let slots = (0..connections.max(1)).map(|_| ConnectionSlot::default()).collect();
        let (known, timeout, rates) = (AtomicBool::new(false), Duration::from_secs(60), (None, None));
        let health = Mutex::new(Health { heard: Instant::now(), given_up: None });
        let (token, reports) = (token.transpose()?, Reports::default());
        Ok(ConnectionPool { target, authority, repository, token, slots, known, health, timeout, rates, reports })
    }

    /// How many connections there may be.
    pub(crate) fn connections(&self) -> usize {
        self.slots.len()
    }

    /// Patience for one call. When another call has just given up, and nothing was heard since, there is none: a thousand
    /// calls must not wait for a dead server one after the other.
    pub(super) fn patience(&self) -> Result<ProgressTimeout> {
        let health = self.health();
        match health.given_up {
            Some(at) if at.elapsed() < (self.timeout / 4).min(LEFT_ALONE) => {
                let seconds = at.duration_since(health.heard).as_secs();
                Err(Error::new(
                    ErrorKind::Io,
                    format!("the server does not answer (nothing was heard of it for {seconds} seconds)"),
                ))
            }
            _ => Ok(ProgressTimeout::new(self.timeout)),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock()
    }

    /// Notes that the server answered, or sent or took bytes.
    pub(crate) fn heard(&self) {
        *self.health() = Health { heard: Instant::now(), given_up: None };
    }

    /// Notes that a call gave up, if no other heard anything for long, either.
    fn gives_up(&self) {
        let mut health = self.health();
        if health.heard.elapsed() >= self.timeout / 2 {
            health.given_up = Some(Instant::now());
        }
    }

    /// Tries until there is an answer, the time is over, or trying again would not help.
    pub(crate) async fn patiently<T>(
        &self,
        mut attempt: impl AsyncFnMut(&mut ProgressTimeout) -> Result<T, RequestFault>,
    ) -> Result<T> {
        let mut patience = self.patience()?;
        loop {
            let fault = match attempt(&mut patience).await {
                Ok(value) => return Ok(value),
                Err(RequestFault::Final(e)) => return Err(e),
                Err(fault) => fault,
            };
            self.rest(&mut patience, fault).await?;
        }
    }

    /// Waits before the next attempt, or says why there is none.
    pub(super) async fn rest(&self, patience: &mut ProgressTimeout, fault: RequestFault) -> Result<()> {
        let pause = patience.pause();
        let stranger = matches!(fault, RequestFault::NotSent(_)) && !self.known.load(Ordering::Relaxed);
        match pause {
            Some(pause) if !stranger || patience.attempts() < self.first_attempts() => {
                self.reports.note("", format!("trying again: {}", fault.error()));
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Some(_) => Err(fault.error()),
            None => {
                self.gives_up();
                let seconds = patience.timeout().as_secs_f32();
                let e = fault.error();
                let kind = e.kind();
                Err(Error::new(kind, format!("{e} (nothing moved for {seconds} seconds, the time of --timeout)")))
            }
        }
    }

    /// How often a server that never answered is tried. Over ssh once: ssh has printed why it failed, and the next attempt
    /// might ask for a passphrase again.
    fn first_attempts(&self) -> u32 {
        match self.target {
            ServerTarget::Ssh(_) => 1,
            ServerTarget::Tls { .. } => FIRST_ATTEMPTS,
        }
    }

    /// The connection with the least to do; new ones only when all others are busy.
    async fn slot(&self, wait: Duration) -> Result<(LoadGuard<'_>, RequestSender), RequestFault> {
        let least = self.slots.iter().min_by_key(|slot| slot.load.load(Ordering::Relaxed));
        let slot = least.ok_or_else(|| RequestFault::broken("there is none"))?;
        slot.load.fetch_add(1, Ordering::Relaxed);
        let loaded = LoadGuard(slot);
        let mut place = slot.sender.lock().await;
        if let Some(sender) = place.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((loaded, sender.clone()));
        }
        *place = None;
        let sender = connect(&self.target, wait).await?;
        *place = Some(sender.clone());
        Ok((loaded, sender))
    }

    /// Does not use the connection of a request any more that got no answer: it may be dead without knowing.
    async fn drop_connection(&self, loaded: &LoadGuard<'_>) {
        if let Ok(mut place) = loaded.0.sender.try_lock() {
            *place = None;
        }
    }

    /// Does not use the connection of an answer any more.
    pub(crate) async fn give_up(&self, answer: &LoadedResponse<'_>) {
        self.drop_connection(&answer.loaded).await;
    }

    fn request(&self, ask: &RequestParts, body: RequestBody) -> Result<Request<RequestBody>, RequestFault> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("https://{}{}", self.authority, ask.path))
            .header(hyper::header::HOST, &self.authority)
            .header(VERSION_HEADER, VERSION)
            .header(REPOSITORY_HEADER, self.repository.clone());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if let Some((name, value)) = &ask.header {
            request = request.header(*name, value);
        }
        request.body(body).map_err(|e| RequestFault::Final(Error::invalid(format!("the request cannot be made: {e}"))))
    }

    /// Sends a request without a body.
    pub(crate) async fn ask(
        &self,
        ask: &RequestParts,
        patience: &mut ProgressTimeout,
    ) -> Result<LoadedResponse<'_>, RequestFault> {
        let (loaded, mut sender) = self.slot(patience.wait()).await?;
        let request = self.request(ask, RequestBody::none())?;
        let answered = self.answered(patience, &loaded, sender.send(request)).await?;
        self.judge(answered, loaded, patience).await
    }

    async fn answered<T>(
        &self,
        patience: &ProgressTimeout,
        loaded: &LoadGuard<'_>,
        answer: impl Future<Output = hyper::Result<T>>,
    ) -> Result<T, RequestFault> {
        self.arrived(loaded, tokio::time::timeout(patience.wait(), answer).await).await
    }

    /// An answer that was waited for. The outer error says that none came in time; without an answer the connection is
    /// not used any more.
    async fn arrived<T, E>(&self, loaded: &LoadGuard<'_>, answer: Result<hyper::Result<T>, E>) -> Result<T, RequestFault> {
        let fault = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => RequestFault::broken(cause(&e)),
            Err(_) => RequestFault::Broken(Error::new(ErrorKind::Io, "the server does not answer")),
        };
        self.drop_connection(loaded).await;
        Err(fault)
    }

    /// Sends a request with a body, in pieces.
    pub(crate) async fn upload(
        &self,
        ask: &RequestParts,
        parts: &[&[u8]],
        patience: &mut ProgressTimeout,
    ) -> Result<LoadedResponse<'_>, RequestFault> {
        let (loaded, mut sender) = self.slot(patience.wait()).await?;
        let length = parts.iter().map(|part| part.len() as u64).sum();
        let (pieces, body) = RequestBody::measured(length);
        let request = self.request(ask, body)?;
        let written = sender.written.clone();
        let mut answer = std::pin::pin!(sender.send(request));
        let mut whole = true;
        for piece in parts.iter().flat_map(|part| part.chunks(PIECE)) {
            if let Some(rate) = &self.rates.0 {
                rate.take(piece.len()).await;
                patience.progress(piece.len());
            }
            let room = async { pieces.send(Bytes::copy_from_slice(piece)).await.is_ok() };
            tokio::select! {
                biased;
                taken = while_moving(patience, &written, room) => match taken {
                    Ok(true) => {
                        self.heard();
                        patience.progress(piece.len());
                    }
                    // The connection has let go of the body: the answer says why.
                    Ok(false) => {
                        whole = false;
                        break;
                    }
                    Err(_) => {
                        self.drop_connection(&loaded).await;
                        return Err(RequestFault::Broken(Error::new(ErrorKind::Io, "the server takes nothing more")));
                    }
                },
                // A refusal need not wait for the rest of the body.
                answered = &mut answer => {
                    let answered = answered.map_err(|e| RequestFault::broken(cause(&e)))?;
                    return self.judge_early(answered, loaded, patience).await;
                }
            }
        }
        drop(pieces);
        // Most of a body may still be here when all of it has been given away.
        let answered = while_moving(patience, &written, answer.as_mut()).await;
        let answered = self.arrived(&loaded, answered).await?;
        match whole {
            true => self.judge(answered, loaded, patience).await,
            false => self.judge_early(answered, loaded, patience).await,
        }
    }

    /// As [`ConnectionPool::judge`], of an answer that came before the whole body was given away: nobody can have stored what they do
    /// not have, so it is no success, whatever it says.
    async fn judge_early<'a>(
        &'a self,
        response: Response<Incoming>,
        loaded: LoadGuard<'a>,
        patience: &mut ProgressTimeout,
    ) -> Result<LoadedResponse<'a>, RequestFault> {
        let answer = self.judge(response, loaded, patience).await?;
        self.give_up(&answer).await;
        let text = "the server says that it has an object before all of it was sent: it is not to be trusted with it";
        Err(RequestFault::Final(Error::new(ErrorKind::Io, text)))
    }

    /// Whether an answer is of our server, and is one that helps.
    async fn judge<'a>(
        &'a self,
        mut response: Response<Incoming>,
        loaded: LoadGuard<'a>,
        patience: &mut ProgressTimeout,
    ) -> Result<LoadedResponse<'a>, RequestFault> {
        let said = response.headers().get(VERSION_HEADER).and_then(|v| v.to_str().ok()?.parse::<u32>().ok());
        if said.is_none() {
            return Err(RequestFault::Final(stranger(&response)));
        }
        self.known.store(true, Ordering::Relaxed);
        self.heard();
        if response.status().is_success() {
            return match said {
                Some(VERSION) => Ok(LoadedResponse { response, loaded }),
                _ => Err(RequestFault::Final(Error::new(ErrorKind::Unsupported, other_version(said.unwrap_or_default())))),
            };
        }
        let mut body = Vec::new();
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(patience.wait(), response.body_mut().frame()).await {
            let Ok(bytes) = frame.into_data() else { continue };
            body.extend_from_slice(&bytes);
            if body.len() > LONGEST_REFUSAL {
                break;
            }
        }
        Err(refused(response.status().as_u16(), &body))
    }
}

/// Waits for `work` until the timeout; bytes that the connection takes meanwhile are progress and extend it.
async fn while_moving<T>(
    patience: &mut ProgressTimeout,
    written: &AtomicU64,
    work: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let mut work = std::pin::pin!(work);
    let mut before = written.load(Ordering::Relaxed);
    loop {
        let late = match tokio::time::timeout(patience.wait(), work.as_mut()).await {
            Ok(done) => return Ok(done),
            Err(late) => late,
        };
        let now = written.load(Ordering::Relaxed);
        if !patience.moved(now.saturating_sub(before)) {
            return Err(late);
        }
        before = now;
    }
}

fn other_version(said: u32) -> String {
    let older = if said > VERSION { "this program" } else { "the server" };
    format!("the server speaks protocol {said} and this program {VERSION}: update {older}")
}

fn stranger(response: &Response<Incoming>) -> Error {
    let kind = response.headers().get(CONTENT_TYPE).map(|v| crate::model::escape(v.as_bytes())).unwrap_or_default();
    let text = format!("what answers there is not yester serve: it says {} {kind}", response.status());
    Error::new(ErrorKind::Unsupported, text.trim_end().to_owned())
}

fn refused(status: u16, body: &[u8]) -> RequestFault {
    // HEAD has no body: only the status tells why.
    let code = match status {
        401 => Code::Unauthorized,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        408 => Code::TooSlow,
        429 => Code::TooMany,
        503 => Code::Unavailable,
        504 => Code::Unsettled,
        _ => Code::Failed,
    };
    let refusal = serde_json::from_slice(body).unwrap_or_else(|_| Refusal::new(code, format!("the server answers {status}")));
    let text = format!("the server says: {}", crate::model::escape(refusal.message.as_bytes()));
    match refusal.error {
        Code::TooMany | Code::Unavailable | Code::TooSlow => RequestFault::Later(Error::new(ErrorKind::Io, text)),
        // As if the answer had been lost: the client looks for the object.
        Code::Unsettled => RequestFault::Broken(Error::new(ErrorKind::Io, text)),
        code => RequestFault::Final(Error::new(code.kind(), text)),
    }
}
