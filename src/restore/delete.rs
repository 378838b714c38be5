//! Removing: what the snapshot does not have, and what is in the way.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Directory as Model, escape};
use crate::restore::filter::{Filter, Verdict};
use crate::restore::locks;
use crate::restore::run::{Run, TEMPORARY};
use crate::restore::target::{Directory, State};
use crate::storage::leftovers::Writer;
use crate::sys::{FileKind, Listing, Stat};

fn failed(e: std::io::Error) -> Error {
    Error::io("cannot remove it", e)
}

/// Removes the entry `name` of `directory`, which is at `path` inside the snapshot, with everything below it that
/// `filter` does not exclude. Nothing on another file system and nothing forbidden is touched, nor what holds it.
pub(crate) fn remove(run: &Run<'_>, directory: &Arc<Directory>, name: &[u8], filter: Option<(&Filter, Vec<u8>)>) -> Result<()> {
    let dir = run.target.open(directory).map_err(failed)?;
    let (stat, above) = (dir.stat(name).map_err(failed)?, dir.stat_self().map_err(failed)?);
    let (filter, path) = filter.map_or((None, Vec::new()), |(filter, path)| (Some(filter), path));
    let mut removal = Removal { run, filter, path, device: above.device, stack: Vec::new() };
    if stat.kind == FileKind::Directory { removal.tree(directory, name) } else { removal.entry(directory, name, &stat) }
}

/// Removes what a restore that was killed has left in `directory`, where the process that wrote it is known to be gone. A
/// file of such a name that the snapshot has in `model` is none.
pub(crate) fn leftovers(run: &Run<'_>, directory: &Directory, model: &Model) -> Result<()> {
    let dir = run.target.open(directory).map_err(failed)?;
    let names = dir.find(|name| Writer::has_left(TEMPORARY, name)).map_err(|e| Error::io("cannot list it", e))?;
    for name in names {
        let is_file = || dir.stat(&name).is_ok_and(|stat| stat.kind != FileKind::Directory);
        if run.tree.lookup(model, &name)?.is_none() && is_file() {
            dir.remove(&name).map_err(|e| Error::io(format!("cannot remove {} from it", escape(&name)), e))?;
        }
    }
    Ok(())
}

/// A directory that is being emptied.
struct Level {
    directory: Arc<Directory>,
    listing: Listing,
    next: usize,
    path_len: usize,
    /// Something in it stays, and so does it.
    keep: bool,
}

struct Removal<'r, 'a> {
    run: &'r Run<'a>,
    filter: Option<&'r Filter>,
    path: Vec<u8>,
    device: (u32, u32),
    /// A stack of its own: how deep a tree is must not matter.
    stack: Vec<Level>,
}

impl Removal<'_, '_> {
    fn tree(&mut self, parent: &Arc<Directory>, name: &[u8]) -> Result<()> {
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

    fn enter(&mut self, parent: &Arc<Directory>, name: &[u8]) -> Result<()> {
        let directory = self.run.target.child(parent, name, State { real: true, ..State::default() }, None);
        match self.list(&directory) {
            Ok(listing) => {
                let path_len = self.path.len();
                self.stack.push(Level { directory, listing, next: 0, path_len, keep: false });
                Ok(())
            }
            Err(e) => {
                self.run.release(&directory);
                Err(e)
            }
        }
    }

    fn list(&self, directory: &Directory) -> Result<Listing> {
        let dir = self.run.target.open(directory).map_err(failed)?;
        let stat = dir.stat_self().map_err(failed)?;
        if stat.device != self.device {
            return Err(Error::invalid("not removed: another file system is mounted there"));
        }
        if self.run.target.is_forbidden(&stat) {
            return Err(Error::invalid("not removed: it is the repository"));
        }
        locks::clear_dir(self.run, &dir, &stat);
        dir.list().map_err(failed)
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
        if self.filter.is_some_and(|filter| filter.judge(&self.path, true) == Verdict::Skip) {
            level.keep = true;
            return Ok(());
        }
        let stat = self.run.target.open(&directory).and_then(|dir| dir.stat(&name)).map_err(failed)?;
        match stat.kind {
            FileKind::Directory => self.enter(&directory, &name),
            _ => self.entry(&directory, &name, &stat),
        }
    }

    /// Removes an entry that is no directory.
    fn entry(&mut self, directory: &Directory, name: &[u8], stat: &Stat) -> Result<()> {
        if !self.run.options.dry_run {
            let dir = self.run.target.open(directory).map_err(failed)?;
            let _unlocked = locks::lift(self.run, &dir, name, stat);
            dir.remove(name).map_err(failed)?;
        }
        self.run.counts.deleted.add(1);
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
        if let Some(parent) = directory.parent().filter(|_| !self.run.options.dry_run) {
            self.run.target.open(parent).and_then(|dir| dir.remove_dir(&directory.name)).map_err(failed)?;
        }
        self.run.counts.deleted.add(1);
        if let Some(parent) = directory.parent() {
            self.run.tell_removed(parent, &directory.name, FileKind::Directory, 0);
        }
        Ok(())
    }

    fn leave(&mut self) -> Option<(Arc<Directory>, bool)> {
        let level = self.stack.pop()?;
        self.run.release(&level.directory);
        Some((level.directory, level.keep))
    }
}

/// Makes way for something that is no directory where a directory is: an empty one is removed, any other only when the
/// user wants things removed.
pub(crate) fn make_way(run: &Run<'_>, directory: &Arc<Directory>, name: &[u8]) -> Result<()> {
    let dir = run.target.open(directory).map_err(failed)?;
    match dir.remove_dir(name) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => match run.options.delete {
            true => remove(run, directory, name, None),
            false => Err(Error::invalid("a directory that is not empty is in its place: remove it, or use --delete")),
        },
        Err(e) => Err(Error::io("cannot remove the directory in its place", e)),
    }
}
