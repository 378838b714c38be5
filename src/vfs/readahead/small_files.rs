//! Policy: a reader who goes from file to file is given the small files that come next in the directory.
//!
//! A request through FUSE costs two switches between processes, about 60 µs, whatever is asked. Reading a tree of small
//! files is tens of thousands of them, one after the other. The kernel takes bytes only of inodes that it knows, so a
//! directory that is not listed is left alone.
//!
//! What was given of a directory is remembered for the directory and not for a reader: several may read in it, and no
//! file is given twice.

use std::collections::VecDeque;

use crate::model::Content;

/// A longer file, in bytes, is read in several requests anyway, and the kernel reads ahead in it.
const LONGEST: u64 = 128 << 10;
/// What is given at once: enough that asking once for so much does not matter, little enough that a reader who stops
/// has cost nothing.
const BYTES: u64 = 4 << 20;
const FILES: u64 = 512;
/// Directories whose progress is remembered.
const DIRECTORIES: usize = 64;

/// Where a directory stands; entries by number.
#[derive(Debug)]
struct DirectoryProgress {
    ino: u64,
    /// What is before this entry was asked for, or is at this moment.
    from: u64,
    /// What was given ends before this entry.
    given: u64,
    /// A job is at it, or will be.
    busy: bool,
}

/// The directories whose files are given, by inode number.
#[derive(Debug, Default)]
pub(super) struct GivenDirectories(VecDeque<DirectoryProgress>);

impl GivenDirectories {
    /// Notes that entry `asked` is being read, or that the directory was listed to its end. Whether a job is to begin.
    pub(super) fn go_on(&mut self, ino: u64, asked: Option<u64>) -> bool {
        let from = asked.map_or(0, |number| number + 2);
        if self.get(ino).is_none() {
            if self.0.len() == DIRECTORIES {
                self.0.pop_front();
            }
            self.0.push_back(DirectoryProgress { ino, from, given: 0, busy: false });
        }
        let Some(progress) = self.get(ino) else { return false };
        progress.from = from;
        let begins = !progress.busy && from >= progress.given;
        progress.busy |= begins;
        begins
    }

    /// Where a job begins: the number of an entry. `None`: the directory is forgotten.
    pub(super) fn start(&mut self, ino: u64) -> Option<u64> {
        self.get(ino).map(|progress| progress.given.max(progress.from))
    }

    /// Whether an entry need not be given any more, since the reader is past it.
    pub(super) fn has_passed(&mut self, ino: u64, entry: u64) -> bool {
        self.get(ino).is_none_or(|progress| entry < progress.from)
    }

    /// Notes that an entry was given, or is none to be given.
    pub(super) fn gave(&mut self, ino: u64, entry: u64) {
        if let Some(progress) = self.get(ino) {
            progress.given = entry + 1;
        }
    }

    /// Notes the end of a job, or that it did not begin.
    pub(super) fn ended(&mut self, ino: u64) {
        if let Some(progress) = self.get(ino) {
            progress.busy = false;
        }
    }

    fn get(&mut self, ino: u64) -> Option<&mut DirectoryProgress> {
        self.0.iter_mut().find(|progress| progress.ino == ino)
    }
}

/// What one job has given.
#[derive(Debug, Default)]
pub(super) struct SmallFileBatch {
    bytes: u64,
    files: u64,
}

impl SmallFileBatch {
    /// Whether there may be more.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < BYTES && self.files < FILES
    }

    /// Counts a file of `size` bytes.
    pub(super) fn add(&mut self, size: u64) {
        self.bytes += size;
        self.files += 1;
    }
}

/// Whether a file is one to be given. The inode of a hard link may be another's: those are asked for.
pub(super) fn is_small(content: &Content, is_linked: bool) -> bool {
    !is_linked && (1..=LONGEST).contains(&content.size()) && !matches!(content, Content::Tree { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Item;

    #[test]
    fn what_comes_after_the_reader_is_given_once() {
        let mut directories = GivenDirectories::default();
        assert!(directories.go_on(7, Some(3)), "a job begins");
        assert!(!directories.go_on(7, Some(4)), "one job at a time");
        assert_eq!(directories.start(7), Some(6), "the reader is at 4, and asks for 5 before it could be given");
        for entry in 6..20 {
            directories.gave(7, entry);
        }
        directories.ended(7);
        assert!(!directories.go_on(7, Some(10)), "that was given");
        assert!(directories.go_on(7, Some(18)), "what was given ends here");
        assert_eq!(directories.start(7), Some(20));
        directories.ended(7);
        assert!(directories.has_passed(7, 19) && !directories.has_passed(7, 20));
    }

    #[test]
    fn a_directory_that_was_listed_is_given_from_its_beginning() {
        let mut directories = GivenDirectories::default();
        assert!(directories.go_on(7, None));
        assert_eq!(directories.start(7), Some(0));
        directories.gave(7, 99);
        directories.ended(7);
        assert!(!directories.go_on(7, None), "listed again");
    }

    #[test]
    fn the_directories_that_came_first_are_forgotten() {
        let mut directories = GivenDirectories::default();
        for ino in 0..=DIRECTORIES as u64 {
            directories.go_on(ino, None);
        }
        assert_eq!((directories.start(0), directories.start(1)), (None, Some(0)));
        assert!(directories.has_passed(0, 1), "a job of a forgotten directory has nothing to give");
        assert_eq!(directories.0.len(), DIRECTORIES);
    }

    #[test]
    fn only_small_files_that_have_one_name_are_given() {
        let file = |len| Content::Items(vec![Item::Hole { len }]);
        assert!(is_small(&file(LONGEST), false) && is_small(&Content::Inline(vec![1]), false));
        assert!(!is_small(&file(LONGEST + 1), false) && !is_small(&file(1), true));
        assert!(!is_small(&Content::Inline(Vec::new()), false), "nothing to give");
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_and_files() {
        let (mut long, mut short) = (SmallFileBatch::default(), SmallFileBatch::default());
        let files = |batch: &mut SmallFileBatch, size| {
            (0..)
                .take_while(|_| {
                    batch.has_room() && {
                        batch.add(size);
                        true
                    }
                })
                .count()
        };
        assert_eq!(files(&mut long, LONGEST) as u64, BYTES / LONGEST);
        assert_eq!(files(&mut short, 1) as u64, FILES);
    }
}
