//! `group`: one snapshot over several hosts at one moment.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use yester::jobs::groups::{self as rounds, GroupWatch};
use yester::jobs::units::parse_wait;
use yester::model::{GroupRound, SnapshotId, escape};
use yester::repo::groups;
use yester::repo::groups::state::{self, GroupState, GroupView, MemberState};
use yester::repo::{Repository, snapshots};
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::Output;
use crate::cli::signals;

pub mod export;
pub mod ingest;
pub mod restore;
mod show;
pub mod still;

/// Take, follow and restore one snapshot over several hosts
///
/// Everything that is known of a group is in the repository: any host that can open it may open a group, follow it and
/// restore it, and none of them has to stay.
#[derive(Debug, Args)]
pub struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// Open a group: say whose snapshots it is to have
    Create(GroupCreateArgs),
    /// Take the part of this host in a group, as ingest --set --group does
    Join(JoinArgs),
    /// Show how a group and each of its members stand
    Status {
        /// Its id (or the first digits), or latest
        #[arg(value_name = "GROUP")]
        id: String,
    },
    /// Wait until a group is over; exit code 0 if all of it is there, 3 if parts are missing that may be, 1 if it failed
    Wait(WaitArgs),
    /// List groups
    List {
        /// Only of this set
        #[arg(long, value_name = "NAME")]
        set: Option<String>,
    },
    /// Restore the part of this host, or all parts on all hosts or none
    Restore(Box<restore::GroupRestoreArgs>),
    /// Write an archive of each member's part
    Export(export::GroupExportArgs),
}

#[derive(Debug, Args)]
struct GroupCreateArgs {
    /// The set that its snapshots are of
    #[arg(long, value_name = "NAME")]
    set: String,
    /// The members: names of hosts, or what they say with --member
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',', required = true)]
    members: Vec<String>,
    /// Members do not stand still together: each takes its snapshot when it comes
    #[arg(long)]
    no_barrier: bool,
    /// Complete the group without members that fail or do not come
    #[arg(long)]
    allow_missing: bool,
    /// How long is waited for members to come, and then for their parts
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_wait)]
    limit: Duration,
    /// How long a member may stand still: half of it for the others, half to be read
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_wait)]
    still_limit: Duration,
    /// Wait until the group is over
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
struct JoinArgs {
    /// Its id (or the first digits), or latest: the newest group of a set that this host has
    #[arg(value_name = "GROUP")]
    id: String,
    /// The member that this is [default: the host of the set]
    #[arg(long, value_name = "NAME")]
    member: Option<String>,
}

#[derive(Debug, Args)]
struct WaitArgs {
    /// Its id (or the first digits), or latest
    #[arg(value_name = "GROUP")]
    id: String,
    /// Wait no longer than this (exit code 11 then)
    #[arg(long, value_name = "TIME", value_parser = parse_wait)]
    timeout: Option<Duration>,
}

impl GroupArgs {
    /// The set that is named.
    pub fn set(&self) -> Option<&str> {
        match &self.command {
            GroupCommand::Create(args) => Some(&args.set),
            GroupCommand::List { set } => set.as_deref(),
            _ => None,
        }
    }
}

/// Runs a command.
pub fn run(context: &Context, args: &GroupArgs) -> Result<Outcome> {
    match &args.command {
        GroupCommand::Create(args) => create(context, args),
        GroupCommand::Join(args) => join(context, args),
        GroupCommand::Status { id } => status(context, id),
        GroupCommand::Wait(args) => {
            let repo = context.open()?;
            wait(context, &repo, find(&repo, &args.id)?, args.timeout)
        }
        GroupCommand::List { set } => list(context, set.as_deref()),
        GroupCommand::Restore(args) => restore::run(context, args),
        GroupCommand::Export(args) => export::run(context, args),
    }
}

/// The id of the group that is meant.
fn find(repo: &Repository, name: &str) -> Result<SnapshotId> {
    groups::find(&groups::list(repo)?, name, |_| true)
}

/// The group that a host takes a snapshot for: `latest` is the newest of these sets.
fn find_to_join(repo: &Repository, name: &str, is_here: impl Fn(&str) -> bool) -> Result<SnapshotId> {
    let meant = |round: &GroupRound| round.kind == GroupRound::INGEST && std::str::from_utf8(&round.set).is_ok_and(&is_here);
    groups::find(&groups::list(repo)?, name, meant).map_err(|e| match name {
        "latest" => {
            let text =
                "there is no group latest of a set of this host: yester group list shows all, yester group create opens one";
            Error::new(ErrorKind::NotFound, text)
        }
        _ => e,
    })
}

/// What the round is of that is to be opened; its names may stand only once.
fn round(kind: u64, set: &str, members: Vec<Vec<u8>>, (limit, still_limit): (Duration, Duration)) -> Result<GroupRound> {
    let mut sorted = members.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(format!("the member {} is named twice", escape(&twice[0]))));
    }
    if members.iter().any(Vec::is_empty) || members.len() > GroupRound::MAX_MEMBERS {
        return Err(Error::invalid(format!("a group has at most {} members, and each has a name", GroupRound::MAX_MEMBERS)));
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(GroupRound {
        kind,
        set: set.as_bytes().to_vec(),
        members,
        barrier: true,
        allow_missing: false,
        limit: millis(limit),
        still_limit: millis(still_limit),
        of: None,
        parts: Vec::new(),
    })
}

fn create(context: &Context, args: &GroupCreateArgs) -> Result<Outcome> {
    let members = args.members.iter().map(|name| name.clone().into_bytes()).collect();
    let opened = GroupRound {
        barrier: !args.no_barrier,
        allow_missing: args.allow_missing,
        ..round(GroupRound::INGEST, &args.set, members, (args.limit, args.still_limit))?
    };
    let repo = context.open_for(true)?;
    let id = rounds::open(&repo, opened)?;
    show::opened(context, &repo, id, "yester ingest --set NAME --group ID")?;
    if args.wait { wait(context, &repo, id, None) } else { Ok(Outcome::Done) }
}

fn join(context: &Context, args: &JoinArgs) -> Result<Outcome> {
    let repo = context.open()?;
    let id = find_to_join(&repo, &args.id, |set| !matches!(context.set_to_restore(set), Ok(None)))?;
    let set = String::from_utf8_lossy(&GroupWatch::new(&repo, id)?.view()?.round.set).into_owned();
    let id = id.to_string();
    let mut words = vec!["--set", &set, "--group", &id];
    words.extend(args.member.iter().flat_map(|name| ["--member", name]));
    let args = crate::cli::args::parsed::<crate::cli::ingest::IngestArgs>("ingest", words)?;
    crate::cli::ingest::run(context, &args)
}

fn status(context: &Context, name: &str) -> Result<Outcome> {
    let repo = context.open()?;
    let id = find(&repo, name)?;
    let mut out = Output::new();
    show::group(context, &mut out, id, &GroupWatch::new(&repo, id)?.view()?)?;
    out.finish()?;
    Ok(Outcome::Done)
}

fn list(context: &Context, set: Option<&str>) -> Result<Outcome> {
    let repo = context.open()?;
    let reader = groups::list(&repo)?;
    let views = reader.rounds().into_iter().filter_map(|(id, records)| Some((id, state::view(records)?)));
    let views: Vec<(SnapshotId, GroupView)> =
        views.filter(|(_, view)| set.is_none_or(|set| view.round.set == set.as_bytes())).collect();
    let mut out = Output::new();
    show::list(context, &mut out, &views)?;
    out.finish()?;
    let Some(((_, first), rest)) = reader.wrong().split_first() else { return Ok(Outcome::Done) };
    for (_, e) in rest {
        exit::report(exit::FAILED, &e.to_string(), context.global.json);
    }
    Err(Error::new(ErrorKind::Corrupt, first.to_string()))
}

/// Waits until the group is over, and shows how it ended.
fn wait(context: &Context, repo: &Arc<Repository>, id: SnapshotId, limit: Option<Duration>) -> Result<Outcome> {
    let stop = signals::stop_flag()?;
    let mut watch = GroupWatch::new(repo, id)?;
    let mut said = show::GroupProgress::default();
    let view = watch.wait(limit, &stop, &mut |view| said.tell(context, view))?;
    let mut out = Output::new();
    show::group(context, &mut out, id, &view)?;
    out.finish()?;
    outcome(id, &view)
}

/// How a group that is over ended.
fn outcome(id: SnapshotId, view: &GroupView) -> Result<Outcome> {
    let others: Vec<String> = [MemberState::Failed, MemberState::Missing, MemberState::Processing]
        .into_iter()
        .filter(|state| view.members.iter().any(|member| member.state == *state))
        .map(|state| format!("{} {}", state.word(), view.names(state)))
        .collect();
    match view.state {
        GroupState::Completed => Ok(Outcome::Done),
        GroupState::Incomplete => {
            Ok(Outcome::Partial(format!("group {} was completed without all: {}", id.short(), others.join("; "))))
        }
        GroupState::Failed | GroupState::Processing => {
            let why = if view.message.is_empty() { String::new() } else { format!(" ({})", escape(&view.message)) };
            Err(Error::new(ErrorKind::Io, format!("group {} failed{why}: {}", id.short(), others.join("; "))))
        }
    }
}

/// The part of a member: its snapshot, as long as that is there.
fn part(repo: &Repository, id: SnapshotId, view: &GroupView, name: &[u8]) -> Result<SnapshotId> {
    let short = id.short();
    let Some(member) = view.members.iter().find(|member| member.name == name) else {
        let names: Vec<String> = view.round.members.iter().map(|name| escape(name)).collect();
        let text = format!("group {short} has no member {}: name one with --member ({})", escape(name), names.join(", "));
        return Err(Error::new(ErrorKind::NotFound, text));
    };
    let none = |why: &str| Error::new(ErrorKind::NotFound, format!("group {short} has no part of {}: {why}", escape(name)));
    let snapshot = member.snapshot.ok_or_else(|| none(&format!("it is {}", member.state.word())))?;
    match snapshots::names(repo)?.contains(&snapshot) {
        true => Ok(snapshot),
        false => Err(none("its snapshot is forgotten")),
    }
}

/// Refuses a group of which a part is missing.
fn is_whole(repo: &Repository, id: SnapshotId, view: &GroupView) -> Result<()> {
    for name in &view.round.members {
        part(repo, id, view, name).map_err(|e| {
            let next = "nothing was touched: restore another group, or this one without it with --unsafe-without-missing";
            e.context(next)
        })?;
    }
    Ok(())
}
