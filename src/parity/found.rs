//! Which groups there are: what is in `parity/`, read from the heads of the rows.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, CHECKSUM, HEADER, VERSION};
use crate::format::parity::{LENGTH, MAX_HEAD, ParityGroup, decode_parity, head_id};
use crate::model::{PackId, ParityId};
use crate::repo::parallel;
use crate::repo::reader::is_damage;
use crate::storage::{Class, Name};

use super::ParityPlace;

/// Bytes of a row that are read at first: the head of a group of some 50 packs.
const FIRST: u64 = 2 << 10;

/// A group, and the rows of it that are there.
#[derive(Debug, Clone)]
pub struct FoundGroup {
    /// Its name.
    pub id: ParityId,
    /// What it is of.
    pub group: ParityGroup,
    /// Its rows, with their lengths in bytes.
    pub rows: BTreeMap<u8, u64>,
}

impl FoundGroup {
    /// Bytes of its rows.
    pub fn bytes(&self) -> u64 {
        self.rows.values().sum()
    }

    /// Its rows that are not there.
    pub fn missing_rows(&self) -> Vec<u8> {
        (0..self.group.rows).filter(|row| !self.rows.contains_key(row)).collect()
    }

    /// How many of its packs are not among these.
    pub fn gone(&self, present: &HashMap<PackId, u64>) -> usize {
        self.group.packs.iter().filter(|(id, _)| !present.contains_key(id)).count()
    }

    /// The names of its rows.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Name, u64)> {
        self.rows.iter().map(|(row, size)| (Name::Parity(self.id, *row), *size))
    }
}

/// What is in `parity/`.
#[derive(Debug, Default)]
pub struct FoundParity {
    /// The groups, in the order of their names.
    pub groups: Vec<FoundGroup>,
    /// Objects that say nothing, with their lengths: nobody can tell what they are of.
    pub bad: Vec<(Name, u64, Error)>,
    /// Objects that the disk cannot read where they say what they are of. What the rest of them is good for nobody knows, so
    /// nobody removes them.
    pub unreadable: Vec<(Name, u64, Error)>,
    /// Objects that newer programs made, as they say. They are left alone.
    pub newer: Vec<Name>,
}

impl FoundParity {
    /// The packs that some group is of.
    pub fn covered(&self) -> HashSet<PackId> {
        self.groups.iter().flat_map(|found| found.group.packs.iter().map(|(id, _)| *id)).collect()
    }
}

/// What a row's head says.
enum RowHead {
    Group(ParityGroup),
    Newer,
    Bad(Error),
    Unreadable(Error),
    Gone,
}

/// Reads what there is. What is damaged is no error; an error means that nothing is known.
pub fn find(place: &ParityPlace<'_>) -> Result<FoundParity> {
    let mut listed: BTreeMap<ParityId, BTreeMap<u8, u64>> = BTreeMap::new();
    for (name, size) in place.storage.list(Class::Parity)? {
        if let Name::Parity(id, row) = name {
            listed.entry(id).or_default().insert(row, size);
        }
    }
    let listed: Vec<(ParityId, BTreeMap<u8, u64>)> = listed.into_iter().collect();
    let read = Mutex::new(Vec::with_capacity(listed.len()));
    let one = |(): &mut (), at: usize| {
        if let Some((id, rows)) = listed.get(at) {
            let mut out = FoundParity::default();
            let done = judge(place, *id, rows, &mut out).map(|()| out);
            read.lock().push((at, done));
        }
    };
    parallel::claim(place.readers(), listed.len(), || false, || (), one);
    let mut read = read.into_inner();
    read.sort_unstable_by_key(|(at, _)| *at);
    let mut out = FoundParity::default();
    for (_, found) in read {
        let found = found?;
        out.groups.extend(found.groups);
        out.bad.extend(found.bad);
        out.unreadable.extend(found.unreadable);
        out.newer.extend(found.newer);
    }
    Ok(out)
}

/// Sorts the rows of one name. Any row that can be read says what the group is.
fn judge(place: &ParityPlace<'_>, id: ParityId, rows: &BTreeMap<u8, u64>, out: &mut FoundParity) -> Result<()> {
    let (mut group, mut bad, mut unreadable) = (None, Vec::new(), Vec::new());
    let mut rows = rows.clone();
    for (row, size) in rows.clone() {
        let name = Name::Parity(id, row);
        match head(place, id, row, size)? {
            RowHead::Group(found) => {
                group = Some(found);
                break;
            }
            RowHead::Newer => {
                out.newer.push(name);
                rows.remove(&row);
            }
            RowHead::Bad(e) => bad.push((name, size, e)),
            RowHead::Unreadable(e) => unreadable.push((name, size, e)),
            RowHead::Gone => drop(rows.remove(&row)),
        }
    }
    let Some(group) = group else {
        out.bad.extend(bad);
        out.unreadable.extend(unreadable);
        return Ok(());
    };
    // Rows whose own head is damaged can be used all the same: each stripe stands by itself.
    for (row, size) in rows.clone().into_iter().filter(|(row, _)| *row >= group.rows) {
        rows.remove(&row);
        let e = Error::corrupt(format!("its group has {} rows, from 0 on", group.rows));
        out.bad.push((Name::Parity(id, row), size, e));
    }
    if !rows.is_empty() {
        out.groups.push(FoundGroup { id, group, rows });
    }
    Ok(())
}

/// Reads the head at the beginning of a row, or the one at its end.
fn head(place: &ParityPlace<'_>, id: ParityId, row: u8, size: u64) -> Result<RowHead> {
    let name = Name::Parity(id, row);
    let failed = Cell::new(None);
    let read = |from: u64, until: u64| -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match place.storage.read(&name, Some(from..until), &mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            // Shorter than it was listed.
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(Some(Vec::new())),
            // Its place on the disk cannot be read; the other end may be.
            Err(e) if is_damage(&e) => {
                failed.set(Some(e));
                Ok(Some(Vec::new()))
            }
            Err(e) => Err(e),
        }
    };
    let is_it = |head: &[u8]| {
        (head_id(place.repository, head) == id).then(|| decode_parity(head).map_or_else(RowHead::Bad, RowHead::Group))
    };
    let Some(mut first) = read(0, size.min(FIRST))? else { return Ok(RowHead::Gone) };
    let says = envelope::peek(&first);
    if let Some(len) = length(first.get(HEADER..HEADER + LENGTH)) {
        let end = HEADER + LENGTH + len;
        if end > first.len() && end as u64 <= size {
            first = read(0, end as u64)?.unwrap_or_default();
        }
        if let Some(found) = first.get(HEADER + LENGTH..end).and_then(is_it) {
            return Ok(found);
        }
    }
    let end = size.saturating_sub((CHECKSUM + LENGTH) as u64);
    let tail = read(end, (end + LENGTH as u64).min(size))?.unwrap_or_default();
    if let Some(len) = length(tail.get(..LENGTH)) {
        let head = read(end.saturating_sub(len as u64), end)?.unwrap_or_default();
        if let Some(found) = is_it(&head) {
            return Ok(found);
        }
    }
    if let Some(e) = failed.take() {
        return Ok(RowHead::Unreadable(e));
    }
    Ok(match says {
        Some(says) if says.version > VERSION && says.repository == place.repository => RowHead::Newer,
        Some(says) if says.repository != place.repository => {
            RowHead::Bad(Error::corrupt(format!("it is of another repository, {}", says.repository)))
        }
        _ => RowHead::Bad(Error::corrupt("what it is of cannot be read")),
    })
}

fn length(bytes: Option<&[u8]>) -> Option<usize> {
    let len = u32::from_le_bytes(*bytes?.first_chunk()?) as usize;
    (len <= MAX_HEAD).then_some(len)
}
