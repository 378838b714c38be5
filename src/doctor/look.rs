//! What of all that snapshots need cannot be counted on any more, and where it belongs.
//!
//! Every page that can be read is gone into once, the newest snapshots first: of these the files are most likely still
//! somewhere. What is below a page that is lost is not known; it shows when the page is there again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::format::page::PageKind;
use crate::model::{ChunkId, ChunkKey, Content, Directory, Item, Kind, Node, Root, Snapshot, SnapshotId, Xattrs};
use crate::observe::Event;
use crate::repo::index::Index;
use crate::repo::index::known::KnownChunks;
use crate::repo::reader::{ChunkReader, is_damage};
use crate::repo::tree::TreeReader;
use crate::repo::{Repository, damaged, snapshots};
use crate::task::Task;

/// Decoded frames and pages in memory.
const FRAMES: u64 = 24 << 20;
const PAGES: u64 = 16 << 20;

/// What a lost chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostKind {
    /// A part of a file.
    Data,
    /// A page of a directory.
    Directory,
    /// A page with the list of a file's chunks.
    Recipe,
    /// Extended attributes.
    Attributes,
    /// A page of scan records or of hard links.
    Side,
}

/// Where a lost chunk belongs: of several places, the one in the newest snapshot.
#[derive(Debug, Clone)]
pub(crate) struct LostPlace {
    /// The number of the snapshot in [`Loss::snapshots`].
    pub(crate) snapshot: usize,
    /// The path of the file or directory there.
    pub(crate) path: Vec<u8>,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// The length of the file.
    pub(crate) size: u64,
    /// False for a directory that only leads to what was given.
    pub(crate) given: bool,
}

/// A chunk that some snapshot needs and that cannot be counted on.
#[derive(Debug, Clone)]
pub(crate) struct LostChunk {
    pub(crate) id: ChunkId,
    pub(crate) kind: LostKind,
    /// Of a part of a file: its length.
    pub(crate) len: u32,
    pub(crate) place: LostPlace,
}

impl LostChunk {
    /// Which packs it is in.
    pub(crate) fn pack_kind(&self) -> PackKind {
        if self.kind == LostKind::Data { PackKind::Data } else { PackKind::Tree }
    }
}

/// What is lost.
#[derive(Debug, Default)]
pub struct Loss {
    pub(crate) chunks: HashMap<ChunkKey, LostChunk>,
    /// All snapshots that can be read, newest first.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Those that lose something.
    pub(crate) hit: HashSet<SnapshotId>,
    /// Snapshots whose own object is damaged.
    pub unreadable: Vec<(SnapshotId, Error)>,
}

impl Loss {
    /// Whether everything is there.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many chunks are lost, as far as is known.
    pub fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Whether pages are lost that lead to others.
    pub(crate) fn has_pages(&self) -> bool {
        self.chunks.values().any(|chunk| matches!(chunk.kind, LostKind::Directory | LostKind::Recipe | LostKind::Side))
    }

    /// How many snapshots lose something.
    pub fn hit_snapshots(&self) -> u64 {
        self.hit.len() as u64
    }

    /// The lost chunks in the order of their places.
    pub(crate) fn in_order(&self) -> Vec<&LostChunk> {
        let mut out: Vec<&LostChunk> = self.chunks.values().collect();
        out.sort_by(|a, b| {
            (a.place.snapshot, &a.place.path, a.place.offset).cmp(&(b.place.snapshot, &b.place.path, b.place.offset))
        });
        out
    }
}

/// Looks at all that snapshots need. `record`: damage that is met is written down in the repository, so that writers do
/// not count on it.
pub(super) fn look(repo: &Arc<Repository>, task: &Task<'_>, record: bool) -> Result<Loss> {
    loop {
        // What the storage has, and not what was kept of it here.
        let found = snapshots::find_all(&repo.on(repo.storage().clone()))?;
        let index = Index::load_for_writing(repo)?;
        let trees = trees(repo)?;
        let mut looker = Looker {
            known: KnownChunks::default(),
            index: &index,
            trees: &trees,
            seen: HashMap::new(),
            stack: Vec::new(),
            number: 0,
            loss: Loss { unreadable: found.damaged, ..Loss::default() },
            task,
        };
        let total = found.snapshots.len() as u64;
        for (number, snapshot) in found.snapshots.iter().rev().enumerate() {
            let entries = number as u64;
            task.observer.event(&Event::Progress { entries, bytes: 0, total_entries: total, total_bytes: 0, unit: "snapshots" });
            looker.number = number;
            looker.snapshot(snapshot)?;
        }
        let mut loss = looker.loss;
        loss.snapshots = found.snapshots.into_iter().rev().collect();
        let met = trees.chunks().found();
        if !record || index.damaged().covers(&met) || damaged::record(repo, &met, "yester doctor", task.now())? == 0 {
            return Ok(loss);
        }
        // From now on the index knows, and what counted on these frames is lost as well.
    }
}

/// Reads trees and chunks wherever they are.
pub(super) fn trees(repo: &Arc<Repository>) -> Result<TreeReader> {
    let index = Arc::new(Index::load_to_read(repo, None)?);
    let chunks = Arc::new(ChunkReader::new(repo.clone(), index, FRAMES)?.with_unnamed_packs());
    TreeReader::new(chunks, PAGES)
}

/// Whether an error says that something is lost, rather than that it cannot be had now.
pub(super) fn is_loss(e: &Error) -> bool {
    e.kind() == ErrorKind::NotFound || is_damage(e)
}

/// A page to visit.
#[derive(Debug, Clone, Copy)]
struct NextPage {
    kind: PageKind,
    id: ChunkId,
    level: u8,
    /// Of a recipe: where what it says begins in the file.
    offset: u64,
}

impl NextPage {
    fn root(kind: PageKind, root: &Root) -> LookStep {
        LookStep::Page(NextPage { kind, id: root.page, level: root.height, offset: 0 })
    }
}

#[derive(Debug)]
enum LookStep {
    Page(NextPage),
    Node(Box<Node>),
    Items(Arc<Vec<Item>>),
}

/// A page under way, or the snapshot itself.
#[derive(Debug)]
struct LookLevel {
    page: Option<ChunkKey>,
    /// What is left of it, the last first.
    todo: Vec<LookStep>,
    place: LostPlace,
    /// Something in it or below it is lost.
    bad: bool,
}

struct Looker<'a> {
    known: KnownChunks,
    index: &'a Index,
    trees: &'a TreeReader,
    /// Pages that were visited, and whether something of each is lost.
    seen: HashMap<ChunkKey, bool>,
    stack: Vec<LookLevel>,
    number: usize,
    loss: Loss,
    task: &'a Task<'a>,
}

impl Looker<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let place = LostPlace { snapshot: self.number, path: Vec::new(), offset: 0, size: 0, given: false };
        let mut todo: Vec<LookStep> = snapshot.scan.iter().map(|root| NextPage::root(PageKind::Scan, root)).collect();
        todo.extend(snapshot.links.iter().map(|root| NextPage::root(PageKind::Links, root)));
        todo.push(LookStep::Node(Box::new(snapshot.root.clone())));
        self.stack = vec![LookLevel { page: None, todo, place, bad: false }];
        while let Some(top) = self.stack.last_mut() {
            let (todo, place) = (top.todo.pop(), top.place.clone());
            match todo {
                Some(LookStep::Page(page)) => self.page(page, place)?,
                Some(LookStep::Node(node)) => self.node(&node, place)?,
                Some(LookStep::Items(items)) => self.items(&items, place)?,
                None => self.leave(snapshot.id),
            }
        }
        Ok(())
    }

    /// Ends the page on top.
    fn leave(&mut self, snapshot: SnapshotId) {
        let Some(done) = self.stack.pop() else { return };
        if let Some(key) = done.page {
            self.seen.insert(key, done.bad);
        }
        match self.stack.last_mut() {
            Some(above) => above.bad |= done.bad,
            None if done.bad => drop(self.loss.hit.insert(snapshot)),
            None => {}
        }
    }

    fn node(&mut self, node: &Node, mut place: LostPlace) -> Result<()> {
        if !node.name.is_empty() {
            place.path.push(b'/');
            place.path.extend_from_slice(&node.name);
        }
        (place.offset, place.size, place.given) = (0, node.size(), node.given);
        if let Xattrs::Stored(id) = &node.meta.xattrs {
            self.chunk(LostKind::Attributes, id, 0, &place)?;
        }
        match &node.kind {
            Kind::File(Content::Items(items)) => self.items(items, place),
            Kind::File(Content::Tree { root, .. }) => self.root(PageKind::Recipe, root, place),
            Kind::Directory(Directory { root: Some(root), .. }) => self.root(PageKind::Directory, root, place),
            _ => Ok(()),
        }
    }

    fn root(&mut self, kind: PageKind, root: &Root, place: LostPlace) -> Result<()> {
        self.page(NextPage { kind, id: root.page, level: root.height, offset: 0 }, place)
    }

    fn items(&mut self, items: &[Item], mut place: LostPlace) -> Result<()> {
        for item in items {
            if let Item::Chunk { id, len } = item {
                self.chunk(LostKind::Data, id, *len, &place)?;
            }
            place.offset = place.offset.saturating_add(item.len());
        }
        Ok(())
    }

    /// Looks a chunk up that is no page.
    fn chunk(&mut self, kind: LostKind, id: &ChunkId, len: u32, place: &LostPlace) -> Result<()> {
        let packs = if kind == LostKind::Data { PackKind::Data } else { PackKind::Tree };
        let known = self.known.find(self.index, packs, &id.key())?;
        let readable = known.is_some() && (kind == LostKind::Data || self.reads(id)?);
        if !readable {
            self.lose(kind, id, len, place);
        }
        Ok(())
    }

    /// Whether attributes can be read: there are few, and nobody else looks.
    fn reads(&self, id: &ChunkId) -> Result<bool> {
        match self.trees.chunks().chunk(PackKind::Tree, id) {
            Ok(_) => Ok(true),
            Err(e) if is_loss(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn lose(&mut self, kind: LostKind, id: &ChunkId, len: u32, place: &LostPlace) {
        self.loss.chunks.entry(id.key()).or_insert_with(|| LostChunk { id: *id, kind, len, place: place.clone() });
        self.stack.iter_mut().last().into_iter().for_each(|top| top.bad = true);
    }

    /// Begins a page, unless it was visited before.
    fn page(&mut self, page: NextPage, mut place: LostPlace) -> Result<()> {
        self.task.go_on("the look was stopped")?;
        let key = page.id.key();
        if let Some(bad) = self.seen.get(&key).copied() {
            self.stack.iter_mut().last().into_iter().for_each(|top| top.bad |= bad);
            return Ok(());
        }
        // A damaged tree may name its own pages.
        self.seen.insert(key, false);
        let kind = match page.kind {
            PageKind::Directory => LostKind::Directory,
            PageKind::Recipe => LostKind::Recipe,
            _ => LostKind::Side,
        };
        let known = self.known.find(self.index, PackKind::Tree, &key)?.is_some();
        place.offset = page.offset;
        let read = self.read(page);
        let bad = match &read {
            Err(e) if !is_loss(e) => return read.map(drop),
            Err(_) => true,
            Ok(_) => false,
        };
        if !known || bad {
            self.loss.chunks.entry(key).or_insert_with(|| LostChunk { id: page.id, kind, len: 0, place: place.clone() });
        }
        self.stack.push(LookLevel { page: Some(key), todo: read.unwrap_or_default(), place, bad });
        Ok(())
    }

    /// What a page leads to, the last first.
    fn read(&mut self, page: NextPage) -> Result<Vec<LookStep>> {
        let NextPage { kind, id, level, mut offset } = page;
        if level > 0 {
            let mut below = Vec::new();
            for child in self.trees.children(&id, kind, level)?.iter() {
                below.push(LookStep::Page(NextPage { kind, id: child.page, level: level - 1, offset }));
                offset = offset.saturating_add(child.weight);
            }
            below.reverse();
            return Ok(below);
        }
        match kind {
            PageKind::Directory => {
                let leaf = self.trees.nodes(&id)?;
                Ok(leaf.nodes.iter().rev().map(|node| LookStep::Node(Box::new(node.clone()))).collect())
            }
            PageKind::Recipe => Ok(vec![LookStep::Items(self.trees.item_page(&id)?)]),
            PageKind::Scan => self.trees.scan_leaf(&id).map(|_| Vec::new()),
            PageKind::Links => self.trees.link_leaf(&id).map(|_| Vec::new()),
        }
    }
}
