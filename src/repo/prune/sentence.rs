//! Sentences: lists of packs that are to be deleted, told to everybody before anything is.
//!
//! A sentence has a random name that is never used again. It is permanent: a pack that turns out to be needed stays as
//! long as it is needed, but nobody counts on it any more. The sentence itself goes when all its packs are deleted and
//! nobody is left who could have seen them before.

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::model::{PackId, SnapshotId};
use crate::repo::Repository;
use crate::storage::{Class, Created, Name};

/// A sentence.
#[derive(Debug, Clone)]
pub struct Sentence {
    /// Its name.
    pub id: SnapshotId,
    /// The packs.
    pub packs: Vec<PackId>,
}

/// All sentences.
pub fn read_all(repo: &Repository) -> Result<Vec<Sentence>> {
    let mut out = Vec::new();
    let mut object = Vec::new();
    for (name, _) in repo.storage().list(Class::Condemned)? {
        let Name::Condemned(id) = name else { continue };
        match repo.storage().read(&name, None, &mut object) {
            Ok(()) => {}
            // Removed since it was listed: then all its packs are gone, and so are those who could count on them.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        }
        let class = &repo.keys().snapshot;
        let plain = seal::open_object(ObjectType::Condemned, repo.id(), &id.0, class, &object, "a sentence");
        let plain = plain.map_err(|e| e.context(name))?;
        let (packs, rest) = plain.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(Error::corrupt(format!("{name}: it ends within the name of a pack")));
        }
        out.push(Sentence { id, packs: packs.iter().map(|id| PackId(*id)).collect() });
    }
    Ok(out)
}

/// Sentences `packs`. Durable when this returns.
pub fn write(repo: &Repository, packs: Vec<PackId>) -> Result<Sentence> {
    let id = SnapshotId::random()?;
    let plain: Vec<u8> = packs.iter().flat_map(|pack| pack.0).collect();
    let object = seal::seal_object(ObjectType::Condemned, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    if repo.storage().create(&Name::Condemned(id), &[&object])? == Created::Exists {
        return Err(Error::new(ErrorKind::Exists, format!("the random name of a sentence, {}, is taken", id.short())));
    }
    repo.storage().sync()?;
    Ok(Sentence { id, packs })
}
