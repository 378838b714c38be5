//! Writing and opening packs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::chunk::by_place::SamePlace;
use crate::chunk::codec::{Decoder, Encoder};
use crate::chunk::keys::Keys;
use crate::chunk::seal::{SealKey, TAG};
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, CHECKSUM, HEADER};
use crate::format::pack::{self, Codec, DIRECTORY_NONCE, DirectoryEntry, FrameInfo, PREAMBLE, PackKind, Preamble, Tail};
use crate::model::{ChunkId, ChunkKey, PackId, SnapshotId, WriterId};
use crate::repo::Repository;
use crate::storage::{Created, Name};

pub(crate) mod buffers;
pub(crate) mod run;
pub(crate) mod writer;

/// A pack's preamble and the key that it leads to.
#[derive(Debug)]
pub struct PackKey {
    preamble: Preamble,
    key: SealKey,
    /// How many changes ago what it was made of was the repository's key.
    age: usize,
}

impl PackKey {
    /// The key of a new pack that `session` writes: a fresh salt, so a fresh name.
    pub fn generate(repo: &Repository, kind: PackKind, session: SnapshotId) -> Result<Self> {
        Self::generate_of(repo, kind, session, None)
    }

    /// The same for what is of a writer whose key only writes: that stays its own, also in packs that prune makes of it.
    pub fn generate_of(repo: &Repository, kind: PackKind, session: SnapshotId, writer: Option<WriterId>) -> Result<Self> {
        let writer = writer.or(repo.keys().writer());
        let class = match writer {
            Some(writer) => &repo.keys().pack(kind).of_writer(writer)?,
            None => repo.keys().pack(kind),
        };
        let session = writer.map_or(session, |writer| session.with_writer(writer));
        let mut preamble = Preamble { repository: repo.id(), salt: [0; 32], commitment: [0; 16], session, kind, writer };
        let (salt, key) = SealKey::fresh(class, &preamble.bound())?;
        (preamble.salt, preamble.commitment) = (salt, key.commitment);
        Ok(PackKey { preamble, key, age: 0 })
    }

    /// The key of a stored pack, from its first bytes. The pack must be of this repository and commit to its key.
    pub fn open(repo: &Repository, first: &[u8]) -> Result<Self> {
        let preamble = match Preamble::decode(first) {
            Err(e) if e.kind() == ErrorKind::Unsupported && !is_newer(repo, first) => {
                return Err(Error::corrupt("a pack was not made with the repository's key"));
            }
            decoded => decoded?,
        };
        if preamble.repository != repo.id() {
            return Err(Error::corrupt(format!("a pack belongs to repository {}", preamble.repository.short())));
        }
        let class = repo.keys().pack(preamble.kind);
        let found = SealKey::committed(class, &preamble.salt, &preamble.bound(), &preamble.commitment)?;
        let (key, age) = found.ok_or_else(|| Error::corrupt("a pack was sealed with another key"))?;
        Ok(PackKey { preamble, key, age })
    }

    /// Whether it was made of a key that was changed since.
    pub(crate) fn is_former(&self) -> bool {
        self.age > 0
    }

    /// What the first bytes say.
    pub fn preamble(&self) -> &Preamble {
        &self.preamble
    }

    /// Whether sealed bytes are those of frame `number`, as they were written: the tag says so. Bases are not asked for.
    pub(crate) fn is_authentic(&self, number: u32, info: &FrameInfo, sealed: &[u8]) -> bool {
        let aad = self.preamble.frame_aad(number, info.codec, info.plain);
        self.key.open_to(u64::from(number), &aad, sealed, &mut Vec::new()).is_ok()
    }

    /// Opens and decodes frame `number` from its sealed bytes into `plain` (replaced). `prefix` holds the plain bytes of
    /// the frame's base chunks; `scratch` is working memory.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn decode(
        &self,
        number: u32,
        info: &FrameInfo,
        sealed: &[u8],
        prefix: &[u8],
        decoder: &mut Decoder,
        scratch: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let aad = self.preamble.frame_aad(number, info.codec, info.plain);
        if info.codec == Codec::Raw {
            return self.key.open_to(u64::from(number), &aad, sealed, plain);
        }
        self.key.open_to(u64::from(number), &aad, sealed, scratch)?;
        match info.bases.is_empty() {
            true => decoder.decode(info.codec, scratch, info.plain as usize, plain),
            false => decoder.decode_delta(scratch, prefix, info.plain as usize, plain),
        }
    }
}

/// A frame to be: plain bytes and the chunks that fill them.
#[derive(Debug, Default)]
pub struct PlainFrame {
    /// The chunks' bytes, one after the other.
    pub bytes: Vec<u8>,
    /// Id and length of each chunk.
    pub chunks: Vec<(ChunkId, u32)>,
    /// Chunks of the previous version of what is in the frame, of its kind: it may be stored as a difference from them.
    /// All of them are in frames without bases.
    pub bases: Vec<ChunkKey>,
    /// Which part of the frame is the next version of which part of the bases' bytes, as far as that is known.
    pub same: Vec<SamePlace>,
}

/// Gives the plain bytes of a frame's base chunks, one after the other, into the buffer (replaced).
pub(crate) type FetchBases<'a> = dyn Fn(PackKind, &[ChunkKey], &mut Vec<u8>) -> Result<()> + 'a;

/// A difference is kept when it has at most this share of what the frame would have by itself; anything longer is
/// stored plain, and becomes the next base.
const DELTA_SHARE: f64 = 0.6;
/// A difference of less than this share of the plain bytes is taken without a look at the alternative.
const CLEAR_SHARE: f64 = 0.03;
/// After so many failed trials in a row only every so many-th frame is tried: data without similarity pays nothing.
const GIVE_UP: u32 = 4;
const TRY_AGAIN: u32 = 16;

/// Whether differences have been worth their trial, shared by all sealers of an ingest.
#[derive(Debug, Default)]
pub struct DeltaTrials {
    /// Failures in a row, by kind of pack.
    failed: [AtomicU32; 2],
}

/// What it takes to store frames as differences.
pub struct Deltas<'a> {
    /// Whether it has been worth it.
    pub trials: &'a DeltaTrials,
    /// Reads the bases.
    pub fetch: &'a FetchBases<'a>,
}

impl DeltaTrials {
    fn failed(&self, kind: PackKind) -> &AtomicU32 {
        let [data, trees] = &self.failed;
        if kind == PackKind::Data { data } else { trees }
    }

    fn worth_it(&self, kind: PackKind) -> bool {
        let counter = self.failed(kind);
        let failed = counter.load(Ordering::Relaxed);
        if failed < GIVE_UP {
            return true;
        }
        counter.fetch_add(1, Ordering::Relaxed);
        failed.is_multiple_of(TRY_AGAIN)
    }

    fn note(&self, kind: PackKind, success: bool) {
        match success {
            true => self.failed(kind).store(0, Ordering::Relaxed),
            false => drop(self.failed(kind).fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// A frame as it goes into a pack.
#[derive(Debug)]
pub struct SealedFrame {
    /// Ciphertext and tag.
    pub(crate) bytes: Vec<u8>,
    /// Its line of the directory (the offset is set when the pack is put together).
    pub(crate) entry: DirectoryEntry,
}

/// Compresses, seals and checks frames; one for each thread.
#[derive(Debug)]
pub struct FrameSealer {
    encoder: Encoder,
    decoder: Decoder,
    encoded: Vec<u8>,
    delta: Vec<u8>,
    scratch: Vec<u8>,
    check: Vec<u8>,
    prefix: Vec<u8>,
}

impl FrameSealer {
    /// A sealer with contexts of its own.
    pub fn new(encoder: Encoder) -> Result<Self> {
        let (encoded, delta, scratch, check, prefix) = Default::default();
        Ok(FrameSealer { encoder, decoder: Decoder::new()?, encoded, delta, scratch, check, prefix })
    }

    /// Makes frame `number` of the pack of `key`. Before it is given out it is opened, decompressed and hashed again:
    /// compressors and memory have been wrong (restic#4523, restic#4677), and this is the last moment to notice.
    pub fn seal(
        &mut self,
        keys: &Keys,
        key: &PackKey,
        number: u32,
        frame: &PlainFrame,
        deltas: Option<&Deltas<'_>>,
    ) -> Result<SealedFrame> {
        self.encoded.clear();
        let kind = key.preamble.kind;
        let delta = match deltas.filter(|d| !frame.bases.is_empty() && d.trials.worth_it(kind)) {
            Some(deltas) => self.delta(kind, frame, deltas)?,
            None => false,
        };
        let (codec, bases) = match delta {
            true => (Codec::Zstd, frame.bases.clone()),
            false if !self.encoded.is_empty() => (Codec::Zstd, Vec::new()),
            false => (self.encoder.encode(&frame.bytes, &mut self.encoded)?, Vec::new()),
        };
        // The compressor wants room for the worst case. A frame that waits for its pack holds what it has, with the seal
        // behind it; shrinking the large buffer instead would leave holes in the heap that no other buffer fits in.
        let encoded = if delta { &self.delta } else { &self.encoded };
        let mut bytes = Vec::with_capacity(encoded.len() + TAG);
        bytes.extend_from_slice(encoded);
        let plain = frame.bytes.len() as u32;
        let aad = key.preamble.frame_aad(number, codec, plain);
        key.key.seal(u64::from(number), &aad, &mut bytes)?;
        let info = FrameInfo { offset: 0, stored: bytes.len() as u32, plain, codec, bases };
        key.decode(number, &info, &bytes, &self.prefix, &mut self.decoder, &mut self.scratch, &mut self.check)?;
        check_chunks(keys, key, &self.check, &frame.chunks).map_err(|_| {
            Error::corrupt("a new frame does not decode to what was read: this machine's memory or compressor is at fault")
        })?;
        let chunks = frame.chunks.iter().map(|(id, len)| (id.key(), *len)).collect();
        Ok(SealedFrame { bytes, entry: DirectoryEntry { frame: info, chunks } })
    }

    /// Makes frame `number` of the pack of `to` out of a frame of another pack, without compressing it again: its
    /// `sealed` bytes, its line of that pack's directory, and the plain bytes of its bases. What comes out is opened,
    /// decompressed and hashed before it is given out, like a new frame.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn reseal(
        &mut self,
        keys: &Keys,
        from: (&PackKey, u32),
        entry: &DirectoryEntry,
        sealed: &[u8],
        prefix: &[u8],
        to: &PackKey,
        number: u32,
    ) -> Result<SealedFrame> {
        let (info, kind) = (&entry.frame, to.preamble.kind);
        let mut bytes = Vec::new();
        from.0.key.open_to(u64::from(from.1), &from.0.preamble.frame_aad(from.1, info.codec, info.plain), sealed, &mut bytes)?;
        to.key.seal(u64::from(number), &to.preamble.frame_aad(number, info.codec, info.plain), &mut bytes)?;
        let info = FrameInfo { offset: 0, stored: bytes.len() as u32, ..info.clone() };
        to.decode(number, &info, &bytes, prefix, &mut self.decoder, &mut self.scratch, &mut self.check)?;
        let mut rest = &self.check[..];
        for (key, len) in &entry.chunks {
            let chunk = rest.split_off(..*len as usize).ok_or_else(|| Error::corrupt("a frame is too short"))?;
            if keys.chunk_id_of(to.preamble.writer, kind, chunk, |id| id.key() == *key).is_none() {
                return Err(Error::corrupt(format!("chunk {}… has other content than its name says", key.short())));
            }
        }
        Ok(SealedFrame { bytes, entry: DirectoryEntry { frame: info, chunks: entry.chunks.clone() } })
    }

    /// Opens and decodes a stored frame into `plain` (replaced); `prefix` holds the plain bytes of its bases.
    pub(crate) fn open(
        &mut self,
        key: &PackKey,
        number: u32,
        info: &FrameInfo,
        sealed: &[u8],
        prefix: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        key.decode(number, info, sealed, prefix, &mut self.decoder, &mut self.scratch, plain)
    }

    /// Tries the frame as a difference from its bases. True: it is in `delta`. False: `encoded` holds the
    /// frame by itself, or nothing when that has not been tried or gains nothing.
    fn delta(&mut self, kind: PackKind, frame: &PlainFrame, deltas: &Deltas<'_>) -> Result<bool> {
        // A base that cannot be read is no reason to fail: the frame then stands by itself.
        if (deltas.fetch)(kind, &frame.bases, &mut self.prefix).is_err() || self.prefix.is_empty() {
            return Ok(false);
        }
        self.encoder.encode_delta(&frame.bytes, &self.prefix, &frame.same, &mut self.delta)?;
        // The names of the bases are stored twice, in the pack's directory and in the index.
        let cost = (self.delta.len() + frame.bases.len() * 32) as f64;
        let mut success = cost < frame.bytes.len() as f64 * CLEAR_SHARE;
        if !success {
            let codec = self.encoder.encode(&frame.bytes, &mut self.encoded)?;
            success = cost < self.encoded.len() as f64 * DELTA_SHARE;
            if codec == Codec::Raw {
                self.encoded.clear();
            }
        }
        deltas.trials.note(kind, success);
        Ok(success)
    }
}

/// Hashes every chunk of a decoded frame again.
fn check_chunks(keys: &Keys, key: &PackKey, plain: &[u8], chunks: &[(ChunkId, u32)]) -> Result<()> {
    let mut rest = plain;
    for (id, len) in chunks {
        let (chunk, after) = rest.split_at_checked(*len as usize).ok_or_else(|| Error::corrupt("a frame is too short"))?;
        if keys.chunk_id_of(key.preamble.writer, key.preamble.kind, chunk, |own| own == id).is_none() {
            return Err(Error::corrupt(format!("a chunk is not the one named {}", id.short())));
        }
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(Error::corrupt("a frame is too long")) }
}

/// A pack that is in the storage: what the index needs to know.
#[derive(Debug)]
pub struct StoredPack {
    /// Its name.
    pub id: PackId,
    /// What is in it.
    pub kind: PackKind,
    /// Its size in bytes.
    pub size: u64,
    /// Whether what is in it is of a key that only writes.
    pub one_way: bool,
    /// Its frames with their chunks.
    pub entries: Vec<DirectoryEntry>,
}

impl StoredPack {
    /// What the index needs to know of the pack of this key.
    pub fn of(key: &PackKey, id: PackId, size: u64, entries: Vec<DirectoryEntry>) -> StoredPack {
        let Preamble { kind, writer, .. } = key.preamble;
        StoredPack { id, kind, size, one_way: writer.is_some(), entries }
    }
}

/// How often a pack is made again under another name before its storage is given up.
const NAMES: u32 = 5;

/// Puts sealed frames together to a pack and stores it. When nobody can tell whether it was stored, it is sealed and named
/// anew: a pack is never sent twice under one name (rule 3 of docs/durability.md).
pub fn store(repo: &Repository, key: &PackKey, mut frames: Vec<SealedFrame>) -> Result<StoredPack> {
    let Preamble { kind, session, writer, .. } = key.preamble;
    let mut offset = PREAMBLE as u64;
    for frame in &mut frames {
        frame.entry.frame.offset = offset;
        offset += frame.bytes.len() as u64;
    }
    let mut another;
    let mut key = key;
    for _ in 1..NAMES {
        match store_once(repo, key, &frames, offset) {
            Err(e) if e.kind() == ErrorKind::Unsettled => {
                repo.reports().warn("", format!("a pack is sent again, under another name: {e}"));
            }
            Ok((id, size)) => return Ok(stored(key, id, size, frames)),
            Err(e) => return Err(e),
        }
        let next = PackKey::generate_of(repo, kind, session, writer)?;
        frames.iter_mut().zip(0..).try_for_each(|(frame, number)| seal_again(key, &next, number, frame))?;
        another = next;
        key = &another;
    }
    store_once(repo, key, &frames, offset).map(|(id, size)| stored(key, id, size, frames))
}

fn stored(key: &PackKey, id: PackId, size: u64, frames: Vec<SealedFrame>) -> StoredPack {
    StoredPack::of(key, id, size, frames.into_iter().map(|frame| frame.entry).collect())
}

/// Seals a frame of one pack for another, and looks whether it opens.
fn seal_again(from: &PackKey, to: &PackKey, number: u32, frame: &mut SealedFrame) -> Result<()> {
    let (info, nonce) = (&frame.entry.frame, u64::from(number));
    let (mut plain, mut check) = (Vec::new(), Vec::new());
    from.key.open_to(nonce, &from.preamble.frame_aad(number, info.codec, info.plain), &frame.bytes, &mut plain)?;
    let mut sealed = plain.clone();
    let aad = to.preamble.frame_aad(number, info.codec, info.plain);
    to.key.seal(nonce, &aad, &mut sealed)?;
    to.key.open_to(nonce, &aad, &sealed, &mut check)?;
    if check != plain {
        return Err(Error::corrupt("a frame does not open to what was sealed: the memory of this machine is not to be trusted"));
    }
    frame.bytes = sealed;
    Ok(())
}

fn store_once(repo: &Repository, key: &PackKey, frames: &[SealedFrame], offset: u64) -> Result<(PackId, u64)> {
    let mut directory = pack::encode_directory(frames.iter().map(|frame| &frame.entry))?;
    key.key.seal(DIRECTORY_NONCE, &directory_aad(&key.preamble, frames.len() as u32), &mut directory)?;
    let tail = Tail { directory: offset, directory_len: directory.len() as u32, frames: frames.len() as u32 };
    let (preamble, tail) = (key.preamble.encode(), tail.encode());
    let mut parts: Vec<&[u8]> = Vec::with_capacity(frames.len() + 4);
    parts.push(&preamble);
    parts.extend(frames.iter().map(|frame| frame.bytes.as_slice()));
    parts.extend([directory.as_slice(), &tail]);
    let mut hasher = blake3::Hasher::new();
    for part in &parts {
        hasher.update(part);
    }
    let id = PackId(*hasher.finalize().as_bytes());
    parts.push(&id.0);
    let size = parts.iter().map(|part| part.len() as u64).sum();
    match repo.storage().create(&Name::Pack(id), &parts)? {
        Created::New => {
            repo.stored().note(id);
            keep_trees(repo, key, id, frames);
            Ok((id, size))
        }
        // The salt is new, so the name cannot be taken. If it is, this process did not write what is there: stop.
        Created::Exists => Err(Error::new(ErrorKind::Exists, format!("a new pack's name {} is taken", id.short()))),
    }
}

/// Trees are what the next command reads first: they stay on a local disk, where there is a cache.
fn keep_trees(repo: &Repository, key: &PackKey, id: PackId, frames: &[SealedFrame]) {
    if let (PackKind::Tree, Some(cache)) = (key.preamble.kind, repo.cache()) {
        cache.keep_tree(&id, 0, &key.preamble.encode());
        frames.iter().for_each(|frame| cache.keep_tree(&id, frame.entry.frame.offset, &frame.bytes));
    }
}

fn directory_aad(preamble: &Preamble, frames: u32) -> [u8; 38] {
    preamble.frame_aad(frames, Codec::Raw, 0)
}

/// Whether somebody with the key made a pack that begins like this, whatever version it is of.
fn is_newer(repo: &Repository, first: &[u8]) -> bool {
    let Some(preamble) = first.first_chunk::<PREAMBLE>() else { return false };
    let parts = preamble[HEADER..].split_first_chunk::<32>();
    parts.is_some_and(|(salt, rest)| {
        let Some(commitment) = rest.first_chunk::<16>() else { return false };
        let is_of = |kind| SealKey::committed(repo.keys().pack(kind), salt, &pack::bound(preamble), commitment);
        [PackKind::Data, PackKind::Tree].into_iter().any(|kind| is_of(kind).is_ok_and(|found| found.is_some()))
    })
}

/// Reads the directory of a stored pack of `size` bytes with two ranged reads.
pub fn read_directory(repo: &Repository, id: PackId, size: u64) -> Result<(Arc<PackKey>, Vec<DirectoryEntry>)> {
    let name = Name::Pack(id);
    let read = |range: std::ops::Range<u64>, out: &mut Vec<u8>| repo.storage().read(&name, Some(range), out);
    let mut bytes = Vec::new();
    if size < (PREAMBLE + pack::TAIL + CHECKSUM) as u64 {
        return Err(Error::corrupt(format!("{size} bytes are too few for a pack")).about(name));
    }
    read(0..PREAMBLE as u64, &mut bytes)?;
    // Whoever stole a key that only writes could stop everybody with a pack of a version that nobody knows.
    let stolen = envelope::is_one_way(&bytes);
    let damaged = |e: Error| match e.kind() {
        ErrorKind::Unsupported if stolen => e.with_kind(ErrorKind::Corrupt).about(name),
        _ => e.about(name),
    };
    let key = PackKey::open(repo, &bytes).map_err(damaged)?;
    // One read fetches tail and, nearly always, the whole directory.
    let guess = size.saturating_sub(256 << 10).max(PREAMBLE as u64).min(size - (pack::TAIL + CHECKSUM) as u64);
    read(guess..size, &mut bytes)?;
    let tail = Tail::decode(&bytes, size).map_err(damaged)?;
    let end = tail.directory + u64::from(tail.directory_len);
    let mut directory = if tail.directory >= guess {
        bytes[(tail.directory - guess) as usize..(end - guess) as usize].to_vec()
    } else {
        read(tail.directory..end, &mut bytes)?;
        bytes
    };
    key.key.open(DIRECTORY_NONCE, &directory_aad(&key.preamble, tail.frames), &mut directory).map_err(damaged)?;
    let entries = pack::decode_directory(&directory, &tail).map_err(damaged)?;
    Ok((Arc::new(key), entries))
}
