//! What a sampled request waited for, as spans below its own: PostgreSQL, SQLite, Redis, the hashing of a password. A
//! call that failed says so by its kind; no value that was sent or read is told. A request that is not sampled tells
//! nothing.

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use serde_json::json;

use crate::{
    harness::{
        client::{Client, PASSWORD},
        gateway::{Engine, Gateway, Setup, standard},
        spans::{attribute, below, error, of_kind, spans, text},
        upstream::Upstream,
    },
    support::redis::Redis,
};

fn otlp(collector: &Upstream) -> String {
    format!("telemetry: {{access_log: false, otlp: {{endpoint: \"{}/v1/traces\"}}}}\n", collector.url())
}

async fn gateway(engine: Engine, upstream: &Upstream, collector: &Upstream) -> Gateway {
    Gateway::start(engine, &format!("{}{}", otlp(collector), standard(upstream))).await
}

/// A caller that samples, or does not.
fn caller(sampled: bool) -> String {
    format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0{}", u8::from(sampled))
}

/// The one request that was told, and what is below it.
fn family(spans: &[Span]) -> (&Span, Vec<&Span>) {
    let [request] = of_kind(spans, SpanKind::Server)[..] else { panic!("{spans:#?}") };
    let children = below(spans, request);
    assert_eq!(children.len() + 1, spans.len(), "all of it is one family: {spans:#?}");
    for child in &children {
        assert!(child.start_time_unix_nano >= request.start_time_unix_nano, "{child:?}");
        assert!(child.end_time_unix_nano >= child.start_time_unix_nano, "{child:?}");
    }
    (request, children)
}

fn names<'a>(children: &[&'a Span]) -> Vec<&'a str> {
    children.iter().map(|child| child.name.as_str()).collect()
}

async fn login(client: &Client, sampled: bool) {
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    client.post("/auth/login").json(&body).header("traceparent", &caller(sampled)).send().await.expect(200);
}

const fn system(engine: Engine) -> (&'static str, &'static str, &'static str) {
    match engine {
        Engine::Sqlite => ("sqlite", "sqlite connection", "BEGIN IMMEDIATE"),
        Engine::Postgres => ("postgresql", "postgresql connection", "BEGIN"),
    }
}

async fn a_login_tells_what_it_asked_of_the_store(engine: Engine) {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = gateway(engine, &upstream, &collector).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    login(&client, false).await;
    login(&client, true).await;
    gateway.stop().await;

    let spans = spans(&collector);
    let (request, children) = family(&spans);
    assert_eq!(request.name, "POST portal_login");
    let (name, connection, begin) = system(engine);
    let found = [connection, "SELECT users"];
    let held = ["INSERT login_addresses", "SELECT login_pairs", "INSERT login_accounts", "INSERT login_pairs"];
    let kept = ["UPDATE login_addresses", "UPDATE login_accounts", "UPDATE login_pairs"];
    let forgotten = ["DELETE login_addresses", "DELETE login_accounts", "DELETE login_pairs"];
    let opened = [
        "password hash",
        connection,
        "BEGIN",
        "UPDATE users",
        "SELECT sessions",
        "INSERT sessions",
        "INSERT audit",
        "SELECT sessions",
        "SELECT users",
        "COMMIT",
    ];
    let reserved =
        [&[connection, "SELECT login_addresses", connection, "BEGIN"], &held[..], &kept, &["COMMIT"]].concat();
    let ended = [&[connection, "BEGIN"], &held[..], &forgotten, &["COMMIT"]].concat();
    assert_eq!(names(&children), [&found[..], &reserved, &opened, &ended].concat());
    let calls: Vec<_> = children.iter().filter(|child| child.kind() == SpanKind::Client).collect();
    assert_eq!(calls.len(), 28, "{children:#?}");
    for call in &calls {
        assert_eq!((text(call, "db.system.name").as_str(), error(call)), (name, None));
        assert_eq!(attribute(call, "server.address").is_some(), engine == Engine::Postgres, "{call:?}");
        assert!(call.name.starts_with(&text(call, "db.operation.name")), "{call:?}");
    }
    assert_eq!(text(calls[2], "db.query.text"), begin);
    assert_eq!(text(calls[14], "db.collection.name"), "sessions");
    let told = format!("{spans:?}");
    for secret in ["ann@example.org", PASSWORD, &ann.access, &ann.refresh, ann.user["id"].as_str().unwrap(), "argon2"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

async fn what_goes_on_in_a_task_of_its_own_is_told_too(engine: Engine) {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = gateway(engine, &upstream, &collector).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let refresh = client.post("/auth/refresh").json(&json!({"refresh_token": ann.refresh}));
    refresh.header("traceparent", &caller(true)).send().await.expect(200);
    gateway.stop().await;

    let spans = spans(&collector);
    let (_, children) = family(&spans);
    assert!(names(&children).contains(&"UPDATE sessions"), "{children:#?}");
    assert!(!format!("{spans:?}").contains(&ann.refresh));
}

async fn a_query_that_fails_is_an_error_without_its_words(engine: Engine) {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = gateway(engine, &upstream, &collector).await;
    let client = gateway.client();
    client.register("planted-address@example.org").await;
    let again =
        client.post("/auth/register").json(&json!({"email": "Planted-address@example.org", "password": PASSWORD}));
    again.header("traceparent", &caller(true)).send().await.refused(409, "account_exists");
    gateway.stop().await;

    let spans = spans(&collector);
    let (request, children) = family(&spans);
    assert_eq!((error(request), text(request, "http.response.status_code")), (None, "409".to_owned()));
    let failed: Vec<_> = children.iter().filter(|child| error(child).is_some()).collect();
    let [insert] = failed[..] else { panic!("{children:#?}") };
    // unique_violation; SQLITE_CONSTRAINT_UNIQUE.
    let code = if engine == Engine::Postgres { "23505" } else { "2067" };
    assert_eq!((insert.name.as_str(), error(insert).unwrap().as_str()), ("INSERT users", code));
    assert_eq!(text(insert, "db.response.status_code"), code);
    assert_eq!(names(&children).last(), Some(&"ROLLBACK"));
    let told = format!("{spans:?}").to_lowercase();
    assert!(!told.contains("planted") && !told.contains("argon2"), "{told}");
}

async fn a_call_whose_time_is_over_is_told_as_given_up(engine: Engine) {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let store = match engine {
        Engine::Sqlite => "store: {url: \"sqlite://data/test.db\", timeout: 300ms}\n",
        Engine::Postgres => "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", timeout: 300ms}\n",
    };
    let yaml = format!("{store}{}{}", otlp(&collector), standard(&upstream));
    let mut gateway = Setup::new(engine, &yaml).start().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let rival = gateway.in_the_way_of_writes().await;
    let logout = client.post("/auth/logout").bearer(&ann.access).header("traceparent", &caller(true));
    logout.send().await.refused(503, "store_unavailable");
    drop(rival);
    gateway.stop().await;

    let spans = spans(&collector);
    let (request, children) = family(&spans);
    assert_eq!(error(request).as_deref(), Some("store_unavailable"));
    // The store's own patience may end first; PostgreSQL is then told to roll back.
    let last = children.iter().rfind(|child| child.name != "ROLLBACK").unwrap();
    // SQLite has one writer: where the gateway's own housekeeping is held up too, its connection is what is waited for.
    let (called, errors) = match engine {
        Engine::Sqlite => (&["BEGIN", "sqlite connection"][..], &["cancelled", "5"][..]),
        Engine::Postgres => (&["UPDATE sessions"][..], &["cancelled", "57014"][..]),
    };
    assert!(called.contains(&&*last.name), "{children:#?}");
    assert!(errors.contains(&&*error(last).unwrap()), "{last:?}");
}

on_both_stores!(
    a_login_tells_what_it_asked_of_the_store,
    what_goes_on_in_a_task_of_its_own_is_told_too,
    a_query_that_fails_is_an_error_without_its_words,
    a_call_whose_time_is_over_is_told_as_given_up,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_limit_tells_that_it_asked_redis() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let redis = Redis::with_password("planted-redis-password");
    let yaml = format!(
        r#"
shared_state: {{redis: {{url: {{env: REDIS_URL}}, deadline: 20s, retry: 60s}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
  wide: {{by: address, rate: 100/1d, scope: shared, lease: 0}}
routes:
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, limits: [wide], cluster: rag}}
"#,
        upstream.url()
    );
    let setup = Setup::new(Engine::Sqlite, &format!("{}{yaml}", otlp(&collector))).variable("REDIS_URL", &redis.url());
    let mut gateway = setup.start().await;
    let client = gateway.client();
    for sampled in [false, true] {
        client.get("/open/a").header("traceparent", &caller(sampled)).send().await.expect(200);
    }
    gateway.stop().await;

    let spans = spans(&collector);
    let (_, children) = family(&spans);
    assert_eq!(names(&children), ["EVALSHA", "GET"]);
    let asked = children[0];
    assert_eq!((text(asked, "db.system.name").as_str(), asked.kind(), error(asked)), ("redis", SpanKind::Client, None));
    assert_eq!(text(asked, "db.operation.name"), "EVALSHA");
    assert_eq!(text(asked, "server.address"), redis.socket().to_str().unwrap());
    let told = format!("{spans:?}");
    assert!(!told.contains("planted-redis-password") && !told.contains("limit:wide"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_exports_nothing() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = gateway(Engine::Sqlite, &upstream, &collector).await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    login(&client, false).await;
    client.get("/open/a").send().await.expect(200);
    gateway.stop().await;
    collector.assert_untouched();
}
