//! Writing B-trees of pages, bottom-up and streaming.

use crate::error::Result;
use crate::format::page::{self, Child, MAX_CHILDREN, MAX_PAGE, MIN_CHILDREN, MIN_PAGE, PageKind};
use crate::model::{ChunkId, Root};

/// Takes finished pages and gives their ids.
pub trait PageSink {
    /// Stores one page, unless the repository has it.
    fn page(&mut self, bytes: &[u8]) -> Result<ChunkId>;
}

/// Builds one B-tree: entries in, root out. Memory is one page a level.
#[derive(Debug)]
pub struct TreeWriter {
    kind: PageKind,
    leaf: Vec<u8>,
    /// What the page under construction will be to its parent.
    count: u64,
    weight: u64,
    key: Vec<u8>,
    /// Children waiting on each level above the leaves.
    levels: Vec<Vec<Child>>,
    /// Leaves closed so far.
    leaves: u64,
}

impl TreeWriter {
    /// An empty tree.
    pub fn new(kind: PageKind) -> Self {
        let mut leaf = Vec::new();
        page::start(kind, 0, &mut leaf);
        TreeWriter { kind, leaf, count: 0, weight: 0, key: Vec::new(), levels: Vec::new(), leaves: 0 }
    }

    /// Whether the next entry is the first of its page.
    pub fn at_page_start(&self) -> bool {
        self.count == 0
    }

    /// Appends an entry: its bytes, its weight, its key, and the hash that may close the page.
    pub fn push(
        &mut self,
        entry: &[u8],
        weight: u64,
        key: &[u8],
        hash: impl FnOnce() -> u64,
        sink: &mut dyn PageSink,
    ) -> Result<()> {
        if self.count > 0 && self.leaf.len() + entry.len() > MAX_PAGE {
            self.close_leaf(sink)?;
        }
        if self.count == 0 {
            self.key.clear();
            self.key.extend_from_slice(key);
        }
        self.leaf.extend_from_slice(entry);
        self.count += 1;
        self.weight += weight;
        if self.leaf.len() >= MIN_PAGE && page::ends_page(hash()) {
            self.close_leaf(sink)?;
        }
        Ok(())
    }

    /// Appends an entry that is written straight into the page; for entries whose bytes depend on the page's state.
    /// Pages are closed after `per_page` entries at the latest.
    pub fn push_with(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        hash: impl FnOnce() -> u64,
        per_page: u64,
        sink: &mut dyn PageSink,
    ) -> Result<()> {
        write(&mut self.leaf);
        self.count += 1;
        if self.leaf.len() >= MAX_PAGE - 64 || self.count >= per_page || (self.count >= per_page / 4 && page::ends_page(hash())) {
            self.close_leaf(sink)?;
        }
        Ok(())
    }

    fn close_leaf(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let page = sink.page(&self.leaf)?;
        let child = Child { page, count: self.count, weight: self.weight, key: std::mem::take(&mut self.key) };
        page::start(self.kind, 0, &mut self.leaf);
        (self.count, self.weight) = (0, 0);
        self.leaves += 1;
        self.add_child(0, child, sink)
    }

    fn add_child(&mut self, level: usize, child: Child, sink: &mut dyn PageSink) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        // A child's id is a hash: its first bytes decide where the page above ends.
        let ends = page::ends_page(u64::from(child.page.0[0]) & 0x7f);
        let children = &mut self.levels[level];
        children.push(child);
        let bytes: usize = children.iter().map(|c| c.key.len() + 48).sum();
        if bytes > MAX_PAGE - 512 || children.len() == MAX_CHILDREN || children.len() >= MIN_CHILDREN && ends {
            self.close_inner(level, sink)?;
        }
        Ok(())
    }

    fn close_inner(&mut self, level: usize, sink: &mut dyn PageSink) -> Result<()> {
        let children = std::mem::take(&mut self.levels[level]);
        let parent = write_inner(self.kind, level, &children, sink)?;
        self.add_child(level + 1, parent, sink)
    }

    /// Closes all pages. `None` for an empty tree.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<Option<Root>> {
        if self.count > 0 {
            self.close_leaf(sink)?;
        }
        let mut level = 0;
        while level < self.levels.len() {
            let top = level + 1 == self.levels.len();
            match (top, self.levels[level].len()) {
                (true, 1) => return Ok(Some(Root { page: self.levels[level][0].page, height: level as u8 })),
                (_, 0) => {}
                _ => self.close_inner(level, sink)?,
            }
            level += 1;
        }
        Ok(None)
    }
}

fn write_inner(kind: PageKind, level: usize, children: &[Child], sink: &mut dyn PageSink) -> Result<Child> {
    let mut bytes = Vec::new();
    page::start(kind, level as u8 + 1, &mut bytes);
    children.iter().for_each(|child| page::put_child(child, &mut bytes));
    Ok(Child {
        page: sink.page(&bytes)?,
        count: children.iter().map(|c| c.count).sum(),
        weight: children.iter().map(|c| c.weight).sum(),
        key: children.first().map(|c| c.key.clone()).unwrap_or_default(),
    })
}
