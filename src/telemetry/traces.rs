//! The span of a request as OTLP says it, and the queue in which ended ones wait to be exported.
//!
//! A request's span is made when it has ended, from what its record holds; while it runs nothing is kept but its ids.
//! Handing it over never waits: when the queue is full the span is dropped and counted. Attributes follow
//! OpenTelemetry's semantic conventions for HTTP servers; neither the query nor who called is told.

use std::{sync::Arc, time::Duration};

use http::{StatusCode, Version};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode as SpanStatus},
};
use prost::Message;
use tokio::sync::mpsc;

use crate::{
    clock::Timestamp,
    policy::{
        reason::Reason,
        trace::{Sampling, TraceContext},
    },
    telemetry::{
        metrics::{Label, Metrics, SpanResult, Verb},
        record::Record,
    },
};

/// Ended spans that may wait: a few MiB at most, since nothing in one is long.
const QUEUE: usize = 4_096;

/// Flags of a span (opentelemetry.proto.trace.v1.SpanFlags): sampled; it is known whether its parent is remote; it is.
const SAMPLED: u32 = 0x1;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Ended spans on their way out.
pub type Queue = mpsc::Receiver<Span>;

/// Which requests are told, and where their spans go.
#[derive(Debug)]
pub struct Traces {
    sampling: Sampling,
    queue: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
}

/// What a span needs that its request's record does not hold.
#[derive(Debug, Clone, Copy)]
pub struct SpanIds {
    /// Ours.
    pub span_id: [u8; 8],
    /// The caller's, if it sent one.
    pub parent: Option<[u8; 8]>,
    /// When the request's head had been read.
    pub began: Timestamp,
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
    pub fn new(sampling: Sampling, metrics: Arc<Metrics>) -> (Self, Queue) {
        let (queue, ended) = mpsc::channel(QUEUE);
        (Self { sampling, queue, metrics }, ended)
    }

    /// Whether a request without a parent is sampled.
    #[must_use]
    pub fn samples(&self, trace: &TraceContext) -> bool {
        self.sampling.samples(trace.trace_id)
    }

    /// Hands a request's span over, or drops it.
    pub fn ended(&self, ids: SpanIds, record: &Record, end: End) {
        match self.queue.try_reserve() {
            Ok(place) => place.send(span(ids, record, end)),
            Err(_) => self.metrics.trace_spans.of(SpanResult::Dropped).inc(),
        }
    }
}

fn span(ids: SpanIds, record: &Record, end: End) -> Span {
    let verb = match Verb::from(&record.method) {
        Verb::Other => "_OTHER",
        known => known.value(),
    };
    let route = record.route().map(AsRef::as_ref);
    let version = match record.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    let mut attributes = vec![
        text("http.request.method", verb),
        number("http.response.status_code", i64::from(end.status.as_u16())),
        text("url.path", record.path().unwrap_or_default()),
        text("network.protocol.version", version),
        text("portcullis.request_id", record.request_id()),
        text("portcullis.reason", end.reason.as_str()),
    ];
    attributes.extend(route.map(|route| text("portcullis.route", route)));
    attributes.extend(record.client().map(|client| text("client.address", &client.to_string())));
    attributes.extend(
        record
            .upstream_first_byte()
            .map(|took| number("portcullis.upstream_us", i64::try_from(took.as_micros()).unwrap_or(i64::MAX))),
    );
    let failed = end.status.is_server_error() || end.reason == Reason::AnswerCut;
    attributes.extend(failed.then(|| text("error.type", end.reason.as_str())));
    let status = if failed { SpanStatus::Error } else { SpanStatus::Unset };
    Span {
        trace_id: record.trace_id.into(),
        span_id: ids.span_id.into(),
        parent_span_id: ids.parent.map(Into::into).unwrap_or_default(),
        flags: SAMPLED | HAS_IS_REMOTE | if ids.parent.is_some() { IS_REMOTE } else { 0 },
        name: route.map_or_else(|| verb.to_owned(), |route| format!("{verb} {route}")),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(ids.began),
        end_time_unix_nano: nanos(ids.began.plus(end.took)),
        attributes,
        status: Some(Status { code: status.into(), message: String::new() }),
        ..Span::default()
    }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.micros()).unwrap_or(0).saturating_mul(1_000)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
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
