//! A line between two machines, emulated: each direction has a delay and a rate, which all connections share.
//!
//! Not emulated: lost packets, and that TCP begins slowly. A new connection waits for one way there and back.
//! Stands on the standard library alone: `tests/bench/link.rs` is a program of it.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is sent at once: several connections share a line by taking turns.
pub const TURN: usize = 16 << 10;
/// How far ahead of the line somebody may put bytes: less than a turn takes is slept through.
const AHEAD: Duration = Duration::from_millis(5);
/// Turns of one connection that are on their way at most.
const UNDER_WAY: usize = 4096;

#[derive(Debug)]
pub struct Link {
    delay: Duration,
    /// Bytes a second, in each direction.
    rate: f64,
    /// When each direction is free: up, down.
    free: [Mutex<Instant>; 2],
}

impl Link {
    /// Of this delay in one direction and so many bits a second.
    pub fn new(delay: Duration, bits: u64) -> Arc<Link> {
        let now = Instant::now();
        Arc::new(Link { delay, rate: bits as f64 / 8.0, free: [Mutex::new(now), Mutex::new(now)] })
    }

    /// Puts bytes on the line, as soon as it is free. Answers when they are at the other end.
    fn put(&self, up: bool, bytes: usize) -> Instant {
        let sent = {
            let mut free = self.free[usize::from(!up)].lock().unwrap();
            let sent = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.rate);
            *free = sent;
            sent
        };
        if let Some(wait) = sent.checked_duration_since(Instant::now() + AHEAD) {
            std::thread::sleep(wait);
        }
        sent + self.delay
    }
}

/// The end of a line that somebody writes to: what comes out goes to a connection.
pub struct LinkEnd {
    link: Arc<Link>,
    up: bool,
    queue: Option<SyncSender<(Instant, Vec<u8>)>>,
    writer: Option<JoinHandle<()>>,
    /// How long the first bytes take besides.
    first: Duration,
}

impl LinkEnd {
    /// To `to`, which is the server if `up`. `arrived` is called when bytes have come out.
    pub fn new(link: &Arc<Link>, up: bool, mut to: TcpStream, arrived: impl Fn() + Send + 'static) -> LinkEnd {
        let (queue, come) = sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let writer = std::thread::spawn(move || {
            for (at, bytes) in come {
                if let Some(wait) = at.checked_duration_since(Instant::now()) {
                    std::thread::sleep(wait);
                }
                if to.write_all(&bytes).is_err() {
                    return;
                }
                arrived();
            }
        });
        let first = if up { link.delay * 2 } else { Duration::ZERO };
        LinkEnd { link: link.clone(), up, queue: Some(queue), writer: Some(writer), first }
    }

    /// Sends bytes; false when nobody takes them any more.
    pub fn send(&mut self, bytes: Vec<u8>) -> bool {
        let at = self.link.put(self.up, bytes.len()) + std::mem::take(&mut self.first);
        self.queue.as_ref().is_some_and(|queue| queue.send((at, bytes)).is_ok())
    }
}

impl Drop for LinkEnd {
    /// Waits for what is on its way.
    fn drop(&mut self) {
        self.queue = None;
        let _ = self.writer.take().map(JoinHandle::join);
    }
}
