//! Caps on what is under way at once: held until the last byte of the answer or the end of the tunnel, and given back
//! however a request ends.

use crate::harness::{
    client::{Client, Streamed, Tokens},
    gateway::{Engine, Gateway},
    soon,
    upstream::{Held, Reply, Upstream},
    websocket::{Echo, Socket},
};

/// Two at once for each user.
fn yaml(service: &str, more: &str) -> String {
    format!(
        r#"
clusters:
  rag: {{endpoints: ["{service}"]}}
limits:
  at-once: {{by: subject, concurrent: 2}}
  rate: {{by: subject, rate: 1000000/1d}}
routes:
  - name: ask
    match: {{path: "/ask/{{*rest}}"}}
    upgrades: [websocket]
    limits: [rate, at-once]
    cluster: rag
    {more}
"#
    )
}

async fn gateway(more: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    (Gateway::start(Engine::Sqlite, &yaml(&upstream.url(), more)).await, upstream)
}

/// An answer that flows.
async fn flowing(client: &Client, upstream: &Upstream, path: &str, who: &Tokens) -> (Streamed, Held) {
    upstream.hold(path);
    let begin = async {
        let mut held = upstream.held().await;
        held.begin(200, &[("content-type", "text/event-stream")]).await;
        held
    };
    tokio::join!(client.get(path).bearer(&who.access).open(), begin)
}

/// Waits until nothing is under way: the client may see the end of an answer before the gateway has let go of it.
async fn until_nothing_is_under_way(client: &Client, who: &Tokens) {
    let free = async {
        loop {
            let answer = client.get("/ask/free").bearer(&who.access).send().await;
            if answer.header("ratelimit").unwrap().starts_with("\"at-once\";r=1") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("what was held to be given back", free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_as_the_cap_are_under_way_and_the_next_is_told_so() {
    let (gateway, upstream) = gateway("").await;
    let client = gateway.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let (mut one, mut held_one) = flowing(&client, &upstream, "/ask/one", &ann).await;
    let (_two, _held_two) = flowing(&client, &upstream, "/ask/two", &ann).await;
    let answer = client.get("/ask/three").bearer(&ann.access).send().await;
    answer.refused(429, "quota_exceeded");
    assert_eq!(answer.json()["violated-policies"], serde_json::json!(["at-once"]));
    assert_eq!(answer.header("retry-after"), None, "nobody knows when one of them ends");
    assert_eq!(answer.header("ratelimit"), Some("\"at-once\";r=0"));
    assert_eq!(answer.header("ratelimit-policy"), Some("\"at-once\";q=2;qu=\"concurrent-requests\""));
    let line = "portcullis_requests_total{route=\"ask\",reason=\"concurrency_limited\",method=\"GET\",status=\"4xx\"}";
    assert!(gateway.metric(line).await > 0.5);

    let answer = client.get("/ask/a").bearer(&bob.access).send().await.expect(200);
    assert!(
        answer.header("ratelimit").unwrap().starts_with("\"at-once\";r=1, \"rate\";r=999999;t="),
        "bob has his own"
    );

    held_one.chunk("data: 1\n\n").await;
    assert_eq!(one.chunk().await, Ok(Some("data: 1\n\n".to_owned())));
    held_one.end(&[]).await;
    held_one.serve_on();
    assert_eq!(one.chunk().await, Ok(None));
    let third = async {
        loop {
            let answer = client.get("/ask/three").bearer(&ann.access).send().await;
            if answer.status == 200 {
                return answer;
            }
        }
    };
    let answer = soon("the one that ended to make room", third).await;
    // Three were admitted: what a cap refuses costs nothing of a rate.
    assert!(answer.header("ratelimit").unwrap().contains("\"rate\";r=999997;"), "{:?}", answer.header("ratelimit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_ends_a_request_gives_back_what_it_held() {
    let (gateway, upstream) = gateway("roles: [user]").await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;

    // The client goes in the middle of an answer.
    for path in ["/ask/gone-1", "/ask/gone-2"] {
        let (streamed, held) = flowing(&client, &upstream, path, &ann).await;
        drop(streamed);
        held.given_up().await;
    }
    until_nothing_is_under_way(&client, &ann).await;

    // The client goes before there is one.
    for path in ["/ask/waits-1", "/ask/waits-2"] {
        upstream.hold(path);
        let other = gateway.client();
        let call = tokio::spawn(other.get(path).bearer(&ann.access).send());
        let held = upstream.held().await;
        call.abort();
        let _ = call.await;
        drop(other);
        held.given_up().await;
    }
    until_nothing_is_under_way(&client, &ann).await;

    // The service breaks off, in the middle and before.
    let (mut streamed, held) = flowing(&client, &upstream, "/ask/dies", &ann).await;
    drop(held);
    while let Ok(Some(_)) = streamed.chunk().await {}
    until_nothing_is_under_way(&client, &ann).await;

    // An answer without a body.
    upstream.reply("/ask/empty", Reply::new(204, ""));
    for _ in 0..5 {
        client.get("/ask/empty").bearer(&ann.access).send().await.expect(204);
        client.call("HEAD", "/ask/a").bearer(&ann.access).send().await.expect(200);
    }
    until_nothing_is_under_way(&client, &ann).await;
    let until_none = async {
        while gateway.metric("portcullis_requests_in_flight").await > 0.5 {
            tokio::task::yield_now().await;
        }
    };
    soon("every request to be over", until_none).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_takes_too_long_holds_nothing() {
    let (gateway, upstream) = gateway("timeouts: {first_byte: 100ms}").await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    upstream.hold("/ask/slow");
    for _ in 0..3 {
        let (answer, held) = tokio::join!(client.get("/ask/slow").bearer(&ann.access).send(), upstream.held());
        answer.refused(504, "upstream_timeout");
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_refused_after_its_cap_holds_nothing() {
    let (gateway, upstream) = gateway("roles: [nobody-has-it]").await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..5 {
        client.get("/ask/a").bearer(&ann.access).send().await.refused(403, "role_missing");
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_is_under_way_until_it_is_closed() {
    let echo = Echo::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&echo.url(), "")).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = Socket::open(gateway.address(), "/ask/socket", &ann.access).await;
        socket.echoed("hello").await;
        sockets.push(socket);
    }
    client.get("/ask/a").bearer(&ann.access).send().await.refused(429, "quota_exceeded");
    let mut first = sockets.remove(0);
    first.close().await;
    drop(first);
    let again = async { while client.status("/ask/a", &ann.access).await == 429 {} };
    soon("the closed one to make room", again).await;
    // And one that is simply gone.
    drop(sockets);
    let both = async {
        loop {
            let answer = client.get("/ask/a").bearer(&ann.access).send().await;
            if answer.header("ratelimit").unwrap().starts_with("\"at-once\";r=1") {
                return;
            }
        }
    };
    soon("the other to make room", both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_once_gets_no_more_than_the_cap() {
    let (gateway, upstream) = gateway("").await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    upstream.hold("/ask/crowd");
    let crowd = futures_util::future::join_all((0..30).map(|_| client.get("/ask/crowd").bearer(&ann.access).send()));
    let serve = async {
        let (first, second) = (upstream.held().await, upstream.held().await);
        // The other twenty-eight have been refused by now, or will be while these two are held.
        let refused = "portcullis_limit_decisions_total{limit=\"at-once\",result=\"refused\"}";
        while gateway.metric(refused).await < 27.5 {
            tokio::task::yield_now().await;
        }
        for mut held in [first, second] {
            held.answer(&Reply::new(200, "")).await;
        }
    };
    let (answers, ()) = soon("the crowd", async { tokio::join!(crowd, serve) }).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 2);
    assert_eq!(answers.iter().filter(|answer| answer.status == 429).count(), 28);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_that_changes_still_counts_what_is_under_way() {
    let (mut gateway, upstream) = gateway("").await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (_one, _held) = flowing(&client, &upstream, "/ask/one", &ann).await;
    let yaml = yaml(&upstream.url(), "").replace("concurrent: 2", "concurrent: 1");
    gateway.reload(&yaml).await;
    client.get("/ask/a").bearer(&ann.access).send().await.refused(429, "quota_exceeded");
}
