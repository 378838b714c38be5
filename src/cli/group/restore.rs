//! `group restore`: the part of this host; or all parts on all hosts, or none.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use yester::jobs::groups::{self as rounds, GroupMember, GroupWatch};
use yester::jobs::units::parse_wait;
use yester::model::{GroupRound, SnapshotId};
use yester::repo::Repository;
use yester::repo::groups::state::{GroupState, GroupView};
use yester::sys::process;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::restore::set;
use crate::cli::say::exit::Outcome;
use crate::cli::{args, restore, signals};

use super::show;

/// What is restored, and by whom.
#[derive(Debug, Args)]
pub struct GroupRestoreArgs {
    /// The group; or the restore of one, as --open and --to name it (first digits of an id, or latest)
    #[arg(value_name = "GROUP")]
    id: String,
    /// The member whose part this host takes [default: the one of this host's name]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["open", "to"])]
    member: Option<String>,
    /// Open a restore in which all hosts exchange, or none: each of them then restores its part by the id of that
    #[arg(long)]
    open: bool,
    /// The part of a member goes to another host (may be repeated); opens a restore
    #[arg(long, value_name = "MEMBER=HOST")]
    to: Vec<String>,
    /// How long the hosts wait for each other
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_wait)]
    limit: Duration,
    /// Restore though parts of the group are missing: the hosts do not agree with each other then
    #[arg(long)]
    unsafe_without_missing: bool,
    /// Options of yester restore, as in: -- --staged --dry-run
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

/// Restores, or opens a restore.
pub fn run(context: &Context, args: &GroupRestoreArgs) -> Result<Outcome> {
    let opens = args.open || !args.to.is_empty();
    let repo = context.open_for(opens)?;
    let id = super::find(&repo, &args.id)?;
    let view = GroupWatch::new(&repo, id)?.view()?;
    match (view.round.kind, opens) {
        (GroupRound::RESTORE, true) => Err(Error::invalid("a restore is not restored: name the group itself")),
        (GroupRound::RESTORE, false) => together(context, args, &repo, id),
        (_, true) => open(context, args, &repo, id, &view),
        (_, false) => alone(context, args, &repo, id, &view),
    }
}

/// The snapshots that may be restored: of a group that is whole.
fn allowed(args: &GroupRestoreArgs, repo: &Repository, id: SnapshotId, view: &GroupView) -> Result<()> {
    if view.state == GroupState::Processing && !args.unsafe_without_missing {
        let text = format!("group {} is not complete yet: yester group wait {0} waits for it", id.short());
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    if args.unsafe_without_missing { Ok(()) } else { super::is_whole(repo, id, view) }
}

/// Opens a restore of all parts that there are.
fn open(context: &Context, args: &GroupRestoreArgs, repo: &Arc<Repository>, id: SnapshotId, view: &GroupView) -> Result<Outcome> {
    allowed(args, repo, id, view)?;
    let mut to = Vec::new();
    for pair in &args.to {
        let (from, host) = pair.split_once('=').ok_or_else(|| Error::invalid(format!("--to {pair:?}: write MEMBER=HOST")))?;
        if view.round.member(from.as_bytes()).is_none() {
            super::part(repo, id, view, from.as_bytes())?;
        }
        to.push((from.as_bytes(), host.as_bytes()));
    }
    let (mut members, mut parts) = (Vec::new(), Vec::new());
    for name in &view.round.members {
        if super::part(repo, id, view, name).is_ok() {
            let host = to.iter().find(|(from, _)| from == name).map_or(name.as_slice(), |(_, host)| host);
            members.push(host.to_vec());
            parts.push(name.clone());
        }
    }
    let set = String::from_utf8_lossy(&view.round.set).into_owned();
    let round = super::round(GroupRound::RESTORE, &set, members, (args.limit, Duration::ZERO))?;
    let restore = rounds::open(repo, GroupRound { of: Some(id), parts, ..round })?;
    show::opened(context, repo, restore, "yester group restore ID")?;
    Ok(Outcome::Done)
}

fn name(args: &GroupRestoreArgs) -> Vec<u8> {
    args.member.as_ref().map_or_else(process::host_name, |name| name.clone().into_bytes())
}

/// The part of one member, which waits for nobody.
fn alone(
    context: &Context,
    args: &GroupRestoreArgs,
    repo: &Arc<Repository>,
    id: SnapshotId,
    view: &GroupView,
) -> Result<Outcome> {
    allowed(args, repo, id, view)?;
    let snapshot = super::part(repo, id, view, &name(args))?;
    let (set, words) = words(view, snapshot, args, false);
    set::run(context, &args::parsed::<restore::RestoreArgs>("restore", words)?, &set, None)
}

/// One part of a restore in which all exchange, or none.
fn together(context: &Context, args: &GroupRestoreArgs, repo: &Arc<Repository>, id: SnapshotId) -> Result<Outcome> {
    let stop = signals::stop_flag()?;
    let member = Arc::new(GroupMember::new(repo, id, (GroupRound::RESTORE, &name(args)), &stop)?);
    let of = member.round().of.ok_or_else(|| Error::corrupt("the restore does not say what it is of"))?;
    let view = GroupWatch::new(repo, of)?.view()?;
    let snapshot = super::part(repo, of, &view, member.restores())?;
    let (set, words) = words(&view, snapshot, args, true);
    let parsed = args::parsed::<restore::RestoreArgs>("restore", words)?;
    if parsed.dry_run {
        return set::run(context, &parsed, &set, None);
    }
    member.join()?;
    let done = set::run(context, &parsed, &set, Some(&member));
    let said = match &done {
        Ok(Outcome::Done) => member.done(snapshot, 0),
        Ok(Outcome::Partial(text)) => member.failed(text),
        Err(e) => member.failed(&e.to_string()),
    };
    if let (Ok(_), Err(e)) = (&done, said) {
        return Err(e.context("the part is restored, but the others cannot be told"));
    }
    done
}

/// The set, and what `restore` is told of it.
fn words(view: &GroupView, snapshot: SnapshotId, args: &GroupRestoreArgs, staged: bool) -> (String, Vec<OsString>) {
    let set = String::from_utf8_lossy(&view.round.set).into_owned();
    let mut words: Vec<OsString> = vec!["--set".into(), set.clone().into(), snapshot.to_string().into()];
    if staged && !args.options.iter().any(|option| option == "--staged") {
        words.push("--staged".into());
    }
    words.extend(args.options.iter().cloned());
    (set, words)
}
