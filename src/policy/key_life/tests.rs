//! The rules by example, and by whatever gateways, commands and clocks may do.

use proptest::prelude::*;

use super::*;

const RULES: KeyRules = KeyRules {
    every: Some(Duration::from_hours(24)),
    publish_ahead: Duration::from_hours(1),
    verify_for: Duration::from_mins(21),
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn key(kid: &str, state: KeyState, published: i64) -> KeyLife {
    let (activated_at, verifies_until) = match state {
        KeyState::Next => (None, None),
        KeyState::Current => (Some(at(published)), None),
        KeyState::Previous => (Some(at(published)), Some(at(published + 5_000))),
    };
    let (kid, published_at) = (kid.to_owned(), at(published));
    KeyLife { kid, algorithm: Algorithm::Es256, state, published_at, activated_at, verifies_until }
}

fn due(keys: &[KeyLife], now: i64) -> Vec<Step> {
    plan(keys, &[Algorithm::Es256], &RULES, Order::Due, at(now))
}

#[test]
fn the_first_key_of_an_algorithm_signs_at_once() {
    let needed = [Algorithm::Es256, Algorithm::Rs256];
    let steps = plan(&[], &needed, &RULES, Order::Due, at(0));
    assert_eq!(steps, [Step::Begin(Algorithm::Es256), Step::Begin(Algorithm::Rs256)]);
    assert_eq!(
        plan(&[key("a", KeyState::Current, 0)], &needed, &RULES, Order::Due, at(0)),
        [Step::Begin(Algorithm::Rs256)]
    );
}

#[test]
fn a_scheduled_key_is_published_ahead_and_then_signs() {
    let mut keys = vec![key("a", KeyState::Current, 0)];
    assert_eq!(due(&keys, 23 * 3_600 - 1), []);
    assert_eq!(due(&keys, 23 * 3_600), [Step::Publish(Algorithm::Es256)]);
    keys.push(key("b", KeyState::Next, 23 * 3_600));
    assert_eq!(due(&keys, 24 * 3_600 - 1), []);
    let until = at(24 * 3_600 + 21 * 60);
    assert_eq!(due(&keys, 24 * 3_600), [Step::Demote("a".into(), until), Step::Activate("b".into())]);
}

#[test]
fn a_previous_key_goes_when_its_time_is_over() {
    let keys = [key("a", KeyState::Previous, 0), key("b", KeyState::Current, 5)];
    assert_eq!(due(&keys, 4_999), []);
    assert_eq!(due(&keys, 5_000), [Step::Remove("a".into())]);
}

#[test]
fn without_a_schedule_a_key_signs_on_until_somebody_asks() {
    let rules = KeyRules { every: None, ..RULES };
    let decide = |keys: &[KeyLife], order, now| plan(keys, &[Algorithm::Es256], &rules, order, at(now));
    let mut keys = vec![key("a", KeyState::Current, 0)];
    assert_eq!(decide(&keys, Order::Due, 1_000_000_000), []);
    assert_eq!(decide(&keys, Order::Publish, 1), [Step::Publish(Algorithm::Es256)]);
    keys.push(key("b", KeyState::Next, 1));
    assert_eq!(decide(&keys, Order::Publish, 2), [], "one at a time");
    assert_eq!(decide(&keys, Order::Due, 3_600), []);
    assert_eq!(decide(&keys, Order::Due, 3_601).len(), 2);
    assert_eq!(decide(&keys, Order::Promote(LEARNED), 5), []);
    assert_eq!(decide(&keys, Order::Promote(LEARNED), 6).len(), 2);
}

#[test]
fn a_retired_key_is_gone_and_another_signs_in_its_place() {
    let decide = |keys: &[KeyLife], kid| plan(keys, &[Algorithm::Es256], &RULES, Order::Retire(kid), at(10));
    let mut keys = vec![key("old", KeyState::Previous, 0), key("a", KeyState::Current, 5)];
    assert_eq!(decide(&keys, "old"), [Step::Remove("old".into())]);
    assert_eq!(decide(&keys, "a"), [Step::Remove("a".into()), Step::Begin(Algorithm::Es256)]);
    assert_eq!(decide(&keys, "nobody"), []);
    keys.push(key("b", KeyState::Next, 9));
    assert_eq!(decide(&keys, "a"), [Step::Remove("a".into()), Step::Activate("b".into())]);
    assert_eq!(decide(&keys, "b"), [Step::Remove("b".into())]);
}

#[test]
fn keys_that_nothing_needs_are_not_followed_by_others() {
    let keys = [key("a", KeyState::Current, 0)];
    assert_eq!(plan(&keys, &[], &RULES, Order::Due, at(1_000_000)), []);
    assert_eq!(plan(&keys, &[], &RULES, Order::Publish, at(1)), []);
    assert_eq!(plan(&keys, &[], &RULES, Order::Retire("a"), at(1)), [Step::Remove("a".into())]);
}

#[test]
fn there_are_never_more_keys_than_readers_take() {
    let mut keys: Vec<_> = (1..MOST).map(|i| key(&format!("p{i}"), KeyState::Previous, 10_000)).collect();
    keys.push(key("a", KeyState::Current, 0));
    assert_eq!(plan(&keys, &[Algorithm::Es256], &RULES, Order::Publish, at(10_000)), []);
}

#[test]
fn a_key_verifies_as_long_as_any_token_it_signed_may_live() {
    let minutes = Duration::from_mins;
    let rules = |ttl| KeyRules::new(None, minutes(60), ttl, Duration::from_secs(30)).verify_for;
    assert_eq!(rules(minutes(15)), minutes(20) + Duration::from_secs(30));
    assert_eq!(rules(Duration::from_secs(30)), minutes(6) + Duration::from_secs(30), "identities live a minute");
}

const TTL: Duration = Duration::from_mins(15);
const LEEWAY: Duration = Duration::from_mins(1);
const NEEDED: [Algorithm; 2] = [Algorithm::Es256, Algorithm::Rs256];

#[derive(Debug, Clone)]
enum Deed {
    Due,
    Publish,
    Promote,
    Retire(usize),
    Issue,
}

/// One deed: how long after the last, by how many seconds the clock of who does it is off.
fn deeds() -> impl Strategy<Value = Vec<(u64, i64, Deed)>> {
    let deed = prop_oneof![
        6 => Just(Deed::Due),
        2 => Just(Deed::Publish),
        2 => Just(Deed::Promote),
        1 => (0_usize..8).prop_map(Deed::Retire),
        6 => Just(Deed::Issue),
    ];
    let wait = prop_oneof![5 => 0_u64..900, 1 => 3_000_u64..4_000, 1 => 80_000_u64..90_000];
    proptest::collection::vec((wait, -120_i64..=120, deed), 1..120)
}

/// What the store does with the steps.
fn take(keys: &mut Vec<KeyLife>, steps: Vec<Step>, now: Timestamp, made: &mut u32) {
    fn find<'a>(keys: &'a mut [KeyLife], kid: &str) -> &'a mut KeyLife {
        keys.iter_mut().find(|key| key.kid == kid).unwrap()
    }
    for step in steps {
        *made += 1;
        let new = |algorithm, state, activated_at| {
            let kid = format!("{made}");
            KeyLife { kid, algorithm, state, published_at: now, activated_at, verifies_until: None }
        };
        match step {
            Step::Publish(algorithm) => keys.push(new(algorithm, KeyState::Next, None)),
            Step::Begin(algorithm) => keys.push(new(algorithm, KeyState::Current, Some(now))),
            Step::Demote(kid, until) => {
                let key = find(keys, &kid);
                (key.state, key.verifies_until) = (KeyState::Previous, Some(until));
            }
            Step::Activate(kid) => {
                let key = find(keys, &kid);
                (key.state, key.activated_at) = (KeyState::Current, Some(now));
            }
            Step::Remove(kid) => keys.retain(|key| key.kid != kid),
        }
    }
}

proptest! {
    /// Gateways and commands whose clocks are up to four minutes apart, in any order: each algorithm always has one
    /// current key and at most one next; none signs that was not published ahead, but in the place of one that was
    /// retired; none goes while a token it signed may be accepted, unless it was retired.
    #[test]
    fn whatever_is_done_in_whatever_order_somebody_signs_and_every_live_token_verifies(deeds in deeds()) {
        let rules = KeyRules::new(RULES.every, RULES.publish_ahead, TTL, LEEWAY);
        let (mut keys, mut tokens, mut made) = (Vec::new(), Vec::<(String, Timestamp)>::new(), 0);
        let mut time = at(1_000_000_000);
        take(&mut keys, plan(&[], &NEEDED, &rules, Order::Due, time), time, &mut made);
        for (wait, skew, deed) in deeds {
            time = time.plus(Duration::from_secs(wait));
            let now = Timestamp::from_seconds(time.seconds() + skew);
            let kid = match &deed {
                Deed::Retire(place) => keys.get(*place).map(|key: &KeyLife| key.kid.clone()).unwrap_or_default(),
                _ => String::new(),
            };
            let order = match deed {
                Deed::Due => Order::Due,
                Deed::Publish => Order::Publish,
                Deed::Promote => Order::Promote(LEARNED),
                Deed::Retire(_) => Order::Retire(&kid),
                Deed::Issue => {
                    let current = keys.iter().filter(|key| key.state == KeyState::Current);
                    tokens.extend(current.map(|key| (key.kid.clone(), now.plus(TTL).plus(LEEWAY))));
                    continue;
                }
            };
            let steps = plan(&keys, &NEEDED, &rules, order, now);
            for step in &steps {
                if let Step::Activate(kid) = step {
                    let key = keys.iter().find(|key| key.kid == *kid).unwrap();
                    let long_enough = match order {
                        Order::Due => key.published_at.plus(rules.publish_ahead) <= now,
                        Order::Promote(ahead) => key.published_at.plus(ahead) <= now,
                        _ => true,
                    };
                    prop_assert!(key.state == KeyState::Next && long_enough, "{key:?}");
                }
            }
            take(&mut keys, steps, now, &mut made);
            tokens.retain(|(signed_by, _)| *signed_by != kid);
            for (signed_by, good_until) in &tokens {
                let there = keys.iter().any(|key| key.kid == *signed_by);
                prop_assert!(there || *good_until < now, "{signed_by} is gone, its token good until {good_until:?}");
            }
            for algorithm in NEEDED {
                let count = |state| keys.iter().filter(|key| key.algorithm == algorithm && key.state == state).count();
                prop_assert_eq!(count(KeyState::Current), 1, "{}", algorithm);
                prop_assert!(count(KeyState::Next) <= 1 && keys.len() <= 2 * MOST);
            }
        }
    }
}
