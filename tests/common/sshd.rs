//! An sshd of a test's own, on loopback.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::mounted::PATIENCE;

/// Starts one with this configuration, of which `config` makes the text for a port, in `directory`; the process and its port.
/// A port that was free may be somebody else's when sshd wants it: then there is another try.
pub fn start(directory: &Path, config: impl Fn(u16) -> String) -> (Child, u16) {
    // What sshd wants where it gives up its rights.
    let _ = std::fs::create_dir("/run/sshd");
    let (file, log) = (directory.join("sshd_config"), directory.join("log"));
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(&file, config(port)).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(&file).stdin(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.spawn().expect("/usr/sbin/sshd (apt-get install openssh-server)");
        if answers(&mut child, port) {
            return (child, port);
        }
        let _ = (child.kill(), child.wait());
    }
    panic!("no sshd came up: {}", std::fs::read_to_string(&log).unwrap());
}

/// Waits until it speaks; false when it has ended, or somebody else is at its port.
fn answers(child: &mut Child, port: u16) -> bool {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut said = [0; 4];
            return stream.read_exact(&mut said).is_ok() && said == *b"SSH-";
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}
