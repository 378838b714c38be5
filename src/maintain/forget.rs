//! Forgetting snapshots: a mark beside each says that it no longer counts. Nothing is deleted here; prune does that.

use std::collections::{BTreeMap, HashSet};

use jiff::tz::TimeZone;

use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::Mark;
use crate::maintain::retention::{self, GroupBy, Policy};
use crate::model::{Snapshot, SnapshotId, Timestamp, WriterId, escape};
use crate::observe::Event;
use crate::repo::Repository;
use crate::repo::snapshots::{self, SnapshotFilter};
use crate::repo::times;
use crate::repo::{chain, marks};
use crate::storage::Name;
use crate::task::Task;

/// What a policy makes of one series.
#[derive(Debug, Default)]
pub struct Series<'a> {
    /// What stays, oldest first, each with at least one reason.
    pub keep: Vec<(&'a Snapshot, Vec<String>)>,
    /// What goes, oldest first.
    pub remove: Vec<&'a Snapshot>,
    /// What they have in common.
    pub group_by: GroupBy,
    /// The token that put all of them, where that makes series and a server knows it.
    pub token: Option<String>,
    /// The snapshots that show signs of a source that was turned over, where something stays for that alone.
    pub held: Vec<SnapshotId>,
    /// Of what stays by a rule that counts: snapshots that hold much less than one that goes.
    pub small: Vec<&'a Snapshot>,
}

impl<'a> Series<'a> {
    /// What all of them have in common: host, given paths, tags, each if it was asked for.
    pub fn name(&self) -> Common<'a> {
        let first = self.keep.first().map(|(snapshot, _)| *snapshot).or(self.remove.first().copied());
        first.map(|snapshot| common(snapshot, self.group_by)).unwrap_or_default()
    }
}

/// Host, given paths and tags that snapshots have in common; `None` for what they need not.
pub(crate) type Common<'a> = (Option<&'a [u8]>, Option<&'a [Vec<u8>]>, Option<&'a [Vec<u8>]>);

fn common(snapshot: &Snapshot, by: GroupBy) -> Common<'_> {
    let (host, paths) = snapshot.series();
    (by.host.then_some(host), by.paths.then_some(paths), by.tags.then_some(&snapshot.tags))
}

/// What is to be forgotten is refused when nothing would be left of a series (a policy) or of the repository (ids).
const ALL: &str = "(--unsafe-allow-remove-all does it nevertheless)";

/// A snapshot that holds so many times less than one that it pushes out is told.
const MUCH: u64 = 10;

/// Applies `policy` to every series of `snapshots` (oldest first) as far as they pass `filter`. An empty policy keeps
/// nothing: it is refused unless `all` may go and a filter says which.
pub fn by_policy<'a>(
    snapshots: &'a [Snapshot],
    filter: &SnapshotFilter,
    policy: &Policy,
    zone: &TimeZone,
    now: Timestamp,
    all: bool,
) -> Result<Vec<Series<'a>>> {
    let filtered = !(filter.hosts.is_empty() && filter.tags.is_empty() && filter.paths.is_empty());
    if policy.is_empty() && !(all && filtered) {
        return Err(retention::no_policy());
    }
    let series = series_of(snapshots.iter().filter(|s| filter.matches(s)), policy);
    let together = kept_groups(snapshots, filter, policy, zone, now);
    let mut out = Vec::with_capacity(series.len());
    for ((_, token, _), list) in series {
        let newest_first: Vec<&Snapshot> = list.iter().rev().copied().collect();
        let reasons = policy.apply(&newest_first, zone, now);
        let mut found = Series { group_by: policy.group_by, token, ..Series::default() };
        let held = policy.held(&newest_first);
        for ((snapshot, mut why), turned) in newest_first.into_iter().zip(reasons).zip(held).rev() {
            if why.is_empty() {
                found.held.extend(turned.filter(|id| !found.held.contains(id)));
            }
            // Those that are much changed stay, too: with them it would not be known any more.
            why.extend(turned.map(|id| match id == snapshot.id {
                true => "much changed".to_owned(),
                false => format!("before {}, which is much changed", id.short()),
            }));
            if policy.pinned.contains(&snapshot.id) {
                why.push("pinned".to_owned());
            }
            if why.is_empty() && snapshot.composition.group.as_ref().is_some_and(|part| together.contains(&part.group)) {
                why.push("another part of its group stays".to_owned());
            }
            match why.is_empty() {
                true => found.remove.push(snapshot),
                false => found.keep.push((snapshot, why)),
            }
        }
        if found.keep.is_empty() && !all {
            let (host, paths, _) = found.name();
            let host = host.map_or("all hosts".to_owned(), escape);
            let first = paths.and_then(<[_]>::first).map_or("all paths".to_owned(), |path| escape(path));
            let more = paths.map_or(0, |paths| paths.len().saturating_sub(1));
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(Error::invalid(format!("the policy keeps no snapshot of {host}: {first}{more} {ALL}")));
        }
        let largest = found.remove.iter().map(|s| s.statistics.bytes).max().unwrap_or(0);
        let small = found.keep.iter().map(|(snapshot, _)| *snapshot);
        found.small = small.filter(|s| s.statistics.bytes < largest / MUCH).collect();
        out.push(found);
    }
    Ok(out)
}

/// What makes a series: what snapshots have in common, the token that put them, and the key that only writes and wrote
/// them. Whatever host such a key claims to be, it pushes out nothing but its own.
type PolicySeries<'a> = (Common<'a>, Option<String>, Option<WriterId>);

/// Series of snapshots, each in the order of these.
fn series_of<'a>(
    snapshots: impl Iterator<Item = &'a Snapshot>,
    policy: &Policy,
) -> BTreeMap<PolicySeries<'a>, Vec<&'a Snapshot>> {
    let mut series: BTreeMap<PolicySeries<'_>, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        let token = if policy.group_by.token { times::by(&policy.received, snapshot.id) } else { None };
        let key = (common(snapshot, policy.group_by), token.map(str::to_owned), snapshot.writer);
        series.entry(key).or_default().push(snapshot);
    }
    series
}

/// The groups of which the policy keeps a part, in any series: also in those that the filter leaves out, so that each host
/// that forgets with the same policy keeps the same groups.
fn kept_groups(
    snapshots: &[Snapshot],
    filter: &SnapshotFilter,
    policy: &Policy,
    zone: &TimeZone,
    now: Timestamp,
) -> HashSet<SnapshotId> {
    let group = |snapshot: &Snapshot| snapshot.composition.group.as_ref().map(|part| part.group);
    let meant: HashSet<SnapshotId> = snapshots.iter().filter(|s| filter.matches(s)).filter_map(group).collect();
    let mut out = HashSet::new();
    if meant.is_empty() {
        return out;
    }
    for list in series_of(snapshots.iter(), policy).into_values() {
        let newest_first: Vec<&Snapshot> = list.into_iter().rev().collect();
        let reasons = policy.apply(&newest_first, zone, now);
        let held = policy.held(&newest_first);
        let stays = newest_first.iter().zip(reasons.iter().zip(held));
        let stays = stays.filter(|(s, (why, held))| held.is_some() || !why.is_empty() || policy.pinned.contains(&s.id));
        out.extend(stays.filter_map(|(snapshot, _)| group(snapshot)).filter(|group| meant.contains(group)));
    }
    out
}

/// The snapshots that `names` stand for. Beside what [`snapshots::find`] knows, a name may be the beginning of the id of
/// a damaged snapshot, or the whole id of one that is lost: `lost`, or the parent of another. Refuses to leave the
/// repository without any unless `all` may go.
pub fn by_names(
    repo: &Repository,
    snapshots: &[Snapshot],
    names: &[String],
    filter: &SnapshotFilter,
    lost: &[SnapshotId],
    all: bool,
) -> Result<Vec<SnapshotId>> {
    let mut out = Vec::new();
    for name in names {
        let id = match snapshots::find(snapshots, name, filter) {
            Ok(found) => found.id,
            Err(e) if e.kind() == ErrorKind::NotFound => unreadable(repo, snapshots, name, lost)?.ok_or(e)?,
            Err(e) => return Err(e),
        };
        if !out.contains(&id) {
            out.push(id);
        }
    }
    if !all && !snapshots.is_empty() && snapshots.iter().all(|s| out.contains(&s.id)) {
        return Err(Error::invalid(format!("no snapshot would be left in the repository {ALL}")));
    }
    Ok(out)
}

fn unreadable(repo: &Repository, snapshots: &[Snapshot], name: &str, lost: &[SnapshotId]) -> Result<Option<SnapshotId>> {
    let known: HashSet<SnapshotId> = snapshots.iter().map(|s| s.id).collect();
    let mut found = None;
    for id in snapshots::names(repo)?.into_iter().filter(|id| !known.contains(id) && id.to_string().starts_with(name)) {
        // A fence is no snapshot and has to stay.
        if snapshots::load(repo, id).is_err() && found.replace(id).is_some() {
            return Err(Error::invalid(format!("{name} is the beginning of several snapshot ids: give more digits")));
        }
    }
    let is_lost =
        |id: &SnapshotId| lost.contains(id) || snapshots.iter().any(|s| s.parent == Some(*id) || s.before().contains(id));
    Ok(found.or_else(|| SnapshotId::parse(name).ok().filter(is_lost)))
}

/// What stands in the marks of forgotten snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForgetOptions {
    /// Why they are forgotten, for people.
    pub why: Vec<u8>,
    /// For so many seconds prune leaves them alone.
    pub grace: u64,
}

/// Marks snapshots as forgotten: `forgotten/<id>` for each, durable when this returns. Nothing is deleted. What could
/// not be marked is reported and left out of the answer.
pub fn forget(repo: &Repository, ids: &[SnapshotId], options: &ForgetOptions, task: &Task<'_>) -> Result<Vec<SnapshotId>> {
    let mut done = Vec::with_capacity(ids.len());
    let now = task.now();
    let mut behind = chain::behind(repo, ids)?;
    for id in ids {
        let follows = behind.remove(id).unwrap_or_default();
        match marks::write(repo, &Mark { follows, grace: options.grace, ..marks::mark(*id, now, &options.why) }) {
            Ok(()) => done.push(*id),
            Err(e) => {
                let message = format!("it could not be forgotten: {e}");
                task.observer.event(&Event::Warning { subject: Name::Snapshot(*id).to_string().as_bytes(), message: &message });
            }
        }
    }
    if !done.is_empty() {
        repo.storage().sync()?;
    }
    Ok(done)
}
