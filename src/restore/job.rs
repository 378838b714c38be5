//! One file on its way: created under a temporary name, written from any thread, completed and renamed by the
//! thread that writes its last piece.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::model::{ChunkId, Content, Item, Kind, Node};
use crate::observe::Action;
use crate::restore::delete;
use crate::restore::links::FirstLink;
use crate::restore::locks;
use crate::restore::metadata::{self, EntryPath, Object, WantedMetadata};
use crate::restore::names;
use crate::restore::run::RestoreRun;
use crate::restore::target::TargetDirectory;
use crate::sys::{Dir, FileKind, Stat, dir};

/// How a file's content gets to where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WriteMethod {
    /// Under a temporary name, which takes the file's own when it is complete.
    #[default]
    New,
    /// Into the file that is there, if it can be written to and anything differs.
    MaybeInPlace,
    /// Into the file that is there: it was begun.
    InPlace,
}

/// What the threads change.
#[derive(Debug, Default)]
pub(crate) struct JobState {
    pub(crate) way: WriteMethod,
    /// In a dry run: something differs, and bytes of chunks that are right.
    pub(crate) differs: bool,
    pub(crate) right: u64,

    /// The temporary name, once it exists.
    temporary: Option<Vec<u8>>,
    /// The open file, while it is kept.
    file: Option<Arc<File>>,
    failed: bool,
    /// Bytes from the start that the file which is there has right; only while there is no temporary file.
    pub(crate) clean: u64,
    /// The file that is there, open for comparison.
    pub(crate) local: Option<Arc<File>>,
}

impl JobState {
    /// Whether a temporary file exists.
    pub(crate) fn has_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

/// An entry that is to be made: a file that is written in pieces, or anything that is made at once.
pub(crate) struct RestoreJob<'r, 'a> {
    pub(crate) run: &'r RestoreRun<'a>,
    pub(crate) source: usize,
    pub(crate) directory: Arc<TargetDirectory>,
    pub(crate) node: Node,
    /// What is there now.
    pub(crate) there: Option<Stat>,
    /// Whether the content of what is there is compared and used.
    pub(crate) local: bool,
    pub(crate) first: Option<Arc<FirstLink>>,
    pub(crate) state: Mutex<JobState>,
    /// Pieces not yet written, and one for as long as more may come.
    left: AtomicU64,
}

impl<'r, 'a> RestoreJob<'r, 'a> {
    /// A job in `directory`, which it holds.
    pub(crate) fn new(run: &'r RestoreRun<'a>, source: usize, directory: &Arc<TargetDirectory>, node: Node) -> Self {
        let (directory, left) = (directory.hold(), AtomicU64::new(1));
        RestoreJob { run, source, directory, node, there: None, local: false, first: None, state: Mutex::default(), left }
    }

    /// The content of a regular file.
    pub(crate) fn content(&self) -> Option<&Content> {
        if let Kind::File(content) = &self.node.kind { Some(content) } else { None }
    }

    pub(crate) fn place(&self) -> EntryPath<'_> {
        EntryPath { directory: &self.directory, name: &self.node.name }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, JobState> {
        self.state.lock()
    }

    /// The directory it is in.
    pub(crate) fn dir(&self) -> Result<Arc<Dir>> {
        self.run.target.open(&self.directory).map_err(|e| Error::io("cannot open its directory", e))
    }

    /// Marks it as failed and says why; once.
    pub(crate) fn fail(&self, error: Error) {
        let (first, way) = {
            let mut state = self.state();
            (!std::mem::replace(&mut state.failed, true), state.way)
        };
        if first {
            let error = match way {
                WriteMethod::InPlace => error.context("it is partly old and partly new now, restore it again"),
                _ => error,
            };
            self.run.error(&self.run.target.path_of(&self.directory, &self.node.name), error);
        }
    }

    /// Whether it has failed.
    pub(crate) fn failed(&self) -> bool {
        self.state().failed
    }

    /// Counts more pieces to come.
    pub(crate) fn expect(&self, pieces: u64) {
        self.left.fetch_add(pieces, Ordering::Relaxed);
    }

    /// Counts pieces that are dealt with; with the last one the file is completed.
    pub(crate) fn done(&self, pieces: u64) {
        if self.left.fetch_sub(pieces, Ordering::AcqRel) == pieces {
            self.complete();
        }
    }

    /// The temporary file, created at first.
    pub(crate) fn file(&self, state: &mut JobState) -> Result<Arc<File>> {
        if let Some(file) = &state.file {
            return Ok(file.clone());
        }
        let dir = self.dir()?;
        let file = match &state.temporary {
            None if state.way == WriteMethod::InPlace => {
                self.open_there(&dir).map_err(|e| Error::io("cannot open it again", e))?
            }
            Some(name) => dir.open_for_writing(name).map_err(|e| Error::io("cannot open its temporary file again", e))?,
            None => {
                let name = self.run.temporary();
                let file = dir.create_file(&name, 0o600).map_err(|e| Error::io("cannot create it", e))?;
                state.temporary = Some(name);
                let early = self.node.meta.flags & dir::EARLY_FLAGS;
                if early != 0 {
                    // Some file systems take them only while the file is empty; a failure shows at the end.
                    let _ = dir::flags(&file).and_then(|have| dir::set_flags(&file, have | early));
                }
                let content = self.content().map_or((0, 0), |c| (c.size(), c.data()));
                if content.0 != content.1 {
                    file.set_len(content.0).map_err(|e| Error::io("cannot set its size", e))?;
                }
                file
            }
        };
        let file = Arc::new(file);
        if self.run.may_keep_open() {
            state.file = Some(file.clone());
        }
        Ok(file)
    }

    /// Writes verified bytes at `offset`.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = {
            let mut state = self.state();
            if state.failed {
                return Ok(());
            }
            self.file(&mut state)?
        };
        file.write_all_at(bytes, offset).map_err(|e| Error::io("cannot write it", e))?;
        self.run.counts.bytes.add(bytes.len() as u64);
        Ok(())
    }

    fn complete(&self) {
        if self.run.stopped() {
            return;
        }
        if !self.failed()
            && let Err(error) = self.try_complete()
        {
            self.fail(error);
        }
        self.discard();
    }

    fn try_complete(&self) -> Result<()> {
        let wanted = WantedMetadata::of(self.run, self.source, &self.node)?;
        let way = self.state().way;
        if way == WriteMethod::InPlace {
            return self.complete_in_place(&wanted);
        }
        if self.state().temporary.is_none() && self.there.is_some() && self.local {
            if self.adopt(&wanted)? {
                return Ok(());
            }
            if way == WriteMethod::MaybeInPlace && self.begin_in_place()? {
                return self.complete_in_place(&wanted);
            }
            // The content is right but the inode has other names: it is made anew.
            self.copy_clean()?;
        }
        let file = {
            let mut state = self.state();
            self.file(&mut state)?
        };
        if self.run.options.verify {
            self.verify(&file)?;
        }
        let object = Object::File(&file);
        let failed = |e| Error::io("cannot set its metadata", e);
        if self.there.is_some_and(|there| there.kind == FileKind::File) {
            metadata::keep_attributes(self.run, self.place(), &*self.dir()?, &file, &wanted);
        }
        metadata::apply(self.run, self.place(), object, &wanted, self.directory.clean).map_err(failed)?;
        let stat = match &self.first {
            Some(_) => Some(dir::stat(&file).map_err(failed)?),
            None => None,
        };
        self.install()?;
        metadata::apply_flags(self.run, self.place(), object, &wanted);
        if let (Some(first), Some(stat)) = (&self.first, stat) {
            first.complete(&stat);
        }
        self.run.counts.files.add(1);
        self.tell_made();
        Ok(())
    }

    /// Takes the file that is there, whose content was compared: sets its metadata. False when it cannot be taken.
    fn adopt(&self, wanted: &WantedMetadata) -> Result<bool> {
        let (dir, failed) = (self.dir()?, |e| Error::io("cannot look at what is there", e));
        let file = match self.state().local.take() {
            Some(file) => file,
            None => Arc::new(dir.open_file(&self.node.name).map_err(failed)?),
        };
        let stat = dir::stat(&file).map_err(failed)?;
        let size = self.content().map_or(0, Content::size);
        if stat.kind != FileKind::File || stat.size != size || self.state().clean != size {
            return Ok(false);
        }
        let xattrs = crate::sys::xattr::list(&file).map_err(failed)?;
        if stat.links > 1 && !self.run.claim(&stat)? {
            return Ok(false);
        }
        if wanted.is_met(&stat, &xattrs) {
            self.run.counts.unchanged.add(1);
            self.run.tell(&self.directory, &self.node, Action::Unchanged, "");
        } else if stat.links > 1 {
            return Ok(false);
        } else {
            locks::clear(self.run, &dir, &self.node.name, &stat);
            metadata::apply(self.run, self.place(), Object::File(&file), wanted, false).map_err(failed)?;
            self.run.counts.metadata.add(1);
            self.run.tell(&self.directory, &self.node, Action::Changed, "metadata");
        }
        metadata::apply_flags(self.run, self.place(), Object::File(&file), wanted);
        if let Some(first) = &self.first {
            first.complete(&stat);
        }
        Ok(true)
    }

    /// Gives the temporary file its name.
    fn install(&self) -> Result<()> {
        let mut state = self.state();
        let Some(temporary) = &state.temporary else { return Ok(()) };
        put(self, temporary)?;
        state.temporary = None;
        Ok(())
    }

    /// Reads the temporary file back and compares it with the ids of its chunks.
    pub(crate) fn verify(&self, file: &File) -> Result<()> {
        let Some(content) = self.content() else { return Ok(()) };
        let wrong = || Error::corrupt("what was written does not read back: check the disk and the memory");
        let mut buffer = Vec::new();
        if let Content::Inline(bytes) = content {
            buffer.resize(bytes.len(), 0);
            file.read_exact_at(&mut buffer, 0).map_err(|e| Error::io("cannot read it back", e))?;
            return if buffer == *bytes { Ok(()) } else { Err(wrong()) };
        }
        self.run.tree.items(content, 0, &mut |offset, item| {
            if let Item::Chunk { id, len } = item {
                read_exact(file, offset, *len, &mut buffer).map_err(|e| Error::io("cannot read it back", e))?;
                if !self.is_chunk(&buffer, id) {
                    return Err(wrong());
                }
            }
            Ok(!self.run.stopped())
        })
    }

    /// Whether `bytes` are the chunk `id`.
    pub(crate) fn is_chunk(&self, bytes: &[u8], id: &ChunkId) -> bool {
        self.run.tree.chunks().repo().keys().is_chunk(PackKind::Data, id, bytes)
    }

    /// Closes the file, and removes it when it is not complete.
    fn discard(&self) {
        let mut state = self.state();
        if state.file.take().is_some() {
            self.run.closed();
        }
        state.local = None;
        let Some(name) = state.temporary.take() else { return };
        // Nothing to be done about a failure: the name says what the file is.
        let _ = self.run.target.open(&self.directory).and_then(|dir| dir.remove(&name));
    }
}

impl Drop for RestoreJob<'_, '_> {
    fn drop(&mut self) {
        self.discard();
        self.run.release(&self.directory);
    }
}

/// Reads exactly `len` bytes at `offset` into `out` (replaced).
pub(crate) fn read_exact(file: &File, offset: u64, len: u32, out: &mut Vec<u8>) -> io::Result<()> {
    out.resize(len as usize, 0);
    file.read_exact_at(out, offset)
}

/// Gives what was made as `temporary` the name of the job's entry. Where nothing was, nothing is replaced; what was there is:
/// a file or link at once, a directory only when it is empty, or with `--delete`.
pub(crate) fn put(job: &RestoreJob<'_, '_>, temporary: &[u8]) -> Result<()> {
    let (run, directory, name) = (job.run, &job.directory, &job.node.name);
    let Some(there) = &job.there else { return names::put_new(run, directory, temporary, name) };
    let dir = job.dir()?;
    let _unlocked = locks::lift(run, &dir, name, there);
    if there.kind == FileKind::Directory {
        delete::make_way(run, directory, name, job.source)?;
    }
    dir.rename(temporary, name).map_err(|e| Error::io("cannot give it its name", e))
}
