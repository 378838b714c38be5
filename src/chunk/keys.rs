//! The keys of a repository: one random master key, everything else derived from it with BLAKE3.

use std::sync::Arc;

use aws_lc_rs::constant_time;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::chunk::one_way::{OneWay, Opener, Recipient};
use crate::chunk::seal::SealKey;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{ChunkerParameters, Config, Derivation, KeySlot, SEALED_CUTTER, WrappedKey};
use crate::format::cursor::Cursor;
use crate::format::pack::PackKind;
use crate::model::id::random_bytes;
use crate::model::{ChunkId, RepositoryId, SlotId, Timestamp, WriterId};
use crate::sys::map;

/// The master key: 32 random bytes that exist only in memory and wrapped in key slots.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

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
}

impl MasterKey {
    /// A new one.
    pub(crate) fn generate() -> Result<Self> {
        random_bytes().map(MasterKey)
    }

    /// A fixed one, for golden tests and fuzzing.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        MasterKey(bytes)
    }

    /// Derives the keys of all classes.
    pub fn keys(&self) -> Keys {
        // A key that X25519 refuses, which none is, opens nothing of keys that only write.
        let opener = Opener::new(&self.0).ok().map(Arc::new);
        Keys::derive(&self.0, None, opener.clone(), &|context| match &opener {
            Some(opener) => OneWay::Opens(opener.clone(), context),
            None => OneWay::None,
        })
    }

    /// The key that only writes into `repository` and is named `writer`.
    pub fn writer(&self, writer: WriterId, repository: RepositoryId, chunker: ChunkerParameters) -> Result<WriterKey> {
        let opener = Opener::new(&self.0)?;
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
        body.extend_from_slice(&self.0);
        let (salt, commitment, sealed) = wrapped((credential, derivation), &slot.0, body)?;
        Ok(KeySlot { derivation, salt, commitment, wrapped: WrappedKey::Master(sealed), created, label })
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
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// The key itself, for the recovery text and nothing else.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
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
    Ok(match slot.wrapped {
        WrappedKey::Master(_) => body.first_chunk::<32>().copied().map(|key| Unwrapped::Master(MasterKey(key))),
        WrappedKey::Writer(_) => Some(Unwrapped::Writer(WriterKey::decode(&body, id)?)),
    })
}

impl WriterKey {
    /// The keys that it leads to.
    pub fn keys(&self) -> Keys {
        let recipient = Recipient { public: self.public, writer: self.writer };
        Keys::derive(&self.secret, Some(self.writer), None, &|_| OneWay::Seals(recipient.clone()))
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
        let (salt, commitment, sealed) = wrapped((credential, derivation), &WrappedKey::writer_bound(slot), self.encode())?;
        Ok(KeySlot { derivation, salt, commitment, wrapped: WrappedKey::Writer(sealed), created, label })
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

/// Wraps a key for `credential`: `body`, which has room for the tag, so that growing leaves no copy behind. Answers what
/// the slot begins with, and the sealed key.
fn wrapped<const N: usize>(
    (credential, derivation): (&Credential, Derivation),
    bound: &[u8],
    mut body: Zeroizing<Vec<u8>>,
) -> Result<([u8; 32], [u8; 16], [u8; N])> {
    let salt = random_bytes()?;
    let key = wrapping_key(credential, derivation, &salt)?;
    key.seal(0, bound, &mut body)?;
    let sealed = body.first_chunk().copied().ok_or_else(|| Error::corrupt("a key slot is too short"))?;
    Ok((salt, key.commitment, sealed))
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
        ClassKey { key: bytes, one_way: OneWay::None }
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
                Ok(ClassKey { key, one_way: OneWay::Seals(Recipient { public: opener.public(), writer }) })
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
    /// Derives the keys of all classes from a secret.
    fn derive(
        secret: &[u8; 32],
        writer: Option<WriterId>,
        opener: Option<Arc<Opener>>,
        one_way: &dyn Fn(&'static str) -> OneWay,
    ) -> Keys {
        let class = |context| ClassKey { key: derive(context, secret), one_way: one_way(context) };
        let derive = |context| derive(context, secret);
        let [data, trees] = IDS;
        Keys {
            data_id: derive(data),
            tree_id: derive(trees),
            data_pack: class("yester v1 packs of data"),
            tree_pack: class("yester v1 packs of trees"),
            config: derive("yester v1 configuration"),
            slot: derive("yester v1 authentic key slots"),
            index: class("yester v1 index segments"),
            snapshot: class("yester v1 snapshots and sessions"),
            chunker: derive("yester v1 gear table"),
            other_cutter: ClassKey::from_bytes(derive("yester v1 cutter of another repository")),
            writer,
            opener,
        }
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

    /// The id of a chunk in a pack of `writer`; of one of the repository's own packs, if it is `None`.
    pub(crate) fn chunk_id_of(&self, writer: Option<WriterId>, kind: PackKind, plain: &[u8]) -> ChunkId {
        match (writer, &self.opener) {
            (Some(writer), Some(opener)) if self.writer.is_none() => {
                let key = Zeroizing::new(derive(IDS[kind as usize - 1], &opener.writer(writer)));
                named(&key, Some(writer), plain)
            }
            _ => self.chunk_id(kind, plain),
        }
    }

    /// Whether this is the content of the chunk of this name, whoever made it: an id of a writer ends with its name.
    pub fn is_chunk(&self, kind: PackKind, id: &ChunkId, plain: &[u8]) -> bool {
        let writer = id.writer();
        let is_of = |writer| self.chunk_id_of(writer, kind, plain) == *id;
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
