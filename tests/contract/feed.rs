//! The feed: entries come with their cause or not at all, in the order of their numbers, and none is missed by a reader
//! who goes by them, whoever writes at the same time and whatever history the store holds.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use portcullis::{
    clock::Timestamp,
    config::settings::Engine,
    policy::ids::SessionId,
    store::{
        AccountFault, AuditEntry, AuditEvent, Revocation,
        audit::AuditQuery,
        feed::{Authorization, FeedPage, FeedPosition, FeedReach, News, SubjectBefore},
    },
};

use crate::fixture::{EVERYTHING, Fixture, NOW, entry, seconds, session_id, user_id};

on_both_engines!(
    an_end_is_told_with_its_cause_and_only_then,
    entries_are_told_a_page_at_a_time_and_each_once,
    numbers_become_visible_in_their_order_however_many_write,
    a_reader_of_another_history_is_told_to_start_again,
    what_no_longer_matters_is_not_told_and_goes,
    a_revoked_token_and_a_subject_are_told_with_their_end,
    changed_rights_are_told_with_a_new_version,
    every_change_of_signing_keys_is_told,
    whoever_has_very_many_sessions_can_end_them_all,
    an_odd_entry_hides_no_other,
    old_entries_cost_many_small_questions_and_no_large_one,
    a_reader_whose_clock_is_ahead_misses_nothing,
);

async fn page(on: &Fixture, from: &FeedPosition) -> FeedPage {
    on.store.feed(from, EVERYTHING, 100).await.unwrap().unwrap()
}

async fn end(on: &Fixture, session: SessionId, at: Timestamp) {
    on.store.end_sessions(session, false, &entry(AuditEvent::LoggedOut, at)).await.unwrap();
}

async fn an_end_is_told_with_its_cause_and_only_then(on: Fixture) {
    let (account, session) = on.registered("ann@example.com").await;
    let other = on.logged_in(account.id, NOW).await;
    let start = page(&on, &FeedPosition::START).await;
    assert_eq!((start.entries.len(), start.is_last), (0, true), "nobody has ended yet");
    end(&on, session, NOW.plus(seconds(1))).await;
    end(&on, session, NOW.plus(seconds(2))).await;
    end(&on, session_id(), NOW).await;
    let told = page(&on, &start.position).await;
    assert_eq!(told.entries.len(), 1, "{told:?}");
    let first = &told.entries[0];
    assert_eq!((first.seq, first.at, first.until), (1, NOW.plus(seconds(1)), None));
    assert_eq!(first.news, News::Session(session));
    on.store.end_sessions(session, true, &entry(AuditEvent::LoggedOut, NOW)).await.unwrap();
    assert_eq!(page(&on, &told.position).await.entries[0].news, News::Session(other));
}

async fn entries_are_told_a_page_at_a_time_and_each_once(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let mut ended = vec![first];
    for _ in 0..6 {
        ended.push(on.logged_in(account.id, NOW).await);
    }
    on.store.end_sessions(first, true, &entry(AuditEvent::LoggedOut, NOW)).await.unwrap();
    let (mut told, mut from, mut pages) = (Vec::new(), FeedPosition::START, 0);
    loop {
        let page = on.store.feed(&from, EVERYTHING, 3).await.unwrap().unwrap();
        pages += 1;
        assert!(page.entries.len() <= 3);
        told.extend(page.entries.into_iter().map(|entry| entry.news));
        from = page.position;
        if page.is_last {
            break;
        }
    }
    let mut sessions: Vec<_> =
        told.iter().map(|news| if let News::Session(session) = news { *session } else { panic!("{news:?}") }).collect();
    sessions.sort_unstable();
    ended.sort_unstable();
    assert_eq!((pages, sessions), (3, ended));
    assert_eq!(page(&on, &from).await.entries, []);
}

/// One who reads all the time sees every number, in order, while many write.
async fn numbers_become_visible_in_their_order_however_many_write(on: Fixture) {
    const EACH: usize = 15;
    let on = Arc::new(on);
    let mut sessions = Vec::new();
    for number in 0..4 {
        let (account, first) = on.registered(&format!("user{number}@example.com")).await;
        let mut own = vec![first];
        for _ in 1..EACH {
            own.push(on.logged_in(account.id, NOW).await);
        }
        sessions.push(own);
    }
    let all = sessions.len() * EACH;
    let done = Arc::new(AtomicU32::new(0));
    let writers: Vec<_> = sessions
        .into_iter()
        .map(|own| {
            let (on, done) = (Arc::clone(&on), Arc::clone(&done));
            tokio::spawn(async move {
                for session in own {
                    end(&on, session, NOW).await;
                }
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    let (mut seen, mut from) = (Vec::new(), FeedPosition::START);
    while seen.len() < all {
        let page = on.store.feed(&from, EVERYTHING, 7).await.unwrap().expect("there is one history");
        seen.extend(page.entries.iter().map(|entry| entry.seq));
        from = page.position;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(seen, (1..=all as u64).collect::<Vec<_>>());
}

async fn a_reader_of_another_history_is_told_to_start_again(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let second = on.logged_in(account.id, NOW).await;
    end(&on, first, NOW).await;
    let before = page(&on, &FeedPosition::START).await.position;
    end(&on, second, NOW).await;
    let after = page(&on, &before).await.position;
    // As a store is that was restored from before the second end.
    on.tamper("DELETE FROM feed WHERE seq = 2").await;
    on.tamper("UPDATE feed_head SET seq = 1, link = (SELECT link FROM feed WHERE seq = 1)").await;
    assert_eq!(on.store.feed(&after, EVERYTHING, 10).await.unwrap(), None, "the numbers went backwards");
    assert!(on.store.feed(&before, EVERYTHING, 10).await.unwrap().is_some(), "that much is still so");
    let third = on.logged_in(account.id, NOW).await;
    end(&on, third, NOW).await;
    assert_eq!(on.store.feed(&after, EVERYTHING, 10).await.unwrap(), None, "the same number, another entry");
    let fourth = on.logged_in(account.id, NOW).await;
    end(&on, fourth, NOW).await;
    assert_eq!(on.store.feed(&after, EVERYTHING, 10).await.unwrap(), None, "the history has grown past it");
    assert_eq!(on.news().await, [first, third, fourth].map(News::Session));
}

async fn what_no_longer_matters_is_not_told_and_goes(on: Fixture) {
    let (account, old) = on.registered("ann@example.com").await;
    let [young, last] = [on.logged_in(account.id, NOW).await, on.logged_in(account.id, NOW).await];
    let reach = FeedReach { since: NOW, now: NOW };
    end(&on, old, NOW.minus(std::time::Duration::from_micros(1))).await;
    end(&on, young, NOW).await;
    let revoked = |jti: &str| Revocation::Token(jti.to_owned());
    let told = entry(AuditEvent::TokenRevoked, NOW.minus(seconds(100)));
    on.store.revoke(&revoked("over"), NOW, &told).await.unwrap();
    on.store.revoke(&revoked("live"), NOW.plus(seconds(1)), &told).await.unwrap();
    end(&on, last, NOW).await;
    let known: Vec<_> = {
        let page = on.store.feed(&FeedPosition::START, reach, 10).await.unwrap().unwrap();
        page.entries.into_iter().map(|entry| entry.news).collect()
    };
    let expected = [News::Session(young), News::Token("live".into()), News::Session(last)];
    assert_eq!(known, expected);
    assert_eq!(on.store.prune_feed(reach).await.unwrap(), 2);
    assert_eq!(on.news().await, expected);
    // The newest stays, since readers stand on it.
    let end_of_time = FeedReach { since: NOW.plus(seconds(1_000)), now: NOW.plus(seconds(1_000)) };
    let position = page(&on, &FeedPosition::START).await.position;
    assert_eq!(on.store.prune_feed(end_of_time).await.unwrap(), 2);
    assert!(on.store.feed(&position, EVERYTHING, 10).await.unwrap().is_some());
}

async fn a_revoked_token_and_a_subject_are_told_with_their_end(on: Fixture) {
    let subject = SubjectBefore { issuer: "https://idp.test".into(), subject: "idp:ann".into(), before: 1_800_000_000 };
    let until = NOW.plus(seconds(900));
    let told = entry(AuditEvent::TokenRevoked, NOW);
    on.store.revoke(&Revocation::Token("jti-1".into()), until, &told).await.unwrap();
    on.store.revoke(&Revocation::SubjectBefore(subject.clone()), until, &told).await.unwrap();
    let entries = page(&on, &FeedPosition::START).await.entries;
    assert!(entries.iter().all(|entry| (entry.at, entry.until) == (NOW, Some(until))), "{entries:?}");
    let news: Vec<_> = entries.into_iter().map(|entry| entry.news).collect();
    assert_eq!(news, [News::Token("jti-1".into()), News::SubjectBefore(subject)]);
    let rows = on.store.audit_rows(&AuditQuery::default(), 2).await.unwrap();
    let whom: Vec<_> = rows.iter().rev().filter_map(|row| row.detail.as_deref()).collect();
    assert_eq!(
        whom,
        [r#"{"token":"jti-1"}"#, r#"{"subject":"idp:ann"}"#],
        "whoever asks later is told what was revoked"
    );
}

async fn changed_rights_are_told_with_a_new_version(on: Fixture) {
    let (account, _) = on.registered("ann@example.com").await;
    let roles = |roles: &[&str]| roles.iter().map(|role| (*role).to_owned()).collect::<Vec<_>>();
    let told = entry(AuditEvent::AuthorizationChanged, NOW);
    let change =
        async |roles: &[String], org| on.store.change_authorization(account.id, roles, org, &told).await.unwrap();
    let changed = change(&roles(&["admin", "user"]), Some("acme")).await;
    assert_eq!(
        (changed.roles, changed.org, changed.authorization_version),
        (roles(&["admin", "user"]), Some("acme".into()), 2)
    );
    let same = change(&roles(&["admin", "user"]), Some("acme")).await;
    assert_eq!(same.authorization_version, 2, "nothing has changed");
    let taken = change(&roles(&["user"]), Some("acme")).await;
    assert_eq!(taken.authorization_version, 3);
    let right = |version, given: &[&str]| {
        let (roles, org) = (roles(given), Some("acme".into()));
        News::Authorization(Authorization { user: account.id, version, roles, scopes: Vec::new(), org })
    };
    assert_eq!(on.news().await, [right(2, &["admin", "user"]), right(3, &["user"])]);
    let events = on.store.audit_of(account.id, 10).await.unwrap();
    let rows = events.iter().filter(|row| row.event == AuditEvent::AuthorizationChanged).count();
    assert_eq!(rows, 2);
    let nobody =
        on.store.change_authorization(user_id(), &roles(&["user"]), None, &AuditEntry { ..told.clone() }).await;
    assert!(matches!(nobody, Err(AccountFault::Missing)));
    assert_eq!(on.news().await.len(), 2);
}

/// In a few statements: one for each would not end within the store's time-out, and they would stay live for good.
async fn whoever_has_very_many_sessions_can_end_them_all(on: Fixture) {
    const MANY: usize = 20_000;
    let (_, session) = on.registered("ann@example.com").await;
    on.tamper(match on.settings.engine {
        Engine::Postgres { .. } => {
            "INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid()))).* \
             FROM sessions s, generate_series(2, 20000)"
        }
        Engine::Sqlite { .. } => {
            "CREATE TEMP TABLE more AS WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
             SELECT s.* FROM sessions s, n; UPDATE more SET id = randomblob(16); INSERT INTO sessions SELECT * FROM more"
        }
    })
    .await;
    let ended = on.store.end_sessions(session, true, &entry(AuditEvent::LoggedOut, NOW)).await.unwrap();
    assert_eq!(ended.len(), MANY);
    let told = on.store.feed(&FeedPosition::START, EVERYTHING, 30_000).await.unwrap().unwrap();
    let mut sessions: Vec<_> = told.entries.iter().map(|entry| entry.news.clone()).collect();
    assert_eq!((told.position.seq, sessions.len()), (MANY as u64, MANY));
    assert!(sessions.contains(&News::Session(session)));
    sessions.dedup();
    assert_eq!(sessions.len(), MANY);
    // However many there are, they go in bounded calls, and all of them but the newest.
    let (mut gone, mut calls) = (0, Vec::new());
    let end_of_time = FeedReach { since: NOW.plus(seconds(1_000)), now: NOW.plus(seconds(1_000)) };
    while calls.last() != Some(&0) {
        calls.push(on.store.prune_feed(end_of_time).await.unwrap());
        gone += calls[calls.len() - 1];
    }
    assert_eq!((gone, &calls[..]), (MANY as u64 - 1, &[10_000, 9_999, 0][..]));
    // The chain goes on from the last of them.
    let (_, another) = on.registered("bob@example.com").await;
    end(&on, another, NOW).await;
    assert_eq!(page(&on, &told.position).await.entries[0].news, News::Session(another));
}

async fn an_odd_entry_hides_no_other(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let mut sessions = vec![first];
    for _ in 0..4 {
        sessions.push(on.logged_in(account.id, NOW).await);
    }
    for session in &sessions {
        end(&on, *session, NOW).await;
    }
    on.tamper("UPDATE feed SET kind = 'of a newer gateway' WHERE seq = 2").await;
    on.tamper("UPDATE feed SET session_id = NULL WHERE seq = 3").await;
    on.tamper("UPDATE feed SET kind = 'authorization', detail = '{' WHERE seq = 5").await;
    let told = page(&on, &FeedPosition::START).await;
    let news: Vec<_> = told.entries.into_iter().map(|entry| entry.news).collect();
    assert_eq!((news, told.odd), (vec![News::Session(sessions[0]), News::Session(sessions[3])], vec![2, 3, 5]));
    assert!(told.is_last && told.position.seq == 5);
    assert_eq!(page(&on, &told.position).await.odd, [0_u64; 0], "once");
}

async fn old_entries_cost_many_small_questions_and_no_large_one(on: Fixture) {
    let (account, first) = on.registered("ann@example.com").await;
    let (mut old, mut young) = (vec![first], Vec::new());
    for _ in 0..34 {
        old.push(on.logged_in(account.id, NOW).await);
    }
    for _ in 0..3 {
        young.push(on.logged_in(account.id, NOW).await);
    }
    for session in &old {
        end(&on, *session, NOW.minus(seconds(1))).await;
    }
    for session in &young {
        end(&on, *session, NOW).await;
    }
    on.tamper("DELETE FROM feed WHERE seq BETWEEN 3 AND 6").await;
    let reach = FeedReach { since: NOW, now: NOW };
    let (mut told, mut from, mut pages) = (Vec::new(), FeedPosition::START, 0);
    loop {
        let page = on.store.feed(&from, reach, 1).await.unwrap().expect("there is one history");
        assert!(page.position.seq <= from.seq + 15, "{page:?}");
        assert!(page.is_last || page.position.seq > from.seq, "{page:?}");
        told.extend(page.entries.into_iter().map(|entry| entry.news));
        (from, pages) = (page.position, pages + 1);
        if page.is_last {
            break;
        }
    }
    assert_eq!(told, young.into_iter().map(News::Session).collect::<Vec<_>>());
    assert!(pages >= 5, "{pages}");
}

async fn a_reader_whose_clock_is_ahead_misses_nothing(on: Fixture) {
    let (_, session) = on.registered("ann@example.com").await;
    end(&on, session, NOW).await;
    let tomorrow = NOW.plus(seconds(86_400));
    let reach = FeedReach { since: tomorrow.minus(seconds(900)), now: tomorrow };
    let page = on.store.feed(&FeedPosition::START, reach, 10).await.unwrap().unwrap();
    assert_eq!(page.entries.into_iter().map(|entry| entry.news).collect::<Vec<_>>(), [News::Session(session)]);
}

/// A call that reaches a listener says nothing, so what it reads then must be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_is_called_when_it_begins_and_when_something_is_committed() {
    let on = Arc::new(Fixture::postgres().await);
    let (_, session) = on.registered("ann@example.com").await;
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let listening = Arc::clone(&on);
    let listener = tokio::spawn(async move {
        listening.store.feed_wakes(&|| called.send(()).unwrap()).await.unwrap();
    });
    calls.recv().await.unwrap();
    end(&on, session, NOW).await;
    calls.recv().await.unwrap();
    assert_eq!(on.news().await, [News::Session(session)]);
    listener.abort();
}

async fn every_change_of_signing_keys_is_told(on: Fixture) {
    use portcullis::{
        policy::{
            key_life::{KeyRules, Order},
            keys::Algorithm,
        },
        store::{KeyAsk, NewKey, audit::Actor},
    };
    let rules = KeyRules { every: None, publish_ahead: seconds(360), verify_for: seconds(900) };
    let ask = KeyAsk { order: Order::Due, needed: &[Algorithm::Es256], rules: &rules, now: NOW, by: &Actor::System };
    let spare = NewKey { kid: "one".into(), algorithm: Algorithm::Es256, sealed_pkcs8: vec![1] };
    on.store.advance_signing_keys(&ask, &[]).await.unwrap();
    assert_eq!(on.news().await, [], "nothing was done");
    on.store.advance_signing_keys(&ask, &[spare]).await.unwrap();
    on.store.advance_signing_keys(&ask, &[]).await.unwrap();
    assert_eq!(on.news().await, [News::Keys]);
}
