//! `runs`: what became of ingests of sets, restores, checks and prunes.

mod under_way;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde::Serialize;
use yester::jobs::runs as job_runs;
use yester::jobs::under_way::RunUnderWay;
use yester::model::{Run, RunRewrite, SnapshotId, Timestamp, escape};
use yester::repo::{Repository, runs};
use yester::{ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::{Output, exact, lossy, note};
use crate::cli::say::units;

/// Show what became of ingests of sets, restores, checks and prunes
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Only of this set
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Only of this kind: ingest, restore, check, prune
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only the N newest
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Say how far those are that are under way on this host, until they have ended
    #[arg(long, conflicts_with_all = ["set", "kind", "latest"])]
    follow: bool,
    #[command(subcommand)]
    command: Option<RunsCommand>,
}

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// List them, as without a word
    List,
    /// Show one: its steps, and why it failed
    Show {
        /// Its id (or the first digits), or latest
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Print the end of what it said
    Log {
        /// Its id (or the first digits), or latest
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Runs the command.
pub fn run(context: &Context, args: &RunsArgs) -> Result<Outcome> {
    if args.follow {
        return under_way::follow(context);
    }
    let repo = context.open()?;
    let mut out = Output::new();
    match &args.command {
        None | Some(RunsCommand::List) => {
            let (mut all, wrong) = runs::list(&repo)?;
            all.retain(|(_, run)| args.set.as_ref().is_none_or(|set| run.set == set.as_bytes()));
            all.retain(|(_, run)| args.kind.as_ref().is_none_or(|kind| run.kind_name() == kind));
            all.drain(..all.len().saturating_sub(args.latest.unwrap_or(usize::MAX)));
            let chosen = |run: &RunUnderWay| {
                args.set.as_ref().is_none_or(|set| run.set == set.as_bytes())
                    && args.kind.as_ref().is_none_or(|kind| run.kind == *kind)
            };
            // What ended is the answer; what has not is added where it can be seen.
            let under_way: Vec<_> =
                under_way::here(context).unwrap_or_default().into_iter().filter(|run| !run.gone && chosen(run)).collect();
            list(context, &mut out, &all, &under_way)?;
            if context.global.json && !wrong.is_empty() {
                out.json(&DamagedRuns { message_type: "damaged_runs", count: wrong.len() })?;
            }
            out.finish()?;
            if args.kind.is_none() && args.set.is_none() && !context.global.quiet {
                tell_lost(&repo)?;
            }
            let Some(((_, first), rest)) = wrong.split_first() else { return Ok(Outcome::Done) };
            for (_, e) in rest {
                exit::report(exit::FAILED, &e.to_string(), context.global.json);
            }
            return Err(yester::Error::new(ErrorKind::Corrupt, first.to_string()));
        }
        Some(RunsCommand::Show { id }) => {
            let (id, run) = runs::find(&repo, id)?;
            match context.global.json {
                true => out.json(&json(id, &run, true))?,
                false => show(&mut out, id, &run)?,
            }
        }
        Some(RunsCommand::Log { id }) => {
            let (id, run) = runs::find(&repo, id)?;
            match context.global.json {
                true => out.json(&json(id, &run, true))?,
                false if run.log.is_empty() && !context.global.quiet => note("yester: note: it said nothing"),
                false => out.bytes(&run.log)?,
            }
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// Names those who could not write down how they ended.
fn tell_lost(repo: &Repository) -> Result<()> {
    for lost in job_runs::lost(repo)? {
        let (host, began, pid) = (escape(&lost.host), units::local_time(lost.began), lost.pid);
        note(&format!(
            "yester: note: a writer that began at {began} on {host} (process {pid}) is gone without a word: it was killed, or its \
             machine went down; its snapshot would have been {}",
            lost.id.short()
        ));
    }
    Ok(())
}

fn list(context: &Context, out: &mut Output, all: &[(SnapshotId, Run)], under_way: &[RunUnderWay]) -> Result<()> {
    if context.global.json {
        all.iter().try_for_each(|(id, run)| out.json(&json(*id, run, false)))?;
        return under_way.iter().try_for_each(|run| under_way::tell(out, run, "running"));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["ID", "Time", "Run", "Set", "Host", "State", "Snapshot"]);
    for (id, run) in all {
        table.add_row([
            id.short(),
            units::local_time(run.started),
            run.kind_name().to_owned(),
            escape(&run.set),
            escape(&run.host),
            run.state_name().to_owned(),
            run.snapshot.map(|id| id.short()).unwrap_or_default(),
        ]);
    }
    for run in under_way {
        let began = units::local_time(run.began());
        table.add_row([
            String::new(),
            began,
            run.kind.clone(),
            escape(&run.set),
            escape(&run.process.host),
            "running".to_owned(),
        ]);
    }
    out.line(&table.trim_fmt())?;
    if context.global.quiet { Ok(()) } else { out.line(&units::counted(all.len() as u64, "run", "runs")) }
}

fn show(out: &mut Output, id: SnapshotId, run: &Run) -> Result<()> {
    let mut lines = vec![
        format!("run {id}: {}, {}", run.kind_name(), run.state_name()),
        format!("host {}, user {}", escape(&run.host), escape(&run.user)),
        format!("from {} to {}", units::local_time(run.started), units::local_time(run.finished)),
    ];
    let text = |what: &str, text: &[u8]| (!text.is_empty()).then(|| format!("{what} {}", escape(text)));
    lines.extend(text("set", &run.set));
    lines.extend(run.snapshot.map(|id| format!("snapshot {id}")));
    lines.extend(text("target", &run.target));
    lines.extend((run.bytes > 0).then(|| units::size(run.bytes)));
    lines.extend((run.errors > 0).then(|| units::counted(run.errors, "error", "errors")));
    lines.extend(text("because:", &run.message));
    lines.extend(
        run.requests.as_ref().map(|asked| format!("asked of the object store: {}", crate::cli::say::requests::text(asked))),
    );
    for step in &run.steps {
        let how = if step.failure.is_empty() { "done".to_owned() } else { escape(&step.failure) };
        lines.push(format!("step {} at {}: {how}", escape(&step.name), units::local_time(step.started)));
    }
    for rewrite in &run.rewrites {
        let (was, is) = (escape(&rewrite.was), escape(&rewrite.is));
        lines.push(match rewrite.path.is_empty() {
            true => format!("{} {was} became {is}", rewrite.kind_name()),
            false => format!(
                "rewritten {}: {was} became {is}, {}",
                escape(&rewrite.path),
                units::counted(rewrite.count, "time", "times")
            ),
        });
    }
    lines.iter().try_for_each(|line| out.line(line))
}

/// Said when all that can be read were listed: so many cannot.
#[derive(Serialize)]
struct DamagedRuns {
    message_type: &'static str,
    count: usize,
}

#[derive(Serialize)]
struct JsonRun {
    message_type: &'static str,
    id: String,
    short_id: String,
    kind: &'static str,
    state: &'static str,
    hostname: String,
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    set: String,
    started: String,
    finished: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    bytes: u64,
    errors: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    program_version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<JsonStep>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rewrites: Vec<JsonRunRewrite>,
    #[serde(flatten)]
    requests: Option<crate::cli::say::requests::JsonRequests>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

#[derive(Serialize)]
struct JsonRunRewrite {
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    was: String,
    is: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

fn rewrite(rewrite: &RunRewrite) -> JsonRunRewrite {
    JsonRunRewrite {
        kind: rewrite.kind_name(),
        path: lossy(&rewrite.path),
        path_b64: exact(&rewrite.path),
        was: lossy(&rewrite.was),
        is: lossy(&rewrite.is),
        count: Some(rewrite.count).filter(|count| *count > 0),
    }
}

#[derive(Serialize)]
struct JsonStep {
    name: String,
    started: String,
    finished: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

fn json(id: SnapshotId, run: &Run, log: bool) -> JsonRun {
    let time = |time: Timestamp| units::utc_time(time);
    let steps = run.steps.iter().map(|step| JsonStep {
        name: lossy(&step.name),
        started: time(step.started),
        finished: time(step.finished),
        message: lossy(&step.failure),
    });
    JsonRun {
        message_type: "run",
        id: id.to_string(),
        short_id: id.short(),
        kind: run.kind_name(),
        state: run.state_name(),
        hostname: lossy(&run.host),
        username: lossy(&run.user),
        set: lossy(&run.set),
        started: time(run.started),
        finished: time(run.finished),
        snapshot_id: run.snapshot.map(|id| id.to_string()),
        bytes: run.bytes,
        errors: run.errors,
        target: lossy(&run.target),
        target_b64: exact(&run.target),
        message: lossy(&run.message),
        program_version: lossy(&run.program),
        steps: steps.collect(),
        rewrites: run.rewrites.iter().map(rewrite).collect(),
        requests: run.requests.as_ref().map(crate::cli::say::requests::JsonRequests::new),
        log: log.then(|| lossy(&run.log)),
    }
}
