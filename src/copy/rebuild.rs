//! A snapshot's trees with the names of another repository.

use std::collections::HashMap;

use crate::chunk::keys::Keys;
use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::format::page::{self, Child, PageKind};
use crate::ingest::chunks::FrameBuilder;
use crate::ingest::recipe::Recipe;
use crate::ingest::sink;
use crate::model::{ChunkId, Content, Directory, Item, Kind, Node, Root, Snapshot, Xattrs};
use crate::observe::Event;
use crate::repo::index::Index;
use crate::repo::index::known::KnownChunks;
use crate::repo::tree::writer::{PageSink, TreeWriter};
use crate::repo::tree::{Entry, TreeReader};
use crate::task::Task;

/// What is remembered at most of each kind: a name takes about a hundred bytes.
const MOST: usize = 400_000;

/// Names of the source, and what they are in the target.
#[derive(Debug, Default)]
pub(crate) struct CopiedIds {
    /// Chunks of content.
    data: HashMap<ChunkId, ChunkId>,
    /// Whole directories, by the page of their root.
    directories: HashMap<ChunkId, Root>,
}

impl CopiedIds {
    /// Forgets what cannot be counted on any more. Whether everything below a directory is there is not looked at, so
    /// directories are believed only within one session.
    pub(crate) fn forget_what_is_not_in(&mut self, index: &Index) -> Result<()> {
        self.directories.clear();
        let mut known = KnownChunks::default();
        let mut kept = HashMap::new();
        for (here, there) in self.data.drain() {
            if known.find(index, PackKind::Data, &there.key())?.is_some() {
                kept.insert(here, there);
            }
        }
        self.data = kept;
        Ok(())
    }
}

/// A directory whose entries are being copied.
struct OpenDirectory {
    node: Node,
    source: Directory,
    /// The entry that was copied last.
    last: Option<Entry>,
    writer: TreeWriter,
}

/// Rebuilds one snapshot.
pub(crate) struct Rebuilder<'a> {
    keys: &'a Keys,
    trees: &'a TreeReader,
    chunks: FrameBuilder<'a>,
    memory: &'a mut CopiedIds,
    task: &'a Task<'a>,
    total: (u64, u64),
    entries: u64,
    bytes: u64,
}

impl<'a> Rebuilder<'a> {
    /// Reads by `trees`, and gives to `chunks` what the target lacks.
    pub(crate) fn new(
        keys: &'a Keys,
        trees: &'a TreeReader,
        chunks: FrameBuilder<'a>,
        memory: &'a mut CopiedIds,
        task: &'a Task<'a>,
    ) -> Self {
        Rebuilder { keys, trees, chunks, memory, task, total: (0, 0), entries: 0, bytes: 0 }
    }

    /// The snapshot with its trees in the target, and the plain bytes that were new there.
    pub(crate) fn run(mut self, snapshot: &Snapshot) -> Result<(Snapshot, u64)> {
        self.total = (snapshot.nodes(), snapshot.statistics.bytes);
        let root = self.tree(&snapshot.root)?;
        let scan = self.same_pages(snapshot.scan.as_ref(), PageKind::Scan)?;
        let links = self.same_pages(snapshot.links.as_ref(), PageKind::Links)?;
        let bytes_new = self.chunks.finish()?;
        Ok((Snapshot { root, scan, links, ..snapshot.clone() }, bytes_new))
    }

    /// Copies everything below `root`, without recursion: a tree may be deeper than the stack.
    fn tree(&mut self, root: &Node) -> Result<Node> {
        let mut stack = vec![self.open(root.clone())?];
        let mut done: Option<Node> = None;
        while let Some(top) = stack.last_mut() {
            if let Some(node) = done.take() {
                let mut bytes = Vec::new();
                crate::format::node::encode(&node, &mut bytes)?;
                top.writer.push(&bytes, node.weight(), &node.name, || page::key_hash(&node.name), &mut self.chunks)?;
            }
            let next = match &top.last {
                None => self.trees.entry_number(&top.source, 0)?,
                Some(last) => self.trees.next(&top.source, last)?,
            };
            let Some(entry) = next else {
                let Some(open) = stack.pop() else { break };
                done = Some(self.close(open)?);
                continue;
            };
            let node = entry.node().clone();
            top.last = Some(entry);
            match self.remembered(&node) {
                Some(known) => {
                    self.progress(node.weight(), 0);
                    done = Some(known);
                }
                None if node.directory().is_some() => stack.push(self.open(node)?),
                None => {
                    self.progress(1, 0);
                    done = Some(self.leaf(node)?);
                }
            }
        }
        done.ok_or_else(|| Error::corrupt("a tree has no root"))
    }

    fn open(&mut self, mut node: Node) -> Result<OpenDirectory> {
        node.meta.xattrs = self.xattrs(&node.meta.xattrs)?;
        let source = node.directory().copied().unwrap_or_default();
        self.progress(1, 0);
        Ok(OpenDirectory { node, source, last: None, writer: TreeWriter::new(PageKind::Directory) })
    }

    fn close(&mut self, open: OpenDirectory) -> Result<Node> {
        let root = open.writer.finish(&mut self.chunks)?;
        if let Some((here, there)) = open.source.root.zip(root) {
            if self.memory.directories.len() >= MOST {
                self.memory.directories.clear();
            }
            self.memory.directories.insert(here.page, there);
        }
        let kind = Kind::Directory(Directory { root, ..open.source });
        Ok(Node { kind, ..open.node })
    }

    /// A directory that was copied before in this session, with attributes that are in the node.
    fn remembered(&self, node: &Node) -> Option<Node> {
        let Kind::Directory(directory) = &node.kind else { return None };
        if matches!(node.meta.xattrs, Xattrs::Stored(_)) {
            return None;
        }
        let root = *self.memory.directories.get(&directory.root?.page)?;
        Some(Node { kind: Kind::Directory(Directory { root: Some(root), ..*directory }), ..node.clone() })
    }

    fn leaf(&mut self, mut node: Node) -> Result<Node> {
        node.meta.xattrs = self.xattrs(&node.meta.xattrs)?;
        if let Kind::File(content @ (Content::Items(_) | Content::Tree { .. })) = &node.kind {
            node.kind = Kind::File(self.content(content)?);
        }
        Ok(node)
    }

    fn content(&mut self, content: &Content) -> Result<Content> {
        let mut recipe = Recipe::default();
        self.chunks.begin_big(content.size())?;
        let trees = self.trees;
        trees.items(content, 0, &mut |_, item| {
            let item = match item {
                Item::Chunk { id, len } => Item::Chunk { id: self.data(id, *len)?, len: *len },
                hole => *hole,
            };
            recipe.push(item, &mut self.chunks)?;
            self.progress(0, item.len());
            Ok(true)
        })?;
        recipe.finish(&mut self.chunks)
    }

    fn data(&mut self, id: &ChunkId, len: u32) -> Result<ChunkId> {
        if let Some(known) = self.memory.data.get(id) {
            return Ok(*known);
        }
        if self.task.is_stopped() {
            return Err(sink::stopped());
        }
        let bytes = self.trees.data(id, len)?;
        let there = self.keys.chunk_id(PackKind::Data, &bytes);
        self.chunks.big(&there, &bytes, None)?;
        if self.memory.data.len() >= MOST {
            self.memory.data.clear();
        }
        self.memory.data.insert(*id, there);
        Ok(there)
    }

    fn xattrs(&mut self, xattrs: &Xattrs) -> Result<Xattrs> {
        Ok(match xattrs {
            Xattrs::Stored(id) => {
                let bytes = self.trees.chunks().chunk(PackKind::Tree, id)?;
                Xattrs::Stored(self.chunks.page(&bytes)?)
            }
            other => other.clone(),
        })
    }

    /// Copies a tree whose leaves name nothing.
    fn same_pages(&mut self, root: Option<&Root>, kind: PageKind) -> Result<Option<Root>> {
        let Some(root) = root else { return Ok(None) };
        let page = self.same_page(&root.page, kind, root.height)?;
        Ok(Some(Root { page, height: root.height }))
    }

    /// As deep as the tree is high: a few levels.
    fn same_page(&mut self, id: &ChunkId, kind: PageKind, level: u8) -> Result<ChunkId> {
        if level == 0 {
            let bytes = self.trees.chunks().chunk(PackKind::Tree, id)?;
            return self.chunks.page(&bytes);
        }
        let children = self.trees.children(id, kind, level)?;
        let mut bytes = Vec::new();
        page::start(kind, level, &mut bytes);
        for child in children.iter() {
            let page = self.same_page(&child.page, kind, level - 1)?;
            page::put_child(&Child { page, ..child.clone() }, &mut bytes);
        }
        self.chunks.page(&bytes)
    }

    fn progress(&mut self, entries: u64, bytes: u64) {
        self.entries += entries;
        self.bytes += bytes;
        let (total_entries, total_bytes) = self.total;
        let (entries, bytes) = (self.entries, self.bytes);
        self.task.observer.event(&Event::Progress { entries, bytes, total_entries, total_bytes, unit: "entries" });
    }
}
