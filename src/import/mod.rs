//! Histories of other tools: their snapshots become snapshots of this repository.
//!
//! ```text
//! restic ─┐
//! borg ───┤ PastHistory: lists what there is,          TreeIntake: cuts content, builds   packing, as for a copy:
//! tar ────┤ and walks one snapshot after the other ──▶ pages, remembers what it had ───▶ frames, packs, segment, commit
//! trees ──┘
//! ```
//!
//! Each snapshot is a session of its own, and says in its origin where it comes from. So an import that was stopped goes
//! on where it was, and one that is run again finds that everything is there.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::copy::packing;
use crate::error::{Error, ErrorKind, Result};
use crate::import::intake::TreeIntake;
use crate::import::memory::IntakeMemory;
use crate::ingest::others::Others;
use crate::model::{Annotation, Chain, Composition, Origin, Rule, Snapshot, SnapshotId, Timestamp};
use crate::repo::index::Index;
use crate::repo::{Repository, annotations, session, snapshots};
use crate::task::Task;

pub mod borg;
mod flow;
pub mod generations;
mod intake;
mod memory;
pub mod restic;
mod sorter;
pub mod tar;

/// A snapshot of another tool.
#[derive(Debug, Clone)]
pub struct PastSnapshot {
    /// What it is called there.
    pub name: String,
    /// What stands for its repository and for it, and is the same at every import.
    pub origin: Origin,
    /// When it was taken.
    pub time: Timestamp,
    /// The host it was taken of.
    pub host: Vec<u8>,
    /// The user who took it.
    pub user: Vec<u8>,
    /// What it was given: absolute paths.
    pub paths: Vec<Vec<u8>>,
    /// Its tags.
    pub tags: Vec<Vec<u8>>,
    /// What somebody noted of it; empty for nothing.
    pub note: Vec<u8>,
    /// What was left out of it, as far as the tool says.
    pub excludes: Vec<Vec<u8>>,
    /// The program that made it.
    pub program: String,
}

impl PastSnapshot {
    /// What a snapshot would say of it: for filters.
    pub fn described(&self) -> Snapshot {
        Snapshot {
            id: self.origin.snapshot,
            time: self.time,
            finished: self.time,
            host: self.host.clone(),
            user: self.user.clone(),
            paths: sorted(self.paths.clone()),
            tags: sorted(self.tags.clone()),
            parent: None,
            writer: None,
            chain: Chain::default(),
            root: intake::root(self.time),
            scan: None,
            scan_start: Timestamp::default(),
            links: None,
            owners: crate::model::Owners::default(),
            rules: self.excludes.iter().take(MOST_RULES).map(|text| Rule::new(Rule::PATTERN, text.as_slice())).collect(),
            composition: Composition { origin: Some(self.origin), ..Composition::default() },
            statistics: crate::model::Statistics::default(),
            program: format!("yester {} (from {})", env!("CARGO_PKG_VERSION"), self.program).into_bytes(),
        }
    }
}

/// Rules of a snapshot that are taken over.
const MOST_RULES: usize = 1000;

/// The snapshots of another tool, and what is in them.
pub trait PastHistory {
    /// All of them, oldest first. What cannot be read of one is told to `task`, and counted.
    fn snapshots(&mut self, task: &Task<'_>) -> Result<PastList>;

    /// Gives all that is in a snapshot to `intake`, in the order of names. Answers the given paths as they stand in it.
    fn walk(&mut self, snapshot: &PastSnapshot, intake: &mut TreeIntake<'_>) -> Result<()>;
}

/// A list of snapshots of another tool.
#[derive(Debug, Default)]
pub struct PastList {
    /// Those that can be read, oldest first.
    pub snapshots: Vec<PastSnapshot>,
    /// How many there are besides, that cannot.
    pub unreadable: u64,
}

/// What is to be different from what the other tool says.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The host.
    pub host: Option<Vec<u8>>,
    /// The time: for one snapshot.
    pub time: Option<Timestamp>,
    /// More tags.
    pub tags: Vec<Vec<u8>>,
}

/// What an import of one snapshot did.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The snapshot here.
    pub snapshot: Snapshot,
}

/// Imports snapshots, one after the other, and tells `done` what came of each: an error is that of its source, and others
/// may be whole. What was stored of an import that fails is found by the next one. Errors: those of this repository.
pub fn import(
    repo: &Arc<Repository>,
    history: &mut dyn PastHistory,
    chosen: &[PastSnapshot],
    options: &ImportOptions,
    task: &Task<'_>,
    done: &mut dyn FnMut(&PastSnapshot, Result<Imported>) -> Result<()>,
) -> Result<()> {
    let mut importer = Importer { repo, options, task, memory: IntakeMemory::new(repo), held: VecDeque::new() };
    for past in chosen {
        match importer.snapshot(history, past) {
            Err(e) if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => return Err(e),
            outcome => done(past, outcome)?,
        }
    }
    Ok(())
}

struct Importer<'a> {
    repo: &'a Arc<Repository>,
    options: &'a ImportOptions,
    task: &'a Task<'a>,
    memory: IntakeMemory,
    /// The snapshots that hold what is remembered.
    held: VecDeque<SnapshotId>,
}

impl Importer<'_> {
    fn snapshot(&mut self, history: &mut dyn PastHistory, past: &PastSnapshot) -> Result<Imported> {
        let mut again = false;
        let repo = self.repo;
        let done = packing::in_session(repo, self.task, &mut |id| {
            if std::mem::replace(&mut again, true) {
                // Somebody pruned: nothing that is remembered need be there still.
                self.forget();
            }
            self.in_session(id, history, past)
        });
        match &done {
            Ok(imported) => self.held.push_back(imported.snapshot.id),
            // What was remembered of it may not be durable.
            Err(_) => self.forget(),
        }
        done
    }

    fn forget(&mut self) {
        self.memory = IntakeMemory::new(self.repo);
        self.held.clear();
    }

    fn in_session(&mut self, id: SnapshotId, history: &mut dyn PastHistory, past: &PastSnapshot) -> Result<Option<Imported>> {
        // Snapshots first, then the index: so it has everything that they name.
        let there: HashSet<SnapshotId> = snapshots::names(self.repo)?.into_iter().collect();
        let index = Arc::new(Index::load_for_writing(self.repo)?);
        if index.is_suspicious() || !self.held.iter().all(|held| there.contains(held)) {
            self.forget();
        }
        let others = session::others(self.repo, id)?;
        let beside = Mutex::new(Others::new(id, index.clone(), others, Arc::default()));
        let (memory, task, repo) = (&mut self.memory, self.task, self.repo);
        let (mut snapshot, stored) = packing::packed(repo, id, (&index, &beside), &task.stop, |chunks| {
            let mut intake = TreeIntake::new(repo, chunks, memory, past, task)?;
            history.walk(past, &mut intake)?;
            intake.finish(past.described())
        })?;
        snapshot.id = id;
        snapshot.statistics.bytes_stored = stored.bytes;
        self.change(&mut snapshot);
        let committed = packing::commit(repo, snapshot, others || stored.counted_on_others, task)?;
        if let Some(snapshot) = &committed {
            self.note(snapshot, past)?;
        }
        Ok(committed.map(|snapshot| Imported { snapshot }))
    }

    /// A note is an object of its own.
    fn note(&self, snapshot: &Snapshot, past: &PastSnapshot) -> Result<()> {
        if past.note.is_empty() || self.repo.only_writes() {
            return Ok(());
        }
        let (host, user) = (crate::sys::process::host_name(), past.user.clone());
        let (removed, added, note) = (Vec::new(), Vec::new(), Some(past.note.clone()));
        let time = self.task.now();
        let said = Annotation { snapshot: snapshot.id, time, host, user, clears_tags: false, removed, added, note, pin: None };
        annotations::write(self.repo, &annotations::read_all(self.repo)?, &said)
    }

    fn change(&self, snapshot: &mut Snapshot) {
        let ImportOptions { host, time, tags } = self.options;
        if let Some(host) = host {
            snapshot.host.clone_from(host);
        }
        if let Some(time) = time {
            snapshot.time = *time;
        }
        snapshot.tags.extend_from_slice(tags);
        snapshot.tags = sorted(std::mem::take(&mut snapshot.tags));
        snapshot.finished = self.task.now();
    }
}

fn sorted(mut list: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    list.sort_unstable();
    list.dedup();
    list
}

/// The error of an import that somebody stopped.
fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the import was stopped; the same command goes on with it")
}

/// The first 16 bytes of the BLAKE3 of these parts, each with its length before it.
fn key_of(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}
