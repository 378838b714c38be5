//! Deletion lists: packs that are to be deleted, told to everybody before anything is.
//!
//! A list has a random name that is never used again. It is permanent: a pack that turns out to be needed stays as
//! long as it is needed, but nobody counts on it any more. The list itself goes when all its packs are deleted and
//! nobody is left who could have seen them before.

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::model::{PackId, SnapshotId};
use crate::repo::Repository;
use crate::storage::{Created, Name};

/// Marks `packs` for deletion. Durable when this returns.
pub(super) fn write(repo: &Repository, packs: Vec<PackId>) -> Result<SnapshotId> {
    let id = SnapshotId::random()?;
    let plain: Vec<u8> = packs.iter().flat_map(|pack| pack.0).collect();
    let object = seal::seal_object(ObjectType::Condemned, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    if repo.storage().create(&Name::Condemned(id), &[&object])? == Created::Exists {
        return Err(Error::new(ErrorKind::Exists, format!("the random name of a list, {}, is taken", id.short())));
    }
    repo.storage().sync()?;
    Ok(id)
}
