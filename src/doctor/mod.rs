//! Healing what is damaged: what is lost, where it is to be had, putting it back, and going on without the rest.
//!
//! A chunk has its content for a name, so whatever has this content heals it: another copy in the repository or in this
//! machine's cache, a file on the disk, a snapshot of another repository. Nothing has to be believed: what is found is hashed
//! with this repository's key, and stored only if it is what is missing.
//!
//! What is healed stands in new packs beside what is damaged. Nothing is deleted here; prune removes what is damaged when
//! nobody needs it any more.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::ingest::OnlyChunks;
use crate::ingest::chunks::FrameBuilder;
use crate::model::ChunkKey;
use crate::repo::Repository;
use crate::repo::tree::TreeReader;
use crate::repo::tree::writer::PageSink;
use crate::task::Task;

mod elsewhere;
mod live;
mod look;
mod parity;
mod rewrite;
mod store;

pub use look::Loss;
pub use rewrite::WrittenAnew;

use look::LostChunk;
use store::Restock;

/// Where lost chunks may be had.
pub enum HealSource<'a> {
    /// In the packs themselves, as parity tells what they were.
    Parity,
    /// In this repository, in copies that writers do not count on, and in this machine's cache.
    Here,
    /// In the files below a directory of this machine.
    Tree(PathBuf),
    /// In another repository, whose trees are read by the second.
    Repository(&'a Arc<Repository>, &'a TreeReader),
}

/// What a source had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealTally {
    /// Parts of files.
    pub data: u64,
    /// Pages of trees, and attributes.
    pub pages: u64,
}

impl HealTally {
    /// All of it.
    pub fn chunks(&self) -> u64 {
        self.data + self.pages
    }

    fn add(&mut self, chunk: &LostChunk) {
        match chunk.pack_kind() {
            PackKind::Data => self.data += 1,
            PackKind::Tree => self.pages += 1,
        }
    }
}

/// Looks for what a repository lost, and stores it again.
pub struct Doctor<'a> {
    /// The repository.
    pub repo: &'a Arc<Repository>,
    /// How it is stopped, where it reports, and its clock.
    pub task: &'a Task<'a>,
    /// Whether anything may be written.
    pub dry: bool,
}

impl Doctor<'_> {
    /// What is lost, as far as is known: below a page that is lost it shows when that is there again.
    pub fn look(&self) -> Result<Loss> {
        look::look(self.repo, self.task, !self.dry)
    }

    /// Takes out of `loss` what `source` has, and stores it again, unless this is dry.
    pub fn heal(&self, loss: &mut Loss, source: &HealSource<'_>) -> Result<HealTally> {
        let met = match source {
            _ if loss.is_empty() => HashSet::new(),
            HealSource::Parity => parity::heal(self, loss)?,
            HealSource::Here => self.here(loss)?,
            HealSource::Tree(directory) => live::heal(self, loss, directory)?,
            HealSource::Repository(repo, trees) => elsewhere::heal(self, loss, repo, trees)?,
        };
        let mut tally = HealTally::default();
        for key in &met {
            loss.chunks.remove(key).iter().for_each(|chunk| tally.add(chunk));
        }
        Ok(tally)
    }

    /// What can be read although nobody counts on it.
    fn here(&self, loss: &Loss) -> Result<HashSet<ChunkKey>> {
        self.readable(loss, &look::trees(self.repo)?)
    }

    /// What these can read.
    fn readable(&self, loss: &Loss, trees: &TreeReader) -> Result<HashSet<ChunkKey>> {
        self.gather(loss, |chunk| match trees.chunks().chunk(chunk.pack_kind(), &chunk.id) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(e) if look::is_loss(&e) => Ok(None),
            Err(e) => Err(e),
        })
    }

    /// Asks `find` for each chunk that is lost. What it gives is compared with the name of the chunk.
    fn gather(&self, loss: &Loss, mut find: impl FnMut(&LostChunk) -> Result<Option<Vec<u8>>>) -> Result<HashSet<ChunkKey>> {
        self.restock(loss, |mut chunks| {
            for chunk in loss.in_order() {
                let kind = chunk.pack_kind();
                // What a key that only writes has stored is in packs of its own: the next ingest with it stores it again.
                let Some(bytes) = find(chunk)?.filter(|bytes| self.repo.keys().chunk_id(kind, bytes) == chunk.id) else {
                    continue;
                };
                match kind {
                    PackKind::Data => chunks.big(&chunk.id, &bytes, None)?,
                    PackKind::Tree => drop(chunks.page(&bytes)?),
                }
            }
            chunks.finish().map(drop)
        })
    }

    /// Runs `work` with a writer that stores lost chunks only. Returns the lost chunks that `work` gave to it.
    fn restock(&self, loss: &Loss, work: impl FnOnce(FrameBuilder<'_>) -> Result<()>) -> Result<HashSet<ChunkKey>> {
        let only = Arc::new(OnlyChunks::new(loss.chunks.keys().copied(), loss.has_pages()));
        let restock = Restock { repo: self.repo, only: Some(only.clone()), task: self.task };
        if self.dry {
            restock.dry(work)?
        } else {
            restock.store(work)?
        }
        Ok(only.met())
    }
}
