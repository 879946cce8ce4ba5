//! Access tokens in: is this string a token of ours, and what does it claim? (RFC 7515, 7519, 8725, 9068.)
//!
//! Two steps, since the first is dear and depends on nothing but the token: [`verify`] checks form, header and
//! signature and parses the claims, and its outcome may be cached; [`admit`] compares the claims with the route and
//! the time, on every request, cached or not. Nothing a header says chooses how the token is verified: the key does.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    clock::Timestamp,
    policy::{
        claims::Claims,
        claims_json,
        keys::{Algorithm, KeySet, VerifyingKey},
        reason::Reason,
    },
};

/// Longest token looked at, bytes.
pub const MAX_TOKEN_LEN: usize = 8 * 1024;

/// Why a token is not good. One refusal for all towards the client; apart only in log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Longer than [`MAX_TOKEN_LEN`].
    #[error("longer than 8 KiB")]
    TooLarge,
    /// Not three parts of strict base64url, not JSON objects, a member twice, or a claim missing or of a wrong type.
    #[error("malformed")]
    Malformed,
    /// `typ` is not `at+jwt` (RFC 9068 §4, RFC 8725 §3.11).
    #[error("a token of another kind")]
    Kind,
    /// `alg` is not one of ours, or not the key's.
    #[error("not the key's algorithm")]
    Algorithm,
    /// `crit` or `b64` (RFC 7515 §4.1.11, RFC 7797): extensions we do not understand.
    #[error("a critical extension")]
    Critical,
    /// `jwk`, `jku`, `x5u` or `x5c`: a token that brings its own key (RFC 8725 §3.10).
    #[error("it brings its own key")]
    EmbeddedKey,
    /// No key of that name, or no name and several keys.
    #[error("no key fits")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("the signature does not verify")]
    Signature,
    /// Whoever was asked before the signature was computed said no: nothing is known of it.
    #[error("the signature was not looked at")]
    Unchecked,
    /// Past `exp`.
    #[error("expired")]
    Expired,
    /// Before `nbf`.
    #[error("not valid yet")]
    NotYetValid,
    /// Another `iss`.
    #[error("another issuer")]
    Issuer,
    /// Our name is not in `aud`.
    #[error("another audience")]
    Audience,
    /// It would live longer than its issuer's tokens may.
    #[error("longer-lived than allowed")]
    Lifetime,
}

impl TokenFault {
    /// The label for log and metrics.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::TooLarge | Self::Malformed | Self::Critical | Self::EmbeddedKey => Reason::TokenMalformed,
            Self::Kind => Reason::TokenKind,
            Self::Algorithm | Self::UnknownKey | Self::Signature => Reason::TokenSignature,
            Self::Unchecked => Reason::TokensUnchecked,
            Self::Expired => Reason::TokenExpired,
            Self::NotYetValid => Reason::TokenNotYetValid,
            Self::Issuer => Reason::TokenIssuer,
            Self::Audience => Reason::TokenAudience,
            Self::Lifetime => Reason::TokenLifetime,
        }
    }
}

/// A token whose signature was checked and whose claims have the right shape. Admits nothing by itself.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What it claims.
    pub claims: Arc<Claims>,
    /// The thumbprint of the key that signed it, for asking later whether that key is still good. Keys of ours are
    /// named by it.
    pub kid: Arc<str>,
}

/// Checks form, header and signature of an access token of ours, and parses its claims.
pub fn verify(token: &str, keys: &KeySet) -> Result<Verified, TokenFault> {
    verify_if(token, keys, |_| Ok(()))
}

/// The same. `may` is asked when all that costs little is right, before the signature is computed with that key.
pub fn verify_if(
    token: &str,
    keys: &KeySet,
    may: impl FnOnce(&VerifyingKey) -> Result<(), TokenFault>,
) -> Result<Verified, TokenFault> {
    let kind = |typ: Option<&str>| typ.is_some_and(is_access_token);
    let (payload, key) = signed(token, keys, kind, &Algorithm::ALL, may)?;
    let claims = claims_json::claims(&payload).ok_or(TokenFault::Malformed)?;
    Ok(Verified { claims: Arc::new(claims), kid: Arc::clone(&key.thumbprint) })
}

/// Checks form, header and signature, the signature before anything is read of the payload, which it gives back. `typ`
/// must be of the `kind`, `alg` one of the `algorithms`. `may`: see [`verify_if`].
pub(in crate::policy) fn signed<'k>(
    token: &str,
    keys: &'k KeySet,
    kind: impl Fn(Option<&str>) -> bool,
    algorithms: &[Algorithm],
    may: impl FnOnce(&VerifyingKey) -> Result<(), TokenFault>,
) -> Result<(Vec<u8>, &'k VerifyingKey), TokenFault> {
    if token.len() > MAX_TOKEN_LEN {
        return Err(TokenFault::TooLarge);
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let (header, payload) = signing_input.split_once('.').ok_or(TokenFault::Malformed)?;
    // A fourth part needs no check of its own: `.` is not in the alphabet.
    let header = decode(header)?;
    let header = claims_json::header(&header).ok_or(TokenFault::Malformed)?;
    if header.critical {
        return Err(TokenFault::Critical);
    }
    if header.embedded_key {
        return Err(TokenFault::EmbeddedKey);
    }
    let algorithm = Algorithm::from_name(&header.alg).filter(|algorithm| algorithms.contains(algorithm));
    let algorithm = algorithm.ok_or(TokenFault::Algorithm)?;
    if !kind(header.typ.as_deref()) {
        return Err(TokenFault::Kind);
    }
    let key = keys.find(header.kid.as_deref(), algorithm).ok_or(TokenFault::UnknownKey)?;
    if key.algorithm != algorithm {
        return Err(TokenFault::Algorithm);
    }
    let (payload, signature) = (decode(payload)?, decode(signature)?);
    may(key)?;
    key.verify(signing_input.as_bytes(), &signature).map_err(|_| TokenFault::Signature)?;
    Ok((payload, key))
}

/// Whether it looks like a token at all: three parts of base64url, none of them empty. Cheaper than a digest of it.
#[must_use]
pub fn has_form(token: &str) -> bool {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut parts = token.split('.');
    let good = parts.by_ref().take(3).filter(|part| !part.is_empty() && part.bytes().all(in_alphabet)).count();
    token.len() <= MAX_TOKEN_LEN && good == 3 && parts.next().is_none()
}

/// Whose token this claims to be: `iss` before anything is verified, to choose the keys by. What it says is worth
/// nothing until a key of that very issuer has verified the token.
#[must_use]
pub fn claimed_issuer(token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN_LEN {
        return None;
    }
    claims_json::issuer(&decode(token.split('.').nth(1)?).ok()?)
}

/// What kind of token this claims to be: `typ` before anything is verified.
#[must_use]
pub fn claimed_type(token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN_LEN {
        return None;
    }
    let (header, _) = token.split_once('.')?;
    claims_json::header(&decode(header).ok()?)?.typ.as_deref().map(str::to_owned)
}

/// RFC 9068 §4: `at+jwt`, with or without `application/`, in any case (a media type, RFC 7515 §4.1.9).
pub(in crate::policy) fn is_access_token(typ: &str) -> bool {
    typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt")
}

/// Strict base64url: no padding, no white space, no stray last bits, so that one token has one spelling.
fn decode(part: &str) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed)
}

/// What a route expects of a token.
#[derive(Debug, Clone, Copy)]
pub struct Expectations<'a> {
    /// `iss`, compared byte for byte.
    pub issuer: &'a str,
    /// One of these must be among `aud`.
    pub audiences: &'a [Arc<str>],
    /// Clock skew forgiven on `exp` and `nbf`.
    pub leeway: Duration,
}

/// Whether verified claims are good for this route at this time. Cheap: runs on every request, cached or not.
pub fn admit(claims: &Claims, expect: &Expectations<'_>, now: Timestamp) -> Result<(), TokenFault> {
    // RFC 7519 §4.1.4: at `exp` itself the token is expired.
    if now >= Timestamp::from_seconds(claims.expires).plus(expect.leeway) {
        return Err(TokenFault::Expired);
    }
    if claims.not_before.is_some_and(|begin| now < Timestamp::from_seconds(begin).minus(expect.leeway)) {
        return Err(TokenFault::NotYetValid);
    }
    if *claims.issuer != *expect.issuer {
        return Err(TokenFault::Issuer);
    }
    let expected = |audience: &str| expect.audiences.iter().any(|one| **one == *audience);
    if !claims.audience.iter().any(|audience| expected(audience)) {
        return Err(TokenFault::Audience);
    }
    Ok(())
}

/// The end of a token of ours, whatever its `exp` promised when tokens lived longer than they do now: that a session has
/// ended is remembered for one life of a token, so a longer-lived one would come back after its logout.
pub fn admit_for(claims: &Claims, life: Duration, leeway: Duration, now: Timestamp) -> Result<(), TokenFault> {
    let end = Timestamp::from_seconds(claims.issued).plus(life).plus(leeway);
    if now < end { Ok(()) } else { Err(TokenFault::Expired) }
}

#[cfg(test)]
mod tests;
