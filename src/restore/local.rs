//! Files that are there already: comparing them piece by piece, and using what is right.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{ChunkId, Item};
use crate::restore::job::{RestoreJob, WriteMethod, read_exact};
use crate::sys::{FileKind, dir};

/// One piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilePiece {
    /// The number of its file among those of the window.
    pub(crate) job: u32,
    /// Where it stands in the file.
    pub(crate) offset: u64,
    /// Its length.
    pub(crate) len: u64,
    /// What is stored; `None` for a hole, which is looked at only in files that are there already.
    pub(crate) id: Option<ChunkId>,
}

impl RestoreJob<'_, '_> {
    /// Compares the next pieces of the file, in order, with what is there. Calls `fetch` with the number of each piece
    /// that must come from the repository; the others are dealt with when this returns.
    pub(crate) fn compare(&self, pieces: &[FilePiece], mut fetch: impl FnMut(usize)) {
        let mut buffer = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            if self.run.stopped() || self.failed() {
                self.done(1);
                continue;
            }
            let right = self.is_right(piece, &mut buffer);
            match self.settle(piece, right, &buffer) {
                Ok(true) => self.done(1),
                Ok(false) => fetch(at),
                Err(error) => {
                    self.fail(error);
                    self.done(1);
                }
            }
        }
    }

    /// Whether what is there has this piece right; the bytes of a chunk are then in `buffer`. What cannot be read is
    /// not right.
    fn is_right(&self, piece: &FilePiece, buffer: &mut Vec<u8>) -> bool {
        let Some(file) = self.local_file() else { return false };
        match piece.id {
            Some(id) => read_exact(&file, piece.offset, piece.len as u32, buffer).is_ok() && self.is_chunk(buffer, &id),
            None => {
                let end = piece.offset + piece.len;
                let long_enough = self.there.is_some_and(|stat| stat.size >= end);
                let empty = |data: Option<(u64, u64)>| data.is_none_or(|(start, _)| start >= end);
                long_enough && dir::next_data(&*file, piece.offset).is_ok_and(empty)
            }
        }
    }

    /// Closes the file that was compared: there may be more of them than a process may have open.
    pub(crate) fn close_local(&self) {
        self.state().local = None;
    }

    fn local_file(&self) -> Option<Arc<std::fs::File>> {
        let mut state = self.state();
        if state.local.is_none() {
            let file = self.dir().ok()?.open_file(&self.node.name).ok()?;
            if dir::stat(&file).ok()?.kind != FileKind::File {
                return None;
            }
            state.local = Some(Arc::new(file));
        }
        state.local.clone()
    }

    /// Does what the comparison asks for; false when the piece must be fetched.
    fn settle(&self, piece: &FilePiece, right: bool, buffer: &[u8]) -> Result<bool> {
        let untouched = {
            let state = self.state();
            state.clean == piece.offset && !state.has_temporary()
        };
        if untouched && right {
            self.state().clean = piece.offset + piece.len;
            return Ok(true);
        }
        if untouched && !self.begin_in_place()? {
            self.copy_clean()?;
        }
        let in_place = self.state().way == WriteMethod::InPlace;
        match (piece.id, right) {
            (None, false) if in_place => self.punch(piece).map(|()| true),
            // The new file has the hole already.
            (None, _) => Ok(true),
            (Some(_), true) if in_place => Ok(true),
            (Some(_), false) => Ok(false),
            (Some(_), true) => {
                self.write(piece.offset, buffer)?;
                self.run.counts.bytes_local.add(piece.len);
                Ok(true)
            }
        }
    }

    /// Begins the new file with the bytes that were found right so far. They are hashed again: the file may have
    /// changed since.
    pub(crate) fn copy_clean(&self) -> Result<()> {
        let clean = {
            let mut state = self.state();
            self.file(&mut state)?;
            state.clean
        };
        let (Some(content), true) = (self.content(), clean > 0) else { return Ok(()) };
        let changed = || Error::corrupt("the file that is there changes while it is compared: restore it again");
        let file = self.local_file().ok_or_else(changed)?;
        let mut buffer = Vec::new();
        self.run.tree.items(content, 0, &mut |offset, item| {
            if let Item::Chunk { id, len } = item {
                if read_exact(&file, offset, *len, &mut buffer).is_err() || !self.is_chunk(&buffer, id) {
                    return Err(changed());
                }
                self.write(offset, &buffer)?;
                self.run.counts.bytes_local.add(u64::from(*len));
            }
            Ok(offset + item.len() < clean && !self.run.stopped())
        })
    }
}

impl RestoreJob<'_, '_> {
    /// For a dry run: compares as [`RestoreJob::compare`] does, and changes nothing.
    pub(crate) fn compare_only(&self, pieces: &[FilePiece], mut fetch: impl FnMut(usize)) {
        let mut buffer = Vec::new();
        for (at, piece) in pieces.iter().enumerate().take_while(|_| !self.run.stopped()) {
            let right = self.is_right(piece, &mut buffer);
            let mut state = self.state();
            if right && !state.differs {
                state.clean = piece.offset + piece.len;
            }
            state.differs |= !right;
            if right && piece.id.is_some() {
                state.right += piece.len;
            }
            if !right && piece.id.is_some() {
                fetch(at);
            }
        }
    }

    /// Whether everything that is there was found right.
    pub(crate) fn is_clean(&self) -> bool {
        let size = self.content().map_or(0, crate::model::Content::size);
        self.local && self.state().clean == size && self.there.is_some_and(|stat| stat.size == size)
    }
}
