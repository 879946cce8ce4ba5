//! Limits counted by the master that sentinels name: one that is killed or frozen is followed by the replica that they
//! promote; in between each gateway counts for itself, and nobody waits longer than one deadline.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use portcullis::{
    clock::{Clock, SystemClock},
    config::settings::{self, Sentinel},
    store::{
        limits::Limiter,
        redis::{CallResult, Purpose, Redis},
    },
};
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    redis::{PATIENT, Told, admitted, limit, open_by, soon},
    support::redis_sentinel::{RedisSentinel, SENTINEL_PASSWORD, SERVICE},
};

fn settings(servers: &RedisSentinel, deadline: Duration) -> settings::Redis {
    let sentinel = Sentinel {
        service: SERVICE.into(),
        servers: servers.sentinels(),
        username: None,
        password: Some(SENTINEL_PASSWORD.into()),
    };
    let retry = Duration::from_millis(50);
    settings::Redis { sentinel: Some(sentinel), retry, ..crate::redis::settings(&RedisSentinel::url(), deadline) }
}

/// A gateway that looks after its Redis, as a running one does.
async fn gateway(servers: &RedisSentinel, deadline: Duration, told: &Told) -> Arc<Redis> {
    let redis = open_by(&settings(servers, deadline), told).await;
    let looked_after = Arc::clone(&redis);
    tokio::spawn(async move { looked_after.maintain().await });
    redis
}

fn limiter(redis: &Arc<Redis>, burst: u32) -> Arc<Limiter> {
    Arc::new(Limiter::new(&limit(burst, 0), Some(redis), 1_000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_master_is_killed_limits_go_on_at_the_promoted_replica() {
    let mut servers = RedisSentinel::private();
    let (told, other_told) = (Told::default(), Told::default());
    let (one, other) = (gateway(&servers, PATIENT, &told).await, gateway(&servers, PATIENT, &other_told).await);
    assert!(one.is_up() && other.is_up() && !told.facts().lost);
    let (a, b) = (limiter(&one, 6), limiter(&other, 6));
    for limiter in [&a, &b, &a] {
        assert!(admitted(limiter).await);
    }
    assert_eq!(told.facts().alone, 0, "the two count together");

    servers.stop(0);
    // The connection breaks: nobody waits, each counts for itself and from what it has admitted before.
    soon(async || !one.is_up() || !admitted(&a).await || told.facts().alone > 0).await;
    assert!(told.facts().lost);
    servers.await_master(1);
    // The other has asked nothing since: it finds out when it looks.
    soon(async || one.check().await.is_ok() && other.check().await.is_ok()).await;
    assert!(!told.facts().lost && told.facts().alone > 0);

    // Together again, at the other server.
    let [fresh, there] = [&one, &other].map(|redis| Arc::new(Limiter::new(&fresh(), Some(redis), 100)));
    let mut count = 0;
    for limiter in [&fresh, &there].repeat(10) {
        count += usize::from(admitted(limiter).await);
    }
    assert_eq!(count, 4, "what one gateway may, together");
}

/// A limit of which nothing has been used.
fn fresh() -> settings::Limit {
    settings::Limit { name: "fresh".into(), ..limit(4, 0) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_master_is_waited_for_by_no_request_longer_than_the_deadline() {
    let mut servers = RedisSentinel::private();
    let (told, deadline) = (Told::default(), Duration::from_millis(250));
    let redis = gateway(&servers, deadline, &told).await;
    soon(async || redis.is_up()).await;
    // As much as can be asked: it is not what holds anybody up here.
    let most = limit(1_000_000, 0);
    let most = settings::Limit { period: Duration::from_secs(1), burst: NonZeroU32::MAX, ..most };
    let limiter = Arc::new(Limiter::new(&most, Some(&redis), 1_000));
    servers.pause(0);
    // Until the replica has taken over, and beyond: whatever is asked is answered, and one question in all is late.
    let (clock, mut waited) = (SystemClock::new(), Duration::ZERO);
    let taken_over = async {
        loop {
            let asked = clock.tick();
            assert!(admitted(&limiter).await);
            waited = waited.max(clock.tick().since(asked));
            if redis.is_up() && told.calls(Purpose::Charge, CallResult::Timeout) > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT * 3, taken_over).await.expect("the replica takes over");
    assert_eq!(told.calls(Purpose::Charge, CallResult::Timeout), 1);
    assert!(waited < deadline * 8, "on a busy machine: {waited:?}");
    servers.resume(0);
    servers.await_master(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sentinel_is_enough_to_find_the_master_and_none_to_keep_it() {
    let mut servers = RedisSentinel::private();
    servers.stop(2);
    servers.pause(3);
    let told = Told::default();
    let redis = gateway(&servers, PATIENT, &told).await;
    assert!(redis.is_up(), "one is dead, one is frozen, one answers");
    servers.stop(4);
    assert_eq!(redis.check().await, Ok(()), "a master that answers needs no sentinel");
    assert!(admitted(&limiter(&redis, 1)).await);
    assert_eq!(told.facts().alone, 0);
    servers.stop(0);
    let why = redis.check().await.unwrap_err();
    assert!(!why.contains("of-the-"), "{why}");
    let alone = open_by(&settings(&servers, PATIENT), &Told::default()).await;
    let why = alone.check().await.unwrap_err();
    assert!(why.starts_with("no sentinel names a master: "), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_no_sentinel_knows_is_no_master() {
    let servers = RedisSentinel::private();
    let mut settings = settings(&servers, PATIENT);
    settings.sentinel.as_mut().unwrap().service = "ours".into();
    let redis = open_by(&settings, &Told::default()).await;
    assert!(!redis.is_up());
    let why = redis.check().await.unwrap_err();
    assert_eq!(why, "no sentinel names a master: none knows a service ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_between_gateways_follow_the_master() {
    let mut servers = RedisSentinel::private();
    let (one, other) =
        (gateway(&servers, PATIENT, &Told::default()).await, gateway(&servers, PATIENT, &Told::default()).await);
    let (called, mut calls) = unbounded_channel();
    let listening = Arc::clone(&other);
    let listener = tokio::spawn(async move {
        loop {
            listening.called_by_gateways(&|| called.send(()).unwrap()).await;
            tokio::task::yield_now().await;
        }
    });
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("it listens").unwrap();
    one.call_gateways().await;
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("a call").unwrap();
    servers.stop(0);
    one.call_gateways().await;
    servers.await_master(1);
    soon(async || one.is_up() && other.is_up()).await;
    // Called for listening again.
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("it listens again").unwrap();
    while calls.try_recv().is_ok() {}
    one.call_gateways().await;
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("a call over the new master").unwrap();
    listener.abort();
}
