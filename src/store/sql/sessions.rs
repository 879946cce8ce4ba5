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
        refresh::{Delivery, RefreshRules, RefreshVerdict, decide},
    },
    store::{
        AuditEntry, AuditEvent, NOTED_EVERY, NewSession, RefreshOutcome, Session, SessionLimit, StoreFault, Use,
        feed::News,
    },
};

macro_rules! select_sessions {
    ($which:literal) => {
        concat!(
            "SELECT id, user_id, salt, delivery, methods, user_agent, address, counter, seen_generation, created_at, \
             rotated_at, repeated_at, last_seen_at, ended_at FROM sessions WHERE ",
            $which
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
    let rotated_at = row.time("rotated_at")?;
    // A gateway of an older version rotates without touching the other two.
    let or_rotated = |at: Option<Timestamp>| at.map_or(rotated_at, |at| at.max(rotated_at));
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
        user_agent: row.maybe_text("user_agent")?,
        address: row.text("address")?,
        counter: row.count("counter")?,
        seen_generation: row.count("seen_generation")?,
        created_at: row.time("created_at")?,
        rotated_at,
        handed_out_at: or_rotated(row.maybe_time("repeated_at")?),
        last_seen_at: or_rotated(row.maybe_time("last_seen_at")?),
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
    let row = Query::new(select_sessions!("id = $1")).bind(id).row(link).await?;
    row.as_ref().map(session_of).transpose()
}

/// A session that nobody else can change before this transaction ends. SQLite's transaction is the lock.
async fn locked(link: &mut Link, id: SessionId) -> Result<Option<Session>, StoreFault> {
    let query = Query::new(select_sessions!("id = $1")).on_postgres(select_sessions!("id = $1 FOR UPDATE"));
    let row = query.bind(id).row(link).await?;
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
    let facts = session.facts(account.active);
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
    if verdict == RefreshVerdict::Repeat && session.seen_generation < session.counter {
        hand_out_again(link, &mut session, entry.at).await?;
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
            RefreshOutcome::Granted { session: Box::new(session), account: Box::new(account), repeated }
        }
    })
}

async fn rotate(link: &mut Link, session: &mut Session, now: Timestamp) -> Result<(), sqlx::Error> {
    session.counter += 1;
    session.rotated_at = now;
    session.handed_out_at = now;
    session.last_seen_at = session.last_seen_at.max(now);
    Query::new("UPDATE sessions SET counter = $2, rotated_at = $3, repeated_at = NULL WHERE id = $1")
        .bind(session.id)
        .bind(session.counter)
        .bind(now)
        .execute(link)
        .await
        .map(drop)
}

/// A repeat while nobody had used what it gives begins the grace anew: what else was sent with the token before, a copy
/// of this very request or another tab's, may still be under way.
async fn hand_out_again(link: &mut Link, session: &mut Session, now: Timestamp) -> Result<(), sqlx::Error> {
    session.handed_out_at = session.handed_out_at.max(now);
    Query::new("UPDATE sessions SET repeated_at = $2 WHERE id = $1")
        .bind(session.id)
        .bind(session.handed_out_at)
        .execute(link)
        .await
        .map(drop)
}

/// In the order of ids, so that two who note and one who ends all wait for each other and do not deadlock.
pub(super) async fn note_uses(link: &mut Link, uses: &[Use], now: Timestamp) -> Result<(), StoreFault> {
    let mut uses = uses.to_vec();
    uses.sort_unstable_by_key(|one| one.session);
    for one in uses {
        Query::new(
            "UPDATE sessions SET seen_generation = CASE WHEN seen_generation < $2 THEN $2 ELSE seen_generation END, \
             last_seen_at = CASE WHEN last_seen_at > $3 THEN last_seen_at ELSE $3 END \
             WHERE id = $1 AND (seen_generation < $2 OR COALESCE(last_seen_at, rotated_at) <= $4)",
        )
        .bind(one.session)
        .bind(one.generation)
        .bind(now)
        .bind(now.minus(NOTED_EVERY))
        .execute(link)
        .await?;
    }
    Ok(())
}

pub(super) async fn live_of(
    link: &mut Link,
    user: UserId,
    rules: &RefreshRules,
    now: Timestamp,
    most: u32,
) -> Result<Vec<Session>, StoreFault> {
    let rows = Query::new(select_sessions!(
        "user_id = $1 AND ended_at IS NULL AND rotated_at > $2 AND created_at > $3 \
         ORDER BY created_at DESC, id DESC LIMIT $4"
    ))
    .bind(user)
    .bind(now.minus(rules.idle))
    .bind(now.minus(rules.absolute))
    .bind(i64::from(most))
    .rows(link)
    .await?;
    rows.iter().map(session_of).collect()
}

/// Most sessions that one login ends.
const MOST_ENDED: i64 = 1_000;

/// Ends the oldest live sessions of the user's, so that with this new one there are no more than the limit. The caller
/// holds the user's row.
pub(super) async fn end_oldest(
    link: &mut Link,
    session: &NewSession,
    limit: &SessionLimit,
    entry: &AuditEntry,
) -> Result<Vec<SessionId>, StoreFault> {
    let Some(most) = limit.most else { return Ok(Vec::new()) };
    // Never the new one, whatever the clocks of other gateways say.
    let rows = Query::new(
        "SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND rotated_at > $2 AND created_at > $3 \
         AND id <> $4 ORDER BY created_at DESC, id DESC LIMIT $5 OFFSET $6",
    )
    .bind(session.user)
    .bind(entry.at.minus(limit.rules.idle))
    .bind(entry.at.minus(limit.rules.absolute))
    .bind(session.id)
    .bind(MOST_ENDED)
    .bind(i64::from(most.get()) - 1)
    .rows(link)
    .await?;
    let mut oldest = rows.iter().map(|row| Ok(SessionId(row.id("id")?))).collect::<Result<Vec<_>, StoreFault>>()?;
    oldest.sort_unstable();
    let mut ended = Vec::with_capacity(oldest.len());
    for id in oldest {
        ended.extend(end(link, END_ONE, id, entry.at).await?);
    }
    told(link, &ended, &AuditEntry { event: AuditEvent::SessionLimit, ..entry.clone() }).await?;
    Ok(ended)
}

/// An audit row for each session that has ended.
async fn told(link: &mut Link, ended: &[SessionId], entry: &AuditEntry) -> Result<(), sqlx::Error> {
    for id in ended {
        audit::append(link, &AuditEntry { session: Some(*id), ..entry.clone() }).await?;
    }
    Ok(())
}

pub(super) async fn end_sessions(
    link: &mut Link,
    id: SessionId,
    all: bool,
    entry: &AuditEntry,
) -> Result<Vec<SessionId>, StoreFault> {
    if all {
        lock_all(link, id).await?;
    }
    let ended = end(link, if all { END_ALL } else { END_ONE }, id, entry.at).await?;
    told(link, &ended, entry).await?;
    Ok(ended)
}

pub(super) async fn end_other_sessions(
    link: &mut Link,
    id: SessionId,
    entry: &AuditEntry,
) -> Result<Vec<SessionId>, StoreFault> {
    lock_all(link, id).await?;
    let ended = end(link, END_OTHERS, id, entry.at).await?;
    told(link, &ended, entry).await?;
    Ok(ended)
}

/// Locks the live sessions of a session's user, in the order of ids, so that two callers ending the same ones wait for
/// each other and do not deadlock.
async fn lock_all(link: &mut Link, id: SessionId) -> Result<(), sqlx::Error> {
    let locking = Query::new(live_of_owner!("")).on_postgres(live_of_owner!(" FOR UPDATE"));
    locking.bind(id).rows(link).await.map(drop)
}

const END_ONE: &str = "UPDATE sessions SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL RETURNING id";
const END_ALL: &str = "UPDATE sessions SET ended_at = $2 \
                       WHERE user_id = (SELECT user_id FROM sessions WHERE id = $1) AND ended_at IS NULL RETURNING id";
const END_OTHERS: &str = "UPDATE sessions SET ended_at = $2 WHERE id <> $1 \
                          AND user_id = (SELECT user_id FROM sessions WHERE id = $1) AND ended_at IS NULL RETURNING id";

/// Ends what is still live and tells every gateway; gives the ids that were.
async fn end(link: &mut Link, sql: &'static str, id: SessionId, at: Timestamp) -> Result<Vec<SessionId>, StoreFault> {
    let rows = Query::new(sql).bind(id).bind(at).rows(link).await?;
    let ended: Vec<_> = rows.iter().map(|row| Ok(SessionId(row.id("id")?))).collect::<Result<_, StoreFault>>()?;
    for session in &ended {
        link.tell(at, None, News::Session(*session));
    }
    Ok(ended)
}
