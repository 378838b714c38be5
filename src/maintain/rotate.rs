//! Changing the master key of a repository, while nobody else is at work in it.
//!
//! Whoever has the old key cannot tell what is sealed with the new one from rubbish. So nobody may be at work with it when the
//! new one comes: it is closed first, which every session looks for after it has begun, and then sessions are looked for. One
//! of both notices the other.

use crate::error::{Error, ErrorKind, Result};
use crate::keys::keyring::KeyRing;
use crate::keys::rotation::{RotateOptions, Rotated};
use crate::maintain::prune::{self, PruneOptions};
use crate::repo::{Repository, session};
use crate::task::Task;

/// Gives the repository a new master key. New objects are sealed with it; those that are there stay readable. Errors: a
/// session that lives ([`ErrorKind::Busy`]), then nothing was changed; slots that nobody has given the key of.
/// `sessions` says how sessions are judged.
pub fn rotate(ring: &mut KeyRing, options: &RotateOptions<'_>, sessions: &PruneOptions, task: &Task<'_>) -> Result<Rotated> {
    let (carried, dropped) = ring.carried(options)?;
    let untouched = |e: Error| e.context("the key was not changed");
    let old = Repository::of_ring(ring);
    old.storage().sync_everything()?;
    prune::settle(&old, sessions, task).map_err(untouched)?;
    // Two who change it see each other.
    let own = session::register(&old, task.now())?;
    let made = nobody_else(&old, own).and_then(|()| {
        if !ring.is_closed() {
            ring.close()?;
        }
        nobody_else(&old, own)?;
        ring.add_new(&carried, options)
    });
    let (master, slots) = match made {
        Ok(made) => made,
        Err(e) => {
            let reopened = if ring.is_closed() { ring.reopen() } else { Ok(()) };
            session::abandon(&old, own, task.now())?;
            return Err(match reopened {
                Ok(()) => untouched(e),
                Err(_) => e.context("the change of the key is not finished, and nobody can work until yester key rotate ends it"),
            });
        }
    };
    ring.switch(master).map_err(|e| e.context("the change of the key is not finished: run yester key rotate again"))?;
    let new = Repository::of_ring(ring);
    ring.keep_only(&slots)
        .map_err(|e| e.context("the key was changed, but not all old key slots could be removed (yester key list shows them)"))?;
    session::abandon(&new, own, task.now())?;
    Ok(Rotated { slots, dropped })
}

fn nobody_else(repo: &Repository, own: crate::model::SnapshotId) -> Result<()> {
    match session::others(repo, own)? {
        true => Err(Error::new(ErrorKind::Busy, "somebody else has begun to work in this repository: try again when it is done")),
        false => Ok(()),
    }
}
