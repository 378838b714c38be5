//! `restore --report`: what is on this machine after a restore and not in the snapshot, and the reverse.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use yester::Result;
use yester::jobs::buckets::ConfiguredBucket;
use yester::jobs::buckets::back::{BucketBack, ReplaceObject};
use yester::model::{Node, Snapshot, escape};
use yester::observe::{Action, Event, Observer};
use yester::repo::tree::TreeReader;
use yester::restore::RestoreRequest;
use yester::task::Task;

use crate::cli::context::Context;
use crate::cli::diff::{self, LiveTree};
use crate::cli::restore::set::{SetRestore, names};
use crate::cli::say::output::{JsonPath, Output};
use crate::cli::signals;

/// Compares what was restored with where it went to. What one of `others` leads to went elsewhere.
pub fn tell(context: &Context, trees: &TreeReader, request: &RestoreRequest, others: &[&str]) -> Result<()> {
    let single = request.sources.len() == 1 && request.target != Path::new("/");
    let mut compared = Vec::new();
    for (snapshot, path) in &request.sources {
        let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let (node, _) = trees.walk_to(&snapshot.root, &parts)?;
        let below: PathBuf = path.iter().map(|name| OsStr::from_bytes(name)).collect();
        let whole = path.is_empty() || single;
        // What is beside a single file is no matter of this restore.
        if node.directory().is_some() {
            let place = if whole { request.target.clone() } else { request.target.join(below) };
            compared.push((snapshot, node, place));
        }
    }
    for (snapshot, node, place) in &compared {
        head(context, snapshot, place.as_os_str().as_bytes())?;
        files(context, trees, node, place, others)?;
    }
    Ok(())
}

/// Compares all that a set's restore gave back with the snapshot.
pub fn tell_set(way: &SetRestore<'_>) -> Result<()> {
    let request = RestoreRequest { sources: vec![(way.snapshot.clone(), Vec::new())], target: way.args.target()? };
    tell(way.context, &way.reader, &request, &way.elsewhere())?;
    buckets(way)
}

/// Compares the buckets of a set with what they were.
fn buckets(way: &SetRestore<'_>) -> Result<()> {
    let (options, stop) = (way.context.bucket_options()?, signals::stop_flag()?);
    for bucket in &ConfiguredBucket::all(&way.buckets(), &options, &stop) {
        let keys = bucket.keys();
        head(way.context, &way.snapshot, keys.url.as_bytes())?;
        let found = FoundObjects { context: way.context, told: AtomicBool::new(false) };
        let back = BucketBack {
            bucket,
            trees: &way.reader,
            replace: ReplaceObject::IfChanged,
            delete: true,
            versions: false,
            dry_run: true,
            task: &Task::new(&found).stopped_by(&stop),
        };
        let (top, _) = way.reader.walk_to(&way.snapshot.root, &names(keys.at.as_bytes()))?;
        back.run(&top)?;
        if !found.told.load(Ordering::Relaxed) && !way.context.global.json && !way.context.global.quiet {
            let mut out = Output::new();
            out.line("nothing differs")?;
            out.finish()?;
        }
    }
    Ok(())
}

fn head(context: &Context, snapshot: &Snapshot, place: &[u8]) -> Result<()> {
    if context.global.json || context.global.quiet {
        return Ok(());
    }
    let mut out = Output::new();
    out.line(&format!("{} and snapshot {} (+ only here, - only in the snapshot):", escape(place), snapshot.id.short()))?;
    out.finish()
}

fn files(context: &Context, trees: &TreeReader, node: &Node, place: &Path, others: &[&str]) -> Result<()> {
    let others = others.iter().map(|at| at.as_bytes()).collect();
    diff::tell_live(context, trees, LiveTree { node, place, others })
}

#[derive(Serialize)]
struct ObjectFound {
    message_type: &'static str,
    action: &'static str,
    #[serde(flatten)]
    path: JsonPath,
}

/// Prints objects that are only in the bucket, or only in the snapshot.
struct FoundObjects<'a> {
    context: &'a Context,
    told: AtomicBool,
}

impl Observer for FoundObjects<'_> {
    fn event(&self, event: &Event<'_>) {
        let Event::Entry { action, path, .. } = event else { return };
        let (sign, word) = match action {
            Action::Removed => ("+", "added"),
            Action::New => ("-", "removed"),
            // One that was written in parts has another ETag than before, though its content is the same.
            _ => return,
        };
        self.told.store(true, Ordering::Relaxed);
        let mut out = Output::new();
        // What cannot be printed is not: the command ends with the error of its next line.
        let _ = match self.context.global.json {
            true => out.json(&ObjectFound { message_type: "change", action: word, path: JsonPath::new(path) }),
            false => out.line(&format!("{sign} {}", escape(path))),
        };
        let _ = out.finish();
    }

    fn wants_entries(&self) -> bool {
        true
    }
}
