//! Objects of a bucket on the planner's way: directories and files of its list, in step with the parent.

use std::sync::Arc;

use crate::error::Result;
use crate::format::page::ScanRecord;
use crate::ingest::bucket::{Bucket, WalkedBucket};
use crate::ingest::objects::{BATCH_OBJECTS, ObjectTask, stat};
use crate::ingest::parent::{ParentDir, ParentEntry};
use crate::ingest::plan::{Begun, ContentSource, Planner, WalkStep, metadata};
use crate::ingest::read::{BATCH, SMALL};
use crate::ingest::sink::stopped;
use crate::ingest::tell::EntryNotice;
use crate::model::bucket::{PlacedObject, attribute};
use crate::model::versions::{version_attribute, with_version};
use crate::model::{Content, Directory, Kind, LeftOut, Metadata, Node, Timestamp};
use crate::sys::process;
use crate::sys::xattr::{ReadXattrs, XattrList};

/// Permissions of directories that keys imply.
const MODE: u16 = 0o700;

/// A directory that keys imply.
struct ObjectLevel {
    name: Vec<u8>,
    parent: Option<ParentDir>,
    path_len: usize,
    left_out: LeftOut,
}

impl Planner<'_> {
    /// A bucket at the current path, called `name`.
    pub(super) fn bucket(
        &mut self,
        walked: &mut WalkedBucket,
        (bucket, objects): (&Arc<dyn Bucket>, Vec<PlacedObject>),
        name: &[u8],
        parent: Option<ParentDir>,
    ) -> Result<()> {
        walked.parent = parent.as_ref().map(|parent| parent.node().clone());
        let mut levels = vec![self.enter_objects(name, parent)?];
        // What is below this is left out.
        let mut excluded: Option<Vec<u8>> = None;
        for object in objects {
            if self.shutdown.is_wanted() {
                return Err(stopped());
            }
            if excluded.as_ref().is_some_and(|excluded| object.path.starts_with(excluded)) {
                continue;
            }
            let names = object.names();
            let Some((file, directories)) = names.split_last() else { continue };
            let common = levels.iter().skip(1).zip(directories).take_while(|(level, name)| level.name == **name).count();
            while levels.len() > common + 1 {
                self.leave_objects(&mut levels)?;
            }
            let mut skipped = false;
            for (depth, directory) in directories.iter().enumerate().skip(common) {
                let entry = self.object_entry(&mut levels, directory)?;
                if self.excludes_object(&mut levels, directory, None)? {
                    excluded = Some([&directories.get(..=depth).unwrap_or_default().join(&b'/')[..], b"/"].concat());
                    skipped = true;
                    break;
                }
                let parent = self.parent_dir(&entry);
                self.path.push(b'/');
                self.path.extend_from_slice(directory);
                let level = self.enter_objects(directory, parent)?;
                levels.push(level);
            }
            if skipped || self.excludes_object(&mut levels, file, Some(&object))? {
                continue;
            }
            let entry = self.object_entry(&mut levels, file)?;
            let file = file.to_vec();
            self.object(walked, bucket, object, &file, entry)?;
        }
        while !levels.is_empty() {
            self.leave_objects(&mut levels)?;
        }
        Ok(())
    }

    /// The parent's entry of a name in the directory at hand.
    fn object_entry(&mut self, levels: &mut [ObjectLevel], name: &[u8]) -> Result<Option<ParentEntry>> {
        let (Some(tree), Some(dir)) = (&self.parent, levels.last_mut().and_then(|level| level.parent.as_mut())) else {
            return Ok(None);
        };
        let (listing, mut gone) = (self.listing, Vec::new());
        let found = tree.entry(dir, name, &mut |node| {
            if listing {
                gone.push(EntryNotice::gone(node));
            }
        });
        gone.into_iter().try_for_each(|told| self.step(WalkStep::Tell(told)))?;
        Ok(found)
    }

    /// Whether the user does not want what is called `name` here; `object` where it is no directory.
    fn excludes_object(&mut self, levels: &mut [ObjectLevel], name: &[u8], object: Option<&PlacedObject>) -> Result<bool> {
        let path = [&self.path[..], b"/", name].concat();
        let mut stat =
            stat(object.map_or(0, |object| object.size), object.map_or(Timestamp::default(), |object| object.modified));
        if object.is_none() {
            stat.kind = crate::sys::FileKind::Directory;
        }
        let Some(why) = self.rules.excludes(&path, &stat) else { return Ok(false) };
        if let Some(level) = levels.last_mut() {
            level.left_out.add(LeftOut::EXCLUDED);
        }
        self.left_out(name, &stat, &why)?;
        Ok(true)
    }

    /// Begins the directory at the current path.
    fn enter_objects(&mut self, name: &[u8], parent: Option<ParentDir>) -> Result<ObjectLevel> {
        let meta = Metadata { mode: MODE, uid: process::user(), gid: process::group(), ..Metadata::default() };
        let node = Node {
            name: name.to_vec(),
            meta,
            kind: Kind::Directory(Directory::default()),
            link: None,
            given: true,
            changed: false,
            left_out: LeftOut::default(),
        };
        self.walked.statistics.directories += 1;
        self.owners(&node);
        let before = parent.as_ref().filter(|_| self.listing).map(|parent| Box::new(parent.node().clone()));
        let begun = Begun { node, xattrs: Vec::new(), record: ScanRecord::default(), before, doubtful: false };
        self.step(WalkStep::Enter(Box::new(begun), parent.as_ref().and_then(ParentDir::before)))?;
        Ok(ObjectLevel { name: name.to_vec(), parent, path_len: self.path.len(), left_out: LeftOut::default() })
    }

    fn leave_objects(&mut self, levels: &mut Vec<ObjectLevel>) -> Result<()> {
        let Some(mut level) = levels.pop() else { return Ok(()) };
        if let (Some(tree), Some(dir)) = (&self.parent, level.parent.as_mut().filter(|_| self.listing)) {
            let mut gone = Vec::new();
            tree.rest(dir, &mut |node| gone.push(EntryNotice::gone(node)));
            gone.into_iter().try_for_each(|told| self.step(WalkStep::Tell(told)))?;
        }
        if let Some(above) = levels.last() {
            self.path.truncate(above.path_len);
        }
        self.step(WalkStep::Leave(level.left_out))
    }

    fn object(
        &mut self,
        walked: &mut WalkedBucket,
        bucket: &Arc<dyn Bucket>,
        object: PlacedObject,
        name: &[u8],
        entry: Option<ParentEntry>,
    ) -> Result<()> {
        walked.objects += 1;
        let mut node = Node {
            name: name.to_vec(),
            meta: metadata(&stat(object.size, object.modified)),
            kind: Kind::File(Content::Inline(Vec::new())),
            link: None,
            given: true,
            changed: false,
            left_out: LeftOut::default(),
        };
        self.walked.statistics.files += 1;
        self.owners(&node);
        let begun = |node, before| Begun { node, xattrs: Vec::new(), record: ScanRecord::default(), before, doubtful: false };
        if object.version.as_ref().is_some_and(|version| version.marker) {
            return self.delete_marker(node, &object, entry);
        }
        if let Some((before, attributes)) = self.known_object(walked, entry.as_ref(), &object)?
            && self.adoption.allows(&before)?
        {
            (node.kind, node.meta.xattrs) = (before.kind.clone(), before.meta.xattrs.clone());
            walked.unchanged += 1;
            walked.bytes += object.size;
            self.walked.statistics.files_unchanged += 1;
            let told = entry.as_ref().filter(|_| self.listing).map(|entry| Box::new(entry.node().clone()));
            let begun = begun(node, told);
            return match attributes {
                None => self.step(WalkStep::Leaf(Box::new(begun), ContentSource::Parent)),
                Some(xattrs) => self.step(WalkStep::Leaf(Box::new(Begun { xattrs, ..begun }), ContentSource::Nothing)),
            };
        }
        let slot = self.slots;
        self.slots += 1;
        let base = entry.as_ref().and_then(|entry| match &entry.node().kind {
            Kind::File(content @ (Content::Items(_) | Content::Tree { .. })) => Some(content.clone()),
            _ => None,
        });
        self.read_object(ObjectTask { slot, bucket: bucket.clone(), object, base })?;
        let before = entry.map(|entry| Box::new(entry.node().clone()));
        self.step(WalkStep::Leaf(Box::new(begun(node, before)), ContentSource::Object(slot, walked.number)))
    }

    /// The parent's node of this object, and what is known of it now, if that is something else: whether a version is the
    /// newest one changes, and with that the place where it stands.
    fn known_object(
        &mut self,
        walked: &WalkedBucket,
        entry: Option<&ParentEntry>,
        object: &PlacedObject,
    ) -> Result<Option<(Node, Option<XattrList>)>> {
        let own = entry.map(|entry| entry.node().clone());
        let elsewhere = || {
            let (top, tree) = (walked.parent.as_ref()?, self.parent.as_ref()?);
            object.other_places().iter().find_map(|names| {
                let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
                tree.trees().walk_to(top, &names).ok().map(|(node, _)| node).filter(|node| self.is_known(node, object))
            })
        };
        let Some(node) = own.filter(|node| self.is_known(node, object)).or_else(elsewhere) else { return Ok(None) };
        let Some(version) = &object.version else { return Ok(Some((node, None))) };
        let tree = self.parent.as_ref().map(|tree| tree.trees());
        let attributes = tree.and_then(|tree| tree.xattrs(&node).ok()).unwrap_or_default();
        let list = with_version(&attributes, object.modified, version);
        let list = self.rules.attributes(ReadXattrs { list, failed: None }).list;
        Ok(Some((node, Some(list).filter(|list| *list != attributes))))
    }

    /// A delete marker: an empty file that says so.
    fn delete_marker(&mut self, node: Node, object: &PlacedObject, entry: Option<ParentEntry>) -> Result<()> {
        let list = object.version.as_ref().map(|version| with_version(&[], object.modified, version)).unwrap_or_default();
        let xattrs = self.rules.attributes(ReadXattrs { list, failed: None }).list;
        // Nothing is read of it.
        self.walked.statistics.files -= 1;
        self.walked.statistics.others += 1;
        let before = entry.filter(|_| self.listing).map(|entry| Box::new(entry.node().clone()));
        let begun = Begun { node, xattrs, record: ScanRecord::default(), before, doubtful: false };
        self.step(WalkStep::Leaf(Box::new(begun), ContentSource::Nothing))
    }

    /// Whether the parent has this object: the same length, time and ETag, and version, if that is known.
    fn is_known(&self, node: &Node, object: &PlacedObject) -> bool {
        let same = matches!(node.kind, Kind::File(_)) && node.size() == object.size && node.meta.mtime == object.modified;
        if !same || node.changed || node.left_out != LeftOut::default() {
            return false;
        }
        let attributes = self.parent.as_ref().and_then(|tree| tree.trees().xattrs(node).ok()).unwrap_or_default();
        let of = |wanted: &[u8]| attributes.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_slice());
        let version = object.version.as_ref().zip(of(version_attribute::ID));
        of(attribute::ETAG) == Some(&object.etag) && version.is_none_or(|(version, known)| version.id == known)
    }

    /// Gives an object to the readers: small ones in batches.
    fn read_object(&mut self, task: ObjectTask) -> Result<()> {
        let size = task.object.size;
        if size > SMALL {
            return self.outlets.objects.send(vec![task]).map_err(|_| stopped());
        }
        let held: u64 = self.objects.iter().map(|task| task.object.size).sum();
        if held + size > BATCH || self.objects.len() == BATCH_OBJECTS {
            self.flush_objects()?;
        }
        self.objects.push(task);
        Ok(())
    }

    /// Gives the objects that wait for more to the readers.
    pub(super) fn flush_objects(&mut self) -> Result<()> {
        match self.objects.is_empty() {
            true => Ok(()),
            false => self.outlets.objects.send(std::mem::take(&mut self.objects)).map_err(|_| stopped()),
        }
    }
}
