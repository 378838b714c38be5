//! The file system on plain types: what the kernel asks, answered without a kernel.
//!
//! Every method may be called from many threads at once; none holds a lock while data is fetched.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, ErrorKind, Result};
use crate::model::node::MAX_NAME;
use crate::model::{Part, Snapshot, escape};
use crate::observe::Reports;
use crate::query::content;
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::reader::{ChunkReader, ReadCounts};
use crate::repo::snapshots;
use crate::repo::tree::TreeReader;
use crate::vfs::MountOptions;
use crate::vfs::attr::{Attr, DirEntry, FileSystemTotals, ViewFault, ViewResult};
use crate::vfs::below::{FoundNode, NodeFinder, SnapshotDir};
use crate::vfs::follow::{Follower, FollowerState, InodeTarget, ShownTree};
use crate::vfs::image::area::Areas;
use crate::vfs::image::tree::ImagePart;
use crate::vfs::image::{self, Reader};
use crate::vfs::inode::InodeSpace;
use crate::vfs::list::SnapshotWatch;
use crate::vfs::readahead::{FileRead, PageCacheStore, ReadAhead};
use crate::vfs::root::{Invalidation, MadeDir, MadeKind, MountedSnapshot, VERSIONS, VirtualEntry};
use crate::vfs::stat::Shower;

mod versions;

use versions::VersionLists;

/// The file system.
#[derive(Debug)]
pub struct View {
    follower: Follower,
    below: Arc<NodeFinder>,
    /// Of readers through the kernel, and of readers of images.
    read_ahead: Arc<ReadAhead>,
    shower: Shower,
    owner_root: bool,
    versions: VersionLists,
    without_xattrs: bool,
    /// Somebody looks into a snapshot for the first time.
    entered: (Sender<()>, Receiver<()>),
}

impl View {
    /// Opens the view of a repository. Takes as long as reading the list of snapshots, whatever is in them.
    pub fn open(repo: &Arc<Repository>, options: &MountOptions) -> Result<View> {
        if options.memory < 4 << 20 {
            return Err(Error::invalid(format!("a mount needs at least 4 MiB of memory, not {} bytes", options.memory)));
        }
        let index = Arc::new(Index::load(repo)?);
        // Frames get eight parts of eleven, decoded pages of trees three.
        let part = options.memory / 11;
        let chunks = Arc::new(ChunkReader::new(repo.clone(), index, part * 8)?.with_unnamed_packs());
        let trees = Arc::new(TreeReader::new(chunks.clone(), part * 3)?);
        let below = Arc::new(NodeFinder::new(trees));
        let mut watch = SnapshotWatch::new(chunks, options.filter.clone(), options.templates.clone());
        let shown = watch.list()?;
        let top = options.scope.as_ref().map(|(name, path)| scope(&below, &shown, name, path)).transpose()?;
        let counted = top.as_ref().and_then(|top| top.tree.snapshot.statistics.with_attributes);
        let follower = match top {
            None => Follower::snapshots(watch, &shown)?,
            Some(top) => Follower::directory(top),
        };
        let read_ahead = Arc::new(ReadAhead::giving(below.clone(), part * 8)?);
        Ok(View {
            follower,
            below,
            read_ahead,
            shower: Shower::new(options.owner_root),
            owner_root: options.owner_root,
            versions: VersionLists::new(options.lets_others_in()),
            without_xattrs: options.without_xattrs || counted == Some(0),
            entered: crossbeam_channel::bounded(1),
        })
    }

    /// Where is said what no request can answer.
    pub(crate) fn reports(&self) -> &Reports {
        self.below.trees().chunks().repo().reports()
    }

    /// What was fetched and decoded so far.
    pub fn counts(&self) -> &ReadCounts {
        &self.below.trees().chunks().counts
    }

    /// Whether nothing that is shown has extended attributes: none are to be shown, or it is one snapshot whose ingest
    /// counted none.
    pub(crate) fn without_xattrs(&self) -> bool {
        self.without_xattrs
    }

    /// Whether the kernel itself judges POSIX ACLs. While it does not, the group bits that are shown are cut down to
    /// what the ACL gives the owning group. The stored group bits are the ACL's mask: they would let in users whom the ACL
    /// refuses.
    pub fn kernel_judges_acls(&self, it_does: bool) {
        self.shower.kernel_judges_acls.store(it_does, Ordering::Relaxed);
    }

    /// What changes in the made-up directories from now on. For one receiver.
    pub fn changes(&self) -> Receiver<Invalidation> {
        self.follower.changes()
    }

    fn state(&self) -> Arc<FollowerState> {
        self.follower.state()
    }

    /// The state to answer a question about `ino` with: of what is made up, the newest that can be had.
    fn state_for(&self, ino: u64) -> Arc<FollowerState> {
        let state = self.state();
        if !state.is_followed(ino) {
            return state;
        }
        self.follower.follow();
        self.state()
    }

    /// Whether the storage answers slowly, so that nothing is read that nobody wants.
    pub(crate) fn is_far(&self) -> bool {
        self.below.trees().chunks().repo().storage().costs().high_latency()
    }

    /// The trees that are shown.
    pub(crate) fn trees(&self) -> Vec<ShownTree> {
        self.state().trees()
    }

    /// Says when somebody looks into a snapshot for the first time. For one receiver.
    pub(crate) fn entered(&self) -> Receiver<()> {
        self.entered.1.clone()
    }

    fn ask(&self, tree: &MountedSnapshot) {
        if tree.asked.now() {
            // Full: that somebody did is said already.
            let _ = self.entered.0.try_send(());
        }
    }

    /// The image of a tree, with its metadata in `areas`. Errors: something in it is damaged, or `areas` has no room.
    pub(crate) fn image(&self, shown: &ShownTree, without_xattrs: bool, areas: &Areas) -> Result<Reader> {
        let (tree, position) = (shown.tree.clone(), shown.position);
        let as_shown = [u8::from(self.owner_root), u8::from(without_xattrs)];
        let name = image::export::name(&tree.snapshot, position, &as_shown);
        let part = ImagePart::new(self.below.clone(), tree, position, self.owner_root, without_xattrs);
        let made = image::build(&part, areas, name)?;
        Ok(Reader::new(part, made, self.read_ahead.clone()))
    }

    /// Lists the snapshots again, now.
    pub fn refresh(&self) {
        self.follower.refresh();
    }

    /// The same, and reads again what is known of each snapshot: its tags may be others.
    pub fn refresh_anew(&self) {
        self.follower.refresh_anew();
    }

    /// The number of `name` in `parent` with its attributes; `None` when there is no such name.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> ViewResult<Option<Attr>> {
        if name.len() > MAX_NAME {
            return Err(ViewFault::NameTooLong);
        }
        let state = self.state_for(parent);
        // Of an inode that the kernel has only a number of, and may have been a file.
        match name {
            b"." => return self.attr_of(&state, parent).map(Some),
            b".." => return self.attr_of(&state, self.parent(&state, parent)?).map(Some),
            _ => {}
        }
        match state.node(parent)? {
            InodeTarget::Made(made) => {
                let MadeKind::Directory(dir) = &made.kind else { return Err(ViewFault::NotDirectory) };
                if name == VERSIONS && dir.find(name).is_none() {
                    return self.made_versions(&state, parent);
                }
                dir.find(name).map(|ino| self.attr_of(&state, ino)).transpose()
            }
            InodeTarget::Below(tree, position) => {
                self.ask(&tree);
                let dir = self.below.dir(&tree, position)?;
                let Some(entry) = self.below.lookup(&dir, name)? else {
                    return if name == VERSIONS { self.versions_in(&state, &tree, position) } else { Ok(None) };
                };
                let position = dir.position + entry.offset;
                if let Some(directory) = entry.node().directory() {
                    let (directory, parent) = (*directory, Some(dir.position));
                    self.below.remember(SnapshotDir { tree: tree.clone(), position, directory, parent });
                }
                self.shower.attr(self.below.trees(), &tree, position, entry.node()).map(|attr| Some(state.outward(attr)))
            }
            InodeTarget::Versions(space, tree, position) => self.version(&state, space, (&tree, position), name),
        }
    }

    /// The number of the directory that a directory is in.
    fn parent(&self, state: &FollowerState, ino: u64) -> ViewResult<u64> {
        match state.node(ino)? {
            InodeTarget::Made(made) => Ok(made.parent),
            InodeTarget::Below(tree, position) => Ok(state.parent(&self.below.dir(&tree, position)?)),
            InodeTarget::Versions(space, tree, position) => self.parent_of_versions(state, space, &tree, position),
        }
    }

    /// The attributes of an inode.
    pub fn getattr(&self, ino: u64) -> ViewResult<Attr> {
        let state = self.state_for(ino);
        self.attr_of(&state, ino)
    }

    fn attr_of(&self, state: &FollowerState, ino: u64) -> ViewResult<Attr> {
        match state.node(ino)? {
            InodeTarget::Made(made) => Ok(self.shower.made(ino, made)),
            InodeTarget::Below(tree, position) => {
                // Listing `ids/` is no use of a snapshot.
                if position > 0 {
                    self.ask(&tree);
                }
                let found = self.below.node(&tree, position)?;
                self.shower.attr(self.below.trees(), &tree, position, found.node()).map(|attr| state.outward(attr))
            }
            InodeTarget::Versions(space, tree, position) => self.attr_of_versions(state, space, &tree, position),
        }
    }

    /// Whether what `readdir` and `lookup` say of the entries of this directory stays true while the mount lasts.
    pub(crate) fn is_lasting(&self, directory: u64) -> bool {
        !self.state().is_followed(directory)
    }

    /// Gives out the entries of a directory from `offset` on (0 at first, then what the last entry said), until
    /// `take` answers that it is full.
    pub fn readdir(&self, ino: u64, offset: u64, take: &mut dyn FnMut(DirEntry<'_>) -> bool) -> ViewResult<()> {
        let state = if offset == 0 { self.state_for(ino) } else { self.state() };
        match state.node(ino)? {
            InodeTarget::Made(VirtualEntry { parent, kind: MadeKind::Directory(dir), .. }) => {
                self.list_made(&state, (ino, *parent), dir, offset, take)
            }
            InodeTarget::Made(_) => Err(ViewFault::NotDirectory),
            InodeTarget::Below(tree, position) => {
                self.ask(&tree);
                let dir = self.below.dir(&tree, position)?;
                // The question after the last entry: now the kernel knows the inodes of all of them.
                if offset >= dir.directory.entries + 2 {
                    self.read_ahead.listed(&dir);
                }
                self.list_below(&state, &dir, offset, take)
            }
            InodeTarget::Versions(space, tree, position) => self.list_versions(&state, space, (&tree, position), (offset, take)),
        }
    }

    /// `.` and `..`; false when `take` is full.
    fn dots(
        &self,
        state: &FollowerState,
        dots: (u64, u64),
        offset: u64,
        take: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> ViewResult<bool> {
        for (next, ino, name) in [(1, dots.0, b".".as_slice()), (2, dots.1, b"..")] {
            if offset < next {
                let attr = self.attr_of(state, ino)?;
                if take(DirEntry { name, next, attr, certain: true, lasting: false }) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// An entry's offset is its inode number and two: see [`MadeDir::entries`].
    fn list_made(
        &self,
        state: &FollowerState,
        dots: (u64, u64),
        dir: &MadeDir,
        offset: u64,
        take: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> ViewResult<()> {
        if !self.dots(state, dots, offset, take)? {
            return Ok(());
        }
        let from = dir.entries.partition_point(|(ino, _)| *ino + 2 <= offset);
        for (ino, name) in &dir.entries[from..] {
            let attr = self.attr_of(state, *ino)?;
            if take(DirEntry { name, next: ino + 2, attr, certain: true, lasting: false }) {
                break;
            }
        }
        Ok(())
    }

    /// Entry number `n` has offset `n + 3`.
    fn list_below(
        &self,
        state: &FollowerState,
        dir: &SnapshotDir,
        offset: u64,
        take: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> ViewResult<()> {
        let own = state.outside(dir.ino());
        if !self.dots(state, (own, state.parent(dir)), offset, take)? {
            return Ok(());
        }
        self.below.touch(dir);
        let trees = self.below.trees();
        let mut next = trees.entry_number(&dir.directory, offset.saturating_sub(2))?;
        while let Some(entry) = next {
            let node = entry.node();
            let (attr, certain) = self.shower.attr_or_guess(trees, &dir.tree, dir.position + entry.offset, node);
            let shown = DirEntry { name: &node.name, next: entry.number + 3, attr, certain, lasting: true };
            if take(shown) {
                break;
            }
            next = trees.next(&dir.directory, &entry)?;
        }
        Ok(())
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: u64) -> ViewResult<Vec<u8>> {
        let state = self.state();
        match state.node(ino)? {
            InodeTarget::Made(VirtualEntry { kind: MadeKind::Link(target), .. }) => Ok(target.clone()),
            InodeTarget::Made(_) => Err(ViewFault::Invalid),
            InodeTarget::Below(tree, position) => match &self.below.node(&tree, position)?.node().kind {
                crate::model::Kind::Symlink(target) => Ok(target.clone()),
                _ => Err(ViewFault::Invalid),
            },
            InodeTarget::Versions(InodeSpace::Link, tree, position) => self.version_target(&state, &tree, position),
            InodeTarget::Versions(..) => Err(ViewFault::Invalid),
        }
    }

    /// Finds a node below a snapshot; `None` for what is made up.
    fn found(&self, ino: u64) -> ViewResult<Option<(Arc<MountedSnapshot>, u64, FoundNode)>> {
        match self.state().node(ino)? {
            InodeTarget::Made(_) | InodeTarget::Versions(..) => Ok(None),
            InodeTarget::Below(tree, position) => {
                self.ask(&tree);
                let found = self.below.node(&tree, position)?;
                Ok(Some((tree, position, found)))
            }
        }
    }

    fn file(&self, ino: u64) -> ViewResult<(Arc<MountedSnapshot>, u64, FoundNode)> {
        let (tree, position, found) = self.found(ino)?.ok_or(ViewFault::IsDirectory)?;
        match found.node().kind {
            crate::model::Kind::File(_) => Ok((tree, position, found)),
            crate::model::Kind::Directory(_) => Err(ViewFault::IsDirectory),
            _ => Err(ViewFault::Invalid),
        }
    }

    /// Up to `size` bytes of a regular file from `offset` on into `out` (replaced); fewer only at its end.
    pub fn read(&self, ino: u64, offset: u64, size: usize, out: &mut Vec<u8>) -> ViewResult<()> {
        let (tree, position, found) = self.file(ino)?;
        let crate::model::Kind::File(content) = &found.node().kind else { return Err(ViewFault::Invalid) };
        let range = (offset, size as u64);
        self.read_ahead.reading(&FileRead { tree: &tree, position, found: &found, ino: Some(ino), range });
        self.below.trees().read(content, offset, size, out)?;
        self.read_ahead.answered(ino, content, range);
        Ok(())
    }

    /// Says how to put bytes of a file into the kernel's page cache: what readers will want next is then given unasked.
    pub fn connect(&self, store: Box<PageCacheStore>) {
        self.read_ahead.connect(store);
    }

    /// The first offset from `offset` on that is not in a hole.
    pub fn seek_data(&self, ino: u64, offset: u64) -> ViewResult<u64> {
        self.seek(ino, offset, false)?.ok_or(ViewFault::PastEnd)
    }

    /// The first offset from `offset` on that is in a hole; a file ends with one.
    pub fn seek_hole(&self, ino: u64, offset: u64) -> ViewResult<u64> {
        let (_, _, found) = self.file(ino)?;
        Ok(self.seek(ino, offset, true)?.unwrap_or_else(|| found.node().size()))
    }

    fn seek(&self, ino: u64, offset: u64, hole: bool) -> ViewResult<Option<u64>> {
        let (_, _, found) = self.file(ino)?;
        let crate::model::Kind::File(content) = &found.node().kind else { return Err(ViewFault::Invalid) };
        if offset >= content.size() {
            return Err(ViewFault::PastEnd);
        }
        if let crate::model::Content::Inline(_) = content {
            return Ok((!hole).then_some(offset));
        }
        let mut at = None;
        self.below.trees().items(content, offset, &mut |start, item| {
            let is_hole = matches!(item, crate::model::Item::Hole { .. });
            if is_hole == hole {
                at = Some(start.max(offset));
            }
            Ok(at.is_none())
        })?;
        Ok(at)
    }

    /// The names of the extended attributes. The mount's own are not among them, so that copies and comparisons see
    /// what the source had.
    pub fn listxattr(&self, ino: u64) -> ViewResult<Vec<Vec<u8>>> {
        let Some((_, _, found)) = self.found(ino)? else { return Ok(Vec::new()) };
        let list = self.below.trees().xattrs(found.node())?;
        Ok(list.into_iter().map(|(name, _)| name).collect())
    }

    /// An extended attribute. Below a snapshot `user.yester.snapshot` is its id, `user.yester.btime` the time of birth
    /// at the source, in seconds, where it is known, `user.yester.content` the name of a file's content,
    /// `user.yester.changed` says that a file changed while it was read, `user.yester.versions` when its versions came, and
    /// `user.yester.parts` what became of the parts of the snapshot: each on a line.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> ViewResult<Vec<u8>> {
        let Some((tree, position, found)) = self.found(ino)? else { return self.attribute_of_versions(ino, name) };
        let list = self.below.trees().xattrs(found.node())?;
        if let Ok(at) = list.binary_search_by(|(n, _)| n.as_slice().cmp(name)) {
            return Ok(list.into_iter().nth(at).map(|(_, value)| value).unwrap_or_default());
        }
        match name {
            b"user.yester.snapshot" => Ok(tree.snapshot.id.to_string().into_bytes()),
            b"user.yester.btime" => self.birth(&tree, position),
            b"user.yester.content" => match &found.node().kind {
                crate::model::Kind::File(of) => Ok(content::id(self.below.trees(), of).to_string().into_bytes()),
                _ => Err(ViewFault::NoAttribute),
            },
            b"user.yester.versions" => self.times_of_versions(&tree, position),
            b"user.yester.changed" if found.node().changed => Ok(b"1".to_vec()),
            b"user.yester.parts" => parts(&tree.snapshot),
            _ => Err(ViewFault::NoAttribute),
        }
    }

    fn birth(&self, tree: &MountedSnapshot, position: u64) -> ViewResult<Vec<u8>> {
        let root = tree.snapshot.scan.as_ref().ok_or(ViewFault::NoAttribute)?;
        let (first, records) = self.below.trees().scan_page(root, position)?;
        let record = position.checked_sub(first).and_then(|at| records.get(at as usize));
        let birth = record.and_then(|r| r.birth).ok_or(ViewFault::NoAttribute)?;
        // As `stat` and `touch -d @` write times: before 1970 the nanoseconds count forwards from the second before.
        Ok(format!("{}.{:09}", birth.secs, birth.nanos).into_bytes())
    }

    /// The `chattr` flags of a file or directory (`FS_IOC_GETFLAGS`).
    pub fn flags(&self, ino: u64) -> ViewResult<u32> {
        Ok(self.found(ino)?.map_or(0, |(_, _, found)| found.node().meta.flags))
    }

    /// Totals of what is shown.
    pub fn totals(&self) -> FileSystemTotals {
        self.state().totals
    }
}

/// What became of the parts of a snapshot: of each a line with its state, its kind, where it stands, and why it failed.
fn parts(snapshot: &Snapshot) -> ViewResult<Vec<u8>> {
    let line = |part: &Part| {
        let (path, message) = (escape(&part.path), escape(&part.message));
        let why = if message.is_empty() { String::new() } else { format!(": {message}") };
        let words = format!("{} {} {path}", part.state_name(), part.kind_name());
        format!("{}{why}\n", words.trim_end())
    };
    let text: String = snapshot.composition.parts.iter().map(line).collect();
    if text.is_empty() { Err(ViewFault::NoAttribute) } else { Ok(text.into_bytes()) }
}

/// The directory that a mount of one snapshot, or of a part of one, shows.
fn scope(below: &NodeFinder, shown: &[Arc<MountedSnapshot>], name: &str, path: &[u8]) -> Result<SnapshotDir> {
    let all: Vec<_> = shown.iter().map(|m| m.snapshot.clone()).collect();
    let id = snapshots::find(&all, name, &Default::default())?.id;
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no snapshot {name}"));
    let tree = shown.iter().find(|m| m.snapshot.id == id).cloned().ok_or_else(missing)?;
    let names: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    let (_, position) = below.trees().walk_to(&tree.snapshot.root, &names)?;
    below.dir(&tree, position).map_err(|fault| match fault {
        ViewFault::Unreadable(e) => e,
        _ => Error::invalid(format!("/{} is not a directory: only directories can be mounted", escape(&names.join(&b'/')))),
    })
}
