//! Which trace a request is in (W3C Trace Context, level 1), over HTTP/1.1 and HTTP/2 alike: a valid parent is
//! continued, an invalid one is as none, and `tracestate` goes on beside a valid parent and within its limits.

use crate::harness::{
    client::{Call, Client},
    gateway::{Engine, Gateway, Setup},
    tls::Authority,
    upstream::Upstream,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A gateway over TLS or not, with a client that speaks the one protocol or the other.
async fn gateway(http2: bool, sample: &str, upstream: &Upstream, collector: &Upstream) -> (Gateway, Client) {
    let authority = Authority::new();
    let ours = authority.certify("localhost");
    let tls = if http2 { ", tls: {certificate: cert.pem, key: key.pem}" } else { "" };
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"{tls}}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         telemetry: {{access_log: false, otlp: {{endpoint: \"{}/v1/traces\", sample: {sample}}}}}\n\
         clusters: {{rag: {{endpoints: [\"{}\"]}}}}\n\
         routes: [{{name: open, match: {{path: \"/open/{{*rest}}\"}}, auth: none, cluster: rag}}]\n",
        collector.url(),
        upstream.url()
    );
    let setup = Setup::new(Engine::Sqlite, &yaml);
    let gateway = setup.file("cert.pem", &ours.certificate).file("key.pem", &ours.key).start().await;
    let client = if http2 { gateway.tls_client(authority.pem()) } else { gateway.client() };
    (gateway, client)
}

/// What the service is told: trace, span and flags; and every `tracestate`, in order.
async fn sent_on(call: Call, http2: bool, upstream: &Upstream) -> ([String; 3], Vec<String>) {
    let answer = call.send().await.expect(200);
    assert_eq!(answer.version == http::Version::HTTP_2, http2);
    let head = upstream.last().head;
    let parent = head.header("traceparent").unwrap().to_owned();
    let fields: Vec<_> = parent.split('-').map(str::to_owned).collect();
    let [version, trace, span, flags] = <[String; 4]>::try_from(fields).unwrap();
    assert_eq!((version.as_str(), trace.len(), span.len(), flags.len()), ("00", 32, 16, 2), "{parent}");
    assert!(span != SPAN && span.bytes().any(|digit| digit != b'0'), "{parent}");
    ([trace, span, flags], head.all("tracestate").into_iter().map(str::to_owned).collect())
}

async fn over_either(check: impl AsyncFn(&Client, bool, &Upstream)) {
    for http2 in [false, true] {
        let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
        let (gateway, client) = gateway(http2, "0", &upstream, &collector).await;
        check(&client, http2, &upstream).await;
        drop(gateway);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_is_not_valid_begins_a_new_trace_without_its_state() {
    let valid = format!("00-{TRACE}-{SPAN}-01");
    let odd = [
        "nonsense".to_owned(),
        String::new(),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{TRACE}-{SPAN}"),
        format!("{valid}-more"),
        format!("{valid},{valid}"),
        format!("01-{TRACE}-{SPAN}-01.more"),
    ];
    over_either(async |client, http2, upstream| {
        for odd in &odd {
            let call = client.get("/open/a").header("traceparent", odd).header("tracestate", "a=1");
            let ([trace, _, flags], state) = sent_on(call, http2, upstream).await;
            assert!(trace != TRACE && trace.bytes().any(|digit| digit != b'0'), "{odd}: {trace}");
            assert_eq!((flags.as_str(), state), ("00", Vec::new()), "{odd}: its sampled flag means nothing");
        }
        let twice = client.get("/open/a").header("traceparent", &valid).header("traceparent", &valid);
        let ([trace, ..], state) = sent_on(twice.header("tracestate", "a=1"), http2, upstream).await;
        assert!(trace != TRACE && state.is_empty(), "two parents are none");
        let ([_, _, flags], state) = sent_on(client.get("/open/a").header("tracestate", "a=1"), http2, upstream).await;
        assert_eq!((flags.as_str(), state), ("00", Vec::new()), "a state without a parent");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_parent_is_continued_with_its_flag_and_nothing_we_do_not_know() {
    over_either(async |client, http2, upstream| {
        for (version, flags, rest, expected) in [
            ("00", "01", "", "01"),
            ("00", "00", "", "00"),
            // Flags of a later level, and a later version with more behind what is known.
            ("00", "03", "", "01"),
            ("00", "fe", "", "00"),
            ("01", "01", "", "01"),
            ("cc", "01", "-what-the-future-holds", "01"),
        ] {
            let parent = format!("{version}-{TRACE}-{SPAN}-{flags}{rest}");
            let call = client.get("/open/a").header("traceparent", &parent).header("tracestate", "rojo=1");
            let ([trace, _, flags], state) = sent_on(call, http2, upstream).await;
            assert_eq!((trace.as_str(), flags.as_str()), (TRACE, expected), "{parent}");
            assert_eq!(state, ["rojo=1"], "{parent}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_goes_on_within_its_limits() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let hundred = |key: char| format!("{key}={}", "x".repeat(98));
    let six = ['a', 'b', 'c', 'd', 'e', 'f'].map(hundred);
    let (many, long) = ((0..33).map(|one| format!("k{one}=1")).collect::<Vec<_>>().join(","), six.join(","));
    let most = (0..32).map(|one| format!("k{one}=1")).collect::<Vec<_>>().join(",");
    let shortened = six[..5].join(",");
    over_either(async |client, http2, upstream| {
        for (state, expected) in [
            (&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"][..], &["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"][..]),
            (&["fw529a3039@dt=FfAjs9Kz3CI", "b=2"], &["fw529a3039@dt=FfAjs9Kz3CI", "b=2"]),
            (&[&most], &[&most]),
            (&[&many], &[]),
            (&[&long], &[&shortened]),
            (&["a=1", "B=2"], &[]),
            (&["a"], &[]),
        ] {
            let call = client.get("/open/a").header("traceparent", &parent);
            let call = state.iter().fold(call, |call, state| call.header("tracestate", state));
            let ([trace, ..], sent) = sent_on(call, http2, upstream).await;
            assert_eq!(
                (trace.as_str(), sent),
                (TRACE, expected.iter().map(|one| (*one).to_owned()).collect()),
                "{state:?}"
            );
        }
    })
    .await;
}
