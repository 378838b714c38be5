//! Restoring: writes files and directories of a snapshot back to this machine.
//!
//! A walker goes through the tree in order, compares it with what is there by `stat`, and makes the directories. What
//! has content or must be created becomes a job; jobs are collected in windows of bounded size. The executor takes a
//! window at a time: it compares files that may be right already, plans the rest in the order of the packs, fetches
//! and decodes every frame once, and writes each chunk, verified, to where it belongs. A file is complete under a
//! temporary name before it takes its own. A directory gets its metadata when everything below it is done, so that
//! nothing is kept until the end.
//!
//! Nothing here follows a link: paths are opened below the target by descriptors (`target`), and what is in the way
//! is replaced. An inode that this run did not make keeps its metadata when it has other names, which may lie outside
//! the target.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Node, Snapshot, escape};
use crate::repo::tree::TreeReader;
use crate::sys::process;
use crate::task::Task;

pub mod danger;
pub(crate) mod delete;
pub(crate) mod descent;
pub(crate) mod entries;
pub(crate) mod execute;
pub(crate) mod existing;
pub(crate) mod filter;
pub(crate) mod in_place;
pub(crate) mod job;
pub(crate) mod leads;
pub(crate) mod links;
pub(crate) mod local;
pub(crate) mod locks;
pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod owners;
pub(crate) mod plan;
pub(crate) mod preflight;
pub mod rewrite;
pub(crate) mod run;
pub mod spare;
pub mod staged;
pub(crate) mod target;
pub(crate) mod tell;
pub(crate) mod told;
pub(crate) mod verify;
pub(crate) mod walk;

use danger::Confirm;
use rewrite::Rewriter;
use run::RestoreRun;
use spare::DeleteAlso;
use target::RestoreTarget;

/// What happens to an entry that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// A file of the same size and time stays; of any other, only what differs is fetched.
    #[default]
    IfChanged,
    /// Every file's content is compared; only what differs is fetched.
    Always,
    /// Only what the snapshot has a newer version of is replaced.
    IfNewer,
    /// Whatever is there stays.
    Never,
}

/// What is restored, and where to.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Snapshots and the path inside each, as names without slashes. A whole snapshot (no names), several sources, and
    /// whatever is restored to `/` go to `target/<absolute path>`. Of a single source, a directory's content goes into
    /// any other target, and anything else goes there under its own name.
    pub sources: Vec<(Arc<Snapshot>, Vec<Vec<u8>>)>,
    /// The directory to restore to; made when it is not there. `/` restores in place.
    pub target: PathBuf,
}

type ExchangeQuestion = dyn Fn() -> Result<()> + Send + Sync;

/// Asks whether what is staged may be exchanged, and waits for the answer: others may have to be ready as well.
#[derive(Clone)]
pub struct BeforeExchange(Arc<ExchangeQuestion>);

impl BeforeExchange {
    /// Asks `question`; its error leaves everything as it was.
    pub fn new(question: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        BeforeExchange(Arc::new(question))
    }

    pub(crate) fn ask(&self) -> Result<()> {
        (self.0)()
    }
}

impl std::fmt::Debug for BeforeExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeforeExchange")
    }
}

/// How to restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// What happens to what is there already.
    pub overwrite: Overwrite,
    /// Remove what is in the restored directories and not in the snapshot (given paths only, and only what the
    /// patterns let pass).
    pub delete: bool,
    /// What `delete` also removes, though the snapshot could not have had it.
    pub delete_also: DeleteAlso,
    /// So many entries may be deleted, though that is more than are restored.
    pub unsafe_delete: Option<u64>,
    /// Asks whether more entries may be deleted than are restored; without it that is an error.
    pub confirm: Option<Confirm>,
    /// Asked by a staged restore when all is staged and verified, before anything is exchanged.
    pub before_exchange: Option<BeforeExchange>,
    /// Restore only what matches one of these globs, with everything below it; empty: everything. A pattern without
    /// slash is for names, one with a slash for absolute paths inside the snapshot.
    pub include: Vec<String>,
    /// Leave out what matches one of these globs, with everything below it.
    pub exclude: Vec<String>,
    /// What is replaced in files and targets of links.
    pub rewriter: Option<Arc<Rewriter>>,
    /// Users that are others here, by name: that of the snapshot, and that of this system.
    pub map_users: Vec<(String, String)>,
    /// Groups, likewise.
    pub map_groups: Vec<(String, String)>,
    /// Read back every file that was written and compare it with what the snapshot says.
    pub verify: bool,
    /// Take owners by number. Otherwise a name that the snapshot knows is looked up on this system, the number being
    /// used where there is no such name.
    pub numeric_ids: bool,
    /// What only root may set (owners, some attributes) is an error where it cannot be set.
    pub require_owners: bool,
    /// Names of extended attributes (globs) that are neither set nor removed.
    pub exclude_xattrs: Vec<String>,
    /// Write what differs of a file that is there into that file, instead of a new one beside it: it needs no room, but a
    /// restore that is killed leaves a file of old and new parts.
    pub in_place: bool,
    /// Begin although there seems to be too little room.
    pub no_space_check: bool,
    /// Make everything durable before returning.
    pub sync: bool,
    /// Only count; write nothing.
    pub dry_run: bool,
    /// Bytes of working memory to aim at (the readers' caches come on top).
    pub memory: u64,
    /// Directories and files that are never written to or removed: the repository, and its key.
    pub forbidden: Vec<PathBuf>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        RestoreOptions {
            overwrite: Overwrite::IfChanged,
            delete: false,
            delete_also: DeleteAlso::default(),
            unsafe_delete: None,
            confirm: None,
            before_exchange: None,
            include: Vec::new(),
            exclude: Vec::new(),
            rewriter: None,
            map_users: Vec::new(),
            map_groups: Vec::new(),
            verify: false,
            numeric_ids: false,
            require_owners: false,
            exclude_xattrs: Vec::new(),
            in_place: false,
            no_space_check: false,
            sync: false,
            dry_run: false,
            memory: 48 << 20,
            forbidden: Vec::new(),
        }
    }
}

/// What a restore did, or with `dry_run` would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// Regular files written (hard links to them count as `links`).
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Symbolic links, pipes, sockets and devices made.
    pub others: u64,
    /// Hard links made.
    pub links: u64,
    /// Bytes written to files.
    pub bytes: u64,
    /// Bytes of those that came from files that were there already, instead of from the repository.
    pub bytes_local: u64,
    /// Frames fetched and decoded.
    pub frames: u64,
    /// Entries, other than directories, that were right already.
    pub unchanged: u64,
    /// Entries whose metadata alone was set.
    pub metadata: u64,
    /// Entries that differ and stayed, as [`Overwrite`] says.
    pub kept: u64,
    /// Entries removed.
    pub deleted: u64,
    /// Entries that the snapshot does not have and that were not removed, since it could not have had them.
    pub spared: u64,
    /// Entries that could not be restored, and patterns that match nothing.
    pub errors: u64,
    /// Patterns that match nothing.
    pub unmatched: u64,
    /// Properties (owners, attributes, flags, devices) that this user or file system does not let be set.
    pub warnings: u64,
    /// Entries that did not get their owner, or what else only root may set; no error unless owners are required.
    pub not_given: u64,
}

impl RestoreReport {
    /// Whether everything that was asked for is there as it was.
    pub fn is_complete(&self) -> bool {
        self.errors == 0 && self.warnings == 0
    }
}

/// Restores `request`. What fails for single entries is reported and counted; an error is returned when
/// nothing can be done at all, when the target is full, and on interruption. Running it again goes on where it stopped.
pub fn restore(
    reader: &Arc<TreeReader>,
    request: &RestoreRequest,
    options: &RestoreOptions,
    task: &Task<'_>,
) -> Result<RestoreReport> {
    restore_part(reader, request, options, task, true)
}

/// Restores `request`, which is all that is restored, or (`alone` is false) one of several.
pub(crate) fn restore_part(
    reader: &Arc<TreeReader>,
    request: &RestoreRequest,
    options: &RestoreOptions,
    task: &Task<'_>,
    alone: bool,
) -> Result<RestoreReport> {
    let in_place = target::is_root(&request.target);
    let sources = resolve(reader, request, in_place)?;
    let filter = filter::PathFilter::new(&options.include, &options.exclude)?;
    process::raise_file_limit();
    let most_deleted = match options.delete && !options.dry_run {
        true => danger::limit(reader, options, &request.target, &sources, &filter, task)?,
        false => u64::MAX,
    };
    let target = RestoreTarget::prepare(&request.target, &options.forbidden, options.dry_run)?;
    let mut run = RestoreRun::new(reader, options, task, target, &sources)?;
    run.most_deleted = most_deleted;
    preflight::space(&run, &sources, &filter)?;
    if let Some(rewriter) = options.rewriter.as_deref() {
        sources.iter().try_for_each(|source| rewrite::survey::source(&run, rewriter, source, &filter))?;
        if alone {
            rewriter.all_matched()?;
        }
    }
    for source in &sources {
        walk::restore_source(&run, source, &filter);
    }
    for source in sources.iter().filter(|_| options.verify && !options.dry_run) {
        verify::source(&run, source, &filter);
    }
    let mut unmatched = 0;
    if !run.stopped() {
        filter.unmatched(|pattern| {
            unmatched += 1;
            run.error(pattern, Error::invalid("this pattern matches nothing of what is restored"));
        });
    }
    Ok(RestoreReport { unmatched, ..run.finish()? })
}

/// One source, found in its snapshot.
#[derive(Debug)]
pub(crate) struct RestoreSource<'a> {
    /// Its number in the request.
    pub(crate) number: usize,
    /// The snapshot.
    pub(crate) snapshot: &'a Snapshot,
    /// The nodes that lead to it from the root, the root first; made when missing, otherwise left alone.
    pub(crate) parents: Vec<Node>,
    /// What is restored.
    pub(crate) node: Node,
    /// Whether it goes to the target under its own name (or, a directory, as the target itself), without its path.
    pub(crate) direct: bool,
}

impl RestoreSource<'_> {
    /// The path inside the snapshot of what is the target itself.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        if !self.direct {
            return Vec::new();
        }
        let own = Some(&self.node).filter(|node| node.directory().is_some());
        let names = self.parents.iter().chain(own).map(|node| &node.name).filter(|name| !name.is_empty());
        names.flat_map(|name| [b"/", name.as_slice()].concat()).collect()
    }
}

fn resolve<'a>(reader: &TreeReader, request: &'a RestoreRequest, in_place: bool) -> Result<Vec<RestoreSource<'a>>> {
    if request.sources.is_empty() {
        return Err(Error::invalid("nothing to restore: name a snapshot (see: yester snapshots)"));
    }
    let single = request.sources.len() == 1 && !in_place;
    let find = |(number, (snapshot, path)): (usize, &'a (Arc<Snapshot>, Vec<Vec<u8>>))| {
        let mut parents = Vec::new();
        let mut node = snapshot.root.clone();
        for (depth, name) in path.iter().enumerate() {
            crate::model::node::check_name(name).map_err(|e| e.with_kind(ErrorKind::Invalid))?;
            let shown = || escape(&path[..=depth].join(&b'/'));
            let directory = node.directory().ok_or_else(|| not_there(snapshot, &shown()))?;
            let entry = reader.lookup(directory, name)?.ok_or_else(|| not_there(snapshot, &shown()))?;
            parents.push(std::mem::replace(&mut node, entry.node().clone()));
        }
        Ok(RestoreSource { number, snapshot, parents, node, direct: single || path.is_empty() })
    };
    request.sources.iter().enumerate().map(find).collect()
}

fn not_there(snapshot: &Snapshot, path: &str) -> Error {
    let text = format!("/{path} is not in snapshot {} (see: yester ls {})", snapshot.id.short(), snapshot.id.short());
    Error::new(ErrorKind::NotFound, text)
}

/// A path for messages.
pub(crate) fn shown(path: &Path) -> String {
    escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}
