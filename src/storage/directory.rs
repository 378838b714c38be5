//! Objects as files below one local directory.
//!
//! An object is written under a temporary name in its own directory, synced, and given its name if that is free
//! (`naming`); the directory is synced at the next barrier. An error of a sync is final: after one, the kernel may have dropped the
//! pages and would report success the next time (the "fsyncgate" of 2018).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::Timestamp;
use crate::storage::leftovers::{self, WriterProcess};
use crate::storage::naming::{self, Naming};
use crate::storage::{Class, Costs, Created, Leftovers, Name, Receipt, Storage, receipts};
use crate::sys::process::ProcessIdentity;
use crate::sys::{Dir, FileKind, process};

/// The number of `packs/00`; those below are of the classes.
const FIRST_SHARD: usize = 256;

/// A directory of the repository.
enum ClassDirectory<'a> {
    Kept(&'a Dir),
    Opened(Dir),
}

impl std::ops::Deref for ClassDirectory<'_> {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        match self {
            ClassDirectory::Kept(dir) => dir,
            ClassDirectory::Opened(dir) => dir,
        }
    }
}

/// A repository in a local directory.
#[derive(Debug)]
pub struct DirectoryStorage {
    path: PathBuf,
    root: Dir,
    /// One for each class, in the order of [`Class::ALL`]; one that may be missing is opened when it is there.
    classes: Vec<OnceLock<Dir>>,
    /// `packs`, with `00` … `ff` in it: opened when needed, as 256 descriptors are more than some processes may have.
    packs: Dir,
    /// Directories with names that are not durable yet, by number.
    dirty: Mutex<BTreeSet<usize>>,
    /// Held during a barrier, so that nobody passes it on the strength of another's that is not done yet. True when one
    /// has failed: what it was to make durable will never be known to be.
    barrier: Mutex<bool>,
    /// Who writes, as temporary names say it.
    writer: WriterProcess,
    /// How objects get their names.
    pub(super) naming: Naming,
}

impl DirectoryStorage {
    /// Makes an empty repository directory at `path`, which must not exist or be empty. Everything is durable when
    /// this returns.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = || format!("cannot make a repository at {}", crate::model::escape(bytes(path)));
        if let Some(outer) = repository_above(path).at(failed)? {
            let (path, outer) = (crate::model::escape(bytes(path)), crate::model::escape(bytes(&outer)));
            let text = format!("{path} is inside of the repository {outer}: a repository needs a directory of its own");
            return Err(Error::invalid(text));
        }
        let made = make_dirs(path).at(failed)?;
        let root = Dir::open(path).at(failed)?;
        free(path, &root)?;
        close(&root).at(failed)?;
        naming::prove(&root, &WriterProcess::this_process()).at(failed)?;
        for class in Class::ALL {
            root.make_dir(class.prefix().as_bytes(), 0o700).at(failed)?;
        }
        let packs = root.open_dir(b"packs").at(failed)?;
        for shard in 0..=255u8 {
            packs.make_dir(format!("{shard:02x}").as_bytes(), 0o700).at(failed)?;
        }
        packs.sync().at(failed)?;
        root.sync().at(failed)?;
        for parent in made {
            Dir::open(&parent).and_then(|d| d.sync()).at(failed)?;
        }
        Self::open(path)
    }

    /// Whether [`DirectoryStorage::create`] would make a repository at `path`; if not, the error says why.
    pub fn check_free(path: &Path) -> Result<()> {
        match Dir::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io(format!("cannot make a repository at {}", crate::model::escape(bytes(path))), e)),
            Ok(root) => free(path, &root),
        }
    }

    /// Opens the repository directory at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = crate::model::escape(bytes(path));
        let none = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::new(ErrorKind::NoRepository, format!("there is no repository at {shown} (make one with: yester init)"))
            }
            _ => Error::io(format!("cannot open the repository {shown}"), e),
        };
        let root = Dir::open(path).map_err(none)?;
        let lost = |class: &Class, e: io::Error| match e.kind() {
            io::ErrorKind::NotFound if root.open_dir(b"packs").is_ok_and(|packs| packs.open_dir(b"00").is_ok()) => {
                let next = match class {
                    Class::Config | Class::Keys => " (yester key recover makes it anew)",
                    _ => "",
                };
                Error::corrupt(format!("the repository {shown} has lost its directory {}/{next}", class.prefix()))
            }
            _ => none(e),
        };
        let open = |class: &Class| match root.open_dir(class.prefix().as_bytes()) {
            Ok(dir) => Ok(OnceLock::from(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && class.is_optional() => Ok(OnceLock::new()),
            Err(e) => Err(lost(class, e)),
        };
        let classes = Class::ALL.iter().map(open).collect::<Result<Vec<_>>>()?;
        let packs = root.open_dir(b"packs").map_err(none)?;
        packs.open_dir(b"00").map_err(none)?;
        let path = path.canonicalize().at(|| format!("cannot open the repository {shown}"))?;
        let writer = WriterProcess::this_process();
        let (dirty, barrier) = (Mutex::default(), Mutex::default());
        let naming = Naming::of(&root, writer.clone()).at(|| format!("cannot open the repository {shown}"))?;
        Ok(DirectoryStorage { path, root, classes, packs, dirty, barrier, writer, naming })
    }

    /// Opens the repository directory at `path` after making `config/` and `keys/` in it where they are gone: for who can
    /// put back what was in them. What else is missing stays an error.
    pub(crate) fn open_for_recovery(path: &Path) -> Result<Self> {
        let failed = || format!("cannot mend the repository {}", crate::model::escape(bytes(path)));
        if let Ok(root) = Dir::open(path)
            && root.open_dir(b"packs").is_ok_and(|packs| packs.open_dir(b"00").is_ok())
        {
            for class in [Class::Config, Class::Keys] {
                match root.make_dir(class.prefix().as_bytes(), 0o700) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io(failed(), e)),
                    Err(_) => {}
                    Ok(()) => root.sync().at(failed)?,
                }
            }
        }
        Self::open(path)
    }

    /// The directory, absolute and without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that an object is in, and its number.
    fn place(&self, name: &Name) -> Result<(usize, ClassDirectory<'_>)> {
        let at = match name {
            Name::Pack(id) => FIRST_SHARD + usize::from(id.0[0]),
            _ => Class::ALL.iter().position(|c| *c == name.class()).unwrap_or_default(),
        };
        Ok((at, self.directory(at).at(|| format!("cannot open the directory of {name} in {}", self.describe()))?))
    }

    /// The directory that a new object goes to; one that may be missing is made.
    fn place_of_new(&self, name: &Name) -> Result<(usize, ClassDirectory<'_>)> {
        let class = name.class();
        match self.place(name) {
            Err(e) if e.kind() == ErrorKind::NotFound && class.is_optional() => {
                let failed = || format!("cannot make the directory {}/ in {}", class.prefix(), self.shown());
                match self.root.make_dir(class.prefix().as_bytes(), 0o700) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io(failed(), e)),
                    _ => self.root.sync().at(failed)?,
                }
                self.place(name)
            }
            other => other,
        }
    }

    /// Notes that directory number `place` has names that are not durable.
    pub(super) fn mark(&self, place: usize) {
        self.dirty.lock().insert(place);
    }

    /// Notes that an object that is there may not be durable.
    pub(crate) fn mark_place_of(&self, name: &Name) {
        if let Ok((at, _)) = self.place(name) {
            self.mark(at);
        }
    }

    /// Where a new object goes: the number of its directory, the directory, and a temporary name there.
    pub(super) fn temporary(&self, name: &Name) -> Result<(usize, Dir, Vec<u8>)> {
        let (at, place) = self.place_of_new(name)?;
        let dir = match place {
            ClassDirectory::Kept(dir) => {
                dir.try_clone().at(|| format!("cannot open the directory of {name} in {}", self.shown()))?
            }
            ClassDirectory::Opened(dir) => dir,
        };
        Ok((at, dir, self.writer.temporary()))
    }

    /// Deletes an object, and says how many bytes it had; `None` when it was not there. Durable after the next barrier.
    pub fn remove(&self, name: &Name) -> Result<Option<u64>> {
        let failed = || format!("cannot delete {name} in {}", self.shown());
        let (_, dir) = match self.place(name) {
            Err(e) if e.kind() == ErrorKind::NotFound && name.class().is_optional() => return Ok(None),
            found => found?,
        };
        match dir.stat(name.leaf().as_bytes()) {
            Ok(stat) => self.delete(name).map(|()| Some(super::listed_size(name.class(), stat.size))),
            // The process that deleted it may not have reached its fsync.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.delete(name).map(|()| None),
            Err(e) => Err(Error::io(failed(), e)),
        }
    }

    /// The path, for people.
    pub(super) fn shown(&self) -> String {
        crate::model::escape(bytes(&self.path))
    }

    /// Opens an object for reading.
    pub(crate) fn open_object(&self, name: &Name) -> Result<File> {
        let (_, dir) = self.place(name)?;
        dir.open_file(name.leaf().as_bytes()).at(|| format!("cannot read {name} in {}", self.shown()))
    }

    /// Names, sizes, and times of the last change, of all objects of a class.
    pub(crate) fn list_times(&self, class: Class) -> Result<Vec<(Name, u64, Timestamp)>> {
        let failed = || format!("cannot list {}/ in {}", class.prefix(), self.shown());
        let mut out = Vec::new();
        for place in Self::places(class) {
            let dir = match self.directory(place) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && class.is_optional() => continue,
                found => found.at(failed)?,
            };
            let names = dir.list().at(failed)?;
            for at in 0..names.len() {
                let leaf = std::str::from_utf8(names.name(at)).ok();
                let Some(name) = leaf.and_then(|leaf| Name::parse(class, leaf)) else { continue };
                match dir.stat(names.name(at)) {
                    Ok(stat) => out.push((name, super::listed_size(class, stat.size), stat.mtime)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io(failed(), e)),
                }
            }
        }
        Ok(out)
    }

    /// The numbers of the directories of a class.
    pub(super) fn places(class: Class) -> Range<usize> {
        match Class::ALL.iter().position(|c| *c == class).unwrap_or_default() {
            _ if class == Class::Packs => FIRST_SHARD..FIRST_SHARD + 256,
            at => at..at + 1,
        }
    }

    /// A directory, by its number, opened to be listed once; `None` where the repository may lack it.
    pub(super) fn open_to_list(&self, place: usize) -> io::Result<Option<Dir>> {
        match self.directory(place) {
            // Only an optional class may be missing, not a part of one.
            Err(e) if e.kind() == io::ErrorKind::NotFound && Class::ALL.get(place).is_some_and(|class| class.is_optional()) => {
                Ok(None)
            }
            found => found?.open_below(b"").map(Some),
        }
    }

    /// The numbers of all directories.
    fn directories(&self) -> impl Iterator<Item = usize> + use<> {
        let there: Vec<usize> = (0..self.classes.len()).filter(|at| self.is_there(*at)).collect();
        there.into_iter().chain(FIRST_SHARD..FIRST_SHARD + 256)
    }

    fn directory(&self, at: usize) -> io::Result<ClassDirectory<'_>> {
        match at.checked_sub(FIRST_SHARD) {
            Some(shard) => self.packs.open_dir(format!("{shard:02x}").as_bytes()).map(ClassDirectory::Opened),
            None => self.class_directory(at).map(ClassDirectory::Kept),
        }
    }

    fn class_directory(&self, at: usize) -> io::Result<&Dir> {
        if let Some(dir) = self.classes[at].get() {
            return Ok(dir);
        }
        // Somebody may have made it since the repository was opened.
        let opened = self.root.open_dir(Class::ALL[at].prefix().as_bytes())?;
        Ok(self.classes[at].get_or_init(|| opened))
    }

    /// Whether a class has a directory. One that cannot be told counts as one that has: what is asked of it will say why.
    fn is_there(&self, at: usize) -> bool {
        !self.class_directory(at).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }

    fn write(&self, dir: &Dir, temporary: &[u8], leaf: &[u8], parts: &[&[u8]]) -> io::Result<Created> {
        let mut file = dir.create_file(temporary, 0o600)?;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        write_all(&mut file, &mut slices)?;
        file.sync_data()?;
        self.naming.give(dir, temporary, leaf)
    }
}

fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

/// The repository that `path` is in or is, links followed; of what is not there yet, the part that is counts.
fn repository_above(path: &Path) -> io::Result<Option<PathBuf>> {
    let there = path.ancestors().find(|part| !part.as_os_str().is_empty() && part.exists()).unwrap_or(Path::new("."));
    let there = there.canonicalize()?;
    // The directory itself is looked at by who makes a repository in it.
    let outside = if path.exists() { there.parent() } else { Some(&*there) };
    let is_repository = |at: &&Path| at.join("packs/00").is_dir() && at.join("snapshots").is_dir();
    Ok(outside.into_iter().flat_map(Path::ancestors).find(is_repository).map(Path::to_owned))
}

/// Makes `path` and what is missing above it (0700); returns the parents whose entries are new.
fn make_dirs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    let mut parents = Vec::new();
    while let Some(next) = missing.pop() {
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(next)?;
        parents.push(next.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned());
    }
    Ok(parents)
}

/// Whether nothing is in the directory of a new repository: a new disk has `lost+found`.
fn free(path: &Path, root: &Dir) -> Result<()> {
    let shown = || crate::model::escape(bytes(path));
    let names = root.list().at(|| format!("cannot make a repository at {}", shown()))?;
    let is_of_disk = |at| names.name(at) == b"lost+found" && names.kind(at) != FileKind::File;
    if (0..names.len()).all(is_of_disk) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Exists, format!("{} is not empty: a repository needs a directory of its own", shown())))
}

/// Lets nobody but its owner into a new repository, where the file system has modes (exFAT has none that can be set).
fn close(root: &Dir) -> io::Result<()> {
    match root.set_mode_self(0o700) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let owner = root.stat_self()?.uid;
            if process::user() == 0 || process::user() == owner { Ok(()) } else { Err(e) }
        }
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}

fn write_all(file: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Storage for DirectoryStorage {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        let (place, dir) = self.place_of_new(name)?;
        let leaf = name.leaf();
        let temporary = self.writer.temporary();
        match self.write(&dir, &temporary, leaf.as_bytes(), parts) {
            Ok(created) => {
                self.mark(place);
                Ok(created)
            }
            Err(source) => {
                // The object is not there; what is left of the attempt is only in the way.
                let _ = dir.remove(&temporary);
                Err(Error::io(format!("cannot write {name} in {}", self.describe()), source))
            }
        }
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        let (_, dir) = self.place(name)?;
        let failed = || format!("cannot read {name} in {}", self.describe());
        let file = dir.open_file(name.leaf().as_bytes()).at(failed)?;
        let range = match range {
            Some(range) => range,
            None => 0..super::whole(name, file.metadata().at(failed)?.len()).map_err(|e| e.context(failed()))?,
        };
        let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| Error::corrupt(failed()))?;
        out.clear();
        let short = || Error::corrupt(format!("{}: it is shorter than {} bytes", failed(), range.end));
        if let Err(e) = out.try_reserve(len) {
            // Too little memory is no damage, but a length that the object does not have is.
            let whole = file.metadata().at(failed)?.len();
            return Err(if range.end > whole { short() } else { Error::new(ErrorKind::Io, format!("{}: {e}", failed())) });
        }
        out.resize(len, 0);
        file.read_exact_at(out, range.start).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => short(),
            _ => Error::io(failed(), e),
        })
    }

    fn open(&self, name: &Name) -> Option<File> {
        let (_, dir) = self.place(name).ok()?;
        dir.open_file(name.leaf().as_bytes()).ok()
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        Ok(self.list_times(class)?.into_iter().map(|(name, size, _)| (name, size)).collect())
    }

    fn delete(&self, name: &Name) -> Result<()> {
        let (place, dir) = match self.place(name) {
            Err(e) if e.kind() == ErrorKind::NotFound && name.class().is_optional() => return Ok(()),
            found => found?,
        };
        match dir.remove(name.leaf().as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot delete {name} in {}", self.describe()), e))
            }
            _ => {
                self.mark(place);
                Ok(())
            }
        }
    }

    fn sync(&self) -> Result<()> {
        let failed = || format!("cannot make new names durable in {}", self.describe());
        let mut broken = self.barrier.lock();
        if *broken {
            return Err(Error::new(ErrorKind::Io, format!("{}: that failed before", failed())));
        }
        let dirty = std::mem::take(&mut *self.dirty.lock());
        for place in dirty {
            let synced = self.directory(place).and_then(|dir| dir.sync());
            *broken = synced.is_err();
            synced.at(failed)?;
        }
        Ok(())
    }

    fn sync_everything(&self) -> Result<()> {
        self.dirty.lock().extend(self.directories());
        self.sync()
    }

    fn free_space(&self) -> Result<Option<u64>> {
        let failed = || format!("cannot ask for the free space of {}", self.describe());
        self.root.space().at(failed).map(|(free, _)| Some(free))
    }

    fn leftovers(&self, remove: bool) -> Result<Leftovers> {
        let failed = || format!("cannot look for unfinished objects in {}", self.describe());
        let mut out = Leftovers::default();
        for at in self.directories() {
            self.directory(at).and_then(|dir| leftovers::find(&dir, remove, &mut out)).at(failed)?;
        }
        Ok(out)
    }

    fn leftovers_of(&self, process: &ProcessIdentity) -> Result<Leftovers> {
        let failed = || format!("cannot remove unfinished objects in {}", self.describe());
        let mut out = Leftovers::default();
        for at in self.directories() {
            self.directory(at).and_then(|dir| leftovers::remove_of(&dir, process, &mut out)).at(failed)?;
        }
        Ok(out)
    }

    /// What a server has noted that serves this directory.
    fn received(&self, class: Class) -> Result<Vec<(Name, Receipt)>> {
        if class != Class::Snapshots || !self.path.join(receipts::WRITERS).exists() {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        for (name, _, at) in self.list_times(class)? {
            if let Name::Snapshot(id) = name
                && let Some(by) = receipts::writer(&self.path, id)?
            {
                out.push((name, Receipt { at, by: Some(by) }));
            }
        }
        Ok(out)
    }

    fn costs(&self) -> Costs {
        Costs::local(4)
    }

    fn local_path(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn describe(&self) -> String {
        self.shown()
    }
}
