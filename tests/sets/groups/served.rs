//! Members that reach the repository through a server, each on a line of its own that can be cut.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::agree;
use super::cluster::{Cluster, until};
use crate::common::program::{finish, shown};

/// A server over the cluster's world; it ends with this.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// A line to the server. While it is cut nothing goes through, and nobody is told.
struct Line {
    cut: Arc<AtomicBool>,
    port: u16,
}

impl Line {
    fn to(server: u16) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, cut) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let is_cut = cut.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(near) = stream else { return };
                let Ok(far) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to, cut) = (from.try_clone().unwrap(), to.try_clone().unwrap(), is_cut.clone());
                    std::thread::spawn(move || pass(from, to, &cut));
                }
            }
        });
        Line { cut, port }
    }

    fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        while cut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A cluster whose members reach their repository through a server.
fn served(members: &[&'static str]) -> (Cluster, Served, Vec<Line>) {
    let mut cluster = Cluster::new(members);
    let root = shown(cluster.world.home());
    let token = finish(&mut cluster.world.command(&["serve", "token", "create", "repo", "--append-only", "-q", "--root", &root]));
    let token = cluster.world.file("token", token.ok().text());
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = cluster.world.command(&["serve", "--json", "--root", &root, "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server = Served(child);
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address: std::net::SocketAddr = said["address"].as_str().unwrap().parse().unwrap();
    let access = format!("token-file = \"{}\"\ntls-fingerprint = {}\n", shown(&token), said["tls_fingerprint"]);
    let lines: Vec<Line> = members.iter().map(|_| Line::to(address.port())).collect();
    let locations = lines.iter().map(|line| format!("https://127.0.0.1:{}/repo", line.port)).collect();
    cluster.reached(locations, &access);
    (cluster, server, lines)
}

#[test]
fn members_with_tokens_that_only_append_take_a_group() {
    let (cluster, _server, _lines) = served(&super::THREE);
    let writer = cluster.writer();
    let id = cluster.create(&[]);
    cluster.all(&id).into_iter().for_each(|run| drop(run.ok()));
    writer.end();
    assert_eq!(cluster.states(&id), ["completed"; 4]);
    assert!(agree(&cluster.counters(&id)));
}

#[test]
fn a_member_that_is_cut_off_goes_on_by_itself_and_holds_nobody() {
    let (cluster, _server, lines) = served(&["db1", "db2"]);
    let dir = shown(&cluster.dir("db1"));
    cluster.write("db1", &[("FREEZE", &format!("until test -e {dir}/go; do sleep 0.02; done"))]);
    let id = cluster.create(&["--still-limit", "30s", "--limit", "30s"]);
    let [first, second] = ["db1", "db2"].map(|member| cluster.join(member, &id));
    cluster.until_said(&id, "0001.frozen");
    lines[1].set_cut(true);
    fs::write(cluster.dir("db1").join("go"), "").unwrap();
    // It does not know what the others do.
    until(|| !cluster.dir("db2").join("frozen").exists(), "the one that is cut off goes on");
    let first = first.end();
    // Whether the other one was seen to stand still before the barrier is decided by what it has said: it has.
    first.ok();
    cluster.until_thawed();
    assert_eq!(cluster.on("db1", &["group", "wait", &id]).code, Some(1));
    lines[1].set_cut(false);
    let second = second.end();
    assert_eq!(second.code, Some(1), "{}", second.err);
    assert_eq!(cluster.states(&id), ["failed", "completed", "failed"]);
    assert!(cluster.on("db2", &["group", "restore", &id, "--member", "db1"]).code == Some(1));
}
