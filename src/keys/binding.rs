//! What a small sealed object is bound to, by its name: its id.

use crate::model::SnapshotId;
use crate::storage::Name;

/// The id in the name of a small object.
pub(crate) fn id(name: &Name) -> Option<&SnapshotId> {
    match name {
        Name::Session(id)
        | Name::Beat(id, _)
        | Name::Snapshot(id)
        | Name::Forgotten(id)
        | Name::Condemned(id)
        | Name::Damaged(id)
        | Name::Run(id)
        | Name::Annotation(id)
        | Name::Group(id, _) => Some(id),
        _ => None,
    }
}
