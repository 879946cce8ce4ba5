//! `limits:` named rate limits (GCRA), which routes and the portal refer to.

use std::{num::NonZeroU32, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::Checks,
    item::{Item, Named},
    settings::{Limit, LimitKey, LimitScope, SharedState},
    units::{Int, Rate},
    words,
};

/// One rate limit.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limit")]
pub(super) struct RawLimit {
    /// What is counted: address (the client's, /32 or /64; also for strangers) or subject (the authenticated user).
    by: Item<By>,
    /// Requests in a period, spread evenly: 20/s, 100/1m.
    rate: Item<Rate>,
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

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum By {
    /// The client's address.
    Address,
    /// The authenticated subject.
    Subject,
}

/// The limits by name; `None` in place of one that was wrong, so that references to it still resolve.
pub(super) struct Limits(pub(super) Vec<(String, Option<Arc<Limit>>)>);

impl Limits {
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub(super) fn all(&self) -> Option<Vec<Arc<Limit>>> {
        self.0.iter().map(|(_, limit)| limit.clone()).collect()
    }

    /// Resolves a list of names, narrow (subject) before wide (address), so that a client over its own limit drains
    /// nobody else's. Among these the shared before the local: what a local one will say is known beforehand, so a
    /// request that Redis refuses has been charged to nothing.
    pub(super) fn resolve(&self, references: &[Item<words::Name>], checks: &mut Checks) -> Option<Vec<Arc<Limit>>> {
        checks.no_repeats(references);
        let names = self.names();
        let indexes: Vec<_> = references.iter().map(|name| checks.resolve(name, &names, "limit")).collect();
        let mut limits = Vec::with_capacity(indexes.len());
        for index in indexes {
            limits.push(self.0.get(index?)?.1.clone()?);
        }
        limits.sort_by_key(|limit| {
            let wide = matches!(limit.key, LimitKey::Address);
            (wide, matches!(limit.scope, LimitScope::Local))
        });
        Some(limits)
    }

    /// Whether a reference names a limit by subject.
    pub(super) fn is_by_subject(&self, reference: &Item<words::Name>) -> bool {
        let named = |(name, _): &&(String, Option<Arc<Limit>>)| reference.value.as_ref().is_some_and(|r| r.0 == *name);
        let limit = self.0.iter().find(named).and_then(|(_, limit)| limit.as_ref());
        limit.is_some_and(|limit| limit.key == LimitKey::Subject)
    }
}

/// `shared`: `None` when its section was wrong, which has been noted.
pub(super) fn check(item: Item<Named<RawLimit>>, shared: Option<&SharedState>, checks: &mut Checks) -> Limits {
    let has_redis = shared.is_none_or(|shared| shared.redis.is_some());
    let entries = item.value.unwrap_or_default().0;
    Limits(entries.into_iter().map(|(name, raw)| (name.clone(), check_one(&name, raw, has_redis, checks))).collect())
}

fn check_one(name: &str, item: Item<RawLimit>, has_redis: bool, checks: &mut Checks) -> Option<Arc<Limit>> {
    if !words::is_name(name) {
        checks.error(&item.at, "expected a name (letters, digits, _ . -, at most 64)");
    }
    let raw = item.value?;
    let by = checks.required(raw.by, &item.at, "by", "say what is counted: address or subject");
    let rate = checks.required(raw.rate, &item.at, "rate", "e.g. 20/s or 100/1m");
    let burst = match raw.burst {
        None => rate.map(|rate| rate.requests),
        Some(burst) => burst.value.and_then(|burst| NonZeroU32::new(burst.get()?)),
    };
    let key = match by? {
        By::Address => LimitKey::Address,
        By::Subject => LimitKey::Subject,
    };
    let (Rate { requests, period }, burst) = (rate?, burst?);
    let scope = check_scope(&raw.scope, raw.lease.as_ref(), burst, has_redis, checks)?;
    Some(Arc::new(Limit { name: name.into(), key, requests, period, burst, scope }))
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
