//! `ingest --set`: a set, with its hooks around it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use yester::Result;
use yester::ingest::{FreezeHooks, IngestOptions, IngestReport};
use yester::jobs::config::keys::{Hook, Set};
use yester::jobs::hooks::Runner;
use yester::jobs::runs::{self, Logged};
use yester::jobs::volumes;
use yester::model::Run;
use yester::observe::{Event, Observer};
use yester::repo::Repository;
use yester::task::Task;

use crate::cli::context::Context;
use crate::cli::given::configured;
use crate::cli::group::ingest::GroupIngest;
use crate::cli::ingest::inputs;
use crate::cli::ingest::{self, IngestArgs};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::note;
use crate::cli::say::progress::Display;
use crate::cli::sets::thaw_guard::ThawGuard;
use crate::cli::signals;

/// Takes a snapshot of a set. A dry run runs nothing that is the set's.
pub fn ingest(context: &Context, args: &IngestArgs, name: &str, set: &Set, began: Instant) -> Result<Outcome> {
    let (stop, display) = (signals::stop_flag()?, Arc::new(Display::new(&context.global)));
    let logged = Arc::new(Logged::new(display.clone()));
    let mut run = Run { set: name.as_bytes().to_vec(), ..runs::begin(Run::INGEST) };
    if !args.dry_run {
        context.announce(&display, &run);
    }
    let hooks = if args.dry_run { Default::default() } else { set.hooks.clone() };
    let runner = Arc::new(Runner::new(hooks, logged.clone(), stop.clone()));
    let mut options = args.options()?;
    configured::options(name, set, &mut options, args)?;
    runner.set("YESTER_SET", name);
    runner.set("YESTER_HOST", std::ffi::OsString::from(String::from_utf8_lossy(&options.host).into_owned()));
    let mut given = args.inputs()?;
    given.extend(configured::inputs(set, &runner.variables()));
    let buckets = [&set.buckets[..], &args.buckets()?].concat();
    given.extend(configured::buckets(&buckets, context, &stop)?);
    yester::ingest::check(&given, &options)?;
    if set.hooks.freeze.is_some() || set.hooks.thaw.is_some() {
        options.still = Some(still(&runner, &logged, set.hooks.thaw.clone()));
    }
    let (observer, how): (Arc<dyn Observer>, _) = (logged.clone(), args.source_snapshot(set.source_snapshot.as_deref()));
    options.volumes = volumes::hook(how, options.exclude.one_file_system, &observer, &stop);
    let opened = OnceLock::new();
    let group = group(context, args, (name, set), (&runner, &logged, &stop), (&mut options, &opened))?;
    let result = runner.run("before").and_then(|()| {
        inputs::require_one(&given)?;
        ingest::take(context, args, &given, options, &Task::new(&*logged).stopped_by(&stop), &opened, &|| {})
    });
    let result = group.iter().fold(result, |result, group| group.ended(result));
    let failed = afterwards(&runner, &result, &logged);
    display.finish();
    if !args.dry_run {
        match &result {
            Ok(report) => told(&mut run, report, failed.as_deref()),
            Err(e) => runs::failed(&mut run, e),
        }
        (run.steps, run.log) = (runs::steps(runner.steps()), logged.text());
        remember(context, opened.get().cloned(), run);
    }
    let report = result?;
    ingest::tell(context, args, &report, began)?;
    Ok(match (ingest::outcome(&report), failed) {
        (Outcome::Done, Some(failed)) => Outcome::Partial(format!("the snapshot is stored, but {failed}")),
        (Outcome::Partial(text), Some(failed)) => Outcome::Partial(format!("{text}; {failed}")),
        (outcome, None) => outcome,
    })
}

/// The group that this is a part of, in the repository, which is opened for that.
fn group(
    context: &Context,
    args: &IngestArgs,
    set: (&str, &Set),
    with: (&Arc<Runner>, &Arc<Logged>, &Arc<AtomicBool>),
    (options, opened): (&mut IngestOptions, &OnceLock<Arc<Repository>>),
) -> Result<Option<GroupIngest>> {
    let Some(group) = &args.group else { return Ok(None) };
    let repo = context.open()?;
    let _ = opened.set(repo.clone());
    GroupIngest::begin(&repo, (group, args.member.as_deref()), set, with, options).map(Some)
}

/// What makes the source of a set stand still. While it does, a second process stands by that runs `thaw` if this one is
/// killed.
fn still(runner: &Arc<Runner>, display: &Arc<Logged>, thaw: Option<Hook>) -> FreezeHooks {
    let (freezes, thaws, display) = (runner.clone(), runner.clone(), display.clone());
    let guard: Arc<Mutex<Option<ThawGuard>>> = Arc::default();
    let guarded = guard.clone();
    FreezeHooks {
        freeze: Arc::new(move || {
            *guarded.lock() = thaw.as_ref().map(|hook| ThawGuard::start(hook, &freezes, None)).transpose()?;
            let frozen = freezes.run("freeze");
            guarded.lock().iter_mut().for_each(ThawGuard::frozen);
            frozen
        }),
        thaw: Arc::new(move || {
            if let Err(e) = thaws.run("thaw") {
                display.event(&Event::Warning { subject: b"hook thaw", message: &e.to_string() });
            }
            let guard = guard.lock().take();
            guard.into_iter().for_each(ThawGuard::thawed);
            Ok(())
        }),
    }
}

/// Runs the hooks that come last, and tells which one failed, that of thawing among them.
fn afterwards(runner: &Runner, result: &Result<IngestReport>, display: &Logged) -> Option<String> {
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

/// What a run says of an ingest.
fn told(run: &mut Run, report: &IngestReport, failed: Option<&str>) {
    let message = match (ingest::outcome(report), failed) {
        (Outcome::Done, failed) => failed.unwrap_or_default().to_owned(),
        (Outcome::Partial(text), None) => text,
        (Outcome::Partial(text), Some(failed)) => format!("{text}; {failed}"),
    };
    run.state = if message.is_empty() { Run::COMPLETE } else { Run::INCOMPLETE };
    run.message = message.into_bytes();
    run.snapshot = report.committed.then_some(report.snapshot.id);
    run.bytes = report.snapshot.statistics.bytes;
    run.errors = report.snapshot.statistics.errors;
}

/// Writes a run down. That it cannot be written is told, and changes nothing of what was done.
fn remember(context: &Context, repo: Option<Arc<Repository>>, run: Run) {
    // The repository was not opened yet when the first hook failed; when it could not be, there is nothing to write to.
    let before = run.steps.iter().any(|step| step.name == b"before" && !step.failure.is_empty());
    let repo = repo.map(Ok).or_else(|| before.then(|| context.open_to_write()));
    if let Some(Err(e)) = repo.map(|repo| runs::end(&*repo?, run)) {
        note(&format!("yester: note: the run cannot be written down: {e}"));
    }
}
