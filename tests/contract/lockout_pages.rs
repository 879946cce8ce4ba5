//! What is locked, page by page, and one lockout lifted alone.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use portcullis::{
    clock::Timestamp,
    policy::{
        device_cookie::Device,
        lockout::{AccountRules, AddressRules, Counter, DeviceRules, LockoutRules, PairRules, Rung},
    },
    store::{
        AuditEvent,
        lockout_lists::{LockoutPage, LockoutQuery, ORDER, Place},
        lockouts::{Attempt, AttemptEnd, Attempted, Locked, Lockout, Reserved},
    },
};
use uuid::Uuid;

use crate::fixture::{Fixture, NOW, entry, seconds, user_id};

on_both_engines! {
    pages_of_any_size_hold_every_lockout_once_in_their_order,
    a_list_is_narrowed_by_counter_account_and_address,
    rows_that_are_locked_no_more_hide_none_that_is,
    a_pair_is_lifted_alone_and_audited_once,
}

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// Everything locks soon.
fn rules() -> LockoutRules {
    LockoutRules {
        pair: PairRules { free: count(1), waits: [1, 15].map(Duration::from_mins).to_vec() },
        account: AccountRules {
            slow_after: count(2),
            slow_by: seconds(60),
            slow_most: seconds(60),
            hard_stop: count(3),
            forget_after: Duration::from_hours(24),
        },
        address: AddressRules {
            window: Duration::from_hours(24),
            ladder: vec![Rung { accounts: count(3), wait: Duration::from_mins(10) }],
        },
        device: DeviceRules { failures: count(1) },
        hold: Duration::from_mins(1),
    }
}

fn address(last: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + last).into())
}

fn somebody() -> Attempted {
    Attempted::User(user_id())
}

async fn fails(on: &Fixture, attempt: Attempt, now: Timestamp) {
    match on.store.reserve_attempt(&attempt, &rules(), now).await.unwrap() {
        Reserved::Admitted(ticket) => {
            let audit = entry(AuditEvent::LoginFailed, now);
            on.store.end_attempt(&ticket, AttemptEnd::Failed, &rules(), &audit).await.unwrap();
        }
        Reserved::Refused(verdict) => panic!("{attempt:?} is refused: {verdict:?}"),
    }
}

fn from(account: Attempted, address_of: u32) -> Attempt {
    Attempt { account, address: address(address_of), device: None }
}

async fn page(on: &Fixture, query: LockoutQuery, now: Timestamp, most: u32) -> LockoutPage {
    on.store.lockout_page(&query, &rules(), now, most).await.unwrap()
}

/// All pages, as somebody reads them who comes back with each cursor.
async fn all(on: &Fixture, mut query: LockoutQuery, now: Timestamp, most: u32) -> Vec<Lockout> {
    let mut found = Vec::new();
    for _ in 0..200 {
        let page = page(on, query, now, most).await;
        assert!(page.lockouts.len() <= most as usize);
        found.extend(page.lockouts);
        let Some(next) = page.next else { return found };
        query.after = Place::from_cursor(&next.to_cursor());
        assert_eq!(query.after, Some(next));
    }
    panic!("the pages do not end");
}

/// Something locked by each counter, some of it in the same microsecond. Gives the moment after, and a user who is stopped.
async fn populated(on: &Fixture) -> (Timestamp, Attempted) {
    let (stopped, unknown) = (somebody(), Attempted::Unknown([7; 32]));
    for number in 0..3 {
        fails(on, from(stopped, 100 + number), NOW.plus(seconds(u64::from(number) * 61))).await;
    }
    let now = NOW.plus(seconds(150));
    for number in 0..5 {
        let device = Device { user: user_id(), nonce: Uuid::from_u128(number), expires: now.plus(seconds(9_000)) };
        fails(on, Attempt { device: Some(device), ..from(Attempted::User(device.user), 1) }, now).await;
    }
    for number in 0..5 {
        fails(on, from(somebody(), 200 + number), now).await;
    }
    for who in [unknown, somebody(), somebody()] {
        fails(on, from(who, 300), now).await;
    }
    (now, stopped)
}

async fn pages_of_any_size_hold_every_lockout_once_in_their_order(on: Fixture) {
    let (now, stopped) = populated(&on).await;
    let whole = page(&on, LockoutQuery::default(), now, 200).await;
    assert_eq!(whole.next, None);
    let of = |counter| whole.lockouts.iter().filter(|one| one.what.counter() == counter).count();
    // Of the stopped user's pairs the waits are over but for the last.
    assert_eq!(ORDER.map(of), [1, 1, 5, 9]);
    assert_eq!((whole.lockouts[0].what, whole.lockouts[0].until), (Locked::Account(stopped), None));
    assert_eq!((whole.lockouts[1].what, whole.lockouts[1].failures), (Locked::Address(address(300)), 3));
    let order = |one: &Lockout| (ORDER.iter().position(|counter| *counter == one.what.counter()), -one.last.micros());
    assert!(whole.lockouts.is_sorted_by_key(order), "{whole:?}");
    for most in [1, 2, 3, 7] {
        assert_eq!(all(&on, LockoutQuery::default(), now, most).await, whole.lockouts, "{most} at once");
    }
}

async fn a_list_is_narrowed_by_counter_account_and_address(on: Fixture) {
    let (now, stopped) = populated(&on).await;
    let counters = async |query| {
        let found = all(&on, query, now, 2).await;
        found.into_iter().map(|one| one.what.counter()).collect::<Vec<_>>()
    };
    for (counter, expected) in ORDER.into_iter().zip([1, 1, 5, 9]) {
        let query = LockoutQuery { counter: Some(counter), ..LockoutQuery::default() };
        assert_eq!(counters(query).await, vec![counter; expected]);
    }
    let of_account = LockoutQuery { account: Some(stopped), ..LockoutQuery::default() };
    assert_eq!(counters(of_account).await, [Counter::Account, Counter::Pair]);
    let unknown = LockoutQuery { account: Some(Attempted::Unknown([7; 32])), ..LockoutQuery::default() };
    assert_eq!(counters(unknown).await, [Counter::Pair]);
    let of_address = LockoutQuery { address: Some(address(300)), ..LockoutQuery::default() };
    assert_eq!(counters(of_address).await, [Counter::Address, Counter::Pair, Counter::Pair, Counter::Pair]);
    let both = LockoutQuery { account: Some(stopped), ..of_address };
    assert_eq!(counters(both).await, []);
}

async fn rows_that_are_locked_no_more_hide_none_that_is(on: Fixture) {
    let patient = from(somebody(), 1);
    fails(&on, patient, NOW).await;
    let now = NOW.plus(seconds(61));
    fails(&on, patient, now).await;
    let now = now.plus(seconds(1));
    for number in 0..230 {
        fails(&on, from(somebody(), 1_000 + number), now).await;
    }
    let pairs = LockoutQuery { counter: Some(Counter::Pair), ..LockoutQuery::default() };
    assert_eq!(all(&on, pairs, now, 50).await.len(), 231);
    let found = page(&on, pairs, now.plus(seconds(61)), 1).await;
    assert_eq!(found.lockouts.len(), 1);
    assert_eq!(found.lockouts[0].what, Locked::Pair(patient.account, patient.address));
}

async fn a_pair_is_lifted_alone_and_audited_once(on: Fixture) {
    let user = user_id();
    let who = Attempted::User(user);
    fails(&on, from(who, 1), NOW).await;
    let now = NOW.plus(seconds(1));
    fails(&on, from(who, 2), now).await;
    let lifted = entry(AuditEvent::LockoutLifted, now);
    assert!(on.store.lift_locked(&Locked::Pair(who, address(1)), &lifted).await.unwrap());
    assert!(!on.store.lift_locked(&Locked::Pair(who, address(1)), &lifted).await.unwrap());
    assert!(!on.store.lift_locked(&Locked::Pair(somebody(), address(1)), &lifted).await.unwrap());
    let left: Vec<_> = all(&on, LockoutQuery::default(), now, 9).await.into_iter().map(|one| one.what).collect();
    assert_eq!(left, [Locked::Account(who), Locked::Pair(who, address(2))], "only that pair was forgotten");
    assert_eq!(on.events(user).await, [AuditEvent::LockoutLifted]);
    assert!(on.store.lift_locked(&Locked::Account(who), &lifted).await.unwrap());
    assert_eq!(all(&on, LockoutQuery::default(), now, 9).await, []);
}
