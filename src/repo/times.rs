//! Which of two snapshots is the older one. What a snapshot says of its time is what the clock of its host said, and who
//! makes it can put any time in. So a time of receipt, where a server stamped one, bounds it, and a time that is still to
//! come is no time at all.

use std::collections::HashMap;

use crate::error::Result;
use crate::model::{Snapshot, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::storage::{Class, Name, Receipt};
use crate::sys::clock;

/// A time counts as being in the future when it is more than so many seconds ahead: clocks and time zones of hosts differ.
const SLACK: i64 = 86_400;

/// When a server received each snapshot, by its own clock, and from whom.
pub type Received = HashMap<SnapshotId, Receipt>;

/// When a snapshot was received, if that is known.
pub fn at(received: &Received, id: SnapshotId) -> Option<Timestamp> {
    received.get(&id).map(|receipt| receipt.at)
}

/// The token that put a snapshot, if that is known.
pub fn by(received: &Received, id: SnapshotId) -> Option<&str> {
    received.get(&id)?.by.as_deref()
}

/// Whether these snapshots are of more than one token, as far as that is known.
pub fn differ(received: &Received, snapshots: &[Snapshot]) -> bool {
    let mut tokens = snapshots.iter().map(|snapshot| by(received, snapshot.id));
    tokens.next().is_some_and(|first| tokens.any(|other| other != first))
}

/// Asks when snapshots were received, and from whom; nothing where there is no server.
pub(crate) fn received(repo: &Repository) -> Result<Received> {
    let received = repo.storage().received(Class::Snapshots)?.into_iter();
    Ok(received.filter_map(|(name, receipt)| if let Name::Snapshot(id) = name { Some((id, receipt)) } else { None }).collect())
}

/// The time that counts for a snapshot: the earlier of what it says and when it was received, and not later than now.
/// `None`: both are of the future.
pub(crate) fn counting(snapshot: &Snapshot, received: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let time = received.map_or(snapshot.time, |received| received.min(snapshot.time));
    (time.secs <= now.secs.saturating_add(SLACK)).then(|| time.min(now))
}

/// Sorts snapshots, the oldest first. Those of the future come before all others: one that was made while a clock was
/// ahead is not the latest until then.
pub fn sort(snapshots: &mut [Snapshot], received: &Received) {
    let now = clock::now();
    snapshots.sort_by_cached_key(|s| order(s, at(received, s.id), now));
}

/// By which snapshots are sorted.
pub fn order(snapshot: &Snapshot, received: Option<Timestamp>, now: Timestamp) -> (Option<Timestamp>, Timestamp, SnapshotId) {
    (counting(snapshot, received, now), snapshot.time, snapshot.id)
}
