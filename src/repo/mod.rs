//! A repository: keys, packs, index, trees, snapshots, on any storage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chunk::cutter::Cutter;
use crate::chunk::keys::{Credential, Keys, MasterKey};
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{self, ChunkerParameters, Config, Derivation};
use crate::format::envelope::{self, ObjectType};
use crate::model::{RepositoryId, SegmentId, Timestamp};
use crate::repo::cache::{SegmentCache, Source};
use crate::storage::{COPIES, Class, Created, Name, Storage};

pub mod cache;
pub mod check;
pub mod index;
pub mod local;
pub mod merge;
pub mod pack;
pub mod paged;
pub mod reader;
pub mod repair;
pub mod segment;
pub mod session;
pub mod slots;
pub mod snapshots;
pub mod tree;
pub mod tree_writer;

/// An open repository: where its objects are, what it is, and the keys to it.
#[derive(Debug)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    config: Config,
    keys: Keys,
    /// Copies of index segments on a local disk.
    cache: Option<Arc<SegmentCache>>,
    /// Where long segments are put together.
    scratch: Option<PathBuf>,
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
        options.chunker.validate()?;
        if !storage.list(Class::Config)?.is_empty() {
            return Err(Error::new(ErrorKind::Exists, format!("there is a repository at {} already", storage.describe())));
        }
        let master = MasterKey::generate()?;
        let keys = master.keys();
        let config = Config { repository: RepositoryId::random()?, created: options.now, chunker: options.chunker, mandatory: 0 };
        slots::add(&*storage, &config, &master, credential, options)?;
        let header = envelope::header(ObjectType::Config, config.repository);
        let mac = keys.config_mac(&header, &config::config_fields(&config));
        let object = envelope::wrap(ObjectType::Config, config.repository, &config::encode_config(&config, &mac));
        storage.sync()?;
        for copy in 0..COPIES {
            if storage.create(&Name::Config(1, copy), &[&object])? == Created::Exists {
                return Err(Error::new(ErrorKind::Exists, format!("somebody else made a repository at {}", storage.describe())));
            }
        }
        storage.sync()?;
        Ok(Self::of(storage, config, keys))
    }

    /// Opens the repository on `storage`.
    pub fn open(storage: Arc<dyn Storage>, credential: &Credential) -> Result<Self> {
        let candidates = read_configs(&*storage)?;
        let repository = candidates[0].config.repository;
        let keys = slots::unlock(&*storage, repository, credential)?.keys();
        let header = envelope::header(ObjectType::Config, repository);
        let authentic = candidates.into_iter().find(|c| keys.config_mac(&header, &c.fields) == c.mac);
        match authentic {
            Some(found) => Ok(Self::of(storage, found.config, keys)),
            None => Err(Error::corrupt(format!(
                "the configuration of {} was changed: no copy of it is authentic under the repository's key",
                storage.describe()
            ))),
        }
    }

    fn of(storage: Arc<dyn Storage>, config: Config, keys: Keys) -> Self {
        let scratch = storage.local_path();
        Repository { storage, config, keys, cache: None, scratch }
    }

    /// The same repository on another storage.
    fn on(&self, storage: Arc<dyn Storage>) -> Self {
        Self::of(storage, self.config.clone(), self.keys.clone())
    }

    /// Keeps copies of index segments in `directory`, at most `cap` bytes of them, and puts long segments together
    /// there. A directory that cannot be used is not used.
    pub fn with_cache(mut self, directory: &Path, cap: u64) -> Self {
        self.cache = SegmentCache::open(directory, cap).map(Arc::new);
        if self.cache.is_some() {
            self.scratch = Some(directory.to_owned());
        }
        self
    }

    /// A directory for files without a name; `None`: memory must do.
    pub fn scratch(&self) -> Option<&Path> {
        self.scratch.as_deref()
    }

    /// Where the bytes of an index segment of `size` bytes come from.
    pub fn segment_source(&self, id: SegmentId, size: u64) -> Source {
        Source::new(self.storage.clone(), self.cache.clone(), id, size)
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
    pub fn cutter(&self) -> Result<Cutter> {
        Cutter::new(self.config.chunker, &self.keys.chunker)
    }
}

struct Candidate {
    config: Config,
    fields: Vec<u8>,
    mac: [u8; 32],
}

/// All configurations that can be read, newest first; at least one. One damaged copy is what the others are for.
fn read_configs(storage: &dyn Storage) -> Result<Vec<Candidate>> {
    let mut names: Vec<Name> = storage.list(Class::Config)?.into_iter().map(|(name, _)| name).collect();
    if names.is_empty() {
        let text = format!("there is no repository at {} (make one with: yester init)", storage.describe());
        return Err(Error::new(ErrorKind::NoRepository, text));
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    let mut out = Vec::new();
    let mut first_error = None;
    let mut object = Vec::new();
    for name in names {
        let read = storage.read(&name, None, &mut object).and_then(|()| {
            let (repository, body) = envelope::unwrap(&object, ObjectType::Config, "the configuration")?;
            let (config, fields, mac) = config::decode_config(body, repository)?;
            Ok(Candidate { config, fields: fields.to_vec(), mac })
        });
        match read {
            Ok(candidate) => out.push(candidate),
            Err(e) => {
                let e = e.context(name);
                // An unknown feature outweighs a damaged copy: it says what to do.
                if first_error.is_none() || e.kind() == ErrorKind::Unsupported {
                    first_error = Some(e);
                }
            }
        }
    }
    match first_error {
        Some(e) if out.is_empty() || e.kind() == ErrorKind::Unsupported => Err(e.context(storage.describe())),
        _ => Ok(out),
    }
}
