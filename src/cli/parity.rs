//! `parity`: more bytes, by which packs that are lost or torn can be computed.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use serde::Serialize;
use yester::model::{PackId, RepositoryId};
use yester::parity::{self, AddOptions, Added, FoundGroup, FoundParity, ParityPlace, ParityShape};
use yester::repo::{Repository, snapshots};
use yester::storage::{Class, Name, Storage};
use yester::task::Task;
use yester::{Error, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::signals;

/// Add parity, by which doctor rebuilds packs that are lost or torn
///
/// Packs of about one age make groups; of 16 packs and 2 rows of parity any 2 may be lost. Costs an eighth of the bytes. Packs
/// that come later have none until parity add is run again; prune removes groups of which little lives.
#[derive(Debug, Args)]
pub struct ParityArgs {
    #[command(subcommand)]
    command: ParityCommand,
}

#[derive(Debug, Subcommand)]
enum ParityCommand {
    /// Make parity for all packs that have none
    Add {
        /// How many packs of files make a group, and how many of them may be lost
        #[arg(value_name = "PACKS+ROWS", default_value_t = ParityShape::DATA)]
        data: ParityShape,
        /// The same of packs of trees
        #[arg(long, value_name = "PACKS+ROWS", default_value_t = ParityShape::TREES)]
        metadata: ParityShape,
        /// Do not unlock the repository: packs of one session come together, of which age nobody knows
        #[arg(long)]
        no_key: bool,
    },
    /// Say which packs have parity, and what it takes; needs no key
    Status,
    /// Remove all parity; needs no key
    Remove,
}

#[derive(Serialize)]
struct JsonParityAdded<'a> {
    message_type: &'static str,
    groups_added: u64,
    groups_completed: u64,
    groups_superseded: u64,
    packs_added: u64,
    pack_bytes_added: u64,
    bytes_added: u64,
    packs_damaged: &'a [String],
}

#[derive(Serialize)]
struct JsonParityGroup {
    message_type: &'static str,
    id: String,
    kind: &'static str,
    packs: u64,
    pack_bytes: u64,
    packs_gone: u64,
    rows: u8,
    rows_missing: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct JsonParityStatus {
    message_type: &'static str,
    groups: u64,
    groups_incomplete: u64,
    groups_with_packs_gone: u64,
    packs_covered: u64,
    pack_bytes_covered: u64,
    packs_uncovered: u64,
    pack_bytes_uncovered: u64,
    bytes: u64,
    objects_unreadable: u64,
}

#[derive(Serialize)]
struct JsonParityRemoved {
    message_type: &'static str,
    groups: u64,
    objects: u64,
    bytes: u64,
}

/// Runs the command.
pub fn run(context: &Context, args: &ParityArgs) -> Result<Outcome> {
    match &args.command {
        ParityCommand::Add { data, metadata, no_key } => {
            let options = AddOptions { data: *data, trees: *metadata, times: HashMap::new() };
            add(context, options, *no_key)
        }
        ParityCommand::Status => status(context),
        ParityCommand::Remove => remove(context),
    }
}

/// Opens the place without a key, and does something there.
fn without_key<T>(context: &Context, work: impl FnOnce(&ParityPlace<'_>) -> Result<T>) -> Result<T> {
    let storage = context.storage(&context.place()?)?;
    let repository = repository_of(&*storage)?;
    let local = storage.local_path();
    work(&ParityPlace::new(&*storage, repository, local.as_deref()))
}

/// The repository's id, which the copies of its configuration say in the clear.
fn repository_of(storage: &dyn Storage) -> Result<RepositoryId> {
    let mut names: Vec<Name> = storage.list(Class::Config)?.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    let mut bytes = Vec::new();
    // The newest first.
    for name in names.iter().rev() {
        if storage.read(name, None, &mut bytes).is_err() {
            continue;
        }
        if let Some(header) = yester::format::envelope::peek(&bytes).filter(|_| yester::format::envelope::is_intact(&bytes)) {
            return Ok(header.repository);
        }
    }
    Err(Error::corrupt("no copy of the configuration is whole: yester repair keys, or yester key recover, writes it again"))
}

/// When the sessions were that stored what is there.
fn times(repo: &Repository) -> Result<AddOptions> {
    let times = snapshots::list_with_damage(repo)?.0.into_iter().map(|snapshot| (snapshot.id, snapshot.time)).collect();
    Ok(AddOptions { times, ..AddOptions::default() })
}

fn add(context: &Context, options: AddOptions, no_key: bool) -> Result<Outcome> {
    let display = Display::new(&context.global);
    let task = Task::new(&display).stopped_by(&signals::stop_flag()?);
    let added = match no_key {
        true => without_key(context, |place| parity::add(place, &options, &task)),
        false => context.open_for(true).and_then(|repo| {
            let options = AddOptions { times: times(&repo)?.times, ..options };
            parity::add(&ParityPlace::of(&repo), &options, &task)
        }),
    };
    display.finish();
    let added = added?;
    let mut out = Output::new();
    let damaged: Vec<String> = added.damaged.iter().map(|(id, _)| id.to_string()).collect();
    if context.global.json {
        out.json(&JsonParityAdded {
            message_type: "parity_added",
            groups_added: added.groups,
            groups_completed: added.completed,
            groups_superseded: added.superseded,
            packs_added: added.packs,
            pack_bytes_added: added.pack_bytes,
            bytes_added: added.bytes,
            packs_damaged: &damaged,
        })?;
    } else if !context.global.quiet {
        said(&added).iter().try_for_each(|line| out.line(line))?;
    }
    out.finish()?;
    if let Some((name, e)) = added.blocked.first() {
        let rows = units::counted(added.blocked.len() as u64, "row", "rows");
        let text = format!(
            "{rows} of parity could not be stored, since something else has the name and may not be deleted here, {name} among \
             them ({e}): yester prune by who may delete removes it, then yester parity add again"
        );
        return Ok(Outcome::Partial(text));
    }
    let Some((first, e)) = added.damaged.first() else { return Ok(Outcome::Done) };
    let packs = units::counted(added.damaged.len() as u64, "pack is damaged and has", "packs are damaged and have");
    let text =
        format!("{packs} no new parity, {} among them ({e}): yester doctor --read-data heals what it can", Name::Pack(*first));
    Ok(Outcome::Partial(text))
}

fn said(added: &Added) -> Vec<String> {
    let mut out = Vec::new();
    if added.completed > 0 {
        out.push(format!("completed {}", units::counted(added.completed, "group", "groups")));
    }
    out.push(match added.groups {
        0 => "every pack has parity already".to_owned(),
        _ => {
            let (groups, packs) = (units::counted(added.groups, "group", "groups"), units::counted(added.packs, "pack", "packs"));
            format!("made {groups} for {packs} ({}): {} of parity", units::size(added.pack_bytes), units::size(added.bytes))
        }
    });
    if added.superseded > 0 {
        let groups = units::counted(added.superseded, "smaller group", "smaller groups");
        out.push(format!("removed {groups} that these take the place of"));
    }
    out
}

fn status(context: &Context) -> Result<Outcome> {
    let (found, packs) = without_key(context, |place| Ok((parity::find(place)?, place.packs()?)))?;
    let status = counted(&found, &packs);
    let mut out = Output::new();
    if context.global.json {
        found.groups.iter().try_for_each(|group| out.json(&of_group(group, &packs)))?;
        out.json(&status)?;
    } else {
        shown(&status, found.groups.is_empty()).iter().try_for_each(|line| out.line(line))?;
    }
    out.finish()?;
    match found.bad.first() {
        None => Ok(Outcome::Done),
        Some((name, _, e)) => {
            let objects = units::counted(found.bad.len() as u64, "object", "objects");
            Ok(Outcome::Partial(format!("{objects} in parity/ say nothing, {name} among them ({e}): yester prune removes them")))
        }
    }
}

fn of_group(found: &FoundGroup, packs: &HashMap<PackId, u64>) -> JsonParityGroup {
    JsonParityGroup {
        message_type: "parity_group",
        id: found.id.to_string(),
        kind: if found.group.kind == yester::format::pack::PackKind::Data { "data" } else { "metadata" },
        packs: found.group.packs.len() as u64,
        pack_bytes: found.group.bytes(),
        packs_gone: found.gone(packs) as u64,
        rows: found.group.rows,
        rows_missing: found.missing_rows().len() as u64,
        bytes: found.bytes(),
    }
}

fn counted(found: &FoundParity, packs: &HashMap<PackId, u64>) -> JsonParityStatus {
    let covered = found.covered();
    let (with, without): (Vec<_>, Vec<_>) = packs.iter().partition(|(id, _)| covered.contains(*id));
    let sum = |packs: &[(&PackId, &u64)]| packs.iter().map(|(_, len)| **len).sum();
    let groups = |is: &dyn Fn(&FoundGroup) -> bool| found.groups.iter().filter(|group| is(group)).count() as u64;
    JsonParityStatus {
        message_type: "parity_status",
        groups: found.groups.len() as u64,
        groups_incomplete: groups(&|group| !group.missing_rows().is_empty()),
        groups_with_packs_gone: groups(&|group| group.gone(packs) > 0),
        packs_covered: with.len() as u64,
        pack_bytes_covered: sum(&with),
        packs_uncovered: without.len() as u64,
        pack_bytes_uncovered: sum(&without),
        bytes: found.groups.iter().map(FoundGroup::bytes).sum(),
        objects_unreadable: found.bad.len() as u64,
    }
}

fn shown(status: &JsonParityStatus, none: bool) -> Vec<String> {
    let of = |count, bytes| format!("{} ({})", units::counted(count, "pack", "packs"), units::size(bytes));
    let without = of(status.packs_uncovered, status.pack_bytes_uncovered);
    if none {
        return vec![format!("there is no parity: {without} without it (yester parity add makes it)")];
    }
    let share = status.bytes as f64 * 100.0 / status.pack_bytes_covered.max(1) as f64;
    let (groups, size) = (units::counted(status.groups, "group", "groups"), units::size(status.bytes));
    let covered = of(status.packs_covered, status.pack_bytes_covered);
    let mut out = vec![format!("{groups} for {covered}: {size} of parity, {share:.1} %")];
    if status.packs_uncovered > 0 {
        out.push(format!("{without} without parity: yester parity add makes it"));
    }
    if status.groups_incomplete > 0 {
        let groups = units::counted(status.groups_incomplete, "group lacks", "groups lack");
        out.push(format!("{groups} rows: yester parity add makes them, where all packs are there"));
    }
    if status.groups_with_packs_gone > 0 {
        let groups = units::counted(status.groups_with_packs_gone, "group has", "groups have");
        out.push(format!("{groups} packs that are not there: pruned, or lost (yester check tells)"));
    }
    out
}

fn remove(context: &Context) -> Result<Outcome> {
    let removed = without_key(context, parity::remove)?;
    let mut out = Output::new();
    if context.global.json {
        let (groups, objects, bytes) = (removed.groups, removed.objects, removed.bytes);
        out.json(&JsonParityRemoved { message_type: "parity_removed", groups, objects, bytes })?;
    } else if !context.global.quiet {
        let groups = units::counted(removed.groups, "group", "groups");
        out.line(&format!("removed {groups} ({} objects, {})", removed.objects, units::size(removed.bytes)))?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}
