//! A tree of the repository compared with what is on this machine.

use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::model::{Content, Directory, Item, Kind, LeftOut, Metadata, Node, Xattrs, escape};
use crate::query::content;
use crate::query::diff::{DiffAction, Gathering, metadata};
use crate::repo::tree::{Entry, TreeReader};
use crate::sys::dir::{Dir, FileKind, Stat};
use crate::sys::xattr;

/// A directory that is gone through: its entries in the snapshot, and on this machine.
struct LiveLevel {
    dir: Dir,
    names: Vec<Vec<u8>>,
    at: usize,
    directory: Directory,
    next: Option<Entry>,
    path_len: usize,
    left_out: LeftOut,
    /// False: it only leads to what was given, and nothing is known of what else is in it.
    given: bool,
}

/// Compares the tree of `before` with what is at `path`. With `read`, files are read whose size and time are the same.
pub(super) fn compare(trees: &TreeReader, before: &Node, path: &Path, read: bool, out: &mut Gathering<'_>) -> Result<()> {
    let shown = || escape(path.as_os_str().as_encoded_bytes());
    if before.directory().is_none() {
        return Err(Error::invalid(format!("{}: only a directory can be compared with one of this machine", shown())));
    }
    let dir = Dir::open(path).at(|| format!("cannot open {}", shown()))?;
    let stat = dir.stat_self().at(shown)?;
    let mut live = Live { trees, read, out };
    let there = node(&stat, b"", Vec::new(), xattr::list(&dir).ok());
    live.directory(b"", before, &there)?;
    let mut path = Vec::new();
    let mut levels: Vec<LiveLevel> = live.open(dir, before, 0, &path)?.into_iter().collect();
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_len);
        let Some((name, entry)) = live.step(level)? else {
            levels.pop();
            continue;
        };
        path.push(b'/');
        path.extend_from_slice(&name);
        if let Some((dir, node)) = live.entry(level, &path, &name, entry)? {
            let len = path.len();
            levels.extend(live.open(dir, &node, len, &path)?);
        }
    }
    Ok(())
}

struct Live<'g, 'a> {
    trees: &'g TreeReader,
    read: bool,
    out: &'g mut Gathering<'a>,
}

impl Live<'_, '_> {
    fn open(&self, dir: Dir, node: &Node, path_len: usize, path: &[u8]) -> Result<Option<LiveLevel>> {
        let list = dir.list().at(|| format!("cannot list {}", escape(path)))?;
        let names = (0..list.len()).map(|at| list.name(at).to_vec()).collect();
        let directory = node.directory().copied().unwrap_or_default();
        let next = self.trees.entry_number(&directory, 0)?;
        Ok(Some(LiveLevel { dir, names, at: 0, directory, next, path_len, left_out: node.left_out, given: node.given }))
    }

    /// The next name of a directory, with the entry of the snapshot; it is on this machine if it is the next there.
    fn step(&self, level: &mut LiveLevel) -> Result<Option<(Vec<u8>, Option<Entry>)>> {
        let there = level.names.get(level.at);
        let ours = level.next.as_ref().map(|entry| &entry.node().name);
        let name = match (there, ours) {
            (None, None) => return Ok(None),
            (Some(there), Some(ours)) => there.min(ours).clone(),
            (Some(name), None) | (None, Some(name)) => name.clone(),
        };
        let entry = match level.next.take() {
            Some(entry) if entry.node().name == name => {
                level.next = self.trees.next(&level.directory, &entry)?;
                Some(entry)
            }
            other => {
                level.next = other;
                None
            }
        };
        Ok(Some((name, entry)))
    }

    /// One name. Answers with what is to be gone into: a directory on both sides.
    fn entry(&mut self, level: &mut LiveLevel, path: &[u8], name: &[u8], entry: Option<Entry>) -> Result<Option<(Dir, Node)>> {
        let there = level.names.get(level.at).is_some_and(|there| there == name);
        level.at += usize::from(there);
        let stat = if there { Some(level.dir.stat(name).at(|| format!("cannot look at {}", escape(path)))?) } else { None };
        let Some(stat) = stat.filter(|stat| stat.kind != FileKind::Unknown) else {
            return entry.map_or(Ok(()), |entry| self.out.one(0, path, entry.node())).map(|()| None);
        };
        let target = if stat.kind == FileKind::Symlink { level.dir.read_link(name).unwrap_or_default() } else { Vec::new() };
        let found = node(&stat, name, target, xattr::list_at(&level.dir, name).ok());
        let Some(entry) = entry else {
            return self.added(level, path, name, &found).map(|()| None);
        };
        let before = entry.node();
        if std::mem::discriminant(&before.kind) != std::mem::discriminant(&found.kind) {
            self.out.one(0, path, before)?;
            return self.added(level, path, name, &found).map(|()| None);
        }
        if before.directory().is_some() {
            self.directory(path, before, &found)?;
            if before.left_out.has(LeftOut(LeftOut::MOUNTED.0 | LeftOut::MARKED.0)) {
                return Ok(None);
            }
            let dir = level.dir.open_dir(name).at(|| format!("cannot open {}", escape(path)))?;
            return Ok(Some((dir, before.clone())));
        }
        let mut reasons = Vec::new();
        match (&before.kind, &found.kind) {
            (Kind::File(content), _) => {
                let quick = content.size() == stat.size && before.meta.mtime == stat.mtime && !self.read;
                let same = quick || content.size() == stat.size && self.same(level, name, content, path)?;
                reasons.extend((!same).then_some("content"));
            }
            (Kind::Symlink(_), _) => reasons.extend((before.kind != found.kind).then_some("target")),
            _ => reasons.extend((before.kind != found.kind).then_some("device")),
        }
        let content = !reasons.is_empty();
        reasons.extend(self.metadata(before, &found)?);
        self.out.found(path, before, &found, reasons, content)?;
        Ok(None)
    }

    fn same(&self, level: &LiveLevel, name: &[u8], content: &Content, path: &[u8]) -> Result<bool> {
        let file = level.dir.open_file(name).at(|| format!("cannot open {}", escape(path)))?;
        content::same(self.trees, content, &file).map_err(|e| e.context(escape(path)))
    }

    fn directory(&mut self, path: &[u8], before: &Node, found: &Node) -> Result<()> {
        if !before.given {
            return Ok(());
        }
        let reasons = self.metadata(before, found)?;
        self.out.found(path, before, found, reasons, false)
    }

    fn metadata(&self, before: &Node, found: &Node) -> Result<Vec<&'static str>> {
        let mut meta = before.meta.clone();
        // A link has no mode of its own; flags are not looked at.
        meta.flags = found.meta.flags;
        if let Kind::Symlink(_) = before.kind {
            meta.mode = found.meta.mode;
        }
        if let Xattrs::Stored(_) = meta.xattrs {
            meta.xattrs = Xattrs::Inline(self.trees.xattrs(before)?);
        }
        Ok(metadata(&meta, &found.meta))
    }

    /// What is only on this machine, with all that is below it.
    fn added(&mut self, level: &LiveLevel, path: &[u8], name: &[u8], found: &Node) -> Result<()> {
        if !level.given {
            return Ok(());
        }
        if level.left_out != LeftOut::default() {
            return self.out.single(DiffAction::LeftOut, path, found);
        }
        self.out.single(DiffAction::Added, path, found)?;
        if found.directory().is_none() {
            return Ok(());
        }
        let open = |dir: &Dir, name: &[u8], path: &[u8]| -> Result<(Dir, Vec<Vec<u8>>)> {
            let dir = dir.open_dir(name).at(|| format!("cannot open {}", escape(path)))?;
            let list = dir.list().at(|| format!("cannot list {}", escape(path)))?;
            let names = (0..list.len()).rev().map(|at| list.name(at).to_vec()).collect();
            Ok((dir, names))
        };
        let (dir, names) = open(&level.dir, name, path)?;
        let mut levels = vec![(dir, names, path.to_vec())];
        while let Some((dir, names, path)) = levels.last_mut() {
            let Some(name) = names.pop() else {
                levels.pop();
                continue;
            };
            let path = [path.as_slice(), b"/", &name].concat();
            let stat = dir.stat(&name).at(|| format!("cannot look at {}", escape(&path)))?;
            let target = if stat.kind == FileKind::Symlink { dir.read_link(&name).unwrap_or_default() } else { Vec::new() };
            self.out.single(DiffAction::Added, &path, &node(&stat, &name, target, None))?;
            if stat.kind == FileKind::Directory {
                let (dir, names) = open(dir, &name, &path)?;
                levels.push((dir, names, path));
            }
        }
        Ok(())
    }
}

/// An entry of this machine as a node. Of a file's content only the size is known.
fn node(stat: &Stat, name: &[u8], target: Vec<u8>, xattrs: Option<xattr::XattrList>) -> Node {
    let kind = match stat.kind {
        FileKind::Directory => Kind::Directory(Directory::default()),
        FileKind::Symlink => Kind::Symlink(target),
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice => Kind::CharDevice(stat.rdev.0, stat.rdev.1),
        FileKind::BlockDevice => Kind::BlockDevice(stat.rdev.0, stat.rdev.1),
        FileKind::File | FileKind::Unknown if stat.size == 0 => Kind::File(Content::Inline(Vec::new())),
        FileKind::File | FileKind::Unknown => Kind::File(Content::Items(vec![Item::Hole { len: stat.size }])),
    };
    let xattrs = match xattrs.filter(|list| !list.is_empty()) {
        Some(list) => Xattrs::Inline(list),
        None => Xattrs::None,
    };
    let meta = Metadata { mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, xattrs, flags: 0 };
    Node { name: name.to_vec(), meta, kind, link: None, given: true, changed: false, left_out: LeftOut::default() }
}
