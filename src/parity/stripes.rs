//! Reading stripes: which shards are as they were, and computing those that are not.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;
use reed_solomon_simd::ReedSolomonDecoder;

use crate::error::{Error, ErrorKind, Result};
use crate::format::parity::{StripeRecord, decode_record, digest};
use crate::model::PackId;
use crate::repo::parallel;
use crate::storage::Name;

use super::{FoundGroup, MEMORY, ParityPlace};

/// The shards of one pack in some stripes; `None`: it is not there.
type Shards = Vec<Option<Vec<u8>>>;

/// A shard that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shard {
    /// As it was when parity was made: it is still there, or was computed.
    Sound(Vec<u8>),
    /// It cannot be computed. What stands there now, if anything does.
    Lost(Option<Vec<u8>>),
}

/// Reads the stripes of one group.
#[derive(Debug)]
pub(crate) struct StripeReader<'a> {
    pub(crate) place: &'a ParityPlace<'a>,
    pub(crate) found: &'a FoundGroup,
    /// The packs that are there, with their lengths.
    pub(crate) present: &'a HashMap<PackId, u64>,
}

/// Stripes that are read at a time.
pub(crate) fn window(members: usize, shard: u32) -> u64 {
    (MEMORY / (members.max(1) as u64 * u64::from(shard))).max(1)
}

/// Reads a range of an object. `None`: it is not there, or cannot be read.
fn range(place: &ParityPlace<'_>, name: &Name, range: Range<u64>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    place.storage.read(name, Some(range), &mut bytes).ok().map(|()| bytes)
}

impl StripeReader<'_> {
    /// The shards of the packs `wanted` (by their places in the group) in some stripes: of each pack, one for each stripe.
    pub(crate) fn shards(&self, wanted: &[usize], stripes: Range<u64>) -> Result<Vec<Vec<Shard>>> {
        let rows: Vec<u8> = self.found.rows.keys().copied().collect();
        let records = self.each(&rows, |row| self.records(*row, &stripes));
        let mut own = self.each(wanted, |member| self.there(*member, &stripes));
        let mut others: Option<HashMap<usize, Shards>> = None;
        let count = (stripes.end - stripes.start) as usize;
        let mut out: Vec<Vec<Shard>> = wanted.iter().map(|_| Vec::with_capacity(count)).collect();
        for at in 0..count {
            let known: Vec<(u8, &StripeRecord)> =
                rows.iter().zip(&records).filter_map(|(row, all)| Some((*row, all.get(at)?.as_ref()?))).collect();
            let mut mine: Shards = own.iter_mut().map(|shards| shards.get_mut(at).and_then(Option::take)).collect();
            let right = |member: usize, shard: &[u8]| {
                known.first().and_then(|(_, record)| record.digests.get(member)) == Some(&digest(shard))
            };
            let is_right =
                |(member, shard): (&usize, &Option<Vec<u8>>)| shard.as_ref().is_some_and(|shard| right(*member, shard));
            let sound: Vec<bool> = wanted.iter().zip(&mine).map(is_right).collect();
            let mut computed = HashMap::new();
            if sound.contains(&false) && !known.is_empty() {
                let others = others.get_or_insert_with(|| self.others(wanted, &stripes));
                let mut good: Vec<(usize, &[u8])> = Vec::new();
                for (member, shards) in others.iter() {
                    good.extend(
                        shards.get(at).and_then(Option::as_deref).filter(|shard| right(*member, shard)).map(|s| (*member, s)),
                    );
                }
                for ((member, shard), _) in wanted.iter().zip(&mine).zip(&sound).filter(|(_, sound)| **sound) {
                    good.extend(shard.as_deref().map(|shard| (*member, shard)));
                }
                computed = self.compute(&good, &known)?;
                computed.retain(|member, shard| right(*member, shard));
            }
            for (((member, shard), sound), out) in wanted.iter().zip(&mut mine).zip(sound).zip(&mut out) {
                out.push(match (shard.take(), computed.remove(member)) {
                    (Some(shard), _) if sound => Shard::Sound(shard),
                    (_, Some(shard)) => Shard::Sound(shard),
                    (shard, None) => Shard::Lost(shard),
                });
            }
        }
        Ok(out)
    }

    /// Every shard of a stripe that is not among `good`; none, if too many are missing.
    fn compute(&self, good: &[(usize, &[u8])], known: &[(u8, &StripeRecord)]) -> Result<HashMap<usize, Vec<u8>>> {
        let group = &self.found.group;
        let rows: Vec<(u8, &Vec<u8>)> = known.iter().filter_map(|(row, record)| Some((*row, record.shard.as_ref()?))).collect();
        if good.len() + rows.len() < group.packs.len() {
            return Ok(HashMap::new());
        }
        let failed = |e: reed_solomon_simd::Error| Error::new(ErrorKind::Invalid, format!("parity cannot be computed: {e}"));
        let (packs, shard) = (group.packs.len(), group.shard as usize);
        let mut decoder = ReedSolomonDecoder::new(packs, usize::from(group.rows), shard).map_err(failed)?;
        for (member, shard) in good {
            decoder.add_original_shard(*member, shard).map_err(failed)?;
        }
        for (row, shard) in rows {
            decoder.add_recovery_shard(usize::from(row), shard).map_err(failed)?;
        }
        let decoded = decoder.decode().map_err(failed)?;
        Ok(decoded.restored_original_iter().map(|(member, shard)| (member, shard.to_vec())).collect())
    }

    fn others(&self, wanted: &[usize], stripes: &Range<u64>) -> HashMap<usize, Shards> {
        let others: Vec<usize> = (0..self.found.group.packs.len()).filter(|member| !wanted.contains(member)).collect();
        let read = self.each(&others, |member| self.there(*member, stripes));
        others.into_iter().zip(read).collect()
    }

    /// Does something for each item, with as many requests under way as the storage likes.
    fn each<I: Sync, T: Send>(&self, items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
        let done = Mutex::new(Vec::with_capacity(items.len()));
        let one = |(): &mut (), at: usize| {
            if let Some(item) = items.get(at) {
                let answer = work(item);
                done.lock().push((at, answer));
            }
        };
        // A few are read sooner than threads are started.
        let workers = if self.place.storage.costs().high_latency() { self.place.readers() } else { 1 };
        parallel::claim(workers, items.len(), || false, || (), one);
        let mut done = done.into_inner();
        done.sort_unstable_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, answer)| answer).collect()
    }

    /// What a row says of some stripes.
    fn records(&self, row: u8, stripes: &Range<u64>) -> Vec<Option<StripeRecord>> {
        let (group, name) = (&self.found.group, Name::Parity(self.found.id, row));
        let (start, len) = (group.start(), group.record());
        let place = |stripe: u64| start + stripe * len;
        let decode = |stripe: u64, record: &[u8]| decode_record(self.found.id, row, stripe, group.packs.len(), record);
        if let Some(all) = range(self.place, &name, place(stripes.start)..place(stripes.end)) {
            return stripes.clone().zip(all.chunks(len as usize)).map(|(stripe, record)| decode(stripe, record)).collect();
        }
        let one =
            |stripe: u64| range(self.place, &name, place(stripe)..place(stripe + 1)).and_then(|record| decode(stripe, &record));
        stripes.clone().map(one).collect()
    }

    /// The shards of a pack as they are now. Beyond its end they are zeros, whether it is there or not.
    fn there(&self, member: usize, stripes: &Range<u64>) -> Shards {
        let Some((id, len)) = self.found.group.packs.get(member).copied() else { return Vec::new() };
        let shard = u64::from(self.found.group.shard);
        let fill = |bytes: &[u8]| {
            let mut out = bytes.to_vec();
            out.resize(shard as usize, 0);
            out
        };
        let until = len.min(self.present.get(&id).copied().unwrap_or_default());
        let all = (stripes.start * shard).min(until)..(stripes.end * shard).min(until);
        let read = if all.is_empty() { None } else { range(self.place, &Name::Pack(id), all.clone()) };
        let one = |stripe: u64| {
            let (from, to) = (stripe * shard, ((stripe + 1) * shard).min(len));
            if from >= len {
                return Some(fill(&[]));
            }
            if to > until {
                return None;
            }
            match &read {
                Some(read) => read.get((from - all.start) as usize..(to - all.start) as usize).map(fill),
                None => range(self.place, &Name::Pack(id), from..to).map(|bytes| fill(&bytes)),
            }
        };
        stripes.clone().map(one).collect()
    }
}
