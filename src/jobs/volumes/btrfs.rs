//! Snapshots of btrfs subvolumes. They are made in a directory at the top of the subvolume that only its owner may enter:
//! what was readable for all once need not be so any more.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::ingest::KEEPER;
use crate::jobs::volumes::tool::{ToolKind, VolumeTools};
use crate::jobs::volumes::{PREFIX, name};
use crate::model::escape;
use crate::storage::leftovers::WriterProcess;
use crate::sys::filesystem::FileSystem;
use crate::sys::mount::Mount;
use crate::sys::{Dir, FileKind, Stat, process};

/// The inode number of the top of every subvolume.
const TOP: u64 = 256;

/// A subvolume that is ready for snapshots.
#[derive(Debug)]
pub(super) struct BtrfsVolume {
    top: Dir,
    pub(super) keeper: Arc<Dir>,
}

/// A snapshot of one.
#[derive(Debug)]
pub(super) struct BtrfsSnapshot {
    keeper: Arc<Dir>,
    name: String,
    open: Option<Dir>,
}

/// The top of the subvolume that `path` is in, as far as the mount shows it.
pub(super) fn top(path: &Path, mount: &Mount) -> Option<PathBuf> {
    let within = path.ancestors().take_while(|above| above.starts_with(&mount.point));
    within.into_iter().find(|above| is_top(above)).map(Path::to_owned)
}

fn is_top(path: &Path) -> bool {
    let stat = Dir::open(path).and_then(|dir| Ok((dir.stat_self()?, FileSystem::of(&dir)?)));
    stat.is_ok_and(|(stat, kind)| stat.inode == TOP && kind.is_btrfs())
}

/// The subvolumes in the subvolume `top`, but not in those.
pub(super) fn inner(tools: &VolumeTools, top: &Path, mount: &Mount) -> Result<Vec<PathBuf>> {
    let words = ["btrfs".as_ref(), "subvolume".as_ref(), "list".as_ref(), "-o".as_ref(), "--".as_ref(), top.as_os_str()];
    let listed = tools.run(ToolKind::Makes, &words)?;
    // Paths are from the top of the file system.
    let below = top.strip_prefix(&mount.point).map(|below| below.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    let own: Vec<&[u8]> = [&mount.root[..], &below].into_iter().flat_map(|path| path.split(|b| *b == b'/')).collect();
    let own: Vec<&[u8]> = own.into_iter().filter(|name| !name.is_empty()).collect();
    let path = |line: &[u8]| {
        let at = line.windows(6).position(|word| word == b" path ")?;
        let names: Vec<&[u8]> = line.get(at + 6..)?.split(|b| *b == b'/').collect();
        let inside = names.strip_prefix(own.as_slice()).filter(|inside| !inside.is_empty())?;
        let plain = |name: &&[u8]| !name.is_empty() && *name != b"." && *name != b"..";
        inside.iter().all(plain).then(|| top.join(std::ffi::OsStr::from_bytes(&inside.join(&b'/'))))
    };
    let found = listed.split(|b| *b == b'\n').filter_map(path);
    // Those that cannot be seen from here are not read either.
    Ok(found.filter(|path| !path.iter().any(|name| name == KEEPER) && is_top(path)).collect())
}

/// The path by which other programs reach what is open here, whatever it is called by now.
fn through(dir: &Dir) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", process::id(), dir.as_fd().as_raw_fd()))
}

impl BtrfsVolume {
    /// Makes ready what is needed for snapshots of the subvolume `top`: in `keeper`, if that is given, or in one of its own,
    /// out of which snapshots of processes that are gone are removed.
    pub(super) fn prepare(tools: &VolumeTools, top: &Path, keeper: Option<Arc<Dir>>) -> Result<Self> {
        let shown = escape(top.as_os_str().as_bytes());
        let dir = Dir::open(top).at(|| format!("cannot open {shown}"))?;
        let keeper = match keeper {
            Some(keeper) => keeper,
            None => {
                let keeper = Arc::new(keeper_of(&dir, &shown)?);
                remove_left(tools, &keeper)?;
                keeper
            }
        };
        Ok(BtrfsVolume { top: dir, keeper })
    }

    /// Makes a snapshot.
    pub(super) fn make(&self, tools: &VolumeTools) -> Result<BtrfsSnapshot> {
        let name = name();
        let mut made = BtrfsSnapshot { keeper: self.keeper.clone(), name: name.clone(), open: None };
        let words = ["btrfs", "subvolume", "snapshot", "-r", "--"].map(Into::into).into_iter();
        let words: Vec<std::ffi::OsString> =
            words.chain([through(&self.top).into(), through(&self.keeper).join(&name).into()]).collect();
        let opened = tools.run(ToolKind::Makes, &words).and_then(|_| {
            let dir = self.keeper.open_dir(name.as_bytes()).at(|| "the snapshot is not there".to_owned())?;
            let kind = FileSystem::of(&dir).at(|| "the snapshot cannot be looked at".to_owned())?;
            match stat(&dir)?.inode == TOP && kind.is_btrfs() {
                true => Ok(dir),
                false => Err(Error::new(crate::error::ErrorKind::Io, "btrfs subvolume: it has made no snapshot")),
            }
        });
        match opened {
            Ok(dir) => made.open = Some(dir),
            Err(e) => {
                // A tool that was ended may have done its work.
                if self.keeper.stat(name.as_bytes()).is_ok()
                    && let Err(other) = made.remove(tools)
                {
                    tools.warn(name.as_bytes(), &format!("it cannot be removed: {other}"));
                }
                return Err(e);
            }
        }
        Ok(made)
    }

    /// The device that it is.
    pub(super) fn device(&self) -> Result<(u32, u32)> {
        stat(&self.top).map(|stat| stat.device)
    }
}

impl BtrfsSnapshot {
    /// Where it is read by this process.
    pub(super) fn path(&self) -> PathBuf {
        self.open.as_ref().map(through).unwrap_or_default()
    }

    /// Removes it.
    pub(super) fn remove(&mut self, tools: &VolumeTools) -> Result<()> {
        self.open = None;
        remove(tools, &self.keeper, self.name.as_bytes())
    }
}

fn stat(dir: &Dir) -> Result<Stat> {
    dir.stat_self().at(|| "the subvolume cannot be looked at".to_owned())
}

/// The directory of snapshots in the subvolume `top`, which is made if it is not there. One that somebody else may write to
/// is refused: who may do that can put something else in the place of a snapshot.
fn keeper_of(top: &Dir, shown: &str) -> Result<Dir> {
    let what = || format!("cannot open {shown}/{KEEPER}");
    match top.make_dir(KEEPER.as_bytes(), 0o700) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io(format!("cannot make {shown}/{KEEPER}"), e)),
    }
    let keeper = top.open_dir(KEEPER.as_bytes()).at(what)?;
    let stat = keeper.stat_self().at(what)?;
    match stat.uid == process::user() && stat.mode & 0o077 == 0 {
        true => Ok(keeper),
        false => {
            let text = "does not belong to this user alone: no snapshots are made there (remove it, and it is made anew)";
            Err(Error::invalid(format!("{shown}/{KEEPER} {text}")))
        }
    }
}

/// Removes the snapshots of processes that are gone. What is no subvolume is not touched.
fn remove_left(tools: &VolumeTools, keeper: &Dir) -> Result<()> {
    let listed = keeper.list().at(|| format!("cannot list {KEEPER}"))?;
    for name in (0..listed.len()).map(|at| listed.name(at)).filter(|name| WriterProcess::has_left(PREFIX, name)) {
        if !keeper.stat(name).is_ok_and(|stat| stat.kind == FileKind::Directory && stat.inode == TOP) {
            continue;
        }
        match remove(tools, keeper, name) {
            Ok(()) => tools.note(name, "a snapshot of btrfs that an ingest left which was killed: removed"),
            Err(e) => tools.warn(name, &format!("a snapshot of btrfs that an ingest left cannot be removed: {e}")),
        }
    }
    Ok(())
}

fn remove(tools: &VolumeTools, keeper: &Dir, name: &[u8]) -> Result<()> {
    let path = through(keeper).join(std::ffi::OsStr::from_bytes(name));
    let words = ["btrfs".as_ref(), "subvolume".as_ref(), "delete".as_ref(), "--".as_ref(), path.as_os_str()];
    tools.run(ToolKind::Removes, &words).map(drop)
}
