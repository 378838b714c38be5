//! Staged restores: beside what is there, verified, and exchanged for it.
//!
//! What is restored is written to a directory beside each place, on the same file system. When all of it is there, read
//! back and durable, it takes its places: one rename a place, in which the two entries are exchanged. What was there is
//! kept beside until somebody discards it, and takes its places again if somebody wants that.
//!
//! A journal beside the first place tells how far this is (`journal`). Whatever moment a process dies at, the next one
//! finishes what was begun: before the first exchange by removing what was written, after that by going on. Several
//! places are one: all have the new state in the end, or none has.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Node, Owners, SnapshotId, escape};
use crate::observe::{Event, Observer};
use crate::restore::owners::OwnerMap;
use crate::restore::shown;
use crate::sys::{Dir, dir, lock};

pub mod all;
pub(crate) mod journal;
pub(crate) mod place;
pub(crate) mod remove;
pub(crate) mod swap;

pub use journal::StagedPhase;

use journal::{JournalFile, JournalPlace, StagedJournal, quote, unquote};
use place::StagedPlace;

/// One place that a staged restore is for.
#[derive(Debug, Clone)]
pub struct StagedTarget {
    /// Where it is: absolute.
    pub(crate) path: PathBuf,
    /// What is restored there is a directory, and no file or link.
    pub(crate) directory: bool,
    /// The directories that lead to it in the snapshot, the root first, for those that must be made.
    pub(crate) above: Vec<Node>,
}

/// A staged restore: one under way, or one that is kept.
#[derive(Debug)]
pub struct Staged {
    journal: StagedJournal,
    places: Vec<StagedPlace>,
    /// Nobody else exchanges anything in these directories meanwhile.
    _locks: Vec<Dir>,
}

impl Staged {
    /// How far it is.
    pub fn phase(&self) -> StagedPhase {
        self.journal.phase
    }

    /// Whether it is of this snapshot and this set (empty: of none).
    pub(crate) fn is_of(&self, snapshot: SnapshotId, set: &[u8]) -> bool {
        self.journal.snapshot == snapshot.to_string() && self.journal.set == quote(set)
    }

    /// Whether commands belong to it: it is of a set.
    pub fn has_commands(&self) -> bool {
        !self.journal.set.is_empty()
    }

    /// The snapshot that it restores, as text.
    pub(crate) fn snapshot(&self) -> &str {
        &self.journal.snapshot
    }

    /// Its places.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.places.iter().map(StagedPlace::path).collect()
    }

    /// What is kept beside its places.
    pub fn kept(&self) -> Vec<PathBuf> {
        let mut out = Vec::new();
        for place in &self.places {
            let names = [place.old(), place.stage()].into_iter();
            out.extend(names.filter(|name| place.inode(name).is_ok_and(|inode| inode.is_some())).map(|name| place.beside(&name)));
        }
        out
    }

    /// Those that these absolute paths are places of.
    pub fn find(paths: &[PathBuf]) -> Result<Vec<Staged>> {
        let mut found: Vec<Staged> = Vec::new();
        for path in paths.iter().filter(|path| path.parent().is_some()) {
            let Some(place) = StagedPlace::open(path)? else { continue };
            let Some(journal) = of(&place)? else {
                // One that was cut off at its very beginning.
                if let Ok(Some(_held)) = lock::try_lock(&place.dir) {
                    journal::forget_new(&place);
                }
                continue;
            };
            if !found.iter().any(|staged| staged.journal.id == journal.id) {
                found.push(Staged::open(journal)?);
            }
        }
        Ok(found)
    }

    /// Whether something is kept beside a place from an earlier one; an error if it could not be exchanged.
    pub(crate) fn look(target: &StagedTarget, forbidden: &[PathBuf]) -> Result<bool> {
        let Some(place) = StagedPlace::open(&target.path)? else { return Ok(false) };
        place.may_move(forbidden)?;
        of(&place).map(|journal| journal.is_some())
    }

    fn open(journal: StagedJournal) -> Result<Staged> {
        let mut places = Vec::new();
        for it in &journal.places {
            let path = it.path();
            let gone = || Error::new(ErrorKind::NotFound, format!("{} is gone, with what was kept in it", shown(&path)));
            places.push(StagedPlace::open(&path)?.ok_or_else(gone)?);
        }
        let _locks = locked(&places)?;
        // It may have been finished while the lock was not held.
        let now = places.first().map(of).transpose()?.flatten();
        match now {
            Some(now) if now.id == journal.id => Ok(Staged { journal: now, places, _locks }),
            _ => Err(Error::new(ErrorKind::Busy, "another restore of the same place was finished just now: try again")),
        }
    }

    /// Begins one: writes the journal, and answers where each place is restored to ([`Staged::stages`]). Nothing may be
    /// kept there from an earlier one. `forbidden` must not go away with what is there.
    pub(crate) fn begin(
        targets: &[StagedTarget],
        snapshot: SnapshotId,
        set: &[u8],
        owners: &Owners,
        forbidden: &[PathBuf],
    ) -> Result<Staged> {
        let mut places = Vec::new();
        for target in targets {
            make_parents(target, owners)?;
            let gone = || Error::new(ErrorKind::NotFound, format!("{} cannot be reached", shown(&target.path)));
            let place = StagedPlace::open(&target.path)?.ok_or_else(gone)?;
            place.may_move(forbidden)?;
            places.push(place);
        }
        let _locks = locked(&places)?;
        let mut said = Vec::new();
        for place in &places {
            if of(place)?.is_some() {
                let text = "something is kept there from an earlier staged restore: take that back with --rollback, or remove what \
                            is kept with --discard-old";
                return Err(Error::new(ErrorKind::Exists, format!("{}: {text}", shown(&place.path()))));
            }
            for name in [place.stage(), place.old(), place.making()] {
                if place.inode(&name)?.is_some() {
                    let text =
                        format!("{} is there, and no journal tells what it is: move it away, or remove it", place.shown(&name));
                    return Err(Error::new(ErrorKind::Exists, text));
                }
            }
            let old = place.inode(&place.name)?;
            said.push(JournalPlace {
                parent: quote(path_bytes(&place.parent)),
                name: quote(&place.name),
                there: old.is_some(),
                old: old.unwrap_or(0),
                new: 0,
            });
        }
        let mut staged = Staged { journal: StagedJournal::new(snapshot.to_string(), set, said)?, places, _locks };
        staged.write()?;
        for place in staged.places.iter().skip(1) {
            journal::write(place, &staged.journal.pointer())?;
        }
        for place in &staged.places {
            staged.journal.by_name |= !place.exchanges()?;
        }
        for (place, target) in staged.places.iter().zip(targets) {
            let name = if target.directory { place.stage() } else { place.making() };
            place.dir.make_dir(&name, 0o700).map_err(|e| Error::io(format!("cannot make {}", place.shown(&name)), e))?;
        }
        Ok(staged)
    }

    /// The directories to restore to, one a place: of a directory its content, of anything else the entry under its name.
    pub(crate) fn stages(&self) -> Vec<PathBuf> {
        let stage = |place: &StagedPlace| {
            let making = place.making();
            let name = if place.inode(&making).is_ok_and(|inode| inode.is_some()) { making } else { place.stage() };
            place.beside(&name)
        };
        self.places.iter().map(stage).collect()
    }

    fn write(&self) -> Result<()> {
        match self.places.first() {
            Some(first) => journal::write(first, &JournalFile::Journal(self.journal.clone())),
            None => Ok(()),
        }
    }

    fn enter(&mut self, phase: StagedPhase) -> Result<()> {
        self.journal.phase = phase;
        self.write()
    }

    /// Gives all that was restored, which must be durable, its places; all or none. When this fails, nothing of it is left.
    pub fn exchange(&mut self) -> Result<()> {
        for (place, it) in self.places.iter().zip(&mut self.journal.places) {
            let (stage, making) = (place.stage(), place.making());
            let failed = |e| Error::io(format!("cannot take {} to its place", place.shown(&stage)), e);
            if place.inode(&making)?.is_some() {
                let from = place.dir.open_dir(&making).map_err(failed)?;
                from.rename_new_to(&place.name, &place.dir, &stage).map_err(failed)?;
                place.dir.remove_dir(&making).map_err(failed)?;
            }
            it.new = place.inode(&stage)?.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
            let now = place.inode(&place.name)?;
            if now != it.there.then_some(it.old) {
                return Err(Error::new(ErrorKind::Busy, format!("{} was replaced meanwhile: try again", shown(&place.path()))));
            }
            place.dir.sync().map_err(failed)?;
        }
        self.enter(StagedPhase::Exchanging)?;
        if let Err(e) = self.go_on() {
            // What cannot be taken to its place keeps none of the others there.
            self.enter(StagedPhase::Returning)?;
            self.all(swap::back)?;
            self.enter(StagedPhase::Staging)?;
            self.remove()?;
            return Err(e.context("nothing was exchanged"));
        }
        Ok(())
    }

    /// Goes on with exchanging.
    fn go_on(&mut self) -> Result<()> {
        self.all(swap::forward)?;
        self.enter(StagedPhase::Exchanged)
    }

    fn all(&self, act: fn(&StagedPlace, &JournalPlace, bool) -> Result<()>) -> Result<()> {
        for (place, it) in self.places.iter().zip(&self.journal.places) {
            act(place, it, self.journal.by_name)?;
        }
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        let failed = |place: &StagedPlace, e| Error::io(format!("cannot make {} durable", shown(&place.parent)), e);
        self.places.iter().try_for_each(|place| place.dir.sync().map_err(|e| failed(place, e)))
    }

    /// It is done, with all that belongs to it: what was there is kept.
    pub fn keep(&mut self) -> Result<()> {
        self.rename(StagedPlace::stage, StagedPlace::old)?;
        self.enter(StagedPhase::Kept)
    }

    /// Gives what is beside each place the name `to`.
    fn rename(&self, from: fn(&StagedPlace) -> Vec<u8>, to: fn(&StagedPlace) -> Vec<u8>) -> Result<()> {
        for place in &self.places {
            let (from, to) = (from(place), to(place));
            if place.inode(&from)?.is_some() {
                let failed = |e| Error::io(format!("cannot rename {}", place.shown(&from)), e);
                place.dir.rename_new_to(&from, &place.dir, &to).map_err(failed)?;
            }
        }
        self.sync()
    }

    /// Finishes what was begun. False if nothing of it is left then.
    pub fn settle(&mut self, observer: &dyn Observer) -> Result<bool> {
        let said = |staged: &Staged, message: &str| {
            let first = staged.paths().into_iter().next().unwrap_or_default();
            observer.event(&Event::Note { subject: path_bytes(&first), message });
        };
        match self.journal.phase {
            StagedPhase::Staging => {
                self.remove()?;
                said(self, "a staged restore was cut off before it exchanged anything: what it had written was removed");
                return Ok(false);
            }
            StagedPhase::Exchanging => {
                self.go_on()?;
                said(self, "a staged restore was cut off while it exchanged directories: it was finished");
            }
            StagedPhase::Returning => {
                self.roll_back()?;
                said(self, "a rollback was cut off: it was finished");
            }
            StagedPhase::Discarding => {
                self.remove()?;
                return Ok(false);
            }
            StagedPhase::Exchanged | StagedPhase::Kept | StagedPhase::TakenBack => {}
        }
        Ok(true)
    }

    /// Gives what was there its places again; what was restored is kept.
    pub fn roll_back(&mut self) -> Result<()> {
        if self.journal.phase == StagedPhase::TakenBack {
            return Ok(());
        }
        self.enter(StagedPhase::Returning)?;
        self.all(swap::back)?;
        self.rename(StagedPlace::old, StagedPlace::stage)?;
        self.enter(StagedPhase::TakenBack)
    }

    /// Removes what is kept, and the journal.
    pub fn discard(mut self) -> Result<()> {
        self.enter(StagedPhase::Discarding)?;
        self.remove()
    }

    /// Removes what was restored, which has no place yet, and the journal.
    pub fn abandon(self) -> Result<()> {
        self.remove()
    }

    /// Removes what is beside the places, pointers, and at last the journal. Places without a pointer to it are none of it.
    fn remove(&self) -> Result<()> {
        for (number, place) in self.places.iter().enumerate().rev() {
            journal::forget_new(place);
            if number > 0 && of(place)?.is_none_or(|journal| journal.id != self.journal.id) {
                continue;
            }
            for name in [place.making(), place.stage(), place.old()] {
                let failed = |e| Error::io(format!("cannot remove {}", place.shown(&name)), e);
                remove::remove(&place.dir, &name).map_err(failed)?;
            }
            let name = place.journal();
            let failed = |e| Error::io(format!("cannot remove {}", place.shown(&name)), e);
            place.dir.sync().map_err(failed)?;
            place.dir.remove(&name).and_then(|()| place.dir.sync()).map_err(failed)?;
        }
        Ok(())
    }
}

/// The journal that is, or is pointed to, beside a place, and is about it.
fn of(place: &StagedPlace) -> Result<Option<StagedJournal>> {
    let about = |journal: &StagedJournal, place: &StagedPlace| {
        let same = |it: &JournalPlace| unquote(&it.name) == place.name && unquote(&it.parent) == path_bytes(&place.parent);
        journal.places.iter().any(same)
    };
    match journal::read(place)? {
        None => Ok(None),
        Some(JournalFile::Journal(journal)) => match about(&journal, place) {
            true => Ok(Some(journal)),
            false => {
                let text = format!("the journal {} is about another place: was it moved?", place.shown(&place.journal()));
                Err(Error::corrupt(text))
            }
        },
        Some(JournalFile::Pointer { id, first, .. }) => {
            let first = PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(unquote(&first)));
            let Some(first) = StagedPlace::open(&first)? else { return Ok(None) };
            match journal::read(&first)? {
                Some(JournalFile::Journal(journal)) if journal.id == id && about(&journal, place) => Ok(Some(journal)),
                // What it belonged to is gone: the next one writes another.
                _ => Ok(None),
            }
        }
    }
}

/// Locks the directories of all places, each once.
fn locked(places: &[StagedPlace]) -> Result<Vec<Dir>> {
    let (mut locks, mut seen) = (Vec::new(), Vec::new());
    for place in places.iter() {
        if seen.contains(&&place.parent) {
            continue;
        }
        seen.push(&place.parent);
        let busy = || Error::new(ErrorKind::Busy, format!("another staged restore is at work in {}", shown(&place.parent)));
        match lock::try_lock(&place.dir) {
            Ok(held) => locks.push(held.ok_or_else(busy)?),
            // A file system without locks.
            Err(e) if lock::is_unknown(&e) => {}
            Err(e) => return Err(Error::io(format!("cannot lock {}", shown(&place.parent)), e)),
        }
    }
    Ok(locks)
}

/// Makes the directory that a place is in, with owner and mode of the snapshot where that knows them.
fn make_parents(target: &StagedTarget, owners: &Owners) -> Result<()> {
    let names: Vec<&[u8]> = path_bytes(&target.path).split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
    let map = OwnerMap::of(owners);
    let mut path = PathBuf::from("/");
    let (_, parents) = names.split_last().unwrap_or((&&b""[..], &[]));
    for (depth, name) in parents.iter().enumerate() {
        let failed = |e| Error::io(format!("cannot make {} for {}", escape(name), shown(&target.path)), e);
        let next = path.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        if next.symlink_metadata().is_err() {
            let dir = Dir::open(&path).map_err(failed)?;
            dir.make_dir(name, 0o700).map_err(failed)?;
            let made = dir.open_dir(name).map_err(failed)?;
            match target.above.get(depth + 1).map(|node| &node.meta) {
                Some(meta) => {
                    // As with any restore, only root may change an owner.
                    let _ = dir::set_owner(&made, map.user(meta.uid), map.group(meta.gid));
                    made.set_mode_self(meta.mode).map_err(failed)?;
                }
                None => made.set_mode_self(0o755).map_err(failed)?,
            }
        }
        path = next;
    }
    Ok(())
}

fn path_bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}
