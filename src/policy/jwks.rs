//! Key sets of other issuers (RFC 7517): what of a published set may verify tokens.
//!
//! One odd key never fails a set: it is left out. Left out are keys for encryption, keys whose algorithm the issuer may
//! not use here or that would fit two, short RSA keys, secrets, and whatever brings its private half along.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::policy::keys::{Algorithm, KeySet, VerifyingKey};

/// Most keys in a set.
pub const MAX_KEYS: usize = 100;

/// Why a document is no key set at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksFault {
    /// Not an object with a list `keys`.
    #[error("not a JWK set")]
    Malformed,
    /// More than [`MAX_KEYS`].
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

/// The keys of a set that may verify tokens by one of `algorithms`, and how many were left out.
pub fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<(KeySet, usize), JwksFault> {
    #[derive(Deserialize)]
    struct Set<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    if !document.trim_ascii_start().starts_with(b"{") {
        return Err(JwksFault::Malformed);
    }
    let text = std::str::from_utf8(document).map_err(|_| JwksFault::Malformed)?;
    let set: Set<'_> = serde_json::from_str(text).map_err(|_| JwksFault::Malformed)?;
    if set.keys.len() > MAX_KEYS {
        return Err(JwksFault::TooMany);
    }
    let keys = KeySet::new(set.keys.iter().filter_map(|raw| key(raw.get(), algorithms)));
    let left_out = set.keys.len() - keys.len();
    Ok((keys, left_out))
}

/// A JWK (RFC 7517 §4; RFC 7518 §6, RFC 8037 §2). A member given twice makes it unreadable.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

fn key(json: &str, algorithms: &[Algorithm]) -> Option<VerifyingKey> {
    if !json.starts_with('{') {
        return None;
    }
    let jwk: Jwk = serde_json::from_str(json).ok()?;
    let signs = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
    let verifies = jwk.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
    if !signs || !verifies || jwk.d.is_some() {
        return None;
    }
    let algorithm = jwk.algorithm(algorithms)?;
    let key = match algorithm {
        Algorithm::Es256 => VerifyingKey::new(algorithm, &jwk.point(32)?),
        Algorithm::Es384 => VerifyingKey::new(algorithm, &jwk.point(48)?),
        Algorithm::EdDsa => VerifyingKey::new(algorithm, &decode(jwk.x.as_deref())?),
        Algorithm::Rs256 | Algorithm::Ps256 => {
            VerifyingKey::rsa(algorithm, &decode(jwk.n.as_deref())?, &decode(jwk.e.as_deref())?)
        }
        Algorithm::Hs256 => return None,
    };
    let key = key.ok()?;
    Some(match &jwk.kid {
        Some(kid) => key.named(kid),
        None => key,
    })
}

impl Jwk {
    /// The key's one algorithm (RFC 8725 §3.1): the one it names, or the only one of the issuer's that it fits.
    fn algorithm(&self, allowed: &[Algorithm]) -> Option<Algorithm> {
        let fitting: &[Algorithm] = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => &[Algorithm::Rs256, Algorithm::Ps256],
            ("EC", Some("P-256")) => &[Algorithm::Es256],
            ("EC", Some("P-384")) => &[Algorithm::Es384],
            ("OKP", Some("Ed25519")) => &[Algorithm::EdDsa],
            _ => return None,
        };
        let named = |algorithm: &Algorithm| match self.alg.as_deref() {
            None => true,
            // RFC 9864 gives the same algorithm a name of its own.
            Some("Ed25519") => *algorithm == Algorithm::EdDsa,
            Some(name) => name == algorithm.name(),
        };
        let mut left = fitting.iter().filter(|one| allowed.contains(one) && named(one));
        left.next().copied().filter(|_| left.next().is_none())
    }

    /// An uncompressed point (SEC 1 §2.3.3) from coordinates of full length (RFC 7518 §6.2.1.2).
    fn point(&self, length: usize) -> Option<Vec<u8>> {
        let (x, y) = (decode(self.x.as_deref())?, decode(self.y.as_deref())?);
        (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
    }
}

fn decode(member: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(member?).ok()
}

/// Where an issuer's discovery document says its keys are (OIDC Discovery 1.0 §3, RFC 8414 §2); `None` unless it is the
/// document of that very issuer, compared byte for byte.
#[must_use]
pub fn jwks_uri(document: &[u8], issuer: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Document {
        issuer: String,
        jwks_uri: String,
    }
    // serde's derive would read a list as the members in their order.
    if !document.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let document: Document = serde_json::from_str(std::str::from_utf8(document).ok()?).ok()?;
    (document.issuer == issuer).then_some(document.jwks_uri)
}

#[cfg(test)]
mod tests;
