//! The list of snapshots as a running mount follows it: each snapshot is read once, only the names are listed again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{ErrorKind, Result};
use crate::model::{Snapshot, SnapshotId};
use crate::observe::Reports;
use crate::repo::reader::ChunkReader;
use crate::repo::snapshots::{self, SnapshotFilter};
use crate::repo::{Repository, parallel};
use crate::repo::{annotations, times};
use crate::storage::Name;
use crate::sys::clock;
use crate::vfs::inode::Ranges;
use crate::vfs::root::{MountedSnapshot, Numbers};
use crate::vfs::templates::LinkTemplates;

/// A damaged snapshot is tried again after this time: its storage may have recovered.
const AGAIN: Duration = Duration::from_secs(60);

enum KnownSnapshot {
    Snapshot(Arc<MountedSnapshot>),
    /// Was shown, and the filter keeps it out by now.
    Hidden(Arc<MountedSnapshot>),
    /// A fence, or a snapshot that the filter keeps out.
    Nothing,
    Damaged(Instant),
}

/// What the mount knows of the repository's snapshots.
pub(crate) struct SnapshotWatch {
    chunks: Arc<ChunkReader>,
    filter: SnapshotFilter,
    /// What there is besides in the root.
    pub(crate) templates: LinkTemplates,
    known: HashMap<SnapshotId, KnownSnapshot>,
    ranges: Ranges,
    /// Numbers of made-up entries.
    pub(crate) numbers: Numbers,
    /// All is read again.
    anew: bool,
    /// When the names were listed last.
    pub(crate) listed: Instant,
}

impl std::fmt::Debug for SnapshotWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch of {} snapshots", self.known.len())
    }
}

impl SnapshotWatch {
    /// Knows nothing yet. `chunks` reads what is in the snapshots, and is told when there are new ones.
    pub(crate) fn new(chunks: Arc<ChunkReader>, filter: SnapshotFilter, templates: LinkTemplates) -> Self {
        let (known, ranges, numbers) = (HashMap::new(), Ranges::default(), Numbers::default());
        SnapshotWatch { chunks, filter, templates, known, ranges, numbers, anew: false, listed: Instant::now() }
    }

    /// Where the repository is, if it is a directory of this machine.
    pub(crate) fn local_directory(&self) -> Option<std::path::PathBuf> {
        self.chunks.repo().storage().local_path()
    }

    /// Where is said what cannot be shown.
    pub(crate) fn reports(&self) -> &Reports {
        self.chunks.repo().reports()
    }

    /// The next list reads also what is known: tags may be others, and what was damaged may be mended.
    pub(crate) fn begin_anew(&mut self) {
        self.anew = true;
    }

    /// Lists again and answers the snapshots to show, oldest first. Those that are gone stay known, so that their
    /// inode numbers are not used again and open files can be read on while their data is there.
    pub(crate) fn list(&mut self) -> Result<Vec<Arc<MountedSnapshot>>> {
        let names = snapshots::names(self.chunks.repo())?;
        self.listed = Instant::now();
        let new: Vec<SnapshotId> = names
            .iter()
            .copied()
            .filter(|id| match self.known.get(id) {
                _ if self.anew => true,
                None => true,
                Some(KnownSnapshot::Damaged(since)) => since.elapsed() > AGAIN,
                Some(_) => false,
            })
            .collect();
        if !new.is_empty() {
            self.chunks.snapshots_listed();
        }
        let mut loaded = load_all(self.chunks.repo(), &new);
        if !new.is_empty() {
            let found = loaded.iter_mut().filter_map(|(_, found)| found.as_mut().ok()?.as_mut());
            annotations::read_all(self.chunks.repo())?.apply(found);
        }
        // Where two ranges overlap, the later snapshot gives way.
        loaded.sort_by_key(|(id, found)| (found.as_ref().ok().and_then(|s| s.as_ref().map(|s| s.time)), *id));
        for (id, found) in loaded {
            let before = match self.known.get(&id) {
                Some(KnownSnapshot::Snapshot(mounted) | KnownSnapshot::Hidden(mounted)) => Some(mounted.clone()),
                _ => None,
            };
            let known = match found {
                Ok(Some(snapshot)) if self.filter.matches(&snapshot) => self.place(snapshot, before.as_deref()),
                Ok(_) => before.map_or(KnownSnapshot::Nothing, KnownSnapshot::Hidden),
                // Forgotten and pruned since it was listed.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                // What is shown can be read on.
                Err(_) if before.is_some() => continue,
                Err(e) => {
                    self.reports().warn("", format!("a snapshot is not shown: {e}"));
                    KnownSnapshot::Damaged(Instant::now())
                }
            };
            self.known.insert(id, known);
        }
        self.anew = false;
        let mut shown: Vec<Arc<MountedSnapshot>> = names
            .iter()
            .filter_map(|id| match self.known.get(id) {
                Some(KnownSnapshot::Snapshot(mounted)) => Some(mounted.clone()),
                _ => None,
            })
            .collect();
        let now = clock::now();
        shown.sort_by_cached_key(|m| times::order(&m.snapshot, None, now));
        Ok(shown)
    }

    /// Gives it inode numbers, or those that it had before.
    fn place(&mut self, snapshot: Snapshot, before: Option<&MountedSnapshot>) -> KnownSnapshot {
        if let Some(MountedSnapshot { base, asked, .. }) = before {
            return KnownSnapshot::Snapshot(Arc::new(MountedSnapshot { base: *base, snapshot, asked: asked.clone() }));
        }
        match self.ranges.take(&snapshot.id, snapshot.nodes()) {
            Some(base) => KnownSnapshot::Snapshot(Arc::new(MountedSnapshot::new(base, snapshot))),
            None => {
                let name = format!("snapshot {}", snapshot.id.short());
                self.reports().warn(name, "is not shown: there are no inode numbers left");
                KnownSnapshot::Nothing
            }
        }
    }

    /// Every snapshot that ever had inode numbers in this mount, sorted by their beginning.
    pub(crate) fn placed(&self) -> Vec<Arc<MountedSnapshot>> {
        let mounted = |known: &KnownSnapshot| match known {
            KnownSnapshot::Snapshot(mounted) | KnownSnapshot::Hidden(mounted) => Some(mounted.clone()),
            KnownSnapshot::Nothing | KnownSnapshot::Damaged(_) => None,
        };
        let mut out: Vec<Arc<MountedSnapshot>> = self.known.values().filter_map(mounted).collect();
        out.sort_by_key(|m| m.base);
        out
    }
}

type LoadedSnapshot = (SnapshotId, Result<Option<Snapshot>>);

/// Reads snapshots with as many calls under way as the storage likes.
fn load_all(repo: &Repository, ids: &[SnapshotId]) -> Vec<LoadedSnapshot> {
    let load = |id: SnapshotId| snapshots::read_listed(repo, id)?.result(&Name::Snapshot(id));
    parallel::many(repo, ids, |id| (*id, load(*id)))
}
