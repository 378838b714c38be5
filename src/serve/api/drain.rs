//! Requests that are answered before their body has come: the rest of the body is taken and thrown away, since clients of
//! HTTP/2 take the end of a stream that they still write to for a failure.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use axum::middleware::Next;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use parking_lot::Mutex;

/// So many bytes of a body are thrown away.
const MOST: usize = 64 << 10;
/// For so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// A body whose rest somebody else takes.
struct SharedBody(Arc<Mutex<Body>>);

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(cx)
    }
}

/// Answers, and takes what has not been read.
pub(crate) async fn rest(request: Request, next: Next) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let shared = Arc::new(Mutex::new(body));
    let body = Body::new(SharedBody(shared.clone()));
    let answer = next.run(Request::from_parts(parts, body)).await;
    let mut rest = SharedBody(shared);
    let drain = async {
        let mut left = MOST;
        while let Some(Ok(frame)) = rest.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Who sends more, or nothing, is cut off.
    let _ = tokio::time::timeout(PATIENCE, drain).await;
    answer
}
