//! A repository in a scratch directory, and the verbs on it.

use std::path::Path;
use std::sync::Arc;

use crate::common::record::RecordingStorage;
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::{IngestOptions, IngestReport, Source, ingest};
use yester::model::Timestamp;
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository};
use yester::storage::Storage;
use yester::storage::directory::DirectoryStorage;
use yester::task::Task;

pub struct Fixture {
    pub scratch: tempfile::TempDir,
    pub storage: Arc<RecordingStorage>,
    pub repo: Arc<Repository>,
}

impl Fixture {
    pub fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let directory = DirectoryStorage::create(&scratch.path().join("repository")).expect("a repository directory");
        Fixture::over(scratch, Arc::new(directory), |repo| repo)
    }

    /// In any storage, with a cache of index segments.
    pub fn on(storage: Arc<dyn Storage>) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let cache = scratch.path().join("cache");
        Fixture::over(scratch, storage, |repo| repo.with_cache(&cache, 1 << 30))
    }

    fn over(scratch: tempfile::TempDir, storage: Arc<dyn Storage>, with: impl FnOnce(Repository) -> Repository) -> Self {
        let storage = Arc::new(RecordingStorage::new(storage));
        let options = InitOptions {
            chunker: ChunkerParameters::DEFAULT,
            derivation: Derivation::DEFAULT,
            now: Timestamp::default(),
            label: Vec::new(),
        };
        let repo = Repository::init(storage.clone(), &Credential::KeyFile([1; 32]), &options).expect("a repository");
        Fixture { scratch, storage, repo: Arc::new(with(repo)) }
    }

    pub fn ingest_with(&self, path: &Path, options: &IngestOptions) -> yester::Result<IngestReport> {
        ingest(&self.repo, &source(path), options, &Task::default())
    }

    pub fn ingest(&self, path: &Path) -> IngestReport {
        self.ingest_with(path, &IngestOptions::default()).expect("the ingest succeeds")
    }

    pub fn trees(&self) -> Arc<TreeReader> {
        let index = Arc::new(Index::load(&self.repo).expect("the index loads"));
        let chunks = Arc::new(ChunkReader::new(self.repo.clone(), index, 32 << 20).expect("a chunk reader"));
        Arc::new(TreeReader::new(chunks, 8 << 20).expect("a tree reader"))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // What is immutable could not be removed.
        crate::common::trees::attributes::unlock_all(self.scratch.path());
    }
}

/// Where the live tree stands in every snapshot: below `/` alone, whose metadata no other test changes.
pub const BASE: [&[u8]; 1] = [b"live"];

/// The live tree at `path` as the one thing to ingest.
pub fn source(path: &Path) -> [Source; 1] {
    [Source { path: path.to_owned(), stored: b"/live".to_vec() }]
}
