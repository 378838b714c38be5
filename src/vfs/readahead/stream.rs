//! Policy: which reads belong to one reader, and what lies ahead of it in the order of the tree.
//!
//! A **stream** is one reader who goes through a file, or from file to file in preorder. A read goes on with the stream
//! that it follows; **slack** is how far it may be from where the last one ended. The **cursor** of a stream is where
//! decoding ahead goes on. What lies between reader and cursor is its **window**, which the budget bounds.
//!
//! Time is passed in, and what is to be done is answered: nothing here waits or starts anything.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::vfs::readahead::budget::ReadAheadBudget;
use crate::vfs::readahead::long_file::LongFile;

/// Readers that are followed at once.
const STREAMS: usize = 16;
/// How many bytes a read may be from where the last one ended and still go on from it: the kernel reads ahead out of
/// order.
const SLACK: u64 = 1 << 20;
/// How many positions of the tree a reader may leave out and still go in its order.
const SKIP: u64 = 256;
/// After so many reads in order, some of them from file to file, the small files that come next are given.
const ACROSS: u32 = 3;
/// After so many reads in order, what comes next of a long file is given.
const WITHIN: u32 = 3;
/// Reads of one image that are remembered without another that went on from them.
const ALONE: usize = 4;
/// Nodes that one walk looks at, at most.
const WALK: u64 = 4096;
/// A reader who read so recently is expected to go on in the directory that is listed now.
const AWHILE: Duration = Duration::from_millis(250);
/// A reader that was quiet for so long has no share of the budget.
const QUIET: Duration = Duration::from_secs(2);

/// A place in a tree: preorder position, and offset in the file there.
pub(super) type TreePlace = (u64, u64);

/// A read, as far as streams are concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamRead {
    /// Which tree.
    pub(crate) tree: u64,
    /// Whether the kernel can be given what comes next.
    pub(crate) gives: bool,
    /// Whether the file is the image of a tree: several readers go through it at once, and nothing lies behind it.
    pub(crate) is_image: bool,
    /// The file's position in the tree.
    pub(crate) position: u64,
    /// Bytes of the file; `None` where they are in the node itself, and read with it.
    pub(crate) file: Option<u64>,
    /// Where the read begins, and how many bytes it asks for.
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// What a read gives reason to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReadPlan {
    /// The small files that come next in the directory are to be given.
    pub(crate) small_files: bool,
    /// What comes next is given, or was.
    pub(crate) gives: bool,
    /// A walk is to go on from the cursor of the stream with this number.
    pub(crate) walk: Option<u64>,
}

/// One reader.
#[derive(Debug)]
struct ReaderStream {
    number: u64,
    tree: u64,
    gives: bool,
    /// Where its last read ended.
    reader: TreePlace,
    /// Where the walk goes on.
    cursor: TreePlace,
    /// What lies between: end and bytes of each piece.
    ahead: VecDeque<(TreePlace, u64)>,
    /// Reads in order, one after the other.
    hits: u32,
    /// Whether it went from one file to the next.
    across: bool,
    walking: bool,
    /// What was given of the file that is read.
    given: LongFile,
    seen: Instant,
}

impl ReaderStream {
    fn new(number: u64, read: &StreamRead, now: Instant) -> Self {
        let reader = (read.position, read.offset.saturating_add(read.size));
        ReaderStream {
            number,
            tree: read.tree,
            gives: read.gives,
            reader,
            cursor: reader,
            ahead: VecDeque::new(),
            hits: 0,
            across: false,
            walking: false,
            given: LongFile::new(),
            seen: now,
        }
    }

    /// Whether a read may be this reader's.
    fn is_near(&self, read: &StreamRead) -> bool {
        let (tree, position) = (self.tree == read.tree && self.gives == read.gives, read.position);
        tree && position >= self.reader.0 && position <= self.cursor.0.max(self.reader.0) + SKIP
    }

    /// Whether a read goes on from where this reader is.
    fn is_in_order(&self, read: &StreamRead) -> bool {
        let ((file, end), offset) = (self.reader, read.offset);
        match read.position == file {
            // What was given is not asked for.
            true => offset <= end.max(self.given.end()).saturating_add(SLACK) && end <= offset.saturating_add(SLACK),
            false => offset == 0,
        }
    }

    /// Notes a read; false when it was not in order.
    fn follow(&mut self, read: &StreamRead, now: Instant) -> bool {
        let ordered = self.is_in_order(read);
        let (file, position, offset) = (self.reader.0, read.position, read.offset);
        if !ordered || position != file {
            self.given = LongFile::new();
        }
        self.across |= ordered && position != file;
        self.hits = if ordered { self.hits.saturating_add(1) } else { 0 };
        self.seen = now;
        let reached = (position, offset.saturating_add(read.size));
        self.reader = if ordered { reached.max(self.reader) } else { reached };
        if !ordered || self.cursor < self.reader {
            self.cursor = self.reader;
        }
        while self.ahead.front().is_some_and(|(at, _)| *at <= self.reader) {
            self.ahead.pop_front();
        }
        if !ordered {
            self.ahead.clear();
        }
        ordered
    }

    /// Has the next window of a long file given; false when the file is to be read as usual.
    fn give(&mut self, size: u64, piece: u64, take: &mut dyn FnMut(u64, Range<u64>) -> bool) -> bool {
        let reached = self.reader.1;
        if let Some(window) = self.given.window(reached, size) {
            let mut end = window.start;
            while end < window.end {
                let next = end + piece.min(window.end - end);
                // Refused: there are too many readers, this one asks.
                if !take(self.number, end..next) {
                    break;
                }
                end = next;
            }
            if end > window.start {
                self.given.gave(end);
            }
        }
        self.given.end() > reached
    }

    fn lies_ahead(&self) -> u64 {
        self.ahead.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The readers.
#[derive(Debug)]
pub(super) struct ReaderStreams {
    streams: Vec<ReaderStream>,
    next: u64,
    budget: ReadAheadBudget,
    /// Bytes of a long file that are given at once.
    piece: u64,
}

impl ReaderStreams {
    /// None yet. They share `budget`; of a long file `piece` bytes are given at once.
    pub(super) fn new(budget: ReadAheadBudget, piece: u64) -> Self {
        ReaderStreams { streams: Vec::new(), next: 0, budget, piece }
    }

    /// Notes a read and answers what is to be done. Pieces of a long file that are to be given go to `take`, with the
    /// number of the stream, as long as it answers that it takes them.
    pub(super) fn read(&mut self, read: &StreamRead, now: Instant, take: &mut dyn FnMut(u64, Range<u64>) -> bool) -> ReadPlan {
        let readers = self.active(now);
        // What does not follow in an image is another reader's.
        let is_other = |stream: &ReaderStream| read.is_image && !stream.is_in_order(read);
        let near = self.streams.iter_mut().filter(|stream| stream.is_near(read) && !is_other(stream));
        let Some(stream) = near.min_by_key(|stream| (!stream.is_in_order(read), read.position - stream.reader.0)) else {
            self.begin(read, now);
            return ReadPlan::default();
        };
        if !stream.follow(read, now) {
            return ReadPlan::default();
        }
        let small_files = stream.across && stream.hits >= ACROSS;
        let mut plan = ReadPlan { small_files, ..ReadPlan::default() };
        // Files in the nodes themselves are read with their directory.
        let Some(size) = read.file else { return plan };
        plan.gives = read.gives && stream.hits >= WITHIN && stream.give(size, self.piece, take);
        if plan.gives || read.is_image {
            return plan;
        }
        if !stream.walking && stream.lies_ahead() <= self.budget.window(stream.hits, readers) / 2 {
            stream.walking = true;
            plan.walk = Some(stream.number);
        }
        plan
    }

    /// Begins to follow a reader, in the place of the one that was quiet for longest if need be. Reads of one image that
    /// nothing followed take few places: else who jumps in it would drive out all others.
    fn begin(&mut self, read: &StreamRead, now: Instant) {
        let stream = ReaderStream::new(self.next, read, now);
        self.next += 1;
        let alone = |s: &ReaderStream| read.is_image && s.tree == read.tree && s.hits == 0;
        let many = self.streams.iter().filter(|s| alone(s)).count() >= ALONE;
        if self.streams.len() < STREAMS && !many {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().filter(|s| !many || alone(s)).min_by_key(|s| s.seen) {
            *oldest = stream;
        }
    }

    /// Readers who share the budget.
    fn active(&self, now: Instant) -> u64 {
        self.streams.iter().filter(|s| s.hits > 0 && now.saturating_duration_since(s.seen) < QUIET).count().max(1) as u64
    }

    /// Whether somebody goes from file to file in this tree just now.
    pub(super) fn goes_across(&self, tree: u64, now: Instant) -> bool {
        let soon = |s: &ReaderStream| now.saturating_duration_since(s.seen) < AWHILE;
        self.streams.iter().any(|s| s.tree == tree && s.gives && s.across && s.hits >= ACROSS && soon(s))
    }

    /// Whether the reader of a stream is in the file at `position`, at `end` or behind it.
    pub(super) fn has_passed(&self, number: u64, position: u64, end: u64) -> bool {
        self.get(number).is_some_and(|stream| stream.reader.0 == position && stream.reader.1 >= end)
    }

    /// Begins a walk from the cursor of a stream.
    pub(super) fn walk(&self, number: u64, now: Instant) -> Option<WindowWalk> {
        let stream = self.get(number)?;
        let room = self.budget.window(stream.hits, self.active(now)).saturating_sub(stream.lies_ahead());
        let last = if stream.across { stream.cursor.0.saturating_add(WALK) } else { stream.cursor.0 };
        Some(WindowWalk { from: stream.cursor, at: stream.cursor, last, room, pieces: Vec::new() })
    }

    /// Notes how far a walk came; `None` when it was not made.
    pub(super) fn walked(&mut self, number: u64, walk: Option<WindowWalk>) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.number == number) else { return };
        stream.walking = false;
        // Unless the reader has jumped, or overtaken the cursor.
        if let Some(walk) = walk.filter(|walk| walk.from == stream.cursor) {
            stream.cursor = walk.at;
            stream.ahead.extend(walk.pieces);
        }
    }

    fn get(&self, number: u64) -> Option<&ReaderStream> {
        self.streams.iter().find(|stream| stream.number == number)
    }
}

/// A walk that fills the window of a stream.
#[derive(Debug)]
pub(super) struct WindowWalk {
    /// The cursor that it began at.
    from: TreePlace,
    at: TreePlace,
    /// The last position that it may look at.
    last: u64,
    /// Bytes of the window that are free.
    room: u64,
    pieces: Vec<(TreePlace, u64)>,
}

impl WindowWalk {
    /// Where it goes on; `None` when it is at its end.
    pub(super) fn next(&self) -> Option<TreePlace> {
        (self.at.0 <= self.last && self.room > 0).then_some(self.at)
    }

    /// Goes over a part of the file that it is in, from `start` on.
    pub(super) fn pass(&mut self, start: u64, len: u64) {
        self.at.1 = start.saturating_add(len);
    }

    /// Takes `len` bytes, which end where it is, into the window. False when that is full.
    pub(super) fn take(&mut self, len: u64) -> bool {
        self.pieces.push((self.at, len));
        self.room = self.room.saturating_sub(len);
        self.room > 0
    }

    /// Ends here.
    pub(super) fn stop(&mut self) {
        self.room = 0;
    }

    /// Goes on behind a file of `size` bytes, unless the window became full within it.
    pub(super) fn leave(&mut self, size: u64) {
        if self.room > 0 || self.at.1 >= size {
            self.at = (self.at.0 + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests;
