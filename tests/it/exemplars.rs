//! From a slow bucket to the trace that made it slow: `/metrics` as OpenMetrics carries exemplars of sampled requests.
//! Read by the parser of Prometheus' Python client, which refuses what the specification does not allow.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{
    gateway::{Engine, Gateway, standard},
    soon,
    spans::{hex, of_kind, spans},
    upstream::Upstream,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const OPEN: &str = "application/openmetrics-text";

/// `/metrics` in the format that is asked for, and its media type.
async fn metrics(gateway: &Gateway, accept: &str) -> (String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("http://{}/metrics", gateway.running().admin_addr())).header("accept", accept);
    let answer = soon("the admin listener", request.send()).await.unwrap();
    let media_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (media_type, answer.text().await.unwrap())
}

/// What the parser makes of it.
fn parsed(text: &str) -> Value {
    #[expect(clippy::disallowed_methods, reason = "a test's own environment")]
    let python = std::env::var_os("PORTCULLIS_TEST_PYTHON")
        .expect("PORTCULLIS_TEST_PYTHON names a Python with tests/requirements.txt: run `make test`");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/openmetrics.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg("portcullis_request_duration_seconds")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampled_request_is_found_from_its_bucket() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let otlp =
        format!("telemetry: {{access_log: false, otlp: {{endpoint: \"{}/v1/traces\", sample: 0}}}}\n", collector.url());
    let mut gateway = Gateway::start(Engine::Sqlite, &format!("{otlp}{}", standard(&upstream))).await;
    let client = gateway.client();
    client.get("/open/a").send().await.expect(200);
    client.get("/nowhere").send().await.refused(404, "no_route");
    let (media_type, text) = metrics(&gateway, OPEN).await;
    assert_eq!(media_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let none = parsed(&text);
    assert_eq!((none["found"].as_array().unwrap().len(), &none["others"]), (0, &Value::from(0)), "{none}");
    assert!(none["families"].as_u64().unwrap() > 20, "{none}");

    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traced = client.get("/open/a").header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"));
    traced.send().await.expect(200);
    let (_, text) = metrics(&gateway, OPEN).await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    let told = parsed(&text);
    let [one] = &told["found"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&one["labels"]["route"], &told["others"]), (&Value::from("open"), &Value::from(0)), "{told}");
    let (value, bound) = (one["value"].as_f64().unwrap(), one["labels"]["le"].as_str().unwrap());
    assert!(value <= bound.parse().unwrap(), "{told}");

    for accept in ["text/plain", "*/*"] {
        let (media_type, text) = metrics(&gateway, accept).await;
        assert_eq!(media_type, "text/plain; version=0.0.4; charset=utf-8");
        assert!(!text.contains("trace_id") && !text.contains("# EOF"), "{text}");
    }
    gateway.stop().await;
    let spans = spans(&collector);
    let [request] = of_kind(&spans, SpanKind::Server)[..] else { panic!("{spans:#?}") };
    let exemplar = &one["exemplar"];
    assert_eq!((&exemplar["trace_id"], &exemplar["span_id"]), (&trace.into(), &hex(&request.span_id).into()));
}
