//! API keys: made within a bound, removed when revoked. Nothing of a secret is here but its keyed hash.

use async_trait::async_trait;

use super::{
    SqlStore, accounts, audit,
    link::Link,
    query::{Query, Row},
    read, write,
};
use crate::{
    clock::Timestamp,
    policy::ids::{ApiKeyId, UserId},
    store::{
        AuditEntry, NOTED_EVERY, StoreFault,
        api_keys::{ApiKey, ApiKeyMade, ApiKeys, KnownApiKey, NewApiKey},
        audit::Particular,
        feed::News,
    },
};

#[async_trait]
impl ApiKeys for SqlStore {
    async fn create_api_key(&self, new: &NewApiKey, most: u32, audit: &AuditEntry) -> Result<ApiKeyMade, StoreFault> {
        write!(self, link => create(&mut link, new, most, audit))
    }

    async fn api_keys_of(&self, owner: UserId, most: u32) -> Result<Vec<ApiKey>, StoreFault> {
        read!(self, link => of_user(&mut link, owner, most))
    }

    async fn revoke_api_key(&self, owner: UserId, id: ApiKeyId, audit: &AuditEntry) -> Result<bool, StoreFault> {
        write!(self, link => revoke(&mut link, owner, id, audit))
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<KnownApiKey>, StoreFault> {
        read!(self, link => by_id(&mut link, id))
    }

    async fn note_api_key_uses(&self, uses: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreFault> {
        write!(self, link => note_uses(&mut link, uses))
    }
}

macro_rules! select_keys {
    ($which:literal) => {
        concat!(
            "SELECT id, user_id, name, hash, all_roles, roles, scopes, created_at, expires_at, last_used_at \
             FROM api_keys WHERE ",
            $which
        )
    };
}

fn key_of(row: &Row) -> Result<ApiKey, StoreFault> {
    Ok(ApiKey {
        id: ApiKeyId(row.id("id")?),
        owner: UserId(row.id("user_id")?),
        name: row.text("name")?,
        roles: if row.yes("all_roles")? { None } else { Some(row.words("roles")?) },
        scopes: row.words("scopes")?,
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        last_used_at: row.maybe_time("last_used_at")?,
    })
}

/// Holds the owner's row first, so that of several keys made at once each counts those before it, and a deactivation
/// comes before or after them.
async fn create(link: &mut Link, new: &NewApiKey, most: u32, entry: &AuditEntry) -> Result<ApiKeyMade, StoreFault> {
    let NewApiKey { key, hash } = new;
    let held = Query::new("UPDATE users SET active = active WHERE id = $1 AND active").bind(key.owner);
    if held.execute(link).await? == 0 {
        return Ok(ApiKeyMade::NoOwner);
    }
    let count =
        Query::new("SELECT count(*) AS held FROM api_keys WHERE user_id = $1").bind(key.owner).row(link).await?;
    if count.ok_or(sqlx::Error::RowNotFound)?.count("held")? >= u64::from(most) {
        return Ok(ApiKeyMade::TooMany);
    }
    Query::new(
        "INSERT INTO api_keys (id, user_id, name, hash, all_roles, roles, scopes, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(key.id)
    .bind(key.owner)
    .bind(key.name.as_str())
    .bind(hash.as_slice())
    .bind(key.roles.is_none())
    .bind(key.roles.as_deref().unwrap_or_default())
    .bind(key.scopes.as_slice())
    .bind(key.created_at)
    .bind(key.expires_at)
    .execute(link)
    .await?;
    audit::append(link, &about(key.id, entry)).await?;
    Ok(ApiKeyMade::Made)
}

async fn of_user(link: &mut Link, owner: UserId, most: u32) -> Result<Vec<ApiKey>, StoreFault> {
    let query = Query::new(select_keys!("user_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2"));
    query.bind(owner).bind(i64::from(most)).rows(link).await?.iter().map(key_of).collect()
}

async fn revoke(link: &mut Link, owner: UserId, id: ApiKeyId, entry: &AuditEntry) -> Result<bool, StoreFault> {
    let removed = Query::new("DELETE FROM api_keys WHERE id = $1 AND user_id = $2").bind(id).bind(owner);
    if removed.execute(link).await? == 0 {
        return Ok(false);
    }
    audit::append(link, &about(id, entry)).await?;
    link.tell(entry.at, None, News::ApiKey(id));
    Ok(true)
}

async fn by_id(link: &mut Link, id: ApiKeyId) -> Result<Option<KnownApiKey>, StoreFault> {
    let Some(row) = Query::new(select_keys!("id = $1")).bind(id).row(link).await? else { return Ok(None) };
    let key = key_of(&row)?;
    let odd = |_| StoreFault::Inconsistent(format!("API key {id} has an odd hash"));
    let hash = row.bytes("hash")?.try_into().map_err(odd)?;
    // A user who is gone in between took the key along.
    let owner = accounts::by_id(link, key.owner).await?;
    Ok(owner.map(|owner| KnownApiKey { key, hash, owner }))
}

/// In the order of ids, so that several who note wait for each other and do not deadlock.
async fn note_uses(link: &mut Link, uses: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreFault> {
    let mut uses = uses.to_vec();
    uses.sort_unstable();
    for (id, at) in uses {
        Query::new(
            "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3)",
        )
        .bind(id)
        .bind(at)
        .bind(at.minus(NOTED_EVERY))
        .execute(link)
        .await?;
    }
    Ok(())
}

fn about(id: ApiKeyId, entry: &AuditEntry) -> AuditEntry {
    let detail = entry.detail.clone().text(Particular::ApiKey, Some(&id.to_string()));
    AuditEntry { detail, ..entry.clone() }
}
