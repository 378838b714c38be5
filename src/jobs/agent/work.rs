//! What is done with a set that is due: it is run, its `keep` rules are applied, and alarms are sent. Each step is a
//! process of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::error::{IoContext, Result};
use crate::jobs::agent::alarms::{self, Alarm};
use crate::jobs::agent::child;
use crate::jobs::agent::memory::{Memory, SetMemory};
use crate::jobs::agent::wishes::WorkSource;
use crate::jobs::config::keys::{AgentKeys, Set};
use crate::jobs::standing;
use crate::model::escape;
use crate::observe::{Event, Observer};

/// The exit code of what was stopped.
pub(crate) const INTERRUPTED: u8 = 130;
/// The exit code of what was done, but not all of it.
pub(crate) const PARTIAL: u8 = 3;
/// The most lines of a command that are held back.
const LINES: usize = 100;

/// All that the agent works with, as its configuration has it.
pub struct Setup {
    /// This program and the options of every command.
    pub program: Vec<OsString>,
    /// The sets with a schedule.
    pub sets: BTreeMap<String, Set>,
    /// The names of the sets that jobs may be about: those of the repository whose server is asked.
    pub names: BTreeSet<String>,
    /// Who is asked for jobs and told how the sets stand, if somebody is.
    pub source: Option<WorkSource>,
    /// What the configuration says of the agent.
    pub keys: AgentKeys,
    /// The machine's zone.
    pub zone: TimeZone,
    /// The machine's name.
    pub host: String,
    /// What is remembered.
    pub memory: Memory,
    /// Set when everything is to end.
    pub stop: Arc<AtomicBool>,
    /// Where it reports.
    pub observer: Arc<dyn Observer>,
}

/// Something to do with a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTask {
    /// Run it, for this slot.
    Run(i64),
    /// Check whether it is overdue, and send the alarm if it was not sent.
    Tell,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEnd {
    /// It was run: the exit code.
    Ran(u8),
    /// Somebody else had run it.
    AlreadyDone,
    /// Somebody else runs it.
    Busy,
    /// It was stopped.
    Stopped,
    /// All were told, as far as they could be.
    Told,
}

/// A line of `yester sets --json`, as far as it matters here.
#[derive(Deserialize)]
struct SetLine {
    message_type: String,
    last_run: Option<String>,
    last_good: Option<String>,
}

/// Seconds since 1970.
pub fn now() -> i64 {
    crate::sys::clock::now().secs
}

impl Setup {
    /// Does it.
    pub fn work(&self, name: &str, task: SetTask) -> Result<TaskEnd> {
        let Some(set) = self.sets.get(name) else { return Ok(TaskEnd::AlreadyDone) };
        let Some(lock) = self.memory.lock(name)? else { return Ok(TaskEnd::Busy) };
        let mut memory = self.memory.of(name);
        memory.first.get_or_insert(now());
        let ended = match task {
            SetTask::Run(slot) => self.run(name, set, slot, &lock, &mut memory)?,
            SetTask::Tell => {
                if standing::overdue(set, memory.good, &self.zone, now()).is_some() {
                    self.look_up(name, &lock, &mut memory);
                }
                TaskEnd::Told
            }
        };
        self.judge(set, &mut memory);
        self.tell(name, &mut memory);
        self.memory.remember(name, &memory)?;
        Ok(ended)
    }

    fn run(&self, name: &str, set: &Set, slot: i64, lock: &File, memory: &mut SetMemory) -> Result<TaskEnd> {
        let mut progress = memory.progress();
        // The repository knows of runs that nobody here remembers. If it is away, the run will say so.
        let last = if progress.done >= Some(slot) { progress.done } else { self.look_up(name, lock, memory) };
        if last >= Some(slot) {
            progress.did(slot);
            memory.set_progress(progress);
            return Ok(TaskEnd::AlreadyDone);
        }
        self.say(name, "begins");
        let (code, last_line) =
            self.child(&["ingest", "--set", name], lock, name, memory.code.filter(|_| memory.failures > 0))?;
        if code == INTERRUPTED && self.stop.load(Ordering::Relaxed) {
            self.say(name, "was stopped, and is run again");
            return Ok(TaskEnd::Stopped);
        }
        (memory.code, memory.ran) = (Some(code), Some(now()));
        match code {
            0 | PARTIAL => progress.did(slot),
            _ => progress.failed(now()),
        }
        memory.set_progress(progress);
        if code == 0 {
            memory.good = Some(now());
            alarms::end(&mut memory.failed);
        } else {
            let message = if last_line.is_empty() { format!("exit code {code}") } else { last_line };
            alarms::begin(&mut memory.failed, now(), &message);
        }
        if !matches!(code, 0 | PARTIAL) || set.keep.is_empty() {
            return Ok(TaskEnd::Ran(code));
        }
        let (forgot, last_line) = self.child(&["forget", "-q", "--set", name], lock, name, None)?;
        if forgot != 0 && !self.stop.load(Ordering::Relaxed) {
            alarms::begin(&mut memory.failed, now(), &format!("the snapshot is stored, but forget failed: {last_line}"));
        }
        Ok(TaskEnd::Ran(if code == 0 { forgot } else { code }))
    }

    /// Asks the repository when the set was last run, and takes over when it was last good.
    fn look_up(&self, name: &str, lock: &File, memory: &mut SetMemory) -> Option<i64> {
        let mut found = None;
        let lock = lock.try_clone().ok()?;
        let mut line = |line: &[u8]| {
            found =
                found.take().or(serde_json::from_slice::<SetLine>(line).ok().filter(|line| line.message_type == "set_standing"));
        };
        let command = self.command(&["sets", "--json", name]);
        if child::run(&command, lock, &self.stop, &mut line, &mut |_| {}).ok()? != 0 {
            return None;
        }
        let found = found?;
        let second = |text: Option<String>| text?.parse().ok().map(jiff::Timestamp::as_second);
        memory.good = memory.good.max(second(found.last_good)).map(|good| good.min(now()));
        second(found.last_run)
    }

    /// Runs a command and passes on what it says. If it ended with `before` when it said so the last time, it is not said
    /// again. Returns the exit code and the last line of its errors.
    fn child(&self, words: &[&str], lock: &File, name: &str, before: Option<u8>) -> Result<(u8, String)> {
        let lock = lock.try_clone().at(|| format!("the lock of {name}"))?;
        let (mut last, mut held, quiet) = (String::new(), Vec::new(), before.is_some());
        let mut err = |line: &[u8]| {
            last = escape(line).trim_start_matches("yester: ").to_owned();
            match quiet {
                false => self.warn(name, &last),
                true if held.len() < LINES => held.push(last.clone()),
                true => {}
            }
        };
        let code = child::run(&self.command(words), lock, &self.stop, &mut |line| self.say(name, &escape(line)), &mut err)?;
        if before != Some(code) {
            held.iter().for_each(|line| self.warn(name, line));
        }
        Ok((code, last))
    }

    fn command(&self, words: &[&str]) -> Vec<OsString> {
        self.program.iter().cloned().chain(words.iter().map(OsString::from)).collect()
    }

    /// Whether it is overdue, by what is known.
    fn judge(&self, set: &Set, memory: &mut SetMemory) {
        match standing::overdue(set, memory.good.or(memory.first), &self.zone, now()) {
            Some(since) => {
                let message = match memory.good {
                    Some(good) => format!("the last good snapshot is of {}", alarms::time(good)),
                    None => "there has never been a good snapshot".to_owned(),
                };
                alarms::begin(&mut memory.overdue, since, &message);
            }
            None => alarms::end(&mut memory.overdue),
        }
    }

    /// Whether somebody has to be told something of a set.
    pub(crate) fn has_news(&self, set: &Set, memory: &SetMemory) -> bool {
        let mut judged = memory.clone();
        judged.first.get_or_insert(now());
        self.judge(set, &mut judged);
        [&judged.failed, &judged.overdue].into_iter().any(|trouble| alarms::untold(trouble).is_some())
    }

    fn tell(&self, name: &str, memory: &mut SetMemory) {
        let last_good = memory.good.map(alarms::time);
        for (event, trouble) in [("failed", &mut memory.failed), ("overdue", &mut memory.overdue)] {
            let Some((phase, now)) = alarms::untold(trouble).zip(trouble.clone()) else { continue };
            let alarm = Alarm {
                event,
                phase,
                set: name.to_owned(),
                host: self.host.clone(),
                message: now.message,
                since: alarms::time(now.since),
                last_good: last_good.clone(),
            };
            match (event, phase) {
                // The run has said it.
                ("failed", "begin") => {}
                (_, "begin") => self.warn(name, &alarm.text()),
                _ => self.say(name, &alarm.text()),
            }
            match alarm.tell(&self.keys.notify, &self.observer) {
                Ok(()) => alarms::told(trouble),
                Err(e) => self.warn(name, &format!("nobody could be told: {e}")),
            }
        }
    }

    fn say(&self, set: &str, text: &str) {
        self.observer.event(&Event::Note { subject: format!("set {set}").as_bytes(), message: text });
    }

    fn warn(&self, set: &str, text: &str) {
        self.observer.event(&Event::Warning { subject: format!("set {set}").as_bytes(), message: text });
    }
}
