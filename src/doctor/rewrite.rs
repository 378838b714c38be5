//! Going on without what is lost: a snapshot is written anew with everything else that is in it. The old one is forgotten
//! only when the new one is there.

use std::collections::BTreeMap;

use crate::doctor::look::{is_loss, trees};
use crate::doctor::store::Restock;
use crate::doctor::{Doctor, Loss};
use crate::error::{Error, ErrorKind, Result};
use crate::format::page::{self, LinkEntry, PageKind};
use crate::ingest::chunks::FrameBuilder;
use crate::maintain::forget::{self, ForgetOptions};
use crate::model::{
    Annotation, Content, Directory, Item, Kind, LeftOut, LinkGroup, Node, Part, Pin, Remarks, Root, Snapshot, SnapshotId,
    Statistics, Xattrs, escape,
};
use crate::observe::Event;
use crate::repo::tree::TreeReader;
use crate::repo::tree::writer::TreeWriter;
use crate::repo::{annotations, snapshots};
use crate::sys::{process, users};

/// What became of a snapshot that lost something.
#[derive(Debug, Clone)]
pub struct WrittenAnew {
    /// The old one, which is forgotten now.
    pub old: SnapshotId,
    /// The new one; `None`: nothing of the old one was left, or it could not be read at all.
    pub new: Option<SnapshotId>,
    /// Entries that are not in the new one.
    pub lost: u64,
}

/// What a snapshot is without what it lost.
#[derive(Debug)]
struct WithoutLost {
    snapshot: Snapshot,
    /// Entries that are not in it.
    lost: u64,
}

/// Paths that are kept to say which parts are hit.
const PATHS: usize = 10_000;

impl Doctor<'_> {
    /// Writes every snapshot anew that loses something, without that, and then forgets the old one. Each new one has the tags,
    /// the note and the pin of the old one, and a note that says what it is. Snapshots that cannot be read are forgotten.
    pub fn drop_lost(&self, loss: &Loss, done: &mut dyn FnMut(&WrittenAnew)) -> Result<()> {
        let mut remarks = snapshots::find_all(self.repo)?.remarks;
        // Oldest first: numbers and times of receipt go the same way.
        for old in loss.snapshots.iter().rev().filter(|snapshot| loss.hit.contains(&snapshot.id)) {
            let rewritten = match self.dry {
                true => self.dry_restock().dry(|chunks| self.without(loss, old, chunks)).map(|without| (without, None))?,
                false => self.write_anew(loss, old)?,
            };
            let (without, new) = rewritten;
            if let Some(new) = new {
                self.say(old, new, without.lost, remarks.remove(&old.id).unwrap_or_default())?;
            }
            self.give_up(old.id)?;
            done(&WrittenAnew { old: old.id, new, lost: without.lost });
        }
        for (id, _) in &loss.unreadable {
            self.give_up(*id)?;
            done(&WrittenAnew { old: *id, new: None, lost: 0 });
        }
        Ok(())
    }

    fn dry_restock(&self) -> Restock<'_> {
        Restock { repo: self.repo, only: None, task: self.task }
    }

    fn write_anew(&self, loss: &Loss, old: &Snapshot) -> Result<(WithoutLost, Option<SnapshotId>)> {
        let mut without = None;
        let committed = self.dry_restock().commit(|chunks| {
            let made = without.insert(self.without(loss, old, chunks)?);
            match made.snapshot.nodes() {
                0 | 1 => Err(Error::new(ErrorKind::NotFound, "nothing is left")),
                _ => Ok(made.snapshot.clone()),
            }
        });
        match (without, committed) {
            (Some(without), Ok(new)) => Ok((without, Some(new.id))),
            (Some(without), Err(_)) if without.snapshot.nodes() <= 1 => Ok((without, None)),
            (_, Err(e)) => Err(e),
            (None, Ok(_)) => {
                Err(Error::new(ErrorKind::Io, "a snapshot was written that nobody made: this is a defect of yester"))
            }
        }
    }

    fn give_up(&self, id: SnapshotId) -> Result<()> {
        if self.dry {
            return Ok(());
        }
        let options = ForgetOptions { why: b"yester doctor --drop-lost".to_vec(), grace: 0 };
        match forget::forget(self.repo, &[id], &options, self.task)?.as_slice() {
            [] => Err(Error::new(ErrorKind::Io, format!("snapshot {} could not be forgotten", id.short()))),
            _ => Ok(()),
        }
    }

    /// Annotates the new snapshot.
    fn say(&self, old: &Snapshot, new: SnapshotId, lost: u64, remarks: Remarks) -> Result<()> {
        let mut note = format!("without {lost} lost entries of {} (yester doctor)", old.id.short()).into_bytes();
        if !remarks.note.is_empty() {
            note = [&remarks.note[..], b"; ", &note[..]].concat();
        }
        let annotation = Annotation {
            snapshot: new,
            time: self.task.now(),
            host: process::host_name(),
            user: users::user_name(process::user()).unwrap_or_default(),
            clears_tags: false,
            removed: Vec::new(),
            added: Vec::new(),
            note: Some(note),
            pin: (remarks.pin != Pin::Off).then_some(remarks.pin),
        };
        annotations::write(self.repo, &annotations::read_all(self.repo)?, &annotation)
    }

    /// Builds the trees of `old` without what is lost, and finishes.
    fn without(&self, loss: &Loss, old: &Snapshot, chunks: FrameBuilder<'_>) -> Result<WithoutLost> {
        let trees = trees(self.repo)?;
        let mut writer = Remains {
            doctor: self,
            loss,
            trees: &trees,
            chunks,
            // The root is one.
            statistics: Statistics { files: 0, directories: 1, others: 0, bytes: 0, ..old.statistics },
            groups: BTreeMap::new(),
            position: 0,
            lost: 0,
            paths: Vec::new(),
            seen: (0, old.nodes()),
        };
        let root = writer.tree(&old.root)?;
        let links = writer.link_table()?;
        let Remains { chunks, mut statistics, lost, paths, .. } = writer;
        let bytes_new = chunks.finish()?;
        (statistics.bytes_new, statistics.errors) = (bytes_new, statistics.errors.saturating_add(lost));
        let mut snapshot =
            Snapshot { root, links, scan: None, parent: None, finished: self.task.now(), statistics, ..old.clone() };
        snapshot.program = format!("yester {}", env!("CARGO_PKG_VERSION")).into_bytes();
        parts(&mut snapshot.composition.parts, &paths);
        Ok(WithoutLost { snapshot, lost })
    }
}

/// Parts that lose something are not complete any more.
fn parts(parts: &mut [Part], lost: &[Vec<u8>]) {
    let places: Vec<Vec<u8>> = parts.iter().map(|part| part.path.clone()).filter(|path| !path.is_empty()).collect();
    let inside = |path: &[u8], place: &[u8]| path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    for part in parts.iter_mut() {
        let hit = lost.iter().filter(|path| match part.path.is_empty() {
            true => !places.iter().any(|place| inside(path, place)),
            false => inside(path, &part.path),
        });
        let hit = hit.count() as u64;
        if hit > 0 {
            part.errors = part.errors.saturating_add(hit);
            part.state = if part.state == Part::FAILED { Part::FAILED } else { Part::INCOMPLETE };
        }
    }
}

/// A directory under way.
struct RemainsLevel {
    node: Node,
    /// Its leaves, the last first; `None`: a lost one, with so many entries in it and below.
    leaves: Vec<Result<crate::model::ChunkId, u64>>,
    /// Nodes of the leaf at hand, the last first.
    nodes: Vec<Node>,
    writer: TreeWriter,
    directory: Directory,
    path: usize,
    lost: bool,
}

/// Writes what is left of a snapshot.
struct Remains<'a> {
    doctor: &'a Doctor<'a>,
    loss: &'a Loss,
    trees: &'a TreeReader,
    chunks: FrameBuilder<'a>,
    statistics: Statistics,
    /// Each group's first position and how many names it has.
    groups: BTreeMap<LinkGroup, (u64, u32)>,
    /// Of the last node, in preorder.
    position: u64,
    lost: u64,
    paths: Vec<Vec<u8>>,
    seen: (u64, u64),
}

impl Remains<'_> {
    fn tree(&mut self, root: &Node) -> Result<Node> {
        let mut path = Vec::new();
        let mut stack = vec![self.open(root.clone(), &path)?];
        let mut done: Option<Node> = None;
        while let Some(top) = stack.last_mut() {
            path.truncate(top.path);
            if let Some(node) = done.take() {
                let mut bytes = Vec::new();
                crate::format::node::encode(&node, &mut bytes)?;
                top.directory.entries += 1;
                top.directory.descendants += node.weight();
                top.directory.subdirs += u64::from(node.directory().is_some());
                top.writer.push(&bytes, node.weight(), &node.name, || page::key_hash(&node.name), &mut self.chunks)?;
            }
            let Some(mut node) = top.nodes.pop() else {
                match top.leaves.pop() {
                    Some(Ok(leaf)) => match self.trees.nodes(&leaf) {
                        Ok(leaf) => top.nodes = leaf.nodes.iter().rev().cloned().collect(),
                        Err(e) if !is_loss(&e) => return Err(e),
                        Err(_) => {
                            top.lost = true;
                            self.lose(&path, 1);
                        }
                    },
                    Some(Err(entries)) => {
                        top.lost = true;
                        self.lose(&path, entries);
                    }
                    None => {
                        let Some(open) = stack.pop() else { break };
                        done = Some(self.close(open)?);
                    }
                }
                continue;
            };
            path.push(b'/');
            path.extend_from_slice(&node.name);
            if !self.is_whole(&node)? {
                top.lost = true;
                self.lose(&path, 1);
                continue;
            }
            self.attributes(&mut node)?;
            self.count(&node)?;
            match node.directory() {
                Some(_) => stack.push(self.open(node, &path)?),
                None => done = Some(node),
            }
        }
        done.ok_or_else(|| Error::corrupt("a tree has no root"))
    }

    fn open(&mut self, mut node: Node, path: &[u8]) -> Result<RemainsLevel> {
        if path.is_empty() {
            self.attributes(&mut node)?;
        }
        let source = node.directory().copied().unwrap_or_default();
        let mut leaves = Vec::new();
        if let Some(root) = &source.root {
            self.leaves(root, source.descendants, &mut leaves)?;
        }
        leaves.reverse();
        let directory = Directory::default();
        let writer = TreeWriter::new(PageKind::Directory);
        Ok(RemainsLevel { node, leaves, nodes: Vec::new(), writer, directory, path: path.len(), lost: false })
    }

    /// The leaves of a directory in order; of an inner page that is lost, what it says is below it.
    fn leaves(&self, root: &Root, entries: u64, out: &mut Vec<Result<crate::model::ChunkId, u64>>) -> Result<()> {
        let mut stack = vec![(root.page, root.height, entries)];
        while let Some((id, level, entries)) = stack.pop() {
            let read = match level {
                0 => self.trees.nodes(&id).map(|_| out.push(Ok(id))),
                _ => self.trees.children(&id, PageKind::Directory, level).map(|children| {
                    stack.extend(children.iter().rev().map(|child| (child.page, level - 1, child.weight)));
                }),
            };
            match read {
                Err(e) if is_loss(&e) => out.push(Err(entries)),
                other => other?,
            }
        }
        Ok(())
    }

    fn close(&mut self, open: RemainsLevel) -> Result<Node> {
        let RemainsLevel { mut node, writer, directory, lost, .. } = open;
        let root = writer.finish(&mut self.chunks)?;
        if lost {
            node.left_out.add(LeftOut::LOST);
        }
        node.kind = Kind::Directory(Directory { root, ..directory });
        Ok(node)
    }

    fn lose(&mut self, path: &[u8], entries: u64) {
        self.lost = self.lost.saturating_add(entries.max(1));
        if self.paths.len() < PATHS {
            self.paths.push(path.to_vec());
        }
        let message = match entries {
            1 => "it is lost, and left out".to_owned(),
            n => format!("{n} entries in it and below are lost, and left out"),
        };
        let subject = if path.is_empty() { b"/" } else { path };
        self.doctor.task.observer.event(&Event::Note { subject, message: &message });
    }

    /// Whether all of a file's content can be had.
    fn is_whole(&self, node: &Node) -> Result<bool> {
        let Kind::File(content) = &node.kind else { return Ok(true) };
        let mut whole = true;
        if let Content::Tree { root, .. } = content
            && self.loss.chunks.contains_key(&root.page.key())
        {
            return Ok(false);
        }
        let looked = self.trees.items(content, 0, &mut |_, item| {
            whole = !matches!(item, Item::Chunk { id, .. } if self.loss.chunks.contains_key(&id.key()));
            Ok(whole)
        });
        match looked {
            Err(e) if is_loss(&e) => Ok(false),
            other => other.map(|()| whole),
        }
    }

    /// Attributes that are lost are left out.
    fn attributes(&mut self, node: &mut Node) -> Result<()> {
        if let Xattrs::Stored(id) = &node.meta.xattrs
            && self.loss.chunks.contains_key(&id.key())
        {
            node.meta.xattrs = Xattrs::None;
            node.left_out.add(LeftOut::ATTRIBUTES);
        }
        Ok(())
    }

    fn count(&mut self, node: &Node) -> Result<()> {
        if self.doctor.task.is_stopped() {
            return Err(Error::new(ErrorKind::Interrupted, format!("stopped at {}", escape(&node.name))));
        }
        self.position += 1;
        self.seen.0 += 1;
        let (entries, total_entries) = self.seen;
        self.doctor.task.observer.event(&Event::Progress { entries, bytes: 0, total_entries, total_bytes: 0, unit: "entries" });
        if let Some(group) = node.link {
            let (_, names) = self.groups.entry(group).or_insert((self.position, 0));
            *names = names.saturating_add(1);
        }
        match &node.kind {
            Kind::File(content) => {
                self.statistics.files += 1;
                self.statistics.bytes += content.size();
            }
            Kind::Directory(_) => self.statistics.directories += 1,
            _ => self.statistics.others += 1,
        }
        Ok(())
    }

    fn link_table(&mut self) -> Result<Option<Root>> {
        let mut writer = TreeWriter::new(PageKind::Links);
        for (group, (first, count)) in std::mem::take(&mut self.groups) {
            let mut bytes = Vec::new();
            page::put_link(&LinkEntry { group, first, count }, &mut bytes);
            writer.push(&bytes, 0, &group.0, || u64::from(group.0[0]), &mut self.chunks)?;
        }
        writer.finish(&mut self.chunks)
    }
}
