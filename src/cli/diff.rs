//! `diff`: what differs between two snapshots, or between a snapshot and this machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use yester::model::{Kind, Node, escape};
use yester::query::diff::{self, DiffAction, DiffOptions, Difference, Other};
use yester::repo::tree::TreeReader;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{Chooser, Filters, Spec, described};
use crate::cli::gone;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output, exact, lossy};
use crate::cli::say::{paths, units};

/// Say what differs between two snapshots, or one and this machine
///
/// B is a snapshot, or a directory of this machine: that begins with / or a dot. If only one of them has a path, it
/// holds for both. What is the same in both is not read. Lines begin with + added, - removed, M content changed, m only
/// metadata changed, R renamed, x not in the snapshot and perhaps left out of it.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The older one
    #[arg(value_name = "SNAP[:PATH]")]
    a: OsString,
    /// The newer one, or a directory of this machine
    #[arg(value_name = "SNAP[:PATH]|DIR")]
    b: OsString,
    /// Show what changed in text files, too
    #[arg(short, long)]
    patch: bool,
    /// Show directories too of which only the time differs
    #[arg(long)]
    times: bool,
    /// Read files of this machine too whose size and time are those of the snapshot
    #[arg(long)]
    read_data: bool,
    #[command(flatten)]
    filters: Filters,
}

/// Who names a directory as it stands here may mean it.
fn with_hint(error: Error, args: &DiffArgs) -> Error {
    match error.kind() == ErrorKind::Invalid && Path::new(&args.b).is_dir() {
        true => Error::invalid(format!("{error}; the directory of this machine is ./{}", escape(args.b.as_bytes()))),
        false => error,
    }
}

/// Compares.
pub fn run(context: &Context, args: &DiffArgs) -> Result<Outcome> {
    let mut a = Spec::parse(&args.a)?;
    let live = args.b.as_bytes().first().is_some_and(|first| b"/.".contains(first));
    let live = if live { Some(paths::absolute(Path::new(&args.b))?) } else { None };
    let mut b = if live.is_some() { None } else { Some(Spec::parse(&args.b)?) };
    match (&mut b, &live) {
        (Some(b), _) if a.path.is_none() => a.path = b.path.clone(),
        (Some(b), _) if b.path.is_none() => b.path = a.path.clone(),
        (None, Some(live)) if a.path.is_none() => a.path = Some(live.clone()),
        _ => {}
    }
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let chooser = Chooser::new(context, &repo, &args.filters)?;
    let trees = context::trees(&repo)?;
    let node = |spec: &Spec| -> Result<(Node, String)> {
        let snapshot = chooser.with_path(&trees, spec)?;
        Ok((trees.walk_to(&snapshot.root, &spec.names())?.0, described(snapshot)))
    };
    let (before, _) = node(&a)?;
    let after = b.as_ref().map(node).transpose().map_err(|e| with_hint(e, args))?;
    // Paths are whole where both sides have the same.
    let path = |path: &Option<PathBuf>| path.as_deref().filter(|path| *path != Path::new("/")).map(Path::to_owned);
    let other = b.as_ref().map_or(live.clone(), |b| b.path.clone());
    let base = if path(&a.path) == path(&other) { path(&a.path) } else { None };
    let base = base.map(|base| paths::bytes(&base).to_vec()).unwrap_or_default();
    let mut listing = DiffPrinter { patch: args.patch, ..DiffPrinter::new(context, &trees, base, live.clone()) };
    let other = match (&after, &live) {
        (Some((after, _)), _) => Other::Tree(after),
        (None, Some(live)) => Other::Live(live, args.read_data),
        (None, None) => return Err(Error::invalid("there is nothing to compare with")),
    };
    let whole = diff::diff(&trees, &before, other, &DiffOptions { times: args.times }, &Task::default(), &mut |change| {
        listing.show(change)
    })?;
    listing.summary.renames_looked_for = whole && live.is_none();
    listing.end(context.global.quiet)?;
    Ok(Outcome::Done)
}

/// A tree of a snapshot, and where it is on this machine.
pub struct LiveTree<'a> {
    /// The tree's root.
    pub node: &'a Node,
    /// The directory of this machine.
    pub place: &'a Path,
    /// Paths in the tree that are not to be there: they, what is below them, and what only leads to them, are no difference.
    pub others: Vec<&'a [u8]>,
}

impl LiveTree<'_> {
    fn is_elsewhere(&self, change: &Difference) -> bool {
        let is_below = |path: &[u8], top: &[u8]| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        let leads = change.action == DiffAction::Removed && change.before.as_ref().is_some_and(|node| node.directory().is_some());
        self.others.iter().any(|at| is_below(&change.path, at) || leads && is_below(at, &change.path))
    }
}

/// Prints what differs between a tree and this machine.
pub fn tell_live(context: &Context, trees: &TreeReader, live: LiveTree<'_>) -> Result<()> {
    let base = paths::bytes(live.place).strip_suffix(b"/").unwrap_or(paths::bytes(live.place)).to_vec();
    let mut listing = DiffPrinter::new(context, trees, base, Some(live.place.to_owned()));
    let other = Other::Live(live.place, false);
    diff::diff(trees, live.node, other, &DiffOptions::default(), &Task::default(), &mut |change| {
        if live.is_elsewhere(change) { Ok(()) } else { listing.show(change) }
    })?;
    listing.end(context.global.quiet)
}

struct DiffPrinter<'a> {
    out: Output,
    json: bool,
    patch: bool,
    trees: &'a TreeReader,
    base: Vec<u8>,
    live: Option<PathBuf>,
    summary: DiffSummary,
}

#[derive(Serialize, Default)]
struct DiffSummary {
    message_type: &'static str,
    added: u64,
    removed: u64,
    changed: u64,
    metadata: u64,
    renamed: u64,
    left_out: u64,
    bytes_added: u64,
    bytes_removed: u64,
    renames_looked_for: bool,
}

#[derive(Serialize)]
struct JsonChange<'a> {
    message_type: &'static str,
    action: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_b64: Option<String>,
    r#type: &'static str,
    reasons: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    size_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries_below: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
}

impl<'a> DiffPrinter<'a> {
    fn new(context: &Context, trees: &'a TreeReader, base: Vec<u8>, live: Option<PathBuf>) -> Self {
        let (out, summary) = (Output::new(), DiffSummary { message_type: "summary", ..DiffSummary::default() });
        DiffPrinter { out, json: context.global.json, patch: false, trees, base, live, summary }
    }

    fn whole(&self, path: &[u8]) -> Vec<u8> {
        let path = [&self.base, path].concat();
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    fn show(&mut self, change: &Difference) -> Result<()> {
        self.count(change);
        let (path, from) = (self.whole(&change.path), change.from.as_ref().map(|from| self.whole(from)));
        let node = change.after.as_ref().or(change.before.as_ref());
        let directory = node.and_then(Node::directory);
        let below = directory.filter(|_| change.action == DiffAction::Renamed).map(|d| d.descendants);
        let patch = if self.patch { self.patch(change, &path)? } else { None };
        let (letter, action) = word(change.action);
        if self.json {
            return self.out.json(&JsonChange {
                message_type: "change",
                action,
                path: JsonPath::new(&path),
                from: from.as_deref().map(lossy),
                from_b64: from.as_deref().and_then(exact),
                r#type: node.map_or("", |node| crate::cli::ls::type_name(&node.kind)),
                reasons: &change.reasons,
                size_before: change.before.as_ref().map(Node::size),
                size: change.after.as_ref().map(Node::size),
                entries_below: below,
                patch: patch.map(|patch| lossy(&patch)),
            });
        }
        let slash = if directory.is_some() && path != b"/" { "/" } else { "" };
        let mut line = format!("{letter} ").into_bytes();
        if let Some(from) = from {
            line.extend_from_slice(&self.out.name(&from));
            line.extend_from_slice(format!("{slash} -> ").as_bytes());
        }
        line.extend_from_slice(&self.out.name(&path));
        line.extend_from_slice(slash.as_bytes());
        line.extend_from_slice(remark(change, below).as_bytes());
        line.push(b'\n');
        self.out.bytes(&line)?;
        self.out.bytes(&patch.unwrap_or_default())
    }

    fn count(&mut self, change: &Difference) {
        let summary = &mut self.summary;
        let size = |node: &Option<Node>| node.as_ref().map_or(0, Node::size);
        let (before, after) = (size(&change.before), size(&change.after));
        let counter = match change.action {
            DiffAction::Added => &mut summary.added,
            DiffAction::Removed => &mut summary.removed,
            DiffAction::Changed => &mut summary.changed,
            DiffAction::Metadata => &mut summary.metadata,
            DiffAction::Renamed => &mut summary.renamed,
            DiffAction::LeftOut => &mut summary.left_out,
        };
        *counter += 1;
        match change.action {
            DiffAction::Added | DiffAction::Removed | DiffAction::Changed => {
                summary.bytes_added = summary.bytes_added.saturating_add(after);
                summary.bytes_removed = summary.bytes_removed.saturating_add(before);
            }
            DiffAction::Metadata | DiffAction::Renamed | DiffAction::LeftOut => {}
        }
    }

    /// What changed in a file, as `diff -u` shows it; nothing for what is no file.
    fn patch(&self, change: &Difference, path: &[u8]) -> Result<Option<Vec<u8>>> {
        if matches!(change.action, DiffAction::Metadata | DiffAction::Renamed | DiffAction::LeftOut) {
            return Ok(None);
        }
        let file = |node: &Option<Node>| node.as_ref().is_some_and(|node| matches!(node.kind, Kind::File(_)));
        if !file(&change.before) && !file(&change.after) {
            return Ok(None);
        }
        let before = text(self.trees, change.before.as_ref(), None)?;
        let live = self.live.as_deref().map(|live| live.join(OsStr::from_bytes(change.path.strip_prefix(b"/").unwrap_or(b""))));
        let after = text(self.trees, change.after.as_ref(), live.as_deref())?;
        Ok(Some(match (before, after) {
            (Some(before), Some(after)) => unified(&before, &after, change, path),
            _ => b"  (no text, or more than 8 MiB)\n".to_vec(),
        }))
    }

    fn end(mut self, quiet: bool) -> Result<()> {
        let summary = &self.summary;
        if self.json {
            self.out.json(summary)?;
        } else if !quiet {
            let counts = [
                (summary.added, "added"),
                (summary.removed, "removed"),
                (summary.changed, "changed"),
                (summary.metadata, "with other metadata"),
                (summary.renamed, "renamed"),
                (summary.left_out, "perhaps left out of the snapshot"),
            ];
            let counts: Vec<String> =
                counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", units::count(*n))).collect();
            let bytes = format!("+{}, -{}", units::size(summary.bytes_added), units::size(summary.bytes_removed));
            let line = if counts.is_empty() { "nothing differs".to_owned() } else { format!("{}; {bytes}", counts.join(", ")) };
            self.out.line(&line)?;
        }
        self.out.finish()
    }
}

/// The longest text of which changes are shown.
const LONGEST: u64 = 8 << 20;

/// A file's bytes, if it is a text and not too long; no bytes for what is no file.
fn text(trees: &TreeReader, node: Option<&Node>, live: Option<&Path>) -> Result<Option<Vec<u8>>> {
    let Some(Kind::File(content)) = node.map(|node| &node.kind) else { return Ok(Some(Vec::new())) };
    if content.size() > LONGEST {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    match live {
        Some(path) => {
            let failed = |e| Error::io(format!("cannot read {}", paths::shown(path)), e);
            bytes = std::fs::read(path).map_err(failed)?;
        }
        None => trees.read(content, 0, content.size() as usize, &mut bytes)?,
    }
    Ok((!bytes.contains(&0)).then_some(bytes))
}

fn unified(before: &[u8], after: &[u8], change: &Difference, path: &[u8]) -> Vec<u8> {
    let diff = similar::TextDiff::from_lines(before, after);
    let name = |side: &str, there: bool| if there { format!("{side}{}", lossy(path)) } else { "/dev/null".to_owned() };
    let (old, new) = (name("a", change.before.is_some()), name("b", change.after.is_some()));
    let mut out = Vec::new();
    // Writing into memory does not fail.
    let _ = diff.unified_diff().header(&old, &new).to_writer(&mut out);
    out
}

fn word(action: DiffAction) -> (char, &'static str) {
    match action {
        DiffAction::Added => ('+', "added"),
        DiffAction::Removed => ('-', "removed"),
        DiffAction::Changed => ('M', "changed"),
        DiffAction::Metadata => ('m', "metadata"),
        DiffAction::Renamed => ('R', "renamed"),
        DiffAction::LeftOut => ('x', "left_out"),
    }
}

/// What stands behind the path.
fn remark(change: &Difference, below: Option<u64>) -> String {
    let size = |node: &Option<Node>| node.as_ref().filter(|n| matches!(n.kind, Kind::File(_))).map(|n| units::size(n.size()));
    let mut parts: Vec<String> = change.reasons.iter().map(|reason| (*reason).to_owned()).collect();
    match (size(&change.before), size(&change.after)) {
        (Some(before), Some(after)) if before != after => parts.push(format!("{before} -> {after}")),
        (Some(size), None) | (None, Some(size)) => parts.push(size),
        _ => {}
    }
    parts.extend(below.map(|n| format!("with {} below it", units::counted(n, "entry", "entries"))));
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}
