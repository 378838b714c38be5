//! `restore`: snapshots, directories or files of them back to where they are needed.

pub mod buckets;
pub mod next_steps;
pub mod plan;
pub mod report;
pub mod rewrites;
pub mod set;
pub mod staged;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;
use yester::jobs::buckets::back::ReplaceObject;
use yester::jobs::guards::{self, ServiceGuard};
use yester::jobs::rewrites as jobs_rewrites;
use yester::jobs::runs;
use yester::model::Run;
use yester::repo::Repository;
use yester::repo::tree::TreeReader;
use yester::restore::danger::{Confirm, Deletion};
use yester::restore::spare::DeleteAlso;
use yester::restore::{Overwrite, RestoreOptions, RestoreReport, RestoreRequest, restore};
use yester::task::Task;
use yester::{Error, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::patterns::PatternRoots;
use crate::cli::given::select::{Chooser, Filters, Spec};
use crate::cli::restore::rewrites::RewriteArgs;
use crate::cli::restore::staged::StagedArgs;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;
use crate::cli::say::progress::Display;
use crate::cli::say::{paths, progress, units};
use crate::cli::{gone, signals};

/// Copy snapshots, directories or files of them back
///
/// A whole snapshot, or several SNAP:PATH, go to DIR/<absolute path>; the content of one SNAP:DIRECTORY goes into DIR, and
/// so does one SNAP:FILE. With --target / everything comes back to where it was. What is in DIR stays unless it is in the
/// way.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Which snapshots, and what of them
    #[arg(value_name = "SNAP[:PATH]", required_unless_present_any = ["set", "rollback", "discard_old"])]
    pub specs: Vec<OsString>,
    /// The directory to restore to, made if it is missing (/: in place)
    #[arg(short, long, value_name = "DIR", required_unless_present_any = ["set", "plan"])]
    pub target: Option<PathBuf>,
    /// Restore a set: paths, buckets, streams, steps [default target: /]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["include", "exclude", "delete"])]
    set: Option<String>,
    /// Only these paths, stream or bucket of the set (may be repeated)
    #[arg(long, value_name = "PART", requires = "set")]
    pub part: Vec<String>,
    /// Put the set's bucket AT into this one instead (may be repeated)
    #[arg(long, value_name = "AT=URL", requires = "set")]
    pub bucket: Vec<String>,
    /// Delete objects of the set's buckets that are not in the snapshot
    #[arg(long, requires = "set")]
    pub delete_objects: bool,
    /// Put all versions of the set's objects back, in their order
    #[arg(long, requires = "set")]
    pub object_versions: bool,
    /// When an entry that is there already is replaced
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ReplaceWhen::IfChanged)]
    overwrite: ReplaceWhen,
    /// Remove what is in the restored directories and not in the snapshot
    ///
    /// Never removed is what the snapshot could not have had: what was excluded, what is in directories that could not be
    /// read whole, and what is on a file system that is mounted inside.
    #[arg(long)]
    delete: bool,
    /// Let --delete also remove what the snapshot could not have had
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',', requires = "delete")]
    delete_also: Vec<Also>,
    /// Remove N entries though that is more than are restored
    #[arg(long, value_name = "N", requires = "delete")]
    unsafe_delete: Option<u64>,
    /// Restore only what matches this pattern
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out what matches this pattern
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Read every written file back and compare it
    #[arg(long)]
    verify: bool,
    /// Take owners by number and not by name
    #[arg(long)]
    numeric_ids: bool,
    /// End with 3 when owners cannot be set (as by others than root)
    #[arg(long)]
    require_owners: bool,
    /// Leave attributes alone whose names match this (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    exclude_xattr: Vec<String>,
    /// Write only what differs into files that are there; a restore that is killed leaves them half old, half new
    #[arg(long)]
    in_place: bool,
    /// Begin though there seems to be too little room
    #[arg(long)]
    no_space_check: bool,
    /// Refuse (exit code 13) while this is alive: tcp://HOST:PORT, unix:PATH, pidfile:PATH, unit:NAME, mounted:PATH, busy:PATH
    #[arg(long, value_name = "GUARD")]
    pub refuse_while: Vec<ServiceGuard>,
    /// Restore though this guard of --refuse-while is alive
    #[arg(long, value_name = "GUARD")]
    pub even_while_alive: Vec<ServiceGuard>,
    #[command(flatten)]
    pub staged: StagedArgs,
    #[command(flatten)]
    pub rewrites: RewriteArgs,
    /// Only print what is left for a person to do after that of a set
    #[arg(long, requires = "set", conflicts_with_all = ["rollback", "discard_old"], hide_short_help = true)]
    pub next_steps: bool,
    /// Then list what is there and not in the snapshot, and the reverse
    #[arg(long, conflicts_with_all = ["dry_run", "plan", "next_steps", "rollback", "discard_old", "part"])]
    pub report: bool,
    /// Make everything durable before the end
    #[arg(long)]
    sync: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Only say what would be read, and what has to be thawed first
    #[arg(long, conflicts_with_all = ["set", "include", "exclude", "dry_run", "delete", "rollback", "discard_old"])]
    plan: bool,
    #[command(flatten)]
    pub filters: Filters,
}

/// When what is there already is replaced.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReplaceWhen {
    /// When its size or time differs
    IfChanged,
    /// When its content differs, whatever its size and time say
    Always,
    /// When the snapshot's is newer
    IfNewer,
    /// Never
    Never,
}

/// What `--delete` also removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Also {
    /// What was excluded when the snapshot was taken
    Excluded,
    /// What is in directories that could not be read whole
    Unread,
    /// What is on file systems that are mounted inside
    Mounted,
}

/// Restores.
pub fn run(context: &Context, args: &RestoreArgs) -> Result<Outcome> {
    let began = Instant::now();
    if args.staged.is_later() {
        return staged::later(context, args);
    }
    if let Some(name) = &args.set {
        return set::run(context, args, name, None);
    }
    if args.plan {
        return plan::run(context, args);
    }
    let run = runs::begin(Run::RESTORE);
    guards::ask(&args.refuse_while, &args.even_while_alive)?;
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let reader = Arc::new(context::trees(&repo)?);
    let request = RestoreRequest { sources: sources(context, &repo, &reader, args)?, target: args.target()? };
    let (stop, mut options) = (signals::stop_flag()?, args.options(context)?);
    if let Some((snapshot, _)) = request.sources.first() {
        args.rewrites.apply(None, snapshot, true, &mut options)?;
    }
    let display = Arc::new(Display::new(&context.global));
    if !args.dry_run {
        context.announce(&display, &run);
    }
    options.confirm = confirm(&display);
    let task = Task::new(&*display).stopped_by(&stop);
    let report = match args.staged.staged {
        true => staged::at_once(&reader, &request, &options, &task),
        false => staged::settle(&request, &options, &*display).and_then(|()| restore(&reader, &request, &options, &task)),
    };
    display.finish();
    // What was found damaged on the way. Without the right to write it is not recorded, which is no error.
    let _ = yester::repo::damaged::record(&repo, &reader.chunks().found(), "yester restore", context::now());
    if !args.dry_run {
        ended(&repo, run, &request, &options, report.as_ref());
    }
    let report = report?;
    rewrites::show(context, &options)?;
    tell(context, &report, began, args.dry_run)?;
    if args.report {
        report::tell(context, &reader, &request, &[])?;
    }
    Ok(outcome(&report))
}

/// Says what was done.
pub fn tell(context: &Context, report: &RestoreReport, began: Instant, dry_run: bool) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        out.json(&summary(report, began.elapsed(), dry_run))?;
    } else if !context.global.quiet {
        out.line(&text(report, began.elapsed(), dry_run))?;
    }
    out.finish()
}

/// Writes down how it ended; with read-only access nothing is written.
fn ended(
    repo: &Repository,
    mut run: Run,
    request: &RestoreRequest,
    options: &RestoreOptions,
    report: Result<&RestoreReport, &Error>,
) {
    if let Some((snapshot, _)) = request.sources.first() {
        run.snapshot = Some(snapshot.id);
        run.rewrites = jobs_rewrites::recorded(options, snapshot);
    }
    run.target = paths::bytes(&request.target).to_vec();
    match report {
        Ok(report) => {
            if let Outcome::Partial(text) = outcome(report) {
                (run.state, run.message) = (Run::INCOMPLETE, text.into_bytes());
            }
            (run.bytes, run.errors) = (report.bytes, report.errors);
        }
        Err(e) => runs::failed(&mut run, e),
    }
    let _ = runs::end(repo, run);
}

/// Asks on the terminal, where there is one.
pub fn confirm(display: &Arc<Display>) -> Option<Confirm> {
    let display = display.clone();
    let question = |deletion: &Deletion| format!("yester: {deletion}; go on?");
    progress::can_ask().then(|| Confirm::new(move |deletion| display.ask(&question(deletion))))
}

type Sources = Vec<(Arc<yester::model::Snapshot>, Vec<Vec<u8>>)>;

fn sources(context: &Context, repo: &Repository, trees: &TreeReader, args: &RestoreArgs) -> Result<Sources> {
    let chooser = Chooser::new(context, repo, &args.filters)?;
    let specs = args.specs.iter().map(|spec| Spec::parse(spec)).collect::<Result<Vec<_>>>()?;
    let source = |spec: &Spec| {
        let snapshot = chooser.with_path(trees, spec)?.clone();
        Ok((Arc::new(snapshot), spec.names().into_iter().map(<[u8]>::to_vec).collect()))
    };
    specs.iter().map(source).collect()
}

impl RestoreArgs {
    /// The set that it is of.
    pub fn set(&self) -> Option<&str> {
        self.set.as_deref()
    }

    /// Where to; a set goes back to where it was.
    pub fn target(&self) -> Result<PathBuf> {
        self.target.as_deref().map_or_else(|| Ok(PathBuf::from("/")), paths::absolute)
    }

    /// When an object that is there already is replaced.
    pub fn replace_objects(&self) -> ReplaceObject {
        match self.overwrite {
            ReplaceWhen::IfChanged => ReplaceObject::IfChanged,
            ReplaceWhen::Always => ReplaceObject::Always,
            ReplaceWhen::IfNewer => ReplaceObject::IfNewer,
            ReplaceWhen::Never => ReplaceObject::Never,
        }
    }

    /// How it is restored.
    pub fn options(&self, context: &Context) -> Result<RestoreOptions> {
        let overwrite = match self.overwrite {
            ReplaceWhen::IfChanged => Overwrite::IfChanged,
            ReplaceWhen::Always => Overwrite::Always,
            ReplaceWhen::IfNewer => Overwrite::IfNewer,
            ReplaceWhen::Never => Overwrite::Never,
        };
        let bases = PatternRoots::new();
        Ok(RestoreOptions {
            overwrite,
            delete: self.delete,
            delete_also: DeleteAlso {
                excluded: self.delete_also.contains(&Also::Excluded),
                unread: self.delete_also.contains(&Also::Unread),
                mounted: self.delete_also.contains(&Also::Mounted),
            },
            unsafe_delete: self.unsafe_delete,
            include: bases.all(&self.include)?,
            exclude: bases.all(&self.exclude)?,
            verify: self.verify,
            numeric_ids: self.numeric_ids,
            require_owners: self.require_owners,
            exclude_xattrs: self.exclude_xattr.clone(),
            in_place: self.in_place,
            no_space_check: self.no_space_check,
            sync: self.sync,
            dry_run: self.dry_run,
            forbidden: context.place()?.local().map(std::path::Path::to_owned).into_iter().chain(context.secrets()?).collect(),
            ..RestoreOptions::default()
        })
    }
}

/// How it ended.
pub fn outcome(report: &RestoreReport) -> Outcome {
    if report.is_complete() {
        return Outcome::Done;
    }
    let counts = [
        (report.errors.saturating_sub(report.unmatched), "entry", "entries", "could not be restored"),
        (report.unmatched, "pattern", "patterns", "matched nothing"),
        (report.warnings, "property", "properties", "could not be set"),
    ];
    let counts = counts.iter().filter(|(count, ..)| *count > 0);
    let lacks: Vec<String> =
        counts.map(|(count, one, many, what)| format!("{} {what}", units::counted(*count, one, many))).collect();
    Outcome::Partial(format!("the restore is not complete: {}", lacks.join(", ")))
}

/// The last line.
fn text(report: &RestoreReport, time: Duration, dry_run: bool) -> String {
    let made = [
        (report.files, "file", "files"),
        (report.directories, "directory", "directories"),
        (report.links, "hard link", "hard links"),
        (report.others, "other", "others"),
    ];
    let made: Vec<String> = made.iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| units::counted(*n, one, many)).collect();
    let made = if made.is_empty() { "nothing".to_owned() } else { made.join(", ") };
    let stayed = [
        (report.unchanged, "unchanged"),
        (report.metadata, "given metadata"),
        (report.kept, "kept"),
        (report.deleted, "deleted"),
        (report.spared, "not deleted"),
        (report.not_given, "without what only root may set"),
    ];
    let stayed: String =
        stayed.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {} {what}", units::count(*n))).collect();
    let what = if dry_run { "dry run, would restore" } else { "restored" };
    format!("{what} {made}{stayed}; {} written in {}", units::size(report.bytes), units::duration(time))
}

#[derive(Serialize)]
struct RestoreSummary {
    message_type: &'static str,
    dry_run: bool,
    files_restored: u64,
    directories_restored: u64,
    others_restored: u64,
    hard_links_restored: u64,
    bytes_restored: u64,
    bytes_taken_from_target: u64,
    entries_unchanged: u64,
    entries_metadata: u64,
    entries_kept: u64,
    entries_deleted: u64,
    entries_spared: u64,
    properties_not_given: u64,
    errors: u64,
    warnings: u64,
    total_duration: f64,
}

fn summary(report: &RestoreReport, time: Duration, dry_run: bool) -> RestoreSummary {
    RestoreSummary {
        message_type: "summary",
        dry_run,
        files_restored: report.files,
        directories_restored: report.directories,
        others_restored: report.others,
        hard_links_restored: report.links,
        bytes_restored: report.bytes,
        bytes_taken_from_target: report.bytes_local,
        entries_unchanged: report.unchanged,
        entries_metadata: report.metadata,
        entries_kept: report.kept,
        entries_deleted: report.deleted,
        entries_spared: report.spared,
        properties_not_given: report.not_given,
        errors: report.errors,
        warnings: report.warnings,
        total_duration: time.as_secs_f64(),
    }
}
