//! API keys from outside: shown once, taken in either header where a route lists them, never worth more than their
//! owner, refused everywhere at once when revoked, and known through the loss of the store.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::time::Duration;

use portcullis::store::{AuditEntry, AuditEvent, audit::Actor};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    harness::{
        client::{Answer, Client, Tokens},
        clock::BEGIN,
        gateway::{Engine, Gateway, Setup},
        gateways::{Deployment, Gateways},
        soon,
        upstream::Upstream,
    },
    support::postgres::{Cluster, cluster},
};

pub(crate) fn yaml(upstream: &Upstream) -> String {
    format!(
        r#"
portal: {{api_keys: {{max_per_user: 3, scopes: ["docs:read", "docs:write"]}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, credentials: [bearer, api_key], cluster: rag}}
  - {{name: keys, match: {{path: "/keys/{{*rest}}"}}, credentials: [api_key], cluster: rag}}
  - {{name: tokens, match: {{path: "/tokens/{{*rest}}"}}, auth: optional, cluster: rag}}
  - {{name: passed, match: {{path: "/passed/{{*rest}}"}}, credentials: [bearer, api_key], forward_authorization: true, cluster: rag}}
  - {{name: admins, match: {{path: "/admins/{{*rest}}"}}, credentials: [api_key], roles: [admin], cluster: rag}}
  - {{name: users, match: {{path: "/users/{{*rest}}"}}, credentials: [api_key], roles: [user], cluster: rag}}
  - {{name: reads, match: {{path: "/reads/{{*rest}}"}}, credentials: [bearer, api_key], scopes: ["docs:read"], cluster: rag}}
"#,
        upstream.url()
    )
}

pub(crate) async fn gateway(upstream: &Upstream) -> Gateway {
    Setup::new(Engine::Sqlite, &yaml(upstream)).start().await
}

async fn asked(client: &Client, owner: &Tokens, body: Value) -> Answer {
    client.post("/auth/api-keys").bearer(&owner.access).json(&body).send().await
}

/// A new key and its id.
pub(crate) async fn made(client: &Client, owner: &Tokens, body: Value) -> (String, String) {
    let made = asked(client, owner, body).await.expect(201).json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    client.plant(&text("key"));
    (text("key"), text("id"))
}

pub(crate) async fn key(client: &Client, owner: &Tokens) -> String {
    made(client, owner, json!({"name": "k"})).await.0
}

pub(crate) async fn revoke(client: &Client, owner: &Tokens, id: &str) -> Answer {
    client.call("DELETE", &format!("/auth/api-keys/{id}")).bearer(&owner.access).send().await
}

pub(crate) async fn by_header(client: &Client, path: &str, key: &str) -> Answer {
    client.get(path).header("x-api-key", key).send().await
}

const LOOKUPS: &str = "portcullis_api_key_lookups_total";

pub(crate) async fn looked_up(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("{LOOKUPS}{{result=\"{result}\"}}")).await
}

#[tokio::test]
async fn a_key_is_taken_in_either_header_and_no_service_sees_it() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (key, id) = made(&client, &ann, json!({"name": "nightly"})).await;
    for path in ["/ask/a", "/keys/a", "/passed/a"] {
        client.get(path).bearer(&key).send().await.expect(200);
        let seen = upstream.last();
        assert_eq!((seen.head.header("authorization"), seen.head.header("x-api-key")), (None, None), "{path}");
        assert_eq!(seen.head.header("x-user-id"), ann.user["id"].as_str());
        by_header(&client, path, &key).await.expect(200);
        assert_eq!(upstream.last().head.header("x-api-key"), None, "{path}");
        client.get(path).bearer(&key).header("x-api-key", &key).send().await.expect(200);
        let identity = crate::harness::tokens::claims_of(upstream.last().head.header("x-gateway-identity").unwrap());
        assert_eq!(identity["sub"], ann.user["id"]);
        assert_eq!((&identity["amr"], identity["client_id"].as_str()), (&json!(["api_key"]), Some(&*id)));
        assert_eq!((&identity["roles"], identity.get("sid")), (&json!(["user"]), None));
    }
    // A token goes on as ever, and says nothing of clients.
    client.get("/ask/a").bearer(&ann.access).send().await.expect(200);
    let identity = crate::harness::tokens::claims_of(upstream.last().head.header("x-gateway-identity").unwrap());
    assert_eq!((identity.get("client_id"), &identity["amr"]), (None, &json!(["pwd"])));
}

#[tokio::test]
async fn two_credentials_that_differ_are_none() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (one, other) = (key(&client, &ann).await, key(&client, &ann).await);
    for bearer in [&other, &ann.access] {
        let both = client.get("/ask/a").bearer(bearer).header("x-api-key", &one);
        both.send().await.refused(401, "invalid_token");
    }
    let twice = client.get("/ask/a").header("x-api-key", &one).header("x-api-key", &one);
    twice.send().await.refused(401, "invalid_token");
    client.get("/keys/a").bearer(&ann.access).send().await.refused(401, "invalid_token");
    client.get("/keys/a").send().await.refused(401, "credentials_missing");
    upstream.assert_untouched();
}

#[tokio::test]
async fn where_keys_are_not_listed_they_are_refused_by_name_and_the_header_is_the_service_s() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let key = key(&client, &ann).await;
    client.get("/tokens/a").bearer(&key).send().await.refused(403, "api_key_not_accepted");
    client.get("/tokens/a").bearer("pk_made-up").send().await.refused(403, "api_key_not_accepted");
    upstream.assert_untouched();
    by_header(&client, "/tokens/a", "a key of the service's own").await.expect(200);
    assert_eq!(upstream.last().head.header("x-api-key"), Some("a key of the service's own"));
}

#[tokio::test]
async fn no_account_endpoint_takes_a_key() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (key, id) = made(&client, &ann, json!({"name": "k"})).await;
    let delete = format!("/auth/api-keys/{id}");
    for (method, path) in [
        ("GET", "/auth/me"),
        ("PATCH", "/auth/me"),
        ("GET", "/auth/sessions"),
        ("DELETE", "/auth/sessions"),
        ("POST", "/auth/verify"),
        ("POST", "/auth/logout"),
        ("GET", "/auth/api-keys"),
        ("POST", "/auth/api-keys"),
        ("DELETE", &*delete),
    ] {
        let refused = client.call(method, path).bearer(&key).send().await;
        refused.refused(403, "api_key_not_accepted");
        client.call(method, path).header("x-api-key", &key).send().await.refused(403, "api_key_not_accepted");
    }
    // Whoever logs in may have one about.
    client.get("/auth/me").bearer(&ann.access).header("x-api-key", &key).send().await.expect(200);
    by_header(&client, "/keys/a", &key).await.expect(200);
}

#[tokio::test]
async fn a_key_is_shown_once_and_listed_without_its_secret() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let body = json!({"name": " nightly import ", "roles": ["user"], "scopes": ["docs:read"], "expires_in": 3_600});
    let answer = asked(&client, &ann, body).await.expect(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let made = answer.json();
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let list = async |who: &Tokens| client.get("/auth/api-keys").bearer(&who.access).send().await.expect(200);
    let listed = list(&ann).await;
    assert!(!listed.text().contains(&key[40..]), "{}", listed.text());
    let shown = &listed.json()["api_keys"][0];
    assert!(key.starts_with(shown["prefix"].as_str().unwrap()), "{shown}");
    assert_eq!((&shown["id"], &shown["name"]), (&made["id"], &json!("nightly import")));
    assert_eq!((&shown["roles"], &shown["scopes"]), (&json!(["user"]), &json!(["docs:read"])));
    assert_eq!(shown["expires_at"], made["expires_at"]);
    assert_eq!(shown["last_used_at"], Value::Null);
    assert_eq!(list(&bob).await.json(), json!({"api_keys": []}));
    // Used: noted soon, to the minute.
    by_header(&client, "/keys/a", key).await.expect(200);
    let noted = async { while list(&ann).await.json()["api_keys"][0]["last_used_at"].is_null() {} };
    soon("a use to be noted", noted).await;
    // Bob does not learn of it, and cannot end it.
    revoke(&client, &bob, id).await.refused(404, "api_key_unknown");
    revoke(&client, &ann, "x").await.refused(404, "api_key_unknown");
    by_header(&client, "/keys/a", key).await.expect(200);
    revoke(&client, &ann, id).await.expect(204);
    by_header(&client, "/keys/a", key).await.refused(401, "invalid_token");
    revoke(&client, &ann, id).await.refused(404, "api_key_unknown");
    assert_eq!(list(&ann).await.json(), json!({"api_keys": []}));
}

#[tokio::test]
async fn what_a_key_may_be_is_checked() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": "a\nb"}), "name"),
        (json!({"name": "k", "roles": ["admin"]}), "roles"),
        (json!({"name": "k", "roles": ["user", "user"]}), "roles"),
        (json!({"name": "k", "roles": "user"}), "roles"),
        (json!({"name": "k", "scopes": ["docs:delete"]}), "scopes"),
        (json!({"name": "k", "expires_in": 0}), "expires_in"),
        (json!({"name": "k", "expires_in": -1}), "expires_in"),
        (json!({"name": "k", "expires_in": u64::MAX}), "expires_in"),
        (json!({"name": "k", "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"name": "k", "expires_at": "soon"}), "expires_at"),
        (json!({"name": "k", "expires_at": "2100-01-01T00:00:00Z", "expires_in": 5}), "expires_at"),
        (json!({"name": "k", "owner": "bob"}), "owner"),
    ] {
        let answer = asked(&client, &ann, body.clone()).await;
        answer.refused(422, "validation");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{body}");
    }
    for _ in 0..3 {
        made(&client, &ann, json!({"name": "k", "expires_at": "2100-01-01T00:00:00Z"})).await;
    }
    asked(&client, &ann, json!({"name": "k"})).await.refused(409, "api_key_limit");
}

#[tokio::test]
async fn making_keys_is_paced_for_each_user_by_all_gateways() {
    let upstream = Upstream::start().await;
    let yaml = yaml(&upstream).replace("max_per_user: 3", "max_per_user: 3, made_per_user: 4/1h");
    let gateways = Gateways::start(Deployment::Two, &yaml).await;
    let (one, other) = (gateways.all[0].client(), gateways.all[1].client());
    let (ann, bob) = (one.register("ann@example.org").await, one.register("bob@example.org").await);
    // What is not as it must be costs nothing.
    asked(&one, &ann, json!({"name": ""})).await.refused(422, "validation");
    for client in [&one, &other].repeat(2) {
        let (_, id) = made(client, &ann, json!({"name": "k"})).await;
        revoke(client, &ann, &id).await.expect(204);
        revoke(client, &ann, &id).await.refused(404, "api_key_unknown");
    }
    for client in [&one, &other] {
        let refused = asked(client, &ann, json!({"name": "k"})).await;
        refused.refused(429, "calls_paced");
        assert_eq!(refused.header("retry-after"), Some("900"));
    }
    made(&other, &bob, json!({"name": "k"})).await;
    assert!(gateways.metric("portcullis_paced_calls_total{call=\"api_key\",result=\"refused\"}").await >= 2.0);
    gateways.clock.advance(Duration::from_mins(15));
    let ann = one.login("ann@example.org").await;
    made(&one, &ann, json!({"name": "k"})).await;
}

#[tokio::test]
async fn a_key_lives_no_longer_than_it_may() {
    let upstream = Upstream::start().await;
    let yaml = yaml(&upstream).replace("max_per_user: 3", "max_per_user: 3, max_life: 1h");
    let gateway = Setup::new(Engine::Sqlite, &yaml).start().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    asked(&client, &ann, json!({"name": "k", "expires_in": 3_601})).await.refused(422, "validation");
    let (short, _) = made(&client, &ann, json!({"name": "short", "expires_in": 30})).await;
    let (long, _) = made(&client, &ann, json!({"name": "as long as may be"})).await;
    by_header(&client, "/keys/a", &short).await.expect(200);
    gateway.clock.advance(Duration::from_secs(29));
    by_header(&client, "/keys/a", &short).await.expect(200);
    // Remembered from before: its end is looked at on each use.
    gateway.clock.advance(Duration::from_secs(1));
    by_header(&client, "/keys/a", &short).await.refused(401, "invalid_token");
    gateway.clock.advance(Duration::from_secs(3_569));
    by_header(&client, "/keys/a", &long).await.expect(200);
    gateway.clock.advance(Duration::from_secs(1));
    by_header(&client, "/keys/a", &long).await.refused(401, "invalid_token");
}

async fn roles_become(gateway: &Gateway, owner: &Tokens, roles: &[&str]) {
    let roles: Vec<_> = roles.iter().map(|role| (*role).to_owned()).collect();
    let told = AuditEntry::unasked(AuditEvent::AuthorizationChanged, BEGIN, Actor::Cli);
    let owner = owner.user["id"].as_str().unwrap().parse().unwrap();
    gateway.store().await.change_authorization(owner, &roles, None, &told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_worth_what_its_owner_is_now_and_no_more_than_it_says() {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(Deployment::Two, &yaml(&upstream)).await;
    let (one, other) = (gateways.all[0].client(), gateways.all[1].client());
    let ann = one.register("ann@example.org").await;
    roles_become(&gateways.all[0], &ann, &["admin", "user"]).await;
    let (all, _) = made(&one, &ann, json!({"name": "all"})).await;
    let (less, _) = made(&one, &ann, json!({"name": "less", "roles": ["user"]})).await;
    for client in [&one, &other] {
        by_header(client, "/admins/a", &all).await.expect(200);
        by_header(client, "/users/a", &less).await.expect(200);
        by_header(client, "/admins/a", &less).await.refused(403, "role_missing");
    }
    roles_become(&gateways.all[0], &ann, &["user"]).await;
    gateways.know_what_was_told().await;
    for client in [&one, &other] {
        by_header(client, "/admins/a", &all).await.refused(403, "role_missing");
        by_header(client, "/users/a", &all).await.expect(200);
    }
    // What is taken away of a limited key does not make it unlimited; what is given makes it no more than it says.
    roles_become(&gateways.all[0], &ann, &["admin"]).await;
    gateways.know_what_was_told().await;
    for client in [&one, &other] {
        by_header(client, "/admins/a", &less).await.refused(403, "role_missing");
        by_header(client, "/users/a", &less).await.refused(403, "role_missing");
        by_header(client, "/admins/a", &all).await.expect(200);
    }
}

#[tokio::test]
async fn a_route_s_scopes_are_the_key_s_to_have() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (reads, _) = made(&client, &ann, json!({"name": "reads", "scopes": ["docs:write", "docs:read"]})).await;
    let (writes, _) = made(&client, &ann, json!({"name": "writes", "scopes": ["docs:write"]})).await;
    let plain = key(&client, &ann).await;
    by_header(&client, "/reads/a", &reads).await.expect(200);
    by_header(&client, "/reads/a", &writes).await.refused(403, "scope_missing");
    by_header(&client, "/reads/a", &plain).await.refused(403, "scope_missing");
    // Audited as its owner's, with the key.
    let user = ann.user["id"].as_str().unwrap().parse().unwrap();
    let denied = async {
        loop {
            let rows = gateway.store().await.audit_of(user, 100).await.unwrap();
            let denied: Vec<_> = rows.into_iter().filter(|row| row.event == AuditEvent::PermissionDenied).collect();
            if let Some(row) = denied.into_iter().next() {
                return row;
            }
        }
    };
    let row = soon("the refusal to be audited", denied).await;
    assert!(row.detail.as_deref().unwrap().contains("\"api_key\":"), "{row:?}");
    assert_eq!(row.actor.unwrap(), format!("user:{user}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_at_every_gateway_and_its_streams_end() {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(Deployment::Two, &yaml(&upstream)).await;
    let (one, other) = (gateways.all[0].client(), gateways.all[1].client());
    let ann = one.register("ann@example.org").await;
    let (key, id) = made(&one, &ann, json!({"name": "k"})).await;
    let kept = self::key(&one, &ann).await;
    upstream.hold("/keys/stream");
    let mut streams = Vec::new();
    for client in [&one, &other] {
        by_header(client, "/keys/a", &key).await.expect(200);
        let call = client.get("/keys/stream").header("x-api-key", &key);
        let begin = async {
            let mut held = upstream.held().await;
            held.begin(200, &[("content-type", "text/event-stream")]).await;
            held.chunk("data: 1\n\n").await;
            held
        };
        let (mut stream, held) = tokio::join!(call.open(), begin);
        assert_eq!(stream.chunk().await.unwrap().as_deref(), Some("data: 1\n\n"));
        streams.push((stream, held));
    }
    revoke(&one, &ann, &id).await.expect(204);
    // Here at once, elsewhere as soon as it is read.
    by_header(&one, "/keys/a", &key).await.refused(401, "invalid_token");
    soon("the other to refuse it", async { while by_header(&other, "/keys/a", &key).await.status != 401 {} }).await;
    for (stream, _held) in &mut streams {
        let end = "event: portcullis.end\ndata: {\"reason\":\"api_key_revoked\"}\n\n";
        assert_eq!(stream.chunk().await.unwrap().as_deref(), Some(end));
        assert_eq!(stream.chunk().await, Ok(None));
    }
    for client in [&one, &other] {
        by_header(client, "/keys/a", &kept).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_store_lost_a_known_key_goes_on_and_an_unknown_one_is_503() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let database = cluster.create_database();
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3, timeout: 500ms}\n";
    let yaml = store.to_owned() + &yaml(&upstream);
    let gateway = Setup::new(Engine::Sqlite, &yaml).on(&database.url).start().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (known, unknown) = (key(&client, &ann).await, key(&client, &ann).await);
    let (revoked, id) = made(&client, &ann, json!({"name": "gone"})).await;
    by_header(&client, "/keys/a", &known).await.expect(200);
    by_header(&client, "/keys/a", &revoked).await.expect(200);
    revoke(&client, &ann, &id).await.expect(204);

    cluster.stop();
    by_header(&client, "/keys/a", &known).await.expect(200);
    let answer = by_header(&client, "/keys/a", &unknown).await;
    answer.refused(503, "store_unavailable");
    assert!(answer.header("retry-after").is_some());
    by_header(&client, "/keys/a", &revoked).await.refused(401, "invalid_token");
    // What was never issued is told without the store.
    by_header(&client, "/keys/a", &altered(&known)).await.refused(401, "invalid_token");
    // A look-up is due, and cannot be.
    gateway.clock.advance(Duration::from_secs(90));
    by_header(&client, "/keys/a", &known).await.expect(200);
    gateway.clock.advance(Duration::from_mins(4));
    soon("a reading to fail", async { while by_header(&client, "/keys/a", &known).await.status != 503 {} }).await;
    by_header(&client, "/keys/a", &known).await.refused(503, "revocations_stale");

    cluster.start();
    soon("the store to be read", async { while by_header(&client, "/keys/a", &known).await.status != 200 {} }).await;
    by_header(&client, "/keys/a", &unknown).await.expect(200);
    by_header(&client, "/keys/a", &revoked).await.refused(401, "invalid_token");
}

/// The same with another character in its secret.
pub(crate) fn altered(key: &str) -> String {
    let other = if key.as_bytes()[50] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &key[..50], &key[51..])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deactivated_owner_s_keys_are_refused_within_a_minute() {
    let upstream = Upstream::start().await;
    let database = cluster().create_database();
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3}\n";
    let gateway = Setup::new(Engine::Sqlite, &(store.to_owned() + &yaml(&upstream))).on(&database.url).start().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let key = key(&client, &ann).await;
    by_header(&client, "/keys/a", &key).await.expect(200);
    let mut hand = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql("UPDATE users SET active = false").execute(&mut hand).await.unwrap();
    gateway.clock.advance(Duration::from_secs(61));
    by_header(&client, "/keys/a", &key).await.refused(401, "invalid_token");
    sqlx::raw_sql("UPDATE users SET active = true").execute(&mut hand).await.unwrap();
    gateway.clock.advance(Duration::from_secs(11));
    by_header(&client, "/keys/a", &key).await.expect(200);
}
