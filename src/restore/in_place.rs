//! Writing into files that are there: only what differs, and no room for a second copy. A restore that is killed leaves
//! such a file partly old and partly new; its time says that it changed, so the next restore goes on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::model::Content;
use crate::restore::job::{RestoreJob, WriteMethod};
use crate::restore::local::FilePiece;
use crate::restore::locks;
use crate::restore::metadata::{self, Object, WantedMetadata};
use crate::sys::{Dir, FileKind, Stat, dir, xattr};

/// Zeros that are written at once where no hole can be made.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What a dry run finds of a file whose content is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adopted {
    Unchanged,
    Metadata,
    /// It is made anew: the file that is there has other names.
    Never,
}

/// Whether the file that is there may be written to: one that has no other names.
pub(crate) fn way(run: &crate::restore::run::RestoreRun<'_>, there: Option<&Stat>, local: bool) -> WriteMethod {
    let may = run.options.in_place && local && there.is_some_and(|stat| stat.kind == FileKind::File && stat.links == 1);
    if may { WriteMethod::MaybeInPlace } else { WriteMethod::New }
}

impl RestoreJob<'_, '_> {
    /// Opens the file that is there for writing, if it still is the one that was looked at.
    pub(crate) fn open_there(&self, dir: &Dir) -> io::Result<File> {
        let file = dir.open_for_writing(&self.node.name)?;
        let (now, then) = (dir::stat(&file)?, self.there);
        match then.is_some_and(|then| (then.device, then.inode, 1) == (now.device, now.inode, now.links)) {
            true => Ok(file),
            false => Err(io::Error::other("it was replaced meanwhile")),
        }
    }

    /// Before the first byte of the file that is there is changed. False when a new file must be made instead: it cannot
    /// be written to (a program that runs), or would show what only others may read.
    pub(crate) fn begin_in_place(&self) -> Result<bool> {
        if self.state().way != WriteMethod::MaybeInPlace {
            return Ok(self.state().way == WriteMethod::InPlace);
        }
        let wanted = WantedMetadata::of(self.run, self.source, &self.node)?;
        let dir = self.dir()?;
        if let Some(there) = &self.there {
            locks::clear(self.run, &dir, &self.node.name, there);
        }
        let opened = self.open_there(&dir);
        let begun = opened.is_ok_and(|file| self.there.is_some_and(|there| metadata::narrow(&file, &there, &wanted).is_ok()));
        self.state().way = if begun { WriteMethod::InPlace } else { WriteMethod::New };
        Ok(begun)
    }

    /// Makes a hole in the file that is there.
    pub(crate) fn punch(&self, piece: &FilePiece) -> Result<()> {
        let file = {
            let mut state = self.state();
            self.file(&mut state)?
        };
        let failed = |e| Error::io("cannot write it", e);
        if dir::punch_hole(&*file, piece.offset, piece.len).is_ok() {
            return Ok(());
        }
        let end = (piece.offset + piece.len).min(dir::stat(&*file).map_err(failed)?.size);
        let mut at = piece.offset;
        while at < end {
            let len = (end - at).min(ZEROS.len() as u64);
            file.write_all_at(&ZEROS[..len as usize], at).map_err(failed)?;
            at += len;
        }
        Ok(())
    }

    /// The file that is there has its content: gives it its size and metadata.
    pub(crate) fn complete_in_place(&self, wanted: &WantedMetadata) -> Result<()> {
        let file = {
            let mut state = self.state();
            self.file(&mut state)?
        };
        let size = self.content().map_or(0, Content::size);
        file.set_len(size).map_err(|e| Error::io("cannot set its size", e))?;
        if self.run.options.verify {
            self.verify(&file)?;
        }
        let (object, failed) = (Object::File(&file), |e| Error::io("cannot set its metadata", e));
        metadata::apply(self.run, self.place(), object, wanted, false).map_err(failed)?;
        if let Some(first) = &self.first {
            first.complete(&dir::stat(&*file).map_err(failed)?);
        }
        metadata::apply_flags(self.run, self.place(), object, wanted);
        self.run.counts.files.add(1);
        self.tell_made();
        Ok(())
    }

    /// What a run would do with a file that was found right.
    pub(crate) fn adopted(&self) -> Result<Adopted> {
        let (Some(there), wanted) = (self.there, WantedMetadata::of(self.run, self.source, &self.node)?) else {
            return Ok(Adopted::Never);
        };
        if there.links > 1 && !self.run.claim(&there)? {
            return Ok(Adopted::Never);
        }
        let xattrs = self
            .dir()
            .and_then(|dir| xattr::list_at(&dir, &self.node.name).map_err(|e| Error::io("cannot look at what is there", e)))?;
        Ok(match wanted.is_met(&there, &xattrs) {
            true => Adopted::Unchanged,
            false if there.links > 1 => Adopted::Never,
            false => Adopted::Metadata,
        })
    }
}
