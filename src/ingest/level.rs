//! One directory on the planner's way: the names that are left, and what was announced of them.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::Arc;

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::ingest::exclude::Marked;
use crate::ingest::handles::Handle;
use crate::ingest::parent::ParentDir;
use crate::ingest::scan::{self, Cell, Scanned, Scanner};
use crate::ingest::sources::SourceEntry;
use crate::model::{Content, Item, Kind, LeftOut, Node, Xattrs};
use crate::repo::index::Index;
use crate::repo::index::known::KnownChunks;

/// Subdirectories that are announced before they are needed.
const WINDOW: usize = 24;

/// A directory that is being walked.
pub(crate) struct WalkLevel<'a> {
    /// The given paths at and below it.
    pub(crate) place: Option<&'a SourceEntry>,
    /// Its listing; `None` for a directory that only leads to given paths.
    pub(crate) scanned: Option<Scanned>,
    /// Names of `place` that are not in the listing come between its names.
    pub(crate) extra: Peekable<std::vec::IntoIter<&'a [u8]>>,
    /// The next entry of the listing.
    pub(crate) at: usize,
    /// The same directory of the parent snapshot.
    pub(crate) parent: Option<ParentDir>,
    /// Entries whose scan was announced.
    pub(crate) announced: VecDeque<(usize, Arc<Cell>)>,
    /// Where to look for the next ones.
    pub(crate) announce_from: usize,
    /// What its files say about it.
    pub(crate) marked: Marked,
    /// Length of its path.
    pub(crate) path_len: usize,
    /// The device it is on.
    pub(crate) device: (u32, u32),
    /// What of it is not in the snapshot.
    pub(crate) left_out: LeftOut,
    /// It was met as an entry of the level above, which leads back to it through `..`.
    pub(crate) inner: bool,
    /// The rest of its listing could not be read.
    pub(crate) cut: bool,
}

impl<'a> WalkLevel<'a> {
    /// The next name of a level: of its listing, or of the given paths below it that the listing does not have.
    pub(crate) fn next_name(&mut self) -> Option<Next<'a>> {
        let len = self.scanned.as_ref().map_or(0, |s| s.listing.len());
        let listed = self.scanned.as_ref().filter(|_| self.at < len).map(|s| s.listing.name(self.at));
        let placed_first = match (self.extra.peek(), listed) {
            (Some(placed), Some(listed)) => *placed < listed,
            (Some(_), None) => true,
            _ => false,
        };
        if placed_first {
            return self.extra.next().map(Next::Placed);
        }
        if self.at >= len {
            return None;
        }
        self.at += 1;
        Some(Next::Listed(self.at - 1))
    }

    /// The announced scan of entry `at`, if it was announced.
    pub(crate) fn take_cell(&mut self, at: usize) -> Option<Arc<Cell>> {
        while self.announced.front().is_some_and(|(number, _)| *number < at) {
            self.announced.pop_front();
        }
        match self.announced.front() {
            Some((number, _)) if *number == at => self.announced.pop_front().map(|(_, cell)| cell),
            _ => None,
        }
    }

    /// Announces the next subdirectories of a level to the scanner.
    pub(crate) fn announce(&mut self, scanner: &Scanner) {
        let Some(scanned) = &self.scanned else { return };
        let Some(dir) = scanned.dir.as_ref().filter(|_| self.announced.len() <= WINDOW / 2 && self.marked == Marked::No) else {
            return;
        };
        let from = self.announce_from.max(self.at);
        let end = scanned.listing.len().min(from + 2048);
        let next: Vec<usize> = (from..end).filter(|at| scanned.is_directory(*at)).take(WINDOW - self.announced.len()).collect();
        self.announce_from = next.last().map_or(end, |last| last + 1);
        let cells = scanner.announce(dir, next.iter().map(|at| scanned.listing.name(*at).to_vec()));
        self.announced.extend(next.into_iter().zip(cells));
    }
}

impl WalkLevel<'_> {
    /// The open directory.
    pub(crate) fn dir(&self) -> Option<&Arc<Handle>> {
        self.scanned.as_ref()?.dir.as_ref()
    }

    /// Leaves the rest of the listing out; given paths stay.
    pub(crate) fn end(&mut self) {
        self.cut = true;
        self.at = self.scanned.as_ref().map_or(0, |scanned| scanned.listing.len());
    }

    /// Closes the directory, if it can be opened again; answers whether this did.
    pub(crate) fn close(&mut self, scanner: &Scanner) -> bool {
        let Some(scanned) = self.scanned.as_mut().filter(|_| self.inner) else { return false };
        self.announced.drain(..).for_each(|(_, cell)| scanner.forget(&cell));
        self.announce_from = self.at;
        scanned.dir.take().is_some()
    }
}

/// Opens the topmost level again, which was closed: from the level below, which is done with, or by its path from the
/// next one above that is open. `path` is its path.
pub(super) fn reopen(stack: &mut [WalkLevel<'_>], below: Option<&Handle>, path: &[u8]) -> std::io::Result<()> {
    let Some((top, above)) = stack.split_last_mut() else { return Ok(()) };
    let Some(scanned) = &mut top.scanned else { return Ok(()) };
    let (device, inode) = (scanned.stat.device, scanned.stat.inode);
    let climbed = below.ok_or_else(scan::closed).and_then(|below| below.open_above(device, inode));
    let dir = climbed.or_else(|e| {
        let Some(open) = above.iter().rev().find(|level| level.dir().is_some()) else { return Err(e) };
        let names = path.get(open.path_len..).unwrap_or_default().split(|b| *b == b'/').filter(|name| !name.is_empty());
        let dir = open.dir().ok_or(e)?.open_far_below(names)?;
        dir.must_be(device, inode)
    })?;
    scanned.dir = Some(Arc::new(Handle::new(dir)));
    Ok(())
}

/// The next name of a level.
pub(crate) enum Next<'a> {
    /// A given path that the listing does not have.
    Placed(&'a [u8]),
    /// An entry of the listing.
    Listed(usize),
}

/// Unchanged content is taken over unseen only while nothing is suspicious; else every chunk is looked up, and content
/// that is not all there is read again. That is how the next ingest heals a lost pack (rule 2 of docs/durability.md).
#[derive(Debug)]
pub(crate) struct Adoption<'a> {
    index: &'a Index,
    known: KnownChunks,
    unseen: bool,
}

impl<'a> Adoption<'a> {
    /// Adoption from a parent that is in `index`. A writer that was fenced and begins again looks everything up
    /// (rule 5).
    pub(crate) fn new(index: &'a Index, again: bool) -> Self {
        Adoption { index, known: KnownChunks::default(), unseen: !again && !index.is_suspicious() }
    }

    /// Whether the content of this file may be taken over.
    pub(super) fn allows(&mut self, node: &Node) -> Result<bool> {
        if self.unseen {
            return Ok(true);
        }
        if matches!(node.meta.xattrs, Xattrs::Stored(_)) {
            return Ok(false);
        }
        match &node.kind {
            Kind::File(Content::Items(items)) => {
                for item in items {
                    if let Item::Chunk { id, .. } = item
                        && self.known.find(self.index, PackKind::Data, &id.key())?.is_none()
                    {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Kind::File(Content::Tree { .. }) => Ok(false),
            _ => Ok(true),
        }
    }
}
