//! Giving the kernel what lies around a small read.
//!
//! A random read of a database decodes a frame, 128 KiB, for the sake of one page. The rest of the frame is decoded and
//! at hand, and the next page that is wanted often lies in it: it is put into the kernel's page cache
//! (`FUSE_NOTIFY_STORE`) behind the reader's back, where it costs no request, no decoding and no memory of this
//! process, and goes first when memory is short. It is verified like what is asked for; what cannot be read is not
//! given, and the reader who asks for it meets the error.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::model::{Content, Item};
use crate::mount::below::Below;
use crate::mount::push::{Kernel, Store};

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

/// What was read: the inode number that the kernel knows, the file's content, and where in it.
#[derive(Debug)]
struct Job {
    ino: u64,
    content: Content,
    offset: u64,
}

/// The thread that gives.
#[derive(Debug)]
pub struct Around {
    jobs: Sender<Job>,
}

impl Around {
    /// Starts the thread; it ends with this.
    pub fn new(below: Arc<Below>, kernel: Kernel) -> Result<Self> {
        let (jobs, receiver) = crossbeam_channel::bounded(WAITING);
        std::thread::Builder::new()
            .name("mount-around".to_owned())
            .spawn(move || work(&below, &kernel, &receiver))
            .map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Around { jobs })
    }

    /// Notes a read that was answered.
    pub fn reading(&self, ino: u64, content: &Content, (offset, size): (u64, u64)) {
        if size < READ_AHEAD && content.size() > SHORTEST && matches!(content, Content::Tree { .. } | Content::Items(_)) {
            // A full queue: the reader is quicker than this, and need not wait.
            let _ = self.jobs.try_send(Job { ino, content: content.clone(), offset });
        }
    }
}

fn work(below: &Below, kernel: &Kernel, jobs: &Receiver<Job>) {
    let mut bytes = Vec::new();
    for job in jobs {
        if let Some(store) = kernel.get() {
            // Damage is the reader's to meet; a kernel that does not want it need not take it.
            let _ = give(below, store, &job, &mut bytes);
        }
    }
}

fn give(below: &Below, store: &Store, job: &Job, bytes: &mut Vec<u8>) -> Result<()> {
    let (from, to) = same_frame(below, &job.content, job.offset)?;
    let size = job.content.size();
    let from = from.next_multiple_of(PAGE);
    let to = if to >= size { size } else { to / PAGE * PAGE };
    if from < to {
        below.trees().read(&job.content, from, (to - from) as usize, bytes)?;
        let _ = store(job.ino, from, bytes);
    }
    Ok(())
}

/// The range around `offset` whose chunks lie in one frame with the chunk there, if that frame is decoded; else empty.
fn same_frame(below: &Below, content: &Content, offset: u64) -> Result<(u64, u64)> {
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
