//! Sessions as their user sees them: the list, ending one or all others, how many there may be.

use std::time::Duration;

use portcullis::{policy::ids::SessionId, store::AuditEvent};
use serde_json::{Value, json};

use crate::harness::{
    client::{Client, PASSWORD, Tokens},
    gateway::{ISSUER, standard},
    gateways::{Deployment, Gateways},
    soon,
    tokens::claims_of,
    upstream::Upstream,
};

on_every_deployment!(
    a_user_sees_every_device_and_which_one_asks,
    what_is_listed_moves_with_refreshes_and_uses,
    ending_one_device_refuses_its_tokens_and_leaves_the_others,
    ending_the_current_session_clears_its_cookie,
    nobody_sees_or_ends_anothers_session,
    ending_the_others_keeps_the_one_that_asks,
    the_oldest_login_beyond_the_limit_is_logged_out,
    many_logins_at_once_leave_no_more_than_the_limit,
    a_session_that_has_run_out_is_not_shown,
);

fn sid(tokens: &Tokens) -> String {
    claims_of(&tokens.access)["sid"].as_str().unwrap().to_owned()
}

async fn listed(client: &Client, tokens: &Tokens) -> Vec<Value> {
    let answer = client.get("/auth/sessions").bearer(&tokens.access).send().await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()["sessions"].as_array().unwrap().clone()
}

fn ids(sessions: &[Value]) -> Vec<&str> {
    sessions.iter().map(|session| session["id"].as_str().unwrap()).collect()
}

async fn events(gateways: &Gateways, tokens: &Tokens) -> Vec<(AuditEvent, Option<String>)> {
    let user = tokens.user["id"].as_str().unwrap().parse().unwrap();
    let rows = gateways.store().await.audit_of(user, 1_000).await.unwrap();
    rows.into_iter()
        .map(|row| (AuditEvent::named(&row.event).unwrap(), row.session.map(|session| session.to_string())))
        .collect()
}

async fn a_user_sees_every_device_and_which_one_asks(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let laptop = client.register("ann@example.org").await;
    gateways.clock.advance(Duration::from_mins(1));
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": "cookie"});
    let login = client.post("/auth/login").header("user-agent", "Phone/1.0 (x)").json(&body);
    let phone = client.tokens(&login.send().await.expect(200));
    client.register("bob@example.org").await;

    let sessions = listed(&client, &phone).await;
    assert_eq!(ids(&sessions), [sid(&phone), sid(&laptop)], "the newest login first");
    let one = &sessions[0];
    assert_eq!((&one["current"], &sessions[1]["current"]), (&json!(true), &json!(false)));
    assert_eq!((&one["delivery"], &one["generation"]), (&json!("cookie"), &json!(1)));
    assert_eq!((&one["address"], &one["user_agent"]), (&json!("127.0.0.1"), &json!("Phone/1.0 (x)")));
    assert_eq!(sessions[1]["user_agent"], Value::Null);
    let begun = claims_of(&phone.access)["iat"].as_i64().unwrap();
    let at = |name: &str| {
        let text = one[name].as_str().unwrap();
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(text, format).unwrap().unix_timestamp()
    };
    assert_eq!((at("created_at"), at("expires_at")), (begun, begun + 7 * 86_400));
    assert_eq!(one.as_object().unwrap().len(), 9, "{one}");

    let path = format!("/auth/sessions/{}", sid(&laptop));
    let alone = client.get(&path).bearer(&phone.access).send().await.expect(200).json();
    assert_eq!(alone["id"], sid(&laptop));
    client.get("/auth/sessions").send().await.refused(401, "credentials_missing");
}

async fn what_is_listed_moves_with_refreshes_and_uses(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let first = client.register("ann@example.org").await;
    let created = listed(&client, &first).await[0]["created_at"].clone();
    gateways.clock.advance(Duration::from_mins(5));
    let second = client.refreshed(&first.refresh).await;
    let shown = listed(&client, &second).await.remove(0);
    assert_eq!((&shown["generation"], &shown["created_at"]), (&json!(2), &created));
    let refreshed_at = shown["last_seen_at"].clone();
    assert_ne!(refreshed_at, created);

    // A use is noted behind the request; by then the clock has moved for more than a minute.
    gateways.clock.advance(Duration::from_mins(5));
    let noted = async {
        loop {
            assert_eq!(client.status("/ask/a", &second.access).await, 200);
            if listed(&client, &second).await[0]["last_seen_at"] != refreshed_at {
                break;
            }
        }
    };
    soon("the use to be noted", noted).await;
}

async fn ending_one_device_refuses_its_tokens_and_leaves_the_others(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let (laptop, phone) = (client.register("ann@example.org").await, client.login("ann@example.org").await);
    for gateway in &gateways.all {
        assert_eq!(gateway.client().status("/ask/a", &laptop.access).await, 200);
    }
    let path = format!("/auth/sessions/{}", sid(&laptop));
    let first = gateways.all[0].client();
    let answer = first.call("DELETE", &path).bearer(&phone.access).send().await.expect(204);
    assert!(answer.header("set-cookie").is_none(), "it is not the one that asks");
    first.get("/ask/a").bearer(&laptop.access).send().await.refused(401, "invalid_token");
    gateways.know_what_ended().await;
    for gateway in &gateways.all {
        let client = gateway.client();
        client.get("/ask/a").bearer(&laptop.access).send().await.refused(401, "invalid_token");
        client.refresh(&laptop.refresh).await.refused(400, "invalid_grant");
        assert_eq!(ids(&listed(&client, &phone).await), [sid(&phone)]);
    }
    client.call("DELETE", &path).bearer(&phone.access).send().await.refused(404, "session_unknown");
    let ended: Vec<_> = events(&gateways, &laptop).await;
    let ended: Vec<_> = ended.iter().filter(|(event, _)| *event == AuditEvent::SessionRevoked).collect();
    assert_eq!(ended, [&(AuditEvent::SessionRevoked, Some(sid(&laptop)))]);
}

async fn ending_the_current_session_clears_its_cookie(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    let path = format!("/auth/sessions/{}", sid(&ann));
    let answer = client.call("DELETE", &path).bearer(&ann.access).send().await.expect(204);
    assert!(answer.header("set-cookie").unwrap().starts_with("__Secure-portcullis-refresh=; Max-Age=0"));
    gateways.know_what_ended().await;
    client.get("/auth/sessions").bearer(&ann.access).send().await.refused(401, "invalid_token");
}

async fn nobody_sees_or_ends_anothers_session(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let (ann, eve) = (client.register("ann@example.org").await, client.register("eve@example.org").await);
    let anns = client.login("ann@example.org").await;
    client.post("/auth/logout").bearer(&anns.access).send().await.expect(204);
    let nobodys = SessionId(uuid::Uuid::from_u128(7)).to_string();
    let mut told = Vec::new();
    for id in [sid(&ann), sid(&anns), nobodys, "x".to_owned(), "%00".to_owned()] {
        for method in ["GET", "DELETE"] {
            let call = client.call(method, &format!("/auth/sessions/{id}")).bearer(&eve.access);
            let answer = call.send().await;
            if answer.status == 400 {
                assert_eq!(answer.code(), "path_invalid", "{id}");
                continue;
            }
            answer.refused(404, "session_unknown");
            let mut body = answer.json();
            for own in ["request_id", "instance"] {
                body[own] = Value::Null;
            }
            told.push(body);
        }
    }
    assert!(told.len() >= 8 && told.windows(2).all(|pair| pair[0] == pair[1]), "one answer for all: {told:?}");
    client.call("DELETE", "/auth/sessions").bearer(&eve.access).send().await.expect(204);
    gateways.know_what_ended().await;
    assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    assert_eq!(ids(&listed(&client, &eve).await), [sid(&eve)]);
}

async fn ending_the_others_keeps_the_one_that_asks(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let first = client.register("ann@example.org").await;
    let (second, third) = (client.login("ann@example.org").await, client.login("ann@example.org").await);
    let call = client.call("DELETE", "/auth/sessions").bearer(&second.access);
    assert!(call.send().await.expect(204).header("set-cookie").is_none());
    gateways.know_what_ended().await;
    for tokens in [&first, &third] {
        client.get("/ask/a").bearer(&tokens.access).send().await.refused(401, "invalid_token");
    }
    assert_eq!(ids(&listed(&client, &second).await), [sid(&second)]);
    client.refreshed(&second.refresh).await;
    // Leaving everywhere takes this one too.
    client.post("/auth/logout").bearer(&second.access).json(&json!({"all": true})).send().await.expect(204);
    client.refresh(&second.refresh).await.refused(400, "invalid_grant");
}

fn limited(upstream: &Upstream, most: &str) -> String {
    format!("tokens: {{issuer: \"{ISSUER}\", audience: gw-test, max_sessions: {most}}}\n{}", standard(upstream))
}

async fn the_oldest_login_beyond_the_limit_is_logged_out(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &limited(&upstream, "2")).await;
    let client = gateways.all[0].client();
    let first = client.register("ann@example.org").await;
    gateways.clock.advance(Duration::from_secs(1));
    let second = client.login("ann@example.org").await;
    assert_eq!(client.status("/ask/a", &first.access).await, 200);
    gateways.clock.advance(Duration::from_secs(1));
    let third = client.login("ann@example.org").await;
    // At the gateway of the login at once, and at the others when they have heard.
    client.get("/ask/a").bearer(&first.access).send().await.refused(401, "invalid_token");
    gateways.know_what_ended().await;
    for gateway in &gateways.all {
        let client = gateway.client();
        client.get("/ask/a").bearer(&first.access).send().await.refused(401, "invalid_token");
        client.refresh(&first.refresh).await.refused(400, "invalid_grant");
        assert_eq!(ids(&listed(&client, &third).await), [sid(&third), sid(&second)]);
    }
    let told = events(&gateways, &first).await;
    assert!(told.contains(&(AuditEvent::SessionLimit, Some(sid(&first)))), "{told:?}");
}

async fn many_logins_at_once_leave_no_more_than_the_limit(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &limited(&upstream, "3")).await;
    let client = gateways.client();
    let first = client.register("ann@example.org").await;
    let logins = futures_util::future::join_all((0..12).map(|_| client.login("ann@example.org"))).await;
    gateways.know_what_ended().await;
    let mut live = 0;
    // All of one moment: whichever of them counts as the oldest.
    for tokens in logins.iter().chain([&first]) {
        live += usize::from(client.status("/ask/a", &tokens.access).await == 200);
    }
    assert_eq!(live, 3);
}

async fn a_session_that_has_run_out_is_not_shown(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let client = gateways.client();
    let old = client.register("ann@example.org").await;
    gateways.clock.advance(Duration::from_hours(7 * 24));
    let new = client.login("ann@example.org").await;
    assert_eq!(ids(&listed(&client, &new).await), [sid(&new)]);
    let path = format!("/auth/sessions/{}", sid(&old));
    client.get(&path).bearer(&new.access).send().await.refused(404, "session_unknown");
    client.call("DELETE", &path).bearer(&new.access).send().await.refused(404, "session_unknown");
}
