//! Sessions: what a writer leaves in the repository while it works, so that prune cannot take chunks from under it.

use std::collections::HashSet;

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cursor::Cursor;
use crate::format::envelope::ObjectType;
use crate::format::snapshot::{self, Session};
use crate::model::{PackId, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::storage::{Class, Created, Name};
use crate::sys::process::{self, Identity};

/// What prune has sentenced.
#[derive(Debug, Default)]
pub struct Sentenced {
    /// Packs under any sentence.
    pub packs: HashSet<PackId>,
    /// Whether there is any sentence at all.
    pub exist: bool,
}

/// Reads all sentences.
pub fn sentenced_packs(repo: &Repository) -> Result<Sentenced> {
    let mut out = Sentenced::default();
    let mut object = Vec::new();
    for (name, _) in repo.storage().list(Class::Condemned)? {
        let Name::Condemned(id) = name else { continue };
        out.exist = true;
        match repo.storage().read(&name, None, &mut object) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        }
        let plain = open(repo, ObjectType::Condemned, &id.0, &object, "a sentence").map_err(|e| e.context(name))?;
        let mut cursor = Cursor::new(&plain, "a sentence");
        while cursor.remaining() > 0 {
            out.packs.insert(PackId(cursor.array()?));
        }
    }
    Ok(out)
}

fn open(repo: &Repository, kind: ObjectType, name: &[u8], object: &[u8], what: &'static str) -> Result<Vec<u8>> {
    seal::open_object(kind, repo.id(), name, &repo.keys().snapshot, object, what)
}

/// Registers a session for this process under a new id, which is also the id of the snapshot it will commit. The
/// names of the sentences are read before it is created: it is older than every sentence that it does not name.
pub fn begin(repo: &Repository, now: Timestamp) -> Result<SnapshotId> {
    let mut sentences: Vec<SnapshotId> = repo
        .storage()
        .list(Class::Condemned)?
        .into_iter()
        .filter_map(|(name, _)| if let Name::Condemned(id) = name { Some(id) } else { None })
        .collect();
    sentences.sort_unstable();
    let Identity { host, machine, boot, namespace, pid, started } = Identity::this();
    let session = Session { host, boot, pid, started, machine, namespace, time: now, sentences };
    let id = SnapshotId::random()?;
    let plain = snapshot::encode_session(&session)?;
    let object = seal::seal_object(ObjectType::Session, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    if repo.storage().create(&Name::Session(id), &[&object])? == Created::Exists {
        return Err(Error::new(ErrorKind::Exists, format!("session {} exists already", id.short())));
    }
    repo.storage().sync()?;
    Ok(id)
}

/// What a session says of itself.
pub fn read(repo: &Repository, id: SnapshotId) -> Result<Session> {
    let name = Name::Session(id);
    let mut object = Vec::new();
    repo.storage().read(&name, None, &mut object)?;
    let plain = open(repo, ObjectType::Session, &id.0, &object, "a session").map_err(|e| e.context(name))?;
    snapshot::decode_session(&plain).map_err(|e| e.context(name))
}

/// The process that a session is of.
pub fn identity(session: &Session) -> Identity {
    let Session { host, boot, pid, started, machine, namespace, .. } = session.clone();
    Identity { host, machine, boot, namespace, pid, started }
}

/// Whether other sessions are open than this one: their writers may have been killed before what they stored, and what
/// can be seen of it, was durable.
pub fn others(repo: &Repository, own: SnapshotId) -> Result<bool> {
    let is_other = |name: &Name| matches!(name, Name::Session(id) if *id != own);
    Ok(repo.storage().list(Class::Sessions)?.iter().any(|(name, _)| is_other(name)))
}

/// Ends a session whose outcome (`snapshots/<id>`: snapshot or fence) the caller has read.
pub fn end(repo: &Repository, id: SnapshotId) -> Result<()> {
    repo.storage().delete(&Name::Session(id))
}

/// Whether there is no session of this id any more.
pub fn has_ended(repo: &Repository, id: SnapshotId) -> Result<bool> {
    match repo.storage().read(&Name::Session(id), Some(0..1), &mut Vec::new()) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() != ErrorKind::Corrupt => Err(e),
        _ => Ok(false),
    }
}

/// Whether somebody has fenced this id. False when that cannot be told.
pub fn is_fenced(repo: &Repository, id: SnapshotId) -> bool {
    matches!(crate::repo::snapshots::load(repo, id), Ok(None))
}

/// Gives a session up: fences its id, so that nobody can commit under it, and ends it. Used by a writer that stops.
pub fn abandon(repo: &Repository, id: SnapshotId, now: Timestamp) -> Result<()> {
    fence(repo, id, now)?;
    end(repo, id)
}

/// Fences an id, unless it has an outcome already: nobody can commit under it from now on. Durable when this returns.
pub fn fence(repo: &Repository, id: SnapshotId, now: Timestamp) -> Result<()> {
    let mark = snapshot::Mark { host: process::host_name(), time: now };
    let plain = snapshot::encode_mark(&mark)?;
    let object = seal::seal_object(ObjectType::Fence, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    repo.storage().create(&Name::Snapshot(id), &[&object])?;
    repo.storage().sync()?;
    // Whatever is there now, snapshot or fence, the session has an outcome.
    let mut found = Vec::new();
    repo.storage().read(&Name::Snapshot(id), None, &mut found)
}
