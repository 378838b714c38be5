//! Reading files: small ones in batches that become frames, big ones as streams of pieces.
//!
//! A file is opened without following links and compared with what the walk saw, before and after it is read. One
//! that changes meanwhile is read again, three times at most, and then stored with a flag.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender};

use crate::chunk::cutter::Cutter;
use crate::chunk::keys::Keys;
use crate::error::Result;
use crate::format::pack::PackKind;
use crate::ingest::claims::{self, TrustedSizes};
use crate::ingest::grid;
use crate::ingest::handles::Handle;
use crate::ingest::holes::{self, Hole};
use crate::ingest::shutdown::StageShutdown;
use crate::ingest::sink::stopped;
use crate::ingest::stream;
use crate::model::{ChunkId, Content};
use crate::repo::tree::TreeReader;
use crate::sys::direct::DirectFile;
use crate::sys::{self, FileKind, Stat, xattr};

/// A file up to this size is read whole into a batch; larger ones get frames of their own.
pub(crate) const SMALL: u64 = 256 << 10;
/// Bytes of the files of one batch, about: what one frame of small files holds.
pub(crate) const BATCH: u64 = 1536 << 10;
/// Bytes of one piece of a big file.
const PIECE: usize = 1 << 20;
/// Pieces of one big file that are read at the same time: a disk is quickest when it always has something to do.
const LANES: usize = 3;
/// Content up to this length stands in the node itself: an id would be half as long, and cost an index entry.
pub(crate) const INLINE: u64 = 96;
/// How often a file that changes while it is read is read again.
pub(crate) const TRIES: u32 = 3;

/// A file to read.
#[derive(Debug)]
pub(crate) struct ReadTask {
    /// Its number among the files that are read: the order of the walk.
    pub(crate) slot: u64,
    /// The directory it is in.
    pub(crate) dir: Arc<Handle>,
    /// Its name.
    pub(crate) name: Vec<u8>,
    /// What the walk saw.
    pub(crate) stat: Stat,
    /// The content of the file of this name in the parent: what it may be stored as a difference from.
    pub(crate) base: Option<Content>,
}

/// Whether a file is read whole, in a batch.
pub(super) fn is_small(stat: &Stat) -> bool {
    stat.size <= SMALL
}

/// A file that was read: everything but its bytes.
#[derive(Debug)]
pub(crate) struct ReadFile {
    /// What it was when its last byte had been read.
    pub(crate) stat: Stat,
    /// Its extended attributes.
    pub(crate) xattrs: xattr::ReadXattrs,
    /// Its `chattr` flags.
    pub(crate) flags: u32,
    /// Its content changed at every try.
    pub(crate) changed: bool,
    /// Its metadata moved at every try, and its content may have.
    pub(crate) moved: bool,
    /// Its size is only a claim: what it gave is all there is.
    pub(crate) made_up: bool,
}

/// A chunk in a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Its id.
    pub(crate) id: ChunkId,
    /// Where it begins in the buffer.
    pub(crate) start: u32,
    /// Its length.
    pub(crate) len: u32,
}

/// A small file of a batch.
#[derive(Debug)]
pub(crate) struct SmallFile {
    /// Its slot.
    pub(crate) slot: u64,
    /// Its bytes in the batch's buffer, without those of its holes.
    pub(crate) range: std::ops::Range<usize>,
    /// Its chunks; none for content that stands in the node.
    pub(crate) cuts: Vec<Cut>,
    /// Its holes; chunks end where they are.
    pub(crate) holes: Vec<Hole>,
    /// Its previous version.
    pub(crate) base: Option<Content>,
    /// The rest, or why it could not be read.
    pub(crate) file: io::Result<ReadFile>,
}

/// What readers tell the assembler.
#[derive(Debug)]
pub(crate) enum Message {
    /// Several small files.
    Batch {
        /// The slot of the first.
        first: u64,
        /// Their bytes, one after the other.
        bytes: Vec<u8>,
        /// The files.
        files: Vec<SmallFile>,
        /// What to give back to the budget.
        held: u64,
    },
    /// The next part of a stream.
    Stream {
        /// The number of its input.
        number: usize,
        /// The part.
        part: stream::StreamPart,
    },
    /// The next part of a big file.
    Piece {
        /// Its slot.
        slot: u64,
        /// The part.
        part: FilePart,
    },
}

/// A part of a big file.
#[derive(Debug)]
pub(crate) enum FilePart {
    /// A file begins: how long it was when the walk saw it, and its previous version.
    Begin(u64, Option<Content>),
    /// Chunks, one after the other without gap.
    Data {
        /// Their bytes.
        bytes: Vec<u8>,
        /// Where they are.
        cuts: Vec<Cut>,
        /// What to give back to the budget.
        held: u64,
    },
    /// A hole of this length.
    Hole(u64),
    /// The file changed: forget its parts so far.
    Again,
    /// The end, or why there is none.
    End(Box<io::Result<ReadFile>>),
}

/// What all readers share.
#[derive(Debug)]
pub(crate) struct ReaderContext<'a> {
    /// For ids.
    pub(crate) keys: &'a Keys,
    /// For cuts.
    pub(crate) cutter: &'a Cutter,
    /// Has the budget of bytes in flight.
    pub(crate) shutdown: &'a StageShutdown<'a>,
    /// Files of a batch that one reader may have open; at least one.
    pub(crate) ahead: usize,
    /// Holes are read as zeros.
    pub(crate) no_holes: bool,
    /// The device that was last found to have no `chattr` flags, plus one.
    pub(crate) flagless: AtomicU64,
    /// Which sizes are believed.
    pub(crate) claims: TrustedSizes,
    /// Reads the parent's recipes.
    pub(crate) trees: Option<&'a TreeReader>,
}

impl<'a> ReaderContext<'a> {
    /// What readers share at the start. `ahead`, `no_holes` and `trees` are the fields.
    pub(crate) fn new(
        keys: &'a Keys,
        cutter: &'a Cutter,
        shutdown: &'a StageShutdown<'a>,
        ahead: usize,
        no_holes: bool,
        trees: Option<&'a TreeReader>,
    ) -> Self {
        ReaderContext {
            keys,
            cutter,
            shutdown,
            ahead,
            no_holes,
            flagless: AtomicU64::new(0),
            claims: TrustedSizes::default(),
            trees,
        }
    }

    /// Reads batches until there are none left: the body of a thread.
    pub(super) fn read_small(&self, tasks: &Receiver<Vec<ReadTask>>, out: &Sender<Message>) -> Result<()> {
        while let Some(batch) = self.shutdown.next(tasks) {
            let held = batch.iter().map(|t| t.stat.size).sum();
            let first = batch.first().map_or(0, |t| t.slot);
            if !self.shutdown.bytes.take(first, held) || self.shutdown.is_wanted() {
                return Err(stopped());
            }
            let mut bytes = Vec::with_capacity(held as usize + 4096);
            let files = self.batch(batch, &mut bytes);
            out.send(Message::Batch { first, bytes, files, held }).map_err(|_| stopped())?;
        }
        Ok(())
    }

    /// Reads the files of a batch. Some are opened, and asked of the disk, ahead of the one that is read: then most are in
    /// memory when their turn comes, and the thread need not sleep and be woken for each.
    fn batch(&self, batch: Vec<ReadTask>, bytes: &mut Vec<u8>) -> Vec<SmallFile> {
        let mut files = Vec::with_capacity(batch.len());
        let mut ahead = VecDeque::with_capacity(self.ahead);
        let mut tasks = batch.into_iter();
        loop {
            while ahead.len() < self.ahead
                && let Some(task) = tasks.next()
            {
                let opened = open(&task);
                if let Ok((file, _)) = &opened {
                    sys::dir::advise_soon(file);
                }
                ahead.push_back((task, opened));
            }
            match ahead.pop_front() {
                Some((task, opened)) => files.push(self.small_file(task, opened, bytes)),
                None => return files,
            }
        }
    }

    fn small_file(&self, task: ReadTask, opened: io::Result<(File, Stat)>, bytes: &mut Vec<u8>) -> SmallFile {
        let start = bytes.len();
        let mut holes = Vec::new();
        let file = self.read_whole(&task, opened, bytes, &mut holes);
        let range = start..bytes.len();
        let mut cuts = Vec::new();
        if range.len() as u64 > INLINE || !holes.is_empty() {
            let mut from = start;
            for end in holes.iter().map(|hole| start + hole.at).chain([range.end]) {
                self.cut(&bytes[from..end], from, true, None, &mut cuts);
                from = end;
            }
        }
        SmallFile { slot: task.slot, range, cuts, holes, base: task.base, file }
    }

    /// Cuts and names chunks of `data`, which begins at `base` of its buffer; returns the bytes that were cut. Without
    /// `end`, what might still grow is left. `grid`: where `data` begins in a file that is cut at the grid.
    pub(crate) fn cut(&self, data: &[u8], base: usize, end: bool, grid: Option<u64>, cuts: &mut Vec<Cut>) -> usize {
        let mut at = 0;
        while at < data.len() && (end || data.len() - at >= self.cutter.max()) {
            let len = match grid {
                Some(offset) => grid::length(offset + at as u64).min(data.len() - at),
                None => self.cutter.cut(&data[at..]),
            };
            let id = self.keys.chunk_id(PackKind::Data, &data[at..at + len]);
            cuts.push(Cut { id, start: (base + at) as u32, len: len as u32 });
            at += len;
        }
        at
    }

    /// Reads big files until there are none left: the body of a thread.
    pub(super) fn read_big(&self, tasks: &Receiver<ReadTask>, out: &Sender<Message>) -> Result<()> {
        thread::scope(|scope| {
            let lane = |_| {
                let (ask, asked) = crossbeam_channel::bounded(1);
                let (tell, told) = crossbeam_channel::bounded(1);
                scope.spawn(move || read_ahead(&asked, &tell));
                Lane { ask, told }
            };
            let lanes: Vec<Lane> = (0..LANES).map(lane).collect();
            std::iter::from_fn(|| self.shutdown.next(tasks)).try_for_each(|task| self.big_file(task, &lanes, out))
        })
    }

    fn big_file(&self, mut task: ReadTask, lanes: &[Lane], out: &Sender<Message>) -> Result<()> {
        let base = task.base.take();
        let send = |part| out.send(Message::Piece { slot: task.slot, part }).map_err(|_| stopped());
        send(FilePart::Begin(task.stat.size, base.clone()))?;
        for tried in 1.. {
            // An error of the source is a part; an error of `send` ends everything.
            let end = match self.stream(&task, base.as_ref(), tried, lanes, &send)? {
                Ok(None) => {
                    send(FilePart::Again)?;
                    continue;
                }
                Ok(Some(file)) => Ok(file),
                Err(e) => Err(e),
            };
            return send(FilePart::End(Box::new(end)));
        }
        Ok(())
    }

    /// One try at a big file; `Ok(None)` when it changed and may be tried again.
    fn stream(
        &self,
        task: &ReadTask,
        base: Option<&Content>,
        tried: u32,
        lanes: &[Lane],
        send: &dyn Fn(FilePart) -> Result<()>,
    ) -> Result<io::Result<Option<ReadFile>>> {
        let (file, before) = match open(task) {
            Ok((file, stat)) => (Arc::new(DirectFile::new(file)), stat),
            Err(e) => return Ok(Err(e)),
        };
        sys::dir::advise_sequential(file.file());
        let made_up = self.claims.doubts(file.file(), &before);
        if made_up && let Err(e) = claims::check_length(&before) {
            return Ok(Err(e));
        }
        let grid = self.suits_grid(file.file(), before.size, base);
        let mut at = 0;
        while at < before.size {
            let extent =
                if self.no_holes || made_up { Ok(Some((at, before.size))) } else { sys::dir::next_data(file.file(), at) };
            let (start, end) = match extent {
                Ok(Some((start, end))) => (start.min(before.size), end.min(before.size)),
                Ok(None) => (before.size, before.size),
                Err(e) => return Ok(Err(e)),
            };
            if start > at {
                send(FilePart::Hole(start - at))?;
            }
            match self.extent(task.slot, &file, start..end, grid, lanes, send)? {
                Ok(true) => at = end,
                // It became shorter.
                Ok(false) => break,
                Err(e) => return Ok(Err(e)),
            }
        }
        let read = self.finish(file.file(), &before).map(|read| ReadFile { made_up, ..read });
        Ok(read.map(|read| if read.is_unsettled() && tried < TRIES { None } else { Some(read) }))
    }

    /// Whether the file is cut at the grid. The longest chunk must have room for a field of it.
    fn suits_grid(&self, file: &File, size: u64, base: Option<&Content>) -> bool {
        self.cutter.max() as u64 >= grid::GRID && grid::suits(file, size, self.trees.zip(base))
    }

    /// Reads one allocated range; the next pieces are on their way while one is cut. `Ok(false)`: the file ends before it.
    fn extent(
        &self,
        slot: u64,
        file: &Arc<DirectFile>,
        range: Range<u64>,
        grid: bool,
        lanes: &[Lane],
        send: &dyn Fn(FilePart) -> Result<()>,
    ) -> Result<io::Result<bool>> {
        let budget = &self.shutdown.bytes;
        let piece = |at: u64| (at, PIECE.min((range.end - at) as usize));
        let mut pieces = range.clone().step_by(PIECE).map(piece).zip(lanes.iter().cycle()).peekable();
        // Those that were asked for, in order.
        let mut asked = VecDeque::with_capacity(lanes.len());
        let mut rest: Vec<u8> = Vec::new();
        let mut cut_to = range.start;
        loop {
            while asked.len() < lanes.len() && pieces.peek().is_some() {
                // Waiting for memory is allowed only while no read is under way: else two readers could wait for each other.
                match asked.is_empty() {
                    true if !budget.take(slot, self.held()) || self.shutdown.is_wanted() => return Err(stopped()),
                    false if !budget.try_take(slot, self.held()) => break,
                    _ => {}
                }
                if let Some(((at, len), lane)) = pieces.next() {
                    lane.ask.send(ReadRequest { file: file.clone(), at, len, head: self.cutter.max() }).map_err(|_| stopped())?;
                    asked.push_back((lane, len));
                }
            }
            let Some((lane, len)) = asked.pop_front() else { return Ok(Ok(true)) };
            let (mut bytes, head) = match lane.told.recv().map_err(|_| stopped())? {
                Ok(read) => read,
                Err(e) => {
                    budget.give(slot, self.held());
                    self.forget(slot, &asked);
                    return Ok(Err(e));
                }
            };
            let ended = bytes.len() - head < len;
            // What was left of the piece before stands in front of this one.
            let begin = head - rest.len();
            bytes[begin..head].copy_from_slice(&rest);
            let mut cuts = Vec::new();
            let last = ended || asked.is_empty() && pieces.peek().is_none();
            let cut = self.cut(&bytes[begin..], begin, last, grid.then_some(cut_to), &mut cuts);
            cut_to += cut as u64;
            rest = bytes.split_off(begin + cut);
            send(FilePart::Data { bytes, cuts, held: self.held() })?;
            if ended {
                self.forget(slot, &asked);
                return Ok(Ok(false));
            }
        }
    }

    /// Takes what was asked for and is not wanted any more.
    fn forget(&self, slot: u64, asked: &VecDeque<(&Lane, usize)>) {
        for (lane, _) in asked {
            if lane.told.recv().is_ok() {
                self.shutdown.bytes.give(slot, self.held());
            }
        }
    }

    /// What a piece takes of the budget.
    fn held(&self) -> u64 {
        (PIECE + self.cutter.max()) as u64
    }
}

/// Reads what a reader of big files will want next: the body of a thread. It ends with the reader.
fn read_ahead(asked: &Receiver<ReadRequest>, tell: &Sender<io::Result<(Vec<u8>, usize)>>) {
    for ReadRequest { file, at, len, head } in asked {
        let (mut bytes, head) = DirectFile::buffer(head, len);
        let result = file.read(at, len, &mut bytes).map(|_| (bytes, head));
        // The receiver closes it.
        drop(file);
        if tell.send(result).is_err() {
            return;
        }
    }
}

/// A part of a file to be read.
#[derive(Debug)]
struct ReadRequest {
    file: Arc<DirectFile>,
    at: u64,
    len: usize,
    /// Room before it, for the rest of the piece before: less than the longest chunk.
    head: usize,
}

/// A thread that reads ahead for a reader of big files: what it is asked, and its answer: bytes, behind room for the longest
/// chunk.
#[derive(Debug)]
struct Lane {
    ask: Sender<ReadRequest>,
    told: Receiver<io::Result<(Vec<u8>, usize)>>,
}

/// Opens a task's file and checks that it is the one that the walk saw.
fn open(task: &ReadTask) -> io::Result<(File, Stat)> {
    let file = task.dir.open_file(&task.name)?;
    let stat = sys::dir::stat(&file)?;
    if stat.kind != FileKind::File {
        return Err(io::Error::other("it is no longer a regular file"));
    }
    Ok((file, stat))
}

/// Whether nothing shows that the content changed. That the inode did, by a `chmod` or another name, is no change of it.
fn same(a: &Stat, b: &Stat) -> bool {
    (a.size, a.mtime, a.inode, a.device) == (b.size, b.mtime, b.inode, b.device)
}

impl ReadFile {
    /// Whether it is to be read again.
    fn is_unsettled(&self) -> bool {
        self.changed || self.moved
    }
}

impl ReaderContext<'_> {
    /// Attributes and the state after the last byte.
    fn finish(&self, file: &File, before: &Stat) -> io::Result<ReadFile> {
        let (xattrs, flags) = (xattr::find(file), self.flags(file, before));
        let after = sys::dir::stat(file)?;
        let (changed, moved) = (!same(before, &after), before.ctime != after.ctime);
        Ok(ReadFile { changed, moved, made_up: false, stat: after, xattrs, flags })
    }

    /// The file's `chattr` flags. On a file system without them, asking for each file may be slow (FUSE opens it for that).
    fn flags(&self, file: &File, stat: &Stat) -> u32 {
        let device = sys::dir::device_number(stat.device).wrapping_add(1);
        if self.flagless.load(Ordering::Relaxed) == device {
            return 0;
        }
        let flags = sys::dir::user_flags(file);
        if flags.is_none() {
            self.flagless.store(device, Ordering::Relaxed);
        }
        flags.unwrap_or(0)
    }

    /// Reads a small file whole, appended to `bytes`, and finds its holes; nothing is left of either when it fails.
    fn read_whole(
        &self,
        task: &ReadTask,
        mut opened: io::Result<(File, Stat)>,
        bytes: &mut Vec<u8>,
        holes: &mut Vec<Hole>,
    ) -> io::Result<ReadFile> {
        let start = bytes.len();
        for tried in 1.. {
            bytes.truncate(start);
            match opened.and_then(|opened| self.read_once(opened, bytes, holes)) {
                Ok(read) if read.is_unsettled() && tried < TRIES => opened = open(task),
                Ok(read) => return Ok(read),
                Err(e) => {
                    bytes.truncate(start);
                    holes.clear();
                    return Err(e);
                }
            }
        }
        Err(io::ErrorKind::Other.into())
    }

    fn read_once(&self, (file, before): (File, Stat), bytes: &mut Vec<u8>, holes: &mut Vec<Hole>) -> io::Result<ReadFile> {
        let start = bytes.len();
        // Whatever claims to be empty is asked once, wherever it is.
        let made_up = before.size == 0 || self.claims.doubts(&file, &before);
        let read = match made_up {
            true => claims::read_to_end(&file, bytes)?,
            // A file that grew beyond all measure since the walk is read up to twice what a small file is, and flagged.
            false => sys::dir::read_up_to(&file, 0, (before.size as usize).min(2 * SMALL as usize), bytes)?,
        } as u64;
        *holes = if self.no_holes || made_up { Vec::new() } else { holes::take_out(&file, bytes, start)? };
        let mut read_file = ReadFile { made_up, ..self.finish(&file, &before)? };
        read_file.changed |= read != before.size && !made_up;
        // What is stored is what was read, whatever the size is said to be by now.
        read_file.stat.size = read;
        Ok(read_file)
    }
}
