//! Reading small sealed objects: every sealed object but packs and segments. One that was made without the key counts for
//! nothing: no command fails because of it, it is reported once, and prune removes it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::chunk::seal::{self, Judged};
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::format::snapshot::Mark;
use crate::keys::binding::id;
use crate::model::{Annotation, Chain, Snapshot, SnapshotId, WriterId};
use crate::repo::Repository;
use crate::storage::Name;

/// What an authentic object is, and by whose key it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    /// Its type.
    pub(crate) kind: ObjectType,
    /// The writer, if its key only writes.
    pub(crate) writer: Option<WriterId>,
}

/// A small object as it was found.
#[derive(Debug)]
pub enum Small<T> {
    /// It is authentic: what it says.
    Sound(T),
    /// It is authentic, and a newer program made it: its writer, if that has a key that only writes. It is left alone.
    Newer(Error, Option<WriterId>),
    /// Somebody with the key made it under this name, and it is damaged: what it was, and how it is now.
    Damaged(ObjectType, Error),
    /// Nobody with the key made it, or it is damaged beyond telling. It counts for nothing.
    MadeUp(Error),
    /// It is not there (any more).
    Gone,
}

impl<T> Small<T> {
    /// What it says; everything else as an error.
    pub fn result(self, name: &Name) -> Result<T> {
        match self {
            Small::Sound(value) => Ok(value),
            Small::Newer(e, _) | Small::Damaged(_, e) | Small::MadeUp(e) => Err(e),
            Small::Gone => Err(Error::new(ErrorKind::NotFound, format!("{name} is not there"))),
        }
    }
}

/// What an open repository remembers of small objects, so that nothing is read or told twice.
#[derive(Debug, Default)]
pub(super) struct SmallMemory {
    told: Mutex<HashSet<Name>>,
    /// Snapshots that are authentic, and what they say of those before them.
    pub(crate) snapshots: Mutex<HashMap<SnapshotId, Chain>>,
    /// Snapshots that were read, where each read is a request: they never change.
    pub(super) read: Mutex<HashMap<SnapshotId, Snapshot>>,
    /// Annotations that are authentic.
    pub(crate) annotations: Mutex<HashMap<SnapshotId, Arc<Annotation>>>,
    /// Authentic marks of snapshots.
    pub(crate) forgotten: Mutex<HashMap<SnapshotId, Arc<Mark>>>,
}

fn what(name: &Name) -> &'static str {
    match name {
        Name::Session(_) => "a session",
        Name::Beat(..) => "a sign of life",
        Name::Snapshot(_) => "a snapshot",
        Name::Forgotten(_) => "a mark of a forgotten snapshot",
        Name::Condemned(_) => "a list of packs marked for deletion",
        Name::Damaged(_) => "a record of damage",
        Name::Run(_) => "a run",
        Name::Annotation(_) => "an annotation",
        Name::Group(..) => "a step of a group",
        _ => "an object",
    }
}

/// Reads and judges the object of this name; `decode` takes its plain body. An error means that the storage could not be
/// asked, and nothing is known.
pub(crate) fn read<T>(repo: &Repository, name: &Name, decode: impl Fn(Made, &[u8]) -> Result<T>) -> Result<Small<T>> {
    // What does not open is read again: what is deleted because of it must not hang on one bad read.
    for _ in 0..2 {
        match read_once(repo, name, &decode)? {
            Small::Damaged(..) | Small::MadeUp(_) => {}
            found => return Ok(found),
        }
    }
    read_once(repo, name, &decode)
}

fn read_once<T>(repo: &Repository, name: &Name, decode: impl Fn(Made, &[u8]) -> Result<T>) -> Result<Small<T>> {
    let mut object = Vec::new();
    match repo.storage().read(name, None, &mut object) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Small::Gone),
        // Longer than any object of its class.
        Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(Small::MadeUp(e)),
        Err(e) => return Err(e),
    }
    judge(repo, name, &object, decode).inspect(|found| keep(repo, name, &object, found))
}

/// Keeps a snapshot on a local disk.
fn keep<T>(repo: &Repository, name: &Name, object: &[u8], found: &Small<T>) {
    if let (Name::Snapshot(id), Small::Sound(_), Some(copies)) = (name, found, repo.snapshot_copies()) {
        copies.keep(id, object);
    }
}

/// As [`read`], of a snapshot that was listed a moment ago: from a copy on a local disk, if there is one that is good.
pub(crate) fn read_listed<T>(repo: &Repository, id: SnapshotId, decode: impl Fn(Made, &[u8]) -> Result<T>) -> Result<Small<T>> {
    let name = Name::Snapshot(id);
    if let Some((copies, object)) = repo.snapshot_copies().and_then(|copies| Some((copies, copies.read(&id)?))) {
        match judge(repo, &name, &object, &decode) {
            Ok(Small::Sound(found)) => return Ok(Small::Sound(found)),
            _ => copies.forget(&id),
        }
    }
    read(repo, &name, decode)
}

/// Judges the bytes of the object of this name.
pub(crate) fn judge<T>(
    repo: &Repository,
    name: &Name,
    object: &[u8],
    decode: impl Fn(Made, &[u8]) -> Result<T>,
) -> Result<Small<T>> {
    let id = id(name).ok_or_else(|| Error::invalid(format!("{name} is no small sealed object")))?;
    Ok(match seal::judge_object(name.kinds(), repo.id(), &id.0, &repo.keys().snapshot, object, what(name))? {
        Judged::Sound(kind, writer, plain) => match decode(Made { kind, writer }, &plain) {
            Ok(value) => Small::Sound(value),
            Err(e) if e.kind() == ErrorKind::Unsupported => Small::Newer(e.about(name), writer),
            Err(e) => Small::Damaged(kind, e.about(name)),
        },
        Judged::Newer(e, writer) => Small::Newer(e.about(name), writer),
        Judged::Damaged(kind, e) => Small::Damaged(kind, e.about(name)),
        Judged::MadeUp(e) => Small::MadeUp(e.about(name)),
    })
}

/// Tells, once, what is ignored, and what removes it.
pub(crate) fn tell(repo: &Repository, ignored: &[(Name, Error)], next: &str) {
    let mut told = repo.memory.told.lock();
    let new: Vec<&(Name, Error)> = ignored.iter().filter(|(name, _)| told.insert(*name)).collect();
    if new.is_empty() {
        return;
    }
    if let Err(e) = repo.key_is_current()
        && e.kind() == ErrorKind::Key
    {
        // All that is new looks so, and nobody is to remove it.
        return repo.reports().warn("", format!("what is new cannot be seen: {e}"));
    }
    match new.as_slice() {
        [] => {}
        [(_, e)] => repo.reports().warn("", format!("ignored, since it is not authentic: {e} ({next})")),
        [(name, e), rest @ ..] => {
            let class = name.class().prefix();
            let more = format!("and {} more in {class}/ ({next})", rest.len());
            repo.reports().warn("", format!("ignored, since they are not authentic: {e}, {more}"));
        }
    }
}

/// Tells, once, of a snapshot that is left out: a newer program made it with the key of `writer`, which only writes.
pub(crate) fn tell_newer(repo: &Repository, snapshot: SnapshotId, writer: WriterId, error: &Error) {
    if repo.memory.told.lock().insert(Name::Snapshot(snapshot)) {
        let (key, id) = (writer.short(), snapshot.short());
        let next = format!("if nobody has a newer yester, that key was stolen (yester forget {id} gives the snapshot up)");
        repo.reports().warn("", format!("left out: {error}; it is of key {key}, which only writes: {next}"));
    }
}
