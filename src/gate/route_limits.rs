//! The limits of a route as requests meet them: what counts, by what, and what is told of it.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use crate::{
    config::settings::{LimitKey, UnderWay},
    policy::limit_headers::{self, Counts, LimitState},
    store::{
        limits::Limiter,
        memory::{in_flight::InFlight, limits::CounterKey},
    },
    telemetry::metrics::LimitMetrics,
};

/// A limit of a rate: its counter, shared by every route that names it, and what the `RateLimit-Policy` header says.
#[derive(Debug, Clone)]
pub struct RouteLimit {
    /// The name in the file.
    pub name: Arc<str>,
    /// The same as the `RateLimit` headers write it.
    pub quoted_name: Arc<str>,
    /// What it counts by.
    pub key: LimitKey,
    /// It refuses nothing.
    pub shadow: bool,
    /// Counts; shared by every route that names the limit.
    pub limiter: Arc<Limiter>,
    /// Requests a client may send at once (`q`).
    pub quota: u32,
    /// The time in which they come back (`w`).
    pub window: Duration,
    /// Its counters of decisions.
    pub metrics: Arc<LimitMetrics>,
}

/// A cap on what is under way at once.
#[derive(Debug, Clone)]
pub struct RouteCap {
    /// The name in the file.
    pub name: Arc<str>,
    /// The same as the `RateLimit` headers write it.
    pub quoted_name: Arc<str>,
    /// What it counts by.
    pub key: LimitKey,
    /// It refuses nothing.
    pub shadow: bool,
    /// What it counts.
    pub of: UnderWay,
    /// How many of them may be under way at once.
    pub most: u32,
    /// Counts; shared by every route that names the cap.
    pub in_flight: Arc<InFlight>,
    /// Its counters of decisions.
    pub metrics: Arc<LimitMetrics>,
}

/// How a limit stands for one request that has met it.
#[derive(Debug, Clone, Copy)]
pub enum Met {
    /// A rate, by its place in [`RouteLimits::rates`].
    Rate {
        /// Which.
        at: usize,
        /// Requests left now.
        remaining: u32,
        /// Until all of it is there again.
        reset: Duration,
    },
    /// A cap, by its place in [`RouteLimits::caps`].
    Cap {
        /// Which.
        at: usize,
        /// How many may begin now.
        remaining: u32,
    },
}

impl Met {
    /// Where headers tell of it: caps before rates, each in their order.
    #[must_use]
    pub const fn place(&self) -> (bool, usize) {
        match *self {
            Self::Cap { at, .. } => (false, at),
            Self::Rate { at, .. } => (true, at),
        }
    }
}

/// The limits of a route, in the order they are asked.
#[derive(Debug)]
pub struct RouteLimits {
    rates: Vec<RouteLimit>,
    caps: Vec<RouteCap>,
    route: CounterKey,
    /// Of a request that has met all of them.
    policy: Option<HeaderValue>,
    /// Of one that is no stream, where there are caps on streams.
    policy_without_streams: Option<HeaderValue>,
    /// Some rate is known before authentication.
    is_peeked: bool,
    failures_only: bool,
}

impl RouteLimits {
    /// Rates and caps of this route, each narrow before wide.
    #[must_use]
    pub fn new(route: &str, rates: Vec<RouteLimit>, caps: Vec<RouteCap>) -> Self {
        let is_peeked = rates.iter().any(|limit| !limit.key.needs_caller());
        let route = CounterKey::route(route);
        Self { rates, caps, route, policy: None, policy_without_streams: None, is_peeked, failures_only: false }
            .with_policies()
    }

    fn with_policies(mut self) -> Self {
        self.policy = self.policy_of(|_| true);
        self.policy_without_streams = self.policy_of(|met| !self.is_of_streams(met));
        self
    }

    fn policy_of(&self, which: impl Fn(&Met) -> bool) -> Option<HeaderValue> {
        let met: Vec<_> = self.in_headers().filter(which).collect();
        let states = met.iter().filter_map(|met| self.state(met));
        let policy = HeaderValue::try_from(limit_headers::rate_limit_policy(states)).ok();
        policy.filter(|policy| !policy.is_empty())
    }

    fn is_of_streams(&self, met: &Met) -> bool {
        matches!(*met, Met::Cap { at, .. } if self.caps.get(at).is_some_and(|cap| cap.of == UnderWay::Streams))
    }

    /// No limits.
    #[must_use]
    pub fn none() -> Self {
        Self::new("", Vec::new(), Vec::new())
    }

    /// The limits that need no caller, for a route whose handler charges them for those who fail to prove who they are;
    /// whoever does is charged nothing.
    #[must_use]
    pub fn of_failures(self) -> Self {
        let rates = self.rates.into_iter().filter(|limit| !limit.key.needs_caller()).collect();
        Self { rates, caps: Vec::new(), failures_only: true, ..self }.with_policies()
    }

    /// Limits of a rate, narrow before wide.
    #[must_use]
    pub fn rates(&self) -> &[RouteLimit] {
        &self.rates
    }

    /// Caps on what is under way, narrow before wide.
    #[must_use]
    pub fn caps(&self) -> &[RouteCap] {
        &self.caps
    }

    /// What a limit by route counts under here.
    #[must_use]
    pub fn route(&self) -> &CounterKey {
        &self.route
    }

    /// Whether some rate is known before authentication.
    #[must_use]
    pub fn is_peeked(&self) -> bool {
        self.is_peeked
    }

    /// Whether a request is charged by coming.
    #[must_use]
    pub fn are_charged(&self) -> bool {
        !self.failures_only && !self.is_empty()
    }

    /// Caps and rates together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rates.len() + self.caps.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the headers tell of a limit that was met; `None`: nothing, of one that only looks on.
    pub fn state(&self, met: &Met) -> Option<LimitState<'_>> {
        match *met {
            Met::Rate { at, remaining, reset } => {
                let limit = self.rates.get(at).filter(|limit| !limit.shadow)?;
                let (quota, counts) = (limit.quota, Counts::In(limit.window));
                Some(LimitState { name: &limit.quoted_name, quota, counts, remaining, reset })
            }
            Met::Cap { at, remaining } => {
                let cap = self.caps.get(at).filter(|cap| !cap.shadow)?;
                let (quota, reset) = (cap.most, Duration::ZERO);
                let counts = match cap.of {
                    UnderWay::Requests => Counts::RequestsAtOnce,
                    UnderWay::Streams => Counts::StreamsAtOnce,
                };
                Some(LimitState { name: &cap.quoted_name, quota, counts, remaining, reset })
            }
        }
    }

    /// `RateLimit-Policy` and `RateLimit` of a request that has met these.
    #[must_use]
    pub fn headers(&self, met: &[Met]) -> Option<(HeaderValue, HeaderValue)> {
        let states = met.iter().filter_map(|met| self.state(met));
        let all = states.clone().count();
        if all == 0 {
            return None;
        }
        // The same for each that has met all of them, or all but those of streams, so each is made once.
        let whole = |which: &dyn Fn(&Met) -> bool| all == self.in_headers().filter(which).count();
        let policy = match (&self.policy, &self.policy_without_streams) {
            (Some(policy), _) if whole(&|_| true) => policy.clone(),
            (_, Some(policy))
                if !met.iter().any(|met| self.is_of_streams(met)) && whole(&|met| !self.is_of_streams(met)) =>
            {
                policy.clone()
            }
            _ => HeaderValue::try_from(limit_headers::rate_limit_policy(states.clone())).ok()?,
        };
        Some((policy, HeaderValue::try_from(limit_headers::rate_limit(states)).ok()?))
    }

    /// All that headers can tell of, in their order.
    fn in_headers(&self) -> impl Iterator<Item = Met> {
        let caps = self.caps.iter().enumerate().filter(|(_, cap)| !cap.shadow);
        let rates = self.rates.iter().enumerate().filter(|(_, limit)| !limit.shadow);
        caps.map(|(at, _)| Met::Cap { at, remaining: 0 }).chain(rates.map(|(at, _)| Met::Rate {
            at,
            remaining: 0,
            reset: Duration::ZERO,
        }))
    }
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self::none()
    }
}
