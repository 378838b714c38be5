//! Rebuilding packs: whole ones that are lost, and the ranges of torn ones that somebody reads.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::format::envelope::CHECKSUM;
use crate::model::{PackId, RepositoryId};
use crate::storage::{Class, Costs, Created, Name, Storage};
use crate::sys::spool::{Spool, Spooled};
use crate::task::Task;

use super::stripes::{Shard, StripeReader, window};
use super::{FoundGroup, ParityPlace};

/// Group, member and stripe.
type ShardKey = (usize, usize, u64);

/// Stripes that are remembered, so that neighbouring reads do not compute them again.
const REMEMBERED: usize = 64;

/// A pack that was put together anew.
#[derive(Debug)]
pub(crate) struct RebuiltPack {
    /// Its name.
    pub(crate) id: PackId,
    /// Its bytes; `None`: not all of it could be computed.
    pub(crate) bytes: Option<Spooled>,
}

/// Puts packs of a group together anew, by their places in it. `present`: the packs that are there.
pub(crate) fn rebuild(
    place: &ParityPlace<'_>,
    found: &FoundGroup,
    present: &HashMap<PackId, u64>,
    wanted: &[usize],
    task: &Task<'_>,
) -> Result<Vec<RebuiltPack>> {
    let (group, reader) = (&found.group, StripeReader { place, found, present });
    let members: Vec<(PackId, u64)> = wanted.iter().filter_map(|member| group.packs.get(*member)).copied().collect();
    let mut spools = members.iter().map(|(_, len)| place.spool(*len).map(Some)).collect::<Result<Vec<Option<Spool>>>>()?;
    let mut next = 0;
    while next < group.stripes() && spools.iter().any(Option::is_some) {
        task.go_on("healing was stopped")?;
        let until = (next + window(group.packs.len() + found.rows.len(), group.shard)).min(group.stripes());
        for ((shards, (_, len)), spool) in reader.shards(wanted, next..until)?.iter().zip(&members).zip(&mut spools) {
            for (stripe, shard) in (next..until).zip(shards) {
                let left = len.saturating_sub(stripe * u64::from(group.shard)).min(u64::from(group.shard)) as usize;
                match (shard, spool.as_mut()) {
                    (_, None) => break,
                    // Where nothing tells what it should be, the name of the whole does in the end.
                    (Shard::Sound(bytes) | Shard::Lost(Some(bytes)), Some(spool)) => {
                        let bytes = bytes.get(..left).unwrap_or_default();
                        spool.write(bytes).at(|| "cannot put a pack together anew".to_owned())?;
                    }
                    (Shard::Lost(None), Some(_)) => *spool = None,
                }
            }
        }
        next = until;
    }
    let mut out = Vec::new();
    for ((id, _), spool) in members.into_iter().zip(spools) {
        let bytes = match spool {
            None => None,
            Some(spool) => Some(spool.finish().at(|| "cannot put a pack together anew".to_owned())?),
        };
        out.push(RebuiltPack { id, bytes: bytes.filter(|bytes| is_named(bytes, &id)) });
    }
    Ok(out)
}

/// Whether these bytes are the pack of this name.
fn is_named(bytes: &[u8], id: &PackId) -> bool {
    bytes.split_last_chunk::<CHECKSUM>().is_some_and(|(head, sum)| *sum == id.0 && *blake3::hash(head).as_bytes() == id.0)
}

impl ParityPlace<'_> {
    /// Room for `len` bytes that are put together.
    pub(super) fn spool(&self, len: u64) -> Result<Spool> {
        match self.scratch {
            Some(directory) if len > (1 << 20) => {
                Spool::in_file(directory).at(|| format!("cannot put parity together in {}", directory.display()))
            }
            _ => Ok(Spool::in_memory(len as usize)),
        }
    }
}

/// A storage as it would be if some packs were as they were when their parity was made. What is read of them is computed
/// where it is lost. Who reads verifies it, as always.
#[derive(Debug)]
pub(crate) struct RebuiltPacks {
    inner: Arc<dyn Storage>,
    repository: RepositoryId,
    groups: Vec<FoundGroup>,
    present: HashMap<PackId, u64>,
    /// The packs that are mended, with their groups and their places in them.
    mended: HashMap<PackId, Vec<(usize, usize)>>,
    /// Shards that were asked for last.
    last: Mutex<Vec<(ShardKey, Shard)>>,
}

impl RebuiltPacks {
    /// Mends these packs, as far as the groups are of them.
    pub(crate) fn new(
        inner: Arc<dyn Storage>,
        repository: RepositoryId,
        groups: Vec<FoundGroup>,
        present: HashMap<PackId, u64>,
        packs: &HashSet<PackId>,
    ) -> Self {
        let mut mended: HashMap<PackId, Vec<(usize, usize)>> = HashMap::new();
        for (number, found) in groups.iter().enumerate() {
            for (member, (id, _)) in found.group.packs.iter().enumerate().filter(|(_, (id, _))| packs.contains(id)) {
                mended.entry(*id).or_default().push((number, member));
            }
        }
        RebuiltPacks { inner, repository, groups, present, mended, last: Mutex::default() }
    }

    fn len(&self, id: &PackId) -> Option<u64> {
        let (group, member) = self.mended.get(id)?.first()?;
        self.groups.get(*group)?.group.packs.get(*member).map(|(_, len)| *len)
    }

    /// Reads a range by one group; `None`: something of it cannot be computed. With `as_is` what stands there is taken where no
    /// row says what it was: it may be sound, and who reads finds out.
    fn by(&self, (number, member): (usize, usize), range: &Range<u64>, as_is: bool, out: &mut Vec<u8>) -> Result<Option<()>> {
        out.clear();
        let Some(found) = self.groups.get(number) else { return Ok(None) };
        let shard = u64::from(found.group.shard);
        let mut stripe = range.start / shard;
        while stripe * shard < range.end {
            let bytes = match self.shard(found, number, member, stripe, range.end.div_ceil(shard))? {
                Some(Shard::Sound(bytes)) => bytes,
                Some(Shard::Lost(Some(bytes))) if as_is => bytes,
                _ => return Ok(None),
            };
            let from = range.start.saturating_sub(stripe * shard).min(shard) as usize;
            let to = (range.end - stripe * shard).min(shard) as usize;
            out.extend_from_slice(bytes.get(from..to).unwrap_or_default());
            stripe += 1;
        }
        Ok(Some(()))
    }

    /// One shard; those behind it up to `until` are read with it.
    fn shard(&self, found: &FoundGroup, number: usize, member: usize, stripe: u64, until: u64) -> Result<Option<Shard>> {
        let mut last = self.last.lock();
        if let Some((_, shard)) = last.iter().find(|(key, _)| *key == (number, member, stripe)) {
            return Ok(Some(shard.clone()));
        }
        let until = until.min(stripe + 16).min(found.group.stripes());
        if until <= stripe {
            return Ok(None);
        }
        let place = ParityPlace::new(&*self.inner, self.repository, None);
        let reader = StripeReader { place: &place, found, present: &self.present };
        let shards = reader.shards(&[member], stripe..until)?.pop().unwrap_or_default();
        let first = shards.first().cloned();
        last.extend((stripe..until).map(|stripe| (number, member, stripe)).zip(shards));
        let surplus = last.len().saturating_sub(REMEMBERED);
        last.drain(..surplus);
        Ok(first)
    }
}

impl Storage for RebuiltPacks {
    fn create(&self, _: &Name, _: &[&[u8]]) -> Result<Created> {
        Err(Error::new(ErrorKind::Invalid, "nothing is created where packs are only computed"))
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        if let Name::Pack(id) = name
            && let Some(places) = self.mended.get(id)
        {
            let len = self.len(id).unwrap_or_default();
            let range = range.clone().unwrap_or(0..len);
            if range.end > len {
                return Err(Error::corrupt(format!("{name}: it ends before what is to be read")));
            }
            for (as_is, place) in [false, true].into_iter().flat_map(|as_is| places.iter().map(move |place| (as_is, place))) {
                if self.by(*place, &range, as_is, out)?.is_some() {
                    return Ok(());
                }
            }
        }
        self.inner.read(name, range, out)
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        let mut out = self.inner.list(class)?;
        if class == Class::Packs {
            out.retain(|(name, _)| !matches!(name, Name::Pack(id) if self.mended.contains_key(id)));
            out.extend(self.mended.keys().filter_map(|id| Some((Name::Pack(*id), self.len(id)?))));
        }
        Ok(out)
    }

    fn open(&self, name: &Name) -> Option<File> {
        match name {
            Name::Pack(id) if self.mended.contains_key(id) => None,
            name => self.inner.open(name),
        }
    }

    fn delete(&self, _: &Name) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
