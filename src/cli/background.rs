//! A process that goes on when the command has returned.
//!
//! The program starts itself again with the same arguments and `--in-background`, instead of forking: a fork takes one
//! thread along and every lock as it happens to be. The new process reads the key from its standard input (never from
//! its arguments, which everybody can see), answers with one line on its standard output, and logs to a file.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use yester::chunk::keys::Credential;
use yester::error::IoContext;
use yester::jobs::credential::{self, ServerToken};
use yester::{Error, ErrorKind, Result};

use crate::cli::say::{exit, paths};

/// What a process that serves a mount for another one has as its first argument: no option, and in no help.
const MARK: &str = "--in-background";
/// The longest answer.
const LIMIT: u64 = 64 << 10;
/// A log longer than this is put aside when the next process begins.
const LOG_LIMIT: u64 = 1 << 20;

/// A process that has answered that it is at work.
pub struct Started {
    /// Its number.
    pub pid: u32,
    /// Where it logs; `None` where there is no state directory.
    pub log: Option<PathBuf>,
    /// What the user should know nevertheless.
    pub warning: Option<String>,
}

/// Starts this program again and returns when it has answered. `state` is the directory of its log.
pub fn start(key: &Credential, token: Option<ServerToken>, state: Option<&Path>) -> Result<Started> {
    let failed = || "cannot start the background process".to_owned();
    let program = std::env::current_exe().at(failed)?;
    let log = state.map(|dir| dir.join("mount.log"));
    let stderr = match &log {
        Some(path) => Stdio::from(open_log(path).at(|| format!("cannot write the log {}", paths::shown(path)))?),
        None => Stdio::null(),
    };
    let mut command = Command::new(program);
    command.arg(MARK).args(arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    // It is handed the key, and may stay for months.
    command.env_remove("YESTER_PASSWORD").env_remove("YESTER_NEW_PASSWORD").env_remove("YESTER_TOKEN");
    let mut child = command.spawn().at(failed)?;
    let pid = child.id();
    if let Some(stdin) = child.stdin.take() {
        // A process that is gone already says so by its missing answer.
        let _ = credential::hand_over(key, token.as_ref(), stdin);
    }
    let warning = wait(&mut child, log.as_deref())?;
    Ok(Started { pid, log, warning })
}

/// The arguments of this process without the program's name.
fn arguments() -> impl Iterator<Item = OsString> {
    crate::cli::mount::helper::translate(std::env::args_os().collect()).into_iter().skip(1)
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    if path.metadata().is_ok_and(|m| m.len() > LOG_LIMIT) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn wait(child: &mut Child, log: Option<&Path>) -> Result<Option<String>> {
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = BufReader::new(stdout.take(LIMIT)).read_until(b'\n', &mut line);
        read.at(|| "cannot read the background process's answer".to_owned())?;
    }
    match parse(&String::from_utf8_lossy(&line)) {
        Some(result) => result,
        None => {
            let status = child.wait().at(|| "cannot wait for the background process".to_owned())?;
            let see = log.map(|log| format!(" (see {})", paths::shown(log))).unwrap_or_default();
            Err(Error::new(ErrorKind::Io, format!("the background process ended without an answer: {status}{see}")))
        }
    }
}

/// Takes the mark of a process in the background away from its arguments (the program's name first), if it is there.
pub fn take_mark(arguments: &mut Vec<OsString>) -> bool {
    let marked = arguments.get(1).is_some_and(|argument| argument == MARK);
    if marked {
        arguments.remove(1);
    }
    marked
}

/// Begins the work in the background: a session of its own, and the key and token that the starting process hands over.
pub fn begin() -> Result<(Credential, Option<ServerToken>)> {
    // Refused when this process leads a group already: then it has no terminal to lose either.
    let _ = yester::sys::process::detach();
    // Not through the buffer of standard input, which would keep a copy for ever.
    let input = io::stdin().as_fd().try_clone_to_owned().at(|| "cannot read the key from standard input".to_owned())?;
    credential::take_over(File::from(input))
}

/// Answers to the starting process, when all is well with what the user should know nevertheless. False when it is gone:
/// then nobody wants what was begun.
pub fn answer(result: Result<Option<&str>, &Error>) -> bool {
    let line = match result {
        Ok(None) => "ok\n".to_owned(),
        Ok(Some(warning)) => format!("ok {}\n", exit::one_line(warning)),
        Err(e) => format!("error {} {}\n", exit::code(e.kind()), exit::one_line(&e.to_string())),
    };
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// What an answer says; `None` for none, or half of one.
fn parse(line: &str) -> Option<Result<Option<String>>> {
    let line = line.strip_suffix('\n')?;
    if line == "ok" {
        return Some(Ok(None));
    }
    if let Some(warning) = line.strip_prefix("ok ") {
        return Some(Ok(Some(warning.to_owned())));
    }
    let (code, message) = line.strip_prefix("error ")?.split_once(' ')?;
    let kind = match code.parse().ok()? {
        exit::USAGE => ErrorKind::Invalid,
        exit::NO_REPOSITORY => ErrorKind::NoRepository,
        exit::BUSY => ErrorKind::Busy,
        exit::NO_KEY => ErrorKind::Key,
        exit::INTERRUPTED => ErrorKind::Interrupted,
        _ => ErrorKind::Io,
    };
    Some(Err(Error::new(kind, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_their_exit_code() {
        assert!(parse("ok\n").is_some_and(|r| r.is_ok_and(|warning| warning.is_none())));
        assert!(parse("ok but\n").is_some_and(|r| r.is_ok_and(|warning| warning.as_deref() == Some("but"))));
        let error = parse("error 12 no: key\n").unwrap().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Key, "no: key"));
        for none in ["", "ok", "error 12", "error x y\n", "what\n"] {
            assert!(parse(none).is_none(), "{none:?}");
        }
    }
}
