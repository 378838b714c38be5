//! The program as a server in a process of its own, without TLS: for what is seen from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use yester::remote::tokens::Grant;
use yester::serve::objects::tokens;
use yester::storage::directory::DirectoryStorage;

use crate::net::support::PATIENT;

/// A server below a root that has the repository `web`.
pub struct Program {
    pub child: Child,
    pub port: u16,
    pub root: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Program {
    pub fn start(more: &[&str]) -> Program {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        std::fs::create_dir(&root).unwrap();
        DirectoryStorage::create(&root.join("web")).unwrap();
        let (child, port) = spawn(&root, more);
        Program { child, port, root, _scratch: scratch }
    }

    /// Starts it again after it was killed.
    pub fn again(&mut self) {
        (self.child, self.port) = spawn(&self.root, &[]);
    }

    pub fn token(&self, grant: Grant) -> String {
        tokens(&self.root).create(grant).unwrap().1.to_string()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.with_file_name("log")).unwrap()
    }

    pub fn web(&self) -> DirectoryStorage {
        DirectoryStorage::open(&self.root.join("web")).unwrap()
    }

    /// Bytes of memory that it ever had at once.
    pub fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// One request with this token, and its answer.
    pub fn ask(&self, token: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nyester-protocol: 1\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn spawn(root: &Path, more: &[&str]) -> (Child, u16) {
    let log = std::fs::OpenOptions::new().append(true).create(true).open(root.with_file_name("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_yester"));
    command.args(["serve", "--no-tls", "--json", "--listen", "127.0.0.1:0", "--root"]).arg(root).args(more);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    let port = said["address"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    (child, port)
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}
