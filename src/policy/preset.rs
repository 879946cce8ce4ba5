//! How other gateways tell a service who calls, for services that were written to stand behind one of them.
//!
//! Each follows what its product publishes for those who verify it: Pomerium (*JWT Verification*), Google's
//! Identity-Aware Proxy (*Securing your app with signed headers*), Cloudflare Access (*Application token*), and Open
//! WebUI towards the backends it calls (`ENABLE_FORWARD_USER_INFO_HEADERS`). An address is told only when it is
//! verified, and an anonymous caller by none of them: behind those products absence means nobody.
//!
//! `typ` is `JWT`, as theirs is, so that no assertion is ever taken for an access token of ours (RFC 8725 §3.11).

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::policy::{
    claims::Claims,
    keys::{Algorithm, KeyFault, SigningKey},
    mint,
};

/// `typ` of every assertion.
const TYPE: &str = "JWT";

/// What stands before ids and addresses in Google's headers: whose they are.
const GOOGLE: &str = "accounts.google.com:";

/// `iss` of Google's assertions, whoever the caller.
const GOOGLE_ISSUER: &str = "https://cloud.google.com/iap";

/// `country` where it is not known, as Cloudflare writes it.
const NO_COUNTRY: &str = "XX";

/// What Open WebUI leaves as it is in a name: Python's `quote(name, safe=" ")`.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b' ');

const POMERIUM: HeaderName = HeaderName::from_static("x-pomerium-jwt-assertion");
const IAP: HeaderName = HeaderName::from_static("x-goog-iap-jwt-assertion");
const IAP_EMAIL: HeaderName = HeaderName::from_static("x-goog-authenticated-user-email");
const IAP_ID: HeaderName = HeaderName::from_static("x-goog-authenticated-user-id");
const CLOUDFLARE: HeaderName = HeaderName::from_static("cf-access-jwt-assertion");
const CLOUDFLARE_EMAIL: HeaderName = HeaderName::from_static("cf-access-authenticated-user-email");
const WEBUI_NAME: HeaderName = HeaderName::from_static("x-openwebui-user-name");
const WEBUI_ID: HeaderName = HeaderName::from_static("x-openwebui-user-id");
const WEBUI_EMAIL: HeaderName = HeaderName::from_static("x-openwebui-user-email");
const WEBUI_ROLE: HeaderName = HeaderName::from_static("x-openwebui-user-role");

static POMERIUM_SETS: [HeaderName; 1] = [POMERIUM];
static IAP_SETS: [HeaderName; 3] = [IAP, IAP_EMAIL, IAP_ID];
static CLOUDFLARE_SETS: [HeaderName; 2] = [CLOUDFLARE, CLOUDFLARE_EMAIL];
static WEBUI_SETS: [HeaderName; 4] = [WEBUI_NAME, WEBUI_ID, WEBUI_EMAIL, WEBUI_ROLE];

/// Whose format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Pomerium's signed header.
    Pomerium,
    /// Google's Identity-Aware Proxy.
    GoogleIap,
    /// Cloudflare Access.
    CloudflareAccess,
    /// Open WebUI's, unsigned.
    OpenWebui,
}

impl Preset {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Pomerium, Self::GoogleIap, Self::CloudflareAccess, Self::OpenWebui];

    /// What it is signed with, by a published key; `None`: it is not signed.
    #[must_use]
    pub const fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Pomerium | Self::GoogleIap => Some(Algorithm::Es256),
            Self::CloudflareAccess => Some(Algorithm::Rs256),
            Self::OpenWebui => None,
        }
    }

    /// Every header it sets, the signed one first. Each is reserved ([`crate::policy::headers`]).
    #[must_use]
    pub fn headers(self) -> &'static [HeaderName] {
        match self {
            Self::Pomerium => &POMERIUM_SETS,
            Self::GoogleIap => &IAP_SETS,
            Self::CloudflareAccess => &CLOUDFLARE_SETS,
            Self::OpenWebui => &WEBUI_SETS,
        }
    }

    /// Whether it says which host the service is; for those that do not, all hosts are one.
    #[must_use]
    pub const fn tells_host(self) -> bool {
        matches!(self, Self::Pomerium)
    }

    /// Where its readers look for keys, each a key set of its own.
    #[must_use]
    pub const fn key_paths(self) -> &'static [&'static str] {
        match self {
            Self::Pomerium => &["/.well-known/pomerium/jwks.json"],
            Self::GoogleIap => &["/iap/verify/public_key", "/iap/verify/public_key-jwk"],
            Self::CloudflareAccess => &["/cdn-cgi/access/certs"],
            Self::OpenWebui => &[],
        }
    }
}

/// What headers are made of.
#[derive(Debug, Clone, Copy)]
pub struct Assertion<'a> {
    /// Our own `iss`: Cloudflare's team domain.
    pub issuer: &'a str,
    /// The service's host as clients see it: Pomerium's `iss` and `aud`.
    pub host: &'a str,
    /// `aud` of the others.
    pub audience: &'a str,
    /// `iat`, seconds since the epoch.
    pub issued: i64,
    /// `exp`, seconds since the epoch.
    pub expires: i64,
    /// Who calls.
    pub claims: &'a Claims,
}

/// The headers of one caller. `key` must be of [`Preset::algorithm`]; one of another is not signed with.
pub fn headers(
    preset: Preset,
    key: Option<&SigningKey>,
    assertion: &Assertion<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, KeyFault> {
    let key = || key.filter(|key| Some(key.algorithm()) == preset.algorithm()).ok_or(KeyFault::Signing);
    let claims = assertion.claims;
    let email = claims.email.as_deref().filter(|_| claims.email_verified);
    Ok(match preset {
        Preset::Pomerium => vec![(POMERIUM, signed(key()?, &pomerium(assertion, email))?)],
        Preset::GoogleIap => {
            let payload = google(assertion, email);
            let mut headers = vec![(IAP, signed(key()?, &payload)?)];
            headers.extend(plain(IAP_ID, Some(&payload.sub)));
            headers.extend(plain(IAP_EMAIL, email.map(|email| format!("{GOOGLE}{email}")).as_deref()));
            headers
        }
        Preset::CloudflareAccess => {
            let mut headers = vec![(CLOUDFLARE, signed(key()?, &cloudflare(assertion, email))?)];
            headers.extend(plain(CLOUDFLARE_EMAIL, email));
            headers
        }
        Preset::OpenWebui => open_webui(claims, email),
    })
}

/// Every claim is there whether there is something to say or not, as it is with Pomerium.
#[derive(Serialize)]
struct Pomerium<'a> {
    iss: &'a str,
    aud: &'a str,
    jti: String,
    iat: i64,
    exp: i64,
    sub: &'a str,
    user: &'a str,
    email: &'a str,
    groups: &'a [std::sync::Arc<str>],
    sid: String,
    /// Empty: access tokens do not tell it.
    name: &'static str,
}

fn pomerium<'a>(assertion: &Assertion<'a>, email: Option<&'a str>) -> Pomerium<'a> {
    let claims = assertion.claims;
    Pomerium {
        iss: assertion.host,
        aud: assertion.host,
        jti: jti(assertion),
        iat: assertion.issued,
        exp: assertion.expires,
        sub: &claims.subject,
        user: &claims.subject,
        email: email.unwrap_or_default(),
        groups: &claims.roles,
        sid: claims.session.map(|session| session.to_string()).unwrap_or_default(),
        name: "",
    }
}

/// One for these claims, this host and this second: tokens of other issuers may have no id of their own.
fn jti(assertion: &Assertion<'_>) -> String {
    let claims = assertion.claims;
    let times = [assertion.issued, claims.issued, claims.expires].map(|time| time.to_string());
    let who = [&*claims.issuer, &*claims.subject, &*claims.token_id, assertion.host];
    let times = times.iter().map(String::as_str);
    digest_of(who.into_iter().chain(times).chain(claims.roles.iter().map(|role| &**role)))
}

#[derive(Serialize)]
struct Google<'a> {
    iss: &'static str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
}

fn google<'a>(assertion: &Assertion<'a>, email: Option<&'a str>) -> Google<'a> {
    Google {
        iss: GOOGLE_ISSUER,
        aud: assertion.audience,
        iat: assertion.issued,
        exp: assertion.expires,
        sub: format!("{GOOGLE}{}", assertion.claims.subject),
        email,
    }
}

#[derive(Serialize)]
struct Cloudflare<'a> {
    aud: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    exp: i64,
    iat: i64,
    nbf: i64,
    iss: &'a str,
    r#type: &'static str,
    /// The same for a session: there it names what is known of the user.
    identity_nonce: String,
    sub: &'a str,
    country: &'static str,
}

fn cloudflare<'a>(assertion: &Assertion<'a>, email: Option<&'a str>) -> Cloudflare<'a> {
    let claims = assertion.claims;
    let session = claims.session.map(|session| session.to_string()).unwrap_or_default();
    let mut identity_nonce = digest_of([&*claims.issuer, &*claims.subject, &*session]);
    identity_nonce.truncate(16);
    Cloudflare {
        aud: [assertion.audience],
        email,
        exp: assertion.expires,
        iat: assertion.issued,
        nbf: assertion.issued,
        iss: assertion.issuer,
        r#type: "app",
        identity_nonce,
        sub: &claims.subject,
        country: NO_COUNTRY,
    }
}

/// The name is the address, else the id: Open WebUI itself takes the address for a name where it is told none.
fn open_webui(claims: &Claims, email: Option<&str>) -> Vec<(HeaderName, HeaderValue)> {
    let name = utf8_percent_encode(email.unwrap_or(&claims.subject), NAME).to_string();
    let admin = claims.roles.iter().any(|role| **role == *"admin");
    let role = if admin { "admin" } else { "user" };
    let told = [
        (WEBUI_NAME, Some(&*name)),
        (WEBUI_ID, Some(&*claims.subject)),
        (WEBUI_EMAIL, email),
        (WEBUI_ROLE, Some(role)),
    ];
    told.into_iter().filter_map(|(header, value)| plain(header, value)).collect()
}

fn signed(key: &SigningKey, payload: &impl Serialize) -> Result<HeaderValue, KeyFault> {
    let token = mint::compact(key, TYPE, payload)?;
    let mut value = HeaderValue::try_from(token).map_err(|_| KeyFault::Signing)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Bytes, since an internationalised address (RFC 6531) is not ASCII. What no header can carry is not told.
fn plain(name: HeaderName, value: Option<&str>) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::from_bytes(value?.as_bytes()).ok().map(|value| (name, value))
}

/// One text for these parts and no others.
fn digest_of<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(&context.finish().as_ref()[..24])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{
        claims::tests::{claims, full_claims},
        headers::is_reserved,
        keys::{KeySet, tests::key},
        token::{TokenFault, verify},
    };

    fn assertion(claims: &Claims) -> Assertion<'_> {
        Assertion {
            issuer: "https://gw.test",
            host: "rag.test",
            audience: "rag",
            issued: 1_000,
            expires: 1_060,
            claims,
        }
    }

    fn made(preset: Preset, claims: &Claims) -> Vec<(HeaderName, HeaderValue)> {
        let key = preset.algorithm().map(key);
        headers(preset, key.as_ref(), &assertion(claims)).unwrap()
    }

    fn told(preset: Preset, claims: &Claims) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
        let all = made(preset, claims);
        let plain = all.iter().filter(|(_, value)| !value.is_sensitive());
        plain.map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn payload(preset: Preset, claims: &Claims) -> Value {
        let (_, value) = made(preset, claims).into_iter().find(|(_, value)| value.is_sensitive()).unwrap();
        let part = value.to_str().unwrap().split('.').nth(1).unwrap().to_owned();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn each_sets_the_headers_it_says_and_all_of_them_are_reserved() {
        for preset in Preset::ALL {
            let said: HashSet<_> = preset.headers().iter().collect();
            let made = made(preset, &full_claims());
            assert_eq!(made.iter().map(|(name, _)| name).collect::<HashSet<_>>(), said, "{preset:?}");
            assert!(preset.headers().iter().all(is_reserved), "{preset:?}");
        }
    }

    #[test]
    fn pomerium_s_reader_finds_every_claim() {
        let claims = full_claims();
        let mut found = payload(Preset::Pomerium, &claims);
        assert!(found["jti"].take().as_str().unwrap().len() >= 22);
        let expected = json!({
            "iss": "rag.test", "aud": "rag.test", "jti": null, "iat": 1_000, "exp": 1_060, "sub": &*claims.subject,
            "user": &*claims.subject, "email": "ann@example.org", "groups": ["analyst", "user"],
            "sid": claims.session.unwrap().to_string(), "name": "",
        });
        assert_eq!(found, expected);
        let jti = |issued| {
            let later = Assertion { issued, ..assertion(&claims) };
            pomerium(&later, None).jti
        };
        assert_ne!(jti(1_000), jti(1_001));
    }

    #[test]
    fn no_two_callers_assertions_have_one_id_though_their_tokens_have_none() {
        let nameless = Claims { token_id: "".into(), session: None, ..claims() };
        let jti = |claims: &Claims| pomerium(&assertion(claims), None).jti;
        for other in [
            Claims { subject: "sso:eve".into(), ..nameless.clone() },
            Claims { expires: nameless.expires + 1, ..nameless.clone() },
            Claims { roles: vec!["reader".into()], ..nameless.clone() },
        ] {
            assert_ne!(jti(&nameless), jti(&other), "{other:?}");
        }
        assert_eq!(jti(&nameless), jti(&nameless.clone()));
    }

    #[test]
    fn iap_s_reader_finds_google_s_issuer_and_prefixes() {
        let claims = full_claims();
        let id = format!("accounts.google.com:{}", claims.subject);
        let expected = json!({
            "iss": "https://cloud.google.com/iap", "aud": "rag", "iat": 1_000, "exp": 1_060, "sub": id,
            "email": "ann@example.org",
        });
        assert_eq!(payload(Preset::GoogleIap, &claims), expected);
        let pairs = [
            ("x-goog-authenticated-user-id", &*id),
            ("x-goog-authenticated-user-email", "accounts.google.com:ann@example.org"),
        ];
        assert_eq!(told(Preset::GoogleIap, &claims), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn cloudflare_s_reader_finds_our_issuer_and_a_list_of_audiences() {
        let claims = full_claims();
        let found = payload(Preset::CloudflareAccess, &claims);
        let expected = json!({
            "aud": ["rag"], "email": "ann@example.org", "exp": 1_060, "iat": 1_000, "nbf": 1_000,
            "iss": "https://gw.test", "type": "app", "identity_nonce": found["identity_nonce"],
            "sub": &*claims.subject, "country": "XX",
        });
        assert_eq!(found, expected);
        assert_eq!(found["identity_nonce"].as_str().map(str::len), Some(16));
    }

    #[test]
    fn open_webui_s_reader_finds_a_quoted_name_and_one_of_its_roles() {
        let value = |claims: &Claims, name: &str| {
            told(Preset::OpenWebui, claims).into_iter().find(|(told, _)| told == name).map(|(_, value)| value)
        };
        let mut claims = full_claims();
        assert_eq!(value(&claims, "x-openwebui-user-name").as_deref(), Some("ann%40example.org"));
        assert_eq!(value(&claims, "x-openwebui-user-email").as_deref(), Some("ann@example.org"));
        assert_eq!(value(&claims, "x-openwebui-user-role").as_deref(), Some("user"));
        claims.roles.push("admin".into());
        assert_eq!(value(&claims, "x-openwebui-user-role").as_deref(), Some("admin"));
        // As Python quotes it, byte by byte of UTF-8.
        claims.email = Some("jörg o'%~_.-x".into());
        assert_eq!(value(&claims, "x-openwebui-user-name").as_deref(), Some("j%C3%B6rg o%27%25~_.-x"));
    }

    #[test]
    fn an_address_nobody_verified_is_told_by_none() {
        let claims = Claims { email: Some("ann@example.org".into()), email_verified: false, ..claims() };
        for preset in Preset::ALL {
            assert!(told(preset, &claims).iter().all(|(_, value)| !value.contains("ann")), "{preset:?}");
            if preset.algorithm().is_some() {
                assert!(!payload(preset, &claims).to_string().contains("ann@"), "{preset:?}");
            }
        }
    }

    #[test]
    fn an_assertion_is_no_access_token() {
        for preset in [Preset::Pomerium, Preset::GoogleIap, Preset::CloudflareAccess] {
            let key = key(preset.algorithm().unwrap());
            let made = headers(preset, Some(&key), &assertion(&full_claims())).unwrap();
            let token = made[0].1.to_str().unwrap();
            assert_eq!(verify(token, &KeySet::new([key.verifying()])).map(|_| ()), Err(TokenFault::Kind), "{preset:?}");
        }
    }

    #[test]
    fn a_key_of_another_algorithm_signs_nothing() {
        let edwards = key(Algorithm::EdDsa);
        for preset in [Preset::Pomerium, Preset::GoogleIap, Preset::CloudflareAccess] {
            for key in [None, Some(&edwards)] {
                assert_eq!(headers(preset, key, &assertion(&claims())).map(|_| ()), Err(KeyFault::Signing));
            }
        }
    }
}
