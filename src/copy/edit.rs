//! Snapshots of a repository anew: without some paths, under another host, at another time.
//!
//! The trees are gone through, and written again page by page. A page that is as it was has the same name, and is not
//! stored again; content is not read at all. Everything that the new snapshot names is looked up as a writer does, since
//! the old one may be forgotten and pruned at any time.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::copy::packing;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::format::page::{self, PageKind, ScanRecord};
use crate::ingest::chunks::FrameBuilder;
use crate::ingest::groups::LinkGroups;
use crate::ingest::others::Others;
use crate::ingest::sink;
use crate::model::patterns::Patterns;
use crate::model::{ChunkId, Content, Directory, Item, Kind, LeftOut, Node, Root, Rule, Snapshot, Statistics, Timestamp, Xattrs};
use crate::observe::Event;
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::index::known::KnownChunks;
use crate::repo::tree::writer::TreeWriter;
use crate::repo::tree::{Entry, TreeReader};
use crate::task::Task;

/// A page of scan records is closed after so many, as by an ingest.
const SCAN_RECORDS: u64 = 2048;

/// What is to be different.
#[derive(Debug, Default)]
pub struct SnapshotEdit {
    patterns: Patterns,
    texts: Vec<String>,
    host: Option<Vec<u8>>,
    time: Option<Timestamp>,
}

impl SnapshotEdit {
    /// Without the paths that these patterns match; of this host, if one is given; at this time, if one is given.
    pub fn new(patterns: Vec<String>, host: Option<Vec<u8>>, time: Option<Timestamp>) -> Result<Self> {
        let compiled = Patterns::new(patterns.iter().map(|pattern| (pattern.as_str(), false)))?;
        Ok(SnapshotEdit { patterns: compiled, texts: patterns, host, time })
    }

    /// Whether host or time of the snapshot will be another.
    pub fn renames(&self, snapshot: &Snapshot) -> bool {
        self.host.as_ref().is_some_and(|host| *host != snapshot.host) || self.time.is_some_and(|time| time != snapshot.time)
    }

    /// The patterns that have matched nothing so far.
    pub fn unmatched(&self) -> Vec<String> {
        self.patterns.unmatched().map(str::to_owned).collect()
    }
}

/// Tells `out` of every entry that the snapshot is to lose, by its path; what is below it is not told. Answers how many
/// entries that are, with all that is below them.
pub fn dropped(
    trees: &TreeReader,
    snapshot: &Snapshot,
    edit: &SnapshotEdit,
    out: &mut dyn FnMut(&[u8], &Node) -> Result<()>,
) -> Result<u64> {
    let (mut sum, mut todo) = (0, vec![(Vec::new(), snapshot.root.directory().copied().unwrap_or_default())]);
    while let Some((path, directory)) = todo.pop().filter(|_| !edit.patterns.is_empty()) {
        for entry in trees.entries(&directory) {
            let entry = entry?;
            let node = entry.node();
            let path = [path.as_slice(), b"/", &node.name].concat();
            if edit.patterns.find(&path).is_some() {
                out(&path, node)?;
                sum += node.weight();
            } else if let Some(directory) = node.directory() {
                todo.push((path, *directory));
            }
        }
    }
    Ok(sum)
}

/// Makes snapshots anew in the repository that they are in.
pub struct SnapshotEditor<'a> {
    repo: &'a Arc<Repository>,
    trees: &'a TreeReader,
    task: &'a Task<'a>,
}

impl<'a> SnapshotEditor<'a> {
    /// An editor that reads trees by `trees`, of the same repository.
    pub fn new(repo: &'a Arc<Repository>, trees: &'a TreeReader, task: &'a Task<'a>) -> Self {
        SnapshotEditor { repo, trees, task }
    }

    /// Commits a new snapshot that is as `snapshot` but for the edit. The old one stays. Errors: something that it needs
    /// is damaged, or about to be deleted.
    pub fn edit(&self, snapshot: &Snapshot, edit: &SnapshotEdit) -> Result<Snapshot> {
        packing::in_session(self.repo, self.task, &mut |id| {
            let index = Arc::new(Index::load_for_writing(self.repo)?);
            let others = crate::repo::session::others(self.repo, id)?;
            let beside = Mutex::new(Others::new(id, index.clone(), others, Arc::default()));
            let (mut new, stored) = packing::packed(self.repo, id, (&index, &beside), &self.task.stop, |chunks| {
                TreeEditor::new(self, &index, chunks, edit).run(snapshot)
            })?;
            new.id = id;
            packing::commit(self.repo, new, others || stored.counted_on_others, self.task)
        })
    }
}

/// A directory whose entries are gone through.
struct EditedDirectory {
    node: Node,
    source: Directory,
    /// Its position in the old snapshot.
    position: u64,
    /// The entry that was gone through last.
    last: Option<Entry>,
    writer: TreeWriter,
    directory: Directory,
}

/// Makes the trees of one snapshot anew.
struct TreeEditor<'a> {
    trees: &'a TreeReader,
    index: &'a Index,
    known: KnownChunks,
    chunks: FrameBuilder<'a>,
    edit: &'a SnapshotEdit,
    task: &'a Task<'a>,
    path: Vec<u8>,
    /// The next position in the new snapshot.
    next: u64,
    links: LinkGroups,
    scan: Option<ScanCopy>,
    statistics: Statistics,
    dropped: bool,
    total: (u64, u64),
}

/// The list of scan records, without those of what is dropped.
struct ScanCopy {
    source: Root,
    /// The page that was read last, and the number of its first record.
    page: (u64, Arc<Vec<ScanRecord>>),
    writer: TreeWriter,
    last: ScanRecord,
}

impl<'a> TreeEditor<'a> {
    fn new(editor: &SnapshotEditor<'a>, index: &'a Index, chunks: FrameBuilder<'a>, edit: &'a SnapshotEdit) -> Self {
        let SnapshotEditor { repo, trees, task } = *editor;
        TreeEditor {
            trees,
            index,
            known: KnownChunks::default(),
            chunks,
            edit,
            task,
            path: Vec::new(),
            next: 0,
            links: LinkGroups::new(repo.scratch()),
            scan: None,
            statistics: Statistics::default(),
            dropped: false,
            total: (0, 0),
        }
    }

    fn run(mut self, snapshot: &Snapshot) -> Result<Snapshot> {
        self.total = (snapshot.nodes(), snapshot.statistics.bytes);
        self.statistics = snapshot.statistics;
        self.scan = snapshot.scan.map(|source| ScanCopy {
            source,
            page: (0, Arc::default()),
            writer: TreeWriter::new(PageKind::Scan),
            last: ScanRecord::default(),
        });
        let root = self.tree(&snapshot.root)?;
        let scan = self.scan.take().map(|scan| scan.writer.finish(&mut self.chunks)).transpose()?.flatten();
        let links = self.links.write(None, &mut self.chunks)?;
        self.statistics.bytes_new = self.chunks.finish()?;
        let mut rules = snapshot.rules.clone();
        if self.dropped {
            // A restore that deletes must not take for gone what the snapshot was made to lose.
            let new = self.edit.texts.iter().map(|text| Rule::new(Rule::PATTERN, text.as_bytes()));
            rules.extend(new.filter(|rule| !snapshot.rules.contains(rule)).collect::<Vec<_>>());
        }
        let mut composition = snapshot.composition.clone();
        // It is no copy of what it was made from.
        composition.origin = None;
        Ok(Snapshot {
            root,
            scan,
            links,
            rules,
            composition,
            parent: None,
            host: self.edit.host.clone().unwrap_or_else(|| snapshot.host.clone()),
            time: self.edit.time.unwrap_or(snapshot.time),
            statistics: self.statistics,
            ..snapshot.clone()
        })
    }

    /// Goes through everything below `root`, without recursion: a tree may be deeper than the stack.
    fn tree(&mut self, root: &Node) -> Result<Node> {
        let mut stack = vec![self.open(root.clone(), 0)?];
        while let Some(top) = stack.last_mut() {
            let next = match &top.last {
                None => self.trees.entry_number(&top.source, 0)?,
                Some(last) => self.trees.next(&top.source, last)?,
            };
            if let Some(entry) = next {
                let (node, position) = (entry.node().clone(), top.position + entry.offset);
                top.last = Some(entry);
                let before = self.path.len();
                self.path.push(b'/');
                self.path.extend_from_slice(&node.name);
                if self.edit.patterns.find(&self.path).is_some() {
                    top.node.left_out.add(LeftOut::EXCLUDED);
                    self.dropped = true;
                    self.path.truncate(before);
                    self.uncount(&node)?;
                } else if node.directory().is_some() {
                    stack.push(self.open(node, position)?);
                } else {
                    self.path.truncate(before);
                    self.leaf(&node)?;
                    self.record(&node, position)?;
                    self.add(top, &node)?;
                }
                continue;
            }
            let Some(open) = stack.pop() else { break };
            let node = self.close(open)?;
            match stack.last_mut() {
                Some(parent) => {
                    self.path.truncate(self.path.len().saturating_sub(node.name.len() + 1));
                    self.add(parent, &node)?;
                }
                None => return Ok(node),
            }
        }
        Err(Error::corrupt("a tree has no root"))
    }

    fn open(&mut self, node: Node, position: u64) -> Result<EditedDirectory> {
        if self.task.is_stopped() {
            return Err(sink::stopped());
        }
        self.attributes(&node)?;
        self.record(&node, position)?;
        let source = node.directory().copied().unwrap_or_default();
        let (writer, directory) = (TreeWriter::new(PageKind::Directory), Directory::default());
        Ok(EditedDirectory { node, source, position, last: None, writer, directory })
    }

    fn close(&mut self, open: EditedDirectory) -> Result<Node> {
        let root = open.writer.finish(&mut self.chunks)?;
        Ok(Node { kind: Kind::Directory(Directory { root, ..open.directory }), ..open.node })
    }

    fn add(&mut self, top: &mut EditedDirectory, node: &Node) -> Result<()> {
        let mut bytes = Vec::new();
        crate::format::node::encode(node, &mut bytes)?;
        top.directory.entries += 1;
        top.directory.descendants += node.weight();
        top.directory.subdirs += u64::from(node.directory().is_some());
        top.writer.push(&bytes, node.weight(), &node.name, || page::key_hash(&node.name), &mut self.chunks)
    }

    /// Takes the next position for a node that had `position`.
    fn record(&mut self, node: &Node, position: u64) -> Result<()> {
        self.links.join(node, self.next)?;
        self.next += 1;
        let (total_entries, total_bytes) = self.total;
        self.task.observer.event(&Event::Progress { entries: self.next, bytes: 0, total_entries, total_bytes, unit: "entries" });
        let Some(scan) = &mut self.scan else { return Ok(()) };
        let of = |(first, records): &(u64, Arc<Vec<ScanRecord>>)| {
            position.checked_sub(*first).and_then(|at| records.get(usize::try_from(at).ok()?)).copied()
        };
        let record = match of(&scan.page) {
            Some(record) => record,
            None => {
                scan.page = self.trees.scan_page(&scan.source, position)?;
                of(&scan.page).ok_or_else(|| Error::corrupt("the list of scan records is shorter than the tree"))?
            }
        };
        if scan.writer.at_page_start() {
            scan.last = ScanRecord::default();
        }
        let last = std::mem::replace(&mut scan.last, record);
        let hash = || {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&record.inode.to_le_bytes());
            key[8..].copy_from_slice(&record.ctime.secs.to_le_bytes());
            page::key_hash(&key)
        };
        scan.writer.push_with(|out| page::put_scan(&record, &last, out), hash, SCAN_RECORDS, &mut self.chunks)
    }

    /// Everything that a file names can be counted on.
    fn leaf(&mut self, node: &Node) -> Result<()> {
        self.attributes(node)?;
        match &node.kind {
            Kind::File(Content::Items(items)) => self.items(items),
            Kind::File(Content::Tree { root, .. }) => {
                let mut todo = vec![(root.page, root.height)];
                while let Some((id, level)) = todo.pop() {
                    self.there(PackKind::Tree, &id)?;
                    match level {
                        0 => self.items(&self.trees.item_page(&id)?)?,
                        _ => {
                            let children = self.trees.children(&id, PageKind::Recipe, level)?;
                            todo.extend(children.iter().map(|child| (child.page, level - 1)));
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn items(&mut self, items: &[Item]) -> Result<()> {
        items.iter().try_for_each(|item| match item {
            Item::Chunk { id, .. } => self.there(PackKind::Data, id),
            Item::Hole { .. } => Ok(()),
        })
    }

    fn attributes(&mut self, node: &Node) -> Result<()> {
        match &node.meta.xattrs {
            Xattrs::Stored(id) => self.there(PackKind::Tree, id),
            _ => Ok(()),
        }
    }

    fn there(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        if self.known.find(self.index, kind, &id.key())?.is_some() {
            return Ok(());
        }
        let text = format!(
            "chunk {} of {} cannot be counted on: it is damaged, or about to be deleted (yester check says which)",
            id.short(),
            crate::model::escape(&self.path)
        );
        Err(Error::new(ErrorKind::Corrupt, text))
    }

    /// Takes what is dropped out of the counts.
    fn uncount(&mut self, node: &Node) -> Result<()> {
        let mut todo = vec![node.clone()];
        while let Some(node) = todo.pop() {
            let counts = &mut self.statistics;
            let count = match &node.kind {
                Kind::File(_) => &mut counts.files,
                Kind::Directory(_) => &mut counts.directories,
                _ => &mut counts.others,
            };
            *count = count.saturating_sub(1);
            if let Kind::File(_) = node.kind {
                counts.bytes = counts.bytes.saturating_sub(node.size());
            }
            if let (Some(with), true) = (&mut counts.with_attributes, node.meta.xattrs != Xattrs::None) {
                *with = with.saturating_sub(1);
            }
            let Some(directory) = node.directory() else { continue };
            for entry in self.trees.entries(directory) {
                todo.push(entry?.node().clone());
            }
        }
        Ok(())
    }
}
