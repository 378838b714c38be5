//! Work under a session: it begins, gives signs of life, does its work, and ends as what came of the work asks for.
//!
//! ```text
//! begin ── signs of life ── work ─┬─ Committed    the session ends; its outcome is the snapshot
//!                                 ├─ Uncommitted  a fence, so that nobody can commit under its id; then it ends
//!                                 ├─ Fenced       it ends; the caller begins again, or says so
//!                                 └─ an error     as Uncommitted, if the storage still answers
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Snapshot, SnapshotId, Timestamp};
use crate::repo::beat::{self, Beats};
use crate::repo::{Repository, chain, session, snapshots};

/// What came of the work of a session.
#[derive(Debug)]
pub(crate) enum SessionEnd<T> {
    /// A snapshot was committed under the session's id, and read back.
    Committed(T),
    /// No snapshot was committed, nor will be.
    Uncommitted(T),
    /// Somebody fenced the session: a prune may have deleted what it stored or counted on.
    Fenced,
}

/// Does `work` under a new session; `None`: the session was fenced. Errors: those of the work, unless the session was fenced,
/// since what a fenced writer looks for may have been deleted; those of the storage.
pub(crate) fn in_session<T>(
    repo: &Repository,
    now: &dyn Fn() -> Timestamp,
    work: impl FnOnce(SnapshotId) -> Result<SessionEnd<T>>,
) -> Result<Option<T>> {
    let id = session::begin(repo, now())?;
    let beats = Beats::start(repo, id, beat::PERIOD);
    let done = work(id);
    // The last sign of life goes before the session does.
    drop(beats);
    match done {
        Ok(SessionEnd::Committed(out)) => session::end(repo, id).map(|()| Some(out)),
        Ok(SessionEnd::Uncommitted(out)) => session::abandon(repo, id, now()).map(|()| Some(out)),
        Ok(SessionEnd::Fenced) => session::end(repo, id).map(|()| None),
        Err(_) if session::is_fenced(repo, id) => session::end(repo, id).map(|()| None),
        Err(e) => {
            // The storage may be what failed; then the session stays, and prune settles it.
            let _ = session::abandon(repo, id, now());
            Err(e)
        }
    }
}

/// The same for work that commits nothing; `None` also when the session was fenced only at the end of it.
pub(crate) fn uncommitted<T>(
    repo: &Repository,
    now: &dyn Fn() -> Timestamp,
    work: impl FnOnce(SnapshotId) -> Result<T>,
) -> Result<Option<T>> {
    in_session(repo, now, |id| {
        let done = work(id)?;
        Ok(if session::is_fenced(repo, id) { SessionEnd::Fenced } else { SessionEnd::Uncommitted(done) })
    })
}

/// Commits `snapshot` under its id, which is that of the session; false when the session was fenced. `barrier`: what the
/// snapshot needs may have been stored by somebody who still works, so that it need not be durable yet. `gone`: snapshots
/// that the user knows to be gone.
pub(crate) fn commit(
    repo: &Repository,
    snapshot: &mut Snapshot,
    (barrier, gone): (bool, &[SnapshotId]),
    now: &dyn Fn() -> Timestamp,
) -> Result<bool> {
    if barrier {
        repo.storage().sync_everything()?;
    }
    // A session goes after its fence. Where somebody took it away without one, nothing kept prune from what this counts on:
    // then it is fenced here.
    if session::has_ended(repo, snapshot.id)? {
        session::fence(repo, snapshot.id, now())?;
        return Ok(false);
    }
    // A key that only writes does not read other snapshots, so it cannot say which it saw.
    if !repo.only_writes() {
        snapshot.chain = chain::next(repo, gone)?;
    }
    snapshots::commit(repo, snapshot)
}

/// Of work that began again, and whose session was fenced each time.
pub(crate) fn fenced_too_often() -> Error {
    let text = "the session was fenced again and again: is something pruning this repository without end?";
    Error::new(ErrorKind::Busy, text)
}
