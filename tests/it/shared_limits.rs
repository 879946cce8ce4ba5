//! Limits that two gateways count together, over one real Redis; and what its loss costs: the count of the other
//! gateway, never a request, and nobody waits for it twice. What was waited for is told by counting questions.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    harness::{
        binary::Binary,
        client::{Client, Tokens},
        gateway::{Engine, Gateway, Setup},
        soon,
        tls::Authority,
        upstream::Upstream,
    },
    support::{self, redis::Redis},
};

const LOST: &str = "portcullis_shared_state_lost";
const ALONE: &str = "portcullis_shared_state_fallbacks_total";

/// `limits`: the entries of that section. Rates are by the hour: nothing flows back while a test runs.
fn yaml(upstream: &Upstream, redis: &str, limits: &str) -> String {
    format!(
        r#"
shared_state: {{redis: {{url: {{env: REDIS_URL}}, {redis}}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
{limits}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, limits: [wide, narrow], cluster: rag}}
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, limits: [wide], cluster: rag}}
"#,
        upstream.url()
    )
}

/// A machine that is busy must not make a Redis that is well look lost.
const PATIENT: &str = "deadline: 20s, retry: 60s";

fn limits(narrow: u32, wide: u32, lease: u32) -> String {
    format!(
        "  narrow: {{by: subject, rate: {narrow}/1d, scope: shared, lease: {}}}\n  \
         wide: {{by: address, rate: {wide}/1d, scope: shared, lease: {}}}",
        lease.min(narrow),
        lease.min(wide)
    )
}

/// Two gateways with a store each, or with one for both.
async fn two(engine: Engine, yaml: &str, redis: &str) -> [Gateway; 2] {
    let (store, url) = match engine {
        Engine::Sqlite => ("", None),
        Engine::Postgres => (
            "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3}\n",
            Some(support::postgres::cluster().create_database().url),
        ),
    };
    let start = || {
        let setup = Setup::new(Engine::Sqlite, &format!("{store}{yaml}")).variable("REDIS_URL", redis);
        let setup = if let Some(url) = &url { setup.on(url) } else { setup };
        Box::pin(setup.start())
    };
    let (one, other) = tokio::join!(start(), start());
    [one, other]
}

/// Questions to Redis of this kind that ended so.
async fn calls(gateway: &Gateway, kind: &str, result: &str) -> f64 {
    gateway.metric(&format!("portcullis_shared_state_calls_total{{kind=\"{kind}\",result=\"{result}\"}}")).await
}

/// Waits until a sample of `/metrics` is what it should be.
async fn until(what: &str, gateway: &Gateway, sample: &str, fits: impl Fn(f64) -> bool) {
    let reached = async {
        while !fits(gateway.metric(sample).await) {
            tokio::task::yield_now().await;
        }
    };
    soon(what, reached).await;
}

fn near(value: f64, expected: u32) -> bool {
    (value - f64::from(expected)).abs() < 0.1
}

async fn two_gateways_together_admit_what_one_may_for_an_address(engine: Engine) {
    let (upstream, redis) = (Upstream::start().await, Redis::private());
    let gateways = two(engine, &yaml(&upstream, PATIENT, &limits(5, 20, 0)), &redis.url()).await;
    let [one, other] = gateways.each_ref().map(Gateway::client);
    let asked = join_all((0..30).flat_map(|_| [one.get("/open/a").send(), other.get("/open/a").send()])).await;
    let admitted = asked.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((admitted, upstream.received().len()), (20, 20));
    for answer in asked.iter().filter(|answer| answer.status != 200) {
        answer.refused(429, "quota_exceeded");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((4_000..=4_320).contains(&wait), "a twentieth of a day: {wait}");
        assert!(answer.header("ratelimit").unwrap().contains("\"wide\";r=0;t="));
    }
    for gateway in &gateways {
        gateway.client_at("127.0.0.2").get("/open/a").send().await.expect(200);
    }
}

on_both_stores!(
    two_gateways_together_admit_what_one_may_for_an_address,
    a_killed_redis_costs_the_others_count_and_nothing_else,
);

/// A user both gateways know.
async fn shared_user(limits: &str) -> ([Gateway; 2], Tokens, Upstream, Redis) {
    let (upstream, redis) = (Upstream::start().await, Redis::private());
    let gateways = two(Engine::Postgres, &yaml(&upstream, PATIENT, limits), &redis.url()).await;
    let ann = gateways[0].client().register("ann@example.org").await;
    (gateways, ann, upstream, redis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_leases_a_user_gets_no_more_than_the_limit_and_few_requests_ask() {
    let (gateways, ann, upstream, _redis) = shared_user(&limits(200, 10_000, 20)).await;
    let clients = gateways.each_ref().map(Gateway::client);
    let mut refused = 0;
    // Until both have refused in one round: one may still hold a lease when the other's is spent.
    while refused < 2 && upstream.received().len() <= 200 {
        refused = 0;
        for client in &clients {
            refused += usize::from(client.status("/ask/a", &ann.access).await == 429);
        }
    }
    let admitted = upstream.received().len();
    assert!(admitted <= 200, "no time has passed, so no lease was given up: {admitted}");
    assert!(admitted >= 200 - 2 * 20, "no more than a lease lies at each: {admitted}");
    for gateway in &gateways {
        let asked = calls(gateway, "charge", "answered").await;
        assert!(asked < 40.0, "of about two hundred charges of two limits each: {asked}");
        assert!(near(gateway.metric(ALONE).await, 0) && near(gateway.metric(LOST).await, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_its_own_shared_limit_drains_nobody_elses() {
    let (gateways, ann, upstream, _redis) = shared_user(&limits(3, 10, 0)).await;
    let [one, other] = gateways.each_ref().map(Gateway::client);
    let bob = other.register("bob@example.org").await;
    for client in [&one, &other, &one] {
        assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    }
    for client in [&one, &other].repeat(15) {
        let answer = client.get("/ask/a").bearer(&ann.access).send().await;
        answer.refused(429, "quota_exceeded");
        assert_eq!(answer.json()["violated-policies"], serde_json::json!(["narrow"]));
    }
    for gateway in &gateways {
        assert!(calls(gateway, "charge", "answered").await < 6.0, "a refusal that still holds is not asked for again");
    }
    for left in [2, 1, 0] {
        let answer = other.get("/ask/a").bearer(&bob.access).send().await.expect(200);
        let limit = answer.header("ratelimit").unwrap();
        assert!(limit.starts_with(&format!("\"narrow\";r={left};t=")), "{limit}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"narrow\";q=3;w=86400, \"wide\";q=10;w=86400"));
    }
    for _ in 0..4 {
        one.get("/open/a").send().await.expect(200);
    }
    for client in [&one, &other] {
        let answer = client.get("/open/a").send().await;
        answer.refused(429, "quota_exceeded");
        assert_eq!(answer.json()["violated-policies"], serde_json::json!(["wide"]));
    }
    assert_eq!(upstream.received().len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_at_one_gateway_is_paid_for_at_all() {
    let (gateways, ann, upstream, _redis) = shared_user(&limits(50, 4, 0)).await;
    let [one, other] = gateways.each_ref().map(Gateway::client);
    for _ in 0..4 {
        one.get("/ask/a").bearer("wrong").send().await.refused(401, "invalid_token");
    }
    // Nobody waits for these to be counted but this test.
    let counted = "portcullis_shared_state_calls_total{kind=\"charge\",result=\"answered\"}";
    until("the failures to be counted", &gateways[0], counted, |asked| near(asked, 4)).await;
    // Each gateway learns of it by its first charge, and refuses without looking at a token from then on.
    for client in [&one, &other] {
        client.get("/ask/a").bearer(&ann.access).send().await.refused(429, "quota_exceeded");
        client.get("/ask/a").bearer("wrong").send().await.refused(429, "quota_exceeded");
    }
    upstream.assert_untouched();
}

/// One address's ten requests, and the eleventh.
async fn assert_limited_alone(client: &Client) {
    for _ in 0..10 {
        client.get("/open/a").send().await.expect(200);
    }
    client.get("/open/a").send().await.refused(429, "quota_exceeded");
}

async fn assert_degraded(gateway: &Gateway) {
    let (status, report) = gateway.admin("/readyz").await;
    assert_eq!(status, 200, "{report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "shared_state").unwrap();
    assert_eq!((&report["status"], &check["state"]), (&"degraded".into(), &"degraded".into()), "{report}");
}

async fn assert_ready(gateway: &Gateway) {
    let ready = async { while gateway.admin("/readyz").await.1.contains("degraded") {} };
    soon("Redis to be found again", ready).await;
    assert!(near(gateway.metric(LOST).await, 0));
}

/// Each gateway by itself admits the whole limit, and only the first request found out.
async fn assert_each_counts_alone(gateways: &[Gateway; 2], result: &str) {
    for gateway in gateways {
        let answered = calls(gateway, "charge", "answered").await;
        assert_limited_alone(&gateway.client_at("127.0.0.3")).await;
        assert!(near(gateway.metric(LOST).await, 1));
        assert!(near(calls(gateway, "charge", result).await, 1), "one request waited, and no other");
        assert!(near(calls(gateway, "charge", "answered").await - answered, 0));
        assert!(near(gateway.metric(ALONE).await, 10), "the peek refused the eleventh");
        // Many at once wait for nothing either.
        let client = gateway.client_at("127.0.0.4");
        let answers = join_all((0..20).map(|_| client.get("/open/a").send())).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 10);
        assert!(near(calls(gateway, "charge", result).await, 1));
        assert!(near(calls(gateway, "probe", "timeout").await + calls(gateway, "probe", "failed").await, 0));
        assert_degraded(gateway).await;
    }
}

async fn a_killed_redis_costs_the_others_count_and_nothing_else(engine: Engine) {
    let (upstream, mut redis) = (Upstream::start().await, Redis::private());
    let gateways = two(engine, &yaml(&upstream, PATIENT, &limits(5, 10, 0)), &redis.url()).await;
    for gateway in &gateways {
        gateway.client().get("/open/a").send().await.expect(200);
        assert_ready(gateway).await;
    }
    redis.stop();
    assert_each_counts_alone(&gateways, "failed").await;
    // What was spent before counts on: no fresh burst for a client who knows when to ask.
    let [one, other] = gateways.each_ref().map(Gateway::client);
    for client in [&one, &other] {
        let answers = join_all((0..12).map(|_| client.get("/open/a").send())).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 9);
    }
    redis.start();
    for gateway in &gateways {
        assert_ready(gateway).await;
    }
    let (here, there) = (gateways[0].client_at("127.0.0.5"), gateways[1].client_at("127.0.0.5"));
    let asked = join_all((0..10).flat_map(|_| [here.get("/open/a").send(), there.get("/open/a").send()])).await;
    assert_eq!(asked.iter().filter(|answer| answer.status == 200).count(), 10, "together again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_is_waited_for_by_one_request_for_one_deadline() {
    let (upstream, redis) = (Upstream::start().await, Redis::private());
    let hasty = "deadline: 2s, retry: 60s";
    let gateways = two(Engine::Sqlite, &yaml(&upstream, hasty, &limits(5, 10, 0)), &redis.url()).await;
    redis.pause();
    assert_each_counts_alone(&gateways, "timeout").await;
    redis.resume();
    for gateway in &gateways {
        assert_ready(gateway).await;
        let answered = calls(gateway, "charge", "answered").await;
        gateway.client_at("127.0.0.6").get("/open/a").send().await.expect(200);
        assert!(near(calls(gateway, "charge", "answered").await - answered, 1), "Redis is asked again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_questions_is_not_taken_for_a_lost_redis() {
    const STORM: u32 = 200;
    const AT_ONCE: u32 = 64;
    let (upstream, redis) = (Upstream::start().await, Redis::private());
    let yaml = yaml(&upstream, PATIENT, &limits(5, 1_000, 0));
    let gateway = Setup::new(Engine::Sqlite, &yaml).variable("REDIS_URL", &redis.url()).start().await;
    let client = gateway.client();
    client.get("/open/a").send().await.expect(200);
    redis.pause();
    let storm = join_all((0..STORM).map(|_| client.get("/open/a").send()));
    let surplus = async {
        until("the surplus to be counted here", &gateway, ALONE, |alone| near(alone, STORM - AT_ONCE)).await;
        redis.resume();
    };
    let (answers, ()) = tokio::join!(storm, surplus);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(near(gateway.metric(LOST).await, 0), "it answers, and is asked on");
    assert!(near(calls(&gateway, "charge", "answered").await, AT_ONCE + 1));
    assert!(near(gateway.metric(ALONE).await, STORM - AT_ONCE));
    client.get("/open/a").send().await.expect(200);
    assert!(near(calls(&gateway, "charge", "answered").await, AT_ONCE + 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_is_found_without_being_asked_for() {
    let (upstream, mut redis) = (Upstream::start().await, Redis::private());
    redis.stop();
    let yaml = yaml(&upstream, "deadline: 20s, retry: 10ms", &limits(5, 10, 0));
    let gateway = Setup::new(Engine::Sqlite, &yaml).variable("REDIS_URL", &redis.url()).start().await;
    let client = gateway.client();
    client.get("/open/a").send().await.expect(200);
    assert!(near(gateway.metric(LOST).await, 1), "it starts without Redis and says so");
    redis.start();
    until("Redis to be found", &gateway, LOST, |lost| near(lost, 0)).await;
    assert!(near(calls(&gateway, "charge", "answered").await, 0));
    client.get("/open/a").send().await.expect(200);
    assert!(near(calls(&gateway, "charge", "answered").await, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_redis_loses_counts_and_nothing_else() {
    let (gateways, ann, _upstream, redis) = shared_user(&limits(3, 100, 0)).await;
    let [one, other] = gateways.each_ref().map(Gateway::client);
    for _ in 0..3 {
        assert_eq!(one.status("/ask/a", &ann.access).await, 200);
    }
    redis.ask(&["FLUSHALL"]);
    redis.ask(&["SCRIPT", "FLUSH", "SYNC"]);
    assert_eq!(other.status("/ask/a", &ann.access).await, 200, "the count begins anew");
    for gateway in &gateways {
        assert!(near(gateway.metric(LOST).await, 0) && near(gateway.metric(ALONE).await, 0));
    }
    let next = other.refreshed(&ann.refresh).await;
    one.get("/auth/me").bearer(&next.access).send().await.expect(200);
    assert_eq!(one.login("ann@example.org").await.user["id"], ann.user["id"]);
}

/// TLS before the server's socket, on a port the system picks.
async fn tls_in_front(redis: &Redis, authority: &Authority) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(authority.certify("localhost").server_config());
    let socket = Arc::new(redis.socket());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), Arc::clone(&socket));
            tokio::spawn(async move {
                let (Ok(mut tls), Ok(mut unix)) = tokio::join!(acceptor.accept(tcp), UnixStream::connect(&*socket))
                else {
                    return;
                };
                let _ = copy_bidirectional(&mut tls, &mut unix).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_redis_is_checked() {
    let (upstream, redis) = (Upstream::start().await, Redis::with_password("over-tls-only-8812"));
    let (authority, stranger) = (Authority::new(), Authority::new());
    let port = tls_in_front(&redis, &authority).await;
    let url = format!("rediss://:over-tls-only-8812@localhost:{port}");
    for (ca, lost) in [(&authority, 0), (&stranger, 1)] {
        let yaml = yaml(&upstream, &format!("ca_file: ca.pem, {PATIENT}"), &limits(5, 10, 0));
        let setup = Setup::new(Engine::Sqlite, &yaml).file("ca.pem", ca.pem()).variable("REDIS_URL", &url);
        let gateway = setup.start().await;
        gateway.client().get("/open/a").send().await.expect(200);
        assert!(near(gateway.metric(LOST).await, lost), "{lost}");
    }
    assert!(redis.ask(&["KEYS", "*"]).contains("portcullis:limit:wide:a:127.0.0.1"));
}

const PASSWORD: &str = "planted-redis-password-5533";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_of_redis_is_never_printed() {
    let (upstream, mut redis) = (Upstream::start().await, Redis::with_password(PASSWORD));
    let wrong = redis.url().replace(PASSWORD, "planted-wrong-password-5544");
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         tokens: {{issuer: \"https://gw.test\"}}\ntelemetry: {{log: {{filter: trace}}}}\n{}",
        yaml(&upstream, PATIENT, &limits(5, 10, 2))
    );
    let mut told = Vec::new();
    for url in [redis.url(), wrong] {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("gateway.yaml");
        std::fs::write(&file, &yaml).unwrap();
        let gateway = Binary::serve(&file, &HashMap::from([("REDIS_URL".to_owned(), url)])).await;
        let client = gateway.client();
        for _ in 0..5 {
            client.get("/open/a").send().await.expect(200);
        }
        redis.stop();
        client.get("/open/a").send().await.expect(200);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        for page in ["readyz", "metrics"] {
            let page = http.get(format!("http://{}/{page}", gateway.admin)).send().await.unwrap();
            told.extend(page.text().await.unwrap().lines().map(str::to_owned));
        }
        redis.start();
        gateway.terminate();
        told.extend(gateway.ended().await.1);
    }
    assert!(told.iter().any(|line| line.contains("Redis is lost")), "the loss is told: {told:#?}");
    assert!(told.iter().any(|line| line.contains("counted per gateway")), "{told:#?}");
    let shown = told.iter().find(|line| line.contains("planted"));
    assert_eq!(shown, None);

    for broken in ["url: {env: REDIS_URL}, ca_file: x", "url: {env: REDIS_URL}, deadline: x", "url: {env: REDIS_URL}x"]
    {
        let yaml = format!("shared_state: {{redis: {{{broken}}}}}\n");
        let setup = Setup::new(Engine::Sqlite, &yaml).variable("REDIS_URL", &format!("redis://:{PASSWORD}@x#y"));
        let errors = setup.settings().unwrap_err();
        assert!(!format!("{errors} {errors:?}").contains("planted"), "{errors}");
    }
    let yaml = "shared_state: {redis: {url: {env: REDIS_URL}}}\nportal: {enabled: true}\n";
    let settings = Setup::new(Engine::Sqlite, yaml).variable("REDIS_URL", &redis.url()).settings().unwrap();
    assert!(!format!("{settings:?} {settings:#?}").contains("planted"));
}
