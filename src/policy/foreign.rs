//! Access tokens of other issuers: what one must be like, and which roles, scopes and organisation it gives here.
//!
//! An issuer says who somebody is; what that is worth here is the mapping's to say. Its `sub` is prefixed with the
//! issuer's name, so that no issuer can name a user of another one or of ours; taken as it is (`subject: bare`) only
//! where the configuration's check has seen that nobody else names any. `admin` comes only of a mapping that spells it
//! out. Roles end up in a header, separated by commas: whatever could be read as two is none.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    policy::{
        claims::Claims,
        claims_json,
        keys::{Algorithm, KeySet, VerifyingKey},
        token::{self, TokenFault, Verified},
    },
};

/// Kinds of token an issuer's access tokens are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum TokenType {
    /// `at+jwt` (RFC 9068).
    #[serde(rename = "at+jwt")]
    AccessToken,
    /// `JWT`, or no `typ` at all.
    #[serde(rename = "JWT")]
    Jwt,
}

impl TokenType {
    fn is(self, typ: Option<&str>) -> bool {
        match (self, typ) {
            (Self::AccessToken, Some(typ)) => token::is_access_token(typ),
            (Self::AccessToken, None) => false,
            (Self::Jwt, typ) => {
                typ.is_none_or(|typ| typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("application/jwt"))
            }
        }
    }
}

impl fmt::Display for TokenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccessToken => "at+jwt",
            Self::Jwt => "JWT",
        })
    }
}

/// The way to a claim: names of members, from the outside in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Vec<Box<str>>);

impl ClaimPath {
    /// `realm_access.roles`; a name that is a URL is taken whole; a JSON Pointer (RFC 6901) says any name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let names: Vec<Box<str>> = match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(unescaped).collect::<Option<_>>()?,
            None if text.contains("://") => vec![text.into()],
            None => text.split('.').map(Box::from).collect(),
        };
        let ok = names.len() <= 8 && names.iter().all(|name| !name.is_empty());
        ok.then_some(Self(names))
    }

    fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(claims, |value, name| value.as_object()?.get(&**name))
    }
}

/// RFC 6901 §4.
fn unescaped(segment: &str) -> Option<Box<str>> {
    let rest = segment.replace("~0", "").replace("~1", "");
    (!rest.contains('~')).then(|| segment.replace("~1", "/").replace("~0", "~").into())
}

/// What an issuer's claims mean here.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// Where roles are: a string or a list of them.
    pub roles: Vec<ClaimPath>,
    /// Where scopes are: a string of several, or a list.
    pub scopes: Vec<ClaimPath>,
    /// Where the organisation is.
    pub org: Option<ClaimPath>,
    /// What roles of the issuer's are called here. One that is not listed keeps its name, unless that is `admin`.
    pub role_names: BTreeMap<String, Arc<str>>,
}

/// What tokens of an issuer must be like.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `iss`, byte for byte.
    pub issuer: Arc<str>,
    /// `alg` values it may use.
    pub algorithms: Vec<Algorithm>,
    /// `typ` values it may use.
    pub types: Vec<TokenType>,
    /// From `iat` to `exp` at most.
    pub max_lifetime: Duration,
    /// What its claims mean here.
    pub mapping: Mapping,
    /// `sub` is taken over as it is, not prefixed. Only where nobody else names subjects.
    pub bare_subject: bool,
}

/// Checks form, header and signature of an issuer's token, and maps its claims. Cacheable, as
/// [`token::verify`] is: what depends on the route is [`token::admit`]'s.
pub fn verify(token: &str, keys: &KeySet, rules: &TokenRules, now: Timestamp) -> Result<Verified, TokenFault> {
    verify_if(token, keys, rules, now, |_| Ok(()))
}

/// The same; `may`: see [`token::verify_if`].
pub fn verify_if(
    token: &str,
    keys: &KeySet,
    rules: &TokenRules,
    now: Timestamp,
    may: impl FnOnce(&VerifyingKey) -> Result<(), TokenFault>,
) -> Result<Verified, TokenFault> {
    let kind = |typ: Option<&str>| rules.types.iter().any(|one| one.is(typ));
    let (payload, key) = token::signed(token, keys, kind, &rules.algorithms, may)?;
    let Unique(all) = serde_json::from_slice(&payload).map_err(|_| TokenFault::Malformed)?;
    let known = claims_json::foreign(&payload).ok_or(TokenFault::Malformed)?;
    let subject = known_as(known.subject(), rules)?;
    let mut claims = Claims {
        subject,
        roles: roles(&all, &rules.mapping),
        scopes: scopes(&all, &rules.mapping),
        org: rules.mapping.org.as_ref().and_then(|path| plain(path.find(&all)?.as_str()?)).map(Box::from),
        ..known.into_claims(now.seconds())
    };
    claims.email = claims.email.filter(|address| is_address(address));
    // The keys are one issuer's: a token that claims to be another's is nobody's.
    if claims.issuer != rules.issuer {
        return Err(TokenFault::Issuer);
    }
    // Counted from now at the latest: dating a token ahead must not buy it a longer life.
    let begin = Timestamp::from_seconds(claims.issued.min(now.seconds()));
    if Timestamp::from_seconds(claims.expires).since(begin) > rules.max_lifetime {
        return Err(TokenFault::Lifetime);
    }
    Ok(Verified { claims: Arc::new(claims), kid: Arc::clone(&key.thumbprint) })
}

/// The longest `sub` (OIDC Core §2), bytes.
const MAX_SUBJECT: usize = 255;

/// What upstreams, limits and logs know the subject by: visible ASCII, so that no two readings of it differ.
pub fn known_as(sub: &str, rules: &TokenRules) -> Result<Arc<str>, TokenFault> {
    if sub.len() > MAX_SUBJECT || !sub.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') || sub.trim() != sub
    {
        return Err(TokenFault::Malformed);
    }
    Ok(if rules.bare_subject { sub.into() } else { format!("{}:{sub}", rules.name).into() })
}

fn roles(claims: &Value, mapping: &Mapping) -> Vec<Arc<str>> {
    let mut roles: Vec<Arc<str>> = Vec::new();
    for given in mapping.roles.iter().filter_map(|path| path.find(claims)).flat_map(texts) {
        let role = match mapping.role_names.get(given) {
            Some(role) => Some(Arc::clone(role)),
            // Whoever can have themselves called admin elsewhere is nobody's administrator here.
            None => plain(given).filter(|role| !role.eq_ignore_ascii_case("admin")).map(Arc::from),
        };
        roles.extend(role.filter(|role| !roles.contains(role)));
    }
    roles
}

fn scopes(claims: &Value, mapping: &Mapping) -> Vec<Box<str>> {
    let mut scopes: Vec<Box<str>> = Vec::new();
    let given = mapping.scopes.iter().filter_map(|path| path.find(claims)).flat_map(texts);
    for scope in given.flat_map(str::split_ascii_whitespace) {
        // RFC 6749 §3.3.
        let ok = scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        if ok && !scopes.iter().any(|one| **one == *scope) {
            scopes.push(scope.into());
        }
    }
    scopes
}

/// The strings of a string or a list; anything else in it is nobody's role.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    value.as_str().into_iter().chain(list.iter().filter_map(Value::as_str))
}

/// Visible ASCII and inner spaces, at most 128 bytes, without a comma: one value, however a header is read.
#[must_use]
pub fn plain(text: &str) -> Option<&str> {
    let ok = !text.is_empty()
        && text.len() <= 128
        && text.trim() == text
        && text.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && byte != b',');
    ok.then_some(text)
}

/// The longest address (RFC 5321 §4.5.3.1.3, without the brackets), bytes.
const MAX_ADDRESS: usize = 254;

/// An address that a header tells as it is. With a blank at its end it would arrive as one without, which may be somebody
/// else's (RFC 9110 §5.5).
fn is_address(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ADDRESS && text.trim() == text && !text.contains(char::is_control)
}

/// JSON of which every reader makes the same: no member comes twice, at whatever depth (RFC 8725 §2.4).
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
                let mut all = Vec::new();
                while let Some(Unique(item)) = items.next_element()? {
                    all.push(item);
                }
                Ok(Unique(all.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
                let mut all = Map::new();
                while let Some((name, Unique(value))) = members.next_entry::<String, _>()? {
                    if all.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member twice"));
                    }
                }
                Ok(Unique(all.into()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests;
