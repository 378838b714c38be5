//! How long sessions stood still, for writers whose process cannot be looked up from here. Measured by this machine's clock,
//! and remembered from one run to the next.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::local::state::LocalState;
use crate::model::{RepositoryId, SnapshotId, Timestamp};
use crate::sys::process;

/// A moment by the clocks of this machine. Since one boot, time is what has passed; across boots, what the clock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    /// A hash of the boot id.
    pub(crate) boot: [u8; 16],
    /// Seconds since the boot.
    pub(crate) uptime: u64,
    /// Seconds since 1970.
    pub(crate) wall: i64,
}

impl Moment {
    /// Now.
    pub(crate) fn now() -> Self {
        let mut boot = [0; 16];
        boot.copy_from_slice(&blake3::hash(&process::boot_id()).as_bytes()[..16]);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        Moment { boot, uptime: process::uptime().unwrap_or(0), wall }
    }

    /// The time from `then` to this moment.
    fn since(&self, then: &Moment) -> Duration {
        let seconds = match self.boot == then.boot && self.uptime > 0 {
            true => self.uptime.saturating_sub(then.uptime),
            false => u64::try_from(self.wall.saturating_sub(then.wall)).unwrap_or(0),
        };
        Duration::from_secs(seconds)
    }
}

/// What was seen of a session: its newest sign of life, and since when that is the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenBeat {
    /// The number of the sign; 0: none.
    pub(crate) beat: u64,
    /// When it was seen for the first time.
    pub(crate) first: Moment,
}

/// A session that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StalledSession {
    /// Since when, by the clock of this machine.
    pub(crate) since: Timestamp,
    /// For how long.
    pub(crate) time: Duration,
}

/// Watches the sessions of one repository.
#[derive(Debug, Default)]
pub(crate) struct SessionWatch {
    /// Where this machine remembers.
    place: Option<(PathBuf, RepositoryId)>,
    seen: Mutex<HashMap<SnapshotId, SeenBeat>>,
}

impl SessionWatch {
    /// Remembers below `directory`; `None`: only as long as this process runs.
    pub(crate) fn new(directory: Option<&Path>, repository: RepositoryId) -> Self {
        SessionWatch { place: directory.map(|directory| (directory.to_owned(), repository)), seen: Mutex::default() }
    }

    /// Takes note of the newest sign of life of each session that is open; answers how long each stands still.
    pub(crate) fn look(&self, sessions: &[(SnapshotId, u64)], now: &Moment) -> HashMap<SnapshotId, StalledSession> {
        let mut seen = self.seen.lock();
        // Another process may have it open: then only what this process has seen is used.
        if let Some(state) = self.place.as_ref().and_then(|(directory, id)| LocalState::open(directory, *id)) {
            let known = state.sessions();
            *seen = merge(&[&known, &seen], sessions, now);
            if known != *seen {
                state.note_sessions(&seen);
            }
        } else {
            *seen = merge(&[&seen], sessions, now);
        }
        let still = |seen: &SeenBeat| StalledSession {
            since: Timestamp { secs: seen.first.wall, nanos: 0 },
            time: now.since(&seen.first),
        };
        seen.iter().map(|(id, seen)| (*id, still(seen))).collect()
    }

    /// How long the newest sign of life that was seen of a session is the same; nothing, where none was looked at.
    pub(crate) fn stands(&self, id: SnapshotId, now: &Moment) -> Duration {
        self.seen.lock().get(&id).map_or(Duration::ZERO, |seen| now.since(&seen.first))
    }
}

/// Of each session what was known of its newest sign, or that it was seen now; others are forgotten.
fn merge(
    known: &[&HashMap<SnapshotId, SeenBeat>],
    sessions: &[(SnapshotId, u64)],
    now: &Moment,
) -> HashMap<SnapshotId, SeenBeat> {
    let of = |(id, beat): &(SnapshotId, u64)| {
        let found = known.iter().filter_map(|known| known.get(id)).find(|seen| seen.beat == *beat);
        (*id, found.cloned().unwrap_or_else(|| SeenBeat { beat: *beat, first: now.clone() }))
    };
    sessions.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SnapshotId = SnapshotId([1; 32]);

    fn at(boot: u8, uptime: u64, wall: i64) -> Moment {
        Moment { boot: [boot; 16], uptime, wall }
    }

    fn still(watch: &SessionWatch, beat: u64, now: Moment) -> u64 {
        watch.look(&[(ID, beat)], &now)[&ID].time.as_secs()
    }

    #[test]
    fn a_session_stands_still_as_long_as_its_sign_is_the_same() {
        let times = || {
            let place = tempfile::tempdir().expect("a directory");
            let watch = SessionWatch::new(Some(place.path()), RepositoryId([1; 16]));
            let mut times = vec![still(&watch, 0, at(1, 100, 5000)), still(&watch, 0, at(1, 160, 5060))];
            // The clock was set; what has passed since the boot counts.
            times.extend([still(&watch, 0, at(1, 170, 999_999)), still(&watch, 1, at(1, 180, 5080))]);
            // The next run, after a boot, remembers.
            let next = SessionWatch::new(Some(place.path()), RepositoryId([1; 16]));
            times.extend([still(&next, 1, at(2, 10, 6080)), still(&next, 2, at(2, 20, 6090))]);
            // One that ended is forgotten.
            next.look(&[], &at(2, 30, 7000));
            times.push(still(&next, 2, at(2, 40, 8000)));
            times
        };
        // A memory that somebody has open, as a process that another test is starting, or that does not answer in time, is
        // none; then it is tried again.
        let expected = [0_u64, 60, 70, 0, 1000, 0, 0];
        let found = std::iter::repeat_with(times).take(20).find(|times| *times == expected);
        assert!(found.is_some(), "{:?}", times());
    }

    #[test]
    fn without_a_memory_a_process_sees_what_it_sees() {
        let watch = SessionWatch::default();
        assert_eq!(still(&watch, 3, at(1, 100, 5000)), 0);
        assert_eq!(still(&watch, 3, at(1, 130, 5000)), 30);
    }
}
