//! What passes through and how: heads, bodies both ways as they come, what each side may not say to the other.

use http_body_util::BodyExt;
use serde_json::json;

use crate::harness::{
    gateway::{Engine, Gateway, Setup},
    tls::Authority,
    upstream::{Held, Reply, Upstream},
    wire::Piece,
};

async fn gateway() -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    (Gateway::standard(Engine::Sqlite, &upstream).await, upstream)
}

/// A gateway with one public route with these additions.
async fn with_route(more: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "clusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
         - {{name: it, match: {{path: \"/{{*rest}}\"}}, auth: none, cluster: rag, {more}}}\n",
        upstream.url()
    );
    (Gateway::start(Engine::Sqlite, &yaml).await, upstream)
}

#[tokio::test]
async fn an_event_arrives_before_the_next_is_made() {
    let (gateway, upstream) = gateway().await;
    upstream.hold("/open/sse");
    let client = gateway.client();
    let asking = tokio::spawn(async move { client.get("/open/sse").open().await });
    let mut held = upstream.held().await;
    held.begin(200, &[("content-type", "text/event-stream")]).await;
    let mut answer = asking.await.unwrap();
    assert_eq!(answer.status(), 200);
    for n in 0..50 {
        let event = format!("data: {n}\n\n");
        held.chunk(&event).await;
        assert_eq!(answer.chunk().await.unwrap(), Some(event));
    }
    held.end(&[]).await;
    assert_eq!(answer.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn an_upload_arrives_piece_by_piece() {
    let (gateway, upstream) = gateway().await;
    upstream.hold("/open/up");
    let mut raw = gateway.raw().await;
    raw.send("POST /open/up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut held = upstream.held().await;
    for _ in 0..20 {
        raw.send("5\r\nhello\r\n").await;
        assert_eq!(held.piece().await, Piece::Data(b"hello".to_vec()));
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(held.piece().await, Piece::End);
    held.answer(&Reply::new(201, "done")).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (201, "done"));
}

#[tokio::test]
async fn both_bodies_flow_at_once() {
    let (gateway, upstream) = gateway().await;
    upstream.hold("/open/up");
    let mut raw = gateway.raw().await;
    raw.send("POST /open/up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut held = upstream.held().await;
    held.begin(200, &[]).await;
    assert_eq!(raw.head_only().await.word(1), "200");
    for _ in 0..20 {
        raw.send("5\r\nhello\r\n").await;
        assert_eq!(held.piece().await, Piece::Data(b"hello".to_vec()));
        held.chunk("seen").await;
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(held.piece().await, Piece::End);
    held.end(&[]).await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_is_passed_on_and_the_rest_is_not_sent() {
    let (gateway, upstream) = gateway().await;
    upstream.hold("/open/up");
    let mut raw = gateway.raw().await;
    raw.send("POST /open/up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nhalf").await;
    let mut held = upstream.held().await;
    assert_eq!(held.piece().await, Piece::Data(b"half".to_vec()));
    held.answer(&Reply::new(403, "enough")).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (403, "enough"));
    held.given_up().await;
}

#[tokio::test]
async fn a_get_with_a_chunked_body_keeps_it() {
    let (gateway, upstream) = gateway().await;
    upstream.hold("/open/search");
    let mut raw = gateway.raw().await;
    raw.send("GET /open/search HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n")
        .await;
    let mut held = upstream.held().await;
    assert_eq!(held.piece().await, Piece::Data(b"query".to_vec()));
    assert_eq!(held.piece().await, Piece::End);
    held.answer(&Reply::new(200, "found")).await;
    assert_eq!(raw.answer().await.unwrap().text(), "found");
}

#[tokio::test]
async fn a_service_that_switches_protocols_unasked_is_502() {
    let (gateway, upstream) = gateway().await;
    let (mut raw, mut held) = in_hands(&gateway, &upstream).await;
    held.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"));
}

#[tokio::test]
async fn a_length_beside_a_transfer_coding_is_not_passed_on() {
    let (gateway, upstream) = gateway().await;
    let (mut raw, mut held) = in_hands(&gateway, &upstream).await;
    held.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().text(), "hi");
}

/// A raw client has asked for `/open/x`, and the request is in the test's hands.
async fn in_hands(gateway: &Gateway, upstream: &Upstream) -> (crate::harness::raw::Raw, Held) {
    upstream.hold("/open/x");
    let mut raw = gateway.raw().await;
    raw.send("GET /open/x HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    (raw, upstream.held().await)
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_the_upstream_call() {
    let (gateway, upstream) = gateway().await;
    let (raw, held) = in_hands(&gateway, &upstream).await;
    drop(raw);
    held.given_up().await;

    let (mut raw, mut held) = in_hands(&gateway, &upstream).await;
    held.begin(200, &[]).await;
    held.chunk("some").await;
    assert_eq!(raw.head_only().await.word(1), "200");
    drop(raw);
    held.given_up().await;

    upstream.hold("/open/up");
    let mut raw = gateway.raw().await;
    raw.send("POST /open/up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf").await;
    let mut held = upstream.held().await;
    assert_eq!(held.piece().await, Piece::Data(b"half".to_vec()));
    drop(raw);
    assert!(!held.read_body().await, "the service must not take half a body for a whole one");
}

#[tokio::test]
async fn hop_by_hop_headers_stop_here() {
    let (gateway, upstream) = gateway().await;
    let reply = Reply::new(200, "ok")
        .with("connection", "x-private, keep-alive")
        .with("x-private", "1")
        .with("keep-alive", "timeout=5")
        .with("proxy-authenticate", "Basic")
        .with("x-public", "2");
    upstream.reply("/open/a", reply);
    let mut raw = gateway.raw().await;
    raw.send(
        "GET /open/a HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, TE, Upgrade\r\nTE: trailers\r\n\
         Upgrade: h2c\r\nKeep-Alive: timeout=5\r\nProxy-Authorization: Basic YTpi\r\nProxy-Connection: close\r\n\
         Expect: 100-continue\r\nX-Public: 1\r\n\r\n",
    )
    .await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let head = upstream.last().head;
    for name in
        ["connection", "te", "upgrade", "keep-alive", "proxy-authorization", "proxy-connection", "expect", "trailer"]
    {
        assert_eq!(head.header(name), None, "{name} at the service: {head:#?}");
    }
    assert_eq!(head.header("x-public"), Some("1"));
    for name in ["x-private", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.head.header(name), None, "{name} at the client: {:#?}", answer.head);
    }
    assert_eq!(answer.head.header("x-public"), Some("2"));
}

#[tokio::test]
async fn a_service_cannot_speak_with_our_voice() {
    let (gateway, upstream) = gateway().await;
    let reply = Reply::new(200, "ok")
        .with("x-gateway-identity", "e30.e30.x")
        .with("x-user-id", "eve")
        .with("x-request-id", "the-service-says")
        .with("set-cookie", "theme=dark; Path=/")
        .with("set-cookie", "__Secure-portcullis-refresh=evil; Path=/auth; Secure")
        .with("set-cookie", "__SECURE-Portcullis-Refresh=evil")
        .with("set-cookie", "lang=en");
    upstream.reply("/open/a", reply);
    let answer = gateway.client().get("/open/a").send().await.expect(200);
    assert_eq!(answer.all("set-cookie"), ["theme=dark; Path=/", "lang=en"]);
    assert_ne!(answer.header("x-request-id"), Some("the-service-says"));
}

#[tokio::test]
async fn trailers_of_an_answer_pass_without_reserved_names() {
    let (gateway, upstream) = gateway().await;
    upstream.hold("/open/x");
    let mut raw = gateway.raw().await;
    raw.send("GET /open/x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
    let mut held = upstream.held().await;
    held.begin(200, &[("trailer", "x-user-id"), ("trailer", "x-checksum")]).await;
    held.chunk("data").await;
    held.end(&[("x-checksum", "abc"), ("x-user-id", "eve")]).await;
    let answer = raw.answer().await.unwrap();
    assert!(answer.body.whole);
    assert_eq!(answer.body.trailers, [("x-checksum".to_owned(), "abc".to_owned())]);
}

#[tokio::test]
async fn an_answer_that_ends_in_trailers_is_whole_and_its_connection_kept() {
    let (gateway, upstream) = gateway().await;
    upstream.hold("/open/x");
    for number in 1..=2 {
        let mut raw = gateway.raw().await;
        raw.send("GET /open/x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\n\r\n").await;
        let mut held = upstream.held().await;
        assert_eq!(held.request().connection, 1, "request {number}");
        held.begin(200, &[("trailer", "x-sum")]).await;
        held.chunk("some").await;
        held.end(&[("x-sum", "4")]).await;
        assert!(raw.answer().await.unwrap().body.whole);
        held.serve_on();
    }
    let whole =
        gateway.metric(r#"portcullis_requests_total{route="open",reason="ok",method="GET",status="2xx"}"#).await;
    assert!((whole - 2.0).abs() < f64::EPSILON, "{whole}");
}

#[tokio::test]
async fn the_service_is_told_where_the_client_is() {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}, \
         trusted_proxies: [127.0.0.9, 10.0.0.0/8]}}\nclusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
         - {{name: it, match: {{path: \"/{{*rest}}\"}}, auth: none, cluster: rag}}\n",
        upstream.url()
    );
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let (stranger, proxy) = (gateway.client(), gateway.client_at("127.0.0.9"));
    let call = |call: crate::harness::client::Call| {
        call.header("x-forwarded-for", "6.6.6.6, 9.9.9.9, 10.1.2.3")
            .header("x-forwarded-proto", "https")
            .header("x-request-id", "from-before")
    };
    let answer = call(stranger.get("/a")).send().await.expect(200);
    let head = upstream.last().head;
    assert_eq!(head.header("x-forwarded-for"), Some("127.0.0.1"), "a stranger is not believed");
    assert_eq!(head.header("x-forwarded-proto"), Some("http"));
    assert_ne!(answer.header("x-request-id"), Some("from-before"));

    let answer = call(proxy.get("/a")).send().await.expect(200);
    let head = upstream.last().head;
    assert_eq!(head.header("x-forwarded-for"), Some("9.9.9.9"), "right to left, to the first that is not trusted");
    assert_eq!(head.header("x-forwarded-proto"), Some("https"));
    assert_eq!(answer.header("x-request-id"), Some("from-before"));
    assert_eq!(head.header("x-request-id"), Some("from-before"));
}

#[tokio::test]
async fn a_trace_goes_on_through_the_gateway() {
    let (gateway, upstream) = gateway().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    gateway.client().get("/open/a").header("traceparent", parent).send().await.expect(200);
    let ours = upstream.last().head.header("traceparent").unwrap().to_owned();
    assert!(ours.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && ours != parent, "{ours}");
    gateway.client().get("/open/a").header("traceparent", "nonsense").send().await.expect(200);
    let fresh = upstream.last().head.header("traceparent").unwrap().to_owned();
    assert!(fresh.len() == 55 && !fresh.contains("0af7651916cd43dd8448eb211c80319c"), "{fresh}");
}

#[tokio::test]
async fn a_prefix_is_rewritten_in_whole_segments() {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "clusters: {{rag: {{endpoints: [\"{}\"], host: endpoint}}}}\nroutes:\n  \
         - {{name: it, match: {{path: \"/api/rag/{{*rest}}\"}}, auth: none, cluster: rag, \
         rewrite: {{prefix: /api/rag, to: /v2}}}}\n",
        upstream.url()
    );
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let client = gateway.client();
    for (asked, forwarded) in
        [("/api/rag/query?x=1", "/v2/query?x=1"), ("/api/rag/", "/v2/"), ("/api/rag/api/rag/a", "/v2/api/rag/a")]
    {
        client.get(asked).send().await.expect(200);
        assert_eq!(upstream.last().target(), forwarded);
    }
    client.get("/api/ragged/x").send().await.refused(404, "no_route");
    let head = upstream.last().head;
    assert_eq!(head.header("host"), Some(upstream.address().to_string().as_str()));
    assert_eq!(head.header("x-forwarded-host"), Some(gateway.address().to_string().as_str()));
}

#[tokio::test]
async fn authorization_goes_on_only_where_a_route_says_so() {
    let (gateway, upstream) = with_route("forward_authorization: true").await;
    gateway.client().get("/a").bearer("for-the-service").send().await.expect(200);
    assert_eq!(upstream.last().head.header("authorization"), Some("Bearer for-the-service"));
}

#[tokio::test]
async fn every_method_keeps_its_meaning() {
    let (gateway, upstream) = gateway().await;
    let client = gateway.client();
    let head = client.call("HEAD", "/open/a").send().await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("17"), 0));
    assert_eq!(upstream.last().method(), "HEAD");
    upstream.reply("/open/a", Reply::new(204, "").with("allow", "GET, OPTIONS"));
    assert_eq!(client.call("OPTIONS", "/open/a").send().await.expect(204).header("allow"), Some("GET, OPTIONS"));
    for method in ["PUT", "PATCH", "DELETE", "QUERY"] {
        upstream.reply("/open/b", Reply::new(200, "ok"));
        client.call(method, "/open/b").json(&json!({"a": 1})).send().await.expect(200);
        let received = upstream.last();
        assert_eq!((received.method(), received.body.bytes.as_slice()), (method, br#"{"a":1}"#.as_slice()));
    }
    for status in [301, 304, 404, 418, 500, 503] {
        upstream.reply("/open/c", Reply::new(status, "").with("location", "/elsewhere"));
        assert_eq!(client.get("/open/c").send().await.expect(status).header("location"), Some("/elsewhere"));
    }
}

#[tokio::test]
async fn two_requests_at_once_on_one_connection_are_answered_in_order() {
    let (gateway, upstream) = gateway().await;
    upstream.reply("/open/1", Reply::new(200, "one"));
    upstream.reply("/open/2", Reply::new(200, "two"));
    let mut raw = gateway.raw().await;
    let request = |n| format!("POST /open/{n} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\n{n}");
    raw.send(&format!("{}{}", request(1), request(2))).await;
    assert_eq!(raw.answer().await.unwrap().text(), "one");
    assert_eq!(raw.answer().await.unwrap().text(), "two");
    let bodies: Vec<_> = upstream.received().into_iter().map(|one| one.body.bytes).collect();
    assert_eq!(bodies, [b"1", b"2"]);
}

#[tokio::test]
async fn a_declared_body_that_is_too_large_is_413_before_it_is_read() {
    let (gateway, upstream) = with_route("body_limit: 1KiB").await;
    let mut raw = gateway.raw().await;
    raw.send("POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n").await;
    // No 100 comes before it: the client is spared the upload.
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    raw.closed().await;
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_chunked_body_is_cut_at_the_limit() {
    let (gateway, upstream) = with_route("body_limit: 1KiB").await;
    upstream.hold("/a");
    let mut raw = gateway.raw().await;
    let chunk = format!("200\r\n{}\r\n", "x".repeat(0x200));
    raw.send(&format!("POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}")).await;
    let mut held = upstream.held().await;
    let mut read = 0;
    while read < 1024 {
        let Piece::Data(data) = held.piece().await else { panic!("the first KiB is allowed") };
        read += data.len();
    }
    raw.send("1\r\nx\r\n").await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    raw.closed().await;
    assert!(!held.read_body().await, "the service must not take a cut body for a whole one");
    assert_eq!(held.request().body.len, 0, "nothing beyond the limit was passed on");

    // Exactly the limit is not above it.
    upstream.reply("/b", Reply::new(200, "ok"));
    let exact = gateway.client().post("/b").body("x".repeat(1024)).send().await;
    exact.expect(200);
    assert_eq!(upstream.last().body.len, 1024);
}

#[tokio::test]
async fn a_client_is_told_to_go_on_when_the_body_is_wanted() {
    let (gateway, upstream) = gateway().await;
    let mut raw = gateway.raw().await;
    raw.send("POST /open/a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().status, 100);
    raw.send("ab").await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    assert_eq!(upstream.last().body.bytes, b"ab");
    assert_eq!(upstream.last().head.header("expect"), None);
}

/// TLS at the front, one public route behind it.
async fn with_tls(authority: &Authority, upstream: &Upstream) -> Gateway {
    let ours = authority.certify("localhost");
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\", tls: {{certificate: cert.pem, key: key.pem}}}}, \
         admin: {{bind: \"127.0.0.1:0\"}}}}\nclusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
         - {{name: it, match: {{path: \"/open/{{*rest}}\"}}, auth: none, cluster: rag}}\n",
        upstream.url()
    );
    let setup = Setup::new(Engine::Sqlite, &yaml);
    setup.file("cert.pem", &ours.certificate).file("key.pem", &ours.key).start().await
}

#[tokio::test]
async fn http_2_over_tls_means_the_same() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let gateway = with_tls(&authority, &upstream).await;
    let client = gateway.tls_client(authority.pem());
    let answer = client.get("/open/a?b").header("x-user-id", "eve").send().await.expect(200);
    assert_eq!(answer.version, http::Version::HTTP_2);
    let received = upstream.last();
    assert_eq!((received.target(), received.head.word(2)), ("/open/a?b", "HTTP/1.1"));
    assert_eq!(received.head.header("x-user-id"), None);
    assert_eq!(received.head.header("x-forwarded-proto"), Some("https"));
    let host = format!("localhost:{}", gateway.address().port());
    assert_eq!(received.head.header("host"), Some(host.as_str()));
    client.get("/open/%2e%2e/x").header("x_user_id", "eve").send().await.refused(400, "header_invalid");
    let session = client.register("ann@example.org").await;
    client.get("/auth/me").bearer(&session.access).send().await.expect(200);
    let calls = (0..50).map(|n| client.post("/open/many").body(format!("{n}")).send());
    for answer in futures_util::future::join_all(calls).await {
        answer.expect(200);
    }
}

#[tokio::test]
async fn trailers_pass_over_http_2() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let gateway = with_tls(&authority, &upstream).await;
    upstream.hold("/open/x");
    let roots = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([roots]).build().unwrap();
    let url = format!("https://localhost:{}/open/x", gateway.address().port());
    let asking = tokio::spawn(client.get(url).send());
    let mut held = upstream.held().await;
    held.begin(200, &[("trailer", "x-checksum")]).await;
    held.chunk("data").await;
    held.end(&[("x-checksum", "abc"), ("x-user-roles", "admin")]).await;
    let response: http::Response<reqwest::Body> = asking.await.unwrap().unwrap().into();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!((trailers.len(), trailers["x-checksum"].to_str().unwrap()), (1, "abc"));
}

#[tokio::test]
async fn http_1_over_tls_is_served_when_the_client_asks_for_it() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let gateway = with_tls(&authority, &upstream).await;
    let roots = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([roots]).build().unwrap();
    let url = format!("https://localhost:{}/open/a", gateway.address().port());
    let response = client.get(url).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_11));
}
