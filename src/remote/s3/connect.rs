//! Connections to an object store.

use std::sync::Arc;

use hyper::Uri;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::s3::http::Going;
use crate::remote::tls;

/// What sends requests over one connection.
pub(crate) type S3Sender = http1::SendRequest<Going>;

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct RequestTarget {
    /// Scheme, host and port: requests with the same one may share connections.
    pub(crate) key: String,
    /// The host's name with its port, where it is said.
    pub(crate) host: String,
    name: String,
    port: u16,
    tls: bool,
}

/// Where this address leads.
pub(super) fn place(uri: &Uri) -> Result<RequestTarget> {
    let none = || Error::invalid("the endpoint has no host");
    let host = uri.authority().ok_or_else(none)?.as_str().to_owned();
    let tls = uri.scheme_str() == Some("https");
    let name = uri.host().ok_or_else(none)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Ok(RequestTarget { key: format!("{tls} {host}"), host, name, port, tls })
}

/// The innermost cause of an error of HTTP, which says most.
pub(super) fn cause(e: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Makes a connection.
pub(super) async fn connect(place: &RequestTarget, config: &Arc<rustls::ClientConfig>) -> Result<S3Sender> {
    let RequestTarget { name, port, host, .. } = place;
    let failed = |e| Error::io(format!("cannot connect to {host}"), e).with_kind(ErrorKind::Io);
    let stream = TcpStream::connect((name.as_str(), *port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if !place.tls {
        return speak(stream).await;
    }
    let server = ServerName::try_from(name.clone()).map_err(|_| Error::invalid(format!("{name} is no name of a host")))?;
    let stream = TlsConnector::from(config.clone()).connect(server, stream).await.map_err(|e| match tls::explain(&e) {
        Some(text) if tls::is_about_trust(&e) => Error::invalid(format!("{host} cannot be trusted: {text}")),
        Some(text) => Error::new(ErrorKind::Io, text),
        None => failed(e),
    })?;
    speak(stream).await
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<S3Sender> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(128)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Error::new(ErrorKind::Io, format!("no HTTP came of a connection: {}", cause(&e))))?;
    tokio::spawn(connection);
    Ok(sender)
}
