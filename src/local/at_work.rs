//! Whether other writers are at work: by what is in `sessions/`, without those that are known to be dead.
//!
//! This is only to work well beside others. Safety depends on every session that is there, dead or alive.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::local::watch::{Moment, SessionWatch};
use crate::model::SnapshotId;
use crate::repo::small::Small;
use crate::repo::{Repository, beat, session};
use crate::storage::{Class, Name};
use crate::sys::process::ProcessIdentity;

/// What one process has seen of the sessions of others. What this machine remembers of them is asked when one of them is new
/// or gives a sign of life.
#[derive(Debug)]
pub(crate) struct AtWork {
    own: SnapshotId,
    watch: Arc<SessionWatch>,
    seen: HashMap<SnapshotId, SeenSession>,
}

#[derive(Debug)]
struct SeenSession {
    who: Writer,
    /// The number of its newest sign of life that is authentic; 0: none.
    beat: u64,
    /// Signs that are not.
    made_up: HashSet<u64>,
}

/// Who a session is of.
#[derive(Debug)]
enum Writer {
    /// A process of this machine can be asked whether it lives. Others give signs of life.
    Process(ProcessIdentity),
    /// A newer program's.
    Newer,
    /// Nobody's: the object is made up, or damaged.
    Nobody,
}

impl Writer {
    fn of(repo: &Repository, id: SnapshotId) -> Self {
        match session::judge(repo, id) {
            Ok(Small::Sound(session)) => Writer::Process(session::identity(&session)),
            Ok(Small::Newer(..)) => Writer::Newer,
            Ok(Small::Damaged(..) | Small::MadeUp(_) | Small::Gone) => Writer::Nobody,
            // The storage could not be asked. It may be anybody's.
            Err(_) => Writer::Newer,
        }
    }
}

impl SeenSession {
    /// Whether only its signs of life tell if its writer lives.
    fn is_far(&self) -> bool {
        matches!(&self.who, Writer::Process(who) if !who.is_here())
    }

    /// Looks for the newest authentic of these signs of life; those that were looked at before are not read again. True:
    /// there is a new one.
    fn take(&mut self, repo: &Repository, id: SnapshotId, mut beats: Vec<u64>) -> bool {
        self.made_up.retain(|number| beats.contains(number));
        beats.sort_unstable();
        let before = self.beat;
        let unknown = beats.into_iter().rev().take_while(|number| *number > before);
        for number in unknown.filter(|number| !self.made_up.contains(number)).collect::<Vec<_>>() {
            match beat::is_authentic(repo, id, number) {
                Ok(()) => {
                    self.beat = number;
                    return true;
                }
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => drop(self.made_up.insert(number)),
                // It went when the next one came, or the storage could not be asked.
                Err(_) => {}
            }
        }
        false
    }
}

impl AtWork {
    /// Of all sessions but `own`. Nothing was seen yet but what `watch` remembers.
    pub(crate) fn new(own: SnapshotId, watch: Arc<SessionWatch>) -> Self {
        AtWork { own, watch, seen: HashMap::new() }
    }

    /// Lists the sessions. Each is read once. True: one of them is of a writer that may live.
    pub(crate) fn look(&mut self, repo: &Repository) -> Result<bool> {
        self.look_at(repo, &Moment::now())
    }

    fn look_at(&mut self, repo: &Repository, now: &Moment) -> Result<bool> {
        let (mut open, mut beats) = (HashSet::new(), HashMap::<SnapshotId, Vec<u64>>::new());
        for (name, _) in repo.storage().list(Class::Sessions)? {
            match name {
                Name::Session(id) if id != self.own => drop(open.insert(id)),
                Name::Beat(id, number) => beats.entry(id).or_default().push(number),
                _ => {}
            }
        }
        self.seen.retain(|id, _| open.contains(id));
        let mut is_new = false;
        for id in open {
            let new = || SeenSession { who: Writer::of(repo, id), beat: 0, made_up: HashSet::new() };
            is_new |= !self.seen.contains_key(&id);
            let seen = self.seen.entry(id).or_insert_with(new);
            if seen.is_far() {
                is_new |= seen.take(repo, id, beats.remove(&id).unwrap_or_default());
            }
        }
        let far: Vec<(SnapshotId, u64)> =
            self.seen.iter().filter(|(_, seen)| seen.is_far()).map(|(id, seen)| (*id, seen.beat)).collect();
        if is_new && !far.is_empty() {
            self.watch.look(&far, now);
        }
        Ok(self.seen.keys().any(|id| self.is_at_work_at(*id, now)))
    }

    /// Whether this session was open at the last look, and its writer may live.
    pub(crate) fn is_at_work(&self, id: SnapshotId) -> bool {
        self.is_at_work_at(id, &Moment::now())
    }

    fn is_at_work_at(&self, id: SnapshotId, now: &Moment) -> bool {
        match self.seen.get(&id).map(|seen| &seen.who) {
            Some(Writer::Process(who)) if who.is_here() => !who.is_gone(),
            Some(Writer::Process(who)) => !who.is_gone() && self.watch.stands(id, now) < beat::DEAD_AFTER,
            Some(Writer::Newer) => true,
            Some(Writer::Nobody) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chunk::keys::Credential;
    use crate::chunk::seal;
    use crate::format::config::{ChunkerParameters, Derivation};
    use crate::format::envelope::ObjectType;
    use crate::format::snapshot::{Session, encode_session};
    use crate::model::Timestamp;
    use crate::repo::InitOptions;
    use crate::storage::memory::MemoryStorage;

    const OWN: SnapshotId = SnapshotId([0xff; 32]);
    const OTHER: SnapshotId = SnapshotId([1; 32]);

    fn repository() -> Repository {
        let init = InitOptions {
            chunker: ChunkerParameters::DEFAULT,
            derivation: Derivation::KeyFile,
            now: Timestamp::default(),
            label: Vec::new(),
        };
        Repository::init(Arc::new(MemoryStorage::default()), &Credential::KeyFile([1; 32]), &init).unwrap()
    }

    /// Puts the session of a process into the repository, as that process would.
    fn put(repo: &Repository, who: ProcessIdentity) {
        let ProcessIdentity { host, machine, boot, namespace, pid, started } = who;
        let session = Session { host, boot, pid, started, machine, namespace, time: Timestamp::default(), lists: Vec::new() };
        let plain = encode_session(&session).unwrap();
        let object = seal::seal_object(ObjectType::Session, repo.id(), &OTHER.0, &repo.keys().snapshot, &plain).unwrap();
        repo.storage().create(&Name::Session(OTHER), &[&object]).unwrap();
    }

    fn elsewhere() -> ProcessIdentity {
        ProcessIdentity { host: b"far".to_vec(), machine: b"m".to_vec(), boot: b"b".to_vec(), ..ProcessIdentity::this() }
    }

    /// So many seconds after the boot of this number.
    fn at(boot: u8, uptime: u64) -> Moment {
        Moment { boot: [boot; 16], uptime, wall: 1_000_000 + uptime as i64 }
    }

    fn alone() -> AtWork {
        AtWork::new(OWN, Arc::default())
    }

    const DEAD: u64 = beat::DEAD_AFTER.as_secs();

    #[test]
    fn a_writer_whose_signs_of_life_stand_still_is_not_at_work() {
        let repo = repository();
        put(&repo, elsewhere());
        let mut at_work = alone();
        assert!(at_work.look_at(&repo, &at(1, 100)).unwrap());
        // A sign of life counts from when it was seen.
        beat::give(&repo, OTHER, 1).unwrap();
        assert!(at_work.look_at(&repo, &at(1, 1000)).unwrap());
        assert!(at_work.look_at(&repo, &at(1, 1000 + DEAD - 1)).unwrap());
        // Nothing new for the whole time: nobody follows it, though its session is still there.
        assert!(!at_work.look_at(&repo, &at(1, 1000 + DEAD)).unwrap());
        assert!(session::others(&repo, OWN).unwrap());
        // A sign that is made up is none, and is not read again.
        let made_up = Name::Beat(OTHER, 9);
        repo.storage().create(&made_up, &[b"a sign of nobody"]).unwrap();
        assert!(!at_work.look_at(&repo, &at(1, 1000 + DEAD)).unwrap());
        assert!(at_work.seen[&OTHER].made_up.contains(&9));
        // It was only slow: the next sign counts.
        beat::give(&repo, OTHER, 2).unwrap();
        assert!(at_work.look_at(&repo, &at(1, 1000 + DEAD)).unwrap());
    }

    /// Each ingest is a process of its own, and most of them end within the half hour.
    #[test]
    fn what_one_run_has_seen_the_next_run_knows() {
        let (repo, place) = (repository(), tempfile::tempdir().unwrap());
        put(&repo, elsewhere());
        let next = || AtWork::new(OWN, Arc::new(SessionWatch::new(Some(place.path()), repo.id())));
        assert!(next().look_at(&repo, &at(1, 100)).unwrap());
        assert!(next().look_at(&repo, &at(1, 100 + DEAD - 1)).unwrap());
        assert!(!next().look_at(&repo, &at(1, 100 + DEAD)).unwrap());
        // A prune looks at the same, and each leaves the other what it has seen.
        let pruned = SessionWatch::new(Some(place.path()), repo.id()).look(&[(OTHER, 0)], &at(1, 200 + DEAD));
        assert_eq!(pruned[&OTHER].time.as_secs(), 100 + DEAD);
        assert!(!next().look_at(&repo, &at(1, 300 + DEAD)).unwrap());
        beat::give(&repo, OTHER, 1).unwrap();
        assert!(next().look_at(&repo, &at(1, 400 + DEAD)).unwrap());
        // Without a memory it is as if nobody had looked before.
        assert!(alone().look_at(&repo, &at(1, 400 + 2 * DEAD)).unwrap());
    }

    #[test]
    fn a_session_that_nobody_with_the_key_made_is_nobody_at_work() {
        let repo = repository();
        repo.storage().create(&Name::Session(OTHER), &[b"garbage"]).unwrap();
        assert!(!alone().look(&repo).unwrap());
    }

    #[test]
    fn a_process_that_has_ended_is_not_at_work_from_the_first_look() {
        let repo = repository();
        // No process begins before the machine does: what is under this number now is another one.
        put(&repo, ProcessIdentity { started: 1, ..ProcessIdentity::this() });
        let mut at_work = alone();
        assert!(!at_work.look(&repo).unwrap() && !at_work.is_at_work(OTHER));
        repo.storage().delete(&Name::Session(OTHER)).unwrap();
        put(&repo, ProcessIdentity::this());
        let mut at_work = alone();
        assert!(at_work.look(&repo).unwrap() && at_work.is_at_work(OTHER));
    }
}
