//! What is taken away from tokens that are out there: one token, a subject's, a user's rights; at every gateway, for
//! tokens that lie among the verified ones too.

use std::time::Duration;

use portcullis::{
    clock::{Clock, Timestamp},
    store::{AuditEntry, AuditEvent, Revocation, SharedStore, audit::Actor, feed::SubjectBefore},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    harness::{
        clock::BEGIN,
        gateway::{Engine, Gateway, Setup, standard},
        gateways::{Deployment, Gateways},
        issuer::{AUDIENCE, Issuer, ready},
        soon,
        tokens::claims_of,
        upstream::Upstream,
    },
    support::postgres::{Cluster, cluster},
};

on_every_deployment!(
    a_revoked_token_is_refused_and_the_next_one_of_its_session_is_not,
    what_another_issuer_s_user_was_given_before_a_moment_is_refused,
    changed_rights_count_at_the_next_request_and_cost_no_401,
    changed_rights_are_known_after_a_restart,
    what_has_ended_is_known_to_those_that_began_under_a_clock_that_ran_ahead,
);

fn audit(event: AuditEvent, at: Timestamp) -> AuditEntry {
    AuditEntry::unasked(event, at, Actor::Cli)
}

async fn revoke(store: &SharedStore, what: Revocation) {
    let until = BEGIN.plus(Duration::from_hours(1));
    store.revoke(&what, until, &audit(AuditEvent::TokenRevoked, BEGIN)).await.unwrap();
}

async fn a_revoked_token_is_refused_and_the_next_one_of_its_session_is_not(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let first = client.register("ann@example.org").await;
    for gateway in &gateways.all {
        assert_eq!(gateway.client().status("/ask/a", &first.access).await, 200);
    }
    let jti = claims_of(&first.access)["jti"].as_str().unwrap().to_owned();
    revoke(&gateways.store().await, Revocation::Token(jti)).await;
    gateways.know_what_was_told().await;
    let second = client.refreshed(&first.refresh).await;
    for gateway in &gateways.all {
        let client = gateway.client();
        client.get("/ask/a").bearer(&first.access).send().await.refused(401, "invalid_token");
        assert_eq!(client.status("/ask/a", &second.access).await, 200);
    }
    assert!(gateways.metric("portcullis_revocations{kind=\"token\"}").await > 0.5);
}

async fn what_another_issuer_s_user_was_given_before_a_moment_is_refused(deployment: Deployment) {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let yaml = format!(
        r#"
issuers:
  sso: {{issuer: "{}", audiences: [{AUDIENCE}]}}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: both, match: {{path: "/both/{{*rest}}"}}, issuers: [own, sso], cluster: rag}}
"#,
        issuer.url(),
        upstream.url()
    );
    let gateways = Gateways::start(deployment, &yaml).await;
    let now = BEGIN.seconds();
    let given = |subject: &str, iat: i64| issuer.token(&json!({"sub": subject, "iat": iat}));
    let (old, young, bobs) = (given("ann", now - 60), given("ann", now - 59), given("bob", now - 60));
    for gateway in &gateways.all {
        ready(&gateway.client(), "/both/a", &old).await;
    }
    let before = SubjectBefore { issuer: issuer.url(), subject: "sso:ann".into(), before: now - 59 };
    revoke(&gateways.store().await, Revocation::SubjectBefore(before)).await;
    gateways.know_what_was_told().await;
    for gateway in &gateways.all {
        let client = gateway.client();
        client.get("/both/a").bearer(&old).send().await.refused(401, "invalid_token");
        assert_eq!(client.status("/both/a", &young).await, 200);
        assert_eq!(client.status("/both/a", &bobs).await, 200);
    }
}

/// Routes for those with a role.
fn with_roles(upstream: &Upstream) -> String {
    let admins = "  - {name: admins, match: {path: \"/admins/{*rest}\"}, roles: [admin], cluster: rag}\n";
    standard(upstream) + admins
}

pub(crate) async fn give(gateways: &Gateways, user: &Value, roles: &[&str], org: Option<&str>) {
    let id = user["id"].as_str().unwrap().parse().unwrap();
    let roles: Vec<_> = roles.iter().map(|role| (*role).to_owned()).collect();
    let told = audit(AuditEvent::AuthorizationChanged, gateways.clock.now());
    gateways.store().await.change_authorization(id, &roles, org, &told).await.unwrap();
    gateways.know_what_was_told().await;
}

/// What the service is told of the caller of its last request.
fn told(upstream: &Upstream) -> Value {
    let head = upstream.last().head;
    let claims = claims_of(head.header("x-gateway-identity").unwrap());
    let roles: Vec<_> = claims["roles"].as_array().unwrap().iter().map(|role| role.as_str().unwrap()).collect();
    assert_eq!(head.header("x-user-roles").unwrap(), roles.join(","));
    claims
}

async fn changed_rights_count_at_the_next_request_and_cost_no_401(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &with_roles(&upstream)).await;
    let client = gateways.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    for gateway in &gateways.all {
        let client = gateway.client();
        assert_eq!(client.status("/ask/a", &ann.access).await, 200);
        client.get("/admins/a").bearer(&ann.access).send().await.refused(403, "role_missing");
    }
    give(&gateways, &ann.user, &["admin", "user"], Some("acme")).await;
    for gateway in &gateways.all {
        let client = gateway.client();
        // Twice: the second time the caller as it is now is among the verified ones.
        for _ in 0..2 {
            assert_eq!(client.status("/admins/a", &ann.access).await, 200);
            let told = told(&upstream);
            assert_eq!(
                (&told["roles"], &told["org"], &told["av"]),
                (&json!(["admin", "user"]), &json!("acme"), &json!(2))
            );
        }
        client.get("/admins/a").bearer(&bob.access).send().await.refused(403, "role_missing");
    }
    // The next token says so itself, and what is taken away again is gone from both.
    let next = client.refreshed(&ann.refresh).await;
    assert_eq!(claims_of(&next.access)["av"], 2);
    give(&gateways, &ann.user, &["user"], None).await;
    for gateway in &gateways.all {
        let client = gateway.client();
        for access in [&ann.access, &next.access] {
            client.get("/admins/a").bearer(access).send().await.refused(403, "role_missing");
            assert_eq!(client.status("/ask/a", access).await, 200);
            let told = told(&upstream);
            assert_eq!((&told["roles"], told.get("org"), &told["av"]), (&json!(["user"]), None, &json!(3)));
        }
    }
}

async fn changed_rights_are_known_after_a_restart(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateways = Gateways::start(deployment, &with_roles(&upstream)).await;
    let ann = gateways.client().register("ann@example.org").await;
    give(&gateways, &ann.user, &["admin", "user"], None).await;
    gateways.restart().await;
    for gateway in &gateways.all {
        assert_eq!(gateway.client().status("/admins/a", &ann.access).await, 200);
    }
    // As long as an older token may live, and not longer.
    gateways.clock.advance(Duration::from_hours(1));
    let pruned = async { while gateways.metric("portcullis_revocations{kind=\"authorization\"}").await > 0.5 {} };
    soon("what no token can need to be forgotten", pruned).await;
}

/// By that clock every token that had ended had expired; it is set right again before they have.
async fn what_has_ended_is_known_to_those_that_began_under_a_clock_that_ran_ahead(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let (ended, kept) = (client.register("ann@example.org").await, client.login("ann@example.org").await);
    client.post("/auth/logout").bearer(&ended.access).send().await.expect(204);
    let ahead = Duration::from_hours(1);
    gateways.clock.advance(ahead);
    gateways.restart().await;
    gateways.clock.set_back(ahead);
    gateways.know_what_was_told().await;
    for gateway in &gateways.all {
        let client = gateway.client();
        client.get("/ask/a").bearer(&ended.access).send().await.refused(401, "invalid_token");
        assert_eq!(client.status("/ask/a", &kept.access).await, 200);
    }
}

/// Until it is known what they are by the other history, whoever was put down stays down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_not_forgotten_before_a_store_of_another_history_was_read() {
    let upstream = Upstream::start().await;
    let database = cluster().create_database();
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 4}\n";
    let yaml = store.to_owned() + &with_roles(&upstream);
    let gateway: Gateway = Setup::new(Engine::Sqlite, &yaml).on(&database.url).start().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let id = ann.user["id"].as_str().unwrap().parse().unwrap();
    let change = async |roles: &[&str]| {
        let roles: Vec<_> = roles.iter().map(|role| (*role).to_owned()).collect();
        let told = audit(AuditEvent::AuthorizationChanged, BEGIN);
        gateway.store().await.change_authorization(id, &roles, None, &told).await.unwrap();
    };
    change(&["admin", "user"]).await;
    let admin = client.refreshed(&ann.refresh).await;
    assert_eq!(client.status("/admins/a", &admin.access).await, 200);
    change(&["user"]).await;
    let down = async { while client.status("/admins/a", &admin.access).await != 403 {} };
    soon("the change to be read", down).await;
    // Another history, which cannot be read to its end.
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let other = "UPDATE feed SET link = decode(repeat('07', 32), 'hex'); \
                 UPDATE feed_head SET link = decode(repeat('07', 32), 'hex'); \
                 ALTER TABLE feed RENAME COLUMN detail TO not_there";
    sqlx::raw_sql(other).execute(&mut connection).await.unwrap();
    let failed = "portcullis_revocation_reads_total{result=\"failed\"}";
    soon("readings to fail", async { while gateway.metric(failed).await < 1.5 {} }).await;
    // The caller as of then is among the verified ones no more.
    gateway.clock.advance(Duration::from_secs(61));
    client.get("/admins/a").bearer(&admin.access).send().await.refused(403, "role_missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_says_so_goes_on_however_old_the_news_is() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let database = cluster.create_database();
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3, timeout: 500ms}\n";
    let route = |name: &str, revocation: &str| {
        format!("  - {{name: {name}, match: {{path: \"/{name}/a\"}}, cluster: rag, revocation: {{{revocation}}}}}\n")
    };
    let yaml = store.to_owned()
        + &standard(&upstream)
        + &route("goes_on", "on_stale: allow")
        + &route("strict", "max_staleness: 1m");
    let gateway: Gateway = Setup::new(Engine::Sqlite, &yaml).on(&database.url).start().await;
    let client = gateway.client();
    let (ended, kept) = (client.register("ann@example.org").await, client.login("ann@example.org").await);
    client.post("/auth/logout").bearer(&ended.access).send().await.expect(204);
    cluster.stop();
    gateway.clock.advance(Duration::from_mins(2));
    let strict = async { while client.status("/strict/a", &kept.access).await != 503 {} };
    soon("a reading to fail", strict).await;
    assert_eq!(client.status("/ask/a", &kept.access).await, 200);
    gateway.clock.advance(Duration::from_mins(10));
    client.get("/ask/a").bearer(&kept.access).send().await.refused(503, "revocations_stale");
    assert_eq!(client.status("/goes_on/a", &kept.access).await, 200);
    client.get("/goes_on/a").bearer(&ended.access).send().await.refused(401, "invalid_token");
    cluster.start();
    let well = async { while client.status("/strict/a", &kept.access).await != 200 {} };
    soon("the store to be read again", well).await;
}
