//! The receiving side of an import: entries come in the order of names, and become the trees of a snapshot.

use crate::chunk::cutter::Cutter;
use crate::error::{Error, Result};
use crate::format::page::{self, PageKind};
use crate::import::memory::{Below, IntakeMemory, SourceKey};
use crate::import::{PastSnapshot, stopped};
use crate::ingest::chunks::FrameBuilder;
use crate::ingest::groups::LinkGroups;
use crate::model::{Content, Directory, Kind, LeftOut, Metadata, Node, Owners, Snapshot, Statistics, Timestamp, Xattrs};
use crate::observe::Event;
use crate::repo::Repository;
use crate::repo::tree::writer::{PageSink, TreeWriter};
use crate::task::Task;

pub(crate) mod content;

/// Attributes up to this many bytes stand in the node, as those of an ingest do.
const INLINE_XATTRS: usize = 1 << 10;

/// Permissions of directories of which the source says nothing.
const MODE: u16 = 0o755;

/// Why something of the source cannot be read. The import goes on without it, and says so.
#[derive(Debug)]
pub(crate) struct PastFault(pub(crate) String);

/// The result of reading something of the source: an error outside is one of this repository, and ends the import.
pub(crate) type PastResult<T> = Result<std::result::Result<T, PastFault>>;

/// An entry of another tool's snapshot: all but its content.
#[derive(Debug, Clone)]
pub(crate) struct PastEntry {
    /// What it is. A file's content comes beside it; its attributes are `xattrs`.
    pub(crate) node: Node,
    /// Its extended attributes, in any order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The name of its owner.
    pub(crate) user: Vec<u8>,
    /// The name of its group.
    pub(crate) group: Vec<u8>,
}

impl PastEntry {
    /// An entry with nothing but a name, a kind and metadata.
    pub(crate) fn new(name: Vec<u8>, kind: Kind, meta: Metadata) -> Self {
        let node = Node { name, kind, meta, link: None, given: true, changed: false, left_out: LeftOut::default() };
        PastEntry { node, xattrs: Vec::new(), user: Vec::new(), group: Vec::new() }
    }
}

/// The node of `/` where the source says nothing of it.
pub(crate) fn root(mtime: Timestamp) -> Node {
    let meta = Metadata { mode: MODE, mtime, ..Metadata::default() };
    let (kind, left_out) = (Kind::Directory(Directory::default()), LeftOut::default());
    Node { name: Vec::new(), meta, kind, link: None, given: false, changed: false, left_out }
}

/// A directory that is being filled.
struct IntakeDirectory {
    node: Node,
    /// Its preorder position.
    position: u64,
    writer: TreeWriter,
    directory: Directory,
    /// What counts for itself.
    own: Below,
    /// What counts for what is below it.
    below: Below,
    path_len: usize,
    last: Vec<u8>,
}

/// Takes the entries of one snapshot.
pub struct TreeIntake<'a> {
    repo: &'a Repository,
    cutter: Cutter,
    chunks: FrameBuilder<'a>,
    memory: &'a mut IntakeMemory,
    task: &'a Task<'a>,
    /// What the snapshot was given; sorted.
    paths: Vec<Vec<u8>>,
    stack: Vec<IntakeDirectory>,
    path: Vec<u8>,
    next: u64,
    links: LinkGroups,
    read: u64,
    files: (u64, u64),
}

impl<'a> TreeIntake<'a> {
    /// An intake whose root is entered; it gives new chunks to `chunks`.
    pub(crate) fn new(
        repo: &'a Repository,
        chunks: FrameBuilder<'a>,
        memory: &'a mut IntakeMemory,
        past: &PastSnapshot,
        task: &'a Task<'a>,
    ) -> Result<Self> {
        let mut paths = past.paths.clone();
        paths.sort_unstable();
        let cutter = repo.cutter()?;
        let links = LinkGroups::new(repo.scratch());
        let (stack, path, files) = (Vec::new(), Vec::new(), (0, 0));
        let mut intake = TreeIntake { repo, cutter, chunks, memory, task, paths, stack, path, next: 0, links, read: 0, files };
        intake.open(root(past.time), 0, Below { directories: 1, ..Below::default() });
        Ok(intake)
    }

    /// Sets what the snapshot was given, where that is known only now: before the first entry.
    pub(crate) fn set_paths(&mut self, mut paths: Vec<Vec<u8>>) {
        paths.sort_unstable();
        self.paths = paths;
        let given = self.is_given();
        if let Some(root) = self.stack.first_mut() {
            root.node.given = given;
        }
    }

    /// Gives the root what the source knows of it.
    pub(crate) fn set_root(&mut self, entry: PastEntry) -> Result<()> {
        let xattrs = self.xattrs(entry.xattrs.clone())?;
        if let Some(root) = self.stack.first_mut() {
            root.node.meta = Metadata { xattrs, ..entry.node.meta.clone() };
            root.own = own(&entry, &root.node);
        }
        Ok(())
    }

    /// Whether the current path, or what it is in, was given.
    fn is_given(&self) -> bool {
        self.paths.iter().any(|given| match given.as_slice() {
            b"/" => true,
            given => self.path.strip_prefix(given).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/')),
        })
    }

    /// The same of an entry of the directory at hand.
    fn gives(&mut self, name: &[u8]) -> bool {
        if self.stack.last().is_some_and(|open| open.node.given) {
            return true;
        }
        let len = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(name);
        let given = self.is_given();
        self.path.truncate(len);
        given
    }

    /// How it is stopped, and who is told.
    pub(crate) fn task(&self) -> &'a Task<'a> {
        self.task
    }

    /// Begins a directory of the one at hand.
    pub(crate) fn enter(&mut self, entry: PastEntry) -> Result<()> {
        if self.task.is_stopped() {
            return Err(stopped());
        }
        let mut node = entry.node.clone();
        node.meta.xattrs = self.xattrs(entry.xattrs.clone())?;
        let path_len = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(&node.name);
        let own = own(&entry, &node);
        self.open(node, path_len, own);
        Ok(())
    }

    fn open(&mut self, mut node: Node, path_len: usize, own: Below) {
        node.given = self.is_given();
        let (writer, directory) = (TreeWriter::new(PageKind::Directory), Directory::default());
        let (position, below, last) = (self.next, Below::default(), Vec::new());
        self.stack.push(IntakeDirectory { node, position, writer, directory, own, below, path_len, last });
        self.next += 1;
        self.progress(0);
    }

    /// Ends the directory at hand. It is remembered by `key`.
    pub(crate) fn leave(&mut self, key: Option<&SourceKey>) -> Result<()> {
        let (node, position, all) = self.close(key)?;
        self.add(&node, (position, &all))
    }

    fn close(&mut self, key: Option<&SourceKey>) -> Result<(Node, u64, Below)> {
        let Some(open) = self.stack.pop() else { return Err(Error::corrupt("a directory ends that never began")) };
        let IntakeDirectory { node, position, writer, directory, mut own, below, path_len, .. } = open;
        let root = writer.finish(&mut self.chunks)?;
        let directory = Directory { root, ..directory };
        if let Some(key) = key.filter(|_| node.given) {
            self.memory.put_directory(key, directory, &below)?;
        }
        own.add(&below, 0);
        self.path.truncate(path_len);
        Ok((Node { kind: Kind::Directory(directory), ..node }, position, own))
    }

    /// Takes over a whole directory that was here before; false if it was not, and must be entered.
    pub(crate) fn adopt(&mut self, entry: &PastEntry, key: &SourceKey) -> Result<bool> {
        if !self.gives(&entry.node.name) {
            return Ok(false);
        }
        let Some((directory, below)) = self.memory.directory(key)? else { return Ok(false) };
        let mut node = entry.node.clone();
        node.meta.xattrs = self.xattrs(entry.xattrs.clone())?;
        node.kind = Kind::Directory(directory);
        let position = self.next;
        for (offset, group) in below.links() {
            self.links.count(group, position + offset)?;
        }
        self.next += node.weight();
        self.read += below.bytes;
        self.files.1 += below.files;
        let mut all = own(entry, &node);
        all.add(&below, 0);
        self.add(&node, (position, &all))?;
        self.progress(0);
        Ok(true)
    }

    /// Adds an entry that is no directory; a file with its content.
    pub(crate) fn leaf(&mut self, entry: PastEntry, content: Option<Content>) -> Result<()> {
        if self.task.is_stopped() {
            return Err(stopped());
        }
        let mut node = entry.node.clone();
        node.meta.xattrs = self.xattrs(entry.xattrs.clone())?;
        if let Some(content) = content {
            node.kind = Kind::File(content);
        }
        if let Err(e) = crate::format::node::check(&node) {
            return self.lose(&node.name, &format!("it cannot be stored and is left out: {e}"));
        }
        node.given = self.gives(&node.name);
        let mut below = own(&entry, &node);
        let position = self.next;
        if let Some(group) = node.link {
            below.link(0, group);
            self.links.join(&node, position)?;
        }
        self.next += 1;
        self.add(&node, (position, &below))?;
        self.progress(0);
        Ok(())
    }

    /// An entry of the directory at hand that cannot be had: said, counted, left out.
    pub(crate) fn lose(&mut self, name: &[u8], message: &str) -> Result<()> {
        let path = [&self.path[..], b"/", name].concat();
        self.task.observer.event(&Event::Warning { subject: &path, message });
        self.fault(LeftOut::LOST);
        Ok(())
    }

    /// The directory at hand cannot be read, or not all of it: said, counted.
    pub(crate) fn unread(&mut self, message: &str) {
        let path = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
        self.task.observer.event(&Event::Warning { subject: &path, message });
        self.fault(LeftOut::UNREAD);
    }

    /// Some of an entry's attributes cannot be kept: said, counted.
    pub(crate) fn less(&mut self, node: &mut Node, message: &str) {
        let path = [&self.path[..], b"/", &node.name].concat();
        self.task.observer.event(&Event::Warning { subject: &path, message });
        node.left_out.add(LeftOut::ATTRIBUTES);
        if let Some(open) = self.stack.last_mut() {
            open.below.errors += 1;
        }
    }

    fn fault(&mut self, what: LeftOut) {
        if let Some(open) = self.stack.last_mut() {
            open.below.errors += 1;
            open.node.left_out.add(what);
        }
    }

    /// Adds a finished node to the directory at hand, with what is below it.
    fn add(&mut self, node: &Node, (position, below): (u64, &Below)) -> Result<()> {
        let Some(top) = self.stack.last_mut() else { return Err(Error::corrupt("a tree has two roots")) };
        if !top.last.is_empty() && top.last >= node.name {
            return Err(Error::corrupt(format!("{} comes twice, or after a later name", crate::model::escape(&node.name))));
        }
        top.last.clone_from(&node.name);
        let mut bytes = Vec::new();
        crate::format::node::encode(node, &mut bytes)?;
        top.directory.entries += 1;
        top.directory.descendants += node.weight();
        top.directory.subdirs += u64::from(node.directory().is_some());
        top.below.add(below, position - top.position);
        top.writer.push(&bytes, node.weight(), &node.name, || page::key_hash(&node.name), &mut self.chunks)
    }

    /// Attributes as a node has them.
    fn xattrs(&mut self, mut list: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Xattrs> {
        if list.is_empty() {
            return Ok(Xattrs::None);
        }
        list.sort_unstable();
        list.dedup_by(|a, b| a.0 == b.0);
        let size: usize = list.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        if size <= INLINE_XATTRS {
            return Ok(Xattrs::Inline(list));
        }
        let mut bytes = Vec::with_capacity(size + 8);
        crate::format::node::encode_xattrs(&list, &mut bytes)?;
        Ok(Xattrs::Stored(self.chunks.page(&bytes)?))
    }

    /// Says how far this is; `more` bytes are those of the file that is being read.
    fn progress(&self, more: u64) {
        let (entries, bytes) = (self.next, self.read + more);
        self.task.observer.event(&Event::Progress { entries, bytes, total_entries: 0, total_bytes: 0, unit: "entries" });
    }

    /// Ends the root: what came is the trees of `snapshot`.
    pub(crate) fn finish(mut self, snapshot: Snapshot) -> Result<Snapshot> {
        let (root, _, all) = self.close(None)?;
        let links = self.links.write(None, &mut self.chunks)?;
        let bytes_new = self.chunks.finish()?;
        let Below { files, directories, others, bytes, attributed, errors, users, groups, .. } = all;
        let (files_new, files_unchanged) = self.files;
        let statistics = Statistics {
            files,
            directories,
            others,
            bytes,
            files_new,
            files_unchanged,
            bytes_new,
            errors,
            with_attributes: Some(attributed),
            ..Statistics::default()
        };
        let most = crate::format::snapshot::MAX_LIST;
        let named = |names: crate::import::memory::OwnerNames| names.into_iter().take(most).collect();
        let owners = Owners { users: named(users), groups: named(groups) };
        Ok(Snapshot { root, paths: self.paths, links, statistics, owners, ..snapshot })
    }
}

/// What counts for an entry itself.
fn own(entry: &PastEntry, node: &Node) -> Below {
    let mut own = Below { attributed: u64::from(node.meta.xattrs != Xattrs::None), ..Below::default() };
    match &node.kind {
        Kind::File(_) => (own.files, own.bytes) = (1, node.size()),
        Kind::Directory(_) => own.directories = 1,
        _ => own.others = 1,
    }
    let names = [(&mut own.users, node.meta.uid, &entry.user), (&mut own.groups, node.meta.gid, &entry.group)];
    for (names, number, name) in names {
        if !name.is_empty() && name.len() <= crate::model::node::MAX_NAME {
            names.insert(number, name.clone());
        }
    }
    own
}
