//! One session of an ingest: from its begin to the commit of the snapshot.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::MAX_LIST;
use crate::ingest::assemble::Assembled;
use crate::ingest::exclude::{self, Rules};
use crate::ingest::input::Input;
use crate::ingest::options::{IngestOptions, IngestReport};
use crate::ingest::others::Others;
use crate::ingest::parent::{self, ParentTree};
use crate::ingest::pipeline::{Pipeline, PipelineOutput};
use crate::ingest::plan::WalkReport;
use crate::ingest::sink::{Stored, stopped};
use crate::ingest::sources::SourceEntry;
use crate::ingest::stand_in::{GivenPlace, StandIns, TakeSnapshots};
use crate::ingest::still::Frozen;
use crate::ingest::{limits, parts, tell};
use crate::local::at_work::AtWork;
use crate::local::watch::SessionWatch;
use crate::model::{Chain, Node, Snapshot, SnapshotId, Statistics, Timestamp};
use crate::observe::Event;
use crate::repo::index::{Index, merge};
use crate::repo::reader::ChunkReader;
use crate::repo::tree::TreeReader;
use crate::repo::work::{self, SessionEnd};
use crate::repo::{Repository, damaged, session, signs};
use crate::storage::Name;
use crate::task::Task;

/// Decoded frames of the parent: of its trees, and those that frames are made differences from.
const PARENT_FRAMES: u64 = 12 << 20;
/// Decoded pages of the parent's trees.
const PARENT_PAGES: u64 = 3 << 20;

/// How an attempt ended.
pub(crate) enum End {
    /// The snapshot is stored, or need not be.
    Done(Box<IngestReport>),
    /// Its session was fenced: nothing of what it believed may be kept (rule 5 of docs/durability.md).
    Fenced,
    /// It met damage that was not known, and may have counted on what is damaged.
    Damaged,
}

/// What an attempt works with.
pub(crate) struct Attempt<'a> {
    /// Where it goes.
    pub(crate) repo: &'a Arc<Repository>,
    /// What is ingested.
    pub(crate) inputs: &'a [Arc<dyn Input>],
    /// The tree of given paths.
    pub(crate) places: &'a SourceEntry,
    /// What is left out.
    pub(crate) rules: &'a Rules,
    /// How it is ingested.
    pub(crate) options: &'a IngestOptions,
    /// How it is stopped, where it reports, and its clock.
    pub(crate) task: &'a Task<'a>,
    /// An earlier session of this ingest was fenced, or met damage.
    pub(crate) again: bool,
    /// How long others stood still.
    pub(crate) watch: &'a Arc<SessionWatch>,
}

/// What a session found in the repository when it began.
struct Base {
    id: SnapshotId,
    start: Timestamp,
    /// The given paths, sorted.
    paths: Vec<Vec<u8>>,
    parent: Option<Snapshot>,
    index: Arc<Index>,
    /// Whether other sessions were open.
    others: bool,
    /// Reads the parent, and remembers the damage that it meets.
    reader: Option<Arc<ChunkReader>>,
}

impl Attempt<'_> {
    /// One session.
    pub(super) fn run(&self) -> Result<End> {
        let start = self.task.now();
        if self.options.dry_run {
            return self.in_session(SnapshotId([0; 32]), start);
        }
        let ended = work::in_session(self.repo, &|| self.task.now(), |id| {
            Ok(match self.in_session(id, start)? {
                End::Done(report) if report.committed => SessionEnd::Committed(End::Done(report)),
                End::Fenced => SessionEnd::Fenced,
                other => SessionEnd::Uncommitted(other),
            })
        })?;
        let end = ended.unwrap_or(End::Fenced);
        if let End::Done(report) = &end {
            self.settle(report);
        }
        Ok(end)
    }

    /// Merges segments of the index when there are many. The snapshot does not depend on it, nor does the next ingest.
    fn settle(&self, report: &IngestReport) {
        if report.snapshot.statistics.bytes_stored > 0 && !self.repo.only_writes() {
            let settled = AtWork::new(report.snapshot.id, self.watch.clone())
                .look(self.repo)
                .and_then(|others| merge::settle(self.repo, &Index::load_with_damage(self.repo, None)?.0, !others));
            // Somebody else who merges, or a prune, deleted a segment first.
            if let Err(e) = settled
                && e.kind() != ErrorKind::NotFound
            {
                let message = format!("the snapshot is stored, but the index could not be merged: {e}");
                self.task.observer.event(&Event::Warning { subject: b"index", message: &message });
            }
        }
    }

    /// Says and writes down what the parent's reader found damaged. True: something of it was not known when the index was
    /// loaded.
    fn met_damage(&self, base: &Base) -> Result<bool> {
        let found = base.reader.as_deref().map(ChunkReader::found).unwrap_or_default();
        if found.is_empty() || base.index.damaged().covers(&found) {
            return Ok(false);
        }
        for pack in found.keys() {
            let message = "a part of it is damaged: what it held of these files is stored again (yester check --read-data \
                           says what else that hits)";
            self.task.observer.event(&Event::Warning { subject: Name::Pack(*pack).to_string().as_bytes(), message });
        }
        if self.options.dry_run {
            return Ok(false);
        }
        damaged::record(self.repo, &found, "read by an ingest", self.task.now())?;
        Ok(true)
    }

    /// Everything between the session's begin and its end.
    fn in_session(&self, id: SnapshotId, start: Timestamp) -> Result<End> {
        let mut base = self.base(id, start)?;
        let parent_tree = self.parent_tree(&base)?;
        base.reader = parent_tree.as_ref().map(|tree| tree.trees().chunks().clone());
        let take = self.prepare_stand_ins()?;
        let mut frozen = Frozen::begin(self.options.still.as_ref().filter(|_| !self.options.dry_run))?;
        let stand_ins = take.map_or_else(|| Ok(StandIns::default()), |take| take())?;
        // What is read from snapshots may go on at once.
        let mut stood_still = if stand_ins.whole { Some(frozen.thaw()) } else { None };
        let mut thaw = || {
            stood_still.get_or_insert_with(|| frozen.thaw());
        };
        let output = self.run_pipeline(&base, (parent_tree, &stand_ins), &mut thaw);
        drop(stand_ins);
        // What was read of the parent may lie in the same frames as what was counted on without being read.
        if self.met_damage(&base)? && !self.task.is_stopped() {
            return Ok(End::Damaged);
        }
        let PipelineOutput { walked, mut assembled, stored, parent_tree } = output?;
        let stood_still = stood_still.unwrap_or(Ok(0))?;
        self.tell_buckets(&walked);
        let root = self.root(&walked, &mut assembled)?;
        let given = std::mem::take(&mut assembled.given);
        let mut snapshot = self.snapshot(&base, root, &walked, &assembled, (&stored, stood_still))?;
        let holds = || parent_tree.zip(base.parent.as_ref()).is_some_and(|(tree, p)| tree.holds(&p.root, &given));
        let same = self.options.skip_if_unchanged && snapshot.statistics.errors == 0 && holds();
        // That has read the parent, too.
        if same && self.met_damage(&base)? {
            return Ok(End::Damaged);
        }
        let committed = !self.options.dry_run && !same && self.options.only.is_none();
        let barrier = base.others || stored.counted_on_others;
        let now = &|| self.task.now();
        if committed && !work::commit(self.repo, &mut snapshot, (barrier, &self.options.gone), now)? {
            return Ok(End::Fenced);
        }
        let (missing_sources, unmatched) = (walked.missing_sources, self.rules.unmatched());
        let signs = if committed { signs::beside(base.parent.as_ref(), &snapshot) } else { Vec::new() };
        tell::signs(&snapshot, &signs, self.task.observer);
        Ok(End::Done(Box::new(IngestReport { snapshot, committed, missing_sources, unmatched, signs })))
    }

    /// Says what came of each bucket, and how long it was waited for its limits.
    fn tell_buckets(&self, walked: &WalkReport) {
        for walked in walked.buckets.iter().filter(|walked| walked.failure.is_none()) {
            let Some((input, bucket)) = self.inputs.get(walked.number).and_then(|input| Some((input, input.bucket()?))) else {
                continue;
            };
            let (objects, unchanged, waited) = (walked.objects, walked.unchanged, bucket.waited());
            let message = format!("{objects} objects, of which {unchanged} are unchanged and were not read{waited}");
            self.task.observer.event(&Event::Note { subject: input.shown(), message: &message });
        }
    }

    /// Reads what there is.
    fn base(&self, id: SnapshotId, start: Timestamp) -> Result<Base> {
        let paths = sorted(self.inputs.iter().map(|input| input.stored().to_vec()).collect());
        // Snapshots first, then the index, as every reader does: so the index has everything that a snapshot names.
        let parent = parent::choose(self.repo, &paths, self.options)?;
        let index = Arc::new(Index::load_for_writing(self.repo)?);
        // Asked for after the index: a writer whose chunks it names has ended with a barrier, or its session is seen here.
        let others = !self.options.dry_run && session::others(self.repo, id)?;
        Ok(Base { id, start, paths, parent, index, others, reader: None })
    }

    /// What reads the parent.
    fn parent_tree(&self, base: &Base) -> Result<Option<ParentTree>> {
        let Some(snapshot) = &base.parent else { return Ok(None) };
        // What a writer does not count on may be read all the same.
        let seen = match base.index.ignored().is_empty() {
            true => base.index.clone(),
            false => Arc::new(Index::load_to_read(self.repo, Some(&base.index))?),
        };
        let chunks = Arc::new(ChunkReader::new(self.repo.clone(), seen, PARENT_FRAMES)?);
        Ok(Some(ParentTree::new(Arc::new(TreeReader::new(chunks, PARENT_PAGES)?), snapshot, self.options)))
    }

    /// Prepares snapshots of file systems, where they are wanted.
    fn prepare_stand_ins(&self) -> Result<Option<TakeSnapshots>> {
        let Some(volumes) = self.options.volumes.as_ref().filter(|_| !self.options.dry_run) else { return Ok(None) };
        let place = |input: &Arc<dyn Input>| Some(GivenPlace { path: input.path()?.to_owned(), stored: input.stored().to_vec() });
        let given: Vec<GivenPlace> = self.inputs.iter().filter_map(place).collect();
        (volumes.0)(&given, &|given, stored| !self.rules.excludes_below(given, stored)).map(Some)
    }

    fn run_pipeline(
        &self,
        base: &Base,
        (parent_tree, stand_ins): (Option<ParentTree>, &StandIns),
        thaw: &mut dyn FnMut(),
    ) -> Result<PipelineOutput> {
        let pipeline = Pipeline {
            repo: self.repo,
            inputs: self.inputs,
            places: self.places,
            rules: self.rules,
            options: self.options,
            task: self.task,
            again: self.again,
            session: base.id,
            index: &base.index,
            others: &Mutex::new(Others::new(base.id, base.index.clone(), base.others, self.watch.clone())),
            parent: base.parent.as_ref(),
            trees: parent_tree.as_ref().map(|tree| tree.trees().clone()),
            stand_ins,
        };
        pipeline.run(parent_tree, thaw)
    }

    /// The node of `/`, unless nothing of what was given could be ingested.
    fn root(&self, walked: &WalkReport, assembled: &mut Assembled) -> Result<Node> {
        let root = assembled.root.take().ok_or_else(stopped)?;
        if walked.missing_sources == self.inputs.len() {
            return Err(Error::new(ErrorKind::NotFound, "none of the given paths can be ingested"));
        }
        let failed = walked.buckets.iter().any(|bucket| bucket.failure.is_some());
        if assembled.given.is_empty() && (failed || assembled.statistics.errors > 0) {
            return Err(Error::new(ErrorKind::Io, "nothing that was given could be read"));
        }
        Ok(root)
    }

    /// The snapshot of what was stored while the sources stood still for so many milliseconds.
    fn snapshot(
        &self,
        base: &Base,
        root: Node,
        walked: &WalkReport,
        assembled: &Assembled,
        (stored, stood_still): (&Stored, u64),
    ) -> Result<Snapshot> {
        let mut statistics = statistics(walked, assembled, stored);
        let owners = limits::owners((&walked.uids, &walked.gids), MAX_LIST, &mut statistics, self.task.observer);
        let finished = self.task.now();
        let Assembled { ended, objects, changed, .. } = assembled;
        let found = parts::PartsFound { ended, buckets: &walked.buckets, objects, changed: *changed };
        let time = (base.start, finished);
        let mut composition = parts::composition(self.inputs, self.options, &found, &statistics, time);
        composition.frozen = stood_still;
        parts::require(self.inputs, &composition.parts)?;
        Ok(Snapshot {
            id: base.id,
            time: self.options.time.unwrap_or(base.start),
            finished,
            host: self.options.host.clone(),
            user: self.options.user.clone(),
            paths: base.paths.clone(),
            tags: sorted(self.options.tags.clone()),
            parent: base.parent.as_ref().map(|p| p.id),
            writer: None,
            chain: Chain::default(),
            root,
            scan: assembled.scan,
            scan_start: base.start,
            links: assembled.links,
            owners,
            rules: exclude::recorded(&self.options.exclude, walked.repositories.as_deref()),
            composition,
            statistics,
            program: format!("yester {}", env!("CARGO_PKG_VERSION")).into_bytes(),
        })
    }
}

/// What the walk counted, corrected by what was stored: a size may be made up, and a file may change.
fn statistics(walked: &WalkReport, assembled: &Assembled, stored: &Stored) -> Statistics {
    let (mut statistics, built) = (walked.statistics, &assembled.statistics);
    statistics.files -= built.files;
    statistics.errors += built.errors;
    statistics.files_new = built.files_new;
    statistics.files_changed = built.files_changed;
    statistics.files_unchanged += built.files_unchanged;
    statistics.bytes = built.bytes;
    statistics.with_attributes = built.with_attributes;
    statistics.bytes_new = built.bytes_new;
    statistics.bytes_stored = stored.bytes;
    statistics
}

fn sorted(mut list: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    list.sort_unstable();
    list.dedup();
    list
}
