//! Storing objects: byte strings with names, in a directory, in memory, or behind whatever implements [`Storage`].
//!
//! An object is never overwritten and no name is used twice. So a storage has to do five things: create an object if its
//! name is free, read, list, delete, and make durable what was created.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::{GroupSlot, ObjectType, PackId, ParityId, SegmentId, SlotId, SnapshotId, Timestamp};
use crate::sys::process::ProcessIdentity;

mod class;
mod costs;
pub mod directory;
pub(crate) mod leftovers;
pub mod memory;
pub(crate) mod naming;
pub(crate) mod receipts;
pub(crate) mod upload;
pub(crate) mod walk;

pub use crate::model::Requests;
pub use class::Class;
pub use costs::Costs;

/// How many copies there are of the small objects that everything else depends on.
pub const COPIES: u8 = 3;
/// What stands in the place of a copy's number in the name of a slot's removal.
const REMOVED: &str = "removed";

/// The name of an object: parsed, never joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A configuration: its number and which copy it is.
    Config(u32, u8),
    /// A key slot and which copy it is.
    Key(SlotId, u8),
    /// The removal of a key slot, which has begun.
    Removed(SlotId),
    /// A pack.
    Pack(PackId),
    /// An index segment.
    Segment(SegmentId),
    /// A writer at work.
    Session(SnapshotId),
    /// A sign of life of a writer at work, with its number: later ones have higher ones.
    Beat(SnapshotId, u64),
    /// A snapshot, or a fence.
    Snapshot(SnapshotId),
    /// A forgotten snapshot.
    Forgotten(SnapshotId),
    /// A list of prune.
    Condemned(SnapshotId),
    /// What was found damaged of packs.
    Damaged(SnapshotId),
    /// What became of a run.
    Run(SnapshotId),
    /// What was said of a snapshot later.
    Annotation(SnapshotId),
    /// A step of a group.
    Group(SnapshotId, GroupSlot),
    /// A row of parity over a group of packs, with its number.
    Parity(ParityId, u8),
}

impl Name {
    /// Its class.
    pub fn class(&self) -> Class {
        match self {
            Name::Config(..) => Class::Config,
            Name::Key(..) | Name::Removed(_) => Class::Keys,
            Name::Pack(_) => Class::Packs,
            Name::Segment(_) => Class::Index,
            Name::Session(_) | Name::Beat(..) => Class::Sessions,
            Name::Snapshot(_) => Class::Snapshots,
            Name::Forgotten(_) => Class::Forgotten,
            Name::Condemned(_) => Class::Condemned,
            Name::Damaged(_) => Class::Damaged,
            Name::Run(_) => Class::Runs,
            Name::Annotation(_) => Class::Annotations,
            Name::Group(..) => Class::Groups,
            Name::Parity(..) => Class::Parity,
        }
    }

    /// The types that an object of this name may have.
    pub fn kinds(&self) -> &'static [ObjectType] {
        match self {
            Name::Config(..) => &[ObjectType::Config],
            Name::Key(..) => &[ObjectType::KeySlot],
            Name::Removed(_) => &[ObjectType::Removed],
            Name::Pack(_) => &[ObjectType::Pack],
            Name::Segment(_) => &[ObjectType::Segment],
            Name::Session(_) => &[ObjectType::Session],
            Name::Beat(..) => &[ObjectType::Beat],
            Name::Snapshot(_) => &[ObjectType::Snapshot, ObjectType::Fence],
            Name::Forgotten(_) => &[ObjectType::Forgotten],
            Name::Condemned(_) => &[ObjectType::Condemned],
            Name::Damaged(_) => &[ObjectType::Damaged],
            Name::Run(_) => &[ObjectType::Run],
            Name::Annotation(_) => &[ObjectType::Annotation],
            Name::Group(..) => &[ObjectType::Group],
            Name::Parity(..) => &[ObjectType::Parity],
        }
    }

    /// The part after the class's prefix (for packs, after `packs/xx/`).
    pub fn leaf(&self) -> String {
        match self {
            Name::Config(number, copy) => format!("{number:08x}.{copy}"),
            Name::Key(slot, copy) => format!("{slot}.{copy}"),
            Name::Removed(slot) => format!("{slot}.{REMOVED}"),
            Name::Pack(id) => id.to_string(),
            Name::Segment(id) => id.to_string(),
            Name::Beat(id, number) => format!("{id}.{number}"),
            Name::Group(id, slot) => format!("{id}.{slot}"),
            Name::Parity(id, row) => format!("{id}.{row}"),
            Name::Session(id) | Name::Snapshot(id) | Name::Forgotten(id) => id.to_string(),
            Name::Condemned(id) | Name::Damaged(id) | Name::Run(id) | Name::Annotation(id) => id.to_string(),
        }
    }

    /// Parses the leaf of a name of `class`; `None` for anything that is not exactly such a name (a foreign file).
    pub fn parse(class: Class, leaf: &str) -> Option<Name> {
        let copied = |leaf: &str| -> Option<(String, u8)> {
            let (stem, copy) = leaf.split_once('.')?;
            let copy = (0..COPIES).find(|n| n.to_string() == copy)?;
            Some((stem.to_owned(), copy))
        };
        match class {
            Class::Config => {
                let (stem, copy) = copied(leaf)?;
                crate::model::id::from_hex::<4>(&stem).map(|n| Name::Config(u32::from_be_bytes(n), copy))
            }
            Class::Keys => match leaf.split_once('.')? {
                (stem, REMOVED) => SlotId::parse(stem).ok().map(Name::Removed),
                _ => {
                    let (stem, copy) = copied(leaf)?;
                    SlotId::parse(&stem).ok().map(|slot| Name::Key(slot, copy))
                }
            },
            Class::Packs => PackId::parse(leaf).ok().map(Name::Pack),
            Class::Index => SegmentId::parse(leaf).ok().map(Name::Segment),
            Class::Sessions => match leaf.split_once('.') {
                None => SnapshotId::parse(leaf).ok().map(Name::Session),
                Some((id, number)) => {
                    let beat = Name::Beat(SnapshotId::parse(id).ok()?, number.parse().ok()?);
                    Some(beat).filter(|beat| beat.leaf() == leaf)
                }
            },
            Class::Snapshots => SnapshotId::parse(leaf).ok().map(Name::Snapshot),
            Class::Forgotten => SnapshotId::parse(leaf).ok().map(Name::Forgotten),
            Class::Condemned => SnapshotId::parse(leaf).ok().map(Name::Condemned),
            Class::Damaged => SnapshotId::parse(leaf).ok().map(Name::Damaged),
            Class::Runs => SnapshotId::parse(leaf).ok().map(Name::Run),
            Class::Annotations => SnapshotId::parse(leaf).ok().map(Name::Annotation),
            Class::Groups => {
                let (id, slot) = leaf.split_once('.')?;
                Some(Name::Group(SnapshotId::parse(id).ok()?, GroupSlot::parse(slot)?))
            }
            Class::Parity => {
                let (id, row) = leaf.split_once('.')?;
                let row = Name::Parity(ParityId::parse(id).ok()?, row.parse().ok()?);
                Some(row).filter(|row| row.leaf() == leaf)
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = self.leaf();
        match self {
            Name::Pack(_) => write!(f, "packs/{}/{leaf}", &leaf[..2]),
            _ => write!(f, "{}/{leaf}", self.class().prefix()),
        }
    }
}

/// The size that a list gives for an object of this length. What is longer than any object of its class is all the same,
/// and a sum of sizes must not overflow.
pub(crate) fn listed_size(class: Class, len: u64) -> u64 {
    len.min(class.max_object() + 1)
}

/// The length of a whole object, as long as an object of its class can be: no more is read.
fn whole(name: &Name, len: u64) -> Result<u64> {
    match len > name.class().max_object() {
        true => Err(Error::corrupt(format!("{name} has {len} bytes: it is longer than any such object"))),
        false => Ok(len),
    }
}

/// What a server notes of an object that it received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// When, by its own clock.
    pub at: Timestamp,
    /// From whom: the id of a token, or the name of a client over ssh. Known of snapshots only.
    pub by: Option<String>,
}

/// What `create` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is there now.
    New,
    /// The name was taken: nothing was written. The caller reads the object if it has to know its content.
    Exists,
}

/// Parts of objects that nobody will finish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// A place for objects. Every call blocks; calls may come from several threads at once.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Creates `name` with the concatenation of `parts`, if the name is free. The object appears whole or not at all,
    /// and is durable after the next [`Storage::sync`]. [`ErrorKind::Unsettled`](crate::ErrorKind::Unsettled) says that
    /// a pack may or may not come to be there: its name must not be used again (rule 3 of docs/durability.md).
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created>;

    /// Reads an object, or a range of it, into `out` (replaced). A range that reaches beyond the end is damage.
    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()>;

    /// The object's file, where it is one: it can be read on after the object was deleted.
    fn open(&self, _name: &Name) -> Option<std::fs::File> {
        None
    }

    /// Names and sizes of all objects of a class, in no order. Foreign names are left out; an error means that
    /// nothing is known.
    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>>;

    /// Deletes an object; one that is not there is no error.
    fn delete(&self, name: &Name) -> Result<()>;

    /// A barrier: every object created or deleted before is durable when it returns.
    fn sync(&self) -> Result<()>;

    /// As [`Storage::sync`], for every object that is there, of every writer. A process that was killed may have left
    /// objects that can be seen and are not durable; a caller that deletes because they are there calls this first.
    fn sync_everything(&self) -> Result<()> {
        self.sync()
    }

    /// Bytes that can still be stored, where that is known.
    fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Finds what writers that are known to be dead left of objects they did not finish, and with `remove` removes it.
    fn leftovers(&self, _remove: bool) -> Result<Leftovers> {
        Ok(Leftovers::default())
    }

    /// Removes what this process, which counts as dead, left of objects that it did not finish.
    fn leftovers_of(&self, _process: &ProcessIdentity) -> Result<Leftovers> {
        Ok(Leftovers::default())
    }

    /// When a server received the objects of a class, and from whom; nothing where there is no server.
    fn received(&self, _class: Class) -> Result<Vec<(Name, Receipt)>> {
        Ok(Vec::new())
    }

    /// Who this is to the server, as it notes who put an object; `None` where there is no server, or it does not tell.
    fn client(&self) -> Option<String> {
        None
    }

    /// Whether one of several who create the same name wins, always. Where not, one writes at a time, and nobody prunes
    /// without saying that nobody else is at work.
    fn decides(&self) -> Result<bool> {
        Ok(true)
    }

    /// What was asked of the store so far, where requests are counted.
    fn requests(&self) -> Option<Requests> {
        None
    }

    /// The storage class of each pack, where the store tells.
    fn pack_classes(&self) -> Result<Option<HashMap<PackId, String>>> {
        Ok(None)
    }

    /// What requests cost. It may change while a storage is open.
    fn costs(&self) -> Costs;

    /// The local directory that holds the objects, if one does: an ingest never goes in there.
    fn local_path(&self) -> Option<std::path::PathBuf> {
        None
    }

    /// The place, for people.
    fn describe(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_strictly() {
        let id = SnapshotId([0xcd; 32]);
        let small =
            [Name::Config(1, 2), Name::Key(SlotId([1; 16]), 0), Name::Session(id), Name::Beat(id, 10), Name::Snapshot(id)];
        let others = [Name::Pack(PackId([2; 32])), Name::Removed(SlotId([1; 16])), Name::Parity(ParityId([3; 32]), 10)];
        let names = small.into_iter().chain(others);
        for name in names {
            assert_eq!(Name::parse(name.class(), &name.leaf()), Some(name));
        }
        for bad in ["", "..", "00000001.3", "00000001", "1.0", "00000001.+0", "../../etc/passwd"] {
            assert_eq!(Name::parse(Class::Config, bad), None, "{bad:?}");
        }
        for bad in ["", "+1", "01", "1.2", "x", "99999999999999999999"] {
            assert_eq!(Name::parse(Class::Sessions, &format!("{id}.{bad}")), None, "{bad:?}");
        }
        for bad in ["", "+1", "01", "1.2", "x", "256"] {
            assert_eq!(Name::parse(Class::Parity, &format!("{id}.{bad}")), None, "{bad:?}");
        }
        assert_eq!(Name::parse(Class::Packs, &"AB".repeat(32)), None);
    }
}
