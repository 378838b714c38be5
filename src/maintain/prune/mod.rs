//! Prune: deletes what no snapshot needs.
//!
//! ```text
//! look: snapshots, forgotten, segments, deletion lists, packs ──▶ mark ──▶ survey ──▶ plan (said before anything is done)
//! settle dead sessions ─▶ finish older deletion lists ─▶ list the dead packs ─▶ settle ─▶ look again ─▶ delete
//!                      ─▶ repack ─▶ list the copied packs ─▶ settle ─▶ look again ─▶ delete
//!                      ─▶ rewrite segments ─▶ drop the lists that are carried out
//! ```
//!
//! It can be killed anywhere: what it leaves is a list, which the next one carries out first, or garbage, which the
//! next one finds. Apart from the small list nothing is written before the first deletion. The rules, and what each
//! of them is for, are in `docs/durability.md`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::local::watch::SessionWatch;
use crate::maintain::prune::mark::{MarkReader, Marks};
use crate::maintain::prune::sessions::{Living, SessionWait, Settle};
use crate::maintain::prune::steady::{is_missing, steady};
use crate::maintain::prune::survey::{Proven, Survey};
use crate::maintain::prune::view::RepositoryView;
use crate::model::{PackId, SnapshotId, Timestamp};
use crate::observe::{Event, Observer};
use crate::repo::beat::DEAD_AFTER;
use crate::repo::damaged::{self, DamagedPacks};
use crate::repo::reader::ChunkReader;
use crate::repo::{Repository, parallel};
use crate::storage::{Class, Name};
use crate::task::Task;

mod carry;
mod mark;
mod marked;
mod packs;
mod plan;
mod repack;
mod segments;
mod sessions;
mod small;
mod steady;
mod survey;
mod tell;
mod view;

pub use plan::{PrunePlan, Tally, Unused};
pub use sessions::open as open_sessions;

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// How much unused space may stay in packs that hold something needed.
    pub max_unused: Unused,
    /// The most bytes of packs to repack.
    pub max_repack: u64,
    /// Sessions to end though they may live.
    pub fence: Vec<SnapshotId>,
    /// How long to wait for sessions that live. With a time to wait, writers that begin later are not waited for.
    pub wait: Option<Duration>,
    /// A writer whose process cannot be looked up is dead after this time without a sign of life.
    pub dead_after: Duration,
    /// Where this machine remembers since when sessions stand still; `None`: nowhere.
    pub state: Option<PathBuf>,
    /// Snapshots that count as forgotten, for a plan of what forgetting them would free. Empty for a real prune.
    pub without: HashSet<SnapshotId>,
    /// Bytes of decoded frames in memory.
    pub memory: u64,
    /// That nobody else is at work is known: only so is a store pruned that does not decide between two writers.
    pub only_writer: bool,
    /// Whether forgotten snapshots are left for the time that their marks say.
    pub grace: bool,
    /// Whether what is sealed with a former key is sealed anew.
    pub rekey: bool,
    /// Nothing more is deleted or repacked after this time, counted from the beginning of [`Prune::prepare`].
    pub max_duration: Option<Duration>,
    /// Whether damage that is met may be recorded in the repository. False for a caller that must change nothing.
    pub record: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            max_unused: Unused::default(),
            max_repack: u64::MAX,
            fence: Vec::new(),
            wait: None,
            dead_after: DEAD_AFTER,
            state: None,
            without: HashSet::new(),
            memory: 48 << 20,
            only_writer: false,
            grace: true,
            rekey: false,
            max_duration: None,
            record: true,
        }
    }
}

impl PruneOptions {
    /// The time at which forgotten snapshots are left that are to be left; `None`: they are not.
    fn keeps_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.grace.then_some(now)
    }

    /// Counts the objects of snapshots that count as forgotten: then these go, too.
    fn count_without(&self, repo: &Repository, plan: &mut PrunePlan) -> Result<()> {
        if self.without.is_empty() {
            return Ok(());
        }
        for (name, size) in repo.storage().list(Class::Snapshots)? {
            if matches!(name, Name::Snapshot(id) if self.without.contains(&id)) {
                plan.snapshots.add(size);
                plan.freed += size;
            }
        }
        Ok(())
    }
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Deleted packs.
    pub packs: Tally,
    /// Deleted segments.
    pub segments: Tally,
    /// Removed objects that were not authentic.
    pub ignored: u64,
    /// Deleted objects of forgotten snapshots.
    pub snapshots: Tally,
    /// Parts of objects that killed writers had left.
    pub leftovers: Tally,
    /// New packs and segments.
    pub written: Tally,
    /// Sessions that were ended.
    pub sessions: u64,
    /// Deletion lists that stay until the next prune.
    pub lists: u64,
    /// Groups of parity that were dissolved, since little of them lives.
    pub parity_groups: u64,
    /// Deleted objects of parity.
    pub parity: Tally,
    /// Packs that are still sealed with a former key, if that was asked.
    pub former: Tally,
    /// Packs that there was no time to delete or repack.
    pub left: Tally,
    /// Packs that could not be freed: they hold the only copies of chunks that snapshots need, and these are damaged.
    pub stuck: Tally,
    /// Such chunks.
    pub lost: u64,
    /// Names of some of those packs.
    pub examples: Vec<PackId>,
}

impl Report {
    /// What the repository is shorter by.
    pub fn freed(&self) -> u64 {
        let deleted = self.packs.bytes + self.segments.bytes + self.snapshots.bytes + self.leftovers.bytes + self.parity.bytes;
        deleted.saturating_sub(self.written.bytes)
    }
}

/// A prune that has looked and not yet done anything.
pub struct Prune<'a> {
    repo: &'a Repository,
    options: &'a PruneOptions,
    /// Its clock is fixed: a prune takes the time once.
    task: Task<'a>,
    patience: SessionWait,
    /// Until when sessions that live are waited for.
    until: Option<Instant>,
    /// When the time is over that it may take.
    over: Option<Instant>,
    reader: ChunkReader,
    view: RepositoryView,
    marks: Marks,
    survey: Survey,
    proven: Proven,
    /// Packs that are sealed with a former key, if that was asked.
    former: HashSet<PackId>,
    /// Packs that were copied from, and are to go.
    avoid: HashSet<PackId>,
    /// Packs that were deleted.
    deleted: HashSet<PackId>,
    plan: PrunePlan,
    report: Report,
}

impl<'a> Prune<'a> {
    /// Looks at everything and plans. Nothing is changed. Errors: a session that lives ([`crate::ErrorKind::Busy`]); a
    /// page or chunk that a snapshot needs and that is not there, or damaged; a listing that failed.
    pub fn prepare(repo: &'a Arc<Repository>, options: &'a PruneOptions, task: &Task<'a>) -> Result<Self> {
        let (now, began) = (task.now(), Instant::now());
        let task = task.clone().at(now);
        let (watch, stop) = (SessionWatch::new(options.state.as_deref(), repo.id()), task.stop.clone());
        let patience = SessionWait { watch, dead_after: options.dead_after, stop };
        let until = options.wait.map(|wait| Instant::now() + wait);
        if until.is_none() {
            let (older_than, living) = (None, Living::Refuse);
            Settle { fence: &options.fence, older_than, now, patience: &patience, living }.find(repo)?;
        }
        let mut proven = Proven::default();
        let (view, reader, marks, survey) = steady(repo, || {
            let view = RepositoryView::read(repo, None, options.keeps_at(now))?;
            let reader = ChunkReader::new(repo.clone(), view.index.clone(), options.memory)?;
            let walk = MarkReader { reader: &reader, without: &options.without, task: &task };
            let mut marks = Marks::new(view.index.clone());
            let marked = marks.update(repo, &view, &walk).map_err(|e| view.blame(e));
            if options.record {
                write_down(repo, &reader.found(), now, task.observer);
            }
            marked?;
            let survey = Survey::new(&view, &marks, &HashSet::new(), (&reader, &mut proven))?;
            Ok((view, reader, marks, survey))
        })
        .map_err(untouched)?;
        let made_up = sessions::made_up(repo)?.len();
        let former = if options.rekey { former_packs(repo, &reader, &survey)? } else { HashSet::new() };
        let repack = plan::to_repack(&survey, options, &former);
        let (leftovers, free) = (repo.storage().leftovers(false)?, repo.storage().free_space()?);
        let fitting = plan::with_room(&view, &survey, repack.clone(), leftovers, free);
        let mut plan = plan::plan(&view, &survey, &fitting, leftovers);
        repack.iter().skip(fitting.len()).for_each(|at| plan.no_room.add(survey.packs.list[*at].size));
        plan.live = marks.snapshots;
        options.count_without(repo, &mut plan)?;
        (plan.kept, plan.kept_until) = (view.kept.len() as u64, view.kept.values().max().copied());
        plan.ignored = (view.ignored.len() + marks.made_up.len() + made_up) as u64;
        tell::tell(&survey, &repack, task.observer);
        survey.packs.list.iter().filter(|pack| former.contains(&pack.id)).for_each(|pack| plan.former.add(pack.size));
        let (avoid, deleted, report) = (HashSet::new(), HashSet::new(), Report::default());
        let over = options.max_duration.map(|most| began + most);
        Ok(Prune {
            repo,
            options,
            task,
            patience,
            until,
            over,
            reader,
            view,
            marks,
            survey,
            proven,
            former,
            avoid,
            deleted,
            plan,
            report,
        })
    }

    /// What it will do.
    pub fn plan(&self) -> &PrunePlan {
        &self.plan
    }

    /// Looks again at everything: lists anew, and marks what is new. What was looked at before may be reckoned with in
    /// choosing what to mark for deletion; before anything is deleted this must follow on the settling of sessions (rule 7).
    fn look(&mut self) -> Result<()> {
        match self.look_at(true) {
            // What was marked for a snapshot that is forgotten since may be deleted by now. Only what nothing but this look
            // has marked can be lost.
            Err(e) if is_missing(&e) => {
                let repo = self.repo;
                steady(repo, || self.look_at(false))
            }
            other => other,
        }
    }

    /// One look, which goes on with the marks that there are, or begins anew.
    fn look_at(&mut self, go_on: bool) -> Result<()> {
        let repo = self.repo;
        self.view = RepositoryView::read(repo, Some(&self.view.index), self.options.keeps_at(self.task.now()))?;
        self.reader.set_index(self.view.index.clone());
        match go_on {
            true => self.marks.carry(&self.view.index)?,
            false => self.marks = Marks::new(self.view.index.clone()),
        }
        let walk = MarkReader { reader: &self.reader, without: &self.options.without, task: &self.task };
        self.marks.update(repo, &self.view, &walk)?;
        self.survey = Survey::new(&self.view, &self.marks, &self.avoid, (&self.reader, &mut self.proven))?;
        Ok(())
    }
}

/// Ends the sessions whose writers are dead; an error if one lives.
pub(crate) fn settle(repo: &Repository, options: &PruneOptions, task: &Task<'_>) -> Result<u64> {
    let watch = SessionWatch::new(options.state.as_deref(), repo.id());
    let patience = SessionWait { watch, dead_after: options.dead_after, stop: task.stop.clone() };
    let (older_than, living) = (None, Living::Refuse);
    Settle { fence: &options.fence, older_than, now: task.now(), patience: &patience, living }.settle(repo)
}

/// Writes down what was found damaged. On a full disk that cannot be done, and prune has to work there all the same.
fn write_down(repo: &Repository, found: &DamagedPacks, now: Timestamp, observer: &dyn Observer) {
    if let Err(e) = damaged::record(repo, found, "yester prune", now) {
        let message = format!("damage was found and could not be written down: {e}");
        observer.event(&Event::Warning { subject: b"damaged", message: &message });
    }
}

/// The packs that are sealed with a former key. The first bytes of each are read.
fn former_packs(repo: &Repository, reader: &ChunkReader, survey: &Survey) -> Result<HashSet<PackId>> {
    let packs: Vec<(PackKind, PackId)> =
        survey.packs.list.iter().filter(|pack| pack.is_readable()).filter_map(|pack| Some((pack.kind?, pack.id))).collect();
    let read = parallel::many(repo, &packs, |(kind, id)| reader.pack_key(*kind, *id).map(|key| key.is_former()));
    let mut out = HashSet::new();
    for ((_, id), found) in packs.iter().zip(read) {
        match found {
            Ok(false) => {}
            Ok(true) => drop(out.insert(*id)),
            // What is damaged is said elsewhere, and cannot be copied.
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

fn untouched(e: Error) -> Error {
    let e = match e.kind() {
        ErrorKind::NotFound => e.with_kind(ErrorKind::Corrupt),
        _ => e,
    };
    match e.kind() {
        ErrorKind::Corrupt | ErrorKind::WentBack => {
            e.context("nothing was deleted, since not all that snapshots need can be found")
        }
        _ => e,
    }
}
