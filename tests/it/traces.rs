//! Spans of requests as a collector receives them: in the caller's trace, parent of what the service behind does, only
//! those that are sampled, and never in the way of a request.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
    trace::v1::span::SpanKind,
};
use prost::Message;

use crate::harness::{
    gateway::{Engine, Gateway, Setup, standard},
    spans::{attribute, error, hex, of_kind, spans, text},
    tls::Authority,
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
    let [call, span] = &*spans else { panic!("{spans:?}") };
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, PARENT));
    assert_ne!(hex(&span.span_id), PARENT);
    // Between our span and the service's: the call.
    assert_eq!((hex(&call.trace_id).as_str(), &call.parent_span_id), (TRACE, &span.span_id));
    assert_eq!(sent_on, format!("00-{TRACE}-{}-01", hex(&call.span_id)));
    assert_eq!((call.name.as_str(), call.kind(), call.flags), ("GET", SpanKind::Client, 0x101));
    assert!(call.start_time_unix_nano >= span.start_time_unix_nano);
    assert!(call.end_time_unix_nano <= span.end_time_unix_nano);
    assert_eq!(text(call, "url.full"), format!("{}/open/a", upstream.url()));
    assert_eq!(
        (text(call, "server.address"), text(call, "http.response.status_code")),
        ("127.0.0.1".into(), "200".into())
    );
    assert_eq!(text(call, "server.port"), upstream.address().port().to_string());
    assert_eq!((text(call, "portcullis.cluster"), error(call), error(span)), ("rag".into(), None, None));
    assert_eq!((span.name.as_str(), span.kind, span.flags), ("GET open", 2, 0x301));
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    assert_eq!(text(span, "http.request.method"), "GET");
    assert_eq!(text(span, "http.response.status_code"), "200");
    assert_eq!(text(span, "url.path"), "/open/a");
    assert_eq!(text(span, "client.address"), "127.0.0.1");
    assert_eq!(text(span, "portcullis.request_id"), id);
    assert!(!format!("{spans:?}").contains("secret"), "{spans:?}");
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
        let spans = spans(&collector);
        let mut told: Vec<_> = of_kind(&spans, SpanKind::Client).iter().map(|span| hex(&span.span_id)).collect();
        told.sort();
        expected.sort();
        assert_eq!(of_kind(&spans, SpanKind::Server).len(), expected.len(), "{sample}");
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
    // The request's and that of its call.
    counted(&gateway, "failed", 3.0).await;
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
    let ([request], [call]) = (&of_kind(&spans, SpanKind::Server)[..], &of_kind(&spans, SpanKind::Client)[..]) else {
        panic!("{} spans", spans.len());
    };
    let (told, sent_on) = (text(request, "url.path"), text(call, "url.full"));
    assert!(told == path[..1_024], "{} bytes", told.len());
    assert!(sent_on == format!("{}{told}", upstream.url()), "{} bytes", sent_on.len());
    // As many as may wait are a few MiB, and a batch is one that collectors take.
    for span in [request, call] {
        assert!(span.encoded_len() < 2_048, "{}", span.encoded_len());
    }
}

#[tokio::test]
async fn a_collector_is_trusted_by_its_private_ca_alone() {
    let authority = Authority::new();
    let (upstream, collector) = (Upstream::start().await, Upstream::start_tls(&authority.certify("127.0.0.1")).await);
    for (ca, result) in [(authority.pem(), "exported"), (Authority::new().pem(), "failed")] {
        let otlp = format!(
            "telemetry: {{access_log: false, otlp: {{endpoint: \"{}/v1/traces\", ca_file: ca.pem, sample: 1}}}}\n",
            collector.url()
        );
        let setup = Setup::new(Engine::Sqlite, &format!("{otlp}{}", standard(&upstream))).file("ca.pem", ca);
        let mut gateway = setup.start().await;
        gateway.client().get("/open/a").send().await.expect(200);
        counted(&gateway, result, 2.0).await;
        gateway.stop().await;
    }
    assert_eq!(spans(&collector).len(), 2, "those of the first gateway");
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
        counted(&gateway, "failed", 6.0).await;
        client.get("/open/a").send().await.expect(200);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_call_that_fails_is_an_error_by_its_kind() {
    let (upstream, collector, refusing) = (Upstream::start().await, Upstream::start().await, Refusing::new());
    let setup =
        standard(&upstream).replace("routes:", &format!("  gone: {{endpoints: [\"{}\"]}}\nroutes:", refusing.url()));
    let gone = "  - {name: gone, match: {path: \"/gone/{*rest}\"}, auth: none, cluster: gone}\n";
    let otlp =
        format!("telemetry: {{access_log: false, otlp: {{endpoint: \"{}/v1/traces\", sample: 1}}}}", collector.url());
    let mut gateway = Gateway::start(Engine::Sqlite, &format!("{otlp}{setup}{gone}")).await;
    let client = gateway.client();
    upstream.reply("/open/missing", Reply::new(404, "no"));
    upstream.hold("/open/broken");
    upstream.hold("/open/left");
    client.get("/gone/a").send().await.refused(502, "upstream_connect");
    client.get("/open/missing").send().await.expect(404);
    let asking = client.get("/open/broken").open();
    let (mut answer, ()) = tokio::join!(asking, async {
        let mut held = upstream.held().await;
        held.begin(200, &[]).await;
        held.chunk("half an ans").await;
    });
    while answer.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
    let leaving = tokio::spawn(async move { client.get("/open/left").open().await });
    let held = upstream.held().await;
    leaving.abort();
    held.given_up().await;
    gateway.stop().await;

    let spans = spans(&collector);
    let calls = of_kind(&spans, SpanKind::Client);
    let told: Vec<_> = calls
        .iter()
        .map(|call| (attribute(call, "http.response.status_code").unwrap_or_default(), error(call).unwrap_or_default()))
        .collect();
    let expected = [("", "upstream_connect"), ("404", "404"), ("200", "answer_cut"), ("", "cancelled")];
    assert_eq!(told, expected.map(|(status, error)| (status.to_owned(), error.to_owned())));
}
