//! What lets a set go on whose ingest was killed or stopped while it stood still in a group.
//!
//! A process that is killed cannot run a hook any more. So while a member of a group stands still, a second process waits
//! beside it: for the word that it has thawed, for its end, or for its limit. In the last two cases it runs the hook that
//! thaws, and once more when something may have frozen after that. It is in a session of its own, and so outlives whatever ends the first process's group.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use yester::jobs::config::keys::{Hook, Hooks};
use yester::jobs::hooks::Runner;
use yester::observe::Silent;
use yester::sys::process;

/// What it has as its only argument: no option, and in no help.
const MARK: &str = "--thaw-guard";
/// The first process has this much longer than its limit: as long as it lives, it thaws itself.
const GRACE: Duration = Duration::from_secs(1);
/// What it is told when the hook that freezes has ended, and when it is not needed any more.
const FROZEN: u8 = b'f';
const THAWED: u8 = b't';

/// When, in milliseconds, and what is to be run: a command, its timeout, and its variables.
type GuardOrder = (u64, Vec<String>, Option<String>, Vec<(Vec<u8>, Vec<u8>)>);

/// The second process. It is told to end by [`ThawGuard::thawed`]; if this is dropped otherwise, it thaws.
pub struct ThawGuard {
    process: Child,
    to: Option<ChildStdin>,
}

impl ThawGuard {
    /// Starts one that runs `hook` with these variables when this process has not thawed within `limit`, or has ended.
    pub fn start(hook: &Hook, variables: &[(OsString, OsString)], limit: Duration) -> std::io::Result<ThawGuard> {
        let bytes = |text: &OsString| text.as_bytes().to_vec();
        let limit = u64::try_from((limit + GRACE).as_millis()).unwrap_or(u64::MAX);
        let variables = variables.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        let order: GuardOrder = (limit, hook.command.clone(), hook.timeout.clone(), variables);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(MARK).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn()?;
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
    let mut input = BufReader::new(std::io::stdin());
    let mut line = Vec::new();
    if input.read_until(b'\n', &mut line).is_err() {
        return;
    }
    let Ok((limit, command, timeout, variables)) = serde_json::from_slice::<GuardOrder>(&line) else { return };
    let (tell, told) = mpsc::channel();
    // Its end is told by the end of this.
    std::thread::spawn(move || input.bytes().map_while(Result::ok).try_for_each(|said| tell.send(said)));
    let until = Instant::now() + Duration::from_millis(limit);
    let mut frozen = false;
    let silent = loop {
        match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(THAWED) => return,
            Ok(said) => frozen |= said == FROZEN,
            Err(why) => break why,
        }
    };
    let hook = Hook { command, timeout };
    let mut hooks = Hooks::default();
    hooks.thaw = Some(hook);
    let runner = Runner::new(hooks, Arc::new(Silent), Arc::default());
    for (name, value) in variables {
        runner.set(&String::from_utf8_lossy(&name), OsString::from_vec(value));
    }
    // Nobody is left who could be told.
    let _ = runner.run("thaw");
    // If nobody said that the hook that freezes has ended, it may be at work still, and freeze after this.
    match silent {
        _ if frozen => return,
        // Whoever ran it is gone: it has until the limit.
        RecvTimeoutError::Disconnected => std::thread::sleep(until.saturating_duration_since(Instant::now())),
        // Whoever runs it lives, and says when it has ended; but may be stopped, so this is not all that is waited for.
        RecvTimeoutError::Timeout => loop {
            match told.recv_timeout(Duration::from_millis(limit)) {
                Ok(THAWED) => return,
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => drop(runner.run("thaw")),
            }
        },
    }
    let _ = runner.run("thaw");
}
