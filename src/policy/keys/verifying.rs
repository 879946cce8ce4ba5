//! Keys that verify, and sets of them: parsed once, each good for one algorithm.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest, hmac,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA256,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{Algorithm, KeyFault, MIN_SECRET};

/// Bits of an RSA modulus. Shorter ones are broken (RFC 7518 §3.3); longer ones only make verifying slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

#[derive(Clone)]
enum Parsed {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

/// A key that verifies with one algorithm only.
#[derive(Clone)]
pub struct VerifyingKey {
    /// What a token's header calls it: its JWK thumbprint (RFC 7638) for keys of ours, what its issuer says for others.
    pub kid: Arc<str>,
    /// Its JWK thumbprint: tells the key itself, under whatever name.
    pub thumbprint: Arc<str>,
    /// Its one algorithm.
    pub algorithm: Algorithm,
    parsed: Parsed,
    jwk: Arc<Value>,
}

impl VerifyingKey {
    /// A key from its public bytes: an uncompressed point (SEC 1 §2.3.3) or 32 bytes (RFC 8032 §5.1.5).
    pub fn new(algorithm: Algorithm, public: &[u8]) -> Result<Self, KeyFault> {
        let point = |curve: &str, length: usize| {
            let [4, point @ ..] = public else { return Err(KeyFault::Malformed) };
            let (x, y) = point.split_at_checked(length).ok_or(KeyFault::Malformed)?;
            Ok(json!({"crv": curve, "kty": "EC", "x": encode(x), "y": encode(y)}))
        };
        let (parsed, required) = match algorithm {
            Algorithm::Es256 => (ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public), point("P-256", 32)?),
            Algorithm::Es384 => (ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public), point("P-384", 48)?),
            Algorithm::EdDsa => {
                let members = json!({"crv": "Ed25519", "kty": "OKP", "x": encode(public)});
                (ParsedPublicKey::new(&ED25519, public), members)
            }
            Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Hs256 => return Err(KeyFault::Malformed),
        };
        Ok(Self::published(algorithm, parsed.map_err(|_| KeyFault::Malformed)?, required))
    }

    /// An RSA key from modulus and exponent, big-endian (RFC 7518 §6.3.1).
    pub fn rsa(algorithm: Algorithm, modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyFault> {
        let padding = match algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
            _ => return Err(KeyFault::Malformed),
        };
        let (n, e) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        // An exponent of one would make every message its own signature; even ones have no inverse.
        let exponent_ok = e.len() <= 8 && e.last().is_some_and(|last| last % 2 == 1) && *e != [1];
        if !RSA_BITS.contains(&bits) || !exponent_ok {
            return Err(KeyFault::Malformed);
        }
        let parsed = PublicKeyComponents { n, e }.to_parsed_public_key(padding).map_err(|_| KeyFault::Malformed)?;
        let required = json!({"e": encode(e), "kty": "RSA", "n": encode(n)});
        Ok(Self::published(algorithm, parsed, required))
    }

    /// A secret that two parties share: at least [`MIN_SECRET`] bytes.
    pub fn secret(secret: &[u8]) -> Result<Self, KeyFault> {
        if secret.len() < MIN_SECRET {
            return Err(KeyFault::Malformed);
        }
        // Not the thumbprint of RFC 7638: a digest of the secret alone is not for everybody to see.
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let kid = encode(&hmac::sign(&key, b"portcullis kid").as_ref()[..16]);
        let kid: Arc<str> = kid.into();
        Ok(Self {
            thumbprint: Arc::clone(&kid),
            kid,
            algorithm: Algorithm::Hs256,
            parsed: Parsed::Secret(Box::new(key)),
            jwk: Arc::new(Value::Null),
        })
    }

    fn published(algorithm: Algorithm, parsed: ParsedPublicKey, required: Value) -> Self {
        let kid: Arc<str> = thumbprint(&required).into();
        let mut jwk = required;
        jwk["kid"] = json!(&*kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(algorithm.name());
        Self { thumbprint: Arc::clone(&kid), kid, algorithm, parsed: Parsed::Public(parsed), jwk: Arc::new(jwk) }
    }

    /// The same key under the name its issuer gives it.
    #[must_use]
    pub fn named(mut self, kid: &str) -> Self {
        self.kid = kid.into();
        self
    }

    /// Whether `signature` is this key's over `signing_input`.
    pub fn verify(&self, signing_input: &[u8], signature: &[u8]) -> Result<(), KeyFault> {
        match &self.parsed {
            Parsed::Public(key) => key.verify_sig(signing_input, signature).map_err(|_| KeyFault::Signature),
            Parsed::Secret(key) => hmac::verify(key, signing_input, signature).map_err(|_| KeyFault::Signature),
        }
    }

    /// As PEM (RFC 7468 §13, RFC 5480 §2); `None` for all but keys on P-256, which nobody asks for.
    #[must_use]
    pub fn pem(&self) -> Option<String> {
        // SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING { 04 x y } }
        const BEFORE_POINT: [u8; 27] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
        ];
        if self.algorithm != Algorithm::Es256 {
            return None;
        }
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(self.jwk.get(name)?.as_str()?).ok();
        let der = [&BEFORE_POINT[..], &coordinate("x")?, &coordinate("y")?].concat();
        let (first, second) = STANDARD.encode(der).split_at_checked(64).map(|(a, b)| (a.to_owned(), b.to_owned()))?;
        Some(format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n"))
    }

    /// As a JWK (RFC 7517 §4; RFC 7518 §6.2 and §6.3, RFC 8037 §2); `null` for a secret.
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

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    &bytes[start..]
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
    /// One shared secret: no header has to name it.
    nameless: bool,
}

impl KeySet {
    /// A set. A key given twice counts once; of two that a token could not tell apart the first counts.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        let mut set = Self::default();
        for key in keys {
            if !set.keys.iter().any(|other| other.kid == key.kid && other.algorithm == key.algorithm) {
                set.keys.push(key);
            }
        }
        set
    }

    /// A secret that an issuer shares with us: the one key, whatever a token calls it.
    #[must_use]
    pub fn of_secret(key: VerifyingKey) -> Self {
        Self { keys: vec![key], nameless: true }
    }

    /// Whether nothing can be verified with it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key of this name.
    #[must_use]
    pub fn get(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys.iter().find(|key| &*key.kid == kid)
    }

    /// Whether a key of this thumbprint is in the set: a name may meanwhile stand for another key.
    #[must_use]
    pub fn holds(&self, thumbprint: &str) -> bool {
        self.keys.iter().any(|key| *key.thumbprint == *thumbprint)
    }

    /// The key a token's header names; without a `kid`, the only key of the algorithm, if there is exactly one.
    ///
    /// A named key may be of another algorithm than the header claims: the caller compares (RFC 8725 §3.1).
    #[must_use]
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&VerifyingKey> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match kid.filter(|_| !self.nameless) {
            Some(kid) => fitting.find(|key| &*key.kid == kid).or_else(|| self.get(kid)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }

    /// Every key, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.keys.iter()
    }

    /// As a JWK Set (RFC 7517 §5): public members only, no secrets.
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(VerifyingKey::jwk).filter(|jwk| !jwk.is_null()).collect::<Vec<_>>()})
    }
}
