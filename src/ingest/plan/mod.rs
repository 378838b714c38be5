//! The planner: walks the source in order, in step with the parent, and says what is to be done.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::error::Result;
use crate::format::page::ScanRecord;
use crate::ingest::bucket::WalkedBucket;
use crate::ingest::exclude::{self, Marked, Rules};
use crate::ingest::handles::{Handle, Handles};
use crate::ingest::level::{self, Adoption, Next, WalkLevel};
use crate::ingest::objects::ObjectTask;
use crate::ingest::options::IngestOptions;
use crate::ingest::parent::{ParentDir, ParentEntry, ParentTree};
use crate::ingest::plan::leaves::MET;
use crate::ingest::plan::left_out::leave_out;
use crate::ingest::read::ReadTask;
use crate::ingest::scan::{Cell, Scanned};
use crate::ingest::shutdown::StageShutdown;
use crate::ingest::sink::stopped;
use crate::ingest::sources::SourceEntry;
use crate::ingest::stand_in::StandIns;
use crate::ingest::tell::EntryNotice;
use crate::model::node::{MAX_NAME, check_name};
use crate::model::{Directory, Kind, LeftOut, Metadata, Node, Root, Statistics};
use crate::observe::Event;
use crate::sys::table::Table;
use crate::sys::{Dir, FileKind, Stat, xattr};
use crate::task::Task;

mod given;
mod gone;
mod leaves;
mod left_out;
mod objects;

/// One step of the walk, for the assembler.
#[derive(Debug)]
pub(crate) enum WalkStep {
    /// A directory begins; with the parent's, if it has it.
    Enter(Box<Begun>, Option<ParentDirectory>),
    /// An entry that is no directory.
    Leaf(Box<Begun>, ContentSource),
    /// The directory that began last ends; this of it was left out.
    Leave(LeftOut),
    /// Something is said of an entry that is in no step.
    Tell(Box<EntryNotice>),
}

/// The parent's directory of the same path.
#[derive(Debug)]
pub(crate) struct ParentDirectory {
    /// Its pages.
    pub(crate) root: Root,
    /// Its preorder position.
    pub(crate) position: u64,
}

/// A node before its content is known.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The node; its content is empty until the assembler fills it in.
    pub(crate) node: Node,
    /// Its attributes, where the walk has read them.
    pub(crate) xattrs: xattr::XattrList,
    /// What change detection will want to know.
    pub(crate) record: ScanRecord,
    /// The parent's node of this path: of files that are read or linked, and where somebody wants to know of every entry.
    pub(crate) before: Option<Box<Node>>,
    /// It may be a further name of its group or another inode with the same number: only what is in it tells.
    pub(crate) doubtful: bool,
}

/// Where a leaf's content comes from.
#[derive(Debug)]
pub(crate) enum ContentSource {
    /// It is in the node.
    Nothing,
    /// It is taken over from the parent, and already in the node.
    Parent,
    /// It is read: this slot.
    Read(u64),
    /// It is the same file as an earlier link of its group. It is read by this name when that one could not be.
    Link(Box<ReadTask>),
    /// It is the stream of the input of this number.
    Stream(usize),
    /// It is an object that is read: this slot, of the input of this number.
    Object(u64, usize),
}

/// Steps that travel together.
const STEPS: usize = 128;
/// Where the planner's words go.
#[derive(Debug)]
pub(crate) struct Outlets {
    /// Steps, in order.
    pub(crate) steps: Sender<Vec<WalkStep>>,
    /// Batches of small files.
    pub(crate) small: Sender<Vec<ReadTask>>,
    /// Big files.
    pub(crate) big: Sender<ReadTask>,
    /// Objects of buckets: one, or several small ones.
    pub(crate) objects: Sender<Vec<ObjectTask>>,
}

/// What the walk counted.
#[derive(Debug)]
pub(crate) struct WalkReport {
    /// Files, directories, others, unchanged files, errors.
    pub(crate) statistics: Statistics,
    /// Given paths that are not there.
    pub(crate) missing_sources: usize,
    /// Buckets that the walk came to.
    pub(crate) buckets: Vec<WalkedBucket>,
    /// Repositories that were left out, by their path in the snapshot; `None` when there are too many.
    pub(crate) repositories: Option<Vec<Vec<u8>>>,
    /// Users and groups that own something.
    pub(crate) uids: std::collections::BTreeSet<u32>,
    /// The same for groups.
    pub(crate) gids: std::collections::BTreeSet<u32>,
}

/// The walk.
pub(crate) struct Planner<'a> {
    options: &'a IngestOptions,
    rules: &'a Rules,
    stand_ins: &'a StandIns,
    shutdown: &'a StageShutdown<'a>,
    adoption: Adoption<'a>,
    parent: Option<ParentTree>,
    task: &'a Task<'a>,
    outlets: Outlets,
    handles: &'a Arc<Handles>,
    /// Levels whose directory is open, and the first of them that might be closed.
    open_levels: usize,
    first_open: usize,
    path: Vec<u8>,
    steps: Vec<WalkStep>,
    batch: Vec<ReadTask>,
    batch_bytes: u64,
    objects: Vec<ObjectTask>,
    slots: u64,
    /// The groups of the inodes with several names that were met.
    links: Table<MET>,
    /// Devices that files with several names are on, and whether their inode numbers are made up.
    made_up: HashMap<(u32, u32), bool>,
    /// Where given paths stand that were stored, or told.
    seen: HashSet<Vec<u8>>,
    /// Given paths that are links.
    given_links: u64,
    /// The entry at hand could not be stored.
    lost: bool,
    walked: WalkReport,
    /// Somebody wants to know of every entry.
    listing: bool,
}

impl<'a> Planner<'a> {
    /// A planner for one ingest. Files without a name are made in `scratch`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        options: &'a IngestOptions,
        rules: &'a Rules,
        shutdown: &'a StageShutdown<'a>,
        adoption: Adoption<'a>,
        parent: Option<ParentTree>,
        task: &'a Task<'a>,
        outlets: Outlets,
        handles: &'a Arc<Handles>,
        scratch: Option<&Path>,
        stand_ins: &'a StandIns,
    ) -> Self {
        Planner {
            options,
            rules,
            stand_ins,
            shutdown,
            adoption,
            parent,
            task,
            outlets,
            handles,
            open_levels: 0,
            first_open: 0,
            path: Vec::new(),
            steps: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            objects: Vec::new(),
            slots: 0,
            links: Table::new(scratch),
            made_up: HashMap::new(),
            seen: HashSet::new(),
            given_links: 0,
            lost: false,
            walked: WalkReport {
                statistics: Statistics::default(),
                missing_sources: 0,
                buckets: Vec::new(),
                repositories: Some(Vec::new()),
                uids: Default::default(),
                gids: Default::default(),
            },
            listing: task.observer.wants_entries(),
        }
    }

    /// Walks everything. `root` is the tree of given paths, `parent_root` the parent's node of `/`.
    /// Gives the parent's tree back.
    pub(super) fn walk(mut self, root: &'a SourceEntry, parent_root: Option<&Node>) -> Result<(WalkReport, Option<ParentTree>)> {
        let parent = parent_root.and_then(|node| self.parent.as_ref()?.directory(node, 0));
        let mut stack: Vec<WalkLevel<'a>> = Vec::new();
        self.enter_place(&mut stack, root, b"", None, parent)?;
        while let Some(level) = stack.last_mut() {
            if self.shutdown.is_wanted() {
                return Err(stopped());
            }
            self.path.truncate(level.path_len);
            match level.next_name() {
                None => self.leave(&mut stack)?,
                Some(Next::Placed(name)) => {
                    let place = level.place.and_then(|p| p.below.get(name));
                    let entry = self.parent_entry(level, name)?;
                    if let Some(place) = place {
                        let parent = self.parent_dir(&entry);
                        self.enter_place(&mut stack, place, name, entry, parent)?;
                    }
                }
                Some(Next::Listed(at)) => {
                    let mut cell = level.take_cell(at);
                    self.listed(&mut stack, at, &mut cell)?;
                    if let Some(unused) = cell {
                        self.shutdown.scanner.forget(&unused);
                    }
                }
            }
            if std::mem::take(&mut self.lost) {
                leave_out(&mut stack, LeftOut::LOST);
            }
        }
        self.flush_batch()?;
        self.send_steps()?;
        self.tell_rest(root);
        Ok((self.walked, self.parent))
    }

    /// Leaves the topmost level. The one below it is opened again, should it be closed.
    fn leave(&mut self, stack: &mut Vec<WalkLevel<'a>>) -> Result<()> {
        let mut left = stack.pop();
        if let Some(level) = &mut left {
            self.rest_is_gone(level)?;
        }
        let left_out = left.as_ref().map_or(LeftOut::default(), |level| level.left_out);
        let left = left.as_ref().and_then(WalkLevel::dir);
        self.first_open = self.first_open.min(stack.len().saturating_sub(1));
        let closed = stack.last().is_some_and(|level| level.scanned.is_some() && level.dir().is_none());
        if closed {
            self.make_room(stack)?;
            let len = stack.last().map_or(0, |level| level.path_len);
            self.path.truncate(len);
            match level::reopen(stack, left.map(|dir| &**dir), &self.path) {
                Ok(()) => self.opened(stack),
                Err(e) => {
                    let path = self.path.clone();
                    self.warn(&path, &format!("the rest of its entries cannot be read: {e}"));
                    if let Some(level) = stack.last_mut() {
                        level.end();
                    }
                    leave_out(stack, LeftOut::UNREAD);
                }
            }
        }
        self.open_levels -= usize::from(left.is_some());
        self.step(WalkStep::Leave(left_out))
    }

    /// Counts the directory of the topmost level.
    fn opened(&mut self, stack: &[WalkLevel<'a>]) {
        if let Some(dir) = stack.last().and_then(WalkLevel::dir) {
            dir.count(self.handles);
            self.open_levels += 1;
        }
    }

    /// Before another directory is opened: closes levels far above, and waits for readers when they have too many.
    fn make_room(&mut self, stack: &mut [WalkLevel<'a>]) -> Result<()> {
        let above = stack.len().saturating_sub(1);
        while self.open_levels >= self.handles.of_levels() && self.first_open < above {
            self.open_levels -= usize::from(stack[self.first_open].close(&self.shutdown.scanner));
            self.first_open += 1;
        }
        if self.handles.is_full() {
            // What readers and assembler have must be enough for them to go on.
            self.flush_batch()?;
            self.send_steps()?;
            self.handles.wait(self.open_levels);
        }
        Ok(())
    }

    fn parent_dir(&self, entry: &Option<ParentEntry>) -> Option<ParentDir> {
        let entry = entry.as_ref()?;
        self.parent.as_ref()?.directory(entry.node(), entry.position)
    }

    fn step(&mut self, step: WalkStep) -> Result<()> {
        self.steps.push(step);
        if self.steps.len() >= STEPS {
            self.send_steps()?;
        }
        Ok(())
    }

    /// The only place where the planner waits for the assembler. Every task that a step needs is on its way by then:
    /// nothing can wait in a circle.
    fn send_steps(&mut self) -> Result<()> {
        let steps = std::mem::replace(&mut self.steps, Vec::with_capacity(STEPS));
        let count = steps.len() as u64;
        self.outlets.steps.send(steps).map_err(|_| stopped())?;
        if self.shutdown.lead.is_short_of(count) {
            self.flush_batch()?;
        }
        if self.shutdown.lead.take(u64::MAX, count) { Ok(()) } else { Err(stopped()) }
    }

    fn warn(&mut self, path: &[u8], message: &str) {
        self.walked.statistics.errors += 1;
        self.task.observer.event(&Event::Warning { subject: path, message });
    }

    /// A directory of the source.
    fn enter(
        &mut self,
        stack: &mut Vec<WalkLevel<'a>>,
        place: Option<&'a SourceEntry>,
        mut scanned: Scanned,
        name: &[u8],
        parent: Option<ParentDir>,
        inner: bool,
    ) -> Result<()> {
        let mut left_out = LeftOut::default();
        let xattrs = self.attributes(std::mem::take(&mut scanned.xattrs), &mut left_out);
        let node = Node {
            name: name.to_vec(),
            meta: Metadata { flags: scanned.flags, ..metadata(&scanned.stat) },
            kind: Kind::Directory(Directory::default()),
            link: None,
            given: true,
            changed: false,
            left_out: LeftOut::default(),
        };
        self.walked.statistics.directories += 1;
        self.owners(&node);
        let before = parent.as_ref().filter(|_| self.listing).map(|parent| Box::new(parent.node().clone()));
        let begun = Begun { node, xattrs, record: record(&scanned.stat), before, doubtful: false };
        self.step(WalkStep::Enter(Box::new(begun), parent.as_ref().and_then(ParentDir::before)))?;
        let listed = |name: &[u8]| scanned.listing.contains(name);
        let extra: Vec<&[u8]> =
            place.map_or_else(Vec::new, |p| p.below.keys().map(Vec::as_slice).filter(|n| !listed(n)).collect());
        let mut level = WalkLevel {
            place,
            extra: extra.into_iter().peekable(),
            at: 0,
            parent,
            announced: Default::default(),
            announce_from: 0,
            marked: self.rules.marked(&scanned.listing, scanned.dir.as_ref().map(|dir| &***dir)),
            path_len: self.path.len(),
            device: scanned.stat.device,
            left_out,
            scanned: Some(scanned),
            inner,
            cut: false,
        };
        if level.marked != Marked::No {
            level.left_out.add(LeftOut::MARKED);
        }
        level.announce(&self.shutdown.scanner);
        stack.push(level);
        self.opened(stack);
        Ok(())
    }

    /// What there is of the attributes of the entry at the current path; what is not is told, and noted in `left_out`.
    fn attributes(&mut self, found: xattr::ReadXattrs, left_out: &mut LeftOut) -> xattr::XattrList {
        let found = self.rules.attributes(found);
        if let Some(e) = found.failed {
            let path = self.path.clone();
            self.warn(&path, &exclude::not_kept(&e));
            left_out.add(LeftOut::ATTRIBUTES);
        }
        found.list
    }

    /// Entry `at` of the directory on top of the stack.
    /// `cell` is its announced scan; what is left there is not needed.
    fn listed(&mut self, stack: &mut Vec<WalkLevel<'a>>, at: usize, cell: &mut Option<Arc<Cell>>) -> Result<()> {
        let Some(level) = stack.last_mut() else { return Ok(()) };
        let Some(scanned) = level.scanned.as_mut() else { return Ok(()) };
        let name = scanned.listing.name(at).to_vec();
        let stat = scanned.take_stat(at);
        let Some(dir) = scanned.dir.clone() else { return Ok(()) };
        self.path.push(b'/');
        self.path.extend_from_slice(&name);
        let place = level.place.and_then(|p| p.below.get(&name));
        if check_name(&name).is_err() {
            self.lose(&format!("a name of {} bytes cannot be stored (at most {MAX_NAME})", name.len()));
            return Ok(());
        }
        let entry = self.parent_entry(level, &name)?;
        let stat = match stat {
            Ok(stat) => stat,
            // Gone since it was listed: as if it had gone a moment earlier.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if self.rules.is_own_mount(&self.path) => {
                let message = "a repository is mounted here: it is left out";
                self.task.observer.event(&Event::Warning { subject: &self.path, message });
                self.leave_out_repository(stack);
                return Ok(());
            }
            Err(e) => {
                self.warn(&self.path.clone(), &format!("it cannot be examined: {e}"));
                self.lost = true;
                return Ok(());
            }
        };
        if let Some(place) = place.filter(|p| p.input.is_some()) {
            self.path.truncate(level.path_len);
            let parent = self.parent_dir(&entry);
            return self.enter_place(stack, place, &name, entry, parent);
        }
        let left_out = match level.marked {
            Marked::No => false,
            Marked::All => true,
            Marked::AllBut(tag) => name != tag,
        };
        let why = || if left_out { Some("its directory is marked".to_owned()) } else { self.rules.excludes(&self.path, &stat) };
        if place.is_none()
            && let Some(why) = why()
        {
            if !left_out {
                leave_out(stack, LeftOut::EXCLUDED);
            }
            return self.left_out(&name, &stat, &why);
        }
        if stat.kind != FileKind::Directory {
            return self.leaf(&dir, &name, &name, stat, entry);
        }
        let (above, parent) = (level.device, self.parent_dir(&entry));
        self.listed_directory(stack, place, (dir, &name), (stat, above), parent, cell)
    }

    /// A directory that is an entry of another one, on the device `above`.
    fn listed_directory(
        &mut self,
        stack: &mut Vec<WalkLevel<'a>>,
        place: Option<&'a SourceEntry>,
        (dir, name): (Arc<Handle>, &[u8]),
        (stat, above): (Stat, (u32, u32)),
        parent: Option<ParentDir>,
        cell: &mut Option<Arc<Cell>>,
    ) -> Result<()> {
        // Where a snapshot of what is around it has an empty directory, something of its own is read.
        let elsewhere = self.stand_ins.inner(&self.path).and_then(|at| Dir::open(at).ok());
        let stat = elsewhere.as_ref().and_then(|dir| dir.stat_self().ok()).unwrap_or(stat);
        if let Some(message) = self.rules.never_enters(&self.stand_ins.original(&stat)) {
            self.task.observer.event(&Event::Warning { subject: &self.path, message });
            self.leave_out_repository(stack);
            return Ok(());
        }
        match elsewhere {
            Some(elsewhere) => self.descend_elsewhere(stack, place, (elsewhere, name), (&stat, above), parent),
            None => self.descend(stack, place, (dir, name), (&stat, above), parent, cell.take()),
        }
    }

    /// Opens the directory `name` of `dir`, whose stat is given with the device of the directory above, and enters it.
    fn descend(
        &mut self,
        stack: &mut Vec<WalkLevel<'a>>,
        place: Option<&'a SourceEntry>,
        (dir, name): (Arc<Handle>, &[u8]),
        (stat, above): (&Stat, (u32, u32)),
        parent: Option<ParentDir>,
        cell: Option<Arc<Cell>>,
    ) -> Result<()> {
        self.make_room(stack)?;
        let scanned = match cell {
            Some(cell) => self.shutdown.scanner.take(&cell),
            None => dir.open_dir(name).and_then(Scanned::of),
        };
        match scanned {
            Ok(scanned) => {
                self.enter(stack, place, scanned, name, parent, true)?;
                self.stay_outside(stack, stat, above);
            }
            // Gone since it was looked at.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let path = self.path.clone();
                self.warn(&path, &format!("its entries cannot be read: {e}"));
                self.unread(&dir, name, stat)?;
            }
        }
        drop(dir);
        if let [.., below, _] = stack.as_mut_slice() {
            below.announce(&self.shutdown.scanner);
        }
        Ok(())
    }

    /// Leaves what is in the directory on top of the stack out if another file system is mounted there, and that is not
    /// wanted; else announces what is below it.
    fn stay_outside(&mut self, stack: &mut [WalkLevel<'a>], stat: &Stat, above: (u32, u32)) {
        let Some(level) = stack.last_mut() else { return };
        if stat.device != above && self.options.exclude.one_file_system {
            // A mount point stays, empty, as the directory that it is.
            level.marked = Marked::All;
            level.left_out = LeftOut(LeftOut::MOUNTED.0 | level.left_out.0 & LeftOut::ATTRIBUTES.0);
            level.device = above;
        }
        level.announce(&self.shutdown.scanner);
    }

    /// Enters the directory `name` as it is elsewhere. No `..` leads back from there.
    fn descend_elsewhere(
        &mut self,
        stack: &mut Vec<WalkLevel<'a>>,
        place: Option<&'a SourceEntry>,
        (elsewhere, name): (Dir, &[u8]),
        (stat, above): (&Stat, (u32, u32)),
        parent: Option<ParentDir>,
    ) -> Result<()> {
        self.make_room(stack)?;
        match Scanned::of(elsewhere) {
            Ok(scanned) => {
                self.enter(stack, place, scanned, name, parent, false)?;
                self.stay_outside(stack, stat, above);
            }
            Err(e) => {
                self.warn(&self.path.clone(), &format!("its entries cannot be read: {e}"));
                self.lost = true;
            }
        }
        if let [.., below, _] = stack.as_mut_slice() {
            below.announce(&self.shutdown.scanner);
        }
        Ok(())
    }

    /// Says that the entry at the current path is left out, since it cannot be stored. Its directory is not whole without
    /// it.
    fn lose(&mut self, message: &str) {
        let path = self.path.clone();
        self.warn(&path, &format!("{message}: it is left out"));
        self.lost = true;
    }

    fn owners(&mut self, node: &Node) {
        self.walked.uids.insert(node.meta.uid);
        self.walked.gids.insert(node.meta.gid);
    }
}

/// What a node keeps of a stat.
pub(super) fn metadata(stat: &Stat) -> Metadata {
    Metadata { mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, ..Metadata::default() }
}

/// What change detection keeps of a stat.
pub(super) fn record(stat: &Stat) -> ScanRecord {
    ScanRecord { inode: stat.inode, ctime: stat.ctime, birth: stat.birth }
}
