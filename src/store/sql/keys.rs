//! Signing keys: rows whose private part is sealed before it comes here.

use super::{
    link::{Connection, Link},
    query::{Query, Row},
};
use crate::{
    policy::keys::Algorithm,
    store::{KeyState, StoreFault, StoredKey},
};

pub(super) async fn all(link: &mut Link) -> Result<Vec<StoredKey>, StoreFault> {
    let rows =
        Query::new("SELECT kid, algorithm, state, sealed_pkcs8, created_at FROM signing_keys ORDER BY created_at, kid")
            .rows(link)
            .await?;
    rows.iter().map(key_of).collect()
}

/// Adds the first current key of its algorithm. Who comes second waits for the lock, then finds the first one's key.
pub(super) async fn ensure(link: &mut Link, key: &StoredKey) -> Result<Vec<StoredKey>, StoreFault> {
    if matches!(link.connection, Connection::Postgres(..)) {
        // Two readers that find none would both insert; SQLite's transaction has locked the database already.
        Query::new("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE").execute(link).await?;
    }
    let present = all(link).await?;
    if present.iter().any(|one| one.algorithm == key.algorithm && one.state == KeyState::Current) {
        return Ok(present);
    }
    Query::new(
        "INSERT INTO signing_keys (kid, algorithm, state, sealed_pkcs8, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(key.kid.as_str())
    .bind(key.algorithm.name())
    .bind(state_word(key.state))
    .bind(key.sealed_pkcs8.as_slice())
    .bind(key.created_at)
    .execute(link)
    .await?;
    all(link).await
}

fn key_of(row: &Row) -> Result<StoredKey, StoreFault> {
    let kid = row.text("kid")?;
    let (algorithm, state) = (row.text("algorithm")?, row.text("state")?);
    let odd = |column: &str| StoreFault::Inconsistent(format!("signing key {kid} has an odd {column}"));
    Ok(StoredKey {
        algorithm: Algorithm::from_name(&algorithm).ok_or_else(|| odd("algorithm"))?,
        state: [KeyState::Next, KeyState::Current, KeyState::Previous]
            .into_iter()
            .find(|known| state_word(*known) == state)
            .ok_or_else(|| odd("state"))?,
        sealed_pkcs8: row.bytes("sealed_pkcs8")?,
        created_at: row.time("created_at")?,
        kid,
    })
}

const fn state_word(state: KeyState) -> &'static str {
    match state {
        KeyState::Next => "next",
        KeyState::Current => "current",
        KeyState::Previous => "previous",
    }
}
