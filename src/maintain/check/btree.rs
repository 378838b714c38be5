//! Going through a B-tree page by page, and remembering what was found below each page.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::format::page::PageKind;
use crate::model::{ChunkId, Root};
use crate::repo::tree::TreeReader;

/// What is below a page, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    /// Directories: a sum over the hard links below, by their groups. Recipes: bytes in chunks.
    pub(crate) value: u64,
    /// Direct subdirectories.
    pub(crate) subdirs: u64,
    /// Entries that lose something. While there are any, the other sums may lack something.
    pub(crate) hits: u64,
}

impl Sum {
    /// One hit.
    pub(crate) const HIT: Sum = Sum { value: 0, subdirs: 0, hits: 1 };

    /// Adds what is below another page of the same tree.
    pub(crate) fn add(&mut self, other: Sum) {
        self.value = self.value.wrapping_add(other.value);
        self.subdirs = self.subdirs.saturating_add(other.subdirs);
        self.hits = self.hits.saturating_add(other.hits);
    }
}

/// What was found below pages that were visited, by [`Stated::mark`]: a page that another parent states differently is
/// another page here. Eight bytes tell pages apart: of a million, two are taken for one with odds of 1 to 10⁷.
#[derive(Debug, Default)]
pub(super) struct Memo {
    /// Pages with nothing to add up: most of them.
    empty: HashSet<u64>,
    rest: HashMap<u64, Sum>,
}

impl Memo {
    pub(crate) fn get(&self, mark: u64) -> Option<Sum> {
        match self.empty.contains(&mark) {
            true => Some(Sum::default()),
            false => self.rest.get(&mark).copied(),
        }
    }

    pub(crate) fn put(&mut self, mark: u64, sum: Sum) {
        match sum == Sum::default() {
            true => drop(self.empty.insert(mark)),
            false => drop(self.rest.insert(mark, sum)),
        }
    }
}

/// A page, and what its parent says of it. What is not said is not compared.
#[derive(Debug, Clone)]
pub(super) struct Stated {
    pub(crate) page: ChunkId,
    pub(crate) level: u8,
    pub(crate) count: Option<u64>,
    pub(crate) weight: Option<u64>,
    /// The key of its first entry.
    pub(crate) first: Option<Vec<u8>>,
    /// Beyond its last entry: the key of the page after it.
    pub(crate) end: Option<Vec<u8>>,
}

impl Stated {
    /// A root page.
    pub(super) fn root(root: &Root, count: Option<u64>, weight: Option<u64>) -> Self {
        Stated { page: root.page, level: root.height, count, weight, first: None, end: None }
    }

    /// Names the page with all that is stated of it.
    pub(crate) fn mark(&self, kind: PageKind) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind as u8, self.level]).update(&self.page.0);
        for number in [self.count, self.weight] {
            hasher.update(&[u8::from(number.is_some())]).update(&number.unwrap_or(0).to_le_bytes());
        }
        for key in [&self.first, &self.end] {
            let bytes = key.as_deref().unwrap_or_default();
            hasher.update(&[u8::from(key.is_some()), bytes.len() as u8]).update(bytes);
        }
        short(hasher)
    }

    /// Compares what is stated with what the page holds: entries, their weight, first and last key.
    pub(super) fn compare(&self, count: u64, weight: Option<u64>, keys: Option<(&[u8], &[u8])>) -> Result<()> {
        let wrong = |what: &str| Err(Error::corrupt(format!("tree page {}: {what}", self.page.short())));
        if self.count.is_some_and(|stated| stated != count) || self.weight.zip(weight).is_some_and(|(s, w)| s != w) {
            return wrong("it holds another number of entries than stated");
        }
        let Some((first, last)) = keys else { return Ok(()) };
        if self.first.as_deref().is_some_and(|stated| stated != first) || self.end.as_deref().is_some_and(|end| last >= end) {
            return wrong("its first or last name is not where its parent puts it");
        }
        Ok(())
    }
}

/// The first eight bytes of a hash.
pub(super) fn short(hasher: blake3::Hasher) -> u64 {
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// What comes next in a tree.
pub(super) enum TreeStep {
    /// A leaf, for the caller to look at and to answer with [`TreeCursor::leaf_done`].
    Leaf(Stated),
    /// A page that was visited before, with what is below it; it is counted already.
    Known(Sum),
    /// An inner page that cannot be had; it is counted as a hit.
    Broken(Stated, Error),
    /// The end of the tree.
    Done(Sum),
}

/// A way through one tree, from its first leaf to its last. It holds a page number a level, and no pages.
pub(super) struct TreeCursor {
    kind: PageKind,
    next: Option<Stated>,
    leaf: Option<u64>,
    open: Vec<Inner>,
    sum: Sum,
}

/// An inner page under way.
struct Inner {
    stated: Stated,
    mark: u64,
    at: usize,
    sum: Sum,
}

impl TreeCursor {
    pub(crate) fn new(kind: PageKind, root: Stated) -> Self {
        TreeCursor { kind, next: Some(root), leaf: None, open: Vec::new(), sum: Sum::default() }
    }

    /// Goes on. `reuse` says whether what is known of a page is enough.
    pub(crate) fn step(&mut self, trees: &TreeReader, memo: &mut Memo, reuse: impl Fn(&Sum) -> bool) -> TreeStep {
        loop {
            if let Some(stated) = self.next.take() {
                let mark = stated.mark(self.kind);
                if let Some(sum) = memo.get(mark).filter(&reuse) {
                    self.add(sum);
                    return TreeStep::Known(sum);
                }
                if stated.level == 0 {
                    self.leaf = Some(mark);
                    return TreeStep::Leaf(stated);
                }
                if let Err(e) = self.open(trees, &stated) {
                    self.add(Sum::HIT);
                    return TreeStep::Broken(stated, e);
                }
                self.open.push(Inner { stated, mark, at: 0, sum: Sum::default() });
            }
            let Some(inner) = self.open.last_mut() else { return TreeStep::Done(self.sum) };
            match child(trees, self.kind, inner) {
                Ok(Some(next)) => self.next = Some(next),
                Ok(None) => {
                    memo.put(inner.mark, inner.sum);
                    let sum = inner.sum;
                    self.open.pop();
                    self.add(sum);
                }
                Err(e) => {
                    // It was there a moment ago.
                    let stated = inner.stated.clone();
                    self.open.pop();
                    self.add(Sum::HIT);
                    return TreeStep::Broken(stated, e);
                }
            }
        }
    }

    /// What is in the leaf that [`TreeCursor::step`] gave.
    pub(crate) fn leaf_done(&mut self, sum: Sum, memo: &mut Memo) {
        if let Some(mark) = self.leaf.take() {
            memo.put(mark, sum);
        }
        self.add(sum);
    }

    fn add(&mut self, sum: Sum) {
        match self.open.last_mut() {
            Some(inner) => inner.sum.add(sum),
            None => self.sum.add(sum),
        }
    }

    fn open(&self, trees: &TreeReader, stated: &Stated) -> Result<()> {
        let children = trees.children(&stated.page, self.kind, stated.level)?;
        let total = |number: fn(&crate::format::page::Child) -> u64| {
            children.iter().try_fold(0u64, |sum, child| sum.checked_add(number(child)))
        };
        let too_many = || Error::corrupt(format!("tree page {}: it states more than 2⁶⁴ entries", stated.page.short()));
        let (count, weight) = (total(|c| c.count).ok_or_else(too_many)?, total(|c| c.weight).ok_or_else(too_many)?);
        let keys = children.first().zip(children.last()).map(|(first, last)| (&first.key[..], &last.key[..]));
        stated.compare(count, Some(weight), keys.filter(|_| ordered(self.kind)))
    }
}

/// Whether entries have keys, in whose order they stand.
fn ordered(kind: PageKind) -> bool {
    matches!(kind, PageKind::Directory | PageKind::Links)
}

/// The next child of an inner page.
fn child(trees: &TreeReader, kind: PageKind, inner: &mut Inner) -> Result<Option<Stated>> {
    let children = trees.children(&inner.stated.page, kind, inner.stated.level)?;
    let Some(child) = children.get(inner.at) else { return Ok(None) };
    inner.at += 1;
    let end = children.get(inner.at).map(|next| next.key.clone()).or_else(|| inner.stated.end.clone());
    let (first, end) = if ordered(kind) { (Some(child.key.clone()), end) } else { (None, None) };
    let (count, weight) = (Some(child.count), Some(child.weight));
    Ok(Some(Stated { page: child.page, level: inner.stated.level - 1, count, weight, first, end }))
}
