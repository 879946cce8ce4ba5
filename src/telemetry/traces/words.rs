//! How a span is worded: OpenTelemetry's semantic conventions for HTTP and database spans.
//!
//! Neither a query nor who called is told, and of an error only its kind: no message.

use std::mem::take;

use http::Version;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode as SpanStatus},
};

use super::{Attribute, ChildSpan, End, RequestTrace};
use crate::{
    clock::{Tick, Timestamp},
    policy::reason::Reason,
    telemetry::{
        metrics::{Label, Verb},
        record::Record,
    },
};

/// Flags of a span (opentelemetry.proto.trace.v1.SpanFlags): sampled; it is known whether its parent is remote; it is.
const SAMPLED: u32 = 0x1;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The span of a request.
pub(super) fn of_request(trace: &RequestTrace, record: &Record, end: End) -> Span {
    let verb = match Verb::from(record.asked()) {
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
    Span {
        trace_id: trace.context.trace_id.into(),
        span_id: trace.context.span_id.into(),
        parent_span_id: trace.parent.map(Into::into).unwrap_or_default(),
        flags: SAMPLED | HAS_IS_REMOTE | if trace.parent.is_some() { IS_REMOTE } else { 0 },
        name: route.map_or_else(|| verb.to_owned(), |route| format!("{verb} {route}")),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(trace.began),
        end_time_unix_nano: nanos(trace.began.plus(end.took)),
        attributes,
        status: Some(status(failed)),
        ..Span::default()
    }
}

/// The span of something a request waited for.
pub(super) fn of_child(child: &mut ChildSpan, ended: Tick) -> Span {
    let trace = &child.trace;
    let mut attributes = take(&mut child.attributes);
    attributes.extend(child.error.as_deref().map(|why| text("error.type", why)));
    Span {
        trace_id: trace.context.trace_id.into(),
        span_id: child.span_id.into(),
        parent_span_id: trace.context.span_id.into(),
        flags: SAMPLED | HAS_IS_REMOTE,
        name: take(&mut child.name).into_owned(),
        kind: child.kind.into(),
        start_time_unix_nano: trace.nanos(child.began),
        end_time_unix_nano: trace.nanos(ended),
        attributes,
        status: Some(status(child.error.is_some())),
        ..Span::default()
    }
}

fn status(failed: bool) -> Status {
    let code = if failed { SpanStatus::Error } else { SpanStatus::Unset };
    Status { code: code.into(), message: String::new() }
}

pub(super) fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.micros()).unwrap_or(0).saturating_mul(1_000)
}

/// An attribute of text.
#[must_use]
pub fn text(key: &str, value: &str) -> Attribute {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// An attribute that is a number.
#[must_use]
pub fn number(key: &str, value: i64) -> Attribute {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> Attribute {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
