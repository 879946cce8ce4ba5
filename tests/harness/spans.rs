//! What a collector was handed: an [`Upstream`] records the requests, here their spans are read.

use std::fmt::Write;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;

use crate::harness::upstream::Upstream;

/// Every span the collector was handed, in the order of their ends.
pub(crate) fn spans(collector: &Upstream) -> Vec<Span> {
    let requests = collector.received().into_iter().filter(|one| one.target() == "/v1/traces");
    requests
        .flat_map(|one| ExportTraceServiceRequest::decode(&*one.body.bytes).unwrap().resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

/// An id as `traceparent` writes it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An attribute, numbers written out; `None` when it has none of that name.
pub(crate) fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key}: {other:?} in {span:?}"),
    }
}

/// An attribute that must be there.
pub(crate) fn text(span: &Span, key: &str) -> String {
    attribute(span, key).unwrap_or_else(|| panic!("no {key} in {span:?}"))
}

/// The spans of one kind.
pub(crate) fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind() == kind).collect()
}

/// The spans below this one.
pub(crate) fn below<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id).collect()
}

/// Why it failed; `None`: it did not. An error says its kind, and never a message.
pub(crate) fn error(span: &Span) -> Option<String> {
    let status = span.status.clone().unwrap_or_default();
    assert_eq!(status.message, "", "{span:?}");
    let error = attribute(span, "error.type");
    assert_eq!(status.code() == StatusCode::Error, error.is_some(), "{span:?}");
    error
}
