//! What Redis counts for several gateways, asked through the script itself: time passes by rewriting what is stored.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    clock::Tick,
    config::settings::{self, KeyPart, Limit, LimitKey, LimitScope},
    store::{
        limits::{Charge, Limiter},
        memory::limits::{CounterKey, Decision},
        redis::{CallResult, Observer, Purpose, Redis},
    },
};

use crate::support;

/// Time stands still here: what a gateway knows by itself never fades.
pub(crate) const NOW: Tick = Tick::from_nanos(1_000_000_000);
const KEY: CounterKey = CounterKey::Subject(0xabc);
const BUCKET: &str = "test:limit:it:s:00000000000000000000000000000abc";

/// What a gateway's Redis told.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Facts>>);

#[derive(Clone, Default)]
pub(crate) struct Facts {
    pub(crate) calls: Vec<(Purpose, CallResult)>,
    pub(crate) lost: bool,
    pub(crate) alone: usize,
}

impl Told {
    pub(crate) fn facts(&self) -> Facts {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self, purpose: Purpose, result: CallResult) -> usize {
        self.facts().calls.iter().filter(|call| **call == (purpose, result)).count()
    }
}

impl Observer for Told {
    fn called(&self, purpose: Purpose, result: CallResult) {
        self.0.lock().unwrap().calls.push((purpose, result));
    }

    fn lost(&self, lost: bool) {
        self.0.lock().unwrap().lost = lost;
    }

    fn counted_alone(&self) {
        self.0.lock().unwrap().alone += 1;
    }
}

/// The machine may be busy; a test that must not wait this long does not.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

async fn redis(url: &str) -> Arc<Redis> {
    open(url, PATIENT, &Told::default()).await
}

pub(crate) async fn open(url: &str, deadline: Duration, told: &Told) -> Arc<Redis> {
    open_by(&settings(url, deadline), told).await
}

pub(crate) fn settings(url: &str, deadline: Duration) -> settings::Redis {
    let retry = Duration::from_mins(1);
    settings::Redis {
        url: url.into(),
        ca: None,
        cluster: None,
        sentinel: None,
        prefix: "test:".into(),
        deadline,
        retry,
    }
}

pub(crate) async fn open_by(settings: &settings::Redis, told: &Told) -> Arc<Redis> {
    Arc::new(Redis::open(settings, Box::new(told.clone())).await.unwrap())
}

/// So many an hour and at once, so that nothing flows back while a test runs.
pub(crate) fn limit(burst: u32, lease: u32) -> Limit {
    Limit {
        name: "it".into(),
        key: LimitKey::one(KeyPart::Subject),
        requests: NonZeroU32::new(burst).unwrap(),
        period: Duration::from_hours(burst.into()),
        burst: NonZeroU32::new(burst).unwrap(),
        scope: LimitScope::Shared { lease },
        shadow: false,
        max_keys: 1_000,
    }
}

/// A gateway's view of the limit.
async fn gateway(server: &support::redis::Redis, limit: &Limit) -> Arc<Limiter> {
    Arc::new(Limiter::new(limit, Some(&redis(&server.url()).await), 1_000))
}

pub(crate) async fn charge(limiter: &Arc<Limiter>) -> Decision {
    match limiter.charge(&KEY, NOW) {
        Charge::Decided(decision) => decision,
        Charge::Waits(waiting) => waiting.await,
    }
}

pub(crate) async fn admitted(limiter: &Arc<Limiter>) -> bool {
    matches!(charge(limiter).await, Decision::Admitted { .. })
}

/// The number behind `:` on the wire.
fn number(answer: &str) -> i64 {
    answer.trim().trim_start_matches(':').parse().unwrap()
}

#[test]
fn redis_answers_ping_and_is_gone_when_dropped() {
    let redis = support::redis::Redis::private();
    let socket = redis.socket();
    assert_eq!(redis.ask(&["PING"]), "+PONG\r\n");
    drop(redis);
    assert!(!socket.exists());
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_err());
}

#[tokio::test]
async fn two_gateways_without_leases_admit_exactly_the_limit() {
    let server = support::redis::Redis::private();
    let limit = limit(5, 0);
    let (one, other) = (gateway(&server, &limit).await, gateway(&server, &limit).await);
    for (gateway, left) in [(&one, 4), (&other, 3), (&one, 2), (&other, 1), (&one, 0)] {
        let Decision::Admitted { remaining, reset } = charge(gateway).await else { panic!("refused with {left} left") };
        assert_eq!(remaining, left);
        let full = Duration::from_hours(u64::from(5 - left));
        assert!(reset <= full && reset + Duration::from_mins(1) > full, "{reset:?}");
    }
    for gateway in [&one, &other] {
        let Decision::Refused { retry_after, reset } = charge(gateway).await else { panic!("the sixth is admitted") };
        assert!(retry_after <= Duration::from_hours(1) && retry_after > Duration::from_mins(59), "{retry_after:?}");
        assert!(reset <= Duration::from_hours(5) && reset > Duration::from_hours(4), "{reset:?}");
        assert!(gateway.refusal(&KEY, NOW).is_some(), "a peek knows it from now on");
    }
}

#[tokio::test]
async fn what_time_gives_back_is_admitted_again_and_no_more() {
    let server = support::redis::Redis::private();
    let limit = limit(5, 0);
    let one = gateway(&server, &limit).await;
    for _ in 0..5 {
        assert!(admitted(&one).await);
    }
    // Two hours and a half pass: the bucket is full that much earlier.
    let full_at: f64 = server.ask(&["GET", BUCKET]).lines().nth(1).unwrap().parse().unwrap();
    server.ask(&["SET", BUCKET, &format!("{:.3}", full_at - 2.5 * 3.6e9)]);
    let fresh = gateway(&server, &limit).await;
    let again = [admitted(&fresh).await, admitted(&fresh).await, admitted(&fresh).await];
    assert_eq!(again, [true, true, false]);
}

#[tokio::test]
async fn every_key_goes_by_itself() {
    let server = support::redis::Redis::private();
    let one = gateway(&server, &limit(5, 2)).await;
    for _ in 0..3 {
        assert!(admitted(&one).await);
        let keys = server.ask(&["KEYS", "*"]);
        assert!(keys.contains(BUCKET), "{keys}");
        let life = number(&server.ask(&["PTTL", BUCKET]));
        assert!(life > 0 && life <= 5 * 3_600_000, "gone when the bucket is full: {life}");
    }
    assert!(number(&server.ask(&["PTTL", "test:probe"])) != -1, "what is written to look for life ends too");
}

#[tokio::test]
async fn a_clock_set_back_or_a_smaller_burst_shuts_nobody_out_for_longer_than_a_window() {
    let server = support::redis::Redis::private();
    server.ask(&["SET", BUCKET, "9e15"]);
    let one = gateway(&server, &limit(5, 0)).await;
    let Decision::Refused { retry_after, .. } = charge(&one).await else { panic!("an empty bucket admits") };
    assert!(retry_after <= Duration::from_hours(1), "{retry_after:?}");
}

#[tokio::test]
async fn leases_together_never_exceed_the_limit_while_nothing_flows_back() {
    let server = support::redis::Redis::private();
    let limit = limit(100, 10);
    let gateways = [gateway(&server, &limit).await, gateway(&server, &limit).await, gateway(&server, &limit).await];
    let mut total = 0;
    let mut refused = 0;
    // Whoever is asked last must say no, too: some may still hold a lease.
    while refused < 3 && total <= 100 {
        refused = 0;
        for gateway in &gateways {
            if admitted(gateway).await {
                total += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(total <= 100, "{total}");
    assert!(total >= 100 - 3 * 10, "no more than a lease may lie at each: {total}");
}

#[tokio::test]
async fn a_script_that_redis_has_forgotten_is_sent_again() {
    let server = support::redis::Redis::private();
    let one = gateway(&server, &limit(5, 0)).await;
    assert!(admitted(&one).await);
    server.ask(&["SCRIPT", "FLUSH", "SYNC"]);
    server.ask(&["FLUSHALL"]);
    let Decision::Admitted { remaining, .. } = charge(&one).await else { panic!("refused") };
    assert_eq!(remaining, 4, "a wiped Redis has lost the count and nothing else");
}

#[tokio::test]
async fn a_redis_that_cannot_write_is_lost_and_not_back_before_it_can() {
    let server = support::redis::Redis::private();
    let redis = redis(&server.url()).await;
    let one = Arc::new(Limiter::new(&limit(5, 0), Some(&redis), 1_000));
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(admitted(&one).await, "counted here");
    assert!(!redis.is_up());
    let told = redis.check().await.unwrap_err();
    assert!(told.contains("OOM"), "{told}");
    assert!(!redis.is_up());
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    redis.check().await.unwrap();
    assert!(redis.is_up());
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it() {
    let server = support::redis::Redis::with_password("planted-redis-password-31");
    assert!(redis(&server.url()).await.is_up());
    let wrong = redis(&server.url().replace("planted-redis", "planted-wrong")).await;
    assert!(!wrong.is_up());
    let told = format!("{} {wrong:?}", wrong.check().await.unwrap_err());
    assert!(!told.contains("planted"), "{told}");
}

#[tokio::test]
async fn with_a_lease_at_hand_nobody_waits() {
    let server = support::redis::Redis::private();
    let told = Told::default();
    let redis = open(&server.url(), PATIENT, &told).await;
    let one = Arc::new(Limiter::new(&limit(1_000, 100), Some(&redis), 1_000));
    let (mut waited, mut admitted) = (0, 0);
    for _ in 0..900 {
        // What was taken ahead arrives before the next request: this is about waiting, not about racing.
        soon(async || told.calls(Purpose::Lease, CallResult::Answered) >= taken(admitted)).await;
        let decision = match one.charge(&KEY, NOW) {
            Charge::Decided(decision) => decision,
            Charge::Waits(waiting) => {
                waited += 1;
                waiting.await
            }
        };
        assert!(matches!(decision, Decision::Admitted { .. }), "{admitted}");
        admitted += 1;
    }
    assert_eq!(waited, 2, "the first two: until then nobody knows that the key is busy");
    assert_eq!(told.calls(Purpose::Charge, CallResult::Answered), 2);
    assert!(told.calls(Purpose::Lease, CallResult::Answered) < 30, "each for fifty requests, until the end is near");
}

/// Until it is so; fails the test when it never is.
pub(crate) async fn soon(reached: impl AsyncFn() -> bool) {
    let reached = async {
        while !reached().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT, reached).await.expect("it happens");
}

/// Questions for a lease of a hundred after so many requests: one when the key is busy, one for each half of it.
fn taken(admitted: usize) -> usize {
    if admitted < 2 { 0 } else { 1 + (admitted - 2) / 50 }
}

/// From the moment it is lost until it is found again.
async fn assert_one_question_finds_out(redis: &Arc<Redis>, told: &Told, result: CallResult) {
    let limit = limit(50, 10);
    let one = Arc::new(Limiter::new(&limit, Some(redis), 1_000));
    let first = tokio::time::timeout(PATIENT, admitted(&one)).await.expect("no request waits past the deadline");
    assert!(first, "by this gateway alone");
    assert!(told.facts().lost && !redis.is_up());
    for left in (0..49).rev() {
        let Charge::Decided(decision) = one.charge(&KEY, NOW) else { panic!("waits for a Redis that is lost") };
        let Decision::Admitted { remaining, .. } = decision else { panic!("refused with {left} left") };
        assert_eq!(remaining, left, "the limit holds, counted here");
    }
    assert!(matches!(charge(&one).await, Decision::Refused { .. }));
    assert!(one.refusal(&KEY, NOW).is_some());
    assert_eq!(told.facts().alone, 51);
    let asked = told.facts().calls.into_iter().filter(|(_, one)| *one != CallResult::Answered).collect::<Vec<_>>();
    assert_eq!(asked, [(Purpose::Charge, result)]);
}

#[tokio::test]
async fn a_killed_redis_is_asked_once_and_limits_are_counted_here() {
    let mut server = support::redis::Redis::private();
    let told = Told::default();
    let redis = open(&server.url(), PATIENT, &told).await;
    server.stop();
    assert_one_question_finds_out(&redis, &told, CallResult::Failed).await;
    assert!(redis.check().await.is_err());
    server.start();
    redis.check().await.unwrap();
    assert!(!told.facts().lost && redis.is_up());
}

#[tokio::test]
async fn a_frozen_redis_is_waited_for_once_and_limits_are_counted_here() {
    let server = support::redis::Redis::private();
    let told = Told::default();
    let redis = open(&server.url(), Duration::from_secs(1), &told).await;
    server.pause();
    assert_one_question_finds_out(&redis, &told, CallResult::Timeout).await;
    server.resume();
    soon(async || redis.check().await.is_ok()).await;
    assert!(!told.facts().lost && redis.is_up());
}

#[tokio::test]
async fn a_redis_that_is_not_there_yet_holds_up_nothing() {
    let mut server = support::redis::Redis::private();
    server.stop();
    let told = Told::default();
    let redis = open(&server.url(), PATIENT, &told).await;
    assert!(told.facts().lost && !redis.is_up());
    let one = Arc::new(Limiter::new(&limit(5, 0), Some(&redis), 1_000));
    assert!(matches!(one.charge(&KEY, NOW), Charge::Decided(Decision::Admitted { .. })));
    server.start();
    redis.check().await.unwrap();
    assert!(admitted(&one).await && !told.facts().lost);
    assert_eq!(told.calls(Purpose::Charge, CallResult::Answered), 1);
}

#[tokio::test]
async fn a_lease_is_at_most_half_of_what_is_left() {
    let server = support::redis::Redis::private();
    let (limit, told) = (limit(10, 10), Told::default());
    let redis = open(&server.url(), PATIENT, &told).await;
    let one = Arc::new(Limiter::new(&limit, Some(&redis), 1_000));
    assert!(admitted(&one).await && admitted(&one).await);
    soon(async || told.calls(Purpose::Lease, CallResult::Answered) == 1).await;
    let other = gateway(&server, &Limit { scope: LimitScope::Shared { lease: 0 }, ..limit }).await;
    for left in (0..4).rev() {
        assert!(admitted(&other).await, "two are spent, four lie at the first gateway, {left} more are here");
    }
    assert!(!admitted(&other).await);
}
