//! AES-256-GCM with a key for every object and a counter for every piece of it.
//!
//! A key is derived from a class key and a random 32-byte salt that is stored beside the ciphertext, so nonces are
//! counters and no limit on messages or bytes comes near. GCM does not commit to its key; the derivation gives a
//! second value that does, and it is checked before anything is opened.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use crate::chunk::keys::ClassKey;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, HEADER, ObjectType};
use crate::model::RepositoryId;

/// Bytes that sealing adds.
pub const TAG: usize = 16;

/// The key of one object.
pub struct SealKey {
    key: LessSafeKey,
    /// What this key commits to.
    pub commitment: [u8; 16],
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

fn failed(what: &str) -> Error {
    Error::corrupt(what)
}

impl SealKey {
    /// Derives the key of the object with this salt.
    pub fn derive(class: &ClassKey, salt: &[u8; 32]) -> Result<Self> {
        let mut out = Zeroizing::new([0; 48]);
        let mut hasher = blake3::Hasher::new_keyed(class.bytes());
        let mut reader = hasher.update(salt).finalize_xof();
        reader.fill(&mut *out);
        reader.zeroize();
        hasher.zeroize();
        let key =
            UnboundKey::new(&AES_256_GCM, &out[..32]).map_err(|_| Error::new(ErrorKind::Key, "AES-256-GCM refused a key"))?;
        let mut commitment = [0; 16];
        commitment.copy_from_slice(&out[32..]);
        Ok(SealKey { key: LessSafeKey::new(key), commitment })
    }

    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `data` in place and appends the tag. `counter` must not be used twice.
    pub fn seal(&self, counter: u64, aad: &[u8], data: &mut Vec<u8>) -> Result<()> {
        self.key.seal_in_place_append_tag(Self::nonce(counter), Aad::from(aad), data).map_err(|_| failed("sealing failed"))
    }

    /// Opens `data` in place and removes the tag.
    pub fn open(&self, counter: u64, aad: &[u8], data: &mut Vec<u8>) -> Result<()> {
        let len = self
            .key
            .open_in_place(Self::nonce(counter), Aad::from(aad), data)
            .map_err(|_| failed("its authentication tag does not match"))?
            .len();
        data.truncate(len);
        Ok(())
    }

    /// Opens `sealed` into `out`, whose content is replaced.
    pub fn open_to(&self, counter: u64, aad: &[u8], sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (data, tag) = sealed.split_last_chunk::<TAG>().ok_or_else(|| failed("it is shorter than its authentication tag"))?;
        out.clear();
        out.resize(data.len(), 0);
        self.key
            .open_separate_gather(Self::nonce(counter), Aad::from(aad), data, tag, out)
            .map_err(|_| failed("its authentication tag does not match"))
    }
}

/// Makes a whole small object: header, salt, commitment, sealed body, checksum. `name` is bound into the tag (the id
/// under which the object is stored), so that no object can stand in for another.
pub fn seal_object(kind: ObjectType, repository: RepositoryId, name: &[u8], class: &ClassKey, plain: &[u8]) -> Result<Vec<u8>> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt)
        .map_err(|e| Error::new(ErrorKind::Io, format!("the operating system gave no random bytes: {e}")))?;
    let key = SealKey::derive(class, &salt)?;
    let mut sealed = plain.to_vec();
    key.seal(0, &object_aad(kind, repository, name), &mut sealed)?;
    let mut body = Vec::with_capacity(48 + sealed.len());
    body.extend_from_slice(&salt);
    body.extend_from_slice(&key.commitment);
    body.extend_from_slice(&sealed);
    Ok(envelope::wrap(kind, repository, &body))
}

/// Opens what [`seal_object`] made; `what` names it in errors.
pub fn open_object(
    kind: ObjectType,
    repository: RepositoryId,
    name: &[u8],
    class: &ClassKey,
    object: &[u8],
    what: &'static str,
) -> Result<Vec<u8>> {
    let (found, body) = envelope::unwrap(object, kind, what)?;
    if found != repository {
        return Err(Error::corrupt(format!("{what}: it belongs to repository {}, not to this one", found.short())));
    }
    let Some((salt, rest)) = body.split_first_chunk::<32>() else {
        return Err(Error::corrupt(format!("{what}: it is too short")));
    };
    let Some((commitment, sealed)) = rest.split_first_chunk::<16>() else {
        return Err(Error::corrupt(format!("{what}: it is too short")));
    };
    let key = SealKey::derive(class, salt)?;
    if key.commitment != *commitment {
        return Err(Error::corrupt(format!("{what}: it was sealed with another key")));
    }
    let mut plain = sealed.to_vec();
    key.open(0, &object_aad(kind, repository, name), &mut plain).map_err(|e| e.context(what))?;
    Ok(plain)
}

fn object_aad(kind: ObjectType, repository: RepositoryId, name: &[u8]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(HEADER + name.len());
    aad.extend_from_slice(&envelope::header(kind, repository));
    aad.extend_from_slice(name);
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_opens_only_under_its_own_type_name_key_and_repository() {
        let (id, other) = (RepositoryId([1; 16]), RepositoryId([2; 16]));
        let class = ClassKey::from_bytes([3; 32]);
        let object = seal_object(ObjectType::Snapshot, id, b"name", &class, b"secret").expect("sealing");
        let open = |kind, id, name: &[u8], key: &ClassKey| open_object(kind, id, name, key, &object, "t");
        assert_eq!(open(ObjectType::Snapshot, id, b"name", &class).ok().as_deref(), Some(&b"secret"[..]));
        assert!(open(ObjectType::Session, id, b"name", &class).is_err());
        assert!(open(ObjectType::Snapshot, other, b"name", &class).is_err());
        assert!(open(ObjectType::Snapshot, id, b"nam2", &class).is_err());
        assert!(open(ObjectType::Snapshot, id, b"name", &ClassKey::from_bytes([4; 32])).is_err());
        assert!(!object.windows(6).any(|w| w == b"secret"));
    }
}
