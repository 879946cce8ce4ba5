//! Signing keys: each step of their life is taken once, whoever asks, and audited.

use std::time::Duration;

use portcullis::{
    clock::{SystemEntropy, Timestamp},
    config::settings::{self, Engine},
    policy::{
        key_life::{KeyRules, Order, Step},
        keys::Algorithm,
    },
    store::{KeyAsk, KeyState, KeysAdvanced, NewKey, SharedStore, StoredKey, audit::Actor, master_key, sql},
};
use secrecy::ExposeSecret;

use crate::fixture::{Fixture, NOW};

on_both_engines! {
    a_fresh_store_has_none_and_keeps_the_first_as_it_is,
    nothing_is_done_when_a_key_is_missing_that_would_be_needed,
    another_algorithm_has_a_key_of_its_own,
    a_key_is_published_then_signs_then_verifies_and_then_is_gone,
    a_retired_key_is_gone_and_the_next_one_signs,
    gateways_starting_at_once_make_one_key,
    of_many_who_do_a_due_step_at_once_one_does_it,
    of_many_who_retire_the_current_key_at_once_one_puts_another_in_its_place,
    each_step_is_audited_with_the_key_s_name,
    whatever_goes_wrong_one_key_signs_and_one_follows_it,
    a_sealed_key_opens_after_a_restart_and_under_no_other_master_key,
}

const RULES: KeyRules = KeyRules {
    every: Some(Duration::from_hours(24)),
    publish_ahead: Duration::from_hours(1),
    verify_for: Duration::from_mins(20),
};

const NEEDED: &[Algorithm] = &[Algorithm::EdDsa];

fn key(kid: &str) -> NewKey {
    NewKey { kid: kid.into(), algorithm: Algorithm::EdDsa, sealed_pkcs8: vec![0, 1, 2, 0xff] }
}

fn hours(count: u64) -> Timestamp {
    NOW.plus(Duration::from_hours(count))
}

fn named(keys: &[StoredKey]) -> Vec<(&str, KeyState)> {
    keys.iter().map(|key| (key.life.kid.as_str(), key.life.state)).collect()
}

async fn ask(store: &SharedStore, order: Order<'_>, now: Timestamp, spares: &[NewKey]) -> KeysAdvanced {
    let ask = KeyAsk { order, needed: NEEDED, rules: &RULES, now, by: &Actor::System };
    store.advance_signing_keys(&ask, spares).await.unwrap()
}

impl Fixture {
    /// The steps that were taken, and the keys afterwards.
    async fn keys(&self, order: Order<'_>, now: Timestamp, spares: &[NewKey]) -> (Vec<Step>, Vec<StoredKey>) {
        match ask(&self.store, order, now, spares).await {
            KeysAdvanced::Done(steps, keys) => (steps, keys),
            KeysAdvanced::Needs(algorithms) => panic!("{algorithms:?}"),
        }
    }

    /// Twenty at once, each with pools of its own, as other processes would have, and with a key of its own making.
    async fn at_once(&self, order: Order<'static>, now: Timestamp) -> Vec<Vec<StoredKey>> {
        let mut stores = Vec::new();
        for _ in 0..20 {
            let settings = settings::Store { pool: 1, ..self.settings.clone() };
            let store = sql::open(&settings).await.unwrap();
            // Connected before anybody begins.
            store.ping().await.unwrap();
            stores.push(store);
        }
        let begin = |(number, store): (usize, SharedStore)| {
            tokio::spawn(async move {
                match ask(&store, order, now, &[key(&format!("spare-{number}"))]).await {
                    KeysAdvanced::Done(_, keys) => keys,
                    KeysAdvanced::Needs(algorithms) => panic!("{algorithms:?}"),
                }
            })
        };
        let gateways: Vec<_> = stores.into_iter().enumerate().map(begin).collect();
        let mut seen = Vec::new();
        for gateway in gateways {
            seen.push(gateway.await.unwrap());
        }
        seen
    }
}

async fn a_fresh_store_has_none_and_keeps_the_first_as_it_is(on: Fixture) {
    assert!(on.store.signing_keys().await.unwrap().is_empty());
    let (steps, present) = on.keys(Order::Due, NOW, &[key("first")]).await;
    assert_eq!(steps, [Step::Begin(Algorithm::EdDsa)]);
    let read = on.store.signing_keys().await.unwrap();
    for keys in [present, read] {
        assert_eq!(named(&keys), [("first", KeyState::Current)]);
        let (kept, asked) = (&keys[0], key("first"));
        assert_eq!((kept.life.algorithm, &kept.sealed_pkcs8), (asked.algorithm, &asked.sealed_pkcs8));
        let times = (kept.life.published_at, kept.life.activated_at, kept.life.verifies_until);
        assert_eq!(times, (NOW, Some(NOW), None));
    }
    let (steps, present) = on.keys(Order::Due, NOW, &[key("second")]).await;
    assert_eq!((steps.len(), present.len()), (0, 1), "a second one is not added");
}

async fn nothing_is_done_when_a_key_is_missing_that_would_be_needed(on: Fixture) {
    let KeysAdvanced::Needs(algorithms) = ask(&on.store, Order::Due, NOW, &[]).await else { panic!("of nothing") };
    assert_eq!(algorithms, NEEDED);
    on.keys(Order::Due, NOW, &[key("first")]).await;
    assert!(matches!(ask(&on.store, Order::Retire("first"), NOW, &[]).await, KeysAdvanced::Needs(_)));
    assert_eq!(named(&on.store.signing_keys().await.unwrap()), [("first", KeyState::Current)], "it signs on");
}

async fn another_algorithm_has_a_key_of_its_own(on: Fixture) {
    on.keys(Order::Due, NOW, &[key("first")]).await;
    let both = KeyAsk {
        order: Order::Due,
        needed: &[Algorithm::EdDsa, Algorithm::Rs256],
        rules: &RULES,
        now: hours(1),
        by: &Actor::System,
    };
    for kid in ["second", "third"] {
        let rsa = NewKey { algorithm: Algorithm::Rs256, ..key(kid) };
        let KeysAdvanced::Done(_, present) = on.store.advance_signing_keys(&both, &[rsa]).await.unwrap() else {
            panic!("a key was given")
        };
        assert_eq!(named(&present), [("first", KeyState::Current), ("second", KeyState::Current)]);
    }
}

async fn a_key_is_published_then_signs_then_verifies_and_then_is_gone(on: Fixture) {
    on.keys(Order::Due, NOW, &[key("a")]).await;
    let (_, keys) = on.keys(Order::Due, hours(23), &[key("b")]).await;
    assert_eq!(named(&keys), [("a", KeyState::Current), ("b", KeyState::Next)]);
    assert_eq!((keys[1].life.published_at, keys[1].life.activated_at), (hours(23), None));

    let (_, keys) = on.keys(Order::Due, hours(24), &[]).await;
    assert_eq!(named(&keys), [("a", KeyState::Previous), ("b", KeyState::Current)]);
    let until = hours(24).plus(RULES.verify_for);
    assert_eq!((keys[0].life.verifies_until, keys[1].life.activated_at), (Some(until), Some(hours(24))));
    assert_eq!(on.store.signing_keys().await.unwrap()[0].life, keys[0].life);

    let (_, keys) = on.keys(Order::Due, until.minus(Duration::from_micros(1)), &[]).await;
    assert_eq!(keys.len(), 2);
    let (steps, keys) = on.keys(Order::Due, until, &[]).await;
    assert_eq!((steps, named(&keys)), (vec![Step::Remove("a".into())], vec![("b", KeyState::Current)]));
}

async fn a_retired_key_is_gone_and_the_next_one_signs(on: Fixture) {
    on.keys(Order::Due, NOW, &[key("a")]).await;
    let (_, keys) = on.keys(Order::Retire("a"), hours(1), &[key("b")]).await;
    assert_eq!(named(&keys), [("b", KeyState::Current)]);
    on.keys(Order::Publish, hours(2), &[key("c")]).await;
    let (_, keys) = on.keys(Order::Retire("b"), hours(2), &[key("unused")]).await;
    assert_eq!(named(&keys), [("c", KeyState::Current)]);
    let (steps, keys) = on.keys(Order::Retire("b"), hours(3), &[]).await;
    assert_eq!((steps.len(), keys.len()), (0, 1), "once is enough");
}

async fn gateways_starting_at_once_make_one_key(on: Fixture) {
    let seen = on.at_once(Order::Due, NOW).await;
    assert!(seen.iter().all(|keys| keys.len() == 1 && named(keys) == named(&seen[0])), "{seen:?}");
}

async fn of_many_who_do_a_due_step_at_once_one_does_it(on: Fixture) {
    on.keys(Order::Due, NOW, &[key("a")]).await;
    let seen = on.at_once(Order::Due, hours(23)).await;
    assert!(seen.iter().all(|keys| keys.len() == 2 && named(keys) == named(&seen[0])), "one is published");
    let next = seen[0][1].life.kid.clone();
    let seen = on.at_once(Order::Due, hours(24)).await;
    for keys in &seen {
        assert_eq!(named(keys), [("a", KeyState::Previous), (next.as_str(), KeyState::Current)]);
    }
    assert_eq!(on.audited("key_activated").await, 2, "the first one, and this one once");
    assert_eq!(on.audited("key_published").await, 2);
}

async fn of_many_who_retire_the_current_key_at_once_one_puts_another_in_its_place(on: Fixture) {
    on.keys(Order::Due, NOW, &[key("a")]).await;
    let seen = on.at_once(Order::Retire("a"), hours(1)).await;
    assert!(seen.iter().all(|keys| keys.len() == 1 && named(keys) == named(&seen[0])), "{seen:?}");
    assert_eq!(on.audited("key_retired").await, 1);
}

async fn each_step_is_audited_with_the_key_s_name(on: Fixture) {
    on.keys(Order::Due, NOW, &[key("a")]).await;
    on.keys(Order::Publish, NOW, &[key("b")]).await;
    on.keys(Order::Promote(Duration::ZERO), NOW, &[]).await;
    on.keys(Order::Retire("a"), NOW, &[]).await;
    for (event, kid, times) in [
        ("key_published", "a", 1),
        ("key_published", "b", 1),
        ("key_activated", "a", 1),
        ("key_activated", "b", 1),
        ("key_retired", "a", 1),
        ("key_retired", "b", 0),
    ] {
        assert_eq!(on.audited_of(event, kid).await, times, "{event} of {kid}");
    }
}

async fn whatever_goes_wrong_one_key_signs_and_one_follows_it(on: Fixture) {
    on.keys(Order::Due, NOW, &[key("a")]).await;
    on.keys(Order::Publish, NOW, &[key("b")]).await;
    for state in ["current", "next"] {
        let taken = on.execute(&format!("UPDATE signing_keys SET state = '{state}'")).await;
        assert!(taken.is_err(), "two are {state}");
    }
}

async fn a_sealed_key_opens_after_a_restart_and_under_no_other_master_key(on: Fixture) {
    let mut settings = on.settings.clone();
    if matches!(settings.engine, Engine::Postgres { .. }) {
        settings.master_key = Some(vec![7; 32].into());
    }
    let key_of = |settings: &settings::Store, sealed| master_key::master_key(settings, sealed, &SystemEntropy).unwrap();
    let sealed_pkcs8 = key_of(&settings, false).seal("signing-key", "first", [1; 12], b"private");
    on.keys(Order::Due, NOW, &[NewKey { sealed_pkcs8, ..key("first") }]).await;

    let stored = sql::open(&settings).await.unwrap().signing_keys().await.unwrap().remove(0);
    let opened = key_of(&settings, true).open("signing-key", &stored.life.kid, &stored.sealed_pkcs8).unwrap();
    assert_eq!(opened.expose_secret(), b"private");
    settings.master_key = Some(vec![8; 32].into());
    assert!(key_of(&settings, true).open("signing-key", &stored.life.kid, &stored.sealed_pkcs8).is_err());
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
    let mut late = tokio::spawn(async move { ask(&store, Order::Due, NOW, &[key("late")]).await });
    tokio::select! {
        keys = &mut late => panic!("it did not wait: {keys:?}"),
        () = on.somebody_waits() => {}
    }
    sqlx::raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    let KeysAdvanced::Done(steps, keys) = late.await.unwrap() else { panic!("a key was given") };
    assert_eq!((steps.len(), named(&keys)), (0, vec![("rival", KeyState::Current)]));
}
