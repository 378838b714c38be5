//! A server without a network: requests are made by hand, and answered one after the other. For tests and fuzzers.

use std::path::PathBuf;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::serve::objects::access::Door;
use crate::serve::objects::limits::Limits;
use crate::serve::objects::{Server, connections, tokens};

/// A server whose clients are in this process.
#[derive(Debug)]
pub struct Offline {
    server: Arc<Server>,
    runtime: tokio::runtime::Runtime,
}

impl Offline {
    /// A server of the repositories below `root`.
    pub fn new(root: PathBuf, limits: Limits) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .build()
            .map_err(|e| Error::io("cannot start the threads of the network", e))?;
        let tokens = tokens(&root);
        let server = Server::new(Door::Tokens { root, tokens, seen: Mutex::default() }, None, limits, false);
        Ok(Offline { server, runtime })
    }

    /// The status and the body of the answer to a request; a body that was cut ends with an error. `None` where these
    /// words are no request of HTTP.
    pub fn ask(&self, method: &[u8], path: &[u8], headers: &[(&[u8], &[u8])], body: &[u8]) -> Option<(u16, Result<Vec<u8>>)> {
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
        *request.method_mut() = Method::from_bytes(method).ok()?;
        *request.uri_mut() = Uri::try_from(path).ok()?;
        for (name, value) in headers {
            request.headers_mut().append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        self.runtime.block_on(async {
            let response = connections::answer_alone(&self.server, request).await;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await;
            let body = body.map(|body| body.to_bytes().to_vec());
            Some((status, body.map_err(|e| Error::io("the answer was cut", std::io::Error::other(e)))))
        })
    }
}
