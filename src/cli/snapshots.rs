//! `snapshots`: a table a series, or a JSON line a snapshot.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use yester::model::{Remarks, Rule, Snapshot, SnapshotId, Timestamp, escape};
use yester::repo::signs::{self, Sign};
use yester::repo::snapshots as repo_snapshots;
use yester::repo::times::{self, Received};
use yester::{ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::given::select::{self, Filters};
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::{Output, exact, lossy, note};
use crate::cli::say::parts::{self, JsonPart};
use crate::cli::say::units;
use crate::cli::{annotate, basket, gone};

/// List the snapshots
///
/// They are listed by series: host and given paths.
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    /// Only the N newest of every series
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Those that were forgotten and that no prune has removed yet
    #[arg(long, conflicts_with = "latest")]
    forgotten: bool,
    #[command(flatten)]
    filters: Filters,
}

/// Lists the snapshots.
pub fn run(context: &Context, args: &SnapshotsArgs) -> Result<Outcome> {
    let filter = args.filters.filter()?;
    let repo = context.open()?;
    if args.forgotten {
        return basket::list(context, &repo);
    }
    let repo_snapshots::SnapshotList { snapshots: all, damaged, remarks, received, .. } = repo_snapshots::find_all(&repo)?;
    let remarks = AllRemarks { signs: signs::all(&all), said: remarks };
    let damaged: Vec<yester::Error> = damaged.into_iter().map(|(_, e)| e).collect();
    let chosen: Vec<&Snapshot> = all.iter().filter(|s| filter.matches(s)).collect();
    let series = by_series(&chosen, args.latest.unwrap_or(usize::MAX), &received);
    let mut out = Output::new();
    if context.global.json {
        let mut listed: Vec<&Snapshot> = series.values().flatten().copied().collect();
        listed.sort_by_key(|s| (s.time, s.id));
        listed.into_iter().try_for_each(|s| out.json(&json(s, &received, &remarks)))?;
    } else {
        text(&mut out, &series, (&received, times::differ(&received, &all)), &remarks, context.global.quiet)?;
    }
    out.finish()?;
    if chosen.is_empty() && !all.is_empty() && !context.global.quiet && !context.global.json {
        note(&format!("yester: note: {}", select::none_passes(&all)));
    }
    let mut wrong: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    let kind = if wrong.is_empty() { ErrorKind::WentBack } else { ErrorKind::Corrupt };
    wrong.extend(gone::seen(context, &repo)?.iter().map(|id| format!("{} {}", gone::object(id), gone::TEXT)));
    let Some((first, rest)) = wrong.split_first() else { return Ok(Outcome::Done) };
    for e in rest {
        exit::report(exit::code(kind), e, context.global.json);
    }
    Err(yester::Error::new(kind, first))
}

/// Snapshots by host, given paths and the token that put them.
type SnapshotsBySeries<'a> = BTreeMap<((&'a [u8], &'a [Vec<u8>]), Option<&'a str>), Vec<&'a Snapshot>>;

/// Parts snapshots (oldest first) into their series and keeps the newest of each.
fn by_series<'a>(snapshots: &[&'a Snapshot], latest: usize, received: &'a Received) -> SnapshotsBySeries<'a> {
    let mut series: SnapshotsBySeries<'a> = BTreeMap::new();
    for snapshot in snapshots {
        series.entry((snapshot.series(), times::by(received, snapshot.id))).or_default().push(snapshot);
    }
    for list in series.values_mut() {
        list.drain(..list.len().saturating_sub(latest));
    }
    series
}

/// Clocks may differ by so many seconds.
const SLACK: i64 = 300;
/// Longer than an ingest takes, in seconds.
const LONG: i64 = 86_400;

/// Whether a snapshot says of itself what cannot be, given when it was received.
fn differs(snapshot: &Snapshot, received: Timestamp) -> bool {
    let (begin, end, received) = (snapshot.time.secs, snapshot.finished.secs, received.secs);
    received < begin.saturating_sub(SLACK) || received > end.saturating_add(SLACK) || received > begin.saturating_add(LONG)
}

/// `tokens`: the repository has snapshots of several.
fn text(
    out: &mut Output,
    series: &SnapshotsBySeries<'_>,
    (received, tokens): (&Received, bool),
    remarks: &AllRemarks,
    quiet: bool,
) -> Result<()> {
    let mut total = 0;
    for (((host, paths), by), snapshots) in series {
        let token = if tokens { token(*by) } else { String::new() };
        out.line(&format!("{}: {}{token}", escape(host), crate::cli::say::paths::several(paths)))?;
        out.line(&table(snapshots, received, remarks).trim_fmt())?;
        out.line("")?;
        total += snapshots.len() as u64;
    }
    if quiet {
        return Ok(());
    }
    let count = units::counted(total, "snapshot", "snapshots");
    out.line(&format!("{count} in {} series", units::count(series.len() as u64)))
}

/// The token of a series, behind its name.
pub fn token(by: Option<&str>) -> String {
    by.map_or(" (no token)".to_owned(), |by| format!(" (token {by})"))
}

/// The time of a snapshot, with the time of receipt where it differs.
pub fn time(snapshot: &Snapshot, received: &Received) -> String {
    match times::at(received, snapshot.id).filter(|at| differs(snapshot, *at)) {
        Some(at) => format!("{} (received {})", units::local_time(snapshot.time), units::local_time(at)),
        None => units::local_time(snapshot.time),
    }
}

/// That a key which only writes has made it, and which: what it says of its host is not sure. Empty for all others.
fn of_key(snapshot: &Snapshot) -> String {
    snapshot.writer.map_or_else(String::new, |writer| format!(" (key {}, which only writes)", writer.short()))
}

/// What was said of snapshots, and what is striking about them.
struct AllRemarks {
    said: HashMap<SnapshotId, Remarks>,
    signs: HashMap<SnapshotId, Vec<Sign>>,
}

impl AllRemarks {
    /// The signs that a source was turned over; none of a snapshot of which somebody has said that it is as it should be.
    fn signs(&self, id: &SnapshotId) -> &[Sign] {
        let expected = self.said.get(id).is_some_and(|said| said.expected);
        self.signs.get(id).filter(|_| !expected).map_or(&[], Vec::as_slice)
    }

    /// The same in words, behind the tags.
    fn striking(&self, id: &SnapshotId) -> String {
        match self.signs(id) {
            [] => String::new(),
            found => format!(" (much changed: {})", signs::text(found)),
        }
    }
}

fn table(snapshots: &[&Snapshot], received: &Received, remarks: &AllRemarks) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["ID", "Time", "Files", "Size", "Tags"]);
    for snapshot in snapshots {
        let tags: Vec<String> = snapshot.tags.iter().map(|t| escape(t)).collect();
        let statistics = &snapshot.statistics;
        table.add_row([
            snapshot.id.short(),
            time(snapshot, received),
            units::count(statistics.files),
            units::size(statistics.bytes),
            format!(
                "{}{}{}{}{}",
                tags.join(", "),
                of_key(snapshot),
                parts::mark(snapshot),
                remarks.striking(&snapshot.id),
                annotate::behind(remarks.said.get(&snapshot.id))
            )
            .trim_start()
            .to_owned(),
        ]);
    }
    for right in [2, 3] {
        if let Some(column) = table.column_mut(right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Names and units are restic's where it has the same thing.
#[derive(Serialize)]
struct JsonSnapshot {
    message_type: &'static str,
    id: String,
    short_id: String,
    time: String,
    hostname: String,
    username: String,
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths_b64: Option<Vec<Option<String>>>,
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_until: Option<String>,
    /// That a source was turned over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signs: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    program_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<String>,
    /// Who put it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    /// Whose key it is of, if that only writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<String>,
    /// By which rules entries were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<JsonRule>,
    /// The set that it is of, and all its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_text: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<JsonPart>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<u64>,
    /// The group that it is a part of, and whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    summary: JsonCounts,
}

#[derive(Serialize)]
struct JsonRule {
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    text: String,
}

fn rule(rule: &Rule) -> JsonRule {
    let kind = match rule.kind {
        Rule::MORE => "more".into(),
        Rule::PATTERN => "pattern".into(),
        Rule::PATTERN_ANY_CASE => "pattern_any_case".into(),
        Rule::CACHES => "caches".into(),
        Rule::IF_PRESENT => "if_present".into(),
        Rule::LARGER_THAN => "larger_than".into(),
        Rule::ONE_FILE_SYSTEM => "one_file_system".into(),
        Rule::PATH => "repository".into(),
        Rule::ATTRIBUTE => "xattr".into(),
        other => other.to_string(),
    };
    JsonRule { kind, text: lossy(&rule.text) }
}

#[derive(Serialize)]
struct JsonCounts {
    backup_end: String,
    files_new: u64,
    files_changed: u64,
    files_unmodified: u64,
    total_files: u64,
    total_directories: u64,
    total_others: u64,
    total_bytes: u64,
    data_added: u64,
    data_added_packed: u64,
    errors: u64,
}

fn json(snapshot: &Snapshot, received: &Received, all: &AllRemarks) -> JsonSnapshot {
    let remarks = all.said.get(&snapshot.id);
    let (pinned, pinned_until) = remarks.map(annotate::json_pin).unwrap_or_default();
    let exact: Vec<Option<String>> = snapshot.paths.iter().map(|p| exact(p)).collect();
    let s = &snapshot.statistics;
    JsonSnapshot {
        message_type: "snapshot",
        id: snapshot.id.to_string(),
        short_id: snapshot.id.short(),
        time: units::utc_time(snapshot.time),
        hostname: lossy(&snapshot.host),
        username: lossy(&snapshot.user),
        paths: snapshot.paths.iter().map(|p| lossy(p)).collect(),
        paths_b64: exact.iter().any(Option::is_some).then_some(exact),
        tags: snapshot.tags.iter().map(|t| lossy(t)).collect(),
        note: remarks.filter(|remarks| !remarks.note.is_empty()).map(|remarks| lossy(&remarks.note)),
        pinned,
        pinned_until,
        signs: all.signs(&snapshot.id).iter().map(|sign| sign.code()).collect(),
        parent: snapshot.parent.map(|p| p.to_string()),
        number: Some(snapshot.chain.number).filter(|number| *number > 0),
        program_version: lossy(&snapshot.program),
        received: times::at(received, snapshot.id).map(units::utc_time),
        token_id: times::by(received, snapshot.id).map(str::to_owned),
        writer: snapshot.writer.map(|writer| writer.to_string()),
        rules: snapshot.rules.iter().map(rule).collect(),
        set: snapshot.composition.set.as_ref().map(|set| lossy(&set.name)),
        set_text: snapshot.composition.set.as_ref().map(|set| lossy(&set.text)),
        parts: parts::json(snapshot),
        frozen: Some(snapshot.composition.frozen).filter(|time| *time > 0),
        group: snapshot.composition.group.as_ref().map(|part| part.group.to_string()),
        member: snapshot.composition.group.as_ref().map(|part| lossy(&part.member)),
        summary: JsonCounts {
            backup_end: units::utc_time(snapshot.finished),
            files_new: s.files_new,
            files_changed: s.files_changed,
            files_unmodified: s.files_unchanged,
            total_files: s.files,
            total_directories: s.directories,
            total_others: s.others,
            total_bytes: s.bytes,
            data_added: s.bytes_new,
            data_added_packed: s.bytes_stored,
            errors: s.errors,
        },
    }
}
