//! A repository on a server or behind ssh, with the verbs on it: what `tests/oracle` has for a directory.

use std::path::Path;
use std::sync::Arc;

use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::ingest::{IngestOptions, IngestReport, Source, ingest};
use yester::model::Timestamp;
use yester::observe::Silent;
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository};
use yester::storage::Storage;

pub struct Fixture {
    pub scratch: tempfile::TempDir,
    pub repo: Arc<Repository>,
}

impl Fixture {
    pub fn on(storage: Arc<dyn Storage>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let options = InitOptions {
            chunker: ChunkerParameters::DEFAULT,
            derivation: Derivation::DEFAULT,
            now: Timestamp::default(),
            label: Vec::new(),
        };
        let repo = Repository::init(storage, &Credential::KeyFile([1; 32]), &options).unwrap();
        let repo = repo.with_cache(&scratch.path().join("cache"), 1 << 30);
        Fixture { scratch, repo: Arc::new(repo) }
    }

    pub fn ingest(&self, path: &Path) -> IngestReport {
        ingest(&self.repo, &source(path), &IngestOptions::default(), &Arc::default(), &Silent).unwrap()
    }

    pub fn trees(&self) -> Arc<TreeReader> {
        let index = Arc::new(Index::load(&self.repo).unwrap());
        let chunks = Arc::new(ChunkReader::new(self.repo.clone(), index, 32 << 20).unwrap());
        Arc::new(TreeReader::new(chunks, 8 << 20).unwrap())
    }
}

/// Where the live tree stands in every snapshot.
pub const BASE: [&[u8]; 1] = [b"live"];

pub fn source(path: &Path) -> [Source; 1] {
    [Source { path: path.to_owned(), stored: b"/live".to_vec() }]
}
