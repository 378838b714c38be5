//! When packs were found to be sound, in this machine's memory: read by a check, or just stored. A frame is opened and
//! hashed again before it counts as stored, so a pack is as good at that moment as after a check.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use yester::Result;
use yester::local::state::LocalState;
use yester::model::{PackId, Timestamp};
use yester::repo::Repository;
use yester::storage::{Class, Name};

use crate::cli::context::{self, Context};

/// How often verified packs are written to the local state, so that a killed check loses little.
const REMEMBER: Duration = Duration::from_secs(10);

/// The local state's list of verified packs. The database is opened only while it is read or written: one process at a time
/// can have it open.
pub struct VerifiedMemory<'a> {
    context: &'a Context,
    repo: &'a Repository,
    sound: Vec<PackId>,
    damaged: Vec<PackId>,
    kept: Instant,
}

impl<'a> VerifiedMemory<'a> {
    /// Of this repository.
    pub fn new(context: &'a Context, repo: &'a Repository) -> Self {
        VerifiedMemory { context, repo, sound: Vec::new(), damaged: Vec::new(), kept: Instant::now() }
    }

    fn state(&self) -> Option<LocalState> {
        LocalState::open(self.context.places.state()?, self.repo.id())
    }

    /// All that is remembered.
    pub fn all(&self) -> HashMap<PackId, Timestamp> {
        self.state().map(|state| state.all_verified()).unwrap_or_default()
    }

    /// A pack was read.
    pub fn note(&mut self, pack: PackId, sound: bool) {
        let packs = if sound { &mut self.sound } else { &mut self.damaged };
        packs.push(pack);
        if self.kept.elapsed() >= REMEMBER {
            self.keep();
        }
    }

    /// What cannot be kept now, because another process has the memory, is kept the next time.
    pub fn keep(&mut self) {
        self.kept = Instant::now();
        if self.sound.is_empty() && self.damaged.is_empty() {
            return;
        }
        let Some(state) = self.state() else { return };
        if state.note_verified(&self.sound, context::now()) {
            self.sound.clear();
        }
        if state.drop_verified(&self.damaged) {
            self.damaged.clear();
        }
    }

    /// Forgets packs that are not there any more.
    pub fn drop_gone(&self, known: &HashMap<PackId, Timestamp>) -> Result<()> {
        let there: HashSet<PackId> =
            self.repo.storage().list(Class::Packs)?.into_iter().filter_map(|(name, _)| pack(&name)).collect();
        let gone: Vec<PackId> = known.keys().filter(|id| !there.contains(id)).copied().collect();
        if let Some(state) = self.state().filter(|_| !gone.is_empty()) {
            state.drop_verified(&gone);
        }
        Ok(())
    }
}

fn pack(name: &Name) -> Option<PackId> {
    match name {
        Name::Pack(id) => Some(*id),
        _ => None,
    }
}

/// Remembers what a command has stored: a pack that was looked at when it was stored counts as checked then.
pub fn remember_stored(context: &Context) {
    for (repository, stored) in context.stored() {
        let packs = stored.take();
        let state = context.places.state().filter(|_| !packs.is_empty());
        if let Some(state) = state.and_then(|state| LocalState::open(state, repository)) {
            state.note_verified(&packs, context::now());
        }
    }
}
