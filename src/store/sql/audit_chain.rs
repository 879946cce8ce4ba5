//! Sealing: rows that were committed get their place in the chain, a batch at a time, by one gateway at a time.
//!
//! Numbers (`seq`) are given when a row is written and may become visible in another order; places are given here, so
//! a row that was committed late only comes later in the chain. The leader is whoever holds the lock for the length of
//! one transaction.

use super::{
    link::{Connection, Link},
    query::{Query, Row},
};
use crate::{
    policy::audit_chain::{ChainRow, Fixed, GENESIS, Hash, Payload, SALT_LEN, Seal, head},
    store::{
        StoreFault,
        audit::{Sealed, Sealing},
    },
};

/// The advisory lock of whoever seals: "portaudi".
const LOCK: i64 = 0x706f_7274_6175_6469;

macro_rules! select_chain {
    ($rest:literal) => {
        concat!(
            "SELECT seq, position, at, event, outcome, actor, user_id, session_id, address, request_id, detail, \
             erased_at, salt, digest, head FROM audit WHERE ",
            $rest
        )
    };
}

pub(super) async fn seal(link: &mut Link, sealing: &Sealing<'_>) -> Result<Sealed, StoreFault> {
    if !is_leader(link).await? {
        return Ok(Sealed::Elsewhere);
    }
    let (last, mut before) = match last_seal(link).await? {
        None => (0, GENESIS),
        Some(seal) => (seal.last, hash(&seal.head)?),
    };
    let rows = Query::new(select_chain!("position IS NULL ORDER BY seq LIMIT $1")).bind(i64::from(sealing.most));
    let rows = rows.rows(link).await?;
    let mut position = last;
    for row in &rows {
        position += 1;
        let (fixed, payload) = parts(row)?;
        let mut salt = [0; SALT_LEN];
        sealing.entropy.fill(&mut salt);
        let digest = payload.digest(&salt);
        before = head(&before, position, &fixed, &digest);
        Query::new("UPDATE audit SET position = $2, salt = $3, digest = $4, head = $5 WHERE seq = $1")
            .bind(fixed.seq)
            .bind(position)
            .bind(salt.as_slice())
            .bind(digest.as_slice())
            .bind(before.as_slice())
            .execute(link)
            .await?;
    }
    if position > last {
        insert(link, &sealing.key.seal(last + 1, position, sealing.at, &before)).await?;
    }
    Ok(Sealed::Here { rows: position - last, last: position })
}

/// SQLite's transaction is the lock.
async fn is_leader(link: &mut Link) -> Result<bool, StoreFault> {
    if matches!(link.connection, Connection::Sqlite(_)) {
        return Ok(true);
    }
    let row = Query::new("SELECT pg_try_advisory_xact_lock($1) AS mine").bind(LOCK).row(link).await?;
    Ok(row.ok_or(sqlx::Error::RowNotFound)?.yes("mine")?)
}

/// Waits for whoever seals, and keeps others from it until this transaction ends.
pub(super) async fn while_nobody_seals(link: &mut Link) -> Result<(), StoreFault> {
    if matches!(link.connection, Connection::Postgres(..)) {
        Query::new("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(link).await?;
    }
    Ok(())
}

async fn insert(link: &mut Link, seal: &Seal) -> Result<(), StoreFault> {
    Query::new(
        "INSERT INTO audit_seals (first_position, last_position, at, head, kid, signature) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(seal.first)
    .bind(seal.last)
    .bind(seal.at)
    .bind(seal.head.as_slice())
    .bind(seal.kid.as_str())
    .bind(seal.signature.as_slice())
    .execute(link)
    .await?;
    Ok(())
}

pub(super) async fn last_seal(link: &mut Link) -> Result<Option<Seal>, StoreFault> {
    let query = "SELECT first_position, last_position, at, head, kid, signature FROM audit_seals \
                 ORDER BY last_position DESC LIMIT 1";
    Query::new(query).row(link).await?.as_ref().map(seal_of).transpose()
}

/// Seals after a position, in their order.
pub(super) async fn seals(link: &mut Link, after: u64, limit: u32) -> Result<Vec<Seal>, StoreFault> {
    let query = "SELECT first_position, last_position, at, head, kid, signature FROM audit_seals \
                 WHERE last_position > $1 ORDER BY last_position LIMIT $2";
    Query::new(query).bind(after).bind(i64::from(limit)).rows(link).await?.iter().map(seal_of).collect()
}

/// Rows of the chain after a position, in its order.
pub(super) async fn rows(link: &mut Link, after: u64, limit: u32) -> Result<Vec<ChainRow>, StoreFault> {
    let query = Query::new(select_chain!("position > $1 ORDER BY position LIMIT $2"));
    query.bind(after).bind(i64::from(limit)).rows(link).await?.iter().map(chain_row).collect()
}

fn chain_row(row: &Row) -> Result<ChainRow, StoreFault> {
    let (fixed, payload) = parts(row)?;
    Ok(ChainRow {
        position: row.count("position")?,
        fixed,
        payload,
        salt: row.maybe_bytes("salt")?,
        digest: row.bytes("digest")?,
        head: row.bytes("head")?,
        erased: row.maybe_time("erased_at")?.is_some(),
    })
}

fn parts(row: &Row) -> Result<(Fixed, Payload), StoreFault> {
    let fixed = Fixed {
        seq: row.count("seq")?,
        at: row.time("at")?,
        event: row.text("event")?,
        outcome: row.maybe_text("outcome")?,
    };
    let payload = Payload {
        user: row.maybe_id("user_id")?.map(|id| id.as_bytes().to_vec()),
        session: row.maybe_id("session_id")?.map(|id| id.as_bytes().to_vec()),
        actor: row.maybe_text("actor")?,
        address: row.maybe_text("address")?,
        request_id: row.maybe_text("request_id")?,
        detail: row.maybe_text("detail")?,
    };
    Ok((fixed, payload))
}

fn seal_of(row: &Row) -> Result<Seal, StoreFault> {
    Ok(Seal {
        first: row.count("first_position")?,
        last: row.count("last_position")?,
        at: row.time("at")?,
        head: row.bytes("head")?,
        kid: row.text("kid")?,
        signature: row.bytes("signature")?,
    })
}

fn hash(bytes: &[u8]) -> Result<Hash, StoreFault> {
    bytes.try_into().map_err(|_| StoreFault::Inconsistent("a seal's head is not a SHA-256".into()))
}
