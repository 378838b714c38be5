//! The assembler: takes the planner's steps in order, waits for what the readers have read, and builds the trees.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Result};
use crate::format::page::{self, PageKind, ScanRecord};
use crate::ingest::assemble::objects::ReadObjects;
use crate::ingest::assemble::streams::{EndedStream, Streams};
use crate::ingest::chunks::{BatchFile, FrameBuilder, Previous};
use crate::ingest::count::Counted;
use crate::ingest::exclude::{self, Rules};
use crate::ingest::groups::LinkGroups;
use crate::ingest::holes::Hole;
use crate::ingest::plan::{self, Begun, ContentSource, WalkStep};
use crate::ingest::read::{Cut, FilePart, Message, ReadFile, ReadTask, SmallFile, is_small};
use crate::ingest::recipe::Recipe;
use crate::ingest::shutdown::StageShutdown;
use crate::ingest::sink::stopped;
use crate::ingest::tell::{self, EntryNotice};
use crate::model::{Content, Directory, Item, Kind, LeftOut, Node, Root, Snapshot, Statistics, Xattrs};
use crate::observe::{Action, Event};
use crate::repo::tree::writer::{PageSink, TreeWriter};
use crate::task::Task;

/// Attributes up to this many bytes stand in the node.
const INLINE_XATTRS: usize = 1 << 10;
/// Scan records of one page, at most.
const SCAN_RECORDS: u64 = 2048;

pub(crate) mod objects;
pub(crate) mod streams;

/// What came out.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The node of `/`; `None` when the walk was cut short.
    pub(crate) root: Option<Node>,
    /// The scan records.
    pub(crate) scan: Option<Root>,
    /// The hard link groups.
    pub(crate) links: Option<Root>,
    /// The nodes of the given paths, by path: what decides whether anything changed (the live metadata of what only
    /// leads to them does not).
    pub(crate) given: Vec<(Vec<u8>, Node)>,
    /// The streams that the walk came to.
    pub(crate) ended: Vec<EndedStream>,
    /// What was read of buckets, by the numbers of their inputs.
    pub(crate) objects: HashMap<usize, ReadObjects>,
    /// Files that changed while they were read.
    pub(crate) changed: u64,
    /// New and changed files, errors and files lost to them, new bytes.
    pub(crate) statistics: Statistics,
}

/// A directory under construction.
struct Building {
    begun: Box<Begun>,
    writer: TreeWriter,
    directory: Directory,
    left_out: LeftOut,
}

/// A file that is ready, or becomes so.
enum Arrived {
    Whole(io::Result<ReadFile>, Content),
    Parts(VecDeque<FilePart>),
}

/// Where files go to be read.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    /// Batches of small ones.
    pub(crate) small: Sender<Vec<ReadTask>>,
    /// Big ones.
    pub(crate) big: Sender<ReadTask>,
}

impl Readers {
    fn send(&self, task: ReadTask) -> Result<()> {
        let sent = match is_small(&task.stat) {
            true => self.small.send(vec![task]).is_ok(),
            false => self.big.send(task).is_ok(),
        };
        if sent { Ok(()) } else { Err(stopped()) }
    }
}

/// Builds one snapshot's trees.
pub(crate) struct Assembler<'a> {
    chunks: FrameBuilder<'a>,
    readers: Readers,
    messages: &'a Receiver<Message>,
    shutdown: &'a StageShutdown<'a>,
    task: &'a Task<'a>,
    rules: &'a Rules,
    arrived: HashMap<u64, Arrived>,
    streams: Streams<'a>,
    ended: Vec<EndedStream>,
    objects: HashMap<usize, ReadObjects>,
    changed: u64,
    stack: Vec<Building>,
    path: Vec<u8>,
    root: Option<Node>,
    given: Vec<(Vec<u8>, Node)>,
    scan: TreeWriter,
    last_record: ScanRecord,
    groups: LinkGroups,
    /// The parent's hard link groups.
    links: Option<Root>,
    position: u64,
    statistics: Statistics,
    bytes_done: u64,
    /// Entries and bytes of the parent: about what this will be.
    expected: Option<(u64, u64)>,
    /// The same where there is no parent, once it is counted.
    counted: &'a Counted,
    /// Somebody wants to know of every entry.
    listing: bool,
    scratch: Vec<u8>,
}

impl<'a> Assembler<'a> {
    /// An assembler that hands new chunks to `chunks`. Files without a name are made in `scratch`. Pages may be stored
    /// as differences from those of `parent`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        chunks: FrameBuilder<'a>,
        readers: Readers,
        messages: &'a Receiver<Message>,
        shutdown: &'a StageShutdown<'a>,
        task: &'a Task<'a>,
        rules: &'a Rules,
        scratch: Option<&Path>,
        parent: Option<&Snapshot>,
        streams: Streams<'a>,
        counted: &'a Counted,
    ) -> Self {
        Assembler {
            chunks,
            readers,
            messages,
            shutdown,
            task,
            rules,
            arrived: HashMap::new(),
            streams,
            ended: Vec::new(),
            objects: HashMap::new(),
            changed: 0,
            stack: Vec::new(),
            path: Vec::new(),
            root: None,
            given: Vec::new(),
            scan: TreeWriter::new(PageKind::Scan).over(parent.and_then(|parent| parent.scan)),
            links: parent.and_then(|parent| parent.links),
            last_record: ScanRecord::default(),
            groups: LinkGroups::new(scratch),
            position: 0,
            statistics: Statistics { with_attributes: Some(0), ..Statistics::default() },
            bytes_done: 0,
            expected: parent.map(|parent| (parent.root.weight(), parent.statistics.bytes)),
            counted,
            listing: task.observer.wants_entries(),
            scratch: Vec::new(),
        }
    }

    /// Works until the steps end. What was read before an interruption is stored all the same: the next ingest finds it.
    pub(super) fn run(mut self, steps: &Receiver<Vec<WalkStep>>) -> Result<Assembled> {
        while let Some(steps) = self.next_steps(steps)? {
            let count = steps.len() as u64;
            for step in steps {
                match self.step(step) {
                    Ok(()) => {}
                    Err(e) if e.kind() == crate::ErrorKind::Interrupted => return self.finish(true),
                    Err(e) => return Err(e),
                }
            }
            self.shutdown.lead.give(u64::MAX, count);
            self.progress(0);
        }
        self.finish(false)
    }

    /// Says how far this is; `more` bytes are those of the file that is being read.
    fn progress(&self, more: u64) {
        let (entries, bytes) = (self.position, self.bytes_done + more);
        let (total_entries, total_bytes) = self.expected.or_else(|| self.counted.total()).unwrap_or_default();
        self.task.observer.event(&Event::Progress { entries, bytes, total_entries, total_bytes, unit: "entries" });
    }

    fn finish(mut self, interrupted: bool) -> Result<Assembled> {
        let root = if interrupted { None } else { self.root.take() };
        let mut roots = (None, None);
        if root.is_some() {
            roots.0 = self.scan.finish(&mut self.chunks)?;
            roots.1 = self.groups.write(self.links, &mut self.chunks)?;
        }
        self.statistics.bytes_new = self.chunks.finish()?;
        Ok(Assembled {
            root,
            scan: roots.0,
            links: roots.1,
            given: self.given,
            ended: self.ended,
            objects: self.objects,
            changed: self.changed,
            statistics: self.statistics,
        })
    }

    fn step(&mut self, step: WalkStep) -> Result<()> {
        match step {
            WalkStep::Enter(begun, before) => {
                if let Some(before) = &before {
                    self.scan.align(self.position, before.position);
                }
                self.record(begun.record)?;
                if !begun.node.name.is_empty() {
                    self.path.push(b'/');
                    self.path.extend_from_slice(&begun.node.name);
                }
                self.tell_directory(&begun);
                self.stack.push(Building {
                    begun,
                    writer: TreeWriter::new(PageKind::Directory).over(before.map(|before| before.root)),
                    directory: Directory::default(),
                    left_out: LeftOut::default(),
                });
                Ok(())
            }
            WalkStep::Leave(left_out) => self.leave(left_out),
            WalkStep::Leaf(begun, wanted) => self.leaf(begun, wanted),
            WalkStep::Tell(told) => {
                let EntryNotice { action, name, kind, reason, bytes } = *told;
                let path = [&self.path[..], b"/", &name].concat();
                self.task.observer.event(&Event::Entry { action, path: &path, kind, reason: &reason, bytes });
                Ok(())
            }
        }
    }

    /// Says what became of a directory that begins. One that only leads to given paths is nobody's.
    fn tell_directory(&self, begun: &Begun) {
        if !self.listing || !begun.node.given {
            return;
        }
        let mut node = begun.node.clone();
        if let Some(before) = &begun.before {
            node.meta.xattrs = tell::comparable(&before.meta.xattrs, &begun.xattrs);
        }
        let (action, reason) = tell::compared(begun.before.as_deref(), &node);
        let path = if self.path.is_empty() { b"/" } else { self.path.as_slice() };
        self.task.observer.event(&Event::Entry { action, path, kind: tell::kind_of(&node.kind), reason: &reason, bytes: 0 });
    }

    /// Says what became of an entry that is stored.
    fn tell_leaf(&self, node: &Node, before: Option<&Node>, link: bool) {
        if !self.listing {
            return;
        }
        let (action, mut reason) = tell::compared(before, node);
        if link && action == Action::New {
            reason = "hard link".to_owned();
        }
        let (path, kind) = (self.path_of(node), tell::kind_of(&node.kind));
        self.task.observer.event(&Event::Entry { action, path: &path, kind, reason: &reason, bytes: node.size() });
    }

    fn leave(&mut self, left_out: LeftOut) -> Result<()> {
        let Some(mut done) = self.stack.pop() else { return Err(Error::corrupt("a directory ends that never began")) };
        done.directory.root = done.writer.finish(&mut self.chunks)?;
        let mut node = done.begun.node;
        node.kind = Kind::Directory(done.directory);
        node.left_out = left_out;
        node.left_out.add(done.left_out);
        node.meta.xattrs = self.keep_xattrs(&done.begun.xattrs)?;
        self.path.truncate(self.path.len().saturating_sub(node.name.len() + 1));
        match self.stack.is_empty() {
            true => {
                if node.given {
                    self.given.push((Vec::new(), node.clone()));
                }
                self.count_attributes(&node);
                self.root = Some(node);
            }
            false => self.add(&node)?,
        }
        Ok(())
    }

    fn count_attributes(&mut self, node: &Node) {
        if node.meta.xattrs != Xattrs::None {
            *self.statistics.with_attributes.get_or_insert_default() += 1;
        }
    }

    /// Adds a finished node to the directory on top of the stack.
    fn add(&mut self, node: &Node) -> Result<()> {
        self.count_attributes(node);
        let Some(top) = self.stack.last_mut() else { return Ok(()) };
        if node.given && !top.begun.node.given {
            self.given.push(([&self.path[..], b"/", &node.name].concat(), node.clone()));
        }
        self.scratch.clear();
        crate::format::node::encode(node, &mut self.scratch)?;
        top.directory.entries += 1;
        top.directory.descendants += node.weight();
        top.directory.subdirs += u64::from(node.directory().is_some());
        top.writer.push(&self.scratch, node.weight(), &node.name, || page::key_hash(&node.name), &mut self.chunks)
    }

    /// Takes the next preorder position for a node with this record.
    fn record(&mut self, record: ScanRecord) -> Result<()> {
        if self.scan.at_page_start() {
            self.last_record = ScanRecord::default();
        }
        let last = self.last_record;
        let hash = || {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&record.inode.to_le_bytes());
            key[8..].copy_from_slice(&record.ctime.secs.to_le_bytes());
            page::key_hash(&key)
        };
        self.scan.push_with(|out| page::put_scan(&record, &last, out), hash, SCAN_RECORDS, &mut self.chunks)?;
        self.last_record = record;
        self.position += 1;
        Ok(())
    }

    fn keep_xattrs(&mut self, list: &[(Vec<u8>, Vec<u8>)]) -> Result<Xattrs> {
        if list.is_empty() {
            return Ok(Xattrs::None);
        }
        let size: usize = list.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        if size <= INLINE_XATTRS {
            return Ok(Xattrs::Inline(list.to_vec()));
        }
        let mut bytes = Vec::with_capacity(size + 8);
        crate::format::node::encode_xattrs(list, &mut bytes)?;
        Ok(Xattrs::Stored(self.chunks.page(&bytes)?))
    }

    fn leaf(&mut self, begun: Box<Begun>, wanted: ContentSource) -> Result<()> {
        let Begun { mut node, xattrs, mut record, before, doubtful } = *begun;
        // The walk has counted what it took over from the parent.
        let counts = !matches!(wanted, ContentSource::Nothing | ContentSource::Parent);
        let link = matches!(wanted, ContentSource::Link(_));
        if !self.content(&mut node, &mut record, wanted, &xattrs, before.as_deref())? {
            return Ok(());
        }
        if doubtful
            && let Some(group) = &node.link
            && let Some(first) = self.groups.first(group)?
            && first.kind != node.kind
        {
            // Another inode that was given the same number.
            node.link = None;
        }
        if let Err(e) = crate::format::node::check(&node) {
            return self.lose(&node, &format!("it cannot be stored and is left out: {e}"));
        }
        if counts {
            match before.as_deref().filter(|before| matches!(before.kind, Kind::File(_))) {
                None => self.statistics.files_new += 1,
                Some(before) if *before == node => self.statistics.files_unchanged += 1,
                Some(_) => self.statistics.files_changed += 1,
            }
        }
        self.tell_leaf(&node, before.as_deref(), link);
        if let Kind::File(_) = node.kind {
            self.statistics.bytes += node.size();
        }
        self.bytes_done += node.size();
        self.groups.join(&node, self.position)?;
        self.record(record)?;
        self.add(&node)
    }
    /// Gives a node its content, and what else is known only when it was read. False: it is left out, which is told.
    fn content(
        &mut self,
        node: &mut Node,
        record: &mut ScanRecord,
        wanted: ContentSource,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        before: Option<&Node>,
    ) -> Result<bool> {
        match wanted {
            ContentSource::Parent => Ok(true),
            ContentSource::Nothing => {
                node.meta.xattrs = self.keep_xattrs(xattrs)?;
                Ok(true)
            }
            ContentSource::Link(task) => match node.link.map_or(Ok(None), |group| self.groups.first(&group))? {
                Some(first) => {
                    (node.kind, node.meta.xattrs) = (first.kind, first.meta.xattrs);
                    (node.meta.flags, node.left_out) = (first.meta.flags, first.left_out);
                    Ok(true)
                }
                None => {
                    // The name that was to be read for all of them is gone, or is something else by now.
                    let slot = task.slot;
                    self.readers.send(*task)?;
                    self.read(node, record, slot, &|_| false)
                }
            },
            ContentSource::Stream(number) => self.stream(node, number, before),
            ContentSource::Object(slot, number) => self.object(node, record, slot, number),
            ContentSource::Read(slot) => self.read(node, record, slot, &|_| false),
        }
    }

    /// Takes over what was read for `slot`; false when it could not be read, which is told unless it is just `gone`.
    fn read(&mut self, node: &mut Node, record: &mut ScanRecord, slot: u64, gone: &dyn Fn(&io::Error) -> bool) -> Result<bool> {
        if !matches!(self.arrived.get(&slot), Some(Arrived::Whole(..))) {
            let subject = self.path_of(node);
            self.task.observer.event(&Event::Current { subject: &subject });
        }
        let (file, content) = self.await_file(slot)?;
        let mut file = match file {
            Ok(file) => file,
            Err(e) if gone(&e) => {
                self.statistics.files += 1;
                return Ok(false);
            }
            Err(e) => return self.lose(node, &format!("it cannot be read: {e}")).map(|()| false),
        };
        file.xattrs = self.rules.attributes(file.xattrs);
        self.note_read(node, record, &file, content.size());
        node.meta.xattrs = self.keep_xattrs(&file.xattrs.list)?;
        node.kind = Kind::File(content);
        Ok(true)
    }

    /// Takes metadata and counts over from a file that was read.
    fn note_read(&mut self, node: &mut Node, record: &mut ScanRecord, file: &ReadFile, size: u64) {
        let walked = node.meta.mtime;
        node.meta = plan::metadata(&file.stat);
        node.meta.flags = file.flags;
        if file.stat.inode != record.inode {
            // Another file has this name by now: whose names the walk saw is not known.
            node.link = None;
        }
        *record = plan::record(&file.stat);
        if file.moved {
            // Whether only the metadata moved is looked at again next time.
            *record = ScanRecord::default();
        }
        if let Some(e) = &file.xattrs.failed {
            // Read it again next time: they may be there then.
            *record = ScanRecord::default();
            node.left_out.add(LeftOut::ATTRIBUTES);
            self.warn(node, &exclude::not_kept(e));
        }
        node.changed = file.changed || file.stat.size != size && !file.made_up;
        self.changed += u64::from(node.changed);
        if node.changed {
            // Read it again next time, whatever its times say.
            *record = ScanRecord::default();
            node.meta.mtime = walked.max(file.stat.mtime);
            if !self.rules.changed_is_ok(&self.path_of(node)) {
                self.warn(node, "it changed while it was read, at every try");
            }
        }
    }

    fn path_of(&self, node: &Node) -> Vec<u8> {
        [&self.path[..], b"/", &node.name].concat()
    }

    /// Says what is wrong with an entry, and counts it.
    fn warn(&mut self, node: &Node, message: &str) {
        self.statistics.errors += 1;
        let path = self.path_of(node);
        self.task.observer.event(&Event::Warning { subject: &path, message });
    }

    /// An entry that cannot be stored: said, counted, left out.
    fn lose(&mut self, node: &Node, message: &str) -> Result<()> {
        self.warn(node, message);
        self.statistics.files += 1;
        if let Some(top) = self.stack.last_mut() {
            top.left_out.add(LeftOut::LOST);
        }
        Ok(())
    }

    /// Waits for the file of `slot` and stores its chunks.
    fn await_file(&mut self, slot: u64) -> Result<(io::Result<ReadFile>, Content)> {
        self.shutdown.bytes.advance(slot);
        let mut recipe = Recipe::default();
        loop {
            match self.arrived.get_mut(&slot) {
                Some(Arrived::Whole(..)) => {
                    if let Some(Arrived::Whole(file, content)) = self.arrived.remove(&slot) {
                        return Ok((file, content));
                    }
                }
                Some(Arrived::Parts(parts)) => {
                    if let Some(part) = parts.pop_front() {
                        if let Some(file) = self.part(slot, part, &mut recipe)? {
                            self.arrived.remove(&slot);
                            return Ok((file, recipe.finish(&mut self.chunks)?));
                        }
                        continue;
                    }
                }
                None => {}
            }
            let message = self.messages.recv().map_err(|_| stopped())?;
            self.receive(message)?;
        }
    }

    fn part(&mut self, slot: u64, part: FilePart, recipe: &mut Recipe) -> Result<Option<io::Result<ReadFile>>> {
        match part {
            FilePart::Begin(size, base) => {
                recipe.base = base;
                self.chunks.begin_big(size)?;
            }
            FilePart::Again => *recipe = Recipe::over(recipe.base.take()),
            FilePart::Hole(len) => recipe.push(Item::Hole { len }, &mut self.chunks)?,
            FilePart::Data { bytes, cuts, held } => {
                for Cut { id, start, len } in cuts {
                    let previous = recipe.base.as_ref().map(|content| Previous { content, offset: recipe.size });
                    self.chunks.big(&id, &bytes[start as usize..(start + len) as usize], previous)?;
                    recipe.push(Item::Chunk { id, len }, &mut self.chunks)?;
                }
                self.progress(recipe.size);
                self.shutdown.bytes.give(slot, held);
            }
            FilePart::End(file) => return Ok(Some(*file)),
        }
        Ok(None)
    }

    /// The recipe of a small file that begins at `start` of its buffer.
    fn recipe_of(&mut self, start: usize, cuts: &[Cut], holes: &[Hole]) -> Result<Content> {
        let mut recipe = Recipe::default();
        let mut holes = holes.iter().peekable();
        for Cut { id, start: at, len } in cuts {
            while let Some(hole) = holes.next_if(|hole| start + hole.at <= *at as usize) {
                recipe.push(Item::Hole { len: hole.len as u64 }, &mut self.chunks)?;
            }
            recipe.push(Item::Chunk { id: *id, len: *len }, &mut self.chunks)?;
        }
        for hole in holes {
            recipe.push(Item::Hole { len: hole.len as u64 }, &mut self.chunks)?;
        }
        recipe.finish(&mut self.chunks)
    }

    fn receive(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Stream { number, part } => self.stream_part(number, part)?,
            Message::Piece { slot, part } => match self.arrived.entry(slot).or_insert_with(|| Arrived::Parts(VecDeque::new())) {
                Arrived::Parts(parts) => parts.push_back(part),
                Arrived::Whole(..) => return Err(Error::corrupt("a file was read in two ways")),
            },
            Message::Batch { first, bytes, files, held } => {
                let mut all = Vec::with_capacity(files.len());
                for SmallFile { slot, range, cuts, holes, base, file } in files {
                    let start = range.start;
                    let content = match cuts.is_empty() && holes.is_empty() {
                        true => Content::Inline(bytes[range].to_vec()),
                        // With small chunks, a small file too has more of them than may stand in a node.
                        false => self.recipe_of(start, &cuts, &holes)?,
                    };
                    all.push(BatchFile { cuts, start, base });
                    self.arrived.insert(slot, Arrived::Whole(file, content));
                }
                // Its chunks are stored as they come; which slot they belong to no longer matters.
                self.chunks.batch(bytes, &all)?;
                self.shutdown.bytes.give(first, held);
            }
        }
        Ok(())
    }
}
