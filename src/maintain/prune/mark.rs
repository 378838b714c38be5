//! Marking: every chunk that a snapshot needs gets a bit at each of its places in the index.
//!
//! Pages of trees are shared by snapshots, and each is gone through once: it has a second bit for that. So the cost is
//! that of one walk through all distinct pages, and memory is two bits for each entry of the index, whatever the number
//! of snapshots. Bases of delta frames are not marked here: whether one is needed depends on which copies stay (see
//! [`crate::maintain::prune::survey`]).

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::maintain::prune::view::RepositoryView;
use crate::model::{ChunkId, Snapshot, SnapshotId};
use crate::observe::{Event, Observer};
use crate::repo::bits::EntryBits;
use crate::repo::index::{Index, missing_chunk};
use crate::repo::reader::ChunkReader;
use crate::repo::small::{self, Small};
use crate::repo::tree::walk::{TreePage, Visitor, walk};
use crate::repo::{Repository, marks, snapshots};
use crate::storage::Name;
use crate::task::Task;

/// Pages between two words on how far it is.
const PAGES_A_WORD: u64 = 256;

/// What is marked, in one index.
#[derive(Debug)]
pub(crate) struct Marks {
    index: Arc<Index>,
    /// Chunks that snapshots need.
    pub(crate) live: EntryBits,
    /// Pages that were gone through.
    walked: EntryBits,
    /// Snapshots and fences that were looked at.
    seen: HashSet<SnapshotId>,
    /// How many of these are snapshots.
    pub(crate) snapshots: u64,
    /// Those that nobody with the key made.
    pub(crate) made_up: Vec<Name>,
    pages: u64,
    bytes: u64,
}

/// How pages are read for a mark.
pub(crate) struct MarkReader<'a> {
    /// The chunks behind the pages.
    pub(crate) reader: &'a ChunkReader,
    /// Snapshots that count as forgotten.
    pub(crate) without: &'a HashSet<SnapshotId>,
    /// Ends the walk, and hears how far it is.
    pub(crate) task: &'a Task<'a>,
}

impl Marks {
    /// Nothing is marked.
    pub(crate) fn new(index: Arc<Index>) -> Self {
        let (live, walked) = (EntryBits::new(&index), EntryBits::new(&index));
        Marks { index, live, walked, seen: HashSet::new(), snapshots: 0, made_up: Vec::new(), pages: 0, bytes: 0 }
    }

    /// The same marks in another index.
    pub(super) fn carry(&mut self, index: &Arc<Index>) -> Result<()> {
        if !index.segments().iter().map(|s| s.id()).eq(self.index.segments().iter().map(|s| s.id())) {
            [self.live, self.walked] = EntryBits::carry([&self.live, &self.walked], &self.index, index)?;
        }
        self.index = index.clone();
        Ok(())
    }

    /// Marks what the snapshots of `view` need that were not looked at before. What was marked for a snapshot that is
    /// forgotten by now stays marked: too much is kept, never too little. The index of the marks must be the view's.
    pub(super) fn update(&mut self, repo: &Repository, view: &RepositoryView, reading: &MarkReader<'_>) -> Result<()> {
        let listed: HashSet<&SnapshotId> = view.snapshots.iter().collect();
        for id in view.snapshots.iter().filter(|id| !reading.without.contains(id)) {
            if !self.seen.insert(*id) {
                continue;
            }
            let found = snapshots::judge(repo, *id);
            let snapshot = match found.and_then(|found| self.not_made_up(repo, *id, found)) {
                Ok(Some(snapshot)) => snapshot,
                Ok(None) => continue,
                // Forgotten and deleted since it was listed.
                Err(_) if marks::is_forgotten(repo, *id)? => continue,
                Err(e) => {
                    let text = format!("what it needs cannot be told (yester forget {id} gives it up)");
                    let kind = if e.kind() == ErrorKind::NotFound { ErrorKind::Corrupt } else { e.kind() };
                    return Err(e.context(text).with_kind(kind));
                }
            };
            let kept = view.kept.contains_key(id);
            self.snapshots += u64::from(!kept);
            for before in snapshot.before().iter().filter(|id| !listed.contains(id)) {
                if !is_known(repo, *before)? {
                    return Err(lost(&snapshot, *before));
                }
            }
            walk(reading.reader, &snapshot, &mut Marking { marks: self, reading })
                .map_err(|e| e.about(format!("snapshot {}", id.short())))
                .map_err(|e| if kept { e.context("forgotten, and left for a time (--no-grace gives it up)") } else { e })?;
        }
        Ok(())
    }

    /// Notes what is not authentic, which needs nothing.
    fn not_made_up(&mut self, repo: &Repository, id: SnapshotId, found: Small<Option<Snapshot>>) -> Result<Option<Snapshot>> {
        let name = Name::Snapshot(id);
        let Small::MadeUp(e) = found else { return found.result(&name) };
        small::tell(repo, &[(name, e)], "it is removed by prune");
        self.made_up.push(name);
        Ok(None)
    }

    fn count(&mut self, bytes: u64, observer: &dyn Observer) {
        self.pages += 1;
        self.bytes += bytes;
        if self.pages.is_multiple_of(PAGES_A_WORD) {
            let (entries, bytes) = (self.pages, self.bytes);
            observer.event(&Event::Progress { entries, bytes, total_entries: 0, total_bytes: 0, unit: "pages" });
        }
    }
}

/// Marks what a walk names, at all of its places.
struct Marking<'a> {
    marks: &'a mut Marks,
    reading: &'a MarkReader<'a>,
}

impl Visitor for Marking<'_> {
    fn page(&mut self, page: &TreePage) -> Result<bool> {
        self.reading.task.go_on("the prune was stopped")?;
        let mut before = false;
        let places = self.marks.index.find_all(PackKind::Tree, &page.id.key())?;
        for place in &places {
            self.marks.live.set(place.entry());
            before = self.marks.walked.set(place.entry());
        }
        if places.is_empty() { Err(missing_chunk(&page.id)) } else { Ok(!before) }
    }

    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        let places = self.marks.index.find_all(kind, &id.key())?;
        for place in &places {
            self.marks.live.set(place.entry());
        }
        if places.is_empty() { Err(missing_chunk(id)) } else { Ok(()) }
    }

    fn read(&mut self, bytes: u64) {
        self.marks.count(bytes, self.reading.task.observer);
    }
}

/// Whether a snapshot that was not listed is there after all, or forgotten. A listing may show what was created while it
/// was read, and not what was created before that.
fn is_known(repo: &Repository, id: SnapshotId) -> Result<bool> {
    Ok(!matches!(snapshots::judge(repo, id)?, Small::Gone | Small::MadeUp(_) | Small::Sound(None))
        || marks::is_forgotten(repo, id)?)
}

/// A snapshot names those before it, and a snapshot that is gone has its mark: one that is neither there nor forgotten
/// was lost, or the listing is not complete. Then there may be more that is not seen and must not be deleted.
fn lost(snapshot: &Snapshot, before: SnapshotId) -> Error {
    let text = format!(
        "snapshot {} was taken after {before}, which is neither there nor forgotten: it was lost, or the listing is not \
         complete (if it is lost for good: yester forget {before})",
        snapshot.id.short(),
    );
    Error::new(ErrorKind::WentBack, text)
}
