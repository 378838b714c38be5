//! Making the index anew from the packs. Every pack is read whole before what it says of itself is believed: a pack that
//! is not what its name says is written down as damaged, with the frames that are. Nothing is deleted: new segments take the place of damaged ones, and what is
//! replaced stays until prune (borg#5325: a repair that destroys can be interrupted halfway).

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::{Error, ErrorKind, Result};
use crate::format::damage::DamagedExtent;
use crate::format::envelope::CHECKSUM;
use crate::model::{PackId, SegmentId};
use crate::observe::Event;
use crate::repo::Repository;
use crate::repo::damaged::{self, DamagedPacks};
use crate::repo::index::segment::Segment;
use crate::repo::index::{Index, list_packs};
use crate::repo::pack::{self, StoredPack};
use crate::repo::parallel::each_pack;
use crate::repo::rubbish::{self, Swept};
use crate::storage::Name;
use crate::task::Task;

/// Bytes of a pack that are read at a time.
const PIECE: u64 = 4 << 20;
/// Chunks of one new segment, about: what is in memory.
const CHUNKS: usize = 1 << 18;

/// How to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairOptions {
    /// Only read; write nothing.
    pub dry_run: bool,
}

/// What a repair did, or with a dry run would do.
#[derive(Debug, Default)]
pub struct IndexRepair {
    /// Damaged segments, which new ones take the place of.
    pub damaged: Vec<(SegmentId, Error)>,
    /// Packs that no sound segment named.
    pub packs: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Packs that cannot be used: what is in them stays unknown.
    pub lost: Vec<(PackId, Error)>,
    /// Packs that are indexed though they are not what their names say, and how many of their frames are damaged.
    pub hurt: Vec<(PackId, u64)>,
    /// Segments written.
    pub segments: u64,
}

/// Reads every pack that no sound segment names, and writes segments that do. What of these packs is found damaged is
/// written down in the repository.
pub fn index(repo: &Repository, options: &RepairOptions, task: &Task<'_>) -> Result<IndexRepair> {
    let dry_run = options.dry_run;
    let (named, damaged) = segments(repo)?;
    let mut wanted: Vec<(PackId, u64)> = list_packs(repo)?.into_iter().filter(|(id, size)| named.get(id) != Some(size)).collect();
    wanted.sort_unstable();
    let mut out = IndexRepair { damaged, ..IndexRepair::default() };
    let mut waiting: Vec<StoredPack> = Vec::new();
    let mut found = DamagedPacks::new();
    let mut held = 0;
    let total = wanted.len() as u64;
    let read = |id: PackId, size: u64| verified(repo, id, size).map_err(|e| (id, e));
    each_pack(repo, &wanted, &read, |pack: std::result::Result<Verified, (PackId, Error)>| {
        match pack {
            Ok((pack, damage)) => {
                if let Some(frames) = damage {
                    out.hurt.push((pack.id, frames.len() as u64));
                    damaged::add(&mut found, pack.id, &DamagedExtent::Frames(frames));
                }
                out.packs += 1;
                held += pack.entries.iter().map(|entry| entry.chunks.len()).sum::<usize>();
                waiting.push(pack);
            }
            Err((id, e)) if e.kind() == ErrorKind::Corrupt => {
                damaged::add(&mut found, id, &DamagedExtent::Whole);
                out.lost.push((id, e));
            }
            // Pruned since it was listed.
            Err((_, e)) if e.kind() == ErrorKind::NotFound => {}
            Err((_, e)) => return Err(e),
        }
        let entries = out.packs + out.lost.len() as u64;
        task.observer.event(&Event::Progress { entries, bytes: 0, total_entries: total, total_bytes: 0, unit: "packs" });
        if held >= CHUNKS {
            out.chunks += std::mem::take(&mut held) as u64;
            write_down(repo, dry_run, &found, task)?;
            out.segments += write(repo, dry_run, &std::mem::take(&mut waiting), Vec::new())?;
        }
        Ok(())
    })?;
    if !out.damaged.is_empty() && !dry_run {
        // They may have named packs that are not there, of which nobody will know any more.
        damaged::record_loss(repo, "yester repair index", task.now())?;
    }
    out.chunks += held as u64;
    write_down(repo, dry_run, &found, task)?;
    // The last one takes the place of the damaged ones: until it is there they are not missed.
    let replaces: HashSet<SegmentId> = out.damaged.iter().map(|(id, _)| *id).collect();
    if !waiting.is_empty() || !replaces.is_empty() {
        out.segments += write(repo, dry_run, &waiting, replaces.into_iter().collect())?;
    }
    Ok(out)
}

/// Removes small objects that are not authentic, and writes anew those that can be.
pub fn objects(repo: &Repository, options: &RepairOptions, task: &Task<'_>) -> Result<Swept> {
    rubbish::sweep(repo, options.dry_run, task.now())
}

/// Damaged segments, and what is wrong with each.
type DamagedSegments = Vec<(SegmentId, Error)>;

/// The packs that sound segments name, with their sizes, and the damaged segments. Any other error is given back.
fn segments(repo: &Repository) -> Result<(HashMap<PackId, u64>, DamagedSegments)> {
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
    Ok((named, damaged))
}

/// Before the index names a pack, everybody must be able to know what of it is damaged.
fn write_down(repo: &Repository, dry_run: bool, found: &DamagedPacks, task: &Task<'_>) -> Result<()> {
    if dry_run { Ok(()) } else { damaged::record(repo, found, "yester repair index", task.now()).map(drop) }
}

fn write(repo: &Repository, dry_run: bool, packs: &[StoredPack], mut replaces: Vec<SegmentId>) -> Result<u64> {
    if dry_run {
        return Ok(1);
    }
    // With a former key all segments that are new look damaged.
    repo.key_is_current()?;
    replaces.sort_unstable();
    Segment::of_packs(packs).store(repo, replaces)?;
    repo.storage().sync()?;
    Ok(1)
}

/// A pack with what of it can be believed: the frames that are damaged, if it is not what its name says.
type Verified = (StoredPack, Option<BTreeSet<u32>>);

/// Reads a pack whole and compares it with its name, then its directory. One that is not what its name says is gone
/// through frame by frame: each is sealed by itself.
fn verified(repo: &Repository, id: PackId, size: u64) -> Result<Verified> {
    let name = Name::Pack(id);
    let (mut hasher, mut part, mut last) = (blake3::Hasher::new(), Vec::new(), Vec::new());
    let end = size.saturating_sub(CHECKSUM as u64);
    for start in (0..end).step_by(PIECE as usize) {
        repo.storage().read(&name, Some(start..(start + PIECE).min(end)), &mut part)?;
        hasher.update(&part);
    }
    repo.storage().read(&name, Some(end..size), &mut last)?;
    let sum = *hasher.finalize().as_bytes();
    if sum[..] == last[..] && sum != id.0 {
        return Err(Error::corrupt(format!("it holds the bytes of another pack: {}", Name::Pack(PackId(sum)))).about(name));
    }
    let (key, entries) = pack::read_directory(repo, id, size)?;
    let mut damage = None;
    if sum != id.0 || last[..] != id.0[..] {
        let mut frames = BTreeSet::new();
        for (number, entry) in (0..).zip(&entries) {
            let range = entry.frame.offset..entry.frame.offset + u64::from(entry.frame.stored);
            repo.storage().read(&name, Some(range), &mut part)?;
            if !key.is_authentic(number, &entry.frame, &part) {
                frames.insert(number);
            }
        }
        damage = Some(frames);
    }
    Ok((StoredPack::of(&key, id, size, entries), damage))
}
