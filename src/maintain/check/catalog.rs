//! The index and the packs: what there is, and what there should be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::format::segment::SegmentPack;
use crate::model::PackId;
use crate::repo::Repository;
use crate::repo::index::condemned;
use crate::repo::index::segment::Segment;
use crate::repo::index::{Index, list_packs};
use crate::repo::pack::{StoredPack, read_directory};
use crate::storage::Name;

use super::objects::bare;
use super::overlay::Overlay;
use super::{CheckReport, Findings, Present, distinct, go_on};

/// Packs whose directories make one segment in memory.
const TOGETHER: usize = 16;
/// What to do about a segment.
pub(super) const REPAIR: &str = "yester repair index makes the index anew from the packs";

/// The index as far as it can be read, and the packs.
pub(super) struct Catalog {
    repo: Arc<Repository>,
    overlay: Arc<Overlay>,
    index: Arc<Index>,
    packs: HashMap<PackId, SegmentPack>,
    present: Present,
    /// Entries of each pack in each segment.
    entries: HashMap<(u32, PackId), u64>,
    unused: (u64, u64),
    /// Packs that a prune has marked for deletion.
    marked: HashSet<PackId>,
    /// Packs that segments name and that are not there: marked ones, and others.
    gone: u64,
    missing: Vec<PackId>,
}

impl Catalog {
    /// Reads all segments and the list of packs, and compares them.
    pub(super) fn build(repo: &Arc<Repository>, findings: &mut Findings<'_>) -> Result<Self> {
        let overlay = Arc::new(Overlay::new(repo.storage().clone()));
        let seen = Arc::new(repo.on(overlay.clone()));
        let index = load(&seen, &overlay, findings)?;
        let (entries, present) = (count(&index)?, list_packs(repo)?);
        // A list that is void is a finding of its own.
        let marked = condemned::read_all(repo)?.packs();
        let (index, packs, unused, gone, missing) = (Arc::new(index), HashMap::new(), (0, 0), 0, Vec::new());
        let mut catalog = Catalog { repo: seen, overlay, entries, index, packs, present, unused, marked, gone, missing };
        if catalog.overlay.hides() {
            let unnamed = catalog.unnamed();
            catalog.take_in(&unnamed, findings)?;
        }
        catalog.compare(findings);
        Ok(catalog)
    }

    /// Whether there are other segments by now.
    pub(super) fn has_moved(&self) -> Result<bool> {
        self.index.has_moved(&self.repo)
    }

    /// Takes the segments that are there now.
    pub(super) fn load_again(&mut self) -> Result<()> {
        self.index = Arc::new(self.index.load_again(&self.repo)?);
        self.entries = count(&self.index)?;
        Ok(())
    }

    /// Whether there are segments that are damaged, and left out.
    pub(crate) fn hides(&self) -> bool {
        self.overlay.hides()
    }

    /// Whether there are packs that no segment names.
    pub(crate) fn has_unnamed(&self) -> bool {
        !self.unnamed().is_empty()
    }

    /// Looks into the packs that no segment names, for chunks that are missing; answers how many there are.
    pub(super) fn take_in_unnamed(&mut self, findings: &mut Findings<'_>) -> Result<usize> {
        let unnamed = self.unnamed();
        self.take_in(&unnamed, findings)?;
        self.compare(findings);
        Ok(unnamed.len())
    }

    fn unnamed(&self) -> Vec<PackId> {
        let named = distinct(self.index.packs());
        self.present.keys().filter(|id| !named.contains_key(*id)).copied().collect()
    }

    /// Makes segments of the directories of these packs, in memory.
    fn take_in(&mut self, packs: &[PackId], findings: &mut Findings<'_>) -> Result<()> {
        for some in packs.chunks(TOGETHER) {
            let mut stored = Vec::new();
            for id in some {
                go_on(findings.task())?;
                let size = self.present.get(id).copied().unwrap_or_default();
                match read_directory(&self.repo, *id, size) {
                    Ok((key, entries)) => stored.push(StoredPack::of(&key, *id, size, entries)),
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => findings.damage(Name::Pack(*id), bare(&Name::Pack(*id), &e)),
                }
            }
            if !stored.is_empty() {
                Segment::of_packs(&stored).store(&self.repo, Vec::new())?;
            }
        }
        self.index = Arc::new(Index::load(&self.repo)?);
        self.entries = count(&self.index)?;
        Ok(())
    }

    /// Every pack that the index names should be there, with its size; or a prune has deleted it, and could not write the
    /// index anew yet. If anything is needed of one that is not, that is found where it is needed.
    fn compare(&mut self, findings: &mut Findings<'_>) {
        self.packs = distinct(self.index.packs());
        (self.gone, self.missing) = (0, Vec::new());
        for pack in self.packs.values() {
            let name = Name::Pack(pack.id);
            match self.present.get(&pack.id) {
                None if self.marked.contains(&pack.id) => self.gone += 1,
                None => self.missing.push(pack.id),
                Some(size) if *size != pack.size => {
                    findings.damage(name, format!("it has {size} bytes, and the index says {}", pack.size));
                }
                Some(_) => {}
            }
        }
        let unused = self.present.iter().filter(|(id, _)| !self.packs.contains_key(*id));
        self.unused = unused.fold((0, 0), |(count, bytes), (_, size)| (count + 1, bytes + size));
    }

    /// What snapshots need is lost: so packs that are not there are. While nothing is, a missing pack is what a merge of
    /// segments beside a prune may leave in the index, and the next prune takes it out.
    pub(crate) fn lost(&mut self, findings: &mut Findings<'_>) {
        for pack in std::mem::take(&mut self.missing) {
            findings.damage(Name::Pack(pack), "it is missing; an ingest of what it held stores that again");
        }
    }

    /// The repository with what of its index can be read.
    pub(crate) fn repo(&self) -> &Arc<Repository> {
        &self.repo
    }

    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Packs that are there, with their sizes.
    pub(crate) fn present(&self) -> &Present {
        &self.present
    }

    /// Packs that the index names, each once.
    pub(crate) fn packs(&self) -> &HashMap<PackId, SegmentPack> {
        &self.packs
    }

    /// How many entries each segment that names the pack has of it.
    pub(super) fn entries(&self, pack: PackId) -> impl Iterator<Item = u64> {
        (0..self.index.entry_counts().len() as u32).filter_map(move |segment| self.entries.get(&(segment, pack)).copied())
    }

    pub(crate) fn report(&self, report: &mut CheckReport) {
        let counts = self.index.entry_counts();
        (report.segments, report.chunks) = (counts.len() as u64, counts.iter().sum());
        report.packs = self.packs.len() as u64;
        report.pack_bytes = self.packs.values().map(|pack| pack.size).sum();
        (report.unused_packs, report.unused_bytes) = self.unused;
        (report.marked_packs, report.gone_packs) = (self.marked.len() as u64, self.gone + self.missing.len() as u64);
    }
}

/// Loads the index and reads all of it. Segments that are damaged are hidden; then those that they replaced may be
/// visible again.
fn load(repo: &Repository, overlay: &Overlay, findings: &mut Findings<'_>) -> Result<Index> {
    loop {
        let (index, mut damaged) = Index::load_with_damage(repo, None)?;
        for segment in index.segments() {
            go_on(findings.task())?;
            if let Err(e) = segment.verify() {
                damaged.push((segment.id(), e));
            }
        }
        if damaged.is_empty() {
            return Ok(index);
        }
        for (id, e) in damaged {
            if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) {
                return Err(e);
            }
            overlay.hide(id);
            let name = Name::Segment(id);
            findings.damage(name, format!("{}; {REPAIR}", bare(&name, &e)));
        }
    }
}

/// Counts the entries of each pack in each segment.
fn count(index: &Index) -> Result<HashMap<(u32, PackId), u64>> {
    let mut entries: HashMap<(u32, PackId), u64> = HashMap::new();
    for segment in 0..index.entry_counts().len() {
        index.scan(segment, &mut |location, _, pack| {
            *entries.entry((location.entry().0, pack.id)).or_default() += 1;
            Ok(())
        })?;
    }
    Ok(entries)
}
