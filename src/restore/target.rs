//! The target: directories as values with a way to their descriptor, and the few descriptors that are kept open.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::Node;
use crate::restore::shown;
use crate::sys::{Dir, Stat, dir, process};

/// Descriptors of directories that are kept open, where there are enough.
const OPEN_DIRECTORIES: usize = 256;

/// The metadata that a directory gets when everything below it is done.
#[derive(Debug)]
pub(crate) struct Finish {
    /// The directory's node.
    pub(crate) node: Node,
    /// Which source it is of.
    pub(crate) source: usize,
}

/// A directory below the target. It is finished when everything that holds it has let go.
#[derive(Debug)]
pub(crate) struct TargetDirectory {
    id: u64,
    parent: Option<Arc<TargetDirectory>>,
    /// Its name; empty for the target itself.
    pub(crate) name: Vec<u8>,
    /// Whether this run made it: then nothing can be in it that this run did not put there.
    pub(crate) made: bool,
    /// Whether it exists; false only in a dry run, for what would be made.
    pub(crate) real: bool,
    /// Whether what is made in it inherits nothing: no default ACL, no set-group-id bit.
    pub(crate) clean: bool,
    /// What it gets at the end.
    pub(crate) finish: Option<Finish>,
    /// Its descriptor, where no way without links leads to it.
    pinned: Option<Arc<Dir>>,
    /// `chattr` flags that it had and gets again at the end.
    pub(crate) locks: u32,
    /// Device and inode, once it was opened.
    identity: OnceLock<((u32, u32), u64)>,
    /// The last directory in it that was opened: a way back to it while that one is open.
    below: AtomicU64,
    holders: AtomicU64,
}

impl TargetDirectory {
    /// Counts one more holder.
    pub(crate) fn hold(self: &Arc<Self>) -> Arc<Self> {
        self.holders.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    /// Counts one holder less; true when it was the last.
    pub(crate) fn let_go(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Keeps the descriptor of a directory that was found through a link.
    pub(crate) fn pin(&mut self, dir: Arc<Dir>) {
        if let Ok(stat) = dir.stat_self() {
            let _ = self.identity.set((stat.device, stat.inode));
        }
        self.pinned = Some(dir);
    }

    /// The directory it is in; `None` for the target.
    pub(crate) fn parent(&self) -> Option<&Arc<TargetDirectory>> {
        self.parent.as_ref()
    }
}

impl Drop for TargetDirectory {
    /// A chain of a hundred thousand directories must not be dropped by as many nested calls.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut directory) = next.and_then(Arc::into_inner) {
            next = directory.parent.take();
        }
    }
}

/// What is to be known of a new [`TargetDirectory`].
#[derive(Debug, Default)]
pub(crate) struct DirectoryState {
    /// See [`TargetDirectory::made`].
    pub(crate) made: bool,
    /// See [`TargetDirectory::real`].
    pub(crate) real: bool,
    /// See [`TargetDirectory::clean`].
    pub(crate) clean: bool,
}

#[derive(Debug, Default)]
struct OpenDirectories {
    directories: HashMap<u64, (Arc<Dir>, u64)>,
    clock: u64,
}

impl OpenDirectories {
    /// The descriptor of directory `id`, if it is kept; it counts as used.
    fn get(&mut self, id: u64) -> Option<Arc<Dir>> {
        self.clock += 1;
        let (dir, used) = self.directories.get_mut(&id)?;
        *used = self.clock;
        Some(dir.clone())
    }
}

/// The target directory.
#[derive(Debug)]
pub(crate) struct RestoreTarget {
    /// Its path as the user gave it, for messages.
    pub(crate) path: PathBuf,
    /// Whether this run made it.
    pub(crate) made: bool,
    /// Whether it is the root of this system: what is restored there comes back where it was.
    pub(crate) in_place: bool,
    root: Option<Arc<Dir>>,
    open: Mutex<OpenDirectories>,
    most_open: usize,
    numbers: AtomicU64,
    forbidden: Vec<(u64, u64)>,
}

impl RestoreTarget {
    /// Checks the target, makes it when it is not there, and opens it.
    pub(crate) fn prepare(path: &Path, forbidden: &[PathBuf], dry_run: bool) -> Result<Self> {
        // Without a trailing slash or dot, so that a link is seen as what it is.
        let path: PathBuf = path.components().collect();
        let exists = check_kind(&path)?;
        let forbidden: Vec<PathBuf> = forbidden.iter().filter_map(|p| fs::canonicalize(p).ok()).collect();
        let real = canonical(&path)?;
        if let Some(inside) = forbidden.iter().find(|place| real.starts_with(place)) {
            let text = format!("cannot restore to {}: it is inside the repository {}", shown(&path), shown(inside));
            return Err(Error::invalid(text));
        }
        let numbers = forbidden.iter().filter_map(|p| fs::metadata(p).ok()).map(|m| (m.dev(), m.ino())).collect();
        if !exists && !dry_run {
            make(&path)?;
        }
        let root = if exists || !dry_run { Some(Arc::new(open_checked(&path, &real)?)) } else { None };
        let in_place = is_root(&path);
        let most_open = (process::file_limit() / 8).clamp(4, OPEN_DIRECTORIES as u64) as usize;
        let (open, next) = (Mutex::default(), AtomicU64::new(1));
        Ok(RestoreTarget { path, made: !exists, in_place, root, open, most_open, numbers: next, forbidden: numbers })
    }

    /// The target's descriptor; `None` only in a dry run, when it is not there.
    pub(crate) fn root(&self) -> Option<&Arc<Dir>> {
        self.root.as_ref()
    }

    /// The target as a directory that `finish` is for. `made`: this run made it, and nothing is in it yet.
    pub(crate) fn directory(&self, made: bool, clean: bool, finish: Option<Finish>) -> Arc<TargetDirectory> {
        let state = DirectoryState { made, real: self.root.is_some(), clean };
        Arc::new(self.new_directory(0, None, Vec::new(), state, finish))
    }

    /// The directory `name` of `parent`, which it holds. It is held once itself.
    pub(crate) fn child(
        &self,
        parent: &Arc<TargetDirectory>,
        name: &[u8],
        state: DirectoryState,
        finish: Option<Finish>,
    ) -> Arc<TargetDirectory> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        Arc::new(self.new_directory(id, Some(parent.hold()), name.to_vec(), state, finish))
    }

    fn new_directory(
        &self,
        id: u64,
        parent: Option<Arc<TargetDirectory>>,
        name: Vec<u8>,
        state: DirectoryState,
        finish: Option<Finish>,
    ) -> TargetDirectory {
        let DirectoryState { made, real, clean } = state;
        let (identity, below, holders) = (OnceLock::new(), AtomicU64::new(0), AtomicU64::new(1));
        TargetDirectory { id, parent, name, made, real, clean, finish, pinned: None, locks: 0, identity, below, holders }
    }

    /// A descriptor of `directory`: kept, or opened from the nearest one that is.
    pub(crate) fn open(&self, directory: &TargetDirectory) -> io::Result<Arc<Dir>> {
        let root = self.root.as_ref().ok_or(io::ErrorKind::NotFound)?;
        if directory.parent.is_none() {
            return Ok(root.clone());
        }
        if let Some(dir) = &directory.pinned {
            return Ok(dir.clone());
        }
        let below = {
            let mut open = self.open.lock();
            if let Some(dir) = open.get(directory.id) {
                return Ok(dir);
            }
            open.get(directory.below.load(Ordering::Relaxed))
        };
        if let Some(dir) = below.and_then(|below| self.open_above(&below, directory)) {
            return Ok(dir);
        }
        let (start, names) = self.nearest(directory, root);
        let dir = Arc::new(start.open_far_below(names.iter().rev().copied())?);
        if directory.identity.get().is_none() {
            let stat = dir.stat_self()?;
            let _ = directory.identity.set((stat.device, stat.inode));
        }
        self.keep(directory, dir.clone());
        Ok(dir)
    }

    /// The nearest open directory on the way to `directory`, and the names from there, the last one first.
    fn nearest<'n>(&self, directory: &'n TargetDirectory, root: &Arc<Dir>) -> (Arc<Dir>, Vec<&'n [u8]>) {
        let mut open = self.open.lock();
        let (mut names, mut at): (Vec<&[u8]>, _) = (Vec::new(), directory);
        while let Some(parent) = &at.parent {
            if let Some(dir) = at.pinned.clone().or_else(|| open.get(at.id)) {
                return (dir, names);
            }
            names.push(&at.name);
            at = parent;
        }
        (root.clone(), names)
    }

    /// Opens `directory` from one that is in it: on the way out of a tree of any depth, each directory costs one step and
    /// not its whole path. `None` when the one below was moved meanwhile.
    fn open_above(&self, below: &Dir, directory: &TargetDirectory) -> Option<Arc<Dir>> {
        let (device, inode) = directory.identity.get()?;
        let dir = Arc::new(below.open_above(*device, *inode).ok()?);
        self.keep(directory, dir.clone());
        Some(dir)
    }

    /// Before `directory` is left and closed: makes sure that the one that it is in is open.
    pub(crate) fn climb(&self, directory: &TargetDirectory) {
        let inner = |above: &&Arc<TargetDirectory>| above.parent.is_some() && above.pinned.is_none();
        let Some(above) = directory.parent.as_ref().filter(inner) else { return };
        let below = {
            let mut open = self.open.lock();
            if open.get(above.id).is_some() { None } else { open.get(directory.id) }
        };
        // What cannot be opened so is looked for by its path, when it is needed.
        let _ = below.and_then(|below| self.open_above(&below, above));
    }

    fn keep(&self, directory: &TargetDirectory, dir: Arc<Dir>) {
        if let Some(parent) = &directory.parent {
            parent.below.store(directory.id, Ordering::Relaxed);
        }
        let mut open = self.open.lock();
        open.clock += 1;
        let clock = open.clock;
        if open.directories.len() >= self.most_open {
            // Half of them at once: looking for the oldest one each time would cost more than opening them again.
            let mut ages: Vec<u64> = open.directories.values().map(|(_, used)| *used).collect();
            let (_, median, _) = ages.select_nth_unstable(self.most_open / 2);
            let median = *median;
            open.directories.retain(|_, (_, used)| *used > median);
        }
        open.directories.insert(directory.id, (dir, clock));
    }

    /// Forgets the descriptor of a directory that is finished.
    pub(crate) fn close(&self, directory: &TargetDirectory) {
        self.open.lock().directories.remove(&directory.id);
    }

    /// Whether what has this `stat` must be left alone.
    pub(crate) fn is_forbidden(&self, stat: &Stat) -> bool {
        self.forbidden.iter().any(|(dev, inode)| *inode == stat.inode && *dev == dir::device_number(stat.device))
    }

    /// The names below the target that lead to an entry, each behind a slash.
    pub(crate) fn below(&self, directory: &TargetDirectory, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = directory;
        while let Some(parent) = &at.parent {
            names.push(&at.name);
            at = parent;
        }
        names.iter().rev().filter(|name| !name.is_empty()).flat_map(|name| [b"/", *name].concat()).collect()
    }

    /// The path of an entry for messages: the target's and the names below it.
    pub(crate) fn path_of(&self, directory: &TargetDirectory, name: &[u8]) -> Vec<u8> {
        let mut path = std::os::unix::ffi::OsStrExt::as_bytes(self.path.as_os_str()).to_vec();
        if path.last() == Some(&b'/') {
            path.pop();
        }
        path.extend_from_slice(&self.below(directory, name));
        if path.is_empty() { b"/".to_vec() } else { path }
    }
}

/// Whether a path is the root of this system, by whatever name.
pub(crate) fn is_root(path: &Path) -> bool {
    let number = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    path == Path::new("/") || number(path).is_some_and(|found| number(Path::new("/")) == Some(found))
}

/// Whether the target exists; an error when it is anything but a directory.
fn check_kind(path: &Path) -> Result<bool> {
    let refused = |what: &str| {
        let text = format!("cannot restore to {}: it is {what}, name a directory", shown(path));
        Err(Error::invalid(text))
    };
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_symlink() => refused("a symbolic link"),
        Ok(m) if !m.is_dir() => refused("a file"),
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("cannot restore to {}", shown(path)), e)),
    }
}

/// The path with all links resolved, for the part of it that exists.
fn canonical(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).at(|| format!("cannot restore to {}", shown(path)))?;
    let mut rest = Vec::new();
    let mut at = absolute.as_path();
    loop {
        match fs::canonicalize(at) {
            Ok(real) => return Ok(rest.iter().rev().fold(real, |path, name| path.join(name))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format!("cannot restore to {}", shown(path)), e)),
        }
        match (at.components().next_back(), at.parent()) {
            (Some(Component::Normal(name)), Some(parent)) => {
                rest.push(name);
                at = parent;
            }
            _ => return Err(Error::invalid(format!("cannot restore to {}: the path has a .. that leads nowhere", shown(path)))),
        }
    }
}

fn make(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).at(|| format!("cannot make {}", shown(parent)))?;
    }
    fs::DirBuilder::new().mode(0o700).create(path).at(|| format!("cannot make {}", shown(path)))
}

/// Opens the target and checks that it still is the directory that was judged.
fn open_checked(path: &Path, real: &Path) -> Result<Dir> {
    let dir = Dir::open(path).at(|| format!("cannot open {}", shown(path)))?;
    let there = fs::symlink_metadata(real).at(|| format!("cannot open {}", shown(path)))?;
    let stat = dir.stat_self().at(|| format!("cannot open {}", shown(path)))?;
    if there.ino() != stat.inode || there.dev() != dir::device_number(stat.device) {
        return Err(Error::new(ErrorKind::Busy, format!("{} was replaced just now: try again", shown(path))));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn descriptors_are_found_again_and_links_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let target = RestoreTarget::prepare(place.path(), &[], false).unwrap();
        let root = target.directory(false, true, None);
        let mut at = root.clone();
        for _ in 0..3 {
            for number in 0..OPEN_DIRECTORIES {
                let name = format!("d{number}").into_bytes();
                let _ = target.open(&at).unwrap().make_dir(&name, 0o700);
                let child = target.child(&at, &name, DirectoryState { real: true, ..DirectoryState::default() }, None);
                assert!(target.open(&child).is_ok());
            }
            at = target.child(&at, b"d0", DirectoryState { real: true, ..DirectoryState::default() }, None);
        }
        assert!(target.open.lock().directories.len() <= target.most_open);
        target.root().unwrap().make_symlink(b"d0", b"link").unwrap();
        let link = target.child(&root, b"link", DirectoryState { real: true, ..DirectoryState::default() }, None);
        assert!(target.open(&link).is_err());
        assert!(target.path_of(&at, b"x").ends_with(b"/d0/d0/d0/x"));
    }

    #[test]
    fn a_path_far_longer_than_path_max_opens() {
        let place = tempfile::tempdir().unwrap();
        let target = RestoreTarget::prepare(place.path(), &[], false).unwrap();
        let mut at = target.directory(false, true, None);
        for _ in 0..40 {
            let name = vec![b'n'; 250];
            target.open(&at).unwrap().make_dir(&name, 0o700).unwrap();
            at = target.child(&at, &name, DirectoryState { real: true, ..DirectoryState::default() }, None);
        }
        target.open.lock().directories.clear();
        assert!(target.open(&at).is_ok());
        // Back, one by one, without a long way round.
        let above = at.parent().unwrap().clone();
        let is_open = |directory: &TargetDirectory| target.open.lock().directories.contains_key(&directory.id);
        target.climb(&at);
        assert!(is_open(&above));
        // One that was moved is not taken to be in the directory that it was in.
        let further = above.parent().unwrap();
        let (from, to) = (target.open(further).unwrap(), target.root().unwrap());
        std::fs::rename(
            format!("/proc/self/fd/{}/{}", from.as_fd().as_raw_fd(), shown(Path::new(std::ffi::OsStr::from_bytes(&above.name)))),
            format!("/proc/self/fd/{}/moved", to.as_fd().as_raw_fd()),
        )
        .unwrap();
        target.close(further);
        target.climb(&above);
        assert!(!is_open(further));
    }

    #[test]
    fn files_links_and_repositories_are_no_targets() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "x").unwrap();
        fs::create_dir_all(place.path().join("repo/packs")).unwrap();
        std::os::unix::fs::symlink("repo", place.path().join("link")).unwrap();
        let forbidden = [place.path().join("repo")];
        for bad in ["file", "link", "link/", "repo", "repo/packs", "link/new", "link/packs/a/b"] {
            assert!(RestoreTarget::prepare(&place.path().join(bad), &forbidden, true).is_err(), "{bad} was taken");
        }
        assert!(RestoreTarget::prepare(&place.path().join("new/er"), &forbidden, true).is_ok());
        assert!(!place.path().join("new").exists());
    }
}
