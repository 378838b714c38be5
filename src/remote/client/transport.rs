//! Connections to a server: over TLS, or over the pipes of an ssh.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind};
use crate::remote::client::body::RequestBody;
use crate::remote::client::fault::RequestFault;
use crate::remote::client::ssh::{self, SshCommand};
use crate::remote::protocol;
use crate::remote::tls;
use crate::sys::socket;

/// How to reach a server.
pub(crate) enum ServerTarget {
    /// By TLS.
    Tls {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// What is believed.
        config: Arc<rustls::ClientConfig>,
    },
    /// Through ssh.
    Ssh(SshCommand),
}

/// What sends requests over one connection, and how many bytes the connection has taken.
#[derive(Clone)]
pub(crate) struct RequestSender {
    kind: HttpSender,
    /// Bytes that went so far, of all requests.
    pub(crate) written: Arc<AtomicU64>,
}

#[derive(Clone)]
enum HttpSender {
    /// Many at once.
    Two(http2::SendRequest<RequestBody>),
    /// One after the other.
    One(Arc<Mutex<http1::SendRequest<RequestBody>>>),
}

impl RequestSender {
    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.kind {
            HttpSender::Two(sender) => sender.is_closed(),
            // While a request uses it, it counts as open: that request meets the error.
            HttpSender::One(sender) => sender.try_lock().is_ok_and(|sender| sender.is_closed()),
        }
    }

    /// Sends a request.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> hyper::Result<Response<Incoming>> {
        match &mut self.kind {
            HttpSender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            HttpSender::One(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Makes a connection.
pub(crate) async fn connect(target: &ServerTarget, patience: Duration) -> Result<RequestSender, RequestFault> {
    match target {
        ServerTarget::Tls { host, port, config } => {
            let late = |_| RequestFault::NotSent(Error::new(ErrorKind::Io, format!("{host}:{port} does not answer")));
            tokio::time::timeout(patience, connect_tls(host, *port, config.clone())).await.map_err(late)?
        }
        ServerTarget::Ssh(command) => {
            let late = |_| RequestFault::NotSent(Error::new(ErrorKind::Io, "ssh does not connect"));
            let stream = tokio::time::timeout(patience, ssh::connect(command)).await.map_err(late)??;
            two(stream).await
        }
    }
}

async fn connect_tls(host: &str, port: u16, config: Arc<rustls::ClientConfig>) -> Result<RequestSender, RequestFault> {
    let failed = |e: std::io::Error| {
        RequestFault::NotSent(Error::io(format!("cannot connect to {host}:{port}"), e).with_kind(ErrorKind::Io))
    };
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    socket::keep_little_unsent(&stream);
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| Error::invalid(format!("{host} is no name of a host")))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| match tls::explain(&e) {
        Some(text) if tls::is_about_trust(&e) => {
            RequestFault::Final(Error::new(ErrorKind::Io, format!("the server cannot be trusted: {text}")))
        }
        Some(text) => RequestFault::NotSent(Error::new(ErrorKind::Io, text)),
        None => failed(e),
    })?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => two(stream).await,
        _ => one(stream).await,
    }
}

fn unfinished(e: hyper::Error) -> RequestFault {
    RequestFault::NotSent(Error::new(ErrorKind::Io, format!("no HTTP came of a connection: {}", cause(&e))))
}

/// The innermost cause of an error of HTTP, which says most.
pub(crate) fn cause(e: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

async fn two(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<RequestSender, RequestFault> {
    let (stream, written) = Counting::new(stream);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(8 << 20)
        .max_frame_size(64 << 10)
        .max_header_list_size(protocol::MAX_HEADERS)
        .max_send_buf_size(512 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        // The answer waits behind what is on its way to a server at the end of a slow line.
        .keep_alive_timeout(Duration::from_secs(60))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(unfinished)?;
    tokio::spawn(connection);
    Ok(RequestSender { kind: HttpSender::Two(sender), written })
}

async fn one(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<RequestSender, RequestFault> {
    let (stream, written) = Counting::new(stream);
    let (sender, connection) =
        http1::Builder::new().max_headers(64).max_buf_size(64 << 10).handshake(TokioIo::new(stream)).await.map_err(unfinished)?;
    tokio::spawn(connection);
    Ok(RequestSender { kind: HttpSender::One(Arc::new(Mutex::new(sender))), written })
}

/// A stream that counts the bytes that go.
struct Counting<S> {
    inner: S,
    written: Arc<AtomicU64>,
}

impl<S> Counting<S> {
    fn new(inner: S) -> (Self, Arc<AtomicU64>) {
        let written = Arc::new(AtomicU64::new(0));
        (Counting { inner, written: written.clone() }, written)
    }

    fn note(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &result {
            self.written.fetch_add(*n as u64, Ordering::Relaxed);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
