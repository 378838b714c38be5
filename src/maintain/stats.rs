//! How much snapshots hold, and how much of the repository they take.
//!
//! Every page of the snapshots' trees is read once. In memory are a bit for each entry of the index, a cache of frames
//! and a list of pages to visit.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::model::{ChunkId, Snapshot};
use crate::observe::Event;
use crate::repo::Repository;
use crate::repo::bits::EntryBits;
use crate::repo::index::{Index, missing_chunk};
use crate::repo::reader::ChunkReader;
use crate::repo::tree::walk::{TreePage, Visitor, walk};
use crate::storage::{Class, Name};
use crate::task::Task;

/// Decoded frames that are kept.
const FRAMES: u64 = 32 << 20;

/// Different chunks of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkTotals {
    /// How many.
    pub count: u64,
    /// Their plain bytes.
    pub plain: u64,
    /// What they take in the packs: of each frame the share that its chunks have of its plain bytes. A chunk that is
    /// in several packs is counted in one.
    pub stored: u64,
}

/// Objects of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Objects {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Their files, those of each snapshot counted anew.
    pub files: u64,
    /// Their directories, likewise.
    pub directories: u64,
    /// Their links, pipes, sockets and devices, likewise.
    pub others: u64,
    /// Bytes of their files: what restoring all of them writes.
    pub bytes: u64,
    /// Different chunks of these files.
    pub data: ChunkTotals,
    /// Different pages of their trees, and other chunks of tree packs.
    pub trees: ChunkTotals,
    /// Packs of data, of the whole repository.
    pub data_packs: Objects,
    /// Packs of trees, likewise.
    pub tree_packs: Objects,
    /// Packs that the index does not name, likewise.
    pub unused_packs: Objects,
    /// Index segments, likewise.
    pub index: Objects,
    /// All other objects, likewise.
    pub other_objects: Objects,
}

impl Stats {
    /// Bytes of files for each plain byte of different chunks; `None` where nothing is stored.
    pub fn deduplication(&self) -> Option<f64> {
        ratio(self.bytes, self.data.plain)
    }

    /// Plain bytes of chunks for each stored one.
    pub fn compression(&self) -> Option<f64> {
        ratio(self.data.plain, self.data.stored)
    }

    /// Bytes of the whole repository.
    pub fn repository(&self) -> u64 {
        let all = [self.data_packs, self.tree_packs, self.unused_packs, self.index, self.other_objects];
        all.iter().map(|objects| objects.bytes).sum()
    }
}

fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| of as f64 / to as f64)
}

/// Counts what `snapshots` hold, and the objects of the whole repository. A tree that cannot be read is an error.
pub fn stats(repo: &Arc<Repository>, snapshots: &[Snapshot], task: &Task<'_>) -> Result<Stats> {
    let index = Arc::new(Index::load(repo)?);
    match counted(repo, &index, snapshots, task) {
        // A segment of the index may be lost: then the packs that no segment names say what is in them.
        Err(e) if e.kind() != ErrorKind::Interrupted => match index.with_unnamed(repo)? {
            Some(index) => counted(repo, &Arc::new(index), snapshots, task),
            None => Err(e),
        },
        other => other,
    }
}

fn counted(repo: &Arc<Repository>, index: &Arc<Index>, snapshots: &[Snapshot], task: &Task<'_>) -> Result<Stats> {
    let mut out = Stats { snapshots: snapshots.len() as u64, ..Stats::default() };
    objects(repo, index, &mut out)?;
    let reader = ChunkReader::new(repo.clone(), index.clone(), FRAMES)?;
    let counted = EntryBits::new(index);
    let mut count = StatsCounter { index, counted, data: Share::default(), tree: Share::default(), task };
    for snapshot in snapshots {
        let statistics = &snapshot.statistics;
        out.files += statistics.files;
        out.directories += statistics.directories;
        out.others += statistics.others;
        out.bytes = out.bytes.saturating_add(statistics.bytes);
        let seen = |e: Error| e.about(Name::Snapshot(snapshot.id)).context("cannot count; yester check says what is damaged");
        walk(&reader, snapshot, &mut count).map_err(seen)?;
    }
    (out.data, out.trees) = (count.data.chunks(), count.tree.chunks());
    Ok(out)
}

/// Counts the objects of the whole repository, and nothing of snapshots. Only the index is read.
pub fn stored_objects(repo: &Repository) -> Result<Stats> {
    let mut out = Stats::default();
    objects(repo, &Index::load(repo)?, &mut out)?;
    Ok(out)
}

/// Counts the objects of every class.
fn objects(repo: &Repository, index: &Index, out: &mut Stats) -> Result<()> {
    let add = |objects: &mut Objects, bytes: u64| {
        objects.count += 1;
        objects.bytes += bytes;
    };
    let kinds: std::collections::HashMap<_, _> = index.packs().map(|pack| (pack.id, pack.kind)).collect();
    for class in Class::ALL {
        for (name, bytes) in repo.storage().list(class)? {
            match name {
                Name::Pack(id) => match kinds.get(&id) {
                    Some(PackKind::Data) => add(&mut out.data_packs, bytes),
                    Some(PackKind::Tree) => add(&mut out.tree_packs, bytes),
                    None => add(&mut out.unused_packs, bytes),
                },
                Name::Segment(_) => add(&mut out.index, bytes),
                _ => add(&mut out.other_objects, bytes),
            }
        }
    }
    Ok(())
}

/// Chunks of one kind while they are counted.
#[derive(Debug, Default)]
struct Share {
    count: u64,
    plain: u64,
    /// In 65,536ths of a byte.
    stored: u128,
}

impl Share {
    fn chunks(&self) -> ChunkTotals {
        ChunkTotals { count: self.count, plain: self.plain, stored: u64::try_from(self.stored >> 16).unwrap_or(u64::MAX) }
    }
}

/// What was counted so far.
struct StatsCounter<'a> {
    index: &'a Index,
    /// Chunks that were counted, each at its first place.
    counted: EntryBits,
    data: Share,
    tree: Share,
    task: &'a Task<'a>,
}

impl StatsCounter<'_> {
    /// Counts a chunk; false: it was counted before.
    fn count(&mut self, kind: PackKind, id: &ChunkId) -> Result<bool> {
        let location = self.index.find(kind, &id.key())?.ok_or_else(|| missing_chunk(id))?;
        if self.counted.set(location.entry()) {
            return Ok(false);
        }
        let frame = self.index.frame(&location)?.info;
        let share = match kind {
            PackKind::Data => &mut self.data,
            PackKind::Tree => &mut self.tree,
        };
        share.count += 1;
        share.plain += u64::from(location.len);
        share.stored += (u128::from(frame.stored) << 16) * u128::from(location.len) / u128::from(frame.plain.max(1));
        Ok(true)
    }
}

impl Visitor for StatsCounter<'_> {
    fn page(&mut self, page: &TreePage) -> Result<bool> {
        self.task.go_on("counting was stopped")?;
        self.count(PackKind::Tree, &page.id)
    }

    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        self.count(kind, id).map(drop)
    }

    fn read(&mut self, _: u64) {
        let (entries, bytes) = (self.tree.count, self.data.plain);
        self.task.observer.event(&Event::Progress { entries, bytes, total_entries: 0, total_bytes: 0, unit: "pages" });
    }
}
