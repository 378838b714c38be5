//! Connections: each is served until it ends, stands still, or the server stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use axum::response::IntoResponse;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch as channel};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::net::protocol::{self, Code, Refusal};
use crate::net::server::Server;
use crate::net::server::limits::Limits;
use crate::net::server::metrics::add;
use crate::net::server::routes::router;
use crate::net::server::watch::{Activity, Busy, Watched};

/// How often connections are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a listener's connections share.
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// How TLS is spoken; `None`: not at all.
    pub tls: Option<TlsAcceptor>,
}

/// Takes connections until `stop`, and then waits for what is under way.
pub async fn serve(server: Arc<Server>, listener: Listener, mut stop: channel::Receiver<bool>) {
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
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if !server.gate.enter() {
            tracing::warn!(%peer, "refused a connection: there are too many");
            continue;
        }
        add(&server.metrics.accepted, 1);
        number += 1;
        let connection = Connection { server: server.clone(), router: router.clone(), peer, number, stop: stop.clone() };
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
        self.0.server.gate.leave(self.0.number);
    }
}

struct Connection {
    server: Arc<Server>,
    router: Router,
    peer: SocketAddr,
    number: u64,
    stop: channel::Receiver<bool>,
}

impl Connection {
    async fn run(&self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        let activity = Arc::new(Activity::default());
        let stream = Watched::new(stream, activity.clone());
        match tls {
            None => self.serve(stream, activity).await,
            Some(tls) => match tokio::time::timeout(self.server.limits.first_request, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.serve(stream, activity).await,
                Ok(Err(e)) => tracing::debug!(peer = %self.peer, error = %e, "no TLS came of a connection"),
                Err(_) => self.cut("it did not finish the TLS handshake"),
            },
        }
    }

    fn cut(&self, why: &str) {
        add(&self.server.metrics.cut, 1);
        tracing::info!(peer = %self.peer, why, "cut a connection");
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, activity: Arc<Activity>) {
        let (server, router, number) = (self.server.clone(), self.router.clone(), self.number);
        let (seen, peer) = (activity.clone(), self.peer.to_string());
        let service =
            service_fn(move |request| answer(server.clone(), router.clone(), number, seen.clone(), peer.clone(), request));
        let builder = builder(&self.server.limits);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut look = tokio::time::interval(LOOK);
        let mut stop = self.stop.clone();
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(e) = ended {
                        tracing::debug!(peer = %self.peer, error = %e, "a connection ended");
                    }
                    return;
                }
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => {
                    if let Some(why) = reason_to_cut(&activity, &self.server.limits) {
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
    activity.is_stuck(limits.idle, limits.least_rate).then_some("it does not take what it is sent")
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
pub async fn serve_stdio(server: Arc<Server>) -> std::io::Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(protocol::GREETING.as_bytes()).await?;
    output.flush().await?;
    let stream = tokio::io::join(tokio::io::stdin(), output);
    let (router, activity) = (router(server.clone()), Arc::new(Activity::default()));
    let limits = server.limits.clone();
    let service =
        service_fn(move |request| answer(server.clone(), router.clone(), 0, activity.clone(), "stdio".to_owned(), request));
    builder(&limits).serve_connection(TokioIo::new(stream), service).await.map_err(std::io::Error::other)
}

/// Answers a request, and writes it down.
async fn answer(
    server: Arc<Server>,
    router: Router,
    number: u64,
    activity: Arc<Activity>,
    peer: String,
    request: Request<Incoming>,
) -> Result<Response<Counted>, Infallible> {
    let (began, busy) = (Instant::now(), activity.request());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let refused = precheck(&request).err();
    let mut response = match refused {
        Some(refusal) => refusal.into_response(),
        None => match router.clone().call(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    let status = response.status().as_u16();
    // What is answered so, nobody has looked at the token for.
    let unknown = matches!(status, 400 | 401 | 405 | 426 | 500..);
    if !unknown && uri.path() != "/healthz" && activity.admit() {
        server.gate.known(number);
    }
    response.headers_mut().insert(protocol::VERSION_HEADER, HeaderValue::from(protocol::VERSION));
    server.metrics.answer(status);
    log(&peer, &method, &uri, status, began.elapsed());
    Ok(response.map(|body| Counted { body, _busy: busy }))
}

fn log(peer: &str, method: &Method, uri: &Uri, status: u16, took: Duration) {
    // The path comes from a stranger.
    let path: String = uri.path().chars().take(120).flat_map(char::escape_default).collect();
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match status {
        500.. => tracing::error!(peer, %method, path, status, millis, "request"),
        400.. => tracing::info!(peer, %method, path, status, millis, "request"),
        _ => tracing::debug!(peer, %method, path, status, millis, "request"),
    }
}

/// What is wrong with a request before anybody looks at who asks.
fn precheck(request: &Request<Incoming>) -> Result<(), Refusal> {
    let path = request.uri().path();
    if path == "/healthz" || path == "/metrics" {
        return Ok(());
    }
    let size: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    if size > protocol::MAX_HEADERS as usize {
        return Err(Refusal::new(Code::Invalid, "the headers are too long"));
    }
    version(request.headers(), path)
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

/// A body with the note that its request is under way.
struct Counted {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Counted {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
