//! Spans of requests as a collector receives them: in the caller's trace, parent of what the service behind does, only
//! those that are sampled, and never in the way of a request.

use std::fmt::Write;

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value::Value,
    trace::v1::Span,
};
use prost::Message;

use crate::harness::{
    gateway::{Engine, Gateway, Setup, standard},
    upstream::{Refusing, Reply, Upstream},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "Bearer planted-collector-token";

async fn gateway(upstream: &Upstream, collector: &str, more: &str) -> Gateway {
    let headers = "headers: [{name: authorization, value: {env: COLLECTOR}}]";
    let otlp =
        format!("telemetry: {{access_log: false, otlp: {{endpoint: \"{collector}/v1/traces\", {headers}{more}}}}}");
    let yaml = format!("{otlp}\n{}", standard(upstream));
    Setup::new(Engine::Sqlite, &yaml).variable("COLLECTOR", SECRET).start().await
}

/// Every span the collector was handed.
fn spans(collector: &Upstream) -> Vec<Span> {
    let requests = collector.received().into_iter().filter(|one| one.target() == "/v1/traces");
    requests
        .flat_map(|one| ExportTraceServiceRequest::decode(&*one.body.bytes).unwrap().resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn text(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key}: {other:?} in {span:?}"),
    }
}

#[tokio::test]
async fn a_sampled_request_is_a_span_between_the_callers_and_the_services() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = gateway(&upstream, &collector.url(), "").await;
    let client = gateway.client();
    let traced = client.get("/open/a?secret=q").header("traceparent", &format!("00-{TRACE}-{PARENT}-01"));
    let answer = traced.send().await.expect(200);
    let id = answer.header("x-request-id").unwrap().to_owned();
    let sent_on = upstream.last().head.header("traceparent").unwrap().to_owned();
    gateway.stop().await;

    let told = collector.last();
    assert_eq!((told.method(), told.target()), ("POST", "/v1/traces"));
    assert_eq!(told.head.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(told.head.header("authorization"), Some(SECRET));
    let spans = spans(&collector);
    let [span] = &*spans else { panic!("{spans:?}") };
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, PARENT));
    assert_eq!(sent_on, format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    assert_ne!(hex(&span.span_id), PARENT);
    assert_eq!((span.name.as_str(), span.kind, span.flags), ("GET open", 2, 0x301));
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    assert_eq!(text(span, "http.request.method"), "GET");
    assert_eq!(text(span, "http.response.status_code"), "200");
    assert_eq!(text(span, "url.path"), "/open/a");
    assert_eq!(text(span, "client.address"), "127.0.0.1");
    assert_eq!(text(span, "portcullis.request_id"), id);
    assert!(!format!("{span:?}").contains("secret"), "{span:?}");
}

#[tokio::test]
async fn only_what_is_sampled_is_exported_and_the_service_is_told_which() {
    for (sample, alone) in [("parent", "00"), ("0", "00"), ("1", "01")] {
        let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
        let mut gateway = gateway(&upstream, &collector.url(), &format!(", sample: {sample}")).await;
        let client = gateway.client();
        let mut expected = Vec::new();
        for (caller, flag) in [(None, alone), (Some("00"), "00"), (Some("01"), "01")] {
            let request = client.get("/open/a");
            let request = match caller {
                None => request,
                Some(flag) => request.header("traceparent", &format!("00-{TRACE}-{PARENT}-{flag}")),
            };
            request.send().await.expect(200);
            let sent_on = upstream.last().head.header("traceparent").unwrap().to_owned();
            assert!(sent_on.ends_with(&format!("-{flag}")), "{sample}, {caller:?}: {sent_on}");
            if flag == "01" {
                expected.push(sent_on.split('-').nth(2).unwrap().to_owned());
            }
        }
        gateway.stop().await;
        let mut told: Vec<_> = spans(&collector).iter().map(|span| hex(&span.span_id)).collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected, "{sample}");
    }
}

#[tokio::test]
async fn spans_go_out_while_it_runs_and_what_is_refused_is_counted() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&upstream, &collector.url(), ", sample: 1").await;
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "no".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    collector.reply("/v1/traces", Reply { status: 200, headers: Vec::new(), body: answer });
    gateway.client().get("/nowhere").send().await.refused(404, "no_route");
    collector.wait_for("the span", 1, |one| one.body.whole).await;
    assert_eq!(text(&spans(&collector)[0], "portcullis.reason"), "no_route");
    counted(&gateway, "failed", 1.0).await;
    collector.reply("/v1/traces", Reply::new(503, ""));
    gateway.client().get("/open/a").send().await.expect(200);
    collector.wait_for("another", 2, |one| one.body.whole).await;
    counted(&gateway, "failed", 2.0).await;
    assert!(gateway.metric("portcullis_trace_spans_total{result=\"exported\"}").await < 0.5);
}

#[tokio::test]
async fn a_long_path_makes_no_long_span() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = gateway(&upstream, &collector.url(), ", sample: 1").await;
    let path = format!("/open/{}", "a/%C3%A9".repeat(3_000));
    gateway.client().get(&path).send().await.expect(200);
    gateway.stop().await;
    let spans = spans(&collector);
    let told = text(&spans[0], "url.path");
    assert!(told == path[..1_024], "{} bytes", told.len());
    // As many as may wait are a few MiB, and a batch is one that collectors take.
    assert!(spans[0].encoded_len() < 2_048, "{}", spans[0].encoded_len());
}

/// Waits until so many spans were counted.
async fn counted(gateway: &Gateway, result: &str, many: f64) {
    let name = format!("portcullis_trace_spans_total{{result=\"{result}\"}}");
    crate::harness::soon("the count", async { while gateway.metric(&name).await < many - 0.5 {} }).await;
}

#[tokio::test]
async fn a_collector_that_is_down_or_silent_holds_up_neither_requests_nor_a_stop() {
    let (upstream, silent, refusing) = (Upstream::start().await, Upstream::start().await, Refusing::new());
    silent.hold("/v1/traces");
    for collector in [refusing.url(), silent.url()] {
        let mut gateway = gateway(&upstream, &collector, ", sample: 1, timeout: 100ms").await;
        let client = gateway.client();
        for _ in 0..3 {
            client.get("/open/a").send().await.expect(200);
        }
        counted(&gateway, "failed", 3.0).await;
        client.get("/open/a").send().await.expect(200);
        gateway.stop().await;
    }
}
