//! What a restore would read: which packs, with how many requests, how many bytes. Only trees and the index are read for it.
//!
//! In memory are a bit for each entry of the index, and the place of each frame that would be read.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::model::{ChunkId, PackId, Snapshot};
use crate::observe::Event;
use crate::repo::Repository;
use crate::repo::bits::EntryBits;
use crate::repo::index::{Index, missing_chunk};
use crate::repo::pack::run::RunExtent;
use crate::repo::reader::ChunkReader;
use crate::repo::tree::TreeReader;
use crate::repo::tree::walk::{TreePage, Visitor, walk};
use crate::storage::Name;
use crate::task::Task;

/// Decoded frames that are kept.
const FRAMES: u64 = 32 << 20;
/// Decoded pages that are kept on the way to the path.
const PAGES: u64 = 1 << 20;
/// Bytes that one request of a restore asks for at most: more only where a restore is large.
const ONE_REQUEST: u64 = 1 << 20;

/// What is to be restored: a snapshot, and the names from its root to what is wanted of it.
pub type Wanted<'a> = (&'a Snapshot, Vec<Vec<u8>>);

/// A pack that would be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPack {
    /// The pack.
    pub id: PackId,
    /// Whether it holds trees; else content of files.
    pub is_tree: bool,
    /// All of its bytes.
    pub size: u64,
    /// Bytes that would be read of it.
    pub bytes: u64,
    /// Requests, of which one is for its first bytes.
    pub requests: u64,
}

/// What would be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlannedReads {
    /// The packs, those of one segment of the index together.
    pub packs: Vec<PlannedPack>,
    /// Bytes of the different chunks of files, as they are restored.
    pub content: u64,
}

impl PlannedReads {
    /// Requests in all.
    pub fn requests(&self) -> u64 {
        self.packs.iter().map(|pack| pack.requests).sum()
    }

    /// Bytes that would be read in all.
    pub fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.bytes).sum()
    }
}

/// Says what restoring all of `wanted` to an empty place would read. Errors: there is no such entry; a tree cannot be read.
pub fn plan_reads(repo: &Arc<Repository>, wanted: &[Wanted<'_>], task: &Task<'_>) -> Result<PlannedReads> {
    let index = Arc::new(Index::load(repo)?);
    let chunks = Arc::new(ChunkReader::new(repo.clone(), index.clone(), FRAMES)?);
    let trees = TreeReader::new(chunks.clone(), PAGES)?;
    let (counted, frames) = (EntryBits::new(&index), BTreeSet::new());
    let mut planner = ReadPlanner { index: &index, counted, frames, content: 0, pages: 0, task };
    for (snapshot, names) in wanted {
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let seen = |e: Error| e.about(Name::Snapshot(snapshot.id)).context("cannot plan; yester check says what is damaged");
        let (root, _) = trees.walk_to(&snapshot.root, &names)?;
        // What was noted for the next ingest is not restored.
        walk(&chunks, &Snapshot { root, scan: None, ..(*snapshot).clone() }, &mut planner).map_err(seen)?;
    }
    planner.plan()
}

struct ReadPlanner<'a> {
    index: &'a Index,
    /// Chunks that were counted.
    counted: EntryBits,
    /// Frames, as the index orders them: those of one pack together, by their places.
    frames: BTreeSet<(u32, u32)>,
    content: u64,
    pages: u64,
    task: &'a Task<'a>,
}

impl ReadPlanner<'_> {
    /// Takes in a chunk; false: it was there.
    fn add(&mut self, kind: PackKind, id: &ChunkId) -> Result<bool> {
        let location = self.index.find(kind, &id.key())?.ok_or_else(|| missing_chunk(id))?;
        if self.counted.set(location.entry()) {
            return Ok(false);
        }
        if kind == PackKind::Data {
            self.content = self.content.saturating_add(u64::from(location.len));
        }
        let mut todo = vec![location.frame_order()];
        while let Some(order) = todo.pop() {
            if !self.frames.insert(order) {
                continue;
            }
            // A difference is read together with what it differs from.
            for base in self.index.frame_at(order)?.info.bases {
                todo.extend(self.index.find(kind, &base)?.map(|found| found.frame_order()));
            }
        }
        Ok(true)
    }

    fn plan(self) -> Result<PlannedReads> {
        let mut plan = PlannedReads { packs: Vec::new(), content: self.content };
        let mut extent: Option<RunExtent> = None;
        for order in self.frames {
            let frame = self.index.frame_at(order)?;
            let is_next = extent.as_mut().is_some_and(|extent| extent.extend(&frame, ONE_REQUEST));
            if !is_next {
                extent = Some(RunExtent::of(&frame));
            }
            let known = plan.packs.last_mut().filter(|pack| pack.id == frame.pack.id);
            let (new, stored) = (u64::from(!is_next), u64::from(frame.info.stored));
            match known {
                Some(pack) => (pack.requests, pack.bytes) = (pack.requests + new, pack.bytes + stored),
                None => plan.packs.push(PlannedPack {
                    id: frame.pack.id,
                    is_tree: frame.pack.kind == PackKind::Tree,
                    size: frame.pack.size,
                    bytes: stored,
                    requests: 1 + new,
                }),
            }
        }
        Ok(plan)
    }
}

impl Visitor for ReadPlanner<'_> {
    fn page(&mut self, page: &TreePage) -> Result<bool> {
        self.task.go_on("planning was stopped")?;
        self.add(PackKind::Tree, &page.id)
    }

    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        self.add(kind, id).map(drop)
    }

    fn read(&mut self, _: u64) {
        self.pages += 1;
        let (entries, bytes) = (self.pages, self.content);
        self.task.observer.event(&Event::Progress { entries, bytes, total_entries: 0, total_bytes: 0, unit: "pages" });
    }
}
