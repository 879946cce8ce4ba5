//! Sessions: opened for active accounts only, ended once.

use portcullis::{
    policy::{ids::SessionId, refresh::Delivery},
    store::{AuditEntry, AuditEvent, NewSession},
};

use crate::fixture::{Fixture, NO_LIMIT, NOW, entry, new_session, seconds, session_id};

on_both_engines! {
    a_session_is_kept_as_it_was_opened,
    open_session_notes_the_login_and_gives_the_account_as_it_is_then,
    no_session_for_an_inactive_or_unknown_account,
    a_seen_generation_never_falls,
    ending_one_session_leaves_the_others,
    ending_all_takes_every_live_one_of_its_user_and_nobody_elses,
    what_has_ended_does_not_end_again,
    two_who_end_all_at_once_share_the_sessions_between_them,
}

async fn a_session_is_kept_as_it_was_opened(on: Fixture) {
    let (account, _) = on.registered("ann@example.com").await;
    let at = NOW.plus(seconds(5));
    let asked = NewSession {
        delivery: Delivery::Cookie,
        methods: vec!["pwd".into(), "otp \"x\"".into()],
        user_agent: None,
        ..new_session(account.id, at)
    };
    on.store.open_session(&asked, &NO_LIMIT, &entry(AuditEvent::LoginSucceeded, at)).await.unwrap().unwrap();
    let kept = on.store.session(asked.id).await.unwrap().unwrap();
    assert_eq!((kept.id, kept.user, kept.salt), (asked.id, account.id, asked.salt));
    assert_eq!((kept.delivery, kept.methods), (Delivery::Cookie, asked.methods));
    assert_eq!((kept.counter, kept.seen_generation), (1, 0));
    assert_eq!((kept.created_at, kept.rotated_at, kept.ended_at), (at, at, None));
    assert_eq!(on.store.session(session_id()).await.unwrap(), None);
}

async fn open_session_notes_the_login_and_gives_the_account_as_it_is_then(on: Fixture) {
    let (account, _) = on.registered("ann@example.com").await;
    let at = NOW.plus(seconds(60));
    let session = new_session(account.id, at);
    let told =
        AuditEntry { user: Some(account.id), session: Some(session.id), ..entry(AuditEvent::LoginSucceeded, at) };
    let then = on.store.open_session(&session, &NO_LIMIT, &told).await.unwrap().unwrap();
    assert_eq!(then.ended, []);
    let then = then.account;
    assert_eq!(then.last_login_at, Some(at));
    assert_eq!(on.store.account(account.id).await.unwrap(), Some(then));
    assert_eq!(on.events(account.id).await, [AuditEvent::LoginSucceeded]);
}

async fn no_session_for_an_inactive_or_unknown_account(on: Fixture) {
    let (account, _) = on.registered("ann@example.com").await;
    on.tamper("UPDATE users SET active = (1 = 0)").await;
    for user in [account.id, crate::fixture::user_id()] {
        let session = new_session(user, NOW.plus(seconds(1)));
        let told = AuditEntry { user: Some(user), ..entry(AuditEvent::LoginSucceeded, NOW) };
        assert_eq!(on.store.open_session(&session, &NO_LIMIT, &told).await.unwrap(), None);
        assert_eq!(on.store.session(session.id).await.unwrap(), None);
        assert_eq!(on.events(user).await, []);
    }
    assert_eq!(on.store.account(account.id).await.unwrap().unwrap().last_login_at, Some(NOW));
}

async fn a_seen_generation_never_falls(on: Fixture) {
    let (_, session) = on.registered("ann@example.com").await;
    for (seen, kept) in [(2, 2), (1, 2), (2, 2), (5, 5), (0, 5)] {
        on.used(session, seen, NOW).await;
        assert_eq!(on.store.session(session).await.unwrap().unwrap().seen_generation, kept);
    }
    on.used(session_id(), 1, NOW).await;
}

async fn ending_one_session_leaves_the_others(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let second = on.logged_in(account.id, NOW).await;
    let at = NOW.plus(seconds(9));
    let told = AuditEntry { user: Some(account.id), ..entry(AuditEvent::LoggedOut, at) };
    assert_eq!(on.store.end_sessions(first, false, &told).await.unwrap(), [first]);
    assert_eq!(on.store.session(first).await.unwrap().unwrap().ended_at, Some(at));
    assert_eq!(on.store.session(second).await.unwrap().unwrap().ended_at, None);
    assert_eq!(on.events(account.id).await, [AuditEvent::LoggedOut]);
}

async fn ending_all_takes_every_live_one_of_its_user_and_nobody_elses(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let (_, strangers) = on.registered("eve@example.com").await;
    let second = on.logged_in(account.id, NOW).await;
    let third = on.logged_in(account.id, NOW).await;
    let told = AuditEntry { user: Some(account.id), ..entry(AuditEvent::LoggedOut, NOW) };
    assert_eq!(on.store.end_sessions(second, false, &told).await.unwrap(), [second]);
    // Asked for by a session that has ended already: the others end all the same.
    let mut ended = on.store.end_sessions(second, true, &told).await.unwrap();
    ended.sort_unstable();
    let mut expected = [first, third];
    expected.sort_unstable();
    assert_eq!(ended, expected);
    assert_eq!(on.store.session(strangers).await.unwrap().unwrap().ended_at, None);
}

async fn what_has_ended_does_not_end_again(on: Fixture) {
    let (account, session) = on.registered("ann@example.com").await;
    let told = AuditEntry { user: Some(account.id), ..entry(AuditEvent::LoggedOut, NOW) };
    assert_eq!(on.store.end_sessions(session, false, &told).await.unwrap(), [session]);
    let later = AuditEntry { at: NOW.plus(seconds(60)), ..told };
    for all in [false, true] {
        assert_eq!(on.store.end_sessions(session, all, &later).await.unwrap(), []);
        assert_eq!(on.store.end_sessions(session_id(), all, &later).await.unwrap(), []);
    }
    assert_eq!(on.store.session(session).await.unwrap().unwrap().ended_at, Some(NOW));
    assert_eq!(on.events(account.id).await, [AuditEvent::LoggedOut]);
}

async fn two_who_end_all_at_once_share_the_sessions_between_them(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    for _ in 0..20 {
        on.logged_in(account.id, NOW).await;
    }
    let enders = (0..6).map(|_| {
        let store = on.store.clone();
        let told = entry(AuditEvent::LoggedOut, NOW);
        tokio::spawn(async move { store.end_sessions(first, true, &told).await })
    });
    let mut ended = Vec::new();
    for ender in enders.collect::<Vec<_>>() {
        ended.extend(ender.await.unwrap().unwrap());
    }
    ended.sort_unstable();
    let count = ended.len();
    ended.dedup();
    assert_eq!((count, ended.len()), (21, 21));
}

/// Sessions are locked in the order of their ids. Were they locked as they lie in the table, this would deadlock: the
/// rival holds the lower id and then asks for the higher one, which lies first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_all_does_not_deadlock_with_another_who_goes_by_id() {
    let on = Fixture::postgres().await;
    let (account, first) = on.registered("ann@example.com").await;
    on.store.end_sessions(first, false, &entry(AuditEvent::LoggedOut, NOW)).await.unwrap();
    let [low, high] = [1, 2].map(|number| SessionId(uuid::Uuid::from_u128(number)));
    for id in [high, low] {
        let session = NewSession { id, ..new_session(account.id, NOW) };
        on.store.open_session(&session, &NO_LIMIT, &entry(AuditEvent::LoginSucceeded, NOW)).await.unwrap().unwrap();
    }
    let mut rival = on.rival().await;
    let lock = "SELECT id FROM sessions WHERE id = $1 FOR UPDATE";
    sqlx::raw_sql("BEGIN").execute(&mut rival).await.unwrap();
    sqlx::query(lock).bind(low.0).execute(&mut rival).await.unwrap();
    let store = on.store.clone();
    let ending = tokio::spawn(async move { store.end_sessions(first, true, &entry(AuditEvent::LoggedOut, NOW)).await });
    on.somebody_waits().await;
    sqlx::query(lock).bind(high.0).execute(&mut rival).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    let mut ended = ending.await.unwrap().unwrap();
    ended.sort_unstable();
    assert_eq!(ended, [low, high]);
}
