//! The end of a request: its log lines and its counts, told exactly once, however it ends.
//!
//! A [`Finish`] lives in the request's future and then in the answer's body; it speaks when it is dropped. So a
//! client that hangs up, an upstream that breaks off and a plain success are all told, and none twice.

use std::{sync::Arc, time::Duration};

use http::{StatusCode, Version};

use crate::{
    clock::Clock,
    gate::caps::Holds,
    policy::{forward_auth::Form, reason::Reason},
    telemetry::{
        metrics::{Metrics, RouteMetrics},
        record::Record,
        traces::End,
    },
};

/// The status logged for a client that went away before it had an answer, as nginx does.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What is written of requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestLog {
    /// A line for each.
    pub access: bool,
    /// A warning for each whose answer's head took this long or longer.
    pub slow: Option<Duration>,
}

/// Tells the end of a request when dropped.
pub struct Finish {
    record: Arc<Record>,
    metrics: Arc<Metrics>,
    unrouted: Arc<RouteMetrics>,
    clock: Arc<dyn Clock>,
    log: RequestLog,
    status: Option<StatusCode>,
    /// When the head was sent; not read off the clock unless slow requests are warned of.
    head: Option<Duration>,
    sent: u64,
    cut: Option<Reason>,
    /// Given back when the answer has ended.
    holds: Option<Holds>,
}

impl std::fmt::Debug for Finish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finish").field("record", &self.record).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Finish {
    /// Counts the request as in flight from now on.
    #[must_use]
    pub fn new(
        record: Arc<Record>,
        metrics: Arc<Metrics>,
        unrouted: Arc<RouteMetrics>,
        clock: Arc<dyn Clock>,
        log: RequestLog,
    ) -> Self {
        metrics.requests_in_flight.inc();
        Self { record, metrics, unrouted, clock, log, status: None, head: None, sent: 0, cut: None, holds: None }
    }

    /// The answer's head is on its way.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.record.give_place_back(&self.metrics.requests_unanswered);
        if self.log.slow.is_some() {
            self.head = Some(self.clock.tick().since(self.record.began));
        }
    }

    /// What the request goes on holding until its answer has ended.
    pub(in crate::gate) fn hold(&mut self, holds: Option<Holds>) {
        self.holds = holds;
    }

    /// Bytes of the answer's body were passed on.
    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// The answer's body ended before its end; the first cause stands.
    pub fn cut(&mut self, reason: Reason) {
        self.cut.get_or_insert(reason);
    }

    fn tell(&self) {
        let record = &*self.record;
        let reason = match (self.status, record.reason()) {
            (None, _) => Reason::ClientGone,
            (Some(_), Reason::Ok) => self.cut.unwrap_or(Reason::Ok),
            (Some(_), reason) => reason,
        };
        let status = self.status.or_else(|| StatusCode::from_u16(CLIENT_CLOSED_REQUEST).ok()).unwrap_or_default();
        let took = self.clock.tick().since(record.began);
        let traced = record.trace.as_ref().map(|trace| trace.exemplar(took));
        record.route_metrics().unwrap_or(&self.unrouted).answered(record.asked(), status, reason, took, traced);
        if let Some(trace) = &record.trace {
            trace.ended(record, End { status, reason, took });
        }
        // The head, not the end: an answer that streams for minutes is not a slow one. Who hung up waited till then.
        let waited = self.head.unwrap_or(took);
        if self.log.slow.is_some_and(|slow| waited >= slow) {
            self.warn_of_slow(status, reason, waited);
        }
        if self.log.access {
            tracing::info!(
                target: "portcullis::access",
                request_id = record.request_id(),
                trace_id = format_args!("{:032x}", u128::from_be_bytes(record.trace_id)),
                client = record.client().map(tracing::field::display),
                method = record.verb(),
                path = record.path().unwrap_or_default(),
                version = version(record.version),
                status = status.as_u16(),
                reason = reason.as_str(),
                route = record.route().map(AsRef::as_ref).unwrap_or_default(),
                subject = record.subject().map(AsRef::as_ref).unwrap_or_default(),
                shadow_limit = record.shadow_refused().map(AsRef::as_ref),
                decision_for = record.decision().map(Form::name),
                duration_us = micros(took),
                upstream_us = record.upstream_first_byte().map(micros),
                received = record.received(),
                sent = self.sent,
                tokens_in = record.tokens().map(|(input, _)| input),
                tokens_out = record.tokens().map(|(_, output)| output),
                "request"
            );
        }
    }

    fn warn_of_slow(&self, status: StatusCode, reason: Reason, waited: Duration) {
        let record = &*self.record;
        tracing::warn!(
            target: "portcullis::slow",
            request_id = record.request_id(),
            trace_id = format_args!("{:032x}", u128::from_be_bytes(record.trace_id)),
            route = record.route().map(AsRef::as_ref).unwrap_or_default(),
            method = record.verb(),
            path = record.path().unwrap_or_default(),
            status = status.as_u16(),
            reason = reason.as_str(),
            head_us = micros(waited),
            upstream_us = record.upstream_first_byte().map(micros),
            "slow request"
        );
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

impl Drop for Finish {
    fn drop(&mut self) {
        self.metrics.requests_in_flight.dec();
        self.record.give_place_back(&self.metrics.requests_unanswered);
        self.tell();
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
