//! The keys of a repository: one random master key, everything else derived from it with BLAKE3.

use std::sync::Arc;

use aws_lc_rs::constant_time;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::chunk::one_way::{OneWay, Opener, Recipient};
use crate::chunk::seal::{SealKey, TAG};
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{ChunkerParameters, Config, Derivation, KeySlot, SEALED_CUTTER, WrappedKey};
use crate::format::cursor::Cursor;
use crate::format::pack::PackKind;
use crate::model::id::random_bytes;
use crate::model::{ChunkId, RepositoryId, SlotId, Timestamp, WriterId};
use crate::sys::map;

/// The master key: 32 random bytes that exist only in memory and wrapped in key slots; with those before it, if it was
/// changed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey {
    secret: [u8; 32],
    /// Those before it, the first one first.
    former: Vec<[u8; 32]>,
}

/// How often a master key can be changed: a recovery text holds all that there were.
pub const MAX_FORMER: usize = 3;

/// What a user unlocks a repository with.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub enum Credential {
    /// A passphrase: any bytes but none.
    Passphrase(Vec<u8>),
    /// The content of a key file: 32 bytes.
    KeyFile([u8; 32]),
}

impl Credential {
    /// Whether it is the same; takes the same time for all of one length.
    pub fn is(&self, other: &Credential) -> bool {
        match (self, other) {
            (Credential::Passphrase(a), Credential::Passphrase(b)) => constant_time::verify_slices_are_equal(a, b).is_ok(),
            (Credential::KeyFile(a), Credential::KeyFile(b)) => constant_time::verify_slices_are_equal(a, b).is_ok(),
            _ => false,
        }
    }
}

/// A key of one class of objects, from which each object's own key is derived with its salt.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClassKey {
    key: [u8; 32],
    #[zeroize(skip)]
    one_way: OneWay,
    /// The same of the master keys before, the newest first.
    #[zeroize(skip)]
    former: Arc<[ClassKey]>,
}

/// What a key that only writes holds: enough to seal for the repository's key, and to be told from others.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct WriterKey {
    /// Its name.
    #[zeroize(skip)]
    pub(crate) writer: WriterId,
    /// The repository's public key.
    pub(crate) public: [u8; 32],
    /// Its own secret, from which its keys are derived as the others are from the master key.
    pub(crate) secret: [u8; 32],
    /// The repository that it is for.
    #[zeroize(skip)]
    pub(crate) repository: RepositoryId,
    /// How it cuts.
    #[zeroize(skip)]
    pub(crate) chunker: ChunkerParameters,
}

/// Every key of an open repository.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Keys {
    data_id: [u8; 32],
    tree_id: [u8; 32],
    data_pack: ClassKey,
    tree_pack: ClassKey,
    config: [u8; 32],
    slot: [u8; 32],
    /// Seals index segments.
    pub index: ClassKey,
    /// Seals snapshots, sessions, marks.
    pub snapshot: ClassKey,
    /// What the secret gear table is made of.
    chunker: [u8; 32],
    /// Seals what that of another repository is made of.
    other_cutter: ClassKey,
    /// The writer whose keys these are, if they only write.
    #[zeroize(skip)]
    writer: Option<WriterId>,
    /// What opens what such writers have stored.
    #[zeroize(skip)]
    opener: Option<Arc<Opener>>,
    /// The keys of the master keys before, the newest first. They open what was sealed with them, and seal nothing.
    #[zeroize(skip)]
    former: Arc<[Keys]>,
}

impl MasterKey {
    /// A new one.
    pub(crate) fn generate() -> Result<Self> {
        random_bytes().map(Self::from_bytes)
    }

    /// A new one that takes the place of this.
    pub(crate) fn next(&self) -> Result<Self> {
        if self.former.len() >= MAX_FORMER {
            let text = format!(
                "the key of this repository was changed {MAX_FORMER} times, and a recovery text has no room for more keys: \
                 make a new repository, and yester copy what is to stay"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let mut former = Vec::with_capacity(self.former.len() + 1);
        former.extend_from_slice(&self.former);
        former.push(self.secret);
        Ok(MasterKey { secret: random_bytes()?, former })
    }

    /// A fixed one, for golden tests and fuzzing.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        MasterKey { secret: bytes, former: Vec::new() }
    }

    /// The one with these before it, the first one first.
    pub fn with_former(secret: [u8; 32], former: Vec<[u8; 32]>) -> Self {
        MasterKey { secret, former }
    }

    /// Derives the keys of all classes. What names chunks is made of the first master key for ever: with another, nothing
    /// that is stored would be found again. All that seals is made of the newest.
    pub fn keys(&self) -> Keys {
        let first = self.former.first().unwrap_or(&self.secret);
        let of = |secret: &[u8; 32], former: Arc<[Keys]>| {
            // A key that X25519 refuses, which none is, opens nothing of keys that only write.
            let opener = Opener::new(secret).ok().map(Arc::new);
            let one_way = |context| match &opener {
                Some(opener) => OneWay::Opens(opener.clone(), context),
                None => OneWay::None,
            };
            Keys::derive((secret, first), None, opener.clone(), &one_way, former)
        };
        let former = self.former.iter().rev().map(|secret| of(secret, [].into())).collect();
        of(&self.secret, former)
    }

    /// The key that only writes into `repository` and is named `writer`.
    pub fn writer(&self, writer: WriterId, repository: RepositoryId, chunker: ChunkerParameters) -> Result<WriterKey> {
        let opener = Opener::new(&self.secret)?;
        Ok(WriterKey { writer, public: opener.public(), secret: *opener.writer(writer), repository, chunker })
    }

    /// Wraps this key for `credential` in a new slot.
    pub fn wrap(
        &self,
        credential: &Credential,
        derivation: Derivation,
        created: Timestamp,
        label: Vec<u8>,
        slot: SlotId,
    ) -> Result<KeySlot> {
        let mut body = Zeroizing::new(Vec::with_capacity(48));
        body.extend_from_slice(&self.secret);
        // With room for the tag: growing would leave a copy behind.
        let mut former = Zeroizing::new(Vec::with_capacity(32 * self.former.len() + TAG));
        self.former.iter().for_each(|key| former.extend_from_slice(key));
        let (salt, key) = fresh_wrapping(credential, derivation)?;
        let sealed = WrappedKey::Master(wrapped(&key, &slot.0, body)?);
        if !self.former.is_empty() {
            key.seal(1, &former_bound(slot), &mut former)?;
        }
        let (commitment, former) = (key.commitment, former.to_vec());
        Ok(KeySlot { derivation, salt, commitment, wrapped: sealed, created, label, former })
    }

    /// Unwraps the key of `slot`; `None` when the credential is not this slot's.
    pub fn unwrap(slot: &KeySlot, credential: &Credential, id: SlotId) -> Result<Option<Self>> {
        Ok(match open_slot(slot, credential, id)? {
            Some(Unwrapped::Master(master)) => Some(master),
            _ => None,
        })
    }

    /// Whether it is the same key; takes the same time for all.
    pub(crate) fn is(&self, other: &MasterKey) -> bool {
        constant_time::verify_slices_are_equal(&self.secret, &other.secret).is_ok() && self.former == other.former
    }

    /// The key itself, for the recovery text and nothing else.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Those before it, for the recovery text and nothing else.
    pub(crate) fn expose_former(&self) -> &[[u8; 32]] {
        &self.former
    }
}

/// What was in a slot.
pub enum Unwrapped {
    /// The master key.
    Master(MasterKey),
    /// A key that only writes.
    Writer(WriterKey),
}

/// Opens a slot; `None` when the credential is not this slot's.
pub fn open_slot(slot: &KeySlot, credential: &Credential, id: SlotId) -> Result<Option<Unwrapped>> {
    let fits = matches!(
        (credential, slot.derivation),
        (Credential::Passphrase(_), Derivation::Passphrase { .. }) | (Credential::KeyFile(_), Derivation::KeyFile)
    );
    if !fits {
        return Ok(None);
    }
    let key = wrapping_key(credential, slot.derivation, &slot.salt)?;
    if constant_time::verify_slices_are_equal(&key.commitment, &slot.commitment).is_err() {
        return Ok(None);
    }
    let mut body = Zeroizing::new(slot.wrapped.bytes().to_vec());
    if key.open(0, &slot.wrapped.bound(id), &mut body).is_err() {
        return Ok(None);
    }
    let mut former = Zeroizing::new(slot.former.clone());
    if !former.is_empty() && key.open(1, &former_bound(id), &mut former).is_err() {
        return Ok(None);
    }
    let (former, _) = former.as_chunks::<32>();
    Ok(match slot.wrapped {
        WrappedKey::Master(_) => {
            body.first_chunk::<32>().map(|key| Unwrapped::Master(MasterKey::with_former(*key, former.to_vec())))
        }
        WrappedKey::Writer(_) => Some(Unwrapped::Writer(WriterKey::decode(&body, id)?)),
    })
}

impl WriterKey {
    /// The keys that it leads to.
    pub fn keys(&self) -> Keys {
        let recipient = Recipient { public: self.public, writer: self.writer };
        let own = (&self.secret, &self.secret);
        Keys::derive(own, Some(self.writer), None, &|_| OneWay::Seals(recipient.clone()), [].into())
    }

    /// Wraps it for `credential` in a new slot.
    pub(crate) fn wrap(
        &self,
        credential: &Credential,
        derivation: Derivation,
        created: Timestamp,
        label: Vec<u8>,
        slot: SlotId,
    ) -> Result<KeySlot> {
        let (salt, key) = fresh_wrapping(credential, derivation)?;
        let sealed = WrappedKey::Writer(wrapped(&key, &WrappedKey::writer_bound(slot), self.encode())?);
        let (commitment, former) = (key.commitment, Vec::new());
        Ok(KeySlot { derivation, salt, commitment, wrapped: sealed, created, label, former })
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        // With room for the tag: growing would leave a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(WrappedKey::WRITER));
        [&self.public[..], &self.secret, &self.repository.0].iter().for_each(|part| body.extend_from_slice(part));
        let ChunkerParameters { min, avg, max } = self.chunker;
        [min, avg, max].iter().for_each(|n| body.extend_from_slice(&n.to_le_bytes()));
        body
    }

    fn decode(body: &[u8], id: SlotId) -> Result<Self> {
        let mut cursor = Cursor::new(body, "a key slot");
        let (public, secret, repository) = (cursor.array()?, cursor.array()?, RepositoryId(cursor.array()?));
        let mut size = || cursor.array().map(u32::from_le_bytes);
        let chunker = ChunkerParameters { min: size()?, avg: size()?, max: size()? };
        cursor.end()?;
        chunker.validate()?;
        Ok(WriterKey { writer: id.writer(), public, secret, repository, chunker })
    }

    /// Whether it is the same key; takes the same time for all.
    pub(crate) fn is(&self, other: &WriterKey) -> bool {
        constant_time::verify_slices_are_equal(&self.encode(), &other.encode()).is_ok()
    }
}

/// BLAKE3's `derive_key`, which leaves the secret in no hasher.
pub(super) fn derive(context: &str, secret: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    let mut hash = hasher.update(secret).finalize();
    let key = *hash.as_bytes();
    hash.zeroize();
    hasher.zeroize();
    key
}

/// What the master keys before are sealed with in a slot.
fn former_bound(slot: SlotId) -> Vec<u8> {
    [&slot.0[..], &[2]].concat()
}

/// What wraps a key for `credential` in a new slot, and the salt that it is made of.
fn fresh_wrapping(credential: &Credential, derivation: Derivation) -> Result<([u8; 32], SealKey)> {
    let salt = random_bytes()?;
    Ok((salt, wrapping_key(credential, derivation, &salt)?))
}

/// The sealed `body`, which has room for the tag, so that growing leaves no copy behind.
fn wrapped<const N: usize>(key: &SealKey, bound: &[u8], mut body: Zeroizing<Vec<u8>>) -> Result<[u8; N]> {
    key.seal(0, bound, &mut body)?;
    body.first_chunk().copied().ok_or_else(|| Error::corrupt("a key slot is too short"))
}

fn wrapping_key(credential: &Credential, derivation: Derivation, salt: &[u8; 32]) -> Result<SealKey> {
    let mut secret = Zeroizing::new([0; 32]);
    match (credential, derivation) {
        (Credential::KeyFile(key), _) => *secret = *key,
        (Credential::Passphrase(passphrase), Derivation::Passphrase { memory, passes, lanes }) => {
            slow_hash(passphrase, salt, (memory, passes, lanes), &mut secret)?;
        }
        (Credential::Passphrase(_), Derivation::KeyFile) => {
            return Err(Error::new(ErrorKind::Key, "a passphrase does not open a key file's slot"));
        }
    }
    let class = ClassKey::from_bytes(derive("yester v1 key slot", &secret));
    SealKey::derive(&class, salt)
}

/// Argon2id with memory (KiB), passes and lanes. Its memory is asked for, not taken: a slot that wants more than there
/// is gives an error. It is overwritten at the end, since the last block is the hash.
fn slow_hash(passphrase: &[u8], salt: &[u8; 32], (memory, passes, lanes): (u32, u32, u32), out: &mut [u8; 32]) -> Result<()> {
    let failed = |e: argon2::Error| Error::new(ErrorKind::Key, format!("the key derivation failed: {e}"));
    let params = argon2::Params::new(memory, passes, lanes, Some(32)).map_err(failed)?;
    let mut blocks = Zeroizing::new(Vec::new());
    blocks.try_reserve_exact(params.block_count()).map_err(|_| {
        Error::new(
            ErrorKind::Io,
            format!("a key slot's passphrase needs {} MiB of memory, which are not to be had", memory >> 10),
        )
    })?;
    map::in_large_pages(blocks.spare_capacity_mut());
    blocks.resize(params.block_count(), argon2::Block::default());
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out, &mut *blocks)
        .map_err(failed)
}

impl ClassKey {
    /// A class key made of fixed bytes, for tests.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        ClassKey { key: bytes, one_way: OneWay::None, former: [].into() }
    }

    /// The same of the master keys before, the newest first.
    pub(super) fn former(&self) -> &[ClassKey] {
        &self.former
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.key
    }

    pub(super) fn one_way(&self) -> &OneWay {
        &self.one_way
    }

    /// The key by which the repository's key seals what is of a writer, when it rewrites that.
    pub fn of_writer(&self, writer: WriterId) -> Result<ClassKey> {
        match &self.one_way {
            OneWay::Opens(opener, context) => {
                let key = derive(context, &opener.writer(writer));
                Ok(ClassKey { key, one_way: OneWay::Seals(Recipient { public: opener.public(), writer }), former: [].into() })
            }
            OneWay::Seals(own) if own.writer == writer => Ok(self.clone()),
            _ => Err(Error::new(ErrorKind::Key, format!("nothing can be sealed for the writer {}", writer.short()))),
        }
    }

    /// The writer whose key it is, if it only writes.
    pub(crate) fn writer(&self) -> Option<WriterId> {
        if let OneWay::Seals(own) = &self.one_way { Some(own.writer) } else { None }
    }
}

/// The contexts of the keys of chunk ids.
const IDS: [&str; 2] = ["yester v1 chunk id of data", "yester v1 chunk id of trees"];

impl Keys {
    /// Derives the keys of all classes from a secret, and from the first one there was what cuts and names chunks.
    fn derive(
        (secret, first): (&[u8; 32], &[u8; 32]),
        writer: Option<WriterId>,
        opener: Option<Arc<Opener>>,
        one_way: &dyn Fn(&'static str) -> OneWay,
        former: Arc<[Keys]>,
    ) -> Keys {
        let class = |context, of: &dyn Fn(&Keys) -> &ClassKey| ClassKey {
            key: derive(context, secret),
            one_way: one_way(context),
            former: former.iter().map(|keys| of(keys).clone()).collect(),
        };
        let [data, trees] = IDS;
        Keys {
            data_id: derive(data, first),
            tree_id: derive(trees, first),
            data_pack: class("yester v1 packs of data", &|keys| &keys.data_pack),
            tree_pack: class("yester v1 packs of trees", &|keys| &keys.tree_pack),
            config: derive("yester v1 configuration", secret),
            slot: derive("yester v1 authentic key slots", secret),
            index: class("yester v1 index segments", &|keys| &keys.index),
            snapshot: class("yester v1 snapshots and sessions", &|keys| &keys.snapshot),
            chunker: derive("yester v1 gear table", first),
            other_cutter: ClassKey::from_bytes(derive("yester v1 cutter of another repository", first)),
            writer,
            opener,
            former,
        }
    }

    /// The keys of the master keys before, the newest first.
    pub(crate) fn former(&self) -> &[Keys] {
        &self.former
    }

    /// The writer whose keys these are, if they only write.
    pub fn writer(&self) -> Option<WriterId> {
        self.writer
    }

    /// The id of a chunk of `kind`. The two kinds have different keys, so that no file can pass for a tree.
    pub fn chunk_id(&self, kind: PackKind, plain: &[u8]) -> ChunkId {
        let key = match kind {
            PackKind::Data => &self.data_id,
            PackKind::Tree => &self.tree_id,
        };
        named(key, self.writer, plain)
    }

    /// The id of a chunk in a pack of `writer`, of one of the repository's own packs if that is `None`, if it is the
    /// right one. Which master key a writer's key was made of the pack does not say: it may have been sealed anew.
    pub(crate) fn chunk_id_of(
        &self,
        writer: Option<WriterId>,
        kind: PackKind,
        plain: &[u8],
        is_right: impl Fn(&ChunkId) -> bool,
    ) -> Option<ChunkId> {
        let Some(writer) = writer.filter(|_| self.writer.is_none() && self.opener.is_some()) else {
            return Some(self.chunk_id(kind, plain)).filter(is_right);
        };
        let openers = self.opener.iter().chain(self.former.iter().filter_map(|keys| keys.opener.as_ref()));
        openers.map(|opener| opener.chunk_id(writer, IDS[kind as usize - 1], plain)).find(is_right)
    }

    /// Whether this is the content of the chunk of this name, whoever made it: an id of a writer ends with its name.
    pub fn is_chunk(&self, kind: PackKind, id: &ChunkId, plain: &[u8]) -> bool {
        let writer = id.writer();
        let is_of = |writer| self.chunk_id_of(writer, kind, plain, |own| own == id).is_some();
        let Some(opener) = &self.opener else { return is_of(None) };
        if opener.seen.read().contains(&writer) {
            return is_of(Some(writer)) || is_of(None);
        }
        if is_of(None) {
            return true;
        }
        let theirs = is_of(Some(writer));
        if theirs {
            let mut seen = opener.seen.write();
            if !seen.contains(&writer) {
                seen.push(writer);
            }
        }
        theirs
    }

    /// The key that seals packs of `kind`.
    pub fn pack(&self, kind: PackKind) -> &ClassKey {
        match kind {
            PackKind::Data => &self.data_pack,
            PackKind::Tree => &self.tree_pack,
        }
    }

    /// What the gear table of the repository with this configuration is made of: its own, or that of another repository.
    pub(crate) fn cutter_secret(&self, config: &Config) -> Result<Zeroizing<[u8; 32]>> {
        let Some(sealed) = &config.cutter else { return Ok(Zeroizing::new(self.chunker)) };
        let mut body = Zeroizing::new(sealed.to_vec());
        let opened = self.cutter_key(config.repository)?.open(0, &config.repository.0, &mut body);
        opened.map_err(|e| e.context("the configuration: the cutter's secret"))?;
        let secret =
            body.first_chunk().copied().ok_or_else(|| Error::corrupt("the configuration: it lacks the cutter's secret"))?;
        Ok(Zeroizing::new(secret))
    }

    /// Seals the cutter's secret of another repository for the configuration of `repository`, which never changes it.
    pub(crate) fn seal_cutter(&self, repository: RepositoryId, secret: &[u8; 32]) -> Result<[u8; SEALED_CUTTER]> {
        // With room for the tag: growing would leave a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(SEALED_CUTTER));
        body.extend_from_slice(secret);
        self.cutter_key(repository)?.seal(0, &repository.0, &mut body)?;
        body.first_chunk().copied().ok_or_else(|| Error::corrupt("a sealed secret is too short"))
    }

    fn cutter_key(&self, repository: RepositoryId) -> Result<SealKey> {
        let mut salt = [0; 32];
        salt.iter_mut().zip(repository.0).for_each(|(to, from)| *to = from);
        SealKey::derive(&self.other_cutter, &salt)
    }

    /// What the key says of a configuration's fields.
    pub fn config_mac(&self, header: &[u8], fields: &[u8]) -> [u8; 32] {
        *blake3::Hasher::new_keyed(&self.config).update(header).update(fields).finalize().as_bytes()
    }

    /// What the key says of the fields of the key slot of this name.
    pub fn slot_mac(&self, header: &[u8], id: SlotId, fields: &[u8]) -> [u8; 32] {
        *blake3::Hasher::new_keyed(&self.slot).update(header).update(&id.0).update(fields).finalize().as_bytes()
    }

    /// Whether this key, or one before it, says so of the fields of the key slot of this name: how many changes ago.
    pub(crate) fn slot_age(&self, header: &[u8], id: SlotId, fields: &[u8], mac: &[u8; 32]) -> Option<usize> {
        let mut all = std::iter::once(self).chain(self.former.iter());
        all.position(|keys| constant_time::verify_slices_are_equal(&keys.slot_mac(header, id, fields), mac).is_ok())
    }
}

impl Opener {
    /// What a writer calls a chunk.
    fn chunk_id(&self, writer: WriterId, context: &str, plain: &[u8]) -> ChunkId {
        let key = Zeroizing::new(derive(context, &self.writer(writer)));
        named(&key, Some(writer), plain)
    }
}

/// The keyed hash of `plain`; where a writer made it, with its name at the end.
fn named(key: &[u8; 32], writer: Option<WriterId>, plain: &[u8]) -> ChunkId {
    let mut id = *blake3::keyed_hash(key, plain).as_bytes();
    if let Some(writer) = writer {
        id[ChunkId::LEN - WriterId::LEN..].copy_from_slice(&writer.0);
    }
    ChunkId(id)
}

impl std::fmt::Debug for WriterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterKey")
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cutter: Option<[u8; SEALED_CUTTER]>) -> Config {
        let (chunker, created) = (ChunkerParameters::DEFAULT, Timestamp::default());
        Config { repository: RepositoryId([3; 16]), created, chunker, cutter, mandatory: 0 }
    }

    #[test]
    fn a_sealed_cutter_stays_what_it_is() {
        let keys = MasterKey::from_bytes([1; 32]).keys();
        let sealed = keys.seal_cutter(RepositoryId([3; 16]), &[2; 32]).unwrap();
        assert_eq!(sealed.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), GOLDEN_CUTTER);
        assert_eq!(*keys.cutter_secret(&config(Some(sealed))).unwrap(), [2; 32]);
        assert_ne!(*keys.cutter_secret(&config(None)).unwrap(), [2; 32]);
    }

    /// Repositories have it: it can never change.
    const GOLDEN_CUTTER: &str =
        "9f06b7c898ee1ff3ba1cf37b0feae0ccb295c43ef8ad12f1b07f3e89b05cb9b4762035670cbbe28369091717c978748b";

    #[test]
    fn a_cutter_of_another_key_or_repository_does_not_open() {
        let keys = MasterKey::from_bytes([1; 32]).keys();
        let elsewhere = keys.seal_cutter(RepositoryId([4; 16]), &[2; 32]).unwrap();
        assert_eq!(keys.cutter_secret(&config(Some(elsewhere))).unwrap_err().kind(), ErrorKind::Corrupt);
        let other = MasterKey::from_bytes([9; 32]).keys().seal_cutter(RepositoryId([3; 16]), &[2; 32]).unwrap();
        assert!(keys.cutter_secret(&config(Some(other))).is_err());
    }
}
