//! While there is too much to do requests are sent away in a known order, and what flows already goes on: nobody who
//! has proven who they are gives way to strangers.

use crate::harness::{
    client::{Answer, Client, Tokens},
    gateway::{Engine, Gateway, standard},
    soon,
    upstream::{Held, Upstream},
};

fn with(upstream: &Upstream, overload: &str) -> String {
    format!("overload: {{{overload}}}\n{}", standard(upstream))
}

fn near(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 0.1
}

#[track_caller]
fn sent_away(answer: &Answer, again: &str) {
    answer.refused(503, "overloaded");
    assert_eq!(answer.header("retry-after"), Some(again));
}

async fn shed(gateway: &Gateway, class: &str, cause: &str) -> f64 {
    gateway.metric(&format!("portcullis_requests_shed_total{{class=\"{class}\",cause=\"{cause}\"}}")).await
}

/// Asks for what the service holds back, until `many` wait there.
async fn hold(client: &Client, upstream: &Upstream, path: &str, token: &str, many: usize) -> Vec<Held> {
    let mut held = Vec::new();
    for _ in 0..many {
        let ask = client.get(path).bearer(token);
        tokio::spawn(async move { ask.send().await });
        held.push(upstream.held().await);
    }
    held
}

async fn refresh(client: &Client, tokens: &Tokens) -> Answer {
    client.post("/auth/refresh").json(&serde_json::json!({"refresh_token": tokens.refresh})).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_places_are_for_those_who_have_proven_who_they_are() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &with(&upstream, "max_in_flight: 10, max_memory: none")).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    upstream.hold("/ask/held");
    upstream.hold("/ask/events");

    // An answer that flows has no place.
    let asking = client.get("/ask/events").bearer(&ann.access);
    let asking = tokio::spawn(async move { asking.open().await });
    let mut events = upstream.held().await;
    events.begin(200, &[("content-type", "text/event-stream")]).await;
    let mut stream = asking.await.unwrap();
    assert!(near(gateway.metric("portcullis_requests_unanswered").await, 0.0));

    let mut held = hold(&client, &upstream, "/ask/held", &ann.access, 7).await;
    client.get("/open/a").send().await.expect(200);
    held.extend(hold(&client, &upstream, "/ask/held", &ann.access, 1).await);
    // Eight of ten: no stranger, and nobody who only says that they are none.
    sent_away(&client.get("/open/a").send().await, "1");
    sent_away(&client.get("/maybe/a").send().await, "1");
    sent_away(
        &client.post("/auth/login").json(&serde_json::json!({"email": "a@b.example", "password": "x"})).send().await,
        "1",
    );
    client.get("/ask/a").bearer("made.up.token").send().await.refused(401, "invalid_token");
    let ann = {
        let answer = refresh(&client, &ann).await.expect(200).json();
        Tokens { access: answer["access_token"].as_str().unwrap().to_owned(), ..ann }
    };
    held.extend(hold(&client, &upstream, "/ask/held", &ann.access, 1).await);
    // Nine.
    sent_away(&refresh(&client, &ann).await, "1");
    assert_eq!(client.status("/maybe/a", &ann.access).await, 200);
    held.extend(hold(&client, &upstream, "/ask/held", &ann.access, 1).await);
    // Ten.
    sent_away(&client.get("/ask/a").bearer(&ann.access).send().await, "1");
    client.get("/.well-known/jwks.json").send().await.expect(200);
    for page in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(gateway.admin(page).await.0, 200, "{page}");
    }
    events.chunk("data: still\n\n").await;
    assert_eq!(stream.chunk().await.unwrap().as_deref(), Some("data: still\n\n"));
    assert!(near(gateway.metric("portcullis_requests_unanswered").await, 10.0));
    assert!(near(gateway.metric("portcullis_requests_unanswered_limit").await, 10.0));
    for (class, many) in [("anonymous", 3.0), ("returning", 1.0), ("authenticated", 1.0)] {
        let told = shed(&gateway, class, "requests").await;
        assert!(near(told, many), "{class}: {told}");
    }

    // An answer that has begun gives its place back, though it goes on; so does one that will never come.
    let mut held = held.into_iter();
    held.next().unwrap().begin(200, &[]).await;
    drop(held.next());
    held.next().unwrap().begin(200, &[]).await;
    let back = async { while gateway.metric("portcullis_requests_unanswered").await > 7.5 {} };
    soon("places to be given back", back).await;
    client.get("/open/a").send().await.expect(200);
    assert_eq!(client.status("/ask/a", &ann.access).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_gives_its_place_back() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &with(&upstream, "max_in_flight: 1, max_memory: none")).await;
    upstream.hold("/open/held");
    let client = gateway.client();
    let impatient = gateway.client();
    let asking = tokio::spawn(async move { impatient.get("/open/held").send().await });
    let held = upstream.held().await;
    sent_away(&client.get("/open/a").send().await, "1");
    asking.abort();
    held.given_up().await;
    let back = async { while gateway.metric("portcullis_requests_unanswered").await > 0.5 {} };
    soon("the place to be given back", back).await;
    client.get("/open/a").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_requests_are_sent_away_until_there_is_some_and_streams_go_on() {
    let upstream = Upstream::start().await;
    let mut gateway = Gateway::start(Engine::Sqlite, &with(&upstream, "max_memory: none")).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    upstream.hold("/ask/events");
    let asking = client.get("/ask/events").bearer(&ann.access);
    let asking = tokio::spawn(async move { asking.open().await });
    let mut events = upstream.held().await;
    events.begin(200, &[("content-type", "text/event-stream")]).await;
    let mut stream = asking.await.unwrap();
    assert!(near(gateway.metric("portcullis_memory_pressure").await, 0.0));
    assert!(gateway.metric("portcullis_memory_resident_bytes").await > 1e6);
    assert!(near(gateway.metric("portcullis_memory_limit_bytes").await, 0.0));

    // Less than this process holds.
    gateway.reload(&with(&upstream, "max_memory: 16MiB")).await;
    let short = async { while gateway.metric("portcullis_memory_pressure").await < 2.5 {} };
    soon("memory to be short", short).await;
    assert!(near(gateway.metric("portcullis_memory_limit_bytes").await, 16.0 * 1024.0 * 1024.0));
    sent_away(&client.get("/open/a").send().await, "5");
    sent_away(&refresh(&client, &ann).await, "5");
    sent_away(&client.get("/ask/a").bearer(&ann.access).send().await, "5");
    client.get("/.well-known/jwks.json").send().await.expect(200);
    for page in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(gateway.admin(page).await.0, 200, "{page}");
    }
    events.chunk("data: still\n\n").await;
    assert_eq!(stream.chunk().await.unwrap().as_deref(), Some("data: still\n\n"));
    for class in ["anonymous", "returning", "authenticated"] {
        let told = shed(&gateway, class, "memory").await;
        assert!(near(told, 1.0), "{class}: {told}");
    }

    gateway.reload(&with(&upstream, "max_memory: 1024GiB")).await;
    let back = async { while gateway.metric("portcullis_memory_pressure").await > 0.5 {} };
    soon("memory to be there", back).await;
    client.get("/open/a").send().await.expect(200);
    assert_eq!(client.status("/ask/a", &ann.access).await, 200);
}
