//! What is remembered of one request until its last byte: shared by the layers that learn and the observer that tells.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Method, Version, uri::PathAndQuery};

use crate::{
    clock::{Tick, nanos},
    policy::{forward_auth::Form, reason::Reason},
    telemetry::{
        metrics::{Gauge, RouteMetrics},
        traces::RequestTrace,
    },
};

/// Bytes of a path that are told. Lines and spans wait in queues that are counted by the piece, and a collector refuses
/// a batch that is too large: a stranger's long paths must neither fill memory nor hide what others did.
const LONGEST_PATH: usize = 1_024;

/// As much of a path as is told.
#[must_use]
pub fn told_path(path: &str) -> &str {
    &path[..path.floor_char_boundary(LONGEST_PATH)]
}

/// Bytes of a method that are told; the longest registered one has 17.
const LONGEST_METHOD: usize = 32;

/// What is remembered of one request. Each fact is set at most once; later attempts are ignored.
#[derive(Debug)]
pub struct Record {
    /// The request's id, as sent upstream and in the answer, and written in the log. Visible ASCII.
    pub request_id: HeaderValue,
    /// W3C trace id.
    pub trace_id: [u8; 16],
    /// When its head had been read.
    pub began: Tick,
    /// The method of the very request; what was asked is [`Self::asked`].
    pub method: Method,
    /// Its protocol version.
    pub version: Version,
    /// Makes its spans; `None` when it is not sampled.
    pub trace: Option<Arc<RequestTrace>>,
    target: OnceLock<PathAndQuery>,
    decision: OnceLock<(Form, Method)>,
    client: OnceLock<IpAddr>,
    route: OnceLock<(Arc<str>, Arc<RouteMetrics>)>,
    reason: OnceLock<Reason>,
    subject: OnceLock<Arc<str>>,
    rate_limit: OnceLock<(HeaderValue, HeaderValue)>,
    quotas: OnceLock<(HeaderValue, HeaderValue)>,
    shadow_refused: OnceLock<Arc<str>>,
    reader: OnceLock<Option<HeaderValue>>,
    tokens: OnceLock<(u64, u64)>,
    upstream_first_byte_nanos: AtomicU64,
    received_bytes: AtomicU64,
    has_place: AtomicBool,
}

impl Record {
    /// A fresh record.
    #[must_use]
    pub fn new(
        request_id: HeaderValue,
        trace_id: [u8; 16],
        began: Tick,
        (method, version): (Method, Version),
        trace: Option<Arc<RequestTrace>>,
    ) -> Self {
        Self {
            request_id,
            trace_id,
            began,
            method,
            version,
            trace,
            target: OnceLock::new(),
            decision: OnceLock::new(),
            client: OnceLock::new(),
            route: OnceLock::new(),
            reason: OnceLock::new(),
            subject: OnceLock::new(),
            rate_limit: OnceLock::new(),
            quotas: OnceLock::new(),
            shadow_refused: OnceLock::new(),
            reader: OnceLock::new(),
            tokens: OnceLock::new(),
            upstream_first_byte_nanos: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            has_place: AtomicBool::new(false),
        }
    }

    /// Counts it among those whose answer has not begun.
    pub fn take_place(&self, taken: &Gauge) {
        if !self.has_place.swap(true, Ordering::Relaxed) {
            taken.inc();
        }
    }

    /// Its answer begins, or none will.
    pub fn give_place_back(&self, taken: &Gauge) {
        // Most often there is one, once; whoever has none pays a load.
        if self.has_place.load(Ordering::Relaxed) && self.has_place.swap(false, Ordering::Relaxed) {
            taken.dec();
        }
    }

    /// The request's id as text.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Notes the canonical path; costs no copy.
    pub fn set_target(&self, target: PathAndQuery) {
        let _ = self.target.set(target);
    }

    /// The canonical path, without the query (which may hold secrets), cut ([`told_path`]); `None` for a request
    /// refused before it had one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        Some(told_path(self.target.get()?.path()))
    }

    /// Notes that another proxy asks, how, and for a request of which method.
    pub fn set_decision(&self, form: Form, method: Method) {
        let _ = self.decision.set((form, method));
    }

    /// How another proxy asked whether it may forward the request; `None`: the request was the client's own.
    #[must_use]
    pub fn decision(&self) -> Option<Form> {
        self.decision.get().map(|(form, _)| *form)
    }

    /// The method that was asked for: the original's where another proxy asks for a decision.
    #[must_use]
    pub fn asked(&self) -> &Method {
        self.decision.get().map_or(&self.method, |(_, method)| method)
    }

    /// The method as it is told: a stranger may have made it up, and long.
    #[must_use]
    pub fn verb(&self) -> &str {
        let method = self.asked().as_str();
        &method[..method.floor_char_boundary(LONGEST_METHOD)]
    }

    /// Notes the client's address.
    pub fn set_client(&self, client: IpAddr) {
        let _ = self.client.set(client);
    }

    /// The client's address.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.client.get().copied()
    }

    /// Notes the route and its counters.
    pub fn set_route(&self, name: &Arc<str>, metrics: &Arc<RouteMetrics>) {
        let _ = self.route.set((Arc::clone(name), Arc::clone(metrics)));
    }

    /// The route's name; `None` for a request no route took.
    #[must_use]
    pub fn route(&self) -> Option<&Arc<str>> {
        self.route.get().map(|(name, _)| name)
    }

    /// The route's counters.
    #[must_use]
    pub fn route_metrics(&self) -> Option<&Arc<RouteMetrics>> {
        self.route.get().map(|(_, metrics)| metrics)
    }

    /// Notes why the request was answered as it was; the first reason stands.
    pub fn set_reason(&self, reason: Reason) {
        let _ = self.reason.set(reason);
    }

    /// Why; [`Reason::Ok`] until something else was noted.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason.get().copied().unwrap_or(Reason::Ok)
    }

    /// Notes who called (or who has just logged in).
    pub fn set_subject(&self, subject: Arc<str>) {
        let _ = self.subject.set(subject);
    }

    /// Who called.
    #[must_use]
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.subject.get()
    }

    /// Notes the `RateLimit-Policy` and `RateLimit` headers of the answer.
    pub fn set_rate_limit(&self, policy: HeaderValue, limit: HeaderValue) {
        let _ = self.rate_limit.set((policy, limit));
    }

    /// The `RateLimit-Policy` and `RateLimit` headers of the answer.
    #[must_use]
    pub fn rate_limit(&self) -> Option<&(HeaderValue, HeaderValue)> {
        self.rate_limit.get()
    }

    /// Notes what quotas add to `RateLimit-Policy` and `RateLimit`.
    pub fn set_quotas(&self, policy: HeaderValue, limit: HeaderValue) {
        let _ = self.quotas.set((policy, limit));
    }

    /// What quotas add to `RateLimit-Policy` and `RateLimit`.
    #[must_use]
    pub fn quotas(&self) -> Option<&(HeaderValue, HeaderValue)> {
        self.quotas.get()
    }

    /// Notes a limit that only looks on and would have refused the request; the first one stands.
    pub fn set_shadow_refused(&self, limit: &Arc<str>) {
        let _ = self.shadow_refused.set(Arc::clone(limit));
    }

    /// The first limit that only looks on and would have refused the request.
    #[must_use]
    pub fn shadow_refused(&self) -> Option<&Arc<str>> {
        self.shadow_refused.get()
    }

    /// Notes the origin whose pages may read the answer, of those the route lists; `None`: no other than our own.
    pub fn set_reader(&self, origin: Option<HeaderValue>) {
        let _ = self.reader.set(origin);
    }

    /// The origin whose pages may read the answer; `None` when the route says nothing of origins.
    #[must_use]
    pub fn reader(&self) -> Option<Option<&HeaderValue>> {
        self.reader.get().map(Option::as_ref)
    }

    /// Notes how long the upstream took to answer with a head.
    pub fn set_upstream_first_byte(&self, took: Duration) {
        self.upstream_first_byte_nanos.store(nanos(took), Ordering::Relaxed);
    }

    /// How long the upstream took to answer with a head; `None` when none was asked or none answered.
    #[must_use]
    pub fn upstream_first_byte(&self) -> Option<Duration> {
        match self.upstream_first_byte_nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Notes the tokens that a model read and wrote.
    pub fn set_tokens(&self, input: u64, output: u64) {
        let _ = self.tokens.set((input, output));
    }

    /// Tokens read and written; `None`: they were not metered.
    #[must_use]
    pub fn tokens(&self) -> Option<(u64, u64)> {
        self.tokens.get().copied()
    }

    /// Counts bytes of the request body that were read.
    pub fn add_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of the request body that were read.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}
