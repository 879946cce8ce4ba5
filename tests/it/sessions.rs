//! Sessions, on one gateway and on two: rotation, grace and reuse of refresh tokens (RFC 9700 §4.14), cookies, the ways
//! a session ends. The tests are named after the threat or the mishap.

use std::time::Duration;

use portcullis::store::AuditEvent;
use serde_json::json;

use crate::harness::{
    client::{Answer, PASSWORD},
    gateway::{ISSUER, standard},
    gateways::{Deployment, Gateways},
    soon,
    tokens::claims_of,
    upstream::Upstream,
};

on_every_deployment!(
    a_repeat_within_the_grace_gets_the_same_successor,
    reuse_after_the_grace_ends_the_session_and_its_newest_token_at_once,
    reuse_by_a_client_that_hangs_up_ends_the_session_all_the_same,
    twenty_refreshes_at_once_yield_one_successor,
    a_lost_answer_is_repeated_after_the_grace_until_its_token_was_used,
    an_idle_session_cannot_be_refreshed,
    an_access_token_ends_with_its_time,
    leaving_everywhere_ends_every_session_of_the_user_and_nobody_elses,
    leaving_works_with_an_expired_token_by_the_refresh_token,
    a_cookie_session_never_shows_its_refresh_token,
    a_cookie_from_another_site_is_refused,
);

async fn a_repeat_within_the_grace_gets_the_same_successor(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let second = client.refreshed(&first.refresh).await;
    assert_ne!(second.refresh, first.refresh);
    assert_eq!(claims_of(&second.access)["gen"], 2);

    gateway.clock.advance(Duration::from_secs(9));
    let repeated = client.refreshed(&first.refresh).await;
    assert_eq!(repeated.refresh, second.refresh);
    assert_eq!(claims_of(&repeated.access)["gen"], 2);

    let third = client.refreshed(&second.refresh).await;
    assert_eq!(claims_of(&third.access)["gen"], 3);
    for session in [first, second, third] {
        assert_eq!(client.status("/ask/a", &session.access).await, 200);
    }
}

async fn reuse_after_the_grace_ends_the_session_and_its_newest_token_at_once(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let second = client.refreshed(&first.refresh).await;
    let third = client.refreshed(&second.refresh).await;
    gateway.clock.advance(Duration::from_secs(11));
    // Used, so that it lies in the cache of verified tokens when its session is killed.
    assert_eq!(client.status("/ask/a", &third.access).await, 200);

    let before = upstream.received().len();
    client.refresh(&first.refresh).await.refused(400, "invalid_grant");
    gateway.know_what_ended().await;
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

/// On a store in whose way the test can stand for as long as the machine takes.
async fn patient(deployment: Deployment, upstream: &Upstream) -> Gateways {
    let store = deployment.store("pool: 4, timeout: 60s");
    Gateways::start(deployment, &format!("{store}{}", standard(upstream))).await
}

/// Waits until a gauge is what it should be.
async fn until(what: &str, gateway: &Gateways, gauge: &str, fits: impl Fn(f64) -> bool) {
    let reached = async {
        while !fits(gateway.metric(gauge).await) {
            tokio::task::yield_now().await;
        }
    };
    soon(what, reached).await;
}

async fn reuse_by_a_client_that_hangs_up_ends_the_session_all_the_same(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = patient(deployment, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let second = client.refreshed(&first.refresh).await;
    let third = client.refreshed(&second.refresh).await;
    gateway.clock.advance(Duration::from_secs(11));

    let mut in_the_way = gateway.in_the_way_of_writes().await;
    let body = json!({"refresh_token": first.refresh}).to_string();
    let mut thief = gateway.raw().await;
    let head = "POST /auth/refresh HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\n";
    thief.send(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    in_the_way.until_somebody_waits(&gateway.all[0]).await;
    drop(thief);
    until("the request to be given up", &gateway, "portcullis_requests_in_flight", |flying| flying < 0.5).await;
    drop(in_the_way);

    // Never used here until now: nothing but the kill can refuse it.
    let refused = async { while client.status("/ask/a", &third.access).await != 401 {} };
    soon("the session to end", refused).await;
    gateway.know_what_ended().await;
    client.get("/ask/a").bearer(&third.access).send().await.refused(401, "invalid_token");
    client.refresh(&third.refresh).await.refused(400, "invalid_grant");
    let user = first.user["id"].as_str().unwrap().parse().unwrap();
    let events = gateway.store().await.audit_of(user, 100).await.unwrap();
    let kills = events.iter().filter(|row| row.event == AuditEvent::RefreshReuseDetected).count();
    assert_eq!(kills, 1, "{events:?}");
}

async fn twenty_refreshes_at_once_yield_one_successor(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let calls = (0..20).map(|_| client.refresh(&first.refresh));
    let answers = futures_util::future::join_all(calls).await;
    let successors: Vec<_> = answers.into_iter().map(|answer| client.tokens(&answer.expect(200))).collect();
    for successor in &successors {
        assert_eq!(successor.refresh, successors[0].refresh);
        assert_eq!(claims_of(&successor.access)["gen"], 2);
    }
    let next = client.refreshed(&successors[0].refresh).await;
    assert_eq!(claims_of(&next.access)["gen"], 3);
}

async fn a_lost_answer_is_repeated_after_the_grace_until_its_token_was_used(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let first = client.register("ann@example.org").await;
    let second = client.refreshed(&first.refresh).await;
    gateway.clock.advance(Duration::from_hours(1));
    let repeated = client.refreshed(&first.refresh).await;
    assert_eq!(repeated.refresh, second.refresh, "a client that lost the answer for an hour is not locked out");

    // The first use of the new token is noted behind the request; then whoever shows the old one is a thief, or was
    // robbed.
    client.get("/ask/a").bearer(&repeated.access).send().await.expect(200);
    let store = gateway.store().await;
    let session = claims_of(&repeated.access)["sid"].as_str().unwrap().parse().unwrap();
    soon("the first use to be noted", async {
        while store.session(session).await.unwrap().unwrap().seen_generation < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // But for a grace of its own: a second tab may have asked together with this one.
    gateway.clock.advance(Duration::from_secs(10));
    assert_eq!(client.refreshed(&first.refresh).await.refresh, second.refresh);
    gateway.clock.advance(Duration::from_secs(1));
    client.refresh(&first.refresh).await.refused(400, "invalid_grant");
    gateway.know_what_ended().await;
    client.get("/ask/a").bearer(&repeated.access).send().await.refused(401, "invalid_token");
}

async fn an_idle_session_cannot_be_refreshed(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let second_less = Duration::from_secs(7 * 86_400 - 1);
    let first = client.register("ann@example.org").await;
    gateway.clock.advance(second_less);
    let second = client.refreshed(&first.refresh).await;
    gateway.clock.advance(second_less + Duration::from_secs(2));
    client.refresh(&second.refresh).await.refused(400, "invalid_grant");

    // Used every day, a session still ends thirty days after its login.
    let mut session = client.login("ann@example.org").await;
    for _ in 0..29 {
        gateway.clock.advance(Duration::from_hours(24));
        session = client.refreshed(&session.refresh).await;
    }
    gateway.clock.advance(Duration::from_hours(24) + Duration::from_secs(1));
    client.refresh(&session.refresh).await.refused(400, "invalid_grant");
}

async fn an_access_token_ends_with_its_time(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    // A quarter of an hour, and half a minute forgiven.
    gateway.clock.advance(Duration::from_secs(900 + 29));
    assert_eq!(client.status("/ask/a", &session.access).await, 200);
    gateway.clock.advance(Duration::from_secs(1));
    client.get("/ask/a").bearer(&session.access).send().await.refused(401, "invalid_token");
    let next = client.refreshed(&session.refresh).await;
    assert_eq!(client.status("/ask/a", &next.access).await, 200);
}

async fn leaving_everywhere_ends_every_session_of_the_user_and_nobody_elses(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let (laptop, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let phone = client.login("ann@example.org").await;
    for session in [&laptop, &phone, &bob] {
        assert_eq!(client.status("/ask/a", &session.access).await, 200);
    }
    client.post("/auth/logout").bearer(&phone.access).json(&json!({"all": true})).send().await.expect(204);
    gateway.know_what_ended().await;
    for session in [&laptop, &phone] {
        assert_eq!(client.status("/ask/a", &session.access).await, 401);
        client.refresh(&session.refresh).await.refused(400, "invalid_grant");
    }
    assert_eq!(client.status("/ask/a", &bob.access).await, 200);
}

async fn leaving_works_with_an_expired_token_by_the_refresh_token(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    gateway.clock.advance(Duration::from_hours(1));
    let leave = client.post("/auth/logout").bearer(&session.access);
    leave.json(&json!({"refresh_token": session.refresh})).send().await.expect(204);
    client.refresh(&session.refresh).await.refused(400, "invalid_grant");
    client.post("/auth/logout").send().await.refused(401, "credentials_missing");
}

const COOKIE: &str = "__Secure-portcullis-refresh";

/// The refresh cookie's value, and that it is set with every guard.
fn cookie(answer: &Answer) -> String {
    let lines = answer.all("set-cookie");
    let line = lines.iter().find(|line| line.starts_with(COOKIE)).expect("a cookie");
    for guard in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/auth"] {
        assert!(line.split("; ").any(|part| part == guard), "{guard} in {line}");
    }
    let value = line.split(';').next().unwrap().strip_prefix(&format!("{COOKIE}=")).unwrap();
    value.to_owned()
}

async fn a_cookie_session_never_shows_its_refresh_token(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
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
    gateway.know_what_ended().await;
    client.get("/ask/a").bearer(&access).send().await.refused(401, "invalid_token");
}

async fn a_cookie_from_another_site_is_refused(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
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
