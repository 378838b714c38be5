//! `ingest`: takes a snapshot.

pub mod inputs;
pub mod set;
pub mod streams;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Serialize;
use yester::chunk::codec::Compression;
use yester::chunk::one_way::only_writes;
use yester::ingest::{Exclude, IngestOptions, IngestReport, Input, Parent, ingest_all};
use yester::jobs::config::keys::BucketKeys;
use yester::jobs::runs;
use yester::jobs::units::parse_compression;
use yester::jobs::volumes::{self, VolumeMethod};
use yester::model::{Run, Timestamp, escape};
use yester::observe::Observer;
use yester::repo::Repository;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::given::patterns::PatternRoots;
use crate::cli::given::{configured, select};
use crate::cli::ingest::streams::StreamArgs;
use crate::cli::restore::buckets;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::parts::{self, JsonPart};
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::{gone, init, signals};

/// Take a snapshot of files and directories
///
/// Without --repo, the first run makes the user's own repository and its key file, and says where.
#[derive(Debug, Args)]
#[command(after_long_help = crate::cli::given::patterns::RULES)]
pub struct IngestArgs {
    /// What to take a snapshot of
    #[arg(value_name = "PATH", required_unless_present_any = ["files_from", "files_from0", "stdin", "stream", "stdin_from_command", "stdin_filename", "command", "set", "bucket"])]
    sources: Vec<PathBuf>,
    /// Ingest this set of the configuration file
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Take part with the set in this group (see: yester group)
    #[arg(long, value_name = "GROUP", requires = "set", hide_short_help = true, conflicts_with_all = ["dry_run", "skip_if_unchanged"])]
    pub group: Option<String>,
    /// The member of the group that this is [default: the host of the set]
    #[arg(long, value_name = "NAME", requires = "group", hide_short_help = true)]
    pub member: Option<String>,
    /// Store the objects of a bucket as files below AT (may be repeated)
    #[arg(long, value_name = "AT=URL")]
    pub bucket: Vec<String>,
    /// Store all versions of their objects, and delete markers
    #[arg(long, requires = "bucket", hide_short_help = true)]
    bucket_versions: bool,
    #[command(flatten)]
    streams: StreamArgs,
    /// Store the one given path under this name
    #[arg(long = "as", value_name = "PATH")]
    stored_as: Option<PathBuf>,
    /// Take more paths from this file, one a line (-: standard input)
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// The same, each path ended by NUL
    #[arg(long, value_name = "FILE")]
    files_from0: Vec<PathBuf>,
    /// Tags of the snapshot (may be repeated)
    #[arg(long = "tag", value_name = "TAG[,TAG…]")]
    tags: Vec<OsString>,
    /// The host it is of [default: this one]
    #[arg(short = 'H', long, value_name = "HOST", value_parser = OsStringValueParser::new().try_map(named))]
    host: Option<OsString>,
    /// The time it stands for [default: now]
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    time: Option<Timestamp>,
    /// Take unchanged files from it [default: newest of its series]
    #[arg(long, value_name = "SNAP", conflicts_with = "force")]
    parent: Option<String>,
    /// Read every file, whatever the last snapshot holds
    #[arg(short, long)]
    force: bool,
    /// Write no snapshot when nothing differs from the parent
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Do not compare inode numbers
    #[arg(long)]
    ignore_inode: bool,
    /// Do not compare inode change times
    #[arg(long)]
    ignore_ctime: bool,
    /// Read holes as the zeros they stand for
    #[arg(long)]
    no_holes: bool,
    /// Do not count ahead what there is: progress may have no percentage
    #[arg(long)]
    no_scan: bool,
    /// Read file system snapshots: auto, btrfs, lvm, zfs or off [default: off]
    #[arg(long, value_name = "HOW")]
    source_snapshot: Option<VolumeMethod>,
    /// auto, off, fastest, or a level of zstd from 1 to 19 [default: auto]
    #[arg(long, value_name = "HOW", value_parser = parse_compression)]
    compression: Option<Compression>,
    /// What matches this pattern may change while it is read
    #[arg(long, value_name = "PATTERN")]
    changed_is_ok: Vec<String>,
    /// Files that are read at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    read_concurrency: u16,
    /// Only say what would be stored
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    exclude: ExcludeArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What to leave out")]
struct ExcludeArgs {
    /// Leave out what matches this pattern; one with ! in front takes back
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The same, whatever the case of letters
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Take patterns from this file, one a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what is in directories marked as caches (CACHEDIR.TAG)
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out directories that hold this file (which begins with HEADER)
    #[arg(long, value_name = "NAME[:HEADER]")]
    exclude_if_present: Vec<String>,
    /// Leave out files larger than this, as in 10M
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    exclude_larger_than: Option<u64>,
    /// Leave out extended attributes whose names match this pattern, as in user.*
    #[arg(long, value_name = "PATTERN")]
    exclude_xattr: Vec<String>,
    /// Stay on the file systems of the given paths
    #[arg(short = 'x', long)]
    one_file_system: bool,
}

/// Takes a snapshot.
pub fn run(context: &Context, args: &IngestArgs) -> Result<Outcome> {
    let began = Instant::now();
    if let Some(name) = &args.set {
        return set::ingest(context, args, name, context.set(name)?, began);
    }
    let (stop, display) = (signals::stop_flag()?, Arc::new(Display::new(&context.global)));
    let (mut inputs, mut options) = (args.inputs()?, args.options()?);
    let observer: Arc<dyn Observer> = display.clone();
    options.volumes = volumes::hook(args.source_snapshot(None), options.exclude.one_file_system, &observer, &stop);
    inputs.extend(configured::buckets(&args.buckets()?, context, &stop)?);
    inputs::require_one(&inputs)?;
    let task = Task::new(&*display).stopped_by(&stop);
    let report = take(context, args, &inputs, options, &task, &OnceLock::new(), &|| {
        if !args.dry_run {
            context.announce(&display, &runs::begin(Run::INGEST));
        }
    })?;
    display.finish();
    tell(context, args, &report, began)?;
    Ok(outcome(&report))
}

/// A host has a name.
fn named(host: OsString) -> Result<OsString, &'static str> {
    if host.is_empty() { Err("a host has a name") } else { Ok(host) }
}

/// Opens the repository, which is then in `opened`, says so by `begins`, and takes the snapshot.
pub fn take(
    context: &Context,
    args: &IngestArgs,
    inputs: &[Arc<dyn Input>],
    mut options: IngestOptions,
    task: &Task<'_>,
    opened: &OnceLock<Arc<Repository>>,
    begins: &dyn Fn(),
) -> Result<IngestReport> {
    yester::ingest::check(inputs, &options)?;
    let open = || if args.dry_run { context.open_to_write() } else { init::open_or_make(context) };
    let repo = opened.get().cloned().map_or_else(open, Ok)?;
    let _ = opened.set(repo.clone());
    begins();
    if !repo.only_writes() {
        options.gone = gone::warn(context, &repo)?;
    }
    if let Some(name) = &args.parent {
        if repo.only_writes() {
            return Err(only_writes("read a parent"));
        }
        options.parent = Parent::Id(select::snapshot(context, &repo, name, &select::Filters::default())?.id);
    }
    options.never = never(context, &repo)?;
    options.state = context.places.state().map(std::path::Path::to_owned);
    let report = ingest_all(&repo, inputs, &options, task);
    let report = report.map_err(|e| interrupted(e, args.dry_run))?;
    if report.committed && !repo.only_writes() {
        gone::remember(context, &repo, report.snapshot.id);
    }
    Ok(report)
}

/// Says what was done. Nothing else may write to standard output by now.
pub fn tell(context: &Context, args: &IngestArgs, report: &IngestReport, began: Instant) -> Result<()> {
    if context.global.verbose > 0 || args.dry_run && !context.global.quiet && !context.global.json {
        report.unmatched.iter().for_each(|pattern| note(&format!("yester: note: nothing matches the pattern {pattern}")));
    }
    let mut out = Output::new();
    if context.global.json {
        out.json(&summary(report, began.elapsed(), args.dry_run))?;
    } else if !context.global.quiet {
        out.line(&text(report, began.elapsed(), args.dry_run))?;
    }
    out.finish()
}

/// What there is to know when it was stopped.
fn interrupted(error: Error, dry_run: bool) -> Error {
    match error.kind() {
        ErrorKind::Interrupted if dry_run => Error::new(ErrorKind::Interrupted, "interrupted: nothing was to be saved"),
        ErrorKind::Interrupted => Error::new(
            ErrorKind::Interrupted,
            "interrupted: no snapshot was saved, but what was stored until now is kept: the same command, run again before \
             the next prune, goes on from there",
        ),
        _ => error,
    }
}

/// What must never be ingested: the repository and the cache. State and configuration are the user's files.
fn never(context: &Context, repo: &Repository) -> Result<Vec<PathBuf>> {
    let mut never: Vec<PathBuf> = context.place()?.local().map(std::path::Path::to_owned).into_iter().collect();
    never.extend(context.cache(repo.id()));
    for at in 0..never.len() {
        // The walk meets directories under their real names.
        if let Some(real) = never.get(at).and_then(|path| path.canonicalize().ok()).filter(|real| !never.contains(real)) {
            never.push(real);
        }
    }
    Ok(never)
}

impl IngestArgs {
    /// The set that it is of.
    pub fn set(&self) -> Option<&str> {
        self.set.as_deref()
    }

    /// Whether the host and the compression were given.
    pub fn gives(&self) -> (bool, bool) {
        (self.host.is_some(), self.compression.is_some())
    }

    /// From what snapshots of file systems it is read: as it was typed, else as a set says.
    pub fn source_snapshot(&self, of_set: Option<&str>) -> VolumeMethod {
        self.source_snapshot.or_else(|| of_set?.parse().ok()).unwrap_or_default()
    }

    /// The buckets that were given.
    pub fn buckets(&self) -> Result<Vec<BucketKeys>> {
        let mut buckets = buckets::named(&self.bucket)?;
        buckets.iter_mut().for_each(|bucket| bucket.versions = self.bucket_versions);
        Ok(buckets)
    }

    /// What was given beside a set.
    pub fn inputs(&self) -> Result<Vec<Arc<dyn Input>>> {
        let (paths, stream) = self.streams.parted(&self.sources)?;
        let mut given = paths;
        for list in &self.files_from {
            given.extend(inputs::listed_paths(list, b'\n')?);
        }
        for list in &self.files_from0 {
            given.extend(inputs::listed_paths(list, 0)?);
        }
        let mut sources = inputs::sources(given)?;
        if let Some(name) = &self.stored_as {
            inputs::rename(&mut sources, name)?;
        }
        let paths = sources.into_iter().map(|source| Arc::new(source) as Arc<dyn Input>);
        Ok(paths.chain(stream.map(|stream| Arc::new(stream) as Arc<dyn Input>)).collect())
    }

    /// How it is ingested, as far as it was typed.
    pub fn options(&self) -> Result<IngestOptions> {
        let default = IngestOptions::default();
        let mut tags: Vec<Vec<u8>> = self.tags.iter().flat_map(|list| select::tags(list)).collect();
        tags.sort_unstable();
        tags.dedup();
        Ok(IngestOptions {
            host: self.host.as_ref().map_or(default.host.clone(), |host| host.as_bytes().to_vec()),
            tags,
            time: self.time,
            parent: if self.force { Parent::None } else { Parent::Auto },
            exclude: self.exclude.options()?,
            ignore_inode: self.ignore_inode,
            ignore_ctime: self.ignore_ctime,
            no_holes: self.no_holes,
            compression: self.compression.unwrap_or(default.compression),
            readers: usize::from(self.read_concurrency),
            skip_if_unchanged: self.skip_if_unchanged,
            count_ahead: !self.no_scan,
            dry_run: self.dry_run,
            changed_is_ok: PatternRoots::new().all(&self.changed_is_ok)?,
            ..default
        })
    }
}

impl ExcludeArgs {
    fn options(&self) -> Result<Exclude> {
        let bases = PatternRoots::new();
        // What is typed can take back what files say: of those that match the last one counts.
        let mut patterns = Vec::new();
        for file in &self.exclude_file {
            patterns.extend(bases.all(&inputs::patterns(file)?)?);
        }
        patterns.extend(bases.all(&self.exclude)?);
        Ok(Exclude {
            patterns,
            patterns_ignore_case: bases.all(&self.iexclude)?,
            xattrs: self.exclude_xattr.clone(),
            caches: self.exclude_caches,
            if_present: self.exclude_if_present.clone(),
            larger_than: self.exclude_larger_than,
            one_file_system: self.one_file_system,
        })
    }
}

/// How it ended.
pub fn outcome(report: &IngestReport) -> Outcome {
    if report.is_complete() {
        return Outcome::Done;
    }
    let mut missing = Vec::new();
    if report.missing_sources > 0 {
        missing.push(
            units::counted(report.missing_sources as u64, "given path is", "given paths are") + " not there or cannot be stored",
        );
    }
    let failed: Vec<_> = parts::failed(&report.snapshot).collect();
    missing.extend(failed.iter().map(|part| format!("{} failed", escape(&part.path))));
    // These are errors, too.
    let told = failed.len() as u64 + report.missing_sources as u64;
    let errors = report.snapshot.statistics.errors.saturating_sub(told);
    if errors > 0 {
        missing.push(units::counted(errors, "entry could not be read as it was", "entries could not be read as they were"));
    }
    Outcome::Partial(format!("the snapshot is not complete: {}", missing.join(", ")))
}

/// The last line.
fn text(report: &IngestReport, time: Duration, dry_run: bool) -> String {
    let s = &report.snapshot.statistics;
    if !report.committed && !dry_run {
        let parent = report.snapshot.parent.map(|p| format!(" since snapshot {}", p.short())).unwrap_or_default();
        return format!("nothing changed{parent}: no snapshot saved, in {}", units::duration(time));
    }
    let files = [(s.files_new, "new"), (s.files_changed, "changed"), (s.files_unchanged, "unchanged")];
    let files: Vec<String> = files.iter().map(|(n, what)| format!("{} {what}", units::count(*n))).collect();
    // What small files hold stands in the trees, and is no data of its own.
    let new = if s.bytes_new > 0 { format!(" ({} of new data)", units::size(s.bytes_new)) } else { String::new() };
    let bytes = format!("{} stored{new}", units::size(s.bytes_stored));
    let what =
        if dry_run { "dry run, nothing saved".to_owned() } else { format!("snapshot {} saved", report.snapshot.id.short()) };
    let frozen = match report.snapshot.composition.frozen {
        0 => String::new(),
        time => format!(", frozen for {}", units::duration(Duration::from_millis(time))),
    };
    format!("{what}: {} files; {bytes} in {}{frozen}", files.join(", "), units::duration(time))
}

/// Names and units are restic's where it has the same thing.
#[derive(Serialize)]
struct IngestSummary {
    message_type: &'static str,
    dry_run: bool,
    committed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    hostname: String,
    files_new: u64,
    files_changed: u64,
    files_unmodified: u64,
    total_files_processed: u64,
    total_directories_processed: u64,
    total_bytes_processed: u64,
    data_added: u64,
    data_added_packed: u64,
    missing_sources: usize,
    errors: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<JsonPart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unmatched_patterns: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signs: Vec<&'static str>,
    backup_start: String,
    backup_end: String,
    total_duration: f64,
}

fn summary(report: &IngestReport, time: Duration, dry_run: bool) -> IngestSummary {
    let snapshot = &report.snapshot;
    let s = &snapshot.statistics;
    IngestSummary {
        message_type: "summary",
        dry_run,
        committed: report.committed,
        snapshot_id: report.committed.then(|| snapshot.id.to_string()),
        parent: snapshot.parent.map(|p| p.to_string()),
        hostname: escape(&snapshot.host),
        files_new: s.files_new,
        files_changed: s.files_changed,
        files_unmodified: s.files_unchanged,
        total_files_processed: s.files,
        total_directories_processed: s.directories,
        total_bytes_processed: s.bytes,
        data_added: s.bytes_new,
        data_added_packed: s.bytes_stored,
        missing_sources: report.missing_sources,
        errors: s.errors,
        parts: parts::json(snapshot),
        unmatched_patterns: report.unmatched.clone(),
        signs: report.signs.iter().map(|sign| sign.code()).collect(),
        backup_start: units::utc_time(snapshot.scan_start),
        backup_end: units::utc_time(snapshot.finished),
        total_duration: time.as_secs_f64(),
    }
}
