//! Connections: each is served until it ends, stands still, or the server stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body as HttpBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch as channel};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::remote::protocol::{self, Code, Refusal};
use crate::serve::api;
use crate::serve::objects::Server;
use crate::serve::objects::body::Measured;
use crate::serve::objects::gate::group;
use crate::serve::objects::limits::Limits;
use crate::serve::objects::metrics::add;
use crate::serve::objects::routes::router;
use crate::serve::objects::watch::{Activity, Watched};
use crate::sys::socket;

/// How often connections are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a listener's connections share.
pub(crate) struct Listener {
    /// The socket.
    pub(crate) socket: TcpListener,
    /// How TLS is spoken; `None`: not at all.
    pub(crate) tls: Option<TlsAcceptor>,
}

/// Takes connections until `stop`, and then waits for what is under way.
pub(crate) async fn serve(server: Arc<Server>, listener: Listener, mut stop: channel::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let router = router(server.clone());
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            _ = tasks.join_next(), if !tasks.is_empty() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, most likely: those that end make room.
                if server.journal.wants("accept") {
                    tracing::warn!(error = %e, "cannot accept a connection");
                }
                server.gate.make_room();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        add(&server.metrics.accepted, 1);
        number += 1;
        let activity = Arc::new(Activity::default());
        server.made_room(server.gate.enter(number, peer.ip(), activity.clone()));
        let guest = Arc::new(Guest { number, peer, activity });
        let connection = Connection { server: server.clone(), router: router.clone(), guest, stop: stop.clone() };
        let (go, started) = oneshot::channel();
        let tls = listener.tls.clone();
        let handle = tasks.spawn(async move {
            let connection = Left(connection);
            // Not before the gate knows whom it may cut.
            let _ = started.await;
            connection.0.run(stream, tls).await;
        });
        server.gate.watch(number, handle);
        let _ = go.send(());
    }
    drop(listener);
    server.ending.send_replace(true);
    let patience = server.limits.stopping;
    let _ = tokio::time::timeout(patience, async { while tasks.join_next().await.is_some() {} }).await;
    if !tasks.is_empty() {
        tracing::warn!(connections = tasks.len(), "cut what did not end in time");
    }
}

/// Leaves the gate when it goes, however it goes.
struct Left(Connection);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.server.gate.leave(self.0.guest.number);
    }
}

/// The peer of a connection, as far as it is known.
#[derive(Debug)]
pub(crate) struct Guest {
    number: u64,
    peer: SocketAddr,
    activity: Arc<Activity>,
}

impl Guest {
    /// What counts as its address.
    fn address(&self) -> String {
        group(self.peer.ip()).to_string()
    }
}

/// The sender of a request. Its token is set once the request is authorized.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    guest: Arc<Guest>,
    token: Arc<OnceLock<String>>,
}

impl Asker {
    /// The token is good: the connection counts as this token's from now on, and not when the answer is out.
    pub(crate) fn admit(&self, server: &Server, token: &str) {
        let _ = self.token.set(token.to_owned());
        if self.guest.activity.admit() {
            server.made_room(server.gate.known(self.guest.number, token));
        }
    }
}

struct Connection {
    server: Arc<Server>,
    router: Router,
    guest: Arc<Guest>,
    stop: channel::Receiver<bool>,
}

impl Connection {
    async fn run(&self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        socket::keep_little_unsent(&stream);
        // Who says nothing costs no more than this.
        let patience = self.server.limits.first_request;
        match tokio::time::timeout(patience, stream.peek(&mut [0])).await {
            Ok(Ok(1)) => self.server.made_room(self.server.gate.speaks(self.guest.number)),
            Ok(_) => return,
            Err(_) => return self.cut("it said nothing"),
        }
        Box::pin(self.converse(stream, tls)).await;
    }

    async fn converse(&self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let stream = Watched::new(stream, self.guest.activity.clone());
        let left = self.server.limits.first_request.saturating_sub(self.guest.activity.age());
        match tls {
            None => self.serve(stream).await,
            Some(tls) => match tokio::time::timeout(left, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.serve(stream).await,
                Ok(Err(e)) => tracing::debug!(peer = %self.guest.peer, error = %e, "no TLS came of a connection"),
                Err(_) => self.cut("it did not finish the TLS handshake"),
            },
        }
    }

    fn cut(&self, why: &str) {
        add(&self.server.metrics.cut, 1);
        if self.server.journal.wants(&self.guest.address()) {
            tracing::info!(peer = %self.guest.peer, why, "cut a connection");
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (server, router, guest) = (self.server.clone(), self.router.clone(), self.guest.clone());
        let service = service_fn(move |request| answer(server.clone(), router.clone(), guest.clone(), request));
        let builder = builder(&self.server.limits);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut look = tokio::time::interval(LOOK);
        let mut stop = self.stop.clone();
        let mut stopping = false;
        let activity = &self.guest.activity;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(e) = ended {
                        tracing::debug!(peer = %self.guest.peer, error = %e, "a connection ended");
                    }
                    return;
                }
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => {
                    if let Some(why) = reason_to_cut(activity, &self.server.limits) {
                        return self.cut(why);
                    }
                    if activity.is_idle(self.server.limits.keep) {
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}

fn reason_to_cut(activity: &Activity, limits: &Limits) -> Option<&'static str> {
    if !activity.is_admitted() && activity.age() > limits.first_request {
        return Some("no authorized request came in time");
    }
    let stuck = activity.is_stuck(limits.idle, limits.least_rate) || activity.has_stuck_flow(limits.idle);
    stuck.then_some("it does not take what it is sent")
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.first_request).max_headers(64).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(protocol::MAX_HEADERS)
        .max_concurrent_streams(128)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .max_frame_size(64 << 10)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(limits.idle);
    builder
}

/// Serves the one connection of standard input and output.
pub(crate) async fn serve_stdio(server: Arc<Server>) -> std::io::Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(protocol::GREETING.as_bytes()).await?;
    output.flush().await?;
    let stream = tokio::io::join(tokio::io::stdin(), output);
    converse(server, stream).await
}

/// A peer for requests that come without a network connection.
fn nobody() -> Arc<Guest> {
    Arc::new(Guest { number: 0, peer: SocketAddr::from(([0, 0, 0, 0], 0)), activity: Arc::default() })
}

/// Serves one client that is at the other end of a stream, and no other.
async fn converse(server: Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> std::io::Result<()> {
    let (router, limits, guest) = (router(server.clone()), server.limits.clone(), nobody());
    let service = service_fn(move |request| answer(server.clone(), router.clone(), guest.clone(), request));
    builder(&limits).serve_connection(TokioIo::new(stream), service).await.map_err(std::io::Error::other)
}

/// Answers one request that came over no network.
pub(crate) async fn answer_alone(server: &Arc<Server>, request: Request<Full<Bytes>>) -> Response<Measured> {
    match answer(server.clone(), router(server.clone()), nobody(), request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Answers a request, and writes it down.
async fn answer<B>(
    server: Arc<Server>,
    router: Router,
    guest: Arc<Guest>,
    mut request: Request<B>,
) -> Result<Response<Measured>, Infallible>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let (began, busy) = (Instant::now(), guest.activity.request());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let refused = precheck(&request).err();
    let asker = Asker { guest, token: Arc::default() };
    request.extensions_mut().insert(asker.clone());
    let mut response = match refused {
        Some(refusal) if api::is_path(uri.path()) => api::problem(&refusal),
        Some(refusal) => refusal.into_response(),
        None => match router.clone().call(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    let status = response.status().as_u16();
    response.headers_mut().insert(protocol::VERSION_HEADER, HeaderValue::from(protocol::VERSION));
    server.metrics.answer(status);
    if let Some(code) = response.extensions().get::<Code>() {
        server.metrics.refusal(asker.token.get().map_or("-", String::as_str), *code);
    }
    log(&server, &asker, &method, &uri, status, began.elapsed());
    let flow = asker.guest.activity.flow();
    Ok(response.map(|body| Measured::new(body, flow, busy)))
}

fn log(server: &Server, asker: &Asker, method: &Method, uri: &Uri, status: u16, took: Duration) {
    let token = asker.token.get().map_or("-", String::as_str);
    let who = if token == "-" { asker.guest.address() } else { token.to_owned() };
    if status >= 400 && !server.journal.wants(&who) {
        return;
    }
    // The path comes from a stranger.
    let path: String = uri.path().chars().take(120).flat_map(char::escape_default).collect();
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let peer = asker.guest.peer;
    match status {
        500.. => tracing::error!(%peer, token, %method, path, status, millis, "request"),
        400.. => tracing::info!(%peer, token, %method, path, status, millis, "request"),
        _ => tracing::debug!(%peer, token, %method, path, status, millis, "request"),
    }
}

/// Checks the form of a request before its token is looked at.
fn precheck<B>(request: &Request<B>) -> Result<(), Refusal> {
    let path = request.uri().path();
    if path == "/healthz" || path == "/metrics" {
        return Ok(());
    }
    let size: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    if size > protocol::MAX_HEADERS as usize {
        return Err(Refusal::new(Code::Invalid, "the headers are too long"));
    }
    if api::is_path(path) { Ok(()) } else { version(request.headers(), path) }
}

fn version(headers: &HeaderMap, path: &str) -> Result<(), Refusal> {
    let own = protocol::VERSION;
    let said = headers.get(protocol::VERSION_HEADER).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    match said {
        Some(said) if said == own && path.starts_with("/v1/") => Ok(()),
        Some(said) if said != own => {
            let older = if said > own { "server" } else { "client" };
            let text = format!("the server speaks protocol {own} and the client {said}: update the {older}");
            Err(Refusal::new(Code::Version, text))
        }
        _ => Err(Refusal::new(Code::Invalid, "this is a yester server: its repositories are for yester --repo")),
    }
}
