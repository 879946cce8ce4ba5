//! A user's sessions side by side: the list of them, when each was last seen, how many there may be.

use std::num::NonZeroU32;

use portcullis::{
    clock::Timestamp,
    policy::ids::{SessionId, UserId},
    store::{AuditEntry, AuditEvent, NOTED_EVERY, Opened, SessionLimit, Use},
};

use crate::fixture::{Fixture, NO_LIMIT, NOW, RULES, entry, new_session, seconds, session_id};

on_both_engines! {
    live_sessions_are_listed_the_newest_first_and_nobody_elses,
    a_session_that_has_run_out_is_not_listed,
    a_use_moves_when_a_session_was_last_seen_but_not_for_every_request,
    a_last_use_never_goes_back,
    many_uses_are_noted_at_once_and_an_unknown_session_hinders_none,
    a_rotation_is_a_sign_of_life_and_what_an_older_gateway_left_is_read,
    ending_the_others_keeps_this_one_and_tells_of_each,
    the_oldest_sessions_end_when_there_are_too_many,
    what_has_run_out_or_ended_does_not_count_against_the_limit,
    a_lower_limit_holds_from_the_next_login,
    thirty_logins_at_once_leave_no_more_than_the_limit,
    a_login_that_is_refused_ends_nothing,
}

async fn listed(on: &Fixture, user: UserId, now: Timestamp) -> Vec<SessionId> {
    let live = on.store.live_sessions(user, &RULES, now, 100).await.unwrap();
    live.into_iter().map(|session| session.id).collect()
}

fn limit(most: u32) -> SessionLimit {
    SessionLimit { most: NonZeroU32::new(most), ..NO_LIMIT }
}

/// A login under a limit.
async fn opened(on: &Fixture, user: UserId, most: u32, at: Timestamp) -> (SessionId, Opened) {
    let session = new_session(user, at);
    let told = AuditEntry { user: Some(user), session: Some(session.id), ..entry(AuditEvent::LoginSucceeded, at) };
    (session.id, on.store.open_session(&session, &limit(most), &told).await.unwrap().unwrap())
}

async fn live_sessions_are_listed_the_newest_first_and_nobody_elses(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let (stranger, strangers) = on.registered("eve@example.com").await;
    let second = on.logged_in(account.id, NOW.plus(seconds(1))).await;
    let third = on.logged_in(account.id, NOW.plus(seconds(2))).await;
    assert_eq!(listed(&on, account.id, NOW).await, [third, second, first]);
    assert_eq!(listed(&on, stranger.id, NOW).await, [strangers]);
    let two = on.store.live_sessions(account.id, &RULES, NOW, 2).await.unwrap();
    assert_eq!(two.iter().map(|session| session.id).collect::<Vec<_>>(), [third, second]);
    assert_eq!((two[0].user_agent.as_deref(), two[0].address.as_str()), (Some("contract"), "192.0.2.7"));
    on.store.end_sessions(second, false, &entry(AuditEvent::LoggedOut, NOW)).await.unwrap();
    assert_eq!(listed(&on, account.id, NOW).await, [third, first]);
}

async fn a_session_that_has_run_out_is_not_listed(on: Fixture) {
    let (account, idle) = on.registered("ann@example.com").await;
    let used = on.logged_in(account.id, NOW).await;
    let later = NOW.plus(RULES.idle);
    on.refresh(used, 1, later.minus(seconds(1))).await;
    assert_eq!(listed(&on, account.id, later.minus(seconds(1))).await.len(), 2);
    assert_eq!(listed(&on, account.id, later).await, [used], "{idle} is idle");
    // Kept alive to the end, it still ends.
    let end = NOW.plus(RULES.absolute);
    for (counter, days) in (2..).zip([10, 16, 22, 28]) {
        on.refresh(used, counter, NOW.plus(seconds(days * 86_400))).await;
    }
    assert_eq!(listed(&on, account.id, end.minus(seconds(1))).await, [used]);
    assert_eq!(listed(&on, account.id, end).await, []);
}

async fn seen(on: &Fixture, id: SessionId) -> Timestamp {
    on.store.session(id).await.unwrap().unwrap().last_seen_at
}

async fn a_use_moves_when_a_session_was_last_seen_but_not_for_every_request(on: Fixture) {
    let (_, id) = on.registered("ann@example.com").await;
    assert_eq!(seen(&on, id).await, NOW);
    let first = NOW.plus(seconds(5));
    on.used(id, 1, first).await;
    assert_eq!(seen(&on, id).await, first, "a generation's first use is always noted");
    on.used(id, 1, first.plus(NOTED_EVERY).minus(seconds(1))).await;
    assert_eq!(seen(&on, id).await, first);
    on.used(id, 1, first.plus(NOTED_EVERY)).await;
    assert_eq!(seen(&on, id).await, first.plus(NOTED_EVERY));
}

async fn a_last_use_never_goes_back(on: Fixture) {
    let (_, id) = on.registered("ann@example.com").await;
    on.used(id, 1, NOW.plus(seconds(900))).await;
    // Another gateway's clock, or its queue, is behind.
    on.used(id, 2, NOW.plus(seconds(300))).await;
    let session = on.store.session(id).await.unwrap().unwrap();
    assert_eq!((session.last_seen_at, session.seen_generation), (NOW.plus(seconds(900)), 2));
}

async fn many_uses_are_noted_at_once_and_an_unknown_session_hinders_none(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let second = on.logged_in(account.id, NOW).await;
    let at = NOW.plus(seconds(70));
    let uses = [(second, 3), (session_id(), 9), (first, 1)].map(|(session, generation)| Use { session, generation });
    on.store.note_uses(&uses, at).await.unwrap();
    on.store.note_uses(&[], at).await.unwrap();
    for (id, generation) in [(first, 1), (second, 3)] {
        let session = on.store.session(id).await.unwrap().unwrap();
        assert_eq!((session.seen_generation, session.last_seen_at), (generation, at));
    }
}

async fn a_rotation_is_a_sign_of_life_and_what_an_older_gateway_left_is_read(on: Fixture) {
    let (_, id) = on.registered("ann@example.com").await;
    on.used(id, 1, NOW.plus(seconds(5))).await;
    let at = NOW.plus(seconds(600));
    on.refresh(id, 1, at).await;
    let session = on.store.session(id).await.unwrap().unwrap();
    assert_eq!((session.last_seen_at, session.handed_out_at, session.rotated_at), (at, at, at));
    on.tamper("UPDATE sessions SET last_seen_at = NULL, repeated_at = NULL").await;
    assert_eq!(on.store.session(id).await.unwrap().unwrap(), session);
}

async fn ending_the_others_keeps_this_one_and_tells_of_each(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let (_, strangers) = on.registered("eve@example.com").await;
    let second = on.logged_in(account.id, NOW).await;
    let third = on.logged_in(account.id, NOW).await;
    let told = AuditEntry { user: Some(account.id), ..entry(AuditEvent::SessionRevoked, NOW) };
    let mut ended = on.store.end_other_sessions(second, &told).await.unwrap();
    ended.sort_unstable();
    let mut expected = [first, third];
    expected.sort_unstable();
    assert_eq!(ended, expected);
    for kept in [second, strangers] {
        assert_eq!(on.store.session(kept).await.unwrap().unwrap().ended_at, None);
    }
    let rows = on.store.audit_of(account.id, 10).await.unwrap();
    let mut named: Vec<_> =
        rows.iter().map(|row| (AuditEvent::named(&row.event).unwrap(), row.session.unwrap())).collect();
    named.sort_unstable_by_key(|(_, session)| *session);
    assert_eq!(named, expected.map(|session| (AuditEvent::SessionRevoked, session)));
    assert_eq!(on.store.end_other_sessions(second, &told).await.unwrap(), []);
    assert_eq!(on.store.end_other_sessions(session_id(), &told).await.unwrap(), []);
}

async fn the_oldest_sessions_end_when_there_are_too_many(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let (second, one) = opened(&on, account.id, 2, NOW.plus(seconds(1))).await;
    assert_eq!(one.ended, []);
    // Used or not: it is the login that counts.
    on.used(first, 1, NOW.plus(seconds(2))).await;
    let at = NOW.plus(seconds(3));
    let (third, two) = opened(&on, account.id, 2, at).await;
    assert_eq!(two.ended, [first]);
    assert_eq!(listed(&on, account.id, at).await, [third, second]);
    assert_eq!(on.store.session(first).await.unwrap().unwrap().ended_at, Some(at));
    let rows = on.store.audit_of(account.id, 10).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (AuditEvent::named(&row.event).unwrap(), row.session.unwrap())).collect();
    assert!(rows.contains(&(AuditEvent::SessionLimit, first)), "{rows:?}");
    assert_eq!(rows.len(), 3, "{rows:?}");
}

async fn what_has_run_out_or_ended_does_not_count_against_the_limit(on: Fixture) {
    let (account, idle) = on.registered("ann@example.com").await;
    let later = NOW.plus(RULES.idle);
    let left = on.logged_in(account.id, later.minus(seconds(9))).await;
    on.store.end_sessions(left, false, &entry(AuditEvent::LoggedOut, later)).await.unwrap();
    let kept = on.logged_in(account.id, later.minus(seconds(9))).await;
    let (new, opened) = opened(&on, account.id, 2, later).await;
    assert_eq!(opened.ended, []);
    assert_eq!(listed(&on, account.id, later).await, [new, kept]);
    assert_eq!(on.store.session(idle).await.unwrap().unwrap().ended_at, None);
}

async fn a_lower_limit_holds_from_the_next_login(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let mut before = vec![first];
    for number in 1..6 {
        before.push(on.logged_in(account.id, NOW.plus(seconds(number))).await);
    }
    // A clock that is behind all the others: the new session is kept all the same.
    let (new, mut opened) = opened(&on, account.id, 1, NOW.minus(seconds(60))).await;
    opened.ended.sort_unstable();
    before.sort_unstable();
    assert_eq!(opened.ended, before);
    assert_eq!(listed(&on, account.id, NOW).await, [new]);
}

async fn thirty_logins_at_once_leave_no_more_than_the_limit(on: Fixture) {
    let (account, _) = on.registered("ann@example.com").await;
    let logins = (0..30).map(|number| {
        let (store, user) = (on.store.clone(), account.id);
        tokio::spawn(async move {
            // In no order, as the clocks of several gateways have it.
            let session = new_session(user, NOW.plus(seconds(number * 7 % 30)));
            let told = entry(AuditEvent::LoginSucceeded, session.created_at);
            store.open_session(&session, &limit(4), &told).await.unwrap().unwrap().ended
        })
    });
    let mut ended = Vec::new();
    for login in logins.collect::<Vec<_>>() {
        ended.extend(login.await.unwrap());
    }
    let count = ended.len();
    ended.sort_unstable();
    ended.dedup();
    assert_eq!((count, ended.len()), (27, 27), "each ended once");
    assert_eq!(listed(&on, account.id, NOW).await.len(), 4);
}

async fn a_login_that_is_refused_ends_nothing(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    on.tamper("UPDATE users SET active = (1 = 0)").await;
    let session = new_session(account.id, NOW.plus(seconds(1)));
    let told = entry(AuditEvent::LoginSucceeded, NOW);
    assert_eq!(on.store.open_session(&session, &limit(1), &told).await.unwrap(), None);
    assert_eq!(listed(&on, account.id, NOW).await, [first]);
}
