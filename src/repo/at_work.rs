//! Whether other writers are at work: by what is in `sessions/`, without those that are known to be dead.
//!
//! This is only to work well beside others. What is safe goes by every session that is there, whoever left it.

use std::collections::HashMap;
use std::time::Instant;

use crate::error::Result;
use crate::model::SnapshotId;
use crate::repo::{Repository, beat, session};
use crate::storage::{Class, Name};
use crate::sys::process::Identity;

/// What one process has seen of the sessions of others.
#[derive(Debug)]
pub struct AtWork {
    own: SnapshotId,
    seen: HashMap<SnapshotId, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Who it is of, where that could be read.
    who: Option<Identity>,
    /// The number of its newest sign of life, and since when that is the newest.
    beat: u64,
    since: Instant,
}

impl Seen {
    /// A process of this machine is asked. Others give signs of life.
    fn is_at_work(&self) -> bool {
        match &self.who {
            Some(who) if who.is_here() => !who.is_gone(),
            Some(who) if who.is_gone() => false,
            _ => self.since.elapsed() < beat::DEAD_AFTER,
        }
    }
}

impl AtWork {
    /// Of all sessions but `own`. Nothing was seen yet.
    pub fn new(own: SnapshotId) -> Self {
        AtWork { own, seen: HashMap::new() }
    }

    /// Lists the sessions. Each is read once. True: one of them is of a writer that may live.
    pub fn look(&mut self, repo: &Repository) -> Result<bool> {
        let mut listed: HashMap<SnapshotId, (bool, u64)> = HashMap::new();
        for (name, _) in repo.storage().list(Class::Sessions)? {
            match name {
                Name::Session(id) => listed.entry(id).or_default().0 = true,
                Name::Beat(id, number) => {
                    let newest = &mut listed.entry(id).or_default().1;
                    *newest = number.max(*newest);
                }
                _ => {}
            }
        }
        listed.retain(|id, (open, _)| *open && *id != self.own);
        self.seen.retain(|id, _| listed.contains_key(id));
        for (id, (_, beat)) in listed {
            let new = || Seen { who: session::read(repo, id).ok().map(|s| session::identity(&s)), beat, since: Instant::now() };
            let seen = self.seen.entry(id).or_insert_with(new);
            if seen.beat != beat {
                (seen.beat, seen.since) = (beat, Instant::now());
            }
        }
        Ok(self.seen.values().any(Seen::is_at_work))
    }

    /// Whether this session was open at the last look, and its writer may live.
    pub fn is_at_work(&self, id: SnapshotId) -> bool {
        self.seen.get(&id).is_some_and(Seen::is_at_work)
    }
}
