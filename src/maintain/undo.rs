//! Taking back that a snapshot was forgotten: its mark goes, if all that it needs is still there.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::model::{ChunkId, SnapshotId};
use crate::repo::index::{Index, missing_chunk};
use crate::repo::reader::ChunkReader;
use crate::repo::small::Small;
use crate::repo::tree::walk::{TreePage, Visitor, walk};
use crate::repo::{Repository, marks, session, snapshots, work};
use crate::storage::Name;
use crate::task::Task;

/// Decoded frames that the walk keeps.
const FRAMES: u64 = 24 << 20;

/// Takes back that this snapshot was forgotten. It works under a session, as a writer that counts on everything which the
/// snapshot needs: so no prune deletes that from then on, and what one has marked for deletion already does not count.
pub fn undo(repo: &Arc<Repository>, id: SnapshotId, task: &Task<'_>) -> Result<()> {
    work::uncommitted(repo, &|| task.now(), |writer| in_session(repo, id, writer))?.ok_or_else(ended_by_others)
}

fn in_session(repo: &Arc<Repository>, id: SnapshotId, writer: SnapshotId) -> Result<()> {
    let gone = |e: Error| e.context(format!("snapshot {} cannot be taken back: not all of it is there any more", id.short()));
    let mark = marks::read(repo, id)?.result(&Name::Forgotten(id))?;
    let snapshot = snapshots::load(repo, id).map_err(gone)?;
    let snapshot = snapshot.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} is a fence", id.short())))?;
    let index = Arc::new(Index::load_for_writing(repo)?);
    let reader = ChunkReader::new(repo.clone(), index.clone(), FRAMES)?;
    walk(&reader, &snapshot, &mut Whole { index: &index, pages: HashSet::new() }).map_err(gone)?;
    repo.storage().sync_everything()?;
    if session::has_ended(repo, writer)? {
        return Err(ended_by_others());
    }
    repo.storage().delete(&Name::Forgotten(id))?;
    repo.storage().sync()?;
    marks::unmark(repo, id);
    // A prune that has looked before, and was told to leave nothing, may have been faster.
    if matches!(snapshots::judge(repo, id)?, Small::Gone) {
        marks::write(repo, &mark)?;
        repo.storage().sync()?;
        return Err(gone(Error::new(ErrorKind::NotFound, "a prune has just removed it")));
    }
    Ok(())
}

fn ended_by_others() -> Error {
    Error::new(ErrorKind::Busy, "somebody ended the session of this command: try again")
}

/// Looks whether everything that a snapshot names is in the index, in packs that count.
struct Whole<'a> {
    index: &'a Index,
    pages: HashSet<ChunkId>,
}

impl Visitor for Whole<'_> {
    fn page(&mut self, page: &TreePage) -> Result<bool> {
        self.chunk(PackKind::Tree, &page.id)?;
        Ok(self.pages.insert(page.id))
    }

    fn chunk(&mut self, kind: PackKind, id: &ChunkId) -> Result<()> {
        self.index.find(kind, &id.key())?.map(|_| ()).ok_or_else(|| missing_chunk(id))
    }

    fn read(&mut self, _bytes: u64) {}
}
