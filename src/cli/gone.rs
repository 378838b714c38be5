//! Snapshots that were here before and are gone, without having been forgotten: the repository has gone back in time, or
//! lost them.

use serde::Serialize;
use yester::local::state::LocalState;
use yester::maintain::forget::{self, ForgetOptions};
use yester::model::SnapshotId;
use yester::observe::{Event, Observer};
use yester::repo::{Repository, chain, snapshots};
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::progress::Display;
use crate::cli::say::units;

/// What there is to say of each, after [`object`].
pub const TEXT: &str = "was here before, is gone, and was not forgotten: the repository has gone back in time or lost it; \
    look at its storage (if it is lost for good: yester forget --accept-gone accepts all that are gone, with -n it only \
    shows them)";
/// What to do about it.
const NEXT: &str = "yester snapshots names all, yester forget --accept-gone accepts it";

/// How one is called.
pub fn object(id: &SnapshotId) -> String {
    format!("snapshot {id}")
}

fn state(context: &Context, repo: &Repository) -> Option<LocalState> {
    LocalState::open(context.places.state()?, repo.id())
}

/// Snapshots that are gone without having been forgotten: those that this machine has seen, and those that others name
/// as before them. Those that are there are remembered.
pub fn seen(context: &Context, repo: &Repository) -> Result<Vec<SnapshotId>> {
    let mut listed = None;
    let list = || snapshots::present(repo).map(|ids| listed.insert(ids).clone());
    let mut gone = match state(context, repo) {
        Some(state) => state.vanished(repo, list)?,
        None => Vec::new(),
    };
    let present = listed.map_or_else(|| snapshots::present(repo), Ok)?;
    gone.extend(chain::look(repo, &present)?.gone);
    gone.sort_unstable();
    gone.dedup();
    Ok(gone)
}

/// Only those that this machine has seen.
pub fn remembered(context: &Context, repo: &Repository) -> Result<Vec<SnapshotId>> {
    state(context, repo).map_or(Ok(Vec::new()), |state| state.vanished(repo, || snapshots::present(repo)))
}

/// Remembers a snapshot of one's own. Failing to costs this look at the next time.
pub fn remember(context: &Context, repo: &Repository, id: SnapshotId) {
    if let Some(state) = state(context, repo) {
        state.note_seen(&[id]);
    }
}

/// What a command says that goes on nevertheless: it reads, or adds.
pub fn warning(context: &Context, repo: &Repository) -> Result<Option<String>> {
    Ok(text(&seen(context, repo)?))
}

fn text(gone: &[SnapshotId]) -> Option<String> {
    let first = gone.first()?;
    let more = match gone.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!(
        "it has gone back in time, or lost snapshots: {}{more} was here before, is gone, and was not forgotten \
         (yester snapshots names all)",
        object(first)
    ))
}

/// Says which are gone, if any are: the command goes on, and ends with an exit code of its own.
pub fn warn(context: &Context, repo: &Repository) -> Result<Vec<SnapshotId>> {
    let gone = seen(context, repo)?;
    if let Some(text) = text(&gone) {
        say(context, &text);
        let count = units::counted(gone.len() as u64, "snapshot is gone", "snapshots are gone");
        let _ = context.went_back.set(format!("the repository went back: {count} that nobody forgot ({NEXT})"));
    }
    Ok(gone)
}

/// How a command ends that went on: that snapshots are gone counts for more than that not all of it was done.
pub fn outcome(context: &Context, outcome: Outcome) -> Result<Outcome> {
    let Some(text) = context.went_back.get() else { return Ok(outcome) };
    if let Outcome::Partial(message) = outcome {
        note(&format!("yester: {message}"));
    }
    Err(Error::new(ErrorKind::WentBack, text.clone()))
}

/// Says what [`warning`] gave.
pub fn say(context: &Context, text: &str) {
    Display::new(&context.global).event(&Event::Warning { subject: b"the repository", message: text });
}

#[derive(Serialize)]
struct Accepted {
    message_type: &'static str,
    dry_run: bool,
    snapshots_gone: Vec<String>,
}

/// Shows all that are gone, those that others name as their parents included, and unless this is a dry run marks them as
/// forgotten: from then on nobody asks for them.
pub fn accept(context: &Context, repo: &Repository, dry_run: bool) -> Result<Outcome> {
    let gone = seen(context, repo)?;
    let mut out = Output::new();
    if !context.global.json && !context.global.quiet {
        gone.iter().try_for_each(|id| out.line(&format!("gone: {}", object(id))))?;
    }
    let display = Display::new(&context.global);
    let options = ForgetOptions { why: b"given up: it was gone".to_vec(), grace: 0 };
    let accepted = if dry_run { gone.clone() } else { forget::forget(repo, &gone, &options, &Task::new(&display))? };
    display.finish();
    if context.global.json {
        let snapshots_gone = accepted.iter().map(SnapshotId::to_string).collect();
        out.json(&Accepted { message_type: "accepted_gone", dry_run, snapshots_gone })?;
    } else if !context.global.quiet {
        let count = units::counted(accepted.len() as u64, "snapshot is gone", "snapshots are gone");
        let what = if dry_run { "dry run, would accept that" } else { "accepted that" };
        out.line(&format!("{what} {count}"))?;
    }
    out.finish()?;
    match gone.len() - accepted.len() {
        0 => Ok(Outcome::Done),
        _ => Ok(Outcome::Partial("not all of them could be accepted".to_owned())),
    }
}
