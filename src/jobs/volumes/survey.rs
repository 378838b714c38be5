//! Which file systems given paths are on, and what is mounted below them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ingest::{GivenPlace, WantedDirectory};
use crate::jobs::volumes::btrfs::BtrfsVolume;
use crate::jobs::volumes::lvm::LvmVolume;
use crate::jobs::volumes::tool::VolumeTools;
use crate::jobs::volumes::zfs::ZfsVolume;
use crate::jobs::volumes::{VolumeMethod, btrfs, lvm};
use crate::model::escape;
use crate::sys::Dir;
use crate::sys::mount::{self, Mount};

/// A file system that is ready for a snapshot.
#[derive(Debug)]
pub(super) enum PreparedVolume {
    /// The top of a subvolume.
    Btrfs(PathBuf, BtrfsVolume),
    /// Where a logical volume is mounted, and its device.
    Lvm(PathBuf, (u32, u32), LvmVolume),
    /// A file system of ZFS, and its device.
    Zfs((u32, u32), ZfsVolume),
}

impl PreparedVolume {
    /// The directory that a snapshot of it shows.
    pub(super) fn top(&self) -> &Path {
        match self {
            PreparedVolume::Btrfs(top, _) | PreparedVolume::Lvm(top, ..) => top,
            PreparedVolume::Zfs(_, volume) => volume.top(),
        }
    }

    fn keeper(&self) -> Option<Arc<Dir>> {
        match self {
            PreparedVolume::Btrfs(_, volume) => Some(volume.keeper.clone()),
            _ => None,
        }
    }
}

/// A given path, or a directory below one where something else begins.
#[derive(Debug)]
pub(super) struct SurveyedPlace {
    /// The path as it was given.
    pub(super) given: PathBuf,
    /// Of what is below it: its path in the snapshot.
    pub(super) stored: Option<Vec<u8>>,
    /// Where it is, without links.
    pub(super) real: PathBuf,
    /// The number of its file system, if that makes snapshots.
    pub(super) volume: Option<usize>,
}

/// What was found.
pub(super) struct VolumeSurvey {
    tools: VolumeTools,
    method: VolumeMethod,
    table: Vec<Mount>,
    volumes: Vec<PreparedVolume>,
    places: Vec<SurveyedPlace>,
}

impl VolumeSurvey {
    /// Nothing yet.
    pub(super) fn new(tools: VolumeTools, method: VolumeMethod) -> Result<Self> {
        let table = mount::table().at(|| "cannot read the table of mounts".to_owned())?;
        Ok(VolumeSurvey { tools, method, table, volumes: Vec::new(), places: Vec::new() })
    }

    /// All places, and the file systems.
    pub(super) fn done(self) -> (Vec<SurveyedPlace>, Vec<PreparedVolume>) {
        (self.places, self.volumes)
    }

    /// Looks at a given path, and what is below it. One that is not there is told later.
    pub(super) fn given(&mut self, place: &GivenPlace, one_file_system: bool, wanted: WantedDirectory<'_>) -> Result<()> {
        let Some(real) = real(&place.path) else { return Ok(()) };
        let shown = escape(place.path.as_os_str().as_bytes());
        let volume = match self.volume_of(&real, None) {
            Ok(Some(volume)) => Some(volume),
            Ok(None) if self.method == VolumeMethod::Auto => {
                let kind = self.mount_of(&real).map(|mount| escape(&mount.kind)).unwrap_or_default();
                self.tools.note(
                    place.path.as_os_str().as_bytes(),
                    &format!("it is on {kind}, of which no snapshot can be made: it is read as it is"),
                );
                None
            }
            Ok(None) => {
                let (kind, method) = (self.mount_of(&real).map(|mount| escape(&mount.kind)), self.method);
                let text = format!("{shown} is on {}, where {method:?} has no snapshots", kind.unwrap_or_default());
                return Err(Error::invalid(format!(
                    "{}: write auto, or off",
                    text.replace("Btrfs", "btrfs").replace("Lvm", "LVM").replace("Zfs", "ZFS")
                )));
            }
            Err(e) if self.method == VolumeMethod::Auto && e.kind() != ErrorKind::Interrupted => {
                self.tools.warn(
                    place.path.as_os_str().as_bytes(),
                    &format!("no snapshot of it can be made, and it is read as it is: {e}"),
                );
                None
            }
            Err(e) => return Err(Error::new(e.kind(), format!("no snapshot of {shown} can be made: {}", e.without_subject()))),
        };
        let given = place.path.clone();
        self.places.push(SurveyedPlace { given: given.clone(), stored: None, real: real.clone(), volume });
        let mut rest: Vec<(PathBuf, bool)> = self.mounts_below(&real).into_iter().map(|point| (point, true)).collect();
        rest.extend(self.subvolumes(&real, volume)?.into_iter().map(|inner| (inner, false)));
        while let Some((inner, mounted)) = rest.pop() {
            let Ok(below) = inner.strip_prefix(&real) else { continue };
            let stored = [place.stored.strip_suffix(b"/").unwrap_or(&place.stored), b"/", below.as_os_str().as_bytes()].concat();
            if self.places.iter().any(|known| known.stored.as_ref() == Some(&stored)) || !wanted(&place.stored, &stored) {
                continue;
            }
            // What is mounted there stays outside, as an empty directory: with its own owner and times.
            if one_file_system {
                self.places.push(SurveyedPlace { given: given.clone(), stored: Some(stored), real: inner, volume: None });
                continue;
            }
            let volume = self.inner(&inner, volume.filter(|_| !mounted));
            rest.extend(self.subvolumes(&inner, volume)?.into_iter().map(|inner| (inner, false)));
            self.places.push(SurveyedPlace { given: given.clone(), stored: Some(stored), real: inner, volume });
        }
        Ok(())
    }

    /// The file system of something below what was given; what has no snapshot is read as it is, which is told.
    fn inner(&mut self, inner: &Path, around: Option<usize>) -> Option<usize> {
        let keeper = around.and_then(|number| self.volumes.get(number)?.keeper());
        match self.volume_of(inner, keeper) {
            Ok(Some(volume)) => Some(volume),
            Ok(None) => {
                // What the kernel makes up, and what is in memory, is nobody's concern.
                if let Some(mount) =
                    self.mount_of(inner).filter(|mount| mount.source.starts_with(b"/") || mount.source.contains(&b':'))
                {
                    let message = format!("no snapshot of it ({}) can be made: it is read as it is", escape(&mount.kind));
                    self.tools.note(inner.as_os_str().as_bytes(), &message);
                }
                None
            }
            Err(e) => {
                let message = format!("no snapshot of it can be made, and it is read as it is: {e}");
                self.tools.warn(inner.as_os_str().as_bytes(), &message);
                None
            }
        }
    }

    /// What is mounted below a directory, each once.
    fn mounts_below(&self, real: &Path) -> Vec<PathBuf> {
        let below = self.table.iter().filter(|mount| mount.point != real && mount.point.starts_with(real));
        let mut points: Vec<PathBuf> = below.map(|mount| mount.point.clone()).collect();
        points.sort();
        points.dedup();
        points
    }

    /// Subvolumes below a directory that are in the subvolume of this number.
    fn subvolumes(&self, real: &Path, volume: Option<usize>) -> Result<Vec<PathBuf>> {
        let Some(PreparedVolume::Btrfs(top, _)) = volume.and_then(|number| self.volumes.get(number)) else {
            return Ok(Vec::new());
        };
        let Some(mount) = self.mount_of(top) else { return Ok(Vec::new()) };
        match btrfs::inner(&self.tools, top, mount) {
            Ok(found) => Ok(found.into_iter().filter(|inner| inner != real && inner.starts_with(real)).collect()),
            Err(e) if self.method == VolumeMethod::Auto && e.kind() != ErrorKind::Interrupted => {
                let message = format!("subvolumes in it are left out, since they cannot be listed: {e}");
                self.tools.warn(top.as_os_str().as_bytes(), &message);
                Ok(Vec::new())
            }
            Err(e) => Err(e),
        }
    }

    /// What is mounted where `path` is.
    fn mount_of(&self, path: &Path) -> Option<&Mount> {
        let around = self.table.iter().filter(|mount| path.starts_with(&mount.point));
        around.max_by_key(|mount| mount.point.components().count())
    }

    /// The number of the file system that `path` is on, which is made ready if it is not yet; `None`: it has no snapshots.
    fn volume_of(&mut self, path: &Path, keeper: Option<Arc<Dir>>) -> Result<Option<usize>> {
        let Some(mount) = self.mount_of(path) else { return Ok(None) };
        let wants = |method| self.method == method || self.method == VolumeMethod::Auto;
        let device = || {
            Dir::open(&mount.point).and_then(|dir| dir.stat_self()).map(|stat| stat.device).at(|| "cannot look at it".to_owned())
        };
        if mount.kind == b"btrfs" && wants(VolumeMethod::Btrfs) {
            let Some(top) = btrfs::top(path, mount) else { return Ok(None) };
            if let Some(known) = self.known(&top) {
                return Ok(Some(known));
            }
            let volume = BtrfsVolume::prepare(&self.tools, &top, keeper)?;
            return Ok(Some(self.add(PreparedVolume::Btrfs(top, volume))));
        }
        if mount.kind == b"zfs" && wants(VolumeMethod::Zfs) || self.method == VolumeMethod::Zfs {
            let (device, volume) = (device()?, ZfsVolume::prepare(&self.tools, path)?);
            let known = self.known(volume.top());
            return Ok(Some(known.unwrap_or_else(|| self.add(PreparedVolume::Zfs(device, volume)))));
        }
        if lvm::may_be(mount) && wants(VolumeMethod::Lvm) {
            let point = mount.point.clone();
            if let Some(known) = self.known(&point) {
                return Ok(Some(known));
            }
            let (device, volume) = (device()?, LvmVolume::prepare(&self.tools, mount)?);
            return Ok(Some(self.add(PreparedVolume::Lvm(point, device, volume))));
        }
        Ok(None)
    }

    fn known(&self, top: &Path) -> Option<usize> {
        self.volumes.iter().position(|volume| volume.top() == top)
    }

    fn add(&mut self, volume: PreparedVolume) -> usize {
        self.volumes.push(volume);
        self.volumes.len() - 1
    }
}

/// Where a given path is, without links but the last name; a slash behind a link stands for what that leads to.
fn real(path: &Path) -> Option<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let slash = bytes.len() > 1 && bytes.ends_with(b"/");
    if slash || !path.symlink_metadata().ok()?.is_symlink() {
        return std::fs::canonicalize(OsStr::from_bytes(bytes)).ok();
    }
    Some(std::fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?))
}
