//! The way back of versions: of each object all of them, and its delete markers, in the order in which they were made. The
//! store gives them new ids and times.

use std::collections::HashSet;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::jobs::buckets::back::{BucketBack, BucketReport, ReplaceObject, StoredObject};
use crate::model::bucket::{BucketEntry, attribute, names_of_key};
use crate::model::versions::{VERSIONS, key_of_versions, order_of_version, version_attribute};
use crate::model::{Directory, Kind, LeftOut, Node, Timestamp};
use crate::observe::Action;
use crate::remote::s3::bucket::BucketClient;

/// A version of the snapshot: its node and its attributes.
type StoredVersion = (Node, Vec<(Vec<u8>, Vec<u8>)>);

fn is_marker(attributes: &[(Vec<u8>, Vec<u8>)]) -> bool {
    attributes.iter().any(|(name, _)| name == version_attribute::MARKER)
}

/// Whether this is what the snapshot has: by length and ETag. That of an object that was written in parts depends on them.
fn is_version(there: &BucketEntry, (node, attributes): &StoredVersion) -> bool {
    let marker = there.version.as_ref().is_some_and(|version| version.marker);
    if marker || is_marker(attributes) {
        return marker && is_marker(attributes);
    }
    let etag = attributes.iter().find(|(name, _)| name == attribute::ETAG).map(|(_, etag)| etag.as_slice()).unwrap_or_default();
    let parted = etag.contains(&b'-') || there.etag.contains(&b'-');
    there.size == node.size() && (parted || etag == there.etag)
}

impl BucketBack<'_> {
    /// Gives all objects that have versions beside them to the workers. Answers their keys, and whether all is there that
    /// the bucket had.
    pub(super) fn walk_versions(
        &self,
        top: &Node,
        give: &Sender<StoredObject>,
        report: &Mutex<BucketReport>,
    ) -> Result<(HashSet<Vec<u8>>, bool)> {
        let (mut keys, mut whole) = (HashSet::new(), true);
        let Ok((versions, _)) = self.trees.walk_to(top, &[VERSIONS]) else { return Ok((keys, whole)) };
        let Some(directory) = versions.directory() else { return Ok((keys, whole)) };
        whole &= versions.left_out == LeftOut::default();
        let mut rest: Vec<(Vec<Vec<u8>>, Directory)> = vec![(Vec::new(), *directory)];
        while let Some((names, directory)) = rest.pop() {
            let mut found: Vec<((Timestamp, u32), Node)> = Vec::new();
            for entry in self.trees.entries(&directory) {
                self.is_wanted()?;
                let node = match entry {
                    Ok(entry) => entry.node().clone(),
                    Err(e) => {
                        let message = format!("versions below it cannot be read from the repository: {e}");
                        self.warn(&names.join(&b'/'), &message, report);
                        whole = false;
                        break;
                    }
                };
                match (&node.kind, order_of_version(&node.name)) {
                    (Kind::Directory(below), _) => {
                        whole &= node.left_out == LeftOut::default();
                        rest.push(([&names[..], std::slice::from_ref(&node.name)].concat(), *below));
                    }
                    (Kind::File(_), Some(order)) => found.push((order, node)),
                    _ => self.warn(&node.name, "it was not stored as a version of an object", report),
                }
            }
            if found.is_empty() {
                continue;
            }
            let parts: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            let Some(key) = key_of_versions(&parts) else {
                self.warn(&names.join(&b'/'), "its name stands for no key", report);
                continue;
            };
            found.sort_by_key(|(order, _)| *order);
            let mut versions: Vec<Node> = found.into_iter().map(|(_, node)| node).collect();
            // The object itself is newer than all of them.
            let places = [false, true].map(|prefix| names_of_key(&key, prefix));
            let current = places.iter().find_map(|names| {
                let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
                self.trees.walk_to(top, &names).ok().filter(|(node, _)| matches!(node.kind, Kind::File(_)))
            });
            versions.extend(current.map(|(node, _)| node));
            keys.insert(key.clone());
            // Without workers there is nobody to tell.
            let _ = give.send(StoredObject { key, versions });
        }
        Ok((keys, whole))
    }

    /// Puts all versions of an object back, behind those that are there: of these, the newest may be the first ones that
    /// the snapshot has, as after a restore that was stopped.
    pub(super) fn history(&self, client: &BucketClient, stored: &StoredObject, report: &Mutex<BucketReport>) -> Result<()> {
        let key = &stored.key;
        let mut there = if self.is_made() { client.list_versions(Some(key))? } else { Vec::new() };
        there.reverse();
        let wanted: Vec<StoredVersion> =
            stored.versions.iter().map(|node| Ok((node.clone(), self.trees.xattrs(node)?))).collect::<Result<_>>()?;
        let most = there.len().min(wanted.len());
        let agrees =
            |count: &usize| there.iter().skip(there.len() - count).zip(&wanted).all(|(there, stored)| is_version(there, stored));
        let newest = |time: Timestamp| wanted.last().is_some_and(|(node, _)| node.meta.mtime <= time);
        let same = match self.replace {
            ReplaceObject::Always => 0,
            ReplaceObject::Never if !there.is_empty() => wanted.len(),
            ReplaceObject::IfNewer if there.last().is_some_and(|last| newest(last.modified)) => wanted.len(),
            _ => (0..=most).rev().find(agrees).unwrap_or(0),
        };
        report.lock().unchanged += same as u64;
        for (node, attributes) in wanted.iter().skip(same) {
            self.is_wanted()?;
            let marker = is_marker(attributes);
            match (self.dry_run, marker) {
                (true, _) => {}
                (false, true) => client.delete(key)?,
                (false, false) => self.put(client, key, node, attributes)?,
            }
            self.tell(if there.is_empty() { Action::New } else { Action::Changed }, key, node.size());
            let mut report = report.lock();
            report.markers += u64::from(marker);
            report.put += u64::from(!marker);
            report.bytes += node.size();
        }
        Ok(())
    }

    /// Has the bucket keep versions.
    pub(super) fn keep_versions(&self, client: &BucketClient) -> Result<()> {
        match self.dry_run {
            true => Ok(()),
            false => client.keep_versions().map_err(|e: Error| e.context("the bucket cannot keep versions")),
        }
    }
}
