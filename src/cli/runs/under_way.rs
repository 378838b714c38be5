//! Runs that are under way on this host: listed, and followed until they have ended.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use serde::Serialize;
use yester::jobs::under_way::{self, RunUnderWay};
use yester::model::escape;
use yester::repo::runs;
use yester::sys::process::ProcessIdentity;
use yester::{Error, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, lossy, note};
use crate::cli::say::units;

/// How often is looked: as often as a run says how far it is.
const LOOK: Duration = Duration::from_secs(1);

/// What names a run on this host: its process and when it began.
type RunKey = (u32, (i64, u32));

#[derive(Serialize)]
struct JsonUnderWay<'a> {
    message_type: &'static str,
    kind: &'a str,
    state: &'static str,
    hostname: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    set: String,
    started: String,
    pid: u32,
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    status: &'a serde_json::Value,
}

/// What is under way here in this repository.
pub fn here(context: &Context) -> Result<Vec<RunUnderWay>> {
    let Some(state) = context.places.state() else { return Ok(Vec::new()) };
    let repository = context.place_bytes()?;
    let all = under_way::list(state)
        .map_err(|e| Error::io(format!("{}: cannot be listed", escape(state.as_os_str().as_bytes())), e))?;
    Ok(all.into_iter().filter(|run| run.repository == repository).collect())
}

/// Prints one as JSON.
pub fn tell(out: &mut Output, run: &RunUnderWay, state: &'static str) -> Result<()> {
    let RunUnderWay { kind, process: ProcessIdentity { host, pid, .. }, status, .. } = run;
    let (hostname, set, started) = (lossy(host), lossy(&run.set), units::utc_time(run.began()));
    out.json(&JsonUnderWay { message_type: "run_under_way", kind, state, hostname, set, started, pid: *pid, status })
}

/// Says how far runs are, each second, until all have ended; and how they ended.
pub fn follow(context: &Context) -> Result<Outcome> {
    let mut known: BTreeMap<RunKey, RunUnderWay> = BTreeMap::new();
    let mut first = true;
    loop {
        let all: BTreeMap<_, _> = here(context)?.into_iter().map(|run| ((run.process.pid, run.started), run)).collect();
        let mut out = Output::new();
        let (dead, now): (BTreeMap<_, _>, BTreeMap<_, _>) = all.into_iter().partition(|(_, run)| run.gone);
        for run in now.iter().filter(|(key, run)| known.get(key).is_none_or(|was| was.text != run.text)).map(|(_, run)| run) {
            match context.global.json {
                true => tell(&mut out, run, "running")?,
                false => out.line(&line(run, if run.text.is_empty() { "running" } else { &run.text }))?,
            }
        }
        for (key, run) in known.iter().filter(|(key, _)| !now.contains_key(key)) {
            ended(context, &mut out, run, if dead.contains_key(key) { "killed" } else { "ended" })?;
        }
        out.finish()?;
        if now.is_empty() {
            if first && !context.global.json && !context.global.quiet {
                note("yester: note: nothing is under way on this host in this repository");
            }
            return Ok(Outcome::Done);
        }
        (known, first) = (now, false);
        std::thread::sleep(LOOK);
    }
}

/// Says how one ended: as its run says, if it has one. A repository that cannot be opened does not end the following.
fn ended(context: &Context, out: &mut Output, run: &RunUnderWay, state: &'static str) -> Result<()> {
    let all = context.open().and_then(|repo| runs::list(&repo)).map(|(all, _)| all).unwrap_or_default();
    match all.iter().find(|(_, found)| run.is(found)) {
        Some((id, found)) if context.global.json => out.json(&super::json(*id, found, false)),
        Some((id, found)) => {
            let message = if found.message.is_empty() { String::new() } else { format!(": {}", escape(&found.message)) };
            out.line(&line(run, &format!("{}, run {}{message}", found.state_name(), id.short())))
        }
        None if context.global.json => tell(out, run, state),
        None => out.line(&line(run, state)),
    }
}

/// A line for people.
fn line(run: &RunUnderWay, what: &str) -> String {
    let set = if run.set.is_empty() { String::new() } else { format!(" of set {}", escape(&run.set)) };
    format!("{}{set} since {}, process {}: {what}", run.kind, units::local_time(run.began()), run.process.pid)
}
