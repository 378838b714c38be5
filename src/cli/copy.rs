//! `copy`: snapshots of another repository into this one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use yester::copy::{self, Copier};
use yester::model::{Snapshot, escape};
use yester::repo::Repository;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::from_repo::FromRepository;
use crate::cli::given::select::{self, Filters};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::signals;

/// Copy snapshots from another repository into this one
///
/// All snapshots of the other repository, those that are named, or those that pass the filters. What is here already is
/// not copied again, whichever way it came. A copy that was stopped goes on where it was.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Which snapshots of the other repository; without one, all that pass the filters
    #[arg(value_name = "SNAP")]
    names: Vec<String>,
    #[command(flatten)]
    from: FromRepository,
    #[command(flatten)]
    filters: Filters,
    /// Only say what would be copied
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Copies.
pub fn run(context: &Context, args: &CopyArgs) -> Result<Outcome> {
    let began = Instant::now();
    let source = args
        .from
        .open(context)?
        .ok_or_else(|| Error::invalid("which repository to copy from? give --from-repo or set YESTER_FROM_REPO"))?;
    let source = Arc::new(source);
    let target = if args.dry_run { context.open()? } else { context.open_for(true)? };
    if source.id() == target.id() {
        return Err(Error::invalid("both are the same repository: --from-repo names the one to copy from, --repo the other"));
    }
    // Snapshots first, then the index that their content is looked up in.
    let chosen = select::chosen(context, &source, &args.names, &args.filters)?;
    let present = copy::present(&target)?;
    let (here, going): (Vec<Snapshot>, Vec<Snapshot>) =
        chosen.into_iter().partition(|snapshot| present.contains(&copy::origin(&source, snapshot)));
    let mut totals = CopyTotals { skipped: here.len() as u64, ..CopyTotals::default() };
    if !args.dry_run && !going.is_empty() {
        carry_out(context, (&source, &target), &going, &mut totals)?;
    } else {
        going.iter().try_for_each(|snapshot| line(context, snapshot, None))?;
        totals.copied = going.len() as u64;
    }
    summary(context, args.dry_run, &totals, began.elapsed())?;
    match totals.failed {
        0 => Ok(Outcome::Done),
        n => Ok(Outcome::Partial(format!("{} could not be copied", units::counted(n, "snapshot", "snapshots")))),
    }
}

#[derive(Default)]
struct CopyTotals {
    copied: u64,
    skipped: u64,
    failed: u64,
    added: u64,
    stored: u64,
}

fn carry_out(
    context: &Context,
    (source, target): (&Arc<Repository>, &Arc<Repository>),
    going: &[Snapshot],
    totals: &mut CopyTotals,
) -> Result<()> {
    let trees = context::trees(source)?;
    let stop = signals::stop_flag()?;
    let display = Display::new(&context.global);
    let task = Task::new(&display).stopped_by(&stop);
    let mut copier = Copier::new(source, &trees, target, &task);
    for snapshot in going {
        match copier.copy(snapshot) {
            Ok(copied) => {
                totals.copied += 1;
                totals.added += copied.bytes_new;
                totals.stored += copied.bytes_stored;
                display.finish();
                line(context, snapshot, Some(&copied.snapshot))?;
                display.resume();
            }
            // Others may be whole.
            Err(e) if e.kind() == ErrorKind::Corrupt || e.kind() == ErrorKind::NotFound => {
                totals.failed += 1;
                note(&format!("yester: snapshot {} was not copied: {e}", snapshot.id.short()));
            }
            Err(e) => {
                display.finish();
                return Err(e);
            }
        }
    }
    display.finish();
    Ok(())
}

#[derive(Serialize)]
struct JsonCopyLine {
    message_type: &'static str,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
}

fn line(context: &Context, snapshot: &Snapshot, copy: Option<&Snapshot>) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        let snapshot_id = copy.map(|copy| copy.id.to_string());
        out.json(&JsonCopyLine { message_type: "copied", origin: snapshot.id.to_string(), snapshot_id })?;
    } else if !context.global.quiet {
        let paths: Vec<String> = snapshot.paths.iter().map(|path| escape(path)).collect();
        let what = match copy {
            Some(copy) => format!("copied {} as {}", snapshot.id.short(), copy.id.short()),
            None => format!("would copy {}", snapshot.id.short()),
        };
        out.line(&format!("{what}: {} {}", escape(&snapshot.host), paths.join(" ")))?;
    }
    out.finish()
}

#[derive(Serialize)]
struct CopySummary {
    message_type: &'static str,
    dry_run: bool,
    snapshots_copied: u64,
    snapshots_skipped: u64,
    snapshots_failed: u64,
    data_added: u64,
    data_added_packed: u64,
    total_duration: f64,
}

fn summary(context: &Context, dry_run: bool, totals: &CopyTotals, time: Duration) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        out.json(&CopySummary {
            message_type: "summary",
            dry_run,
            snapshots_copied: totals.copied,
            snapshots_skipped: totals.skipped,
            snapshots_failed: totals.failed,
            data_added: totals.added,
            data_added_packed: totals.stored,
            total_duration: time.as_secs_f64(),
        })?;
    } else if !context.global.quiet {
        let verb = if dry_run { "would be copied" } else { "copied" };
        let count = units::counted(totals.copied, "snapshot", "snapshots");
        let (added, stored) = (units::size(totals.added), units::size(totals.stored));
        let bytes = if dry_run { String::new() } else { format!("; {added} of new content, {stored} stored") };
        out.line(&format!("{count} {verb}, {} already here{bytes} ({})", totals.skipped, units::duration(time)))?;
    }
    out.finish()
}
