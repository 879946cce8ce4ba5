//! Tokens out: access tokens for clients (RFC 9068) and identity tokens for upstreams (`gw-id+jwt`).
//!
//! Claims that do not fit an identity are a third kind, given to who asks with the identity's reference to them.
//!
//! All are compact JWS (RFC 7515 §7.1) by one of our own keys. The kinds differ by `typ`, so that none is ever
//! taken for another (RFC 8725 §3.11). E-mail, `amr` and `auth_time` ride in the access token so that the identity
//! can be forwarded while the store is lost.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde::Serialize;

use crate::policy::{
    by_reference::{ByReference, ClaimName},
    claims::Claims,
    ids::SessionId,
    keys::{KeyFault, SigningKey},
};

/// `typ` of access tokens (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// `typ` of identity tokens.
pub const IDENTITY_TOKEN_TYPE: &str = "gw-id+jwt";

/// `typ` of tokens that carry the claims an identity only refers to.
pub const CLAIMS_TOKEN_TYPE: &str = "gw-claims+jwt";

/// Life of an identity, and of what presets sign beside it.
pub const IDENTITY_LIFE: Duration = Duration::from_mins(1);

/// What an identity token is made of.
#[derive(Debug, Clone, Copy)]
pub struct IdentityClaims<'a> {
    /// `iss`: this gateway.
    pub issuer: &'a str,
    /// `aud`: the upstream.
    pub audience: &'a str,
    /// `iat`, seconds since the epoch.
    pub issued: i64,
    /// `exp`, seconds since the epoch.
    pub expires: i64,
    /// The one request it is good for; `None`: any in its life.
    pub request: Option<BoundRequest<'a>>,
    /// Who called; `None`: nobody in particular, which the token says too (`anonymous`, no `sub`).
    pub claims: Option<&'a Claims>,
    /// Where those of the claims are that do not fit.
    pub reference: Option<Reference<'a>>,
}

/// Where claims are that an identity leaves out (OIDC Core 1.0 §5.6.2).
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// Which they are.
    pub claims: ByReference,
    /// Where to ask for them.
    pub endpoint: &'a str,
    /// The bearer token that reads them.
    pub token: &'a str,
}

/// What a token of claims by reference is made of.
#[derive(Debug, Clone, Copy)]
pub struct ReferredClaims<'a> {
    /// `iss`: this gateway.
    pub issuer: &'a str,
    /// `aud`: the upstream that the identity was for.
    pub audience: &'a str,
    /// `iat`, seconds since the epoch.
    pub issued: i64,
    /// `exp`, seconds since the epoch: the identity's.
    pub expires: i64,
    /// Whose they are.
    pub claims: &'a Claims,
    /// Which of them the identity left out.
    pub named: ByReference,
}

/// The request an identity is bound to, as RFC 9449 §4.2 names the last two.
#[derive(Debug, Clone, Copy)]
pub struct BoundRequest<'a> {
    /// `rid`: the request id.
    pub id: &'a str,
    /// `htm`: the method.
    pub method: &'a str,
    /// `htu`: the URI the client asked for, without query.
    pub uri: &'a str,
}

/// An access token with exactly these claims.
pub fn access_token(key: &SigningKey, claims: &Claims) -> Result<SecretString, KeyFault> {
    let payload = AccessPayload {
        iss: &claims.issuer,
        sub: &claims.subject,
        aud: Audience(&claims.audience),
        exp: claims.expires,
        nbf: claims.not_before,
        iat: claims.issued,
        jti: &claims.token_id,
        sid: claims.session.map(Shown),
        client_id: claims.client_id.as_deref(),
        roles: &claims.roles,
        scope: Spaced(&claims.scopes),
        org: claims.org.as_deref(),
        av: claims.authorization_version,
        generation: claims.generation,
        email: claims.email.as_deref(),
        email_verified: claims.email_verified,
        amr: &claims.methods,
        auth_time: claims.auth_time,
    };
    compact(key, ACCESS_TOKEN_TYPE, &payload).map(SecretString::from)
}

/// An identity token. Not a secret in the sense of a credential: it is good for one upstream and a minute.
pub fn identity_token(key: &SigningKey, identity: &IdentityClaims<'_>) -> Result<String, KeyFault> {
    let claims = identity.claims;
    let elsewhere = identity.reference.map_or_else(ByReference::default, |reference| reference.claims);
    let payload = IdentityPayload {
        iss: identity.issuer,
        aud: identity.audience,
        iat: identity.issued,
        exp: identity.expires,
        sub: claims.map(|claims| &*claims.subject),
        anonymous: claims.is_none(),
        rid: identity.request.map(|request| request.id),
        htm: identity.request.map(|request| request.method),
        htu: identity.request.map(|request| request.uri),
        person: claims.map(|claims| Person {
            idp: (*claims.issuer != *identity.issuer).then_some(&*claims.issuer),
            email_verified: claims.email_verified,
            sid: claims.session.map(Shown),
            client_id: claims.client_id.as_deref().filter(|_| is_api_key(claims, identity.issuer)),
            auth_time: claims.auth_time,
            av: claims.authorization_version,
            open_ended: OpenEnded::without(claims, elsewhere),
        }),
        elsewhere: identity.reference.map(|reference| Elsewhere {
            claim_names: Names(reference.claims),
            claim_sources: Sources { gateway: Source { endpoint: reference.endpoint, access_token: reference.token } },
        }),
    };
    compact(key, IDENTITY_TOKEN_TYPE, &payload)
}

/// Every token of ours has a session.
fn is_api_key(claims: &Claims, own: &str) -> bool {
    claims.session.is_none() && *claims.issuer == *own
}

/// The claims that an identity left out, for the upstream that it was for.
pub fn claims_token(key: &SigningKey, referred: &ReferredClaims<'_>) -> Result<String, KeyFault> {
    let payload = ReferredPayload {
        iss: referred.issuer,
        aud: referred.audience,
        iat: referred.issued,
        exp: referred.expires,
        sub: &referred.claims.subject,
        open_ended: OpenEnded::without(referred.claims, referred.named.complement()),
    };
    compact(key, CLAIMS_TOKEN_TYPE, &payload)
}

/// Room for a signature, bytes: ECDSA on P-256 and Ed25519 make 64; a longer one grows the text once.
const SIGNATURE_LEN: usize = 64;

/// The compact serialisation, sized beforehand and signed in place.
pub(in crate::policy) fn compact(key: &SigningKey, typ: &str, payload: &impl Serialize) -> Result<String, KeyFault> {
    let header = Header { typ, alg: key.algorithm().name(), kid: key.kid() };
    let header = serde_json::to_vec(&header).map_err(|_| KeyFault::Signing)?;
    let payload = serde_json::to_vec(payload).map_err(|_| KeyFault::Signing)?;
    let mut token = String::with_capacity((header.len() + payload.len() + SIGNATURE_LEN + 3) * 4 / 3 + 4);
    URL_SAFE_NO_PAD.encode_string(header, &mut token);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

#[derive(Serialize)]
struct AccessPayload<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: Audience<'a>,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    iat: i64,
    jti: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    roles: &'a [std::sync::Arc<str>],
    scope: Spaced<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<&'a str>,
    av: u64,
    #[serde(rename = "gen")]
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    email_verified: bool,
    amr: &'a [Box<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
}

#[derive(Serialize)]
struct IdentityPayload<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    anonymous: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    htm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    htu: Option<&'a str>,
    #[serde(flatten)]
    person: Option<Person<'a>>,
    #[serde(flatten)]
    elsewhere: Option<Elsewhere<'a>>,
}

#[derive(Serialize)]
struct Person<'a> {
    /// Who says so, where that is not the gateway: `iss` of the token that the caller sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    idp: Option<&'a str>,
    email_verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<Shown>,
    /// The API key, of which this is the id. What other issuers call their clients may be of any length.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
    av: u64,
    #[serde(flatten)]
    open_ended: OpenEnded<'a>,
}

/// The claims that have no bound of their own: in the identity, or in the token it refers to.
#[derive(Serialize)]
struct OpenEnded<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<&'a [std::sync::Arc<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Spaced<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amr: Option<&'a [Box<str>]>,
}

impl<'a> OpenEnded<'a> {
    fn without(claims: &'a Claims, left_out: ByReference) -> Self {
        let here = |name| !left_out.contains(name);
        Self {
            email: claims.email.as_deref().filter(|_| here(ClaimName::Email)),
            org: claims.org.as_deref().filter(|_| here(ClaimName::Org)),
            roles: here(ClaimName::Roles).then_some(&claims.roles[..]),
            scope: here(ClaimName::Scope).then_some(Spaced(&claims.scopes)),
            amr: here(ClaimName::Amr).then_some(&claims.methods[..]),
        }
    }
}

/// Distributed claims (OIDC Core 1.0 §5.6.2), all at one source.
#[derive(Serialize)]
struct Elsewhere<'a> {
    #[serde(rename = "_claim_names")]
    claim_names: Names,
    #[serde(rename = "_claim_sources")]
    claim_sources: Sources<'a>,
}

struct Names(ByReference);

impl Serialize for Names {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.names().map(|name| (name, "gateway")))
    }
}

#[derive(Serialize)]
struct Sources<'a> {
    gateway: Source<'a>,
}

#[derive(Serialize)]
struct Source<'a> {
    endpoint: &'a str,
    access_token: &'a str,
}

#[derive(Serialize)]
struct ReferredPayload<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    sub: &'a str,
    #[serde(flatten)]
    open_ended: OpenEnded<'a>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A single audience as a string, which every library reads; several as a list (RFC 7519 §4.1.3).
struct Audience<'a>(&'a [Box<str>]);

impl Serialize for Audience<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [one] => serializer.serialize_str(one),
            many => serializer.collect_seq(many),
        }
    }
}

/// A list as one space-separated string (RFC 8693 §4.2).
struct Spaced<'a>(&'a [Box<str>]);

impl std::fmt::Display for Spaced<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { " " })?;
            f.write_str(item)?;
        }
        Ok(())
    }
}

impl Serialize for Spaced<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A session id as text, written without a string of its own.
struct Shown(SessionId);

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{
        claims::tests::{claims, full_claims},
        keys::{Algorithm, KeySet, tests::key},
        token::{TokenFault, verify},
    };

    fn part(token: &str, i: usize) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(i).unwrap()).unwrap()).unwrap()
    }

    fn identity(claims: Option<&Claims>) -> IdentityClaims<'_> {
        IdentityClaims {
            issuer: "https://gw.test",
            audience: "rag",
            issued: 1_000,
            expires: 1_060,
            request: None,
            claims,
            reference: None,
        }
    }

    #[test]
    fn an_access_token_comes_back_as_the_claims_it_was_made_of() {
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
            let key = key(algorithm);
            for claims in [claims(), full_claims()] {
                let token = access_token(&key, &claims).unwrap();
                let verified = verify(token.expose_secret(), &KeySet::new([key.verifying()])).unwrap();
                assert_eq!(*verified.claims, claims);
                assert_eq!(verified.kid, *key.kid());
            }
        }
    }

    #[test]
    fn an_access_token_names_its_kind_and_key() {
        let key = key(Algorithm::Es256);
        let token = access_token(&key, &claims()).unwrap();
        assert_eq!(part(token.expose_secret(), 0), json!({"typ": "at+jwt", "alg": "ES256", "kid": &**key.kid()}));
    }

    #[test]
    fn an_independent_library_verifies_both_kinds() {
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
            let key = key(algorithm);
            let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.verifying().jwk().clone()).unwrap();
            let token = identity_token(&key, &identity(Some(&full_claims()))).unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            let mut rules = jsonwebtoken::Validation::new(header.alg);
            rules.set_audience(&["rag"]);
            rules.validate_exp = false;
            let decoding = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
            let decoded = jsonwebtoken::decode::<Value>(&token, &decoding, &rules).unwrap();
            assert_eq!(decoded.claims["email"], "ann@example.org");
        }
    }

    #[test]
    fn an_identity_token_carries_the_identity_and_nothing_of_the_session_s_credentials() {
        let claims = full_claims();
        let token = identity_token(&key(Algorithm::Es256), &identity(Some(&claims))).unwrap();
        assert_eq!(part(&token, 0)["typ"], "gw-id+jwt");
        let expected = json!({
            "iss": "https://gw.test", "aud": "rag", "iat": 1_000, "exp": 1_060, "sub": &*claims.subject,
            "email": "ann@example.org", "email_verified": true, "org": "acme", "roles": ["analyst", "user"],
            "scope": "docs:read docs:write", "sid": claims.session.unwrap().to_string(), "amr": ["pwd"],
            "auth_time": 990, "av": 3,
        });
        assert_eq!(part(&token, 1), expected);
    }

    #[test]
    fn an_identity_says_when_another_issuer_vouches_for_it() {
        let key = key(Algorithm::Es256);
        let theirs = Claims { issuer: "https://sso.test".into(), ..claims() };
        let idp =
            |claims: &Claims| part(&identity_token(&key, &identity(Some(claims))).unwrap(), 1).get("idp").cloned();
        assert_eq!((idp(&theirs), idp(&claims())), (Some(json!("https://sso.test")), None));
    }

    #[test]
    fn an_identity_may_be_good_for_one_request_only() {
        let request = BoundRequest { id: "r-1", method: "GET", uri: "https://gw.test/ask/a" };
        let bound = IdentityClaims { request: Some(request), ..identity(None) };
        let claims = part(&identity_token(&key(Algorithm::Es256), &bound).unwrap(), 1);
        assert_eq!(
            (&claims["rid"], &claims["htm"], &claims["htu"]),
            (&json!("r-1"), &json!("GET"), &json!("https://gw.test/ask/a"))
        );
    }

    #[test]
    fn an_anonymous_identity_says_so_and_has_no_subject() {
        let token = identity_token(&key(Algorithm::EdDsa), &identity(None)).unwrap();
        let expected = json!({"iss": "https://gw.test", "aud": "rag", "iat": 1_000, "exp": 1_060, "anonymous": true});
        assert_eq!(part(&token, 1), expected);
    }

    #[test]
    fn an_identity_token_is_no_access_token() {
        let key = key(Algorithm::Es256);
        let token = identity_token(&key, &identity(Some(&claims()))).unwrap();
        assert_eq!(verify(&token, &KeySet::new([key.verifying()])).map(|_| ()), Err(TokenFault::Kind));
    }

    #[test]
    fn claims_cannot_break_out_of_their_json() {
        let key = key(Algorithm::EdDsa);
        let mut claims = claims();
        claims.subject = Arc::from("x\",\"roles\":[\"admin\"],\"y\":\"\\");
        let token = access_token(&key, &claims).unwrap();
        let verified = verify(token.expose_secret(), &KeySet::new([key.verifying()])).unwrap();
        assert_eq!(*verified.claims, claims);
    }
}
