//! What was given: entering it, what is said of paths that are links, and of those that could not be stored where they
//! were given.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, ErrorKind, Result};
use crate::format::page::ScanRecord;
use crate::ingest::bucket::WalkedBucket;
use crate::ingest::exclude::Marked;
use crate::ingest::input::Opened;
use crate::ingest::level::WalkLevel;
use crate::ingest::parent::{ParentDir, ParentEntry};
use crate::ingest::plan::left_out::leave_out;
use crate::ingest::plan::{Begun, ContentSource, Planner, WalkStep, metadata, record};
use crate::ingest::sink::stopped;
use crate::ingest::sources::{self, NumberedInput, SourceEntry};
use crate::model::{Content, Directory, Kind, LeftOut, Metadata, Node, escape};
use crate::observe::Event;
use crate::sys::{Dir, FileKind, Stat, dir, process, xattr};

/// Permissions of a file that is a stream: only its owner may read it.
const STREAM_MODE: u16 = 0o600;

/// So many given links are named; a list of files may have thousands.
const NAMED: u64 = 3;

impl<'a> Planner<'a> {
    /// Enters a place of the tree of given paths: a given path itself, or one that only leads to others.
    pub(super) fn enter_place(
        &mut self,
        stack: &mut Vec<WalkLevel<'a>>,
        place: &'a SourceEntry,
        name: &[u8],
        entry: Option<ParentEntry>,
        parent: Option<ParentDir>,
    ) -> Result<()> {
        if !name.is_empty() {
            self.path.push(b'/');
            self.path.extend_from_slice(name);
        }
        let Some(NumberedInput { number, input }) = &place.input else {
            return self.enter_lead(stack, place, name, parent);
        };
        self.seen.insert(self.path.clone());
        self.make_room(stack)?;
        let started = self.task.now();
        let instead = input.path().and_then(|path| self.stand_ins.of(path));
        let opened = instead.map_or_else(|| input.open(), |at| input.open_at(at)).and_then(|opened| {
            let stat = match &opened {
                Opened::Directory(scanned) => Some(&scanned.stat),
                Opened::Entry(_, _, stat) => Some(&**stat),
                Opened::Stream | Opened::Bucket(..) => None,
            };
            let never = stat.and_then(|stat| self.rules.never_enters(&self.stand_ins.original(stat)));
            let never = never.or_else(|| self.rules.never_takes(input.path()?));
            never.map_or(Ok(opened), |message| Err(Error::invalid(message)))
        });
        match opened {
            Err(e) if input.bucket().is_some() => self.lose_bucket(stack, *number, &e),
            Err(e) => {
                self.walked.missing_sources += 1;
                leave_out(stack, LeftOut::LOST);
                self.warn(input.shown(), &format!("it cannot be ingested: {}", e.without_subject()));
                match name.is_empty() || !place.below.is_empty() {
                    true => self.enter_lead(stack, place, name, parent),
                    false => Ok(()),
                }
            }
            Ok(Opened::Directory(scanned)) => self.enter(stack, Some(place), *scanned, name, parent, false),
            Ok(Opened::Entry(dir, own_name, stat)) => {
                dir.count(self.handles);
                self.tell_link(input.shown(), &stat);
                self.leaf(&dir, &own_name, name, *stat, entry)
            }
            Ok(Opened::Stream) => self.stream(*number, name, entry),
            Ok(Opened::Bucket(bucket, objects)) => {
                let mut walked = WalkedBucket { number: *number, started, ..WalkedBucket::default() };
                if self.options.dry_run {
                    let message = format!("it has {} objects: a dry run reads none of them", objects.len());
                    self.note(&self.path, &message);
                    return Ok(());
                }
                self.bucket(&mut walked, (&bucket, objects), name, parent)?;
                self.walked.buckets.push(walked);
                Ok(())
            }
        }
    }

    /// A bucket of which nothing can be stored.
    fn lose_bucket(&mut self, stack: &mut [WalkLevel<'a>], number: usize, e: &Error) -> Result<()> {
        if e.kind() == ErrorKind::Interrupted {
            return Err(stopped());
        }
        leave_out(stack, LeftOut::LOST);
        let (path, failure) = (self.path.clone(), Some(e.to_string()));
        self.warn(&path, &format!("nothing of it is stored: {e}"));
        self.walked.buckets.push(WalkedBucket { number, started: self.task.now(), failure, ..WalkedBucket::default() });
        Ok(())
    }

    /// A directory that was not given: it leads to what was, with its live metadata where there is one.
    fn enter_lead(
        &mut self,
        stack: &mut Vec<WalkLevel<'a>>,
        place: &'a SourceEntry,
        name: &[u8],
        parent: Option<ParentDir>,
    ) -> Result<()> {
        let live = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
        let scanned = Dir::open(&sources::live_path(&live)).and_then(|dir| {
            let stat = dir.stat_self()?;
            Ok((stat, xattr::find(&dir), dir::user_flags(&dir).unwrap_or(0)))
        });
        let mut left_out = LeftOut::default();
        let (meta, xattrs, record) = match scanned {
            Ok((stat, xattrs, flags)) => {
                (Metadata { flags, ..metadata(&stat) }, self.attributes(xattrs, &mut left_out), record(&stat))
            }
            // Nothing below it is there either: what was given of it is told at the end.
            Err(_) if !self.path.is_empty() && !place.is_there() => return Ok(()),
            Err(_) => (Metadata { mode: 0o755, ..Metadata::default() }, xattr::XattrList::new(), ScanRecord::default()),
        };
        self.walked.statistics.directories += 1;
        let node = Node {
            name: name.to_vec(),
            meta,
            kind: Kind::Directory(Directory::default()),
            link: None,
            given: false,
            changed: false,
            left_out: LeftOut::default(),
        };
        self.owners(&node);
        self.step(WalkStep::Enter(
            Box::new(Begun { node, xattrs, record, before: None, doubtful: false }),
            parent.as_ref().and_then(ParentDir::before),
        ))?;
        stack.push(WalkLevel {
            place: Some(place),
            scanned: None,
            extra: place.below.keys().map(Vec::as_slice).collect::<Vec<_>>().into_iter().peekable(),
            at: 0,
            parent,
            announced: Default::default(),
            announce_from: 0,
            marked: Marked::No,
            path_len: self.path.len(),
            device: (0, 0),
            left_out,
            inner: false,
            cut: false,
        });
        Ok(())
    }

    /// A stream. In a dry run it is neither started nor read.
    fn stream(&mut self, number: usize, name: &[u8], entry: Option<ParentEntry>) -> Result<()> {
        if self.options.dry_run {
            self.note(&self.path, "nothing is read or run for it in a dry run");
            return Ok(());
        }
        let meta = Metadata { mode: STREAM_MODE, uid: process::user(), gid: process::group(), ..Metadata::default() };
        let node = Node {
            name: name.to_vec(),
            meta,
            kind: Kind::File(Content::Inline(Vec::new())),
            link: None,
            given: true,
            changed: false,
            left_out: LeftOut::default(),
        };
        self.walked.statistics.files += 1;
        self.owners(&node);
        let before = entry.as_ref().map(|entry| Box::new(entry.node().clone()));
        let begun = Begun { node, xattrs: Vec::new(), record: ScanRecord::default(), before, doubtful: false };
        self.step(WalkStep::Leaf(Box::new(begun), ContentSource::Stream(number)))
    }

    /// Says that a given path is a link, and that what it leads to is not stored by that.
    fn tell_link(&mut self, source: &[u8], stat: &Stat) {
        if stat.kind != FileKind::Symlink {
            return;
        }
        self.given_links += 1;
        if self.given_links > NAMED {
            return;
        }
        let shown = escape(source);
        let message = match std::fs::metadata(OsStr::from_bytes(source)) {
            Ok(found) if found.is_dir() => format!("it is a link, and only the link is stored: {shown}/ is what it leads to"),
            Ok(_) => "it is a link, and only the link is stored: give the path that it leads to for the file".to_owned(),
            Err(_) => "it is a link, and only the link is stored".to_owned(),
        };
        self.note(source, &message);
    }

    /// Says which given paths the walk did not come to, and why: they count as missing.
    pub(super) fn tell_rest(&mut self, root: &SourceEntry) {
        if self.given_links > NAMED {
            let message = format!("{} of them are links, and only the links are stored", self.given_links);
            self.note(b"given paths", &message);
        }
        let mut rest = Vec::new();
        root.each(b"", |stored, given| {
            if !self.seen.contains(stored) {
                rest.push(&given.input);
            }
        });
        for input in rest {
            self.walked.missing_sources += 1;
            let obstacle = match input.path() {
                Some(path) => sources::obstacle(path),
                None => "what it would stand in is no directory, or was not stored".to_owned(),
            };
            self.warn(input.shown(), &format!("it cannot be ingested: {obstacle}"));
        }
    }

    fn note(&self, subject: &[u8], message: &str) {
        self.task.observer.event(&Event::Note { subject, message });
    }
}
