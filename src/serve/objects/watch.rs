//! A connection that knows when it last moved, so that one that does not can be cut.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes after which writing does not wait any more.
const ENOUGH: u64 = 64 << 10;

/// What a connection did, for who watches it.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Milliseconds after the beginning when something came or went last.
    moved: AtomicU64,
    /// The same, of when writing began to wait; 0 when it does not.
    waiting: AtomicU64,
    /// Bytes written since then.
    written: AtomicU64,
    /// Requests that are not answered in full.
    requests: AtomicU64,
    admitted: AtomicBool,
    /// Answers that the other side has not taken in full.
    flows: Mutex<Vec<Weak<ResponseFlow>>>,
}

impl Default for Activity {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let (moved, waiting, written, requests) = (zero(), zero(), zero(), zero());
        Activity { began: Instant::now(), moved, waiting, written, requests, admitted: false.into(), flows: Mutex::default() }
    }
}

impl Activity {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn moved(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    /// Notes bytes that went; those since writing began to wait.
    fn wrote(&self, bytes: usize) -> u64 {
        self.moved();
        self.written.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64
    }

    fn waits(&self) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            self.written.store(0, Ordering::Relaxed);
            self.waiting.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Something authorized came; true the first time.
    pub(crate) fn admit(&self) -> bool {
        !self.admitted.swap(true, Ordering::Relaxed)
    }

    /// Whether something authorized has come.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }

    /// A request that is not answered in full, while the value lives.
    pub(crate) fn request(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// An answer that begins: watched while the value lives.
    pub(crate) fn flow(self: &Arc<Self>) -> Arc<ResponseFlow> {
        let flow = Arc::new(ResponseFlow { activity: self.clone(), given: AtomicU64::new(self.now()) });
        let mut flows = self.flows.lock();
        if flows.len() == flows.capacity() {
            flows.retain(|flow| flow.strong_count() > 0);
        }
        flows.push(Arc::downgrade(&flow));
        flow
    }

    /// Whether the other side takes nothing of some answer for `idle`, whatever keeps it from going: a window of HTTP/2
    /// that stays shut leaves the socket in motion.
    pub(crate) fn has_stuck_flow(&self, idle: Duration) -> bool {
        let now = self.now();
        let mut flows = self.flows.lock();
        flows.retain(|flow| flow.strong_count() > 0);
        flows.iter().filter_map(Weak::upgrade).any(|flow| match flow.given.load(Ordering::Relaxed) {
            0 => false,
            given => now.saturating_sub(given) >= idle.as_millis() as u64,
        })
    }

    /// How long nothing came or went, and whether requests are under way.
    pub(crate) fn rest(&self) -> (bool, u64) {
        let still = self.now().saturating_sub(self.moved.load(Ordering::Relaxed));
        (self.requests.load(Ordering::Relaxed) == 0, still)
    }

    /// Whether the other side takes what it is sent too slowly: waiting for it for `idle`, with less than
    /// `least_rate` bytes a second going.
    pub(crate) fn is_stuck(&self, idle: Duration, least_rate: u64) -> bool {
        let since = self.waiting.load(Ordering::Relaxed);
        if since == 0 || self.now().saturating_sub(since) < idle.as_millis() as u64 {
            return false;
        }
        let stuck = self.written.swap(0, Ordering::Relaxed) < least_rate.saturating_mul(idle.as_secs());
        self.waiting.store(if stuck { since } else { 0 }, Ordering::Relaxed);
        stuck
    }

    /// Whether nothing has been asked for so long.
    pub(crate) fn is_idle(&self, keep: Duration) -> bool {
        let (no_requests, still) = self.rest();
        no_requests && still >= keep.as_millis() as u64
    }

    /// How old it is.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

/// An answer on its way: the server owes the next bytes, or the other side has to take what it was given.
#[derive(Debug)]
pub(crate) struct ResponseFlow {
    activity: Arc<Activity>,
    /// When the other side was given something that it has to take, as milliseconds; 0 when it is the server's turn.
    given: AtomicU64,
}

impl ResponseFlow {
    /// The other side has something to take.
    pub(crate) fn gives(&self) {
        self.given.store(self.activity.now(), Ordering::Relaxed);
    }

    /// The other side waits for the server.
    pub(crate) fn owes(&self) {
        self.given.store(0, Ordering::Relaxed);
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.moved();
    }
}

/// A stream that notes what it does.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    /// Watches a stream.
    pub(crate) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Watched { inner, activity }
    }

    fn note(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(n)) => {
                // The wait goes on until enough has gone: who takes a byte now and then makes others wait as well.
                if self.activity.wrote(*n) >= ENOUGH {
                    self.activity.waiting.store(0, Ordering::Relaxed);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.waits(),
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.moved();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
