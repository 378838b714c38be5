//! Parity over groups of packs: what of them is lost or torn is computed from the rest.
//!
//! Packs of one kind and about one age and size make a group. Each is cut into shards of one length; the shards at one place
//! are a stripe, and have so many shards of parity (Reed–Solomon). A row of parity is an object that stands by itself: it
//! says which packs it is of, and has the digests of all shards, so that a torn one counts as lost. So of packs and rows
//! together any may be lost, as many as there are rows.
//!
//! No key is needed, and nothing is believed: what is rebuilt counts only when it is what its name says.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::Result;
use crate::format::parity::{MAX_MEMBERS, MAX_ROWS};
use crate::model::{PackId, RepositoryId};
use crate::repo::Repository;
use crate::storage::{Class, Name, Storage};

mod add;
mod encode;
mod found;
mod rebuild;
mod renew;
mod stripes;
mod tend;
#[cfg(test)]
mod tests;
mod verify;

pub use add::{AddOptions, Added, add};
pub use found::{FoundGroup, FoundParity, find};
pub(crate) use rebuild::{RebuiltPacks, rebuild};
pub use renew::{Renewed, renew, uncovered};
pub(crate) use tend::tend;
pub use tend::{Tended, remove};
pub use verify::verify;

/// Bytes of shards that are in memory at a time.
const MEMORY: u64 = 16 << 20;

/// How many packs make a group, and how many rows of parity it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityShape {
    /// Packs.
    pub packs: usize,
    /// Rows.
    pub rows: u8,
}

impl ParityShape {
    /// Of packs of files.
    pub const DATA: ParityShape = ParityShape { packs: 16, rows: 2 };
    /// Of packs of trees: they are few, and much depends on them.
    pub const TREES: ParityShape = ParityShape { packs: 3, rows: 3 };
}

impl fmt::Display for ParityShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.packs, self.rows)
    }
}

impl FromStr for ParityShape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no shape: write 16+2 for 2 rows over 16 packs (at most {MAX_MEMBERS} packs and {MAX_ROWS} rows)")
        };
        let (packs, rows) = text.split_once('+').ok_or_else(wrong)?;
        let (packs, rows) = (packs.parse().map_err(|_| wrong())?, rows.parse().map_err(|_| wrong())?);
        let shape = ParityShape { packs, rows };
        let fits = (1..=MAX_MEMBERS).contains(&packs) && (1..=MAX_ROWS).contains(&usize::from(rows));
        if fits { Ok(shape) } else { Err(wrong()) }
    }
}

/// Where packs and parity are. No key is needed.
#[derive(Debug, Clone, Copy)]
pub struct ParityPlace<'a> {
    storage: &'a dyn Storage,
    repository: RepositoryId,
    scratch: Option<&'a Path>,
}

impl<'a> ParityPlace<'a> {
    /// The objects of the repository of this id. Rows are put together in `scratch`; without it, in memory.
    pub fn new(storage: &'a dyn Storage, repository: RepositoryId, scratch: Option<&'a Path>) -> Self {
        ParityPlace { storage, repository, scratch }
    }

    /// Those of an open repository.
    pub fn of(repo: &'a Repository) -> Self {
        ParityPlace::new(&**repo.storage(), repo.id(), repo.scratch())
    }

    /// The packs that are there, with their lengths.
    pub fn packs(&self) -> Result<HashMap<PackId, u64>> {
        let listed = self.storage.list(Class::Packs)?.into_iter();
        Ok(listed.filter_map(|(name, size)| if let Name::Pack(id) = name { Some((id, size)) } else { None }).collect())
    }

    /// How many threads read at once.
    fn readers(&self) -> usize {
        self.storage.costs().concurrency.clamp(1, 32)
    }
}
