//! Files whose size is only a claim: the kernel makes up what is in `/proc` and `/sys` when it is read. What such a file
//! gives is stored, whatever its size says.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::filesystem::FileSystem;
use crate::sys::{Stat, dir};

/// The most that is taken of a file that gives more than its size: some never end.
const MOST: usize = 16 << 20;
/// The longest made-up file that is read: `/proc/kcore` claims 128 TiB.
const LONGEST: u64 = 1 << 30;
/// Bytes of the first read of a file that claims to be empty, and of the others.
const FIRST: usize = 4 << 10;
const MORE: usize = 64 << 10;

/// Which sizes are believed.
#[derive(Debug, Default)]
pub(crate) struct TrustedSizes {
    /// The device that was last found to tell true sizes, plus one.
    honest: AtomicU64,
}

impl TrustedSizes {
    /// Whether the size of this open file is only a claim.
    pub(super) fn doubts(&self, file: &File, stat: &Stat) -> bool {
        let device = dir::device_number(stat.device).wrapping_add(1);
        if self.honest.load(Ordering::Relaxed) == device {
            return false;
        }
        let made_up = FileSystem::of(file).is_ok_and(FileSystem::makes_up_files);
        if !made_up {
            self.honest.store(device, Ordering::Relaxed);
        }
        made_up
    }
}

/// Refuses a made-up file that claims more than anybody could want to store.
pub(super) fn check_length(stat: &Stat) -> io::Result<()> {
    match stat.size <= LONGEST {
        true => Ok(()),
        false => Err(io::Error::other(format!("it claims {} bytes, which its file system only makes up", stat.size))),
    }
}

/// Appends all that `file` gives to `out`, whatever its size says; how much it was.
pub(super) fn read_to_end(file: &File, out: &mut Vec<u8>) -> io::Result<usize> {
    let mut done = 0;
    loop {
        let len = if done == 0 { FIRST } else { MORE };
        match dir::read_some(file, done as u64, len, out)? {
            0 => return Ok(done),
            read => done += read,
        }
        if done > MOST {
            let text = format!("it gives more than {} MiB, and its size does not say how much", MOST >> 20);
            return Err(io::Error::other(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_proc_gives_more_than_its_size() {
        let file = File::open("/proc/cpuinfo").expect("a file");
        let stat = dir::stat(&file).expect("a stat");
        assert!(stat.size == 0 && TrustedSizes::default().doubts(&file, &stat));
        let mut out = vec![7];
        let read = read_to_end(&file, &mut out).expect("reading");
        assert!(read > 0 && out.len() == read + 1);
        let plain = tempfile::tempfile().expect("a file");
        let claims = TrustedSizes::default();
        let stat = dir::stat(&plain).expect("a stat");
        assert!(!claims.doubts(&plain, &stat) && !claims.doubts(&plain, &stat));
        assert_eq!(read_to_end(&plain, &mut out).expect("reading"), 0);
        // Endless ones are given up.
        assert!(read_to_end(&File::open("/dev/zero").expect("a file"), &mut Vec::new()).is_err());
        assert!(check_length(&Stat { size: 1 << 46, ..stat }).is_err());
    }
}
