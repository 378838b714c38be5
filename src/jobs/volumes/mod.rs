//! Snapshots of file systems, from which an ingest reads: of btrfs, LVM and ZFS, by their own tools. So what is frozen need
//! not stand still longer than it takes to make them.
//!
//! They are named after the process that makes them. Those of processes that are gone are removed by the next ingest that
//! wants one there.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{GivenPlace, StandIns, TakeSnapshots, VolumeHook, WantedDirectory};
use crate::jobs::config::text::nearest;
use crate::jobs::volumes::survey::{PreparedVolume, SurveyedPlace, VolumeSurvey};
use crate::jobs::volumes::tool::VolumeTools;
use crate::model::escape;
use crate::observe::Observer;
use crate::storage::leftovers::WriterProcess;

mod btrfs;
mod lvm;
mod survey;
mod tool;
mod zfs;

/// What the names of snapshots begin with.
pub(super) const PREFIX: &str = "yester-";

/// From what snapshots of file systems an ingest reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VolumeMethod {
    /// From none.
    #[default]
    Off,
    /// From those of all file systems that can make one; others are read as they are.
    Auto,
    /// From those of btrfs; what is on another file system is an error.
    Btrfs,
    /// The same of LVM.
    Lvm,
    /// The same of ZFS.
    Zfs,
}

/// The words for them.
const METHODS: [(&str, VolumeMethod); 5] = [
    ("off", VolumeMethod::Off),
    ("auto", VolumeMethod::Auto),
    ("btrfs", VolumeMethod::Btrfs),
    ("lvm", VolumeMethod::Lvm),
    ("zfs", VolumeMethod::Zfs),
];

impl FromStr for VolumeMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = METHODS.iter().find(|(word, _)| *word == text).map(|(_, method)| *method);
        found.ok_or_else(|| {
            let near = nearest(text, METHODS.iter().map(|(word, _)| *word));
            format!("{} is none of off, auto, btrfs, lvm and zfs{near}", escape(text.as_bytes()))
        })
    }
}

/// A new name for a snapshot of this process.
fn name() -> String {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let name = WriterProcess::this_process().name(PREFIX, UNIQUE.fetch_add(1, Ordering::Relaxed));
    String::from_utf8_lossy(&name).into_owned()
}

/// What makes an ingest read from snapshots; `None` when it is not to. With `one_file_system` those of what was given alone.
/// Setting `stop` ends the making of them.
pub fn hook(
    method: VolumeMethod,
    one_file_system: bool,
    observer: &Arc<dyn Observer>,
    stop: &Arc<AtomicBool>,
) -> Option<VolumeHook> {
    if method == VolumeMethod::Off {
        return None;
    }
    let tools = VolumeTools::new(observer.clone(), stop.clone());
    let prepare =
        move |given: &[GivenPlace], wanted: WantedDirectory<'_>| prepare(&tools, (method, one_file_system), given, wanted);
    Some(VolumeHook(Arc::new(prepare)))
}

/// Finds the file systems of what was given, and makes them ready.
fn prepare(
    tools: &VolumeTools,
    (method, one_file_system): (VolumeMethod, bool),
    given: &[GivenPlace],
    wanted: WantedDirectory<'_>,
) -> Result<TakeSnapshots> {
    let mut survey = VolumeSurvey::new(tools.clone(), method)?;
    for place in given {
        survey.given(place, one_file_system, wanted)?;
    }
    let (tools, (places, volumes)) = (tools.clone(), survey.done());
    Ok(Box::new(move || take(&tools, method, &places, &volumes)))
}

/// Makes all snapshots, one right after the other.
fn take(tools: &VolumeTools, method: VolumeMethod, places: &[SurveyedPlace], volumes: &[PreparedVolume]) -> Result<StandIns> {
    let mut held = HeldSnapshots { tools: tools.clone(), made: Vec::new() };
    let mut tops: Vec<Option<PathBuf>> = Vec::new();
    let mut out = StandIns::default();
    for volume in volumes {
        match held.add(volume, &mut out) {
            Ok(at) => tops.push(Some(at)),
            Err(e) if method == VolumeMethod::Auto && e.kind() != ErrorKind::Interrupted => {
                tools.warn(
                    volume.top().as_os_str().as_encoded_bytes(),
                    &format!("no snapshot of it could be made, and it is read as it is: {e}"),
                );
                tops.push(None);
            }
            Err(e) => {
                let path = escape(volume.top().as_os_str().as_encoded_bytes());
                return Err(Error::new(e.kind(), format!("no snapshot of {path} could be made: {}", e.without_subject())));
            }
        }
    }
    out.whole = places.iter().any(|place| place.stored.is_none());
    for place in places {
        let volume = place.volume.and_then(|number| Some((tops.get(number)?.as_ref()?, volumes.get(number)?)));
        let at = volume.and_then(|(at, volume)| Some(at.join(place.real.strip_prefix(volume.top()).ok()?)));
        out.whole &= at.is_some() || place.stored.is_some();
        match (&place.stored, at) {
            (None, Some(at)) => drop(out.given.insert(place.given.clone(), at)),
            (None, None) => {}
            (Some(stored), at) => drop(out.inner.insert(stored.clone(), at.unwrap_or_else(|| place.real.clone()))),
        }
    }
    out.held = Some(Box::new(held));
    Ok(out)
}

/// Snapshots that were made. They are removed when this is dropped.
struct HeldSnapshots {
    tools: VolumeTools,
    made: Vec<MadeSnapshot>,
}

enum MadeSnapshot {
    Btrfs(btrfs::BtrfsSnapshot),
    Lvm(lvm::LvmSnapshot),
    Zfs(zfs::ZfsSnapshot),
}

impl HeldSnapshots {
    /// Makes a snapshot. Answers where it is read.
    fn add(&mut self, volume: &PreparedVolume, out: &mut StandIns) -> Result<PathBuf> {
        let tools = &self.tools;
        match volume {
            PreparedVolume::Btrfs(_, volume) => {
                let made = volume.make(tools)?;
                let path = made.path();
                self.made.push(MadeSnapshot::Btrfs(made));
                let dir = crate::sys::Dir::open(&path).and_then(|dir| dir.stat_self());
                let stat = dir.map_err(|e| Error::io("the snapshot cannot be looked at", e))?;
                out.devices.insert(stat.device, volume.device()?);
                Ok(path)
            }
            PreparedVolume::Lvm(_, device, volume) => {
                let made = volume.make(tools)?;
                let (path, own) = (made.path(), made.device());
                self.made.push(MadeSnapshot::Lvm(made));
                out.devices.insert(own?, *device);
                Ok(path)
            }
            PreparedVolume::Zfs(device, volume) => {
                let made = volume.make(tools)?;
                let (path, own) = (made.path(), made.device());
                self.made.push(MadeSnapshot::Zfs(made));
                out.devices.insert(own?, *device);
                Ok(path)
            }
        }
    }
}

impl Drop for HeldSnapshots {
    fn drop(&mut self) {
        for made in self.made.iter_mut().rev() {
            let removed = match made {
                MadeSnapshot::Btrfs(made) => made.remove(&self.tools),
                MadeSnapshot::Lvm(made) => made.remove(&self.tools),
                MadeSnapshot::Zfs(made) => made.remove(&self.tools),
            };
            if let Err(e) = removed {
                let message = format!("a snapshot of a file system cannot be removed: {e} (the next ingest tries again)");
                self.tools.warn(b"file system", &message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_words() {
        assert!(METHODS.iter().all(|(word, method)| word.parse() == Ok(*method)));
        assert!("brtfs".parse::<VolumeMethod>().unwrap_err().contains("btrfs"));
        assert!(!WriterProcess::has_left(PREFIX, name().as_bytes()), "this process lives");
    }
}
