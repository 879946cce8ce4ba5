//! `quotas:` named quotas of requests, tokens or money in a calendar period, which routes refer to.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, Noted},
    item::{At, Item, Named},
    limits::by::By,
    money::Money,
    settings::{Quota, Usage},
    units::Int,
    words,
};
use crate::policy::quota::{Period, Unit};

/// The most that fits into the headers (RFC 9651 §3.3.1), and far from overflow.
const MOST: u64 = 999_999_999_999_999;

/// Quotas of one route; all of them are in the headers of each of its answers.
const MOST_OF_A_ROUTE: usize = 8;

/// One quota: how much may be used in a period of the calendar, whichever gateway is asked.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Quota")]
pub(super) struct RawQuota {
    /// Whose requests are counted together; as in limits.
    by: Item<By>,
    /// How long it lasts: hour, day or month of the calendar, in UTC. It begins anew with the next one.
    per: Item<Per>,
    /// Requests admitted in a period. Or tokens or cost.
    #[serde(default)]
    requests: Option<Item<Int<1, MOST>>>,
    /// Tokens of a model, in and out, as answers say or as they are counted (the route's usage). What a request is
    /// expected to use must be left when it comes.
    #[serde(default)]
    tokens: Option<Item<Int<1, MOST>>>,
    /// Money, by the prices of the route's usage: a number with at most six decimals, in whatever currency they are.
    #[serde(default)]
    cost: Option<Item<Money<1, MOST>>>,
    /// With tokens or cost: an answer that runs over the quota is ended. Else it goes on, and the next request is refused.
    #[serde(default = "no")]
    hard: Item<bool>,
    /// true: it counts, and tells in metrics what it would have refused, but refuses nothing and is in no header.
    #[serde(default = "no")]
    shadow: Item<bool>,
}

fn no() -> Item<bool> {
    Item::of(false)
}

/// How long a quota lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Per {
    /// From minute 0.
    Hour,
    /// From midnight.
    Day,
    /// From midnight of the first.
    Month,
}

/// The quotas by name; `None` in place of one that was wrong, so that references to it still resolve.
pub(super) struct Quotas(Vec<(String, Option<Arc<Quota>>)>);

impl Quotas {
    pub(super) fn all(&self) -> Option<Vec<Arc<Quota>>> {
        self.0.iter().map(|(_, quota)| quota.clone()).collect()
    }

    /// Resolves a route's list of names. `anonymous`: nobody who calls it is known.
    pub(super) fn resolve(
        &self,
        references: &Item<Vec<Item<words::Name>>>,
        anonymous: bool,
        checks: &mut Checks,
    ) -> Option<Vec<Arc<Quota>>> {
        let listed = references.value.as_deref()?;
        checks.no_repeats(listed);
        if listed.len() > MOST_OF_A_ROUTE {
            checks.error(&references.at, format!("more than {MOST_OF_A_ROUTE} quotas"));
            return None;
        }
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let indexes: Vec<_> = listed.iter().map(|name| checks.resolve(name, &names, "quota")).collect();
        let mut quotas = Vec::with_capacity(indexes.len());
        for (index, reference) in indexes.into_iter().zip(listed) {
            let quota = self.0.get(index?)?.1.clone()?;
            if anonymous && quota.key.needs_caller() {
                let message = format!("contradicts auth: none; {} counts by {}", reference.quoted(), quota.key);
                checks.error(&reference.at, message);
            }
            quotas.push(quota);
        }
        Some(quotas)
    }
}

pub(super) fn check(item: Item<Named<RawQuota>>, no_store: bool, checks: &mut Checks) -> Quotas {
    let entries = item.value.unwrap_or_default().0;
    if no_store && !entries.is_empty() {
        checks.error(&item.at, "contradicts store.url: none; what is used is kept in the store");
    }
    Quotas(entries.into_iter().map(|(name, raw)| (name.clone(), check_one(&name, raw, checks).ok())).collect())
}

/// Tokens and money are known of answers that are metered alone.
pub(super) fn check_metered(
    quotas: &[Arc<Quota>],
    usage: Option<&Usage>,
    references: &Item<Vec<Item<words::Name>>>,
    checks: &mut Checks,
) {
    for (quota, reference) in quotas.iter().zip(references.value.iter().flatten()) {
        let lacks = match (quota.unit, usage) {
            (Unit::Requests, _) | (Unit::Tokens, Some(_)) | (Unit::Cost, Some(Usage { prices: Some(_), .. })) => {
                continue;
            }
            (Unit::Tokens, None) => "usage",
            (Unit::Cost, _) => "usage.prices",
        };
        let counts = quota.unit.as_str();
        checks.error(&reference.at, format!("{} counts {counts}: the route needs {lacks}", reference.quoted()));
    }
}

fn check_one(name: &str, item: Item<RawQuota>, checks: &mut Checks) -> Result<Arc<Quota>, Noted> {
    if !words::is_name(name) {
        checks.error(&item.at, "expected a name (letters, digits, _ . -, at most 64)");
    }
    let raw = item.value.ok_or(Noted)?;
    let amount = check_amount(&raw, &item.at, checks);
    let by_at = raw.by.at.or(&item.at, "by");
    let by = checks.required(raw.by, &item.at, "by", "say whose requests are counted, e.g. subject or org");
    let key = by.and_then(|by| by.key(&by_at, checks));
    let per = checks.required(raw.per, &item.at, "per", "say how long it lasts: hour, day or month");
    let (unit, limit) = amount?;
    let (hard, shadow) = (raw.hard.value.ok_or(Noted)?, raw.shadow.value.ok_or(Noted)?);
    if hard && unit == Unit::Requests {
        checks.error(&raw.hard.at, "is for tokens or cost; a request is counted when it comes, and runs over nothing");
    }
    if hard && shadow {
        checks.error(&raw.hard.at, "contradicts shadow: true, which ends nothing");
    }
    let period = match per.ok_or(Noted)? {
        Per::Hour => Period::Hour,
        Per::Day => Period::Day,
        Per::Month => Period::Month,
    };
    Ok(Arc::new(Quota { name: name.into(), key: key.ok_or(Noted)?, period, unit, limit, hard, shadow }))
}

fn check_amount(raw: &RawQuota, at: &At, checks: &mut Checks) -> Result<(Unit, u64), Noted> {
    let requests = raw.requests.as_ref().map(|item| (Unit::Requests, &item.at, item.value.map(|Int(many)| many)));
    let tokens = raw.tokens.as_ref().map(|item| (Unit::Tokens, &item.at, item.value.map(|Int(many)| many)));
    let cost = raw.cost.as_ref().map(|item| (Unit::Cost, &item.at, item.value.map(|Money(micros)| micros)));
    let mut written = [requests, tokens, cost].into_iter().flatten();
    let Some((unit, _, limit)) = written.next() else {
        checks.error(at, "missing; say how much: requests, tokens or cost");
        return Err(Noted);
    };
    for (other, at, _) in written {
        let (unit, other) = (unit.as_str(), other.as_str());
        checks.error(at, format!("contradicts {unit}; a quota counts one thing: name another for {other}"));
    }
    limit.map(|limit| (unit, limit)).ok_or(Noted)
}
