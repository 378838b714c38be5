//! Every fault at object boundaries and inside bodies: a call succeeds or says why, and nothing wrong is stored or read.

use std::time::Duration;

use yester::ErrorKind;
use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::storage::{Class, Created, Name, Storage};

use crate::common::mounted::until;
use crate::net::proxy::{Fault, Plan, Proxy};
use crate::net::support::*;

const FAULTS: [Fault; 7] =
    [Fault::Cut, Fault::Reset, Fault::Stall, Fault::Truncate, Fault::Corrupt, Fault::Duplicate, Fault::Trickle];
/// How long a client waits in all for a server that stalls. It notices after half of it, and a busy machine needs some of the rest.
const STALLED: Duration = Duration::from_secs(40);
/// In the handshake, in the preface, at headers, in bodies of both directions, behind them.
const PLACES: [u64; 7] = [0, 300, 1500, 2500, 4000, 250_000, 301_500];

struct Net {
    server: Server,
    proxy: Proxy,
    token: String,
    _scratch: tempfile::TempDir,
}

impl Net {
    fn new() -> Net {
        let scratch = tempfile::tempdir().unwrap();
        let server = Server::start(scratch.path());
        server.storage("web");
        let token = server.token(server.grant("web", &FULL));
        let proxy = Proxy::to(server.port);
        Net { server, proxy, token, _scratch: scratch }
    }

    fn options(&self, timeout: Duration) -> RemoteOptions {
        RemoteOptions { timeout, ..self.server.options(&self.token) }
    }

    /// A client through the proxy that has connected already, with faults or without.
    fn client(&self, timeout: Duration) -> yester::Result<RemoteStorage> {
        RemoteStorage::open(&at_port(self.proxy.port, "web"), &self.options(timeout))
    }
}

fn plans() -> impl Iterator<Item = Plan> {
    let one = |fault| PLACES.into_iter().flat_map(move |after| [true, false].map(|up| Plan { fault, after, up, connections: 1 }));
    FAULTS.into_iter().flat_map(one)
}

/// Everything that a client does, over a line with this fault; how many connections met it. `before`: what was done here.
fn meets(net: &Net, direct: &RemoteStorage, number: usize, plan: Plan, before: usize) -> usize {
    net.proxy.set(plan);
    let seed = number as u8;
    let patience = if plan.fault == Fault::Stall { STALLED } else { PATIENT };
    let client = net.client(patience).unwrap_or_else(|e| panic!("{plan:?}: {e}"));
    let (name, object) = pack(&[noise(seed, 300_000), number.to_le_bytes().to_vec()].concat());
    match client.create(&name, &[&object]) {
        Ok(Created::New) => {}
        // It cannot be told: nothing may be counted on, and the name is given up.
        Err(e) if e.kind() == ErrorKind::Unsettled => {
            let (other, object) = pack(&[noise(seed, 300_000), vec![1, 2, 3], number.to_le_bytes().to_vec()].concat());
            must_create(&client, &other, &object);
        }
        other => panic!("{plan:?}: {other:?}"),
    }
    let session = [number.to_le_bytes().to_vec(), vec![7; 24]].concat();
    let id = yester::model::SnapshotId(session.clone().try_into().unwrap());
    must_put(&client, &Name::Session(id), &session);
    must_put(&client, &Name::Snapshot(id), &session);
    assert!(read(&client, &Name::Snapshot(id)).unwrap() == framed(&Name::Snapshot(id), &session), "{plan:?}");
    assert_eq!(client.list(Class::Snapshots).unwrap().len(), before + 1, "{plan:?}");
    client.delete(&Name::Session(id)).unwrap();
    client.sync().unwrap();
    // What is under the name, if anything is, is what was sent.
    if let Ok(found) = read(direct, &name) {
        assert!(found == object && read(&client, &name).unwrap() == object, "{plan:?}");
    }
    net.proxy.hits()
}

/// Whatever was stored is whole.
fn all_is_whole(direct: &RemoteStorage) {
    for (name, size) in direct.list(Class::Packs).unwrap() {
        let found = read(direct, &name).unwrap();
        let (content, tail) = found.split_at(found.len() - 32);
        assert!(found.len() as u64 == size && blake3::hash(content) == *tail && name.leaf() == blake3::hash(content).to_string());
    }
}

#[test]
fn after_one_fault_every_call_succeeds_and_nothing_is_wrong() {
    let (stalls, others): (Vec<_>, Vec<_>) = plans().enumerate().partition(|(_, plan)| plan.fault == Fault::Stall);
    let hits: usize = std::thread::scope(|scope| {
        // Those that wait do so at the same time, each on a line of its own.
        let alone = |(number, plan): (usize, Plan)| {
            scope.spawn(move || {
                let net = Net::new();
                let direct = net.server.storage_for("web", &FULL);
                let hits = meets(&net, &direct, number, plan, 0);
                all_is_whole(&direct);
                hits
            })
        };
        let waiting: Vec<_> = stalls.into_iter().map(alone).collect();
        let net = Net::new();
        let direct = net.server.storage_for("web", &FULL);
        let of = |(before, (number, plan)): (usize, (usize, Plan))| meets(&net, &direct, number, plan, before);
        let hits: usize = others.into_iter().enumerate().map(of).sum();
        all_is_whole(&direct);
        hits + waiting.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert!(hits > FAULTS.len() * PLACES.len() * 3 / 2, "only {hits} connections met a fault");
}

#[test]
fn reads_go_on_where_they_were_cut() {
    let (name, object) = pack(&noise(9, 8 << 20));
    let filled = || {
        let net = Net::new();
        must_create(&net.server.storage_for("web", &FULL), &name, &object);
        net
    };
    let goes_on = |net: &Net, fault, after, connections, patience| {
        net.proxy.set(Plan { fault, after, up: false, connections });
        let client = net.client(patience).unwrap();
        assert!(read(&client, &name).unwrap() == object, "{fault:?} after {after}");
        let mut part = Vec::new();
        client.read(&name, Some(1000..5 << 20), &mut part).unwrap();
        assert!(part == object[1000..5 << 20]);
    };
    let places = [100_000, 3 << 20, 7 << 20];
    std::thread::scope(|scope| {
        // Those that wait do so at the same time, each on a line of its own.
        for after in places {
            let (filled, goes_on) = (&filled, &goes_on);
            scope.spawn(move || goes_on(&filled(), Fault::Stall, after, 1, STALLED));
        }
        let net = filled();
        for fault in [Fault::Cut, Fault::Reset, Fault::Corrupt, Fault::Truncate] {
            places.iter().for_each(|after| goes_on(&net, fault, *after, 2, PATIENT));
        }
    });
}

#[test]
fn at_most_one_pack_is_sent_again() {
    let net = Net::new();
    for after in [100_000, 1_000_000, 1_900_000] {
        net.proxy.set(Plan { fault: Fault::Cut, after, up: true, connections: 1 });
        let client = net.client(PATIENT).unwrap();
        let (name, object) = pack(&noise(after as u8 ^ 1, 2 << 20));
        let before = net.proxy.sent();
        let mut stored = client.create(&name, &[&object]);
        if stored.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unsettled) {
            let (name, object) = pack(&noise(after as u8 ^ 2, 2 << 20));
            stored = client.create(&name, &[&object]);
        }
        assert_eq!(stored.unwrap(), Created::New);
        let sent = net.proxy.sent() - before;
        assert!(sent < 2 * object.len() as u64 + 500_000, "{sent} bytes for a pack of {}", object.len());
    }
}

/// The only test with a clock: that there is an end is what it is about.
#[test]
fn a_server_that_stalls_for_ever_ends_in_a_clear_error() {
    let net = Net::new();
    let (name, object) = pack(&noise(1, 500_000));
    for (after, up) in [(0, false), (2000, true), (100_000, true), (10_000, false)] {
        net.proxy.set(Plan { fault: Fault::Stall, after, up, connections: usize::MAX });
        let failed = net.client(Duration::from_secs(1)).and_then(|client| {
            client.create(&name, &[&object])?;
            read(&client, &name)?;
            client.list(Class::Packs)
        });
        // Ten thousand bytes are no whole piece, unless a busy machine sends small ones: then each connection brings some of
        // the pack, which is an end as well.
        let said = match failed {
            Ok(_) if (after, up) == (10_000, false) => continue,
            failed => failed.unwrap_err().to_string(),
        };
        assert!(said.contains("--timeout") || said.contains("does not answer") || said.contains("more"), "{said}");
    }
}

/// What reads a thousand frames does not wait for a dead server a thousand times; later it is asked again.
#[test]
fn a_server_that_was_given_up_is_left_alone_for_a_while() {
    let mut net = Net::new();
    // Left alone for a quarter of this.
    let client = net.client(Duration::from_secs(20)).unwrap();
    let (name, object) = pack(&noise(4, 1000));
    must_create(&client, &name, &object);
    net.server.stop();
    // How many of so many reads right after the one that gives it up end without asking it.
    let left_alone = || {
        read(&client, &name).unwrap_err();
        let asked = net.proxy.accepted();
        let ends_at_once = |_: &usize| {
            let failed = read(&client, &name).unwrap_err();
            failed.to_string().contains("does not answer (nothing was heard of it for") && net.proxy.accepted() == asked
        };
        (0..300).take_while(ends_at_once).count()
    };
    // A busy machine may need longer for so many reads than it is left alone: then it is given up anew.
    let counts: Vec<usize> = std::iter::repeat_with(left_alone).take(5).take_while(|count| *count < 300).collect();
    assert!(counts.len() < 5, "it was asked again at once: {counts:?}");
    let asked = net.proxy.accepted();
    until(|| {
        read(&client, &name).unwrap_err();
        net.proxy.accepted() != asked
    });
}

#[test]
fn a_trickle_is_no_progress_for_ever() {
    let net = Net::new();
    let client = net.client(PATIENT).unwrap();
    let (name, object) = pack(&noise(3, 100_000));
    must_create(&client, &name, &object);
    drop(client);
    net.proxy.set(Plan { fault: Fault::Trickle, after: 3000, up: false, connections: 1 });
    let client = net.client(PATIENT).unwrap();
    assert!(read(&client, &name).unwrap() == object);
    assert_eq!(net.proxy.hits(), 1);
}
