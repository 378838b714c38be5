//! Removing: what the snapshot does not have, and what is in the way.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::restore::run::Run;
use crate::restore::target::{Directory, State};
use crate::sys::{FileKind, Listing};

/// Removes the entry `name` of `directory` with everything below it. Nothing on another file system and nothing
/// forbidden is touched, nor what holds it.
pub(crate) fn remove(run: &Run<'_>, directory: &Arc<Directory>, name: &[u8]) -> Result<()> {
    let dir = run.target.open(directory).map_err(failed)?;
    let stat = dir.stat(name).map_err(failed)?;
    if stat.kind != FileKind::Directory {
        if !run.options.dry_run {
            dir.remove(name).map_err(failed)?;
        }
        run.counts.deleted.add(1);
        return Ok(());
    }
    remove_tree(run, directory, name, stat.device)
}

fn failed(e: std::io::Error) -> Error {
    Error::io("cannot remove it", e)
}

struct Level {
    directory: Arc<Directory>,
    listing: Listing,
    next: usize,
}

/// Goes down with a stack of its own: how deep a tree is must not matter.
fn remove_tree(run: &Run<'_>, parent: &Arc<Directory>, name: &[u8], device: (u32, u32)) -> Result<()> {
    let enter = |parent: &Arc<Directory>, name: &[u8]| -> Result<Level> {
        let directory = run.target.child(parent, name, State { real: true, ..State::default() }, None);
        let opened = run.target.open(&directory).map_err(failed).and_then(|dir| {
            let stat = dir.stat_self().map_err(failed)?;
            if stat.device != device {
                return Err(Error::invalid("not removed: another file system is mounted there"));
            }
            if run.target.is_forbidden(&stat) {
                return Err(Error::invalid("not removed: it is the repository"));
            }
            dir.list().map_err(failed)
        });
        match opened {
            Ok(listing) => Ok(Level { directory, listing, next: 0 }),
            Err(e) => {
                run.release(&directory);
                Err(e)
            }
        }
    };
    let mut stack = vec![enter(parent, name)?];
    let mut result = Ok(());
    while let Some(level) = stack.last_mut() {
        if run.stopped() || result.is_err() {
            leave(run, &mut stack);
            continue;
        }
        if level.next < level.listing.len() {
            let name = level.listing.name(level.next).to_vec();
            level.next += 1;
            result = remove_entry(run, &level.directory, &name)
                .and_then(|below| match below {
                    true => enter(&level.directory, &name).map(Some),
                    false => Ok(None),
                })
                .map(|below| stack.extend(below));
        } else {
            let directory = level.directory.clone();
            leave(run, &mut stack);
            if let Some(parent) = directory.parent().filter(|_| !run.options.dry_run) {
                result = run.target.open(parent).and_then(|dir| dir.remove_dir(&directory.name)).map_err(failed);
            }
            run.counts.deleted.add(u64::from(result.is_ok()));
        }
    }
    result
}

fn leave(run: &Run<'_>, stack: &mut Vec<Level>) {
    if let Some(level) = stack.pop() {
        run.release(&level.directory);
    }
}

/// Removes an entry that is no directory; true when it is one.
fn remove_entry(run: &Run<'_>, directory: &Arc<Directory>, name: &[u8]) -> Result<bool> {
    let dir = run.target.open(directory).map_err(failed)?;
    if dir.stat(name).map_err(failed)?.kind == FileKind::Directory {
        return Ok(true);
    }
    if !run.options.dry_run {
        dir.remove(name).map_err(failed)?;
    }
    run.counts.deleted.add(1);
    Ok(false)
}

/// Makes way for something that is no directory where a directory is: an empty one is removed, any other only when the
/// user wants things removed.
pub(crate) fn make_way(run: &Run<'_>, directory: &Arc<Directory>, name: &[u8]) -> Result<()> {
    let dir = run.target.open(directory).map_err(failed)?;
    match dir.remove_dir(name) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => match run.options.delete {
            true => remove(run, directory, name),
            false => Err(Error::invalid("a directory that is not empty is in its place: remove it, or use --delete")),
        },
        Err(e) => Err(Error::io("cannot remove the directory in its place", e)),
    }
}
