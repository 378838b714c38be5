//! Removing parity that is of no use any more.

use std::collections::HashMap;

use crate::error::Result;
use crate::model::PackId;
use crate::storage::{Class, Name};

use super::ParityPlace;
use super::found::{FoundGroup, FoundParity, find};

/// A group is dissolved when fewer of a hundred of its bytes are left.
const LEAST_LEFT: u64 = 60;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tended {
    /// Groups that were dissolved.
    pub groups: u64,
    /// Objects that were removed: rows of these groups, and what nobody can read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tended {
    fn delete(&mut self, place: &ParityPlace<'_>, name: &Name, size: u64) -> Result<()> {
        place.storage.delete(name)?;
        self.objects += 1;
        self.bytes += size;
        Ok(())
    }

    fn dissolve(&mut self, place: &ParityPlace<'_>, found: &FoundGroup) -> Result<()> {
        found.names().try_for_each(|(name, size)| self.delete(place, &name, size))?;
        self.groups += 1;
        Ok(())
    }
}

/// Whether little of a group lives: under 60 % of its bytes, or more packs and rows are gone than half of its rows. What is left
/// of it could hardly be healed any more, and costs as much as before. Rows alone are made again by the next parity add.
fn is_spent(found: &FoundGroup, present: &HashMap<PackId, u64>) -> bool {
    let left: u64 = found.group.packs.iter().filter(|(id, _)| present.contains_key(id)).map(|(_, len)| *len).sum();
    let gone = found.gone(present);
    let lacks = gone + found.missing_rows().len();
    left * 100 < found.group.bytes() * LEAST_LEFT || gone > 0 && 2 * lacks > usize::from(found.group.rows)
}

/// Whether every pack of a group that is there is in a greater one that has all its rows.
fn is_superseded(found: &FoundGroup, all: &[FoundGroup], present: &HashMap<PackId, u64>) -> bool {
    let place = |found: &FoundGroup| (found.group.packs.len(), found.id);
    let greater = |other: &&FoundGroup| {
        place(other) > place(found) && other.group.rows >= found.group.rows && other.missing_rows().is_empty()
    };
    let holds = |id: &PackId| all.iter().filter(greater).any(|other| other.group.packs.iter().any(|(theirs, _)| theirs == id));
    found.group.packs.iter().filter(|(id, _)| present.contains_key(id)).all(|(id, _)| holds(id))
}

/// Dissolves groups of which little lives, or that greater ones have taken the place of, and removes what nobody can read.
/// `present`: the packs that are there, when all that are not were deleted because nobody needs them.
pub(crate) fn tend(place: &ParityPlace<'_>, present: &HashMap<PackId, u64>) -> Result<Tended> {
    let mut out = Tended::default();
    let FoundParity { mut groups, bad, .. } = find(place)?;
    if groups.is_empty() && bad.is_empty() {
        return Ok(out);
    }
    bad.iter().try_for_each(|(name, size, _)| out.delete(place, name, *size))?;
    let spent: Vec<FoundGroup> = groups.extract_if(.., |found| is_spent(found, present)).collect();
    spent.iter().try_for_each(|found| out.dissolve(place, found))?;
    supersede_of(place, &groups, present, &mut out)?;
    place.storage.sync()?;
    Ok(out)
}

/// Removes groups that greater ones have taken the place of; answers how many. Who may not delete leaves them.
pub(super) fn supersede(place: &ParityPlace<'_>, found: &FoundParity, present: &HashMap<PackId, u64>) -> u64 {
    let mut out = Tended::default();
    drop(supersede_of(place, &found.groups, present, &mut out));
    out.groups
}

fn supersede_of(place: &ParityPlace<'_>, groups: &[FoundGroup], present: &HashMap<PackId, u64>, out: &mut Tended) -> Result<()> {
    // Of two that stand for each other, only the smaller one is superseded: the order is strict.
    groups.iter().filter(|found| is_superseded(found, groups, present)).try_for_each(|found| out.dissolve(place, found))
}

/// Removes all parity.
pub fn remove(place: &ParityPlace<'_>) -> Result<Tended> {
    let mut out = Tended { groups: find(place)?.groups.len() as u64, ..Tended::default() };
    for (name, size) in place.storage.list(Class::Parity)? {
        out.delete(place, &name, size)?;
    }
    place.storage.sync()?;
    Ok(out)
}
