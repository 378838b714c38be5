//! HTTP/2 by hand, frame by frame.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::net::rows::Plain;
use crate::net::support::PATIENT;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const INITIAL_WINDOW: u16 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn text(out: &mut Vec<u8>, text: &str) {
    // An integer with a prefix of seven bits (RFC 7541, 5.1).
    let mut rest = text.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text.as_bytes());
}

/// A block of headers, each written out.
pub fn block(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// A connection that speaks HTTP/2 to a server without TLS.
pub struct Raw {
    pub stream: TcpStream,
    token: String,
    next: u32,
}

impl Raw {
    /// Connects, with these settings.
    pub fn to(plain: &Plain, settings: &[(u16, u32)]) -> Raw {
        Raw::at(plain.server.port, &plain.token, settings)
    }

    /// The same with the server on this port of this machine.
    pub fn at(port: u16, token: &str, settings: &[(u16, u32)]) -> Raw {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        stream.write_all(&frame(SETTINGS, 0, 0, &payload)).unwrap();
        Raw { stream, token: format!("Bearer {token}"), next: 1 }
    }

    /// The headers of a request with everything that it needs.
    pub fn headers(&self, method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let pairs = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "x"),
            (":path", path),
            ("yester-protocol", "1"),
            ("yester-repository", "web"),
            ("authorization", &self.token),
        ];
        block(&[&pairs, more].concat())
    }

    /// The number of the next stream.
    pub fn number(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Asks for something without a body.
    pub fn get(&mut self, path: &str) -> u32 {
        let (number, headers) = (self.number(), self.headers("GET", path, &[]));
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, number, &headers));
        number
    }

    /// Sends bytes; false when the other side has gone.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame: its kind, flags, stream and payload. `None` when the connection has ended.
    pub fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Reads on until the connection ends; the kinds of the frames. Pings are answered: who does not is cut for that.
    /// Panics if it does not end.
    pub fn ends(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(PATIENT)).unwrap();
        let (mut kinds, begin) = (Vec::new(), Instant::now());
        loop {
            assert!(begin.elapsed() < PATIENT, "the connection stays open after {} frames", kinds.len());
            match self.frame() {
                Some((PING, 0, _, payload)) => {
                    kinds.push(PING);
                    self.send(&frame(PING, ACK, 0, &payload));
                }
                Some((kind, ..)) => kinds.push(kind),
                None => {
                    let left = self.stream.read(&mut [0]);
                    let waits = matches!(&left, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
                    assert!(!waits, "the connection stays open after {kinds:?}");
                    return kinds;
                }
            }
        }
    }

    /// Reads until a stream's headers have come. Pings are answered: a server that is busy for long asks with them
    /// whether its client is still there.
    pub fn answered(&mut self, number: u32) {
        self.answered_one_of(&[number]);
    }

    /// The same for the first of several streams.
    pub fn answered_one_of(&mut self, numbers: &[u32]) {
        self.stream.set_read_timeout(Some(PATIENT)).unwrap();
        while let Some((kind, flags, stream, payload)) = self.frame() {
            match kind {
                HEADERS if numbers.contains(&stream) => return,
                PING if flags == 0 => {
                    self.send(&frame(PING, ACK, 0, &payload));
                }
                _ => {}
            }
        }
        panic!("no answer came");
    }
}
