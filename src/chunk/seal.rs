//! AES-256-GCM with a key for every object and a counter for every piece of it.
//!
//! A key is derived from a class key and a random 32-byte salt that is stored beside the ciphertext, so nonces are
//! counters and no limit on messages or bytes comes near. GCM does not commit to its key; the derivation gives a
//! second value that does, and it is checked before anything is opened.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use crate::chunk::keys::{ClassKey, derive};
use crate::chunk::one_way::{OneWay, only_writes};
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, CHECKSUM, HEADER, ONE_WAY, ObjectType};
use crate::model::id::random_bytes;
use crate::model::{RepositoryId, WriterId, writer_at_end};

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;

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
        Self::derive_bound(class, salt, &[])
    }

    /// Derives the key of the object with this salt that is `bound`: its header and its name. Nobody without the class
    /// key can make a commitment for another object, not even of the parts of those that he has seen.
    ///
    /// What a key that only writes has sealed says so in its header, and `bound` ends with the writer's name then.
    pub fn derive_bound(class: &ClassKey, salt: &[u8; 32], bound: &[u8]) -> Result<Self> {
        if let OneWay::Seals(_) = class.one_way() {
            return Err(only_writes("read"));
        }
        if !envelope::is_one_way(bound) {
            return Self::made(class.bytes(), &[salt, bound]);
        }
        let (OneWay::Opens(opener, context), Some(writer)) = (class.one_way(), writer_at_end(bound)) else {
            return Err(failed("it says that a key that only writes has sealed it"));
        };
        let class = Zeroizing::new(derive(context, &opener.writer(writer)));
        let agreed = opener.agreed(salt)?;
        Self::made(&class, &[salt, &*agreed, &opener.public(), bound])
    }

    /// The key of the object with this salt that is `bound` and commits so: made of the class's key, or of one that was
    /// changed since. With it, how many changes ago that was the key.
    pub(crate) fn committed(class: &ClassKey, salt: &[u8; 32], bound: &[u8], commitment: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut failed = Ok(None);
        for (age, class) in std::iter::once(class).chain(class.former()).enumerate() {
            match Self::derive_bound(class, salt, bound) {
                Ok(key) if key.commitment[..] == *commitment => return Ok(Some((key, age))),
                Err(e) if failed.is_ok() => failed = Err(e),
                _ => {}
            }
        }
        failed
    }

    /// The key of a new object that is `bound`, and its salt. `bound` is as for [`SealKey::derive_bound`].
    pub fn fresh(class: &ClassKey, bound: &[u8]) -> Result<([u8; 32], Self)> {
        match class.one_way() {
            OneWay::Seals(recipient) => {
                let (salt, agreed) = recipient.agree()?;
                Ok((salt, Self::made(class.bytes(), &[&salt, &*agreed, &recipient.public, bound])?))
            }
            _ => {
                let salt = random_bytes()?;
                Ok((salt, Self::derive_bound(class, &salt, bound)?))
            }
        }
    }

    fn made(class: &[u8; 32], parts: &[&[u8]]) -> Result<Self> {
        let mut out = Zeroizing::new([0; 48]);
        let mut hasher = blake3::Hasher::new_keyed(class);
        for part in parts {
            hasher.update(part);
        }
        let mut reader = hasher.finalize_xof();
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

/// Makes a whole small object: header, salt, commitment, sealed body, checksum. Header and `name` (the id under which
/// the object is stored) are bound into key, commitment and tag, so that no object can stand in for another.
pub fn seal_object(kind: ObjectType, repository: RepositoryId, name: &[u8], class: &ClassKey, plain: &[u8]) -> Result<Vec<u8>> {
    let flags = if class.writer().is_some() { ONE_WAY } else { 0 };
    if flags != 0 && (!kind.may_only_write() || writer_at_end(name) != class.writer()) {
        return Err(only_writes("make this object"));
    }
    let header = envelope::header_with(kind, repository, flags);
    let bound = bound(&header, name);
    let (salt, key) = SealKey::fresh(class, &bound)?;
    let mut sealed = plain.to_vec();
    key.seal(0, &bound, &mut sealed)?;
    let mut body = Vec::with_capacity(48 + sealed.len());
    body.extend_from_slice(&salt);
    body.extend_from_slice(&key.commitment);
    body.extend_from_slice(&sealed);
    Ok(envelope::wrap_with(&header, &body))
}

/// What the bytes of a small object show of who made it.
#[derive(Debug)]
pub(crate) enum Judged {
    /// It is what somebody with the key stored under this name: its type, its writer if that has a key that only writes,
    /// and its plain body.
    Sound(ObjectType, Option<WriterId>, Vec<u8>),
    /// Somebody with the key made it, with a newer program: its writer, if that has a key that only writes. It must be left
    /// alone.
    Newer(Error, Option<WriterId>),
    /// Somebody with the key made it under this name, and it is damaged: what it was, and how it is now.
    Damaged(ObjectType, Error),
    /// Nobody with the key made it, or so much of it is damaged that this cannot be told any more.
    MadeUp(Error),
}

/// Judges the bytes that are stored under `name`, which may be of any of `kinds`. The commitment tells who made them,
/// whatever version they claim: header, salt and commitment stand at the same places in every version, and the
/// commitment is of the header as it stands. `what` names the object in errors.
pub(crate) fn judge_object(
    kinds: &[ObjectType],
    repository: RepositoryId,
    name: &[u8],
    class: &ClassKey,
    object: &[u8],
    what: &'static str,
) -> Result<Judged> {
    let kind = kinds.first().copied().unwrap_or(ObjectType::Snapshot);
    let Some((found, rest)) = object.split_first_chunk::<HEADER>() else {
        return Ok(Judged::MadeUp(Error::corrupt(format!("{what}: {} bytes are too few for an object", object.len()))));
    };
    let (Some((salt, rest)), true) = (rest.split_first_chunk::<32>(), object.len() >= SMALLEST) else {
        return Ok(Judged::MadeUp(Error::corrupt(format!("{what}: {} bytes are too few for a sealed object", object.len()))));
    };
    let (commitment, rest) = rest.split_first_chunk::<16>().unwrap_or((&[0; 16], rest));
    // The flag of a key that only writes may be what is damaged.
    let said = found[9] & ONE_WAY;
    for (kind, flags) in [said, said ^ ONE_WAY].into_iter().flat_map(|flags| kinds.iter().map(move |kind| (kind, flags))) {
        if flags != 0 && !kind.may_only_write() {
            continue;
        }
        let bound = bound(&envelope::header_with(*kind, repository, flags), name);
        let Some(key) = matching(class, salt, &bound, commitment)? else { continue };
        let opened = envelope::unwrap(object, *kind, what).and_then(|_| open(&key, &bound, rest, what));
        return Ok(match opened {
            Ok(plain) if flags == said => Judged::Sound(*kind, writer_at_end(name).filter(|_| flags != 0), plain),
            Ok(_) => Judged::Damaged(*kind, Error::corrupt(format!("{what}: its header was changed"))),
            Err(e) => Judged::Damaged(*kind, e.with_kind(ErrorKind::Corrupt)),
        });
    }
    // Of a later version, too, no such key makes what takes something away.
    for kind in kinds.iter().filter(|kind| said == 0 || kind.may_only_write()) {
        if let Err(e) = envelope::check_header(object, *kind, what)
            && e.kind() == ErrorKind::Unsupported
            && matching(class, salt, &self::bound(found, name), commitment)?.is_some()
        {
            return Ok(Judged::Newer(e, writer_at_end(name).filter(|_| said != 0)));
        }
    }
    Ok(Judged::MadeUp(stranger(kinds, kind, repository, object, what)))
}

/// The key that commits so, if that is the one of this salt and what it is bound to.
fn matching(class: &ClassKey, salt: &[u8; 32], bound: &[u8], commitment: &[u8; 16]) -> Result<Option<SealKey>> {
    match SealKey::committed(class, salt, bound, commitment) {
        // A salt that is no public key.
        Err(e) if e.kind() == ErrorKind::Corrupt => Ok(None),
        found => found.map(|found| found.map(|(key, _)| key)),
    }
}

/// What is wrong with an object whose commitment nobody with the key made.
fn stranger(kinds: &[ObjectType], kind: ObjectType, repository: RepositoryId, object: &[u8], what: &'static str) -> Error {
    let typed = kinds.iter().copied().find(|kind| object.get(8) == Some(&(*kind as u8))).unwrap_or(kind);
    match envelope::unwrap(object, typed, what) {
        Ok((found, _)) if found != repository => {
            Error::corrupt(format!("{what}: it belongs to repository {}, not to this one", found.short()))
        }
        Err(e) if e.kind() == ErrorKind::Corrupt => e,
        _ => Error::corrupt(format!("{what}: it was not sealed under this name with the repository's key")),
    }
}

/// Opens what [`seal_object`] made; `what` names it in errors. What is not authentic is damage, whatever version it
/// claims.
pub fn open_object(
    kind: ObjectType,
    repository: RepositoryId,
    name: &[u8],
    class: &ClassKey,
    object: &[u8],
    what: &'static str,
) -> Result<Vec<u8>> {
    match judge_object(&[kind], repository, name, class, object, what)? {
        Judged::Sound(.., plain) => Ok(plain),
        Judged::Newer(e, _) | Judged::Damaged(_, e) | Judged::MadeUp(e) => Err(e),
    }
}

/// Whether an object that begins with `start` was made with the key under this name, as its commitment tells.
pub(crate) fn is_ours(kind: ObjectType, repository: RepositoryId, name: &[u8], class: &ClassKey, start: &[u8]) -> Result<bool> {
    let parts = start.get(HEADER..).and_then(|rest| rest.split_first_chunk::<32>());
    let Some((salt, rest)) = parts else { return Ok(false) };
    let flags = start.get(9).copied().unwrap_or_default() & if kind.may_only_write() { ONE_WAY } else { 0 };
    let Some(commitment) = rest.first_chunk::<16>() else { return Ok(false) };
    let bound = bound(&envelope::header_with(kind, repository, flags), name);
    Ok(SealKey::committed(class, salt, &bound, commitment)?.is_some())
}

fn open(key: &SealKey, bound: &[u8], rest: &[u8], what: &'static str) -> Result<Vec<u8>> {
    let (sealed, _) = rest.split_last_chunk::<CHECKSUM>().ok_or_else(|| failed("it is too short"))?;
    let mut plain = sealed.to_vec();
    key.open(0, bound, &mut plain).map_err(|e| e.context(what))?;
    Ok(plain)
}

/// Bytes of a sealed object with nothing in it.
pub(crate) const SMALLEST: usize = HEADER + 32 + 16 + TAG + CHECKSUM;

fn bound(header: &[u8; HEADER], name: &[u8]) -> Vec<u8> {
    [&header[..], name].concat()
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

    #[test]
    fn a_writer_cannot_make_what_takes_something_away() {
        let (id, master) = (RepositoryId([1; 16]), crate::chunk::keys::MasterKey::from_bytes([3; 32]));
        let (writer, name) = (WriterId([7; 8]), [7; 32]);
        let chunker = crate::format::config::ChunkerParameters::DEFAULT;
        let own = master.writer(writer, id, chunker).unwrap().keys().snapshot.clone();
        // As it makes a snapshot, whatever type it claims: nothing of this program's own checks is in the way.
        for kind in [ObjectType::Forgotten, ObjectType::Condemned, ObjectType::Removed, ObjectType::Annotation, ObjectType::Run] {
            let header = envelope::header_with(kind, id, ONE_WAY);
            let bound = bound(&header, &name);
            let (salt, key) = SealKey::fresh(&own, &bound).unwrap();
            let mut sealed = b"forged".to_vec();
            key.seal(0, &bound, &mut sealed).unwrap();
            let object = envelope::wrap_with(&header, &[&salt[..], &key.commitment, &sealed].concat());
            let judged = judge_object(&[kind], id, &name, &master.keys().snapshot, &object, "t").unwrap();
            match kind {
                ObjectType::Run => assert!(matches!(judged, Judged::Sound(_, Some(by), _) if by == writer), "{judged:?}"),
                _ => assert!(matches!(judged, Judged::MadeUp(_)), "{kind:?}: {judged:?}"),
            }
        }
        // The flag that was lost, or is too much, is damage, and no reason to take it for somebody else's.
        for class in [own, master.keys().snapshot.clone()] {
            let object = seal_object(ObjectType::Session, id, &name, &class, b"x").unwrap();
            let mut flipped = object[..object.len() - CHECKSUM].to_vec();
            flipped[9] ^= ONE_WAY;
            let sum = *blake3::hash(&flipped).as_bytes();
            let flipped = [&flipped[..], &sum].concat();
            let judged = judge_object(&[ObjectType::Session], id, &name, &master.keys().snapshot, &flipped, "t").unwrap();
            assert!(matches!(judged, Judged::Damaged(ObjectType::Session, _)), "{judged:?}");
        }
    }

    #[test]
    fn what_was_made_with_the_key_is_told_from_what_was_not() {
        let (id, class) = (RepositoryId([1; 16]), ClassKey::from_bytes([3; 32]));
        let kinds = [ObjectType::Snapshot, ObjectType::Fence];
        let judge = |object: &[u8], name: &[u8]| judge_object(&kinds, id, name, &class, object, "t").unwrap();
        let rewrap = |mut object: Vec<u8>, change: &dyn Fn(&mut Vec<u8>)| {
            object.truncate(object.len() - CHECKSUM);
            change(&mut object);
            let sum = *blake3::hash(&object).as_bytes();
            [&object[..], &sum].concat()
        };
        let object = seal_object(ObjectType::Fence, id, b"name", &class, b"secret").unwrap();
        assert!(matches!(judge(&object, b"name"), Judged::Sound(ObjectType::Fence, None, plain) if plain == b"secret"));
        // Not a byte of it can be taken over to another name.
        assert!(matches!(judge(&object, b"nam2"), Judged::MadeUp(_)));
        for at in 0..object.len() {
            let mut bad = object.clone();
            bad[at] ^= 1;
            let commitment = HEADER..HEADER + 48;
            match judge(&bad, b"name") {
                Judged::MadeUp(_) => assert!(commitment.contains(&at), "byte {at}"),
                Judged::Damaged(kind, _) => assert!(kind == ObjectType::Fence && !commitment.contains(&at), "byte {at}"),
                other => panic!("byte {at}: {other:?}"),
            }
        }
        // A newer version counts only if it is authentic.
        let claimed = rewrap(object.clone(), &|o| o[10] = 2);
        assert!(matches!(judge(&claimed, b"name"), Judged::Damaged(..)));
        let garbage = rewrap(object.clone(), &|o| (o[10], o[40]) = (2, !o[40]));
        let Judged::MadeUp(e) = judge(&garbage, b"name") else { panic!("garbage was believed") };
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        let newer = rewrap(object, &|o| {
            o[10] = 2;
            let header: [u8; HEADER] = o[..HEADER].try_into().unwrap();
            let salt: [u8; 32] = o[HEADER..HEADER + 32].try_into().unwrap();
            let key = SealKey::derive_bound(&class, &salt, &bound(&header, b"name")).unwrap();
            o[HEADER + 32..HEADER + 48].copy_from_slice(&key.commitment);
        });
        let Judged::Newer(e, None) = judge(&newer, b"name") else { panic!("a newer program's object was not known") };
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        for len in 0..SMALLEST + 1 {
            assert!(matches!(judge(&vec![7; len], b"name"), Judged::MadeUp(_)));
        }
    }
}
