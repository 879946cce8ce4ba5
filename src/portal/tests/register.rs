//! Registration: who may, with what, and what comes of it.

use super::*;

fn register(body: &Value) -> Ask {
    Ask::post("/auth/register").json(body)
}

#[tokio::test]
async fn a_registration_answers_201_with_tokens_and_the_user() {
    let harness = Harness::new();
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "full_name": "Ann Ames", "username": "ann"});
    let reply = harness.ok(register(&body)).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(reply.cache_control(), "no-store");
    assert!(!reply.headers.contains_key(header::SET_COOKIE));
    let members: Vec<_> = reply.json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["access_token", "expires_in", "refresh_token", "token_type", "user"]);
    assert_eq!((&reply.json["token_type"], &reply.json["expires_in"]), (&json!("Bearer"), &json!(900)));
    let expected = json!({
        "id": reply.user_id(), "email": "ann@example.org", "email_verified": false, "username": "ann",
        "full_name": "Ann Ames", "role": "user", "roles": ["user"], "org": null, "is_active": true,
        "created_at": "2027-01-15T08:00:00Z", "last_login_at": "2027-01-15T08:00:00Z",
    });
    assert_eq!(reply.json["user"], expected);
    assert_eq!(reply.subject.as_deref(), Some(reply.user_id()));
    assert_eq!(harness.audited(reply.user_id()).await, [AuditEvent::Registered, AuditEvent::LoginSucceeded]);
}

#[tokio::test]
async fn the_access_token_says_whose_session_it_is() {
    let harness = Harness::new();
    let reply = harness.ann("body").await;
    let claims = harness.verified(reply.access());
    assert_eq!(*claims.subject, *reply.user_id());
    assert!(claims.session.is_some());
    assert_eq!(claims.expires - claims.issued, 900);
    assert_eq!((claims.generation, claims.auth_time), (1, Some(START.seconds())));
    assert_eq!((claims.email.as_deref(), claims.email_verified), (Some("ann@example.org"), false));
    assert_eq!((&*claims.methods, &*claims.roles), (&["pwd".into()][..], &["user".into()][..]));
}

#[tokio::test]
async fn signup_is_the_same_call() {
    let harness = Harness::new();
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    let reply = harness.ok(Ask::post("/auth/signup").json(&body)).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(reply.json["user"]["username"], Value::Null);
}

#[tokio::test]
async fn nobody_registers_themselves_a_role_or_anything_unknown() {
    let harness = Harness::new();
    for (name, value) in [("role", json!("admin")), ("roles", json!(["admin"])), ("is_active", json!(true))] {
        let body = json!({"email": "ann@example.org", "password": PASSWORD, name: value});
        assert_eq!(fields_of(harness.ask(register(&body)).await.unwrap_err()), [name]);
    }
    assert_eq!(harness.hash_pool.stats().done, 0, "refused before anything dear");
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    let harness = Harness::new();
    let good = json!({"email": "ann@example.org", "password": PASSWORD, "username": "ann", "full_name": "Ann"});
    for (name, bad) in [
        ("email", json!("not an address")),
        ("password", json!("short")),
        ("username", json!("a b\u{0}c")),
        ("full_name", json!("Ann\u{0}")),
        ("delivery", json!("pigeon")),
    ] {
        let mut body = good.clone();
        body[name] = bad;
        assert_eq!(fields_of(harness.ask(register(&body)).await.unwrap_err()), [name]);
    }
    assert_eq!(fields_of(harness.ask(register(&json!({}))).await.unwrap_err()), ["email", "password"]);
}

#[tokio::test]
async fn a_member_given_twice_is_refused() {
    let harness = Harness::new();
    let body = format!(r#"{{"email":"ann@example.org","email":"eve@example.org","password":"{PASSWORD}"}}"#);
    let refusal = harness.ask(Ask::post("/auth/register").raw("application/json", &body)).await.unwrap_err();
    assert_eq!(fields_of(refusal), ["email"]);
}

#[tokio::test]
async fn a_taken_e_mail_or_username_is_a_conflict_after_the_same_work() {
    let harness = Harness::new();
    harness.ann("body").await;
    for body in [
        json!({"email": "Ann@Example.org", "password": PASSWORD}),
        json!({"email": "eve@example.org", "username": "ann", "password": PASSWORD}),
    ] {
        let before = harness.hash_pool.stats().done;
        assert_eq!(harness.refused(register(&body)).await, Reason::AccountExists);
        assert_eq!(harness.hash_pool.stats().done, before + 1);
    }
}

#[tokio::test]
async fn a_closed_registration_is_forbidden() {
    let closed = Portal { registration: Registration::Closed, ..portal() };
    let harness = Harness::with(closed, tokens(), passwords());
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    assert_eq!(harness.refused(register(&body)).await, Reason::RegistrationClosed);
    assert_eq!(harness.hash_pool.stats().done, 0);
}

#[tokio::test]
async fn with_cookie_delivery_the_refresh_token_is_in_no_body() {
    let harness = Harness::new();
    let reply = harness.ann("cookie").await;
    assert!(reply.json.get("refresh_token").is_none());
    let (token, attributes) = reply.set_cookie().split_once("; ").unwrap();
    assert!(token.len() > "__Secure-refresh=".len() + 60);
    assert_eq!(attributes, "Max-Age=604800; Path=/auth; HttpOnly; Secure; SameSite=Strict");
}

#[tokio::test]
async fn the_default_delivery_is_the_settings_own() {
    let cookie = Tokens { delivery: Delivery::Cookie, ..tokens() };
    let harness = Harness::with(portal(), cookie, passwords());
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    assert!(harness.ok(register(&body)).await.json.get("refresh_token").is_none());
}

#[tokio::test]
async fn a_lost_store_is_no_conflict_and_no_account() {
    let harness = Harness::new();
    harness.store.cut();
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    assert_eq!(harness.refused(register(&body)).await, Reason::StoreUnavailable);
    harness.store.restore();
    assert_eq!(harness.ok(register(&body)).await.status, StatusCode::CREATED);
}
