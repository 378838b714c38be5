//! How far a job is, as server-sent events: every state as it comes, until the job is over.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch as channel};

use crate::remote::control::Job;
use crate::remote::control::client::SIGN;
use crate::remote::protocol::Refusal;
use crate::serve::api::board::Board;
use crate::serve::objects::hosted::Hosted;

/// Two events of a job are this far apart at least.
const PACE: Duration = Duration::from_millis(200);

/// Somebody who watches a job.
struct Watcher {
    board: Arc<Board>,
    hosted: Arc<Hosted>,
    id: String,
    changes: channel::Receiver<u64>,
    ending: channel::Receiver<bool>,
    last: Option<Job>,
    is_over: bool,
    _request: OwnedSemaphorePermit,
}

impl Watcher {
    async fn look(&self) -> Result<Job, Refusal> {
        let (hosted, id) = (self.hosted.clone(), self.id.clone());
        self.board.with(move |board| board.job(&id, &|snapshot| hosted.keeps(snapshot))).await
    }

    /// The next event; `None` after the last.
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        if self.is_over {
            return None;
        }
        loop {
            self.changes.borrow_and_update();
            // One that was removed is over as well.
            let job = self.look().await.ok()?;
            if self.last.as_ref() != Some(&job) {
                self.is_over = job.state.is_over();
                let data = serde_json::to_string(&job).unwrap_or_default();
                self.last = Some(job);
                return Some((Ok(Bytes::from(format!("event: job\ndata: {data}\n\n"))), self));
            }
            tokio::time::sleep(PACE).await;
            let changed = tokio::time::timeout(SIGN, self.changes.changed());
            let changed = tokio::select! {
                changed = changed => changed.is_ok(),
                _ = self.ending.wait_for(|ending| *ending) => return None,
            };
            if !changed {
                return Some((Ok(Bytes::from_static(b": still there\n\n")), self));
            }
        }
    }
}

/// The answer that tells of a job until it is over.
pub(crate) fn stream(
    board: Arc<Board>,
    hosted: Arc<Hosted>,
    id: String,
    ending: channel::Receiver<bool>,
    request: OwnedSemaphorePermit,
) -> Response<Body> {
    let changes = board.changes();
    let watcher = Watcher { board, hosted, id, changes, ending, last: None, is_over: false, _request: request };
    let body = Body::from_stream(stream::unfold(watcher, Watcher::next));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}
