//! What lets a set go on whose ingest was killed while it stood still, or was stopped while it stood still in a group.
//!
//! A process that is killed cannot run a hook any more. So while a set stands still, a second process waits beside its
//! ingest: for the word that it has thawed, for its end, or for its limit, which members of a group have. In the last two
//! cases it runs the hook that thaws, and once more when something may have frozen after that. It is in a session of its
//! own, and so outlives whatever ends the first process's group.
//!
//! Both processes share a lock for each of the two hooks, which a hook has as long as it runs. So a hook that thaws never
//! runs twice at the same time, though the ingest was killed while it ran; and the end of a hook that freezes is seen, though
//! nobody is left whose child it is.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use yester::jobs::config::keys::{Hook, Hooks};
use yester::jobs::hooks::Runner;
use yester::observe::Silent;
use yester::sys::lock::CommandLock;
use yester::sys::process;
use yester::{Error, Result};

/// What it has as its only argument: no option, and in no help.
const MARK: &str = "--thaw-guard";
/// The first process has this much longer than its limit: as long as it lives, it thaws itself.
const GRACE: Duration = Duration::from_secs(1);
/// What it is told when the hook that freezes has ended, and when it is not needed any more.
const FROZEN: u8 = b'f';
const THAWED: u8 = b't';

/// What the second process is told first.
#[derive(Serialize, Deserialize)]
struct GuardOrder {
    /// When it thaws, though the first one lives, in milliseconds.
    limit: Option<u64>,
    /// How long the hook that freezes may take, in milliseconds.
    freezing: u64,
    /// The command that thaws, and its timeout.
    command: Vec<String>,
    timeout: Option<String>,
    variables: Vec<(Vec<u8>, Vec<u8>)>,
}

/// In milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The second process. It is told to end by [`ThawGuard::thawed`]; if this is dropped otherwise, it thaws.
pub struct ThawGuard {
    process: Child,
    to: Option<ChildStdin>,
}

impl ThawGuard {
    /// Starts one that runs `hook`, which thaws, when this process has ended without having thawed, or has not done so within
    /// `limit`. It must be there before `runner` freezes.
    pub fn start(hook: &Hook, runner: &Runner, limit: Option<Duration>) -> Result<ThawGuard> {
        let started = Self::try_start(hook, runner, limit);
        started.map_err(|e| Error::io("no process can be started that thaws if this one is killed", e))
    }

    fn try_start(hook: &Hook, runner: &Runner, limit: Option<Duration>) -> io::Result<ThawGuard> {
        let bytes = |text: &OsString| text.as_bytes().to_vec();
        let variables = runner.variables().iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        let order = GuardOrder {
            limit: limit.map(|limit| millis(limit + GRACE)),
            freezing: millis(runner.limit("freeze")),
            command: hook.command.clone(),
            timeout: hook.timeout.clone(),
            variables,
        };
        let [freezing, thawing] = [CommandLock::new()?, CommandLock::new()?];
        // Nothing is said by it: these hand the locks over.
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(MARK).stdin(Stdio::piped()).stdout(freezing.file()?).stderr(thawing.file()?);
        let mut process = command.spawn()?;
        runner.lock("freeze", &Arc::new(freezing));
        runner.lock("thaw", &Arc::new(thawing));
        let mut to = process.stdin.take();
        if let Some(to) = &mut to {
            serde_json::to_writer(&mut *to, &order)?;
            to.write_all(b"\n")?;
        }
        Ok(ThawGuard { process, to })
    }

    /// Tells it that the hook that freezes has ended: nothing freezes any more.
    pub fn frozen(&mut self) {
        if let Some(to) = &mut self.to {
            let _ = to.write_all(&[FROZEN]);
        }
    }

    /// Tells it that it is not needed any more.
    pub fn thawed(mut self) {
        if let Some(mut to) = self.to.take() {
            // It is gone: then it has thawed.
            let _ = to.write_all(&[THAWED]);
        }
        let _ = self.process.wait();
    }
}

/// Whether the arguments (the program's name first) are those of a guard.
pub fn is_meant(arguments: &[OsString]) -> bool {
    matches!(arguments, [_, mark] if mark == OsStr::new(MARK))
}

/// Is the guard: waits, and thaws if it must.
pub fn run() {
    let _ = process::detach();
    let _ = std::env::set_current_dir("/");
    let mut input = BufReader::new(io::stdin());
    let mut line = Vec::new();
    if input.read_until(b'\n', &mut line).is_err() {
        return;
    }
    let Ok(order) = serde_json::from_slice::<GuardOrder>(&line) else { return };
    let (tell, told) = mpsc::channel();
    // Its end is told by the end of this.
    std::thread::spawn(move || input.bytes().map_while(io::Result::ok).try_for_each(|said| tell.send(said)));
    let until = order.limit.map(|limit| Instant::now() + Duration::from_millis(limit));
    let mut frozen = false;
    let silent = loop {
        match next(&told, until.map(|until| until.saturating_duration_since(Instant::now()))) {
            Ok(THAWED) => return,
            Ok(said) => frozen |= said == FROZEN,
            Err(why) => break why,
        }
    };
    let freezing = handed(io::stdout());
    // Nobody begins it any more if whoever would is gone; if it has begun, it has its lock.
    frozen |= silent == RecvTimeoutError::Disconnected && ends_within(freezing.as_ref(), Duration::ZERO);
    // Nobody is left who could be told how these end.
    let runner = runner(&order);
    let _ = runner.run("thaw");
    match silent {
        _ if frozen => return,
        // The hook that freezes is at work still, and may freeze after this. Whoever ran it is gone.
        RecvTimeoutError::Disconnected => drop(ends_within(freezing.as_ref(), Duration::from_millis(order.freezing))),
        // Whoever runs it lives, and says when it has ended; but may be stopped, so this is not all that is waited for.
        RecvTimeoutError::Timeout => loop {
            match next(&told, order.limit.map(Duration::from_millis)) {
                Ok(THAWED) => return,
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => drop(runner.run("thaw")),
            }
        },
    }
    let _ = runner.run("thaw");
}

/// What is said next, within this time if there is one.
fn next(told: &mpsc::Receiver<u8>, wait: Option<Duration>) -> std::result::Result<u8, RecvTimeoutError> {
    match wait {
        Some(wait) => told.recv_timeout(wait),
        None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// The lock that was handed to this process as one of its files.
fn handed(file: impl AsFd) -> Option<CommandLock> {
    file.as_fd().try_clone_to_owned().ok().map(|file| CommandLock::of(File::from(file)))
}

/// Whether the command that has this lock has ended, or does so within this time. Without a lock it is not known to.
fn ends_within(lock: Option<&CommandLock>, wait: Duration) -> bool {
    lock.is_some_and(|lock| matches!(lock.take(wait), Ok(Some(_))))
}

/// What runs the hook that thaws.
fn runner(order: &GuardOrder) -> Runner {
    let mut hooks = Hooks::default();
    hooks.thaw = Some(Hook { command: order.command.clone(), timeout: order.timeout.clone() });
    let runner = Runner::new(hooks, Arc::new(Silent), Arc::default());
    for (name, value) in &order.variables {
        runner.set(&String::from_utf8_lossy(name), OsString::from_vec(value.clone()));
    }
    if let Some(thawing) = handed(io::stderr()) {
        runner.lock("thaw", &Arc::new(thawing));
    }
    runner
}
