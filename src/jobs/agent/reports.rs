//! What the agent tells the server of the repository: how the sets of its host stand. It is told anew whenever that has
//! changed, and now and then. While the server is away everything goes on; when it is back, it hears how things stand then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::ErrorKind;
use crate::jobs::agent::plan::{self, Due, Plan};
use crate::jobs::agent::work::{Setup, now};
use crate::jobs::config::keys::Set;
use crate::jobs::schedule::Schedule;
use crate::jobs::{standing, units};
use crate::observe::Event;
use crate::remote::control::cut;
use crate::remote::control::report::{HostReport, MAX_SETS, MAX_WORD, SetReport};
use crate::sys::process;

/// How often it is looked whether something has changed.
const LOOK: Duration = Duration::from_secs(1);
/// What has not changed is told again after so long: the server may have lost it.
const AGAIN: Duration = Duration::from_secs(900);
/// The first pause after a report that was not taken, and the longest.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

/// Reports until the agent ends.
pub fn serve(shared: &Mutex<Arc<Setup>>) {
    let mut last: Option<(HostReport, Instant)> = None;
    let (mut pause, mut not_before, mut said) = (PAUSE, Instant::now(), String::new());
    loop {
        let setup = shared.lock().clone();
        if setup.stop.load(Ordering::Relaxed) {
            return;
        }
        let source = setup.source.as_ref().filter(|source| source.reports && Instant::now() >= not_before);
        if let Some(source) = source {
            let report = report(&setup, &source.host);
            let is_new = last.as_ref().is_none_or(|(before, at)| *before != report || at.elapsed() >= AGAIN);
            if is_new {
                match source.client.report(&report) {
                    Ok(()) => {
                        last = Some((report, Instant::now()));
                        (pause, said) = (PAUSE, String::new());
                    }
                    Err(e) => {
                        let text = format!("the server is not told how the sets stand: {e}");
                        if text != said {
                            setup.observer.event(&Event::Warning { subject: b"report", message: &text });
                            said = text;
                        }
                        // What is refused is refused again, until somebody does something.
                        let away = e.kind() == ErrorKind::Io;
                        not_before = Instant::now() + if away { pause } else { LONGEST };
                        pause = (pause * 2).min(LONGEST);
                    }
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// How the sets of this repository stand.
fn report(setup: &Setup, host: &str) -> HostReport {
    let own = setup.sets.iter().filter(|(name, _)| setup.names.contains(*name));
    let sets = own.take(MAX_SETS).map(|(name, set)| of_set(setup, name, set)).collect();
    HostReport { host: host.to_owned(), sets }
}

fn of_set(setup: &Setup, name: &str, set: &Set) -> SetReport {
    let memory = setup.memory.of(name);
    let overdue_at = standing::overdue_at(set, memory.good.or(memory.first), &setup.zone);
    let failed = memory.failed.as_ref().filter(|trouble| !trouble.over);
    SetReport {
        set: name.to_owned(),
        schedule: set.schedule.clone().map(|text| cut(text, MAX_WORD)),
        next_due: next(setup, name, set).and_then(time),
        last_run: memory.ran.and_then(time),
        exit_code: memory.code,
        last_good: memory.good.and_then(time),
        failed_since: failed.and_then(|trouble| time(trouble.since)),
        message: failed.map(|trouble| cut(trouble.message.clone(), MAX_WORD)),
        overdue_at: overdue_at.and_then(time),
    }
}

fn time(secs: i64) -> Option<String> {
    jiff::Timestamp::from_second(secs).ok().map(|time| time.to_string())
}

/// When a set is run next, as the plan has it.
fn next(setup: &Setup, name: &str, set: &Set) -> Option<i64> {
    let schedule = set.schedule.as_deref().and_then(|text| Schedule::parse(text).ok())?;
    let splay = set.splay.as_deref().and_then(|text| units::parse_wait(text).ok());
    let seed = plan::seed(&process::machine_id(), name);
    let plan = Plan { schedule: &schedule, zone: &setup.zone, splay, seed };
    let (progress, now) = (setup.memory.of(name).progress(), now());
    // As if it had not slept: what was missed is due since its slot. Else it would be another time at each look.
    match plan.due(&progress, now, 0) {
        Due::Now(slot) => Some(slot),
        Due::At(then) => Some(then),
        Due::Never => None,
    }
}
