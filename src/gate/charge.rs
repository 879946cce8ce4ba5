//! Rate limits after authentication: the subject's own are charged, then the address's.
//!
//! Narrow before wide, and the first limit that refuses is the last that is charged: a client over its own limit drains
//! nobody else's. What was refused or answered before this layer (malformed, 404, 405, a preflight, the address's peek)
//! is charged to nobody, but for bad credentials, which [`crate::gate::authenticate`] charges to the address.
//!
//! With authentication the only layer that may wait: a shared limit without a lease at hand asks Redis, and only then
//! is anything boxed.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use http::{Request, Response};
use tower::{Layer, Service};

use crate::{
    clock::Tick,
    gate::{
        body::GateBody,
        exchange::{Exchange, Principal},
        limits::{report, used_up},
        refusal::Refusal,
        snapshot::{RouteEntry, RouteLimit},
        stage::{Decided, Outcome, refused},
    },
    policy::{limit_headers::LimitState, reason::Reason},
    store::{
        limits::{Charge, Waiting},
        memory::limits::{CounterKey, Decision},
    },
    telemetry::{metrics::LimitResult, record::Record},
};

/// Charges the subject's limits, then the address's.
#[derive(Debug, Clone, Copy)]
pub struct SubjectLimit;

impl<S> Layer<S> for SubjectLimit {
    type Service = Charged<S>;

    fn layer(&self, inner: S) -> Charged<S> {
        Charged { inner }
    }
}

/// [`SubjectLimit`] and what comes after it.
#[derive(Debug, Clone)]
pub struct Charged<S> {
    inner: S,
}

impl<S> Service<Request<GateBody>> for Charged<S>
where
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Either<Decided<S::Future>, Pin<Box<dyn Future<Output = Outcome> + Send>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<GateBody>) -> Self::Future {
        match begin(&request) {
            Ok(None) => Either::Left(Either::Left(self.inner.call(request))),
            Ok(Some(pending)) => {
                // The service that was polled ready goes with the request.
                let clone = self.inner.clone();
                let mut inner = mem::replace(&mut self.inner, clone);
                Either::Right(Box::pin(async move {
                    pending.finish().await?;
                    inner.call(request).await
                }))
            }
            Err(refusal) => Either::Left(refused(refusal)),
        }
    }
}

/// What the limits of one request count under.
#[derive(Clone, Copy)]
struct Keys {
    /// `None`: anonymous, so no limit by subject is charged.
    subject: Option<CounterKey>,
    address: CounterKey,
    now: Tick,
}

impl Keys {
    /// The limit that is charged after `done` others, its key, and why it would refuse.
    fn next<'a>(&self, route: &'a RouteEntry, done: usize) -> Option<(&'a RouteLimit, CounterKey, Reason)> {
        let narrow = if self.subject.is_some() { route.limits.subject.len() } else { 0 };
        if let Some(subject) = self.subject.filter(|_| done < narrow) {
            return Some((route.limits.subject.get(done)?, subject, Reason::SubjectLimited));
        }
        Some((route.limits.address.get(done - narrow)?, self.address, Reason::AddressLimited))
    }
}

enum Step {
    Decided(Result<(), Refusal>),
    Waits(Waiting),
}

/// Charges one limit after the other, until one refuses or must wait. `states`: of those charged so far.
fn charge<'a>(route: &'a RouteEntry, keys: &Keys, states: &mut Vec<LimitState<'a>>) -> Step {
    while let Some((limit, key, reason)) = keys.next(route, states.len()) {
        match limit.limiter.charge(&key, keys.now) {
            Charge::Waits(waiting) => return Step::Waits(waiting),
            Charge::Decided(decision) => {
                if let Err(refusal) = note(limit, reason, decision, states) {
                    return Step::Decided(Err(refusal));
                }
            }
        }
    }
    Step::Decided(Ok(()))
}

fn note<'a>(
    limit: &'a RouteLimit,
    reason: Reason,
    decision: Decision,
    states: &mut Vec<LimitState<'a>>,
) -> Result<(), Refusal> {
    match decision {
        Decision::Admitted { remaining, reset } => {
            limit.metrics.decisions.of(LimitResult::Admitted).inc();
            states.push(limit.state(remaining, reset));
            Ok(())
        }
        Decision::Refused { retry_after, reset } => {
            limit.metrics.decisions.of(LimitResult::Refused).inc();
            states.push(limit.state(0, reset));
            Err(used_up(limit, reason, retry_after))
        }
    }
}

/// Refuses what one of several limits by subject is known to refuse, before any of them is charged: a client over its
/// limit a minute must not use up its limit a day by asking on. One limit alone needs no second look.
fn foresee(exchange: &Exchange, route: &RouteEntry, keys: &Keys) -> Result<(), Refusal> {
    let (Some(subject), [_, _, ..]) = (keys.subject, route.limits.subject.as_slice()) else { return Ok(()) };
    for limit in &route.limits.subject {
        if let Some(Decision::Refused { retry_after, reset }) = limit.limiter.refusal(&subject, keys.now) {
            limit.metrics.decisions.of(LimitResult::Refused).inc();
            report(exchange.record(), route, &[limit.state(0, reset)]);
            return Err(used_up(limit, Reason::SubjectLimited, retry_after));
        }
    }
    Ok(())
}

/// Charges what can be charged at once; the rest is given back.
fn begin(request: &Request<GateBody>) -> Result<Option<Pending>, Refusal> {
    let exchange = Exchange::of(request)?;
    let route = exchange.route()?;
    if !route.limits.are_charged() {
        return Ok(None);
    }
    let subject = match exchange.principal()? {
        Principal::Authenticated(caller) => Some(*caller.limit_key()),
        Principal::Anonymous => None,
    };
    let keys = Keys { subject, address: CounterKey::address(exchange.client()?), now: exchange.tick() };
    foresee(exchange, route, &keys)?;
    let mut states = Vec::with_capacity(route.limits.len());
    match charge(route, &keys, &mut states) {
        Step::Decided(outcome) => {
            report(exchange.record(), route, &states);
            outcome.map(|()| None)
        }
        Step::Waits(waiting) => Ok(Some(Pending {
            record: Arc::clone(exchange.record()),
            route: Arc::clone(route),
            keys,
            charged: states.iter().map(|state| (state.remaining, state.reset)).collect(),
            waiting,
        })),
    }
}

/// A request in the middle of its limits, waiting for Redis.
struct Pending {
    record: Arc<Record>,
    route: Arc<RouteEntry>,
    keys: Keys,
    /// Requests left and time to reset of the limits charged so far.
    charged: Vec<(u32, Duration)>,
    waiting: Waiting,
}

impl Pending {
    async fn finish(self) -> Result<(), Refusal> {
        let Self { record, route, keys, charged, mut waiting } = self;
        let mut states = Vec::with_capacity(route.limits.len());
        for (remaining, reset) in charged {
            if let Some((limit, ..)) = keys.next(&route, states.len()) {
                states.push(limit.state(remaining, reset));
            }
        }
        let outcome = loop {
            let decision = waiting.await;
            let Some((limit, _, reason)) = keys.next(&route, states.len()) else { break Ok(()) };
            if let Err(refusal) = note(limit, reason, decision, &mut states) {
                break Err(refusal);
            }
            match charge(&route, &keys, &mut states) {
                Step::Decided(outcome) => break outcome,
                Step::Waits(next) => waiting = next,
            }
        };
        report(&record, &route, &states);
        outcome
    }
}
