//! Removing: what the snapshot does not have, and what is in the way.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Directory as Model, escape};
use crate::restore::filter::{FilterVerdict, PathFilter};
use crate::restore::locks;
use crate::restore::run::{RestoreRun, TEMPORARY};
use crate::restore::spare::{Spare, Why};
use crate::restore::target::{DirectoryState, TargetDirectory};
use crate::storage::leftovers::WriterProcess;
use crate::sys::{FileKind, Listing, Stat};

fn failed(e: std::io::Error) -> Error {
    Error::io("cannot remove it", e)
}

/// What bounds a removal.
pub(crate) struct Scope<'s> {
    /// Entries that this excludes stay.
    pub(crate) filter: Option<&'s PathFilter>,
    /// So do entries that the snapshot could not have had.
    pub(crate) spare: &'s Spare,
    /// The path inside the snapshot of the entry that goes.
    pub(crate) path: Vec<u8>,
}

/// Removes the entry `name` of `directory`, with everything below it that `scope` lets go. What stays keeps the
/// directories that it is in. Answers whether all of it went.
pub(crate) fn remove(run: &RestoreRun<'_>, directory: &Arc<TargetDirectory>, name: &[u8], scope: Scope<'_>) -> Result<bool> {
    let dir = run.target.open(directory).map_err(failed)?;
    let (stat, above) = (dir.stat(name).map_err(failed)?, dir.stat_self().map_err(failed)?);
    let Scope { filter, spare, path } = scope;
    let mut removal = Removal { run, filter, spare, path, device: above.device, stack: Vec::new(), kept: false };
    if removal.stays(directory, name, &stat) {
        return Ok(false);
    }
    let removed = match stat.kind {
        FileKind::Directory => removal.tree(directory, name),
        _ => removal.entry(directory, name, &stat),
    };
    removed.map(|()| !removal.kept)
}

/// Removes what a restore that was killed has left in `directory`, where the process that wrote it is known to be gone. A
/// file of such a name that the snapshot has in `model` is none.
pub(crate) fn leftovers(run: &RestoreRun<'_>, directory: &TargetDirectory, model: &Model) -> Result<()> {
    let dir = run.target.open(directory).map_err(failed)?;
    let names = dir.find(|name| WriterProcess::has_left(TEMPORARY, name)).map_err(|e| Error::io("cannot list it", e))?;
    for name in names {
        let is_file = || dir.stat(&name).is_ok_and(|stat| stat.kind != FileKind::Directory);
        if run.tree.lookup(model, &name)?.is_none() && is_file() {
            dir.remove(&name).map_err(|e| Error::io(format!("cannot remove {} from it", escape(&name)), e))?;
        }
    }
    Ok(())
}

/// A directory that is being emptied.
struct DeleteLevel {
    directory: Arc<TargetDirectory>,
    listing: Listing,
    next: usize,
    path_len: usize,
    /// Something in it stays, and so does it.
    keep: bool,
}

struct Removal<'r, 'a> {
    run: &'r RestoreRun<'a>,
    filter: Option<&'r PathFilter>,
    spare: &'r Spare,
    path: Vec<u8>,
    device: (u32, u32),
    /// Something stays.
    kept: bool,
    /// A stack of its own: how deep a tree is must not matter.
    stack: Vec<DeleteLevel>,
}

impl Removal<'_, '_> {
    fn tree(&mut self, parent: &Arc<TargetDirectory>, name: &[u8]) -> Result<()> {
        self.enter(parent, name)?;
        let mut result = Ok(());
        while !self.stack.is_empty() {
            if result.is_ok() && !self.run.stopped() {
                result = self.step();
            } else {
                self.leave();
            }
        }
        result
    }

    /// Whether the entry at the current path stays; then it is counted.
    fn stays(&mut self, directory: &TargetDirectory, name: &[u8], stat: &Stat) -> bool {
        let forbidden = self.run.target.is_forbidden(stat);
        let why = if forbidden { Some(Why::Forbidden) } else { self.spare.entry(&self.path, stat, self.device) };
        if let Some(why) = why {
            self.run.spared(why, directory, name, stat.kind);
            self.kept = true;
        }
        why.is_some()
    }

    fn enter(&mut self, parent: &Arc<TargetDirectory>, name: &[u8]) -> Result<()> {
        let directory = self.run.target.child(parent, name, DirectoryState { real: true, ..DirectoryState::default() }, None);
        match self.list(&directory) {
            Ok((mut listing, marked)) => {
                let path_len = self.path.len();
                if marked {
                    self.run.spared(Why::Excluded, &directory, b"", FileKind::Directory);
                    (listing, self.kept) = (Listing::default(), true);
                }
                self.stack.push(DeleteLevel { directory, listing, next: 0, path_len, keep: marked });
                Ok(())
            }
            Err(e) => {
                self.run.release(&directory);
                Err(e)
            }
        }
    }

    /// What is in a directory, and whether its content stays for what a file in it says.
    fn list(&self, directory: &TargetDirectory) -> Result<(Listing, bool)> {
        let dir = self.run.target.open(directory).map_err(failed)?;
        let marked = self.spare.is_marked(&dir);
        if !marked {
            locks::clear_dir(self.run, &dir, &dir.stat_self().map_err(failed)?);
        }
        Ok((dir.list().map_err(failed)?, marked))
    }

    /// Deals with the next entry of the innermost directory, or with itself when it has no more.
    fn step(&mut self) -> Result<()> {
        let Some(level) = self.stack.last_mut() else { return Ok(()) };
        self.path.truncate(level.path_len);
        if level.next == level.listing.len() {
            return self.remove_emptied();
        }
        let (directory, name) = (level.directory.clone(), level.listing.name(level.next).to_vec());
        level.next += 1;
        self.path.push(b'/');
        self.path.extend_from_slice(&name);
        if self.filter.is_some_and(|filter| filter.judge(&self.path, true) == FilterVerdict::Skip) {
            (level.keep, self.kept) = (true, true);
            return Ok(());
        }
        let stat = self.run.target.open(&directory).and_then(|dir| dir.stat(&name)).map_err(failed)?;
        if self.stays(&directory, &name, &stat) {
            if let Some(level) = self.stack.last_mut() {
                level.keep = true;
            }
            return Ok(());
        }
        match stat.kind {
            FileKind::Directory => self.enter(&directory, &name),
            _ => self.entry(&directory, &name, &stat),
        }
    }

    /// Removes an entry that is no directory.
    fn entry(&mut self, directory: &TargetDirectory, name: &[u8], stat: &Stat) -> Result<()> {
        self.run.may_delete()?;
        if !self.run.options.dry_run {
            let dir = self.run.target.open(directory).map_err(failed)?;
            let _unlocked = locks::lift(self.run, &dir, name, stat);
            dir.remove(name).map_err(failed)?;
        }
        self.run.deleted(directory, name);
        self.run.tell_removed(directory, name, stat.kind, stat.size);
        Ok(())
    }

    /// Removes the innermost directory, which is empty unless something in it stays.
    fn remove_emptied(&mut self) -> Result<()> {
        let Some((directory, keep)) = self.leave() else { return Ok(()) };
        if keep {
            if let Some(above) = self.stack.last_mut() {
                above.keep = true;
            }
            return Ok(());
        }
        self.run.may_delete()?;
        if let Some(parent) = directory.parent().filter(|_| !self.run.options.dry_run) {
            self.run.target.open(parent).and_then(|dir| dir.remove_dir(&directory.name)).map_err(failed)?;
        }
        self.run.deleted(&directory, b"");
        if let Some(parent) = directory.parent() {
            self.run.tell_removed(parent, &directory.name, FileKind::Directory, 0);
        }
        Ok(())
    }

    fn leave(&mut self) -> Option<(Arc<TargetDirectory>, bool)> {
        let level = self.stack.pop()?;
        self.run.release(&level.directory);
        Some((level.directory, level.keep))
    }
}

/// Makes way for an entry of source `source` that is no directory where a directory is: an empty one is removed, any other
/// only when the user wants things removed.
pub(crate) fn make_way(run: &RestoreRun<'_>, directory: &Arc<TargetDirectory>, name: &[u8], source: usize) -> Result<()> {
    let dir = run.target.open(directory).map_err(failed)?;
    let in_place = |e| Error::io("cannot remove the directory in its place", e);
    if run.options.dry_run {
        if dir.open_dir(name).and_then(|dir| dir.list_once()).map_err(in_place)?.is_empty() {
            return Ok(());
        }
    } else {
        match dir.remove_dir(name) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) => return Err(in_place(e)),
        }
    }
    if !run.options.delete {
        return Err(Error::invalid("a directory that is not empty is in its place: remove it, or use --delete"));
    }
    let path = run.snapshot_path(source, directory, name);
    match remove(run, directory, name, Scope { filter: None, spare: run.spare(source), path })? {
        true => Ok(()),
        false => Err(Error::invalid("the directory in its place holds what --delete leaves alone: move it away")),
    }
}
