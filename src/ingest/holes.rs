//! Holes of small files, which are read whole.
//!
//! `st_blocks` does not tell whether a file has holes: attributes and preallocated blocks count there too. But a hole
//! reads as zeros, and is made of whole blocks. So a file without a block of zeros has none, and nobody has to be asked;
//! of any other the file system is.

use std::fs::File;
use std::io;

use crate::sys::dir;

/// The smallest unit in which file systems allocate (XFS may).
const BLOCK: usize = 512;

/// A hole of a file whose bytes are in a buffer without those of its holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole {
    /// Bytes of data before it.
    pub(crate) at: usize,
    /// Its length.
    pub(crate) len: usize,
}

/// Finds the holes of `file`, whose bytes are `bytes` from `start` on, and takes their zeros out. Costs a system call only
/// when there is a block of zeros.
pub(super) fn take_out(file: &File, bytes: &mut Vec<u8>, start: usize) -> io::Result<Vec<Hole>> {
    let Some(zeros) = first_zeros(&bytes[start..]) else { return Ok(Vec::new()) };
    let size = bytes.len() - start;
    let mut hole = dir::next_hole(file, zeros as u64)?;
    let (mut holes, mut from, mut to) = (Vec::new(), 0, 0);
    while hole < size as u64 {
        let data = dir::next_data(file, hole)?.map_or(size, |(data, _)| size.min(data as usize));
        let begin = hole as usize;
        // A file that changes meanwhile: what was read counts, and is found to have changed.
        if bytes[start + begin..start + data].iter().all(|byte| *byte == 0) && data > begin {
            bytes.copy_within(start + from..start + begin, start + to);
            to += begin - from;
            from = data;
            holes.push(Hole { at: to, len: data - begin });
        }
        hole = if data < size { dir::next_hole(file, data as u64)? } else { size as u64 };
    }
    if !holes.is_empty() {
        bytes.copy_within(start + from..start + size, start + to);
        bytes.truncate(start + to + size - from);
    }
    Ok(holes)
}

/// Where the first block of zeros begins; what is left at the end counts as one.
fn first_zeros(bytes: &[u8]) -> Option<usize> {
    let is_zero = |block: &[u8]| block.first() == Some(&0) && block.iter().all(|byte| *byte == 0);
    bytes.chunks(BLOCK).position(is_zero).map(|number| number * BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_of_zeros_can_be_holes() {
        let mut bytes = vec![7; 3 * BLOCK];
        assert_eq!(first_zeros(&bytes), None);
        bytes[100..100 + BLOCK].fill(0);
        assert_eq!(first_zeros(&bytes), None);
        bytes[BLOCK..2 * BLOCK].fill(0);
        assert_eq!(first_zeros(&bytes), Some(BLOCK));
        bytes[BLOCK] = 1;
        bytes.push(0);
        assert_eq!(first_zeros(&bytes), Some(3 * BLOCK));
        assert_eq!(first_zeros(&[]), None);
    }

    #[test]
    fn holes_are_taken_out_and_told() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(100_000).expect("a length");
        file.write_all_at(&[7; 8192], 16384).expect("data");
        file.write_all_at(&[0; 4096], 65536).expect("zeros");
        let mut bytes = vec![1, 2, 3];
        dir::read_up_to(&file, 0, 100_000, &mut bytes).expect("reading");
        let mut again = bytes.clone();
        let holes = take_out(&file, &mut bytes, 3).expect("an answer");
        let at = |at, len| Hole { at, len };
        assert_eq!(holes, [at(0, 16384), at(8192, 40960), at(12288, 30368)]);
        assert_eq!((bytes.len(), &bytes[..4], bytes[3 + 8192]), (3 + 12288, &[1, 2, 3, 7][..], 0));
        // What was read before a hole was made there is no hole.
        again[3 + 5000] = 1;
        assert_eq!(take_out(&file, &mut again, 3).expect("an answer")[0], at(24576, 40960));
        assert_eq!(again.len(), 3 + 100_000 - 40960 - 30368);
    }
}
