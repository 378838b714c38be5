//! Servers that lie: sizes and lists that cannot be, answers that are another's, cut, mixed, sent elsewhere, or meant for the
//! terminal. A call ends with an error that says what is wrong, and nothing panics.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use yester::ErrorKind;
use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::remote::tls::Trust;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name, Storage};

use crate::common::program::{World, shown};
use crate::net::rows::{TOKEN, own};
use crate::net::support::*;

type Out<'a> = dyn FnMut(&[u8]) -> std::io::Result<()> + 'a;

/// A server over TLS that answers each request, given by its head, as it likes.
fn liar(answer: impl Fn(&str, &mut Out<'_>) -> std::io::Result<()> + Send + Sync + 'static) -> (u16, Trust) {
    let scratch = tempfile::tempdir().unwrap();
    let (config, trust) = own(scratch.path());
    let (config, answer) = (Arc::new(config), Arc::new(answer));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (config, answer) = (config.clone(), answer.clone());
            std::thread::spawn(move || {
                let mut tls = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::Stream::new(&mut tls, &mut stream);
                let (mut head, mut byte) = (Vec::new(), [0]);
                while stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    // The client names the whole address; what counts is the path.
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let text = match (text.find("https://"), text.find("/v1/")) {
                        (Some(from), Some(to)) if from < to => [&text[..from], &text[to..]].concat(),
                        _ => text,
                    };
                    let lower = text.to_lowercase();
                    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
                    let mut body = vec![0; length.unwrap_or(0)];
                    if stream.read_exact(&mut body).is_err() {
                        return;
                    }
                    let mut out = |bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush());
                    if answer(&text, &mut out).is_err() {
                        return;
                    }
                    head.clear();
                }
            });
        }
    });
    (port, trust)
}

fn good(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\nyester-protocol: 1\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

const ABOUT: &[u8] = br#"{"free":18446744073709551615,"capabilities":["put","get","list","prune"]}"#;

fn options(trust: Trust) -> RemoteOptions {
    let token = Some(zeroize::Zeroizing::new(TOKEN.to_owned()));
    RemoteOptions { token, trust, timeout: PATIENT, ..RemoteOptions::default() }
}

/// A client of a server that says what it is asked for in the first place, and then `answer` to everything.
fn client(answer: impl Fn(&str, &mut Out<'_>) -> std::io::Result<()> + Send + Sync + 'static) -> RemoteStorage {
    client_for(PATIENT, answer)
}

/// The same, which waits so long for an answer that can be used.
fn client_for(
    timeout: Duration,
    answer: impl Fn(&str, &mut Out<'_>) -> std::io::Result<()> + Send + Sync + 'static,
) -> RemoteStorage {
    let (port, trust) = liar(move |head, out| match head.starts_with("GET /v1/repository") {
        true => out(&good(200, ABOUT)),
        false => answer(head, out),
    });
    RemoteStorage::open(&at_port(port, "web"), &RemoteOptions { timeout, ..options(trust) }).unwrap()
}

#[test]
fn sizes_that_nothing_can_have_stop_no_command() {
    let world = World::new();
    let local = world.repository();
    let file = shown(&world.file("src/a", noise(1, 300_000)));
    for _ in 0..2 {
        world.run(&[&local[..], &["ingest".to_owned(), "-q".to_owned(), file.clone()]].concat()).ok();
    }
    let storage = DirectoryStorage::open(&world.at("repo")).unwrap();
    let (port, trust) = liar(move |head, out| {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let object = path.strip_prefix("/v1/objects/").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
        let class = |text: &str| Class::ALL.into_iter().find(|class| class.prefix() == text).unwrap();
        match (method, object) {
            ("GET", None) => out(&good(200, ABOUT)),
            ("GET", Some((text, ""))) => {
                let listed = storage.list(class(text)).unwrap();
                let line = |(name, _): &(Name, u64)| format!("{} {} {}.999999999\n", name.leaf(), u64::MAX, i64::MAX);
                let text: String = listed.iter().map(line).collect();
                out(&good(200, format!("{text}end {}\n", listed.len()).as_bytes()))
            }
            ("GET", Some((text, leaf))) => {
                let name = Name::parse(class(text), leaf).unwrap();
                let Ok(whole) = read(&storage, &name) else { return out(&good(404, br#"{"error":"not_found","message":""}"#)) };
                let range =
                    head.to_lowercase().split("range: bytes=").nth(1).map(|rest| rest.split('\r').next().unwrap().to_owned());
                let Some(range) = range else { return out(&good(200, &whole)) };
                let (from, to) = range.split_once('-').unwrap();
                let from: usize = from.parse().unwrap();
                let to = to.parse::<usize>().unwrap().min(whole.len() - 1);
                match whole.get(from..to + 1).filter(|part| !part.is_empty()) {
                    Some(part) => out(&good(206, part)),
                    None => out(&good(416, br#"{"error":"range","message":""}"#)),
                }
            }
            ("PUT", _) => out(&good(201, b"")),
            _ => out(&good(204, b"")),
        }
    });
    let repo = at_port(port, "web").to_string();
    let pin = trust.fingerprint.unwrap().to_string();
    let key = shown(&world.at("key"));
    let target = shown(&world.at("back"));
    let commands: [&[&str]; 12] = [
        &["snapshots"],
        &["ls", "latest"],
        &["stats"],
        &["check"],
        &["check", "--read-data"],
        &["restore", "latest", "--target", &target],
        &["prune", "-n"],
        &["forget", "--keep-last", "1", "-n", "--prune"],
        &["ingest", "-q", &file],
        &["repair", "index"],
        &["forget", "--keep-last", "1", "--prune"],
        &["prune"],
    ];
    for command in commands {
        let command = [&["--timeout", "5"], command].concat();
        let variables =
            [("YESTER_REPO", &*repo), ("YESTER_TOKEN", TOKEN), ("YESTER_TLS_FINGERPRINT", &pin), ("YESTER_KEY_FILE", &key)];
        let ran = world.run_with(&variables, &command);
        let died = ran.err.contains("panicked") || ran.err.contains("defect") || ran.code.is_none_or(|code| code > 12);
        assert!(!died, "{command:?}: {:?} {}", ran.code, ran.err);
    }
}

#[test]
fn a_list_without_end_ends() {
    let line = format!("{} 1 1.000000000\n", id(1)).repeat(1000);
    let storage = client(move |_, out| {
        out(b"HTTP/1.1 200 OK\r\nyester-protocol: 1\r\n\r\n")?;
        loop {
            out(line.as_bytes())?;
        }
    });
    let said = storage.list(Class::Sessions).unwrap_err().to_string();
    assert!(said.contains("more than 1048576 objects"), "{said}");
}

#[test]
fn lists_that_make_no_sense_are_errors() {
    let line = |n: u8| format!("{} 1 1.000000000\n", id(n));
    let lists = [
        String::new(),
        line(1),
        format!("{}end 2\n", line(1)),
        format!("{}end 0\n", line(1)),
        format!("{}end 1\n{}", line(1), line(2)),
        format!("{}end 1\nend 1\n", line(1)),
        format!("{}end 18446744073709551617\n", line(1)),
        format!("{}end 1", line(1)),
        line(1).replace(" 1 ", " -1 ") + "end 1\n",
        line(1).replace(" 1 ", " 18446744073709551616 ") + "end 1\n",
        line(1).replace("1.0", "1,0") + "end 1\n",
        line(1).replace("000000000", "1000000000") + "end 1\n",
        line(1).replace("01", "../") + "end 1\n",
        line(1).replace(' ', "  ") + "end 1\n",
        line(1).replace('\n', " more\n") + "end 1\n",
        "x".repeat(100_000),
        "\0".repeat(100),
        "<html>\nend 1\n".to_owned(),
    ];
    // Each is asked for again until it has been asked for often enough: all at the same time, as most of that is waiting.
    std::thread::scope(|scope| {
        for list in lists {
            scope.spawn(move || {
                let answer = good(200, list.as_bytes());
                let storage = client(move |_, out| out(&answer));
                let said = storage.list(Class::Sessions).unwrap_err().to_string();
                assert!(said.contains("sessions/") && said.contains("no good"), "{list:?}: {said}");
            });
        }
    });
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_errors() {
    let partial = |head: &str, body: &[u8]| [format!("HTTP/1.1 {head}\r\nyester-protocol: 1\r\n").as_bytes(), body].concat();
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("all for a part", good(200, &[7; 1000])),
        ("too little", good(206, &[7; 10])),
        ("too much", good(206, &[7; 1000])),
        ("nothing", good(206, b"")),
        ("created", good(201, &[7; 100])),
        ("elsewhere", partial("302 Found\r\nLocation: https://127.0.0.1:1/", b"Content-Length: 0\r\n\r\n")),
        ("for ever elsewhere", partial("308 X\r\nLocation: /v1/objects/packs/00", b"Content-Length: 0\r\n\r\n")),
        ("a length that nothing has", partial("206 X\r\nContent-Length: 18446744073709551615", b"\r\n")),
        ("two lengths", partial("206 X\r\nContent-Length: 100\r\nContent-Length: 5", &[&b"\r\n"[..], &[7; 100]].concat())),
        ("no length", partial("206 X", &[&b"\r\n"[..], &[7; 100]].concat())),
        ("a refusal that is none", good(507, b"{\"error\":\"created\",\"message\":1}")),
        ("a refusal without end", partial("500 X", &[&b"\r\n"[..], &[b'x'; 300_000]].concat())),
        ("another program", b"HTTP/1.1 206 X\r\nContent-Length: 100\r\n\r\n".to_vec()),
        ("no HTTP", b"220 smtp.example ESMTP\r\n".to_vec()),
    ];
    // Some are asked for again until the time is over: all at the same time.
    std::thread::scope(|scope| {
        for (what, answer) in lies {
            scope.spawn(move || {
                let storage = client_for(Duration::from_secs(30), move |_, out| {
                    out(&answer)?;
                    Err(std::io::ErrorKind::ConnectionAborted.into())
                });
                let mut out = Vec::new();
                let e = storage.read(&pack(b"x").0, Some(0..100), &mut out).unwrap_err();
                let said = e.to_string();
                assert!(said.contains("packs/") && !said.contains(['\n', '\x1b']), "{what}: {said}");
            });
        }
    });
    // One that is cut is asked for again, the rest of it only; what two of them give together is the object.
    let (name, object) = pack(&noise(1, 50_000));
    let whole = object.clone();
    let storage = client(move |head, out| match head.to_lowercase().split("range: bytes=").nth(1) {
        None => {
            out(format!("HTTP/1.1 200 X\r\nyester-protocol: 1\r\nContent-Length: {}\r\n\r\n", whole.len()).as_bytes())?;
            out(&whole[..20_000])?;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
        Some(range) => {
            let from: usize = range.split('-').next().unwrap().parse().unwrap();
            out(&good(206, &whole[from..]))
        }
    });
    assert!(read(&storage, &name).unwrap() == object);
    // The rest may be said to be longer than anything.
    let part = object[..20_000].to_vec();
    let storage = client(move |head, out| {
        let status = if head.to_lowercase().contains("range:") { 206 } else { 200 };
        let length = if status == 206 { u64::MAX - 5 } else { 50_000 };
        out(format!("HTTP/1.1 {status} X\r\nyester-protocol: 1\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
        out(&part)?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    });
    let e = read(&storage, &name).unwrap_err();
    assert!(e.kind() == ErrorKind::Corrupt && e.to_string().contains("longer"), "{e}");
}

#[test]
fn what_a_server_says_is_escaped() {
    for message in [r"\u001b[31mred\u0007", r"a\nyester: all is well", r"\u202eb\u0000\r"] {
        let answer = good(403, format!(r#"{{"error":"forbidden","message":"{message}"}}"#).as_bytes());
        let (port, trust) = liar(move |_, out| out(&answer));
        let said = RemoteStorage::open(&at_port(port, "web"), &options(trust)).unwrap_err().to_string();
        assert!(!said.contains(|c: char| c.is_control()) && !said.contains('\u{202e}'), "{said:?}");
    }
    let (port, trust) = liar(|_, out| out(b"HTTP/1.1 200 X\r\nContent-Type: \xe2\x80\xae\x80evil\r\nContent-Length: 0\r\n\r\n"));
    let said = RemoteStorage::open(&at_port(port, "web"), &options(trust)).unwrap_err().to_string();
    assert!(said.contains("not yester serve") && !said.contains('\u{202e}'), "{said:?}");
}
