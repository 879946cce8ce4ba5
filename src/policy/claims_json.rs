//! The JSON of tokens, header and claims, read strictly.
//!
//! A member given twice is refused (RFC 8725 §2.4 via RFC 7515 §4: parsers disagree about which counts), as is `null`
//! where a value belongs and a number spelled as a string. Members we do not know are skipped: nobody reads them.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Unexpected, Visitor},
};

use crate::policy::{claims::Claims, ids::SessionId};

/// What a header says that matters.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) alg: Cow<'a, str>,
    pub(super) typ: Option<Cow<'a, str>>,
    pub(super) kid: Option<Cow<'a, str>>,
    /// `crit` or `b64` is there, whatever its value.
    pub(super) critical: bool,
    /// `jwk`, `jku`, `x5u` or `x5c` is there, whatever its value.
    pub(super) embedded_key: bool,
}

/// A JOSE header (RFC 7515 §4).
pub(super) fn header(json: &[u8]) -> Option<Header<'_>> {
    let raw: RawHeader<'_> = object(json)?;
    Some(Header {
        alg: raw.alg.0,
        typ: raw.typ.map(|text| text.0),
        kid: raw.kid.map(|text| text.0),
        critical: raw.crit.0 || raw.b64.0,
        embedded_key: raw.jwk.0 || raw.jku.0 || raw.x5u.0 || raw.x5c.0,
    })
}

/// The claims of an access token (RFC 9068 §2.2).
///
/// Times are a `NumericDate` (RFC 7519 §2), which may have a fraction: it is rounded so that the token lives shorter,
/// never longer. Anything but a finite number within ±2^53 is refused.
pub(super) fn claims(json: &[u8]) -> Option<Claims> {
    let raw: RawClaims<'_> = object(json)?;
    if raw.iss.0.is_empty() || raw.sub.0.is_empty() || raw.jti.0.is_empty() || raw.aud.0.is_empty() {
        return None;
    }
    let session = raw.sid.map(|text| text.0.parse::<SessionId>()).transpose().ok()?;
    Some(Claims {
        issuer: raw.iss.0.into(),
        subject: raw.sub.0.into(),
        audience: raw.aud.0,
        expires: raw.exp.floor(),
        not_before: raw.nbf.map(NumericDate::ceil),
        issued: raw.iat.floor(),
        token_id: raw.jti.into_boxed(),
        session,
        client_id: raw.client_id.map(Text::into_boxed),
        roles: raw.roles,
        scopes: raw.scope.map(|text| text.0.split_ascii_whitespace().map(Box::from).collect()).unwrap_or_default(),
        org: raw.org.map(Text::into_boxed),
        authorization_version: raw.av,
        generation: raw.generation,
        email: raw.email.map(Text::into_boxed),
        email_verified: raw.email_verified,
        methods: raw.amr,
        auth_time: raw.auth_time.map(NumericDate::floor),
    })
}

/// `iss` alone.
pub(super) fn issuer(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer<'a> {
        #[serde(borrow)]
        iss: Text<'a>,
    }
    object::<Issuer<'_>>(json).map(|claims| claims.iss.0.into_owned())
}

/// The claims of another issuer's access token, of which only these are demanded: `iss`, `sub`, `aud` and `exp`. What
/// roles, scopes and organisation it gives is the issuer's mapping to say; see [`crate::policy::foreign`].
pub(super) struct ForeignClaims<'a> {
    raw: RawForeign<'a>,
}

/// See [`ForeignClaims`].
pub(super) fn foreign(json: &[u8]) -> Option<ForeignClaims<'_>> {
    let raw: RawForeign<'_> = object(json)?;
    let empty = raw.iss.0.is_empty() || raw.sub.0.is_empty() || raw.aud.0.is_empty();
    (!empty).then_some(ForeignClaims { raw })
}

impl ForeignClaims<'_> {
    /// `sub`.
    pub(super) fn subject(&self) -> &str {
        &self.raw.sub.0
    }

    /// As claims, without what is the mapping's to say. A token that does not say when it was issued counts as issued
    /// `now`, seconds since the epoch.
    pub(super) fn into_claims(self, now: i64) -> Claims {
        let raw = self.raw;
        Claims {
            issuer: raw.iss.0.into(),
            subject: raw.sub.0.into(),
            audience: raw.aud.0,
            expires: raw.exp.floor(),
            not_before: raw.nbf.map(NumericDate::ceil),
            issued: raw.iat.map_or(now, NumericDate::floor),
            token_id: raw.jti.map(Text::into_boxed).unwrap_or_default(),
            session: None,
            client_id: raw.client_id.or(raw.azp).map(Text::into_boxed),
            roles: Vec::new(),
            scopes: Vec::new(),
            org: None,
            authorization_version: 0,
            generation: 0,
            email: raw.email.map(Text::into_boxed),
            email_verified: raw.email_verified.0,
            methods: raw.amr,
            auth_time: raw.auth_time.map(NumericDate::floor),
        }
    }
}

/// serde's derive would read a list as the members in their order; only an object is a header or a claims set.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    // As text, or bytes that are none would be skipped over in members we do not know (RFC 8259 §8.1).
    serde_json::from_str(std::str::from_utf8(json).ok()?).ok()
}

// serde's derive refuses a known member that comes twice; the tests hold it to that.
#[derive(Deserialize)]
struct RawHeader<'a> {
    #[serde(borrow)]
    alg: Text<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    typ: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    kid: Option<Text<'a>>,
    #[serde(default)]
    crit: Presence,
    #[serde(default)]
    b64: Presence,
    #[serde(default)]
    jwk: Presence,
    #[serde(default)]
    jku: Presence,
    #[serde(default)]
    x5u: Presence,
    #[serde(default)]
    x5c: Presence,
}

#[derive(Deserialize)]
struct RawClaims<'a> {
    #[serde(borrow)]
    iss: Text<'a>,
    #[serde(borrow)]
    sub: Text<'a>,
    aud: Audience,
    exp: NumericDate,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<NumericDate>,
    iat: NumericDate,
    #[serde(borrow)]
    jti: Text<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    sid: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    client_id: Option<Text<'a>>,
    #[serde(default)]
    roles: Vec<Arc<str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    scope: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    org: Option<Text<'a>>,
    #[serde(default)]
    av: u64,
    #[serde(default, rename = "gen")]
    generation: u64,
    #[serde(borrow, default, deserialize_with = "present")]
    email: Option<Text<'a>>,
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    amr: Vec<Box<str>>,
    #[serde(default, deserialize_with = "present")]
    auth_time: Option<NumericDate>,
}

#[derive(Deserialize)]
struct RawForeign<'a> {
    #[serde(borrow)]
    iss: Text<'a>,
    #[serde(borrow)]
    sub: Text<'a>,
    aud: Audience,
    exp: NumericDate,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "present")]
    iat: Option<NumericDate>,
    #[serde(borrow, default, deserialize_with = "present")]
    jti: Option<Text<'a>>,
    #[serde(borrow, default)]
    client_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    azp: Option<Text<'a>>,
    #[serde(borrow, default)]
    email: Option<Text<'a>>,
    #[serde(default)]
    email_verified: Truth,
    #[serde(default)]
    amr: Vec<Box<str>>,
    #[serde(default)]
    auth_time: Option<NumericDate>,
}

/// `true`, and nothing else but the same word as a string, which some issuers write.
#[derive(Default)]
struct Truth(bool);

impl<'de> Deserialize<'de> for Truth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Self(value == true || value == "true"))
    }
}

/// A member that is either absent or a value: `null` is neither.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Borrowed when the JSON holds no escapes; plain `Cow<str>` would always copy behind an `Option`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    fn into_boxed(self) -> Box<str> {
        self.0.into_owned().into_boxed_str()
    }
}

/// Whether a member is there, whatever it holds.
#[derive(Default)]
struct Presence(bool);

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

/// `aud`: one string or a list of them (RFC 7519 §4.1.3).
struct Audience(Vec<Box<str>>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Audience, E> {
                Ok(Audience(vec![text.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Audience, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Audience(all))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Seconds since the epoch, perhaps with a fraction.
#[derive(Clone, Copy)]
enum NumericDate {
    Whole(i64),
    Fraction(f64),
}

/// Integers up to here are exact in a double (RFC 8259 §6): beyond, readers disagree about the value.
const MAX_EXACT: i64 = 1 << 53;

impl NumericDate {
    fn floor(self) -> i64 {
        match self {
            Self::Whole(seconds) => seconds,
            Self::Fraction(seconds) => truncate(seconds.floor()),
        }
    }

    fn ceil(self) -> i64 {
        match self {
            Self::Whole(seconds) => seconds,
            Self::Fraction(seconds) => truncate(seconds.ceil()),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "whole and within ±2^53, checked when it was read")]
fn truncate(whole: f64) -> i64 {
    whole as i64
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds within ±2^53")
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<NumericDate, E> {
                if seconds.unsigned_abs() > MAX_EXACT.unsigned_abs() {
                    return Err(E::invalid_value(Unexpected::Signed(seconds), &self));
                }
                Ok(NumericDate::Whole(seconds))
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<NumericDate, E> {
                let signed = i64::try_from(seconds);
                signed
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(seconds), &self))
                    .and_then(|s| self.visit_i64(s))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<NumericDate, E> {
                #[expect(clippy::cast_precision_loss, reason = "2^53 is exact in a double")]
                let limit = MAX_EXACT as f64;
                if !seconds.is_finite() || seconds.abs() > limit {
                    return Err(E::invalid_value(Unexpected::Float(seconds), &self));
                }
                Ok(NumericDate::Fraction(seconds))
            }
        }
        deserializer.deserialize_any(Number)
    }
}
