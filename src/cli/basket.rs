//! The wastebasket: `snapshots --forgotten`, and `forget --undo`.

use std::sync::Arc;

use comfy_table::{Table, presets};
use serde::Serialize;
use yester::maintain::undo;
use yester::model::{SnapshotId, escape};
use yester::repo::Repository;
use yester::repo::basket::{self, ForgottenSnapshot};
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, lossy};
use crate::cli::say::units;

#[derive(Serialize)]
struct JsonForgotten {
    message_type: &'static str,
    id: String,
    short_id: String,
    time: String,
    hostname: String,
    paths: Vec<String>,
    forgotten: String,
    forgotten_by: String,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<String>,
}

/// Who forgot it.
fn by(found: &ForgottenSnapshot) -> String {
    format!("{}@{}", lossy(&found.mark.user), lossy(&found.mark.host))
}

/// Lists forgotten snapshots that are still there.
pub fn list(context: &Context, repo: &Repository) -> Result<Outcome> {
    let all = basket::all(repo, context::now())?;
    let mut out = Output::new();
    if context.global.json {
        all.iter().try_for_each(|found| out.json(&json(found)))?;
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["ID", "Time", "Forgotten", "By", "Why", "Kept until"]);
        for found in &all {
            let until = found.until.map_or("the next prune".to_owned(), units::local_time);
            table.add_row([
                found.snapshot.id.short(),
                units::local_time(found.snapshot.time),
                units::local_time(found.mark.time),
                escape(by(found).as_bytes()),
                escape(&found.mark.why),
                until,
            ]);
        }
        if !all.is_empty() {
            out.line(&table.trim_fmt())?;
        }
        if !context.global.quiet {
            let count = units::counted(all.len() as u64, "forgotten snapshot is", "forgotten snapshots are");
            out.line(&format!("{count} still there (yester forget --undo ID takes it back)"))?;
        }
    }
    out.finish().map(|()| Outcome::Done)
}

fn json(found: &ForgottenSnapshot) -> JsonForgotten {
    JsonForgotten {
        message_type: "forgotten_snapshot",
        id: found.snapshot.id.to_string(),
        short_id: found.snapshot.id.short(),
        time: units::utc_time(found.snapshot.time),
        hostname: lossy(&found.snapshot.host),
        paths: found.snapshot.paths.iter().map(|path| lossy(path)).collect(),
        forgotten: units::utc_time(found.mark.time),
        forgotten_by: by(found),
        why: lossy(&found.mark.why),
        kept_until: found.until.map(units::utc_time),
    }
}

#[derive(Serialize)]
struct Undone {
    message_type: &'static str,
    dry_run: bool,
    snapshots_back: Vec<String>,
}

/// Takes back that these snapshots were forgotten.
pub fn undo(context: &Context, repo: &Arc<Repository>, names: &[String], dry_run: bool) -> Result<Outcome> {
    if names.is_empty() {
        return Err(Error::invalid("name the snapshots to take back (see: yester snapshots --forgotten)"));
    }
    let all = basket::all(repo, context::now())?;
    let mut ids: Vec<SnapshotId> = Vec::new();
    for name in names {
        let found: Vec<SnapshotId> =
            all.iter().map(|found| found.snapshot.id).filter(|id| id.to_string().starts_with(name.as_str())).collect();
        match found[..] {
            _ if name.len() < 4 => return Err(Error::invalid(format!("{name:?}: give at least 4 digits of an id"))),
            [id] => ids.push(id),
            [] => {
                let text = format!("no forgotten snapshot {name:?} is still there (see: yester snapshots --forgotten)");
                return Err(Error::new(ErrorKind::NotFound, text));
            }
            _ => return Err(Error::invalid(format!("{name} is the beginning of several snapshot ids: give more digits"))),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    if !dry_run {
        ids.iter().try_for_each(|id| undo::undo(repo, *id, &Task::default()))?;
    }
    let mut out = Output::new();
    if context.global.json {
        let snapshots_back = ids.iter().map(SnapshotId::to_string).collect();
        out.json(&Undone { message_type: "taken_back", dry_run, snapshots_back })?;
    } else if !context.global.quiet {
        let what = if dry_run { "dry run, would take back" } else { "took back" };
        out.line(&format!("{what} {}", units::counted(ids.len() as u64, "snapshot", "snapshots")))?;
    }
    out.finish().map(|()| Outcome::Done)
}
