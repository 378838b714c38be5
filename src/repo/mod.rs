//! An open repository on any storage: its packs, its index, its trees and its snapshots.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chunk::cutter::Cutter;
use crate::chunk::keys::{Credential, Keys, MasterKey};
use crate::chunk::one_way::only_writes;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{ChunkerParameters, Config, Derivation};
use crate::keys::keyring::KeyRing;
use crate::keys::opened::OpenedKey;
use crate::keys::slots::{self, SlotOptions};
use crate::keys::{configuration, removal};
use crate::model::{PackId, RepositoryId, SegmentId, SnapshotId, Timestamp};
use crate::observe::Reports;
use crate::repo::cache::frames::FrameCache;
use crate::repo::cache::objects::SnapshotCopies;
use crate::repo::cache::{SegmentCache, SegmentSource};
use crate::storage::{Class, Storage};

pub mod annotations;
pub(crate) mod attributes;
pub mod basket;
pub mod beat;
pub(crate) mod bits;
pub mod cache;
pub mod chain;
pub mod damaged;
pub mod groups;
pub mod index;
pub mod marks;
pub mod pack;
pub(crate) mod parallel;
pub mod reader;
pub(crate) mod rubbish;
pub mod runs;
pub mod session;
pub mod signs;
pub(crate) mod small;
pub mod snapshots;
pub mod stored;
pub mod times;
pub mod tree;
pub(crate) mod work;

/// An open repository: where its objects are, what it is, and the keys to it.
#[derive(Debug)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    config: Config,
    keys: Keys,
    /// Copies of index segments on a local disk.
    cache: Option<Arc<SegmentCache>>,
    /// Copies of snapshots, and of frames of data.
    copies: Option<SnapshotCopies>,
    frames: Option<FrameCache>,
    /// Where long segments are put together.
    scratch: Option<PathBuf>,
    memory: small::SmallMemory,
    stored: stored::StoredPacks,
    /// Whether an addition or removal of a key slot was found to be stopped half way.
    unfinished_keys: bool,
    /// The number of the configuration it was opened with.
    number: u32,
    reports: Reports,
}

/// What `init` needs to know.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// How files are cut.
    pub chunker: ChunkerParameters,
    /// How the first slot's key is made, when the credential is a passphrase.
    pub derivation: Derivation,
    /// The time now.
    pub now: Timestamp,
    /// Who makes it, for `key list`.
    pub label: Vec<u8>,
}

impl Repository {
    /// Makes a repository on an empty storage and opens it.
    pub fn init(storage: Arc<dyn Storage>, credential: &Credential, options: &InitOptions) -> Result<Self> {
        Self::init_cutting_as(storage, credential, options, None)
    }

    /// The same. Files are cut as in `other`, if there is one, whatever `options` say: then what is copied from there has
    /// the chunks that an ingest of the same files makes here.
    pub fn init_cutting_as(
        storage: Arc<dyn Storage>,
        credential: &Credential,
        options: &InitOptions,
        other: Option<&Repository>,
    ) -> Result<Self> {
        let chunker = other.map_or(options.chunker, |other| other.config.chunker);
        chunker.validate()?;
        // One that has lost its configuration is a repository too.
        for class in [Class::Config, Class::Keys, Class::Snapshots] {
            if !storage.list(class)?.is_empty() {
                return Err(Error::new(ErrorKind::Exists, format!("there is a repository at {} already", storage.describe())));
            }
        }
        let master = MasterKey::generate()?;
        let keys = master.keys();
        let repository = RepositoryId::random()?;
        let secret = other.map(|other| other.keys.cutter_secret(&other.config)).transpose()?;
        let cutter = secret.map(|secret| keys.seal_cutter(repository, &secret)).transpose()?;
        let config = Config { repository, created: options.now, chunker, cutter, mandatory: 0 };
        let slot = SlotOptions { derivation: options.derivation, now: options.now, label: options.label.clone() };
        slots::add(&*storage, config.repository, &master, credential, &slot)?;
        if !configuration::create(&*storage, 1, &configuration::object(&config, &keys)?)? {
            return Err(Error::new(ErrorKind::Exists, format!("somebody else made a repository at {}", storage.describe())));
        }
        Ok(Repository { number: 1, ..Self::of(storage, config, keys) })
    }

    /// Opens the repository on `storage`, which reports to nobody.
    pub fn open(storage: Arc<dyn Storage>, credential: &Credential) -> Result<Self> {
        Self::open_with(storage, credential, &Reports::default())
    }

    /// Opens the repository on `storage`. What it has to say, now and while it is open, goes to `reports`.
    pub fn open_with(storage: Arc<dyn Storage>, credential: &Credential, reports: &Reports) -> Result<Self> {
        let repo = Self::open_to_write(storage, credential, reports)?;
        if repo.only_writes() { Err(only_writes("read what is stored, nor change it")) } else { Ok(repo) }
    }

    /// The same, also with a key that only writes: with that, nothing but an ingest is possible.
    pub fn open_to_write(storage: Arc<dyn Storage>, credential: &Credential, reports: &Reports) -> Result<Self> {
        Ok(match OpenedKey::open(storage, credential, reports)? {
            OpenedKey::Full(ring) => Self::of_ring(&ring).reporting_to(reports),
            OpenedKey::Writer(storage, key, config, number) => {
                Repository { number, reports: reports.clone(), ..Self::of(storage, config, key.keys()) }
            }
        })
    }

    /// The repository of an unlocked ring, which reports to nobody.
    pub(crate) fn of_ring(ring: &KeyRing) -> Self {
        let (unfinished_keys, number) = (ring.unfinished, ring.number);
        Repository { unfinished_keys, number, ..Self::of(ring.storage.clone(), ring.config.clone(), ring.master.keys()) }
    }

    /// An error if the master key was changed since this was opened: what others store since then cannot be told from
    /// rubbish here. One listing.
    pub(crate) fn key_is_current(&self) -> Result<()> {
        configuration::is_current(&*self.storage, &self.config, self.number, &self.keys)
    }

    /// Whether its key only writes.
    pub fn only_writes(&self) -> bool {
        self.keys.writer().is_some()
    }

    /// A new id for a session or a run. That of a key that only writes ends with its name.
    pub fn new_id(&self) -> Result<SnapshotId> {
        SnapshotId::random_of(self.keys.writer())
    }

    /// Ends additions and removals of key slots that were stopped half way, if opening met any.
    pub fn finish_keys(&self) -> Result<()> {
        let place = removal::SlotStore { storage: &*self.storage, repository: self.id(), keys: &self.keys };
        match self.unfinished_keys {
            // With a former key what is new looks made up.
            true => self.key_is_current().and_then(|()| place.finish()),
            false => Ok(()),
        }
    }

    fn of(storage: Arc<dyn Storage>, config: Config, keys: Keys) -> Self {
        let scratch = storage.local_path();
        let (memory, reports) = (small::SmallMemory::default(), Reports::default());
        let stored = stored::StoredPacks::default();
        Repository {
            storage,
            config,
            keys,
            cache: None,
            copies: None,
            frames: None,
            scratch,
            memory,
            stored,
            unfinished_keys: false,
            number: 0,
            reports,
        }
    }

    /// What it has to say from now on goes to `reports`.
    pub fn reporting_to(mut self, reports: &Reports) -> Self {
        self.reports = reports.clone();
        self
    }

    /// Where it reports what a user should know and no operation answers for.
    pub(crate) fn reports(&self) -> &Reports {
        &self.reports
    }

    /// The same repository on another storage.
    pub(crate) fn on(&self, storage: Arc<dyn Storage>) -> Self {
        let on = Self::of(storage, self.config.clone(), self.keys.clone()).reporting_to(&self.reports);
        Repository { number: self.number, ..on }
    }

    /// Keeps copies of snapshots and index segments in `directory`, at most `cap` bytes of segments, and puts
    /// long ones together there. A directory that cannot be used is not used.
    pub fn with_cache(mut self, directory: &Path, cap: u64) -> Self {
        self.cache = SegmentCache::open(directory, cap).map(Arc::new);
        self.copies = SnapshotCopies::open(directory);
        if self.cache.is_some() {
            self.scratch = Some(directory.to_owned());
        }
        self
    }

    /// Keeps also frames of data that were read in `directory`, at most `cap` bytes of them; with zero none, and what is
    /// there is removed.
    pub fn with_frame_cache(mut self, directory: &Path, cap: u64) -> Self {
        self.frames = FrameCache::open(directory, cap);
        self
    }

    /// Copies of frames of data on a local disk, if there are any.
    pub fn frame_cache(&self) -> Option<&FrameCache> {
        self.frames.as_ref()
    }

    /// A pack is gone: what is kept of it here goes, too.
    pub(crate) fn forget_copies(&self, pack: &PackId) {
        self.cache.iter().for_each(|cache| cache.drop_tree(pack));
        self.frames.iter().for_each(|frames| frames.forget(pack));
    }

    /// Copies of snapshots, if there are any.
    pub(crate) fn snapshot_copies(&self) -> Option<&SnapshotCopies> {
        self.copies.as_ref()
    }

    /// A directory for files without a name; `None` keeps everything in memory.
    pub fn scratch(&self) -> Option<&Path> {
        self.scratch.as_deref()
    }

    /// Copies on a local disk, if there are any.
    pub fn cache(&self) -> Option<&SegmentCache> {
        self.cache.as_deref()
    }

    /// Where the bytes of an index segment of `size` bytes come from.
    pub(crate) fn segment_source(&self, id: SegmentId, size: u64) -> SegmentSource {
        SegmentSource::new(self.storage.clone(), self.cache.clone(), id, size)
    }

    /// Packs that were stored through this.
    pub fn stored(&self) -> &stored::StoredPacks {
        &self.stored
    }

    /// Where its objects are.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// What it is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its name for ever.
    pub fn id(&self) -> RepositoryId {
        self.config.repository
    }

    /// Its keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A cutter after its parameters and its secret.
    pub(crate) fn cutter(&self) -> Result<Cutter> {
        Cutter::new(self.config.chunker, &*self.keys.cutter_secret(&self.config)?)
    }
}
