//! What is to be deleted and what repacked, decided from a survey; and what that will free.

use std::collections::HashSet;
use std::str::FromStr;

use crate::format::segment::SegmentPack;
use crate::maintain::prune::PruneOptions;
use crate::maintain::prune::packs::{Pack, Standing};
use crate::maintain::prune::small;
use crate::maintain::prune::survey::Survey;
use crate::maintain::prune::view::RepositoryView;
use crate::model::{PackId, Timestamp};
use crate::storage::Leftovers;

/// Room that a repack leaves on the disk, for segments, fences and lists.
pub(crate) const RESERVE: u64 = 4 << 20;

/// How much unused space may stay in packs that also hold something needed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unused {
    /// So many percent of what the packs hold in the end.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
    /// Any: nothing is repacked.
    Unlimited,
}

impl Default for Unused {
    fn default() -> Self {
        Unused::Percent(5.0)
    }
}

impl Unused {
    /// Bytes that may be unused beside `used` ones.
    fn beside(self, used: u64) -> u64 {
        match self {
            Unused::Percent(percent) if percent < 100.0 => (used as f64 * percent / (100.0 - percent)) as u64,
            Unused::Bytes(bytes) => bytes,
            _ => u64::MAX,
        }
    }
}

impl FromStr for Unused {
    type Err = String;

    /// `5%` or `unlimited`; sizes are the caller's business.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no limit: write 5%, a size, or unlimited");
        match text.strip_suffix('%') {
            None if text == "unlimited" => Ok(Unused::Unlimited),
            None => Err(wrong()),
            Some(number) => match number.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Unused::Percent(percent)),
                _ => Err(wrong()),
            },
        }
    }
}

/// Packs, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Tally {
    /// Counts one more.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a prune will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePlan {
    /// Snapshots that stay.
    pub live: u64,
    /// All packs.
    pub packs: Tally,
    /// Packs that earlier prunes have marked for deletion, and that can be deleted.
    pub marked: Tally,
    /// Packs of which nothing is needed.
    pub dead: Tally,
    /// Packs of which a part is needed: it is copied, and they are deleted.
    pub repack: Tally,
    /// What the copies will take, about.
    pub copied: u64,
    /// Packs that would be repacked if there were room for the copies.
    pub no_room: Tally,
    /// What stays unused in packs that are left alone, about.
    pub unused: u64,
    /// Packs that cannot be freed: they hold the only copies of chunks that snapshots need, and these are damaged.
    pub stuck: Tally,
    /// Such chunks.
    pub lost: u64,
    /// Objects that are not authentic: they count for nothing, and go.
    pub ignored: u64,
    /// Objects of forgotten snapshots.
    pub snapshots: Tally,
    /// Forgotten snapshots that are left for a time.
    pub kept: u64,
    /// Until when the last of them is left.
    pub kept_until: Option<Timestamp>,
    /// Packs that are sealed with a former key, if that was asked.
    pub former: Tally,
    /// What the index will be shorter by, about.
    pub(crate) index: u64,
    /// Parts of objects that killed writers left.
    pub leftovers: Tally,
    /// What the repository will be shorter by, about.
    pub freed: u64,
}

/// Which packs to copy the needed parts of: those with the most unused bytes for their size first, until few enough
/// remain. Packs marked for deletion that must not be deleted yet come first of all, and packs of which a part is damaged,
/// whatever the limits. Then those that are sealed with a `former` key.
pub(super) fn to_repack(survey: &Survey, options: &PruneOptions, former: &HashSet<PackId>) -> Vec<usize> {
    let (unused, most) = (options.max_unused, options.max_repack);
    let list = &survey.packs.list;
    let stays = |pack: &&Pack| pack.standing == Standing::Usable && !pack.is_dead();
    let used: u64 = list.iter().filter(stays).map(|pack| pack.size - pack.unused).sum();
    let mut left: u64 = list.iter().filter(stays).filter(|pack| !pack.held && !pack.damaged).map(|pack| pack.unused).sum();
    let at_once = |pack: &Pack| match pack.standing {
        Standing::Marked => pack.salvage,
        Standing::Usable => pack.damaged && !pack.is_dead() && !pack.held,
        _ => false,
    };
    let mut out: Vec<usize> = (0..list.len()).filter(|at| at_once(&list[*at])).collect();
    let may = |pack: &Pack| stays(&pack) && pack.unused > 0 && !pack.held && !pack.damaged;
    let mut candidates: Vec<usize> = (0..list.len()).filter(|at| may(&list[*at])).collect();
    candidates.sort_by_cached_key(|at| {
        let pack = &list[*at];
        (std::cmp::Reverse((u128::from(pack.unused) << 32) / u128::from(pack.size.max(1))), pack.id)
    });
    let mut bytes = 0;
    for at in candidates {
        let pack = &list[at];
        if left <= unused.beside(used) {
            break;
        }
        if bytes + pack.size > most {
            continue;
        }
        bytes += pack.size;
        left -= pack.unused;
        out.push(at);
    }
    let taken: HashSet<usize> = out.iter().copied().collect();
    for at in (0..list.len()).filter(|at| !taken.contains(at)) {
        let pack = &list[at];
        let may = former.contains(&pack.id) && stays(&pack) && !pack.held && !pack.damaged;
        if may && bytes + pack.size <= most {
            bytes += pack.size;
            out.push(at);
        }
    }
    if unused != Unused::Unlimited {
        out.extend(small::to_merge(list, &out, most.saturating_sub(bytes)));
    }
    out
}

/// The first of `repack` for whose copies there will be room when `free` bytes are free now, dead packs go before, and the
/// packs that were copied from go after each round. `None`: nobody can tell how much room there is.
pub(crate) fn with_room(
    view: &RepositoryView,
    survey: &Survey,
    mut repack: Vec<usize>,
    leftovers: Leftovers,
    free: Option<u64>,
) -> Vec<usize> {
    let Some(free) = free else { return repack };
    let list = &survey.packs.list;
    let goes = |pack: &&Pack| pack.is_dead() || pack.standing == Standing::Marked && !pack.held;
    let dead: u64 = list.iter().filter(goes).map(|pack| pack.size).sum();
    let leavings: u64 = view.leavings.iter().map(|(_, bytes)| bytes).sum();
    let mut room = free.saturating_add(dead + leavings + leftovers.bytes);
    let mut done = 0;
    loop {
        let (mut sum, mut freed, first) = (0u64, 0u64, done);
        while let Some(at) = repack.get(done)
            && sum.saturating_add(list[*at].copy_bytes()) <= room.saturating_sub(RESERVE)
        {
            sum += list[*at].copy_bytes();
            freed += list[*at].size;
            done += 1;
        }
        if done == first {
            repack.truncate(done);
            return repack;
        }
        room = (room - sum).saturating_add(freed);
    }
}

/// Names of the packs that nothing is lost with and that no list names yet.
pub(crate) fn dead(survey: &Survey) -> Vec<PackId> {
    survey.packs.list.iter().filter(|pack| pack.is_dead()).map(|pack| pack.id).collect()
}

/// What carrying this out frees.
pub(super) fn plan(view: &RepositoryView, survey: &Survey, repack: &[usize], leftovers: Leftovers) -> PrunePlan {
    let mut plan = PrunePlan { leftovers: Tally { count: leftovers.files, bytes: leftovers.bytes }, ..PrunePlan::default() };
    let mut gone: HashSet<PackId> = HashSet::new();
    let (mut chunks, mut copies) = (0, 0);
    plan.lost = survey.lost;
    for pack in &survey.packs.list {
        if pack.is_there() {
            plan.packs.add(pack.size);
        }
        if pack.lost {
            plan.stuck.add(pack.size);
            continue;
        }
        match pack.standing {
            Standing::Marked if !pack.held => plan.marked.add(pack.size),
            _ if pack.is_dead() => plan.dead.add(pack.size),
            Standing::Usable => {
                plan.unused += pack.unused;
                continue;
            }
            Standing::Gone => {}
            _ => continue,
        }
        gone.insert(pack.id);
    }
    for at in repack {
        let pack = &survey.packs.list[*at];
        plan.copied += pack.copy_bytes();
        // What of it can be read is copied, and it stays.
        if pack.lost {
            continue;
        }
        plan.repack.add(pack.size);
        if pack.standing == Standing::Usable {
            plan.unused -= pack.unused;
        }
        gone.insert(pack.id);
        chunks += pack.chunks * pack.copy_bytes() / pack.size.max(1);
        copies += 1;
    }
    view.leavings.iter().for_each(|(_, bytes)| plan.snapshots.add(*bytes));
    let new_segment = if copies == 0 { 0 } else { 400 + chunks * 24 };
    plan.index = index_shrinks(view, survey, &gone).saturating_sub(new_segment);
    let deleted = [plan.marked, plan.dead, plan.repack, plan.snapshots, plan.leftovers];
    plan.freed = deleted.iter().map(|tally| tally.bytes).sum::<u64>().saturating_sub(plan.copied) + plan.index;
    plan
}

/// What the segments that name `gone` packs, and those that are replaced already, are longer than what will stand for
/// them.
fn index_shrinks(view: &RepositoryView, survey: &Survey, gone: &HashSet<PackId>) -> u64 {
    let replaced: u64 = view.index.replaced().iter().filter_map(|id| view.segments.get(id)).sum();
    let chunks = |named: &SegmentPack| survey.packs.named(&named.id).map_or(0, |pack| pack.chunks);
    let (mut before, mut after) = (0, 0);
    for segment in view.index.segments().iter().filter(|s| s.packs().iter().any(|pack| gone.contains(&pack.id))) {
        let lost: u64 = segment.packs().iter().filter(|pack| gone.contains(&pack.id)).map(chunks).sum();
        let kept = segment.entries() - lost.min(segment.entries());
        before += segment.size();
        after += segment.size() * kept / segment.entries().max(1);
    }
    replaced + before - after
}
