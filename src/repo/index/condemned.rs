//! Lists of packs that are marked for deletion, `condemned/<id>`, as everybody reads them.
//!
//! A list that is not authentic, or is damaged, is void: for writers, for every prune, and for the prune that wrote it, which
//! reads its list again before it deletes by it. So nobody relies on a list that others do not see.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::model::{PackId, SnapshotId};
use crate::repo::Repository;
use crate::repo::parallel;
use crate::repo::small::{self, Small};
use crate::storage::{Class, Name};

/// A list.
#[derive(Debug, Clone)]
pub(crate) struct DeletionList {
    /// Its name.
    pub(crate) id: SnapshotId,
    /// The packs.
    pub(crate) packs: Vec<PackId>,
}

/// All lists.
#[derive(Debug, Default)]
pub struct Lists {
    /// Those that count.
    pub(crate) lists: Vec<DeletionList>,
    /// Those that are void.
    pub(crate) void: Vec<(Name, Error)>,
    /// Whether one of these was made with the key.
    pub(crate) damaged: bool,
}

impl Lists {
    /// Packs on any list that counts.
    pub fn packs(&self) -> HashSet<PackId> {
        self.lists.iter().flat_map(|list| list.packs.iter().copied()).collect()
    }
}

/// The names of all lists, for who cannot read them.
pub fn names(repo: &Repository) -> Result<Vec<SnapshotId>> {
    let listed = repo.storage().list(Class::Condemned)?.into_iter();
    Ok(listed.filter_map(|(name, _)| if let Name::Condemned(id) = name { Some(id) } else { None }).collect())
}

/// Reads all lists; void ones are told, once. A newer program's is an error: nobody can tell what it names.
pub fn read_all(repo: &Repository) -> Result<Lists> {
    let ids = names(repo)?;
    let mut out = Lists::default();
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, |id| read(repo, *id))) {
        match found? {
            Small::Sound(packs) => out.lists.push(DeletionList { id: *id, packs }),
            Small::Newer(e, _) => return Err(e),
            Small::Damaged(_, e) => {
                out.damaged = true;
                out.void.push((Name::Condemned(*id), e));
            }
            Small::MadeUp(e) => out.void.push((Name::Condemned(*id), e)),
            // Removed since it was listed: then all its packs are gone, and so are those who could count on them.
            Small::Gone => {}
        }
    }
    small::tell(repo, &out.void, "yester prune removes it");
    Ok(out)
}

/// Reads one list.
pub(crate) fn read(repo: &Repository, id: SnapshotId) -> Result<Small<Vec<PackId>>> {
    small::read(repo, &Name::Condemned(id), |_, plain| decode(plain))
}

fn decode(plain: &[u8]) -> Result<Vec<PackId>> {
    let (packs, rest) = plain.as_chunks::<32>();
    match rest.is_empty() {
        true => Ok(packs.iter().map(|id| PackId(*id)).collect()),
        false => Err(Error::corrupt("it ends within the name of a pack")),
    }
}
