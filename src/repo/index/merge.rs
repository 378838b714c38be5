//! Merging segments, so that a look-up goes into few of them: the number of visible segments grows with the logarithm of
//! the number of entries (the log-structured merge of O'Neil et al. 1996, with `FANOUT` segments of a size at most).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use crate::error::Result;
use crate::format::segment::{IndexEntry, SegmentPack};
use crate::model::{ChunkKey, PackId, SegmentId};
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::index::paged::{Entries, PagedSegment};
use crate::repo::index::segment::SegmentWriter;

/// Segments of one size class are merged when there are so many.
pub(crate) const FANOUT: usize = 8;
/// While others write there may be so many times more of them.
const CROWD: usize = 8;
/// Segments with fewer entries than this are all of the smallest class.
const SMALLEST: u64 = 512;

/// The size class of a segment: every class holds [`FANOUT`] times the one below.
fn class(entries: u64) -> u32 {
    (entries / SMALLEST).checked_ilog(FANOUT as u64).map_or(0, |n| n + 1)
}

/// Which of these segments are to be merged, if any: all of the lowest class that is full, and what is smaller.
pub(crate) fn due(entries: &[u64]) -> Option<Vec<usize>> {
    due_at(entries, FANOUT)
}

fn due_at(entries: &[u64], fanout: usize) -> Option<Vec<usize>> {
    let most = entries.iter().map(|n| class(*n)).max()?;
    let full = (0..=most).find(|c| entries.iter().filter(|n| class(**n) == *c).count() >= fanout)?;
    Some((0..entries.len()).filter(|at| class(entries[*at]) <= full).collect())
}

/// Merges the visible segments of the repository while any are due; answers how many segments were written.
///
/// While others are at work (`alone` is false) it is left to the last of them, unless there are very many: writers that end
/// at the same time would all merge the same segments, and then what each of them made of these, and so on without end.
/// Who sees that somebody else has merged the same stops, too.
pub fn settle(repo: &Repository, index: &Index, alone: bool) -> Result<usize> {
    let mut written = 0;
    let fanout = if alone { FANOUT } else { FANOUT * CROWD };
    // What cannot be opened stays as it is.
    let mut index = Index::load_with_damage(repo, Some(index))?.0;
    // The word of a key that only writes is not made one's own here: prune looks at the packs first.
    let own = |index: &Index| -> Vec<usize> {
        (0..index.segments().len()).filter(|at| index.segments()[*at].writer().is_none()).collect()
    };
    loop {
        let own_ones = own(&index);
        let counts: Vec<u64> = own_ones.iter().map(|at| index.segments()[*at].entries()).collect();
        let Some(which) = due_at(&counts, fanout) else { break };
        let which: Vec<usize> = which.into_iter().map(|at| own_ones[at]).collect();
        let there: HashSet<SegmentId> = index.replaced().iter().copied().collect();
        let parts: HashSet<SegmentId> = which.iter().map(|at| index.segments()[*at].id()).collect();
        // What the merged ones replaced must not come back when prune deletes them first.
        let of_parts = which.iter().flat_map(|at| index.segments()[*at].replaces());
        let also: Vec<SegmentId> = of_parts.copied().filter(|id| there.contains(id)).collect();
        let own = index.rewrite(repo, &which, &also, &|_| true)?.map(|(id, _)| id);
        repo.storage().sync()?;
        written += 1;
        index = Index::load_with_damage(repo, Some(&index))?.0;
        let theirs = index.segments().iter().filter(|segment| Some(segment.id()) != own);
        if theirs.flat_map(|segment| segment.replaces()).any(|id| parts.contains(id))
            || own.is_some_and(|id| index.replaced().contains(&id))
        {
            break;
        }
    }
    Ok(written)
}

struct MergePart {
    segment: Arc<PagedSegment>,
    /// The new number of the first frame of each pack; `None` for packs that are left out, or that an earlier part has.
    moved: Vec<Option<u32>>,
    entries: Entries,
}

impl MergePart {
    /// The next entry of a pack that is kept, with the frame's new number.
    fn next(&mut self) -> Result<Option<IndexEntry>> {
        for entry in self.entries.by_ref() {
            let entry = entry?;
            let (pack, number) = self.segment.pack_of(entry.frame);
            if let Some(first) = self.moved[pack] {
                return Ok(Some(IndexEntry { frame: first + number, ..entry }));
            }
        }
        Ok(None)
    }
}

/// Writes one segment with all (chunk, pack) pairs of `parts` in packs that `keep` wants, each pack once; it takes the
/// place of `parts` and of `also`. Answers its name and size; `None` when nothing is kept. Memory does not grow with
/// the entries but for the filter: ten bits each.
pub(crate) fn merge(
    repo: &Repository,
    parts: &[Arc<PagedSegment>],
    also: &[SegmentId],
    keep: &dyn Fn(&SegmentPack) -> bool,
) -> Result<Option<(SegmentId, u64)>> {
    let (mut packs, mut known, mut frames) = (Vec::new(), HashSet::<PackId>::new(), 0u32);
    let mut open = Vec::with_capacity(parts.len());
    for segment in parts {
        let mut moved = Vec::with_capacity(segment.packs().len());
        for pack in segment.packs() {
            let new = keep(pack) && known.insert(pack.id);
            moved.push(new.then_some(frames));
            if new {
                frames = frames.saturating_add(pack.frames);
                packs.push(*pack);
            }
        }
        open.push(MergePart { segment: segment.clone(), moved, entries: segment.all_entries() });
    }
    if packs.is_empty() {
        return Ok(None);
    }
    let mut writer = SegmentWriter::new(repo, parts.iter().map(|s| s.entries()).sum())?;
    for part in &open {
        part.segment.each_frame(&mut |number, frame| match part.moved[part.segment.pack_of(number).0] {
            Some(_) => writer.frame(frame),
            None => Ok(()),
        })?;
    }
    merge_entries(&mut open, &mut writer)?;
    let mut replaces: Vec<SegmentId> = parts.iter().map(|s| s.id()).chain(also.iter().copied()).collect();
    replaces.sort_unstable();
    replaces.dedup();
    writer.finish(packs, replaces).map(Some)
}

fn merge_entries(parts: &mut [MergePart], writer: &mut SegmentWriter<'_>) -> Result<()> {
    let mut waiting: Vec<Option<IndexEntry>> = Vec::with_capacity(parts.len());
    let mut heap: BinaryHeap<Reverse<(ChunkKey, usize)>> = BinaryHeap::new();
    for (at, part) in parts.iter_mut().enumerate() {
        let entry = part.next()?;
        heap.extend(entry.map(|e| Reverse((e.key, at))));
        waiting.push(entry);
    }
    while let Some(Reverse((_, at))) = heap.pop() {
        if let Some(entry) = waiting[at].take() {
            writer.entry(entry)?;
        }
        waiting[at] = parts[at].next()?;
        heap.extend(waiting[at].map(|e| Reverse((e.key, at))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_segments_stays_logarithmic() {
        let (mut segments, mut rewritten) = (Vec::new(), 0);
        for ingest in 1..=5000u64 {
            segments.push(300);
            while let Some(which) = due(&segments) {
                let total = which.iter().map(|at| segments[*at]).sum::<u64>();
                rewritten += total;
                segments = (0..segments.len()).filter(|at| !which.contains(at)).map(|at| segments[at]).collect();
                segments.push(total);
            }
            let classes = u64::from(class(ingest * 300)) + 1;
            assert!(segments.len() as u64 <= (FANOUT as u64 - 1) * classes, "{} segments after {ingest}", segments.len());
        }
        assert_eq!(segments.iter().sum::<u64>(), 5000 * 300);
        // Every entry is written again a few times only.
        assert!(rewritten < 6 * 5000 * 300, "{rewritten}");
    }

    /// A repository in memory with so many segments of one chunk each.
    fn with_segments(count: u8) -> Repository {
        use crate::chunk::keys::Credential;
        use crate::format::config::{ChunkerParameters, Derivation};
        use crate::format::pack::{Codec, DirectoryEntry, FrameInfo, PREAMBLE, PackKind};
        use crate::model::Timestamp;
        use crate::repo::InitOptions;
        use crate::repo::index::segment::Segment;
        use crate::repo::pack::StoredPack;
        let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::DEFAULT);
        let options = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
        let storage = Arc::new(crate::storage::memory::MemoryStorage::default());
        let repo = Repository::init(storage, &Credential::KeyFile([1; 32]), &options).unwrap();
        for n in 0..count {
            let frame = FrameInfo { offset: PREAMBLE as u64, stored: 66, plain: 50, codec: Codec::Raw, bases: Vec::new() };
            let entries = vec![DirectoryEntry { frame, chunks: vec![(ChunkKey([n; 16]), 50)] }];
            let pack = StoredPack { id: PackId([n; 32]), kind: PackKind::Data, size: 1000, one_way: false, entries };
            Segment::of_packs(&[pack]).store(&repo, Vec::new()).unwrap();
        }
        repo
    }

    #[test]
    fn writers_that_end_together_do_not_merge_without_end() {
        const WRITERS: usize = 2 * FANOUT;
        let repo = with_segments(FANOUT as u8);
        let index = Index::load(&repo).unwrap();
        let begin = std::sync::Barrier::new(WRITERS);
        let settle_one = || {
            begin.wait();
            settle(&repo, &index, true).unwrap()
        };
        let written: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(settle_one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(written.iter().all(|n| *n <= 2), "{written:?}");
        // With other writers at work they stay as they are; the next writer that is alone merges them.
        let before = Index::load(&repo).unwrap();
        assert_eq!(settle(&repo, &before, false).unwrap(), 0);
        settle(&repo, &before, true).unwrap();
        let after = Index::load(&repo).unwrap();
        assert!(after.segments().len() < FANOUT);
        assert!(
            (0..FANOUT as u8).all(|n| after.find(crate::format::pack::PackKind::Data, &ChunkKey([n; 16])).unwrap().is_some())
        );
    }
}
