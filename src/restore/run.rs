//! What all parts of one restore share: the target, the counts, what went wrong, and when to stop.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::Snapshot;
use crate::observe::{Counter, Event};
use crate::repo::attributes::AttributeFilter;
use crate::repo::tree::TreeReader;
use crate::restore::danger::{self, Deletion};
use crate::restore::links::ClaimedInodes;
use crate::restore::metadata;
use crate::restore::owners::OwnerMap;
use crate::restore::spare::{Spare, Why};
use crate::restore::target::{RestoreTarget, TargetDirectory};
use crate::restore::told::UnsetMetadata;
use crate::restore::{RestoreOptions, RestoreReport, RestoreSource, shown};
use crate::storage::leftovers::WriterProcess;
use crate::sys::dir::device_number;
use crate::sys::{Dir, FileKind, Stat, process};
use crate::task::Task;

/// Temporary files that are kept open while they wait for more frames, where there are descriptors enough.
const OPEN_FILES: u64 = 512;
/// The most threads that fetch, decode and write.
const MAX_WORKERS: u64 = 16;

/// Paths of entries that could not be restored that are kept for the comparison at the end.
const FAILED: u64 = 100_000;

/// What the names of files that are not complete begin with.
pub(crate) const TEMPORARY: &str = ".yester-";
/// Their numbers: two restores of one process may have the same target.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// The counts behind [`RestoreReport`].
#[derive(Debug, Default)]
pub(crate) struct RestoreCounts {
    pub(crate) files: Counter,
    pub(crate) directories: Counter,
    pub(crate) others: Counter,
    pub(crate) links: Counter,
    pub(crate) bytes: Counter,
    pub(crate) bytes_local: Counter,
    pub(crate) frames: Counter,
    pub(crate) unchanged: Counter,
    pub(crate) metadata: Counter,
    pub(crate) kept: Counter,
    pub(crate) deleted: Counter,
    pub(crate) spared: Counter,
    pub(crate) errors: Counter,
    pub(crate) warnings: Counter,
    pub(crate) not_given: Counter,
    /// Entries of the snapshot that the restore is of.
    pub(crate) taken: Counter,
}

/// One restore under way.
pub(crate) struct RestoreRun<'a> {
    pub(crate) tree: &'a Arc<TreeReader>,
    pub(crate) options: &'a RestoreOptions,
    pub(crate) target: RestoreTarget,
    pub(crate) counts: RestoreCounts,
    /// Whether this user may set owners, suid bits and devices.
    pub(crate) privileged: bool,
    /// Owner and group of what this process makes.
    pub(crate) me: (u32, u32),
    /// Groups that this user may give files to.
    pub(crate) groups: Vec<u32>,
    /// Attributes that are left out.
    pub(crate) without: AttributeFilter,
    /// Nothing is restored, also not for show: only what would be deleted is counted.
    pub(crate) only_deletions: bool,
    /// Entries that may be deleted.
    pub(crate) most_deleted: u64,
    pub(crate) task: &'a Task<'a>,
    /// Somebody wants to know of every entry.
    pub(crate) listing: bool,
    owners: Vec<OwnerMap>,
    fatal: Mutex<Option<Error>>,
    stopped: AtomicBool,
    told: UnsetMetadata,
    /// What only root may do, or may not be done here, and is no error.
    told_lightly: UnsetMetadata,
    spared: Mutex<BTreeMap<Why, (u64, Vec<u8>)>>,
    first_deleted: Mutex<Vec<Vec<u8>>>,
    spares: Vec<Spare>,
    prefixes: Vec<Vec<u8>>,
    /// Directories that were found through links, by the path below the target.
    followed: Mutex<HashMap<Vec<u8>, Arc<Dir>>>,
    failed: Mutex<HashSet<Vec<u8>>>,
    /// Whether a file system here does not know how to rename without replacing.
    pub(crate) renames_blindly: AtomicBool,
    /// There, entries get their names one at a time.
    pub(crate) naming: Mutex<()>,
    devices: Mutex<HashMap<(u32, u32), Arc<Dir>>>,
    /// The device that was last found to have no `chattr` flags, plus one.
    flagless: AtomicU64,
    claims: Mutex<Option<ClaimedInodes>>,
    /// Links to what is immutable are made one at a time: it is not, meanwhile.
    pub(crate) unlocking: Mutex<()>,
    /// Directories that lead to sources, by path; several sources may share them.
    shared: Mutex<HashMap<Vec<u8>, Arc<TargetDirectory>>>,
    writer: WriterProcess,
    open_files: AtomicUsize,
    most_open_files: usize,
    /// Threads that work at once; each may have a handful of files open.
    pub(crate) workers: usize,
    totals: (AtomicU64, AtomicU64),
}

impl<'a> RestoreRun<'a> {
    pub(crate) fn new(
        tree: &'a Arc<TreeReader>,
        options: &'a RestoreOptions,
        task: &'a Task<'a>,
        target: RestoreTarget,
        sources: &[RestoreSource<'_>],
    ) -> Result<Self> {
        let limit = process::file_limit();
        let cores = process::cores();
        let workers = cores.max(tree.chunks().repo().storage().costs().concurrency);
        let map = |snapshot: &Snapshot| match options.numeric_ids {
            true => Ok(OwnerMap::default()),
            false => OwnerMap::mapped(&snapshot.owners, &options.map_users, &options.map_groups),
        };
        Ok(RestoreRun {
            tree,
            options,
            target,
            counts: RestoreCounts::default(),
            privileged: process::user() == 0,
            me: (process::user(), process::group()),
            groups: process::groups(),
            without: AttributeFilter::new(&options.exclude_xattrs)?,
            only_deletions: false,
            most_deleted: u64::MAX,
            task,
            listing: task.observer.wants_entries(),
            owners: sources.iter().map(|source| map(source.snapshot)).collect::<Result<_>>()?,
            fatal: Mutex::default(),
            stopped: AtomicBool::new(false),
            told: UnsetMetadata::default(),
            told_lightly: UnsetMetadata::default(),
            spared: Mutex::default(),
            first_deleted: Mutex::default(),
            spares: sources.iter().map(|source| Spare::of(source.snapshot, options.delete_also)).collect(),
            prefixes: sources.iter().map(RestoreSource::prefix).collect(),
            followed: Mutex::default(),
            failed: Mutex::default(),
            renames_blindly: AtomicBool::new(false),
            naming: Mutex::default(),
            devices: Mutex::default(),
            flagless: AtomicU64::new(0),
            claims: Mutex::default(),
            unlocking: Mutex::default(),
            shared: Mutex::default(),
            writer: WriterProcess::this_process(),
            open_files: AtomicUsize::new(0),
            most_open_files: (limit / 8).min(OPEN_FILES) as usize,
            workers: workers.clamp(1, (limit / 16).clamp(1, MAX_WORKERS) as usize),
            totals: Default::default(),
        })
    }

    /// The owners of source `number`.
    pub(crate) fn owners(&self, number: usize) -> &OwnerMap {
        &self.owners[number]
    }

    /// Whether to begin nothing more.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.task.is_stopped()
    }

    /// Stops everything: the first such error is the answer.
    pub(crate) fn abort(&self, error: Error) {
        self.fatal.lock().get_or_insert(error);
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// One entry could not be restored. A full target ends the run instead of failing file by file.
    pub(crate) fn error(&self, subject: &[u8], error: Error) {
        if error.kind() == ErrorKind::Full {
            return self.abort(error.context(format!("the target is full; {}", crate::model::escape(subject))));
        }
        if self.options.verify && self.counts.errors.get() < FAILED {
            self.failed.lock().insert(subject.to_vec());
        }
        self.counts.errors.add(1);
        self.task.observer.event(&Event::Warning { subject, message: &error.to_string() });
    }

    /// Whether it was told that this entry could not be restored.
    pub(crate) fn has_failed(&self, subject: &[u8]) -> bool {
        self.failed.lock().contains(subject)
    }

    /// Says what a user should know of.
    pub(crate) fn note(&self, subject: &[u8], message: &str) {
        self.task.observer.event(&Event::Note { subject, message });
    }

    /// A property could not be set. `what` names the kind of property; each kind is told once, at the end.
    pub(crate) fn warn(&self, directory: &TargetDirectory, name: &[u8], what: &str, error: &dyn std::fmt::Display) {
        self.counts.warnings.add(1);
        self.told.note(what, error, || self.target.path_of(directory, name));
    }

    /// An entry did not get what only root may give it, and need not.
    pub(crate) fn not_given(&self, directory: &TargetDirectory, name: &[u8], what: &str, error: &dyn std::fmt::Display) {
        self.counts.not_given.add(1);
        self.told_lightly.note(what, error, || self.target.path_of(directory, name));
    }

    /// The rules by which source `number` lacks what it lacks.
    pub(crate) fn spare(&self, number: usize) -> &Spare {
        &self.spares[number]
    }

    /// The path inside the snapshot of source `number` of what is at `name` in `directory`.
    pub(crate) fn snapshot_path(&self, number: usize, directory: &TargetDirectory, name: &[u8]) -> Vec<u8> {
        [self.prefixes[number].as_slice(), &self.target.below(directory, name)].concat()
    }

    /// An entry stays that the snapshot does not have; without a name the content of the directory.
    pub(crate) fn spared(&self, why: Why, directory: &TargetDirectory, name: &[u8], kind: FileKind) {
        self.counts.spared.add(1);
        self.tell_spared(directory, name, kind, why.short());
        let mut spared = self.spared.lock();
        spared.entry(why).or_insert_with(|| (0, self.target.path_of(directory, name))).0 += 1;
    }

    /// Asks to delete one entry more: never more than the user was told of.
    pub(crate) fn may_delete(&self) -> Result<()> {
        match self.counts.deleted.get() < self.most_deleted {
            true => Ok(()),
            false => Err(Error::invalid("more would be deleted by now than was counted before: restore again")),
        }
    }

    /// An entry is deleted, or would be.
    pub(crate) fn deleted(&self, directory: &TargetDirectory, name: &[u8]) {
        if self.counts.deleted.add(1) <= danger::NAMED as u64 {
            let path = self.target.path_of(directory, name);
            self.first_deleted.lock().push(path);
        }
    }

    /// What was deleted so far, or would be.
    pub(crate) fn deletion(&self) -> Deletion {
        let first = self.first_deleted.lock().clone();
        Deletion { entries: self.counts.deleted.get(), restored: self.counts.taken.get(), first }
    }

    /// Keeps the way to a directory that was found through a link.
    pub(crate) fn follow(&self, directory: &TargetDirectory, dir: &Arc<Dir>) {
        let path = self.target.below(directory, b"");
        self.followed.lock().insert(path, dir.clone());
    }

    /// Opens the directory that these names lead to from the target.
    pub(crate) fn open_names(&self, names: &[Vec<u8>]) -> io::Result<Dir> {
        let root = self.target.root().ok_or(io::ErrorKind::NotFound)?;
        let followed = self.followed.lock();
        for end in (1..=names.len()).rev().filter(|_| !followed.is_empty()) {
            let path: Vec<u8> = names[..end].iter().flat_map(|name| [b"/", name.as_slice()].concat()).collect();
            if let Some(dir) = followed.get(&path) {
                return dir.open_far_below(names[end..].iter().map(Vec::as_slice));
            }
        }
        root.open_far_below(names.iter().map(Vec::as_slice))
    }

    /// A fresh name for a file that is not complete.
    pub(crate) fn temporary(&self) -> Vec<u8> {
        self.writer.name(TEMPORARY, NUMBERS.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks to keep one more file open. If true, the caller calls [`RestoreRun::closed`] when it is closed.
    pub(crate) fn may_keep_open(&self) -> bool {
        let more = |n: usize| (n < self.most_open_files).then_some(n + 1);
        self.open_files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// One file that was kept open is closed.
    pub(crate) fn closed(&self) {
        self.open_files.fetch_sub(1, Ordering::Relaxed);
    }

    /// Releases a directory; the last release sets its metadata, and then its parent's, if that was the last there.
    pub(crate) fn release(&self, directory: &Arc<TargetDirectory>) {
        let mut at = Some(directory);
        while let Some(directory) = at {
            if !directory.let_go() {
                return;
            }
            if directory.real && !self.options.dry_run {
                metadata::finish_directory(self, directory);
            }
            self.target.climb(directory);
            self.target.close(directory);
            at = directory.parent();
        }
    }

    /// The directory at `path` that an earlier source went through, held once more.
    pub(crate) fn shared(&self, path: &[u8]) -> Option<Arc<TargetDirectory>> {
        self.shared.lock().get(path).map(|directory| directory.hold())
    }

    /// Keeps a directory that leads to a source until the end.
    pub(crate) fn share(&self, path: Vec<u8>, directory: &Arc<TargetDirectory>) {
        self.shared.lock().insert(path, directory.hold());
    }

    /// Remembers a directory on a file system that must be synced at the end.
    pub(crate) fn touches(&self, device: (u32, u32), dir: &Arc<Dir>) {
        if self.options.sync {
            let mut devices = self.devices.lock();
            devices.entry(device).or_insert_with(|| dir.clone());
        }
    }

    /// Takes an inode with several names, which was there, for one entry; false when it is another's already.
    pub(crate) fn claim(&self, stat: &Stat) -> Result<bool> {
        let mut claims = self.claims.lock();
        let claims = claims.get_or_insert_with(|| ClaimedInodes::new(self.scratch()));
        claims.claim(stat).at(|| "cannot remember which hard links are in use".to_owned())
    }

    /// Where files without a name can be made: on the target's file system.
    pub(crate) fn scratch(&self) -> Option<PathBuf> {
        let root = self.target.root().filter(|_| !self.options.dry_run)?;
        Some(PathBuf::from(format!("/proc/self/fd/{}", root.as_fd().as_raw_fd())))
    }

    /// Whether files of this device were found to have no `chattr` flags.
    pub(crate) fn is_flagless(&self, device: (u32, u32)) -> bool {
        self.flagless.load(Ordering::Relaxed) == device_number(device).wrapping_add(1)
    }

    /// Remembers that files of this device have no `chattr` flags.
    pub(crate) fn note_flagless(&self, device: (u32, u32)) {
        self.flagless.store(device_number(device).wrapping_add(1), Ordering::Relaxed);
    }

    /// What is expected in all, for progress.
    pub(crate) fn expect(&self, entries: u64, bytes: u64) {
        self.totals.0.store(entries, Ordering::Relaxed);
        self.totals.1.store(bytes, Ordering::Relaxed);
    }

    /// Tells how far the run is.
    pub(crate) fn progress(&self) {
        let c = &self.counts;
        let whole = [&c.files, &c.directories, &c.others, &c.links, &c.unchanged, &c.metadata, &c.kept, &c.errors];
        self.task.observer.event(&Event::Progress {
            entries: whole.iter().map(|counter| counter.get()).sum(),
            bytes: c.bytes.get(),
            total_entries: self.totals.0.load(Ordering::Relaxed),
            total_bytes: self.totals.1.load(Ordering::Relaxed),
            unit: "entries",
        });
    }

    /// Ends the run: the report, or what stopped it.
    pub(crate) fn finish(self) -> Result<RestoreReport> {
        let shared = std::mem::take(&mut *self.shared.lock());
        shared.values().for_each(|directory| self.release(directory));
        self.tell_the_rest();
        if let Some(error) = self.fatal.lock().take() {
            return Err(error);
        }
        if self.stopped() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted: run the same restore again to go on"));
        }
        if !self.options.dry_run {
            for dir in self.devices.lock().values() {
                dir.sync_file_system().at(|| format!("cannot make {} durable", shown(&self.target.path)))?;
            }
        }
        self.progress();
        Ok(self.report())
    }

    /// What is told once, at the end.
    fn tell_the_rest(&self) {
        for line in self.told.take() {
            self.task.observer.event(&Event::Warning { subject: &line.subject, message: &line.message });
        }
        for line in self.told_lightly.take() {
            self.note(&line.subject, &line.message);
        }
        for (why, (count, first)) in self.spared.lock().iter() {
            let others = match count - 1 {
                0 => String::new(),
                1 => ", nor 1 other entry".to_owned(),
                n => format!(", nor {n} other entries"),
            };
            self.note(first, &format!("not deleted{others}: {}", why.text()));
        }
        let deletion = self.deletion();
        if self.options.dry_run && deletion.is_dangerous() {
            let message = format!("{deletion}; a restore does it only with --unsafe-delete {}", deletion.entries);
            self.note(std::os::unix::ffi::OsStrExt::as_bytes(self.target.path.as_os_str()), &message);
        }
    }

    fn report(&self) -> RestoreReport {
        let c = &self.counts;
        RestoreReport {
            files: c.files.get(),
            directories: c.directories.get(),
            others: c.others.get(),
            links: c.links.get(),
            bytes: c.bytes.get(),
            bytes_local: c.bytes_local.get(),
            frames: c.frames.get(),
            unchanged: c.unchanged.get(),
            metadata: c.metadata.get(),
            kept: c.kept.get(),
            deleted: c.deleted.get(),
            spared: c.spared.get(),
            errors: c.errors.get(),
            unmatched: 0,
            warnings: c.warnings.get(),
            not_given: c.not_given.get(),
        }
    }
}
