//! `ingest --set`: a set, with its hooks around it.

use std::sync::Arc;
use std::time::Instant;

use yester::Result;
use yester::ingest::{IngestReport, Still};
use yester::jobs::config::keys::Set;
use yester::jobs::hooks::Runner;
use yester::observe::{Event, Observer};

use super::context::Context;
use super::exit::Outcome;
use super::ingest::{self, IngestArgs};
use super::progress::Display;
use super::{configured, inputs, signals};

/// Takes a snapshot of a set. A dry run runs nothing that is the set's.
pub fn ingest(context: &Context, args: &IngestArgs, name: &str, set: &Set, began: Instant) -> Result<Outcome> {
    let (stop, display) = (signals::stop_flag()?, Arc::new(Display::new(&context.global)));
    let hooks = if args.dry_run { Default::default() } else { set.hooks.clone() };
    let runner = Arc::new(Runner::new(hooks, display.clone(), stop.clone()));
    let mut options = args.options()?;
    configured::options(name, set, &mut options, args)?;
    runner.set("YESTER_SET", name);
    runner.set("YESTER_HOST", std::ffi::OsString::from(String::from_utf8_lossy(&options.host).into_owned()));
    let mut given = args.inputs()?;
    given.extend(configured::inputs(set, &runner.variables()));
    yester::ingest::check(&given, &options)?;
    if set.hooks.freeze.is_some() || set.hooks.thaw.is_some() {
        options.still = Some(still(&runner, &display));
    }
    let result = runner.run("before").and_then(|()| {
        inputs::require_one(&given)?;
        ingest::take(context, args, &given, options, &stop, &display)
    });
    let failed = afterwards(&runner, &result, &display);
    display.finish();
    let report = result?;
    ingest::tell(context, args, &report, began)?;
    Ok(match (ingest::outcome(&report), failed) {
        (Outcome::Done, Some(failed)) => Outcome::Partial(format!("the snapshot is stored, but {failed}")),
        (Outcome::Partial(text), Some(failed)) => Outcome::Partial(format!("{text}; {failed}")),
        (outcome, None) => outcome,
    })
}

/// What makes the source of a set stand still.
fn still(runner: &Arc<Runner>, display: &Arc<Display>) -> Still {
    let (freezes, thaws, display) = (runner.clone(), runner.clone(), display.clone());
    Still {
        freeze: Arc::new(move || freezes.run("freeze")),
        thaw: Arc::new(move || {
            if let Err(e) = thaws.run("thaw") {
                display.event(&Event::Warning { subject: b"hook thaw", message: &e.to_string() });
            }
        }),
    }
}

/// Runs the hooks that come last, and tells which one failed, that of thawing among them.
fn afterwards(runner: &Runner, result: &Result<IngestReport>, display: &Display) -> Option<String> {
    let (state, names) = match result {
        Ok(report) if report.is_complete() => ("complete", ["after", ""]),
        Ok(_) => ("incomplete", ["after", "failed"]),
        Err(_) => ("failed", ["failed", ""]),
    };
    runner.set("YESTER_STATE", state);
    if let Some(report) = result.as_ref().ok().filter(|report| report.committed) {
        runner.set("YESTER_SNAPSHOT", report.snapshot.id.to_string());
    }
    let thawed = runner.steps().into_iter().find_map(|step| step.failure.filter(|_| step.name == "thaw"));
    let mut failed = thawed;
    for name in names.into_iter().chain(["always"]) {
        if let Err(e) = runner.run(name) {
            display.event(&Event::Warning { subject: format!("hook {name}").as_bytes(), message: &e.to_string() });
            failed = failed.or(Some(e.to_string()));
        }
    }
    failed
}
