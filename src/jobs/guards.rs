//! Guards: what must not be alive while something is restored over it.

use std::fmt;
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::model::escape;
use crate::sys::{mount, process};

/// How long an answer is waited for.
const WAIT: Duration = Duration::from_secs(3);
/// So many open files are named.
const NAMED: usize = 3;

/// Something that shows that a service is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceGuard {
    /// Something accepts connections at `host:port`.
    Tcp(String),
    /// Something accepts connections at a Unix socket.
    Unix(PathBuf),
    /// The process whose number is in this file lives.
    PidFile(PathBuf),
    /// A unit of systemd is active.
    Unit(String),
    /// Something is mounted here.
    Mounted(PathBuf),
    /// A process has a file open below this directory.
    Busy(PathBuf),
}

impl FromStr for ServiceGuard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no guard: write tcp://HOST:PORT, unix:PATH, pidfile:PATH, unit:NAME, mounted:PATH or busy:PATH")
        };
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let path = || match rest.starts_with('/') {
            true => Ok(PathBuf::from(rest)),
            false => Err(format!("{text:?}: give an absolute path")),
        };
        match kind {
            "tcp" => {
                let address = rest.strip_prefix("//").ok_or_else(wrong)?;
                let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
                port.filter(|(host, _)| !host.is_empty()).map(|_| ServiceGuard::Tcp(address.to_owned())).ok_or_else(wrong)
            }
            "unix" => path().map(ServiceGuard::Unix),
            "pidfile" => path().map(ServiceGuard::PidFile),
            "mounted" => path().map(ServiceGuard::Mounted),
            "busy" => path().map(ServiceGuard::Busy),
            "unit" if !rest.is_empty() && !rest.starts_with('-') => Ok(ServiceGuard::Unit(rest.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for ServiceGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Path| escape(path.as_os_str().as_bytes());
        match self {
            ServiceGuard::Tcp(address) => write!(f, "tcp://{address}"),
            ServiceGuard::Unix(path) => write!(f, "unix:{}", shown(path)),
            ServiceGuard::PidFile(path) => write!(f, "pidfile:{}", shown(path)),
            ServiceGuard::Unit(name) => write!(f, "unit:{name}"),
            ServiceGuard::Mounted(path) => write!(f, "mounted:{}", shown(path)),
            ServiceGuard::Busy(path) => write!(f, "busy:{}", shown(path)),
        }
    }
}

impl ServiceGuard {
    /// What is alive; `None` if nothing is. An error if that cannot be told: then it may be alive.
    pub fn alive(&self) -> Result<Option<String>> {
        let failed = |e: &dyn fmt::Display| Error::new(ErrorKind::Io, format!("{self} cannot be told: {e}"));
        match self {
            ServiceGuard::Tcp(address) => {
                let mut all = address.to_socket_addrs().map_err(|e| failed(&e))?;
                let answers = all.any(|address| TcpStream::connect_timeout(&address, WAIT).is_ok());
                Ok(answers.then(|| format!("something answers at {address}")))
            }
            ServiceGuard::Unix(path) => {
                let answers = UnixStream::connect(path).is_ok();
                Ok(answers.then(|| format!("something answers at {}", escape(path.as_os_str().as_bytes()))))
            }
            ServiceGuard::PidFile(path) => match fs::read_to_string(path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(failed(&e)),
                Ok(text) => match text.trim().parse() {
                    Ok(pid) => Ok(process::start_time(pid).map(|_| described(pid))),
                    Err(_) => Err(failed(&"there is no number in it")),
                },
            },
            ServiceGuard::Unit(name) => unit(name).map_err(|e| failed(&e)),
            ServiceGuard::Mounted(path) => {
                let table = mount::table().map_err(|e| failed(&e))?;
                let mounted = table.iter().any(|mount| mount.point == *path);
                Ok(mounted.then(|| format!("something is mounted on {}", escape(path.as_os_str().as_bytes()))))
            }
            ServiceGuard::Busy(path) => busy(path).map_err(|e| failed(&e)),
        }
    }
}

/// Refuses when any of these is alive, but for those in `anyway`.
pub fn ask(guards: &[ServiceGuard], anyway: &[ServiceGuard]) -> Result<()> {
    for guard in guards.iter().filter(|guard| !anyway.contains(guard)) {
        if let Some(alive) = guard.alive()? {
            let text =
                format!("refused, and nothing was touched: {alive} ({guard}); stop it, or give --even-while-alive {guard}");
            return Err(Error::new(ErrorKind::Alive, text));
        }
    }
    Ok(())
}

/// A process for people, with since when it lives.
fn described(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).map(|name| escape(name.trim_ascii_end())).unwrap_or_default();
    let since = fs::metadata(format!("/proc/{pid}")).and_then(|found| found.modified()).ok();
    let since = since.and_then(|time| jiff::Timestamp::try_from(time).ok());
    let since = since.map(|time| format!(", since {}", time.strftime("%Y-%m-%d %H:%M:%S UTC"))).unwrap_or_default();
    format!("process {pid} ({name}) is alive{since}")
}

fn unit(name: &str) -> std::io::Result<Option<String>> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=ActiveState,ActiveEnterTimestamp", "--", name]).stdin(Stdio::null());
    let output = command.output()?;
    if !output.status.success() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned();
    let alive = !matches!(value("ActiveState=").as_str(), "inactive" | "failed");
    let since = value("ActiveEnterTimestamp=");
    let since = if since.is_empty() { since } else { format!(", since {since}") };
    Ok(alive.then(|| format!("the unit {name} is {}{since}", value("ActiveState="))))
}

/// The processes that have something open at or below `path`: a file, or their working directory.
fn busy(path: &Path) -> std::io::Result<Option<String>> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        // Nothing is there to be open.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut found: Vec<String> = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == process::id() {
            continue;
        }
        let links = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten().map(|link| link.path());
        let links = links.chain([entry.path().join("cwd")]);
        let open = links.filter_map(|link| fs::read_link(link).ok()).find(|file| file.starts_with(&real));
        if let Some(file) = open {
            found.push(format!("{} and has {} open", described(pid), escape(file.as_os_str().as_bytes())));
        }
        if found.len() == NAMED {
            break;
        }
    }
    Ok((!found.is_empty()).then(|| found.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn alive(text: &str) -> Option<String> {
        let guard: ServiceGuard = text.parse().expect("a guard");
        assert_eq!(guard.to_string(), text);
        guard.alive().expect("it can be told")
    }

    /// What this process had open a moment ago is so in a process that another test is starting, until that runs a program of
    /// its own.
    fn ends(text: &str) {
        while alive(text).is_some() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn guards_are_read() {
        for bad in
            ["", "tcp:h:1", "tcp://h", "tcp://:1", "tcp://h:x", "unix:x", "pidfile:", "unit:", "unit:-x", "ftp://h:1", "busy"]
        {
            assert!(bad.parse::<ServiceGuard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_alive_is_named() {
        // An address of its own: no other test gets the port of it afterwards.
        let listener = TcpListener::bind("127.0.0.84:0").expect("a port");
        let tcp = format!("tcp://{}", listener.local_addr().expect("an address"));
        assert!(alive(&tcp).is_some_and(|text| text.contains("answers")));
        drop(listener);
        ends(&tcp);
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
        assert!(alive(&format!("unix:{}", at("socket").display())).is_some());
        drop(socket);
        ends(&format!("unix:{}", at("socket").display()));
        fs::write(at("pid"), format!("{}\n", process::id())).expect("a file");
        let pid = alive(&format!("pidfile:{}", at("pid").display()));
        assert!(pid.is_some_and(|text| text.contains(&format!("process {}", process::id())) && text.contains("since")));
        assert_eq!(alive(&format!("pidfile:{}", at("none").display())), None);
        assert!(alive("mounted:/proc").is_some() && alive("mounted:/nonexistent").is_none());
        let mut child = Command::new("sleep").arg("1000").current_dir(dir.path()).spawn().expect("a process");
        let busy = format!("busy:{}", dir.path().display());
        assert!(alive(&busy).is_some_and(|text| text.contains(&format!("process {}", child.id()))));
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert_eq!(alive(&busy), None);
        let guard: ServiceGuard = "mounted:/proc".parse().expect("a guard");
        let refused = ask(std::slice::from_ref(&guard), &[]).expect_err("it is alive");
        assert_eq!(refused.kind(), ErrorKind::Alive);
        assert!(ask(std::slice::from_ref(&guard), std::slice::from_ref(&guard)).is_ok());
    }
}
