//! The caller's own account and token.

use super::*;

fn patch(body: &Value, claims: &Arc<Claims>) -> Ask {
    Ask::new("PATCH", "/auth/me").json(body).by(claims)
}

#[tokio::test]
async fn me_is_the_account_as_it_is_now() {
    let harness = Harness::new();
    let ann = harness.ann("body").await;
    let reply = harness.ok(Ask::get("/auth/me").by(&harness.verified(ann.access()))).await;
    assert_eq!((reply.status, reply.cache_control()), (StatusCode::OK, "no-store"));
    assert_eq!(reply.json, ann.json["user"]);
}

#[tokio::test]
async fn without_a_principal_every_closed_endpoint_refuses_by_itself() {
    let harness = Harness::new();
    for ask in [Ask::get("/auth/me"), Ask::new("PATCH", "/auth/me").json(&json!({})), Ask::post("/auth/verify")] {
        assert_eq!(harness.refused(ask).await, Reason::CredentialsMissing);
    }
}

#[tokio::test]
async fn a_change_is_kept_audited_and_answered() {
    let harness = Harness::new();
    let ann = harness.ann("body").await;
    let claims = harness.verified(ann.access());
    let reply = harness.ok(patch(&json!({"full_name": "Ann Ames"}), &claims)).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!((&reply.json["full_name"], &reply.json["username"]), (&json!("Ann Ames"), &json!("ann")));
    assert_eq!(harness.audited(ann.user_id()).await.last(), Some(&AuditEvent::ProfileChanged));
    assert_eq!(harness.ok(Ask::get("/auth/me").by(&claims)).await.json, reply.json);
}

#[tokio::test]
async fn null_clears_and_absence_leaves() {
    let harness = Harness::new();
    let ann = harness.ann("body").await;
    let claims = harness.verified(ann.access());
    harness.ok(patch(&json!({"full_name": "Ann Ames"}), &claims)).await;
    let reply = harness.ok(patch(&json!({"username": null}), &claims)).await;
    assert_eq!((&reply.json["full_name"], &reply.json["username"]), (&json!("Ann Ames"), &Value::Null));
}

#[tokio::test]
async fn an_empty_change_changes_and_audits_nothing() {
    let harness = Harness::new();
    let ann = harness.ann("body").await;
    let reply = harness.ok(patch(&json!({}), &harness.verified(ann.access()))).await;
    assert_eq!(reply.json, ann.json["user"]);
    assert!(!harness.audited(ann.user_id()).await.contains(&AuditEvent::ProfileChanged));
}

#[tokio::test]
async fn nobody_changes_what_is_not_theirs_to_change() {
    let harness = Harness::new();
    let ann = harness.ann("body").await;
    let claims = harness.verified(ann.access());
    for name in ["role", "roles", "email", "id", "is_active", "org"] {
        assert_eq!(fields_of(harness.ask(patch(&json!({name: "x"}), &claims)).await.unwrap_err()), [name]);
    }
    for (name, bad) in [("username", json!("a b\u{0}c")), ("full_name", json!(7))] {
        assert_eq!(fields_of(harness.ask(patch(&json!({name: bad}), &claims)).await.unwrap_err()), [name]);
    }
}

#[tokio::test]
async fn a_taken_username_is_a_conflict() {
    let harness = Harness::new();
    harness.ann("body").await;
    let eve = json!({"email": "eve@example.org", "password": PASSWORD});
    let eve = harness.ok(Ask::post("/auth/register").json(&eve)).await;
    let ask = patch(&json!({"username": "ann"}), &harness.verified(eve.access()));
    assert_eq!(harness.refused(ask).await, Reason::AccountExists);
}

#[tokio::test]
async fn a_deactivated_or_deleted_account_is_an_ended_session() {
    let harness = Harness::new();
    let ann = harness.ann("body").await;
    let mut gone = (*harness.verified(ann.access())).clone();
    gone.subject = UserId(uuid::Uuid::nil()).to_string().into();
    assert_eq!(harness.refused(Ask::get("/auth/me").by(&Arc::new(gone))).await, Reason::SessionEnded);
    harness.store.deactivate_everyone();
    let ask = Ask::get("/auth/me").by(&harness.verified(ann.access()));
    assert_eq!(harness.refused(ask).await, Reason::SessionEnded);
}

#[tokio::test]
async fn verify_answers_the_claims_of_the_caller_s_own_token() {
    let harness = Harness::new();
    let ann = harness.ann("body").await;
    let claims = harness.verified(ann.access());
    let reply = harness.ok(Ask::post("/auth/verify").by(&claims)).await;
    let expected = json!({
        "active": true, "token_type": "Bearer", "iss": "https://gw.test", "sub": ann.user_id(), "aud": ["rag"],
        "exp": START.seconds() + 900, "nbf": START.seconds(), "iat": START.seconds(), "jti": &*claims.token_id,
        "sid": claims.session.unwrap().to_string(), "client_id": "portal", "roles": ["user"], "scope": "", "org": null,
        "av": claims.authorization_version, "gen": 1, "email": "ann@example.org", "email_verified": false,
        "amr": ["pwd"], "auth_time": START.seconds(),
    });
    assert_eq!((reply.status, reply.cache_control()), (StatusCode::OK, "no-store"));
    assert_eq!(reply.json, expected);
}

#[tokio::test]
async fn verify_goes_on_while_the_store_is_lost_and_me_does_not() {
    let harness = Harness::new();
    let claims = harness.verified(harness.ann("body").await.access());
    harness.store.cut();
    assert_eq!(harness.ok(Ask::post("/auth/verify").by(&claims)).await.status, StatusCode::OK);
    assert_eq!(harness.refused(Ask::get("/auth/me").by(&claims)).await, Reason::StoreUnavailable);
    assert_eq!(harness.refused(patch(&json!({"username": null}), &claims)).await, Reason::StoreUnavailable);
}
