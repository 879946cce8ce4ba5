//! Audit rows: what happened, written with its cause, never changed but by an erasure. How they are sealed is
//! `audit_chain`'s.

use super::{
    audit_chain,
    link::Link,
    outbox,
    query::{Query, Row},
};
use crate::{
    policy::ids::{SessionId, UserId},
    store::{
        AuditEntry, AuditEvent, StoreFault,
        audit::{Actor, AuditQuery, AuditRow, Detail, Outcome, Particular},
    },
};

pub(super) async fn append(link: &mut Link, entry: &AuditEntry) -> Result<(), sqlx::Error> {
    let (actor, detail) = (entry.actor.word(), entry.detail.to_json());
    Query::new(
        "INSERT INTO audit (at, event, outcome, user_id, session_id, actor, address, request_id, detail) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(entry.at)
    .bind(entry.event.as_str())
    .bind(entry.event.outcome().as_str())
    .bind(entry.user)
    .bind(entry.session)
    .bind(actor.as_deref())
    .bind(entry.address.as_str())
    .bind(entry.request_id.as_str())
    .bind(detail.as_deref())
    .execute(link)
    .await?;
    outbox::note(link, entry).await
}

macro_rules! select_rows {
    ($rest:literal) => {
        concat!(
            "SELECT seq, position, at, event, outcome, actor, user_id, session_id, address, request_id, detail, \
             erased_at FROM audit WHERE ",
            $rest
        )
    };
}

/// Oldest first.
pub(super) async fn of_user(link: &mut Link, user: UserId, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
    let query = Query::new(select_rows!("user_id = $1 ORDER BY at, seq LIMIT $2")).bind(user).bind(i64::from(limit));
    query.rows(link).await?.iter().map(row_of).collect()
}

/// Newest first.
pub(super) async fn query(link: &mut Link, wanted: &AuditQuery, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
    let rows = Query::new(select_rows!(
        "($1 IS NULL OR user_id = $1) AND ($2 IS NULL OR session_id = $2) AND ($3 IS NULL OR event = $3) \
         AND ($4 IS NULL OR outcome = $4) AND ($5 IS NULL OR request_id = $5) AND ($6 IS NULL OR at >= $6) \
         AND ($7 IS NULL OR at < $7) AND ($8 IS NULL OR seq < $8) ORDER BY seq DESC LIMIT $9"
    ))
    .bind(wanted.user)
    .bind(wanted.session)
    .bind(wanted.event.as_deref())
    .bind(wanted.outcome.map(Outcome::as_str))
    .bind(wanted.request_id.as_deref())
    .bind(wanted.since)
    .bind(wanted.until)
    .bind(wanted.before)
    .bind(i64::from(limit));
    rows.rows(link).await?.iter().map(row_of).collect()
}

fn row_of(row: &Row) -> Result<AuditRow, StoreFault> {
    Ok(AuditRow {
        seq: row.count("seq")?,
        position: row.maybe_count("position")?,
        at: row.time("at")?,
        event: row.text("event")?,
        outcome: row.maybe_text("outcome")?,
        actor: row.maybe_text("actor")?,
        user: row.maybe_id("user_id")?.map(UserId),
        session: row.maybe_id("session_id")?.map(SessionId),
        address: row.maybe_text("address")?,
        request_id: row.maybe_text("request_id")?,
        detail: row.maybe_text("detail")?,
        erased: row.maybe_time("erased_at")?.is_some(),
    })
}

/// Whose rows are erased.
pub(super) enum Whose<'a> {
    /// A user's.
    User(UserId),
    /// Another issuer's subject's, who has no row among the users.
    Subject(&'a str),
}

macro_rules! erase_rows {
    ($which:literal) => {
        concat!(
            "UPDATE audit SET erased_at = $1, user_id = NULL, session_id = NULL, actor = NULL, address = NULL, \
             request_id = NULL, detail = NULL, salt = NULL WHERE ",
            $which
        )
    };
}

/// Forgets who, from where and what exactly; the row that says so names nobody.
pub(super) async fn erase(link: &mut Link, whose: &Whose<'_>, entry: &AuditEntry) -> Result<u64, StoreFault> {
    // Not between the moment a row is read for its digest and the moment that is written.
    audit_chain::while_nobody_seals(link).await?;
    let erased = match whose {
        Whose::User(user) => {
            Query::new("DELETE FROM webhook_outbox WHERE user_id = $1").bind(*user).execute(link).await?;
            Query::new(erase_rows!("user_id = $2")).bind(entry.at).bind(*user).execute(link).await?
        }
        Whose::Subject(subject) => {
            let actor = Actor::Subject((*subject).to_owned()).word();
            let detail = Detail::default().text(Particular::Subject, Some(subject)).to_json();
            Query::new(erase_rows!("actor = $2 OR (event = $3 AND detail = $4)"))
                .bind(entry.at)
                .bind(actor.as_deref())
                .bind(AuditEvent::TokenRevoked.as_str())
                .bind(detail.as_deref())
                .execute(link)
                .await?
        }
    };
    if erased > 0 {
        let rows = usize::try_from(erased).unwrap_or(usize::MAX);
        let detail = Detail::default().count(Particular::Rows, rows);
        append(
            link,
            &AuditEntry { event: AuditEvent::AuditErased, user: None, session: None, detail, ..entry.clone() },
        )
        .await?;
    }
    Ok(erased)
}

/// Rows that are not sealed yet, by their numbers.
pub(super) async fn unsealed(link: &mut Link, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
    let query = Query::new(select_rows!("position IS NULL AND seq > $1 ORDER BY seq LIMIT $2"));
    query.bind(after).bind(i64::from(limit)).rows(link).await?.iter().map(row_of).collect()
}
