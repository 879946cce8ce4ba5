//! Rate limits: the address is peeked before authentication, charged after the subject's own limit.
//!
//! Narrow before wide: a client over its own limit drains nobody else's. A flood is refused by the peek before any
//! crypto. Of what has a route and passes the peek all is charged to the address, failed authentication too (by
//! [`crate::gate::authenticate`]), but for what the subject's own limit refuses.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request};

use crate::{
    clock::Tick,
    gate::{
        body::GateBody,
        exchange::{Exchange, Principal},
        refusal::{Detail, Limited, Refusal},
        snapshot::{RouteEntry, RouteLimit},
        stage::Stage,
    },
    policy::{
        limit_headers::{self, LimitState},
        reason::Reason,
    },
    store::memory::limits::{CounterKey, Decision},
    telemetry::metrics::LimitResult,
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
            if let Decision::Refused { retry_after, reset } = limit.counter.peek(&key, now) {
                limit.metrics.decisions.of(LimitResult::Refused).inc();
                report(exchange, route, &[limit.state(0, reset)]);
                return Err(used_up(limit, Reason::AddressLimited, retry_after));
            }
        }
        Ok(())
    }
}

/// Charges the subject's limits, then the address's.
#[derive(Debug, Clone, Copy)]
pub struct SubjectLimit;

fn charge<'a>(
    limits: &'a [RouteLimit],
    key: &CounterKey,
    now: Tick,
    reason: Reason,
    states: &mut Vec<LimitState<'a>>,
) -> Result<(), Refusal> {
    for limit in limits {
        match limit.counter.charge(key, now) {
            Decision::Admitted { remaining, reset } => {
                limit.metrics.decisions.of(LimitResult::Admitted).inc();
                states.push(limit.state(remaining, reset));
            }
            Decision::Refused { retry_after, reset } => {
                limit.metrics.decisions.of(LimitResult::Refused).inc();
                states.push(limit.state(0, reset));
                return Err(used_up(limit, reason, retry_after));
            }
        }
    }
    Ok(())
}

impl Stage for SubjectLimit {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let route = exchange.route()?;
        if route.limits.is_empty() {
            return Ok(());
        }
        let mut states = Vec::with_capacity(route.limits.len());
        let now = exchange.tick();
        let subject = match exchange.principal()? {
            Principal::Authenticated(caller) => {
                charge(&route.limits.subject, caller.limit_key(), now, Reason::SubjectLimited, &mut states)
            }
            Principal::Anonymous => Ok(()),
        };
        let address = CounterKey::address(exchange.client()?);
        let outcome =
            subject.and_then(|()| charge(&route.limits.address, &address, now, Reason::AddressLimited, &mut states));
        report(exchange, route, &states);
        outcome
    }
}

/// Charges a failed request to its address. The outcome does not matter: the request is refused anyway.
pub(crate) fn charge_address(exchange: &Exchange) {
    let (Ok(route), Ok(client)) = (exchange.route(), exchange.client()) else {
        return;
    };
    let key = CounterKey::address(client);
    for limit in &route.limits.address {
        let _ = limit.counter.charge(&key, exchange.tick());
    }
}

fn report(exchange: &Exchange, route: &RouteEntry, states: &[LimitState<'_>]) {
    let policy = match route.limits.policy() {
        Some(policy) if states.len() == route.limits.len() => Ok(policy.clone()),
        _ => HeaderValue::try_from(limit_headers::rate_limit_policy(states)),
    };
    if let (Ok(policy), Ok(limit)) = (policy, HeaderValue::try_from(limit_headers::rate_limit(states))) {
        exchange.record().set_rate_limit(policy, limit);
    }
}

fn used_up(limit: &RouteLimit, reason: Reason, retry_after: Duration) -> Refusal {
    let limited = Limited { policy: Arc::clone(&limit.name), retry_after, quota: limit.quota, window: limit.window };
    Refusal::with(reason, Detail::Limited(limited))
}
