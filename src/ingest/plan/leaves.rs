//! Entries that are no directories: which are adopted from the parent, which are read, and which are read in one batch.

use std::sync::Arc;

use crate::error::{IoContext, Result};
use crate::ingest::handles::Handle;
use crate::ingest::parent::ParentEntry;
use crate::ingest::plan::{Begun, ContentSource, Planner, WalkStep, metadata, record};
use crate::ingest::read::{BATCH, ReadTask, is_small};
use crate::ingest::sink::stopped;
use crate::model::{Content, Kind, LeftOut, LinkGroup, Node};
use crate::sys::filesystem::FileSystem;
use crate::sys::table::key_of;
use crate::sys::{Dir, FileKind, Stat, xattr};

/// What is known of an inode with several names: its group, and when it was changed.
pub(super) const MET: usize = 16 + 12;

/// Whether an entry is a further name of an inode that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// It is the first.
    First,
    /// It is.
    Another,
    /// It looks like one, but the inode was changed meanwhile, or its number is made up: its content has to tell.
    Perhaps,
}

/// How many files a batch may have.
const BATCH_FILES: usize = 512;

impl Planner<'_> {
    /// An entry that is no directory: `own_name` in `dir`, `name` in the snapshot.
    pub(super) fn leaf(
        &mut self,
        dir: &Arc<Handle>,
        own_name: &[u8],
        name: &[u8],
        stat: Stat,
        entry: Option<ParentEntry>,
    ) -> Result<()> {
        let mut begun = Box::new(Begun {
            node: Node {
                name: name.to_vec(),
                meta: metadata(&stat),
                kind: Kind::File(Content::Inline(Vec::new())),
                link: None,
                given: true,
                changed: false,
                left_out: LeftOut::default(),
            },
            xattrs: Vec::new(),
            record: record(&stat),
            before: entry.as_ref().filter(|_| self.listing).map(|e| Box::new(e.node().clone())),
            doubtful: false,
        });
        self.owners(&begun.node);
        let met = if stat.links > 1 { self.join_group(dir, own_name, &mut begun.node, &stat)? } else { Met::First };
        begun.doubtful = met == Met::Perhaps;
        if stat.kind == FileKind::File {
            self.walked.statistics.files += 1;
            let wanted = self.file(dir, own_name, stat, entry, &mut begun, met == Met::Another)?;
            return self.step(WalkStep::Leaf(begun, wanted));
        }
        match special(dir, own_name, &stat) {
            Ok(kind) => {
                begun.node.kind = kind;
                if let Err(e) = crate::format::node::check(&begun.node) {
                    self.lose(&format!("it cannot be stored: {e}"));
                    return Ok(());
                }
                self.walked.statistics.others += 1;
                begun.xattrs = self.attributes(xattr::find_at(dir, own_name), &mut begun.node.left_out);
                self.step(WalkStep::Leaf(begun, ContentSource::Nothing))
            }
            Err(e) => {
                let path = self.path.clone();
                self.warn(&path, &format!("it cannot be read: {e}"));
                self.lost = true;
                Ok(())
            }
        }
    }

    /// Puts an entry with several names into its group. What has another kind, size or time is another inode, whatever its
    /// number: it was used again meanwhile, or is made up.
    fn join_group(&mut self, dir: &Dir, own_name: &[u8], node: &mut Node, stat: &Stat) -> Result<Met> {
        let Stat { device, inode, size, mtime, ctime, .. } = *stat;
        let device_number = crate::sys::dir::device_number(device);
        let (secs, nanos) = (mtime.secs as u64, u64::from(mtime.nanos));
        let key = key_of([device_number, inode, stat.kind as u64, size, secs, nanos].map(u64::to_le_bytes).as_flattened());
        let mut changed = [0; 12];
        changed[..8].copy_from_slice(&ctime.secs.to_le_bytes());
        changed[8..].copy_from_slice(&ctime.nanos.to_le_bytes());
        let Some(found) = self.links.get(&key) else {
            let group = key_of(&self.path);
            let mut met = [0; MET];
            met[..16].copy_from_slice(&group);
            met[16..].copy_from_slice(&changed);
            self.links.put(&key, &met).at(|| "cannot remember hard links".to_owned())?;
            node.link = Some(LinkGroup(group));
            return Ok(Met::First);
        };
        let mut group = [0; 16];
        group.copy_from_slice(&found[..16]);
        node.link = Some(LinkGroup(group));
        let made_up = *self
            .made_up
            .entry(device)
            .or_insert_with(|| FileSystem::of_entry(dir, own_name).map_or(true, FileSystem::makes_up_inodes));
        Ok(if found[16..] == changed && !made_up { Met::Another } else { Met::Perhaps })
    }

    fn file(
        &mut self,
        dir: &Arc<Handle>,
        own_name: &[u8],
        stat: Stat,
        entry: Option<ParentEntry>,
        begun: &mut Begun,
        earlier: bool,
    ) -> Result<ContentSource> {
        let slot = self.slots;
        self.slots += 1;
        let mut task = ReadTask { slot, dir: dir.clone(), name: own_name.to_vec(), stat, base: None };
        let before = || entry.as_ref().map(|e| Box::new(e.node().clone()));
        if earlier {
            begun.before = begun.before.take().or_else(before);
            return Ok(ContentSource::Link(Box::new(task)));
        }
        let node = &mut begun.node;
        if let (Some(parent), Some(entry)) = (&mut self.parent, &entry)
            && parent.is_unchanged(entry, &stat)
            && self.adoption.allows(entry.node())?
        {
            node.kind = entry.node().kind.clone();
            node.meta.xattrs = entry.node().meta.xattrs.clone();
            node.meta.flags = entry.node().meta.flags;
            node.left_out = entry.node().left_out;
            self.walked.statistics.files_unchanged += 1;
            return Ok(ContentSource::Parent);
        }
        task.base = entry.as_ref().and_then(|e| match &e.node().kind {
            Kind::File(content @ (Content::Items(_) | Content::Tree { .. })) => Some(content.clone()),
            _ => None,
        });
        begun.before = begun.before.take().or_else(before);
        match is_small(&task.stat) {
            true => self.batch(task)?,
            false => self.outlets.big.send(task).map_err(|_| stopped())?,
        }
        Ok(ContentSource::Read(slot))
    }

    fn batch(&mut self, task: ReadTask) -> Result<()> {
        if self.batch_bytes + task.stat.size > BATCH {
            self.flush_batch()?;
        }
        self.batch_bytes += task.stat.size;
        self.batch.push(task);
        if self.batch.len() == BATCH_FILES { self.flush_batch() } else { Ok(()) }
    }

    /// Gives the files that wait for more to the readers.
    pub(super) fn flush_batch(&mut self) -> Result<()> {
        self.flush_objects()?;
        self.batch_bytes = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.outlets.small.send(batch).map_err(|_| stopped())
    }
}

/// What an entry is that has no content to be read.
fn special(dir: &Dir, name: &[u8], stat: &Stat) -> std::io::Result<Kind> {
    Ok(match stat.kind {
        FileKind::Symlink => Kind::Symlink(dir.read_link(name)?),
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice => Kind::CharDevice(stat.rdev.0, stat.rdev.1),
        FileKind::BlockDevice => Kind::BlockDevice(stat.rdev.0, stat.rdev.1),
        _ => return Err(std::io::Error::other("its type is unknown")),
    })
}
