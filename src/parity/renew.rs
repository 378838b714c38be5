//! Making rows anew that are not as they were written.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{PackId, ParityId};
use crate::storage::{Created, Name};
use crate::task::Task;

use super::encode::{Encoded, encode};
use super::found::{FoundGroup, FoundParity, find};
use super::verify::verify;
use super::{ParityPlace, tend};

/// What became of damaged parity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Rows that were computed again from their packs.
    pub rows: u64,
    /// Objects that were removed: nobody can tell what they are of, or not all their packs are there any more.
    pub removed: u64,
    /// Rows that were left as they are, since a pack of their group is damaged, and they may heal it.
    pub held: u64,
}

/// Looks at what there is of parity, reading every row if `read`, and makes anew what is damaged. Rows of packs that are not
/// all there and whole are removed, and groups of which little is left. Only for a repository that lost nothing: a row that is
/// damaged in one place is of use in all others. A dry run counts, and changes nothing.
pub fn renew(place: &ParityPlace<'_>, read: bool, dry: bool, task: &Task<'_>) -> Result<Renewed> {
    let (found, present) = (find(place)?, place.packs()?);
    let mut out = Renewed::default();
    let rows = damaged_rows(place, &found, read, task)?;
    if rows.is_empty() && found.bad.is_empty() {
        return Ok(out);
    }
    for group in &found.groups {
        let Some(rows) = rows.get(&group.id) else { continue };
        let whole = group.gone(&present) == 0;
        if dry {
            let sort = if whole { &mut out.rows } else { &mut out.removed };
            *sort += rows.len() as u64;
        } else {
            one_group(place, group, whole, rows, task, &mut out)?;
        }
    }
    out.removed += found.bad.len() as u64;
    if !dry {
        // Durable before more is deleted; this removes what nobody can tell what it is of.
        place.storage.sync()?;
        if out.held == 0 {
            tend::tend(place)?;
        }
    }
    Ok(out)
}

/// The rows that are not as they were written, by their groups.
fn damaged_rows(
    place: &ParityPlace<'_>,
    found: &FoundParity,
    read: bool,
    task: &Task<'_>,
) -> Result<BTreeMap<ParityId, Vec<u8>>> {
    let mut out: BTreeMap<ParityId, Vec<u8>> = BTreeMap::new();
    let mut add = |name: &Name| {
        if let Name::Parity(id, row) = name {
            out.entry(*id).or_default().push(*row);
        }
    };
    if read {
        verify(place, found, task)?.iter().for_each(|(name, _)| add(name));
    } else {
        for group in &found.groups {
            let cut = group.names().filter(|(_, size)| *size != group.group.row_len());
            cut.for_each(|(name, _)| add(&name));
        }
    }
    Ok(out)
}

fn one_group(
    place: &ParityPlace<'_>,
    found: &FoundGroup,
    whole: bool,
    rows: &[u8],
    task: &Task<'_>,
    out: &mut Renewed,
) -> Result<()> {
    let encoded = if whole { encode(place, &found.group, task)? } else { Encoded::Unfit(Vec::new()) };
    if whole && matches!(encoded, Encoded::Unfit(_)) {
        out.held += rows.len() as u64;
        return Ok(());
    }
    for row in rows {
        let name = Name::Parity(found.id, *row);
        place.storage.delete(&name)?;
        match &encoded {
            Encoded::Rows(all) => {
                let Some(bytes) = all.get(usize::from(*row)) else { continue };
                if place.storage.create(&name, &[bytes])? == Created::Exists {
                    let text = format!("{name} appeared while it was made anew: run it again");
                    return Err(Error::new(ErrorKind::Busy, text));
                }
                out.rows += 1;
            }
            Encoded::Unfit(_) => out.removed += 1,
        }
    }
    Ok(())
}

/// How many packs have no parity, in a repository that has some.
pub fn uncovered(place: &ParityPlace<'_>) -> Result<u64> {
    let found = find(place)?;
    let (covered, packs): (_, HashMap<PackId, u64>) = (found.covered(), place.packs()?);
    let without = packs.keys().filter(|id| !covered.contains(*id)).count() as u64;
    Ok(if found.groups.is_empty() { 0 } else { without })
}
