//! What is known to be damaged of packs.
//!
//! Damage that a command finds is recorded in the repository, so that all clients know: writers do not rely on a
//! damaged copy and store the chunk again, readers try other copies first, and prune replaces the pack. A record says nothing
//! that could do harm if it were wrong: a copy that is called damaged and is not costs room until the next prune.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::damage::{Damage, DamagedExtent, MAX_DAMAGED_PACKS, decode_damage, encode_damage};
use crate::format::envelope::ObjectType;
use crate::model::{PackId, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::storage::{Class, Name};
use crate::sys::process;

/// What somebody found, by pack.
pub(crate) type DamagedPacks = BTreeMap<PackId, DamagedExtent>;

/// A record of damage in the repository.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its name.
    pub(crate) id: SnapshotId,
    /// Its size in bytes.
    pub size: u64,
    /// What it says.
    pub(crate) damage: Damage,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Damaged {
    packs: HashMap<PackId, DamagedExtent>,
    /// The records, in the order of their names.
    pub(crate) records: Vec<Record>,
    /// Records that cannot be opened, with their sizes: they say nothing.
    pub(crate) unreadable: Vec<(SnapshotId, u64, Error)>,
}

impl Damaged {
    /// Reads all records. One that cannot be opened counts for nothing.
    pub fn load(repo: &Repository) -> Result<Damaged> {
        let mut out = Damaged::default();
        let mut object = Vec::new();
        let mut listed = repo.storage().list(Class::Damaged)?;
        listed.sort_unstable();
        for (name, size) in listed {
            let Name::Damaged(id) = name else { continue };
            let opened = repo.storage().read(&name, None, &mut object).and_then(|()| open(repo, id, &object));
            match opened {
                Ok(damage) => {
                    for (pack, extent) in &damage.packs {
                        out.packs.entry(*pack).or_insert_with(nothing).add(extent);
                    }
                    out.records.push(Record { id, size, damage });
                }
                // Removed since it was listed: its packs are gone.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                // A newer program's: it is left alone.
                Err(e) if e.kind() == ErrorKind::Unsupported => {}
                Err(e) => out.unreadable.push((id, size, e)),
            }
        }
        Ok(out)
    }

    /// Whether nothing is known to be damaged.
    pub(crate) fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// What is damaged of a pack.
    pub(crate) fn of(&self, pack: &PackId) -> Option<&DamagedExtent> {
        self.packs.get(pack)
    }

    /// Whether a frame, by its number in the pack, is damaged.
    pub(crate) fn has(&self, pack: &PackId, frame: u32) -> bool {
        self.packs.get(pack).is_some_and(|extent| extent.has(frame))
    }

    /// The packs of which something is damaged.
    pub fn packs(&self) -> impl Iterator<Item = (&PackId, &DamagedExtent)> {
        self.packs.iter()
    }

    /// Whether all of `found` is known already.
    pub(crate) fn covers(&self, found: &DamagedPacks) -> bool {
        found.iter().all(|(pack, extent)| self.of(pack).is_some_and(|known| known.covers(extent)))
    }

    /// Whether a record says that something is missing, without a pack.
    fn has_loss(&self) -> bool {
        self.records.iter().any(|record| record.damage.packs.is_empty())
    }

    /// Records that say nothing any more, and those that cannot be read. `is_there`: of a pack, whether it is.
    pub(crate) fn void(&self, is_there: impl Fn(&PackId) -> bool) -> impl Iterator<Item = SnapshotId> {
        let void = move |record: &&Record| !record.damage.packs.keys().any(&is_there);
        let void = self.records.iter().filter(void).map(|record| record.id);
        void.chain(self.unreadable.iter().map(|(id, _, _)| *id))
    }

    /// The records that say something of a pack.
    pub(crate) fn records_of(&self, pack: &PackId) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.damage.packs.contains_key(pack))
    }
}

/// Nothing of the frames, to begin with.
fn nothing() -> DamagedExtent {
    DamagedExtent::Frames(Default::default())
}

/// Opens a record.
pub(crate) fn open(repo: &Repository, id: SnapshotId, object: &[u8]) -> Result<Damage> {
    let name = Name::Damaged(id);
    let class = &repo.keys().snapshot;
    let plain = seal::open_object(ObjectType::Damaged, repo.id(), &id.0, class, object, "a record of damage");
    plain.and_then(|plain| decode_damage(&plain)).map_err(|e| e.about(name))
}

/// Adds to `found` that of a pack this is damaged.
pub(crate) fn add(found: &mut DamagedPacks, pack: PackId, extent: &DamagedExtent) {
    found.entry(pack).or_insert_with(nothing).add(extent);
}

/// Adds a frame to `found`.
pub(crate) fn add_frame(found: &mut DamagedPacks, pack: PackId, frame: u32) {
    add(found, pack, &DamagedExtent::Frames([frame].into()));
}

/// Writes down what of `found` is not known yet; answers of how many packs that was. Durable when this returns. `why`
/// says how it was found, for people.
pub fn record(repo: &Repository, found: &DamagedPacks, why: &str, now: Timestamp) -> Result<usize> {
    if found.is_empty() {
        return Ok(0);
    }
    let known = Damaged::load(repo)?;
    let new: Vec<(PackId, DamagedExtent)> = found
        .iter()
        .filter(|(pack, extent)| known.of(pack).is_none_or(|known| !known.covers(extent)))
        .map(|(pack, extent)| (*pack, extent.clone()))
        .collect();
    if !new.is_empty() {
        // With a former key all that is new looks damaged.
        repo.key_is_current()?;
    }
    for packs in new.chunks(MAX_DAMAGED_PACKS) {
        let packs = packs.iter().cloned().collect();
        let damage = Damage { packs, host: process::host_name(), time: now, why: why.as_bytes().to_vec() };
        write(repo, &damage)?;
    }
    if !new.is_empty() {
        repo.storage().sync()?;
    }
    Ok(new.len())
}

/// Writes down that something is missing and nobody knows of which pack: until a prune has found all that snapshots need,
/// an ingest adopts nothing unseen. Durable when this returns.
pub(crate) fn record_loss(repo: &Repository, why: &str, now: Timestamp) -> Result<()> {
    if Damaged::load(repo)?.has_loss() {
        return Ok(());
    }
    repo.key_is_current()?;
    let damage = Damage { packs: BTreeMap::new(), host: process::host_name(), time: now, why: why.as_bytes().to_vec() };
    write(repo, &damage)?;
    repo.storage().sync()
}

/// Removes these records.
pub(crate) fn remove(repo: &Repository, records: &[SnapshotId]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    records.iter().try_for_each(|id| repo.storage().delete(&Name::Damaged(*id)))?;
    repo.storage().sync()
}

/// Takes packs that are sound out of the records of `known`. Durable when this returns.
pub(crate) fn clear(repo: &Repository, known: &Damaged, sound: &HashSet<PackId>) -> Result<()> {
    let concerned = |record: &&Record| record.damage.packs.keys().any(|pack| sound.contains(pack));
    let mut done = Vec::new();
    for Record { id, damage, .. } in known.records.iter().filter(concerned) {
        let mut rest = damage.clone();
        rest.packs.retain(|pack, _| !sound.contains(pack));
        // What is still damaged is written down anew before the old record goes.
        if !rest.packs.is_empty() {
            write(repo, &rest)?;
        }
        done.push(*id);
    }
    if done.is_empty() {
        return Ok(());
    }
    repo.storage().sync()?;
    remove(repo, &done)
}

fn write(repo: &Repository, damage: &Damage) -> Result<()> {
    let id = SnapshotId::random()?;
    let plain = encode_damage(damage);
    let object = seal::seal_object(ObjectType::Damaged, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    repo.storage().create(&Name::Damaged(id), &[&object]).map(drop)
}
