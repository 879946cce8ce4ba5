//! Quotas: never more than there is, however many ledgers take of it at once; nothing leaks; what is not known counts
//! as used. Ledgers stand for gateways.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use portcullis::{
    clock::{Clock, Tick, Timestamp},
    config::settings::{Engine, KeyPart, LimitKey, Quota},
    policy::quota::{Amounts, Period, Unit},
    store::{
        AuditEvent,
        feed::News,
        memory::limits::CounterKey,
        quota_lists::{QuotaPlace, QuotaQuery, QuotaReset, key_text},
        quotas::{
            Account, Book, Budget, Doubts, Ledger, Outcome, QuotaAsk, QuotaReturn, Reservation, Reserve, Verdict,
            hashed,
        },
        sql,
    },
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use sqlx::{Connection, SqliteConnection};

use crate::{
    fixture::{Fixture, NOW, entry, postgres_settings},
    redis::PATIENT,
    support::postgres::{Cluster, cluster},
};

mod lost;
mod resets;

on_both_engines! {
    units_are_given_up_to_the_limit_and_taken_back,
    units_of_before_a_reset_are_not_taken_back,
    periods_that_are_over_are_forgotten,
    ledgers_together_admit_exactly_the_quota,
    the_last_unit_is_admitted_once_anywhere,
    however_streams_end_no_more_is_settled_than_there_is_and_nothing_leaks,
    a_ledger_that_is_lost_gives_nobody_a_unit_twice,
    what_lies_idle_is_given_back,
    a_new_day_renews,
    a_full_ledger_loses_no_unit,
    what_is_not_hard_runs_over_and_is_owed,
    an_answer_past_midnight_stays_where_it_was_counted,
    what_is_at_hand_and_what_is_left_in_the_store_are_enough_together,
    units_lie_idle_though_a_client_asks_for_more_than_there_is,
    what_was_set_aside_before_a_reset_does_not_come_back_after_it,
    accounts_are_listed_the_most_used_first_page_by_page,
    a_reset_is_audited_and_told_to_every_gateway,
    what_a_reset_leaves_at_a_ledger_is_spent_no_more,
}

const KEY: CounterKey = CounterKey::Subject(7);

/// Stands still until it is moved.
struct Hand(AtomicU64);

impl Hand {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        NOW.plus(Duration::from_micros(self.0.load(Ordering::SeqCst)))
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos((3_600_000_000 + self.0.load(Ordering::SeqCst)) * 1_000)
    }
}

fn quota(unit: Unit, limit: u64) -> Quota {
    Quota {
        name: "daily".into(),
        key: LimitKey::one(KeyPart::Subject),
        period: Period::Day,
        unit,
        limit,
        hard: unit != Unit::Requests,
        shadow: false,
    }
}

/// Gateways on one store.
struct Gateways {
    clock: Arc<Hand>,
    ledgers: Vec<Arc<Ledger>>,
    books: Vec<Arc<Book>>,
    lost: Arc<Mutex<Vec<bool>>>,
}

impl Gateways {
    fn of(on: &Fixture, quota: Quota, many: usize) -> Self {
        Self::with_keys(on, quota, many, 1_000)
    }

    fn with_keys(on: &Fixture, quota: Quota, many: usize, max_keys: usize) -> Self {
        let (clock, quota) = (Arc::new(Hand(AtomicU64::new(0))), Arc::new(quota));
        let lost = Arc::<Mutex<Vec<bool>>>::default();
        let books: Vec<_> = (0..many)
            .map(|_| {
                let told = Arc::clone(&lost);
                let told = Box::new(move |lost| told.lock().unwrap().push(lost));
                Arc::new(Book::new(on.store.clone(), Arc::<Hand>::clone(&clock), told))
            })
            .collect();
        let ledgers = books.iter().map(|book| Arc::new(Ledger::new(&quota, book, max_keys))).collect();
        Self { clock, ledgers, books, lost }
    }
}

async fn reserve(ledger: &Arc<Ledger>, key: &CounterKey, units: u64) -> Verdict {
    match ledger.reserve(key, units) {
        Reserve::Decided(verdict) => verdict,
        Reserve::Waits(waiting) => waiting.await,
    }
}

async fn admitted(ledger: &Arc<Ledger>, key: &CounterKey, units: u64) -> Option<Reservation> {
    match reserve(ledger, key, units).await.outcome {
        Outcome::Admitted(reservation) => Some(reservation),
        Outcome::Refused | Outcome::Busy => None,
        Outcome::Alone(_) => panic!("the store is there"),
    }
}

/// Sets accounts to nothing; gives how many.
async fn reset(on: &Fixture, quota: &str, key: Option<[u8; 16]>, at: Timestamp) -> u64 {
    let what = QuotaReset { quota: quota.to_owned(), key };
    on.store.reset_quota(&what, &entry(AuditEvent::QuotaReset, at)).await.unwrap()
}

/// One request that is counted; whether it was admitted.
async fn request(ledger: &Arc<Ledger>, key: &CounterKey) -> bool {
    admitted(ledger, key, 1).await.map(|reservation| reservation.settle(1)).is_some()
}

async fn used(on: &Fixture, now: Timestamp) -> u64 {
    let usage = on.store.quota_usage(Some("daily"), Some(hashed(&KEY)), now, 10).await.unwrap();
    usage.first().map_or(0, |usage| usage.used)
}

fn account(now: Timestamp) -> Account<'static> {
    Account { quota: "daily", kind: "requests/day", key: hashed(&KEY), window: Period::Day.around(now) }
}

fn ask(owed: u64, least: u64, wanted: u64) -> QuotaAsk<'static> {
    QuotaAsk { account: account(NOW), limit: 100, owed, least, wanted }
}

async fn units_are_given_up_to_the_limit_and_taken_back(on: Fixture) {
    let first = on.store.take_quota(&ask(0, 1, 1)).await.unwrap();
    assert_eq!((first.given, first.used), (6, 6), "a sixteenth");
    let more = on.store.take_quota(&ask(0, 1, 50)).await.unwrap();
    assert_eq!((more.given, more.used), (50, 56));
    let owed = on.store.take_quota(&ask(40, 10, 10)).await.unwrap();
    assert_eq!((owed.given, owed.used), (0, 96), "what is owed is written all the same");
    let units = |units| QuotaReturn { account: account(NOW), epoch: 0, units };
    on.store.return_quota(&[units(6), units(50)]).await.unwrap();
    let again = on.store.take_quota(&ask(0, 60, 60)).await.unwrap();
    assert_eq!((again.given, again.used), (60, 100));
    let none = on.store.take_quota(&ask(30, 0, 0)).await.unwrap();
    assert_eq!((none.given, none.used), (0, 130), "owed beyond the limit");
    on.store.return_quota(&[units(1_000)]).await.unwrap();
    assert_eq!(used(&on, NOW).await, 0);
}

async fn units_of_before_a_reset_are_not_taken_back(on: Fixture) {
    let before = on.store.take_quota(&ask(0, 60, 60)).await.unwrap();
    assert_eq!(reset(&on, "other", None, NOW).await, 0);
    assert_eq!(reset(&on, "daily", Some([9; 16]), NOW).await, 0);
    assert_eq!(reset(&on, "daily", Some(hashed(&KEY)), NOW).await, 1);
    let after = on.store.take_quota(&ask(0, 70, 70)).await.unwrap();
    assert_eq!((after.given, after.used), (70, 70));
    assert!(after.epoch > before.epoch);
    let late = QuotaReturn { account: account(NOW), epoch: before.epoch, units: 60 };
    on.store.return_quota(&[late]).await.unwrap();
    assert_eq!(used(&on, NOW).await, 70);
    let tomorrow = NOW.plus(Duration::from_hours(24));
    assert_eq!(reset(&on, "daily", None, tomorrow).await, 0, "its day is over");
}

async fn periods_that_are_over_are_forgotten(on: Fixture) {
    for day in 0..3 {
        let account = account(NOW.plus(Duration::from_hours(24) * day));
        on.store.take_quota(&QuotaAsk { account, ..ask(0, 1, 1) }).await.unwrap();
    }
    let end = Period::Day.around(NOW).end;
    assert_eq!(on.store.prune_quotas(end).await.unwrap(), 0);
    assert_eq!(on.store.prune_quotas(end.plus(Duration::from_hours(24) + Duration::from_micros(1))).await.unwrap(), 2);
    assert_eq!(on.store.quota_usage(None, None, NOW, 10).await.unwrap().len(), 1);
}

async fn ledgers_together_admit_exactly_the_quota(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Requests, 150), 3);
    let clients = (0..300).map(|number| {
        let ledger = Arc::clone(&gateways.ledgers[number % 3]);
        tokio::spawn(async move { request(&ledger, &KEY).await })
    });
    let answers = join_all(clients.collect::<Vec<_>>()).await;
    let mut count = answers.into_iter().filter(|answer| *answer.as_ref().unwrap()).count();
    assert!(count <= 150, "{count}");
    // What was taken ahead is spent where it lies.
    for ledger in &gateways.ledgers {
        while request(ledger, &KEY).await {
            count += 1;
        }
    }
    assert_eq!((count, used(&on, NOW).await), (150, 150));
    assert!(gateways.lost.lock().unwrap().is_empty());
}

async fn the_last_unit_is_admitted_once_anywhere(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Requests, 10), 3);
    let mut count = 0;
    for number in 0..30 {
        count += u32::from(request(&gateways.ledgers[number % 3], &KEY).await);
        assert!(count <= 10);
        assert_eq!(used(&on, NOW).await, u64::from(count), "nothing lies anywhere");
    }
    assert_eq!(count, 10);
}

/// How one stream goes: what it reserves, what it uses in each step, how it ends.
#[derive(Debug, Clone)]
struct Stream {
    gateway: usize,
    estimate: u64,
    steps: Vec<u64>,
    aborted: bool,
}

fn streams(runner: &mut TestRunner) -> Vec<Stream> {
    let one = (0..3_usize, 1..60_u64, proptest::collection::vec(0..40_u64, 0..6), proptest::bool::ANY)
        .prop_map(|(gateway, estimate, steps, aborted)| Stream { gateway, estimate, steps, aborted });
    proptest::collection::vec(one, 1..60).new_tree(runner).unwrap().current()
}

/// Runs it; what it used.
async fn run(ledger: &Arc<Ledger>, stream: &Stream) -> u64 {
    let Some(reservation) = admitted(ledger, &KEY, stream.estimate).await else { return 0 };
    let mut budget = Budget::default();
    budget.add(reservation);
    let mut used = 0;
    for step in &stream.steps {
        let next = Amounts { tokens: used + step, micros: 0 };
        let covered = budget.cover(next) || std::future::poll_fn(|cx| budget.poll_cover(next, cx)).await;
        if !covered {
            assert_eq!(budget.used_up().unwrap().as_ref(), "daily");
            break;
        }
        used += step;
        tokio::task::yield_now().await;
    }
    if !stream.aborted {
        budget.settle(Amounts { tokens: used, micros: 0 });
    }
    used
}

async fn however_streams_end_no_more_is_settled_than_there_is_and_nothing_leaks(on: Fixture) {
    let mut runner = TestRunner::default();
    for round in 0..20 {
        let gateways = Gateways::of(&on, quota(Unit::Tokens, 700), 3);
        gateways.clock.advance(Duration::from_hours(24) * round);
        let streams = streams(&mut runner);
        let running = streams.iter().map(|stream| {
            let (ledger, stream) = (Arc::clone(&gateways.ledgers[stream.gateway]), stream.clone());
            tokio::spawn(async move { run(&ledger, &stream).await })
        });
        let mut sum = 0;
        for one in running.collect::<Vec<_>>() {
            sum += one.await.unwrap();
        }
        assert!(sum <= 700, "{sum} of {streams:?}");
        for ledger in &gateways.ledgers {
            ledger.close().await;
        }
        assert_eq!(used(&on, gateways.clock.now()).await, sum, "{streams:?}");
    }
}

async fn a_ledger_that_is_lost_gives_nobody_a_unit_twice(on: Fixture) {
    let first = Gateways::of(&on, quota(Unit::Requests, 160), 1);
    let mut count = 0;
    for _ in 0..15 {
        count += u32::from(request(&first.ledgers[0], &KEY).await);
    }
    // As by SIGKILL: what it had at hand is gone with it.
    drop(first);
    let second = Gateways::of(&on, quota(Unit::Requests, 160), 1);
    while request(&second.ledgers[0], &KEY).await {
        count += 1;
    }
    assert!((150..=160).contains(&count), "a slice at most is lost: {count}");
}

async fn what_lies_idle_is_given_back(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Requests, 160), 2);
    let [one, other] = [0, 1].map(|number| &gateways.ledgers[number]);
    assert!(request(one, &KEY).await);
    assert_eq!(used(&on, NOW).await, 10, "a sixteenth is taken ahead");
    let before = admitted(other, &KEY, 150).await.unwrap();
    assert!(!request(other, &KEY).await, "what is left lies at the other one");
    one.tend().await;
    assert_eq!(used(&on, NOW).await, 160, "not idle yet");
    gateways.clock.advance(Duration::from_secs(10));
    one.tend().await;
    assert_eq!((used(&on, NOW).await, one.len()), (151, 0));
    assert!(request(other, &KEY).await);
    drop(before);
    other.close().await;
    assert_eq!(used(&on, NOW).await, 2);
}

async fn a_new_day_renews(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Requests, 2), 1);
    let ledger = &gateways.ledgers[0];
    assert!(request(ledger, &KEY).await && request(ledger, &KEY).await);
    let refused = reserve(ledger, &KEY, 1).await;
    assert!(matches!(refused.outcome, Outcome::Refused));
    let end = Period::Day.around(NOW).end;
    assert_eq!((refused.standing.remaining, refused.standing.renews_in), (0, end.since(NOW)));
    assert_eq!(refused.standing.lasts, Duration::from_hours(24));
    gateways.clock.advance(refused.standing.renews_in.saturating_sub(Duration::from_micros(1)));
    assert!(!request(ledger, &KEY).await, "a microsecond before midnight");
    gateways.clock.advance(Duration::from_micros(1));
    assert!(request(ledger, &KEY).await && request(ledger, &KEY).await);
    assert!(!request(ledger, &KEY).await);
    assert_eq!((used(&on, NOW.plus(end.since(NOW))).await, used(&on, NOW).await), (2, 2));
}

async fn a_full_ledger_loses_no_unit(on: Fixture) {
    let gateways = Gateways::with_keys(&on, quota(Unit::Requests, 1_600), 1, 8);
    let ledger = &gateways.ledgers[0];
    for number in 0..100 {
        assert!(request(ledger, &CounterKey::Subject(number)).await);
    }
    assert!(ledger.len() <= 8);
    ledger.close().await;
    let usage = on.store.quota_usage(Some("daily"), None, NOW, 1_000).await.unwrap();
    assert_eq!((usage.len(), usage.iter().map(|usage| usage.used).max()), (100, Some(1)));
}

async fn what_is_not_hard_runs_over_and_is_owed(on: Fixture) {
    let soft = Quota { hard: false, ..quota(Unit::Tokens, 100) };
    let gateways = Gateways::of(&on, soft, 1);
    let ledger = &gateways.ledgers[0];
    let mut running = admitted(ledger, &KEY, 90).await.unwrap();
    assert!(running.grow(60), "it is never ended");
    running.settle(150);
    assert!(matches!(reserve(ledger, &KEY, 1).await.outcome, Outcome::Refused), "but nothing comes after it");
    ledger.tend().await;
    assert_eq!(used(&on, NOW).await, 150);
    // A hard one cannot take back what was sent either.
    let gateways = Gateways::of(&on, quota(Unit::Tokens, 1_000), 1);
    admitted(&gateways.ledgers[0], &KEY, 5).await.unwrap().settle(2_000);
    gateways.ledgers[0].close().await;
    assert_eq!(used(&on, NOW).await, 2_150);
}

async fn an_answer_past_midnight_stays_where_it_was_counted(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Tokens, 160), 1);
    let ledger = &gateways.ledgers[0];
    let mut running = admitted(ledger, &KEY, 20).await.unwrap();
    let tomorrow = Period::Day.around(NOW).end;
    gateways.clock.advance(tomorrow.since(NOW));
    // Ten of today's, which it does not use all.
    assert!(admitted(ledger, &KEY, 10).await.is_some());
    assert!(running.grow(10));
    running.settle(24);
    ledger.close().await;
    assert_eq!((used(&on, NOW).await, used(&on, tomorrow).await), (20, 4));
}

async fn what_is_at_hand_and_what_is_left_in_the_store_are_enough_together(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Tokens, 3_800), 1);
    let ledger = &gateways.ledgers[0];
    drop(admitted(ledger, &KEY, 1_900).await.unwrap());
    assert_eq!(used(&on, NOW).await, 1_900, "half lies here, half there");
    let large = admitted(ledger, &KEY, 2_000).await.expect("3800 are left");
    assert!(admitted(ledger, &KEY, 1_801).await.is_none());
    drop(admitted(ledger, &KEY, 1_800).await.expect("a no to more says nothing of less"));
    large.settle(2_000);
    ledger.close().await;
    assert_eq!(used(&on, NOW).await, 2_000);
}

async fn units_lie_idle_though_a_client_asks_for_more_than_there_is(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Tokens, 2_500), 2);
    let [one, other] = [0, 1].map(|number| &gateways.ledgers[number]);
    drop(admitted(one, &KEY, 1_900).await.unwrap());
    let elsewhere = admitted(other, &KEY, 600).await.unwrap();
    for _ in 0..5 {
        gateways.clock.advance(Duration::from_secs(2));
        assert!(admitted(one, &KEY, 2_000).await.is_none());
        one.tend().await;
    }
    assert_eq!(used(&on, NOW).await, 600, "nobody has spent any for ten seconds");
    assert!(admitted(other, &KEY, 1_900).await.is_some());
    drop(elsewhere);
}

async fn what_was_set_aside_before_a_reset_does_not_come_back_after_it(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Tokens, 100), 1);
    let ledger = &gateways.ledgers[0];
    let before = admitted(ledger, &KEY, 40).await.unwrap();
    assert_eq!(reset(&on, "daily", Some(hashed(&KEY)), NOW).await, 1);
    admitted(ledger, &KEY, 20).await.unwrap().settle(20);
    drop(before);
    ledger.close().await;
    assert_eq!(used(&on, NOW).await, 20);
}

async fn accounts_are_listed_the_most_used_first_page_by_page(on: Fixture) {
    for (number, used) in [(1, 5), (2, 9), (3, 5), (4, 1)] {
        let account = Account { key: [number; 16], ..account(NOW) };
        on.store.take_quota(&QuotaAsk { account, ..ask(used, 0, 0) }).await.unwrap();
    }
    let other = Account { quota: "other", key: [2; 16], ..account(NOW) };
    on.store.take_quota(&QuotaAsk { account: other, ..ask(7, 0, 0) }).await.unwrap();
    let over = account(NOW.minus(Duration::from_hours(48)));
    on.store.take_quota(&QuotaAsk { account: over, ..ask(100, 0, 0) }).await.unwrap();
    let all = async |query: QuotaQuery| {
        let (mut query, mut all) = (query, Vec::new());
        loop {
            let page = on.store.quota_page(&query, NOW, 2).await.unwrap();
            assert!(page.accounts.len() <= 2);
            all.extend(page.accounts.iter().map(|usage| (usage.quota.clone(), usage.key[0], usage.used)));
            let Some(next) = page.next else { return all };
            query.after = QuotaPlace::from_cursor(&next.to_cursor());
        }
    };
    let of = |quota: &str, key, used| (quota.to_owned(), key, used);
    let daily = [of("daily", 2, 9), of("daily", 1, 5), of("daily", 3, 5), of("daily", 4, 1)];
    let [first, rest @ ..] = daily.clone();
    assert_eq!(all(QuotaQuery::default()).await, [&[first, of("other", 2, 7)], &rest[..]].concat());
    let quota = Some("daily".to_owned());
    assert_eq!(all(QuotaQuery { quota: quota.clone(), ..QuotaQuery::default() }).await, daily);
    assert_eq!(all(QuotaQuery { quota, key: Some([3; 16]), after: None }).await, [of("daily", 3, 5)]);
    let key = Some([2; 16]);
    assert_eq!(all(QuotaQuery { key, ..QuotaQuery::default() }).await, [of("daily", 2, 9), of("other", 2, 7)]);
}

async fn a_reset_is_audited_and_told_to_every_gateway(on: Fixture) {
    assert_eq!(reset(&on, "daily", None, NOW).await, 0);
    assert_eq!((on.audited("quota_reset").await, on.news().await), (0, Vec::new()), "nothing has changed");
    on.store.take_quota(&ask(0, 5, 5)).await.unwrap();
    on.store.take_quota(&QuotaAsk { account: Account { key: [9; 16], ..account(NOW) }, ..ask(0, 5, 5) }).await.unwrap();
    assert_eq!(reset(&on, "daily", Some(hashed(&KEY)), NOW).await, 1);
    assert_eq!(reset(&on, "daily", None, NOW).await, 1, "the other");
    let told = [Some(hashed(&KEY)), None].map(|key| News::Quota(QuotaReset { quota: "daily".to_owned(), key }));
    assert_eq!(on.news().await, told);
    assert_eq!(on.audited("quota_reset").await, 2);
    assert_eq!(on.audited_of("quota_reset", &key_text(&hashed(&KEY))).await, 1);
}

async fn what_a_reset_leaves_at_a_ledger_is_spent_no_more(on: Fixture) {
    let gateways = Gateways::of(&on, quota(Unit::Requests, 1_600), 1);
    let (ledger, book) = (&gateways.ledgers[0], &gateways.books[0]);
    book.enrol(Arc::clone(ledger));
    for key in [KEY, CounterKey::Subject(8)] {
        assert!(request(ledger, &key).await);
    }
    assert_eq!(used(&on, NOW).await, 100, "all but one lie here");
    let what = QuotaReset { quota: "daily".to_owned(), key: Some(hashed(&KEY)) };
    on.store.reset_quota(&what, &entry(AuditEvent::QuotaReset, NOW)).await.unwrap();
    let mut doubts = Doubts::default();
    doubts.add(&what);
    book.doubt(&doubts);
    assert!(request(ledger, &KEY).await);
    assert_eq!(used(&on, NOW).await, 100, "a hundred of after it");
    ledger.close().await;
    assert_eq!(used(&on, NOW).await, 1);
    // Of whoever was not meant nothing is lost.
    let other = on.store.quota_usage(None, Some(hashed(&CounterKey::Subject(8))), NOW, 1).await.unwrap();
    assert_eq!(other[0].used, 1);
}
