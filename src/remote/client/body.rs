//! Bodies of requests: nothing, or pieces that a thread gives one by one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of a request.
#[derive(Debug)]
pub(crate) struct RequestBody {
    pieces: Option<mpsc::Receiver<Bytes>>,
    left: u64,
}

impl RequestBody {
    /// No body.
    pub(crate) fn none() -> Self {
        RequestBody { pieces: None, left: 0 }
    }

    /// A body of so many bytes, and where its pieces go in.
    pub(crate) fn measured(length: u64) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(2);
        (sender, RequestBody { pieces: Some(pieces), left: length })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(pieces) = &mut self.pieces else { return Poll::Ready(None) };
        let piece = std::task::ready!(pieces.poll_recv(cx));
        Poll::Ready(match piece {
            Some(bytes) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Some(Ok(Frame::data(bytes)))
            }
            // The thread gave up: the server must not take what there is for all of it.
            None if self.left > 0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
