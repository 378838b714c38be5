//! Removing parity that is of no use any more.

use std::collections::HashMap;

use crate::error::{Error, Result};
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

/// Dissolves groups of which little lives, and removes what nobody can read. Only for a repository whose packs that are not
/// there were all deleted because nobody needs them.
pub(crate) fn tend(place: &ParityPlace<'_>) -> Result<Tended> {
    let mut out = Tended::default();
    let FoundParity { groups, bad, .. } = find(place)?;
    if groups.is_empty() && bad.is_empty() {
        return Ok(out);
    }
    // Listed after the groups: of a group that is known every pack was there when it was made.
    let present = &place.packs()?;
    bad.iter().try_for_each(|(name, size, _)| out.delete(place, name, *size))?;
    groups.iter().filter(|found| is_spent(found, present)).try_for_each(|found| out.dissolve(place, found))?;
    place.storage.sync()?;
    Ok(out)
}

/// Removes groups each of whose packs, lost ones too, is in a greater one; answers how many. What a greater group says of
/// itself is not enough, since who may only add can say that: `proves` computes its rows. Who may not delete leaves them.
pub(super) fn supersede(
    place: &ParityPlace<'_>,
    found: &FoundParity,
    proves: &mut dyn FnMut(&FoundGroup) -> Result<bool>,
) -> Result<u64> {
    let mut out = Tended::default();
    // Of two that stand for each other, only the smaller one is superseded: the order is strict.
    let order = |found: &FoundGroup| (found.group.packs.len(), found.id);
    let mut of_pack: HashMap<PackId, Vec<&FoundGroup>> = HashMap::new();
    for group in &found.groups {
        group.group.packs.iter().for_each(|(id, _)| of_pack.entry(*id).or_default().push(group));
    }
    for small in &found.groups {
        let is_greater = |other: &&&FoundGroup| {
            order(other) > order(small) && other.group.rows >= small.group.rows && other.missing_rows().is_empty()
        };
        let greater = |id: &PackId| of_pack.get(id).into_iter().flatten().copied().find(|other| is_greater(&other));
        // Most groups end here: nothing is computed for one that stays anyway.
        if small.group.packs.iter().any(|(id, _)| greater(id).is_none()) {
            continue;
        }
        let mut all = true;
        for (id, _) in &small.group.packs {
            let mut others = of_pack.get(id).into_iter().flatten().filter(is_greater);
            all = all && others.try_fold(false, |proven, other| Ok::<_, Error>(proven || proves(other)?))?;
        }
        if all && out.dissolve(place, small).is_err() {
            break;
        }
    }
    Ok(out.groups)
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
