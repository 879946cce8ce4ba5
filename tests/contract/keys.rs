//! Signing keys: the first one of each algorithm is made once, by whichever gateway comes first.

use portcullis::{
    clock::SystemEntropy,
    config::settings::{self, Engine},
    policy::keys::Algorithm,
    store::{KeyState, StoredKey, master_key, sql},
};
use secrecy::ExposeSecret;

use crate::fixture::{Fixture, NOW};

on_both_engines! {
    a_fresh_store_has_none_and_keeps_the_first_as_it_is,
    a_second_key_of_an_algorithm_is_not_added,
    another_algorithm_has_a_key_of_its_own,
    gateways_starting_at_once_make_one_key,
    a_sealed_key_opens_after_a_restart_and_under_no_other_master_key,
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

async fn another_algorithm_has_a_key_of_its_own(on: Fixture) {
    on.store.ensure_signing_key(&key("first")).await.unwrap();
    let rsa = |kid| StoredKey { algorithm: Algorithm::Rs256, ..key(kid) };
    for kid in ["second", "third"] {
        let present = on.store.ensure_signing_key(&rsa(kid)).await.unwrap();
        let present: Vec<_> = present.iter().map(|key| (key.kid.as_str(), key.algorithm)).collect();
        assert_eq!(present, [("first", Algorithm::EdDsa), ("second", Algorithm::Rs256)]);
    }
    // One that only verifies does not stand in its way.
    let retired = StoredKey { algorithm: Algorithm::Es256, state: KeyState::Previous, ..key("fourth") };
    on.store.ensure_signing_key(&retired).await.unwrap();
    let present =
        on.store.ensure_signing_key(&StoredKey { algorithm: Algorithm::Es256, ..key("fifth") }).await.unwrap();
    assert_eq!(present.len(), 4);
}

async fn a_second_key_of_an_algorithm_is_not_added(on: Fixture) {
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

async fn a_sealed_key_opens_after_a_restart_and_under_no_other_master_key(on: Fixture) {
    let mut settings = on.settings.clone();
    if matches!(settings.engine, Engine::Postgres { .. }) {
        settings.master_key = Some(vec![7; 32].into());
    }
    let key_of = |settings: &settings::Store, sealed| master_key::master_key(settings, sealed, &SystemEntropy).unwrap();
    let sealed_pkcs8 = key_of(&settings, false).seal("signing-key", "first", [1; 12], b"private");
    on.store.ensure_signing_key(&StoredKey { sealed_pkcs8, ..key("first") }).await.unwrap();

    let stored = sql::open(&settings).await.unwrap().signing_keys().await.unwrap().remove(0);
    let opened = key_of(&settings, true).open("signing-key", &stored.kid, &stored.sealed_pkcs8).unwrap();
    assert_eq!(opened.expose_secret(), b"private");
    settings.master_key = Some(vec![8; 32].into());
    assert!(key_of(&settings, true).open("signing-key", &stored.kid, &stored.sealed_pkcs8).is_err());
}

/// The race itself, held still: one gateway has inserted its key and not committed yet when the next one looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_waits_for_the_one_that_is_just_making_the_key() {
    let on = Fixture::postgres().await;
    let mut rival = on.rival().await;
    let insert = "BEGIN; INSERT INTO signing_keys (kid, algorithm, state, sealed_pkcs8, created_at) \
                  VALUES ('rival', 'EdDSA', 'current', '', '2030-01-01T00:00:00Z')";
    sqlx::raw_sql(insert).execute(&mut rival).await.unwrap();
    let store = on.store.clone();
    let mut late = tokio::spawn(async move { store.ensure_signing_key(&key("late")).await.unwrap() });
    tokio::select! {
        keys = &mut late => panic!("it did not wait: {keys:?}"),
        () = on.somebody_waits() => {}
    }
    sqlx::raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    let keys = late.await.unwrap();
    assert_eq!(keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["rival"]);
}
