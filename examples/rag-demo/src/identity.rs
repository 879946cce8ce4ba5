//! Who asks: verifies the gateway's identity token (a JWS, RFC 7515, with the claims of RFC 7519). The only thing
//! this service believes; plain `X-User-*` headers are never read, since anyone who reaches this port could set them.

use axum::http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;

/// The header that carries the token.
pub const HEADER: &str = "x-gateway-identity";
/// Its `typ`: no other token of the same issuer (an access token, say) can take its place (RFC 8725 §3.11).
const TYP: &str = "gw-id+jwt";
/// Larger than any real one.
const MAX_BYTES: usize = 8 * 1024;
/// Clock skew forgiven, seconds; the token lives for 60.
const LEEWAY: u64 = 10;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The gateway vouches that nobody logged in.
    Anonymous,
    /// The gateway vouches for this user.
    User(User),
}

/// A user the gateway vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `sub`: stable for ever.
    pub subject: String,
    /// `email`, only when the gateway knows that it is this user's (or this service was told not to mind).
    pub email: Option<String>,
    /// `roles`.
    pub roles: Vec<String>,
}

impl Caller {
    /// A name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User(user) => user.email.as_deref().unwrap_or(&user.subject),
        }
    }
}

/// Why a token is not believed. For the log; the caller learns only that it is not.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// The header is missing, doubled or not text.
    #[error("there is not exactly one {HEADER} header")]
    Missing,
    /// Too long, another `typ`, an algorithm or a header field that is never used here.
    #[error("not an identity token: {0}")]
    Shape(&'static str),
    /// No published key has this `kid`.
    #[error("no published key is called {0:?}")]
    Key(String),
    /// The signature, the time, the issuer or the audience.
    #[error(transparent)]
    Token(#[from] jsonwebtoken::errors::Error),
}

/// What every token must say.
#[derive(Debug, Clone)]
pub struct Expected {
    /// `iss`: the gateway.
    pub issuer: String,
    /// `aud`: this service, by the name of its cluster.
    pub audience: String,
    /// Take `email` for the user's although `email_verified` is not true.
    pub accept_unverified_email: bool,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    #[serde(default)]
    anonymous: bool,
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    roles: Vec<String>,
}

/// A token whose header was looked at: which key it wants.
#[derive(Debug)]
pub struct Unverified<'a> {
    token: &'a str,
    algorithm: Algorithm,
    /// `kid`.
    pub key_id: String,
}

/// Takes the token from the headers and looks at its own header, to learn which key it wants.
///
/// # Errors
/// [`Doubt::Missing`], [`Doubt::Shape`], or [`Doubt::Token`] when it is no JWS at all.
pub fn take(headers: &HeaderMap) -> Result<Unverified<'_>, Doubt> {
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Doubt::Missing) };
    let token = value.to_str().map_err(|_| Doubt::Missing)?;
    if token.len() > MAX_BYTES {
        return Err(Doubt::Shape("too long"));
    }
    let Header { typ, alg, kid, crit, jku, jwk, x5u, .. } = jsonwebtoken::decode_header(token)?;
    if !typ.is_some_and(|typ| typ.eq_ignore_ascii_case(TYP)) {
        return Err(Doubt::Shape("another typ"));
    }
    if !matches!(alg, Algorithm::ES256 | Algorithm::EdDSA | Algorithm::RS256) {
        return Err(Doubt::Shape("another algorithm"));
    }
    // A token that brings its own key, or asks for rules we do not know (RFC 7515 §4.1.11).
    if crit.is_some() || jku.is_some() || jwk.is_some() || x5u.is_some() {
        return Err(Doubt::Shape("a header field that is refused"));
    }
    let key_id = kid.ok_or(Doubt::Shape("no kid"))?;
    Ok(Unverified { token, algorithm: alg, key_id })
}

/// Verifies signature, issuer, audience and time.
///
/// # Errors
/// [`Doubt::Token`] says which failed; [`Doubt::Shape`] when the claims name nobody and do not say so.
pub fn verify(token: &Unverified<'_>, key: &(Algorithm, DecodingKey), expected: &Expected) -> Result<Caller, Doubt> {
    let (algorithm, key) = key;
    // One algorithm per key (RFC 8725 §3.1): what the key set says, not what the token says.
    if token.algorithm != *algorithm {
        return Err(Doubt::Shape("an algorithm that is not its key's"));
    }
    let mut validation = Validation::new(*algorithm);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.set_issuer(&[&expected.issuer]);
    validation.set_audience(&[&expected.audience]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY;
    let claims = jsonwebtoken::decode::<Claims>(token.token, key, &validation)?.claims;
    match (claims.anonymous, claims.sub) {
        (true, None) => Ok(Caller::Anonymous),
        (false, Some(subject)) if !subject.is_empty() => {
            let email = claims.email.filter(|_| claims.email_verified || expected.accept_unverified_email);
            Ok(Caller::User(User { subject, email, roles: claims.roles }))
        }
        _ => Err(Doubt::Shape("neither a user nor anonymous")),
    }
}
