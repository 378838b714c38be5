//! Admission of connections: which are accepted, and which are closed to make room for others.
//!
//! A connection is silent until its first byte, a stranger until its first authorized request, and then a client's. Each
//! kind has room of its own, so that the next kind is never kept out by the one before. When there is no room, the one that
//! holds most connections loses one: an address among the first two kinds, a token among the last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::serve::objects::limits::Limits;
use crate::serve::objects::watch::Activity;

/// Where a connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ConnectionState {
    /// Nothing has come.
    Silent,
    /// Something has come; no TLS, no token, or none that is good.
    Stranger,
    /// This token's.
    Known(String),
}

/// An open connection.
#[derive(Debug)]
struct OpenConnection {
    address: IpAddr,
    kind: ConnectionState,
    activity: Arc<Activity>,
    handle: Option<AbortHandle>,
}

/// Decides which connections are accepted and which are closed.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    /// Whether addresses tell clients apart: not behind something that speaks TLS for the server.
    by_address: bool,
    /// By number, which is in the order in which they came.
    open: Mutex<BTreeMap<u64, OpenConnection>>,
}

/// What counts as one address: the owner of an IPv6 network has 2^64 addresses in it.
pub(crate) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

/// The key that most of these have; of several the one that comes first.
fn most<K: Hash + Eq + Clone>(keys: impl Iterator<Item = K>) -> Option<K> {
    let mut counts: HashMap<K, (usize, Reverse<usize>)> = HashMap::new();
    keys.enumerate().for_each(|(at, key)| counts.entry(key).or_insert((0, Reverse(at))).0 += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(key, _)| key)
}

impl Gate {
    /// A gate after the numbers.
    pub(crate) fn new(limits: &Limits, by_address: bool) -> Self {
        Gate { limits: limits.clone(), by_address, open: Mutex::default() }
    }

    fn open(&self) -> parking_lot::MutexGuard<'_, BTreeMap<u64, OpenConnection>> {
        self.open.lock()
    }

    /// A connection came. Answers how many others had to go for it.
    pub(crate) fn enter(&self, number: u64, address: IpAddr, activity: Arc<Activity>) -> usize {
        let mut open = self.open();
        let address = group(address);
        open.insert(number, OpenConnection { address, kind: ConnectionState::Silent, activity, handle: None });
        self.trim(&mut open, &ConnectionState::Silent, address)
    }

    /// It has a task. If it had to go before that, the task is aborted; if the task has ended meanwhile, nothing happens.
    pub(crate) fn watch(&self, number: u64, handle: AbortHandle) {
        match self.open().get_mut(&number) {
            Some(place) => place.handle = Some(handle),
            None => handle.abort(),
        }
    }

    /// Something came of it. Answers how many others had to go for it.
    pub(crate) fn speaks(&self, number: u64) -> usize {
        let mut open = self.open();
        let Some(place) = open.get_mut(&number).filter(|place| place.kind == ConnectionState::Silent) else { return 0 };
        place.kind = ConnectionState::Stranger;
        let address = place.address;
        self.trim(&mut open, &ConnectionState::Stranger, address)
    }

    /// Makes room among those that are not known yet: for this address among its own, then for all.
    fn trim(&self, open: &mut BTreeMap<u64, OpenConnection>, kind: &ConnectionState, address: IpAddr) -> usize {
        let all = if *kind == ConnectionState::Silent { self.limits.silent } else { self.limits.strangers };
        let own = if self.by_address { (all / 2).max(1) } else { all };
        let of = |open: &BTreeMap<u64, OpenConnection>, address: IpAddr| -> Vec<u64> {
            open.iter().filter(|(_, p)| p.kind == *kind && p.address == address).map(|(n, _)| *n).collect()
        };
        let mut cut = 0;
        let mine = of(open, address);
        if let Some(oldest) = mine.first().filter(|_| mine.len() > own) {
            cut += Self::cut(open, *oldest);
        }
        let kinds = || open.values().filter(|p| p.kind == *kind);
        if kinds().count() > all
            && let Some(greatest) = most(kinds().map(|p| p.address))
            && let Some(oldest) = of(open, greatest).first()
        {
            cut += Self::cut(open, *oldest);
        }
        cut
    }

    /// Something authorized came of it: it is this token's. Answers how many others had to go for it: the token's own that
    /// has rested longest where the token has too many, else one of the token that has most.
    pub(crate) fn known(&self, number: u64, token: &str) -> usize {
        let mut open = self.open();
        let Some(place) = open.get_mut(&number) else { return 0 };
        place.kind = ConnectionState::Known(token.to_owned());
        let tokens =
            || open.values().filter_map(|p| if let ConnectionState::Known(token) = &p.kind { Some(token) } else { None });
        let own = tokens().filter(|t| *t == token).count();
        let victim = match own > self.limits.client_connections {
            true => Some(token.to_owned()),
            false if tokens().count() > self.limits.connections => most(tokens().cloned()),
            false => None,
        };
        let Some(victim) = victim.map(ConnectionState::Known) else { return 0 };
        let others = open.iter().filter(|(n, p)| **n != number && p.kind == victim);
        // Of several that rest as long the oldest.
        match others.rev().max_by_key(|(_, p)| p.activity.rest()).map(|(n, _)| *n) {
            Some(rested) => Self::cut(&mut open, rested),
            None => 0,
        }
    }

    /// Makes room for a descriptor: the oldest that is silent, or a stranger, goes.
    pub(crate) fn make_room(&self) {
        let mut open = self.open();
        let oldest = |kind: ConnectionState| open.iter().find(|(_, p)| p.kind == kind).map(|(n, _)| *n);
        if let Some(number) = oldest(ConnectionState::Silent).or_else(|| oldest(ConnectionState::Stranger)) {
            Self::cut(&mut open, number);
        }
    }

    fn cut(open: &mut BTreeMap<u64, OpenConnection>, number: u64) -> usize {
        match open.remove(&number).and_then(|place| place.handle) {
            Some(handle) => {
                handle.abort();
                1
            }
            None => 0,
        }
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, number: u64) {
        self.open().remove(&number);
    }

    /// Open connections.
    pub(crate) fn count(&self) -> usize {
        self.open().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    struct Gated(Gate, u64, tokio::runtime::Runtime);

    impl Gated {
        fn new() -> Self {
            let limits = Limits { connections: 6, client_connections: 3, silent: 8, strangers: 4, ..Limits::default() };
            Gated(Gate::new(&limits, true), 0, tokio::runtime::Builder::new_current_thread().build().unwrap())
        }

        fn enter(&mut self, address: IpAddr) -> u64 {
            self.1 += 1;
            self.0.enter(self.1, address, Arc::default());
            self.0.watch(self.1, self.2.spawn(std::future::pending::<()>()).abort_handle());
            self.1
        }

        fn has(&self, number: u64) -> bool {
            self.0.open().contains_key(&number)
        }
    }

    #[test]
    fn one_address_takes_room_only_from_itself() {
        let mut gate = Gated::new();
        let slow = gate.enter(HERE);
        for _ in 0..1000 {
            gate.enter(THERE);
        }
        assert!(gate.has(slow) && gate.0.count() == 5, "{}", gate.0.count());
        // The same for those who have said something, and the silent ones do not touch them.
        gate.0.speaks(slow);
        for _ in 0..1000 {
            let number = gate.enter(THERE);
            gate.0.speaks(number);
        }
        assert!(gate.has(slow));
        // Many addresses: those that have most go first, then the oldest.
        for n in 0..=255 {
            let number = gate.enter(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, n)));
            assert!(gate.has(number));
        }
        assert!(gate.has(slow) && gate.0.count() <= 12);
        let v6 = |n: u128| IpAddr::V6((0x2001_0db8 << 96 | n).into());
        assert!(group(v6(1)) == group(v6(77)) && group(v6(1)) != group(v6(1 << 64)));
        assert_eq!(group("::ffff:192.0.2.1".parse().unwrap()), THERE);
    }

    #[test]
    fn a_connection_that_had_to_go_before_it_had_a_task_is_aborted() {
        let mut gate = Gated::new();
        gate.1 += 1;
        let early = gate.1;
        gate.0.enter(early, THERE, Arc::default());
        (0..100).for_each(|_| _ = gate.enter(THERE));
        assert!(!gate.has(early));
        let task = gate.2.spawn(std::future::pending::<()>());
        gate.0.watch(early, task.abort_handle());
        assert!(gate.2.block_on(task).unwrap_err().is_cancelled());
    }

    #[test]
    fn a_token_takes_room_only_from_itself_and_a_new_one_finds_some() {
        let mut gate = Gated::new();
        let mut come = |token: &str| {
            let number = gate.enter(HERE);
            gate.0.speaks(number);
            gate.0.known(number, token);
            number
        };
        let first = come("one");
        let of_one: Vec<u64> = (0..100).map(|_| come("one")).collect();
        let of_two: Vec<u64> = (0..100).map(|_| come("two")).collect();
        let three = come("three");
        let four = come("four");
        assert!(gate.has(three) && gate.has(four) && !gate.has(first));
        let left = |numbers: &[u64]| numbers.iter().filter(|n| gate.has(**n)).count();
        assert_eq!((left(&of_one), left(&of_two), gate.0.count()), (2, 2, 6));
    }
}
