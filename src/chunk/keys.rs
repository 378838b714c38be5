//! The keys of a repository: one random master key, everything else derived from it with BLAKE3.

use aws_lc_rs::constant_time;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::chunk::seal::SealKey;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{Derivation, KeySlot};
use crate::format::pack::PackKind;
use crate::model::{ChunkId, SlotId, Timestamp};

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
pub struct ClassKey([u8; 32]);

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
    pub chunker: [u8; 32],
}

impl MasterKey {
    /// A new one.
    pub(crate) fn generate() -> Result<Self> {
        random().map(MasterKey)
    }

    /// A fixed one, for golden tests and fuzzing.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        MasterKey(bytes)
    }

    /// Derives the keys of all classes.
    pub fn keys(&self) -> Keys {
        let derive = |context| derive(context, &self.0);
        Keys {
            data_id: derive("yester v1 chunk id of data"),
            tree_id: derive("yester v1 chunk id of trees"),
            data_pack: ClassKey(derive("yester v1 packs of data")),
            tree_pack: ClassKey(derive("yester v1 packs of trees")),
            config: derive("yester v1 configuration"),
            slot: derive("yester v1 authentic key slots"),
            index: ClassKey(derive("yester v1 index segments")),
            snapshot: ClassKey(derive("yester v1 snapshots and sessions")),
            chunker: derive("yester v1 gear table"),
        }
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
        let salt = random()?;
        let key = wrapping_key(credential, derivation, &salt)?;
        // With room for the tag: growing would leave a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(48));
        body.extend_from_slice(&self.0);
        key.seal(0, &slot.0, &mut body)?;
        let mut wrapped = [0; 48];
        wrapped.copy_from_slice(&body);
        Ok(KeySlot { derivation, salt, commitment: key.commitment, wrapped, created, label })
    }

    /// Unwraps the key of `slot`; `None` when the credential is not this slot's.
    pub fn unwrap(slot: &KeySlot, credential: &Credential, id: SlotId) -> Result<Option<Self>> {
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
        let mut body = Zeroizing::new(slot.wrapped.to_vec());
        let opened = key.open(0, &id.0, &mut body);
        Ok(opened.ok().and_then(|()| body.first_chunk::<32>().copied()).map(MasterKey))
    }

    /// Whether it is the same key; takes the same time for all.
    pub fn is(&self, other: &MasterKey) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// The key itself, for the recovery text and nothing else.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// BLAKE3's `derive_key`, which leaves the secret in no hasher.
fn derive(context: &str, secret: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    let mut hash = hasher.update(secret).finalize();
    let key = *hash.as_bytes();
    hash.zeroize();
    hasher.zeroize();
    key
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(ErrorKind::Io, format!("the operating system gave no random bytes: {e}")))?;
    Ok(bytes)
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
    let class = ClassKey(derive("yester v1 key slot", &secret));
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
    blocks.resize(params.block_count(), argon2::Block::default());
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out, &mut *blocks)
        .map_err(failed)
}

impl ClassKey {
    /// A class key made of fixed bytes, for tests.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        ClassKey(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Keys {
    /// The id of a chunk of `kind`. The two kinds have different keys, so that no file can pass for a tree.
    pub fn chunk_id(&self, kind: PackKind, plain: &[u8]) -> ChunkId {
        let key = match kind {
            PackKind::Data => &self.data_id,
            PackKind::Tree => &self.tree_id,
        };
        ChunkId(*blake3::keyed_hash(key, plain).as_bytes())
    }

    /// The key that seals packs of `kind`.
    pub fn pack(&self, kind: PackKind) -> &ClassKey {
        match kind {
            PackKind::Data => &self.data_pack,
            PackKind::Tree => &self.tree_pack,
        }
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
