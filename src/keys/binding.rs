//! What a small sealed object is bound to, by its name: the types it may have, and its id.

use crate::format::envelope::ObjectType;
use crate::model::SnapshotId;
use crate::storage::Name;

/// The types that an object of this name may have.
pub fn kinds(name: &Name) -> &'static [ObjectType] {
    match name {
        Name::Session(_) => &[ObjectType::Session],
        Name::Beat(..) => &[ObjectType::Beat],
        Name::Snapshot(_) => &[ObjectType::Snapshot, ObjectType::Fence],
        Name::Forgotten(_) => &[ObjectType::Forgotten],
        Name::Condemned(_) => &[ObjectType::Condemned],
        Name::Damaged(_) => &[ObjectType::Damaged],
        Name::Run(_) => &[ObjectType::Run],
        _ => &[],
    }
}

/// The id in the name of a small object.
pub fn id(name: &Name) -> Option<&SnapshotId> {
    match name {
        Name::Session(id)
        | Name::Beat(id, _)
        | Name::Snapshot(id)
        | Name::Forgotten(id)
        | Name::Condemned(id)
        | Name::Damaged(id)
        | Name::Run(id) => Some(id),
        _ => None,
    }
}
