//! `sets`: how the sets of the configuration stand, by what is in their repositories.

pub mod metrics;
pub mod overdue;
pub mod thaw_guard;

use std::collections::BTreeMap;

use clap::Args;
use comfy_table::{Table, presets};
use jiff::tz::TimeZone;
use serde::Serialize;
use yester::jobs::agent::memory::Memory;
use yester::jobs::config::Configuration;
use yester::jobs::config::keys::Set;
use yester::jobs::schedule::Schedule;
use yester::jobs::standing::{self, History, LastRuns};
use yester::model::{Timestamp, escape};
use yester::sys::process;
use yester::{Error, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::configured;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, lossy, note};
use crate::cli::say::units;

/// Show when the sets were last good and are next due, and what is overdue
#[derive(Debug, Args)]
pub struct SetsArgs {
    /// Only these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Also the sets of all other hosts, as their newest snapshots have them
    #[arg(long)]
    all: bool,
    /// Print them as Prometheus reads them, for a file of its node exporter
    #[arg(long)]
    metrics: bool,
}

/// A set and how it stands.
pub struct SetStanding {
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: Vec<u8>,
    /// Its repository, as it was named.
    pub repository: String,
    /// Its keys.
    pub set: Set,
    /// How it stands; `None`: its repository cannot be read.
    pub standing: Option<LastRuns>,
    /// Since when it is overdue.
    pub overdue: Option<i64>,
    /// When it is next due.
    pub next: Option<i64>,
}

/// All sets that were asked for, and why some of their repositories cannot be read.
pub fn all(context: &Context, names: &[String], others: bool) -> Result<(Vec<SetStanding>, Vec<Error>)> {
    let configuration = configured::load(&context.global)?;
    names.iter().try_for_each(|name| configuration.set(name).map(drop))?;
    let (mut out, mut wrong) = (Vec::new(), Vec::new());
    let mut read: BTreeMap<String, Option<History>> = BTreeMap::new();
    let machine = process::host_name();
    let asked = |name: &String| names.is_empty() || names.contains(name);
    for (name, named) in configuration.sets.iter().filter(|(name, _)| asked(name)) {
        let (repository, history) = of_repository(context, &configuration, &named.value, &mut read, &mut wrong);
        let host = named.value.host.clone().map_or_else(|| machine.clone(), String::into_bytes);
        let hosts = [host.clone(), machine.clone()];
        let standing = history.map(|history| history.of(name, &hosts));
        out.push(judged(context, name.clone(), host, repository, named.value.clone(), standing));
    }
    for (repository, history) in read.iter().filter(|_| others) {
        for (host, name, set) in history.iter().flat_map(History::sets) {
            if asked(&name) && !out.iter().any(|known| known.name == name && known.host == host) {
                let standing = history.as_ref().map(|history| history.of(&name, std::slice::from_ref(&host)));
                out.push(judged(context, name, host, repository.clone(), set, standing));
            }
        }
    }
    Ok((out, wrong))
}

/// The history of the repository of a set, which is read once.
fn of_repository<'a>(
    context: &Context,
    configuration: &Configuration,
    set: &Set,
    read: &'a mut BTreeMap<String, Option<History>>,
    wrong: &mut Vec<Error>,
) -> (String, Option<&'a History>) {
    let opened = configured::of_set(&context.global, configuration, set).map(|(global, configured)| {
        let context = Context::new(global, configured);
        let shown = context.place().map_or_else(|_| String::new(), |place| place.shown());
        (shown, context)
    });
    let (shown, context) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            wrong.push(e);
            return (String::new(), None);
        }
    };
    if !read.contains_key(&shown) {
        let history = context.open().and_then(|repo| History::read(&repo, context::now()));
        read.insert(shown.clone(), history.map_err(|e| wrong.push(e)).ok());
    }
    let history = read.get(&shown).and_then(Option::as_ref);
    (shown, history)
}

fn judged(
    context: &Context,
    name: String,
    host: Vec<u8>,
    repository: String,
    set: Set,
    standing: Option<LastRuns>,
) -> SetStanding {
    let (zone, now) = (TimeZone::system(), context::now().secs);
    let good = standing.as_ref().and_then(|standing| standing.good).map(|time| time.secs);
    let overdue = standing.as_ref().and_then(|_| standing::overdue(&set, good, &zone, now));
    let remembered = context.places.state().and_then(|dir| Memory::open(dir).ok()).and_then(|memory| memory.of(&name).done);
    let last = standing.as_ref().and_then(|standing| standing.last).map(|time| time.secs);
    let own = host == process::host_name() || set.host.as_ref().is_some_and(|name| name.as_bytes() == host);
    let done = last.max(remembered.filter(|_| own));
    let next = set.schedule.as_deref().and_then(|text| Schedule::parse(text).ok()).and_then(|schedule| {
        let Some(done) = done else { return Some(now) };
        match schedule.previous(now, &zone).filter(|slot| *slot > done) {
            Some(missed) => Some(missed),
            None => schedule.next(now.max(done), &zone),
        }
    });
    SetStanding { name, host, repository, set, standing, overdue, next }
}

/// Runs the command.
pub fn run(context: &Context, args: &SetsArgs) -> Result<Outcome> {
    let (sets, mut wrong) = all(context, &args.names, args.all)?;
    let mut out = Output::new();
    if args.metrics {
        metrics::print(&mut out, &sets)?;
    } else if context.global.json {
        sets.iter().try_for_each(|set| out.json(&json("set_standing", set)))?;
    } else {
        table(&mut out, &sets)?;
    }
    out.finish()?;
    let first = if wrong.is_empty() { None } else { Some(wrong.remove(0)) };
    wrong.iter().for_each(|e| note(&format!("yester: {e}")));
    first.map_or(Ok(Outcome::Done), Err)
}

fn table(out: &mut Output, sets: &[SetStanding]) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["Set", "Host", "Schedule", "Last good", "Next due", "State"]);
    let now = context::now().secs;
    for set in sets {
        let good = set.standing.as_ref().and_then(|standing| standing.good);
        let next = set.next.map_or_else(String::new, |next| if next <= now { "now".to_owned() } else { local(next) });
        table.add_row([
            set.name.clone(),
            escape(&set.host),
            set.set.schedule.clone().unwrap_or_default(),
            good.map_or_else(|| if set.standing.is_some() { "never" } else { "" }.to_owned(), units::local_time),
            next,
            state(set),
        ]);
    }
    out.line(&table.trim_fmt())
}

fn local(secs: i64) -> String {
    units::local_time(Timestamp { secs, nanos: 0 })
}

fn state(set: &SetStanding) -> String {
    let Some(standing) = &set.standing else { return "unknown".to_owned() };
    let last = match standing.state {
        "complete" => "",
        state => state,
    };
    let shrunk = |from| format!("shrunk from {} to {}", units::size(from), units::size(standing.bytes));
    let overdue = set.overdue.map(|_| "OVERDUE".to_owned());
    let last = (!last.is_empty()).then(|| format!("last run {last}"));
    let all = [overdue, last, standing.shrunk_from.map(shrunk)];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A set as JSON.
#[derive(Serialize)]
pub struct JsonSet {
    message_type: &'static str,
    name: String,
    hostname: String,
    repository: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    readable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    last_state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_good: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_due: Option<String>,
    overdue: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    overdue_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shrunk_from: Option<u64>,
}

/// As a line of JSON.
pub fn json(message_type: &'static str, set: &SetStanding) -> JsonSet {
    let standing = set.standing.clone().unwrap_or_default();
    let time = |secs: i64| units::utc_time(Timestamp { secs, nanos: 0 });
    JsonSet {
        message_type,
        name: set.name.clone(),
        hostname: lossy(&set.host),
        repository: set.repository.clone(),
        schedule: set.set.schedule.clone(),
        readable: set.standing.is_some(),
        last_run: standing.last.map(units::utc_time),
        last_state: standing.state,
        message: lossy(&standing.message),
        last_good: standing.good.map(units::utc_time),
        next_due: set.next.map(time),
        overdue: set.overdue.is_some(),
        overdue_since: set.overdue.filter(|since| *since > 0).map(time),
        snapshot_id: standing.snapshot.map(|id| id.to_string()),
        bytes: standing.bytes,
        shrunk_from: standing.shrunk_from,
    }
}
