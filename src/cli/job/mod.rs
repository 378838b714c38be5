//! `job`: what somebody else is to carry out, kept by the server until an agent takes it.

mod download;
mod hosts;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde::Serialize;
use yester::model::escape;
use yester::remote::control::client::JobClient;
use yester::remote::control::{Job, JobKind, JobProgress, JobStatus, NewJob, is_hex};
use yester::sys::process;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::{Output, lossy};
use crate::cli::say::units;

/// Let agents of other machines do something
///
/// The server of the repository keeps a job until the agent of its host takes it (docs/api.md). The token needs the
/// capability jobs.
#[derive(Debug, Args)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Ask for a job
    Run(RunJobArgs),
    /// List jobs, the newest first
    List(ListJobsArgs),
    /// Show a job
    Show {
        /// Its id, or the first digits
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Follow a job to its end
    Watch {
        /// Its id, or the first digits
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Cancel a job
    Cancel {
        /// Its id, or the first digits
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Show how the sets of all hosts stand, as their agents have told the server
    Hosts {
        /// Only of this host
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
}

#[derive(Debug, Args)]
struct RunJobArgs {
    /// ingest, restore, check, forget or prune
    #[arg(value_name = "KIND", value_parser = JobKind::parse)]
    kind: JobKind,
    /// The host whose agent is to do it [default: this one]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// The set, for ingest, restore and forget
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Restore this snapshot [default: the newest of the set]
    #[arg(long, value_name = "ID", conflicts_with = "backup")]
    snapshot: Option<String>,
    /// Restore the snapshot that this job made
    #[arg(long, value_name = "JOB")]
    backup: Option<String>,
    /// A word of your own: the same word again is the same job, as long as the server keeps it
    #[arg(long, value_name = "WORD")]
    idempotency_key: Option<String>,
    /// Follow it to its end
    #[arg(long)]
    wait: bool,
    /// Of an ingest: follow it to its end, and write the snapshot into this archive here, as yester export does
    #[arg(long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Leave the snapshot in the repository only, as without --filename
    #[arg(long, conflicts_with = "filename")]
    no_download: bool,
}

#[derive(Debug, Args)]
struct ListJobsArgs {
    /// Only of this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only of this set
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Only of this kind: ingest, restore, check, forget, prune
    #[arg(long, value_name = "KIND", value_parser = JobKind::parse)]
    kind: Option<JobKind>,
    /// Only in this state: queued, running, done, failed, cancelled, deleted
    #[arg(long, value_name = "STATE", value_parser = JobStatus::parse)]
    state: Option<JobStatus>,
    /// Only the N newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    latest: usize,
}

#[derive(Serialize)]
struct JsonJob<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    job: &'a Job,
}

/// Runs the command.
pub fn run(context: &Context, args: &JobArgs) -> Result<Outcome> {
    let client = context.job_client()?;
    match &args.command {
        JobCommand::Run(args) => ask(context, &client, args),
        JobCommand::List(args) => list(context, &client, args),
        JobCommand::Show { id } => show(context, &client.job(&whole(&client, id)?)?).map(|()| Outcome::Done),
        JobCommand::Watch { id } => follow(context, &client, &whole(&client, id)?),
        JobCommand::Hosts { host } => hosts::list(context, &client, host.as_deref()),
        JobCommand::Cancel { id } => {
            let job = client.cancel(&whole(&client, id)?)?;
            let text = if job.state.is_over() { "is cancelled" } else { "runs, and is asked to end" };
            tell(context, &job, &format!("job {} {text}", job.id))?;
            Ok(Outcome::Done)
        }
    }
}

fn ask(context: &Context, client: &JobClient, args: &RunJobArgs) -> Result<Outcome> {
    let host = args.host.clone().unwrap_or_else(|| lossy(&process::host_name()));
    let backup = args.backup.as_ref().map(|id| whole(client, id)).transpose()?;
    let wanted = NewJob { kind: args.kind, host, set: args.set.clone(), snapshot: args.snapshot.clone(), backup };
    wanted.check()?;
    if args.filename.is_some() && args.kind != JobKind::Ingest {
        return Err(Error::invalid("--filename is for the snapshot of an ingest: a job of another kind makes none"));
    }
    let file = args.filename.as_ref().map(|file| download::prepare(context, file)).transpose()?;
    let job = client.create(&wanted, args.idempotency_key.as_deref())?;
    if let Some(file) = file {
        let job = followed(context, client, &job.id)?;
        let outcome = outcome(&job)?;
        let written = download::run(context, &job, &file)?;
        return Ok(if outcome == Outcome::Done { written } else { outcome });
    }
    if args.wait {
        return follow(context, client, &job.id);
    }
    tell(context, &job, &format!("job {} is {}: yester job watch {} follows it", job.id, job.state.name(), job.id))?;
    Ok(Outcome::Done)
}

/// The whole id of a job whose first digits are known.
fn whole(client: &JobClient, id: &str) -> Result<String> {
    if is_hex(id, 16..=16) {
        return Ok(id.to_owned());
    }
    if !is_hex(id, 1..=15) {
        return Err(Error::invalid(format!("{} is no id of a job: yester job list has them", escape(id.as_bytes()))));
    }
    let jobs = client.list(&[("limit", "1000")])?.jobs;
    let found: Vec<&Job> = jobs.iter().filter(|job| job.id.starts_with(id)).collect();
    match found[..] {
        [job] => Ok(job.id.clone()),
        [] => {
            Err(Error::new(ErrorKind::NotFound, format!("no job of the newest 1000 begins with {id}: yester job list has them")))
        }
        _ => Err(Error::invalid(format!("several jobs begin with {id}: give more digits"))),
    }
}

fn list(context: &Context, client: &JobClient, args: &ListJobsArgs) -> Result<Outcome> {
    let (mut jobs, mut after): (Vec<Job>, Option<String>) = (Vec::new(), None);
    while jobs.len() < args.latest {
        let limit = (args.latest - jobs.len()).min(1000).to_string();
        let fields = [
            ("host", args.host.as_deref()),
            ("set", args.set.as_deref()),
            ("kind", args.kind.map(JobKind::name)),
            ("state", args.state.map(JobStatus::name)),
            ("limit", Some(limit.as_str())),
            ("after", after.as_deref()),
        ];
        let fields: Vec<_> = fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let page = client.list(&fields)?;
        jobs.extend(page.jobs);
        match page.next {
            Some(id) => after = Some(id),
            None => break,
        }
    }
    let mut out = Output::new();
    if context.global.json {
        jobs.iter().try_for_each(|job| out.json(&JsonJob { message_type: "job", job }))?;
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["ID", "Asked for", "Job", "Set", "Host", "State", "Snapshot", "Size"]);
        for job in &jobs {
            let text = |text: &Option<String>| escape(text.as_deref().unwrap_or_default().as_bytes());
            let short = |text: &Option<String>| text.as_deref().map(|id| escape(id.as_bytes()).chars().take(8).collect());
            table.add_row([
                escape(job.id.as_bytes()),
                moment(&job.created_at),
                job.kind.name().to_owned(),
                text(&job.set),
                escape(job.host.as_bytes()),
                state(job),
                short(&job.snapshot).unwrap_or_default(),
                job.size.map(units::size).unwrap_or_default(),
            ]);
        }
        out.line(&table.trim_fmt())?;
        if !context.global.quiet {
            out.line(&units::counted(jobs.len() as u64, "job", "jobs"))?;
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// A time of a server as it is here.
fn moment(text: &str) -> String {
    let time = text.parse::<jiff::Timestamp>().map(|time| yester::model::Timestamp { secs: time.as_second(), nanos: 0 });
    time.map_or_else(|_| escape(text.as_bytes()), units::local_time)
}

fn state(job: &Job) -> String {
    match (job.lost, job.cancel_requested) {
        (true, _) => "failed: lost".to_owned(),
        (_, true) => "running, to be cancelled".to_owned(),
        _ => job.state.name().to_owned(),
    }
}

fn show(context: &Context, job: &Job) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        out.json(&JsonJob { message_type: "job", job })?;
        return out.finish();
    }
    let text = |text: &str| escape(text.as_bytes());
    let mut lines =
        vec![format!("job {}: {}, {}", text(&job.id), job.kind.name(), state(job)), format!("host {}", text(&job.host))];
    lines.extend(job.set.as_deref().map(|set| format!("set {}", text(set))));
    lines.push(format!("asked for {} with token {}", moment(&job.created_at), text(&job.token)));
    lines.extend(job.started_at.as_deref().map(|at| format!("taken {}", moment(at))));
    lines.extend(job.finished_at.as_deref().map(|at| format!("over {}", moment(at))));
    lines.extend(job.snapshot.as_deref().map(|id| format!("snapshot {}", text(id))));
    lines.extend(job.size.map(|size| format!("{} of content", units::size(size))));
    lines.extend(job.added.map(|size| format!("{} new", units::size(size))));
    lines.extend(job.progress.as_ref().map(progress));
    lines.extend(job.message.as_deref().map(|message| format!("because: {}", text(message))));
    lines.extend(job.exit_code.map(|code| format!("exit code {code}")));
    lines.extend(job.next_steps.iter().enumerate().map(|(at, step)| format!("next step {}: {}", at + 1, text(step))));
    lines.iter().try_for_each(|line| out.line(line))?;
    out.finish()
}

fn progress(progress: &JobProgress) -> String {
    let mut words = Vec::new();
    words.extend(progress.percent.map(|percent| format!("{percent:.0} %")));
    words.extend(progress.bytes_done.map(units::size));
    words.extend(progress.rate.map(|rate| format!("{} a second", units::size(rate))));
    words.extend(progress.seconds_left.map(|seconds| format!("{seconds} s left")));
    words.extend(progress.message.as_deref().map(|message| escape(message.as_bytes())));
    words.join(", ")
}

fn tell(context: &Context, job: &Job, text: &str) -> Result<()> {
    let mut out = Output::new();
    match context.global.json {
        true => out.json(&JsonJob { message_type: "job", job })?,
        false if context.global.quiet => {}
        false => out.line(text)?,
    }
    out.finish()
}

fn follow(context: &Context, client: &JobClient, id: &str) -> Result<Outcome> {
    outcome(&followed(context, client, id)?)
}

/// Follows a job to its end. A server that goes away is waited for, as long as `--timeout` says.
fn followed(context: &Context, client: &JobClient, id: &str) -> Result<Job> {
    client.follow(id, |job| {
        let line = match job.state {
            JobStatus::Running => job.progress.as_ref().map(progress).unwrap_or_default(),
            _ => String::new(),
        };
        let parted = if line.is_empty() { "" } else { ": " };
        tell(context, job, &format!("job {} is {}{parted}{line}", job.id, state(job)))
    })
}

/// How the command ends when a job has ended so.
fn outcome(job: &Job) -> Result<Outcome> {
    let (id, message) = (&job.id, escape(job.message.as_deref().unwrap_or_default().as_bytes()));
    match job.state {
        JobStatus::Done | JobStatus::Deleted => Ok(Outcome::Done),
        JobStatus::Failed if job.exit_code == Some(exit::PARTIAL) => Ok(Outcome::Partial(message)),
        JobStatus::Failed => Err(Error::new(ErrorKind::Io, format!("job {id} failed: {message}"))),
        JobStatus::Cancelled => Err(Error::new(ErrorKind::Io, format!("job {id} was cancelled"))),
        state => Err(Error::new(ErrorKind::Io, format!("job {id} is {}, and not over", state.name()))),
    }
}
