//! `agent`: runs sets when they are due.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use yester::error::IoContext;
use yester::jobs::agent::memory::Memory;
use yester::jobs::agent::reports;
use yester::jobs::agent::rounds::{AgentEvent, Rounds, WorkEnd};
use yester::jobs::agent::wishes::{self, WorkSource};
use yester::jobs::agent::work::{Setup, TaskEnd, now};
use yester::jobs::config::Configuration;
use yester::jobs::config::check::{self, Programs};
use yester::jobs::config::keys::{AgentKeys, Set};
use yester::jobs::config::text::Problem;
use yester::observe::{Event, Observer};
use yester::sys::notify::ServiceManager;
use yester::sys::process;
use yester::{Error, ErrorKind, Result};

use crate::cli::args::Global;
use crate::cli::context::Context;
use crate::cli::given::configured;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::log::Log;
use crate::cli::say::output::{Output, lossy};
use crate::cli::say::progress::Display;
use crate::cli::say::{paths, units};

/// The longest time between two looks: a clock may be turned, and a machine may have slept.
const LONGEST: Duration = Duration::from_secs(30);
/// Exit codes, the worst first.
const WORST: [u8; 9] =
    [exit::FAILED, exit::USAGE, exit::NO_KEY, exit::NO_REPOSITORY, exit::ALIVE, exit::BUSY, exit::INTERRUPTED, exit::PARTIAL, 0];

/// Run the sets of the configuration file when they are due
///
/// Each set with a schedule is run by a process of its own; then forget keeps what the set says. SIGHUP reads the
/// configuration again, SIGTERM ends the agent and what it runs.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Run what is due, and end: the exit code is the worst of all
    #[arg(long)]
    once: bool,
    /// With --once: only say what is due
    #[arg(short = 'n', long, requires = "once")]
    dry_run: bool,
}

impl AgentArgs {
    /// Whether it runs until it is stopped.
    pub fn stays(&self) -> bool {
        !self.once
    }
}

#[derive(Serialize)]
struct JsonTask<'a> {
    message_type: &'static str,
    set: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
}

/// Runs the agent.
pub fn run(context: &Context, args: &AgentArgs) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    let observer: Arc<dyn Observer> = match args.once {
        // Only what it says line by line: the bar is for one command.
        true => {
            let display = Display::new(&context.global);
            display.finish();
            Arc::new(display)
        }
        false => Arc::new(Log),
    };
    let (setup, problems) = load(context, &stop, &observer)?;
    for problem in &problems {
        observer.event(&Event::Warning { subject: b"", message: &problem.to_string() });
    }
    let (events, heard) = channel();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).at(|| "cannot handle signals".to_owned())?;
    let (handle, tells) = (signals.handle(), events.clone());
    let listener = std::thread::spawn(move || listen(&mut signals, &tells));
    let setup = Arc::new(setup);
    let jobs = Arc::new(JobThread { setup: Mutex::new(setup.clone()), busy: AtomicBool::new(false) });
    let mut rounds = Rounds::new(setup, events, args.once, now());
    let agent = Agent { context, observer, stop, heard, jobs, manager: manager(), watchdog: watchdog() };
    let outcome = match (args.once, args.dry_run) {
        (true, true) => agent.say_due(&rounds),
        (true, false) => agent.once(&mut rounds),
        (false, _) => agent.stay(&mut rounds),
    };
    handle.close();
    let _ = listener.join();
    outcome
}

fn listen(signals: &mut Signals, tells: &Sender<AgentEvent>) {
    for signal in signals.forever() {
        let event = if signal == SIGHUP { AgentEvent::Reload } else { AgentEvent::Stop };
        if tells.send(event).is_err() {
            return;
        }
    }
}

/// The service manager, if this is a service.
fn manager() -> Option<ServiceManager> {
    ServiceManager::at(&std::env::var_os("NOTIFY_SOCKET")?).ok()
}

/// How often the service manager wants to hear something: half of what it waits.
fn watchdog() -> Option<Duration> {
    let micros = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(micros) / 2)
}

/// What the configuration says, and what is wrong with it.
fn load(context: &Context, stop: &Arc<AtomicBool>, observer: &Arc<dyn Observer>) -> Result<(Setup, Vec<Problem>)> {
    let state = context.places.state();
    let none = "neither HOME nor XDG_STATE_HOME is set, so there is no place for what the agent remembers: set one of them";
    let memory = Memory::open(state.ok_or_else(|| Error::invalid(none))?)?;
    let configuration = configured::load(&context.global)?;
    let problems = check::all(&configuration, Programs(&configured::directories()));
    let scheduled = configuration.sets.iter().filter(|(_, named)| named.value.schedule.is_some());
    let sets: BTreeMap<_, _> = scheduled.map(|(name, named)| (name.clone(), named.value.clone())).collect();
    let keys = configuration.agent.as_ref().map(|named| named.value.clone()).unwrap_or_default();
    if sets.is_empty() && keys.jobs.is_empty() {
        return Err(Error::invalid("no set of the configuration has a schedule: the agent has nothing to do"));
    }
    // Jobs are of the server's repository: a set of another one would get its snapshots there.
    let own = configured::repository_of(&context.global, &Set::default())?;
    let mut names = BTreeSet::new();
    for (name, named) in &configuration.sets {
        if configured::repository_of(&context.global, &named.value)? == own {
            names.insert(name.clone());
        }
    }
    let host = lossy(&process::host_name());
    let source = source(context, &configuration, &keys, &host)?;
    let kept = memory.keep_configuration(&configuration.text()?)?;
    let mut program = vec![std::env::current_exe().at(|| "cannot find this program".to_owned())?.into_os_string()];
    program.extend(["--config".into(), kept.into_os_string()]);
    program.extend(options(&context.global));
    let (stop, observer) = (stop.clone(), observer.clone());
    Ok((Setup { program, sets, names, source, keys, zone: TimeZone::system(), host, memory, stop, observer }, problems))
}

/// Who is asked for jobs: the server of the repository that the configuration names first.
fn source(context: &Context, all: &Configuration, keys: &AgentKeys, host: &str) -> Result<Option<WorkSource>> {
    let reports = keys.report.unwrap_or(!keys.jobs.is_empty());
    if keys.jobs.is_empty() && !reports {
        return Ok(None);
    }
    let (global, configured) = configured::of_set(&context.global, all, &Set::default())?;
    let client = Context::new(global, configured).job_client()?;
    let host = keys.host.clone().unwrap_or_else(|| host.to_owned());
    Ok(Some(WorkSource { client, host, kinds: keys.jobs.clone(), reports }))
}

/// What was given to the agent, and holds for what it runs.
fn options(global: &Global) -> Vec<OsString> {
    let path = |path: &Option<std::path::PathBuf>| path.clone().map(std::path::PathBuf::into_os_string);
    let given = [
        ("--repo", global.repo.clone()),
        ("--key-file", path(&global.key_file)),
        ("--password-file", path(&global.password_file)),
        ("--password-command", global.password_command.clone()),
        ("--cache-dir", path(&global.cache_dir)),
        ("--cache-size", global.cache_size.map(|size| size.to_string().into())),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some([OsString::from(name), value?]));
    given.flatten().chain(global.no_cache.then(|| "--no-cache".into())).collect()
}

/// What the agent and the threads that take jobs and report share.
struct JobThread {
    setup: Mutex<Arc<Setup>>,
    /// A job is run.
    busy: AtomicBool,
}

struct Agent<'a> {
    context: &'a Context,
    jobs: Arc<JobThread>,
    observer: Arc<dyn Observer>,
    stop: Arc<AtomicBool>,
    heard: Receiver<AgentEvent>,
    manager: Option<ServiceManager>,
    watchdog: Option<Duration>,
}

impl Agent<'_> {
    fn say_due(&self, rounds: &Rounds) -> Result<Outcome> {
        let mut out = Output::new();
        for set in rounds.all_due(now()) {
            match self.context.global.json {
                true => out.json(&JsonTask { message_type: "agent_run", set: &set, state: "due", exit_code: None })?,
                false => out.line(&format!("set {set} is due"))?,
            }
        }
        out.finish()?;
        Ok(Outcome::Done)
    }

    fn once(&self, rounds: &mut Rounds) -> Result<Outcome> {
        let mut codes = Vec::new();
        loop {
            if !self.stop.load(Ordering::Relaxed) {
                rounds.look(now());
            }
            if rounds.is_idle() {
                break;
            }
            match self.heard.recv() {
                Ok(AgentEvent::Ended(end)) => {
                    codes.extend(self.ended(&end)?);
                    rounds.ended(&end.set, now());
                }
                Ok(AgentEvent::Stop) => self.stop()?,
                Ok(AgentEvent::Reload) => {}
                Err(_) => break,
            }
        }
        let count = codes.iter().filter(|code| **code != 0).count();
        let text = || format!("{} of {}", count, units::counted(codes.len() as u64, "set that was due", "sets that were due"));
        match WORST.into_iter().find(|code| codes.contains(code)).unwrap_or(exit::DONE) {
            exit::DONE => Ok(Outcome::Done),
            exit::PARTIAL => Ok(Outcome::Partial(format!("not everything was done of {}", text()))),
            exit::INTERRUPTED => Err(Error::new(ErrorKind::Interrupted, "interrupted: what was not run is still due")),
            code => Err(Error::new(kind(code), format!("{} failed", text()))),
        }
    }

    fn stay(&self, rounds: &mut Rounds) -> Result<Outcome> {
        self.tell("READY=1");
        self.note("the agent has begun");
        let jobs = self.jobs.clone();
        std::thread::spawn(move || wishes::serve(&jobs.setup, &jobs.busy));
        let jobs = self.jobs.clone();
        std::thread::spawn(move || reports::serve(&jobs.setup));
        loop {
            let at = now();
            let until =
                rounds.look(at).map_or(LONGEST, |wake| Duration::from_secs(wake.saturating_sub(at).max(1).unsigned_abs()));
            match self.wait(until.min(LONGEST))? {
                Some(AgentEvent::Ended(end)) => {
                    self.ended(&end)?;
                    rounds.ended(&end.set, now());
                }
                Some(AgentEvent::Reload) => self.reload(rounds),
                Some(AgentEvent::Stop) => break,
                None => {}
            }
        }
        self.tell("STOPPING=1");
        self.stop()?;
        while !rounds.is_idle() || self.jobs.busy.load(Ordering::SeqCst) {
            // The end of a job is nothing that is heard.
            match self.wait(Duration::from_millis(100))? {
                Some(AgentEvent::Ended(end)) => {
                    self.ended(&end)?;
                    rounds.ended(&end.set, now());
                }
                Some(AgentEvent::Stop) => self.stop()?,
                Some(AgentEvent::Reload) | None => {}
            }
        }
        self.note("the agent has ended");
        Ok(Outcome::Done)
    }

    /// Waits for something, no longer than `most` and than the service manager waits.
    fn wait(&self, most: Duration) -> Result<Option<AgentEvent>> {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1");
        }
        match self.heard.recv_timeout(most.min(self.watchdog.unwrap_or(most))) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::new(ErrorKind::Io, "the agent hears no signals any more")),
        }
    }

    fn stop(&self) -> Result<()> {
        match self.stop.swap(true, Ordering::Relaxed) {
            false => Ok(()),
            true => {
                Err(Error::new(ErrorKind::Interrupted, "interrupted twice: what runs was asked to end, and is not waited for"))
            }
        }
    }

    /// Reads the configuration again. What is wrong with it is said, and then the old one stays.
    fn reload(&self, rounds: &mut Rounds) {
        if let Some(manager) = &self.manager {
            manager.reloading();
        }
        match load(self.context, &self.stop, &self.observer) {
            Ok((setup, problems)) if problems.is_empty() => {
                let setup = Arc::new(setup);
                self.jobs.setup.lock().clone_from(&setup);
                rounds.replace(setup);
                self.note("the configuration was read again");
            }
            Ok((_, problems)) => problems.iter().for_each(|problem| self.old_stays(&problem.to_string())),
            Err(e) => self.old_stays(&e.to_string()),
        }
        self.tell("READY=1");
    }

    fn old_stays(&self, why: &str) {
        let message = format!("the configuration stays as it was: {why}");
        self.observer.event(&Event::Warning { subject: b"", message: &message });
    }

    /// Says how a task ended; its exit code, if it was a run.
    fn ended(&self, end: &WorkEnd) -> Result<Option<u8>> {
        let (state, code) = match &end.result {
            Ok(TaskEnd::Ran(code)) => (if *code == 0 { "done" } else { "failed" }, Some(*code)),
            Ok(TaskEnd::AlreadyDone) => ("already_done", None),
            Ok(TaskEnd::Busy) => ("busy", None),
            Ok(TaskEnd::Stopped) => ("stopped", Some(exit::INTERRUPTED)),
            Ok(TaskEnd::Told) => return Ok(None),
            Err(e) => {
                let subject = format!("set {}", end.set);
                self.observer.event(&Event::Warning { subject: subject.as_bytes(), message: &e.to_string() });
                ("failed", Some(exit::code(e.kind())))
            }
        };
        if self.context.global.json {
            let mut out = Output::new();
            out.json(&JsonTask { message_type: "agent_run", set: &end.set, state, exit_code: code })?;
            out.finish()?;
        }
        Ok(code)
    }

    fn tell(&self, lines: &str) {
        if let Some(manager) = &self.manager {
            manager.tell(lines);
        }
    }

    fn note(&self, message: &str) {
        let file = configured::file(&self.context.global).ok().flatten();
        let subject = file.map(|file| paths::shown(&file)).unwrap_or_default();
        self.observer.event(&Event::Note { subject: subject.as_bytes(), message });
    }
}

/// The kind of error that ends with this exit code.
fn kind(code: u8) -> ErrorKind {
    match code {
        exit::USAGE => ErrorKind::Invalid,
        exit::NO_REPOSITORY => ErrorKind::NoRepository,
        exit::BUSY => ErrorKind::Busy,
        exit::NO_KEY => ErrorKind::Key,
        exit::ALIVE => ErrorKind::Alive,
        _ => ErrorKind::Io,
    }
}
