//! Sending objects and lists.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, header};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::remote::list;
use crate::remote::protocol::{Code, Refusal};
use crate::serve::objects::backing::{BackingWalk, ServedObject};
use crate::serve::objects::body::CountedBytes;
use crate::serve::objects::hosted::{Hosted, refuse};
use crate::serve::objects::limits::{Client, HeldPermits};
use crate::serve::objects::metrics::add;
use crate::serve::objects::{Server, blocking};
use crate::storage::{Class, Name};

/// Bytes that are read at once.
const PIECE: usize = 512 << 10;
/// The same from an object store, where each is a request.
const STORE_PIECE: u64 = 1 << 20;
/// Bytes of a list after which it is sent on: what is found at once takes at most as much again.
const LINES: usize = 48 << 10;

/// A body that comes in pieces from a task. It is cut when the task gives up.
struct DownloadBody {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
}

impl HttpBody for DownloadBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(cx).map(|piece| match piece {
            Some(bytes) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Some(Ok(Frame::data(bytes)))
            }
            None if self.left > 0 => Some(Err(std::io::ErrorKind::UnexpectedEof.into())),
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

/// The first and the last byte that are asked for; `None`: all of them.
fn asked(headers: &HeaderMap) -> Result<Option<(u64, u64)>, Refusal> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let invalid = || Refusal::new(Code::Invalid, "the range is not of the form bytes=FIRST-LAST");
    let (first, last) = value.to_str().ok().and_then(|v| v.strip_prefix("bytes=")?.split_once('-')).ok_or_else(invalid)?;
    let first: u64 = first.parse().map_err(|_| invalid())?;
    let last: u64 = last.parse().map_err(|_| invalid())?;
    if first > last {
        return Err(invalid());
    }
    Ok(Some((first, last)))
}

/// What there is of it in an object of this length.
fn range((first, last): (u64, u64), length: u64) -> Result<Range<u64>, Refusal> {
    if first >= length {
        return Err(Refusal::new(Code::Range, format!("the object has only {length} bytes")));
    }
    Ok(first..last.saturating_add(1).min(length))
}

/// An object, or a range of it; its length alone for HEAD. The `request` lasts until its last byte is given away.
pub(crate) async fn object(
    server: &Arc<Server>,
    client: &Arc<Client>,
    hosted: &Arc<Hosted>,
    name: Name,
    headers: &HeaderMap,
    only_head: bool,
    request: OwnedSemaphorePermit,
) -> Result<Response<Body>, Refusal> {
    let asked = asked(headers)?;
    let in_store = hosted.backing.is_store();
    let piece = if in_store { STORE_PIECE } else { PIECE as u64 };
    // A store gives the first piece and the length at once.
    let wanted = asked.map_or(piece, |(first, last)| (last - first).saturating_add(1).min(piece));
    let ahead = if in_store && !only_head { wanted } else { 0 };
    let (mut object, mut held) = open(server, client, hosted, name, (asked.map_or(0, |(first, _)| first), ahead)).await?;
    let length = object.length;
    let part = asked.map_or(Ok(0..length), |asked| range(asked, length))?;
    let size = part.end - part.start;
    let mut response = Response::builder().header(header::CONTENT_TYPE, "application/octet-stream");
    if asked.is_some() {
        let value = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, value);
    }
    if only_head {
        return respond(response.header(header::CONTENT_LENGTH, size), Body::empty());
    }
    add(&server.metrics.sent, size);
    let (sender, pieces) = mpsc::channel(1);
    let body = Body::new(DownloadBody { pieces, left: size });
    let mut start = part.start;
    if let Some(bytes) = object.first.take() {
        if let Some(rate) = &client.rate {
            rate.take(bytes.len()).await;
        }
        start += bytes.len() as u64;
        // The channel has room for it.
        let _ = sender.try_send(CountedBytes::bytes(bytes, held.take()));
    }
    let object = Arc::new(object);
    if !in_store && size <= piece {
        let _ = sender.try_send(read(server, client, object, part).await?);
        return respond(response, body);
    }
    let (server, client) = (server.clone(), client.clone());
    tokio::spawn(async move {
        let _request = request;
        while start < part.end {
            let end = part.end.min(start + piece);
            // A body that ends too early tells the client.
            let Ok(bytes) = read(&server, &client, object.clone(), start..end).await else { return };
            if sender.send(bytes).await.is_err() {
                return;
            }
            start = end;
        }
    });
    respond(response, body)
}

/// Opens an object, and takes so many bytes ahead from this one on.
async fn open(
    server: &Server,
    client: &Client,
    hosted: &Arc<Hosted>,
    name: Name,
    (from, ahead): (u64, u64),
) -> Result<(ServedObject, Option<HeldPermits>), Refusal> {
    let held = match ahead {
        0 => None,
        _ => server.budget.hold(client, usize::try_from(ahead).unwrap_or(PIECE)).await,
    };
    let place = hosted.clone();
    let opened = hosted.asking(move || place.backing.open(&name, from, ahead).map_err(|e| refuse(&e)));
    Ok((opened.await?, held))
}

async fn read(server: &Server, client: &Client, object: Arc<ServedObject>, part: Range<u64>) -> Result<Bytes, Refusal> {
    let size = usize::try_from(part.end - part.start).unwrap_or(PIECE);
    let held = server.budget.hold(client, size).await;
    if let Some(rate) = &client.rate {
        rate.take(size).await;
    }
    let turn = object.turn().await;
    let bytes = blocking(move || {
        let _turn = turn;
        object.part(part).map_err(|e| refuse(&e))
    });
    Ok(CountedBytes::bytes(bytes.await?, held))
}

/// A list that is read from the directory, or the store, as it is taken.
struct Lister {
    server: Arc<Server>,
    client: Arc<Client>,
    /// `None` after the last line.
    walk: Option<BackingWalk>,
    hosted: Arc<Hosted>,
    count: usize,
}

impl Lister {
    /// The next lines; `None` at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Some(mut walk) = self.walk.take() else { return Ok(None) };
        let held = self.server.budget.hold(&self.client, 2 * LINES).await;
        let hosted = self.hosted.clone();
        let asked = self.hosted.clone();
        let found = asked.asking(move || {
            let (mut text, mut count, mut more) = (Vec::with_capacity(2 * LINES), 0, true);
            while more && text.len() < LINES {
                match walk.some().map_err(|e| refuse(&e))? {
                    Some(some) => {
                        count += some.len();
                        for (name, size, at) in &some {
                            let by = hosted.writer(name).map_err(|e| refuse(&e))?;
                            text.extend(list::list_line(name, *size, *at, by.as_deref()).bytes());
                        }
                    }
                    None => more = false,
                }
            }
            Ok((text, count, more.then_some(walk)))
        });
        let (mut text, count, walk) = found.await?;
        (self.count, self.walk) = (self.count + count, walk);
        if self.walk.is_none() {
            text.extend(list::list_end(self.count).bytes());
        }
        if let Some(rate) = &self.client.rate {
            rate.take(text.len()).await;
        }
        Ok(Some(CountedBytes::bytes(text, held)))
    }
}

/// The list of a class. It is read as it is sent, and counts in the client's share of the memory.
pub(crate) async fn list(
    server: &Arc<Server>,
    client: &Arc<Client>,
    hosted: &Arc<Hosted>,
    class: Class,
    request: OwnedSemaphorePermit,
) -> Result<Response<Body>, Refusal> {
    let walk = Some(hosted.backing.walk(class));
    let mut lister = Lister { server: server.clone(), client: client.clone(), walk, hosted: hosted.clone(), count: 0 };
    let first = lister.piece().await?;
    let (sender, pieces) = mpsc::channel::<Bytes>(1);
    let _ = first.map(|first| sender.try_send(first));
    tokio::spawn(async move {
        let _request = request;
        // Without its last line it counts as cut.
        while let Ok(Some(piece)) = lister.piece().await {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    respond(Response::builder().header(header::CONTENT_TYPE, "text/plain"), Body::new(Unmeasured(pieces)))
}

/// As [`DownloadBody`], of a length that nobody knows.
struct Unmeasured(mpsc::Receiver<Bytes>);

impl HttpBody for Unmeasured {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn respond(response: axum::http::response::Builder, body: Body) -> Result<Response<Body>, Refusal> {
    response.body(body).map_err(|e| Refusal::new(Code::Failed, e.to_string()))
}
