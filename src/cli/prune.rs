//! `prune`: deletes what no snapshot needs, and says before how much that is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use yester::jobs::runs;
use yester::maintain::prune::{Prune, PruneOptions, PrunePlan, Report, Tally, Unused, open_sessions};
use yester::model::{PackId, Run, SnapshotId};
use yester::repo::Repository;
use yester::storage::Name;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::{gone, signals};

/// Delete what no snapshot needs
///
/// Says first what that will free.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    pub how: How,
    /// End this session, which is not known to be dead (may be repeated)
    #[arg(long, value_name = "ID")]
    fence: Vec<String>,
    /// Only say what would be freed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// How to prune: also for `forget --prune`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = None::<&str>)]
pub struct How {
    /// Unused space that may stay in packs that are needed in part: 5%, a size, or unlimited
    #[arg(long, value_name = "LIMIT", default_value = "5%", value_parser = unused)]
    max_unused: Unused,
    /// Repack at most so many bytes of packs
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_repack_size: Option<u64>,
    /// Delete and repack nothing more after this time, as in 30m or 4h: the next prune goes on
    #[arg(long, value_name = "TIME", value_parser = units::parse_wait, hide_short_help = true)]
    max_duration: Option<Duration>,
    /// Repack also what is sealed with a key that was changed since (yester key rotate)
    #[arg(long, hide_short_help = true)]
    rekey: bool,
    /// Wait so long, as in 30m, until other writers are done
    #[arg(long, value_name = "TIME", value_parser = units::parse_wait)]
    wait: Option<Duration>,
    /// After this time without a sign of life, a writer on another machine counts as dead
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = units::parse_wait)]
    dead_after: Duration,
    /// Nobody else uses the repository now: prune also in a store that does not decide between two writers, and end all sessions
    #[arg(long)]
    pub only_writer: bool,
    /// Delete at once also what forget --grace keeps for a time
    #[arg(long)]
    no_grace: bool,
}

impl How {
    /// The library's options.
    pub fn options(&self, context: &Context) -> PruneOptions {
        PruneOptions {
            max_unused: self.max_unused,
            max_repack: self.max_repack_size.unwrap_or(u64::MAX),
            wait: self.wait,
            max_duration: self.max_duration,
            rekey: self.rekey,
            dead_after: self.dead_after,
            only_writer: self.only_writer,
            grace: !self.no_grace,
            state: context.places.state().map(std::path::Path::to_owned),
            ..PruneOptions::default()
        }
    }
}

fn unused(text: &str) -> Result<Unused, String> {
    match units::parse_size(text) {
        Ok(bytes) => Ok(Unused::Bytes(bytes)),
        Err(_) => text.parse(),
    }
}

/// Prunes.
pub fn run(context: &Context, args: &PruneArgs) -> Result<Outcome> {
    let repo = context.open_for(!args.dry_run)?;
    let options = PruneOptions { fence: fenced(&repo, &args.fence)?, ..args.how.options(context) };
    prune(context, &repo, &options, args.dry_run)
}

/// The ids that these beginnings of session ids stand for.
fn fenced(repo: &Repository, texts: &[String]) -> Result<Vec<SnapshotId>> {
    let sessions = if texts.is_empty() { Vec::new() } else { open_sessions(repo)? };
    let find = |text: &String| {
        let found: Vec<SnapshotId> =
            sessions.iter().map(|(id, _)| *id).filter(|id| text.len() >= 4 && id.to_string().starts_with(text)).collect();
        match found[..] {
            [id] => Ok(id),
            [] => {
                let known: Vec<String> = sessions.iter().map(|(id, _)| id.short()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(Error::new(ErrorKind::NotFound, format!("{text:?} is no open session; there are: {known}")))
            }
            _ => Err(Error::invalid(format!("{text} is the beginning of several session ids: give more digits"))),
        }
    };
    texts.iter().map(find).collect()
}

/// Plans, says so, and unless this is a dry run does it and says what was done.
pub fn prune(context: &Context, repo: &Arc<Repository>, options: &PruneOptions, dry_run: bool) -> Result<Outcome> {
    let began = Instant::now();
    if let Some(id) = gone::seen(context, repo)?.first() {
        let text = format!("nothing was deleted: {} {}", gone::object(id), gone::TEXT);
        return Err(Error::new(ErrorKind::WentBack, text));
    }
    let run = runs::begin(Run::PRUNE);
    let stop = signals::stop_flag()?;
    let display = Display::new(&context.global);
    if !dry_run {
        context.announce(&display, &run);
    }
    let mut options = PruneOptions { record: !dry_run, ..options.clone() };
    if options.only_writer {
        options.fence = open_sessions(repo)?.into_iter().map(|(id, _)| id).collect();
    }
    let options = &options;
    let prepared = Prune::prepare(repo, options, &Task::new(&display).stopped_by(&stop))?;
    let plan = prepared.plan().clone();
    display.finish();
    let mut out = Output::new();
    if context.global.json {
        out.json(&planned(&plan, dry_run))?;
    } else if !context.global.quiet {
        text(&mut out, &plan, dry_run)?;
    }
    out.finish()?;
    if dry_run {
        return Ok(outcome(plan.stuck, plan.lost, &[], TimeOver::default()));
    }
    display.resume();
    let report = prepared.carry_out();
    display.finish();
    ended(repo, run, report.as_ref());
    let report = report?;
    let mut out = Output::new();
    if context.global.json {
        out.json(&summary(&report, &plan, began.elapsed()))?;
    } else if !context.global.quiet {
        done(&mut out, &report, began.elapsed())?;
    }
    out.finish()?;
    Ok(outcome(report.stuck, report.lost, &report.examples, TimeOver::of(&report)))
}

/// Removes runs that are old, and writes down how this one ended. What cannot be done of either is left for later.
fn ended(repo: &Repository, mut run: Run, report: Result<&Report, &Error>) {
    match report {
        Ok(report) => {
            if let Outcome::Partial(text) = outcome(report.stuck, report.lost, &report.examples, TimeOver::of(report)) {
                (run.state, run.message) = (Run::INCOMPLETE, text.into_bytes());
            }
            (run.bytes, run.errors) = (report.packs.bytes, report.stuck.count);
            let _ = yester::repo::runs::expire(repo, context::now());
            let _ = yester::repo::annotations::expire(repo);
            let _ = yester::repo::groups::expire(repo, context::now());
        }
        Err(e) => runs::failed(&mut run, e),
    }
    let _ = runs::end(repo, run);
}

/// What there was no time for.
#[derive(Default)]
struct TimeOver {
    packs: Tally,
    /// There was no time for anything.
    is_all: bool,
}

impl TimeOver {
    fn of(report: &Report) -> Self {
        TimeOver { packs: report.left, is_all: report.packs.count == 0 && report.written.count == 0 }
    }
}

/// How it ended, when these packs could not be freed, and there was no time for those that are `left`.
fn outcome(stuck: Tally, lost: u64, examples: &[PackId], left: TimeOver) -> Outcome {
    if stuck.count == 0 && left.packs.count > 0 {
        let next = match left.is_all {
            true => "it was over before anything could be deleted: give it more, or no prune gets on",
            false => "the next prune goes on",
        };
        let text = format!("the time was over before all was done: {} are left; {next}", packs(left.packs));
        return Outcome::Partial(text);
    }
    if stuck.count == 0 {
        return Outcome::Done;
    }
    let chunks = match lost {
        1 => "1 chunk that snapshots need is damaged in them and stored nowhere else".to_owned(),
        n => format!("{} chunks that snapshots need are damaged in them and stored nowhere else", units::count(n)),
    };
    let names: Vec<String> = examples.iter().map(|pack| Name::Pack(*pack).to_string()).collect();
    let more = if examples.is_empty() || stuck.count > examples.len() as u64 { ", …" } else { "" };
    let names = if names.is_empty() { String::new() } else { format!(" ({}{more})", names.join(", ")) };
    Outcome::Partial(format!(
        "{}{names} cannot be freed: {chunks}. yester check names the files and their snapshots; an ingest of the files \
         stores the chunks again, or yester forget ID gives a snapshot up; the next prune then frees the packs",
        packs(stuck)
    ))
}

fn packs(tally: Tally) -> String {
    format!("{}, {}", units::counted(tally.count, "pack", "packs"), units::size(tally.bytes))
}

fn text(out: &mut Output, plan: &PrunePlan, dry_run: bool) -> Result<()> {
    let live = units::counted(plan.live, "snapshot", "snapshots");
    out.line(&format!("{} for {live}", packs(plan.packs)))?;
    for (tally, what) in [(plan.marked, "left by an earlier prune"), (plan.dead, "not needed")] {
        if tally.count > 0 {
            out.line(&format!("  to delete: {}, {what}", packs(tally)))?;
        }
    }
    if plan.repack.count > 0 {
        out.line(&format!("  to repack: {}, of which {} are needed", packs(plan.repack), units::size(plan.copied)))?;
    }
    if plan.former.count > 0 {
        out.line(&format!("  sealed with a former key: {}", packs(plan.former)))?;
    }
    if plan.snapshots.count > 0 {
        out.line(&format!("  to delete: {}", units::counted(plan.snapshots.count, "forgotten snapshot", "forgotten snapshots")))?;
    }
    if plan.kept > 0 {
        let kept = units::counted(plan.kept, "forgotten snapshot stays", "forgotten snapshots stay");
        let until = plan.kept_until.map_or_else(String::new, |until| format!(" until {}", units::local_time(until)));
        out.line(&format!("  {kept}{until} at most (-n --no-grace says what they take, --no-grace deletes them now)"))?;
    }
    if plan.ignored > 0 {
        let objects = units::counted(plan.ignored, "object that is", "objects that are");
        out.line(&format!("  to delete: {objects} not authentic and counted for nothing"))?;
    }
    if plan.leftovers.count > 0 {
        let count = units::counted(plan.leftovers.count, "unfinished file", "unfinished files");
        out.line(&format!("  to delete: {count} of killed writers, {}", units::size(plan.leftovers.bytes)))?;
    }
    if plan.no_room.count > 0 {
        out.line(&format!("  not repacked, since there is no room for the copies: {}", packs(plan.no_room)))?;
    }
    if plan.stuck.count > 0 {
        out.line(&format!("  damaged, and cannot be freed: {}", packs(plan.stuck)))?;
    }
    if plan.unused > 0 {
        out.line(&format!("  unused space that stays: {}", units::size(plan.unused)))?;
    }
    let would = if dry_run { "would free" } else { "will free" };
    out.line(&format!("{would} {}", units::size(plan.freed)))
}

fn done(out: &mut Output, report: &Report, time: Duration) -> Result<()> {
    if report.sessions > 0 {
        let ended = units::counted(report.sessions, "session whose writer is gone was ended", "sessions were ended");
        out.line(&ended)?;
    }
    if report.lists > 0 {
        let left = units::counted(report.lists, "list of packs marked for deletion", "lists of packs marked for deletion");
        out.line(&format!("{left} stay until the next prune"))?;
    }
    if report.former.count > 0 {
        out.line(&format!("{} are still sealed with a former key: yester prune --rekey goes on", packs(report.former)))?;
    }
    if report.parity.count > 0 {
        let groups = units::counted(report.parity_groups, "group of parity", "groups of parity");
        let (objects, size) = (units::counted(report.parity.count, "object", "objects"), units::size(report.parity.bytes));
        out.line(&format!("dissolved {groups} ({objects}, {size}): yester parity add makes it anew for what has none now"))?;
    }
    let freed = units::size(report.freed());
    out.line(&format!("freed {freed} ({} deleted) in {}", packs(report.packs), units::duration(time)))
}

#[derive(Serialize)]
struct JsonTally {
    count: u64,
    bytes: u64,
}

impl From<Tally> for JsonTally {
    fn from(tally: Tally) -> Self {
        JsonTally { count: tally.count, bytes: tally.bytes }
    }
}

#[derive(Serialize)]
struct Planned {
    message_type: &'static str,
    dry_run: bool,
    snapshots: u64,
    packs: JsonTally,
    packs_marked: JsonTally,
    packs_unneeded: JsonTally,
    packs_repack: JsonTally,
    bytes_copied: u64,
    bytes_unused_after: u64,
    snapshots_forgotten: JsonTally,
    snapshots_kept: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<String>,
    objects_ignored: u64,
    leftovers: JsonTally,
    packs_stuck: JsonTally,
    packs_without_room: JsonTally,
    packs_former: JsonTally,
    chunks_lost: u64,
    bytes_freed: u64,
}

fn planned(plan: &PrunePlan, dry_run: bool) -> Planned {
    Planned {
        message_type: "plan",
        dry_run,
        snapshots: plan.live,
        packs: plan.packs.into(),
        packs_marked: plan.marked.into(),
        packs_unneeded: plan.dead.into(),
        packs_repack: plan.repack.into(),
        bytes_copied: plan.copied,
        bytes_unused_after: plan.unused,
        snapshots_forgotten: plan.snapshots.into(),
        snapshots_kept: plan.kept,
        kept_until: plan.kept_until.map(units::utc_time),
        objects_ignored: plan.ignored,
        leftovers: plan.leftovers.into(),
        packs_stuck: plan.stuck.into(),
        packs_without_room: plan.no_room.into(),
        packs_former: plan.former.into(),
        chunks_lost: plan.lost,
        bytes_freed: plan.freed,
    }
}

#[derive(Serialize)]
struct PruneSummary {
    message_type: &'static str,
    bytes_freed: u64,
    bytes_announced: u64,
    packs_deleted: JsonTally,
    segments_deleted: JsonTally,
    snapshots_deleted: JsonTally,
    ignored_deleted: u64,
    leftovers_deleted: JsonTally,
    written: JsonTally,
    sessions_ended: u64,
    lists_left: u64,
    parity_groups_dissolved: u64,
    parity_deleted: JsonTally,
    packs_stuck: JsonTally,
    packs_former: JsonTally,
    packs_left: JsonTally,
    chunks_lost: u64,
    total_duration: f64,
}

fn summary(report: &Report, plan: &PrunePlan, time: Duration) -> PruneSummary {
    PruneSummary {
        message_type: "summary",
        bytes_freed: report.freed(),
        bytes_announced: plan.freed,
        packs_deleted: report.packs.into(),
        segments_deleted: report.segments.into(),
        snapshots_deleted: report.snapshots.into(),
        ignored_deleted: report.ignored,
        leftovers_deleted: report.leftovers.into(),
        written: report.written.into(),
        sessions_ended: report.sessions,
        lists_left: report.lists,
        parity_groups_dissolved: report.parity_groups,
        parity_deleted: report.parity.into(),
        packs_stuck: report.stuck.into(),
        packs_former: report.former.into(),
        packs_left: report.left.into(),
        chunks_lost: report.lost,
        total_duration: time.as_secs_f64(),
    }
}

/// The options of a plan as if these snapshots were forgotten.
pub fn without(options: PruneOptions, ids: &[SnapshotId]) -> PruneOptions {
    PruneOptions { without: ids.iter().copied().collect::<HashSet<_>>(), ..options }
}
