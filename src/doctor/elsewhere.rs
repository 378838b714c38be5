//! Healing from another repository. Its chunks have other names, so its files are read and hashed with this one's key.

use std::collections::HashSet;
use std::sync::Arc;

use crate::copy::{CopiedIds, Rebuilder, origin};
use crate::doctor::look::{LostKind, LostPlace, is_loss};
use crate::doctor::{Doctor, Loss};
use crate::error::Result;
use crate::model::{ChunkKey, Content, Kind, Snapshot};
use crate::repo::tree::TreeReader;
use crate::repo::{Repository, snapshots};

/// How many snapshots of the other repository are tried for one of this one: copies of it, then those nearest in time.
const TRIED: usize = 4;

/// What was found of `loss`.
pub(super) fn heal(doctor: &Doctor<'_>, loss: &Loss, other: &Arc<Repository>, trees: &TreeReader) -> Result<HashSet<ChunkKey>> {
    let theirs = snapshots::list_with_damage(other)?.0;
    let alike: Vec<Vec<&Snapshot>> = loss.snapshots.iter().map(|own| alike(doctor.repo, own, other, &theirs)).collect();
    let near = |place: &LostPlace| alike.get(place.snapshot).map(Vec::as_slice).unwrap_or_default();
    let mut file = FoundFile { trees, path: Vec::new(), contents: Vec::new() };
    let mut met = doctor.gather(loss, |chunk| match chunk.kind {
        LostKind::Data => file.read(&chunk.place, chunk.len, near(&chunk.place), |bytes| {
            doctor.repo.keys().is_chunk(chunk.pack_kind(), &chunk.id, bytes)
        }),
        _ => Ok(None),
    })?;
    // Pages are made anew, with the names that this repository gives.
    let mut tried = HashSet::new();
    for chunk in loss.in_order() {
        if met.contains(&chunk.id.key()) {
            continue;
        }
        for snapshot in near(&chunk.place) {
            if met.contains(&chunk.id.key()) || !tried.insert(snapshot.id) {
                continue;
            }
            met.extend(rebuild(doctor, loss, trees, snapshot)?);
        }
    }
    Ok(met)
}

/// Makes the trees of one of their snapshots with the names of this repository, and stores what is lost of them.
fn rebuild(doctor: &Doctor<'_>, loss: &Loss, trees: &TreeReader, snapshot: &Snapshot) -> Result<HashSet<ChunkKey>> {
    let mut memory = CopiedIds::default();
    let keys = doctor.repo.keys();
    doctor.restock(loss, |chunks| {
        let rebuilt = Rebuilder::new(keys, trees, chunks, &mut memory, doctor.task).run(snapshot);
        match rebuilt {
            // It is damaged itself. What it had until then is stored.
            Err(e) if is_loss(&e) => Ok(()),
            other => other.map(drop),
        }
    })
}

/// Their snapshots that may hold what `own` holds, the most similar ones first.
fn alike<'s>(repo: &Repository, own: &Snapshot, other: &Repository, theirs: &'s [Snapshot]) -> Vec<&'s Snapshot> {
    let same = origin(repo, own);
    let mut out: Vec<&Snapshot> = theirs.iter().filter(|their| origin(other, their) == same || their.host == own.host).collect();
    if out.is_empty() {
        out = theirs.iter().collect();
    }
    out.sort_by_key(|their| (origin(other, their) != same, their.time.secs.abs_diff(own.time.secs)));
    out.truncate(TRIED);
    out
}

/// The file that was read last, in each of the snapshots that are tried.
struct FoundFile<'a> {
    trees: &'a TreeReader,
    path: Vec<u8>,
    contents: Vec<Content>,
}

impl FoundFile<'_> {
    /// The bytes at a place that `is_right` takes.
    fn read(
        &mut self,
        place: &LostPlace,
        len: u32,
        near: &[&Snapshot],
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        if self.path != place.path {
            self.path.clone_from(&place.path);
            self.contents =
                near.iter().filter_map(|snapshot| self.content(snapshot, &place.path).transpose()).collect::<Result<_>>()?;
        }
        let mut bytes = Vec::new();
        for content in &self.contents {
            match self.trees.read(content, place.offset, len as usize, &mut bytes) {
                Ok(()) if is_right(&bytes) => return Ok(Some(bytes)),
                Err(e) if !is_loss(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(None)
    }

    fn content(&self, snapshot: &Snapshot, path: &[u8]) -> Result<Option<Content>> {
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        match self.trees.walk_to(&snapshot.root, &names) {
            Ok((node, _)) => Ok(match node.kind {
                Kind::File(content) => Some(content),
                _ => None,
            }),
            Err(e) if is_loss(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
