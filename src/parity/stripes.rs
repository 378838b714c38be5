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

/// What the rows that are there say, each of all stripes at hand.
type Records = Vec<(u8, Vec<Option<StripeRecord>>)>;

/// What of a stripe is as it was: packs by their places, and rows.
#[derive(Debug, PartialEq, Eq)]
struct GoodShards {
    members: Vec<usize>,
    rows: Vec<u8>,
}

/// What rows say of a stripe.
fn known(records: &Records, at: usize) -> impl Iterator<Item = (u8, &StripeRecord)> {
    records.iter().filter_map(move |(row, all)| Some((*row, all.get(at)?.as_ref()?)))
}

/// Whether a shard is what it was when parity was made.
fn is_right(records: &Records, member: usize, at: usize, shard: &[u8]) -> bool {
    known(records, at).next().and_then(|(_, record)| record.digests.get(member)) == Some(&digest(shard))
}

/// A shard as it was read.
fn shard_of<'a>(
    member: usize,
    wanted: &[usize],
    own: &'a [Vec<Shard>],
    others: &'a HashMap<usize, Shards>,
    at: usize,
) -> Option<&'a [u8]> {
    match wanted.iter().position(|one| *one == member) {
        Some(place) => match own.get(place)?.get(at)? {
            Shard::Sound(shard) => Some(shard),
            Shard::Lost(_) => None,
        },
        None => others.get(&member)?.get(at)?.as_deref(),
    }
}

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
        let read = self.each(&rows, |row| self.records(*row, &stripes));
        let records: Records = rows.into_iter().zip(read).collect();
        let own = self.each(wanted, |member| self.there(*member, &stripes));
        let count = (stripes.end - stripes.start) as usize;
        let mut out: Vec<Vec<Shard>> = wanted.iter().map(|_| Vec::with_capacity(count)).collect();
        for ((member, shards), out) in wanted.iter().zip(own).zip(&mut out) {
            for (at, shard) in shards.into_iter().enumerate() {
                let sound = shard.as_ref().is_some_and(|shard| is_right(&records, *member, at, shard));
                out.push(match shard {
                    Some(shard) if sound => Shard::Sound(shard),
                    shard => Shard::Lost(shard),
                });
            }
        }
        let is_torn = |at: usize| out.iter().any(|shards| !matches!(shards.get(at), Some(Shard::Sound(_))));
        let torn: Vec<usize> = (0..count).filter(|at| is_torn(*at) && known(&records, *at).next().is_some()).collect();
        if torn.is_empty() {
            return Ok(out);
        }
        let others = self.others(wanted, &stripes);
        let good = |at: usize| self.good(wanted, &out, &others, &records, at);
        let mut runs: Vec<(GoodShards, Vec<usize>)> = Vec::new();
        for at in torn {
            let good = good(at);
            match runs.last_mut() {
                Some((last, run)) if *last == good => run.push(at),
                _ => runs.push((good, vec![at])),
            }
        }
        for (good, run) in runs {
            let computed = self.compute(&good, &run, wanted, &out, &others, &records)?;
            for (member, shards) in computed {
                let Some(out) = wanted.iter().position(|one| *one == member).and_then(|at| out.get_mut(at)) else { continue };
                for (at, shard) in run.iter().zip(shards.chunks(self.found.group.shard as usize)) {
                    if let Some(place @ Shard::Lost(_)) = out.get_mut(*at)
                        && is_right(&records, member, *at, shard)
                    {
                        *place = Shard::Sound(shard.to_vec());
                    }
                }
            }
        }
        Ok(out)
    }

    /// What of a stripe is as it was.
    fn good(
        &self,
        wanted: &[usize],
        own: &[Vec<Shard>],
        others: &HashMap<usize, Shards>,
        records: &Records,
        at: usize,
    ) -> GoodShards {
        let is_good = |member: &usize| {
            let shard = shard_of(*member, wanted, own, others, at);
            shard.is_some_and(|shard| is_right(records, *member, at, shard))
        };
        let members = (0..self.found.group.packs.len()).filter(is_good).collect();
        let rows = known(records, at).filter(|(_, record)| record.shard.is_some()).map(|(row, _)| row).collect();
        GoodShards { members, rows }
    }

    /// Every shard of some stripes that is not good; none, if too many are missing. The stripes miss the same ones, so they
    /// are computed as one: that costs little more than a single stripe.
    fn compute(
        &self,
        good: &GoodShards,
        run: &[usize],
        wanted: &[usize],
        own: &[Vec<Shard>],
        others: &HashMap<usize, Shards>,
        records: &Records,
    ) -> Result<HashMap<usize, Vec<u8>>> {
        let group = &self.found.group;
        if good.members.len() + good.rows.len() < group.packs.len() {
            return Ok(HashMap::new());
        }
        let failed = |e: reed_solomon_simd::Error| Error::new(ErrorKind::Invalid, format!("parity cannot be computed: {e}"));
        let len = run.len() * group.shard as usize;
        let mut decoder = ReedSolomonDecoder::new(group.packs.len(), usize::from(group.rows), len).map_err(failed)?;
        for member in &good.members {
            let shards = run.iter().filter_map(|at| shard_of(*member, wanted, own, others, *at));
            decoder.add_original_shard(*member, shards.collect::<Vec<_>>().concat()).map_err(failed)?;
        }
        for row in &good.rows {
            let of_row = records.iter().find(|(one, _)| one == row).map(|(_, all)| all);
            let shard = |at: &usize| of_row?.get(*at)?.as_ref()?.shard.as_deref();
            let shards: Vec<&[u8]> = run.iter().filter_map(shard).collect();
            decoder.add_recovery_shard(usize::from(*row), shards.concat()).map_err(failed)?;
        }
        let decoded = decoder.decode().map_err(failed)?;
        Ok(decoded.restored_original_iter().map(|(member, shards)| (member, shards.to_vec())).collect())
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
