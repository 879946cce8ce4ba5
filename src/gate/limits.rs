//! Rate limits: the address is peeked before authentication, charged after the subject's own limit.
//!
//! Narrow before wide: a client over its own limit drains nobody else's. A flood is refused by the peek before any
//! crypto. Every other request is charged to the address: failed, anonymous, and what the subject's limit admitted.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request};

use crate::{
    clock::{Clock, Tick},
    gate::{
        body::GateBody,
        exchange::{Exchange, Principal},
        refusal::{Detail, Limited, Refusal},
        snapshot::RouteLimit,
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
#[derive(Clone)]
pub struct AddressPeek {
    clock: Arc<dyn Clock>,
}

impl AddressPeek {
    /// A peek by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

impl Stage for AddressPeek {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let route = exchange.route()?;
        if route.address_limits.is_empty() {
            return Ok(());
        }
        let key = CounterKey::address(exchange.client()?);
        let now = self.clock.tick();
        for limit in &route.address_limits {
            if let Decision::Refused { retry_after, reset } = limit.counter.peek(&key, now) {
                limit.metrics.decisions.of(LimitResult::Refused).inc();
                report(exchange, &[state(limit, 0, reset)]);
                return Err(used_up(limit, Reason::AddressLimited, retry_after));
            }
        }
        Ok(())
    }
}

/// Charges the subject's limits, then the address's.
#[derive(Clone)]
pub struct SubjectLimit {
    clock: Arc<dyn Clock>,
}

impl SubjectLimit {
    /// Limits by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    fn charge<'a>(
        &self,
        limits: &'a [RouteLimit],
        key: &CounterKey,
        reason: Reason,
        states: &mut Vec<LimitState<'a>>,
    ) -> Result<(), Refusal> {
        let now = self.clock.tick();
        for limit in limits {
            match limit.counter.charge(key, now) {
                Decision::Admitted { remaining, reset } => {
                    limit.metrics.decisions.of(LimitResult::Admitted).inc();
                    states.push(state(limit, remaining, reset));
                }
                Decision::Refused { retry_after, reset } => {
                    limit.metrics.decisions.of(LimitResult::Refused).inc();
                    states.push(state(limit, 0, reset));
                    return Err(used_up(limit, reason, retry_after));
                }
            }
        }
        Ok(())
    }
}

impl Stage for SubjectLimit {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let route = exchange.route()?;
        if route.subject_limits.is_empty() && route.address_limits.is_empty() {
            return Ok(());
        }
        let mut states = Vec::with_capacity(route.subject_limits.len() + route.address_limits.len());
        let subject = match exchange.principal()? {
            Principal::Authenticated(caller) => {
                self.charge(&route.subject_limits, caller.limit_key(), Reason::SubjectLimited, &mut states)
            }
            Principal::Anonymous => Ok(()),
        };
        let address = CounterKey::address(exchange.client()?);
        let outcome =
            subject.and_then(|()| self.charge(&route.address_limits, &address, Reason::AddressLimited, &mut states));
        report(exchange, &states);
        outcome
    }
}

/// Charges a failed request to its address. The outcome does not matter: the request is refused anyway.
pub(crate) fn charge_address(exchange: &Exchange, now: Tick) {
    let (Ok(route), Ok(client)) = (exchange.route(), exchange.client()) else {
        return;
    };
    let key = CounterKey::address(client);
    for limit in &route.address_limits {
        let _ = limit.counter.charge(&key, now);
    }
}

fn state(limit: &RouteLimit, remaining: u32, reset: Duration) -> LimitState<'_> {
    LimitState { name: &limit.name, quota: limit.quota, window: limit.window, remaining, reset }
}

fn report(exchange: &Exchange, states: &[LimitState<'_>]) {
    let (policy, limit) = (limit_headers::rate_limit_policy(states), limit_headers::rate_limit(states));
    if let (Ok(policy), Ok(limit)) = (HeaderValue::try_from(policy), HeaderValue::try_from(limit)) {
        exchange.record().set_rate_limit(policy, limit);
    }
}

fn used_up(limit: &RouteLimit, reason: Reason, retry_after: Duration) -> Refusal {
    let limited = Limited { policy: Arc::clone(&limit.name), retry_after, quota: limit.quota, window: limit.window };
    Refusal::with(reason, Detail::Limited(limited))
}
