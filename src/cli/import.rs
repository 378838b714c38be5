//! `import`: histories of other tools.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use yester::chunk::keys::Credential;
use yester::import::borg::BorgHistory;
use yester::import::generations::GenerationHistory;
use yester::import::restic::ResticHistory;
use yester::import::tar::TarHistory;
use yester::import::{self, ImportOptions, PastHistory, PastSnapshot};
use yester::jobs::credential::{self, CredentialOptions};
use yester::model::{Origin, Timestamp, escape};
use yester::repo::Repository;
use yester::task::Task;
use yester::{Error, ErrorKind, Result, copy};

use crate::cli::context::Context;
use crate::cli::given::select::{self, Filters};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::progress::Display;
use crate::cli::say::{paths, units};
use crate::cli::signals;

/// Import the history of another backup tool
///
/// Each of its snapshots becomes one here, with its time, host, tags and paths. What is here already is not imported again,
/// and an import that was stopped goes on where it was. The other repository is only read.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What to import: restic:DIR, borg:REPO[::ARCHIVE], tree:DIR (rsnapshot and the like), tar:FILE (- is standard input)
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// Which of its snapshots, as the other tool names them; without one, all that pass the filters
    #[arg(value_name = "SNAP")]
    names: Vec<String>,
    /// The file with the password of the other repository [env: YESTER_FROM_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", conflicts_with = "from_password_command")]
    from_password_file: Option<PathBuf>,
    /// The shell command that prints it [env: YESTER_FROM_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND")]
    from_password_command: Option<OsString>,
    /// Where the top of what tar: and tree: give stands in the snapshots [default: /]
    #[arg(long = "as", value_name = "PATH")]
    stored_as: Option<PathBuf>,
    /// The host of the new snapshots, whatever the source says
    #[arg(long, value_name = "HOST")]
    new_host: Option<OsString>,
    /// The time of the new snapshot: for one snapshot
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    new_time: Option<Timestamp>,
    /// Tags of the new snapshots, beside those that they have
    #[arg(long, value_name = "TAG[,TAG…]")]
    add_tag: Vec<OsString>,
    #[command(flatten)]
    filters: Filters,
    /// Only say what would be imported
    #[arg(short = 'n', long, help_heading = None::<&str>)]
    dry_run: bool,
}

#[derive(Default)]
struct ImportTotals {
    imported: u64,
    skipped: u64,
    /// Snapshots that could not be imported.
    failed: u64,
    /// Entries of others that could not be read.
    errors: u64,
    added: u64,
    stored: u64,
}

/// Imports.
pub fn run(context: &Context, args: &ImportArgs) -> Result<Outcome> {
    let began = Instant::now();
    let target = if args.dry_run { context.open()? } else { context.open_for(true)? };
    let mut history = history(args, &target)?;
    let (stop, display) = (signals::stop_flag()?, Display::new(&context.global));
    let task = Task::new(&display).stopped_by(&stop);
    let list = history.snapshots(&task)?;
    let chosen = chosen(args, list.snapshots)?;
    if args.new_time.is_some() && chosen.len() > 1 {
        return Err(Error::invalid(format!("--new-time is for one snapshot, and these are {}", chosen.len())));
    }
    let present: HashSet<Origin> = copy::present(&target)?;
    let (here, going): (Vec<PastSnapshot>, Vec<PastSnapshot>) =
        chosen.into_iter().partition(|past| present.contains(&past.origin));
    let mut totals = ImportTotals { skipped: here.len() as u64, failed: list.unreadable, ..ImportTotals::default() };
    if args.dry_run {
        display.finish();
        going.iter().try_for_each(|past| line(context, past, None))?;
        totals.imported = going.len() as u64;
    } else {
        carry_out(context, args, (&target, &mut *history), &going, (&display, &task), &mut totals)?;
    }
    summary(context, args.dry_run, &totals, began.elapsed())?;
    outcome(&totals)
}

fn carry_out(
    context: &Context,
    args: &ImportArgs,
    (target, history): (&Arc<Repository>, &mut dyn PastHistory),
    going: &[PastSnapshot],
    (display, task): (&Display, &Task<'_>),
    totals: &mut ImportTotals,
) -> Result<()> {
    let tags = args.add_tag.iter().flat_map(|set| select::tags(set)).collect();
    let host = args.new_host.as_ref().map(|host| host.as_bytes().to_vec());
    let options = ImportOptions { host, time: args.new_time, tags };
    let done = import::import(target, history, going, &options, task, &mut |past, outcome| {
        display.finish();
        match outcome {
            Ok(imported) => {
                let counts = &imported.snapshot.statistics;
                totals.imported += 1;
                totals.errors += counts.errors;
                totals.added += counts.bytes_new;
                totals.stored += counts.bytes_stored;
                line(context, past, Some(&imported))?;
            }
            Err(e) => {
                totals.failed += 1;
                note(&format!("yester: snapshot {} was not imported: {e}", shown(past)));
            }
        }
        display.resume();
        Ok(())
    });
    display.finish();
    done
}

/// What the source says, opened.
fn history(args: &ImportArgs, target: &Repository) -> Result<Box<dyn PastHistory>> {
    let bytes = args.source.as_bytes();
    let at = bytes.iter().position(|b| *b == b':').unwrap_or(bytes.len());
    let (kind, place) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let place = Path::new(std::ffi::OsStr::from_bytes(place));
    let scratch = target.scratch();
    match kind {
        b"restic" if !place.as_os_str().is_empty() => {
            let credential = credential(args, place)?;
            let Credential::Passphrase(password) = &credential else {
                return Err(Error::invalid("a restic repository has no key file: give a password"));
            };
            Ok(Box::new(ResticHistory::open(&paths::absolute(place)?, password, scratch)?))
        }
        b"borg" if !place.as_os_str().is_empty() => {
            // Without one, borg looks for its own.
            let credential = given_credential(args)?;
            let password = match &credential {
                Some(Credential::Passphrase(password)) => Some(password.as_slice()),
                Some(Credential::KeyFile(_)) => return Err(Error::invalid("borg is given a password: give no key file")),
                None => None,
            };
            Ok(Box::new(BorgHistory::new(place.as_os_str(), password, scratch)))
        }
        b"tar" if !place.as_os_str().is_empty() => {
            let file = if place.as_os_str() == "-" { None } else { Some(paths::absolute(place)?) };
            let top = args.stored_as.as_ref().map_or_else(|| Ok(PathBuf::from("/")), |top| paths::absolute(top))?;
            Ok(Box::new(TarHistory::new(file.as_deref(), paths::bytes(&top), scratch)))
        }
        b"tree" if !place.as_os_str().is_empty() => {
            let top = args.stored_as.as_ref().map_or_else(|| Ok(PathBuf::from("/")), |top| paths::absolute(top))?;
            Ok(Box::new(GenerationHistory::new(&paths::absolute(place)?, paths::bytes(&top), scratch)?))
        }
        _ => {
            let text = "is no source: give restic:DIR, borg:REPO, tar:FILE or tree:DIR (see: yester import --help)";
            Err(Error::invalid(format!("{} {text}", escape(bytes))))
        }
    }
}

/// What options and variables say of the password of the other repository.
fn given_credential(args: &ImportArgs) -> Result<Option<Credential>> {
    let options = CredentialOptions {
        key_file: None,
        password_command: args.from_password_command.clone(),
        password_file: args.from_password_file.clone(),
    };
    let origin = credential::given(&options, "YESTER_FROM_", |name| std::env::var_os(name))?;
    origin.map(|origin| credential::load(&origin)).transpose()
}

/// The password of the other repository.
fn credential(args: &ImportArgs, place: &Path) -> Result<Credential> {
    match given_credential(args)? {
        Some(credential) => Ok(credential),
        None if credential::can_ask() => credential::ask(&format!("password of {}: ", paths::shown(place))),
        None => {
            let text = "give --from-password-file or --from-password-command, or set YESTER_FROM_PASSWORD";
            Err(Error::new(ErrorKind::Key, format!("there is no password for {}: {text}", paths::shown(place))))
        }
    }
}

/// The snapshots that are meant: those named, or all that pass the filters.
fn chosen(args: &ImportArgs, all: Vec<PastSnapshot>) -> Result<Vec<PastSnapshot>> {
    let filter = args.filters.filter()?;
    let mut passing: Vec<PastSnapshot> = all.into_iter().filter(|past| filter.matches(&past.described())).collect();
    if args.names.is_empty() {
        return Ok(passing);
    }
    let mut wanted = HashSet::new();
    for name in &args.names {
        let found: Vec<&PastSnapshot> = passing.iter().filter(|past| is_called(past, name)).collect();
        let exact: Vec<&PastSnapshot> = found.iter().copied().filter(|past| past.name == *name).collect();
        let one = match (name.as_str(), exact.as_slice(), found.as_slice()) {
            ("latest", [], _) => passing.last(),
            (_, [one], _) | (_, _, [one]) => Some(*one),
            (_, _, []) => None,
            (_, _, many) => {
                return Err(Error::invalid(format!("{name} is the beginning of {} snapshots: give more of it", many.len())));
            }
        };
        let none = || {
            let count = units::counted(passing.len() as u64, "snapshot", "snapshots");
            Error::new(
                ErrorKind::NotFound,
                format!("{name}: the source has no such snapshot among {count} that pass the filters"),
            )
        };
        wanted.insert(one.ok_or_else(none)?.origin);
    }
    passing.retain(|past| wanted.contains(&past.origin));
    Ok(passing)
}

fn is_called(past: &PastSnapshot, name: &str) -> bool {
    past.name == name || name.len() >= 4 && past.name.starts_with(name) && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a snapshot of another tool is called in messages.
fn shown(past: &PastSnapshot) -> String {
    let is_hash = past.name.len() == 64 && past.name.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hash { past.name.chars().take(8).collect() } else { escape(past.name.as_bytes()) }
}

#[derive(Serialize)]
struct JsonImportLine {
    message_type: &'static str,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    time: String,
    hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<u64>,
}

fn line(context: &Context, past: &PastSnapshot, imported: Option<&import::Imported>) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        out.json(&JsonImportLine {
            message_type: "imported",
            origin: past.name.clone(),
            snapshot_id: imported.map(|imported| imported.snapshot.id.to_string()),
            time: units::utc_time(past.time),
            hostname: escape(&past.host),
            errors: imported.map(|imported| imported.snapshot.statistics.errors),
        })?;
    } else if !context.global.quiet {
        let paths: Vec<String> = past.paths.iter().map(|path| escape(path)).collect();
        let what = match imported {
            Some(imported) => format!("imported {} as {}", shown(past), imported.snapshot.id.short()),
            None => format!("would import {}", shown(past)),
        };
        out.line(&format!("{what}: {} {} {}", units::local_time(past.time), escape(&past.host), paths.join(" ")))?;
    }
    out.finish()
}

#[derive(Serialize)]
struct ImportSummary {
    message_type: &'static str,
    dry_run: bool,
    snapshots_imported: u64,
    snapshots_skipped: u64,
    snapshots_failed: u64,
    errors: u64,
    data_added: u64,
    data_added_packed: u64,
    total_duration: f64,
}

fn summary(context: &Context, dry_run: bool, totals: &ImportTotals, time: Duration) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        out.json(&ImportSummary {
            message_type: "summary",
            dry_run,
            snapshots_imported: totals.imported,
            snapshots_skipped: totals.skipped,
            snapshots_failed: totals.failed,
            errors: totals.errors,
            data_added: totals.added,
            data_added_packed: totals.stored,
            total_duration: time.as_secs_f64(),
        })?;
    } else if !context.global.quiet {
        let verb = if dry_run { "would be imported" } else { "imported" };
        let count = units::counted(totals.imported, "snapshot", "snapshots");
        let (added, stored) = (units::size(totals.added), units::size(totals.stored));
        let bytes = if dry_run { String::new() } else { format!("; {added} of new content, {stored} stored") };
        out.line(&format!("{count} {verb}, {} already here{bytes} ({})", totals.skipped, units::duration(time)))?;
    }
    out.finish()
}

fn outcome(totals: &ImportTotals) -> Result<Outcome> {
    let counted = [
        (totals.failed, "snapshot could not be imported", "snapshots could not be imported"),
        (totals.errors, "entry could not be read as it was", "entries could not be read as they were"),
    ];
    let missing: Vec<String> =
        counted.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| units::counted(n, one, many)).collect();
    match totals.imported + totals.skipped {
        _ if missing.is_empty() => Ok(Outcome::Done),
        0 => Err(Error::corrupt(format!("nothing was imported: {}", missing.join(", ")))),
        _ => Ok(Outcome::Partial(missing.join(", "))),
    }
}
