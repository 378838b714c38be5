//! Snapshots of logical volumes of LVM. They are mounted where only their owner may enter.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::jobs::volumes::tool::{ToolKind, VolumeTools};
use crate::jobs::volumes::{PREFIX, name};
use crate::model::escape;
use crate::storage::leftovers::WriterProcess;
use crate::sys::Dir;
use crate::sys::mount::Mount;

/// Where snapshots are mounted.
const MOUNTED: &str = "/run/yester-snapshots";
/// The tag of logical volumes that are made here.
const TAG: &str = "yester";
/// The room of a snapshot of a volume that is not thin: what is written meanwhile must fit in it.
const ROOM: &str = "20%ORIGIN";

/// A logical volume that is mounted.
#[derive(Debug)]
pub(super) struct LvmVolume {
    group: String,
    volume: String,
    thin: bool,
    kind: String,
    root: PathBuf,
}

/// A snapshot of one.
#[derive(Debug)]
pub(super) struct LvmSnapshot {
    volume: String,
    place: PathBuf,
    root: PathBuf,
    mounted: bool,
}

/// Whether what is mounted may be a logical volume.
pub(super) fn may_be(mount: &Mount) -> bool {
    mount.source.starts_with(b"/dev/mapper/") || mount.source.starts_with(b"/dev/dm-")
}

/// What a tool answered, word by word, if these are names.
fn names(line: &[u8]) -> Option<Vec<String>> {
    let fits = |name: &str| {
        !name.starts_with('-') && name.len() < 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || "+_.-[]".contains(c))
    };
    let text = std::str::from_utf8(line).ok()?;
    let names: Vec<String> = text.split('|').map(|name| name.trim().to_owned()).collect();
    names.iter().all(|name| fits(name)).then_some(names)
}

impl LvmVolume {
    /// Finds out which one is mounted, and removes snapshots of processes that are gone.
    pub(super) fn prepare(tools: &VolumeTools, mount: &Mount) -> Result<Self> {
        let source = std::ffi::OsStr::from_bytes(&mount.source);
        let words = ["lvs", "--noheadings", "--separator", "|", "-o", "vg_name,lv_name,pool_lv", "--"];
        let words: Vec<_> = words.into_iter().map(std::ffi::OsStr::new).chain([source]).collect();
        let answer = tools.run(ToolKind::Makes, &words)?;
        let line = answer.split(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
        let (group, volume, pool) = match names(line).as_deref() {
            Some([group, volume, pool]) if !group.is_empty() && !volume.is_empty() => {
                (group.clone(), volume.clone(), pool.clone())
            }
            _ => {
                let text = format!("lvs: it does not say which logical volume {} is", escape(&mount.source));
                return Err(Error::new(ErrorKind::Io, text));
            }
        };
        remove_left(tools, &group)?;
        let root = PathBuf::from(std::ffi::OsStr::from_bytes(mount.root.strip_prefix(b"/").unwrap_or_default()));
        let kind = String::from_utf8_lossy(&mount.kind).into_owned();
        Ok(LvmVolume { group, volume, thin: !pool.is_empty(), kind, root })
    }

    /// Makes a snapshot, and mounts it.
    pub(super) fn make(&self, tools: &VolumeTools) -> Result<LvmSnapshot> {
        let name = name();
        let mut words = vec!["lvcreate", "--yes", "--snapshot", "--addtag", TAG, "--name", &name];
        match self.thin {
            true => words.extend(["--activate", "y", "--ignoreactivationskip"]),
            false => words.extend(["--extents", ROOM]),
        }
        let origin = format!("{}/{}", self.group, self.volume);
        words.push(&origin);
        let mut made = LvmSnapshot {
            volume: format!("{}/{name}", self.group),
            place: Path::new(MOUNTED).join(&name),
            root: self.root.clone(),
            mounted: false,
        };
        tools.run(ToolKind::Makes, &words)?;
        if let Err(e) = made.mount(tools, &self.kind) {
            if let Err(other) = made.remove(tools) {
                tools.warn(name.as_bytes(), &format!("it cannot be removed: {other}"));
            }
            return Err(e);
        }
        Ok(made)
    }
}

impl LvmSnapshot {
    /// Where it is read.
    pub(super) fn path(&self) -> PathBuf {
        self.place.join(&self.root)
    }

    /// The device that it is.
    pub(super) fn device(&self) -> Result<(u32, u32)> {
        let stat = Dir::open(&self.place).and_then(|dir| dir.stat_self());
        stat.map(|stat| stat.device).at(|| "the snapshot cannot be looked at".to_owned())
    }

    fn mount(&mut self, tools: &VolumeTools, kind: &str) -> Result<()> {
        let shown = || format!("cannot make {}", escape(self.place.as_os_str().as_bytes()));
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.place);
        made.at(shown)?;
        // Two file systems of one id are mounted only if that is said.
        let options = if kind == "xfs" { "ro,nosuid,nodev,nouuid" } else { "ro,nosuid,nodev" };
        let device = format!("/dev/{}", self.volume);
        let words = [
            "mount".as_ref(),
            "-t".as_ref(),
            kind.as_ref(),
            "-o".as_ref(),
            options.as_ref(),
            device.as_ref(),
            self.place.as_os_str(),
        ];
        tools.run(ToolKind::Makes, &words)?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts and removes it.
    pub(super) fn remove(&mut self, tools: &VolumeTools) -> Result<()> {
        if std::mem::take(&mut self.mounted) {
            tools.run(ToolKind::Removes, &["umount".as_ref(), self.place.as_os_str()])?;
        }
        // What is not empty is somebody's.
        let _ = std::fs::remove_dir(&self.place);
        tools.run(ToolKind::Removes, &["lvremove", "--yes", "--force", &self.volume]).map(drop)
    }
}

/// Removes the snapshots of processes that are gone: those with our tag and a name of ours.
fn remove_left(tools: &VolumeTools, group: &str) -> Result<()> {
    let select = format!("lv_tags={TAG}");
    let listed = tools.run(ToolKind::Makes, &["lvs", "--noheadings", "-o", "lv_name", "--select", &select, group])?;
    for line in listed.split(|b| *b == b'\n').map(<[u8]>::trim_ascii) {
        let Some([name]) =
            names(line).as_deref().map(|names| names.to_vec()).and_then(|names| <[String; 1]>::try_from(names).ok())
        else {
            continue;
        };
        if !WriterProcess::has_left(PREFIX, name.as_bytes()) {
            continue;
        }
        let place = Path::new(MOUNTED).join(&name);
        let mounted = crate::sys::mount::table().unwrap_or_default().iter().any(|mount| mount.point == place);
        let mut left = LvmSnapshot { volume: format!("{group}/{name}"), place, root: PathBuf::new(), mounted };
        match left.remove(tools) {
            Ok(()) => tools.note(name.as_bytes(), "a snapshot of LVM that an ingest left which was killed: removed"),
            Err(e) => tools.warn(name.as_bytes(), &format!("a snapshot of LVM that an ingest left cannot be removed: {e}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_no_names_are_not_believed() {
        assert_eq!(names(b"  vg | home |  "), Some(vec!["vg".to_owned(), "home".to_owned(), String::new()]));
        for wrong in [&b"vg|--help|"[..], b"vg|a/b|", b"\xff", b"vg|a b|"] {
            assert_eq!(names(wrong), None);
        }
    }
}
