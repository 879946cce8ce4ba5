//! Rate limits before authentication: the address is peeked, and charged for credentials that fail. (All else is
//! charged after it, by [`crate::gate::charge`].)
//!
//! A flood is refused by the peek before any crypto. The peek never waits: of a shared limit it knows what Redis last
//! refused, so the first request over the limit is refused only by its charge, and the rest here.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request};

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        refusal::{Detail, Limited, Refusal},
        snapshot::{RouteEntry, RouteLimit},
        stage::Stage,
    },
    policy::{
        limit_headers::{self, LimitState},
        reason::Reason,
    },
    store::memory::limits::{CounterKey, Decision},
    telemetry::{metrics::LimitResult, record::Record},
};

/// Refuses an address that has used up its limit, before anything costly is done for it.
#[derive(Debug, Clone, Copy)]
pub struct AddressPeek;

impl Stage for AddressPeek {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let route = exchange.route()?;
        if route.limits.address.is_empty() {
            return Ok(());
        }
        let key = CounterKey::address(exchange.client()?);
        let now = exchange.tick();
        for limit in &route.limits.address {
            if let Some(Decision::Refused { retry_after, reset }) = limit.limiter.refusal(&key, now) {
                limit.metrics.decisions.of(LimitResult::Refused).inc();
                report(exchange.record(), route, &[limit.state(0, reset)]);
                return Err(used_up(limit, Reason::AddressLimited, retry_after));
            }
        }
        Ok(())
    }
}

/// Charges a failed request to its address. The outcome does not matter: the request is refused anyway.
pub(crate) fn charge_address(exchange: &Exchange) {
    let (Ok(route), Ok(client)) = (exchange.route(), exchange.client()) else {
        return;
    };
    let key = CounterKey::address(client);
    for limit in &route.limits.address {
        limit.limiter.charge_unasked(&key, exchange.tick());
    }
}

/// Notes the `RateLimit` headers of the answer.
pub(in crate::gate) fn report(record: &Record, route: &RouteEntry, states: &[LimitState<'_>]) {
    let policy = match route.limits.policy() {
        Some(policy) if states.len() == route.limits.len() => Ok(policy.clone()),
        _ => HeaderValue::try_from(limit_headers::rate_limit_policy(states)),
    };
    if let (Ok(policy), Ok(limit)) = (policy, HeaderValue::try_from(limit_headers::rate_limit(states))) {
        record.set_rate_limit(policy, limit);
    }
}

/// The refusal of a request over its limit.
pub(in crate::gate) fn used_up(limit: &RouteLimit, reason: Reason, retry_after: Duration) -> Refusal {
    let limited = Limited { policy: Arc::clone(&limit.name), retry_after, quota: limit.quota, window: limit.window };
    Refusal::with(reason, Detail::Limited(limited))
}
