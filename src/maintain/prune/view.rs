//! What is in the repository, listed afresh and in the order that the protocol wants.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{PackId, SegmentId, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::repo::index::condemned::{self, DeletionList, Lists};
use crate::repo::index::{self, Index};
use crate::repo::{basket, marks};
use crate::storage::{Class, Name};

/// One look at the repository.
#[derive(Debug)]
pub(crate) struct RepositoryView {
    /// Snapshots that are not forgotten, and fences.
    pub(crate) snapshots: Vec<SnapshotId>,
    /// Objects that are not authentic, and count for nothing.
    pub(crate) ignored: Vec<Name>,
    /// Forgotten snapshots that are left for a time, and until when; they are among `snapshots`.
    pub(crate) kept: HashMap<SnapshotId, Timestamp>,
    /// Objects of forgotten snapshots that are still there, with their sizes.
    pub(crate) leavings: Vec<(SnapshotId, u64)>,
    /// The visible segments.
    pub(crate) index: Arc<Index>,
    /// Segments that cannot be opened by anybody.
    pub(crate) broken: Vec<SegmentId>,
    /// All segments, also replaced ones, with their sizes.
    pub(crate) segments: HashMap<SegmentId, u64>,
    /// Deletion lists with their packs.
    pub(crate) lists: Vec<DeletionList>,
    /// Packs with their sizes.
    pub(crate) packs: HashMap<PackId, u64>,
}

impl RepositoryView {
    /// Lists snapshots, then what is forgotten, segments, deletion lists, packs, in this order (rules 2, 6 and 7). An error
    /// of any listing is final. Segments that `old` has open are used again. `now`: forgotten snapshots that are to be left
    /// at this time are.
    pub(super) fn read(repo: &Repository, old: Option<&Index>, now: Option<Timestamp>) -> Result<RepositoryView> {
        let listed = repo.storage().list(Class::Snapshots)?;
        let ids = listed.iter().filter_map(|(name, _)| if let Name::Snapshot(id) = name { Some(*id) } else { None });
        let (forgotten, ignored) = marks::marked(repo, &ids.collect::<Vec<_>>())?;
        let kept = now.map_or_else(|| Ok(HashMap::new()), |now| basket::kept(repo, &forgotten, now))?;
        let (mut snapshots, mut leavings) = (Vec::new(), Vec::new());
        for (name, size) in listed {
            match name {
                Name::Snapshot(id) if forgotten.contains_key(&id) && !kept.contains_key(&id) => leavings.push((id, size)),
                Name::Snapshot(id) => snapshots.push(id),
                _ => {}
            }
        }
        let (index, damaged) = Index::load_with_damage(repo, old)?;
        let mut broken = Vec::new();
        for (id, e) in damaged {
            match e.kind() {
                // Whether snapshots need what it said will be seen.
                ErrorKind::Corrupt => broken.push(id),
                _ => return Err(e),
            }
        }
        let segments = repo.storage().list(Class::Index)?;
        let segments = segments.into_iter().filter_map(|(name, size)| match name {
            Name::Segment(id) => Some((id, size)),
            _ => None,
        });
        let segments = segments.collect();
        let Lists { lists, void, .. } = condemned::read_all(repo)?;
        let ignored = ignored.into_iter().chain(void).map(|(name, _)| name).collect();
        let packs = index::list_packs(repo)?;
        let (index, void) = index.confirmed(repo, &packs)?;
        broken.extend(void);
        let index = Arc::new(index);
        let view = RepositoryView { snapshots, ignored, kept, leavings, index, broken, segments, lists, packs };
        view.confirm_missing(repo)?;
        Ok(view)
    }

    /// The error of something that was not found, with the segment that may have said where it is.
    pub(super) fn blame(&self, e: Error) -> Error {
        match self.broken.first() {
            Some(id) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                e.context(format!("{} is damaged (yester repair index makes it anew from the packs)", Name::Segment(*id)))
            }
            _ => e,
        }
    }

    /// A pack that a segment names and the listing does not show must really be gone: stores have answered with
    /// incomplete listings (restic#3273), and what follows deletes. Marked packs are expected to be gone.
    fn confirm_missing(&self, repo: &Repository) -> Result<()> {
        let marked = self.marked();
        let mut byte = Vec::new();
        for pack in self.index.packs().filter(|p| !self.packs.contains_key(&p.id) && !marked.contains(&p.id)) {
            let name = Name::Pack(pack.id);
            match repo.storage().read(&name, Some(0..1), &mut byte) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
                Ok(()) => {
                    let text = format!(
                        "{name} is there, but {} does not list it: nothing may be deleted on the word of such a store",
                        repo.storage().describe()
                    );
                    return Err(Error::new(ErrorKind::Io, text));
                }
            }
        }
        Ok(())
    }

    /// Packs that are marked for deletion.
    pub(crate) fn marked(&self) -> HashSet<PackId> {
        self.lists.iter().flat_map(|list| list.packs.iter().copied()).collect()
    }
}
