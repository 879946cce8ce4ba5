//! Limits counted by a Redis Cluster: each key by its master, and only a lost master's keys by each gateway alone.

use std::{sync::Arc, time::Duration};

use portcullis::{
    config::settings,
    store::{
        limits::{Charge, Limiter},
        memory::limits::{CounterKey, Decision},
        redis::{CallResult, Purpose, Redis},
    },
};

use crate::{
    redis::{NOW, PATIENT, Told, admitted, limit, open_by, soon},
    support::redis_cluster::{RedisCluster, SHARES},
};

fn settings(cluster: &RedisCluster, master: usize, deadline: Duration) -> settings::Redis {
    settings::Redis { cluster: Some(Vec::new()), ..crate::redis::settings(&cluster.url(master), deadline) }
}

async fn gateway(cluster: &RedisCluster, master: usize, told: &Told) -> Arc<Redis> {
    open_by(&settings(cluster, master, PATIENT), told).await
}

fn limiter(redis: &Arc<Redis>, burst: u32) -> Arc<Limiter> {
    Arc::new(Limiter::new(&limit(burst, 0), Some(redis), 1_000))
}

fn bucket(key: u128) -> String {
    format!("test:limit:it:{}", CounterKey::Subject(key))
}

/// The slot of a key, as a server says; the last one is never killed here.
fn slot_of(cluster: &RedisCluster, key: &str) -> u16 {
    cluster.ask(2, &["CLUSTER", "KEYSLOT", key]).trim().trim_start_matches(':').parse().unwrap()
}

fn master_of(cluster: &RedisCluster, key: &str) -> usize {
    let slot = slot_of(cluster, key);
    SHARES.iter().position(|(_, last)| slot <= *last).unwrap()
}

/// What the others call a server.
fn id_of(cluster: &RedisCluster, master: usize) -> String {
    cluster.ask(master, &["CLUSTER", "MYID"]).lines().nth(1).unwrap().to_owned()
}

/// So many keys that this master counts.
fn keys_of(cluster: &RedisCluster, master: usize, count: usize) -> Vec<CounterKey> {
    let keys = (0..).filter(|key| master_of(cluster, &bucket(*key)) == master);
    keys.take(count).map(CounterKey::Subject).collect()
}

/// What is left after one more request; `None`: refused.
async fn left(limiter: &Arc<Limiter>, key: CounterKey) -> Option<u32> {
    let decision = match limiter.charge(&key, NOW) {
        Charge::Decided(decision) => decision,
        Charge::Waits(waiting) => waiting.await,
    };
    match decision {
        Decision::Admitted { remaining, .. } => Some(remaining),
        Decision::Refused { .. } => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_is_counted_by_its_master_for_all_gateways() {
    let cluster = RedisCluster::private();
    let told = Told::default();
    let (one, other) = (gateway(&cluster, 0, &told).await, gateway(&cluster, 2, &told).await);
    assert!(one.is_up() && other.is_up() && !told.facts().lost);
    let (one, other) = (limiter(&one, 3), limiter(&other, 3));
    for key in (0..40).map(CounterKey::Subject) {
        assert_eq!(left(&one, key).await, Some(2));
        assert_eq!(left(&other, key).await, Some(1));
        assert_eq!(left(&one, key).await, Some(0));
        assert_eq!(left(&other, key).await, None);
    }
    let held = |master| cluster.ask(master, &["KEYS", "test:limit:*"]).matches("test:limit:").count();
    let held = [held(0), held(1), held(2)];
    assert!(held.iter().sum::<usize>() == 40 && held.iter().all(|count| *count > 0), "{held:?}");
    assert_eq!(told.facts().alone, 0);
}

/// Keys of the lost master are counted here without a wait, all others by all gateways together.
async fn assert_only_its_keys_are_counted_alone(
    cluster: &RedisCluster,
    redis: &Arc<Redis>,
    told: &Told,
    why: CallResult,
) {
    let one = limiter(redis, 50);
    let lost = keys_of(cluster, 1, 3);
    let first = tokio::time::timeout(PATIENT, left(&one, lost[0])).await.expect("no request waits past the deadline");
    assert_eq!(first, Some(49), "by this gateway alone");
    assert!(told.facts().lost && !redis.is_up());
    for key in &lost[1..] {
        for left in (0..50).rev() {
            let Charge::Decided(decision) = one.charge(key, NOW) else { panic!("waits for a master that is lost") };
            let Decision::Admitted { remaining, .. } = decision else { panic!("refused with {left} left") };
            assert_eq!(remaining, left, "the limit holds, counted here");
        }
        assert!(one.refusal(key, NOW).is_some());
    }
    assert_eq!(told.facts().alone, 101);
    assert_eq!(told.calls(Purpose::Charge, why), 1, "one question found out");
    let others: Vec<_> = [0, 2].into_iter().flat_map(|master| keys_of(cluster, master, 2)).collect();
    for key in others {
        assert_eq!(left(&one, key).await, Some(49));
        assert_eq!(left(&limiter(redis, 50), key).await, Some(48), "together");
    }
    assert_eq!(told.facts().alone, 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_costs_the_count_of_its_own_keys() {
    let mut cluster = RedisCluster::private();
    let told = Told::default();
    let redis = gateway(&cluster, 0, &told).await;
    cluster.stop(1);
    assert_only_its_keys_are_counted_alone(&cluster, &redis, &told, CallResult::Failed).await;
    assert!(redis.check().await.is_err());
    cluster.start(1);
    soon(async || redis.check().await.is_ok()).await;
    assert!(!told.facts().lost && redis.is_up());
    let key = keys_of(&cluster, 1, 1)[0];
    assert_eq!((left(&limiter(&redis, 5), key).await, left(&limiter(&redis, 5), key).await), (Some(4), Some(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_master_is_waited_for_once() {
    let cluster = RedisCluster::private();
    let told = Told::default();
    let redis = open_by(&settings(&cluster, 0, Duration::from_secs(1)), &told).await;
    cluster.pause(1);
    assert_only_its_keys_are_counted_alone(&cluster, &redis, &told, CallResult::Timeout).await;
    cluster.resume(1);
    soon(async || redis.check().await.is_ok()).await;
    assert!(!told.facts().lost && redis.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_moves_is_followed_with_its_count() {
    let cluster = RedisCluster::private();
    let told = Told::default();
    let redis = gateway(&cluster, 0, &told).await;
    let one = limiter(&redis, 9);
    let key = keys_of(&cluster, 0, 1)[0];
    let name = format!("test:limit:it:{key}");
    let slot = slot_of(&cluster, &name).to_string();
    assert_eq!(left(&one, key).await, Some(8));

    // Half-way: the slot is still the old master's, the key is at the new one already.
    let ok = |master, words: &[&str]| assert_eq!(cluster.ask(master, words), "+OK\r\n", "{words:?}");
    let (old, new) = (id_of(&cluster, 0), id_of(&cluster, 2));
    ok(2, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &old]);
    ok(0, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &new]);
    let (host, port) = (cluster.address(2).ip().to_string(), cluster.address(2).port().to_string());
    ok(0, &["MIGRATE", &host, &port, &name, "0", "5000"]);
    assert_eq!(left(&one, key).await, Some(7));

    // And over: the old master says so, the new one is asked at once.
    ok(2, &["CLUSTER", "SETSLOT", &slot, "NODE", &new]);
    ok(0, &["CLUSTER", "SETSLOT", &slot, "NODE", &new]);
    assert_eq!(left(&one, key).await, Some(6));
    assert!(redis.is_up() && told.facts().alone == 0, "nobody was lost");
    let asked = told.calls(Purpose::Charge, CallResult::Answered);
    // The map is read again, and nobody is asked in vain.
    soon(async || cluster.ask(1, &["CLUSTER", "SLOTS"]).contains(&format!(":{slot}\r\n:{slot}\r\n"))).await;
    redis.check().await.unwrap();
    assert_eq!(left(&one, key).await, Some(5));
    assert_eq!(told.calls(Purpose::Charge, CallResult::Answered), asked + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_seed_tells_the_map() {
    let mut cluster = RedisCluster::private();
    cluster.stop(0);
    let told = Told::default();
    let alone = gateway(&cluster, 0, &told).await;
    assert!(told.facts().lost && !alone.is_up());
    let key = keys_of(&cluster, 1, 1)[0];
    assert!(matches!(limiter(&alone, 5).charge(&key, NOW), Charge::Decided(Decision::Admitted { remaining: 4, .. })));
    let seed = (cluster.address(2).ip().to_string(), cluster.address(2).port());
    let seeded = settings::Redis { cluster: Some(vec![seed]), ..settings(&cluster, 0, PATIENT) };
    let told = Told::default();
    let seeded = open_by(&seeded, &told).await;
    assert!(told.facts().lost && !seeded.is_up(), "one master is missing");
    assert_eq!(left(&limiter(&seeded, 5), key).await, Some(4));
    assert_eq!(left(&limiter(&seeded, 5), key).await, Some(3), "by its master");
    cluster.start(0);
    soon(async || alone.check().await.is_ok()).await;
    assert_eq!(left(&limiter(&alone, 5), key).await, Some(2));
}

#[tokio::test]
async fn a_server_that_is_no_cluster_tells_no_map() {
    let cluster = RedisCluster::private();
    // The other way round: what is a cluster is no single server.
    let redis = open_by(&crate::redis::settings(&cluster.url(0), PATIENT), &Told::default()).await;
    let told = if redis.is_up() { String::new() } else { redis.check().await.unwrap_err() };
    let foreign = keys_of(&cluster, 1, 1)[0];
    assert!(admitted(&limiter(&redis, 5)).await, "{told}");
    assert_eq!(left(&limiter(&redis, 5), foreign).await, Some(4), "counted here");
    assert!(!redis.is_up());
}
