//! Refresh: rotation, grace, reuse, both deliveries, and who may use the cookie.

use super::*;
use crate::telemetry::metrics::RefreshResult;

fn refresh(token: &str) -> Ask {
    Ask::post("/auth/refresh").json(&json!({"refresh_token": token}))
}

fn bare() -> Ask {
    Ask::post("/auth/refresh")
}

#[tokio::test]
async fn a_refresh_answers_200_with_the_next_pair_of_the_same_session() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    harness.advance(Duration::from_mins(1));
    let reply = harness.ok(refresh(ann.refresh())).await;
    assert_eq!((reply.status, reply.cache_control()), (StatusCode::OK, "no-store"));
    assert_ne!(reply.refresh(), ann.refresh());
    assert_eq!((reply.user_id(), reply.subject.as_deref()), (ann.user_id(), Some(ann.user_id())));
    let (before, after) = (harness.verified(ann.access()), harness.verified(reply.access()));
    assert_eq!((before.session, before.auth_time), (after.session, after.auth_time));
    assert_eq!((before.generation, after.generation), (1, 2));
    assert_eq!(after.issued, START.seconds() + 60);
    assert_eq!(harness.audited(ann.user_id()).await.last(), Some(&AuditEvent::Refreshed));
}

#[tokio::test]
async fn double_refresh_within_the_grace_yields_the_same_successor() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let one = harness.ok(refresh(ann.refresh())).await;
    harness.advance(Duration::from_secs(5));
    let two = harness.ok(refresh(ann.refresh())).await;
    assert_eq!(one.refresh(), two.refresh());
}

#[tokio::test]
async fn twenty_tabs_refreshing_at_once_get_one_successor() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let tabs = (0..20).map(|_| harness.ok(refresh(ann.refresh())));
    let replies = futures_util::future::join_all(tabs).await;
    assert!(replies.iter().all(|reply| reply.refresh() == replies[0].refresh()));
    assert_eq!(harness.ok(refresh(replies[0].refresh())).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_old_token_kills_the_session_and_the_newest_token_with_it() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let second = harness.ok(refresh(ann.refresh())).await;
    let third = harness.ok(refresh(second.refresh())).await;
    let sid = harness.verified(third.access()).session.unwrap();
    assert!(!harness.is_ended(sid));

    assert_eq!(harness.refused(refresh(ann.refresh())).await, Reason::RefreshReuse);
    assert!(harness.is_ended(sid), "its access tokens die at this gateway at once");
    assert_eq!(harness.refused(refresh(third.refresh())).await, Reason::RefreshInvalid);
    assert_eq!(harness.audited(ann.user_id()).await.last(), Some(&AuditEvent::RefreshReuseDetected));
}

#[tokio::test]
async fn a_thief_that_hangs_up_at_once_is_found_out_all_the_same() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let second = harness.ok(refresh(ann.refresh())).await;
    let third = harness.ok(refresh(second.refresh())).await;
    harness.hung_up(refresh(ann.refresh())).await;
    harness.ends(harness.verified(third.access()).session.unwrap()).await;
    assert_eq!(harness.refused(refresh(third.refresh())).await, Reason::RefreshInvalid);
    assert_eq!(harness.audited(ann.user_id()).await.last(), Some(&AuditEvent::RefreshReuseDetected));
}

#[tokio::test]
async fn an_ended_session_is_remembered_until_its_last_access_token_expires() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let second = harness.ok(refresh(ann.refresh())).await;
    harness.ok(refresh(second.refresh())).await;
    harness.refused(refresh(ann.refresh())).await;
    let sid = harness.verified(second.access()).session.unwrap();
    harness.advance(harness.tokens.access_ttl + harness.tokens.leeway.mul_f32(0.9));
    assert!(harness.is_ended(sid));
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_invalid() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let mut forged = ann.refresh().to_owned().into_bytes();
    forged[50] = if forged[50] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for token in ["", "nonsense", forged.as_str(), ann.access()] {
        assert_eq!(harness.refused(refresh(token)).await, Reason::RefreshInvalid, "{token}");
    }
    assert_eq!(harness.refused(bare()).await, Reason::RefreshInvalid);
    assert_eq!(harness.ok(refresh(ann.refresh())).await.status, StatusCode::OK, "nothing was killed");
}

#[tokio::test]
async fn a_session_past_its_idle_or_absolute_life_is_over() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    harness.advance(harness.tokens.refresh.idle + Duration::from_secs(1));
    assert_eq!(harness.refused(refresh(ann.refresh())).await, Reason::RefreshInvalid);
}

#[tokio::test]
async fn an_authorization_header_is_not_looked_at() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let ask = refresh(ann.refresh()).header("authorization", "Bearer expired.old.token");
    assert_eq!(harness.ok(ask).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_cookie_session_refreshes_by_cookie_and_answers_by_cookie() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    harness.advance(Duration::from_mins(1));
    let reply = harness.ok(bare().cookie_of(&ann)).await;
    assert!(reply.json.get("refresh_token").is_none());
    assert_ne!(reply.set_cookie(), ann.set_cookie());
    assert_eq!(harness.ok(bare().cookie_of(&reply).json(&json!({}))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_cookie_session_s_token_sent_in_a_body_is_still_answered_by_cookie() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    let token = ann.set_cookie().split(['=', ';']).nth(1).unwrap().to_owned();
    let reply = harness.ok(refresh(&token)).await;
    assert!(reply.json.get("refresh_token").is_none());
    assert!(reply.set_cookie().starts_with("__Secure-refresh="));
}

#[tokio::test]
async fn a_body_session_s_token_sent_as_a_cookie_is_answered_in_the_body() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let cookie = format!("__Secure-refresh={}", ann.refresh());
    let reply = harness.ok(bare().header("cookie", &cookie).header("sec-fetch-site", "same-origin")).await;
    assert_ne!(reply.refresh(), ann.refresh());
    assert!(!reply.headers.contains_key(header::SET_COOKIE));
}

#[tokio::test]
async fn a_cookie_counts_only_from_our_own_pages_or_listed_ones() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.test"),
        ("origin", "null"),
        ("origin", "https://gw.test.evil.test"),
        ("origin", "http://gw.test"),
        ("x-nothing", "neither header"),
    ] {
        let ask = bare().foreign_cookie_of(&ann).header(name, value);
        assert_eq!(harness.refused(ask).await, Reason::CrossSite, "{name}: {value}");
    }
    for (name, value) in [
        ("origin", "https://gw.test"),
        ("origin", "https://app.test"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-site", "none"),
    ] {
        let ask = bare().foreign_cookie_of(&ann).header(name, value);
        assert_eq!(harness.ok(ask).await.status, StatusCode::OK, "{name}: {value}");
    }
}

#[tokio::test]
async fn a_doubled_origin_is_a_foreign_one() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    let ask = bare().foreign_cookie_of(&ann).header("origin", "https://gw.test").header("origin", "https://evil.test");
    assert_eq!(harness.refused(ask).await, Reason::CrossSite);
}

#[tokio::test]
async fn a_cross_site_refusal_costs_the_session_nothing() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    harness.refused(bare().foreign_cookie_of(&ann)).await;
    assert_eq!(harness.ok(bare().cookie_of(&ann)).await.status, StatusCode::OK);
    assert!(!harness.is_ended(harness.verified(ann.access()).session.unwrap()));
}

#[tokio::test]
async fn cookie_and_body_must_not_be_two_different_tokens() {
    let harness = Harness::new().await;
    let ann = harness.ann("cookie").await;
    let eve = json!({"email": "eve@example.org", "password": PASSWORD});
    let eve = harness.ok(Ask::post("/auth/register").json(&eve)).await;
    assert_eq!(harness.refused(refresh(eve.refresh()).cookie_of(&ann)).await, Reason::RefreshInvalid);
    assert_eq!(harness.ok(refresh(eve.refresh())).await.status, StatusCode::OK);
    assert_eq!(harness.ok(bare().cookie_of(&ann)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_cookie_lives_no_longer_than_its_session() {
    let mut short = tokens();
    short.refresh.absolute = short.refresh.idle + Duration::from_hours(1);
    let harness = Harness::with(portal(), short, passwords()).await;
    let ann = harness.ann("cookie").await;
    harness.advance(Duration::from_hours(2));
    let reply = harness.ok(bare().cookie_of(&ann)).await;
    let expected = harness.tokens.refresh.absolute.as_secs() - 7_200;
    assert!(reply.set_cookie().contains(&format!("Max-Age={expected};")), "{}", reply.set_cookie());
}

#[tokio::test]
async fn no_access_token_outlives_its_session() {
    let mut short = tokens();
    short.refresh.absolute = Duration::from_secs(1_000);
    let harness = Harness::with(portal(), short, passwords()).await;
    let ann = harness.ann("body").await;
    harness.advance(Duration::from_secs(400));
    let reply = harness.ok(refresh(ann.refresh())).await;
    assert_eq!(reply.json["expires_in"], 600);
    assert_eq!(harness.verified(reply.access()).expires, START.seconds() + 1_000);
}

#[tokio::test]
async fn a_lost_store_is_503_and_the_session_lives_on() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    harness.store.cut();
    assert_eq!(harness.refused(refresh(ann.refresh())).await, Reason::StoreUnavailable);
    harness.store.restore();
    assert_eq!(harness.ok(refresh(ann.refresh())).await.status, StatusCode::OK);
}

#[tokio::test]
async fn unknown_fields_are_refused() {
    let harness = Harness::new().await;
    let ask = Ask::post("/auth/refresh").json(&json!({"refresh_token": "x", "grant_type": "refresh_token"}));
    assert_eq!(fields_of(harness.ask(ask).await.unwrap_err()), ["grant_type"]);
}

#[tokio::test]
async fn every_outcome_is_counted() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let second = harness.ok(refresh(ann.refresh())).await;
    harness.ok(refresh(ann.refresh())).await;
    harness.ok(refresh(second.refresh())).await;
    harness.refused(refresh(ann.refresh())).await;
    harness.refused(refresh(second.refresh())).await;
    let counted = [RefreshResult::Rotated, RefreshResult::Repeated, RefreshResult::Reused, RefreshResult::Refused]
        .map(|result| harness.metrics.refresh.of(result).get());
    assert_eq!(counted, [2, 1, 1, 1]);
}
