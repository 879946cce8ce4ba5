//! Sessions: opened at login, rotated by refresh, ended once.

use super::{
    accounts, audit,
    link::Link,
    query::{Query, Row},
};
use crate::{
    clock::Timestamp,
    policy::{
        ids::{SessionId, UserId},
        refresh::{Delivery, RefreshRules, RefreshVerdict, SessionFacts, decide},
    },
    store::{AuditEntry, AuditEvent, NewSession, RefreshOutcome, Session, StoreFault},
};

macro_rules! select_session {
    ($lock:literal) => {
        concat!(
            "SELECT id, user_id, salt, delivery, methods, counter, seen_generation, created_at, rotated_at, ended_at \
             FROM sessions WHERE id = $1",
            $lock
        )
    };
}

macro_rules! live_of_owner {
    ($lock:literal) => {
        concat!(
            "SELECT id FROM sessions WHERE user_id = (SELECT user_id FROM sessions WHERE id = $1) \
             AND ended_at IS NULL ORDER BY id",
            $lock
        )
    };
}
fn session_of(row: &Row) -> Result<Session, StoreFault> {
    let id = SessionId(row.id("id")?);
    let odd = |column: &str| StoreFault::Inconsistent(format!("session {id} has an odd {column}"));
    Ok(Session {
        id,
        user: UserId(row.id("user_id")?),
        salt: row.bytes("salt")?.try_into().map_err(|_| odd("salt"))?,
        delivery: match row.text("delivery")?.as_str() {
            "body" => Delivery::Body,
            "cookie" => Delivery::Cookie,
            _ => return Err(odd("delivery")),
        },
        methods: row.words("methods")?,
        counter: row.count("counter")?,
        seen_generation: row.count("seen_generation")?,
        created_at: row.time("created_at")?,
        rotated_at: row.time("rotated_at")?,
        ended_at: row.maybe_time("ended_at")?,
    })
}

pub(super) async fn insert(link: &mut Link, session: &NewSession) -> Result<(), sqlx::Error> {
    Query::new(
        "INSERT INTO sessions (id, user_id, salt, delivery, methods, counter, seen_generation, user_agent, address, \
         created_at, rotated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
    )
    .bind(session.id)
    .bind(session.user)
    .bind(session.salt.as_slice())
    .bind(match session.delivery {
        Delivery::Body => "body",
        Delivery::Cookie => "cookie",
    })
    .bind(session.methods.as_slice())
    .bind(1_i64)
    .bind(0_i64)
    .bind(session.user_agent.as_deref())
    .bind(session.address.as_str())
    .bind(session.created_at)
    .execute(link)
    .await
    .map(drop)
}

/// Whether its user has had sessions, but none with this user agent.
pub(super) async fn is_new_device(link: &mut Link, session: &NewSession) -> Result<bool, StoreFault> {
    let row = Query::new(
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE user_id = $1) AS has_any, \
         EXISTS (SELECT 1 FROM sessions WHERE user_id = $1 AND user_agent IS NOT DISTINCT FROM $2) AS has_this",
    );
    let row = row.bind(session.user).bind(session.user_agent.as_deref()).row(link).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    Ok(row.yes("has_any")? && !row.yes("has_this")?)
}

pub(super) async fn by_id(link: &mut Link, id: SessionId) -> Result<Option<Session>, StoreFault> {
    let row = Query::new(select_session!("")).bind(id).row(link).await?;
    row.as_ref().map(session_of).transpose()
}

/// A session that nobody else can change before this transaction ends. SQLite's transaction is the lock.
async fn locked(link: &mut Link, id: SessionId) -> Result<Option<Session>, StoreFault> {
    let row = Query::new(select_session!("")).on_postgres(select_session!(" FOR UPDATE")).bind(id).row(link).await?;
    row.as_ref().map(session_of).transpose()
}

/// One refresh step; `entry.at` is now.
pub(super) async fn refresh(
    link: &mut Link,
    id: SessionId,
    presented: u64,
    rules: &RefreshRules,
    entry: &AuditEntry,
) -> Result<RefreshOutcome, StoreFault> {
    let Some(mut session) = locked(link, id).await? else { return Ok(RefreshOutcome::Refused) };
    let account = accounts::by_id(link, session.user)
        .await?
        .ok_or_else(|| StoreFault::Inconsistent(format!("session {id} belongs to nobody")))?;
    let facts = SessionFacts {
        counter: session.counter,
        seen_generation: session.seen_generation,
        created_at: session.created_at,
        rotated_at: session.rotated_at,
        ended: session.ended_at.is_some(),
        active: account.active,
    };
    let verdict = decide(&facts, presented, rules, entry.at);
    let event = match verdict {
        RefreshVerdict::Rotate | RefreshVerdict::Repeat => AuditEvent::Refreshed,
        RefreshVerdict::Reuse => AuditEvent::RefreshReuseDetected,
        RefreshVerdict::Ahead => AuditEvent::RefreshAhead,
        RefreshVerdict::Expired | RefreshVerdict::Ended | RefreshVerdict::Inactive => {
            return Ok(RefreshOutcome::Refused);
        }
    };
    if verdict == RefreshVerdict::Rotate {
        rotate(link, &mut session, entry.at).await?;
    }
    if verdict == RefreshVerdict::Reuse {
        end(link, END_ONE, id, entry.at).await?;
    }
    // The row says whose session it was, whatever the caller knew.
    let noted = AuditEntry { event, user: Some(session.user), session: Some(id), ..entry.clone() };
    audit::append(link, &noted).await?;
    Ok(match verdict {
        RefreshVerdict::Reuse => RefreshOutcome::Reused { user: session.user },
        RefreshVerdict::Ahead => RefreshOutcome::Refused,
        _ => {
            let repeated = verdict == RefreshVerdict::Repeat;
            RefreshOutcome::Granted { session, account: Box::new(account), repeated }
        }
    })
}

async fn rotate(link: &mut Link, session: &mut Session, now: Timestamp) -> Result<(), sqlx::Error> {
    session.counter += 1;
    session.rotated_at = now;
    Query::new("UPDATE sessions SET counter = $2, rotated_at = $3 WHERE id = $1")
        .bind(session.id)
        .bind(session.counter)
        .bind(now)
        .execute(link)
        .await
        .map(drop)
}

pub(super) async fn note_generation_seen(link: &mut Link, id: SessionId, generation: u64) -> Result<(), StoreFault> {
    Query::new("UPDATE sessions SET seen_generation = $2 WHERE id = $1 AND seen_generation < $2")
        .bind(id)
        .bind(generation)
        .execute(link)
        .await?;
    Ok(())
}

pub(super) async fn end_sessions(
    link: &mut Link,
    id: SessionId,
    all: bool,
    entry: &AuditEntry,
) -> Result<Vec<SessionId>, StoreFault> {
    if all {
        // Locked in the order of ids, so that two callers ending the same sessions wait for each other and do not
        // deadlock.
        Query::new(live_of_owner!("")).on_postgres(live_of_owner!(" FOR UPDATE")).bind(id).rows(link).await?;
    }
    let ended = end(link, if all { END_ALL } else { END_ONE }, id, entry.at).await?;
    if !ended.is_empty() {
        audit::append(link, entry).await?;
    }
    Ok(ended)
}

const END_ONE: &str = "UPDATE sessions SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL RETURNING id";
const END_ALL: &str = "UPDATE sessions SET ended_at = $2 \
                       WHERE user_id = (SELECT user_id FROM sessions WHERE id = $1) AND ended_at IS NULL RETURNING id";

/// Ends what is still live; gives the ids that were.
async fn end(link: &mut Link, sql: &'static str, id: SessionId, at: Timestamp) -> Result<Vec<SessionId>, StoreFault> {
    let rows = Query::new(sql).bind(id).bind(at).rows(link).await?;
    rows.iter().map(|row| Ok(SessionId(row.id("id")?))).collect()
}

pub(super) async fn ended_since(
    link: &mut Link,
    since: Timestamp,
    after: SessionId,
    most: u32,
) -> Result<Vec<(SessionId, Timestamp)>, StoreFault> {
    // The first comparison is what the index is looked up by.
    let rows = Query::new(
        "SELECT id, ended_at FROM sessions WHERE ended_at >= $1 AND (ended_at > $1 OR id > $2) \
         ORDER BY ended_at, id LIMIT $3",
    )
    .bind(since)
    .bind(after)
    .bind(i64::from(most))
    .rows(link)
    .await?;
    rows.iter().map(|row| Ok((SessionId(row.id("id")?), row.time("ended_at")?))).collect()
}
