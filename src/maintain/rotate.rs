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
    let untouched = |e: Error| e.context("the key was not changed");
    // Whether it is still the key is looked at again below, when nobody else can be at it.
    ring.turn().map_err(untouched)?;
    let (carried, dropped) = ring.carried(options)?;
    let old = Repository::of_ring(ring);
    old.storage().sync_everything()?;
    prune::settle(&old, sessions, task).map_err(untouched)?;
    // Two who change it see each other.
    let own = session::register(&old, task.now())?;
    let given_up = |e: Error| {
        // Where this fails, too, the session stays, and a prune settles it.
        let _ = session::abandon(&old, own, task.now());
        e
    };
    let turn = nobody_else(&old, own).and_then(|()| ring.turn()).map_err(|e| given_up(untouched(e)))?;
    let made = ring.close(&turn).and_then(|()| nobody_else(&old, own)).and_then(|()| ring.add_new(&carried, options));
    let (master, slots) = match made {
        Ok(made) => made,
        Err(e) => {
            // Also after an error of closing it: a part of that may be stored whatever was answered.
            let reopened = ring.reopen(&turn);
            return Err(given_up(match reopened {
                Ok(()) => untouched(e),
                // Neither could be written, as with a token that may not.
                Err(_) if ring.is_open() => untouched(e),
                Err(_) => e.context("the change of the key is not finished, and nobody can work until yester key rotate ends it"),
            }));
        }
    };
    match ring.switch(&turn, master) {
        Ok(()) => {}
        // Somebody else has decided what comes.
        Err(e) if e.kind() == ErrorKind::Exists => {
            let dropped = ring.drop_new(&slots);
            return Err(given_up(untouched(dropped.err().unwrap_or(e.with_kind(ErrorKind::Busy)))));
        }
        Err(e) => return Err(e.context("the change of the key is not finished: run yester key rotate again")),
    }
    let new = Repository::of_ring(ring);
    let kept = ring.keep_only(&slots);
    let ended = session::abandon(&new, own, task.now());
    kept.map_err(|e| e.context("the key was changed, but not all old key slots could be removed (yester key list shows them)"))?;
    ended.map(|()| Rotated { slots, dropped })
}

fn nobody_else(repo: &Repository, own: crate::model::SnapshotId) -> Result<()> {
    match session::others(repo, own)? {
        true => Err(Error::new(ErrorKind::Busy, "somebody else has begun to work in this repository: try again when it is done")),
        false => Ok(()),
    }
}
