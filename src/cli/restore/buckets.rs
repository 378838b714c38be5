//! `restore --set`: the buckets of a set, back to where they were.

use std::sync::Arc;

use serde::Serialize;
use yester::jobs::buckets::back::{BucketBack, BucketReport};
use yester::jobs::buckets::{ConfiguredBucket, unfit};
use yester::jobs::config::keys::BucketKeys;
use yester::jobs::hooks::HookRun;
use yester::jobs::runs::Logged;
use yester::model::escape;
use yester::observe::{Event, Observer};
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::restore::set::{SetRestore, names};
use crate::cli::say::output::Output;
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::{context, signals};

/// Gives buckets other locations: each a word `AT=URL`.
pub fn turn(buckets: &mut [BucketKeys], words: &[String]) -> Result<()> {
    for BucketKeys { at, url, .. } in named(words)? {
        let bucket = buckets.iter_mut().find(|bucket| bucket.at == at);
        let none = || Error::invalid(format!("--bucket: the set has no bucket at {}", escape(at.as_bytes())));
        bucket.ok_or_else(none)?.url = url;
    }
    Ok(())
}

/// The buckets that words `AT=URL` name.
pub fn named(words: &[String]) -> Result<Vec<BucketKeys>> {
    let bucket = |word: &String| {
        let (at, url) = word.split_once('=').ok_or_else(|| Error::invalid("--bucket is written AT=URL"))?;
        let keys = BucketKeys { at: at.to_owned(), url: url.to_owned(), ..BucketKeys::default() };
        unfit(&keys).map_err(|e| e.context(format!("--bucket {}", escape(at.as_bytes()))))?;
        Ok(keys)
    };
    words.iter().map(bucket).collect()
}

/// Puts the buckets back that are wanted. Gives what failed: nothing comes after it.
pub fn run(way: &SetRestore<'_>, display: &Display, logged: &Arc<Logged>, steps: &mut Vec<HookRun>) -> Result<Option<String>> {
    let buckets = way.buckets();
    if buckets.is_empty() {
        return Ok(None);
    }
    let options = way.context.bucket_options()?;
    let stop = signals::stop_flag()?;
    for bucket in &ConfiguredBucket::all(&buckets, &options, &stop) {
        let (keys, started) = (bucket.keys(), context::now());
        let back = BucketBack {
            bucket,
            trees: &way.reader,
            replace: way.args.replace_objects(),
            delete: way.args.delete_objects,
            versions: way.args.object_versions,
            dry_run: way.args.dry_run,
            task: &Task::new(&**logged).stopped_by(&stop),
        };
        let top = way.reader.walk_to(&way.snapshot.root, &names(keys.at.as_bytes()));
        let result = top.and_then(|(top, _)| back.run(&top));
        let failure = match &result {
            Ok(report) if report.failed == 0 => None,
            Ok(report) => Some(units::counted(report.failed, "object", "objects") + " could not be restored"),
            Err(e) if e.kind() == ErrorKind::Interrupted => return result.map(|_| None),
            Err(e) => Some(e.to_string()),
        };
        if let Ok(report) = &result {
            let text = text(keys, report, way.args.dry_run) + &bucket.waits();
            logged.event(&Event::Note { subject: keys.at.as_bytes(), message: &text });
            tell(way, display, keys, report)?;
        }
        steps.push(HookRun { name: keys.at.clone(), started, finished: context::now(), failure: failure.clone() });
        if let Some(failure) = failure {
            return Ok(Some(format!("bucket {}: {failure}; what comes after it was not run", escape(keys.at.as_bytes()))));
        }
    }
    Ok(None)
}

/// What was done, in words.
fn text(keys: &BucketKeys, report: &BucketReport, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let made = if report.made { format!("{would}made, ") } else { String::new() };
    let counts =
        [(report.markers, "delete markers"), (report.unchanged, "unchanged"), (report.kept, "kept"), (report.deleted, "deleted")];
    let counts: String =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {} {what}", units::count(*n))).collect();
    let put = units::counted(report.put, "object", "objects");
    format!("{}: {made}{put} ({}) {would}put{counts}", escape(keys.url.as_bytes()), units::size(report.bytes))
}

#[derive(Serialize)]
struct BucketLine<'a> {
    message_type: &'static str,
    path: &'a str,
    url: &'a str,
    dry_run: bool,
    made: bool,
    objects_put: u64,
    markers_put: u64,
    bytes_put: u64,
    objects_unchanged: u64,
    objects_kept: u64,
    objects_deleted: u64,
    errors: u64,
}

fn tell(way: &SetRestore<'_>, display: &Display, keys: &BucketKeys, report: &BucketReport) -> Result<()> {
    if !way.context.global.json {
        return Ok(());
    }
    display.finish();
    let mut out = Output::new();
    out.json(&BucketLine {
        message_type: "bucket",
        path: &keys.at,
        url: &keys.url,
        dry_run: way.args.dry_run,
        made: report.made,
        objects_put: report.put,
        markers_put: report.markers,
        bytes_put: report.bytes,
        objects_unchanged: report.unchanged,
        objects_kept: report.kept,
        objects_deleted: report.deleted,
        errors: report.failed,
    })?;
    out.finish()
}
