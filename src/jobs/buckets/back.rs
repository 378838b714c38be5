//! The way back of a bucket: its objects out of a snapshot, with what is known of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::back::each;
use crate::jobs::buckets::{ConfiguredBucket, shown};
use crate::model::bucket::{BucketEntry, attribute, key_of_names};
use crate::model::versions::{VERSIONS, version_attribute};
use crate::model::{Directory, Kind, LeftOut, Node, escape};
use crate::observe::{Action, EntryKind, Event};
use crate::remote::s3::bucket::{BucketClient, PART};
use crate::repo::tree::TreeReader;
use crate::task::Task;

/// When an object that is there already is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaceObject {
    /// When its content, its time or what is known of it differs.
    IfChanged,
    /// Always.
    Always,
    /// When the snapshot's is newer.
    IfNewer,
    /// Never.
    Never,
}

/// Puts a bucket back.
pub struct BucketBack<'a> {
    /// The bucket.
    pub bucket: &'a ConfiguredBucket,
    /// Reads the snapshot.
    pub trees: &'a TreeReader,
    /// When what is there is replaced.
    pub replace: ReplaceObject,
    /// Delete what is there and not in the snapshot.
    pub delete: bool,
    /// All versions of objects, and delete markers, not only what was the newest.
    pub versions: bool,
    /// Only look.
    pub dry_run: bool,
    /// Is told, and ends it.
    pub task: &'a Task<'a>,
}

/// What was done, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketReport {
    /// The bucket was made.
    pub made: bool,
    /// Objects that were written.
    pub put: u64,
    /// Delete markers that were written.
    pub markers: u64,
    /// Bytes of objects that were written.
    pub bytes: u64,
    /// Objects that were there as they are in the snapshot.
    pub unchanged: u64,
    /// Objects that were there and were not to be replaced.
    pub kept: u64,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Objects that could not be written or deleted.
    pub failed: u64,
}

/// An object of the snapshot.
pub(super) struct StoredObject {
    pub(super) key: Vec<u8>,
    /// The object, or all versions of it, the oldest first.
    pub(super) versions: Vec<Node>,
}

impl BucketBack<'_> {
    /// Puts everything below `top` back, which is the directory that the bucket is in the snapshot.
    pub fn run(&self, top: &Node) -> Result<BucketReport> {
        let Some(directory) = top.directory() else {
            let text = format!("{} is no directory in the snapshot", escape(self.bucket.keys().at.as_bytes()));
            return Err(Error::new(ErrorKind::NotFound, text));
        };
        let told = |e: Error| e.context(&self.bucket.keys().url);
        let client = self.bucket.client()?;
        let there = client.is_there().map_err(told)?;
        let mut report = BucketReport { made: !there, ..BucketReport::default() };
        if !there && !self.dry_run {
            client.make().map_err(|e| told(e.context("the bucket cannot be made")))?;
        }
        if self.versions {
            self.keep_versions(&client).map_err(told)?;
        }
        let listed = if there { client.list().map_err(told)? } else { Vec::new() };
        let listed: HashMap<Vec<u8>, BucketEntry> = listed.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let (counted, seen) = (Mutex::new(report), Mutex::new(HashSet::new()));
        let whole = std::thread::scope(|scope| {
            let (give, take) = bounded::<StoredObject>(64);
            let workers: Vec<_> = (0..client.connections())
                .map(|_| {
                    let take = take.clone();
                    scope.spawn(|| self.work(&client, take, &listed, &counted))
                })
                .collect();
            drop(take);
            let walked = self.give(top, directory, &give, &seen, &counted);
            drop(give);
            let worked = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(Error::panicked())));
            worked.collect::<Result<Vec<()>>>()?;
            walked
        })?;
        report = counted.into_inner();
        if self.delete {
            let whole = whole && top.left_out == LeftOut::default();
            self.delete(&client, &listed, &seen.into_inner(), whole, &mut report)?;
        }
        Ok(report)
    }

    /// Gives everything that is wanted to the workers.
    fn give(
        &self,
        top: &Node,
        directory: &Directory,
        give: &Sender<StoredObject>,
        seen: &Mutex<HashSet<Vec<u8>>>,
        report: &Mutex<BucketReport>,
    ) -> Result<bool> {
        let mut whole = true;
        if self.versions {
            let (keys, all) = self.walk_versions(top, give, report)?;
            whole = all;
            seen.lock().extend(keys);
        }
        Ok(self.walk(directory, give, seen, report)? && whole)
    }

    pub(super) fn is_wanted(&self) -> Result<()> {
        match self.task.is_stopped() {
            true => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }

    pub(super) fn warn(&self, key: &[u8], message: &str, report: &Mutex<BucketReport>) {
        report.lock().failed += 1;
        self.task.observer.event(&Event::Warning { subject: shown(self.bucket.keys(), key).as_bytes(), message });
    }

    /// Gives all objects of the snapshot to the workers. False: the snapshot does not have all that the bucket had.
    fn walk(
        &self,
        directory: &Directory,
        give: &Sender<StoredObject>,
        seen: &Mutex<HashSet<Vec<u8>>>,
        report: &Mutex<BucketReport>,
    ) -> Result<bool> {
        let mut whole = true;
        let mut rest: Vec<(Vec<Vec<u8>>, Directory)> = vec![(Vec::new(), *directory)];
        while let Some((above, directory)) = rest.pop() {
            for entry in self.trees.entries(&directory) {
                self.is_wanted()?;
                let node = match entry {
                    Ok(entry) => entry.node().clone(),
                    Err(e) => {
                        self.warn(
                            &above.join(&b'/'),
                            &format!("what is below it cannot be read from the repository: {e}"),
                            report,
                        );
                        whole = false;
                        break;
                    }
                };
                if above.is_empty() && node.name == VERSIONS {
                    continue;
                }
                let names = [&above[..], std::slice::from_ref(&node.name)].concat();
                match &node.kind {
                    Kind::Directory(below) => {
                        whole &= node.left_out == LeftOut::default();
                        rest.push((names, *below));
                    }
                    Kind::File(_) => {
                        let parts: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
                        let Some(key) = key_of_names(&parts) else {
                            let message = "it was not stored as an object: its name stands for no key";
                            self.warn(&names.join(&b'/'), message, report);
                            continue;
                        };
                        // With its versions it was given already.
                        if seen.lock().insert(key.clone()) {
                            // Without workers there is nobody to tell.
                            let _ = give.send(StoredObject { key, versions: vec![node] });
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(whole)
    }

    /// Puts objects back until there are no more: the body of a thread.
    fn work(
        &self,
        client: &BucketClient,
        take: Receiver<StoredObject>,
        listed: &HashMap<Vec<u8>, BucketEntry>,
        report: &Mutex<BucketReport>,
    ) -> Result<()> {
        for object in take {
            self.is_wanted()?;
            let done = match object.versions.as_slice() {
                [node] if !self.versions || !self.is_deleted(node) => {
                    self.object(client, (&object.key, node), listed.get(&object.key), report)
                }
                _ => self.history(client, &object, report),
            };
            match done {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                Err(e) => self.warn(&object.key, &format!("it cannot be restored: {e}"), report),
            }
        }
        Ok(())
    }

    fn object(
        &self,
        client: &BucketClient,
        (key, node): (&[u8], &Node),
        there: Option<&BucketEntry>,
        report: &Mutex<BucketReport>,
    ) -> Result<()> {
        let attributes = self.trees.xattrs(node)?;
        if let Some(there) = there {
            let (same, keep) = match self.replace {
                ReplaceObject::IfChanged => (self.is_same(client, key, node, &attributes, there)?, false),
                ReplaceObject::Always => (false, false),
                ReplaceObject::IfNewer => (false, node.meta.mtime <= there.modified),
                ReplaceObject::Never => (false, true),
            };
            if same || keep {
                let mut report = report.lock();
                report.unchanged += u64::from(same);
                report.kept += u64::from(keep);
                return Ok(());
            }
        }
        if !self.dry_run {
            self.put(client, key, node, &attributes)?;
        }
        self.tell(if there.is_some() { Action::Changed } else { Action::New }, key, node.size());
        let mut report = report.lock();
        report.put += 1;
        report.bytes += node.size();
        Ok(())
    }

    /// Whether all that is stored of an object is that it was deleted.
    fn is_deleted(&self, node: &Node) -> bool {
        self.trees.xattrs(node).is_ok_and(|all| all.iter().any(|(name, _)| name == version_attribute::MARKER))
    }

    /// Whether the bucket is there by now: in a dry run it may not be.
    pub(super) fn is_made(&self) -> bool {
        !self.dry_run || self.bucket.client().and_then(|client| client.is_there()).unwrap_or(false)
    }

    /// Whether what is there is what the snapshot has.
    fn is_same(
        &self,
        client: &BucketClient,
        key: &[u8],
        node: &Node,
        attributes: &[(Vec<u8>, Vec<u8>)],
        there: &BucketEntry,
    ) -> Result<bool> {
        let etag = attributes.iter().find(|(name, _)| name == attribute::ETAG);
        if there.size != node.size() || etag.is_none_or(|(_, etag)| *etag != there.etag) {
            return Ok(false);
        }
        // The same object still, or one with the same content, of which the rest has to be asked.
        if there.modified == node.meta.mtime {
            return Ok(true);
        }
        let own = |name: &[u8]| version_attribute::ALL.contains(&name);
        let of_class = |(name, _): &&(Vec<u8>, Vec<u8>)| name != attribute::CLASS && !own(name);
        let Some(facts) = client.facts(key)? else { return Ok(false) };
        Ok(facts.attributes.iter().filter(of_class).eq(attributes.iter().filter(of_class)))
    }

    pub(super) fn put(&self, client: &BucketClient, key: &[u8], node: &Node, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let Kind::File(content) = &node.kind else { return Ok(()) };
        if node.size() <= PART as u64 {
            let mut bytes = Vec::new();
            each(self.trees, content, &mut |more| {
                bytes.extend_from_slice(more);
                Ok(())
            })?;
            return client.put(key, attributes, bytes);
        }
        let mut upload = client.begin(key, attributes, node.size())?;
        let mut part = Vec::with_capacity(upload.part);
        let written = each(self.trees, content, &mut |mut more| {
            self.is_wanted()?;
            while !more.is_empty() {
                let (now, later) = more.split_at(more.len().min(upload.part - part.len()));
                part.extend_from_slice(now);
                more = later;
                if part.len() == upload.part {
                    upload.put(std::mem::replace(&mut part, Vec::with_capacity(upload.part)))?;
                }
            }
            Ok(())
        });
        let written = written.and_then(|()| if part.is_empty() { Ok(()) } else { upload.put(part) });
        match written {
            Ok(()) => upload.finish(),
            Err(e) => {
                upload.give_up();
                Err(e)
            }
        }
    }

    pub(super) fn tell(&self, action: Action, key: &[u8], bytes: u64) {
        if self.task.observer.wants_entries() {
            let path = shown(self.bucket.keys(), key);
            self.task.observer.event(&Event::Entry { action, path: path.as_bytes(), kind: EntryKind::File, reason: "", bytes });
        }
    }

    /// Deletes objects that the snapshot does not have.
    fn delete(
        &self,
        client: &Arc<BucketClient>,
        listed: &HashMap<Vec<u8>, BucketEntry>,
        seen: &HashSet<Vec<u8>>,
        whole: bool,
        report: &mut BucketReport,
    ) -> Result<()> {
        let mut unwanted: Vec<&Vec<u8>> = listed.keys().filter(|key| !seen.contains(*key)).collect();
        unwanted.sort_unstable();
        if !whole && !unwanted.is_empty() {
            let message = "nothing is deleted: the snapshot does not have all that the bucket had when it was taken";
            self.task.observer.event(&Event::Warning { subject: escape(self.bucket.keys().url.as_bytes()).as_bytes(), message });
            report.failed += 1;
            return Ok(());
        }
        for key in unwanted {
            self.is_wanted()?;
            let deleted = if self.dry_run { Ok(()) } else { client.delete(key) };
            match deleted {
                Ok(()) => {
                    report.deleted += 1;
                    self.tell(Action::Removed, key, listed.get(key).map_or(0, |entry| entry.size));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                Err(e) => {
                    report.failed += 1;
                    let (subject, message) = (shown(self.bucket.keys(), key), format!("it cannot be deleted: {e}"));
                    self.task.observer.event(&Event::Warning { subject: subject.as_bytes(), message: &message });
                }
            }
        }
        Ok(())
    }
}
