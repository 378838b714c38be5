//! Hooks: commands of a set that are run around its ingest.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::config::check::words;
use crate::jobs::config::keys::{Hook, Hooks};
use crate::jobs::units;
use crate::model::{Timestamp, escape};
use crate::observe::{Event, Observer};
use crate::sys::clock::now;
use crate::sys::flow::{self, Came, CommandStream};
use crate::sys::lock::CommandLock;

/// How long a hook may take when nobody says.
pub(crate) const LIMIT: Duration = Duration::from_secs(3600);
/// How often a hook that says nothing is looked after.
const WAIT: Duration = Duration::from_millis(100);
/// The most that is read of a hook's output at once.
const PIECE: usize = 8 << 10;
/// The longest line of output that is told as one.
const LINE: usize = 1000;

/// A hook that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRun {
    /// Which hook.
    pub name: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Runs the hooks of a set.
pub struct Runner {
    hooks: Hooks,
    observer: Arc<dyn Observer>,
    stop: Arc<AtomicBool>,
    variables: Mutex<Vec<(OsString, OsString)>>,
    steps: Mutex<Vec<HookRun>>,
    locks: Mutex<Vec<(String, Arc<CommandLock>)>>,
}

impl Runner {
    /// A runner that says to `observer` what hooks write. Setting `stop` ends those that only prepare something.
    pub fn new(hooks: Hooks, observer: Arc<dyn Observer>, stop: Arc<AtomicBool>) -> Self {
        Runner { hooks, observer, stop, variables: Mutex::default(), steps: Mutex::default(), locks: Mutex::default() }
    }

    /// Gives hooks and streams that run from now on another variable.
    pub fn set(&self, name: &str, value: impl Into<OsString>) {
        let mut variables = self.variables.lock();
        variables.retain(|(known, _)| known != name);
        variables.push((name.into(), value.into()));
    }

    /// From now on the hook of this name has this lock as long as it runs, and waits for it first: no longer than its own
    /// limit.
    pub fn lock(&self, name: &str, lock: &Arc<CommandLock>) {
        let mut locks = self.locks.lock();
        locks.retain(|(known, _)| known != name);
        locks.push((name.to_owned(), lock.clone()));
    }

    /// How long the hook of this name may take.
    pub fn limit(&self, name: &str) -> Duration {
        let hook = self.hooks.all().find(|(known, _)| *known == name).map(|(_, hook)| hook);
        hook.and_then(|hook| hook.timeout.as_deref()).and_then(|limit| units::parse_wait(limit).ok()).unwrap_or(LIMIT)
    }

    /// The variables for commands.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        self.variables.lock().clone()
    }

    /// What was run until now.
    pub fn steps(&self) -> Vec<HookRun> {
        self.steps.lock().clone()
    }

    /// Runs the hook of this name, if there is one.
    pub fn run(&self, name: &str) -> Result<()> {
        let Some((_, hook)) = self.hooks.all().find(|(known, _)| *known == name) else { return Ok(()) };
        let started = now();
        let result = self.command(name, hook);
        let failure = result.as_ref().err().map(ToString::to_string);
        self.steps.lock().push(HookRun { name: name.to_owned(), started, finished: now(), failure });
        result
    }

    fn start(
        &self,
        name: &str,
        words: &[OsString],
        variables: &[(OsString, OsString)],
        wait: Duration,
    ) -> io::Result<CommandStream> {
        let lock = self.locks.lock().iter().find(|(known, _)| known == name).map(|(_, lock)| lock.clone());
        // Whoever has it for so long hangs: then this is run all the same.
        match lock.map_or(Ok(None), |lock| lock.take(wait))? {
            Some(held) => CommandStream::start_holding(words, variables, held),
            None => CommandStream::start(words, variables),
        }
    }

    fn command(&self, name: &str, hook: &Hook) -> Result<()> {
        let failed = |how: &str| Error::new(ErrorKind::Io, format!("the hook {name} failed: {how}"));
        let limit = hook.timeout.as_deref().map_or(Ok(LIMIT), units::parse_wait).map_err(Error::invalid)?;
        let mut variables = self.variables();
        variables.push(("YESTER_HOOK".into(), name.into()));
        let mut flow = self.start(name, &words(&hook.command), &variables, limit).map_err(|e| failed(&e.to_string()))?;
        let subject = format!("hook {name}");
        let mut told = |line: &[u8]| {
            self.observer.event(&Event::Note { subject: subject.as_bytes(), message: &String::from_utf8_lossy(line) });
        };
        // What thaws, cleans up or tells somebody has to come to its end.
        let interruptible = matches!(name, "before" | "freeze");
        let until = Instant::now() + limit;
        let still_wanted = || {
            if interruptible && self.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, format!("interrupted in the hook {name}")));
            }
            match Instant::now() < until {
                true => Ok(()),
                false => Err(failed(&format!("it took longer than {} s, and was ended", limit.as_secs()))),
            }
        };
        attend(&mut flow, &mut told, &still_wanted).map_err(|e| match e {
            Ended::Failed(how) => failed(&how),
            Ended::Unwanted(e) => e,
        })
    }
}

/// How a command ended that did not end well.
pub(crate) enum Ended {
    /// It failed: why.
    Failed(String),
    /// It was ended, since it was not wanted any more.
    Unwanted(Error),
}

/// Follows a command to its end: every line that it writes is told.
pub(crate) fn attend(
    flow: &mut CommandStream,
    told: &mut dyn FnMut(&[u8]),
    still_wanted: &dyn Fn() -> Result<()>,
) -> std::result::Result<(), Ended> {
    let failed = |e: std::io::Error| Ended::Failed(e.to_string());
    let (mut bytes, mut last) = (Vec::new(), Vec::new());
    loop {
        let came = flow.read(&mut bytes, PIECE, WAIT, told).map_err(failed)?;
        while let Some(end) = bytes.iter().position(|b| *b == b'\n').or((bytes.len() >= LINE).then_some(LINE - 1)) {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            last = line.trim_ascii_end().to_vec();
            told(&last);
        }
        if came == Came::End {
            break;
        }
        still_wanted().map_err(Ended::Unwanted)?;
    }
    if !bytes.is_empty() {
        told(&bytes);
        last = bytes;
    }
    loop {
        if let Some(status) = flow.ended(WAIT, told).map_err(failed)? {
            let line = if flow.last_line().is_empty() { &last[..] } else { flow.last_line() };
            let line = if line.is_empty() { String::new() } else { format!(": {}", escape(line)) };
            return flow::failure(status).map_or(Ok(()), |how| Err(Ended::Failed(format!("{how}{line}"))));
        }
        still_wanted().map_err(Ended::Unwanted)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Silent;

    fn hook(script: &str, timeout: Option<&str>) -> Hooks {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hooks { before: Some(Hook { command, timeout: timeout.map(str::to_owned) }), ..Hooks::default() }
    }

    #[test]
    fn hooks_fail_with_reasons_and_within_limits() {
        let stop = Arc::new(AtomicBool::new(false));
        let run = |hooks: &Hooks, name: &str| {
            let runner = Runner::new(hooks.clone(), Arc::new(Silent), stop.clone());
            runner.set("YESTER_SET", "web");
            let result = runner.run(name).map_err(|e| e.to_string());
            assert_eq!(runner.steps().len(), usize::from(name == "before"));
            result
        };
        assert_eq!(run(&hook("test $YESTER_SET.$YESTER_HOOK = web.before", None), "before"), Ok(()));
        assert_eq!(run(&hook("exit 3", None), "after"), Ok(()), "there is none");
        let failed = run(&hook("echo no; exit 3", None), "before").unwrap_err();
        assert_eq!(failed, "the hook before failed: exit status 3: no");
        assert!(run(&hook("sleep 1000", Some("0s")), "before").unwrap_err().contains("took longer"));
        stop.store(true, Ordering::Relaxed);
        assert!(run(&hook("sleep 1000", None), "before").unwrap_err().contains("interrupted"));
    }
}
