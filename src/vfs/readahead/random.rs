//! Policy: a small read in a long file is given what lies around it, and a file that is read everywhere is given ahead.
//!
//! A random read of a database decodes a frame, 128 KiB, for the sake of one page. The rest of the frame is at hand, and
//! the next page that is wanted often lies in it.
//!
//! A file that is read here and there in many places is soon read everywhere, as a database is whose pages are looked
//! up. For each place that is new one more is given when no read waits for its surroundings, and four once a part of the
//! file was read. So what the reader waits for is a fifth of the file and not all of it.
//!
//! What was given is remembered for the file and not for a reader: random readers of one file are not told apart.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::model::Content;
use crate::repo::bits::Bits;

/// A longer request, in bytes, has the kernel's own reading ahead in it, which begins with so much.
const READ_AHEAD: u64 = 16 << 10;
/// A shorter file is read by one request anyway.
const SHORTEST: u64 = 128 << 10;
/// How far around the read is looked for chunks of its frame, in bytes.
pub(super) const REACH: u64 = 256 << 10;
/// A file of which so many places were read is read everywhere: for each, one more is given.
const MANY: u32 = 32;
/// Of which so large a part was read, too: so many more are given.
const DENSE: (u64, u32) = (32, 4);
/// A place: about a frame, in bytes.
const PLACE: u64 = 128 << 10;
/// Files that are remembered.
const FILES: usize = 8;
/// A longer file is given no more than what was asked for: what is remembered of it would be too much.
const LONGEST: u64 = 1 << 40;

/// A place in a file: the inode number that the kernel knows, the file's content, and an offset.
#[derive(Debug, Clone)]
pub(super) struct FilePlace {
    pub(crate) ino: u64,
    pub(crate) content: Arc<Content>,
    pub(crate) offset: u64,
}

/// Whether a read of `size` bytes of a file is one whose surroundings are given.
pub(super) fn is_random(content: &Content, size: u64) -> bool {
    size < READ_AHEAD && content.size() > SHORTEST && !matches!(content, Content::Inline(_))
}

/// The range around `offset` whose pieces lie in one frame with the piece there, if that frame is at hand; else empty.
/// The pieces are in order: begin, end, and frame, of which a hole has none.
pub(super) fn frame_around<F: PartialEq>(
    pieces: &[(u64, u64, Option<F>)],
    offset: u64,
    at_hand: impl FnOnce(&F) -> bool,
) -> Range<u64> {
    let Some(at) = pieces.iter().position(|(start, end, _)| (*start..*end).contains(&offset)) else { return 0..0 };
    let (before, after) = pieces.split_at(at);
    let Some(frame) = after.first().and_then(|piece| piece.2.as_ref()).filter(|frame| at_hand(frame)) else { return 0..0 };
    let together = |piece: &&(u64, u64, Option<F>)| piece.2.as_ref() == Some(frame);
    let last = after.iter().take_while(together).last();
    let first = before.iter().rev().take_while(together).last().or(after.first());
    first.zip(last).map_or(0..0, |(first, last)| first.0..last.1)
}

/// A file of which places were given.
#[derive(Debug)]
struct RandomFile {
    /// The last read of it.
    last: FilePlace,
    given: Bits,
    /// How many places were read before they were given, and afterwards.
    read: u32,
    again: u32,
    /// How many more may be given.
    credit: u32,
}

impl RandomFile {
    fn new(last: FilePlace) -> Self {
        let size = Some(last.content.size()).filter(|size| *size <= LONGEST).unwrap_or(0);
        RandomFile { last, given: Bits::new(size.div_ceil(PLACE)), read: 0, again: 0, credit: 0 }
    }

    /// Notes that a range was given: the places that begin in it.
    fn gave(&mut self, range: &Range<u64>) {
        for place in range.start.div_ceil(PLACE)..range.end.div_ceil(PLACE) {
            self.given.set(place);
        }
    }

    /// Notes the read of a place. One that was given should not be asked for: once may be chance; after many times the
    /// kernel has not kept what it was given.
    fn reads(&mut self, offset: u64) {
        if self.given.set(offset / PLACE) == Some(false) {
            self.read += 1;
            let is_dense = u64::from(self.read) * DENSE.0 * PLACE > self.last.content.size();
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
        let (from, end) = (self.last.offset / PLACE, self.last.content.size().div_ceil(PLACE));
        let Some(place) = self.given.first_clear(from..end).or_else(|| self.given.first_clear(0..from)) else {
            self.credit = 0;
            return None;
        };
        self.given.set(place);
        Some(place * PLACE)
    }
}

/// The files that are read here and there.
#[derive(Debug, Default)]
pub(super) struct RandomFiles(VecDeque<RandomFile>);

impl RandomFiles {
    /// Notes a read.
    pub(super) fn read(&mut self, place: FilePlace) {
        let offset = place.offset;
        if let Some(file) = self.0.iter_mut().find(|file| file.last.ino == place.ino) {
            file.last = place;
            file.reads(offset);
            return;
        }
        self.0.truncate(FILES - 1);
        let mut file = RandomFile::new(place);
        file.reads(offset);
        self.0.push_front(file);
    }

    /// Notes that a range of a file was given.
    pub(super) fn gave(&mut self, ino: u64, range: &Range<u64>) {
        if let Some(file) = self.0.iter_mut().find(|file| file.last.ino == ino) {
            file.gave(range);
        }
    }

    /// What is given next though nobody has asked for it.
    pub(super) fn next(&mut self) -> Option<FilePlace> {
        let next = |file: &mut RandomFile| file.next().map(|offset| FilePlace { offset, ..file.last.clone() });
        self.0.iter_mut().find_map(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Item;

    /// Files of so many places; reads of inode 5.
    fn place(places: u64, offset: u64) -> FilePlace {
        FilePlace { ino: 5, content: Arc::new(Content::Items(vec![Item::Hole { len: places * PLACE }])), offset }
    }

    fn read(files: &mut RandomFiles, places: u64, offsets: impl Iterator<Item = u64>) {
        offsets.for_each(|offset| files.read(place(places, offset)));
    }

    #[test]
    fn more_is_given_only_of_what_is_read_in_many_places() {
        let mut few = RandomFiles::default();
        read(&mut few, 10_000, (0..u64::from(MANY)).map(|n| n * 7 * PLACE));
        assert!(few.next().is_none());
        read(&mut few, 10_000, [9999 * PLACE + 5].into_iter());
        assert!(few.next().is_some());
        assert!(few.next().is_none(), "one for one, as long as the file is not read densely");
        let mut small = RandomFiles::default();
        read(&mut small, 100, (0..=u64::from(MANY)).map(|n| n * PLACE));
        assert_eq!((0..10).map_while(|_| small.next()).count(), DENSE.1 as usize);
    }

    #[test]
    fn each_place_is_given_once_until_the_kernel_asks_again() {
        let mut files = RandomFiles::default();
        read(&mut files, 100, (0..40).map(|n| n * PLACE + 17));
        files.0[0].credit = 1000;
        let mut given: Vec<u64> = std::iter::from_fn(|| files.next()).map(|place| place.offset).collect();
        given.sort_unstable();
        assert_eq!(given, (40..100).map(|n| n * PLACE).collect::<Vec<_>>());
        read(&mut files, 100, (0..=u64::from(MANY)).map(|n| n * PLACE));
        read(&mut files, 100, [50 * PLACE].into_iter());
        assert_eq!(files.next().map(|place| place.offset), Some(51 * PLACE), "what was given is forgotten");
    }

    #[test]
    fn what_was_given_with_a_frame_is_not_given_again() {
        let mut files = RandomFiles::default();
        read(&mut files, 100, (0..40).map(|n| n * PLACE));
        files.gave(5, &(40 * PLACE..60 * PLACE));
        files.gave(6, &(0..100 * PLACE));
        assert_eq!(files.next().map(|place| place.offset), Some(60 * PLACE));
    }

    #[test]
    fn what_shares_the_frame_is_given() {
        // A hole, two chunks of frame 1, three of frame 2, and frame 1 once more.
        let pieces =
            [(0, 10, None), (10, 20, Some(1)), (20, 30, Some(1)), (30, 40, Some(2)), (40, 50, Some(2)), (50, 60, Some(1))];
        let around = |offset| frame_around(&pieces, offset, |_| true);
        assert_eq!((around(25), around(10), around(30), around(59)), (10..30, 10..30, 30..50, 50..60));
        assert_eq!((around(5), around(60)), (0..0, 0..0), "a hole, and behind the end");
        assert_eq!(frame_around(&pieces, 25, |frame| *frame == 2), 0..0, "its frame is not decoded");
    }

    #[test]
    fn only_small_reads_of_long_files_are_random() {
        let long = Content::Items(vec![Item::Hole { len: SHORTEST + 1 }]);
        assert!(is_random(&long, 4096) && !is_random(&long, READ_AHEAD));
        assert!(!is_random(&Content::Items(vec![Item::Hole { len: SHORTEST }]), 4096));
    }
}
