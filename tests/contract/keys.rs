//! Signing keys: the first one is made once, by whichever gateway comes first.

use portcullis::{
    policy::keys::Algorithm,
    store::{KeyState, StoredKey, sql},
};

use crate::fixture::{Fixture, NOW};

on_both_engines! {
    a_fresh_store_has_none_and_keeps_the_first_as_it_is,
    a_second_key_is_not_added,
    gateways_starting_at_once_make_one_key,
}

fn key(kid: &str) -> StoredKey {
    StoredKey {
        kid: kid.into(),
        algorithm: Algorithm::EdDsa,
        state: KeyState::Current,
        sealed_pkcs8: vec![0, 1, 2, 0xff],
        created_at: NOW,
    }
}

async fn a_fresh_store_has_none_and_keeps_the_first_as_it_is(on: Fixture) {
    assert!(on.store.signing_keys().await.unwrap().is_empty());
    let present = on.store.ensure_signing_key(&key("first")).await.unwrap();
    let read = on.store.signing_keys().await.unwrap();
    for keys in [present, read] {
        assert_eq!(keys.len(), 1);
        let (kept, asked) = (&keys[0], key("first"));
        assert_eq!((&kept.kid, kept.algorithm, kept.state), (&asked.kid, asked.algorithm, asked.state));
        assert_eq!((&kept.sealed_pkcs8, kept.created_at), (&asked.sealed_pkcs8, asked.created_at));
    }
}

async fn a_second_key_is_not_added(on: Fixture) {
    on.store.ensure_signing_key(&key("first")).await.unwrap();
    let present = on.store.ensure_signing_key(&key("second")).await.unwrap();
    assert_eq!(present.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["first"]);
}

async fn gateways_starting_at_once_make_one_key(on: Fixture) {
    // Stores of their own: other pools, as other processes would have.
    let mut gateways = Vec::new();
    for number in 0..6 {
        let store = sql::open(&on.settings).await.unwrap();
        gateways.push(tokio::spawn(async move { store.ensure_signing_key(&key(&format!("key-{number}"))).await }));
    }
    let mut seen = Vec::new();
    for gateway in gateways {
        let keys = gateway.await.unwrap().unwrap();
        assert_eq!(keys.len(), 1);
        seen.push(keys[0].kid.clone());
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}
