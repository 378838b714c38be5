//! Sealing for somebody else: what a key that only writes seals, the repository's key opens, and nobody else does.
//!
//! Every object has an X25519 key pair of its own; the private half is forgotten when the object's key is made. The public
//! half is the object's salt. Both go into the object's key: what the pair agrees on with the repository's pair, so that
//! nobody but the two can know it, and a secret of the writer, so that nobody else can pass for it.

use std::sync::Arc;

use aws_lc_rs::agreement::{EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519, agree, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use parking_lot::RwLock;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::chunk::keys::derive;
use crate::error::{Error, ErrorKind, Result};
use crate::model::WriterId;

/// What opens the objects of all writers of a repository: made of the master key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Opener {
    /// The repository's private key; it is overwritten when it is dropped.
    #[zeroize(skip)]
    private: PrivateKey,
    public: [u8; 32],
    writers: [u8; 32],
    /// Writers of which something was seen that is right: what is of them is looked at first as theirs.
    #[zeroize(skip)]
    pub(super) seen: RwLock<Vec<WriterId>>,
}

/// What seals for that.
#[derive(Clone)]
pub(super) struct Recipient {
    /// The repository's public key.
    pub(super) public: [u8; 32],
    /// Who seals.
    pub(super) writer: WriterId,
}

/// How a class key deals with what keys that only write have sealed.
#[derive(Clone)]
pub(super) enum OneWay {
    /// Not at all: the key of a slot, or of a test.
    None,
    /// It opens it; the text is the class's context.
    Opens(Arc<Opener>, &'static str),
    /// It is such a key.
    Seals(Recipient),
}

impl Opener {
    pub(super) fn new(master: &[u8; 32]) -> Result<Self> {
        let private = Zeroizing::new(derive("yester v1 private key", master));
        let private = PrivateKey::from_private_key(&X25519, &*private).map_err(|_| refused())?;
        let mut public = [0; 32];
        public.copy_from_slice(private.compute_public_key().map_err(|_| refused())?.as_ref());
        Ok(Opener { private, public, writers: derive("yester v1 keys that only write", master), seen: RwLock::default() })
    }

    /// The repository's public key.
    pub(super) fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The secret of a writer.
    pub(super) fn writer(&self, writer: WriterId) -> Zeroizing<[u8; 32]> {
        let mut hash = blake3::keyed_hash(&self.writers, &writer.0);
        let secret = Zeroizing::new(*hash.as_bytes());
        hash.zeroize();
        secret
    }

    /// What the object with this salt was agreed on. A salt that is no public key is damage.
    pub(super) fn agreed(&self, salt: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>> {
        let wrong = || Error::corrupt("its salt is no public key");
        agree(&self.private, UnparsedPublicKey::new(&X25519, salt), wrong(), |shared| taken(shared).ok_or_else(wrong))
    }
}

impl Recipient {
    /// A new salt, and what it agrees on.
    pub(super) fn agree(&self) -> Result<([u8; 32], Zeroizing<[u8; 32]>)> {
        let key = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| refused())?;
        let mut salt = [0; 32];
        salt.copy_from_slice(key.compute_public_key().map_err(|_| refused())?.as_ref());
        let shared =
            agree_ephemeral(key, UnparsedPublicKey::new(&X25519, &self.public), refused(), |s| taken(s).ok_or_else(refused))?;
        Ok((salt, shared))
    }
}

fn taken(shared: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    shared.first_chunk().map(|shared| Zeroizing::new(*shared))
}

fn refused() -> Error {
    Error::new(ErrorKind::Key, "X25519 refused a key")
}

/// The error of whoever asks a key that only writes for what it cannot do.
pub fn only_writes(what: &str) -> Error {
    Error::new(ErrorKind::Key, format!("this key only writes: it cannot {what}; use a full key"))
}
