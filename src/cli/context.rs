//! What every command stands on: the options, the places, and opening the repository.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::jobs::config::keys::Set;
use yester::jobs::credential::{self, CredentialOptions, CredentialOrigin};
use yester::jobs::location::Location;
use yester::jobs::under_way::{RunBeacon, RunUnderWay};
use yester::jobs::{foreign, open};
use yester::model::{RepositoryId, Run};
use yester::remote::address::Address;
use yester::remote::client::RemoteOptions;
use yester::remote::control::client::JobClient;
use yester::repo::cache::frames::FrameCache;
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::stored::StoredPacks;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository};
use yester::storage::{Requests, Storage};
use yester::sys::{process, users};
use yester::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::cli::args::Global;
use crate::cli::given::configured::Configured;
use crate::cli::given::place::{NamedRepository, UserDirectories};
use crate::cli::given::{remote, variables};
use crate::cli::say::log;
use crate::cli::say::output::note;
use crate::cli::say::paths;
use crate::cli::say::progress::Display;

/// How long a server tries again what its object store does not answer.
const BEHIND: Duration = Duration::from_secs(20);
/// How often a passphrase may be typed.
const TRIES: u32 = 3;
/// Decoded frames that a command which reads one thing after another keeps.
const FRAMES: u64 = 24 << 20;
/// The most bytes of a repository's index and trees that its cache may hold.
const CACHE: u64 = 1 << 30;
/// The same of data that was read, when nobody says otherwise and the repository is on another machine.
const DATA: u64 = 1 << 30;
/// Decoded tree pages that it keeps.
const PAGES: u64 = 16 << 20;

/// The options of every command, and where things are.
pub struct Context {
    /// The options.
    pub global: Global,
    /// The user's directories.
    pub places: UserDirectories,
    /// What a server is shown, when another process has said.
    token: OnceLock<Option<Zeroizing<String>>>,
    configured: Configured,
    /// What is said at the end of a command that went on although snapshots are gone.
    pub went_back: OnceLock<String>,
    /// What was opened, for who counts what was asked of it.
    opened: Mutex<Vec<Arc<dyn Storage>>>,
    /// What was stored in each repository that was opened.
    stored: Mutex<Vec<(RepositoryId, StoredPacks)>>,
}

impl Context {
    /// What buckets of a set are spoken to with, where they say nothing of their own.
    pub fn bucket_options(&self) -> Result<RemoteOptions> {
        remote::options(&self.global, None)
    }

    /// What the object store behind a server is spoken to with. It is given up sooner than a client gives up the server.
    pub fn store_options(&self) -> Result<RemoteOptions> {
        let options = remote::options(&self.global, None)?;
        let timeout = self.global.remote.timeout.unwrap_or(BEHIND);
        Ok(RemoteOptions { timeout, ..options })
    }

    /// The set of this name, if there is one that can be restored here.
    pub fn set_to_restore(&self, name: &str) -> Result<Option<&Set>> {
        self.configured.set_to_restore(name)
    }

    /// Reads the environment; nothing is opened yet.
    pub fn new(global: Global, configured: Configured) -> Self {
        Context {
            global,
            places: UserDirectories::new(|name| std::env::var_os(name)),
            token: OnceLock::new(),
            configured,
            went_back: OnceLock::new(),
            opened: Mutex::default(),
            stored: Mutex::default(),
        }
    }

    /// The set of this name, which can be carried out here.
    pub fn set(&self, name: &str) -> Result<&Set> {
        self.configured.set(name)
    }

    /// For how many seconds prune leaves what is forgotten, as the configuration file says.
    pub fn grace(&self) -> Result<u64> {
        let parsed = self.configured.grace().map_or(Ok(0), crate::cli::say::units::parse_grace);
        parsed.map_err(|e| Error::invalid(format!("the key grace of the configuration file: {e}")))
    }

    /// Which repository this is about.
    pub fn place(&self) -> Result<NamedRepository> {
        let name = match &self.global.repo {
            Some(name) => Some(name.clone()),
            None => variables::own("YESTER_REPO")?,
        };
        self.places.find(name.as_deref())
    }

    /// The repository, as runs name it that are [under way](yester::jobs::under_way).
    pub fn place_bytes(&self) -> Result<Vec<u8>> {
        let place = self.place()?;
        let local = place.local().and_then(|path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok());
        Ok(local.map_or_else(|| place.bytes(), |path| path.into_os_string().into_encoded_bytes()))
    }

    /// Has `display` say how far this run is, so that `runs --follow` can tell. Where it cannot, nobody follows it.
    pub fn announce(&self, display: &Display, run: &Run) {
        if let (Some(state), Ok(repository)) = (self.places.state(), self.place_bytes()) {
            display.announce(RunBeacon::light(state, RunUnderWay::of(repository, run)));
        }
    }

    /// What the options say of the credential that unlocks the repository.
    pub fn credential_options(&self) -> CredentialOptions {
        let Global { key_file, password_command, password_file, .. } = self.global.clone();
        CredentialOptions { key_file, password_command, password_file }
    }

    /// Where the user said the key is.
    pub fn given(&self) -> Result<Option<CredentialOrigin>> {
        credential::given(&self.credential_options(), "YESTER_", |name| std::env::var_os(name))
    }

    /// Where the repository's objects are, whether or not it can be unlocked.
    pub fn storage(&self, place: &NamedRepository) -> Result<Arc<dyn Storage>> {
        open::storage(&place.location, || self.remote()).map(|storage| self.opened(storage)).map_err(|e| {
            if e.kind() != ErrorKind::NoRepository
                || !place.implied
                || place.local().is_some_and(|path| foreign::tool(path).is_some())
            {
                return e;
            }
            let text = "there is no repository yet: the first yester ingest PATH makes the default one";
            Error::new(ErrorKind::NoRepository, format!("{text} at {}; --repo names another", place.shown()))
        })
    }

    /// How to talk to other machines.
    fn remote(&self) -> Result<RemoteOptions> {
        remote::options(&self.global, self.token()?)
    }

    /// A client of the jobs of the server that the repository is on.
    pub fn job_client(&self) -> Result<JobClient> {
        let place = self.place()?;
        match &place.location {
            Location::Remote(address @ Address::Https { .. }) => JobClient::new(address, &self.remote()?),
            _ => Err(Error::invalid(format!(
                "{} is not on a server that keeps jobs: name one as in https://HOST:PORT/NAME, by --repo or in the configuration file",
                place.shown()
            ))),
        }
    }

    /// What a server is shown: what the process that started this one handed over, else what the environment says.
    pub fn token(&self) -> Result<Option<Zeroizing<String>>> {
        match self.token.get() {
            Some(token) => Ok(token.clone()),
            None => credential::token(|name| self.configured.token_variable(name)),
        }
    }

    /// Uses this token from now on.
    pub fn hand_over(&self, token: Option<Zeroizing<String>>) {
        let _ = self.token.set(token);
    }

    /// An empty place for a new repository.
    pub fn new_storage(&self, place: &NamedRepository) -> Result<Arc<dyn Storage>> {
        open::new_storage(&place.location, || self.remote()).map(|storage| self.opened(storage))
    }

    /// Remembers a storage, for [`Context::requests`].
    pub fn opened(&self, storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
        self.opened.lock().push(storage.clone());
        storage
    }

    /// What was asked of object stores; `None` where none was opened.
    pub fn requests(&self) -> Option<Requests> {
        let opened = self.opened.lock();
        opened.iter().filter_map(|storage| storage.requests()).reduce(Requests::plus)
    }

    /// The repository's objects, with `config/` and `keys/` made anew where they are gone.
    pub fn storage_to_mend(&self, place: &NamedRepository) -> Result<Arc<dyn Storage>> {
        open::storage_for_recovery(&place.location, || self.remote())
    }

    /// Opens something with the credential of the repository. A passphrase that is typed at the terminal has three tries.
    pub fn unlock<T>(&self, place: &NamedRepository, mut open: impl FnMut(&Credential) -> Result<T>) -> Result<(T, Credential)> {
        let mut left = TRIES;
        loop {
            let (credential, asked) = self.credential(place)?;
            left -= 1;
            match open(&credential) {
                Err(e) if asked && left > 0 && e.kind() == ErrorKind::Key => note(&format!("yester: {e}: try again")),
                opened => return opened.map(|opened| (opened, credential)),
            }
        }
    }

    /// What unlocks the repository, and whether somebody was asked for it: what the user gave; else the default
    /// repository's key file; else an answer on the terminal.
    fn credential(&self, place: &NamedRepository) -> Result<(Credential, bool)> {
        if let Some(origin) = self.given()? {
            return Ok((credential::load(&origin)?, false));
        }
        let default = self.places.key_file().filter(|_| self.places.is_default(place));
        if let Some(file) = default.as_ref().filter(|file| file.exists()) {
            return Ok((credential::load(&CredentialOrigin::KeyFile(file.clone()))?, false));
        }
        let shown = place.shown();
        if credential::can_ask() {
            return Ok((credential::ask(&format!("passphrase of {shown}: "))?, true));
        }
        let lost = default.map(|file| format!(" (its own key file {} is not there)", paths::shown(&file))).unwrap_or_default();
        let text = "give --password-file, --password-command or --key-file, or set YESTER_PASSWORD";
        Err(Error::new(ErrorKind::Key, format!("there is no key for {shown}{lost} and no terminal to ask on: {text}")))
    }

    /// The files that the repository is unlocked by: lost, nothing in it can be read.
    pub fn secrets(&self) -> Result<Vec<PathBuf>> {
        let file = match self.given()? {
            Some(CredentialOrigin::KeyFile(file) | CredentialOrigin::PasswordFile(file)) => Some(file),
            Some(_) => None,
            None => self.places.key_file(),
        };
        Ok(file.into_iter().collect())
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repository>> {
        let place = self.place()?;
        let storage = self.storage(&place)?;
        let (repo, _) = self.unlock(&place, |key| Repository::open_with(storage.clone(), key, &log::reports()))?;
        Ok(Arc::new(self.with_cache(&place, repo)))
    }

    /// Opens the repository for an ingest, for which a key that only writes is enough.
    pub fn open_to_write(&self) -> Result<Arc<Repository>> {
        let place = self.place()?;
        let storage = self.storage(&place)?;
        let (repo, _) = self.unlock(&place, |key| Repository::open_to_write(storage.clone(), key, &log::reports()))?;
        Ok(Arc::new(self.with_cache(&place, repo)))
    }

    /// Opens the repository. A command that `writes` first ends additions and removals of key slots that were stopped
    /// half way.
    pub fn open_for(&self, writes: bool) -> Result<Arc<Repository>> {
        let repo = self.open()?;
        if writes {
            finish_keys(repo.finish_keys());
        }
        Ok(repo)
    }

    /// The same repository with its cache, where that is of use: when it is on another machine, or when asked for.
    pub fn with_cache(&self, place: &NamedRepository, repo: Repository) -> Repository {
        // Of what a key that only writes has stored nothing stays on this machine.
        if repo.only_writes() {
            return repo;
        }
        self.remember(&repo);
        let wanted = self.global.cache_dir.is_some() || place.local().is_none_or(yester::sys::mount::is_remote);
        let size = self.global.cache_size.or_else(|| place.local().is_none().then_some(DATA));
        let wanted = wanted || self.global.cache_size.is_some_and(|size| size > 0);
        match self.cache(repo.id()).filter(|_| wanted) {
            Some(directory) => {
                let repo = repo.with_cache(&directory, CACHE);
                match size {
                    Some(size) => repo.with_frame_cache(&directory, size),
                    None => repo,
                }
            }
            None => {
                // Said in so many words: what an earlier command kept goes.
                if let (Some(0), Some(directory)) = (size, self.cache(repo.id())) {
                    drop(FrameCache::open(&directory, 0));
                }
                repo
            }
        }
    }

    /// Remembers an open repository, for [`Context::stored`].
    pub fn remember(&self, repo: &Repository) {
        self.stored.lock().push((repo.id(), repo.stored().clone()));
    }

    /// What was stored in each repository that was opened.
    pub fn stored(&self) -> Vec<(RepositoryId, StoredPacks)> {
        self.stored.lock().clone()
    }

    /// Where this repository's cache is; `None` when there is to be none.
    pub fn cache(&self, id: RepositoryId) -> Option<PathBuf> {
        let base = self.global.cache_dir.as_deref().or(self.places.cache()).filter(|_| !self.global.no_cache)?;
        Some(base.join(id.to_string()))
    }
}

/// Logs that an unfinished change of key slots could not be ended. The command goes on; the next one that writes tries again.
pub fn finish_keys(result: Result<()>) {
    if let Err(e) = result {
        tracing::warn!("an unfinished addition or removal of a key slot could not be ended: {e}");
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

pub use yester::sys::clock::now;

/// A reader of the repository's trees and files.
pub fn trees(repo: &Arc<Repository>) -> Result<TreeReader> {
    let index = Arc::new(Index::load(repo)?);
    let chunks = Arc::new(ChunkReader::new(repo.clone(), index, FRAMES)?.with_unnamed_packs());
    TreeReader::new(chunks, PAGES)
}
