//! Healing by parity: packs that are gone are put together anew under their own names, and what is torn in packs that are
//! there is computed and stored as everything else that heals.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::doctor::look::{self, LostChunk};
use crate::doctor::{Doctor, Loss};
use crate::error::{Error, Result};
use crate::maintain::repair::{self, RepairOptions};
use crate::model::{ChunkKey, PackId};
use crate::observe::Event;
use crate::parity::{self, FoundGroup, FoundParity, ParityPlace, RebuiltPacks};
use crate::repo::damaged;
use crate::repo::index::{Index, condemned, list_packs};
use crate::storage::{Created, Name};

/// What was found of `loss`.
pub(super) fn heal(doctor: &Doctor<'_>, loss: &Loss) -> Result<HashSet<ChunkKey>> {
    let repo = doctor.repo;
    let found = parity::find(&ParityPlace::of(repo))?;
    if found.groups.is_empty() {
        return Ok(HashSet::new());
    }
    let wanted = WantedPacks::of(doctor, loss, &found)?;
    if wanted.gone.is_empty() && wanted.torn.is_empty() {
        return Ok(HashSet::new());
    }
    let mut met = HashSet::new();
    let mut rest: Option<Loss> = None;
    if !doctor.dry && put_back(doctor, &found, &wanted)? > 0 {
        let now = doctor.look()?;
        met.extend(loss.chunks.keys().filter(|key| !now.chunks.contains_key(key)));
        rest = Some(now);
    }
    // Of what is known to be lost now, as far as it was known before: the caller counts that.
    let rest = match rest {
        Some(mut now) => {
            now.chunks.retain(|key, _| loss.chunks.contains_key(key));
            now
        }
        None => Loss { chunks: loss.chunks.clone(), snapshots: Vec::new(), ..Loss::default() },
    };
    if !rest.is_empty() {
        let present = list_packs(repo)?;
        let packs: HashSet<PackId> = wanted.gone.iter().chain(&wanted.torn).copied().collect();
        let mended = RebuiltPacks::new(repo.storage().clone(), repo.id(), found.groups, present, &packs);
        let trees = look::trees(&Arc::new(repo.on(Arc::new(mended))))?;
        met.extend(doctor.readable(&rest, &trees)?);
    }
    Ok(met)
}

/// The packs by which something is lost.
#[derive(Debug, Default)]
struct WantedPacks {
    /// Those that are not there.
    gone: HashSet<PackId>,
    /// Those that are there and known to be damaged.
    torn: HashSet<PackId>,
    /// What is lost is in no pack that the index names: it may have been in any pack that is gone.
    unnamed: bool,
}

impl WantedPacks {
    fn of(doctor: &Doctor<'_>, loss: &Loss, found: &FoundParity) -> Result<Self> {
        let repo = doctor.repo;
        let (covered, present) = (found.covered(), list_packs(repo)?);
        let index = Index::load_to_read(repo, None)?;
        let marked = condemned::read_all(repo)?.packs();
        let mut out = WantedPacks::default();
        let mut packs = HashSet::new();
        for chunk in loss.chunks.values() {
            let named = packs_of(&index, chunk, &mut packs)?;
            out.unnamed |= !named;
        }
        let is_gone = |id: &&PackId| covered.contains(*id) && !present.contains_key(*id) && !marked.contains(*id);
        out.gone = match out.unnamed {
            true => covered.iter().filter(is_gone).copied().collect(),
            false => packs.iter().filter(is_gone).copied().collect(),
        };
        // A pack whose directory is torn is named by nothing when its segment is lost, too.
        let all = covered.iter().filter(|_| out.unnamed);
        let known = index.damaged().packs().map(|(id, _)| id).chain(&packs).chain(all);
        out.torn = known.filter(|id| covered.contains(*id) && present.contains_key(*id)).copied().collect();
        Ok(out)
    }
}

/// Adds the packs that a chunk is in, and those of its bases. False: no pack that the index names.
fn packs_of(index: &Index, chunk: &LostChunk, out: &mut HashSet<PackId>) -> Result<bool> {
    let places = index.find_all(chunk.pack_kind(), &chunk.id.key())?;
    for place in &places {
        let frame = index.frame(place)?;
        out.insert(frame.pack.id);
        for base in &frame.info.bases {
            out.extend(index.find_all(frame.pack.kind, base)?.iter().map(|place| index.frame_key(place).0));
        }
    }
    Ok(!places.is_empty())
}

/// Puts packs that are gone together anew, and stores them under their own names: such a pack is what it was, so its group
/// is whole again. Answers how many.
fn put_back(doctor: &Doctor<'_>, found: &FoundParity, wanted: &WantedPacks) -> Result<u64> {
    let (repo, place) = (doctor.repo, ParityPlace::of(doctor.repo));
    let (mut left, mut back) = (wanted.gone.clone(), HashSet::new());
    let total = left.len() as u64;
    for group in &found.groups {
        let members: Vec<usize> = places(group, &left);
        if members.is_empty() {
            continue;
        }
        // What was put back before is there for this group as well.
        let present: HashMap<PackId, u64> = list_packs(repo)?;
        for pack in parity::rebuild(&place, group, &present, &members, doctor.task)? {
            let Some(bytes) = &pack.bytes else { continue };
            if repo.storage().create(&Name::Pack(pack.id), &[bytes])? == Created::Exists {
                let text = format!("{} appeared while it was put together anew: run it again", Name::Pack(pack.id));
                return Err(Error::new(crate::error::ErrorKind::Busy, text));
            }
            left.remove(&pack.id);
            back.insert(pack.id);
            let entries = back.len() as u64;
            let progress = Event::Progress { entries, bytes: 0, total_entries: total, total_bytes: 0, unit: "packs" };
            doctor.task.observer.event(&progress);
        }
    }
    if back.is_empty() {
        return Ok(0);
    }
    repo.storage().sync()?;
    // They are what their names say, so nothing of them is damaged. Who may not delete leaves that on record: then what is
    // in them is stored once more.
    let cleared = damaged::Damaged::load(repo).and_then(|known| damaged::clear(repo, &known, &back));
    if let Err(e) = cleared {
        let message = format!("packs that are whole again could not be taken off the list of damaged ones: {e}");
        doctor.task.observer.event(&Event::Warning { subject: b"damaged", message: &message });
    }
    if wanted.unnamed {
        repair::index(repo, &RepairOptions::default(), doctor.task)?;
    }
    Ok(back.len() as u64)
}

fn places(group: &FoundGroup, packs: &HashSet<PackId>) -> Vec<usize> {
    let members = group.group.packs.iter().enumerate();
    members.filter(|(_, (id, _))| packs.contains(id)).map(|(member, _)| member).collect()
}
