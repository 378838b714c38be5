//! How restic seals: AES-256 in counter mode, then Poly1305-AES over the ciphertext.
//!
//! ```text
//! nonce (16) │ ciphertext │ MAC (16)
//! ```

use aws_lc_rs::cipher::{AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time;
use aws_lc_rs::iv::FixedLength;
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a nonce, and of a MAC.
const BLOCK: usize = 16;

/// What sealing adds to the plain bytes.
pub(super) const OVERHEAD: usize = 2 * BLOCK;

/// A key of a repository, or of one of its passwords.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct ResticKey {
    /// Encrypts.
    pub(super) encrypt: [u8; 32],
    /// Makes the second half of a MAC's key.
    pub(super) k: [u8; 16],
    /// The first half of it.
    pub(super) r: [u8; 16],
}

impl ResticKey {
    /// The key that scrypt made: 64 bytes.
    pub(super) fn of(bytes: &[u8; 64]) -> Self {
        let mut key = ResticKey { encrypt: [0; 32], k: [0; 16], r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.k.copy_from_slice(&bytes[32..48]);
        key.r.copy_from_slice(&bytes[48..]);
        key
    }

    /// The plain bytes of what was sealed with this key; `None` for anything else.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<BLOCK>()?;
        let (text, mac) = rest.split_last_chunk::<BLOCK>()?;
        constant_time::verify_slices_are_equal(&self.mac(nonce, text)?, mac).ok()?;
        let mut plain = text.to_vec();
        let key = DecryptingKey::ctr(UnboundCipherKey::new(&AES_256, &self.encrypt).ok()?).ok()?;
        key.decrypt(&mut plain, DecryptionContext::Iv128(FixedLength::from(nonce))).ok()?;
        Some(plain)
    }

    fn mac(&self, nonce: &[u8; BLOCK], text: &[u8]) -> Option<[u8; BLOCK]> {
        // The first block of the counter's key stream is the nonce encrypted.
        let mut pad = [0; BLOCK];
        let key = EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &self.k).ok()?).ok()?;
        key.less_safe_encrypt(&mut pad, EncryptionContext::Iv128(FixedLength::from(nonce))).ok()?;
        let mut one_time = [0; 2 * BLOCK];
        one_time[..BLOCK].copy_from_slice(&self.r);
        one_time[BLOCK..].copy_from_slice(&pad);
        Some(Poly1305::new(&one_time.into()).compute_unpadded(text).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        crate::model::id::from_hex(text).expect("hexadecimal digits")
    }

    /// The test vectors of Poly1305-AES (Bernstein, 2005), appendix B.
    #[test]
    fn macs_are_those_of_the_paper() {
        let key = ResticKey {
            encrypt: [0; 32],
            k: bytes("ec074c835580741701425b623235add6"),
            r: bytes("851fc40c3467ac0be05cc20404f3f700"),
        };
        let mac = key.mac(&bytes("fb447350c4e868c52ac3275cf9d4327e"), &bytes::<2>("f3f6")).expect("a MAC");
        assert_eq!(mac, bytes("f4c633c3044fc145f84f335cb81953de"));
        assert!(key.open(&[0; 40]).is_none() && key.open(&[0; 3]).is_none());
    }
}
