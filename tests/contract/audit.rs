//! Audit rows: kept whole, told in order, of one user only; never changed, erased without a trace of the person.

use portcullis::{
    policy::ids::UserId,
    store::{
        AuditEntry, AuditEvent, Revocation,
        audit::{Actor, AuditQuery, Detail, Outcome, Particular},
        feed::SubjectBefore,
    },
};

use crate::fixture::{Fixture, NOW, entry, seconds, session_id, user_id};

on_both_engines! {
    a_row_is_kept_whole,
    every_event_can_be_written_and_read_back,
    rows_come_oldest_first_up_to_the_limit_and_of_that_user_only,
    rows_of_one_moment_keep_the_order_they_were_written_in,
    a_row_of_a_newer_gateway_is_told_as_it_is,
    each_part_of_a_query_narrows_and_pages_follow_each_other,
    erasing_takes_a_persons_rows_and_nobody_elses_and_says_so,
    erasing_a_subject_of_another_issuer_takes_its_rows_and_nobody_elses,
    what_only_erases_a_part_is_refused,
}

async fn a_row_is_kept_whole(on: Fixture) {
    let (user, session) = (user_id(), session_id());
    let detail = Detail::default().text(Particular::UserAgent, Some("x \"y\" \u{1F512}")).count(Particular::Count, 3);
    let told = AuditEntry {
        actor: Actor::Client("backend".into()),
        user: Some(user),
        session: Some(session),
        detail,
        ..entry(AuditEvent::LoginFailed, NOW)
    };
    on.store.append_audit(&told).await.unwrap();
    // Nobody's row is nobody's.
    on.store.append_audit(&entry(AuditEvent::LoginFailed, NOW)).await.unwrap();
    let rows = on.store.audit_of(user, 10).await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.at, row.event.as_str(), row.user, row.session), (NOW, "login_failed", told.user, told.session));
    assert_eq!((row.address.as_ref(), row.request_id.as_ref()), (Some(&told.address), Some(&told.request_id)));
    assert_eq!((row.actor.as_deref(), row.outcome.as_deref()), (Some("client:backend"), Some("refused")));
    assert_eq!(row.detail, told.detail.to_json());
    assert_eq!((row.position, row.erased), (None, false));
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
    let read: Vec<_> =
        on.store.audit_of(user, 100).await.unwrap().into_iter().filter_map(|row| row.request_id).collect();
    assert_eq!(read, written);
}

async fn a_row_of_a_newer_gateway_is_told_as_it_is(on: Fixture) {
    on.registered("ann@example.com").await;
    on.tamper(
        "INSERT INTO audit (at, event, address, request_id) SELECT created_at, 'of_tomorrow', 'a', 'r' FROM users",
    )
    .await;
    let rows = on.store.audit_rows(&AuditQuery::default(), 1).await.unwrap();
    assert_eq!((rows[0].event.as_str(), rows[0].outcome.as_deref()), ("of_tomorrow", None));
}

async fn each_part_of_a_query_narrows_and_pages_follow_each_other(on: Fixture) {
    let (user, session) = (user_id(), session_id());
    let mut told = Vec::new();
    for (number, event) in (0..).zip([AuditEvent::LoginFailed, AuditEvent::LoginSucceeded, AuditEvent::LoggedOut]) {
        for whose in [None, Some(user)] {
            let row =
                AuditEntry { user: whose, session: whose.map(|_| session), ..entry(event, NOW.plus(seconds(number))) };
            on.store.append_audit(&row).await.unwrap();
            told.push(row);
        }
    }
    let found = async |wanted: AuditQuery| {
        let rows = on.store.audit_rows(&wanted, 100).await.unwrap();
        rows.into_iter().map(|row| row.request_id.unwrap()).collect::<Vec<_>>()
    };
    let of = |rows: &[usize]| rows.iter().map(|row| told[*row].request_id.clone()).collect::<Vec<_>>();
    let all = AuditQuery::default;
    assert_eq!(found(all()).await, of(&[5, 4, 3, 2, 1, 0]), "the newest first");
    assert_eq!(found(AuditQuery { user: Some(user), ..all() }).await, of(&[5, 3, 1]));
    assert_eq!(found(AuditQuery { session: Some(session), ..all() }).await, of(&[5, 3, 1]));
    assert_eq!(found(AuditQuery { event: Some("logged_out".into()), ..all() }).await, of(&[5, 4]));
    assert_eq!(found(AuditQuery { outcome: Some(Outcome::Refused), ..all() }).await, of(&[1, 0]));
    assert_eq!(found(AuditQuery { request_id: Some(told[2].request_id.clone()), ..all() }).await, of(&[2]));
    assert_eq!(found(AuditQuery { since: Some(NOW.plus(seconds(1))), ..all() }).await, of(&[5, 4, 3, 2]));
    assert_eq!(found(AuditQuery { until: Some(NOW.plus(seconds(1))), ..all() }).await, of(&[1, 0]));
    assert_eq!(found(AuditQuery { user: Some(user), outcome: Some(Outcome::Refused), ..all() }).await, of(&[1]));

    let (mut wanted, mut read) = (all(), Vec::new());
    loop {
        let page = on.store.audit_rows(&wanted, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        wanted.before = Some(last.seq);
        read.extend(page.into_iter().filter_map(|row| row.request_id));
    }
    assert_eq!(read, of(&[5, 4, 3, 2, 1, 0]));
}

/// A row of this user that says as much as a row can.
pub(crate) async fn full_row(on: &Fixture, user: UserId) {
    let row = AuditEntry {
        actor: Actor::User(user),
        user: Some(user),
        session: Some(session_id()),
        detail: Detail::default().text(Particular::UserAgent, Some("planted-agent")),
        ..entry(AuditEvent::LoginSucceeded, NOW)
    };
    on.store.append_audit(&row).await.unwrap();
}

/// Subjects of other issuers have no row among the users to be known by.
async fn erasing_a_subject_of_another_issuer_takes_its_rows_and_nobody_elses(on: Fixture) {
    for subject in ["sso:ann", "sso:anna"] {
        let actor = Actor::Subject(subject.into());
        on.store.append_audit(&AuditEntry { actor, ..entry(AuditEvent::PermissionDenied, NOW) }).await.unwrap();
        let before = SubjectBefore { issuer: "https://idp.test".into(), subject: subject.into(), before: 1 };
        let told = AuditEntry { actor: Actor::Cli, ..entry(AuditEvent::TokenRevoked, NOW) };
        on.store.revoke(&Revocation::SubjectBefore(before), NOW.plus(seconds(9)), &told).await.unwrap();
    }
    let told = AuditEntry { actor: Actor::Cli, ..entry(AuditEvent::AuditErased, NOW) };
    assert_eq!(on.store.erase_audit_of_subject("sso:ann", &told).await.unwrap(), 2);
    assert_eq!(on.store.erase_audit_of_subject("sso:ann", &told).await.unwrap(), 0);
    let rows = on.store.audit_rows(&AuditQuery::default(), 10).await.unwrap();
    let said = format!("{rows:?}");
    assert_eq!((said.matches("sso:ann\"").count(), said.matches("sso:anna").count()), (0, 2), "{said}");
    assert_eq!(rows.iter().filter(|row| row.erased).count(), 2);
    assert_eq!(rows[0].detail.as_deref(), Some(r#"{"rows":2}"#));
}

async fn erasing_takes_a_persons_rows_and_nobody_elses_and_says_so(on: Fixture) {
    let (user, other) = (user_id(), user_id());
    for whose in [user, user, other] {
        full_row(&on, whose).await;
    }
    let told =
        AuditEntry { actor: Actor::Cli, user: Some(user), ..entry(AuditEvent::AuditErased, NOW.plus(seconds(1))) };
    assert_eq!(on.store.erase_audit_of(user, &told).await.unwrap(), 2);
    assert_eq!(on.store.erase_audit_of(user, &told).await.unwrap(), 0, "and no second row that says so");
    assert_eq!(on.store.audit_of(user, 10).await.unwrap(), []);
    assert_eq!(on.store.audit_of(other, 10).await.unwrap().len(), 1);
    let rows = on.store.audit_rows(&AuditQuery::default(), 10).await.unwrap();
    assert_eq!(rows.len(), 4);
    let erased: Vec<_> = rows.iter().filter(|row| row.erased).collect();
    assert_eq!(erased.len(), 2);
    for row in erased {
        assert_eq!((row.event.as_str(), row.outcome.as_deref(), row.at), ("login_succeeded", Some("succeeded"), NOW));
        assert_eq!((row.user, row.session), (None, None));
        assert_eq!((&row.actor, &row.address, &row.request_id, &row.detail), (&None, &None, &None, &None));
    }
    assert_eq!((rows[0].event.as_str(), rows[0].actor.as_deref(), rows[0].user), ("audit_erased", Some("cli"), None));
    assert_eq!(rows[0].detail.as_deref(), Some(r#"{"rows":2}"#));
}

async fn what_only_erases_a_part_is_refused(on: Fixture) {
    full_row(&on, user_id()).await;
    for sql in [
        "UPDATE audit SET address = '203.0.113.66'",
        "UPDATE audit SET address = NULL",
        "UPDATE audit SET event = 'logged_out'",
        "UPDATE audit SET outcome = NULL",
        "UPDATE audit SET seq = seq + 100",
        "UPDATE audit SET user_id = NULL, session_id = NULL, actor = NULL, address = NULL, request_id = NULL, detail = NULL",
        "UPDATE audit SET erased_at = at, address = NULL",
        "DELETE FROM audit",
    ] {
        let refused = on.tampered(sql).await.unwrap_err();
        assert!(
            refused.to_string().contains("audit rows are only appended") || refused.to_string().contains("seq"),
            "{sql}: {refused}"
        );
    }
    assert_eq!(on.store.audit_rows(&AuditQuery::default(), 10).await.unwrap()[0].address.as_deref(), Some("192.0.2.7"));
}
