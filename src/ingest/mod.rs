//! Ingest: directories in, a snapshot out.
//!
//! ```text
//! scanners ──┐                       ┌─ readers (small files, in batches) ─┐
//!            planner ── tasks ───────┤                                     ├── messages ── assembler
//! parent ────┘   └───── steps, in order of the walk ─────────────────────────────────────┘    │ frames, numbered
//!                                     └─ readers (big files, in pieces) ──┘                  sealers (all cores)
//!                                                                                             │ packs
//!                                                                                            storer → segment → commit
//! ```
//!
//! Memory is bounded by two budgets: bytes that readers hold, and steps that the planner is ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::unbounded;
use parking_lot::Mutex;

use crate::chunk::codec::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::MAX_LIST;
use crate::ingest::assemble::streams::Streams;
use crate::ingest::assemble::{Assembled, Assembler, Readers};
use crate::ingest::budget::Budget;
use crate::ingest::chunks::Chunks;
use crate::ingest::claims::Claims;
use crate::ingest::count::Counted;
use crate::ingest::exclude::Rules;
use crate::ingest::follow::Follow;
use crate::ingest::handles::Handles;
use crate::ingest::level::Adoption;
use crate::ingest::others::Others;
use crate::ingest::parent::ParentTree;
use crate::ingest::plan::{Outlets, Planner, Walked};
use crate::ingest::read::Reading;
use crate::ingest::scan::Scanner;
use crate::ingest::shares::{Ending, Shares, cores};
use crate::ingest::sink::{Sink, Stored, stopped};
use crate::ingest::sources::Place;
use crate::ingest::still::Frozen;
use crate::model::{Content, Kind, Snapshot, SnapshotId, Timestamp};
use crate::observe::{Event, Observer};
use crate::repo::at_work::AtWork;
use crate::repo::beat::{self, Beats};
use crate::repo::index::Index;
use crate::repo::index::merge;
use crate::repo::pack::DeltaTrials;
use crate::repo::reader::ChunkReader;
use crate::repo::tree::TreeReader;
use crate::repo::{Repository, damaged, session, snapshots};
use crate::storage::Name;
use crate::sys::process;

mod assemble;
mod budget;
pub(crate) mod chunks;
mod claims;
mod count;
mod exclude;
pub(crate) mod follow;
mod grid;
mod groups;
mod handles;
mod holes;
pub mod input;
mod level;
mod limits;
mod options;
pub(crate) mod others;
mod parent;
mod parts;
mod plan;
mod read;
pub(crate) mod recipe;
mod scan;
mod shares;
pub(crate) mod sink;
pub mod sources;
mod still;
mod stream;
mod tell;

pub use input::{Input, Stream};
pub use options::{Exclude, IngestOptions, IngestReport, Parent, Source};
pub use still::Still;

/// Bytes that readers may hold.
const READ_BUDGET: u64 = 16 << 20;
/// Steps that the planner may be ahead.
const LEAD: u64 = 4096;
/// Threads that scan directories ahead.
const SCANNERS: usize = 4;
/// How often a writer whose session was fenced begins again.
const FENCED_TRIES: u32 = 5;
/// How often an ingest that met damage begins again: each time without what was found damaged until then.
const DAMAGED_TRIES: u32 = 5;
/// Decoded frames of the parent: of its trees, and those that frames are made differences from.
const PARENT_FRAMES: u64 = 12 << 20;
/// Decoded pages of the parent's trees.
const PARENT_PAGES: u64 = 3 << 20;

/// The time now.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

/// Refuses what [`ingest`] would refuse of what it is given: before a repository is opened, or made.
pub fn check(inputs: &[Arc<dyn Input>], options: &IngestOptions) -> Result<()> {
    sources::places(inputs)?;
    Rules::new(options, &[])?;
    limits::check(inputs, options)
}

/// Stores what is at these paths as a new snapshot: [`ingest_all`] without streams.
pub fn ingest(
    repo: &Arc<Repository>,
    sources: &[Source],
    options: &IngestOptions,
    stop: &Arc<AtomicBool>,
    observer: &dyn Observer,
) -> Result<IngestReport> {
    let inputs: Vec<Arc<dyn Input>> = sources.iter().map(|source| Arc::new(source.clone()) as Arc<dyn Input>).collect();
    ingest_all(repo, &inputs, options, stop, observer)
}

/// Stores `inputs` as a new snapshot. Setting `stop` ends it cleanly: no snapshot, and what was stored is found by
/// the next ingest. An error of the repository is final; what cannot be read of the source is said to `observer`,
/// counted, and left out.
pub fn ingest_all(
    repo: &Arc<Repository>,
    inputs: &[Arc<dyn Input>],
    options: &IngestOptions,
    stop: &Arc<AtomicBool>,
    observer: &dyn Observer,
) -> Result<IngestReport> {
    let places = sources::places(inputs)?;
    let mut never = options.never.clone();
    never.extend(std::iter::once(repo.storage().local_path()).flatten());
    let rules = Rules::new(options, &never)?;
    limits::check(inputs, options)?;
    process::raise_file_limit();
    let (mut fenced, mut damaged) = (0, 0);
    loop {
        let again = fenced + damaged > 0;
        let attempt = Attempt { repo, inputs, places: &places, rules: &rules, options, stop, observer, again };
        match attempt.run()? {
            End::Done(report) => return Ok(*report),
            End::Fenced => {
                fenced += 1;
                let message = "it was ended by a prune, or removed: the ingest begins again, and finds what it has stored as \
                               far as that is still there";
                observer.event(&Event::Note { subject: b"session", message });
            }
            End::Damaged => damaged += 1,
        }
        if fenced == FENCED_TRIES {
            let text = "the session was fenced again and again: is something pruning this repository without end?";
            return Err(Error::new(ErrorKind::Busy, text));
        }
        if damaged == DAMAGED_TRIES {
            let text = "no snapshot was taken: each time that the ingest began again it met more damage in the repository \
                        (yester check --read-data finds all of it, then ingest again)";
            return Err(Error::corrupt(text));
        }
    }
}

/// How an attempt ended.
enum End {
    Done(Box<IngestReport>),
    /// Its session was fenced: nothing of what it believed may be kept (rule 5 of the protocol).
    Fenced,
    /// It met damage that was not known, and may have counted on what is damaged.
    Damaged,
}

struct Attempt<'a> {
    repo: &'a Arc<Repository>,
    inputs: &'a [Arc<dyn Input>],
    places: &'a Place,
    rules: &'a Rules,
    options: &'a IngestOptions,
    stop: &'a Arc<AtomicBool>,
    observer: &'a dyn Observer,
    /// An earlier session of this ingest was fenced, or met damage.
    again: bool,
}

impl Attempt<'_> {
    /// One session.
    fn run(&self) -> Result<End> {
        let start = now();
        if self.options.dry_run {
            return self.stored(SnapshotId([0; 32]), start);
        }
        let id = session::begin(self.repo, start)?;
        let beats = Beats::start(self.repo, id, beat::PERIOD);
        let stored = self.stored(id, start);
        drop(beats);
        match stored {
            Ok(End::Done(report)) => {
                // A commit was read back; a snapshot that was skipped leaves a fence.
                match report.committed {
                    true => session::end(self.repo, id)?,
                    false => session::abandon(self.repo, id, now())?,
                }
                self.settle(&report);
                Ok(End::Done(report))
            }
            Ok(End::Fenced) => {
                session::end(self.repo, id)?;
                Ok(End::Fenced)
            }
            Ok(End::Damaged) => {
                session::abandon(self.repo, id, now())?;
                Ok(End::Damaged)
            }
            // What a fenced writer looked for may have been deleted since: that is no error of the repository.
            Err(_) if session::is_fenced(self.repo, id) => {
                session::end(self.repo, id)?;
                Ok(End::Fenced)
            }
            Err(e) => {
                // The storage may be what failed; then the session stays, and prune settles it.
                let _ = session::abandon(self.repo, id, now());
                Err(e)
            }
        }
    }

    /// Merges segments of the index when there are many. The snapshot does not depend on it, nor does the next ingest.
    fn settle(&self, report: &IngestReport) {
        if report.snapshot.statistics.bytes_stored > 0 {
            let settled = AtWork::new(report.snapshot.id)
                .look(self.repo)
                .and_then(|others| merge::settle(self.repo, &Index::load_with_damage(self.repo, None)?.0, !others));
            // Somebody else who merges, or a prune, deleted a segment first.
            if let Err(e) = settled
                && e.kind() != ErrorKind::NotFound
            {
                let message = format!("the snapshot is stored, but the index could not be merged: {e}");
                self.observer.event(&Event::Warning { subject: b"index", message: &message });
            }
        }
    }

    /// Says and writes down what `reader` found damaged. True: something of it was not known when the index was loaded.
    fn met_damage(&self, reader: Option<&ChunkReader>, index: &Index) -> Result<bool> {
        let found = reader.map(ChunkReader::found).unwrap_or_default();
        if found.is_empty() || index.damaged().covers(&found) {
            return Ok(false);
        }
        for pack in found.keys() {
            let message = "a part of it is damaged: what it held of these files is stored again (yester check --read-data \
                           says what else that hits)";
            self.observer.event(&Event::Warning { subject: Name::Pack(*pack).to_string().as_bytes(), message });
        }
        if self.options.dry_run {
            return Ok(false);
        }
        damaged::record(self.repo, &found, "read by an ingest", now())?;
        Ok(true)
    }

    /// Everything between the session's begin and its end.
    fn stored(&self, id: SnapshotId, start: Timestamp) -> Result<End> {
        let mut paths: Vec<Vec<u8>> = self.inputs.iter().map(|input| input.stored().to_vec()).collect();
        paths.sort_unstable();
        paths.dedup();
        // Snapshots first, then the index (rule 1 of every reader): what a snapshot names is in it.
        let parent = parent::choose(self.repo, &paths, self.options)?;
        let index = Arc::new(Index::load_for_writing(self.repo)?);
        // Asked for after the index: whoever stored what is in it has ended by now, with a barrier, or is seen here.
        let others = !self.options.dry_run && session::others(self.repo, id)?;
        let parent_tree = match &parent {
            Some(snapshot) => {
                // What a writer does not count on may be read all the same.
                let seen = match index.ignored().is_empty() {
                    true => index.clone(),
                    false => Arc::new(Index::load_to_read(self.repo, Some(&index))?),
                };
                let chunks = Arc::new(ChunkReader::new(self.repo.clone(), seen, PARENT_FRAMES)?);
                Some(ParentTree::new(Arc::new(TreeReader::new(chunks, PARENT_PAGES)?), snapshot, self.options))
            }
            None => None,
        };
        let reader = parent_tree.as_ref().map(|tree| tree.trees().chunks().clone());
        let mut frozen = Frozen::begin(self.options.still.as_ref().filter(|_| !self.options.dry_run))?;
        let mut stood_still = 0;
        let known = Mutex::new(Others::new(id, index.clone(), others));
        let piped = self.pipeline(&mut || stood_still = frozen.thaw(), id, &index, &known, parent_tree, parent.as_ref());
        // What was read of the parent may lie in the same frames as what was counted on without being read.
        if self.met_damage(reader.as_deref(), &index)? && !self.stop.load(Ordering::Relaxed) {
            return Ok(End::Damaged);
        }
        let (walked, assembled, stored, parent_tree) = piped?;
        let Some(root) = assembled.root else { return Err(stopped()) };
        if walked.missing_sources == self.inputs.len() {
            return Err(Error::new(ErrorKind::NotFound, "none of the given paths can be ingested"));
        }
        if assembled.given.is_empty() && assembled.statistics.errors > 0 {
            return Err(Error::new(ErrorKind::Io, "nothing that was given could be read"));
        }
        let mut statistics = walked.statistics;
        let built = assembled.statistics;
        statistics.files -= built.files;
        statistics.errors += built.errors;
        statistics.files_new = built.files_new;
        statistics.files_changed = built.files_changed;
        statistics.files_unchanged += built.files_unchanged;
        // What was stored, not what the walk saw: a size may be made up, and a file may change.
        statistics.bytes = built.bytes;
        statistics.bytes_new = built.bytes_new;
        statistics.bytes_stored = stored.bytes;
        let owners = limits::owners((&walked.uids, &walked.gids), MAX_LIST, &mut statistics, self.observer);
        let finished = now();
        let mut composition =
            parts::composition(self.inputs, self.options, (&assembled.ended, assembled.changed), &statistics, (start, finished));
        composition.frozen = stood_still;
        parts::require(self.inputs, &composition.parts)?;
        let snapshot = Snapshot {
            id,
            time: self.options.time.unwrap_or(start),
            finished,
            host: self.options.host.clone(),
            user: self.options.user.clone(),
            paths,
            tags: sorted(&self.options.tags),
            parent: parent.as_ref().map(|p| p.id),
            root,
            scan: assembled.scan,
            scan_start: start,
            links: assembled.links,
            owners,
            rules: exclude::recorded(&self.options.exclude, walked.repositories.as_deref()),
            composition,
            statistics,
            program: format!("yester {}", env!("CARGO_PKG_VERSION")).into_bytes(),
        };
        let holds = || parent_tree.zip(parent.as_ref()).is_some_and(|(tree, p)| tree.holds(&p.root, &assembled.given));
        let same = self.options.skip_if_unchanged && statistics.errors == 0 && holds();
        // That has read the parent, too.
        if same && self.met_damage(reader.as_deref(), &index)? {
            return Ok(End::Damaged);
        }
        let skip = self.options.dry_run || same;
        if (others || stored.counted_on_others) && !skip {
            self.repo.storage().sync_everything()?;
        }
        // A session goes after its fence. Where somebody took it away without one, nothing kept prune from what this counts
        // on: then it is fenced here.
        if !skip && session::has_ended(self.repo, id)? {
            session::fence(self.repo, id, now())?;
            return Ok(End::Fenced);
        }
        let committed = !skip && snapshots::commit(self.repo, &snapshot)?;
        if !skip && !committed {
            return Ok(End::Fenced);
        }
        let (missing_sources, unmatched) = (walked.missing_sources, self.rules.unmatched());
        Ok(End::Done(Box::new(IngestReport { snapshot, committed, missing_sources, unmatched })))
    }

    /// The previous version of an input's file, for differences. One that cannot be read lends nothing.
    fn content_before(&self, number: usize, trees: Option<&TreeReader>, parent: Option<&Snapshot>) -> Option<Content> {
        let names = sources::names(self.inputs.get(number)?.stored()).ok()?;
        match trees?.walk_to(&parent?.root, &names).ok()?.0.kind {
            Kind::File(content @ (Content::Items(_) | Content::Tree { .. })) => Some(content),
            _ => None,
        }
    }

    /// All threads, from the walk to the last segment.
    fn pipeline(
        &self,
        thaw: &mut dyn FnMut(),
        session: SnapshotId,
        index: &Arc<Index>,
        others: &Mutex<Others>,
        parent_tree: Option<ParentTree>,
        parent: Option<&Snapshot>,
    ) -> Result<(Walked, Assembled, Stored, Option<ParentTree>)> {
        let shares = Shares::of(process::file_limit(), self.options.readers);
        let (budget, lead) = (Budget::new(READ_BUDGET), Budget::new(LEAD));
        let (scanner, handles) = (Scanner::new(shares.scanned), Handles::new(shares.directories));
        let cutter = self.repo.cutter()?;
        let keys = self.repo.keys();
        let (no_holes, stop, flagless) = (self.options.no_holes, self.stop, AtomicU64::new(0));
        let ahead = shares.ahead;
        let claims = Claims::default();
        let trees = parent_tree.as_ref().map(|parent| parent.trees().clone());
        let trees_of_parent = trees.as_deref();
        let reading =
            Reading { keys, cutter: &cutter, budget: &budget, ahead, no_holes, stop, flagless, claims, trees: trees_of_parent };
        let (steps_in, steps) = unbounded();
        let (small_in, small) = unbounded();
        let (big_in, big) = unbounded();
        let (messages_in, messages) = unbounded();
        let cores = cores();
        // Frames that wait for a core, and packs that wait for the disk: few, since each holds memory.
        let (jobs_in, jobs) = crossbeam_channel::bounded(cores + 1);
        let (complete_in, complete) = crossbeam_channel::bounded(0);
        let trials = DeltaTrials::default();
        let running = if self.options.dry_run { Vec::new() } else { stream::start_all(self.inputs, now) };
        let streamed = Budget::new(reading.budget_of_streams(running.len()));
        let streams = running.iter().map(|r| (r.number, self.content_before(r.number, trees.as_deref(), parent)));
        let streams = Streams::new(&streamed, streams.collect::<Vec<_>>());
        let counted = &Counted::default();
        thread::scope(|scope| {
            let _until = count::Until(counted);
            if self.options.count_ahead && parent.is_none() {
                let run = || count::count(self.options, self.rules, self.places, self.stop, counted);
                // Without a thread there is no count.
                let _ = thread::Builder::new().name("count".to_owned()).spawn_scoped(scope, run);
            }
            (0..SCANNERS).for_each(|_| drop(scope.spawn(|| scanner.work())));
            let mut workers = Vec::new();
            for _ in 0..shares.small_readers {
                let (reading, tasks, out) = (&reading, small.clone(), messages_in.clone());
                workers.push(scope.spawn(move || read::until_the_end(&out, || reading.read_small(&tasks, &out))));
            }
            for _ in 0..shares.big_readers {
                let (reading, tasks, out) = (&reading, big.clone(), messages_in.clone());
                workers.push(scope.spawn(move || read::until_the_end(&out, || reading.read_big(&tasks, &out))));
            }
            for running in running {
                let (reading, budget, observer, out) = (&reading, &streamed, self.observer, messages_in.clone());
                workers.push(
                    scope.spawn(move || read::until_the_end(&out, || reading.read_stream(running, budget, observer, &out))),
                );
            }
            for _ in 0..cores {
                let (jobs, complete, trials) = (jobs.clone(), complete_in.clone(), &trials);
                let (old, compression) = (trees.clone(), self.options.compression);
                workers.push(scope.spawn(move || {
                    let old = old.as_ref().map(|trees| &**trees.chunks());
                    sink::seal_frames(self.repo, Encoder::new(compression)?, trials, old, &jobs, &complete)
                }));
            }
            drop((messages_in, small, big, jobs));
            let readers = Readers { small: small_in.clone(), big: big_in.clone() };
            let (indexed_in, indexed) = unbounded();
            let segment_chunks = self.options.segment_chunks;
            let storer = scope.spawn(move || sink::store_packs(self.repo, complete, &indexed_in, segment_chunks, others));
            let (budget, lead, streamed, messages) = (&budget, &lead, &streamed, &messages);
            let trees = trees.clone();
            let assembler = scope.spawn(move || {
                let sink = Sink::new(self.repo, session, jobs_in, complete_in, self.options.pack_size);
                // While the source is made to stand still, nobody is waited for.
                let wait = if self.options.still.is_some() { Duration::ZERO } else { self.options.wait_for_others };
                let follow = Follow::new(self.repo, others, self.stop, wait);
                let chunks = Chunks::new(keys, index, trees, (!self.options.dry_run).then_some(sink), indexed, follow);
                let scratch = self.repo.scratch();
                let assembler = Assembler::new(
                    chunks,
                    readers,
                    messages,
                    budget,
                    lead,
                    self.observer,
                    self.rules,
                    scratch,
                    parent,
                    streams,
                    counted,
                );
                let result = assembler.run(&steps);
                [budget, lead, streamed].iter().for_each(|budget| budget.close());
                result
            });
            let _ending = Ending { scanner: &scanner, budgets: [budget, lead, streamed] };
            let scratch = self.repo.scratch();
            let outlets = Outlets { steps: steps_in, small: small_in, big: big_in };
            let (observer, stop, adoption) = (self.observer, self.stop, Adoption::new(index, self.again));
            let planner = Planner::new(
                self.options,
                self.rules,
                &scanner,
                adoption,
                parent_tree,
                observer,
                stop,
                outlets,
                lead,
                &handles,
                scratch,
            );
            let walked = planner.walk(self.places, parent.map(|p| &p.root));
            scanner.close();
            if walked.is_err() {
                budget.close();
                streamed.close();
            }
            let assembled = join(assembler);
            // Everything was read: the packs may follow.
            thaw();
            let workers: Vec<Result<()>> = workers.into_iter().map(join).collect();
            let stored = join(storer);
            // The first error that is not only the echo of another is the one to tell.
            let errors = [walked.as_ref().err(), assembled.as_ref().err(), stored.as_ref().err()];
            let echo = |e: &&Error| e.kind() == ErrorKind::Interrupted && !self.stop.load(Ordering::Relaxed);
            let real = errors.into_iter().flatten().chain(workers.iter().filter_map(|r| r.as_ref().err())).any(|e| !echo(&e));
            if !real {
                let (walked, parent_tree) = walked?;
                return Ok((walked, assembled?, stored?, parent_tree));
            }
            Err(first_real([walked.err(), assembled.err(), stored.err()], workers))
        })
    }
}

fn first_real(stages: [Option<Error>; 3], workers: Vec<Result<()>>) -> Error {
    let mut errors: Vec<Error> = stages.into_iter().flatten().chain(workers.into_iter().filter_map(Result::err)).collect();
    let at = errors.iter().position(|e| e.kind() != ErrorKind::Interrupted).unwrap_or(0);
    if errors.is_empty() { stopped() } else { errors.swap_remove(at) }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "a thread of the ingest panicked: this is a defect of yester")))
}

fn sorted(tags: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    tags.dedup();
    tags
}
