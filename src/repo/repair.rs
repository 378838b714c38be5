//! Making the index anew from the packs. Nothing is deleted: new segments take the place of damaged ones, and what is
//! replaced stays until prune (borg#5325: a repair that destroys can be interrupted halfway).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::bounded;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{PackId, SegmentId};
use crate::observe::{Event, Observer};
use crate::repo::Repository;
use crate::repo::index::{Index, list_packs};
use crate::repo::pack::{self, StoredPack};
use crate::repo::segment::Segment;

/// Chunks of one new segment, about: what is in memory.
const CHUNKS: usize = 1 << 18;

/// What a repair did, or with a dry run would do.
#[derive(Debug, Default)]
pub struct IndexRepair {
    /// Damaged segments, which new ones take the place of.
    pub damaged: Vec<(SegmentId, Error)>,
    /// Packs that no sound segment named.
    pub packs: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Packs whose directory cannot be read: what is in them stays unknown.
    pub lost: Vec<(PackId, Error)>,
    /// Segments written.
    pub segments: u64,
}

/// Reads the directory of every pack that no sound segment names, and writes segments that do.
pub fn index(repo: &Repository, dry_run: bool, observer: &dyn Observer) -> Result<IndexRepair> {
    let (index, mut damaged) = Index::load_with_damage(repo, None)?;
    let mut named: HashMap<PackId, u64> = HashMap::new();
    for segment in index.segments() {
        match segment.verify() {
            Ok(()) => named.extend(segment.packs().iter().map(|pack| (pack.id, pack.size))),
            Err(e) if e.kind() == ErrorKind::Corrupt => damaged.push((segment.id(), e)),
            Err(e) => return Err(e),
        }
    }
    if let Some(at) = damaged.iter().position(|(_, e)| e.kind() != ErrorKind::Corrupt) {
        // Of a newer version, or a disk that does not answer: that is no damage.
        return Err(damaged.swap_remove(at).1);
    }
    let mut wanted: Vec<(PackId, u64)> = list_packs(repo)?.into_iter().filter(|(id, size)| named.get(id) != Some(size)).collect();
    wanted.sort_unstable();
    let mut out = IndexRepair { damaged, ..IndexRepair::default() };
    let mut waiting: Vec<StoredPack> = Vec::new();
    let mut held = 0;
    let total = wanted.len() as u64;
    each_directory(repo, &wanted, |pack| {
        match pack {
            Ok(pack) => {
                out.packs += 1;
                held += pack.entries.iter().map(|entry| entry.chunks.len()).sum::<usize>();
                waiting.push(pack);
            }
            Err((id, e)) if e.kind() == ErrorKind::Corrupt => out.lost.push((id, e)),
            // Pruned since it was listed.
            Err((_, e)) if e.kind() == ErrorKind::NotFound => {}
            Err((_, e)) => return Err(e),
        }
        let entries = out.packs + out.lost.len() as u64;
        observer.event(&Event::Progress { entries, bytes: 0, total_entries: total, total_bytes: 0, unit: "packs" });
        if held >= CHUNKS {
            out.chunks += std::mem::take(&mut held) as u64;
            out.segments += write(repo, dry_run, &std::mem::take(&mut waiting), Vec::new())?;
        }
        Ok(())
    })?;
    out.chunks += held as u64;
    // The last one takes the place of the damaged ones: until it is there they are not missed.
    let replaces: HashSet<SegmentId> = out.damaged.iter().map(|(id, _)| *id).collect();
    if !waiting.is_empty() || !replaces.is_empty() {
        out.segments += write(repo, dry_run, &waiting, replaces.into_iter().collect())?;
    }
    Ok(out)
}

fn write(repo: &Repository, dry_run: bool, packs: &[StoredPack], mut replaces: Vec<SegmentId>) -> Result<u64> {
    if dry_run {
        return Ok(1);
    }
    replaces.sort_unstable();
    Segment::of_packs(packs).store(repo, replaces)?;
    repo.storage().sync()?;
    Ok(1)
}

/// Reads the directories of packs with as many requests under way as the storage likes; `take` gets them in any order.
fn each_directory(
    repo: &Repository,
    packs: &[(PackId, u64)],
    mut take: impl FnMut(std::result::Result<StoredPack, (PackId, Error)>) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let readers = repo.storage().concurrency().clamp(1, 64).min(packs.len());
    let (found_in, found) = bounded(readers);
    std::thread::scope(|scope| {
        for _ in 0..readers {
            let (next, found_in) = (&next, found_in.clone());
            scope.spawn(move || {
                while let Some((id, size)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let read = pack::read_directory(repo, *id, *size).map_err(|e| (*id, e));
                    let read = read.map(|(key, entries)| StoredPack { id: *id, kind: key.preamble().kind, size: *size, entries });
                    if found_in.send(read).is_err() {
                        return;
                    }
                }
            });
        }
        drop(found_in);
        let result = found.iter().try_for_each(&mut take);
        // Readers that still send see that nobody listens.
        drop(found);
        result
    })
}
