//! Two entries change places: forward, and back. Each can be called again after it was cut off.

use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::restore::staged::journal::JournalPlace;
use crate::restore::staged::place::StagedPlace;

fn failed(place: &StagedPlace) -> impl Fn(io::Error) -> Error + '_ {
    |e| Error::io(format!("cannot exchange {}", place.shown(&place.name)), e)
}

/// The name beside the place under which the other entry is, once it is done.
fn aside(place: &StagedPlace, inode: u64) -> Result<Option<Vec<u8>>> {
    for name in [place.stage(), place.old()] {
        if place.inode(&name)? == Some(inode) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Gives what was restored its place.
pub(crate) fn forward(place: &StagedPlace, it: &JournalPlace, by_name: bool) -> Result<()> {
    if by_name {
        return forward_by_name(place, it).map_err(failed(place));
    }
    turn(place, it, it.there.then_some(it.old), Some(it.new))
}

/// Gives what was there its place again.
pub(crate) fn back(place: &StagedPlace, it: &JournalPlace, by_name: bool) -> Result<()> {
    if by_name {
        return back_by_name(place, it).map_err(failed(place));
    }
    turn(place, it, Some(it.new), it.there.then_some(it.old))
}

/// Replaces the inode `from` at the place by the inode `to`, which is beside it; `None` is nothing.
fn turn(place: &StagedPlace, it: &JournalPlace, from: Option<u64>, to: Option<u64>) -> Result<()> {
    let now = place.inode(&place.name)?;
    if now == to {
        return Ok(());
    }
    let other = if now == from { aside(place, to.unwrap_or(it.new))? } else { None };
    let lost = || {
        let shown = place.shown(&place.name);
        let text = format!("{shown} was moved or replaced by something else meanwhile: see {}", place.shown(&place.journal()));
        Error::new(ErrorKind::Io, text)
    };
    let done = match (from, to, other) {
        (Some(_), Some(_), Some(other)) => place.dir.exchange(&other, &place.name),
        (None, Some(_), Some(other)) => place.dir.rename_new_to(&other, &place.dir, &place.name),
        (Some(_), None, None) if now == from => place.dir.rename_new_to(&place.name, &place.dir, &place.stage()),
        _ => return Err(lost()),
    };
    done.map_err(failed(place))
}

fn is_there(place: &StagedPlace, name: &[u8]) -> io::Result<bool> {
    match place.dir.stat(name) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// What was there goes to its name beside; then what was restored takes the place. Durable step by step: the names are
/// all that tells how far it is.
fn forward_by_name(place: &StagedPlace, it: &JournalPlace) -> io::Result<()> {
    let (stage, old) = (place.stage(), place.old());
    if !is_there(place, &stage)? {
        return Ok(());
    }
    if it.there && !is_there(place, &old)? {
        place.dir.rename_new_to(&place.name, &place.dir, &old)?;
        place.dir.sync()?;
    }
    place.dir.rename_new_to(&stage, &place.dir, &place.name)?;
    place.dir.sync()
}

/// The same the other way.
fn back_by_name(place: &StagedPlace, it: &JournalPlace) -> io::Result<()> {
    let (stage, old) = (place.stage(), place.old());
    let to_do = if it.there { is_there(place, &old)? } else { !is_there(place, &stage)? };
    if !to_do {
        return Ok(());
    }
    if !is_there(place, &stage)? && is_there(place, &place.name)? {
        place.dir.rename_new_to(&place.name, &place.dir, &stage)?;
        place.dir.sync()?;
    }
    if it.there {
        place.dir.rename_new_to(&old, &place.dir, &place.name)?;
        place.dir.sync()?;
    }
    Ok(())
}
