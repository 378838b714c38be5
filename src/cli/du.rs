//! `du`: what takes the room in a snapshot, and what forgetting snapshots would free.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use yester::Result;
use yester::maintain::prune::{Prune, PruneOptions, PrunePlan, Unused};
use yester::maintain::usage::{UsageQuery, UsedBytes, usage};
use yester::model::{Node, Snapshot, SnapshotId};
use yester::repo::{Repository, snapshots};
use yester::task::Task;

use crate::cli::context::{self, Context};
use crate::cli::given::select::{Chooser, Filters, Spec};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output, note};
use crate::cli::say::progress::Display;
use crate::cli::say::{paths, units};
use crate::cli::{gone, signals};

/// Say what takes the room
///
/// For each entry of a directory of a snapshot: what it takes in the repository, and its bytes, without what was counted
/// before. A chunk that several files have is counted at the first. Or what forgetting snapshots would free.
#[derive(Debug, Args)]
pub struct DuArgs {
    /// Which snapshot, and which directory in it; without it, the newest
    #[arg(value_name = "SNAP[:PATH]", default_value = "latest", hide_default_value = true)]
    what: OsString,
    /// Only so many files, those that take the most, wherever they are below it
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Count only what no other snapshot has
    #[arg(long, conflicts_with = "added")]
    unique: bool,
    /// Count only what the snapshot before, of the same series, does not have
    #[arg(long)]
    added: bool,
    /// Say what forgetting these snapshots together, and then prune --max-unused 0, would free
    #[arg(long, value_name = "SNAP", num_args = 1.., conflicts_with_all = ["what", "top", "unique", "added"])]
    if_forgotten: Vec<String>,
    #[command(flatten)]
    filters: Filters,
}

/// Says it.
pub fn run(context: &Context, args: &DuArgs) -> Result<Outcome> {
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    match args.if_forgotten.is_empty() {
        true => of_snapshot(context, &repo, args, &Spec::parse(&args.what)?),
        false => if_forgotten(context, &repo, args),
    }
}

fn of_snapshot(context: &Context, repo: &Arc<Repository>, args: &DuArgs, spec: &Spec) -> Result<Outcome> {
    let chooser = Chooser::new(context, repo, &args.filters)?;
    let snapshot = chooser.with_path(&context::trees(repo)?, spec)?;
    let all = if args.unique || args.added { snapshots::list(repo)? } else { Vec::new() };
    let others: Vec<&Snapshot> = match args.added {
        true => before(&all, snapshot).into_iter().collect(),
        false => all.iter().filter(|other| other.id != snapshot.id).collect(),
    };
    if args.added && others.is_empty() && !context.global.quiet && !context.global.json {
        note("yester: note: it is the first of its series: all of it was added");
    }
    let names = spec.names();
    let query = UsageQuery { snapshot, names: &names, without: &others, files: args.top.is_some() };
    let display = Display::new(&context.global);
    let nothing_too = !args.unique && !args.added;
    let mut printer =
        UsagePrinter { out: Output::new(), json: context.global.json, top: args.top, nothing_too, largest: Vec::new() };
    let counted = usage(repo, &query, &Task::new(&display).stopped_by(&signals::stop_flag()?), &mut |path, node, used| {
        printer.take(path, node, used)
    });
    display.finish();
    let sum = counted?;
    printer.largest()?;
    if context.global.json {
        let path = spec.path.as_deref().map_or(&b"/"[..], paths::bytes);
        printer.out.json(&JsonUsageSum {
            message_type: "summary",
            snapshot_id: snapshot.id.to_string(),
            path: JsonPath::new(path),
            bytes: sum.bytes,
            stored_bytes: sum.stored(),
        })?;
    } else if !context.global.quiet {
        printer.out.line(&format!("{:>10} {:>10} together", units::size(sum.stored()), units::size(sum.bytes)))?;
    }
    printer.out.finish()?;
    Ok(Outcome::Done)
}

/// The newest snapshot of the same series before this one; `all` from the oldest.
fn before<'a>(all: &'a [Snapshot], snapshot: &Snapshot) -> Option<&'a Snapshot> {
    let at = all.iter().position(|other| other.id == snapshot.id)?;
    all.get(..at)?.iter().rev().find(|other| other.series() == snapshot.series())
}

/// Prints entries, or holds the largest.
struct UsagePrinter {
    out: Output,
    json: bool,
    top: Option<usize>,
    /// Whether entries are shown that take nothing.
    nothing_too: bool,
    largest: Vec<(UsedBytes, Vec<u8>, &'static str)>,
}

#[derive(Serialize)]
struct JsonUsage {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    r#type: &'static str,
    bytes: u64,
    stored_bytes: u64,
}

#[derive(Serialize)]
struct JsonUsageSum {
    message_type: &'static str,
    snapshot_id: String,
    #[serde(flatten)]
    path: JsonPath,
    bytes: u64,
    stored_bytes: u64,
}

impl UsagePrinter {
    fn take(&mut self, path: &[u8], node: &Node, used: UsedBytes) -> Result<()> {
        if !self.nothing_too && used == UsedBytes::default() {
            return Ok(());
        }
        let kind = crate::cli::ls::type_name(&node.kind);
        let Some(top) = self.top else { return self.show(path, kind, used) };
        self.largest.push((used, path.to_vec(), kind));
        if self.largest.len() >= top.saturating_mul(2).max(1024) {
            self.cut(top);
        }
        Ok(())
    }

    fn cut(&mut self, top: usize) {
        self.largest.sort_unstable_by(|(a, one, _), (b, two, _)| (Reverse(a.stored()), one).cmp(&(Reverse(b.stored()), two)));
        self.largest.truncate(top);
    }

    fn largest(&mut self) -> Result<()> {
        self.cut(self.top.unwrap_or(0));
        let largest = std::mem::take(&mut self.largest);
        largest.iter().try_for_each(|(used, path, kind)| self.show(path, kind, *used))
    }

    fn show(&mut self, path: &[u8], kind: &'static str, used: UsedBytes) -> Result<()> {
        if self.json {
            let (path, stored_bytes) = (JsonPath::new(path), used.stored());
            return self.out.json(&JsonUsage { message_type: "usage", path, r#type: kind, bytes: used.bytes, stored_bytes });
        }
        let mut line = format!("{:>10} {:>10} ", units::size(used.stored()), units::size(used.bytes)).into_bytes();
        line.extend_from_slice(&self.out.name(path));
        line.extend_from_slice(if kind == "directory" { b"/\n" } else { b"\n" });
        self.out.bytes(&line)
    }
}

#[derive(Serialize)]
struct JsonIfForgotten {
    message_type: &'static str,
    snapshot_ids: Vec<String>,
    bytes_freed: u64,
    bytes_packs: u64,
    bytes_freed_anyway: u64,
    snapshots_left: u64,
}

/// What prune would free if the snapshots were forgotten, less what it would free without that.
fn if_forgotten(context: &Context, repo: &Arc<Repository>, args: &DuArgs) -> Result<Outcome> {
    let chooser = Chooser::new(context, repo, &args.filters)?;
    let mut ids: Vec<SnapshotId> = Vec::new();
    for name in &args.if_forgotten {
        let id = chooser.snapshot(name)?.id;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let display = Display::new(&context.global);
    let plan = |ids: &[SnapshotId]| -> Result<PrunePlan> {
        let options = PruneOptions {
            max_unused: Unused::Bytes(0),
            // A plan deletes nothing, so it does not wait for writers.
            wait: Some(Duration::ZERO),
            record: false,
            state: context.places.state().map(std::path::Path::to_owned),
            ..PruneOptions::default()
        };
        let task = Task::new(&display).stopped_by(&signals::stop_flag()?);
        Ok(Prune::prepare(repo, &crate::cli::prune::without(options, ids), &task)?.plan().clone())
    };
    let both = plan(&[]).and_then(|anyway| Ok((anyway, plan(&ids)?)));
    display.finish();
    let (anyway, with) = both?;
    let freed = with.freed.saturating_sub(anyway.freed);
    let packs = |plan: &PrunePlan| (plan.marked.bytes + plan.dead.bytes + plan.repack.bytes).saturating_sub(plan.copied);
    let mut out = Output::new();
    if context.global.json {
        out.json(&JsonIfForgotten {
            message_type: "if_forgotten",
            snapshot_ids: ids.iter().map(SnapshotId::to_string).collect(),
            bytes_freed: freed,
            bytes_packs: packs(&with).saturating_sub(packs(&anyway)),
            bytes_freed_anyway: anyway.freed,
            snapshots_left: with.live,
        })?;
    } else {
        let these = units::counted(ids.len() as u64, "snapshot", "snapshots");
        let left = units::counted(with.live, "snapshot is", "snapshots are");
        out.line(&format!("forgetting {these} would free {} ({} bytes); {left} left", units::size(freed), units::count(freed)))?;
        if anyway.freed > 0 {
            out.line(&format!("prune frees {} without that", units::size(anyway.freed)))?;
        }
        if with.kept > 0 {
            let kept = units::counted(with.kept, "forgotten snapshot is", "forgotten snapshots are");
            out.line(&format!("{kept} kept by forget --grace, and not counted as freed"))?;
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}
