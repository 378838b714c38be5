//! What segments of keys that only write are good for, before anything is deleted on the strength of the index.
//!
//! Such a key may be stolen, and its segments may say anything: that they know what is in packs of others, or that what it
//! stored before is somewhere else in a pack. A reader hashes what it finds and goes on to the next place. Prune deletes,
//! and so it takes for such a segment what the packs of this writer that it names say of themselves.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::format::pack::{DirectoryEntry, PREAMBLE, PackKind};
use crate::model::{PackId, SegmentId, WriterId};
use crate::repo::Repository;
use crate::repo::index::paged::PagedSegment;
use crate::repo::index::{Index, rescue};
use crate::repo::pack::{PackKey, StoredPack, read_directory};
use crate::repo::parallel::each_pack;
use crate::storage::Name;

/// What a pack says of itself.
enum OwnWord {
    /// This, and it is the writer's.
    Directory(PackKind, Vec<DirectoryEntry>),
    /// It is the writer's, and its directory is damaged.
    Damaged(PackKind),
    /// It is not the writer's, or no pack at all.
    Foreign,
    /// It is not there any more.
    Gone,
}

impl Index {
    /// The same index with what packs say of themselves in the place of segments of keys that only write; `packs` are those
    /// that are there, with their sizes. And the segments that name no pack of their writer, which say nothing.
    pub fn confirmed(mut self, repo: &Repository, packs: &HashMap<PackId, u64>) -> Result<(Index, Vec<SegmentId>)> {
        let mut void = Vec::new();
        for at in 0..self.segments.len() {
            let segment = self.segments[at].clone();
            let Some(writer) = segment.writer().filter(|_| !segment.is_in_memory()) else { continue };
            match confirm(repo, &self, &segment, writer, packs)? {
                Some(confirmed) => self.segments[at] = Arc::new(confirmed),
                None => void.push(segment.id()),
            }
        }
        self.segments.retain(|segment| !void.contains(&segment.id()));
        Ok((self, void))
    }
}

fn confirm(
    repo: &Repository,
    index: &Index,
    segment: &PagedSegment,
    writer: WriterId,
    there: &HashMap<PackId, u64>,
) -> Result<Option<PagedSegment>> {
    let named: Vec<(PackId, u64)> =
        segment.packs().iter().map(|pack| (pack.id, there.get(&pack.id).copied().unwrap_or(u64::MAX))).collect();
    let read = |id: PackId, size: u64| (id, size, own_word(repo, id, size, writer));
    let mut stored = Vec::with_capacity(named.len());
    each_pack(repo, &named, &read, |(id, size, word)| {
        let (kind, entries) = match word? {
            OwnWord::Directory(kind, entries) => (kind, entries),
            OwnWord::Damaged(kind) => (kind, index.directory_of(id)?),
            OwnWord::Foreign => return Ok(()),
            // The segment still names it: it is written anew without it.
            OwnWord::Gone => (PackKind::Data, vec![rescue::unknown(0)]),
        };
        let size = if size == u64::MAX { 0 } else { size };
        stored.push(StoredPack { id, kind, size, one_way: true, entries });
        Ok(())
    })?;
    if stored.is_empty() {
        return Ok(None);
    }
    stored.sort_by_key(|pack| pack.id);
    Ok(Some(rescue::in_memory(repo, &stored)?.in_place_of(segment)))
}

fn own_word(repo: &Repository, id: PackId, size: u64, writer: WriterId) -> Result<OwnWord> {
    if size == u64::MAX {
        return Ok(OwnWord::Gone);
    }
    let mut first = Vec::new();
    let opened = repo.storage().read(&Name::Pack(id), Some(0..PREAMBLE as u64), &mut first);
    let key = match opened.and_then(|()| PackKey::open(repo, &first)) {
        Ok(key) => key,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(OwnWord::Gone),
        // Of a newer version too: what snapshots need of it is missed, and nothing is deleted.
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => return Ok(OwnWord::Foreign),
        Err(e) => return Err(e),
    };
    if key.preamble().writer != Some(writer) {
        return Ok(OwnWord::Foreign);
    }
    match read_directory(repo, id, size) {
        Ok((_, entries)) => Ok(OwnWord::Directory(key.preamble().kind, entries)),
        Err(e) if e.kind() == ErrorKind::Corrupt => Ok(OwnWord::Damaged(key.preamble().kind)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(OwnWord::Gone),
        Err(e) => Err(e),
    }
}
