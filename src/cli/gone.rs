//! Snapshots that were here before and are gone, without having been forgotten: the repository has gone back in time, or
//! lost them.

use std::collections::BTreeSet;

use serde::Serialize;
use yester::Result;
use yester::local::state::LocalState;
use yester::maintain::forget;
use yester::model::{Snapshot, SnapshotId};
use yester::observe::{Event, Observer};
use yester::repo::{Repository, snapshots};

use super::context::{self, Context};
use super::exit::Outcome;
use super::output::Output;
use super::progress::Display;
use super::units;

/// What there is to say of each, after [`object`].
pub const TEXT: &str = "was here before, is gone, and was not forgotten: the repository has gone back in time or lost it; \
    look at its storage (if it is lost for good: yester forget --accept-gone accepts all that are gone, with -n it only \
    shows them)";

/// How one is called.
pub fn object(id: &SnapshotId) -> String {
    format!("snapshot {id}")
}

fn state(context: &Context, repo: &Repository) -> Option<LocalState> {
    LocalState::open(context.places.state()?, repo.id())
}

/// Snapshots that this machine has seen and that are gone without having been forgotten. Those that are there are
/// remembered.
pub fn seen(context: &Context, repo: &Repository) -> Result<Vec<SnapshotId>> {
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
    let gone = seen(context, repo)?;
    let Some(first) = gone.first() else { return Ok(None) };
    let more = match gone.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Ok(Some(format!(
        "it has gone back in time, or lost snapshots: {}{more} was here before, is gone, and was not forgotten \
         (yester snapshots names all)",
        object(first)
    )))
}

/// Says so.
pub fn warn(context: &Context, repo: &Repository) -> Result<()> {
    if let Some(text) = warning(context, repo)? {
        say(context, &text);
    }
    Ok(())
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
pub fn accept(context: &Context, repo: &Repository, all: &[Snapshot], dry_run: bool) -> Result<Outcome> {
    let mut gone: BTreeSet<SnapshotId> = seen(context, repo)?.into_iter().collect();
    gone.extend(forget::lost_parents(repo, all)?);
    let gone: Vec<SnapshotId> = gone.into_iter().collect();
    let mut out = Output::new();
    if !context.global.json && !context.global.quiet {
        gone.iter().try_for_each(|id| out.line(&format!("gone: {}", object(id))))?;
    }
    let display = Display::new(&context.global);
    let accepted =
        if dry_run { gone.clone() } else { forget::forget(repo, &gone, context::now(), b"given up: it was gone", &display)? };
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
