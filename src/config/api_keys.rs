//! `portal.api_keys:` what keys users may make for their programs. Which routes take them is each route's
//! `credentials`.

use std::{num::NonZeroU32, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::Item,
    settings,
    units::{Int, Rate, Span},
    words::Scope,
};
use crate::policy::lockout::Pace;

/// What API keys users may make.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ApiKeys")]
pub(super) struct RawApiKeys {
    /// Keys a user may have, those that have run out included.
    max_per_user: Item<Int<1, 1_000>>,
    /// How often a user may make one: so many at once, and so many again in that time. A key that was revoked stays in
    /// every gateway's memory for as long as tokens live, so this bounds what a user can put there, too.
    made_per_user: Item<Rate>,
    /// Longest life of a key; whoever names none gets this. Unset: a key lives until it is revoked.
    max_life: Option<Item<Span<60_000, 315_360_000_000>>>,
    /// Scopes that a user may give to a key. A route that asks for scopes lets in what any user has given a key, so name
    /// only those that every user may have. Empty: keys have none. One that is taken off here stays with the keys that
    /// have it.
    scopes: Item<Vec<Item<Scope>>>,
}

impl Default for RawApiKeys {
    fn default() -> Self {
        let rate = Rate { requests: NonZeroU32::MIN.saturating_add(29), period: Duration::from_hours(1) };
        Self { max_per_user: Item::of(Int(25)), made_per_user: Item::of(rate), max_life: None, scopes: Item::default() }
    }
}

pub(super) fn check(item: Item<RawApiKeys>, checks: &mut Checks) -> Option<settings::ApiKeys> {
    let raw = item.value?;
    checks.no_repeats(raw.scopes.value.as_deref().unwrap_or_default());
    let max_life = match raw.max_life {
        None => None,
        Some(life) => Some(life.value?.0),
    };
    let rate = raw.made_per_user.value?;
    Some(settings::ApiKeys {
        max_per_user: raw.max_per_user.value?.get()?,
        made_per_user: Pace { calls: rate.requests, period: rate.period },
        max_life,
        scopes: values(raw.scopes.value?)?.into_iter().map(|scope| scope.0.into()).collect(),
    })
}
