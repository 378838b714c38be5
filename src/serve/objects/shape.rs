//! What an object must look like to be one: all that can be told of it without the key.

use crate::format::envelope::{self, CHECKSUM, HEADER, HeaderFields};
use crate::model::RepositoryId;
use crate::remote::protocol::{Code, Refusal};
use crate::storage::Name;

/// The shortest object: a header and a checksum.
pub(crate) const LEAST: u64 = (HEADER + CHECKSUM) as u64;

/// The refusal of an object that cannot be what its name says.
pub(crate) fn malformed(name: &Name, why: &str) -> Refusal {
    Refusal::new(Code::Malformed, format!("what came is no object of the name {name}: {why}; it was not stored"))
}

/// The repository that a header names, if an object of this name may begin with it. Versions and flags of newer programs
/// are theirs to judge: their clients must be able to store.
pub(super) fn repository_of(name: &Name, header: &[u8]) -> Result<RepositoryId, Refusal> {
    let Some(HeaderFields { kind, version, repository }) = envelope::peek(header) else {
        return Err(malformed(name, "its first bytes are not those of a yester object"));
    };
    if !name.kinds().iter().any(|known| *known as u8 == kind) {
        return Err(malformed(name, &format!("it is an object of type {kind}")));
    }
    match version {
        0 => Err(malformed(name, "its version is 0")),
        _ => Ok(repository),
    }
}

/// The repository of a whole object that is intact; `None` when it is not.
pub(crate) fn repository_of_intact(name: &Name, object: &[u8]) -> Option<RepositoryId> {
    repository_of(name, object).ok().filter(|_| envelope::is_intact(object))
}
