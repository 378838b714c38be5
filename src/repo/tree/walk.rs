//! One walk over the trees of snapshots, page by page, for verbs that need every chunk and no paths.
//! Trees share pages; the visitor says which pages are gone into, so each is read once. `check` has a
//! walk of its own, which has to go on where pages lie.

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::format::page::{self, PageKind};
use crate::model::{ChunkId, Content, Item, Kind, Node, Root, Snapshot, Xattrs};
use crate::repo::reader::ChunkReader;

/// A page of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TreePage {
    /// Which of the four trees.
    pub(crate) kind: PageKind,
    /// Its chunk.
    pub(crate) id: ChunkId,
    /// Its level: 0 for a leaf.
    pub(crate) level: u8,
}

/// What a walk asks and tells.
pub(crate) trait Visitor {
    /// A page is named. True: it is gone into. A page that several trees share is named by each of
    /// them, and must be gone into only once: a damaged tree may name its own pages.
    fn page(&mut self, page: &TreePage) -> Result<bool>;

    /// A chunk is named that is no page: a part of a file, or stored attributes.
    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()>;

    /// A page of so many bytes was read.
    fn read(&mut self, bytes: u64);
}

/// Visits all that a snapshot names. Pages are read in the order in which ingest writes them. Leaves
/// of scan records and hard links name nothing, and are not read.
pub(crate) fn walk<V: Visitor>(reader: &ChunkReader, snapshot: &Snapshot, visitor: &mut V) -> Result<()> {
    let mut walk = TreeWalk { visitor, stack: Vec::new() };
    snapshot.links.iter().for_each(|root| walk.push(PageKind::Links, root));
    snapshot.scan.iter().for_each(|root| walk.push(PageKind::Scan, root));
    walk.node(&snapshot.root)?;
    while let Some(next) = walk.stack.pop() {
        if !walk.visitor.page(&next)? || next.level == 0 && matches!(next.kind, PageKind::Scan | PageKind::Links) {
            continue;
        }
        let bytes = reader.chunk(PackKind::Tree, &next.id)?;
        walk.visitor.read(bytes.len() as u64);
        walk.enter(&next, &bytes)?;
    }
    Ok(())
}

struct TreeWalk<'v, V> {
    visitor: &'v mut V,
    /// Pages that were named; the next one is the last.
    stack: Vec<TreePage>,
}

impl<V: Visitor> TreeWalk<'_, V> {
    fn push(&mut self, kind: PageKind, root: &Root) {
        self.stack.push(TreePage { kind, id: root.page, level: root.height });
    }

    fn enter(&mut self, page: &TreePage, bytes: &[u8]) -> Result<()> {
        let damaged = |e: crate::Error| e.about(format_args!("tree page {}", page.id.short()));
        let at = self.stack.len();
        let TreePage { kind, level, .. } = *page;
        if level > 0 {
            let children = page::children(bytes, kind, level).map_err(damaged)?;
            self.stack.extend(children.iter().map(|child| TreePage { kind, id: child.page, level: level - 1 }));
        } else if kind == PageKind::Directory {
            page::nodes(bytes).map_err(damaged)?.iter().try_for_each(|node| self.node(node))?;
        } else {
            self.items(&page::items(bytes).map_err(damaged)?)?;
        }
        // The first one is popped first.
        self.stack[at..].reverse();
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if let Xattrs::Stored(id) = &node.meta.xattrs {
            self.visitor.chunk(PackKind::Tree, id)?;
        }
        match &node.kind {
            Kind::Directory(directory) => directory.root.iter().for_each(|root| self.push(PageKind::Directory, root)),
            Kind::File(Content::Tree { root, .. }) => self.push(PageKind::Recipe, root),
            Kind::File(Content::Items(items)) => self.items(items)?,
            _ => {}
        }
        Ok(())
    }

    fn items(&mut self, items: &[Item]) -> Result<()> {
        items.iter().try_for_each(|item| match item {
            Item::Chunk { id, .. } => self.visitor.chunk(PackKind::Data, id),
            Item::Hole { .. } => Ok(()),
        })
    }
}
