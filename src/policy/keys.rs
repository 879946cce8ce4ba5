//! Signing and verifying keys: one algorithm per key (RFC 8725 §3.1), published as a JWKS (RFC 7517).
//!
//! A key's `kid` is its JWK thumbprint (RFC 7638), so it needs no book-keeping and two gateways name one key alike.
//! Private parts never leave this file but as PKCS#8 in a secrecy type. Signatures are aws-lc's: the public key is
//! parsed once and kept parsed. What a signature is worth (whose token, of which kind) is [`crate::policy::token`]'s.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        ParsedPublicKey,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretSlice;
use serde_json::{Value, json};

/// Algorithms of own tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256 (RFC 7518 §3.4).
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// Its `alg` value (RFC 7518 §3.1, RFC 8037 §3.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm an `alg` value names, case-sensitively; `None` for every other, `none` and the HMACs included.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// Length of a signature in bytes; both algorithms make 64 (RFC 7518 §3.4, RFC 8032 §5.1.6).
pub const SIGNATURE_LEN: usize = 64;

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
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

/// A private key and its public half. Share it in an `Arc`.
pub struct SigningKey {
    private: Private,
    verifying: VerifyingKey,
}

impl SigningKey {
    /// A key from PKCS#8 (RFC 5958), as [`Self::generate_pkcs8`] makes it.
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, KeyFault> {
        let (private, public) = match algorithm {
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                    .map_err(|_| KeyFault::Malformed)?;
                let public = pair.public_key().as_ref().to_vec();
                (Private::Es256(pair), public)
            }
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyFault::Malformed)?;
                let public = pair.public_key().as_ref().to_vec();
                (Private::EdDsa(pair), public)
            }
        };
        Ok(Self { private, verifying: VerifyingKey::new(algorithm, &public)? })
    }

    /// A new private key, as PKCS#8.
    ///
    /// The stated exception to "no randomness in policy": aws-lc makes keys (and the nonces of ECDSA) with its own
    /// generator and takes no other, which is as it should be.
    pub fn generate_pkcs8(algorithm: Algorithm) -> Result<SecretSlice<u8>, KeyFault> {
        let random = SystemRandom::new();
        let document = match algorithm {
            Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random),
            Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random),
        };
        document.map(|document| SecretSlice::from(document.as_ref().to_vec())).map_err(|_| KeyFault::Generation)
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
    pub fn sign(&self, signing_input: &[u8]) -> Result<[u8; SIGNATURE_LEN], KeyFault> {
        let signature = match &self.private {
            Private::Es256(pair) => pair.sign(&SystemRandom::new(), signing_input),
            Private::EdDsa(pair) => pair.try_sign(signing_input),
        };
        signature.ok().and_then(|signature| signature.as_ref().try_into().ok()).ok_or(KeyFault::Signing)
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

/// A public key that verifies with one algorithm only.
#[derive(Clone)]
pub struct VerifyingKey {
    /// Its JWK thumbprint (RFC 7638).
    pub kid: Arc<str>,
    /// Its one algorithm.
    pub algorithm: Algorithm,
    parsed: ParsedPublicKey,
    jwk: Arc<Value>,
}

impl VerifyingKey {
    /// A key from its public bytes: an uncompressed point (SEC 1 §2.3.3) or 32 bytes (RFC 8032 §5.1.5).
    pub fn new(algorithm: Algorithm, public: &[u8]) -> Result<Self, KeyFault> {
        let (parsed, required) = match algorithm {
            Algorithm::Es256 => {
                let [4, point @ ..] = public else { return Err(KeyFault::Malformed) };
                let (x, y) = point.split_at_checked(32).ok_or(KeyFault::Malformed)?;
                let members = json!({"crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y)});
                (ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public), members)
            }
            Algorithm::EdDsa => {
                let members = json!({"crv": "Ed25519", "kty": "OKP", "x": encode(public)});
                (ParsedPublicKey::new(&ED25519, public), members)
            }
        };
        let parsed = parsed.map_err(|_| KeyFault::Malformed)?;
        let kid: Arc<str> = thumbprint(&required).into();
        let mut jwk = required;
        jwk["kid"] = json!(&*kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(algorithm.name());
        Ok(Self { kid, algorithm, parsed, jwk: Arc::new(jwk) })
    }

    /// Whether `signature` is this key's over `signing_input`.
    pub fn verify(&self, signing_input: &[u8], signature: &[u8]) -> Result<(), KeyFault> {
        self.parsed.verify_sig(signing_input, signature).map_err(|_| KeyFault::Signature)
    }

    /// As a JWK (RFC 7517 §4; RFC 7518 §6.2, RFC 8037 §2).
    #[must_use]
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({} {})", self.algorithm.name(), self.kid)
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// RFC 7638 §3: SHA-256 over the required members in lexicographic order without white space. They are written in
/// that order above, so it holds whether or not some crate turns on `serde_json/preserve_order`.
fn thumbprint(required: &Value) -> String {
    encode(digest::digest(&digest::SHA256, required.to_string().as_bytes()).as_ref())
}

/// The keys tokens of one issuer are verified with. Cheap to clone inside an `Arc`; replaced whole, never changed.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

impl KeySet {
    /// A set; a key given twice counts once.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        let mut set = Self::default();
        for key in keys {
            if set.get(&key.kid).is_none() {
                set.keys.push(key);
            }
        }
        set
    }

    /// The key of this name.
    #[must_use]
    pub fn get(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys.iter().find(|key| &*key.kid == kid)
    }

    /// The key a token's header names; without a `kid`, the only key of the algorithm, if there is exactly one.
    ///
    /// A named key may be of another algorithm than the header claims: the caller compares (RFC 8725 §3.1).
    #[must_use]
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&VerifyingKey> {
        if let Some(kid) = kid {
            return self.get(kid);
        }
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        fitting.next().filter(|_| fitting.next().is_none())
    }

    /// Every key, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.keys.iter()
    }

    /// As a JWK Set (RFC 7517 §5): public members only.
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(VerifyingKey::jwk).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
pub(crate) mod tests;
