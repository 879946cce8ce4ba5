//! `tokens:` what access and refresh tokens say and how long they live (RFC 9068, RFC 9700), and how long keys sign
//! them.

use std::{num::NonZeroU32, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::Checks,
    item::{At, Item},
    secret::{self, Secret},
    settings::{Compat, Tokens},
    signing_keys,
    units::{AtMost, Every, Int, Span},
    urls::Issuer,
    words::Text,
};
use crate::policy::{
    key_life::KeyRules,
    keys::Algorithm,
    refresh::{Delivery, RefreshRules},
};

/// Longest life of anything here: two years.
const TWO_YEARS: u64 = 63_072_000_000;

/// Access and refresh tokens.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Tokens")]
pub(super) struct RawTokens {
    /// The gateway's own URL as clients see it: iss of every token and identity it signs, and base of the discovery
    /// document. Upstreams compare it byte for byte. https, or http on a loopback host; no trailing slash.
    issuer: Item<Issuer>,
    /// aud of access tokens, which every route accepts unless it names its own. Tells tokens for this gateway from
    /// tokens of the same issuer for something else.
    #[serde(default = "audience")]
    audience: Item<Text>,
    /// Algorithm of access tokens and of the identity sent upstream. ES256 is understood by the most upstream libraries.
    /// RS256 is for those that know nothing else: its signatures cost many times as much and make tokens longer. A key is
    /// made for it at the next start; access tokens of another algorithm are then refused, sessions go on. HS256: access
    /// tokens are signed with secret; whoever verifies them by it can sign them as well. The identity is then signed with
    /// an ES256 key.
    #[serde(default = "algorithm")]
    algorithm: Item<OwnAlgorithm>,
    /// For HS256: at least 32 bytes, the same for every gateway. Changing it ends every access token at once; sessions
    /// go on.
    #[serde(default)]
    secret: Option<Item<Secret>>,
    /// The private keys that sign, in PEM (PKCS#8, unencrypted): one for each algorithm that is needed, in one text. Only
    /// with store.url: none, and the same for every gateway. Without it keys are made at each start, and services must
    /// fetch the key set again after one.
    #[serde(default)]
    signing_key: Option<Item<Secret>>,
    /// When the signing keys in the store are followed by new ones.
    #[serde(default)]
    rotation: Item<RawRotation>,
    /// Life of an access token. Shorter limits what a stolen one is worth; it costs more refreshes.
    #[serde(default = "access_ttl")]
    access_ttl: Item<Span<30_000, 86_400_000>>,
    /// Clock difference forgiven on exp and nbf. Every second of it lengthens the life of a stolen token.
    #[serde(default = "leeway")]
    leeway: Item<Span<0, 120_000>>,
    /// How long open streams (answers that still flow, uploads, WebSockets) outlive the access token they were opened with,
    /// on top of the leeway, while the session is not refreshed. A refreshed session keeps its streams.
    #[serde(default = "stream_grace")]
    stream_grace: Item<Span<0, 86_400_000>>,
    /// Refresh tokens, which keep a session alive.
    #[serde(default)]
    refresh: Item<RawRefresh>,
    /// Live sessions a user may have, one a login; at the next the oldest ends, and its access tokens with it. none: any
    /// number.
    #[serde(default = "max_sessions")]
    max_sessions: Item<AtMost<1_000_000>>,
    /// How refresh tokens reach a client that does not say: body (API clients) or cookie (browsers; scripts cannot read
    /// it; the default with `portal.compat: fastapi`).
    #[serde(default = "delivery")]
    delivery: Item<Delivery>,
    /// Entries in the cache of verified tokens. A hit saves the signature check, never the look at expiry and
    /// at ended sessions. About 1 KiB each; a token with a hundred roles counts for several.
    #[serde(default = "cache_entries")]
    cache_entries: Item<Int<0, 10_000_000>>,
}

/// Algorithms of own tokens.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "Algorithm")]
enum OwnAlgorithm {
    /// ECDSA on P-256 with SHA-256 (RFC 7518 §3.4).
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3), 2048 bits.
    #[serde(rename = "RS256")]
    Rs256,
    /// HMAC with SHA-256 (RFC 7518 §3.2), for access tokens only.
    #[serde(rename = "HS256")]
    Hs256,
}

/// The life of signing keys. Those that the operator gives (`secret`, `signing_key`) are not part of it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Rotation")]
pub(super) struct RawRotation {
    /// A key signs for this long; never: until `portcullis keys rotate`, for services that were given a key by hand
    /// instead of reading the key set.
    every: Item<Every<3_600_000, TWO_YEARS>>,
    /// A new key is published for this long before it signs. Services may keep the key set for 5 minutes; the rest is for
    /// those that keep it longer than they were told.
    publish_ahead: Item<Span<360_000, 2_592_000_000>>,
}

impl Default for RawRotation {
    fn default() -> Self {
        let every = Every(Some(Duration::from_hours(90 * 24)));
        Self { every: Item::of(every), publish_ahead: Item::of(Span::secs(86_400)) }
    }
}

/// Refresh tokens.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Refresh")]
pub(super) struct RawRefresh {
    /// A session unused for this long ends.
    idle: Item<Span<60_000, TWO_YEARS>>,
    /// A session ends this long after its login, used or not. Bounds what a stolen device is worth.
    absolute: Item<Span<60_000, TWO_YEARS>>,
    /// How long after its successor was handed out the token before still gets that same one, for clients that lost the
    /// answer or refresh twice at once (docs/sessions.md). In this window a stolen old token works once more. While the successor's access token has
    /// not been used, it is given again beyond the grace too: 0 does not switch that off.
    grace: Item<Span<0, 300_000>>,
}

fn audience() -> Item<Text> {
    Item::of(Text("portcullis".to_owned()))
}

fn algorithm() -> Item<OwnAlgorithm> {
    Item::of(OwnAlgorithm::Es256)
}

fn access_ttl() -> Item<Span<30_000, 86_400_000>> {
    Item::of(Span::secs(900))
}

fn leeway() -> Item<Span<0, 120_000>> {
    Item::of(Span::secs(30))
}

fn max_sessions() -> Item<AtMost<1_000_000>> {
    Item::of(AtMost(NonZeroU32::new(20)))
}

fn stream_grace() -> Item<Span<0, 86_400_000>> {
    Item::of(Span::secs(60))
}

fn delivery() -> Item<Delivery> {
    Item::of(Delivery::Body)
}

fn cache_entries() -> Item<Int<0, 10_000_000>> {
    Item::of(Int(100_000))
}

impl Default for RawRefresh {
    fn default() -> Self {
        Self {
            idle: Item::of(Span::secs(7 * 86_400)),
            absolute: Item::of(Span::secs(30 * 86_400)),
            grace: Item::of(Span::secs(10)),
        }
    }
}

pub(super) fn check(item: Item<RawTokens>, compat: Compat, no_store: bool, checks: &mut Checks) -> Option<Tokens> {
    const ISSUER: &str = "it is iss of every token and of the identity sent upstream, e.g. https://auth.example.com";
    let at = item.at.or(&At::root(), "tokens");
    if !item.is_written() {
        checks.error(&at.child("issuer"), format!("missing; {ISSUER}"));
        return None;
    }
    let mut raw = item.value?;
    if compat == Compat::FastApi {
        raw.delivery = raw.delivery.or_default(Delivery::Cookie);
    }
    let issuer = checks.required(raw.issuer, &at, "issuer", ISSUER);
    let hs256 = raw.algorithm.value.map(|algorithm| matches!(algorithm, OwnAlgorithm::Hs256));
    if no_store && hs256 == Some(true) {
        checks
            .error(&raw.algorithm.at, "HS256 contradicts store.url: none; it is for access tokens, and none are made");
    }
    let secret = secret::signing(raw.secret, hs256, &at, checks);
    let signing_keys = signing_keys::check(raw.signing_key, no_store, checks);
    let life = (raw.access_ttl.value.map(|ttl| ttl.0), raw.leeway.value.map(|leeway| leeway.0));
    let rotation = check_rotation(raw.rotation, life, no_store, &at, checks);
    let refresh = check_refresh(raw.refresh, raw.access_ttl.value, &at, checks);
    Some(Tokens {
        issuer: issuer?.0.into(),
        audience: raw.audience.value?.0.into(),
        algorithm: match raw.algorithm.value? {
            OwnAlgorithm::Es256 | OwnAlgorithm::Hs256 => Algorithm::Es256,
            OwnAlgorithm::EdDsa => Algorithm::EdDsa,
            OwnAlgorithm::Rs256 => Algorithm::Rs256,
        },
        secret: secret.ok()?,
        signing_keys: signing_keys?,
        rotation: rotation?,
        access_ttl: raw.access_ttl.value?.0,
        leeway: raw.leeway.value?.0,
        stream_grace: raw.stream_grace.value?.0,
        refresh: refresh?,
        max_sessions: raw.max_sessions.value?.0,
        delivery: raw.delivery.value?,
        cache_entries: raw.cache_entries.value?.0,
    })
}

fn check_rotation(
    item: Item<RawRotation>,
    (access_ttl, leeway): (Option<Duration>, Option<Duration>),
    no_store: bool,
    parent: &At,
    checks: &mut Checks,
) -> Option<KeyRules> {
    let at = item.at.or(parent, "rotation");
    if no_store && item.is_written() {
        checks.error(
            &at,
            "contradicts store.url: none; the keys are those of tokens.signing_key, or made at each start, and only a \
             restart changes them",
        );
    }
    let raw = item.value?;
    let (every, ahead) = (raw.every.value?.0, raw.publish_ahead.value?.0);
    if every.is_some_and(|every| every < ahead) {
        let place = raw.every.at.or(&at, "every");
        checks.error(&place, "shorter than publish_ahead: a key would have to be published before the last one signs");
    }
    Some(KeyRules::new(every, ahead, access_ttl?, leeway?))
}

fn check_refresh(
    item: Item<RawRefresh>,
    access_ttl: Option<Span<30_000, 86_400_000>>,
    parent: &At,
    checks: &mut Checks,
) -> Option<RefreshRules> {
    let at = item.at.or(parent, "refresh");
    let raw = item.value?;
    let (idle, absolute) = (raw.idle.value, raw.absolute.value);
    if let (Some(idle), Some(absolute)) = (idle, absolute)
        && idle.0 > absolute.0
    {
        let place = raw.idle.at.or(&at, "idle");
        checks.error(&place, "longer than absolute: a session would end before it could be idle that long");
    }
    if let (Some(idle), Some(access_ttl)) = (idle, access_ttl)
        && idle.0 < access_ttl.0
    {
        let place = raw.idle.at.or(&at, "idle");
        checks.error(&place, "shorter than tokens.access_ttl: the session would end before its token");
    }
    Some(RefreshRules { idle: idle?.0, absolute: absolute?.0, grace: raw.grace.value?.0 })
}
