//! How a set stands, by what is in the repository: when it was last run, when its last good snapshot was taken, and
//! whether the next one is overdue. No scheduler is asked: one that died could not tell.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::error::Result;
use crate::jobs::config::keys::Set;
use crate::jobs::schedule::Schedule;
use crate::jobs::units;
use crate::model::{Run, Snapshot, SnapshotId, Timestamp};
use crate::repo::snapshots::{self, SnapshotList};
use crate::repo::{Repository, runs, times};

/// Clocks of hosts differ by so many seconds; a run that began later than that is of the future, and counts for nothing.
const SLACK: i64 = 3600;

/// The snapshots and runs of a repository.
#[derive(Debug)]
pub struct History {
    snapshots: SnapshotList,
    runs: Vec<(SnapshotId, Run)>,
    now: Timestamp,
}

/// How a set of a host stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LastRuns {
    /// When the last run began that was carried out, whole or in part.
    pub last: Option<Timestamp>,
    /// How the last run ended, in a word; empty for none.
    pub state: &'static str,
    /// Why, if it was not whole.
    pub message: Vec<u8>,
    /// When the last one was taken that has everything.
    pub good: Option<Timestamp>,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotId>,
    /// The logical bytes of that.
    pub bytes: u64,
    /// Those of the one before, where it held more than twice as much: the source may have been empty.
    pub shrunk_from: Option<u64>,
}

impl History {
    /// Reads what there is at `now`.
    pub fn read(repo: &Repository, now: Timestamp) -> Result<Self> {
        Ok(History { snapshots: snapshots::find_unannotated(repo)?, runs: runs::list(repo)?.0, now })
    }

    /// How this set of these hosts stands: of what its snapshots are, and what the machine is called.
    pub fn of(&self, set: &str, hosts: &[Vec<u8>]) -> LastRuns {
        let mut out = LastRuns::default();
        for snapshot in self.snapshots.snapshots.iter().filter(|s| is_of(s, set) && hosts.contains(&s.host)) {
            let received = times::at(&self.snapshots.received, snapshot.id);
            let Some(time) = times::counting(snapshot, received, self.now) else { continue };
            out.last = out.last.max(Some(time));
            let bytes = snapshot.statistics.bytes;
            out.shrunk_from = Some(out.bytes).filter(|before| out.snapshot.is_some() && bytes < before / 2);
            (out.snapshot, out.bytes) = (Some(snapshot.id), bytes);
            if snapshot.statistics.errors == 0 {
                out.good = out.good.max(Some(time));
            }
        }
        let of_set = |run: &&Run| run.kind == Run::INGEST && run.set == set.as_bytes() && hosts.contains(&run.host);
        let past = |run: &&Run| run.started.secs <= self.now.secs.saturating_add(SLACK);
        for run in self.runs.iter().map(|(_, run)| run).filter(of_set).filter(past) {
            if matches!(run.state, Run::COMPLETE | Run::INCOMPLETE) {
                out.last = out.last.max(Some(run.started));
            }
            // A set that did not change leaves no snapshot.
            if run.state == Run::COMPLETE {
                out.good = out.good.max(Some(run.started));
            }
            (out.state, out.message) = (run.state_name(), run.message.clone());
        }
        out
    }

    /// The sets of all hosts, as their newest snapshots have them: host, name, keys.
    pub fn sets(&self) -> Vec<(Vec<u8>, String, Set)> {
        let mut newest: BTreeMap<(&[u8], &[u8]), &Snapshot> = BTreeMap::new();
        for snapshot in &self.snapshots.snapshots {
            if let Some(set) = &snapshot.composition.set {
                newest.insert((&snapshot.host, &set.name), snapshot);
            }
        }
        let keys = |((host, name), snapshot): ((&[u8], &[u8]), &Snapshot)| {
            let text = std::str::from_utf8(&snapshot.composition.set.as_ref()?.text).ok()?;
            Some((host.to_vec(), String::from_utf8(name.to_vec()).ok()?, toml::from_str(text).ok()?))
        };
        newest.into_iter().filter_map(keys).collect()
    }
}

fn is_of(snapshot: &Snapshot, set: &str) -> bool {
    snapshot.composition.set.as_ref().is_some_and(|of| of.name == set.as_bytes())
}

/// When a set is overdue, in seconds since 1970, when its last good snapshot is of this time and no other comes. A set says
/// so by `overdue-after`; else it is when a second slot of its schedule has come since. `None`: nobody expects it.
pub fn overdue_at(set: &Set, good: Option<i64>, zone: &TimeZone) -> Option<i64> {
    match (&set.overdue_after, &set.schedule) {
        (Some(after), _) => {
            let after = i64::try_from(units::parse_wait(after).ok()?.as_secs()).ok()?;
            Some(good.map_or(0, |good| good.saturating_add(after)))
        }
        (None, Some(schedule)) => {
            let schedule = Schedule::parse(schedule).ok()?;
            good.map_or(Some(0), |good| schedule.next(schedule.next(good, zone)?, zone))
        }
        (None, None) => None,
    }
}

/// Since when a set is overdue at `now`, as [`overdue_at`] says; `None`: it is not.
pub fn overdue(set: &Set, good: Option<i64>, zone: &TimeZone, now: i64) -> Option<i64> {
    overdue_at(set, good, zone).filter(|since| *since <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_runs_is_overdue_at_its_second_slot() {
        let set = |schedule: Option<&str>, after: Option<&str>| Set {
            schedule: schedule.map(str::to_owned),
            overdue_after: after.map(str::to_owned),
            ..Set::default()
        };
        let overdue = |set: &Set, good, now| overdue(set, good, &TimeZone::UTC, now);
        let day = 86_400;
        let daily = set(Some("daily"), None);
        assert_eq!(overdue(&daily, Some(100), 2 * day - 1), None);
        assert_eq!(overdue(&daily, Some(100), 2 * day), Some(2 * day));
        assert_eq!(overdue(&daily, None, day), Some(0));
        let after = set(Some("daily"), Some("26h"));
        assert_eq!(overdue(&after, Some(100), 26 * 3600), None);
        assert_eq!(overdue(&after, Some(100), 26 * 3600 + 100), Some(26 * 3600 + 100));
        assert_eq!(overdue(&set(None, None), None, day), None);
    }
}
