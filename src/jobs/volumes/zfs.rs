//! Snapshots of ZFS. They are read where ZFS shows them, in the directory `.zfs` of the file system.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::jobs::volumes::tool::{ToolKind, VolumeTools};
use crate::jobs::volumes::{PREFIX, name};
use crate::model::escape;
use crate::storage::leftovers::WriterProcess;
use crate::sys::Dir;

/// A file system that is mounted.
#[derive(Debug)]
pub(super) struct ZfsVolume {
    dataset: String,
    top: PathBuf,
}

/// A snapshot of one.
#[derive(Debug)]
pub(super) struct ZfsSnapshot {
    dataset: String,
    name: String,
    place: PathBuf,
}

impl ZfsVolume {
    /// Finds out which one `path` is in, and removes snapshots of processes that are gone.
    pub(super) fn prepare(tools: &VolumeTools, path: &Path) -> Result<Self> {
        let words = ["zfs".as_ref(), "list".as_ref(), "-H".as_ref(), "-o".as_ref(), "name,mountpoint".as_ref(), path.as_os_str()];
        let answer = tools.run(ToolKind::Makes, &words)?;
        let line = String::from_utf8_lossy(answer.split(|b| *b == b'\n').next().unwrap_or_default()).into_owned();
        let found = line.split_once('\t').filter(|(dataset, top)| is_dataset(dataset) && path.starts_with(top));
        let Some((dataset, top)) = found.map(|(dataset, top)| (dataset.to_owned(), PathBuf::from(top))) else {
            let text = format!("zfs list: it does not say which file system {} is in", escape(path.as_os_str().as_bytes()));
            return Err(Error::new(ErrorKind::Io, text));
        };
        remove_left(tools, &dataset)?;
        Ok(ZfsVolume { dataset, top })
    }

    /// Where it is mounted.
    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    /// Makes a snapshot.
    pub(super) fn make(&self, tools: &VolumeTools) -> Result<ZfsSnapshot> {
        let name = name();
        tools.run(ToolKind::Makes, &["zfs", "snapshot", &format!("{}@{name}", self.dataset)])?;
        let place = self.top.join(".zfs/snapshot").join(&name);
        Ok(ZfsSnapshot { dataset: self.dataset.clone(), name, place })
    }
}

impl ZfsSnapshot {
    /// Where it is read.
    pub(super) fn path(&self) -> PathBuf {
        self.place.clone()
    }

    /// The device that it is. Looking at it has it mounted.
    pub(super) fn device(&self) -> Result<(u32, u32)> {
        let stat = Dir::open(&self.place).and_then(|dir| dir.stat_self());
        stat.map(|stat| stat.device).at(|| "the snapshot cannot be looked at".to_owned())
    }

    /// Removes it.
    pub(super) fn remove(&mut self, tools: &VolumeTools) -> Result<()> {
        tools.run(ToolKind::Removes, &["zfs", "destroy", &format!("{}@{}", self.dataset, self.name)]).map(drop)
    }
}

/// Whether this is the name of a file system, as a tool may be given it.
fn is_dataset(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && name.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.: ".contains(c))
}

/// Removes the snapshots of processes that are gone.
fn remove_left(tools: &VolumeTools, dataset: &str) -> Result<()> {
    let listed = tools.run(ToolKind::Makes, &["zfs", "list", "-H", "-t", "snapshot", "-d", "1", "-o", "name", dataset])?;
    let names = listed.split(|b| *b == b'\n').filter_map(|line| {
        let name = std::str::from_utf8(line).ok()?.strip_prefix(dataset)?.strip_prefix('@')?;
        WriterProcess::has_left(PREFIX, name.as_bytes()).then(|| name.to_owned())
    });
    for name in names {
        let mut left = ZfsSnapshot { dataset: dataset.to_owned(), name: name.clone(), place: PathBuf::new() };
        match left.remove(tools) {
            Ok(()) => tools.note(name.as_bytes(), "a snapshot of ZFS that an ingest left which was killed: removed"),
            Err(e) => tools.warn(name.as_bytes(), &format!("a snapshot of ZFS that an ingest left cannot be removed: {e}")),
        }
    }
    Ok(())
}
