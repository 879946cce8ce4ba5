//! Audit rows: kept whole, told in order, of one user only.

use portcullis::store::{AuditEntry, AuditEvent};

use crate::fixture::{Fixture, NOW, entry, seconds, session_id, user_id};

on_both_engines! {
    a_row_is_kept_whole,
    every_event_can_be_written_and_read_back,
    rows_come_oldest_first_up_to_the_limit_and_of_that_user_only,
    rows_of_one_moment_keep_the_order_they_were_written_in,
}

async fn a_row_is_kept_whole(on: Fixture) {
    let (user, session) = (user_id(), session_id());
    let told = AuditEntry { user: Some(user), session: Some(session), ..entry(AuditEvent::LoginFailed, NOW) };
    on.store.append_audit(&told).await.unwrap();
    // Nobody's row is nobody's.
    on.store.append_audit(&entry(AuditEvent::LoginFailed, NOW)).await.unwrap();
    let rows = on.store.audit_of(user, 10).await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.at, row.event, row.user, row.session), (NOW, told.event, told.user, told.session));
    assert_eq!((&row.address, &row.request_id), (&told.address, &told.request_id));
}

async fn every_event_can_be_written_and_read_back(on: Fixture) {
    let user = user_id();
    for event in AuditEvent::ALL {
        on.store.append_audit(&AuditEntry { user: Some(user), ..entry(*event, NOW) }).await.unwrap();
    }
    assert_eq!(on.events(user).await, AuditEvent::ALL);
}

async fn rows_come_oldest_first_up_to_the_limit_and_of_that_user_only(on: Fixture) {
    let (user, other) = (user_id(), user_id());
    for late in [3, 1, 2] {
        for whose in [user, other] {
            let at = NOW.plus(seconds(late));
            on.store
                .append_audit(&AuditEntry { user: Some(whose), ..entry(AuditEvent::LoginFailed, at) })
                .await
                .unwrap();
        }
    }
    let times: Vec<_> = on.store.audit_of(user, 2).await.unwrap().into_iter().map(|row| row.at).collect();
    assert_eq!(times, [NOW.plus(seconds(1)), NOW.plus(seconds(2))]);
    assert!(on.store.audit_of(user, 0).await.unwrap().is_empty());
}

async fn rows_of_one_moment_keep_the_order_they_were_written_in(on: Fixture) {
    let user = user_id();
    let mut written = Vec::new();
    for _ in 0..20 {
        let told = AuditEntry { user: Some(user), ..entry(AuditEvent::LoginFailed, NOW) };
        on.store.append_audit(&told).await.unwrap();
        written.push(told.request_id);
    }
    let read: Vec<_> = on.store.audit_of(user, 100).await.unwrap().into_iter().map(|row| row.request_id).collect();
    assert_eq!(read, written);
}
