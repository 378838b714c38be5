//! Rows 69 to 78 of the list of bad inputs: servers that are none, certificates, tokens, bodies, headers, names, contents,
//! quotas, versions. Each ends in one line that says what is wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yester::ErrorKind;
use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::remote::protocol::Capability;
use yester::remote::tls::{TlsIdentity, Trust, server_config};
use yester::remote::tokens::Grant;
use yester::serve::objects::ServeOptions;
use yester::storage::{Class, Created, Name, Storage};

use crate::net::support::*;

pub const TOKEN: &str = "yester-token-0123456789abcdef-00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A server over TLS that answers everything with these bytes.
fn canned(answer: &str) -> (u16, Trust) {
    let scratch = tempfile::tempdir().unwrap();
    let (config, trust) = own(scratch.path());
    (serve(config, answer), trust)
}

/// A server's own certificate, with HTTP/1.1 behind it.
pub fn own(directory: &Path) -> (rustls::ServerConfig, Trust) {
    let (chain, key) = TlsIdentity::made(directory, &["localhost".to_owned()], &[]).unwrap();
    let identity = TlsIdentity::read(&chain, &key).unwrap();
    let trust = Trust { fingerprint: identity.fingerprint(), authorities: None };
    (config(identity), trust)
}

fn config(identity: TlsIdentity) -> rustls::ServerConfig {
    let resolver = rustls::sign::SingleCertAndKey::from(identity.certified().unwrap());
    let mut config = (*server_config(Arc::new(resolver)).unwrap()).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn serve(config: rustls::ServerConfig, answer: &str) -> u16 {
    let (config, answer) = (Arc::new(config), answer.as_bytes().to_vec());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::Stream::new(&mut tls, &mut stream);
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                let _ = stream.write_all(&answer).and_then(|()| stream.flush());
            }
        }
    });
    port
}

/// A server that says these bytes to everybody, in the clear.
fn clear(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).and_then(|_| stream.write_all(answer));
        }
    });
    port
}

fn open(port: u16, trust: Trust) -> yester::Error {
    let token = Some(zeroize::Zeroizing::new(TOKEN.to_owned()));
    // What nobody answers is tried again for so long.
    let timeout = Duration::from_secs(20);
    let options = RemoteOptions { token, trust, timeout, ..RemoteOptions::default() };
    RemoteStorage::open(&at_port(port, "web"), &options).unwrap_err()
}

#[track_caller]
fn says(e: &yester::Error, words: &[&str]) {
    let said = e.to_string();
    assert!(words.iter().all(|word| said.contains(word)) && !said.contains('\n'), "{said:?} lacks one of {words:?}");
}

#[test]
fn row_69_servers_that_are_not_ours() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 302 Found\r\nLocation: /v1/repository\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (port, trust) = canned(answer);
        let e = open(port, trust);
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        says(&e, &["https://127.0.0.1", "not yester serve"]);
    }
    let (port, trust) = canned("SSH-2.0-OpenSSH\r\n");
    says(&open(port, trust), &["https://127.0.0.1"]);
    let port = clear(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    says(&open(port, Trust::default_for_tests()), &["does not speak TLS"]);
    // Nobody listens: a port that no other test is given.
    says(&open(1, Trust::default_for_tests()), &["refused"]);
}

#[test]
fn a_success_before_the_whole_body_is_none() {
    let scratch = tempfile::tempdir().unwrap();
    let (config, trust) = own(scratch.path());
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let config = config.clone();
            std::thread::spawn(move || {
                let mut tls = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::Stream::new(&mut tls, &mut stream);
                let about = r#"{"free":9,"capabilities":["put"]}"#;
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|n| n > 0) {
                    let head =
                        format!("HTTP/1.1 201 Created\r\nyester-protocol: 1\r\nContent-Length: {}\r\n\r\n{about}", about.len());
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.flush());
                    if request.starts_with(b"PUT") {
                        // It says that it has everything, and takes no more for a while.
                        std::thread::sleep(PATIENT);
                        return;
                    }
                }
            });
        }
    });
    let token = Some(zeroize::Zeroizing::new(TOKEN.to_owned()));
    let options = RemoteOptions { token, trust, timeout: PATIENT, ..RemoteOptions::default() };
    let storage = RemoteStorage::open(&at_port(port, "web"), &options).unwrap();
    let e = put(&storage, &Name::Session(id(1)), &noise(1, 32 << 20)).unwrap_err();
    says(&e, &["sessions/", "before all of it was sent"]);
}

trait ForTests {
    fn default_for_tests() -> Self;
}

impl ForTests for Trust {
    /// Trusts nobody in particular: machines that run tests may have no list of authorities.
    fn default_for_tests() -> Self {
        Trust { fingerprint: Some(yester::remote::tls::Fingerprint([0; 32])), authorities: None }
    }
}

/// A certificate that `change` makes, signed by an authority whose file is returned with a server that shows it.
fn signed(directory: &Path, change: impl FnOnce(&mut rcgen::CertificateParams)) -> (u16, Trust) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(rcgen::DnType::CommonName, directory.display().to_string());
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    for (name, text) in [("ca.pem", &authority_pem), ("cert.pem", &certificate.pem()), ("key.pem", &key.serialize_pem())] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let identity = TlsIdentity::read(&directory.join("cert.pem"), &directory.join("key.pem")).unwrap();
    let port = serve(config(identity), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    (port, Trust { fingerprint: None, authorities: Some(directory.join("ca.pem")) })
}

#[test]
fn row_70_certificates() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    // A good one gets as far as the answer, which is of another server.
    let (port, trust) = signed(&at("good"), |_| {});
    says(&open(port, trust.clone()), &["not yester serve"]);
    let (expired, theirs) = signed(&at("expired"), |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    says(&open(expired, theirs), &["cannot be trusted", "expired"]);
    let (other, theirs) = signed(&at("other"), |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere.example".try_into().unwrap())];
    });
    says(&open(other, theirs.clone()), &["cannot be trusted", "another name"]);
    // Signed by somebody else, and by itself.
    says(&open(port, theirs.clone()), &["cannot be trusted", "--tls-fingerprint"]);
    let (own, pinned) = canned("");
    says(&open(own, theirs), &["cannot be trusted"]);
    let wrong = Trust::default_for_tests();
    says(&open(own, wrong), &["cannot be trusted", &pinned.fingerprint.unwrap().to_string()]);
    // The alert of a server that knows nothing newer than TLS 1.1.
    let old = clear(&[0x15, 3, 1, 0, 2, 2, 70]);
    says(&open(old, Trust::default_for_tests()), &["TLS 1.3"]);
}

#[test]
fn row_71_tokens() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    let storage = server.storage("web");
    must_put(&storage, &Name::Session(id(1)), b"x");
    let open = |token: &str, name: &str| RemoteStorage::open(&server.address(name), &server.options(token));
    let none = RemoteOptions { token: None, ..server.options(TOKEN) };
    let e = RemoteStorage::open(&server.address("web"), &none).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Key);
    says(&e, &["YESTER_TOKEN"]);
    let e = open(TOKEN, "web").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Key);
    says(&e, &["not one of this server"]);
    let expired = server.token(Grant { expires: Some(2), ..server.grant("web", &FULL) });
    says(&open(&expired, "web").unwrap_err(), &["has expired"]);
    let web = server.token(server.grant("web", &FULL));
    says(&open(&web, "db").unwrap_err(), &["another repository", "db"]);
    let lacking = [
        (&[Capability::Get, Capability::List][..], "put"),
        (&[Capability::Put, Capability::List][..], "get"),
        (&[Capability::Put, Capability::Get][..], "list"),
        (&[Capability::Put, Capability::Get, Capability::List][..], "prune"),
    ];
    for (capabilities, lack) in lacking {
        let storage = server.storage_for("web", capabilities);
        let (name, object) = pack(lack.as_bytes());
        let tried = match lack {
            "put" => storage.create(&name, &[&object]).map(drop),
            "get" => read(&storage, &Name::Session(id(1))).map(drop),
            "list" => storage.list(Class::Packs).map(drop),
            _ => storage.delete(&name),
        };
        says(&tried.unwrap_err(), &["lacks the capability", lack]);
    }
    // Revoked tokens end while they are in use.
    let list = yester::serve::objects::tokens(&server.root);
    let short = open(&web, "web").unwrap();
    list.revoke(web.split('-').nth(2).unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    says(&short.list(Class::Packs).unwrap_err(), &["revoked"]);
}

/// A server without TLS, which can be spoken to by hand, with a token for `web`.
pub struct Plain {
    pub server: Server,
    pub token: String,
    _scratch: tempfile::TempDir,
}

impl Plain {
    pub fn with(change: impl FnOnce(&mut ServeOptions)) -> Plain {
        let scratch = tempfile::tempdir().unwrap();
        let mut options = ServeOptions { no_tls: true, ..serve_options(scratch.path()) };
        change(&mut options);
        yester::storage::directory::DirectoryStorage::create(&scratch.path().join("web")).unwrap();
        let server = Server::with(options);
        let token = server.token(server.grant("web", &FULL));
        Plain { server, token, _scratch: scratch }
    }

    /// The beginning of a request, with everything that it needs but the end of the headers.
    pub fn head(&self, method: &str, path: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nyester-protocol: 1\r\nyester-repository: web\r\nAuthorization: Bearer {}\r\n",
            self.token
        )
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.server.port)).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        stream
    }

    /// Sends these bytes; what comes until the other side closes.
    pub fn say(&self, bytes: &[u8]) -> String {
        self.say_on(self.connect(), bytes)
    }

    /// The same, and nothing more will come.
    fn say_and_end(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        self.say_on(stream, b"")
    }

    fn say_on(&self, mut stream: TcpStream, bytes: &[u8]) -> String {
        let _ = stream.write_all(bytes);
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
        let head = format!("{}Connection: close\r\n{headers}\r\n", self.head(method, path));
        self.say(&[head.as_bytes(), body].concat())
    }

    pub fn files(&self) -> usize {
        let repo = self.server.root.join("web");
        let count = |path: &Path| std::fs::read_dir(path).unwrap().count();
        let shards: usize = std::fs::read_dir(repo.join("packs")).unwrap().flatten().map(|d| count(&d.path())).sum();
        shards
            + ["index", "sessions", "snapshots", "forgotten", "condemned", "damaged", "config", "keys"]
                .map(|c| count(&repo.join(c)))
                .iter()
                .sum::<usize>()
    }
}

#[track_caller]
pub fn answers(said: &str, status: u16, code: &str) {
    assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && said.contains(code), "{said:?} is not {status} {code}");
    assert!(said.contains("yester-protocol: 1\r\n"), "{said:?}");
}

#[test]
fn row_72_bodies_and_their_length() {
    let plain = Plain::with(|_| {});
    let (name, object) = pack(b"content");
    let path = yester::remote::protocol::object_path(&name);
    let length = |n: usize| format!("Content-Length: {n}\r\n");
    let head = format!("{}Connection: close\r\n{}\r\n", plain.head("PUT", &path), length(object.len() + 1));
    let shorter = plain.say_and_end(&[head.as_bytes(), &object].concat());
    assert!(shorter.is_empty() || shorter.contains("400"), "{shorter}");
    // What is too much is the beginning of the next request, and none.
    let longer = plain.ask("PUT", &path, &length(object.len() - 1), &object);
    answers(&longer, 422, "mismatch");
    assert_eq!(plain.files(), 0, "something was stored");
    let chunked = [b"27\r\n", &object[..], b"\r\n0\r\n\r\n"].concat();
    answers(&plain.ask("PUT", &path, "Transfer-Encoding: chunked\r\n", &chunked), 411, "no_length");
    answers(&plain.ask("PUT", &path, "Content-Length: 99999999999\r\n", b""), 413, "too_long");
    let negative = plain.ask("PUT", &path, "Content-Length: -1\r\n", b"");
    assert!(negative.contains("400"), "{negative}");
    assert_eq!(plain.files(), 0, "something was stored");
    answers(&plain.ask("PUT", &path, &length(object.len()), &object), 201, "");
}

#[test]
fn row_73_headers() {
    let plain = Plain::with(|_| {});
    let long = format!("{}X: {}\r\n\r\n", plain.head("GET", "/v1/repository"), "x".repeat(1 << 20));
    let many = format!("{}{}\r\n", plain.head("GET", "/v1/repository"), "X: y\r\n".repeat(1_000_000));
    let fat = format!(
        "{}Connection: close\r\n{}\r\n",
        plain.head("GET", "/v1/repository"),
        format!("X: {}\r\n", "x".repeat(2000)).repeat(9)
    );
    for request in [long, many, fat] {
        let said = plain.say(request.as_bytes());
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said:?}");
        answers(&plain.ask("GET", "/v1/repository", "", b""), 200, "capabilities");
    }
}

#[test]
fn row_74_names() {
    let plain = Plain::with(|_| {});
    let digits = "ab".repeat(32);
    let bad = [
        format!("packs/{}", &digits[1..]),
        format!("packs/{}", digits.to_uppercase()),
        format!("packs/{digits}00"),
        "packs/%2e%2e".to_owned(),
        "packs/%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
        format!("packs/{}%00", &digits[2..]),
        format!("packs/{}%D9%A3", &digits[2..]),
        "packs/..".to_owned(),
        "../../etc/passwd".to_owned(),
        "packs/ff".to_owned(),
        "config/00000001".to_owned(),
        "config/00000001.3".to_owned(),
        "nothing/00".to_owned(),
        format!("%70%61cks%2f{digits}"),
        ".owners/x".to_owned(),
    ];
    for name in bad {
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let said = plain.ask(method, &format!("/v1/objects/{name}"), "Content-Length: 0\r\n", b"");
            assert!(said.starts_with("HTTP/1.1 400") || said.starts_with("HTTP/1.1 405"), "{method} {name}: {said}");
        }
    }
    assert_eq!(plain.files(), 0);
}

#[test]
fn row_75_contents_that_are_not_their_name() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    let storage = server.storage("web");
    let (name, object) = pack(&noise(1, 900_000));
    let mut flipped = object.clone();
    flipped[500_000] ^= 1;
    let mut tail = object.clone();
    *tail.last_mut().unwrap() ^= 1;
    let cut = object[..object.len() - 1].to_vec();
    for bad in [flipped, tail, cut, Vec::new()] {
        let e = storage.create(&name, &[&bad]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        says(&e, &["packs/", "not stored"]);
    }
    let (segment_name, _) = segment(b"a");
    assert_eq!(put(&storage, &segment_name, b"b").unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(storage.list(Class::Packs).unwrap().is_empty() && storage.list(Class::Index).unwrap().is_empty());
    let plain = Plain::with(|_| {});
    let path = format!("/v1/objects/sessions/{}", id(1));
    let body = framed(&Name::Session(id(1)), b"x");
    let wrong = format!("Content-Length: {}\r\nyester-content: {}\r\n", body.len(), "00".repeat(32));
    answers(&plain.ask("PUT", &path, &wrong, &body), 422, "mismatch");
    answers(&plain.ask("PUT", &path, &format!("Content-Length: {}\r\n", body.len()), &body), 400, "invalid");
    assert_eq!(plain.files(), 0);
}

#[test]
fn row_76_other_bytes_under_a_name() {
    let plain = Plain::with(|_| {});
    let path = format!("/v1/objects/sessions/{}", id(1));
    let with = |content: &[u8]| {
        let body = framed(&Name::Session(id(1)), content);
        let hash = blake3::hash(&body);
        plain.ask("PUT", &path, &format!("Content-Length: {}\r\nyester-content: {hash}\r\n", body.len()), &body)
    };
    answers(&with(b"one"), 201, "");
    answers(&with(b"one"), 200, "");
    answers(&with(b"two"), 409, "conflict");
    answers(&with(b"three"), 409, "conflict");
    answers(&plain.ask("GET", &path, "", b""), 200, "one");
    assert_eq!(plain.files(), 1);
}

#[test]
fn row_77_quotas() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    drop(server.storage("web"));
    let token = server.token(Grant { quota: Some(1_000_000), ..server.grant("web", &FULL) });
    let storage = RemoteStorage::open(&server.address("web"), &server.options(&token)).unwrap();
    let (first, object) = pack(&noise(1, 600_000));
    must_create(&storage, &first, &object);
    let (second, other) = pack(&noise(2, 600_000));
    let e = storage.create(&second, &[&other]).unwrap_err();
    says(&e, &["quota", "600060 of 1000000 bytes"]);
    assert_eq!(e.kind(), ErrorKind::Full, "callers do not take it for a full disk: {e}");
    assert!(storage.free_space().unwrap().unwrap() < 400_000);
    // What was refused, and what was there already, does not count.
    assert_eq!(storage.create(&first, &[&object]).unwrap(), Created::Exists);
    let (third, small) = pack(&noise(3, 300_000));
    must_create(&storage, &third, &small);
    storage.delete(&first).unwrap();
    must_create(&storage, &second, &other);
}

#[test]
fn row_78_versions() {
    let plain = Plain::with(|_| {});
    let newer = plain.head("GET", "/v1/repository").replace("protocol: 1", "protocol: 2") + "Connection: close\r\n\r\n";
    let said = plain.say(newer.as_bytes());
    answers(&said, 426, "version");
    assert!(said.contains("update the server"), "{said}");
    let older = plain.head("GET", "/v1/repository").replace("protocol: 1", "protocol: 0") + "Connection: close\r\n\r\n";
    assert!(plain.say(older.as_bytes()).contains("update the client"));
    let none = plain.head("GET", "/v1/repository").replace("yester-protocol: 1\r\n", "") + "Connection: close\r\n\r\n";
    answers(&plain.say(none.as_bytes()), 400, "yester --repo");
    let refusal = r#"{"error":"version","message":"the server speaks protocol 2 and the client 1: update the client"}"#;
    let head = |status| format!("HTTP/1.1 {status}\r\nyester-protocol: 2\r\nContent-Length: ");
    let (port, trust) = canned(&format!("{}{}\r\n\r\n{refusal}", head("426 Upgrade Required"), refusal.len()));
    let e = open(port, trust);
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    says(&e, &["protocol 2", "update the client"]);
    let (port, trust) = canned(&format!("{}2\r\n\r\n{{}}", head("200 OK")));
    says(&open(port, trust), &["protocol 2", "update this program"]);
}
