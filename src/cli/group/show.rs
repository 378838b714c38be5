//! What is shown of groups.

use comfy_table::{Table, presets};
use serde::Serialize;
use yester::Result;
use yester::jobs::groups::GroupWatch;
use yester::model::{GroupRound, SnapshotId, escape};
use yester::repo::Repository;
use yester::repo::groups::state::{GroupView, MemberView};

use crate::cli::context::Context;
use crate::cli::say::output::{Output, lossy, note};
use crate::cli::say::units;

use std::sync::Arc;
use std::time::Duration;

/// Says that a group was opened, and what each member is to do.
pub fn opened(context: &Context, repo: &Arc<Repository>, id: SnapshotId, next: &str) -> Result<()> {
    let mut out = Output::new();
    let view = GroupWatch::new(repo, id)?.view()?;
    match (context.global.json, context.global.quiet) {
        (true, _) => out.json(&json(id, &view))?,
        (false, true) => out.line(&id.to_string())?,
        (false, false) => {
            out.line(&format!("group {id} is open"))?;
            let next = next.replace("NAME", &escape(&view.round.set)).replace("ID", &id.short());
            out.line(&format!("each of its members takes part with: {next}"))?;
        }
    }
    out.finish()
}

/// One group with its members.
pub fn group(context: &Context, out: &mut Output, id: SnapshotId, view: &GroupView) -> Result<()> {
    if context.global.json {
        return out.json(&json(id, view));
    }
    let missing = if view.round.allow_missing { ", which may lack members" } else { "" };
    let of = view.round.of.map(|of| format!(" of group {}", of.short())).unwrap_or_default();
    let what = if view.round.kind == GroupRound::RESTORE { format!("restore{of}") } else { "group".to_owned() };
    let set = escape(&view.round.set);
    out.line(&format!("{what} {id}{missing}, of set {set}, opened {}", units::local_time(view.opened)))?;
    let why = if view.message.is_empty() { String::new() } else { format!(": {}", escape(&view.message)) };
    out.line(&format!("{}{why}", view.state.word()))?;
    if let Some(window) = view.window {
        out.line(&format!("from the first cut to the last: {} ms, by their clocks", window.as_millis()))?;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["Member", "State", "Step", "Host", "Snapshot", "Stood still", "Because"]);
    for member in &view.members {
        let errors = (member.errors > 0).then(|| units::counted(member.errors, "error", "errors"));
        table.add_row([
            escape(&member.name),
            member.state.word().to_owned(),
            member.step.to_owned(),
            escape(&member.host),
            member.snapshot.map(|id| id.short()).unwrap_or_default(),
            member.still.map(|still| format!("{} ms", still.as_millis())).unwrap_or_default(),
            errors.unwrap_or_else(|| escape(&member.message)),
        ]);
    }
    out.line(&table.trim_fmt())
}

/// All groups, a line each.
pub fn list(context: &Context, out: &mut Output, all: &[(SnapshotId, GroupView)]) -> Result<()> {
    if context.global.json {
        return all.iter().try_for_each(|(id, view)| out.json(&json(*id, view)));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["ID", "Opened", "Kind", "Set", "State", "Members"]);
    for (id, view) in all {
        let members: Vec<String> =
            view.members.iter().map(|member| format!("{} {}", escape(&member.name), member.state.word())).collect();
        table.add_row([
            id.short(),
            units::local_time(view.opened),
            kind(view).to_owned(),
            escape(&view.round.set),
            view.state.word().to_owned(),
            members.join(", "),
        ]);
    }
    out.line(&table.trim_fmt())?;
    if context.global.quiet { Ok(()) } else { out.line(&units::counted(all.len() as u64, "group", "groups")) }
}

fn kind(view: &GroupView) -> &'static str {
    match view.round.kind {
        GroupRound::INGEST => "snapshots",
        GroupRound::RESTORE => "restore",
        _ => "unknown",
    }
}

/// Says on standard error what has changed, while somebody waits.
#[derive(Default)]
pub struct GroupProgress {
    last: Vec<&'static str>,
}

impl GroupProgress {
    /// Says it.
    pub fn tell(&mut self, context: &Context, view: &GroupView) {
        let now: Vec<&'static str> = view.members.iter().map(step).collect();
        if now != self.last && !context.global.quiet && !context.global.json {
            let members: Vec<String> = view.members.iter().map(|m| format!("{} {}", escape(&m.name), step(m))).collect();
            note(&format!("yester: {}", members.join(" · ")));
        }
        self.last = now;
    }
}

/// The most exact word there is.
fn step(member: &MemberView) -> &'static str {
    if member.state.word() == "processing" && !member.step.is_empty() { member.step } else { member.state.word() }
}

#[derive(Serialize)]
struct JsonGroup {
    message_type: &'static str,
    id: String,
    short_id: String,
    kind: &'static str,
    set: String,
    state: &'static str,
    over: bool,
    opened: String,
    barrier: bool,
    allow_missing: bool,
    limit_ms: u64,
    still_limit_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_ms: Option<u64>,
    members: Vec<JsonMember>,
}

#[derive(Serialize)]
struct JsonMember {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    step: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    still_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    restores: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

fn json(id: SnapshotId, view: &GroupView) -> JsonGroup {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let parts = view.round.parts.iter().map(Some).chain(std::iter::repeat(None));
    let member = |(member, part): (&MemberView, Option<&Vec<u8>>)| JsonMember {
        name: lossy(&member.name),
        state: member.state.word(),
        step: member.step,
        hostname: lossy(&member.host),
        snapshot_id: member.snapshot.map(|id| id.to_string()),
        errors: member.errors,
        still_ms: member.still.map(millis),
        cut: member.cut.map(units::utc_time),
        restores: part.map(|part| lossy(part)).unwrap_or_default(),
        message: lossy(&member.message),
    };
    JsonGroup {
        message_type: "group",
        id: id.to_string(),
        short_id: id.short(),
        kind: kind(view),
        set: lossy(&view.round.set),
        state: view.state.word(),
        over: view.over,
        opened: units::utc_time(view.opened),
        barrier: view.round.barrier,
        allow_missing: view.round.allow_missing,
        limit_ms: view.round.limit,
        still_limit_ms: view.round.still_limit,
        of: view.round.of.map(|id| id.to_string()),
        message: lossy(&view.message),
        window_ms: view.window.map(millis),
        members: view.members.iter().zip(parts).map(member).collect(),
    }
}
