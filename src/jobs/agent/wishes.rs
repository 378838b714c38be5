//! Jobs of a server: the agent asks for one, runs it as a process of its own, and says what became of it. What it has
//! taken is kept in the state directory before it is begun, so that nothing is run twice, and that no end is forgotten.

use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::jobs::agent::work::{INTERRUPTED, PARTIAL, Setup, now};
use crate::jobs::agent::{alarms, child};
use crate::model::escape;
use crate::model::id::{random_bytes, to_hex};
use crate::observe::Event;
use crate::remote::control::client::JobClient;
use crate::remote::control::{
    ClaimRequest, EndReport, Job, JobKind, JobOutcome, JobProgress, MAX_MESSAGE, MAX_WAIT, NewJob, ProgressReport, cut, cut_steps,
};

/// How often the server hears of a job that runs.
const SIGN: Duration = Duration::from_secs(2);
/// How often it is looked whether something has ended.
const LOOK: Duration = Duration::from_millis(100);
/// The longest pause after something that failed.
const LONGEST: Duration = Duration::from_secs(60);
/// The exit code of what failed.
const FAILED: u8 = 1;
/// The lock of what is about the whole repository. No set is called so.
const REPOSITORY: &str = ".repository";
/// The lock of who takes jobs.
const ONLY: &str = ".jobs";

/// Whom the agent asks for work.
pub struct WorkSource {
    /// The server.
    pub client: JobClient,
    /// What this host is called there.
    pub host: String,
    /// The kinds of jobs that are taken: none, if it is only told how the sets stand.
    pub kinds: Vec<JobKind>,
    /// Whether it is told how the sets stand.
    pub reports: bool,
}

/// What is kept of a job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimMemory {
    /// The word with which the server is asked.
    pub(crate) claim: String,
    /// The job that was taken, before it is begun.
    pub(crate) job: Option<Job>,
    /// When that was, in seconds since 1970.
    pub(crate) began: i64,
    /// How it ended, until the server knows.
    pub(crate) ended: Option<EndReport>,
}

/// Asks for work until the agent ends. `busy` is true while a job is run.
pub fn serve(shared: &Mutex<Arc<Setup>>, busy: &AtomicBool) {
    let (mut said, mut pause) = (String::new(), Duration::from_secs(1));
    // Two agents with one state directory would be taken for one.
    let mut only = None;
    loop {
        let setup = shared.lock().clone();
        if setup.stop.load(Ordering::Relaxed) {
            return;
        }
        only = only.or_else(|| setup.memory.lock(ONLY).ok().flatten());
        let Some(source) = setup.source.as_ref().filter(|source| only.is_some() && !source.kinds.is_empty()) else {
            std::thread::sleep(LOOK);
            continue;
        };
        match (Taker { setup: &setup, source }).step(busy) {
            Ok(()) => {
                if !std::mem::take(&mut said).is_empty() {
                    note(&setup, "the server is there again");
                }
                pause = Duration::from_secs(1);
            }
            Err(e) => {
                let text = e.to_string();
                if text != said {
                    warn(&setup, &text);
                    said = text;
                }
                let until = Instant::now() + pause;
                while Instant::now() < until && !setup.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK);
                }
                pause = (pause * 2).min(LONGEST);
            }
        }
    }
}

fn note(setup: &Setup, text: &str) {
    setup.observer.event(&Event::Note { subject: b"jobs", message: text });
}

fn warn(setup: &Setup, text: &str) {
    setup.observer.event(&Event::Warning { subject: b"jobs", message: text });
}

/// What a command has said so far.
#[derive(Default)]
struct Heard {
    progress: JobProgress,
    summary: Option<Value>,
    message: String,
    next_steps: Vec<String>,
}

struct Taker<'a> {
    setup: &'a Setup,
    source: &'a WorkSource,
}

impl Taker<'_> {
    /// Goes on with what is kept, or asks for something new.
    fn step(&self, busy: &AtomicBool) -> Result<()> {
        let memory = &self.setup.memory;
        let mut kept = memory.claim();
        if let (Some(job), Some(ended)) = (&kept.job, &kept.ended) {
            return match self.source.client.end(&job.id, ended) {
                // The server knows another end, or nothing of it any more.
                Err(e) if matches!(e.kind(), ErrorKind::Exists | ErrorKind::NotFound) => {
                    warn(self.setup, &format!("job {}: {e}", job.id));
                    memory.keep_claim(&ClaimMemory::default())
                }
                Err(e) => Err(e),
                Ok(()) => memory.keep_claim(&ClaimMemory::default()),
            };
        }
        if let Some(job) = kept.job.clone() {
            // This agent was ended while it ran.
            kept.ended = Some(self.recovered(&job, &kept)?);
            return memory.keep_claim(&kept);
        }
        if kept.claim.is_empty() {
            kept.claim = to_hex(&random_bytes::<16>()?);
            memory.keep_claim(&kept)?;
        }
        let (host, kinds) = (self.source.host.clone(), self.source.kinds.clone());
        let request = ClaimRequest { host, claim: kept.claim.clone(), kinds, wait: MAX_WAIT };
        let Some(job) = self.source.client.claim(&request)? else { return Ok(()) };
        // Whoever stops the agent waits from here on until it is written down how the job ended.
        busy.store(true, Ordering::SeqCst);
        let result = self.take(kept, job);
        busy.store(false, Ordering::SeqCst);
        result
    }

    fn take(&self, mut kept: ClaimMemory, job: Job) -> Result<()> {
        if self.setup.stop.load(Ordering::SeqCst) {
            // It is asked for again by the next agent with the same word.
            return Ok(());
        }
        (kept.job, kept.began) = (Some(job.clone()), now());
        self.setup.memory.keep_claim(&kept)?;
        note(self.setup, &format!("job {} begins: {}", job.id, said(&job)));
        let ended = self.run(&job, &kept.claim).unwrap_or_else(|e| self.failed(&kept.claim, e.to_string()));
        match &ended.message {
            Some(message) => warn(self.setup, &format!("job {}: {message}", job.id)),
            None => note(self.setup, &format!("job {} is done", job.id)),
        }
        kept.ended = Some(ended);
        self.setup.memory.keep_claim(&kept)
    }

    fn failed(&self, claim: &str, message: String) -> EndReport {
        let (outcome, message) = (JobOutcome::Failed, Some(cut(message, MAX_MESSAGE)));
        EndReport {
            claim: claim.to_owned(),
            outcome,
            message,
            snapshot: None,
            size: None,
            added: None,
            exit_code: None,
            next_steps: Vec::new(),
        }
    }

    /// The name of the lock that a job needs, if it may be run here at all.
    fn lock_name<'b>(&self, job: &'b Job) -> Result<&'b str> {
        check(job)?;
        if job.host != self.source.host || !self.source.kinds.contains(&job.kind) {
            return Err(Error::invalid("the agent does not take such jobs: see the key jobs of its table [agent]"));
        }
        match &job.set {
            Some(set) if job.kind.has_set() && self.setup.names.contains(set) => Ok(set),
            Some(set) => {
                let set = escape(set.as_bytes());
                Err(Error::invalid(format!("the host has no set {set} of this repository: see its yester sets")))
            }
            None if job.kind.has_set() => Err(Error::invalid("the job names no set")),
            None => Ok(REPOSITORY),
        }
    }

    /// Runs a job to its end.
    fn run(&self, job: &Job, claim: &str) -> Result<EndReport> {
        let name = self.lock_name(job)?;
        let (halt, over, wanted) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        let heard = Mutex::new(Heard::default());
        let result = std::thread::scope(|scope| {
            scope.spawn(|| self.report(job, claim, &heard, (&halt, &over, &wanted)));
            let result = self.child(job, name, &heard, &halt);
            over.store(true, Ordering::SeqCst);
            result
        });
        let heard = heard.into_inner();
        let Some(code) = result? else { return Ok(self.unbegun(claim, wanted.into_inner())) };
        let mut ended = EndReport { exit_code: Some(code), next_steps: heard.next_steps, ..self.failed(claim, heard.message) };
        if let Some(summary) = &heard.summary {
            let number = |name| summary.get(name).and_then(Value::as_u64);
            ended.size = number("total_bytes_processed").or_else(|| number("bytes_restored"));
            ended.added = number("data_added");
            let committed = summary.get("committed").and_then(Value::as_bool) == Some(true);
            ended.snapshot = summary.get("snapshot_id").and_then(Value::as_str).filter(|_| committed).map(str::to_owned);
        }
        match code {
            0 => (ended.outcome, ended.message) = (JobOutcome::Done, None),
            INTERRUPTED if wanted.load(Ordering::SeqCst) => (ended.outcome, ended.message) = (JobOutcome::Cancelled, None),
            INTERRUPTED if self.setup.stop.load(Ordering::SeqCst) => {
                ended.message = Some("the agent was stopped while it ran".to_owned());
            }
            PARTIAL => ended.message = Some(format!("not all of it: {}", ended.message.unwrap_or_default())),
            _ if ended.message.as_ref().is_none_or(String::is_empty) => ended.message = Some(format!("exit code {code}")),
            _ => {}
        }
        Ok(ended)
    }

    /// The end of what was not begun, since it was stopped before.
    fn unbegun(&self, claim: &str, wanted: bool) -> EndReport {
        let ended = self.failed(claim, "the agent was stopped before it began".to_owned());
        if wanted { EndReport { outcome: JobOutcome::Cancelled, message: None, ..ended } } else { ended }
    }

    /// Runs the command of a job once nothing else runs with the same lock; its exit code, or `None` if it was stopped before.
    fn child(&self, job: &Job, name: &str, heard: &Mutex<Heard>, halt: &AtomicBool) -> Result<Option<u8>> {
        let Some(lock) = self.locked(name, heard, halt)? else { return Ok(None) };
        let began = Instant::now();
        let mut out = |line: &[u8]| hear(line, heard, began);
        let mut err = |line: &[u8]| {
            let (text, is_last) = complaint(line);
            if is_last || heard.lock().message.is_empty() {
                heard.lock().message = cut(text, MAX_MESSAGE);
            }
        };
        let [says, complains] = self.setup.memory.said();
        let held = lock.try_clone().at(|| format!("the lock of {}", escape(name.as_bytes())))?;
        let code = child::run_into(&self.command(job), lock, halt, [&says, &complains], &mut out, &mut err)?;
        match (job.kind, code) {
            (JobKind::Ingest, 0) => self.was_good(name),
            (JobKind::Restore, 0 | PARTIAL) => heard.lock().next_steps = self.next_steps(job, &held, halt),
            _ => {}
        }
        drop(held);
        Ok(Some(code))
    }

    /// Notes that a set was run, and all of it was stored: nothing of it has failed since, and it is not overdue. Who says
    /// so has its lock.
    fn was_good(&self, set: &str) {
        let mut memory = self.setup.memory.of(set);
        (memory.good, memory.ran, memory.code) = (Some(now()), Some(now()), Some(0));
        alarms::end(&mut memory.failed);
        // Not written: the repository has it.
        let _ = self.setup.memory.remember(set, &memory);
    }

    /// Waits until nothing else runs with this lock; `None`: it was stopped before.
    fn locked(&self, name: &str, heard: &Mutex<Heard>, halt: &AtomicBool) -> Result<Option<File>> {
        loop {
            if halt.load(Ordering::SeqCst) || self.setup.stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            if let Some(lock) = self.setup.memory.lock(name)? {
                heard.lock().progress.message = None;
                return Ok(Some(lock));
            }
            heard.lock().progress.message = Some(match name {
                REPOSITORY => "waits for another job of the repository".to_owned(),
                set => format!("waits for the run of set {} that is under way", escape(set.as_bytes())),
            });
            std::thread::sleep(LOOK);
        }
    }

    fn command(&self, job: &Job) -> Vec<OsString> {
        let set = job.set.as_ref().map(|set| OsString::from(format!("--set={set}")));
        let snapshot = job.snapshot.as_ref().filter(|_| job.kind == JobKind::Restore).map(OsString::from);
        let words = [OsString::from(job.kind.name()), "--json".into()];
        self.setup.program.iter().cloned().chain(words).chain(set).chain(snapshot).collect()
    }

    /// What a person still has to do after a restore: nothing, if that cannot be told.
    fn next_steps(&self, job: &Job, lock: &File, halt: &AtomicBool) -> Vec<String> {
        let (mut out, mut command) = (Vec::new(), self.command(job));
        command.push("--next-steps".into());
        let mut line = |line: &[u8]| {
            let value = serde_json::from_slice::<Value>(line).unwrap_or_default();
            out.extend(value["text"].as_str().filter(|_| value["message_type"] == "next_step").map(str::to_owned));
        };
        let mut err = |line: &[u8]| warn(self.setup, &format!("job {}: its next steps: {}", job.id, complaint(line).0));
        if let Ok(lock) = lock.try_clone()
            && let Err(e) = child::run(&command, lock, halt, &mut line, &mut err)
        {
            warn(self.setup, &format!("job {}: its next steps: {e}", job.id));
        }
        cut_steps(out)
    }

    /// Tells the server how far it is until it is over, and hears whether it is to end.
    fn report(&self, job: &Job, claim: &str, heard: &Mutex<Heard>, flags: (&AtomicBool, &AtomicBool, &AtomicBool)) {
        let (halt, over, wanted) = flags;
        let mut next = Instant::now();
        while !over.load(Ordering::SeqCst) {
            if self.setup.stop.load(Ordering::SeqCst) {
                halt.store(true, Ordering::SeqCst);
            }
            if Instant::now() >= next {
                let report = ProgressReport { claim: claim.to_owned(), progress: heard.lock().progress.clone() };
                // A server that is away hears of the end when it is back.
                if self.source.client.progress(&job.id, &report).unwrap_or(false) {
                    wanted.store(true, Ordering::SeqCst);
                    halt.store(true, Ordering::SeqCst);
                }
                next = Instant::now() + SIGN;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What became of a job whose agent was ended: what the repository says of it, once its command is not there any more.
    fn recovered(&self, job: &Job, kept: &ClaimMemory) -> Result<EndReport> {
        let name = match self.lock_name(job) {
            Ok(name) => name,
            Err(e) => return Ok(self.failed(&kept.claim, e.to_string())),
        };
        let (heard, halt) = (Mutex::new(Heard::default()), AtomicBool::new(false));
        let over = AtomicBool::new(false);
        let lock = std::thread::scope(|scope| {
            scope.spawn(|| self.report(job, &kept.claim, &heard, (&AtomicBool::new(false), &over, &AtomicBool::new(false))));
            let lock = self.locked(name, &heard, &halt);
            over.store(true, Ordering::SeqCst);
            lock
        });
        let stopped = || Error::new(ErrorKind::Interrupted, "the agent was stopped again");
        let lock = lock?.ok_or_else(stopped)?;
        let (run, damaged) = self.run_of(job, kept, lock)?;
        let Some(run) = run else {
            let text = match damaged {
                0 => "the agent was ended while it ran, and the repository does not say that it came to its end".to_owned(),
                count => format!(
                    "the agent was ended while it ran, and the repository does not say that it came to its end, or does so in a \
                     record that is damaged: {count} of its records of runs are (yester runs)"
                ),
            };
            return Ok(self.failed(&kept.claim, text));
        };
        Ok(self.ended_as(job, &kept.claim, &run))
    }

    /// The end of a job as the repository has its run.
    fn ended_as(&self, job: &Job, claim: &str, run: &Value) -> EndReport {
        let text = |name: &str| run[name].as_str().map(str::to_owned);
        let state = text("state").unwrap_or_default();
        let mut ended = self.failed(claim, text("message").unwrap_or_else(|| format!("the run is {state}")));
        (ended.snapshot, ended.size) = (text("snapshot_id").filter(|_| job.kind == JobKind::Ingest), run["bytes"].as_u64());
        match state.as_str() {
            "complete" => (ended.outcome, ended.message, ended.exit_code) = (JobOutcome::Done, None, Some(0)),
            "incomplete" => ended.exit_code = Some(PARTIAL),
            _ => {}
        }
        ended
    }

    /// The run that a job was, as the repository has it, and how many runs cannot be read.
    fn run_of(&self, job: &Job, kept: &ClaimMemory, lock: File) -> Result<(Option<Value>, u64)> {
        let words = ["runs", "--json"].map(OsString::from);
        let command: Vec<OsString> = self.setup.program.iter().cloned().chain(words).collect();
        let (mut found, mut last, mut damaged) = (None, String::new(), 0);
        let host = self.setup.host.as_str();
        let mut line = |line: &[u8]| {
            let Ok(run) = serde_json::from_slice::<Value>(line) else { return };
            if run["message_type"] == "damaged_runs" {
                damaged = run["count"].as_u64().unwrap_or(1);
            } else if found.is_none() && is_run(&run, job, host, kept.began) {
                found = Some(run);
            }
        };
        let mut err = |line: &[u8]| {
            let (text, is_last) = complaint(line);
            if is_last || last.is_empty() {
                last = text;
            }
        };
        let code = child::run(&command, lock, &AtomicBool::new(false), &mut line, &mut err)?;
        match code {
            0 => Ok((found, 0)),
            // All that can be read were listed, if there are any: the others are damaged, and stay so.
            FAILED if damaged > 0 => Ok((found, damaged)),
            _ => Err(Error::new(ErrorKind::Io, format!("what became of job {} cannot be told yet: {last}", job.id))),
        }
    }
}

/// Checks a job as the server has to: what it says becomes words of a command.
fn check(job: &Job) -> Result<()> {
    let Job { kind, host, set, snapshot, .. } = job.clone();
    // Of other kinds it is what they made.
    let snapshot = snapshot.filter(|_| kind == JobKind::Restore);
    NewJob { kind, host, set, snapshot, backup: None }.check()
}

/// Whether this is the run of a job on a host, which began then, or later.
fn is_run(run: &Value, job: &Job, host: &str, began: i64) -> bool {
    let started = run["started"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    // What is under way is listed too, and is another message.
    let is_kind = run["message_type"] == "run" && run["kind"] == job.kind.name() && run["set"].as_str() == job.set.as_deref();
    is_kind && run["hostname"] == host && started.is_some_and(|started| started.as_second() >= began)
}

/// What a line of the errors of a command says, and whether it says why the command failed.
fn complaint(line: &[u8]) -> (String, bool) {
    let value = serde_json::from_slice::<Value>(line).unwrap_or_default();
    let text = value["message"].as_str().map_or_else(|| escape(line), |text| escape(text.as_bytes()));
    (text, value["message_type"] == "exit_error")
}

/// Takes over what a line of a command says.
fn hear(line: &[u8], heard: &Mutex<Heard>, began: Instant) {
    let Ok(value) = serde_json::from_slice::<Value>(line) else { return };
    let heard = &mut *heard.lock();
    match value["message_type"].as_str() {
        Some("status") => {
            let seconds = began.elapsed().as_secs().max(1);
            let bytes_done = value["bytes_done"].as_u64();
            heard.progress = JobProgress {
                percent: value["percent_done"].as_f64().map(|part| (part * 100.0).clamp(0.0, 100.0)),
                bytes_done,
                bytes_total: value["total_bytes"].as_u64(),
                rate: bytes_done.map(|bytes| bytes / seconds),
                seconds_left: value["seconds_remaining"].as_f64().map(|seconds| seconds.max(0.0) as u64),
                message: None,
            };
        }
        Some("summary") => heard.summary = Some(value),
        _ => {}
    }
}

fn said(job: &Job) -> String {
    job.set
        .as_ref()
        .map_or_else(|| job.kind.name().to_owned(), |set| format!("{} of set {}", job.kind.name(), escape(set.as_bytes())))
}

#[cfg(test)]
mod tests;
