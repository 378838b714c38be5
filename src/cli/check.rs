//! `check`: whether the repository is whole, and what of the snapshots is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use parking_lot::Mutex;
use serde::Serialize;
use yester::jobs::runs;
use yester::maintain::check::{CheckOptions, CheckReport, Subset, check};
use yester::model::{Run, escape};
use yester::observe::{Event, Observer};
use yester::repo::Repository;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::{Outcome, one_line};
use crate::cli::say::output::{JsonPath, Output};
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::verified::VerifiedMemory;
use crate::cli::{gone, signals};

/// Entries of one snapshot that are named; with --json all are.
const NAMES: u64 = 20;

/// Check the repository, and with --read-data every byte of it
///
/// Every object must be there, every snapshot's tree, files and metadata must resolve, and counts must be right. With
/// --read-data, every stored byte is read, decrypted, decompressed and compared with what it should be. Damaged objects
/// are named, and the files of each snapshot that lose something. What is found damaged is written down in the repository,
/// so that the next ingest of the same files stores it again and prune removes it. Nothing else is changed.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("data").args(["read_data", "read_data_subset"])))]
pub struct CheckArgs {
    /// Read all data too
    #[arg(long)]
    read_data: bool,
    /// Read a part of the data: 10% of the packs, packs of 5G together (both: those that were not read for the longest
    /// time), or part 2/7 of all
    #[arg(long, value_name = "10%|5G|N/T", value_parser = parse_subset)]
    read_data_subset: Option<Subset>,
    /// Leave out packs that this machine found sound within this time, as in 30d, 12h or 2w: by a check, or when it stored
    /// them
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, requires = "data")]
    max_age: Option<Duration>,
    /// Begin no further pack after this time, as in 30m or 4h. Those that were not read for the longest time come first, so
    /// that several checks in turn read everything
    #[arg(long, value_name = "TIME", value_parser = units::parse_wait, requires = "data")]
    max_duration: Option<Duration>,
}

/// Checks.
pub fn run(context: &Context, args: &CheckArgs) -> Result<Outcome> {
    let began = Instant::now();
    let run = runs::begin(Run::CHECK);
    let repo = context.open()?;
    let display = Display::new(&context.global);
    context.announce(&display, &run);
    let how = CheckOptions {
        read: args.read_data.then_some(Subset::All).or(args.read_data_subset),
        max_age: args.max_age,
        max_duration: args.max_duration,
        ..CheckOptions::default()
    };
    let checked = look(context, &repo, &display, how);
    display.finish();
    let report = checked.inspect_err(|e| ended(&repo, run.clone(), Err(e)))?;
    ended(&repo, run, Ok(&report));
    let mut out = Output::new();
    if context.global.json {
        out.json(&summary(&report, began.elapsed()))?;
    } else if !context.global.quiet {
        text(&report, began.elapsed(), args).iter().try_for_each(|line| out.line(line))?;
    }
    out.finish()?;
    match report.damage == report.gone.len() as u64 && report.hits == 0 {
        _ if report.is_sound() => Ok(Outcome::Done),
        true => Err(Error::new(ErrorKind::WentBack, verdict(&report))),
        false => Err(Error::corrupt(verdict(&report))),
    }
}

/// Checks as `how` says, prints what is found, and remembers which packs were read.
pub fn look(context: &Context, repo: &Arc<Repository>, display: &Display, how: CheckOptions) -> Result<CheckReport> {
    let json = context.global.json;
    let findings = FindingsPrinter { display, json, wrong: Mutex::new(Ok(())) };
    let mut vanished = gone::remembered(context, repo)?;
    let mut memory = VerifiedMemory::new(context, repo);
    let names = if json { None } else { Some(NAMES) };
    let verified = memory.all();
    if how.read.is_some() {
        memory.drop_gone(&verified)?;
    }
    let options = CheckOptions { verified, names, ..how };
    let task = Task::new(&findings).stopped_by(&signals::stop_flag()?);
    let checked = check(repo, &options, &task, &mut |pack, sound| memory.note(pack, sound));
    memory.keep();
    let mut report = checked?;
    vanished.retain(|id| !report.gone.contains(id));
    vanished.iter().for_each(|id| findings.event(&Event::Damage { object: &gone::object(id), message: gone::TEXT }));
    report.damage += vanished.len() as u64;
    report.gone.extend(vanished);
    findings.wrong.into_inner()?;
    Ok(report)
}

/// Writes down how it ended; with read-only access nothing is written.
fn ended(repo: &Repository, mut run: Run, how: Result<&CheckReport, &Error>) {
    match how {
        Ok(report) if report.is_sound() => {}
        Ok(report) => (run.state, run.message, run.errors) = (Run::FAILED, verdict(report).into_bytes(), report.damage),
        Err(e) => runs::failed(&mut run, e),
    }
    let _ = runs::end(repo, run);
}

/// `10%`, `5G`, `2/7`.
fn parse_subset(text: &str) -> Result<Subset, String> {
    let wrong = || format!("{text:?} is no part of the data: write 10%, 5G, or 2/7");
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| wrong())?;
        return if percent > 0.0 && percent <= 100.0 { Ok(Subset::Share(percent / 100.0)) } else { Err(wrong()) };
    }
    if let Some((part, of)) = text.split_once('/') {
        let (part, of): (u32, u32) = (part.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
        return if (1..=of).contains(&part) { Ok(Subset::Part { part, of }) } else { Err(wrong()) };
    }
    match units::parse_size(text).map_err(|_| wrong())? {
        0 => Err(wrong()),
        bytes => Ok(Subset::Bytes(bytes)),
    }
}

/// Shows what is found: as text on standard error, as JSON on standard output.
struct FindingsPrinter<'a> {
    display: &'a Display,
    json: bool,
    /// The first line that could not be written.
    wrong: Mutex<Result<()>>,
}

#[derive(Serialize)]
struct JsonDamage<'a> {
    message_type: &'static str,
    object: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct JsonDamagedPath<'a> {
    message_type: &'static str,
    snapshot: &'a str,
    #[serde(flatten)]
    path: JsonPath,
    message: &'a str,
}

impl FindingsPrinter<'_> {
    fn write<T: Serialize>(&self, value: &T) {
        let mut out = Output::new();
        let written = out.json(value).and_then(|()| out.finish());
        let mut wrong = self.wrong.lock();
        if wrong.is_ok() {
            *wrong = written;
        }
    }
}

impl Observer for FindingsPrinter<'_> {
    fn event(&self, event: &Event<'_>) {
        let short = |snapshot: &str| snapshot.chars().take(8).collect::<String>();
        match event {
            Event::Damage { object, message } if self.json => {
                self.write(&JsonDamage { message_type: "damage", object, message });
            }
            Event::Hit { snapshot, path, message } if self.json => {
                self.write(&JsonDamagedPath { message_type: "hit", snapshot, path: JsonPath::new(path), message });
            }
            Event::Damage { object, message } => {
                self.display.note(&format!("yester: damage: {}: {}", one_line(object), one_line(message)));
            }
            Event::Hit { snapshot, path, message } => {
                self.display.note(&format!("yester: hit: {}:{}: {message}", short(snapshot), escape(path)));
            }
            Event::MoreHits { snapshot, entries } => {
                let entries = units::counted(*entries, "entry", "entries");
                self.display.note(&format!("yester: hit: {}: {entries} more (--json names all)", short(snapshot)));
            }
            other => self.display.event(other),
        }
    }
}

/// The last lines when nothing failed.
fn text(report: &CheckReport, time: Duration, args: &CheckArgs) -> Vec<String> {
    let counted = |n, one, many| units::counted(n, one, many);
    let mut out = Vec::new();
    if report.unused_packs > 0 {
        let packs = counted(report.unused_packs, "pack", "packs");
        let why = "left by ingests that were stopped, or of one at work";
        out.push(format!("{packs} ({}) that no segment names: {why}; no damage", units::size(report.unused_bytes)));
    }
    if report.lone_beats > 0 {
        let beats = counted(report.lone_beats, "sign of life", "signs of life");
        out.push(format!("{beats} of ingests that have ended: yester prune removes them; no damage"));
    }
    if report.unfinished_keys > 0 {
        let slots = counted(report.unfinished_keys, "key slot", "key slots");
        let why = "an unfinished addition or removal, or one at work; the next command that writes ends it; no damage";
        out.push(format!("{slots} not whole: {why}"));
    }
    if report.marked_packs > 0 {
        let packs = counted(report.marked_packs, "pack is", "packs are");
        out.push(format!("{packs} marked for deletion: an unfinished prune, or one at work; the next prune ends it; no damage"));
    }
    if report.gone_packs > 0 {
        let packs = counted(report.gone_packs, "deleted pack", "deleted packs");
        let why = "nothing of them is needed, and the next prune takes them out; no damage";
        out.push(format!("{packs} that the index still names: {why}"));
    }
    if args.read_data || args.read_data_subset.is_some() {
        let fresh = match report.fresh_packs {
            0 => String::new(),
            n => format!(", {} left out that were found sound not long ago", units::count(n)),
        };
        let packs = counted(report.read_packs, "pack", "packs");
        out.push(format!("read {packs} ({}) whole{fresh}", units::size(report.read_bytes)));
        if report.left_packs > 0 {
            let packs = counted(report.left_packs, "pack was", "packs were");
            out.push(format!("{packs} not read, since the time was over: the next check begins with them"));
        }
    }
    if report.parity_groups > 0 {
        out.push(parity(report));
    }
    let found = if report.is_sound() { "no damage" } else { "damage found" };
    let parts = [
        counted(report.snapshots, "snapshot", "snapshots"),
        counted(report.pages, "tree page", "tree pages"),
        counted(report.references, "reference to data", "references to data"),
        counted(report.packs, "pack", "packs"),
    ];
    let (size, time) = (units::size(report.pack_bytes), units::duration(time));
    out.push(format!("checked {} ({size}) in {time}: {found}", parts.join(", ")));
    out
}

/// What there is of parity.
fn parity(report: &CheckReport) -> String {
    let mut out = units::counted(report.parity_groups, "group of parity", "groups of parity");
    if report.parity_rows_read > 0 {
        out.push_str(&format!(", {} read whole", units::counted(report.parity_rows_read, "row", "rows")));
    }
    if report.parity_incomplete > 0 {
        out.push_str(&format!(", {} without all rows", units::count(report.parity_incomplete)));
    }
    if report.parity_uncovered > 0 {
        out.push_str(&format!(", {} without parity", units::counted(report.parity_uncovered, "pack", "packs")));
    }
    if report.parity_incomplete + report.parity_uncovered > 0 {
        out.push_str(": yester parity add makes what is missing; no damage");
    }
    out
}

/// The line that ends a check which found something.
fn verdict(report: &CheckReport) -> String {
    let findings = units::counted(report.damage, "finding", "findings");
    let hits = match report.hits {
        0 => "nothing of any snapshot is lost as far as is known".to_owned(),
        hits => {
            let entries = units::counted(hits, "entry", "entries");
            let snapshots = units::counted(report.hit_snapshots, "snapshot", "snapshots");
            format!(
                "{entries} of {snapshots} cannot be restored whole, until an ingest of the same files stores them again, or yester doctor heals them"
            )
        }
    };
    let written = match &report.unrecorded {
        None => String::new(),
        Some(e) => format!("; this could not be written down in the repository, so an ingest does not know of it yet: {e}"),
    };
    let what = match report.damage == report.gone.len() as u64 && report.hits == 0 {
        true => "went back",
        false => "is damaged",
    };
    format!("the repository {what}: {findings}; {hits}{written}")
}

#[derive(Serialize)]
struct CheckSummary {
    message_type: &'static str,
    sound: bool,
    damage: u64,
    hits: u64,
    hit_snapshots: u64,
    snapshots: u64,
    sessions: u64,
    tree_pages: u64,
    data_references: u64,
    segments: u64,
    chunks: u64,
    packs: u64,
    pack_bytes: u64,
    unused_packs: u64,
    unused_bytes: u64,
    lone_beats: u64,
    unfinished_keys: u64,
    marked_packs: u64,
    gone_packs: u64,
    read_packs: u64,
    read_bytes: u64,
    fresh_packs: u64,
    left_packs: u64,
    packs_recorded: u64,
    parity_groups: u64,
    parity_groups_incomplete: u64,
    packs_without_parity: u64,
    parity_rows_read: u64,
    total_duration: f64,
}

fn summary(report: &CheckReport, time: Duration) -> CheckSummary {
    CheckSummary {
        message_type: "summary",
        sound: report.is_sound(),
        damage: report.damage,
        hits: report.hits,
        hit_snapshots: report.hit_snapshots,
        snapshots: report.snapshots,
        sessions: report.sessions,
        tree_pages: report.pages,
        data_references: report.references,
        segments: report.segments,
        chunks: report.chunks,
        packs: report.packs,
        pack_bytes: report.pack_bytes,
        unused_packs: report.unused_packs,
        unused_bytes: report.unused_bytes,
        lone_beats: report.lone_beats,
        unfinished_keys: report.unfinished_keys,
        marked_packs: report.marked_packs,
        gone_packs: report.gone_packs,
        read_packs: report.read_packs,
        read_bytes: report.read_bytes,
        fresh_packs: report.fresh_packs,
        left_packs: report.left_packs,
        packs_recorded: report.recorded,
        parity_groups: report.parity_groups,
        parity_groups_incomplete: report.parity_incomplete,
        packs_without_parity: report.parity_uncovered,
        parity_rows_read: report.parity_rows_read,
        total_duration: time.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_read() {
        assert_eq!(parse_subset("10%"), Ok(Subset::Share(0.1)));
        assert_eq!(parse_subset("0.5%"), Ok(Subset::Share(0.005)));
        assert_eq!(parse_subset("5G"), Ok(Subset::Bytes(5 << 30)));
        assert_eq!(parse_subset("2/7"), Ok(Subset::Part { part: 2, of: 7 }));
        for bad in ["", "%", "0%", "101%", "-1%", "NaN%", "0/7", "8/7", "1/0", "1/x", "0", "many"] {
            assert!(parse_subset(bad).is_err(), "{bad}");
        }
    }
}
