//! What anyone may read: keys and discovery.

use super::*;

#[tokio::test]
async fn the_published_keys_verify_what_was_minted_and_may_be_cached() {
    let harness = Harness::new().await;
    let reply = harness.ok(Ask::get("/.well-known/jwks.json")).await;
    assert_eq!((reply.status, reply.cache_control()), (StatusCode::OK, "public, max-age=300"));
    assert_eq!(reply.json, harness.keyring.published().jwks());
    assert!(reply.json["keys"][0].get("d").is_none(), "a private member");
    harness.verified(harness.ann("body").await.access());
}

#[tokio::test]
async fn discovery_names_what_is_served_and_nothing_else() {
    for (algorithm, name) in [(Algorithm::Es256, "ES256"), (Algorithm::EdDsa, "EdDSA"), (Algorithm::Rs256, "RS256")] {
        let harness = Harness::with(portal(), Tokens { algorithm, ..tokens() }, passwords()).await;
        let reply = harness.ok(Ask::get("/.well-known/openid-configuration")).await;
        assert_eq!(reply.cache_control(), "public, max-age=300");
        assert_eq!(reply.json["issuer"], "https://gw.test");
        assert_eq!(reply.json["jwks_uri"], "https://gw.test/.well-known/jwks.json");
        assert_eq!(reply.json["id_token_signing_alg_values_supported"], json!([name]));
        assert_eq!(reply.json["portcullis_token_types"], json!(["at+jwt", "gw-id+jwt"]));
        let endpoints = reply.json.as_object().unwrap().keys().filter(|name| name.ends_with("_endpoint"));
        assert_eq!(endpoints.collect::<Vec<_>>(), ["introspection_endpoint", "revocation_endpoint"]);
    }
}

#[tokio::test]
async fn what_is_published_goes_on_while_the_store_is_lost() {
    let harness = Harness::new().await;
    harness.store.cut();
    for path in ["/.well-known/jwks.json", "/.well-known/openid-configuration"] {
        assert_eq!(harness.ok(Ask::get(path)).await.status, StatusCode::OK);
        let head = harness.ok(Ask::new("HEAD", path)).await;
        assert_eq!((head.status, head.json), (StatusCode::OK, Value::Null));
    }
}
