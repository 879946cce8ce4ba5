//! The main job, end to end, on both stores: a person registers, logs in and asks a service; the service knows who
//! asked because it verified a signature; a wrong token gets nowhere.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    client::{Answer, Client, PASSWORD, Tokens},
    gateway::{Engine, Gateway, ISSUER},
    identity,
    tokens::claims_of,
    upstream::Upstream,
};

on_both_stores!(
    a_person_registers_logs_in_asks_and_leaves,
    the_service_verifies_who_asked,
    an_anonymous_caller_is_told_apart_by_signature_too,
    a_wrong_token_gets_nowhere,
    a_repeat_within_the_grace_gets_the_same_successor,
    reuse_after_the_grace_ends_the_session_and_its_newest_token_at_once,
    twenty_refreshes_at_once_yield_one_successor,
    an_idle_session_cannot_be_refreshed,
    an_access_token_ends_with_its_time,
    leaving_everywhere_ends_every_session_of_the_user_and_nobody_elses,
    leaving_works_with_an_expired_token_by_the_refresh_token,
    a_restart_keeps_users_keys_and_ended_sessions,
    a_cookie_session_never_shows_its_refresh_token,
    a_cookie_from_another_site_is_refused,
    every_failed_login_looks_the_same,
    an_address_registers_once_whatever_its_case,
    a_profile_is_changed_by_its_owner,
);

async fn a_person_registers_logs_in_asks_and_leaves(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
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
    client.get("/ask/question").bearer(&session.access).send().await.refused(401, "invalid_token");
    client.refresh(&session.refresh).await.refused(400, "invalid_grant");
    assert_eq!(client.status("/ask/x", &registered.access).await, 200, "the other session goes on");
    assert_eq!(upstream.received().len(), 2);
}

async fn the_service_verifies_who_asked(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
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

async fn an_anonymous_caller_is_told_apart_by_signature_too(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
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

async fn a_wrong_token_gets_nowhere(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    client.get("/ask/a").send().await.refused(401, "credentials_missing");
    let cut = &session.access[..session.access.len() - 8];
    for wrong in ["x", cut, &session.refresh] {
        for path in ["/ask/a", "/maybe/a", "/auth/me"] {
            client.get(path).bearer(wrong).send().await.refused(401, "invalid_token");
        }
    }
    client.get("/ask/a").header("authorization", "Basic YTpi").send().await.refused(401, "credentials_malformed");
    client.get("/nowhere").bearer(&session.access).send().await.refused(404, "no_route");
    upstream.assert_untouched();
}

/// The pair of an answer to a refresh, which must have succeeded.
fn pair(client: &Client, answer: Answer) -> Tokens {
    client.tokens(&answer.expect(200))
}

async fn a_repeat_within_the_grace_gets_the_same_successor(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let second = pair(&client, client.refresh(&first.refresh).await);
    assert_ne!(second.refresh, first.refresh);
    assert_eq!(claims_of(&second.access)["gen"], 2);

    gateway.clock.advance(Duration::from_secs(9));
    let repeated = pair(&client, client.refresh(&first.refresh).await);
    assert_eq!(repeated.refresh, second.refresh);
    assert_eq!(claims_of(&repeated.access)["gen"], 2);

    let third = pair(&client, client.refresh(&second.refresh).await);
    assert_eq!(claims_of(&third.access)["gen"], 3);
    for session in [first, second, third] {
        assert_eq!(client.status("/ask/a", &session.access).await, 200);
    }
}

async fn reuse_after_the_grace_ends_the_session_and_its_newest_token_at_once(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let second = pair(&client, client.refresh(&first.refresh).await);
    let third = pair(&client, client.refresh(&second.refresh).await);
    gateway.clock.advance(Duration::from_secs(11));
    // Used, so that it lies in the cache of verified tokens when its session is killed.
    assert_eq!(client.status("/ask/a", &third.access).await, 200);

    let before = upstream.received().len();
    client.refresh(&first.refresh).await.refused(400, "invalid_grant");
    for session in [&first, &second, &third] {
        client.get("/ask/a").bearer(&session.access).send().await.refused(401, "invalid_token");
        client.refresh(&session.refresh).await.refused(400, "invalid_grant");
    }
    assert_eq!(upstream.received().len(), before);
    client.login("ann@example.org").await;

    let user = first.user["id"].as_str().unwrap().parse().unwrap();
    let events = gateway.store().await.audit_of(user, 100).await.unwrap();
    let events: Vec<_> = events.iter().map(|row| row.event.as_str()).collect();
    assert_eq!(events.iter().filter(|event| **event == "refresh_reuse_detected").count(), 1, "{events:?}");
}

async fn twenty_refreshes_at_once_yield_one_successor(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let calls = (0..20).map(|_| client.refresh(&first.refresh));
    let answers = futures_util::future::join_all(calls).await;
    let successors: Vec<_> = answers.into_iter().map(|answer| pair(&client, answer)).collect();
    for successor in &successors {
        assert_eq!(successor.refresh, successors[0].refresh);
        assert_eq!(claims_of(&successor.access)["gen"], 2);
    }
    let next = pair(&client, client.refresh(&successors[0].refresh).await);
    assert_eq!(claims_of(&next.access)["gen"], 3);
}

async fn an_idle_session_cannot_be_refreshed(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let second_less = Duration::from_secs(7 * 86_400 - 1);
    let first = client.register("ann@example.org").await;
    gateway.clock.advance(second_less);
    let second = pair(&client, client.refresh(&first.refresh).await);
    gateway.clock.advance(second_less + Duration::from_secs(2));
    client.refresh(&second.refresh).await.refused(400, "invalid_grant");

    // Used every day, a session still ends thirty days after its login.
    let mut session = client.login("ann@example.org").await;
    for _ in 0..29 {
        gateway.clock.advance(Duration::from_hours(24));
        session = pair(&client, client.refresh(&session.refresh).await);
    }
    gateway.clock.advance(Duration::from_hours(24) + Duration::from_secs(1));
    client.refresh(&session.refresh).await.refused(400, "invalid_grant");
}

async fn an_access_token_ends_with_its_time(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    // A quarter of an hour, and half a minute forgiven.
    gateway.clock.advance(Duration::from_secs(900 + 29));
    assert_eq!(client.status("/ask/a", &session.access).await, 200);
    gateway.clock.advance(Duration::from_secs(1));
    client.get("/ask/a").bearer(&session.access).send().await.refused(401, "invalid_token");
    let next = pair(&client, client.refresh(&session.refresh).await);
    assert_eq!(client.status("/ask/a", &next.access).await, 200);
}

async fn leaving_everywhere_ends_every_session_of_the_user_and_nobody_elses(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let (laptop, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let phone = client.login("ann@example.org").await;
    for session in [&laptop, &phone, &bob] {
        assert_eq!(client.status("/ask/a", &session.access).await, 200);
    }
    client.post("/auth/logout").bearer(&phone.access).json(&json!({"all": true})).send().await.expect(204);
    for session in [&laptop, &phone] {
        assert_eq!(client.status("/ask/a", &session.access).await, 401);
        client.refresh(&session.refresh).await.refused(400, "invalid_grant");
    }
    assert_eq!(client.status("/ask/a", &bob.access).await, 200);
}

async fn leaving_works_with_an_expired_token_by_the_refresh_token(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    gateway.clock.advance(Duration::from_hours(1));
    let leave = client.post("/auth/logout").bearer(&session.access);
    leave.json(&json!({"refresh_token": session.refresh})).send().await.expect(204);
    client.refresh(&session.refresh).await.refused(400, "invalid_grant");
    client.post("/auth/logout").send().await.refused(401, "credentials_missing");
}

async fn a_restart_keeps_users_keys_and_ended_sessions(engine: Engine) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateway::standard(engine, &upstream).await;
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
    let next = pair(&client, client.refresh(&kept.refresh).await);
    assert_eq!(client.status("/ask/a", &next.access).await, 200);
    assert_eq!(client.login("ann@example.org").await.user["id"], kept.user["id"]);
}

const COOKIE: &str = "__Secure-portcullis-refresh";

/// The refresh cookie's value, and that it is set with every guard.
fn cookie(answer: &Answer) -> String {
    let line = answer.header("set-cookie").expect("a cookie");
    for guard in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/auth"] {
        assert!(line.split("; ").any(|part| part == guard), "{guard} in {line}");
    }
    let value = line.split(';').next().unwrap().strip_prefix(&format!("{COOKIE}=")).unwrap();
    value.to_owned()
}

async fn a_cookie_session_never_shows_its_refresh_token(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": "cookie"});
    let registered = client.post("/auth/register").json(&body).send().await.expect(201);
    let token = cookie(&registered);
    assert!(!registered.text().contains(&token) && registered.json().get("refresh_token").is_none());

    let call = client.post("/auth/refresh").header("cookie", &format!("a=b; {COOKIE}={token}; c=d"));
    let refreshed = call.header("sec-fetch-site", "same-origin").send().await.expect(200);
    let next = cookie(&refreshed);
    assert_ne!(next, token);
    assert!(refreshed.json().get("refresh_token").is_none());

    // Whoever took the token out of the cookie and sends it in a body still gets none in a body.
    let in_body = client.refresh(&next).await.expect(200);
    let last = cookie(&in_body);
    assert!(!in_body.text().contains(&last) && in_body.json().get("refresh_token").is_none());

    // The cookie is ours: no upstream sees it.
    let access = client.tokens(&in_body).access;
    let asked = client.get("/ask/a").bearer(&access).header("cookie", &format!("theme=dark; {COOKIE}={last}"));
    asked.send().await.expect(200);
    assert_eq!(upstream.last().head.header("cookie"), Some("theme=dark"));

    let leave = client.post("/auth/logout").header("cookie", &format!("{COOKIE}={last}"));
    let left = leave.header("origin", ISSUER).send().await.expect(204);
    assert!(left.header("set-cookie").unwrap().starts_with(&format!("{COOKIE}=; Max-Age=0")));
    client.get("/ask/a").bearer(&access).send().await.refused(401, "invalid_token");
}

async fn a_cookie_from_another_site_is_refused(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": "cookie"});
    let token = cookie(&client.post("/auth/register").json(&body).send().await.expect(201));
    client.plant(&token);
    let refresh = || client.post("/auth/refresh").header("cookie", &format!("{COOKIE}={token}"));
    refresh().header("sec-fetch-site", "cross-site").send().await.refused(403, "cross_site");
    refresh().header("sec-fetch-site", "same-site").send().await.refused(403, "cross_site");
    refresh().header("origin", "https://evil.example").send().await.refused(403, "cross_site");
    refresh().header("origin", "null").send().await.refused(403, "cross_site");
    refresh().send().await.refused(403, "cross_site");
    refresh().header("origin", ISSUER).send().await.expect(200);
}

async fn every_failed_login_looks_the_same(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
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

async fn an_address_registers_once_whatever_its_case(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    let body = json!({"email": "ANN@Example.ORG", "password": PASSWORD});
    for path in ["/auth/register", "/auth/signup"] {
        client.post(path).json(&body).send().await.refused(409, "account_exists");
    }
}

async fn a_profile_is_changed_by_its_owner(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(engine, &upstream).await;
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
