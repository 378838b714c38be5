//! Reading trees: directories, recipes, scan records, hard link groups, all as pages of B-trees.
//!
//! Decoded pages are kept under a byte budget. Counts that a parent states are compared with what its pages hold: a
//! tree that lies about them is damaged, since inode numbers are built on them.

use std::cmp::Ordering;
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::format::page::{self, Child, LinkEntry, PageKind, ScanRecord};
use crate::model::{ChunkId, Content, Directory, Item, LinkGroup, Node, Root, Xattrs};
use crate::repo::reader::ChunkReader;
use crate::repo::tree::writer::{PagePosition, Span};

pub(crate) mod walk;
pub mod writer;

/// A leaf of a directory, decoded.
#[derive(Debug)]
pub struct NodePage {
    /// Its nodes, sorted by name.
    pub(crate) nodes: Vec<Node>,
    /// `before[i]`: the weight of the nodes before `i` in this page.
    before: Vec<u64>,
}

/// One entry of a directory: where it is, without a copy.
#[derive(Debug, Clone)]
pub struct Entry {
    page: Arc<NodePage>,
    at: usize,
    /// Its number among the directory's entries, from 0.
    pub(crate) number: u64,
    /// Its preorder position less its directory's: 1 for the first entry.
    pub offset: u64,
}

impl Entry {
    /// The node.
    pub fn node(&self) -> &Node {
        &self.page.nodes[self.at]
    }
}

#[derive(Debug, Clone)]
enum CachedPage {
    Nodes(Arc<NodePage>),
    Inner(Arc<Vec<Child>>),
    Items(Arc<Vec<Item>>),
    Scan(Arc<Vec<ScanRecord>>),
    Links(Arc<Vec<LinkEntry>>),
}

#[derive(Debug, Clone)]
struct CachedPageWeight;

impl Weighter<ChunkId, CachedPage> for CachedPageWeight {
    fn weight(&self, _: &ChunkId, page: &CachedPage) -> u64 {
        64 + match page {
            CachedPage::Nodes(p) => p.nodes.iter().map(|n| 240 + n.name.len() as u64 + content_weight(n)).sum(),
            CachedPage::Inner(p) => p.len() as u64 * 96,
            CachedPage::Items(p) => p.len() as u64 * 48,
            CachedPage::Scan(p) => p.len() as u64 * 48,
            CachedPage::Links(p) => p.len() as u64 * 32,
        }
    }
}

fn content_weight(node: &Node) -> u64 {
    let xattrs = match &node.meta.xattrs {
        Xattrs::Inline(list) => list.iter().map(|(k, v)| (k.len() + v.len() + 48) as u64).sum(),
        _ => 0,
    };
    xattrs
        + match &node.kind {
            crate::model::Kind::File(Content::Inline(bytes)) => bytes.len() as u64,
            crate::model::Kind::File(Content::Items(items)) => items.len() as u64 * 48,
            crate::model::Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
}

/// Reads trees of one repository, from many threads.
#[derive(Debug)]
pub struct TreeReader {
    chunks: Arc<ChunkReader>,
    pages: Cache<ChunkId, CachedPage, CachedPageWeight>,
}

/// Where a descent ended: a leaf, what its parent says it holds, and what lies before it.
struct Leaf {
    page: ChunkId,
    count: u64,
    weight: u64,
    skipped_count: u64,
    skipped_weight: u64,
}

impl TreeReader {
    /// A reader with at most `budget` bytes of decoded pages in memory.
    pub fn new(chunks: Arc<ChunkReader>, budget: u64) -> Result<Self> {
        let options = OptionsBuilder::new()
            .estimated_items_capacity((budget >> 14).max(64) as usize)
            .weight_capacity(budget)
            .shards(2)
            .build()
            .map_err(|e| Error::invalid(format!("a page cache of {budget} bytes: {e}")))?;
        Ok(TreeReader { chunks, pages: Cache::with_options(options, CachedPageWeight, Default::default(), Default::default()) })
    }

    /// The chunks behind the trees.
    pub fn chunks(&self) -> &Arc<ChunkReader> {
        &self.chunks
    }

    fn page(&self, id: &ChunkId, decode: impl FnOnce(&[u8]) -> Result<CachedPage>) -> Result<CachedPage> {
        self.pages.get_or_insert_with(id, || {
            let chunk = self.chunks.chunk(PackKind::Tree, id)?;
            decode(&chunk).map_err(|e| e.about(format_args!("tree page {}", id.short())))
        })
    }

    fn wrong_kind(id: &ChunkId) -> Error {
        Error::corrupt(format!("tree page {} is used as a page of two kinds", id.short()))
    }

    /// A leaf of a directory; `check` goes through trees page by page.
    pub(crate) fn nodes(&self, id: &ChunkId) -> Result<Arc<NodePage>> {
        match self.page(id, |bytes| {
            let nodes = page::nodes(bytes)?;
            let mut before = Vec::with_capacity(nodes.len());
            nodes.iter().fold(0u64, |sum, node| {
                before.push(sum);
                sum.saturating_add(node.weight())
            });
            Ok(CachedPage::Nodes(Arc::new(NodePage { nodes, before })))
        })? {
            CachedPage::Nodes(page) => Ok(page),
            _ => Err(Self::wrong_kind(id)),
        }
    }

    /// A leaf of a recipe.
    pub(crate) fn item_page(&self, id: &ChunkId) -> Result<Arc<Vec<Item>>> {
        match self.page(id, |bytes| Ok(CachedPage::Items(Arc::new(page::items(bytes)?))))? {
            CachedPage::Items(items) => Ok(items),
            _ => Err(Self::wrong_kind(id)),
        }
    }

    /// A leaf of scan records.
    pub(crate) fn scan_leaf(&self, id: &ChunkId) -> Result<Arc<Vec<ScanRecord>>> {
        match self.page(id, |bytes| Ok(CachedPage::Scan(Arc::new(page::scan_records(bytes)?))))? {
            CachedPage::Scan(records) => Ok(records),
            _ => Err(Self::wrong_kind(id)),
        }
    }

    /// A leaf of hard link groups.
    pub(crate) fn link_leaf(&self, id: &ChunkId) -> Result<Arc<Vec<LinkEntry>>> {
        match self.page(id, |bytes| Ok(CachedPage::Links(Arc::new(page::links(bytes)?))))? {
            CachedPage::Links(links) => Ok(links),
            _ => Err(Self::wrong_kind(id)),
        }
    }

    /// An inner page, which stands on `level`.
    pub(crate) fn children(&self, id: &ChunkId, kind: PageKind, level: u8) -> Result<Arc<Vec<Child>>> {
        match self.page(id, |bytes| Ok(CachedPage::Inner(Arc::new(page::children(bytes, kind, level)?))))? {
            CachedPage::Inner(children) => Ok(children),
            _ => Err(Self::wrong_kind(id)),
        }
    }

    /// Goes down from `root` to a leaf. `choose` gets the children of a page with the count and weight before them.
    fn descend(
        &self,
        kind: PageKind,
        root: &Root,
        whole: (u64, u64),
        mut choose: impl FnMut(&[Child], u64, u64) -> usize,
    ) -> Result<Leaf> {
        let (count, weight) = whole;
        let mut leaf = Leaf { page: root.page, count, weight, skipped_count: 0, skipped_weight: 0 };
        for level in (1..=root.height).rev() {
            let children = self.children(&leaf.page, kind, level)?;
            let total = children
                .iter()
                .try_fold((0u64, 0u64), |(c, w), child| Some((c.checked_add(child.count)?, w.checked_add(child.weight)?)));
            // A root that states no totals (scan records, links) passes (0, 0).
            let stated = (leaf.count, leaf.weight);
            if total.is_none() || stated != (0, 0) && total != Some(stated) {
                return Err(Error::corrupt(format!(
                    "tree page {}: its children hold another number of entries",
                    leaf.page.short()
                )));
            }
            let at = choose(&children, leaf.skipped_count, leaf.skipped_weight).min(children.len() - 1);
            leaf.skipped_count += children[..at].iter().map(|c| c.count).sum::<u64>();
            leaf.skipped_weight += children[..at].iter().map(|c| c.weight).sum::<u64>();
            leaf.page = children[at].page;
            leaf.count = children[at].count;
            leaf.weight = children[at].weight;
        }
        Ok(leaf)
    }

    /// Calls `visit` with the pages of the tree before that cover `place`, in order, until it answers false.
    pub(crate) fn pages_at(&self, place: &PagePosition<'_>, visit: &mut dyn FnMut(&ChunkId) -> Result<bool>) -> Result<()> {
        self.pages_below(&place.before.page, place.before.height, 0, place, visit).map(drop)
    }

    fn pages_below(
        &self,
        page: &ChunkId,
        height: u8,
        skipped: u64,
        place: &PagePosition<'_>,
        visit: &mut dyn FnMut(&ChunkId) -> Result<bool>,
    ) -> Result<bool> {
        match height.cmp(&place.level) {
            Ordering::Less => return Ok(true),
            Ordering::Equal => return visit(page),
            Ordering::Greater => {}
        }
        let children = self.children(page, place.kind, height)?;
        let mut from = skipped;
        for (at, child) in children.iter().enumerate() {
            let length = if place.kind == PageKind::Recipe { child.weight } else { child.count };
            let to = from.saturating_add(length);
            let covers = match place.span {
                // What stands before the first key would stand on the first page.
                Span::Keys(first, last) => {
                    (at == 0 || child.key.as_slice() <= last)
                        && children.get(at + 1).is_none_or(|next| next.key.as_slice() > first)
                }
                Span::Numbers(first, last) => from < last && to > first,
            };
            if covers && !self.pages_below(&child.page, height - 1, from, place, visit)? {
                return Ok(false);
            }
            from = to;
        }
        Ok(true)
    }

    fn directory_leaf(
        &self,
        directory: &Directory,
        choose: impl FnMut(&[Child], u64, u64) -> usize,
    ) -> Result<Option<(Leaf, Arc<NodePage>)>> {
        let Some(root) = &directory.root else { return Ok(None) };
        let leaf = self.descend(PageKind::Directory, root, (directory.entries, directory.descendants), choose)?;
        let page = self.nodes(&leaf.page)?;
        let weight = page.before.last().zip(page.nodes.last()).map_or(0, |(b, n)| b.saturating_add(n.weight()));
        if page.nodes.len() as u64 != leaf.count || weight != leaf.weight {
            return Err(Error::corrupt(format!(
                "tree page {}: it holds another number of entries than stated",
                leaf.page.short()
            )));
        }
        Ok(Some((leaf, page)))
    }

    fn entry(leaf: &Leaf, page: Arc<NodePage>, at: usize) -> Entry {
        let offset = 1 + leaf.skipped_weight + page.before[at];
        Entry { page, at, number: leaf.skipped_count + at as u64, offset }
    }

    /// The entry called `name`.
    pub fn lookup(&self, directory: &Directory, name: &[u8]) -> Result<Option<Entry>> {
        let choose = |children: &[Child], _, _| children.partition_point(|c| c.key.as_slice() <= name).saturating_sub(1);
        let Some((leaf, page)) = self.directory_leaf(directory, choose)? else { return Ok(None) };
        let found = page.nodes.binary_search_by(|n| n.name.as_slice().cmp(name)).ok();
        Ok(found.map(|at| Self::entry(&leaf, page, at)))
    }

    /// Entry number `number`, if the directory has so many.
    pub fn entry_number(&self, directory: &Directory, number: u64) -> Result<Option<Entry>> {
        if number >= directory.entries {
            return Ok(None);
        }
        let choose = |children: &[Child], mut skipped: u64, _| {
            children.iter().position(|c| {
                skipped += c.count;
                number < skipped
            })
        };
        let found = self.directory_leaf(directory, |c, s, w| choose(c, s, w).unwrap_or(usize::MAX))?;
        Ok(found.map(|(leaf, page)| {
            let at = ((number - leaf.skipped_count) as usize).min(page.nodes.len() - 1);
            Self::entry(&leaf, page, at)
        }))
    }

    /// The direct entry that is or contains the node at `offset` (preorder position less the directory's, from 1).
    pub(crate) fn entry_at(&self, directory: &Directory, offset: u64) -> Result<Option<Entry>> {
        let Some(wanted) = offset.checked_sub(1).filter(|w| *w < directory.descendants) else { return Ok(None) };
        let choose = |children: &[Child], _, mut skipped: u64| {
            children.iter().position(|c| {
                skipped += c.weight;
                wanted < skipped
            })
        };
        let found = self.directory_leaf(directory, |c, s, w| choose(c, s, w).unwrap_or(usize::MAX))?;
        Ok(found.map(|(leaf, page)| {
            let within = wanted - leaf.skipped_weight;
            let at = page.before.partition_point(|b| *b <= within).saturating_sub(1);
            Self::entry(&leaf, page, at)
        }))
    }

    /// The entry after `entry` in the same directory.
    pub fn next(&self, directory: &Directory, entry: &Entry) -> Result<Option<Entry>> {
        match entry.page.nodes.get(entry.at + 1) {
            Some(_) => {
                let offset = entry.offset + entry.node().weight();
                Ok(Some(Entry { page: entry.page.clone(), at: entry.at + 1, number: entry.number + 1, offset }))
            }
            None => self.entry_number(directory, entry.number + 1),
        }
    }

    /// All entries of a directory, in order; a page at a time.
    pub fn entries<'a>(&'a self, directory: &'a Directory) -> impl Iterator<Item = Result<Entry>> + 'a {
        let mut next = self.entry_number(directory, 0).transpose();
        std::iter::from_fn(move || {
            let entry = next.take()?;
            if let Ok(entry) = &entry {
                next = self.next(directory, entry).transpose();
            }
            Some(entry)
        })
    }

    /// The node at `path` (names, without slashes) below `root`, with its preorder position less the root's.
    pub fn walk_to(&self, root: &Node, path: &[&[u8]]) -> Result<(Node, u64)> {
        let (mut node, mut position) = (root.clone(), 0);
        for (depth, name) in path.iter().enumerate() {
            let shown = || crate::model::escape(&path[..=depth].join(&b'/'));
            let Some(directory) = node.directory() else {
                return Err(Error::new(ErrorKind::NotFound, format!("/{} is below something that is no directory", shown())));
            };
            let found = self.lookup(directory, name)?;
            let entry = found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("/{} is not in the snapshot", shown())))?;
            position += entry.offset;
            node = entry.node().clone();
        }
        Ok((node, position))
    }

    /// Calls `visit` with the offset and item of every piece of `content` from the one that holds `from` on, until it
    /// answers false.
    pub fn items(&self, content: &Content, from: u64, visit: &mut dyn FnMut(u64, &Item) -> Result<bool>) -> Result<()> {
        let (root, size, data) = match content {
            Content::Inline(_) => return Ok(()),
            Content::Items(items) => return visit_items(items, 0, from, visit).map(|_| ()),
            Content::Tree { root, size, data } => (root, *size, *data),
        };
        let mut at = from;
        while at < size {
            let choose = |children: &[Child], _: u64, mut skipped: u64| {
                children.iter().position(|c| {
                    skipped += c.weight;
                    at < skipped
                })
            };
            // The count of items is not stated by the node; its logical size is.
            let leaf = self.descend_sized(root, size, |c, s, w| choose(c, s, w).unwrap_or(usize::MAX))?;
            let items = self.item_page(&leaf.page)?;
            let sum = items.iter().try_fold(0u64, |sum, item| sum.checked_add(item.len()));
            if sum != Some(leaf.weight) || data > size {
                return Err(Error::corrupt(format!(
                    "recipe page {}: its items have another length than stated",
                    leaf.page.short()
                )));
            }
            if !visit_items(&items, leaf.skipped_weight, at, visit)? {
                return Ok(());
            }
            at = leaf.skipped_weight + leaf.weight;
        }
        Ok(())
    }

    fn descend_sized(&self, root: &Root, size: u64, mut choose: impl FnMut(&[Child], u64, u64) -> usize) -> Result<Leaf> {
        if root.height == 0 {
            return Ok(Leaf { page: root.page, count: 0, weight: size, skipped_count: 0, skipped_weight: 0 });
        }
        let top = self.children(&root.page, PageKind::Recipe, root.height)?;
        let count = top.iter().map(|c| c.count).fold(0u64, u64::saturating_add);
        let weight = top.iter().map(|c| c.weight).fold(0u64, u64::saturating_add);
        if weight != size {
            return Err(Error::corrupt("a recipe has another length than its file"));
        }
        self.descend(PageKind::Recipe, root, (count, weight), &mut choose)
    }

    /// Reads up to `len` bytes of `content` from `offset` on into `out` (replaced); fewer only at the end of the file.
    pub fn read(&self, content: &Content, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let size = content.size();
        let end = offset.saturating_add(len as u64).min(size);
        if offset >= end {
            return Ok(());
        }
        if let Content::Inline(bytes) = content {
            out.extend_from_slice(&bytes[offset as usize..end as usize]);
            return Ok(());
        }
        out.reserve((end - offset) as usize);
        self.items(content, offset, &mut |start, item| {
            let from = offset.max(start) - start;
            let to = end.min(start + item.len()) - start;
            match item {
                Item::Hole { .. } => out.resize(out.len() + (to - from) as usize, 0),
                Item::Chunk { id, len } => out.extend_from_slice(&self.data(id, *len)?[from as usize..to as usize]),
            }
            Ok(start + item.len() < end)
        })
    }

    /// A data chunk that must have `len` bytes.
    pub fn data(&self, id: &ChunkId, len: u32) -> Result<crate::repo::reader::Chunk> {
        let chunk = self.chunks.chunk(PackKind::Data, id)?;
        if chunk.len() != len as usize {
            return Err(Error::corrupt(format!("chunk {} has another length than the file says", id.short())));
        }
        Ok(chunk)
    }

    /// Scan record number `position` of a snapshot, with all records of its page and the position of the first.
    pub fn scan_page(&self, root: &Root, position: u64) -> Result<(u64, Arc<Vec<ScanRecord>>)> {
        let choose = |children: &[Child], mut skipped: u64, _| {
            children.iter().position(|c| {
                skipped += c.count;
                position < skipped
            })
        };
        let leaf = self.descend(PageKind::Scan, root, (0, 0), |c, s, w| choose(c, s, w).unwrap_or(usize::MAX))?;
        let records = self.scan_leaf(&leaf.page)?;
        if leaf.count != 0 && leaf.count != records.len() as u64 {
            return Err(Error::corrupt("a page of scan records holds another number of them than stated"));
        }
        Ok((leaf.skipped_count, records))
    }

    /// The hard link group `group` of a snapshot's table.
    pub fn link(&self, root: &Root, group: &LinkGroup) -> Result<Option<LinkEntry>> {
        let choose = |children: &[Child], _, _| children.partition_point(|c| c.key.as_slice() <= &group.0[..]).saturating_sub(1);
        let leaf = self.descend(PageKind::Links, root, (0, 0), choose)?;
        let links = self.link_leaf(&leaf.page)?;
        Ok(links.binary_search_by(|e| e.group.cmp(group)).ok().map(|at| links[at]))
    }

    /// A node's extended attributes, sorted by name.
    pub fn xattrs(&self, node: &Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        match &node.meta.xattrs {
            Xattrs::None => Ok(Vec::new()),
            Xattrs::Inline(list) => Ok(list.clone()),
            Xattrs::Stored(id) => crate::format::node::decode_xattrs(&self.chunks.chunk(PackKind::Tree, id)?),
        }
    }
}

fn visit_items(items: &[Item], start: u64, from: u64, visit: &mut dyn FnMut(u64, &Item) -> Result<bool>) -> Result<bool> {
    let mut at = start;
    for item in items {
        let end = at.checked_add(item.len()).ok_or_else(|| Error::corrupt("a file is longer than 2⁶⁴ bytes"))?;
        if end > from && !visit(at, item)? {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}
