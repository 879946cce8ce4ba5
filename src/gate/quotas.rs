//! Quotas: what a caller may use in an hour, a day or a month, whichever gateway is asked. The last thing that may say no.
//!
//! Requests are counted when they are admitted. Of tokens and money what the route expects a request to use is set
//! aside; the [`Budget`] goes on with the exchange, and whoever meters the answer settles it. A quota that refuses
//! gives back what others of the route have set aside.
//!
//! May wait, when nothing is at hand: for the store, a second at most. Only then is anything boxed.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request};

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        limit_keys::Known,
        refusal::{Detail, Refusal},
        snapshot::RouteEntry,
        waiting::{Decide, Pending},
    },
    policy::{
        quota::Amounts,
        quota_headers::{QuotaState, rate_limit, rate_limit_policy},
        reason::Reason,
    },
    store::{
        memory::limits::CounterKey,
        quotas::{self, Budget, Ledger, Reservation, Reserve, Standing, Verdict},
    },
    telemetry::{
        metrics::{QuotaMetrics, QuotaResult},
        record::Record,
    },
};

/// When to come again if too many wait for the store.
const AGAIN: Duration = Duration::from_secs(1);

/// A quota as a route holds it.
#[derive(Debug, Clone)]
pub struct RouteQuota {
    /// Counts; shared by every route that names the quota.
    pub ledger: Arc<Ledger>,
    /// Its name as the `RateLimit` headers write it.
    pub quoted_name: Arc<str>,
    /// What it decided.
    pub metrics: Arc<QuotaMetrics>,
}

/// The quotas of a route.
#[derive(Debug, Default)]
pub struct RouteQuotas {
    /// In the order of the file.
    pub all: Vec<RouteQuota>,
    /// What is set aside for a request before it is sent.
    pub estimate: Amounts,
}

/// Counts requests, and sets aside what they are expected to use.
#[derive(Debug, Clone, Copy)]
pub struct QuotaLayer;

impl Decide for QuotaLayer {
    type Pending = Visiting;

    /// Counts what is at hand.
    fn decide(&self, request: &mut Request<GateBody>) -> Result<Option<Visiting>, Refusal> {
        let Some(mut visit) = begin(request)? else { return Ok(None) };
        match visit.go_on() {
            Some(waiting) => Ok(Some(Visiting { visit, waiting })),
            None => visit.end(request).map(|()| None),
        }
    }
}

/// A request that waits for the store.
pub(in crate::gate) struct Visiting {
    visit: Visit,
    waiting: Waiting,
}

impl Pending for Visiting {
    type LetIn = ();

    async fn wait(self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let Self { mut visit, mut waiting } = self;
        loop {
            let verdict = waiting.await;
            visit.note(verdict);
            match visit.go_on() {
                Some(next) => waiting = next,
                None => return visit.end(request),
            }
        }
    }
}

/// Somebody waits for the store.
type Waiting = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A request on its way past its quotas.
struct Visit {
    record: Arc<Record>,
    route: Arc<RouteEntry>,
    /// What each quota counts it under; `None`: it is not held to it.
    keys: Vec<Option<CounterKey>>,
    /// How many of them have been asked.
    asked: usize,
    reservations: Vec<Reservation>,
    /// How those stand that are told.
    told: Vec<(usize, Standing)>,
    refusal: Option<Refusal>,
}

/// `None`: there is nothing to ask.
fn begin(request: &Request<GateBody>) -> Result<Option<Visit>, Refusal> {
    let exchange = Exchange::of(request)?;
    let route = exchange.route()?;
    if route.quotas.all.is_empty() {
        return Ok(None);
    }
    let known = Known::of(exchange, request)?;
    let mut keys = Vec::with_capacity(route.quotas.all.len());
    for one in &route.quotas.all {
        keys.push(known.key(&one.ledger.quota().key));
    }
    Ok(Some(Visit {
        record: Arc::clone(exchange.record()),
        route: Arc::clone(route),
        keys,
        asked: 0,
        reservations: Vec::new(),
        told: Vec::new(),
        refusal: None,
    }))
}

impl Visit {
    /// Asks one quota after the other until one refuses or must be waited for.
    fn go_on(&mut self) -> Option<Waiting> {
        while self.refusal.is_none() {
            let one = self.route.quotas.all.get(self.asked)?;
            let Some(key) = self.keys.get(self.asked).copied().flatten() else {
                self.asked += 1;
                continue;
            };
            match one.ledger.reserve(&key, self.route.quotas.estimate.of(one.ledger.unit())) {
                Reserve::Decided(verdict) => self.note(verdict),
                Reserve::Waits(waiting) => return Some(waiting),
            }
        }
        None
    }

    fn note(&mut self, verdict: Verdict) {
        let at = self.asked;
        self.asked += 1;
        let (Some(one), Some(Some(key))) = (self.route.quotas.all.get(at), self.keys.get(at)) else { return };
        let quota = one.ledger.quota();
        let Verdict { outcome, standing } = verdict;
        let result = match (&outcome, quota.shadow) {
            (quotas::Outcome::Admitted(_), _) => QuotaResult::Admitted,
            (quotas::Outcome::Alone(_), _) => QuotaResult::Alone,
            (quotas::Outcome::Refused | quotas::Outcome::Busy, true) => QuotaResult::Shadow,
            (quotas::Outcome::Refused, false) => QuotaResult::Refused,
            (quotas::Outcome::Busy, false) => QuotaResult::Busy,
        };
        one.metrics.decisions.of(result).inc();
        if result == QuotaResult::Busy {
            // Not 429: the client may be well within its quota. It is the store that cannot be asked in time.
            self.told.clear();
            self.refusal = Some(Refusal::with(Reason::StoreUnavailable, Detail::RetryAfter(AGAIN)));
            return;
        }
        if !quota.shadow {
            self.told.push((at, standing));
        }
        match outcome.reservation() {
            Some(reservation) => self.reservations.push(reservation),
            None if quota.shadow => {
                let units = self.route.quotas.estimate.of(quota.unit);
                self.reservations.push(one.ledger.overdraw(key, units));
            }
            None => {
                let (policy, retry_after) = (Arc::clone(&quota.name), standing.renews_in);
                self.refusal = Some(Refusal::with(Reason::QuotaUsedUp, Detail::UsedUp { policy, retry_after }));
            }
        }
    }

    /// Tells how the quotas stand. What was set aside goes with the request, or back.
    fn end(self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        self.report();
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        let mut budget = Budget::default();
        self.reservations.into_iter().for_each(|reservation| budget.add(reservation));
        if !budget.is_empty() {
            Exchange::of_mut(request)?.set_budget(budget);
        }
        Ok(())
    }

    fn report(&self) {
        // Whoever refuses is told alone, as limits do.
        let from = if self.refusal.is_some() { self.told.len().saturating_sub(1) } else { 0 };
        let states = self.told.get(from..).unwrap_or_default().iter().filter_map(|(at, standing)| {
            let one = self.route.quotas.all.get(*at)?;
            let (quota, Standing { remaining, lasts, renews_in }) = (one.ledger.quota(), *standing);
            Some(QuotaState {
                name: &one.quoted_name,
                unit: quota.unit,
                limit: quota.limit,
                lasts,
                remaining,
                renews_in,
            })
        });
        let states: Vec<_> = states.collect();
        if states.is_empty() {
            return;
        }
        let told = (HeaderValue::try_from(rate_limit_policy(&states)), HeaderValue::try_from(rate_limit(&states)));
        if let (Ok(policy), Ok(limit)) = told {
            self.record.set_quotas(policy, limit);
        }
    }
}
