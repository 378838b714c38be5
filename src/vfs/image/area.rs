//! Bytes that grow at the end and are changed in place: metadata while an image is made, and afterwards.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Bytes that are held back before they are written to a file.
const TAIL: usize = 1 << 20;

/// Where areas are kept.
#[derive(Debug, Clone)]
pub enum Areas {
    /// In memory: as many bytes as are left here, all areas together. Names and attributes then reach no disk.
    Memory(Arc<AtomicU64>),
    /// In files without a name, in this directory: gone with the process, however that ends.
    Files(PathBuf),
}

impl Areas {
    /// In memory, at most `limit` bytes.
    pub(crate) fn memory(limit: u64) -> Areas {
        Areas::Memory(Arc::new(AtomicU64::new(limit)))
    }

    /// In files in `directory`.
    pub(crate) fn files(directory: &Path) -> Areas {
        Areas::Files(directory.to_owned())
    }

    /// A new area.
    pub fn area(&self) -> Result<Area> {
        Ok(Area(match self {
            Areas::Memory(left) => AreaStorage::Memory { bytes: Vec::new(), taken: 0, left: left.clone() },
            Areas::Files(directory) => {
                let file = tempfile::tempfile_in(directory)
                    .map_err(|e| Error::io(format!("cannot make a file without a name in {}", directory.display()), e))?;
                AreaStorage::File { file, written: 0, tail: Vec::with_capacity(TAIL) }
            }
        }))
    }
}

/// One run of bytes.
#[derive(Debug)]
pub struct Area(AreaStorage);

#[derive(Debug)]
enum AreaStorage {
    Memory { bytes: Vec<u8>, taken: u64, left: Arc<AtomicU64> },
    File { file: File, written: u64, tail: Vec<u8> },
}

impl Drop for Area {
    fn drop(&mut self) {
        if let AreaStorage::Memory { taken, left, .. } = &self.0 {
            left.fetch_add(*taken, Ordering::AcqRel);
        }
    }
}

fn io(e: std::io::Error) -> Error {
    Error::io("cannot keep the metadata of an image in a file without a name", e)
}

impl Area {
    /// Its bytes.
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            AreaStorage::Memory { bytes, .. } => bytes.len() as u64,
            AreaStorage::File { written, tail, .. } => written + tail.len() as u64,
        }
    }

    /// Appends.
    pub fn append(&mut self, new: &[u8]) -> Result<()> {
        match &mut self.0 {
            AreaStorage::Memory { bytes, taken, left } => {
                if bytes.len() + new.len() > bytes.capacity() {
                    // As much as the vector would take by itself.
                    let more = (bytes.capacity() as u64).max(new.len() as u64).max(4096);
                    let enough = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(more));
                    enough.map_err(|_| {
                        Error::new(ErrorKind::Unsupported, "the metadata need more memory than an image may have")
                    })?;
                    *taken += more;
                    bytes.reserve_exact(more as usize);
                }
                bytes.extend_from_slice(new);
            }
            AreaStorage::File { file, written, tail } => {
                if tail.len() + new.len() > TAIL {
                    file.write_all_at(tail, *written).map_err(io)?;
                    *written += tail.len() as u64;
                    tail.clear();
                }
                tail.extend_from_slice(new);
            }
        }
        Ok(())
    }

    /// Appends zeros up to the next multiple of `unit` (a power of two).
    pub fn pad(&mut self, unit: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut missing = self.len().next_multiple_of(unit) - self.len();
        while missing > 0 {
            let now = missing.min(ZEROS.len() as u64);
            self.append(&ZEROS[..now as usize])?;
            missing -= now;
        }
        Ok(())
    }

    /// Changes bytes that are there.
    pub fn patch(&mut self, at: u64, new: &[u8]) -> Result<()> {
        self.within(at, new.len())?;
        match &mut self.0 {
            AreaStorage::Memory { bytes, .. } => bytes[at as usize..][..new.len()].copy_from_slice(new),
            AreaStorage::File { file, written, tail } => {
                let before = written.saturating_sub(at).min(new.len() as u64) as usize;
                file.write_all_at(&new[..before], at).map_err(io)?;
                if before < new.len() {
                    let from = (at + before as u64 - *written) as usize;
                    tail[from..][..new.len() - before].copy_from_slice(&new[before..]);
                }
            }
        }
        Ok(())
    }

    /// Reads bytes that are there.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.within(at, out.len())?;
        match &self.0 {
            AreaStorage::Memory { bytes, .. } => out.copy_from_slice(&bytes[at as usize..][..out.len()]),
            AreaStorage::File { file, written, tail } => {
                let before = written.saturating_sub(at).min(out.len() as u64) as usize;
                file.read_exact_at(&mut out[..before], at).map_err(io)?;
                if before < out.len() {
                    let from = (at + before as u64 - *written) as usize;
                    let len = out.len() - before;
                    out[before..].copy_from_slice(&tail[from..][..len]);
                }
            }
        }
        Ok(())
    }

    /// Reads so many bytes.
    pub fn array<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.read(at, &mut out)?;
        Ok(out)
    }

    fn within(&self, at: u64, len: usize) -> Result<()> {
        let fits = at.checked_add(len as u64).is_some_and(|end| end <= self.len());
        if fits { Ok(()) } else { Err(Error::corrupt("the metadata of an image end before what they speak of")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_keep_what_is_written_and_changed() {
        let directory = tempfile::tempdir().unwrap();
        for areas in [Areas::memory(64 << 20), Areas::files(directory.path())] {
            let mut area = areas.area().unwrap();
            let part: Vec<u8> = (0..=255).collect();
            (0..10_000).for_each(|_| area.append(&part).unwrap());
            // Within what is written, across its end, and behind it.
            for at in [0, 100, (1 << 20) - 128, (2 << 20) - 100, 2_559_000] {
                area.patch(at, &[7; 256]).unwrap();
                assert_eq!(area.array::<256>(at).unwrap(), [7; 256]);
            }
            assert_eq!(area.array::<4>(260).unwrap(), [7, 7, 7, 7]);
            assert_eq!(area.array::<4>(512).unwrap(), [0, 1, 2, 3]);
            area.append(&[1]).unwrap();
            area.pad(4096).unwrap();
            assert_eq!(area.len(), 2_560_001_u64.next_multiple_of(4096));
            assert!(area.patch(area.len(), &[1]).is_err() && area.array::<2>(area.len() - 1).is_err());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let areas = Areas::memory(100_000);
        let mut area = areas.area().unwrap();
        let refused = (0..100).find_map(|_| area.append(&[0; 4096]).err());
        assert_eq!(refused.unwrap().kind(), ErrorKind::Unsupported);
        drop(area);
        let Areas::Memory(left) = &areas else { unreachable!() };
        assert_eq!(left.load(Ordering::Acquire), 100_000);
    }
}
