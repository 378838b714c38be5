//! Making the rows of a group: every pack is read once, all of them side by side, some stripes at a time.

use parking_lot::Mutex;
use reed_solomon_simd::ReedSolomonEncoder;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::format::envelope::{self, CHECKSUM};
use crate::format::parity::{ParityGroup, ShardDigest, digest, encode_parity, encode_record};
use crate::model::{ObjectType, PackId, ParityId};
use crate::repo::parallel;
use crate::repo::reader::is_damage;
use crate::storage::Name;
use crate::sys::process;
use crate::sys::spool::{Spool, Spooled};
use crate::task::Task;

use super::ParityPlace;
use super::stripes::window;

/// What came of it.
pub(super) enum Encoded {
    /// All rows of the group, whole objects.
    Rows(Vec<Spooled>),
    /// These packs are not there, or not what their names say: no parity is made of them.
    Unfit(Vec<(PackId, Error)>),
}

/// A row under way.
struct NewRow {
    spool: Spool,
    hasher: blake3::Hasher,
}

impl NewRow {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.spool.write(bytes).at(|| "cannot put a row of parity together".to_owned())
    }
}

/// A pack that is being read.
struct Member {
    id: PackId,
    len: u64,
    hasher: blake3::Hasher,
    tail: Vec<u8>,
    /// Shards of the stripes at hand, and their digests.
    shards: Vec<u8>,
    digests: Vec<ShardDigest>,
    failed: Option<Error>,
}

impl Member {
    /// Reads the shards of some stripes, filled up with zeros. What cannot be had is remembered.
    fn read(&mut self, place: &ParityPlace<'_>, from: u64, len: usize, shard: usize) {
        let (start, end) = (from.min(self.len), (from + len as u64).min(self.len));
        self.shards.clear();
        if self.failed.is_none()
            && start < end
            && let Err(e) = place.storage.read(&Name::Pack(self.id), Some(start..end), &mut self.shards)
        {
            self.failed = Some(e);
        }
        // The checksum at the end is not part of what it is of.
        let hashed = self.len.saturating_sub(CHECKSUM as u64).saturating_sub(start).min(self.shards.len() as u64) as usize;
        let (body, tail) = self.shards.split_at(hashed);
        self.hasher.update(body);
        self.tail.extend_from_slice(tail);
        self.shards.resize(len, 0);
        self.digests.clear();
        self.digests.extend(self.shards.chunks(shard).map(digest));
    }

    /// Why no parity can be made of it.
    fn unfit(self) -> Option<(PackId, Error)> {
        let named = self.tail == self.id.0 && *self.hasher.finalize().as_bytes() == self.id.0;
        let wrong = || (!named).then(|| Error::corrupt("it is not what its name says"));
        self.failed.or_else(wrong).map(|e| (self.id, e))
    }
}

/// Makes the rows of `group`. Errors of the storage other than that a pack is gone or damaged end it.
pub(super) fn encode(place: &ParityPlace<'_>, group: &ParityGroup, task: &Task<'_>) -> Result<Encoded> {
    let id = group.id(place.repository);
    let mut rows = (0..group.rows).map(|_| begin(place, group)).collect::<Result<Vec<NewRow>>>()?;
    let member = |(id, len): &(PackId, u64)| {
        let (hasher, shards, tail, digests) = Default::default();
        Mutex::new(Member { id: *id, len: *len, hasher, tail, shards, digests, failed: None })
    };
    let members: Vec<Mutex<Member>> = group.packs.iter().map(member).collect();
    let failed = |e: reed_solomon_simd::Error| Error::new(ErrorKind::Invalid, format!("parity cannot be computed: {e}"));
    let shard = group.shard as usize;
    let mut encoder = ReedSolomonEncoder::new(members.len(), rows.len(), shard).map_err(failed)?;
    let workers = place.readers().max(process::cores());
    let mut next = 0;
    while next < group.stripes() {
        task.go_on("making parity was stopped: what is complete stays, and the next parity add goes on")?;
        let until = (next + window(members.len(), group.shard)).min(group.stripes());
        let len = (until - next) as usize * shard;
        let read = |(): &mut (), at: usize| {
            if let Some(member) = members.get(at) {
                member.lock().read(place, next * shard as u64, len, shard);
            }
        };
        parallel::claim(workers, members.len(), || false, || (), read);
        if members.iter().any(|member| member.lock().failed.is_some()) {
            break;
        }
        for stripe in next..until {
            stripe_rows(id, stripe, (stripe - next) as usize, &members, &mut encoder, &mut rows)?;
        }
        next = until;
    }
    let done = next == group.stripes();
    let unfit = |member: Mutex<Member>| {
        let member = member.into_inner();
        if done || member.failed.is_some() { member.unfit() } else { None }
    };
    let unfit: Vec<(PackId, Error)> = members.into_iter().filter_map(unfit).collect();
    if let Some(at) = unfit.iter().position(|(_, e)| e.kind() != ErrorKind::NotFound && !is_damage(e)) {
        return unfit.into_iter().nth(at).map_or(Ok(Encoded::Unfit(Vec::new())), |(_, e)| Err(e));
    }
    match unfit.is_empty() {
        true => rows.into_iter().map(|row| end(row, group)).collect::<Result<_>>().map(Encoded::Rows),
        false => Ok(Encoded::Unfit(unfit)),
    }
}

/// Computes the parity of a stripe and appends it to the rows.
fn stripe_rows(
    id: ParityId,
    stripe: u64,
    at: usize,
    members: &[Mutex<Member>],
    encoder: &mut ReedSolomonEncoder,
    rows: &mut [NewRow],
) -> Result<()> {
    let failed = |e: reed_solomon_simd::Error| Error::new(ErrorKind::Invalid, format!("parity cannot be computed: {e}"));
    let mut digests = Vec::with_capacity(members.len() + 1);
    for member in members {
        let member = member.lock();
        let shard = member.shards.len() / member.digests.len().max(1);
        encoder.add_original_shard(member.shards.get(at * shard..(at + 1) * shard).unwrap_or_default()).map_err(failed)?;
        digests.extend(member.digests.get(at).copied());
    }
    let parity = encoder.encode().map_err(failed)?;
    for ((number, row), shard) in (0u8..).zip(rows).zip(parity.recovery_iter()) {
        digests.push(digest(shard));
        row.write(&encode_record(id, number, stripe, &digests))?;
        row.write(shard)?;
        digests.pop();
    }
    Ok(())
}

fn begin(place: &ParityPlace<'_>, group: &ParityGroup) -> Result<NewRow> {
    let mut row = NewRow { spool: place.spool(group.row_len())?, hasher: blake3::Hasher::new() };
    let head = encode_parity(group);
    row.write(&envelope::header(ObjectType::Parity, place.repository))?;
    row.write(&(head.len() as u32).to_le_bytes())?;
    row.write(&head)?;
    Ok(row)
}

fn end(mut row: NewRow, group: &ParityGroup) -> Result<Spooled> {
    let head = encode_parity(group);
    row.write(&head)?;
    row.write(&(head.len() as u32).to_le_bytes())?;
    let sum = row.hasher.finalize();
    row.write(sum.as_bytes())?;
    row.spool.finish().at(|| "cannot put a row of parity together".to_owned())
}
