//! The spans of sampled requests, and the queue in which ended ones wait to be exported.
//!
//! A sampled request has a [`RequestTrace`]. Its own span is made when it has ended, from what its record holds; what
//! it waits for is told by spans below it ([`ChildSpan`]), each made when that has ended. Handing a span over never
//! waits: when the queue is full it is dropped and counted. A request that is not sampled has none of this. How a span
//! is worded is in `words`; [`encode`] puts spans into OTLP.

mod words;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{InstrumentationScope, KeyValue},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind},
};
use prost::Message;
use tokio::sync::mpsc;

pub use self::words::{number, text};
use crate::{
    clock::{Clock, Entropy, Tick, Timestamp},
    policy::{
        reason::Reason,
        trace::{Sampling, TraceContext},
    },
    telemetry::{
        metrics::{Metrics, SpanResult, Traced},
        record::Record,
    },
};

/// Ended spans that may wait: a few MiB at most, since nothing in one is long.
const QUEUE: usize = 4_096;

/// Calls of one request that are told: several times what any endpoint makes.
const MAX_CALLS: u32 = 64;

/// Ended spans on their way out.
pub type Queue = mpsc::Receiver<Span>;

/// One attribute of a span.
pub type Attribute = KeyValue;

/// Which requests are told, and where their spans go.
pub struct Traces {
    sampling: Sampling,
    queue: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("sampling", &self.sampling).finish_non_exhaustive()
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// As told in the log.
    pub status: StatusCode,
    /// Why.
    pub reason: Reason,
    /// To the answer's last byte.
    pub took: Duration,
}

impl Traces {
    /// A queue for whoever exports.
    #[must_use]
    pub fn new(
        sampling: Sampling,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> (Self, Queue) {
        let (queue, ended) = mpsc::channel(QUEUE);
        (Self { sampling, queue, metrics, clock, entropy }, ended)
    }

    /// Whether a request without a parent is sampled.
    #[must_use]
    pub fn samples(&self, trace: &TraceContext) -> bool {
        self.sampling.samples(trace.trace_id)
    }

    fn hand_over(&self, span: impl FnOnce() -> Span) {
        match self.queue.try_reserve() {
            Ok(place) => place.send(span()),
            Err(_) => self.metrics.trace_spans.of(SpanResult::Dropped).inc(),
        }
    }

    fn span_id(&self) -> [u8; 8] {
        let mut id = [0; 8];
        self.entropy.fill(&mut id);
        id
    }
}

/// The trace of one sampled request, as far as it is ours.
#[derive(Debug)]
pub struct RequestTrace {
    traces: Arc<Traces>,
    /// The request's own span.
    context: TraceContext,
    /// The caller's span, if it sent one.
    parent: Option<[u8; 8]>,
    began: Timestamp,
    tick: Tick,
    calls: AtomicU32,
}

impl RequestTrace {
    /// Of a request whose head had been read at this moment, told by both clocks.
    #[must_use]
    pub fn new(
        traces: Arc<Traces>,
        context: TraceContext,
        parent: Option<[u8; 8]>,
        (began, tick): (Timestamp, Tick),
    ) -> Self {
        Self { traces, context, parent, began, tick, calls: AtomicU32::new(0) }
    }

    /// Its ids.
    #[must_use]
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// The request, that took so long, as an exemplar of how long requests take.
    #[must_use]
    pub fn exemplar(&self, took: Duration) -> Traced {
        Traced { trace_id: self.context.trace_id, span_id: self.context.span_id, at: self.began.plus(took) }
    }

    /// The request has ended.
    pub fn ended(&self, record: &Record, end: End) {
        self.traces.hand_over(|| words::of_request(self, record, end));
    }

    /// The request is sent on to a service from now on.
    #[must_use]
    pub fn upstream(self: &Arc<Self>, name: String, attributes: Vec<Attribute>) -> ChildSpan {
        ChildSpan::begin(self, SpanKind::Client, name.into(), attributes)
    }

    /// The request waits for a database from now on; `None`: for the next of too many calls, which are counted as
    /// dropped.
    #[must_use]
    pub fn call(self: &Arc<Self>, kind: CallKind, name: String, attributes: Vec<Attribute>) -> Option<ChildSpan> {
        if self.calls.fetch_add(1, Relaxed) >= MAX_CALLS {
            self.traces.metrics.trace_spans.of(SpanResult::Dropped).inc();
            return None;
        }
        let kind = match kind {
            CallKind::Remote => SpanKind::Client,
            CallKind::Local => SpanKind::Internal,
        };
        Some(ChildSpan::begin(self, kind, name.into(), attributes))
    }

    /// The request waits for something in this process from now on.
    #[must_use]
    pub fn work(self: &Arc<Self>, name: &'static str) -> ChildSpan {
        ChildSpan::begin(self, SpanKind::Internal, name.into(), Vec::new())
    }

    /// A moment of the monotonic clock in nanoseconds since 1970, counted from the request's beginning: so that a span
    /// never begins before the one above it, whatever civil time does.
    fn nanos(&self, at: Tick) -> u64 {
        words::nanos(self.began.plus(at.since(self.tick)))
    }
}

/// Whether a call leaves the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// Another process is asked.
    Remote,
    /// Something in this one.
    Local,
}

/// What `error.type` says of something that was given up: its request has ended or its time was over.
const CANCELLED: &str = "cancelled";

/// Something that a request waits for. Its end is when it is dropped: an error unless it was said to be well.
#[derive(Debug)]
pub struct ChildSpan {
    trace: Arc<RequestTrace>,
    span_id: [u8; 8],
    began: Tick,
    kind: SpanKind,
    name: Cow<'static, str>,
    attributes: Vec<Attribute>,
    error: Option<Cow<'static, str>>,
}

impl ChildSpan {
    fn begin(trace: &Arc<RequestTrace>, kind: SpanKind, name: Cow<'static, str>, attributes: Vec<Attribute>) -> Self {
        let traces = &trace.traces;
        Self {
            span_id: trace.context.child(traces.span_id()).span_id,
            began: traces.clock.tick(),
            trace: Arc::clone(trace),
            kind,
            name,
            attributes,
            error: Some(Cow::Borrowed(CANCELLED)),
        }
    }

    /// What whoever is asked may continue.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        TraceContext { span_id: self.span_id, ..self.trace.context }
    }

    /// One more thing known of it.
    pub fn note(&mut self, attribute: Attribute) {
        self.attributes.push(attribute);
    }

    /// It went well.
    pub fn well(&mut self) {
        self.error = None;
    }

    /// It was given up before its end, unless something else was wrong already.
    pub fn cancelled(&mut self) {
        self.error.get_or_insert(Cow::Borrowed(CANCELLED));
    }

    /// It failed: `error.type`, of a short list, never a message.
    pub fn failed(&mut self, why: impl Into<Cow<'static, str>>) {
        self.error = Some(why.into());
    }
}

impl Drop for ChildSpan {
    fn drop(&mut self) {
        let trace = Arc::clone(&self.trace);
        let ended = trace.traces.clock.tick();
        trace.traces.hand_over(|| words::of_child(self, ended));
    }
}

/// An `ExportTraceServiceRequest` of these spans, in protobuf.
#[must_use]
pub fn encode(spans: Vec<Span>) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![text("service.name", "portcullis"), text("service.version", version)],
        ..Resource::default()
    };
    let scope =
        InstrumentationScope { name: "portcullis".to_owned(), version: version.to_owned(), ..Default::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

#[cfg(test)]
mod tests;
