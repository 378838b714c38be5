//! Sessions: what a writer leaves in the repository while it works, so that prune cannot take chunks from under it.

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, HEADER, ObjectType};
use crate::format::snapshot::{self, Session};
use crate::model::{SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::repo::index::condemned;
use crate::repo::small::{self, Small};
use crate::repo::{marks, snapshots};
use crate::storage::{Class, Created, Name};
use crate::sys::process::ProcessIdentity;

/// Registers a session for this process under a new id, which is also the id of the snapshot it will commit. The
/// lists are read before it is created: it is older than every list that it does not name. One that does not open
/// is not named: its packs are not known here.
pub fn begin(repo: &Repository, now: Timestamp) -> Result<SnapshotId> {
    let id = register(repo, now)?;
    // Whoever changes the key says so first, and then looks for sessions: one of both notices the other.
    if let Err(e) = repo.key_is_current() {
        let _ = abandon(repo, id, now);
        return Err(e);
    }
    Ok(id)
}

/// The same for who changes the key.
pub(crate) fn register(repo: &Repository, now: Timestamp) -> Result<SnapshotId> {
    let mut lists: Vec<SnapshotId> = match repo.only_writes() {
        // It counts on no pack that is there, whatever these name.
        true => condemned::names(repo)?,
        false => condemned::read_all(repo)?.lists.iter().map(|list| list.id).collect(),
    };
    lists.sort_unstable();
    let ProcessIdentity { host, machine, boot, namespace, pid, started } = ProcessIdentity::this();
    let session = Session { host, boot, pid, started, machine, namespace, time: now, lists };
    let id = repo.new_id()?;
    let plain = snapshot::encode_session(&session)?;
    let object = seal::seal_object(ObjectType::Session, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    if repo.storage().create(&Name::Session(id), &[&object])? == Created::Exists {
        return Err(Error::new(ErrorKind::Exists, format!("session {} exists already", id.short())));
    }
    repo.storage().sync()?;
    Ok(id)
}

/// What a session says of itself; whatever cannot be read is an error.
pub fn read(repo: &Repository, id: SnapshotId) -> Result<Session> {
    judge(repo, id)?.result(&Name::Session(id))
}

/// Reads and judges `sessions/<id>`.
pub(crate) fn judge(repo: &Repository, id: SnapshotId) -> Result<Small<Session>> {
    small::read(repo, &Name::Session(id), |_, plain| snapshot::decode_session(plain))
}

/// The process that a session is of.
pub(crate) fn identity(session: &Session) -> ProcessIdentity {
    let Session { host, boot, pid, started, machine, namespace, .. } = session.clone();
    ProcessIdentity { host, machine, boot, namespace, pid, started }
}

/// Whether other sessions are open than this one: their writers may have been killed before what they stored, and what
/// can be seen of it, was durable.
pub(crate) fn others(repo: &Repository, own: SnapshotId) -> Result<bool> {
    let is_other = |name: &Name| matches!(name, Name::Session(id) if *id != own);
    Ok(repo.storage().list(Class::Sessions)?.iter().any(|(name, _)| is_other(name)))
}

/// Ends a session whose outcome (`snapshots/<id>`: snapshot or fence) the caller has read.
pub fn end(repo: &Repository, id: SnapshotId) -> Result<()> {
    repo.storage().delete(&Name::Session(id))
}

/// Whether there is no session of this id any more.
pub(crate) fn has_ended(repo: &Repository, id: SnapshotId) -> Result<bool> {
    match repo.storage().read(&Name::Session(id), Some(0..1), &mut Vec::new()) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() != ErrorKind::Corrupt => Err(e),
        _ => Ok(false),
    }
}

/// Whether somebody has fenced this id. False when that cannot be told.
pub fn is_fenced(repo: &Repository, id: SnapshotId) -> bool {
    if repo.only_writes() {
        // What nobody with the key made can stop it, as whoever can make that could in other ways.
        let mut header = Vec::new();
        let read = repo.storage().read(&Name::Snapshot(id), Some(0..HEADER as u64), &mut header);
        return read.is_ok() && envelope::peek(&header).is_some_and(|said| said.kind == ObjectType::Fence as u8);
    }
    matches!(crate::repo::snapshots::load(repo, id), Ok(None))
}

/// Gives a session up: fences its id, so that nobody can commit under it, and ends it. Used by a writer that stops.
pub fn abandon(repo: &Repository, id: SnapshotId, now: Timestamp) -> Result<()> {
    fence(repo, id, now)?;
    end(repo, id)
}

/// Fences an id, unless it has an outcome already: nobody can commit under it from now on. Durable when this returns.
pub(crate) fn fence(repo: &Repository, id: SnapshotId, now: Timestamp) -> Result<()> {
    let plain = snapshot::encode_mark(&marks::mark(id, now, b""))?;
    let object = seal::seal_object(ObjectType::Fence, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    let name = Name::Snapshot(id);
    for _ in 0..3 {
        repo.storage().create(&name, &[&object])?;
        repo.storage().sync()?;
        if repo.only_writes() {
            return Ok(());
        }
        match snapshots::judge(repo, id)? {
            // It would go one day, and then the writer could commit after all.
            Small::MadeUp(_) => repo.storage().delete(&name)?,
            Small::Gone => {}
            // Whatever is there now, snapshot or fence, the session has an outcome.
            _ => return Ok(()),
        }
    }
    Err(Error::corrupt(format!("{name} is taken by something that is not authentic, again and again")))
}
