//! Giving the kernel what lies around a small read.
//!
//! A random read of a database decodes a frame, 128 KiB, for the sake of one page. The rest of the frame is decoded and
//! at hand, and the next page that is wanted often lies in it: it is put into the kernel's page cache
//! (`FUSE_NOTIFY_STORE`) behind the reader's back, where it costs no request, no decoding and no memory of this
//! process, and goes first when memory is short. It is verified like what is asked for; what cannot be read is not
//! given, and the reader who asks for it meets the error.
//!
//! A file that is read here and there in many places is soon read everywhere, as a database is whose pages are
//! looked up: for each place that is new one more is given when nobody waits, and four once a part of the file was read, so
//! that what the reader waits for is a fifth of the file and not all of it. A storage that is far away is not asked for what
//! nobody wants yet.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::model::{Content, Item};
use crate::repo::bits::Bits;
use crate::vfs::below::NodeFinder;
use crate::vfs::push::{Kernel, PageCacheStore};

/// A longer request has the kernel's own reading ahead in it, which begins with so much.
const READ_AHEAD: u64 = 16 << 10;
/// A shorter file is read by one request anyway.
const SHORTEST: u64 = 128 << 10;
/// How far around the read is looked for chunks of its frame.
const REACH: u64 = 256 << 10;
/// Pages of the kernel's cache are given whole.
const PAGE: u64 = 4096;
/// Reads that wait for their surroundings at most; of more nothing is given.
const WAITING: usize = 16;

/// A file of which so many places were read is read everywhere: for each, one more is given.
const MANY: u32 = 32;
/// Of which so large a part was read, too: so many more are given.
const DENSE: (u64, u32) = (32, 4);
/// A place: about a frame.
const PLACE: u64 = 128 << 10;
/// Files that are remembered.
const FILES: usize = 8;
/// A longer file is given no more than what was asked for: what is remembered of it would be too much.
const LONGEST: u64 = 1 << 40;

/// What was read: the inode number that the kernel knows, the file's content, and where in it.
#[derive(Debug)]
struct ReadAroundJob {
    ino: u64,
    content: Content,
    offset: u64,
}

/// The thread that gives.
#[derive(Debug)]
pub(crate) struct Around {
    jobs: Sender<ReadAroundJob>,
}

impl Around {
    /// Starts the thread; it ends with this.
    pub(crate) fn new(below: Arc<NodeFinder>, kernel: Kernel, high_latency: bool) -> Result<Self> {
        let (jobs, receiver) = crossbeam_channel::bounded(WAITING);
        std::thread::Builder::new()
            .name("mount-around".to_owned())
            .spawn(move || work(&below, &kernel, &receiver, high_latency))
            .map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Around { jobs })
    }

    /// Notes a read that was answered.
    pub(crate) fn reading(&self, ino: u64, content: &Content, (offset, size): (u64, u64)) {
        if size < READ_AHEAD && content.size() > SHORTEST && matches!(content, Content::Tree { .. } | Content::Items(_)) {
            // A full queue: the reader is quicker than this, and need not wait.
            let _ = self.jobs.try_send(ReadAroundJob { ino, content: content.clone(), offset });
        }
    }
}

/// A file of which places were given.
#[derive(Debug)]
struct GivenRanges {
    /// The last read of it.
    job: ReadAroundJob,
    given: Bits,
    /// How many of them were read before they were given, and afterwards.
    read: u32,
    again: u32,
    /// How many more may be given.
    credit: u32,
}

impl GivenRanges {
    fn new(job: ReadAroundJob) -> Self {
        let size = Some(job.content.size()).filter(|size| *size <= LONGEST).unwrap_or(0);
        GivenRanges { job, given: Bits::new(size.div_ceil(PLACE)), read: 0, again: 0, credit: 0 }
    }

    fn has(&self, place: u64) -> bool {
        self.given.get(place).unwrap_or(true)
    }

    /// Notes that a range was given: the places that begin in it.
    fn gave(&mut self, (from, to): (u64, u64)) {
        for place in from.div_ceil(PLACE)..to.div_ceil(PLACE) {
            self.given.set(place);
        }
    }

    /// Notes the read of a place. One that was given should not be asked for: once may be chance; after many times the
    /// kernel has not kept what it was given.
    fn reads(&mut self, offset: u64) {
        if !self.has(offset / PLACE) {
            self.gave((offset / PLACE * PLACE, offset + 1));
            self.read += 1;
            let is_dense = u64::from(self.read) * DENSE.0 * PLACE > self.job.content.size();
            self.credit += match self.read > MANY {
                true if is_dense => DENSE.1,
                true => 1,
                false => 0,
            };
            return;
        }
        self.again += 1;
        if self.again > MANY {
            self.given.clear();
            self.again = 0;
        }
    }

    /// The next place that is given unasked: behind the last one that was read, from the beginning if there is none.
    fn next(&mut self) -> Option<u64> {
        self.credit = self.credit.checked_sub(1)?;
        let (from, end) = (self.job.offset / PLACE, self.job.content.size().div_ceil(PLACE));
        let Some(place) = (from..end).chain(0..from).find(|place| !self.has(*place)) else {
            self.credit = 0;
            return None;
        };
        let offset = place * PLACE;
        self.gave((offset, offset + 1));
        Some(offset)
    }
}

fn work(below: &NodeFinder, kernel: &Kernel, jobs: &Receiver<ReadAroundJob>, high_latency: bool) {
    let (mut bytes, mut files) = (Vec::new(), VecDeque::<GivenRanges>::new());
    loop {
        let owing = files.iter().position(|file| file.credit > 0).filter(|_| !high_latency);
        let job = match owing {
            Some(_) => jobs.try_recv().map_err(|e| e.is_disconnected()),
            None => jobs.recv().map_err(|_| true),
        };
        let (at, offset) = match (job, owing) {
            (Ok(job), _) => {
                let offset = job.offset;
                (note(&mut files, job), Some(offset))
            }
            (Err(false), Some(at)) => (at, files[at].next()),
            (Err(_), _) => return,
        };
        let (Some(store), Some(offset), file) = (kernel.get(), offset, &mut files[at]) else { continue };
        // Damage is the reader's to meet; a kernel that does not want it need not take it.
        if let Ok(range) = give(below, store, &file.job, offset, &mut bytes) {
            file.gave(range);
        }
    }
}

/// Notes a read; answers where its file is among those that are remembered.
fn note(files: &mut VecDeque<GivenRanges>, job: ReadAroundJob) -> usize {
    let offset = job.offset;
    let at = match files.iter().position(|file| file.job.ino == job.ino) {
        Some(at) => {
            files[at].job = job;
            at
        }
        None => {
            files.truncate(FILES - 1);
            files.push_front(GivenRanges::new(job));
            0
        }
    };
    files[at].reads(offset);
    at
}

/// Gives the frame at `offset`, if it is decoded or was not asked for; answers which range that was.
fn give(below: &NodeFinder, store: &PageCacheStore, job: &ReadAroundJob, offset: u64, bytes: &mut Vec<u8>) -> Result<(u64, u64)> {
    if offset != job.offset {
        below.trees().read(&job.content, offset, 1, bytes)?;
    }
    let (start, end) = same_frame(below, &job.content, offset)?;
    let size = job.content.size();
    let from = start.next_multiple_of(PAGE);
    let to = if end >= size { size } else { end / PAGE * PAGE };
    if from < to {
        below.trees().read(&job.content, from, (to - from) as usize, bytes)?;
        let _ = store(job.ino, from, bytes);
    }
    Ok((start, end))
}

/// The range around `offset` whose chunks lie in one frame with the chunk there, if that frame is decoded; else empty.
fn same_frame(below: &NodeFinder, content: &Content, offset: u64) -> Result<(u64, u64)> {
    let chunks = below.trees().chunks();
    let index = chunks.index();
    let mut pieces = Vec::new();
    let (first, last) = (offset.saturating_sub(REACH), offset.saturating_add(REACH));
    below.trees().items(content, first, &mut |start, item| {
        let frame = match item {
            Item::Chunk { id, .. } => index.find(PackKind::Data, &id.key())?.map(|location| index.frame_key(&location)),
            Item::Hole { .. } => None,
        };
        pieces.push((start, start + item.len(), frame));
        Ok(start + item.len() < last)
    })?;
    let Some(at) = pieces.iter().position(|(start, end, _)| (*start..*end).contains(&offset)) else { return Ok((0, 0)) };
    let Some(frame) = pieces[at].2.filter(|frame| chunks.has_frame(frame)) else { return Ok((0, 0)) };
    let together = |piece: &&(u64, u64, _)| piece.2 == Some(frame);
    let before = pieces[..at].iter().rev().take_while(together).last().unwrap_or(&pieces[at]);
    let after = pieces[at..].iter().take_while(together).last().unwrap_or(&pieces[at]);
    Ok((before.0, after.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of so many places.
    fn file(places: u64) -> GivenRanges {
        let content = Content::Items(vec![Item::Hole { len: places * PLACE }]);
        GivenRanges::new(ReadAroundJob { ino: 5, content, offset: 0 })
    }

    #[test]
    fn more_is_given_only_of_what_is_read_in_many_places() {
        let mut few = file(10_000);
        (0..u64::from(MANY)).for_each(|n| few.reads(n * 7 * PLACE));
        assert_eq!(few.next(), None);
        few.reads(9999 * PLACE + 5);
        assert!(few.next().is_some());
        assert_eq!(few.next(), None, "one for one, as long as the file is not read densely");
        let mut small = file(100);
        (0..=u64::from(MANY)).for_each(|n| small.reads(n * PLACE));
        assert_eq!((0..10).map_while(|_| small.next()).count(), DENSE.1 as usize);
    }

    #[test]
    fn each_place_is_given_once_until_the_kernel_asks_again() {
        let mut file = file(100);
        (0..40).for_each(|n| file.reads(n * PLACE + 17));
        file.credit = 1000;
        let mut given: Vec<u64> = std::iter::from_fn(|| file.next()).collect();
        given.sort_unstable();
        assert_eq!(given, (40..100).map(|n| n * PLACE).collect::<Vec<_>>());
        (0..=u64::from(MANY)).for_each(|n| file.reads(n * PLACE));
        file.reads(50 * PLACE);
        assert_eq!(file.next(), Some(0), "what was given is forgotten");
    }
}
