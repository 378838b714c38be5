//! The walk through a restic snapshot. A tree that was seen before is not read again, nor is the content of a file whose
//! blobs were.

use crate::error::Result;
use crate::format::node::is_xattr;
use crate::import::intake::content::PastPiece;
use crate::import::intake::{PastEntry, PastFault, PastResult, TreeIntake};
use crate::import::memory::SourceKey;
use crate::import::restic::blobs::ResticBlobs;
use crate::import::restic::crypto::ResticKey;
use crate::import::restic::files::{ResticFiles, ResticId};
use crate::import::restic::json::{NodeJson, TreeJson};
use crate::import::restic::text;
use crate::import::{PastSnapshot, key_of};
use crate::model::id::from_hex;
use crate::model::node::check_name;
use crate::model::{Content, Directory, Kind, LinkGroup, Metadata, escape};

/// Trees and blobs of one repository.
pub(super) struct ResticWalk<'a> {
    pub(super) files: &'a mut ResticFiles,
    pub(super) key: &'a ResticKey,
    pub(super) blobs: &'a mut ResticBlobs,
}

/// A directory at hand: its key, and the entries that are to come.
struct ResticLevel {
    key: SourceKey,
    rest: std::vec::IntoIter<(Vec<u8>, NodeJson)>,
}

impl ResticWalk<'_> {
    /// Goes through a snapshot, without recursion: a tree may be deeper than the stack.
    pub(super) fn run(mut self, snapshot: &PastSnapshot, tree: &ResticId, intake: &mut TreeIntake<'_>) -> Result<()> {
        intake.set_paths(self.paths(snapshot, tree)?);
        let root = self.level(tree, intake)?;
        let mut levels: Vec<ResticLevel> = vec![root];
        while let Some(level) = levels.last_mut() {
            let Some((name, node)) = level.rest.next() else {
                let done = levels.pop();
                // The intake closes the root.
                if !levels.is_empty() {
                    intake.leave(done.map(|done| done.key).as_ref())?;
                }
                continue;
            };
            if let Some(next) = self.entry(name, node, intake)? {
                levels.push(next);
            }
        }
        Ok(())
    }

    /// The given paths as far as they stand in the tree. restic puts what was given by a relative path at the top.
    fn paths(&mut self, snapshot: &PastSnapshot, tree: &ResticId) -> Result<Vec<Vec<u8>>> {
        let mut paths = Vec::new();
        for path in &snapshot.paths {
            let mut at = Some(*tree);
            for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
                let Some(id) = at else { break };
                let Ok(nodes) = self.tree(&id)? else { break };
                let found = nodes.into_iter().find(|node| text::unquoted(&node.name) == name);
                at = found.map(|node| node.subtree.as_deref().and_then(from_hex).unwrap_or_default());
            }
            if at.is_some() && path.first() == Some(&b'/') {
                paths.push(path.clone());
            }
        }
        if paths.is_empty() {
            paths.push(b"/".to_vec());
        }
        Ok(paths)
    }

    fn tree(&mut self, id: &ResticId) -> PastResult<Vec<NodeJson>> {
        let blob = match self.blobs.read(self.files, self.key, id)? {
            Ok(blob) => blob,
            Err(fault) => return Ok(Err(fault)),
        };
        let parsed = serde_json::from_slice::<TreeJson>(&blob);
        Ok(match parsed {
            Ok(tree) => Ok(tree.nodes.unwrap_or_default()),
            Err(e) => Err(PastFault(format!("it is no tree that restic writes: {e}"))),
        })
    }

    /// The entries of a tree, in order, each name once. What cannot be read is told.
    fn level(&mut self, id: &ResticId, intake: &mut TreeIntake<'_>) -> Result<ResticLevel> {
        let nodes = match self.tree(id)? {
            Ok(nodes) => nodes,
            Err(PastFault(text)) => {
                intake.unread(&format!("it cannot be read, and nothing of what is in it is here: {text}"));
                Vec::new()
            }
        };
        let mut named: Vec<(Vec<u8>, NodeJson)> = nodes.into_iter().map(|node| (text::unquoted(&node.name), node)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let mut rest: Vec<(Vec<u8>, NodeJson)> = Vec::with_capacity(named.len());
        for (name, node) in named {
            if check_name(&name).is_err() {
                intake.lose(&name, "no entry can have this name: it is left out")?;
            } else if rest.last().is_some_and(|(last, _)| *last == name) {
                intake.lose(&name, "it stands twice in its directory: the second is left out")?;
            } else {
                rest.push((name, node));
            }
        }
        Ok(ResticLevel { key: key_of(&[b"tree", id]), rest: rest.into_iter() })
    }

    /// An entry; the level to go on with, where it is a directory that is not known.
    fn entry(&mut self, name: Vec<u8>, node: NodeJson, intake: &mut TreeIntake<'_>) -> Result<Option<ResticLevel>> {
        let mut entry = match parsed(name.clone(), &node) {
            Ok(entry) => entry,
            Err(message) => return intake.lose(&name, &message).map(|()| None),
        };
        if let Some(dropped) = attributes(&node, &mut entry) {
            intake.less(&mut entry.node, &format!("some of its extended attributes cannot be kept: {dropped}"));
        }
        match entry.node.kind {
            Kind::Directory(_) => {
                let Some(id) = node.subtree.as_deref().and_then(from_hex) else {
                    return intake.lose(&name, "it is a directory without a tree").map(|()| None);
                };
                if intake.adopt(&entry, &key_of(&[b"tree", &id]))? {
                    return Ok(None);
                }
                intake.enter(entry)?;
                self.level(&id, intake).map(Some)
            }
            Kind::File(_) => self.file(entry, &node, intake).map(|()| None),
            _ => {
                if node.links > 1 {
                    entry.node.link = Some(group(&node, &[0; 16]));
                }
                intake.leaf(entry, None).map(|()| None)
            }
        }
    }

    fn file(&mut self, mut entry: PastEntry, node: &NodeJson, intake: &mut TreeIntake<'_>) -> Result<()> {
        let name = entry.node.name.clone();
        let ids: Option<Vec<ResticId>> = node.content.iter().flatten().map(|id| from_hex(id)).collect();
        let Some(ids) = ids else { return intake.lose(&name, "the names of its blobs are none: it is left out") };
        let key = key_of(&[b"content", ids.as_flattened()]);
        if node.links > 1 {
            entry.node.link = Some(group(node, &key));
        }
        let mut rest = ids.iter();
        let content = intake.content(node.size, Some(&key), &mut |out| {
            let Some(id) = rest.next() else { return Ok(Ok(PastPiece::End)) };
            Ok(self.blobs.read(self.files, self.key, id)?.map(|bytes| {
                out.extend_from_slice(&bytes);
                PastPiece::Bytes
            }))
        })?;
        match content {
            Ok(content) => intake.leaf(entry, Some(content)),
            Err(PastFault(text)) => intake.lose(&name, &format!("it cannot be read and is left out: {text}")),
        }
    }
}

/// The group of hard links of an entry: what has the same inode, and the same content.
fn group(node: &NodeJson, content: &SourceKey) -> LinkGroup {
    LinkGroup(key_of(&[b"inode", &node.device_id.to_le_bytes(), &node.inode.to_le_bytes(), content]))
}

/// An entry without its content, or why there can be none.
fn parsed(name: Vec<u8>, node: &NodeJson) -> std::result::Result<PastEntry, String> {
    let kind = match node.kind.as_str() {
        "file" => Kind::File(Content::Inline(Vec::new())),
        "dir" => Kind::Directory(Directory::default()),
        "symlink" => Kind::Symlink(match &node.linktarget_raw {
            Some(raw) => text::base64(raw).ok_or("where it leads cannot be read: it is left out")?,
            None => node.linktarget.clone().into_bytes(),
        }),
        "fifo" => Kind::Fifo,
        "socket" => Kind::Socket,
        "dev" | "chardev" => {
            let (major, minor) = text::device(node.device);
            if node.kind == "dev" { Kind::BlockDevice(major, minor) } else { Kind::CharDevice(major, minor) }
        }
        other => return Err(format!("it is of a kind that has no place here: {}", escape(other.as_bytes()))),
    };
    let mtime = text::time(&node.mtime).ok_or_else(|| format!("its time cannot be read: {}", escape(node.mtime.as_bytes())))?;
    let meta = Metadata { mode: text::mode(node.mode), uid: node.uid, gid: node.gid, mtime, ..Metadata::default() };
    let entry = PastEntry::new(name, kind, meta);
    Ok(PastEntry { user: node.user.clone().into_bytes(), group: node.group.clone().into_bytes(), ..entry })
}

/// Takes the attributes over; answers those that cannot be.
fn attributes(node: &NodeJson, entry: &mut PastEntry) -> Option<String> {
    let mut dropped = Vec::new();
    for attribute in node.extended_attributes.iter().flatten() {
        let value = attribute.value.as_deref().map_or(Some(Vec::new()), text::base64);
        match value.filter(|value| is_xattr(attribute.name.as_bytes(), value)) {
            Some(value) => entry.xattrs.push((attribute.name.clone().into_bytes(), value)),
            None => dropped.push(escape(attribute.name.as_bytes())),
        }
    }
    (!dropped.is_empty()).then(|| dropped.join(", "))
}

/// Whether all entries of a tree can be had, but for their content.
pub(super) fn survey(tree: &TreeJson) -> bool {
    tree.nodes.iter().flatten().all(|node| {
        let name = text::unquoted(&node.name);
        check_name(&name).is_ok() && parsed(name, node).is_ok_and(|mut entry| attributes(node, &mut entry).is_none())
    })
}
