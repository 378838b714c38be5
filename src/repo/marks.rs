//! Marks: `forgotten/<id>` says that a snapshot is forgotten. Only an authentic one counts: a
//! client without the key could write others, and prune would then delete snapshots that were never forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::chunk::seal;
use crate::error::{Error, Result};
use crate::format::envelope::ObjectType;
use crate::format::snapshot::{self, Mark};
use crate::model::{SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::repo::parallel;
use crate::repo::small::{self, Small};
use crate::storage::{Class, Created, Name};
use crate::sys::{process, users};

/// What to do about a mark that is not authentic.
const NEXT: &str = "the snapshot is not forgotten; yester prune removes the mark";

/// What a person says with a mark or a fence.
pub fn mark(id: SnapshotId, now: Timestamp, why: &[u8]) -> Mark {
    let user = users::user_name(process::user()).unwrap_or_else(|| process::user().to_string().into_bytes());
    let why = why.iter().copied().take(1000).collect();
    Mark { host: process::host_name(), user, time: now, why, ..Mark::of(id) }
}

/// Reads a mark of this type.
pub(crate) fn decode(id: SnapshotId, plain: &[u8]) -> Result<Mark> {
    let mark = snapshot::decode_mark(plain)?;
    match mark.snapshot == id {
        true => Ok(mark),
        false => Err(Error::corrupt(format!("it is of snapshot {}", mark.snapshot.short()))),
    }
}

/// Reads `forgotten/<id>`.
pub fn read(repo: &Repository, id: SnapshotId) -> Result<Small<Mark>> {
    small::read(repo, &Name::Forgotten(id), |_, plain| decode(id, plain))
}

/// Objects that are not as they should be, and why.
pub(crate) type Wrong = Vec<(Name, Error)>;

/// Which of these snapshots are forgotten. What stands in `forgotten/` and is not authentic is told, and counts for
/// nothing. A mark is read once.
pub(crate) fn forgotten_among(repo: &Repository, ids: &[SnapshotId]) -> Result<HashSet<SnapshotId>> {
    Ok(judged(repo, ids)?.0)
}

/// The same, and the marks of these that are not authentic.
pub fn judged(repo: &Repository, ids: &[SnapshotId]) -> Result<(HashSet<SnapshotId>, Wrong)> {
    let (found, wrong) = marked(repo, ids)?;
    Ok((found.into_keys().collect(), wrong))
}

/// The authentic marks of these snapshots, and what else stands in the place of one.
pub fn marked(repo: &Repository, ids: &[SnapshotId]) -> Result<(HashMap<SnapshotId, Arc<Mark>>, Wrong)> {
    let wanted: HashSet<SnapshotId> = ids.iter().copied().collect();
    let listed = repo.storage().list(Class::Forgotten)?.into_iter();
    let marked = listed.filter_map(|(name, _)| if let Name::Forgotten(id) = name { Some(id) } else { None });
    let marked: Vec<SnapshotId> = marked.filter(|id| wanted.contains(id)).collect();
    read_many(repo, &marked)
}

/// A mark was taken away.
pub(crate) fn unmark(repo: &Repository, id: SnapshotId) {
    repo.memory.forgotten.lock().remove(&id);
}

/// The authentic marks of these snapshots, each read once, and what else stands under their names.
pub fn read_many(repo: &Repository, ids: &[SnapshotId]) -> Result<(HashMap<SnapshotId, Arc<Mark>>, Wrong)> {
    let (mut out, mut new, mut wrong) = (HashMap::new(), Vec::new(), Vec::new());
    for id in ids {
        match repo.memory.forgotten.lock().get(id) {
            Some(mark) => _ = out.insert(*id, mark.clone()),
            None => new.push(*id),
        }
    }
    let found = parallel::many(repo, &new, |id| read(repo, *id));
    for (id, found) in new.into_iter().zip(found) {
        match found? {
            Small::Sound(mark) => _ = out.insert(id, Arc::new(mark)),
            Small::Newer(e, _) => return Err(e),
            Small::Damaged(_, e) | Small::MadeUp(e) => wrong.push((Name::Forgotten(id), e)),
            Small::Gone => {}
        }
    }
    repo.memory.forgotten.lock().extend(out.iter().map(|(id, mark)| (*id, mark.clone())));
    small::tell(repo, &wrong, NEXT);
    Ok((out, wrong))
}

/// Whether a snapshot is forgotten.
pub(crate) fn is_forgotten(repo: &Repository, id: SnapshotId) -> Result<bool> {
    Ok(!read_many(repo, &[id])?.0.is_empty())
}

/// Creates `forgotten/<id>`. An authentic one that is there says the same; what else is there is replaced. Durable after
/// the next barrier.
pub fn write(repo: &Repository, mark: &Mark) -> Result<()> {
    let (id, name) = (mark.snapshot, Name::Forgotten(mark.snapshot));
    let plain = snapshot::encode_mark(mark)?;
    let object = seal::seal_object(ObjectType::Forgotten, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    for _ in 0..2 {
        if repo.storage().create(&name, &[&object])? == Created::New {
            return Ok(());
        }
        match read(repo, id)? {
            Small::Sound(_) => return Ok(()),
            Small::Newer(e, _) => return Err(e),
            Small::Damaged(..) | Small::MadeUp(_) => repo.storage().delete(&name)?,
            Small::Gone => {}
        }
    }
    Err(Error::corrupt(format!("{name} is taken by something else, again and again")))
}
