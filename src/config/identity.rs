//! `clusters.<name>.identity`: how a service is told who calls.

use std::sync::Arc;

use http::HeaderName;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, Noted},
    item::{At, Item},
    secret::{self, Secret},
    settings,
    urls::Origin,
    words::{IdentityHeader, Text},
};
use crate::policy::{
    keys::{Algorithm, SigningKey},
    preset::Preset,
};

/// The signed identity sent upstream.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Identity")]
pub(super) struct RawIdentity {
    /// Its aud, which the service must check, so that one service cannot use a caller's identity at another. Default:
    /// the cluster's name.
    audience: Option<Item<Text>>,
    /// How it is signed: published (the gateway's own key; the service verifies by /.well-known/jwks.json) or HS256 (by
    /// secret, for services that cannot fetch keys; whoever verifies by it can sign as well).
    algorithm: Item<IdentityAlgorithm>,
    /// For HS256: at least 32 bytes, one for each service and used for nothing else (openssl rand -base64 32).
    secret: Option<Item<Secret>>,
    /// caller: one identity serves a caller's requests for up to 30 seconds. request: each request has its own, which names
    /// its id (rid), method (htm) and URI as the client asked for it, without query (htu); whoever steals one from a log or
    /// a service can then replay nothing else. It costs a signature for each request.
    bind: Item<Bind>,
    /// Where the service asks for claims that do not fit: with more than 4 KiB of them, the large ones (roles, mostly) are
    /// left out, and the identity says how to read them below this URL (OIDC Core 1.0 §5.6.2). This very gateway's public
    /// listener, as the service reaches it. Default: tokens.issuer, which is right for one gateway.
    claims_url: Option<Item<Origin>>,
    /// Names of the plain headers beside it, which prove nothing by themselves. Whatever a client sends under these
    /// names is removed, on every route.
    headers: Item<RawIdentityHeaders>,
    /// Tells authenticated callers in the headers of another product besides, for services written to stand behind it:
    /// `pomerium`, `google_iap`, `cloudflare_access` (signed; keys where their readers look for them) or `open_webui` (what
    /// it sends to the backends it calls; unsigned, so it proves nothing by itself). An anonymous caller is told in none of
    /// them.
    preset: Item<RawPreset>,
}

/// Headers of another product.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Preset")]
enum RawPreset {
    /// None but ours.
    #[default]
    None,
    /// X-Pomerium-Jwt-Assertion, ES256.
    Pomerium,
    /// X-Goog-IAP-JWT-Assertion, ES256, and X-Goog-Authenticated-User-Email and -Id.
    GoogleIap,
    /// Cf-Access-Jwt-Assertion, RS256, and Cf-Access-Authenticated-User-Email.
    CloudflareAccess,
    /// X-OpenWebUI-User-Name, -Id, -Email and -Role.
    OpenWebui,
}

/// How the identity is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
enum IdentityAlgorithm {
    /// By the gateway's own, published key.
    #[default]
    #[serde(rename = "published")]
    Published,
    /// HMAC with SHA-256 (RFC 7518 §3.2).
    #[serde(rename = "HS256")]
    Hs256,
}

/// What an identity is good for.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Bind {
    /// A caller's requests for a while.
    #[default]
    Caller,
    /// One request.
    Request,
}

/// Names of the plain headers: X-… or Remote-….
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "IdentityHeaders")]
pub(super) struct RawIdentityHeaders {
    /// The user's id.
    user: Item<IdentityHeader>,
    /// The e-mail address, if it is verified.
    email: Item<IdentityHeader>,
    /// The roles, comma-separated.
    roles: Item<IdentityHeader>,
    /// The organisation.
    org: Item<IdentityHeader>,
}

impl Default for RawIdentityHeaders {
    fn default() -> Self {
        let name = |name| Item::of(IdentityHeader(HeaderName::from_static(name)));
        Self {
            user: name("x-user-id"),
            email: name("x-user-email"),
            roles: name("x-user-roles"),
            org: name("x-org-id"),
        }
    }
}

pub(super) fn check(
    item: Item<RawIdentity>,
    cluster: &str,
    parent: &At,
    checks: &mut Checks,
) -> Option<settings::Identity> {
    let at = item.at.or(parent, "identity");
    let raw = item.value?;
    let audience = match raw.audience {
        None => Some(cluster.into()),
        Some(audience) => audience.value.map(|audience| audience.0.into()),
    };
    let hs256 = raw.algorithm.value.map(|algorithm| algorithm == IdentityAlgorithm::Hs256);
    let secret =
        secret::signing(raw.secret, hs256, &at, checks).and_then(|secret| secret.as_ref().map(key).transpose());
    let headers = raw.headers.value.and_then(|headers| check_headers(headers, checks));
    let bind_request = matches!(raw.bind.value?, Bind::Request);
    let claims_url = match raw.claims_url {
        None => None,
        Some(url) => Some(url.value?.0.into()),
    };
    let preset = match raw.preset.value? {
        RawPreset::None => None,
        RawPreset::Pomerium => Some(Preset::Pomerium),
        RawPreset::GoogleIap => Some(Preset::GoogleIap),
        RawPreset::CloudflareAccess => Some(Preset::CloudflareAccess),
        RawPreset::OpenWebui => Some(Preset::OpenWebui),
    };
    let (audience, secret, headers) = (audience?, secret.ok()?, headers?);
    Some(settings::Identity { audience, secret, bind_request, claims_url, headers, preset })
}

/// Readers of Google's and Cloudflare's go by key and audience: the products' own examples look at no `typ`, Google's at
/// no `iss` either, and one key may sign both.
pub(super) fn check_apart(settings: &settings::Settings, checks: &mut Checks) {
    for cluster in &settings.clusters {
        let identity = &cluster.identity;
        let goes_by_audience = matches!(identity.preset, Some(Preset::GoogleIap | Preset::CloudflareAccess));
        if goes_by_audience && identity.audience == settings.tokens.audience {
            checks.error(
                &At::root().child("clusters").child(&cluster.name).child("identity").child("audience"),
                "the same as tokens.audience: readers of this identity.preset that look at no typ would take access \
                 tokens for assertions",
            );
        }
    }
}

fn key(secret: &SecretSlice<u8>) -> Result<Arc<SigningKey>, Noted> {
    SigningKey::from_pkcs8(Algorithm::Hs256, secret.expose_secret()).map(Arc::new).map_err(|_| Noted)
}

fn check_headers(raw: RawIdentityHeaders, checks: &mut Checks) -> Option<settings::IdentityHeaders> {
    let items = [&raw.user, &raw.email, &raw.roles, &raw.org];
    for (i, item) in items.iter().enumerate() {
        let twice = |other: &&Item<IdentityHeader>| item.value.is_some() && other.value == item.value;
        // The later of two is usually the written one; either way one of them is.
        if let Some(other) = items.iter().take(i).find(|other| twice(other)) {
            let place = if item.is_written() { &item.at } else { &other.at };
            checks.error(place, "another plain header has this name");
        }
    }
    Some(settings::IdentityHeaders {
        user: raw.user.value?.0,
        email: raw.email.value?.0,
        roles: raw.roles.value?.0,
        org: raw.org.value?.0,
    })
}
