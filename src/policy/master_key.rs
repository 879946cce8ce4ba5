//! The master key: everything secret at rest is sealed under it, every refresh MAC key and the key that seals the audit
//! are derived from it.
//!
//! Pure: where the key comes from is the store's business, nonces are arguments. Derivation is HKDF-SHA256 (RFC 5869),
//! sealing AES-256-GCM (RFC 5116) with purpose and row id as associated data, so that a sealed value moved to another
//! row or used for another purpose does not open.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use secrecy::{ExposeSecret, SecretBox, SecretSlice, zeroize::Zeroize};

/// Bytes of a master key.
pub const MASTER_KEY_LEN: usize = 32;

/// First byte of a sealed value: what the rest looks like.
const VERSION: u8 = 1;
/// Version and nonce.
const HEADER_LEN: usize = 1 + NONCE_LEN;
/// Names this use of the key among the derived ones.
const SEALING: &str = "portcullis/seal/v1";

/// The key above all others: 32 bytes, zeroed when dropped, never printed.
#[derive(Debug)]
pub struct MasterKey(SecretBox<[u8; MASTER_KEY_LEN]>);

/// A master key that is not 32 bytes long.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a master key is {MASTER_KEY_LEN} bytes long, not {0}")]
pub struct KeyLength(pub usize);

/// Why a sealed value did not open. Which cause it was is not told: authenticated encryption does not know either.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than its header, or of a version this gateway does not know.
    #[error("the sealed value has an unknown form")]
    Form,
    /// Another key, another row, another purpose, or a changed byte.
    #[error("the sealed value does not open: wrong master key, or the row was changed")]
    Authentication,
}

impl MasterKey {
    /// Takes the key's bytes; the caller's copy is zeroed.
    #[must_use]
    pub fn new(bytes: &mut [u8; MASTER_KEY_LEN]) -> Self {
        let key = Self(SecretBox::init_with_mut(|key: &mut [u8; MASTER_KEY_LEN]| key.copy_from_slice(bytes)));
        bytes.zeroize();
        key
    }

    /// Takes a key of a length nobody has checked yet.
    pub fn from_slice(bytes: &SecretSlice<u8>) -> Result<Self, KeyLength> {
        let bytes = bytes.expose_secret();
        if bytes.len() != MASTER_KEY_LEN {
            return Err(KeyLength(bytes.len()));
        }
        Ok(Self(SecretBox::init_with_mut(|key: &mut [u8; MASTER_KEY_LEN]| key.copy_from_slice(bytes))))
    }

    /// A key for one purpose and one thing (HKDF-SHA256; `salt` may be empty). The same arguments give the same key.
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "HKDF-SHA256 fails only for more than 8160 bytes of output"
    )]
    pub fn derive(&self, purpose: &str, id: &[u8], salt: &[u8]) -> SecretBox<[u8; 32]> {
        // Both lengths are fixed or written in front, so no two pairs of purpose and id share one info.
        let length = u64::try_from(purpose.len()).unwrap_or(u64::MAX).to_be_bytes();
        let prk = Salt::new(HKDF_SHA256, salt).extract(self.0.expose_secret());
        SecretBox::init_with_mut(|key: &mut [u8; 32]| {
            prk.expand(&[&length, purpose.as_bytes(), id], OutputLen)
                .and_then(|okm| okm.fill(key))
                .expect("32 bytes are within HKDF's reach");
        })
    }

    /// Seals `plaintext` for one row: version ‖ nonce ‖ ciphertext ‖ tag. The nonce must never be used twice; twelve
    /// random bytes are right for the few thousand values a gateway ever seals.
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "AES-GCM fails only for more than 64 GiB of plaintext"
    )]
    pub fn seal(&self, purpose: &str, row_id: &str, nonce: [u8; NONCE_LEN], plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(HEADER_LEN + plaintext.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let (_, body) = sealed.split_at_mut(HEADER_LEN);
        let tag = self
            .sealing_key()
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated(purpose, row_id)),
                body,
            )
            .expect("the plaintext is within AES-GCM's reach");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what [`Self::seal`] sealed for the same purpose and row.
    pub fn open(&self, purpose: &str, row_id: &str, sealed: &[u8]) -> Result<SecretSlice<u8>, OpenError> {
        let (header, body) = sealed.split_at_checked(HEADER_LEN).ok_or(OpenError::Form)?;
        let [VERSION, nonce @ ..] = header else { return Err(OpenError::Form) };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Form)?;
        let mut body = body.to_vec();
        let opened = self
            .sealing_key()
            .open_in_place(nonce, Aad::from(associated(purpose, row_id)), &mut body)
            .map(|plaintext| SecretSlice::from(plaintext.to_vec()));
        body.zeroize();
        opened.map_err(|_| OpenError::Authentication)
    }

    fn sealing_key(&self) -> LessSafeKey {
        let key = self.derive(SEALING, &[], &[]);
        #[expect(clippy::expect_used, reason = "AES-256 takes any 32 bytes")]
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose_secret()).expect("32 bytes are an AES-256 key"))
    }
}

/// Purpose and row id, unambiguously.
fn associated(purpose: &str, row_id: &str) -> Vec<u8> {
    let length = u64::try_from(purpose.len()).unwrap_or(u64::MAX).to_be_bytes();
    [&length, purpose.as_bytes(), row_id.as_bytes()].concat()
}

/// Every derived key is 32 bytes long.
struct OutputLen;

impl KeyType for OutputLen {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: [u8; NONCE_LEN] = [7; NONCE_LEN];

    fn key(byte: u8) -> MasterKey {
        MasterKey::new(&mut [byte; MASTER_KEY_LEN])
    }

    fn derived(key: &MasterKey, purpose: &str, id: &[u8], salt: &[u8]) -> [u8; 32] {
        *key.derive(purpose, id, salt).expose_secret()
    }

    #[test]
    fn derivation_is_hkdf_sha256_as_rfc_5869_says() {
        // Computed with Python's hmac and hashlib: salt "salt", info = u64be(1) ‖ "p" ‖ "id", key = 32 × 0x01.
        let expected = [
            0xdd, 0x71, 0x0e, 0x2d, 0x06, 0xfa, 0xc4, 0xa6, 0xfe, 0x53, 0x31, 0x14, 0x7e, 0x6c, 0x59, 0xb4, 0x17, 0xb4,
            0x68, 0x4c, 0x4d, 0xde, 0xb6, 0x2d, 0x0c, 0x05, 0xaf, 0x37, 0x40, 0xc6, 0x91, 0xc3,
        ];
        assert_eq!(derived(&key(1), "p", b"id", b"salt"), expected);
    }

    #[test]
    fn each_argument_of_a_derivation_matters() {
        let base = derived(&key(1), "mac", b"sid", b"salt");
        assert_eq!(base, derived(&key(1), "mac", b"sid", b"salt"));
        assert_ne!(base, derived(&key(2), "mac", b"sid", b"salt"));
        assert_ne!(base, derived(&key(1), "mad", b"sid", b"salt"));
        assert_ne!(base, derived(&key(1), "mac", b"sie", b"salt"));
        assert_ne!(base, derived(&key(1), "mac", b"sid", b"salu"));
    }

    #[test]
    fn purpose_and_id_do_not_run_into_each_other() {
        assert_ne!(derived(&key(1), "ab", b"c", b""), derived(&key(1), "a", b"bc", b""));
        assert_ne!(associated("ab", "c"), associated("a", "bc"));
    }

    #[test]
    fn the_callers_copy_is_zeroed() {
        let mut bytes = [9; MASTER_KEY_LEN];
        let _key = MasterKey::new(&mut bytes);
        assert_eq!(bytes, [0; MASTER_KEY_LEN]);
    }

    #[test]
    fn debug_shows_no_byte_of_it() {
        let shown = format!("{:?}", key(0xab));
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab,"), "{shown}");
        assert!(shown.contains("REDACTED"), "{shown}");
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let short = MasterKey::from_slice(&SecretSlice::from(vec![1; 31]));
        assert_eq!(short.expect_err("31 bytes"), KeyLength(31));
        assert!(MasterKey::from_slice(&SecretSlice::from(vec![1; 32])).is_ok());
    }

    #[test]
    fn another_key_row_or_purpose_does_not_open() {
        let sealed = key(1).seal("signing-key", "kid-1", NONCE, b"secret");
        assert!(key(1).open("signing-key", "kid-1", &sealed).is_ok());
        for (other, purpose, row) in
            [(key(2), "signing-key", "kid-1"), (key(1), "totp", "kid-1"), (key(1), "signing-key", "kid-2")]
        {
            assert_eq!(other.open(purpose, row, &sealed).expect_err("refused"), OpenError::Authentication);
        }
    }

    #[test]
    fn an_unknown_version_or_a_stump_is_named_as_such() {
        let mut sealed = key(1).seal("p", "r", NONCE, b"secret");
        assert_eq!(key(1).open("p", "r", &sealed[..HEADER_LEN - 1]).expect_err("stump"), OpenError::Form);
        sealed[0] = 2;
        assert_eq!(key(1).open("p", "r", &sealed).expect_err("version"), OpenError::Form);
    }

    #[test]
    fn the_plaintext_is_not_in_the_sealed_value() {
        let sealed = key(1).seal("p", "r", NONCE, b"a-very-plain-text");
        assert!(!sealed.windows(17).any(|window| window == b"a-very-plain-text"));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_no_changed_byte_does(
            plaintext in proptest::collection::vec(any::<u8>(), 0..200),
            nonce: [u8; NONCE_LEN],
            at: proptest::sample::Index,
            bit in 0u8..8,
        ) {
            let mut sealed = key(3).seal("p", "r", nonce, &plaintext);
            let opened = key(3).open("p", "r", &sealed).expect("opens");
            prop_assert_eq!(opened.expose_secret(), plaintext.as_slice());
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(key(3).open("p", "r", &sealed).is_err());
        }
    }
}
