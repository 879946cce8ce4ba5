//! Limits after authentication: caps on what is under way are entered, then rates are charged, narrow before wide.
//!
//! The first limit that refuses is the last that is charged: a client over its own limit drains nobody else's. What was
//! refused or answered before this layer (malformed, 404, 405, a preflight, a peek) is charged to nobody, but for bad
//! credentials, which [`crate::gate::authenticate`] charges to the address.
//!
//! A cap on requests comes first, since it is given back: what a rate then refuses has taken nothing. A cap on streams
//! may refuse after the rates were charged, when the answer has a head (`gate::caps`). What a request holds
//! goes with its answer to the last byte ([`crate::gate::finish`]); whatever ends it before drops it here.
//!
//! With authentication and quotas one of the three layers that may wait: a shared limit without a lease at hand asks
//! Redis. Only then, and for a route with caps, is anything boxed.

use std::sync::Arc;

use http::Request;

use crate::{
    clock::Tick,
    gate::{
        body::GateBody,
        caps::{self, Holds, Streams},
        exchange::Exchange,
        limit_keys::Known,
        limits::{refuse_if, report, used_up},
        refusal::Refusal,
        route_limits::{Met, RouteLimit},
        snapshot::RouteEntry,
        stage::Outcome,
        waiting::{Decide, LetIn, Pending},
    },
    store::{
        limits::{Charge, Waiting},
        memory::{
            in_flight::Slot,
            limits::{CounterKey, Decision},
        },
    },
    telemetry::{metrics::LimitResult, record::Record},
};

/// Most limits of a rate on one route, as the configuration allows.
const MOST: usize = 8;

/// Charges a request's limits.
#[derive(Debug, Clone, Copy)]
pub struct SubjectLimit;

impl Decide for SubjectLimit {
    type Pending = Charging;

    /// Charges what can be charged at once.
    fn decide(&self, request: &mut Request<GateBody>) -> Result<Option<Charging>, Refusal> {
        begin(request)
    }
}

/// A request in the middle of its limits.
struct Run {
    keys: [Option<CounterKey>; MOST],
    now: Tick,
    /// Rates charged, or found not to concern it.
    done: usize,
    met: Vec<Met>,
}

enum Step {
    Decided(Result<(), Refusal>),
    Waits(Waiting),
}

impl Run {
    fn begin(route: &RouteEntry, known: &Known<'_>, now: Tick) -> Self {
        let mut keys = [None; MOST];
        for (key, limit) in keys.iter_mut().zip(route.limits.rates()) {
            *key = known.key(&limit.key);
        }
        Self { keys, now, done: 0, met: Vec::with_capacity(route.limits.len()) }
    }

    /// Refuses what one of several limits of the caller's is known to refuse, before any of them is charged: a client
    /// over its limit a minute must not use up its limit a day by asking on. One limit alone needs no second look, and
    /// what needs no caller has been peeked at.
    fn foresee(&self, record: &Record, route: &RouteEntry) -> Result<(), Refusal> {
        let rates = route.limits.rates().iter().enumerate().zip(&self.keys);
        let own = rates.filter_map(|((at, limit), key)| {
            key.as_ref().filter(|_| limit.key.needs_caller() && !limit.shadow).map(|key| (at, limit, key))
        });
        if own.clone().nth(1).is_none() {
            return Ok(());
        }
        for (at, limit, key) in own {
            refuse_if(limit.limiter.refusal(key, self.now), record, &route.limits, (at, limit))?;
        }
        Ok(())
    }

    /// The rate that is charged next, and its key.
    fn next<'a>(&mut self, route: &'a RouteEntry) -> Option<(&'a RouteLimit, CounterKey)> {
        loop {
            let limit = route.limits.rates().get(self.done)?;
            if let Some(key) = self.keys.get(self.done).copied().flatten() {
                return Some((limit, key));
            }
            self.done += 1;
        }
    }

    /// Charges one limit after the other, until one refuses or must wait.
    fn charge(&mut self, record: &Record, route: &RouteEntry) -> Step {
        while let Some((limit, key)) = self.next(route) {
            match limit.limiter.charge(&key, self.now) {
                Charge::Waits(waiting) => return Step::Waits(waiting),
                Charge::Decided(decision) => {
                    if let Err(refusal) = self.note(record, limit, decision) {
                        return Step::Decided(Err(refusal));
                    }
                }
            }
        }
        Step::Decided(Ok(()))
    }

    /// Goes on when an answer has come, until one refuses.
    async fn wait(&mut self, record: &Record, route: &RouteEntry, mut waiting: Waiting) -> Result<(), Refusal> {
        loop {
            let decision = waiting.await;
            let Some((limit, _)) = self.next(route) else { return Ok(()) };
            self.note(record, limit, decision)?;
            match self.charge(record, route) {
                Step::Decided(outcome) => return outcome,
                Step::Waits(next) => waiting = next,
            }
        }
    }

    /// What came of the next one.
    fn note(&mut self, record: &Record, limit: &RouteLimit, decision: Decision) -> Result<(), Refusal> {
        let at = self.done;
        self.done += 1;
        match decision {
            Decision::Admitted { remaining, reset } => {
                limit.metrics.decisions.of(LimitResult::Admitted).inc();
                self.met.push(Met::Rate { at, remaining, reset });
                Ok(())
            }
            Decision::Refused { .. } if limit.shadow => {
                limit.metrics.decisions.of(LimitResult::ShadowRefused).inc();
                record.set_shadow_refused(&limit.name);
                Ok(())
            }
            Decision::Refused { retry_after, reset } => {
                limit.metrics.decisions.of(LimitResult::Refused).inc();
                self.met.push(Met::Rate { at, remaining: 0, reset });
                Err(used_up(limit, retry_after))
            }
        }
    }
}

/// Charges what can be charged at once; the rest, and what is held, is given back.
fn begin(request: &Request<GateBody>) -> Result<Option<Charging>, Refusal> {
    let exchange = Exchange::of(request)?;
    let route = exchange.route()?;
    if !route.limits.are_charged() {
        return Ok(None);
    }
    let known = Known::of(exchange, request)?;
    let record = exchange.record();
    let mut run = Run::begin(route, &known, exchange.tick());
    run.foresee(record, route)?;
    let outcome = caps::enter(route, &known, (record, &mut run.met)).and_then(|slots| {
        let streams = Streams::begin(route, &known, request, &mut run.met)?;
        match run.charge(record, route) {
            Step::Decided(outcome) => outcome.map(|()| (slots, streams, None)),
            Step::Waits(waiting) => Ok((slots, streams, Some(waiting))),
        }
    });
    let (slots, streams, waiting) = outcome.inspect_err(|_| report(record, &route.limits, &run.met))?;
    if slots.is_empty() && streams.is_none() && waiting.is_none() {
        report(record, &route.limits, &run.met);
        return Ok(None);
    }
    let (record, route) = (Arc::clone(record), Arc::clone(route));
    Ok(Some(Charging { waiting, let_in: Charged { record, route, run, slots, streams } }))
}

/// A request that holds something, may come to, or waits for Redis.
pub(in crate::gate) struct Charging {
    waiting: Option<Waiting>,
    let_in: Charged,
}

impl Pending for Charging {
    type LetIn = Charged;

    async fn wait(self, _: &mut Request<GateBody>) -> Result<Charged, Refusal> {
        let Self { waiting, mut let_in } = self;
        let Charged { record, route, run, streams, .. } = &mut let_in;
        let outcome = match waiting {
            Some(waiting) => run.wait(record, route, waiting).await,
            None => Ok(()),
        };
        if outcome.is_err() || streams.is_none() {
            report(record, &route.limits, &run.met);
        }
        outcome.map(|()| let_in)
    }
}

/// A request that its limits have let in, until its answer has a head.
pub(in crate::gate) struct Charged {
    record: Arc<Record>,
    route: Arc<RouteEntry>,
    run: Run,
    slots: Vec<Slot>,
    /// What it is held to if it is a stream; then the headers, too, are told of only when that is known.
    streams: Option<Streams>,
}

impl LetIn for Charged {
    /// What is held goes with the answer, to its end.
    fn answered(self, mut outcome: Outcome) -> Outcome {
        let Self { record, route, mut run, mut slots, streams } = self;
        if let Some(streams) = streams {
            outcome = outcome.and_then(|answer| {
                slots.extend(streams.settle(&answer, &route, (&record, &mut run.met))?);
                Ok(answer)
            });
            run.met.sort_unstable_by_key(Met::place);
            report(&record, &route.limits, &run.met);
        }
        outcome.map(|mut answer| {
            if let Some(holds) = Holds::of(slots) {
                answer.extensions_mut().insert(holds);
            }
            answer
        })
    }
}
