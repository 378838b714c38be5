//! Names that a file system does not tell apart: `Makefile` and `makefile` where case is folded, or two spellings of one
//! letter. An entry must not take the name of another one of the same restore.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::model::escape;
use crate::restore::run::RestoreRun;
use crate::restore::target::TargetDirectory;
use crate::sys::{Dir, Listing, Stat};

/// Under which other name the entry is listed that was found as `name`; `None` when it is listed as that. `known` is what
/// was listed before, if anything was, and is listed again only where it does not have the name.
pub(crate) fn other_spelling(dir: &Dir, name: &[u8], found: &Stat, known: &mut Option<Listing>) -> io::Result<Option<Vec<u8>>> {
    if known.as_ref().is_some_and(|listing| listing.contains(name)) {
        return Ok(None);
    }
    let listing = known.insert(dir.list()?);
    if listing.contains(name) {
        return Ok(None);
    }
    let same =
        |at: &usize| dir.stat(listing.name(*at)).is_ok_and(|stat| (stat.device, stat.inode) == (found.device, found.inode));
    Ok((0..listing.len()).find(same).map(|at| listing.name(at).to_vec()))
}

/// The error of an entry whose name is another one's, too.
pub(crate) fn taken(other: &[u8]) -> Error {
    let text = format!(
        "its name is taken by {}, another entry of this restore: the file system there does not tell the two names apart; \
         restore one of them to another place",
        escape(other)
    );
    Error::invalid(text)
}

/// The error of an entry whose name was free, and is taken now.
pub(crate) fn taken_meanwhile(dir: &Dir, name: &[u8]) -> Error {
    let other = dir.stat(name).and_then(|stat| other_spelling(dir, name, &stat, &mut None));
    match other {
        Ok(Some(other)) => taken(&other),
        _ => Error::invalid("something of this name appeared meanwhile: it is left alone; restore again"),
    }
}

/// Gives the entry `temporary` the name `name`, which was free when it was looked for.
pub(crate) fn put_new(run: &RestoreRun<'_>, directory: &Arc<TargetDirectory>, temporary: &[u8], name: &[u8]) -> Result<()> {
    let dir = run.target.open(directory).map_err(|e| Error::io("cannot open its directory", e))?;
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists => taken_meanwhile(&dir, name),
        _ => Error::io("cannot give it its name", e),
    };
    if !run.renames_blindly.load(Ordering::Relaxed) {
        match dir.rename_new(temporary, name) {
            Err(e) if is_unknown(&e) => run.renames_blindly.store(true, Ordering::Relaxed),
            done => return done.map_err(failed),
        }
    }
    // This file system renames only over what is there: two entries of this run must not both find nothing.
    let _one = run.naming.lock();
    match dir.stat(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => dir.rename(temporary, name).map_err(failed),
        Err(e) => Err(failed(e)),
        Ok(_) => Err(taken_meanwhile(&dir, name)),
    }
}

/// Whether a file system does not know how to rename without replacing.
fn is_unknown(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}
