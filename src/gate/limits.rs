//! Rate limits before authentication: what needs no caller is peeked, and the address charged for credentials that
//! fail. (All else is charged after it, by [`crate::gate::charge`].)
//!
//! A flood is refused by the peek before any crypto. The peek never waits: of a shared limit it knows what Redis last
//! refused, so the first request over the limit is refused only by its charge, and the rest here.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request};

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        limit_keys::{Known, reason},
        refusal::{Detail, Limited, Refusal},
        route_limits::{Met, RouteLimit, RouteLimits},
        stage::Stage,
    },
    store::memory::limits::Decision,
    telemetry::{metrics::LimitResult, record::Record},
};

/// Refuses an address, or whatever else is known of a stranger, that has used up its limit, before anything costly is
/// done for it.
#[derive(Debug, Clone, Copy)]
pub struct AddressPeek;

impl Stage for AddressPeek {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let limits = &exchange.route()?.limits;
        if !limits.is_peeked() {
            return Ok(());
        }
        let known = Known::of_stranger(exchange, request.headers())?;
        for (at, limit) in limits.rates().iter().enumerate() {
            if limit.key.needs_caller() || limit.shadow {
                continue;
            }
            let Some(key) = known.key(&limit.key) else { continue };
            let refused = limit.limiter.refusal(&key, exchange.tick());
            refuse_if(refused, exchange.record(), limits, (at, limit))?;
        }
        Ok(())
    }
}

/// Refuses what a limit is known to refuse.
pub(in crate::gate) fn refuse_if(
    refused: Option<Decision>,
    record: &Record,
    limits: &RouteLimits,
    (at, limit): (usize, &RouteLimit),
) -> Result<(), Refusal> {
    let Some(Decision::Refused { retry_after, reset }) = refused else { return Ok(()) };
    limit.metrics.decisions.of(LimitResult::Refused).inc();
    report(record, limits, &[Met::Rate { at, remaining: 0, reset }]);
    Err(used_up(limit, retry_after))
}

/// Charges a failed request to its address. The outcome does not matter: the request is refused anyway.
pub(crate) fn charge_address(exchange: &Exchange, headers: &HeaderMap) {
    let (Ok(route), Ok(known)) = (exchange.route(), Known::of_stranger(exchange, headers)) else {
        return;
    };
    for limit in route.limits.rates().iter().filter(|limit| known.is_addresss(&limit.key)) {
        if let Some(key) = known.key(&limit.key) {
            limit.limiter.charge_unasked(&key, exchange.tick());
        }
    }
}

/// Notes the `RateLimit` headers of the answer.
pub(in crate::gate) fn report(record: &Record, limits: &RouteLimits, met: &[Met]) {
    if let Some((policy, limit)) = limits.headers(met) {
        record.set_rate_limit(policy, limit);
    }
}

/// The refusal of a request over its limit.
pub(in crate::gate) fn used_up(limit: &RouteLimit, retry_after: Duration) -> Refusal {
    let limited = Limited { policy: Arc::clone(&limit.name), retry_after, quota: limit.quota, window: limit.window };
    Refusal::with(reason(&limit.key), Detail::Limited(limited))
}
