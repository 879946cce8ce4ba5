//! The endpoints for clients when the store is lost, and what a client that hangs up leaves behind.

use super::*;

fn ask(path: &str, token: &str) -> Ask {
    let form = format!("client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}&token={token}");
    Ask::post(path).raw("application/x-www-form-urlencoded", &form)
}

#[tokio::test]
async fn a_lost_store_is_503_and_never_an_inactive_token() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    harness.store.cut();
    for path in ["/oauth/introspect", "/oauth/revoke"] {
        for token in [ann.refresh(), ann.access()] {
            assert_eq!(harness.refused(ask(path, token)).await, Reason::StoreUnavailable, "{path}");
        }
        // No token of ours, so that nobody need be asked.
        assert_eq!(harness.ok(ask(path, "garbage")).await.status, StatusCode::OK);
    }
    harness.store.restore();
    for token in [ann.refresh(), ann.access()] {
        assert_eq!(harness.ok(ask("/oauth/introspect", token)).await.json["active"], true);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_in_its_revocation_has_revoked_all_the_same() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let sid = harness.verified(ann.access()).session.unwrap();
    harness.hung_up(ask("/oauth/revoke", ann.refresh())).await;
    harness.ends(sid).await;
}

#[tokio::test]
async fn the_tokens_of_an_inactive_account_are_inactive() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    harness.store.deactivate_everyone();
    for token in [ann.refresh(), ann.access()] {
        assert_eq!(harness.ok(ask("/oauth/introspect", token)).await.json, json!({"active": false}));
    }
}
