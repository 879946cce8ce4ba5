//! Failures to log in: what may be tried, on however many gateways at once; what is forgotten, listed and lifted.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use portcullis::{
    clock::Timestamp,
    policy::{
        device_cookie::Device,
        ids::UserId,
        lockout::{AccountRules, AddressRules, Counter, DeviceRules, LockoutRules, Pace, PairRules, Rung, Verdict},
    },
    store::{
        AuditEvent,
        lockout_lists::LockoutQuery,
        lockouts::{Attempt, AttemptEnd, Attempted, Lift, Locked, Paced, Reserved, Ticket},
        sql,
    },
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::fixture::{Fixture, NOW, entry, seconds, user_id};

on_both_engines! {
    five_may_fail_and_then_the_waits_begin,
    of_two_hundred_at_once_on_two_gateways_no_more_than_the_free_ones_are_let_in,
    of_two_hundred_at_once_from_as_many_addresses_no_more_than_the_free_ones_are_let_in,
    of_fifty_accounts_at_once_from_one_address_no_more_than_the_ladder_allows_are_let_in,
    a_success_forgets_the_account_s_failures_and_what_was_reserved,
    a_release_counts_nothing_and_leaves_no_row,
    an_attempt_whose_gateway_died_has_failed,
    what_a_gateway_that_died_has_left_is_lifted_before_anybody_comes_again,
    whoever_asks_again_while_others_are_under_way_writes_nothing,
    an_address_waits_by_the_accounts_it_failed_with_and_not_by_its_failures,
    a_name_that_no_account_has_counts_as_an_account_does,
    a_hundred_failures_from_as_many_addresses_stop_the_account_and_are_audited_once,
    a_device_cookie_passes_every_other_counter_and_is_void_at_its_own,
    a_lift_lets_in_again_and_is_audited_once,
    an_address_that_was_lifted_starts_anew,
    what_says_nothing_any_more_is_pruned_and_a_hard_stop_is_not,
    a_paced_call_may_be_made_so_often_and_again_later,
    of_many_paced_calls_at_once_so_many_are_made,
    counts_survive_the_store_being_opened_anew,
}

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn rules() -> LockoutRules {
    let rung = |(accounts, minutes)| Rung { accounts: count(accounts), wait: Duration::from_mins(minutes) };
    LockoutRules {
        pair: PairRules { free: count(5), waits: [1, 2, 4, 8, 15].map(Duration::from_mins).to_vec() },
        account: AccountRules {
            slow_after: count(20),
            slow_by: seconds(1),
            slow_most: seconds(30),
            hard_stop: count(100),
            forget_after: Duration::from_hours(90 * 24),
        },
        address: AddressRules {
            window: Duration::from_hours(24),
            ladder: [(7, 1), (10, 10), (25, 1_440)].map(rung).to_vec(),
        },
        device: DeviceRules { failures: count(10) },
        hold: Duration::from_mins(1),
    }
}

fn address(last: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + last).into())
}

fn attempt(account: Attempted, from: u32) -> Attempt {
    Attempt { account, address: address(from), device: None }
}

fn somebody() -> Attempted {
    Attempted::User(user_id())
}

async fn ask(on: &Fixture, attempt: &Attempt, now: Timestamp) -> Reserved {
    on.store.reserve_attempt(attempt, &rules(), now).await.unwrap()
}

async fn admitted(on: &Fixture, attempt: &Attempt, now: Timestamp) -> Ticket {
    match ask(on, attempt, now).await {
        Reserved::Admitted(ticket) => ticket,
        Reserved::Refused(verdict) => panic!("{attempt:?} is refused: {verdict:?}"),
    }
}

async fn refused(on: &Fixture, attempt: &Attempt, now: Timestamp) -> Verdict {
    match ask(on, attempt, now).await {
        Reserved::Refused(verdict) => verdict,
        Reserved::Admitted(_) => panic!("{attempt:?} is let in"),
    }
}

async fn end(on: &Fixture, ticket: &Ticket, end: AttemptEnd, now: Timestamp) -> Vec<Counter> {
    on.store.end_attempt(ticket, end, &rules(), &entry(AuditEvent::LoginFailed, now)).await.unwrap()
}

/// One attempt that may be made and fails.
async fn fails(on: &Fixture, attempt: &Attempt, now: Timestamp) -> Vec<Counter> {
    let ticket = admitted(on, attempt, now).await;
    end(on, &ticket, AttemptEnd::Failed, now).await
}

async fn listed(on: &Fixture, counter: Counter, now: Timestamp) -> Vec<(Locked, u64, Option<Timestamp>)> {
    let query = LockoutQuery { counter: Some(counter), ..LockoutQuery::default() };
    let page = on.store.lockout_page(&query, &rules(), now, 100).await.unwrap();
    page.lockouts.into_iter().map(|lockout| (lockout.what, lockout.failures, lockout.until)).collect()
}

async fn five_may_fail_and_then_the_waits_begin(on: Fixture) {
    let who = attempt(somebody(), 1);
    for _ in 0..5 {
        assert_eq!(fails(&on, &who, NOW).await, []);
    }
    let mut now = NOW;
    for minutes in [1, 2, 4, 8, 15, 15] {
        let until = now.plus(Duration::from_mins(minutes));
        assert_eq!(refused(&on, &who, now).await, Verdict::Wait(Counter::Pair, until));
        assert_eq!(listed(&on, Counter::Pair, now).await.len(), 1);
        assert_eq!(refused(&on, &who, until.minus(seconds(1))).await, Verdict::Wait(Counter::Pair, until));
        assert_eq!(listed(&on, Counter::Pair, until).await, []);
        now = until;
        fails(&on, &who, now).await;
    }
    assert_eq!(on.audited("login_failed").await, 11);
    // Elsewhere, and for others here, nothing has happened.
    admitted(&on, &Attempt { address: address(2), ..who }, now).await;
    admitted(&on, &attempt(somebody(), 1), now).await;
}

/// How many of these are let in when all ask at once, half of them at another gateway.
async fn let_in(on: &Fixture, attempts: Vec<Attempt>) -> usize {
    let other = sql::open(&on.settings).await.unwrap();
    let mut asking = JoinSet::new();
    for (number, attempt) in attempts.into_iter().enumerate() {
        let store = Arc::clone(if number % 2 == 0 { &on.store } else { &other });
        asking.spawn(async move { store.reserve_attempt(&attempt, &rules(), NOW).await.unwrap() });
    }
    let answers = asking.join_all().await;
    answers.iter().filter(|answer| matches!(answer, Reserved::Admitted(_))).count()
}

async fn of_two_hundred_at_once_on_two_gateways_no_more_than_the_free_ones_are_let_in(on: Fixture) {
    let who = attempt(somebody(), 1);
    assert_eq!(let_in(&on, vec![who; 200]).await, 5);
}

async fn of_two_hundred_at_once_from_as_many_addresses_no_more_than_the_free_ones_are_let_in(on: Fixture) {
    let who = somebody();
    assert_eq!(let_in(&on, (0..200).map(|from| attempt(who, from)).collect()).await, 20);
}

async fn of_fifty_accounts_at_once_from_one_address_no_more_than_the_ladder_allows_are_let_in(on: Fixture) {
    assert_eq!(let_in(&on, (0..50).map(|_| attempt(somebody(), 1)).collect()).await, 7);
}

async fn a_success_forgets_the_account_s_failures_and_what_was_reserved(on: Fixture) {
    let who = attempt(somebody(), 1);
    for _ in 0..4 {
        fails(&on, &who, NOW).await;
    }
    let ticket = admitted(&on, &who, NOW).await;
    assert_eq!(refused(&on, &who, NOW).await, Verdict::Busy(Counter::Pair), "one failure is left");
    end(&on, &ticket, AttemptEnd::Succeeded, NOW).await;
    assert_eq!(on.audited("login_failed").await, 4);
    for _ in 0..5 {
        fails(&on, &who, NOW).await;
    }
    assert!(matches!(refused(&on, &who, NOW).await, Verdict::Wait(Counter::Pair, _)));
}

async fn a_release_counts_nothing_and_leaves_no_row(on: Fixture) {
    let who = attempt(somebody(), 1);
    for _ in 0..30 {
        let ticket = admitted(&on, &who, NOW).await;
        end(&on, &ticket, AttemptEnd::Released, NOW).await;
    }
    assert_eq!(on.audited("login_failed").await, 0);
    for table in ["login_accounts", "login_pairs", "login_addresses"] {
        assert_eq!(on.rows_of(table).await, 0, "{table}");
    }
}

async fn an_attempt_whose_gateway_died_has_failed(on: Fixture) {
    let who = attempt(somebody(), 1);
    for _ in 0..5 {
        admitted(&on, &who, NOW).await;
    }
    assert_eq!(refused(&on, &who, NOW).await, Verdict::Busy(Counter::Pair));
    let over = NOW.plus(rules().hold);
    let until = over.plus(Duration::from_mins(1));
    assert_eq!(refused(&on, &who, over).await, Verdict::Wait(Counter::Pair, until));
    admitted(&on, &who, until).await;
}

async fn what_a_gateway_that_died_has_left_is_lifted_before_anybody_comes_again(on: Fixture) {
    let over = NOW.plus(rules().hold);
    let lifted = entry(AuditEvent::LockoutLifted, over);
    let early = entry(AuditEvent::LockoutLifted, over.minus(seconds(1)));
    // By account, with all its addresses; by account from one address; by device cookie; by address.
    let (whole, paired, user) = (attempt(somebody(), 1), attempt(somebody(), 2), user_id());
    let device = Device { user, nonce: Uuid::from_u128(1), expires: NOW.plus(seconds(1_000)) };
    let owner = Attempt { device: Some(device), ..attempt(Attempted::User(user), 3) };
    let spread: Vec<_> = (0..7).map(|_| attempt(somebody(), 4)).collect();
    for _ in 0..5 {
        admitted(&on, &whole, NOW).await;
        admitted(&on, &paired, NOW).await;
    }
    for _ in 0..10 {
        admitted(&on, &owner, NOW).await;
    }
    for one in &spread {
        admitted(&on, one, NOW).await;
    }
    let lifts = [Lift::Account(whole.account), Lift::Device(device.nonce), Lift::Address(address(4))];
    for lift in &lifts {
        assert!(!on.store.lift_lockout(lift, &early).await.unwrap(), "it is under way: {lift:?}");
    }
    assert!(!on.store.lift_pair(&paired.account, paired.address, &early).await.unwrap());
    for lift in &lifts {
        assert!(on.store.lift_lockout(lift, &lifted).await.unwrap(), "{lift:?}");
        assert!(!on.store.lift_lockout(lift, &lifted).await.unwrap(), "again: {lift:?}");
    }
    assert!(on.store.lift_pair(&paired.account, paired.address, &lifted).await.unwrap());
    assert!(!on.store.lift_pair(&paired.account, paired.address, &lifted).await.unwrap());
    assert_eq!(on.audited("lockout_lifted").await, 4);
    for who in [&whole, &paired, &owner, &attempt(somebody(), 4)] {
        admitted(&on, who, over).await;
    }
}

/// As many as may be are under way. Whoever asks now gets an answer from tables that nobody can write to.
async fn whoever_asks_again_while_others_are_under_way_writes_nothing(on: Fixture) {
    let (hammered, user) = (somebody(), user_id());
    for from in 0..20 {
        admitted(&on, &attempt(hammered, 10 + from), NOW).await;
    }
    let paired = attempt(somebody(), 1);
    for _ in 0..5 {
        admitted(&on, &paired, NOW).await;
    }
    for _ in 0..7 {
        admitted(&on, &attempt(somebody(), 2), NOW).await;
    }
    let device = Device { user, nonce: Uuid::from_u128(1), expires: NOW.plus(seconds(1_000)) };
    let owner = Attempt { device: Some(device), ..attempt(Attempted::User(user), 3) };
    for _ in 0..10 {
        admitted(&on, &owner, NOW).await;
    }
    on.tamper(
        "ALTER TABLE login_addresses RENAME TO kept_addresses; \
         CREATE VIEW login_addresses AS SELECT DISTINCT * FROM kept_addresses; \
         ALTER TABLE login_accounts RENAME TO kept_accounts; \
         CREATE VIEW login_accounts AS SELECT DISTINCT * FROM kept_accounts; \
         ALTER TABLE login_pairs RENAME TO kept_pairs; \
         CREATE VIEW login_pairs AS SELECT DISTINCT * FROM kept_pairs; \
         ALTER TABLE login_devices RENAME TO kept_devices; \
         CREATE VIEW login_devices AS SELECT DISTINCT * FROM kept_devices",
    )
    .await;
    for (who, counter) in [
        (attempt(hammered, 9), Counter::Account),
        (paired, Counter::Pair),
        (attempt(somebody(), 2), Counter::Address),
        (owner, Counter::Device),
    ] {
        assert_eq!(refused(&on, &who, NOW).await, Verdict::Busy(counter));
    }
}

async fn an_address_waits_by_the_accounts_it_failed_with_and_not_by_its_failures(on: Fixture) {
    let forgetful = attempt(somebody(), 1);
    for _ in 0..5 {
        fails(&on, &forgetful, NOW).await;
    }
    for account in 2..=7 {
        let locks = fails(&on, &attempt(somebody(), 1), NOW).await;
        assert_eq!(locks, if account == 7 { vec![Counter::Address] } else { vec![] }, "account {account}");
    }
    let minute = NOW.plus(Duration::from_mins(1));
    let stranger = attempt(somebody(), 1);
    assert_eq!(refused(&on, &stranger, NOW).await, Verdict::Wait(Counter::Address, minute));
    assert_eq!(listed(&on, Counter::Address, NOW).await, [(Locked::Address(address(1)), 7, Some(minute))]);
    // Those who have failed already cost no further wait.
    fails(&on, &forgetful, minute).await;
    fails(&on, &stranger, minute).await;
    let next = minute.plus(Duration::from_mins(1));
    assert_eq!(refused(&on, &attempt(somebody(), 1), minute).await, Verdict::Wait(Counter::Address, next));
    assert_eq!(on.audited("address_locked").await, 1);
    // And a day later nothing is left of it.
    for _ in 0..6 {
        assert_eq!(fails(&on, &attempt(somebody(), 1), next.plus(rules().address.window).plus(seconds(1))).await, []);
    }
}

async fn a_name_that_no_account_has_counts_as_an_account_does(on: Fixture) {
    let nobody = attempt(Attempted::Unknown([7; 32]), 1);
    for _ in 0..5 {
        fails(&on, &nobody, NOW).await;
    }
    assert!(matches!(refused(&on, &nobody, NOW).await, Verdict::Wait(Counter::Pair, _)));
    let until = Some(NOW.plus(Duration::from_mins(1)));
    assert_eq!(listed(&on, Counter::Pair, NOW).await, [(Locked::Pair(nobody.account, address(1)), 5, until)]);
}

async fn stopped(on: &Fixture, who: Attempted) -> Timestamp {
    let mut now = NOW;
    for number in 0..100 {
        let locks = fails(on, &attempt(who, 1_000 + number), now).await;
        assert_eq!(locks.contains(&Counter::Account), number == 99, "failure {number}");
        now = now.plus(rules().account.slow_most);
    }
    now
}

async fn a_hundred_failures_from_as_many_addresses_stop_the_account_and_are_audited_once(on: Fixture) {
    let who = somebody();
    let now = stopped(&on, who).await;
    let years = now.plus(Duration::from_hours(24 * 3_650));
    assert_eq!(refused(&on, &attempt(who, 1), years).await, Verdict::Stopped);
    assert_eq!(listed(&on, Counter::Account, years).await, [(Locked::Account(who), 100, None)]);
    assert_eq!(on.audited("account_locked").await, 1);
    assert_eq!(on.audited_of("account_locked", "\"failures\":100").await, 1);
}

async fn a_device_cookie_passes_every_other_counter_and_is_void_at_its_own(on: Fixture) {
    let user = user_id();
    let who = Attempted::User(user);
    let now = stopped(&on, who).await;
    for _ in 0..7 {
        fails(&on, &attempt(somebody(), 1), now).await;
    }
    let device = Device { user, nonce: Uuid::from_u128(1), expires: now.plus(seconds(1_000)) };
    let owner = Attempt { device: Some(device), ..attempt(who, 1) };
    for number in 0..10 {
        assert_eq!(fails(&on, &owner, now).await, if number == 9 { vec![Counter::Device] } else { vec![] });
    }
    assert!(matches!(refused(&on, &owner, now).await, Verdict::Wait(Counter::Address, _)), "no better than none");
    assert_eq!(listed(&on, Counter::Device, now).await, [(Locked::Device(user, device.nonce), 10, None)]);
    assert_eq!((on.audited("device_voided").await, on.audited("account_locked").await), (1, 1));
    // Another one of the owner's is not; and a success with it ends the hard stop.
    let owner = Attempt { device: Some(Device { nonce: Uuid::from_u128(2), ..device }), ..owner };
    let ticket = admitted(&on, &owner, now).await;
    end(&on, &ticket, AttemptEnd::Succeeded, now).await;
    assert_eq!(listed(&on, Counter::Account, now).await, []);
    // Side by side no more than can fail.
    let copied = Attempt { device: Some(Device { nonce: Uuid::from_u128(3), ..device }), ..owner };
    assert_eq!(let_in(&on, vec![copied; 50]).await, 10);
}

async fn a_lift_lets_in_again_and_is_audited_once(on: Fixture) {
    let user = user_id();
    let who = Attempted::User(user);
    let now = stopped(&on, who).await;
    let lifted = entry(AuditEvent::LockoutLifted, now);
    assert!(on.store.lift_lockout(&Lift::Account(who), &lifted).await.unwrap());
    assert!(!on.store.lift_lockout(&Lift::Account(who), &lifted).await.unwrap());
    assert_eq!(on.events(user).await, [AuditEvent::AccountLocked, AuditEvent::LockoutLifted]);
    admitted(&on, &attempt(who, 1_000), now).await;
    let device = Device { user, nonce: Uuid::from_u128(1), expires: now.plus(seconds(1_000)) };
    for _ in 0..10 {
        fails(&on, &Attempt { device: Some(device), ..attempt(who, 1) }, now).await;
    }
    assert!(on.store.lift_lockout(&Lift::Device(device.nonce), &lifted).await.unwrap());
    assert_eq!(listed(&on, Counter::Device, now).await, []);
    assert!(!on.store.lift_lockout(&Lift::Device(Uuid::from_u128(9)), &lifted).await.unwrap());
}

async fn an_address_that_was_lifted_starts_anew(on: Fixture) {
    let first = attempt(somebody(), 1);
    fails(&on, &first, NOW).await;
    for _ in 0..6 {
        fails(&on, &attempt(somebody(), 1), NOW).await;
    }
    let lifted = entry(AuditEvent::LockoutLifted, NOW);
    assert!(on.store.lift_lockout(&Lift::Address(address(1)), &lifted).await.unwrap());
    assert!(!on.store.lift_lockout(&Lift::Address(address(1)), &lifted).await.unwrap());
    assert_eq!(listed(&on, Counter::Address, NOW).await, []);
    let later = NOW.plus(seconds(1));
    assert_eq!(fails(&on, &first, later).await, []);
    for _ in 0..5 {
        assert_eq!(fails(&on, &attempt(somebody(), 1), later).await, []);
    }
    assert_eq!(fails(&on, &attempt(somebody(), 1), later).await, [Counter::Address]);
}

async fn what_says_nothing_any_more_is_pruned_and_a_hard_stop_is_not(on: Fixture) {
    let who = somebody();
    let now = stopped(&on, who).await;
    fails(&on, &attempt(Attempted::Unknown([1; 32]), 5), now).await;
    let device = Device { user: user_id(), nonce: Uuid::from_u128(1), expires: now.plus(seconds(1_000)) };
    fails(&on, &Attempt { device: Some(device), ..attempt(Attempted::User(device.user), 1) }, now).await;
    let pace = Pace { calls: count(1), period: seconds(10) };
    let paced = Paced { purpose: "register", subject: &[1], pace };
    assert_eq!(on.store.pace(&[paced], now).await.unwrap(), None);
    let tables = ["login_accounts", "login_pairs", "login_addresses", "login_devices", "paced_calls"];
    assert_eq!(on.store.prune_lockouts(&rules(), now, 1_000).await.unwrap(), 0);
    let later = now.plus(rules().account.forget_after).plus(rules().hold).plus(seconds(1));
    while on.store.prune_lockouts(&rules(), later, 7).await.unwrap() > 0 {}
    let mut left = Vec::new();
    for table in tables {
        left.push(on.rows_of(table).await);
    }
    assert_eq!(left, [1, 0, 0, 0, 0], "{tables:?}");
    assert_eq!(refused(&on, &attempt(who, 1), later).await, Verdict::Stopped);
}

async fn a_paced_call_may_be_made_so_often_and_again_later(on: Fixture) {
    let pace = Pace { calls: count(3), period: seconds(30) };
    let call = |subject: &'static [u8]| Paced { purpose: "register", subject, pace };
    for _ in 0..3 {
        assert_eq!(on.store.pace(&[call(b"here")], NOW).await.unwrap(), None);
    }
    assert_eq!(on.store.pace(&[call(b"here")], NOW).await.unwrap(), Some(seconds(10)));
    // A call that one of two forbids is not counted for the other.
    for _ in 0..4 {
        assert_eq!(on.store.pace(&[call(b"here"), call(b"there")], NOW).await.unwrap(), Some(seconds(10)));
    }
    let mail = Paced { purpose: "forgot", ..call(b"here") };
    assert_eq!(on.store.pace(&[mail, call(b"there")], NOW).await.unwrap(), None);
    assert_eq!(on.store.pace(&[call(b"here")], NOW.plus(seconds(10))).await.unwrap(), None);
    assert_eq!(on.store.pace(&[call(b"here")], NOW.plus(seconds(10))).await.unwrap(), Some(seconds(10)));
}

async fn of_many_paced_calls_at_once_so_many_are_made(on: Fixture) {
    let other = sql::open(&on.settings).await.unwrap();
    let mut asking = JoinSet::new();
    for number in 0..60 {
        let store = Arc::clone(if number % 2 == 0 { &on.store } else { &other });
        asking.spawn(async move {
            let pace = Pace { calls: count(4), period: seconds(60) };
            store.pace(&[Paced { purpose: "register", subject: b"x", pace }], NOW).await.unwrap()
        });
    }
    assert_eq!(asking.join_all().await.iter().filter(|wait| wait.is_none()).count(), 4);
}

async fn counts_survive_the_store_being_opened_anew(on: Fixture) {
    let who = attempt(Attempted::User(UserId(Uuid::from_u128(3))), 1);
    for _ in 0..5 {
        fails(&on, &who, NOW).await;
    }
    let again = sql::open(&on.settings).await.unwrap();
    let said = again.reserve_attempt(&who, &rules(), NOW).await.unwrap();
    assert_eq!(said, Reserved::Refused(Verdict::Wait(Counter::Pair, NOW.plus(Duration::from_mins(1)))));
}
