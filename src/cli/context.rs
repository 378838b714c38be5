//! What every command stands on: the options, the places, and opening the repository.

use std::path::PathBuf;
use std::sync::Arc;

use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::model::{RepositoryId, Timestamp};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository};
use yester::storage::directory::DirectoryStorage;
use yester::sys::{process, users};
use yester::{Error, ErrorKind, Result};

use super::args::Global;
use super::credential::{self, Options, Origin};
use super::paths;
use super::place::{Place, Places};

/// Decoded frames that a command which reads one thing after another keeps.
const FRAMES: u64 = 24 << 20;
/// The most bytes that a repository's cache may hold.
const CACHE: u64 = 1 << 30;
/// Decoded tree pages that it keeps.
const PAGES: u64 = 16 << 20;

/// The options of every command, and where things are.
pub struct Context {
    /// The options.
    pub global: Global,
    /// The user's directories.
    pub places: Places,
}

impl Context {
    /// Reads the environment; nothing is opened yet.
    pub fn new(global: Global) -> Self {
        Context { global, places: Places::new(|name| std::env::var_os(name)) }
    }

    /// Which repository this is about.
    pub fn place(&self) -> Result<Place> {
        let variable = || std::env::var_os("YESTER_REPO").filter(|name| !name.is_empty());
        self.places.find(self.global.repo.clone().or_else(variable).as_deref())
    }

    /// Where the user said the key is.
    pub fn given(&self) -> Option<Origin> {
        credential::given(&Options::of(&self.global), "YESTER_", |name| std::env::var_os(name))
    }

    /// The repository's directory, whether or not it can be unlocked.
    pub fn storage(&self, place: &Place) -> Result<Arc<DirectoryStorage>> {
        DirectoryStorage::open(&place.path).map(Arc::new).map_err(|e| match e.kind() {
            ErrorKind::NoRepository if place.implied => {
                let text = "there is no repository yet: the first yester ingest PATH makes the default one";
                Error::new(ErrorKind::NoRepository, format!("{text} at {}; --repo names another", paths::shown(&place.path)))
            }
            _ => e,
        })
    }

    /// What unlocks the repository: what the user gave; else the default repository's key file; else an answer on
    /// the terminal.
    pub fn credential(&self, place: &Place) -> Result<Credential> {
        if let Some(origin) = self.given() {
            return credential::load(&origin);
        }
        let default = self.places.key_file().filter(|_| self.places.is_default(place));
        if let Some(file) = default.as_ref().filter(|file| file.exists()) {
            return credential::load(&Origin::KeyFile(file.clone()));
        }
        let shown = paths::shown(&place.path);
        if credential::can_ask() {
            return credential::ask(&format!("passphrase of {shown}: "));
        }
        let lost = default.map(|file| format!(" (its own key file {} is not there)", paths::shown(&file))).unwrap_or_default();
        let text = "give --password-file, --password-command or --key-file, or set YESTER_PASSWORD";
        Err(Error::new(ErrorKind::Key, format!("there is no key for {shown}{lost} and no terminal to ask on: {text}")))
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repository>> {
        let place = self.place()?;
        let storage = self.storage(&place)?;
        let repo = Repository::open(storage, &self.credential(&place)?)?;
        // A copy of the index on this disk is worth it when the repository is on another machine's, or when asked for.
        let wanted = self.global.cache_dir.is_some() || yester::sys::mount::is_remote(&place.path);
        Ok(Arc::new(match self.cache(repo.id()).filter(|_| wanted) {
            Some(directory) => repo.with_cache(&directory, CACHE),
            None => repo,
        }))
    }

    /// Where this repository's cache is; `None` when there is to be none.
    pub fn cache(&self, id: RepositoryId) -> Option<PathBuf> {
        let base = self.global.cache_dir.as_deref().or(self.places.cache()).filter(|_| !self.global.no_cache)?;
        Some(base.join(id.to_string()))
    }
}

/// How `init` makes a repository.
pub fn init_options() -> InitOptions {
    InitOptions { chunker: ChunkerParameters::DEFAULT, derivation: Derivation::DEFAULT, now: now(), label: label() }
}

/// Who is at work, for a key slot's label.
pub fn label() -> Vec<u8> {
    let user = users::user_name(process::user()).unwrap_or_else(|| process::user().to_string().into_bytes());
    [user, process::host_name()].join(&b'@')
}

/// The time now.
pub fn now() -> Timestamp {
    let now = jiff::Timestamp::now();
    Timestamp { secs: now.as_second(), nanos: u32::try_from(now.subsec_nanosecond()).unwrap_or(0) }
}

/// A reader of the repository's trees and files.
pub fn trees(repo: &Arc<Repository>) -> Result<TreeReader> {
    let index = Arc::new(Index::load(repo)?);
    let chunks = Arc::new(ChunkReader::new(repo.clone(), index, FRAMES)?);
    TreeReader::new(chunks, PAGES)
}
