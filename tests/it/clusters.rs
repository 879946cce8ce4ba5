//! Services that are not there, break off, fall ill and recover, and how TLS to them is checked.

use std::time::Duration;

use crate::harness::{
    gateway::{Engine, Gateway, Setup},
    tls::Authority,
    upstream::{Held, Received, Refusing, Reply, Upstream},
};

const ROUTE: &str =
    "routes:\n  - {name: it, match: {path: \"/{*rest}\"}, auth: none, cluster: rag, timeouts: {idle: 10s}}\n";

async fn gateway(cluster: &str) -> Gateway {
    Gateway::start(Engine::Sqlite, &format!("clusters:\n  rag: {{{cluster}}}\n{ROUTE}")).await
}

async fn before(upstream: &Upstream) -> Gateway {
    gateway(&format!("endpoints: [\"{}\"]", upstream.url())).await
}

#[tokio::test]
async fn a_refused_connection_is_502() {
    let refusing = Refusing::new();
    let gateway = gateway(&format!("endpoints: [\"{}\"]", refusing.url())).await;
    let answer = gateway.client().get("/a").send().await;
    answer.refused(502, "upstream_connect");
    let port = refusing.url().rsplit_once(':').unwrap().1.to_owned();
    assert!(!answer.text().contains(&port), "the inside of the network: {}", answer.text());
}

#[tokio::test]
async fn a_service_that_breaks_off_before_its_head_is_502() {
    let upstream = Upstream::start().await;
    let gateway = before(&upstream).await;
    let client = gateway.client();
    for written in ["", "HTTP/1.1 200 OK\r\nContent-Le", "nonsense\r\n\r\n", "HTTP/1.1 99999 x\r\n\r\n"] {
        upstream.hold("/a");
        let asking = tokio::spawn(client.get("/a").send());
        let mut held = upstream.held().await;
        held.write(written).await;
        drop(held);
        asking.await.unwrap().refused(502, "upstream_broken");
    }
    assert_eq!(upstream.received().len(), 4, "what was sent once is not sent again");
}

#[tokio::test]
async fn a_service_that_breaks_off_in_its_body_ends_no_answer() {
    let upstream = Upstream::start().await;
    let gateway = before(&upstream).await;
    for chunked in [true, false] {
        upstream.hold("/a");
        let mut raw = gateway.raw().await;
        raw.send("GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let mut held = upstream.held().await;
        if chunked {
            held.begin(200, &[]).await;
            held.chunk("some").await;
        } else {
            held.write("HTTP/1.1 200 OK\r\nx-test-upstream: yes\r\nContent-Length: 10\r\n\r\nsome").await;
        }
        drop(held);
        let answer = raw.answer().await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "some"));
        assert!(!answer.body.whole, "a client must not take half an answer for a whole one");
    }
}

#[tokio::test]
async fn connections_to_a_service_are_kept() {
    let upstream = Upstream::start().await;
    let gateway = before(&upstream).await;
    for _ in 0..5 {
        gateway.client().get("/a").send().await.expect(200);
    }
    let connections: Vec<_> = upstream.received().into_iter().map(|one| one.connection).collect();
    assert_eq!(connections, [1; 5]);
}

/// Asks for `/a` and gives the answered request, its connection still open.
async fn answered(gateway: &Gateway, upstream: &Upstream) -> Held {
    upstream.hold("/a");
    let client = gateway.client();
    let asking = tokio::spawn(async move { client.get("/a").send().await });
    let mut held = upstream.held().await;
    held.write("HTTP/1.1 200 OK\r\nx-test-upstream: yes\r\nContent-Length: 4\r\n\r\ndone").await;
    asking.await.unwrap().expect(200);
    held
}

#[tokio::test]
async fn a_connection_that_the_service_has_closed_is_not_used_again() {
    let upstream = Upstream::start().await;
    let gateway = before(&upstream).await;
    for _ in 0..20 {
        drop(answered(&gateway, &upstream).await);
    }
    assert_eq!(upstream.received().len(), 20);
}

#[tokio::test]
async fn a_get_that_a_closing_connection_swallows_is_sent_again_and_a_post_is_not() {
    let upstream = Upstream::start().await;
    let gateway = before(&upstream).await;
    for (method, again) in [("GET", true), ("POST", false)] {
        answered(&gateway, &upstream).await.serve_on();
        gateway.clock.advance(Duration::from_secs(2));
        let client = gateway.client();
        let asking = tokio::spawn(async move {
            let request = if method == "GET" { client.get("/a") } else { client.post("/a") };
            request.send().await
        });
        // As a service does whose time for idle connections is up just when the request comes.
        let swallowed = upstream.held().await;
        let connection = swallowed.request().connection;
        drop(swallowed);
        if again {
            let mut held = upstream.held().await;
            assert_ne!(held.request().connection, connection);
            held.answer(&Reply::new(200, "again")).await;
            asking.await.unwrap().expect(200);
        } else {
            asking.await.unwrap().refused(502, "upstream_broken");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_to_a_service_is_closed_in_time() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&format!("endpoints: [\"{}\"], pool: {{idle_timeout: 1s}}", upstream.url())).await;
    answered(&gateway, &upstream).await.given_up().await;
}

#[tokio::test]
async fn no_more_connections_are_kept_than_allowed() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&format!("endpoints: [\"{}\"], pool: {{idle_per_endpoint: 1}}", upstream.url())).await;
    upstream.hold("/a");
    let client = gateway.client();
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { client.get("/a").send().await })
    };
    let (first, second) = (ask(), ask());
    let (mut one, mut other) = (upstream.held().await, upstream.held().await);
    for held in [&mut one, &mut other] {
        held.write("HTTP/1.1 200 OK\r\nx-test-upstream: yes\r\nContent-Length: 0\r\n\r\n").await;
    }
    first.await.unwrap().expect(200);
    second.await.unwrap().expect(200);
    tokio::select! {
        _ = one.given_up() => {}
        _ = other.given_up() => {}
    }
}

/// Waits until the gateway has taken note of what `/health` answers now: a check begins only when the one before it
/// has been judged, so after the second further one the first has been.
async fn checked(upstream: &Upstream) {
    let is_check = |one: &Received| one.target() == "/health";
    let so_far = upstream.received().iter().filter(|one| is_check(one)).count();
    upstream.wait_for("health checks", so_far + 3, is_check).await;
}

const CHECK: &str =
    "health_check: {path: /health, interval: 100ms, timeout: 100ms, healthy_after: 1, unhealthy_after: 1}";

#[tokio::test]
async fn an_endpoint_that_falls_ill_is_taken_out_and_comes_back() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    one.reply("/a", Reply::new(200, "one"));
    two.reply("/a", Reply::new(200, "two"));
    let gateway = gateway(&format!("endpoints: [\"{}\", \"{}\"], {CHECK}", one.url(), two.url())).await;
    let client = gateway.client();
    let answers = async || {
        let mut answers = Vec::new();
        for _ in 0..8 {
            answers.push(client.get("/a").send().await.expect(200).text());
        }
        answers.sort();
        answers.dedup();
        answers
    };
    checked(&one).await;
    assert_eq!(answers().await, ["one", "two"]);

    one.reply("/health", Reply::new(500, ""));
    checked(&one).await;
    assert_eq!(answers().await, ["two"]);
    let healthy = format!("portcullis_upstream_endpoint_healthy{{cluster=\"rag\",endpoint=\"{}\"}}", one.address());
    assert!(gateway.metric(&healthy).await < 0.5);

    two.hold("/health");
    // A check that gets no answer fails as well; each one held is one more.
    for _ in 0..3 {
        two.held().await.given_up().await;
    }
    client.get("/a").send().await.refused(503, "upstream_unhealthy");

    one.reply("/health", Reply::new(204, ""));
    checked(&one).await;
    assert_eq!(answers().await, ["one"]);
    assert!(gateway.metric(&healthy).await > 0.5);
}

/// A gateway before a service with a certificate for `certified`, trusting `ca`, asking for `rag.internal`.
async fn over_tls(certified: &str, trusted: bool) -> (Gateway, Upstream) {
    let (theirs, other) = (Authority::new(), Authority::new());
    let upstream = Upstream::start_tls(&theirs.certify(certified)).await;
    let yaml = format!(
        "clusters:\n  rag: {{endpoints: [\"{}\"], tls: {{ca_file: ca.pem, server_name: rag.internal}}}}\n{ROUTE}",
        upstream.url()
    );
    let ca = if trusted { theirs.pem() } else { other.pem() };
    (Setup::new(Engine::Sqlite, &yaml).file("ca.pem", ca).start().await, upstream)
}

#[tokio::test]
async fn a_service_behind_a_private_authority_is_reached_by_its_name() {
    let (gateway, upstream) = over_tls("rag.internal", true).await;
    gateway.client().get("/a").send().await.expect(200);
    assert_eq!(upstream.last().sni.as_deref(), Some("rag.internal"));
}

#[tokio::test]
async fn a_service_that_never_finishes_its_handshake_is_502() {
    // It takes the connection and says nothing.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", mute.local_addr().unwrap());
    let cluster = format!("endpoints: [\"{url}\"], connect_timeout: 100ms, tls: {{server_name: rag.internal}}");
    gateway(&cluster).await.client().get("/a").send().await.refused(502, "upstream_connect");
}

#[tokio::test]
async fn a_service_that_cannot_prove_its_name_is_sent_nothing() {
    for (certified, trusted) in [("rag.internal", false), ("other.internal", true)] {
        let (gateway, upstream) = over_tls(certified, trusted).await;
        gateway.client().get("/a").send().await.refused(502, "upstream_connect");
        upstream.assert_untouched();
    }
}
