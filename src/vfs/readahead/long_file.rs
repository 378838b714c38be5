//! Policy: a reader in one long file is given windows of it.
//!
//! The kernel reads ahead by itself, but no more than 128 KiB at a time, and the reader waits for each answer: switches
//! between processes, not decoding, then limit a copy out of the mount. So what comes next is put into the page cache,
//! a window at a time. A reader who finds its pages asks for nothing, so one page is left out after each window. The
//! request for that page tells how far the reader is, and the window after the next is given.

use std::ops::Range;

use crate::vfs::readahead::PAGE;

/// The first window, in bytes. Each further one is twice as long, up to the longest.
const FIRST: u64 = 1 << 20;
const LONGEST: u64 = 8 << 20;
/// The kernel has asked for so many bytes more than the reader wants now, or is about to.
const MARGIN: u64 = 256 << 10;

/// How far one file was given to one reader.
#[derive(Debug)]
pub(super) struct LongFile {
    /// Where what was given ends: the page there was left out.
    end: u64,
    /// How much is given next.
    window: u64,
}

impl LongFile {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        LongFile { end: 0, window: FIRST }
    }

    /// Where what was given ends.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What is to be given now, if anything, to a reader who has `reached` so far in a file of `size` bytes.
    pub(super) fn window(&self, reached: u64, size: u64) -> Option<Range<u64>> {
        let from = match self.end > reached {
            true if self.end - reached > self.window => return None,
            true => self.end + PAGE,
            // Not begun, or overtaken.
            false => (reached + MARGIN).next_multiple_of(PAGE),
        };
        (from < size).then(|| from..(from + self.window).min(size))
    }

    /// Notes that it was given up to `end`.
    pub(super) fn gave(&mut self, end: u64) {
        self.end = end;
        self.window = (self.window * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a reader of a file of `size` bytes whose kernel asks for 128 KiB wherever nothing was given; what it asks.
    fn asked(size: u64) -> Vec<u64> {
        let (mut given, mut windows) = (LongFile::new(), Vec::<Range<u64>>::new());
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
        let mut given = LongFile::new();
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
        let mut given = LongFile::new();
        given.gave(1 << 20);
        assert_eq!(given.window(50 << 20, 1 << 30).unwrap().start, (50 << 20) + MARGIN);
        assert_eq!(given.window((1 << 30) - 5, 1 << 30), None);
    }
}
