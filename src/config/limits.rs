//! `limits:` named limits, of a rate (GCRA) or of what is under way at once, which routes and the portal refer to.

pub(super) mod by;

use std::{num::NonZeroU32, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::by::By;
use super::{
    checks::Checks,
    item::{At, Item, Named},
    settings::{Cap, KeyPart, Limit, LimitKey, LimitScope, Limiting, SharedState, UnderWay},
    units::{Int, Rate},
    words,
};

/// Keys a rate counts at once, unless it says otherwise.
const MAX_KEYS: usize = 200_000;

/// Limits of one route; all of them are in the headers of each of its answers.
const MOST: usize = 8;

/// One limit: of a rate, or of what is under way at once.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limit")]
pub(super) struct RawLimit {
    /// What is counted by: address (the client's, /32 or /64; also for strangers), subject (the authenticated user),
    /// session, `api_key`, client (`client_id` of the token), org, route (one bucket for all who call it) or header:NAME (as a
    /// proxy of `listeners.trusted_proxies` says it; for everybody else the address). Or a list of two, for each pair. A
    /// request that lacks it (anonymous, of no organisation) is not held to the limit.
    by: Item<By>,
    /// Requests in a period, spread evenly: 20/s, 100/1m.
    #[serde(default)]
    rate: Option<Item<Rate>>,
    /// Instead of a rate: requests under way at once, each until its answer or its tunnel has ended. Each gateway counts
    /// for itself.
    #[serde(default)]
    concurrent: Option<Item<Int<1, 1_000_000>>>,
    /// Instead of a rate: streams open at once, each until it has ended. Answers of `text/event-stream`, of lines or a
    /// sequence of JSON texts, and WebSockets are streams; no other request is counted. Each gateway counts for itself.
    #[serde(default)]
    streams: Option<Item<Int<1, 1_000_000>>>,
    /// true: it counts, and tells in metrics and log what it would have refused, but refuses nothing and is in no header.
    #[serde(default = "no")]
    shadow: Item<bool>,
    /// Keys that a rate counts at once, about 100 bytes each, twice that with scope shared. Beyond, the keys that have
    /// used least make room. Default: 200000.
    #[serde(default)]
    max_keys: Option<Item<Int<64, 10_000_000>>>,
    /// Requests that may come at once before the rate holds. Default: the requests of the rate.
    #[serde(default)]
    burst: Option<Item<Int<1, 1_000_000>>>,
    /// local: each gateway counts for itself, so a client may use the limit once per gateway. shared: all gateways count
    /// together in `shared_state.redis`.
    #[serde(default = "scope")]
    scope: Item<Scope>,
    /// With scope shared: requests of a busy client that a gateway takes ahead, so that most need not ask Redis. In any
    /// window at most this many more than the limit are admitted for each gateway, and as many may lie at one gateway
    /// while another refuses. 0: every request asks. Default: a tenth of the burst.
    #[serde(default)]
    lease: Option<Item<Int<0, 1_000_000>>>,
}

fn no() -> Item<bool> {
    Item::of(false)
}

fn scope() -> Item<Scope> {
    Item::of(Scope::Local)
}

/// Who counts a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// Each gateway for itself.
    Local,
    /// All gateways together.
    Shared,
}

/// One limit of either kind.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Rate(Arc<Limit>),
    Cap(Arc<Cap>),
}

impl Kind {
    fn key(&self) -> &LimitKey {
        match self {
            Self::Rate(limit) => &limit.key,
            Self::Cap(cap) => &cap.key,
        }
    }
}

/// The limits by name; `None` in place of one that was wrong, so that references to it still resolve.
pub(super) struct Limits(pub(super) Vec<(String, Option<Kind>)>);

impl Limits {
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// All of them, by kind.
    pub(super) fn all(&self) -> Option<Limiting> {
        self.0.iter().map(|(_, limit)| limit.clone()).collect::<Option<Vec<_>>>().map(by_kind)
    }

    /// Resolves a list of names, narrow before wide ([`LimitKey::order`]), so that a client over its own limit drains
    /// nobody else's. Among equals the shared before the local: what a local one will say is known beforehand, so a
    /// request that Redis refuses has been charged to nothing.
    pub(super) fn resolve(&self, references: &[Item<words::Name>], at: &At, checks: &mut Checks) -> Option<Limiting> {
        checks.no_repeats(references);
        if references.len() > MOST {
            checks.error(at, format!("more than {MOST} limits"));
            return None;
        }
        let names = self.names();
        let indexes: Vec<_> = references.iter().map(|name| checks.resolve(name, &names, "limit")).collect();
        let mut found = Vec::with_capacity(indexes.len());
        for index in indexes {
            found.push(self.0.get(index?)?.1.clone()?);
        }
        let mut limiting = by_kind(found);
        limiting.rates.sort_by_key(|limit| (limit.key.order(), matches!(limit.scope, LimitScope::Local)));
        limiting.caps.sort_by_key(|cap| cap.key.order());
        Some(limiting)
    }

    /// Whether a named limit counts streams.
    pub(super) fn is_of_streams(&self, reference: &Item<words::Name>) -> bool {
        let Some(name) = &reference.value else { return false };
        let found = self.0.iter().find(|(known, _)| *known == name.0);
        matches!(found, Some((_, Some(Kind::Cap(cap)))) if cap.of == UnderWay::Streams)
    }

    /// What only callers have and a named limit counts by.
    pub(super) fn of_callers(&self, reference: &Item<words::Name>) -> Option<&LimitKey> {
        let name = &reference.value.as_ref()?.0;
        let (_, limit) = self.0.iter().find(|(known, _)| known == name)?;
        limit.as_ref().map(Kind::key).filter(|key| key.needs_caller())
    }
}

fn by_kind(limits: Vec<Kind>) -> Limiting {
    let mut limiting = Limiting::default();
    for limit in limits {
        match limit {
            Kind::Rate(limit) => limiting.rates.push(limit),
            Kind::Cap(cap) => limiting.caps.push(cap),
        }
    }
    limiting
}

/// What limits can be counted with.
#[derive(Clone, Copy)]
struct Around {
    has_redis: bool,
    /// `store.url: none`.
    no_store: bool,
}

/// `shared`: `None` when its section was wrong, which has been noted.
pub(super) fn check(
    item: Item<Named<RawLimit>>,
    shared: Option<&SharedState>,
    no_store: bool,
    checks: &mut Checks,
) -> Limits {
    let around = Around { has_redis: shared.is_none_or(|shared| shared.redis.is_some()), no_store };
    let entries = item.value.unwrap_or_default().0;
    Limits(entries.into_iter().map(|(name, raw)| (name.clone(), check_one(&name, raw, around, checks))).collect())
}

fn check_one(name: &str, item: Item<RawLimit>, around: Around, checks: &mut Checks) -> Option<Kind> {
    if !words::is_name(name) {
        checks.error(&item.at, "expected a name (letters, digits, _ . -, at most 64)");
    }
    let raw = item.value?;
    let by_at = raw.by.at.or(&item.at, "by");
    let by = checks.required(raw.by.clone(), &item.at, "by", "say what is counted: address, subject, route, ...");
    let key = by.and_then(|by| by.key(&by_at, checks));
    if around.no_store {
        needs_store(key.as_ref(), &by_at, checks);
    }
    if let (Some(_), Some(streams)) = (&raw.concurrent, &raw.streams) {
        checks.error(&streams.at, "contradicts concurrent; requests and streams are counted apart: name two limits");
        return None;
    }
    if let Some(most) = raw.concurrent.clone() {
        return check_cap(name, key, (UnderWay::Requests, most), &raw, checks);
    }
    if let Some(most) = raw.streams.clone() {
        return check_cap(name, key, (UnderWay::Streams, most), &raw, checks);
    }
    check_rate(name, key, &item.at, raw, around.has_redis, checks)
}

/// Tokens of other issuers have no session here, and keys are looked up in the store: nobody would be held to the limit.
fn needs_store(key: Option<&LimitKey>, at: &At, checks: &mut Checks) {
    for part in key.into_iter().flat_map(|key| [Some(key.narrow()), key.wide()]).flatten() {
        let none = match part {
            KeyPart::Session => "sessions",
            KeyPart::ApiKey => "API keys",
            _ => continue,
        };
        let message =
            format!("contradicts store.url: none; without a store there are no {none}: nobody would be held to it");
        checks.error(at, message);
    }
}

fn check_cap(
    name: &str,
    key: Option<LimitKey>,
    (of, most): (UnderWay, Item<Int<1, 1_000_000>>),
    raw: &RawLimit,
    checks: &mut Checks,
) -> Option<Kind> {
    let word = match of {
        UnderWay::Requests => "concurrent",
        UnderWay::Streams => "streams",
    };
    let scope = Some(&raw.scope.at).filter(|_| raw.scope.value == Some(Scope::Shared));
    let others = [
        (raw.rate.as_ref().map(|item| &item.at), "rate"),
        (raw.burst.as_ref().map(|item| &item.at), "burst"),
        (raw.lease.as_ref().map(|item| &item.at), "lease"),
        (raw.max_keys.as_ref().map(|item| &item.at), "max_keys"),
    ];
    for (at, other) in others {
        if let Some(at) = at {
            checks.error(at, format!("contradicts {word}; {other} is of a rate: name two limits"));
        }
    }
    if let Some(at) = scope {
        checks.error(at, format!("contradicts {word}; what is under way is counted by each gateway for itself"));
    }
    let most = most.value.and_then(|most| NonZeroU32::new(most.get()?))?;
    Some(Kind::Cap(Arc::new(Cap { name: name.into(), key: key?, of, most, shadow: raw.shadow.value? })))
}

fn check_rate(
    name: &str,
    key: Option<LimitKey>,
    at: &At,
    raw: RawLimit,
    has_redis: bool,
    checks: &mut Checks,
) -> Option<Kind> {
    if raw.rate.is_none() {
        checks.error(&at.child("rate"), "missing; e.g. 20/s or 100/1m, or concurrent: 20 or streams: 4 instead");
    }
    let rate = raw.rate.and_then(|rate| rate.value);
    let burst = match raw.burst {
        None => rate.as_ref().map(|rate| rate.requests),
        Some(burst) => burst.value.and_then(|burst| NonZeroU32::new(burst.get()?)),
    };
    let max_keys = match raw.max_keys {
        None => Some(MAX_KEYS),
        Some(most) => most.value.and_then(|most| usize::try_from(most.get::<u32>()?).ok()),
    };
    let (Rate { requests, period }, burst) = (rate?, burst?);
    let scope = check_scope(&raw.scope, raw.lease.as_ref(), burst, has_redis, checks)?;
    let (name, key, shadow, max_keys) = (name.into(), key?, raw.shadow.value?, max_keys?);
    Some(Kind::Rate(Arc::new(Limit { name, key, requests, period, burst, scope, shadow, max_keys })))
}

fn check_scope(
    scope: &Item<Scope>,
    lease: Option<&Item<Int<0, 1_000_000>>>,
    burst: NonZeroU32,
    has_redis: bool,
    checks: &mut Checks,
) -> Option<LimitScope> {
    match (scope.value?, lease) {
        (Scope::Local, None) => Some(LimitScope::Local),
        (Scope::Local, Some(lease)) => {
            checks.error(&lease.at, "is for scope: shared; a limit that is counted here has nothing to take ahead");
            None
        }
        (Scope::Shared, _) if !has_redis => {
            checks.error(&scope.at, "shared needs a Redis to count in: shared_state.redis.url");
            None
        }
        (Scope::Shared, None) => Some(LimitScope::Shared { lease: burst.get() / 10 }),
        (Scope::Shared, Some(lease)) => {
            let size = lease.value?.get()?;
            if size > burst.get() {
                checks.error(&lease.at, format!("more than the burst ({burst}), which is all there ever is"));
                return None;
            }
            Some(LimitScope::Shared { lease: size })
        }
    }
}
