//! A place that a staged restore is for: the directory that it is in, and the names beside it.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::model::escape;
use crate::restore::leads;
use crate::restore::shown;
use crate::sys::{Dir, FileKind, dir, mount, process};

/// Names up to this long are part of the names beside them; longer ones are cut, and a hash stands for the rest.
const LONGEST: usize = 200;

/// A place, open.
#[derive(Debug)]
pub(crate) struct StagedPlace {
    /// The directory that it is in, without links.
    pub(crate) parent: PathBuf,
    /// The same, open.
    pub(crate) dir: Dir,
    /// Its name.
    pub(crate) name: Vec<u8>,
}

impl StagedPlace {
    /// Opens the place at an absolute path. `None` where the directory is not there that it would be in.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::invalid(format!(
                "{} cannot be exchanged for another directory: restore to a directory in it, or without --staged",
                shown(path)
            )));
        };
        let opened = open_trusted(parent)?;
        Ok(opened.map(|(parent, dir)| StagedPlace { parent, dir, name: name.as_bytes().to_vec() }))
    }

    /// Its path.
    pub(crate) fn path(&self) -> PathBuf {
        self.beside(&self.name)
    }

    /// The path of something beside it.
    pub(crate) fn beside(&self, name: &[u8]) -> PathBuf {
        self.parent.join(std::ffi::OsString::from_vec(name.to_vec()))
    }

    /// The path of something beside it, for messages.
    pub(crate) fn shown(&self, name: &[u8]) -> String {
        shown(&self.beside(name))
    }

    fn named(&self, kind: &str) -> Vec<u8> {
        let mut out = format!(".yester-{kind}-").into_bytes();
        match self.name.get(..LONGEST).filter(|_| self.name.len() > LONGEST) {
            None => out.extend_from_slice(&self.name),
            Some(first) => {
                out.extend_from_slice(first);
                let hash = blake3::hash(&self.name).to_hex();
                out.push(b'-');
                out.extend_from_slice(hash.as_bytes().get(..16).unwrap_or_default());
            }
        }
        out
    }

    /// What is restored, until it has its place; after it was taken back, too.
    pub(crate) fn stage(&self) -> Vec<u8> {
        self.named("stage")
    }

    /// The directory in which a file is restored before it becomes the stage.
    pub(crate) fn making(&self) -> Vec<u8> {
        self.named("making")
    }

    /// What was there.
    pub(crate) fn old(&self) -> Vec<u8> {
        self.named("old")
    }

    /// The journal, or a pointer to it.
    pub(crate) fn journal(&self) -> Vec<u8> {
        self.named("journal")
    }

    /// The inode of an entry beside it; `None` where there is none.
    pub(crate) fn inode(&self, name: &[u8]) -> Result<Option<u64>> {
        match self.dir.stat(name) {
            Ok(stat) => Ok(Some(stat.inode)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot look at {}", self.shown(name)), e)),
        }
    }

    /// Refuses what cannot change places: what is, or holds, a mount, and what holds something of `forbidden`.
    pub(crate) fn may_move(&self, forbidden: &[PathBuf]) -> Result<()> {
        let path = self.path();
        let table = mount::table().map_err(|e| Error::io("cannot read the table of mounts", e))?;
        if let Some(inside) = table.iter().find(|mount| mount.point.starts_with(&path)) {
            let text = match inside.point == path {
                true => format!(
                    "{} is a file system of its own, and what is beside it is on another: a staged restore exchanges only what is \
                     on one file system; restore to a directory in it, or without --staged",
                    shown(&path)
                ),
                false => format!(
                    "something is mounted on {}, in what would be exchanged: unmount it, or restore without --staged",
                    shown(&inside.point)
                ),
            };
            return Err(Error::new(ErrorKind::Io, text));
        }
        let forbidden = forbidden.iter().filter_map(|place| place.canonicalize().ok());
        if let Some(inside) = forbidden.into_iter().find(|place| place.starts_with(&path)) {
            let text = format!(
                "{} is in {}, and would go away with what is there now: restore without --staged",
                shown(&inside),
                shown(&path)
            );
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    /// Whether the file system exchanges two entries, and they keep their inodes: tried with two directories.
    pub(crate) fn exchanges(&self) -> Result<bool> {
        let (one, other) = (self.stage(), self.making());
        let failed = |e| Error::io(format!("cannot make a directory in {}", shown(&self.parent)), e);
        let own = self.dir.stat_self().map_err(failed)?.device;
        if self.dir.stat(&self.name).is_ok_and(|there| there.device != own) {
            // A subvolume, which is exchanged for nothing but another one.
            return Ok(false);
        }
        self.dir.make_dir(&one, 0o700).and_then(|()| self.dir.make_dir(&other, 0o700)).map_err(failed)?;
        let before = (self.inode(&one)?, self.inode(&other)?);
        let exchanged = self.dir.exchange(&one, &other).is_ok();
        let after = (self.inode(&other)?, self.inode(&one)?);
        self.dir.remove_dir(&one).and_then(|()| self.dir.remove_dir(&other)).map_err(failed)?;
        Ok(exchanged && before == after && before.0 != before.1)
    }
}

/// Opens a directory, and answers its path without links. A link on the way is followed only if nobody else can have
/// made it to lead somewhere.
fn open_trusted(path: &Path) -> Result<Option<(PathBuf, Dir)>> {
    let failed = |e| Error::io(format!("cannot open {}", shown(path)), e);
    let mut at = Dir::open(Path::new("/")).map_err(failed)?;
    for name in path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        let there = match at.stat(name) {
            Ok(there) => there,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        at = match there.kind {
            FileKind::Symlink => {
                let opened = at.open_dir_following(name).map_err(failed)?;
                if !leads::may_follow(process::user(), &there, &opened.stat_self().map_err(failed)?) {
                    let text = format!("{}: {} is a link of another user, which may be a trap", shown(path), escape(name));
                    return Err(Error::invalid(text));
                }
                opened
            }
            _ => at.open_dir(name).map_err(failed)?,
        };
    }
    let real = path.canonicalize().map_err(failed)?;
    let stat = at.stat_self().map_err(failed)?;
    let same = std::fs::metadata(&real).is_ok_and(|found| {
        let (inode, device) = (std::os::unix::fs::MetadataExt::ino(&found), std::os::unix::fs::MetadataExt::dev(&found));
        (inode, device) == (stat.inode, dir::device_number(stat.device))
    });
    match same {
        true => Ok(Some((real, at))),
        false => Err(Error::new(ErrorKind::Busy, format!("{} was replaced just now: try again", shown(path)))),
    }
}
