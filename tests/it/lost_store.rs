//! What a dead or frozen database costs: logins, never a request in hand. 503 and never 401, so that no
//! client throws its tokens away; and it comes back by itself.

use std::time::Duration;

use portcullis::store::{AuditEntry, AuditEvent, audit::Actor};
use serde_json::json;

use crate::{
    harness::{
        client::{Client, PASSWORD, Tokens},
        clock::BEGIN,
        gateway::{Engine, Gateway, Setup},
        gateways::{Deployment, Gateways},
        soon,
        tokens::claims_of,
        upstream::Upstream,
    },
    support::postgres::Cluster,
};

async fn gateway(cluster: &Cluster, upstream: &Upstream) -> Gateway {
    let yaml = format!(
        "store: {{url: \"${{STORE_URL}}\", master_key: \"${{MASTER_KEY}}\", pool: 3, timeout: 500ms}}\n{}",
        crate::harness::gateway::standard(upstream)
    );
    Setup::new(Engine::Sqlite, &yaml).on(&cluster.create_database().url).start().await
}

/// What needs the store is 503 with a time to come back; what does not goes on.
async fn assert_only_accounts_are_lost(gateway: &Gateway, client: &Client, ann: &Tokens, bob: &Tokens) {
    assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    assert_eq!(client.status("/ask/a", &bob.access).await, 200, "a token that was never seen before");
    assert_eq!(client.status("/maybe/a", &ann.access).await, 200);
    client.get("/open/a").send().await.expect(200);
    client.get("/ask/a").bearer("wrong").send().await.refused(401, "invalid_token");
    client.get("/.well-known/jwks.json").send().await.expect(200);

    let lost = "store_unavailable";
    let credentials = json!({"email": "ann@example.org", "password": PASSWORD});
    client.post("/auth/login").json(&credentials).send().await.refused(503, lost);
    client
        .post("/auth/login")
        .json(&json!({"email": "x@example.org", "password": "y"}))
        .send()
        .await
        .refused(503, lost);
    client
        .post("/auth/register")
        .json(&json!({"email": "new@example.org", "password": PASSWORD}))
        .send()
        .await
        .refused(503, lost);
    client.refresh(&ann.refresh).await.refused(503, lost);
    client.get("/auth/me").bearer(&ann.access).send().await.refused(503, lost);
    client.post("/auth/logout").bearer(&ann.access).send().await.refused(503, lost);
    assert_eq!(client.status("/ask/a", &ann.access).await, 200, "a logout that failed has ended nothing");

    assert_eq!(gateway.admin("/livez").await.0, 200);
    let (status, report) = gateway.admin("/readyz").await;
    assert_eq!(status, 200, "degraded is still ready: {report}");
    assert!(report.contains("degraded"), "{report}");
}

/// Everything works again, and nothing was forgotten.
async fn assert_nothing_is_lost(gateway: &Gateway, client: &Client, ann: &Tokens) {
    let next = client.tokens(&client.refresh(&ann.refresh).await.expect(200));
    assert_eq!(claims_of(&next.access)["sid"], claims_of(&ann.access)["sid"]);
    assert_eq!(client.login("ann@example.org").await.user["id"], ann.user["id"]);
    client.get("/auth/me").bearer(&ann.access).send().await.expect(200);
    client.register("new@example.org").await;
    client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
    assert_eq!(client.status("/ask/a", &ann.access).await, 401);
    let (status, report) = gateway.admin("/readyz").await;
    assert!(status == 200 && !report.contains("degraded"), "{status} {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_database_costs_logins_and_nothing_else() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let gateway = gateway(&cluster, &upstream).await;
    let client = gateway.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    client.get("/ask/a").bearer(&ann.access).send().await.expect(200);

    cluster.stop();
    assert_only_accounts_are_lost(&gateway, &client, &ann, &bob).await;
    cluster.start();
    assert_nothing_is_lost(&gateway, &client, &ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_database_is_waited_for_no_longer_than_the_store_time_out() {
    let cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let gateway = gateway(&cluster, &upstream).await;
    let client = gateway.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);

    cluster.pause();
    assert_only_accounts_are_lost(&gateway, &client, &ann, &bob).await;
    cluster.resume();
    assert_nothing_is_lost(&gateway, &client, &ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_to_a_lost_database_all_get_their_answer() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let gateway = gateway(&cluster, &upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    cluster.stop();
    let calls = (0..30).map(|_| client.refresh(&ann.refresh));
    for answer in futures_util::future::join_all(calls).await {
        answer.refused(503, "store_unavailable");
    }
    cluster.start();
    client.refresh(&ann.refresh).await.expect(200);
}

const AGE: &str = "portcullis_revocations_age_seconds";
const FAILED: &str = "portcullis_revocation_reads_total{result=\"failed\"}";

async fn age_becomes(gateway: &Gateway, fits: impl Fn(f64) -> bool) {
    soon("the age of the last reading", async { while !fits(gateway.metric(AGE).await) {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_knew_to_be_ended_stays_ended_while_the_store_is_lost() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let database = cluster.create_database();
    let yaml = Deployment::Two.store("pool: 3, timeout: 500ms") + &crate::harness::gateway::standard(&upstream);
    let gateways = Gateways::start_with(Deployment::Two, &yaml, |setup| setup.on(&database.url)).await;
    let (one, other) = (gateways.all[0].client(), gateways.all[1].client());
    let (ended, kept) = (one.register("ann@example.org").await, one.login("ann@example.org").await);
    one.post("/auth/logout").bearer(&ended.access).send().await.expect(204);
    gateways.know_what_ended().await;
    for gateway in &gateways.all {
        age_becomes(gateway, |age| age < 1.0).await;
    }

    cluster.stop();
    gateways.clock.advance(Duration::from_mins(4));
    for gateway in &gateways.all {
        soon("a reading to fail", async { while gateway.metric(FAILED).await < 0.5 {} }).await;
        age_becomes(gateway, |age| age > 239.0).await;
    }
    for client in [&one, &other] {
        client.get("/ask/a").bearer(&ended.access).send().await.refused(401, "invalid_token");
        assert_eq!(client.status("/ask/a", &kept.access).await, 200);
    }
    // Too long by now: whoever shows a token is told to come again, and whoever shows none is served.
    gateways.clock.advance(Duration::from_mins(2));
    for client in [&one, &other] {
        client.get("/ask/a").bearer(&ended.access).send().await.refused(401, "invalid_token");
        let stale = client.get("/ask/a").bearer(&kept.access).send().await;
        assert!(stale.header("retry-after").is_some());
        stale.refused(503, "revocations_stale");
        client.get("/maybe/a").bearer(&kept.access).send().await.refused(503, "revocations_stale");
        client.get("/maybe/a").send().await.expect(200);
        client.get("/open/a").bearer(&kept.access).send().await.expect(200);
    }
    cluster.start();
    for gateway in &gateways.all {
        age_becomes(gateway, |age| age < 1.0).await;
    }
    other.post("/auth/logout").bearer(&kept.access).send().await.expect(204);
    gateways.know_what_ended().await;
    one.get("/ask/a").bearer(&kept.access).send().await.refused(401, "invalid_token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_committed_late_or_by_a_slower_clock_is_not_missed() {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(Deployment::Two, &upstream).await;
    let client = gateways.client();
    let session = client.register("ann@example.org").await;
    gateways.clock.advance(Duration::from_mins(10));
    // Both have read up to now when it comes, an hour old by the clock of whoever wrote it.
    gateways.know_what_ended().await;
    let sid = claims_of(&session.access)["sid"].as_str().unwrap().parse().unwrap();
    let late = AuditEntry::unasked(AuditEvent::LoggedOut, BEGIN.minus(Duration::from_hours(1)), Actor::System);
    let late = AuditEntry { session: Some(sid), ..late };
    assert_eq!(gateways.store().await.end_sessions(sid, false, &late).await.unwrap(), [sid]);
    gateways.know_what_ended().await;
    for gateway in &gateways.all {
        gateway.client().get("/ask/a").bearer(&session.access).send().await.refused(401, "invalid_token");
    }
}
