//! Writing B-trees of pages, bottom-up and streaming.

use crate::error::{Error, ErrorKind, Result};
use crate::format::page::{self, Child, MAX_CHILDREN, MAX_PAGE, MIN_CHILDREN, MIN_PAGE, PageKind};
use crate::model::{ChunkId, Root};

/// The part of a tree that a page covers, by what its entries are found by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Span<'a> {
    /// From this key to this one, both included: names of a directory, groups of hard links.
    Keys(&'a [u8], &'a [u8]),
    /// From this number up to this one: bytes of a recipe, scan records.
    Numbers(u64, u64),
}

/// Where a finished page belongs in the tree that its own tree takes the place of.
#[derive(Debug, Clone, Copy)]
pub struct PagePosition<'a> {
    /// That tree.
    pub(crate) before: &'a Root,
    /// What both are.
    pub(crate) kind: PageKind,
    /// The page's level; 0 for a leaf.
    pub(crate) level: u8,
    /// What it covers.
    pub(crate) span: Span<'a>,
}

/// Takes finished pages and gives their ids.
pub trait PageSink {
    /// Stores one page, unless the repository has it.
    fn page(&mut self, bytes: &[u8]) -> Result<ChunkId>;

    /// The same for a page that may be similar to those at `place`.
    fn page_at(&mut self, bytes: &[u8], _place: &PagePosition<'_>) -> Result<ChunkId> {
        self.page(bytes)
    }
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
    /// The tree that this one takes the place of.
    before: Option<PreviousTree>,
    /// Whether only pages that readers take are stored.
    checked: bool,
}

/// What is known of the tree that one under construction takes the place of.
#[derive(Debug)]
struct PreviousTree {
    root: Root,
    /// The key of the newest entry.
    last: Vec<u8>,
    /// Bytes (recipes) or entries in closed leaves.
    closed: u64,
    /// What has to be added to a number of this tree to get that of the same entry there.
    shift: i64,
}

impl TreeWriter {
    /// An empty tree.
    pub fn new(kind: PageKind) -> Self {
        let mut leaf = Vec::new();
        page::start(kind, 0, &mut leaf);
        TreeWriter { kind, leaf, count: 0, weight: 0, key: Vec::new(), levels: Vec::new(), before: None, checked: true }
    }

    /// The same, for a tree that takes the place of another: the sink is told where each page would be there.
    pub(crate) fn over(self, before: Option<Root>) -> Self {
        let before = before.map(|root| PreviousTree { root, last: Vec::new(), closed: 0, shift: 0 });
        TreeWriter { before, ..self }
    }

    /// Stores pages whether or not a reader would take them: for tests of readers.
    pub fn unchecked(self) -> Self {
        TreeWriter { checked: false, ..self }
    }

    /// The next entry has number `here` in this tree, and `there` in the one before.
    pub(crate) fn align(&mut self, here: u64, there: u64) {
        if let Some(before) = &mut self.before {
            before.shift = there.wrapping_sub(here) as i64;
        }
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
        if let Some(before) = &mut self.before {
            before.last.clear();
            before.last.extend_from_slice(key);
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
        let covered = self.measure(self.count, self.weight);
        if let Some(before) = &mut self.before {
            before.closed += covered;
        }
        let page = self.store(&self.leaf, 0, covered, &self.key, sink)?;
        let child = Child { page, count: self.count, weight: self.weight, key: std::mem::take(&mut self.key) };
        page::start(self.kind, 0, &mut self.leaf);
        (self.count, self.weight) = (0, 0);
        self.add_child(0, child, sink)
    }

    /// What numbers of a [`Span`] count in this tree.
    fn measure(&self, count: u64, weight: u64) -> u64 {
        if self.kind == PageKind::Recipe { weight } else { count }
    }

    /// Gives a page away that begins with `first` and covers the last `covered` of what was closed.
    fn store(&self, bytes: &[u8], level: u8, covered: u64, first: &[u8], sink: &mut dyn PageSink) -> Result<ChunkId> {
        // A page that is stored and cannot be read takes its directory out of every snapshot that has it.
        let fits = if self.checked { page::check(bytes, self.kind, level) } else { Ok(()) };
        fits.map_err(|e| {
            let text = format!("a page that nobody could read was about to be stored, and nothing was saved: {e}");
            Error::invalid(format!("{text}: this is a defect of yester")).with_kind(ErrorKind::Io)
        })?;
        let Some(before) = &self.before else { return sink.page(bytes) };
        let span = match self.kind {
            PageKind::Directory | PageKind::Links => Span::Keys(first, &before.last),
            PageKind::Recipe | PageKind::Scan => {
                let end = before.closed.saturating_add_signed(before.shift);
                Span::Numbers(end.saturating_sub(covered), end)
            }
        };
        sink.page_at(bytes, &PagePosition { before: &before.root, kind: self.kind, level, span })
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
        let parent = self.write_inner(level, &children, sink)?;
        self.add_child(level + 1, parent, sink)
    }

    fn write_inner(&self, level: usize, children: &[Child], sink: &mut dyn PageSink) -> Result<Child> {
        let mut bytes = Vec::new();
        page::start(self.kind, level as u8 + 1, &mut bytes);
        children.iter().for_each(|child| page::put_child(child, &mut bytes));
        let count = children.iter().map(|c| c.count).sum();
        let weight = children.iter().map(|c| c.weight).sum();
        let key = children.first().map(|c| c.key.clone()).unwrap_or_default();
        let page = self.store(&bytes, level as u8 + 1, self.measure(count, weight), &key, sink)?;
        Ok(Child { page, count, weight, key })
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
