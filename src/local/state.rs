//! What this machine remembers of a repository, in sled: small, mutable, and never the only copy of a fact.
//!
//! Three things: the snapshots that were seen (a repository that shows fewer of them, without saying that they were
//! forgotten, has gone back in time or lost them, and its host may not say so), when each pack was last found
//! to be sound, and which sessions of writers stand still since when. All of it may be deleted, damaged or in use at any
//! time: then nothing is remembered, and the result of every command is the same.
//!
//! sled has been seen to panic, to hang and to grow on files that a crash or a disk damaged (sled#1410, #1533, #1093).
//! So it lives on a thread of its own. A caller waits a while for an answer and then goes on without; after a panic
//! there is no answer. Every value carries a checksum over its place and its content: what sled gives back and was not
//! put there is nothing. A database that cannot be opened, or has grown out of proportion, is put aside and begun anew.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::error::Result;
use crate::local::watch::{Moment, SeenBeat};
use crate::model::{PackId, RepositoryId, SnapshotId, Timestamp};
use crate::repo::{Repository, marks};

/// sled's page cache: what is kept here is small.
const CACHE: u64 = 1 << 20;
/// A database of more bytes on disk than this is put aside unread.
const MOST: u64 = 64 << 20;
/// One of more bytes than this is made anew when it has more than [`SLACK`] times what it holds.
const SMALL: u64 = 4 << 20;
/// See [`SMALL`].
const SLACK: u64 = 4;
/// What sled needs for an entry besides its bytes, about.
const OVERHEAD: u64 = 32;
/// Nothing is waited for any longer: a database that hangs is rare, and a machine that is busy must not look like one.
const PATIENCE: Duration = Duration::from_secs(60);
/// One that is in use is asked for so often, with [`PAUSE`] between: others mostly need it for a moment.
const TRIES: u32 = 40;
/// See [`TRIES`].
const PAUSE: Duration = Duration::from_millis(25);
/// Bytes of checksum at the end of every value.
const CHECKSUM: usize = 16;
/// The thread that sled lives on; its own are called `sled-io-1` and so on.
const THREAD: &str = "sled-yester";

/// This machine's memory of one repository.
#[derive(Debug)]
pub struct LocalState {
    /// `None` only while it is dropped.
    requests: Option<Sender<Request>>,
    ended: Receiver<()>,
    /// A request was not answered: no other will be.
    broken: AtomicBool,
}

type Request = Box<dyn FnOnce(&StateDatabase) + Send>;

impl LocalState {
    /// Opens the memory of `repository` below `directory` (made if need be). `None` when it cannot be had: it is in
    /// use, the directory cannot be written, or it is damaged for the second time; damage is put aside once.
    pub fn open(directory: &Path, repository: RepositoryId) -> Option<Self> {
        keep_panics_quiet();
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(directory).ok()?;
        let path = directory.join(format!("{repository}.sled"));
        if size(&path) > MOST {
            put_aside(&path)?;
        }
        let mut started = Self::start(&path, repository);
        for _ in 1..TRIES {
            if matches!(started, Err(Failure::InUse)) {
                thread::sleep(PAUSE);
                started = Self::start(&path, repository);
            }
        }
        let state = match started {
            Ok(state) => state,
            Err(Failure::InUse | Failure::Unavailable) => return None,
            Err(Failure::Damaged) => {
                put_aside(&path)?;
                Self::start(&path, repository).ok()?
            }
        };
        state.without_slack(&path, repository)
    }

    /// Starts the thread and waits until it has opened the database.
    fn start(path: &Path, repository: RepositoryId) -> Result<Self, Failure> {
        let (requests, incoming) = unbounded::<Request>();
        let (opened, answer) = bounded(1);
        let (end, ended) = bounded(1);
        let path = path.to_owned();
        let run = move || {
            // A database that panicked is not closed: its destructors would panic too, and two at once end the process.
            let store = match catch_unwind(|| StateDatabase::open(&path, repository)) {
                Ok(Ok(store)) => std::mem::ManuallyDrop::new(store),
                Ok(Err(failure)) => return drop(opened.send(Err(failure))),
                Err(_) => return drop(opened.send(Err(Failure::Damaged))),
            };
            let _ = opened.send(Ok(()));
            for request in incoming {
                if catch_unwind(AssertUnwindSafe(|| request(&store))).is_err() {
                    return;
                }
            }
            let store = std::mem::ManuallyDrop::into_inner(store);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(store)));
            let _ = end.send(());
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(run).map_err(|_| Failure::Unavailable)?;
        // No answer: it hangs, and will the next time.
        answer.recv_timeout(PATIENCE).unwrap_or(Err(Failure::Damaged))?;
        Ok(LocalState { requests: Some(requests), ended, broken: AtomicBool::new(false) })
    }

    /// Asks the thread; `None` when it does not answer.
    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&StateDatabase) -> T + Send + 'static) -> Option<T> {
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        let (send, answer) = bounded(1);
        let request: Request = Box::new(move |store| drop(send.send(question(store))));
        let asked = self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok());
        let answer = asked.then(|| answer.recv_timeout(PATIENCE).ok()).flatten();
        if answer.is_none() {
            self.broken.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// The same memory without what sled keeps for nothing: made anew with what it holds, when it is far too long.
    fn without_slack(self, path: &Path, repository: RepositoryId) -> Option<Self> {
        let size = size(path);
        if size <= SMALL {
            return Some(self);
        }
        let live = self.ask(|store| store.everything())?;
        let bytes: u64 = live.iter().map(|(_, key, value)| (key.len() + value.len()) as u64 + OVERHEAD).sum();
        if size <= bytes.saturating_mul(SLACK) {
            return Some(self);
        }
        drop(self);
        put_aside(path)?;
        let state = Self::start(path, repository).ok()?;
        state.ask(move |store| {
            live.iter().for_each(|(table, key, value)| store.put(*table, key, value));
            store.flush();
        })?;
        Some(state)
    }

    /// The snapshots that were seen here, are not there any more, and were not forgotten. Remembers those that are.
    /// `list` lists the snapshots of the repository. It is called when what was seen has been read: another process may
    /// remember one at any time, and one that is remembered is listed from then on.
    pub fn vanished(&self, repo: &Repository, list: impl FnOnce() -> Result<Vec<SnapshotId>>) -> Result<Vec<SnapshotId>> {
        let seen = self.ask(|store| store.keys(StateTable::Seen)).unwrap_or_default();
        let seen: HashSet<SnapshotId> = seen.into_iter().map(SnapshotId).collect();
        let present: HashSet<SnapshotId> = list()?.into_iter().collect();
        let mut gone: Vec<SnapshotId> = seen.difference(&present).copied().collect();
        let mut forgotten: Vec<SnapshotId> = Vec::new();
        if !gone.is_empty() {
            let marked = marks::forgotten_among(repo, &gone)?;
            (forgotten, gone) = gone.into_iter().partition(|id| marked.contains(id));
        }
        let new: Vec<SnapshotId> = present.difference(&seen).copied().collect();
        if !new.is_empty() || !forgotten.is_empty() {
            // Failing to remember costs this look at the next time.
            self.ask(move |store| {
                forgotten.iter().for_each(|id| store.remove(StateTable::Seen, &id.0));
                new.iter().for_each(|id| store.put(StateTable::Seen, &id.0, &[]));
                store.flush();
            });
        }
        gone.sort_unstable();
        Ok(gone)
    }

    /// Remembers that these snapshots were seen. False: it does not.
    pub fn note_seen(&self, ids: &[SnapshotId]) -> bool {
        let ids = ids.to_vec();
        let noted = self.ask(move |store| {
            ids.iter().for_each(|id| store.put(StateTable::Seen, &id.0, &[]));
            store.flush();
        });
        noted.is_some()
    }

    /// When the pack was last read whole and found to be sound.
    pub fn verified(&self, pack: PackId) -> Option<Timestamp> {
        self.ask(move |store| decode_time(&store.get(StateTable::Verified, &pack.0)?))?
    }

    /// The same of all packs that were.
    pub fn all_verified(&self) -> HashMap<PackId, Timestamp> {
        let all = self.ask(|store| store.all(StateTable::Verified)).unwrap_or_default();
        all.into_iter().filter_map(|(key, value)| Some((PackId(key), decode_time(&value)?))).collect()
    }

    /// Remembers that these packs were found to be sound. False: it does not.
    pub fn note_verified(&self, packs: &[PackId], now: Timestamp) -> bool {
        let packs = packs.to_vec();
        let noted = self.ask(move |store| {
            packs.iter().for_each(|pack| store.put(StateTable::Verified, &pack.0, &encode_time(now)));
            store.flush();
        });
        noted.is_some()
    }

    /// Forgets when these packs were found to be sound: they are not any more, or gone. False: it does not.
    pub fn drop_verified(&self, packs: &[PackId]) -> bool {
        let packs = packs.to_vec();
        let dropped = self.ask(move |store| {
            packs.iter().for_each(|pack| store.remove(StateTable::Verified, &pack.0));
            store.flush();
        });
        dropped.is_some()
    }

    /// What was seen here of the sessions of writers.
    pub(crate) fn sessions(&self) -> HashMap<SnapshotId, SeenBeat> {
        let all = self.ask(|store| store.all(StateTable::Sessions)).unwrap_or_default();
        all.into_iter().filter_map(|(key, value)| Some((SnapshotId(key), decode_seen(&value)?))).collect()
    }

    /// Remembers what was seen of the sessions of writers, and nothing else of any. False: it does not.
    pub(crate) fn note_sessions(&self, seen: &HashMap<SnapshotId, SeenBeat>) -> bool {
        let seen: HashMap<[u8; 32], Vec<u8>> = seen.iter().map(|(id, seen)| (id.0, encode_seen(seen))).collect();
        let noted = self.ask(move |store| {
            for key in store.keys(StateTable::Sessions).into_iter().filter(|key| !seen.contains_key(key)) {
                store.remove(StateTable::Sessions, &key);
            }
            seen.iter().for_each(|(key, value)| store.put(StateTable::Sessions, key, value));
            store.flush();
        });
        noted.is_some()
    }
}

impl Drop for LocalState {
    /// Waits until the database is closed, so that the next one can open it.
    fn drop(&mut self) {
        self.requests = None;
        if !self.broken.load(Ordering::Relaxed) {
            let _ = self.ended.recv_timeout(PATIENCE);
        }
    }
}

/// Why a database was not opened.
enum Failure {
    /// Another process has it.
    InUse,
    /// There is nothing to be done about it: no room, no permission.
    Unavailable,
    /// It is not what it should be.
    Damaged,
}

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StateTable {
    Seen,
    Verified,
    Sessions,
}

impl StateTable {
    const ALL: [StateTable; 3] = [StateTable::Seen, StateTable::Verified, StateTable::Sessions];

    fn name(self) -> &'static [u8] {
        match self {
            StateTable::Seen => b"snapshots seen",
            StateTable::Verified => b"packs verified",
            StateTable::Sessions => b"sessions seen",
        }
    }
}

/// The open database, on its thread.
struct StateDatabase {
    db: sled::Db,
    trees: [sled::Tree; 3],
    repository: RepositoryId,
}

impl StateDatabase {
    fn open(path: &Path, repository: RepositoryId) -> Result<Self, Failure> {
        let failed = |e: sled::Error| match e {
            sled::Error::Io(e) if is_damage(&e) => Failure::Damaged,
            // sled gives no other kind for a lock that is held. What else has this kind may be tried again.
            sled::Error::Io(e) if e.kind() == std::io::ErrorKind::Other => Failure::InUse,
            sled::Error::Io(_) => Failure::Unavailable,
            _ => Failure::Damaged,
        };
        let config = sled::Config::new().path(path).cache_capacity(CACHE).flush_every_ms(None);
        let db = config.open().map_err(failed)?;
        let tree = |table: StateTable| db.open_tree(table.name()).map_err(failed);
        let trees = [tree(StateTable::Seen)?, tree(StateTable::Verified)?, tree(StateTable::Sessions)?];
        Ok(StateDatabase { db, trees, repository })
    }

    fn tree(&self, table: StateTable) -> &sled::Tree {
        let [seen, verified, sessions] = &self.trees;
        match table {
            StateTable::Seen => seen,
            StateTable::Verified => verified,
            StateTable::Sessions => sessions,
        }
    }

    fn checksum(&self, table: StateTable, key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
        let mut hasher = blake3::Hasher::new_derive_key("local state of yester, a value");
        hasher.update(&self.repository.0).update(&[table as u8, key.len() as u8]).update(key).update(value);
        let mut sum = [0; CHECKSUM];
        hasher.finalize_xof().fill(&mut sum);
        sum
    }

    /// The content of a stored value, if it is what was put there.
    fn open_value(&self, table: StateTable, key: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
        let (value, sum) = stored.split_last_chunk::<CHECKSUM>()?;
        (*sum == self.checksum(table, key, value)).then(|| value.to_vec())
    }

    fn get(&self, table: StateTable, key: &[u8]) -> Option<Vec<u8>> {
        let stored = self.tree(table).get(key).ok()??;
        self.open_value(table, key, &stored)
    }

    /// Whatever goes wrong here costs a fact that is not remembered.
    fn put(&self, table: StateTable, key: &[u8], value: &[u8]) {
        let stored = [value, &self.checksum(table, key, value)].concat();
        let _ = self.tree(table).insert(key, stored);
    }

    fn remove(&self, table: StateTable, key: &[u8]) {
        let _ = self.tree(table).remove(key);
    }

    fn flush(&self) {
        let _ = self.db.flush();
    }

    /// All entries of a table that are what was put there, up to the first that cannot be read.
    fn all(&self, table: StateTable) -> Vec<([u8; 32], Vec<u8>)> {
        let entries = self.tree(table).iter().map_while(|entry| entry.ok());
        let sound =
            entries.filter_map(|(key, stored)| Some((key.as_ref().try_into().ok()?, self.open_value(table, &key, &stored)?)));
        sound.collect()
    }

    fn keys(&self, table: StateTable) -> Vec<[u8; 32]> {
        self.all(table).into_iter().map(|(key, _)| key).collect()
    }

    fn everything(&self) -> Vec<(StateTable, [u8; 32], Vec<u8>)> {
        let of = |table: StateTable| self.all(table).into_iter().map(move |(key, value)| (table, key, value));
        StateTable::ALL.into_iter().flat_map(of).collect()
    }
}

/// Whether an error of the operating system comes from what is in the files: they end too early, or a directory and a
/// file are in each other's place.
fn is_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AlreadyExists, InvalidData, InvalidInput, IsADirectory, NotADirectory, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | InvalidData | InvalidInput | AlreadyExists | IsADirectory | NotADirectory)
}

fn encode_time(time: Timestamp) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&time.secs.to_le_bytes());
    out[8..].copy_from_slice(&time.nanos.to_le_bytes());
    out
}

fn encode_seen(seen: &SeenBeat) -> Vec<u8> {
    let SeenBeat { beat, first } = seen;
    [&beat.to_le_bytes()[..], &first.boot, &first.uptime.to_le_bytes(), &first.wall.to_le_bytes()].concat()
}

fn decode_seen(bytes: &[u8]) -> Option<SeenBeat> {
    let (beat, rest) = bytes.split_first_chunk::<8>()?;
    let (boot, rest) = rest.split_first_chunk::<16>()?;
    let (uptime, wall) = rest.split_first_chunk::<8>()?;
    let (uptime, wall) = (u64::from_le_bytes(*uptime), i64::from_le_bytes(wall.try_into().ok()?));
    Some(SeenBeat { beat: u64::from_le_bytes(*beat), first: Moment { boot: *boot, uptime, wall } })
}

fn decode_time(bytes: &[u8]) -> Option<Timestamp> {
    let (secs, nanos) = bytes.split_first_chunk::<8>()?;
    Some(Timestamp { secs: i64::from_le_bytes(*secs), nanos: u32::from_le_bytes(nanos.try_into().ok()?) })
}

/// Bytes of the files below `path`, which is two levels deep.
fn size(path: &Path) -> u64 {
    let files = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let length = |path: PathBuf| std::fs::symlink_metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 });
    let below = |entry: std::fs::DirEntry| length(entry.path()) + files(&entry.path()).map(|e| length(e.path())).sum::<u64>();
    files(path).map(below).sum()
}

/// Moves a database out of the way; the one that was moved there before is removed.
fn put_aside(path: &Path) -> Option<()> {
    let aside = path.with_extension("damaged");
    let _ = std::fs::remove_dir_all(&aside).or_else(|_| std::fs::remove_file(&aside));
    std::fs::rename(path, aside).ok()
}

/// Panics on sled's threads are answers that do not come; nobody needs to read of them.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !thread::current().name().is_some_and(|name| name.starts_with("sled-")) {
                others(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RepositoryId = RepositoryId([1; 16]);
    const NOW: Timestamp = Timestamp { secs: 5, nanos: 6 };

    #[test]
    fn a_value_that_was_not_put_there_is_none() {
        let place = tempfile::tempdir().expect("a directory");
        let state = LocalState::open(place.path(), ID).expect("a memory");
        let (pack, other) = (PackId([2; 32]), PackId([3; 32]));
        assert!(state.note_verified(&[pack], NOW));
        assert_eq!(state.verified(pack), Some(NOW));
        // The same bytes at another key, and in another table; and one bit of them.
        let forged = state.ask(move |store| {
            let good = store.tree(StateTable::Verified).get(pack.0).ok().flatten().expect("it was put there");
            let _ = store.tree(StateTable::Verified).insert(other.0, good.clone());
            let _ = store.tree(StateTable::Seen).insert(pack.0, good.clone());
            let mut bad = good.to_vec();
            bad[0] ^= 1;
            let _ = store.tree(StateTable::Verified).insert(pack.0, bad);
        });
        assert!(forged.is_some());
        assert_eq!((state.verified(pack), state.verified(other), state.all_verified().len()), (None, None, 0));
        assert!(state.ask(|store| store.keys(StateTable::Seen)).is_some_and(|seen| seen.is_empty()));
    }

    #[test]
    fn a_panic_is_an_answer_that_does_not_come() {
        let place = tempfile::tempdir().expect("a directory");
        let state = LocalState::open(place.path(), ID).expect("a memory");
        assert!(state.ask(|_| panic!("as sled does")).is_none());
        assert!(!state.note_verified(&[PackId([2; 32])], NOW));
    }
}
