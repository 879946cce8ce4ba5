//! Logout: by access token or by refresh token, one session or all, twice without harm.

use super::*;

fn logout() -> Ask {
    Ask::post("/auth/logout")
}

fn by_token(token: &str) -> Ask {
    logout().json(&json!({"refresh_token": token}))
}

async fn another_login(harness: &Harness) -> Reply {
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    harness.ok(Ask::post("/auth/login").json(&body)).await
}

async fn can_refresh(harness: &Harness, token: &str) -> bool {
    harness.ask(Ask::post("/auth/refresh").json(&json!({"refresh_token": token}))).await.is_ok()
}

#[tokio::test]
async fn a_logout_answers_204_ends_the_session_and_clears_the_cookie() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let claims = harness.verified(ann.access());
    let reply = harness.ok(logout().by(&claims)).await;
    assert_eq!((reply.status, &reply.json), (StatusCode::NO_CONTENT, &Value::Null));
    assert!(reply.set_cookie().starts_with("__Secure-refresh=; Max-Age=0; Path=/auth;"));
    assert_eq!(reply.cache_control(), "no-store");
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        assert!(!reply.headers.contains_key(&name), "{name}");
    }
    assert!(harness.is_ended(claims.session.unwrap()));
    assert!(!can_refresh(&harness, ann.refresh()).await);
    assert_eq!(reply.subject.as_deref(), Some(ann.user_id()));
    assert_eq!(harness.audited(ann.user_id()).await.last(), Some(&AuditEvent::LoggedOut));
}

#[tokio::test]
async fn one_logout_leaves_other_devices_alone() {
    let harness = Harness::new().await;
    let (phone, laptop) = (harness.ann("body").await, another_login(&harness).await);
    harness.ok(logout().by(&harness.verified(phone.access()))).await;
    assert!(!harness.is_ended(harness.verified(laptop.access()).session.unwrap()));
    assert!(can_refresh(&harness, laptop.refresh()).await);
}

#[tokio::test]
async fn with_all_every_device_is_logged_out() {
    let harness = Harness::new().await;
    let (phone, laptop) = (harness.ann("body").await, another_login(&harness).await);
    let ask = logout().json(&json!({"all": true})).by(&harness.verified(phone.access()));
    assert_eq!(harness.ok(ask).await.status, StatusCode::NO_CONTENT);
    for device in [&phone, &laptop] {
        assert!(harness.is_ended(harness.verified(device.access()).session.unwrap()));
        assert!(!can_refresh(&harness, device.refresh()).await);
    }
}

/// An expired access token reaches the portal as no token at all: the route is lenient.
#[tokio::test]
async fn with_an_expired_access_token_the_refresh_token_names_the_session() {
    let harness = Harness::new().await;
    for delivery in ["body", "cookie"] {
        let body = json!({"email": format!("{delivery}@example.org"), "password": PASSWORD, "delivery": delivery});
        let user = harness.ok(Ask::post("/auth/register").json(&body)).await;
        let sid = harness.verified(user.access()).session.unwrap();
        let ask = if delivery == "body" { by_token(user.refresh()) } else { logout().cookie_of(&user) };
        assert_eq!(harness.ok(ask).await.status, StatusCode::NO_CONTENT);
        assert!(harness.is_ended(sid));
    }
}

#[tokio::test]
async fn nothing_that_names_a_session_is_401() {
    let harness = Harness::new().await;
    assert_eq!(harness.refused(logout()).await, Reason::CredentialsMissing);
    assert_eq!(harness.refused(logout().json(&json!({"all": true}))).await, Reason::CredentialsMissing);
    assert_eq!(harness.refused(by_token("nonsense")).await, Reason::TokenMalformed);
    let expired = logout().header("authorization", "Bearer expired");
    assert_eq!(harness.refused(expired).await, Reason::TokenMalformed, "it was presented: it is bad, not missing");
}

#[tokio::test]
async fn leaving_twice_is_no_fault() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    harness.ok(by_token(ann.refresh())).await;
    assert_eq!(harness.ok(by_token(ann.refresh())).await.status, StatusCode::NO_CONTENT);
    let logged_out = |event: &&AuditEvent| **event == AuditEvent::LoggedOut;
    assert_eq!(harness.audited(ann.user_id()).await.iter().filter(logged_out).count(), 1);
}

#[tokio::test]
async fn another_site_logs_nobody_out_by_cookie() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    let ask = logout().foreign_cookie_of(&ann).header("origin", "https://evil.test");
    assert_eq!(harness.refused(ask).await, Reason::CrossSite);
    assert!(!harness.is_ended(harness.verified(ann.access()).session.unwrap()));
}

#[tokio::test]
async fn a_planted_cookie_does_not_keep_a_caller_with_a_good_token_from_leaving() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    let ask = logout().cookie_of(&ann).header("cookie", "__Secure-refresh=planted");
    assert_eq!(harness.ok(ask.by(&harness.verified(ann.access()))).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_lost_store_is_503_and_nothing_is_claimed_ended() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let claims = harness.verified(ann.access());
    harness.store.cut();
    assert_eq!(harness.refused(logout().by(&claims)).await, Reason::StoreUnavailable);
    assert_eq!(harness.refused(by_token(ann.refresh())).await, Reason::StoreUnavailable);
    assert!(!harness.is_ended(claims.session.unwrap()));
}

#[tokio::test]
async fn unknown_fields_and_wrong_kinds_are_refused() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let claims = harness.verified(ann.access());
    for (body, field) in [(json!({"everywhere": true}), "everywhere"), (json!({"all": "yes"}), "all")] {
        let refusal = harness.ask(logout().json(&body).by(&claims)).await.unwrap_err();
        assert_eq!(fields_of(refusal), [field]);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_in_its_logout_is_logged_out_here_all_the_same() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let other = another_login(&harness).await;
    for (ask, session) in [(logout().by(&harness.verified(ann.access())), &ann), (by_token(other.refresh()), &other)] {
        harness.hung_up(ask).await;
        harness.ends(harness.verified(session.access()).session.unwrap()).await;
        assert!(!can_refresh(&harness, session.refresh()).await);
    }
}
