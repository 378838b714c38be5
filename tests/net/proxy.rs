//! A proxy that breaks connections: at any byte, in any way; or that is a long and narrow line.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::link::{Link, LinkEnd, TURN};

/// What happens to a connection after so many bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Both directions end, in order.
    Cut,
    /// Both directions end with a reset.
    Reset,
    /// Nothing more comes through, and nothing is said.
    Stall,
    /// This direction ends; the other goes on.
    Truncate,
    /// One bit is another.
    Corrupt,
    /// Some bytes come twice.
    Duplicate,
    /// From then on single bytes, for a while.
    Trickle,
    /// A line of 16 KiB in so many milliseconds.
    Slow(u64),
}

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub fault: Fault,
    /// Bytes that pass before.
    pub after: u64,
    /// In the direction of the server?
    pub up: bool,
    /// How many connections meet it; later ones are left alone.
    pub connections: usize,
}

pub const FAIR: Plan = Plan { fault: Fault::None, after: 0, up: true, connections: 0 };

struct Shared {
    server: AtomicU16,
    plan: Mutex<Plan>,
    hit: AtomicUsize,
    accepted: AtomicUsize,
    up: AtomicU64,
    closed: AtomicBool,
    /// Nothing passes, and nothing is said.
    dead: AtomicBool,
    /// Connections on which something was asked and nothing has come back yet, and the most there were.
    waiting: AtomicUsize,
    most_waiting: AtomicUsize,
    link: Option<Arc<Link>>,
}

/// Whether a connection waits for an answer.
struct Waits {
    state: Arc<Shared>,
    waits: AtomicBool,
}

impl Waits {
    fn asked(&self) {
        if !self.waits.swap(true, Ordering::SeqCst) {
            let now = self.state.waiting.fetch_add(1, Ordering::SeqCst) + 1;
            self.state.most_waiting.fetch_max(now, Ordering::SeqCst);
        }
    }

    fn answered(&self) {
        if self.waits.swap(false, Ordering::SeqCst) {
            self.state.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.answered();
    }
}

/// Where a direction leads.
enum Way {
    At(TcpStream, Option<Arc<Waits>>),
    Over(LinkEnd),
}

impl Way {
    fn new(to: TcpStream, up: bool, waits: &Arc<Waits>) -> Way {
        let back = (!up).then(|| waits.clone());
        match &waits.state.link {
            None => Way::At(to, back),
            Some(link) => Way::Over(LinkEnd::new(link, up, to, move || back.iter().for_each(|waits| waits.answered()))),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        match self {
            Way::At(to, back) => {
                let sent = to.write_all(bytes).is_ok();
                back.iter().for_each(|waits| waits.answered());
                sent
            }
            Way::Over(end) => bytes.is_empty() || end.send(bytes.to_vec()),
        }
    }
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(server: u16) -> Proxy {
        Self::with(server, None)
    }

    /// What passes goes over this line.
    pub fn over(server: u16, link: Arc<Link>) -> Proxy {
        Self::with(server, Some(link))
    }

    fn with(server: u16, link: Option<Arc<Link>>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: AtomicU16::new(server),
            plan: Mutex::new(FAIR),
            hit: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            up: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
            link,
        });
        let state = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.closed.load(Ordering::SeqCst) {
                    return;
                }
                state.accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", state.server.load(Ordering::SeqCst))) else { continue };
                let _ = (stream.set_nodelay(true), server.set_nodelay(true));
                let plan = *state.plan.lock().unwrap();
                let meets = plan.fault != Fault::None && state.hit.load(Ordering::SeqCst) < plan.connections;
                let plan = if meets { plan } else { FAIR };
                let waits = Arc::new(Waits { state: state.clone(), waits: AtomicBool::new(false) });
                for up in [true, false] {
                    let (from, to) = if up { (&stream, &server) } else { (&server, &stream) };
                    let (from, to, state) = (from.try_clone().unwrap(), to.try_clone().unwrap(), state.clone());
                    let plan = if plan.up == up { plan } else { FAIR };
                    let waits = waits.clone();
                    std::thread::spawn(move || pump(from, to, plan, up, &state, &waits));
                }
            }
        });
        Proxy { port, shared }
    }

    /// New connections lead to a server on this port from now on: one that starts again may not get the port that it had.
    pub fn lead_to(&self, server: u16) {
        self.shared.server.store(server, Ordering::SeqCst);
    }

    /// New connections meet this from now on.
    pub fn set(&self, plan: Plan) {
        self.shared.hit.store(0, Ordering::SeqCst);
        *self.shared.plan.lock().unwrap() = plan;
    }

    /// Connections that met the fault.
    pub fn hits(&self) -> usize {
        self.shared.hit.load(Ordering::SeqCst)
    }

    /// Connections, whatever became of them.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Whether nothing passes from now on, on no connection: what comes meanwhile passes later.
    pub fn die(&self, dead: bool) {
        self.shared.dead.store(dead, Ordering::SeqCst);
    }

    /// How many connections waited for an answer at once, at most, since the last call of this.
    pub fn most_waiting(&self) -> usize {
        self.shared.most_waiting.swap(0, Ordering::SeqCst)
    }

    /// Bytes that went to the server.
    pub fn sent(&self) -> u64 {
        self.shared.up.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, plan: Plan, up: bool, state: &Shared, waits: &Arc<Waits>) {
    let mut buffer = vec![0; if state.link.is_some() { TURN } else { 64 << 10 }];
    let mut way = Way::new(to.try_clone().unwrap(), up, waits);
    let (mut passed, mut fault) = (0, plan.fault);
    loop {
        let room = match fault {
            Fault::None => buffer.len(),
            Fault::Slow(_) => 16 << 10,
            _ => buffer.len().min(usize::try_from(plan.after - passed).unwrap().max(1)),
        };
        let Ok(n @ 1..) = from.read(&mut buffer[..room]) else { break };
        let mut bytes = buffer[..n].to_vec();
        while state.dead.load(Ordering::SeqCst) && !state.closed.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Fault::Slow(millis) = fault {
            std::thread::sleep(Duration::from_millis(millis));
        } else if fault != Fault::None && passed >= plan.after {
            state.hit.fetch_add(1, Ordering::SeqCst);
            match fault {
                Fault::Cut => break,
                Fault::Reset => {
                    // Closing with bytes unread sends a reset.
                    let _ = to.shutdown(Shutdown::Write);
                    std::thread::sleep(Duration::from_millis(5));
                    return drop((from, to));
                }
                Fault::Stall => {
                    while !state.closed.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    return;
                }
                Fault::Truncate => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Fault::Corrupt => bytes[0] ^= 4,
                Fault::Duplicate => bytes.extend(bytes.clone()),
                Fault::Trickle => {
                    if trickle(&mut from, &mut to, &bytes).is_err() {
                        break;
                    }
                    bytes.clear();
                }
                Fault::None | Fault::Slow(_) => {}
            }
            fault = Fault::None;
        }
        passed += n as u64;
        if up {
            state.up.fetch_add(n as u64, Ordering::SeqCst);
            waits.asked();
        }
        if !way.send(&bytes) {
            break;
        }
    }
    drop(way);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn trickle(from: &mut TcpStream, to: &mut TcpStream, first: &[u8]) -> std::io::Result<()> {
    to.write_all(first)?;
    let mut byte = [0];
    for _ in 0..300 {
        if from.read(&mut byte)? == 0 {
            return Ok(());
        }
        to.write_all(&byte)?;
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
