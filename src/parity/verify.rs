//! Reading rows whole: whether they are as they were written.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, CHECKSUM, HEADER};
use crate::format::parity::decode_record;
use crate::model::ObjectType;
use crate::observe::Event;
use crate::repo::parallel;
use crate::repo::reader::is_damage;
use crate::storage::Name;
use crate::task::Task;

use super::ParityPlace;
use super::found::{FoundGroup, FoundParity};

/// Bytes that are read at a time.
const PIECE: u64 = 4 << 20;

/// Reads every row; answers which are not as they were written. Whether the packs are as the rows say is not looked at:
/// each pack is verified by its own name.
pub fn verify(place: &ParityPlace<'_>, found: &FoundParity, task: &Task<'_>) -> Result<Vec<(Name, Error)>> {
    let rows: Vec<(&FoundGroup, u8, u64)> =
        found.groups.iter().flat_map(|found| found.rows.iter().map(move |(row, size)| (found, *row, *size))).collect();
    let (bad, bytes, failed) = (Mutex::new(Vec::new()), AtomicU64::new(0), Mutex::new(Ok(())));
    let total_bytes = rows.iter().map(|(.., size)| *size).sum();
    let one = |(): &mut (), at: usize| {
        let Some((found, row, size)) = rows.get(at) else { return };
        match row_is_whole(place, found, *row, *size, task) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if is_damage(&e) => bad.lock().push((Name::Parity(found.id, *row), e)),
            Err(e) => *failed.lock() = Err(e),
        }
        let bytes = bytes.fetch_add(*size, Ordering::Relaxed) + *size;
        let (entries, total_entries) = (at as u64 + 1, rows.len() as u64);
        task.observer.event(&Event::Progress { entries, bytes, total_entries, total_bytes, unit: "rows" });
    };
    parallel::claim(place.readers(), rows.len(), || failed.lock().is_err(), || (), one);
    failed.into_inner()?;
    let mut bad = bad.into_inner();
    bad.sort_by_key(|(name, _)| *name);
    Ok(bad)
}

fn row_is_whole(place: &ParityPlace<'_>, found: &FoundGroup, row: u8, size: u64, task: &Task<'_>) -> Result<()> {
    let (name, group) = (Name::Parity(found.id, row), &found.group);
    if size != group.row_len() {
        return Err(Error::corrupt(format!("it has {size} bytes and should have {}", group.row_len())));
    }
    let (mut hasher, mut at, mut piece) = (blake3::Hasher::new(), 0, Vec::new());
    let body = size.saturating_sub(CHECKSUM as u64);
    while at < body {
        task.go_on("the check was stopped")?;
        let end = (at + PIECE).min(body);
        place.storage.read(&name, Some(at..end), &mut piece)?;
        if at == 0 && piece.get(..HEADER) != Some(&envelope::header(ObjectType::Parity, place.repository)[..]) {
            return Err(Error::corrupt("its first bytes are not those of such a row"));
        }
        hasher.update(&piece);
        at = end;
    }
    place.storage.read(&name, Some(body..size), &mut piece)?;
    if hasher.finalize().as_bytes()[..] == piece[..] {
        return Ok(());
    }
    let stripes = damaged_stripes(place, found, row)?;
    Err(Error::corrupt(format!("its checksum does not match: {stripes} of its {} stripes are damaged", group.stripes())))
}

/// How many records of a row are not as they were written.
fn damaged_stripes(place: &ParityPlace<'_>, found: &FoundGroup, row: u8) -> Result<u64> {
    let (group, mut bytes, mut bad) = (&found.group, Vec::new(), 0);
    for stripe in 0..group.stripes() {
        let from = group.start() + stripe * group.record();
        match place.storage.read(&Name::Parity(found.id, row), Some(from..from + group.record()), &mut bytes) {
            Err(e) if is_damage(&e) => bytes.clear(),
            read => read?,
        }
        let record = decode_record(found.id, row, stripe, group.packs.len(), &bytes);
        bad += u64::from(record.is_none_or(|record| record.shard.is_none()));
    }
    Ok(bad)
}
