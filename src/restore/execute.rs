//! Executing windows: compare, plan, fetch and decode every frame once, write, link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::model::{ChunkId, Item};
use crate::observe::Action;
use crate::repo::index::{ChunkLocation, FrameRef, Index};
use crate::repo::pack::run::{RunExtent, SealedRun as Together};
use crate::repo::parallel::claim;
use crate::restore::entries;
use crate::restore::in_place::Adopted;
use crate::restore::job::{RestoreJob, WriteMethod};
use crate::restore::plan::{FilePiece, FramePosition, FrameRead, WindowPlan, plan};
use crate::restore::run::RestoreRun;

/// The most pieces in one window.
const MAX_PIECES: u64 = 64 << 10;
/// Frames that one thread takes at a time: neighbours, so that threads seldom work in the same directory.
const FRAMES_AT_ONCE: usize = 4;
/// Parts of a window's frames for each thread at least, where each part is a request of its own.
const PARTS_A_THREAD: u64 = 3;
/// Bytes of such a part that are always worth a request.
const SMALLEST_PART: u64 = 256 << 10;
/// Entries without frames that one thread takes at a time.
const ENTRIES_AT_ONCE: usize = 64;

/// A bounded number of jobs.
#[derive(Default)]
pub(crate) struct Window<'r, 'a> {
    jobs: Vec<Arc<RestoreJob<'r, 'a>>>,
    /// Pieces of the jobs; those of one job stand together.
    pieces: Vec<FilePiece>,
    /// Jobs that need no pieces.
    at_once: Vec<u32>,
    /// Jobs whose last piece is in this window or before.
    closed: Vec<u32>,
    /// Later links of groups, made after everything else.
    links: Vec<Arc<RestoreJob<'r, 'a>>>,
    weight: u64,
}

impl<'r, 'a> Window<'r, 'a> {
    fn add(&mut self, job: &Arc<RestoreJob<'r, 'a>>) -> u32 {
        self.weight += weight(job);
        self.jobs.push(job.clone());
        (self.jobs.len() - 1) as u32
    }

    /// Adds a later link of a group.
    pub(crate) fn add_link(&mut self, job: Arc<RestoreJob<'r, 'a>>) {
        self.weight += weight(&job);
        self.links.push(job);
    }

    /// Whether it should be executed before more is added. A third of the memory is for windows, of which three can
    /// be alive: one filled, one waiting, one executed.
    pub(crate) fn is_full(&self, run: &RestoreRun<'_>) -> bool {
        let memory = run.options.memory.max(1 << 20) / 9;
        let pieces = self.pieces.len() as u64;
        pieces >= MAX_PIECES.min(memory / 128) || self.weight + pieces * 96 >= memory
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.links.is_empty()
    }
}

/// Bytes of memory that a job takes, roughly.
fn weight(job: &RestoreJob<'_, '_>) -> u64 {
    use crate::model::{Content, Kind, Xattrs};
    let content = match &job.node.kind {
        Kind::File(Content::Inline(bytes)) => bytes.len(),
        Kind::File(Content::Items(items)) => items.len() * 48,
        Kind::Symlink(target) => target.len(),
        _ => 0,
    };
    let xattrs = match &job.node.meta.xattrs {
        Xattrs::Inline(list) => list.iter().map(|(name, value)| name.len() + value.len() + 64).sum(),
        _ => 0,
    };
    (640 + job.node.name.len() + content + xattrs) as u64
}

/// Adds an entry and all its pieces. `flush` is called with a full window and empties it.
pub(crate) fn feed<'r, 'a>(
    window: &mut Window<'r, 'a>,
    job: &Arc<RestoreJob<'r, 'a>>,
    flush: &mut dyn FnMut(&mut Window<'r, 'a>),
) {
    let mut number = window.add(job);
    let Some(content) = job.content().filter(|c| c.size() > 0 && !matches!(c, crate::model::Content::Inline(_))) else {
        window.at_once.push(number);
        return;
    };
    let fed = job.run.tree.items(content, 0, &mut |offset, item| {
        if window.is_full(job.run) {
            flush(window);
            number = window.add(job);
        }
        let id = if let Item::Chunk { id, .. } = item { Some(*id) } else { None };
        if id.is_some() || job.local {
            job.expect(1);
            window.pieces.push(FilePiece { job: number, offset, len: item.len(), id });
        }
        Ok(!job.run.stopped())
    });
    if let Err(error) = fed {
        job.fail(error);
    }
    window.closed.push(number);
}

/// Executes a window.
pub(crate) fn execute<'r, 'a>(run: &'r RestoreRun<'a>, window: Window<'r, 'a>) {
    if run.stopped() || window.is_empty() {
        return;
    }
    let fetch = compare(run, &window);
    let index = run.tree.chunks().index();
    let plan = plan(&window.pieces, |at| fetch[at].load(Ordering::Relaxed), |id| spots(&index, id));
    if run.options.dry_run {
        return count(run, &window, &plan);
    }
    // What was compared has let go of these already.
    for &number in &window.closed {
        let job = &window.jobs[number as usize];
        if !job.local {
            job.done(1);
        }
    }
    read_frames(run, &window, &index, &plan);
    if !run.stopped() {
        link(run, &window);
    }
    run.progress();
}

fn spots(index: &Index, id: &ChunkId) -> impl Iterator<Item = FramePosition> + use<> {
    let key = id.key();
    // What the index cannot say now is asked for again, piece by piece, where the error has a file to belong to.
    let found = index.find_all(PackKind::Data, &key).unwrap_or_default();
    found.into_iter().map(|l| FramePosition { frame: l.frame_order(), at: l.offset, len: l.len })
}

/// Compares the files that are there with the pieces; answers which pieces must be fetched.
fn compare(run: &RestoreRun<'_>, window: &Window<'_, '_>) -> Vec<AtomicBool> {
    let fetch: Vec<AtomicBool> =
        window.pieces.iter().map(|piece| AtomicBool::new(piece.id.is_some() && !window.jobs[piece.job as usize].local)).collect();
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    for part in window.pieces.chunk_by(|a, b| a.job == b.job) {
        if window.jobs[part[0].job as usize].local {
            ranges.push((start, start + part.len()));
        }
        start += part.len();
    }
    let closed: std::collections::HashSet<u32> = window.closed.iter().copied().collect();
    claim(
        run.workers,
        ranges.len(),
        || run.stopped(),
        || (),
        |(), at| {
            let (from, to) = ranges[at];
            let number = window.pieces[from].job;
            let job = &window.jobs[number as usize];
            let needed = |piece: usize| fetch[from + piece].store(true, Ordering::Relaxed);
            if run.options.dry_run {
                return job.compare_only(&window.pieces[from..to], needed);
            }
            job.compare(&window.pieces[from..to], needed);
            if closed.contains(&number) {
                job.done(1);
            }
            job.close_local();
        },
    );
    // A file that ends with the window before has no pieces in this one.
    for &number in window.closed.iter().filter(|_| !run.options.dry_run) {
        let job = &window.jobs[number as usize];
        if job.local && !window.pieces.iter().any(|piece| piece.job == number) {
            job.done(1);
        }
    }
    fetch
}

/// Memory of one thread.
#[derive(Default)]
struct ReadBuffers {
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

fn read_frames(run: &RestoreRun<'_>, window: &Window<'_, '_>, index: &Arc<Index>, plan: &WindowPlan) {
    let groups: Vec<&[u32]> = window.at_once.chunks(ENTRIES_AT_ONCE).collect();
    let reads = runs(run, index, plan);
    let lost: Vec<&[u32]> = plan.lost.chunks(ENTRIES_AT_ONCE).collect();
    claim(
        run.workers,
        groups.len() + reads.len() + lost.len(),
        || run.stopped(),
        ReadBuffers::default,
        |buffers, at| {
            if let Some(reads) = reads.get(at) {
                let together = together(run, window, index, reads, std::mem::take(&mut buffers.sealed));
                for read in reads.iter() {
                    read_frame(run, window, index, read, together.as_ref(), &mut buffers.plain);
                }
                buffers.sealed = together.map(Together::into_buffer).unwrap_or_default();
            } else if let Some(group) = groups.get(at - reads.len()) {
                group.iter().for_each(|&number| entries::make(&window.jobs[number as usize]));
            } else if let Some(pieces) = lost.get(at - reads.len() - groups.len()) {
                let missing = |id: &ChunkId| crate::repo::index::missing_chunk(id).with_kind(ErrorKind::NotFound);
                pieces.iter().for_each(|&piece| from_elsewhere(run, window, piece, None, &missing));
            }
            run.progress();
        },
    );
}

/// The frames of a plan in parts for one thread each: from a storage that is far away, what one request fetches.
fn runs<'p>(run: &RestoreRun<'_>, index: &Index, plan: &'p WindowPlan) -> Vec<&'p [FrameRead]> {
    let most = run.tree.chunks().repo().storage().costs().worth_one_read;
    if most == 0 {
        return plan.frames.chunks(FRAMES_AT_ONCE).collect();
    }
    let frames: Vec<Option<FrameRef>> = plan.frames.iter().map(|read| index.frame_at(read.frame).ok()).collect();
    // At the end of a window all threads wait for the one that is last: parts are small enough for that to be short.
    let all: u64 = frames.iter().flatten().map(|frame| u64::from(frame.info.stored)).sum();
    let most = most.min((all / (PARTS_A_THREAD * run.workers as u64)).max(SMALLEST_PART));
    // A frame that the index cannot tell of now is a part of its own, and has its error there.
    let (mut parts, mut start, mut extent) = (Vec::new(), 0, None::<RunExtent>);
    for (at, frame) in frames.iter().enumerate() {
        let follows = extent.as_mut().zip(frame.as_ref()).is_some_and(|(extent, frame)| extent.extend(frame, most));
        if !follows {
            parts.extend(plan.frames.get(start..at).filter(|part| !part.is_empty()));
            (start, extent) = (at, frame.as_ref().map(RunExtent::of));
        }
    }
    parts.extend(plan.frames.get(start..).filter(|part| !part.is_empty()));
    parts
}

/// Frames that are fetched with one request, as far as anybody wants them still.
fn together(
    run: &RestoreRun<'_>,
    window: &Window<'_, '_>,
    index: &Index,
    reads: &[FrameRead],
    buffer: Vec<u8>,
) -> Option<Together> {
    let chunks = run.tree.chunks();
    if run.stopped() || !chunks.repo().storage().costs().high_latency() {
        return None;
    }
    let wanted = reads.iter().filter(|read| is_wanted(window, read));
    let frames: Vec<FrameRef> = wanted.filter_map(|read| index.frame_at(read.frame).ok()).collect();
    // What is wrong is said of each frame when it is read by itself.
    chunks.run(&frames, buffer).ok().flatten()
}

fn is_wanted(window: &Window<'_, '_>, read: &FrameRead) -> bool {
    read.writes.iter().any(|write| !job_of(window, write.piece).failed())
}

/// Decodes one frame, which it fetches if it is not among those that were fetched `together`, and writes what it holds.
/// A buffer for its bytes comes from the caller.
fn read_frame(
    run: &RestoreRun<'_>,
    window: &Window<'_, '_>,
    index: &Arc<Index>,
    read: &FrameRead,
    together: Option<&Together>,
    plain: &mut Vec<u8>,
) {
    if run.stopped() {
        return;
    }
    if !is_wanted(window, read) {
        return read.writes.iter().for_each(|write| job_of(window, write.piece).done(1));
    }
    let chunks = run.tree.chunks();
    let decoded = index.frame_at(read.frame).and_then(|frame| chunks.decode_frame(&frame, together, plain));
    if let Err(error) = decoded {
        let again = |_: &ChunkId| Error::new(error.kind(), error.to_string());
        return read.writes.iter().for_each(|w| from_elsewhere(run, window, w.piece, Some((index, read.frame)), &again));
    }
    run.counts.frames.add(1);
    if let Some(write) = read.writes.first() {
        let job = job_of(window, write.piece);
        run.tell_current(&job.directory, &job.node);
    }
    let mut batch = Batch::default();
    let mut checked: Option<(u32, ChunkId, bool)> = None;
    for write in &read.writes {
        let piece = &window.pieces[write.piece as usize];
        let Some(id) = piece.id else { continue };
        let range = write.at as usize..write.at as usize + piece.len as usize;
        let right = match checked {
            Some((at, known, right)) if at == write.at && known == id => right,
            _ => {
                let bytes = plain.get(range.clone());
                bytes.is_some_and(|b| run.tree.chunks().repo().keys().is_chunk(PackKind::Data, &id, b))
            }
        };
        checked = Some((write.at, id, right));
        if !right {
            let wrong = |id: &ChunkId| Error::corrupt(format!("chunk {} has other content than its name says", id.short()));
            // Also from this frame, by a way that looks closer at its bases.
            from_elsewhere(run, window, write.piece, None, &wrong);
        } else if !batch.extend(piece, write.at) {
            batch.write(window, plain);
            batch = Batch { job: piece.job, offset: piece.offset, at: write.at, len: piece.len, pieces: 1 };
        }
    }
    batch.write(window, plain);
}

fn job_of<'w, 'r, 'a>(window: &'w Window<'r, 'a>, piece: u32) -> &'w Arc<RestoreJob<'r, 'a>> {
    &window.jobs[window.pieces[piece as usize].job as usize]
}

/// Chunks that follow each other both in the frame and in a file: written with one call.
#[derive(Default)]
struct Batch {
    job: u32,
    offset: u64,
    at: u32,
    len: u64,
    pieces: u64,
}

impl Batch {
    fn extend(&mut self, piece: &FilePiece, at: u32) -> bool {
        let follows = self.pieces > 0
            && piece.job == self.job
            && piece.offset == self.offset + self.len
            && u64::from(at) == u64::from(self.at) + self.len;
        if follows {
            self.len += piece.len;
            self.pieces += 1;
        }
        follows
    }

    fn write(&self, window: &Window<'_, '_>, plain: &[u8]) {
        if self.pieces == 0 {
            return;
        }
        let job = &window.jobs[self.job as usize];
        let bytes = plain.get(self.at as usize..self.at as usize + self.len as usize).unwrap_or_default();
        if let Err(error) = job.write(self.offset, bytes) {
            job.fail(error);
        }
        job.done(self.pieces);
    }
}

/// Writes a piece from another copy of its chunk than the one that failed; without one, its file fails with `error`.
/// What was not found is looked for in newer segments first, as prune may have moved it (rule 10 of docs/durability.md).
fn from_elsewhere(
    run: &RestoreRun<'_>,
    window: &Window<'_, '_>,
    number: u32,
    failed: Option<(&Arc<Index>, (u32, u32))>,
    error: &dyn Fn(&ChunkId) -> Error,
) {
    let (piece, job) = (&window.pieces[number as usize], job_of(window, number));
    if let Some(id) = piece.id.filter(|_| !job.failed())
        && let Err(e) = other_copy(run, job, piece, &id, failed, error(&id))
    {
        job.fail(e);
    }
    job.done(1);
}

fn other_copy(
    run: &RestoreRun<'_>,
    job: &RestoreJob<'_, '_>,
    piece: &FilePiece,
    id: &ChunkId,
    failed: Option<(&Arc<Index>, (u32, u32))>,
    error: Error,
) -> Result<()> {
    let skip = |index: &Arc<Index>, location: &ChunkLocation| {
        let same = failed.is_some_and(|(old, frame)| Arc::ptr_eq(old, index) && frame == location.frame_order());
        same || u64::from(location.len) != piece.len
    };
    let chunk = run.tree.chunks().chunk_elsewhere(PackKind::Data, id, Some(error), &skip)?;
    run.counts.frames.add(1);
    job.write(piece.offset, &chunk)
}

/// Makes the links of a window. What cannot be linked is restored as an entry of its own.
fn link<'r, 'a>(run: &'r RestoreRun<'a>, window: &Window<'r, 'a>) {
    let failed: Vec<AtomicBool> = window.links.iter().map(|_| AtomicBool::new(false)).collect();
    let links: Vec<_> = window.links.iter().zip(&failed).collect();
    let groups: Vec<_> = links.chunks(ENTRIES_AT_ONCE).collect();
    claim(
        run.workers,
        groups.len(),
        || run.stopped(),
        || (),
        |(), at| {
            for (job, failed) in groups[at] {
                match entries::link(job) {
                    Ok(true) => {}
                    Ok(false) => failed.store(true, Ordering::Relaxed),
                    Err(e) => job.fail(e),
                }
            }
        },
    );
    let mut again = Window::default();
    for (job, _) in window.links.iter().zip(&failed).filter(|(_, failed)| failed.load(Ordering::Relaxed)) {
        feed(&mut again, job, &mut |full| execute(run, std::mem::take(full)));
    }
    execute(run, again);
}

/// What executing the window would do, for a dry run.
fn count(run: &RestoreRun<'_>, window: &Window<'_, '_>, plan: &WindowPlan) {
    run.counts.frames.add(plan.frames.len() as u64);
    let bytes: u64 = plan.frames.iter().flat_map(|f| &f.writes).map(|w| window.pieces[w.piece as usize].len).sum();
    run.counts.bytes.add(bytes);
    for &number in &window.at_once {
        let job = &window.jobs[number as usize];
        match job.content() {
            Some(content) => {
                run.counts.bytes.add(content.size());
                run.counts.files.add(1)
            }
            None => run.counts.others.add(1),
        };
        job.tell_made();
    }
    for &number in &window.closed {
        let job = &window.jobs[number as usize];
        let adopted = if job.is_clean() { job.adopted() } else { Ok(Adopted::Never) };
        match adopted {
            Ok(Adopted::Unchanged) => {
                run.tell(&job.directory, &job.node, Action::Unchanged, "");
                run.counts.unchanged.add(1)
            }
            Ok(Adopted::Metadata) => {
                run.tell(&job.directory, &job.node, Action::Changed, "metadata");
                run.counts.metadata.add(1)
            }
            Ok(Adopted::Never) => {
                let state = job.state();
                if job.local && state.way == WriteMethod::New {
                    // What is right goes to the new file, too.
                    run.counts.bytes.add(state.right);
                    run.counts.bytes_local.add(state.right);
                }
                drop(state);
                job.tell_made();
                run.counts.files.add(1)
            }
            Err(e) => {
                job.fail(e);
                0
            }
        };
    }
    for job in &window.links {
        if entries::is_linked(job) {
            run.counts.unchanged.add(1);
            run.tell(&job.directory, &job.node, Action::Unchanged, "");
        } else {
            run.counts.links.add(1);
            job.tell_linked();
        }
    }
    run.progress();
}
