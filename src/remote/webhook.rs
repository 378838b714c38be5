//! Posting one message to a web address.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::tls::Trust;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where messages are posted.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

impl Webhook {
    /// An address that begins with `https://`, or with `http://`. Errors do not repeat it: it may be a secret.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("a webhook is an address as in https://host/path");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(wrong());
        }
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Webhook { uri, host, port, tls })
    }

    /// Posts a text of JSON. An error says why it may not have come: a name that is not known, an answer that is no success.
    pub(crate) fn post(&self, json: &str) -> Result<()> {
        let failed = |how: String| Error::new(ErrorKind::Io, format!("the webhook at {} was not reached: {how}", self.host));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| failed(e.to_string()))?;
        let sent = async {
            match tokio::time::timeout(PATIENCE, self.send(json)).await {
                Ok(sent) => sent,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        };
        let result = runtime.block_on(sent).map_err(failed);
        // A name that is still being looked up would keep it.
        runtime.shutdown_background();
        result
    }

    async fn send(&self, json: &str) -> std::result::Result<(), String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| e.to_string())?;
        if !self.tls {
            return self.speak(stream, json).await;
        }
        let mut config = Trust::default().config().map_err(|e| e.to_string())?;
        config.alpn_protocols.clear();
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())?;
        self.speak(stream, json).await
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        json: &str,
    ) -> std::result::Result<(), String> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::post(path)
            .header("host", host)
            .header("content-type", "application/json")
            .header("user-agent", concat!("yester/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::copy_from_slice(json.as_bytes())))
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(format!("it answered {}", answer.status())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_taken() {
        for good in ["https://example.org/hook?x=1", "http://127.0.0.1:8080", "https://[::1]:3/x"] {
            assert!(Webhook::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "/x", "example.org", "ftp://x/y", "https://user:pass@host/"] {
            assert!(Webhook::parse(bad).is_err(), "{bad}");
        }
    }
}
