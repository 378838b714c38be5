//! Making groups of the packs that have no parity yet, and making groups complete that lack rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{PREAMBLE, PackKind, Preamble};
use crate::format::parity::{MIN_SHARD, ParityGroup};
use crate::model::{PackId, ParityId, SnapshotId, Timestamp};
use crate::observe::Event;
use crate::repo::parallel;
use crate::repo::reader::is_damage;
use crate::storage::{Created, Name};
use crate::task::Task;

use super::encode::{Encoded, encode};
use super::found::{FoundGroup, FoundParity, find};
use super::{ParityPlace, ParityShape, tend};

/// Bytes that are compared at a time.
const PIECE: usize = 4 << 20;
/// The longest pack of a group has about so many shards, and more if it is long.
const STRIPES: u64 = 256;
/// Shards are not longer, so that a sector that cannot be read costs no more than itself. Their digests take 7 % of a row over
/// 16 packs.
const LONGEST_SHARD: u32 = 4 << 10;

/// How to make parity.
#[derive(Debug, Clone)]
pub struct AddOptions {
    /// Of packs of files.
    pub data: ParityShape,
    /// Of packs of trees.
    pub trees: ParityShape,
    /// When the sessions were that stored the packs, as far as that is known: the ids of snapshots and their times. Packs
    /// of others come first, those of one session together.
    pub times: HashMap<SnapshotId, Timestamp>,
}

impl Default for AddOptions {
    fn default() -> Self {
        AddOptions { data: ParityShape::DATA, trees: ParityShape::TREES, times: HashMap::new() }
    }
}

impl AddOptions {
    fn shape(&self, kind: PackKind) -> ParityShape {
        match kind {
            PackKind::Data => self.data,
            PackKind::Tree => self.trees,
        }
    }
}

/// What was made.
#[derive(Debug, Default)]
pub struct Added {
    /// New groups.
    pub groups: u64,
    /// Groups that lacked rows, and have all now.
    pub completed: u64,
    /// Packs of new groups that had no parity.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Bytes of the new rows.
    pub bytes: u64,
    /// Smaller groups that were removed, since greater ones are of all their packs now.
    pub superseded: u64,
    /// Packs that are damaged: no parity is made of them.
    pub damaged: Vec<(PackId, Error)>,
    /// What stands under the name of a row, is another one, and may not be deleted by this user.
    pub blocked: Vec<(Name, Error)>,
}

/// A pack to be put into a group.
#[derive(Debug, Clone, Copy)]
struct ParityCandidate {
    id: PackId,
    len: u64,
    kind: PackKind,
    session: SnapshotId,
    is_new: bool,
}

/// The class of a size: packs of a group are about alike, since the longest one says how long the rows are.
fn class(len: u64) -> u32 {
    (u64::BITS - (len >> 12).leading_zeros()).div_ceil(3)
}

/// The length of shards for packs of which the longest has so many bytes.
fn shard(longest: u64) -> u32 {
    let wanted = longest.div_ceil(STRIPES).clamp(u64::from(MIN_SHARD), u64::from(LONGEST_SHARD));
    (wanted as u32).next_power_of_two()
}

/// Makes parity for all packs that have none: the oldest first, packs of one kind, about one age and one size together. What
/// is left at the end makes groups of fewer packs, which greater ones take the place of when there are more. Every row is
/// made at once and by itself; when this is stopped, what is there counts, and the next one goes on.
pub fn add(place: &ParityPlace<'_>, options: &AddOptions, task: &Task<'_>) -> Result<Added> {
    let mut out = Added::default();
    let found = find(place)?;
    let present = place.packs()?;
    let mut work = Work { place, task, options, done: 0, total: 0, proven: HashMap::new(), out: &mut out };
    for group in found.groups.iter().filter(|group| !group.missing_rows().is_empty()) {
        work.complete(group, &present)?;
    }
    let candidates = work.candidates(&found, &present)?;
    work.total = candidates.iter().filter(|candidate| candidate.is_new).count() as u64;
    let mut classes: BTreeMap<(PackKind, u32), Vec<ParityCandidate>> = BTreeMap::new();
    for candidate in candidates {
        classes.entry((candidate.kind, class(candidate.len))).or_default().push(candidate);
    }
    // What is left of each class makes groups of its own kind: each group costs as much as its longest pack, so a few that are
    // not alike cost less together than apart.
    let mut rests: BTreeMap<PackKind, Vec<ParityCandidate>> = BTreeMap::new();
    for ((kind, _), mut packs) in classes {
        packs.sort_by_key(|pack| (options.times.get(&pack.session).copied(), pack.session, pack.id));
        let shape = options.shape(kind);
        let rest = packs.split_off(packs.len() - packs.len() % shape.packs);
        work.groups(shape, &packs)?;
        rests.entry(kind).or_default().extend(rest);
    }
    for (kind, packs) in rests {
        work.groups(options.shape(kind), &packs)?;
    }
    let found = if work.out.groups + work.out.completed > 0 { find(place)? } else { found };
    let superseded = tend::supersede(place, &found, &mut |group| work.proves(group))?;
    out.superseded = superseded;
    place.storage.sync()?;
    Ok(out)
}

struct Work<'a> {
    place: &'a ParityPlace<'a>,
    task: &'a Task<'a>,
    options: &'a AddOptions,
    /// Groups whose rows were all computed here, and whether they are what is stored.
    proven: HashMap<ParityId, bool>,
    /// Packs that are in new groups, and how many there are to be.
    done: u64,
    total: u64,
    out: &'a mut Added,
}

impl Work<'_> {
    /// The packs without parity, and those of groups that are not full and may be put together with them.
    fn candidates(&mut self, found: &FoundParity, present: &HashMap<PackId, u64>) -> Result<Vec<ParityCandidate>> {
        let options = self.options;
        let covered = found.covered();
        // What a full group is of stays there.
        let is_full = |found: &&FoundGroup| found.group.packs.len() >= options.shape(found.group.kind).packs;
        let settled: HashSet<PackId> =
            found.groups.iter().filter(is_full).flat_map(|f| f.group.packs.iter().map(|(id, _)| *id)).collect();
        let mut packs: Vec<(PackId, u64)> =
            present.iter().filter(|(id, _)| !settled.contains(*id)).map(|(id, len)| (*id, *len)).collect();
        packs.sort_unstable();
        let read = Mutex::new(Vec::with_capacity(packs.len()));
        let one = |(): &mut (), at: usize| {
            if let Some((id, len)) = packs.get(at) {
                let mut first = Vec::new();
                let answer = self.place.storage.read(&Name::Pack(*id), Some(0..(PREAMBLE as u64).min(*len)), &mut first);
                read.lock().push((*id, *len, answer.and_then(|()| Preamble::decode(&first))));
            }
        };
        parallel::claim(self.place.readers(), packs.len(), || self.task.is_stopped(), || (), one);
        self.task.go_on("making parity was stopped")?;
        let mut out = Vec::new();
        for (id, len, preamble) in read.into_inner() {
            let is_new = !covered.contains(&id);
            match preamble {
                Ok(Preamble { kind, session, .. }) => out.push(ParityCandidate { id, len, kind, session, is_new }),
                Err(e) if e.kind() == ErrorKind::NotFound || !is_new => {}
                Err(e) if e.kind() == ErrorKind::Unsupported || is_damage(&e) => self.out.damaged.push((id, e)),
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }

    /// Makes groups of these packs, which are of one kind and class, in their order.
    fn groups(&mut self, shape: ParityShape, packs: &[ParityCandidate]) -> Result<()> {
        for some in packs.chunks(shape.packs) {
            // As it is already, or a part of what is there.
            if !some.iter().any(|pack| pack.is_new) {
                continue;
            }
            let mut members = some.to_vec();
            while !members.is_empty() {
                match self.group(shape, &members)? {
                    Encoded::Rows(_) => break,
                    Encoded::Unfit(unfit) => {
                        members.retain(|pack| !unfit.iter().any(|(id, _)| *id == pack.id));
                        self.out.damaged.extend(unfit.into_iter().filter(|(_, e)| e.kind() != ErrorKind::NotFound));
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes one group.
    fn group(&mut self, shape: ParityShape, packs: &[ParityCandidate]) -> Result<Encoded> {
        let longest = packs.iter().map(|pack| pack.len).max().unwrap_or_default();
        let group = ParityGroup {
            kind: packs.first().map_or(PackKind::Data, |pack| pack.kind),
            shard: shard(longest),
            rows: shape.rows,
            packs: packs.iter().map(|pack| (pack.id, pack.len)).collect(),
        };
        let all: Vec<u8> = (0..group.rows).collect();
        let encoded = self.store(&group, &all)?;
        if matches!(encoded, Encoded::Rows(_)) {
            let new = || packs.iter().filter(|pack| pack.is_new);
            self.out.groups += 1;
            self.out.packs += new().count() as u64;
            self.out.pack_bytes += new().map(|pack| pack.len).sum::<u64>();
            self.done += new().count() as u64;
            let (entries, bytes, total_entries) = (self.done, self.out.pack_bytes, self.total);
            self.task.observer.event(&Event::Progress { entries, bytes, total_entries, total_bytes: 0, unit: "packs" });
        }
        Ok(encoded)
    }

    /// Makes the rows that a group lacks. Of one whose packs are damaged nothing can be made: doctor heals them first. A group
    /// that this would not make itself is left alone: its head is nobody's word, and could ask for any number of rows.
    fn complete(&mut self, found: &FoundGroup, present: &HashMap<PackId, u64>) -> Result<()> {
        if !self.is_like_own(&found.group) || found.group.packs.iter().any(|(id, len)| present.get(id) != Some(len)) {
            return Ok(());
        }
        match self.store(&found.group, &found.missing_rows())? {
            Encoded::Rows(_) => self.out.completed += 1,
            Encoded::Unfit(unfit) => self.out.damaged.extend(unfit.into_iter().filter(|(_, e)| e.kind() != ErrorKind::NotFound)),
        }
        Ok(())
    }

    /// Whether a group is of the shape that this makes, and costs no more than that.
    fn is_like_own(&self, group: &ParityGroup) -> bool {
        let shape = self.options.shape(group.kind);
        let longest = group.packs.iter().map(|(_, len)| *len).max().unwrap_or_default();
        group.rows <= shape.rows && group.packs.len() <= shape.packs && group.shard == shard(longest)
    }

    /// Whether the rows of a group that is there are those of its packs: they are computed, unless they were already.
    fn proves(&mut self, found: &FoundGroup) -> Result<bool> {
        if let Some(proven) = self.proven.get(&found.id) {
            return Ok(*proven);
        }
        let all: Vec<u8> = (0..found.group.rows).collect();
        let blocked = self.out.blocked.len();
        let proven = self.is_like_own(&found.group)
            && matches!(self.store(&found.group, &all)?, Encoded::Rows(_))
            && self.out.blocked.len() == blocked;
        self.proven.insert(found.id, proven);
        Ok(proven)
    }

    /// Makes and stores these rows of a group.
    fn store(&mut self, group: &ParityGroup, rows: &[u8]) -> Result<Encoded> {
        let encoded = encode(self.place, group, self.task)?;
        let Encoded::Rows(all) = &encoded else { return Ok(encoded) };
        let (id, blocked) = (group.id(self.place.repository), self.out.blocked.len());
        for row in rows {
            let (Some(bytes), name) = (all.get(usize::from(*row)), Name::Parity(id, *row)) else { continue };
            if self.place.storage.create(&name, &[bytes])? == Created::Exists && !self.replace(&name, bytes)? {
                continue;
            }
            self.out.bytes += bytes.len() as u64;
        }
        self.place.storage.sync()?;
        if rows.len() == usize::from(group.rows) && self.out.blocked.len() == blocked {
            self.proven.insert(id, true);
        }
        Ok(encoded)
    }

    /// The name of a row has one value. What stands there and is another one is rubbish, or damaged. Answers whether a row was
    /// stored: not where it was there already, nor where the rubbish may not be deleted.
    fn replace(&mut self, name: &Name, bytes: &[u8]) -> Result<bool> {
        let mut there = Vec::new();
        let mut at = 0;
        for piece in bytes.chunks(PIECE) {
            match self.place.storage.read(name, Some(at..at + piece.len() as u64), &mut there) {
                Ok(()) if there == piece => at += piece.len() as u64,
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::NotFound || is_damage(&e) => break,
                Err(e) => return Err(e),
            }
        }
        if at == bytes.len() as u64 {
            return Ok(false);
        }
        match self.place.storage.delete(name) {
            Ok(()) => self.place.storage.create(name, &[bytes]).map(|_| true),
            // Who may only add cannot; the other rows and groups are made all the same.
            Err(e) => {
                self.out.blocked.push((*name, e));
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_powers_of_two_between_the_limits() {
        for (longest, wanted) in [(1, 1 << 10), (1 << 18, 1 << 10), (300_000, 1 << 11), (17 << 20, 1 << 12), (1 << 30, 1 << 12)] {
            assert_eq!(shard(longest), wanted, "{longest}");
        }
        // 16 MiB and a little are one class with all that is longer than 2 MiB.
        assert_eq!(class(2 << 20), class((16 << 20) - 1));
        assert_eq!(class(16 << 20), class(17 << 20));
    }
}
