//! HTTP to an object store, for the library that speaks S3: connections that are kept, limits, time-outs, counts.
//!
//! Every answer that is no success becomes an error that holds it ([`S3Refusal`]): the library never sees a status, so none
//! of its own rules about statuses apply.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::error::{Error, ErrorKind};
use crate::remote::client::fault::LEFT_ALONE;
use crate::remote::rate::Rate;
use crate::remote::s3::address::StoreKind;
use crate::remote::s3::connect::{self, S3Sender};
use crate::remote::s3::counts::{self, RequestCounts};
use crate::remote::s3::fault::{NotSent, S3Refusal};
use crate::remote::s3::{google, list};

/// The longest body of a refusal that is read.
const LONGEST_REFUSAL: usize = 64 << 10;
/// The longest page of a list.
const LONGEST_LIST: usize = 16 << 20;

/// What all requests to a store share.
#[derive(Debug)]
pub(crate) struct HttpContext {
    /// What certificates are believed.
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// How long a request goes on without progress.
    pub(crate) timeout: Duration,
    /// Limits of what goes and of what comes.
    pub(crate) rates: (Option<Arc<Rate>>, Option<Arc<Rate>>),
    /// The host and port of the store's endpoint: what goes elsewhere is about credentials, and does not count.
    pub(crate) host: String,
    /// What the store speaks.
    pub(crate) kind: StoreKind,
    /// How many requests may be under way.
    pub(crate) permits: Arc<Semaphore>,
    /// What was asked.
    pub(crate) counts: RequestCounts,
    /// The storage classes of objects that are listed, by their keys, while somebody wants to know.
    pub(crate) classes: Mutex<Option<HashMap<String, String>>>,
    /// What the store calls itself.
    pub(crate) server: Mutex<Option<String>>,
    /// When the store was heard last, and whether somebody has given it up since.
    pub(crate) health: Mutex<StoreHealth>,
    /// Connections that nobody uses now, with where they lead.
    pub(crate) idle: Mutex<Vec<(String, S3Sender)>>,
}

/// How a store is.
#[derive(Debug)]
pub(crate) struct StoreHealth {
    /// When something came of it.
    heard: Instant,
    /// When a request gave it up, if nothing came of it since.
    given_up: Option<Instant>,
}

impl Default for StoreHealth {
    fn default() -> Self {
        StoreHealth { heard: Instant::now(), given_up: None }
    }
}

impl HttpContext {
    fn heard(&self) {
        *self.health.lock() = StoreHealth::default();
    }

    /// A request gave the store up. That says something of others, if nothing was heard of it for long.
    pub(super) fn gives_up(&self) {
        let mut health = self.health.lock();
        if health.heard.elapsed() >= self.timeout / 2 {
            health.given_up = Some(Instant::now());
        }
    }

    /// For how long nothing has come of the store, if it was given up a moment ago: a thousand readers must not wait for
    /// it one after the other.
    pub(super) fn is_left_alone(&self) -> Option<Duration> {
        let health = self.health.lock();
        let recent = |at: &Instant| at.elapsed() < (self.timeout / 4).min(LEFT_ALONE);
        health.given_up.filter(recent).map(|_| health.heard.elapsed())
    }
}

/// Requests of one kind: to the store, or to what gives credentials.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) shared: Arc<HttpContext>,
    /// How long to wait for a connection.
    pub(crate) connecting: Duration,
}

fn failed(kind: HttpErrorKind, text: impl Into<String>) -> HttpError {
    HttpError::new(kind, Error::new(ErrorKind::Io, text))
}

fn not_sent(e: Error) -> HttpError {
    HttpError::new(HttpErrorKind::Connect, NotSent(e))
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let shared = &self.shared;
        let permit = shared.permits.clone().acquire_owned().await.map_err(|e| failed(HttpErrorKind::Unknown, e.to_string()))?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let store = request.uri().authority().is_some_and(|authority| authority.as_str().ends_with(&shared.host));
        if store {
            shared.counts.request(request.method(), &query);
        }
        let place = connect::place(request.uri()).map_err(not_sent)?;
        let moved = Arc::new(AtomicU64::new(0));
        let request = self.prepare(request, &place.host, store, &moved)?;
        let sent = self.send(request, &place, &moved).await;
        let (response, sender) = sent.map_err(|e| if store { e } else { no_credentials(shared.kind, &e) })?;
        if store {
            shared.heard();
        }
        if let (true, Some(server)) = (store, response.headers().get(hyper::header::SERVER)) {
            *shared.server.lock() = server.to_str().ok().map(str::to_owned);
        }
        let status = response.status();
        let lists = store && counts::is_list(&query);
        let (parts, incoming) = response.into_parts();
        let body = Coming {
            incoming,
            shared: shared.clone(),
            counted: store,
            back: Some((place.key, sender)),
            _permit: permit,
            waiting: None,
            deadline: None,
        };
        if !status.is_success() {
            let text = collect(body, LONGEST_REFUSAL).await.unwrap_or_default();
            let mut refusal = S3Refusal::parse(status.as_u16(), &text);
            // What answers a HEAD has no body; Azure says why all the same.
            if let (true, Some(code)) = (refusal.code.is_empty(), parts.headers.get("x-ms-error-code")) {
                refusal.code = code.to_str().unwrap_or_default().chars().take(100).collect();
            }
            let e = HttpError::new(HttpErrorKind::Unknown, refusal);
            return Err(if store { e } else { no_credentials(shared.kind, &e) });
        }
        if parts.headers.get(hyper::header::CONTENT_RANGE).is_some_and(|range| is_empty_end(range.to_str().unwrap_or_default())) {
            return Err(HttpError::new(HttpErrorKind::Unknown, S3Refusal::parse(416, b"")));
        }
        if lists {
            let page = collect(body, LONGEST_LIST).await?;
            whole_page(shared.kind, &page)?;
            if let Some(classes) = &mut *shared.classes.lock() {
                classes.extend(match shared.kind {
                    StoreKind::Azure => list::access_tiers(&page),
                    StoreKind::S3 | StoreKind::Google => list::storage_classes(&page),
                });
            }
            return Ok(Response::from_parts(parts, HttpResponseBody::from(Bytes::from(page))));
        }
        Ok(Response::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Service {
    /// The request in the form that HTTP/1.1 has on the wire.
    fn prepare(
        &self,
        request: HttpRequest,
        host: &str,
        counted: bool,
        moved: &Arc<AtomicU64>,
    ) -> Result<Request<Going>, HttpError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        parts.uri = path.parse().map_err(|_| failed(HttpErrorKind::Unknown, "the request has no path"))?;
        let host = host.parse().map_err(|_| failed(HttpErrorKind::Unknown, "the host's name is none"))?;
        parts.headers.insert(hyper::header::HOST, host);
        if counted && parts.method == Method::PUT && self.shared.kind == StoreKind::Google {
            let digest = google::digest(body.clone()).map_err(|e| failed(HttpErrorKind::Unknown, e.to_string()))?;
            parts.headers.insert("content-md5", digest);
        }
        let shared = self.shared.clone();
        let going = Going { inner: body, shared, counted, moved: moved.clone(), waiting: None, next: None };
        Ok(Request::from_parts(parts, going))
    }

    /// Sends the request over a connection that is there, or a new one. One that the other side has closed meanwhile, so
    /// that nothing was sent, is replaced.
    async fn send(
        &self,
        mut request: Request<Going>,
        place: &connect::RequestTarget,
        moved: &AtomicU64,
    ) -> Result<(Response<Incoming>, S3Sender), HttpError> {
        loop {
            let (mut sender, kept) = match self.kept(&place.key) {
                Some(sender) => (sender, true),
                None => {
                    let made = tokio::time::timeout(self.connecting, connect::connect(place, &self.shared.tls)).await;
                    let late = |_| Error::new(ErrorKind::Io, format!("{} does not answer", place.host));
                    (made.map_err(late).and_then(|made| made).map_err(not_sent)?, false)
                }
            };
            let answered = self.answered(&mut sender, request, moved).await?;
            match answered {
                Ok(response) => return Ok((response, sender)),
                Err(mut e) => match e.take_message() {
                    Some(back) if kept => request = back,
                    Some(_) => return Err(not_sent(Error::new(ErrorKind::Io, connect::cause(e.error())))),
                    None => return Err(failed(HttpErrorKind::Interrupted, broke(connect::cause(e.error())))),
                },
            }
        }
    }

    /// Waits for the answer as long as something moves.
    async fn answered(&self, sender: &mut S3Sender, request: Request<Going>, moved: &AtomicU64) -> Result<Answered, HttpError> {
        let sent = sender.try_send_request(request);
        tokio::pin!(sent);
        let (mut last, mut since) = (moved.load(Ordering::Relaxed), Instant::now());
        loop {
            let pause = (self.shared.timeout / 4).min(Duration::from_secs(5));
            if let Ok(answered) = tokio::time::timeout(pause, &mut sent).await {
                return Ok(answered);
            }
            let now = moved.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() >= self.shared.timeout / 2 {
                return Err(failed(HttpErrorKind::Timeout, "the store does not answer"));
            }
        }
    }

    fn kept(&self, key: &str) -> Option<S3Sender> {
        let mut idle = self.shared.idle.lock();
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().rposition(|(place, sender)| place == key && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }
}

/// What gives credentials does not: nothing can be asked of the store then. It is there and has no time: later it may.
fn no_credentials(kind: StoreKind, e: &HttpError) -> HttpError {
    let cause = std::error::Error::source(e);
    let why = cause.map(ToString::to_string).unwrap_or_default();
    let busy = |refusal: &S3Refusal| refusal.status == 429 || refusal.status >= 500;
    if cause.and_then(|cause| cause.downcast_ref()).is_some_and(busy) {
        return not_sent(Error::new(ErrorKind::Io, format!("what gives the credentials for the object store does not: {why}")));
    }
    let how = match kind {
        StoreKind::S3 => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or keep a profile in ~/.aws/credentials (AWS_PROFILE names \
             another than default)"
        }
        StoreKind::Google => {
            "let GOOGLE_APPLICATION_CREDENTIALS name the file of a service account, or run: gcloud auth \
             application-default login"
        }
        StoreKind::Azure => "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    };
    let text = format!("there are no credentials for the object store: {how}; asked for others: {why}");
    not_sent(Error::new(ErrorKind::Key, text))
}

type Answered = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<Going>>>;

fn broke(why: impl std::fmt::Display) -> String {
    format!("the connection broke: {why}")
}

/// A page of a list that is not all there, or that says it goes on and not where, must not pass for the end.
fn whole_page(kind: StoreKind, page: &[u8]) -> Result<(), HttpError> {
    let text = String::from_utf8_lossy(page);
    let not_whole = || failed(HttpErrorKind::Interrupted, "the store's list is not whole");
    if kind == StoreKind::Azure {
        // Where the next page begins is always said; nowhere is empty.
        let whole = text.trim_end().ends_with("</EnumerationResults>") && text.contains("<NextMarker");
        return whole.then_some(()).ok_or_else(not_whole);
    }
    let goes_on = text.contains("<IsTruncated>true</IsTruncated>");
    let ends = text.contains("<IsTruncated>false</IsTruncated>");
    let whole = text.trim_end().ends_with("</ListBucketResult>");
    match whole && goes_on != ends && goes_on == text.contains("<NextContinuationToken>") {
        true => Ok(()),
        false => Err(not_whole()),
    }
}

/// Whether an answer's range is nothing, at the very end: Azure's emulator answers so to what begins there.
fn is_empty_end(range: &str) -> bool {
    let parted = range.strip_prefix("bytes ").and_then(|rest| rest.split_once('/'));
    parted.is_some_and(|(part, whole)| part.split_once('-').is_some_and(|(first, _)| first == whole))
}

/// The bytes of a body, so many at most.
async fn collect(mut body: Coming, most: usize) -> Result<Vec<u8>, HttpError> {
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        out.extend_from_slice(&bytes);
        if out.len() > most {
            return Err(failed(HttpErrorKind::Unknown, "the store's answer is too long"));
        }
    }
    Ok(out)
}

/// The body of a request, at the rate that is allowed.
pub(crate) struct Going {
    inner: HttpRequestBody,
    shared: Arc<HttpContext>,
    counted: bool,
    moved: Arc<AtomicU64>,
    waiting: Option<Pin<Box<Sleep>>>,
    /// What goes when the wait is over.
    next: Option<Frame<Bytes>>,
}

impl Body for Going {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if self.next.is_none() {
            let frame = match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if self.counted {
                self.shared.counts.sent(bytes);
            }
            self.waiting = wait(self.shared.rates.0.as_deref(), bytes);
            self.next = Some(frame);
        }
        if let Some(sleep) = &mut self.waiting {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.waiting = None;
        }
        self.moved.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(self.next.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.next.as_ref().and_then(Frame::data_ref).map_or(0, |bytes| bytes.len() as u64);
        SizeHint::with_exact(self.inner.size_hint().lower() + waiting)
    }
}

fn wait(rate: Option<&Rate>, bytes: usize) -> Option<Pin<Box<Sleep>>> {
    let pause = rate?.reserve(bytes, Instant::now());
    (!pause.is_zero()).then(|| Box::pin(tokio::time::sleep(pause)))
}

/// The body of an answer. When it is all here, its connection serves others.
struct Coming {
    incoming: Incoming,
    shared: Arc<HttpContext>,
    counted: bool,
    back: Option<(String, S3Sender)>,
    _permit: OwnedSemaphorePermit,
    /// The wait that a limit asks for.
    waiting: Option<Pin<Box<Sleep>>>,
    /// When what comes next is too late.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Coming {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(next) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.deadline = None;
            return Poll::Ready(
                next.map(|frame| frame.map_err(|e| failed(HttpErrorKind::Interrupted, broke(connect::cause(&e))))),
            );
        }
        let timeout = self.shared.timeout / 2;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        std::task::ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(failed(HttpErrorKind::Timeout, "the store sends nothing more"))))
    }
}

impl Body for Coming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Some(sleep) = &mut self.waiting {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.waiting = None;
        }
        let next = std::task::ready!(self.poll_next(cx));
        match &next {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if self.counted {
                    self.shared.counts.received(bytes);
                    self.shared.heard();
                }
                self.waiting = wait(self.shared.rates.1.as_deref(), bytes);
            }
            Some(Err(_)) => self.back = None,
            None => {}
        }
        if self.incoming.is_end_stream()
            && let Some(back) = self.back.take()
        {
            self.shared.idle.lock().push(back);
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(back) = self.back.take()
        {
            self.shared.idle.lock().push(back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_nothing_at_the_end_is_beyond_it() {
        assert!(is_empty_end("bytes 5-4/5"));
        assert!(!["bytes 4-4/5", "bytes 0-4/5", "bytes */5", "5-4/5", ""].into_iter().any(is_empty_end));
    }

    #[test]
    fn a_page_of_azures_is_whole_when_it_says_where_to_go_on() {
        let page = |next: &str| format!("<EnumerationResults><Blobs />{next}</EnumerationResults>\n");
        for next in ["<NextMarker />", "<NextMarker></NextMarker>", "<NextMarker>2!4!a</NextMarker>"] {
            assert!(whole_page(StoreKind::Azure, page(next).as_bytes()).is_ok(), "{next}");
        }
        let cut = page("<NextMarker />").replace("</EnumerationResults>", "");
        for bad in [page(""), cut, String::new()] {
            assert!(whole_page(StoreKind::Azure, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
