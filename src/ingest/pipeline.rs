//! The threads of an ingest, as stages: from the walk to the last segment.
//!
//! ```text
//! stage       threads   takes                         gives                       ends when
//! scanners    4         directories to come           listings (in its cell)      the walk is over
//! planner     this one  listings, parent's tree       steps; tasks                the walk is over
//! readers     1 to 256  tasks: batches of small files messages                    planner and assembler are done
//!             1 to 8    tasks: big files
//!             1 each    streams                                                   the stream is over
//!             some      objects of buckets: as many as there may be connections   the planner is done
//! assembler   1         steps, messages, segments     frames                      the planner is done
//! sealers     1 a core  frames                        packs                       the assembler is done
//! storer      1         packs                         segments; the last one      the sealers are done
//! count       1         (walks by itself)             totals for the progress     it has counted, or the shutdown
//! ```
//!
//! A stage closes its output by dropping its end of the channel, and ends when its input is closed. Packs that are full wait
//! for their last frame at the sealers, so the assembler holds an end of the channel of packs, too.
//! What ends a stage before that is [`StageShutdown`] and nothing else: a stage that fails or panics begins it, and it ends
//! all waiting at channels and budgets. Two waits end otherwise: the assembler's for another ingest of the same tree is
//! bounded in time, and the planner's for open directories ends when readers drop their tasks.

use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use crate::chunk::cutter::Cutter;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::assemble::streams::Streams;
use crate::ingest::assemble::{Assembled, Assembler, Readers};
use crate::ingest::chunks::FrameBuilder;
use crate::ingest::count::{self, Counted};
use crate::ingest::exclude::Rules;
use crate::ingest::follow::Follow;
use crate::ingest::handles::Handles;
use crate::ingest::input::Input;
use crate::ingest::level::Adoption;
use crate::ingest::objects::ObjectTask;
use crate::ingest::options::IngestOptions;
use crate::ingest::others::Others;
use crate::ingest::packing::{Packing, PackingPlan, first_real, join};
use crate::ingest::parent::ParentTree;
use crate::ingest::plan::{Outlets, Planner, WalkReport, WalkStep};
use crate::ingest::read::{Message, ReaderContext};
use crate::ingest::shares::Shares;
use crate::ingest::shutdown::{StageLimits, StageShutdown};
use crate::ingest::sink::{Indexed, Sink, Stored};
use crate::ingest::sources::{self, SourceEntry};
use crate::ingest::stand_in::StandIns;
use crate::ingest::stream;
use crate::ingest::stream::Running;
use crate::model::{Content, Kind, Snapshot, SnapshotId};
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::pack::DeltaTrials;
use crate::repo::tree::TreeReader;
use crate::sys::process;
use crate::task::Task;

/// Bytes that readers may hold.
const READ_BUDGET: u64 = 16 << 20;
/// Steps that the planner may be ahead.
const LEAD: u64 = 4096;
/// Threads that scan directories ahead.
const SCANNERS: usize = 4;

/// What the stages of one session work with.
pub(crate) struct Pipeline<'a> {
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
    /// The session.
    pub(crate) session: SnapshotId,
    /// The index as it was when the session began.
    pub(crate) index: &'a Arc<Index>,
    /// What is known of other writers.
    pub(crate) others: &'a Mutex<Others>,
    /// The parent.
    pub(crate) parent: Option<&'a Snapshot>,
    /// Reads the parent's trees.
    pub(crate) trees: Option<Arc<TreeReader>>,
    /// What is read from snapshots of file systems.
    pub(crate) stand_ins: &'a StandIns,
}

/// What came out of all stages.
pub(crate) struct PipelineOutput {
    /// Of the planner.
    pub(crate) walked: WalkReport,
    /// Of the assembler.
    pub(crate) assembled: Assembled,
    /// Of the storer.
    pub(crate) stored: Stored,
    /// The parent's tree, which the planner had.
    pub(crate) parent_tree: Option<ParentTree>,
}

/// What the threads of several stages use.
struct Shared<'a> {
    cutter: &'a Cutter,
    shares: Shares,
    shutdown: &'a StageShutdown<'a>,
    handles: Arc<Handles>,
    counted: Counted,
}

/// What the assembler takes from the other stages, and gives to them.
struct AssemblerInput<'a> {
    tasks: Readers,
    messages: Receiver<Message>,
    streams: Streams<'a>,
    sink: Sink<'a>,
    indexed: Receiver<Indexed>,
}

type Thread<'scope, T> = ScopedJoinHandle<'scope, Result<T>>;

/// Readers that run.
struct StartedReaders<'scope> {
    tasks: Readers,
    objects: Sender<Vec<ObjectTask>>,
    /// What they have read.
    messages: Receiver<Message>,
    threads: Vec<Thread<'scope, ()>>,
}

impl Pipeline<'_> {
    /// Runs all stages. `thaw` is called when everything was read.
    pub(super) fn run(&self, parent_tree: Option<ParentTree>, thaw: &mut dyn FnMut()) -> Result<PipelineOutput> {
        let cutter = self.repo.cutter()?;
        let shares = Shares::of(process::file_limit(), self.options.readers);
        let running = if self.options.dry_run { Vec::new() } else { stream::start_all(self.inputs, self.task) };
        let streamed = stream::budget_of(&cutter, running.len());
        let limits = StageLimits { scanned: shares.scanned, bytes: READ_BUDGET, steps: LEAD, streamed };
        let shutdown = &StageShutdown::new(&self.task.stop, &limits);
        let handles = Handles::new(shares.directories);
        let shared = &Shared { cutter: &cutter, shares, shutdown, handles, counted: Counted::default() };
        let reading = &self.reading(shared);
        let before: Vec<_> = running.iter().map(|running| (running.number, self.content_before(running.number))).collect();
        let streams = Streams::new(&shutdown.streamed, before);
        let trials = DeltaTrials::default();
        let plan = &self.packing(&trials, shutdown);
        thread::scope(|scope| {
            shutdown.guard(|| {
                self.start_count(scope, shared);
                (0..SCANNERS).for_each(|_| drop(scope.spawn(move || shutdown.scanner.work())));
                let StartedReaders { tasks, objects, messages, threads: readers } =
                    self.start_readers(scope, reading, shared, running);
                let (sink, indexed, packing) = Packing::start(scope, plan);
                let input = AssemblerInput { tasks: tasks.clone(), messages, streams, sink, indexed };
                let (steps, assembler) = self.start_assembler(scope, shared, input);
                let outlets = Outlets { steps, small: tasks.small, big: tasks.big, objects };
                let walked = shutdown.guard(|| self.walk(shared, outlets, parent_tree));
                shutdown.scanner.close();
                let assembled = join(assembler);
                // Everything was read: the packs may follow.
                thaw();
                let readers: Vec<Result<()>> = readers.into_iter().map(join).collect();
                let (sealers, stored) = packing.join();
                self.outcome(walked, assembled, stored, readers.into_iter().chain(sealers).collect())
            })
        })
    }

    fn reading<'a>(&'a self, shared: &'a Shared<'a>) -> ReaderContext<'a> {
        let (keys, trees) = (self.repo.keys(), self.trees.as_deref());
        ReaderContext::new(keys, shared.cutter, shared.shutdown, shared.shares.ahead, self.options.no_holes, trees)
    }

    fn packing<'a>(&'a self, trials: &'a DeltaTrials, shutdown: &'a StageShutdown<'a>) -> PackingPlan<'a> {
        let IngestOptions { compression, pack_size, segment_chunks, .. } = *self.options;
        PackingPlan {
            repo: self.repo,
            session: self.session,
            compression,
            pack_size,
            segment_chunks,
            trials,
            old: self.trees.clone(),
            others: self.others,
            shutdown: Some(shutdown),
        }
    }

    /// The previous version of an input's file, for differences. One that cannot be read is not used.
    fn content_before(&self, number: usize) -> Option<Content> {
        let names = sources::names(self.inputs.get(number)?.stored()).ok()?;
        match self.trees.as_ref()?.walk_to(&self.parent?.root, &names).ok()?.0.kind {
            Kind::File(content @ (Content::Items(_) | Content::Tree { .. })) => Some(content),
            _ => None,
        }
    }

    /// Without a parent, whose size would be a guess: starts the count.
    fn start_count<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>, shared: &'env Shared<'env>) {
        if self.options.count_ahead && self.parent.is_none() {
            let run =
                || count::count(self.options, self.rules, self.places, (shared.shutdown, shared.shares.counted), &shared.counted);
            // Without a thread there is no count.
            let _ = thread::Builder::new().name("count".to_owned()).spawn_scoped(scope, run);
        }
    }

    /// Starts all readers.
    fn start_readers<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        reading: &'env ReaderContext<'env>,
        shared: &'env Shared<'env>,
        streams: Vec<Running>,
    ) -> StartedReaders<'scope> {
        let shutdown = shared.shutdown;
        let (small_in, small) = unbounded();
        let (big_in, big) = unbounded();
        let (objects_in, objects) = unbounded();
        let (messages_in, messages) = unbounded();
        let mut threads = Vec::new();
        for _ in 0..shared.shares.small_readers {
            let (tasks, out) = (small.clone(), messages_in.clone());
            threads.push(scope.spawn(move || shutdown.guard(|| reading.read_small(&tasks, &out))));
        }
        for _ in 0..shared.shares.big_readers {
            let (tasks, out) = (big.clone(), messages_in.clone());
            threads.push(scope.spawn(move || shutdown.guard(|| reading.read_big(&tasks, &out))));
        }
        let connections: usize = self.inputs.iter().filter_map(|input| Some(input.bucket()?.connections())).sum();
        for _ in 0..connections {
            let (tasks, out) = (objects.clone(), messages_in.clone());
            threads.push(scope.spawn(move || shutdown.guard(|| reading.read_objects(&tasks, &out))));
        }
        for stream in streams {
            let out = messages_in.clone();
            threads.push(scope.spawn(move || shutdown.guard(|| reading.read_stream(stream, self.task.observer, &out))));
        }
        StartedReaders { tasks: Readers { small: small_in, big: big_in }, objects: objects_in, messages, threads }
    }

    /// Starts the assembler. Gives what takes steps. When it is done, all others are, but for those who write packs.
    fn start_assembler<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'env>,
        input: AssemblerInput<'env>,
    ) -> (Sender<Vec<WalkStep>>, Thread<'scope, Assembled>) {
        let (steps_in, steps) = unbounded();
        let thread = scope.spawn(move || {
            let assembled = shared.shutdown.guard(|| self.assemble(shared, input, &steps));
            shared.shutdown.begin();
            assembled
        });
        (steps_in, thread)
    }

    /// The assembler.
    fn assemble(&self, shared: &Shared<'_>, input: AssemblerInput<'_>, steps: &Receiver<Vec<WalkStep>>) -> Result<Assembled> {
        let AssemblerInput { tasks, messages, streams, sink, indexed } = input;
        // While the source is made to stand still, nobody is waited for.
        let wait = if self.options.still.is_some() { Duration::ZERO } else { self.options.wait_for_others };
        let follow = Follow::new(self.repo, self.others, &self.task.stop, wait);
        let sink = (!self.options.dry_run).then_some(sink);
        let chunks = FrameBuilder::new(self.repo.keys(), self.index, self.trees.clone(), sink, indexed, follow)
            .only(self.options.only.clone());
        let scratch = self.repo.scratch();
        let assembler = Assembler::new(
            chunks,
            tasks,
            &messages,
            shared.shutdown,
            self.task,
            self.rules,
            scratch,
            self.parent,
            streams,
            &shared.counted,
        );
        assembler.run(steps)
    }

    /// The planner, on this thread. Gives the parent's tree back.
    fn walk(
        &self,
        shared: &Shared<'_>,
        outlets: Outlets,
        parent_tree: Option<ParentTree>,
    ) -> Result<(WalkReport, Option<ParentTree>)> {
        let planner = Planner::new(
            self.options,
            self.rules,
            shared.shutdown,
            Adoption::new(self.index, self.again),
            parent_tree,
            self.task,
            outlets,
            &shared.handles,
            self.repo.scratch(),
            self.stand_ins,
        );
        planner.walk(self.places, self.parent.map(|parent| &parent.root))
    }

    /// What came out of all stages. A stage that only ended since another did tells nothing by its error.
    fn outcome(
        &self,
        walked: Result<(WalkReport, Option<ParentTree>)>,
        assembled: Result<Assembled>,
        stored: Result<Stored>,
        workers: Vec<Result<()>>,
    ) -> Result<PipelineOutput> {
        let errors = [walked.as_ref().err(), assembled.as_ref().err(), stored.as_ref().err()];
        let wanted = self.task.is_stopped();
        let real = |e: &Error| e.kind() != ErrorKind::Interrupted || wanted;
        if errors.into_iter().flatten().chain(workers.iter().filter_map(|r| r.as_ref().err())).any(real) {
            let stages = [walked.err(), assembled.err(), stored.err()];
            return Err(first_real(stages.into_iter().flatten().chain(workers.into_iter().filter_map(Result::err))));
        }
        let (walked, parent_tree) = walked?;
        Ok(PipelineOutput { walked, assembled: assembled?, stored: stored?, parent_tree })
    }
}
