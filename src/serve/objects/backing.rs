//! What holds the objects of a repository that is served: a directory of this machine, or an object store.
//!
//! What the server notes by itself (who began which session, who put which snapshot, jobs) is in a directory in both cases:
//! the repository's own, or one below the server's `.server/`.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, IoContext, Result, StoreFailure};
use crate::model::Timestamp;
use crate::remote::client::RemoteOptions;
use crate::remote::s3::address::StoreAddress;
use crate::remote::s3::list::StoreWalk;
use crate::remote::s3::{MOST_ONE_PUT, S3Storage};
use crate::storage::directory::DirectoryStorage;
use crate::storage::upload::Upload;
use crate::storage::walk::ClassWalk;
use crate::storage::{Class, Created, Name, Storage};
use crate::sys::spool::{Spool, Spooled};

/// Where uploads wait until they are whole, beside the repositories' notes.
const INCOMING: &str = ".incoming";
/// Uploads up to this are kept in memory until they are whole, longer ones in a file without a name.
const SMALL: u64 = 64 << 10;
/// How many threads wait for the store at once: fewer than there are, so that others are always left.
const AT_ONCE: usize = 32;
/// How long a store that has been given up is not asked again.
const AWAY: Duration = Duration::from_secs(5);

/// The object store behind a server, with what all of its repositories share.
#[derive(Debug)]
pub(crate) struct StoreRoot {
    base: S3Storage,
    directory: PathBuf,
    away: Arc<Mutex<Option<Instant>>>,
    turns: Arc<Semaphore>,
}

impl StoreRoot {
    /// The store whose repositories are below `address`; the server's notes are in `directory`. An address that is a
    /// repository itself is refused. Asks the store, so that wrong credentials are known before anybody is let in.
    pub(crate) fn open(address: &StoreAddress, options: &RemoteOptions, directory: &Path) -> Result<Self> {
        let base = S3Storage::root(address, options)?;
        if base.is_there()? {
            let text = format!("{address} is a repository: --root names what is above the repositories");
            return Err(Error::invalid(text));
        }
        let failed = || format!("cannot make the directory {}", shown(directory));
        make(&directory.join(INCOMING)).at(failed)?;
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Ok(StoreRoot { base, directory: directory.to_owned(), away: Arc::default(), turns })
    }

    /// Waits for the turn to ask the store.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    /// The repository whose notes are at `path`, which is named after it. `create`: made, if it is not there.
    pub(super) fn repository(&self, path: &Path, create: bool) -> Result<StoreBacking> {
        let none = || Error::new(ErrorKind::NoRepository, "there is no repository of this name");
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(none)?;
        let storage = Arc::new(self.base.below(name));
        let (incoming, away) = (self.directory.join(INCOMING), self.away.clone());
        let backing = StoreBacking { storage, state: path.to_owned(), incoming, away, turns: self.turns.clone() };
        // An empty repository is one whose notes this server has.
        if !path.is_dir() && !backing.ask(S3Storage::is_there)? {
            match create {
                true => backing.ask(S3Storage::make_ready)?,
                false => return Err(none()),
            }
        }
        if !backing.ask(|storage| storage.decides())? {
            let text = "the object store behind this server does not decide between two who create the same object, so the \
                        server cannot serve it: let one machine write to it, by its s3: address";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        make(path).at(|| format!("cannot make the directory {}", shown(path)))?;
        Ok(backing)
    }
}

fn make(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn shown(path: &Path) -> String {
    crate::model::escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

/// A repository in an object store.
#[derive(Debug, Clone)]
pub(crate) struct StoreBacking {
    storage: Arc<S3Storage>,
    /// The directory of the server's notes about it.
    state: PathBuf,
    incoming: PathBuf,
    /// When the store was given up last.
    away: Arc<Mutex<Option<Instant>>>,
    /// Of those who ask the store, with all of its repositories.
    turns: Arc<Semaphore>,
}

impl StoreBacking {
    /// Asks the store. One that does not answer gives [`ErrorKind::Busy`], and is left alone for some seconds, with all of
    /// its repositories. So does an answer that another attempt may better, but it says nothing about other requests. What
    /// is refused for good stays [`ErrorKind::Io`].
    fn ask<T>(&self, work: impl FnOnce(&S3Storage) -> Result<T>) -> Result<T> {
        if self.away.lock().is_some_and(|since| since.elapsed() < AWAY) {
            return Err(Error::new(ErrorKind::Busy, "the object store did not answer a moment ago"));
        }
        work(&self.storage).map_err(|e| {
            if e.store_failure() == Some(StoreFailure::GivenUp) {
                *self.away.lock() = Some(Instant::now());
            }
            match (e.kind(), e.store_failure()) {
                (ErrorKind::Io, None | Some(StoreFailure::GivenUp)) => e.with_kind(ErrorKind::Busy),
                _ => e,
            }
        })
    }

    /// Sends an object. Where nobody can tell what became of it, the error is [`ErrorKind::Unsettled`].
    fn create(&self, name: &Name, bytes: Bytes) -> Result<Created> {
        self.ask(|storage| storage.create_whole(name, bytes))
    }
}

/// What holds the objects.
#[derive(Debug, Clone)]
pub(crate) enum Backing {
    /// A directory of this machine.
    Directory(Arc<DirectoryStorage>),
    /// An object store.
    Store(StoreBacking),
}

impl Backing {
    /// The directory of the server's notes about the repository.
    pub(crate) fn state(&self) -> &Path {
        match self {
            Backing::Directory(storage) => storage.path(),
            Backing::Store(store) => &store.state,
        }
    }

    /// Whether it is an object store: then each look at it is a request, and takes its time.
    pub(crate) fn is_store(&self) -> bool {
        matches!(self, Backing::Store(_))
    }

    /// Waits for the turn to ask the storage. It is held while a thread does. A directory has no turns.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        match self {
            Backing::Directory(_) => None,
            Backing::Store(store) => store.turns.clone().acquire_owned().await.ok(),
        }
    }

    /// Asks the storage of objects.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&dyn Storage) -> Result<T>) -> Result<T> {
        match self {
            Backing::Directory(storage) => work(&**storage),
            Backing::Store(store) => store.ask(|storage| work(storage)),
        }
    }

    /// The length of an object in bytes; `None` when it is not there.
    pub(crate) fn length(&self, name: &Name) -> Result<Option<u64>> {
        match self {
            Backing::Store(store) => store.ask(|storage| storage.length(name)),
            Backing::Directory(storage) => match storage.open_object(name) {
                Ok(file) => file.metadata().map(|found| Some(found.len())).at(|| format!("cannot read {name}")),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
        }
    }

    /// Opens an object to be read by pieces. From an object store the first piece, `from` this byte on and so many bytes at
    /// most, comes with it: so one request is enough for a range that fits.
    pub(crate) fn open(&self, name: &Name, from: u64, most: u64) -> Result<ServedObject> {
        match self {
            Backing::Directory(storage) => {
                let file = storage.open_object(name)?;
                let length = file.metadata().at(|| format!("cannot read {name}"))?.len();
                Ok(ServedObject { place: ObjectPlace::File(file), length, first: None })
            }
            Backing::Store(store) => {
                let mut first = Vec::new();
                let length = match most {
                    0 => store.ask(|storage| storage.length(name))?,
                    _ => Some(store.ask(|storage| storage.part(name, from..from.saturating_add(most), &mut first))?),
                };
                let length = length.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name} is not there")))?;
                let first = (most > 0).then_some(first);
                Ok(ServedObject { place: ObjectPlace::Stored(store.clone(), *name), length, first })
            }
        }
    }

    /// The objects of a class, some at a time.
    pub(crate) fn walk(&self, class: Class) -> BackingWalk {
        match self {
            Backing::Directory(storage) => BackingWalk::Directory(ClassWalk::new(storage, class)),
            Backing::Store(store) => BackingWalk::Store(store.clone(), Box::new(StoreWalk::new(&store.storage, class))),
        }
    }

    /// Begins to take in an object of so many bytes.
    pub(crate) fn begin(&self, name: Name, length: u64) -> Result<Arrival> {
        match self {
            Backing::Directory(storage) => Upload::begin(storage, name).map(Arrival::File),
            Backing::Store(store) => {
                let failed = || format!("cannot take in {name}: no file can be made in {}", shown(&store.incoming));
                let small = usize::try_from(length).ok().filter(|_| length <= SMALL);
                let spool = small.map_or_else(|| Spool::in_file(&store.incoming), |length| Ok(Spool::in_memory(length)));
                Ok(Arrival::Spooled(store.clone(), name, spool.at(failed)?))
            }
        }
    }

    /// The longest object that can be stored.
    pub(crate) fn longest(&self) -> u64 {
        if self.is_store() { MOST_ONE_PUT } else { u64::MAX }
    }

    /// Notes that an object that is there may not be durable.
    pub(crate) fn mark_place_of(&self, name: &Name) {
        if let Backing::Directory(storage) = self {
            storage.mark_place_of(name);
        }
    }

    /// Deletes an object, and says how many bytes it had; `None` when it was not there.
    pub(crate) fn remove(&self, name: &Name) -> Result<Option<u64>> {
        match self {
            Backing::Directory(storage) => storage.remove(name),
            Backing::Store(store) => store.ask(|storage| {
                let length = storage.length(name)?;
                storage.delete(name)?;
                Ok(length.map(|length| crate::storage::listed_size(name.class(), length)))
            }),
        }
    }

    /// Bytes that can still be taken in, where that is known. With an object store it is what uploads have until they are
    /// whole.
    pub(crate) fn free_for(&self, length: u64) -> Result<Option<u64>> {
        match self {
            Backing::Store(_) if length <= SMALL => Ok(None),
            Backing::Store(store) => {
                let space = crate::sys::Dir::open(&store.incoming).and_then(|dir| dir.space());
                space.map(|(free, _)| Some(free)).at(|| format!("cannot look at {}", shown(&store.incoming)))
            }
            Backing::Directory(storage) => storage.free_space(),
        }
    }
}

/// An object that is open.
#[derive(Debug)]
pub(crate) struct ServedObject {
    place: ObjectPlace,
    /// Its bytes.
    pub(crate) length: u64,
    /// The first bytes that were asked for.
    pub(crate) first: Option<Vec<u8>>,
}

#[derive(Debug)]
enum ObjectPlace {
    File(File),
    Stored(StoreBacking, Name),
}

impl ServedObject {
    /// As [`Backing::turn`].
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        match &self.place {
            ObjectPlace::File(_) => None,
            ObjectPlace::Stored(store, _) => store.turns.clone().acquire_owned().await.ok(),
        }
    }

    /// A part of it, all of which is there.
    pub(crate) fn part(&self, part: Range<u64>) -> Result<Vec<u8>> {
        let size = usize::try_from(part.end - part.start).map_err(|_| Error::invalid("the part is too long"))?;
        match &self.place {
            ObjectPlace::File(file) => {
                let mut bytes = vec![0; size];
                file.read_exact_at(&mut bytes, part.start).at(|| "cannot read an object".to_owned())?;
                Ok(bytes)
            }
            ObjectPlace::Stored(store, name) => {
                let mut bytes = Vec::new();
                store.ask(|storage| storage.read(name, Some(part), &mut bytes))?;
                Ok(bytes)
            }
        }
    }
}

/// A class that is being listed.
#[derive(Debug)]
pub(crate) enum BackingWalk {
    /// Of a directory.
    Directory(ClassWalk),
    /// Of a store.
    Store(StoreBacking, Box<StoreWalk>),
}

impl BackingWalk {
    /// Some more objects: name, size, time of receipt; `None` is the end.
    pub(crate) fn some(&mut self) -> Result<Option<Vec<(Name, u64, Timestamp)>>> {
        match self {
            BackingWalk::Directory(walk) => walk.some(),
            BackingWalk::Store(store, walk) => store.ask(|storage| walk.some(storage)),
        }
    }
}

/// An object that is coming in.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Into a file beside its place.
    File(Upload),
    /// Onto this machine, until it is whole.
    Spooled(StoreBacking, Name, Spool),
}

/// Bytes that were spooled, for who sends them.
struct SpooledBytes(Spooled);

impl AsRef<[u8]> for SpooledBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Arrival {
    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Arrival::File(upload) => upload.write(bytes),
            Arrival::Spooled(_, name, spool) => spool.write(bytes).at(|| format!("cannot take in {name}")),
        }
    }

    /// Makes its bytes durable where they can be before it has its name.
    pub(crate) fn make_durable(&self) -> Result<()> {
        match self {
            Arrival::File(upload) => upload.make_durable(),
            Arrival::Spooled(..) => Ok(()),
        }
    }

    /// Gives the object its name, if that is free.
    pub(crate) fn finish(self) -> Result<Created> {
        match self {
            Arrival::File(upload) => upload.finish(),
            Arrival::Spooled(store, name, spool) => {
                let spooled = spool.finish().at(|| format!("cannot take in {name}"))?;
                store.create(&name, Bytes::from_owner(SpooledBytes(spooled)))
            }
        }
    }
}
