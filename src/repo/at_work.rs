//! Whether other writers are at work: by what is in `sessions/`, without those that are known to be dead.
//!
//! This is only to work well beside others. What is safe goes by every session that is there, whoever left it.

use std::collections::HashMap;
use std::time::Instant;

use crate::error::Result;
use crate::model::SnapshotId;
use crate::repo::{Repository, beat, session};
use crate::storage::{Class, Name};
use crate::sys::process::ProcessIdentity;

/// What one process has seen of the sessions of others.
#[derive(Debug)]
pub struct AtWork {
    own: SnapshotId,
    seen: HashMap<SnapshotId, SeenSession>,
}

#[derive(Debug)]
struct SeenSession {
    /// Who it is of, where that could be read.
    who: Option<ProcessIdentity>,
    /// The number of its newest sign of life, and since when that is the newest.
    beat: u64,
    since: Instant,
}

impl SeenSession {
    /// A process of this machine is asked. Others give signs of life.
    fn is_at_work(&self, now: Instant) -> bool {
        match &self.who {
            Some(who) if who.is_here() => !who.is_gone(),
            Some(who) if who.is_gone() => false,
            _ => now.saturating_duration_since(self.since) < beat::DEAD_AFTER,
        }
    }
}

impl AtWork {
    /// Of all sessions but `own`. Nothing was seen yet.
    pub fn new(own: SnapshotId) -> Self {
        AtWork { own, seen: HashMap::new() }
    }

    /// Lists the sessions. Each is read once. True: one of them is of a writer that may live.
    pub fn look(&mut self, repo: &Repository) -> Result<bool> {
        self.look_at(repo, Instant::now())
    }

    fn look_at(&mut self, repo: &Repository, now: Instant) -> Result<bool> {
        let mut listed: HashMap<SnapshotId, (bool, u64)> = HashMap::new();
        for (name, _) in repo.storage().list(Class::Sessions)? {
            match name {
                Name::Session(id) => listed.entry(id).or_default().0 = true,
                Name::Beat(id, number) => {
                    let newest = &mut listed.entry(id).or_default().1;
                    *newest = number.max(*newest);
                }
                _ => {}
            }
        }
        listed.retain(|id, (open, _)| *open && *id != self.own);
        self.seen.retain(|id, _| listed.contains_key(id));
        for (id, (_, beat)) in listed {
            let new = || SeenSession { who: session::read(repo, id).ok().map(|s| session::identity(&s)), beat, since: now };
            let seen = self.seen.entry(id).or_insert_with(new);
            if seen.beat != beat {
                (seen.beat, seen.since) = (beat, now);
            }
        }
        Ok(self.seen.values().any(|seen| seen.is_at_work(now)))
    }

    /// Whether this session was open at the last look, and its writer may live.
    pub fn is_at_work(&self, id: SnapshotId) -> bool {
        self.seen.get(&id).is_some_and(|seen| seen.is_at_work(Instant::now()))
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

    #[test]
    fn a_writer_whose_signs_of_life_stand_still_is_not_at_work() {
        let repo = repository();
        put(&repo, elsewhere());
        let began = Instant::now();
        let mut at_work = AtWork::new(OWN);
        assert!(at_work.look_at(&repo, began).unwrap());
        // A sign of life counts from when it was seen.
        beat::give(&repo, OTHER, 1).unwrap();
        let seen = began + beat::DEAD_AFTER / 2;
        assert!(at_work.look_at(&repo, seen).unwrap());
        let last = seen + beat::DEAD_AFTER;
        assert!(at_work.look_at(&repo, last - std::time::Duration::from_secs(1)).unwrap());
        // Nothing new for the whole time: nobody follows it, though its session is still there.
        assert!(!at_work.look_at(&repo, last).unwrap());
        assert!(session::others(&repo, OWN).unwrap());
        // It was only slow: the next sign counts.
        beat::give(&repo, OTHER, 2).unwrap();
        assert!(at_work.look_at(&repo, last).unwrap());
    }

    #[test]
    fn a_process_that_has_ended_is_not_at_work_from_the_first_look() {
        let repo = repository();
        // No process begins before the machine does: what is under this number now is another one.
        put(&repo, ProcessIdentity { started: 1, ..ProcessIdentity::this() });
        let mut at_work = AtWork::new(OWN);
        assert!(!at_work.look(&repo).unwrap() && !at_work.is_at_work(OTHER));
        repo.storage().delete(&Name::Session(OTHER)).unwrap();
        put(&repo, ProcessIdentity::this());
        let mut at_work = AtWork::new(OWN);
        assert!(at_work.look(&repo).unwrap() && at_work.is_at_work(OTHER));
    }
}
