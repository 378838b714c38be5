//! How much there is to do: a walk ahead of the ingest that only counts, so that progress has a total. It lists and stats,
//! and opens no file but the tags that decide whether a directory is left out.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::ingest::exclude::{Marked, Rules};
use crate::ingest::options::IngestOptions;
use crate::ingest::shutdown::StageShutdown;
use crate::ingest::sources::{self, SourceEntry};
use crate::sys::dir::Listing;
use crate::sys::{Dir, FileKind, Stat};

/// Entries and bytes of everything that was given, once they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    total: OnceLock<(u64, u64)>,
}

impl Counted {
    /// Entries and bytes; `None` until all were counted.
    pub(crate) fn total(&self) -> Option<(u64, u64)> {
        self.total.get().copied()
    }
}

/// Counts: the body of a thread. It ends with the ingest. `deepest`: the directories below one another that may be open;
/// where there are more, nothing is counted at all.
pub(crate) fn count(
    options: &IngestOptions,
    rules: &Rules,
    root: &SourceEntry,
    (shutdown, deepest): (&StageShutdown<'_>, usize),
    out: &Counted,
) {
    let mut streams = false;
    root.each(b"", |_, given| streams |= given.input.path().is_none());
    let mut walk = CountWalk { options, rules, shutdown, deepest, entries: 0, bytes: 0 };
    // Of a stream nobody knows how long it is.
    if !streams && walk.place(root, b"").is_some() {
        let _ = out.total.set((walk.entries, walk.bytes));
    }
}

struct CountWalk<'a> {
    options: &'a IngestOptions,
    rules: &'a Rules,
    shutdown: &'a StageShutdown<'a>,
    deepest: usize,
    entries: u64,
    bytes: u64,
}

/// A directory that is counted.
struct CountLevel<'a> {
    dir: Dir,
    listing: Listing,
    at: usize,
    place: Option<&'a SourceEntry>,
    marked: Marked,
    device: (u32, u32),
    path_len: usize,
}

/// What is not counted since it is not there, or cannot be looked at, is not stored either. `None` in all of this: there is
/// no count.
impl<'a> CountWalk<'a> {
    /// A place of the tree of given paths, and what is below it. `path` is its own.
    fn place(&mut self, place: &'a SourceEntry, path: &[u8]) -> Option<()> {
        match &place.input {
            Some(given) => self.given(place, given.input.path()?, path),
            None => {
                if !path.is_empty() && !place.is_there() {
                    return Some(());
                }
                self.entries += 1;
                place.below.iter().try_for_each(|(name, below)| self.place(below, &[path, b"/", name].concat()))
            }
        }
    }

    /// A given path.
    fn given(&mut self, place: &'a SourceEntry, given: &Path, path: &[u8]) -> Option<()> {
        if self.rules.never_takes(given).is_some() {
            return Some(());
        }
        let (Some(name), false) = (given.file_name(), sources::follows(given)) else {
            let Ok(dir) = Dir::open(given) else { return Some(()) };
            return self.directory(place, dir, path);
        };
        let above = given.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(above) = Dir::open(above) else { return Some(()) };
        match above.stat(name.as_bytes()) {
            Ok(stat) if stat.kind == FileKind::Directory => match above.open_dir(name.as_bytes()) {
                Ok(dir) => self.directory(place, dir, path),
                Err(_) => Some(()),
            },
            Ok(stat) => {
                self.leaf(&stat);
                Some(())
            }
            Err(_) => Some(()),
        }
    }

    fn leaf(&mut self, stat: &Stat) {
        self.entries += 1;
        self.bytes += if matches!(stat.kind, FileKind::File | FileKind::Symlink) { stat.size } else { 0 };
    }

    /// A given directory, whole.
    fn directory(&mut self, place: &'a SourceEntry, dir: Dir, path: &[u8]) -> Option<()> {
        let mut path = path.to_vec();
        let mut stack: Vec<CountLevel<'a>> = Vec::new();
        self.enter(&mut stack, Some(place), dir, &path, None)?;
        while let Some(level) = stack.last_mut() {
            if self.shutdown.is_wanted() {
                return None;
            }
            path.truncate(level.path_len);
            if level.at == level.listing.len() {
                stack.pop();
                continue;
            }
            level.at += 1;
            let name = level.listing.name(level.at - 1);
            path.push(b'/');
            path.extend_from_slice(name);
            let below = level.place.and_then(|place| place.below.get(name));
            if below.is_some_and(|place| place.input.is_some()) {
                // Another input, which is counted on its own.
                continue;
            }
            let left_out = match level.marked {
                Marked::No => false,
                Marked::All => true,
                Marked::AllBut(tag) => name != tag,
            };
            let Ok(stat) = level.dir.stat(name) else { continue };
            if below.is_none() && (left_out || self.rules.excludes(&path, &stat).is_some()) {
                continue;
            }
            if stat.kind != FileKind::Directory {
                self.leaf(&stat);
                continue;
            }
            if self.rules.never_enters(&stat).is_some() {
                continue;
            }
            let mounted = self.options.exclude.one_file_system && stat.device != level.device;
            let mounted = mounted.then_some(level.device);
            let Ok(dir) = level.dir.open_dir(name) else {
                // It is stored, without what is in it.
                self.entries += 1;
                continue;
            };
            self.enter(&mut stack, below, dir, &path, mounted)?;
        }
        Some(())
    }

    /// `mounted`: another file system begins here, which stays empty; the device of the one it is on.
    fn enter(
        &mut self,
        stack: &mut Vec<CountLevel<'a>>,
        place: Option<&'a SourceEntry>,
        dir: Dir,
        path: &[u8],
        mounted: Option<(u32, u32)>,
    ) -> Option<()> {
        self.entries += 1;
        let (Ok(stat), Ok(listing)) = (dir.stat_self(), dir.list()) else { return Some(()) };
        let marked = if mounted.is_some() { Marked::All } else { self.rules.marked(&listing, Some(&dir)) };
        // Given paths that the listing does not have lead somewhere else.
        if let Some(place) = place {
            let here: Vec<_> = place.below.iter().collect();
            for (name, below) in here.into_iter().filter(|(name, below)| below.input.is_some() || !listing.contains(name)) {
                self.place(below, &[path, b"/", name].concat())?;
            }
        }
        if stack.len() >= self.deepest {
            return None;
        }
        stack.push(CountLevel {
            dir,
            listing,
            at: 0,
            place,
            marked,
            device: mounted.unwrap_or(stat.device),
            path_len: path.len(),
        });
        Some(())
    }
}

#[cfg(test)]
mod tests;
