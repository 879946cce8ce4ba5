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

/// RFC 7638 §3: SHA-256 over the required members in lexicographic order without white space. `serde_json` without
/// `preserve_order` sorts members; a test holds the order with the RFC's own vector.
fn thumbprint(required: &Value) -> String {
    encode(digest::digest(&digest::SHA256, required.to_string().as_bytes()).as_ref())
}

/// The keys tokens of one issuer are verified with. Cheap to clone inside an `Arc`; replaced whole on rotation.
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
pub(crate) mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    pub(crate) fn key(algorithm: Algorithm) -> SigningKey {
        let pkcs8 = SigningKey::generate_pkcs8(algorithm).unwrap();
        SigningKey::from_pkcs8(algorithm, pkcs8.expose_secret()).unwrap()
    }

    const BOTH: [Algorithm; 2] = [Algorithm::Es256, Algorithm::EdDsa];

    /// The key of RFC 8037, appendix A.
    fn rfc8037_key() -> SigningKey {
        let mut pkcs8 = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        pkcs8.extend(URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap());
        SigningKey::from_pkcs8(Algorithm::EdDsa, &pkcs8).unwrap()
    }

    #[test]
    fn a_signature_verifies_with_its_own_key_only() {
        for algorithm in BOTH {
            let (one, other) = (key(algorithm), key(algorithm));
            let signature = one.sign(b"input").unwrap();
            assert_eq!(one.verifying().verify(b"input", &signature), Ok(()));
            assert_eq!(one.verifying().verify(b"inpux", &signature), Err(KeyFault::Signature));
            assert_eq!(one.verifying().verify(b"input", &signature[..63]), Err(KeyFault::Signature));
            assert_eq!(other.verifying().verify(b"input", &signature), Err(KeyFault::Signature));
        }
    }

    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_8037() {
        let key = rfc8037_key();
        assert_eq!(&**key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(key.verifying().jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    }

    #[test]
    fn the_signature_is_the_one_of_rfc_8037() {
        let input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let expected = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        assert_eq!(encode(&rfc8037_key().sign(input).unwrap()), expected);
    }

    #[test]
    fn a_key_of_one_algorithm_does_not_load_as_the_other() {
        let pkcs8 = SigningKey::generate_pkcs8(Algorithm::Es256).unwrap();
        assert_eq!(
            SigningKey::from_pkcs8(Algorithm::EdDsa, pkcs8.expose_secret()).map(|_| ()),
            Err(KeyFault::Malformed)
        );
        assert_eq!(SigningKey::from_pkcs8(Algorithm::Es256, b"junk").map(|_| ()), Err(KeyFault::Malformed));
    }

    #[test]
    fn a_public_key_off_the_curve_or_cut_short_is_refused() {
        let mut off_curve = [1; 65];
        off_curve[0] = 4;
        assert_eq!(VerifyingKey::new(Algorithm::Es256, &off_curve).map(|_| ()), Err(KeyFault::Malformed));
        assert_eq!(VerifyingKey::new(Algorithm::Es256, &[4; 9]).map(|_| ()), Err(KeyFault::Malformed));
        assert_eq!(VerifyingKey::new(Algorithm::EdDsa, &[1; 31]).map(|_| ()), Err(KeyFault::Malformed));
    }

    #[test]
    fn without_a_kid_only_a_single_fitting_key_is_found() {
        let (one, two, edwards) = (key(Algorithm::Es256), key(Algorithm::Es256), key(Algorithm::EdDsa));
        let set = KeySet::new([one.verifying(), edwards.verifying()]);
        assert_eq!(set.find(None, Algorithm::Es256).unwrap().kid, *one.kid());
        let set = KeySet::new([one.verifying(), two.verifying(), edwards.verifying()]);
        assert!(set.find(None, Algorithm::Es256).is_none());
        assert_eq!(set.find(None, Algorithm::EdDsa).unwrap().kid, *edwards.kid());
        assert_eq!(set.find(Some(two.kid()), Algorithm::Es256).unwrap().kid, *two.kid());
        assert!(set.find(Some("unknown"), Algorithm::EdDsa).is_none());
    }

    #[test]
    fn a_key_given_twice_still_counts_as_the_only_one() {
        let one = key(Algorithm::Es256);
        let set = KeySet::new([one.verifying(), one.verifying()]);
        assert_eq!(set.iter().count(), 1);
        assert!(set.find(None, Algorithm::Es256).is_some());
    }

    #[test]
    fn the_jwks_holds_public_members_only() {
        let set = KeySet::new([key(Algorithm::Es256).verifying(), key(Algorithm::EdDsa).verifying()]);
        let jwks = set.jwks();
        let names = |i: usize| jwks["keys"][i].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(0), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
        assert_eq!(names(1), ["alg", "crv", "kid", "kty", "use", "x"]);
    }

    #[test]
    fn debug_shows_the_kid_and_no_key_material() {
        let key = rfc8037_key();
        assert_eq!(format!("{key:?}"), format!("SigningKey(EdDSA {}, …)", key.kid()));
    }

    #[test]
    fn only_our_two_algorithms_have_names() {
        for name in ["none", "None", "HS256", "RS256", "es256", "ES384", "Ed25519", ""] {
            assert_eq!(Algorithm::from_name(name), None, "{name}");
        }
        for algorithm in BOTH {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
        }
    }
}
