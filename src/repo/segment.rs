//! Index segments: building, storing, reading, looking up.

use std::collections::HashMap;

use crate::chunk::seal::SealKey;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, CHECKSUM, HEADER, ObjectType};
use crate::format::segment::{
    self, ENTRIES_A_PAGE, Entry, FRAMES_A_PAGE, PREAMBLE, ROOT_NONCE, SegmentFrame, SegmentPack, SegmentRoot,
};
use crate::model::{ChunkKey, SegmentId};
use crate::repo::Repository;
use crate::repo::pack::StoredPack;
use crate::storage::Name;

/// A segment in memory: sorted entries, and the frames and packs they point to.
#[derive(Debug, Default)]
pub struct Segment {
    /// Segments whose place this one takes.
    pub replaces: Vec<SegmentId>,
    /// The packs it names.
    pub packs: Vec<SegmentPack>,
    /// Their frames, pack after pack.
    pub frames: Vec<SegmentFrame>,
    entries: Vec<Entry>,
}

impl Segment {
    /// The segment of these packs.
    pub fn of_packs(packs: &[StoredPack]) -> Segment {
        let mut out = Segment::default();
        for (pack, stored) in packs.iter().enumerate() {
            let frames = stored.entries.len() as u32;
            out.packs.push(SegmentPack { id: stored.id, kind: stored.kind, size: stored.size, frames });
            for (number, entry) in stored.entries.iter().enumerate() {
                let frame = out.frames.len() as u32;
                out.frames.push(SegmentFrame { pack: pack as u32, number: number as u32, info: entry.frame.clone() });
                let mut offset = 0;
                for (key, len) in &entry.chunks {
                    out.entries.push(Entry { key: *key, frame, offset, len: *len });
                    offset += len;
                }
            }
        }
        // The same chunk may stand twice, in two packs: both stay, in the order of the packs.
        out.entries.sort_by_key(|e| e.key);
        out
    }

    /// Its entries, sorted by key.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All entries of `key`, and the number of the first.
    pub fn find(&self, key: &ChunkKey) -> (u32, &[Entry]) {
        let start = self.lower_bound(key);
        let count = self.entries[start..].iter().take_while(|e| e.key == *key).count();
        (start as u32, &self.entries[start..start + count])
    }

    /// The first entry that is not below `key`. Keys are uniform (a keyed hash), so a guess by proportion is about
    /// √n off (interpolation search, Perl, Itai and Avni 1978); from there the bracket doubles until it holds.
    fn lower_bound(&self, key: &ChunkKey) -> usize {
        let len = self.entries.len();
        let guess = ((u128::from(prefix(key)) * len as u128) >> 64) as usize;
        let below = |at: usize| self.entries.get(at).is_some_and(|e| e.key < *key);
        let (mut low, mut high) = (guess, guess);
        let mut step = 8;
        if below(guess) {
            while high < len && below(high) {
                low = high + 1;
                high = (high + step).min(len);
                step *= 2;
            }
        } else {
            while low > 0 && !below(low - 1) {
                high = low - 1;
                low = low.saturating_sub(step);
                step *= 2;
            }
        }
        low + self.entries[low..high.max(low)].partition_point(|e| e.key < *key)
    }

    /// Seals and stores the segment; returns its name and size.
    pub fn store(&self, repo: &Repository) -> Result<(SegmentId, u64)> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the operating system gave no random bytes: {e}")))?;
        let key = SealKey::derive(&repo.keys().index, &salt)?;
        let header = envelope::header(ObjectType::Segment, repo.id());
        let mut out = Vec::with_capacity(PREAMBLE + self.entries.len() * 22);
        out.extend_from_slice(&header);
        out.extend_from_slice(&salt);
        out.extend_from_slice(&key.commitment);
        let mut root = SegmentRoot {
            replaces: self.replaces.clone(),
            packs: self.packs.clone(),
            entries: self.entries.len() as u64,
            ..SegmentRoot::default()
        };
        let mut pages = 0u64;
        let put = |mut page: Vec<u8>, nonce: u64, out: &mut Vec<u8>| -> Result<u32> {
            key.seal(nonce, &header, &mut page)?;
            out.extend_from_slice(&page);
            Ok(page.len() as u32)
        };
        for frames in self.frames.chunks(FRAMES_A_PAGE) {
            root.frame_pages.push(put(segment::encode_frames(frames), pages, &mut out)?);
            pages += 1;
        }
        for entries in self.entries.chunks(ENTRIES_A_PAGE) {
            root.entry_pages.push((entries[0].key, put(segment::encode_entries(entries), pages, &mut out)?));
            pages += 1;
        }
        let start = out.len() as u64;
        let len = put(segment::encode_root(&root), ROOT_NONCE, &mut out)?;
        out.extend_from_slice(&segment::encode_tail(start, len, pages as u32));
        let id = SegmentId(*blake3::hash(&out).as_bytes());
        out.extend_from_slice(&id.0);
        repo.storage().create(&Name::Segment(id), &[&out])?;
        Ok((id, out.len() as u64))
    }

    /// Reads a stored segment.
    pub fn load(repo: &Repository, id: SegmentId) -> Result<Segment> {
        let name = Name::Segment(id);
        let mut object = Vec::new();
        repo.storage().read(&name, None, &mut object)?;
        Self::decode(repo, id, &object).map_err(|e| e.context(name))
    }

    fn decode(repo: &Repository, id: SegmentId, object: &[u8]) -> Result<Segment> {
        let (repository, _) = envelope::unwrap(object, ObjectType::Segment, "an index segment")?;
        if repository != repo.id() || object[object.len() - CHECKSUM..] != id.0 {
            return Err(Error::corrupt("an index segment is of another repository or has another's name"));
        }
        let (root_start, root_len, pages) = segment::decode_tail(object)?;
        let mut salt = [0; 32];
        salt.copy_from_slice(&object[HEADER..HEADER + 32]);
        let key = SealKey::derive(&repo.keys().index, &salt)?;
        if key.commitment != object[HEADER + 32..PREAMBLE] {
            return Err(Error::corrupt("an index segment was sealed with another key"));
        }
        let header = envelope::header(ObjectType::Segment, repo.id());
        let mut plain = Vec::new();
        key.open_to(ROOT_NONCE, &header, &object[root_start..root_start + root_len], &mut plain)?;
        let root = segment::decode_root(&plain)?;
        let lengths: Vec<u32> = root.frame_pages.iter().copied().chain(root.entry_pages.iter().map(|(_, len)| *len)).collect();
        if lengths.len() != pages as usize {
            return Err(Error::corrupt("an index segment has another number of pages than it says"));
        }
        let mut out = Segment { replaces: root.replaces, packs: root.packs, ..Segment::default() };
        let mut at = PREAMBLE;
        for (number, len) in lengths.iter().enumerate() {
            let end = at + *len as usize;
            let sealed = object
                .get(at..end)
                .filter(|_| end <= root_start)
                .ok_or_else(|| Error::corrupt("a page lies outside the segment"))?;
            key.open_to(number as u64, &header, sealed, &mut plain)?;
            if number < root.frame_pages.len() {
                segment::decode_frames(&plain, &out.packs, &mut out.frames)?;
            } else {
                segment::decode_entries(&plain, &out.frames, &mut out.entries)?;
            }
            at = end;
        }
        let frames: u64 = out.packs.iter().map(|p| u64::from(p.frames)).sum();
        if at != root_start || out.entries.len() as u64 != root.entries || out.frames.len() as u64 != frames {
            return Err(Error::corrupt("an index segment holds another number of frames or entries than it says"));
        }
        Ok(out)
    }

    /// Merges segments: all (chunk, pack) pairs of packs that `keep` wants, each pack once. The result names what it
    /// replaces.
    pub fn merge(parts: &[(SegmentId, &Segment)], keep: impl Fn(&SegmentPack) -> bool) -> Result<Segment> {
        let mut out = Segment { replaces: parts.iter().map(|(id, _)| *id).collect(), ..Segment::default() };
        out.replaces.sort_unstable();
        let mut known = HashMap::new();
        for (_, part) in parts {
            // Where each of this part's frames is in the result; `None` for packs that are there already or dropped.
            let mut moved: Vec<Option<u32>> = Vec::with_capacity(part.frames.len());
            let mut taken: Vec<Option<u32>> = Vec::with_capacity(part.packs.len());
            for pack in &part.packs {
                let new = keep(pack) && !known.contains_key(&pack.id);
                taken.push(new.then_some(out.packs.len() as u32));
                if new {
                    known.insert(pack.id, ());
                    out.packs.push(*pack);
                }
            }
            for frame in &part.frames {
                let pack = taken[frame.pack as usize];
                moved.push(pack.map(|_| out.frames.len() as u32));
                if let Some(pack) = pack {
                    out.frames.push(SegmentFrame { pack, ..frame.clone() });
                }
            }
            out.entries.extend(part.entries.iter().filter_map(|e| Some(Entry { frame: moved[e.frame as usize]?, ..*e })));
        }
        if out.frames.len() > u32::MAX as usize {
            return Err(Error::new(ErrorKind::Unsupported, "a segment cannot name more than 2³² frames"));
        }
        out.entries.sort_by_key(|e| e.key);
        Ok(out)
    }
}

fn prefix(key: &ChunkKey) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&key.0[..8]);
    u64::from_be_bytes(first)
}
