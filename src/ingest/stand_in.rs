//! Reading a source from somewhere else than where it stands: from snapshots of its file systems.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::sys::Stat;

/// Device numbers, each as major and minor.
type VolumeDevices = HashMap<(u32, u32), (u32, u32)>;

/// The directory, at the top of a subvolume, in which snapshots of it are while they are read. It is never stored.
pub const KEEPER: &str = ".yester-snapshots";

/// A given path: where it is on this machine, and where it stands in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenPlace {
    /// Where it is, as it was given.
    pub path: PathBuf,
    /// Its absolute path in the snapshot.
    pub stored: Vec<u8>,
}

/// Whether the directory at a path of the snapshot is wanted, which is below what was given for the other path.
pub type WantedDirectory<'a> = &'a dyn Fn(&[u8], &[u8]) -> bool;

/// Makes what was prepared, when the source is frozen.
pub type TakeSnapshots = Box<dyn FnOnce() -> Result<StandIns>>;

type PrepareSnapshots = dyn Fn(&[GivenPlace], WantedDirectory<'_>) -> Result<TakeSnapshots> + Send + Sync;

/// The call that prepares snapshots of the file systems of given paths: before the source is frozen.
#[derive(Clone)]
pub struct VolumeHook(pub Arc<PrepareSnapshots>);

impl fmt::Debug for VolumeHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeHook")
    }
}

/// What stands in for what while it is read. Nothing does, by default.
#[derive(Default)]
pub struct StandIns {
    /// Given paths, and where they are read.
    pub given: HashMap<PathBuf, PathBuf>,
    /// Directories below them, by their paths in the snapshot, that are read elsewhere: file systems and subvolumes that
    /// a snapshot of what is around them does not hold.
    pub inner: HashMap<Vec<u8>, PathBuf>,
    /// The devices of snapshots, and those that they are snapshots of.
    pub devices: VolumeDevices,
    /// Everything that was given is read from a snapshot: the source need not stand still any longer.
    pub whole: bool,
    /// Takes the snapshots away again when it is dropped.
    pub held: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for StandIns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandIns").field("given", &self.given).field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl StandIns {
    /// Where a given path is read, if that is elsewhere.
    pub(crate) fn of(&self, given: &Path) -> Option<&Path> {
        // By its bytes: with a slash at its end a path means something else.
        self.given.iter().find(|(path, _)| path.as_os_str() == given.as_os_str()).map(|(_, at)| at.as_path())
    }

    /// Where the directory at a path of the snapshot is read, if that is elsewhere.
    pub(crate) fn inner(&self, stored: &[u8]) -> Option<&Path> {
        self.inner.get(stored).map(PathBuf::as_path)
    }

    /// The stat of the same entry in what the snapshot is of.
    pub(crate) fn original(&self, stat: &Stat) -> Stat {
        Stat { device: self.devices.get(&stat.device).copied().unwrap_or(stat.device), ..*stat }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_another_given_path() {
        let stand_ins = StandIns { given: [("/a".into(), "/s/a".into())].into(), ..StandIns::default() };
        assert_eq!(stand_ins.of(Path::new("/a")), Some(Path::new("/s/a")));
        assert_eq!(stand_ins.of(Path::new("/a/")), None);
    }
}
