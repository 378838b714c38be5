//! `rewrite`: snapshots anew, without some paths, under another host, or at another time.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde::Serialize;
use yester::copy::edit::{SnapshotEdit, SnapshotEditor, dropped};
use yester::copy::untie::untie;
use yester::maintain::forget::{self, ForgetOptions};
use yester::model::{Annotation, Remarks, Snapshot, SnapshotId, Timestamp};
use yester::repo::{Repository, annotations, snapshots};
use yester::task::Task;
use yester::{Error, Result};

use crate::cli::annotate::blank;
use crate::cli::context::{self, Context};
use crate::cli::given::patterns::{self, PatternRoots};
use crate::cli::given::select::{self, Filters};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::signals;

/// Make snapshots anew without some paths, or under another host
///
/// For a secret that got in, or a host that has another name. New snapshots are made; the old ones stay until they are
/// forgotten. With --forget and then prune --max-unused 0 nothing is left of what was dropped, unless another snapshot has it.
#[derive(Debug, Args)]
#[command(after_help = patterns::RULES)]
pub struct SnapshotRewriteArgs {
    /// Snapshots: latest, a time, an id … [default: all that pass the filters]
    #[arg(value_name = "SNAP")]
    names: Vec<String>,
    /// Drop what matches this pattern (may be repeated)
    #[arg(short = 'e', long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The new name of the host
    #[arg(long, value_name = "HOST")]
    new_host: Option<OsString>,
    /// The new time of the snapshot: for one snapshot
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    new_time: Option<Timestamp>,
    /// Forget the old snapshots
    #[arg(long)]
    forget: bool,
    /// Only say what would be dropped
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Serialize)]
struct JsonRewrittenSnapshot {
    message_type: &'static str,
    snapshot_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_id: Option<String>,
    entries_dropped: u64,
}

#[derive(Serialize)]
struct JsonRewriteSum {
    message_type: &'static str,
    dry_run: bool,
    snapshots_rewritten: usize,
    snapshots_unchanged: usize,
    snapshots_forgotten: usize,
    chunks_untied: u64,
}

/// What is asked to be changed.
fn edit(args: &SnapshotRewriteArgs) -> Result<SnapshotEdit> {
    if args.exclude.is_empty() && args.new_host.is_none() && args.new_time.is_none() {
        let text = "nothing to change: give --exclude, --new-host or --new-time (see: yester rewrite --help)";
        return Err(Error::invalid(text));
    }
    let renames = args.new_host.is_some() || args.new_time.is_some();
    if renames && args.names.is_empty() && args.filters.is_empty() {
        let text = "which snapshots? name them, or give --host, --tag or --path (see: yester rewrite --help)";
        return Err(Error::invalid(text));
    }
    let host = args.new_host.as_ref().map(|host| host.as_bytes().to_vec());
    SnapshotEdit::new(PatternRoots::new().all(&args.exclude)?, host, args.new_time)
}

/// Rewrites.
pub fn run(context: &Context, args: &SnapshotRewriteArgs) -> Result<Outcome> {
    let edit = edit(args)?;
    let repo = context.open_for(!args.dry_run)?;
    let chosen = select::chosen(context, &repo, &args.names, &args.filters)?;
    if args.new_time.is_some() && chosen.len() > 1 {
        return Err(Error::invalid(format!("--new-time is for one snapshot, and these are {}", chosen.len())));
    }
    let remarks = snapshots::find_all(&repo)?.remarks;
    let trees = context::trees(&repo)?;
    trees.chunks().snapshots_listed();
    let (stop, display) = (signals::stop_flag()?, Display::new(&context.global));
    let task = Task::new(&display).stopped_by(&stop);
    let editor = SnapshotEditor::new(&repo, &trees, &task);
    let mut printer = RewritePrinter { context, dropped: false };
    let mut done: Vec<SnapshotId> = Vec::new();
    for snapshot in &chosen {
        let count = dropped(&trees, snapshot, &edit, &mut |path, node| {
            printer.dropped = true;
            printer.entry(&display, path, node.directory().is_some())
        })?;
        if count == 0 && !edit.renames(snapshot) {
            continue;
        }
        let new = if args.dry_run { None } else { Some(editor.edit(snapshot, &edit)?) };
        if let Some(new) = &new {
            carry_over(&repo, remarks.get(&snapshot.id), new.id)?;
        }
        done.push(snapshot.id);
        printer.snapshot(&display, snapshot, new.as_ref(), count)?;
    }
    for pattern in edit.unmatched() {
        note(&format!("yester: warning: the pattern {pattern} matches nothing in these snapshots"));
    }
    let going: HashSet<SnapshotId> = done.iter().copied().collect();
    let untied = match printer.dropped && !args.dry_run {
        true => untie(&repo, &going, &task)?,
        false => 0,
    };
    let forgotten = match args.forget && !args.dry_run {
        true => forget::forget(&repo, &done, &ForgetOptions { why: b"rewritten".to_vec(), grace: 0 }, &task)?,
        false => Vec::new(),
    };
    display.finish();
    summary(context, args, (chosen.len(), done.len(), forgotten.len()), untied)?;
    match args.forget && !args.dry_run && forgotten.len() < done.len() {
        true => {
            let left = units::counted((done.len() - forgotten.len()) as u64, "old snapshot", "old snapshots");
            Ok(Outcome::Partial(format!("{left} could not be forgotten")))
        }
        false => Ok(Outcome::Done),
    }
}

/// The note and the pin of the old snapshot are those of the new one.
fn carry_over(repo: &Repository, remarks: Option<&Remarks>, new: SnapshotId) -> Result<()> {
    let Some(remarks) = remarks.filter(|remarks| !remarks.note.is_empty() || remarks.pin.holds(context::now())) else {
        return Ok(());
    };
    let note = (!remarks.note.is_empty()).then(|| remarks.note.clone());
    let pin = remarks.pin.holds(context::now()).then_some(remarks.pin);
    annotations::write(repo, &annotations::read_all(repo)?, &Annotation { note, pin, ..blank(new) })
}

struct RewritePrinter<'a> {
    context: &'a Context,
    dropped: bool,
}

impl RewritePrinter<'_> {
    /// What is dropped, where a user wants to see it.
    fn entry(&self, display: &Display, path: &[u8], directory: bool) -> Result<()> {
        if self.context.global.json || self.context.global.verbose == 0 {
            return Ok(());
        }
        display.finish();
        let mut out = Output::new();
        let end: &[u8] = if directory { b"/\n" } else { b"\n" };
        let line = [&b"- "[..], &out.name(path), end].concat();
        out.bytes(&line)?;
        out.finish()?;
        display.resume();
        Ok(())
    }

    fn snapshot(&self, display: &Display, old: &Snapshot, new: Option<&Snapshot>, count: u64) -> Result<()> {
        display.finish();
        let mut out = Output::new();
        if self.context.global.json {
            out.json(&JsonRewrittenSnapshot {
                message_type: "rewritten",
                snapshot_id: old.id.to_string(),
                new_id: new.map(|new| new.id.to_string()),
                entries_dropped: count,
            })?;
        } else if !self.context.global.quiet {
            let entries = units::counted(count, "entry", "entries");
            let name = select::described(old);
            match new {
                Some(new) => out.line(&format!("snapshot {name}: now {}, without {entries}", new.id.short()))?,
                None => out.line(&format!("snapshot {name}: would lose {entries}"))?,
            }
        }
        out.finish()?;
        display.resume();
        Ok(())
    }
}

fn summary(
    context: &Context,
    args: &SnapshotRewriteArgs,
    (all, done, forgotten): (usize, usize, usize),
    untied: u64,
) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        out.json(&JsonRewriteSum {
            message_type: "summary",
            dry_run: args.dry_run,
            snapshots_rewritten: done,
            snapshots_unchanged: all - done,
            snapshots_forgotten: forgotten,
            chunks_untied: untied,
        })?;
    } else if !context.global.quiet {
        let rewritten = units::counted(done as u64, "snapshot", "snapshots");
        let verb = if args.dry_run { "would be rewritten" } else { "rewritten" };
        let next = match (args.dry_run || done == 0, args.forget) {
            (true, _) => "",
            (false, true) => "; the old ones are forgotten, and yester prune --max-unused 0 deletes what only they had",
            (false, false) => "; the old ones are still there (yester forget ID)",
        };
        out.line(&format!("{rewritten} {verb}, {} as they were{next}", all - done))?;
    }
    out.finish()
}
