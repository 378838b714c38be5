//! The agent's rounds: what is to be done now, and when to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::agent::memory::SetMemory;
use crate::jobs::agent::plan::{self, Due, Plan};
use crate::jobs::agent::work::{SetTask, Setup, TaskEnd};
use crate::jobs::config::keys::Set;
use crate::jobs::schedule::Schedule;
use crate::jobs::units;
use crate::sys::process;

/// Two looks that are farther apart, in seconds: nobody looked in between, since the machine slept.
const ASLEEP: i64 = 180;
/// What has ended is not begun again for so many seconds, whatever became of it.
const PAUSE: i64 = 30;
/// Who could not be told is told again after so many seconds.
const TELL_AGAIN: i64 = 300;

/// What ended, and how.
pub struct WorkEnd {
    /// The set.
    pub set: String,
    /// What was done with it.
    pub task: SetTask,
    /// How that went.
    pub result: Result<TaskEnd>,
}

/// Something that the agent is waiting for.
pub enum AgentEvent {
    /// A task ended.
    Ended(WorkEnd),
    /// The configuration is to be read again.
    Reload,
    /// It is to end.
    Stop,
}

/// What is under way, and since when somebody looks.
pub struct Rounds {
    setup: Arc<Setup>,
    ended: Sender<AgentEvent>,
    running: BTreeSet<String>,
    /// `--once`: everything that is due at once, and nothing twice.
    once: Option<BTreeSet<String>>,
    awake: i64,
    looked: i64,
    told: BTreeMap<String, i64>,
    /// When each set may be begun again.
    later: BTreeMap<String, i64>,
}

impl Rounds {
    /// Begins at `now`. What ends is said to `ended`.
    pub fn new(setup: Arc<Setup>, ended: Sender<AgentEvent>, once: bool, now: i64) -> Self {
        let once = once.then(BTreeSet::new);
        Rounds {
            setup,
            ended,
            running: BTreeSet::new(),
            once,
            awake: now,
            looked: now,
            told: BTreeMap::new(),
            later: BTreeMap::new(),
        }
    }

    /// Goes on by another configuration. What runs comes to its end.
    pub fn replace(&mut self, setup: Arc<Setup>) {
        self.setup = setup;
    }

    /// Notes that something ended.
    pub fn ended(&mut self, set: &str, now: i64) {
        self.running.remove(set);
        self.later.insert(set.to_owned(), now + PAUSE);
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Begins what is to be done at `now`; answers when the next thing is to be done, as far as that is known.
    pub fn look(&mut self, now: i64) -> Option<i64> {
        if now.saturating_sub(self.looked) > ASLEEP {
            self.awake = now;
        }
        self.looked = now;
        let setup = self.setup.clone();
        let mut wake: Option<i64> = None;
        for (name, set) in &setup.sets {
            if self.running.contains(name) {
                continue;
            }
            if let Some(later) = self.later.get(name).filter(|later| (now + 1..=now + PAUSE).contains(*later)) {
                wake = Some(wake.map_or(*later, |wake| wake.min(*later)));
                continue;
            }
            let memory = setup.memory.of(name);
            match self.due(name, set, memory.clone(), now) {
                Due::Now(slot) if self.running.len() < usize::from(setup.keys.at_once.unwrap_or(1)) => {
                    if let Some(tried) = &mut self.once {
                        tried.insert(name.clone());
                    }
                    self.begin(name, SetTask::Run(slot));
                    continue;
                }
                Due::At(then) => wake = Some(wake.map_or(then, |wake| wake.min(then))),
                Due::Now(_) | Due::Never => {}
            }
            let again = self.told.get(name).is_none_or(|told| !(*told..*told + TELL_AGAIN).contains(&now));
            if self.once.as_ref().is_none_or(|tried| !tried.contains(name)) && again && setup.has_news(set, &memory) {
                self.told.insert(name.clone(), now);
                self.begin(name, SetTask::Tell);
            }
        }
        wake
    }

    /// The sets that are due at `now`.
    pub fn all_due(&self, now: i64) -> Vec<String> {
        let due = |(name, set): &(&String, &Set)| matches!(self.due(name, set, self.setup.memory.of(name), now), Due::Now(_));
        self.setup.sets.iter().filter(due).map(|(name, _)| name.clone()).collect()
    }

    fn due(&self, name: &str, set: &Set, memory: SetMemory, now: i64) -> Due {
        if self.once.as_ref().is_some_and(|tried| tried.contains(name)) {
            return Due::Never;
        }
        let Some(schedule) = set.schedule.as_deref().and_then(|text| Schedule::parse(text).ok()) else { return Due::Never };
        let splay = set.splay.as_deref().and_then(|text| units::parse_wait(text).ok());
        let plan = Plan {
            schedule: &schedule,
            zone: &self.setup.zone,
            splay: if self.once.is_some() { Some(Duration::ZERO) } else { splay },
            seed: plan::seed(&process::machine_id(), name),
        };
        let mut progress = memory.progress();
        if plan.set_right(&mut progress, now) {
            // The clock was turned back: from now on it counts from here.
            if let Ok(Some(_lock)) = self.setup.memory.lock(name) {
                let mut memory = self.setup.memory.of(name);
                memory.set_progress(progress);
                // Not written: then it is found again at the next look.
                let _ = self.setup.memory.remember(name, &memory);
            }
        }
        if self.once.is_some() {
            progress.retry = None;
        }
        plan.due(&progress, now, self.awake)
    }

    fn begin(&mut self, name: &str, task: SetTask) {
        let (setup, ended, set) = (self.setup.clone(), self.ended.clone(), name.to_owned());
        self.running.insert(set.clone());
        let work = move || {
            // A set that never ended would never be run again.
            let result = catch_unwind(AssertUnwindSafe(|| setup.work(&set, task)))
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "the agent failed: this is a fault of yester")));
            // Who does not listen any more has ended.
            let _ = ended.send(AgentEvent::Ended(WorkEnd { set, task, result }));
        };
        std::thread::spawn(work);
    }
}
