//! What takes the room in a snapshot: for each entry, what its chunks take in the packs.
//!
//! Each chunk is counted once, at the first path that has it, and each page of the trees is read once. In memory are a
//! bit for each entry of the index, a cache of frames, and the directories that are still to be gone through.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::format::page::{self, PageKind};
use crate::model::{ChunkId, Content, Item, Kind, Node, Root, Snapshot, Xattrs};
use crate::observe::Event;
use crate::repo::Repository;
use crate::repo::bits::EntryBits;
use crate::repo::index::{Index, missing_chunk};
use crate::repo::reader::ChunkReader;
use crate::repo::tree::TreeReader;
use crate::repo::tree::walk::{TreePage, Visitor, walk};
use crate::storage::Name;
use crate::task::Task;

/// Decoded frames that are kept.
const FRAMES: u64 = 32 << 20;
/// Decoded pages that are kept on the way to the path.
const PAGES: u64 = 1 << 20;

/// Bytes that something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedBytes {
    /// Bytes of files: each different chunk once.
    pub bytes: u64,
    /// In 65,536ths of a byte, what these chunks and the pages of the trees take in the packs: of each frame the share
    /// that they have of its plain bytes.
    shares: u128,
}

impl UsedBytes {
    /// What it takes in the packs, in bytes.
    pub fn stored(&self) -> u64 {
        u64::try_from(self.shares >> 16).unwrap_or(u64::MAX)
    }

    fn add(&mut self, other: UsedBytes) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.shares = self.shares.saturating_add(other.shares);
    }
}

/// What is counted.
#[derive(Debug)]
pub struct UsageQuery<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// The names from its root to the entry that is looked at.
    pub names: &'a [&'a [u8]],
    /// What these hold, too, does not count.
    pub without: &'a [&'a Snapshot],
    /// Tells every file below the entry, and not every entry in it.
    pub files: bool,
}

/// Takes an entry: its path from the snapshot's root, what it is, and what it takes with all that is below it.
pub(crate) type TakeUsage<'a> = dyn FnMut(&[u8], &Node, UsedBytes) -> Result<()> + 'a;

/// Counts what an entry of a snapshot takes, and tells `out` of what is in it. Answers the sum, with the pages of the
/// snapshot's own lists if all of it was asked for. Errors: there is no such entry; a tree cannot be read.
pub fn usage(repo: &Arc<Repository>, query: &UsageQuery<'_>, task: &Task<'_>, out: &mut TakeUsage<'_>) -> Result<UsedBytes> {
    let index = Arc::new(Index::load(repo)?);
    let chunks = Arc::new(ChunkReader::new(repo.clone(), index.clone(), FRAMES)?);
    let counted = EntryBits::new(&index);
    let mut meter = UsageMeter { index: &index, reader: &chunks, counted, task, sum: UsedBytes::default(), pages: 0 };
    for snapshot in query.without {
        let seen = |e: Error| e.about(Name::Snapshot(snapshot.id)).context("cannot count; yester check says what is damaged");
        walk(&chunks, snapshot, &mut meter).map_err(seen)?;
    }
    meter.sum = UsedBytes::default();
    let snapshot = query.snapshot;
    let (node, _) = TreeReader::new(chunks.clone(), PAGES)?.walk_to(&snapshot.root, query.names)?;
    let path = query.names.iter().fold(Vec::new(), |path, name| [&path, &b"/"[..], name].concat());
    match node.directory() {
        Some(directory) => {
            let files = query.files;
            let mut todo: Vec<(Vec<u8>, Root)> = directory.root.iter().map(|root| (path.clone(), *root)).collect();
            while let Some((path, root)) = todo.pop() {
                meter.directory(&root, &mut |meter, node| {
                    let path = [path.as_slice(), b"/", &node.name].concat();
                    let before = meter.sum;
                    match node.directory().and_then(|directory| directory.root) {
                        Some(root) if files => todo.push((path, root)),
                        Some(root) => {
                            meter.below(&root)?;
                            out(&path, node, meter.since(before))?;
                        }
                        None => {
                            meter.file(node)?;
                            out(&path, node, meter.since(before))?;
                        }
                    }
                    Ok(())
                })?;
            }
        }
        None => {
            meter.file(&node)?;
            out(&path, &node, meter.sum)?;
        }
    }
    if query.names.is_empty() {
        let root = Node { kind: Kind::Directory(Default::default()), ..snapshot.root.clone() };
        walk(&chunks, &Snapshot { root, ..snapshot.clone() }, &mut meter)?;
    }
    Ok(meter.sum)
}

/// Counts chunks, each once.
struct UsageMeter<'a> {
    index: &'a Index,
    reader: &'a ChunkReader,
    /// Chunks that were counted, each at its first place.
    counted: EntryBits,
    task: &'a Task<'a>,
    sum: UsedBytes,
    pages: u64,
}

/// Takes the entries of a directory.
type TakeNode<'s, 'a> = dyn FnMut(&mut UsageMeter<'a>, &Node) -> Result<()> + 's;

impl<'a> UsageMeter<'a> {
    fn since(&self, before: UsedBytes) -> UsedBytes {
        UsedBytes { bytes: self.sum.bytes - before.bytes, shares: self.sum.shares - before.shares }
    }

    /// Counts a chunk; false: it was counted before.
    fn count(&mut self, kind: PackKind, id: &ChunkId) -> Result<bool> {
        let location = self.index.find(kind, &id.key())?.ok_or_else(|| missing_chunk(id))?;
        if self.counted.set(location.entry()) {
            return Ok(false);
        }
        let frame = self.index.frame(&location)?.info;
        let bytes = if kind == PackKind::Data { u64::from(location.len) } else { 0 };
        let shares = (u128::from(frame.stored) << 16) * u128::from(location.len) / u128::from(frame.plain.max(1));
        self.sum.add(UsedBytes { bytes, shares });
        Ok(true)
    }

    /// A page that was not gone through before.
    fn page_bytes(&mut self, id: &ChunkId) -> Result<Option<crate::repo::reader::Chunk>> {
        self.task.go_on("counting was stopped")?;
        if !self.count(PackKind::Tree, id)? {
            return Ok(None);
        }
        let bytes = self.reader.chunk(PackKind::Tree, id)?;
        self.tell();
        Ok(Some(bytes))
    }

    fn tell(&mut self) {
        self.pages += 1;
        let (entries, bytes) = (self.pages, self.sum.bytes);
        self.task.observer.event(&Event::Progress { entries, bytes, total_entries: 0, total_bytes: 0, unit: "pages" });
    }

    /// Goes through the entries of one directory, by name.
    fn directory(&mut self, root: &Root, take: &mut TakeNode<'_, 'a>) -> Result<()> {
        let mut todo = vec![(root.page, root.height)];
        while let Some((id, level)) = todo.pop() {
            let Some(bytes) = self.page_bytes(&id)? else { continue };
            let damaged = |e: Error| e.about(format_args!("tree page {}", id.short()));
            if level > 0 {
                let children = page::children(&bytes, PageKind::Directory, level).map_err(damaged)?;
                todo.extend(children.iter().rev().map(|child| (child.page, level - 1)));
                continue;
            }
            for node in page::nodes(&bytes).map_err(damaged)? {
                take(self, &node)?;
            }
        }
        Ok(())
    }

    /// Counts all that is below a directory.
    fn below(&mut self, root: &Root) -> Result<()> {
        let mut todo = vec![*root];
        while let Some(root) = todo.pop() {
            self.directory(&root, &mut |meter, node| {
                meter.file(node)?;
                todo.extend(node.directory().and_then(|directory| directory.root));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Counts what a node has of its own.
    fn file(&mut self, node: &Node) -> Result<()> {
        if let Xattrs::Stored(id) = &node.meta.xattrs {
            self.count(PackKind::Tree, id)?;
        }
        match &node.kind {
            Kind::File(Content::Inline(bytes)) => self.sum.add(UsedBytes { bytes: bytes.len() as u64, shares: 0 }),
            Kind::File(Content::Items(items)) => self.items(items)?,
            Kind::File(Content::Tree { root, .. }) => self.recipe(root)?,
            _ => {}
        }
        Ok(())
    }

    fn items(&mut self, items: &[Item]) -> Result<()> {
        items.iter().try_for_each(|item| match item {
            Item::Chunk { id, .. } => self.count(PackKind::Data, id).map(drop),
            Item::Hole { .. } => Ok(()),
        })
    }

    fn recipe(&mut self, root: &Root) -> Result<()> {
        let mut todo = vec![(root.page, root.height)];
        while let Some((id, level)) = todo.pop() {
            let Some(bytes) = self.page_bytes(&id)? else { continue };
            let damaged = |e: Error| e.about(format_args!("tree page {}", id.short()));
            match level {
                0 => self.items(&page::items(&bytes).map_err(damaged)?)?,
                _ => {
                    let children = page::children(&bytes, PageKind::Recipe, level).map_err(damaged)?;
                    todo.extend(children.iter().rev().map(|child| (child.page, level - 1)));
                }
            }
        }
        Ok(())
    }
}

impl Visitor for UsageMeter<'_> {
    fn page(&mut self, page: &TreePage) -> Result<bool> {
        self.task.go_on("counting was stopped")?;
        self.count(PackKind::Tree, &page.id)
    }

    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        self.count(kind, id).map(drop)
    }

    fn read(&mut self, _: u64) {
        self.tell();
    }
}
