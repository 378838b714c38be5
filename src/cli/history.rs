//! `history`: what became of a path.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;
use yester::model::{Kind, Node, Snapshot, escape};
use yester::query::history::{self, HistoryRun};
use yester::query::{EntryVersion, SnapshotSet, content};
use yester::repo::tree::TreeReader;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{Chooser, Filters};
use crate::cli::gone;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output, exact, lossy};
use crate::cli::say::{paths, units};

/// List the versions of a file or directory
///
/// Each line is a version: its number, when it came, the snapshots it is in, and what changed. cat, restore and diff
/// take the number, as v3:PATH; with the same filters it means the same version.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The file or directory
    #[arg(value_name = "PATH")]
    path: OsString,
    /// Also every path below a directory that changed
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Find the first version for which this shell command fails; $1 is a copy of the file
    #[arg(long, value_name = "COMMAND", conflicts_with = "recursive")]
    bisect: Option<OsString>,
    /// Go on with the path that it had before it was renamed with the same content
    #[arg(long, conflicts_with_all = ["recursive", "bisect"])]
    follow: bool,
    #[command(flatten)]
    filters: Filters,
}

/// Lists.
pub fn run(context: &Context, args: &HistoryArgs) -> Result<Outcome> {
    let path = paths::absolute(Path::new(&args.path))?;
    let names = paths::names(&path);
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let chooser = Chooser::new(context, &repo, &args.filters)?;
    let trees = context::trees(&repo)?;
    trees.chunks().snapshots_listed();
    let snapshots = chooser.that_may_have(&names)?;
    let versions = history::versions(&trees, &snapshots, &names, &Task::default())?;
    if versions.is_empty() {
        let count = units::counted(snapshots.len() as u64, "snapshot", "snapshots");
        let text = format!("{} is in none of {count} that may have it (see: yester find)", paths::shown(&path));
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let runs = history::runs(&versions, snapshots.len());
    let steps = if args.follow { followed(&chooser, &trees, paths::bytes(&path).to_vec(), &runs)? } else { Vec::new() };
    let mut listing =
        HistoryPrinter { out: Output::new(), json: context.global.json, trees: &trees, snapshots: &snapshots, from: None };
    if args.follow {
        for step in &steps {
            (listing.snapshots, listing.from) = (&step.snapshots, step.from.as_deref());
            listing.show(&step.path, &step.runs, steps.len() > 1, step.number)?;
        }
    } else if let Some(command) = &args.bisect {
        listing.bisect(paths::bytes(&path), &runs, command)?;
    } else {
        listing.show(paths::bytes(&path), &runs, false, 0)?;
        if args.recursive {
            listing.below(paths::bytes(&path), &versions)?;
        }
    }
    listing.out.finish()?;
    Ok(Outcome::Done)
}

/// A path that something had for a time.
struct HistoryStep<'a> {
    path: Vec<u8>,
    snapshots: Vec<&'a Snapshot>,
    runs: Vec<HistoryRun>,
    /// How many versions of the path were something else before.
    number: usize,
    /// The path that it had before.
    from: Option<Vec<u8>>,
}

/// What is at `path`, and what it was before it came there by another name; the oldest first.
fn followed<'a>(chooser: &'a Chooser, trees: &TreeReader, path: Vec<u8>, runs: &[HistoryRun]) -> Result<Vec<HistoryStep<'a>>> {
    let split =
        |path: &[u8]| path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let list = |path: &[u8]| {
        let names = split(path);
        chooser.that_may_have(&names.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let mut steps: Vec<HistoryStep<'a>> = Vec::new();
    let (mut path, mut runs, mut snapshots) = (path.clone(), runs.to_vec(), list(&path)?);
    loop {
        // The last time that it came by another name; what was there before is something else.
        let came = (0..runs.len()).rev().filter(|at| runs[*at].node.is_some() && (*at == 0 || runs[at - 1].node.is_none()));
        let mut renamed = None;
        for at in came {
            let Some(after) = snapshots.get(runs[at].first) else { continue };
            let before = snapshots[..runs[at].first].iter().rev().find(|before| before.series() == after.series());
            let Some(before) = before else { continue };
            if let Some(from) = history::renamed_from(trees, before, after, &path, &Task::default())? {
                renamed = Some((at, from, before.id));
                break;
            }
        }
        let Some((at, from, last)) = renamed else {
            steps.push(HistoryStep { path, snapshots, runs, number: 0, from: None });
            break;
        };
        let number = runs[..at].iter().filter(|run| run.node.is_some()).count();
        steps.push(HistoryStep { path, snapshots, runs: runs.split_off(at), number, from: Some(from.clone()) });
        path = from;
        snapshots = list(&path)?;
        let names = split(&path);
        let versions =
            history::versions(trees, &snapshots, &names.iter().map(Vec::as_slice).collect::<Vec<_>>(), &Task::default())?;
        runs = history::runs(&versions, snapshots.len());
        let end = snapshots.iter().position(|snapshot| snapshot.id == last).unwrap_or(0);
        runs.retain(|run| run.first <= end);
        runs.iter_mut().for_each(|run| run.last = run.last.min(end));
    }
    steps.reverse();
    Ok(steps)
}

struct HistoryPrinter<'a> {
    out: Output,
    json: bool,
    trees: &'a TreeReader,
    snapshots: &'a [&'a Snapshot],
    /// Where what is listed was before it came.
    from: Option<&'a [u8]>,
}

#[derive(Serialize)]
struct JsonVersion {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<usize>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_b64: Option<String>,
    time: String,
    first: String,
    last: String,
    snapshots: usize,
    reasons: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl HistoryPrinter<'_> {
    /// Lists the runs of a path, of which so many versions are not listed.
    fn show(&mut self, path: &[u8], runs: &[HistoryRun], named: bool, skipped: usize) -> Result<()> {
        if named && !self.json {
            let mut line = self.out.name(path).into_owned();
            line.push(b'\n');
            self.out.bytes(&line)?;
        }
        let mut number = skipped;
        let mut before: Option<&HistoryRun> = None;
        for run in runs {
            number += usize::from(run.node.is_some());
            self.line(path, run, before, number)?;
            before = Some(run);
        }
        Ok(())
    }

    fn line(&mut self, path: &[u8], run: &HistoryRun, before: Option<&HistoryRun>, number: usize) -> Result<()> {
        let node = run.node.as_ref();
        let old = before.and_then(|run| run.node.as_ref());
        let (action, reasons) = match (old, node) {
            (_, None) => ("gone", Vec::new()),
            (None, Some(_)) if before.is_none() && self.from.is_some() => ("renamed", Vec::new()),
            (None, Some(_)) => ("came", Vec::new()),
            (Some(old), Some(node)) => ("changed", history::reasons(old, node)),
        };
        let from = self.from.filter(|_| action == "renamed");
        let snapshot = |at: usize| self.snapshots.get(at).copied();
        let id = |at: usize| snapshot(at).map(|s| s.id.to_string()).unwrap_or_default();
        let short = |at: usize| snapshot(at).map(|s| s.id.short()).unwrap_or_default();
        let time = snapshot(run.first).map(|s| s.time).unwrap_or_default();
        let file = |node: &Node| if let Kind::File(c) = &node.kind { Some(content::id(self.trees, c).to_string()) } else { None };
        if self.json {
            return self.out.json(&JsonVersion {
                message_type: "version",
                path: JsonPath::new(path),
                number: node.map(|_| number),
                action,
                from: from.map(lossy),
                from_b64: from.and_then(exact),
                time: units::utc_time(time),
                first: id(run.first),
                last: id(run.last),
                snapshots: run.last - run.first + 1,
                reasons,
                r#type: node.map(|node| crate::cli::ls::type_name(&node.kind)),
                size: node.map(Node::size),
                mtime: node.map(|node| units::utc_time(node.meta.mtime)),
                content: node.and_then(file),
            });
        }
        let label = node.map_or_else(|| "-".to_owned(), |_| format!("v{number}"));
        let range = if run.first == run.last { short(run.first) } else { format!("{}..{}", short(run.first), short(run.last)) };
        let size = node.filter(|node| node.directory().is_none()).map(|node| units::size(node.size())).unwrap_or_default();
        let from = from.map(|from| format!(" from {}", escape(from))).unwrap_or_default();
        let why = if reasons.is_empty() { from } else { format!(" ({})", reasons.join(", ")) };
        self.out.line(&format!("{label:<4} {} {range:<18} {size:>9} {action}{why}", units::local_time(time)))
    }

    fn below(&mut self, path: &[u8], versions: &[EntryVersion]) -> Result<()> {
        let (trees, count) = (self.trees, self.snapshots.len());
        let base = if path == b"/" { b"" } else { path };
        history::below(trees, base, versions, &SnapshotSet::below(count), &Task::default(), &mut |path, versions| {
            let runs = history::runs(versions, count);
            // A directory that only holds something else shows by what it holds.
            match runs.as_slice() {
                [only] if only.first == 0 => Ok(()),
                runs => self.show(path, runs, true, 0),
            }
        })
    }

    /// Finds the first version that the command calls bad, between the oldest, which must be good, and the newest.
    fn bisect(&mut self, path: &[u8], runs: &[HistoryRun], command: &OsString) -> Result<()> {
        let files: Vec<(usize, &HistoryRun)> = runs.iter().filter(|run| run.node.is_some()).enumerate().collect();
        let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(()) };
        if !self.is_bad(last.1, command)? {
            return Err(Error::new(ErrorKind::NotFound, "the command succeeds for the newest version: there is nothing to find"));
        }
        if self.is_bad(first.1, command)? {
            return Err(Error::new(ErrorKind::NotFound, "the command fails for the oldest version already"));
        }
        let (mut good, mut bad) = (0, files.len() - 1);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            let Some((_, run)) = files.get(middle) else { break };
            if self.is_bad(run, command)? { bad = middle } else { good = middle }
        }
        let before = files.get(good).map(|(_, run)| *run);
        match files.get(bad) {
            Some((at, run)) => self.line(path, run, before, at + 1),
            None => Ok(()),
        }
    }

    fn is_bad(&self, run: &HistoryRun, command: &OsString) -> Result<bool> {
        let Some(Kind::File(content)) = run.node.as_ref().map(|node| &node.kind) else {
            return Err(Error::invalid("--bisect takes a path that is a file in every version"));
        };
        let io = |e| Error::io("cannot write a copy of the file for the command", e);
        let mut copy = tempfile::NamedTempFile::new().map_err(io)?;
        let (mut at, mut bytes) = (0, Vec::new());
        while at < content.size() {
            self.trees.read(content, at, 1 << 20, &mut bytes)?;
            std::io::Write::write_all(&mut copy, &bytes).map_err(io)?;
            at += bytes.len() as u64;
        }
        let copy = copy.into_temp_path();
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).arg("sh").arg(&copy).stdin(Stdio::null()).stdout(Stdio::null());
        let status = shell.status().map_err(|e| Error::io("cannot run the command of --bisect", e))?;
        match status.code() {
            Some(code @ (126 | 127)) => {
                let shown = yester::model::escape(command.as_bytes());
                Err(Error::invalid(format!("the command of --bisect cannot be run (it ended with {code}): {shown}")))
            }
            code => Ok(code != Some(0)),
        }
    }
}
