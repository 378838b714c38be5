//! Signs of life of writers: while a session is open, its writer gives one every few minutes, so that those who cannot ask
//! its process whether it lives can tell that it does.
//!
//! A sign is a small object beside the session, `sessions/<id>.<number>`; the next one has the next number, and then the
//! one before it is deleted. What counts is that the number of the newest changes, not any time that it states.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::chunk::seal;
use crate::error::Result;
use crate::format::envelope::ObjectType;
use crate::format::snapshot;
use crate::model::{SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::storage::Name;

/// How often a writer gives a sign of life.
pub(crate) const PERIOD: Duration = Duration::from_secs(5 * 60);

/// A writer that gave no sign of life for this long, by the observer's clock, counts as dead.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(30 * 60);

/// Gives signs of life until it is dropped; then the last one is deleted. That comes before the session ends.
#[derive(Debug)]
pub(crate) struct Beats {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beats {
    /// Begins for the session `id`. The first sign is given after `period`: short sessions have none.
    pub(crate) fn start(repo: &Repository, id: SnapshotId, period: Duration) -> Self {
        let repo = Arc::new(repo.on(repo.storage().clone()));
        let (stop, stopped) = bounded::<()>(0);
        let run = move || {
            let (mut next, mut last) = (1, None);
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                // One that could not be given is given later; the storage may be away for a while.
                if give(&repo, id, next).is_ok() {
                    last.replace(next).map(|before| repo.storage().delete(&Name::Beat(id, before)));
                    next += 1;
                }
            }
            last.map(|last| repo.storage().delete(&Name::Beat(id, last)));
        };
        // Without a thread there are no signs, and others may take the writer for dead: then it begins again.
        let thread = std::thread::Builder::new().name("session".to_owned()).spawn(run).ok();
        Beats { stop: Some(stop), thread }
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

/// Gives the sign of this number.
pub fn give(repo: &Repository, id: SnapshotId, number: u64) -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() };
    let plain = snapshot::encode_beat(number, now);
    let object = seal::seal_object(ObjectType::Beat, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    repo.storage().create(&Name::Beat(id, number), &[&object]).map(drop)
}

/// Whether the sign of this number is there and of a writer of this repository.
pub(crate) fn is_authentic(repo: &Repository, id: SnapshotId, number: u64) -> Result<()> {
    let name = Name::Beat(id, number);
    let mut object = Vec::new();
    repo.storage().read(&name, None, &mut object)?;
    let opened = seal::open_object(ObjectType::Beat, repo.id(), &id.0, &repo.keys().snapshot, &object, "a sign of life");
    match opened.and_then(|plain| snapshot::decode_beat(&plain)).map_err(|e| e.about(name))? {
        (said, _) if said == number => Ok(()),
        _ => Err(crate::error::Error::corrupt("it was given under another number").about(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::keys::Credential;
    use crate::format::config::{ChunkerParameters, Derivation};
    use crate::repo::InitOptions;
    use crate::storage::Class;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn signs_follow_each_other_and_go_with_the_writer() {
        let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::KeyFile);
        let options = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
        let repo = Repository::init(Arc::new(MemoryStorage::default()), &Credential::KeyFile([1; 32]), &options).unwrap();
        let id = SnapshotId([7; 32]);
        let newest = || {
            let listed = repo.storage().list(Class::Sessions).unwrap();
            listed.into_iter().filter_map(|(name, _)| if let Name::Beat(of, n) = name { Some((of, n)) } else { None }).max()
        };
        let beats = Beats::start(&repo, id, Duration::from_millis(5));
        while newest().is_none_or(|(_, number)| number < 3) {
            std::thread::yield_now();
        }
        drop(beats);
        assert_eq!(newest(), None);
        give(&repo, id, 9).unwrap();
        is_authentic(&repo, id, 9).unwrap();
        // The same bytes under another number.
        let mut object = Vec::new();
        repo.storage().read(&Name::Beat(id, 9), None, &mut object).unwrap();
        repo.storage().create(&Name::Beat(id, 10), &[&object]).unwrap();
        assert!(is_authentic(&repo, id, 10).is_err());
    }
}
