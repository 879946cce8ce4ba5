//! Refresh steps as the store takes them: one successor, one kill, each with its audit row.

use portcullis::store::{AuditEntry, AuditEvent, RefreshOutcome, feed::News};

use crate::fixture::{Fixture, NOW, RULES, entry, seconds, session_id};

on_both_engines! {
    rotation_counts_on_and_gives_session_and_account,
    twenty_concurrent_refreshes_yield_one_successor,
    a_lost_answer_is_repeated_until_the_successor_was_seen_used,
    double_refresh_kills_the_session_and_the_kill_stays,
    a_kill_is_audited_once_however_often_the_thief_comes_back,
    of_many_thieves_at_once_one_kills,
    a_counter_never_issued_is_refused_and_audited_without_a_kill,
    unknown_ended_expired_and_inactive_are_refused_without_a_row,
    refreshes_racing_a_logout_never_revive_the_session,
}

fn granted(outcome: &RefreshOutcome) -> (u64, bool) {
    match outcome {
        RefreshOutcome::Granted { session, repeated, .. } => (session.counter, *repeated),
        other => panic!("{other:?}"),
    }
}

async fn rotation_counts_on_and_gives_session_and_account(on: Fixture) {
    let (account, id) = on.registered("ann@example.com").await;
    let at = NOW.plus(seconds(600));
    let RefreshOutcome::Granted { session, account: owner, repeated } = on.refresh(id, 1, at).await else {
        panic!("granted")
    };
    assert_eq!((session.counter, session.rotated_at, repeated), (2, at, false));
    assert_eq!(*owner, account);
    assert_eq!(on.store.session(id).await.unwrap(), Some(*session));
    // The row names its user and session although the caller named neither.
    let rows = on.store.audit_of(account.id, 10).await.unwrap();
    assert_eq!((rows[0].event.as_str(), rows[0].session, rows[0].at), ("refreshed", Some(id), at));
}

async fn twenty_concurrent_refreshes_yield_one_successor(on: Fixture) {
    let (account, id) = on.registered("ann@example.com").await;
    let refreshes = (0..20).map(|_| {
        let store = on.store.clone();
        let told = entry(AuditEvent::Refreshed, NOW.plus(seconds(1)));
        tokio::spawn(async move { store.refresh(id, 1, &RULES, &told).await.unwrap() })
    });
    let mut rotated = 0;
    for refresh in refreshes.collect::<Vec<_>>() {
        let (counter, repeated) = granted(&refresh.await.unwrap());
        assert_eq!(counter, 2);
        rotated += u32::from(!repeated);
    }
    assert_eq!(rotated, 1);
    assert_eq!(on.store.session(id).await.unwrap().unwrap().counter, 2);
    assert_eq!(on.events(account.id).await, [AuditEvent::Refreshed; 20]);
}

async fn a_lost_answer_is_repeated_until_the_successor_was_seen_used(on: Fixture) {
    let (_, id) = on.registered("ann@example.com").await;
    on.used(id, 1, NOW).await;
    assert_eq!(granted(&on.refresh(id, 1, NOW).await), (2, false));
    let late = NOW.plus(seconds(3_600));
    assert_eq!(granted(&on.refresh(id, 1, late).await), (2, true));
    // A repeat is no rotation: the session is as idle as before.
    assert_eq!(on.store.session(id).await.unwrap().unwrap().rotated_at, NOW);
    on.used(id, 2, late).await;
    let late = late.plus(RULES.grace);
    // Somebody else may have asked at the same time, and is answered within a grace of its own.
    assert_eq!(granted(&on.refresh(id, 1, late).await), (2, true));
    let late = late.plus(seconds(1));
    assert!(matches!(on.refresh(id, 1, late).await, RefreshOutcome::Reused { .. }));
}

async fn double_refresh_kills_the_session_and_the_kill_stays(on: Fixture) {
    let (account, id) = on.registered("ann@example.com").await;
    on.refresh(id, 1, NOW).await;
    on.refresh(id, 2, NOW).await;
    let at = NOW.plus(seconds(1));
    assert_eq!(on.refresh(id, 1, at).await, RefreshOutcome::Reused { user: account.id });
    assert_eq!(on.store.session(id).await.unwrap().unwrap().ended_at, Some(at));
    assert_eq!(on.refresh(id, 3, at).await, RefreshOutcome::Refused, "the newest token died with the session");
    assert_eq!(on.news().await, [News::Session(id)]);
}

async fn a_kill_is_audited_once_however_often_the_thief_comes_back(on: Fixture) {
    let (account, id) = on.registered("ann@example.com").await;
    on.refresh(id, 1, NOW).await;
    on.refresh(id, 2, NOW).await;
    on.refresh(id, 1, NOW.plus(seconds(1))).await;
    for _ in 0..3 {
        assert_eq!(on.refresh(id, 1, NOW.plus(seconds(2))).await, RefreshOutcome::Refused);
    }
    let expected = [AuditEvent::Refreshed, AuditEvent::Refreshed, AuditEvent::RefreshReuseDetected];
    assert_eq!(on.events(account.id).await, expected);
    assert_eq!(on.store.session(id).await.unwrap().unwrap().ended_at, Some(NOW.plus(seconds(1))));
}

async fn of_many_thieves_at_once_one_kills(on: Fixture) {
    let (account, id) = on.registered("ann@example.com").await;
    on.refresh(id, 1, NOW).await;
    on.refresh(id, 2, NOW).await;
    let thieves = (0..8).map(|_| {
        let store = on.store.clone();
        let told = entry(AuditEvent::Refreshed, NOW.plus(seconds(1)));
        tokio::spawn(async move { store.refresh(id, 1, &RULES, &told).await.unwrap() })
    });
    let mut kills = 0;
    for thief in thieves.collect::<Vec<_>>() {
        match thief.await.unwrap() {
            RefreshOutcome::Reused { user } => {
                assert_eq!(user, account.id);
                kills += 1;
            }
            RefreshOutcome::Refused => {}
            granted @ RefreshOutcome::Granted { .. } => panic!("{granted:?}"),
        }
    }
    assert_eq!(kills, 1);
}

async fn a_counter_never_issued_is_refused_and_audited_without_a_kill(on: Fixture) {
    let (account, id) = on.registered("ann@example.com").await;
    assert_eq!(on.refresh(id, 2, NOW).await, RefreshOutcome::Refused);
    assert_eq!(on.refresh(id, u64::MAX, NOW).await, RefreshOutcome::Refused);
    assert_eq!(on.refresh(id, 0, NOW).await, RefreshOutcome::Refused);
    assert_eq!(on.events(account.id).await, [AuditEvent::RefreshAhead; 3]);
    assert_eq!(granted(&on.refresh(id, 1, NOW).await), (2, false));
}

async fn unknown_ended_expired_and_inactive_are_refused_without_a_row(on: Fixture) {
    let (account, expired) = on.registered("ann@example.com").await;
    assert_eq!(on.refresh(session_id(), 1, NOW).await, RefreshOutcome::Refused);
    assert_eq!(on.refresh(expired, 1, NOW.plus(RULES.idle)).await, RefreshOutcome::Refused);
    let ended = on.logged_in(account.id, NOW).await;
    on.store.end_sessions(ended, false, &entry(AuditEvent::LoggedOut, NOW)).await.unwrap();
    assert_eq!(on.refresh(ended, 1, NOW).await, RefreshOutcome::Refused);
    let inactive = on.logged_in(account.id, NOW).await;
    on.tamper("UPDATE users SET active = (1 = 0)").await;
    assert_eq!(on.refresh(inactive, 1, NOW).await, RefreshOutcome::Refused);
    assert_eq!(on.store.session(inactive).await.unwrap().unwrap().counter, 1);
    assert_eq!(on.events(account.id).await, []);
}

async fn refreshes_racing_a_logout_never_revive_the_session(on: Fixture) {
    let (account, id) = on.registered("ann@example.com").await;
    let refreshes: Vec<_> = (0..8)
        .map(|_| {
            let store = on.store.clone();
            let told = entry(AuditEvent::Refreshed, NOW);
            tokio::spawn(async move { store.refresh(id, 1, &RULES, &told).await.unwrap() })
        })
        .collect();
    let told = AuditEntry { user: Some(account.id), ..entry(AuditEvent::LoggedOut, NOW) };
    assert_eq!(on.store.end_sessions(id, false, &told).await.unwrap(), [id]);
    for refresh in refreshes {
        refresh.await.unwrap();
    }
    assert_eq!(on.store.session(id).await.unwrap().unwrap().ended_at, Some(NOW));
    assert_eq!(on.refresh(id, 2, NOW).await, RefreshOutcome::Refused);
    // Whatever was granted was granted before the logout, in the order of the audit too.
    let events = on.events(account.id).await;
    assert_eq!(events.last(), Some(&AuditEvent::LoggedOut), "{events:?}");
}
