//! What takes the place of index segments, or of pages of them, that are damaged: what packs say of themselves.
//!
//! Reading a repository must not need a repair first, which writes. So the directories of packs are made segments in
//! memory. Writers do not count on them: what no segment names may be deleted at any time.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{Codec, DirectoryEntry, FrameInfo, PREAMBLE};
use crate::format::segment::SegmentPack;
use crate::model::PackId;
use crate::repo::Repository;
use crate::repo::index::list_packs;
use crate::repo::index::paged::PagedSegment;
use crate::repo::index::segment::Segment;
use crate::repo::pack::{StoredPack, read_directory};
use crate::repo::parallel::each_pack;
use crate::storage::memory::MemoryStorage;

/// Chunks of one segment in memory, about.
const CHUNKS: usize = 1 << 18;

/// A segment in memory that says of `packs` what their directories say, with the same numbers of frames. Of a pack that
/// cannot be read it says nothing.
pub(crate) fn of_packs(repo: &Repository, packs: &[SegmentPack]) -> Result<PagedSegment> {
    let mut stored = Vec::with_capacity(packs.len());
    for pack in packs {
        let entries = match read_directory(repo, pack.id, pack.size) {
            Ok((key, entries)) if key.preamble().kind == pack.kind && entries.len() == pack.frames as usize => entries,
            Err(e) if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => return Err(e),
            _ => (0..pack.frames).map(unknown).collect(),
        };
        let SegmentPack { id, kind, size, one_way, .. } = *pack;
        stored.push(StoredPack { id, kind, size, one_way, entries });
    }
    in_memory(repo, &stored)
}

/// Segments in memory of the packs that are there and not `named`.
pub(crate) fn of_unnamed(repo: &Repository, named: &HashSet<PackId>) -> Result<Vec<PagedSegment>> {
    let packs: Vec<(PackId, u64)> = list_packs(repo)?.into_iter().filter(|(id, _)| !named.contains(id)).collect();
    let (mut out, mut waiting, mut held) = (Vec::new(), Vec::new(), 0);
    let read = |id: PackId, size: u64| {
        let read = read_directory(repo, id, size);
        read.map(|(key, entries)| StoredPack::of(&key, id, size, entries)).map_err(|e| (id, e))
    };
    each_pack(repo, &packs, &read, |pack: std::result::Result<StoredPack, (PackId, Error)>| {
        match pack {
            Ok(pack) => {
                held += pack.entries.iter().map(|entry| entry.chunks.len()).sum::<usize>();
                waiting.push(pack);
            }
            Err((_, e)) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {}
            Err((_, e)) => return Err(e),
        }
        if held >= CHUNKS {
            held = 0;
            out.push(in_memory(repo, &std::mem::take(&mut waiting))?);
        }
        Ok(())
    })?;
    if !waiting.is_empty() {
        out.push(in_memory(repo, &waiting)?);
    }
    Ok(out)
}

pub(super) fn in_memory(repo: &Repository, packs: &[StoredPack]) -> Result<PagedSegment> {
    let memory = repo.on(Arc::new(MemoryStorage::default()));
    let (id, size) = Segment::of_packs(packs).store(&memory, Vec::new())?;
    PagedSegment::open(&memory, id, size).map(PagedSegment::of_memory)
}

/// A frame of which nothing is known; no chunk is in it.
pub(super) fn unknown(number: u32) -> DirectoryEntry {
    let (plain, stored) = (1, 17);
    let offset = PREAMBLE as u64 + u64::from(number) * u64::from(stored);
    DirectoryEntry { frame: FrameInfo { offset, stored, plain, codec: Codec::Raw, bases: Vec::new() }, chunks: Vec::new() }
}
