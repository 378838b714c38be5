//! The body of an answer, given away in parts that tell whether the other side takes them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::serve::objects::limits::HeldPermits;
use crate::serve::objects::watch::{Busy, ResponseFlow};

/// Bytes that are given away at once: few where they are taken slowly, so that a slow line is not taken for a dead one.
const LEAST: usize = 4 << 10;
const MOST: usize = 64 << 10;
/// How soon the next part must be asked for to be longer, and how late to be short again.
const SOON: Duration = Duration::from_millis(250);
const LATE: Duration = Duration::from_secs(1);

/// Bytes in memory that count in a client's share until nothing holds them any more: also while they wait to be sent.
pub(crate) struct CountedBytes {
    bytes: Vec<u8>,
    _held: Option<HeldPermits>,
}

impl CountedBytes {
    /// These bytes, with the share that they take.
    pub(crate) fn bytes(bytes: Vec<u8>, held: Option<HeldPermits>) -> Bytes {
        Bytes::from_owner(CountedBytes { bytes, _held: held })
    }
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A part of an answer, and the answer's watch, which must not end before the part is gone.
struct ResponsePart {
    bytes: Bytes,
    _flow: Arc<ResponseFlow>,
}

impl AsRef<[u8]> for ResponsePart {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that is watched, with the note that its request is under way.
pub(crate) struct Measured {
    body: Body,
    rest: Bytes,
    part: usize,
    given: Option<Instant>,
    flow: Arc<ResponseFlow>,
    _busy: Busy,
}

impl Measured {
    /// Watches a body.
    pub(crate) fn new(body: Body, flow: Arc<ResponseFlow>, busy: Busy) -> Self {
        Measured { body, rest: Bytes::new(), part: LEAST, given: None, flow, _busy: busy }
    }

    fn adapt(&mut self) {
        match self.given.take().map(|given| given.elapsed()) {
            Some(took) if took < SOON => self.part = (self.part * 2).min(MOST),
            Some(took) if took > LATE => self.part = LEAST,
            _ => {}
        }
    }
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.adapt();
        while self.rest.is_empty() {
            let next = Pin::new(&mut self.body).poll_frame(cx);
            let Poll::Ready(next) = next else {
                self.flow.owes();
                return Poll::Pending;
            };
            match next.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.rest = bytes,
                // There are no trailers.
                Some(Ok(Err(_))) => {}
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => {
                    self.flow.owes();
                    return Poll::Ready(None);
                }
            }
        }
        let length = self.part.min(self.rest.len());
        let bytes = self.rest.split_to(length);
        self.flow.gives();
        self.given = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(ResponsePart { bytes, _flow: self.flow.clone() })))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.body.size_hint().exact() {
            Some(exact) => SizeHint::with_exact(exact + self.rest.len() as u64),
            None => SizeHint::default(),
        }
    }
}
