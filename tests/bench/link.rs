//! A line with a delay and a rate, before a server on this machine:
//!
//! ```sh
//! rustc --edition 2024 -O -o /tmp/link tests/bench/link.rs
//! /tmp/link 127.0.0.1:7480 20 100        # to where, milliseconds in one direction, Mbit/s; prints the port
//! ```
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

#[path = "../net/link.rs"]
mod link;

use link::{Link, LinkEnd, TURN};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, to, delay, rate] = &args[..] else { panic!("link HOST:PORT MILLISECONDS MEGABITS") };
    let link = Link::new(Duration::from_micros((delay.parse::<f64>().unwrap() * 1e3) as u64), rate.parse::<u64>().unwrap() * 1_000_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for client in listener.incoming().flatten() {
        let Ok(server) = TcpStream::connect(to) else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        for up in [true, false] {
            let (from, to) = if up { (&client, &server) } else { (&server, &client) };
            let (mut from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let end = LinkEnd::new(&link, up, to.try_clone().unwrap(), || {});
            std::thread::spawn(move || {
                let (mut end, mut buffer) = (end, vec![0; TURN]);
                while let Ok(n @ 1..) = from.read(&mut buffer) {
                    if !end.send(buffer[..n].to_vec()) {
                        break;
                    }
                }
                drop(end);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
    }
}
