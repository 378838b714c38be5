//! `tag`, `note`, `pin`: what is said of a snapshot after it was made.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde::Serialize;
use yester::jobs::runs;
use yester::model::{Annotation, Pin, Remarks, Snapshot, SnapshotId, Timestamp, escape};
use yester::repo::snapshots::SnapshotList;
use yester::repo::{annotations, snapshots};
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{self, Filters};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, lossy};
use crate::cli::say::units;

/// Add, remove or set tags of snapshots
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Snapshots: latest, a time, an id … [default: all that pass the filters]
    #[arg(value_name = "SNAP")]
    names: Vec<String>,
    /// Add these tags
    #[arg(long, value_name = "TAG[,TAG…]")]
    add: Vec<OsString>,
    /// Remove these tags
    #[arg(long, value_name = "TAG[,TAG…]")]
    remove: Vec<OsString>,
    /// Set the tags to these; an empty text removes all
    #[arg(long, value_name = "TAG[,TAG…]", conflicts_with_all = ["add", "remove"])]
    set: Vec<OsString>,
    #[command(flatten)]
    filters: Filters,
}

/// Show the note of a snapshot, or write it
#[derive(Debug, Args)]
pub struct NoteArgs {
    /// The snapshot: latest, a time, an id …
    #[arg(value_name = "SNAP")]
    name: String,
    /// The new note; an empty text removes it [default: show it]
    #[arg(value_name = "TEXT")]
    text: Option<OsString>,
    #[command(flatten)]
    filters: Filters,
}

/// Pin snapshots: forget leaves them
#[derive(Debug, Args)]
pub struct PinArgs {
    /// Snapshots: latest, a time, an id … [default: list what is pinned]
    #[arg(value_name = "SNAP")]
    names: Vec<String>,
    /// Only until then
    #[arg(long, value_name = "TIME", value_parser = units::parse_time, requires = "names")]
    until: Option<Timestamp>,
    /// Take the pin away
    #[arg(long, conflicts_with = "until", requires = "names")]
    remove: bool,
    #[command(flatten)]
    filters: Filters,
}

/// An annotation that says nothing yet, by this user, now.
pub fn blank(snapshot: SnapshotId) -> Annotation {
    let (host, user) = runs::who();
    let (clears_tags, removed, added, note, pin) = (false, Vec::new(), Vec::new(), None, None);
    Annotation { snapshot, time: context::now(), host, user, clears_tags, removed, added, note, pin }
}

fn tags(given: &[OsString]) -> Vec<Vec<u8>> {
    let mut tags: Vec<Vec<u8>> = given.iter().flat_map(|list| select::tags(list)).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Changes tags.
pub fn tag(context: &Context, args: &TagArgs) -> Result<Outcome> {
    let (added, removed, set) = (tags(&args.add), tags(&args.remove), !args.set.is_empty());
    if !set && added.is_empty() && removed.is_empty() {
        return Err(Error::invalid("nothing to change: give --add, --remove or --set (see: yester tag --help)"));
    }
    if args.names.is_empty() && args.filters.is_empty() {
        return Err(Error::invalid("which snapshots? name them, or give --host, --tag or --path (see: yester tag --help)"));
    }
    let repo = context.open_for(true)?;
    let said = annotations::read_all(&repo)?;
    let mut changed = Vec::new();
    for snapshot in select::chosen(context, &repo, &args.names, &args.filters)? {
        let added = if set { tags(&args.set) } else { added.clone() };
        let annotation = Annotation { clears_tags: set, added, removed: removed.clone(), ..blank(snapshot.id) };
        let mut after = snapshot.clone();
        annotation.apply(&mut after, &mut Remarks::default());
        if after.tags != snapshot.tags {
            annotations::write(&repo, &said, &annotation)?;
            changed.push(after);
        }
    }
    told(context, &changed, |snapshot| {
        let tags: Vec<String> = snapshot.tags.iter().map(|tag| escape(tag)).collect();
        if tags.is_empty() { "no tags".to_owned() } else { format!("tags {}", tags.join(", ")) }
    })
}

/// Shows or writes a note.
pub fn note(context: &Context, args: &NoteArgs) -> Result<Outcome> {
    let repo = context.open_for(args.text.is_some())?;
    let mut snapshot = select::snapshot(context, &repo, &args.name, &args.filters)?;
    let said = annotations::read_all(&repo)?;
    let Some(text) = &args.text else {
        let remarks = said.apply([&mut snapshot]).remove(&snapshot.id).unwrap_or_default();
        let mut out = Output::new();
        match context.global.json {
            true => out.json(&json(&snapshot, &remarks))?,
            false if remarks.note.is_empty() => return Err(Error::new(ErrorKind::NotFound, none(&snapshot))),
            false => out.line(&escape(&remarks.note))?,
        }
        out.finish()?;
        return Ok(Outcome::Done);
    };
    annotations::write(&repo, &said, &Annotation { note: Some(text.as_bytes().to_vec()), ..blank(snapshot.id) })?;
    let what = if text.is_empty() { "no note" } else { "noted" };
    told(context, &[snapshot], |_| what.to_owned())
}

fn none(snapshot: &Snapshot) -> String {
    let id = snapshot.id.short();
    format!("snapshot {id} has no note (write one with: yester note {id} TEXT)")
}

/// Pins snapshots, takes pins away, or lists what is pinned.
pub fn pin(context: &Context, args: &PinArgs) -> Result<Outcome> {
    let repo = context.open_for(!args.names.is_empty())?;
    if args.names.is_empty() {
        return pinned(context, &snapshots::find_all(&repo)?, args);
    }
    let pin = match args.until {
        Some(until) if until <= context::now() => {
            return Err(Error::invalid(format!("--until {} is over: give a time to come", units::local_time(until))));
        }
        Some(until) => Pin::Until(until),
        None if args.remove => Pin::Off,
        None => Pin::Forever,
    };
    let chosen = select::chosen(context, &repo, &args.names, &args.filters)?;
    let said = annotations::read_all(&repo)?;
    for snapshot in &chosen {
        annotations::write(&repo, &said, &Annotation { pin: Some(pin), ..blank(snapshot.id) })?;
    }
    told(context, &chosen, |_| shown(pin))
}

fn shown(pin: Pin) -> String {
    match pin {
        Pin::Off => "not pinned".to_owned(),
        Pin::Forever => "pinned".to_owned(),
        Pin::Until(time) => format!("pinned until {}", units::local_time(time)),
    }
}

fn pinned(context: &Context, found: &SnapshotList, args: &PinArgs) -> Result<Outcome> {
    let filter = args.filters.filter()?;
    let now = context::now();
    let mut out = Output::new();
    for snapshot in found.snapshots.iter().filter(|snapshot| filter.matches(snapshot)) {
        let Some(remarks) = found.remarks.get(&snapshot.id).filter(|remarks| remarks.pin.holds(now)) else { continue };
        match context.global.json {
            true => out.json(&json(snapshot, remarks))?,
            false => out.line(&format!("snapshot {}: {}", select::described(snapshot), shown(remarks.pin)))?,
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// A line for each snapshot that was changed.
fn told(context: &Context, changed: &[Snapshot], what: impl Fn(&Snapshot) -> String) -> Result<Outcome> {
    let mut out = Output::new();
    for snapshot in changed {
        match (context.global.json, context.global.quiet) {
            (true, _) => {
                out.json(&JsonChanged { message_type: "annotated", id: snapshot.id.to_string(), what: what(snapshot) })?
            }
            (false, true) => {}
            (false, false) => out.line(&format!("snapshot {}: {}", select::described(snapshot), what(snapshot)))?,
        }
    }
    if changed.is_empty() && !context.global.json && !context.global.quiet {
        out.line("nothing to change")?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// What is said of a snapshot in the table of snapshots, behind its tags.
pub fn behind(remarks: Option<&Remarks>) -> String {
    let Some(remarks) = remarks else { return String::new() };
    let pin = if remarks.pin.holds(context::now()) { format!(" ({})", shown(remarks.pin)) } else { String::new() };
    let note = if remarks.note.is_empty() { String::new() } else { format!(" “{}”", escape(&remarks.note)) };
    pin + &note
}

#[derive(Serialize)]
struct JsonChanged {
    message_type: &'static str,
    id: String,
    what: String,
}

#[derive(Serialize)]
struct JsonRemarks {
    message_type: &'static str,
    id: String,
    note: String,
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_until: Option<String>,
}

fn json(snapshot: &Snapshot, remarks: &Remarks) -> JsonRemarks {
    let (pinned, pinned_until) = json_pin(remarks);
    JsonRemarks { message_type: "remarks", id: snapshot.id.to_string(), note: lossy(&remarks.note), pinned, pinned_until }
}

/// Whether the snapshot is pinned now, and until when.
pub fn json_pin(remarks: &Remarks) -> (bool, Option<String>) {
    let until = if let Pin::Until(time) = remarks.pin { Some(units::utc_time(time)) } else { None };
    (remarks.pin.holds(context::now()), until)
}
