//! Signing and verifying keys: one algorithm per key (RFC 8725 §3.1), published as a JWKS (RFC 7517).
//!
//! A key's `kid` is its JWK thumbprint (RFC 7638), so it needs no book-keeping and two gateways name one key alike.
//! Private parts never leave this file but as PKCS#8 in a secrecy type. Signatures are aws-lc's: the public key is
//! parsed once and kept parsed ([`verifying`]). What a signature is worth (whose token, of which kind) is
//! [`crate::policy::token`]'s; how the keys of another issuer are read is [`crate::policy::jwks`]'s.

mod verifying;

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::{SecureRandom, SystemRandom},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
    },
};
use secrecy::SecretSlice;

pub use self::verifying::{KeySet, VerifyingKey};

/// Algorithms that tokens are signed with. There is no other, `none` least of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256 (RFC 7518 §3.4).
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384 (RFC 7518 §3.4).
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PSS with SHA-256 (RFC 7518 §3.5).
    #[serde(rename = "PS256")]
    Ps256,
    /// HMAC with SHA-256 (RFC 7518 §3.2): whoever verifies could sign as well.
    #[serde(rename = "HS256")]
    Hs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 6] = [Self::Es256, Self::Es384, Self::EdDsa, Self::Rs256, Self::Ps256, Self::Hs256];

    /// Its `alg` value (RFC 7518 §3.1, RFC 8037 §3.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Hs256 => "HS256",
        }
    }

    /// The algorithm an `alg` value names, case-sensitively; `None` for every other, `none` included.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Fewest bytes of an HMAC key: as many as its hash has (RFC 7518 §3.2).
pub const MIN_SECRET: usize = 32;

/// Why a key could not be made or used. Says nothing about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Not a PKCS#8 private key of the algorithm.
    #[error("not a PKCS#8 private key of its algorithm")]
    Malformed,
    /// The library could not make a key.
    #[error("no key could be made")]
    Generation,
    /// The library could not sign, or the claims do not serialise.
    #[error("could not sign")]
    Signing,
    /// The signature is not this key's over this input.
    #[error("the signature does not verify")]
    Signature,
}

enum Private {
    Elliptic(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Hmac(Box<hmac::Key>),
}

/// A private key and its public half. Share it in an `Arc`.
pub struct SigningKey {
    private: Private,
    verifying: VerifyingKey,
}

impl SigningKey {
    /// A key from PKCS#8 (RFC 5958), as [`Self::generate_pkcs8`] makes it; for HS256 the secret itself.
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, KeyFault> {
        let elliptic = |curve| EcdsaKeyPair::from_pkcs8(curve, pkcs8).map_err(|_| KeyFault::Malformed);
        let rsa = || RsaKeyPair::from_pkcs8(pkcs8).map(Box::new).map_err(|_| KeyFault::Malformed);
        let private = match algorithm {
            Algorithm::Es256 => Private::Elliptic(elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
            Algorithm::Es384 => Private::Elliptic(elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING)?),
            Algorithm::EdDsa => Private::Edwards(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyFault::Malformed)?),
            Algorithm::Rs256 => Private::Rsa(rsa()?, &RSA_PKCS1_SHA256),
            Algorithm::Ps256 => Private::Rsa(rsa()?, &RSA_PSS_SHA256),
            Algorithm::Hs256 => Private::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, pkcs8))),
        };
        let verifying = match &private {
            Private::Elliptic(pair) => VerifyingKey::new(algorithm, pair.public_key().as_ref()),
            Private::Edwards(pair) => VerifyingKey::new(algorithm, pair.public_key().as_ref()),
            Private::Rsa(pair, _) => {
                let public = pair.public_key();
                let (modulus, exponent) = (public.modulus(), public.exponent());
                VerifyingKey::rsa(
                    algorithm,
                    modulus.big_endian_without_leading_zero(),
                    exponent.big_endian_without_leading_zero(),
                )
            }
            Private::Hmac(_) => VerifyingKey::secret(pkcs8),
        };
        Ok(Self { private, verifying: verifying? })
    }

    /// A new private key, as PKCS#8.
    ///
    /// The stated exception to "no randomness in policy": aws-lc makes keys (and the nonces of ECDSA) with its own
    /// generator and takes no other, which is as it should be.
    pub fn generate_pkcs8(algorithm: Algorithm) -> Result<SecretSlice<u8>, KeyFault> {
        let random = SystemRandom::new();
        let elliptic = |curve: &'static EcdsaSigningAlgorithm| {
            EcdsaKeyPair::generate_pkcs8(curve, &random).map(|document| document.as_ref().to_vec())
        };
        let made = match algorithm {
            Algorithm::Es256 => elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random).map(|document| document.as_ref().to_vec()),
            Algorithm::Rs256 | Algorithm::Ps256 => RsaKeyPair::generate(KeySize::Rsa2048)
                .and_then(|pair| pair.as_der().map(|document| document.as_ref().to_vec())),
            Algorithm::Hs256 => {
                let mut secret = vec![0; MIN_SECRET];
                random.fill(&mut secret).map(|()| secret)
            }
        };
        made.map(SecretSlice::from).map_err(|_| KeyFault::Generation)
    }

    /// Its `kid`.
    #[must_use]
    pub fn kid(&self) -> &Arc<str> {
        &self.verifying.kid
    }

    /// Its one algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.verifying.algorithm
    }

    /// Signs a JWS signing input (RFC 7515 §5.1).
    pub fn sign(&self, signing_input: &[u8]) -> Result<Vec<u8>, KeyFault> {
        let random = SystemRandom::new();
        let signature = match &self.private {
            Private::Elliptic(pair) => pair.sign(&random, signing_input).map(|signature| signature.as_ref().to_vec()),
            Private::Edwards(pair) => pair.try_sign(signing_input).map(|signature| signature.as_ref().to_vec()),
            Private::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &random, signing_input, &mut signature).map(|()| signature)
            }
            Private::Hmac(key) => Ok(hmac::sign(key, signing_input).as_ref().to_vec()),
        };
        signature.map_err(|_| KeyFault::Signing)
    }

    /// Its public half.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        self.verifying.clone()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {}, …)", self.algorithm().name(), self.kid())
    }
}

#[cfg(test)]
pub(crate) mod tests;
