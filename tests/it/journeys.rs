//! The main job, end to end, on one gateway with either store and on two that share one: a person registers, logs in
//! and asks a service; the service knows who asked because it verified a signature; a wrong token gets nowhere.

use std::time::Duration;

use portcullis::store::Login;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::harness::{
    client::{Client, PASSWORD},
    gateway::{Engine, Gateway, ISSUER, Setup, standard},
    gateways::{Deployment, Gateways},
    identity, soon,
    tokens::claims_of,
    upstream::Upstream,
};

on_every_deployment!(
    a_person_registers_logs_in_asks_and_leaves,
    the_service_verifies_who_asked,
    an_anonymous_caller_is_told_apart_by_signature_too,
    a_wrong_token_gets_nowhere,
    another_algorithm_has_a_key_of_its_own_and_both_are_published,
    keys_of_the_other_algorithms_do_the_same,
    a_restart_keeps_users_keys_and_ended_sessions,
    tokens_made_shorter_bring_none_back_whose_session_has_ended,
    every_failed_login_looks_the_same,
    an_address_registers_once_whatever_its_case,
    a_profile_is_changed_by_its_owner,
    what_looks_like_sql_is_text,
    a_login_upgrades_a_hash_that_is_weaker_than_the_configured_ones,
);

async fn a_person_registers_logs_in_asks_and_leaves(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();

    let registered = client.register("ann@example.org").await;
    assert_eq!(registered.user["email"], "ann@example.org");
    assert_eq!(registered.user["role"], "user");
    let session = client.login("Ann@Example.org").await;
    assert_eq!(session.user["id"], registered.user["id"]);

    let answer = client.get("/ask/question?q=why").bearer(&session.access).send().await.expect(200);
    assert_eq!(answer.text(), "from the upstream");
    assert_eq!(upstream.last().target(), "/ask/question?q=why");

    let me = client.get("/auth/me").bearer(&session.access).send().await.expect(200).json();
    assert_eq!(me["id"], session.user["id"]);
    let verified = client.post("/auth/verify").bearer(&session.access).send().await.expect(200).json();
    assert_eq!(verified["sub"], session.user["id"]);
    assert_eq!(verified["active"], true);

    client.post("/auth/logout").bearer(&session.access).send().await.expect(204);
    gateway.know_what_ended().await;
    client.get("/ask/question").bearer(&session.access).send().await.refused(401, "invalid_token");
    client.refresh(&session.refresh).await.refused(400, "invalid_grant");
    assert_eq!(client.status("/ask/x", &registered.access).await, 200, "the other session goes on");
    assert_eq!(upstream.received().len(), 2);
}

async fn the_service_verifies_who_asked(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    client.get("/ask/question").bearer(&session.access).send().await.expect(200);

    let received = upstream.last().head;
    let token = received.header("x-gateway-identity").expect("an identity");
    let claims = identity::verify(&client, token, ISSUER, "rag").await.unwrap();
    assert_eq!(claims["sub"], session.user["id"]);
    assert_eq!(claims["sid"], claims_of(&session.access)["sid"]);
    assert_eq!(claims["roles"], json!(["user"]));
    assert_eq!(claims["email"], "ann@example.org");
    assert_eq!(claims["email_verified"], false);
    assert_eq!(claims["amr"], json!(["pwd"]));
    assert!(claims["auth_time"].is_i64(), "{claims}");
    assert_eq!(received.header("x-user-id"), session.user["id"].as_str());
    assert_eq!(received.header("x-user-roles"), Some("user"));
    assert_eq!(received.header("x-user-email"), None, "the address is not verified");
    assert_eq!(received.header("authorization"), None);

    // Meant for this service only, and of no use as an access token.
    assert!(identity::verify(&client, token, ISSUER, "other").await.is_err());
    client.get("/ask/question").bearer(token).send().await.refused(401, "invalid_token");
    // One changed letter, and the service would not believe it.
    let forged = format!("{}A{}", &token[..token.len() / 2], &token[token.len() / 2 + 1..]);
    assert!(identity::verify(&client, &forged, ISSUER, "rag").await.is_err());
}

async fn an_anonymous_caller_is_told_apart_by_signature_too(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    for path in ["/open/a", "/maybe/a"] {
        client.get(path).send().await.expect(200);
        let received = upstream.last().head;
        let token = received.header("x-gateway-identity").expect("an identity");
        let claims = identity::verify(&client, token, ISSUER, "rag").await.unwrap();
        assert_eq!(claims["anonymous"], true);
        assert_eq!(claims.get("sub"), None);
        assert_eq!(received.header("x-user-id"), None);
    }
    let session = client.register("ann@example.org").await;
    client.get("/maybe/a").bearer(&session.access).send().await.expect(200);
    assert_eq!(upstream.last().head.header("x-user-id"), session.user["id"].as_str());
}

async fn a_wrong_token_gets_nowhere(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    client.get("/ask/a").send().await.refused(401, "credentials_missing");
    let cut = &session.access[..session.access.len() - 8];
    for wrong in ["x", cut, &session.refresh] {
        for path in ["/ask/a", "/maybe/a", "/auth/me"] {
            client.get(path).bearer(wrong).send().await.refused(401, "invalid_token");
        }
    }
    client.get("/ask/a").header("authorization", "Basic YTpi").send().await.refused(401, "invalid_token");
    client.get("/nowhere").bearer(&session.access).send().await.refused(404, "no_route");
    upstream.assert_untouched();
}

async fn keys_of_the_other_algorithms_do_the_same(deployment: Deployment) {
    for algorithm in ["EdDSA", "RS256"] {
        let upstream = Upstream::start().await;
        let tokens = format!("tokens: {{issuer: \"{ISSUER}\", audience: gw-test, algorithm: {algorithm}}}\n");
        let gateway = Gateways::start(deployment, &(tokens + &standard(&upstream))).await;
        let client = gateway.client();
        let session = client.register("ann@example.org").await;
        client.get("/ask/question").bearer(&session.access).send().await.expect(200);
        let received = upstream.last().head;
        let identity = received.header("x-gateway-identity").unwrap();
        let claims = identity::verify(&client, identity, ISSUER, "rag").await.unwrap();
        assert_eq!(claims["sub"], session.user["id"], "{algorithm}");
    }
}

async fn another_algorithm_has_a_key_of_its_own_and_both_are_published(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let first = client.get("/.well-known/jwks.json").send().await.expect(200).json();
    let tokens = format!("tokens: {{issuer: \"{ISSUER}\", audience: gw-test, algorithm: RS256}}\n");
    for _ in 0..2 {
        gateway.restart_with(&(tokens.clone() + &standard(&upstream))).await;
        let client = gateway.client();
        // Its key verifies other things still, access tokens no longer.
        client.get("/ask/a").bearer(&ann.access).send().await.refused(401, "invalid_token");
        let rsa = client.login("ann@example.org").await;
        assert_eq!(client.status("/ask/a", &rsa.access).await, 200);
        let published = client.get("/.well-known/jwks.json").send().await.expect(200).json();
        let algorithms: Vec<_> = published["keys"].as_array().unwrap().iter().map(|key| &key["alg"]).collect();
        assert_eq!(algorithms, ["RS256", "ES256"]);
        assert_eq!(published["keys"][1], first["keys"][0]);
    }
    gateway.restart_with(&standard(&upstream)).await;
    assert_eq!(gateway.client().status("/ask/a", &ann.access).await, 200, "its key is the one it was");
}

async fn a_restart_keeps_users_keys_and_ended_sessions(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let (kept, ended) = (client.register("ann@example.org").await, client.login("ann@example.org").await);
    client.post("/auth/logout").bearer(&ended.access).send().await.expect(204);
    let keys = client.get("/.well-known/jwks.json").send().await.expect(200).json();

    gateway.restart().await;
    let client = gateway.client();
    assert_eq!(client.get("/.well-known/jwks.json").send().await.expect(200).json(), keys);
    assert_eq!(client.status("/ask/a", &kept.access).await, 200);
    client.get("/ask/a").bearer(&ended.access).send().await.refused(401, "invalid_token");
    client.refresh(&ended.refresh).await.refused(400, "invalid_grant");
    let next = client.refreshed(&kept.refresh).await;
    assert_eq!(client.status("/ask/a", &next.access).await, 200);
    assert_eq!(client.login("ann@example.org").await.user["id"], kept.user["id"]);
}

async fn tokens_made_shorter_bring_none_back_whose_session_has_ended(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let lasting = |life: &str| {
        let tokens = format!("tokens: {{issuer: \"{ISSUER}\", audience: gw-test, access_ttl: {life}}}\n");
        tokens + &standard(&upstream)
    };
    let mut gateway = Gateways::start(deployment, &lasting("1h")).await;
    let client = gateway.client();
    let (kept, ended) = (client.register("ann@example.org").await, client.login("ann@example.org").await);
    client.post("/auth/logout").bearer(&ended.access).send().await.expect(204);

    // Longer ago than a token lives now, but not longer than this one says of itself.
    gateway.clock.advance(Duration::from_mins(20));
    gateway.restart_with(&lasting("5m")).await;
    let client = gateway.client();
    client.get("/ask/a").bearer(&ended.access).send().await.refused(401, "invalid_token");
    client.get("/ask/a").bearer(&kept.access).send().await.refused(401, "invalid_token");
    let next = client.refreshed(&kept.refresh).await;
    assert_eq!(client.status("/ask/a", &next.access).await, 200, "its session goes on");
}

async fn every_failed_login_looks_the_same(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    let mut bodies = Vec::new();
    for (email, password) in [
        ("ann@example.org", "another-Long-passphrase-77"),
        ("nobody@example.org", PASSWORD),
        ("not an address", PASSWORD),
        ("ann@example.org", ""),
    ] {
        let attempt = client.post("/auth/login").json(&json!({"email": email, "password": password}));
        let answer = attempt.send().await;
        answer.refused(401, "login_failed");
        let mut body = answer.json();
        body["request_id"] = json!("");
        body["instance"] = json!("");
        bodies.push((body, answer.header("www-authenticate").map(str::to_owned)));
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
}

async fn a_login_upgrades_a_hash_that_is_weaker_than_the_configured_ones(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateways::standard(deployment, &upstream).await;
    gateway.client().register("ann@example.org").await;
    let costs = async |gateway: &Gateways| {
        let found = gateway.store().await.find_login(&Login::Email("ann@example.org".into())).await.unwrap().unwrap();
        found.1.expose_secret().split('$').nth(3).unwrap().to_owned()
    };
    assert_eq!(costs(&gateway).await, "m=19456,t=2,p=1");

    let stronger = "passwords: {hash_threads: 1, argon2: {memory: 20MiB, iterations: 3}}\n";
    gateway.restart_with(&format!("{stronger}{}", standard(&upstream))).await;
    let client = gateway.client();
    let wrong = json!({"email": "ann@example.org", "password": "another-Long-passphrase-77"});
    client.post("/auth/login").json(&wrong).send().await.refused(401, "login_failed");
    assert_eq!(costs(&gateway).await, "m=19456,t=2,p=1");
    client.login("ann@example.org").await;
    let upgraded = async { while costs(&gateway).await != "m=20480,t=3,p=1" {} };
    soon("the hash to be upgraded", upgraded).await;
    client.login("ann@example.org").await;
    client.post("/auth/login").json(&wrong).send().await.refused(401, "login_failed");
}

async fn an_address_registers_once_whatever_its_case(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    let body = json!({"email": "ANN@Example.ORG", "password": PASSWORD});
    for path in ["/auth/register", "/auth/signup"] {
        client.post(path).json(&body).send().await.refused(409, "account_exists");
    }
}

async fn a_profile_is_changed_by_its_owner(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    let change = |body| client.call("PATCH", "/auth/me").bearer(&session.access).json(&body);
    let changed = change(json!({"full_name": "Ann Li", "username": "ann"})).send().await.expect(200).json();
    assert_eq!((&changed["full_name"], &changed["username"]), (&json!("Ann Li"), &json!("ann")));
    let cleared = change(json!({"full_name": null})).send().await.expect(200).json();
    assert_eq!((&cleared["full_name"], &cleared["username"]), (&json!(null), &json!("ann")));
    change(json!({"role": "admin"})).send().await.refused(422, "validation");
    change(json!({"email": "eve@example.org"})).send().await.refused(422, "validation");

    let by_name = client.post("/auth/login").json(&json!({"username": "ANN", "password": PASSWORD})).send().await;
    assert_eq!(by_name.expect(200).json()["user"]["id"], session.user["id"]);
}

async fn what_looks_like_sql_is_text(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let name = "Robert'); DELETE FROM users; -- $1 \"?\" \\";
    let body = json!({"email": "o'hara@example.org", "password": PASSWORD, "full_name": name});
    let sent = client.post("/auth/register").header("user-agent", name).json(&body).send().await;
    let ann = client.tokens(&sent.expect(201));
    let me = client.get("/auth/me").bearer(&ann.access).send().await.expect(200).json();
    assert_eq!((&me["full_name"], &me["email"]), (&json!(name), &json!("o'hara@example.org")));
    for login in ["' OR '1'='1", "o'hara@example.org' --", "%@example.org", "o_hara@example.org", "*"] {
        for member in ["email", "username"] {
            let attempt = client.post("/auth/login").json(&json!({member: login, "password": PASSWORD}));
            attempt.send().await.refused(401, "login_failed");
        }
    }
    assert_eq!(client.login("O'Hara@example.org").await.user["id"], ann.user["id"]);
}

const KNOWN: &str = "portcullis_revocations{kind=\"session\"}";

/// One that does not take turns.
fn each(gateways: &Gateways) -> [Client; 2] {
    [gateways.all[0].client(), gateways.all[1].client()]
}

// The others pass on two gateways whichever answers; these say which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_gateway_ends_the_other_refuses() {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(Deployment::Two, &upstream).await;
    let [one, other] = each(&gateways);
    let registered = one.register("ann@example.org").await;
    let session = other.login("ann@example.org").await;
    for client in [&one, &other] {
        for access in [&registered.access, &session.access] {
            assert_eq!(client.status("/ask/a", access).await, 200);
        }
    }
    let next = one.refreshed(&session.refresh).await;
    let last = other.refreshed(&next.refresh).await;
    assert_eq!(claims_of(&last.access)["gen"], 3);
    assert_eq!(other.status("/ask/a", &last.access).await, 200);

    // Seen at the other, so that it lies among the verified tokens there when it ends here.
    one.post("/auth/logout").bearer(&last.access).send().await.expect(204);
    one.get("/ask/a").bearer(&last.access).send().await.refused(401, "invalid_token");
    gateways.know_what_ended().await;
    for access in [&session.access, &next.access, &last.access] {
        other.get("/ask/a").bearer(access).send().await.refused(401, "invalid_token");
        other.get("/auth/me").bearer(access).send().await.refused(401, "invalid_token");
    }
    for client in [&one, &other] {
        assert_eq!(client.status("/ask/a", &registered.access).await, 200, "the other session goes on");
    }
    assert!(gateways.metric(KNOWN).await > 1.5, "known at both");
    let counted = "portcullis_shared_state_calls_total{kind=\"charge\",result=\"answered\"}";
    for gateway in &gateways.all {
        assert!(gateway.metric(counted).await > 0.5, "each asked Redis");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reuse_at_one_gateway_kills_at_the_other() {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(Deployment::Two, &upstream).await;
    let [one, other] = each(&gateways);
    let first = one.register("ann@example.org").await;
    let second = other.refreshed(&first.refresh).await;
    let third = one.refreshed(&second.refresh).await;
    gateways.clock.advance(Duration::from_secs(11));
    for client in [&one, &other] {
        assert_eq!(client.status("/ask/a", &third.access).await, 200);
    }
    other.refresh(&first.refresh).await.refused(400, "invalid_grant");
    other.get("/ask/a").bearer(&third.access).send().await.refused(401, "invalid_token");
    gateways.know_what_ended().await;
    one.get("/ask/a").bearer(&third.access).send().await.refused(401, "invalid_token");
    one.refresh(&third.refresh).await.refused(400, "invalid_grant");
}

fn on_postgres_yaml(upstream: &Upstream) -> String {
    format!("store: {{url: \"${{STORE_URL}}\", master_key: \"${{MASTER_KEY}}\", pool: 3}}\n{}", standard(upstream))
}

// One file, one gateway: the store of two is PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_that_start_at_once_share_one_key() {
    let upstream = Upstream::start().await;
    let url = crate::support::postgres::cluster().create_database().url;
    let start = || Setup::new(Engine::Sqlite, &on_postgres_yaml(&upstream)).on(&url).start();
    let (one, two) = tokio::join!(start(), start());
    let keys = async |gateway: &Gateway| gateway.client().get("/.well-known/jwks.json").send().await.expect(200).json();
    assert_eq!(keys(&one).await, keys(&two).await);
    let ann = one.client().register("ann@example.org").await;
    assert_eq!(two.client().status("/ask/a", &ann.access).await, 200);
    let next = two.client().refreshed(&ann.refresh).await;
    assert_eq!(one.client().status("/ask/a", &next.access).await, 200);
}

#[tokio::test]
async fn access_tokens_can_be_signed_with_a_secret_and_identities_stay_verifiable() {
    let upstream = Upstream::start().await;
    let yaml = standard(&upstream)
        + &format!(
            "tokens: {{issuer: \"{ISSUER}\", audience: gw-test, algorithm: HS256, secret: {{env: TOKEN_SECRET}}}}\n"
        );
    let secret = "a secret of thirty-two bytes or so";
    let mut gateway = Setup::new(Engine::Sqlite, &yaml).variable("TOKEN_SECRET", secret).start().await;
    let client = gateway.client();
    client.plant(secret);
    let tokens = client.register("ann@example.org").await;
    // As anybody who shares the secret verifies it.
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    rules.set_audience(&["gw-test"]);
    rules.validate_exp = false;
    let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
    let claims = jsonwebtoken::decode::<serde_json::Value>(&tokens.access, &key, &rules).unwrap().claims;
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(client.status("/ask/a", &tokens.access).await, 200);
    let received = upstream.last();
    identity::verify(&client, received.head.header("x-gateway-identity").unwrap(), ISSUER, "rag").await.unwrap();
    let published = client.get("/.well-known/jwks.json").send().await.expect(200).json();
    assert_eq!(published["keys"].as_array().map(Vec::len), Some(1), "{published}");
    assert_eq!(published["keys"][0]["kty"], "EC", "{published}");
    // Without the secret its tokens are nobody's; the session goes on.
    gateway.restart_with(&standard(&upstream)).await;
    let client = gateway.client();
    client.get("/ask/a").bearer(&tokens.access).send().await.refused(401, "invalid_token");
    assert_eq!(client.status("/ask/a", &client.refreshed(&tokens.refresh).await.access).await, 200);
}
