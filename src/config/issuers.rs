//! `issuers:` other issuers whose access tokens routes may accept: where their keys are, what their claims mean here.

use std::{fmt, sync::Arc, time::Duration};

use http::Uri;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::{At, Item, Named},
    secret::{Secret, TOO_SHORT},
    settings::{Issuer, IssuerKeys, KeySource, Portal},
    tls,
    units::Span,
    urls::{ClaimName, KeysUrl, keys_url},
    words::{self, FilePath, Host, Name, Text},
};
use crate::policy::{
    foreign::{ClaimPath, Mapping, TokenRules, TokenType},
    keys::{Algorithm, KeySet, VerifyingKey},
};

/// What a route calls the gateway itself among issuers.
pub(super) const OWN: &str = "own";

/// Another issuer.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Issuer")]
pub(super) struct RawIssuer {
    /// iss of its tokens, compared byte for byte. Its keys verify its tokens and nobody else's.
    issuer: Item<Text>,
    /// URL of its key set. Without it the issuer's discovery document says where that is. https, or http on a loopback
    /// address.
    #[serde(default)]
    jwks_uri: Option<Item<KeysUrl>>,
    /// Hosts, lower case and without a port, where a discovered key set may lie besides the issuer's own.
    #[serde(default)]
    hosts: Item<Vec<Item<Host>>>,
    /// For an issuer that signs with HS256: the secret, at least 32 bytes, instead of published keys. Whoever holds it
    /// can sign tokens.
    #[serde(default)]
    secret: Option<Item<Secret>>,
    /// Algorithms it may sign with. A key verifies with one of them only. With a secret: HS256 and no other.
    #[serde(default = "algorithms")]
    algorithms: Item<Vec<Item<Algorithm>>>,
    /// One of these must be in aud. Tells tokens for us from tokens of the same issuer for somebody else.
    audiences: Item<Vec<Item<Text>>>,
    /// typ of its access tokens: at+jwt (RFC 9068) and JWT, which a missing typ counts as. An issuer that says at+jwt is
    /// safest with that alone: its other tokens are then refused by their kind.
    #[serde(default = "types")]
    types: Item<Vec<Item<TokenType>>>,
    /// Where in its claims roles, scopes and organisation are.
    #[serde(default)]
    claims: Item<RawClaims>,
    /// What roles of the issuer's are called here. Others keep their name, but for admin: that comes of no other place
    /// than this list.
    #[serde(default)]
    role_names: Item<Vec<Item<RawRoleName>>>,
    /// Longest time from iat to exp. Bounds what a stolen token is worth.
    #[serde(default = "max_lifetime")]
    max_lifetime: Item<Span<60_000, 31_536_000_000>>,
    /// What its users are called here and at the services: prefixed (NAME:SUB) or bare (SUB). Bare only where nobody
    /// else names users: without a portal and without another issuer.
    #[serde(default)]
    subject: Item<Subject>,
    /// Fetch its keys even from addresses that are not on the public internet, for an issuer in your own network.
    #[serde(default)]
    allow_private: Item<bool>,
    /// PEM file with the only roots to trust when fetching. A relative path starts at this file's folder.
    #[serde(default)]
    ca_file: Option<Item<FilePath>>,
}

/// Where in an issuer's claims things are: a.b for nested ones, a URL as it is, or a JSON Pointer (RFC 6901).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ClaimNames")]
pub(super) struct RawClaims {
    /// Roles: each a string or a list of strings.
    roles: Item<Vec<Item<ClaimName>>>,
    /// Scopes: each a string of several, separated by spaces, or a list.
    scopes: Item<Vec<Item<ClaimName>>>,
    /// The organisation: a string.
    org: Option<Item<ClaimName>>,
}

/// What a role of an issuer's is called here.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RoleName")]
pub(super) struct RawRoleName {
    /// As the issuer says it.
    from: Item<Text>,
    /// As routes and services know it.
    to: Item<Name>,
}

/// What its users are called here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Subject {
    /// NAME:SUB
    #[default]
    Prefixed,
    /// SUB
    Bare,
}

fn algorithms() -> Item<Vec<Item<Algorithm>>> {
    Item::of([Algorithm::Rs256, Algorithm::Es256].map(Item::of).into())
}

fn types() -> Item<Vec<Item<TokenType>>> {
    Item::of([TokenType::AccessToken, TokenType::Jwt].map(Item::of).into())
}

fn max_lifetime() -> Item<Span<60_000, 31_536_000_000>> {
    Item::of(Span(Duration::from_hours(24)))
}

impl Default for RawClaims {
    fn default() -> Self {
        let name = |text: &str| Item::of(ClaimName(text.to_owned()));
        Self { roles: Item::default(), scopes: Item::of(vec![name("scope"), name("scp")]), org: None }
    }
}

/// The issuers by name; `None` in place of one that was wrong, so that references to it still resolve.
pub(super) struct Issuers(Vec<Entry>);

struct Entry {
    name: String,
    issuer: Option<Arc<Issuer>>,
    subject_at: At,
}

impl Issuers {
    pub(super) fn all(&self) -> Option<Vec<Arc<Issuer>>> {
        self.0.iter().map(|entry| entry.issuer.clone()).collect()
    }

    /// Whether the gateway's own tokens are among those a route accepts, and which issuers' are.
    pub(super) fn resolve(&self, item: Item<Vec<Item<Name>>>, checks: &mut Checks) -> Option<(bool, Vec<Arc<Issuer>>)> {
        let references = item.value?;
        if references.is_empty() {
            checks.error(&item.at, "empty: no token would be accepted; auth: none is for routes that want none");
        }
        checks.no_repeats(&references);
        let names: Vec<&str> = self.0.iter().map(|entry| entry.name.as_str()).chain([OWN]).collect();
        let indexes: Vec<_> = references.iter().map(|name| checks.resolve(name, &names, "issuer")).collect();
        let (mut own, mut issuers) = (false, Vec::new());
        for index in indexes {
            match self.0.get(index?) {
                Some(entry) => issuers.push(entry.issuer.clone()?),
                None => own = true,
            }
        }
        Some((own, issuers))
    }

    /// Two who name subjects without a prefix could name each other's.
    pub(super) fn check_subjects(&self, portal: Option<&Portal>, checks: &mut Checks) {
        let others = self.0.len() > 1;
        for entry in self.0.iter().filter(|entry| entry.issuer.as_ref().is_some_and(|one| one.rules.bare_subject)) {
            if portal.is_some_and(|portal| portal.enabled) {
                checks
                    .error(&entry.subject_at, "bare, and the portal is on: this issuer could name the portal's users");
            } else if others {
                checks
                    .error(&entry.subject_at, "bare, and it is not the only issuer: one could name the other's users");
            }
        }
    }
}

pub(super) fn check(item: Item<Named<RawIssuer>>, own: Option<&str>, checks: &mut Checks) -> Issuers {
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut entries = Vec::new();
    for (name, item) in item.value.unwrap_or_default().0 {
        if !words::is_name(&name) {
            checks.error(&item.at, "expected a name (letters, digits, _ . -, at most 64)");
        } else if name == OWN {
            checks.error(&item.at, "own is what routes call the gateway itself; choose another name");
        }
        if let Some(raw) = &item.value
            && let Some(issuer) = &raw.issuer.value
        {
            if own == Some(issuer.0.as_str()) {
                checks.error(&raw.issuer.at, "is tokens.issuer: only the gateway's own keys verify its own tokens");
            }
            if let Some((first, _)) = seen.iter().find(|(_, other)| *other == issuer.0) {
                checks.error(&raw.issuer.at, format!("is the issuer of issuers.{first} already"));
            }
            seen.push((name.clone(), issuer.0.clone()));
        }
        let subject_at = item.value.as_ref().map_or_else(At::root, |raw| raw.subject.at.or(&item.at, "subject"));
        let issuer = check_one(&name, item, checks).map(Arc::new);
        entries.push(Entry { name, issuer, subject_at });
    }
    Issuers(entries)
}

fn check_one(name: &str, item: Item<RawIssuer>, checks: &mut Checks) -> Option<Issuer> {
    let at = item.at;
    let raw = item.value?;
    let issuer = checks.required(
        raw.issuer,
        &at,
        "issuer",
        "it is iss of the issuer's tokens, e.g. https://sso.example.com/realms/acme",
    );
    let audiences_at = raw.audiences.at.or(&at, "audiences");
    let audiences = checks.required(raw.audiences, &at, "audiences", "aud of tokens that are meant for us");
    let audiences = audiences.and_then(|items| listed(items, &audiences_at, checks));
    let keys_at = KeysAt { at: at.clone(), issuer: issuer.as_ref().map(|issuer| issuer.0.as_str()) };
    let keys = match raw.secret {
        Some(secret) => {
            if let Some(url) = &raw.jwks_uri {
                checks.error(&url.at, "contradicts secret: an issuer has published keys or a secret");
            }
            check_secret(secret, checks)
        }
        None => keys_at.check(raw.jwks_uri, raw.hosts, raw.allow_private.value, raw.ca_file, checks),
    };
    let secret = matches!(keys, Some(IssuerKeys::Secret(_)));
    let algorithms = check_algorithms(raw.algorithms, secret, checks);
    let types = raw.types.value.and_then(|items| listed(items, &raw.types.at, checks));
    let mapping = check_mapping(raw.claims, raw.role_names, checks);
    Some(Issuer {
        rules: TokenRules {
            name: name.into(),
            issuer: issuer?.0.into(),
            algorithms: algorithms?,
            types: types?,
            max_lifetime: raw.max_lifetime.value?.0,
            mapping: mapping?,
            bare_subject: raw.subject.value? == Subject::Bare,
        },
        audiences: audiences?.into_iter().map(|audience| audience.0.into()).collect(),
        keys: keys?,
    })
}

/// A list that may not be empty.
fn listed<T: fmt::Display>(items: Vec<Item<T>>, at: &At, checks: &mut Checks) -> Option<Vec<T>> {
    if items.is_empty() {
        checks.error(at, "empty: no token would be accepted");
        return None;
    }
    checks.no_repeats(&items);
    values(items)
}

fn check_algorithms(item: Item<Vec<Item<Algorithm>>>, secret: bool, checks: &mut Checks) -> Option<Vec<Algorithm>> {
    if secret && !item.is_written() {
        return Some(vec![Algorithm::Hs256]);
    }
    let at = item.at;
    let algorithms = listed(item.value?, &at, checks)?;
    if secret && algorithms != [Algorithm::Hs256] {
        checks.error(&at, "contradicts secret, which is for HS256 and nothing else");
    }
    if !secret && algorithms.contains(&Algorithm::Hs256) {
        checks.error(&at, "HS256 needs a secret: a published key is none");
    }
    Some(algorithms)
}

fn check_secret(item: Item<Secret>, checks: &mut Checks) -> Option<IssuerKeys> {
    let secret = item.value?;
    let key = VerifyingKey::secret(secret.0.expose_secret().as_bytes());
    let key = key.map_err(|_| checks.error(&item.at, TOO_SHORT));
    checks.signs(&item.at);
    Some(IssuerKeys::Secret(Arc::new(KeySet::of_secret(key.ok()?))))
}

/// Where the keys of an issuer are looked for.
struct KeysAt<'a> {
    at: At,
    issuer: Option<&'a str>,
}

impl KeysAt<'_> {
    fn check(
        &self,
        jwks_uri: Option<Item<KeysUrl>>,
        hosts: Item<Vec<Item<Host>>>,
        allow_private: Option<bool>,
        ca_file: Option<Item<FilePath>>,
        checks: &mut Checks,
    ) -> Option<IssuerKeys> {
        let discovery = jwks_uri.is_none();
        let document = match jwks_uri {
            Some(url) => url.value.map(|url| url.0),
            None => self.discovery(checks),
        };
        let hosts = hosts.value.and_then(values);
        let (roots, place) = match ca_file {
            None => (tls::system_roots(), self.at.clone()),
            Some(file) => (checks.pem(&file.at, &file.value?.0).and_then(|pem| tls::roots_of_file(&pem)), file.at),
        };
        let made = roots.and_then(|roots| tls::client(roots, None));
        let made = made.map_err(|message| checks.error(&place, message));
        Some(IssuerKeys::Published(KeySource {
            document: document?,
            discovery,
            hosts: hosts?.into_iter().map(|host| host.0.into()).collect(),
            allow_private: allow_private?,
            tls: made.ok()?.config,
        }))
    }

    /// OIDC Discovery 1.0 §4.
    fn discovery(&self, checks: &mut Checks) -> Option<Uri> {
        let issuer = self.issuer?;
        let found = keys_url(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')));
        if found.is_none() {
            let message = "no https URL with a discovery document; name its keys with jwks_uri or secret";
            checks.error(&self.at.child("issuer"), message);
        }
        found
    }
}

fn check_mapping(
    claims: Item<RawClaims>,
    role_names: Item<Vec<Item<RawRoleName>>>,
    checks: &mut Checks,
) -> Option<Mapping> {
    let paths = |items: Item<Vec<Item<ClaimName>>>| {
        let names = items.value.and_then(values)?;
        names.iter().map(|name| ClaimPath::parse(&name.0)).collect::<Option<Vec<_>>>()
    };
    let mut mapping = Mapping::default();
    for item in role_names.value? {
        let raw = item.value?;
        let from = checks.required(raw.from, &item.at, "from", "the role as the issuer says it");
        let to = checks.required(raw.to, &item.at, "to", "the role as it is called here");
        if mapping.role_names.insert(from?.0, to?.0.into()).is_some() {
            checks.error(&item.at, "this role has a name already");
        }
    }
    let claims = claims.value?;
    (mapping.roles, mapping.scopes) = (paths(claims.roles)?, paths(claims.scopes)?);
    mapping.org = match claims.org {
        None => None,
        Some(org) => Some(ClaimPath::parse(&org.value?.0)?),
    };
    Some(mapping)
}
