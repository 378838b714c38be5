//! The walk through a snapshot's tree: makes directories, judges what is there, and fills windows with jobs.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::error::{Error, Result};
use crate::model::{Content, Directory as Model, Kind, Node};
use crate::observe::Action;
use crate::repo::tree::Entry;
use crate::restore::RestoreSource;
use crate::restore::delete::{self, Scope};
use crate::restore::entries;
use crate::restore::execute::{Window, execute, feed};
use crate::restore::existing::{self, Decision};
use crate::restore::filter::{FilterVerdict, PathFilter};
use crate::restore::in_place;
use crate::restore::job::RestoreJob;
use crate::restore::links::{FirstLink, RestoredGroups};
use crate::restore::locks;
use crate::restore::metadata::{self, EntryPath, Object, WantedMetadata};
use crate::restore::run::RestoreRun;
use crate::restore::spare::Why;
use crate::restore::target::TargetDirectory;
use crate::sys::{Dir, FileKind, Listing, Stat};

/// Why an entry that differs stays as it is.
const KEPT: &str = "differs; --overwrite keeps it";

mod enter;

/// Restores one source. What fails is told and counted by `run`.
pub(crate) fn restore_source(run: &RestoreRun<'_>, source: &RestoreSource<'_>, filter: &PathFilter) {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || receiver.into_iter().for_each(|window| execute(run, window)));
        let mut walker = Walker {
            run,
            source,
            filter,
            sender,
            window: Window::default(),
            levels: Vec::new(),
            path: Vec::new(),
            groups: RestoredGroups::new(run, source),
            position: 0,
            seen: 0,
        };
        walker.run();
    });
}

/// Where the walk is in a directory.
enum WalkPosition {
    Start,
    At(Entry),
    End,
}

/// A directory that the walk is in.
struct RestoreLevel {
    node: Node,
    /// Where it is in the target, once something in it is restored.
    place: Option<Arc<TargetDirectory>>,
    /// Whether it is restored itself; otherwise it only leads to something that is.
    taken: bool,
    /// Whether it only leads to a source; such directories are shared by sources.
    parent: bool,
    /// Whether it cannot be had: nothing below it is tried.
    blocked: bool,
    cursor: WalkPosition,
    /// What is in it, when the rest is to be removed; and how far it was looked at.
    listing: Option<(Listing, usize)>,
    /// Why nothing in it is removed.
    shield: Option<Why>,
    /// Whether it is on another file system than the directory that was asked for.
    foreign: bool,
    device: (u32, u32),
    /// What is in it, for names that may be other spellings of one.
    names: Option<Listing>,
    /// Whether each name in it is one of its own, once it was asked.
    sharp: Option<bool>,
    /// Entries that are there under another spelling than the snapshot's.
    aliases: Vec<Vec<u8>>,
    path_len: usize,
    /// Where it stands, reckoned from the source.
    position: u64,
}

impl RestoreLevel {
    fn model(&self) -> Model {
        self.node.directory().copied().unwrap_or_default()
    }

    /// Whether it is restored itself, and does not only lead to something.
    fn is_asked_for(&self) -> bool {
        self.taken && self.node.given
    }
}

struct Walker<'r, 'a> {
    run: &'r RestoreRun<'a>,
    source: &'r RestoreSource<'r>,
    filter: &'r PathFilter,
    sender: SyncSender<Window<'r, 'a>>,
    window: Window<'r, 'a>,
    levels: Vec<RestoreLevel>,
    /// The absolute path inside the snapshot.
    path: Vec<u8>,
    groups: RestoredGroups<'r>,
    /// Where the entry that is visited stands, reckoned from the source.
    position: u64,
    seen: u64,
}

/// An entry that is no directory, in whose place something is.
struct ExistingLeaf<'w> {
    place: &'w Arc<TargetDirectory>,
    /// What is restored, as the rules have it.
    node: &'w Node,
    /// Whether a rule changed it.
    rewritten: bool,
    /// The directory that it is in, open.
    dir: &'w Dir,
    /// What is there.
    stat: &'w Stat,
    /// The first of its names, if it has several.
    first: &'w Option<Arc<FirstLink>>,
}

impl<'r, 'a> Walker<'r, 'a> {
    fn run(&mut self) {
        self.start();
        while !self.levels.is_empty() {
            if self.run.stopped() {
                self.leave();
                continue;
            }
            match self.next() {
                Ok(Some(entry)) => {
                    self.position = self.levels.last().map_or(0, |level| level.position) + entry.offset;
                    self.step(&entry.node().name);
                    self.visit(entry.node());
                    self.back();
                }
                Ok(None) => self.leave(),
                Err(error) => {
                    // What is known of the directory is restored; nothing in it can be called superfluous.
                    self.run.error(&self.path, error);
                    if let Some(level) = self.levels.last_mut() {
                        level.listing = None;
                        level.cursor = WalkPosition::End;
                    }
                }
            }
        }
        flush(&self.sender, &mut self.window);
    }

    /// Puts the source's own node, below the directories that lead to it.
    fn start(&mut self) {
        for node in self.source.parents.iter().skip(1) {
            self.path.push(b'/');
            self.path.extend_from_slice(&node.name);
        }
        if !self.source.node.name.is_empty() {
            self.path.push(b'/');
            self.path.extend_from_slice(&self.source.node.name);
        }
        let whole = matches!(self.source.node.kind, Kind::Directory(_)) && self.source.direct;
        if whole {
            let path = if self.path.is_empty() { b"/".as_slice() } else { &self.path };
            let verdict = self.filter.visit(path, false);
            if verdict != FilterVerdict::Skip {
                self.push(self.source.node.clone(), verdict == FilterVerdict::Take, false);
            }
            return;
        }
        let parents = if self.source.direct { &self.source.parents[..1] } else { &self.source.parents[..] };
        for node in parents {
            self.push(node.clone(), false, true);
            if let Some(level) = self.levels.last_mut() {
                level.cursor = WalkPosition::End;
            }
        }
        self.visit(&self.source.node);
    }

    fn push(&mut self, node: Node, taken: bool, parent: bool) {
        let (path_len, position, blocked) = (self.path.len(), self.position, false);
        self.run.counts.taken.add(u64::from(taken));
        self.levels.push(RestoreLevel {
            node,
            place: None,
            taken,
            parent,
            blocked,
            cursor: WalkPosition::Start,
            listing: None,
            shield: None,
            foreign: false,
            device: (0, 0),
            names: None,
            sharp: None,
            aliases: Vec::new(),
            path_len,
            position,
        });
        if taken {
            self.place();
        }
    }

    /// The next entry of the directory that the walk is in.
    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(level) = self.levels.last_mut().filter(|level| !level.blocked) else { return Ok(None) };
        self.path.truncate(level.path_len);
        let model = level.model();
        let next = match std::mem::replace(&mut level.cursor, WalkPosition::End) {
            WalkPosition::Start => self.run.tree.entry_number(&model, 0)?,
            WalkPosition::At(entry) => self.run.tree.next(&model, &entry)?,
            WalkPosition::End => None,
        };
        level.cursor = next.clone().map_or(WalkPosition::End, WalkPosition::At);
        Ok(next)
    }

    fn step(&mut self, name: &[u8]) {
        self.superfluous(Some(name));
        self.path.push(b'/');
        self.path.extend_from_slice(name);
    }

    /// Back from an entry that is no directory to the directory that the walk is in.
    fn back(&mut self) {
        if let Some(level) = self.levels.last() {
            self.path.truncate(level.path_len);
        }
    }

    fn visit(&mut self, node: &Node) {
        self.seen += 1;
        if self.seen.is_multiple_of(1024) {
            self.run.progress();
        }
        let inside = self.levels.last().is_some_and(|level| level.taken);
        match (self.filter.visit(&self.path, inside), &node.kind) {
            (FilterVerdict::Skip, _) => {}
            (verdict, Kind::Directory(_)) => self.push(node.clone(), verdict == FilterVerdict::Take, false),
            (FilterVerdict::Pass, _) => {}
            (FilterVerdict::Take, _) => {
                self.run.counts.taken.add(1);
                if let Some(place) = self.place()
                    && let Err(error) = self.leaf(&place, node)
                {
                    self.run.error(&self.run.target.path_of(&place, &node.name), error);
                }
            }
        }
        if self.window.is_full(self.run) {
            flush(&self.sender, &mut self.window);
        }
    }

    /// Leaves the directory that the walk is in.
    fn leave(&mut self) {
        if !self.run.stopped() {
            self.superfluous(None);
        }
        if let Some(place) = self.levels.pop().and_then(|level| level.place) {
            self.run.target.climb(&place);
            self.run.release(&place);
        }
        self.back();
    }

    /// The directory that the walk is in, made if need be with those above it. `None` when it cannot be had.
    fn place(&mut self) -> Option<Arc<TargetDirectory>> {
        // Those above a place that was found have theirs, too.
        let first = self.levels.iter().rposition(|level| level.place.is_some()).map_or(0, |found| found + 1);
        for at in first..self.levels.len() {
            if self.levels[at].blocked {
                return None;
            }
            match self.enter(at) {
                Some(place) => self.levels[at].place = Some(place),
                None => {
                    self.levels[at..].iter_mut().for_each(|level| level.blocked = true);
                    return None;
                }
            }
        }
        self.levels.last().and_then(|level| level.place.clone())
    }

    /// Removes what is in the directory and sorts before `next` (`None`: all the rest) without being in the snapshot.
    fn superfluous(&mut self, next: Option<&[u8]>) {
        let Some(level) = self.levels.last_mut() else { return };
        let (Some((listing, at)), Some(place)) = (&mut level.listing, &level.place) else { return };
        while *at < listing.len() {
            let name = listing.name(*at);
            if next.is_some_and(|next| name > next) {
                return;
            }
            *at += 1;
            if next == Some(name) {
                return;
            }
            let path = [&self.path[..level.path_len], b"/", name].concat();
            if level.aliases.iter().any(|alias| alias == name) || self.filter.judge(&path, level.taken) != FilterVerdict::Take {
                continue;
            }
            let spare = self.run.spare(self.source.number);
            let removed = match level.shield {
                Some(why) => {
                    self.run.spared(why, place, name, listing.kind(*at - 1));
                    Ok(true)
                }
                None => delete::remove(self.run, place, name, Scope { filter: Some(self.filter), spare, path }),
            };
            if let Err(error) = removed {
                self.run.error(&self.run.target.path_of(place, name), error);
            }
        }
    }

    /// Judges an entry that is no directory, and puts it into the window when it must be made.
    fn leaf(&mut self, place: &Arc<TargetDirectory>, node: &Node) -> Result<()> {
        let run = self.run;
        let (dir, there) = self.what_is_there(place, node)?;
        if run.only_deletions {
            return Ok(());
        }
        let (first, known) = self.first_link(place, node)?;
        let mut change = match run.options.rewriter.as_deref() {
            Some(rewriter) => rewriter.made(run, self.source.number, &self.path, node, known)?,
            None => None,
        };
        let rewritten = change.as_ref().map(|change| change.node(node));
        let node = rewritten.as_ref().unwrap_or(node);
        let mut noted = || {
            if let (Some(rewriter), Some(change)) = (run.options.rewriter.as_deref(), &mut change) {
                rewriter.note(change);
            }
        };
        let mut local = false;
        if let (false, Some(dir), Some(stat)) = (known, &dir, &there) {
            let there = ExistingLeaf { place, node, rewritten: rewritten.is_some(), dir, stat, first: &first };
            match self.existing_leaf(&there, &mut noted)? {
                Some(in_part) => local = in_part,
                None => return Ok(()),
            }
        }
        noted();
        let mut job = RestoreJob::new(run, self.source.number, place, node.clone());
        job.state().way = in_place::way(run, there.as_ref(), local);
        (job.there, job.local, job.first) = (there, local, first);
        match known {
            true => self.later_link(job),
            false => self.feed(job),
        }
        Ok(())
    }

    /// The directory that `node` goes to, open, and what is there under its name; nothing where this run made it.
    fn what_is_there(&mut self, place: &Arc<TargetDirectory>, node: &Node) -> Result<(Option<Arc<Dir>>, Option<Stat>)> {
        let run = self.run;
        if !place.real || place.made {
            return Ok((None, None));
        }
        let dir = run.target.open(place).map_err(|e| Error::io("cannot open its directory", e))?;
        let there = look(&dir, place, &node.name)?;
        if let (Some(stat), Some(at)) = (&there, self.levels.len().checked_sub(1)) {
            self.tell_apart(at, &dir, &node.name, stat)?;
            if stat.kind == FileKind::Directory && run.options.dry_run && existing::may_replace(run.options.overwrite, node, stat)
            {
                delete::make_way(run, place, &node.name, self.source.number)?;
            }
        }
        Ok((Some(dir), there))
    }

    /// Of an entry with several names: the one that came first, and whether that was another.
    fn first_link(&mut self, place: &Arc<TargetDirectory>, node: &Node) -> Result<(Option<Arc<FirstLink>>, bool)> {
        let Some(group) = node.link else { return Ok((None, false)) };
        let (first, known) = self.groups.find(self.run, &group, place, self.position, node)?;
        if known && first.kind != node.kind {
            let text = "it is no link of the file that it claims to be a link of (yester check says what is damaged)";
            return Err(Error::corrupt(text));
        }
        Ok((Some(first), known))
    }

    /// Decides what becomes of an entry that is there. `None`: it is done. Otherwise it is made anew, and is told whether
    /// content of what is there may be used. `noted` is called when what the rules made of it is in the target.
    fn existing_leaf(&self, entry: &ExistingLeaf<'_>, noted: &mut dyn FnMut()) -> Result<Option<bool>> {
        let (run, &ExistingLeaf { place, node, rewritten, dir, stat, first }) = (self.run, entry);
        let wanted = WantedMetadata::of(run, self.source.number, node)?;
        match existing::decide(run, dir, &node.name, node, &wanted, stat, rewritten) {
            Decision::Write { .. } | Decision::Metadata if run.target.is_forbidden(stat) => {
                run.counts.kept.add(1);
                run.note(&run.target.path_of(place, &node.name), "left alone: this repository is unlocked by it");
                run.tell(place, node, Action::Kept, KEPT);
            }
            Decision::Keep => {
                run.counts.kept.add(1);
                run.tell(place, node, Action::Kept, KEPT);
            }
            // It is another entry, of which this one is no link.
            Decision::Same | Decision::Metadata if stat.links > 1 && !run.claim(stat)? => {
                return Ok(Some(stat.kind == FileKind::File && has_pieces(&node.kind)));
            }
            Decision::Same => {
                noted();
                run.counts.unchanged.add(1);
                run.tell(place, node, Action::Unchanged, "");
                complete(first, stat);
            }
            Decision::Metadata => {
                noted();
                self.set_metadata(EntryPath { directory: place, name: &node.name }, dir, &wanted, stat)?;
                run.counts.metadata.add(1);
                run.tell(place, node, Action::Changed, "metadata");
                complete(first, stat);
            }
            Decision::Write { local } => return Ok(Some(local && has_pieces(&node.kind))),
        }
        Ok(None)
    }

    fn set_metadata(&self, place: EntryPath<'_>, dir: &Dir, wanted: &WantedMetadata, there: &Stat) -> Result<()> {
        if self.run.options.dry_run {
            return Ok(());
        }
        locks::clear(self.run, dir, place.name, there);
        let object = Object::Entry(dir, place.name);
        metadata::apply(self.run, place, object, wanted, false).map_err(|e| Error::io("cannot set its metadata", e))?;
        metadata::apply_flags(self.run, place, object, wanted);
        Ok(())
    }

    fn feed(&mut self, job: RestoreJob<'r, 'a>) {
        let sender = &self.sender;
        feed(&mut self.window, &Arc::new(job), &mut |window| flush(sender, window));
    }

    fn later_link(&mut self, job: RestoreJob<'r, 'a>) {
        let kept = |stat: &Stat| !existing::may_replace(self.run.options.overwrite, &job.node, stat);
        if job.there.as_ref().is_some_and(kept) {
            let (counter, action, reason) = match entries::is_linked(&job) {
                true => (&self.run.counts.unchanged, Action::Unchanged, ""),
                false => (&self.run.counts.kept, Action::Kept, KEPT),
            };
            counter.add(1);
            self.run.tell(&job.directory, &job.node, action, reason);
            return;
        }
        self.window.add_link(Arc::new(job));
    }
}

/// Gives a window to the executor and begins a new one.
fn flush<'r, 'a>(sender: &SyncSender<Window<'r, 'a>>, window: &mut Window<'r, 'a>) {
    // The executor ends before the walker only by a panic, which ends the scope.
    let _ = sender.send(std::mem::take(window));
}

/// Records that the first link of a group is there.
fn complete(first: &Option<Arc<FirstLink>>, stat: &Stat) {
    if let Some(first) = first {
        first.complete(stat);
    }
}

/// Whether a file's content comes in pieces.
fn has_pieces(kind: &Kind) -> bool {
    matches!(kind, Kind::File(content) if content.size() > 0 && !matches!(content, Content::Inline(_)))
}

/// What is at `name`; nothing can be where this run made the directory.
fn look(dir: &Dir, directory: &TargetDirectory, name: &[u8]) -> Result<Option<Stat>> {
    if directory.made {
        return Ok(None);
    }
    match dir.stat(name) {
        Ok(stat) => Ok(Some(stat)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot look at what is there", e)),
    }
}
