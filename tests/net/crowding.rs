//! Those who take more than their share: of connections, of memory, of time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use yester::model::SnapshotId;
use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::remote::protocol::{Capability, RepositoryName};
use yester::remote::tokens::Grant;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Created, Name, Storage};

use crate::common::mounted::until;
use crate::net::child::Program;
use crate::net::frames::{INITIAL_WINDOW, Raw};
use crate::net::proxy::{Fault, Plan, Proxy};
use crate::net::rows::{Plain, answers};
use crate::net::support::*;

/// One connect after the other, a thousand of them, says nothing and is left open.
fn bare(port: u16) -> Vec<TcpStream> {
    (0..1000).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect()
}

#[test]
fn bare_connects_cut_nobody_who_is_half_way_in() {
    let scratch = tempfile::tempdir().unwrap();
    // On a busy machine two thousand connects take a while. What is tested is the room that strangers have, not their time.
    let mut options = serve_options(scratch.path());
    options.limits.first_request = PATIENT;
    let server = Server::with(options);
    drop(server.storage("web"));
    let token = server.token(server.grant("web", &FULL));
    let trust = yester::remote::tls::Trust { fingerprint: server.fingerprint, authorities: None };
    let mut config = trust.config().unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut tls = rustls::ClientConnection::new(config.into(), "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    // The other half of the way: the server has answered, and its answer is on the way for as long as a thousand take.
    tls.write_tls(&mut stream).unwrap();
    tls.read_tls(&mut stream).unwrap();
    let mut crowd = bare(server.port);
    tls.process_new_packets().unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).unwrap();
    }
    crowd.extend(bare(server.port));
    let asks = format!(
        "GET /v1/repository HTTP/1.1\r\nHost: x\r\nyester-protocol: 1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    let mut stream = rustls::Stream::new(&mut tls, &mut stream);
    stream.write_all(asks.as_bytes()).unwrap();
    let mut said = String::new();
    let _ = stream.read_to_string(&mut said);
    answers(&said, 200, "capabilities");
}

#[test]
fn one_token_has_not_all_connections() {
    let plain = Plain::with(|options| (options.limits.connections, options.limits.client_connections) = (16, 8));
    let reader = plain.server.token(plain.server.grant("web", &[Capability::Get]));
    let asks = format!("{}\r\n", plain.head("GET", "/v1/repository"));
    let ask = |token: &str| {
        let mut stream = plain.connect();
        stream.write_all(asks.replace(&plain.token, token).as_bytes()).unwrap();
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first));
        stream
    };
    let mut others: Vec<TcpStream> = Vec::new();
    let many: Vec<String> = (0..4).map(|_| plain.server.token(plain.server.grant("web", &FULL))).collect();
    for n in 0..200 {
        others.push(ask(&reader));
        others.push(ask(&many[n % many.len()]));
        if n % 20 == 19 {
            // Whoever comes with another token is let in, and stays while it works.
            let mut mine = ask(&plain.token);
            mine.write_all(asks.as_bytes()).unwrap();
        }
    }
    // Those that were told to go may take a moment.
    until(|| others.iter().filter(|stream| is_open(stream)).count() <= 16);
}

/// Whether the other side has not closed this connection.
fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut rest = Vec::new();
    matches!(stream.read_to_end(&mut rest), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn an_upload_that_is_the_first_request_may_take_longer_than_strangers_have() {
    let (name, object) = pack(&noise(1, 100_000));
    // The upload takes longer than strangers have, whatever that is. A busy machine may need more of it to let it in.
    let uploaded = |seconds: u64| {
        let plain = Plain::with(|options| options.limits.first_request = Duration::from_secs(seconds));
        let head = format!(
            "{}Content-Length: {}\r\nConnection: close\r\n\r\n",
            plain.head("PUT", &yester::remote::protocol::object_path(&name)),
            object.len()
        );
        let mut stream = plain.connect();
        let mut goes_on = stream.write_all(head.as_bytes()).is_ok();
        for piece in object.chunks(5000) {
            goes_on = goes_on && stream.write_all(piece).is_ok();
            std::thread::sleep(Duration::from_millis(70 * seconds));
        }
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        goes_on && said.starts_with("HTTP/1.1 201")
    };
    assert!([3, 10, 60].into_iter().any(uploaded), "it was cut");
}

#[test]
fn a_slow_line_uploads_a_pack() {
    // The slower the line, the longer all wait: what is on the way when all has been handed over takes longer than one wait
    // for an answer. A busy machine, whose disk takes long as well, may need more than the first of these.
    let uploaded = |(seconds, millis): (u64, u64)| {
        let scratch = tempfile::tempdir().unwrap();
        let mut options = serve_options(scratch.path());
        let timeout = Duration::from_secs(seconds);
        (options.limits.first_request, options.limits.idle) = (timeout, timeout);
        let server = Server::with(options);
        drop(server.storage("web"));
        let token = server.token(server.grant("web", &FULL));
        let proxy = Proxy::to(server.port);
        proxy.set(Plan { fault: Fault::Slow(millis), after: 0, up: true, connections: usize::MAX });
        let options = RemoteOptions { timeout, ..server.options(&token) };
        let storage = RemoteStorage::open(&at_port(proxy.port, "web"), &options)?;
        let upload = |n: u8| {
            let (name, object) = pack(&noise(n, 4 << 20));
            storage.create(&name, &[&object])
        };
        let created = std::thread::scope(|scope| {
            let threads = [0, 1].map(|n| scope.spawn(move || upload(n)));
            threads.map(|thread| thread.join().unwrap())
        });
        let created: yester::Result<Vec<Created>> = created.into_iter().collect();
        created.map(|created| (created, proxy.sent()))
    };
    let mut said = Vec::new();
    for pace in [(5, 31), (20, 124), (60, 372)] {
        match uploaded(pace) {
            Ok((created, sent)) if created == [Created::New, Created::New] && sent < 10 << 20 => return,
            other => said.push(other),
        }
    }
    panic!("it was sent again, or not at all: {said:?}");
}

#[test]
fn what_is_not_taken_is_cut_though_the_socket_moves() {
    // Long enough for the head of an answer on a busy machine.
    let plain = Plain::with(|options| options.limits.idle = Duration::from_secs(8));
    let storage = DirectoryStorage::open(&plain.server.root.join("web")).unwrap();
    let (name, object) = pack(&noise(2, 4 << 20));
    must_create(&storage, &name, &object);
    std::thread::scope(|scope| {
        for path in [yester::remote::protocol::object_path(&name), "/v1/objects/packs".to_owned(), "/v1/repository".to_owned()] {
            let mut raw = Raw::to(&plain, &[(INITIAL_WINDOW, 0)]);
            scope.spawn(move || {
                let number = raw.get(&path);
                raw.answered(number);
                // Pings go to and fro all the while.
                let mut pinging = raw.stream.try_clone().unwrap();
                let pings = std::thread::spawn(move || {
                    while pinging.write_all(&crate::net::frames::frame(crate::net::frames::PING, 0, 0, &[7; 8])).is_ok() {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                });
                raw.ends();
                pings.join().unwrap();
            });
        }
    });
}

#[test]
fn lists_that_nobody_takes_cost_no_memory() {
    let program = Program::start(&["--idle-timeout", "600"]);
    for n in 0..20_000_u32 {
        let id = SnapshotId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        std::fs::write(program.root.join(format!("web/snapshots/{id}")), b"").unwrap();
    }
    let grant =
        || Grant { repository: Some(RepositoryName::parse("web").unwrap()), capabilities: FULL.to_vec(), ..Grant::default() };
    let (greedy, other) = (program.token(grant()), program.token(grant()));
    // 240 lists of 2 MB each.
    let mut raws: Vec<Raw> = Vec::new();
    for n in 0..2 {
        let mut raw = Raw::at(program.port, &greedy, &[(INITIAL_WINDOW, 0)]);
        let numbers: Vec<u32> = (0..120).map(|_| raw.get("/v1/objects/snapshots")).collect();
        // Whichever the server begins with. Those of the second wait for memory that the first holds.
        if n == 0 {
            raw.answered_one_of(&numbers);
        }
        raws.push(raw);
    }
    assert!(program.ask(&other, "GET", "/v1/objects/snapshots", "", b"").contains("end 20000\n"));
    let most = program.most_memory();
    assert!(most < 96 << 20, "the server had {most} bytes");
}

#[test]
fn a_client_goes_on_while_others_hold_all_the_memory() {
    let plain = Plain::with(|options| {
        (options.limits.client_bytes, options.limits.total_bytes) = (2 << 20, 4 << 20);
        options.limits.idle = Duration::from_secs(120);
    });
    let storage = DirectoryStorage::open(&plain.server.root.join("web")).unwrap();
    let (name, object) = pack(&noise(2, 8 << 20));
    must_create(&storage, &name, &object);
    let path = yester::remote::protocol::object_path(&name);
    let mut held = Vec::new();
    for _ in 0..4 {
        let token = plain.server.token(plain.server.grant("web", &FULL));
        for _ in 0..8 {
            let mut stream = plain.connect();
            stream.write_all(format!("{}\r\n", plain.head("GET", &path).replace(&plain.token, &token)).as_bytes()).unwrap();
            held.push(stream);
        }
    }
    let said = plain.ask("GET", &path, "", b"");
    assert!(said.len() >= object.len() / 2, "{} bytes came", said.len());
    let (name, object) = pack(&noise(3, 2 << 20));
    let put = plain.ask(
        "PUT",
        &yester::remote::protocol::object_path(&name),
        &format!("Content-Length: {}\r\n", object.len()),
        &object,
    );
    answers(&put, 201, "");
    let mut got = Vec::new();
    storage.read(&name, None, &mut got).unwrap();
    assert!(got == object && matches!(name, Name::Pack(_)));
}
