//! Giving the kernel what comes next in a long file.
//!
//! The kernel reads ahead by itself, but no more than 128 KiB at a time, and the reader has to wait for each answer:
//! switches between processes, not decoding, then limit a copy out of the mount. For a reader who goes through a long
//! file, what comes next is decoded ahead and put into the kernel's page cache (`FUSE_NOTIFY_STORE`), some
//! megabytes before it is wanted. A reader who finds its pages asks for nothing, so it could not be seen how far it is:
//! one page is left out after each window, and when that is asked for, the window after the next is given.
//!
//! What is given was verified like what is asked for; what cannot be read is not given, and the reader who asks meets
//! the error.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::model::{Content, Item};
use crate::repo::pack::run::FrameRun;
use crate::vfs::below::NodeFinder;
use crate::vfs::push::PageCacheStore;

/// What is decoded and given at once.
const PIECE: u64 = 512 << 10;
/// What one thread gives of a file from a storage that is far away: what is next to each other there is one request.
const FAR_PIECE: u64 = 2 << 20;
/// The first window; each further one is twice as long, up to the longest.
const FIRST: u64 = 1 << 20;
const LONGEST: u64 = 8 << 20;
/// The kernel has asked for so much more than the reader wants now, or is about to.
const MARGIN: u64 = 256 << 10;
/// Pages of the kernel's cache are given whole.
const PAGE: u64 = 4096;

/// How far one file was given to one reader.
#[derive(Debug)]
pub(crate) struct ReadAheadState {
    /// Where what was given ends: the page there was left out.
    end: u64,
    /// How much is given next.
    window: u64,
    /// How far the reader is.
    reached: Arc<AtomicU64>,
}

impl ReadAheadState {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        ReadAheadState { end: 0, window: FIRST, reached: Arc::default() }
    }

    /// Where what was given ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Notes that the reader of a file of `size` bytes is at `reached`; what is to be given now, if anything.
    fn window(&mut self, reached: u64, size: u64) -> Option<Range<u64>> {
        self.reached.store(reached, Ordering::Relaxed);
        let from = match self.end > reached {
            true if self.end - reached > self.window => return None,
            true => self.end + PAGE,
            // Not begun, or overtaken.
            false => (reached + MARGIN).next_multiple_of(PAGE),
        };
        (from < size).then(|| from..(from + self.window).min(size))
    }

    /// Notes that it was given up to `end`.
    fn gave(&mut self, end: u64) {
        self.end = end;
        self.window = (self.window * 2).min(LONGEST);
    }
}

/// A part of a file, for one thread: the inode number that the kernel knows, the content, and where in it.
#[derive(Debug)]
pub(crate) struct ReadAheadPiece {
    ino: u64,
    content: Arc<Content>,
    range: Range<u64>,
    reached: Arc<AtomicU64>,
}

/// Notes that the reader of inode `ino` has `reached` so far in its long file; passes on what is to be given now, piece by
/// piece, as long as they are taken. False when the file is to be read as usual.
pub(crate) fn reading(
    ino: u64,
    content: &Content,
    reached: u64,
    given: &mut ReadAheadState,
    high_latency: bool,
    take: impl Fn(ReadAheadPiece) -> bool,
) -> bool {
    if !matches!(content, Content::Tree { .. } | Content::Items(_)) {
        return false;
    }
    if let Some(window) = given.window(reached, content.size()) {
        let content = Arc::new(content.clone());
        let mut end = window.start;
        while end < window.end {
            let range = end..(end + if high_latency { FAR_PIECE } else { PIECE }).min(window.end);
            // Refused: there are too many readers, this one asks.
            if !take(ReadAheadPiece { ino, content: content.clone(), range: range.clone(), reached: given.reached.clone() }) {
                break;
            }
            end = range.end;
        }
        if end > window.start {
            given.gave(end);
        }
    }
    given.end > reached
}

/// Gives a piece. `bytes` is a buffer.
pub(crate) fn give(below: &NodeFinder, store: &PageCacheStore, piece: &ReadAheadPiece, bytes: &mut Vec<u8>) -> Result<()> {
    let Range { start, end } = piece.range;
    let overtaken = |end: u64| piece.reached.load(Ordering::Relaxed) >= end;
    if !overtaken(end) {
        load(below, piece)?;
    }
    for from in (start..end).step_by(PIECE as usize) {
        let to = (from + PIECE).min(end);
        if !overtaken(to) {
            below.trees().read(&piece.content, from, (to - from) as usize, bytes)?;
            let _ = store(piece.ino, from, bytes);
        }
    }
    Ok(())
}

/// Has what a piece needs read with few requests, on high-latency storage.
fn load(below: &NodeFinder, piece: &ReadAheadPiece) -> Result<()> {
    let chunks = below.trees().chunks();
    let most = chunks.repo().storage().costs().worth_one_read;
    if most == 0 {
        return Ok(());
    }
    let (index, mut run) = (chunks.index(), FrameRun::new(most));
    let (mut last, mut runs) = (None, Vec::new());
    below.trees().items(&piece.content, piece.range.start, &mut |start, item| {
        if let Item::Chunk { id, .. } = item
            && let Some(location) = index.find(PackKind::Data, &id.key())?
            && last.replace(index.frame_key(&location)) != Some(index.frame_key(&location))
        {
            runs.push(run.add(index.frame(&location)?));
        }
        Ok(start + item.len() < piece.range.end)
    })?;
    runs.push(run.take());
    runs.iter().filter(|frames| !frames.is_empty()).for_each(|frames| chunks.load(frames));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a reader of a file of `size` bytes whose kernel asks for 128 KiB wherever nothing was given; what it asks.
    fn asked(size: u64) -> Vec<u64> {
        let (mut given, mut windows) = (ReadAheadState::new(), Vec::<Range<u64>>::new());
        let (mut at, mut asked) = (0, Vec::new());
        while at < size {
            match windows.iter().find(|window| window.contains(&at)) {
                Some(window) => at = window.end,
                None => {
                    let next = windows.iter().map(|window| window.start).find(|start| *start > at).unwrap_or(u64::MAX);
                    asked.push(at);
                    at = (at + (128 << 10)).min(next).min(size);
                    if let Some(window) = given.window(at, size) {
                        given.gave(window.end);
                        windows.push(window);
                    }
                }
            }
        }
        asked
    }

    #[test]
    fn a_long_file_is_asked_for_in_a_few_places() {
        let asked = asked(800 << 20);
        assert!(asked.len() < 120, "{} requests: {asked:?}", asked.len());
        assert!(asked.windows(2).all(|two| two[1] - two[0] <= LONGEST + PAGE), "{asked:?}");
    }

    #[test]
    fn one_page_is_left_out_between_windows() {
        let mut given = ReadAheadState::new();
        let first = given.window(0, 1 << 30).unwrap();
        given.gave(first.end);
        let second = given.window(1 << 20, 1 << 30).unwrap();
        assert_eq!(second.start, first.end + PAGE);
        given.gave(second.end);
        // Until there is enough.
        while let Some(next) = given.window(1 << 20, 1 << 30) {
            given.gave(next.end);
        }
        assert!(given.end() <= (1 << 20) + 2 * LONGEST, "{given:?}");
    }

    #[test]
    fn a_reader_who_overtakes_is_given_what_lies_before_it() {
        let mut given = ReadAheadState::new();
        given.gave(1 << 20);
        assert_eq!(given.window(50 << 20, 1 << 30).unwrap().start, (50 << 20) + MARGIN);
        assert_eq!(given.window((1 << 30) - 5, 1 << 30), None);
    }
}
