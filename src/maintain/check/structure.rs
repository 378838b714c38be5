//! Going through the trees of snapshots.
//!
//! A tree is gone through in order, with a stack of its own. What was found below a page is remembered, so that a page
//! that snapshots share is visited once; where something is lost, the way there is gone again for each snapshot, to
//! name what it loses.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::format::page::{LinkEntry, PageKind};
use crate::model::{Content, Directory, Kind, Metadata, Node, Root, Snapshot, Xattrs};
use crate::observe::Event;
use crate::repo::damaged::DamagedPacks;
use crate::repo::reader::ChunkReader;
use crate::repo::tree::TreeReader;
use crate::storage::Name;
use crate::task::Task;

use super::affected::Affected;
use super::btree::{Stated, Sum, TreeCursor, TreeStep, short};
use super::catalog::Catalog;
use super::content::{ChunkLookup, ChunkState, KnownDamage, drain};
use super::{Findings, go_on};

pub(super) use super::btree::Memo;

/// Decoded frames that are kept.
const FRAMES: u64 = 24 << 20;
/// Decoded pages that are kept.
const PAGES: u64 = 16 << 20;

/// A way through the trees of all snapshots.
pub(super) struct TreeCheck<'a> {
    pub(super) trees: TreeReader,
    pub(super) lookup: ChunkLookup<'a>,
    pub(super) memo: Memo,
    pub(super) references: u64,
    affected: Affected<'a>,
    pages: u64,
    missing: u64,
    task: &'a Task<'a>,
}

/// A directory under way.
struct CheckLevel {
    directory: Directory,
    mark: u64,
    cursor: TreeCursor,
    /// The leaf that is being visited, and the number of its next node.
    leaf: Option<(Stated, usize, Sum)>,
    /// Bytes of the directory's path.
    path: usize,
}

impl<'a> TreeCheck<'a> {
    pub(crate) fn new(
        catalog: &'a Catalog,
        damage: &'a KnownDamage,
        memo: Memo,
        affected: Affected<'a>,
        task: &'a Task<'a>,
    ) -> Result<Self> {
        let chunks = Arc::new(ChunkReader::new(catalog.repo().clone(), catalog.index().clone(), FRAMES)?);
        let trees = TreeReader::new(chunks, PAGES)?;
        let lookup = ChunkLookup::new(catalog.index(), damage);
        Ok(TreeCheck { trees, lookup, memo, references: 0, affected, pages: 0, missing: 0, task })
    }

    pub(crate) fn progress(&self, done: u64, all: u64) {
        let event = Event::Progress { entries: done, bytes: 0, total_entries: all, total_bytes: 0, unit: "snapshots" };
        self.affected.observer().event(&event);
    }

    /// Goes through the tree of a snapshot, its scan records and its hard links.
    pub(super) fn snapshot(&mut self, snapshot: &Snapshot, findings: &mut Findings<'_>) -> Result<()> {
        self.affected.begin(snapshot.id);
        let mut path = Vec::new();
        let mut sum = self.node(&snapshot.root, &path, findings)?;
        if let Kind::Directory(directory) = &snapshot.root.kind {
            sum.add(self.directory(directory, &mut path, findings)?);
        }
        let name = Name::Snapshot(snapshot.id);
        self.scan(snapshot, &name, findings)?;
        self.links(snapshot, sum, &name, findings)?;
        self.affected.end();
        Ok(())
    }

    /// Says what there is to say at the end.
    pub(crate) fn finish(&mut self, findings: &mut Findings<'_>) {
        findings.rest_of_chunks();
        self.missing = findings.lost_chunks() as u64;
    }

    /// A page is visited.
    pub(super) fn visited(&mut self) -> Result<()> {
        self.pages += 1;
        go_on(self.task)
    }

    /// Everything below a directory, whose path is `path`.
    fn directory(&mut self, root: &Directory, path: &mut Vec<u8>, findings: &mut Findings<'_>) -> Result<Sum> {
        let mut total = Sum::default();
        let mut stack: Vec<CheckLevel> = self.enter(root, path.len(), &mut total).into_iter().collect();
        while let Some(level) = stack.last_mut() {
            path.truncate(level.path);
            if level.leaf.is_some() {
                let below = self.next_node(level, path, findings)?;
                let deeper = below.and_then(|directory| {
                    let sum = level.leaf.as_mut().map(|(_, _, sum)| sum)?;
                    self.enter(&directory, path.len(), sum)
                });
                stack.extend(deeper);
                continue;
            }
            if let Some(sum) = self.next_leaf(level, path, findings)? {
                stack.pop();
                match stack.last_mut().and_then(|parent| parent.leaf.as_mut()) {
                    Some((_, _, parent)) => parent.add(sum),
                    None => total.add(sum),
                }
            }
        }
        Ok(total)
    }

    /// Begins a directory; `None`: it is empty, or all about it is known and was added to `sum`.
    fn enter(&mut self, directory: &Directory, path: usize, sum: &mut Sum) -> Option<CheckLevel> {
        let root = directory.root?;
        let stated = Stated::root(&root, Some(directory.entries), Some(directory.descendants));
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"directory").update(&directory.subdirs.to_le_bytes());
        let mark = short(hasher) ^ stated.mark(PageKind::Directory);
        let full = self.affected.is_full();
        match self.memo.get(mark).filter(|known| known.hits == 0 || full) {
            Some(known) => {
                self.affected.more(known.hits);
                sum.add(known);
                None
            }
            None => {
                let cursor = TreeCursor::new(PageKind::Directory, stated);
                Some(CheckLevel { directory: *directory, mark, cursor, leaf: None, path })
            }
        }
    }

    /// Goes on to the next leaf of a directory; at its end answers what is below it.
    fn next_leaf(&mut self, level: &mut CheckLevel, path: &[u8], findings: &mut Findings<'_>) -> Result<Option<Sum>> {
        let full = self.affected.is_full();
        match level.cursor.step(&self.trees, &mut self.memo, |sum| sum.hits == 0 || full) {
            TreeStep::Known(sum) => self.affected.more(sum.hits),
            TreeStep::Broken(stated, error) => self.lost_page(&stated, error, path, findings)?,
            TreeStep::Leaf(stated) => {
                self.visited()?;
                match self.leaf(&stated) {
                    Ok(()) => level.leaf = Some((stated, 0, Sum::default())),
                    Err(error) => {
                        self.lost_page(&stated, error, path, findings)?;
                        level.cursor.leaf_done(Sum::HIT, &mut self.memo);
                    }
                }
            }
            TreeStep::Done(mut sum) => {
                if sum.hits == 0 && sum.subdirs != level.directory.subdirs {
                    let page = level.directory.root.map(|root| root.page.short()).unwrap_or_default();
                    findings
                        .damage(format!("tree page {page}"), "the directory has another number of subdirectories than stated");
                    self.affected.hit(path, "the directory's counts are wrong");
                    sum.hits += 1;
                }
                // Subdirectories are counted for the directory they are in.
                sum.subdirs = 0;
                self.memo.put(level.mark, sum);
                return Ok(Some(sum));
            }
        }
        Ok(None)
    }

    /// Reads a leaf of a directory and compares it with what is stated of it.
    fn leaf(&self, stated: &Stated) -> Result<()> {
        let page = self.trees.nodes(&stated.page)?;
        let weight = page.nodes.iter().try_fold(0u64, |sum, node| sum.checked_add(node.weight()));
        let weight = weight.ok_or_else(|| Error::corrupt(format!("tree page {}: it states 2⁶⁴ entries", stated.page.short())))?;
        let keys = page.nodes.first().zip(page.nodes.last()).map(|(first, last)| (&first.name[..], &last.name[..]));
        stated.compare(page.nodes.len() as u64, Some(weight), keys)
    }

    fn lost_page(&mut self, stated: &Stated, error: Error, path: &[u8], findings: &mut Findings<'_>) -> Result<()> {
        self.broken_page(stated, error, findings)?;
        let entries = stated.weight.or(stated.count).unwrap_or(0);
        self.affected.hit(path, &format!("a part of the directory is lost, with {entries} entries in it and below"));
        Ok(())
    }

    /// Looks at the next node of the leaf that is being visited, and adds its name to `path`. Answers what is below it,
    /// if it is a directory.
    fn next_node(
        &mut self,
        level: &mut CheckLevel,
        path: &mut Vec<u8>,
        findings: &mut Findings<'_>,
    ) -> Result<Option<Directory>> {
        let Some((stated, at, sum)) = &mut level.leaf else { return Ok(None) };
        // The page is not held while what is below its nodes is visited: trees may be deep.
        let page = match self.trees.nodes(&stated.page) {
            Ok(page) => page,
            Err(e) => {
                let stated = stated.clone();
                level.leaf = None;
                level.cursor.leaf_done(Sum::HIT, &mut self.memo);
                return self.lost_page(&stated, e, path, findings).map(|()| None);
            }
        };
        let Some(node) = page.nodes.get(*at) else {
            level.cursor.leaf_done(*sum, &mut self.memo);
            level.leaf = None;
            return Ok(None);
        };
        *at += 1;
        path.push(b'/');
        path.extend_from_slice(&node.name);
        sum.add(self.node(node, path, findings)?);
        let directory = node.directory().copied();
        sum.subdirs += u64::from(directory.is_some());
        Ok(directory)
    }

    /// Looks at a node without what is below it.
    fn node(&mut self, node: &Node, path: &[u8], findings: &mut Findings<'_>) -> Result<Sum> {
        let mut sum = Sum::default();
        if node.link.is_some() {
            sum.value = weigh(node);
        }
        let mut wrong = match &node.kind {
            Kind::File(Content::Inline(_)) => None,
            Kind::File(content) => self.content(content, findings)?,
            _ => None,
        };
        if let Xattrs::Stored(id) = &node.meta.xattrs
            && let Err(e) = self.trees.xattrs(node)
        {
            match self.lookup.state(PackKind::Tree, id, None)? {
                ChunkState::Lost => {}
                ChunkState::Unknown => findings.lost_chunk(id),
                _ => findings.error(&e),
            }
            wrong = wrong.or(Some("its extended attributes are lost"));
        }
        if let Some(message) = wrong {
            self.affected.hit(path, message);
            sum.hits = 1;
        }
        Ok(sum)
    }

    fn scan(&mut self, snapshot: &Snapshot, name: &Name, findings: &mut Findings<'_>) -> Result<()> {
        let Some(root) = &snapshot.scan else { return Ok(()) };
        let root = Stated::root(root, Some(snapshot.nodes()), None);
        let sum = drain(self, PageKind::Scan, root, true, findings, &mut |walk, stated| {
            let records = walk.trees.scan_leaf(&stated.page)?;
            stated.compare(records.len() as u64, None, None).map(|()| Sum::default())
        })?;
        if sum.hits > 0 {
            findings.damage(name, "its scan records are damaged: it can be restored, but the next ingest reads every file again");
        }
        Ok(())
    }

    /// Compares the table of hard links with the links in the tree: each group as often as it says, its first link where
    /// it says, and the others the same as the first. `tree` adds up the links of the tree.
    fn links(&mut self, snapshot: &Snapshot, tree: Sum, name: &Name, findings: &mut Findings<'_>) -> Result<()> {
        // The same tree with the same table was compared before.
        let both = snapshot.links.as_ref().map(|root| pair(snapshot, root));
        if both.is_some_and(|both| self.memo.get(both).is_some()) {
            return Ok(());
        }
        let table = match &snapshot.links {
            Some(root) => self.link_table(snapshot, root, findings)?,
            None => Sum::default(),
        };
        let message = match () {
            () if table.hits > 0 => "its table of hard links is damaged",
            () if tree.hits == 0 && table.value != tree.value => "its table of hard links is not that of its tree",
            () => {
                both.into_iter().filter(|_| tree.hits == 0).for_each(|both| self.memo.put(both, Sum::default()));
                return Ok(());
            }
        };
        findings.damage(name, message);
        self.affected.hit(b"", message);
        Ok(())
    }

    fn link_table(&mut self, snapshot: &Snapshot, root: &Root, findings: &mut Findings<'_>) -> Result<Sum> {
        drain(self, PageKind::Links, Stated::root(root, None, None), false, findings, &mut |walk, stated| {
            let links = walk.trees.link_leaf(&stated.page)?;
            let keys = links.first().zip(links.last()).map(|(first, last)| (&first.group.0[..], &last.group.0[..]));
            stated.compare(links.len() as u64, None, keys)?;
            let mut sum = Sum::default();
            for link in links.iter() {
                match walk.first_link(snapshot, link) {
                    Ok(Some(first)) => {
                        sum.value = sum.value.wrapping_add(weigh(&first).wrapping_mul(u64::from(link.count)));
                    }
                    Ok(None) => sum.hits += 1,
                    // The tree is damaged, which is reported there: the table is not to blame.
                    Err(_) => {}
                }
            }
            Ok(sum)
        })
    }

    /// The link of a group that is where the table says; `None`: it is none of them.
    fn first_link(&self, snapshot: &Snapshot, link: &LinkEntry) -> Result<Option<Node>> {
        let mut node = snapshot.root.clone();
        let mut position = link.first;
        while position > 0 {
            let Some(directory) = node.directory() else { return Ok(None) };
            match self.trees.entry_at(directory, position)? {
                Some(entry) => (position, node) = (position - entry.offset, entry.node().clone()),
                None => return Ok(None),
            }
        }
        Ok((node.link == Some(link.group)).then_some(node))
    }

    /// What was found damaged of packs while trees were read.
    pub(crate) fn found(&self) -> DamagedPacks {
        self.trees.chunks().found()
    }

    /// Chunks that no segment knows.
    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    /// Pages that were visited.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// References to chunks of files.
    pub(crate) fn references(&self) -> u64 {
        self.references
    }

    /// Entries that lose something, and snapshots that have some.
    pub(crate) fn hits(&self) -> (u64, u64) {
        self.affected.total()
    }

    /// What was found below each page.
    pub(crate) fn into_memo(self) -> Memo {
        self.memo
    }
}

/// What a link adds to the sum over a tree. Links of one group are of one kind and hold the same.
fn weigh(link: &Node) -> u64 {
    let (name, meta) = (Vec::new(), Metadata::default());
    let same =
        Node { name, meta, kind: link.kind.clone(), link: link.link, given: true, changed: false, left_out: Default::default() };
    let mut bytes = Vec::new();
    crate::format::node::encode_unchecked(&same, &mut bytes);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    short(hasher)
}

/// Names a tree together with a table of links.
fn pair(snapshot: &Snapshot, links: &Root) -> u64 {
    let tree = snapshot.root.directory().and_then(|directory| directory.root).map(|root| root.page.0).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"links").update(&tree).update(&links.page.0).update(&[links.height]);
    short(hasher)
}
