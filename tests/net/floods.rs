//! What was thrown at the server to bring it down: each attack, that it ends, and that others are served meanwhile.

use std::io::{Read, Write};
use std::time::Duration;

use yester::ErrorKind;
use yester::remote::protocol::{RepositoryName, object_path};
use yester::remote::tokens::Grant;
use yester::storage::{Class, Name, Storage};

use crate::net::child::Program;
use crate::net::frames::*;
use crate::net::rows::{Plain, answers};
use crate::net::support::*;

/// What the server may take for all of these, beyond what it needs.
const MOST_MEMORY: u64 = 96 << 20;

fn grant() -> Grant {
    Grant { repository: Some(RepositoryName::parse("web").unwrap()), capabilities: FULL.to_vec(), ..Grant::default() }
}

/// One attack on a connection of its own. It goes on until the server has had enough of it, or for `times`; answers are not
/// read before.
fn flood(program: &Program, token: &str, times: usize, mut next: impl FnMut(&mut Raw) -> Vec<u8>) {
    let mut raw = Raw::at(program.port, token, &[]);
    raw.stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    for _ in 0..times {
        let bytes = next(&mut raw);
        if !raw.send(&bytes) {
            break;
        }
    }
    let other = program.token(grant());
    answers(&program.ask(&other, "GET", "/v1/repository", "", b""), 200, "capabilities");
}

#[test]
fn floods_of_http2_end_and_keep_nobody_out() {
    let program = Program::start(&["--idle-timeout", "2"]);
    let token = program.token(grant());
    // Rapid reset: a request, and its end before there is an answer.
    flood(&program, &token, 20_000, |raw| {
        let (number, headers) = (raw.number(), raw.headers("GET", "/v1/objects/packs", &[]));
        [frame(HEADERS, END_STREAM | END_HEADERS, number, &headers), frame(RST_STREAM, 0, number, &8_u32.to_be_bytes())].concat()
    });
    // Made you reset: a request, and something that makes the server end it.
    flood(&program, &token, 20_000, |raw| {
        let (number, headers) = (raw.number(), raw.headers("GET", "/v1/objects/packs", &[]));
        [frame(HEADERS, END_STREAM | END_HEADERS, number, &headers), frame(WINDOW_UPDATE, 0, number, &[0; 4])].concat()
    });
    // Headers that go on and on.
    let mut first = true;
    flood(&program, &token, 20_000, |raw| match std::mem::take(&mut first) {
        true => frame(HEADERS, END_STREAM, 1, &raw.headers("GET", "/v1/repository", &[])),
        false => frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(8000))])),
    });
    // A header of 4,000 bytes in the table, and ten thousand times its number.
    flood(&program, &token, 100, |raw| {
        let mut bomb = raw.headers("GET", "/v1/repository", &[]);
        let literal = block(&[("x", &"y".repeat(4000))]);
        bomb.push(0x40);
        bomb.extend_from_slice(&literal[1..]);
        bomb.extend(std::iter::repeat_n(0xbe, 10_000));
        frame(HEADERS, END_STREAM | END_HEADERS, raw.number(), &bomb)
    });
    // Pings, settings, priorities and empty frames, whose answers nobody reads.
    flood(&program, &token, 200_000, |_| frame(PING, 0, 0, &[1; 8]));
    flood(&program, &token, 200_000, |_| setting(INITIAL_WINDOW, 65_535));
    flood(&program, &token, 200_000, |_| frame(2, 0, 1, &[0, 0, 0, 3, 7]));
    let mut first = true;
    flood(&program, &token, 200_000, |raw| match std::mem::take(&mut first) {
        true => frame(HEADERS, END_HEADERS, 1, &raw.headers("PUT", "/v1/objects/packs/00", &[])),
        false => frame(DATA, 0, 1, &[]),
    });
    // Frames of kinds that nobody knows, of lengths that nobody may send, and on streams that are not there.
    flood(&program, &token, 1000, |_| frame(0xee, 0xff, 9, &[9; 16_000]));
    flood(&program, &token, 10, |_| frame(DATA, 0, 1001, &[9; 100_000]));
    flood(&program, &token, 10, |_| frame(GOAWAY, 0, 0, &[0; 8]));
    let most = program.most_memory();
    assert!(most < MOST_MEMORY, "the server had {most} bytes");
}

/// Requests that two servers may read as different ones. Each hides a deletion of `victim` in what may be a body.
fn ambiguous(head: &str, victim: &str) -> Vec<String> {
    let hidden = head.replace("GET /healthz", &format!("DELETE {victim}")) + "\r\n";
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let length = hidden.len();
    let with = |headers: &str, body: &str| format!("{head}{headers}\r\n{body}");
    vec![
        with(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &format!("0\r\n\r\n{hidden}")),
        with(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), &chunk),
        with(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), &hidden),
        with(&format!("Content-Length: {length}\r\nContent-Length: 0\r\n"), &hidden),
        with(&format!("Content-Length: 0, {length}\r\n"), &hidden),
        with(&format!("Content-Length: +{length}\r\n"), &hidden),
        with(&format!("Content-Length: -{length}\r\n"), &hidden),
        with(&format!("Content-Length: 0x{length:x}\r\n"), &hidden),
        with(&format!("Content-Length: {length}.0\r\n"), &hidden),
        with(&format!("Content-Length : {length}\r\n"), &hidden),
        with(&format!("Content-Length:\u{b}{length}\r\n"), &hidden),
        with(&format!("Content-Length: 1\r\n 8{length}\r\n"), &hidden),
        with(&format!("X: y\r\n Content-Length: {length}\r\n"), &hidden),
        with(&format!("X: y\rContent-Length: {length}\r\n"), &hidden),
        with(&format!("Content-Length: {length}\0\r\n"), &hidden),
        with("Content-Length: 99999999999999999999999\r\n", &hidden),
        with("Transfer-Encoding: xchunked\r\n", &chunk),
        with("Transfer-Encoding: chunked, identity\r\n", &chunk),
        with("Transfer-Encoding: identity, chunked\r\n", &chunk),
        with("Transfer-Encoding: \u{b}chunked\r\n", &chunk),
        with("Transfer-Encoding : chunked\r\n", &chunk),
        with("Transfer_Encoding: chunked\r\n", &chunk),
        with("Transfer-Encoding:\r\n chunked\r\n", &chunk),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", &chunk),
        with("Transfer-Encoding: chunked\r\n", &format!("{length:x};a=\"\n\"\r\n{hidden}\r\n0\r\n\r\n")),
        with("Transfer-Encoding: chunked\r\n", &format!("0x{length:x}\r\n{hidden}\r\n0\r\n\r\n")),
        with("Transfer-Encoding: chunked\r\n", &format!("ffffffffffffffffff\r\n{hidden}")),
        with("Transfer-Encoding: chunked\r\n", &format!("-1\r\n{hidden}")),
        with(&format!("Connection: content-length\r\nContent-Length: {length}\r\n"), &hidden),
        with(&format!("Expect: 100-continue\r\nContent-Length: {length}\r\n"), &hidden),
        with(
            &format!(
                "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: {length}\r\n"
            ),
            &hidden,
        ),
    ]
}

#[test]
fn what_may_be_a_body_is_no_request() {
    let plain = Plain::with(|options| {
        (options.limits.first_request, options.limits.idle) = (Duration::from_secs(2), Duration::from_secs(2));
    });
    let storage = plain.server.storage_local();
    let (name, object) = pack(b"victim");
    must_create(&storage, &name, &object);
    // A request that never reaches the token, so that what follows on the connection is what counts.
    let head = plain.head("GET", "/healthz");
    for request in ambiguous(&head, &object_path(&name)) {
        let said = plain.say(request.as_bytes());
        assert!(!said.contains(" 204 "), "{request:?} was taken apart: {said:?}");
        assert!(read(&storage, &name).is_ok(), "{request:?} deleted something");
    }
    // On HTTP/2 there is a length in the frames, and no other is believed.
    for (more, data) in [
        (&[("content-length", "5")][..], &b"123"[..]),
        (&[("content-length", "5")], b"1234567"),
        (&[("content-length", "-5")], b"12345"),
        (&[("transfer-encoding", "chunked")], b"5\r\n12345\r\n0\r\n\r\n"),
        (&[("connection", "close")], b"12345"),
        (&[(":path", "/v1/objects/packs/00")], b"12345"),
        (&[("x\r\ny", "z")], b""),
        (&[("Upper", "z")], b""),
        (&[("x", "a\r\nauthorization: b")], b""),
    ] {
        let mut raw = Raw::to(&plain, &[]);
        let number = raw.number();
        let headers = raw.headers("PUT", &format!("/v1/objects/sessions/{}", id(9)), more);
        raw.send(&frame(HEADERS, END_HEADERS, number, &headers));
        raw.send(&frame(DATA, END_STREAM, number, data));
        raw.send(&frame(GOAWAY, 0, 0, &[0; 8]));
        raw.ends();
        assert!(storage.list(Class::Sessions).unwrap().is_empty(), "{more:?} stored something");
    }
}

#[test]
fn a_disk_without_room_is_said_before_the_body() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("small");
    std::fs::create_dir(&root).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&root).status().unwrap();
    assert!(mounted.success());
    let server = Server::start(&root);
    let storage = server.storage("web");
    let (first, object) = pack(&noise(1, 1 << 20));
    must_create(&storage, &first, &object);
    let (large, body) = pack(&noise(2, 8 << 20));
    let e = storage.create(&large, &[&body]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Full, "callers do not take it for a full disk: {e}");
    assert!(e.to_string().contains("no room"), "{e}");
    // What fills up while it is written is cut, and leaves nothing.
    let filler = std::thread::spawn({
        let path = root.join("filler");
        move || std::fs::write(path, vec![1; 8 << 20]).is_err()
    });
    assert!(filler.join().unwrap());
    let (second, other) = pack(&noise(3, 900_000));
    assert_eq!(storage.create(&second, &[&other]).unwrap_err().kind(), ErrorKind::Full);
    assert!(put(&storage, &Name::Session(id(1)), &noise(4, 50_000)).is_err());
    std::fs::remove_file(root.join("filler")).unwrap();
    must_create(&storage, &second, &other);
    assert!(read(&storage, &first).unwrap() == object);
    drop((storage, server));
    assert!(std::process::Command::new("umount").arg("-l").arg(&root).status().unwrap().success());
}

#[test]
fn a_server_that_is_killed_in_uploads_has_what_it_acknowledged_and_nothing_else() {
    let mut program = Program::start(&[]);
    let token = program.token(grant());
    let mut acknowledged = Vec::new();
    for n in 0..6_u8 {
        let (whole, object) = pack(&noise(n, 200_000));
        let length = format!("Content-Length: {}\r\n", object.len());
        answers(&program.ask(&token, "PUT", &object_path(&whole), &length, &object), 201, "");
        acknowledged.push((whole, object));
        // Half of another, and a session of which all but the end is there.
        let (half, object) = pack(&noise(100 + n, 500_000));
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: x\r\nyester-protocol: 1\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
            object_path(&half),
            object.len()
        );
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", program.port)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&object[..usize::from(n) * 90_000 + 10]).unwrap();
        program.child.kill().unwrap();
        program.child.wait().unwrap();
        let _ = stream.read(&mut [0]);
        program.again();
        let said = program.ask(&token, "GET", "/v1/objects/packs", "", b"");
        assert!(said.contains(&format!("end {}\n", acknowledged.len())), "{said}");
        for (name, object) in &acknowledged {
            assert!(read(&program.web(), name).unwrap() == *object);
        }
        assert!(program.web().list(Class::Packs).unwrap().iter().all(|(name, _)| *name != half));
    }
    // What it left is found and removed.
    answers(&program.ask(&token, "DELETE", "/v1/leftovers", "", b""), 200, "files");
    answers(&program.ask(&token, "GET", "/v1/leftovers", "", b""), 200, "\"files\":0");
}

#[test]
fn what_strangers_say_is_escaped_in_the_log() {
    let program = Program::start(&["-v"]);
    let token = program.token(grant());
    for path in ["/\x1b[31mred", "/%1b[31m", "/a\u{202e}b", "/v1/objects/packs/\x07"] {
        program.ask(&token, "GET", path, "X: \x1b[2J\r\n", b"");
    }
    program.ask("\x1b[31m", "GET", "/v1/repository", "", b"");
    let mut raw = Raw::at(program.port, &token, &[]);
    let number = raw.get("/v1/objects/snapshots/\u{1b}[31m");
    raw.send(&frame(GOAWAY, 0, 0, &[0; 8]));
    raw.ends();
    assert!(number == 1 && !program.log().contains(['\x1b', '\x07', '\u{202e}']), "{}", program.log());
}
