//! A repository that is served: what holds its objects, who began which session in it, and how much it holds. Everything
//! here blocks on the disk or on the object store.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, ErrorKind, IoContext, Result, StoreFailure};
use crate::model::{RepositoryId, SnapshotId};
use crate::remote::protocol::{Code, Refusal};
use crate::serve::api::board::Board;
use crate::serve::objects::account::{Account, Usage};
use crate::serve::objects::backing::{Arrival, Backing, StoreRoot};
use crate::serve::objects::{blocking, in_turn, shape};
use crate::storage::directory::DirectoryStorage;
use crate::storage::receipts::{self, WRITERS};
use crate::storage::{Class, Created, Name, Storage};

/// The directory with who began which session, inside the repository's.
const OWNERS: &str = ".owners";
/// The most signs of life of one session: its writer needs two, and more only where it cannot delete.
const MOST_BEATS: usize = 64;
/// A note who began a session that is not there is removed when it is older than this: the server that made it was killed
/// before the session got its name.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// How long it is believed which repository a store holds, when an object of another one comes.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// How long a list of a store's snapshots is good for jobs.
const KEPT: Duration = Duration::from_secs(10);

/// An open repository.
#[derive(Debug)]
pub(crate) struct Hosted {
    /// Its objects.
    pub(crate) backing: Backing,
    /// Which directory it was when it was opened: of the repository, or of the notes about it.
    directory: (u64, u64),
    /// In a directory held while an object gets its name or goes, so that what is counted is what is there. In a store this
    /// takes too long; there rather too much is counted.
    account: Mutex<Account>,
    /// Held by who counts what is in a store.
    counting: Mutex<()>,
    /// What is being deleted from a store: of two who delete the same, one takes it off the account.
    going: Mutex<HashSet<Name>>,
    /// Held while an object gets its name whose rules look at others.
    turn: Mutex<()>,
    /// The snapshots of a store that are not forgotten, as they were a moment ago; `None` when it did not say.
    kept: Mutex<Option<(Instant, Option<HashSet<SnapshotId>>)>>,
    /// The repository that its configuration named last, and when that was read.
    repository: Mutex<Option<(RepositoryId, Instant)>>,
    /// Its jobs, once somebody has asked for them.
    board: OnceLock<Arc<Board>>,
    /// One reads them.
    opening: Arc<tokio::sync::Mutex<()>>,
}

/// The longest object that says which repository this is.
const LONGEST: u64 = 1 << 20;

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.metadata().map(|m| (m.dev(), m.ino()))
}

impl Hosted {
    /// Opens the repository in a directory. What can be seen in it is durable when this returns: its writer may have been
    /// killed before its own barrier.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>> {
        let storage = Arc::new(DirectoryStorage::open(path)?);
        storage.sync_everything()?;
        Self::of(path, Backing::Directory(storage))
    }

    /// Makes an empty one there.
    pub(crate) fn create(path: &Path) -> Result<Arc<Self>> {
        DirectoryStorage::create(path)?;
        Self::open(path)
    }

    /// Opens the repository of an object store whose notes are at `path`; with `create` makes an empty one, if there is none.
    pub(crate) fn in_store(path: &Path, store: &StoreRoot, create: bool) -> Result<Arc<Self>> {
        Self::of(path, Backing::Store(store.repository(path, create)?))
    }

    fn of(path: &Path, backing: Backing) -> Result<Arc<Self>> {
        let directory = identity(path).at(|| "cannot look at the repository".to_owned())?;
        let (account, repository, board, opening) = Default::default();
        let (turn, kept, counting, going) = Default::default();
        let hosted = Hosted { backing, directory, account, counting, going, turn, kept, repository, board, opening };
        hosted.drop_stale_claims();
        Ok(Arc::new(hosted))
    }

    /// Whether `path` still leads to it.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        identity(path).is_ok_and(|found| found == self.directory)
    }

    /// Runs what asks its storage, when it is its turn, off the threads that serve connections.
    pub(crate) async fn asking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = self.backing.turn().await;
        blocking(move || {
            let _turn = turn;
            work()
        })
        .await
    }

    /// Its jobs, where an agent is lost after so much silence. Reads them the first time.
    pub(crate) async fn board(self: &Arc<Self>, silence: Duration) -> Result<Arc<Board>, Refusal> {
        if let Some(board) = self.board.get() {
            return Ok(board.clone());
        }
        let hosted = self.clone();
        in_turn(&self.opening, move || {
            if let Some(board) = hosted.board.get() {
                return Ok(board.clone());
            }
            let board = Arc::new(Board::open(hosted.backing.state(), silence).map_err(|e| refuse(&e))?);
            Ok(hosted.board.get_or_init(|| board).clone())
        })
        .await
    }

    /// Whether a snapshot is there, and not forgotten.
    pub(crate) fn keeps(&self, id: SnapshotId) -> bool {
        if !self.backing.is_store() {
            return self.is_there(&Name::Snapshot(id)) && !self.is_there(&Name::Forgotten(id));
        }
        // A list of jobs asks this of each.
        let mut kept = self.kept.lock();
        let known = kept.take().filter(|(at, _)| at.elapsed() < KEPT);
        let (_, snapshots) = kept.insert(known.unwrap_or_else(|| (Instant::now(), self.snapshots().ok())));
        snapshots.as_ref().is_none_or(|snapshots| snapshots.contains(&id))
    }

    /// The snapshots that are there, and not forgotten.
    fn snapshots(&self) -> Result<HashSet<SnapshotId>> {
        let list = |class| self.backing.with(|storage| storage.list(class));
        let id = |(name, _): (Name, u64)| match name {
            Name::Snapshot(id) | Name::Forgotten(id) => Some(id),
            _ => None,
        };
        let forgotten: HashSet<_> = list(Class::Forgotten)?.into_iter().filter_map(id).collect();
        Ok(list(Class::Snapshots)?.into_iter().filter_map(id).filter(|id| !forgotten.contains(id)).collect())
    }

    /// The note about `id` in this directory.
    fn note(&self, directory: &str, id: SnapshotId) -> PathBuf {
        self.backing.state().join(directory).join(id.to_string())
    }

    /// Writes a note, durably.
    fn write_note(&self, directory: &str, id: SnapshotId, text: &str) -> io::Result<()> {
        let path = self.backing.state().join(directory);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(self.note(directory, id))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
        fs::File::open(&path).and_then(|d| d.sync_all())
    }

    /// Who began a session; `None` when nobody did, or it has ended.
    pub(crate) fn owner(&self, id: SnapshotId) -> Result<Option<String>> {
        match fs::read_to_string(self.note(OWNERS, id)) {
            Ok(owner) => Ok(Some(owner)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot tell who began session {}", id.short()), e)),
        }
    }

    /// Notes who begins a session, durably. One that another has begun stays that one's.
    fn claim(&self, id: SnapshotId, who: &str) -> Result<bool> {
        match self.owner(id)? {
            Some(owner) if owner == who => return Ok(true),
            // Begun by somebody else, or on this machine and not by the server.
            _ if self.has(&Name::Session(id))? => return Ok(false),
            _ => {}
        }
        let failed = || format!("cannot note who began session {}", id.short());
        self.write_note(OWNERS, id, who).at(failed)?;
        Ok(true)
    }

    /// Who put a snapshot; `None` when that is not known, and of all other objects.
    pub(crate) fn writer(&self, name: &Name) -> Result<Option<String>> {
        let Name::Snapshot(id) = name else { return Ok(None) };
        receipts::writer(self.backing.state(), *id)
    }

    /// Forgets who began a session that has ended.
    fn release(&self, id: SnapshotId) {
        // One that stays is some bytes; its session is gone.
        let _ = fs::remove_file(self.note(OWNERS, id));
    }

    /// Whether an object is there.
    pub(crate) fn has(&self, name: &Name) -> Result<bool> {
        Ok(self.backing.length(name)?.is_some())
    }

    fn is_there(&self, name: &Name) -> bool {
        self.has(name).unwrap_or(false)
    }

    /// Whether nothing is stored yet: keys and configuration are still being made.
    pub(crate) fn is_new(&self) -> Result<bool> {
        for class in [Class::Packs, Class::Index, Class::Sessions, Class::Snapshots] {
            let mut walk = self.backing.walk(class);
            while let Some(some) = walk.some()? {
                if !some.is_empty() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// That an object may be stored whose header names this repository: the one of the configuration, or, where there is
    /// none yet, of the key slots. Where there is neither, the first of them decides.
    pub(crate) fn must_be_of(&self, name: &Name, repository: RepositoryId) -> Result<RepositoryId, Refusal> {
        let of_another = || Err(shape::malformed(name, "it is of another repository"));
        {
            let mut last = self.repository.lock();
            match &mut *last {
                Some((known, _)) if *known == repository => return Ok(repository),
                Some((_, at)) if self.backing.is_store() && at.elapsed() < READ_AGAIN => return of_another(),
                // Others who come while this one reads go by what was known.
                Some((_, at)) => *at = Instant::now(),
                None => {}
            }
        }
        // Somebody may have made it anew, past this server.
        let read = self.read_repository();
        *self.repository.lock() = read.as_ref().ok().copied().flatten().map(|found| (found, Instant::now()));
        match read.map_err(|e| refuse(&e))? {
            Some(known) if known != repository => of_another(),
            _ => Ok(repository),
        }
    }

    /// The repository of the first configuration, or key slot, that is intact. Where there is none, and one could not be
    /// read, nobody can tell.
    fn read_repository(&self) -> Result<Option<RepositoryId>> {
        let (mut object, mut unread) = (Vec::new(), None);
        for class in [Class::Config, Class::Keys] {
            let mut listed = self.backing.with(|storage| storage.list(class))?;
            listed.sort_unstable();
            for (name, _) in listed.iter().filter(|(_, size)| *size <= LONGEST) {
                match self.backing.with(|storage| storage.read(name, None, &mut object)) {
                    Ok(()) => {
                        if let Some(found) = shape::repository_of_intact(name, &object) {
                            return Ok(Some(found));
                        }
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {}
                    // A store that does not answer will not do so for the next.
                    Err(e) if e.kind() == ErrorKind::Busy => return Err(e),
                    Err(e) => unread = Some(e),
                }
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// Whether this client has begun so many sessions, or more, that have not ended.
    fn has_more_sessions(&self, who: &str, most: usize) -> Result<bool> {
        let listed = self.backing.with(|storage| storage.list(Class::Sessions))?;
        if listed.len() < most {
            return Ok(false);
        }
        let mut count = 0;
        for (name, _) in listed {
            let Name::Session(id) = name else { continue };
            count += usize::from(self.owner(id)?.is_some_and(|owner| owner == who));
        }
        Ok(count >= most)
    }

    /// How many signs of life of a session are there.
    fn beats(&self, id: SnapshotId) -> Result<usize> {
        let listed = self.backing.with(|storage| storage.list(Class::Sessions))?;
        Ok(listed.iter().filter(|(name, _)| matches!(name, Name::Beat(of, _) if *of == id)).count())
    }

    /// Removes notes of sessions and snapshots that never came to be, or went past this server.
    fn drop_stale_claims(&self) {
        self.drop_stale(OWNERS, Class::Sessions);
        self.drop_stale(WRITERS, Class::Snapshots);
    }

    fn drop_stale(&self, directory: &str, class: Class) {
        let directory = self.backing.state().join(directory);
        let mut stale = Vec::new();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let leaf = entry.file_name();
            let name = leaf.to_str().and_then(|leaf| Name::parse(class, leaf));
            let age = entry.metadata().and_then(|m| m.modified()).map(|at| SystemTime::now().duration_since(at));
            if let (Some(name), Ok(Ok(age))) = (name, age)
                && age > STALE
            {
                stale.push((name, entry.path()));
            }
        }
        if stale.is_empty() {
            return;
        }
        let Ok(listed) = self.backing.with(|storage| storage.list(class)) else { return };
        let there: HashSet<Name> = listed.into_iter().map(|(name, _)| name).collect();
        for (_, path) in stale.iter().filter(|(name, _)| !there.contains(name)) {
            let _ = fs::remove_file(path);
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock()
    }

    fn count(&self) -> Result<Usage> {
        let mut total = Usage::default();
        for class in Class::ALL {
            let mut walk = self.backing.walk(class);
            while let Some(some) = walk.some()? {
                for (_, size, _) in some {
                    total = Usage { objects: total.objects + 1, bytes: total.bytes.saturating_add(size) };
                }
            }
        }
        Ok(total)
    }

    /// Counts what is in a store, if the account has to know for this, while others use it. A directory is counted under the
    /// account's lock.
    fn count_in_store(&self, wanted: Option<(u64, u64)>) -> Result<()> {
        if !self.backing.is_store() || !self.account().must_count(wanted) {
            return Ok(());
        }
        let _one = self.counting.lock();
        let begun = {
            let account = self.account();
            if !account.must_count(wanted) {
                return Ok(());
            }
            account.begin_count()
        };
        let found = self.count()?;
        self.account().counted(found, begun);
        Ok(())
    }

    /// The bytes of all objects, and of those that are being uploaded.
    pub(crate) fn used(&self) -> Result<u64> {
        self.count_in_store(None)?;
        Ok(self.account().used(|| self.count())?.bytes)
    }

    /// Takes room for an object of so many bytes from what `quota` leaves. It is given back when the value goes, unless the
    /// object was stored.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64, quota: Option<u64>) -> Result<Reserved, Refusal> {
        if let Some(quota) = quota {
            self.count_in_store(Some((bytes, quota))).map_err(|e| refuse(&e))?;
        }
        self.account().reserve(bytes, quota, || self.count().map_err(|e| refuse(&e)))?;
        Ok(Reserved { hosted: self.clone(), bytes, settled: false })
    }

    /// Gives an uploaded object its name, if that is free. A session is noted as begun by `who` before, who may have so many.
    pub(crate) fn store(
        &self,
        (name, repository): (&Name, RepositoryId),
        upload: Arrival,
        mut reserved: Reserved,
        (who, sessions): (&str, usize),
    ) -> Result<Created, Refusal> {
        let failed = |e: Error| refuse(&e);
        upload.make_durable().map_err(failed)?;
        let exact = (!self.backing.is_store()).then(|| self.account());
        let class = name.class();
        let ruled = matches!(class, Class::Config | Class::Keys | Class::Sessions | Class::Snapshots);
        let turn = ruled.then(|| self.turn.lock());
        self.admit((name, repository), (who, sessions))?;
        // Noted before the name is given: a snapshot without a note would be of a series of its own.
        let noted = match name {
            Name::Snapshot(id) if !self.has(name).map_err(failed)? => {
                let what = || format!("cannot note who put snapshot {}", id.short());
                self.write_note(WRITERS, *id, who).at(what).map_err(failed)?;
                Some(*id)
            }
            _ => None,
        };
        let created = upload.finish().map_err(|e| {
            if exact.is_none() && e.kind() == ErrorKind::Unsettled {
                // It may be there all the same.
                self.account().settle(reserved.bytes, true);
                reserved.settled = true;
            }
            failed(e)
        })?;
        if let (Created::Exists, Some(id)) = (created, noted) {
            // Somebody was faster, past this server.
            let _ = fs::remove_file(self.note(WRITERS, id));
        }
        drop(turn);
        let mut account = exact.unwrap_or_else(|| self.account());
        if created == Created::New {
            account.settle(reserved.bytes, true);
            reserved.settled = true;
        }
        // What is dropped now asks for the account.
        drop(account);
        Ok(created)
    }

    /// What the rules of its class say of a new object. Notes who begins a session.
    fn admit(&self, (name, repository): (&Name, RepositoryId), (who, sessions): (&str, usize)) -> Result<(), Refusal> {
        let failed = |e: Error| refuse(&e);
        // Of two who make a repository at once, one is second.
        if matches!(name.class(), Class::Config | Class::Keys) {
            self.must_be_of(name, repository)?;
        }
        if let Name::Beat(id, _) = name
            && self.beats(*id).map_err(failed)? >= MOST_BEATS
        {
            let text =
                format!("this session has {MOST_BEATS} signs of life, the most that one may have: its writer deletes old ones");
            return Err(Refusal::new(Code::Forbidden, text));
        }
        if let Name::Session(id) = name {
            if self.has_more_sessions(who, sessions).map_err(failed)? {
                let text = format!(
                    "this client has {sessions} sessions that have not ended, the most it may have: yester prune ends those \
                     of writers that are dead"
                );
                return Err(Refusal::new(Code::Forbidden, text));
            }
            if !self.claim(*id, who).map_err(failed)? {
                return Err(Refusal::new(Code::Conflict, "another token has begun this session"));
            }
        }
        Ok(())
    }

    /// Deletes an object, and says how many bytes it had; `None` when it was not there.
    pub(crate) fn delete(&self, name: &Name) -> Result<Option<u64>> {
        let exact = (!self.backing.is_store()).then(|| self.account());
        let first = exact.is_some() || self.going.lock().insert(*name);
        let removed = self.backing.remove(name);
        if exact.is_none() && first {
            self.going.lock().remove(name);
        }
        let size = removed?;
        let mut account = exact.unwrap_or_else(|| self.account());
        if let (Some(size), true) = (size, first) {
            account.gone(size);
        }
        if let Name::Snapshot(id) = name {
            let _ = fs::remove_file(self.note(WRITERS, *id));
        }
        drop(account);
        if let Name::Session(id) = name {
            self.release(*id);
        }
        Ok(size)
    }
}

/// Room for an object that is being uploaded.
#[derive(Debug)]
pub(crate) struct Reserved {
    hosted: Arc<Hosted>,
    bytes: u64,
    settled: bool,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.settled {
            self.hosted.account().settle(self.bytes, false);
        }
    }
}

/// What a client is told of a failure here: no paths, which are none of its business; the log has them.
pub(crate) fn refuse(e: &Error) -> Refusal {
    match e.kind() {
        ErrorKind::Full => Refusal::new(Code::NoSpace, "the server's disk is full"),
        ErrorKind::NotFound => Refusal::new(Code::NotFound, "it is not there"),
        ErrorKind::NoRepository => Refusal::new(Code::NoRepository, "there is no repository of this name"),
        // Only an object store is away.
        ErrorKind::Busy => {
            tracing::warn!(error = %e, "the object store does not answer");
            Refusal::new(Code::Unavailable, "the object store behind the server does not answer")
        }
        ErrorKind::Unsettled => {
            tracing::warn!(error = %e, "nobody can tell whether the object store has stored an object");
            Refusal::new(Code::Unsettled, "the object store behind the server did not say whether it has stored the object")
        }
        // Its reader has to know; the text names no place.
        _ if e.store_failure() == Some(StoreFailure::Frozen) => {
            tracing::warn!(error = %e, "an object has to be thawed");
            Refusal::new(Code::Failed, e.innermost())
        }
        _ => {
            tracing::error!(error = %e, "a request failed");
            Refusal::new(Code::Failed, "the server failed: its log says how")
        }
    }
}
