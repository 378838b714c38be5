//! Marking: every chunk that a snapshot needs gets a bit at each of its places in the index.
//!
//! Pages of trees are shared by snapshots, and each is gone through once: it has a second bit for that. So the cost is
//! that of one walk through all distinct pages, and memory is two bits for each entry of the index, whatever the number
//! of snapshots. Bases of delta frames are not marked here: whether one is needed depends on which copies stay (see
//! [`crate::maintain::prune::survey`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::format::page::{self, PageKind};
use crate::maintain::prune::bits::Bits;
use crate::maintain::prune::view::View;
use crate::model::{ChunkId, Content, Item, Kind, Node, Root, Snapshot, SnapshotId, Xattrs};
use crate::observe::{Event, Observer};
use crate::repo::index::{Index, missing_chunk};
use crate::repo::reader::ChunkReader;
use crate::repo::small::{self, Small};
use crate::repo::{Repository, marks, snapshots};
use crate::storage::Name;

/// Pages between two words on how far it is.
const PAGES_A_WORD: u64 = 256;

/// What is marked, in one index.
#[derive(Debug)]
pub struct Marks {
    index: Arc<Index>,
    /// Chunks that snapshots need.
    pub live: Bits,
    /// Pages that were gone through.
    walked: Bits,
    /// Snapshots and fences that were looked at.
    seen: HashSet<SnapshotId>,
    /// How many of these are snapshots.
    pub snapshots: u64,
    /// Those that nobody with the key made.
    pub made_up: Vec<Name>,
    pages: u64,
    bytes: u64,
}

/// A page to go through: what it is, and its level.
type Visit = (PageKind, ChunkId, u8);

/// Reads pages for a mark.
pub struct Walk<'a> {
    /// The chunks behind the pages.
    pub reader: &'a ChunkReader,
    /// Snapshots that count as forgotten.
    pub without: &'a HashSet<SnapshotId>,
    /// Ends the walk when it is set.
    pub stop: &'a AtomicBool,
    /// Hears how far it is.
    pub observer: &'a dyn Observer,
}

impl Marks {
    /// Nothing is marked.
    pub fn new(index: Arc<Index>) -> Self {
        let (live, walked) = (Bits::new(&index), Bits::new(&index));
        Marks { index, live, walked, seen: HashSet::new(), snapshots: 0, made_up: Vec::new(), pages: 0, bytes: 0 }
    }

    /// The same marks in another index: a segment that both have keeps its bits; for the entries of a new one the old
    /// index is asked. All copies of a chunk have equal bits, so any of them tells.
    pub fn carry(&mut self, index: &Arc<Index>) -> Result<()> {
        let old = self.index.segments();
        if index.segments().iter().map(|s| s.id()).eq(old.iter().map(|s| s.id())) {
            self.index = index.clone();
            return Ok(());
        }
        let (mut live, mut walked) = (Bits::new(index), Bits::new(index));
        for (at, segment) in index.segments().iter().enumerate() {
            if let Some(from) = old.iter().position(|s| s.id() == segment.id()) {
                live.take(at, &self.live, from);
                walked.take(at, &self.walked, from);
                continue;
            }
            index.scan(at, &mut |location, key, pack| {
                if let Some(known) = self.index.find(pack.kind, key)? {
                    if self.live.get(known.entry()) {
                        live.set(location.entry());
                    }
                    if self.walked.get(known.entry()) {
                        walked.set(location.entry());
                    }
                }
                Ok(())
            })?;
        }
        (self.index, self.live, self.walked) = (index.clone(), live, walked);
        Ok(())
    }

    /// Marks what the snapshots of `view` need that were not looked at before. What was marked for a snapshot that is
    /// forgotten by now stays marked: too much is kept, never too little. The index of the marks must be the view's.
    pub fn update(&mut self, repo: &Repository, view: &View, walk: &Walk<'_>) -> Result<()> {
        let listed: HashSet<&SnapshotId> = view.snapshots.iter().collect();
        for id in view.snapshots.iter().filter(|id| !walk.without.contains(id)) {
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
            self.snapshots += 1;
            if let Some(parent) = snapshot.parent
                && !listed.contains(&parent)
                && !is_known(repo, parent)?
            {
                return Err(lost_parent(&snapshot, parent));
            }
            self.snapshot(&snapshot, walk).map_err(|e| e.about(format!("snapshot {}", id.short())))?;
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

    fn snapshot(&mut self, snapshot: &Snapshot, walk: &Walk<'_>) -> Result<()> {
        let mut stack: Vec<Visit> = Vec::new();
        let root = |kind: PageKind, root: &Root| (kind, root.page, root.height);
        stack.extend(snapshot.links.iter().map(|links| root(PageKind::Links, links)));
        stack.extend(snapshot.scan.iter().map(|scan| root(PageKind::Scan, scan)));
        self.node(&snapshot.root, &mut stack)?;
        while let Some(visit) = stack.pop() {
            if walk.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the prune was stopped"));
            }
            self.page(visit, &mut stack, walk)?;
        }
        Ok(())
    }

    /// Goes through a page for the first time: marks it and what it names; its children go on the stack.
    fn page(&mut self, (kind, id, level): Visit, stack: &mut Vec<Visit>, walk: &Walk<'_>) -> Result<()> {
        let mut before = false;
        let places = self.index.find_all(PackKind::Tree, &id.key())?;
        for place in &places {
            self.live.set(place.entry());
            before = self.walked.set(place.entry());
        }
        if places.is_empty() {
            return Err(missing_chunk(&id));
        }
        // Leaves of scan records and hard links name nothing.
        if before || level == 0 && matches!(kind, PageKind::Scan | PageKind::Links) {
            return Ok(());
        }
        let bytes = walk.reader.chunk(PackKind::Tree, &id)?;
        self.count(bytes.len() as u64, walk.observer);
        let at = stack.len();
        if level > 0 {
            stack.extend(page::children(&bytes, kind, level)?.iter().map(|child| (kind, child.page, level - 1)));
        } else if kind == PageKind::Directory {
            page::nodes(&bytes)?.iter().try_for_each(|node| self.node(node, stack))?;
        } else {
            self.items(&page::items(&bytes)?)?;
        }
        // What stands first is popped first: pages lie in the packs in about this order.
        stack[at..].reverse();
        Ok(())
    }

    fn node(&mut self, node: &Node, stack: &mut Vec<Visit>) -> Result<()> {
        if let Xattrs::Stored(id) = &node.meta.xattrs {
            self.chunk(PackKind::Tree, id)?;
        }
        match &node.kind {
            Kind::Directory(directory) => {
                stack.extend(directory.root.iter().map(|root| (PageKind::Directory, root.page, root.height)));
            }
            Kind::File(Content::Tree { root, .. }) => stack.push((PageKind::Recipe, root.page, root.height)),
            Kind::File(Content::Items(items)) => self.items(items)?,
            _ => {}
        }
        Ok(())
    }

    fn items(&mut self, items: &[Item]) -> Result<()> {
        for item in items {
            if let Item::Chunk { id, .. } = item {
                self.chunk(PackKind::Data, id)?;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        let places = self.index.find_all(kind, &id.key())?;
        for place in &places {
            self.live.set(place.entry());
        }
        if places.is_empty() { Err(missing_chunk(id)) } else { Ok(()) }
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

/// Whether a snapshot that was not listed is there after all, or forgotten. A listing may show what was created while it
/// was read, and not what was created before that.
fn is_known(repo: &Repository, id: SnapshotId) -> Result<bool> {
    Ok(!matches!(snapshots::judge(repo, id)?, Small::Gone | Small::MadeUp(_)) || marks::is_forgotten(repo, id)?)
}

/// A snapshot names its parent, and a snapshot that is gone has its mark: a parent that is neither there nor forgotten
/// was lost, or the listing is not complete. Then there may be more that is not seen and must not be deleted.
fn lost_parent(snapshot: &Snapshot, parent: SnapshotId) -> Error {
    Error::corrupt(format!(
        "snapshot {} was taken after {parent}, which is neither there nor forgotten: it was lost, or the listing is not \
         complete (if it is lost for good: yester forget {parent})",
        snapshot.id.short(),
    ))
}
