//! Where blobs are, and reading them: by the index, and by what packs say themselves where that lacks something.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::import::intake::PastFault;
use crate::import::restic::crypto::{OVERHEAD, ResticKey};
use crate::import::restic::files::{ResticFiles, ResticId, is_named, short};
use crate::import::restic::json::IndexJson;
use crate::model::id::{from_hex, to_hex};
use crate::observe::Event;
use crate::sys::table::Table;
use crate::task::Task;

/// The longest blob that is read: restic cuts files at 8 MiB, but a directory is one blob, however large.
const MAX_BLOB: u64 = 1 << 30;
/// The longest unpacked index.
const MAX_INDEX: u64 = 1 << 30;
/// The longest header of a pack: restic closes packs long before.
const MAX_HEADER: u64 = 64 << 20;
/// What stands at the end of a pack: the length of its header.
const TAIL: u64 = 4;
/// What a blob is in a header: these two, and the same compressed.
const COMPRESSED: u8 = 2;
const KINDS: u8 = 4;

/// Pack, offset, length, length before compression.
const PLACE: usize = 16;

/// Where a blob is.
#[derive(Debug, Clone, Copy)]
struct BlobPlace {
    pack: u32,
    offset: u32,
    length: u32,
    /// Its plain bytes where it is compressed, else 0.
    plain: u32,
}

impl BlobPlace {
    fn record(self) -> [u8; PLACE] {
        let mut out = [0; PLACE];
        let numbers = [self.pack, self.offset, self.length, self.plain].map(u32::to_le_bytes);
        out.copy_from_slice(numbers.as_flattened());
        out
    }

    fn of(record: &[u8; PLACE]) -> BlobPlace {
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        BlobPlace { pack: number(0), offset: number(4), length: number(8), plain: number(12) }
    }
}

/// All blobs of a repository. The table moves to a file when it grows: there may be millions.
pub(super) struct ResticBlobs {
    places: Table<PLACE>,
    packs: Vec<ResticId>,
    known: HashSet<ResticId>,
    /// The headers of packs that no index names have been read.
    searched: bool,
}

impl ResticBlobs {
    /// Reads the index. A part of it that is damaged is told; then packs say themselves what is in them.
    pub(super) fn load(files: &mut ResticFiles, key: &ResticKey, scratch: Option<&Path>, task: &Task<'_>) -> Result<Self> {
        let mut blobs = ResticBlobs { places: Table::new(scratch), packs: Vec::new(), known: HashSet::new(), searched: false };
        for id in files.list("index")? {
            task.go_on("the import was stopped")?;
            if let Err(e) = files.read("index", Some(&id)).and_then(|bytes| blobs.index(&id, &bytes, key)) {
                let message = format!("{e}: what it says is read from the packs themselves");
                task.observer.event(&Event::Warning { subject: b"", message: &message });
            }
        }
        Ok(blobs)
    }

    fn index(&mut self, id: &ResticId, sealed: &[u8], key: &ResticKey) -> Result<()> {
        let bad = |what: &str| Error::corrupt(format!("index {} of the restic repository {what}", short(id)));
        let plain = unpacked(key, sealed).ok_or_else(|| bad("cannot be decrypted or unpacked"))?;
        let index: IndexJson = serde_json::from_slice(&plain).map_err(|_| bad("is no index that restic writes"))?;
        for pack in index.packs {
            let Some(name) = from_hex(&pack.id) else { return Err(bad("names an impossible pack")) };
            let number = self.pack(name)?;
            for blob in pack.blobs {
                let place = (|| {
                    let [offset, length, plain] = [blob.offset, blob.length, blob.uncompressed_length].map(u32::try_from);
                    Some((
                        from_hex(&blob.id)?,
                        BlobPlace { pack: number, offset: offset.ok()?, length: length.ok()?, plain: plain.ok()? },
                    ))
                })();
                let (id, place) = place.ok_or_else(|| bad("names an impossible blob"))?;
                self.put(&id, place)?;
            }
        }
        Ok(())
    }

    fn pack(&mut self, name: ResticId) -> Result<u32> {
        let number = u32::try_from(self.packs.len()).map_err(|_| Error::corrupt("the restic repository has too many packs"))?;
        self.packs.push(name);
        self.known.insert(name);
        Ok(number)
    }

    fn put(&mut self, id: &ResticId, place: BlobPlace) -> Result<()> {
        self.places.put(&prefix(id), &place.record()).at(|| "cannot remember where blobs are".to_owned()).map(drop)
    }

    fn find(&self, id: &ResticId) -> Option<BlobPlace> {
        self.places.get(&prefix(id)).as_ref().map(BlobPlace::of)
    }

    /// Reads a blob, and verifies it by its MAC and its name.
    pub(super) fn read(
        &mut self,
        files: &mut ResticFiles,
        key: &ResticKey,
        id: &ResticId,
    ) -> Result<std::result::Result<Vec<u8>, PastFault>> {
        if self.find(id).is_none() && !std::mem::replace(&mut self.searched, true) {
            self.search(files, key)?;
        }
        let Some(place) = self.find(id) else {
            let text = format!("blob {} is in no index and in no pack of the restic repository", short(id));
            return Ok(Err(PastFault(text)));
        };
        let pack = self.packs.get(place.pack as usize).copied().unwrap_or_default();
        let read = read_at(files, key, &pack, place).and_then(|plain| match is_named(&plain, id) {
            true => Ok(plain),
            false => Err("it is not what its name says".to_owned()),
        });
        Ok(read.map_err(|e| {
            PastFault(format!("blob {} in pack {} of the restic repository cannot be read: {e}", short(id), short(&pack)))
        }))
    }

    /// Reads the headers of all packs that no index names.
    fn search(&mut self, files: &mut ResticFiles, key: &ResticKey) -> Result<()> {
        for pack in files.list("data")? {
            if self.known.contains(&pack) {
                continue;
            }
            // One that cannot be read has nothing that could be had.
            let Some(header) = header(files, key, &pack) else { continue };
            let number = self.pack(pack)?;
            for (id, place) in header {
                if self.find(&id).is_none() {
                    self.put(&id, BlobPlace { pack: number, ..place })?;
                }
            }
        }
        Ok(())
    }
}

fn prefix(id: &ResticId) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&id[..16]);
    out
}

fn read_at(files: &mut ResticFiles, key: &ResticKey, pack: &ResticId, place: BlobPlace) -> std::result::Result<Vec<u8>, String> {
    if u64::from(place.length.max(place.plain)) > MAX_BLOB {
        return Err(format!("it would have {} bytes", place.length.max(place.plain)));
    }
    let sealed = files.pack_range(pack, u64::from(place.offset), place.length as usize).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("the file data/{:.2}/{} is not there", to_hex(pack), to_hex(pack)),
        _ => e.to_string(),
    })?;
    let plain = key.open(&sealed).ok_or("its MAC is wrong")?;
    match place.plain {
        0 => Ok(plain),
        len => unzipped(&plain, u64::from(len)).ok_or_else(|| "it cannot be decompressed".to_owned()),
    }
}

/// What a pack says of itself; the number of the pack is left open.
fn header(files: &mut ResticFiles, key: &ResticKey, pack: &ResticId) -> Option<Vec<(ResticId, BlobPlace)>> {
    let len = files.pack_len(pack).ok()?;
    let tail = files.pack_range(pack, len.checked_sub(TAIL)?, TAIL as usize).ok()?;
    let size = u64::from(u32::from_le_bytes(tail.try_into().ok()?));
    if size > MAX_HEADER {
        return None;
    }
    let sealed = files.pack_range(pack, len.checked_sub(TAIL + size)?, size as usize).ok()?;
    entries(&key.open(&sealed)?)
}

/// The entries of a pack's plain header: a kind, the length, the length before compression where it is compressed, the name.
pub(super) fn parse_header(plain: &[u8]) -> Option<Vec<(ResticId, u32, u32, u32)>> {
    let mut out = Vec::new();
    let (mut rest, mut offset) = (plain, 0u32);
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk::<4>()?;
        let (plain, after) = match kind {
            0..COMPRESSED => (0, after),
            COMPRESSED..KINDS => after.split_first_chunk::<4>().map(|(plain, after)| (u32::from_le_bytes(*plain), after))?,
            _ => return None,
        };
        let (id, after) = after.split_first_chunk::<32>()?;
        let length = u32::from_le_bytes(*length);
        out.push((*id, offset, length, plain));
        offset = offset.checked_add(length)?;
        rest = after;
    }
    Some(out)
}

fn entries(plain: &[u8]) -> Option<Vec<(ResticId, BlobPlace)>> {
    let place = |(id, offset, length, plain)| (id, BlobPlace { pack: 0, offset, length, plain });
    Some(parse_header(plain)?.into_iter().map(place).collect())
}

/// The plain bytes of what is no blob: JSON, which repositories of version 2 compress.
pub(super) fn unpacked(key: &ResticKey, sealed: &[u8]) -> Option<Vec<u8>> {
    if sealed.len() < OVERHEAD {
        return None;
    }
    let plain = key.open(sealed)?;
    match plain.first() {
        Some(b'{' | b'[') => Some(plain),
        Some(2) => unzipped_up_to(plain.get(1..)?, MAX_INDEX),
        _ => None,
    }
}

/// Decompresses to exactly `len` bytes.
fn unzipped(bytes: &[u8], len: u64) -> Option<Vec<u8>> {
    unzipped_up_to(bytes, len).filter(|plain| plain.len() as u64 == len)
}

/// Decompresses to at most `most` bytes. Memory grows with what is there, not with what is said.
fn unzipped_up_to(bytes: &[u8], most: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    zstd::stream::Decoder::with_buffer(bytes).ok()?.take(most + 1).read_to_end(&mut out).ok()?;
    (out.len() as u64 <= most).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_parsed_and_bad_ones_refused() {
        let entry = |kind: u8, numbers: &[u32], id: u8| {
            let mut out = vec![kind];
            numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            out.extend_from_slice(&[id; 32]);
            out
        };
        let good = [entry(0, &[100], 1), entry(3, &[50, 400], 2)].concat();
        assert_eq!(parse_header(&good), Some(vec![([1; 32], 0, 100, 0), ([2; 32], 100, 50, 400)]));
        (1..good.len()).filter(|at| *at != 37).for_each(|at| assert_eq!(parse_header(&good[..at]), None, "{at}"));
        assert_eq!(parse_header(&entry(4, &[1], 1)), None);
        assert_eq!(parse_header(&[entry(0, &[u32::MAX], 1), entry(1, &[1], 1)].concat()), None);
    }

    #[test]
    fn what_grows_beyond_measure_is_refused() {
        let packed = zstd::bulk::compress(&vec![7; 1 << 20], 3).unwrap();
        assert_eq!(unzipped(&packed, 1 << 20).map(|plain| plain.len()), Some(1 << 20));
        assert_eq!((unzipped(&packed, 1 << 10), unzipped(&packed, 1 << 21), unzipped(b"none", 4)), (None, None, None));
    }
}
