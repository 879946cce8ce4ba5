//! Audit rows: what happened, written with its cause, never changed.

use super::{
    link::Link,
    query::{Query, Row},
};
use crate::{
    policy::ids::{SessionId, UserId},
    store::{AuditEntry, AuditEvent, StoreFault},
};

pub(super) async fn append(link: &mut Link, entry: &AuditEntry) -> Result<(), sqlx::Error> {
    Query::new(
        "INSERT INTO audit (at, event, user_id, session_id, address, request_id) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(entry.at)
    .bind(entry.event.as_str())
    .bind(entry.user)
    .bind(entry.session)
    .bind(entry.address.as_str())
    .bind(entry.request_id.as_str())
    .execute(link)
    .await
    .map(drop)
}

pub(super) async fn of_user(link: &mut Link, user: UserId, limit: u32) -> Result<Vec<AuditEntry>, StoreFault> {
    let rows = Query::new(
        "SELECT at, event, user_id, session_id, address, request_id FROM audit WHERE user_id = $1 \
         ORDER BY at, seq LIMIT $2",
    )
    .bind(user)
    .bind(i64::from(limit))
    .rows(link)
    .await?;
    rows.iter().map(entry_of).collect()
}

fn entry_of(row: &Row) -> Result<AuditEntry, StoreFault> {
    let word = row.text("event")?;
    let event = AuditEvent::ALL.iter().copied().find(|event| event.as_str() == word);
    Ok(AuditEntry {
        at: row.time("at")?,
        event: event.ok_or_else(|| StoreFault::Inconsistent("an audit row has an unknown event".into()))?,
        user: row.maybe_id("user_id")?.map(UserId),
        session: row.maybe_id("session_id")?.map(SessionId),
        address: row.text("address")?,
        request_id: row.text("request_id")?,
    })
}
