//! What a server puts up with.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::remote::protocol::Capability;
use yester::remote::tls::{TlsIdentity, Trust};
use yester::remote::tokens::Grant;
use yester::serve::objects::{ServeOptions, listen};
use yester::storage::{Class, Storage};

use crate::common::mounted::until;
use crate::net::rows::{Plain, answers};
use crate::net::support::*;

#[test]
fn five_hundred_who_say_nothing_keep_nobody_out() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = serve_options(scratch.path());
    (options.limits.silent, options.limits.strangers) = (64, 32);
    let server = Server::with(options);
    let storage = server.storage("web");
    let mut loris = Vec::new();
    for n in 0..500 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        // Some begin a handshake and never go on.
        if n % 2 == 0 {
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1]);
        }
        loris.push(stream);
        if n % 100 == 99 {
            // One who is there already, and one who comes now.
            storage.list(Class::Packs).unwrap();
            drop(server.storage_for("web", &FULL));
        }
    }
    let (name, object) = pack(&noise(1, 1 << 20));
    must_create(&server.storage_for("web", &FULL), &name, &object);
    assert!(read(&storage, &name).unwrap() == object);
    // Most of them were cut; those that were told to go last may take a moment.
    let is_open = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!(stream.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    };
    // Half of each kind may be of one address.
    until(|| loris.iter().filter(|stream| is_open(stream)).count() <= 48 + 5);
}

#[test]
fn who_stands_still_is_cut() {
    let plain = Plain::with(|options| {
        options.limits.idle = Duration::from_secs(1);
        options.limits.first_request = Duration::from_secs(1);
    });
    let (name, object) = pack(&noise(1, 100_000));
    let path = yester::remote::protocol::object_path(&name);
    // No request, half a request, and half a body.
    let half = format!("{}Content-Length: {}\r\n\r\n", plain.head("PUT", &path), object.len());
    for begin in [Vec::new(), half.as_bytes()[..40].to_vec(), [half.as_bytes(), &object[..50_000]].concat()] {
        let mut stream = plain.connect();
        // On a busy machine it may be cut before all of this is said.
        let _ = stream.write_all(&begin);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.contains("408"), "{said}");
    }
    // Whoever was cut may know it a moment before the file is gone.
    let start = std::time::Instant::now();
    while plain.files() > 0 {
        assert!(start.elapsed() < PATIENT, "half an upload was kept");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Who takes nothing of what he asked for.
    let storage = yester::storage::directory::DirectoryStorage::open(&plain.server.root.join("web")).unwrap();
    let (name, object) = pack(&noise(2, 64 << 20));
    must_create(&storage, &name, &object);
    let head = format!("{}\r\n", plain.head("GET", &yester::remote::protocol::object_path(&name)));
    // A busy machine may need longer to notice.
    let is_cut = |seconds| {
        let mut stream = plain.connect();
        // On a busy machine it may be cut before this is said.
        let _ = stream.write_all(head.as_bytes());
        std::thread::sleep(Duration::from_secs(seconds));
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        got.len() < object.len()
    };
    assert!([4, 15, 60].into_iter().any(is_cut), "all of it came");
}

#[test]
fn one_client_cannot_have_all_the_memory() {
    let plain = Plain::with(|options| options.limits.requests = 8);
    let storage = yester::storage::directory::DirectoryStorage::open(&plain.server.root.join("web")).unwrap();
    let (name, object) = pack(&noise(2, 16 << 20));
    must_create(&storage, &name, &object);
    let head = format!("{}\r\n", plain.head("GET", &yester::remote::protocol::object_path(&name)));
    let (put, _) = pack(b"never comes");
    let upload = format!("{}Content-Length: 1000000\r\n\r\n", plain.head("PUT", &yester::remote::protocol::object_path(&put)));
    let mut open = Vec::new();
    let mut said = String::new();
    for _ in 0..100 {
        // One that came while the look below was under way may have been refused.
        let mut stream = plain.connect();
        stream.write_all(upload.as_bytes()).unwrap();
        open.push(stream);
        let mut stream = plain.connect();
        stream.write_all(head.replace("Host: x", "Host: x\r\nConnection: close").as_bytes()).unwrap();
        let mut first = [0; 400];
        let n = stream.read(&mut first).unwrap();
        said = String::from_utf8_lossy(&first[..n]).into_owned();
        if said.contains("429") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(said.contains("429"), "{said}");
    // Another client is served all the while.
    let other = plain.server.token(plain.server.grant("web", &FULL));
    let mut stream = plain.connect();
    let asks = plain.head("GET", "/v1/repository").replace(&plain.token, &other) + "Connection: close\r\n\r\n";
    stream.write_all(asks.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answers(&answer, 200, "capabilities");
}

#[test]
fn it_does_not_listen_to_others_without_tls_and_tokens() {
    let scratch = tempfile::tempdir().unwrap();
    let everywhere = ServeOptions { listen: "0.0.0.0:0".parse().unwrap(), ..serve_options(scratch.path()) };
    let said = listen(ServeOptions { no_tls: true, ..everywhere.clone() }).unwrap_err().to_string();
    assert!(said.contains("without TLS"), "{said}");
    let said = listen(everywhere.clone()).unwrap_err().to_string();
    assert!(said.contains("no token"), "{said}");
    yester::serve::objects::tokens(scratch.path()).create(Grant::default()).unwrap();
    assert!(listen(everywhere).is_ok());
}

#[test]
fn health_and_counters() {
    let plain = Plain::with(|_| {});
    let (name, object) = pack(b"counted");
    let put = plain.ask(
        "PUT",
        &yester::remote::protocol::object_path(&name),
        &format!("Content-Length: {}\r\n", object.len()),
        &object,
    );
    answers(&put, 201, "");
    assert!(plain.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ends_with("ok\n"));
    answers(&plain.say(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), 401, "token");
    answers(&plain.ask("GET", "/metrics", "", b""), 403, "metrics");
    let reader = plain.server.token(Grant { capabilities: vec![Capability::Metrics], ..Grant::default() });
    let asks = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {reader}\r\n\r\n");
    let said = plain.say(asks.as_bytes());
    answers(&said, 200, &format!("yester_received_bytes_total {}\n", object.len()));
    assert!(said.contains("yester_objects_created_total 1\n") && said.contains("yester_unauthorized_total 1\n"), "{said}");
    // And for nothing else.
    answers(
        &plain.say(asks.replace("/metrics", "/v1/repository").replace("Host: x", "Host: x\r\nyester-protocol: 1").as_bytes()),
        403,
        "",
    );
}

#[test]
fn a_server_that_stops_ends_what_is_under_way() {
    let mut plain = Plain::with(|options| options.limits.stopping = PATIENT);
    let (name, object) = pack(&noise(1, 200_000));
    let head =
        format!("{}Content-Length: {}\r\n\r\n", plain.head("PUT", &yester::remote::protocol::object_path(&name)), object.len());
    let mut stream = plain.connect();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&object[..100_000]).unwrap();
    while plain.files() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (rest, port) = (object[100_000..].to_vec(), plain.server.port);
    let writer = std::thread::spawn(move || {
        // It stops: nobody else is let in. Later somebody else may listen on its port.
        until(|| TcpStream::connect(("127.0.0.1", port)).is_err());
        stream.write_all(&rest).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    plain.server.stop();
    answers(&writer.join().unwrap(), 201, "");
    assert_eq!(plain.files(), 1);
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let made = |name: &str| TlsIdentity::made(&scratch.path().join(name), &["localhost".to_owned()], &[]).unwrap();
    let (old, new, shown) = (made("old"), made("new"), scratch.path().join("shown"));
    std::fs::create_dir(&shown).unwrap();
    let files = (shown.join("chain.pem"), shown.join("key.pem"));
    let put = |(chain, key): &(PathBuf, PathBuf)| {
        for (from, to) in [(chain, &files.0), (key, &files.1)] {
            // In one step each, as programs do that renew certificates.
            let temporary = shown.join("new");
            std::fs::copy(from, &temporary).and_then(|_| std::fs::rename(&temporary, to)).unwrap();
        }
    };
    put(&old);
    let root = scratch.path().join("root");
    let server = Server::with(ServeOptions { certificate: Some(files.clone()), ..serve_options(&root) });
    let storage = server.storage("web");
    let token = server.token(server.grant("web", &FULL));
    let sees = |pair: &(PathBuf, PathBuf)| {
        let fingerprint = TlsIdentity::read(&pair.0, &pair.1).unwrap().fingerprint();
        let trust = Trust { fingerprint, authorities: None };
        RemoteStorage::open(&server.address("web"), &RemoteOptions { trust, ..server.options(&token) }).is_ok()
    };
    assert!(sees(&old) && !sees(&new));
    // A chain without its key, and something that is no certificate: the old one is shown.
    for half in [new.0.clone(), new.1.clone()] {
        std::fs::copy(half, &files.0).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        assert!(sees(&old) && !sees(&new));
    }
    put(&new);
    let deadline = Instant::now() + PATIENT;
    while !sees(&new) {
        assert!(Instant::now() < deadline, "the new certificate is not shown");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!sees(&old));
    // Who was connected still is.
    storage.list(Class::Packs).unwrap();
}
